"""The driver: it makes the fits that questions ask for, and is the only one that does.

A question says which fits it needs next (``ask``) and what follows from them (``tell``), until it is ``done``. The
driver owns everything else: the loop, the unconditional fit that comes first, the starts of every fit, and the rule
that a conditional fit that ends below the unconditional one leads it to the minimum that it missed; the question then
begins again. So two questions never give two values for one number.

Under a JAX transformation the loop is one of XLA's. With concrete arguments it runs on the host, around one compiled
function that makes fits: all questions share it, so that the minimizer is compiled once for each structure.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from .._base._compiled import Packed, packed_while
from .._likelihood._protocol import Likelihood
from ._host import Told, answer_on_host, fit_on_host, on_host
from ._near import near_rows
from ._points import blank_rows
from ._question import Course, Question, advanced, begins_near, initial, wanted_of
from ._rows import Facts, First, Known, Look, Rows, found_layout, make_rows


def ask(question: Question, facts: Facts, start: Any = None) -> Told:
    """The answer to a question, differentiable with respect to question and facts, and what ended on a bound.

    Args:
        question: The question.
        facts: What it is about.
        start: Where the unconditional fit begins, shape (n_params,); the initial parameters by default.
    """
    start = facts.likelihood.init if start is None else start
    told = question, facts, start
    if all_concrete(told):
        return answer_on_host(*told)
    calm, known, begin = jax.tree.map(stopped, told)
    if not all_concrete((calm, known, begin)):
        return Told(_answered(question, facts, traced(calm, known, begin)))
    asker, course, spread, _ = on_host(calm, known, begin, known.likelihood.frozen)
    told = asker.course.unpack(Packed(*map(np.asarray, course)))
    return Told(_answered(question, facts, told._replace(spread=spread)))


@jax.jit
def _answered(question: Question, facts: Facts, course: Course) -> Any:
    return question.answer(facts, course)


def stopped(x: Any) -> Any:
    """``x`` without derivatives."""
    return lax.stop_gradient(x) if isinstance(x, Tracer) else x


def all_concrete(tree: Any) -> bool:
    """Whether no leaf of a tree is traced."""
    return not any(issubclass(kind, Tracer) for kind in set(map(type, jax.tree.leaves(tree))))


@jax.jit
def traced(question: Question, facts: Facts, start: Array) -> Course:
    """The loop inside a JAX transformation: for the driver, and for what makes fits inside a program of its own."""
    layout = found_layout(facts)
    near = begins_near(question, facts.likelihood)
    known = Known.of(facts.likelihood, facts.poi, facts.data)

    def body(course: Course) -> Course:
        rows, asimov, look = wanted_of(question, facts, course, 1)
        mine = jax.tree.map(lambda x: x[:1], rows) if near else rows
        found, first = make_rows(
            facts.likelihood, known, (facts.data, asimov), mine, look, flat=question.flat,
            # The unconditional fit is never made beside others.
            only=len(mine.wanted) <= 2,
        )  # fmt: skip
        made = layout.unpack(found)
        if near:
            others = jax.tree.map(lambda x: x[1:], rows)
            nothing = blank_rows(facts.likelihood, facts.data, len(others.wanted))
            minimum = course.first.found.minimum
            many = lax.cond(
                course.begun,
                lambda: near_rows(facts.likelihood, facts.poi, facts.data, others, minimum),
                lambda: nothing,
            )
            made = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), made, many)
        return advanced(question, facts, course, made, first)

    return packed_while(lambda course: ~course.done, body, initial(question, facts, start), ("spread",))


def fit_once(likelihood: Likelihood, poi: Any, data: Any, start: Any, *, full: bool) -> First:
    """One unconditional fit, and its covariance if ``full``; on the host or traced, not differentiated."""
    if not all_concrete((likelihood, data, start)):
        likelihood, data, start = jax.tree.map(stopped, (likelihood, data, start))
        if not all_concrete((likelihood, data, start)):
            return _fit_traced(likelihood, data, start, poi, full=full)
    return fit_on_host(likelihood, data, start, int(poi), full=full)


@partial(jax.jit, static_argnames="full")
def _fit_traced(likelihood: Likelihood, data: Array, start: Array, poi: Any, *, full: bool) -> First:
    frozen = likelihood.frozen > 0
    rows = Rows.of(start[None], frozen[None])
    look = Look(jnp.array(False), jnp.array([-1, -1]), jnp.array(True) if full else False)
    known = Known.of(likelihood, poi, data)
    return make_rows(likelihood, known, (data, data), rows, look, flat=not full, only=True)[1]
