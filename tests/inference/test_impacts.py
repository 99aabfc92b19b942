"""Impacts against pyhf's conditional fits, and the batch fitter behind them against the single one."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._driver import fit_once
from nextstat_jax._inference._impacts import grouped_impacts, impacts
from nextstat_jax._inference._near import Lanes, center_of, fits_near
from tests.building import normfactor, one_channel, sample
from tests.inference.support import central, small, yields_of


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small((-5.0, 10.0)))


@pytest.fixture(scope="module")
def result(model):
    return impacts(model)


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


def test_impacts_of_some_parameters_are_those_of_all(model, result):
    some = impacts(model, parameters=["tilt", "mc*"])
    places = [result.names.index(name) for name in some.names]
    assert some.names == tuple(name for name in result.names if name == "tilt" or name.startswith("mc"))
    assert len(some.names) < len(result.names)
    for name in ("pre_up", "pre_down", "post_up", "post_down", "pull", "constraint"):
        np.testing.assert_allclose(getattr(some, name), getattr(result, name)[np.array(places)], atol=1e-9)
    with pytest.raises(nextstat.FitError, match="nobody"):
        impacts(model, parameters=["nobody"])
    with pytest.raises(nextstat.FitError, match="give names or patterns"):
        impacts(model, parameters=3)


def test_linear_impacts_come_from_the_covariance(model, result):
    linear = impacts(model, method="linear")
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
    ours = impacts(model)
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
        ours = impacts(change(x))
        return jnp.concatenate([ours.post_up[:3], ours.pre_down[:3], ours.mu_hat[None]])

    np.testing.assert_allclose(jax.jacrev(shifts)(start), central(shifts, start, 1e-3), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_derivatives_of_linear_impacts(model):
    """They need the whole covariance, with its derivatives."""
    signal, weights = model.template("signal"), jnp.array([1.0, -0.5, 0.3])

    def value(size):
        changed = model.with_templates({"signal": signal * (1.0 + size * weights)})
        return impacts(changed, method="linear").post_up @ jnp.arange(1.0, 7.0)

    assert float(jax.grad(value)(0.0)) == pytest.approx(float(central(lambda x: value(x[0]), jnp.zeros(1), 1e-3)[0]))


def test_grouped_impacts(model):
    """With a group held at its best fit, the uncertainty is that of a fit with the group fixed."""
    ours = grouped_impacts(model, groups={"shape": ["tilt"], "stat": "mc*", "all": ["*"]})
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
    default = grouped_impacts(model)
    assert default.groups == ("MC statistics", "systematics")
    assert json.loads(json.dumps(default.to_dict()))["total"] == pytest.approx(total)
    assert "statistical" in repr(default)


def test_tables(result):
    frame = pytest.importorskip("pandas") and result.to_dataframe()
    assert len(frame) == len(result.names)
    sizes = (frame["post_up"].abs() + frame["post_down"].abs()).tolist()
    assert sizes == sorted(sizes, reverse=True)
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["impacts"][0]["name"] == frame["name"][0]
    assert (stored["parameter"], stored["method"], stored["converged"]) == ("mu", "refit", [True] * len(result.names))
    assert "constraint" in repr(result) and "Impacts on mu = " in repr(result)


def test_impacts_on_another_parameter(model, result):
    """Any parameter can be the one that is ranked by."""
    ours = impacts(model.with_poi("tilt"), method="linear")
    assert ours.parameter == "tilt" and "mu" in ours.names and "tilt" not in ours.names
    fit, k = nextstat.fit(model), ours.names.index("mu")
    expected = fit.covariance[model.index("tilt"), model.index("mu")] / fit.mu_uncertainty
    assert float(ours.post_up[k]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: impacts(m, method="toys"), "method='toys': expected one of 'refit', 'linear'"),
        (lambda m: grouped_impacts(m, groups={"a": ["jet*"]}), r"group 'a': no nuisance parameter .* 'jet\*'"),
        (lambda m: grouped_impacts(m, groups={"a": 3}), "group 'a' is 3: give names or patterns"),
        (lambda m: grouped_impacts(m, groups={"a": ["mu"]}), "group 'a': no nuisance parameter .* 'mu'"),
    ],
)
def test_wrong_arguments(model, call, message):
    with pytest.raises(nextstat.NextstatError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


class TestFitsNear:
    """Many fits near a known minimum find what the minimizer finds."""

    def lanes_of(self, model, toys):
        likelihood, data = model.likelihood, model.observed_data
        poi, none = model.poi_index, model.n_params
        first = fit_once(likelihood, poi, data, likelihood.init, full=False).found.minimum
        center = center_of(likelihood, data, first, jnp.asarray(poi))
        n = len(toys)
        free = Lanes(jnp.tile(first.y, (n, 1)), jnp.full(n, none), toys)
        held = Lanes(jnp.tile(jnp.asarray(first.y).at[poi].set(0.3), (n, 1)), jnp.full(n, poi), toys)
        return likelihood, center, free, held, likelihood.attempts(data, jnp.asarray(poi))

    @pytest.mark.slow
    @pytest.mark.parametrize("bounds", [(-5.0, 10.0), (0.0, 10.0)])
    def test_toys(self, bounds):
        model = nextstat.from_pyhf(small(bounds))
        rng = np.random.default_rng(1)
        main = rng.poisson(np.array([200.0, 60.0, 41.0, 20.0]), (40, 4)).astype(float)
        main[:3, 3] = 0.0
        toys = jnp.asarray(np.concatenate([main, np.tile(model.observed_data[4:], (40, 1))], axis=1))
        likelihood, center, free, held, attempts = self.lanes_of(model, toys)
        for lanes, fixed in ((free, {}), (held, {"mu": 0.3})):
            found = fits_near(likelihood, center, lanes, attempts).minimum
            assert bool((found.status == 0).all())
            for k in range(0, 40, 5):
                one = nextstat.fit(model, data=toys[k], fixed=fixed)
                np.testing.assert_allclose(found.y[k], one.params, atol=2e-6)
        mu = np.asarray(fits_near(likelihood, center, free, attempts).minimum.y[:, model.poi_index])
        assert (mu == 0.0).any() == (bounds[0] == 0.0)

    @pytest.mark.slow
    def test_a_center_without_curvature_still_fits(self, model):
        """Where the quick method cannot work at all, every lane goes to the full minimizer."""
        toys = jnp.stack([model.observed_data, model.observed_data.at[1].add(5.0)])
        likelihood, center, free, _, attempts = self.lanes_of(model, toys)
        nowhere = center._replace(inverse=jnp.full_like(center.inverse, jnp.nan))
        found = fits_near(likelihood, nowhere, free, attempts)
        assert bool((found.minimum.status == 0).all())
        np.testing.assert_allclose(found.minimum.y[1], nextstat.fit(model, data=toys[1]).params, atol=1e-7)
        only = fits_near(likelihood, nowhere, free, attempts, jnp.array([True, False]))
        assert np.asarray(only.n_fits).tolist()[1] == 0
