"""Many fits near a known minimum, in batches.

Toys and impacts repeat one fit with other data or with one parameter moved. Their minima lie near a minimum whose
curvature is known, so that a quasi-Newton method with this curvature as its first guess needs no Hessian and no
factorization of its own: an iteration is one gradient and a few products, which run as matrix products over a batch.
Every result is checked like any fit; the few that do not converge are fitted again by the full minimizer.

References:
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), algorithm 7.4 (L-BFGS).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._likelihood._protocol import Attempts, Likelihood
from .._minimize import _status
from .._minimize._box import Box, active
from .._minimize._matrix import Spread, either, finite
from .._minimize._newton import Minimum, nothing_kept
from ._rows import Rows
from ._search import LEAST_WORTH, PROBLEM, Found, search
from ._settle import pins_of

# Pairs of steps and gradient changes that are kept, and iterations after which the full minimizer takes over.
_MEMORY = 6
_MAX_STEPS = 80
BATCH = 64


class Center(NamedTuple):
    """A minimum and its curvature.

    Attributes:
        inverse: Inverse Hessian in the parameters that can move there, zero elsewhere.
        multipliers: Of what keeps a fit inside its domain.
        poi: Index of the parameter of interest, which may move off its bound, or -1.
    """

    inverse: Spread
    multipliers: Array
    poi: Array


class Lanes(NamedTuple):
    """Many fits, along a leading axis.

    Attributes:
        start: Starting points, shape (n_fits, n_params); they hold the value of the parameter that is held.
        pin: Index of the parameter that is held, n_params for none, shape (n_fits,).
        data: Data vectors, shape (n_fits, n_data), or (n_data,) for all alike.
    """

    start: Array
    pin: Array
    data: Array


class _Lane(NamedTuple):
    """State of one fit. ``steps``, ``changes`` and ``weights`` are the memory, the newest first."""

    y: Array
    value: Array
    gradient: Array
    pinned: Array
    steps: Array
    changes: Array
    weights: Array
    scale: Array
    multipliers: Array
    restart: Array
    edm: Array
    running: Array
    done: Array
    num_steps: Array
    aux: Any


def center_of(likelihood: Likelihood, data: Array, minimum: Minimum, poi: Array) -> Center:
    """The curvature at an unconditional minimum. Parameters on a bound do not move, but for the one of interest."""
    held = likelihood.frozen > 0
    pinned = pins_of(likelihood, minimum, likelihood.init, held).mask
    of_poi = jnp.arange(len(held)) == poi
    free = jnp.where(of_poi, held, pinned)
    barrier = likelihood.barrier(minimum.multipliers)
    exact, positive = likelihood.curvatures(minimum.y, data, barrier)

    def next_one(tried: tuple[Array, Spread]) -> tuple[Array, Spread]:
        k, _ = tried
        hessian, mask = either(k % 2 == 0, exact, positive), jnp.where(k < 2, free, pinned)
        return k + 1, hessian.inverse(mask)

    def needs_another(tried: tuple[Array, Spread]) -> Array:
        k, inverse = tried
        return (k < 4) & ~finite(inverse)

    shapes = jax.eval_shape(exact.inverse, free)
    unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    _, inverse = lax.while_loop(needs_another, next_one, (jnp.array(0), unknown))
    return Center(inverse, minimum.multipliers, jnp.asarray(poi))


def fits_near(
    likelihood: Likelihood, center: Center, lanes: Lanes, attempts: Attempts, wanted: Array | None = None
) -> Found:
    """Fits every lane; not differentiated.

    Args:
        likelihood: The likelihood.
        center: A minimum nearby.
        lanes: What is fitted.
        attempts: Further starts: if any is worth a try, or there are kinks, the full minimizer makes every fit.
        wanted: Which are wanted, shape (n_fits,); all by default.

    Returns:
        ``Found`` with a leading axis; ``num_steps`` counts the iterations of both methods.
    """
    wanted = jnp.ones(lanes.pin.shape, bool) if wanted is None else wanted
    first, done = quick_fits(likelihood, center, lanes, attempts, wanted)
    worth = jnp.where(jnp.isfinite(attempts.worth), LEAST_WORTH, jnp.inf)

    def full(row: tuple[Lanes, Array, Found, Array]) -> Found:
        lane, wanted, once, done = row
        held = (likelihood.frozen > 0).at[lane.pin].set(True, mode="drop")
        data = lanes.data if lanes.data.ndim == 1 else lane.data

        def again() -> Found:
            # From where the lane began: where it ended may be far from anything.
            found, _ = search(likelihood, data, lane.start, held, attempts._replace(worth=worth), bent=False)
            steps = found.minimum.num_steps + once.minimum.num_steps
            return found._replace(minimum=found.minimum._replace(num_steps=steps))

        return lax.cond(done | ~wanted, lambda: once, again)

    return lax.map(full, (_apart(lanes), wanted, first, done))


def quick_fits(
    likelihood: Likelihood, center: Center, lanes: Lanes, attempts: Attempts, wanted: Array
) -> tuple[Found, Array]:
    """Every lane by L-BFGS; arguments as in ``fits_near``.

    Returns:
        What was found, and whether it can be believed, each with a leading axis. The others, which are all of them if
        there may be several minima, are left to the full minimizer.
    """
    several = jnp.isfinite(attempts.worth).any() | (likelihood.kinks is not None)

    def quick(row: tuple[Lanes, Array]) -> tuple[Minimum, Array]:
        lane, wanted = row
        lane = lane._replace(data=lanes.data) if lanes.data.ndim == 1 else lane
        return quick_fit(likelihood, center, lane, wanted & ~several)

    count = len(lanes.pin)
    size = min(BATCH, count)

    def whole(x: Array) -> Array:
        # A last batch of another size would be compiled once more.
        return jnp.concatenate([x, jnp.zeros((-count % size, *x.shape[1:]), x.dtype)])

    found = lax.map(quick, jax.tree.map(whole, (_apart(lanes), wanted)), batch_size=size)
    minima, done = jax.tree.map(lambda x: x[:count], found)
    return Found(minima, jnp.full_like(minima.value, jnp.inf), wanted.astype(int)), done


def _apart(lanes: Lanes) -> Lanes:
    """Lanes without data that they share, all with a leading axis."""
    return lanes._replace(data=jnp.zeros((len(lanes.pin), 0), lanes.data.dtype)) if lanes.data.ndim == 1 else lanes


def near_rows(likelihood: Likelihood, poi: Array, data: Array, rows: Rows, minimum: Minimum) -> Found:
    """The fits of a question that begin near their minima; arguments as in ``make_rows``.

    Args:
        likelihood: The likelihood.
        poi: Index of the parameter of interest.
        data: The data.
        rows: The fits; each holds one parameter at most.
        minimum: The unconditional one.
    """
    return fits_near(*_near(likelihood, poi, data, rows, minimum))


def quick_rows(likelihood: Likelihood, poi: Array, data: Array, rows: Rows, minimum: Minimum) -> tuple[Found, Array]:
    """The same by L-BFGS alone, and which of them can be believed."""
    return quick_fits(*_near(likelihood, poi, data, rows, minimum))


def _near(likelihood: Likelihood, poi: Array, data: Array, rows: Rows, minimum: Minimum) -> tuple[Any, ...]:
    center = center_of(likelihood, data, minimum, poi)
    mine = rows.held & ~(likelihood.frozen > 0)
    pin = jnp.where(mine.any(1), jnp.argmax(mine, axis=1), mine.shape[1])
    return likelihood, center, Lanes(rows.start, pin, data), likelihood.attempts(data, poi), rows.wanted


def quick_fit(likelihood: Likelihood, center: Center, lane: Lanes, wanted: Array) -> tuple[Minimum, Array]:
    """One fit by L-BFGS, and whether it can be believed; not differentiated.

    Args:
        likelihood: The likelihood.
        center: A minimum nearby.
        lane: What is fitted, without the leading axis.
        wanted: Whether it is.
    """
    n, dtype = len(likelihood.init), likelihood.init.dtype
    frozen = (likelihood.frozen > 0).at[lane.pin].set(True, mode="drop")
    box = Box(likelihood.lower, likelihood.upper, frozen)
    multipliers = center.multipliers
    args = (likelihood, lane.data, likelihood.barrier(multipliers))
    start = jnp.where(frozen, lane.start, jnp.clip(lane.start, box.lower, box.upper))
    # The first pass evaluates the start: another evaluation here would be compiled once more.
    state = _Lane(
        y=start,
        value=jnp.full((), jnp.inf, dtype),
        gradient=jnp.zeros_like(start),
        pinned=frozen,
        steps=jnp.zeros((_MEMORY, n), dtype),
        changes=jnp.zeros((_MEMORY, n), dtype),
        weights=jnp.zeros((_MEMORY,), dtype),
        scale=jnp.ones((), dtype),
        multipliers=multipliers,
        restart=jnp.array(True),
        edm=jnp.full((), jnp.inf, dtype),
        running=jnp.asarray(wanted),
        done=jnp.array(False),
        num_steps=jnp.array(0),
        aux=nothing_kept(PROBLEM, start, args, multipliers),
    )
    # What may be taken out of the inverse: the parameter that is held, and that of interest.
    places = jnp.stack([lane.pin, jnp.where(center.poi < 0, n, center.poi)])
    known = _Out(places, center.inverse.columns(places))
    state = lax.while_loop(lambda s: s.running, lambda s: _iterate(center, box, args, known, s), state)
    # Parameters that did not move at the center must be content where they are.
    still = center.inverse.variances == 0
    content = (active(box, state.y, state.gradient) | ~still).all()
    value = PROBLEM.bare(state.value, state.aux, args, state.multipliers)
    stranded = likelihood.stranded(state.y, ~frozen & (state.y == start), state.aux, lane.data)
    believed = state.done & content & jnp.isfinite(value) & ~stranded
    status = jnp.where(believed, _status.CONVERGED, _status.STEP_LIMIT)
    minimum = Minimum(
        state.y, value, state.gradient, state.multipliers, state.edm, status, state.num_steps, jnp.array(False),
        state.aux, None if likelihood.kinks is None else jnp.zeros_like(state.y),
    )  # fmt: skip
    return minimum, believed


class _Out(NamedTuple):
    """Two parameters, n_params for none, shape (2,), and their rows of the inverse, shape (2, n_params)."""

    places: Array
    rows: Array


def _iterate(center: Center, box: Box, args: Any, out: _Out, s: _Lane) -> _Lane:
    """One step: direction, trial, and the memory of it."""
    direction = _direction(center, out, s)
    slope = s.gradient @ direction
    edm = 0.5 * jnp.abs(slope)
    moved = jnp.clip(s.y - s.scale * direction, box.lower, box.upper)
    y = jnp.where(s.pinned | s.restart, s.y, moved)
    value, gradient, aux, _ = PROBLEM.evaluate(y, args, s.multipliers)
    near, end = (1e-9, 1e-17) if s.y.dtype == jnp.float64 else (1e-5, 1e-10)
    # Next to the minimum the rounding of the objective hides its decrease.
    lower = (value <= s.value) | ((edm < near) & (value <= s.value + near * (1.0 + jnp.abs(s.value))))
    accept = (lower | s.restart) & jnp.isfinite(gradient).all()
    at_end = (edm < end) | ((edm < 0.01 * near) & (edm > 0.5 * s.edm))
    ended = accept & at_end & (s.scale == 1) & ~s.restart
    # At a minimum the multipliers are updated; while that matters, the objective is evaluated anew.
    pushed, violation = PROBLEM.tighten(aux, args, s.multipliers)
    done, again = ended & (violation <= 1), ended & (violation > 1)
    multipliers = jnp.where(again, pushed, s.multipliers)
    pinned = jnp.where(accept, active(box, y, gradient), s.pinned)
    # Pairs from before a parameter reached or left its bound are about another problem.
    same = (pinned == s.pinned).all()
    step = y - s.y
    change = jnp.where(pinned, 0.0, gradient - s.gradient)
    product = step @ change
    keep = accept & same & ~s.restart & (product > 1e-10 * jnp.abs(step @ s.gradient))
    weight = jnp.where(keep, 1.0 / jnp.where(keep, product, 1.0), 0.0)

    def remember(memory: Array, new: Array) -> Array:
        return jnp.where(keep, jnp.concatenate([new[None], memory[:-1]]), memory)

    num_steps = s.num_steps + 1
    return _Lane(
        y=jnp.where(accept, y, s.y),
        value=jnp.where(accept, value, s.value),
        gradient=jnp.where(accept, gradient, s.gradient),
        pinned=pinned,
        steps=remember(s.steps, step),
        changes=remember(s.changes, change),
        weights=jnp.where(same, remember(s.weights, weight), 0.0),
        scale=jnp.where(accept, 1.0, 0.25 * s.scale),
        multipliers=multipliers,
        restart=again,
        edm=jnp.where(again | s.restart, jnp.inf, jnp.where(accept, edm, s.edm)),
        running=~done & (num_steps < _MAX_STEPS) & (accept | ~s.restart),
        done=done,
        num_steps=num_steps,
        aux=jax.tree.map(lambda new, old: jnp.where(accept, new, old), aux, s.aux),
    )


def _direction(center: Center, out: _Out, s: _Lane) -> Array:
    """The two-loop recursion with the center's curvature in the middle."""
    q = jnp.where(s.pinned, 0.0, s.gradient)
    factors = []
    for k in range(_MEMORY):
        factor = s.weights[k] * (s.steps[k] @ q)
        q = q - factor * s.changes[k]
        factors.append(factor)
    r = _inverse(center, out, s.pinned, q)
    for k in reversed(range(_MEMORY)):
        r = r + s.steps[k] * (factors[k] - s.weights[k] * (s.changes[k] @ r))
    return jnp.where(s.pinned, 0.0, r)


def _inverse(center: Center, known: _Out, pinned: Array, q: Array) -> Array:
    """The inverse Hessian of the parameters that move, times q.

    The inverse of a matrix without row k is ``C - c_k c_k^T / C_kk``: exact for the held parameter and for the
    parameter of interest on its bound. Others on bounds are rare, and left to the memory.
    """
    (pin, poi), rows = known.places, known.rows
    on_bound = pinned.at[poi].get(mode="fill", fill_value=False)
    out = jnp.stack([pin < len(q), on_bound & (pin != poi)])
    block = rows.at[:, known.places].get(mode="fill", fill_value=0.0)
    out = out & (jnp.diagonal(block) > 0)
    both = out[:, None] & out[None, :]
    block = jnp.where(both, block, jnp.eye(2, dtype=q.dtype))
    result = center.inverse.times(q)
    there = jnp.where(out, rows @ q, 0.0)
    determinant = block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0]
    first = (block[1, 1] * there[0] - block[0, 1] * there[1]) / determinant
    second = (block[0, 0] * there[1] - block[1, 0] * there[0]) / determinant
    return result - jnp.where(out[0], first, 0.0) * rows[0] - jnp.where(out[1], second, 0.0) * rows[1]
