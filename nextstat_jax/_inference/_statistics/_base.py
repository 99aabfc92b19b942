"""What a test statistic is: which best fits count against a hypothesis, and how it is distributed.

Notation of arXiv:1007.1727. ``q`` is the statistic of the data and ``q_A`` that of the Asimov data set.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, ndtr, ndtri

from ..._base._numerics import safe_sqrt


class Statistic:
    """A test statistic built on the profile likelihood ratio; subclass it in one file and enter an instance.

    Attributes:
        name: What options call it.
        zero_above: Whether it is 0 where the best fit lies above the tested value, as for upper limits.
        zero_below: Whether it is 0 where it lies below, as for discovery. With neither it is two-sided.
        bounded: Whether the parameter of interest is held at 0 or above.
        tested: The only value that it tests, or None for any.
        alternative: The hypothesis that it is tested against: the Asimov data set is made from it.
        sets_limits: Whether upper limits may be set with it.
        reports: What a test reports: ``"cls"`` or ``"clsb"``.
    """

    name: ClassVar[str]
    zero_above: ClassVar[bool] = True
    zero_below: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    tested: ClassVar[float | None] = None
    alternative: ClassVar[float] = 0.0
    sets_limits: ClassVar[bool] = True
    reports: ClassVar[str] = "cls"

    def of(self, gap: Array, best: Array, tested: Array) -> Array:
        """The statistic from ``gap = NLL(conditional) - NLL(unconditional)`` and the best fit."""
        return one_sided(gap, best, tested, self.zero_above, self.zero_below)

    def distance(self, q: Array, q_asimov: Array) -> Array:
        """How far the data lie from the alternative towards rejection: normal with mean 0 under it, -sqrt(q_A) else."""
        root, root_asimov = safe_sqrt(q), safe_sqrt(q_asimov)
        # Both are infinite where the tested hypothesis cannot give any count that is there.
        return jnp.where(jnp.isinf(q), jnp.inf, root - jnp.where(jnp.isinf(q), 0.0, root_asimov))

    def p_values(self, q: Array, q_asimov: Array) -> tuple[Array, Array, Array]:
        """CLs, CLsb and CLb of the data."""
        return p_values(self.distance(q, q_asimov), safe_sqrt(q_asimov))

    def expected_p_values(self, n: Array, q_asimov: Array) -> tuple[Array, Array, Array]:
        """CLs, CLsb and CLb where the alternative fluctuates by n standard deviations: n along the last axis."""
        return p_values(-n, safe_sqrt(q_asimov)[..., None])

    def excess(self, q: Array, q_asimov: Array, alpha: Array) -> Array:
        """``log(alpha / CLs)`` of the data: rises with the tested value, 0 at the observed limit."""
        return jnp.log(alpha) - log_cls(self.distance(q, q_asimov), safe_sqrt(q_asimov))

    def expected_root(self, n: Array, alpha: Array) -> Array:
        """sqrt(q_A) at the limit that is expected where the alternative fluctuates by n standard deviations."""
        return n - ndtri(alpha * ndtr(n))

    def gaussian_limit(self, best: Array, alpha: Array) -> Array:
        """The observed limit of a Gaussian likelihood, both in units of its width: a first guess."""
        return best - ndtri(alpha * ndtr(best))


def one_sided(gap: Array, best: Array, tested: Array, zero_above: Any, zero_below: Any) -> Array:
    """``2 gap``, or 0 on a side that does not count.

    References:
        arXiv:1007.1727, equations 12 and 14.
    """
    # Where both fits end on the same value the statistic is 0, not what rounding makes of it.
    zero = (zero_above & (best >= tested)) | (zero_below & (best <= tested))
    # A NaN stays one: a statistic of 0 would read as perfect agreement.
    return jnp.where((zero | (gap <= 0)) & ~jnp.isnan(gap), 0.0, 2.0 * gap)


def p_values(t: Array, root_asimov: Array) -> tuple[Array, Array, Array]:
    """CLs, CLsb and CLb of a distance.

    References:
        arXiv:1007.1727, section 3; CLs: J. Phys. G 28 (2002) 2693.
    """
    shape = jnp.broadcast_shapes(t.shape, root_asimov.shape)
    t, root_asimov = jnp.broadcast_to(t, shape), jnp.broadcast_to(root_asimov, shape)
    infinite = jnp.isinf(t)
    ratio = jnp.where(infinite, 0.0, jnp.exp(log_cls(jnp.where(infinite, 0.0, t), root_asimov)))
    return ratio, ndtr(-(t + root_asimov)), ndtr(-t)


def log_cls(t: Array, root_asimov: Array) -> Array:
    """The logarithm of CLs at a finite distance. Far out both p-values underflow, their ratio does not."""
    return log_ndtr(-(t + root_asimov)) - log_ndtr(-t)
