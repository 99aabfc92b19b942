"""Symmetric matrices held as dense arrays: factorized, solved, inverted, with rows and columns taken out."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def masked(hessian: Array, pinned: Array, shift: Array | float = 0.0) -> Array:
    """The Hessian with pinned rows and columns replaced by those of the identity, and a shifted diagonal.

    A parameter without any effect on the function counts as pinned: it is nobody else's trouble.
    """
    free = _free(hessian, pinned)
    matrix = jnp.where(free[:, None] & free[None, :], hessian, 0.0)
    return matrix + jnp.diag(jnp.where(free, shift, 1.0))


def _free(hessian: Array, pinned: Array) -> Array:
    """What can move and has an effect: its row is not zero."""
    return ~pinned & (hessian != 0).any(1)


def cholesky(matrix: Array) -> Array:
    """Lower factor; NaN where the matrix is not positive definite."""
    return lax.linalg.cholesky(matrix, symmetrize_input=False)


def solve(factor: Array, rhs: Array) -> Array:
    """Solves ``L L^T x = rhs`` for a vector or for columns."""
    columns = rhs[:, None] if rhs.ndim == 1 else rhs
    half = lax.linalg.triangular_solve(factor, columns, left_side=True, lower=True)
    full = lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    return full[:, 0] if rhs.ndim == 1 else full


def covariance(hessian: Array, pinned: Array) -> Array:
    """Inverse of the Hessian in the parameters that can move, zero elsewhere; NaN if it is not positive definite."""
    n = hessian.shape[0]
    inverse = solve(cholesky(masked(hessian, pinned)), jnp.eye(n, dtype=hessian.dtype))
    free = _free(hessian, pinned)
    return jnp.where(free[:, None] & free[None, :], 0.5 * (inverse + inverse.T), 0.0)
