"""How a long job runs: the one record of it, for toys, surrogates and whatever else comes in chunks."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from jax.sharding import AxisType, Mesh

from .._base._doors import integer
from .._base._errors import FitError, NextstatError


@dataclass(frozen=True)
class Run:
    """How a long job runs; it does not change what comes out.

    Results do not depend on how they are computed: neither on the size of a batch nor on the number of workers, and on
    the devices only by rounding.

    Attributes:
        workers: Threads, by default one for each core on a CPU; with an executor, how many chunks it works on at once,
            by default what it says of itself.
        mesh: Devices to spread each chunk over, a ``jax.sharding.Mesh``.
        executor: Any executor of ``concurrent.futures``, to spread chunks over processes or machines: a process pool
            (with the start method "spawn", since JAX does not survive a fork), ``dask``'s ``Client.get_executor()``, a
            pool of ``mpi4py``. A chunk whose worker was lost is run again.
        batch_size: Toys or points of one compiled call on one device; by default chosen by the size of the model.
        progress: Whether to show a progress bar; by default as the function does.

    Raises:
        FitError: For a number that is not a positive integer, something that is no mesh or executor, a process pool
            that forks, or two places at once.

    Example:
        >>> Run(workers=2, batch_size=100).workers
        2
    """

    workers: int | None = None
    mesh: Mesh | None = None
    executor: Executor | None = None
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        mesh, executor = self.mesh, self.executor
        if mesh is not None and executor is not None:
            raise FitError("mesh and executor are two places to compute: give one of them")
        if mesh is not None and not isinstance(mesh, Mesh):
            raise FitError(f"mesh is a {type(mesh).__name__}: give a jax.sharding.Mesh")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise FitError(f"executor is a {type(executor).__name__}: give an executor of concurrent.futures")
        if isinstance(executor, ProcessPoolExecutor) and _forks(executor):
            raise FitError(
                "executor starts its processes by a fork, in which JAX waits for threads that are not there: give "
                'ProcessPoolExecutor(..., mp_context=multiprocessing.get_context("spawn"))'
            )
        for name in ("workers", "batch_size"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, integer(getattr(self, name), name))
        if self.workers is not None and mesh is not None:
            raise FitError("workers says how many threads or processes run, and mesh which devices: give one of them")
        if self.progress is not None and not isinstance(self.progress, bool):
            raise FitError(f"progress={self.progress!r:.60}: expected True, False or None")

    @property
    def row(self) -> Mesh | None:
        """The devices in one row: a mesh's axes and their types belong to what else the user does with it."""
        if self.mesh is None:
            return None
        return Mesh(self.mesh.devices.reshape(-1), ("row",), axis_types=(AxisType.Auto,))

    def shows(self, by_default: bool) -> bool:
        """Whether there is a progress bar."""
        return by_default if self.progress is None else self.progress


def _forks(executor: ProcessPoolExecutor) -> bool:
    context = getattr(executor, "_mp_context", None)
    return context is not None and context.get_start_method() == "fork"


def check_run(run: Any, error: type[NextstatError] = FitError) -> Run:
    """Refuses what does not say how a job runs."""
    if not isinstance(run, Run):
        raise error(f"run is a {type(run).__name__}: give a Run, as in run=Run(workers=2)")
    return run
