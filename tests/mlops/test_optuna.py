"""Optuna studies that find something."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import mlops
from tests.mlops.support import spec_of

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def _quiet():
    """Optuna reports each trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


def test_suggested_edges_are_binnings():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    for n_bins in (1, 2, 7):
        trial = study.ask()
        edges = mlops.suggest_edges(trial, n_bins, -2.0, 5.0, name="e", spread=3.0)
        assert edges.shape == (n_bins + 1,)
        assert (edges[0], edges[-1]) == (-2.0, 5.0)
        widths = np.diff(edges)
        assert (widths > 0).all()
        assert widths.max() / widths.min() <= math.exp(6.0)
        assert len(trial.params) == (n_bins if n_bins > 1 else 0)
        if n_bins > 1:
            x = np.array([trial.params[f"e_{k}"] for k in range(n_bins)])
            np.testing.assert_allclose(widths, 7.0 * np.exp(x) / np.exp(x).sum(), rtol=1e-12)
    extreme = optuna.trial.FixedTrial({"edges_0": -2.0, "edges_1": 2.0})
    np.testing.assert_allclose(mlops.suggest_edges(extreme, 2)[1], 1 / (1 + math.exp(4.0)), rtol=1e-12)
    widths = [mlops.suggest_bandwidth(study.ask(), 0.01, 0.1) for _ in range(5)]
    assert 0.01 <= min(widths) < max(widths) <= 0.1


def toy(n=4000):
    """A signal that peaks where equidistant bins have an edge, over a background with a normalization uncertainty."""
    rng = np.random.default_rng(12)
    signal, background = rng.normal(1 / 3, 0.03, n), rng.uniform(0, 1, n)
    events = {
        "signal": (signal, np.full(n, 60 / n)),
        "bkg": (background, np.full(n, 1200 / n)),
        ("bkg", "stat"): (background, np.full(n, 1200 / n)),
    }
    flat = [[number] * 3 for number in (20.0, 400.0, 11.0, 400.0)]
    return nextstat.from_pyhf(spec_of(*flat)), events


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["z0", "expected_limit"])
def test_a_study_finds_a_better_binning(objective):
    model, events = toy()
    target = mlops.significance_objective(model, events, objective=objective)
    study = optuna.create_study(direction=target.direction, sampler=optuna.samplers.TPESampler(seed=1))
    equidistant = {f"edges_{k}": 0.0 for k in range(3)}
    study.enqueue_trial(equidistant)
    study.optimize(target, n_trials=25)
    first, best = study.trials[0].value, study.best_value
    print(f"{objective}: {first:.3f} to {best:.3f}")
    assert best > 1.4 * first if objective == "z0" else best < first / 1.4
    edges = mlops.suggest_edges(study.best_trial, 3)
    # The peak is no longer cut in two.
    assert (np.abs(edges - 1 / 3) > 0.04).all()
    # The value is the best model's own.
    found = target.build(study.best_trial)
    np.testing.assert_allclose(found.template("bkg").sum(), 1200.0, rtol=1e-12)
    counts = np.histogram(events["bkg"][0], edges)[0]
    np.testing.assert_allclose(found.template("bkg"), counts * 0.3, rtol=1e-12)
    if objective == "z0":
        again = float(nextstat.z0(found, data=found.asimov_data(mu=1.0)))
    else:
        again = float(nextstat.upper_limit(found, data=found.asimov_data(mu=0.0)).median)
    assert again == pytest.approx(best, rel=1e-9)


def test_statistical_uncertainties_and_bandwidths_follow_the_binning():
    model, events = toy()
    hard = mlops.significance_objective(model, events)
    trial = optuna.trial.FixedTrial({"edges_0": 0.3, "edges_1": -1.0, "edges_2": 0.0, "bandwidth": 0.05})
    edges = mlops.suggest_edges(trial, 3)
    scores, weights = events["bkg"]
    expected = np.sqrt(np.histogram(scores, edges, weights=weights**2)[0])
    by_hand = model.with_templates(
        {
            "signal": np.histogram(events["signal"][0], edges, weights=events["signal"][1])[0],
            "bkg": np.histogram(scores, edges, weights=weights)[0],
            ("bkg", "stat"): expected,
        }
    )
    np.testing.assert_allclose(hard.build(trial).likelihood.widths, by_hand.likelihood.widths, rtol=1e-12)
    soft = mlops.significance_objective(model, events, bandwidth="suggest").build(trial).template("signal")
    fixed = mlops.significance_objective(model, events, bandwidth=0.05).build(trial).template("signal")
    np.testing.assert_allclose(
        soft, nextstat.soft_histogram(events["signal"][0], edges, events["signal"][1], bandwidth=0.05)
    )
    np.testing.assert_allclose(soft, fixed)
    assert (np.abs(soft - hard.build(trial).template("signal")) > 0.1).any()


def test_epochs_are_reported_and_pruned(model):
    def build(trial):
        strength = trial.suggest_categorical("strength", [1.0, 0.1])
        for epoch in range(1, 4):
            yield model.with_templates({"signal": strength * epoch * np.array([1.0, 2.0, 1.0])})

    objective = mlops.OptunaObjective(build)
    study = optuna.create_study(
        direction=objective.direction,
        sampler=optuna.samplers.GridSampler({"strength": [1.0, 0.1]}, seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
    )
    study.enqueue_trial({"strength": 1.0})
    study.enqueue_trial({"strength": 0.1})
    study.optimize(objective, n_trials=2)
    good, bad = study.trials
    assert good.state == optuna.trial.TrialState.COMPLETE
    last = model.with_templates({"signal": [3.0, 6.0, 3.0]})
    assert good.value == pytest.approx(float(nextstat.z0(last, data=last.asimov_data(mu=1.0))), rel=1e-9)
    assert sorted(good.intermediate_values) == [0, 1, 2]
    assert bad.state == optuna.trial.TrialState.PRUNED
    assert sorted(bad.intermediate_values) == [0]


def test_values_last_or_best_observed_or_given(model):
    trial = optuna.create_study(direction="maximize").ask()
    falling = mlops.OptunaObjective(lambda _: iter([3.0, math.nan, 2.0]))
    assert falling(trial) == 2.0
    assert (
        mlops.OptunaObjective(lambda _: iter([3.0, 2.0]), choose="best")(
            optuna.create_study(direction="maximize").ask()
        )
        == 3.0
    )
    observed = mlops.OptunaObjective(lambda _: model, data="observed").value(model)
    assert observed == (pytest.approx(float(nextstat.z0(model)), rel=1e-9), "")
    given = mlops.OptunaObjective(lambda _: model, data=[40.0, 25.0, 30.0]).value(model)[0]
    assert given == pytest.approx(float(nextstat.z0(model, data=[40.0, 25.0, 30.0])), rel=1e-9)


def test_every_objective_of_a_training_serves_a_study(model):
    """The value is that of the loss, and so are the options."""
    histogram = model.template("signal")
    for name, options in (("uncertainty", {}), ("qmu", {"mu": 2.0}), ("limit", {"level": 0.9})):
        study = mlops.OptunaObjective(lambda _: model, name, **options)
        loss = nextstat.SignificanceLoss(model, "signal", data="asimov", objective=name, **options)
        value, flaw = study.value(model)
        assert (value, flaw) == (pytest.approx(float(loss.metric(histogram)), rel=1e-9), "")
        # What a training lowers, a study minimizes.
        assert (float(loss(histogram)) > 0) == (study.direction == "minimize")
        assert study.value(model)[0] != mlops.OptunaObjective(lambda _: model, "q0").value(model)[0]
    assert mlops.OptunaObjective(len, "expected_limit").objective == "limit"


@pytest.mark.parametrize("as_iterator", [False, True])
def test_models_without_a_finite_value_prune_their_trial(model, as_iterator):
    # With an empty background the signal alone explains the Asimov data: Z0 is infinite.
    empty = model.with_templates({"bkg": [0.0, 20.0, 25.0]})
    objective = mlops.OptunaObjective(lambda _: iter([empty]) if as_iterator else empty)
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert study.trials[0].user_attrs["reason"] == "z0 is inf"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_training_that_diverged_is_one_lost_trial(model, bad):
    def build(trial):
        return model.with_templates({"signal": model.template("signal") * (bad if trial.number == 1 else 1.0)})

    study = optuna.create_study(direction="maximize")
    study.optimize(mlops.OptunaObjective(build), n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "the yields of the model are not finite"


def events_of(**events):
    return lambda m: mlops.significance_objective(m, events)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: mlops.suggest_edges(None, 0), "n_bins=0"),
        (lambda m: mlops.suggest_edges(None, 2, "left"), "low='left'"),
        (lambda m: mlops.suggest_edges(None, 2, 1.0, 1.0), "low=1.0, high=1.0"),
        (lambda m: mlops.suggest_edges(None, 2, spread=0.0), "spread=0.0"),
        (lambda m: mlops.suggest_bandwidth(None, 0.0, 1.0), "low=0.0"),
        (lambda m: mlops.OptunaObjective(None), "build is a NoneType"),
        (lambda m: mlops.OptunaObjective(len, "z1"), "objective='z1'"),
        (lambda m: mlops.OptunaObjective(len, data="toys"), "data='toys'"),
        (lambda m: mlops.OptunaObjective(len, mu=math.nan), "mu=nan"),
        (lambda m: mlops.OptunaObjective(len, "limit", level=0.05), "level=0.05"),
        (lambda m: mlops.OptunaObjective(len, choose="first"), "choose='first'"),
        (lambda m: mlops.OptunaObjective(lambda _: "x")(SimpleNamespace()), "build gave a str"),
        (
            lambda m: mlops.OptunaObjective(len)(optuna.create_study().ask()),
            "direction is minimize: z0 needs",
        ),
        (
            lambda m: mlops.OptunaObjective(len)(optuna.create_study(directions=["maximize"] * 2).ask()),
            "direction is maximize, maximize",
        ),
        (lambda m: mlops.significance_objective(m, {}), "events is {}"),
        (lambda m: mlops.significance_objective(m, {3: [0.5]}), "template key 3"),
        (lambda m: mlops.significance_objective("model", {"signal": [0.5]}), "expected a model"),
        (lambda m: mlops.significance_objective(m, [0.5]), "events is"),
        (events_of(sig=[0.5]), "there is no sample 'sig'"),
        (events_of(signal=["x"]), "events of 'signal' are"),
        (events_of(signal=([0.5], [1.0, 2.0])), r"scores of shape \(1,\), weights of shape \(2,\)"),
        (events_of(signal=[math.nan]), "'signal' hold a number that is not finite"),
        (lambda m: mlops.significance_objective(m, {"signal": [0.5]}, bandwidth=0.0), "bandwidth=0.0"),
    ],
)
def test_wrong_input_has_one_clear_line(model, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)
