"""Written-out derivatives against automatic ones and against finite differences, over models and codes."""

from __future__ import annotations

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._likelihood import _derivatives, _histfactory
from tests.building import histosys, normfactor, normsys, one_channel, sample, shapefactor, staterror
from tests.conftest import OWN
from tests.selection import mostly_slow

MODELS = ["all_modifiers", "configured", "shared", "corners", "no_poi", "unconstrained", "one_shapesys"]


@cache
def model_of(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nextstat.from_pyhf(OWN / f"{name}.json", **options)


def hessian_of(likelihood, params, data, walls=None):
    return likelihood.hessian(params, data, walls).dense()


@cache
def compiled():
    plain_gradient = jax.jit(lambda *a: jax.grad(_histfactory.deviance, argnums=1)(*a))
    plain_hessian = jax.jit(lambda *a: jax.hessian(_histfactory.deviance, argnums=1)(*a))
    return plain_gradient, plain_hessian, jax.jit(_derivatives.value_and_gradient), jax.jit(hessian_of)


def points(model, seed=0):
    """Inside the bounds; on kinks; with every factor at zero; beyond +-1."""
    rng = np.random.default_rng(seed)
    k = model.likelihood
    lower, upper = np.asarray(k.lower), np.asarray(k.upper)
    init = np.asarray(k.init)
    yield init
    yield np.clip(init + 0.3 * rng.normal(size=init.shape), lower, upper)
    yield np.clip(init + 1.5 * rng.normal(size=init.shape), lower, upper)
    constrained = np.array([p.constraint == "normal" and p.init == 0 for p in model.parameters()])
    yield np.where(constrained, 1.0, init)
    yield np.where(constrained, -1.0, init)
    if model.poi_index is not None:
        at_zero = np.clip(init + 0.2 * rng.normal(size=init.shape), lower, upper)
        at_zero[model.poi_index] = 0.0
        yield at_zero


def assert_same(actual, expected, rtol):
    scale = max(float(jnp.abs(expected).max()), 1.0)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("name", mostly_slow(MODELS, "all_modifiers", "corners"))
def test_written_out_derivatives_equal_automatic_ones(name):
    model = model_of(name)
    plain_gradient, plain_hessian, value_and_gradient, hessian = compiled()
    for point in points(model):
        args = (model.likelihood, jnp.asarray(point), model.observed_data)
        value, gradient = value_and_gradient(*args)
        if np.isfinite(value):
            assert_same(gradient, plain_gradient(*args), 1e-12)
            assert_same(hessian(*args), plain_hessian(*args), 1e-11)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("factor_code", mostly_slow(["code1", "code4"], "code1"))
@pytest.mark.parametrize("shift_code", mostly_slow(["code0", "code2", "code4p"], "code0"))
@pytest.mark.filterwarnings("ignore:histosys='code2' jumps")
def test_codes_and_clips(factor_code, shift_code):
    spec = one_channel(
        [
            sample(
                "s", [5.0, -1.0], normfactor("mu"), normsys("a", 0.9, 1.15), histosys("a", [3.5, -2.0], [6.0, -0.5])
            ),
            sample(
                "b",
                [20.0, 30.0],
                normsys("a", 0.95, 1.1),
                histosys("a", [18.0, 28.5], [23.0, 31.0]),
                normsys("c", 0.8, 1.1),
            ),
        ],
        [24.0, 33.0],
    )
    options = {"normsys": factor_code, "histosys": shift_code}
    for clips in ({}, {"clip_sample_data": 0.0}, {"clip_bin_data": 25.0}):
        model = nextstat.from_pyhf(spec, **options, **clips)
        assert model.parameter_names() == ["a", "mu", "c"]
        plain_gradient, plain_hessian, value_and_gradient, hessian = compiled()
        for alpha in (-1.7, -0.4, 0.3, 1.4):
            point = jnp.array([alpha, 1.2, 0.5 * alpha + 0.1])
            args = (model.likelihood, point, model.observed_data)
            value, gradient = value_and_gradient(*args)
            assert np.isfinite(value)
            assert_same(gradient, plain_gradient(*args), 1e-12)
            assert_same(hessian(*args), plain_hessian(*args), 1e-11)


def test_two_gammas_on_one_cell():
    spec = one_channel(
        [
            sample("s", [5.0, 3.0], normfactor("mu"), staterror("one", [0.5, 0.4]), shapefactor("two")),
            sample("b", [20.0, 30.0], staterror("one", [1.0, 2.0]), normsys("k", 0.8, 1.1)),
        ],
        [24.0, 33.0],
    )
    model = nextstat.from_pyhf(spec)
    plain_gradient, plain_hessian, value_and_gradient, hessian = compiled()
    for seed in range(3):
        point = model.parameter_init() * 1.1 + 0.1 * jnp.asarray(
            np.random.default_rng(seed).normal(size=model.n_params)
        )
        args = (model.likelihood, point, model.observed_data)
        assert_same(value_and_gradient(*args)[1], plain_gradient(*args), 1e-12)
        assert_same(hessian(*args), plain_hessian(*args), 1e-11)


def test_gradient_against_finite_differences():
    model = model_of("all_modifiers")
    point = list(points(model))[1]
    step = 1e-6

    def nll(y):
        return float(model.nll(y))

    numeric = [(nll(point + step * e) - nll(point - step * e)) / (2 * step) for e in np.eye(len(point))]
    np.testing.assert_allclose(model.grad_nll(point), numeric, rtol=1e-6, atol=1e-6)  # differences: 1e-16 * 100 / 1e-6
    np.testing.assert_allclose(jax.grad(model.nll)(jnp.asarray(point)), model.grad_nll(point), rtol=1e-12, atol=1e-12)
    numeric = np.array(
        [(model.grad_nll(point + step * e) - model.grad_nll(point - step * e)) / (2 * step) for e in np.eye(len(point))]
    )
    np.testing.assert_allclose(model.hessian(point), numeric, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(jax.hessian(model.nll)(jnp.asarray(point)), model.hessian(point), rtol=1e-9, atol=1e-9)


def test_derivative_with_respect_to_data_and_model():
    model = model_of("all_modifiers")
    point = jnp.asarray(list(points(model))[1])
    data = model.observed_data * 1.05
    step = 1e-6
    got = jax.grad(lambda d: model.nll(point, d))(data)
    numeric = [
        (float(model.nll(point, data + step * e)) - float(model.nll(point, data - step * e))) / (2 * step)
        for e in np.eye(len(data))
    ]
    np.testing.assert_allclose(got, numeric, rtol=1e-6, atol=1e-6)
    slope = jax.grad(lambda m: m.nll(point))(model)
    assert isinstance(slope, nextstat.HistFactoryModel)
    k = model.likelihood
    for leaf in ("nominal", "widths", "shifts", "factors", "tau"):
        array = np.asarray(getattr(k, leaf))
        where = np.unravel_index(np.argmax(np.abs(np.asarray(getattr(slope.likelihood, leaf)))), array.shape)
        values = []
        for sign in (1, -1):
            changed = array.copy()
            changed[where] += sign * step
            moved = nextstat.HistFactoryModel(
                jax.tree.unflatten(
                    jax.tree.structure(k),
                    [jnp.asarray(changed) if x is getattr(k, leaf) else x for x in jax.tree.leaves(k)],
                ),
                model.names,
            )
            values.append(float(moved.nll(point)))
        numeric = (values[0] - values[1]) / (2 * step)
        assert float(getattr(slope.likelihood, leaf)[where]) == pytest.approx(numeric, rel=1e-5, abs=1e-6), leaf


def test_batch_and_jit_agree_with_single_calls():
    model = model_of("shared")
    batch = jnp.stack([jnp.asarray(p) for p in points(model)])
    values = jax.vmap(model.nll)(batch)
    gradients = jax.vmap(jax.grad(model.nll))(batch)
    jitted = jax.jit(lambda m, p: m.nll(p))
    for k, point in enumerate(batch):
        np.testing.assert_allclose(values[k], model.nll(point), rtol=1e-13)
        np.testing.assert_allclose(jitted(model, point), model.nll(point), rtol=1e-13)
        np.testing.assert_allclose(gradients[k], model.grad_nll(point), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("observed", [[0.0, 3.0], [2.0, 0.0]])
def test_outside_the_domain_values_are_infinite_and_gradients_finite(observed):
    # At alpha = -5 the first bin's rate is 10 - 5 * 2.5 < 0.
    spec = one_channel(
        [sample("s", [0.0, 1.0], normfactor("mu")), sample("b", [10.0, 5.0], histosys("a", [7.5, 5.0], [12.5, 5.0]))],
        observed,
    )
    model = nextstat.from_pyhf(spec)
    point = jnp.array([-5.0, 0.0])
    assert np.isposinf(model.nll(point))
    assert np.isfinite(model.grad_nll(point)).all()
    assert np.isfinite(jax.grad(model.nll)(point)).all()
    zero = jnp.array([-4.0, 0.0])  # rate exactly 0
    expected = np.inf if observed[0] else 5.0 + 8.0 + 0.5 * np.log(2 * np.pi)
    if observed[1]:
        expected += -3.0 * np.log(5.0) + np.log(6.0)
    assert float(model.nll(zero)) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(model.grad_nll(zero)).all()
