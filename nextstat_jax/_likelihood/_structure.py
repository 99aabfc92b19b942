"""The static half of a likelihood: which numbers meet which, and nothing that has a value.

Two workspaces with equal structures share every compiled function, whatever their yields, names or data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ._interpolation import has_kink
from ._pieces import Pieces, ShiftPieces, ShiftRows
from ._segments import GroupSum, owned


@dataclass(frozen=True, eq=False)
class Structure:
    """Index tables of a likelihood.

    A *row* is one sample in one channel, a *cell* one bin of a row, an *entry* one normsys on one row. Rows are sorted
    by channel, then sample; cells by row, then bin. Entries live in a table of shape ``(length, n_chunks)`` whose
    columns belong to one row each; unused places point at parameter ``n_params``, which does not exist.

    Attributes:
        n_params: Number of parameters.
        n_bins: Bins of all channels.
        n_aux: Number of auxiliary measurements.
        normsys: Interpolation code of the normsys modifiers.
        histosys: Interpolation code of the histosys modifiers.
        clip_sample: Least yield of one sample in one bin, or None.
        clip_bin: Least yield of one bin, or None.
        shift_params: Parameter of each histosys, shape (n_shifts,).
        entry_params: Parameter of each normsys entry, shape (length, n_chunks).
        chunk_rows: Row of each chunk of entries, shape (n_chunks,).
        row_chunks: Chunks of each row, padded, shape (most, n_rows).
        row_factors: Parameters that multiply each row, padded, shape (most, n_rows).
        cell_factors: Parameters that multiply each cell, padded, shape (most, n_cells).
        cell_rows: Row of each cell.
        cell_bins: Bin of each cell.
        uncertainty_cells: Cell of each uncertainty behind a staterror or shapesys.
        uncertainty_params: Its parameter.
        normal_params: Parameters with a normal constraint, in the order of their widths.
        normal_aux: Their places among the auxiliary data.
        poisson_params: Parameters with a Poisson constraint.
        poisson_aux: Their places among the auxiliary data.
        pairs: (row, histosys) of each histosys on a row, shape (n, 2), where the likelihood is laid out in pieces and
            its Hessian as an arrow; None for the form of small likelihoods.
    """

    n_params: int
    n_bins: int
    n_aux: int
    normsys: str
    histosys: str
    clip_sample: float | None
    clip_bin: float | None
    shift_params: np.ndarray
    entry_params: np.ndarray
    chunk_rows: np.ndarray
    row_chunks: np.ndarray
    row_factors: np.ndarray
    cell_factors: np.ndarray
    cell_rows: np.ndarray
    cell_bins: np.ndarray
    uncertainty_cells: np.ndarray
    uncertainty_params: np.ndarray
    normal_params: np.ndarray
    normal_aux: np.ndarray
    poisson_params: np.ndarray
    poisson_aux: np.ndarray
    pairs: np.ndarray | None = None
    digest: str = field(init=False)
    derived: Derived = field(init=False)

    def __post_init__(self) -> None:
        state = hashlib.sha256()
        for name, value in vars(self).items():
            state.update(name.encode())
            if isinstance(value, np.ndarray):
                state.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
            else:
                state.update(repr(value).encode())
        object.__setattr__(self, "digest", state.hexdigest())
        object.__setattr__(self, "derived", Derived(self))
        object.__setattr__(self, "_hash", hash(self.digest))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and self.digest == other.digest)

    @cached_property
    def pieces(self) -> Pieces:
        """The bins in pieces of one size."""
        return Pieces(self.cell_rows, self.cell_bins, self.n_rows, self.n_bins)

    @cached_property
    def shift_layout(self) -> Any:
        """How the numbers of the histosys are laid out."""
        if self.pairs is None:
            return ShiftRows(self.n_shifts, self.n_cells, self.cell_bins)
        return ShiftPieces(self.pieces, self.pairs, self.n_shifts)

    @property
    def n_rows(self) -> int:
        """Number of (channel, sample) pairs."""
        return self.row_chunks.shape[1]

    @property
    def n_cells(self) -> int:
        """Number of (channel, sample, bin) triples."""
        return len(self.cell_rows)

    @property
    def n_shifts(self) -> int:
        """Number of histosys parameters."""
        return len(self.shift_params)

    @property
    def n_entries(self) -> int:
        """Places in the table of normsys entries, padding included."""
        return self.entry_params.size


def members(owners: np.ndarray, n_groups: int) -> list[list[int]]:
    """For each group, the places of ``owners`` that name it; owners beyond the groups are dropped."""
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    for place, owner in enumerate(owners.tolist()):
        if owner < n_groups:
            groups[owner].append(place)
    return groups


class Derived:
    """Index tables that follow from a structure: who gathers what in the rates, the gradient and the Hessian.

    Those that only one form of the Hessian needs are made when it is asked for.
    """

    def __init__(self, s: Structure) -> None:
        n = self.n = s.n_params
        self._structure = s
        self.gammas = np.unique(s.cell_factors[s.cell_factors < n]).astype(np.int32)
        # A parameter that multiplies yields directly enters through its logarithmic derivative 1 / value.
        is_factor = np.zeros(n + 1, bool)
        is_factor[s.row_factors.reshape(-1)] = is_factor[self.gammas] = True
        self.is_factor = is_factor[:n]
        # Beside the parameters stand a factor of 1 and then an alpha of 0, for places without a parameter.
        self.entry_alphas = np.where(s.entry_params == n, n + 1, s.entry_params)
        free = np.ones(n + 1, bool)
        free[s.normal_params] = free[s.poisson_params] = free[n] = False
        # Rows that a free factor multiplies.
        self.grows = free[s.row_factors].any(0) if len(s.row_factors) else np.zeros(s.n_rows, bool)
        self.shift_of_param = inverse_of(s.shift_params, n)
        self.normal_of_param = inverse_of(s.normal_params, n)
        self.poisson_of_param = inverse_of(s.poisson_params, n)
        kinks = np.zeros(n + 1, bool)
        kinks[s.shift_params] |= has_kink(s.histosys)
        kinks[s.entry_params.reshape(-1)] |= has_kink(s.normsys)
        # Parameters in which the yields have a kink at 0; None where none has.
        self.kinks = kinks[:n] if kinks[:n].any() else None

    @cached_property
    def bins(self) -> GroupSum:
        """Sums over the cells of each bin."""
        s = self._structure
        if s.pairs is not None:
            return GroupSum(s.n_bins, owned(s.cell_bins, s.n_bins, s.n_cells))
        return GroupSum.of(members(s.cell_bins, s.n_bins), s.n_cells)

    @cached_property
    def row_param_of_param(self) -> np.ndarray:
        """Place of each parameter among those that act on rows, beyond them for the others."""
        return inverse_of(self._row_params, self.n)

    @cached_property
    def _row_params(self) -> np.ndarray:
        s = self._structure
        acting = np.unique(np.concatenate([s.entry_params.reshape(-1), s.row_factors.reshape(-1)]))
        return acting[acting < self.n]

    @cached_property
    def row_log_derivatives(self) -> np.ndarray:
        """For each row and each parameter that acts on rows: where its logarithmic derivative stands.

        The place is one in [entries, 1 / parameters]; beyond both where the parameter does not act on the row.
        """
        return row_logs(self._structure, self.row_param_of_param, len(self._row_params))

    @cached_property
    def gamma_of_param(self) -> np.ndarray:
        """Place of each parameter among the gammas, beyond them for the others."""
        return inverse_of(self.gammas, self.n)

    @cached_property
    def gamma_of_param_padded(self) -> np.ndarray:
        """The same for a parameter that does not exist as well."""
        return np.append(self.gamma_of_param, len(self.gammas)).astype(np.int32)

    @cached_property
    def cell_by_row(self) -> np.ndarray:
        """Cells of each bin and of each gamma, spread over the rows: at most one cell of a row in either."""
        s = self._structure
        gammas = self.gamma_of_param_padded[s.cell_factors]
        factor, cell = np.nonzero(gammas < len(self.gammas))
        table = np.full((s.n_bins + len(self.gammas), s.n_rows), s.n_cells, dtype=np.int32)
        table[s.cell_bins, s.cell_rows] = np.arange(s.n_cells)
        table[s.n_bins + gammas[factor, cell], s.cell_rows[cell]] = cell
        return table

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """d(bin) / d(gamma): the (bin, gamma) pairs that exist, and the cells of each."""
        s = self._structure
        by_gamma = members(s.cell_factors.reshape(-1), self.n)
        pairs: dict[tuple[int, int], list[int]] = {}
        for p in self.gammas.tolist():
            for place in by_gamma[p]:
                cell = place % s.n_cells
                pairs.setdefault((int(s.cell_bins[cell]), p), []).append(cell)
        bins, params = (np.array([pair[k] for pair in pairs], dtype=np.int32) for k in (0, 1))
        return bins, params, list(pairs.values())

    @property
    def pair_bins(self) -> np.ndarray:
        """Bin of each pair."""
        return self._pairs[0]

    @property
    def pair_params(self) -> np.ndarray:
        """Gamma of each pair."""
        return self._pairs[1]

    @property
    def pairs(self) -> list[list[int]]:
        """Cells of each pair."""
        return self._pairs[2]

    @cached_property
    def pair_cells(self) -> GroupSum:
        """Sums over the cells of each pair."""
        return GroupSum.of(self.pairs, self._structure.n_cells)

    @cached_property
    def double(self) -> np.ndarray:
        """Two gammas on one cell, in both orders: (cell, gamma, other gamma), shape (n, 3)."""
        return doubles(self._structure.cell_factors, self.n)


def inverse_of(places: np.ndarray, n: int) -> np.ndarray:
    """Where each of n numbers stands among some of them; beyond their end where it does not."""
    result = np.full(n, len(places), dtype=np.int32)
    result[places] = np.arange(len(places))
    return result


def row_logs(s: Structure, column_of_param: np.ndarray, columns: int) -> np.ndarray:
    """Where the logarithmic derivative of each row by some parameters stands: (n_rows, columns).

    The place is one in [entries, 1 / parameters]; beyond both where the parameter does not act on the row, or has no
    column.
    """
    n = s.n_params
    table = np.full((s.n_rows, columns + 1), s.n_entries + n, dtype=np.int32)
    column = np.append(column_of_param, columns)
    rows = np.broadcast_to(s.chunk_rows, s.entry_params.shape)
    table[rows.reshape(-1), column[s.entry_params.reshape(-1)]] = np.arange(s.n_entries)
    rows = np.broadcast_to(np.arange(s.n_rows), s.row_factors.shape)
    table[rows, column[s.row_factors]] = s.n_entries + s.row_factors
    return table[:, :columns]


def doubles(cell_factors: np.ndarray, n: int) -> np.ndarray:
    """Two factors on one cell, in both orders: (cell, factor, other factor), shape (m, 3)."""
    parts = [np.zeros((0, 3), np.int32)]
    for i, one in enumerate(cell_factors):
        for j, other in enumerate(cell_factors):
            cells = np.flatnonzero((one < n) & (other < n)) if i != j else np.zeros(0, int)
            parts.append(np.stack([cells, one[cells], other[cells]], 1).astype(np.int32))
    whole = np.concatenate(parts)
    return whole[np.argsort(whole[:, 0], kind="stable")]
