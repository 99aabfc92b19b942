"""NLL, gradient and expected rates of many points: one compiled chunk, on threads, devices or executors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._base._errors import DatasetError
from .._batches._chunks import cpu_count, shipped, threaded
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood, add_saturated
from .._likelihood._structure import Structure
from ._sampling import Plan, Points

NONFINITE = ("resample", "keep", "drop")
# Points that are vectorized at once: on a CPU so few that they stay in its caches.
_TOGETHER = {"cpu": 64}
_TOGETHER_ELSEWHERE = 4096
# Points of a chunk; replacements for points without a finite NLL come in few.
_CHUNK = {"cpu": 4096}
_CHUNK_ELSEWHERE = 65536
_FEW = 256
_TRIES = 100


class Rows(NamedTuple):
    """A chunk of a data set; ``gradient`` and ``rates`` are None where they were not asked for.

    Attributes:
        parameters: Shape (count, n_params).
        nll: Shape (count,).
        gradient: Shape (count, n_params).
        rates: Shape (count, n_bins).
        n_nonfinite: Points of the chunk that had no finite NLL.
    """

    parameters: np.ndarray
    nll: np.ndarray
    gradient: np.ndarray | None
    rates: np.ndarray | None
    n_nonfinite: int


class Span(NamedTuple):
    """``size`` points from ``first`` on."""

    first: int
    size: int

    def __str__(self) -> str:
        return f"the chunk of points {self.first} to {self.first + self.size - 1}"


class Wanted(NamedTuple):
    """What is computed: flags for the optional columns, the policy for infinite NLLs, points of a compiled call."""

    gradient: bool
    rates: bool
    nonfinite: str
    chunk: int
    together: int


class Engine(NamedTuple):
    """What computes: threads of this process, one device, the devices of a mesh, or an executor's workers."""

    device: Any
    mesh: Mesh | None
    executor: Executor | None

    @property
    def platform(self) -> str:
        """Kind of the devices."""
        if self.mesh is not None:
            return next(iter(self.mesh.devices.flat)).platform
        return "cpu" if self.executor is not None else self.device.platform


class Setup(NamedTuple):
    """What all chunks share: arrays of the likelihood, their structure, the points, what is computed."""

    arrays: tuple[Any, ...]
    structure: Structure
    plan: Plan
    wanted: Wanted


def check_engine(likelihood: Likelihood, device: Any, mesh: Any, executor: Any) -> Engine:
    """Refuses what cannot compute; the message says what can."""
    given = [name for name, value in (("device", device), ("mesh", mesh), ("executor", executor)) if value is not None]
    if len(given) > 1:
        raise DatasetError(f"{' and '.join(given)} are different places to compute: give one of them")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise DatasetError(f"mesh is a {type(mesh).__name__}: give a jax.sharding.Mesh")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise DatasetError(f"executor is a {type(executor).__name__}: give an executor of concurrent.futures")
    if mesh is not None:
        mesh = Mesh(mesh.devices.reshape(-1), ("point",), axis_types=(AxisType.Auto,))
    here = next(iter(likelihood.nominal.devices()))
    return Engine(here if device is None else device_of(device), mesh, executor)


def device_of(device: Any) -> Any:
    """A JAX device from its name (``"cpu"``, ``"cuda"``, ``"gpu"``, ``"cuda:1"``) or itself; None for the default."""
    if device is None:
        return jax.devices()[0]
    if isinstance(device, jax.Device):
        return device
    if isinstance(device, str):
        name, _, number = device.partition(":")
        try:
            found = jax.devices(name)
            return found[int(number or 0)]
        except (RuntimeError, ValueError, IndexError):
            pass
    there = ", ".join(sorted({d.platform for d in jax.devices()} | {"cpu"}))
    raise DatasetError(f"device={device!r}: JAX has no such device here; it has {there}")


def chunk_sizes(engine: Engine, batch_size: int | None) -> tuple[int, int]:
    """Points of a compiled call (of all devices), and points that are vectorized at once."""
    platform = engine.platform
    chunk = _CHUNK.get(platform, _CHUNK_ELSEWHERE) if batch_size is None else batch_size
    together = min(_TOGETHER.get(platform, _TOGETHER_ELSEWHERE), chunk)
    return chunk * (1 if engine.mesh is None else engine.mesh.size), together


def rows_of(setup: Setup, spans: Iterable[Span], engine: Engine) -> Iterator[Rows]:
    """The chunks in order. Each depends on the setup and its span alone."""
    if engine.executor is not None:
        plain = setup._replace(arrays=tuple(map(np.asarray, setup.arrays)))
        return shipped(engine.executor, run_elsewhere, plain, spans, None, error=DatasetError)
    sharding: Any = engine.device
    if engine.mesh is not None:
        sharding = NamedSharding(engine.mesh, P())
    arrays = tuple(jax.device_put(np.asarray(x), sharding) for x in setup.arrays)
    run = _runner(setup._replace(arrays=arrays), engine.mesh)
    points = Points(setup.plan)
    # Quasi-random points are made in order, here; threads evaluate them.
    tasks = ((span, points.chunk(*span)) for span in spans)
    workers = cpu_count() if engine.platform == "cpu" and engine.mesh is None else 1
    return threaded(lambda task: run(*task), tasks, workers)


def run_elsewhere(setup: Setup, span: Span) -> Rows:
    """One chunk on a worker of an executor."""
    if setup.arrays[0].dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    with jax.enable_x64(setup.arrays[0].dtype == np.float64):
        arrays = tuple(map(jnp.asarray, setup.arrays))
        return _runner(setup._replace(arrays=arrays), None)(span, Points(setup.plan).chunk(*span))


def _runner(setup: Setup, mesh: Mesh | None) -> Callable[[Span, np.ndarray], Rows]:
    """The function from points to rows, with its programs compiled."""
    kinds = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in setup.arrays)
    compiled = partial(_compiled, setup.structure, kinds, setup.wanted, mesh)
    dtype = setup.arrays[0].dtype
    compiled(setup.wanted.chunk)  # before threads ask for it

    def evaluate(points: np.ndarray) -> list[np.ndarray | None]:
        """All columns of any number of points; the last call is filled up with copies of the last point."""
        n, parts = len(points), []
        few = _FEW * (1 if mesh is None else mesh.size)
        size = few if n <= few < setup.wanted.chunk else setup.wanted.chunk
        for start in range(0, n, size):
            part = points[start : start + size].astype(dtype)
            short = size - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part
            columns = compiled(size)(setup.arrays, padded)
            parts.append([None if c is None else np.asarray(c)[: len(part)] for c in columns])
        joined = []
        for columns in zip(*parts, strict=True):
            first = columns[0]
            joined.append(first if first is None or len(columns) == 1 else np.concatenate(columns))
        return [None if c is None else np.asarray(c, np.float64) for c in joined]

    def run(span: Span, points: np.ndarray) -> Rows:
        columns = evaluate(points)
        return _finish(setup, span, points, columns, evaluate)

    return run


def _finish(setup: Setup, span: Span, points: np.ndarray, columns: list[Any], evaluate: Callable[..., Any]) -> Rows:
    """Applies the policy for points without a finite NLL."""
    bad = np.flatnonzero(~np.isfinite(columns[0]))
    count = len(bad)
    if count and setup.wanted.nonfinite == "drop":
        keep = np.isfinite(columns[0])
        points, columns = points[keep], [None if c is None else c[keep] for c in columns]
    elif count and setup.wanted.nonfinite == "resample":
        points, columns = points.copy(), [None if c is None else np.array(c) for c in columns]
        again = Points(setup.plan)
        for attempt in range(_TRIES):
            others = again.again(span.first, span.size, bad, attempt)
            found = evaluate(others)
            points[bad] = others
            for column, new in zip(columns, found, strict=True):
                if column is not None:
                    column[bad] = new
            bad = bad[~np.isfinite(found[0])]
            if not len(bad):
                break
        else:
            raise DatasetError(
                f"after {_TRIES} attempts {len(bad)} of {span.size} points still have no finite NLL: give narrower "
                "bounds, method='gaussian', or nonfinite='drop'"
            )
    return Rows(points, columns[0], columns[1], columns[2], count)


@lru_cache(maxsize=32)
def _compiled(structure: Structure, kinds: tuple[Any, ...], wanted: Wanted, mesh: Mesh | None, size: int) -> Any:
    """The executable for chunks of one size; threads that called a jitted function would each trace it."""
    fields = [name for name in Likelihood.__dataclass_fields__ if name != "structure"]

    def all_of(arrays: tuple[Array, ...], points: Array) -> Any:
        likelihood = Likelihood(**dict(zip(fields, arrays, strict=True)), structure=structure)
        return lax.map(partial(_columns, likelihood, wanted), points, batch_size=wanted.together)

    # Points are made anew for every chunk: their memory may be used again.
    where = next(iter(kinds)).sharding
    if mesh is not None:
        inside = all_of
        where = NamedSharding(mesh, P("point"))
        all_of = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("point")), out_specs=P("point"), check_vma=False)
    shape = jax.ShapeDtypeStruct((size, structure.n_params), kinds[0].dtype, sharding=where)
    return jax.jit(all_of).lower(kinds, shape).compile()


def _columns(likelihood: Likelihood, wanted: Wanted, params: Array) -> tuple[Array, Array | None, Array | None]:
    """NLL, gradient and expected rates of a point, which share most of their work."""
    data = likelihood.observed
    if not (wanted.gradient or wanted.rates):
        value = _derivatives.fast_deviance(likelihood, params, data)
        return add_saturated(value, likelihood, data), None, None
    if not wanted.gradient:
        value, rates = _derivatives.value_and_rates(likelihood, params, data)
        return add_saturated(value, likelihood, data), None, rates
    value, gradient, rates = _derivatives.value_gradient_and_rates(likelihood, params, data)
    return add_saturated(value, likelihood, data), gradient, rates if wanted.rates else None
