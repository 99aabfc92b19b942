"""The harness's side of a worker process."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class WorkerError(RuntimeError):
    """A worker died, ran out of time, or could not do what it was asked for."""


def environment() -> dict[str, str]:
    """Return the environment of workers: this repository importable, nothing cached between runs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION_CACHE")}
    kept |= {"NEXTSTAT_JAX_CACHE": "off"}
    return {**kept, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


class Client:
    """One engine in one process."""

    def __init__(self, name: str, python: str = sys.executable) -> None:
        self.name = name
        self.python = python
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=environment(),
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, operation: str, timeout: float, **arguments: Any) -> dict:
        """Send a request and wait for its answer."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            msg = f"no answer within {timeout:.0f} s"
            raise WorkerError(msg) from None
        except (BrokenPipeError, OSError, ValueError) as error:
            msg = f"the worker is gone ({error})"
            raise WorkerError(msg) from error
        if line is None:
            msg = f"the worker ended with code {self._process.wait()}"
            raise WorkerError(msg)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
