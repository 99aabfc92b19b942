"""Questions: what asks for fits, and where the driver is with it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array

from .._base._compiled import choose
from .._base._doors import pytree
from .._likelihood._common import Common
from .._minimize import _status
from .._minimize._matrix import either
from ._result import static
from ._rows import Facts, First, Look, Rows, no_spread
from ._search import Found, margin, no_fit

# How often a conditional fit may lead the unconditional one to a lower minimum.
_RESTARTS = 3
# Parameters up to which fits are made one by one.
_SMALL = 64


class Ask(NamedTuple):
    """The fits that a question wants next: ``rows``, and the second data set."""

    rows: Rows
    asimov: Array


class Question:
    """What asks for fits: a frozen pytree of arrays with a few lines of statistics.

    Attributes:
        needs_free: Whether the unconditional fit is needed in any case. Without it, it is made where the likelihood may
            have several minima, as a start for the others.
        flat: Whether nothing of the curvature is needed.
        full: Whether the whole covariance at the unconditional fit is needed.
        near: Whether the fits are many and begin near their minima, in the quadratic approximation about the
            unconditional fit.
    """

    needs_free: ClassVar[bool] = True
    flat: ClassVar[bool] = True
    full: ClassVar[bool] = False
    near: ClassVar[bool] = False

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """Indices of two parameters of which columns of the covariance are needed (that of the first fit), or -1."""
        del facts
        return -1, -1

    @abstractmethod
    def begin(self, facts: Facts, first: First) -> Any:
        """The state after the unconditional fit."""

    @abstractmethod
    def ask(self, facts: Facts, state: Any) -> Ask:
        """The fits that are needed next."""

    @abstractmethod
    def tell(self, facts: Facts, state: Any, first: First, found: Found) -> Any:
        """The state after these fits."""

    @abstractmethod
    def done(self, state: Any) -> Array:
        """Whether nothing more is needed."""

    @abstractmethod
    def answer(self, facts: Facts, course: Course) -> Any:
        """A tree of arrays: what follows from all fits, settled, so that it has its derivatives."""

    def widened(self, common: Common) -> Question:
        """The question to a likelihood in common form: arrays over parameters are as long as there."""
        del common
        return self

    def narrowed(self, common: Common, answer: Any) -> Any:
        """The answer about the likelihood itself, from the one in common form."""
        del common
        return answer


Q = TypeVar("Q", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def question(cls: Q) -> Q:
    """Makes a class a question: a frozen pytree."""
    return pytree(dataclass(frozen=True)(cls))


class Alone(Question):
    """A question that the unconditional fit answers without another."""

    def begin(self, facts: Facts, first: First) -> tuple[()]:
        """Nothing is left to find out."""
        return ()

    def ask(self, facts: Facts, state: Any) -> Ask:
        """For no fit."""
        nothing = jnp.zeros((0, facts.likelihood.init.shape[0]), facts.likelihood.init.dtype)
        return Ask(Rows.of(nothing, nothing > 0), facts.data)

    def tell(self, facts: Facts, state: Any, first: First, found: Found) -> Any:
        """Nothing new."""
        return state

    def done(self, state: Any) -> Array:
        """At once."""
        return jnp.array(True)


class Course(NamedTuple):
    """Where the driver is with a question.

    Attributes:
        first: The unconditional fit.
        state: The question's own.
        begun: Whether the unconditional fit is made, as far as is known.
        lead: Where it begins if not.
        restarts: How often it was made again.
        n_fits: Minimizations made.
        above: The least distance to another minimum that any of the fits found; +inf for none.
        done: Whether the question is.
        spread: The covariance at the unconditional fit, or None where it is not needed.
    """

    first: First
    state: Any
    begun: Array
    lead: Array
    restarts: Array
    n_fits: Array
    above: Array
    done: Array
    spread: Any = None


def begins_near(question: Question, likelihood: Any) -> bool:
    """Whether its fits are made in batches: those of small likelihoods take no longer one by one."""
    return question.near and likelihood.init.shape[0] > _SMALL


def initial(question: Question, facts: Facts, start: Array) -> Course:
    """Before anything is known."""
    likelihood = facts.likelihood
    n = likelihood.init.shape[0]
    dtype = likelihood.init.dtype
    found = no_fit(likelihood, facts.data)
    value = found.minimum.value
    spread = no_spread(likelihood, facts.data) if question.full else None
    first = First(found, value, value, None, None, jnp.zeros((2, n), dtype))
    zero = jnp.array(0)
    no, high = jnp.array(False), jnp.full((), jnp.inf, dtype)
    state = question.begin(facts, first._replace(spread=spread))
    return Course(first, state, no, start, zero, zero, high, no, spread)


def wanted_of(question: Question, facts: Facts, course: Course, pad: int) -> tuple[Rows, Array, Look]:
    """The fits that come next, their number a multiple of ``pad``, the unconditional one first; the second data set."""
    likelihood = facts.likelihood
    ask = question.ask(facts, course.state)
    frozen = likelihood.frozen > 0
    mine = Rows.of(course.lead[None], frozen[None], wanted=~course.begun)
    theirs = ask.rows._replace(wanted=ask.rows.wanted & course.begun & ~course.done)
    rows = Rows(*(jnp.concatenate([a, b]) for a, b in zip(mine, theirs, strict=True)))
    missing = -len(rows.wanted) % pad
    rows = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros((missing, *x.shape[1:]), x.dtype)]), rows)
    look = Look(
        jnp.array(not question.needs_free),
        jnp.where(course.begun, -1, jnp.asarray(question.columns(facts))),
        ~course.begun if question.full else False,
    )
    return rows, ask.asimov, look


def advanced(question: Question, facts: Facts, course: Course, found: Found, first: First) -> Course:
    """What follows from fits: the unconditional one is known, or it has to be made again, or the question goes on."""
    ask = question.ask(facts, course.state)
    rows = ask.rows
    mine = jax.tree.map(lambda x: x[1 : 1 + len(rows.wanted)], found)
    lead = _lowest(facts, mine, rows)
    made = course.first.found.n_fits > 0
    highest = course.first.found.minimum.value
    missed = course.begun & made & (lead.value < highest - margin(highest)) & (course.restarts < _RESTARTS)
    lower = ~made | (first.found.minimum.value <= highest)
    better = ~course.begun & lower
    newest = choose(better, first._replace(held=None, on_bound=None, spread=None), course.first)
    spread = either(better, first.spread, course.spread) if question.full else None
    begun = question.begin(facts, newest._replace(spread=spread))
    told = question.tell(facts, course.state, course.first, mine)
    state = choose(course.begun, choose(missed, course.state, told), begun)
    return Course(
        first=newest,
        state=state,
        begun=~missed,
        lead=jnp.where(missed, lead.y, course.lead),
        restarts=course.restarts + missed,
        n_fits=course.n_fits + found.n_fits.sum(),
        above=jnp.minimum(
            jnp.minimum(course.above, found.above.min()), jnp.where(missed, highest - lead.value, jnp.inf)
        ),
        done=~missed & question.done(state),
        spread=spread,
    )


def _lowest(facts: Facts, found: Found, rows: Rows) -> Any:
    """The lowest of the fits to the data that the unconditional fit could have found."""
    likelihood, minima = facts.likelihood, found.minimum
    inside = ((minima.y >= likelihood.lower) & (minima.y <= likelihood.upper) | (likelihood.frozen > 0)).all(1)
    counts = rows.wanted & ~rows.on_asimov & inside & (minima.status == _status.CONVERGED)
    if not len(rows.wanted):
        return no_fit(likelihood, facts.data).minimum
    place = jnp.argmin(jnp.where(counts, minima.value, jnp.inf))
    lowest = jax.tree.map(lambda x: x[place], minima)
    return lowest._replace(value=jnp.where(counts.any(), lowest.value, jnp.inf))
