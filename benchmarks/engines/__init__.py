"""The tools that are compared, each behind the same small door.

An engine is a module with ``VERSIONS`` (packages to report), ``NEEDS`` (the module whose absence means "not
available") and ``open_engine(text, seed)``, which builds the model of a workspace and returns what it can do, as
`Opened`. A case that a tool cannot run maps to a sentence saying so.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENGINES = {
    "nextstat_jax": "benchmarks.engines.ours",
    "pyhf-minuit": "benchmarks.engines.pyhf_minuit",
    "pyhf-jax": "benchmarks.engines.pyhf_jax",
    "nextstat": "benchmarks.engines.nextstat_peer",
}


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        run: Does it once; the result is there when it returns (asynchronous dispatch is waited for).
        report: Turns a result into what has to stand beside the time: objective, status, iterations.
        units: How many units one run does, 4,096 for a batch of so many points.
        setup: Called before each run, outside the clock.
    """

    run: Callable[[], Any]
    report: Callable[[Any], dict] = lambda result: {}
    units: int = 1
    setup: Callable[[], None] | None = None


@dataclass(frozen=True)
class Opened:
    """A workspace opened by an engine."""

    n_params: int
    n_bins: int
    cases: dict[str, Case | str]


def load(name: str):
    """Import the engine called `name`."""
    return importlib.import_module(ENGINES[name])
