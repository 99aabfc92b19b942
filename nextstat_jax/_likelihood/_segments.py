"""Sums and products over static, irregular groups, as padded gathers.

XLA turns a scatter-add on a CPU into a serial loop; a gather with padding fuses with what produces and what consumes
it. A group much larger than the others would make the padding expensive, so long groups are cut into chunks that are
reduced in a second, small step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def pad(groups: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """The groups as columns of one array of shape ``(longest, n_groups)``, short ones padded with ``fill``."""
    longest = max((len(group) for group in groups), default=0)
    table = np.full((longest, len(groups)), fill, dtype=np.int32)
    for column, group in enumerate(groups):
        table[: len(group), column] = group
    return table


def owned(owners: np.ndarray, n_groups: int, fill: int) -> np.ndarray:
    """The places that name each group, as ``pad`` makes a table of them."""
    order = np.argsort(owners, kind="stable")
    count = np.bincount(owners, minlength=n_groups)
    table = np.full((int(count.max(initial=0)), n_groups), fill, dtype=np.int32)
    table[within(count), owners[order]] = order
    return table


def within(count: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of some groups, given how large they are, one after the other."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def chunked(groups: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Cuts groups into chunks of the length that pads least.

    Returns:
        The chunks (members), and for each group the indices of its chunks.
    """
    sizes = np.array([len(group) for group in groups] or [0])
    longest = max(int(sizes.max()), 1)

    def cost(length: int) -> float:
        pieces = -(-sizes // length)
        # The second step reads every chunk once more, padded to the group with the most chunks.
        return float(length * pieces.sum() + (int(pieces.max()) * len(sizes) if pieces.max() > 1 else 0))

    length = min((n for n in range(1, longest + 1) if n == longest or longest // n <= 64), key=cost)
    chunks: list[list[int]] = []
    owners: list[list[int]] = []
    for group in groups:
        first = len(chunks)
        chunks.extend(list(group[i : i + length]) for i in range(0, len(group), length))
        owners.append(list(range(first, len(chunks))))
    return chunks, owners


def pick(x: Array, index: Any) -> Array:
    """``x[index]`` along the first axis; where an index that is not static may lie beyond the end, 0."""
    return x[index] if isinstance(index, np.ndarray) else take(x, index, 0.0)


def take(x: Array, index: Any, fill: float) -> Array:
    """``x[index]`` along the first axis, with ``fill`` where the index lies beyond the end."""
    if x.shape[0] == 0:
        return jnp.full((*index.shape, *x.shape[1:]), fill, x.dtype)
    return x.at[index].get(mode="fill", fill_value=fill)


@dataclass(frozen=True)
class GroupSum:
    """Sum over groups of the first axis of an array.

    Attributes:
        n_groups: Number of groups.
        first: Indices of the members of each chunk in the input, padded beyond its end, shape (longest, n_chunks).
        second: The same of the chunks of each group; None where each group is one chunk.
    """

    n_groups: int
    first: Any
    second: Any = None

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]], n_inputs: int) -> GroupSum:
        """For each output, the indices of its members in an input of the given length."""
        chunks, owners = chunked(groups)
        if all(len(owner) <= 1 for owner in owners):
            # One chunk a group at most: groups without members need their (empty) column back.
            return cls(len(groups), pad(groups, n_inputs))
        return cls(len(groups), pad(chunks, n_inputs), pad(owners, len(chunks)))

    def __call__(self, x: Array) -> Array:
        """The sums, shape ``(n_groups, *x.shape[1:])``."""
        if self.first.shape[0] == 0:
            return jnp.zeros((self.n_groups, *x.shape[1:]), x.dtype)
        total = take(x, self.first, 0.0).sum(0)
        return total if self.second is None else take(total, self.second, 0.0).sum(0)


def product(x: Array) -> Array:
    """Product over the first axis, unrolled: its derivative is exact at zeros and costs one pass."""
    result = jnp.ones(x.shape[1:], x.dtype)
    for k in range(x.shape[0]):
        result = x[k] if k == 0 else result * x[k]
    return result


def scatter_sum(x: Array, owners: Any, n_groups: int) -> Array:
    """Sums of ``x`` by owner, shape (n_groups, *x.shape[1:]); every owner must be below ``n_groups``.

    Unlike a gather, whose producer XLA may fuse and evaluate again for every element it reads, a scatter has each
    element evaluated once and its result written to memory: it also serves to cut chains of gathers.
    """
    zeros = jnp.zeros((n_groups, *x.shape[1:]), x.dtype)
    if x.shape[0] == 0:
        return zeros
    return zeros.at[owners].add(x, mode="promise_in_bounds", indices_are_sorted=_ascend(owners))


def scatter_product(start: Array, x: Array, owners: Any) -> Array:
    """``start`` times the product of the ``x`` that belong to each place; not to be differentiated."""
    return start.at[owners].multiply(x, mode="promise_in_bounds", indices_are_sorted=_ascend(owners))


def _ascend(owners: Any) -> bool:
    return isinstance(owners, np.ndarray) and bool((np.diff(owners) >= 0).all())
