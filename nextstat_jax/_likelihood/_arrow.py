"""The Hessian of a large likelihood, as an arrow: parameters of single bins are its blocks, all others its border.

The same products as in ``_derivatives.py``, laid out by pieces of bins: the Jacobian has a row for each parameter of
the border and a column for each bin, and the Hessian of the many gammas is a number a bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._minimize._arrow import Arrow, Rows
from ._counts import Walls
from ._derivatives import Parts, constraint_gradient, parts_of, plain_gradient, second_derivatives, sums_of
from ._histfactory import Arrays
from ._segments import owned, take
from ._structure import Structure, doubles, inverse_of, row_logs


@dataclass(frozen=True)
class Tables:
    """What meets what. N bins by piece, padded; k parameters of one bin at most; b parameters of the border.

    Attributes:
        rows: Which parameters are the border, and which the blocks.
        factors: Place in the border of what multiplies each cell, b for none, shape (most, n_cells).
        logs: Where the logarithmic derivatives of the rows by the border stand, shape (n_rows, b).
        shifts: Place in the border of each histosys of the bundles, b for none, shape (C, K).
        slots: Cells that each local parameter of a bin multiplies, boolean, shape (k, G, S, B).
        whole: Of each of the k, whether these are all cells of a bin, wherever there is one.
        shared: Cells that a gamma of the border multiplies, and its place there, shape (m, 2).
        both: Two such gammas on one cell: (cell, place, other place), shape (m, 3).
    """

    rows: Rows
    factors: np.ndarray
    logs: np.ndarray
    shifts: np.ndarray
    slots: np.ndarray
    whole: tuple[bool, ...]
    shared: np.ndarray
    both: np.ndarray


@lru_cache(maxsize=64)
def tables_of(s: Structure) -> Tables:
    """The tables of a structure that is laid out in pieces."""
    n, pieces = s.n_params, s.pieces
    g, _, b = pieces.shape
    border, local, bin_of_local = _split(s)
    column = inverse_of(border, n + 1)
    by_place = np.append(local, n)[owned(pieces.place_of_bin[bin_of_local], g * b, len(local))].astype(np.int32)
    slots, whole = _slots(s, by_place)
    factors = column[s.cell_factors]
    factor, cell = np.nonzero(factors < len(border))
    return Tables(
        Rows(n, border, by_place.T),
        factors,
        row_logs(s, column[:n], len(border)),
        column[np.append(s.shift_params, n)[s.shift_layout.shifts]] if s.n_shifts else np.zeros((0, 0), np.int32),
        slots,
        whole,
        np.stack([cell, factors[factor, cell]], 1).astype(np.int32),
        doubles(factors, len(border)),
    )


def _split(s: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters of the border, local ones, and the bin of each of these: it acts on that one and on nothing else."""
    n = s.n_params
    factor, cell = np.nonzero(s.cell_factors < n)
    owner, place = s.cell_factors[factor, cell], s.cell_bins[cell]
    lowest, highest = np.full(n, s.n_bins), np.full(n, -1)
    np.minimum.at(lowest, owner, place)
    np.maximum.at(highest, owner, place)
    wide = np.append(lowest != highest, True)
    for others in (s.row_factors, s.entry_params, s.shift_params):
        wide[others.reshape(-1)] = True
    local = np.flatnonzero(~wide[:n])
    return np.flatnonzero(wide[:n]), local, lowest[local]


def _slots(s: Structure, by_place: np.ndarray) -> tuple[np.ndarray, tuple[bool, ...]]:
    """Cells that each local parameter multiplies, (k, G, S, B), and whether those are all of the bin."""
    n, cells = s.n_params, s.pieces.cells
    g, most, b = cells.shape
    none = np.full((len(s.cell_factors), 1), n, np.int32)
    owners = np.append(s.cell_factors, none, axis=1)[:, cells]
    slots, whole = np.zeros((len(by_place), g, most, b), bool), []
    for slot, mine in zip(slots, by_place.reshape(-1, g, 1, b), strict=True):
        slot[:] = ((owners == mine) & (mine < n)).any(0)
        whole.append(bool((slot | (mine == n) | (cells == s.n_cells)).all()))
    return slots, tuple(whole)


@dataclass(frozen=True)
class _Laid:
    """What a Jacobian is made of, by piece.

    Attributes:
        logs: Logarithmic derivatives of the rows by the border, shape (n_rows, b).
        cells: Yields, shape (G, S, B).
        moved: Derivatives of the cells through each histosys, shape (C, K, B); None without histosys.
        inverse: 1 / parameter of the border where it multiplies yields, shape (b,).
    """

    tables: Tables
    structure: Structure
    logs: Array
    cells: Array
    moved: Array | None
    inverse: Array

    def jacobian(self, chosen: Any = None) -> Array:
        """Derivatives of the bins by the border, shape (b, G, B); of some cells only, (G, S, B), if they are given."""
        t, s = self.tables, self.structure
        cells = self.cells if chosen is None else jnp.where(chosen, self.cells, 0.0)
        logs = take(self.logs, s.pieces.rows, 0.0)
        total = jnp.zeros((logs.shape[2], cells.shape[0], cells.shape[2]), cells.dtype)
        there = range(cells.shape[1]) if chosen is None else np.flatnonzero(chosen.any((0, 2))).tolist()
        for k in there:
            total = total + logs[:, k].T[:, :, None] * cells[:, k]
        if self.moved is not None:
            moved = self.moved
            if chosen is not None:
                moved = jnp.where(s.shift_layout.picked(chosen)[:, None], moved, 0.0)
            where = t.shifts, s.shift_layout.piece_of[:, None]
            total = total.at[where].add(moved, mode="drop")
        if len(t.shared):
            cell, place = t.shared.T
            where = np.unravel_index(s.pieces.place_of_cell[cell], s.pieces.shape)
            total = total.at[place, where[0], where[2]].add(cells[where] * self.inverse[place])
        return total


def _laid(likelihood: Arrays, t: Tables, p: Parts) -> _Laid:
    s = likelihood.structure
    logs = take(jnp.concatenate([p.first.reshape(-1), p.inverse]), t.logs, 0.0)
    moved = None
    if s.n_shifts:
        moved = s.shift_layout.moved(likelihood.shifts, p.basis.dp, p.basis.dq, p.scale)
    inverse = p.inverse[t.rows.border]
    return _Laid(t, s, logs, s.pieces.of_cells(p.cells), moved, inverse)


def curvatures(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> tuple[Arrow, Arrow]:
    """Second derivatives of the deviance and their positive semidefinite part, as in ``_derivatives``; likewise."""
    s = likelihood.structure
    t = tables_of(s)
    p = parts_of(likelihood, params, data, walls)
    sums = sums_of(likelihood, p)
    _, curvature = constraint_gradient(likelihood, p, data)
    laid = _laid(likelihood, t, p)
    b, n = len(t.rows.border), t.rows.local.shape[0]
    one, many = t.rows.split(curvature)
    # Each local parameter: what it multiplies, and by how much that moves its bin.
    inverse = t.rows.split(p.inverse)[1]
    k = inverse.shape[1]
    yields = jnp.where(t.slots, laid.cells, 0.0)
    own = yields.sum(2).reshape(k, n) * inverse.T
    weight, slope = (s.pieces.of_bins(x).reshape(n) for x in (p.curvature, p.slope))
    # XLA would compute what stands here again for each of its uses, element by element.
    flat, first, second = lax.optimization_barrier(
        (laid.jacobian().reshape(b, n), weight * own, slope * inverse.T)
    )  # fmt: skip
    squares = (flat * weight) @ flat.T + jnp.diag(one)
    exact = squares + _second(likelihood, t, p, sums, laid, slope)
    across = [flat * x for x in first]
    theirs = [
        flat if whole else laid.jacobian(slot).reshape(b, n) for slot, whole in zip(t.slots, t.whole, strict=True)
    ]
    mixed = [x + mine * y for x, mine, y in zip(across, theirs, second, strict=True)]
    diagonal = jnp.eye(k, dtype=bool)
    blocks = jnp.einsum("in,jn->nij", first, own) + jnp.where(diagonal, many[:, :, None], 0.0)
    bent = blocks
    if k > 1:
        both = jnp.einsum("igsb,jgsb->gbij", yields, jnp.asarray(t.slots, yields.dtype)).reshape(n, k, k)
        both = both * second.T[:, :, None] * inverse[:, None, :]
        bent = blocks + jnp.where(diagonal, 0.0, both)
    return (
        Arrow(exact, _stacked(mixed, flat), bent, t.rows),
        Arrow(squares, _stacked(across, flat), blocks, t.rows),
    )


def _stacked(parts: list[Array], like: Array) -> Array:
    """Of k arrays of shape (b, N), one of shape (b, N, k)."""
    return jnp.stack(parts, axis=2) if parts else jnp.zeros((*like.shape, 0), like.dtype)


def _second(likelihood: Arrays, t: Tables, p: Parts, sums: Any, laid: _Laid, slope: Array) -> Array:
    """Second derivatives of the yields by the border, times the slopes of their bins: shape (b, b)."""
    s = likelihood.structure
    border, logs = len(t.rows.border), laid.logs
    shift_rows = jnp.zeros_like(logs)
    weighted = None
    if laid.moved is not None:
        weighted = laid.moved * slope.reshape(s.pieces.bins.shape)[s.shift_layout.piece_of][:, None]
        where = s.shift_layout.rows[:, None], t.shifts
        shift_rows = shift_rows.at[where].add(weighted.sum(2), mode="drop")
    half = (0.5 * sums.rows[:, None] * logs + shift_rows).T @ logs
    if len(t.shared):
        half = half + _shared(laid, sums, weighted)
    diagonal = second_derivatives(likelihood, p, sums)[t.rows.border] + 2.0 * (logs * shift_rows).sum(0)
    return jnp.where(jnp.eye(border, dtype=bool), jnp.diag(diagonal), half + half.T)


def _shared(laid: _Laid, sums: Any, weighted: Array | None) -> Array:
    """The half of the mixed derivatives by gammas of the border, shape (b, b)."""
    s, t, logs, inverse = laid.structure, laid.tables, laid.logs, laid.inverse
    cell, place = t.shared.T
    border = len(inverse)
    spread = jnp.zeros((border, s.n_rows), logs.dtype).at[place, s.cell_rows[cell]].add(sums.cells[cell])
    half = spread @ logs
    if weighted is not None:
        for owners in t.factors:
            theirs = s.shift_layout.picked(np.append(owners, border)[s.pieces.cells])[:, None]
            half = half.at[theirs, t.shifts[:, :, None]].add(weighted, mode="drop")
    half = half * inverse[:, None]
    cell, one, other = t.both.T
    return half.at[one, other].add(0.5 * sums.cells[cell] * inverse[one] * inverse[other])


@jax.custom_jvp
def hessian(likelihood: Arrays, params: Array, data: Array, walls: Walls | None = None) -> Arrow:
    """d2(deviance) / d(params)2; its own derivatives are those of plain functions."""
    return curvatures(likelihood, params, data, walls)[0]


@hessian.defjvp
def _hessian_jvp(primals: Any, tangents: Any) -> tuple[Arrow, Arrow]:
    return hessian(*primals), jax.jvp(_plain, primals, tangents)[1]


def _plain(likelihood: Arrays, params: Array, data: Array, walls: Walls | None) -> Arrow:
    """The Hessian by forward over reverse mode: parameters of different bins are moved together."""
    rows = tables_of(likelihood.structure).rows
    b = len(rows.border)

    def along(direction: Array) -> Array:
        return jax.jvp(lambda x: plain_gradient(likelihood, x, data, walls), (params,), (direction,))[1]

    moved = jax.vmap(along)(rows.directions(params.dtype))
    across, own = jnp.split(take(moved.T, rows.local, 0.0), [b], axis=2)
    return Arrow(moved[:b, rows.border], jnp.moveaxis(across, 2, 0), own, rows)
