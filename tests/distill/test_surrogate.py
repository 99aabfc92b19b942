"""Surrogates: trained on small models, held against the exact likelihood."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError, ModelError
from nextstat_jax.distill import generate_dataset, predict_nll, train_mlp_surrogate
from nextstat_jax.distill._core import RECIPES, constraints
from tests import building as b
from tests.distill.support import QUIET

QUICK = {"hidden_layers": (32, 32), "epochs": 25, "batch_size": 256, "lr": 0.01, "progress": False}
STATERROR = b.one_channel(
    [
        b.sample("signal", [12.0, 11.0], b.normfactor("mu"), b.lumi()),
        b.sample("background", [50.0, 52.0], b.normsys("norm", 0.9, 1.2), b.staterror("stat", [5.0, 6.0]), b.lumi()),
    ],
    [65.0, 58.0],
    parameters=[
        {"name": "lumi", "inits": [1.0], "bounds": [[0.9, 1.1]], "auxdata": [1.0], "sigmas": [0.02]},
        {"name": "norm", "fixed": True, "inits": [0.3]},
    ],
)


@pytest.fixture(scope="module")
def surrogate(ds):
    return train_mlp_surrogate(ds, **QUICK)


@pytest.fixture(scope="module")
def near(model):
    """Other points around the minimum, with exact values."""
    ds = generate_dataset(model, 2000, method="gaussian", seed=99, run=QUIET)
    return ds[ds.nll - float(ds.reference.minimum_nll) < 10]


def rmse(surrogate, ds):
    return float(np.sqrt(np.mean((np.asarray(predict_nll(surrogate, ds.parameters)) - ds.nll) ** 2)))


def test_it_is_accurate(surrogate, near):
    assert surrogate.recipe == "rates"
    assert rmse(surrogate, near) < 0.04
    error = np.asarray(surrogate.grad_nll(near.parameters)) - near.gradient
    width = np.sqrt(np.diagonal(near.reference.covariance))
    assert np.sqrt(np.mean((error * width) ** 2)) < 0.15  # in standard deviations; the slopes themselves are about 1


@pytest.mark.slow
def test_the_default_recipe_is_the_most_accurate(ds, near, surrogate):
    others = {name: rmse(train_mlp_surrogate(ds, recipe=name, **QUICK), near) for name in ("residual", "plain")}
    assert 5 * rmse(surrogate, near) < min(others.values())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_help_or_do_no_harm(ds, near, recipe):
    few = ds[:600]
    options = {**QUICK, "batch_size": 64, "lr": 3e-3, "recipe": recipe}
    with_, without = (rmse(train_mlp_surrogate(few, grad_weight=g, **options), near) for g in (1.0, 0.0))
    assert with_ < 1.3 * without


def test_exact_parts_are_exact():
    # Of a model with normal constraints only and a fixed parameter.
    model = nextstat.from_pyhf(STATERROR)
    ds = generate_dataset(model, 200, method="sobol", run=QUIET)
    r = ds.reference
    for x, value, rate in zip(ds.parameters[:20], ds.nll[:20], ds.rates[:20], strict=True):
        n = r.observed
        main = (rate - n + n * np.log(n / rate)).sum()
        assert float(r.constant + main + constraints(r, jnp.asarray(x))) == pytest.approx(value, rel=1e-11)
    surrogate = train_mlp_surrogate(ds, **{**QUICK, "epochs": 2})
    moved = np.array(ds.parameters[0])
    moved[model.index("norm")] = 1.0  # a fixed parameter: outside what was trained
    assert bool(surrogate.in_domain(ds.parameters[0])) and not bool(surrogate.in_domain(moved))


def test_one_point_and_many(surrogate, model, near):
    one = predict_nll(surrogate, np.array(model.parameter_init()))
    assert one.shape == () and one.dtype == jnp.float64
    assert f"{one:.2f}" == f"{float(one):.2f}" and abs(float(one) - float(model.nll(model.parameter_init()))) < 0.2
    x = near.parameters
    many = np.asarray(predict_nll(surrogate, x))
    assert many.shape == (len(x),)
    for function in (lambda y: jax.vmap(surrogate.nll)(y), jax.jit(lambda y: predict_nll(surrogate, y))):
        np.testing.assert_allclose(function(x), many, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose([float(surrogate.nll(p.tolist())) for p in x[:5]], many[:5], rtol=1e-5, atol=1e-4)
    assert predict_nll(surrogate, x[:0]).shape == (0,)
    exact = surrogate.astype("float64")
    step = 1e-5 * np.eye(model.n_params)
    found = [(float(exact.nll(x[0] + h)) - float(exact.nll(x[0] - h))) / 2e-5 for h in step]
    np.testing.assert_allclose(exact.grad_nll(x[0]), found, rtol=1e-5, atol=1e-5)
    assert surrogate.grad_nll(x).shape == x.shape


def test_network_computes_in_single_precision(surrogate):
    core = surrogate.members[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(core.layers)} == {np.dtype(np.float32)}
    assert surrogate.astype("float64").members[0].skip.dtype == np.float64


def test_training_is_reproducible(ds):
    one, two, other = (train_mlp_surrogate(ds[:500], **{**QUICK, "epochs": 3, "seed": k}) for k in (1, 1, 2))
    x = ds.parameters[:5]
    assert np.array_equal(one.nll(x), two.nll(x)) and not np.array_equal(one.nll(x), other.nll(x))


def test_history_and_early_stopping(ds, surrogate):
    history = surrogate.history
    assert len(history["train_loss"]) == len(history["validation_loss"]) <= 25
    assert history["validation_loss"][-1] < 0.1 * history["validation_loss"][0]
    assert history["validation_loss"].argmin() == history["best_epoch"]
    # A network that learns the noise of very few points stops getting better.
    few = train_mlp_surrogate(ds[:40], **{**QUICK, "epochs": 300, "lr": 0.02, "patience": 5, "recipe": "plain"})
    assert len(few.history["train_loss"]) < 300
    assert "held-out points: RMSE" in repr(surrogate) and "'rates', hidden layers 32-32" in repr(surrogate)
    assert surrogate.to_dict()["metadata"]["training"]["recipe"] == "rates"


def test_progress_bar(ds, capsys):
    train_mlp_surrogate(ds[:100], **{**QUICK, "epochs": 2, "progress": True})
    assert "epoch" in capsys.readouterr().err


@pytest.mark.slow
def test_ensemble_estimates_its_error(ds, near):
    ensemble = train_mlp_surrogate(ds[:1500], **{**QUICK, "ensemble": 4})
    assert len(ensemble.members) == 4 and ensemble.history["train_loss"].shape == (4, 25)
    estimate = np.asarray(ensemble.error(near.parameters))
    actual = np.abs(np.asarray(ensemble.nll(near.parameters)) - near.nll)
    assert estimate.shape == actual.shape and 0.2 < np.median(actual) / np.median(estimate) < 3
    # Where the spread is large, so is the error.
    high = estimate > np.median(estimate)
    assert actual[high].mean() > 1.2 * actual[~high].mean()


def test_outside_of_the_trained_region(surrogate, ds, model):
    assert bool(np.asarray(surrogate.in_domain(ds.parameters)).all())
    x = np.array(ds.reference.minimum)
    x[model.index("shape")] = 5.5
    assert not bool(surrogate.in_domain(x)) and float(surrogate.log_density(x)) == -np.inf
    inside = ds.parameters[0]
    assert float(surrogate.log_density(inside)) == pytest.approx(-float(surrogate.nll(inside)))
    gaussian = train_mlp_surrogate(generate_dataset(model, 400, method="gaussian", run=QUIET), **{**QUICK, "epochs": 1})
    corner = gaussian.parameter_bounds()[:, 1]
    assert not bool(gaussian.in_domain(0.999 * corner))  # in the box, yet far beyond all points


def test_exact_values_outside_of_the_trained_region(surrogate, ds, model):
    points = np.array(ds.parameters[:70])
    points[::2, model.index("shape")] = 5.5
    exact = np.array([float(model.nll(point)) for point in points])
    found = np.asarray(predict_nll(surrogate, points, model))
    np.testing.assert_allclose(found[::2], exact[::2], rtol=1e-12)
    np.testing.assert_allclose(found[1::2], surrogate.nll(points)[1::2], rtol=1e-6)
    assert float(predict_nll(surrogate, points[0], model=model)) == pytest.approx(exact[0], rel=1e-12)
    traced = jax.jit(lambda x: predict_nll(surrogate, x, model))
    np.testing.assert_allclose(traced(jnp.asarray(points)), found, rtol=1e-6)
    np.testing.assert_allclose(traced(jnp.asarray(points[0])), found[0], rtol=1e-6)
    assert np.array_equal(predict_nll(surrogate, points[1::2], model), surrogate.nll(points[1::2]))
    with pytest.raises(DatasetError, match="made from another model"):
        predict_nll(surrogate, points, model.with_data([50.0, 48.0]))


@pytest.mark.slow
def test_rates_of_a_model_for_a_dataset_without(ds, model, near):
    bare = generate_dataset(model, 6000, method="profile", run=QUIET, include_rates=False)
    assert train_mlp_surrogate(bare[:200], **{**QUICK, "epochs": 1}).recipe == "residual"
    again = train_mlp_surrogate(bare, model=model, **QUICK)
    assert again.recipe == "rates" and rmse(again, near) < 0.08
    with pytest.raises(DatasetError, match="made from another model"):
        train_mlp_surrogate(bare, model=model.with_data([50.0, 48.0]), **QUICK)
    with pytest.raises(DatasetError, match="'rates' needs a data set with expected rates"):
        train_mlp_surrogate(bare, recipe="rates", **QUICK)


def test_points_with_infinite_nll_are_left_out(ds):
    nll = np.where(np.arange(400) % 7, ds.nll[:400], np.inf)
    surrogate = train_mlp_surrogate(replace(ds[:400], nll=nll), **{**QUICK, "epochs": 2})
    assert np.isfinite(surrogate.history["train_loss"]).all()


BAD = [
    ({"hidden_layers": ()}, r"hidden_layers=\(\)"),
    ({"hidden_layers": (0,)}, "hidden_layers=0"),
    ({"hidden_layers": 64}, "hidden_layers=64"),
    ({"epochs": 0}, "epochs=0"),
    ({"lr": -1}, "lr=-1"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"batch_size": 0.5}, "batch_size=0.5"),
    ({"val_fraction": 1.0}, "val_fraction=1.0"),
    ({"grad_weight": -0.1}, "grad_weight=-0.1"),
    ({"device": "cuda"}, "device='cuda': JAX has no such device"),
    ({"recipe": "best"}, "recipe='best': expected one of 'rates', 'residual', 'plain'"),
    ({"ensemble": 0}, "ensemble=0"),
    ({"seed": 1.5}, "seed=1.5"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments(ds, options, message):
    with pytest.raises(DatasetError, match=message) as caught:
        train_mlp_surrogate(ds, **{**QUICK, **options})
    assert "\n" not in str(caught.value)


def test_what_does_not_fit(ds, surrogate, model):
    with pytest.raises(DatasetError, match="expected a data set"):
        train_mlp_surrogate(model)
    with pytest.raises(DatasetError, match="expected a surrogate, found"):
        predict_nll(model, np.ones(5))
    for params in (np.ones(4), np.ones((2, 4)), np.ones((1, 1, 5)), "point", 1.0):
        with pytest.raises(ModelError, match=r"params has shape .*: expected \(5,\) or \(n, 5\)"):
            predict_nll(surrogate, params)
    with pytest.raises(ModelError, match="train with ensemble"):
        surrogate.error(ds.parameters)
