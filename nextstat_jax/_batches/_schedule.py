"""One function over many rows of arrays, in the way that suits the device.

On a CPU a ``vmap`` of fits is several times slower than one after the other: a batched loop runs until its slowest
member is done, and batched factorizations gain nothing. There the rows run in sequence inside one compiled call, in
chunks that are spread over the cores: compiled calls run outside Python's lock. A GPU gets vectorized batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._chunks import cpu_count, threaded

# Rows that a GPU works on at once, and chunks per core: with several, no core waits long for the last one.
_GPU_BATCH = 64
_CHUNKS_PER_CORE = 4


class Schedule(NamedTuple):
    """How to go over rows.

    Attributes:
        batch_size: Rows that are vectorized; None for one after the other.
        chunk: Rows per compiled call.
        threads: Calls at a time.
    """

    batch_size: int | None
    chunk: int
    threads: int


def schedule(n: int, platform: str, cores: int) -> Schedule:
    """The schedule for ``n`` rows on a platform (``"cpu"``, ``"gpu"``, ...) with so many cores on its host."""
    if platform != "cpu":
        return Schedule(min(n, _GPU_BATCH), n, 1)
    threads = min(n, cores)
    return Schedule(None, n if threads == 1 else -(-n // (threads * _CHUNKS_PER_CORE)), threads)


def map_rows(function: Callable[..., Any], args: tuple[Any, ...], in_axes: tuple[int | None, ...]) -> Any:
    """``jax.vmap(function, in_axes)(*args)``, by the schedule of the device that holds the arguments.

    Compiled once for each function object and each structure of arguments, as under ``jax.jit``; what was compiled is
    forgotten with the function. Inside another JAX transformation this is one ``lax.map``.

    Args:
        function: Takes and returns pytrees of arrays.
        args: Pytrees of arrays.
        in_axes: For each of them 0 (its leaves have a leading axis, equally long in all) or None; at least one is 0.

    Returns:
        The results with a leading axis.
    """
    leaves, structure = jax.tree.flatten(args)
    owners = [axis for arg, axis in zip(args, in_axes, strict=True) for _ in jax.tree.leaves(arg)]
    mapped = [leaf for leaf, axis in zip(leaves, owners, strict=True) if axis == 0]
    shared = [leaf for leaf, axis in zip(leaves, owners, strict=True) if axis is None]
    form = _Form(structure, tuple(owners))
    n = mapped[0].shape[0]
    program = _program(function)
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    plan = schedule(n, jax.default_backend() if traced else _platform(leaves), cpu_count())
    compiled = None
    if not traced and plan.threads > 1:
        compiled = program.compiled(np.arange(plan.chunk, dtype=np.int32), mapped, shared, form)
    if compiled is None:
        return program.jitted(np.arange(n, dtype=np.int32), mapped, shared, form, plan.batch_size)
    starts = range(0, n, plan.chunk)
    # The last chunk repeats the last row to be as long as the others.
    chunks = [np.minimum(np.arange(start, start + plan.chunk, dtype=np.int32), n - 1) for start in starts]
    # A call returns before it is done: the wait belongs to the thread that made it.
    parts = threaded(lambda rows: jax.block_until_ready(compiled(rows, mapped, shared)), chunks, plan.threads)
    return jax.tree.map(lambda *xs: join(xs, np.arange(n)), *parts)


def join(parts: Sequence[Any], order: np.ndarray) -> Any:
    """Arrays concatenated along their first axis, and its entries taken in the given order."""
    in_order = np.array_equal(order, np.arange(sum(x.shape[0] for x in parts)))
    if any(isinstance(x, Tracer) or not isinstance(x.dtype, np.dtype) for x in parts) or _platform(parts) != "cpu":
        joined = jnp.concatenate(parts)
        return joined if in_order else joined[order]
    # NumPy reads the memory of the CPU's arrays, and needs no compilation for each shape.
    return jax.device_put(np.concatenate([np.asarray(x) for x in parts])[order])


def rows_of(x: Any, rows: np.ndarray) -> Any:
    """Entries of an array along its first axis; on a CPU without compiling anything for its length."""
    if not isinstance(x, jax.Array):
        return np.asarray(x)[rows]
    return x[rows] if not isinstance(x.dtype, np.dtype) or _platform([x]) != "cpu" else np.asarray(x)[rows]


def _platform(leaves: Sequence[Any]) -> str:
    """Where the arrays are; an argument made by NumPy goes wherever the others are."""
    held = (device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices())
    return next((device.platform for device in held), jax.default_backend())


class _Form(NamedTuple):
    """How the arguments of a function are made from leaves, of which each is mapped (0) or shared (None)."""

    structure: Any
    owners: tuple[int | None, ...]

    def arguments(self, mapped: Sequence[Any], shared: Sequence[Any]) -> Any:
        """The arguments, from a row of the mapped leaves and the shared ones."""
        rows, whole = iter(mapped), iter(shared)
        return jax.tree.unflatten(self.structure, [next(whole) if axis is None else next(rows) for axis in self.owners])


class _Program:
    """What was compiled for a function, which this does not keep alive."""

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            self._function: Callable[[], Any] = weakref.ref(function)
        except TypeError:  # some callables have no weak references
            self._function = lambda: function
        self._compiled: dict[Any, Any] = {}
        self.jitted: Any = jax.jit(self._rows, static_argnums=(3, 4))

    def _rows(self, rows: Any, mapped: list[Any], shared: list[Any], form: _Form, batch_size: int | None) -> Any:
        function = self._function()

        def one(i: Any) -> Any:
            return function(*form.arguments([x[i] for x in mapped], shared))

        return jax.lax.map(one, rows, batch_size=batch_size)

    def compiled(self, rows: np.ndarray, mapped: list[Any], shared: list[Any], form: _Form) -> Any:
        """The executable for these arguments; None if the function itself holds traced values.

        Threads that call a jitted function would trace it anew under their own settings of JAX, which are local to
        threads; an executable is the same in all of them.
        """
        leaves = [*mapped, *shared]
        key = (form, len(rows), *((jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in leaves))
        if key not in self._compiled:
            traced = self.jitted.trace(rows, mapped, shared, form, None)
            # What a function closes over and is traced becomes one more input, or, in older JAX, a constant.
            inputs, constants = traced.jaxpr.in_avals, traced.jaxpr.consts
            if len(inputs) > 1 + len(leaves) or any(isinstance(constant, Tracer) for constant in constants):
                return None
            self._compiled[key] = traced.lower().compile()
        return self._compiled[key]


_PROGRAMS: weakref.WeakKeyDictionary[Any, _Program] = weakref.WeakKeyDictionary()


def _program(function: Callable[..., Any]) -> _Program:
    try:
        if function not in _PROGRAMS:
            _PROGRAMS[function] = _Program(function)
        return _PROGRAMS[function]
    except TypeError:  # neither hashed nor weakly referenced
        return _Program(function)
