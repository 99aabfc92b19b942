"""Numbers that the driver found, with their derivatives: the only place where a minimum meets differentiation.

Whatever is settled has the value that it was given; nothing is computed again. Derivatives come from the optimality
conditions (``_minimize._implicit``) when JAX asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._likelihood._protocol import Likelihood
from .._minimize._box import active
from .._minimize._implicit import Objective, Pins, attach, hessian_at_minimum, value_at_minimum
from .._minimize._matrix import Spread, Symmetric, finite
from .._minimize._newton import Minimum
from ._search import box_of

OBJECTIVE = Objective(
    lambda y, args: args[0].deviance(y, args[1], args[2]),
    lambda y, args: args[0].gradient(y, args[1], args[2]),
    lambda y, args: args[0].hessian(y, args[1], args[2]),
    lambda y, args: args[0].hessian(y, args[1], args[3]),
)


@dataclass(frozen=True)
class Settled:
    """A minimum with its derivatives with respect to likelihood, data and what is held.

    Only what is asked for has them: how a minimum moves takes its Hessian, which its value does not need.

    Attributes:
        likelihood: The likelihood.
        data: The data.
        minimum: The minimum.
        start: The values of what is held, shape (n_params,).
        held: What is held, boolean, shape (n_params,).
    """

    likelihood: Likelihood
    data: Array
    minimum: Minimum
    start: Array
    held: Array

    @cached_property
    def _about(self) -> tuple[Any, Pins]:
        k, z = self.likelihood, self.minimum.multipliers
        args = k, self.data, k.settled(z), k.softened(z)
        return args, pins_of(k, self.minimum, self.start, self.held)

    @cached_property
    def params(self) -> Array:
        """Where it lies, shape (n_params,)."""
        return attach(OBJECTIVE, self.minimum.y, *self._about)

    @cached_property
    def value(self) -> Array:
        """The deviance there, a scalar."""
        return value_at_minimum(OBJECTIVE, self.minimum.value, self.minimum.y, *self._about)

    def hessian(self, hessian: Symmetric) -> Symmetric:
        """The Hessian there, as it is for uncertainties, given its value."""
        return hessian_at_minimum(OBJECTIVE, hessian, self.minimum.y, *self._about)


def pins_of(likelihood: Likelihood, minimum: Minimum, start: Array, held: Array) -> Pins:
    """What holds each parameter at the minimum: its given value, in ``start``, or a bound or a kink."""
    mask = active(lax.stop_gradient(box_of(likelihood, held)), minimum.y, minimum.gradient)
    bound = jnp.where(minimum.y <= likelihood.lower, likelihood.lower, likelihood.upper)
    if minimum.kinked is not None:
        mask, bound = mask | (minimum.kinked > 0), jnp.where(minimum.kinked > 0, 0.0, bound)
    return Pins(mask, jnp.where(held, start, bound))


def settle_free(likelihood: Likelihood, data: Array, minimum: Minimum) -> Settled:
    """A fit in which nothing is held but what the measurement fixes, with its derivatives."""
    return Settled(likelihood, data, minimum, likelihood.init, likelihood.frozen > 0)


def settle_spread(likelihood: Likelihood, data: Array, minimum: Minimum, spread: Spread) -> Spread:
    """The covariance at an unconditional minimum with its derivatives."""
    return known(_spread_at, spread, likelihood, data, minimum)


def _spread_at(likelihood: Likelihood, data: Array, minimum: Minimum) -> Spread:
    return spread_of(*settle_hessian(likelihood, data, minimum))


def settle_hessian(likelihood: Likelihood, data: Array, minimum: Minimum) -> tuple[Symmetric, Array, Array]:
    """The Hessian at an unconditional minimum with its derivatives, what is held there, and what else does not move."""
    held = likelihood.frozen > 0
    still = lax.stop_gradient((likelihood, data))
    hessian = with_kinks(still[0].hessian(minimum.y, still[1], still[0].softened(minimum.multipliers)), minimum)
    hessian = settle_free(likelihood, data, minimum).hessian(hessian)
    return hessian, held, pins_of(likelihood, minimum, likelihood.init, held).mask


def with_kinks(hessian: Symmetric, minimum: Minimum) -> Symmetric:
    """The Hessian at a minimum with the curvature that stands for a kink: what lies on one may lie beside it."""
    return hessian if minimum.kinked is None else hessian.plus(minimum.kinked)


def spread_of(hessian: Symmetric, held: Array, pinned: Array) -> Spread:
    """The covariance: the inverse of the Hessian in what is not held.

    A parameter on a bound is treated as if the bound were not there; should the Hessian then not be positive definite,
    it is held like a fixed one.
    """
    spread = hessian.inverse(held)
    return lax.cond(finite(lax.stop_gradient(spread)), lambda: spread, lambda: hessian.inverse(pinned))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known(function: Callable[..., Any], value: Any, *args: Any) -> Any:
    """``value`` itself, which is ``function(*args)``, with the derivatives of that with respect to ``args``."""
    del function, args
    return value


@known.defjvp
def _known_jvp(function: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    value, *args = primals
    _, *d_args = tangents
    _, tangent = jax.jvp(function, tuple(args), tuple(d_args))
    return known(function, value, *args), tangent
