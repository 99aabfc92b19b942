"""Fits to pseudo-experiments are those of observed data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._batches._run import Run
from nextstat_jax._toys._toys import fit_toys, sample_toys
from tests.building import normsys
from tests.selection import mostly_slow
from tests.toys.support import SMALL, counting, fit_small, spec


def test_fits_are_those_of_fit(model, toys):
    np.testing.assert_allclose(toys.generated_at, nextstat.fit(model).params, atol=1e-12)
    data = sample_toys(model, 3, seed=5)
    for i in range(3):
        fit = nextstat.fit(model, data=data[i])
        np.testing.assert_allclose(toys.params[i], fit.params, atol=1e-7)
        assert float(toys.mu_hat[i]) == pytest.approx(float(fit.mu), abs=1e-7)
        assert float(toys.mu_uncertainty[i]) == pytest.approx(float(fit.mu_uncertainty), rel=1e-6)
        assert float(toys.nll[i]) == pytest.approx(float(fit.nll), abs=1e-11)
    assert bool(toys.converged.all())
    assert not toys.retried.any()


def test_every_quantity(model, toys):
    np.testing.assert_allclose(toys.data[:4], sample_toys(model, 4, seed=5), rtol=1e-14)
    np.testing.assert_allclose(toys.uncertainties[:, model.poi_index], toys.mu_uncertainty, rtol=1e-9)
    for i in range(4):
        widths = nextstat.fit(model, data=toys.data[i]).uncertainties
        np.testing.assert_allclose(toys.uncertainties[i], widths, rtol=1e-6)
    pull = (toys.mu_hat - toys.generated_at[model.poi_index]) / toys.mu_uncertainty
    np.testing.assert_allclose(toys.pull, pull)
    assert "u[0] uncertainty" in toys.to_dataframe()


@pytest.mark.parametrize(("test_stat", "mu_test"), mostly_slow([("qtilde", 0.8), ("q", 0.8), ("q0", None)]))
def test_statistics_are_those_of_single_fits(model, test_stat, mu_test):
    toys = fit_small(model, 12, mu=0.3, test_stat=test_stat, mu_test=mu_test, seed=2)
    single = {
        "qtilde": lambda data: nextstat.qmu_tilde_test(model, 0.8, data=data),
        "q": lambda data: nextstat.qmu_test(model, 0.8, data=data),
        "q0": lambda data: nextstat.q0_test(model, data=data),
    }[test_stat]
    some = 0
    for i, data in enumerate(toys.data):
        test = single(data)
        assert float(toys.statistic[i]) == pytest.approx(float(test.value), abs=1e-8)
        assert float(toys.mu_hat[i]) == pytest.approx(float(test.mu_hat), abs=1e-7)
        assert float(toys.nll_fixed[i]) == pytest.approx(float(test.nll_fixed), abs=1e-8)
        some += float(test.value) > 0
    assert 0 < some < 12
    assert bool(toys.converged.all())


@pytest.mark.slow
def test_conditional_fits_alone(model):
    toys = fit_small(model, 3, mu_test=0.7)
    for i, data in enumerate(toys.data):
        held = nextstat.profile(model, 0.7, data=data)
        np.testing.assert_allclose(toys.params[i], held.params, atol=1e-7)
        assert float(toys.nll[i]) == pytest.approx(float(held.nll), abs=1e-10)
    np.testing.assert_array_equal(toys.mu_hat, 0.7)
    np.testing.assert_array_equal(toys.mu_uncertainty, 0.0)
    assert toys.statistic is None


def test_fixed_parameters_keep_the_value_of_the_model():
    content = spec()
    content["measurements"][0]["config"]["parameters"].append({"name": "a", "fixed": True})
    model = nextstat.from_pyhf(content)
    params = model.parameter_init().at[model.index("a")].set(1.0)
    toys = fit_small(model, 5, params=params)
    np.testing.assert_array_equal(toys.params[:, model.index("a")], 0.0)
    # The toys themselves are thrown where they were asked for.
    assert float(toys.generated_at[model.index("a")]) == 1.0


def test_a_model_without_a_parameter_of_interest():
    model = counting(poi="")
    toys = fit_small(model, 5, quantities=("mu_uncertainty", "params"))
    assert toys.mu_hat is None
    assert toys.poi_index is None
    assert toys.mu_uncertainty is None
    assert toys.params.shape == (5, 1)
    assert "5 of 5: converged" in repr(toys)
    with pytest.raises(nextstat.ModelError, match="the model has none"):
        fit_toys(model, 5, mu=1.0)
    with pytest.raises(nextstat.ModelError, match="the model has none"):
        fit_toys(model, 5, test_stat="q0")


def test_what_is_held_stays_there(model):
    toys = fit_small(model, 5, fixed={"a": 0.5})
    np.testing.assert_array_equal(toys.params[:, model.index("a")], 0.5)
    fit = nextstat.fit(model, data=toys.data[2], fixed={"a": 0.5})
    np.testing.assert_allclose(toys.params[2], fit.params, atol=1e-7)
    with pytest.raises(nextstat.FitError, match="there is no parameter 'x'"):
        fit_small(model, 5, fixed={"x": 0.5})


@pytest.mark.slow
def test_any_parameter_can_be_of_interest(model):
    other = model.with_poi("a")
    toys = fit_small(other, 5, test_stat="q", mu_test=0.6)
    assert toys.poi_index == model.index("a")
    for i, data in enumerate(toys.data):
        test = nextstat.qmu_test(other, 0.6, data=data)
        assert float(toys.statistic[i]) == pytest.approx(float(test.value), abs=1e-8)
        assert float(toys.mu_hat[i]) == pytest.approx(float(test.mu_hat), abs=1e-7)


@pytest.mark.slow
def test_single_precision():
    single, double = (
        fit_toys(counting(normsys("a", 0.9, 1.1), dtype=dtype), 50, seed=5, run=Run(batch_size=SMALL))
        for dtype in ("float32", "float64")
    )
    assert single.mu_hat.dtype == np.float32
    assert single.params.dtype == np.float32
    assert bool(single.converged.all())
    # Different random numbers, the same distribution.
    assert stats.ks_2samp(np.asarray(single.pull), np.asarray(double.pull)).pvalue > 1e-3
