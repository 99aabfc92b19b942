"""Long batches at flat memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from .._base._errors import ModelError


def batched(function: Callable[..., Any], batch_size: int = 64) -> Callable[..., Any]:
    """``jax.vmap`` of a function, in chunks of fixed size.

    A plain ``vmap`` over thousands of points holds the intermediate results of all of them at once; a chunk of 64
    points stays in the cache of a CPU, is faster there, and needs the same memory however many points follow.

    Args:
        function: Takes and returns pytrees of arrays.
        batch_size: Points per chunk; on a GPU a larger one keeps the device busy.

    Returns:
        A jitted function of the same arguments with one more leading axis each, equal in all of them.

    Raises:
        ModelError: For a batch size that is not a positive integer, or (when called) leading axes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> batched(lambda x, y: (x * y).sum())(jnp.ones((1000, 3)), jnp.ones((1000, 3))).shape
        (1000,)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ModelError(f"batch_size={batch_size!r}: expected a positive integer")

    @jax.jit
    def run(args: tuple[Any, ...]) -> Any:
        return jax.lax.map(lambda one: function(*one), args, batch_size=batch_size)

    @wraps(function)
    def call(*args: Any) -> Any:
        shapes = {jax.numpy.shape(leaf)[:1] for leaf in jax.tree.leaves(args)}
        if len(shapes) != 1 or () in shapes:
            raise ModelError(f"the arguments of a batch must share one leading axis, not {sorted(shapes)}")
        return run(args)

    return call
