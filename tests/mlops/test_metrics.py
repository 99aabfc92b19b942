"""Results as flat dictionaries of numbers."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import pytest
from scipy.stats import norm

import nextstat_jax as nextstat
from nextstat_jax import mlops


def test_a_fit_is_flat_floats(model, result):
    metrics = mlops.metrics_dict(result, "fit/")
    assert {type(value) for value in metrics.values()} == {float}
    assert metrics["fit/mu"] == float(result.mu)
    assert metrics["fit/mu_uncertainty"] == float(result.mu_uncertainty)
    assert metrics["fit/nll"] == float(result.nll)
    assert metrics["fit/edm"] == float(result.edm)
    assert metrics["fit/converged"] == 1.0
    assert metrics["fit/n_iter"] == int(result.n_iter)
    assert metrics["fit/n_at_bound"] == 0.0
    k = result.parameter_names.index("xs")
    assert metrics["fit/value/xs"] == float(result.params[k])
    assert metrics["fit/uncertainty/xs"] == float(result.uncertainties[k])
    short = mlops.metrics_dict(result, parameters=False)
    assert list(short) == ["mu", "mu_uncertainty", "nll", "edm", "converged", "n_iter", "n_at_bound"]
    pulled = mlops.metrics_dict(result, model=model)
    # The auxiliary measurement of a normsys is 0 with width 1.
    assert pulled["pull/xs"] == pytest.approx(metrics["fit/value/xs"], rel=1e-12)
    assert set(pulled) - set(mlops.metrics_dict(result)) == {"pull/xs", "pull/mc[0]", "pull/mc[1]", "pull/mc[2]"}
    json.dumps(pulled, allow_nan=False)
    more = mlops.metrics_dict(result, "fit/", extra={"epoch": 3, "edm": 7}, parameters=False)
    assert (more["fit/epoch"], more["fit/edm"]) == (3.0, 7.0)


def hypotest_of():
    """Results with made-up numbers: here it is their form that matters."""
    one, bands = jnp.asarray(0.25), jnp.linspace(0.1, 0.9, 5)
    # Positional, since a class method's own first argument is called `cls`.
    return nextstat.HypoTest(
        jnp.asarray(2.0),
        one,
        one,
        one,
        bands,
        bands,
        bands,
        one,
        one,
        one,
        jnp.array(0),
        jnp.array(jnp.inf),
        "qtilde",
        "asymptotic",
        "mu",
    )


def limit_of(observed=1.25):
    return nextstat.UpperLimit(
        observed=jnp.asarray(observed), expected=jnp.asarray([0.5, 0.7, 1.0, 1.4, 1.9]), mu_hat=jnp.asarray(0.1),
        status=jnp.zeros(6, int), n_fits=jnp.array(9), next_minimum=jnp.array(jnp.inf), level=0.95, parameter="mu",
        test_stat="qtilde",
    )  # fmt: skip


def discovery_of():
    numbers = {"q0": 4.0, "z0": 2.0, "p0": norm.sf(2.0), "mu_hat": 1.3, "mu_expected": 1.0}
    numbers |= {"q0_expected": 2.25, "z0_expected": 1.5, "p0_expected": norm.sf(1.5)}
    arrays = {name: jnp.asarray(value) for name, value in numbers.items()}
    return nextstat.Discovery(**arrays, status=jnp.array(0), next_minimum=jnp.array(jnp.inf), parameter="mu")


def test_other_results_are_flat_floats(model, result):
    test, limit, found = hypotest_of(), limit_of(), discovery_of()
    metrics = mlops.metrics_dict(test)
    assert metrics["cls"] == float(test.cls)
    assert [metrics[f"cls_expected{end}"] for end in ("_m2", "_m1", "", "_p1", "_p2")] == test.cls_expected.tolist()
    several = mlops.metrics_dict(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), test))
    assert several["cls_expected_m2/1"] == 2 * metrics["cls_expected_m2"]
    assert several["mu/1"] == 4.0
    metrics = mlops.metrics_dict(limit, "limit/")
    assert metrics["limit/observed"] == 1.25
    assert (metrics["limit/expected_m2"], metrics["limit/expected"]) == (0.5, 1.0)
    assert metrics["limit/converged/0"] == 1.0
    assert mlops.metrics_dict(found)["z0_expected"] == 1.5
    shifts = nextstat.interpret.impacts(model, method="linear")
    metrics = mlops.metrics_dict(shifts)
    assert metrics["impacts/xs/post_up"] == float(shifts.post_up[shifts.names.index("xs")])
    ranking = nextstat.interpret.rank_impact(shifts)
    metrics = mlops.metrics_dict(ranking, "rank/")
    assert metrics["rank/xs/total_impact"] == pytest.approx(float(shifts.total[shifts.names.index("xs")]))
    assert mlops.metrics_dict(nextstat.pulls(model, result))["pulls/xs/pull"] == pytest.approx(
        float(result.params[result.parameter_names.index("xs")])
    )
    for one in (test, limit, found, shifts, ranking):
        assert {type(value) for value in mlops.metrics_dict(one).values()} == {float}


def test_numbers_that_are_not_finite_follow_the_rule():
    numbers = {"a": 1, "b": math.nan, "c": math.inf, "d": None, "words": "left out"}
    assert mlops.metrics_dict(numbers) == {"a": 1.0}
    kept = mlops.metrics_dict(numbers, nonfinite="keep")
    assert list(kept) == ["a", "b", "c", "d"]
    assert kept["c"] == math.inf
    assert math.isnan(kept["d"])
    # Where a result's dictionary says None, the number itself is kept.
    none = limit_of(math.inf)
    assert none.to_dict()["observed"] is None
    assert "observed" not in mlops.metrics_dict(none)
    assert mlops.metrics_dict(none, nonfinite="keep")["observed"] == math.inf
    pulls = {"name": "x", "pull": math.nan, "total": jnp.float32(2.0)}
    assert mlops.metrics_dict([pulls]) == {"x/total": 2.0}


def test_significance_metrics():
    metrics = mlops.significance_metrics(jnp.asarray(2.5), step_time_ms=1.25, prefix="train/", extra={"epoch": 1})
    expected = {"z0": 2.5, "q0": 6.25, "p0": norm.sf(2.5), "loss": -2.5, "step_time_ms": 1.25, "epoch": 1.0}
    assert metrics == pytest.approx({f"train/{name}": value for name, value in expected.items()}, rel=1e-12)
    given = mlops.significance_metrics(2.0, q0=4.1, loss=0.3)
    assert (given["q0"], given["loss"]) == (4.1, 0.3)
    found = discovery_of()
    metrics = mlops.significance_metrics(found)
    assert metrics["p0"] == pytest.approx(float(found.p0), rel=1e-12)
    assert (metrics["q0"], metrics["z0_expected"], metrics["mu_hat"]) == (4.0, 1.5, 1.3)
    assert "z0" not in mlops.significance_metrics(math.nan)
    assert math.isnan(mlops.significance_metrics(math.nan, nonfinite="keep")["z0"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: mlops.metrics_dict(3), "a int is no result"),
        (lambda m: mlops.metrics_dict({"a": object()}), "a is <object"),
        (lambda m: mlops.metrics_dict({"a/b": 1, "a": {"b": 2}}), "two numbers are called 'a/b'"),
        (lambda m: mlops.metrics_dict({}, nonfinite="zero"), "nonfinite='zero'"),
        (lambda m: mlops.metrics_dict({}, model=m), "pulls of a FitResult alone"),
        (lambda m: mlops.metrics_dict(jax.tree.map(lambda x: x[None], nextstat.fit(m))), "a batch of"),
        (lambda m: mlops.significance_metrics([1.0, 2.0]), "z0 has shape .2,.: expected one number"),
        (lambda m: mlops.significance_metrics("high"), "z0 is 'high'"),
    ],
)
def test_wrong_input_has_one_clear_line(model, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)
