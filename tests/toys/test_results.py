"""What sets of toys show of themselves, and what is refused at the door."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._toys._toys import fit_toys, sample_toys, stream_toys
from tests.toys.support import N, spec


def test_summary_and_exports(model, toys):
    text = repr(toys)
    assert text.startswith(f"ToyFits: {N} toys from number 0 with seed 5: {N} of {N}: converged")
    mu = np.asarray(toys.mu_hat)
    assert f"{mu.mean():.6g}" in text
    assert f"{mu.std(ddof=1):.6g}" in text
    assert f"{np.asarray(toys.pull).std(ddof=1):.6g}" in text
    stored = json.loads(json.dumps(toys.to_dict()))
    assert stored["mu_hat"] == pytest.approx(mu.tolist())
    assert stored["generated_at"]["mu"] == pytest.approx(float(toys.generated_at[model.poi_index]))
    assert len(stored["params"]) == N
    frame = toys.to_dataframe()
    assert len(frame) == N
    np.testing.assert_array_equal(frame["toy"], np.arange(N))
    np.testing.assert_array_equal(frame["mu"], toys.mu_hat)
    np.testing.assert_array_equal(frame["u[1]"], toys.params[:, model.index("u[1]")])


def test_results_are_pytrees(toys):
    doubled = jax.tree.map(lambda x: 2 * x, toys)
    np.testing.assert_array_equal(doubled.mu_hat, 2 * toys.mu_hat)
    assert doubled.parameter_names == toys.parameter_names


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_toys": 0}, nextstat.FitError, "n_toys=0: expected a positive integer"),
        ({"n_toys": 2.0}, nextstat.FitError, "n_toys=2.0: expected a positive integer"),
        ({"n_toys": True}, nextstat.FitError, "n_toys=True"),
        ({"n_toys": 2**31 + 1}, nextstat.FitError, r"below 2\*\*31"),
        ({"first_toy": -1}, nextstat.FitError, "first_toy=-1: expected an integer from 0 on"),
        ({"seed": -1}, nextstat.FitError, "seed=-1"),
        ({"seed": 2**63}, nextstat.FitError, r"below 2\*\*63"),
        ({"seed": "x"}, nextstat.FitError, "seed='x'"),
        ({"run": {"workers": 2}}, nextstat.FitError, r"run is a dict: give a Run, as in run=Run\(workers=2\)"),
        ({"quantities": 3}, nextstat.FitError, "quantities=3: expected some of 'mu_uncertainty'"),
        ({"quantities": ("width",)}, nextstat.FitError, "there is no 'width'; expected some of 'mu_uncertainty'"),
        ({"test_stat": "qmu"}, nextstat.FitError, "test_stat='qmu': expected one of 'qtilde', 'q', 'q0', or None"),
        ({"test_stat": "q"}, nextstat.FitError, "needs the value to test: give mu_test"),
        ({"test_stat": "qtilde", "mu_test": -1.0}, nextstat.FitError, "cannot be negative: use test_stat='q'"),
        ({"test_stat": "q0", "mu_test": 1.0}, nextstat.FitError, "mu_test is 1, but q0 tests mu = 0"),
        (
            {"test_stat": "q", "mu_test": -6.0},
            nextstat.FitError,
            r"mu_test is -6, outside the bounds \[-5, 10\]",
        ),
        ({"mu_test": float("nan")}, nextstat.FitError, "mu_test is nan: give a finite number"),
        ({"mu": [1.0, 2.0]}, nextstat.FitError, r"mu has shape \(2,\): give one number"),
        ({"params": [1.0]}, nextstat.ModelError, r"params has shape \(1,\), expected \(7,\)"),
        ({"params": [float("nan")] * 7}, nextstat.FitError, "params is not finite for h"),
        ({"mu": -99.0}, nextstat.FitError, "the fit that toys are to be thrown from failed"),
        ({"params": [-99.0, 1, 1, 1, 1, 1, 1]}, nextstat.FitError, r"params predict -.* in bin 0 of channel bins"),
        ({"data": [1.0]}, nextstat.ModelError, "data has shape"),
    ],
)
def test_wrong_arguments_in_one_line(model, options, error, message):
    arguments = {"n_toys": 2, **options}
    for function in (fit_toys, stream_toys):
        with pytest.raises(error, match=message) as caught:
            function(model, **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_more_wrong_arguments(model):
    params = np.array(model.parameter_init())
    params[model.index("u[0]")] = -0.1
    with pytest.raises(nextstat.FitError, match="in auxiliary data of u"):
        sample_toys(model, 2, params=params)
    with pytest.raises(nextstat.ModelError, match="from_pyhf"):
        sample_toys(spec(), 2)
    with pytest.raises(nextstat.FitError, match="not inside jit"):
        jax.jit(lambda m: fit_toys(m, 2).mu_hat)(model)
