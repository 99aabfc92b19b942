"""Where and in which pieces toys are run: threads, a mesh of devices, or the workers of an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._base._errors import FitError
from .._base._threads import limit_lapack_threads
from .._batches._chunks import cpu_count, shipped, threaded
from .._likelihood._histfactory import Likelihood
from .._likelihood._structure import Structure
from .._likelihood._throw import Source, throw_chunk
from ._fits import Fitted, Plan, ToyRecord, quick_stage, record_stage, search_stage, unsettled

# Toys are numbered by 32 bits; the upper half is left to keys of other streams.
MAX_TOYS = 2**31
# Toys of a chunk, by the number of parameters: a chunk should take far longer than its dispatch (a millisecond) and
# far shorter than a run.
_SIZES_CPU = ((16, 1024), (64, 256))
_SMALLEST_CPU = 64
# Toys that are thrown and not fitted: few or many at a time.
_THROWN, _THROWN_AT_MOST = 64, 2048
# A batch of a GPU keeps a dozen matrices for each toy.
_GPU_BYTES = 2**30
_GPU_MATRICES = 12
_GPU_SIZES = (64, 4096)


class Span(NamedTuple):
    """``size`` toys from ``first`` on."""

    first: int
    size: int


class Task(NamedTuple):
    """A chunk of toys of one source: a pure function of these numbers and the likelihood."""

    source: Source
    span: Span

    def __str__(self) -> str:
        return f"the chunk of toys {self.span.first} to {self.span.first + self.span.size - 1}"


class Engine(NamedTuple):
    """What computes: threads of this process, the devices of a mesh, or an executor's workers."""

    workers: int | None
    mesh: Mesh | None
    executor: Executor | None


def check_engine(workers: Any, mesh: Any, executor: Any) -> Engine:
    """Refuses what cannot compute; the message says what can."""
    if mesh is not None and executor is not None:
        raise FitError("mesh and executor are two ways to spread toys: give one of them")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise FitError(f"mesh is a {type(mesh).__name__}: give a jax.sharding.Mesh")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise FitError(f"executor is a {type(executor).__name__}: give an executor of concurrent.futures")
    if workers is not None:
        workers = positive(workers, "workers")
        if mesh is not None:
            raise FitError("workers says how many threads or processes run, and mesh which devices: give one of them")
    return Engine(workers, None if mesh is None else _plain_mesh(mesh), executor)


def _plain_mesh(mesh: Mesh) -> Mesh:
    """The devices of a mesh in one row; its axes and their types belong to what else the user does with it."""
    return Mesh(mesh.devices.reshape(-1), ("toy",), axis_types=(AxisType.Auto,))


def positive(value: Any, name: str, least: int = 1) -> int:
    """An integer that is large enough; ``FitError`` for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer from {least} on"
        raise FitError(f"{name}={value!r}: expected {kind}")
    return int(value)


def together(platform: str) -> bool:
    """Whether the toys of a chunk advance together (``vmap``) on this kind of device.

    On a CPU full fits go one after another: one compiled loop over toys is four times as fast (measured with 184
    parameters: 14 against 57 ms a toy), since a batched fit lasts until its slowest member is done, takes both branches
    of every condition, and batched factorizations gain nothing. Only the quick method, which factorizes nothing, gains
    from a batch there too (of ``BATCH`` toys). A GPU would be idle with one toy.
    """
    return platform != "cpu"


def platform_of(likelihood: Likelihood) -> str:
    """The kind of device that holds a likelihood."""
    return next(iter(likelihood.nominal.devices())).platform


def chunk_size(likelihood: Likelihood) -> int:
    """Toys of a chunk on one device."""
    n = likelihood.structure.n_params
    if not together(platform_of(likelihood)):
        return next((size for most, size in _SIZES_CPU if n <= most), _SMALLEST_CPU)
    room = _GPU_BYTES // (_GPU_MATRICES * likelihood.dtype.itemsize * n * n)
    least, most = _GPU_SIZES
    return int(min(max(2 ** max(room.bit_length() - 1, 0), least), most))


def spans(first: int, count: int, size: int) -> Iterator[Span]:
    """Cuts toys into chunks; all but the last are of the same size."""
    return (Span(start, min(size, first + count - start)) for start in range(first, first + count, size))


def throw_toys(likelihood: Likelihood, source: Source, span: Span) -> np.ndarray:
    """The data of toys, shape (count, n_data)."""
    size = _THROWN if span.size <= _THROWN else _THROWN_AT_MOST  # few shapes are compiled
    source = source.plain(likelihood.dtype)
    parts = [
        np.asarray(throw_chunk(likelihood, source, np.uint32(part.first), size=size))[: part.size]
        for part in spans(span.first, span.size, size)
    ]
    return np.concatenate(parts)


class Setup(NamedTuple):
    """What all tasks of a run share.

    Attributes:
        arrays: Arrays of the likelihood, in the order of its attributes.
        structure: Its structure.
        plan: What is computed.
    """

    arrays: tuple[Any, ...]
    structure: Structure
    plan: Plan


def records(likelihood: Likelihood, plan: Plan, tasks: Iterable[Task], engine: Engine) -> Iterator[ToyRecord]:
    """The toys of the tasks in order, as NumPy arrays. Task k does not depend on what else is run, or where."""
    setup = Setup(tuple(jax.tree.leaves(likelihood)), likelihood.structure, plan)
    if engine.executor is not None:
        # Arrays of this process's devices mean nothing elsewhere.
        plain = setup._replace(arrays=tuple(map(np.asarray, setup.arrays)))
        remedy = "make a new one and start again from these toys with first_toy"
        return shipped(engine.executor, run_elsewhere, plain, tasks, engine.workers, remedy=remedy)
    if engine.mesh is not None:
        everywhere = NamedSharding(engine.mesh, P())
        spread = tuple(jax.device_put(np.asarray(x), everywhere) for x in setup.arrays)
        return map(program(setup._replace(arrays=spread), engine.mesh), tasks)
    one_is_enough = together(platform_of(likelihood))
    return threaded(program(setup), tasks, engine.workers or (1 if one_is_enough else cpu_count()))


def program(setup: Setup, mesh: Mesh | None = None) -> Callable[[Task], ToyRecord]:
    """The compiled function of a task."""
    arrays = setup.arrays
    kinds = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in arrays)
    plan = setup.plan._replace(together=together(next(iter(arrays[0].devices())).platform))
    stages = _stages(setup.structure, plan, mesh, kinds)
    dtype = arrays[0].dtype

    def run(task: Task) -> ToyRecord:
        n = task.span.size
        inputs = (arrays, task.source.plain(dtype), np.uint32(task.span.first))
        fitted, open_ = stages.quick(*inputs)
        if np.asarray(open_)[:n].any():
            fitted, _ = stages.search(*inputs, fitted)
        _, record = stages.record(*inputs, fitted)
        return jax.tree.map(lambda x: np.asarray(x)[:n], record)

    return run


class _Stages:
    """The compiled stages of a plan.

    They are traced when made, and not by the first call: threads would each do it, and under their own settings of JAX,
    which are local to threads.
    """

    def __init__(self, structure: Structure, plan: Plan, mesh: Mesh | None, kinds: Sequence[Any]) -> None:
        self._structure, self._plan, self._mesh = structure, plan, mesh
        source = Source(np.zeros(structure.n_params), np.zeros(2)).plain(kinds[0].dtype)
        source = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), source)
        inputs = (tuple(kinds), source, jax.ShapeDtypeStruct((), np.uint32))
        quick = self._jit(_quick, 0).lower(*inputs)
        fitted = quick.out_info[0]
        if mesh is not None:
            where = NamedSharding(mesh, P(*mesh.axis_names))
            fitted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), fitted)
        record = self._jit(_record, 1).lower(*inputs, fitted)
        self._search = self._jit(_search, 1).lower(*inputs, fitted)
        self._searching: Any = None
        self._lock = Lock()
        # Compilation releases Python's lock.
        with ThreadPoolExecutor(2) as pool:
            self.quick, self.record = pool.map(lambda lowered: lowered.compile(), (quick, record))

    @property
    def search(self) -> Any:
        """The second stage, compiled when a toy needs it."""
        with self._lock:
            if self._searching is None:
                self._searching = self._search.compile()
            return self._searching

    def _jit(self, stage: Callable[..., Any], n_spread: int) -> Any:
        """A stage as a jitted function of (arrays, source, first toy) and of ``n_spread`` trees with a toy axis."""
        mesh, plan = self._mesh, self._plan

        def run(arrays: Sequence[Array], source: Source, first: Array, *spread: Any) -> Any:
            numbers = jnp.arange(plan.size, dtype=jnp.uint32)
            if mesh is not None:
                first = first + lax.axis_index(mesh.axis_names).astype(jnp.uint32) * plan.size
            return stage(Likelihood(*arrays, structure=self._structure), source, first + numbers, *spread, plan)

        if mesh is None:
            return jax.jit(run)
        axis = P(*mesh.axis_names)

        def shard(*args: Any) -> tuple[Any, Any]:
            split, whole = run(*args)
            return split, jax.tree.map(lambda x: lax.all_gather(x, mesh.axis_names, tiled=True), whole)

        specs = (P(), P(), P(), *[axis] * n_spread)
        return jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=(axis, P()), check_vma=False))


# Stages return what stays spread over the devices, and what each of them, and the host, needs in full.


def _quick(likelihood: Likelihood, source: Source, index: Array, plan: Plan) -> tuple[Fitted, Array]:
    fitted = quick_stage(likelihood, source, index, plan)
    return fitted, unsettled(fitted)


def _search(likelihood: Likelihood, source: Source, index: Array, fitted: Fitted, plan: Plan) -> tuple[Fitted, None]:
    return search_stage(likelihood, source, index, fitted, plan), None


def _record(likelihood: Likelihood, source: Source, index: Array, fitted: Fitted, plan: Plan) -> tuple[None, ToyRecord]:
    return None, record_stage(likelihood, source, fitted, plan)


@lru_cache(maxsize=32)
def _stages(structure: Structure, plan: Plan, mesh: Mesh | None, kinds: tuple[Any, ...]) -> _Stages:
    return _Stages(structure, plan, mesh, kinds)


def run_elsewhere(setup: Setup, task: Task) -> ToyRecord:
    """A task in another process."""
    if setup.arrays[0].dtype == np.float64:
        # A fresh process computes in single precision.
        jax.config.update("jax_enable_x64", True)
    limit_lapack_threads()
    return program(setup._replace(arrays=tuple(map(jnp.asarray, setup.arrays))))(task)
