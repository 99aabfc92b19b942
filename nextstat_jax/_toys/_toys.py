"""Pseudo-experiments ("toys"): data sets thrown from a model, and fits to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import tee
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float
from tqdm import tqdm

from .._base._doors import as_array, as_vector, concrete
from .._base._errors import FitError
from .._inference._asymptotics import TEST_STATISTICS
from .._inference._fit import Conditions, at, solve_best, unconditional
from .._inference._refit import BATCH
from .._likelihood._histfactory import Likelihood
from .._likelihood._throw import Source, key_data
from .._minimize import _status
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, bound_below, require_free_poi, require_model
from ._fits import Plan, ToyRecord
from ._results import QUANTITIES, ToyFits
from ._runs import MAX_TOYS, Engine, Span, Task, check_engine, chunk_size, positive, records, spans, throw_toys


def sample_toys(
    model: HistFactoryModel,
    n_toys: int,
    params: Any = None,
    *,
    mu: Any = None,
    data: Any = None,
    seed: int = 0,
    first_toy: int = 0,
) -> Float[Array, "toy data"]:
    """Throws pseudo-experiments: main and auxiliary data both fluctuate.

    Bins and the auxiliary data of shapesys are Poisson counts around what the parameters predict; all other auxiliary
    data are normal around their parameters, with the widths of the constraints.

    Args:
        model: The model.
        n_toys: Number of toys.
        params: Generating parameters, shape (n_params,); the best fit to ``data`` by default.
        mu: Value of the parameter of interest. Without ``params`` the others come from the conditional fit to ``data``
            at this value; with ``params`` it replaces the value there.
        data: Data that the generating parameters are fitted to, as in ``fit``.
        seed: Seed, an integer from 0 to 2**63 - 1.
        first_toy: Number of the first toy. Toy i depends on model, parameters, seed and i alone: its key is
            ``jax.random.fold_in(jax.random.key(seed), i)``.

    Returns:
        Data vectors, shape (n_toys, n_data).

    Raises:
        FitError: For arguments that cannot be used, and where the generating parameters predict a negative yield.
        ModelError: For wrong shapes, or ``mu`` with a model that has no parameter of interest.

    References:
        The frequentist toys of ATL-PHYS-PUB-2011-11, section 3.
    """
    check_model(model)
    span = check_span(n_toys, first_toy)
    source = Source(generating_point(model, params, mu, data), key_data(check_seed(seed)))
    return jnp.asarray(throw_toys(model.likelihood, source, span))


def fit_toys(
    model: HistFactoryModel,
    n_toys: int,
    params: Any = None,
    *,
    mu: Any = None,
    data: Any = None,
    test_stat: str | None = None,
    mu_test: Any = None,
    seed: int = 0,
    first_toy: int = 0,
    quantities: Sequence[str] = ("mu_uncertainty", "params"),
    batch_size: int | None = None,
    workers: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ToyFits:
    """Throws pseudo-experiments and fits each.

    A toy is fitted without conditions; if ``mu_test`` alone is given, with the parameter of interest held there; if
    ``test_stat`` is given, both ways. A fit that fails is made again from other starts; a toy whose fits all fail
    stays in the result with its status. The toys and their results do not depend on how they are computed: neither on
    the size of a batch nor on the number of workers, and on the devices only by rounding.

    Args:
        model: The model.
        n_toys: Number of toys.
        params: Generating parameters, shape (n_params,); by default as in ``sample_toys``, like ``mu`` and ``data``.
        mu: Generating value of the parameter of interest.
        data: Data behind the generating parameters.
        test_stat: ``"qtilde"``, ``"q"`` or ``"q0"``: the test statistic of each toy; None for none.
        mu_test: Value of the parameter of interest in the conditional fit. Needed for ``"qtilde"`` and ``"q"``.
        seed: As in ``sample_toys``.
        first_toy: As in ``sample_toys``: a set can be extended, and any part of it be computed alone.
        quantities: What to return beside the standard ones, of ``"mu_uncertainty"``, ``"uncertainties"``, ``"params"``
            and ``"data"``. ``()`` is fastest and needs the least memory.
        batch_size: Toys of one compiled call on one device; by default chosen by the size of the model.
        workers: Threads, by default one for each core on a CPU; with an executor, how many chunks it works on at once,
            by default what it says of itself.
        mesh: Devices to spread the toys over.
        executor: Any executor of ``concurrent.futures``, to spread chunks of toys over processes or machines: a process
            pool (with the start method "spawn", since JAX does not survive a fork), ``dask``'s
            ``Client.get_executor()``, a pool of ``mpi4py``. A chunk whose worker was lost is run again.
        progress: Whether to show a progress bar.

    Returns:
        ``ToyFits``; not differentiable.

    Raises:
        FitError: For arguments that cannot be used, and where the generating parameters predict a negative yield.
        ModelError: For wrong shapes, or a test of a model that has no parameter of interest.

    Example:
        >>> from nextstat_jax import from_pyhf
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> toys = fit_toys(model, 500, mu=1.0, seed=1)
        >>> toys.message, bool(abs(toys.pull.mean()) < 0.15)
        ('500 of 500: converged', True)
    """
    toys: dict[str, Any] = {"mu": mu, "data": data, "seed": seed, "first_toy": first_toy, "batch_size": batch_size}
    fits: dict[str, Any] = {"test_stat": test_stat, "mu_test": mu_test, "quantities": quantities}
    engine: dict[str, Any] = {"workers": workers, "mesh": mesh, "executor": executor, "progress": progress}
    return ToyFits.join(list(stream_toys(model, n_toys, params, **toys, **fits, **engine)))


def stream_toys(
    model: HistFactoryModel,
    n_toys: int,
    params: Any = None,
    *,
    mu: Any = None,
    data: Any = None,
    test_stat: str | None = None,
    mu_test: Any = None,
    seed: int = 0,
    first_toy: int = 0,
    quantities: Sequence[str] = ("mu_uncertainty", "params"),
    batch_size: int | None = None,
    workers: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Iterator[ToyFits]:
    """``fit_toys`` chunk by chunk, in order, at flat memory however many toys follow; arguments as there.

    Yields:
        ``ToyFits`` of ``batch_size`` toys, the last perhaps fewer. Toys are computed a few chunks ahead.

    Example:
        Write each chunk away, or keep what is needed of it: ``[chunk.mu_hat for chunk in stream_toys(model, 10**7)]``.
    """
    check_model(model)
    span = check_span(n_toys, first_toy)
    engine = check_engine(workers, mesh, executor)
    seed = check_seed(seed)
    chosen = check_quantities(quantities)
    tested = _check_test(model, test_stat, mu_test)
    params = generating_point(model, params, mu, data)
    # Where the test bounds the parameter of interest, only the fits are bounded, not the generating point.
    likelihood = (bound_below(model) if test_stat == "qtilde" else model).likelihood
    plan, chunk = make_plan(likelihood, test_stat is not None, chosen, batch_size, engine)
    source = Source(
        params, key_data(seed), tested or 0.0, held=tested is not None and not plan.test, discovery=test_stat == "q0"
    )
    tasks = (Task(source, part) for part in spans(span.first, span.size, chunk))
    constants = (
        jnp.asarray(params, likelihood.dtype),
        None if tested is None else jnp.asarray(tested, likelihood.dtype),
        seed,
        test_stat or "",
        model.names.parameters,
        likelihood.structure.poi,
    )
    stream = watched(likelihood, plan, tasks, engine, span.size if progress else None)
    return (_result(task, record, constants) for task, record in stream)


class Cut(NamedTuple):
    """A plan, and how many toys a task takes."""

    plan: Plan
    chunk: int


def make_plan(likelihood: Likelihood, test: bool, quantities: tuple[str, ...], batch_size: Any, engine: Engine) -> Cut:
    """The plan of a run."""
    size = chunk_size(likelihood) if batch_size is None else positive(batch_size, "batch_size")
    devices = 1 if engine.mesh is None else engine.mesh.size
    return Cut(Plan(test, quantities, -(-size // BATCH) * BATCH), size * devices)


def watched(
    likelihood: Likelihood, plan: Plan, tasks: Iterable[Task], engine: Engine, total: int | None
) -> Iterator[tuple[Task, ToyRecord]]:
    """Tasks with their records, and a progress bar if there is a total."""
    here, there = tee(tasks)
    with tqdm(total=total, unit="toy", disable=total is None) as bar:
        for task, record in zip(here, records(likelihood, plan, there, engine), strict=True):
            bar.update(task.span.size)
            yield task, record


def _result(task: Task, record: ToyRecord, constants: tuple[Any, ...]) -> ToyFits:
    numbers = np.arange(task.span.first, task.span.first + task.span.size, dtype=np.int32)
    return ToyFits(jnp.asarray(numbers), *jax.tree.map(jnp.asarray, record), *constants)


def check_model(model: Any) -> None:
    """Refuses what is no model, and a model inside ``jit`` or ``vmap``."""
    require_model(model)
    if not all(map(concrete, jax.tree.leaves(model))):
        raise FitError("toys are run from the host, not inside jit, grad or vmap: call this with a concrete model")


def check_span(n_toys: Any, first_toy: Any) -> Span:
    """Numbers of the toys; ``FitError`` for what are none."""
    span = Span(positive(first_toy, "first_toy", 0), positive(n_toys, "n_toys"))
    if span.first + span.size > MAX_TOYS:
        raise FitError(f"toys are numbered below 2**31: for more than {MAX_TOYS - span.first} take another seed")
    return span


def check_seed(seed: Any) -> int:
    """A seed; ``FitError`` for what is none."""
    seed = positive(seed, "seed", 0)
    if seed >= 2**63:
        raise FitError(f"seed={seed}: expected an integer below 2**63")
    return seed


def check_quantities(quantities: Any) -> tuple[str, ...]:
    """Names of optional quantities, in a fixed order."""
    asked = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    for name in asked:
        if name not in QUANTITIES:
            raise FitError(f"quantities: there is no {name!r}; expected some of {', '.join(map(repr, QUANTITIES))}")
    return tuple(name for name in QUANTITIES if name in asked)


def _check_test(model: HistFactoryModel, test_stat: Any, mu_test: Any) -> float | None:
    """The value at which conditional fits hold the parameter of interest, or None."""
    if test_stat is not None and test_stat not in TEST_STATISTICS:
        raise FitError(f"test_stat={test_stat!r}: expected one of {', '.join(map(repr, TEST_STATISTICS))}, or None")
    if test_stat is None:
        if mu_test is not None:
            model.require_poi()
        return None if mu_test is None else finite_scalar(model, mu_test, "mu_test")
    poi = require_free_poi(model)
    if mu_test is None and test_stat != "q0":
        raise FitError(f"test_stat={test_stat!r} needs the value to test: give mu_test")
    value = finite_scalar(model, 0.0 if mu_test is None else mu_test, "mu_test")
    if test_stat == "q0" and value:
        raise FitError(f"mu_test={value:g}, but q0 tests mu = 0: use test_stat='q'")
    if test_stat == "qtilde" and value < 0:
        raise FitError(f"mu_test={value:g}, but qtilde tests signals that cannot be negative: use test_stat='q'")
    low, high = (float(end[poi]) for end in (model.likelihood.lower, model.likelihood.upper))
    if not low <= value <= high:
        name = model.names.poi
        raise FitError(
            f"mu_test={value:g} lies outside the bounds [{low:g}, {high:g}] of {name}, where no best fit can be: widen "
            f"them with model.replace_bounds({name!r}, ...)"
        )
    return value


def finite_scalar(model: HistFactoryModel, value: Any, name: str) -> float:
    """A number; ``FitError`` for anything else."""
    array = np.asarray(as_array(value, name, model.dtype))
    if array.ndim or not np.isfinite(array):
        raise FitError(f"{name} is {value!r:.60}: give one finite number")
    return float(array)


def generating_point(model: HistFactoryModel, params: Any, mu: Any, data: Any) -> np.ndarray:
    """The parameters that toys are thrown from, shape (n_params,).

    Raises:
        FitError: If they are not finite, predict a negative yield, or are to be fitted and the fit fails.
    """
    data = as_data(model, data)
    value = None if mu is None else finite_scalar(model, mu, "mu")
    if value is not None:
        model.require_poi()
    if params is not None:
        point = np.array(as_vector(params, model.n_params, "params", model.dtype))
        if value is not None:
            point[model.require_poi()] = value
    else:
        likelihood = model.likelihood
        held = unconditional(likelihood) if value is None else at(likelihood, jnp.asarray(value, model.dtype))
        minimum = best_fit(likelihood, data, held)
        if int(minimum.status) != _status.CONVERGED:
            end = _status.message(minimum.status)
            raise FitError(f"the fit that toys are to be thrown from failed ({end}): give params")
        point = np.array(minimum.y)
    check_point(model, point)
    return point


@jax.jit
def best_fit(likelihood: Likelihood, data: Array, conditions: Conditions) -> Minimum:
    """The fit to data that toys are thrown from."""
    return solve_best(likelihood, data, conditions)


def check_point(model: HistFactoryModel, point: np.ndarray) -> None:
    """Refuses parameters that no counts can be thrown from."""
    if not np.isfinite(point).all():
        name = model.names.parameters[int(np.argmin(np.isfinite(point)))]
        raise FitError(f"params is not finite for {name}: give finite numbers to throw toys from")
    s = model.likelihood.structure
    rates = np.array(model.expected_data(point))
    counts = np.concatenate([np.arange(s.n_bins), s.n_bins + s.poisson_aux])
    bad = counts[~(rates[counts] >= 0) | ~np.isfinite(rates[counts])]
    if not len(bad):
        return
    k = int(bad[0])
    if k >= s.n_bins:
        where = f"auxiliary data of {model.names.parameters[s.poisson_params[list(s.poisson_aux).index(k - s.n_bins)]]}"
    else:
        channel, place = next((c, k - b.start) for c, b in model.channel_slices.items() if b.start <= k < b.stop)
        where = f"bin {place} of channel {channel}"
    raise FitError(f"params predict {rates[k]:g} in {where}: toys need expected counts that are not negative")


__all__ = ["QUANTITIES", "ToyFits", "fit_toys", "sample_toys", "stream_toys"]
