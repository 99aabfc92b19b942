"""A cold session: what a user waits for in a new process, question by question, and how many programs XLA compiles.

    python -m benchmarks.cold workspace.json              # fit, test, limits, ranking, interval, scan
    python -m benchmarks.cold workspace.json --intervals  # then the interval of every parameter, which compiles nothing

    NEXTSTAT_JAX_CACHE=off python -m benchmarks.cold workspace.json    # a first process; without, a later one

Prints one JSON object: CPU seconds and compiled programs by question. To compare two versions of the package, run it in
both checkouts in turn: it uses the public face only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

# Part of what is measured.
START = time.process_time()

import jax  # noqa: E402

import nextstat_jax as nextstat  # noqa: E402

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Session:
    """Runs questions, and keeps what each of them took."""

    def __init__(self) -> None:
        self.programs = 0
        self.rows: dict[str, dict[str, float]] = {}
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **details: Any) -> None:
        self.programs += event == _COMPILED

    def ask(self, name: str, question: Callable[[], Any]) -> None:
        """One question, its answer printed like a user's."""
        before, programs = time.process_time(), self.programs
        answer = question()
        jax.block_until_ready(jax.tree.leaves(answer))
        repr(answer)
        spent = round(time.process_time() - before, 2)
        self.rows[name] = {"cpu_s": spent, "programs": self.programs - programs}

    def total(self) -> dict[str, Any]:
        """All of it, the import included."""
        return {
            "cpu_s": round(time.process_time() - START, 2),
            "programs": self.programs,
            "questions": self.rows,
        }


def cold_session(path: str, *, intervals: bool = False) -> dict[str, Any]:
    """Six questions to one workspace, in a process that has compiled nothing."""
    session = Session()
    model = nextstat.from_pyhf(path)
    poi = model.poi
    session.ask("fit", lambda: nextstat.fit(model))
    session.ask("test", lambda: nextstat.hypotest(model, 1.0))
    session.ask("limits", lambda: nextstat.upper_limit(model))
    session.ask("ranking", lambda: [row["name"] for row in nextstat.interpret.rank_impact(model)])
    session.ask("interval", lambda: nextstat.interval(model, poi))
    session.ask("scan", lambda: nextstat.profile_scan(model, poi, [0.0, 0.5, 1.0, 1.5]))
    if intervals:
        for parameter in model.parameters():
            if not parameter.fixed and parameter.name != poi:
                name = parameter.name
                session.ask(f"interval of {name}", lambda name=name: nextstat.interval(model, name))
    return session.total()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace")
    parser.add_argument("--intervals", action="store_true", help="the interval of every parameter as well")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    json.dump(cold_session(arguments.workspace, intervals=arguments.intervals), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
