"""Losses of a signal histogram: their values, gradients and batches, and wrong input."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._training import _sessions as sessions
from tests.training.support import spec_of


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec_of())


HISTOGRAM = np.array([1.2, 3.0, 6.5])  # CR before SR


def refit(histogram, statistic):
    """The oracle: a workspace edited and read anew."""
    h = [float(x) for x in histogram]
    return float(statistic(nextstat.from_pyhf(spec_of(signal=(h[1:], h[:1])))))


@pytest.mark.slow
def test_losses_equal_edited_workspaces(model):
    session = nextstat.create_profiled_session(model, "signal")
    assert session.n_bins == 3
    assert session.n_params == model.n_params
    h = jnp.asarray(HISTOGRAM)
    assert float(nextstat.profiled_q0_loss(h, session)) == pytest.approx(refit(h, nextstat.q0), rel=1e-8)
    assert float(nextstat.profiled_z0_loss(h, session)) == pytest.approx(refit(h, nextstat.z0), rel=1e-8)
    for mu in (1.5, 3.0):
        expected = refit(h, lambda m, mu=mu: nextstat.qmu_tilde(m, mu))
        assert float(nextstat.profiled_qmu_loss(h, session, mu)) == pytest.approx(expected, rel=1e-8, abs=1e-10)
        zmu = float(nextstat.profiled_zmu_loss(h, session, mu, eps=0.0))
        assert zmu == pytest.approx(np.sqrt(expected), rel=1e-8, abs=1e-10)
    params = model.parameter_init() * 1.1
    nll = float(nextstat.nll_loss(h, nextstat.create_session(model, "signal"), params))
    assert nll == pytest.approx(refit(h, lambda m: m.nll(params)), rel=1e-12)
    assert float(nextstat.nll_loss(h, session)) == pytest.approx(
        refit(h, lambda m: m.nll(m.parameter_init())), rel=1e-12
    )


@pytest.mark.slow
def test_gradients_against_refits(model):
    session = nextstat.create_profiled_session(model, "signal")
    step = 1e-3
    cases = {
        "q0": (lambda h: nextstat.profiled_q0_loss(h, session), nextstat.q0),
        "qmu": (lambda h: nextstat.profiled_qmu_loss(h, session, 3.0), lambda m: nextstat.qmu_tilde(m, 3.0)),
    }
    for name, (loss, statistic) in cases.items():
        got = jax.jit(jax.grad(loss))(jnp.asarray(HISTOGRAM))
        for i, e in enumerate(np.eye(3)):
            ends = [refit(HISTOGRAM + k * step * e, statistic) for k in (-2, -1, 1, 2)]
            expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
            assert float(got[i]) == pytest.approx(expected, rel=1e-6, abs=1e-8), name


def test_significance_loss(model):
    loss = nextstat.SignificanceLoss(model, "signal")
    h = jnp.asarray(HISTOGRAM)
    assert loss.n_bins == 3
    assert loss.n_params == model.n_params
    assert float(loss(h)) == pytest.approx(-float(loss.z0(h)))
    assert float(loss.q0(h)) == pytest.approx(float(loss.z0(h)) ** 2, abs=1e-9)
    assert float(nextstat.SignificanceLoss(model, "signal", negate=False)(h)) == -float(loss(h))
    assert float(nextstat.SignificanceLoss(model, "signal", eps=0.25).z0(h)) == pytest.approx(
        np.sqrt(float(loss.q0(h)) + 0.25)
    )
    batch = jax.jit(jax.vmap(loss))(jnp.stack([h, 1.5 * h, 0.5 * h]))
    np.testing.assert_allclose(batch, [float(loss(k * h)) for k in (1.0, 1.5, 0.5)], rtol=1e-7)


def test_asimov_data_follow_the_templates(model):
    h = jnp.asarray(HISTOGRAM)
    loss = nextstat.SignificanceLoss(model, "signal", data="asimov")
    changed = model.with_templates({"signal": h})
    assert float(-loss(h)) == pytest.approx(float(nextstat.z0(changed, data=changed.asimov_data(mu=1.0))), rel=1e-8)
    given = nextstat.SignificanceLoss(model, "signal", data=[60.0, 30.0, 25.0])
    assert float(given.q0(h)) == pytest.approx(float(nextstat.q0(changed, data=[60.0, 30.0, 25.0])), rel=1e-8)


@pytest.mark.slow
def test_gradients_are_finite_without_signal_and_with_a_deficit(model):
    low = nextstat.from_pyhf(spec_of(observed=((15.0, 10.0), (48.0,))))
    for chosen in (model, low):
        loss = nextstat.SignificanceLoss(chosen, "signal")
        for h in (HISTOGRAM, np.full(3, 1e-9), np.zeros(3)):
            with jax.debug_nans(False):
                value, slope = jax.value_and_grad(loss)(jnp.asarray(h))
            assert np.isfinite(value)
            assert np.isfinite(slope).all()
    assert float(nextstat.SignificanceLoss(low, "signal").q0(jnp.asarray(HISTOGRAM))) == 0.0


@pytest.mark.slow
def test_mappings_let_the_whole_analysis_depend_on_a_network(model):
    loss = nextstat.SignificanceLoss(model, "signal", data="asimov")

    def total(x):
        return loss(
            {
                "signal": jnp.asarray(HISTOGRAM) * x[0],
                ("bkg", "SR"): jnp.array([20.0, 15.0]) * x[1],
                ("bkg", "jes", "hi"): jnp.array([22.5, 16.5]) * x[2],
                ("bkg", "jes", "lo"): jnp.array([18.0, 14.0]) * x[3],
                ("signal", "stat"): jnp.array([0.3, 0.5]) * x[4],
            }
        )

    x = jnp.ones(5)
    slope = jax.jit(jax.grad(total))(x)
    total = jax.jit(total)
    for i, e in enumerate(np.eye(5)):
        numeric = (float(total(x + 1e-4 * e)) - float(total(x - 1e-4 * e))) / 2e-4
        assert float(slope[i]) == pytest.approx(numeric, rel=1e-5, abs=1e-7)
    assert (np.abs(np.asarray(slope)) > 1e-6).all()


@pytest.mark.slow
def test_a_warm_start_saves_steps_and_changes_nothing(model):
    h = jnp.asarray(HISTOGRAM)
    for data in ("observed", "asimov"):
        cold = nextstat.create_profiled_session(model, "signal", data=data)
        warm = nextstat.warm_start(cold, 1.02 * h)
        assert warm.start.shape == (model.n_params,)
        for loss in (nextstat.profiled_q0_loss, lambda x, s: nextstat.profiled_qmu_loss(x, s, 3.0)):
            (a, da), (b, db) = (jax.value_and_grad(loss)(h, s) for s in (cold, warm))
            assert float(a) == pytest.approx(float(b), rel=1e-9)
            np.testing.assert_allclose(da, db, rtol=1e-7, atol=1e-10)
    steps = [
        int(nextstat.fit(model.with_templates({"signal": h}), init=start).n_iter)
        for start in (None, nextstat.warm_start(nextstat.create_session(model), 1.001 * h).start)
    ]
    assert steps[1] < steps[0]
    slope = jax.grad(lambda x: nextstat.profiled_q0_loss(h, nextstat.warm_start(cold, x)))(h)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-12)


def test_plain_and_tilde_statistics_have_their_own_names(model):
    h = jnp.asarray(HISTOGRAM)
    low = nextstat.from_pyhf(spec_of(observed=((15.0, 10.0), (48.0,)))).replace_bounds("mu", lower=-10.0)
    session = nextstat.create_profiled_session(low, "signal")
    changed = low.with_templates({"signal": h})
    for mu in (0.5, 2.0):
        for name, statistic in (("plain", nextstat.qmu), ("tilde", nextstat.qmu_tilde)):
            q, z = (getattr(sessions, f"profiled_{letter}mu_{name}_loss") for letter in "qz")
            expected = float(statistic(changed, mu))
            assert float(q(h, session, mu)) == pytest.approx(expected, rel=1e-12)
            assert float(z(h, session, mu, eps=0.25)) == pytest.approx(np.sqrt(expected + 0.25), rel=1e-12)
    plain, tilde = (f(h, session, 2.0) for f in (sessions.profiled_qmu_plain_loss, sessions.profiled_qmu_tilde_loss))
    # A signal that may be negative fits a deficit better, which excludes more.
    assert float(plain) > 1.1 * float(tilde)
    assert float(nextstat.profiled_qmu_loss(h, session, 2.0)) == float(tilde)
    assert float(nextstat.profiled_zmu_loss(h, session, 2.0)) == float(
        sessions.profiled_zmu_tilde_loss(h, session, 2.0)
    )
    for name in ("qmu", "zmu"):
        assert "tilde" in getattr(nextstat, f"profiled_{name}_loss").__doc__.split("\n")[0]
    # With mu at 0 or above from the start there is no difference.
    session = nextstat.create_profiled_session(model, "signal")
    assert float(sessions.profiled_qmu_plain_loss(h, session, 3.0)) == pytest.approx(
        float(sessions.profiled_qmu_tilde_loss(h, session, 3.0)), rel=1e-12
    )


def test_sessions_are_frozen_pytrees(model):
    session = nextstat.create_profiled_session(model, "signal", data="asimov")
    with pytest.raises(FrozenInstanceError):
        session.sample = "bkg"
    leaves, structure = jax.tree.flatten(session)
    again = jax.tree.unflatten(structure, leaves)
    assert (again.sample, again.data_kind) == ("signal", "asimov")
    loss = jax.jit(nextstat.profiled_q0_loss)
    loss(jnp.asarray(HISTOGRAM), session)
    # Another model of the same structure compiles nothing.
    other = nextstat.create_profiled_session(
        nextstat.from_pyhf(spec_of(observed=((25.0, 20.0), (50.0,)))), data="asimov"
    )
    loss(jnp.asarray(HISTOGRAM), other)
    assert loss._cache_size() == 1


def test_numbers_of_a_loss_compile_nothing(model):
    value = jax.jit(lambda loss, h: loss(h))
    h = jnp.asarray(HISTOGRAM)
    first, second = (
        float(value(nextstat.SignificanceLoss(model, "signal", objective="zmu", mu=mu, eps=eps), h))
        for mu, eps in ((3.0, 1e-12), (4.0, 0.1))
    )
    assert first > second
    assert value._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: nextstat.SignificanceLoss(m, "sig"), "there is no sample 'sig'; samples: bkg, signal"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", data="toys"), "data='toys'"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", data=[1.0]), r"data has shape \(1,\)"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", eps=-1.0), "eps=-1.0"),
        (lambda m: nextstat.SignificanceLoss(m, "signal")(jnp.ones(4)), r"shape \(4,\), expected \(3,\)"),
        (lambda m: nextstat.SignificanceLoss(m, "signal")(jnp.full(3, jnp.nan)), "not finite"),
        (lambda m: nextstat.SignificanceLoss(m, "signal")([1.0, float("nan"), 2.0]), "not finite"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", eps=float("inf")), "eps=inf"),
        (
            lambda m: nextstat.SignificanceLoss(m, "signal")([1.0, -2.0, 2.0]),
            "'signal' is -2 in bin 1",
        ),
        (lambda m: nextstat.SignificanceLoss(m, "signal", objective="auc"), "objective='auc': expected one of z0, q0"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", level=0.05), "level=0.05: expected .* a confidence level"),
        (lambda m: nextstat.SignificanceLoss(m, "signal", mu=float("nan")), "mu=nan"),
        (lambda m: nextstat.SignificanceLoss("model", "signal"), "expected a model as from_pyhf returns it, found str"),
        (lambda m: nextstat.SignificanceLoss(m.with_poi(None), "signal"), "needs a parameter of interest"),
        (lambda m: nextstat.profiled_q0_loss(jnp.ones(3), m), "expected a session .*, not HistFactoryModel"),
        (lambda m: nextstat.warm_start(m, jnp.ones(3)), "expected a session .*, not HistFactoryModel"),
        (lambda m: nextstat.nll_loss("abc", nextstat.create_session(m)), "'abc'"),
    ],
)
def test_wrong_input_has_one_clear_line(model, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)
