"""Timers that wait for results."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import mlops


class Clock:
    """A clock that goes by what it is told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_step_timer_counts_and_averages(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    timer = mlops.StepTimer(warmup=1, window=4)
    assert math.isnan(timer.mean)
    assert timer.metrics() == {"step_count": 0.0}
    for ms in (500.0, 1.0, 2.0, 3.0, 4.0, 10.0):
        with timer:
            clock.now += 1e-3 * ms
        assert timer.last == pytest.approx(ms)
    assert timer.count == 5
    assert timer.total == pytest.approx(20.0)
    assert timer.mean == pytest.approx(np.mean([2, 3, 4, 10]))
    assert timer.median == pytest.approx(3.5)
    assert timer.percentile(90) == pytest.approx(np.percentile([2, 3, 4, 10], 90))
    metrics = timer.metrics("t/")
    assert metrics["t/step_time_ms_p90"] == pytest.approx(timer.percentile(90))
    assert (metrics["t/step_count"], metrics["t/step_time_ms"]) == (5.0, pytest.approx(10.0))
    assert "5 steps" in repr(timer)
    with pytest.raises(RuntimeError), timer:
        raise RuntimeError
    assert timer.count == 5
    timer.start()
    clock.now += 7e-3
    assert timer.stop() == pytest.approx(7.0)
    timer.reset()
    assert timer.count == 0


def test_step_timer_waits_for_results(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waited.append(x) or x)
    timer = mlops.StepTimer()
    with timer:
        assert timer.wait({"a": 1}) == {"a": 1}
    timer.start()
    timer.stop([2])
    assert waited[0] == {"a": 1}
    assert [2] in waited


def test_timers_refuse_to_start_or_stop_twice():
    timer = mlops.StepTimer()
    with pytest.raises(nextstat.NextstatError, match="not running: call start"):
        timer.stop()
    timer.start()
    with pytest.raises(nextstat.NextstatError, match="running already: call stop"):
        timer.start()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: mlops.StepTimer(warmup=-1), "warmup=-1"),
        (lambda m: mlops.StepTimer(window=0), "window=0"),
        (lambda m: mlops.StepTimer().percentile(101), "q=101"),
    ],
)
def test_wrong_input_has_one_clear_line(model, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)
