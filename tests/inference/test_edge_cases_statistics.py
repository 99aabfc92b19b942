"""The corners of the test statistics, on a counting experiment whose fits have closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from tests.building import normfactor, normsys, one_channel, sample, shapesys


def counting(observed, parameters=()):
    """s = 5, b = 50 +- 7."""
    samples = [sample("sig", [5.0], normfactor("mu")), sample("bkg", [50.0], shapesys("shape", [7.0]))]
    return nextstat.from_pyhf(one_channel(samples, [observed], parameters=parameters))


TAU = (50.0 / 7.0) ** 2


def counting_q(observed, signal):
    """Twice the difference between the best fit with that signal and the perfect one, in closed form."""

    def nll(rate, gamma):
        return rate - observed * math.log(rate) + TAU * gamma - TAU * math.log(TAU * gamma)

    # The conditional gamma solves a quadratic equation: 50 + tau = n * 50 / (s + 50 gamma) + tau / gamma.
    a, b, c = 50.0 * (50.0 + TAU), signal * (50.0 + TAU) - 50.0 * observed - 50.0 * TAU, -TAU * signal
    gamma = (-b + math.sqrt(b * b - 4.0 * a * c)) / (2.0 * a)
    return 2.0 * (nll(signal + 50.0 * gamma, gamma) - nll(observed, 1.0))


@pytest.mark.parametrize(("observed", "p0"), [(30.0, 0.5), (50.0, 0.5), (55.0, 0.31187578), (70.0, 0.03290259)])
def test_p0_of_a_counting_experiment(observed, p0):
    model = counting(observed)
    # These values come from a numerical fit; the closed form below is exact.
    assert stats.norm.sf(float(nextstat.z0(model))) == pytest.approx(p0, abs=1e-7)
    assert float(nextstat.q0(model)) == pytest.approx(float(nextstat.z0(model)) ** 2, abs=1e-9)


@pytest.mark.parametrize("observed", [52.0, 55.0, 60.0, 70.0])
def test_q0_in_closed_form(observed):
    assert float(nextstat.q0(counting(observed))) == pytest.approx(counting_q(observed, 0.0), rel=1e-8)


@pytest.mark.parametrize("observed", [20.0, 30.0, 45.0])
def test_q0_of_a_deficit_is_zero(observed):
    # With a POI free to go negative there is a deficit to fit, and it still does not count as a discovery.
    for parameters in ((), [{"name": "mu", "bounds": [[-5.0, 10.0]]}]):
        model = counting(observed, parameters)
        assert float(nextstat.q0(model)) == pytest.approx(0.0, abs=1e-9)
        assert float(nextstat.z0(model)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("statistic", ["qmu", "qmu_tilde"])
@pytest.mark.parametrize("observed", [55.0, 70.0])
def test_upper_statistics_are_zero_below_the_best_fit(statistic, observed):
    function = getattr(nextstat, statistic)
    best = (observed - 50.0) / 5.0
    model = counting(observed)
    assert float(function(model, 0.5 * best)) == 0.0
    assert float(function(model, best + 1.0)) == pytest.approx(counting_q(observed, 5.0 * (best + 1.0)), rel=1e-7)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_qmu_tilde_of_a_deficit_starts_at_no_signal(mu):
    expected = counting_q(30.0, 5.0 * mu) - counting_q(30.0, 0.0)
    assert float(nextstat.qmu_tilde(counting(30.0), mu)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("observed", [30.0, 55.0])
def test_qmu_tilde_bounds_a_poi_that_may_be_negative(observed):
    bounded, free = counting(observed), counting(observed, [{"name": "mu", "bounds": [[-5.0, 10.0]]}])
    assert float(nextstat.qmu_tilde(free, 1.5)) == pytest.approx(float(nextstat.qmu_tilde(bounded, 1.5)), rel=1e-8)
    # Without the bound, the reference of a deficit is the best fit below zero.
    expected = counting_q(observed, 7.5)
    assert float(nextstat.qmu(free, 1.5)) == pytest.approx(expected, rel=1e-7)


def test_asimov_data_are_the_expectation():
    model = counting(60.0)
    conditional = nextstat.profile(model, 1.0)
    expected = model.expected_data(conditional.params)
    np.testing.assert_allclose(nextstat.asimov_data(model, conditional.params), expected, rtol=1e-14)
    np.testing.assert_allclose(nextstat.asimov_data(model, mu=0.0), [50.0, TAU], rtol=1e-14)
    np.testing.assert_allclose(nextstat.asimov_data(model, mu=1.0), [55.0, TAU], rtol=1e-14)


def test_statistics_without_a_signal_are_zero_and_not_nan():
    spec = one_channel(
        [sample("sig", [0.0], normfactor("mu")), sample("bkg", [50.0], shapesys("shape", [7.0]))], [50.0]
    )
    model = nextstat.from_pyhf(spec)
    for value in (nextstat.q0(model), nextstat.z0(model), nextstat.qmu(model, 1.0), nextstat.qmu_tilde(model, 1.0)):
        assert float(value) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("observed", [30.0, 50.0, 50.0001, 55.0])
@pytest.mark.parametrize("statistic", ["q0", "z0"])
def test_gradients_of_discovery_statistics_are_finite(statistic, observed):
    model = counting(55.0)
    data = jnp.array([observed, TAU])
    gradient = jax.grad(lambda d: getattr(nextstat, statistic)(model, data=d))(data)
    assert np.isfinite(gradient).all()


def test_gradient_of_q0_with_respect_to_the_count_in_closed_form():
    model = counting(55.0)
    gradient = jax.grad(lambda n: nextstat.q0(model, data=jnp.array([n, TAU])))(60.0)
    step = 1e-3
    difference = (counting_q(60.0 + step, 0.0) - counting_q(60.0 - step, 0.0)) / (2.0 * step)
    assert float(gradient) == pytest.approx(difference, rel=1e-6)


def test_models_without_a_poi_say_so():
    spec = one_channel([sample("bkg", [10.0], normsys("norm", 0.9, 1.1))], [10.0], poi="")
    model = nextstat.from_pyhf(spec)
    assert model.poi is None
    with pytest.raises(nextstat.NextstatError, match=r"(?i)poi|parameter of interest"):
        nextstat.q0(model)
    with pytest.raises(nextstat.NextstatError, match=r"(?i)poi|parameter of interest"):
        nextstat.profile(model, 1.0)
