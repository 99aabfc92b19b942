"""The loop twin against pyhf: an oracle has to be tested before it may judge."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.reference.loop_twin import LoopTwin, histosys_shift, normsys_factor
from tests.reference.pyhf_oracle import pyhf_expected, pyhf_logpdf, pyhf_model

OWN_NAMES = ["all_modifiers", "one_shapesys", "no_poi", "configured", "shared", "corners", "unconstrained"]
CODES = [(n, h) for n in ("code1", "code4") for h in ("code0", "code2", "code4p")]


def points(twin, seed, number=4):
    """The initial point and random ones around it, within the bounds."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(number - 1, len(twin.inits)))
    widths = np.where(twin.inits == 0.0, 1.3, 0.2)
    return [twin.inits, *np.clip(twin.inits + widths * steps, twin.bounds[:, 0], twin.bounds[:, 1])]


def assert_same_model(workspace, seed, measurement=0, **options):
    twin = LoopTwin(workspace, measurement, **options)
    model, data = pyhf_model(workspace, measurement, **options)
    assert twin.names == model.config.par_names
    assert twin.inits.tolist() == model.config.suggested_init()
    assert twin.bounds.tolist() == [list(b) for b in model.config.suggested_bounds()]
    assert twin.fixed == model.config.suggested_fixed()
    assert twin.poi == model.config.poi_name
    np.testing.assert_allclose(twin.observed, data, rtol=1e-14)
    for params in points(twin, seed):
        expected = pyhf_expected(model, params)
        np.testing.assert_allclose(twin.expected_data(params), expected, rtol=1e-12, atol=1e-12)
        theirs = -pyhf_logpdf(model, params, data)
        ours = twin.nll(params)
        if (expected[: twin.n_bins] < 0.0).any():
            assert ours == math.inf
        else:
            assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("normsys", "histosys"), CODES)
@pytest.mark.parametrize("name", OWN_NAMES)
def test_twin_equals_pyhf_on_own_workspaces(own, name, normsys, histosys):
    assert_same_model(own(name), seed=11, normsys=normsys, histosys=histosys)


def test_twin_equals_pyhf_on_a_second_measurement(own):
    assert_same_model(own("configured"), seed=12, measurement=1)


@pytest.mark.parametrize("clips", [{"clip_sample_data": 0.0}, {"clip_bin_data": 0.5}, {"clip_sample_data": 1.0}])
def test_twin_equals_pyhf_with_clips(own, clips):
    assert_same_model(own("corners"), seed=13, **clips)


@pytest.mark.parametrize(("normsys", "histosys"), CODES)
@pytest.mark.parametrize("name", ["simple", "complex"])
def test_twin_equals_pyhf_on_published_workspaces(published, name, normsys, histosys):
    assert_same_model(published(name), seed=14, normsys=normsys, histosys=histosys)


@pytest.mark.parametrize("name", ["tHu", "tttt", "SUSY-2018-04", "SUSY-2018-05", "SUSY-2018-31A"])
def test_twin_equals_stored_numbers(published, reference, name):
    twin = LoopTwin(published(name))
    stored = reference[name]
    assert twin.names == stored["parameter_names"]
    for params, value in zip(stored["points"], stored["nll"], strict=True):
        if math.isnan(value):
            assert twin.nll(params) == math.inf
        else:
            assert twin.nll(params) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("lo", "hi"), [(0.9, 1.1), (0.7, 0.8), (1.0, 1.0), (1.3, 0.6)])
@pytest.mark.parametrize("code", ["code1", "code4"])
def test_normsys_passes_through_its_variations(code, lo, hi):
    assert normsys_factor(code, 0.0, lo, hi) == 1.0
    assert normsys_factor(code, 1.0, lo, hi) == hi
    assert normsys_factor(code, -1.0, lo, hi) == lo
    # Both sides of the joints agree to the distance of the two points.
    for joint in (-1.0, 0.0, 1.0):
        below, above = (normsys_factor(code, joint + step, lo, hi) for step in (-1e-9, 1e-9))
        assert below == pytest.approx(above, abs=1e-8)


@pytest.mark.parametrize("code", ["code0", "code2", "code4p"])
def test_histosys_passes_through_its_variations(code):
    assert histosys_shift(code, 0.0, 8.0, 10.0, 13.0) == 0.0
    assert histosys_shift(code, 1.0, 8.0, 10.0, 13.0) == pytest.approx(3.0, rel=1e-14)
    assert histosys_shift(code, -1.0, 8.0, 10.0, 13.0) == pytest.approx(-2.0, rel=1e-14)


def test_vanishing_variation_stays_finite():
    values = [normsys_factor("code4", alpha, 0.0, 2.0) for alpha in np.linspace(-2.0, 2.0, 41)]
    assert np.isfinite(values).all()
    assert normsys_factor("code4", 0.0, 0.0, 2.0) == 1.0


def test_lumi_needs_its_configuration(published):
    workspace = published("complex")
    workspace["measurements"][0]["config"]["parameters"] = []
    with pytest.raises(ValueError, match="auxdata and sigmas"):
        LoopTwin(workspace)


def test_throw_is_centered_on_the_expectation(own):
    twin = LoopTwin(own("all_modifiers"))
    toys = twin.throw(twin.inits, 400, np.random.default_rng(15))
    assert toys.shape == (400, len(twin.observed))
    expected = twin.expected_data(twin.inits)
    # Five standard errors of the mean of each entry.
    spread = toys.std(axis=0) / math.sqrt(len(toys))
    assert (np.abs(toys.mean(axis=0) - expected) < 5.0 * spread).all()
