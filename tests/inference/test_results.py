"""What all results have in common: statuses, plain numbers that JSON can hold, tables, and how batches print."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._result import Result
from nextstat_jax.interpret import grouped_impacts, impacts, importance
from tests.inference.support import small
from tests.selection import mostly_slow


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small((-5.0, 10.0)))


QUESTIONS = {
    "fit": nextstat.fit,
    "profile": lambda m: nextstat.profile(m, 1.0),
    "q0_test": nextstat.q0_test,
    "hypotest": lambda m: nextstat.hypotest(m, [0.5, 1.0]),
    "discovery": nextstat.discovery,
    "upper_limit": nextstat.upper_limit,
    "scan": lambda m: nextstat.profile_scan(m, "mu", [0.0, 1.0]),
    "grid": lambda m: nextstat.profile_scan(m, ("mu", "tilt"), ([0.0, 1.0], [-0.5, 0.0, 0.5])),
    "interval": lambda m: nextstat.interval(m, "scale"),
    "contour": lambda m: nextstat.contour(m, ("mu", "tilt"), level=0.6827, n_points=4),
    "impacts": lambda m: impacts(m, method="linear"),
    "grouped_impacts": grouped_impacts,
    "goodness_of_fit": nextstat.goodness_of_fit,
    "pulls": lambda m: nextstat.pulls(m, nextstat.fit(m)),
    "correlations": lambda m: nextstat.correlations(nextstat.fit(m)),
    "yields": nextstat.yields,
    "importance": importance,
}


@pytest.fixture(scope="module")
def answers(model):
    known = {}

    def answer(question):
        if question not in known:
            known[question] = QUESTIONS[question](model)
        return known[question]

    return answer


@pytest.mark.parametrize("question", mostly_slow(QUESTIONS, *(q for q in QUESTIONS if q != "importance")))
def test_every_result_is_plain_numbers_and_text(answers, question):
    result = answers(question)
    assert isinstance(result, Result)
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["status"] == result.message
    assert np.all(stored["converged"]) and np.all(np.asarray(result.converged))
    lines = repr(result).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 250
    assert len(pytest.importorskip("pandas") and result.to_dataframe()) > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.status = 1


@pytest.mark.parametrize("question", mostly_slow(QUESTIONS, *(q for q in QUESTIONS if q != "importance")))
def test_every_batch_prints_as_what_it_is(answers, question):
    one = answers(question)
    batch = jax.tree.map(lambda x: jnp.stack([x, x, x]), one)
    kind = type(one).__name__
    assert repr(batch).startswith(f"{kind}(") and "\n" not in repr(batch) and "[3" in repr(batch)
    with pytest.raises(nextstat.ModelError, match=rf"a batch of {kind} of shape \(3,\) has no table of its own"):
        batch.to_dataframe()
    assert repr(jax.tree.map(lambda x: x[1], batch)) == repr(one)


def test_traced_results_print(model):
    seen = []

    def of(data):
        fit = nextstat.fit(model, data=data)
        seen.append(repr(fit))
        return fit.mu

    jax.eval_shape(of, model.observed_data)
    assert seen[0].startswith("FitResult(params=float64[")


def test_numbers_that_json_has_no_word_for(model):
    result = nextstat.upper_limit(model.with_templates({"signal": jnp.zeros(3)}))
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["observed"] is None and stored["expected"] == [None] * 5
    assert stored["converged"] == [False] * 6 and "there is none" in stored["status"]


def test_parameters_of_a_fit_by_name(model, answers):
    fit = answers("fit")
    for name in model.parameter_names():
        assert float(fit[name]) == float(fit.params[model.index(name)])
    assert float(fit["mu"]) == float(fit.mu)
    with pytest.raises(nextstat.FitError, match="there is no parameter 'nu' in this fit"):
        fit["nu"]
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), fit)
    assert batch["tilt"].shape == (2,)


def test_a_fit_without_a_parameter_of_interest(model):
    fit = nextstat.fit(model.with_poi(None))
    assert fit.poi_index is None
    assert float(fit["mu"]) == pytest.approx(float(nextstat.fit(model).mu), abs=1e-9)
    for name in ("mu", "mu_uncertainty"):
        with pytest.raises(nextstat.ModelError, match="the fit has no parameter of interest"):
            getattr(fit, name)


def test_a_grid_prints_as_it_lies(answers):
    grid = answers("grid")
    title, head, *rows = repr(grid).splitlines()
    assert title.startswith("ScanResult: 7 of 7: converged; best fit mu = ")
    assert head.split() == ["mu", "\\", "tilt", "-0.5", "0", "0.5"]
    numbers = [[float(word) for word in row.split()] for row in rows]
    np.testing.assert_allclose([row[0] for row in numbers], grid.values[0], rtol=1e-5)
    np.testing.assert_allclose([row[1:] for row in numbers], grid.delta, rtol=1e-5)
    assert len(grid.to_dataframe()) == 6


def test_the_median_limit(answers):
    limit = answers("upper_limit")
    assert float(limit.median) == float(limit.expected[2])
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), limit)
    np.testing.assert_array_equal(batch.median, batch.expected[:, 2])
