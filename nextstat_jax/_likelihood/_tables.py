"""Index tables as arrays of a few sizes: those of a structure, padded to the least size that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._segments import pad
from ._structure import Structure, members


class Level(NamedTuple):
    """How much of everything fits into programs of one size.

    Attributes:
        params: Parameters, and auxiliary data.
        bins: Bins.
        rows: Rows, one of them unused.
        cells: Cells.
        shifts: Histosys parameters.
        entries: Normsys entries.
        per_row: Entries on one row.
        per_bin: Cells of one bin.
    """

    params: int
    bins: int
    rows: int
    cells: int
    shifts: int
    entries: int
    per_row: int
    per_bin: int


LEVELS = (
    Level(4, 4, 4, 8, 2, 4, 2, 4),
    Level(8, 8, 8, 16, 4, 8, 4, 4),
    Level(16, 16, 16, 64, 8, 24, 6, 8),
    Level(32, 32, 32, 160, 16, 64, 8, 8),
    Level(64, 64, 64, 400, 32, 192, 16, 16),
)
# Free factors of a row, and gammas of a cell.
_PER_ROW, _PER_CELL = 3, 2


@dataclass(frozen=True)
class Sizes:
    """What a program is compiled for: the static half of a likelihood in common form.

    Attributes:
        level: Index of the level.
        dtype: Floating-point type.
        normsys: Interpolation code of the normsys modifiers, None where there are none.
        histosys: Interpolation code of the histosys modifiers, None where there are none.
        kinked: Whether any parameter has a kink.
        poisson: Whether there are Poisson constraints.
        gammas: Most gammas on one cell.
    """

    level: int
    dtype: str
    normsys: str | None
    histosys: str | None
    kinked: bool
    poisson: bool
    gammas: int


class Tables(NamedTuple):
    """Index tables as arrays, padded; names as in ``Structure`` and ``Derived``.

    Places that are not used point beyond the end, those of cells and entries at a row that is not used.
    """

    shift_params: Any
    entry_params: Any
    entry_alphas: Any
    chunk_rows: Any
    row_chunks: Any
    row_factors: Any
    cell_factors: Any
    cell_rows: Any
    cell_bins: Any
    normal_params: Any
    normal_aux: Any
    poisson_params: Any
    poisson_aux: Any
    is_factor: Any
    grows: Any
    kinks: Any
    row_log_derivatives: Any
    row_param_of_param: Any
    shift_of_param: Any
    cell_by_row: Any
    gammas: Any
    gamma_of_param: Any
    gamma_of_param_padded: Any
    normal_of_param: Any
    poisson_of_param: Any
    bin_cells: Any
    pair_bins: Any
    pair_params: Any
    pair_members: Any
    double: Any
    n_data: Any


class Places(NamedTuple):
    """How much there is of what not every likelihood has."""

    shifts: int
    entries: int
    poisson: int
    gammas: int
    pairs: int
    double: int


def places_of(sizes: Sizes) -> Places:
    level = LEVELS[sizes.level]
    n = level.params
    gammas = n if sizes.gammas else 0
    return Places(
        level.shifts if sizes.histosys else 0,
        level.entries if sizes.normsys else 0,
        n if sizes.poisson else 0,
        gammas,
        2 * gammas,
        2 * level.cells if sizes.gammas > 1 else 0,
    )


def blank(sizes: Sizes) -> Tables:
    """The tables of nothing."""
    level, places = LEVELS[sizes.level], places_of(sizes)
    n, unused = level.params, level.rows - 1
    gammas, pairs = places.gammas, places.pairs

    def full(fill: int, *shape: int) -> np.ndarray:
        return np.full(shape, fill, np.int32)

    return Tables(
        shift_params=full(n, places.shifts),
        entry_params=full(n, 1, places.entries),
        entry_alphas=full(n + 1, 1, places.entries),
        chunk_rows=full(unused, places.entries),
        row_chunks=full(places.entries, level.per_row if places.entries else 0, level.rows),
        row_factors=full(n, _PER_ROW, level.rows),
        cell_factors=full(n, sizes.gammas, level.cells),
        cell_rows=full(unused, level.cells),
        cell_bins=full(0, level.cells),
        normal_params=full(n, n),
        normal_aux=full(n, n),
        poisson_params=full(n, places.poisson),
        poisson_aux=full(n, places.poisson),
        is_factor=np.zeros(n, bool),
        grows=np.zeros(level.rows, bool),
        kinks=np.zeros(n if sizes.kinked else 0, bool),
        row_log_derivatives=full(places.entries + n, level.rows, n),
        row_param_of_param=np.arange(n, dtype=np.int32),
        shift_of_param=full(places.shifts, n),
        cell_by_row=full(level.cells, level.bins + gammas, level.rows),
        gammas=full(n, gammas),
        gamma_of_param=full(gammas, n),
        gamma_of_param_padded=full(gammas, n + 1),
        normal_of_param=full(n, n),
        poisson_of_param=full(places.poisson, n),
        bin_cells=full(level.cells, level.per_bin, level.bins),
        pair_bins=full(level.bins, pairs),
        pair_params=full(n, pairs),
        pair_members=full(level.cells, level.per_bin if pairs else 0, pairs),
        double=np.broadcast_to(np.array([0, n, n], np.int32), (places.double, 3)).copy(),
        n_data=np.zeros((), np.int32),
    )


def level_of(s: Structure, rows: np.ndarray) -> int | None:
    """Index of the smallest level that is large enough; None for none."""
    if s.clip_sample is not None or s.clip_bin is not None:
        return None
    if len(s.row_factors) > _PER_ROW or len(s.cell_factors) > _PER_CELL:
        return None
    need = Level(
        max(s.n_params, s.n_aux, -(-len(s.derived.pair_bins) // 2)),
        s.n_bins,
        s.n_rows + 1,
        s.n_cells,
        s.n_shifts,
        len(rows),
        int(np.bincount(rows).max(initial=0)),
        int(np.bincount(s.cell_bins).max(initial=0)),
    )
    fits = (k for k, level in enumerate(LEVELS) if all(a <= b for a, b in zip(need, level, strict=True)))
    return next(fits, None)


def filled(s: Structure, sizes: Sizes, entry_params: np.ndarray, entry_rows: np.ndarray) -> Tables:
    """The tables of a structure."""
    d, level, tables = s.derived, LEVELS[sizes.level], blank(sizes)
    n, n_gammas, n_entries = level.params, tables.gammas.size, tables.entry_params.size
    parts = {
        "shift_params": s.shift_params,
        "entry_params": entry_params[None],
        "entry_alphas": entry_params[None],
        "chunk_rows": entry_rows,
        "row_chunks": pad(members(entry_rows, s.n_rows), n_entries),
        "row_factors": _beyond(s.row_factors, s.n_params, n),
        "cell_factors": _beyond(s.cell_factors, s.n_params, n)[: sizes.gammas],
        "cell_rows": s.cell_rows,
        "cell_bins": s.cell_bins,
        "normal_params": s.normal_params,
        "normal_aux": s.normal_aux,
        "poisson_params": s.poisson_params,
        "poisson_aux": s.poisson_aux,
        "is_factor": d.is_factor,
        "grows": d.grows,
        "shift_of_param": _beyond(d.shift_of_param, s.n_shifts, tables.shift_params.size),
        "gammas": d.gammas,
        "gamma_of_param": _beyond(d.gamma_of_param, len(d.gammas), n_gammas),
        "gamma_of_param_padded": _beyond(d.gamma_of_param, len(d.gammas), n_gammas),
        "normal_of_param": _beyond(d.normal_of_param, len(s.normal_params), tables.normal_params.size),
        "poisson_of_param": _beyond(d.poisson_of_param, len(s.poisson_params), tables.poisson_params.size),
        "bin_cells": pad(members(s.cell_bins, s.n_bins), level.cells),
        "pair_bins": d.pair_bins,
        "pair_params": d.pair_params,
        "pair_members": pad(d.pairs, level.cells),
        "double": d.double,
        "n_data": s.n_bins + s.n_aux,
    }
    if d.kinks is not None:
        parts["kinks"] = d.kinks
    for name, part in parts.items():
        put(getattr(tables, name), part)
    by_bin, by_gamma = np.split(_beyond(d.cell_by_row, s.n_cells, level.cells), [s.n_bins])
    put(tables.cell_by_row, by_bin)
    put(tables.cell_by_row[level.bins :], by_gamma)
    places, rows = np.nonzero(s.row_factors < s.n_params)
    direct = s.row_factors[places, rows]
    tables.row_log_derivatives[rows, direct] = n_entries + direct
    tables.row_log_derivatives[entry_rows, entry_params] = np.arange(len(entry_rows))
    return tables


def _beyond(index: np.ndarray, size: int, new: int) -> np.ndarray:
    """An index table in which what points beyond the end does so where the end is elsewhere."""
    return np.where(index < size, index, new)


def put(table: np.ndarray, part: Any) -> None:
    """A part at the beginning of a table."""
    part = np.asarray(part)
    if part.size or not part.ndim:
        table[tuple(slice(size) for size in part.shape)] = part
