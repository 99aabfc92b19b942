"""Surrogates against the exact likelihood: values, slopes, minimum, profile, interval, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from scipy.optimize import brentq, minimize

from .._base._errors import DatasetError, MissingExtraError
from .._base._tables import plain, text_table
from .._inference._fit import fit
from .._inference._intervals import interval
from .._inference._scan import profile_scan
from .._model._model import HistFactoryModel
from ._core import Core, covariance_root
from ._dataset import SurrogateDataset, check_model, generate_dataset, integer
from ._reference import require_same_model
from ._surrogate import Surrogate, _mean, check_surrogate

# What a surrogate should reach to be trusted, by the names of ``Validation.measures``; the NLL near the minimum also
# gets a part of ``near``: 0.05 where that is 10.
_NLL_TOLERANCE = 0.005
TOLERANCES = {
    "gradient_rmse": 0.1,
    "minimum_distance": 0.05,
    "poi_shift": 0.05,
    "profile_error": 0.05,
    "interval_error": 0.05,
}
_MEANINGS = {
    "nll_rmse": "NLL, on new points of the training distribution: RMSE",
    "nll_max": "the same: largest error",
    "delta_nll_rmse": "NLL above the minimum, on points near it: RMSE",
    "delta_nll_max": "the same: largest error",
    "gradient_rmse": "slopes near the minimum, in units of 1 / uncertainty: RMSE",
    "minimum_distance": "largest shift of a parameter's best fit, in its uncertainties",
    "poi_shift": "shift of the best fit of the profiled parameter, in its uncertainties",
    "profile_error": "profile likelihood where it is below 2: largest error",
    "interval_error": "ends of the 68 % interval, in uncertainties: largest error",
}
_PROFILE_REACH, _PROFILE_POINTS, _PROFILE_BELOW = 2.0, 9, 2.0
_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, eq=False, repr=False)
class Validation:
    """How a surrogate compares with the exact likelihood.

    Attributes:
        measures: Errors by name; ``Validation.meanings`` explains them.
        tolerances: What each may be at most; those without one are for information.
        quantiles: Quantiles of the absolute error of the NLL on new points of the training distribution.
        n_points: Number of these points.
        n_near: Points near the minimum, whose NLL exceeds it by at most ``near``.
        near: That limit.
        parameter: The profiled parameter.
        scan: ``values`` of that parameter with the ``exact`` and the ``surrogate`` profile likelihood
            (NLL above the minimum).
        interval: Lower and upper end of its 68 % interval, ``exact`` and ``surrogate``.
        errors: NLL above the exact minimum and error of the surrogate there, for the new points, shape (2, n).
    """

    measures: dict[str, float]
    tolerances: dict[str, float]
    quantiles: dict[float, float]
    n_points: int
    n_near: int
    near: float
    parameter: str
    scan: dict[str, np.ndarray]
    interval: dict[str, tuple[float, float]]
    errors: np.ndarray

    @property
    def verdicts(self) -> dict[str, bool]:
        """Whether each measure with a tolerance is within it."""
        return {name: bool(self.measures[name] <= limit) for name, limit in self.tolerances.items()}

    @property
    def passed(self) -> bool:
        """Whether all measures are within their tolerances."""
        return all(self.verdicts.values())

    @property
    def meanings(self) -> dict[str, str]:
        """Each measure in words."""
        return dict(_MEANINGS)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe."""
        names = ("measures", "tolerances", "quantiles", "n_points", "n_near", "near", "parameter", "scan", "interval")
        return {
            **{name: plain(getattr(self, name)) for name in names},
            "verdicts": self.verdicts,
            "passed": self.passed,
        }

    def __repr__(self) -> str:
        rows = []
        for name, value in self.measures.items():
            limit = self.tolerances.get(name)
            verdict = "" if limit is None else "ok" if value <= limit else "too large"
            rows.append((_MEANINGS[name], f"{value:.3g}", "" if limit is None else f"{limit:g}", verdict))
        good = "within its tolerances" if self.passed else "NOT within its tolerances"
        title = (
            f"Surrogate is {good} ({self.n_points} points, {self.n_near} near the minimum; {self.parameter} profiled)"
        )
        return text_table(("measure", "value", "tolerance", ""), rows, title)

    def plot(self, axes: Any = None) -> Any:
        """Two pictures: errors against the NLL above the minimum, and the two profiles.

        Args:
            axes: Two axes of matplotlib to draw in; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        if axes is None:
            try:
                from matplotlib.figure import Figure
            except ImportError:
                raise MissingExtraError("matplotlib", "plot") from None
            axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
        left, right = axes
        left.plot(*self.errors, ".", markersize=3, color="#3f90da")
        left.axhline(0.0, color="black", linewidth=0.8)
        left.set_xscale("symlog")
        left.set_yscale("symlog", linthresh=1e-3)
        left.set_xlabel("NLL above the minimum")
        left.set_ylabel("surrogate - exact")
        right.plot(self.scan["values"], self.scan["exact"], "o", color="black", label="exact", markersize=4)
        right.plot(self.scan["values"], self.scan["surrogate"], color="#bd1f01", label="surrogate")
        right.set_xlabel(self.parameter)
        right.set_ylabel("profiled NLL above the minimum")
        right.legend(frameon=False)
        return axes


def validate(
    surrogate: Any,
    model: Any,
    n: Any = 1000,
    *,
    seed: Any = 12345,
    parameter: Any = None,
    near: Any = None,
    tolerances: Any = None,
    progress: bool = False,
) -> Validation:
    """Compares a surrogate with the model that it was made from.

    Args:
        surrogate: The surrogate.
        model: Its model.
        n: New points of the training distribution, and as many around the minimum.
        seed: Seed of these points; another one than that of the data set.
        parameter: Parameter whose profile and interval are compared; by default the parameter of interest.
        near: How far above the minimum (in NLL) a point counts as near it; by default 10, or 0.55 for each free
            parameter if that is more (where the fit's own normal distribution lies).
        tolerances: Limits that replace or add to the default ones, by the names of ``Validation.measures``. By default
            0.05 for shifts, profile and interval, 0.1 for slopes, and 0.005 ``near`` for the NLL near the minimum.
        progress: Whether to show progress bars.

    Returns:
        ``Validation``: true in ``passed`` if all errors are within their tolerances.

    Raises:
        DatasetError: For a surrogate of another model, or arguments that cannot be used.
        FitError: If there is no such parameter.
    """
    check_surrogate(surrogate)
    check_model(model)
    facts = surrogate.metadata
    require_same_model(facts, model)
    n, seed = integer(n, "n", 1), integer(seed, "seed", 0)
    given = _check_tolerances(tolerances)
    index = model.index(parameter) if parameter is not None else model.poi_index
    index = int(np.flatnonzero(_free(surrogate))[0]) if index is None else index
    if not _free(surrogate)[index]:
        raise DatasetError(f"{model.names.parameters[index]} is fixed in the data set: profile another parameter")
    if seed == facts.get("seed"):
        seed += 1
    box = np.asarray(surrogate.parameter_bounds)
    fresh = generate_dataset(model, n, facts.get("method", "sobol"), box, seed, progress=progress)
    around = generate_dataset(model, n, "gaussian", box, seed, progress=progress)
    n_free = int(_free(surrogate).sum())
    near = max(10.0, 0.55 * n_free) if near is None else float(near)
    limits = {"delta_nll_rmse": _NLL_TOLERANCE * near, **TOLERANCES, **given}
    errors = np.asarray(surrogate.nll(fresh.parameters)) - fresh.nll
    best = _Profiler(surrogate)
    exact = fit(model)
    measures = {"nll_rmse": _rms(errors), "nll_max": float(np.abs(errors).max())}
    close, close_measures = _near(surrogate, around, near, best)
    measures |= close_measures
    widths = np.sqrt(np.diagonal(np.asarray(exact.covariance)))
    shift = np.abs(best.minimum - np.asarray(exact.params)) / np.where(widths > 0, widths, np.inf)
    measures |= {"minimum_distance": float(shift.max()), "poi_shift": float(shift[index])}
    scan = _scan(model, best, index, float(exact.params[index]), float(widths[index]))
    low = scan["exact"] < _PROFILE_BELOW
    measures["profile_error"] = float(np.abs(scan["surrogate"] - scan["exact"])[low].max(initial=0.0))
    ends = _intervals(model, best, index, float(widths[index]))
    measures["interval_error"] = float(np.abs(np.subtract(ends["exact"], ends["surrogate"])).max() / widths[index])
    return Validation(
        measures, limits, {q: float(np.quantile(np.abs(errors), q)) for q in _QUANTILES}, n, close, near,
        model.names.parameters[index], scan, ends, np.stack([fresh.nll - float(exact.nll), errors]),
    )  # fmt: skip


def _check_tolerances(tolerances: Any) -> dict[str, float]:
    if tolerances is None:
        return {}
    if not isinstance(tolerances, Mapping):
        raise DatasetError(f"tolerances is a {type(tolerances).__name__}: give a mapping from measures to numbers")
    unknown = [name for name in tolerances if name not in _MEANINGS]
    if unknown:
        raise DatasetError(
            f"tolerances: there is no {unknown[0]!r}; expected some of {', '.join(map(repr, _MEANINGS))}"
        )
    return {name: float(value) for name, value in tolerances.items()}


def _free(surrogate: Surrogate) -> np.ndarray:
    box = np.asarray(surrogate.parameter_bounds)
    return box[:, 1] > box[:, 0]


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else math.nan


def _near(surrogate: Surrogate, ds: SurrogateDataset, near: float, best: _Profiler) -> tuple[int, dict[str, float]]:
    """Errors on points near the minimum, and how many there are."""
    reference = ds.reference
    assert reference is not None
    ds = ds[ds.nll - float(reference.minimum_nll) <= near]
    if not len(ds):
        raise DatasetError(f"no point is within {near:g} of the minimum: give more points or a larger near")
    exact = ds.nll - float(reference.minimum_nll)
    # Above the minimum of each: what a fit or an interval sees.
    errors = np.asarray(surrogate.nll(ds.parameters)) - best.nll - exact
    widths = np.sqrt(np.diagonal(reference.covariance))
    slopes = (np.asarray(surrogate.grad_nll(ds.parameters)) - ds.gradient) * widths
    measures = {
        "delta_nll_rmse": _rms(errors),
        "delta_nll_max": float(np.abs(errors).max()),
        "gradient_rmse": _rms(slopes[:, _free(surrogate)]),
    }
    return len(ds), measures


def _scan(model: HistFactoryModel, best: _Profiler, index: int, center: float, width: float) -> dict[str, np.ndarray]:
    """Profiles on a grid around the best fit, inside the trained box."""
    low, high = best.box[index]
    values = center + _PROFILE_REACH * width * np.linspace(-1, 1, _PROFILE_POINTS)
    values = values[(values >= low) & (values <= high)]
    if len(values) < 2:
        values = np.linspace(max(low, center), min(high, center + _PROFILE_REACH * width), _PROFILE_POINTS)
    exact = 0.5 * np.asarray(profile_scan(model, model.names.parameters[index], values.tolist()).delta)
    return {"values": values, "exact": exact, "surrogate": np.array([best.profile(index, v) for v in values])}


def _intervals(model: HistFactoryModel, best: _Profiler, index: int, width: float) -> dict[str, tuple[float, float]]:
    """Where both profiles reach 1/2, or the box ends."""
    exact = interval(model, model.names.parameters[index])
    center, (low, high) = float(best.minimum[index]), best.box[index]

    def end(step: float, limit: float) -> float:
        far = center
        for _ in range(8):
            far = min(max(far + step, low), high)
            if best.profile(index, far) > 0.5:
                found: Any = brentq(lambda v: best.profile(index, v) - 0.5, center, far, xtol=1e-4 * width)
                return float(found)
            if far == limit:
                break
        return limit

    found = {"exact": (float(exact.lower), float(exact.upper)), "surrogate": (end(-width, low), end(width, high))}
    clipped = {name: tuple(float(np.clip(x, low, high)) for x in ends) for name, ends in found.items()}
    return {name: (ends[0], ends[1]) for name, ends in clipped.items()}


class _Profiler:
    """Minima of a surrogate: computed in double precision, so that line searches see a smooth function."""

    def __init__(self, surrogate: Surrogate) -> None:
        self._members = surrogate.astype("float64").members
        first = self._members[0]
        self.box = np.stack([np.asarray(first.lower), np.asarray(first.upper)], axis=1)
        origin = np.asarray(first.origin)
        self._width = np.ones(len(origin))
        self._width[_free(surrogate)] = np.sqrt((covariance_root(first) ** 2).sum(0))
        self.minimum, self.nll = self._minimize(np.clip(origin, *self.box.T), None)

    def profile(self, index: int, value: float) -> float:
        """NLL above the minimum, minimized over all parameters but one."""
        start = np.array(self.minimum)
        start[index] = value
        return self._minimize(start, index)[1] - self.nll

    def _minimize(self, start: np.ndarray, held: int | None) -> tuple[np.ndarray, float]:
        box = np.array(self.box)
        if held is not None:
            box[held] = start[held]

        def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _value_and_slope(self._members, z * self._width)
            return float(value), np.asarray(slope) * self._width

        options = {"maxiter": 2000, "maxfun": 20000, "ftol": 1e-13, "gtol": 1e-6, "maxcor": 30}
        bounds = box / self._width[:, None]
        found = minimize(objective, start / self._width, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return found.x * self._width, float(found.fun)


@jax.jit
def _value_and_slope(members: tuple[Core, ...], params: Any) -> tuple[Array, Array]:
    return jax.value_and_grad(_mean, argnums=1)(members, params)
