"""The HistFactory likelihood as plain loops over channels, bins, samples and modifiers.

An oracle for tests: it starts from the JSON alone, knows neither the package nor pyhf, prefers the definition to speed,
and holds no arrays beyond the vectors that it is given. With nu_b the expected rate of bin b,

    nu_b = sum_s  (product of factors of s in b) * (N_sb + sum of histosys shifts of s in b)
    nll  = - sum_b log Pois(n_b | nu_b) - sum over constrained parameters of the log density of their auxiliary datum

References: CERN-OPEN-2012-016 for the likelihood and for the interpolation codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
Vector = NDArray[np.float64]
Bin = tuple[str, int]

# The order in which pyhf asks the modifier types for their parameters; it decides the order of the parameter vector.
TYPE_ORDER = ("histosys", "lumi", "normfactor", "normsys", "shapefactor", "shapesys", "staterror")


@dataclass
class ParameterSet:
    """All parameters of one name: one for a scalar modifier, one per bin for the others.

    Attributes:
        name: Name of the modifier.
        constraint: ``"normal"``, ``"poisson"`` or ``None``.
        scalar: Whether the name stands for exactly one number (then it carries no index).
        inits, bounds, fixed: One entry per parameter.
        auxdata: One auxiliary datum per parameter, empty without a constraint.
        sigmas: Widths of a normal constraint.
        factors: Rates at parameter 1 of a Poisson constraint.
    """

    name: str
    constraint: str | None
    scalar: bool
    inits: list[float]
    bounds: list[tuple[float, float]]
    fixed: list[bool]
    auxdata: list[float]
    sigmas: list[float]
    factors: list[float]

    def labels(self) -> list[str]:
        """Names of the parameters, with an index in brackets unless the set is scalar."""
        return [self.name] if self.scalar else [f"{self.name}[{i}]" for i in range(len(self.inits))]


def _free(name: str, number: int, *, scalar: bool) -> ParameterSet:
    return ParameterSet(name, None, scalar, [1.0] * number, [(0.0, 10.0)] * number, [False] * number, [], [], [])


def _alpha(name: str) -> ParameterSet:
    return ParameterSet(name, "normal", True, [0.0], [(-5.0, 5.0)], [False], [0.0], [1.0], [])


def _gammas(name: str, constraint: str, aux: list[float], sigmas: list[float], fixed: list[bool]) -> ParameterSet:
    number = len(aux)
    factors = aux if constraint == "poisson" else []
    bounds = [(1e-10, 10.0)] * number
    return ParameterSet(name, constraint, False, [1.0] * number, bounds, fixed, aux, sigmas, list(factors))


def _lumi(config: Json) -> ParameterSet:
    if "auxdata" not in config or "sigmas" not in config:
        raise ValueError("lumi needs auxdata and sigmas in the configuration of the measurement")
    aux = [float(a) for a in config["auxdata"]]
    return ParameterSet("lumi", "normal", True, list(aux), [(0.0, 10.0 * aux[0])], [False], aux, [], [])


def normsys_factor(code: str, alpha: float, lo: float, hi: float) -> float:
    """Multiplicative interpolation: code 1 is exponential, code 4 a polynomial inside |alpha| < 1."""
    if code not in ("code1", "code4"):
        raise ValueError(f"unknown normsys code {code}")
    if code == "code4" and abs(alpha) < 1.0:
        return _sextic(alpha, lo, hi)
    return hi**alpha if alpha >= 0.0 else lo ** (-alpha)


def _sextic(alpha: float, lo: float, hi: float) -> float:
    """1 + a_1 alpha + ... + a_6 alpha^6, matching value, slope and curvature of the exponentials at alpha = +-1.

    x log x tends to 0 with x, and the convention is used for its higher power too, so that a vanishing variation gives
    a finite polynomial instead of 0 times infinity.
    """
    slope_hi = hi * math.log(hi) if hi > 0.0 else 0.0
    slope_lo = -lo * math.log(lo) if lo > 0.0 else 0.0
    curve_hi = hi * math.log(hi) ** 2 if hi > 0.0 else 0.0
    curve_lo = lo * math.log(lo) ** 2 if lo > 0.0 else 0.0
    powers = np.arange(1, 7)
    rows = [
        np.ones(6),
        (-1.0) ** powers,
        powers * 1.0,
        powers * (-1.0) ** (powers - 1),
        powers * (powers - 1.0),
        powers * (powers - 1.0) * (-1.0) ** powers,
    ]
    targets = [hi - 1.0, lo - 1.0, slope_hi, slope_lo, curve_hi, curve_lo]
    coefficients = np.linalg.solve(np.array(rows), np.array(targets))
    return 1.0 + math.fsum(float(c) * alpha ** int(p) for c, p in zip(coefficients, powers, strict=True))


def histosys_shift(code: str, alpha: float, lo: float, nominal: float, hi: float) -> float:
    """Additive interpolation of one bin, codes 0 (piecewise linear), 2 (quadratic inside) and 4p (polynomial inside).

    Outside of |alpha| = 1, code 2 is what pyhf computes, which is not continuous at alpha = +1.
    """
    up, down = hi - nominal, nominal - lo
    if code == "code0":
        return alpha * (up if alpha >= 0.0 else down)
    if code == "code2":
        a, b = 0.5 * (hi + lo) - nominal, 0.5 * (hi - lo)
        if alpha > 1.0:
            return (b + 2.0 * a) * (alpha - 1.0)
        return (b - 2.0 * a) * alpha if alpha < -1.0 else a * alpha**2 + b * alpha
    if code == "code4p":
        if abs(alpha) > 1.0:
            return alpha * (up if alpha > 0.0 else down)
        even = 3.0 * alpha**6 - 10.0 * alpha**4 + 15.0 * alpha**2
        return 0.5 * (up + down) * alpha + (up - down) / 16.0 * even
    raise ValueError(f"unknown histosys code {code}")


def poisson_nll(observed: float, rate: float) -> float:
    """-log Pois(observed | rate) with Gamma(n + 1) for n!; +inf at a negative rate and at 0 with something observed."""
    if rate < 0.0 or (rate == 0.0 and observed > 0.0):
        return math.inf
    log_rate = 0.0 if observed == 0.0 else observed * math.log(rate)
    return rate - log_rate + math.lgamma(observed + 1.0)


def normal_nll(observed: float, mean: float, sigma: float) -> float:
    """-log of the normal density."""
    return 0.5 * ((observed - mean) / sigma) ** 2 + math.log(sigma) + 0.5 * math.log(2.0 * math.pi)


class LoopTwin:
    """One measurement of one workspace.

    Args:
        workspace: The decoded JSON of a valid workspace.
        measurement: Position of the measurement.
        normsys: Interpolation code of every normsys.
        histosys: Interpolation code of every histosys.
        clip_sample_data: Smallest rate of one sample in one bin, or no limit.
        clip_bin_data: Smallest rate of one bin, or no limit.

    Attributes:
        names, inits, bounds, fixed: One entry per parameter, in pyhf's order.
        auxdata: Auxiliary data, in pyhf's order.
        constraints: For each auxiliary datum its constraint, ``"normal"`` or ``"poisson"``.
        observed: Observed counts, then auxiliary data.
        poi: Name of the parameter of interest, or ``None``.
    """

    def __init__(
        self,
        workspace: Json,
        measurement: int = 0,
        *,
        normsys: str = "code4",
        histosys: str = "code4p",
        clip_sample_data: float | None = None,
        clip_bin_data: float | None = None,
    ) -> None:
        self._codes = {"normsys": normsys, "histosys": histosys}
        self._clip_sample, self._clip_bin = clip_sample_data, clip_bin_data
        self._channels: list[Json] = sorted(workspace["channels"], key=lambda channel: channel["name"])
        config = workspace["measurements"][measurement]["config"]
        self._configs: dict[str, Json] = {entry["name"]: entry for entry in config["parameters"]}
        self.poi: str | None = config["poi"] or None
        self._sets = self._collect_sets()
        self._offsets = self._collect_offsets()
        self._stat_position = self._collect_stat_positions()

        self.names = [label for s in self._sets.values() for label in s.labels()]
        self.inits = np.array([x for s in self._sets.values() for x in s.inits])
        self.bounds = np.array([x for s in self._sets.values() for x in s.bounds])
        self.fixed = [x for s in self._sets.values() for x in s.fixed]
        self.auxdata = np.array([x for s in self._sets.values() for x in s.auxdata])
        self.constraints = [str(s.constraint) for s in self._sets.values() for _ in s.auxdata]
        counts = {entry["name"]: entry["data"] for entry in workspace["observations"]}
        main = [float(n) for channel in self._channels for n in counts[channel["name"]]]
        self.observed = np.concatenate([main, self.auxdata])
        self.n_bins = len(main)

    # -- parameters ---------------------------------------------------------------------------------------------------

    def _uses(self, kind: str) -> Iterator[tuple[Json, Json, Json]]:
        """Each (channel, sample, modifier) of one type, in the order in which pyhf meets them."""
        for channel in self._channels:
            for sample in sorted(channel["samples"], key=lambda s: s["name"]):
                for modifier in sorted(sample["modifiers"], key=lambda m: m["name"]):
                    if modifier["type"] == kind:
                        yield channel, sample, modifier

    def _collect_sets(self) -> dict[str, ParameterSet]:
        sets: dict[str, ParameterSet] = {}
        for kind in TYPE_ORDER:
            uses = list(self._uses(kind))
            # Uncertainties of the simulated samples are put together after the walk, by then sorted by name.
            if kind == "staterror":
                uses.sort(key=lambda use: use[2]["name"])
            for _, sample, modifier in uses:
                name = modifier["name"]
                if kind == "shapesys" and name in sets:
                    raise ValueError(f"shapesys {name} is used by two samples")
                if name not in sets:
                    sets[name] = self._configured(self._default_set(kind, name, sample, modifier))
        return sets

    def _default_set(self, kind: str, name: str, sample: Json, modifier: Json) -> ParameterSet:
        if kind in ("normsys", "histosys"):
            return _alpha(name)
        if kind == "normfactor":
            return _free(name, 1, scalar=True)
        if kind == "shapefactor":
            return _free(name, len(sample["data"]), scalar=False)
        if kind == "lumi":
            return _lumi(self._configs.get("lumi", {}))
        if kind == "shapesys":
            return self._shapesys_set(name, sample["data"], modifier["data"])
        return self._staterror_set(name)

    def _shapesys_set(self, name: str, nominal: Sequence[float], uncertainty: Sequence[float]) -> ParameterSet:
        fixed = [not (n > 0.0 and u > 0.0) for n, u in zip(nominal, uncertainty, strict=True)]
        tau = [1.0 if f else (n / u) ** 2 for n, u, f in zip(nominal, uncertainty, fixed, strict=True)]
        return _gammas(name, "poisson", tau, [], fixed)

    def _stat_channels(self, name: str) -> list[tuple[str, list[tuple[Json, Json]]]]:
        """For each channel with this staterror, the samples that carry it and their modifiers."""
        carriers: dict[str, list[tuple[Json, Json]]] = {}
        for channel, sample, modifier in self._uses("staterror"):
            if modifier["name"] == name:
                carriers.setdefault(channel["name"], []).append((sample, modifier))
        return list(carriers.items())

    def _staterror_set(self, name: str) -> ParameterSet:
        sigmas: list[float] = []
        for _, carriers in self._stat_channels(name):
            for b in range(len(carriers[0][0]["data"])):
                nominal = math.fsum(sample["data"][b] for sample, _ in carriers)
                squares = math.fsum(modifier["data"][b] ** 2 for _, modifier in carriers)
                sigmas.append(math.sqrt(squares) / nominal if nominal > 0.0 else 0.0)
        fixed = [sigma == 0.0 for sigma in sigmas]
        widths = [1.0 if f else sigma for sigma, f in zip(sigmas, fixed, strict=True)]
        return _gammas(name, "normal", [1.0] * len(widths), widths, fixed)

    def _configured(self, default: ParameterSet) -> ParameterSet:
        config = self._configs.get(default.name, {})
        for key in ("inits", "auxdata", "sigmas", "factors"):
            if key in config:
                setattr(default, key, [float(x) for x in config[key]])
        if "bounds" in config:
            default.bounds = [(float(lo), float(hi)) for lo, hi in config["bounds"]]
        if "fixed" in config:
            default.fixed = [bool(config["fixed"])] * len(default.inits)
        return default

    def _collect_offsets(self) -> dict[str, int]:
        sizes = [len(s.inits) for s in self._sets.values()]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        return {name: int(start) for name, start in zip(self._sets, starts, strict=False)}

    def _collect_stat_positions(self) -> dict[str, dict[Bin, int]]:
        """Position of each bin within a staterror, whose channels are put one behind the other."""
        positions: dict[str, dict[Bin, int]] = {}
        for name in {modifier["name"] for _, _, modifier in self._uses("staterror")}:
            for channel, carriers in self._stat_channels(name):
                known = positions.setdefault(name, {})
                for b in range(len(carriers[0][0]["data"])):
                    known[(channel, b)] = len(known)
        return positions

    def widths(self) -> Vector:
        """Standard deviation of each parameter according to its constraint alone, NaN for free ones."""
        widths: list[float] = []
        for s in self._sets.values():
            if s.constraint is None:
                widths.extend([math.nan] * len(s.inits))
            else:
                widths.extend(s.sigmas or [1.0 / math.sqrt(factor) for factor in s.factors])
        return np.array(widths)

    # -- expectation --------------------------------------------------------------------------------------------------

    def sample_rate(self, params: Sequence[float] | Vector, channel: str, sample: Json, b: int) -> float:
        """Expected rate of one sample in one bin of one channel."""
        rate, factor = float(sample["data"][b]), 1.0
        for modifier in sample["modifiers"]:
            if modifier["type"] == "histosys":
                alpha = float(params[self._offsets[modifier["name"]]])
                lo, hi = modifier["data"]["lo_data"][b], modifier["data"]["hi_data"][b]
                rate += histosys_shift(self._codes["histosys"], alpha, lo, sample["data"][b], hi)
            else:
                factor *= self._factor(params, channel, modifier, b)
        return factor * rate if self._clip_sample is None else max(factor * rate, self._clip_sample)

    def _factor(self, params: Sequence[float] | Vector, channel: str, modifier: Json, b: int) -> float:
        kind, name = modifier["type"], modifier["name"]
        first = self._offsets[name]
        if kind == "normsys":
            data = modifier["data"]
            return normsys_factor(self._codes["normsys"], float(params[first]), data["lo"], data["hi"])
        if kind in ("normfactor", "lumi"):
            return float(params[first])
        if kind in ("shapefactor", "shapesys"):
            return float(params[first + b])
        return float(params[first + self._stat_position[name][(channel, b)]])

    def expected_main(self, params: Sequence[float] | Vector) -> Vector:
        """Expected rates of all bins, channels in alphabetical order."""
        rates: list[float] = []
        for channel in self._channels:
            for b in range(len(channel["samples"][0]["data"])):
                rate = math.fsum(self.sample_rate(params, channel["name"], s, b) for s in channel["samples"])
                rates.append(rate if self._clip_bin is None else max(rate, self._clip_bin))
        return np.array(rates)

    def expected_auxdata(self, params: Sequence[float] | Vector) -> Vector:
        """Expected auxiliary data: the parameter under a normal constraint, factor * parameter under a Poisson one."""
        expected: list[float] = []
        for name, s in self._sets.items():
            first = self._offsets[name]
            for i in range(len(s.auxdata)):
                expected.append(float(params[first + i]) * (s.factors[i] if s.constraint == "poisson" else 1.0))
        return np.array(expected)

    def expected_data(self, params: Sequence[float] | Vector) -> Vector:
        """Expected rates of all bins, then expected auxiliary data."""
        return np.concatenate([self.expected_main(params), self.expected_auxdata(params)])

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def nll(self, params: Sequence[float] | Vector, data: Sequence[float] | Vector | None = None) -> float:
        """Negative log-likelihood with all its constants; +inf where a rate is negative."""
        values = self.observed if data is None else np.asarray(data, dtype=np.float64)
        main, aux = values[: self.n_bins], values[self.n_bins :]
        terms = [poisson_nll(float(n), float(rate)) for n, rate in zip(main, self.expected_main(params), strict=True)]
        return math.fsum(terms + self._constraint_terms(params, aux)) if math.inf not in terms else math.inf

    def _auxiliary_measurements(self, params: Sequence[float] | Vector) -> list[tuple[str, float, float]]:
        """Kind, mean and width of each auxiliary measurement."""
        widths = self.widths()
        widths = widths[~np.isnan(widths)]
        means = self.expected_auxdata(params)
        return [(k, float(m), float(w)) for k, m, w in zip(self.constraints, means, widths, strict=True)]

    def _constraint_terms(self, params: Sequence[float] | Vector, aux: Vector) -> list[float]:
        terms: list[float] = []
        for (kind, mean, width), datum in zip(self._auxiliary_measurements(params), aux, strict=True):
            normal = kind == "normal"
            terms.append(normal_nll(float(datum), mean, width) if normal else poisson_nll(float(datum), mean))
        return terms

    def throw(self, params: Sequence[float] | Vector, number: int, rng: np.random.Generator) -> Vector:
        """Pseudo-experiments at the given parameters, main and auxiliary data both fluctuating: (number, data)."""
        columns = [rng.poisson(rate, number) for rate in self.expected_main(params)]
        for kind, mean, width in self._auxiliary_measurements(params):
            columns.append(rng.normal(mean, width, number) if kind == "normal" else rng.poisson(mean, number))
        return np.stack(columns, axis=1).astype(np.float64)
