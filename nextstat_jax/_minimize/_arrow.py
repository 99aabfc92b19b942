"""Symmetric matrices in the form of an arrow: a border, and tiny blocks along the diagonal that are eliminated exactly.

    H = [[A, B], [B^T, D]]        D = diag(D_1, ..., D_N), each of a few rows

With ``D_i = L_i L_i^T`` and ``W = B L^-T`` the matrix is positive definite if all blocks are and ``S = A - W W^T`` is.
A product, a solution and the inverse follow from S, which is as large as the border, and from the blocks. Of a
likelihood with one Monte Carlo parameter a bin the border is what acts on many bins: a hundred rows instead of ten
thousand.

References:
    Block elimination (Schur complement): G. H. Golub, C. F. Van Loan, Matrix Computations (2013), section 3.2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base._doors import pytree
from ._matrix import Factor, Spread, Symmetric, cholesky, lower_solve


class Rows:
    """Which rows are the border's and which the blocks'; equal where all tables are.

    Attributes:
        n: Rows of the matrix.
        border: Rows of the border, shape (b,).
        local: Rows of each block, padded with n, shape (N, k).
        place: Where each row stands in border and blocks, one after the other, shape (n,).
    """

    def __init__(self, n: int, border: np.ndarray, local: np.ndarray) -> None:
        self.n, self.border, self.local = n, border.astype(np.int32), local.astype(np.int32)
        order = np.concatenate([self.border, self.local.reshape(-1)])
        self.place = np.zeros(n + 1, np.int32)
        self.place[order] = np.arange(len(order))
        self.place = self.place[:n]
        self._digest = hashlib.sha256(b"".join((str(local.shape).encode(), order.tobytes()))).hexdigest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Rows) and self._digest == other._digest)

    def split(self, x: Array, fill: Any = 0) -> tuple[Array, Array]:
        """Along its first axis, of n rows: the border's (b, ...), and the blocks' (N, k, ...)."""
        return x[self.border], x.at[self.local].get(mode="fill", fill_value=fill)

    def directions(self, dtype: Any) -> Array:
        """Unit vectors of the border, then one for each place in the blocks, the same in all: shape (b + k, n)."""
        b, k = len(self.border), self.local.shape[1]
        result = np.zeros((b + k, self.n + 1))
        result[np.arange(b), self.border] = 1.0
        result[b + np.arange(k), self.local] = 1.0
        return jnp.asarray(result[:, : self.n], dtype)

    def joined(self, border: Array, local: Array) -> Array:
        """The inverse of ``split``."""
        return jnp.concatenate([border, local.reshape(-1, *border.shape[1:])])[self.place]


@pytree
@dataclass(frozen=True)
class Arrow(Symmetric):
    """A matrix in the form of an arrow.

    Attributes:
        border: A, shape (b, b).
        across: B, shape (b, N, k); 0 where a block has no row.
        blocks: D, shape (N, k, k); likewise.
        rows: Which rows are where.
    """

    border: Array
    across: Array
    blocks: Array
    rows: Rows = field(metadata={"static": True})

    def times(self, x: Array) -> Array:
        """See ``Symmetric``; the other methods likewise."""
        one, many = self.rows.split(x)
        upper = self.border @ one + _flat(self.across) @ many.reshape(-1)
        lower = (one @ _flat(self.across)).reshape(many.shape) + (self.blocks * many[:, None, :]).sum(2)
        return self.rows.joined(upper, lower)

    @property
    def diagonal(self) -> Array:
        """See ``Symmetric``."""
        return self.rows.joined(jnp.diagonal(self.border), jnp.diagonal(self.blocks, axis1=1, axis2=2))

    def plus(self, diagonal: Array) -> Arrow:
        """See ``Symmetric``."""
        one, many = self.rows.split(diagonal)
        return Arrow(self.border + jnp.diag(one), self.across, self.blocks + _on_diagonals(many), self.rows)

    def factorized(self, pinned: Array, shift: Array | float = 0.0) -> ArrowFactor:
        """By elimination of the blocks."""
        one, many = self._free(pinned)
        shifts = self.rows.split(jnp.broadcast_to(jnp.asarray(shift, self.border.dtype), pinned.shape))
        border = jnp.where(one[:, None] & one[None, :], self.border, 0.0)
        border = border + jnp.diag(jnp.where(one, shifts[0], 1.0))
        blocks = jnp.where(many[:, :, None] & many[:, None, :], self.blocks, 0.0)
        small = _cholesky(blocks + _on_diagonals(jnp.where(many, shifts[1], 1.0)))
        white = _whitened(small, jnp.where(one[:, None, None] & many[None], self.across, 0.0))
        flat = _flat(white)
        return ArrowFactor(cholesky(border - flat @ flat.T), white, small, self.rows)

    def unit_factor(self) -> ArrowFactor:
        """See ``Symmetric``."""
        dtype = self.border.dtype
        unit = jnp.broadcast_to(jnp.eye(self.blocks.shape[1], dtype=dtype), self.blocks.shape)
        return ArrowFactor(jnp.eye(len(self.border), dtype=dtype), jnp.zeros_like(self.across), unit, self.rows)

    def inverse(self, pinned: Array) -> ArrowSpread:
        """See ``Symmetric``."""
        factor = self.factorized(pinned)
        one, many = self._free(pinned)
        unit = jnp.eye(len(self.border), dtype=self.border.dtype)
        half = lower_solve(factor.lower, unit)
        border = jnp.where(one[:, None] & one[None, :], half.T @ half, 0.0)
        # Rows that are held are those of the identity, and zero in W: they vanish in what follows.
        slope = _back(factor.small, factor.white)
        eye = jnp.broadcast_to(jnp.eye(many.shape[1], dtype=unit.dtype), self.blocks.shape)
        inner = _block_solve(factor.small, eye)
        inner = jnp.where(many[:, :, None] & many[:, None, :], inner, 0.0)
        moved = (border @ _flat(slope)).reshape(slope.shape)
        own = jnp.diagonal(inner, axis1=1, axis2=2) + (slope * moved).sum(0)
        variances = self.rows.joined(jnp.diagonal(border), own)
        return ArrowSpread(variances, border, slope, inner, self.rows)

    def dense(self) -> Array:
        """See ``Symmetric``."""
        n, border, local = self.rows.n, self.rows.border, self.rows.local
        flat = local.reshape(-1)
        whole = jnp.zeros((n, n), self.border.dtype)
        whole = whole.at[border[:, None], border[None, :]].set(self.border)
        whole = whole.at[border[:, None], flat[None, :]].set(_flat(self.across), mode="drop")
        whole = whole.at[flat[:, None], border[None, :]].set(_flat(self.across).T, mode="drop")
        return whole.at[local[:, :, None], local[:, None, :]].set(self.blocks, mode="drop")

    def _free(self, pinned: Array) -> tuple[Array, Array]:
        """What can move and has an effect, in the border and in the blocks."""
        one, many = self.rows.split(pinned, True)
        across = self.across != 0
        one = ~one & ((self.border != 0).any(1) | across.any((1, 2)))
        return one, ~many & ((self.blocks != 0).any(2) | across.any(0))


@pytree
@dataclass(frozen=True)
class ArrowFactor(Factor):
    """A factorized arrow.

    Attributes:
        lower: Of the Schur complement S, shape (b, b).
        white: W, shape (b, N, k).
        small: L of each block, shape (N, k, k).
        rows: Which rows are where.
    """

    lower: Array
    white: Array
    small: Array
    rows: Rows = field(metadata={"static": True})

    def solve(self, rhs: Array) -> Array:
        """See ``Factor``."""
        columns = rhs[:, None] if rhs.ndim == 1 else rhs
        one, many = self.rows.split(columns)
        white = _flat(self.white)
        half = _forward(self.small, many)
        inner = one - white @ half.reshape(white.shape[1], columns.shape[1])
        one = lower_solve(self.lower, lower_solve(self.lower, inner), transposed=True)
        many = _backward(self.small, half - (white.T @ one).reshape(half.shape))
        full = self.rows.joined(one, many)
        return full[:, 0] if rhs.ndim == 1 else full


@pytree
@dataclass(frozen=True)
class ArrowSpread(Spread):
    """The inverse of an arrow: that of a border as large as S, and what follows for the blocks.

    Attributes:
        own: The diagonal, shape (n,).
        border: ``S^-1``, shape (b, b).
        slope: ``B D^-1``, shape (b, N, k): how rows of blocks follow those of the border, but for the sign.
        inner: ``D^-1``, shape (N, k, k).
        rows: Which rows are where.
    """

    own: Array
    border: Array
    slope: Array
    inner: Array
    rows: Rows = field(metadata={"static": True})

    @classmethod
    def of_variances(cls, variances: Array, rows: Rows) -> ArrowSpread:
        """Without correlations."""
        one, many = rows.split(variances)
        slope = jnp.zeros((len(one), *many.shape), variances.dtype)
        return cls(variances, jnp.diag(one), slope, _on_diagonals(many), rows)

    @property
    def variances(self) -> Array:
        """See ``Spread``; the other methods likewise."""
        return self.own

    def times(self, x: Array) -> Array:
        """See ``Spread``."""
        columns = x[:, None] if x.ndim == 1 else x
        one, many = self.rows.split(columns)
        slope = _flat(self.slope)
        one = self.border @ (one - slope @ many.reshape(slope.shape[1], columns.shape[1]))
        many = (self.inner[..., None] * many[:, None]).sum(2) - (slope.T @ one).reshape(many.shape)
        full = self.rows.joined(one, many)
        return full[:, 0] if x.ndim == 1 else full

    def columns(self, places: Any) -> Array:
        """See ``Spread``."""
        unit = jnp.arange(self.rows.n)[:, None] == jnp.asarray(places)[None, :]
        return self.times(unit.astype(self.border.dtype)).T

    def dense(self) -> Array:
        """See ``Spread``."""
        return self.times(jnp.eye(self.rows.n, dtype=self.border.dtype))


def _flat(across: Array) -> Array:
    return across.reshape(across.shape[0], across.shape[1] * across.shape[2])


def _on_diagonals(x: Array) -> Array:
    """Of shape (N, k), as diagonals of (N, k, k)."""
    return x[:, :, None] * jnp.eye(x.shape[1], dtype=x.dtype)


# Blocks of one row, which are nearly all of them, are numbers.


def _cholesky(blocks: Array) -> Array:
    """Lower factors; NaN where a block is not positive definite."""
    if blocks.shape[1] <= 1:
        return jnp.where(blocks > 0, jnp.sqrt(jnp.where(blocks > 0, blocks, 1.0)), jnp.nan)
    return cholesky(blocks)


def _forward(small: Array, x: Array) -> Array:
    """``L^-1 x`` for x of shape (N, k, m)."""
    return x / small.reshape(*small.shape[:2], 1) if small.shape[1] <= 1 else lower_solve(small, x)


def _backward(small: Array, x: Array) -> Array:
    """``L^-T x``."""
    return x / small.reshape(*small.shape[:2], 1) if small.shape[1] <= 1 else lower_solve(small, x, transposed=True)


def _block_solve(small: Array, x: Array) -> Array:
    return _backward(small, _forward(small, x))


def _whitened(small: Array, across: Array) -> Array:
    """``B L^-T`` for B of shape (b, N, k)."""
    if small.shape[1] <= 1:
        return across / small.reshape(small.shape[:2])
    return jnp.moveaxis(lower_solve(small, jnp.moveaxis(across, 0, 2)), 2, 0)


def _back(small: Array, white: Array) -> Array:
    """``W L^-1``, which is ``B D^-1``."""
    if small.shape[1] <= 1:
        return white / small.reshape(small.shape[:2])
    return jnp.moveaxis(lower_solve(small, jnp.moveaxis(white, 0, 2), transposed=True), 2, 0)
