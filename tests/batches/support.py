"""An executor that fails on request."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool


class Unreliable(Executor):
    """Loses tasks with their workers: those whose number of submission is listed."""

    def __init__(self, lost=(), error=BrokenProcessPool):
        self.lost, self.error, self.submitted, self.futures = set(lost), error, 0, []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.futures.append(future)
        self.submitted += 1
        if self.submitted in self.lost:
            future.set_exception(self.error("the worker is gone"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future
