"""Upper limits: where CLs falls to one minus the confidence level, observed and expected.

The expected limits need no second root finder. With ``CLsb = Phi(n - sqrt(q_A))`` and ``CLb = Phi(n)`` for a background
that fluctuates by n standard deviations, ``CLs = alpha`` is ``sqrt(q_A(mu)) = n - Phi^-1(alpha Phi(n))``: a root of a
function that is almost linear in mu, and whose slope is known from the gradient of the fit (envelope theorem).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .._base._compiled import choose
from .._base._doors import no_type_check, number, one_of
from .._base._numerics import safe_sqrt
from .._minimize import _status
from .._minimize._implicit import attach_root
from .._minimize._newton import Minimum
from .._model._base import Model, check_bounds, check_start, lifted, subject
from ._driver import ask
from ._points import SettledRows, blank_rows, chosen_rows, expected_of, held_rows, response, value_held
from ._question import Ask, Course, Question, question
from ._result import Result, result, static
from ._roots import Hunt, hunt_from, hunted
from ._rows import Facts, First, Rows, facts_of
from ._search import Found, judged
from ._settle import known, settle_free
from ._statistics import BANDS, STATISTICS

# Limits that are looked for: the observed one and the expected ones.
_TARGETS = 1 + len(BANDS)
_MEDIAN = BANDS.index(0)
# How far out to look, in units of the first guess.
_FARTHEST = 1e6


@result
class UpperLimit(Result):
    """Upper limits on the parameter of interest.

    Attributes:
        observed: Observed limit, scalar; NaN where there is none.
        expected: Limits expected where the background fluctuates by -2 to +2 standard deviations, shape (5,).
        mu_hat: Best fit of the parameter of interest, for ``"qtilde"`` not below 0.
        status: How the search for each of the six ended, shape (6,): the observed limit first. ``message`` is their
            sentence.
        n_fits: Number of fits made.
        next_minimum: The least distance, in the NLL, of another minimum from one of the fits behind the limits; +inf
            where all starts agree. Scalar.
        level: Confidence level.
        parameter: Name of the parameter of interest.
        test_stat: ``"qtilde"`` or ``"q"``.
    """

    _single: ClassVar[tuple[str, int]] = ("observed", 0)

    observed: Float[Array, ""]
    expected: Float[Array, "5"]
    mu_hat: Float[Array, ""]
    status: Int[Array, "6"]
    n_fits: Int[Array, ""]
    next_minimum: Float[Array, ""]
    level: float = static()
    parameter: str = static()
    test_stat: str = static()

    @property
    def median(self) -> Float[Array, "*batch"]:
        """The median expected limit."""
        return self.expected[..., _MEDIAN]

    def _columns(self) -> dict[str, Any]:
        names = ["observed", *(f"expected {n:+d} sigma" if n else "expected" for n in BANDS)]
        values = [float(self.observed), *np.asarray(self.expected).tolist()]
        return {"limit": names, self.parameter: values, "converged": np.asarray(self.converged).tolist()}

    def _shown(self) -> dict[str, Any]:
        return {name: column for name, column in self._columns().items() if name != "converged"}

    def _title(self) -> str:
        return f"UpperLimit on {self.parameter} at {self.level:.6g} confidence ({self.test_stat}): {self.message}"


@no_type_check
def upper_limit(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    level: float = 0.95,
    test_stat: str = "qtilde",
) -> UpperLimit:
    """Observed and expected upper limits on the parameter of interest, by CLs with asymptotic distributions.

    One search finds all six, on one set of fits. The upper bound of the parameter of interest does not limit it: the
    limit may lie beyond, and is found wherever it is up to 1e6 times the first guess.

    Args:
        model: A model with a parameter of interest. One that may be negative is held at 0 or above for ``"qtilde"``.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.
        level: Confidence level.
        test_stat: ``"qtilde"`` (equation 16) or ``"q"`` (equation 14).

    Returns:
        ``UpperLimit``; differentiable with respect to model and data (implicit differentiation through the roots), and
        can be jitted and batched. Where CLs does not fall to ``1 - level`` the limit is NaN and ``status`` says so.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a level outside (0.5, 1), an unknown test statistic, or a parameter of interest that is fixed or
            cannot be 0.

    References:
        arXiv:1007.1727, sections 3 and 4.3; CLs: J. Phys. G 28 (2002) 2693.
    """
    one_of(test_stat, [name for name, statistic in STATISTICS.items() if statistic.sets_limits], "test_stat")
    # Where mu-hat is far above 0, CLs never exceeds one half by much.
    level = number(level, "level", 0.5, 1.0, hint=": a confidence level, such as 0.95")
    statistic = STATISTICS[test_stat]
    about = subject(model, data, fixed, free_poi=True, tilde=statistic.bounded)
    check_bounds(model, about, [statistic.alternative])
    asked = Limit(about.place[None], np.asarray(1.0 - level, about.likelihood.dtype), test_stat)
    told = ask(asked, facts_of(lifted(about)), check_start(about, init))
    result = UpperLimit(*told.answer, level=level, parameter=about.poi_name, test_stat=test_stat)
    return result.explained(model, about, told.stuck)


class _Search(NamedTuple):
    """State of the search.

    Attributes:
        begun: Whether the background fit is made.
        center: The unconditional fit, shape (n_params,).
        rate: How the other parameters follow the one of interest, shape (n_params, 1).
        background: Conditional fit to the data at the alternative hypothesis, leading axis 1.
        made: The Asimov data set.
        hunts: The six searches, observed first.
        first: First guesses, the unit of "far", shape (6,).
        asimov: For each search its last fit to the Asimov data set, leading axis 6.
        data: For the observed limit the last fit to the data, leading axis 1.
    """

    begun: Array
    center: Array
    rate: Array
    background: Found
    made: Array
    hunts: Hunt
    first: Array
    asimov: Found
    data: Found


@question
class Limit(Question):
    """Six upper limits.

    Attributes:
        where: Index of the parameter of interest, shape (1,).
        alpha: One minus the confidence level, a scalar.
        statistic: Name of the statistic.
    """

    where: Any
    alpha: Any
    statistic: str = static()

    flat: ClassVar[bool] = False

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """Those of the parameter of interest."""
        return self.where[0], -1

    def begin(self, facts: Facts, first: First) -> _Search:
        """With the background fit; the limits lie some standard deviations from the best fit."""
        k = facts.likelihood
        statistic, poi = STATISTICS[self.statistic], self.where[0]
        center = first.found.minimum.y
        variance = first.columns[0, poi]
        sigma = jnp.sqrt(jnp.where(jnp.isfinite(variance) & (variance > 0), variance, 1.0))
        observed = sigma * statistic.gaussian_limit(center[poi] / sigma, self.alpha)
        x = jnp.append(jnp.maximum(observed, 0.01 * sigma), sigma * self._goals())
        one, six = (blank_rows(k, facts.data, n) for n in (1, _TARGETS))
        rate = response(first.columns[:1], self.where)
        return _Search(jnp.array(False), center, rate, one, facts.data, hunt_from(x), x, six, one)

    def ask(self, facts: Facts, state: _Search) -> Ask:
        """First the background; then for each limit a fit to the Asimov data set, for the observed one to the data."""
        y, hunts = state.asimov.minimum.y, state.hunts
        begin = jnp.concatenate([state.center[None], y, state.data.minimum.y])
        alternative = jnp.full((1,), STATISTICS[self.statistic].alternative, y.dtype)
        values = jnp.concatenate([alternative, hunts.x, hunts.x[:1]])
        start, held = held_rows(facts.likelihood, begin, self.where, values[:, None], state.rate)
        wanted = jnp.concatenate([~state.begun[None], state.begun & hunts.open, state.begun & hunts.open[:1]])
        place = np.arange(len(wanted))
        to_asimov = (place > 0) & (place <= _TARGETS)
        return Ask(Rows.of(start, held, on_asimov=to_asimov, wanted=wanted), state.made)

    def tell(self, facts: Facts, state: _Search, first: First, found: Found) -> _Search:
        """The Asimov data set follows from the background, and steps of the searches from the other fits."""
        background, asimov, data = (
            jax.tree.map(lambda x, a=a, b=b: x[a:b], found)
            for a, b in ((0, 1), (1, 1 + _TARGETS), (1 + _TARGETS, 2 + _TARGETS))
        )
        one = background.minimum
        made = facts.likelihood.expected_at(one.y[0], one.aux[0])
        six = jax.tree.map(lambda x: jnp.broadcast_to(x, (_TARGETS, *x.shape[1:])), background)
        begun = state._replace(begun=jnp.array(True), background=background, made=made, asimov=six)
        # The observed limit is looked for from where the unconditional fit ended.
        begun = begun._replace(data=_moved(state.data, state.center))
        open_ = state.hunts.open
        asimov = chosen_rows(open_, asimov, state.asimov)
        data = chosen_rows(open_[:1], data, state.data)
        hunts = self._stepped(state, first, asimov.minimum, data.minimum)
        return choose(state.begun, state._replace(hunts=hunts, asimov=asimov, data=data), begun)

    def _goals(self) -> Array:
        """sqrt(q_A) at the expected limits, shape (5,)."""
        statistic = STATISTICS[self.statistic]
        return statistic.expected_root(jnp.asarray(BANDS, self.alpha.dtype), self.alpha)

    def _stepped(self, state: _Search, first: First, asimov: Minimum, data: Minimum) -> Hunt:
        poi = self.where[0]
        root = safe_sqrt(2.0 * asimov.value)
        slope = jnp.where(root > 0, asimov.gradient[:, poi] / jnp.where(root > 0, root, 1.0), 0.0)
        bands = root[1:] - self._goals(), slope[1:]
        statistic, free = STATISTICS[self.statistic], first.found.minimum
        x = state.hunts.x[0]

        def excess(gap: Array, asimov: Array) -> Array:
            return statistic.excess(statistic.of(gap, free.y[poi], x), 2.0 * asimov, self.alpha)

        gap = data.value[0] - free.value
        value, (by_data, by_asimov) = jax.value_and_grad(excess, (0, 1))(gap, asimov.value[0])
        rise = by_data * data.gradient[0, poi] + by_asimov * asimov.gradient[0, poi]
        value, slope = jnp.append(value, bands[0]), jnp.append(rise, bands[1])
        return hunted(state.hunts, value, slope, _FARTHEST * state.first, grow=10.0)

    def done(self, state: _Search) -> Array:
        """When the last search is over."""
        return state.begun & ~state.hunts.open.any()

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``UpperLimit``, in its order."""
        likelihood, data, state = facts.likelihood, facts.data, course.state
        statistic = STATISTICS[self.statistic]
        free = settle_free(likelihood, data, course.first.found.minimum)
        mu_hat = free.params[self.where[0]]
        alternative = jnp.full((1, 1), statistic.alternative, data.dtype)
        background = SettledRows(likelihood, data, state.background.minimum, self.where, alternative)
        asimov = known(expected_of, state.made, likelihood, background.params[0])
        status = self._status(likelihood, course)
        # No number stands beside the word that there is none.
        known_roots = state.hunts.found & (status != _status.INVALID)
        # What was not found gets a place where everything is finite: its derivatives would spoil those of the others.
        on_asimov = chosen_rows(known_roots, state.asimov, state.background).minimum
        on_data = chosen_rows(known_roots[:1], state.data, state.background).minimum
        roots = jnp.where(known_roots, state.hunts.root, statistic.alternative)

        def band(root: Array, minimum: Minimum, goal: Array) -> Array:
            return attach_root(_band, root, (likelihood, asimov), (self.where, minimum, goal))

        bands = jax.vmap(band)(roots[1:], jax.tree.map(lambda x: x[1:], on_asimov), self._goals())
        of_data, of_asimov = (jax.tree.map(lambda x: x[0], x) for x in (on_data, on_asimov))
        observed = attach_root(
            _Observed(self.statistic),
            roots[0],
            (likelihood, data, asimov, free.value, self.alpha),
            (self.where, of_data, of_asimov, jax.lax.stop_gradient(mu_hat)),
        )
        observed = jnp.where(known_roots[0], observed, jnp.nan)
        bands = jnp.where(known_roots[1:], bands, jnp.nan)
        return observed, bands, mu_hat, status, course.n_fits, course.above

    def _status(self, likelihood: Any, course: Course) -> Array:
        state, free = course.state, course.first.found.minimum
        fits = _status.worst(state.asimov.minimum.status, state.background.minimum.status[0])
        observed = _status.worst(state.data.minimum.status[0], free.status, fits[0])
        fits = fits.at[0].set(observed)
        hunts = state.hunts
        lost = jnp.where(jnp.isinf(hunts.high), _status.NO_ROOT, _status.STEP_LIMIT)
        status = jnp.where(hunts.found, fits, lost)
        # The limits' own status tells of a fit that failed; here of two fits that contradict each other.
        status = status.at[0].set(judged(status[0], free.value - state.data.minimum.value[0]))
        below = hunts.root < likelihood.lower[self.where[0]]
        return jnp.where(below & (status == _status.CONVERGED), _status.ON_BOUND, status)


def _moved(found: Found, y: Array) -> Found:
    return found._replace(minimum=found.minimum._replace(y=jnp.broadcast_to(y, found.minimum.y.shape)))


def _band(mu: Array, args: tuple[Any, Array], constants: tuple[Array, Minimum, Array]) -> Array:
    """0 at an expected limit."""
    where, minimum, goal = constants
    return safe_sqrt(2.0 * value_held(*args, minimum, where, mu)) - goal


class _Observed(NamedTuple):
    """0 at the observed limit; of one statistic."""

    statistic: str

    def __call__(self, mu: Array, args: tuple[Any, ...], constants: tuple[Any, ...]) -> Array:
        """As ``attach_root`` calls it."""
        likelihood, data, asimov, lowest, alpha = args
        where, on_data, on_asimov, mu_hat = constants
        statistic = STATISTICS[self.statistic]
        q = statistic.of(value_held(likelihood, data, on_data, where, mu) - lowest, mu_hat, mu)
        return statistic.excess(q, 2.0 * value_held(likelihood, asimov, on_asimov, where, mu), alpha)
