"""Times of steps, measured when the results are there and not when the work was handed over."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

import jax
import numpy as np

from .._base._doors import integer, no_type_check
from .._base._errors import ModelError, NextstatError


class StepTimer:
    """Wall-clock times of repeated steps, in milliseconds.

    JAX returns before its results are computed; a timer that is given the results waits for them.

        timer = StepTimer(warmup=1)
        for batch in batches:
            with timer:
                loss = timer.wait(step(batch))
            logger.log(significance_metrics(-loss, step_time_ms=timer.last))

    or ``timer.start()`` and ``timer.stop(loss)``, which returns the time. A step that raises is not recorded.

    Args:
        warmup: So many first steps, which compile, are not recorded; ``last`` tells of them, too.
        window: Mean, median and percentiles are those of so many latest steps.

    Attributes:
        warmup: The same.
        window: The same.
        count: Number of recorded steps.
        total: Their sum, in milliseconds.

    Raises:
        ModelError: For arguments that are no numbers of steps.
        NextstatError: From ``start`` while a step is running, and from ``stop`` while none is.
    """

    @no_type_check
    def __init__(self, *, warmup: int = 0, window: int = 10_000) -> None:
        for name, value, least in (("warmup", warmup, 0), ("window", window, 1)):
            integer(value, name, least, ModelError)
        self.warmup, self.window = warmup, min(window, sys.maxsize)
        self._times: deque[float] = deque(maxlen=window)
        self.reset()

    def reset(self) -> None:
        """Forgets all steps; the warm-up begins anew."""
        self.count, self.total = 0, 0.0
        self._seen, self._last = 0, float("nan")
        self._begin: float | None = None
        self._times.clear()

    def start(self) -> None:
        """Begins a step."""
        if self._begin is not None:
            raise NextstatError("the timer is running already: call stop() before start()")
        self._begin = time.perf_counter()

    def stop(self, results: Any = None) -> float:
        """Ends the step.

        Args:
            results: A pytree; JAX arrays in it are waited for.

        Returns:
            Milliseconds since ``start``.
        """
        if self._begin is None:
            raise NextstatError("the timer is not running: call start() before stop()")
        self.wait(results)
        self._last = 1e3 * (time.perf_counter() - self._begin)
        self._begin = None
        self._seen += 1
        if self._seen > self.warmup:
            self.count += 1
            self.total += self._last
            self._times.append(self._last)
        return self._last

    def wait(self, results: Any) -> Any:
        """Waits for the JAX arrays in a pytree, and returns it."""
        return jax.block_until_ready(results)

    def __enter__(self) -> StepTimer:
        self.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.stop()
        else:
            self._begin = None

    @property
    def last(self) -> float:
        """Time of the last step in milliseconds; NaN before the first."""
        return self._last

    @property
    def mean(self) -> float:
        """Mean time of the latest steps; NaN if there are none."""
        return float(np.mean(self._times)) if self._times else float("nan")

    @property
    def median(self) -> float:
        """Median time of the latest steps; NaN if there are none."""
        return self.percentile(50)

    @no_type_check
    def percentile(self, q: float) -> float:
        """A percentile of the latest steps' times, ``q`` between 0 and 100; NaN if there are none."""
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 100:
            raise ModelError(f"q={q!r}: expected a percentage between 0 and 100")
        return float(np.percentile(self._times, q)) if self._times else float("nan")

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """``step_count`` and, once there are steps, ``step_time_ms`` (the last), its mean, median, p90 and p99.

        Args:
            prefix: Put in front of every name.
        """
        numbers: dict[str, float] = {"step_count": float(self.count)}
        if self._seen:
            numbers["step_time_ms"] = self._last
        if self._times:
            numbers |= {"step_time_ms_mean": self.mean, "step_time_ms_median": self.median}
            numbers |= {f"step_time_ms_p{q}": self.percentile(q) for q in (90, 99)}
        return {prefix + name: value for name, value in numbers.items()}

    def __repr__(self) -> str:
        times = f"last {self._last:.4g} ms, mean {self.mean:.4g} ms, median {self.median:.4g} ms"
        return f"StepTimer({self.count} steps, {times})"
