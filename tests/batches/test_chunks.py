"""Chunks of long jobs: their order, and how far ahead they are submitted."""

from __future__ import annotations

import threading

import pytest

import nextstat_jax as nextstat
from nextstat_jax._batches import _chunks
from tests.batches.support import Unreliable


def test_chunks_are_submitted_a_few_ahead():
    executor = Unreliable()
    stream = _chunks.shipped(executor, lambda shared, task: shared + task, 100, iter(range(50)), 2)
    assert next(stream) == 100
    assert executor.submitted == 4
    assert next(stream) == 101
    assert executor.submitted == 5
    assert list(stream) == list(range(102, 150))


def test_threads_keep_the_order_and_stop_early():
    gate, started = threading.Event(), []

    def run(k):
        started.append(k)
        if k == 0:
            gate.wait(10)
        else:
            gate.set()
        return k

    assert list(_chunks.threaded(run, range(6), 2)) == list(range(6))
    started.clear()
    stream = _chunks.threaded(run, range(10**9), 2)
    assert next(stream) == 0
    stream.close()
    assert len(started) <= 6


def test_an_error_in_a_thread_is_the_error():
    def run(k):
        raise nextstat.FitError(f"no {k}")

    with pytest.raises(nextstat.FitError, match="no 0"):
        list(_chunks.threaded(run, range(4), 2))
