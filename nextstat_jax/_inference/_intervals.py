"""Likelihood-ratio intervals of one parameter (MINOS) and contours of two.

Both are the same search: along a ray from the best fit, in the scanned parameters, for the place where
``2 (NLL - NLL_min)``, profiled over all other parameters, reaches a level. Its root is almost linear along the ray and
its slope is known from the gradient of the fit (envelope theorem), so Newton's method needs few fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int
from scipy.special import chdtri

from .._base._doors import concrete
from .._base._errors import FitError
from .._base._numerics import safe_sqrt
from .._base._tables import dataframe, plain, require_single, text_table
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood
from .._minimize import _status
from .._minimize._implicit import attach, attach_root, value_at_minimum
from .._minimize._newton import Minimum, covariance
from .._model._model import HistFactoryModel, as_data, require_model, scanned
from ._fit import OBJECTIVE, Conditions, args_of, hold, margin, no_fit, pins_of, solve_best, unconditional

ONE_SIGMA = math.erf(math.sqrt(0.5))
_MAX_EVALUATIONS = 50
_MAX_RESTARTS = 3
_FREE, _RAY, _DONE = range(3)


class Interval(eqx.Module):
    """A likelihood-ratio interval of one parameter.

    Attributes:
        best: Best fit of the parameter, scalar.
        lower: Lower end; a bound of the parameter where ``status_lower`` says that it ends there; NaN if not found.
        upper: Upper end, likewise.
        status_lower: How the search for the lower end ended.
        status_upper: How the search for the upper end ended.
        parameter: Name of the parameter.
        level: Confidence level.
    """

    best: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    status_lower: Int[Array, ""]
    status_upper: Int[Array, ""]
    parameter: str = eqx.field(static=True)
    level: float = eqx.field(static=True)

    @property
    def error_minus(self) -> Float[Array, "*batch"]:
        """``best - lower``."""
        return self.best - self.lower

    @property
    def error_plus(self) -> Float[Array, "*batch"]:
        """``upper - best``."""
        return self.upper - self.best

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether both ends were found, or lie on a bound of the parameter."""
        sides = (self.status_lower, self.status_upper)
        lower, upper = ((s == _status.CONVERGED) | (s == _status.ON_BOUND) for s in sides)
        return lower & upper

    @property
    def message(self) -> str:
        """How both searches ended, and what to do about it."""
        return f"lower end: {_status.message(self.status_lower)}; upper end: {_status.message(self.status_upper)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where an end was not found)."""
        names = ("best", "lower", "upper", "error_minus", "error_plus", "converged")
        numbers = {name: plain(getattr(self, name)) for name in names}
        return {"parameter": self.parameter, "level": self.level, **numbers, "status": self.message}

    def __repr__(self) -> str:
        if not concrete(self.best) or self.best.ndim:
            return f"Interval(parameter={self.parameter!r}, lower={self.lower!r}, upper={self.upper!r})"
        errors = f"-{float(self.error_minus):.6g} +{float(self.error_plus):.6g}"
        ends = f"[{float(self.lower):.6g}, {float(self.upper):.6g}]"
        name = f"Interval of {self.parameter} at {self.level:.6g}"
        return f"{name}: {float(self.best):.6g} {errors}, {ends}; {self.message}"


class Contour(eqx.Module):
    """Likelihood-ratio contours of two parameters.

    Attributes:
        best: Best fit of both, shape (2,).
        points: Points of each contour, in order around it, shape (n_levels, n_points, 2); NaN where not found. Points
            where the contour leaves the bounds of a parameter lie on the bound.
        status: How the search for each point ended, shape (n_levels, n_points).
        parameters: Names of the two parameters.
        levels: Confidence levels, of both parameters together.
    """

    best: Float[Array, "2"]
    points: Float[Array, "level point 2"]
    status: Int[Array, "level point"]
    parameters: tuple[str, str] = eqx.field(static=True)
    levels: tuple[float, ...] = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, "*batch level point"]:
        """Whether each point was found, or lies on a bound."""
        return (self.status == _status.CONVERGED) | (self.status == _status.ON_BOUND)

    @property
    def message(self) -> str:
        """How the searches ended, and what to do about it."""
        return _status.message(self.status)

    def _columns(self) -> dict[str, np.ndarray]:
        require_single(self.points, 3, "Contour")
        n = self.points.shape[1]
        points = np.asarray(self.points).reshape(-1, 2)
        columns = {"level": np.repeat(self.levels, n)}
        columns |= {name: points[:, k] for k, name in enumerate(self.parameters)}
        return columns | {"converged": np.asarray(self.converged).reshape(-1)}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where a point was not found)."""
        numbers = {name: plain(getattr(self, name)) for name in ("best", "points", "converged")}
        return {"parameters": list(self.parameters), "levels": list(self.levels), **numbers, "status": self.message}

    def to_dataframe(self) -> Any:
        """One row for each point, as a pandas data frame."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.points) or self.points.ndim != 3:
            return f"Contour(parameters={self.parameters!r}, points={self.points!r})"
        x, y = np.asarray(self.best)
        best = f"{self.parameters[0]} = {x:.6g}, {self.parameters[1]} = {y:.6g}"
        rows = []
        for level, points in zip(self.levels, np.asarray(self.points), strict=True):
            with np.errstate(all="ignore"):
                low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
            rows.append((f"{level:.4g}", low[0], high[0], low[1], high[1]))
        header = ["level", *(f"{end} {name}" for name in self.parameters for end in ("min", "max"))]
        return text_table(header, rows, f"Contour: {self.message}; best fit {best}")


def interval(
    model: HistFactoryModel, parameter: str | None = None, level: Any = ONE_SIGMA, data: Any = None
) -> Interval:
    """The likelihood-ratio interval of a parameter, as MINOS finds it: both sides, all others profiled.

    Args:
        model: The model.
        parameter: Name of the parameter; the parameter of interest by default.
        level: Confidence level; one standard deviation, 0.6827, by default.
        data: As in ``fit``.

    Returns:
        ``Interval``, differentiable with respect to model and data. An end that the parameter's bound cuts off is the
        bound, and its status says so.

    Raises:
        FitError: For an unknown or fixed parameter, or a level outside (0, 1).
        ModelError: For wrong shapes, or without a parameter of interest where none is named.

    References:
        F. James, M. Roos, Comput. Phys. Commun. 10 (1975) 343; arXiv:1007.1727, equation 8.
    """
    require_model(model)
    if parameter is None:
        model.require_poi()
        parameter = model.names.poi
    names, indices = scanned(model, parameter)
    if len(names) != 1:
        raise FitError(f"parameter={parameter!r}: an interval is of one parameter; see contour for two")
    level = _level(level)
    rays = Rays(np.array([[-1.0], [1.0]]), np.full(2, math.sqrt(chdtri(1, 1.0 - level))))
    best, points, status = _search_rays(model, data, indices, rays)
    lower, upper = points[0, 0], points[1, 0]
    return Interval(best[0], lower, upper, status[0], status[1], names[0], level)


def contour(
    model: HistFactoryModel,
    parameters: Sequence[str],
    levels: Sequence[float] = (ONE_SIGMA, 0.95),
    *,
    n_points: int = 40,
    data: Any = None,
) -> Contour:
    """Likelihood-ratio contours of two parameters, all others profiled.

    Args:
        model: The model.
        parameters: Names of the two parameters.
        levels: Confidence levels of both together: ``2 (NLL - NLL_min)`` is a quantile of chi2 with two degrees of
            freedom, 2.30 and 5.99 by default.
        n_points: Points of each contour, equally spaced in angle where the covariance is a circle.
        data: As in ``fit``.

    Returns:
        ``Contour``, differentiable with respect to model and data along the rays from the best fit.

    Raises:
        FitError: For unknown or fixed parameters, levels outside (0, 1), or fewer than 3 points.
        ModelError: For wrong shapes.
    """
    require_model(model)
    names, indices = scanned(model, parameters)
    if len(names) != 2:
        raise FitError(f"parameters={parameters!r}: a contour needs two names")
    if isinstance(n_points, bool) or not isinstance(n_points, int) or n_points < 3:
        raise FitError(f"n_points={n_points!r}: expected an integer of at least 3")
    levels = tuple(_level(level) for level in np.atleast_1d(np.asarray(levels, dtype=object)))
    if not levels:
        raise FitError("levels is empty: give at least one confidence level")
    turns = np.tile(np.arange(n_points) / n_points, len(levels))
    goals = np.repeat([math.sqrt(chdtri(2, 1.0 - level)) for level in levels], n_points)
    rays = Rays(turns[:, None], goals)
    best, points, status = _search_rays(model, data, indices, rays)
    shape = (len(levels), n_points)
    return Contour(best, points.reshape(*shape, 2), status.reshape(shape), (names[0], names[1]), levels)


def _level(level: Any) -> float:
    if not isinstance(level, int | float | np.floating) or not 0 < level < 1:
        raise FitError(f"level={level!r}: expected a confidence level between 0 and 1, such as 0.6827")
    return float(level)


class Rays(NamedTuple):
    """Directions and levels.

    Attributes:
        directions: Of one parameter: in units of its uncertainty. Of two: the angle in turns, where their covariance
            is a circle. Shape (n_rays, 1).
        goals: ``sqrt(2 (NLL - NLL_min))`` at the end of each ray, shape (n_rays,).
    """

    directions: Any
    goals: Any


class _Search(NamedTuple):
    """State of the search; each pass of the loop makes one fit.

    Attributes:
        kind: Which fit comes next.
        ray: Which ray is looked at.
        r: Where on it, in units of the covariance.
        low: Largest r known to be inside.
        high: Smallest r known to be outside.
        evaluations: Evaluations on this ray.
        restarts: How often the unconditional fit was made again because a conditional one lay lower.
        start: Where the next fit starts, shape (n_params,).
        free: Unconditional fit.
        directions: Rays in the parameters' own units, shape (n_rays, n_scanned).
        response: How all parameters follow the scanned ones in the quadratic approximation, (n_params, n_scanned).
        roots: r at the ends, shape (n_rays,).
        status: How each search ended, shape (n_rays,).
        minima: Conditional fits at the ends, leading axis n_rays.
    """

    kind: Array
    ray: Array
    r: Array
    low: Array
    high: Array
    evaluations: Array
    restarts: Array
    start: Array
    free: Minimum
    directions: Array
    response: Array
    roots: Array
    status: Array
    minima: Minimum


def _search_rays(
    model: HistFactoryModel, data: Any, indices: tuple[int, ...], rays: Rays
) -> tuple[Array, Array, Array]:
    """Best fit, end points of the rays, and their status."""
    likelihood, data = model.likelihood, as_data(model, data)
    rays = Rays(*(jnp.asarray(x, likelihood.dtype) for x in rays))
    search = _solve_rays(*lax.stop_gradient((likelihood, data)), rays, indices)
    best, points = _finish(likelihood, data, search, rays, indices)
    return best, points, search.status


@jax.jit(static_argnums=3)
def _solve_rays(likelihood: Likelihood, data: Array, rays: Rays, indices: tuple[int, ...]) -> _Search:
    n_rays = len(rays.goals)
    nothing, zero = no_fit(likelihood), jnp.zeros((), data.dtype)
    state = _Search(
        kind=jnp.array(_FREE),
        ray=jnp.array(0),
        r=zero,
        low=zero,
        high=zero + jnp.inf,
        evaluations=jnp.array(0),
        restarts=jnp.array(0),
        start=likelihood.init,
        free=nothing,
        directions=jnp.zeros((n_rays, len(indices)), data.dtype),
        response=jnp.zeros((len(likelihood.init), len(indices)), data.dtype),
        roots=jnp.full((n_rays,), jnp.nan, data.dtype),
        status=jnp.full((n_rays,), _status.RUNNING),
        minima=jax.tree.map(lambda x: jnp.broadcast_to(x, (n_rays, *x.shape)), nothing),
    )
    task = _Task(likelihood, data, rays, indices)
    return lax.while_loop(lambda s: s.kind != _DONE, lambda s: _step(task, s), state)


class _Task(NamedTuple):
    """What stays the same during a search."""

    likelihood: Likelihood
    data: Array
    rays: Rays
    indices: tuple[int, ...]


def _step(task: _Task, s: _Search) -> _Search:
    likelihood, where = task.likelihood, np.array(task.indices)
    free = s.kind == _FREE
    point = s.free.y[where] + s.r * s.directions[s.ray]
    conditions = hold(likelihood, task.indices, point)
    start = jnp.where(free, s.start, s.start.at[where].set(point))
    held = jnp.where(free, likelihood.frozen > 0, conditions.held)
    minimum = solve_best(likelihood, task.data, Conditions(start, held))
    return lax.cond(free, lambda: _after_free(task, s, minimum), lambda: _after_ray(task, s, minimum))


def _after_free(task: _Task, s: _Search, minimum: Minimum) -> _Search:
    """Begins (or begins again) with the first ray."""
    likelihood, where = task.likelihood, np.array(task.indices)
    args = args_of(likelihood, task.data, minimum)
    hessian = _derivatives.hessian(likelihood, minimum.y, task.data, args[2])
    spread = covariance(hessian, likelihood.frozen > 0)
    pinned = pins_of(likelihood, minimum, unconditional(likelihood)).mask.at[where].set(False)
    ok = jnp.isfinite(spread).all()
    spread = jnp.where(ok, spread, covariance(hessian, pinned))
    block = spread[where][:, where]
    usable = jnp.isfinite(spread).all() & (jnp.diagonal(block) > 0).all()
    block = jnp.where(usable, block, jnp.eye(len(where), dtype=block.dtype))
    response = jnp.where(usable, jnp.linalg.solve(block, spread[:, where].T).T, 0.0)
    s = s._replace(kind=jnp.array(_RAY), ray=jnp.array(0), free=minimum, response=response)
    if len(where) == 1:
        directions = task.rays.directions * jnp.sqrt(block)
    else:
        ends = (likelihood.lower[where], likelihood.upper[where])
        directions = _fan(task.rays.directions[:, 0], block, minimum.y[where], *ends)
    return _begin(task, s._replace(directions=directions))


def _fan(turns: Array, block: Array, y: Array, lower: Array, upper: Array) -> Array:
    """Directions of two parameters, shape (n_rays, 2); from a point on a bound only those that lead inwards."""
    inward = jnp.where(y <= lower, 1.0, jnp.where(y >= upper, -1.0, 0.0))
    first, second = inward != 0
    # The last ray of a part of a circle lies on its edge, which the full circle does not have.
    steps = turns / jnp.max(turns)
    angle = jnp.where(first & second, 0.5 * steps, jnp.where(first, steps - 0.5, jnp.where(second, steps, 2.0 * turns)))
    x = jnp.stack([jnp.cos(jnp.pi * angle), jnp.sin(jnp.pi * angle)], axis=1)
    x = jnp.where(jnp.abs(x) < 1e-6, 0.0, x)
    scale = jnp.sqrt(jnp.diagonal(block))
    rho = block[0, 1] / (scale[0] * scale[1])
    other = jnp.sqrt(jnp.maximum(1.0 - rho * rho, 1e-12))
    # A parameter on a bound must not move in the ray along the bound: it comes first in the triangular factor.
    by_first = jnp.stack([x[:, 0], rho * x[:, 0] + other * x[:, 1]], axis=1)
    by_second = jnp.stack([other * x[:, 0] + rho * x[:, 1], x[:, 1]], axis=1)
    shape = jnp.where(first & second, x, jnp.where(second, by_second, by_first))
    flip = jnp.where(inward < 0, -1.0, 1.0)
    return shape * scale * flip


def _farthest(task: _Task, s: _Search) -> Array:
    """r at which the ray leaves the bounds."""
    where = np.array(task.indices)
    y, direction = s.free.y[where], s.directions[s.ray]
    ends = jnp.where(direction > 0, task.likelihood.upper[where], task.likelihood.lower[where])
    away = jnp.abs(direction) > 0
    return jnp.where(away, (ends - y) / jnp.where(away, direction, 1.0), jnp.inf).min()


def _begin(task: _Task, s: _Search) -> _Search:
    """The first point of a ray: where it ends if the likelihood is Gaussian."""
    goal = task.rays.goals[s.ray]
    return _move(task, s._replace(low=jnp.zeros_like(goal), high=goal + jnp.inf, evaluations=jnp.array(0)), goal)


def _move(task: _Task, s: _Search, r: Array) -> _Search:
    """The next fit is made at r, or where the ray leaves the bounds; all parameters follow to first order."""
    r = jnp.minimum(r, _farthest(task, s))
    start = s.free.y + s.response @ (r * s.directions[s.ray])
    return s._replace(r=r, start=start)


def _after_ray(task: _Task, s: _Search, minimum: Minimum) -> _Search:
    """Newton's step inside the bracket; ends the search on this ray if the step no longer matters."""
    where, goal = np.array(task.indices), task.rays.goals[s.ray]
    gap = minimum.value - s.free.value
    # A conditional fit below the unconditional one leads it to the minimum that it missed.
    missed = (gap < -margin(s.free.value)) & (s.r > 0) & (s.restarts < _MAX_RESTARTS)
    value = safe_sqrt(2.0 * jnp.maximum(gap, 0.0)) - goal
    value = jnp.where(jnp.isnan(value), jnp.inf, value)
    rise = minimum.gradient[where] @ s.directions[s.ray]
    slope = jnp.where(gap > 0, rise / safe_sqrt(2.0 * jnp.where(gap > 0, gap, 1.0)), 0.0)
    low = jnp.where(value < 0, jnp.maximum(s.low, s.r), s.low)
    high = jnp.where(value < 0, s.high, jnp.minimum(s.high, s.r))
    newton = s.r - value / jnp.where(slope > 0, slope, jnp.nan)
    middle = jnp.where(jnp.isinf(high), 2.0 * s.r, 0.5 * (low + high))
    guess = jnp.where((newton > low) & (newton < high), newton, middle)
    guess = jnp.minimum(guess, 10.0 * s.r)
    rtol = 1e-7 if value.dtype == np.float64 else 1e-4
    closed = jnp.isfinite(high) & (high - low <= rtol * high)
    done = (jnp.abs(newton - s.r) <= rtol * s.r) | closed
    cut = ~done & (value < 0) & (s.r >= _farthest(task, s))
    evaluations = s.evaluations + 1
    lost = ~done & ~cut & (evaluations >= _MAX_EVALUATIONS)
    ended = done | cut | lost
    fits = _status.worst(minimum.status, s.free.status)
    fits = jnp.where((fits == _status.CONVERGED) & cut, _status.ON_BOUND, fits)
    failure = jnp.where(jnp.isinf(high), _status.NO_ROOT, _status.STEP_LIMIT)
    root = jnp.where(cut, s.r, jnp.where(done & jnp.isfinite(newton), newton, jnp.where(done, s.r, jnp.nan)))
    found = s._replace(
        low=low,
        high=high,
        evaluations=evaluations,
        roots=s.roots.at[s.ray].set(root),
        status=s.status.at[s.ray].set(jnp.where(lost, failure, fits)),
        minima=jax.tree.map(lambda all_, one: all_.at[s.ray].set(one), s.minima, minimum),
    )
    last = s.ray == len(task.rays.goals) - 1
    following = _begin(task, found._replace(ray=jnp.minimum(s.ray + 1, len(task.rays.goals) - 1)))
    following = following._replace(kind=jnp.where(last, _DONE, _RAY))
    again = s._replace(kind=jnp.array(_FREE), start=minimum.y, restarts=s.restarts + 1)
    moved = _move(task, found, guess)

    def choose(a: Any, b: Any, condition: Array) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)

    return choose(again, choose(following, moved, ended), missed)


@jax.jit(static_argnums=4)
def _finish(
    likelihood: Likelihood, data: Array, s: _Search, rays: Rays, indices: tuple[int, ...]
) -> tuple[Array, Array]:
    """Everything of the search that has derivatives."""
    where = np.array(indices)
    args, pins = args_of(likelihood, data, s.free), pins_of(likelihood, s.free, unconditional(likelihood))
    lowest = value_at_minimum(OBJECTIVE, s.free.y, args, pins)
    best = attach(OBJECTIVE, s.free.y, args, pins)[where]
    center = s.free.y[where]

    def end(root: Array, direction: Array, goal: Array, minimum: Minimum, status: Array) -> Array:
        point = center + root * direction
        minimum = minimum._replace(y=minimum.y.at[where].set(point))
        constants = (minimum, center, direction, goal)
        root = attach_root(partial(_excess, indices), root, (likelihood, data, lowest), constants)
        end = center + root * direction
        return jnp.where(status == _status.ON_BOUND, lax.stop_gradient(on_bound(end, direction)), end)

    def on_bound(end: Array, direction: Array) -> Array:
        # The sum above may miss the bound by a rounding error.
        ends = jnp.where(direction > 0, likelihood.upper[where], likelihood.lower[where])
        close = jnp.abs(end - ends) <= 1e-6 * jnp.abs(ends - center)
        return jnp.where(close & (direction != 0), ends, end)

    return best, jax.vmap(end)(s.roots, s.directions, rays.goals, s.minima, s.status)


def _excess(
    indices: tuple[int, ...],
    r: Array,
    args: tuple[Likelihood, Array, Array],
    constants: tuple[Minimum, Array, Array, Array],
) -> Array:
    """0 at the end of a ray."""
    likelihood, data, lowest = args
    minimum, center, direction, goal = constants
    pins = pins_of(likelihood, minimum, hold(likelihood, indices, center + r * direction))
    value = value_at_minimum(OBJECTIVE, minimum.y, args_of(likelihood, data, minimum), pins)
    return safe_sqrt(2.0 * (value - lowest)) - goal
