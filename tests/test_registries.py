"""A new modifier type and a new test statistic: one class and one entry each, and everything works with them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._statistics import STATISTICS, Statistic
from nextstat_jax._modifiers import REGISTRY, Effect, Modifier
from nextstat_jax._modifiers.normsys import Interpolated
from tests.building import normfactor, normsys, one_channel, sample

SIGNAL = sample("signal", [6.0, 2.0], normfactor("mu"))


# -- a modifier type --------------------------------------------------------------------------------------------------


class PercentModifier(Modifier, frozen=True, tag="percentsys"):
    """A systematic that scales a sample up by so many percent, and down by the inverse."""

    data: float


class PercentSys(Interpolated):
    """A factor known by its relative size."""

    record = PercentModifier
    effect = Effect.INTERPOLATED_FACTOR
    shares_with = frozenset(("normsys", "histosys", "percentsys"))

    def variations(self, data: Any, nominal: np.ndarray) -> tuple[float, float]:
        """The factors at +1 and -1."""
        up = 1.0 + data / 100.0
        return up, 1.0 / up


def with_percent(percent: Any) -> dict[str, Any]:
    modifier = {"name": "rate", "type": "percentsys", "data": percent}
    return one_channel([SIGNAL, sample("background", [20.0, 30.0], modifier)], [24.0, 33.0])


@pytest.fixture
def percent(monkeypatch):
    monkeypatch.setitem(REGISTRY, "percentsys", PercentSys())


def test_a_new_modifier_type_is_read_and_fitted(percent):
    mine = nextstat.from_pyhf(with_percent(25.0))
    known = one_channel([SIGNAL, sample("background", [20.0, 30.0], normsys("rate", 0.8, 1.25))], [24.0, 33.0])
    same = nextstat.from_pyhf(known)
    assert mine.parameter_names() == same.parameter_names()
    point = np.array([0.7, 0.4])
    assert float(mine.nll(point)) == pytest.approx(float(same.nll(point)), rel=1e-14)
    ours, theirs = nextstat.fit(mine), nextstat.fit(same)
    np.testing.assert_allclose(ours.params, theirs.params, atol=1e-9)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9)
    np.testing.assert_allclose(nextstat.upper_limit(mine).expected, nextstat.upper_limit(same).expected, rtol=1e-7)
    # Templates, tables and rankings read the registry as well.
    np.testing.assert_allclose(
        nextstat.yields(mine).uncertainties, nextstat.yields(same).uncertainties, rtol=1e-12
    )  # fmt: skip
    changed = mine.with_templates({("background", "rate", "hi"): jnp.asarray(1.3)})
    assert float(changed.nll(point)) != float(mine.nll(point))
    assert nextstat.interpret.rank_impact(mine)[0]["name"] == "rate"


def test_a_new_modifier_type_is_checked(percent):
    with pytest.raises(nextstat.WorkspaceError, match="data"):
        nextstat.from_pyhf(with_percent("much"))


def test_the_type_is_unknown_without_its_entry():
    with pytest.raises(nextstat.WorkspaceError, match="percentsys"):
        nextstat.from_pyhf(with_percent(25.0))


# -- a test statistic -------------------------------------------------------------------------------------------------


class TwoSided(Statistic):
    """``-2 ln lambda(mu)``, whichever way the best fit lies (arXiv:1007.1727, equation 8)."""

    name = "t"
    zero_above = False


@pytest.fixture
def two_sided(monkeypatch):
    monkeypatch.setitem(STATISTICS, "t", TwoSided())


@pytest.fixture(scope="module")
def model() -> Any:
    background = sample("background", [20.0, 30.0], normsys("rate", 0.8, 1.25))
    return nextstat.from_pyhf(one_channel([SIGNAL, background], [24.0, 33.0]))


def test_a_new_statistic_is_tested(model, two_sided):
    best = nextstat.fit(model)
    for mu in (0.2, 1.5):
        test = nextstat.hypotest(model, mu, test_stat="t")
        expected = 2.0 * float(nextstat.profile(model, mu).nll - best.nll)
        assert float(test.statistic) == pytest.approx(expected, abs=1e-8)
        assert bool(test.converged) and "(t, asymptotic)" in repr(test)
    slope = jax.grad(lambda mu: nextstat.hypotest(model, mu, test_stat="t").statistic)(1.5)
    step = 1e-4
    ends = [float(nextstat.hypotest(model, 1.5 + sign * step, test_stat="t").statistic) for sign in (1, -1)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.slow
def test_a_new_statistic_has_limits_and_toys(model, two_sided):
    limit = nextstat.upper_limit(model, test_stat="t")
    at_limit = nextstat.hypotest(model, float(limit.observed), test_stat="t")
    assert float(at_limit.cls) == pytest.approx(0.05, abs=1e-5)
    toys = nextstat.hypotest(model, 1.5, test_stat="t", calculator="toys", n_toys=400, seed=3)
    exact = nextstat.hypotest(model, 1.5, test_stat="t")
    assert float(toys.statistic) == pytest.approx(float(exact.statistic), abs=1e-7)
    assert 0.0 < float(toys.clsb) < 1.0


def test_the_statistic_is_unknown_without_its_entry(model):
    with pytest.raises(nextstat.FitError, match="'qtilde', 'q', 'q0'"):
        nextstat.hypotest(model, 1.0, test_stat="t")
