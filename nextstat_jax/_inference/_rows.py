"""Fits by rows: the one function that makes them, and what is known of the first of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._base._compiled import Layout, Packed
from .._likelihood._protocol import Attempts, Likelihood
from .._minimize import _status
from .._minimize._matrix import Spread, Symmetric, blank
from .._model._base import Subject
from ._search import LEAST_WORTH, Found, no_fit, no_hessian, search
from ._settle import pins_of, spread_of, with_kinks


class Facts(NamedTuple):
    """What a question is about.

    Attributes:
        likelihood: The likelihood.
        poi: Index of the parameter of interest, -1 for none, an integer.
        data: The data.
    """

    likelihood: Any
    poi: Any
    data: Any


def facts_of(about: Subject) -> Facts:
    """What a question is about, as arrays."""
    return Facts(about.likelihood, about.place, about.data)


class Rows(NamedTuple):
    """Fits to be made, along a leading axis.

    Attributes:
        start: Where each begins, with the values of what is held, shape (rows, n_params).
        held: What is held, boolean, shape (rows, n_params).
        on_asimov: Whether each is a fit to the second data set, shape (rows,).
        wanted: Whether it is to be made, shape (rows,).
        follows: Whether it begins where the row before it ended, moved by what lies between their starts, shape
            (rows,).
    """

    start: Any
    held: Any
    on_asimov: Any
    wanted: Any
    follows: Any

    @classmethod
    def of(cls, start: Array, held: Array, *, on_asimov: Any = False, wanted: Any = True, follows: Any = False) -> Rows:
        """Rows of which flags are the same for all, or given for each."""
        flags = (jnp.broadcast_to(jnp.asarray(flag), held.shape[:1]) for flag in (on_asimov, wanted, follows))
        return cls(start, held, *flags)


class Look(NamedTuple):
    """What else is wanted of the first of the rows.

    Attributes:
        if_needed: Whether it is made only if the likelihood may have several minima.
        columns: Indices of two parameters whose columns of the covariance are wanted, -1 for none, shape (2,). They
            are for starts of other fits: their curvature is that of the last step.
        full: Whether the whole covariance is wanted; False, not an array, where it never is.
    """

    if_needed: Any
    columns: Any
    full: Any


class First(NamedTuple):
    """The first of the rows, and the curvature there.

    Attributes:
        found: The fit.
        nll: NLL there.
        constant: NLL less deviance, of the first data set.
        held: What was held; None on a question's course, where it follows from the rest.
        on_bound: Parameters on a bound that they push against; likewise.
        columns: Columns of the covariance, shape (2, n_params); zero unless wanted.
        spread: The covariance; zero unless wanted, None where it never is.
    """

    found: Found
    nll: Array
    constant: Array
    held: Any
    on_bound: Any
    columns: Array
    spread: Any = None


class Known(NamedTuple):
    """What is known of a data set before any fit.

    Attributes:
        attempts: Further starts of fits.
        constant: NLL less deviance.
    """

    attempts: Attempts
    constant: Array

    @classmethod
    def of(cls, likelihood: Likelihood, poi: Array, data: Array) -> Known:
        """To be computed once, however many fits there are."""
        return cls(likelihood.attempts(data, poi), likelihood.constant(data))


def make_rows(
    likelihood: Likelihood,
    known: Known,
    data: tuple[Array, Array],
    rows: Rows,
    look: Look,
    *,
    flat: bool = False,
    only: bool = False,
) -> tuple[Packed, First]:
    """Makes the fits that are wanted, one after the other.

    Args:
        likelihood: The likelihood.
        known: What is known of the first data set.
        data: Two data sets.
        rows: The fits.
        look: What else is wanted of the first.
        flat: Whether nothing of the curvature ever is.
        only: Whether there are two rows at most, and one of them is wanted: a loop would take time for nothing.

    Returns:
        The fits, packed, with a leading axis; and what is known of the first.
    """
    attempts, constant = known
    several = jnp.isfinite(attempts.worth)
    needed = ~look.if_needed | several.any()
    wanted = rows.wanted.at[0].set(rows.wanted[0] & needed)
    count = wanted.shape[0]
    nothing = no_fit(likelihood, data[0])
    layout = Layout.of(nothing)
    empty = layout.pack(nothing)

    def fitted(row: Rows, wanted: Array, leads: Array) -> tuple[Packed, Symmetric]:
        """One fit, packed, and the Hessian; ``leads`` says whether it is the first of the rows."""
        # What is worth a try on the data is worth one on the other data set.
        worth = jnp.where(row.on_asimov & several, 0.0, attempts.worth)
        mine = attempts._replace(worth=jnp.maximum(worth, LEAST_WORTH))
        vector = jnp.where(row.on_asimov, data[1], data[0])
        one, last = search(
            likelihood, vector, row.start, row.held, mine, bent=not flat,
            curved=False if flat or look.full is False else look.full & leads, wanted=wanted,
        )  # fmt: skip
        return layout.pack(one), last

    if only:
        leads = wanted[0]
        row = jax.tree.map(lambda x: jnp.where(leads, x[0], x[-1]), rows)
        one, hessian = fitted(row, wanted.any(), leads)
        of_first, of_last = leads, ~leads & wanted[-1]
        found = Packed(
            *(
                jnp.stack([jnp.where(mine, x, nothing) for mine in (of_first, of_last)[:count]])
                for x, nothing in zip(one, empty, strict=True)
            )
        )
    else:
        begin = Packed(*(jnp.broadcast_to(x, (count, *x.shape)) for x in empty)), no_hessian(likelihood, data[0])
        found, hessian = _one_by_one(fitted, layout, begin, rows._replace(wanted=wanted), flat=flat)
    first = layout.unpack(Packed(*(x[0] for x in found)))
    held = rows.held[0]
    pinned = pins_of(likelihood, first.minimum, rows.start[0], held).mask
    parts = first, first.minimum.value + constant, constant, held, pinned & ~held
    nothing = jnp.zeros((2, len(held)), constant.dtype)
    if flat:
        return found, First(*parts, nothing)
    columns = lax.cond(
        (look.columns >= 0).any(), lambda: _columns(hessian, held, pinned, look.columns), lambda: nothing
    )
    if look.full is False:
        return found, First(*parts, columns)
    bent = with_kinks(hessian, first.minimum)
    spread = lax.cond(look.full, lambda: spread_of(bent, held, pinned), lambda: no_spread(likelihood, data[0]))
    return found, First(*parts, columns, spread)


def _one_by_one(
    fitted: Callable[[Rows, Array, Array], tuple[Packed, Symmetric]],
    layout: Layout,
    nothing: tuple[Packed, Symmetric],
    rows: Rows,
    *,
    flat: bool,
) -> tuple[Packed, Symmetric]:
    """The fits that are wanted, in a loop, and the Hessian of the first."""
    count = len(rows.start)

    def following(k: Array) -> Array:
        """The next row that is wanted, or ``count``."""
        later = rows.wanted & (jnp.arange(count) > k)
        return jnp.where(later.any(), jnp.argmax(later), count)

    def body(carry: tuple[Array, Packed, Symmetric]) -> tuple[Array, Packed, Symmetric]:
        k, found, hessian = carry
        row = jax.tree.map(lambda x: x[k], rows)
        before = layout.unpack(Packed(*(x[k - 1] for x in found))).minimum
        moved = jnp.where(row.held, row.start, before.y + row.start - rows.start[k - 1])
        start = jnp.where(row.follows & (before.status == _status.CONVERGED), moved, row.start)
        one, last = fitted(row._replace(start=start), k < count, k == 0)
        found = Packed(*(whole.at[k].set(part) for whole, part in zip(found, one, strict=True)))
        hessian = hessian if flat else lax.cond(k == 0, lambda: last, lambda: hessian)
        return following(k), found, hessian

    return lax.while_loop(lambda carry: carry[0] < count, body, (following(jnp.array(-1)), *nothing))[1:]


def _columns(hessian: Symmetric, held: Array, pinned: Array, wanted: Array) -> Array:
    """Columns of the covariance, by the rule of ``spread_of``."""
    n = len(held)

    def of(mask: Array) -> Array:
        unit = (jnp.arange(n)[:, None] == wanted[None, :]).astype(hessian.diagonal.dtype)
        column = hessian.factorized(mask).solve(jnp.where(mask[:, None], 0.0, unit))
        return jnp.where(mask[:, None], 0.0, column).T

    first = of(held)
    # What is looked at moves, on a bound or not.
    moving = pinned & ~(jnp.arange(n)[:, None] == wanted[None, :]).any(1)
    return lax.cond(jnp.isfinite(first).all(), lambda: first, lambda: of(held | moving))


def no_spread(likelihood: Likelihood, data: Array) -> Spread:
    """In place of a covariance."""
    held = jax.ShapeDtypeStruct(likelihood.init.shape, bool)
    return blank(jax.eval_shape(lambda mask: no_hessian(likelihood, data).inverse(mask), held))


def found_layout(facts: Facts) -> Layout:
    """How one fit is packed."""
    return Layout.of(jax.eval_shape(no_fit, facts.likelihood, facts.data))


class Extra(NamedTuple):
    """What the next step needs of the first row beside the fit itself."""

    constant: Any
    columns: Any


def first_of(found: Found, extra: Extra) -> First:
    """The first of the rows, an unconditional fit."""
    one = jax.tree.map(lambda x: x[0], found)
    return First(one, one.minimum.value + extra.constant, extra.constant, None, None, extra.columns)
