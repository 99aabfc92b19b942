"""Counts of any size: the NLL of a model that predicts its data exactly is known in closed form.

It is ``log(2 pi n) / 2 + r`` for each count n, with r between ``1 / (12 n + 1)`` and ``1 / (12 n)`` (H. Robbins, Amer.
Math. Monthly 62 (1955) 26).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import nextstat_jax as nextstat
from tests import building as b


@pytest.mark.parametrize("tau", [3.0, 25.0, 1e3, 1e8, 1e13, 1e15])
@pytest.mark.parametrize("count", [2.0, 50.0, 1e9])
def test_the_nll_of_a_perfect_prediction(count, tau):
    spec = b.one_channel(
        [b.sample("b", [count], b.shapesys("u", [count / math.sqrt(tau)])), b.sample("s", [1.0], b.normfactor("mu"))],
        [count],
    )
    model = nextstat.from_pyhf(spec)
    params = np.array([0.0 if name == "mu" else 1.0 for name in model.parameter_names()])
    data = model.expected_data(params)
    counts = np.asarray(data)
    middle = 0.5 * np.log(2.0 * np.pi * counts)
    low, high = (middle + 1.0 / (12.0 * counts + 1.0)).sum(), (middle + 1.0 / (12.0 * counts)).sum()
    slack = 1e-12 * high
    assert low - slack <= float(model.nll(params, data)) <= high + slack
