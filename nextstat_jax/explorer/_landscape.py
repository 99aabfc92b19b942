"""Planes through a surrogate's likelihood: which parameters span them, where the others are, and the NLL on a grid."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

import nextstat_jax as nextstat

SIDE = 90
"""Points along each axis: their square fills one of the sizes that surrogates compile, powers of two, almost."""
REACH = 3.0
"""How far axes and sliders reach to either side of the best fit, in standard deviations."""
MOST_SLIDERS = 12
# What a picture shows beyond an end of the trained box, as a part of its width: the end is then seen as such.
_MARGIN = 0.04
_STEPS_PER_WIDTH = 10


@dataclass(frozen=True, eq=False)
class Landscape:
    """A surrogate and what is known of its minimum. NumPy arrays in double precision.

    Attributes:
        surrogate: The surrogate.
        names: Names of the free parameters.
        free: Their places among all parameters, shape (n_free,).
        best: Minimum of the surrogate over the trained box, shape (n_params,); where that lies outside of the trained
            region, the best fit of the training.
        best_nll: The surrogate there.
        covariance: Of the training, from the fit where that is known, shape (n_params, n_params); 0 for fixed ones.
        box: The trained box, shape (n_params, 2).
    """

    surrogate: Any
    names: tuple[str, ...]
    free: np.ndarray
    best: np.ndarray
    best_nll: float
    covariance: np.ndarray
    box: np.ndarray

    def place(self, name: str) -> int:
        """Where a free parameter stands among all of them; ``DatasetError`` if there is none of that name."""
        if name not in self.names:
            raise nextstat.DatasetError(
                f"{name!r} is no free parameter of the surrogate: choose one of {_some(self.names)}"
            )
        return int(self.free[self.names.index(name)])

    def width(self, name: str) -> float:
        """Standard deviation of a parameter."""
        place = self.place(name)
        return float(np.sqrt(self.covariance[place, place]))

    def correlation(self, name: str) -> np.ndarray:
        """Correlation of the free parameters with one of them, shape (n_free,)."""
        widths = np.sqrt(np.diagonal(self.covariance))[self.free]
        return self.covariance[self.place(name), self.free] / (widths * self.width(name))


@dataclass(frozen=True, eq=False)
class Plane:
    """The NLL on a grid of two parameters.

    Attributes:
        axes: Names of the parameters.
        x: Values of the first, shape (SIDE,).
        y: Values of the second, shape (SIDE,).
        points: All parameters at each point, shape (SIDE * SIDE, n_params), the first axis running fastest.
        delta: NLL above the surrogate's minimum over all parameters, shape (SIDE, SIDE): rows belong to ``y``.
        inside: Whether a point lies in the trained region, in the shape of ``delta``.
        best: Both parameters at the best fit, shape (2,).
        seconds: How long the surrogate took for all points.
    """

    axes: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    points: np.ndarray
    delta: np.ndarray
    inside: np.ndarray
    best: np.ndarray
    seconds: float


def landscape(surrogate: Any) -> Landscape:
    """What pictures of a surrogate start from.

    Args:
        surrogate: From ``train_mlp_surrogate`` or ``load``.

    Raises:
        DatasetError: For what is no surrogate, one with fewer than two free parameters, or one that is not finite at
            its best fit.
    """
    if not isinstance(surrogate, nextstat.distill.Surrogate):
        raise nextstat.DatasetError(f"expected a surrogate, found {type(surrogate).__name__}")
    with jax.enable_x64(True):
        box = np.asarray(surrogate.parameter_bounds(), np.float64)
        free = np.flatnonzero(box[:, 1] > box[:, 0])
        parameters = surrogate.parameter_names()
        names = tuple(parameters[k] for k in free)
        if len(names) < 2:
            raise nextstat.DatasetError(f"the surrogate has {len(names)} free parameter(s): a contour needs two")
        best = _best(surrogate)
        best_nll = float(surrogate.nll(best[None])[0])
        covariance = np.asarray(surrogate.covariance)
    if not np.isfinite(best_nll) or not np.isfinite(covariance).all() or not (np.diagonal(covariance)[free] > 0).all():
        raise nextstat.DatasetError("the surrogate is not finite at its best fit: train it again")
    return Landscape(surrogate, names, free, best, best_nll, covariance, box)


def _best(surrogate: Any) -> np.ndarray:
    """The surrogate's own minimum, unless it was found where nothing was trained."""
    found = np.asarray(nextstat.fit(surrogate).params, np.float64)
    good = np.isfinite(found).all() and bool(surrogate.in_domain(found))
    return found if good else np.asarray(surrogate.parameter_init(), np.float64)


def default_axes(land: Landscape) -> tuple[str, str]:
    """The parameter of interest, if it is known and free, and the one that is most correlated with it."""
    poi = land.surrogate.poi
    first = poi if poi in land.names else land.names[0]
    return first, others(land, (first,))[0]


def others(land: Landscape, axes: Sequence[str]) -> list[str]:
    """The free parameters that are not on the axes, those most correlated with one of the axes first."""
    strength = np.max([np.abs(land.correlation(name)) for name in axes], axis=0)
    order = np.argsort(-strength, kind="stable")
    return [land.names[k] for k in order if land.names[k] not in axes]


def steps(land: Landscape, name: str) -> tuple[list[float], float]:
    """Values of a slider, rounded for reading, and which of them is the best fit.

    They are about a tenth of a standard deviation apart and reach over three to either side, but not out of the trained
    box.
    """
    place, width = land.place(name), land.width(name)
    best, digits = float(land.best[place]), decimals(width)
    count = int(REACH * _STEPS_PER_WIDTH)
    values = best + width * np.arange(-count, count + 1) / _STEPS_PER_WIDTH
    values = np.append(np.clip(values, *land.box[place]), best)
    # Adding 0 turns -0.0 into 0.0.
    rounded = np.unique(np.round(values, digits) + 0.0)
    return rounded.tolist(), float(np.round(best, digits) + 0.0)


def decimals(size: float) -> int:
    """Digits after the point that show a difference of this size with two digits."""
    return max(0, 1 - int(np.floor(np.log10(size))))


def plane(
    land: Landscape, axes: tuple[str, str], values: Mapping[str, float] | None = None, follow: bool = False
) -> Plane:
    """The NLL of the surrogate over two parameters.

    With ``follow``, the others are not held but move by the linear relation of the covariance C,
    ``C[others, axes] C[axes, axes]^-1 (axes - best fit)``: where the likelihood is Gaussian the plane is then the
    profile likelihood, and elsewhere it lies above it, since every point is one of the likelihood.

    Args:
        land: The surrogate.
        axes: Names of two free parameters.
        values: Values of other parameters; the best fit for those that are not named, and for values that are the
            best fit as ``steps`` rounds it.
        follow: Whether the others follow the two.

    Raises:
        DatasetError: For unknown names, or the same one twice.
    """
    first, second = (land.place(name) for name in axes)
    if first == second:
        raise nextstat.DatasetError(f"both axes are {axes[0]!r}: choose two different parameters")
    x, y = (_axis(land, name) for name in axes)
    base = np.array(land.best)
    for name, value in (values or {}).items():
        k = land.place(name)
        if k not in (first, second) and value != steps(land, name)[1]:
            base[k] = np.clip(value, *land.box[k])
    points = np.repeat(base[None], SIDE * SIDE, axis=0)
    points[:, first], points[:, second] = (grid.ravel() for grid in np.meshgrid(x, y))
    if follow:
        points = _following(land, points, [first, second])
    with jax.enable_x64(True):
        start = time.perf_counter()
        nll = np.asarray(land.surrogate.nll(points))
        seconds = time.perf_counter() - start
        inside = np.asarray(land.surrogate.in_domain(points))
    shape = (SIDE, SIDE)
    delta = nll.reshape(shape) - land.best_nll
    return Plane(axes, x, y, points, delta, inside.reshape(shape), land.best[[first, second]], seconds)


def _axis(land: Landscape, name: str) -> np.ndarray:
    """Values around the best fit, a little beyond the box where it ends within reach."""
    place, reach = land.place(name), REACH * land.width(name)
    best, (lower, upper) = land.best[place], land.box[place]
    start, stop = max(best - reach, lower), min(best + reach, upper)
    margin = _MARGIN * (stop - start)
    return np.linspace(start - margin * (start == lower), stop + margin * (stop == upper), SIDE)


def _following(land: Landscape, points: np.ndarray, axes: list[int]) -> np.ndarray:
    """Points whose other free parameters follow the two on the axes, within the box."""
    rest = np.setdiff1d(land.free, axes)
    rows = land.covariance[axes]
    slope = np.linalg.solve(rows[:, axes], rows[:, rest])
    moved = points[:, rest] + (points[:, axes] - land.best[axes]) @ slope
    points = np.array(points)
    points[:, rest] = np.clip(moved, *land.box[rest].T)
    return points


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} in all)"


@lru_cache(maxsize=4)
def open_landscape(path: str | None = None) -> Landscape:
    """The surrogate of a file, or a small one of the example's workspace, trained in seconds.

    The result is kept, so that all pages of a server share it and what it compiled.

    Raises:
        DatasetError: If the file is missing, damaged or of another kind, or its surrogate has no two free parameters.
    """
    surrogate = _example() if path is None else nextstat.distill.load(path)
    try:
        land = landscape(surrogate)
        # Compiles what every page computes.
        plane(land, default_axes(land))
    except nextstat.DatasetError as error:
        raise nextstat.DatasetError(f"{path}: {error}" if path else str(error)) from None
    return land


def _example() -> Any:
    model, distill = nextstat.from_pyhf(nextstat.example_workspace()), nextstat.distill
    quiet = nextstat.Run(progress=False)
    ds = distill.generate_dataset(model, 4000, method="profile", include_gradient=False, run=quiet)
    return distill.train_mlp_surrogate(ds, hidden_layers=(64,), epochs=40, lr=5e-3, batch_size=128, progress=False)
