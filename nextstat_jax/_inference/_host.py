"""The driver's loop on the host, around one compiled function that makes fits.

All questions share that function, so that the minimizer is compiled once for each structure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base._compiled import Compiled, Layout, Packed
from .._minimize import _status
from ._near import near_rows
from ._question import Question, advanced, begins_near, initial, wanted_of
from ._rows import Extra, Facts, First, Look, Rows, first_of, found_layout, make_rows
from ._statistics import STATISTICS

# Fits of one call of the compiled function; it makes those that are wanted. XLA hands parts of a program to other
# threads unless all its buffers are small, which takes longer than computing them: very small likelihoods get fewer.
_CAPACITY, _FEWER = 8, 4
_SMALL_BYTES = 512
# Structures of likelihoods whose programs are kept in memory; each takes some 60 MB and 400 of the 65,000 memory maps
# that a Linux process may have. Those of the others come from the disk, or are compiled again.
_MODELS = 16


class Task(NamedTuple):
    """What the compiled function is told beside likelihood and data, packed so that a part of the rows is a slice.

    Attributes:
        start: As in ``Rows``, shape (rows, n_params).
        flags: What is held, and the three flags of a row, in the order of ``Rows``; integers of shape
            (rows, n_params + 3).
        head: Index of the parameter of interest, and ``Look``; integers of shape (5,).
    """

    start: Any
    flags: Any
    head: Any


def _packed(poi: Any, rows: Rows, look: Look) -> Task:
    columns = (flag[:, None] for flag in (rows.on_asimov, rows.wanted, rows.follows))
    flags = jnp.concatenate([rows.held, *columns], axis=1).astype(np.int32)
    return Task(rows.start, flags, jnp.stack([poi, look.if_needed, *look.columns, look.full]).astype(np.int32))


def _unpacked(task: Task) -> tuple[Array, Rows, Look]:
    rows = Rows(task.start, task.flags[:, :-3] > 0, *(task.flags[:, k] > 0 for k in (-3, -2, -1)))
    return task.head[0], rows, Look(task.head[1] > 0, task.head[2:4], task.head[4] > 0)


def _one(count: int, start: Any, frozen: Any, head: Any) -> Task:
    """The task of one unconditional fit, in a call that can make several."""
    n = len(start)
    starts, flags = np.zeros((count, n), start.dtype), np.zeros((count, n + 3), np.int32)
    starts[0] = start
    flags[0, :n] = frozen > 0
    flags[0, -2] = 1
    return Task(starts, flags, np.array(head, np.int32))


class _Made(NamedTuple):
    """What came of a task: the fits, packed, and what is known of the first of them beside that."""

    found: Packed
    extra: Packed
    first: Any


class _Maker:
    """The compiled function that makes fits of likelihoods of one form, and how its arguments are packed."""

    def __init__(self, likelihood: Any, data: Any) -> None:
        n, dtype = likelihood.init.shape[0], np.dtype(likelihood.init.dtype)
        self.found = found_layout(Facts(likelihood, None, data))
        width = sum(int(np.prod(shape)) for shape, kind in self.found.leaves if kind.kind == "f")
        self.capacity = _FEWER if _FEWER * width * dtype.itemsize <= _SMALL_BYTES else _CAPACITY
        self.extra = Layout.of(Extra(np.zeros((), dtype), np.zeros((2, n), dtype)))
        self.make = Compiled(self._make)
        nothing = jax.tree.unflatten(self.found.treedef, [np.zeros(*leaf) for leaf in self.found.leaves])
        minimum = nothing.minimum._replace(value=np.inf, status=_status.RUNNING)
        nothing = self.found.packed(nothing._replace(minimum=minimum, above=np.inf))
        # In place of fits that are not made.
        self.blank = Packed(*(np.broadcast_to(x, (self.capacity, *x.shape)) for x in nothing))
        self._last: tuple[Any, ...] = (None,)

    def _make(self, likelihood: Any, data: Array, asimov: Array, task: Task) -> tuple[Packed, Packed, First]:
        poi, rows, look = _unpacked(task)
        found, first = make_rows(likelihood, poi, (data, asimov), rows, look)
        extra = self.extra.pack(Extra(first.constant, first.columns))
        # The arrays of a fit's result come out one by one: to take them apart later would take longer.
        return found, extra, first

    def one_fit(self, start: Any, frozen: Any, poi: int, *, full: bool) -> Task:
        """The task of one fit. The last one is kept: fits to many data sets begin alike."""
        key = (id(start), id(frozen), poi, full)
        last = self._last
        if key == last[0]:
            return last[1]
        task = _one(self.capacity, np.asarray(start), np.asarray(frozen), (poi, False, -1, -1, full))
        if isinstance(start, Array) and isinstance(frozen, Array):
            # The arrays, which nobody can change, stay alive with it, so that nothing else gets their identity.
            task = jax.device_put(task)
            self._last = key, task, start, frozen
        return task


class _Asker:
    """The compiled function that goes on with a question of one form."""

    def __init__(self, question: Any, facts: Any, maker: _Maker) -> None:
        shapes = jax.eval_shape(initial, question, facts, facts.likelihood.init)
        self.maker, self.course = maker, Layout.of(shapes._replace(spread=None))
        rows, _, _ = jax.eval_shape(lambda q, f, c: wanted_of(q, f, c, maker.capacity), question, facts, shapes)
        self.n_rows = rows.wanted.shape[0]
        self.calls = self.n_rows // maker.capacity
        # What a statistic of the user's does is not known by its name.
        self.go_on = Compiled(self._go_on, kept=all(_ours(statistic) for statistic in STATISTICS.values()))
        self.near = begins_near(question, facts.likelihood)
        self.make_near = Compiled(self._make_near)
        # How it all begins, but for the start.
        blank = jax.tree.unflatten(self.course.treedef, [np.zeros(*leaf) for leaf in self.course.leaves])
        blank = blank._replace(above=np.inf)
        self._blank = self.course.packed(blank)
        self._lead = self.course.place(blank._replace(lead=np.ones_like(blank.lead)), blank, 0)

    def begin(self, question: Question, facts: Facts, start: Any) -> tuple[Packed, Task]:
        """The course before anything is known, and the first fit to make."""
        course = Packed(self._blank.floats.copy(), self._blank.integers)
        course.floats[self._lead : self._lead + len(start)] = start
        head = facts.poi, not question.needs_free, *question.columns(facts), question.full
        return course, _one(self.n_rows, start, np.asarray(facts.likelihood.frozen), head)

    def _go_on(
        self, likelihood: Any, question: Any, data: Array, course: Packed, task: Task, made: _Made, spread: Any
    ) -> tuple[Packed, Task, Array, Array, Any, Any]:
        """The course after some fits, what to do next, the second data set, whether that is nothing, and the answer.

        The answer means something once nothing is left to do: a program of its own would take longer to call.
        """
        facts = Facts(likelihood, task.head[0], data)
        before = self.course.unpack(course)._replace(spread=spread)
        found = self.maker.found.unpack(made.found)
        first = first_of(found, self.maker.extra.unpack(made.extra))._replace(spread=made.first)
        after = advanced(question, facts, before, found, first)
        rows, asimov, look = wanted_of(question, facts, after, self.maker.capacity)
        told = _packed(facts.poi, rows, look)
        packed = self.course.pack(after._replace(spread=None))
        return packed, told, asimov, after.done, question.answer(facts, after), after.spread

    def _make_near(self, likelihood: Any, data: Array, course: Packed, task: Task) -> Packed:
        """Many fits that begin near their minima."""
        poi, rows, _ = _unpacked(task)
        minimum = self.course.unpack(course).first.found.minimum
        return jax.vmap(self.maker.found.pack)(near_rows(likelihood, poi, data, rows, minimum))


def _ours(statistic: Any) -> bool:
    return type(statistic).__module__.partition(".")[0] == __name__.partition(".")[0]


def _form(*trees: Any) -> tuple[Any, tuple[Any, ...]]:
    """What decides which compiled function serves: structures, shapes and types."""
    leaves, treedef = jax.tree.flatten(trees)
    return treedef, tuple([(x.shape, x.dtype) for x in leaves])


@lru_cache(maxsize=_MODELS)
def _maker_of(treedef: Any, leaves: Any) -> _Maker:
    return _Maker(*jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves]))


@lru_cache(maxsize=4 * _MODELS)
def _asker_of(treedef: Any, leaves: Any) -> _Asker:
    question, likelihood, poi, data = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    return _Asker(question, Facts(likelihood, poi, data), _maker_of(*_form(likelihood, data)))


def on_host(question: Question, facts: Facts, start: Any) -> tuple[_Asker, Packed, Any, Any]:
    """The loop on the host, around the one compiled function.

    Returns:
        What knows how the course is packed, the course without its covariance, the covariance or None, and the answer,
        without derivatives.
    """
    likelihood, poi, data = facts
    asker = _asker_of(*_form(question, likelihood, poi, data))
    course, task = asker.begin(question, facts, np.asarray(start))
    asimov, done, answer, made, spread = data, False, None, None, None
    while not done:
        if asker.near and made is not None and not np.asarray(task.flags)[0, -2]:
            made = made._replace(found=asker.make_near(likelihood, data, course, task))
        elif asker.calls == 1:
            made = _Made(*asker.maker.make(likelihood, data, asimov, task))
        else:
            made = _in_calls(asker.maker, likelihood, data, asimov, task)
        new = made.first.spread if question.full else None
        spread = new if spread is None else spread
        course, task, asimov, over, answer, spread = asker.go_on(
            likelihood, question, data, course, task, made._replace(first=new), spread
        )
        done = bool(over)
    return asker, course, spread, answer


def fit_on_host(likelihood: Any, data: Any, start: Any, poi: int, *, full: bool) -> First:
    """One unconditional fit, and its covariance if ``full``."""
    maker = _maker_of(*_form(likelihood, data))
    task = maker.one_fit(start, likelihood.frozen, poi, full=full)
    return maker.make(likelihood, data, data, task)[2]


def _in_calls(maker: _Maker, likelihood: Any, data: Any, asimov: Any, task: Task) -> _Made:
    """Many rows, in several calls; those in which nothing is wanted are left out."""
    starts, flags, head = map(np.asarray, task)
    size, wanted = maker.capacity, flags[:, -2]
    # Nothing but fits is wanted of the rows after the first.
    later = np.array([head[0], 0, -1, -1, 0], np.int32)
    parts, firsts = [], []
    for begin in range(0, len(starts), size):
        part = slice(begin, begin + size)
        if begin and not wanted[part].any():
            parts.append(maker.blank)
            continue
        told = Task(starts[part], flags[part], later if begin else head)
        made = _Made(*maker.make(likelihood, data, asimov, told))
        firsts.append(made)
        parts.append(made.found)
    return firsts[0]._replace(found=Packed(*map(np.concatenate, zip(*parts, strict=True))))
