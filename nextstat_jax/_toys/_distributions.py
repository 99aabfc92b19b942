"""Distributions of a test statistic over toys, and the p-values that follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from .._base._errors import FitError
from .._base._special import ndtr
from .._inference._asymptotics import HypoTest
from .._inference._result import Result, result, static
from .._inference._statistics import BANDS, STATISTICS
from .._minimize import _status

# What ``_p_values`` returns.
_P_VALUES = ("cls", "clsb", "clb", "cls_error", "clsb_error", "clb_error")
_P_VALUES += tuple(f"{name}_expected" for name in _P_VALUES[:3])


@result
class ToyDistributions(Result):
    """Test statistics of toys under the two hypotheses of a test.

    Attributes:
        mu: Tested values, shape () or (n_mu,). All other shapes begin with that shape.
        signal: Statistics under the tested hypothesis, shape (..., n_toys).
        background: Statistics under the alternative: background only or, for ``"q0"``, a signal of strength 1.
        signal_status: How the fits of each toy ended.
        background_status: The same under the alternative.
        blocks: Which toys these are: (seed, first toy, number of toys), one or more.
        test_stat: Name of the statistic.
    """

    mu: Float[Array, "*mu"]
    signal: Float[Array, "*mu toy"]
    background: Float[Array, "*mu toy"]
    signal_status: Int[Array, "*mu toy"]
    background_status: Int[Array, "*mu toy"]
    blocks: tuple[tuple[int, int, int], ...] = static()
    test_stat: str = static()

    @property
    def n_toys(self) -> int:
        """Toys of each hypothesis and tested value."""
        return self.signal.shape[-1]

    @property
    def n_failed(self) -> Int[Array, "*mu"]:
        """Toys of both hypotheses whose fits failed; p-values leave them out."""
        return sum(_failed(*pair).sum(-1) for pair in self._pairs())  # type: ignore[return-value]

    @property
    def status(self) -> Int[Array, "*mu"]:
        """The status of the first toy that failed, for each tested value."""
        return _status.worst(*(_first_failure(*pair) for pair in self._pairs()))

    def _pairs(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return (self.signal, self.signal_status), (self.background, self.background_status)

    def _batch(self) -> tuple[int, ...]:
        return ()

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"mu": np.atleast_1d(self.mu), "failed": np.atleast_1d(self.n_failed)}
        for name, pair in zip(("mu", "the alternative"), self._pairs(), strict=True):
            rows = np.where(_failed(*pair), np.nan, pair[0]).reshape(-1, self.n_toys)
            columns[f"mean q under {name}"] = np.array([_moment(row, np.mean) for row in rows])
            columns[f"median q under {name}"] = np.array([_moment(row, np.median) for row in rows])
        return columns

    def _title(self) -> str:
        return f"ToyDistributions of {self.test_stat}, {self.n_toys} toys of each hypothesis: {self.message}"

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

    def remarks(self, test: HypoTest) -> str:
        """What the message of a test made from these toys says of them."""
        text = ""
        failed = int(np.sum(self.n_failed))
        if failed:
            text += f"; {failed} of {2 * self.signal.size} toys failed and are left out of the p-values"
        values = np.atleast_1d(np.asarray(test.mu))[~np.atleast_1d(np.asarray(test.defined))]
        if len(values) and STATISTICS[self.test_stat].reports == "cls":
            text += (
                f"; CLs is not defined at {test.parameter} = {', '.join(f'{value:g}' for value in values)}: none of "
                f"{self.n_toys} background-only toys reaches the observed statistic (CLb = 0); make more toys, or look "
                "at clsb"
            )
        return text

    def merged(self, test: HypoTest, other: HypoTest) -> HypoTest:
        """A test made from these toys and another of the same data as one.

        Raises:
            FitError: If the tests or their data differ, or some toys are in both.
        """
        if not np.allclose(test.statistic, other.statistic, rtol=1e-6, atol=1e-8):
            raise FitError(
                "the two tests have different observed statistics: only tests of the same data can be merged"
            )
        both = self.merge(other.distributions)
        status = _status.worst(test.status, other.status)
        above = jnp.minimum(test.next_minimum, other.next_minimum)
        return evaluate(both, test.statistic, test.mu_hat, status, above, test.parameter)


def evaluate(
    distributions: ToyDistributions, statistic: Array, mu_hat: Array, status: Array, above: Array, parameter: str
) -> HypoTest:
    """The test of data, from the distributions of its statistic.

    Args:
        distributions: Statistics of toys.
        statistic: The statistic of the data, of the shape of the tested values.
        mu_hat: Best fit of the parameter of interest, of that shape.
        status: How the fits to the data ended, of that shape.
        above: As ``HypoTest.next_minimum``.
        parameter: Name of the parameter of interest.
    """
    mu, n = distributions.mu, distributions.n_toys
    rows = zip(
        np.reshape(np.asarray(statistic, np.float64), -1),
        *(np.reshape(np.where(_failed(*pair), np.nan, pair[0]), (-1, n)) for pair in distributions._pairs()),
        strict=True,
    )
    columns = [np.stack(column) for column in zip(*(_p_values(*row) for row in rows), strict=True)]
    parts = [jnp.asarray(x.reshape((*mu.shape, *x.shape[1:])), statistic.dtype) for x in columns]
    return HypoTest(
        mu=mu,
        statistic=statistic,
        statistic_asimov=jnp.full(mu.shape, jnp.nan, statistic.dtype),
        mu_hat=mu_hat,
        status=_status.worst(status, distributions.status),
        next_minimum=above,
        test_stat=distributions.test_stat,
        calculator="toys",
        parameter=parameter,
        distributions=distributions,
        **dict(zip(_P_VALUES, parts, strict=True)),
    )


def _moment(values: np.ndarray, of: Any) -> float:
    values = values[~np.isnan(values)]
    return float(of(values)) if len(values) else float("nan")


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
