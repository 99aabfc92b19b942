"""One fit: the minimizer on a likelihood, from as many starts as the likelihood asks for; the lowest minimum counts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from .._base._compiled import choose, packed_while
from .._base._numerics import lightly
from .._likelihood._protocol import Attempts, Likelihood
from .._minimize import _status
from .._minimize._box import Box
from .._minimize._matrix import Symmetric
from .._minimize._newton import Minimum, Problem, minimize, no_matrix, nothing_kept

# A deviance that is as good as zero: there is nothing below.
LEAST_WORTH = 1e-6
# By how much a difference of NLLs may have to be lifted to 0 before it says that a fit missed its minimum.
DEFICIT = 1e-3
# Two values closer than this belong to one minimum, as far as choosing the lower one goes.
_SAME = 1e-9


def _evaluate(y: Array, args: Any, z: Array) -> tuple[Array, Array, Any, Any]:
    likelihood, data, barrier = args
    return likelihood.evaluate(y, data, barrier._replace(multipliers=z))


def _curvatures(y: Array, args: Any, z: Array, closing: Array) -> tuple[Symmetric, Symmetric]:
    likelihood, data, barrier = args
    still = jax.tree.map(lambda a, b: jnp.where(closing, a, b), likelihood.softened(z), barrier._replace(multipliers=z))
    return likelihood.curvatures(y, data, still)


def _tighten(aux: Any, args: Any, z: Array) -> tuple[Array, Array]:
    likelihood, data, barrier = args
    return likelihood.tighten(barrier._replace(multipliers=z), aux, data)


def _inside(aux: Any, args: Any) -> Array:
    likelihood, data, _ = args
    return likelihood.inside(aux, data)


def _bare(value: Array, aux: Any, args: Any, z: Array) -> Array:
    likelihood, data, barrier = args
    return likelihood.bare(value, barrier._replace(multipliers=z), aux, data)


PROBLEM = Problem(_evaluate, _curvatures, _tighten, _inside, _bare)


class Found(NamedTuple):
    """The result of one fit.

    Attributes:
        minimum: The lowest minimum that was found.
        above: By how much the next higher minimum that another start found lies above it; +inf for none.
        n_fits: How many minimizations were made.
    """

    minimum: Minimum
    above: Array
    n_fits: Array


def margin(value: Array) -> Array:
    """By how much one NLL must lie below another to say more than rounding."""
    return jnp.maximum(1e-6, 100.0 * float(jnp.finfo(value.dtype).eps) * (1.0 + jnp.abs(value)))


def judged(status: Array, deficit: Array) -> Array:
    """How fits ended, where the unconditional one lies ``deficit`` of the NLL above a conditional one.

    Beyond ``DEFICIT`` it has missed its minimum, whatever its own status.
    """

    def of(xp: Any, status: Any, deficit: Any) -> Any:
        return xp.where((status == _status.CONVERGED) & (deficit > DEFICIT), _status.INCONSISTENT, status)

    return lightly(of, status, deficit)


def box_of(likelihood: Likelihood, held: Array) -> Box:
    """The bounds, with what is held."""
    return Box(likelihood.lower, likelihood.upper, held, likelihood.kinks)


def no_fit(likelihood: Likelihood, data: Array) -> Found:
    """In place of a fit that has not been made."""
    high, zero = jnp.full((), jnp.inf, likelihood.dtype), jnp.array(0)
    barrier = likelihood.barrier()
    z = barrier.multipliers
    aux = nothing_kept(PROBLEM, likelihood.init, (likelihood, data, barrier), z)
    running = jnp.array(_status.RUNNING)
    kinked = None if likelihood.kinks is None else jnp.zeros_like(likelihood.init)
    minimum = Minimum(likelihood.init, high, likelihood.init, z, high, running, zero, jnp.array(False), aux, kinked)
    return Found(minimum, high, zero)


def no_hessian(likelihood: Likelihood, data: Array) -> Symmetric:
    """In place of one."""
    barrier = likelihood.barrier()
    return no_matrix(PROBLEM, likelihood.init, (likelihood, data, barrier), barrier.multipliers)


class _Task(NamedTuple):
    """One minimization."""

    likelihood: Any
    data: Array
    start: Array
    held: Array
    curved: Any
    wanted: Array


@jax.tree_util.register_static
class _Never:
    """False, as part of a program's structure."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Never)

    def __hash__(self) -> int:
        return 0


def _minimize(task: _Task, *, alone: bool) -> tuple[Minimum, Symmetric]:
    likelihood = task.likelihood
    curved = False if isinstance(task.curved, _Never) else task.curved
    barrier, box = likelihood.barrier(), box_of(likelihood, task.held)._replace(poles=likelihood.poles(task.data))
    minimum, hessian = minimize(
        PROBLEM, task.start, (likelihood, task.data, barrier), box, barrier.multipliers,
        fallback=likelihood.init, curved=curved, wanted=task.wanted, alone=alone,
    )  # fmt: skip
    stayed = ~task.held & (minimum.y == jnp.clip(task.start, box.lower, box.upper))
    stranded = likelihood.stranded(minimum.y, stayed, minimum.aux, task.data) & (minimum.status == _status.CONVERGED)
    return minimum._replace(status=jnp.where(stranded, _status.STRANDED, minimum.status)), hessian


@lru_cache(maxsize=64)
def _solver(treedef: Any) -> Any:
    """The minimizer as a function of flat arguments, with a way of its own for batches."""

    @custom_vmap
    def one(*leaves: Array) -> tuple[Minimum, Symmetric]:
        return _minimize(jax.tree.unflatten(treedef, leaves), alone=True)

    @one.def_vmap
    def batch(axis_size: int, batched: Any, *leaves: Array) -> tuple[Any, Any]:
        def each(*leaves: Array) -> tuple[Minimum, Symmetric]:
            return _minimize(jax.tree.unflatten(treedef, leaves), alone=False)

        axes = [0 if mapped else None for mapped in batched]
        minima = jax.vmap(each, in_axes=axes, axis_size=axis_size)(*leaves)
        return minima, jax.tree.map(lambda _: True, minima)

    return one


def solve(
    likelihood: Likelihood, data: Array, start: Array, held: Array, curved: Array | bool = False, wanted: Any = True
) -> tuple[Minimum, Symmetric]:
    """One minimization, and the Hessian: the one at its end if ``curved``. Not to be differentiated."""
    # Whether that one is wanted is part of the program where it never is.
    task = _Task(likelihood, data, start, held, _Never() if curved is False else curved, jnp.asarray(wanted))
    leaves, treedef = jax.tree.flatten(task)
    return _solver(treedef)(*leaves)


class _Tried(NamedTuple):
    """State of a search."""

    found: Found
    hessian: Symmetric
    trust: Array
    attempt: Array  # -1 is the given start
    staged: Array  # the first half of an attempt is done: what was held is let go
    y: Array  # where that half ended
    more: Array


def search(
    likelihood: Likelihood,
    data: Array,
    start: Array,
    held: Array,
    attempts: Attempts,
    *,
    bent: bool = True,
    curved: Array | bool = False,
    wanted: Array | bool = True,
) -> tuple[Found, Symmetric]:
    """The lowest minimum from the given start and from the attempts that are worth making.

    Args:
        likelihood: The likelihood.
        data: The data.
        start: Where the first minimization begins, shape (n_params,); it holds the values of held parameters.
        held: What is held, boolean, shape (n_params,).
        attempts: Further starts, as the likelihood gives them.
        bent: Whether any Hessian is wanted.
        curved: Whether the one at the minimum is. Otherwise it is the one of the last step, which costs nothing.
        wanted: Whether anything is.

    Returns:
        What was found, and the Hessian.
    """
    points = jnp.where(held, start, attempts.points)
    before = jnp.concatenate([start[None], points[:-1]])
    again = ((points == before).all(1) | (points == start).all(1)) & ~attempts.first.any(1)
    possible = ~again & ~(attempts.first & held).any(1)
    worth = jnp.where(possible, attempts.worth, jnp.inf)
    nothing = no_fit(likelihood, data)
    state = _Tried(
        nothing, no_hessian(likelihood, data), jnp.full((), jnp.inf, start.dtype), jnp.array(-1), jnp.array(False),
        start, jnp.asarray(wanted),
    )  # fmt: skip

    def body(s: _Tried) -> _Tried:
        k = jnp.maximum(s.attempt, 0)
        given = s.attempt < 0
        two = ~given & attempts.first[k].any()
        half = two & ~s.staged
        begin = jnp.where(given, start, jnp.where(s.staged, s.y, points[k]))
        hold = jnp.where(half, held | attempts.first[k], held)
        minimum, hessian = solve(
            likelihood, data, begin, hold, curved if curved is False else jnp.asarray(curved) & ~half, s.more
        )
        trust = likelihood.trust(minimum.y)
        trust = jnp.zeros_like(s.trust) if trust is None else trust
        found, better = _with(s, minimum, trust, half)
        best = found.minimum
        later = jnp.arange(len(worth)) > s.attempt
        # What failed is tried again from wherever it can be.
        useful = later & possible & ((best.status != _status.CONVERGED) | (best.value > worth))
        some = useful.any()
        return _Tried(
            found=found,
            hessian=lax.cond(better, lambda: hessian, lambda: s.hessian) if bent else s.hessian,
            trust=jnp.where(better, trust, s.trust),
            attempt=jnp.where(half, s.attempt, jnp.argmax(useful)),
            staged=half,
            y=jnp.where(half, minimum.y, s.y),
            more=half | some,
        )

    end = packed_while(lambda s: s.more, body, state, ("hessian",))
    minimum = end.found.minimum
    # Whatever a likelihood makes of data that are no numbers, it is no success.
    known = jnp.isfinite(data).all() | (minimum.status != _status.CONVERGED)
    status = jnp.where(known, minimum.status, _status.INVALID)
    return end.found._replace(minimum=minimum._replace(status=status)), end.hessian


def _with(s: _Tried, minimum: Minimum, trust: Array, half: Array) -> tuple[Found, Array]:
    """What is known after one more minimization, and whether it is the best."""
    best = s.found.minimum
    good, had = minimum.status == _status.CONVERGED, best.status == _status.CONVERGED
    below = minimum.value < best.value - _SAME
    lower = (trust < s.trust) | ((trust == s.trust) & below)
    first = s.attempt < 0
    better = ~half & (first | jnp.where(good == had, lower, good))
    both = good & had & ~half & (trust == s.trust)
    gap = jnp.abs(minimum.value - best.value)
    other = both & (gap > margin(best.value))
    above = jnp.where(
        better, jnp.where(other, gap, jnp.inf), jnp.where(other, jnp.minimum(s.found.above, gap), s.found.above)
    )
    above = jnp.where(better & ~other & had, s.found.above, above)
    # Of the starts, the given one is the user's.
    chosen = choose(better, minimum, best)._replace(moved=jnp.where(first, minimum.moved, best.moved))
    return Found(chosen, above, s.found.n_fits + 1), better
