"""What a surrogate computes: pure functions of a pytree of arrays. Names live elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base._doors import pytree
from .._likelihood._counts import poisson_deviance
from ._reference import Reference

RECIPES = ("rates", "residual", "plain")
# A factor below this is taken to be this large where its logarithm is an input.
_LEAST = 1e-6
# Logarithms of rates are no larger.
MOST = 60.0
# How far beyond the trained region, in units of its size, counts as next to it.
_NEXT_TO = 0.1


@pytree
@dataclass(frozen=True, eq=False)
class Core:
    """A trained surrogate's numbers.

    The inputs of the network are ``(params - center) / scale`` and, for the parameters that multiply yields, also
    their logarithms: expected rates are then close to linear in the inputs.

    Attributes:
        center: Shape (n_params,).
        scale: Shape (n_params,); 1 for fixed parameters.
        skip: Linear part, shape (n_inputs, n_outputs).
        layers: Kernels and biases, from the inputs to the outputs.
        offset: Added to the outputs, shape (n_outputs,).
        reference: The exact parts of the likelihood; ``"plain"`` works without.
        lower: Lower bounds of the trained region, shape (n_params,).
        upper: Upper bounds.
        origin: Middle of the trained region, shape (n_params,): the minimum, if it is known.
        whiten: Coordinates in which that region is round: ``(params - origin) @ whiten``, shape (n_params, n_free).
        radius: Largest distance of a training point from the origin in these coordinates.
        expansion: Hessian, gradient and value of the main term at the minimum, for ``"residual"``; else empty.
        recipe: What the outputs are: logarithms of the expected rates (``"rates"``), of the main term over a
            quadratic baseline (``"residual"``), or the NLL (``"plain"``).
        logs: Parameters whose logarithms are inputs.
    """

    center: Any
    scale: Any
    skip: Any
    layers: Any
    offset: Any
    reference: Any
    lower: Any
    upper: Any
    origin: Any
    whiten: Any
    radius: Any
    expansion: Any
    recipe: str = field(metadata={"static": True})
    logs: tuple[int, ...] = field(metadata={"static": True})

    @property
    def dtype(self) -> Any:
        """Type in which the network computes."""
        return self.skip.dtype


def inputs(core: Core, params: Any) -> Array:
    """Inputs of the network, shape (n_inputs,), in its precision; params of shape (n_params,)."""
    return features(params, core.center, core.scale, core.logs).astype(core.dtype)


def features(params: Any, center: Any, scale: Any, logs: tuple[int, ...]) -> Any:
    """Standardized parameters and logarithms of some, of one point or of many."""
    linear = (params - center) / scale
    if not logs:
        return linear
    at = jnp.array(logs)
    # Logarithm of x / center, in units that match the linear input near the center.
    ratio = jnp.maximum(params[..., at] / center[at], _LEAST)
    return jnp.concatenate([linear, jnp.log(ratio) * (center[at] / scale[at])], axis=-1)


def network(layers: Any, x: Any) -> Array:
    """A multilayer perceptron with SiLU between its layers."""
    for kernel, bias in layers[:-1]:
        x = jax.nn.silu(x @ kernel + bias)
    kernel, bias = layers[-1]
    return x @ kernel + bias


def outputs(core: Core, params: Any) -> Array:
    """Outputs of the network, shape (n_outputs,)."""
    x = inputs(core, params)
    return x @ core.skip + network(core.layers, x) + core.offset


def nll(core: Core, params: Any) -> Array:
    """NLL of one point of shape (n_params,), scalar."""
    value = deviance(core, params)
    return value if core.reference is None else core.reference.constant + value


def deviance(core: Core, params: Any, data: Data | None = None) -> Array:
    """NLL less the constant of the reference, where there is one; other data are for ``"rates"``."""
    y = outputs(core, params).astype(params.dtype)
    r = core.reference
    if core.recipe == "plain" or r is None:
        return y[0] if r is None else y[0] - r.constant
    data = data_of(r) if data is None else data
    if core.recipe == "rates":
        main = poisson_deviance(jnp.asarray(data.main, params.dtype), capped_exp(y)).sum()
    else:
        main = main_term(y[0], log_baseline(core, params))
    return main + constraints(r, params, data)


def capped_exp(y: Array) -> Array:
    """Rates from their logarithms: far outside the derivative would overflow in single precision."""
    return jnp.exp(jnp.minimum(y, MOST))


class Data(NamedTuple):
    """A data set: counts of the bins, and auxiliary data of normal and of Poisson constraints."""

    main: Any
    normal: Any
    poisson: Any


def data_of(r: Reference) -> Data:
    """The data that the reference holds."""
    return Data(r.observed, r.normal_aux, r.poisson_aux)


def main_term(output: Array, baseline: Array) -> Array:
    """Deviance of the bins from the output of ``"residual"``: ``log(1 + deviance) = baseline + output``."""
    return jnp.expm1(baseline + output)


def log_baseline(core: Core, params: Any) -> Array:
    """``log(1 + Q)`` with Q the main term's expansion to second order around the minimum, kept positive; one point."""
    hessian, slope, value = core.expansion
    step = params - core.origin
    return jnp.log1p(jax.nn.softplus(0.5 * step @ hessian @ step + slope @ step + value))


def main_expansion(r: Reference) -> tuple[Array, Array, Array]:
    """Hessian, gradient and value of the main term at the minimum: all of the NLL less the constraints."""
    at = jnp.asarray(r.minimum)
    hessian = jnp.asarray(r.hessian) - jax.hessian(constraints, argnums=1)(r, at)
    value = r.minimum_nll - r.constant - constraints(r, at)
    return hessian, -jax.grad(constraints, argnums=1)(r, at), jnp.asarray(value)


def constraints(r: Reference, params: Any, data: Data | None = None) -> Array:
    """Constraint terms, 0 where the parameters predict the auxiliary data exactly."""
    data = data_of(r) if data is None else data
    pull = (params[places(r.normal_params)] - data.normal) / r.normal_widths
    counts = poisson_deviance(
        jnp.asarray(data.poisson, params.dtype),
        jnp.asarray(r.poisson_tau, params.dtype) * params[places(r.poisson_params)],
    )
    return 0.5 * (pull * pull).sum() + counts.sum()


def places(indices: Any) -> Array:
    """Indices of a reference, which are floating-point numbers where a likelihood holds them."""
    return jnp.asarray(indices, int)


def covariance_root(core: Core) -> np.ndarray:
    """Matrix R whose ``R^T R`` is the covariance in which the trained region is round, of the parameters that move.

    Shape (n_free, n_free); the inverse of ``whiten``.
    """
    moves = np.asarray(core.upper) > np.asarray(core.lower)
    return np.linalg.pinv(np.asarray(core.whiten, np.float64)[moves])


def distance(core: Core, params: Any) -> Array:
    """Distance from the origin in the coordinates in which the trained region is round."""
    z = (params - core.origin) @ core.whiten
    return jnp.sqrt((z * z).sum())


def inside(core: Core, params: Any) -> Array:
    """Whether a point lies in the trained region: in its box and not beyond its farthest point."""
    slack = 1e-9 * (core.upper - core.lower)
    box = ((params >= core.lower - slack) & (params <= core.upper + slack)).all()
    return box & (distance(core, params) <= 1.05 * core.radius)


def trust(core: Core, params: Any) -> Array:
    """0 in the trained region, 1 next to it, 2 beyond, where a network may fall without bound."""
    width = core.upper - core.lower
    beyond = jnp.maximum(core.lower - params, params - core.upper)
    excess = (beyond / jnp.where(width > 0, width, jnp.inf)).max()
    away = distance(core, params) / core.radius - 1.0
    near = jnp.maximum(excess, away) <= _NEXT_TO
    return jnp.where(inside(core, params), 0.0, jnp.where(near, 1.0, 2.0))


def cast(core: Core, dtype: Any) -> Core:
    """The surrogate with its network in another precision."""
    layers = tuple((kernel.astype(dtype), bias.astype(dtype)) for kernel, bias in core.layers)
    return replace(core, skip=core.skip.astype(dtype), layers=layers, offset=core.offset.astype(dtype))
