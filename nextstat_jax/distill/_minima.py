"""Fits and profile scans of surrogates, and of likelihoods in other parameters: many at once, in one program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import qmc

from .._base._errors import DatasetError
from .._inference._fit import FitResult
from .._inference._scan import ScanResult
from .._minimize._newton import Box, Minimum, Problem, active, covariance, minimize
from .._model._model import HistFactoryModel
from ._dataset import integer
from ._reparametrize import Reparametrized, _facts, inner_of, nll_of
from ._surrogate import Surrogate

# Minimizations that advance together; each holds a matrix of parameters by parameters.
_TOGETHER, _TOGETHER_CPU = 128, 8
# How far beyond the trained region, in units of its size, counts as next to it.
_NEXT_TO = 0.1
# How far a valley is followed through a scan, in points.
_ROUNDS = 100
# Starts where nothing is said: other parameters can make several minima of one.
_STARTS = 8
# An eigenvalue of a stand-in for the Hessian is at least this part of the largest.
_LEAST = 1e-10


class Target(NamedTuple):
    """What is minimized: arrays without names.

    Attributes:
        inner: From ``inner_of``, networks in double precision.
        lower: Lower bounds, shape (n_params,).
        upper: Upper bounds.
        start: A starting point.
    """

    inner: Any
    lower: Any
    upper: Any
    start: Any


def target_of(source: Any) -> tuple[Target, tuple[str, ...]]:
    """What is minimized, and the names of its parameters; ``DatasetError`` for what has no NLL.

    Networks compute in double precision here: line searches see a smooth function then.
    """
    if isinstance(source, Reparametrized):
        names, ends = source.parameter_names, np.asarray(source.parameter_bounds)
        start = np.asarray(source.start)
    else:
        names, ends, _, start = _facts(source, None)
    inner = inner_of(smooth(source))
    return Target(inner, *(np.array(x, np.float64) for x in (ends[:, 0], ends[:, 1], start))), names


def smooth(source: Any) -> Any:
    """The source, with networks that compute in double precision."""
    if isinstance(source, Reparametrized):
        return replace(source, source=smooth(source.source))
    return source.astype("float64") if isinstance(source, Surrogate) else source


def fit(source: Any, *, fixed: Any = None, init: Any = None, n_starts: Any = None) -> FitResult:
    """Minimizes the NLL of a surrogate, or of a surrogate or model in other parameters, within its bounds.

    Args:
        source: A surrogate, a model or a ``Reparametrized`` one.
        fixed: Values of parameters to hold, by name.
        init: Where to start, shape (n_params,). By default the best fit that the surrogate knows of, and the middle of
            the bounds of new parameters.
        n_starts: From how many points to start; the lowest minimum counts. New parameters are spread over their
            bounds. By default 8 for a ``Reparametrized`` source, and 1.

    Returns:
        ``FitResult``, as ``nextstat_jax.fit`` returns it. It is not differentiable. Minima outside the region where a
        surrogate was trained count only if there is no other: ``source.in_domain(result.params)`` tells.

    Raises:
        DatasetError: For arguments that cannot be used.
    """
    target, names = target_of(source)
    start = target.start if init is None else _check_init(init, len(names))
    held = target.lower == target.upper
    for index, value in _check_fixed(fixed, names, target).items():
        start[index], held[index] = value, True
    starts = _starts(source, target._replace(start=start), n_starts, held)
    best = _lowest(source, _minima(target, starts, np.tile(held, (len(starts), 1))))
    spread = _covariance(target, best, held)
    best = jax.tree.map(jnp.asarray, best)
    # On a bound means: held there by it, as for the fits of models.
    at_end = np.asarray(active(_box(target, held), best.y, best.gradient)) & ~held
    return FitResult(
        best.y, spread, best.value, best.gradient, best.edm, jnp.asarray(at_end), jnp.asarray(held), best.status,
        best.num_steps, best.moved, parameter_names=names, poi_index=_poi(source, names),
    )  # fmt: skip


def profile_scan(source: Any, parameter: Any, values: Any, *, n_starts: Any = None, init: Any = None) -> ScanResult:
    """Profiles the NLL of a surrogate, or of a surrogate or model in other parameters.

    Where there is more than one start, each point also tries where its neighbors ended, until none of them finds a
    lower minimum: a valley that one of them found is followed through the whole scan.

    Args:
        source: A surrogate, a model or a ``Reparametrized`` one.
        parameter: Name of the parameter, or two names.
        values: Values to hold it at, shape (n,); for two parameters two such arrays, whose grid is scanned.
        n_starts: As in ``fit``, for each point; the best fit is one start more.
        init: One more start for each point, shape (n_params,) or (n, n_params), for two parameters (n, m, n_params):
            the ``params`` of a surrogate's scan, to be refined with the exact likelihood.

    Returns:
        ``ScanResult``, as ``nextstat_jax.profile_scan`` returns it; ``plot.scan`` and ``plot.contour`` draw it.

    Raises:
        DatasetError: For names that are not there or fixed, and values outside the bounds.
    """
    target, names = target_of(source)
    scanned, axes = _check_scan(names, target, parameter, values)
    held = target.lower == target.upper
    starts = _starts(source, target, n_starts, held)
    free = _lowest(source, _minima(target, starts, np.tile(held, (len(starts), 1))))
    grid = _Grid.of(axes, [names.index(name) for name in scanned])
    more = () if init is None else (_check_inits(init, grid.shape, len(names)),)
    # In rows: the starts of the first point, of the second, and so on.
    points = np.stack([np.tile(free.y, (grid.size, 1)), *(np.tile(y, (grid.size, 1)) for y in starts), *more], axis=1)
    minima = grid.lowest(source, target, points)
    if points.shape[1] > 2:
        minima = grid.followed(source, target, minima)
    # A conditional minimum below the unconditional one leads it there.
    lowest = _lowest(source, minima)
    if lowest.value < free.value:
        free = _lowest(source, _minima(target, np.stack([lowest.y, free.y]), np.tile(held, (2, 1))))
    whole = jax.tree.map(lambda x: jnp.asarray(x.reshape(*grid.shape, *x.shape[1:])), minima)
    one = jax.tree.map(jnp.asarray, free)
    return ScanResult(
        tuple(map(jnp.asarray, axes)), whole.value, whole.y, whole.status, one.y[np.array(grid.places)], one.value,
        one.status, scanned,
    )  # fmt: skip


class _Grid(NamedTuple):
    """The points of a scan.

    Attributes:
        shape: Lengths of its axes.
        points: Values of the scanned parameters, shape (n, number of axes).
        places: Indices of these parameters.
        neighbors: Pairs of points next to each other, each in both orders, shape (pairs, 2).
    """

    shape: tuple[int, ...]
    points: np.ndarray
    places: list[int]
    neighbors: np.ndarray

    @classmethod
    def of(cls, axes: list[np.ndarray], places: list[int]) -> _Grid:
        shape = tuple(len(axis) for axis in axes)
        numbers = np.arange(math.prod(shape)).reshape(shape)[np.ix_(*(np.argsort(axis) for axis in axes))]
        pairs = []
        for k in range(len(axes)):
            along = np.moveaxis(numbers, k, 0)
            pairs.append(np.stack([along[:-1].reshape(-1), along[1:].reshape(-1)], axis=1))
        both = np.concatenate([*pairs, *(pair[:, ::-1] for pair in pairs)])
        points = np.stack([axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
        return cls(shape, points, places, both)

    @property
    def size(self) -> int:
        return len(self.points)

    def lowest(self, source: Any, target: Target, starts: np.ndarray) -> Minimum:
        """The lowest conditional minimum of each point, from starts of shape (points, starts, parameters)."""
        rows = starts.reshape(-1, starts.shape[-1])
        found = self._conditional(target, rows, np.repeat(np.arange(self.size), starts.shape[1]))
        return _lowest(source, found, starts.shape[:2])

    def followed(self, source: Any, target: Target, minima: Minimum) -> Minimum:
        """The same minima or lower ones, from where neighbors ended."""
        outside = _outside(source, minima)
        changed = np.ones(self.size, bool)
        for _ in range(_ROUNDS):
            pairs = self.neighbors[changed[self.neighbors[:, 1]]]
            if not len(pairs):
                break
            found = self._conditional(target, np.asarray(minima.y)[pairs[:, 1]], pairs[:, 0])
            now = _outside(source, found)
            changed = np.zeros(self.size, bool)
            for k, point in enumerate(pairs[:, 0]):
                if not np.isfinite(found.value[k]) or now[k] > outside[point]:
                    continue
                margin = 1e-9 * (1.0 + abs(found.value[k]))
                if now[k] < outside[point] or found.value[k] < minima.value[point] - margin:
                    for whole, part in zip(minima, found, strict=True):
                        whole[point] = part[k]
                    outside[point] = now[k]
                    changed[point] = True
        return minima

    def _conditional(self, target: Target, rows: np.ndarray, points: np.ndarray) -> Minimum:
        starts = np.array(rows)
        starts[:, self.places] = self.points[points]
        held = target.lower == target.upper
        held[self.places] = True
        return _minima(target, starts, np.tile(held, (len(starts), 1)))


def _poi(source: Any, names: tuple[str, ...]) -> int:
    inner = source.source if isinstance(source, Reparametrized) else source
    name: Any = None
    if isinstance(inner, HistFactoryModel):
        name = None if inner.poi_index is None else inner.parameter_names()[inner.poi_index]
    elif isinstance(inner, Surrogate):
        name = inner.metadata.get("poi")
    return names.index(name) if name in names else -1


def _check_init(init: Any, n: int) -> np.ndarray:
    try:
        start = np.asarray(init, np.float64)
    except (TypeError, ValueError):
        start = np.zeros(())
    if start.shape != (n,) or not np.isfinite(start).all():
        raise DatasetError(f"init has shape {start.shape}: expected {n} finite numbers")
    return np.array(start)


def _check_inits(init: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Starts for all points of a grid, shape (points, n_params)."""
    try:
        starts = np.asarray(init, np.float64)
    except (TypeError, ValueError):
        starts = np.zeros(())
    if starts.shape == (n,):
        starts = np.broadcast_to(starts, (*shape, n))
    if starts.shape != (*shape, n) or not np.isfinite(starts).all():
        raise DatasetError(f"init has shape {starts.shape}: expected ({n},) or {(*shape, n)}, of finite numbers")
    return starts.reshape(-1, n)


def _check_fixed(fixed: Any, names: tuple[str, ...], target: Target) -> dict[int, float]:
    if fixed is not None and not isinstance(fixed, Mapping):
        raise DatasetError(f"fixed is a {type(fixed).__name__}: give a mapping from parameter names to values")
    found = {}
    for name, value in (fixed or {}).items():
        if name not in names:
            raise DatasetError(f"fixed: there is no parameter {name!r}")
        index = names.index(name)
        low, high = float(target.lower[index]), float(target.upper[index])
        number = value if isinstance(value, int | float | np.number | np.ndarray | jax.Array) else np.nan
        if np.ndim(number) or not low <= float(number) <= high:
            raise DatasetError(
                f"fixed[{name!r}]={value!r:.40}: expected a number within its bounds [{low:g}, {high:g}]"
            )
        found[index] = float(number)
    return found


def _check_scan(
    names: tuple[str, ...], target: Target, parameter: Any, values: Any
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    scanned = (parameter,) if isinstance(parameter, str) else parameter
    words = isinstance(scanned, Sequence) and all(isinstance(name, str) for name in scanned)
    if not words or not 1 <= len(scanned) <= 2 or len(set(scanned)) != len(scanned):
        raise DatasetError(f"parameter={parameter!r:.60}: expected one name, or two different ones")
    columns = (values,) if isinstance(parameter, str) else values
    if not isinstance(columns, list | tuple) or len(columns) != len(scanned):
        raise DatasetError(f"values for {len(scanned)} parameters: give a list of {len(scanned)} arrays")
    axes = []
    for name, column in zip(scanned, columns, strict=True):
        if name not in names:
            raise DatasetError(f"parameter: there is no {name!r}")
        low, high = (float(end[names.index(name)]) for end in (target.lower, target.upper))
        if low == high:
            raise DatasetError(f"{name} is fixed: there is nothing to scan")
        try:
            axis = np.asarray(column, np.float64)
        except (TypeError, ValueError):
            axis = np.zeros(())
        slack = 1e-9 * (high - low)
        if axis.ndim != 1 or not axis.size or not ((axis >= low - slack) & (axis <= high + slack)).all():
            raise DatasetError(f"values of {name}: give a list of numbers within its bounds [{low:g}, {high:g}]")
        axes.append(axis)
    return tuple(scanned), axes


def _starts(source: Any, target: Target, n_starts: Any, held: np.ndarray) -> np.ndarray:
    """Starting points, shape (n, n_params): the given one, and others spread over the bounds of new parameters."""
    count = (_STARTS if isinstance(source, Reparametrized) else 1) if n_starts is None else n_starts
    count = integer(count, "n_starts", 1)
    n_new = source.n_new if isinstance(source, Reparametrized) else len(held)
    starts = np.tile(target.start, (count, 1))
    low, high = target.lower[:n_new], target.upper[:n_new]
    power = max(count - 1, 1).bit_length()
    spread = low + (high - low) * qmc.Sobol(n_new, scramble=True, rng=0).random_base2(power)[: count - 1]
    starts[1:, :n_new] = np.where(held[:n_new], starts[1:, :n_new], spread)
    return starts


def _curvatures(inner: Any, y: Array) -> tuple[Array, Array]:
    """The Hessian, and the same with positive eigenvalues."""
    hessian = jax.hessian(nll_of, argnums=1)(inner, y)
    hessian = 0.5 * (hessian + hessian.T)
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(hessian), hessian, 0.0))
    size = jnp.abs(values)
    return hessian, (vectors * jnp.maximum(size, _LEAST * size.max())) @ vectors.T


_PROBLEM = Problem(
    lambda y, inner, _: jax.value_and_grad(nll_of, argnums=1)(inner, y),
    lambda y, inner, _: _curvatures(inner, y),
    lambda y, inner, multipliers: (multipliers, jnp.zeros((), y.dtype)),
)


@jax.jit
def _minimize(target: Target, starts: Array, held: Array) -> Minimum:
    """Minima from as many starts, each with its held parameters."""
    none = jnp.zeros((1,), starts.dtype)

    def one(start: Array, held: Array) -> Minimum:
        box = Box(target.lower, target.upper, held)
        return minimize(_PROBLEM, start, target.inner, box, none, fallback=target.start, reuse=False)

    return jax.vmap(one)(starts, held)


def _minima(target: Target, starts: np.ndarray, held: np.ndarray) -> Minimum:
    """Any number of minimizations, through one program: it takes seconds to compile. NumPy arrays."""
    together = _TOGETHER_CPU if jax.default_backend() == "cpu" else _TOGETHER
    parts = []
    for first in range(0, len(starts), together):
        rows = np.arange(first, min(first + together, len(starts)))
        filled = np.concatenate([rows, np.full(together - len(rows), first)])
        parts.append(_minimize(target, starts[filled], held[filled]))
    # What fills up the last part stands at the end.
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(starts)], *parts)


def _outside(source: Any, minima: Minimum) -> np.ndarray:
    """How far minima lie from where a surrogate was trained: 0 inside, 1 next to it, 2 where it may say anything."""
    params = source.params(minima.y) if isinstance(source, Reparametrized) else minima.y
    inner = source.source if isinstance(source, Reparametrized) else source
    if not isinstance(inner, Surrogate):
        return np.zeros(len(minima.y), int)
    core, params = inner.members[0], np.asarray(params)
    width = np.asarray(core.upper) - np.asarray(core.lower)
    beyond = np.maximum(np.asarray(core.lower) - params, params - np.asarray(core.upper))
    excess = (beyond / np.where(width > 0, width, np.inf)).max(1)
    away = np.linalg.norm((params - core.origin) @ core.whiten, axis=1) / np.asarray(core.radius) - 1.0
    near = np.maximum(excess, away) <= _NEXT_TO
    return np.where(np.asarray(inner.in_domain(params)), 0, np.where(near, 1, 2))


def _lowest(source: Any, minima: Minimum, shape: tuple[int, int] | None = None) -> Minimum:
    """The lowest of all minima, or with a shape of rows and columns that of each row; those inside come first."""
    rows, columns = shape or (1, len(minima.value))
    good = np.isfinite(minima.value).reshape(rows, columns)
    outside = np.where(good, _outside(source, minima).reshape(rows, columns), 3)
    value = np.where(outside == outside.min(1, keepdims=True), minima.value.reshape(rows, columns), np.inf)
    picked = np.arange(rows) * columns + value.argmin(1)
    return jax.tree.map(lambda x: x[picked] if shape else x[picked[0]], minima)


_hessians = jax.jit(_curvatures)


def positive_hessian(source: Any, params: Any) -> Array:
    """Second derivatives of the NLL with absolute values for eigenvalues, shape (n_params, n_params)."""
    return _hessians(inner_of(smooth(source)), jnp.asarray(params))[1]


def _box(target: Target, held: np.ndarray) -> Box:
    return Box(*map(jnp.asarray, (target.lower, target.upper, held)))


def _covariance(target: Target, best: Minimum, held: np.ndarray) -> Array:
    hessian = _hessians(target.inner, best.y)[0]
    found = covariance(hessian, jnp.asarray(held))
    at_end = active(_box(target, held), jnp.asarray(best.y), jnp.asarray(best.gradient))
    return found if bool(jnp.isfinite(found).all()) else covariance(hessian, at_end)
