"""Derivatives of a minimum that has been found: implicit differentiation, by jaxopt.

The minimizer itself is never differentiated. ``attach`` takes the point where it ended and gives it the derivatives of
the exact minimum, from the optimality conditions; ``value_at_minimum`` gives the minimal value its derivatives, of
which the first needs no derivative of the point (the envelope theorem). Both work in forward and in reverse mode, to
any order.

References:
    arXiv:2105.15183 (implicit differentiation in jaxopt).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._matrix import Symmetric


def root_jvp(*args: Any) -> Any:
    """jaxopt's, imported when the first derivative is asked for: that takes half a second."""
    # What an import computes must not become part of the program that asks for it.
    with warnings.catch_warnings(), jax.ensure_compile_time_eval():
        # jaxopt announces at import that it is no longer developed; its implicit differentiation is complete.
        warnings.simplefilter("ignore", DeprecationWarning)
        from jaxopt import implicit_diff
    return implicit_diff.root_jvp(*args)


class Objective(NamedTuple):
    """A function with its derivatives; each takes ``(y, args)`` and is differentiable in both.

    ``soft_hessian`` is the Hessian without what only holds the minimum at its place.
    """

    value: Callable[[Array, Any], Array]
    gradient: Callable[[Array, Any], Array]
    hessian: Callable[[Array, Any], Symmetric]
    soft_hessian: Callable[[Array, Any], Symmetric]


class Pins(NamedTuple):
    """Parameters held at a value at the minimum: fixed ones and those on a bound.

    Attributes:
        mask: Which, boolean, shape (n,).
        values: Where, shape (n,); differentiable. Ignored where the mask is False.
    """

    mask: Array
    values: Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach(objective: Objective, y: Array, args: Any, pins: Pins) -> Array:
    """``y`` itself, with the derivatives of the minimum with respect to ``args`` and ``pins.values``.

    The condition is ``gradient(y, args) = 0`` for parameters that can move and ``y = values`` for the others.

    Args:
        objective: What was minimized.
        y: Where the minimizer ended, shape (n,). Its own tangent is ignored.
        args: Arguments of the objective.
        pins: Parameters held.
    """
    del objective, args, pins
    return y


@attach.defjvp
def _attach_jvp(objective: Objective, primals: Any, tangents: Any) -> tuple[Array, Array]:
    y, args, pins = primals
    _, d_args, d_pins = tangents
    # Attached again, so that a derivative of this rule sees how the minimum moves.
    y = attach(objective, y, args, pins)
    hessian = objective.hessian(y, args)
    factor = hessian.factorized(pins.mask)

    def conditions(point: Array, args: Any, values: Array) -> Array:
        return jnp.where(pins.mask, point - values, objective.gradient(point, args))

    def linear_solve(_: Any, rhs: Array) -> Array:
        held = jnp.where(pins.mask, rhs, 0.0)
        moving = jnp.where(pins.mask, 0.0, rhs - hessian.times(held))
        return factor.solve(moving) + held

    # One more Newton step: the error of the derivative is that of the point.
    residual = jnp.where(pins.mask, 0.0, objective.gradient(y, args))
    better = y - lax.stop_gradient(factor.solve(residual))
    tangent = root_jvp(conditions, better, (args, pins.values), (d_args, d_pins.values), linear_solve)
    return y, tangent


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def value_at_minimum(objective: Objective, value: Array, y: Array, args: Any, pins: Pins) -> Array:
    """``value`` itself, the objective at a minimum, with its derivatives; further arguments as in ``attach``.

    Its first derivative is that of the objective at a fixed point, one gradient's worth of work; second derivatives
    follow the point.
    """
    del objective, y, args, pins
    return value


@value_at_minimum.defjvp
def _value_jvp(objective: Objective, primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, y, args, pins = primals
    _, _, d_args, d_pins = tangents
    y = attach(objective, y, args, pins)

    def of(args: Any, values: Array) -> Array:
        return objective.value(jnp.where(pins.mask, values, y), args)

    _, tangent = jax.jvp(of, (args, pins.values), (d_args, d_pins.values))
    return value_at_minimum(objective, value, y, args, pins), tangent


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def hessian_at_minimum(objective: Objective, hessian: Symmetric, y: Array, args: Any, pins: Pins) -> Symmetric:
    """``hessian`` itself, the soft one at a minimum, with its derivatives; arguments as in ``attach``."""
    del objective, y, args, pins
    return hessian


@hessian_at_minimum.defjvp
def _hessian_jvp(objective: Objective, primals: Any, tangents: Any) -> tuple[Symmetric, Symmetric]:
    hessian, y, args, pins = primals
    _, _, d_args, d_pins = tangents

    def moved(args: Any, values: Array) -> Array:
        return attach(objective, y, args, Pins(pins.mask, values))

    point, d_point = jax.jvp(moved, (args, pins.values), (d_args, d_pins.values))
    _, tangent = jax.jvp(objective.soft_hessian, (point, args), (d_point, d_args))
    return hessian_at_minimum(objective, hessian, y, args, pins), tangent


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach_root(function: Callable[[Array, Any, Any], Array], y: Array, args: Any, constants: Any) -> Array:
    """``y`` itself, a root of a function of one variable, with its derivatives with respect to ``args``.

    Args:
        function: Scalar function of ``(y, args, constants)``; it may not close over traced values.
        y: Where it is zero, a scalar. Its own tangent is ignored.
        args: What the root is differentiated with respect to.
        constants: What it is not, of any dtype.
    """
    del function, args, constants
    return y


@attach_root.defjvp
def _attach_root_jvp(function: Callable[[Array, Any, Any], Array], primals: Any, tangents: Any) -> tuple[Array, Array]:
    y, args, constants = primals
    y = attach_root(function, y, args, constants)

    def condition(point: Array, args: Any) -> Array:
        return function(point, args, constants)

    def linear_solve(matvec: Callable[[Array], Array], rhs: Array) -> Array:
        slope = matvec(jnp.ones_like(rhs))
        return jnp.where(slope == 0, jnp.nan, rhs / jnp.where(slope == 0, 1.0, slope))

    return y, root_jvp(condition, y, (args,), (tangents[1],), linear_solve)
