"""NLL, gradient and expected rates of many points, in chunks that the engine of long jobs computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._base._errors import DatasetError
from .._batches._engine import platform_of, results
from .._batches._run import Run
from .._likelihood import _derivatives
from .._likelihood._binned import HistFactory
from .._likelihood._histfactory import add_saturated
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


class Task(NamedTuple):
    """A chunk to compute: its points, or None where whoever computes it makes them."""

    span: Span
    points: np.ndarray | None

    def __str__(self) -> str:
        return str(self.span)


class Setup(NamedTuple):
    """What all chunks share.

    Attributes:
        likelihood: Its arrays lie where chunks are computed.
        plan: The points.
        wanted: What is computed.
        run: How.
    """

    likelihood: HistFactory
    plan: Plan
    wanted: Wanted
    run: Run


def placed(likelihood: HistFactory, device: Any, run: Run) -> HistFactory:
    """The likelihood on the device that is asked for; ``DatasetError`` for none, or two places at once."""
    if device is None:
        return likelihood
    given = [name for name in ("mesh", "executor") if getattr(run, name) is not None]
    if given:
        raise DatasetError(f"device and {given[0]} are different places to compute: give one of them")
    return jax.device_put(likelihood, device_of(device))


def device_of(device: Any) -> Any:
    """A JAX device from its name (``"cpu"``, ``"cuda"``, ``"gpu"``, ``"cuda:1"``) or itself; None for the default."""
    if device is None:
        return jax.devices()[0]
    if isinstance(device, jax.Device):
        return device
    if isinstance(device, str) and device:
        name, _, number = device.partition(":")
        try:
            found = jax.devices(name)
            return found[int(number or 0)]
        except (RuntimeError, ValueError, IndexError):
            pass
    there = ", ".join(sorted({d.platform for d in jax.devices()} | {"cpu"}))
    raise DatasetError(f"device={device!r:.60}: JAX has no such device here; it has {there}")


def chunk_sizes(likelihood: HistFactory, run: Run) -> tuple[int, int]:
    """Points of a compiled call (of all devices), and points that are vectorized at once."""
    mesh = run.row
    platform = "cpu" if run.executor is not None else platform_of(likelihood)
    platform = platform if mesh is None else next(iter(mesh.devices.flat)).platform
    chunk = run.batch_size or _CHUNK.get(platform, _CHUNK_ELSEWHERE)
    together = min(_TOGETHER.get(platform, _TOGETHER_ELSEWHERE), chunk)
    return chunk * (1 if mesh is None else mesh.size), together


def rows_of(setup: Setup, spans: Iterable[Span]) -> Iterator[Rows]:
    """The chunks in order. Each depends on the setup and its span alone."""
    # Quasi-random points are made in order, here, and evaluated by threads; other machines make their own.
    points = None if setup.run.executor is not None else Points(setup.plan)
    tasks = (Task(span, None if points is None else points.chunk(*span)) for span in spans)
    make = partial(_runner, setup.plan, setup.wanted)
    return results(setup.run, make, setup.likelihood, tasks, error=DatasetError)


def _runner(plan: Plan, wanted: Wanted, likelihood: HistFactory, mesh: Mesh | None) -> Callable[[Task], Rows]:
    """The function from tasks to rows, with its programs compiled."""
    leaves = tuple(map(_on_device, jax.tree.leaves(likelihood)))
    kinds = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves)
    compiled = partial(_compiled, likelihood.structure, kinds, wanted, mesh)
    dtype = likelihood.dtype
    compiled(wanted.chunk)  # before threads ask for it

    def evaluate(points: np.ndarray) -> list[np.ndarray | None]:
        """All columns of any number of points; the last call is filled up with copies of the last point."""
        n, parts = len(points), []
        few = _FEW * (1 if mesh is None else mesh.size)
        size = few if n <= few < wanted.chunk else wanted.chunk
        for start in range(0, n, size):
            part = points[start : start + size].astype(dtype)
            short = size - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part
            columns = compiled(size)(leaves, padded)
            parts.append([None if c is None else np.asarray(c)[: len(part)] for c in columns])
        joined = []
        for columns in zip(*parts, strict=True):
            first = columns[0]
            joined.append(first if first is None or len(columns) == 1 else np.concatenate(columns))
        return [None if c is None else np.asarray(c, np.float64) for c in joined]

    def run(task: Task) -> Rows:
        points = Points(plan).chunk(*task.span) if task.points is None else task.points
        return _finish(plan, wanted, task.span, points, evaluate)

    return run


def _on_device(x: Any) -> Array:
    """An array of JAX, wherever it is."""
    return x if isinstance(x, jax.Array) else jax.device_put(x)


def _finish(plan: Plan, wanted: Wanted, span: Span, points: np.ndarray, evaluate: Callable[..., Any]) -> Rows:
    """The columns of a chunk, after the policy for points without a finite NLL."""
    columns: list[Any] = evaluate(points)
    bad = np.flatnonzero(~np.isfinite(columns[0]))
    count = len(bad)
    if count and wanted.nonfinite == "drop":
        keep = np.isfinite(columns[0])
        points, columns = points[keep], [None if c is None else c[keep] for c in columns]
    elif count and wanted.nonfinite == "resample":
        points, columns = points.copy(), [None if c is None else np.array(c) for c in columns]
        again = Points(plan)
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
    fields = [name for name in HistFactory.__dataclass_fields__ if name != "structure"]

    def all_of(arrays: tuple[Array, ...], points: Array) -> Any:
        likelihood = HistFactory(**dict(zip(fields, arrays, strict=True)), structure=structure)
        return lax.map(partial(_columns, likelihood, wanted), points, batch_size=wanted.together)

    # Points are made anew for every chunk: their memory may be used again.
    where = next(iter(kinds)).sharding
    if mesh is not None:
        inside = all_of
        where = NamedSharding(mesh, P("row"))
        all_of = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("row")), out_specs=P("row"), check_vma=False)
    shape = jax.ShapeDtypeStruct((size, structure.n_params), kinds[0].dtype, sharding=where)
    return jax.jit(all_of).lower(kinds, shape).compile()


def _columns(likelihood: HistFactory, wanted: Wanted, params: Array) -> tuple[Array, Array | None, Array | None]:
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
