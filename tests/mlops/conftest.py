"""A model and its fit, shared by the tests of this folder."""

from __future__ import annotations

import pytest

import nextstat_jax as nextstat
from tests.mlops.support import spec_of


@pytest.fixture(scope="module")
def model():
    # Of the same structure as the toy below, so that they share compiled functions.
    return nextstat.from_pyhf(spec_of([3.0, 6.0, 2.0], [30.0, 20.0, 25.0], [3.0, 2.0, 2.0], [35.0, 28.0, 26.0]))


@pytest.fixture(scope="module")
def result(model):
    return nextstat.fit(model)
