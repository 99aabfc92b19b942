"""Roots of many rising functions at once, each found by Newton's method inside a bracket.

Where a limit or an interval ends, a statistic reaches a level: its square root is almost linear in the parameter, and
its slope is known from the gradient of the fit (envelope theorem), so that few fits are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

# Evaluations for one root, and how many times farther out the next point may lie.
_MOST = 60
_FARTHER = 10.0


class Hunt(NamedTuple):
    """Where the search for each of k roots stands; all arrays have shape (k,).

    Attributes:
        x: Where its function is evaluated next, positive.
        low: Largest point known to be below the root.
        high: Smallest point known to be above it.
        root: The root, NaN as long as there is none.
        tries: Evaluations so far.
        open: Whether the search goes on.
        cut: Whether it ended at the edge, below the root.
    """

    x: Array
    low: Array
    high: Array
    root: Array
    tries: Array
    open: Array
    cut: Array

    @property
    def found(self) -> Array:
        """Whether the root was found."""
        return ~self.open & ~self.cut & ~jnp.isnan(self.root)


def hunt_from(x: Array) -> Hunt:
    """Searches that begin at x."""
    nothing = jnp.zeros(x.shape, bool)
    return Hunt(
        x, jnp.zeros_like(x), jnp.full_like(x, jnp.inf), jnp.full_like(x, jnp.nan), jnp.zeros(x.shape, int),
        ~nothing, nothing,
    )  # fmt: skip


def hunted(hunt: Hunt, value: Array, slope: Array, edge: Array, grow: float) -> Hunt:
    """The searches after their functions have been evaluated at x.

    Args:
        hunt: Before.
        value: Of the functions, shape (k,); NaN counts as above the root.
        slope: Of the functions.
        edge: Beyond which nothing is evaluated, shape (k,) or a scalar.
        grow: How many times farther out to look next as long as nothing is known to lie above a root.
    """
    x = hunt.x
    value = jnp.where(jnp.isnan(value), jnp.inf, value)
    low = jnp.where(value < 0, jnp.maximum(hunt.low, x), hunt.low)
    high = jnp.where(value < 0, hunt.high, jnp.minimum(hunt.high, x))
    newton = x - value / jnp.where(slope > 0, slope, jnp.nan)
    rtol = 1e-7 if x.dtype == np.float64 else 1e-4
    closed = jnp.isfinite(high) & (high - low <= rtol * high)
    near = jnp.abs(newton - x) <= rtol * x
    done = near | closed
    cut = ~done & (value < 0) & (x >= edge)
    tries = hunt.tries + 1
    over = done | cut | (tries >= _MOST)
    # In a bracket that begins at 0, or is wide, in factors rather than in differences.
    middle = jnp.where(high > 4.0 * low, jnp.sqrt(jnp.maximum(low, 0.01 * high) * high), 0.5 * (low + high))
    other = jnp.where(jnp.isinf(high), grow * x, middle)
    guess = jnp.where((newton > low) & (newton < high), newton, other)
    guess = jnp.minimum(jnp.minimum(guess, _FARTHER * x), edge)
    # Where a curve jumps its slope says nothing.
    root = jnp.where(near, newton, jnp.where(done | cut, x, jnp.nan))
    after = Hunt(jnp.where(over, x, guess), low, high, root, tries, hunt.open & ~over, hunt.cut | cut)
    return Hunt(*(jnp.where(hunt.open, new, old) for new, old in zip(after, hunt, strict=True)))
