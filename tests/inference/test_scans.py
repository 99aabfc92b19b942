"""Profile scans, intervals and contours against MINOS (iminuit on pyhf's likelihood), definitions and differences."""

from __future__ import annotations

import json
import math

import iminuit
import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from scipy import stats

import nextstat_jax as nextstat
from tests.building import normfactor, one_channel, sample
from tests.inference.support import central, small, yields_of


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(small((-5.0, 10.0)))


@pytest.fixture(scope="module")
def minuit():
    """MIGRAD and HESSE of pyhf's NLL, as precise as they get."""
    pyhf.set_backend("numpy")
    workspace = pyhf.Workspace(small((-5.0, 10.0)))
    oracle = workspace.model()
    data = workspace.data(oracle)
    names = oracle.config.par_names
    found = iminuit.Minuit(lambda x: -float(oracle.logpdf(x, data)[0]), oracle.config.suggested_init(), name=names)
    found.errordef = iminuit.Minuit.LIKELIHOOD
    found.limits = oracle.config.suggested_bounds()
    found.tol = 1e-4
    found.strategy = 2
    found.migrad()
    return found


def test_a_scan_is_a_row_of_conditional_fits(model):
    values = [1.5, -0.5, 0.2]  # in any order
    scan = nextstat.profile_scan(model, "mu", values)
    for k, value in enumerate(values):
        one = nextstat.profile(model, value)
        assert float(scan.nll[k]) == pytest.approx(float(one.nll), abs=1e-10)
        np.testing.assert_allclose(scan.params[k], one.params, atol=1e-6)
    fit = nextstat.fit(model)
    assert float(scan.nll_min) == pytest.approx(float(fit.nll), abs=1e-10)
    assert float(scan.best[0]) == pytest.approx(float(fit.mu), abs=1e-7)
    assert bool(scan.converged.all()) and scan.message == "4 of 4: converged"


def test_a_scan_of_a_nuisance_parameter(model, minuit):
    values = [-1.0, 0.5, 1.0]
    scan = nextstat.profile_scan(model, "scale", values)
    for k, value in enumerate(values):
        minuit.fixed["scale"], minuit.values["scale"] = True, value
        minuit.migrad()
        assert float(scan.nll[k]) == pytest.approx(minuit.fval, abs=1e-6)
    minuit.fixed["scale"] = False
    minuit.migrad()


def test_a_grid_of_two_parameters(model):
    first, second = [0.1, 1.2], [0.5, -0.7, 1.0]
    grid = nextstat.profile_scan(model, ("mu", "tilt"), (first, second))
    assert grid.nll.shape == (2, 3) and grid.params.shape == (2, 3, model.n_params)
    for i, mu in enumerate(first):
        for j, tilt in enumerate(second):
            one = nextstat.fit(model, fixed={"mu": mu, "tilt": tilt})
            assert float(grid.nll[i, j]) == pytest.approx(float(one.nll), abs=1e-10)
    assert len(repr(grid).splitlines()) == 4
    frame = grid.to_dataframe()
    assert frame["mu"].tolist() == [0.1] * 3 + [1.2] * 3 and frame["tilt"].tolist() == second * 2


@pytest.mark.slow
def test_derivatives_of_a_scan(model):
    values = jnp.array([-0.5, 0.7, 1.5])

    def total(x):
        return (nextstat.profile_scan(model, "mu", x).delta * jnp.array([1.0, -0.3, 0.5])).sum()

    np.testing.assert_allclose(jax.grad(total)(values), central(total, values, 1e-3), rtol=1e-6)


@pytest.mark.parametrize("name", ["mu", "tilt", "mc[1]", "fake[0]"])
def test_intervals_are_those_of_minos(model, minuit, name):
    ours = nextstat.interval(model, name)
    minuit.minos(name)
    errors = minuit.merrors[name]
    assert bool(ours.converged)
    # MINOS stops within about 1e-3 of its errors.
    assert float(ours.error_plus) == pytest.approx(errors.upper, rel=3e-3)
    assert float(ours.error_minus) == pytest.approx(-errors.lower, rel=3e-3)


def test_at_the_ends_of_an_interval_the_likelihood_has_the_level(model):
    ours = nextstat.interval(model, "mu", level=0.95)
    scan = nextstat.profile_scan(model, "mu", jnp.stack([ours.lower, ours.upper, ours.upper]))
    np.testing.assert_allclose(scan.delta, stats.chi2.ppf(0.95, 1), rtol=1e-9)


def test_an_interval_of_a_poisson_count():
    """The likelihood-ratio interval of a Poisson mean in closed form: 2 (mu - n - n log(mu / n)) = 1."""
    spec = one_channel([sample("signal", [1.0], normfactor("mu"))], [4.0])
    ours = nextstat.interval(nextstat.from_pyhf(spec))
    for end in (float(ours.lower), float(ours.upper)):
        assert 2.0 * (end - 4.0 - 4.0 * math.log(end / 4.0)) == pytest.approx(1.0, rel=1e-9)
    assert float(ours.lower) < 4.0 < float(ours.upper)


def test_an_interval_that_meets_a_bound():
    model = nextstat.from_pyhf(small((0.0, 10.0)))
    ours = nextstat.interval(model, "mu", level=0.99)
    assert float(ours.lower) == 0.0 and bool(ours.converged)
    assert "lower end: ends on a bound" in ours.message and float(ours.upper) > float(ours.best)


@pytest.mark.slow
def test_derivatives_of_intervals(model):
    start, change = yields_of(model)

    def ends(x):
        found = nextstat.interval(change(x))
        return jnp.stack([found.best, found.lower, found.upper])

    np.testing.assert_allclose(jax.jacrev(ends)(start), central(ends, start, 1e-3), rtol=1e-5, atol=1e-8)


def test_contours_have_the_level_everywhere(model, minuit):
    ours = nextstat.contour(model, ("mu", "tilt"), level=(0.6827, 0.95), n_points=6)
    assert bool(ours.converged.all()) and ours.points.shape == (2, 6, 2)
    for level, points in zip(ours.levels, ours.points, strict=True):
        for mu, tilt in points[::2]:
            for name, value in (("mu", mu), ("tilt", tilt)):
                minuit.fixed[name], minuit.values[name] = True, float(value)
            lowest = float(nextstat.fit(model).nll)
            minuit.migrad()
            # Minuit's own minimum is as much above the true one as its tolerance allows.
            assert 2.0 * (minuit.fval - lowest) == pytest.approx(stats.chi2.ppf(level, 2), abs=1e-4)
            minuit.fixed[:] = False
    minuit.migrad()


@pytest.mark.slow
def test_a_contour_on_a_bound():
    """With the best fit on a bound all rays lead inwards, and the outermost lie on it."""
    model = nextstat.from_pyhf(small((0.0, 10.0)))
    data = [206.0, 50.0, 30.0, 15.0]
    for names, k in ((("mu", "tilt"), 0), (("tilt", "mu"), 1)):
        ours = nextstat.contour(model, names, level=[0.68], n_points=6, data=data)
        assert float(ours.best[k]) == 0.0 and bool((ours.status == 0).all())
        edge = np.asarray(ours.points[0, :, k])
        assert edge[0] == 0.0 and edge[-1] == 0.0 and (edge[1:-1] > 0.0).all()


def test_results_as_text_and_tables(model):
    scan = nextstat.profile_scan(model, "mu", [0.0, 1.0, 2.0])
    assert scan.to_dataframe()["delta"].tolist() == scan.delta.tolist()
    assert json.loads(json.dumps(scan.to_dict()))["values"] == [[0.0, 1.0, 2.0]]
    assert len(repr(scan).splitlines()) == 5
    ours = nextstat.interval(model, "mu")
    assert json.loads(json.dumps(ours.to_dict()))["upper"] == float(ours.upper)
    assert f"{float(ours.error_plus):.6g}" in repr(ours)
    contour = nextstat.contour(model, ("mu", "tilt"), level=(0.6827, 0.95), n_points=6)
    assert len(contour.to_dataframe()) == 12 and len(repr(contour).splitlines()) == 4
    assert json.dumps(contour.to_dict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: nextstat.profile_scan(m, "mou", [1.0]), "there is no parameter 'mou'; did you mean 'mu'"),
        (lambda m: nextstat.profile_scan(m, "mu", 1.0), r"values of mu have shape \(\): give a list of numbers"),
        (lambda m: nextstat.profile_scan(m, "mu", []), r"values of mu have shape \(0,\)"),
        (lambda m: nextstat.profile_scan(m, "mu", [1.0, math.inf]), "values of mu are not all finite"),
        (lambda m: nextstat.profile_scan(m, ("mu", "mu"), ([1.0], [1.0])), "expected one name, or two different"),
        (
            lambda m: nextstat.profile_scan(m, ("mu", "tilt"), [1.0, 2.0, 3.0]),
            "values for 2 parameters: give a list of 2",
        ),
        (lambda m: nextstat.interval(m, "mu", level=68.0), "level=68.0: expected a number between 0 and 1"),
        (lambda m: nextstat.contour(m, ("mu",)), "a contour needs two names"),
        (lambda m: nextstat.contour(m, ("mu", "tilt"), level=()), "level is empty"),
        (lambda m: nextstat.contour(m, ("mu", "tilt"), n_points=2), "n_points=2: expected an integer from 3 on"),
    ],
)
def test_wrong_arguments(model, call, message):
    with pytest.raises(nextstat.NextstatError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)
