"""Binned likelihoods in the HistFactory form: a pytree of arrays with a static structure, and pure functions of it.

Everything here is plain JAX, differentiable to any order. The derivatives that fits need are written out from the
structure in ``_derivatives.py``; both are tested against each other.

References:
    CERN-OPEN-2012-016, equations 1 to 6 (HistFactory).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from .._base._doors import pytree
from ._counts import Walls, clipped, main_deviance, poisson_deviance, stirling
from ._interpolation import factor, shift_basis
from ._segments import pick, product, take

# Counts from which Stirling's series is exact.
_MANY = 20.0


class Indexed:
    """What has index tables: a ``Structure``, which is static, or a ``CommonStructure`` of arrays."""

    structure: Any


@pytree
@dataclass(frozen=True)
class Arrays(Indexed):
    """The arrays of a binned likelihood. All leaves are floating point, so that gradients have the same form.

    Attributes:
        nominal: Yields, shape (n_cells,).
        shifts: Odd and even part of every histosys, as the structure lays them out.
        factors: Numbers behind the normsys entries, shape (8, length, n_chunks).
        widths: Standard deviations of the normal constraints, shape (n_normal,).
        tau: Expected auxiliary counts per unit of the parameter, shape (n_poisson,).
        observed: Main and auxiliary data, shape (n_bins + n_aux,).
        uncertainties: Absolute uncertainties behind staterror and shapesys constraints. The likelihood does not read
            them; ``with_templates`` makes ``widths`` and ``tau`` from them.
        init: Initial parameters, shape (n_params,).
        lower: Lower bounds, shape (n_params,).
        upper: Upper bounds, shape (n_params,).
        frozen: 1 where a parameter cannot move, else 0, shape (n_params,).
        scale: Roughly the yields of each bin at the initial parameters, positive, shape (n_bins,): the unit in which a
            rate is near 0.
    """

    nominal: Array
    shifts: Array
    factors: Array
    widths: Array
    tau: Array
    observed: Array
    uncertainties: Array
    init: Array
    lower: Array
    upper: Array
    frozen: Array
    scale: Array

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of the arrays."""
        return np.dtype(self.nominal.dtype)


class Rates(NamedTuple):
    """Expected yields in pieces: per cell ``factor * (nominal + shift)``, and summed per bin."""

    cells: Array
    bins: Array


def rates(likelihood: Arrays, params: Array, data: Array | None = None) -> Rates:
    """Expected yields of the main measurement.

    Args:
        likelihood: The arrays.
        params: Shape (n_params,).
        data: To see clipped bins as a fit to them does.

    Returns:
        Yields per cell, shape (n_cells,), and per bin, shape (n_bins,).
    """
    s = likelihood.structure
    cells = row_factors(likelihood, params)[s.cell_rows] * cell_factors(s, params)
    cells = cells * (likelihood.nominal + shift(likelihood, params))
    if s.clip_sample is not None:
        cells = jnp.maximum(cells, s.clip_sample)
    bins = s.derived.bins(cells)
    if s.clip_bin is not None:
        bins, _ = clipped(bins, s.clip_bin, data)
    return Rates(cells, bins)


def shift(likelihood: Arrays, params: Array) -> Array:
    """What the histosys modifiers add to each cell, shape (n_cells,)."""
    s = likelihood.structure
    if s.n_shifts == 0:
        return jnp.zeros_like(likelihood.nominal)
    basis = shift_basis(s.histosys, pick(params, s.shift_params))
    return s.shift_layout.heights(likelihood.shifts, basis.p, basis.q)


def row_factors(likelihood: Arrays, params: Array) -> Array:
    """What multiplies each row: normfactors, luminosity and interpolated factors, shape (n_rows,)."""
    s = likelihood.structure
    direct = product(take(params, s.row_factors, 1.0))
    if s.n_entries == 0:
        return direct
    pieces = factor(s.normsys, take(params, s.entry_params, 0.0), likelihood.factors)
    polynomial = product(take(product(pieces.polynomial), s.row_chunks, 1.0))
    exponent = take(pieces.exponent.sum(0), s.row_chunks, 0.0).sum(0)
    return direct * polynomial * jnp.exp(exponent)


def cell_factors(s: Any, params: Array) -> Array:
    """What multiplies each cell: the gammas, shape (n_cells,)."""
    return product(take(params, s.cell_factors, 1.0))


def expected_aux(likelihood: Arrays, params: Array) -> Array:
    """Expected auxiliary data in pyhf's order, shape (n_aux,)."""
    s = likelihood.structure
    result = jnp.zeros((s.n_aux,), params.dtype)
    result = result.at[s.normal_aux].set(pick(params, s.normal_params))
    return result.at[s.poisson_aux].set(pick(params, s.poisson_params) * likelihood.tau)


def expected(likelihood: Arrays, params: Array) -> Array:
    """Expected main and auxiliary data, shape (n_bins + n_aux,)."""
    return jnp.concatenate([rates(likelihood, params).bins, expected_aux(likelihood, params)])


def tiny(dtype: np.dtype) -> float:
    """A factor below this counts as zero. Its square must not underflow, nor its inverse's square overflow."""
    return 1e-120 if dtype == np.float64 else 1e-15


def deviance(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> Array:
    """NLL less its value for a model that predicts the data exactly: what fits minimize.

    Args:
        likelihood: The arrays.
        params: Shape (n_params,).
        data: Main and auxiliary data, shape (n_bins + n_aux,).
        walls: How bins without counts are treated near and beyond rate 0; None for the deviance itself.

    Returns:
        Scalar, not negative. +inf where a bin's rate is negative, or zero with counts.
    """
    s = likelihood.structure
    aux = data[s.n_bins :]
    bins = rates(likelihood, params, None if walls is None else data).bins
    main = main_deviance(data[: s.n_bins], bins, walls).sum()
    pull = (pick(aux, s.normal_aux) - pick(params, s.normal_params)) / likelihood.widths
    gammas = poisson_deviance(pick(aux, s.poisson_aux), likelihood.tau * pick(params, s.poisson_params))
    return main + 0.5 * (pull * pull).sum() + gammas.sum()


def saturated(likelihood: Arrays, data: Array) -> Array:
    """NLL of a model that predicts the data exactly: ``nll = deviance + saturated``. Scalar."""
    return add_saturated(jnp.zeros((), data.dtype), likelihood, data)


def add_saturated(value: Array, likelihood: Arrays, data: Array) -> Array:
    """NLL from a deviance: the deviance plus the NLL of a model that predicts the data exactly."""
    s = likelihood.structure
    counts = jnp.concatenate([data[: s.n_bins], pick(data[s.n_bins :], s.poisson_aux)])
    counts = _after(value, counts)
    some, many = counts > 0, counts > _MANY
    safe = jnp.where(some, counts, 1.0)
    log, few = jnp.log(safe), jnp.where(many, 1.0, counts)
    # The terms of many counts cancel: 0.5 of rounding would be left of 1e13.
    left = 0.5 * (log + math.log(2.0 * math.pi)) + stirling(safe)
    value = value + jnp.where(many, left, jnp.where(some, few - few * log, 0.0) + gammaln(few + 1.0)).sum()
    widths = _after(value, likelihood.widths)
    return value + (jnp.log(widths) + 0.5 * math.log(2.0 * math.pi)).sum()


def _after(scalar: Array, x: Array) -> Array:
    """``x``, computed once ``scalar`` is known.

    Independent parts of a short computation run side by side on XLA's threads, and handing them over takes longer than
    computing them: a chain is twice as fast. The condition never holds, which the compiler cannot know.
    """
    return jnp.where(scalar < float(jnp.finfo(scalar.dtype).min), scalar, x)
