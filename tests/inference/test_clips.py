"""Fits of models with clips: a plateau has no slope, so that a fit that begins on one sees nothing to go by.

The right values are those of the model without clips, where its minimum lies above them.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests import building as b


def spec(observed, least=-50.0, init=1.0):
    return b.one_channel(
        [b.sample("s", [5.0, 6.0], b.normfactor("mu")), b.sample("b", [50.0, 40.0], b.normsys("bkg", 0.9, 1.1))],
        observed,
        parameters=[{"name": "mu", "bounds": [[least, 50.0]], "inits": [init]}],
    )


def start_of(model, mu):
    return np.array([mu if name == "mu" else 0.0 for name in model.parameter_names()])


@pytest.mark.parametrize(
    "clips", [{"clip_bin_data": 0.1}, pytest.param({"clip_sample_data": 0.1}, marks=pytest.mark.slow)]
)
def test_a_fit_that_begins_on_a_plateau_ends_in_the_minimum(clips):
    plain, model = nextstat.from_pyhf(spec([55.0, 44.0])), nextstat.from_pyhf(spec([55.0, 44.0]), **clips)
    right = nextstat.fit(plain)
    for mu in (1.0, 0.0, -9.9, -20.0, -40.0):
        found = nextstat.fit(model, init=start_of(model, mu))
        assert found.converged, found.message
        np.testing.assert_allclose(found.nll, right.nll, rtol=1e-10)
        np.testing.assert_allclose(found.params, right.params, rtol=1e-5)


def test_a_fit_leaves_a_plateau_on_which_the_initial_parameters_lie():
    model = nextstat.from_pyhf(spec([55.0, 44.0], init=-1.0), clip_sample_data=0.1)
    right = nextstat.fit(nextstat.from_pyhf(spec([55.0, 44.0])))
    found = nextstat.fit(model)
    assert found.converged
    np.testing.assert_allclose(found.nll, right.nll, rtol=1e-10)


def test_a_minimum_on_a_plateau_is_one_if_the_fit_went_there():
    model = nextstat.from_pyhf(spec([40.0, 30.0]), clip_sample_data=0.0)
    right = nextstat.profile(model, 0.0)
    found = nextstat.fit(model)
    assert found.converged
    np.testing.assert_allclose(found.nll, right.nll, rtol=1e-10)


def test_a_conditional_fit_below_a_clip_with_counts_has_not_converged():
    plain, model = nextstat.from_pyhf(spec([55.0, 44.0])), nextstat.from_pyhf(spec([55.0, 44.0]), clip_bin_data=0.1)
    values = np.array([-40.0, -20.0, -5.0, 0.0, 3.0])
    right, scan = (nextstat.profile_scan(m, "mu", values=values) for m in (plain, model))
    np.testing.assert_array_equal(np.asarray(scan.status) == 0, [False, False, True, True, True])
    np.testing.assert_allclose(scan.nll[2:], right.nll[2:], rtol=1e-10)
    assert "where clipping leaves the likelihood without a slope" in nextstat.profile(model, -40.0).message


@pytest.mark.slow
@pytest.mark.parametrize("observed", [[55.0, 44.0], [40.0, 30.0], [0.0, 3.0]])
@pytest.mark.parametrize("clips", [{"clip_bin_data": 0.1}, {"clip_sample_data": 0.1}])
def test_a_limit_is_inside_the_bounds_or_has_not_converged(clips, observed):
    plain, model = nextstat.from_pyhf(spec(observed)), nextstat.from_pyhf(spec(observed), **clips)
    right, limit = nextstat.upper_limit(plain), nextstat.upper_limit(model)
    good = np.asarray(limit.converged)
    limits = np.array([limit.observed, *np.asarray(limit.expected)])
    assert ((limits > -50.0) & (limits < 50.0))[good].all()
    # A clip at 0.1 of 5 takes the place of no signal.
    wanted = np.array([right.observed, *np.asarray(right.expected)])
    np.testing.assert_allclose(limits[good], wanted[good], atol=0.03)


@pytest.mark.slow
def test_the_derivatives_of_a_minimum_above_a_clip_are_those_without_it():
    plain, model = nextstat.from_pyhf(spec([55.0, 44.0])), nextstat.from_pyhf(spec([55.0, 44.0]), clip_bin_data=0.1)
    slopes = [
        jax.grad(lambda data, m=m: nextstat.fit(m, data=data).params[m.poi_index])(m.likelihood.observed)
        for m in (plain, model)
    ]
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-8)
