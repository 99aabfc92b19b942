"""Hypothesis tests with asymptotic distributions: CLs, its expected bands, and discovery.

Notation of arXiv:1007.1727. ``q`` is the statistic of the data and ``q_A`` that of the Asimov data set, which is made
from the conditional fit to the data at the alternative hypothesis: mu = 0 for limits, mu = 1 for discovery.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import log_ndtr, ndtr
from jaxtyping import Bool, Float, Int

from .._base._doors import as_array, concrete
from .._base._errors import FitError
from .._base._numerics import safe_sqrt
from .._base._tables import dataframe, plain, text_table
from .._likelihood._histfactory import Likelihood, expected
from .._minimize import _status
from .._minimize._implicit import attach, value_at_minimum
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, bound_below, require_free_poi, require_model
from ._fit import OBJECTIVE, Conditions, args_of, at, margin, no_fit, pins_of, solve_best, unconditional

TEST_STATISTICS = ("qtilde", "q", "q0")
# How many standard deviations the background fluctuates in the five expected results: the first excludes most.
BANDS = (-2, -1, 0, 1, 2)


class HypoTest(eqx.Module):
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
        test_stat: ``"qtilde"``, ``"q"`` or ``"q0"``.
        calculator: ``"asymptotic"`` or ``"toys"``.
        parameter: Name of the parameter of interest.
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
    test_stat: str = eqx.field(static=True)
    calculator: str = eqx.field(static=True)
    parameter: str = eqx.field(static=True)

    @property
    def p_value(self) -> Float[Array, "*batch"]:
        """What the test reports: CLs, or CLsb for the discovery statistic."""
        return self.clsb if self.test_stat == "q0" else self.cls

    @property
    def p_value_expected(self) -> Float[Array, "*batch 5"]:
        """The same, expected at -2 to +2 standard deviations, shape (..., 5)."""
        return self.clsb_expected if self.test_stat == "q0" else self.cls_expected

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether all fits found their minimum."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return _status.message(self.status)

    def _columns(self) -> dict[str, np.ndarray]:
        columns = {"mu": self.mu, "CLs": self.cls, "CLsb": self.clsb, "CLb": self.clb}
        bands = np.asarray(self.p_value_expected).reshape(-1, len(BANDS)).T
        name = "CLsb" if self.test_stat == "q0" else "CLs"
        columns |= {
            f"{name} {n:+d} sigma" if n else f"{name} expected": band for n, band in zip(BANDS, bands, strict=True)
        }
        columns |= {"q": self.statistic, "q_A": self.statistic_asimov}
        return {key: np.asarray(value).reshape(-1) for key, value in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where a number is not finite)."""
        names = ("mu", "cls", "clsb", "clb", "cls_expected", "clsb_expected", "clb_expected")
        names += ("statistic", "statistic_asimov", "mu_hat", "converged")
        numbers = {name: plain(getattr(self, name)) for name in names}
        labels = {"test_stat": self.test_stat, "calculator": self.calculator, "parameter": self.parameter}
        return {**labels, **numbers, "status": self.message}

    def to_dataframe(self) -> Any:
        """One row for each tested value, as a pandas data frame."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.mu) or self.mu.ndim > 1:
            return f"HypoTest(mu={self.mu!r}, cls={self.cls!r})"
        head = f"HypoTest of {self.parameter} ({self.test_stat}, {self.calculator}): {self.message}"
        columns = self._columns()
        return text_table(list(columns), zip(*columns.values(), strict=True), head)


class Discovery(eqx.Module):
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
    parameter: str = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether all fits found their minimum."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return _status.message(self.status)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where a number is not finite)."""
        names = ("q0", "z0", "p0", "q0_expected", "z0_expected", "p0_expected", "mu_hat", "mu_expected", "converged")
        return {"parameter": self.parameter, **{n: plain(getattr(self, n)) for n in names}, "status": self.message}

    def __repr__(self) -> str:
        if not concrete(self.q0) or self.q0.ndim:
            return f"Discovery(q0={self.q0!r}, q0_expected={self.q0_expected!r})"
        mu_expected = f"expected at {self.parameter} = {float(self.mu_expected):g}"
        rows = [
            ("observed", self.q0, self.z0, self.p0, self.mu_hat),
            (mu_expected, self.q0_expected, self.z0_expected, self.p0_expected, self.mu_expected),
        ]
        return text_table(["", "q0", "Z0", "p0", "mu-hat"], rows, f"Discovery: {self.message}")


def asymptotic_test(model: HistFactoryModel, mu: Any = 1.0, data: Any = None, *, test_stat: str = "qtilde") -> HypoTest:
    """``hypotest`` with ``calculator="asymptotic"``; arguments as there."""
    mu = check_test(model, mu, test_stat)
    data = as_data(model, data)
    likelihood = (bound_below(model) if test_stat == "qtilde" else model).likelihood
    alternative = jnp.asarray(1.0 if test_stat == "q0" else 0.0, likelihood.dtype)
    fits = solve_tests(likelihood, data, jnp.atleast_1d(mu), alternative)
    parts = _evaluate(likelihood, data, fits, jnp.atleast_1d(mu), alternative, test_stat)
    parts = parts if mu.ndim else jax.tree.map(lambda x: x[0], parts)
    return HypoTest(mu, *parts, test_stat=test_stat, calculator="asymptotic", parameter=model.names.poi)


def discovery(model: HistFactoryModel, data: Any = None, *, mu: Any = 1.0) -> Discovery:
    """Tests the background-only hypothesis, and says what significance to expect.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        mu: Signal strength behind the expected significance. Its Asimov data set takes the nuisance parameters of the
            conditional fit to the data at this value.

    Returns:
        ``Discovery``, differentiable with respect to model, data and ``mu``.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a ``mu`` that is not a finite scalar.

    References:
        arXiv:1007.1727, equations 12, 52 and 53 and section 4.2.
    """
    check_test(model, 0.0, "q0")
    alternative = as_array(mu, "mu", model.likelihood.dtype)
    if alternative.ndim:
        raise FitError(f"mu has shape {alternative.shape}: give one number, or vmap over several")
    if concrete(alternative):
        if not np.isfinite(alternative):
            raise FitError(f"mu is {alternative}: give a finite number")
        _check_bounds(model, [float(alternative)])
    likelihood, data = model.likelihood, as_data(model, data)
    zero = jnp.zeros((1,), likelihood.dtype)
    fits = solve_tests(likelihood, data, zero, alternative)
    parts = jax.tree.map(lambda x: x[0], _evaluate(likelihood, data, fits, zero, alternative, "q0"))
    z, z_expected = safe_sqrt(parts.statistic), safe_sqrt(parts.statistic_asimov)
    return Discovery(
        parts.statistic,
        z,
        ndtr(-z),
        parts.statistic_asimov,
        z_expected,
        ndtr(-z_expected),
        parts.mu_hat,
        alternative,
        parts.status,
        model.names.poi,
    )


def check_test(model: HistFactoryModel, mu: Any, test_stat: str) -> Array:
    """Refuses at the door what no test can use; returns ``mu`` as an array of shape () or (n_mu,)."""
    require_model(model)
    require_free_poi(model)
    if test_stat not in TEST_STATISTICS:
        raise FitError(f"test_stat={test_stat!r}: expected one of {', '.join(map(repr, TEST_STATISTICS))}")
    mu = as_array(mu, "mu", model.likelihood.dtype)
    if mu.ndim > 1 or mu.size == 0:
        raise FitError(f"mu has shape {mu.shape}: give one number or a list of them")
    if not concrete(mu):
        return mu
    values = np.atleast_1d(np.asarray(mu))
    if not np.isfinite(values).all():
        raise FitError(f"mu is {values[np.argmin(np.isfinite(values))]}: give a finite number")
    if test_stat == "q0" and values.any():
        raise FitError(f"mu is {values[np.argmax(values != 0)]:g}, but q0 tests mu = 0: use test_stat='q' or mu=0")
    if test_stat == "qtilde" and (values < 0).any():
        raise FitError(f"mu is {values.min():g}, but qtilde tests signals that cannot be negative: use test_stat='q'")
    alternative = 1.0 if test_stat == "q0" else 0.0
    _check_bounds(model, [*values.tolist(), alternative])
    return mu


def _check_bounds(model: HistFactoryModel, values: list[float]) -> None:
    """``FitError`` for hypotheses outside the bounds of the parameter of interest."""
    k, name = model.likelihood, model.names.poi
    if not (concrete(k.lower) and concrete(k.upper)):
        return
    lower, upper = (float(np.asarray(end)[k.structure.poi]) for end in (k.lower, k.upper))
    for value in values:
        if not lower <= value <= upper:
            raise FitError(
                f"mu is {value:g}, outside the bounds [{lower:g}, {upper:g}] of {name}: widen them with "
                f"model.replace_bounds({name!r}, ...)"
            )


class Fits(NamedTuple):
    """The fits behind a test of n_mu values: two to the data alone, then one to each data set for each value.

    Attributes:
        free: Unconditional fit to the data.
        alternative: Conditional fit to the data at the alternative hypothesis; the Asimov data set is made from it.
        data: Conditional fits to the data, leading axis n_mu.
        asimov: Conditional fits to the Asimov data set, leading axis n_mu.
    """

    free: Minimum
    alternative: Minimum
    data: Minimum
    asimov: Minimum


def solve_tests(likelihood: Likelihood, data: Array, mu: Array, alternative: Array) -> Fits:
    """All fits of a test; not differentiated."""
    return _solve_tests(*lax.stop_gradient((likelihood, data, mu, alternative)))


@jax.jit
def _solve_tests(likelihood: Likelihood, data: Array, mu: Array, alternative: Array) -> Fits:
    poi = likelihood.structure.poi

    def one(carry: _Carry, row: tuple[Array, Array, Array]) -> tuple[_Carry, Minimum]:
        kind, value, held = row
        on_asimov = kind == _ASIMOV
        # Each fit starts from the nuisance parameters of the last one to the same data: the minimum is the same, the
        # way shorter.
        warm = jnp.where(on_asimov, carry.to_asimov, jnp.where(kind == _AGAIN, carry.lowest.y, carry.to_data))
        start = warm.at[poi].set(jnp.where(held[poi], value, warm[poi]))

        def solve() -> Minimum:
            return solve_best(likelihood, jnp.where(on_asimov, carry.asimov, data), Conditions(start, held))

        missed = carry.lowest.value < carry.free.value - margin(carry.free.value)
        minimum = lax.cond((kind == _AGAIN) & ~missed, lambda: carry.free, solve)
        free = jax.tree.map(
            lambda new, old: jnp.where((kind == _FREE) | (kind == _AGAIN), new, old), minimum, carry.free
        )
        inside = (minimum.y[poi] >= likelihood.lower[poi]) & (minimum.y[poi] <= likelihood.upper[poi])
        lower = ~on_asimov & inside & (minimum.value < carry.lowest.value)
        lowest = jax.tree.map(lambda new, old: jnp.where(lower, new, old), minimum, carry.lowest)
        to_data = jnp.where(on_asimov, carry.to_data, minimum.y)
        to_asimov = jnp.where(on_asimov | (kind == _ALTERNATIVE), minimum.y, carry.to_asimov)
        asimov = lax.cond(kind == _ALTERNATIVE, lambda: expected(likelihood, minimum.y), lambda: carry.asimov)
        return _Carry(to_data, to_asimov, asimov, free, lowest), minimum

    # One scan over all fits, so that the minimizer is compiled once.
    n = mu.shape[0]
    order = jnp.argsort(mu)
    kinds = jnp.array([_FREE, _ALTERNATIVE, *[_ASIMOV] * n, *[_DATA] * n, _AGAIN])
    zero = jnp.zeros_like(alternative)
    values = jnp.concatenate([jnp.stack([zero, alternative]), mu[order], mu[order], zero[None]])
    free, conditional = unconditional(likelihood), at(likelihood, alternative)
    held = jnp.where(((kinds == _FREE) | (kinds == _AGAIN))[:, None], free.held, conditional.held)
    nothing = no_fit(likelihood)
    _, minima = lax.scan(one, _Carry(free.start, free.start, data, nothing, nothing), (kinds, values, held))
    back = jnp.argsort(order)

    def pick(rows: Any) -> Minimum:
        return jax.tree.map(lambda x: x[rows], minima)

    return Fits(pick(-1), pick(1), pick(2 + n + back), pick(2 + back))


# Kinds of fits in a test: unconditional; conditional at the alternative hypothesis; conditional to the Asimov data set
# and to the data; and unconditional once more, from the lowest of all, if that lies below the first.
_FREE, _ALTERNATIVE, _ASIMOV, _DATA, _AGAIN = range(5)


class _Carry(NamedTuple):
    """What one fit of a test hands to the next: points to start from, the Asimov data set, and the lowest minima."""

    to_data: Array
    to_asimov: Array
    asimov: Array
    free: Minimum
    lowest: Minimum


class Statistics(NamedTuple):
    """The statistics of a test, each of shape (n_mu,) but for ``mu_hat``, a scalar."""

    data: Array
    asimov: Array
    mu_hat: Array
    deficit: Array


def statistics(
    likelihood: Likelihood, data: Array, fits: Fits, mu: Array, alternative: Array, one_sided_up: bool
) -> Statistics:
    """q of the data and of the Asimov data set, with all their derivatives.

    Args:
        likelihood: The arrays.
        data: Data vector.
        fits: From ``solve_tests``.
        mu: Tested values, shape (n_mu,).
        alternative: Value behind the Asimov data set.
        one_sided_up: Whether only mu-hat above the tested value counts against it (discovery), or only below (limits).
    """
    free = unconditional(likelihood)
    free_args, free_pins = args_of(likelihood, data, fits.free), pins_of(likelihood, fits.free, free)
    lowest = value_at_minimum(OBJECTIVE, fits.free.y, free_args, free_pins)
    mu_hat = attach(OBJECTIVE, fits.free.y, free_args, free_pins)[likelihood.structure.poi]
    asimov = asimov_of(likelihood, data, fits.alternative, alternative)

    def gap(minimum: Minimum, value: Array, n: Array) -> Array:
        args, pins = args_of(likelihood, n, minimum), pins_of(likelihood, minimum, at(likelihood, value))
        return value_at_minimum(OBJECTIVE, minimum.y, args, pins)

    on_data = jax.vmap(gap, (0, 0, None))(fits.data, mu, data) - lowest
    # The Asimov data set is fitted exactly by what it was made from: its best fit is the alternative, the deviance
    # there 0.
    on_asimov = jax.vmap(gap, (0, 0, None))(fits.asimov, mu, asimov)

    def one_sided(gap: Array, best: Array) -> Array:
        zero = (best < mu) if one_sided_up else (best > mu)
        return jnp.where(zero | (gap <= 0), 0.0, 2.0 * gap)

    deficit = jnp.where(jnp.isfinite(on_data), jnp.maximum(-on_data, 0.0), 0.0)
    return Statistics(one_sided(on_data, mu_hat), one_sided(on_asimov, alternative), mu_hat, deficit)


def asimov_of(likelihood: Likelihood, data: Array, minimum: Minimum, alternative: Array) -> Array:
    """The Asimov data set of a conditional fit to the data, differentiable."""
    args = args_of(likelihood, data, minimum)
    pins = pins_of(likelihood, minimum, at(likelihood, alternative))
    return expected(likelihood, attach(OBJECTIVE, minimum.y, args, pins))


class _Parts(NamedTuple):
    """The arrays of ``HypoTest`` after ``mu``, in its order."""

    cls: Array
    clsb: Array
    clb: Array
    cls_expected: Array
    clsb_expected: Array
    clb_expected: Array
    statistic: Array
    statistic_asimov: Array
    mu_hat: Array
    status: Array


@jax.jit(static_argnums=5)
def _evaluate(likelihood: Likelihood, data: Array, fits: Fits, mu: Array, alternative: Array, test_stat: str) -> _Parts:
    q = statistics(likelihood, data, fits, mu, alternative, test_stat == "q0")
    root_asimov = safe_sqrt(q.asimov)
    observed = p_values(distance(q.data, q.asimov, test_stat), root_asimov)
    bands = -jnp.asarray(BANDS, mu.dtype)
    expected_ones = p_values(bands, root_asimov[:, None])
    status = _status.worst(fits.data.status, fits.asimov.status, fits.free.status, fits.alternative.status)
    status = jnp.where((status == _status.CONVERGED) & (q.deficit > 1e-3), _status.INCONSISTENT, status)
    mu_hat = jnp.broadcast_to(q.mu_hat, mu.shape)
    return _Parts(*observed, *expected_ones, q.data, q.asimov, mu_hat, status)


def distance(q: Array, q_asimov: Array, test_stat: str) -> Array:
    """How far the data lie from the alternative towards rejection: normal with mean 0 under it, -sqrt(q_A) else.

    References:
        arXiv:1007.1727, equations 59 to 66 for q and qtilde, which differ where q exceeds q_A.
    """
    root, root_asimov = safe_sqrt(q), safe_sqrt(q_asimov)
    # Both are infinite where the tested hypothesis cannot give any count that is there.
    difference = jnp.where(jnp.isinf(q), jnp.inf, root - jnp.where(jnp.isinf(q), 0.0, root_asimov))
    if test_stat != "qtilde":
        return difference
    beyond = (q > q_asimov) & (q_asimov > 0)
    return jnp.where(beyond, (q - q_asimov) / (2.0 * jnp.where(q_asimov > 0, root_asimov, 1.0)), difference)


def p_values(t: Array, root_asimov: Array) -> tuple[Array, Array, Array]:
    """CLs, CLsb and CLb of a distance.

    References:
        arXiv:1007.1727, section 3; CLs: J. Phys. G 28 (2002) 2693.
    """
    shape = jnp.broadcast_shapes(t.shape, root_asimov.shape)
    t, root_asimov = jnp.broadcast_to(t, shape), jnp.broadcast_to(root_asimov, shape)
    # Far out both p-values underflow, their ratio does not.
    infinite = jnp.isinf(t)
    finite = jnp.where(infinite, 0.0, t)
    ratio = jnp.where(infinite, 0.0, jnp.exp(log_ndtr(-(finite + root_asimov)) - log_ndtr(-finite)))
    return ratio, ndtr(-(t + root_asimov)), ndtr(-t)
