"""Likelihood-ratio intervals of one parameter (MINOS) and contours of two.

Both are the same search: along a ray from the best fit, in the scanned parameters, for the place where
``2 (NLL - NLL_min)``, profiled over all other parameters, reaches a level. Its root is almost linear along the ray and
its slope is known from the gradient of the fit (envelope theorem), so Newton's method needs few fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._doors import integer, no_type_check, number
from .._base._errors import FitError
from .._base._numerics import lightly, safe_sqrt
from .._base._special import radius
from .._minimize import _status
from .._minimize._implicit import attach_root
from .._minimize._newton import Minimum
from .._model._base import Model, check_start, scanned, subject
from ._driver import ask
from ._fit import several_minima
from ._points import blank_rows, chosen_rows, held_rows, index_array, response, usable_block, value_held
from ._question import Ask, Course, Question, question
from ._result import Result, result, static
from ._roots import Hunt, hunt_from, hunted
from ._rows import Facts, First, Rows, facts_of
from ._search import Found
from ._settle import settle_free

ONE_SIGMA = math.erf(math.sqrt(0.5))


@result
class Interval(Result):
    """A likelihood-ratio interval of one parameter.

    Attributes:
        best: Best fit of the parameter, scalar.
        lower: Lower end; a bound of the parameter where ``status_lower`` says that it ends there; NaN if not found.
        upper: Upper end, likewise.
        status_lower: How the search for the lower end ended.
        status_upper: How the search for the upper end ended.
        next_minimum: The least distance, in the NLL, of another minimum from one of the fits; +inf where all starts
            agree. Scalar.
        parameter: Name of the parameter.
        level: Confidence level.
    """

    _single: ClassVar[tuple[str, int]] = ("best", 0)

    best: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    status_lower: Int[Array, ""]
    status_upper: Int[Array, ""]
    next_minimum: Float[Array, ""]
    parameter: str = static()
    level: float = static()

    @property
    def error_minus(self) -> Float[Array, "*batch"]:
        """``best - lower``."""
        return lightly(lambda xp, best, lower: best - lower, self.best, self.lower)

    @property
    def error_plus(self) -> Float[Array, "*batch"]:
        """``upper - best``."""
        return lightly(lambda xp, upper, best: upper - best, self.upper, self.best)

    @property
    def status(self) -> Int[Array, "*batch"]:
        """The worst of the two."""
        return _status.worst(self.status_lower, self.status_upper)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether both ends were found, or lie on a bound of the parameter."""
        return lightly(
            lambda xp, *ends: _reached(xp, ends[0]) & _reached(xp, ends[1]), self.status_lower, self.status_upper
        )

    @property
    def message(self) -> str:
        """How both searches ended, and what to do about it."""
        ends = f"lower end: {_status.message(self.status_lower)}; upper end: {_status.message(self.status_upper)}"
        return ends + self._said() + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, Any]:
        names = ("best", "lower", "upper", "error_minus", "error_plus")
        numbers = {name: [float(getattr(self, name))] for name in names}
        return {"parameter": [self.parameter], **numbers}

    def _facts(self) -> dict[str, Any]:
        names = ("parameter", "level", "best", "lower", "upper", "error_minus", "error_plus")
        return {name: getattr(self, name) for name in names}

    def _title(self) -> str:
        return f"Interval of {self.parameter} at {self.level:.6g}: {self.message}"


@result
class Contour(Result):
    """Likelihood-ratio contours of two parameters.

    Attributes:
        best: Best fit of both, shape (2,).
        points: Points of each contour, in order around it, shape (n_levels, n_points, 2); NaN where not found. Points
            where the contour leaves the bounds of a parameter lie on the bound.
        status: How the search for each point ended, shape (n_levels, n_points).
        next_minimum: As in ``Interval``.
        parameters: Names of the two parameters.
        levels: Confidence levels, of both parameters together.
    """

    _single: ClassVar[tuple[str, int]] = ("best", 1)

    best: Float[Array, "2"]
    points: Float[Array, "level point 2"]
    status: Int[Array, "level point"]
    next_minimum: Float[Array, ""]
    parameters: tuple[str, str] = static()
    levels: tuple[float, ...] = static()

    @property
    def converged(self) -> Bool[Array, "*batch level point"]:
        """Whether each point was found, or lies on a bound."""
        return lightly(_reached, self.status)

    @property
    def message(self) -> str:
        """How the searches ended, and what to do about it."""
        return super().message + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, np.ndarray]:
        n = self.points.shape[1]
        points = np.asarray(self.points).reshape(-1, 2)
        columns = {"level": np.repeat(self.levels, n)}
        columns |= {name: points[:, k] for k, name in enumerate(self.parameters)}
        return columns | {"converged": np.asarray(self.converged).reshape(-1)}

    def _shown(self) -> dict[str, Any]:
        points = np.asarray(self.points)
        columns: dict[str, Any] = {"level": [f"{level:.4g}" for level in self.levels]}
        with np.errstate(all="ignore"):
            for k, name in enumerate(self.parameters):
                columns |= {f"{end} {name}": f(points[:, :, k], axis=1) for end, f in _ENDS}
        return columns

    def _facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("parameters", "levels", "best", "points")}

    def _title(self) -> str:
        best = ", ".join(f"{name} = {x:.6g}" for name, x in zip(self.parameters, np.asarray(self.best), strict=True))
        return f"Contour: {self.message}; best fit {best}"


_ENDS = (("min", np.nanmin), ("max", np.nanmax))


def _reached(xp: Any, status: Any) -> Any:
    return (status == _status.CONVERGED) | (status == _status.ON_BOUND)


@no_type_check
def interval(
    model: Model,
    parameter: str | None = None,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    level: float = ONE_SIGMA,
) -> Interval:
    """The likelihood-ratio interval of a parameter, as MINOS finds it: both sides, all others profiled.

    A loop over parameters compiles nothing after the first.

    Args:
        model: The model.
        parameter: Name of the parameter; the parameter of interest by default.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.
        level: Confidence level; one standard deviation, 0.6827, by default.

    Returns:
        ``Interval``, differentiable with respect to model and data. An end that the parameter's bound cuts off is the
        bound, and its status says so.

    Raises:
        FitError: For an unknown or fixed parameter, or a level outside (0, 1).
        ModelError: For wrong shapes, or without a parameter of interest where none is named.

    References:
        F. James, M. Roos, Comput. Phys. Commun. 10 (1975) 343; arXiv:1007.1727, equation 8.
    """
    about = subject(model, data, fixed, poi=parameter is None)
    names, indices = scanned(about, model, about.poi_name if parameter is None else parameter)
    if len(names) != 1:
        raise FitError(f"parameter={parameter!r}: an interval is of one parameter; see contour for two")
    level = _level(level)
    goal, dtype = radius(level, 1), about.likelihood.dtype
    asked = Sides(index_array(*indices), np.array([-1.0, 1.0], dtype), np.array([goal, goal], dtype))
    told = ask(asked, facts_of(about), check_start(about, init))
    return Interval(*told.answer, parameter=names[0], level=level).explained(model, about, told.stuck)


@no_type_check
def contour(
    model: Model,
    parameters: Sequence[str],
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    level: float | Sequence[float] = (ONE_SIGMA, 0.95),
    n_points: int = 40,
) -> Contour:
    """Likelihood-ratio contours of two parameters, all others profiled.

    Args:
        model: The model.
        parameters: Names of the two parameters.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.
        level: Confidence levels of both together, one or several: ``2 (NLL - NLL_min)`` is a quantile of chi2 with two
            degrees of freedom, 2.30 and 5.99 by default.
        n_points: Points of each contour, equally spaced in angle where the covariance is a circle.

    Returns:
        ``Contour``, differentiable with respect to model and data along the rays from the best fit.

    Raises:
        FitError: For unknown or fixed parameters, levels outside (0, 1), or fewer than 3 points.
        ModelError: For wrong shapes.
    """
    about = subject(model, data, fixed)
    names, indices = scanned(about, model, parameters)
    if len(names) != 2:
        raise FitError(f"parameters={parameters!r}: a contour needs two names")
    integer(n_points, "n_points", 3)
    levels = tuple(_level(x) for x in np.atleast_1d(np.asarray(level, dtype=object)))
    if not levels:
        raise FitError("level is empty: give at least one confidence level")
    turns = np.tile(np.arange(n_points) / n_points, len(levels))
    goals = np.repeat([radius(x, 2) for x in levels], n_points)
    dtype = about.likelihood.dtype
    asked = Around(index_array(*indices), turns.astype(dtype), goals.astype(dtype), (len(levels), n_points))
    told = ask(asked, facts_of(about), check_start(about, init))
    return Contour(*told.answer, parameters=(names[0], names[1]), levels=levels).explained(model, about, told.stuck)


def _level(level: Any) -> float:
    return number(level, "level", 0.0, 1.0, hint=": a confidence level, such as 0.6827")


class _Search(NamedTuple):
    """State of the search.

    Attributes:
        center: The unconditional fit, shape (n_params,).
        rate: How all parameters follow the scanned ones in the quadratic approximation, shape (n_params, n_scanned).
        directions: Rays in the parameters' own units, shape (n_rays, n_scanned).
        farthest: Where each leaves the bounds, in units of its direction, shape (n_rays,).
        hunts: The searches for their ends.
        found: The last fit on each ray, leading axis n_rays.
        at: Where that was, shape (n_rays,).
    """

    center: Array
    rate: Array
    directions: Array
    farthest: Array
    hunts: Hunt
    found: Found
    at: Array


@question
class Rays(Question):
    """Ends of rays from the best fit, in one or two parameters.

    Attributes:
        where: Indices of the parameters, shape (1,) or (2,).
        aims: Directions. Of one parameter: in units of its uncertainty. Of two: the angle in turns, where their
            covariance is a circle. Shape (n_rays,).
        goals: ``sqrt(2 (NLL - NLL_min))`` at the end of each ray, shape (n_rays,).
    """

    where: Any
    aims: Any
    goals: Any

    flat: ClassVar[bool] = False

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """Those of the scanned parameters."""
        return self.where[0], self.where[1] if len(self.where) > 1 else -1

    def begin(self, facts: Facts, first: First) -> _Search:
        """Each ray is looked at where it ends if the likelihood is Gaussian."""
        k, where = facts.likelihood, self.where
        columns = first.columns[: len(where)]
        y = first.found.minimum.y
        center, lower, upper = y[where], k.lower[where], k.upper[where]
        block = usable_block(columns, where)
        aims, goals = jnp.asarray(self.aims), jnp.asarray(self.goals)
        if len(where) == 1:
            directions = aims[:, None] * jnp.sqrt(block)
        else:
            directions = _fan(aims, block, center, lower, upper)
        ends = jnp.where(directions > 0, upper, lower)
        away = jnp.abs(directions) > 0
        farthest = jnp.where(away, (ends - center) / jnp.where(away, directions, 1.0), jnp.inf).min(1)
        nothing = blank_rows(k, facts.data, len(goals))
        found = nothing._replace(minimum=nothing.minimum._replace(y=jnp.broadcast_to(y, nothing.minimum.y.shape)))
        hunts = hunt_from(jnp.minimum(goals, farthest))
        return _Search(y, response(columns, where), directions, farthest, hunts, found, jnp.zeros_like(goals))

    def ask(self, facts: Facts, state: _Search) -> Ask:
        """One fit on each ray whose end is not known."""
        center = state.center[self.where]
        points = center + state.hunts.x[:, None] * state.directions
        # The last fit lies on the ray up to rounding only.
        last = state.found.minimum.y.at[:, self.where].set(center + state.at[:, None] * state.directions)
        start, held = held_rows(facts.likelihood, last, self.where, points, state.rate)
        return Ask(Rows.of(start, held, wanted=state.hunts.open), facts.data)

    def tell(self, facts: Facts, state: _Search, first: First, found: Found) -> _Search:
        """One step of each search."""
        hunts, minima = state.hunts, found.minimum
        gap = minima.value - first.found.minimum.value
        value = safe_sqrt(2.0 * jnp.maximum(gap, 0.0))
        rise = (minima.gradient[:, self.where] * state.directions).sum(1)
        slope = jnp.where(gap > 0, rise / jnp.where(value > 0, value, 1.0), 0.0)
        after = hunted(hunts, value - self.goals, slope, state.farthest, grow=2.0)
        return state._replace(
            hunts=after,
            found=chosen_rows(hunts.open, found, state.found),
            at=jnp.where(hunts.open, hunts.x, state.at),
        )

    def done(self, state: _Search) -> Array:
        """When all ends are known."""
        return ~state.hunts.open.any()

    def ends(self, facts: Facts, course: Course) -> tuple[Array, Array, Array]:
        """Best fit, shape (n_scanned,), ends of the rays, shape (n_rays, n_scanned), and their statuses."""
        likelihood, data, state, where = facts.likelihood, facts.data, course.state, self.where
        hunts, minima = state.hunts, state.found.minimum
        free = settle_free(likelihood, data, course.first.found.minimum)
        center = state.center[where]
        fits = _status.worst(minima.status, course.first.found.minimum.status)
        fits = jnp.where((fits == _status.CONVERGED) & hunts.cut, _status.ON_BOUND, fits)
        lost = jnp.where(jnp.isinf(hunts.high), _status.NO_ROOT, _status.STEP_LIMIT)
        status = jnp.where(hunts.found | hunts.cut, fits, lost)

        def end(root: Array, direction: Array, goal: Array, minimum: Minimum) -> Array:
            constants = (where, minimum, center, direction, goal)
            return attach_root(_excess, root, (likelihood, data, free.value), constants)

        roots = jax.vmap(end)(hunts.root, state.directions, jnp.asarray(self.goals), minima)
        ends = center + roots[:, None] * state.directions
        bounds = jnp.where(state.directions > 0, likelihood.upper[where], likelihood.lower[where])
        # The sum above may miss the bound by a rounding error.
        close = jnp.abs(ends - bounds) <= 1e-6 * jnp.abs(bounds - center)
        on_bound = jax.lax.stop_gradient(jnp.where(close & (state.directions != 0), bounds, ends))
        points = jnp.where((status == _status.ON_BOUND)[:, None], on_bound, ends)
        return free.params[where], points, status


@question
class Sides(Rays):
    """Both sides of one parameter."""

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``Interval``, in its order."""
        best, points, status = self.ends(facts, course)
        return best[0], *points[:, 0], *status, course.above


@question
class Around(Rays):
    """Around the best fit of two parameters.

    Attributes:
        shape: Number of levels and of points for each.
    """

    shape: tuple[int, int] = static()

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``Contour``, in its order."""
        best, points, status = self.ends(facts, course)
        return best, points.reshape((*self.shape, 2)), status.reshape(self.shape), course.above


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


def _excess(r: Array, args: tuple[Any, Array, Array], constants: tuple[Any, ...]) -> Array:
    """0 at the end of a ray."""
    likelihood, data, lowest = args
    where, minimum, center, direction, goal = constants
    value = value_held(likelihood, data, minimum, where, center + r * direction)
    return safe_sqrt(2.0 * (value - lowest)) - goal
