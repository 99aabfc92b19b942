"""Short words for workspaces, so that a test shows its numbers and not its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def normfactor(name: str) -> Json:
    return {"name": name, "type": "normfactor", "data": None}


def shapefactor(name: str) -> Json:
    return {"name": name, "type": "shapefactor", "data": None}


def lumi() -> Json:
    return {"name": "lumi", "type": "lumi", "data": None}


def normsys(name: str, lo: float, hi: float) -> Json:
    return {"name": name, "type": "normsys", "data": {"lo": lo, "hi": hi}}


def histosys(name: str, lo: Sequence[float], hi: Sequence[float]) -> Json:
    return {"name": name, "type": "histosys", "data": {"lo_data": list(lo), "hi_data": list(hi)}}


def shapesys(name: str, uncertainties: Sequence[float]) -> Json:
    return {"name": name, "type": "shapesys", "data": list(uncertainties)}


def staterror(name: str, uncertainties: Sequence[float]) -> Json:
    return {"name": name, "type": "staterror", "data": list(uncertainties)}


def sample(name: str, yields: Sequence[float], *modifiers: Json) -> Json:
    return {"name": name, "data": list(yields), "modifiers": list(modifiers)}


def workspace(
    channels: Mapping[str, Sequence[Json]],
    observations: Mapping[str, Sequence[float]],
    poi: str = "mu",
    parameters: Sequence[Json] = (),
) -> Json:
    """A workspace of one measurement from channel -> samples and channel -> observed counts."""
    return {
        "channels": [{"name": name, "samples": list(samples)} for name, samples in channels.items()],
        "observations": [{"name": name, "data": list(counts)} for name, counts in observations.items()],
        "measurements": [{"name": "measurement", "config": {"poi": poi, "parameters": list(parameters)}}],
        "version": "1.0.0",
    }


def one_channel(
    samples: Sequence[Json], observed: Sequence[float], poi: str = "mu", parameters: Sequence[Json] = ()
) -> Json:
    """A workspace of a single channel called "bins"."""
    return workspace({"bins": samples}, {"bins": observed}, poi, parameters)
