"""Checks of what callers hand in, and what can be looked at while JAX traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from ._errors import FitError, ModelError, NextstatError


def concrete(x: Any) -> bool:
    """Whether a value can be looked at: not traced by a JAX transformation."""
    return not isinstance(x, Tracer)


def as_array(x: Any, what: str, dtype: Any, error: type[NextstatError] = ModelError) -> Any:
    """``x`` as an array of the model's dtype; ``error`` for what is no array of numbers."""
    if isinstance(x, jax.Array) and x.dtype == dtype:
        return x
    try:
        if isinstance(x, jax.Array) or _holds_tracers(x):
            array = jnp.asarray(x)
            _require_real(array.dtype == bool or jnp.issubdtype(array.dtype, np.complexfloating))
            return array.astype(dtype) if isinstance(array, Tracer) else np.asarray(array, dtype)
        # What is known stays NumPy's: handing it to a compiled function takes less than making an array of JAX.
        array = np.asarray(x)
        # NumPy takes None for NaN, text, dates and truth for numbers, and the real part of what is complex.
        real = array.dtype.kind in "fiu" or jnp.issubdtype(array.dtype, np.floating) or not array.size
        _require_real(not real or np.ma.is_masked(x))
        return array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        raise error(f"{what} is {x!r:.60}: expected numbers") from None


def _require_real(otherwise: Any) -> None:
    if otherwise:
        raise TypeError


def _holds_tracers(x: Any) -> bool:
    return isinstance(x, list | tuple) and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))


def as_vector(x: Any, n: int, what: str, dtype: Any) -> Any:
    """``x`` as an array of shape (n,) and the model's dtype; ``ModelError`` for another shape."""
    array = as_array(x, what, dtype)
    if array.shape != (n,):
        hint = "; use jax.vmap for a batch" if array.ndim == 2 and array.shape[1] == n else ""
        raise ModelError(f"{what} has shape {array.shape}, expected ({n},){hint}")
    return array


F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def no_type_check(function: F) -> F:
    """Marks a public function: what it says of a wrong argument beats what a run-time check of annotations says.

    It changes nothing. jaxtyping's import hook leaves functions with a decorator of this name alone, while static
    checkers, which look for the one in ``typing``, see the annotations.
    """
    return function


def pytree(cls: C) -> C:
    """Makes a frozen data class a pytree; fields with ``metadata={"static": True}`` are part of its structure.

    JAX makes instances as well, with shapes, batches or markers in place of arrays: a run-time check of annotations,
    such as that of jaxtyping's import hook, must not look at what they are made of.
    """
    cls.__no_type_check__ = True  # type: ignore[attr-defined]
    return jax.tree_util.register_dataclass(cls)


def one_of(value: Any, allowed: Sequence[str], name: str, error: type[NextstatError] = FitError) -> str:
    """One of a few words; ``error`` for anything else."""
    if not isinstance(value, str) or value not in allowed:
        raise error(f"{name}={value!r:.60}: expected one of {', '.join(map(repr, allowed))}")
    return value


def flag(value: Any, name: str, error: type[NextstatError] = FitError) -> bool:
    """True or False; ``error`` for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name}={value!r:.60}: expected True or False")
    return bool(value)


# Of what NumPy counts among its integers, and of Python's own.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)
_LARGEST = 2**64
# Beyond it Python's integers are no floating-point numbers.
_BEYOND = 2**1023


def integer(value: Any, name: str, least: int = 1, error: type[NextstatError] = FitError) -> int:
    """An integer that is large enough; ``error`` for anything else."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, _NO_NUMBERS)
    if not whole or not least <= value < _LARGEST:
        kind = "a positive integer" if least == 1 else f"an integer from {least} on"
        raise error(f"{name}={value!r:.60}: expected {kind}")
    return int(value)


def number(
    value: Any, name: str, low: float, high: float, error: type[NextstatError] = FitError, hint: str = ""
) -> float:
    """A number between two others, both excluded; ``error`` for anything else."""
    real = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, _NO_NUMBERS)
    if not real or not low < value < high or not -_BEYOND < value < _BEYOND:
        raise error(f"{name}={value!r:.60}: expected a number between {low:g} and {high:g}{hint}")
    return float(value)


def scalar(value: Any, name: str, dtype: Any, error: type[NextstatError] = FitError) -> Any:
    """One finite number as an array of the given dtype, traced or not; ``error`` for anything else."""
    array = as_array(value, name, dtype, error)
    if array.ndim:
        raise error(f"{name} has shape {array.shape}: give one number, or vmap over several")
    if concrete(array) and not np.isfinite(np.asarray(array)):
        raise error(f"{name} is {np.asarray(array)}: give a finite number")
    return array


def on_device(tree: Any, place: Any = None) -> Any:
    """What is known, as arrays on a device: whatever JAX traces meanwhile."""
    with jax.ensure_compile_time_eval():
        return jax.device_put(tree, place)


def replaced(x: Any, index: Any, value: Any) -> Array:
    """``x`` with other values in some places, without compiling anything where all of it is known."""
    if concrete(x) and concrete(value):
        changed = np.array(x)
        changed[index] = value
        return on_device(changed)
    return jnp.asarray(x).at[index].set(value)
