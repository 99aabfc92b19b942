"""Small computations: by NumPy where everything is known, and roots whose derivatives stay finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._doors import concrete


def lightly(function: Callable[..., Any], *arrays: Any) -> Array:
    """``function(numpy, *arrays)``: with NumPy where the arrays are known, with ``jax.numpy`` where they are traced.

    JAX would compile a program for each operation on known arrays and each of their shapes.
    """
    if all(map(concrete, arrays)):
        return jax.device_put(np.asarray(function(np, *map(np.asarray, arrays))))
    return function(jnp, *arrays)


def safe_sqrt(x: Array, floor: float = 0.0) -> Array:
    """Square root with derivative 0 at and below ``floor``, instead of inf and NaN; NaN stays NaN."""
    below = x <= floor
    return jnp.where(below, floor**0.5, jnp.sqrt(jnp.where(below, 1.0, x)))


def standard_deviation(variance: Array) -> Array:
    """Square root with derivative 0 at 0; NaN (there was no covariance) stays NaN."""
    return lightly(_standard_deviation, variance)


def _standard_deviation(xp: Any, variance: Any) -> Any:
    positive = variance > 0
    root = xp.sqrt(xp.where(positive, variance, xp.ones_like(variance)))
    return xp.where(positive, root, xp.where(xp.isnan(variance), variance, xp.zeros_like(variance)))
