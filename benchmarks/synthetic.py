"""Synthetic workspaces with an exact number of parameters, to see how each tool's cost grows.

The mixture is that of published analyses: one signal and three background samples in channels of four bins,
normalization and shape systematics that touch a part of the samples, statistical uncertainties bin by bin, one free
normalization. The observations are thrown from the nominal expectation at mu = 1.
"""

import numpy as np

BINS = 4
BACKGROUNDS = ("ttbar", "wjets", "other")
VERSION = "1.0.0"


def generate(n_params: int, seed: int = 0) -> dict:
    """Make a workspace with exactly `n_params` parameters.

    Args:
        n_params: At least 10.
        seed: The same seed gives the same workspace on every machine.

    Returns:
        A pyhf workspace whose POI is ``mu``.
    """
    if n_params < 10:
        msg = f"n_params is {n_params}, and the smallest workspace has 10 parameters"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    n_channels = max(1, min(30, n_params // 16))
    channels = [_channel(rng, index) for index in range(n_channels)]
    n_systematics = n_params - 2 - BINS * n_channels
    for index in range(n_systematics):
        _add_systematic(rng, channels, index)
    return {
        "channels": channels,
        "observations": [_observation(rng, channel) for channel in channels],
        "measurements": [{"name": "measurement", "config": {"poi": "mu", "parameters": []}}],
        "version": VERSION,
    }


def _channel(rng: np.random.Generator, index: int) -> dict:
    slope = np.exp(-0.4 * np.arange(BINS))
    samples = [_sample("signal", 12.0 * rng.uniform(0.5, 1.5) * slope[::-1], [_factor("mu")], 0.01)]
    for name in BACKGROUNDS:
        factors = [_factor("norm_ttbar")] if name == "ttbar" else []
        samples.append(_sample(name, 90.0 * rng.uniform(0.5, 1.5) * slope, factors, 0.04))
    for sample in samples:
        stat = {"name": f"stat_ch{index}", "type": "staterror", "data": sample.pop("stat")}
        sample["modifiers"].append(stat)
    return {"name": f"ch{index}", "samples": samples}


def _sample(name: str, yields: np.ndarray, modifiers: list[dict], relative: float) -> dict:
    return {"name": name, "data": yields.tolist(), "modifiers": modifiers, "stat": (relative * yields).tolist()}


def _factor(name: str) -> dict:
    return {"name": name, "type": "normfactor", "data": None}


def _add_systematic(rng: np.random.Generator, channels: list[dict], index: int) -> None:
    """Let one nuisance parameter act on some samples of half of the channels, by norm, shape or both."""
    name, kind = f"sys_{index}", ("norm", "shape", "both")[index % 3]
    chosen = rng.choice(len(channels), size=max(1, len(channels) // 2), replace=False)
    for channel in (channels[i] for i in chosen):
        samples = channel["samples"]
        touched = rng.random(len(samples)) < 0.25
        # Every systematic acts somewhere: a parameter without effect would not be one.
        touched[rng.integers(len(samples))] = True
        for sample in (s for s, hit in zip(samples, touched, strict=True) if hit):
            if kind in ("norm", "both"):
                up, down = 1.0 + rng.uniform(0.01, 0.1), 1.0 - rng.uniform(0.01, 0.1)
                sample["modifiers"].append({"name": name, "type": "normsys", "data": {"hi": up, "lo": down}})
            if kind in ("shape", "both"):
                sample["modifiers"].append({"name": name, "type": "histosys", "data": _shape(rng, sample["data"])})


def _shape(rng: np.random.Generator, nominal: list[float]) -> dict:
    tilt = rng.uniform(0.01, 0.08) * np.linspace(-1.0, 1.0, BINS)
    wiggle = rng.normal(0.0, 0.01, size=(2, BINS))
    values = np.asarray(nominal)
    return {
        "hi_data": (values * (1.0 + tilt + wiggle[0])).tolist(),
        "lo_data": (values * (1.0 - tilt + wiggle[1])).tolist(),
    }


def _observation(rng: np.random.Generator, channel: dict) -> dict:
    expected = np.sum([sample["data"] for sample in channel["samples"]], axis=0)
    return {"name": channel["name"], "data": [float(n) for n in rng.poisson(expected)]}


def binned(n_bins: int, n_systematics: int, seed: int = 0) -> dict:
    """Make a workspace of many bins: channels of up to 50, each bin with a statistical uncertainty.

    Args:
        n_bins: Bins of all channels; rounded to whole channels beyond 50.
        n_systematics: Each touches a third of the samples: a third of them in rate, a third in shape, a third in both.
        seed: As in `generate`.

    Returns:
        A pyhf workspace whose POI is ``mu``.
    """
    rng = np.random.default_rng(seed)
    n_channels = max(1, round(n_bins / 50))
    x = np.linspace(0.0, 1.0, n_bins // n_channels)
    channels = []
    for index in range(n_channels):
        shapes = {"signal": 10.0 * np.exp(-50.0 * (x - 0.6) ** 2) + 0.5}
        shapes |= {name: 100.0 * rng.uniform(0.5, 1.5) * np.exp(-2.0 * x) for name in BACKGROUNDS}
        factors = {"signal": [_factor("mu")], "ttbar": [_factor("norm_ttbar")]}
        samples = [_sample(name, y.round(4), list(factors.get(name, [])), 0.03) for name, y in shapes.items()]
        for sample in samples:
            sample["modifiers"].append({"name": f"stat_{index}", "type": "staterror", "data": sample.pop("stat")})
        channels.append({"name": f"channel_{index:05d}", "samples": samples})
    rows = [sample for channel in channels for sample in channel["samples"]]
    for k in range(n_systematics):
        hit = rng.random(len(rows)) < 1 / 3
        hit[rng.integers(len(rows))] = True
        for row in np.flatnonzero(hit).tolist():
            y, modifiers = np.array(rows[row]["data"]), rows[row]["modifiers"]
            if k % 3 != 1:
                hi, lo = 1.0 + rng.uniform(0.005, 0.05), 1.0 - rng.uniform(0.005, 0.05)
                modifiers.append({"name": f"sys_{k}", "type": "normsys", "data": {"hi": hi, "lo": lo}})
            if k % 3 != 0:
                tilt = rng.normal(0.0, 0.02) * np.linspace(-1.0, 1.0, len(x)) + rng.normal(0.0, 0.005)
                both = {
                    "hi_data": (y * (1.0 + tilt)).round(5).tolist(),
                    "lo_data": (y * (1.0 - tilt)).round(5).tolist(),
                }
                modifiers.append({"name": f"sys_{k}", "type": "histosys", "data": both})
    return {
        "channels": channels,
        "observations": [_observation(rng, channel) for channel in channels],
        "measurements": [{"name": "measurement", "config": {"poi": "mu", "parameters": []}}],
        "version": VERSION,
    }
