"""The doors to other people's tools (pictures, loggers, environments, torch, files) against wrong values.

The values are those of ``test_doors``. Text has a place where a label is expected, truth where an option is, and NaN in
metrics.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests import building as b
from tests.test_doors import MODEL, MORE, REFUSED, WRONG, came_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]

WORKSPACE = b.one_channel(
    [b.sample("signal", [5.0, 8.0], b.normfactor("mu")), b.sample("b", [50.0, 40.0])], [55.0, 48.0]
)
WORDS, TRUTH, NUMBERS = {"a word", "no word"}, {"true"}, {"NaN", "NaN of JAX"}
MEANT = {
    "log": TRUTH, "summary": TRUTH, "data of distributions": TRUTH, "numbers": TRUTH, "observed": TRUTH,
    "include_gradient": TRUTH, "include_rates": TRUTH, "progress": TRUTH, "parameters": TRUTH,
    "improvement": TRUTH, "normalize": TRUTH, "xlabel": WORDS, "ylabel": WORDS, "label": WORDS,
    "reference_label": WORDS, "poi": WORDS, "prefix": WORDS, "path": {"a word"}, "folder": {"a word"},
    "q0": NUMBERS, "loss": NUMBERS,
    "step_time_ms": NUMBERS, "z0": NUMBERS, "build": {"a function", "a type"},
    # Batches of anything are histograms of the right length, or refused for it.
    "signal_histogram": {"a cube"}, "x of as_tensor": {"a cube", *NUMBERS},
}  # fmt: skip


def pictures() -> dict[str, tuple[Any, dict[str, Any]]]:
    plot, fit = nextstat.plot, nextstat.fit(MODEL)
    scaled = [MODEL.with_templates({"signal": jnp.array([5.0, 8.0]) * k}) for k in (1.0, 1.5, 2.0)]
    limits = jax.tree.map(lambda *x: jnp.stack(x), *map(nextstat.upper_limit, scaled))
    return {
        "brazil": (plot.brazil, {"result": nextstat.hypotest(MODEL, [0.5, 1.0, 2.0])}),
        "correlation": (plot.correlation, {"fit_result": fit}),
        "distributions": (plot.distributions, {"yields": nextstat.yields(MODEL)}),
        "exclusion": (plot.exclusion, {"upper_limit": limits, "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 1.0]}),
        "limits": (plot.limits, {"upper_limit": limits, "x": [1.0, 2.0, 3.0]}),
        "ranking": (plot.ranking, {"impacts": nextstat.interpret.impacts(MODEL)}),
        "scan": (plot.scan, {"result": nextstat.profile_scan(MODEL, "mu", np.linspace(0.0, 2.0, 5))}),
    }


def loggers() -> dict[str, tuple[Any, dict[str, Any]]]:
    mlops = nextstat.mlops
    return {
        "metrics_dict": (mlops.metrics_dict, {"result": {"a": 1.0}}),
        "significance_metrics": (mlops.significance_metrics, {"z0": 1.0}),
        "StepTimer": (mlops.StepTimer, {}),
        "OptunaObjective": (mlops.OptunaObjective, {"build": lambda trial: None}),
    }


def environments() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "HistFactoryCore": (nextstat.gym.HistFactoryCore, {"workspace": WORKSPACE}),
        "make_histfactory_env": (nextstat.gym.make_histfactory_env, {"workspace": WORKSPACE}),
    }


def tensors() -> dict[str, tuple[Any, dict[str, Any]]]:
    torch = pytest.importorskip("torch")
    bridge = nextstat.torch
    session = bridge.create_profiled_session(MODEL, "signal")
    usual = {"signal_histogram": torch.tensor([5.0, 8.0], dtype=torch.float64), "session": session}
    return {
        "create_session": (bridge.create_session, {"model": MODEL}),
        "SoftHistogram": (bridge.SoftHistogram, {"bin_edges": [0.0, 0.5, 1.0]}),
        "MonotoneEdges": (bridge.MonotoneEdges, {"n_bins": 3}),
        "as_tensor": (bridge.as_tensor, {"x": [1.0, 2.0]}),
        "profiled_z0_loss": (bridge.profiled_z0_loss, usual),
    }


def files() -> dict[str, tuple[Any, dict[str, Any]]]:
    distill = nextstat.distill
    data = distill.generate_dataset(MODEL, 8)
    return {
        "to_npz": (distill.to_npz, {"ds": data, "path": "data.npz"}),
        "from_npz": (distill.from_npz, {"path": "no file"}),
        "to_parquet": (distill.to_parquet, {"ds": data, "path": "data.parquet"}),
        "load": (distill.load, {"path": "no file"}),
    }


def surrogates() -> dict[str, tuple[Any, dict[str, Any]]]:
    distill = nextstat.distill
    data = distill.generate_dataset(MODEL, 64)
    made = distill.train_mlp_surrogate(data, epochs=2)
    return {
        "generate_dataset": (distill.generate_dataset, {"model": MODEL, "n_samples": 8}),
        "generate_parquet": (distill.generate_parquet, {"model": MODEL, "folder": "parts", "n_samples": 8}),
        "train_mlp_surrogate": (distill.train_mlp_surrogate, {"ds": data, "epochs": 2}),
        "predict_nll": (distill.predict_nll, {"surrogate": made, "params": MODEL.parameter_init()}),
        "log_density": (distill.log_density, {"source": MODEL, "surrogate": made}),
        "export": (distill.export, {"surrogate": made, "path": "a.jax"}),
    }


@pytest.mark.parametrize("doors", [pictures, loggers, environments, tensors, files, surrogates])
def test_what_has_no_place_is_refused(doors, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    accepted = []
    for door, (function, usual) in doors().items():
        for name, argument in inspect.signature(function).parameters.items():
            if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                continue
            meant = MEANT.get(name, set()) | MEANT.get(f"{name} of {door}", set())
            for what, value in (WRONG | MORE).items():
                result = came_of(function, usual, name, value)
                if result is not REFUSED and what in WRONG and what not in meant:
                    accepted.append((door, name, what))
                pyplot.close("all")
    assert accepted == []
