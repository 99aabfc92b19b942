"""Throwing pseudo-experiments: data sets as a model predicts them.

Toy i is a pure function of (likelihood, source, i). It does not know in which chunk, in which order, on which device or
machine it is made.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._histfactory import Likelihood, expected
from ._poisson import poisson


class Source(NamedTuple):
    """Where toys come from and what is tested on them.

    Attributes:
        params: Generating parameters, shape (n_params,).
        key: Raw data of the random key, shape (2,).
        mu: Tested value of the parameter of interest, scalar; unconditional fits do not read it.
        held: Whether toys that are fitted once have the parameter of interest held at ``mu``; False for a test.
        discovery: Whether the statistic counts a best fit above ``mu`` against it (q0), or one below (qmu).
    """

    params: Any
    key: Any
    mu: Any = 0.0
    held: Any = False
    discovery: Any = False

    def plain(self, dtype: Any) -> Source:
        """The source with NumPy leaves of the types that programs are compiled for."""
        params, mu = np.asarray(self.params, dtype), np.asarray(self.mu, dtype)
        return Source(params, np.asarray(self.key, np.uint32), mu, np.bool_(self.held), np.bool_(self.discovery))


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


def throw(likelihood: Likelihood, params: Array, key: Array) -> Array:
    """One pseudo-experiment: main and auxiliary data, shape (n_data,).

    Bins and the auxiliary counts of shapesys fluctuate as Poisson counts around what the parameters predict, all other
    auxiliary data normally, with the widths of their constraints.
    """
    s = likelihood.structure
    mean = expected(likelihood, params)
    counts, normal = jax.random.split(key)
    places = np.concatenate([np.arange(s.n_bins), s.n_bins + s.poisson_aux])
    data = mean.at[places].set(poisson(counts, mean[places]))
    if len(s.normal_aux):
        noise = jax.random.normal(normal, (len(s.normal_aux),), mean.dtype)
        data = data.at[s.n_bins + s.normal_aux].add(likelihood.widths * noise)
    return data


@partial(jax.jit, static_argnames="size")
def throw_chunk(likelihood: Likelihood, source: Source, first: Array, size: int) -> Array:
    """Toys ``first`` to ``first + size``, shape (size, n_data)."""
    index = jnp.asarray(first, jnp.uint32) + jnp.arange(size, dtype=jnp.uint32)
    return lax.map(lambda i: throw(likelihood, source.params, toy_key(source.key, i)), index)
