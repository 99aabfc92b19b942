"""Which of many like cases the default run takes; all of them run in `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], *default: Any) -> list[Any]:
    """Cases of a parametrized test, of which only those in ``default`` run in the default run."""
    cases = list(cases)
    unknown = set(default) - set(cases)
    if unknown:
        raise ValueError(f"no cases: {sorted(map(str, unknown))}")
    slow = pytest.mark.slow
    return [
        case if case in default else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=slow)
        for case in cases
    ]
