"""How a time is taken: a warm loop long enough for the clock, many short samples rather than one long one."""

import time
from collections.abc import Sequence

from benchmarks.engines import Case

# One sample lasts about this long, so that the clock's own cost and resolution do not matter.
SAMPLE_SECONDS = 0.05


def first(case: Case) -> tuple[float, object]:
    """Run `case` for the first time and return the seconds, compilation included, and the result."""
    if case.setup:
        case.setup()
    start = time.perf_counter()
    result = case.run()
    return time.perf_counter() - start, result


def calls_per_sample(case: Case) -> int:
    """Return how many runs make one sample."""
    if case.setup:
        return 1
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < SAMPLE_SECONDS / 5:
        case.run()
        calls += 1
    return max(1, calls * 5) if calls > 1 else 1


def sample(case: Case, calls: int) -> float:
    """Return the seconds of one run, from a loop of `calls` of them after one that warms the caches up."""
    if case.setup:
        case.setup()
    elif calls > 1:
        # Other engines ran since the last sample and emptied the processor's caches.
        for _ in range(max(1, calls // 10)):
            case.run()
    run = case.run
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def median(values: Sequence[float]) -> float:
    """Return the median without needing NumPy in the caller's environment."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
