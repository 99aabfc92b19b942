"""The corners of HistFactory, with numbers; wherever pyhf gives the same number, it is asked too."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from tests.building import (
    histosys,
    lumi,
    normfactor,
    normsys,
    one_channel,
    sample,
    shapefactor,
    shapesys,
    staterror,
    workspace,
)
from tests.reference.loop_twin import LoopTwin
from tests.reference.pyhf_oracle import pyhf_expected, pyhf_logpdf, pyhf_model


def open_quietly(spec: dict[str, Any], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nextstat.from_pyhf(spec, **options)


def logpdf_at_init(model: Any) -> float:
    return float(model.logpdf(model.parameter_init()))


def fixed_flags(model: Any) -> list[bool]:
    return [p.fixed for p in model.parameters()]


def one_systematic(yields, modifier, observed, signal):
    """A signal with mu and a background with one uncertainty, in one channel."""
    return one_channel([sample("sig", signal, normfactor("mu")), sample("bkg", yields, modifier)], observed)


# The values of the log-density at the initial point, to the digits in which they were published.
STAT_ZERO_WIDTH = one_systematic([10.0, 10.0], staterror("stat", [0.0, 1.0]), [11.0, 11.0], [1.0, 1.0])
STAT_ZERO_YIELD = one_systematic([0.0, 10.0], staterror("stat", [1.0, 1.0]), [1.0, 11.0], [1.0, 1.0])
STAT_NEGATIVE_YIELD = one_systematic([-5.0, 10.0], staterror("stat", [1.0, 1.0]), [5.0, 11.0], [10.0, 1.0])
SHAPE_ZERO_WIDTH = one_systematic([10.0, 10.0], shapesys("shape", [0.0, 1.0]), [11.0, 11.0], [1.0, 1.0])
SHAPE_ZERO_YIELD = one_systematic([0.0, 10.0], shapesys("shape", [1.0, 1.0]), [1.0, 11.0], [1.0, 1.0])
DEGENERATE = [
    pytest.param(STAT_ZERO_WIDTH, -3.78621166, [1.0, 1.0], id="staterror of width 0"),
    pytest.param(STAT_ZERO_YIELD, -2.66075182, [1.0, 1.0], id="staterror on an empty bin"),
    pytest.param(STAT_NEGATIVE_YIELD, -3.401054, [1.0, 1.0], id="staterror on a negative bin"),
    pytest.param(SHAPE_ZERO_WIDTH, -8.47327665, [1.0, 100.0], id="shapesys of width 0"),
    pytest.param(SHAPE_ZERO_YIELD, -7.3478168, [1.0, 100.0], id="shapesys on an empty bin"),
]


@pytest.mark.parametrize(("spec", "value", "auxdata"), DEGENERATE)
def test_degenerate_bins_keep_a_fixed_parameter(spec, value, auxdata):
    model = open_quietly(spec)
    theirs, data = pyhf_model(spec)
    # The published digits end after the eighth decimal.
    assert logpdf_at_init(model) == pytest.approx(value, abs=1e-8)
    assert pyhf_logpdf(theirs, np.ones(3), data) == pytest.approx(value, abs=1e-8)
    assert model.parameter_names()[0] == "mu"
    assert fixed_flags(model) == [False, True, False]
    np.testing.assert_allclose(model.observed_data[2:], auxdata, rtol=1e-14)


@pytest.mark.parametrize(("spec", "value", "auxdata"), DEGENERATE)
def test_degenerate_bins_are_announced(spec, value, auxdata):
    with pytest.warns(UserWarning, match=r"bins.*bin 0|bin 0.*bins"):
        nextstat.from_pyhf(spec)


# -- staterror --------------------------------------------------------------------------------------------------------


def test_staterror_width_counts_only_the_samples_that_carry_it():
    spec = one_channel(
        [
            sample("a", [10.0], staterror("stat", [1.0])),
            sample("b", [30.0], staterror("stat", [3.0])),
            sample("c", [100.0], normfactor("mu")),
        ],
        [140.0],
    )
    model = nextstat.from_pyhf(spec)
    gamma = 1.05
    expected = stats.poisson.logpmf(140, 40.0 * gamma + 100.0) + stats.norm.logpdf(1.0, gamma, 0.0790569415)
    # Nine digits of the width are known.
    assert float(model.logpdf(jnp.array([1.0, gamma]))) == pytest.approx(expected, rel=1e-8)
    np.testing.assert_allclose(model.parameter_bounds()[1], [1e-10, 10.0])


def test_staterror_multiplies_each_sample_that_carries_it():
    spec = one_channel(
        [sample("a", [10.0], staterror("s", [1.0])), sample("b", [30.0], staterror("s", [3.0])), sample("c", [7.0])],
        [47.0],
        poi="",
    )
    model = nextstat.from_pyhf(spec)
    assert float(model.expected_data(jnp.array([1.2]))[0]) == pytest.approx(40.0 * 1.2 + 7.0, rel=1e-14)


def test_staterror_of_two_channels_is_concatenated():
    spec = workspace(
        {
            "b": [sample("x", [30.0, 40.0], normfactor("mu"), staterror("stat", [3.0, 8.0]))],
            "a": [sample("x", [10.0, 20.0], staterror("stat", [1.0, 1.0]))],
        },
        {"a": [10.0, 20.0], "b": [30.0, 40.0]},
    )
    model = nextstat.from_pyhf(spec)
    assert model.parameter_names() == ["mu", "stat[0]", "stat[1]", "stat[2]", "stat[3]"]
    expected = model.expected_data(jnp.array([1.0, 1.1, 1.2, 1.3, 1.4]), include_auxdata=False)
    np.testing.assert_allclose(expected, [11.0, 24.0, 39.0, 56.0], rtol=1e-14)


def test_staterror_with_other_carriers_in_another_channel_is_refused():
    # pyhf fails an assertion here, since it takes the yields of a carrier in one channel for the width in all of them.
    spec = workspace(
        {
            "a": [sample("x", [10.0], staterror("stat", [1.0])), sample("y", [30.0])],
            "b": [sample("x", [10.0], staterror("stat", [2.0])), sample("y", [30.0], staterror("stat", [1.5]))],
        },
        {"a": [40.0], "b": [40.0]},
        poi="",
    )
    with pytest.raises(AssertionError):
        pyhf_model(spec)
    with pytest.raises(nextstat.WorkspaceError, match="stat"):
        nextstat.from_pyhf(spec)


# -- shapesys ---------------------------------------------------------------------------------------------------------


def test_shapesys_has_a_poisson_constraint():
    model = nextstat.from_pyhf(one_systematic([50.0], shapesys("shape", [7.0]), [55.0], [5.0]))
    tau, gamma = (50.0 / 7.0) ** 2, 0.93
    aux = tau * math.log(tau * gamma) - tau * gamma - math.lgamma(tau + 1.0)
    expected = stats.poisson.logpmf(55, 5.0 * 1.4 + 50.0 * gamma) + aux
    assert float(model.logpdf(jnp.array([1.4, gamma]))) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(model.expected_data(jnp.array([1.4, gamma])), [53.5, tau * gamma], rtol=1e-14)


def test_factors_of_a_shapesys_can_be_configured():
    # The auxiliary data stay those of the yields, so that gamma is pulled away from 1.
    spec = one_systematic([10.0, 10.0], shapesys("shape", [2.0, 1.0]), [11.0, 11.0], [1.0, 1.0])
    spec["measurements"][0]["config"]["parameters"] = [{"name": "shape", "factors": [20.0, 30.0]}]
    theirs, data = pyhf_model(spec)
    np.testing.assert_allclose(data, [11.0, 11.0, 25.0, 100.0], rtol=1e-14)
    value = pyhf_logpdf(theirs, np.ones(3), data)
    assert LoopTwin(spec).nll(np.ones(3)) == pytest.approx(-value, rel=1e-12)
    assert logpdf_at_init(nextstat.from_pyhf(spec)) == pytest.approx(value, rel=1e-12)


def test_shapesys_cannot_be_shared():
    samples = [sample(name, [10.0], shapesys("twice", [1.0])) for name in ("a", "b")]
    spec = one_channel(samples, [20.0], poi="")
    with pytest.raises(nextstat.WorkspaceError, match="twice"):
        nextstat.from_pyhf(spec)


# -- normfactor, shapefactor, normsys, histosys, lumi -----------------------------------------------------------------


def test_defaults_of_parameters():
    spec = one_channel(
        [
            sample("sig", [5.0, 5.0], normfactor("mu"), normsys("alpha", 0.9, 1.1)),
            sample("bkg", [50.0, 60.0], shapefactor("free"), histosys("alpha", [48.0, 58.0], [52.0, 62.0])),
        ],
        [55.0, 65.0],
    )
    model = nextstat.from_pyhf(spec)
    # One alpha for both of its modifiers; pyhf lists the types one after the other.
    assert model.parameter_names() == ["alpha", "mu", "free[0]", "free[1]"]
    np.testing.assert_array_equal(model.parameter_init(), [0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(model.parameter_bounds(), [[-5.0, 5.0]] + [[0.0, 10.0]] * 3)
    np.testing.assert_array_equal(model.observed_data, [55.0, 65.0, 0.0])
    expected = stats.poisson.logpmf([55, 65], model.expected_data(model.parameter_init())[:2]).sum()
    assert logpdf_at_init(model) == pytest.approx(expected + stats.norm.logpdf(0.0), rel=1e-13)


def lumi_spec(config):
    parameters = [{"name": "lumi"} | config] if config is not None else []
    samples = [sample("sig", [1.0], normfactor("mu"), lumi()), sample("bkg", [10.0])]
    return one_channel(samples, [11.0], parameters=parameters)


def test_lumi_with_its_configuration():
    spec = lumi_spec({"inits": [1.0], "auxdata": [1.0], "sigmas": [0.02], "bounds": [[0.5, 1.5]]})
    # Eight digits are known.
    assert logpdf_at_init(nextstat.from_pyhf(spec)) == pytest.approx(0.86762463, abs=1e-8)
    theirs, data = pyhf_model(spec)
    assert pyhf_logpdf(theirs, np.ones(2), data) == pytest.approx(0.86762463, abs=1e-8)


def test_lumi_derives_init_and_bounds():
    model = nextstat.from_pyhf(lumi_spec({"auxdata": [1.1], "sigmas": [0.02]}))
    assert model.parameter_names()[0] == "lumi"
    assert float(model.parameter_init()[0]) == 1.1
    np.testing.assert_allclose(model.parameter_bounds()[0], [0.0, 11.0], rtol=1e-15)


@pytest.mark.parametrize("config", [None, {}, {"inits": [1.0]}, {"auxdata": [1.0]}, {"sigmas": [0.02]}])
def test_lumi_demands_auxdata_and_sigmas(config):
    with pytest.raises(nextstat.WorkspaceError, match="lumi") as failure:
        nextstat.from_pyhf(lumi_spec(config))
    missing = [key for key in ("auxdata", "sigmas") if key not in (config or {})]
    assert any(key in str(failure.value) for key in missing)


# -- interpolation ----------------------------------------------------------------------------------------------------

INTERPOLATED = one_channel(
    [
        sample("sig", [1.0], normfactor("mu")),
        sample("bkg", [10.0], normsys("norm", 0.8, 1.1), histosys("shape", [8.0], [13.0])),
    ],
    [12.0],
)
HALF = {"norm": 0.5, "shape": 0.5, "mu": 0.0}


def rate(model, values):
    """Expected rate of the first bin with the parameters given by name."""
    return float(model.expected_data(jnp.array([values[name] for name in model.parameter_names()]))[0])


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 12.079455428971881),
        ({"histosys": "code4p"}, 12.079455428971881),
        ({"normsys": "code4"}, 12.079455428971881),
        ({"normsys": "code1"}, 12.007017702244813),
        ({"histosys": "code0"}, 12.134066973605124),
        ({"normsys": "code1", "histosys": "code0"}, 12.061301753956744),
    ],
)
def test_naming_one_code_leaves_the_other_alone(options, value):
    assert rate(nextstat.from_pyhf(INTERPOLATED, **options), HALF) == pytest.approx(value, rel=1e-14)
    theirs, _ = pyhf_model(INTERPOLATED, **options)
    ordered = np.array([HALF[name] for name in theirs.config.par_names])
    assert pyhf_expected(theirs, ordered)[0] == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    "options", [{"normsys": "code0"}, {"normsys": "code4p"}, {"histosys": "code1"}, {"histosys": "code4"}]
)
def test_unknown_codes_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        nextstat.from_pyhf(INTERPOLATED, **options)


NORM_ONLY = one_channel([sample("bkg", [10.0], normsys("norm", 0.9, 1.1))], [10.0], poi="")


@pytest.mark.parametrize(
    ("code", "alpha", "value"),
    [
        ("code4", 0.5, 10.493149154270231),
        ("code4", -0.5, 9.492169057784201),
        ("code1", 0.5, 10.488088481701517),
        ("code1", -0.5, 9.486832980505138),
    ],
)
def test_normsys_inside_its_joints(code, alpha, value):
    assert rate(nextstat.from_pyhf(NORM_ONLY, normsys=code), {"norm": alpha}) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("alpha", [1.0, -1.0, 1.7, -2.3, 5.0, -5.0])
def test_normsys_codes_agree_beyond_their_joints(alpha):
    value = 10.0 * (1.1**alpha if alpha > 0.0 else 0.9**-alpha)
    for code in ("code1", "code4"):
        assert rate(nextstat.from_pyhf(NORM_ONLY, normsys=code), {"norm": alpha}) == pytest.approx(value, rel=1e-13)


VANISHING = one_channel(
    [sample("sig", [3.0], normfactor("mu")), sample("bkg", [10.0], normsys("norm", 0.0, 2.0))], [12.0]
)


def test_normsys_that_vanishes_is_finite_everywhere():
    with pytest.warns(UserWarning, match=r"(?s)(?=.*bins)(?=.*bkg)(?=.*norm)"):
        model = nextstat.from_pyhf(VANISHING)
    index = model.parameter_names().index("norm")
    alphas = jnp.concatenate([jnp.linspace(-3.0, 3.0, 61), jnp.array([-1.0, 0.0, 1.0])])
    points = jnp.ones((len(alphas), 2)).at[:, index].set(alphas)
    twin = LoopTwin(VANISHING)
    values, gradients = jax.vmap(model.nll)(points), jax.vmap(model.grad_nll)(points)
    # Code 4 overshoots below zero near alpha = -1 at no point here: with the signal, every rate is positive.
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(values, [twin.nll(np.asarray(p)) for p in points], rtol=1e-12)
    assert rate(model, {"mu": 0.0, "norm": 0.0}) == 10.0
    assert rate(model, {"mu": 1.0, "norm": -1.0}) == pytest.approx(3.0, rel=1e-13)


def test_pyhf_is_nan_where_a_normsys_vanishes():
    theirs, data = pyhf_model_quietly(VANISHING)
    assert math.isnan(pyhf_logpdf(theirs, np.array([1.0, 0.0]), data))


def pyhf_model_quietly(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return pyhf_model(spec)


@pytest.mark.parametrize(("lo", "hi"), [(-0.1, 1.1), (0.9, -1.1)])
def test_negative_normsys_factors_are_refused(lo, hi):
    spec = one_channel([sample("bkg", [10.0], normsys("norm", lo, hi))], [10.0], poi="")
    with pytest.raises(nextstat.WorkspaceError, match="norm"):
        nextstat.from_pyhf(spec)


HISTO_FROM_ZERO = one_channel([sample("bkg", [0.0], histosys("shape", [0.0], [2.0]))], [1.0], poi="")


def test_histosys_can_make_a_rate_negative():
    model = nextstat.from_pyhf(HISTO_FROM_ZERO)
    # Four digits are known.
    assert rate(model, {"shape": -0.5}) == pytest.approx(-0.1035, abs=5e-5)
    assert float(model.nll(jnp.array([-0.5]))) == math.inf


def test_linear_extrapolation_is_unbounded():
    spec = one_channel([sample("bkg", [10.0], histosys("shape", [8.0], [12.0]))], [0.0], poi="")
    for code in ("code0", "code4p"):
        model = nextstat.from_pyhf(spec, histosys=code)
        assert rate(model, {"shape": -5.0}) == 0.0
        assert rate(model, {"shape": -2.5}) == pytest.approx(5.0, rel=1e-14)


def test_histosys_of_the_wrong_length():
    samples = [sample("bkg", [10.0, 11.0], histosys("shape", [8.0, 9.0, 10.0], [12.0, 13.0]))]
    spec = one_channel(samples, [10.0, 11.0], poi="")
    with pytest.raises(nextstat.WorkspaceError) as failure:
        nextstat.from_pyhf(spec)
    for word in ("bins", "bkg", "shape", "2", "3"):
        assert word in str(failure.value)


# -- expected rates ---------------------------------------------------------------------------------------------------


def signal_only(observed):
    return one_channel([sample("sig", [5.0], normfactor("mu"))], observed)


def test_rate_zero_with_nothing_observed_costs_nothing():
    model = nextstat.from_pyhf(signal_only([0.0]))
    assert float(model.nll(jnp.array([0.0]))) == 0.0
    # d nll / d mu = d nu / d mu.
    assert float(model.grad_nll(jnp.array([0.0]))[0]) == pytest.approx(5.0, rel=1e-14)


def test_rate_zero_with_something_observed_is_impossible():
    model = nextstat.from_pyhf(signal_only([1.0]))
    assert float(model.logpdf(jnp.array([0.0]))) == -math.inf


@pytest.mark.parametrize("observed", [0.0, 3.0])
def test_negative_rate_is_an_invalid_point(observed):
    # With nothing observed pyhf's value is finite, since xlogy(0, negative) is 0.
    model = nextstat.from_pyhf(signal_only([observed]))
    point = jnp.array([-1.0])
    assert float(model.nll(point)) == math.inf
    assert float(model.logpdf(point)) == -math.inf
    assert not np.isnan(model.grad_nll(point)).any()
    assert not np.isnan(jax.grad(model.nll)(point)).any()
    assert not np.isnan(model.hessian(point)).any()


def test_methods_can_be_transformed_without_a_wrapper():
    model = nextstat.from_pyhf(signal_only([3.0]))
    point = jnp.array([0.8])
    assert float(jax.jit(model.nll)(point)) == pytest.approx(float(model.nll(point)), rel=1e-14)
    assert float(jax.jit(jax.grad(model.nll))(point)[0]) == pytest.approx(float(model.grad_nll(point)[0]), rel=1e-12)
    assert float(jax.vmap(model.nll)(point[None])[0]) == pytest.approx(float(model.nll(point)), rel=1e-14)


@pytest.mark.parametrize("mu", [0.0, 1e-300, 1e-12])
def test_gradients_near_an_empty_bin_are_not_nan(mu):
    for observed in (0.0, 1.0):
        model = nextstat.from_pyhf(signal_only([observed]))
        assert not np.isnan(model.grad_nll(jnp.array([mu]))).any()
        assert not np.isnan(jax.grad(model.nll)(jnp.array([mu]))).any()


@pytest.mark.parametrize("mu", [1e-3, 1e-8, 1e-12, 1e-20, 1e-100])
def test_rates_far_below_the_count_keep_their_digits(mu):
    model = nextstat.from_pyhf(signal_only([1000.0]))
    expected = 5.0 * mu - 1000.0 * math.log(5.0 * mu) + math.lgamma(1001.0)
    assert float(model.nll(jnp.array([mu]))) == pytest.approx(expected, rel=1e-12)
    assert float(model.grad_nll(jnp.array([mu]))[0]) == pytest.approx(5.0 - 1000.0 / mu, rel=1e-12)


CLIPPED = one_channel([sample("sig", [-5.0], normfactor("mu")), sample("bkg", [1.0])], [1.0])


@pytest.mark.parametrize(("options", "value"), [({"clip_bin_data": 0.0}, 0.0), ({"clip_sample_data": 0.0}, 1.0)])
def test_the_two_clips_are_two_models(options, value):
    model = nextstat.from_pyhf(CLIPPED, **options)
    theirs, _ = pyhf_model(CLIPPED, **options)
    assert rate(model, {"mu": 1.0}) == value
    assert pyhf_expected(theirs, np.ones(1))[0] == value


def test_without_clips_the_rate_stays_negative():
    assert rate(nextstat.from_pyhf(CLIPPED), {"mu": 1.0}) == -4.0
