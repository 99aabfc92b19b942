"""The two forms of a likelihood, dense arrays and pieces with an arrow, against each other."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import nextstat_jax as nextstat
from nextstat_jax._minimize._arrow import ArrowSpread
from tests.building import histosys, normfactor, normsys, sample, shapefactor, shapesys, staterror, workspace
from tests.conftest import OWN
from tests.likelihood.test_random_workspaces import QUIET
from tests.selection import mostly_slow
from tests.strategies import cases

NAMES = ("all_modifiers", "corners", "shared", "one_shapesys", "unconstrained")


def in_both(spec, **options):
    """The model in both forms."""
    models = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for form in ("dense", "arrow"):
            patch.setenv("NEXTSTAT_JAX_MATRIX", form)
            models.append(nextstat.from_pyhf(spec, **options))
    assert [model.likelihood.structure.pairs is None for model in models] == [True, False]
    return models


def crowded():
    """Two channels of different lengths in which bins have up to three parameters of their own, and one is shared."""
    rng = np.random.default_rng(4)

    def yields(n, scale):
        return (scale * rng.uniform(0.5, 1.5, n)).round(3)

    def channel(n, where):
        signal, top, other = yields(n, 8.0), yields(n, 50.0), yields(n, 30.0)
        return [
            sample("signal", signal.tolist(), normfactor("mu"), staterror(f"mc_{where}", (0.1 * signal).tolist())),
            sample(
                "top", top.tolist(), shapesys(f"own_{where}", (0.1 * top).tolist()), normsys("rate", 0.9, 1.1),
                staterror(f"mc_{where}", (0.05 * top).tolist()),
                histosys("tilt", (0.95 * top).tolist(), (top * np.linspace(1.0, 1.1, n)).tolist()),
            ),
            sample(
                "other", other.tolist(),
                normsys("rate", 1.05, 0.97), shapesys(f"third_{where}", (0.2 * other).tolist()),
                *([shapefactor("free")] if where != "c" else []),
            ),
        ]  # fmt: skip

    channels = {where: channel(n, where) for where, n in (("a", 5), ("b", 5), ("c", 2))}
    totals = {name: np.sum([s["data"] for s in samples], axis=0) for name, samples in channels.items()}
    return workspace(channels, {name: rng.poisson(total).astype(float).tolist() for name, total in totals.items()})


def same(a, b, tolerance):
    np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=tolerance, atol=tolerance)


def compare(models, points, tolerance=1e-11, *, third=False):
    """Value, gradient, Hessian and its stand-in, and third derivatives, which take long to compile."""
    one = models[0].likelihood
    along = jnp.asarray(np.random.default_rng(6).normal(size=len(one.init)))

    @jax.jit
    def all_of(likelihood, point):
        barrier = likelihood.barrier()

        def hessian_at(y):
            return likelihood.hessian(y, likelihood.observed).dense()

        hessians = jax.jvp(hessian_at, (point,), (along,)) if third else (hessian_at(point),)
        exact, positive = likelihood.curvatures(point, likelihood.observed, barrier)
        evaluation = likelihood.evaluate(point, likelihood.observed, barrier)
        return (
            likelihood.deviance(point, likelihood.observed),
            evaluation.gradient,
            positive.dense(),
            exact.dense(),
            *hessians,
        )

    for point in points:
        first, second = (all_of(model.likelihood, jnp.asarray(point)) for model in models)
        for a, b in zip(first, second, strict=True):
            if np.isfinite(a).all():
                size = 1.0 + np.abs(a).max()
                np.testing.assert_allclose(np.asarray(b) / size, np.asarray(a) / size, rtol=0.0, atol=tolerance)


def some_points(model, count):
    rng = np.random.default_rng(3)
    lower, upper = np.asarray(model.parameter_bounds()).T
    start = np.asarray(model.parameter_init())
    moved = np.clip(start + 0.3 * rng.normal(size=(count, len(start))), lower, upper)
    moved[-1, 0] = 0.0
    return [start, *moved]


CODES = {"normsys": "code1", "histosys": "code0"}
CLIPS = {"clip_sample_data": 5.0, "clip_bin_data": 20.0}


@pytest.mark.parametrize("options", [{}, *(pytest.param(one, marks=pytest.mark.slow) for one in (CODES, CLIPS))])
def test_derivatives_of_a_crowded_model(options):
    models = in_both(crowded(), **options)
    assert models[1].likelihood.curvatures(
        models[1].likelihood.init, models[1].likelihood.observed, models[1].likelihood.barrier()
    )[0].blocks.shape[1] == 3  # fmt: skip
    # Third derivatives of each code in the slow run.
    compare(models, some_points(models[0], 4), third=bool(options))


@pytest.mark.parametrize("name", mostly_slow(NAMES, "corners"))
def test_derivatives_of_our_workspaces(name):
    models = in_both(OWN / f"{name}.json")
    compare(models, some_points(models[0], 3), third=name == "corners")


@settings(max_examples=2, derandomize=True, **QUIET)
@given(case=cases(number=3))
def test_derivatives_of_random_workspaces(case):
    compare(in_both(case.workspace, **case.options), case.points, 1e-9)


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, **QUIET)
@given(case=cases(number=3))
def test_derivatives_of_many_random_workspaces(case):
    compare(in_both(case.workspace, **case.options), case.points, 1e-9, third=True)


def test_fits_of_a_crowded_model():
    dense, arrow = (nextstat.fit(model) for model in in_both(crowded()))
    assert bool(dense.converged) and bool(arrow.converged) and isinstance(arrow.spread, ArrowSpread)
    same(dense.params, arrow.params, 1e-10)
    same(dense.uncertainties, arrow.uncertainties, 1e-8)
    same(dense.covariance, arrow.covariance, 1e-8)
    names = ["mu", "mc_a[2]", "rate"]
    places = [dense.parameter_names.index(name) for name in names]
    same(dense.covariance_of(names), arrow.covariance_of(names), 1e-8)
    same(np.asarray(dense.covariance)[np.ix_(places, places)], dense.covariance_of(names), 1e-14)
    same(np.asarray(dense.correlation)[np.ix_(places, places)], arrow.correlation_of(names), 1e-8)
    assert arrow.covariance_of("mu").shape == (1, 1)
    with pytest.raises(nextstat.FitError, match="nobody"):
        arrow.covariance_of(["mu", "nobody"])


def test_a_covariance_that_is_too_large_is_refused(monkeypatch):
    result = nextstat.fit(in_both(crowded())[1])
    monkeypatch.setattr("nextstat_jax._inference._fit._LARGEST", 1000.0)
    with pytest.raises(nextstat.FitError, match=r"takes .* GB: ask for a part of it with covariance_of"):
        _ = result.covariance
    assert np.isfinite(result.uncertainties).all()


@pytest.mark.slow
def test_a_batch_of_fits():
    model = in_both(crowded())[1]
    data = jnp.stack([model.observed_data, model.asimov_data(mu=1.0)])
    batch = jax.vmap(lambda x: nextstat.fit(model, data=x))(data)
    for k in range(2):
        alone = nextstat.fit(model, data=data[k])
        same(alone.uncertainties, batch.uncertainties[k], 1e-8)
        same(alone.covariance, batch.covariance[k], 1e-8)
        same(alone.covariance_of(["mu", "rate"]), batch.covariance_of(["mu", "rate"])[k], 1e-8)


@pytest.mark.slow
def test_questions_on_top():
    models = in_both(crowded())
    for ask in (
        lambda m: nextstat.discovery(m).z0,
        lambda m: nextstat.upper_limit(m).median,
        lambda m: nextstat.profile_scan(m, "mu", jnp.array([0.5, 2.0])).delta,
        lambda m: [nextstat.yields(m).total_uncertainties, nextstat.yields(m, nextstat.fit(m)).channel_uncertainties],
        lambda m: nextstat.interpret.grouped_impacts(m).impacts,
        lambda m: nextstat.fit_toys(m, 3, seed=2).params,
    ):
        for a, b in zip(*(jax.tree.leaves(ask(model)) for model in models), strict=True):
            same(a, b, 1e-6)


@pytest.mark.slow
def test_derivatives_of_uncertainties_and_limits():
    """Of a limit and of an uncertainty by the signal's template, to second order by differences of the first."""
    models = in_both(crowded())
    template = models[0].template("signal")
    along = jnp.asarray(np.random.default_rng(1).normal(size=template.shape))

    def width(model, x):
        return nextstat.fit(model.with_templates({"signal": x})).uncertainties[model.poi_index]

    slopes = [jax.jit(jax.grad(lambda x, m=model: width(m, x)))(template) for model in models]
    same(slopes[0], slopes[1], 1e-7)
    ends = [float(width(models[1], template + s * 1e-4 * along)) for s in (1, -1)]
    assert float(slopes[1] @ along) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)

    def q0(model, x):
        return nextstat.q0(model.with_templates({"signal": x}))

    seconds = [
        jax.jit(lambda x, m=model: jax.jvp(jax.grad(lambda y: q0(m, y)), (x,), (along,))[1])(template)
        for model in models
    ]
    same(seconds[0], seconds[1], 1e-6)


@pytest.mark.slow
def test_templates_in_pieces():
    """Variations and nominal yields are replaced where they are kept by piece."""
    models = in_both(crowded())
    rng = np.random.default_rng(8)
    for key, variations in ((("top", "tilt", "hi"), "absolute"), ("top", "relative"), (("top", "b"), "absolute")):
        value = np.asarray(models[0].template("top", "b" if len(key) == 2 else None))
        value = value * rng.uniform(0.9, 1.1, len(value))
        changed = [model.with_templates({key: value}, variations=variations) for model in models]
        compare(changed, some_points(changed[0], 2))


@pytest.mark.slow
def test_single_precision():
    dense, arrow = (nextstat.fit(model) for model in in_both(crowded(), dtype="float32"))
    assert arrow.params.dtype == jnp.float32 and bool(arrow.converged)
    np.testing.assert_allclose(arrow.params, dense.params, atol=2e-3)
    np.testing.assert_allclose(arrow.uncertainties, dense.uncertainties, rtol=2e-2)
