"""Checks of what callers hand in, and what can be looked at while JAX traces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from ._errors import ModelError


def concrete(x: Any) -> bool:
    """Whether a value can be looked at: not traced by a JAX transformation."""
    return not isinstance(x, Tracer)


def as_array(x: Any, what: str, dtype: Any) -> Array:
    """``x`` as an array of the model's dtype; ``ModelError`` for what is no array of numbers."""
    try:
        return jnp.asarray(x, dtype)
    except (TypeError, ValueError):
        raise ModelError(f"{what} is {x!r:.60}: expected numbers") from None


def as_vector(x: Any, n: int, what: str, dtype: Any) -> Array:
    """``x`` as an array of shape (n,) and the model's dtype; ``ModelError`` for another shape."""
    if isinstance(x, jax.Array) and x.shape == (n,) and x.dtype == dtype:
        return x
    array = as_array(x, what, dtype)
    if array.shape != (n,):
        hint = "; use jax.vmap for a batch" if array.ndim == 2 and array.shape[1] == n else ""
        raise ModelError(f"{what} has shape {array.shape}, expected ({n},){hint}")
    return array
