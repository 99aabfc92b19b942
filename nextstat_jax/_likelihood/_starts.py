"""From where fits of a binned likelihood start beside the given point: the one rule, for every question.

A likelihood has several minima where its variations *bend*: where up and down variation of a parameter do not lie
opposite each other, so that one set of counts can be reached on either side of nominal. How much a parameter bends is
``sqrt(sum_b e_b^2 / nu_b)``: its even part, ``e = (up + down) / 2 - nominal``, summed over samples, in units of the
statistical uncertainty of the bins. A sample with a free factor counts as large as the data allow.

The rule, by the number n of parameters:

- every fit that fails is made again from the initial parameters, and from these without a signal;
- up to 150, if any parameter bends by a quarter or more, these two starts are made in any case;
- up to 64, the four parameters (two if n > 16, one if n > 32) that bend most are also held at +-0.7, +-1.5, +-3 and
  +-4.5 standard deviations until the others have found their place, and then let go; likewise the parameter of interest
  where nothing of the signal, as much as the data, and three times as much are expected. An attempt is left out where
  the constraint alone would lift what it may lead to, a minimum beyond the next smaller of these distances, above the
  best fit so far.

The lowest minimum counts, and how far above it the next one lies is part of the result. A conditional fit that ends
below the unconditional one is a further start for it: that is the driver's rule.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from ._histfactory import Arrays, cell_factors, row_factors
from ._protocol import Attempts
from ._segments import pick, scatter_sum, take

TWICE = 150
HELD = 64
_MOST = 4
_BENT = 0.25
_HOLDS = (0.7, -0.7, 1.5, -1.5, 3.0, -3.0, 4.5, -4.5)
# What such an attempt may lead to lies no closer than this.
_FROM = (0.1, -0.1, *_HOLDS[:-2])
_SIGNALS = (0.0, 1.0, 3.0)
# How many times its nominal yields a sample with a free factor is taken to be, at most.
_LARGEST = 1e3
# A deviance that is as good as zero: there is nothing below.
_NOTHING = 1e-6


def attempts(likelihood: Arrays, data: Array, poi: Array) -> Attempts:
    """Further starts of fits; arguments and result as in ``Likelihood.attempts``."""
    s = likelihood.structure
    init, n = likelihood.init, s.n_params
    if n > TWICE or s.n_shifts + s.n_entries == 0:
        return plain_starts(init, poi, jnp.full((2,), jnp.inf, init.dtype))
    how_much = bends(likelihood, data)
    worth = jnp.where((how_much >= _BENT).any(), _NOTHING, jnp.inf)
    both = plain_starts(init, poi, jnp.full((2,), worth))
    parts = [
        both,
        *([_holds(likelihood, data, how_much), _signals(likelihood, data, poi, worth)] if n <= HELD else []),
    ]
    return Attempts(*(jnp.concatenate(x) for x in zip(*parts, strict=True)))


def plain_starts(init: Array, poi: Array, worth: Array) -> Attempts:
    """The initial parameters, and these without a signal."""
    of_poi = jnp.arange(len(init)) == poi
    return Attempts(jnp.stack([init, jnp.where(of_poi, 0.0, init)]), jnp.zeros((2, len(init)), bool), worth)


def rounded(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def bends(likelihood: Arrays, data: Array) -> Array:
    """By how much the variations of each parameter bend, shape (n_params,); 0 for parameters that cannot move."""
    s = likelihood.structure
    n = data[: s.n_bins]
    factors = row_factors(likelihood, likelihood.init)
    plain = factors[s.cell_rows] * cell_factors(s, likelihood.init)
    lift = _lift(likelihood, data, plain * likelihood.nominal)[s.cell_rows]
    scale, yields = lift * plain, lift * plain * likelihood.nominal
    even = jnp.zeros((s.n_params + 1, s.n_bins), yields.dtype)
    if s.n_shifts:
        even = even.at[s.shift_params].add(s.shift_layout.even_by_bin(likelihood.shifts, scale, s.n_bins))
    if s.n_entries:
        hi, lo = jnp.exp(likelihood.factors[6]), jnp.exp(likelihood.factors[7])
        by_row = jnp.zeros((s.n_params + 1, s.n_rows), yields.dtype)
        by_row = by_row.at[s.entry_params, jnp.broadcast_to(s.chunk_rows, s.entry_params.shape)].add(
            0.5 * (hi + lo) - 1.0
        )
        even = even + scatter_sum((by_row[:, s.cell_rows] * yields).T, s.cell_bins, s.n_bins).T
    noise = jnp.maximum(jnp.maximum(likelihood.scale, n), 1.0)
    how_much = jnp.sqrt((even * even / noise).sum(1))[: s.n_params]
    return jnp.where(likelihood.frozen > 0, 0.0, how_much)


def _lift(likelihood: Arrays, data: Array, yields: Array) -> Array:
    """By how much each row can grow: up to the data where a free factor multiplies it, else 1; shape (n_rows,)."""
    s = likelihood.structure
    counts = scatter_sum(data[: s.n_bins][s.cell_bins], s.cell_rows, s.n_rows)
    own = scatter_sum(yields, s.cell_rows, s.n_rows)
    ratio = jnp.clip(counts / jnp.where(own > 0, own, 1.0), 1.0, _LARGEST)
    return jnp.where(s.derived.grows & (own > 0), ratio, 1.0)


def _holds(likelihood: Arrays, data: Array, how_much: Array) -> Attempts:
    """The parameters that bend most, held on both sides."""
    s = likelihood.structure
    n = s.n_params
    # By the power of two that is not below n, so that likelihoods of about one size can share a program.
    _, chosen = lax.top_k(how_much, min(_MOST, HELD // rounded(n), n))
    width = take(likelihood.widths, s.derived.normal_of_param, 0.0)
    center = take(pick(data[s.n_bins :], s.normal_aux), s.derived.normal_of_param, 0.0)
    parts = center, jnp.where(width > 0, width, 1.0), likelihood.lower, likelihood.upper, how_much
    center, unit, lower, upper, bent = jnp.stack(parts, 1)[chosen].T
    values, least = (jnp.asarray(x, how_much.dtype)[:, None] for x in (_HOLDS, _FROM))
    wanted = jnp.clip(values * unit, lower, upper)
    pull = (jnp.clip(least * unit, lower, upper) - center) / unit
    worth = jnp.where(bent >= _BENT, jnp.maximum(0.5 * pull * pull, _NOTHING), jnp.inf)
    which = jnp.broadcast_to(chosen[:, None] == jnp.arange(n), (len(_HOLDS), len(chosen), n))
    points = jnp.where(which, wanted[:, :, None], likelihood.init)
    return Attempts(points.reshape(-1, n), which.reshape(-1, n), worth.reshape(-1))


def _signals(likelihood: Arrays, data: Array, poi: Array, worth: Array) -> Attempts:
    """The parameter of interest held at no signal, and at as much as the data and more."""
    s = likelihood.structure
    there = jnp.zeros((s.n_rows,), bool)
    for row in s.row_factors:
        there = there | (row == poi)
    signal = jnp.where(pick(there, s.cell_rows), likelihood.nominal, 0.0).sum()
    strength = data[: s.n_bins].sum() / jnp.where(signal > 0, signal, 1.0)
    values = jnp.asarray(_SIGNALS, strength.dtype)[:, None] * strength
    of_poi = jnp.arange(s.n_params) == poi
    points = jnp.where(of_poi, jnp.clip(values, likelihood.lower, likelihood.upper), likelihood.init)
    worth = jnp.where(signal > 0, worth, jnp.inf)
    return Attempts(points, jnp.broadcast_to(of_poi, points.shape), jnp.full((len(_SIGNALS),), worth))
