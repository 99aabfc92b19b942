"""Workspace -> arrays. The only module that knows both the JSON and the arrays; it runs once, on the host, in NumPy.

Stages: order channels, samples and rows as pyhf does; collect the occurrences of each modifier; build the parameter
sets; lay out cells and factors; lay out the normsys entries; lay out the histosys shifts; constraints and data.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._base._doors import number, one_of
from .._base._errors import ModelError
from .._likelihood._interpolation import HISTOSYS_CODES, NORMSYS_CODES, factor_coefficients
from .._likelihood._segments import chunked, owned, pad, within
from .._likelihood._structure import Structure
from .._modifiers import REGISTRY, Constraint, Effect, ModifierType, Occurrence, ParameterConfig, ParameterSet
from .._workspace._records import Channel, Measurement, Sample, Workspace

# Up to so many parameters, and cells times histosys or rows, everything is held in dense arrays.
_DENSE_PARAMS, _DENSE_PRODUCTS = 300, 1_000_000


@dataclass(frozen=True)
class Row:
    """One sample in one channel."""

    channel: int
    sample: Sample
    first_cell: int

    @property
    def n_bins(self) -> int:
        """Bins of the channel."""
        return len(self.sample.data)


@dataclass(frozen=True)
class Names:
    """What the arrays mean: names, in the order of the arrays.

    Attributes:
        channels: Channel names, in the order of the bins.
        channel_bins: Number of bins of each channel.
        samples: Names of all samples, sorted.
        rows: (channel, sample) of each row.
        parameters: Parameter names, as pyhf's ``par_names``.
        constraints: Kind of constraint of each parameter.
        sets: (name, first parameter, number) of each parameter set.
        shifts: Name of each histosys.
        row_shifts: Histosys names of each row.
        entries: (row, name) of each normsys entry, and its places in the table.
        uncertainties: (row, kind, name, first place) of each staterror and shapesys.
        configured: (name, key) of what the measurement sets itself, so that templates do not change it.
        poi: Name of the parameter of interest or None.
        measurement: Name of the measurement.
    """

    channels: tuple[str, ...]
    channel_bins: tuple[int, ...]
    samples: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...]
    constraints: tuple[str, ...]
    sets: tuple[tuple[str, int, int], ...]
    shifts: tuple[str, ...]
    row_shifts: tuple[tuple[str, ...], ...]
    entries: tuple[tuple[int, str, int], ...]
    uncertainties: tuple[tuple[int, str, str, int], ...]
    configured: tuple[tuple[str, str], ...]
    poi: str | None
    measurement: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.rows, self.parameters, self.measurement, self.poi)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Compiled:
    """A compiled workspace: structure, names, and the arrays by the names of the likelihood's leaves."""

    structure: Structure
    names: Names
    arrays: dict[str, np.ndarray]


def compile_workspace(
    workspace: Workspace,
    measurement: Measurement,
    *,
    normsys: str = "code4",
    histosys: str = "code4p",
    clip_sample_data: Any = None,
    clip_bin_data: Any = None,
    dtype: Any = np.float64,
    poi: str | None = None,
) -> Compiled:
    """Turns a checked workspace into arrays.

    Args:
        workspace: As ``read_workspace`` returns it.
        measurement: One of its measurements.
        normsys: ``"code1"`` or ``"code4"``.
        histosys: ``"code0"``, ``"code2"`` or ``"code4p"``.
        clip_sample_data: Least yield of a sample in a bin, or None.
        clip_bin_data: Least yield of a bin, or None.
        dtype: Of the arrays.
        poi: Name of the parameter of interest, or None.

    Raises:
        ModelError: For an unknown interpolation code or clip value.
    """
    _check_options(normsys, histosys, clip_sample_data, clip_bin_data)
    channels = sorted(workspace.channels, key=lambda channel: channel.name)
    rows = _rows(channels)
    occurrences = _occurrences(rows, channels)
    sets = _parameter_sets(occurrences, measurement)
    first = dict(zip(sets, np.cumsum([0, *(s.n for s in sets.values())]).tolist(), strict=False))
    n_params = sum(s.n for s in sets.values())
    _warn(sets, occurrences)
    cells = _cells(rows, channels, occurrences, first, n_params)
    entries = _entries(rows, occurrences, first, n_params)
    shifts = _shifts(rows, occurrences, first, cells["nominal"])
    constraints = _constraints(sets, first)
    structure = Structure(
        n_params=n_params,
        n_bins=sum(len(c.samples[0].data) for c in channels),
        n_aux=len(constraints["auxdata"]),
        normsys=normsys,
        histosys=histosys,
        clip_sample=clip_sample_data,
        clip_bin=clip_bin_data,
        shift_params=shifts["params"],
        entry_params=entries["params"],
        chunk_rows=entries["chunk_rows"],
        row_chunks=entries["row_chunks"],
        row_factors=cells["row_factors"],
        cell_factors=cells["cell_factors"],
        cell_rows=cells["rows"],
        cell_bins=cells["bins"],
        uncertainty_cells=cells["uncertainty_cells"],
        uncertainty_params=cells["uncertainty_params"],
        **{key: constraints[key] for key in ("normal_params", "normal_aux", "poisson_params", "poisson_aux")},
        pairs=shifts["pairs"] if _large(n_params, cells, shifts) else None,
    )
    observed = _observed(workspace, channels)
    joined = {
        key: np.concatenate([getattr(s, key) for s in sets.values()]) if sets else np.zeros(0)
        for key in ("init", "lower", "upper", "frozen")
    }
    floats = {
        "nominal": cells["nominal"],
        "shifts": _laid_out(structure, shifts),
        "uncertainties": cells["uncertainties"],
        "widths": constraints["widths"],
        "tau": constraints["tau"],
        "observed": np.concatenate([observed, constraints["auxdata"]]),
        **joined,
    }
    floats["scale"] = _scale(structure, cells["nominal"], joined["init"])
    arrays = {key: np.asarray(value, dtype=dtype) for key, value in floats.items()}
    arrays["factors"] = factor_coefficients(
        np.asarray(entries["hi"], dtype=dtype), np.asarray(entries["lo"], dtype=dtype)
    ).astype(dtype)
    names = _names(channels, rows, sets, first, measurement, cells, entries, shifts, poi)
    return Compiled(structure, names, arrays)


def _scale(structure: Structure, nominal: np.ndarray, init: np.ndarray) -> np.ndarray:
    """The yields of each bin at the initial parameters, variations left aside; 1 where there are none."""
    padded = np.append(init, 1.0)
    cells = (
        nominal * padded[structure.row_factors].prod(0)[structure.cell_rows] * padded[structure.cell_factors].prod(0)
    )
    total = np.bincount(structure.cell_bins, cells, structure.n_bins)
    return np.where(total > 0, total, 1.0)


def _names(
    channels: Sequence[Channel],
    rows: Sequence[Row],
    sets: dict[str, ParameterSet],
    first: dict[str, int],
    measurement: Measurement,
    cells: dict[str, Any],
    entries: dict[str, Any],
    shifts: dict[str, Any],
    poi: str | None,
) -> Names:
    return Names(
        channels=tuple(c.name for c in channels),
        channel_bins=tuple(len(c.samples[0].data) for c in channels),
        samples=tuple(sorted({row.sample.name for row in rows})),
        rows=tuple((channels[row.channel].name, row.sample.name) for row in rows),
        parameters=_parameter_names(sets),
        constraints=tuple(s.constraint.value for s in sets.values() for _ in range(s.n)),
        sets=tuple((name, first[name], s.n) for name, s in sets.items()),
        shifts=shifts["names"],
        row_shifts=shifts["row_names"],
        entries=entries["names"],
        uncertainties=cells["uncertainty_names"],
        configured=tuple(
            (config.name, key)
            for config in measurement.parameters
            for key in ("auxdata", "sigmas", "factors", "fixed")
            if getattr(config, key) is not None
        ),
        poi=poi,
        measurement=measurement.name,
    )


def _check_options(normsys: str, histosys: str, clip_sample: Any, clip_bin: Any) -> None:
    for option, code, allowed in (("normsys", normsys, NORMSYS_CODES), ("histosys", histosys, HISTOSYS_CODES)):
        one_of(code, allowed, option, ModelError)
    for option, value in (("clip_sample_data", clip_sample), ("clip_bin_data", clip_bin)):
        if value is not None:
            number(value, option, -np.inf, np.inf, ModelError, ", or None")
    if histosys == "code2":
        warnings.warn("histosys='code2' jumps at |alpha| = 1, as in pyhf: fits may stop there", stacklevel=4)


def _rows(channels: Sequence[Channel]) -> list[Row]:
    """Rows in pyhf's order: channels sorted by name, samples sorted by name within each."""
    rows: list[Row] = []
    first_cell = 0
    for k, channel in enumerate(channels):
        for sample in sorted(channel.samples, key=lambda sample: sample.name):
            rows.append(Row(k, sample, first_cell))
            first_cell += len(sample.data)
    return rows


def _occurrences(rows: Sequence[Row], channels: Sequence[Channel]) -> dict[tuple[str, str], list[Occurrence]]:
    """Occurrences by (type, name), in pyhf's order of parameters.

    pyhf goes through the types in alphabetic order and, within a type, through rows and then names; only parameters of
    some types are sorted by name.
    """
    found: dict[tuple[str, str], list[Occurrence]] = {}
    for index, row in enumerate(rows):
        nominal = np.asarray(row.sample.data, dtype=np.float64)
        channel = channels[row.channel].name
        for modifier in sorted(row.sample.modifiers, key=lambda m: (m.name, m.type)):
            occurrence = Occurrence(channel, row.sample.name, index, nominal, modifier.data)
            found.setdefault((modifier.type, modifier.name), []).append(occurrence)
    free = [key for kind in sorted(REGISTRY) for key in found if key[0] == kind and not REGISTRY[kind].by_name]
    by_name = sorted((key for key in found if REGISTRY[key[0]].by_name), key=lambda key: key[1])
    return {key: found[key] for key in [*free, *by_name]}


def _parameter_sets(
    occurrences: dict[tuple[str, str], list[Occurrence]], measurement: Measurement
) -> dict[str, ParameterSet]:
    configs = {config.name: config for config in measurement.parameters}
    sets: dict[str, ParameterSet] = {}
    for (kind, name), mine in occurrences.items():
        if name not in sets:
            sets[name] = REGISTRY[kind].parameter_set(name, mine, configs.get(name, ParameterConfig(name=name)))
    if not sets:
        raise ModelError("the workspace declares no modifier, so its likelihood has no parameter")
    return sets


def _parameter_names(sets: dict[str, ParameterSet]) -> tuple[str, ...]:
    return tuple(
        label for name, s in sets.items() for label in ([name] if s.scalar else [f"{name}[{i}]" for i in range(s.n)])
    )


def _cells(
    rows: Sequence[Row],
    channels: Sequence[Channel],
    occurrences: dict[tuple[str, str], list[Occurrence]],
    first: dict[str, int],
    n_params: int,
) -> dict[str, Any]:
    """Yields, the parameters that multiply them, and the per-bin uncertainties that constraints were made of."""
    first_bin = np.cumsum([0, *(len(c.samples[0].data) for c in channels)])
    row_factors: list[list[int]] = [[] for _ in rows]
    factors = [np.zeros((2, 0), np.int64)]  # of cells: where, and by which parameter
    uncertainties = [np.zeros(0)]
    uncertain: list[np.ndarray] = []
    uncertainty_names: list[tuple[int, str, str, int]] = []
    used = 0
    for (kind, name), mine in occurrences.items():
        modifier = REGISTRY[kind]
        if modifier.effect is Effect.ROW_FACTOR:
            for occurrence in mine:
                row_factors[occurrence.row].append(first[name])
        elif modifier.effect is Effect.CELL_FACTOR:
            start = _channel_starts(modifier, mine)
            for occurrence in mine:
                begin, owner = rows[occurrence.row].first_cell, first[name] + start[occurrence.channel]
                pair = np.array([[begin], [owner]]) + np.arange(len(occurrence.nominal))
                factors.append(pair)
                if (given := modifier.uncertainties(occurrence.data)) is not None:
                    uncertainty_names.append((occurrence.row, kind, name, used))
                    uncertainties.append(np.asarray(given, dtype=np.float64))
                    uncertain.append(pair)
                    used += len(given)
    uncertainty_cells, uncertainty_params = np.concatenate([factors[0], *uncertain], axis=1).astype(np.int32)
    lengths = [row.n_bins for row in rows]
    cells, owners = np.concatenate(factors, axis=1)
    places = owned(cells, sum(lengths), len(cells))
    return {
        "nominal": np.concatenate([np.asarray(row.sample.data, dtype=np.float64) for row in rows]),
        "rows": np.repeat(np.arange(len(rows), dtype=np.int32), lengths),
        "bins": np.concatenate([first_bin[row.channel] + np.arange(row.n_bins) for row in rows]).astype(np.int32),
        "row_factors": pad(row_factors, n_params),
        "cell_factors": np.append(owners, n_params)[places].astype(np.int32),
        "uncertainties": np.concatenate(uncertainties),
        "uncertainty_cells": uncertainty_cells,
        "uncertainty_params": uncertainty_params,
        "uncertainty_names": tuple(uncertainty_names),
    }


def _channel_starts(modifier: ModifierType, occurrences: Sequence[Occurrence]) -> dict[str, int]:
    """The first parameter of each channel among those of a name."""
    starts: dict[str, int] = {}
    used = 0
    for occurrence in occurrences:
        if occurrence.channel not in starts:
            starts[occurrence.channel] = used
            used += len(occurrence.nominal) if modifier.per_channel else 0
    return starts


def _entries(
    rows: Sequence[Row],
    occurrences: dict[tuple[str, str], list[Occurrence]],
    first: dict[str, int],
    n_params: int,
) -> dict[str, Any]:
    """normsys entries, laid out so that the product over each row is a product over columns."""
    groups: list[list[int]] = [[] for _ in rows]
    flat: list[tuple[int, str, int, float, float]] = []
    for (kind, name), mine in occurrences.items():
        modifier = REGISTRY[kind]
        if modifier.effect is Effect.INTERPOLATED_FACTOR:
            for occurrence in mine:
                groups[occurrence.row].append(len(flat))
                flat.append(
                    (occurrence.row, name, first[name], *modifier.variations(occurrence.data, occurrence.nominal))
                )
    chunks, owners = chunked(groups)
    table = pad(chunks, len(flat))
    params = np.array([*(parameter for _, _, parameter, *_ in flat), n_params], dtype=np.int32)
    high = np.array([*(up for *_, up, _ in flat), 1.0])
    low = np.array([*(down for *_, down in flat), 1.0])
    chunk_rows = np.zeros(len(chunks), dtype=np.int32)
    for row, owner in enumerate(owners):
        chunk_rows[owner] = row
    place = {int(entry): k for k, entry in enumerate(table.reshape(-1)) if entry < len(flat)}
    return {
        "params": params[table],
        "hi": high[table],
        "lo": low[table],
        "chunk_rows": chunk_rows,
        "row_chunks": pad(owners, len(chunks)),
        "names": tuple((row, name, place[k]) for k, (row, name, *_) in enumerate(flat)),
    }


def _shifts(
    rows: Sequence[Row],
    occurrences: dict[tuple[str, str], list[Occurrence]],
    first: dict[str, int],
    nominal: np.ndarray,
) -> dict[str, Any]:
    """Odd and even parts of the histosys shifts, one matrix row per parameter and part."""
    mine = {name: found for (kind, name), found in occurrences.items() if REGISTRY[kind].effect is Effect.SHIFT}
    kind_of = {name: kind for kind, name in occurrences if REGISTRY[kind].effect is Effect.SHIFT}
    row_names: list[list[str]] = [[] for _ in rows]
    high, low, pairs = [np.zeros(0)], [np.zeros(0)], []
    for k, (name, found) in enumerate(mine.items()):
        for occurrence in found:
            up, down = REGISTRY[kind_of[name]].variations(occurrence.data, occurrence.nominal)
            high.append(np.asarray(up, dtype=np.float64))
            low.append(np.asarray(down, dtype=np.float64))
            pairs.append((occurrence.row, k))
            row_names[occurrence.row].append(name)
    lengths = np.array([len(part) for part in high[1:]], dtype=np.int64)
    cells = np.repeat(np.array([rows[row].first_cell for row, _ in pairs], dtype=np.int64), lengths) + within(lengths)
    owners = np.repeat(np.array([k for _, k in pairs], dtype=np.int64), lengths)
    above, below = np.concatenate(high) - nominal[cells], np.concatenate(low) - nominal[cells]
    return {
        "params": np.array([first[name] for name in mine], dtype=np.int32),
        "owners": owners,
        "cells": cells,
        "parts": (0.5 * (above - below), 0.5 * (above + below)),
        "pairs": np.array(pairs, dtype=np.int32).reshape(-1, 2),
        "names": tuple(mine),
        "row_names": tuple(tuple(names) for names in row_names),
    }


def _laid_out(structure: Structure, shifts: dict[str, Any]) -> np.ndarray:
    """The numbers of the histosys as the structure lays them out."""
    layout = structure.shift_layout
    result = np.zeros(layout.shape)
    if len(shifts["cells"]):
        for places, numbers in zip(layout.places(shifts["owners"], shifts["cells"]), shifts["parts"], strict=True):
            result[places] = numbers
    return result


def _large(n_params: int, cells: dict[str, Any], shifts: dict[str, Any]) -> bool:
    """Whether a likelihood is laid out in pieces, with an arrow for its Hessian.

    Measured: below, a dense matrix and one product with all histosys are faster, and share compiled programs.
    """
    forced = os.environ.get("NEXTSTAT_JAX_MATRIX", "")
    if forced in ("arrow", "dense"):
        return forced == "arrow"
    n_cells, n_rows = len(cells["nominal"]), cells["row_factors"].shape[1]
    return n_params > _DENSE_PARAMS or max(n_cells * len(shifts["params"]), n_cells * n_rows) > _DENSE_PRODUCTS


def _constraints(sets: dict[str, ParameterSet], first: dict[str, int]) -> dict[str, np.ndarray]:
    """Auxiliary data in pyhf's order, and which parameter each of them constrains."""
    auxdata: list[np.ndarray] = []
    index: dict[Constraint, list[np.ndarray]] = {Constraint.NORMAL: [], Constraint.POISSON: []}
    places: dict[Constraint, list[np.ndarray]] = {Constraint.NORMAL: [], Constraint.POISSON: []}
    scale: dict[Constraint, list[np.ndarray]] = {Constraint.NORMAL: [], Constraint.POISSON: []}
    used = 0
    for name, s in sets.items():
        if s.constraint is Constraint.NONE or s.auxdata is None:
            continue
        auxdata.append(s.auxdata)
        index[s.constraint].append(first[name] + np.arange(s.n))
        places[s.constraint].append(used + np.arange(s.n))
        weight = s.width if s.constraint is Constraint.NORMAL else s.factor
        assert weight is not None
        scale[s.constraint].append(weight)
        used += s.n

    def join(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
        return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)

    return {
        "auxdata": join(auxdata, np.float64),
        "normal_params": join(index[Constraint.NORMAL], np.int32),
        "normal_aux": join(places[Constraint.NORMAL], np.int32),
        "poisson_params": join(index[Constraint.POISSON], np.int32),
        "poisson_aux": join(places[Constraint.POISSON], np.int32),
        "widths": join(scale[Constraint.NORMAL], np.float64),
        "tau": join(scale[Constraint.POISSON], np.float64),
    }


def _observed(workspace: Workspace, channels: Sequence[Channel]) -> np.ndarray:
    counts = {observation.name: observation.data for observation in workspace.observations}
    return np.concatenate([np.asarray(counts[channel.name], dtype=np.float64) for channel in channels])


def _warn(sets: dict[str, ParameterSet], occurrences: dict[tuple[str, str], list[Occurrence]]) -> None:
    """Says what the types have to say of their modifiers; pyhf is silent about it."""
    for (kind, name), mine in occurrences.items():
        for text in REGISTRY[kind].warnings(name, mine, sets[name]):
            warnings.warn(text, stacklevel=4)
