"""The compiled half of fits to pseudo-experiments, in three stages.

First every toy is thrown and fitted by the quick method, in batches. The driver answers for the toys that this leaves
open. Then the records of all toys are made. The stages are compiled apart: most models never need the second, whose
compilation takes longest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._inference._driver import fit_once, traced
from .._inference._near import BATCH, Center, Lanes, quick_fit
from .._inference._points import Points, response
from .._inference._profile import Conditional
from .._inference._rows import Facts
from .._inference._search import judged, margin
from .._inference._settle import pins_of, with_kinks
from .._inference._statistics import STATISTICS
from .._likelihood._protocol import Likelihood
from .._minimize import _status
from .._minimize._newton import Minimum
from ._source import Source, throw_toy

# What is fitted: everything; all but the parameter of interest; both, for a test.
FREE, HELD, PAIR = "free", "held", "pair"


class Plan(NamedTuple):
    """What is computed; static.

    Attributes:
        fits: ``FREE``, ``HELD`` or ``PAIR``.
        size: Toys of a chunk on one device, a multiple of ``BATCH``.
        has_poi: Whether there is a parameter of interest.
        statistic: Name of the test statistic, or None.
        quantities: What is returned beside the standard ones.
        together: Whether the toys of a device advance together (``vmap``) or one after another; decided by the device.
    """

    fits: str
    size: int
    has_poi: bool = True
    statistic: str | None = None
    quantities: tuple[str, ...] = ()
    together: bool = False

    @property
    def of_fits(self) -> Plan:
        """What the fits depend on: the programs of the first two stages serve all that share it."""
        return Plan(self.fits, self.size, together=self.together)


class Fitted(NamedTuple):
    """Toys with their fits.

    Attributes:
        data: Data vectors, shape (n_toys, n_data).
        minima: The fit or, for a test, the unconditional and the conditional one.
        unsettled: Whether the driver has to answer.
    """

    data: Array
    minima: tuple[Minimum, ...]
    unsettled: Array


class ToyRecord(NamedTuple):
    """What is known of one toy or, with a leading axis, of many; attributes as in ``ToyFits``."""

    mu_hat: Any
    nll: Any
    nll_fixed: Any
    statistic: Any
    status: Any
    n_iter: Any
    retried: Any
    mu_uncertainty: Any
    uncertainties: Any
    params: Any
    data: Any


# First stage: throw, and fit by the quick method.


def quick_stage(likelihood: Likelihood, source: Source, index: Array, plan: Plan) -> Fitted:
    """Throws the toys with the numbers ``index`` and fits them by the quick method."""
    center = _center(likelihood, source, plan)
    one = partial(_quick, likelihood, source, center, plan)
    # The quick method gains from a batch on every device. The size of a chunk is a multiple of the batch's, since
    # rounding depends on shapes.
    return jax.vmap(one)(index) if plan.together else lax.map(one, index, batch_size=BATCH)


def _center(likelihood: Likelihood, source: Source, plan: Plan) -> Center:
    """The generating point as the minimum of what it predicts: all toys lie around it."""
    start, barrier = _start(likelihood, source, plan), likelihood.barrier()
    # For data that are predicted exactly the positive semidefinite part is the Hessian. Should it be singular, the
    # quick fits fail and the driver takes over.
    hessian = likelihood.curvatures(start, likelihood.expected(source.params), barrier)[1]
    return Center(hessian.inverse(_held(likelihood, source, plan)), barrier.multipliers, source.poi)


def _start(likelihood: Likelihood, source: Source, plan: Plan) -> Array:
    """The generating point, with what is held where it is held."""
    start = jnp.where(likelihood.frozen > 0, likelihood.init, source.params)
    return start.at[source.poi].set(source.mu) if plan.fits == HELD else start


def _held(likelihood: Likelihood, source: Source, plan: Plan) -> Array:
    """What the first fit holds."""
    frozen = likelihood.frozen > 0
    return frozen.at[source.poi].set(True) if plan.fits == HELD else frozen


def _quick(likelihood: Likelihood, source: Source, center: Center, plan: Plan, toy: Array) -> Fitted:
    """A toy and its quick fits; unsettled where one fails, shows that the other missed, or others may lie lower."""
    data = throw_toy(likelihood, source, toy)
    several = jnp.isfinite(likelihood.attempts(data, source.poi).worth).any() | (likelihood.kinks is not None)
    start, nowhere = _start(likelihood, source, plan), jnp.full_like(source.poi, source.params.shape[0])
    if plan.fits != PAIR:
        pin = source.poi if plan.fits == HELD else nowhere
        minimum, believed = quick_fit(likelihood, center, Lanes(start, pin, data), ~several)
        return Fitted(data, (minimum,), ~believed)

    def body(carry: tuple[Array, Array], pin: Array) -> tuple[tuple[Array, Array], tuple[Minimum, Array]]:
        start, wanted = carry
        minimum, believed = quick_fit(likelihood, center, Lanes(start, pin, data), wanted)
        # The conditional fit begins where the other ended; the other parameters follow to first order if that is lower.
        best, poi = minimum.y, source.poi
        rate = response(center.inverse.columns(poi[None]), poi[None])[:, 0]
        follow = jnp.clip(best + rate * (source.mu - best[poi]), likelihood.lower, likelihood.upper)
        starts = jnp.stack([best, follow]).at[:, poi].set(source.mu)
        values = jax.vmap(lambda y: likelihood.deviance(y, data))(starts)
        return (jnp.where(values[1] < values[0], starts[1], starts[0]), wanted & believed), (minimum, believed)

    # A scan rather than two calls, so that the method is compiled once.
    _, (both, believed) = lax.scan(body, (start, ~several), jnp.stack([nowhere, source.poi]))
    free, fixed = (jax.tree.map(lambda x, k=k: x[k], both) for k in range(2))
    missed = fixed.value < free.value - margin(free.value)
    return Fitted(data, (free, fixed), ~believed.all() | missed)


# Second stage: the driver, for toys that are not settled.


def search_stage(likelihood: Likelihood, source: Source, fitted: Fitted, plan: Plan) -> Fitted:
    """The driver's answers for the toys that are not settled."""
    one = partial(_answered, likelihood, source, plan)
    if plan.together:
        return _in_batches(one, fitted)
    return lax.map(lambda row: lax.cond(row.unsettled, one, lambda row: row, row), fitted)


def _in_batches(one: Callable[[Fitted], Fitted], fitted: Fitted) -> Fitted:
    """The unsettled toys first, batch by batch: all toys of a batch take as long as its slowest."""
    order, count = jnp.argsort(~fitted.unsettled), fitted.unsettled.sum()

    def body(carry: tuple[Array, Fitted]) -> tuple[Array, Fitted]:
        begin, whole = carry
        rows = lax.dynamic_slice(order, (begin,), (BATCH,))
        made = jax.vmap(one)(jax.tree.map(lambda x: x[rows], fitted))
        # Where a batch is filled up with settled toys, these stay what they are.
        places = jnp.where(fitted.unsettled[rows], rows, len(order))
        return begin + BATCH, jax.tree.map(lambda x, new: x.at[places].set(new, mode="drop"), whole, made)

    return lax.while_loop(lambda carry: carry[0] < count, body, (jnp.zeros_like(count), fitted))[1]


def _answered(likelihood: Likelihood, source: Source, plan: Plan, known: Fitted) -> Fitted:
    """What the driver finds: the same as for data that were observed."""
    facts = Facts(likelihood, source.poi, known.data)
    if plan.fits == FREE:
        first = fit_once(likelihood, source.poi, known.data, likelihood.init, full=False)
        minima = (first.found.minimum,)
    else:
        about = (source.poi[None], source.mu.reshape(1, 1))
        course = traced(Points(*about) if plan.fits == PAIR else Conditional(*about), facts, likelihood.init)
        held = jax.tree.map(lambda x: x[0], course.state.found.minimum)
        minima = (course.first.found.minimum, held) if plan.fits == PAIR else (held,)
    steps = (x.num_steps + before.num_steps for x, before in zip(minima, known.minima, strict=True))
    return known._replace(minima=tuple(x._replace(num_steps=n) for x, n in zip(minima, steps, strict=True)))


# Third stage: what is known of the toys.


def record_stage(likelihood: Likelihood, source: Source, fitted: Fitted, plan: Plan) -> ToyRecord:
    """The records of the toys."""
    one = partial(_record, likelihood, source, plan)
    return jax.vmap(one)(fitted) if plan.together else lax.map(one, fitted)


def _record(likelihood: Likelihood, source: Source, plan: Plan, fitted: Fitted) -> ToyRecord:
    first, data = fitted.minima[0], fitted.data
    best = first.y[source.poi]
    nll = first.value + likelihood.constant(data)
    nll_fixed = statistic = None
    status, n_iter = first.status, first.num_steps
    if plan.fits == PAIR:
        fixed = fitted.minima[1]
        gap = fixed.value - first.value
        nll_fixed, n_iter = nll + gap, n_iter + fixed.num_steps
        if plan.statistic is not None:
            statistic = STATISTICS[plan.statistic].of(gap, best, source.mu)
        status = judged(_status.worst(status, fixed.status), -gap)
    one, every = "mu_uncertainty" in plan.quantities and plan.has_poi, "uncertainties" in plan.quantities
    widths = _widths(likelihood, source, plan, data, first, every=every) if one or every else jnp.zeros(0)
    return ToyRecord(
        mu_hat=best if plan.has_poi else None,
        nll=nll,
        nll_fixed=nll_fixed,
        statistic=statistic,
        status=status,
        n_iter=n_iter,
        retried=fitted.unsettled,
        mu_uncertainty=widths[source.poi if every else 0] if one else None,
        uncertainties=widths if every else None,
        params=first.y if "params" in plan.quantities else None,
        data=data if "data" in plan.quantities else None,
    )


def _widths(likelihood: Likelihood, source: Source, plan: Plan, data: Array, minimum: Minimum, *, every: bool) -> Array:
    """Uncertainties of all parameters or of the one of interest, as ``FitResult`` defines them."""
    held = _held(likelihood, source, plan)
    hessian = with_kinks(likelihood.hessian(minimum.y, data, likelihood.softened(minimum.multipliers)), minimum)
    unit = jnp.arange(len(held)) == source.poi

    def spread(pinned: Array) -> Array:
        if every:
            return jnp.sqrt(hessian.inverse(pinned).variances)
        variance = hessian.factorized(pinned).solve(unit.astype(minimum.y.dtype))[source.poi]
        return jnp.where(pinned[source.poi], 0.0, jnp.sqrt(variance))[None]

    first = spread(held)
    pins = pins_of(likelihood, minimum, minimum.y, held).mask
    return lax.cond(jnp.isfinite(first).all(), lambda: first, lambda: spread(pins))
