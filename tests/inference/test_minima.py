"""Minima of the likelihood: published workspaces against stored fits, our own against iminuit and SciPy."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
import pytest
from iminuit import Minuit
from scipy import optimize

import nextstat_jax as nextstat
from tests.building import histosys, normfactor, one_channel, sample
from tests.reference.loop_twin import LoopTwin
from tests.selection import mostly_slow

NAMES = ["simple", "complex", "tHu", "tttt", "SUSY-2018-04", "SUSY-2018-05", "SUSY-2018-31A"]
OWN_NAMES = ["all_modifiers", "one_shapesys", "no_poi", "configured", "shared", "corners", "unconstrained"]
SEED = int(os.environ.get("NEXTSTAT_JAX_SEED", "20240612"))
STARTS = 50
TOYS = 200


def open_quietly(spec: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nextstat.from_pyhf(spec)


def converged(result: Any) -> bool:
    return bool(np.asarray(result.converged))


# -- published workspaces ---------------------------------------------------------------------------------------------


# The largest ones take long to compile.
@pytest.fixture(scope="module", params=mostly_slow(NAMES, "simple", "complex", "tHu"))
def fitted(request, published, reference):
    """A model, its unconditional fit, the stored numbers and the loop twin."""
    spec = published(request.param)
    model = open_quietly(spec)
    return model, nextstat.fit(model), reference[request.param], LoopTwin(spec)


def test_unconditional_fit_reaches_the_stored_minimum(fitted):
    _, result, stored, _ = fitted
    assert converged(result), result.message
    # Lower than the stored minimum is better, not wrong.
    assert float(result.nll) <= stored["mle_nll"] + 1e-6


def test_reported_minimum_is_the_likelihood_at_the_reported_parameters(fitted):
    model, result, _, twin = fitted
    params = np.asarray(result.params)
    assert float(result.nll) == pytest.approx(twin.nll(params), rel=1e-10)
    assert float(result.nll) == pytest.approx(float(model.nll(result.params)), rel=1e-12)
    assert (params >= twin.bounds[:, 0]).all()
    assert (params <= twin.bounds[:, 1]).all()
    frozen = np.array(twin.fixed)
    np.testing.assert_array_equal(params[frozen], twin.inits[frozen])


def test_best_fit_poi_agrees_where_the_minima_do(fitted):
    model, result, stored, _ = fitted
    if abs(float(result.nll) - stored["mle_nll"]) > 2e-5:
        pytest.skip("the stored fit stopped above this minimum, so that its POI is not comparable")
    error = float(result.uncertainties[model.poi_index])
    # A POI on its bound may have no uncertainty.
    scale = error if math.isfinite(error) and error > 0.0 else 0.1
    assert float(result.mu) == float(result.params[model.poi_index])
    assert abs(float(result.mu) - stored["mle_poi"]) <= 1e-2 * scale


@pytest.mark.parametrize(("mu", "key"), [(0.0, "nll_mu0"), (1.0, "nll_mu1")])
def test_conditional_fit_reaches_the_stored_minimum(fitted, mu, key):
    model, result, stored, twin = fitted
    conditional = nextstat.profile(model, mu)
    assert converged(conditional), conditional.message
    assert float(conditional.params[model.poi_index]) == mu
    assert float(conditional.nll) <= stored[key] + 1e-6
    assert float(conditional.nll) >= float(result.nll) - 1e-6
    assert float(conditional.nll) == pytest.approx(twin.nll(np.asarray(conditional.params)), rel=1e-10)


def test_fixing_the_poi_in_a_fit_equals_profiling(fitted):
    model, _, _, _ = fitted
    fixed = nextstat.fit(model, fixed={model.poi: 1.0})
    assert float(fixed.nll) == pytest.approx(float(nextstat.profile(model, 1.0).nll), abs=1e-6)


@pytest.mark.slow
def test_q0_agrees_where_the_minima_do(fitted):
    model, result, stored, _ = fitted
    at_zero = nextstat.profile(model, 0.0)
    gaps = (abs(float(result.nll) - stored["mle_nll"]), abs(float(at_zero.nll) - stored["nll_mu0"]))
    if max(gaps) > 2e-5:
        pytest.skip("one of the stored fits stopped above the minimum, so that its q0 is not comparable")
    # Each of the two minima may differ by the gap, doubled in q0.
    assert float(nextstat.q0(model)) == pytest.approx(stored["q0"], abs=1e-4)


# -- workspaces of our own, minimized by others -----------------------------------------------------------------------


def minuit_minimum(twin: LoopTwin) -> Minuit:
    """Migrad on the loop twin."""
    minuit = Minuit(lambda params: min(twin.nll(params), 1e6), twin.inits, name=twin.names)
    minuit.limits = [tuple(b) for b in twin.bounds]
    minuit.fixed = twin.fixed
    minuit.errordef, minuit.strategy, minuit.tol = Minuit.LIKELIHOOD, 2, 1e-3
    minuit.migrad()
    return minuit


def difference_errors(twin: LoopTwin, params: Any, scales: Any) -> Any:
    """Square roots of the diagonal of the inverse Hessian of the loop twin, by nested central differences."""
    free = np.flatnonzero(~np.array(twin.fixed))
    steps = 0.01 * np.asarray(scales)

    def derivative(function, y, i):
        unit = np.zeros(len(y))
        unit[i] = steps[i]
        near, far = function(y + unit) - function(y - unit), function(y + 2 * unit) - function(y - 2 * unit)
        return (8.0 * near - far) / (12.0 * steps[i])

    hessian = [[derivative(lambda y, j=j: derivative(twin.nll, y, j), params, i) for j in free] for i in free]
    errors = np.zeros(len(params))
    errors[free] = np.sqrt(np.diag(np.linalg.inv(np.array(hessian))))
    return errors


def scipy_minimum(twin: LoopTwin) -> float:
    bounds = [(x, x) if f else tuple(b) for x, f, b in zip(twin.inits, twin.fixed, twin.bounds, strict=True)]
    result = optimize.minimize(
        lambda params: min(twin.nll(params), 1e6), twin.inits, method="SLSQP", bounds=bounds, tol=1e-10
    )
    return float(result.fun)


@pytest.mark.parametrize("name", mostly_slow(OWN_NAMES, "all_modifiers", "corners"))
def test_minimum_equals_minuit_and_scipy(own, name):
    spec = own(name)
    twin = LoopTwin(spec)
    result = nextstat.fit(open_quietly(spec))
    minuit = minuit_minimum(twin)
    assert converged(result), result.message
    assert float(result.nll) <= min(float(minuit.fval), scipy_minimum(twin)) + 1e-6
    # Minuit stops at an EDM of 2e-6 or less.
    assert float(result.nll) >= float(minuit.fval) - 1e-4
    ours = np.asarray(result.params)
    free = ~np.array(twin.fixed)
    assert (np.abs(ours - np.array(minuit.values))[free] <= 1e-2 * np.array(minuit.errors)[free]).all()


@pytest.mark.parametrize("name", OWN_NAMES)
def test_uncertainties_are_those_of_the_hessian(own, name):
    spec = own(name)
    twin = LoopTwin(spec)
    result = nextstat.fit(open_quietly(spec))
    ours = np.asarray(result.uncertainties)
    assert result.at_bound == ()
    errors = difference_errors(twin, np.asarray(result.params), np.where(ours > 0.0, ours, 1.0))
    np.testing.assert_allclose(ours, errors, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(result.covariance)), ours, rtol=1e-12)
    # Minuit's Hesse, whose errors of bounded parameters are those of internal variables, is coarser than either.
    np.testing.assert_allclose(ours, np.where(twin.fixed, 0.0, minuit_minimum(twin).errors), rtol=5e-2)


def test_fit_from_another_start_reaches_the_same_minimum(own):
    model = open_quietly(own("all_modifiers"))
    expected = float(nextstat.fit(model).nll)
    start = np.asarray(model.parameter_init()) * 1.2
    assert float(nextstat.fit(model, init=start).nll) == pytest.approx(expected, abs=1e-7)


def test_fixed_parameters_stay(own):
    model = open_quietly(own("all_modifiers"))
    result = nextstat.fit(model, fixed={"scale": 0.7, "k_top": 1.1})
    names = list(result.parameter_names)
    assert float(result.params[names.index("scale")]) == 0.7
    assert float(result.params[names.index("k_top")]) == 1.1
    assert float(result.nll) > float(nextstat.fit(model).nll)


def test_fit_of_other_data_than_the_observed(own):
    model = open_quietly(own("all_modifiers"))
    truth = model.parameter_init() * 1.0
    data = model.expected_data(truth)
    result = nextstat.fit(model, data=data)
    # The expectation of a point is fitted by that point, up to the auxiliary data of constraints centered elsewhere.
    np.testing.assert_allclose(result.params, truth, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_unusable_starts_are_refused(own, bad):
    model = open_quietly(own("all_modifiers"))
    start = np.asarray(model.parameter_init()).copy()
    start[model.poi_index] = bad
    with pytest.raises(nextstat.FitError, match="mu"):
        nextstat.fit(model, init=start)


def test_start_with_a_negative_rate_is_moved_and_said(own):
    spec = own("all_modifiers")
    spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "bounds": [[-50.0, 50.0]]})
    model = open_quietly(spec)
    start = np.asarray(model.parameter_init()).copy()
    start[model.poi_index] = -50.0
    assert float(model.nll(start)) == math.inf
    result = nextstat.fit(model, init=start)
    assert bool(result.start_moved)
    assert converged(result), result.message
    assert float(result.nll) == pytest.approx(float(nextstat.fit(model).nll), abs=1e-7)


# -- many starts, many toys -------------------------------------------------------------------------------------------


def random_start(model: Any, twin: LoopTwin, rng: np.random.Generator) -> Any:
    """A start within the constraint widths around the initial point (half a unit where there is no constraint)."""
    widths = np.nan_to_num(twin.widths(), nan=0.5)
    for _ in range(200):
        start = np.clip(twin.inits + widths * rng.uniform(-1.0, 1.0, len(widths)), *twin.bounds.T)
        start = np.where(twin.fixed, twin.inits, start)
        # A start with a negative rate is an invalid argument, which is tested elsewhere.
        if math.isfinite(float(model.nll(start))):
            return start
    raise AssertionError("no start with positive rates in 200 draws")


@pytest.mark.slow
def test_random_starts_reach_the_minimum(fitted):
    model, result, stored, twin = fitted
    rng = np.random.default_rng(SEED)
    best = min(stored["mle_nll"], float(result.nll))
    failures = []
    for i in range(STARTS):
        fit = nextstat.fit(model, init=random_start(model, twin, rng))
        if not (converged(fit) and float(fit.nll) <= best + 1e-6):
            failures.append((i, float(fit.nll) - best, fit.message))
    assert len(failures) <= 0.02 * STARTS, f"seed {SEED}: {failures}"


@pytest.mark.slow
def test_toys_converge(fitted):
    model, result, _, twin = fitted
    toys = twin.throw(np.asarray(result.params), TOYS, np.random.default_rng(SEED))
    failures = []
    for i, toy in enumerate(toys):
        fit = nextstat.fit(model, data=toy)
        if not converged(fit):
            failures.append((i, fit.message))
    # One of two hundred may fail, saying why.
    assert len(failures) <= 0.005 * TOYS, f"seed {SEED}: {failures}"
    assert all(reason.startswith("not ") for _, reason in failures)


@pytest.mark.parametrize("held", [None, {"mu": 1.5}, {"mu": 0.0}])
def test_a_bin_that_nothing_fills_changes_nothing(held):
    """Such a bin stands at rate 0 whatever the parameters: fits converge as without it."""

    def fitted(empty):
        zero = [0.0] * empty
        shift = histosys("shape", [40.0, 38.0, 34.0, *zero], [60.0, 42.0, 30.0, *zero])
        signal = sample("signal", [1.0, 5.0, 9.0, *zero], normfactor("mu"))
        spec = one_channel([signal, sample("background", [50.0, 40.0, 32.0, *zero], shift)], [51.0, 45.0, 41.0, *zero])
        return nextstat.fit(nextstat.from_pyhf(spec), fixed=held)

    with_bin, without = fitted(1), fitted(0)
    assert bool(with_bin.converged)
    np.testing.assert_allclose(with_bin.params, without.params, rtol=1e-8)
    assert float(with_bin.nll) == pytest.approx(float(without.nll), rel=1e-10)
