"""Bounded minimization of a smooth function whose exact Hessian is cheap. It knows no physics.

Newton's method with Levenberg's damping and an active set for the bounds:

- A step solves ``(H + damping * D) p = -g`` in the parameters that can move. Parameters that the step would carry over
  a bound are put on it and the rest is solved again, so that a step is a step of the bounded problem.
- Where the Hessian is not positive definite, a positive semidefinite stand-in (Gauss and Newton's) takes its place.
- The step is judged by the ratio of actual to predicted decrease. A point where the objective is not finite and a poor
  ratio raise the damping.
- A factorization is kept as long as it still shrinks the estimated distance to the minimum tenfold per step: near the
  minimum an iteration costs one gradient and two triangular solves.
- Inequality constraints of the problem are treated by an augmented Lagrangian: whenever a minimum is found, the
  multipliers are updated, until no constraint is violated.
- It ends when the estimated vertical distance to the minimum, ``EDM = g H^-1 g / 2``, is below the tolerance.

References:
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), chapters 4, 6, 16 and 17; the EDM is Minuit's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from . import _status

ValueAndGradient = Callable[[Array, Any, Array], tuple[Array, Array]]
Curvatures = Callable[[Array, Any, Array], tuple[Array, Array]]
Tighten = Callable[[Array, Any, Array], tuple[Array, Array]]

MAX_STEPS = 500
_REUSE = 0.1
_DAMPING_START = 1e-3
_DAMPING_END = 1e-7
_DAMPING_LIMIT = 1e10
_BOX_ROUNDS = 6
_START_HALVINGS = 12


class Problem(NamedTuple):
    """What is minimized; every function takes the point y, the arguments and the multipliers of the constraints.

    Attributes:
        value_and_gradient: Scalar and array of shape (n,). +inf marks points outside the domain.
        curvatures: The exact Hessian and a positive semidefinite stand-in for it, each of shape (n, n). Steps use the
            exact one wherever it is positive definite.
        tighten: Updated multipliers, shape (m,), and by how much the worst constraint is violated, in units of what may
            be ignored. Called at minima.
    """

    value_and_gradient: ValueAndGradient
    curvatures: Curvatures
    tighten: Tighten


class Box(NamedTuple):
    """Bounds and frozen parameters, each of shape (n,); ``frozen`` is boolean."""

    lower: Array
    upper: Array
    frozen: Array


class Minimum(NamedTuple):
    """Where a minimization ended.

    Attributes:
        y: Point, shape (n,).
        value: Objective there.
        gradient: Gradient there, shape (n,).
        multipliers: Multipliers of the constraints, shape (m,); zero where a constraint is not active.
        edm: Estimated vertical distance to the minimum at the last step.
        status: Code of ``_status``.
        num_steps: Iterations.
        moved: Whether the starting point had to be moved to a point with a finite objective.
    """

    y: Array
    value: Array
    gradient: Array
    multipliers: Array
    edm: Array
    status: Array
    num_steps: Array
    moved: Array


class _State(NamedTuple):
    y: Array
    value: Array
    gradient: Array
    hessian: Array
    positive: Array
    factor: Array
    pinned: Array
    damping: Array
    factored_at: Array  # damping in the factorization
    stale: Array  # the Hessian belongs to an earlier point
    usable: Array  # the factorization may serve again
    struggled: Array  # a step from this point has failed
    multipliers: Array
    restart: Array  # the multipliers changed: evaluate again where we are
    edm: Array
    status: Array
    num_steps: Array


class _Step(NamedTuple):
    hessian: Array
    positive: Array
    matrix: Array  # which of the two was factorized
    factor: Array
    pinned: Array
    p: Array
    fresh: Array


class Tolerance(NamedTuple):
    """EDMs: a minimization ends at ``end``; below ``near`` the quadratic model is trusted more than the objective."""

    near: float
    end: float


def tolerance(dtype: Any) -> Tolerance:
    """The tolerances of a floating-point type."""
    return Tolerance(1e-9, 1e-18) if jnp.dtype(dtype) == jnp.float64 else Tolerance(1e-5, 1e-10)


def active(box: Box, y: Array, gradient: Array) -> Array:
    """Parameters that cannot move: frozen, or on a bound with the objective falling beyond it."""
    return box.frozen | ((y <= box.lower) & (gradient >= 0)) | ((y >= box.upper) & (gradient <= 0))


def masked(hessian: Array, pinned: Array, shift: Array | float = 0.0) -> Array:
    """The Hessian with pinned rows and columns replaced by those of the identity, and a shifted diagonal."""
    free = ~pinned
    matrix = jnp.where(free[:, None] & free[None, :], hessian, 0.0)
    return matrix + jnp.diag(jnp.where(free, shift, 1.0))


def cholesky(matrix: Array) -> Array:
    """Lower factor; NaN where the matrix is not positive definite."""
    return lax.linalg.cholesky(matrix, symmetrize_input=False)


def solve(factor: Array, rhs: Array) -> Array:
    """Solves ``L L^T x = rhs`` for a vector or for columns."""
    columns = rhs[:, None] if rhs.ndim == 1 else rhs
    half = lax.linalg.triangular_solve(factor, columns, left_side=True, lower=True)
    full = lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    return full[:, 0] if rhs.ndim == 1 else full


def minimize(
    problem: Problem,
    start: Array,
    args: Any,
    box: Box,
    multipliers: Array,
    *,
    fallback: Array | None = None,
    max_steps: int = MAX_STEPS,
    reuse: bool = True,
) -> Minimum:
    """Minimizes ``problem`` inside ``box``.

    Args:
        problem: Objective with gradient and Hessian.
        start: Starting point, shape (n,); it is moved into the bounds.
        args: Passed to the functions of ``problem``.
        box: Bounds and frozen parameters. Frozen parameters keep their starting value, bounds or not.
        multipliers: First guess of the constraints' multipliers, shape (m,); zero if nothing is known.
        fallback: Where the objective is not finite at ``start``, the start is moved towards this point.
        max_steps: Iterations after which to give up.
        reuse: Whether a factorization serves for several steps. That saves Hessians where one problem is solved at a
            time; in a batch, where each step computes one anyhow, it only makes for more steps.

    Returns:
        ``Minimum``; it never raises, and a NaN never reads as convergence.
    """
    start = jnp.where(box.frozen, start, jnp.clip(start, box.lower, box.upper))
    aim = start if fallback is None else jnp.where(box.frozen, start, jnp.clip(fallback, box.lower, box.upper))
    y, value, gradient, moved = _finite_start(problem, start, aim, args, multipliers)
    n = start.shape[0]
    dtype = start.dtype
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    state = _State(
        y=y,
        value=value,
        gradient=gradient,
        hessian=jnp.zeros((n, n), dtype),
        positive=jnp.zeros((n, n), dtype),
        factor=jnp.eye(n, dtype=dtype),
        pinned=box.frozen,
        damping=jnp.zeros((), dtype),
        factored_at=jnp.zeros((), dtype),
        stale=jnp.array(True),
        usable=jnp.array(False),
        struggled=jnp.array(False),
        multipliers=multipliers,
        restart=jnp.array(False),
        edm=jnp.full((), jnp.inf, dtype),
        status=jnp.where(finite, _status.RUNNING, _status.INVALID_START),
        num_steps=jnp.array(0),
    )
    state = lax.while_loop(
        lambda s: s.status == _status.RUNNING, lambda s: _iterate(problem, args, box, max_steps, reuse, s), state
    )
    return Minimum(
        state.y, state.value, state.gradient, state.multipliers, state.edm, state.status, state.num_steps, moved
    )


def _finite_start(
    problem: Problem, start: Array, aim: Array, args: Any, multipliers: Array
) -> tuple[Array, Array, Array, Array]:
    """Halves the way from ``aim`` to ``start`` until the objective is finite, and takes ``aim`` itself at last."""

    def bad(carry: tuple[Array, Array, Array, Array]) -> Array:
        k, _, value, gradient = carry
        return (k < _START_HALVINGS) & ~(jnp.isfinite(value) & jnp.isfinite(gradient).all())

    def nearer(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k = carry[0]
        way = jnp.where(k == 0, 1.0, jnp.where(k == _START_HALVINGS - 1, 0.0, 0.5**k)).astype(start.dtype)
        # With a way of exactly 1 the start must come back unchanged, not rounded.
        y = jnp.where(way == 1, start, aim + way * (start - aim))
        return k + 1, y, *problem.value_and_gradient(y, args, multipliers)

    nothing = jnp.full((), jnp.nan, start.dtype)
    k, y, value, gradient = lax.while_loop(bad, nearer, (jnp.array(0), start, nothing, jnp.zeros_like(start)))
    return y, value, gradient, k > 1


def _iterate(problem: Problem, args: Any, box: Box, max_steps: int, reuse: bool, s: _State) -> _State:
    """One trial step: factorize if needed, solve, evaluate, judge."""
    tol = tolerance(s.y.dtype)
    pinned = active(box, s.y, s.gradient)
    choose = _choose_step if reuse else _new_step
    step = choose(problem, args, box, pinned, s)
    good = jnp.isfinite(step.p).all() & ~s.restart
    y = jnp.where(good & ~box.frozen, jnp.clip(s.y + step.p, box.lower, box.upper), s.y)
    p = y - s.y
    value, gradient = problem.value_and_gradient(y, args, s.multipliers)
    edm = jnp.where(good, 0.5 * jnp.abs(jnp.where(pinned, 0.0, s.gradient * step.p).sum()), jnp.inf)

    near = edm < tol.near
    predicted = -(s.gradient @ p + 0.5 * p @ (step.matrix @ p))
    ratio = (s.value - value) / jnp.where(predicted > 0, predicted, 1.0)
    # Next to the minimum the rounding of the objective hides its decrease, but a Newton step is safe there.
    slack = tol.near * (1.0 + jnp.abs(s.value))
    lower = jnp.where(near, value <= s.value + slack, (predicted > 0) & (ratio > 1e-4))
    accept = (good & lower & jnp.isfinite(value) & jnp.isfinite(gradient).all()) | s.restart
    ratio = jnp.where(near, 1.0, ratio)
    damping_used = jnp.where(step.fresh, s.damping, s.factored_at)
    # Or as far down as rounding lets it: a new factorization that no longer shrinks the EDM.
    at_end = (edm < tol.end) | (near & (s.edm < tol.near) & step.fresh & (edm > 0.1 * s.edm))
    minimum = accept & at_end & (damping_used <= _DAMPING_START)
    multipliers, violation = lax.cond(
        minimum,
        lambda: problem.tighten(y, args, s.multipliers),
        lambda: (s.multipliers, jnp.zeros((), y.dtype)),
    )
    restart = minimum & (violation > 1)

    num_steps = s.num_steps + 1
    struggled = jnp.where(accept, ~step.fresh & s.struggled, s.struggled | step.fresh)
    damping = _next_damping(s.damping, accept, ratio, step.fresh, near, s.struggled)
    damping = jnp.where(s.restart, s.damping, damping)
    status = jnp.where(
        minimum & ~restart,
        _status.CONVERGED,
        jnp.where(
            damping > _DAMPING_LIMIT,
            _status.STALLED,
            jnp.where(num_steps >= max_steps, _status.STEP_LIMIT, _status.RUNNING),
        ),
    )
    return _State(
        y=jnp.where(accept, y, s.y),
        value=jnp.where(accept, value, s.value),
        gradient=jnp.where(accept, gradient, s.gradient),
        hessian=step.hessian,
        positive=step.positive,
        factor=step.factor,
        pinned=step.pinned,
        damping=damping,
        factored_at=damping_used,
        stale=(s.stale & ~step.fresh) | accept,
        usable=accept & (ratio > 0.25) & (damping <= _DAMPING_START) & (damping_used <= _DAMPING_START) & ~s.restart,
        struggled=struggled,
        multipliers=multipliers,
        restart=restart,
        edm=edm,
        status=status,
        num_steps=num_steps,
    )


def _next_damping(damping: Array, accept: Array, ratio: Array, fresh: Array, near: Array, struggled: Array) -> Array:
    """Raises the damping after a failure, lowers it after a good step; an old factorization's failure says nothing."""
    raised = jnp.where(damping > 0, 10.0 * damping, _DAMPING_START)
    # After failures at this point a quick descent would fail again at the next.
    lowered = jnp.where(struggled, 0.5, 0.1) * damping
    lowered = jnp.where(lowered < _DAMPING_END, 0.0, lowered)
    after = jnp.where(
        ratio > 0.75, lowered, jnp.where(ratio < 0.25, jnp.where(damping > 0, 4.0 * damping, _DAMPING_START), damping)
    )
    after = jnp.where(near, 0.0, after)
    return jnp.where(accept, after, jnp.where(fresh, raised, damping))


def _choose_step(problem: Problem, args: Any, box: Box, pinned: Array, s: _State) -> _Step:
    """The step of the kept factorization if it still serves, else that of a new one."""
    rhs = jnp.where(pinned, 0.0, -s.gradient)
    old = solve(s.factor, rhs)
    inside = (s.y + old >= box.lower) & (s.y + old <= box.upper) | box.frozen
    shrinks = 0.5 * (rhs @ old) < _REUSE * s.edm
    serves = s.usable & shrinks & inside.all() & (pinned == s.pinned).all()
    kept = _Step(s.hessian, s.positive, s.hessian, s.factor, s.pinned, old, jnp.array(False))
    return lax.cond(serves, lambda: kept, lambda: _new_step(problem, args, box, pinned, s))


def _new_step(problem: Problem, args: Any, box: Box, pinned: Array, s: _State) -> _Step:
    """Factorizes and solves; parameters that would cross a bound are put on it and the rest is solved again."""
    hessian, positive = lax.cond(
        s.stale, lambda: problem.curvatures(s.y, args, s.multipliers), lambda: (s.hessian, s.positive)
    )
    diagonal = jnp.diagonal(positive)
    largest = jnp.max(jnp.where(pinned, 0.0, diagonal))
    # An objective that is linear in all that can move has no scale of its own.
    scale = jnp.maximum(diagonal, jnp.where(largest > 0, 1e-6 * largest, 1.0))
    shift = s.damping * scale

    def crossing(pinned: Array, p: Array) -> Array:
        return ~pinned & ((s.y + p < box.lower) | (s.y + p > box.upper))

    def more(carry: tuple[Array, ...]) -> Array:
        k, _, pinned, _, _, p = carry
        return (k < _BOX_ROUNDS) & (crossing(pinned, p).any() | ~jnp.isfinite(p).all())

    def again(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        k, exact, pinned, fixed, _, p = carry
        # A factorization that failed (never in the first round, where p is still unset) asks for the stand-in.
        exact = exact & ((k == 0) | jnp.isfinite(p).all())
        over = crossing(pinned, p)
        fixed = jnp.where(over, jnp.clip(s.y + p, box.lower, box.upper) - s.y, fixed)
        pinned = pinned | over
        matrix = jnp.where(exact, hessian, positive)
        factor = cholesky(masked(matrix, pinned, shift))
        rhs = jnp.where(pinned, fixed, -(s.gradient + matrix @ fixed))
        return k + 1, exact, pinned, fixed, factor, solve(factor, rhs)

    zero = jnp.zeros_like(s.y)
    first = (jnp.array(0), jnp.array(True), pinned, zero, s.factor, jnp.full_like(s.y, jnp.nan))
    _, exact, pinned, _, factor, p = lax.while_loop(more, again, first)
    return _Step(hessian, positive, jnp.where(exact, hessian, positive), factor, pinned, p, jnp.array(True))


def covariance(hessian: Array, pinned: Array) -> Array:
    """Inverse of the Hessian in the parameters that can move, zero elsewhere; NaN if it is not positive definite."""
    n = hessian.shape[0]
    inverse = solve(cholesky(masked(hessian, pinned)), jnp.eye(n, dtype=hessian.dtype))
    free = ~pinned
    return jnp.where(free[:, None] & free[None, :], 0.5 * (inverse + inverse.T), 0.0)


__all__ = ["Box", "Minimum", "Problem", "active", "cholesky", "covariance", "masked", "minimize", "solve", "tolerance"]
