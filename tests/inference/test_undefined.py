"""What the data say nothing about is held and named, and takes nothing from the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests import building as b

BACKGROUND = b.sample("background", [50.0], b.normsys("a", 0.9, 1.1))


@pytest.fixture(scope="module")
def alone():
    """The background by itself."""
    return nextstat.fit(nextstat.from_pyhf(b.one_channel([BACKGROUND], [55.0], poi="a")))


@pytest.mark.parametrize("idle", [pytest.param(["mu"], marks=pytest.mark.slow), ["mu", "other"]], ids=["one", "two"])
def test_a_parameter_without_effect_is_named_and_harms_nobody(alone, idle):
    signal = b.sample("signal", [0.0], *map(b.normfactor, idle))
    model = nextstat.from_pyhf(b.one_channel([signal, BACKGROUND], [55.0]))
    fit = nextstat.fit(model)
    width = dict(zip(fit.parameter_names, fit.uncertainties.tolist(), strict=True))
    assert fit["a"] == pytest.approx(float(alone["a"]), abs=1e-9)
    assert width["a"] == pytest.approx(float(alone.uncertainties[0]), rel=1e-9)
    assert all(np.isnan(width[name]) for name in idle)
    assert f"without effect on the likelihood and not moved: {', '.join(idle)}" in fit.message
    assert [row for row in fit.to_dataframe().note if row] == ["no effect"] * len(idle)
    assert np.isfinite(np.asarray(fit.covariance)).all()
    assert np.isfinite(nextstat.yields(model, fit).total_uncertainties).all()
    assert nextstat.interpret.impacts(model.with_poi("a")).converged.all()
    slope = jax.grad(lambda d: nextstat.fit(model, data=d)["a"])(model.observed_data)
    assert np.isfinite(slope).all() and slope[0] != 0


@pytest.mark.parametrize("count", [0.0, 0.4])
def test_on_a_bound_without_curvature_the_uncertainty_is_undefined(count):
    """With no count the likelihood is a straight line in mu: only the interval has something to say."""
    signal, background = b.sample("signal", [2.0], b.normfactor("mu")), b.sample("b", [0.5], b.normsys("a", 0.7, 1.3))
    model = nextstat.from_pyhf(b.one_channel([signal, background], [count]))
    fit = nextstat.fit(model)
    assert fit.at_bound == ("mu",)
    assert np.isnan(fit.mu_uncertainty) == (count == 0)
    assert fit.uncertainties[fit.parameter_names.index("a")] > 0.5
    assert np.isnan(nextstat.interpret.impacts(model).mu_uncertainty) == (count == 0)
    if count == 0:
        # Twice the NLL is 2 * 2 mu, which is 1 at a quarter.
        assert float(nextstat.interval(model).upper) == pytest.approx(0.25, rel=1e-6)


def test_the_mask_is_part_of_programs():
    model = nextstat.from_pyhf(b.one_channel([b.sample("signal", [0.0], b.normfactor("mu")), BACKGROUND], [55.0]))
    widths = jax.jit(jax.vmap(lambda d: nextstat.fit(model, data=d).uncertainties))(jnp.array([[55.0], [48.0]]))
    place = model.parameter_names().index("mu")
    assert np.isnan(widths[:, place]).all() and np.isfinite(np.delete(widths, place, axis=1)).all()
