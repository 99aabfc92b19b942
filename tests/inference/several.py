"""Likelihoods with more than one minimum, and what a dense scan says of the smallest of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize

from tests.building import histosys, normfactor, normsys, one_channel, sample, staterror

WIDE = [{"name": "mu", "bounds": [[0.0, 200.0]]}]


def three_bins() -> dict[str, Any]:
    """A rate and a shape that pull against each other."""
    signal = sample("signal", [0.4, 3.2, 1.1], normfactor("mu"), normsys("a", 0.7, 1.4))
    shape = histosys("h", [24.0, 4.1, 2.2], [44.0, 2.6, 3.9])
    rest = (normsys("a", 0.8, 1.3), shape, staterror("mc", [9.0, 1.2, 1.0]))
    return one_channel([signal, sample("background", [31.0, 3.4, 2.9], *rest)], [0.0, 13.0, 0.0], parameters=WIDE)


def upwards() -> dict[str, Any]:
    """Up and down variation of the background go the same way."""
    signal = sample("signal", [6.0, 2.0], normfactor("mu"))
    background = sample("background", [20.0, 50.0], histosys("h", [31.0, 74.0], [35.0, 66.0]))
    return one_channel([signal, background], [30.0, 70.0], parameters=WIDE)


def both_shapes() -> dict[str, Any]:
    """The shape of the signal bends as well."""
    signal = sample("signal", [6.0, 2.0], normfactor("mu"), histosys("g", [9.0, 0.4], [8.0, 5.0]))
    background = sample("background", [12.0, 9.0], histosys("h", [18.0, 6.0], [17.0, 15.0]))
    return one_channel([signal, background], [15.0, 22.0], parameters=WIDE)


SEVERAL = {"three bins": three_bins, "upwards": upwards, "both shapes": both_shapes}


def random_counts(spec: dict[str, Any], n: int, seed: int) -> np.ndarray:
    """Main data that no model predicts: counts of any size, shape (n, bins)."""
    rng = np.random.default_rng(seed)
    bins = len(spec["observations"][0]["data"])
    return rng.poisson(np.exp(rng.uniform(np.log(0.5), np.log(90.0), (n, bins)))).astype(float)


def random_two_bins(rng: np.random.Generator) -> dict[str, Any]:
    """Two bins, and large variations of the shapes of signal and background."""

    def shape(yields: np.ndarray, name: str) -> Any:
        lo, hi = (yields * np.exp(rng.normal(0.0, 0.6, 2)) for _ in range(2))
        return histosys(name, lo.round(3).tolist(), hi.round(3).tolist())

    s, b = rng.uniform(0.5, 8.0, 2).round(3), rng.uniform(2.0, 40.0, 2).round(3)
    signal = sample("signal", s.tolist(), normfactor("mu"), shape(s, "g"))
    background = sample("background", b.tolist(), shape(b, "h"))
    counts = rng.poisson((b + rng.uniform(0.0, 3.0) * s) * np.exp(rng.normal(0.0, 0.4, 2)))
    return one_channel([signal, background], counts.astype(float).tolist(), parameters=WIDE)


class DenseScan:
    """The likelihood of ``random_two_bins`` on a dense grid of both nuisance parameters, the signal strength solved."""

    def __init__(self, spec: dict[str, Any]) -> None:
        (channel,) = spec["channels"]
        signal, background = channel["samples"]
        self.counts = np.array(spec["observations"][0]["data"])
        self.signal, self.background = (
            (np.array(s["data"]), *(np.array(s["modifiers"][-1]["data"][key]) for key in ("lo_data", "hi_data")))
            for s in (signal, background)
        )

    def value(self, g: Any, h: Any, fixed: float | None = None) -> np.ndarray:
        """The NLL without constants, minimized over the signal strength unless that is given."""
        g, h = np.asarray(g), np.asarray(h)
        s, b = _shifted(g, *self.signal), _shifted(h, *self.background)
        mu = self._best(s, b) if fixed is None else np.full(g.shape, fixed)
        rates = mu[..., None] * s + b
        n = self.counts
        with np.errstate(all="ignore"):
            terms = np.where(n > 0, rates - n * np.log(rates), rates)
        terms = np.where((rates < 0) | ((rates == 0) & (n > 0)), np.inf, terms)
        value = terms.sum(-1) + 0.5 * (g**2 + h**2)
        return np.where(np.isnan(value), np.inf, value)

    def _best(self, s: np.ndarray, b: np.ndarray) -> np.ndarray:
        """By bisection: the NLL is convex in the strength."""
        low, high = np.zeros(s.shape[:-1]), np.full(s.shape[:-1], 200.0)
        # No rate may become negative.
        with np.errstate(all="ignore"):
            least = np.where(s > 0, -b / s, -np.inf).max(-1)
            most = np.where(s < 0, -b / s, np.inf).min(-1)
        low, high = np.clip(np.maximum(low, least), 0, 200), np.clip(np.minimum(high, most), 0, 200)
        for _ in range(60):
            mu = 0.5 * (low + high)
            rates = mu[..., None] * s + b
            with np.errstate(all="ignore"):
                slope = (s - np.where(self.counts > 0, self.counts * s / rates, 0.0)).sum(-1)
            low, high = np.where(slope < 0, mu, low), np.where(slope < 0, high, mu)
        return 0.5 * (low + high)

    def minimum(self, fixed: float | None = None) -> float:
        """The smallest value: of the grid, its best places refined."""
        axis = np.linspace(-5.0, 5.0, 121)
        g, h = np.meshgrid(axis, axis, indexing="ij")
        table = self.value(g, h, fixed)
        places = _valleys(table)
        found = [
            optimize.minimize(
                lambda x: float(self.value(x[0], x[1], fixed)), (axis[i], axis[j]), method="Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-11, "maxiter": 2000},
            ).fun
            for i, j in places
        ]  # fmt: skip
        return min(found)

    def z0(self) -> float:
        """The discovery significance."""
        return float(np.sqrt(2.0 * max(self.minimum(0.0) - self.minimum(), 0.0)))


def _shifted(alpha: np.ndarray, nominal: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Yields by interpolation code 4p, shape (..., bins), cut at 0."""
    a = alpha[..., None]
    up, down = hi - nominal, nominal - lo
    inside = a * (0.5 * (up + down) + a * (up - down) / 16.0 * (15.0 + a * a * (3.0 * a * a - 10.0)))
    return nominal + np.where(a > 1, a * up, np.where(a < -1, a * down, inside))


def _valleys(table: np.ndarray) -> list[tuple[int, int]]:
    """Places of the grid that lie below all their neighbors, the lowest eight."""
    wide = np.pad(table, 1, constant_values=np.inf)
    around = [
        wide[1 + i : wide.shape[0] - 1 + i, 1 + j : wide.shape[1] - 1 + j]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    lowest = np.isfinite(table) & (table <= np.min(around, axis=0))
    places = np.argwhere(lowest)
    order = np.argsort(table[lowest])[:8]
    return [(int(i), int(j)) for i, j in places[order]]
