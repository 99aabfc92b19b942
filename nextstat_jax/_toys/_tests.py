"""Hypothesis tests whose distributions are made of pseudo-experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

from .._base._errors import FitError
from .._base._tables import plain
from .._inference._asymptotics import BANDS, HypoTest, check_test
from .._inference._fit import Conditions, at, margin, unconditional
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood
from .._likelihood._throw import Source, fold, key_data
from .._minimize import _status
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, bound_below
from ._fits import FAILED, ToyRecord, one_sided
from ._runs import Span, Task, check_engine, spans
from ._toys import best_fit, check_model, check_point, check_seed, check_span, make_plan, watched

# The key of the toys of the alternative: no toy has a number as high.
_ALTERNATIVE = 2**32 - 1
# What ``_p_values`` returns.
_P_VALUES = ("cls", "clsb", "clb", "cls_error", "clsb_error", "clb_error")
_P_VALUES += tuple(f"{name}_expected" for name in _P_VALUES[:3])


class ToyDistributions(eqx.Module):
    """Test statistics of toys under the two hypotheses of a test.

    Attributes:
        mu: Tested values, shape () or (n_mu,). All other shapes begin with that shape.
        signal: Statistics under the tested hypothesis, shape (..., n_toys).
        background: Statistics under the alternative: background only or, for ``"q0"``, a signal of strength 1.
        signal_status: How the fits of each toy ended.
        background_status: The same under the alternative.
        blocks: Which toys these are: (seed, first toy, number of toys), one or more.
        test_stat: ``"qtilde"``, ``"q"`` or ``"q0"``.
    """

    mu: Float[Array, "*mu"]
    signal: Float[Array, "*mu toy"]
    background: Float[Array, "*mu toy"]
    signal_status: Int[Array, "*mu toy"]
    background_status: Int[Array, "*mu toy"]
    blocks: tuple[tuple[int, int, int], ...] = eqx.field(static=True)
    test_stat: str = eqx.field(static=True)

    @property
    def n_toys(self) -> int:
        """Toys of each hypothesis and tested value."""
        return self.signal.shape[-1]

    @property
    def n_failed(self) -> Int[Array, "*mu"]:
        """Toys of both hypotheses whose fits failed; p-values leave them out."""
        return sum(_failed(*pair).sum(-1) for pair in self._pairs())  # type: ignore[return-value]

    def _pairs(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return (self.signal, self.signal_status), (self.background, self.background_status)

    def merge(self, other: ToyDistributions) -> ToyDistributions:
        """These toys and others of the same test.

        Raises:
            FitError: If the tests differ, or some toys are in both.
        """
        if self.test_stat != other.test_stat or not np.array_equal(self.mu, other.mu):
            raise FitError("toys of different test statistics or tested values cannot be merged")
        for seed, first, n in self.blocks:
            for other_seed, other_first, m in other.blocks:
                if seed == other_seed and first < other_first + m and other_first < first + n:
                    low, high = max(first, other_first), min(first + n, other_first + m) - 1
                    raise FitError(
                        f"toys {low} to {high} of seed {seed} are in both sets: give the second another seed, or "
                        "first_toy after the first's last"
                    )
        names = ("signal", "background", "signal_status", "background_status")
        joined = {name: jnp.concatenate([getattr(self, name), getattr(other, name)], axis=-1) for name in names}
        return replace(self, **joined, blocks=self.blocks + other.blocks)


class ToyHypoTest(HypoTest):
    """A ``HypoTest`` made with toys; it holds their distributions and can be extended.

    The p-values are fractions of toys whose statistic is at least the observed one. CLs has no value where no toy of
    the alternative reaches the observed statistic (CLb = 0): it is NaN then, ``defined`` is False, and ``message`` says
    so. Expected values are quantiles over the toys of the alternative.

    Attributes:
        cls_error: Statistical uncertainty of ``cls``.
        clsb_error: Statistical uncertainty of ``clsb``: the standard deviation of its posterior for a uniform prior,
            the binomial one for many toys, and not 0 where no toy or every toy passes.
        clb_error: The same for ``clb``.
        distributions: Test statistics of all toys.
    """

    cls_error: Float[Array, "*mu"]
    clsb_error: Float[Array, "*mu"]
    clb_error: Float[Array, "*mu"]
    distributions: ToyDistributions

    @property
    def defined(self) -> Bool[Array, "*mu"]:
        """Whether CLb is above 0, so that CLs has a value."""
        return self.clb > 0

    @property
    def converged(self) -> Bool[Array, "*mu"]:
        """Whether all fits found their minimum and the test has a value."""
        return (self.status == _status.CONVERGED) & (self.defined | (self.test_stat == "q0"))

    @property
    def message(self) -> str:
        """How the fits ended, what is not defined, and what to do about it."""
        parts = [_status.message(self.status)]
        failed = int(np.sum(self.distributions.n_failed))
        if failed:
            total = 2 * self.distributions.signal.size
            parts.append(f"{failed} of {total} toys failed from every start and are left out of the p-values")
        values = np.atleast_1d(np.asarray(self.mu))[~np.atleast_1d(np.asarray(self.defined))]
        if len(values) and self.test_stat != "q0":
            parts.append(
                f"CLs is not defined at {self.parameter} = {', '.join(f'{value:g}' for value in values)}: none of "
                f"{self.distributions.n_toys} background-only toys reaches the observed statistic (CLb = 0); make more "
                "toys, or look at clsb"
            )
        return "; ".join(parts)

    def merge(self, other: ToyHypoTest) -> ToyHypoTest:
        """The test with the toys of both: made with another seed, or with ``first_toy`` after the first set's last.

        Raises:
            FitError: If the tests or their data differ, or some toys are in both.
        """
        if not np.allclose(self.statistic, other.statistic, rtol=1e-6, atol=1e-8):
            raise FitError(
                "the two tests have different observed statistics: only tests of the same data can be merged"
            )
        status = _status.worst(self.status, other.status)
        return _evaluate(
            self.distributions.merge(other.distributions), self.statistic, self.mu_hat, status, self.parameter
        )

    def _columns(self) -> dict[str, np.ndarray]:
        columns = super()._columns()
        del columns["q_A"]
        errors = {"CLs": self.cls_error, "CLsb": self.clsb_error, "CLb": self.clb_error}
        with_errors: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            with_errors[name] = column
            if name in errors:
                with_errors[f"+- {name}"] = np.asarray(errors[name]).reshape(-1)
        return with_errors

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where a number is not finite); without the toys."""
        errors = {name: plain(getattr(self, name)) for name in ("cls_error", "clsb_error", "clb_error", "defined")}
        return super().to_dict() | errors | {"n_toys": self.distributions.n_toys}

    def __repr__(self) -> str:
        return super().__repr__()


def toy_hypotest(
    model: HistFactoryModel,
    mu: Any = 1.0,
    data: Any = None,
    *,
    test_stat: str = "qtilde",
    n_toys: int = 2000,
    seed: int = 0,
    first_toy: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ToyHypoTest:
    """``hypotest`` with ``calculator="toys"``.

    The toys of the tested hypothesis are thrown from the conditional fit to the data at ``mu``, those of the
    alternative from the one at 0 (at 1 for ``"q0"``), as in pyhf. All tested values share their background-only data
    sets, so that a scan is smooth.

    Args:
        model: A model with a parameter of interest.
        mu: Tested values, a number or a list.
        data: As in ``fit``.
        test_stat: ``"qtilde"``, ``"q"`` or ``"q0"``.
        n_toys: Toys of each hypothesis, for each tested value.
        seed: As in ``fit_toys``, like the arguments that follow.
        first_toy: Number of the first toy: a test can be extended with ``ToyHypoTest.merge``.
        batch_size: Toys of one compiled call.
        workers: Threads, or the executor's workers.
        mesh: Devices to spread the toys over.
        executor: Any executor of ``concurrent.futures``.
        progress: Whether to show a progress bar.

    Returns:
        ``ToyHypoTest``; not differentiable.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For arguments that cannot be used.

    References:
        ATL-PHYS-PUB-2011-11, section 3 (frequentist toys); CLs: J. Phys. G 28 (2002) 2693.
    """
    check_model(model)
    mu = check_test(model, mu, test_stat)
    span = check_span(n_toys, first_toy)
    engine = check_engine(workers, mesh, executor)
    seed = check_seed(seed)
    data = as_data(model, data)
    values = np.atleast_1d(np.asarray(mu)).tolist()
    bounded = bound_below(model) if test_stat == "qtilde" else model
    seen = _observe(bounded.likelihood, data, values, test_stat == "q0")
    for point in seen.points:
        check_point(model, point)
    plan, chunk = make_plan(bounded.likelihood, True, (), batch_size, engine)
    tasks = _tasks(_sources(values, seen.points, seed, test_stat == "q0"), span, chunk)
    total = 2 * len(values) * span.size if progress else None
    found = [record for _, record in watched(bounded.likelihood, plan, tasks, engine, total)]
    distributions = _collect(found, jnp.asarray(mu), (seed, span.first, span.size), test_stat)
    shape = jnp.shape(mu)
    statistic, mu_hat, status = (x.reshape(shape) for x in (seen.statistic, seen.mu_hat, seen.status))
    return _evaluate(distributions, statistic, mu_hat, status, model.names.poi)


class _Observed(NamedTuple):
    """The test of the data.

    Attributes:
        points: Generating parameters: of the alternative, then of each tested value.
        statistic: Test statistics, shape (n_mu,).
        mu_hat: Best fit of the parameter of interest, shape (n_mu,).
        status: The worst status of the fits behind each value, shape (n_mu,).
    """

    points: list[np.ndarray]
    statistic: Array
    mu_hat: Array
    status: Array


def _observe(likelihood: Likelihood, data: Array, values: Sequence[float], discovery: bool) -> _Observed:
    poi, start = likelihood.structure.poi, unconditional(likelihood)
    free = best_fit(likelihood, data, start)

    def held(value: float) -> Minimum:
        mu = jnp.asarray(value, likelihood.dtype)
        return best_fit(likelihood, data, Conditions(free.y.at[poi].set(mu), at(likelihood, mu).held))

    alternative, *fixed = (held(value) for value in (1.0 if discovery else 0.0, *values))
    lowest = min(fixed, key=lambda minimum: float(minimum.value))
    if lowest.value < free.value - margin(free.value):
        free = best_fit(likelihood, data, start._replace(start=lowest.y))
    gaps = jnp.stack([_deviance(likelihood, m.y, data) for m in fixed]) - _deviance(likelihood, free.y, data)
    status = _status.worst(jnp.stack([m.status for m in fixed]), free.status, alternative.status)
    status = jnp.where((status == _status.CONVERGED) & (gaps < -FAILED), _status.INCONSISTENT, status)
    mu_hat = free.y[poi]
    statistic = one_sided(gaps, mu_hat, jnp.asarray(values, likelihood.dtype), discovery)
    points = [np.asarray(minimum.y) for minimum in (alternative, *fixed)]
    return _Observed(points, statistic, jnp.broadcast_to(mu_hat, gaps.shape), status)


@jax.jit
def _deviance(likelihood: Likelihood, params: Array, data: Array) -> Array:
    return _derivatives.fast_deviance(likelihood, params, data)


def _sources(values: Sequence[float], points: Sequence[np.ndarray], seed: int, discovery: bool) -> list[Source]:
    """For each tested value the source of its hypothesis, then that of the alternative."""
    key = key_data(seed)
    other = fold(key, _ALTERNATIVE)
    alternative, *tested = points
    pairs = [((point, key), (alternative, other)) for point in tested]
    return [
        Source(*where, mu=value, discovery=discovery)
        for value, pair in zip(values, pairs, strict=True)
        for where in pair
    ]


def _tasks(sources: Sequence[Source], span: Span, size: int) -> Iterator[Task]:
    return (Task(source, part) for source in sources for part in spans(span.first, span.size, size))


def _collect(found: Sequence[ToyRecord], mu: Array, block: tuple[int, int, int], test_stat: str) -> ToyDistributions:
    shape = (*mu.shape, 2, block[2])
    statistics = np.concatenate([record.statistic for record in found]).reshape(shape)
    statuses = np.concatenate([record.status for record in found]).reshape(shape)
    parts = [jnp.asarray(x[..., k, :]) for x in (statistics, statuses) for k in (0, 1)]
    return ToyDistributions(mu, *parts, blocks=(block,), test_stat=test_stat)


def _evaluate(
    distributions: ToyDistributions, statistic: Array, mu_hat: Array, status: Array, parameter: str
) -> ToyHypoTest:
    """p-values of a test from its distributions."""
    mu = distributions.mu
    n = distributions.n_toys
    rows = zip(
        np.reshape(np.asarray(statistic, np.float64), -1),
        *(np.reshape(np.where(_failed(*pair), np.nan, pair[0]), (-1, n)) for pair in distributions._pairs()),
        strict=True,
    )
    columns = [np.stack(column) for column in zip(*(_p_values(*row) for row in rows), strict=True)]
    dtype = statistic.dtype
    parts = [jnp.asarray(x.reshape((*mu.shape, *x.shape[1:])), dtype) for x in columns]
    failed = _status.worst(*(_first_failure(*pair) for pair in distributions._pairs()))
    # By position: a keyword named cls would meet the one of Equinox's metaclass.
    p = dict(zip(_P_VALUES, parts, strict=True))
    return ToyHypoTest(
        mu,
        p["cls"],
        p["clsb"],
        p["clb"],
        p["cls_expected"],
        p["clsb_expected"],
        p["clb_expected"],
        statistic,
        jnp.full(mu.shape, jnp.nan, dtype),
        mu_hat,
        _status.worst(status, failed),
        distributions.test_stat,
        "toys",
        parameter,
        p["cls_error"],
        p["clsb_error"],
        p["clb_error"],
        distributions,
    )


def _failed(statistic: Array, status: Array) -> Array:
    """Which toys say nothing.

    Where a bin with counts expects none, the conditional fit has nowhere to go and the statistic is +inf, rightly.
    """
    return (status != _status.CONVERGED) & ~jnp.isposinf(statistic)


def _first_failure(statistic: Array, status: Array) -> Array:
    """The status of the first toy that failed, over the last axis."""
    failed = _failed(statistic, status)
    place = jnp.argmax(failed, axis=-1)
    first = jnp.take_along_axis(status, place[..., None], axis=-1)[..., 0]
    return jnp.where(failed.any(-1), first, _status.CONVERGED)


def _p_values(observed: float, signal: np.ndarray, background: np.ndarray) -> tuple[Any, ...]:
    """CLs, CLsb, CLb, their uncertainties, and the three expected bands of one test."""
    signal, background = np.sort(signal[~np.isnan(signal)]), np.sort(background[~np.isnan(background)])
    clsb, clsb_error = _fraction(signal, observed)
    clb, clb_error = _fraction(background, observed)
    cls = _ratio(clsb, clb)
    cls_error = _ratio(np.hypot(clsb_error, np.where(np.isnan(cls), 0.0, cls) * clb_error), clb)
    # What each toy of the alternative would give if it were the data.
    toys_sb, toys_b = _fraction(signal, background)[0], _fraction(background, background)[0]
    levels = ndtr(np.array(BANDS, dtype=np.float64))
    bands = [
        np.quantile(x, levels) if len(x) else np.full(len(BANDS), np.nan)
        for x in (_ratio(toys_sb, toys_b), toys_sb, toys_b)
    ]
    return (cls, clsb, clb, cls_error, clsb_error, clb_error, *bands)


def _fraction(toys: np.ndarray, observed: Any) -> tuple[Any, Any]:
    """Fraction of sorted toys that reach the observed value, and its uncertainty; NaN without toys."""
    n = len(toys)
    if n == 0 or np.isnan(observed).any():
        nothing = np.full(np.shape(observed), np.nan)
        return nothing, nothing
    # Few counts give few values of the statistic, which rounding must not tell apart: 1e-7 in double precision.
    tie = float(np.finfo(toys.dtype).eps) ** 0.45
    observed = observed - tie * (1.0 + np.where(np.isfinite(observed), np.abs(observed), 0.0))
    passed = n - np.searchsorted(toys, observed, side="left")
    # Mean and variance of the Beta distribution of the probability.
    mean = (passed + 1.0) / (n + 2.0)
    return passed / n, np.sqrt(mean * (1.0 - mean) / (n + 3.0))


def _ratio(above: Any, below: Any) -> Any:
    """NaN where the denominator is 0."""
    below = np.asarray(below)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


__all__ = ["ToyDistributions", "ToyHypoTest", "toy_hypotest"]
