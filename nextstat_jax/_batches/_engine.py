"""The one engine of long jobs: threads of this process, the devices of a mesh, or the workers of an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._base._errors import FitError, NextstatError
from .._base._threads import limit_lapack_threads
from ._chunks import cpu_count, shipped, threaded
from ._run import Run

T = TypeVar("T")
R = TypeVar("R")


def results(
    run: Run,
    make: Callable[[Any, Mesh | None], Callable[[T], R]],
    shared: Any,
    tasks: Iterable[T],
    *,
    error: type[NextstatError] = FitError,
    remedy: str = "",
) -> Iterator[R]:
    """The results of tasks, in order. What task k gives does not depend on what else is run, or where.

    Args:
        run: Where and how.
        make: The function of a task, from ``shared`` and, if the task is spread over devices, their mesh, of which the
            only axis is called ``"row"``. With an executor it is called by each of its workers: it can be pickled, and
            keeps what it compiles.
        shared: What all tasks need: a pytree of arrays, on the device that computes.
        tasks: Tasks, whose ``str`` names them in errors.
        error: What is raised where an executor cannot go on.
        remedy: How to go on then, for the message.
    """
    if run.executor is not None:
        # Arrays of this process's devices mean nothing elsewhere.
        plain = (make, jax.tree.map(np.asarray, shared))
        return shipped(run.executor, _elsewhere, plain, tasks, run.workers, error=error, remedy=remedy)
    mesh = run.row
    if mesh is not None:
        everywhere = NamedSharding(mesh, P())
        return map(make(jax.tree.map(lambda x: jax.device_put(np.asarray(x), everywhere), shared), mesh), tasks)
    one_is_enough = platform_of(shared) != "cpu"
    return threaded(make(shared, None), tasks, run.workers or (1 if one_is_enough else cpu_count()))


def platform_of(shared: Any) -> str:
    """The kind of device that holds arrays; those of NumPy go to JAX's default."""
    arrays = (leaf for leaf in jax.tree.leaves(shared) if isinstance(leaf, jax.Array))
    return next((next(iter(x.devices())).platform for x in arrays), jax.default_backend())


def _elsewhere(shared: Any, task: Any) -> Any:
    """A task in another process."""
    make, arrays = shared
    if any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(arrays)):
        # A fresh process computes in single precision.
        jax.config.update("jax_enable_x64", True)
    limit_lapack_threads()
    return make(jax.tree.map(jnp.asarray, arrays), None)(task)
