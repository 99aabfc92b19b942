"""Compiled functions that the host calls: quick to compile, and with few arguments and results.

XLA's CPU compiler takes most of the time of a first fit, and most of that goes into emitters and passes that gain
nothing for programs of many small operations. These options halve it, and were measured to leave the run times as they
are. They go with the function: nothing of JAX's configuration changes.

A call costs some microseconds for each argument and each result, which is what a fit of a small model takes as a whole:
trees cross packed, as one vector of floating-point numbers and one of integers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _cache

_QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 1,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


@cache
def quick_options() -> dict[str, Any]:
    """Options for compiling on this machine; those that its XLA does not know are left out."""
    if jax.default_backend() != "cpu":
        return {}
    known = {}
    for name, value in _QUICK.items():
        try:
            jax.jit(lambda x: x, compiler_options={name: value}).lower(np.float32(0)).compile()
        except Exception:  # whatever this version raises for a name that it does not know
            continue
        known[name] = value
    return known


@cache
def _one_device() -> bool:
    """Whether there is no other place for an array."""
    return jax.default_backend() == "cpu" and jax.local_device_count() == 1


def _place(tree: Any) -> Any:
    return next((leaf.sharding for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)), None)


class Compiled:
    """A function compiled ahead of time, at its first call, for arguments of one form.

    Whatever JAX traces meanwhile, a call computes: its arguments are concrete, and so are its results.
    """

    def __init__(
        self, function: Callable[..., Any], *, kept: bool = True, about: Any = None, quick: bool = True
    ) -> None:
        """What is compiled, and how.

        Args:
            function: The function.
            kept: Whether the sources, the form of the arguments and ``about`` say all that there is to know.
            about: As said.
            quick: Whether compiling takes longer than running.
        """
        self._function, self._kept, self._about, self._quick = function, kept, about, quick
        self._programs: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """The function's value; all arguments are of one form, on one device."""
        place = None if _one_device() else _place(args[0])
        program = self._programs.get(place)
        if program is not None:
            return program(*args)
        about = _QUICK if self._quick else {}, repr(place), self._about
        file = _cache.file_of(self._function, args, about) if self._kept else None
        program = None if file is None else _cache.load(file, args)
        if file is not None and program is not None:
            try:
                result = program(*args)
            # Whatever a program from disk may do; it is made again.
            except Exception:
                _cache.forget(file)
            else:
                self._programs[place] = program
                return result
        options = quick_options() if self._quick else {}
        program = jax.jit(self._function, compiler_options=options).lower(*args).compile()
        if file is not None:
            _cache.keep(file, program)
        self._programs[place] = program
        return program(*args)


class Packed(NamedTuple):
    """A tree as two vectors."""

    floats: Any
    integers: Any


class Layout(NamedTuple):
    """How a tree is packed. Integers and booleans travel together, floating-point numbers by themselves.

    Attributes:
        treedef: The structure of the tree.
        leaves: Shape and dtype of each leaf.
    """

    treedef: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]

    @classmethod
    def of(cls, tree: Any) -> Layout:
        """The layout of a tree of arrays, or of what ``jax.eval_shape`` returns."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(treedef, tuple((tuple(x.shape), np.dtype(x.dtype)) for x in leaves))

    @property
    def dtype(self) -> Any:
        """Of the floating-point numbers."""
        return next((dtype for _, dtype in self.leaves if dtype.kind == "f"), np.dtype(np.float64))

    @property
    def sizes(self) -> Packed:
        """How many numbers there are of each kind."""
        kinds = [(dtype.kind == "f", int(np.prod(shape))) for shape, dtype in self.leaves]
        return Packed(*(sum(size for real, size in kinds if real == wanted) for wanted in (True, False)))

    def zeros(self) -> Any:
        """A tree of zeros, on the host."""
        return jax.tree.unflatten(self.treedef, [np.zeros(*leaf) for leaf in self.leaves])

    def pack(self, tree: Any) -> Packed:
        """Inside a compiled function."""
        floats, integers = [], []
        for leaf, (_, dtype) in zip(jax.tree.leaves(tree), self.leaves, strict=True):
            (floats if dtype.kind == "f" else integers).append(jnp.ravel(jnp.asarray(leaf)))
        return Packed(_joined(floats, self.dtype), _joined(integers, np.dtype(np.int32)))

    def packed(self, tree: Any) -> Packed:
        """The same on the host."""
        floats, integers = [], []
        for leaf, (_, dtype) in zip(jax.tree.leaves(tree), self.leaves, strict=True):
            (floats if dtype.kind == "f" else integers).append(np.ravel(leaf))
        return Packed(_chained(floats, self.dtype), _chained(integers, np.dtype(np.int32)))

    def place(self, tree: Any, other: Any, which: int = 1) -> int:
        """Where the integers of two trees, or with 0 their floating-point numbers, begin to differ."""
        return int(np.argmax(self.packed(tree)[which] != self.packed(other)[which]))

    def unpack(self, packed: Packed) -> Any:
        """The tree; with views of the vectors where these are NumPy's. Leading axes of the vectors stay."""
        places = [0, 0]
        leaves = []
        for shape, dtype in self.leaves:
            kind = 0 if dtype.kind == "f" else 1
            size = int(np.prod(shape))
            vector = packed[kind]
            leaf = vector[..., places[kind] : places[kind] + size].reshape((*vector.shape[:-1], *shape))
            leaves.append(leaf if leaf.dtype == dtype else leaf.astype(dtype))
            places[kind] += size
        return jax.tree.unflatten(self.treedef, leaves)


def packed_while(
    more: Callable[[Any], Array], body: Callable[[Any], Any], state: Any, apart: tuple[str, ...] = ()
) -> Any:
    """``lax.while_loop`` whose state, a named tuple, crosses as few arrays.

    XLA makes a kernel for each array that changes, which takes time to compile and to run; in a packed state what is
    chosen between two trees is chosen once.

    Args:
        more: As in ``lax.while_loop``.
        body: Likewise.
        state: The state before.
        apart: Fields that are large matrices, or trees of such: they stay what they are.
    """
    nothing = dict.fromkeys(apart)
    layout = Layout.of(state._replace(**nothing))

    def packed(s: Any) -> tuple[Packed, Any]:
        return layout.pack(s._replace(**nothing)), [getattr(s, name) for name in apart]

    def unpacked(carry: tuple[Packed, Any]) -> Any:
        small, large = carry
        return layout.unpack(small)._replace(**dict(zip(apart, large, strict=True)))

    end = lax.while_loop(lambda c: more(unpacked(c)), lambda c: packed(body(unpacked(c))), packed(state))
    return unpacked(end)


def choose(condition: Array, a: Any, b: Any) -> Any:
    """One of two trees, by one operation each for floating-point numbers and integers."""
    layout = Layout.of(a)
    one, other = layout.pack(a), layout.pack(b)
    return layout.unpack(Packed(*(jnp.where(condition, x, y) for x, y in zip(one, other, strict=True))))


def _joined(parts: list[Any], dtype: Any) -> Array:
    return jnp.concatenate([x.astype(dtype) for x in parts]) if parts else jnp.zeros((0,), dtype)


def _chained(parts: list[Any], dtype: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x, dtype) for x in parts]) if parts else np.zeros(0, dtype)
