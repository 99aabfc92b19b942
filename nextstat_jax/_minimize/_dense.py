"""Symmetric matrices held as dense arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from .._base._doors import pytree
from .._base._numerics import lightly
from ._matrix import Factor, Spread, Symmetric, cholesky, lower_solve


@pytree
@dataclass(frozen=True)
class Dense(Symmetric):
    """All elements of a matrix.

    Attributes:
        array: Shape (n, n).
    """

    array: Array

    def times(self, x: Array) -> Array:
        """See ``Symmetric``; the other methods likewise."""
        return self.array @ x

    @property
    def diagonal(self) -> Array:
        """See ``Symmetric``."""
        return jnp.diagonal(self.array)

    def plus(self, diagonal: Array) -> Dense:
        """See ``Symmetric``."""
        return Dense(self.array + jnp.diag(diagonal))

    def factorized(self, pinned: Array, shift: Array | float = 0.0) -> DenseFactor:
        """By Cholesky."""
        free = self._free(pinned)
        matrix = jnp.where(free[:, None] & free[None, :], self.array, 0.0)
        return DenseFactor(cholesky(matrix + jnp.diag(jnp.where(free, shift, 1.0))))

    def unit_factor(self) -> DenseFactor:
        """See ``Symmetric``."""
        return DenseFactor(jnp.eye(self.array.shape[0], dtype=self.array.dtype))

    def inverse(self, pinned: Array) -> DenseSpread:
        """See ``Symmetric``."""
        inverse = self.factorized(pinned).solve(jnp.eye(self.array.shape[0], dtype=self.array.dtype))
        free = self._free(pinned)
        return DenseSpread(jnp.where(free[:, None] & free[None, :], 0.5 * (inverse + inverse.T), 0.0))

    def dense(self) -> Array:
        """The array itself."""
        return self.array

    def _free(self, pinned: Array) -> Array:
        """What can move and has an effect: its row is not zero."""
        return ~pinned & (self.array != 0).any(1)


@pytree
@dataclass(frozen=True)
class DenseFactor(Factor):
    """A lower triangular factor.

    Attributes:
        lower: Shape (n, n).
    """

    lower: Array

    def solve(self, rhs: Array) -> Array:
        """See ``Factor``."""
        columns = rhs[:, None] if rhs.ndim == 1 else rhs
        full = lower_solve(self.lower, lower_solve(self.lower, columns), transposed=True)
        return full[:, 0] if rhs.ndim == 1 else full


@pytree
@dataclass(frozen=True)
class DenseSpread(Spread):
    """All elements of an inverse.

    Attributes:
        array: Shape (n, n), or with leading axes for a batch.
    """

    array: Array

    @property
    def variances(self) -> Any:
        """See ``Spread``; the other methods likewise."""
        return lightly(lambda xp, x: xp.diagonal(x, axis1=-2, axis2=-1), self.array)

    def times(self, x: Array) -> Array:
        """See ``Spread``."""
        return self.array @ x

    def columns(self, places: Any) -> Array:
        """See ``Spread``."""
        return self.array.at[places].get(mode="fill", fill_value=0.0)

    def dense(self) -> Any:
        """The array itself."""
        return self.array
