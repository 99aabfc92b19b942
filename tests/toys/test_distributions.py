"""p-values from given distributions of toys."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._minimize import _status
from nextstat_jax._toys._distributions import ToyDistributions
from nextstat_jax._toys._distributions import evaluate as evaluate_all


def distributions(signal, background, *, status=_status.CONVERGED, block=(0, 0, 4), test_stat="qtilde", mu=1.0):
    signal, background = jnp.asarray(signal, jnp.float64), jnp.asarray(background, jnp.float64)
    codes = jnp.full(signal.shape, status)
    return ToyDistributions(jnp.asarray(mu), signal, background, codes, jnp.zeros_like(codes), (block,), test_stat)


def evaluate(made, observed):
    observed = jnp.asarray(observed, jnp.float64)
    return evaluate_all(made, observed, jnp.asarray(0.0), jnp.asarray(0), jnp.asarray(jnp.inf), "mu")


def test_p_values_count_toys_that_reach_the_data():
    test = evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 2.0)
    assert float(test.clsb) == 0.5
    assert float(test.clb) == 0.5
    assert float(test.cls) == 1.0
    # Beta(3, 3): variance 1/28.
    assert float(test.clsb_error) == pytest.approx(np.sqrt(1 / 28))
    assert float(test.cls_error) == pytest.approx(2 * np.sqrt(2 / 28))
    # Rounding does not tell equal statistics apart, and all toys reach 0.
    assert float(evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 2.0 + 1e-9).clsb) == 0.5
    assert float(evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 1e-12).clsb) == 1.0


def test_expected_bands_are_quantiles_over_background_toys():
    """What pyhf's toy calculator does, in its own loops."""
    rng = np.random.default_rng(3)
    signal = np.where(rng.random(400) < 0.5, 0.0, rng.chisquare(1, 400))
    background = np.where(rng.random(400) < 0.1, 0.0, 2.0 + rng.chisquare(3, 400))
    test = evaluate(distributions(signal, background, block=(0, 0, 400)), 3.0)
    clsb = np.array([(signal >= q).mean() for q in background])
    clb = np.array([(background >= q).mean() for q in background])
    levels = 100 * stats.norm.cdf([-2, -1, 0, 1, 2])
    np.testing.assert_allclose(test.cls_expected, np.percentile(clsb / clb, levels), rtol=1e-12)
    np.testing.assert_allclose(test.clsb_expected, np.percentile(clsb, levels), rtol=1e-12)
    np.testing.assert_allclose(test.clb_expected, np.percentile(clb, levels), rtol=1e-12)


def test_no_background_toy_beyond_the_data_is_said():
    test = evaluate(distributions([0.0, 1.0, 2.0, 9.0], [0.0, 0.0, 2.0, 5.0]), 7.0)
    assert np.isnan(test.cls)
    assert not bool(test.defined)
    assert not bool(test.converged)
    assert float(test.clsb) == 0.25
    assert float(test.clb_error) > 0
    assert "CLs is not defined at mu = 1: none of 4 background-only toys" in test.message
    assert "CLs is not defined" in repr(test)
    assert test.to_dict()["cls"] is None
    assert test.to_dict()["defined"] is False


def test_failed_toys_are_left_out_and_said():
    made = distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0])
    status = jnp.array([0, 0, 0, _status.STALLED])
    test = evaluate(
        ToyDistributions(made.mu, made.signal, made.background, status, status * 0, made.blocks, "qtilde"), 2.0
    )
    assert float(test.clsb) == pytest.approx(1 / 3)
    assert int(test.distributions.n_failed) == 1
    assert int(test.status) == _status.STALLED
    assert "1 of 8 toys failed" in test.message
    # An infinite statistic has a conditional fit that cannot converge, and counts.
    signal = made.signal.at[3].set(jnp.inf)
    test = evaluate(ToyDistributions(made.mu, signal, made.background, status, status * 0, made.blocks, "qtilde"), 2.0)
    assert float(test.clsb) == 0.5
    assert bool(test.converged)
    nothing = evaluate(distributions([np.nan] * 4, [np.nan] * 4, status=_status.STALLED), 2.0)
    assert np.isnan(nothing.clsb)
    assert np.isnan(nothing.cls)


def test_merging():
    one = distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0])
    other = distributions([4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0], block=(0, 4, 4))
    both = evaluate(one, 2.0).merge(evaluate(other, 2.0))
    assert float(both.clsb) == 6 / 8
    assert both.distributions.n_toys == 8
    assert both.distributions.blocks == ((0, 0, 4), (0, 4, 4))
    with pytest.raises(nextstat.FitError, match="toys 2 to 3 of seed 0 are in both sets"):
        one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(0, 2, 2)))
    one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(9, 2, 2)))
    with pytest.raises(nextstat.FitError, match="different test statistics or tested values"):
        one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(9, 0, 2), mu=2.0))
    with pytest.raises(nextstat.FitError, match="only tests of the same data"):
        evaluate(one, 2.0).merge(evaluate(other, 2.5))
