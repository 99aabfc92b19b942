"""What several files of this folder test."""

from __future__ import annotations

import pytest

import nextstat_jax as nextstat
from tests.toys.support import N, fit_small, spec


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec())


@pytest.fixture(scope="module")
def toys(model):
    return fit_small(model, N)
