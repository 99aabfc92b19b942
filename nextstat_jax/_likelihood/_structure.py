"""The static half of a likelihood: which numbers meet which, and nothing that has a value.

Two workspaces with equal structures share every compiled function, whatever their yields, names or data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from ._interpolation import has_kink
from ._segments import GroupSum


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
    """Index tables that follow from a structure: who gathers what in the rates, the gradient and the Hessian."""

    def __init__(self, s: Structure) -> None:
        n = s.n_params
        self.bins = GroupSum.of(members(s.cell_bins, s.n_bins), s.n_cells)
        by_row = members(s.row_factors.reshape(-1), n)
        by_cell = [[place % s.n_cells for place in group] for group in members(s.cell_factors.reshape(-1), n)]
        # A parameter that multiplies yields directly enters through its logarithmic derivative 1 / value.
        self.is_factor = np.array([bool(by_row[p] or by_cell[p]) for p in range(n)])
        # Beside the parameters stand a factor of 1 and then an alpha of 0, for places without a parameter.
        self.entry_alphas = np.where(s.entry_params == n, n + 1, s.entry_params)
        free = np.ones(n + 1, bool)
        free[s.normal_params] = free[s.poisson_params] = free[n] = False
        # Rows that a free factor multiplies.
        self.grows = free[s.row_factors].any(0) if len(s.row_factors) else np.zeros(s.n_rows, bool)
        self._row_table(s)
        self.shift_of_param = np.full(n, s.n_shifts, dtype=np.int32)
        self.shift_of_param[s.shift_params] = np.arange(s.n_shifts)
        self._cell_parameters(s, by_cell)
        self.normal_of_param = np.full(n, len(s.normal_params), dtype=np.int32)
        self.normal_of_param[s.normal_params] = np.arange(len(s.normal_params))
        self.poisson_of_param = np.full(n, len(s.poisson_params), dtype=np.int32)
        self.poisson_of_param[s.poisson_params] = np.arange(len(s.poisson_params))
        kinks = np.zeros(n + 1, bool)
        kinks[s.shift_params] |= has_kink(s.histosys)
        kinks[s.entry_params.reshape(-1)] |= has_kink(s.normsys)
        # Parameters in which the yields have a kink at 0; None where none has.
        self.kinks = kinks[:n] if kinks[:n].any() else None

    def _row_table(self, s: Structure) -> None:
        """For each row and each parameter that acts on rows: where its logarithmic derivative stands.

        The place is one in [entries, 1 / parameters]; beyond both where the parameter does not act on the row.
        """
        n = s.n_params
        acting = sorted({int(p) for p in [*s.entry_params.reshape(-1), *s.row_factors.reshape(-1)] if p < n})
        self.row_param_of_param = np.full(n, len(acting), dtype=np.int32)
        self.row_param_of_param[acting] = np.arange(len(acting))
        table = np.full((s.n_rows, len(acting)), s.n_entries + n, dtype=np.int32)
        rows = np.broadcast_to(s.chunk_rows, s.entry_params.shape).reshape(-1)
        for place, (parameter, row) in enumerate(zip(s.entry_params.reshape(-1), rows, strict=True)):
            if parameter < n:
                table[row, self.row_param_of_param[parameter]] = place
        for factors in s.row_factors:
            for row, parameter in enumerate(factors):
                if parameter < n:
                    table[row, self.row_param_of_param[parameter]] = s.n_entries + parameter
        self.row_log_derivatives = table

    def _cell_parameters(self, s: Structure, by_cell: list[list[int]]) -> None:
        """Tables for the parameters that multiply single bins (the gammas)."""
        n, n_rows = s.n_params, s.n_rows
        gammas = [p for p in range(n) if by_cell[p]]
        self.gammas = np.array(gammas, dtype=np.int32)
        # Cells of each bin and of each gamma, spread over the rows: at most one cell of a row in either.
        owners = members(s.cell_bins, s.n_bins) + [by_cell[p] for p in gammas]
        self.cell_by_row = np.full((len(owners), n_rows), s.n_cells, dtype=np.int32)
        for k, cells in enumerate(owners):
            self.cell_by_row[k, s.cell_rows[cells]] = cells
        self.gamma_of_param = np.full(n, len(gammas), dtype=np.int32)
        self.gamma_of_param[self.gammas] = np.arange(len(gammas))
        self.gamma_of_param_padded = np.append(self.gamma_of_param, len(gammas)).astype(np.int32)
        # d(bin) / d(gamma): cells grouped by the (bin, gamma) pairs that exist.
        pairs: dict[tuple[int, int], list[int]] = {}
        for p in gammas:
            for cell in by_cell[p]:
                pairs.setdefault((int(s.cell_bins[cell]), p), []).append(cell)
        self.pair_bins = np.array([b for b, _ in pairs], dtype=np.int32)
        self.pair_params = np.array([p for _, p in pairs], dtype=np.int32)
        self.pairs = list(pairs.values())
        self.pair_cells = GroupSum.of(self.pairs, s.n_cells)
        # Two gammas on one cell: their mixed second derivative.
        both: list[tuple[int, int, int]] = []
        for cell in range(s.n_cells):
            mine = [int(p) for p in s.cell_factors[:, cell] if p < n]
            both.extend((cell, p, q) for p in mine for q in mine if p != q)
        self.double = np.array(both, dtype=np.int32).reshape(-1, 3)
