"""Upper limits: where CLs falls to a level, observed and expected.

The expected limits need no second root finder. With ``CLsb = Phi(n - sqrt(q_A))`` and ``CLb = Phi(n)`` for a background
that fluctuates by n standard deviations, ``CLs = level`` is ``sqrt(q_A(mu)) = n - Phi^-1(level Phi(n))``: a root of a
function that is almost linear in mu, and whose slope is known from the gradient of the fit (envelope theorem).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Bool, Float, Int

from .._base._doors import concrete
from .._base._errors import FitError
from .._base._numerics import safe_sqrt
from .._base._tables import dataframe, plain, require_single, text_table
from .._likelihood._histfactory import Likelihood, expected, rates
from .._minimize import _status
from .._minimize._implicit import attach, attach_root, value_at_minimum
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, bound_below
from ._asymptotics import BANDS, asimov_of, check_test, distance
from ._fit import OBJECTIVE, Conditions, args_of, at, margin, no_fit, pins_of, solve_best, unconditional

# Fits per limit, and how far out to look for it in units of the first guess.
_MAX_EVALUATIONS = 60
_FARTHEST = 1e12
_MAX_RESTARTS = 3
# Targets: the observed limit and the expected ones. The median comes first, since the others are near.
_TARGETS = 1 + len(BANDS)
_MEDIAN = BANDS.index(0)
_ORDER = (3, 4, 2, 5, 1, 0)
_FREE, _BACKGROUND, _ASIMOV, _DATA, _DONE = range(5)


class UpperLimit(eqx.Module):
    """Upper limits on the parameter of interest.

    Attributes:
        observed: Observed limit, scalar; NaN where there is none.
        expected: Limits expected where the background fluctuates by -2 to +2 standard deviations, shape (5,).
        mu_hat: Best fit of the parameter of interest, not below 0.
        status: How each of the six ended, shape (6,): the observed limit first. ``message`` is their sentence.
        n_fits: Number of fits made.
        level: One minus the confidence level.
        parameter: Name of the parameter of interest.
        test_stat: ``"qtilde"`` or ``"q"``.
    """

    observed: Float[Array, ""]
    expected: Float[Array, "5"]
    mu_hat: Float[Array, ""]
    status: Int[Array, "6"]
    n_fits: Int[Array, ""]
    level: float = eqx.field(static=True)
    parameter: str = eqx.field(static=True)
    test_stat: str = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, "*batch 6"]:
        """Whether each of the six limits was found."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the searches ended, and what to do about it."""
        return _status.message(self.status)

    def _columns(self) -> dict[str, list[Any]]:
        require_single(self.observed, 0, "UpperLimit")
        names = ["observed", *(f"expected {n:+d} sigma" if n else "expected" for n in BANDS)]
        values = [float(self.observed), *np.asarray(self.expected).tolist()]
        return {"limit": names, self.parameter: values, "converged": np.asarray(self.converged).tolist()}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where there is no limit)."""
        return {
            "parameter": self.parameter,
            "level": self.level,
            "test_stat": self.test_stat,
            "observed": plain(self.observed),
            "expected": plain(self.expected),
            "mu_hat": plain(self.mu_hat),
            "converged": plain(self.converged),
            "status": self.message,
        }

    def to_dataframe(self) -> Any:
        """One row for each of the six limits, as a pandas data frame; needs a single result, not a batch."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.observed) or self.observed.ndim:
            return f"UpperLimit(observed={self.observed!r}, expected={self.expected!r})"
        head = f"UpperLimit on {self.parameter} at {1 - self.level:.6g} confidence ({self.test_stat}): {self.message}"
        columns = self._columns()
        return text_table(list(columns)[:2], zip(*list(columns.values())[:2], strict=True), head)


def upper_limit(
    model: HistFactoryModel, data: Any = None, *, level: Any = 0.05, test_stat: str = "qtilde"
) -> UpperLimit:
    """Observed and expected upper limits on the parameter of interest, by CLs with asymptotic distributions.

    One search finds all six, on one set of fits. The upper bound of the parameter of interest does not limit it: the
    limit may lie beyond, and is found wherever it is between 1e-12 and 1e12 of the first guess.

    Args:
        model: A model with a parameter of interest. One that may be negative is held at 0 or above for ``"qtilde"``.
        data: As in ``fit``.
        level: One minus the confidence level.
        test_stat: ``"qtilde"`` (equation 16) or ``"q"`` (equation 14).

    Returns:
        ``UpperLimit``; differentiable with respect to model and data (implicit differentiation through the roots), and
        can be jitted and batched. Where CLs does not fall to the level the limit is NaN and ``status`` says so.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a level outside (0, 0.5), an unknown test statistic, or a parameter of interest that is fixed or
            cannot be 0.

    References:
        arXiv:1007.1727, sections 3 and 4.3; CLs: J. Phys. G 28 (2002) 2693.
    """
    if test_stat not in ("qtilde", "q"):
        raise FitError(f"test_stat={test_stat!r}: limits are set with 'qtilde' or 'q'")
    check_test(model, 0.0, test_stat)
    poi = model.require_poi()
    # Where mu-hat is far above 0, CLs never exceeds one half by much.
    if isinstance(level, bool) or not isinstance(level, int | float | np.floating) or not 0 < level < 0.5:
        raise FitError(f"level={level!r}: expected a number between 0 and 0.5, such as 0.05")
    data = as_data(model, data)
    lifted = (bound_below(model) if test_stat == "qtilde" else model).likelihood
    lifted = replace(lifted, upper=lifted.upper.at[poi].set(jnp.inf))
    task = _Task(jnp.asarray(level, lifted.dtype), poi, test_stat)
    search = _search(*lax.stop_gradient((lifted, data)), task)
    observed, bands, mu_hat, status = _finish(lifted, data, search, task)
    return UpperLimit(observed, bands, mu_hat, status, search.n_fits, float(level), model.names.poi, test_stat)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Task:
    """What a search is for.

    Attributes:
        level: One minus the confidence level, scalar.
        poi: Index of the parameter of interest.
        test_stat: ``"qtilde"`` or ``"q"``.
    """

    level: Array
    poi: int = field(metadata={"static": True})
    test_stat: str = field(metadata={"static": True})

    def goals(self, dtype: Any) -> Array:
        """sqrt(q_A) at the expected limits, shape (5,)."""
        n = jnp.asarray(BANDS, dtype)
        return n - ndtri(self.level * ndtr(n))

    def excess(self, q: Array, q_asimov: Array) -> Array:
        """``log(level / CLs)`` of the data: rises with mu, 0 at the observed limit."""
        t, root = distance(q, q_asimov, self.test_stat), safe_sqrt(q_asimov)
        return jnp.log(self.level) + log_ndtr(-t) - log_ndtr(-(t + root))


class _Search(NamedTuple):
    """State of the search; each pass of the loop makes one fit. Six targets: observed, then the bands.

    Attributes:
        kind: Which fit comes next.
        place: Place in ``_ORDER`` of the limit that is looked for.
        x: Where its function is evaluated next.
        first: First guess, the unit of "far".
        evaluations: Evaluations made for this target.
        n_fits: Fits made for all of them.
        restarts: How often the unconditional fit was made again because a conditional one lay lower.
        free: Unconditional fit to the data.
        background: Conditional fit to the data at 0.
        asimov: The Asimov data set.
        to_data: Where the next fit to the data starts, shape (n_params,).
        on_asimov: The last fit to the Asimov data set.
        low: Largest point known to be below each root, shape (6,).
        high: Smallest point known to be above it.
        roots: The limits.
        status: How each search ended.
        at_asimov: For each limit the fit to the Asimov data set there.
        at_data: For the observed limit the fit to the data there.
    """

    kind: Array
    place: Array
    x: Array
    first: Array
    evaluations: Array
    n_fits: Array
    restarts: Array
    free: Minimum
    background: Minimum
    asimov: Array
    to_data: Array
    on_asimov: Minimum
    low: Array
    high: Array
    roots: Array
    status: Array
    at_asimov: Minimum
    at_data: Minimum


@jax.jit
def _search(likelihood: Likelihood, data: Array, task: _Task) -> _Search:
    dtype, zero = likelihood.dtype, jnp.array(0)
    nothing = no_fit(likelihood)
    nan = jnp.full((_TARGETS,), jnp.nan, dtype)
    state = _Search(
        kind=jnp.array(_FREE),
        place=zero,
        x=jnp.zeros((), dtype),
        first=jnp.ones((), dtype),
        evaluations=zero,
        n_fits=zero,
        restarts=zero,
        free=nothing,
        background=nothing,
        asimov=data,
        to_data=likelihood.init,
        on_asimov=nothing,
        low=jnp.zeros_like(nan),
        high=jnp.full_like(nan, jnp.inf),
        roots=nan,
        status=jnp.full((_TARGETS,), _status.RUNNING),
        at_asimov=jax.tree.map(lambda x: jnp.broadcast_to(x, (_TARGETS, *x.shape)), nothing),
        at_data=nothing,
    )
    return lax.while_loop(lambda s: s.kind != _DONE, lambda s: _step(likelihood, data, task, s), state)


def _step(likelihood: Likelihood, data: Array, task: _Task, s: _Search) -> _Search:
    """Makes the next fit and decides what follows from it."""
    free, held = unconditional(likelihood), at(likelihood, s.x)
    is_free, to_asimov = s.kind == _FREE, s.kind == _ASIMOV
    warm = jnp.where(to_asimov, s.on_asimov.y, s.to_data)
    start = jnp.where(is_free, warm, warm.at[task.poi].set(s.x))
    conditions = Conditions(start, jnp.where(is_free, free.held, held.held))
    minimum = solve_best(likelihood, jnp.where(to_asimov, s.asimov, data), conditions)
    s = s._replace(n_fits=s.n_fits + 1, to_data=jnp.where(to_asimov, s.to_data, minimum.y))
    after = [
        lambda: _after_free(s, minimum),
        lambda: _after_background(likelihood, task, s, minimum),
        lambda: _after_asimov(task, s, minimum),
        lambda: _after_data(task, s, minimum),
    ]
    return lax.switch(s.kind, after)


def _after_free(s: _Search, minimum: Minimum) -> _Search:
    again = s.n_fits > 1
    return s._replace(free=minimum, kind=jnp.where(again, _ASIMOV, _BACKGROUND))


def _after_background(likelihood: Likelihood, task: _Task, s: _Search, minimum: Minimum) -> _Search:
    # Width of the likelihood in the parameter of interest alone: too small where nuisance parameters matter, which
    # is the side from which Newton's method converges.
    tangent = jnp.zeros_like(minimum.y).at[task.poi].set(1.0)
    nu, slope = jax.jvp(lambda y: rates(likelihood, y).bins, (minimum.y,), (tangent,))
    information = (slope * slope / (jnp.maximum(nu, 0.0) + 1.0)).sum()
    guess = task.goals(nu.dtype)[_MEDIAN] / jnp.sqrt(jnp.where(information > 0, information, 1.0))
    asimov = expected(likelihood, minimum.y)
    return s._replace(
        background=minimum, asimov=asimov, on_asimov=minimum, x=guess, first=guess, kind=jnp.array(_ASIMOV)
    )


def _root_asimov(task: _Task, minimum: Minimum) -> tuple[Array, Array]:
    """sqrt(q_A) and its slope in mu, from a conditional fit to the Asimov data set."""
    root = safe_sqrt(2.0 * minimum.value)
    return root, jnp.where(root > 0, minimum.gradient[task.poi] / jnp.where(root > 0, root, 1.0), 0.0)


def _after_asimov(task: _Task, s: _Search, minimum: Minimum) -> _Search:
    s = s._replace(on_asimov=minimum)
    root, slope = _root_asimov(task, minimum)
    goals = task.goals(root.dtype)
    # Every evaluation narrows the brackets of all expected limits.
    below = root < goals
    s = s._replace(
        low=s.low.at[1:].max(jnp.where(below, s.x, 0.0)), high=s.high.at[1:].min(jnp.where(below, jnp.inf, s.x))
    )
    target = jnp.asarray(_ORDER)[s.place]
    goal = goals[jnp.maximum(target - 1, 0)]
    return lax.cond(
        target == 0, lambda: s._replace(kind=jnp.array(_DATA)), lambda: _conclude(task, s, root - goal, slope)
    )


def _after_data(task: _Task, s: _Search, minimum: Minimum) -> _Search:
    gap = minimum.value - s.free.value
    zero = (s.free.y[task.poi] > s.x) | (gap <= 0)
    q, q_slope = jnp.where(zero, 0.0, 2.0 * gap), jnp.where(zero, 0.0, 2.0 * minimum.gradient[task.poi])
    asimov = s.on_asimov
    value, (by_q, by_asimov) = jax.value_and_grad(task.excess, (0, 1))(q, 2.0 * asimov.value)
    slope = by_q * q_slope + by_asimov * 2.0 * asimov.gradient[task.poi]
    s = s._replace(
        at_data=minimum,
        low=s.low.at[0].max(jnp.where(value < 0, s.x, 0.0)),
        high=s.high.at[0].min(jnp.where(value < 0, jnp.inf, s.x)),
    )
    # A conditional fit below the unconditional one leads it to the minimum that it missed.
    missed = (gap < -margin(s.free.value)) & (s.restarts < _MAX_RESTARTS)
    again = s._replace(kind=jnp.array(_FREE), restarts=s.restarts + 1)
    return lax.cond(missed, lambda: again, lambda: _conclude(task, s, value, slope))


def _conclude(task: _Task, s: _Search, value: Array, slope: Array) -> _Search:
    """Newton's step inside the bracket; ends the search for this target if the step no longer matters."""
    target = jnp.asarray(_ORDER)[s.place]
    low, high = s.low[target], s.high[target]
    newton = s.x - value / jnp.where(slope > 0, slope, jnp.nan)
    guess = _inside(newton, low, high, s.x)
    rtol = 1e-7 if value.dtype == np.float64 else 1e-4
    closed = jnp.isfinite(high) & (high - low <= rtol * high)
    done = (jnp.abs(newton - s.x) <= rtol * s.x) | closed
    evaluations = s.evaluations + 1
    lost = ~done & ((evaluations >= _MAX_EVALUATIONS) | ~(guess <= _FARTHEST * s.first))
    ended = done | lost
    fits = _status.worst(s.on_asimov.status, s.background.status)
    fits = jnp.where(target == 0, _status.worst(s.at_data.status, s.free.status, fits), fits)
    failure = jnp.where(jnp.isinf(high), _status.NO_ROOT, _status.STEP_LIMIT)
    root = jnp.where(jnp.isfinite(newton), newton, s.x)
    place = s.place + ended
    return s._replace(
        roots=s.roots.at[target].set(jnp.where(done, root, jnp.nan)),
        status=s.status.at[target].set(jnp.where(done, fits, failure)),
        at_asimov=jax.tree.map(lambda all_, one: all_.at[target].set(one), s.at_asimov, s.on_asimov),
        evaluations=jnp.where(ended, 0, evaluations),
        place=place,
        x=jnp.where(ended, _first_guess(task, s, root), guess),
        kind=jnp.where(place == _TARGETS, _DONE, _ASIMOV),
    )


def _inside(x: Array, low: Array, high: Array, here: Array) -> Array:
    """``x`` if it lies inside the bracket, else a point that does."""
    # From a bracket that begins at 0, or is wide, in factors rather than in differences.
    middle = jnp.where(high > 4.0 * low, jnp.sqrt(jnp.maximum(low, 0.01 * high) * high), 0.5 * (low + high))
    return jnp.where((x > low) & (x < high), x, jnp.where(jnp.isinf(high), 10.0 * here, middle))


def _first_guess(task: _Task, s: _Search, root: Array) -> Array:
    """Where to look for the next target, from the last evaluation."""
    goals = task.goals(root.dtype)
    target = jnp.asarray(_ORDER)[jnp.minimum(s.place + 1, _TARGETS - 1)]
    value, slope = _root_asimov(task, s.on_asimov)
    band = s.x + (goals[jnp.maximum(target - 1, 0)] - value) / jnp.where(slope > 0, slope, jnp.nan)
    # In the Gaussian limit the observed limit is an expected one for a fluctuation of mu-hat / sigma.
    sigma = jnp.where(jnp.isfinite(s.roots[1 + _MEDIAN]), s.roots[1 + _MEDIAN], root) / goals[_MEDIAN]
    n = s.free.y[task.poi] / sigma
    observed = sigma * (n - ndtri(task.level * ndtr(n)))
    return _inside(jnp.where(target == 0, observed, band), s.low[target], s.high[target], s.x)


@jax.jit
def _finish(likelihood: Likelihood, data: Array, s: _Search, task: _Task) -> tuple[Array, Array, Array, Array]:
    """Everything of the limits that has derivatives."""
    conditions = unconditional(likelihood)
    args, pins = args_of(likelihood, data, s.free), pins_of(likelihood, s.free, conditions)
    lowest = value_at_minimum(OBJECTIVE, s.free.y, args, pins)
    mu_hat = attach(OBJECTIVE, s.free.y, args, pins)[task.poi]
    asimov = asimov_of(likelihood, data, s.background, jnp.zeros((), data.dtype))
    at_roots = s.at_asimov._replace(y=s.at_asimov.y.at[:, task.poi].set(s.roots))
    at_data = s.at_data._replace(y=s.at_data.y.at[task.poi].set(s.roots[0]))
    bands = jax.vmap(lambda x, minimum, goal: attach_root(_band, x, (likelihood, asimov), (minimum, goal)))(
        s.roots[1:], jax.tree.map(lambda x: x[1:], at_roots), task.goals(data.dtype)
    )
    first = jax.tree.map(lambda x: x[0], at_roots)
    observed = attach_root(
        _observed, s.roots[0], (likelihood, data, asimov, lowest), (task, at_data, first, lax.stop_gradient(mu_hat))
    )
    # The limits' own status tells of a fit that failed; here of two fits that contradict each other.
    missed = (s.status[0] == _status.CONVERGED) & (s.at_data.value < s.free.value - 1e-3)
    status = s.status.at[0].set(jnp.where(missed, _status.INCONSISTENT, s.status[0]))
    return observed, bands, mu_hat, status


def _value(likelihood: Likelihood, data: Array, mu: Array, minimum: Minimum) -> Array:
    """Deviance of the conditional fit at ``mu``, differentiable in all but the fit."""
    args, pins = args_of(likelihood, data, minimum), pins_of(likelihood, minimum, at(likelihood, mu))
    return value_at_minimum(OBJECTIVE, minimum.y, args, pins)


def _band(mu: Array, args: tuple[Likelihood, Array], constants: tuple[Minimum, Array]) -> Array:
    """0 at an expected limit."""
    minimum, goal = constants
    return safe_sqrt(2.0 * _value(*args, mu, minimum)) - goal


def _observed(
    mu: Array, args: tuple[Likelihood, Array, Array, Array], constants: tuple[_Task, Minimum, Minimum, Array]
) -> Array:
    """0 at the observed limit."""
    likelihood, data, asimov, lowest = args
    task, on_data, on_asimov, mu_hat = constants
    gap = _value(likelihood, data, mu, on_data) - lowest
    q = jnp.where((mu_hat > mu) | (gap <= 0), 0.0, 2.0 * gap)
    return task.excess(q, 2.0 * _value(likelihood, asimov, mu, on_asimov))
