"""Rankings of nuisance parameters: order, options, other parameters of interest, tables and pictures."""

from __future__ import annotations

import inspect
import json
from inspect import ismodule

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import interpret
from tests import building as b

MU = {"name": "mu", "bounds": [[-5.0, 10.0]]}


@pytest.fixture(scope="module")
def model():
    signal = b.sample("signal", [6.0, 12.0, 5.0], b.normfactor("mu"), b.normsys("scale", 0.9, 1.15))
    tilt = b.histosys("tilt", [58.0, 41.0, 24.0], [62.0, 39.0, 16.0])
    background = b.sample(
        "background", [60.0, 40.0, 20.0], tilt, b.normfactor("norm"), b.staterror("mc", [3.0, 2.5, 2.0])
    )
    control = b.sample("background", [200.0], b.normfactor("norm"), b.shapesys("fake", [12.0]))
    channels = {"control": [control], "search": [signal, background]}
    return nextstat.from_pyhf(
        b.workspace(channels, {"control": [206.0], "search": [63.0, 49.0, 22.0]}, parameters=[MU])
    )


@pytest.fixture(scope="module")
def result(model):
    return interpret.impacts(model)


@pytest.fixture(scope="module")
def rows(model):
    return interpret.rank_impact(model)


def test_the_largest_comes_first(result, rows):
    assert [row["rank"] for row in rows] == list(range(1, len(result.names) + 1))
    totals = [row["total_impact"] for row in rows]
    assert totals == sorted(totals, reverse=True)
    first = rows[0]
    assert first["total_impact"] == abs(first["delta_mu_up"]) + abs(first["delta_mu_down"])
    assert {row["poi"] for row in rows} == {"mu"} and all(row["converged"] for row in rows)
    fields = {
        "delta_mu_up": "post_up",
        "delta_mu_down": "post_down",
        "delta_mu_up_prefit": "pre_up",
        "delta_mu_down_prefit": "pre_down",
        "pull": "pull",
        "constraint": "constraint",
    }
    for row in rows:
        k = result.names.index(row["name"])
        for key, field in fields.items():
            assert row[key] == pytest.approx(float(getattr(result, field)[k]), abs=1e-9, nan_ok=True)


def test_orders(model, result, rows):
    smallest = interpret.rank_impact(result, top_n=2, ascending=True)
    assert [row["name"] for row in smallest] == [row["name"] for row in rows[::-1][:2]]
    named = [row["name"] for row in interpret.rank_impact(result, sort_by="name", ascending=True)]
    assert named == sorted(result.names)
    assert [row["name"] for row in interpret.rank_impact(result, sort_by="name")] == named[::-1]
    for key, column in (("up", "delta_mu_up"), ("down", "delta_mu_down")):
        sizes = [abs(row[column]) for row in interpret.rank_impact(result, sort_by=key)]
        assert sizes == sorted(sizes, reverse=True)
    for key in ("pull", "constraint"):
        for ascending in (False, True):
            sizes = [abs(row[key]) for row in interpret.rank_impact(result, sort_by=key, ascending=ascending)]
            # The free normalization has neither, and comes last in any case.
            assert np.isnan(sizes[-1]) and sizes[:-1] == sorted(sizes[:-1], reverse=not ascending)


def test_known_impacts_are_ranked_as_the_model_is(result, rows):
    known = interpret.rank_impact(result)
    assert [row["name"] for row in known] == [row["name"] for row in rows]
    np.testing.assert_allclose([row["delta_mu_up"] for row in known], [row["delta_mu_up"] for row in rows], atol=1e-9)


def test_options_of_the_fit(model, rows):
    linear = interpret.rank_impact(model, method="linear", top_n=1)[0]
    assert linear["delta_mu_up"] == pytest.approx(-linear["delta_mu_down"], rel=1e-9)
    held = interpret.rank_impact(model, fixed={"tilt": 0.0})
    assert {row["name"] for row in rows} - {row["name"] for row in held} == {"tilt"}
    asimov = interpret.rank_impact(model, data=nextstat.asimov_data(model))
    assert all(abs(row["pull"]) < 1e-6 for row in asimov if np.isfinite(row["pull"]))
    start = model.parameter_init().at[model.poi_index].set(3.0)
    other = interpret.rank_impact(model, init=start)
    np.testing.assert_allclose([row["total_impact"] for row in other], [row["total_impact"] for row in rows], rtol=1e-5)


def test_any_parameter_can_be_the_one_of_interest(model):
    other = model.with_poi("norm")
    rows = interpret.rank_impact(other)
    assert {row["poi"] for row in rows} == {"norm"}
    assert {row["name"] for row in rows} == set(model.parameter_names()) - {"norm"}
    best = nextstat.fit(other)
    for row in rows[:2]:
        k = other.index(row["name"])
        moved = nextstat.fit(other, fixed={row["name"]: float(best.params[k] + best.uncertainties[k])})
        assert row["delta_mu_up"] == pytest.approx(float(moved["norm"] - best["norm"]), abs=2e-6)
    with pytest.raises(nextstat.ModelError, match="needs a parameter of interest"):
        interpret.rank_impact(model.with_poi(None))


def test_a_table(model, rows):
    pandas = pytest.importorskip("pandas")
    frame = interpret.rank_impact_df(model, top_n=3)
    assert isinstance(frame, pandas.DataFrame) and frame["rank"].tolist() == [1, 2, 3]
    assert frame.columns.tolist() == list(rows[0])
    assert frame["name"].tolist() == [row["name"] for row in rows[:3]]
    constrained = next(row for row in rows if np.isfinite(row["constraint"]))
    assert json.loads(json.dumps(constrained)) == constrained


def test_the_table_takes_what_the_ranking_takes():
    ours, others = (inspect.signature(f).parameters for f in (interpret.rank_impact_df, interpret.rank_impact))
    assert list(ours.values()) == list(others.values())


def test_without_another_parameter_there_are_no_rows():
    pytest.importorskip("pandas")
    samples = [b.sample("signal", [5.0], b.normfactor("mu")), b.sample("background", [50.0])]
    lonely = nextstat.from_pyhf(b.one_channel(samples, [57.0]))
    assert interpret.rank_impact(lonely) == []
    assert len(interpret.rank_impact_df(lonely)) == 0


@pytest.mark.parametrize("form", [lambda m, r: m, lambda m, r: r, lambda m, r: interpret.rank_impact(r)])
def test_the_picture_takes_all_three(model, result, form):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.subplots()
    bars, points = interpret.plot_rank_impact(form(model, result), top_n=3, ax=ax)
    assert bars is ax and points.figure is figure
    assert len(ax.get_yticklabels()) == 3


def test_the_picture_names_the_parameter_of_interest(model):
    pytest.importorskip("matplotlib")
    other = interpret.impacts(model.with_poi("norm"), method="linear")
    for form in (other, interpret.rank_impact(other)):
        assert interpret.plot_rank_impact(form)[0].get_xlabel() == r"$\Delta\,$norm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort_by": "size"}, "sort_by='size': expected one of 'total'"),
        ({"top_n": 0}, "top_n=0: expected a positive integer"),
        ({"top_n": True}, "top_n=True: expected a positive integer"),
        ({"method": "linear"}, "these impacts are known already, method cannot change them"),
        ({"data": [1.0]}, "these impacts are known already, data cannot change them"),
    ],
)
def test_wrong_options(result, options, message):
    with pytest.raises(nextstat.FitError, match=message) as caught:
        interpret.rank_impact(result, **options)
    assert "\n" not in str(caught.value)


def test_wrong_arguments(model, result):
    with pytest.raises(nextstat.FitError, match="method='toys': expected one of 'refit', 'linear'"):
        interpret.rank_impact(model, method="toys")
    with pytest.raises(nextstat.ModelError, match="expected a model"):
        interpret.rank_impact("workspace.json")
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), result)
    with pytest.raises(nextstat.FitError, match="a batch of shape"):
        interpret.rank_impact(batch)


def test_the_namespace_shows_what_is_public():
    # Modules aside: the checks of annotations import theirs into every module.
    public = {name for name in dir(interpret) if not name.startswith("_") and not ismodule(getattr(interpret, name))}
    assert public == {
        "GroupedImpacts",
        "Impacts",
        "Importance",
        "grouped_impacts",
        "impacts",
        "importance",
        "plot_rank_impact",
        "rank_impact",
        "rank_impact_df",
    }
