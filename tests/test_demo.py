"""The demonstration, end to end with few steps, and its parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyhf
import pytest

import nextstat_jax as nextstat
from nextstat_jax.demo import __main__ as demo
from nextstat_jax.demo._blobs import CENTERS, WIDTHS, YIELDS, blob_model, sample_events
from nextstat_jax.demo._report import fit_table, prior_widths
from nextstat_jax.demo._scan import Curve, interval, profile_curves, without_systematics
from nextstat_jax.demo._training import Settings, evaluate, scores, train
from nextstat_jax.demo._workspace import demo_workspace

PICTURES = ("profile_likelihood.png", "templates.png", "training.png")
SMALL = Settings(steps=4, batch=50, checkpoints=2, held_out=200)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = demo.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    code, printed, errors = _run(capsys, "--steps", 3, "--seed", 1, "--out", out)
    assert (code, errors) == (0, "")
    assert sorted(p.name for p in out.iterdir()) == list(PICTURES)
    for name in PICTURES:
        content = (out / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
    for expected in ("jet_energy_scale", "after/before", "Z0 = ", "cross-entropy", "-Z0, shift profiled", "no syst."):
        assert expected in printed


@pytest.fixture
def only_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_train_networks", lambda options: None)


@pytest.mark.usefixtures("only_fit")
@pytest.mark.parametrize("option", [[], ["--workspace"]])
def test_other_workspace(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(pyhf.simplemodels.uncorrelated_background([5.0], [50.0], [7.0]).spec | _rest([60.0])))
    code, printed, _ = _run(capsys, *option, path, "--out", tmp_path)
    assert code == 0
    assert "Fit of mine.json" in printed
    assert "uncorr_bkguncrt[0]" in printed
    assert (tmp_path / "profile_likelihood.png").exists()


@pytest.mark.usefixtures("only_fit")
def test_workspace_without_poi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "background.json"
    spec = pyhf.simplemodels.uncorrelated_background([5.0], [50.0], [7.0]).spec | _rest([60.0], poi="")
    path.write_text(json.dumps(spec))
    code, printed, _ = _run(capsys, path, "--out", tmp_path)
    assert code == 0
    assert "names no parameter of interest" in printed
    assert not (tmp_path / "profile_likelihood.png").exists()


def _rest(data: list[float], poi: str = "mu") -> dict[str, Any]:
    measurement = {"name": "m", "config": {"poi": poi, "parameters": []}}
    return {
        "version": "1.0.0",
        "measurements": [measurement],
        "observations": [{"name": "singlechannel", "data": data}],
    }


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "mine.json"),
        (lambda path: path.mkdir(), "mine.json"),
        (lambda path: path.write_text(json.dumps(demo_workspace())[:1000]), "JSON"),
        (lambda path: path.write_text("{}"), "channels"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "mine.json"),
    ],
)
def test_bad_workspaces_give_one_line(
    write: Callable[[Path], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "mine.json")
    code, printed, errors = _run(capsys, "--workspace", tmp_path / "mine.json", "--out", tmp_path / "out")
    assert code == 2
    assert printed == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_output_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, errors = _run(capsys, "--out", tmp_path / "file" / "out")
    assert (code, errors.count("\n")) == (2, 1)


def test_missing_matplotlib_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, printed, errors = _run(capsys, "--out", tmp_path / "out")
    assert (code, printed) == (2, "")
    assert "nextstat-jax[plot]" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--steps", "many"], ["--seed", "x"], ["--unknown"]])
def test_bad_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_embedded_workspace_is_complete_and_agrees_with_pyhf() -> None:
    spec = demo_workspace()
    kinds = {m["type"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}
    assert kinds == {"normfactor", "normsys", "histosys", "shapesys", "staterror", "shapefactor", "lumi"}
    workspace = pyhf.Workspace(spec)  # checks pyhf's schema
    settings = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    reference = workspace.model(modifier_settings=settings)
    model = nextstat.from_pyhf(spec)
    assert model.parameter_names() == reference.config.par_names
    rng = np.random.default_rng(11)
    for scale in (0.0, 0.3):
        params = np.array(reference.config.suggested_init())
        params = params + scale * rng.normal(size=params.shape) * np.minimum(prior_widths(model) + 0.1, 1.0)
        expected = -float(reference.logpdf(params, workspace.data(reference))[0])
        np.testing.assert_allclose(model.nll(params), expected, rtol=1e-10)


def test_prior_widths_are_those_of_pyhf() -> None:
    spec = demo_workspace()
    reference = pyhf.Workspace(spec).model()
    expected = [0.0] * reference.config.npars
    for name in reference.config.par_map:
        block = reference.config.param_set(name)
        if block.constrained:
            widths = block.width()
            expected[reference.config.par_slice(name)] = widths
    np.testing.assert_allclose(prior_widths(nextstat.from_pyhf(spec)), expected, rtol=1e-12)


def test_fit_table_shows_pulls() -> None:
    model = nextstat.from_pyhf(demo_workspace())
    fit = nextstat.fit(model)
    lines = {line.split()[0]: line.split() for line in fit_table(model, fit).splitlines()}
    index = model.parameter_names().index("jet_energy_scale")
    _, value, _, uncertainty, pull, shrunk, *_ = lines["jet_energy_scale"]
    np.testing.assert_allclose(float(value), fit.params[index], atol=1e-3)
    np.testing.assert_allclose(float(uncertainty), fit.uncertainties[index], atol=1e-3)
    np.testing.assert_allclose(float(pull), fit.params[index], atol=0.01)  # nominal 0, uncertainty before the fit 1
    np.testing.assert_allclose(float(shrunk), fit.uncertainties[index], atol=0.01)
    assert lines["mu"][-1] == "free"


def test_profile_curves_of_a_counting_experiment() -> None:
    spec = pyhf.simplemodels.uncorrelated_background([10.0], [50.0], [5.0]).spec | _rest([65.0])
    model = nextstat.from_pyhf(spec)
    observed, fixed, expected = profile_curves(model, nextstat.fit(model))
    # Without systematics: n = 65 on 50 + 10 mu.
    nu = 50.0 + 10.0 * fixed.mu
    np.testing.assert_allclose(fixed.q, 2.0 * (nu - 65.0 - 65.0 * np.log(nu / 65.0)), atol=1e-6)
    for curve, best in ((observed, 1.5), (fixed, 1.5), (expected, 1.0)):
        np.testing.assert_allclose(curve.mu[np.argmin(curve.q)], best, atol=0.15)  # the spacing of the points
    assert np.all(observed.q <= fixed.q + 1e-6)
    assert interval(observed)[0] < interval(fixed)[0] < interval(fixed)[1] < interval(observed)[1]


def test_interval_of_a_parabola() -> None:
    mu = np.linspace(-0.2, 3.0, 33)
    curve = Curve("", mu, ((mu - 1.0) / 0.5) ** 2)
    np.testing.assert_allclose(interval(curve), (0.5, 1.5), rtol=1e-12)
    assert interval(Curve("", mu[10:15], ((mu[10:15] - 1.0) / 0.5) ** 2)) == (None, None)


def test_blobs_are_where_they_should_be() -> None:
    events = np.asarray(sample_events(jax.random.key(3), 20_000))
    assert events.dtype == np.float32
    # Five standard errors of the mean, and of the standard deviation.
    np.testing.assert_allclose(events.mean(axis=1), CENTERS, atol=5 * 2.5 / np.sqrt(20_000))
    np.testing.assert_allclose(events.std(axis=1), np.stack([WIDTHS, WIDTHS], axis=1), rtol=5 / np.sqrt(2 * 20_000))


def test_without_systematics_changes_no_structure() -> None:
    model = blob_model(4)
    without = without_systematics(model, model.parameter_init())
    assert {p.name: p.fixed for p in model.parameters()} == {"mu": False, "shift": False}
    assert {p.name: p.fixed for p in without.parameters()} == {"mu": False, "shift": True}
    assert jax.tree.structure(model) == jax.tree.structure(without)


@pytest.mark.parametrize("objective", ["significance", "cross_entropy", "cross_entropy_augmented"])
def test_training_is_reproducible(objective: Any) -> None:
    params, history = train(objective, SMALL, seed=5)
    again, _ = train(objective, SMALL, seed=5)
    other, _ = train(objective, SMALL, seed=6)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), params, again)
    assert all(jax.tree.leaves(same))
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.all(a == b)), params, other)))
    assert history.loss.shape == (4,)
    assert history.steps.tolist() == [0, 2, 3]
    assert all(np.all(np.isfinite(values)) and len(values) == 3 for values in (history.z0, history.z0_fixed))
    assert np.all(history.z0 <= history.z0_fixed + 1e-6)


def test_evaluation_fills_hard_histograms_and_fits() -> None:
    params, _ = train("cross_entropy", SMALL, seed=2)
    edges = np.array([0.0, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 1.0])
    for chosen in (None, edges):
        evaluation = evaluate(params, SMALL, seed=2, edges=chosen)
        np.testing.assert_allclose(evaluation.histograms.sum(axis=1), YIELDS, rtol=1e-5)
        assert bool(evaluation.fit.converged) and bool(evaluation.fit_fixed.converged)
        np.testing.assert_allclose([evaluation.fit.mu, evaluation.fit_fixed.mu], 1.0, atol=1e-3)
        assert 0 < evaluation.z0 <= evaluation.z0_fixed + 1e-6
    events = sample_events(jax.random.key(0), 1000)
    values = np.asarray(scores(params, events, SMALL))
    assert values.shape == (5, 1000)
    assert np.all((values > 0) & (values < 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_training_on_the_significance_pays(seed: int) -> None:
    settings = Settings(steps=400)
    z0 = {
        objective: evaluate(train(objective, settings, seed)[0], settings, seed).z0
        for objective in ("significance", "cross_entropy", "cross_entropy_augmented")
    }
    assert z0["significance"] > z0["cross_entropy_augmented"] + 0.1 > z0["cross_entropy"] + 0.1
