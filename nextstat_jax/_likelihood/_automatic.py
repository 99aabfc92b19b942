"""Likelihoods with derivatives by JAX: a deviance is enough."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base._errors import ModelError
from .._minimize._dense import Dense
from ._protocol import Attempts, Evaluation, Likelihood
from ._starts import plain_starts

# An eigenvalue of a stand-in for a Hessian is at least this part of the largest.
_LEAST = 1e-10


class NoBarrier(NamedTuple):
    """Nothing keeps a fit inside the domain but the minimizer, which backs away from infinite values.

    Attributes:
        multipliers: None, shape (0,).
    """

    multipliers: Array


class Automatic(Likelihood):
    """A likelihood that is a differentiable function of parameters and data, without walls and without toys.

    Subclasses are frozen pytrees with the attributes of ``Likelihood`` and a ``deviance``; they may know more of
    everything else.
    """

    @property
    def dtype(self) -> np.dtype:
        """That of the initial parameters."""
        return np.dtype(self.init.dtype)

    @abstractmethod
    def deviance(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """See ``Likelihood``, like the other methods; +inf or NaN outside the domain."""

    def gradient(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """In reverse mode."""
        return jax.grad(self.deviance)(params, data, barrier)

    def hessian(self, params: Array, data: Array, barrier: Any = None) -> Dense:
        """Forward over reverse."""
        return Dense(jax.hessian(self.deviance)(params, data, barrier))

    def evaluate(self, params: Array, data: Array, barrier: Any) -> Evaluation:
        """A point whose gradient is not finite lies outside the domain."""
        value, gradient = jax.value_and_grad(self.deviance)(params, data, barrier)
        return guarded(value, gradient, jnp.zeros((0,), value.dtype))

    def curvatures(self, params: Array, data: Array, barrier: Any) -> tuple[Dense, Dense]:
        """The stand-in has the absolute values of the Hessian's eigenvalues."""
        hessian = self.hessian(params, data, barrier).dense()
        hessian = 0.5 * (hessian + hessian.T)
        return Dense(hessian), Dense(absolute(hessian))

    def barrier(self, multipliers: Array | None = None) -> NoBarrier:
        """None."""
        return NoBarrier(jnp.zeros((0,), self.init.dtype) if multipliers is None else multipliers)

    def settled(self, multipliers: Array) -> NoBarrier:
        """None."""
        return NoBarrier(multipliers)

    def softened(self, multipliers: Array) -> NoBarrier:
        """None."""
        return NoBarrier(multipliers)

    def tighten(self, barrier: NoBarrier, aux: Any, data: Array) -> tuple[Array, Array]:
        """Nothing is violated."""
        del aux, data
        return barrier.multipliers, jnp.zeros((), self.init.dtype)

    def bare(self, value: Array, barrier: NoBarrier, aux: Any, data: Array) -> Array:
        """The value itself."""
        del barrier, aux, data
        return value

    def constant(self, data: Array) -> Array:
        """None."""
        del data
        return jnp.zeros((), self.init.dtype)

    def attempts(self, data: Array, poi: Array) -> Attempts:
        """The initial parameters, and these without a signal, for fits that fail."""
        del data
        return plain_starts(self.init, poi, jnp.full((2,), jnp.inf, self.init.dtype))

    def trust(self, params: Array) -> Array | None:
        """Everywhere."""
        del params

    def constraints(self, data: Array) -> tuple[Array, Array]:
        """None is known."""
        del data
        return jnp.zeros_like(self.init), jnp.zeros_like(self.init)

    def expected(self, params: Array) -> Array:
        """Not known; ``ModelError``."""
        raise ModelError(f"this needs the data that parameters predict, which {self._what()} does not know")

    def expected_at(self, params: Array, aux: Any) -> Array:
        """As ``expected``."""
        del aux
        return self.expected(params)

    def throw(self, params: Array, key: Array) -> Array:
        """Not known; ``ModelError``."""
        raise ModelError(f"{self._what()} has no pseudo-experiments: it does not know how its data are distributed")

    def _what(self) -> str:
        return "this likelihood"


def guarded(value: Array, gradient: Array, aux: Any) -> Evaluation:
    """An evaluation whose value is +inf where it is not finite with all of its gradient, which is finite in any case.

    A gradient that is not known must not read as one that vanishes.
    """
    finite = jnp.isfinite(gradient)
    good = jnp.isfinite(value) & finite.all()
    return Evaluation(jnp.where(good, value, jnp.inf), jnp.where(finite, gradient, 0.0), aux)


def absolute(matrix: Array) -> Array:
    """A symmetric matrix with the absolute values of its eigenvalues, those near 0 lifted; 0 for what is not finite."""
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(matrix), matrix, 0.0))
    size = jnp.abs(values)
    return (vectors * jnp.maximum(size, _LEAST * size.max())) @ vectors.T
