"""Hypothesis strategies for random valid workspaces and for parameter points in them.

Numbers are drawn on coarse grids of moderate size: examples shrink to something readable, and a comparison at 1e-9
means what it says. What pyhf cannot express or gets wrong is not drawn: a staterror whose samples differ between its
channels, a shapefactor over channels of different length, a vanishing normsys variation with code 4, a positive
`clip_sample_data` (pyhf lifts samples that a channel does not have).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.reference.loop_twin import LoopTwin

Json = dict[str, Any]
Cell = tuple[str, str]

CHANNELS = ("search", "control", "aside")
SAMPLES = ("signal", "top", "bosons", "fakes")
ALPHAS = ("scale", "jets", "rate")

NORMSYS_CODES = st.sampled_from(["code1", "code4"])
HISTOSYS_CODES = st.sampled_from(["code0", "code2", "code4p"])


@dataclass(frozen=True)
class Case:
    """A random workspace, the options to open it with and parameter points to evaluate it at.

    Attributes:
        workspace: The JSON.
        options: Keyword arguments of the twin and of the oracle (codes and clips).
        points: Shape (points, parameters); the first is the initial point, all are within the bounds.
    """

    workspace: Json
    options: dict[str, Any]
    points: NDArray[np.float64]

    def twin(self) -> LoopTwin:
        """The loop twin of this workspace."""
        return LoopTwin(self.workspace, **self.options)


def grid(lowest: int, highest: int, step: float) -> st.SearchStrategy[float]:
    """Multiples of a step; they shrink toward the lowest."""
    return st.integers(lowest, highest).map(lambda i: round(i * step, 6))


def mostly(ordinary: st.SearchStrategy[float], rare: st.SearchStrategy[float], one_in: int) -> st.SearchStrategy[float]:
    """A choice with a weight, which `one_of` does not offer: it drops what is repeated."""
    return st.integers(1, one_in).flatmap(lambda i: rare if i == one_in else ordinary)


# An empty or negative bin here and there: more would leave few points at which the likelihood is finite.
YIELD = mostly(grid(10, 2000, 0.1), st.sampled_from([0.0, 0.0, -0.5]), one_in=20)
RELATIVE = grid(0, 40, 0.01).map(lambda x: x - 0.2)


def _vector(element: st.SearchStrategy[float], number: int) -> st.SearchStrategy[list[float]]:
    return st.lists(element, min_size=number, max_size=number)


@st.composite
def _samples_of_channels(draw: st.DrawFn) -> dict[str, dict[str, list[float]]]:
    """Channels, their samples and the yields, none of them in alphabetical order."""
    channels = draw(st.permutations(CHANNELS))[: draw(st.integers(1, 3))]
    layout: dict[str, dict[str, list[float]]] = {}
    for channel in channels:
        bins = draw(st.integers(1, 4))
        samples = draw(st.permutations(SAMPLES))[: draw(st.integers(1, 4))]
        layout[channel] = {sample: draw(_vector(YIELD, bins)) for sample in samples}
    return layout


def _some(draw: st.DrawFn, cells: list[Cell]) -> list[Cell]:
    """A random part of the cells, possibly none."""
    return [cell for cell in cells if draw(st.booleans())]


def _factors(draw: st.DrawFn, mods: dict[Cell, list[Json]]) -> None:
    cells = list(mods)
    for name in ("mu", "k_top"):
        for cell in _some(draw, cells):
            mods[cell].append({"name": name, "type": "normfactor", "data": None})
    if draw(st.booleans()):
        for cell in _some(draw, cells):
            mods[cell].append({"name": "lumi", "type": "lumi", "data": None})


def _alphas(draw: st.DrawFn, mods: dict[Cell, list[Json]], yields: dict[Cell, list[float]]) -> None:
    """Each cell may carry a normsys, a histosys or both of a name; a name is shared over channels and samples."""
    for name in ALPHAS[: draw(st.integers(0, 3))]:
        for cell in mods:
            kind = draw(st.sampled_from(["none", "normsys", "histosys", "both"]))
            if kind in ("normsys", "both"):
                data = {"lo": 1.0 + draw(RELATIVE), "hi": 1.0 + draw(RELATIVE)}
                mods[cell].append({"name": name, "type": "normsys", "data": data})
            if kind in ("histosys", "both"):
                mods[cell].append({"name": name, "type": "histosys", "data": draw(_variations(yields[cell]))})


@st.composite
def _variations(draw: st.DrawFn, nominal: list[float]) -> dict[str, list[float]]:
    def shifted() -> list[float]:
        return [round(n + draw(RELATIVE) * max(abs(n), 1.0), 6) for n in nominal]

    return {"lo_data": shifted(), "hi_data": shifted()}


def _uncertainties(draw: st.DrawFn, nominal: list[float]) -> list[float]:
    """Between 3 and 30 % of the yields, and now and then exactly zero."""
    relative = mostly(grid(3, 30, 0.01), st.just(0.0), one_in=8)
    return [round(draw(relative) * max(abs(n), 1.0), 6) for n in nominal]


def _staterrors(draw: st.DrawFn, mods: dict[Cell, list[Json]], yields: dict[Cell, list[float]]) -> None:
    """One name per channel, or one name over several channels whose carriers are the same samples in each."""
    channels = list(dict.fromkeys(channel for channel, _ in mods))
    chosen = [channel for channel in channels if draw(st.booleans())]
    shared = len(chosen) > 1 and draw(st.booleans())
    common = [s for s in SAMPLES if all((channel, s) in mods for channel in chosen)]
    carriers = [s for s in common if draw(st.booleans())] if shared else []
    for channel in chosen:
        own = [s for s in SAMPLES if (channel, s) in mods and draw(st.booleans())]
        for sample in carriers or own:
            name = "stat" if carriers else f"stat_{channel}"
            data = _uncertainties(draw, yields[channel, sample])
            mods[channel, sample].append({"name": name, "type": "staterror", "data": data})


def _shapes(draw: st.DrawFn, mods: dict[Cell, list[Json]], yields: dict[Cell, list[float]]) -> None:
    """A shapesys belongs to one cell; a shapefactor may be shared by cells of equal length."""
    cells = list(mods)
    for cell in cells:
        if draw(st.integers(0, 3)) == 3:
            data = _uncertainties(draw, yields[cell])
            mods[cell].append({"name": f"shape_{cell[0]}_{cell[1]}", "type": "shapesys", "data": data})
    if draw(st.booleans()):
        first = draw(st.sampled_from(cells))
        for cell in [first, *_some(draw, [c for c in cells if c != first and len(yields[c]) == len(yields[first])])]:
            mods[cell].append({"name": "free_shape", "type": "shapefactor", "data": None})


def _configs(draw: st.DrawFn, channels: list[Json]) -> list[Json]:
    """Configurations of some parameters; that of lumi is always complete, as pyhf demands."""
    kinds = {m["name"]: m["type"] for c in channels for s in c["samples"] for m in s["modifiers"]}
    configs: list[Json] = []
    for name in sorted(kinds):
        if kinds[name] == "lumi":
            bounds = [[0.5, 1.5]]
            aux = [draw(grid(95, 105, 0.01))]
            configs.append({"name": name, "inits": [1.0], "bounds": bounds, "auxdata": aux, "sigmas": [0.02]})
        elif kinds[name] in ("normfactor", "normsys", "histosys") and draw(st.booleans()):
            configs.append({"name": name} | draw(_scalar_config(kinds[name])))
        elif kinds[name].startswith("s") and draw(st.integers(0, 3)) == 3:
            configs.append({"name": name} | _binned_config(draw, _size_of(channels, name), kinds[name]))
    return configs


@st.composite
def _scalar_config(draw: st.DrawFn, kind: str) -> Json:
    if kind == "normfactor":
        whole = {"inits": [draw(grid(2, 30, 0.1))], "bounds": [draw(st.sampled_from([[0.0, 5.0], [-1.0, 20.0]]))]}
    else:
        whole = {"inits": [draw(grid(-10, 10, 0.1))], "bounds": [[-4.0, 4.0]], "auxdata": [draw(grid(-10, 10, 0.1))]}
    whole["fixed"] = draw(st.booleans())
    return {key: value for key, value in whole.items() if draw(st.booleans())}


def _size_of(channels: list[Json], name: str) -> int:
    measurements = [_measurement("", [LUMI])]
    twin = LoopTwin({"channels": channels, "observations": _zeros(channels), "measurements": measurements})
    return sum(label.startswith(f"{name}[") for label in twin.names)


def _binned_config(draw: st.DrawFn, number: int, kind: str) -> Json:
    whole: Json = {"inits": draw(_vector(grid(80, 120, 0.01), number)), "bounds": [[0.25, 4.0]] * number}
    if kind == "staterror":
        whole["auxdata"] = draw(_vector(grid(90, 110, 0.01), number))
        whole["sigmas"] = draw(_vector(grid(5, 30, 0.01), number))
    if kind == "shapesys":
        whole["auxdata"] = draw(_vector(grid(5, 300, 1.0), number))
    whole["fixed"] = draw(st.booleans())
    return {key: value for key, value in whole.items() if draw(st.booleans())}


LUMI: Json = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02]}


def _zeros(channels: list[Json]) -> list[Json]:
    return [{"name": c["name"], "data": [0.0] * len(c["samples"][0]["data"])} for c in channels]


def _measurement(poi: str, parameters: list[Json]) -> Json:
    return {"name": "measurement", "config": {"poi": poi, "parameters": parameters}}


def _observations(draw: st.DrawFn, channels: list[Json]) -> list[Json]:
    """Counts of the size of the summed yields, sometimes zero."""
    observations: list[Json] = []
    for channel in channels:
        totals = np.sum([sample["data"] for sample in channel["samples"]], axis=0)
        relative = mostly(grid(6, 15, 0.1), st.just(0.0), one_in=10)
        counts = [float(round(max(total, 0.0) * draw(relative))) for total in totals]
        observations.append({"name": channel["name"], "data": counts})
    return observations


@st.composite
def workspaces(draw: st.DrawFn) -> Json:
    """Any valid workspace: 1-3 channels, 1-4 samples, 1-4 bins, all seven modifier types, with or without a POI."""
    layout = draw(_samples_of_channels())
    yields = {(channel, sample): y for channel, samples in layout.items() for sample, y in samples.items()}
    mods: dict[Cell, list[Json]] = {cell: [] for cell in yields}
    _factors(draw, mods)
    _alphas(draw, mods, yields)
    _staterrors(draw, mods, yields)
    _shapes(draw, mods, yields)
    if not any(mods.values()):
        next(iter(mods.values())).append({"name": "mu", "type": "normfactor", "data": None})
    channels: list[Json] = [
        {
            "name": channel,
            "samples": [{"name": s, "data": y, "modifiers": mods[channel, s]} for s, y in samples.items()],
        }
        for channel, samples in layout.items()
    ]
    names = {m["name"] for ms in mods.values() for m in ms if m["type"] == "normfactor"}
    poi = "mu" if "mu" in names and draw(st.integers(0, 4)) < 4 else ""
    return {
        "channels": channels,
        "observations": _observations(draw, channels),
        "measurements": [_measurement(poi, _configs(draw, channels))],
        "version": "1.0.0",
    }


def _coordinate(init: float, lo: float, hi: float) -> st.SearchStrategy[float]:
    """A value of one parameter: anywhere ordinary, at the joints of the interpolation, now and then on a bound."""
    if lo <= -3.0:
        ordinary = st.one_of(grid(-300, 300, 0.01), st.sampled_from([-1.0, 0.0, 1.0, -2.5, 2.5]))
    else:
        ordinary = grid(50, 150, 0.01)
    return mostly(ordinary, st.sampled_from([lo, hi, init]), one_in=20).map(lambda x: min(max(x, lo), hi))


@st.composite
def points(draw: st.DrawFn, twin: LoopTwin, number: int) -> NDArray[np.float64]:
    """The initial point and others within the bounds, shape (number, parameters)."""
    coordinates = [_coordinate(init, lo, hi) for init, (lo, hi) in zip(twin.inits, twin.bounds.tolist(), strict=True)]
    others = [draw(st.tuples(*coordinates)) for _ in range(number - 1)]
    return np.array([twin.inits, *others], dtype=np.float64)


@st.composite
def cases(draw: st.DrawFn, number: int = 4, *, clips: bool = True) -> Case:
    """A workspace, options to open it with (all interpolation codes, clips if wanted) and that many points."""
    workspace = draw(workspaces())
    options: dict[str, Any] = {"normsys": draw(NORMSYS_CODES), "histosys": draw(HISTOSYS_CODES)}
    clip = draw(st.sampled_from([None, None, None, "sample", "bin"])) if clips else None
    if clip == "sample":
        options["clip_sample_data"] = 0.0
    if clip == "bin":
        options["clip_bin_data"] = draw(st.sampled_from([0.0, 0.1]))
    return Case(workspace, options, draw(points(LoopTwin(workspace, **options), number)))
