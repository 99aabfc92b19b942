"""Fits and scans of surrogates, and likelihoods in other parameters, against the fits of models and SciPy's."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from scipy.optimize import minimize

import nextstat_jax as nextstat
from nextstat_jax import DatasetError
from nextstat_jax._minimize._newton import Minimum
from nextstat_jax.distill import (
    fit,
    generate_dataset,
    log_density,
    profile_scan,
    reparametrize,
    sample,
    train_mlp_surrogate,
)
from nextstat_jax.distill._minima import _lowest
from tests.test_distill_dataset import FIXED, SPEC

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
def model():
    return nextstat.from_pyhf(SPEC)


@pytest.fixture(scope="module")
def surrogate(model):
    ds = generate_dataset(model, 6000, method="profile", progress=False)
    return train_mlp_surrogate(ds, (32, 32), epochs=60, batch_size=256, lr=0.01, progress=False)


@pytest.fixture(scope="module")
def pair(model, surrogate):
    """Surrogate and model in other parameters."""
    return (
        reparametrize(surrogate, COUPLING, FUNCTION),
        reparametrize(model, COUPLING, FUNCTION, surrogate=surrogate),
    )


def test_fits_of_a_model_and_of_its_surrogate(model, surrogate):
    expected = nextstat.fit(model)
    same = fit(model)
    np.testing.assert_allclose(same.params, expected.params, atol=1e-6)
    np.testing.assert_allclose(same.covariance, expected.covariance, rtol=1e-6, atol=1e-9)
    assert float(same.nll) == pytest.approx(float(expected.nll), abs=1e-10)
    assert same.parameter_names == expected.parameter_names and same.poi_index == expected.poi_index
    near = fit(surrogate)
    assert bool(near.converged) and bool(same.converged)
    assert (np.abs(near.params - expected.params) < 0.02 * expected.uncertainties).all()
    np.testing.assert_allclose(near.uncertainties, expected.uncertainties, rtol=0.02)


def test_fits_of_a_surrogate_against_scipy(surrogate):
    smooth = surrogate.astype("float64")
    held = {"mu": 0.3}
    index = surrogate.parameter_names.index("mu")
    value = jax.jit(jax.value_and_grad(smooth.nll))
    box = np.array(surrogate.parameter_bounds)
    box[index] = 0.3
    start = np.clip(np.asarray(surrogate.minimum), *box.T)
    found = minimize(
        lambda x: tuple(map(np.asarray, value(x))), start, jac=True, bounds=box, tol=1e-14, method="L-BFGS-B"
    )
    best = fit(surrogate, fixed=held)
    assert float(best.nll) == pytest.approx(found.fun, abs=1e-8)
    np.testing.assert_allclose(best.params, found.x, atol=1e-4)
    assert bool(best.fixed[index]) and best.uncertainties[index] == 0
    # The same minimum from elsewhere, and held at a bound.
    again = fit(surrogate, fixed=held, init=box.mean(1), n_starts=4)
    np.testing.assert_allclose(again.params, best.params, atol=1e-6)


@pytest.mark.parametrize("parameter", ["mu", "norm"])
def test_scans_of_one_parameter(model, surrogate, parameter):
    values = np.linspace(0.1, 0.8, 5)
    expected = nextstat.profile_scan(model, parameter, values)
    same, near = profile_scan(model, parameter, values), profile_scan(surrogate, parameter, values)
    np.testing.assert_allclose(same.delta, expected.delta, atol=1e-8)
    np.testing.assert_allclose(same.params, expected.params, atol=1e-5)
    np.testing.assert_allclose(near.delta, expected.delta, atol=0.02)
    assert bool(near.converged.all()) and near.parameters == (parameter,)
    np.testing.assert_allclose(same.best, expected.best, atol=1e-6)


def test_scans_of_two_parameters(model, surrogate):
    axes = [np.linspace(0.0, 1.0, 3), np.linspace(-1.0, 1.0, 4)]
    expected = nextstat.profile_scan(model, ("mu", "shape"), axes)
    near = profile_scan(surrogate, ("mu", "shape"), axes)
    assert near.delta.shape == (3, 4)
    np.testing.assert_allclose(near.delta, expected.delta, atol=0.05)
    assert "3 x 4 points" in repr(near)


def test_nll_in_other_parameters_is_that_of_pyhf(pair, model):
    workspace = pyhf.Workspace(SPEC)
    oracle = workspace.model()
    data = workspace.data(oracle)
    approximate, exact = pair
    rng = np.random.default_rng(1)
    x = rng.uniform(*np.asarray(exact.parameter_bounds).T * 0.6, size=(5, exact.n_params))
    x[:, 2:] = np.asarray(exact.start)[2:]
    params = np.asarray(exact.params(x))
    places = [exact.parameter_names.index(name) for name in ("c", "shift")]
    assert places == [0, 1] and exact.parameter_names[2:] == tuple(
        name for name in model.parameter_names() if name not in ("mu", "norm")
    )
    mu, norm = (model.parameter_names().index(name) for name in ("mu", "norm"))
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


def test_scan_over_a_function_with_two_solutions(model):
    # The likelihood knows c through mu only: it is symmetric around -2/3.
    symmetric = reparametrize(model, {"c": (-1.6, 0.4)}, lambda x: {"mu": (1.0 + 1.5 * x[0]) ** 2})
    c = np.linspace(-1.4, 0.0666, 9)
    found = profile_scan(symmetric, "c", c)
    expected = nextstat.profile_scan(model, "mu", (1 + 1.5 * c) ** 2)
    np.testing.assert_allclose(found.delta, expected.delta, atol=1e-7)
    mirrored = profile_scan(symmetric, "c", -4.0 / 3.0 - c)
    np.testing.assert_allclose(found.delta, mirrored.delta, atol=1e-7)
    assert abs((1 + 1.5 * float(found.best[0])) ** 2 - float(expected.best[0])) < 1e-6


def test_surrogate_and_model_agree_in_other_parameters(pair):
    approximate, exact = (profile_scan(one, "c", np.linspace(-1.2, 0.2, 7)) for one in pair)
    np.testing.assert_allclose(approximate.delta, exact.delta, atol=0.03)
    best = [fit(one) for one in pair]
    assert best[0].parameter_names == best[1].parameter_names and best[0].poi_index == -1
    np.testing.assert_allclose(best[0].params, best[1].params, atol=0.05)


def test_chains_in_other_parameters(pair):
    approximate, exact = pair
    box = np.asarray(exact.parameter_bounds)
    free = box[:, 1] > box[:, 0]
    grid = np.random.default_rng(3).uniform(*box.T, size=(2**18, exact.n_params))
    weight = np.asarray(exact.nll(grid))
    weight = np.exp(weight.min() - weight)
    weight /= weight.sum()
    mean, size = weight @ grid, 1.0 / (weight**2).sum()
    width = np.sqrt(weight @ (grid - mean) ** 2)
    assert size > 100
    chains = sample(approximate, exact, 1500, n_chains=4, n_warmup=300, seed=1)
    assert chains.parameter_names == exact.parameter_names and chains.acceptance > 0.9
    pull = ((chains.params.mean((0, 1)) - mean) / width)[free]
    assert np.abs(pull).max() < 4.0 / np.sqrt(size) + 0.15, pull
    density = log_density(exact, approximate)
    z = density.unbounded(chains.params[0, 0])
    np.testing.assert_allclose(density.params(z), chains.params[0, 0], rtol=1e-8)


def test_minima_where_nothing_was_trained_do_not_count(surrogate):
    # There a network may fall without bound.
    inside = np.asarray(surrogate.minimum)
    next_to, far = np.array(inside), np.array(inside)
    place = surrogate.parameter_names.index("shape")
    low, high = np.asarray(surrogate.parameter_bounds)[place]
    next_to[place], far[place] = high + 0.02 * (high - low), high + 2.0 * (high - low)

    def picked(*points):
        zeros = np.zeros(len(points))
        y, value = np.stack(points), -np.arange(len(points), dtype=float)  # the later, the lower
        minima = Minimum(y, value, y, y, zeros, zeros, zeros, zeros)
        return _lowest(surrogate, minima).y

    assert np.array_equal(picked(inside, next_to, far), inside)
    assert np.array_equal(picked(next_to, far), next_to)
    assert np.array_equal(picked(far, 1.1 * far), 1.1 * far)


def test_integers_are_numbers(model, surrogate, pair):
    whole = np.array([0, 1, 0, 1, 1])
    assert float(surrogate.nll(jnp.asarray(whole))) == pytest.approx(
        float(surrogate.nll(whole.astype(float))), rel=1e-6
    )
    assert float(pair[1].nll(jnp.asarray(whole))) == pytest.approx(float(pair[1].nll(whole.astype(float))), rel=1e-12)


def test_fixed_parameters_stay():
    spec = {**SPEC, "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": FIXED}}]}
    model = nextstat.from_pyhf(spec)
    other = reparametrize(model, {"c": (-1.0, 1.0)}, lambda x: {"mu": 1.0 + x[0]})
    best, expected = fit(other), nextstat.fit(model)
    place = other.parameter_names.index("norm")
    assert float(best.params[place]) == 0.5 and bool(best.fixed[place])
    assert 1 + float(best.params[0]) == pytest.approx(float(expected.mu), abs=1e-6)
    assert float(best.uncertainties[0]) == pytest.approx(float(expected.mu_uncertainty), rel=1e-5)
    with pytest.raises(DatasetError, match="'norm', which is fixed"):
        reparametrize(model, {"c": (-1.0, 1.0)}, lambda x: {"norm": x[0]})


GOOD = {"c": (0.0, 1.0)}
BAD = [
    (3.0, lambda x: {"mu": x[0]}, "parameters: give a mapping"),
    ({"c": (1.0, 0.0)}, lambda x: {"mu": x[0]}, r"parameters\['c'\]=\(1, 0\): expected finite bounds"),
    ({"c": 1.0}, lambda x: {"mu": x[0]}, r"parameters\['c'\]=1.0: expected \(lower, upper\)"),
    ({"mu": (0.0, 1.0)}, lambda x: {"mu": x[0]}, "'mu' is a parameter of the likelihood already"),
    (GOOD, "mu", "function is a str"),
    (GOOD, lambda x: x, "function returns no mapping"),
    (GOOD, lambda x: {"nu": x[0]}, "'nu', which is no parameter"),
    (GOOD, lambda x: {"mu": x}, r"'mu' of shape \(1,\): expected a real scalar"),
    (GOOD, lambda x: {"mu": x[0] + 1j}, r"'mu' of shape \(\): expected a real scalar"),
    (GOOD, lambda x: {"mu": np.sin(x)[0]}, "function cannot be traced by JAX: TracerArrayConversionError"),
    (GOOD, lambda x, y: {"mu": x[0]}, "function cannot be traced by JAX: TypeError"),
    ({1: (0.0, 1.0)}, lambda x: {"mu": x[0]}, "parameters: 1 is no name"),
]


@pytest.mark.parametrize(("parameters", "function", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_substitutions(model, parameters, function, message):
    with pytest.raises(DatasetError, match=message):
        reparametrize(model, parameters, function)


def test_bad_arguments(model, surrogate, pair):
    approximate, exact = pair
    with pytest.raises(DatasetError, match="expected a surrogate or a model, found dict"):
        fit(SPEC)
    with pytest.raises(DatasetError, match="there is no parameter 'nu'"):
        fit(surrogate, fixed={"nu": 1.0})
    for value in (99.0, "a", None, np.nan):
        with pytest.raises(DatasetError, match=r"fixed\['mu'\]=.*expected a number within its bounds"):
            fit(surrogate, fixed={"mu": value})
    with pytest.raises(DatasetError, match="goes with a model"):
        log_density(surrogate, model)
    with pytest.raises(DatasetError, match=r"init has shape \(2,\): expected 5 finite numbers"):
        fit(surrogate, init=[1.0, 2.0])
    with pytest.raises(DatasetError, match="n_starts=0"):
        fit(surrogate, n_starts=0)
    for parameter, values, message in (
        ("nu", [1.0], "there is no 'nu'"),
        ("mu", [99.0], r"values of mu: give a list of numbers within its bounds"),
        (("mu", "mu"), [[1.0], [1.0]], "expected one name, or two different ones"),
        (("mu", "norm"), [[1.0]], "give a list of 2 arrays"),
        ("mu", 1.0, "values of mu: give a list of numbers"),
        ("mu", ["a"], "values of mu: give a list of numbers"),
    ):
        with pytest.raises(DatasetError, match=message):
            profile_scan(surrogate, parameter, values)
    with pytest.raises(DatasetError, match="expected a reparametrized surrogate"):
        sample(surrogate, exact)
    other = reparametrize(model, {**COUPLING, "c": (-1.0, 1.0)}, FUNCTION, surrogate=surrogate)
    with pytest.raises(DatasetError, match="other parameters or bounds"):
        sample(approximate, other)
    other = reparametrize(model, COUPLING, Strength(2.0, 1.4), surrogate=surrogate)
    with pytest.raises(DatasetError, match="by different functions"):
        sample(approximate, other)
    with pytest.raises(DatasetError, match=r"params has shape \(3,\)"):
        exact.nll(jnp.zeros(3))
    with pytest.raises(DatasetError, match="surrogate= is none of this model"):
        reparametrize(model, GOOD, FUNCTION, surrogate=model)
    assert repr(approximate) == "Reparametrized surrogate: c, shift in place of 2 parameters; 3 kept"
