"""In which pieces toys are run, and the compiled programs of a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import tee
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from .._base._compiled import quick_options
from .._batches._engine import platform_of, results
from .._batches._run import Run
from .._inference._near import BATCH
from .._likelihood._protocol import Likelihood
from ._fits import Fitted, Plan, ToyRecord, quick_stage, record_stage, search_stage
from ._source import Source, Span

# Toys of a chunk, by the number of parameters: a chunk should take far longer than its dispatch (a millisecond) and
# far shorter than a run.
_SIZES_CPU = ((16, 1024), (64, 256))
_SMALLEST_CPU = 64
# A batch of a GPU keeps a dozen matrices for each toy.
_GPU_BYTES = 2**30
_GPU_MATRICES = 12
_GPU_SIZES = (64, 4096)
_REMEDY = "make a new one and start again from these toys with first_toy"


class Task(NamedTuple):
    """A chunk of toys of one source: a pure function of these numbers and the likelihood."""

    source: Source
    span: Span

    def __str__(self) -> str:
        return f"the chunk of toys {self.span.first} to {self.span.first + self.span.size - 1}"


def together(platform: str) -> bool:
    """Whether the toys of a chunk advance together (``vmap``) on this kind of device.

    On a CPU full fits go one after another: one compiled loop over toys is four times as fast (measured with 184
    parameters: 14 against 57 ms a toy), since a batched fit lasts until its slowest member is done, takes both branches
    of every condition, and batched factorizations gain nothing. Only the quick method, which factorizes nothing, gains
    from a batch there too (of ``BATCH`` toys). A GPU would be idle with one toy.
    """
    return platform != "cpu"


def chunk_size(likelihood: Likelihood) -> int:
    """Toys of a chunk on one device."""
    n = likelihood.init.shape[0]
    if not together(platform_of(likelihood)):
        return next((size for most, size in _SIZES_CPU if n <= most), _SMALLEST_CPU)
    room = _GPU_BYTES // (_GPU_MATRICES * likelihood.dtype.itemsize * n * n)
    least, most = _GPU_SIZES
    return int(min(max(2 ** max(room.bit_length() - 1, 0), least), most))


class Cut(NamedTuple):
    """A plan, and how many toys a task takes."""

    plan: Plan
    chunk: int


def make_plan(likelihood: Likelihood, fits: str, run: Run, **wanted: Any) -> Cut:
    """The plan of a run; ``wanted`` as in ``Plan``."""
    size = run.batch_size or chunk_size(likelihood)
    devices = 1 if run.mesh is None else run.mesh.size
    return Cut(Plan(fits, -(-size // BATCH) * BATCH, **wanted), size * devices)


def records(
    likelihood: Likelihood, plan: Plan, tasks: Iterable[Task], run: Run, total: int
) -> Iterator[tuple[Task, ToyRecord]]:
    """Tasks with their toys, in order, as NumPy arrays, and a progress bar of ``total`` toys where one is wanted."""
    here, there = tee(tasks)
    found = results(run, partial(program, plan), jax.tree.map(jnp.asarray, likelihood), there, remedy=_REMEDY)
    with tqdm(total=total, unit="toy", disable=not run.shows(False)) as bar:
        for task, record in zip(here, found, strict=True):
            bar.update(task.span.size)
            yield task, record


def program(plan: Plan, likelihood: Likelihood, mesh: Mesh | None) -> Callable[[Task], ToyRecord]:
    """The compiled function of a task."""
    leaves, treedef = jax.tree.flatten(likelihood)
    kinds = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves)
    form = _Form(treedef, kinds, likelihood.init.shape[0], np.dtype(likelihood.dtype))
    plan = plan._replace(together=together(platform_of(likelihood)))
    programs = [_program(stage, plan.of_fits, form, mesh) for stage in ("quick", "search")]
    quick, search, record = *programs, _program("record", plan, form, mesh)
    # Compilation releases Python's lock.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_Program.compiled, (quick, record)))
    dtype = likelihood.dtype

    def run(task: Task) -> ToyRecord:
        n = task.span.size
        inputs = (tuple(leaves), task.source.plain(dtype), np.uint32(task.span.first))
        fitted, unsettled = quick.compiled()(*inputs)
        if np.asarray(unsettled)[:n].any():
            fitted, _ = search.compiled()(*inputs, fitted)
        _, found = record.compiled()(*inputs, fitted)
        return jax.tree.map(lambda x: np.asarray(x)[:n], found)

    return run


class _Form(NamedTuple):
    """What programs are compiled for: the structure of a likelihood, its leaves, and the shape and type of a point."""

    treedef: Any
    leaves: tuple[Any, ...]
    n_params: int
    dtype: Any


# Stages return what stays spread over the devices, and what each of them, and the host, needs in full.


def _quick(likelihood: Likelihood, source: Source, index: Any, plan: Plan) -> tuple[Fitted, Any]:
    fitted = quick_stage(likelihood, source, index, plan)
    return fitted, fitted.unsettled


def _search(likelihood: Likelihood, source: Source, index: Any, fitted: Fitted, plan: Plan) -> tuple[Fitted, None]:
    del index
    return search_stage(likelihood, source, fitted, plan), None


def _record(likelihood: Likelihood, source: Source, index: Any, fitted: Fitted, plan: Plan) -> tuple[None, ToyRecord]:
    del index
    return None, record_stage(likelihood, source, fitted, plan)


_STAGES: dict[str, Callable[..., Any]] = {"quick": _quick, "search": _search, "record": _record}


class _Program:
    """A stage, compiled when it is first needed.

    It is traced when made, and not by the first call: threads would each do it, and under their own settings of JAX,
    which are local to threads.
    """

    def __init__(self, stage: str, plan: Plan, form: _Form, mesh: Mesh | None) -> None:
        source = Source(np.zeros(form.n_params), np.zeros(2), 0).plain(form.dtype)
        inputs = [form.leaves, source, np.uint32(0)]
        if stage != "quick":
            fitted = _program("quick", plan.of_fits, form, mesh).out[0]
            if mesh is not None:
                where = NamedSharding(mesh, P(*mesh.axis_names))
                fitted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), fitted)
            inputs.append(fitted)
        self._lowered = _jitted(_STAGES[stage], plan, form.treedef, mesh, len(inputs) - 3).lower(*inputs)
        self.out = self._lowered.out_info
        self._lock, self._compiled = Lock(), None

    def compiled(self) -> Any:
        """The executable."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._lowered.compile()
            return self._compiled


@lru_cache(maxsize=96)
def _program(stage: str, plan: Plan, form: _Form, mesh: Mesh | None) -> _Program:
    return _Program(stage, plan, form, mesh)


def _jitted(stage: Callable[..., Any], plan: Plan, treedef: Any, mesh: Mesh | None, n_spread: int) -> Any:
    """A stage as a jitted function of (leaves, source, first toy) and of ``n_spread`` trees with a toy axis."""

    def run(leaves: Any, source: Source, first: Any, *spread: Any) -> Any:
        numbers = jnp.arange(plan.size, dtype=jnp.uint32)
        if mesh is not None:
            first = first + lax.axis_index(mesh.axis_names).astype(jnp.uint32) * plan.size
        return stage(jax.tree.unflatten(treedef, leaves), source, first + numbers, *spread, plan)

    if mesh is None:
        large = jax.tree.unflatten(treedef, [None] * treedef.num_leaves).large
        return jax.jit(run, compiler_options={} if large else quick_options())
    axis = P(*mesh.axis_names)

    def shard(*args: Any) -> tuple[Any, Any]:
        split, whole = run(*args)
        return split, jax.tree.map(lambda x: lax.all_gather(x, mesh.axis_names, tiled=True), whole)

    specs = (P(), P(), P(), *[axis] * n_spread)
    return jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=(axis, P()), check_vma=False))
