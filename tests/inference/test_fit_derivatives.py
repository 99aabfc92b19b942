"""Derivatives of minima: forward and reverse mode against central differences, on bounds and on walls too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests.building import histosys, normfactor, normsys, one_channel, sample, shapesys, staterror

STEP = 1e-4


def differences(function, x, step=STEP):
    """Central differences along each entry, fourth order."""
    x = np.asarray(x, np.float64)
    columns = []
    for e in np.eye(x.size):
        values = [np.asarray(function(jnp.asarray(x + k * step * e))) for k in (-2, -1, 1, 2)]
        columns.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
    return np.stack(columns, -1)


def assert_close(actual, expected, rtol=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * max(np.abs(expected).max(), 1e-3))


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(
        one_channel(
            [
                sample("signal", [3.0, 6.0, 2.0], normfactor("mu"), staterror("mc", [0.3, 0.5, 0.2])),
                sample(
                    "bkg",
                    [30.0, 25.0, 20.0],
                    normsys("xs", 0.9, 1.12),
                    histosys("jes", [28.0, 24.5, 20.5], [33.0, 26.0, 19.0]),
                    staterror("mc", [1.0, 0.9, 0.8]),
                ),
                sample("other", [5.0, 4.0, 3.0], shapesys("free", [1.0, 0.8, 0.9])),
            ],
            [42.0, 39.0, 27.0],
        )
    )


SLOW = {"excess": (), "deficit (mu on its bound)": pytest.mark.slow}
DATA = {"excess": [42.0, 39.0, 27.0], "deficit (mu on its bound)": [35.0, 24.0, 21.0]}


@pytest.fixture(scope="module")
def of_data(model):
    """Answers of a fit as a function of the data, with both Jacobians, compiled once."""

    def answers(d):
        fit = nextstat.fit(model, data=d)
        return jnp.concatenate([fit.params, fit.uncertainties, fit.nll[None]])

    return jax.jit(answers), jax.jit(jax.jacrev(answers)), jax.jit(jax.jacfwd(answers))


@pytest.fixture(scope="module")
def of_templates(model):
    """Test statistics as a function of templates and data, with both Jacobians, compiled once."""

    def answers(x, data):
        changed = model.with_templates({"signal": x[:3], "bkg": x[3:]})
        return jnp.stack(
            [
                nextstat.q0(changed, data=data),
                nextstat.z0(changed, data=data),
                nextstat.qmu_tilde(changed, 1.3, data=data),
                nextstat.fit(changed, data=data).mu_uncertainty,
            ]
        )

    return jax.jit(answers), jax.jit(jax.jacrev(answers)), jax.jit(jax.jacfwd(answers))


@pytest.mark.slow
@pytest.mark.parametrize("main", DATA.values(), ids=DATA)
def test_fit_with_respect_to_data(model, of_data, main):
    data = jnp.concatenate([jnp.asarray(main), model.observed_data[model.n_bins :]])
    answers, reverse, forward = of_data
    expected = differences(answers, data)
    assert_close(reverse(data), expected)
    assert_close(forward(data), expected)


@pytest.mark.parametrize("main", [pytest.param(x, id=k, marks=SLOW[k]) for k, x in DATA.items()])
@pytest.mark.slow
def test_statistics_with_respect_to_templates(model, of_templates, main):
    data = jnp.concatenate([jnp.asarray(main), model.observed_data[model.n_bins :]])
    templates = jnp.concatenate([model.template("signal"), model.template("bkg")])
    answers, reverse, forward = of_templates
    expected = differences(lambda x: answers(x, data), templates)
    if float(answers(templates, data)[0]) == 0:
        # On the bound q0 vanishes, and differences of its root are rounding.
        expected[1] = 0.0
    assert_close(reverse(templates, data), expected)
    assert_close(forward(templates, data), expected)


@pytest.mark.slow
def test_second_derivative_of_q0(model):
    signal = model.template("signal")
    gradient = jax.jit(jax.grad(lambda s: nextstat.q0(model.with_templates({"signal": s}))))
    expected = differences(gradient, signal)
    hessian = jax.jit(jax.hessian(lambda s: nextstat.q0(model.with_templates({"signal": s}))))(signal)
    assert_close(hessian, expected, rtol=1e-5)
    assert np.abs(np.asarray(hessian)).max() > 1e-4


@pytest.mark.slow
def test_conditional_fit_with_respect_to_mu(model):
    def answers(mu):
        got = nextstat.profile(model, mu[0])
        return jnp.concatenate([got.params, got.nll[None], nextstat.qmu(model, mu[0])[None]])

    answers = jax.jit(answers)
    mu = jnp.array([2.5])
    expected = differences(answers, mu)
    assert_close(jax.jacrev(answers)(mu), expected)
    assert_close(jax.jacfwd(answers)(mu), expected)


@pytest.mark.slow
def test_fixed_value_with_respect_to_itself(model):
    slope = jax.jacrev(lambda x: nextstat.fit(model, fixed={"jes": x}).params)(jnp.array(0.3))
    assert float(slope[model.index("jes")]) == pytest.approx(1.0, abs=1e-12)
    assert np.abs(np.asarray(slope)).max() > 1.0 - 1e-12


@pytest.mark.slow
def test_gradient_with_respect_to_the_model_is_a_model(model):
    slope = jax.grad(nextstat.q0)(model)
    assert isinstance(slope, nextstat.HistFactoryModel)
    cell = 1  # "bkg" comes first among the samples: its second bin

    def moved(x):
        nominal = model.likelihood.nominal.at[cell].set(x[0])
        leaves = [nominal if leaf is model.likelihood.nominal else leaf for leaf in jax.tree.leaves(model)]
        return nextstat.q0(jax.tree.unflatten(jax.tree.structure(model), leaves))

    expected = differences(jax.jit(moved), model.likelihood.nominal[cell : cell + 1])
    assert float(slope.likelihood.nominal[cell]) == pytest.approx(float(expected[0]), rel=1e-6)


@pytest.mark.slow
def test_minimum_on_a_wall():
    # The last bin has no counts and a rate that falls through zero inside the bounds: the minimum lies on rate 0.
    model = nextstat.from_pyhf(
        one_channel(
            [
                sample("signal", [1.0, 1.0], normfactor("mu")),
                sample("bkg", [50.0, 1.0], histosys("a", [70.0, 0.3], [30.0, 1.7]), normsys("k", 0.9, 1.1)),
            ],
            [100.0, 0.0],
        )
    )
    fit = nextstat.fit(model)
    assert bool(fit.converged), fit.message
    rate = float(model.expected_data(fit.params)[1])
    assert 0 <= rate < 1e-6
    assert np.isfinite(float(model.nll(fit.params)))

    @jax.jit
    def answers(n):
        got = nextstat.fit(model, data=jnp.stack([n[0], jnp.zeros(())]))
        return jnp.concatenate([got.params, got.nll[None]])

    n = jnp.array([100.0])
    expected = differences(answers, n, step=1e-2)
    assert_close(jax.jacfwd(answers)(n), expected, rtol=1e-5)
    assert_close(jax.jacrev(answers)(n), expected, rtol=1e-5)


@pytest.mark.slow
def test_no_derivative_compiles_the_minimizer_again(model):
    data = model.observed_data + 1.0
    nextstat.fit(model, data=data)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **about: (
            compiled.append(about.get("fun_name")) if event.endswith("backend_compile_duration") else None
        )
    )
    jax.grad(lambda d: nextstat.fit(model, data=d).mu)(data)
    jax.jvp(lambda d: nextstat.fit(model, data=d).mu_uncertainty, (data,), (jnp.ones_like(data),))
    assert any("settled" in str(name) for name in compiled), "the listener hears nothing"
    # What makes fits: on the host, and inside a program.
    assert not any(word in str(name) for name in compiled for word in ("_make", "traced"))
