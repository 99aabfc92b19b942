"""A cold session: what a user waits for in a new process, question by question, and how many programs XLA compiles.

    python -m benchmarks.cold workspace.json              # fit, test, limits, ranking, interval, scan
    python -m benchmarks.cold workspace.json --intervals  # then the interval of every parameter, which compiles nothing

    NEXTSTAT_JAX_CACHE=off python -m benchmarks.cold workspace.json    # a first process; without, a later one
    python -m benchmarks.cold workspace.json --pyhf       # the same questions to pyhf with NumPy and Minuit

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
from pathlib import Path
from typing import Any

# Imports are part of what is measured; a session with pyhf imports none of ours.
START = time.process_time()

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Session:
    """Runs questions, and keeps what each of them took."""

    def __init__(self) -> None:
        self.programs = 0
        self.rows: dict[str, dict[str, float]] = {}

    def heard(self, event: str, duration: float, **details: Any) -> None:
        """One of JAX's events."""
        self.programs += event == _COMPILED

    def ask(self, name: str, question: Callable[[], Any]) -> None:
        """One question, its answer printed like a user's."""
        before, programs = time.process_time(), self.programs
        repr(question())
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
    import jax

    import nextstat_jax as nextstat

    session = Session()
    jax.monitoring.register_event_duration_secs_listener(session.heard)
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


def pyhf_session(path: str) -> dict[str, Any]:
    """The same six questions to pyhf with NumPy and Minuit."""
    import numpy as np
    import pyhf
    from pyhf.infer.intervals.upper_limits import upper_limit
    from scipy import optimize

    session = Session()
    pyhf.set_backend("numpy", "minuit")
    workspace = pyhf.Workspace(json.loads(Path(path).read_text()))
    model = workspace.model()
    data, config = workspace.data(model), model.config
    fixed = config.suggested_fixed()
    best: list[Any] = []

    def held(values: dict[int, float]) -> float:
        init = [values.get(k, x) for k, x in enumerate(config.suggested_init())]
        mask = [flag or k in values for k, flag in enumerate(fixed)]
        return float(pyhf.infer.mle.fit(data, model, init, fixed_params=mask, return_fitted_val=True)[1])

    def fit() -> Any:
        found = pyhf.infer.mle.fit(data, model, return_uncertainties=True, return_fitted_val=True)
        best.extend(found)
        return found[0]

    def ranking() -> list[float]:
        values, errors = best[0][:, 0], best[0][:, 1]
        lower, upper = zip(*config.suggested_bounds(), strict=True)
        moving = [k for k, flag in enumerate(fixed) if not flag and k != config.poi_index]
        shifts = [(k, s * w) for k in moving for s in (1.0, -1.0) for w in (errors[k], 1.0)]
        return [held({k: min(max(values[k] + shift, lower[k]), upper[k])}) for k, shift in shifts]

    def interval() -> list[float]:
        poi, lowest = config.poi_index, best[1]
        (value, width), ends = best[0][poi], []
        for end in config.suggested_bounds()[poi]:
            far = float(np.clip(value + np.sign(end - value) * 3.0 * width, *config.suggested_bounds()[poi]))

            def rise(mu: float) -> float:
                return held({poi: mu}) - lowest - 1.0

            ends.append(float(optimize.brentq(rise, value, far, xtol=1e-3)) if rise(far) > 0 else far)
        return ends

    session.ask("fit", fit)
    session.ask("test", lambda: pyhf.infer.hypotest(1.0, data, model, test_stat="qtilde", return_expected_set=True))
    session.ask("limits", lambda: upper_limit(data, model, scan=None, level=0.05))
    session.ask("ranking", ranking)
    session.ask("interval", interval)
    session.ask("scan", lambda: [held({config.poi_index: mu}) for mu in (0.0, 0.5, 1.0, 1.5)])
    total = session.total()
    # Less accurate, and quicker: the limits between the values of a grid. Not part of the sum.
    grid = np.linspace(0.0, 5.0, 11)
    session.ask("limits by a scan of 11 values", lambda: upper_limit(data, model, scan=grid, level=0.05))
    return total


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace")
    parser.add_argument("--intervals", action="store_true", help="the interval of every parameter as well")
    parser.add_argument("--pyhf", action="store_true", help="the same questions to pyhf")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.pyhf:
        found = pyhf_session(arguments.workspace)
    else:
        found = cold_session(arguments.workspace, intervals=arguments.intervals)
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
