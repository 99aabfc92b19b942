"""Bins in pieces of one size: how a large likelihood is laid out, so that its loops are matrix products.

The bins of a channel are cut into pieces of B bins, padded at the end; G pieces make up the likelihood, and each has S
samples at most. The numbers of all histosys are kept by piece and sample, so that nothing is as large as all cells
times all systematics.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ._segments import scatter_sum, take, within

# A piece costs as much as this many bins, whatever is in it.
_OVERHEAD = 8
_LONGEST = 512
# Likewise a bundle of histosys.
_PER_BUNDLE = 2


class Pieces:
    """Tables of the pieces; what does not exist points beyond the end.

    Attributes:
        bins: Bins, shape (G, B).
        rows: Rows, shape (G, S).
        cells: Cells, shape (G, S, B).
        place_of_cell: Where each cell is among those, shape (n_cells,).
        place_of_bin: Where each bin is among the bins, shape (n_bins,).
    """

    def __init__(self, cell_rows: np.ndarray, cell_bins: np.ndarray, n_rows: int, n_bins: int) -> None:
        n_cells = len(cell_rows)
        length = np.bincount(cell_rows, minlength=n_rows)
        first_cell = np.cumsum(length) - length
        # A channel is what begins with the same bin; its rows follow one another.
        first_bin, channel = np.unique(cell_bins[first_cell], return_inverse=True)
        n_rows_of = np.bincount(channel)
        slot = within(n_rows_of)
        width = np.zeros(len(first_bin), int)
        width[channel] = length
        size = least_padded(width, _OVERHEAD, _LONGEST)
        count = -(-width // size)
        mine = np.repeat(np.arange(len(width)), count)
        begin = within(count) * size
        inside = begin[:, None] + np.arange(size)
        there = inside < width[mine][:, None]
        table = np.full((len(width), int(n_rows_of.max())), n_rows, np.int32)
        table[channel, slot] = np.arange(n_rows)
        self.n_rows, self.row_of_cell = n_rows, cell_rows
        self.bins = np.where(there, first_bin[mine][:, None] + inside, n_bins).astype(np.int32)
        self.rows = table[mine]
        start = np.append(first_cell, 0)[self.rows][:, :, None] + inside[:, None, :]
        known = (self.rows < n_rows)[:, :, None] & there[:, None, :]
        self.cells = np.where(known, start, n_cells).astype(np.int32)
        self.place_of_bin = np.zeros(n_bins, np.int32)
        self.place_of_bin[self.bins[there]] = np.flatnonzero(there)
        self.place_of_cell = np.zeros(n_cells, np.int32)
        self.place_of_cell[self.cells[known]] = np.flatnonzero(known)

    @property
    def shape(self) -> tuple[int, int, int]:
        """G, S and B."""
        return self.cells.shape  # type: ignore[return-value]

    def of_cells(self, x: Array) -> Array:
        """Numbers of cells, shape (n_cells,), by piece: (G, S, B), 0 where there is no cell."""
        return take(x, self.cells, 0.0)

    def of_bins(self, x: Array) -> Array:
        """Numbers of bins, shape (n_bins,), by piece: (G, B), 0 where there is no bin."""
        return take(x, self.bins, 0.0)


def least_padded(counts: np.ndarray, overhead: int, longest: int) -> int:
    """The size of the parts into which groups of things are cut, so that the least is padded.

    Args:
        counts: How many things each group has.
        overhead: What a part costs beside its things, in units of these.
        longest: The largest size.
    """
    most = max(min(int(counts.max(initial=1)), longest), 1)
    sizes = {most, *(-(-most // k) for k in range(1, min(most, 16) + 1)), *(2**k for k in range(most.bit_length()))}
    return min(sorted(sizes), key=lambda size: int((-(-counts // size)).sum()) * (size + overhead))


class ShiftPieces:
    """The histosys by piece, so many of one row together: C of these bundles have K histosys each, padded.

    Their numbers have the shape (C, 2, K, B).

    Attributes:
        shifts: Index of each histosys, n_shifts for none, shape (C, K).
        rows: Row of each bundle, shape (C,).
        piece_of: Its piece, shape (C,).
    """

    def __init__(self, pieces: Pieces, pairs: np.ndarray, n_shifts: int) -> None:
        rows, owners = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T.astype(np.int64)
        per_row = np.bincount(rows, minlength=pieces.n_rows)
        size = least_padded(per_row[per_row > 0], _PER_BUNDLE, int(per_row.max(initial=1)))
        g, s, b = pieces.shape
        # Each row has as many bundles as it needs, in each of its pieces.
        piece, slot = np.nonzero(pieces.rows < pieces.n_rows)
        of_row = pieces.rows[piece, slot]
        count = -(-per_row[of_row] // size)
        bundle_row = np.repeat(of_row, count)
        self.rows, self.piece_of = bundle_row, np.repeat(piece, count)
        self._place = np.repeat(piece * s + slot, count)
        first = np.cumsum(per_row) - per_row
        entry = within(count)[:, None] * size + np.arange(size)
        known = entry < per_row[bundle_row][:, None]
        padded = np.append(owners, n_shifts)
        self.shifts = padded[np.where(known, first[bundle_row][:, None] + entry, len(owners))].astype(np.int32)
        self.pieces, self.n_shifts, self.shape = pieces, n_shifts, (len(bundle_row), 2, size, b)
        # The first bundle of a row in a piece, and the place of a histosys among those of its row.
        self._first_bundle = np.zeros(g * s, int)
        self._first_bundle[piece * s + slot] = np.cumsum(count) - count
        self._codes, self._entry, self._size = rows * n_shifts + owners, within(per_row), size

    def places(self, shift: Any, cells: np.ndarray) -> tuple[Any, Any]:
        """Where the odd and the even parts of a histosys, or of one for each cell, are on cells that it moves."""
        g, s, b = np.unravel_index(self.pieces.place_of_cell[cells], self.pieces.shape)
        codes = self.pieces.row_of_cell[cells].astype(np.int64) * self.n_shifts + shift
        entry = self._entry[np.searchsorted(self._codes, codes)]
        bundle = self._first_bundle[g * self.pieces.shape[1] + s] + entry // self._size
        odd, even = ((bundle, part, entry % self._size, b) for part in (0, 1))
        return odd, even

    def heights(self, shifts: Array, p: Array, q: Array) -> Array:
        """What the histosys add to each cell, shape (n_cells,); ``p`` and ``q`` are their basis functions."""
        weights = jnp.concatenate([take(x, self.shifts, 0.0) for x in (p, q)], axis=1)
        sums = jnp.einsum("ck,ckb->cb", weights, self._flat(shifts))
        g, s, _ = self.pieces.shape
        return scatter_sum(sums, self._place, g * s).reshape(-1)[self.pieces.place_of_cell]

    def sums(self, shifts: Array, x: Array) -> Array:
        """Sums of the odd and of the even parts of each histosys, weighted by cell: (2, n_shifts)."""
        products = jnp.einsum("cb,ckb->ck", self.picked(self.pieces.of_cells(x)), self._flat(shifts))
        total = jnp.zeros((2, self.n_shifts), x.dtype)
        return total.at[:, self.shifts].add(jnp.moveaxis(products.reshape(-1, 2, self.shape[2]), 1, 0), mode="drop")

    def by_cell(self, shifts: Array, x: Array) -> Array:
        """The numbers, multiplied by something of each cell, shape (n_cells,)."""
        return shifts * self.picked(self.pieces.of_cells(x))[:, None, None]

    def by_shift(self, shifts: Array, x: Array) -> Array:
        """The numbers, multiplied by something of each histosys, shape (n_shifts,)."""
        return shifts * take(x, self.shifts, 0.0)[:, None, :, None]

    def even_by_bin(self, shifts: Array, scale: Array, n_bins: int) -> Array:
        """The even parts, weighted by cell and summed over samples, shape (n_shifts, n_bins)."""
        moved = shifts[:, 1] * self.picked(self.pieces.of_cells(scale))[:, None]
        total = jnp.zeros((self.n_shifts, n_bins), moved.dtype)
        bins = self.pieces.bins[self.piece_of][:, None, :]
        return total.at[self.shifts[:, :, None], bins].add(moved, mode="drop")

    def moved(self, shifts: Array, dp: Array, dq: Array, scale: Array) -> Array:
        """Derivatives of cells by their histosys, shape (C, K, B), given those of the basis functions."""
        dp, dq = (take(x, self.shifts, 0.0)[:, :, None] for x in (dp, dq))
        return (shifts[:, 0] * dp + shifts[:, 1] * dq) * self.picked(self.pieces.of_cells(scale))[:, None]

    def picked(self, x: Any) -> Any:
        """Of numbers by cell, shape (G, S, B), those of each bundle's row, shape (C, B)."""
        return x.reshape(-1, x.shape[2])[self._place]

    def _flat(self, shifts: Array) -> Array:
        c, two, k, b = self.shape
        return shifts.reshape(c, two * k, b)


class ShiftRows:
    """The histosys as rows of one matrix, shape (2, n_shifts, n_cells): the form of small likelihoods."""

    def __init__(self, n_shifts: int, n_cells: int, cell_bins: Any) -> None:
        self.shape, self._cell_bins = (2, n_shifts, n_cells), cell_bins

    def places(self, shift: Any, cells: np.ndarray) -> tuple[Any, Any]:
        """As for ``ShiftPieces``; the other methods likewise."""
        return (0, shift, cells), (1, shift, cells)

    def heights(self, shifts: Array, p: Array, q: Array) -> Array:
        """A product with the whole matrix."""
        return jnp.concatenate([p, q]) @ self._matrix(shifts)

    def sums(self, shifts: Array, x: Array) -> Array:
        """Likewise."""
        return (self._matrix(shifts) @ x).reshape(self.shape[:2])

    def by_cell(self, shifts: Array, x: Array) -> Array:
        """Column by column."""
        return shifts * x

    def by_shift(self, shifts: Array, x: Array) -> Array:
        """Row by row."""
        return shifts * x[None, :, None]

    def even_by_bin(self, shifts: Array, scale: Array, n_bins: int) -> Array:
        """By a sum over the cells of each bin."""
        return scatter_sum((shifts[1] * scale).T, self._cell_bins, n_bins).T

    def _matrix(self, shifts: Array) -> Array:
        return shifts.reshape(2 * self.shape[1], self.shape[2])
