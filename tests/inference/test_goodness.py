"""Goodness of fit, pulls and correlations against pyhf, SciPy and closed forms."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

import nextstat_jax as nextstat
from nextstat_jax._inference._goodness import correlation_matrix, correlations, goodness_of_fit, pulls
from tests.building import normfactor, one_channel, sample, shapefactor, shapesys
from tests.conftest import OWN

BINS = np.array([120.0, 95.0, 80.0, 60.0, 45.0, 30.0])


@pytest.fixture(scope="module")
def full():
    model = nextstat.from_pyhf(json.loads((OWN / "all_modifiers.json").read_text()))
    return model, nextstat.fit(model)


@pytest.fixture(scope="module")
def scaled():
    """A shape whose norm is free: the best fit is the ratio of the sums."""
    return nextstat.from_pyhf(one_channel([sample("s", BINS, normfactor("mu"))], BINS + 5.0))


def deviance_of_counts(n, nu):
    return 2.0 * (nu - n + n * np.log(n / nu)).sum()


# Goodness of fit.


def test_closed_form(scaled):
    n = BINS + np.array([12.0, -9.0, 3.0, 7.0, -11.0, 1.0])
    expected = deviance_of_counts(n, BINS * n.sum() / BINS.sum())
    result = goodness_of_fit(scaled, data=n)
    assert float(result.statistic) == pytest.approx(expected, rel=1e-9)
    assert int(result.ndof) == 5
    assert float(result.p_value) == pytest.approx(stats.chi2.sf(expected, 5), rel=1e-9)
    assert bool(result.converged) and result.message == "converged"


def test_a_held_parameter_is_not_free(scaled):
    result = goodness_of_fit(scaled, data=BINS + 5.0, fixed={"mu": 1.0})
    expected = deviance_of_counts(BINS + 5.0, BINS)
    assert float(result.statistic) == pytest.approx(expected, rel=1e-9)
    assert int(result.ndof) == 6
    assert float(result.p_value) == pytest.approx(stats.chi2.sf(expected, 6), rel=1e-9)


def test_a_perfect_description(scaled):
    result = goodness_of_fit(scaled, data=2.0 * BINS)
    assert float(result.statistic) == pytest.approx(0.0, abs=1e-12)
    assert float(result.p_value) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_statistic_from_pyhf(full):
    """2 (NLL - NLL of the saturated model), both by pyhf and SciPy, at the best fit."""
    import pyhf

    model, result = full
    workspace = pyhf.Workspace(json.loads((OWN / "all_modifiers.json").read_text()))
    oracle = workspace.model()
    data = np.array(workspace.data(oracle))
    n, aux = data[: model.n_bins], data[model.n_bins :]
    s = model.likelihood.structure
    saturated = stats.poisson.logpmf(n, n).sum()
    saturated += stats.norm.logpdf(0.0, 0.0, np.asarray(model.likelihood.widths)).sum()
    counts = aux[s.poisson_aux]
    # SciPy's mass function takes integers only, and pyhf's tau need not be one.
    saturated += (counts * np.log(counts) - counts - gammaln(counts + 1.0)).sum()
    nll = -float(oracle.logpdf(np.asarray(result.params), data)[0])
    found = goodness_of_fit(model)
    assert float(found.statistic) == pytest.approx(2.0 * (nll + saturated), rel=1e-8)
    free = [p for p in oracle.config.par_order if not oracle.config.param_set(p).constrained]
    assert int(found.ndof) == model.n_bins - sum(oracle.config.param_set(p).n_parameters for p in free)


def test_more_freedom_than_bins():
    samples = [sample("s", [10.0, 5.0], normfactor("mu")), sample("b", [50.0, 40.0], shapefactor("free"))]
    result = goodness_of_fit(nextstat.from_pyhf(one_channel(samples, [64.0, 41.0])))
    assert int(result.ndof) == -1
    assert np.isnan(float(result.p_value))
    assert "no p-value: -1 degrees of freedom" in result.message
    assert result.to_dict()["p_value"] is None
    assert "no p-value" in repr(result)


@pytest.mark.slow
def test_p_values_of_toys_are_uniform(scaled):
    rng = np.random.default_rng(31415)
    toys = jnp.asarray(rng.poisson(BINS, size=(400, len(BINS))), float)
    results = nextstat.batched(lambda n: goodness_of_fit(scaled, data=n), 100)(toys)
    assert bool(results.converged.all())
    assert "p_value=" in repr(results)
    # Counts of about 70 make the chi-squared distribution good to about 1 %, less than 400 toys can see.
    assert stats.kstest(np.asarray(results.p_value), "uniform").pvalue > 1e-3
    wrong = nextstat.batched(lambda n: goodness_of_fit(scaled, data=n, fixed={"mu": 0.93}), 100)(toys)
    assert stats.kstest(np.asarray(wrong.p_value), "uniform").pvalue < 1e-3


def test_derivatives(scaled):
    n = BINS + np.array([12.0, -9.0, 3.0, 7.0, -11.0, 1.0])

    def both(size):
        result = goodness_of_fit(scaled, data=n + size * jnp.array([1.0, 2.0, -1.0, 0.5, 0.0, 1.0]))
        return jnp.stack([result.statistic, result.p_value])

    step = 1e-4
    slopes = (both(step) - both(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jacrev(both)(0.0), slopes, rtol=1e-6)

    held = lambda mu: goodness_of_fit(scaled, data=n, fixed={"mu": mu}).statistic  # noqa: E731
    slope = (held(1.0 + step) - held(1.0 - step)) / (2 * step)
    assert float(jax.grad(held)(1.0)) == pytest.approx(float(slope), rel=1e-6)


def test_repr_and_dict(scaled):
    result = goodness_of_fit(scaled, data=BINS + 5.0)
    title, names, numbers = repr(result).splitlines()
    assert title == "GoodnessOfFit: converged" and names.split() == ["statistic", "ndof", "p_value"]
    assert numbers.split() == [f"{float(result.statistic):.6g}", "5", f"{float(result.p_value):.6g}"]
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["ndof"] == 5 and stored["statistic"] == float(result.statistic) and stored["converged"] is True


def test_wrong_names(scaled):
    with pytest.raises(nextstat.FitError, match="there is no parameter 'nu'"):
        goodness_of_fit(scaled, fixed={"nu": 1.0})


# Pulls.


def test_pulls_are_what_they_say(full):
    model, result = full
    found = pulls(model, result)
    kinds = {p.name: p for p in model.parameters()}
    assert found.names == tuple(p.name for p in model.parameters() if p.constraint != "none")
    sigma = {"lumi": 0.03, "theory": 1.0, "fake_shape[0]": 5.0 / 35.0, "fake_shape[1]": 4.0 / 22.0}
    sigma["stat_search[0]"] = np.hypot(2.1, 1.8) / 60.0
    index = {name: k for k, name in enumerate(model.names.parameters)}
    for name, width in sigma.items():
        k, i = found.names.index(name), index[name]
        center = 0.0 if kinds[name].init == 0.0 else 1.0
        assert float(found.width[k]) == pytest.approx(width, rel=1e-12)
        assert float(found.pull[k]) == pytest.approx((float(result.params[i]) - center) / width, rel=1e-9)
        assert float(found.constraint[k]) == pytest.approx(float(result.uncertainties[i]) / width, rel=1e-9)
    # Counts carry information: no uncertainty grows, apart from what the interpolation's curvature does.
    assert (np.asarray(found.constraint) <= 1.0 + 1e-4).all()


def test_pulls_against_a_closed_form():
    """A background of N +- sigma with a free signal elsewhere: mean and width of two measurements."""
    n, tau = 70.0, 25.0
    model = nextstat.from_pyhf(one_channel([sample("b", [50.0], shapesys("g", [10.0]))], [n], poi=""))
    found = pulls(model, nextstat.fit(model))
    best = (n + tau) / (50.0 + tau)  # n ~ 50 g and tau ~ tau g are Poisson counts of one rate
    width = np.sqrt(n + tau) / (50.0 + tau)
    assert float(found.pull[0]) == pytest.approx((best - 1.0) * np.sqrt(tau), rel=1e-8)
    assert float(found.constraint[0]) == pytest.approx(width * np.sqrt(tau), rel=1e-8)
    assert found.names == ("g[0]",)


def test_the_center_is_the_auxiliary_datum(full):
    model, _ = full
    k = pulls(model, full[1]).names.index("lumi")
    place = model.n_bins + int(np.flatnonzero(model.likelihood.structure.normal_params == model.index("lumi"))[0])
    place = model.n_bins + int(model.likelihood.structure.normal_aux[place - model.n_bins])
    shifted = model.observed_data.at[place].set(1.06)
    result = nextstat.fit(model, data=shifted)
    found = pulls(model, result, data=shifted)
    assert float(found.center[k]) == 1.06
    assert float(found.pull[k]) == pytest.approx((float(result.params[model.index("lumi")]) - 1.06) / 0.03, rel=1e-9)


def test_parameters_that_a_fit_holds(full):
    model, result = full
    held = replace(result, fixed=result.fixed.at[model.index("theory")].set(True))
    found = pulls(model, held)
    k = found.names.index("theory")
    assert bool(found.fixed[k]) and int(found.fixed.sum()) == 1
    assert [line.split()[-1] for line in repr(found).splitlines() if line.split()[0] == "theory"] == ["yes"]


def test_pulls_in_batches_and_tables(full):
    model, result = full
    one = pulls(model, result)
    two = jax.tree_util.tree_map(lambda x: jnp.stack([x, x]), result)
    batch = jax.vmap(lambda r: pulls(model, r))(two)
    np.testing.assert_allclose(batch.pull[1], one.pull, rtol=1e-12)
    assert "pull=" in repr(batch)
    with pytest.raises(nextstat.FitError, match="use jax.vmap"):
        pulls(model, two)

    stored = json.loads(json.dumps(one.to_dict()))
    assert stored["pulls"]["lumi"]["pull"] == float(one.pull[one.names.index("lumi")])
    frame = pytest.importorskip("pandas") and one.to_dataframe()
    assert list(frame["name"]) == list(one.names)
    np.testing.assert_array_equal(frame["constraint"], one.constraint)


def test_no_constraints(scaled):
    assert pulls(scaled, nextstat.fit(scaled)).names == ()


# Correlations.


def test_strongest_pairs_first(full):
    _, result = full
    found = correlations(result, threshold=0.0)
    n = len(result.parameter_names)
    assert len(found.pairs) == n * (n - 1) // 2
    strength = np.abs(np.asarray(found.values))
    assert (np.diff(strength) <= 0).all()
    index = {name: k for k, name in enumerate(result.parameter_names)}
    for (a, b), value in zip(found.pairs, found.values, strict=True):
        assert float(value) == float(result.correlation[index[a], index[b]])
        assert index[a] < index[b]
    some = correlations(result, threshold=0.3)
    assert len(some.pairs) == int((strength >= 0.3).sum()) > 0
    assert correlations(result, threshold=0.0, top_n=3).pairs == found.pairs[:3]


def test_tables_of_correlations(full):
    _, result = full
    found = correlations(result, threshold=0.3)
    lines = repr(found).splitlines()
    assert lines[0] == f"Correlations: {len(found.pairs)} pairs: converged" and lines[1].split() == [
        "first",
        "second",
        "correlation",
    ]
    assert tuple(lines[2].split()[:2]) == found.pairs[0]
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["pairs"][0] == {"parameters": list(found.pairs[0]), "correlation": float(found.values[0])}
    assert repr(correlations(result, threshold=1.0)).splitlines()[0] == "Correlations: 0 pairs: converged"
    frame = pytest.importorskip("pandas") and found.to_dataframe()
    assert list(zip(frame["first"], frame["second"], strict=True)) == list(found.pairs)


def test_wrong_input_of_correlations(full):
    _, result = full
    with pytest.raises(nextstat.FitError, match="threshold=2.0: expected a number between 0 and 1"):
        correlations(result, threshold=2.0)
    with pytest.raises(nextstat.FitError, match="top_n=0"):
        correlations(result, top_n=0)
    with pytest.raises(nextstat.FitError, match="expected a fit as fit.model. returns it, found str"):
        correlation_matrix("fit")
    two = jax.tree_util.tree_map(lambda x: jnp.stack([x, x]), result)
    with pytest.raises(nextstat.FitError, match="give one of its fits"):
        correlations(two)
    with pytest.raises(nextstat.FitError, match="outside jit, grad and vmap"):
        jax.vmap(correlations)(two)
