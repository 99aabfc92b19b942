"""Throwing pseudo-experiments: data sets as a binned likelihood predicts them."""

from __future__ import annotations

import jax
import numpy as np
from jax import Array

from ._histfactory import Arrays, expected
from ._poisson import poisson


def throw(likelihood: Arrays, params: Array, key: Array) -> Array:
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
