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
- A kink of the objective at 0 of a parameter is a bound of the side that the parameter is on; on the kink, the slopes
  of both sides say whether it stays.
- It ends when the estimated vertical distance to the minimum, ``EDM = g H^-1 g / 2``, is below the tolerance.

Most of the time of a first fit is compilation, so the objective and its Hessian stand in the loop once: its passes also
look for a start where the objective is finite, and look at the minimum at last.

References:
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), chapters 4, 6, 16 and 17; the EDM is Minuit's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._base._compiled import packed_while
from . import _status
from ._box import Box, active
from ._matrix import Factor, Symmetric, blank, either

MAX_STEPS = 500
_REUSE = 0.1
_DAMPING_START = 1e-3
_DAMPING_END = 1e-7
_DAMPING_LIMIT = 1e10
_BOX_ROUNDS = 6
_START_HALVINGS = 12


class Problem(NamedTuple):
    """What is minimized. Every function takes the arguments as its second argument.

    Attributes:
        evaluate: Of the point y and the multipliers of the constraints: the value (+inf outside the domain), the
            gradient, what the last two functions need of the point, and, where the box has kinks, half of what the
            slope jumps by at each: the gradient on a kink is the mean of its sides.
        curvatures: Of the same, and whether the minimum has been found: the exact Hessian and a positive semidefinite
            stand-in for it, of one kind of matrix. Steps use the exact one wherever it is positive definite. At the
            minimum the constraints stand still.
        tighten: Of what ``evaluate`` kept, and the multipliers: updated multipliers, shape (m,), and by how much the
            worst constraint is violated, in units of what may be ignored. Called at minima.
        inside: Of what ``evaluate`` kept: whether the point is in the domain, where the value with what keeps a
            minimization there may be finite outside.
        bare: Of a value, what ``evaluate`` kept, and the multipliers: the objective itself, without what keeps a
            minimization inside its domain.
    """

    evaluate: Callable[[Array, Any, Array], tuple[Array, Array, Any, Any]]
    curvatures: Callable[[Array, Any, Array, Array], tuple[Symmetric, Symmetric]]
    tighten: Callable[[Any, Any, Array], tuple[Array, Array]]
    inside: Callable[[Any, Any], Array]
    bare: Callable[[Array, Any, Any, Array], Array]


class Minimum(NamedTuple):
    """Where a minimization ended.

    Attributes:
        y: Point, shape (n,).
        value: Objective there, without what kept the minimization inside its domain.
        gradient: Gradient there, shape (n,), with the push of the constraints.
        multipliers: Multipliers of the constraints, shape (m,); zero where a constraint is not active.
        edm: Estimated vertical distance to the minimum at the last step.
        status: Code of ``_status``.
        num_steps: Iterations.
        moved: Whether the objective itself was not finite at the starting point.
        aux: What ``evaluate`` kept of the point.
        kinked: Positive for parameters that lie on a kink, which holds them, else 0, shape (n,); None without kinks.
            The objective rises on both sides: where it does so the slower, by 1/2 at ``1 / sqrt(kinked)``.
    """

    y: Array
    value: Array
    gradient: Array
    multipliers: Array
    edm: Array
    status: Array
    num_steps: Array
    moved: Array
    aux: Any
    kinked: Any = None


# What the next pass of the loop is for: to find a start, to make a step, to evaluate the same point once more because
# the multipliers changed, or to look at the point where the minimization ended.
_BEGIN, _GO, _AGAIN, _CLOSE, _DONE = range(5)


class _State(NamedTuple):
    y: Array
    value: Array
    gradient: Array
    hessian: Symmetric
    positive: Symmetric
    factor: Factor
    pinned: Array
    damping: Array
    factored_at: Array  # damping in the factorization
    stale: Array  # the Hessian belongs to an earlier point
    usable: Array  # the factorization may serve again
    struggled: Array  # a step from this point has failed
    multipliers: Array
    purpose: Array  # of the next pass
    halvings: Array  # of the way to the start
    moved: Array
    edm: Array
    status: Array
    num_steps: Array
    aux: Any
    kinked: Any


_MATRICES = ("hessian", "positive", "factor")


class _There(NamedTuple):
    """One evaluation; the last as in ``Minimum``."""

    value: Array
    gradient: Array
    aux: Any
    kinked: Any


class _Step(NamedTuple):
    hessian: Symmetric
    positive: Symmetric
    matrix: Symmetric  # which of the two was factorized
    factor: Factor
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


def minimize(
    problem: Problem,
    start: Array,
    args: Any,
    box: Box,
    multipliers: Array,
    *,
    fallback: Array | None = None,
    max_steps: int = MAX_STEPS,
    curved: Array | bool = False,
    wanted: Array | bool = True,
    alone: bool = True,
) -> tuple[Minimum, Symmetric]:
    """Minimizes ``problem`` inside ``box``.

    Args:
        problem: Objective with gradient and Hessian.
        start: Starting point, shape (n,); it is moved into the bounds.
        args: Passed to the functions of ``problem``.
        box: Bounds and frozen parameters. Frozen parameters keep their starting value, bounds or not.
        multipliers: First guess of the constraints' multipliers, shape (m,); zero if nothing is known.
        fallback: Where the objective is not finite at ``start``, the start is moved towards this point.
        max_steps: Iterations after which to give up.
        curved: Whether the Hessian at the minimum is wanted, and not that of the last step.
        wanted: Whether anything is: a minimization that is not wanted costs nothing and means nothing.
        alone: Whether one problem is solved at a time. A factorization then serves for several steps, and a first and a
            last pass of the loop save compilation. In a batch, where each pass computes everything, both would only
            make for more passes.

    Returns:
        ``Minimum``, and the Hessian. It never raises, and a NaN never reads as convergence.
    """
    start = jnp.where(box.frozen, start, jnp.clip(start, box.lower, box.upper))
    aim = start if fallback is None else jnp.where(box.frozen, start, jnp.clip(fallback, box.lower, box.upper))
    none, zero = no_matrix(problem, start, args, multipliers), jnp.zeros((), start.dtype)
    state = _State(
        y=start,
        value=zero + jnp.inf,
        gradient=jnp.zeros_like(start),
        hessian=none,
        positive=none,
        factor=none.unit_factor(),
        pinned=box.frozen,
        damping=zero,
        factored_at=zero,
        stale=jnp.array(True),
        usable=jnp.array(False),
        struggled=jnp.array(False),
        multipliers=multipliers,
        purpose=jnp.where(wanted, _BEGIN, _DONE),
        halvings=jnp.array(0),
        moved=jnp.array(False),
        edm=zero + jnp.inf,
        status=jnp.array(_status.RUNNING),
        num_steps=jnp.array(0),
        aux=nothing_kept(problem, start, args, multipliers),
        kinked=None if box.kinks is None else jnp.zeros_like(start),
    )
    loop = _Loop(problem, args, box, start, aim, max_steps, curved)
    if alone:
        state = packed_while(lambda s: s.purpose != _DONE, loop.any_pass, state, _MATRICES)
    else:
        state = packed_while(lambda s: s.purpose == _BEGIN, loop.begin, state, _MATRICES)
        state = packed_while(lambda s: (s.purpose == _GO) | (s.purpose == _AGAIN), loop.step, state, _MATRICES)
        state = loop.close(state)
    value = problem.bare(state.value, state.aux, args, state.multipliers)
    # What keeps a minimization inside its domain may have been given up before it did.
    valid = jnp.isfinite(value) | (state.status != _status.CONVERGED)
    status = jnp.where(valid, state.status, _status.INVALID)
    minimum = Minimum(
        state.y, value, state.gradient, state.multipliers, state.edm, status, state.num_steps, state.moved, state.aux,
        state.kinked,
    )  # fmt: skip
    return minimum, state.hessian


def nothing_kept(problem: Problem, y: Array, args: Any, multipliers: Array) -> Any:
    """What ``evaluate`` would keep of a point, before there is one."""
    return blank(jax.eval_shape(problem.evaluate, y, args, multipliers)[2])


def no_matrix(problem: Problem, y: Array, args: Any, multipliers: Array) -> Symmetric:
    """A Hessian of zeros."""
    return blank(jax.eval_shape(problem.curvatures, y, args, multipliers, jnp.array(False))[0])


class _Loop(NamedTuple):
    """What stays the same during a minimization, and the passes of its loop."""

    problem: Problem
    args: Any
    box: Box
    start: Array
    aim: Array
    max_steps: int
    curved: Array | bool

    def any_pass(self, s: _State) -> _State:
        """One pass, whatever it is for."""
        closing = s.purpose == _CLOSE
        step = self._step_of(s, closing)
        beginning = s.purpose == _BEGIN
        y = jnp.where(beginning, self._trial(s.halvings), self._moved(s, step))
        there = self._look(y, s.multipliers)
        after = _judged(self, s, step, y, there)
        begun = _begun(self, s, y, there)
        closed = s._replace(purpose=jnp.array(_DONE))

        def pick(a: Array, b: Array, c: Array) -> Array:
            return jnp.where(beginning, a, jnp.where(closing, b, c))

        rest = {name: getattr(step, name) for name in _MATRICES}  # those of the step in any case
        picked = jax.tree.map(pick, *(x._replace(**dict.fromkeys(_MATRICES)) for x in (begun, closed, after)))
        # A last pass is for the Hessian.
        over = (picked.purpose == _CLOSE) & ~jnp.asarray(self.curved)
        return picked._replace(purpose=jnp.where(over, _DONE, picked.purpose), **rest)

    def begin(self, s: _State) -> _State:
        """One trial of a start."""
        y = self._trial(s.halvings)
        return _begun(self, s, y, self._look(y, s.multipliers))

    def step(self, s: _State) -> _State:
        """One step."""
        step = self._fresh(s, jnp.array(False))
        y = self._moved(s, step)
        return _judged(self, s, step, y, self._look(y, s.multipliers))

    def close(self, s: _State) -> _State:
        """The Hessian where the minimization ended, if that one is wanted."""
        if self.curved is False:
            return s
        hessian = lax.cond(
            self.curved,
            lambda: self.problem.curvatures(s.y, self.args, s.multipliers, jnp.array(True))[0],
            lambda: s.hessian,
        )
        return s._replace(hessian=hessian)

    def _look(self, y: Array, multipliers: Array) -> _There:
        """An evaluation. On a kink the gradient is that of the side that leads down; 0 where neither does."""
        value, gradient, aux, jump = self.problem.evaluate(y, self.args, multipliers)
        if self.box.kinks is None:
            return _There(value, gradient, aux, None)
        right, left = gradient + jump, gradient - jump
        on = self.box.kinks & (y == 0)
        down = jnp.where((right < 0) & (-right >= left), right, jnp.where(left > 0, left, jnp.minimum(right, 0.0)))
        rise = jnp.where(on & (down == 0), jnp.minimum(right, -left), 0.0)
        kinked = jnp.where(rise > tolerance(y.dtype).near, 4.0 * rise * rise, 0.0)
        return _There(value, jnp.where(on, down, gradient), aux, kinked)

    def _trial(self, halvings: Array) -> Array:
        """Halves the way from ``aim`` to ``start``, and takes ``aim`` itself at last."""
        last = halvings >= _START_HALVINGS - 1
        way = jnp.where(halvings == 0, 1.0, jnp.where(last, 0.0, 0.5**halvings)).astype(self.start.dtype)
        # With a way of exactly 1 the start must come back unchanged, not rounded.
        return jnp.where(way == 1, self.start, self.aim + way * (self.start - self.aim))

    def _moved(self, s: _State, step: _Step) -> Array:
        box = self.box.around(s.y, s.gradient)
        good = jnp.isfinite(step.p).all() & (s.purpose == _GO)
        return jnp.where(good & ~box.frozen, jnp.clip(s.y + step.p, box.lower, box.upper), s.y)

    def _step_of(self, s: _State, closing: Array) -> _Step:
        """The step of the kept factorization if it still serves, else that of a new one."""
        box = self.box.around(s.y, s.gradient)
        pinned = active(box, s.y, s.gradient)
        rhs = jnp.where(pinned, 0.0, -s.gradient)
        old = s.factor.solve(rhs)
        inside = (s.y + old >= box.lower) & (s.y + old <= box.upper) | box.frozen
        shrinks = 0.5 * (rhs @ old) < _REUSE * s.edm
        serves = s.usable & shrinks & inside.all() & (pinned == s.pinned).all()
        needed = closing | ((s.purpose == _GO) & ~serves)
        kept = _Step(s.hessian, s.positive, s.hessian, s.factor, s.pinned, old, jnp.array(False))
        return lax.cond(needed, lambda: self._fresh(s, closing), lambda: kept)

    def _fresh(self, s: _State, closing: Array) -> _Step:
        """Factorizes and solves; parameters that would cross a bound are put on it and the rest is solved again."""
        box = self.box.around(s.y, s.gradient)
        pinned = active(box, s.y, s.gradient)
        hessian, positive = lax.cond(
            s.stale | closing,
            lambda: self.problem.curvatures(s.y, self.args, s.multipliers, closing),
            lambda: (s.hessian, s.positive),
        )
        diagonal = positive.diagonal
        largest = jnp.max(jnp.where(pinned, 0.0, diagonal))
        # An objective that is linear in all that can move has no scale of its own.
        scale = jnp.maximum(diagonal, jnp.where(largest > 0, 1e-6 * largest, 1.0))
        shift = s.damping * scale

        def crossing(pinned: Array, p: Array) -> Array:
            return ~pinned & ((s.y + p < box.lower) | (s.y + p > box.upper))

        def more(carry: tuple[Any, ...]) -> Array:
            k, _, pinned, _, _, p = carry
            # At the end only the Hessian is wanted.
            return ~closing & (k < _BOX_ROUNDS) & (crossing(pinned, p).any() | ~jnp.isfinite(p).all())

        def again(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            k, exact, pinned, fixed, _, p = carry
            # A factorization that failed (never in the first round, where p is still unset) asks for the stand-in.
            exact = exact & ((k == 0) | jnp.isfinite(p).all())
            over = crossing(pinned, p)
            fixed = jnp.where(over, jnp.clip(s.y + p, box.lower, box.upper) - s.y, fixed)
            pinned = pinned | over
            matrix = either(exact, hessian, positive)
            factor = matrix.factorized(pinned, shift)
            rhs = jnp.where(pinned, fixed, -(s.gradient + matrix.times(fixed)))
            return k + 1, exact, pinned, fixed, factor, factor.solve(rhs)

        first = (jnp.array(0), jnp.array(True), pinned, jnp.zeros_like(s.y), s.factor, jnp.full_like(s.y, jnp.nan))
        _, exact, pinned, _, factor, p = lax.while_loop(more, again, first)
        return _Step(hessian, positive, either(exact, hessian, positive), factor, pinned, p, jnp.array(True))


def _begun(loop: _Loop, s: _State, y: Array, there: _There) -> _State:
    """After the trial of a start."""
    value, gradient, aux, kinked = there
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    inside = finite & loop.problem.inside(aux, loop.args)
    halvings = s.halvings + 1
    failed = ~finite & (halvings >= _START_HALVINGS)
    return s._replace(
        y=y,
        value=value,
        gradient=gradient,
        halvings=halvings,
        moved=s.moved | ~inside,
        status=jnp.where(failed, _status.INVALID, s.status),
        purpose=jnp.where(finite, _GO, jnp.where(failed, _CLOSE, _BEGIN)),
        aux=aux,
        kinked=kinked,
    )


def _judged(loop: _Loop, s: _State, step: _Step, y: Array, there: _There) -> _State:
    """After a step: taken or not, and what comes next."""
    value, gradient, aux, kinked = there
    tol = tolerance(s.y.dtype)
    again = s.purpose == _AGAIN
    good = jnp.isfinite(step.p).all() & ~again
    p = y - s.y
    pinned = active(loop.box.around(s.y, s.gradient), s.y, s.gradient)
    edm = jnp.where(good, 0.5 * jnp.abs(jnp.where(pinned, 0.0, s.gradient * step.p).sum()), jnp.inf)
    near = edm < tol.near
    predicted = -(s.gradient @ p + 0.5 * p @ step.matrix.times(p))
    ratio = (s.value - value) / jnp.where(predicted > 0, predicted, 1.0)
    # Next to the minimum the rounding of the objective hides its decrease, but a Newton step is safe there.
    slack = tol.near * (1.0 + jnp.abs(s.value))
    lower = jnp.where(near, value <= s.value + slack, (predicted > 0) & (ratio > 1e-4))
    accept = (good & lower & jnp.isfinite(value) & jnp.isfinite(gradient).all()) | again
    ratio = jnp.where(near, 1.0, ratio)
    damping_used = jnp.where(step.fresh, s.damping, s.factored_at)
    # Or as far down as rounding lets it: a new factorization that no longer shrinks the EDM.
    at_end = (edm < tol.end) | (near & (s.edm < tol.near) & step.fresh & (edm > 0.1 * s.edm))
    minimum = accept & at_end & (damping_used <= _DAMPING_START)
    multipliers, violation = lax.cond(
        minimum,
        lambda: loop.problem.tighten(aux, loop.args, s.multipliers),
        lambda: (s.multipliers, jnp.zeros((), y.dtype)),
    )
    pushed = minimum & (violation > 1)
    num_steps = s.num_steps + 1
    struggled = jnp.where(accept, ~step.fresh & s.struggled, s.struggled | step.fresh)
    damping = _next_damping(s.damping, accept, ratio, step.fresh, near, s.struggled)
    damping = jnp.where(again, s.damping, damping)
    stalled, late = damping > _DAMPING_LIMIT, num_steps >= loop.max_steps
    status = jnp.where(
        minimum & ~pushed,
        _status.CONVERGED,
        jnp.where(stalled, _status.STALLED, jnp.where(late, _status.STEP_LIMIT, _status.RUNNING)),
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
        usable=accept & (ratio > 0.25) & (damping <= _DAMPING_START) & (damping_used <= _DAMPING_START) & ~again,
        struggled=struggled,
        multipliers=multipliers,
        purpose=jnp.where(status == _status.RUNNING, jnp.where(pushed, _AGAIN, _GO), _CLOSE),
        halvings=s.halvings,
        moved=s.moved,
        edm=edm,
        status=status,
        num_steps=num_steps,
        aux=jax.tree.map(lambda new, old: jnp.where(accept, new, old), aux, s.aux),
        kinked=None if kinked is None else jnp.where(accept, kinked, s.kinked),
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
