"""Where a minimization may go: bounds, what is held, kinks and poles."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

# A step goes no further towards a pole than to this part of the distance.
_TOWARDS_POLE = 0.1


class Box(NamedTuple):
    """Bounds, frozen parameters, and those in which the objective has a kink at 0, or grows without bound towards it.

    Each of shape (n,). The last three are boolean; the last two are None where no parameter has one.
    """

    lower: Array
    upper: Array
    frozen: Array
    kinks: Any = None
    poles: Any = None

    def around(self, y: Array, gradient: Array) -> Box:
        """The box of a step from here: it ends at kinks and before poles, and what rests on a kink is frozen."""
        box = self
        if box.poles is not None:
            # From next to a pole Newton's steps double the distance, and no more.
            box = box._replace(lower=jnp.where(box.poles, jnp.maximum(box.lower, _TOWARDS_POLE * y), box.lower))
        if box.kinks is None:
            return box
        on = box.kinks & (y == 0)
        right = box.kinks & ((y > 0) | (on & (gradient < 0)))
        left = box.kinks & ((y < 0) | (on & (gradient > 0)))
        lower, upper = jnp.where(right, jnp.maximum(box.lower, 0.0), box.lower), jnp.where(left, 0.0, box.upper)
        return Box(lower, jnp.minimum(upper, box.upper), box.frozen | (on & (gradient == 0)))


def active(box: Box, y: Array, gradient: Array) -> Array:
    """Parameters that cannot move: frozen, or on a bound with the objective falling beyond it."""
    return box.frozen | ((y <= box.lower) & (gradient >= 0)) | ((y >= box.upper) & (gradient <= 0))
