"""Pseudo-experiments ("toys"): data sets thrown from a model, and fits to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .._base._doors import no_type_check
from .._batches._run import Run, check_run
from .._model._base import Model, subject
from ._checks import (
    check_model,
    check_mu_test,
    check_quantities,
    check_seed,
    check_span,
    check_statistic,
    generating_point,
)
from ._fits import FREE, HELD, PAIR, ToyRecord
from ._results import ToyFits
from ._runs import Task, make_plan, records
from ._source import Source, key_data, spans, throw_toys


@no_type_check
def sample_toys(
    model: Model,
    n_toys: int,
    *,
    params: ArrayLike | None = None,
    mu: ArrayLike | None = None,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
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
        fixed: Parameters that this fit holds, as in ``fit``; ``params`` are left as they are.
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
    about = subject(model, data, fixed)
    span = check_span(n_toys, first_toy)
    point = generating_point(model, about, params, mu, data, fixed)
    source = Source(point, key_data(check_seed(seed)), about.place)
    return jnp.asarray(throw_toys(about.likelihood, source, span))


@no_type_check
def fit_toys(
    model: Model,
    n_toys: int,
    *,
    params: ArrayLike | None = None,
    mu: ArrayLike | None = None,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    test_stat: str | None = None,
    mu_test: ArrayLike | None = None,
    seed: int = 0,
    first_toy: int = 0,
    quantities: Sequence[str] = ("mu_uncertainty", "params"),
    run: Run = Run(),
) -> ToyFits:
    """Throws pseudo-experiments and fits each.

    A toy is fitted without conditions; if ``mu_test`` alone is given, with the parameter of interest held there; if
    ``test_stat`` is given, both ways. Fits are made by a quick method, in batches; a toy that it does not settle is
    fitted as observed data are, by ``fit``, ``profile`` or the test. A toy whose fits fail stays in the result with its
    status. The toys and their results do not depend on how they are computed: neither on the size of a batch nor on
    the number of workers, and on the devices only by rounding.

    Args:
        model: The model.
        n_toys: Number of toys.
        params: Generating parameters, shape (n_params,); by default as in ``sample_toys``, like ``mu`` and ``data``.
        mu: Generating value of the parameter of interest.
        data: Data behind the generating parameters.
        fixed: Other parameters to hold in all fits, as in ``fit``.
        test_stat: ``"qtilde"``, ``"q"`` or ``"q0"``: the test statistic of each toy; None for none.
        mu_test: Value of the parameter of interest in the conditional fit. Needed for ``"qtilde"`` and ``"q"``.
        seed: As in ``sample_toys``.
        first_toy: As in ``sample_toys``: a set can be extended, and any part of it be computed alone.
        quantities: What to return beside the standard ones, of ``"mu_uncertainty"``, ``"uncertainties"``, ``"params"``
            and ``"data"``. ``()`` is fastest and needs the least memory.
        run: How the job runs: threads, devices, executors, toys of a compiled call, progress.

    Returns:
        ``ToyFits``; not differentiable.

    Raises:
        FitError: For arguments that cannot be used, and where the generating parameters predict a negative yield.
        ModelError: For wrong shapes, or a test of a model that has no parameter of interest.

    Example:
        >>> import nextstat_jax as nextstat
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> toys = nextstat.fit_toys(model, 500, mu=1.0, seed=1)
        >>> toys.message, bool(abs(toys.pull.mean()) < 0.15)
        ('500 of 500: converged', True)
    """
    toys: dict[str, Any] = {"params": params, "mu": mu, "data": data, "fixed": fixed, "seed": seed}
    fits: dict[str, Any] = {"test_stat": test_stat, "mu_test": mu_test, "quantities": quantities}
    return ToyFits.join(list(stream_toys(model, n_toys, **toys, **fits, first_toy=first_toy, run=run)))


@no_type_check
def stream_toys(
    model: Model,
    n_toys: int,
    *,
    params: ArrayLike | None = None,
    mu: ArrayLike | None = None,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    test_stat: str | None = None,
    mu_test: ArrayLike | None = None,
    seed: int = 0,
    first_toy: int = 0,
    quantities: Sequence[str] = ("mu_uncertainty", "params"),
    run: Run = Run(),
) -> Iterator[ToyFits]:
    """``fit_toys`` chunk by chunk, in order, at flat memory however many toys follow; arguments as there.

    Yields:
        ``ToyFits`` of ``run.batch_size`` toys, the last perhaps fewer. Toys are computed a few chunks ahead.

    Example:
        Write each chunk away, or keep what is needed of it: ``[chunk.mu_hat for chunk in stream_toys(model, 10**7)]``.
    """
    check_model(model)
    check_run(run)
    statistic = check_statistic(test_stat)
    # Where the test bounds the parameter of interest, only the fits are bounded, not the generating point.
    bounded = statistic is not None and statistic.bounded
    tests = statistic is not None or mu_test is not None
    about = subject(model, data, fixed, poi=tests, free_poi=statistic is not None, tilde=bounded)
    span, seed = check_span(n_toys, first_toy), check_seed(seed)
    wanted, value = check_quantities(quantities), check_mu_test(model, about, statistic, mu_test)
    point = generating_point(model, about, params, mu, data, fixed)
    fits = PAIR if statistic is not None else FREE if value is None else HELD
    plan, chunk = make_plan(
        about.likelihood, fits, run, has_poi=about.poi is not None, statistic=test_stat, quantities=wanted
    )
    source = Source(point, key_data(seed), about.place, value or 0.0)
    tasks = (Task(source, part) for part in spans(span, chunk))
    dtype = about.likelihood.dtype
    tested = None if value is None else jnp.asarray(value, dtype)
    constants = jnp.asarray(point, dtype), tested, seed, test_stat, about.names, about.poi
    stream = records(about.likelihood, plan, tasks, run, span.size)
    return (_result(task, record, constants) for task, record in stream)


def _result(task: Task, record: ToyRecord, constants: tuple[Any, ...]) -> ToyFits:
    numbers = np.arange(task.span.first, task.span.first + task.span.size, dtype=np.int32)
    return ToyFits(jnp.asarray(numbers), *jax.tree.map(jnp.asarray, record), *constants)
