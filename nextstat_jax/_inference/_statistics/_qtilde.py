"""qtilde: for upper limits on a signal that cannot be negative."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from ..._base._numerics import safe_sqrt
from ._base import Statistic


class QTilde(Statistic):
    """As q, with mu-hat held at 0 or above.

    References:
        arXiv:1007.1727, equations 16 and 59 to 66.
    """

    name = "qtilde"
    bounded = True

    def distance(self, q: Array, q_asimov: Array) -> Array:
        """That of q, but where q exceeds q_A."""
        beyond = (q > q_asimov) & (q_asimov > 0)
        root = jnp.where(q_asimov > 0, safe_sqrt(q_asimov), 1.0)
        return jnp.where(beyond, (q - q_asimov) / (2.0 * root), super().distance(q, q_asimov))
