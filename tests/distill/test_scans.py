"""Fits and scans of surrogates, and likelihoods in other parameters, against the fits of models and SciPy's."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from scipy.optimize import minimize

import nextstat_jax as nextstat
from nextstat_jax import DatasetError, FitError, ModelError, distill
from nextstat_jax._inference import _fit, _scan
from nextstat_jax._model._reparametrized import reparametrize
from nextstat_jax.distill import fit, log_density, profile_scan, sample, train_mlp_surrogate
from tests.distill.support import SPEC

COUPLING = {"c": (-1.6, 1.2), "shift": (-0.5, 0.5)}


class Strength(eqx.Module):
    """A signal strength that is quadratic in one parameter; the other one moves a nuisance parameter."""

    slope: float
    square: float

    def __call__(self, x):
        c, shift = x
        return {"mu": 1.0 + self.slope * c + self.square * c**2, "norm": 0.3 * c + shift}


FUNCTION = Strength(2.0, 1.5)


@pytest.fixture(scope="module")
def pair(model, surrogate):
    """Surrogate and model in other parameters."""
    return (
        reparametrize(surrogate, COUPLING, FUNCTION),
        reparametrize(model, COUPLING, FUNCTION, surrogate=surrogate),
    )


def test_old_names_are_the_same_functions():
    assert distill.fit is _fit.fit and distill.profile_scan is _scan.profile_scan
    assert distill.reparametrize is reparametrize


def test_fits_of_a_model_and_of_its_surrogate(model, surrogate):
    expected, near = fit(model), fit(surrogate)
    assert bool(near.converged) and near.poi_index == expected.poi_index == surrogate.poi_index
    assert near.parameter_names == expected.parameter_names
    assert (np.abs(near.params - expected.params) < 0.02 * expected.uncertainties).all()
    np.testing.assert_allclose(near.uncertainties, expected.uncertainties, rtol=0.02)


def test_fits_of_a_surrogate_against_scipy(surrogate):
    smooth = surrogate.astype("float64")
    held = {"mu": 0.3}
    index = surrogate.index("mu")
    value = jax.jit(jax.value_and_grad(smooth.nll))
    box = np.array(surrogate.parameter_bounds())
    box[index] = 0.3
    start = np.clip(np.asarray(surrogate.minimum), *box.T)
    found = minimize(
        lambda x: tuple(map(np.asarray, value(x))), start, jac=True, bounds=box, tol=1e-14, method="L-BFGS-B"
    )
    best = fit(surrogate, fixed=held)
    assert float(best.nll) == pytest.approx(found.fun, abs=1e-8)
    np.testing.assert_allclose(best.params, found.x, atol=1e-4)
    assert bool(best.fixed[index]) and best.uncertainties[index] == 0
    # The same minimum from elsewhere.
    again = fit(surrogate, fixed=held, init=box.mean(1))
    np.testing.assert_allclose(again.params, best.params, atol=1e-6)


@pytest.mark.parametrize("parameter", ["mu", "norm"])
def test_scans_of_one_parameter(model, surrogate, parameter):
    values = np.linspace(0.1, 0.8, 5)
    expected, near = (profile_scan(one, parameter, values) for one in (model, surrogate))
    np.testing.assert_allclose(near.delta, expected.delta, atol=0.02)
    assert bool(near.converged.all()) and near.parameters == (parameter,)


def test_scans_of_two_parameters(model, surrogate):
    axes = [np.linspace(0.0, 1.0, 3), np.linspace(-1.0, 1.0, 4)]
    expected, near = (profile_scan(one, ("mu", "shape"), axes) for one in (model, surrogate))
    assert near.delta.shape == (3, 4)
    np.testing.assert_allclose(near.delta, expected.delta, atol=0.05)


@pytest.mark.slow
def test_tests_limits_and_intervals_of_a_surrogate(model, surrogate):
    exact, near = (nextstat.upper_limit(one) for one in (model, surrogate))
    np.testing.assert_allclose(near.observed, exact.observed, rtol=0.01)
    np.testing.assert_allclose(near.expected, exact.expected, rtol=0.01)
    exact, near = (nextstat.interval(one, "norm") for one in (model, surrogate))
    np.testing.assert_allclose([near.lower, near.upper], [exact.lower, exact.upper], atol=0.02)
    assert float(nextstat.profile(surrogate, 1.0).nll) == pytest.approx(
        float(nextstat.profile(model, 1.0).nll), abs=0.02
    )
    assert float(nextstat.qmu(surrogate, 1.0)) == pytest.approx(float(nextstat.qmu(model, 1.0)), abs=0.05)
    # Any parameter can be the one of interest.
    other = nextstat.profile(surrogate.with_poi("shape"), 0.5)
    assert float(other.params[surrogate.index("shape")]) == 0.5
    assert surrogate.with_poi(None).poi_index is None and surrogate.poi == "mu"


@pytest.mark.slow
def test_fits_of_surrogates_are_differentiable(surrogate):
    core = surrogate.members[0]

    def conditional(shift):
        # All expected counts grow.
        moved = replace(core, offset=jnp.asarray(core.offset, float) + shift)
        found = nextstat.profile(replace(surrogate, members=(moved,)), 1.0)
        return jnp.stack([found.nll, found.params[surrogate.index("shape")]])

    step = 1e-4
    numeric = (conditional(step) - conditional(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(conditional))(0.0), numeric, rtol=1e-6)


def test_data_of_a_surrogate(surrogate, ds, model):
    with pytest.raises(ModelError, match="one data set, that of its training"):
        fit(surrogate, data=[51.0, 48.0])
    likelihood, exact = surrogate.likelihood, model.likelihood
    at = jnp.asarray(ds.reference.minimum)
    # Bins, then auxiliary data by the kind of constraint: the order of the model where these come in this order.
    expected = np.asarray(likelihood.expected(at))
    np.testing.assert_allclose(np.sort(expected), np.sort(np.asarray(exact.expected(at))), rtol=1e-2, atol=1e-2)
    data = likelihood.observed.at[0].add(1.0)
    moved = likelihood.deviance(at, data) + likelihood.constant(data)
    other = model.with_data(np.asarray(exact.observed) + np.eye(len(data))[0])
    assert float(moved) == pytest.approx(float(other.nll(at)), abs=0.02)
    toys = jax.vmap(lambda key: likelihood.throw(at, key))(jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose(toys.mean(0), expected, atol=5 * np.asarray(toys.std(0)).max() / np.sqrt(4000))
    value, width = likelihood.constraints(likelihood.observed)
    for found, wanted in zip((value, width), exact.constraints(exact.observed), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_networks_that_know_one_data_set_have_no_limits(ds):
    plain = train_mlp_surrogate(ds[:200], epochs=1, hidden_layers=(4,), recipe="plain", progress=False)
    with pytest.raises(ModelError, match="which a surrogate that learned 'plain'"):
        plain.likelihood.expected(plain.parameter_init())
    with pytest.raises(ModelError, match="has no pseudo-experiments"):
        plain.likelihood.throw(plain.parameter_init(), jax.random.key(0))
    x = jnp.asarray(ds.parameters[0])
    likelihood = plain.likelihood
    both = likelihood.deviance(x, likelihood.observed) + likelihood.constant(likelihood.observed)
    assert float(both) == pytest.approx(float(plain.nll(x)), rel=1e-5)


def test_nll_in_other_parameters_is_that_of_pyhf(pair, model):
    workspace = pyhf.Workspace(SPEC)
    oracle = workspace.model()
    data = workspace.data(oracle)
    approximate, exact = pair
    rng = np.random.default_rng(1)
    x = rng.uniform(*np.asarray(exact.parameter_bounds()).T * 0.6, size=(5, exact.n_params))
    x[:, 2:] = np.asarray(exact.parameter_init())[2:]
    params = np.asarray(exact.params(x))
    kept = [name for name in model.parameter_names() if name not in ("mu", "norm")]
    assert exact.parameter_names() == ["c", "shift", *kept]
    mu, norm = (model.index(name) for name in ("mu", "norm"))
    np.testing.assert_allclose(params[:, mu], 1 + 2 * x[:, 0] + 1.5 * x[:, 0] ** 2)
    np.testing.assert_allclose(params[:, norm], 0.3 * x[:, 0] + x[:, 1])
    expected = [-float(oracle.logpdf(list(point), data)[0]) for point in params]
    np.testing.assert_allclose(exact.nll(x), expected, rtol=1e-10)
    np.testing.assert_allclose([float(exact.nll(point)) for point in x], expected, rtol=1e-10)
    np.testing.assert_allclose(jax.vmap(exact.nll)(x), expected, rtol=1e-10)
    np.testing.assert_allclose(approximate.nll(x), approximate.source.nll(params), rtol=1e-5)
    assert approximate.in_domain(x).shape == (5,) and bool(exact.in_domain(x).all())
    step = 1e-5 * np.eye(exact.n_params)
    numeric = [(exact.nll(x[0] + h) - exact.nll(x[0] - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(jax.grad(exact.nll)(x[0]), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_surrogate_and_model_agree_in_other_parameters(pair):
    approximate, exact = (profile_scan(one, "c", np.linspace(-1.2, 0.2, 7)) for one in pair)
    np.testing.assert_allclose(approximate.delta, exact.delta, atol=0.03)
    best = [fit(one) for one in pair]
    assert best[0].parameter_names == best[1].parameter_names and best[0].poi_index is None
    np.testing.assert_allclose(best[0].params, best[1].params, atol=0.05)


@pytest.mark.slow
def test_chains_in_other_parameters(pair):
    approximate, exact = pair
    box = np.asarray(exact.parameter_bounds())
    free = box[:, 1] > box[:, 0]
    grid = np.random.default_rng(3).uniform(*box.T, size=(2**18, exact.n_params))
    weight = np.asarray(exact.nll(grid))
    weight = np.exp(weight.min() - weight)
    weight /= weight.sum()
    mean, size = weight @ grid, 1.0 / (weight**2).sum()
    width = np.sqrt(weight @ (grid - mean) ** 2)
    assert size > 100
    chains = sample(approximate, exact, 1500, n_chains=4, n_warmup=300, seed=1)
    assert chains.parameter_names == exact.names and chains.acceptance > 0.9
    pull = ((chains.params.mean((0, 1)) - mean) / width)[free]
    assert np.abs(pull).max() < 4.0 / np.sqrt(size) + 0.15, pull
    density = log_density(exact, approximate)
    z = density.unbounded(chains.params[0, 0])
    np.testing.assert_allclose(density.params(z), chains.params[0, 0], rtol=1e-8)


def test_minima_where_nothing_was_trained_do_not_count(surrogate):
    # There a network may fall without bound.
    inside = np.asarray(surrogate.minimum)
    next_to, far = np.array(inside), np.array(inside)
    place = surrogate.index("shape")
    low, high = np.asarray(surrogate.parameter_bounds())[place]
    next_to[place], far[place] = high + 0.02 * (high - low), high + 2.0 * (high - low)
    likelihood = surrogate.likelihood
    assert [float(likelihood.trust(jnp.asarray(x))) for x in (inside, next_to, far)] == [0.0, 1.0, 2.0]
    edge = surrogate.parameter_init().at[place].set(high)
    assert float(likelihood.trust(edge)) == float(not surrogate.in_domain(edge))


def test_integers_are_numbers(model, surrogate, pair):
    whole = np.array([0, 1, 0, 1, 1])
    assert float(surrogate.nll(jnp.asarray(whole))) == pytest.approx(
        float(surrogate.nll(whole.astype(float))), rel=1e-6
    )
    assert float(pair[1].nll(jnp.asarray(whole))) == pytest.approx(float(pair[1].nll(whole.astype(float))), rel=1e-12)


def test_bad_arguments(model, surrogate, pair):
    approximate, exact = pair
    with pytest.raises(ModelError, match="expected a model"):
        fit(SPEC)
    with pytest.raises(FitError, match="there is no parameter 'nu'"):
        fit(surrogate, fixed={"nu": 1.0})
    with pytest.raises(DatasetError, match="goes with a model"):
        log_density(surrogate, model)
    with pytest.raises(ModelError, match=r"init has shape \(2,\), expected \(5,\)"):
        fit(surrogate, init=[1.0, 2.0])
    with pytest.raises(FitError, match="there is no parameter 'nu'"):
        profile_scan(surrogate, "nu", [1.0])
    with pytest.raises(DatasetError, match="expected a reparametrized surrogate"):
        sample(surrogate, exact)
    other = reparametrize(model, {**COUPLING, "c": (-1.0, 1.0)}, FUNCTION, surrogate=surrogate)
    with pytest.raises(DatasetError, match="other parameters or bounds"):
        sample(approximate, other)
    other = reparametrize(model, COUPLING, Strength(2.0, 1.4), surrogate=surrogate)
    with pytest.raises(DatasetError, match="by different functions"):
        sample(approximate, other)
    with pytest.raises(ModelError, match=r"params has shape \(3,\)"):
        exact.nll(jnp.zeros(3))
    assert repr(approximate) == "Reparametrized Surrogate: c, shift in place of 2 parameters; 3 kept"
