"""Replacing yields, shifts and uncertainties in a likelihood without building it again.

What follows from the replaced numbers (staterror widths, shapesys counts, which bins lost their uncertainty) follows
here too, differentiably, so that the result equals the likelihood of a workspace edited in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from .._base._doors import one_of
from .._base._errors import ModelError
from .._likelihood._histfactory import Arrays
from .._likelihood._interpolation import factor_coefficients
from .._likelihood._segments import scatter_sum
from .._likelihood._structure import Structure
from .._modifiers import REGISTRY, Constraint
from ._compile import Names

# A sample name, or a tuple that begins with one; anything else is refused with a message of ours.
Key = Any


def with_templates(
    likelihood: Arrays, names: Names, templates: Mapping[Key, Any], variations: str = "absolute"
) -> Arrays:
    """The likelihood with replaced templates; see ``HistFactoryModel.with_templates``."""
    one_of(variations, ("absolute", "relative"), "variations", ModelError)
    if not isinstance(templates, Mapping):
        raise ModelError(f"templates is a {type(templates).__name__}: give a mapping from keys to arrays")
    targets = {key: _target(names, key) for key in templates}
    values = {key: _value(likelihood, key, templates[key], targets[key]) for key in templates}
    shared = [key for kind in _Target.KINDS for key in targets if targets[key].kind == kind]

    nominal, uncertainties, factors = likelihood.nominal, likelihood.uncertainties, likelihood.factors
    for key in shared:
        place = targets[key].places
        if targets[key].kind == "nominal":
            nominal = nominal.at[place].set(values[key])
        elif targets[key].kind == "uncertainty":
            uncertainties = uncertainties.at[place].set(values[key])
    shifts, layout = likelihood.shifts, likelihood.structure.shift_layout
    if variations == "relative":
        known = likelihood.nominal != 0
        # A yield of zero has no relative variation: its shift keeps the absolute size.
        grown = jnp.where(known, nominal / jnp.where(known, likelihood.nominal, 1.0), 1.0)
        shifts = layout.by_cell(shifts, grown)
    for key in shared:
        target = targets[key]
        if target.kind in ("hi", "lo"):
            shifts = _with_variation(shifts, layout, nominal, target, values[key])
        elif target.kind in ("factor hi", "factor lo"):
            factors = _with_factor(factors, target, values[key])
    changed = replace(likelihood, nominal=nominal, shifts=shifts, factors=factors, uncertainties=uncertainties)
    changed = replace(changed, scale=_scale(likelihood, nominal))
    return _follow(changed, names, targets)


class _Target:
    """Where a template goes: its kind, and its places in the array of that kind."""

    KINDS = ("nominal", "uncertainty", "hi", "lo", "factor hi", "factor lo")

    def __init__(self, kind: str, places: Any, shift: int = -1) -> None:
        self.kind, self.shift = kind, shift
        self.places = np.asarray(places, dtype=np.int32)


def first_cells(names: Names) -> list[int]:
    """First cell of each row."""
    bins = dict(zip(names.channels, names.channel_bins, strict=True))
    return np.cumsum([0, *(bins[channel] for channel, _ in names.rows)]).tolist()


def sample_cells(names: Names, sample: str, channel: str | None = None) -> np.ndarray:
    """Cells of a sample, in all channels where it appears or in one; ``ModelError`` where there is none."""
    return _cells_of(names, _rows_of(names, sample, channel))


def _target(names: Names, key: Key) -> _Target:
    """Finds what a key names; every error lists what there is."""
    if isinstance(key, str):
        key = (key,)
    if not (isinstance(key, tuple) and 1 <= len(key) <= 4 and all(isinstance(part, str) for part in key)):
        raise ModelError(
            f"template key {key!r}: expected a sample, (sample, channel), (sample, 'stat') or "
            "(sample, modifier, 'hi' | 'lo' | 'uncertainty'), each with an optional channel after the sample"
        )
    sample, *rest = key
    # Three parts are (sample, modifier, side) unless the last is "stat", which needs no modifier.
    with_channel = len(key) in (2, 4) or key[-1] == "stat"
    channel = rest.pop(0) if with_channel and rest and rest[0] in names.channels else None
    rows = _rows_of(names, sample, channel)
    if not rest:
        return _Target("nominal", _cells_of(names, rows))
    if rest == ["stat"]:
        return _uncertainty(names, key, rows, None)
    if len(rest) == 2 and rest[1] == "uncertainty":
        return _uncertainty(names, key, rows, rest[0])
    if len(rest) == 2 and rest[1] in ("hi", "lo"):
        return _variation(names, key, rows, rest[0], rest[1])
    raise ModelError(
        f"template key {key!r}: {rest[0]!r} is neither a channel ({', '.join(names.channels)}) nor followed by 'hi', "
        "'lo' or 'uncertainty'"
    )


def _rows_of(names: Names, sample: str, channel: str | None = None) -> list[int]:
    words = isinstance(sample, str) and (channel is None or isinstance(channel, str))
    rows = [k for k, row in enumerate(names.rows) if words and row[1] == sample and channel in (None, row[0])]
    if not rows:
        where = "" if channel is None else f" in channel {channel!r:.60}"
        raise ModelError(f"there is no sample {sample!r:.60}{where}; samples: {', '.join(names.samples)}")
    return rows


def _cells_of(names: Names, rows: list[int]) -> np.ndarray:
    first = first_cells(names)
    return np.concatenate([np.arange(first[row], first[row + 1]) for row in rows])


def _uncertainty(names: Names, key: Key, rows: list[int], name: str | None) -> _Target:
    bins = dict(zip(names.channels, names.channel_bins, strict=True))
    places = [
        np.arange(first, first + bins[names.rows[row][0]])
        for row, kind, mine, first in names.uncertainties
        if row in rows and (mine == name if name else REGISTRY[kind].template_word == "stat")
    ]
    if not places:
        raise ModelError(
            f"template key {key!r}: that sample carries no {'modifier ' + repr(name) if name else 'staterror'}"
        )
    return _Target("uncertainty", np.concatenate(places))


def _variation(names: Names, key: Key, rows: list[int], name: str, side: str) -> _Target:
    carriers = [row for row in rows if name in names.row_shifts[row]]
    if carriers:
        return _Target(side, _cells_of(names, carriers), names.shifts.index(name))
    places = [place for row, mine, place in names.entries if row in rows and mine == name]
    if places:
        return _Target(f"factor {side}", places)
    known = sorted({n for row in rows for n in names.row_shifts[row]} | {n for r, n, _ in names.entries if r in rows})
    raise ModelError(
        f"template key {key!r}: that sample carries no histosys or normsys {name!r}; it has: {', '.join(known)}"
    )


def _value(likelihood: Arrays, key: Key, value: Any, target: _Target) -> Array:
    try:
        array = jnp.asarray(value, likelihood.dtype)
    except (TypeError, ValueError):
        raise ModelError(f"template {key!r} is {value!r:.60}: expected numbers") from None
    if target.kind.startswith("factor") and array.ndim == 0:
        return jnp.broadcast_to(_checked(key, array, target), target.places.shape)
    if array.shape != target.places.shape:
        raise ModelError(f"template {key!r} has shape {array.shape}, expected {target.places.shape}")
    return _checked(key, array, target)


def _checked(key: Key, array: Array, target: _Target) -> Array:
    """Refuses what a workspace may not hold either, where the numbers can be looked at."""
    if not isinstance(array, Tracer):
        numbers = np.asarray(array)
        if target.kind not in ("nominal", "hi", "lo") and (numbers < 0).any():
            raise ModelError(f"template {key!r} is {numbers.min():g} somewhere: it cannot be negative")
    return array


def _with_variation(shifts: Array, layout: Any, nominal: Array, target: _Target, value: Array) -> Array:
    where = layout.places(target.shift, target.places)
    odd, even = (shifts[place] for place in where)
    up, down = even + odd, even - odd
    given = value - nominal[target.places]
    up, down = (given, down) if target.kind == "hi" else (up, given)
    return shifts.at[where[0]].set(0.5 * (up - down)).at[where[1]].set(0.5 * (up + down))


def _with_factor(factors: Array, target: _Target, value: Array) -> Array:
    flat = factors.reshape(8, -1)
    hi, lo = jnp.exp(flat[6, target.places]), jnp.exp(flat[7, target.places])
    hi, lo = (value, lo) if target.kind == "factor hi" else (hi, value)
    return flat.at[:, target.places].set(factor_coefficients(hi, lo, jnp)).reshape(factors.shape)


def _scale(likelihood: Arrays, nominal: Array) -> Array:
    """The unit of each bin, grown with its nominal yields."""
    s = likelihood.structure
    before, after = (scatter_sum(lax.stop_gradient(x), s.cell_bins, s.n_bins) for x in (likelihood.nominal, nominal))
    grown = jnp.where(before > 0, likelihood.scale * after / jnp.where(before > 0, before, 1.0), after)
    return jnp.where(grown > 0, grown, 1.0)


def _follow(likelihood: Arrays, names: Names, targets: Mapping[Key, _Target]) -> Arrays:
    """Recomputes constraint widths and counts whose yields or uncertainties were replaced."""
    s = likelihood.structure
    if s.uncertainty_cells.size == 0:
        return likelihood
    cells = np.concatenate([t.places for t in targets.values() if t.kind == "nominal"] or [np.zeros(0, np.int32)])
    places = np.concatenate([t.places for t in targets.values() if t.kind == "uncertainty"] or [np.zeros(0, np.int32)])
    touched = np.zeros(s.n_params + 1, dtype=bool)
    touched[s.uncertainty_params[np.isin(s.uncertainty_cells, cells)]] = True
    touched[s.uncertainty_params[places]] = True
    set_of = np.empty(s.n_params + 1, dtype=object)
    for name, first, n in names.sets:
        set_of[first : first + n] = name
    configured = set(names.configured)

    def follows(parameter: int, key: str) -> bool:
        return bool(touched[parameter]) and (set_of[parameter], key) not in configured

    delta = likelihood.uncertainties
    total = scatter_sum(likelihood.nominal[s.uncertainty_cells], s.uncertainty_params, s.n_params)
    variance = scatter_sum(delta * delta, s.uncertainty_params, s.n_params)
    kinds = _kinds(names, s)
    widths, tau, observed = likelihood.widths, likelihood.tau, likelihood.observed
    degenerate = likelihood.frozen
    at = s.n_bins + s.poisson_aux
    for kind in sorted(set(kinds.tolist()) - {""}):
        value, undefined = REGISTRY[kind].constraint_from(total, variance, jnp)
        mine = kinds == kind
        degenerate = jnp.where(mine, undefined.astype(likelihood.dtype), degenerate)
        if REGISTRY[kind].constraint is Constraint.NORMAL:
            changes = np.array([mine[p] and follows(p, "sigmas") for p in s.normal_params.tolist()], dtype=bool)
            widths = jnp.where(changes, value[s.normal_params], widths)
        else:
            changes = np.array([mine[p] and follows(p, "factors") for p in s.poisson_params.tolist()], dtype=bool)
            tau = jnp.where(changes, value[s.poisson_params], tau)
            aux = np.array([mine[p] and follows(p, "auxdata") for p in s.poisson_params.tolist()], dtype=bool)
            observed = observed.at[at].set(jnp.where(aux, value[s.poisson_params], observed[at]))
    free = np.array([follows(p, "fixed") for p in range(s.n_params)], dtype=bool)
    frozen = jnp.where(free, degenerate, likelihood.frozen)
    return replace(likelihood, widths=widths, tau=tau, observed=observed, frozen=frozen)


def _kinds(names: Names, s: Structure) -> np.ndarray:
    """The modifier type behind the uncertainties of each parameter, "" without, shape (n_params,)."""
    bins = dict(zip(names.channels, names.channel_bins, strict=True))
    kinds = np.full(s.n_params, "", dtype=object)
    for row, kind, _, first in names.uncertainties:
        kinds[s.uncertainty_params[first : first + bins[names.rows[row][0]]]] = kind
    return kinds
