"""The question of conditional fits: some parameters held at one point or at many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._question import Ask, Question, question
from ._rows import Facts, First, Rows
from ._search import Found, no_fit
from ._settle import Settled


class Held(NamedTuple):
    """State of the question: where fits start, how the others follow what is held, what was found, whether it was."""

    center: Array
    rate: Array
    found: Found
    done: Array


@question
class Points(Question):
    """Conditional fits at n points.

    Each starts from the unconditional fit, with what is held moved to its place and all others following in the
    quadratic approximation, and from what the likelihood has in store beside that.

    Attributes:
        where: Indices of the parameters that are held, shape (k,).
        values: Where, shape (n, k).
    """

    where: Any
    values: Any

    # Whether each fit begins where the one before it ended.
    chained: ClassVar[bool] = False
    flat: ClassVar[bool] = False

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """Those of what is held."""
        return self.where[0], self.where[1] if len(self.where) > 1 else -1

    def begin(self, facts: Facts, first: First) -> Held:
        """Nothing is known but the unconditional fit."""
        nothing = blank_rows(facts.likelihood, facts.data, len(self.values))
        rate = response(first.columns[: len(self.where)], self.where)
        return Held(first.found.minimum.y, rate, nothing, jnp.array(False))

    def ask(self, facts: Facts, state: Held) -> Ask:
        """All points at once."""
        start, held = held_rows(facts.likelihood, state.center, self.where, self.values, state.rate)
        return Ask(Rows.of(start, held, follows=(np.arange(len(self.values)) > 0) & self.chained), facts.data)

    def tell(self, facts: Facts, state: Held, first: First, found: Found) -> Held:
        """That is all."""
        return state._replace(found=found, done=jnp.array(True))

    def done(self, state: Held) -> Array:
        """After one pass."""
        return state.done

    def settled(self, facts: Facts, found: Found) -> SettledRows:
        """The conditional minima with their derivatives, one for each row."""
        return SettledRows(facts.likelihood, facts.data, found.minimum, self.where, self.values)


def held_rows(likelihood: Any, center: Array, where: Any, values: Any, rate: Any = None) -> tuple[Array, Array]:
    """Starts and what is held, for conditional fits that begin near ``center``, shape (n_params,) or (n, n_params).

    The others follow what is held at the rate of ``response``, where it is known.
    """
    n = len(values)
    frozen = jnp.broadcast_to(likelihood.frozen > 0, (n, likelihood.init.shape[0]))
    start = jnp.broadcast_to(center, frozen.shape)
    if rate is not None:
        moved = start + jnp.asarray(values - start[:, where]) @ rate.T
        start = jnp.where(frozen, start, moved)
    return start.at[:, where].set(values), frozen.at[:, where].set(True)


def response(columns: Array, where: Any) -> Array:
    """How all parameters follow some that are held, in the quadratic approximation.

    Args:
        columns: Columns of the covariance of what is held, shape (k, n_params); zero where unknown.
        where: Indices of what is held, shape (k,).

    Returns:
        Shape (n_params, k); zero where the approximation says nothing.
    """
    block = usable_block(columns, where)
    rate = columns.T / block[0, 0] if len(where) == 1 else jnp.linalg.solve(block, columns).T
    return jnp.where(jnp.isfinite(rate).all(), rate, 0.0)


def usable_block(columns: Array, where: Any) -> Array:
    """The covariance of what is held, shape (k, k), from its columns; the unit matrix where it is unknown."""
    block = columns[:, where]
    usable = jnp.isfinite(columns).all() & (jnp.diagonal(block) > 0).all()
    return jnp.where(usable, block, jnp.eye(len(where), dtype=block.dtype))


def chosen_rows(mask: Array, a: Found, b: Found) -> Found:
    """Some fits, others elsewhere; ``mask`` has shape (rows,)."""
    return jax.tree.map(lambda x, y: jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, y), a, b)


def value_held(likelihood: Any, data: Array, minimum: Any, where: Any, values: Any) -> Array:
    """Deviance at a conditional minimum, with its derivatives; ``minimum`` itself is not differentiated."""
    held = (likelihood.frozen > 0).at[where].set(True)
    return Settled(likelihood, data, minimum, likelihood.init.at[where].set(values), held).value


def blank_rows(likelihood: Any, data: Array, n: int) -> Found:
    """In place of n fits."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), no_fit(likelihood, data))


@dataclass(frozen=True)
class SettledRows:
    """Conditional minima with their derivatives, for each row of ``values``; otherwise as ``Settled``.

    Attributes:
        likelihood: The likelihood.
        data: The data.
        minima: The minima, with a leading axis.
        where: Indices of what is held, shape (k,).
        values: Where, shape (n, k).
    """

    likelihood: Any
    data: Array
    minima: Any
    where: Any
    values: Any

    @cached_property
    def params(self) -> Array:
        """Where they lie, shape (n, n_params)."""
        return self._each(lambda row: row.params)

    @cached_property
    def value(self) -> Array:
        """The deviances there, shape (n,)."""
        return self._each(lambda row: row.value)

    def _each(self, of: Callable[[Settled], Array]) -> Array:
        likelihood = self.likelihood

        def one(minimum: Any, value: Any) -> Array:
            held = (likelihood.frozen > 0).at[self.where].set(True)
            return of(Settled(likelihood, self.data, minimum, likelihood.init.at[self.where].set(value), held))

        rows = self.minima, jnp.asarray(self.values)
        if len(self.values) > 1:
            return jax.vmap(one)(*rows)
        # What a batch of one adds to the derivatives takes seconds to compile.
        return one(*jax.tree.map(lambda x: x[0], rows))[None]


def expected_of(likelihood: Any, params: Array) -> Array:
    """The data that parameters predict."""
    return likelihood.expected(params)


def constant_of(likelihood: Any, data: Array) -> Array:
    """NLL less deviance."""
    return likelihood.constant(data)


def index_array(*indices: int) -> np.ndarray:
    """Indices as an array of the one type that programs are compiled for."""
    return np.asarray(indices, dtype=np.int32)
