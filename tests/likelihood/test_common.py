"""Likelihoods in common form: the numbers are those of pyhf, and different workspaces share compiled programs."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import nextstat_jax as nextstat
from nextstat_jax._likelihood._common import LEVELS
from tests import building as b
from tests.compilations import compilations
from tests.conftest import OWN
from tests.likelihood.test_random_workspaces import QUIET, comparable, data_of_points, open_quietly
from tests.reference.pyhf_oracle import pyhf_logpdf, pyhf_model
from tests.selection import mostly_slow
from tests.strategies import Case, cases


@jax.jit
def values(parcel, points, data):
    """Deviances and constants, with gradients and Hessians, of a likelihood in common form."""
    likelihood = parcel.opened()
    barrier = likelihood.barrier()

    def at(params, data):
        value = likelihood.deviance(params, data) + likelihood.constant(data)
        evaluation = likelihood.evaluate(params, data, barrier)
        return value, evaluation.gradient, likelihood.curvatures(params, data, barrier)[0].dense()

    return jax.vmap(at)(points, data)


def check(case: Case) -> bool:
    """Whether the workspace has a common form; it is as pyhf says, and its derivatives are those of the exact form."""
    model = open_quietly(case.workspace, **case.options)
    common = model.likelihood.common
    if common is None:
        return False
    theirs, observed = pyhf_model(case.workspace, **case.options)
    data = data_of_points(observed, len(case.points))
    wide = jnp.stack([common.data(x) for x in data])
    value, gradient, hessian = values(common.parcel, jnp.asarray(common.params(case.points)), wide)
    n = model.n_params
    assert not np.asarray(gradient)[:, n:].any()
    assert not np.asarray(hessian)[:, n:].any()
    likelihood = model.likelihood
    for k, params in enumerate(case.points):
        main = np.asarray(model.expected_data(params))[: model.n_bins]
        if not comparable(main, main) or (main < 0).any():
            continue
        expected = -pyhf_logpdf(theirs, params, data[k])
        assert float(value[k]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        barrier = likelihood.barrier()
        mine = likelihood.evaluate(jnp.asarray(params), jnp.asarray(data[k]), barrier).gradient
        scale = 1e-9 * (1.0 + np.abs(mine).max())
        np.testing.assert_allclose(gradient[k, :n], mine, rtol=1e-9, atol=scale)
        mine = likelihood.curvatures(jnp.asarray(params), jnp.asarray(data[k]), barrier)[0].dense()
        np.testing.assert_allclose(hessian[k, :n, :n], mine, rtol=1e-9, atol=1e-9 * (1.0 + np.abs(mine).max()))
    return True


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, **QUIET)
@given(case=cases(clips=False))
def test_random_workspaces_in_common_form_equal_pyhf(case):
    check(case)


@pytest.mark.parametrize("name", mostly_slow(["all_modifiers", "corners", "shared", "configured"], "corners"))
def test_own_workspaces_in_common_form_equal_pyhf(name):
    workspace = json.loads((OWN / f"{name}.json").read_text())
    model = open_quietly(workspace)
    rng = np.random.default_rng(5)
    lower, upper = model.parameter_bounds().T
    points = np.clip(model.parameter_init() + 0.2 * rng.normal(size=(4, model.n_params)), lower, upper)
    assert check(Case(workspace=workspace, options={}, points=points))


def small(n_bins: int, seed: int, *, two: bool = False):
    """A workspace of one channel, with as many names and numbers of its own as can be."""
    rng = np.random.default_rng(seed)
    background = rng.uniform(20.0, 60.0, n_bins)
    others = [b.sample(f"other {seed}", rng.uniform(2.0, 5.0, n_bins), b.normsys(f"rate {seed}", 0.8, 1.3))]
    shape = b.histosys(f"shape {seed}", background * 0.9, background * 1.2)
    return b.one_channel(
        [
            b.sample("s", rng.uniform(3.0, 9.0, n_bins), b.normfactor("mu")),
            b.sample("b", background, shape, b.normsys(f"scale {seed}", 0.9, 1.1)),
            *(others if two else []),
        ],
        rng.poisson(background + 5.0).astype(float),
    )


def ask_everything(model):
    interval = [nextstat.interval(model, name).upper for name in model.parameter_names()]
    test = nextstat.hypotest(model, 1.0)
    return nextstat.fit(model).nll, nextstat.q0(model), test.cls, nextstat.upper_limit(model).observed, interval


def test_different_workspaces_share_programs():
    ask_everything(nextstat.from_pyhf(small(2, 1)))
    for n_bins, seed, two in ((3, 2, False), (2, 3, True), (4, 4, False), (1, 5, True)):
        model = nextstat.from_pyhf(small(n_bins, seed, two=two))
        with compilations() as counter:
            ask_everything(model)
        # One that takes the result of a fit apart, where the numbers of parameters and bins are new.
        assert counter[0] <= 1, (n_bins, seed, two)


@pytest.mark.parametrize("n_bins", mostly_slow([1, 2, 3, 4], 2))
def test_questions_in_common_form_answer_as_in_exact_form(n_bins):
    model = nextstat.from_pyhf(small(n_bins, 40 + n_bins, two=n_bins % 2 == 0))
    assert model.likelihood.common is not None
    exact = jax.jit(lambda model: (nextstat.fit(model), nextstat.q0(model), nextstat.profile(model, 1.5)))
    fit, q0, profile = exact(model)
    mine = nextstat.fit(model)
    for name in ("params", "covariance", "gradient", "nll", "on_bound", "fixed"):
        assert getattr(mine, name).shape == getattr(fit, name).shape
        np.testing.assert_allclose(getattr(mine, name), getattr(fit, name), rtol=1e-6, atol=1e-7)
    assert float(nextstat.q0(model)) == pytest.approx(float(q0), rel=1e-9, abs=1e-9)
    other = nextstat.profile(model, 1.5)
    assert float(other.nll) == pytest.approx(float(profile.nll), rel=1e-12)
    np.testing.assert_allclose(other.params, profile.params, rtol=1e-6, atol=1e-6)


def test_what_is_too_large_or_unlike_others_keeps_its_own_form():
    many = LEVELS[-1].bins + 1
    large = nextstat.from_pyhf(b.one_channel([b.sample("s", np.ones(many), b.normfactor("mu"))], np.ones(many)))
    assert large.likelihood.common is None
    clipped = nextstat.from_pyhf(small(2, 6), clip_bin_data=0.1)
    assert clipped.likelihood.common is None
    assert nextstat.fit(large).converged
    assert nextstat.fit(clipped).converged


@pytest.mark.slow
def test_a_program_for_common_form_serves_single_precision():
    workspace = small(3, 7)
    single = nextstat.fit(nextstat.from_pyhf(workspace, dtype="float32"))
    assert single.params.dtype == np.float32
    np.testing.assert_allclose(single.params, nextstat.fit(nextstat.from_pyhf(workspace)).params, atol=2e-3)


def test_what_is_known_is_computed_while_a_function_is_traced():
    model = nextstat.from_pyhf(small(2, 8))
    x = jnp.array(2.0)
    twice = jax.jit(lambda x: x * nextstat.fit(model).params[0] + nextstat.hypotest(model, 1.0).cls)(x)
    each = jax.vmap(lambda x: x * nextstat.q0(model))(jnp.arange(3.0))
    again = nextstat.fit(model)
    expected = 2.0 * float(again.params[0]) + float(nextstat.hypotest(model, 1.0).cls)
    assert float(twice) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(each, float(nextstat.q0(model)) * np.arange(3.0), rtol=1e-12)
