"""Long jobs cut into chunks, run side by side, handed back in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from .._base._errors import FitError, NextstatError

T = TypeVar("T")
R = TypeVar("R")

# How often a chunk is submitted before the executor is given up.
_TRIES = 4
# What an executor is taken to work on at once if it does not say.
_WORKERS = 64
# A chunk waits in the queue of every worker, so that none is idle while results are collected.
_AHEAD = 2
# Dask's names for a worker that went away; it is no dependency, so they are not imported.
_LOST_NAMES = {"KilledWorker", "CommClosedError", "FutureCancelledError", "FuturesCancelledError"}


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threaded(run: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Results of the tasks in their order, computed by threads of this process.

    Compiled code runs outside of Python's lock, so threads use all cores.
    """
    if workers == 1:
        yield from map(run, tasks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="nextstat-chunk")
    try:
        for _, future in _ahead(lambda task: pool.submit(run, task), tasks, _AHEAD * workers):
            yield future.result()
    finally:
        # Also when the caller stops early: what has not started is dropped.
        pool.shutdown(wait=True, cancel_futures=True)


def shipped(
    executor: Executor,
    run: Callable[..., R],
    shared: Any,
    tasks: Iterable[T],
    workers: int | None,
    *,
    error: type[NextstatError] = FitError,
    remedy: str = "",
) -> Iterator[R]:
    """Results of ``run(shared, task)`` in the order of the tasks, computed wherever the executor computes.

    A task is a pure function, so a task whose worker was lost is submitted again.

    Args:
        executor: Any executor of ``concurrent.futures``.
        run: A function that can be pickled.
        shared: What all tasks need.
        tasks: Tasks, whose ``str`` names them in errors.
        workers: How many tasks the executor works on at once; by default what it says of itself.
        error: What is raised.
        remedy: How to go on where the executor is given up, for the message.

    Raises:
        FitError: Or ``error``, if a task fails, or the executor cannot run it any more.
    """
    at_once = workers or int(getattr(executor, "_max_workers", None) or _WORKERS)

    def submit(task: T) -> Future[R]:
        try:
            return executor.submit(run, shared, task)
        except Exception as refused:
            lost: Future[R] = Future()
            lost.set_exception(refused)
            return lost

    pending: deque[Future[R]] = deque()
    try:
        for task, future in _ahead(submit, tasks, _AHEAD * at_once, pending):
            yield _settle(submit, task, future, error, remedy)
    finally:
        for future in pending:
            future.cancel()


def _ahead(
    submit: Callable[[T], Future[R]], tasks: Iterable[T], most: int, pending: deque[Future[R]] | None = None
) -> Iterator[tuple[T, Future[R]]]:
    """Tasks with their futures, in order; at most ``most`` are submitted and not handed on: memory stays flat."""
    pending = deque() if pending is None else pending
    source = iter(tasks)
    waiting: deque[T] = deque()
    for task in islice(source, most):
        waiting.append(task)
        pending.append(submit(task))
    while waiting:
        yield waiting.popleft(), pending.popleft()
        for task in islice(source, 1):
            waiting.append(task)
            pending.append(submit(task))


def _settle(submit: Callable[[T], Future[R]], task: T, future: Future[R], error: type[NextstatError], remedy: str) -> R:
    """The result of a future; a task that was lost with its worker is submitted again."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return future.result()
        except NextstatError:
            raise
        except (Exception, CancelledError) as found:
            if not _is_lost(found):
                raise error(f"{task} failed: {type(found).__name__}: {_first_line(found)}") from found
            if not tries_left:
                raise error(
                    f"{task} was lost {_TRIES} times with its worker ({type(found).__name__}): the executor cannot go "
                    f"on{'; ' if remedy else ''}{remedy}"
                ) from found
            future = submit(task)
    raise AssertionError("unreachable")


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that a worker went away, rather than that the task is wrong."""
    if isinstance(error, BrokenExecutor | ConnectionError | EOFError | CancelledError):
        return True
    return any(kind.__name__ in _LOST_NAMES for kind in type(error).__mro__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
