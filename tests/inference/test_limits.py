"""Upper limits: pyhf's numbers, the definition, derivatives, and cases in which other tools fail."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests.building import normfactor, one_channel, sample
from tests.inference.support import central, small, yields_of

# pyhf 0.7.6, JAX backend, SciPy SLSQP at tolerance 1e-9, the POI bounded at 100: where its CLs, observed and then
# expected at -2 to +2 standard deviations, is 0.05; found with SciPy's brentq at xtol = rtol = 1e-7.
PYHF = {
    "simple": (2.132476, 0.9212412, 1.242691, 1.738223, 2.446539, 3.329026),
    "complex": (3.104567, 1.348119, 1.804114, 2.494698, 3.460064, 4.636017),
    "SUSY-2018-31A": (6.655968, 4.386435, 6.025571, 8.674766, 12.74826, 18.42774),
    "SUSY-2018-04": (12.29243, 5.782062, 7.858364, 11.20005, 16.37251, 23.61591),
}


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small())


@pytest.mark.parametrize("name", ["simple", "complex", pytest.param("SUSY-2018-31A", marks=pytest.mark.slow),
                                  pytest.param("SUSY-2018-04", marks=pytest.mark.slow)])  # fmt: skip
def test_limits_of_pyhf(published, name):
    result = nextstat.upper_limit(nextstat.from_pyhf(published(name)))
    assert bool(result.converged.all())
    np.testing.assert_allclose([result.observed, *result.expected], PYHF[name], rtol=1e-5)


@pytest.mark.parametrize(("level", "test_stat"), [(0.95, "qtilde"), pytest.param(0.9, "q", marks=pytest.mark.slow)])
def test_at_the_limit_the_p_value_is_the_level(model, level, test_stat):
    result = nextstat.upper_limit(model, level=level, test_stat=test_stat)
    assert result.message == "6 of 6: converged"
    limits = jnp.concatenate([result.observed[None], result.expected])
    tested = nextstat.hypotest(model, limits, test_stat=test_stat)
    found = [tested.cls[0], *(tested.cls_expected[1 + k, k] for k in range(5))]
    np.testing.assert_allclose(found, 1.0 - level, rtol=1e-9)
    assert (np.diff(result.expected) > 0).all()


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 30.0, 1e6])
def test_limits_far_from_one(model, scale):
    """A limit scales with the signal, far beyond the bounds of the parameter and far below 1."""
    usual = nextstat.upper_limit(model)
    scaled = nextstat.upper_limit(model.with_templates({"signal": scale * model.template("signal")}))
    assert bool(scaled.converged.all())
    np.testing.assert_allclose(scaled.expected * scale, usual.expected, rtol=1e-6)
    assert float(scaled.observed * scale) == pytest.approx(float(usual.observed), rel=1e-6)


def test_where_there_is_no_limit(model):
    result = nextstat.upper_limit(model.with_templates({"signal": jnp.zeros(3)}))
    assert np.isnan(result.observed) and np.isnan(np.asarray(result.expected)).all()
    assert not result.converged.any() and "there is none" in result.message
    assert json.loads(json.dumps(result.to_dict()))["observed"] is None


def test_an_empty_channel():
    """No background and no counts, where the likelihood is linear in mu."""
    spec = one_channel([sample("signal", [1.0], normfactor("mu")), sample("background", [1e-6])], [0.0])
    result = nextstat.upper_limit(nextstat.from_pyhf(spec))
    # q = q_A = 2 mu and CLb = 1/2 here: Phi(-sqrt(2 mu)) = 0.05 / 2. (Poisson statistics say 3.0: asymptotic formulae
    # do not hold for so few events.)
    assert bool(result.converged.all()) and float(result.mu_hat) == 0.0
    assert float(result.observed) == pytest.approx(0.5 * 1.959964**2, rel=1e-3)


def test_a_parameter_that_may_be_negative():
    data = [206.0, 50.0, 30.0, 15.0]
    free, bounded = (nextstat.from_pyhf(small(bounds)) for bounds in ((-5.0, 10.0), (0.0, 10.0)))
    ours, theirs = nextstat.upper_limit(free, data=data), nextstat.upper_limit(bounded, data=data)
    assert float(ours.observed) == pytest.approx(float(theirs.observed), rel=1e-7)
    np.testing.assert_allclose(ours.expected, theirs.expected, rtol=1e-7)


@pytest.mark.slow
def test_derivatives_of_limits(model):
    start, change = yields_of(model)

    def limits(x):
        result = nextstat.upper_limit(change(x))
        return jnp.concatenate([result.observed[None], result.expected])

    expected = central(limits, start, 1e-3)
    np.testing.assert_allclose(jax.jacrev(limits)(start), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_forward_derivatives_of_limits(model):
    start, change = yields_of(model)

    def limits(x):
        return nextstat.upper_limit(change(x)).expected

    expected = central(limits, start, 1e-3)
    direction = jnp.linspace(1.0, -1.0, len(start))
    forward = jax.jvp(limits, (start,), (direction,))[1]
    np.testing.assert_allclose(forward, expected @ direction, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_second_derivatives_of_limits(model):
    start = model.template("signal")
    slope = jax.grad(lambda s: nextstat.upper_limit(model.with_templates({"signal": s})).median)
    np.testing.assert_allclose(jax.jacfwd(slope)(start), central(slope, start, 1e-3), rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_batches_of_data(model):
    data = jnp.stack([model.observed_data, model.observed_data.at[2].add(9.0)])
    batch = jax.vmap(lambda d: nextstat.upper_limit(model, data=d))(data)
    one = nextstat.upper_limit(model, data=data[1])
    assert batch.expected.shape == (2, 5)
    assert float(batch.observed[1]) == pytest.approx(float(one.observed), rel=1e-8)
    assert float(batch.observed[1]) > float(batch.observed[0])
    with pytest.raises(nextstat.ModelError, match=r"a batch of UpperLimit of shape \(2,\) has no table of its own"):
        batch.to_dataframe()
    assert json.dumps(batch.to_dict())


def test_text_and_tables(model):
    result = nextstat.upper_limit(model)
    assert "0.95 confidence" in repr(result) and f"{float(result.observed):.6g}" in repr(result)
    frame = result.to_dataframe()
    assert frame["mu"].tolist() == [float(result.observed), *np.asarray(result.expected).tolist()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.05}, "level=0.05: expected a number between 0.5 and 1: a confidence level, such as 0.95"),
        ({"level": 95.0}, "level=95.0: expected a number between 0.5 and 1"),
        ({"test_stat": "q0"}, "test_stat='q0': expected one of 'qtilde', 'q'"),
        ({"data": [1.0]}, r"data has shape \(1,\)"),
    ],
)
def test_wrong_arguments(model, options, message):
    with pytest.raises(nextstat.NextstatError, match=message) as caught:
        nextstat.upper_limit(model, **options)
    assert "\n" not in str(caught.value)
