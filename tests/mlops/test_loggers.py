"""Loggers, read back by their own tools."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

import nextstat_jax as nextstat
from nextstat_jax import mlops

# Others' packages warn of their own insides, and leave closing files to the garbage collector.
mlflow_warnings = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_jsonl(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    with mlops.JsonlLogger(path) as logger:
        logger.log({"z0": jnp.float32(1.5), "val": {"loss": math.nan}})
        logger.log({"z0": 2}, 7)
        # Followed while it is written.
        assert len(path.read_text().splitlines()) == 2
        logger.log({"z0": 3})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["z0"]) for row in rows] == [(0, 1.5), (7, 2.0), (8, 3.0)]
    assert rows[0]["val/loss"] is None
    assert rows[0]["time"] == pytest.approx(time.time(), abs=60)
    with pytest.raises(nextstat.DatasetError, match="exists: choose another name, or append=True"):
        mlops.JsonlLogger(path)
    with mlops.JsonlLogger(path, append=True) as logger:
        logger.log({"z0": 4}, 9)
    assert len(path.read_text().splitlines()) == 4
    with pytest.raises(nextstat.DatasetError, match="cannot be written"):
        mlops.JsonlLogger(tmp_path, append=True)
    with pytest.raises(nextstat.NextstatError, match="this JsonlLogger is closed"):
        logger.log({"z0": 5})
    logger.close()


@pytest.mark.parametrize("logger", [mlops.JsonlLogger, mlops.TensorBoardLogger])
def test_files_need_a_path(logger):
    with pytest.raises(nextstat.DatasetError, match="None is no path"):
        logger(None)


@pytest.mark.parametrize("step", [-1, 1.5, True, "3"])
def test_steps_are_whole_numbers(tmp_path, step):
    with mlops.JsonlLogger(tmp_path / "x.jsonl") as logger, pytest.raises(nextstat.ModelError, match="step="):
        logger.log({}, step)


def test_tensorboard(tmp_path, result):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    before = set(sys.modules)
    with mlops.TensorBoardLogger(tmp_path) as logger:
        logger.log({"train": {"z0": 1.5, "bad": math.inf, "huge": 1e300}}, 3)
        logger.log({"train/z0": 2.5}, 4)
        logger.log(result, 5)
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("tensorflow", "torch")}
    events = EventAccumulator(str(tmp_path)).Reload()
    rows = [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors("train/z0")]
    assert rows == [(3, 1.5), (4, 2.5)]
    (mu,) = events.Tensors("mu")
    assert float(tensor_util.make_ndarray(mu.tensor_proto)) == pytest.approx(float(result.mu), rel=1e-6)
    assert len(events.Tensors("train/bad")) == 1


@pytest.fixture
def wandb_here(monkeypatch, tmp_path):
    """No network, and nothing outside the folder of the test."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    return wandb


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # wandb's service keeps sockets and files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline(wandb_here, tmp_path):
    settings = wandb_here.Settings(console="off", silent=True)
    with mlops.WandbLogger("project-of-mine", config={"bins": 4}, settings=settings) as logger:
        logger.log({"train/z0": 1.5}, 3)
        logger.log({"train/z0": 2.5}, 4)
        # The row of a step is complete when the next one begins.
        assert logger.run.summary["train/z0"] == 1.5
        assert logger.run.step == 4
        mine = mlops.WandbLogger(run=logger.run)
        mine.close()
        # A run of the caller's is left open.
        logger.log({"train/z0": 3.5}, 5)
        with pytest.raises(nextstat.ModelError, match="options are for a new run"):
            mlops.WandbLogger("other", run=logger.run)
    # The process that writes ends here, at the latest with this one.
    wandb_here.teardown()
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"train/z0" in content
    assert b"project-of-mine" in content


def read_back(logger, uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(logger.run_id)
    history = [(m.step, m.value) for m in client.get_metric_history(logger.run_id, "train/z0")]
    return run, history, client.get_experiment(run.info.experiment_id).name


def write_mlflow(uri):
    with mlops.MlflowLogger("binning", tracking_uri=uri, run_name="first", params={"n[0]": 4}) as logger:
        logger.log({"train/z0": 1.5, "value/free[0]": 0.25}, 3)
        logger.log({"train/z0": 2.5}, 4)
    run, history, experiment = read_back(logger, uri)
    assert history == [(3, 1.5), (4, 2.5)]
    assert run.data.metrics["value/free_0_"] == 0.25
    assert run.data.params == {"n_0_": "4"}
    assert (run.info.status, run.info.run_name, experiment) == ("FINISHED", "first", "binning")
    with pytest.raises(nextstat.ModelError, match="MLflow would call two metrics 'a_'"):
        mlops.MlflowLogger("binning", tracking_uri=uri).log({"a[": 1.0, "a]": 2.0})
    with pytest.raises(RuntimeError), mlops.MlflowLogger("binning", tracking_uri=uri) as logger:
        raise RuntimeError
    assert read_back(logger, uri)[0].info.status == "FAILED"


def marked(function):
    for mark in mlflow_warnings:
        function = mark(function)
    return function


@marked
def test_mlflow_in_files(monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    # MLflow's oldest store is the quickest to make; it asks to be wanted.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_mlflow((tmp_path / "runs").as_uri())


@pytest.mark.slow
@marked
def test_mlflow_in_a_database(tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    write_mlflow(f"sqlite:///{tmp_path / 'runs.db'}")


def test_missing_packages_are_named():
    code = (
        "import sys\n"
        "for name in ('wandb', 'mlflow', 'tensorboard', 'optuna'): sys.modules[name] = None\n"
        "import nextstat_jax as nextstat\n"
        "from nextstat_jax import mlops\n"
        "calls = (mlops.WandbLogger, mlops.MlflowLogger, lambda: mlops.TensorBoardLogger('x'),\n"
        "         lambda: mlops.OptunaObjective(len)(None))\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except nextstat.MissingExtraError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    advice = [
        f"{name} is not installed: pip install 'nextstat-jax[mlops]'"
        for name in ("wandb", "mlflow", "tensorboard", "optuna")
    ]
    assert done.stdout.splitlines() == advice, done.stderr
