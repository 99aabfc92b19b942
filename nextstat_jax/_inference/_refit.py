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

from .._likelihood._histfactory import Likelihood, Walls
from .._minimize import _status
from .._minimize._newton import Box, Minimum, active, covariance
from ._fit import PROBLEM, Conditions, make_walls, pins_of, solve_fit

# Pairs of steps and gradient changes that are kept, and iterations after which the full minimizer takes over.
_MEMORY = 6
_MAX_STEPS = 80
BATCH = 64


class Center(NamedTuple):
    """A minimum and its curvature.

    Attributes:
        y: Parameters, shape (n_params,).
        inverse: Inverse Hessian in the parameters that can move there, zero elsewhere, shape (n_params, n_params).
        walls: The walls at rate 0 that hold it.
    """

    y: Array
    inverse: Array
    walls: Walls


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


def make_center(likelihood: Likelihood, data: Array, minimum: Minimum, conditions: Conditions) -> Center:
    """The curvature at a minimum. Parameters on a bound do not move, but for the parameter of interest."""
    walls = make_walls(likelihood)._replace(multipliers=minimum.multipliers)
    return _center(likelihood, data, minimum.y, walls, pins_of(likelihood, minimum, conditions).mask, conditions)


def center_at(likelihood: Likelihood, data: Array, conditions: Conditions) -> Center:
    """The curvature at ``conditions.start``, the minimum for data that it predicts exactly."""
    return _center(likelihood, data, conditions.start, make_walls(likelihood), conditions.held, conditions)


def _center(
    likelihood: Likelihood, data: Array, y: Array, walls: Walls, pinned: Array, conditions: Conditions
) -> Center:
    exact, positive = PROBLEM.curvatures(y, (likelihood, data, walls), walls.multipliers)
    poi = likelihood.structure.poi
    free = pinned.at[poi].set(conditions.held[poi]) if poi >= 0 else pinned
    candidates = ((exact, free), (positive, free), (exact, pinned), (positive, pinned))
    inverse = covariance(*candidates[-1])
    for hessian, mask in candidates[-2::-1]:
        better = covariance(hessian, mask)
        inverse = jnp.where(jnp.isfinite(better).all(), better, inverse)
    return Center(y, inverse, walls)


def response(center: Center, k: Array) -> Array:
    """How all parameters follow parameter k if the likelihood is Gaussian, shape (n_params,)."""
    column, variance = center.inverse[:, k], center.inverse[k, k]
    return jnp.where(variance > 0, column / jnp.where(variance > 0, variance, 1.0), 0.0)


def refit(likelihood: Likelihood, center: Center, lanes: Lanes) -> Minimum:
    """Fits every lane; not differentiated.

    Returns:
        ``Minimum`` with a leading axis; ``num_steps`` counts the iterations of both methods.
    """
    return _refit(*lax.stop_gradient((likelihood, center, lanes)))


@jax.jit
def _refit(likelihood: Likelihood, center: Center, lanes: Lanes) -> Minimum:
    shared = lanes.data.ndim == 1

    def quick(lane: Lanes) -> tuple[Minimum, Array]:
        return quick_fit(likelihood, center, lane._replace(data=lanes.data) if shared else lane)

    def full(args: tuple[Lanes, Minimum, Array]) -> Minimum:
        lane, minimum, done = args
        data = lanes.data if shared else lane.data
        held = (likelihood.frozen > 0).at[lane.pin].set(True, mode="drop")

        def again() -> Minimum:
            # From where the lane began: where it ended may be far from anything.
            found = solve_fit(likelihood, data, Conditions(lane.start, held))
            return found._replace(num_steps=found.num_steps + minimum.num_steps)

        return lax.cond(done, lambda: minimum, again)

    rows = lanes._replace(data=jnp.zeros((len(lanes.pin), 0), lanes.data.dtype)) if shared else lanes
    minima, done = lax.map(quick, rows, batch_size=min(BATCH, len(lanes.pin)))
    return lax.map(full, (rows, minima, done))


def quick_fit(likelihood: Likelihood, center: Center, lane: Lanes) -> tuple[Minimum, Array]:
    """One fit by L-BFGS, and whether it can be believed; not differentiated.

    Args:
        likelihood: The arrays.
        center: A minimum nearby.
        lane: What is fitted, without the leading axis.
    """
    n, dtype = len(likelihood.init), likelihood.dtype
    frozen = (likelihood.frozen > 0).at[lane.pin].set(True, mode="drop")
    box = Box(likelihood.lower, likelihood.upper, frozen)
    args = (likelihood, lane.data, center.walls)
    multipliers = center.walls.multipliers
    start = jnp.where(frozen, lane.start, jnp.clip(lane.start, box.lower, box.upper))
    value, gradient = PROBLEM.value_and_gradient(start, args, multipliers)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    state = _Lane(
        y=start,
        value=value,
        gradient=gradient,
        pinned=active(box, start, gradient),
        steps=jnp.zeros((_MEMORY, n), dtype),
        changes=jnp.zeros((_MEMORY, n), dtype),
        weights=jnp.zeros((_MEMORY,), dtype),
        scale=jnp.ones((), dtype),
        multipliers=multipliers,
        restart=jnp.array(False),
        edm=jnp.full((), jnp.inf, dtype),
        running=finite,
        done=jnp.array(False),
        num_steps=jnp.array(0),
    )
    state = lax.while_loop(lambda s: s.running, lambda s: _iterate(center, box, args, lane.pin, s), state)
    # Parameters that did not move at the center must be content where they are.
    still = jnp.diagonal(center.inverse) == 0
    content = (active(box, state.y, state.gradient) | ~still).all()
    believed = state.done & content
    minimum = Minimum(
        state.y,
        state.value,
        state.gradient,
        state.multipliers,
        state.edm,
        jnp.where(believed, _status.CONVERGED, _status.STEP_LIMIT),
        state.num_steps,
        jnp.array(False),
    )
    return minimum, believed


def _iterate(center: Center, box: Box, args: Any, pin: Array, s: _Lane) -> _Lane:
    """One step: direction, trial, and the memory of it."""
    direction = _direction(center, args[0].structure.poi, pin, s)
    slope = s.gradient @ direction
    edm = 0.5 * jnp.abs(slope)
    moved = jnp.clip(s.y - s.scale * direction, box.lower, box.upper)
    y = jnp.where(s.pinned | s.restart, s.y, moved)
    value, gradient = PROBLEM.value_and_gradient(y, args, s.multipliers)
    near, end = (1e-9, 1e-17) if s.y.dtype == jnp.float64 else (1e-5, 1e-10)
    # Next to the minimum the rounding of the objective hides its decrease.
    lower = (value <= s.value) | ((edm < near) & (value <= s.value + near * (1.0 + jnp.abs(s.value))))
    accept = (lower | s.restart) & jnp.isfinite(gradient).all()
    at_end = (edm < end) | ((edm < 0.01 * near) & (edm > 0.5 * s.edm))
    ended = accept & at_end & (s.scale == 1) & ~s.restart
    # At a minimum the walls' multipliers are updated; while that matters, the objective is evaluated anew.
    pushed, violation = PROBLEM.tighten(y, args, s.multipliers)
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
        running=~done & (num_steps < _MAX_STEPS),
        done=done,
        num_steps=num_steps,
    )


def _direction(center: Center, poi: int, pin: Array, s: _Lane) -> Array:
    """The two-loop recursion with the center's curvature in the middle."""
    q = jnp.where(s.pinned, 0.0, s.gradient)
    factors = []
    for k in range(_MEMORY):
        factor = s.weights[k] * (s.steps[k] @ q)
        q = q - factor * s.changes[k]
        factors.append(factor)
    r = _inverse(center.inverse, poi, pin, s.pinned, q)
    for k in reversed(range(_MEMORY)):
        r = r + s.steps[k] * (factors[k] - s.weights[k] * (s.changes[k] @ r))
    return jnp.where(s.pinned, 0.0, r)


def _inverse(inverse: Array, poi: int, pin: Array, pinned: Array, q: Array) -> Array:
    """The inverse Hessian of the parameters that move, times q.

    The inverse of a matrix without row k is ``C - c_k c_k^T / C_kk``: exact for the held parameter and for the
    parameter of interest on its bound. Others on bounds are rare, and left to the memory.
    """
    n = len(q)
    places = jnp.stack([pin, jnp.array(max(poi, 0))])
    out = jnp.stack([pin < n, (pinned[poi] if poi >= 0 else jnp.array(False)) & (pin != poi)])
    rows = inverse.at[places].get(mode="fill", fill_value=0.0)
    block = rows.at[:, places].get(mode="fill", fill_value=0.0)
    out = out & (jnp.diagonal(block) > 0)
    both = out[:, None] & out[None, :]
    block = jnp.where(both, block, jnp.eye(2, dtype=q.dtype))
    result = inverse @ q
    known = jnp.where(out, rows @ q, 0.0)
    determinant = block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0]
    first = (block[1, 1] * known[0] - block[0, 1] * known[1]) / determinant
    second = (block[0, 0] * known[1] - block[1, 0] * known[0]) / determinant
    return result - jnp.where(out[0], first, 0.0) * rows[0] - jnp.where(out[1], second, 0.0) * rows[1]
