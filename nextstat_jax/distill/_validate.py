"""Surrogates against the exact likelihood: values, slopes, minimum, profile, interval, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from .._base._checked import a_real, one_of_array
from .._base._doors import integer, no_type_check, number
from .._base._errors import DatasetError, MissingExtraError
from .._batches._run import Run
from .._inference._fit import FitResult, fit
from .._inference._intervals import Interval, interval
from .._inference._result import Result, result, static
from .._inference._scan import profile_scan
from .._minimize import _status
from .._model._base import Model
from .._model._model import HistFactoryModel
from ._dataset import SurrogateDataset, check_model, generate_dataset
from ._reference import require_same_model
from ._surrogate import Surrogate, check_surrogate

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


@result
class Validation(Result):
    """How a surrogate compares with the exact likelihood. NumPy arrays and plain numbers.

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
        status: The worst status of the fits behind it.
    """

    _single: ClassVar[tuple[str, int]] = ("errors", 2)

    measures: dict[str, float]
    tolerances: dict[str, float]
    quantiles: dict[float, float]
    n_points: int
    n_near: int
    near: float
    scan: dict[str, np.ndarray]
    interval: dict[str, tuple[float, float]]
    errors: Float[np.ndarray, "2 point"]
    status: np.ndarray
    parameter: str = static()

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

    @property
    def message(self) -> str:
        """The verdict, and how the fits ended where one did not converge."""
        good = "within its tolerances" if self.passed else "NOT within its tolerances"
        return f"surrogate is {good}" + ("" if bool(self.converged) else f"; a fit behind it {super().message}")

    def _facts(self) -> dict[str, Any]:
        names = ("measures", "tolerances", "quantiles", "n_points", "n_near", "near", "parameter", "scan", "interval")
        return {**{name: getattr(self, name) for name in names}, "verdicts": self.verdicts, "passed": self.passed}

    def _columns(self) -> dict[str, Any]:
        names = list(self.measures)
        return {
            "measure": names,
            "value": np.array([self.measures[name] for name in names]),
            "tolerance": np.array([self.tolerances.get(name, math.nan) for name in names]),
            "verdict": ["" if x is None else "ok" if x else "too large" for x in map(self.verdicts.get, names)],
        }

    def _shown(self) -> dict[str, Any]:
        columns = self._columns()
        limits = ["" if math.isnan(x) else f"{x:g}" for x in columns["tolerance"]]
        meanings = [_MEANINGS[name] for name in columns["measure"]]
        values = [f"{x:.3g}" for x in columns["value"]]
        return {"measure": meanings, "value": values, "tolerance": limits, "": columns["verdict"]}

    def _title(self) -> str:
        counts = f"{int(self.n_points)} points, {int(self.n_near)} near the minimum"
        return f"Validation: {self.message} ({counts}; {self.parameter} profiled)"

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


@no_type_check
def validate(
    surrogate: Surrogate,
    model: HistFactoryModel,
    *,
    n: int = 1000,
    seed: int = 12345,
    parameter: str | None = None,
    near: float | None = None,
    tolerances: Mapping[str, float] | None = None,
    run: Run = Run(progress=False),
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
        run: How the points are evaluated.

    Returns:
        ``Validation``: true in ``passed`` if all errors are within their tolerances.

    Raises:
        DatasetError: For a surrogate of another model, or arguments that cannot be used.
        FitError: If there is no such parameter.
        ModelError: For what is no model.
    """
    check_surrogate(surrogate)
    check_model(model)
    facts = surrogate.metadata
    require_same_model(facts, model)
    n, seed = integer(n, "n", error=DatasetError), integer(seed, "seed", 0, DatasetError)
    given = _check_tolerances(tolerances)
    if near is not None:
        near = number(one_of_array(near), "near", 0.0, np.inf, DatasetError)
    index = model.index(parameter) if parameter is not None else model.poi_index
    index = int(np.flatnonzero(_free(surrogate))[0]) if index is None else index
    if not _free(surrogate)[index]:
        raise DatasetError(f"{model.names.parameters[index]} is fixed in the data set: profile another parameter")
    if seed == facts.get("seed"):
        seed += 1
    box, name = np.asarray(surrogate.parameter_bounds()), model.names.parameters[index]
    method = facts.get("method", "sobol")
    fresh = generate_dataset(model, n, method, bounds=box, seed=seed, run=run)
    around = generate_dataset(model, n, "gaussian", bounds=box, seed=seed, run=run)
    n_free = int(_free(surrogate).sum())
    near = max(10.0, 0.55 * n_free) if near is None else near
    limits = {"delta_nll_rmse": _NLL_TOLERANCE * near, **TOLERANCES, **given}
    errors = np.asarray(surrogate.nll(fresh.parameters)) - fresh.nll
    exact, best = fit(model), fit(surrogate)
    measures = {"nll_rmse": _rms(errors), "nll_max": float(np.abs(errors).max())}
    close, close_measures = _near(surrogate, around, near, best)
    measures |= close_measures
    widths = np.asarray(exact.uncertainties)
    shift = np.abs(np.asarray(best.params) - np.asarray(exact.params)) / np.where(widths > 0, widths, np.inf)
    measures |= {"minimum_distance": float(shift.max()), "poi_shift": float(shift[index])}
    scan, codes = _scan((model, surrogate), name, box[index], float(exact.params[index]), float(widths[index]))
    low = scan["exact"] < _PROFILE_BELOW
    measures["profile_error"] = float(np.abs(scan["surrogate"] - scan["exact"])[low].max(initial=0.0))
    both = [interval(one, name) for one in (model, surrogate)]
    ends = {key: _ends(one, box[index]) for key, one in zip(("exact", "surrogate"), both, strict=True)}
    measures["interval_error"] = float(np.abs(np.subtract(ends["exact"], ends["surrogate"])).max() / widths[index])
    return Validation(
        measures, limits, {q: float(np.quantile(np.abs(errors), q)) for q in _QUANTILES}, n, close, near, scan, ends,
        np.stack([fresh.nll - float(exact.nll), errors]),
        np.asarray(_status.worst(exact.status, best.status, *codes)), parameter=name,
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
    return {name: a_real(value, f"tolerances[{name!r}]", DatasetError) for name, value in tolerances.items()}


def _free(surrogate: Surrogate) -> np.ndarray:
    box = np.asarray(surrogate.parameter_bounds())
    return box[:, 1] > box[:, 0]


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else math.nan


def _near(surrogate: Surrogate, ds: SurrogateDataset, near: float, best: FitResult) -> tuple[int, dict[str, float]]:
    """Errors on points near the minimum, and how many there are."""
    reference = ds.reference
    assert reference is not None
    ds = ds[ds.nll - float(reference.minimum_nll) <= near]
    if not len(ds):
        raise DatasetError(f"no point is within {near:g} of the minimum: give more points or a larger near")
    exact = ds.nll - float(reference.minimum_nll)
    # Above the minimum of each: what a fit or an interval sees.
    errors = np.asarray(surrogate.nll(ds.parameters)) - float(best.nll) - exact
    widths = np.sqrt(np.diagonal(reference.covariance))
    slopes = (np.asarray(surrogate.grad_nll(ds.parameters)) - ds.gradient) * widths
    measures = {
        "delta_nll_rmse": _rms(errors),
        "delta_nll_max": float(np.abs(errors).max()),
        "gradient_rmse": _rms(slopes[:, _free(surrogate)]),
    }
    return len(ds), measures


def _scan(
    pair: tuple[Model, Model], name: str, ends: np.ndarray, center: float, width: float
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Profiles of model and surrogate on a grid around the best fit, inside the trained box, and how the fits ended."""
    low, high = ends
    values = center + _PROFILE_REACH * width * np.linspace(-1, 1, _PROFILE_POINTS)
    values = values[(values >= low) & (values <= high)]
    if len(values) < 2:
        values = np.linspace(max(low, center), min(high, center + _PROFILE_REACH * width), _PROFILE_POINTS)
    exact, other = (profile_scan(one, name, values) for one in pair)
    codes = [code for one in (exact, other) for code in np.asarray(one.status)]
    return {
        "values": values,
        **{k: 0.5 * np.asarray(v.delta) for k, v in (("exact", exact), ("surrogate", other))},
    }, codes


def _ends(found: Interval, box: np.ndarray) -> tuple[float, float]:
    """The ends of an interval, or where the trained box ends."""
    low, high = (float(np.clip(end, *box)) for end in (found.lower, found.upper))
    return low, high
