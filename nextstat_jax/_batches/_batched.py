"""Long batches at flat memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .._base._doors import integer, no_type_check
from .._base._errors import ModelError
from ._schedule import join, rows_of


@no_type_check
def batched(function: Callable[..., Any], batch_size: int = 64) -> Callable[..., Any]:
    """``jax.vmap`` of a function, in chunks of fixed size.

    A plain ``vmap`` over thousands of points holds the intermediate results of all of them at once; a chunk of 64
    points stays in the cache of a CPU, is faster there, and needs the same memory however many points follow. The last
    chunk is filled up, so that a batch of another length compiles nothing; inside another JAX transformation all of it
    is one ``lax.map``.

    Args:
        function: Takes and returns pytrees of arrays.
        batch_size: Points per chunk; on a GPU a larger one keeps the device busy.

    Returns:
        A function of the same arguments with one more leading axis each, equal in all of them.

    Raises:
        ModelError: For a batch size that is not a positive integer, or (when called) leading axes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> batched(lambda x, y: (x * y).sum())(jnp.ones((1000, 3)), jnp.ones((1000, 3))).shape
        (1000,)
    """
    size = integer(batch_size, "batch_size", error=ModelError)
    chunk = jax.jit(jax.vmap(lambda args: function(*args)))

    @jax.jit
    def whole(args: tuple[Any, ...]) -> Any:
        return jax.lax.map(lambda one: function(*one), args, batch_size=size)

    @wraps(function)
    def call(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        shapes = {np.shape(leaf)[:1] for leaf in leaves}
        if len(shapes) != 1 or () in shapes:
            raise ModelError(f"the arguments of a batch must share one leading axis, not {sorted(shapes)}")
        n = shapes.pop()[0]
        if n == 0 or any(isinstance(leaf, Tracer) for leaf in leaves):
            return whole(args)
        chunks = (np.minimum(np.arange(start, start + size), n - 1) for start in range(0, n, size))
        parts = [chunk(jax.tree.map(lambda x, rows=rows: rows_of(x, rows), args)) for rows in chunks]
        return jax.tree.map(lambda *xs: join(xs, np.arange(n)), *parts)

    return call
