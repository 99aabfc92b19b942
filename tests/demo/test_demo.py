"""The demonstration, end to end with few steps, and its parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pyhf
import pytest

import nextstat_jax as nextstat
from nextstat_jax.demo import __main__ as demo
from nextstat_jax.demo._blobs import CENTERS, WIDTHS, YIELDS, blob_model, sample_events, without_systematics
from nextstat_jax.demo._inference import _channels, _first, _points, analyze
from nextstat_jax.demo._training import Settings, evaluate, scores, train

WITHOUT_POI = ("correlation.png", "distributions.png", "pulls.png")
PICTURES = (*WITHOUT_POI, "cls.png", "contour.png", "profile_likelihood.png", "ranking.png")
OF_TRAININGS = ("templates.png", "training.png")
SMALL = Settings(steps=4, batch=50, checkpoints=2, held_out=200)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = demo.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class _Small:
    """Settings whose compiled functions the tests of the training share."""

    steps = SMALL.steps

    def __new__(cls, steps: int) -> Any:
        return replace(SMALL, steps=steps)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "Settings", _Small)
    path, out = tmp_path / "mine.json", tmp_path / "pictures"
    spec = _counting([64.0, 61.0])
    path.write_text(json.dumps(spec))
    code, printed, errors = _run(capsys, path, "--steps", SMALL.steps, "--seed", 1, "--out", out)
    assert (code, errors) == (0, "")
    _assert_pictures(out, PICTURES + OF_TRAININGS)
    for expected in (
        *(
            "The workspace mine.json",
            "GoodnessOfFit",
            "Discovery",
            "UpperLimit",
            "Interval of mu",
            "uncorr_bkguncrt[0]",
        ),
        *("cross-entropy", "-Z0, shift profiled", "no syst."),
    ):
        assert expected in printed
    workspace = pyhf.Workspace(spec)
    data, model = workspace.data(workspace.model()), workspace.model()
    lines = printed.splitlines()
    row = lines[next(k for k, line in enumerate(lines) if line.startswith("HypoTest")) + 2].split()
    observed, bands = pyhf.infer.hypotest(1.0, data, model, return_expected_set=True)
    np.testing.assert_allclose([float(row[0]), float(row[1])], [1.0, observed], rtol=1e-4)
    np.testing.assert_allclose([float(x) for x in row[4:9]], bands, rtol=1e-3)


def _assert_pictures(out: Path, names: tuple[str, ...]) -> None:
    """Exactly these, none of them empty."""
    assert sorted(p.name for p in out.glob("*.*") if p.suffix != ".json") == sorted(names)
    for name in names:
        content = (out / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5_000


@pytest.fixture
def only_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_train_networks", lambda options: None)


@pytest.mark.usefixtures("only_workspace")
@pytest.mark.parametrize("option", [[], ["--workspace"]])
def test_other_workspace(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyzed: list[Any] = []
    monkeypatch.setattr(demo, "analyze", lambda model, out: analyzed.append((model, out)))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_counting([60.0])))
    code, printed, _ = _run(capsys, *option, path, "--out", tmp_path / "out")
    assert code == 0
    assert "The workspace mine.json" in printed
    [(model, out)] = analyzed
    assert model.parameter_names() == ["mu", "uncorr_bkguncrt[0]"]
    assert out == tmp_path / "out"


@pytest.mark.usefixtures("only_workspace")
def test_workspace_without_poi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "background.json"
    path.write_text(json.dumps(_counting([60.0, 50.0], poi="")))
    code, printed, _ = _run(capsys, path, "--out", tmp_path / "out")
    assert code == 0
    assert "names no parameter of interest" in printed
    _assert_pictures(tmp_path / "out", WITHOUT_POI)


@pytest.mark.slow
@pytest.mark.usefixtures("only_workspace")
def test_embedded_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, errors = _run(capsys, "--out", tmp_path)
    assert (code, errors) == (0, "")
    assert "jet_energy_scale" in printed
    assert "skipped" not in printed
    _assert_pictures(tmp_path, PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "bounds", "expected"),
    [([30.0, 20.0], [0.0, 10.0], "as if there were no bound"), ([64.0, 61.0], [0.0, 0.7], "expected at mu = 0.7")],
    ids=["best fit on a bound", "bounds that exclude 1"],
)
def test_bounds(
    data: list[float], bounds: list[float], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = _counting(data)
    parameters = [{"name": "mu", "bounds": [bounds], "inits": [0.5]}]
    spec["measurements"][0]["config"]["parameters"] = parameters
    analyze(nextstat.from_pyhf(spec), tmp_path)
    printed = capsys.readouterr().out
    assert expected in printed
    assert "skipped" not in printed
    _assert_pictures(tmp_path, PICTURES)


@pytest.mark.slow
def test_nothing_to_fit_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strength = {"name": "mu", "type": "normfactor", "data": None}
    spec = _rest([60.0]) | {
        "channels": [
            {
                "name": "singlechannel",
                "samples": [
                    {"name": "signal", "data": [10.0], "modifiers": [strength]},
                    {"name": "background", "data": [50.0], "modifiers": []},
                ],
            }
        ]
    }
    analyze(nextstat.from_pyhf(spec), tmp_path)
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if "skipped" in line] == [
        "ranking",
        "pulls",
        "correlations",
    ]
    _assert_pictures(tmp_path, ("cls.png", "distributions.png", "profile_likelihood.png"))


@pytest.mark.parametrize(
    ("minus", "plus", "bounds", "ends"),
    [
        (0.5, 1.0, (-5.0, 10.0), (-0.75, 4.5)),
        (0.5, 1.0, (0.0, 3.0), (0.0, 3.0)),
        (np.nan, 1.0, (-5.0, 10.0), (-2.5, 4.5)),
        (np.nan, np.nan, (-5.0, 10.0), (-0.05, 2.05)),
    ],
)
def test_where_to_scan(minus: float, plus: float, bounds: tuple[float, float], ends: tuple[float, float]) -> None:
    interval = SimpleNamespace(best=1.0, error_minus=minus, error_plus=plus)
    points = _points(interval, np.array(bounds))
    np.testing.assert_allclose([points[0], points[-1]], ends, rtol=1e-12)


def test_channels_with_signal_come_first() -> None:
    spec = _counting([60.0])
    channels = []
    for k in range(9):
        samples = json.loads(json.dumps(spec["channels"][0]["samples"]))
        samples[0]["data"] = [float(k)]
        samples[1]["modifiers"] = []
        channels.append({"name": f"channel_{k}", "samples": samples})
    spec["channels"] = channels
    spec["observations"] = [{"name": c["name"], "data": [60.0]} for c in channels]
    yields = nextstat.yields(nextstat.from_pyhf(spec))
    assert _channels(yields) == [f"channel_{k}" for k in range(3, 9)]


def test_long_tables_are_cut() -> None:
    assert _first("head\na\nb", 3) == "head\na\nb"
    assert _first("head\na\nb\nc", 3) == "head\na\nb\n  and 1 more"


def _counting(data: list[float], poi: str = "mu") -> dict[str, Any]:
    """A workspace of one channel with an uncertain background of 50 events a bin."""
    n = len(data)
    spec = pyhf.simplemodels.uncorrelated_background([5.0, 10.0][:n], [50.0] * n, [7.0, 4.0][:n]).spec
    return {"channels": spec["channels"], **_rest(data, poi)}


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
        (lambda path: path.write_text(json.dumps(nextstat.example_workspace())[:1000]), "JSON"),
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
    spec = nextstat.example_workspace()
    kinds = {m["type"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}
    assert kinds == {"normfactor", "normsys", "histosys", "shapesys", "staterror", "shapefactor", "lumi"}
    workspace = pyhf.Workspace(spec)  # checks pyhf's schema
    settings = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    reference = workspace.model(modifier_settings=settings)
    model = nextstat.from_pyhf(spec)
    assert model.parameter_names() == reference.config.par_names
    rng = np.random.default_rng(11)
    widths = np.where([p.constraint == "normal" for p in model.parameters()], 1.0, 0.2)
    for scale in (0.0, 0.3):
        params = np.array(reference.config.suggested_init())
        params = params + scale * rng.normal(size=params.shape) * widths
        expected = -float(reference.logpdf(params, workspace.data(reference))[0])
        np.testing.assert_allclose(model.nll(params), expected, rtol=1e-10)


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


@pytest.mark.slow
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
