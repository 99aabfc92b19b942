"""The NLL of any likelihood at one point or at many, through programs of few shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base._doors import as_array, concrete
from .._base._errors import ModelError
from .._likelihood._binned import HistFactory

# Points of one compiled call; fewer are filled up to a power of two, so that few shapes are compiled.
_CALL = 65536
# Points that are vectorized at once on a CPU, by networks and by binned likelihoods: so few that they stay in its
# caches, which is three times as fast.
CPU_BATCH, _CPU_BINNED = 1024, 64


def nlls(likelihood: Any, points: Any, data: Any = None) -> Array:
    """NLL of one point, shape (n_params,), or of many, shape (n, n_params); differentiable.

    Args:
        likelihood: The likelihood.
        points: Floating-point numbers, as ``as_points`` returns them.
        data: Other data than the observed ones.
    """
    data = likelihood.observed if data is None else data
    if points.ndim == 1:
        return _one(likelihood, data, points)
    if not all(map(concrete, (points, data, *jax.tree.leaves(likelihood)))):
        return _vectorized(likelihood, data, points)
    return in_calls(lambda part: _many(likelihood, data, part), points)


@jax.jit
def _one(likelihood: Any, data: Any, params: Any) -> Array:
    return likelihood.deviance(params, data) + likelihood.constant(data)


def _vectorized(likelihood: Any, data: Any, points: Any) -> Array:
    return jax.vmap(lambda x: likelihood.deviance(x, data))(points) + likelihood.constant(data)


@jax.jit
def _many(likelihood: Any, data: Any, points: Any) -> Array:
    inner = likelihood
    while hasattr(inner, "source"):
        inner = inner.source
    size = together(points, _CPU_BINNED if isinstance(inner, HistFactory) else CPU_BATCH)
    return lax.map(lambda x: likelihood.deviance(x, data), points, batch_size=size) + likelihood.constant(data)


def together(points: Any, cpu: int) -> int:
    """How many points are vectorized at once: all on a GPU."""
    return min(cpu if jax.default_backend() == "cpu" else _CALL, max(len(points), 1))


def as_points(params: Any, n: int) -> Any:
    """Floating-point parameters of one point, shape (n,), or of many, shape (points, n); ``ModelError`` otherwise."""
    x: Any
    try:
        x = params if isinstance(params, jax.Array) else as_array(params, "params", np.dtype(np.float64))
    except ModelError:
        x = np.zeros(())
    if x.ndim not in (1, 2) or x.shape[-1] != n:
        raise ModelError(f"params has shape {x.shape}: expected ({n},) or (n, {n})")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def in_calls(function: Callable[[Any], Array], points: Any) -> Array:
    """A compiled function of points, shape (n, n_params), for any n through programs of few shapes."""
    n, parts = len(points), []
    for start in range(0, n, _CALL):
        part = points[start : start + _CALL]
        size = min(_CALL, 2 ** max(len(part) - 1, 0).bit_length())
        if len(part) < size:
            fill = np.broadcast_to(np.asarray(part[-1:]), (size - len(part), part.shape[1]))
            part = np.concatenate([np.asarray(part), fill])
        parts.append(function(part))
    if not parts:
        return function(points)
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return whole if len(whole) == n else jnp.asarray(np.asarray(whole)[:n])
