"""What the minimizer asks of a symmetric matrix: it works on shapes of matrices, never on their elements.

A Hessian may be an array, or an arrow whose many parameters of single bins are eliminated exactly. Both are pytrees, so
that a choice between two matrices of one kind is a choice between their leaves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

T = TypeVar("T")


class Factor(ABC):
    """A factorized matrix; NaN where it is not positive definite."""

    @abstractmethod
    def solve(self, rhs: Array) -> Array:
        """The matrix's inverse times a vector, shape (n,), or times columns, shape (n, m)."""


class Spread(ABC):
    """The inverse of a matrix in the rows that are not held; zero in those that are."""

    @property
    @abstractmethod
    def variances(self) -> Any:
        """Its diagonal, shape (n,)."""

    @abstractmethod
    def times(self, x: Array) -> Array:
        """Its product with a vector, shape (n,), or with columns, shape (n, m)."""

    @abstractmethod
    def columns(self, places: Any) -> Array:
        """Some of its columns, as rows of the result: (m, n) for m places; zero for a place beyond the end."""

    @abstractmethod
    def dense(self) -> Any:
        """All of it, shape (n, n)."""


class Symmetric(ABC):
    """A symmetric matrix of n rows."""

    @abstractmethod
    def times(self, x: Array) -> Array:
        """Its product with a vector, shape (n,)."""

    @property
    @abstractmethod
    def diagonal(self) -> Array:
        """Its diagonal, shape (n,)."""

    @abstractmethod
    def plus(self, diagonal: Array) -> Any:
        """The matrix with this added to its diagonal."""

    @abstractmethod
    def factorized(self, pinned: Array, shift: Array | float = 0.0) -> Any:
        """Its ``Factor``, with ``shift`` added to the diagonal and pinned rows and columns those of the identity.

        A parameter without any effect on the function counts as pinned: it is nobody else's trouble.
        """

    @abstractmethod
    def unit_factor(self) -> Any:
        """The factor of the identity."""

    @abstractmethod
    def inverse(self, pinned: Array) -> Any:
        """Its ``Spread`` with these rows held, and those without any effect; NaN if it is not positive definite."""

    @abstractmethod
    def dense(self) -> Array:
        """All of it, shape (n, n)."""


def blank(shapes: T) -> T:
    """Of what was traced, the same with zeros."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def either(condition: Array, a: T, b: T) -> T:
    """One of two matrices of one kind."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def finite(tree: Any) -> Array:
    """Whether all numbers of a matrix are, boolean, a scalar."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def cholesky(matrix: Array) -> Array:
    """Lower factor; NaN where the matrix is not positive definite."""
    return lax.linalg.cholesky(matrix, symmetrize_input=False)


def lower_solve(factor: Array, rhs: Array, *, transposed: bool = False) -> Array:
    """``L^-1`` or ``L^-T`` times columns."""
    return lax.linalg.triangular_solve(factor, rhs, left_side=True, lower=True, transpose_a=transposed)
