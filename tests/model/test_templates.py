"""Replaced templates: the same model as from an edited workspace, differentiably."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests.building import histosys, normfactor, normsys, sample, shapesys, staterror, workspace


def spec_of(scale=1.0, stat=1.0):
    """Two channels, every kind of template; ``scale`` and ``stat`` edit the numbers."""
    return workspace(
        {
            "SR": [
                sample(
                    "signal",
                    [2.0 * scale, 4.0],
                    normfactor("mu"),
                    staterror("mc_SR", [0.3 * stat, 0.5]),
                    histosys("jes", [1.5 * scale, 3.5], [2.6 * scale, 4.4]),
                ),
                sample(
                    "bkg",
                    [20.0, 15.0 * scale],
                    staterror("mc_SR", [1.0, 0.8 * stat]),
                    histosys("jes", [18.0, 14.0 * scale], [23.0, 16.5 * scale]),
                    normsys("xs", 0.9, 1.0 + 0.1 * scale),
                ),
            ],
            "CR": [
                sample("signal", [1.0 * scale], normfactor("mu")),
                sample("bkg", [50.0 * scale], shapesys("free", [5.0 * stat]), normsys("xs", 0.9, 1.12)),
            ],
        },
        {"SR": [24.0, 17.0], "CR": [49.0]},
    )


EDITS = {
    "signal": lambda s: np.array([1.0 * s, 2.0 * s, 4.0]),  # CR before SR
    ("bkg", "SR"): lambda s: np.array([20.0, 15.0 * s]),
    ("bkg", "CR"): lambda s: np.array([50.0 * s]),
    ("signal", "jes", "hi"): lambda s: np.array([2.6 * s, 4.4]),
    ("signal", "jes", "lo"): lambda s: np.array([1.5 * s, 3.5]),
    ("bkg", "SR", "jes", "hi"): lambda s: np.array([23.0, 16.5 * s]),
    ("bkg", "jes", "lo"): lambda s: np.array([18.0, 14.0 * s]),
    ("bkg", "SR", "xs", "hi"): lambda s: 1.0 + 0.1 * s,
}
STAT_EDITS = {
    ("signal", "stat"): lambda s: np.array([0.3 * s, 0.5]),
    ("bkg", "stat"): lambda s: np.array([1.0, 0.8 * s]),
    ("bkg", "free", "uncertainty"): lambda s: np.array([5.0 * s]),
}


def edited(scale=1.3, stat=0.6):
    return {k: f(scale) for k, f in EDITS.items()} | {k: f(stat) for k, f in STAT_EDITS.items()}


def assert_equal_models(got, expected):
    for name in ("nominal", "shifts", "factors", "widths", "tau", "observed", "uncertainties", "init", "frozen"):
        np.testing.assert_allclose(
            getattr(got.likelihood, name), getattr(expected.likelihood, name), rtol=1e-13, atol=1e-13, err_msg=name
        )


@pytest.mark.slow
def test_all_templates_equal_an_edited_workspace():
    got = nextstat.from_pyhf(spec_of()).with_templates(edited())
    expected = nextstat.from_pyhf(spec_of(1.3, 0.6))
    assert_equal_models(got, expected)
    point = expected.parameter_init() * 1.05 + 0.1
    assert float(got.nll(point)) == pytest.approx(float(expected.nll(point)), rel=1e-13)
    assert float(nextstat.q0(got)) == pytest.approx(float(nextstat.q0(expected)), rel=1e-9)


def test_order_of_keys_does_not_matter():
    model = nextstat.from_pyhf(spec_of())
    keys = list(edited())
    assert_equal_models(model.with_templates({k: edited()[k] for k in reversed(keys)}), model.with_templates(edited()))


def test_variations_keep_their_absolute_size_by_default():
    model = nextstat.from_pyhf(spec_of())
    absolute = model.with_templates({("bkg", "SR"): [40.0, 30.0]})
    spec = spec_of()
    bkg = spec["channels"][0]["samples"][1]
    bkg["data"] = [40.0, 30.0]
    for modifier in bkg["modifiers"]:
        if modifier["name"] == "jes":
            modifier["data"] = {"lo_data": [38.0, 29.0], "hi_data": [43.0, 31.5]}
    assert_equal_models(absolute, nextstat.from_pyhf(spec))


def test_variations_can_keep_their_relative_size():
    model = nextstat.from_pyhf(spec_of())
    relative = model.with_templates({("bkg", "SR"): [40.0, 30.0]}, variations="relative")
    spec = spec_of()
    bkg = spec["channels"][0]["samples"][1]
    bkg["data"] = [40.0, 30.0]
    for modifier in bkg["modifiers"]:
        if modifier["name"] == "jes":
            modifier["data"] = {"lo_data": [36.0, 28.0], "hi_data": [46.0, 33.0]}
    assert_equal_models(relative, nextstat.from_pyhf(spec))
    with pytest.raises(nextstat.ModelError, match="variations='none'"):
        model.with_templates({}, variations="none")


@pytest.mark.filterwarnings("ignore:staterror 'mc_SR'", "ignore:shapesys 'free'")
def test_a_bin_that_loses_its_uncertainty_is_fixed_as_in_an_edited_workspace():
    model = nextstat.from_pyhf(spec_of())
    got = model.with_templates(
        {
            ("signal", "stat"): [0.0, 0.5],
            ("bkg", "stat"): [0.0, 0.8],
            ("bkg", "free", "uncertainty"): [0.0],
        }
    )
    spec = copy.deepcopy(spec_of())
    spec["channels"][0]["samples"][0]["modifiers"][1]["data"] = [0.0, 0.5]
    spec["channels"][0]["samples"][1]["modifiers"][0]["data"] = [0.0, 0.8]
    spec["channels"][1]["samples"][1]["modifiers"][0]["data"] = [0.0]
    assert_equal_models(got, nextstat.from_pyhf(spec))
    slope = jax.grad(lambda u: nextstat.q0(model.with_templates({("signal", "stat"): u})))(jnp.zeros(2))
    assert np.isfinite(slope).all()


def test_configured_numbers_do_not_follow_templates():
    spec = spec_of()
    spec["measurements"][0]["config"]["parameters"] = [{"name": "free", "auxdata": [81.0]}]
    changed = nextstat.from_pyhf(spec).with_templates({("bkg", "free", "uncertainty"): [10.0]})
    assert 81.0 in np.asarray(changed.observed_data)
    np.testing.assert_allclose(changed.likelihood.tau, [25.0], rtol=1e-14)


def test_derivatives_with_respect_to_every_kind_of_template():
    model = nextstat.from_pyhf(spec_of())
    point = model.parameter_init() * 1.1 + 0.2
    # JAX sorts the keys of a mapping, hence tuples throughout.
    templates = {(k,) if isinstance(k, str) else k: jnp.asarray(v, jnp.float64) for k, v in edited().items()}
    value = jax.jit(lambda t: model.with_templates(t).nll(point))
    slope = jax.grad(value)(templates)
    step = 1e-5
    for key, array in templates.items():
        flat = np.atleast_1d(np.asarray(array)).reshape(-1)
        for i in range(flat.size):
            ends = []
            for sign in (1, -1):
                moved = flat.copy()
                moved[i] += sign * step
                ends.append(float(value(templates | {key: jnp.asarray(moved.reshape(np.shape(array)))})))
            got = float(np.atleast_1d(np.asarray(slope[key])).reshape(-1)[i])
            assert got == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-7), (key, i)


def test_data_can_be_replaced():
    model = nextstat.from_pyhf(spec_of())
    main = np.array([30.0, 20.0, 11.0])
    other = model.with_data(main)
    np.testing.assert_array_equal(other.observed_data[:3], main)
    np.testing.assert_array_equal(other.observed_data[3:], model.observed_data[3:])
    point = model.parameter_init()
    assert float(other.nll(point)) == float(model.nll(point, main))


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({"sgnal": [1.0, 2.0, 3.0]}, "there is no sample 'sgnal'; samples: bkg, signal"),
        ({("signal", "SSR"): [1.0]}, "'SSR' is neither a channel"),
        ({"signal": [1.0, 2.0]}, r"template 'signal' has shape \(2,\), expected \(3,\)"),
        ({("bkg", "jer", "hi"): [1.0, 2.0]}, "carries no histosys or normsys 'jer'; it has: jes, xs"),
        ({("bkg", "CR", "stat"): [1.0]}, "carries no staterror"),
        ({("bkg", "jes", "up"): [1.0, 2.0]}, "nor followed by 'hi', 'lo'"),
        ({("bkg", "jes"): [1.0, 2.0]}, "'jes' is neither a channel"),
        ({3: [1.0]}, "template key 3"),
    ],
)
def test_bad_templates_are_named(templates, message):
    model = nextstat.from_pyhf(spec_of())
    with pytest.raises(nextstat.ModelError, match=message):
        model.with_templates(templates)
