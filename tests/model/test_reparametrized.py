"""Likelihoods as functions of other parameters: the chain rule, and the questions of the source as the oracle."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import FitError, ModelError
from nextstat_jax._model._reparametrized import reparametrize
from tests import building as b

SPEC = b.one_channel(
    [
        b.sample("signal", [12.0, 11.0], b.normfactor("mu"), b.normsys("norm", 0.95, 1.05)),
        b.sample(
            "background", [50.0, 52.0], b.histosys("shape", [45.0, 47.0], [55.0, 57.0]), b.shapesys("stat", [5.0, 6.0])
        ),
    ],
    [65.0, 58.0],
)
FIXED = [{"name": "norm", "fixed": True, "inits": [0.5]}]


class Curve(eqx.Module):
    """A signal strength as a function of one parameter: a parabola with dents. Other numbers compile nothing."""

    numbers: jax.Array

    def __call__(self, x):
        constant, slope, square, dents = self.numbers
        return {"mu": constant + slope * x[0] + square * x[0] ** 2 + dents * jnp.sin(6.0 * x[0]) ** 2}


def curve(model, bounds, *numbers):
    return reparametrize(model, {"c": bounds}, Curve(jnp.asarray(numbers, float))).with_poi("c")


def root(model):
    """The signal strength as a square: monotonic where the parameter is not negative."""
    return curve(model, (0.0, 3.0), 0.0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(SPEC)


@pytest.mark.slow
def test_derivatives_are_those_of_the_deviance(model):
    def strength(x):
        c, shift = x
        return {"mu": 1.0 + 2.0 * c + 1.5 * c**2, "norm": 0.3 * c + shift}

    likelihood = reparametrize(model, {"c": (-0.6, 1.2), "shift": (-0.5, 0.5)}, strength).likelihood
    data, barrier = likelihood.observed, likelihood.barrier()
    x = likelihood.init + jnp.array([0.3, 0.1, 0.2, 0.05, -0.03])
    along = jnp.array([0.5, -1.0, 0.3, 0.7, 0.2])

    @jax.jit
    def ours(x):
        hessian, third = jax.jvp(lambda y: likelihood.hessian(y, data).dense(), (x,), (along,))
        evaluation = likelihood.evaluate(x, data, barrier)
        curvatures = likelihood.curvatures(x, data, barrier)
        return likelihood.gradient(x, data), hessian, third, evaluation, [matrix.dense() for matrix in curvatures]

    @jax.jit
    def theirs(x):
        hessian, third = jax.jvp(jax.hessian(lambda y: likelihood.deviance(y, data)), (x,), (along,))
        return jax.value_and_grad(likelihood.deviance)(x, data), hessian, third

    gradient, hessian, third, evaluation, (exact, positive) = ours(x)
    (value, expected), *others = theirs(x)
    for one, other in ((gradient, expected), (hessian, others[0]), (third, others[1])):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(evaluation.value, value, rtol=1e-12)
    np.testing.assert_allclose(evaluation.gradient, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(exact, others[0], rtol=1e-10, atol=1e-9)
    assert np.linalg.eigvalsh(positive).min() > -1e-9


def test_points_outside_the_domain_are_infinite(model):
    other = reparametrize(model, {"c": (-1.0, 1.0)}, lambda x: {"mu": jnp.log(x[0])})
    likelihood = other.likelihood
    x = likelihood.init.at[0].set(-0.5)
    value, gradient, *_ = likelihood.evaluate(x, likelihood.observed, likelihood.barrier())
    assert np.isposinf(value) and np.isfinite(gradient).all()


@pytest.mark.slow
def test_questions_give_the_numbers_of_the_source(model):
    other = root(model)
    assert other.poi == "c" and other.parameter_names()[1:] == [n for n in model.parameter_names() if n != "mu"]
    mu, found = nextstat.fit(model), nextstat.fit(other)
    assert float(found["c"]) ** 2 == pytest.approx(float(mu["mu"]), rel=1e-7)
    assert float(found.nll) == pytest.approx(float(mu.nll), abs=1e-9)
    slope = 2.0 * float(found["c"])
    assert slope * float(found.mu_uncertainty) == pytest.approx(float(mu.mu_uncertainty), rel=1e-6)
    assert float(nextstat.profile(other, 1.1).nll) == pytest.approx(float(nextstat.profile(model, 1.21).nll), abs=1e-9)
    assert float(nextstat.q0(other)) == pytest.approx(float(nextstat.q0(model)), abs=1e-8)
    limits = [nextstat.upper_limit(one) for one in (other, model)]
    assert float(limits[0].observed) ** 2 == pytest.approx(float(limits[1].observed), rel=1e-5)
    np.testing.assert_allclose(np.asarray(limits[0].expected) ** 2, limits[1].expected, rtol=1e-5)
    ends = [nextstat.interval(one, name) for one, name in ((other, "c"), (model, "mu"))]
    assert float(ends[0].upper) ** 2 == pytest.approx(float(ends[1].upper), rel=1e-5)
    scans = nextstat.profile_scan(other, ("c", "shape"), [[0.5, 1.0], [0.0, 1.0, -1.0]])
    expected = nextstat.profile_scan(model, ("mu", "shape"), [[0.25, 1.0], [0.0, 1.0, -1.0]])
    np.testing.assert_allclose(scans.nll, expected.nll, atol=1e-8)


@pytest.mark.slow
def test_scan_over_a_function_with_two_solutions(model):
    # The likelihood knows c through mu only: it is symmetric around -2/3.
    low = model.with_data([51.0, 48.0])
    symmetric = curve(low, (-1.6, 0.4), 1.0, 3.0, 2.25, 0.0)
    c = np.linspace(-1.4, 0.0666, 9)
    found = nextstat.profile_scan(symmetric, "c", c)
    expected = nextstat.profile_scan(low, "mu", (1 + 1.5 * c) ** 2)
    np.testing.assert_allclose(found.delta, expected.delta, atol=1e-7)
    mirrored = nextstat.profile_scan(symmetric, "c", -4.0 / 3.0 - c)
    np.testing.assert_allclose(found.delta, mirrored.delta, atol=1e-7)
    assert abs((1 + 1.5 * float(found.best[0])) ** 2 - float(expected.best[0])) < 1e-6


def test_the_lower_of_several_minima_is_found(model):
    # In c the NLL has a minimum in each of several dents.
    best = float(nextstat.fit(model)["mu"])
    numbers = best + 0.3 * 1.6**2, -0.6 * 1.6, 0.3, 2.0
    found = nextstat.fit(curve(model, (-2.0, 2.0), *numbers))
    grid = np.linspace(-2, 2, 4001)
    lowest = np.abs(2.0 * np.sin(6.0 * grid) ** 2 + 0.3 * (grid - 1.6) ** 2).min()
    expected = nextstat.profile(model, best + lowest).nll
    assert float(found.nll) == pytest.approx(float(expected), abs=1e-5)
    assert "another minimum" in found.message or np.isfinite(found.next_minimum)


def test_bins_without_counts_have_their_walls():
    spec = b.one_channel(
        [
            b.sample("signal", [5.0, 1.0], b.normfactor("mu")),
            b.sample("background", [20.0, 2.0], b.normsys("k", 0.9, 1.1)),
        ],
        [10.0, 0.0],
        parameters=[{"name": "mu", "bounds": [[-10.0, 10.0]]}],
    )
    model = nextstat.from_pyhf(spec)
    other = curve(model, (-5.0, 5.0), 0.0, 2.0, 0.0, 0.0)
    best, expected = nextstat.fit(other), nextstat.fit(model)
    # The minimum lies on the wall of the empty bin.
    assert float(model.expected_data(expected.params)[1]) < 1e-6
    assert 2.0 * float(best["c"]) == pytest.approx(float(expected["mu"]), rel=1e-6)
    assert float(best.nll) == pytest.approx(float(expected.nll), abs=1e-7)


@pytest.mark.slow
def test_derivatives_of_fits(model):
    data = np.asarray(model.observed_data)

    def center(step):
        """The best fit of c as one of the function's numbers and the data move."""
        other = curve(model, (0.0, 3.0), 0.0, 0.3 * step, 1.0, 0.0)
        return nextstat.fit(other, data=jnp.asarray(data).at[0].add(step)).params[0]

    h = 1e-4
    numeric = (center(h) - center(-h)) / (2 * h)
    assert float(jax.jacfwd(center)(0.0)) == pytest.approx(float(numeric), rel=1e-5)


def test_fixed_parameters_stay():
    spec = {**SPEC, "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": FIXED}}]}
    model = nextstat.from_pyhf(spec)
    other = curve(model, (-1.0, 1.0), 1.0, 1.0, 0.0, 0.0)
    best, expected = nextstat.fit(other), nextstat.fit(model)
    assert float(best["norm"]) == 0.5 and bool(best.fixed[other.index("norm")])
    assert 1 + float(best.params[0]) == pytest.approx(float(expected.mu), abs=1e-6)
    assert float(best.uncertainties[0]) == pytest.approx(float(expected.mu_uncertainty), rel=1e-5)
    held = nextstat.fit(other, fixed={"c": 0.3})
    assert float(held.nll) == pytest.approx(float(nextstat.fit(model, fixed={"mu": 1.3}).nll), abs=1e-9)
    with pytest.raises(ModelError, match="'norm', which is fixed"):
        reparametrize(model, {"c": (-1.0, 1.0)}, lambda x: {"norm": x[0]})


def test_a_function_of_a_function(model):
    once = root(model)
    twice = reparametrize(once, {"g": (0.0, 1.0)}, lambda x: {"c": 2.0 * x[0]})
    x = jnp.append(0.4, once.parameter_init()[1:])
    assert float(twice.nll(x)) == pytest.approx(float(model.nll(once.params(twice.params(x)))), rel=1e-12)
    slopes = jax.jacfwd(lambda y: once.params(twice.params(y)))(x)
    expected = slopes.T @ model.grad_nll(once.params(twice.params(x)))
    np.testing.assert_allclose(twice.grad_nll(x), expected, rtol=1e-10, atol=1e-10)


def test_data_and_the_parameter_of_interest(model):
    kept = reparametrize(model, {"c": (-1.0, 1.0)}, lambda x: {"norm": x[0]})
    assert kept.poi == "mu" and kept.poi_index == kept.index("mu") and root(model).with_poi(None).poi_index is None
    assert reparametrize(model, {"c": (0.0, 1.0)}, lambda x: {"mu": x[0]}).poi is None
    with pytest.raises(FitError, match="there is no parameter 'mu'"):
        root(model).with_poi("mu")
    with pytest.raises(ModelError, match="needs a parameter of interest"):
        nextstat.q0(root(model).with_poi(None))
    x = kept.parameter_init().at[0].set(0.4)
    np.testing.assert_allclose(kept.expected_data(x), model.expected_data(kept.params(x)))
    other = np.asarray(model.observed_data) + 1.0
    expected = float(model.nll(kept.params(x), other))
    assert float(kept.nll(x, other)) == pytest.approx(expected, rel=1e-12)
    assert float(kept.with_data(other).nll(x)) == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(kept.with_data(other).observed_data, other)
    key = jax.random.key(3)
    np.testing.assert_array_equal(kept.likelihood.throw(x, key), model.likelihood.throw(kept.params(x), key))
    value, width = kept.likelihood.constraints(model.observed_data)
    assert width[0] == 0 and width[kept.index("shape")] == 1 and value.shape == (kept.n_params,)


def test_bounds_of_another_model(model):
    narrow = model.replace_bounds("shape", -1.0, 1.0)
    other = reparametrize(model, {"c": (0.0, 1.0)}, lambda x: {"mu": x[0]}, surrogate=narrow)
    assert other.parameter_bounds()[other.index("shape")].tolist() == [-1.0, 1.0]
    odd = nextstat.from_pyhf(b.one_channel([b.sample("s", [5.0], b.normfactor("nu"))], [5.0], poi="nu"))
    with pytest.raises(ModelError, match="surrogate= is none of this model"):
        reparametrize(model, {"c": (0.0, 1.0)}, lambda x: {"mu": x[0]}, surrogate=odd)


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
    with pytest.raises(ModelError, match=message):
        reparametrize(model, parameters, function)
    with pytest.raises(ModelError, match="expected a model"):
        reparametrize(SPEC, parameters, function)
