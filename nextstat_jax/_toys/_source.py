"""Where toys come from.

Toy i is a pure function of (likelihood, source, i). It does not know in which chunk, in which order, on which device or
machine it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._likelihood._protocol import Likelihood

# Toys are numbered by 32 bits; the upper half is left to keys of other streams.
MAX_TOYS = 2**31
# Toys that are thrown and not fitted: few or many at a time.
_THROWN, _THROWN_AT_MOST = 64, 2048


class Source(NamedTuple):
    """Where toys come from and what is asked of them.

    Attributes:
        params: Generating parameters, shape (n_params,).
        key: Raw data of the random key, shape (2,).
        poi: Index of the parameter of interest, -1 for none.
        mu: Where conditional fits hold it, scalar; unconditional fits do not read it.
    """

    params: Any
    key: Any
    poi: Any
    mu: Any = 0.0

    def plain(self, dtype: Any) -> Source:
        """The source with NumPy leaves of the types that programs are compiled for."""
        params, mu = np.asarray(self.params, dtype), np.asarray(self.mu, dtype)
        return Source(params, np.asarray(self.key, np.uint32), np.asarray(self.poi, np.int32), mu)


class Span(NamedTuple):
    """``size`` toys from ``first`` on."""

    first: int
    size: int


def spans(whole: Span, size: int) -> Iterator[Span]:
    """Cuts toys into chunks; all but the last are of the same size."""
    end = whole.first + whole.size
    return (Span(start, min(size, end - start)) for start in range(whole.first, end, size))


def key_data(seed: int) -> np.ndarray:
    """Raw data of ``jax.random.key(seed)``, whatever JAX's settings are."""
    return np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)


def fold(key: np.ndarray, number: int) -> np.ndarray:
    """Raw data of an independent key."""
    return np.asarray(jax.random.key_data(toy_key(jnp.asarray(key), jnp.asarray(number, jnp.uint32))))


def toy_key(key: Array, toy: Array) -> Array:
    """The random key of one toy, from the raw data of the source's."""
    # The generator is named, since JAX's default can be changed and toys must not change with it.
    return jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), toy)


def throw_toy(likelihood: Likelihood, source: Source, toy: Array) -> Array:
    """The data of one toy, shape (n_data,)."""
    return likelihood.throw(source.params, toy_key(source.key, toy))


def throw_toys(likelihood: Likelihood, source: Source, span: Span) -> np.ndarray:
    """The data of toys, shape (span.size, n_data)."""
    size = _THROWN if span.size <= _THROWN else _THROWN_AT_MOST  # few shapes are compiled
    source = source.plain(likelihood.dtype)
    parts = [
        np.asarray(_throw_chunk(likelihood, source, np.uint32(part.first), size=size))[: part.size]
        for part in spans(span, size)
    ]
    return np.concatenate(parts)


@partial(jax.jit, static_argnames="size")
def _throw_chunk(likelihood: Likelihood, source: Source, first: Array, size: int) -> Array:
    return lax.map(partial(throw_toy, likelihood, source), first + jnp.arange(size, dtype=jnp.uint32))
