"""Roots whose derivatives stay finite."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def safe_sqrt(x: Array, floor: float = 0.0) -> Array:
    """Square root with derivative 0 at and below ``floor``, instead of inf and NaN."""
    above = x > floor
    return jnp.where(above, jnp.sqrt(jnp.where(above, x, 1.0)), floor**0.5)


def standard_deviation(variance: Array) -> Array:
    """Square root with derivative 0 at 0; NaN (there was no covariance) stays NaN."""
    positive = variance > 0
    root = jnp.sqrt(jnp.where(positive, variance, 1.0))
    return jnp.where(positive, root, jnp.where(jnp.isnan(variance), variance, 0.0))
