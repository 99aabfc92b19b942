"""What the engines share: how points and toy data are thrown, so that every tool sees the same numbers."""

import zlib

import numpy as np

BATCH = 4096


def signal_sample(spec: dict) -> tuple[str, dict[str, list[float]]]:
    """Return the first sample that carries the POI and its nominal yields by channel."""
    poi = spec["measurements"][0]["config"]["poi"]
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            if any(modifier["name"] == poi for modifier in sample["modifiers"]):
                return sample["name"], yields_of(spec, sample["name"])
    msg = f"no sample carries the POI {poi!r}"
    raise ValueError(msg)


def yields_of(spec: dict, name: str) -> dict[str, list[float]]:
    """Return the nominal yields of the sample `name` by channel."""
    found = {}
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            if sample["name"] == name:
                found[channel["name"]] = sample["data"]
    return found


def throw(channel: str, expected: np.ndarray, seed: int) -> np.ndarray:
    """Throw Poisson counts for one channel. The seed depends on its name: tools order channels differently."""
    rng = np.random.default_rng([seed, zlib.crc32(channel.encode())])
    return rng.poisson(np.maximum(np.asarray(expected, dtype=float), 0.0)).astype(float)


def points_near(names: list[str], init: np.ndarray, n_points: int, seed: int) -> np.ndarray:
    """Return points around the start values. Like the counts, they go by names: tools order parameters differently."""
    noise = [np.random.default_rng([seed, zlib.crc32(name.encode())]).normal(size=n_points) for name in names]
    return np.asarray(init) + 0.1 * np.stack(noise, axis=1)
