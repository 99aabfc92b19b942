"""The process that holds one engine. It reads one JSON request a line and answers each with one JSON line.

Every engine lives in a process of its own: pyhf's backend and JAX's precision are global, a peer may need another
interpreter, and a peer that dies takes nothing with it.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from benchmarks import engines, machine, timing


class Worker:
    """Answers requests about one engine."""

    def __init__(self, name: str) -> None:
        self.engine = engines.load(name)
        self.opened: engines.Opened | None = None
        self.calls: dict[str, int] = {}

    def hello(self) -> dict:
        """Say whether the engine can be used here, and its versions."""
        if importlib.util.find_spec(self.engine.NEEDS) is None:
            return {"available": False, "reason": f"{self.engine.NEEDS} cannot be imported"}
        return {"available": True, "versions": machine.versions(*self.engine.VERSIONS)}

    def open(self, path: str, seed: int) -> dict:
        """Build the model of a workspace."""
        self.calls = {}
        self.opened = self.engine.open_engine(Path(path).read_text(), seed)
        return {"n_params": self.opened.n_params, "n_bins": self.opened.n_bins}

    def prepare(self, case: str) -> dict:
        """Run a case for the first time and report what it found; compilation is part of this and of nothing else."""
        found = self._case(case)
        if isinstance(found, str):
            return {"skipped": found}
        seconds, result = timing.first(found)
        return {"first_call": seconds, "units": found.units, **found.report(result)}

    def time(self, case: str) -> dict:
        """Take one sample of a prepared case."""
        found = self._case(case)
        assert isinstance(found, engines.Case)
        if case not in self.calls:
            self.calls[case] = timing.calls_per_sample(found)
        return {"seconds": timing.sample(found, self.calls[case]), "calls": self.calls[case]}

    def _case(self, name: str) -> engines.Case | str:
        assert self.opened is not None
        return self.opened.cases.get(name, "not offered")


def serve(name: str) -> None:
    """Answer requests until the input ends."""
    # Whatever a library prints must not look like an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker(name)
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("operation")
        try:
            answer = getattr(worker, operation)(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve(sys.argv[1])
