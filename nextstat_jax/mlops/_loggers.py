"""Writers of metrics, all with one interface: ``log(metrics, step)`` and ``close()``, or a ``with`` block."""

from __future__ import annotations

import json
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._base._checked import a_path
from .._base._errors import DatasetError, MissingExtraError, ModelError, NextstatError
from ._metrics import metrics_dict

_MLFLOW_REFUSES = re.compile(r"[^\w\-. :/]", re.ASCII)


class MetricLogger(ABC):
    """What all loggers do; one of your own overrides ``_write`` and, if there is something to end, ``_end``.

    Attributes:
        closed: Whether ``close`` was called.
    """

    def __init__(self) -> None:
        self.closed = False
        self._next = 0

    def log(self, metrics: Any, step: Any = None) -> None:
        """Writes metrics.

        Args:
            metrics: What ``metrics_dict`` takes: its own dictionaries, mappings of numbers, or results. Numbers that
                are not finite are written, so that a diverged loss can be seen.
            step: Number of the step, not negative; by default the one after the last, from 0.

        Raises:
            ModelError: For metrics that are no numbers, or a step that is no integer.
            NextstatError: After ``close``.
        """
        if self.closed:
            raise NextstatError(f"this {type(self).__name__} is closed: make a new one")
        if step is None:
            step = self._next
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise ModelError(f"step={step!r}: expected an integer that is not negative")
        self._write(metrics_dict(metrics, nonfinite="keep"), int(step))
        self._next = int(step) + 1

    def close(self) -> None:
        """Ends the log; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._end(failed=False)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self.closed:
            self.closed = True
            self._end(failed=kind is not None)

    @abstractmethod
    def _write(self, metrics: dict[str, float], step: int) -> None:
        """Writes finished metrics of a step."""

    def _end(self, failed: bool) -> None:  # noqa: B027
        """Ends the log, successfully or because an exception left the ``with`` block."""


class JsonlLogger(MetricLogger):
    """A text file with one JSON object a line: ``step``, ``time`` (seconds since 1970) and the metrics.

    Lines are written as they come, so that the file can be followed. Numbers that are not finite become null.

    Args:
        path: The file; its folder is made if it is missing.
        append: Whether to go on in a file that exists.

    Raises:
        DatasetError: If the file exists and ``append`` is False, or cannot be written.
    """

    def __init__(self, path: Any, *, append: bool = False) -> None:
        super().__init__()
        self.path = a_path(path, "path", DatasetError)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a" if append else "x", encoding="utf-8")
        except FileExistsError:
            raise DatasetError(f"{self.path} exists: choose another name, or append=True") from None
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be written: {error.strerror}") from None

    def _write(self, metrics: dict[str, float], step: int) -> None:
        numbers = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **numbers}) + "\n")
        self._file.flush()

    def _end(self, failed: bool) -> None:
        self._file.close()


class TensorBoardLogger(MetricLogger):
    """Scalars in an event file, by TensorBoard's own writer: neither TensorFlow nor PyTorch is needed.

    TensorBoard keeps numbers as float32.

    Args:
        logdir: Folder of the event file.

    Raises:
        MissingExtraError: If tensorboard is not installed.
        DatasetError: For what is no path.
    """

    def __init__(self, logdir: Any) -> None:
        super().__init__()
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise MissingExtraError("tensorboard", "mlops") from None
        self._writer = Writer(str(a_path(logdir, "logdir", DatasetError)))

    def _write(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            # Beyond the range of float32 NumPy would warn of the infinity that it makes.
            with np.errstate(over="ignore"):
                self._writer.add_scalar(name, np.float32(value), step)
        self._writer.flush()

    def _end(self, failed: bool) -> None:
        self._writer.close()


class WandbLogger(MetricLogger):
    """A run of Weights & Biases.

    W&B wants steps that never go back, and drops what comes late. What is logged for one step in several calls becomes
    one row, which is written when the next step begins or the run ends.

    Args:
        project: Name of the project.
        run: A run of yours to write to, which ``close`` leaves open; by default a new one, which ``close`` finishes.
        **options: Of ``wandb.init``: ``name``, ``config``, ``dir``, ``mode="offline"``, ...

    Attributes:
        run: The run.

    Raises:
        MissingExtraError: If wandb is not installed.
        ModelError: For options besides a run of yours.
    """

    def __init__(self, project: str | None = None, *, run: Any = None, **options: Any) -> None:
        super().__init__()
        self._own = run is None
        if run is not None and (options or project is not None):
            raise ModelError("options are for a new run: leave them out beside run=")
        if run is None:
            try:
                import wandb
            except ImportError:
                raise MissingExtraError("wandb", "mlops") from None
            run = wandb.init(project=project, **options)
        self.run = run

    def _write(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def _end(self, failed: bool) -> None:
        if self._own:
            self.run.finish(exit_code=int(failed))


class MlflowLogger(MetricLogger):
    """A run of MLflow, written by its client: no global setting or active run is touched.

    Characters that MLflow allows in no name, brackets for example, become ``_``.

    Args:
        experiment: Name of the experiment, which is made if there is none.
        tracking_uri: Where, ``"sqlite:///runs.db"`` for example; MLflow's own setting by default.
        run_name: Name of the run.
        params: Settings of the run to write down, by name.

    Attributes:
        client: The client.
        run_id: Identifier of the run.

    Raises:
        MissingExtraError: If mlflow is not installed.
        ModelError: From ``log`` where two metrics would have one name.
    """

    def __init__(
        self,
        experiment: str = "nextstat_jax",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise MissingExtraError("mlflow", "mlops") from None
        self._metric = Metric
        self.client = MlflowClient(tracking_uri=tracking_uri)
        known = self.client.get_experiment_by_name(experiment)
        number = self.client.create_experiment(experiment) if known is None else known.experiment_id
        self.run_id: str = self.client.create_run(number, run_name=run_name).info.run_id
        if params:
            named = _renamed(params)
            self.client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in named.items()])

    def _write(self, metrics: dict[str, float], step: int) -> None:
        now, numbers = int(1e3 * time.time()), list(_renamed(metrics).items())
        # One request takes at most a thousand metrics.
        for first in range(0, len(numbers), 1000):
            rows = [self._metric(name, value, now, step) for name, value in numbers[first : first + 1000]]
            self.client.log_batch(self.run_id, metrics=rows)

    def _end(self, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def _renamed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in metrics.items():
        allowed = _MLFLOW_REFUSES.sub("_", name)
        if allowed in renamed:
            raise ModelError(f"MLflow would call two metrics {allowed!r}: rename {name!r}")
        renamed[allowed] = value
    return renamed
