"""Hypothesis tests with asymptotic distributions: CLs, its expected bands, and discovery.

Notation of arXiv:1007.1727. ``q`` is the statistic of the data and ``q_A`` that of the Asimov data set, which is made
from the conditional fit to the data at the alternative hypothesis: mu = 0 for limits, mu = 1 for discovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._compiled import choose
from .._base._doors import as_array, concrete, no_type_check, on_device, scalar
from .._base._errors import FitError
from .._base._numerics import safe_sqrt
from .._likelihood._starts import rounded
from .._minimize import _status
from .._model._base import Model, Subject, check_bounds, lifted, subject
from ._driver import all_concrete, ask
from ._fit import several_minima
from ._points import SettledRows, blank_rows, expected_of, held_rows, response
from ._question import Ask, Course, Question, question
from ._result import Result, result, static
from ._rows import Facts, First, Rows, facts_of
from ._search import Found, judged
from ._settle import known, settle_free
from ._statistics import BANDS, STATISTICS, Statistic, statistic_of

# Lists of tested values up to this length share their programs; longer ones by powers of two.
_LIST = 8

_LABELS = {"cls": "CLs", "clsb": "CLsb", "clb": "CLb"}


@result
class HypoTest(Result):
    """A test of one or several values of the parameter of interest.

    Attributes:
        mu: Tested values, shape () or (n_mu,). All other shapes begin with that shape.
        cls: Observed ``CLs = CLsb / CLb``.
        clsb: Observed p-value of the tested hypothesis. For ``"q0"`` this is p0.
        clb: Observed p-value of the alternative hypothesis (background only; for ``"q0"``, signal of strength 1).
        cls_expected: CLs expected where the background fluctuates by -2 to +2 standard deviations, shape (..., 5). The
            order is pyhf's: the first excludes most.
        clsb_expected: CLsb in the same cases.
        clb_expected: CLb in the same cases.
        statistic: Test statistic of the data, q.
        statistic_asimov: Test statistic of the Asimov data set, q_A; NaN where toys were used.
        mu_hat: Best fit of the parameter of interest.
        status: The worst status of the fits behind each value; ``message`` is its sentence.
        next_minimum: The least distance, in the NLL, of another minimum from one of the fits behind the test; +inf
            where all starts agree. Shape ().
        test_stat: Name of the statistic.
        calculator: ``"asymptotic"`` or ``"toys"``.
        parameter: Name of the parameter of interest.
        cls_error: With toys, the statistical uncertainty of ``cls``; else None.
        clsb_error: The same for ``clsb``: the standard deviation of its posterior for a uniform prior, the binomial one
            for many toys, and not 0 where no toy or every toy passes.
        clb_error: The same for ``clb``.
        distributions: With toys, their test statistics under both hypotheses; else None.
    """

    mu: Float[Array, "*mu"]
    cls: Float[Array, "*mu"]
    clsb: Float[Array, "*mu"]
    clb: Float[Array, "*mu"]
    cls_expected: Float[Array, "*mu 5"]
    clsb_expected: Float[Array, "*mu 5"]
    clb_expected: Float[Array, "*mu 5"]
    statistic: Float[Array, "*mu"]
    statistic_asimov: Float[Array, "*mu"]
    mu_hat: Float[Array, "*mu"]
    status: Int[Array, "*mu"]
    next_minimum: Float[Array, ""]
    test_stat: str = static()
    calculator: str = static()
    parameter: str = static()
    cls_error: Float[Array, "*mu"] | None = None
    clsb_error: Float[Array, "*mu"] | None = None
    clb_error: Float[Array, "*mu"] | None = None
    distributions: Any = None

    _single: ClassVar[tuple[str, int]] = ("next_minimum", 0)

    @property
    def defined(self) -> Bool[Array, "*mu"]:
        """Whether CLs has a value: with toys, where any of the alternative reaches the observed statistic (CLb > 0)."""
        return ~jnp.isnan(self.cls)

    @property
    def converged(self) -> Bool[Array, "*mu"]:
        """Whether all fits found their minimum and, with toys, what the test reports has a value."""
        has_value = self.distributions is None or self.defined | (STATISTICS[self.test_stat].reports != "cls")
        return super().converged & has_value

    @property
    def p_value(self) -> Float[Array, "*batch"]:
        """What the test reports: CLs, or CLsb for the discovery statistic."""
        return getattr(self, STATISTICS[self.test_stat].reports)

    @property
    def p_value_expected(self) -> Float[Array, "*batch 5"]:
        """The same, expected at -2 to +2 standard deviations, shape (..., 5)."""
        return getattr(self, f"{STATISTICS[self.test_stat].reports}_expected")

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        text = super().message + several_minima(np.min(np.asarray(self.next_minimum)))
        return text if self.distributions is None else text + self.distributions.remarks(self)

    def merge(self, other: HypoTest) -> HypoTest:
        """The test with the toys of both: made with another seed, or with ``first_toy`` after the first set's last.

        Raises:
            FitError: If one of them has no toys, the tests or their data differ, or some toys are in both.
        """
        if self.distributions is None or other.distributions is None:
            raise FitError("only tests that were made with calculator='toys' can be merged")
        return self.distributions.merged(self, other)

    def _columns(self) -> dict[str, np.ndarray]:
        columns: dict[str, Any] = {"mu": self.mu}
        for name in ("cls", "clsb", "clb"):
            error = getattr(self, f"{name}_error")
            columns[_LABELS[name]] = getattr(self, name)
            columns |= {} if error is None else {f"+- {_LABELS[name]}": error}
        bands = np.asarray(self.p_value_expected).reshape(-1, len(BANDS)).T
        name = _LABELS[STATISTICS[self.test_stat].reports]
        columns |= {
            f"{name} {n:+d} sigma" if n else f"{name} expected": band for n, band in zip(BANDS, bands, strict=True)
        }
        columns |= {"q": self.statistic}
        columns |= {"q_A": self.statistic_asimov} if self.distributions is None else {}
        return {key: np.asarray(value).reshape(-1) for key, value in columns.items()}

    def _facts(self) -> dict[str, Any]:
        facts = {name: x for name, x in super()._facts().items() if x is not None and name != "distributions"}
        toys = {} if self.distributions is None else {"n_toys": self.distributions.n_toys}
        return facts | {"defined": self.defined} | toys

    def _title(self) -> str:
        return f"HypoTest of {self.parameter} ({self.test_stat}, {self.calculator}): {self.message}"


@result
class Discovery(Result):
    """The test of "no signal", observed and expected.

    Attributes:
        q0: Discovery test statistic of the data.
        z0: Significance, ``sqrt(q0)``, in standard deviations.
        p0: p-value of the background-only hypothesis.
        q0_expected: Test statistic of the Asimov data set at ``mu_expected``.
        z0_expected: Median significance expected for a signal of strength ``mu_expected``.
        p0_expected: Its p-value.
        mu_hat: Best fit of the parameter of interest.
        mu_expected: Signal strength behind the expected values.
        status: The worst status of the fits.
        next_minimum: As in ``HypoTest``.
        parameter: Name of the parameter of interest.
    """

    q0: Float[Array, ""]
    z0: Float[Array, ""]
    p0: Float[Array, ""]
    q0_expected: Float[Array, ""]
    z0_expected: Float[Array, ""]
    p0_expected: Float[Array, ""]
    mu_hat: Float[Array, ""]
    mu_expected: Float[Array, ""]
    status: Int[Array, ""]
    next_minimum: Float[Array, ""]
    parameter: str = static()

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return super().message + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, Any]:
        observed = (self.q0, self.z0, self.p0, self.mu_hat)
        expected = (self.q0_expected, self.z0_expected, self.p0_expected, self.mu_expected)
        names = ("q0", "z0", "p0", "mu_hat")
        which = ["observed", f"expected at {self.parameter} = {float(self.mu_expected):g}"]
        pairs = zip(names, observed, expected, strict=True)
        return {"": which, **{name: [float(a), float(b)] for name, a, b in pairs}}


class _Fits(NamedTuple):
    """State of a test.

    Attributes:
        stage: 0: fits to the data are wanted; 1: fits to the Asimov data set; 2: nothing.
        center: The unconditional fit, shape (n_params,).
        rate: How the other parameters follow the one of interest, shape (n_params, 1).
        alternative: Conditional fit to the data at the alternative hypothesis, leading axis 1.
        data: Conditional fits to the data, leading axis n_mu.
        asimov: Conditional fits to the Asimov data set, leading axis n_mu.
        asimov_data: The Asimov data set.
    """

    stage: Array
    center: Array
    rate: Array
    alternative: Found
    data: Found
    asimov: Found
    asimov_data: Array


class Statistics(NamedTuple):
    """The statistics of a test, each of shape (n_mu,) but for ``mu_hat``, a scalar."""

    data: Array
    asimov: Array
    mu_hat: Array
    deficit: Array
    status: Array


@question
class Test(Question):
    """Tests of n_mu values: the statistics of the data and of the Asimov data set.

    Attributes:
        where: Index of the parameter of interest, shape (1,).
        mu: Tested values, shape (n_mu,).
        count: How many of them are wanted, the first ones.
        alternative: Value behind the Asimov data set, a scalar.
        statistic: Name of the statistic.
        single: Whether one value was given rather than a list.
    """

    where: Any
    mu: Any
    count: Any
    alternative: Any
    statistic: str = static()
    single: bool = static()

    flat: ClassVar[bool] = False

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """Those of the parameter of interest."""
        return self.where[0], -1

    def begin(self, facts: Facts, first: First) -> _Fits:
        """With the fits to the data."""
        n = len(self.mu)
        nothing = blank_rows(facts.likelihood, facts.data, n)
        one = blank_rows(facts.likelihood, facts.data, 1)
        return _Fits(
            jnp.array(0),
            first.found.minimum.y,
            response(first.columns[:1], self.where),
            one,
            nothing,
            nothing,
            facts.data,
        )

    def ask(self, facts: Facts, state: _Fits) -> Ask:
        """Fits to the data at the tested values and at the alternative; then to the Asimov data set."""
        n = len(self.mu)
        alternative = state.alternative.minimum.y[0]
        centers = jnp.concatenate(
            [jnp.broadcast_to(x, (k, len(x))) for x, k in ((state.center, n + 1), (alternative, n))]
        )
        values = jnp.concatenate([jnp.asarray(self.mu), jnp.asarray(self.alternative)[None], jnp.asarray(self.mu)])
        start, held = held_rows(facts.likelihood, centers, self.where, values[:, None], state.rate)
        to_asimov = jnp.arange(2 * n + 1) > n
        mine = jnp.arange(n) < self.count
        mine = jnp.concatenate([mine, jnp.ones(1, bool), mine])
        wanted = ((state.stage == 1) == to_asimov) & mine
        return Ask(Rows.of(start, held, on_asimov=to_asimov, wanted=wanted), state.asimov_data)

    def tell(self, facts: Facts, state: _Fits, first: First, found: Found) -> _Fits:
        """The Asimov data set follows from the fit at the alternative."""
        n = len(self.mu)
        data, alternative, asimov = (_rows(found, a, b) for a, b in ((0, n), (n, n + 1), (n + 1, 2 * n + 1)))
        minimum = _rows(alternative, 0, 1).minimum
        made = facts.likelihood.expected_at(minimum.y[0], minimum.aux[0])
        before = state._replace(stage=jnp.array(1), alternative=alternative, data=data, asimov_data=made)
        after = state._replace(stage=jnp.array(2), asimov=asimov)
        return choose(state.stage == 0, before, after)

    def done(self, state: _Fits) -> Array:
        """After both passes."""
        return state.stage == 2

    def statistics(self, facts: Facts, course: Course) -> Statistics:
        """q of the data and of the Asimov data set, with all their derivatives."""
        likelihood, data, state = facts.likelihood, facts.data, course.state
        free = settle_free(likelihood, data, course.first.found.minimum)
        mu = jnp.asarray(self.mu)
        other = SettledRows(likelihood, data, state.alternative.minimum, self.where, self._alternatives(1))
        asimov = known(expected_of, state.asimov_data, likelihood, other.params[0])
        gap = SettledRows(likelihood, data, state.data.minimum, self.where, mu[:, None]).value - free.value
        # The Asimov data set is fitted exactly by what it was made from: its best fit is the alternative, the deviance
        # there 0.
        gap_asimov = SettledRows(likelihood, asimov, state.asimov.minimum, self.where, mu[:, None]).value
        statistic = STATISTICS[self.statistic]
        mu_hat = free.params[self.where[0]]
        alternative = jnp.asarray(self.alternative)
        deficit = jnp.where(jnp.isfinite(gap), jnp.maximum(-gap, 0.0), 0.0)
        fits = (state.data, state.asimov, course.first.found, state.alternative)
        status = judged(_status.worst(*(fit.minimum.status for fit in fits)), deficit)
        q, q_asimov = statistic.of(gap, mu_hat, mu), statistic.of(gap_asimov, alternative, mu)
        return Statistics(q, q_asimov, mu_hat, deficit, status)

    def _alternatives(self, n: int) -> Array:
        return jnp.broadcast_to(jnp.asarray(self.alternative), (n, 1))

    def answer(self, facts: Facts, course: Course) -> tuple[Any, ...]:
        """The arrays of ``HypoTest``, in its order."""
        found, statistic = self.statistics(facts, course), STATISTICS[self.statistic]
        observed = statistic.p_values(found.data, found.asimov)
        bands = statistic.expected_p_values(jnp.asarray(BANDS, found.data.dtype), found.asimov)
        mu_hat = jnp.broadcast_to(found.mu_hat, found.data.shape)
        parts = (jnp.asarray(self.mu), *observed, *bands, found.data, found.asimov, mu_hat, found.status)
        return *(x[0] if self.single else x for x in parts), course.above


@question
class DiscoveryTest(Test):
    """The test of 0, as ``Discovery`` shows it."""

    def answer(self, facts: Facts, course: Course) -> tuple[Any, ...]:
        """The arrays of ``Discovery``, in its order."""
        found = self.statistics(facts, course)
        q, q_expected = found.data[0], found.asimov[0]
        z, z_expected = safe_sqrt(q), safe_sqrt(q_expected)
        expected = q_expected, z_expected, ndtr(-z_expected)
        alternative = jnp.asarray(self.alternative)
        return q, z, ndtr(-z), *expected, found.mu_hat, alternative, found.status[0], course.above


def _rows(found: Found, first: int, last: int) -> Found:
    return jax.tree.map(lambda x: x[first:last], found)


@no_type_check
def asymptotic_test(
    model: Model,
    mu: ArrayLike = 1.0,
    *,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    test_stat: str = "qtilde",
) -> HypoTest:
    """``hypotest`` with ``calculator="asymptotic"``; arguments as there."""
    statistic = statistic_of(test_stat)
    about = subject(model, data, fixed, free_poi=True, tilde=statistic.bounded)
    tested = check_tested(model, about, mu, statistic, above=True)
    about = lifted(about, tested)
    values, single = tested.reshape(-1), tested.ndim == 0
    count, facts = len(values), facts_of(about)
    known = all_concrete((facts, values))
    if known and not single:
        values = np.resize(np.asarray(values), max(rounded(count), _LIST))
    alternative = _number(statistic.alternative, values)
    asked = Test(about.place[None], values, np.asarray(count, np.int32), alternative, test_stat, single)
    told = ask(asked, facts)
    answer = told.answer
    if len(values) > count:
        *columns, above = answer
        answer = *on_device([np.asarray(x)[:count] for x in columns]), above
    result = HypoTest(*answer, test_stat=test_stat, calculator="asymptotic", parameter=about.poi_name)
    return result.explained(model, about, told.stuck)


def _number(value: Any, like: Any) -> np.ndarray:
    return np.asarray(value, like.dtype)


@no_type_check
def discovery(
    model: Model,
    *,
    data: ArrayLike | None = None,
    mu: ArrayLike = 1.0,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Discovery:
    """Tests the background-only hypothesis, and says what significance to expect.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        mu: Signal strength behind the expected significance. Its Asimov data set takes the nuisance parameters of the
            conditional fit to the data at this value.
        fixed: Other parameters to hold, as in ``fit``.

    Returns:
        ``Discovery``, differentiable with respect to model, data and ``mu``.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a ``mu`` that is not a finite scalar.

    References:
        arXiv:1007.1727, equations 12, 52 and 53 and section 4.2.
    """
    about = subject(model, data, fixed, free_poi=True)
    alternative = scalar(mu, "mu", about.likelihood.dtype)
    if concrete(alternative):
        check_bounds(model, about, [float(alternative)])
    zero, one = np.zeros(1, about.likelihood.dtype), np.ones((), np.int32)
    asked = DiscoveryTest(about.place[None], zero, one, alternative, "q0", single=True)
    check_bounds(model, about, [0.0])
    told = ask(asked, facts_of(about))
    return Discovery(*told.answer, parameter=about.poi_name).explained(model, about, told.stuck)


def check_tested(
    model: Model, about: Subject, mu: Any, statistic: Statistic, name: str = "mu", *, above: bool = False
) -> Any:
    """Refuses at the door what no test can use; returns ``mu`` as an array of shape () or (n_mu,).

    Args:
        model: The model.
        about: What the test is about.
        mu: Tested values.
        statistic: The statistic.
        name: What messages call the values.
        above: Whether they may lie above the upper bound of the parameter of interest.
    """
    mu = as_array(mu, name, about.likelihood.dtype)
    if mu.ndim > 1 or mu.size == 0:
        raise FitError(f"{name} has shape {mu.shape}: give one number or a list of them")
    if not concrete(mu):
        return mu
    values = np.atleast_1d(np.asarray(mu))
    if not np.isfinite(values).all():
        raise FitError(f"{name} is {values[np.argmin(np.isfinite(values))]}: give a finite number")
    if statistic.tested is not None and (values != statistic.tested).any():
        wrong, only = values[np.argmax(values != statistic.tested)], f"mu = {statistic.tested:g}"
        hint = f"use test_stat='q' or {name}={statistic.tested:g}"
        raise FitError(f"{name} is {wrong:g}, but {statistic.name} tests {only}: {hint}")
    if statistic.bounded and (values < 0).any():
        raise FitError(
            f"{name} is {values.min():g}, but {statistic.name} tests signals that cannot be negative: use test_stat='q'"
        )
    check_bounds(model, about, [*values.tolist(), statistic.alternative], name, above=above)
    return mu
