"""Data sets of a likelihood: points of parameter space with their NLL and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from tqdm import tqdm

from .._base._doors import as_array, concrete, flag, integer, no_type_check, one_of
from .._base._errors import DatasetError, MissingExtraError, ModelError
from .._batches._run import Run, check_run
from .._inference._scan import profile_scan
from .._model._base import require_model
from .._model._model import HistFactoryModel
from ._evaluate import NONFINITE, Rows, Setup, Span, Wanted, chunk_sizes, placed, rows_of
from ._reference import Reference, default_bounds, digest_of, free_of, reference_of
from ._sampling import AROUND, METHODS, Plan, fills_box, most_points

# Expected rates are kept by default for models of up to so many bins: they would dominate the data set.
_RATES_UP_TO = 512
# Conditional fits along the profile of the parameter of interest, over so many standard deviations.
_PATH_POINTS, _PATH_REACH = 13, 3.5


@dataclass(frozen=True, eq=False, repr=False)
class SurrogateDataset:
    """Points of parameter space with their NLL, made by ``generate_dataset``. NumPy arrays of float64.

    Attributes:
        parameters: Shape (n_samples, n_params), in the order of ``parameter_names``.
        nll: Shape (n_samples,).
        gradient: Gradient of the NLL, shape (n_samples, n_params), or None if it was not asked for.
        parameter_names: Names, as in the model.
        parameter_bounds: Box that holds all points, shape (n_params, 2); both ends are equal for fixed parameters.
        metadata: How it was made: method, seed, a hash of the model, interpolation codes, which parameters are fixed,
            points without a finite NLL and what became of them, versions. JSON-safe.
        rates: Expected counts, shape (n_samples, n_bins), or None.
        reference: The exact parts of the likelihood and its minimum, for training.
    """

    parameters: np.ndarray
    nll: np.ndarray
    gradient: np.ndarray | None
    parameter_names: list[str]
    parameter_bounds: np.ndarray
    metadata: dict[str, Any]
    rates: np.ndarray | None = None
    reference: Reference | None = field(default=None)

    @property
    def n_samples(self) -> int:
        """Number of points."""
        return len(self.nll)

    @property
    def n_params(self) -> int:
        """Number of parameters, fixed ones included."""
        return len(self.parameter_names)

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, rows: Any) -> SurrogateDataset:
        """Some of the points: a slice, indices or a mask."""
        if isinstance(rows, int | np.integer):
            rows = slice(int(rows), int(rows) + 1 or None)
        cut = {name: None if x is None else x[rows] for name, x in self._columns().items()}
        return replace(self, **cut, metadata={**self.metadata, "n_samples": len(self.nll[rows])})

    def _columns(self) -> dict[str, np.ndarray | None]:
        return {name: getattr(self, name) for name in ("parameters", "nll", "gradient", "rates")}

    def __repr__(self) -> str:
        facts = self.metadata
        finite = self.nll[np.isfinite(self.nll)]
        span = f"NLL {finite.min():.6g} to {finite.max():.6g}" if len(finite) else "no finite NLL"
        if self.reference is not None:
            span += f", minimum {float(self.reference.minimum_nll):.6g}"
        columns = [name for name in ("gradient", "rates") if getattr(self, name) is not None]
        kept = f", with {' and '.join(columns)}" if columns else ""
        fixed = len(facts.get("fixed", ()))
        lines = [
            f"SurrogateDataset: {self.n_samples} points of {self.n_params} parameters ({fixed} fixed){kept}",
            f"  method {facts.get('method')!r}, seed {facts.get('seed')}; {span}",
        ]
        if facts.get("n_nonfinite"):
            lines.append(f"  {facts['n_nonfinite']} points had no finite NLL (policy: {facts['nonfinite']})")
        return "\n".join(lines)


class Request(NamedTuple):
    """A checked request for points."""

    setup: Setup
    reference: Reference
    bounds: np.ndarray
    metadata: dict[str, Any]


@no_type_check
def generate_dataset(
    model: HistFactoryModel,
    n_samples: int = 100_000,
    method: str = "sobol",
    *,
    bounds: ArrayLike | Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    include_gradient: bool = True,
    include_rates: bool | None = None,
    nonfinite: str = "resample",
    device: Any = None,
    run: Run = Run(),
) -> SurrogateDataset:
    """Samples parameter space and evaluates the likelihood at each point.

    Point i depends on the model, the request and i alone: not on threads or executors, and on chunks and devices only
    by rounding.

    Args:
        model: A concrete model.
        n_samples: Number of points.
        method: ``"sobol"`` (scrambled Sobol points of the box), ``"lhs"`` (Latin hypercube), ``"uniform"`` (random),
            ``"gaussian"`` (random, by the covariance of the fit around the best fit; points beyond a bound are mirrored
            at it), or ``"profile"``: Sobol points through normal quantiles of the fit's covariance with radii spread
            around it, a quarter of them along profile trajectories, and another quarter all over the box if no more
            than 20 parameters are free. In many dimensions a box has no point near the minimum, so use one of the
            last two there.
        bounds: The box, shape (n_params, 2), or a mapping from names to (lower, upper) for some. By default the initial
            value +- 5 widths of the constraint, clipped to the parameter's bounds; parameters without a constraint keep
            their bounds. Where points are drawn only around the best fit (``"gaussian"``; ``"profile"`` with more than
            20 free parameters), it is the best fit +- 5 standard deviations, clipped likewise.
        seed: Seed, an integer from 0 on.
        include_gradient: Whether to compute gradients.
        include_rates: Whether to keep the expected counts of the bins, which the best surrogates learn; by default for
            models of up to 512 bins.
        nonfinite: What to do with points whose NLL is infinite (a negative rate): ``"resample"`` takes others of the
            same distribution, ``"keep"`` keeps them, ``"drop"`` leaves them out. Counted in the metadata.
        device: Name of a JAX device, or the device; by default that of the model.
        run: How to run: threads, devices, executors, size of chunks, and whether to show a progress bar, which there is
            by default.

    Returns:
        ``SurrogateDataset``. Fixed parameters are constant columns; ``metadata["fixed"]`` names them.

    Raises:
        DatasetError: For arguments that cannot be used, or points around a fit that did not converge.
        ModelError: For what is no model that was read from a workspace.

    References:
        Why to sample through quantiles and along profiles: arXiv:1911.03305, section 3.
    """
    asked = Asked(n_samples, method, bounds, seed, include_gradient, include_rates, nonfinite, device)
    request = make_request(model, asked, run)
    columns = _collected(request)
    metadata = {**request.metadata, "n_samples": len(columns.nll), "n_nonfinite": columns.n_nonfinite}
    return SurrogateDataset(
        columns.parameters, columns.nll, columns.gradient, model.parameter_names(), request.bounds, metadata,
        columns.rates, request.reference,
    )  # fmt: skip


def _collected(request: Request) -> Rows:
    """All chunks of a request, each copied to its place as it comes: nothing is held twice."""
    plan, wanted = request.setup.plan, request.setup.wanted
    n, n_params = plan.n_points, len(plan.base)
    gradient = np.empty((n, n_params)) if wanted.gradient else None
    rates = np.empty((n, request.reference.observed.size)) if wanted.rates else None
    columns = [np.empty((n, n_params)), np.empty(n), gradient, rates]
    place, nonfinite = 0, 0
    for rows in _watched(request, spans_of(0, n, wanted.chunk), n):
        count = len(rows.nll)
        for whole, part in zip(columns, rows[:4], strict=True):
            if whole is not None:
                whole[place : place + count] = part
        place, nonfinite = place + count, nonfinite + rows.n_nonfinite
    cut: list[Any] = [column if column is None or place == n else column[:place] for column in columns]
    return Rows(cut[0], cut[1], cut[2], cut[3], nonfinite)


def spans_of(first: int, count: int, size: int) -> Iterator[Span]:
    """Cuts points into chunks."""
    return (Span(start, min(size, first + count - start)) for start in range(first, first + count, size))


def _watched(request: Request, spans: Iterator[Span], total: int) -> Iterator[Rows]:
    """The chunks of a request, in order, with a progress bar."""
    with tqdm(total=total, unit="point", disable=not request.setup.run.shows(by_default=True)) as bar:
        for rows in rows_of(request.setup, spans):
            yield rows
            bar.update(len(rows.nll))


class Asked(NamedTuple):
    """What a user asks of a data set, unchecked, by the names of ``generate_dataset``."""

    n_samples: Any
    method: Any
    bounds: Any
    seed: Any
    include_gradient: Any
    include_rates: Any
    nonfinite: Any
    device: Any


def make_request(model: Any, asked: Asked, run: Any) -> Request:
    """Checks all arguments at the door, fits, and plans the points."""
    check_model(model)
    n = integer(asked.n_samples, "n_samples", error=DatasetError)
    seed = integer(asked.seed, "seed", 0, DatasetError)
    method = one_of(asked.method, METHODS, "method", DatasetError)
    nonfinite = one_of(asked.nonfinite, NONFINITE, "nonfinite", DatasetError)
    gradient = flag(asked.include_gradient, "include_gradient", DatasetError)
    rates = None if asked.include_rates is None else flag(asked.include_rates, "include_rates", DatasetError)
    if n > most_points():
        raise DatasetError(f"n_samples={n}: at most {most_points()} points")
    run = check_run(run, DatasetError)
    likelihood = placed(model.likelihood, asked.device, run)
    checked = None if asked.bounds is None else _check_bounds(model, asked.bounds)
    reference = reference_of(model, need_minimum=method in AROUND)
    box = default_bounds(model, None if fills_box(method, int(reference.free.sum())) else reference)
    if checked is not None:
        box = np.where(np.isnan(checked), box, checked)
    _require_box(model, box)
    plan = _plan(model, reference, method, seed, n, box)
    chunk, together = chunk_sizes(likelihood, run)
    wanted = Wanted(gradient, model.n_bins <= _RATES_UP_TO if rates is None else rates, nonfinite, chunk, together)
    return Request(Setup(likelihood, plan, wanted, run), reference, box, _metadata(model, plan, nonfinite))


def check_model(model: Any) -> None:
    """``ModelError`` for what is not from a workspace, ``DatasetError`` for what is inside ``jit`` or ``vmap``."""
    require_model(model)
    if not isinstance(model, HistFactoryModel):
        raise ModelError(f"expected a model as from_pyhf returns it, found a {type(model).__name__}")
    if not all(map(concrete, jax.tree.leaves(model))):
        raise DatasetError("data sets are made on the host, not inside jit, grad or vmap: give a concrete model")


def _check_bounds(model: HistFactoryModel, bounds: Any) -> np.ndarray:
    """Bounds as an array of shape (n_params, 2), NaN where the default applies."""
    n = model.n_params
    result = np.full((n, 2), np.nan)
    if isinstance(bounds, Mapping):
        for name, ends in bounds.items():
            if name not in model.names.parameters:
                raise DatasetError(f"bounds: the model has no parameter {name!r}")
            result[model.index(name)] = _pair(ends, name)
        return result
    array = _numbers(bounds)
    if array.shape != (n, 2):
        raise DatasetError(f"bounds have shape {array.shape}: expected ({n}, 2), or a mapping from names to pairs")
    if not np.isfinite(array).all():
        name = model.names.parameters[int(np.argmin(np.isfinite(array).all(axis=1)))]
        raise DatasetError(f"bounds of {name} are not finite: give two finite numbers")
    # What is fixed stays where it is.
    result[free_of(model)] = array[free_of(model)]
    return result


def _numbers(x: Any) -> np.ndarray:
    try:
        return np.asarray(as_array(x, "bounds", np.dtype(np.float64), DatasetError))
    except DatasetError:
        return np.zeros(0)


def _pair(ends: Any, name: str) -> np.ndarray:
    pair = _numbers(ends)
    if pair.shape != (2,) or not np.isfinite(pair).all():
        raise DatasetError(f"bounds of {name} are {ends!r:.60}: expected two finite numbers")
    return pair


def _require_box(model: HistFactoryModel, box: np.ndarray) -> None:
    free = free_of(model)
    for name, (low, high), moves in zip(model.names.parameters, box, free, strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DatasetError(f"{name} has no finite bounds: give some with bounds={{{name!r}: (lower, upper)}}")
        if moves and not low < high:
            raise DatasetError(f"bounds of {name}: {low:g} is not below {high:g}")
    if not free.any():
        raise DatasetError("all parameters are fixed: there is nothing to learn")


def _plan(model: HistFactoryModel, ref: Reference, method: str, seed: int, n: int, box: np.ndarray) -> Plan:
    free = np.flatnonzero(ref.free)
    center, root = np.zeros(0), np.zeros((0, 0))
    poi, values, path = -1, np.zeros(0), np.zeros((0, 0))
    if method in AROUND:
        center = ref.minimum[free]
        root = np.linalg.cholesky(ref.covariance[np.ix_(free, free)])
    where = model.poi_index
    if method == "profile" and where is not None and ref.free[where]:
        poi = int(np.flatnonzero(free == where)[0])
        width = float(np.sqrt(ref.covariance[where, where]))
        reach = _PATH_REACH * width * np.linspace(-1, 1, _PATH_POINTS)
        values = np.unique(np.clip(center[poi] + reach, *box[where]))
        path = np.asarray(profile_scan(model, model.names.parameters[where], values).params, np.float64)[:, free]
        ok = np.isfinite(path).all(axis=1)
        values, path = values[ok], path[ok]
        if not len(values):
            poi = -1
    base = np.asarray(model.likelihood.init, np.float64)
    return Plan(method, seed, n, box[free, 0], box[free, 1], free, base, center, root, poi, values, path)


def _metadata(model: HistFactoryModel, plan: Plan, nonfinite: str) -> dict[str, Any]:
    fixed = {name: float(v) for k, (name, v) in enumerate(zip(model.names.parameters, plan.base, strict=True))
             if k not in set(plan.free.tolist())}  # fmt: skip
    return {
        "method": plan.method,
        "seed": plan.seed,
        "n_samples": plan.n_points,
        "model_digest": digest_of(model),
        "measurement": model.names.measurement,
        "poi": model.poi,
        "interpolation": model.interpolation,
        "clips": model.clips,
        "dtype": str(model.dtype),
        "fixed": fixed,
        "nonfinite": nonfinite,
        "n_nonfinite": 0,
        "versions": {name: version(name) for name in ("nextstat-jax", "jax", "numpy", "scipy")},
    }


@no_type_check
def to_numpy(ds: SurrogateDataset) -> dict[str, np.ndarray]:
    """The columns as a dictionary of arrays: ``parameters``, ``nll``, ``gradient`` and ``rates`` where there are some,
    ``parameter_bounds`` and ``parameter_names``.
    """  # noqa: D205
    check_dataset(ds)
    columns = {name: column for name, column in ds._columns().items() if column is not None}
    return {**columns, "parameter_bounds": ds.parameter_bounds, "parameter_names": np.array(ds.parameter_names)}


@no_type_check
def to_torch_dataset(ds: SurrogateDataset) -> Any:
    """A ``torch.utils.data.TensorDataset`` of float32 tensors (parameters, NLL, gradient).

    Without gradients it has the first two.

    Raises:
        MissingExtraError: If torch is not installed.
    """
    check_dataset(ds)
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    columns = [column for column in (ds.parameters, ds.nll, ds.gradient) if column is not None]
    return torch.utils.data.TensorDataset(*(torch.from_numpy(np.asarray(c, np.float32)) for c in columns))


def check_dataset(ds: Any) -> None:
    """Refuses what is no data set."""
    if not isinstance(ds, SurrogateDataset):
        raise DatasetError(f"expected a data set as generate_dataset returns it, found {type(ds).__name__}")
