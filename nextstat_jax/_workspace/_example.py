"""A workspace like those of searches at the LHC, with invented numbers and every type of modifier in it.

A search for a signal in events with one lepton. The signal region (SR) is binned in the score of a classifier. Two
control regions fix the yields of top-quark pairs and of W bosons with jets, a third one, with an inverted isolation of
the lepton, measures the spectrum of fake leptons bin by bin.
"""

from __future__ import annotations

from typing import Any

# Expected events per bin.
_YIELDS: dict[str, dict[str, list[float]]] = {
    "SR": {
        "signal": [1.1, 2.3, 4.6, 7.9, 10.4, 12.2],
        "ttbar": [412.0, 268.0, 151.0, 76.0, 31.5, 12.4],
        "wjets": [236.0, 149.0, 78.0, 36.0, 15.2, 6.3],
        "other": [61.0, 42.0, 25.0, 13.1, 6.4, 3.1],
        "fakes": [88.0, 52.0, 24.0, 9.6, 3.5, 1.4],
    },
    "CR_ttbar": {
        "signal": [0.6, 0.9, 0.7, 0.3],
        "ttbar": [941.0, 1310.0, 822.0, 344.0],
        "wjets": [66.0, 91.0, 57.0, 29.0],
        "other": [58.0, 74.0, 49.0, 24.0],
    },
    "CR_wjets": {
        "signal": [0.4, 0.7, 0.6, 0.3],
        "ttbar": [187.0, 243.0, 166.0, 81.0],
        "wjets": [1190.0, 1465.0, 880.0, 392.0],
        "other": [97.0, 121.0, 79.0, 38.0],
    },
    "CR_fakes": {
        "wjets": [31.0, 19.0, 9.4, 4.1, 1.6, 0.7],
        "fakes": [440.0, 260.0, 120.0, 48.0, 17.5, 7.0],
    },
}

# Drawn from Poisson distributions with the parameters off their nominal values (mu = 1.3). Of eight draws, the one
# whose significance is closest to 3: the numbers illustrate, they prove nothing.
_OBSERVED: dict[str, list[float]] = {
    "SR": [781.0, 540.0, 259.0, 153.0, 60.0, 34.0],
    "CR_ttbar": [1123.0, 1481.0, 909.0, 355.0],
    "CR_wjets": [1423.0, 1726.0, 945.0, 430.0],
    "CR_fakes": [493.0, 263.0, 128.0, 60.0, 9.0, 7.0],
}

# Statistical uncertainty of a simulated sample: that of a sample this many times as large as expected in the data.
_SIMULATED = {"signal": 40.0, "ttbar": 6.0, "wjets": 2.5, "other": 8.0}

# Relative changes of the shape (first bin, last bin; linear in between) for one standard deviation up and down.
_SHAPES: dict[str, dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "jet_energy_scale": {
        "signal": ((-0.02, 0.05), (0.02, -0.05)),
        "ttbar": ((-0.03, 0.09), (0.03, -0.08)),
        "wjets": ((-0.04, 0.12), (0.05, -0.11)),
        "other": ((-0.03, 0.10), (0.03, -0.09)),
    },
    "ttbar_generator": {"ttbar": ((0.04, -0.14), (-0.04, 0.14))},
    "ttbar_radiation": {"ttbar": ((-0.05, 0.07), (0.03, -0.06))},
    "wjets_scale": {"wjets": ((-0.08, 0.16), (0.06, -0.12))},
}

# Factors on the yield for one standard deviation up and down.
_FACTORS: dict[str, dict[str, tuple[float, float]]] = {
    "b_tagging": {"signal": (1.03, 0.97), "ttbar": (1.04, 0.96), "wjets": (0.92, 1.09), "other": (1.01, 0.99)},
    "jet_energy_scale": {"signal": (1.02, 0.98), "ttbar": (1.03, 0.97), "wjets": (1.05, 0.95), "other": (1.04, 0.96)},
    "lepton": {"signal": (1.01, 0.99), "ttbar": (1.01, 0.99), "wjets": (1.01, 0.99), "other": (1.01, 0.99)},
    "other_cross_section": {"other": (1.20, 0.82)},
    "signal_theory": {"signal": (1.09, 0.92)},
}

_FREE = {"signal": "mu", "ttbar": "mu_ttbar", "wjets": "mu_wjets"}
_TRANSFER_FACTOR_UNCERTAINTY = 0.25
_LUMINOSITY_UNCERTAINTY = 0.017


def example_workspace() -> dict[str, Any]:
    """A workspace to try things on: that of an invented search, as the JSON object that ``from_pyhf`` reads.

    Returns:
        Four channels with 20 bins, five samples, all seven types of modifier, one measurement with POI ``mu``.

    Example:
        >>> import nextstat_jax as nextstat
        >>> model = nextstat.from_pyhf(nextstat.example_workspace())
        >>> model.channels, model.n_bins, model.poi
        (('CR_fakes', 'CR_ttbar', 'CR_wjets', 'SR'), 20, 'mu')
    """
    return {
        "version": "1.0.0",
        "channels": [
            {"name": channel, "samples": [_sample(channel, name) for name in samples]}
            for channel, samples in _YIELDS.items()
        ],
        "observations": [{"name": channel, "data": data} for channel, data in _OBSERVED.items()],
        "measurements": [
            {
                "name": "search",
                "config": {
                    "poi": "mu",
                    "parameters": [
                        {
                            "name": "lumi",
                            "auxdata": [1.0],
                            "sigmas": [_LUMINOSITY_UNCERTAINTY],
                            "bounds": [[0.9, 1.1]],
                            "inits": [1.0],
                        },
                    ],
                },
            }
        ],
    }


def _sample(channel: str, name: str) -> dict[str, Any]:
    yields = _YIELDS[channel][name]
    modifiers = _data_driven(channel, yields) if name == "fakes" else _simulated(channel, name, yields)
    return {"name": name, "data": yields, "modifiers": modifiers}


def _data_driven(channel: str, yields: list[float]) -> list[dict[str, Any]]:
    """One free factor per bin, common to SR and CR_fakes, and an uncertain transfer factor between them."""
    modifiers: list[dict[str, Any]] = [{"name": "fakes_spectrum", "type": "shapefactor", "data": None}]
    if channel == "SR":
        uncertainties = [round(_TRANSFER_FACTOR_UNCERTAINTY * y, 3) for y in yields]
        modifiers.append({"name": "fakes_transfer", "type": "shapesys", "data": uncertainties})
    return modifiers


def _simulated(channel: str, name: str, yields: list[float]) -> list[dict[str, Any]]:
    """Modifiers of a sample that comes from simulation."""
    modifiers: list[dict[str, Any]] = []
    if name in _FREE:
        modifiers.append({"name": _FREE[name], "type": "normfactor", "data": None})
    if name in ("signal", "other"):  # the control regions measure the others
        modifiers.append({"name": "lumi", "type": "lumi", "data": None})
    for systematic, factors in _FACTORS.items():
        if name in factors:
            hi, lo = factors[name]
            modifiers.append({"name": systematic, "type": "normsys", "data": {"hi": hi, "lo": lo}})
    for systematic, shapes in _SHAPES.items():
        if name in shapes:
            hi, lo = (_tilted(yields, *ends) for ends in shapes[name])
            modifiers.append({"name": systematic, "type": "histosys", "data": {"hi_data": hi, "lo_data": lo}})
    uncertainties = [round((y / _SIMULATED[name]) ** 0.5, 4) for y in yields]
    modifiers.append({"name": f"simulation_{channel}", "type": "staterror", "data": uncertainties})
    return modifiers


def _tilted(yields: list[float], first: float, last: float) -> list[float]:
    step = (last - first) / (len(yields) - 1)
    return [round(y * (1 + first + k * step), 4) for k, y in enumerate(yields)]
