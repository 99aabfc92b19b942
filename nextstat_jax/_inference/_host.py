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
from .._base._doors import on_device
from .._likelihood._common import Level, Parcel
from .._minimize import _status
from ._near import quick_rows
from ._question import Question, advanced, begins_near, initial, wanted_of
from ._rows import Extra, Facts, First, Known, Look, Rows, first_of, found_layout, make_rows
from ._search import Found, no_fit
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
    """What came of a task.

    Attributes:
        found: The fits, packed.
        extra: What the next step needs of the first of them, packed.
        first: What else is known of that one but its covariance; in common form packed.
        spread: Its covariance, or None.
    """

    found: Packed
    extra: Packed
    first: Any
    spread: Any


class _Maker:
    """The compiled function that makes fits of likelihoods of one form, and how its arguments are packed."""

    def __init__(self, likelihood: Any, data: Any) -> None:
        shared, likelihood = isinstance(likelihood, Parcel), _opened(likelihood)
        n, dtype = likelihood.init.shape[0], np.dtype(likelihood.init.dtype)
        self.found = found_layout(Facts(likelihood, None, data))
        self.capacity = _FEWER if _FEWER * self.found.sizes.floats * dtype.itemsize <= _SMALL_BYTES else _CAPACITY
        self.extra = Layout.of(Extra(np.zeros((), dtype), np.zeros((2, n), dtype)))
        self.first = _first_layout(likelihood, data) if shared else None
        self.make = Compiled(self._make, quick=not likelihood.large)
        nothing = self.found.zeros()
        minimum = nothing.minimum._replace(value=np.inf, status=_status.RUNNING)
        nothing = self.found.packed(nothing._replace(minimum=minimum, above=np.inf))
        # In place of fits that are not made.
        self.blank = Packed(*(np.broadcast_to(x, (self.capacity, *x.shape)) for x in nothing))
        self._last: tuple[Any, ...] = (None,)

    def _make(self, likelihood: Any, data: Array, asimov: Array, task: Task) -> _Made:
        poi, rows, look = _unpacked(task)
        likelihood = likelihood.opened()
        found, first = make_rows(likelihood, Known.of(likelihood, poi, data), (data, asimov), rows, look)
        extra = self.extra.pack(Extra(first.constant, first.columns))
        rest = first._replace(spread=None)
        # The arrays of a fit's result come out one by one: to take them apart later would take longer. Those in common
        # form have to be taken apart.
        return _Made(found, extra, rest if self.first is None else self.first.pack(rest), first.spread)

    def one_fit(self, start: Any, frozen: Any, poi: int, *, full: bool) -> Task:
        """The task of one fit. The last one is kept: fits to many data sets begin alike."""
        key = (id(start), id(frozen), poi, full)
        last = self._last
        if key == last[0]:
            return last[1]
        task = _one(self.capacity, np.asarray(start), np.asarray(frozen), (poi, False, -1, -1, full))
        if all(isinstance(x, Array) or not x.flags.writeable for x in (start, frozen)):
            # The arrays, which nobody can change, stay alive with it, so that nothing else gets their identity.
            task = on_device(task)
            self._last = key, task, start, frozen
        return task


class _Asker:
    """The compiled function that goes on with a question of one form."""

    def __init__(self, question: Any, facts: Any, maker: _Maker) -> None:
        facts = facts._replace(likelihood=_opened(facts.likelihood))
        shapes = jax.eval_shape(initial, question, facts, facts.likelihood.init)
        self.maker, self.course = maker, Layout.of(shapes._replace(spread=None))
        rows, _, _ = jax.eval_shape(lambda q, f, c: wanted_of(q, f, c, maker.capacity), question, facts, shapes)
        self.n_rows = rows.wanted.shape[0]
        self.calls = self.n_rows // maker.capacity
        large = facts.likelihood.large
        # What a statistic of the user's does is not known by its name.
        self.go_on = Compiled(self._go_on, kept=all(map(_ours, STATISTICS.values())), quick=not large)
        self.near = begins_near(question, facts.likelihood)
        self.make_near = Compiled(self._make_near, quick=not large)
        # How it all begins, but for the start.
        blank = self.course.zeros()._replace(above=np.inf)
        self._blank = self.course.packed(blank)
        self._lead = self.course.place(blank._replace(lead=np.ones_like(blank.lead)), blank, 0)
        self._ends = _ends_of(self.course)

    def begin(self, question: Question, facts: Facts, start: Any, frozen: Any) -> tuple[Packed, Task]:
        """The course before anything is known, and the first fit to make."""
        course = Packed(self._blank.floats.copy(), self._blank.integers)
        course.floats[self._lead : self._lead + len(start)] = start
        head = facts.poi, not question.needs_free, *question.columns(facts), question.full
        return course, _one(self.n_rows, start, frozen, head)

    def stuck(self, course: Packed, likelihood: Any, question: Question) -> np.ndarray:
        """Which parameters ended on a bound that they push against, in any of the fits behind the answer: (n_params,).

        Args:
            course: The course at its end.
            likelihood: The likelihood itself, whose parameters come first where it is in another form.
            question: The question: parameters that it looks at, or holds, do not count.
        """
        floats, integers = map(np.asarray, course)
        lower, upper, frozen = (np.asarray(x) for x in (likelihood.lower, likelihood.upper, likelihood.frozen))
        y, gradient = (floats[places][:, : len(lower)] for places in (self._ends.y, self._ends.gradient))
        pushes = ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))
        mask = (pushes & (integers[self._ends.made] > 0)[:, None]).any(0) & (frozen == 0)
        mask[np.asarray(getattr(question, "where", []), int)] = False
        return mask

    def _go_on(
        self, likelihood: Any, question: Any, data: Array, course: Packed, task: Task, made: _Made, spread: Any
    ) -> tuple[Packed, Task, Array, Array, Any, Any]:
        """The course after some fits, what to do next, the second data set, whether that is nothing, and the answer.

        The answer means something once nothing is left to do: a program of its own would take longer to call.
        """
        facts = Facts(likelihood.opened(), task.head[0], data)
        before = self.course.unpack(course)._replace(spread=spread)
        found = self.maker.found.unpack(made.found)
        first = first_of(found, self.maker.extra.unpack(made.extra))._replace(spread=made.spread)
        after = advanced(question, facts, before, found, first)
        rows, asimov, look = wanted_of(question, facts, after, self.maker.capacity)
        told = _packed(facts.poi, rows, look)
        packed = self.course.pack(after._replace(spread=None))
        return packed, told, asimov, after.done, question.answer(facts, after), after.spread

    def _make_near(self, likelihood: Any, data: Array, course: Packed, task: Task) -> tuple[Packed, Array]:
        """Many fits that begin near their minima, and which of them can be believed."""
        poi, rows, _ = _unpacked(task)
        minimum = self.course.unpack(course).first.found.minimum
        found, believed = quick_rows(likelihood.opened(), poi, data, rows, minimum)
        return jax.vmap(self.maker.found.pack)(found), believed

    def near_fits(self, likelihood: Any, data: Any, asimov: Any, course: Packed, task: Task, made: _Made) -> _Made:
        """The same, where the full minimizer makes those that cannot be believed; all else as it was made."""
        found, believed = self.make_near(likelihood, data, course, task)
        flags = np.array(task.flags)
        flags[:, -2] &= ~np.asarray(believed)
        left = flags[:, -2] > 0
        if left.any():
            full = _in_calls(self.maker, likelihood, data, asimov, task._replace(flags=flags)).found
            found = Packed(*(np.where(left[:, None], a, b) for a, b in zip(full, found, strict=True)))
        return made._replace(found=found)


class _Ends(NamedTuple):
    """Where, in a packed course, the ends of all its fits are: parameters and gradients, and whether each was made."""

    y: np.ndarray
    gradient: np.ndarray
    made: np.ndarray


def _ends_of(course: Layout) -> _Ends:
    tree = course.unpack(Packed(*map(np.arange, course.sizes)))
    parts = [x for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Found)) if isinstance(x, Found)]
    n = tree.lead.shape[-1]
    rows = [(x.minimum.y.reshape(-1, n), x.minimum.gradient.reshape(-1, n), x.n_fits.reshape(-1)) for x in parts]
    return _Ends(*(np.concatenate(column).astype(int) for column in zip(*rows, strict=True)))


def _opened(likelihood: Any) -> Any:
    """The form of a likelihood as a compiled function sees it."""
    return jax.eval_shape(lambda k: k.opened(), likelihood)


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


class Told(NamedTuple):
    """What a question has brought.

    Attributes:
        answer: The answer.
        stuck: Which parameters ended on a bound in one of the fits behind it, shape (n_params,); None if not known.
    """

    answer: Any
    stuck: np.ndarray | None = None


def answer_on_host(question: Question, facts: Facts, start: Any) -> Told:
    """The answer to a question, without derivatives; of small likelihoods all of one size share the programs."""
    likelihood, common = facts.likelihood, facts.likelihood.common
    theirs = _crossed(likelihood, facts.data, start)
    asked = question if common is None else question.widened(common)
    facts = facts._replace(likelihood=theirs.likelihood, data=theirs.data)
    asker, course, _, answer = on_host(asked, facts, theirs.start, theirs.frozen)
    stuck = asker.stuck(course, likelihood, question)
    return Told(answer if common is None else question.narrowed(common, answer), stuck)


class _Crossed(NamedTuple):
    """What compiled functions are given, in common form where there is one."""

    likelihood: Any
    data: Any
    start: Any
    frozen: Any


def _crossed(likelihood: Any, data: Any, start: Any) -> _Crossed:
    common = likelihood.common
    if common is None:
        return _Crossed(likelihood, data, start, likelihood.frozen)
    data = common.observed if data is likelihood.observed else common.data(data)
    start = common.init if start is likelihood.init else common.params(start)
    return _Crossed(common.parcel, data, start, common.frozen)


def on_host(question: Question, facts: Facts, start: Any, frozen: Any) -> tuple[_Asker, Packed, Any, Any]:
    """The loop on the host, around the one compiled function.

    Returns:
        What knows how the course is packed, the course without its covariance, the covariance or None, and the answer,
        without derivatives.
    """
    likelihood, poi, data = facts
    asker = _asker_of(*_form(question, likelihood, poi, data))
    course, task = asker.begin(question, facts, np.asarray(start), np.asarray(frozen))
    asimov, done, answer, made, spread = data, False, None, None, None
    while not done:
        if asker.near and made is not None and not np.asarray(task.flags)[0, -2]:
            made = asker.near_fits(likelihood, data, asimov, course, task, made)
        elif asker.calls == 1:
            made = asker.maker.make(likelihood, data, asimov, task)
        else:
            made = _in_calls(asker.maker, likelihood, data, asimov, task)
        new = made.spread if question.full else None
        spread = new if spread is None else spread
        course, task, asimov, over, answer, spread = asker.go_on(
            likelihood, question, data, course, task, made._replace(first=None, spread=new), spread
        )
        done = bool(over)
    return asker, course, spread, answer


def fit_on_host(likelihood: Any, data: Any, start: Any, poi: int, *, full: bool) -> First:
    """One unconditional fit, and its covariance if ``full``; of small likelihoods all of one size share the program."""
    common = likelihood.common
    likelihood, data, start, frozen = _crossed(likelihood, data, start)
    maker = _maker_of(*_form(likelihood, data))
    task = maker.one_fit(start, frozen, poi, full=full)
    made = maker.make(likelihood, data, data, task)
    if common is None:
        return made.first._replace(spread=made.spread)
    return _narrower(maker.first, common.n_params, common.n_bins, common.level)(made.first, made.spread)


@lru_cache(maxsize=4 * _MODELS)
def _narrower(layout: Layout, n_params: int, n_bins: int, level: Level) -> Compiled:
    """Makes the first of the fits in common form one of the likelihood itself."""

    def by_param(x: Any, axes: int = 1) -> Any:
        return None if x is None else x[(..., *(slice(n_params),) * axes)]

    def by_bin(x: Array) -> Array:
        return x.reshape(-1, level.bins)[:, :n_bins].reshape(-1)

    def narrowed(packed: Packed, spread: Any) -> First:
        first = layout.unpack(packed)
        minimum = first.found.minimum
        minimum = minimum._replace(
            y=by_param(minimum.y), gradient=by_param(minimum.gradient), kinked=by_param(minimum.kinked),
            multipliers=by_bin(minimum.multipliers), aux=by_bin(minimum.aux),
        )  # fmt: skip
        return first._replace(
            found=first.found._replace(minimum=minimum), held=by_param(first.held), on_bound=by_param(first.on_bound),
            columns=by_param(first.columns), spread=jax.tree.map(lambda x: by_param(x, 2), spread),
        )  # fmt: skip

    return Compiled(narrowed, about=(n_params, n_bins, level))


def _first_layout(likelihood: Any, data: Any) -> Layout:
    """How the first of the fits is packed."""

    def of(likelihood: Any, data: Any) -> First:
        start, held = likelihood.init, likelihood.frozen > 0
        return First(no_fit(likelihood, data), data[0], data[0], held, held, jnp.stack([start, start]))

    return Layout.of(jax.eval_shape(of, likelihood, data))


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
        made = maker.make(likelihood, data, asimov, told)
        firsts.append(made)
        parts.append(made.found)
    return firsts[0]._replace(found=Packed(*map(np.concatenate, zip(*parts, strict=True))))
