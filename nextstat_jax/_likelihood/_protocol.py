"""What the driver may ask of a likelihood: the one protocol behind every fit.

A likelihood is a pytree of arrays without names. Values are deviances: the NLL less a constant of the data, so that
differences of two of them do not cancel. Its derivatives may be written out or come from JAX; what a question gets is
the same.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._minimize._matrix import Symmetric


class Evaluation(NamedTuple):
    """One evaluation during a minimization.

    Attributes:
        value: Objective, a scalar; +inf outside the domain.
        gradient: Its gradient, shape (n_params,).
        aux: What ``tighten``, ``bare`` and ``expected_at`` need of the point.
        jump: Half of what the slope jumps by in parameters that have a kink at 0, shape (n_params,); None without
            kinks. On a kink the gradient is the mean of its sides.
    """

    value: Array
    gradient: Array
    aux: Any
    jump: Any = None


class Attempts(NamedTuple):
    """Further starts of a fit: which points, and when they are worth a try.

    Attributes:
        points: Where each begins, shape (n_attempts, n_params).
        first: Which parameters are held until the others have found their place, shape (n_attempts, n_params).
        worth: The deviance that the best fit so far must exceed for the attempt to be made, shape (n_attempts,); +inf
            for never.
    """

    points: Array
    first: Array
    worth: Array


@runtime_checkable
class Likelihood(Protocol):
    """The arrays of a likelihood, and what they answer.

    Attributes:
        init: Initial parameters, shape (n_params,).
        lower: Lower bounds.
        upper: Upper bounds.
        frozen: 1 where a parameter cannot move, else 0.
        observed: The observed data.
    """

    init: Array
    lower: Array
    upper: Array
    frozen: Array
    observed: Array

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of the parameters."""
        ...

    @property
    def kinks(self) -> np.ndarray | None:
        """Parameters in which the objective has a kink at 0, boolean, shape (n_params,); None where none has."""
        return None

    @property
    def common(self) -> Any:
        """The same in a form that it shares with others of about its size (``Common``), or None; on the host."""
        return None

    def poles(self, data: Array) -> Array | None:
        """Parameters towards whose value 0 the objective grows without bound: (n_params,); None where none is known."""
        del data

    @property
    def large(self) -> bool:
        """Whether fits take so long that their programs are compiled with all of XLA's care."""
        return False

    def opened(self) -> Any:
        """The likelihood as a compiled function sees it."""
        return self

    def n_data(self, data: Array) -> Any:
        """Number of data, an integer."""
        return len(data)

    def stranded(self, params: Array, stayed: Array, aux: Any, data: Array) -> Array:
        """Whether a fit ended here for want of a slope: boolean, a scalar.

        ``stayed``, of shape (n_params,), says which parameters were free and are where they began.
        """
        del params, stayed, aux, data
        return jnp.array(False)

    @abstractmethod
    def deviance(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """The objective, a scalar; differentiable in everything, to any order."""

    @abstractmethod
    def gradient(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """Its gradient with respect to the parameters, differentiable in everything."""

    @abstractmethod
    def hessian(self, params: Array, data: Array, barrier: Any = None) -> Symmetric:
        """Its second derivatives, differentiable in everything."""

    @abstractmethod
    def evaluate(self, params: Array, data: Array, barrier: Any) -> Evaluation:
        """Value and gradient in one pass, for the minimizer; never differentiated."""

    @abstractmethod
    def curvatures(self, params: Array, data: Array, barrier: Any) -> tuple[Symmetric, Symmetric]:
        """The Hessian and a positive semidefinite stand-in of its kind, for the minimizer; never differentiated."""

    @abstractmethod
    def barrier(self, multipliers: Any = None) -> Any:
        """What keeps a fit inside the domain where the objective has a wall: ``multipliers`` is how hard it pushes.

        Whatever the type of the result, its field ``multipliers`` can be replaced.
        """

    @abstractmethod
    def settled(self, multipliers: Array) -> Any:
        """The barrier that holds a minimum, standing still, for derivatives of the minimum.

        Both this and ``softened`` are not differentiated.
        """

    @abstractmethod
    def softened(self, multipliers: Array) -> Any:
        """The barrier that holds a minimum, for its uncertainties: a minimum on an edge may lie inside as well."""

    @abstractmethod
    def tighten(self, barrier: Any, aux: Any, data: Array) -> tuple[Array, Array]:
        """New multipliers at a minimum, and by how much the worst constraint is violated in units of what matters."""

    def inside(self, aux: Any, data: Array) -> Array:
        """Whether a point is in the domain, from what an evaluation kept: where the barrier may hide that it is not."""
        del aux, data
        return jnp.array(True)

    @abstractmethod
    def bare(self, value: Array, barrier: Any, aux: Any, data: Array) -> Array:
        """The objective without its barrier, from its value with it; +inf outside the domain."""

    @abstractmethod
    def constant(self, data: Array) -> Array:
        """The constant of the data: NLL less deviance, a scalar."""

    @abstractmethod
    def attempts(self, data: Array, poi: Array) -> Attempts:
        """Further starts for fits; ``poi`` is the index of the parameter of interest, or -1."""

    @abstractmethod
    def trust(self, params: Array) -> Array | None:
        """0 where a point can be trusted, larger where it counts only for want of a better one; None for always."""

    @abstractmethod
    def constraints(self, data: Array) -> tuple[Array, Array]:
        """What auxiliary measurements alone say of each parameter: value and uncertainty, each of shape (n_params,).

        The uncertainty is 0 for parameters without such a measurement.
        """

    @abstractmethod
    def expected(self, params: Array) -> Array:
        """The data that the parameters predict."""

    @abstractmethod
    def expected_at(self, params: Array, aux: Any) -> Array:
        """The same, from what an evaluation kept of the point."""

    @abstractmethod
    def throw(self, params: Array, key: Array) -> Array:
        """Data drawn from what the parameters predict."""
