"""Gradient and Hessian of the deviance, written out from the structure.

A cell's yield is ``F * G * h``: factors F that act on its row, factors G that act on it alone, and h = nominal + shift.
With the logarithmic derivatives u of the factors, every first and second derivative of the yields is a product of
numbers that the value has computed already, so the gradient costs about one more evaluation and the Hessian three
small matrix products. Automatic differentiation of the plain functions would give the same numbers, at many times the
price.

The functions here carry rules that hand any further differentiation to the plain functions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from ._counts import Walls, clipped, main_deviance, poisson_deviance, slope_and_curvature
from ._histfactory import Arrays, deviance, tiny
from ._interpolation import Basis, away_from_zero, factor, factor_derivatives, has_kink, shift_basis
from ._segments import pick, product, scatter_product, scatter_sum, take


class Parts(NamedTuple):
    """What value, gradient and Hessian share. Shapes as in ``Structure``."""

    params: Array  # factors that are zero replaced by a tiny number
    inverse: Array  # 1 / parameter for parameters that multiply yields directly, else 0
    first: Array  # per entry: d log(factor)
    second: Array  # per entry: d2(factor) / factor
    basis: Basis
    scale: Array  # per cell: F * G, zero where the cell is clipped
    cells: Array  # per cell: yield, zero where clipped (for derivatives)
    bins: Array  # expected yields, zero where only the tiny number is left
    slope: Array  # per bin: d(deviance) / d(bin)
    curvature: Array  # per bin: d2(deviance) / d(bin)2


def parts_of(likelihood: Arrays, params: Array, data: Array, walls: Walls | None) -> Parts:
    s, d = likelihood.structure, likelihood.structure.derived
    small = tiny(likelihood.dtype)
    params = jnp.where(d.is_factor, away_from_zero(params, small), params)
    inverse = jnp.where(d.is_factor, 1.0 / jnp.where(d.is_factor, params, 1.0), 0.0)

    padded = jnp.concatenate([params, jnp.array([1.0, 0.0], params.dtype)])  # a factor of one, an alpha of zero
    rows = product(_pick(padded, s.row_factors))
    first = second = jnp.zeros(s.entry_params.shape, params.dtype)
    if s.n_entries:
        alpha = _pick(padded, d.entry_alphas)
        pieces = factor(s.normsys, alpha, likelihood.factors)
        first, second = factor_derivatives(s.normsys, alpha, likelihood.factors, small)
        chunks = product(away_from_zero(pieces.polynomial, small)) * jnp.exp(pieces.exponent.sum(0))
        rows = scatter_product(rows, chunks, s.chunk_rows)
    scale = _pick(rows, s.cell_rows) * product(_pick(padded, s.cell_factors))

    basis = shift_basis(s.histosys, pick(params, s.shift_params))
    height = likelihood.nominal
    if s.n_shifts:
        height = height + s.shift_layout.heights(likelihood.shifts, basis.p, basis.q)
    cells = scale * height
    if s.clip_sample is None:
        bins = scatter_sum(cells, s.cell_bins, s.n_bins)
    else:
        bins = scatter_sum(jnp.maximum(cells, s.clip_sample), s.cell_bins, s.n_bins)
        moves = cells >= s.clip_sample
        cells, scale = jnp.where(moves, cells, 0.0), jnp.where(moves, scale, 0.0)
    if s.clip_bin is not None:
        bins, moves = clipped(bins, s.clip_bin, None if walls is None else data)
        cells, scale = jnp.where(moves[s.cell_bins], cells, 0.0), jnp.where(moves[s.cell_bins], scale, 0.0)
    bins = jnp.where(jnp.abs(bins) < 1e6 * small, 0.0, bins)

    slope, curvature = slope_and_curvature(data[: s.n_bins], bins, walls)
    return Parts(params, inverse, first, second, basis, scale, cells, bins, slope, curvature)


def _pick(x: Array, index: Any) -> Array:
    return x.at[index].get(mode="promise_in_bounds")


class Sums(NamedTuple):
    """Sums over the bins that gradient and Hessian share."""

    rows: Array  # per row: sum of slope * yield
    cells: Array  # per cell: slope * yield
    shifts: Array  # (2, n_shifts): slope * scale summed against the odd and even shifts


def sums_of(likelihood: Arrays, p: Parts) -> Sums:
    s = likelihood.structure
    slope = _pick(p.slope, s.cell_bins)
    cells = slope * p.cells
    shifts = jnp.zeros((2, s.n_shifts), cells.dtype)
    if s.n_shifts:
        shifts = s.shift_layout.sums(likelihood.shifts, slope * p.scale)
    return Sums(scatter_sum(cells, s.cell_rows, s.n_rows), cells, shifts)


def constraint_gradient(likelihood: Arrays, p: Parts, data: Array) -> tuple[Array, Array]:
    """First derivative and curvature of the constraint terms by parameter, each of shape (n_params,)."""
    s, d = likelihood.structure, likelihood.structure.derived
    aux = data[s.n_bins :]
    precision = 1.0 / (likelihood.widths * likelihood.widths)
    weight = take(precision, d.normal_of_param, 0.0)
    gradient = (p.params - take(pick(aux, s.normal_aux), d.normal_of_param, 0.0)) * weight
    if len(s.poisson_params) == 0:
        return gradient, weight
    tau = take(likelihood.tau, d.poisson_of_param, 0.0)
    pull = take(pick(aux, s.poisson_aux), d.poisson_of_param, 0.0) * p.inverse
    return gradient + tau - pull, weight + pull * p.inverse


def _value(likelihood: Arrays, p: Parts, data: Array, walls: Walls | None) -> Array:
    s = likelihood.structure
    aux = data[s.n_bins :]
    main = main_deviance(data[: s.n_bins], p.bins, walls)
    pull = (pick(aux, s.normal_aux) - pick(p.params, s.normal_params)) / likelihood.widths
    gammas = poisson_deviance(pick(aux, s.poisson_aux), likelihood.tau * pick(p.params, s.poisson_params))
    return jnp.concatenate([main, 0.5 * pull * pull, gammas]).sum()


def _collect(likelihood: Arrays, factors: Array | None, sums: Sums, entries: Array, shifts: Array) -> Array:
    """Sums by parameter of what rows, cells, entries and shifts contribute, shape (n_params,).

    ``factors`` multiplies the contributions of rows and cells; None leaves them out.
    """
    s = likelihood.structure
    total = jnp.zeros(s.n_params + 1, entries.dtype)  # the last place takes the padding
    if factors is not None:
        for owners in s.row_factors:
            total = total.at[owners].add(sums.rows, mode="promise_in_bounds")
        for owners in s.cell_factors:
            total = total.at[owners].add(sums.cells, mode="promise_in_bounds")
        total = total * jnp.concatenate([factors, jnp.zeros(1, factors.dtype)])
    if s.n_entries:
        total = total.at[s.entry_params].add(entries, mode="promise_in_bounds")
    if s.n_shifts:
        total = total.at[s.shift_params].add(shifts, mode="promise_in_bounds")
    return total[: s.n_params]


def _gradient(likelihood: Arrays, p: Parts, sums: Sums, constraint: Array) -> Array:
    entries = p.first * _pick(sums.rows, likelihood.structure.chunk_rows)
    shifts = p.basis.dp * sums.shifts[0] + p.basis.dq * sums.shifts[1]
    return _collect(likelihood, p.inverse, sums, entries, shifts) + constraint


def evaluate(likelihood: Arrays, params: Array, data: Array, walls: Walls) -> tuple[Array, Array, Array, Any]:
    """The deviance, its gradient, the expected rates of the bins, and half the jumps of the slope at kinks.

    For the minimizer; not to be differentiated.
    """
    p = parts_of(likelihood, params, data, walls)
    sums, (constraint, _) = sums_of(likelihood, p), constraint_gradient(likelihood, p, data)
    jump = None if likelihood.structure.derived.kinks is None else _jump(likelihood, sums)
    return _value(likelihood, p, data, walls), _gradient(likelihood, p, sums, constraint), p.bins, jump


def _jump(likelihood: Arrays, sums: Sums) -> Array:
    """Half of what the slope of the deviance jumps by where a parameter with a kink passes 0: (n_params,)."""
    s = likelihood.structure
    entries = jnp.zeros(s.entry_params.shape, sums.rows.dtype)
    if s.n_entries and has_kink(s.normsys):
        entries = 0.5 * (likelihood.factors[6] + likelihood.factors[7]) * _pick(sums.rows, s.chunk_rows)
    shifts = sums.shifts[1] if has_kink(s.histosys) else jnp.zeros_like(sums.shifts[1])
    return _collect(likelihood, None, sums, entries, shifts)


def _value_and_gradient(likelihood: Arrays, params: Array, data: Array, walls: Walls | None) -> tuple[Array, Array]:
    p = parts_of(likelihood, params, data, walls)
    return _value(likelihood, p, data, walls), _slope(likelihood, p, data)


def _slope(likelihood: Arrays, p: Parts, data: Array) -> Array:
    constraint, _ = constraint_gradient(likelihood, p, data)
    return _gradient(likelihood, p, sums_of(likelihood, p), constraint)


def value_and_rates(likelihood: Arrays, params: Array, data: Array) -> tuple[Array, Array]:
    """The deviance and the expected rates of the bins, in one pass; not meant to be differentiated."""
    p = parts_of(likelihood, params, data, None)
    return _value(likelihood, p, data, None), p.bins


def value_gradient_and_rates(likelihood: Arrays, params: Array, data: Array) -> tuple[Array, Array, Array]:
    """``value_and_gradient`` with the expected rates of the bins, which it computes on its way; likewise."""
    p = parts_of(likelihood, params, data, None)
    return _value(likelihood, p, data, None), _slope(likelihood, p, data), p.bins


def curvatures(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> tuple[Array, Array]:
    """Second derivatives of the deviance, and their positive semidefinite part, each of shape (n_params, n_params).

    The second is ``J^T diag(n / nu^2) J`` plus the constraints (Gauss and Newton's matrix): what is left when the
    second derivatives of the yields are dropped.
    """
    s, d = likelihood.structure, likelihood.structure.derived
    n = s.n_params
    p = parts_of(likelihood, params, data, walls)
    sums = sums_of(likelihood, p)
    _, curvature = constraint_gradient(likelihood, p, data)

    # Logarithmic derivative of each row's factor, for the parameters that act on rows: (n_rows, n_row_params).
    log_rows = take(jnp.concatenate([p.first.reshape(-1), p.inverse]), d.row_log_derivatives, 0.0)
    # Cells spread over (bins, then gammas) x rows: yields for the bins, slope * yield for the gammas.
    n_gammas = len(d.gammas)
    spread = jnp.concatenate(
        [
            take(p.cells, d.cell_by_row[: s.n_bins], 0.0),
            take(sums.cells, d.cell_by_row[s.n_bins :], 0.0),
        ]
    )
    by_owner = _columns(spread @ log_rows, d.row_param_of_param)
    shift_rows = jnp.zeros((s.n_rows, n), params.dtype)
    if s.n_shifts:
        # Derivative of each cell through its shift, transposed so that sums over cells add whole rows.
        moved = likelihood.shifts[0] * p.basis.dp[:, None] + likelihood.shifts[1] * p.basis.dq[:, None]
        moved = moved.T * p.scale[:, None]
        weighted = moved * p.slope[s.cell_bins][:, None]
        by_gamma = jnp.zeros((n_gammas + 1, s.n_shifts), moved.dtype)
        for owners in s.cell_factors:
            by_gamma = by_gamma.at[d.gamma_of_param_padded[owners]].add(weighted, mode="promise_in_bounds")
        by_bin = scatter_sum(moved, s.cell_bins, s.n_bins)
        by_row = scatter_sum(weighted, s.cell_rows, s.n_rows)
        by_shift = _columns(jnp.concatenate([by_bin, by_gamma[:n_gammas], by_row]), d.shift_of_param)
        by_owner = by_owner + by_shift[: s.n_bins + n_gammas]
        shift_rows = by_shift[s.n_bins + n_gammas :]
    jacobian, mixed = by_owner[: s.n_bins], by_owner[s.n_bins :]
    if n_gammas:
        pairs = d.pair_cells(p.cells) * pick(p.inverse, d.pair_params)
        unique = isinstance(d.pair_bins, np.ndarray)
        jacobian = jacobian.at[d.pair_bins, d.pair_params].add(pairs, unique_indices=unique)

    squares = jacobian.T @ (p.curvature[:, None] * jacobian) + jnp.diag(curvature)
    all_log_rows = _columns(log_rows, d.row_param_of_param)
    half = _columns((0.5 * sums.rows[:, None] * all_log_rows + shift_rows).T @ log_rows, d.row_param_of_param)
    if n_gammas:
        mixed = mixed * pick(p.inverse, d.gammas)[:, None]
        mixed = jnp.concatenate([mixed, jnp.zeros((1, n), mixed.dtype)])
        half = half + mixed[d.gamma_of_param]
        if len(d.double):
            cell, one, other = d.double.T
            values = 0.5 * sums.cells[cell] * pick(p.inverse, one) * pick(p.inverse, other)
            half = half.at[one, other].add(values)
    # The products above put u * u on the diagonal, where a factor's own second derivative belongs.
    diagonal = second_derivatives(likelihood, p, sums) + 2.0 * (all_log_rows * shift_rows).sum(0)
    return squares + jnp.where(jnp.eye(n, dtype=bool), diagonal, half + half.T), squares


def _columns(x: Array, index: Any) -> Array:
    """Columns of ``x`` in the order of ``index``, zero where it points beyond them."""
    return jnp.concatenate([x, jnp.zeros((x.shape[0], 1), x.dtype)], axis=1)[:, index]


def second_derivatives(likelihood: Arrays, p: Parts, sums: Sums) -> Array:
    """Each parameter's own second derivative of the yields, summed with the bins' slopes: (n_params,)."""
    entries = p.second * _pick(sums.rows, likelihood.structure.chunk_rows)
    shifts = p.basis.d2p * sums.shifts[0] + p.basis.d2q * sums.shifts[1]
    return _collect(likelihood, None, sums, entries, shifts)


# The rules below give the written-out derivatives to JAX. A derivative of theirs (third order, or with respect to the
# arrays) falls back on the plain functions, which are right for every input, a zero factor included.


def plain_gradient(likelihood: Arrays, params: Array, data: Array, walls: Walls | None) -> Array:
    return jax.grad(deviance, argnums=1)(likelihood, params, data, walls)


def _plain_hessian(likelihood: Arrays, params: Array, data: Array, walls: Walls | None) -> Array:
    return jax.jacfwd(plain_gradient, argnums=1)(likelihood, params, data, walls)


@jax.custom_jvp
def gradient(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> Array:
    """d(deviance) / d(params), shape (n_params,)."""
    return _value_and_gradient(likelihood, params, data, walls)[1]


@gradient.defjvp
def _gradient_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return gradient(*primals), jax.jvp(plain_gradient, primals, tangents)[1]


@jax.custom_jvp
def hessian(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> Array:
    """d2(deviance) / d(params)2, shape (n_params, n_params)."""
    return curvatures(likelihood, params, data, walls)[0]


@hessian.defjvp
def _hessian_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return hessian(*primals), jax.jvp(_plain_hessian, primals, tangents)[1]


@jax.custom_jvp
def value_and_gradient(
    likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None
) -> tuple[Array, Array]:
    """The deviance and its gradient with respect to the parameters, in one pass."""
    return _value_and_gradient(likelihood, params, data, walls)


@value_and_gradient.defjvp
def _value_and_gradient_jvp(primals: Any, tangents: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    value = jax.jvp(deviance, primals, tangents)[1]
    return value_and_gradient(*primals), (value, jax.jvp(plain_gradient, primals, tangents)[1])


def fast_deviance(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> Array:
    """The deviance, with the written-out gradient as its derivative with respect to the parameters."""
    leaves, tree = jax.tree.flatten(likelihood)
    return _deviance_of_leaves(tree, leaves, params, data, walls)


# The likelihood crosses flat: its rule is told which tangents are zero, and a Arrays of such markers is none.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _deviance_of_leaves(tree: Any, leaves: list[Array], params: Array, data: Array, walls: Walls | None) -> Array:
    likelihood = jax.tree.unflatten(tree, leaves)
    return _value(likelihood, parts_of(likelihood, params, data, walls), data, walls)


def _deviance_jvp(tree: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    leaves, params, data, walls = primals
    d_leaves, d_params, *d_others = tangents

    def plain(leaves: list[Array], params: Array, data: Array, walls: Walls | None) -> Array:
        return deviance(jax.tree.unflatten(tree, leaves), params, data, walls)

    if _still(d_params):
        return jax.jvp(plain, primals, _filled(tangents))
    value, slope = value_and_gradient(jax.tree.unflatten(tree, leaves), params, data, walls)
    tangent = (slope * d_params).sum()
    if not _still((d_leaves, d_others)):
        rest = _filled((d_leaves, *d_others))
        tangent = tangent + jax.jvp(lambda x, *z: plain(x, params, *z), (leaves, data, walls), rest)[1]
    return value, tangent


_deviance_of_leaves.defjvp(_deviance_jvp, symbolic_zeros=True)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _still(tangents: Any) -> bool:
    """Whether nothing in a tree of tangents moves."""
    return all(_is_zero(leaf) for leaf in jax.tree.leaves(tangents, is_leaf=_is_zero))


def _filled(tangents: Any) -> Any:
    """The tangents with zeros written out."""
    return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype) if _is_zero(t) else t, tangents, is_leaf=_is_zero)
