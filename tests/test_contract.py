"""The laws that every member of a registry keeps: statistics, modifiers, interpolation codes, likelihoods, results."""

from __future__ import annotations

import json
import warnings
from dataclasses import FrozenInstanceError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._statistics import STATISTICS
from nextstat_jax._modifiers import REGISTRY
from tests import building as b
from tests.compilations import compilations
from tests.selection import mostly_slow

SIGNAL = b.sample("signal", [6.0, 2.0], b.normfactor("mu"))
LUMI = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "inits": [1.0], "bounds": [[0.5, 1.5]]}


def spec_of(*modifiers: Any, parameters: Any = ()) -> dict[str, Any]:
    background = b.sample("background", [20.0, 30.0], *modifiers)
    return b.one_channel([SIGNAL, background], [24.0, 33.0], parameters=parameters)


MODIFIERS = {
    "normfactor": spec_of(b.normfactor("k")),
    "normsys": spec_of(b.normsys("a", 0.8, 1.3)),
    "histosys": spec_of(b.histosys("a", [17.0, 31.0], [24.0, 28.0])),
    "shapesys": spec_of(b.shapesys("s", [3.0, 4.0])),
    "staterror": spec_of(b.staterror("mc", [2.0, 3.0])),
    "shapefactor": b.workspace(
        {
            "SR": [SIGNAL, b.sample("b", [20.0, 30.0], b.shapefactor("f"))],
            "CR": [b.sample("b", [9.0, 7.0], b.shapefactor("f"))],
        },
        {"SR": [24.0, 33.0], "CR": [10.0, 6.0]},
    ),
    "lumi": spec_of(b.lumi(), parameters=[LUMI]),
}  # fmt: skip
CODES = [(n, h) for n in ("code1", "code4") for h in ("code0", "code2", "code4p")]
BOTH = spec_of(b.normsys("a", 0.8, 1.3), b.histosys("a", [17.0, 31.0], [24.0, 28.0]))


def test_every_modifier_is_here():
    assert set(MODIFIERS) == set(REGISTRY)


def models() -> list[Any]:
    kinds = [pytest.param((spec, {}), id=kind) for kind, spec in MODIFIERS.items()]
    # The default codes are among the kinds.
    slow = pytest.mark.slow
    codes = [pytest.param((BOTH, {"normsys": n, "histosys": h}), id=f"{n}-{h}", marks=slow) for n, h in CODES]
    return kinds + codes


@pytest.fixture(scope="module", params=models())
def model(request) -> Any:
    spec, options = request.param
    with warnings.catch_warnings():
        # Code 2 jumps, and says so.
        warnings.simplefilter("ignore", UserWarning)
        return nextstat.from_pyhf(spec, **options)


# -- functions of parameters and data ---------------------------------------------------------------------------------


def points(model: Any, n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(5)
    init = np.asarray(model.parameter_init())
    # Away from the kinks of codes 0, 1 and 2.
    return init + rng.uniform(0.05, 0.3, (n, model.n_params))


def test_nll_jitted_batched_and_differentiated(model):
    params = jnp.asarray(points(model))
    values = [float(model.nll(x)) for x in params]
    np.testing.assert_allclose(jax.jit(jax.vmap(model.nll))(params), values, rtol=1e-12)
    direction = jnp.asarray(np.random.default_rng(6).normal(size=model.n_params))
    _, forward = jax.jvp(model.nll, (params[0],), (direction,))
    backward = jax.grad(model.nll)(params[0]) @ direction
    step = 1e-5
    difference = (model.nll(params[0] + step * direction) - model.nll(params[0] - step * direction)) / (2 * step)
    assert float(forward) == pytest.approx(float(backward), rel=1e-10, abs=1e-12)
    assert float(forward) == pytest.approx(float(difference), rel=1e-6, abs=1e-7)
    np.testing.assert_allclose(model.grad_nll(params[0]), jax.grad(model.nll)(params[0]), rtol=1e-9, atol=1e-12)


def test_gradients_are_finite_at_edges(model):
    init = np.asarray(model.parameter_init())
    for shift in (-1.0, 0.0, 1.0):
        moved = np.clip(init + shift, *np.asarray(model.parameter_bounds()).T)
        assert np.isfinite(model.grad_nll(moved)).all()


def test_second_call_compiles_nothing(model):
    model.nll(points(model)[0])
    nextstat.fit(model)
    with compilations() as count:
        model.nll(points(model)[1])
        nextstat.fit(model, data=np.asarray(model.observed_data) + 1.0)
    assert count[0] == 0


def test_single_precision_stays(request):
    for spec in MODIFIERS.values():
        small = nextstat.from_pyhf(spec, dtype="float32")
        assert small.nll(small.parameter_init()).dtype == np.float32
        assert small.grad_nll(np.asarray(small.parameter_init(), np.float64)).dtype == np.float32


# -- test statistics --------------------------------------------------------------------------------------------------

SMALL = spec_of(b.normsys("a", 0.8, 1.3))


@pytest.fixture(scope="module")
def small() -> Any:
    return nextstat.from_pyhf(SMALL)


def value_for(name: str) -> float:
    only = STATISTICS[name].tested
    return 1.2 if only is None else only


# The loop inside a program compiles long: once in the default run.
KINDS = mostly_slow(STATISTICS, "q0")


@pytest.fixture(params=KINDS)
def statistic(request, small) -> Any:
    """A function from main data to q, for data where it is not 0."""
    name = request.param
    counts = jnp.array([28.0, 31.0]) if STATISTICS[name].zero_below else jnp.array([20.0, 29.0])
    return name, lambda d: nextstat.hypotest(small, value_for(name), data=d, test_stat=name).statistic, counts


def test_statistics_jitted_batched_and_differentiated(statistic):
    _, q, counts = statistic
    eager = float(q(counts))
    assert eager > 0.01
    several = jnp.stack([counts, counts + 1.0])
    batch = jax.jit(jax.vmap(q))(several)
    np.testing.assert_allclose(batch, [eager, float(q(several[1]))], rtol=1e-7)
    direction = jnp.array([0.3, -0.7])
    _, forward = jax.jvp(q, (counts,), (direction,))
    backward = jax.grad(q)(counts) @ direction
    step = 1e-4
    difference = (q(counts + step * direction) - q(counts - step * direction)) / (2 * step)
    assert float(forward) == pytest.approx(float(backward), rel=1e-8)
    assert float(forward) == pytest.approx(float(difference), rel=1e-5)


def test_statistics_compile_once(statistic):
    _, q, counts = statistic
    q(counts)
    with compilations() as count:
        q(counts + 2.0)
    assert count[0] == 0


def test_nan_is_no_success(small):
    bad = jnp.array([jnp.nan, 30.0])
    for ask in (nextstat.fit, nextstat.hypotest):
        assert not bool(jax.jit(lambda d, ask=ask: ask(small, data=d))(bad).converged), ask


# -- likelihoods ------------------------------------------------------------------------------------------------------


def quadratic(c: Any) -> dict[str, Any]:
    return {"mu": 1.0 + 2.0 * c[0] + 1.5 * c[0] ** 2}


@pytest.fixture(scope="module", params=["HistFactory", pytest.param("reparametrized", marks=pytest.mark.slow)])
def likelihood(request, small) -> tuple[Any, str]:
    if request.param == "HistFactory":
        return small, "mu"
    return nextstat.reparametrize(small, {"c": (-0.6, 2.0)}, quadratic), "c"


def test_likelihoods_answer_every_question_alike(likelihood):
    model, parameter = likelihood
    fit = nextstat.fit(model)
    assert bool(fit.converged)
    scan = nextstat.profile_scan(model, parameter, np.linspace(0.0, 1.0, 3))
    assert float(scan.nll_min) == pytest.approx(float(fit.nll), abs=1e-8)
    held = nextstat.fit(model, fixed={parameter: 0.5})
    assert float(scan.nll[1]) == pytest.approx(float(held.nll), abs=1e-8)
    interval = nextstat.interval(model, parameter)
    assert float(interval.best) == pytest.approx(float(fit[parameter]), abs=1e-6)
    there = nextstat.fit(model, fixed={parameter: float(interval.upper)})
    assert 2.0 * float(there.nll - fit.nll) == pytest.approx(1.0, abs=1e-5)
    jitted = jax.jit(nextstat.fit)(model)
    np.testing.assert_allclose(jitted.params, fit.params, atol=1e-7)
    assert float(model.nll(fit.params)) == pytest.approx(float(fit.nll), abs=1e-9)


def test_both_likelihoods_have_one_minimum(small):
    other = nextstat.reparametrize(small, {"c": (-0.6, 2.0)}, quadratic)
    assert float(nextstat.fit(other).nll) == pytest.approx(float(nextstat.fit(small).nll), abs=1e-8)


# -- results ----------------------------------------------------------------------------------------------------------

RESULTS = {
    "fit": lambda m: nextstat.fit(m),
    "profile": lambda m: nextstat.profile(m, 1.0),
    "q0": lambda m: nextstat.q0_test(m),
    "hypotest": lambda m: nextstat.hypotest(m, 1.0),
    "hypotest of a list": lambda m: nextstat.hypotest(m, jnp.array([1.0, 2.0])),
    "discovery": lambda m: nextstat.discovery(m),
    "upper limit": lambda m: nextstat.upper_limit(m),
    "scan": lambda m: nextstat.profile_scan(m, "mu", jnp.array([0.0, 1.0])),
    "scan of two": lambda m: nextstat.profile_scan(m, ("mu", "a"), [jnp.arange(2.0), jnp.arange(3.0)]),
    "interval": lambda m: nextstat.interval(m, "mu"),
    "contour": lambda m: nextstat.contour(m, ("mu", "a"), n_points=8),
    "impacts": lambda m: nextstat.interpret.impacts(m),
    "grouped impacts": lambda m: nextstat.interpret.grouped_impacts(m),
    "goodness of fit": lambda m: nextstat.goodness_of_fit(m),
    "pulls": lambda m: nextstat.pulls(m, nextstat.fit(m)),
    "yields": lambda m: nextstat.yields(m, nextstat.fit(m)),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_results(small, name):
    result = RESULTS[name](small)
    assert np.all(result.converged), result.message
    assert "converged" in result.message or "ends on a bound" in result.message
    table = result.to_dict()
    assert table and json.loads(json.dumps(table)) == table
    assert len(result.to_dataframe()) >= 1
    assert len(repr(result).splitlines()) > 1
    with pytest.raises(FrozenInstanceError):
        result.status = 3
    leaves, structure = jax.tree.flatten(result)
    assert type(jax.tree.unflatten(structure, leaves)) is type(result)


@pytest.mark.parametrize(
    "name",
    mostly_slow(["fit", "hypotest", "scan", "goodness of fit"], "fit"),
)
def test_batches_of_results(small, name):
    counts = jnp.array([[24.0, 33.0, 0.0], [26.0, 30.0, 0.0]])
    batch = jax.vmap(lambda d: RESULTS[name](small.with_data(d)))(counts)
    assert type(batch).__name__ in repr(batch)
    assert np.shape(batch.converged)[0] == 2
    with pytest.raises(nextstat.ModelError, match="a batch of"):
        batch.to_dataframe()
    one = jax.tree.map(lambda x: x[1], batch)
    assert len(repr(one).splitlines()) > 1
    alone = RESULTS[name](small.with_data(counts[1]))
    for a, other in zip(jax.tree.leaves(one), jax.tree.leaves(alone), strict=True):
        # How many steps were taken is no part of the answer.
        if np.issubdtype(np.asarray(a).dtype, np.floating):
            np.testing.assert_allclose(a, other, rtol=1e-5, atol=1e-6)
