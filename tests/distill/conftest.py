"""A small model, points of it, and a good surrogate: made once for all files."""

from __future__ import annotations

import pytest

import nextstat_jax as nextstat
from nextstat_jax.distill import generate_dataset, train_mlp_surrogate
from tests.distill.support import QUIET, SPEC


@pytest.fixture(scope="session")
def model():
    return nextstat.from_pyhf(SPEC)


@pytest.fixture(scope="session")
def ds(model):
    return generate_dataset(model, 6000, method="profile", run=QUIET)


@pytest.fixture(scope="session")
def surrogate(ds):
    return train_mlp_surrogate(ds, hidden_layers=(32, 32), epochs=60, batch_size=256, lr=0.01, progress=False)
