"""Counting what XLA compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_COUNTERS: list[list[int]] = []


def _heard(event: str, duration: float, **details: Any) -> None:
    for counter in _COUNTERS:
        counter[0] += event == _COMPILED


jax.monitoring.register_event_duration_secs_listener(_heard)


@contextmanager
def compilations() -> Iterator[list[int]]:
    """A list of one number that counts programs while the block runs."""
    counter = [0]
    _COUNTERS.append(counter)
    try:
        yield counter
    finally:
        _COUNTERS.remove(counter)
