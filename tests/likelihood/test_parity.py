"""The likelihood of published workspaces against pyhf's stored numbers."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat

NAMES = ["simple", "complex", "tHu", "tttt", "SUSY-2018-04", "SUSY-2018-05", "SUSY-2018-31A"]


@pytest.fixture(scope="module", params=NAMES)
def pair(request, published, reference):
    """A model and what pyhf says about it."""
    return nextstat.from_pyhf(published(request.param)), reference[request.param]


def test_parameter_names_and_poi(pair):
    model, stored = pair
    assert model.parameter_names() == stored["parameter_names"]
    assert model.n_params == stored["n_params"]
    assert model.poi == stored["poi"]
    assert model.poi_index == stored["parameter_names"].index(stored["poi"])
    np.testing.assert_array_equal(model.parameter_init(), stored["points"][0])


def test_nll_at_every_stored_point(pair):
    model, stored = pair
    values = np.asarray(jax.jit(jax.vmap(model.nll))(np.array(stored["points"])))
    for value, theirs in zip(values, stored["nll"], strict=True):
        if math.isnan(theirs):
            # A rate is negative there, which pyhf does not guard.
            assert value == math.inf
        else:
            assert value == pytest.approx(theirs, rel=1e-10)


def test_one_point_equals_the_batch(pair):
    model, stored = pair
    point = np.array(stored["points"][0])
    assert float(model.nll(point)) == pytest.approx(stored["nll"][0], rel=1e-10)
    assert float(model.logpdf(point)) == -float(model.nll(point))
