"""Hypothesis tests with asymptotic distributions: pyhf's numbers, derivatives, corners and wrong inputs."""

from __future__ import annotations

import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from scipy import stats

import nextstat_jax as nextstat
from tests.building import histosys, normfactor, normsys, one_channel, sample, staterror
from tests.compilations import compilations
from tests.inference.support import central, small, yields_of


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small())


@pytest.fixture(scope="module")
def oracle():
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-12))
    return pyhf.Workspace(small())


def pyhf_test(oracle, mu, test_stat):
    model = oracle.model()
    with warnings.catch_warnings():
        # pyhf warns that q is meant for a parameter that may be negative.
        warnings.simplefilter("ignore")
        values = pyhf.infer.hypotest(
            mu, oracle.data(model), model, test_stat=test_stat, return_tail_probs=True, return_expected_set=True
        )
    observed, tails, bands = values
    return float(observed), [float(x) for x in tails], [float(x) for x in bands]


@pytest.mark.parametrize(("test_stat", "mu"), [("qtilde", 1.0), ("qtilde", 0.2), ("q", 1.0), ("q0", 0.0)])
def test_p_values_are_those_of_pyhf(model, oracle, test_stat, mu):
    result = nextstat.hypotest(model, mu, test_stat=test_stat)
    observed, tails, bands = pyhf_test(oracle, mu, test_stat)
    assert bool(result.converged) and result.message == "converged"
    assert float(result.p_value) == pytest.approx(observed, abs=2e-6)
    ours = [float(result.clb)] if test_stat == "q0" else [float(result.clsb), float(result.clb)]
    assert ours == pytest.approx(tails, abs=2e-6)
    np.testing.assert_allclose(result.p_value_expected, bands, atol=2e-6)


def test_lists_of_other_lengths_share_their_program(model):
    values = [0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    many = nextstat.hypotest(model, values)
    assert many.cls.shape == (7,) and many.cls_expected.shape == (7, 5)
    for length in (1, 2, 5):
        with compilations() as counter:
            some = nextstat.hypotest(model, values[:length])
        assert counter[0] == 0
        assert some.status.shape == (length,)
        for name in ("mu", "cls", "clsb", "clb_expected", "statistic", "statistic_asimov", "mu_hat"):
            np.testing.assert_allclose(getattr(some, name), getattr(many, name)[:length], rtol=1e-9, atol=1e-12)


def test_several_values_share_their_fits(model):
    mu = jnp.array([1.5, 0.0, 0.7])
    scan = nextstat.hypotest(model, mu)
    assert scan.cls.shape == (3,) and scan.cls_expected.shape == (3, 5)
    for k in range(3):
        one = nextstat.hypotest(model, mu[k])
        assert float(scan.cls[k]) == pytest.approx(float(one.cls), abs=1e-12)
        np.testing.assert_allclose(scan.cls_expected[k], one.cls_expected, atol=1e-12)
    # At mu = 0 the hypotheses are the same, and nothing is excluded.
    assert float(scan.cls[1]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["simple", "complex", pytest.param("SUSY-2018-31A", marks=pytest.mark.slow),
                                  pytest.param("SUSY-2018-04", marks=pytest.mark.slow),
                                  pytest.param("SUSY-2018-05", marks=pytest.mark.slow)])  # fmt: skip
def test_published_workspaces(published, reference, name):
    result = nextstat.hypotest(nextstat.from_pyhf(published(name)), 1.0)
    numbers = reference[name]
    assert bool(result.converged)
    assert float(result.cls) == pytest.approx(numbers["cls_mu1_obs"], abs=2e-6)
    np.testing.assert_allclose(result.cls_expected, numbers["cls_mu1_exp"], atol=2e-6)


def test_negative_signals(oracle):
    """With a parameter of interest that may be negative, q and qtilde differ, and qtilde holds it at 0."""
    data = [206.0, 50.0, 30.0, 15.0]
    free = nextstat.from_pyhf(small((-5.0, 10.0)))
    bounded = nextstat.from_pyhf(small((0.0, 10.0)))
    assert float(nextstat.fit(free, data=data).mu) < -0.5
    tilde = nextstat.hypotest(free, 1.0, data=data)
    assert float(tilde.cls) == pytest.approx(float(nextstat.hypotest(bounded, 1.0, data=data).cls), abs=1e-9)
    assert float(tilde.mu_hat) == 0.0
    q = nextstat.hypotest(free, 1.0, data=data, test_stat="q")
    assert float(q.statistic) > float(tilde.statistic) + 0.1
    assert float(q.mu_hat) == pytest.approx(float(nextstat.fit(free, data=data).mu), abs=1e-7)


def test_discovery(model):
    result = nextstat.discovery(model)
    assert float(result.q0) == pytest.approx(float(nextstat.q0(model)), abs=1e-9)
    assert float(result.p0) == pytest.approx(stats.norm.sf(float(result.z0)), rel=1e-12)
    # The Asimov data set of the conditional fit at mu = 1, tested as data are.
    conditional = nextstat.profile(model, 1.0)
    asimov = nextstat.asimov_data(model, params=conditional.params)
    assert float(result.z0_expected) == pytest.approx(float(nextstat.z0(model, data=asimov)), abs=1e-8)
    twice = nextstat.discovery(model, mu=2.0)
    assert float(twice.z0_expected) > 1.5 * float(result.z0_expected)
    assert json.dumps(result.to_dict()) and "expected at mu = 1" in repr(result)


def test_no_signal_excludes_nothing(model):
    """Without a signal CLs is 1 and not 0 / 0."""
    nothing = nextstat.hypotest(model.with_templates({"signal": jnp.zeros(3)}), 1.0)
    assert float(nothing.cls) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(nothing.cls_expected, 1.0, atol=1e-6)
    assert float(nothing.statistic_asimov) == pytest.approx(0.0, abs=1e-12)


def test_far_out_the_ratio_survives(model):
    """Both p-values underflow where a strong signal is tested; their ratio is a number all the same."""
    result = nextstat.hypotest(model.replace_bounds("mu", upper=1e4), 5e3)
    assert 0.0 <= float(result.cls) < 1e-100 and math.isfinite(float(result.cls_expected[0]))


@pytest.mark.slow
def test_derivatives_of_p_values(model):
    start, change = yields_of(model)

    def values(x):
        test, found = nextstat.hypotest(change(x), 1.0), nextstat.discovery(change(x))
        return jnp.concatenate([test.cls[None], test.cls_expected, jnp.stack([found.z0, found.z0_expected])])

    expected = central(values, start, 1e-3)
    np.testing.assert_allclose(jax.jacrev(values)(start), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_forward_derivatives_of_p_values(model):
    start, change = yields_of(model)

    def values(x):
        return nextstat.hypotest(change(x), 1.0).cls_expected

    expected = central(values, start, 1e-3)
    direction = jnp.linspace(1.0, -1.0, len(start))
    forward = jax.jvp(values, (start,), (direction,))[1]
    np.testing.assert_allclose(forward, expected @ direction, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_batches_of_data(model):
    data = jnp.stack([model.observed_data, model.observed_data.at[2].add(9.0)])
    batch = jax.vmap(lambda d: nextstat.hypotest(model, 1.0, data=d))(data)
    one = nextstat.hypotest(model, 1.0, data=data[1])
    assert batch.cls.shape == (2,) and float(batch.cls[1]) == pytest.approx(float(one.cls), abs=1e-10)


def test_results_as_text_and_tables(model):
    pandas = pytest.importorskip("pandas")
    result = nextstat.hypotest(model, [0.5, 1.0, 2.0])
    assert json.loads(json.dumps(result.to_dict()))["cls"] == pytest.approx(result.cls.tolist())
    frame = result.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and frame["CLs"].tolist() == result.cls.tolist()
    text = repr(result)
    assert "qtilde" in text and len(text.splitlines()) == 5 and f"{float(result.cls[1]):.6g}" in text


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1.0,), {"test_stat": "t"}, r"test_stat='t': expected one of 'qtilde', 'q', 'q0'"),
        ((-1.0,), {}, "mu is -1, but qtilde tests signals that cannot be negative: use test_stat='q'"),
        (
            (-1.0,),
            {"test_stat": "q"},
            r"mu is -1, outside the bounds \[0, 10\] of mu: widen them with model.replace_bounds",
        ),
        ((1.0,), {"test_stat": "q0"}, "mu is 1, but q0 tests mu = 0"),
        ((math.nan,), {}, "mu is nan: give a finite number"),
        (([[1.0]],), {}, r"mu has shape \(1, 1\)"),
        ((1.0,), {"data": [1.0, 2.0]}, r"data has shape \(2,\), expected"),
        ((1.0,), {"data": [206.0, 63.0, math.nan, 22.0]}, r"data\[2\] is not finite"),
        ((1.0,), {"data": [206.0, 63.0, -1.0, 22.0]}, r"data\[2\] is -1: counts cannot be negative"),
        ((1.0,), {"calculator": "toy"}, "calculator='toy': expected one of 'asymptotic', 'toys'"),
    ],
)
def test_wrong_arguments(model, arguments, options, message):
    with pytest.raises(nextstat.NextstatError, match=message) as caught:
        nextstat.hypotest(model, *arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_parameter_of_interest(own):
    model = nextstat.from_pyhf(own("no_poi"))
    for function in (
        lambda: nextstat.hypotest(model, 1.0),
        lambda: nextstat.discovery(model),
        lambda: nextstat.upper_limit(model),
    ):
        with pytest.raises(nextstat.ModelError, match="needs a parameter of interest, and the model has none"):
            function()


def test_hypotheses_that_the_bounds_exclude():
    """A parameter of interest that is fixed, or cannot be 0, cannot be tested: an error, not a number."""
    fixed = small()
    fixed["measurements"][0]["config"]["parameters"] = [{"name": "mu", "fixed": True}]
    above = nextstat.from_pyhf(small((0.5, 10.0)))
    for model, message in (
        (nextstat.from_pyhf(fixed), "mu is fixed: a test needs a parameter of interest that can move"),
        (above, r"mu is 0, outside the bounds \[0.5, 10\] of mu"),
    ):
        for call in (nextstat.hypotest, nextstat.discovery, nextstat.upper_limit):
            with pytest.raises(nextstat.FitError, match=message):
                call(model)


def test_counts_that_the_background_cannot_give():
    """q0 is infinite, and p0 is 0 rather than NaN."""
    spec = one_channel([sample("s", [5.0, 5.0], normfactor("mu")), sample("b", [50.0, 0.0])], [55.0, 2.0])
    result = nextstat.hypotest(nextstat.from_pyhf(spec), 0.0, test_stat="q0")
    assert float(result.statistic) == math.inf and float(result.clsb) == 0.0 and float(result.clb) == 0.0


@pytest.mark.slow
def test_the_lower_of_two_minima():
    """Large shape variations and few counts: a start next to the last fit stays in a valley that is not the lowest."""
    shape = histosys("h", [24.0, 4.1, 2.2], [44.0, 2.6, 3.9])
    samples = [
        sample("signal", [0.4, 3.2, 1.1], normfactor("mu"), normsys("a", 0.7, 1.4)),
        sample("background", [31.0, 3.4, 2.9], normsys("a", 0.8, 1.3), shape, staterror("mc", [9.0, 1.2, 1.0])),
    ]
    bounds = [{"name": "mu", "bounds": [[0.0, 200.0]]}]
    model = nextstat.from_pyhf(one_channel(samples, [22.0, 9.0, 2.0], parameters=bounds))
    mu = jnp.array([1.0, 4.0, 9.0])
    rng = np.random.default_rng(3)
    result = nextstat.hypotest(model, mu)
    lower, upper = (np.clip(end, -5.0, 12.0) for end in np.asarray(model.parameter_bounds()).T)
    for k, value in enumerate(np.asarray(mu)):
        starts = [rng.uniform(lower, upper) for _ in range(10)]
        lowest = min(float(nextstat.fit(model, init=start, fixed={"mu": value}).nll) for start in starts)
        free = min(float(nextstat.fit(model, init=start).nll) for start in starts)
        if float(result.mu_hat[k]) < value:
            assert float(result.statistic[k]) <= 2.0 * (lowest - free) + 1e-6


def test_options_of_toys_need_toys(model):
    for option in ("n_toys", "seed", "first_toy"):
        with pytest.raises(nextstat.FitError, match=f"{option} is an option of toys: add calculator='toys'"):
            nextstat.hypotest(model, 1.0, **{option: 100})
