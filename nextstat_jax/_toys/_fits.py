"""The compiled half of fits to pseudo-experiments, in three stages.

First every toy is thrown and fitted by the quick method, in batches. What that leaves is fitted by the full minimizer,
from several starts. Then the records of all toys are made. The stages are compiled apart: most models never need the
second, whose compilation takes longest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._inference._fit import Conditions, args_of, make_walls, margin, pins_of, solve_fit
from .._inference._refit import BATCH, Center, Lanes, quick_fit, response
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood, expected, saturated
from .._likelihood._throw import Source, throw, toy_key
from .._minimize import _status
from .._minimize._newton import Minimum, cholesky, covariance, masked

# Where a fit starts, one after another until it converges: the codes in ``ToyRecord.start``. The first is the quick
# method of ``_refit``, the others the full minimizer; a conditional fit tries the unconditional best fit in place of
# the generating point. The last is tried where the conditional fit found a lower point than the unconditional one.
STARTS = (
    "the generating point, in a batch",
    "the generating point",
    "the initial parameters",
    "near the generating point",
    "near the initial parameters",
    "the conditional best fit",
)
_TRIES = len(STARTS) - 2
# By how much of the NLL the unconditional fit may lie above the conditional one before the toy is said to have failed:
# the margin of ``TestStatistic.deficit``.
FAILED = 1e-3


class Plan(NamedTuple):
    """What is computed; static.

    Attributes:
        test: Whether each toy is fitted twice, without conditions and at ``mu``, for a test statistic.
        quantities: What is returned beside the standard ones.
        size: Toys of a chunk on one device, a multiple of ``BATCH``.
        together: Whether the toys of a device advance together (``vmap``) or one after another; decided by the device.
    """

    test: bool
    quantities: tuple[str, ...]
    size: int
    together: bool = False


class Found(NamedTuple):
    """The best fit so far, how many starts were tried beside the quick method's, and which of them led to it."""

    best: Minimum
    tried: Array
    used: Array
    n_iter: Array


class Fitted(NamedTuple):
    """Toys with their fits.

    Attributes:
        data: Data vectors, shape (n_toys, n_data).
        free: Unconditional fits, or conditional ones where only those are made.
        fixed: Conditional fits of a test, else None.
    """

    data: Array
    free: Found
    fixed: Found | None


class ToyRecord(NamedTuple):
    """What is known of one toy or, with a leading axis, of many; attributes as in ``ToyFits``."""

    mu_hat: Any
    nll: Any
    nll_fixed: Any
    statistic: Any
    status: Any
    n_iter: Any
    start: Any
    mu_uncertainty: Any
    uncertainties: Any
    params: Any
    data: Any


# First stage: throw, and fit by the quick method.


def quick_stage(likelihood: Likelihood, source: Source, index: Array, plan: Plan) -> Fitted:
    """Throws the toys with the numbers ``index`` and fits them by the quick method."""
    center = _center(likelihood, source)

    def one(i: Array) -> Fitted:
        data = throw(likelihood, source.params, toy_key(source.key, i))
        return Fitted(data, *_quick_fits(likelihood, source, center, data, plan))

    # The quick method gains from a batch on every device. The size of a chunk is a multiple of the batch's, since
    # rounding depends on shapes.
    return jax.vmap(one)(index) if plan.together else lax.map(one, index, batch_size=BATCH)


def _center(likelihood: Likelihood, source: Source) -> Center:
    """The generating point as the minimum of what it predicts: all toys lie around it."""
    conditions = _conditions(likelihood, source, source.held)
    walls = make_walls(likelihood)
    # For data that are predicted exactly the positive semidefinite part is the Hessian. Should it be singular, the
    # quick fits fail and the full ones take over.
    hessian = _derivatives.curvatures(likelihood, conditions.start, expected(likelihood, source.params), walls)[1]
    return Center(conditions.start, covariance(hessian, conditions.held), walls)


def _quick_fits(
    likelihood: Likelihood, source: Source, center: Center, data: Array, plan: Plan
) -> tuple[Found, Found | None]:
    nowhere, poi = jnp.array(likelihood.structure.n_params), jnp.array(likelihood.structure.poi)
    start = _conditions(likelihood, source, source.held).start
    if not plan.test:
        return _quick(likelihood, center, Lanes(start, jnp.where(source.held, poi, nowhere), data)), None
    mu = jnp.asarray(source.mu, start.dtype)

    def body(start: Array, k: Array) -> tuple[Array, Found]:
        found = _quick(likelihood, center, Lanes(start, jnp.where(k == 0, nowhere, poi), data))
        # The conditional fit begins where the other ended; the other parameters follow to first order if that is lower.
        best = found.best.y
        follow = jnp.clip(best + response(center, poi) * (mu - best[poi]), likelihood.lower, likelihood.upper)
        starts = jnp.stack([best, follow]).at[:, poi].set(mu)
        values = jax.vmap(lambda y: _derivatives.fast_deviance(likelihood, y, data))(starts)
        return jnp.where(values[1] < values[0], starts[1], starts[0]), found

    # A scan rather than two calls, so that the method is compiled once.
    _, both = lax.scan(body, start, jnp.arange(2))
    free, fixed = (jax.tree.map(lambda x, k=k: x[k], both) for k in range(2))
    return free, fixed


def _quick(likelihood: Likelihood, center: Center, lane: Lanes) -> Found:
    minimum, believed = quick_fit(likelihood, center, lane)
    minimum = minimum._replace(status=jnp.where(believed, minimum.status, _status.RUNNING))
    zero = jnp.zeros_like(minimum.num_steps)
    return Found(minimum, zero, zero, minimum.num_steps)


def unsettled(fitted: Fitted) -> Any:
    """Which toys need the second stage: a fit has not converged, or the conditional one shows that the other missed."""
    open_ = fitted.free.best.status != _status.CONVERGED
    if fitted.fixed is None:
        return open_
    missed = fitted.fixed.best.value < fitted.free.best.value - margin(fitted.free.best.value)
    return open_ | missed | (fitted.fixed.best.status != _status.CONVERGED)


# Second stage: the full minimizer, for toys that are not settled.


class _Toy(NamedTuple):
    """What all fits of one toy share."""

    likelihood: Likelihood
    source: Source
    data: Array
    key: Array


def search_stage(likelihood: Likelihood, source: Source, index: Array, fitted: Fitted, plan: Plan) -> Fitted:
    """Fits the toys that are not settled, from several starts."""

    def one(row: tuple[Array, Fitted]) -> Fitted:
        i, known = row
        toy = _Toy(likelihood, source, known.data, toy_key(source.key, i))
        if known.fixed is None:
            conditions = _conditions(likelihood, source, source.held)
            found = _search(toy, known.free, conditions.start, conditions, jnp.array(_TRIES))
            return known._replace(free=found)
        return Fitted(known.data, *_both(toy, known.free, known.fixed))

    rows = (index, fitted)
    if plan.together:
        return jax.vmap(one)(rows)
    return lax.map(lambda row: lax.cond(unsettled(row[1]), one, lambda row: row[1], row), rows)


def _search(toy: _Toy, known: Found, first: Array, conditions: Conditions, tries: Array) -> Found:
    """What is known or, until a fit converges, fits from ``first`` and from the other starts.

    Args:
        toy: The toy.
        known: What was found before.
        first: Where the first fit starts.
        conditions: Parameters held, at their values.
        tries: How many fits may be made.
    """
    likelihood, data = toy.likelihood, toy.data

    def body(s: Found) -> Found:
        start = lax.cond(s.tried == 0, lambda: first, lambda: _another_start(toy, s.tried + 1))
        start = jnp.where(conditions.held, conditions.start, start)
        new = solve_fit(likelihood, data, Conditions(start, conditions.held))
        lower = ~jnp.isfinite(s.best.value) | (new.value < s.best.value)
        better = (new.status == _status.CONVERGED) | lower
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, s.best)
        best = best._replace(status=new.status)  # how the last attempt ended, wherever the lowest point was
        tried = s.tried + 1
        return Found(best, tried, jnp.where(better, tried, s.used), s.n_iter + new.num_steps)

    return lax.while_loop(lambda s: (s.best.status != _status.CONVERGED) & (s.tried < tries), body, known)


def _another_start(toy: _Toy, k: Array) -> Array:
    """Start number k of ``STARTS``, from 1 on."""
    likelihood = toy.likelihood
    s = likelihood.structure
    base = jnp.where(k % 2 == 1, toy.source.params, likelihood.init)
    # Where no constraint says how far a parameter may lie, a third of itself.
    width = 0.3 * jnp.maximum(jnp.abs(base), 1.0)
    width = width.at[s.normal_params].set(likelihood.widths)
    width = width.at[s.poisson_params].set(jnp.minimum(1.0 / jnp.sqrt(jnp.maximum(likelihood.tau, 1.0)), 0.3))
    noise = jax.random.normal(jax.random.fold_in(toy.key, k), base.shape, base.dtype)
    return jnp.where(k <= 2, base, base + width * noise)


def _conditions(likelihood: Likelihood, source: Source, fixed: Array | bool) -> Conditions:
    """What is held: frozen parameters at the model's values, and the parameter of interest where ``fixed`` says so."""
    poi, frozen = likelihood.structure.poi, likelihood.frozen > 0
    start = jnp.where(frozen, likelihood.init, source.params)
    if poi < 0:
        return Conditions(start, frozen)
    mu = jnp.where(fixed, jnp.asarray(source.mu, start.dtype), start[poi])
    return Conditions(start.at[poi].set(mu), frozen.at[poi].set(frozen[poi] | fixed))


def _both(toy: _Toy, free: Found, fixed: Found) -> tuple[Found, Found]:
    """The unconditional and the conditional fit.

    The second starts where the first ended: the way is shorter. Should it end lower, the first had missed its minimum
    and is made again from there.
    """
    again = free._replace(best=free.best._replace(status=jnp.full_like(free.best.status, _status.RUNNING)))
    again = again._replace(tried=jnp.zeros_like(again.tried), n_iter=jnp.zeros_like(again.n_iter))

    # A scan rather than three calls, so that the minimizer is compiled once.
    def body(carry: tuple[Array, Array, Array], row: tuple[Array, Found]) -> tuple[tuple[Array, Array, Array], Found]:
        (warm, last, before), (k, known) = carry, row
        tries = jnp.where(k < 2, _TRIES, jnp.where(last < before - margin(before), 1, 0))
        found = _search(toy, known, warm, _conditions(toy.likelihood, toy.source, k == 1), tries)
        return (found.best.y, found.best.value, last), found

    zero = jnp.zeros((), toy.data.dtype)
    start = _conditions(toy.likelihood, toy.source, False).start
    known = jax.tree.map(lambda *x: jnp.stack(x), free, fixed, again)
    _, found = lax.scan(body, (start, zero, zero), (jnp.arange(3), known))
    free, fixed, again = (jax.tree.map(lambda x, k=k: x[k], found) for k in range(3))
    lower = (again.tried > 0) & (again.best.value < free.best.value)
    again = again._replace(used=jnp.full_like(again.used, len(STARTS) - 1))
    n_iter = free.n_iter + again.n_iter
    return jax.tree.map(lambda a, b: jnp.where(lower, a, b), again, free)._replace(n_iter=n_iter), fixed


# Third stage: what is known of the toys.


def record_stage(likelihood: Likelihood, source: Source, fitted: Fitted, plan: Plan) -> ToyRecord:
    """The records of the toys."""

    def one(row: Fitted) -> ToyRecord:
        return _record(likelihood, source, row, plan)

    return jax.vmap(one)(fitted) if plan.together else lax.map(one, fitted)


def _record(likelihood: Likelihood, source: Source, fitted: Fitted, plan: Plan) -> ToyRecord:
    data, free, fixed = fitted
    s = likelihood.structure
    mu_hat = free.best.y[s.poi] if s.poi >= 0 else None
    deviance = _derivatives.fast_deviance(likelihood, free.best.y, data)
    nll = deviance + saturated(likelihood, data)
    nll_fixed = statistic = None
    status, n_iter, start = free.best.status, free.n_iter, free.used
    if fixed is not None:
        gap = _derivatives.fast_deviance(likelihood, fixed.best.y, data) - deviance
        nll_fixed, statistic = nll + gap, one_sided(gap, mu_hat, source.mu, source.discovery)
        status = _status.worst(status, fixed.best.status)
        status = jnp.where((status == _status.CONVERGED) & (gap < -FAILED), _status.INCONSISTENT, status)
        n_iter, start = n_iter + fixed.n_iter, jnp.maximum(start, fixed.used)
    one, every = "mu_uncertainty" in plan.quantities and s.poi >= 0, "uncertainties" in plan.quantities
    which = slice(None) if every else slice(s.poi, s.poi + 1)
    widths = _widths(likelihood, source, data, free.best, which) if one or every else jnp.zeros(0)
    return ToyRecord(
        mu_hat=mu_hat,
        nll=nll,
        nll_fixed=nll_fixed,
        statistic=statistic,
        status=status,
        n_iter=n_iter,
        start=start,
        mu_uncertainty=widths[s.poi if every else 0] if one else None,
        uncertainties=widths if every else None,
        params=free.best.y if "params" in plan.quantities else None,
        data=data if "data" in plan.quantities else None,
    )


def one_sided(gap: Any, mu_hat: Any, mu: Any, discovery: Any) -> Array:
    """q0 or qmu from the difference of two NLLs.

    References:
        arXiv:1007.1727, equations 12 and 14.
    """
    # Where both fits end on the same value the statistic is 0, not what rounding makes of it: half of all toys can be
    # there, and p-values count those that reach the observed one.
    zero = jnp.where(discovery, mu_hat <= mu, mu_hat >= mu)
    # A NaN stays one: a statistic of 0 would read as perfect agreement.
    return jnp.where(zero | (gap <= 0), 0.0, 2.0 * gap)


def _widths(likelihood: Likelihood, source: Source, data: Array, minimum: Minimum, which: slice) -> Array:
    """Uncertainties of some parameters, as ``FitResult`` defines them."""
    conditions = _conditions(likelihood, source, source.held)
    walls = args_of(likelihood, data, minimum)[2]
    hessian = _derivatives.hessian(likelihood, minimum.y, data, walls)
    columns = jnp.eye(hessian.shape[0], dtype=hessian.dtype)[:, which]

    def spread(pinned: Array) -> Array:
        half = lax.linalg.triangular_solve(cholesky(masked(hessian, pinned)), columns, left_side=True, lower=True)
        return jnp.where(pinned[which], 0.0, jnp.sqrt((half * half).sum(0)))

    first = spread(conditions.held)
    pins = pins_of(likelihood, minimum, conditions).mask
    return lax.cond(jnp.isfinite(first).all(), lambda: first, lambda: spread(pins))
