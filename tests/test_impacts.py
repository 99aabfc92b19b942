"""Impacts and rankings against pyhf's conditional fits, and the batch fitter behind them against the single one."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._fit import solve_fit, unconditional
from nextstat_jax._inference._refit import Lanes, make_center, refit
from nextstat_jax.interpret import _ranking
from tests.building import normfactor, one_channel, sample
from tests.test_asymptotics import central, small, yields_of


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small((-5.0, 10.0)))


@pytest.fixture(scope="module")
def result(model):
    return _ranking.impacts(model)


def test_impacts_are_those_of_conditional_fits(model, result):
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-14))
    workspace = pyhf.Workspace(small((-5.0, 10.0)))
    oracle = workspace.model()
    data, fit = workspace.data(oracle), nextstat.fit(model)

    def mu_at(name, value):
        k = oracle.config.par_names.index(name)
        init, fixed = oracle.config.suggested_init(), oracle.config.suggested_fixed()
        init[k], fixed[k] = value, True
        return float(pyhf.infer.mle.fit(data, oracle, init, fixed_params=fixed)[oracle.config.poi_index])

    assert set(result.names) == set(oracle.config.par_names) - {"mu"}
    assert bool(result.converged.all())
    widths = {"scale": 1.0, "tilt": 1.0, "fake[0]": 12.0 / 200.0, "mc[0]": 3.0 / 60.0}
    for name, width in widths.items():
        k, i = result.names.index(name), model.index(name)
        best, post = float(fit.params[i]), float(fit.uncertainties[i])
        for ours, value in (
            (result.post_up, best + post),
            (result.post_down, best - post),
            (result.pre_up, best + width),
            (result.pre_down, best - width),
        ):
            assert float(ours[k]) == pytest.approx(mu_at(name, value) - float(fit.mu), abs=2e-5)
        center = 0.0 if name in ("scale", "tilt") else 1.0
        assert float(result.pull[k]) == pytest.approx((best - center) / width, abs=1e-7)
        assert float(result.constraint[k]) == pytest.approx(post / width, rel=1e-7)


def test_linear_impacts_come_from_the_covariance(model, result):
    linear = _ranking.impacts(model, method="linear")
    fit = nextstat.fit(model)
    for k, name in enumerate(linear.names):
        i = model.index(name)
        expected = fit.covariance[model.poi_index, i] / fit.uncertainties[i]
        assert float(linear.post_up[k]) == pytest.approx(float(expected), rel=1e-9)
        assert float(linear.post_down[k]) == pytest.approx(-float(linear.post_up[k]), rel=1e-9)
    # Near enough to the refits in a likelihood that is nearly Gaussian, and not the same.
    np.testing.assert_allclose(linear.post_up, result.post_up, atol=0.05)
    assert not np.allclose(linear.post_up, result.post_up, atol=1e-6)


def test_parameters_without_a_constraint_and_on_bounds():
    """A free normalization has no pre-fit width; a shift beyond a bound ends on the bound."""
    samples = [sample("signal", [5.0, 1.0], normfactor("mu")), sample("bkg", [50.0, 60.0], normfactor("norm"))]
    parameters = [{"name": "norm", "bounds": [[0.0, 1.02]]}, {"name": "mu", "bounds": [[-9.0, 9.0]]}]
    model = nextstat.from_pyhf(one_channel(samples, [55.0, 60.0], parameters=parameters))
    ours = _ranking.impacts(model)
    assert ours.names == ("norm",)
    assert float(ours.pre_up[0]) == 0.0 and math.isnan(ours.pull[0]) and math.isnan(ours.constraint[0])
    fit = nextstat.fit(model)
    held = nextstat.fit(model, fixed={"norm": 1.02})
    assert float(fit.params[model.index("norm")] + fit.uncertainties[model.index("norm")]) > 1.02
    assert float(ours.post_up[0]) == pytest.approx(float(held.mu - fit.mu), abs=1e-7)


@pytest.mark.slow
def test_derivatives_of_impacts(model):
    start, change = yields_of(model)

    def shifts(x):
        ours = _ranking.impacts(change(x))
        return jnp.concatenate([ours.post_up[:3], ours.pre_down[:3], ours.mu_hat[None]])

    np.testing.assert_allclose(jax.jacrev(shifts)(start), central(shifts, start, 1e-3), rtol=1e-5, atol=1e-8)


def test_grouped_impacts(model):
    """With a group held at its best fit, the uncertainty is that of a fit with the group fixed."""
    ours = _ranking.grouped_impacts(model, {"shape": ["tilt"], "stat": "mc*", "all": ["*"]})
    fit = nextstat.fit(model)
    total = float(fit.mu_uncertainty)
    assert float(ours.total) == pytest.approx(total, rel=1e-9)
    members = {"shape": ["tilt"], "stat": ["mc[0]", "mc[1]", "mc[2]"]}
    members["all"] = [name for name in model.parameter_names() if name != "mu"]
    for impact, group in zip(ours.impacts, ours.groups, strict=True):
        held = nextstat.fit(model, fixed={name: float(fit.params[model.index(name)]) for name in members[group]})
        remaining = float(held.mu_uncertainty)
        assert float(impact) == pytest.approx(math.sqrt(total**2 - remaining**2), rel=1e-5)
        if group == "all":
            assert float(ours.statistical) == pytest.approx(remaining, rel=1e-6)
    default = _ranking.grouped_impacts(model)
    assert default.groups == ("MC statistics", "systematics")
    assert json.loads(json.dumps(default.to_dict()))["total"] == pytest.approx(total)
    assert "statistical" in repr(default)


def test_ranking(model, result):
    rows = _ranking.rank_impact(model)
    assert [row["rank"] for row in rows] == list(range(1, len(result.names) + 1))
    totals = [row["total_impact"] for row in rows]
    assert totals == sorted(totals, reverse=True)
    first = rows[0]
    assert first["total_impact"] == abs(first["delta_mu_up"]) + abs(first["delta_mu_down"])
    by_name = {row["name"]: row for row in rows}
    assert by_name["tilt"]["delta_mu_up"] == pytest.approx(float(result.post_up[result.names.index("tilt")]))
    smallest = _ranking.rank_impact(model, top_n=2, ascending=True)
    assert [row["name"] for row in smallest] == [row["name"] for row in rows[::-1][:2]]
    named = [row["name"] for row in _ranking.rank_impact(model, sort_by="name", ascending=True)]
    assert named == sorted(named)
    pulls = [abs(row["pull"]) for row in _ranking.rank_impact(model, sort_by="pull")]
    assert pulls == sorted(pulls, reverse=True)
    linear = _ranking.rank_impact(model, method="linear", top_n=1)[0]
    assert linear["delta_mu_up"] == pytest.approx(-linear["delta_mu_down"], rel=1e-9)


def test_ranking_as_tables(model, result):
    pandas = pytest.importorskip("pandas")
    frame = _ranking.rank_impact_df(model, top_n=3)
    assert isinstance(frame, pandas.DataFrame) and frame["rank"].tolist() == [1, 2, 3]
    assert len(result.to_dataframe()) == len(result.names)
    assert json.loads(json.dumps(result.to_dict()))["impacts"][0]["name"] == frame["name"][0]
    assert "constraint" in repr(result)


@pytest.mark.parametrize("result_of", [lambda m: m, _ranking.impacts, _ranking.rank_impact])
def test_the_ranking_plot_takes_all_three(model, result_of):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, ax = pyplot.subplots()
    bars, points = _ranking.plot_rank_impact(result_of(model), top_n=3, ax=ax)
    assert bars is ax and points.figure is figure
    assert len(ax.get_yticklabels()) == 3
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: _ranking.rank_impact(m, sort_by="size"), "sort_by='size': expected one of 'total'"),
        (lambda m: _ranking.rank_impact(m, top_n=0), "top_n=0: expected a positive integer"),
        (lambda m: _ranking.impacts(m, method="toys"), "method='toys': expected 'refit' or 'linear'"),
        (lambda m: _ranking.grouped_impacts(m, {"a": ["jet*"]}), r"group 'a': no nuisance parameter .* 'jet\*'"),
        (lambda m: _ranking.grouped_impacts(m, {"a": 3}), "group 'a' is 3: give names or patterns"),
        (lambda m: _ranking.grouped_impacts(m, {"a": ["mu"]}), "group 'a': no nuisance parameter .* 'mu'"),
    ],
)
def test_wrong_arguments(model, call, message):
    with pytest.raises(nextstat.NextstatError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


class TestRefit:
    """The batch fitter finds what the minimizer finds."""

    def lanes_of(self, model, toys):
        likelihood = model.likelihood
        first = solve_fit(likelihood, model.observed_data, unconditional(likelihood))
        center = make_center(likelihood, model.observed_data, first, unconditional(likelihood))
        n = len(toys)
        poi, none = model.poi_index, model.n_params
        free = Lanes(jnp.tile(first.y, (n, 1)), jnp.full(n, none), toys)
        held = Lanes(jnp.tile(first.y.at[poi].set(0.3), (n, 1)), jnp.full(n, poi), toys)
        return likelihood, center, free, held

    @pytest.mark.slow
    @pytest.mark.parametrize("bounds", [(-5.0, 10.0), (0.0, 10.0)])
    def test_toys(self, bounds):
        model = nextstat.from_pyhf(small(bounds))
        rng = np.random.default_rng(1)
        main = rng.poisson(np.array([200.0, 60.0, 41.0, 20.0]), (40, 4)).astype(float)
        main[:3, 3] = 0.0
        toys = jnp.asarray(np.concatenate([main, np.tile(model.observed_data[4:], (40, 1))], axis=1))
        likelihood, center, free, held = self.lanes_of(model, toys)
        for lanes, fixed in ((free, {}), (held, {"mu": 0.3})):
            found = refit(likelihood, center, lanes)
            assert bool((found.status == 0).all())
            for k in range(0, 40, 5):
                one = nextstat.fit(model, toys[k], fixed=fixed)
                np.testing.assert_allclose(found.y[k], one.params, atol=2e-6)
        at_bound = np.asarray(refit(likelihood, center, free).y[:, model.poi_index]) == 0.0
        assert at_bound.any() == (bounds[0] == 0.0)

    @pytest.mark.slow
    def test_a_center_without_curvature_still_fits(self, model):
        """Where the quick method cannot work at all, every lane goes to the full minimizer."""
        toys = jnp.stack([model.observed_data, model.observed_data.at[1].add(5.0)])
        likelihood, center, free, _ = self.lanes_of(model, toys)
        found = refit(likelihood, center._replace(inverse=jnp.full_like(center.inverse, jnp.nan)), free)
        assert bool((found.status == 0).all())
        np.testing.assert_allclose(found.y[1], nextstat.fit(model, toys[1]).params, atol=1e-7)
