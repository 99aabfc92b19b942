"""Maximum-likelihood fits and their uncertainties."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jaxtyping import Bool, Float, Int

from .._base._doors import as_array, as_vector, concrete
from .._base._errors import FitError, ModelError
from .._base._tables import require_single
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood, Walls, rates, saturated
from .._minimize import _status
from .._minimize._implicit import Objective, Pins, attach, value_at_minimum
from .._minimize._newton import Box, Minimum, Problem, active, covariance, minimize
from .._model._model import HistFactoryModel, as_data, require_model

PROBLEM = Problem(
    lambda y, args, z: _derivatives.value_and_gradient(args[0], y, args[1], args[2]._replace(multipliers=z)),
    lambda y, args, z: _derivatives.curvatures(args[0], y, args[1], args[2]._replace(multipliers=z)),
    lambda y, args, z: _tighten(args[0], y, args[1], args[2]._replace(multipliers=z)),
)
OBJECTIVE = Objective(
    lambda y, args: _derivatives.fast_deviance(args[0], y, args[1], args[2]),
    lambda y, args: _derivatives.gradient(args[0], y, args[1], args[2]),
    lambda y, args: _derivatives.hessian(args[0], y, args[1], args[2]),
)

# Stiffness of the wall at rate 0 in units of the bin's initial rate: stiff enough that few updates of the multiplier
# do, soft enough that factorizations keep their accuracy. Derivatives are taken with a much stiffer one.
_STIFFNESS = 1e3
_STIFFENING = 1e6

# Up to this many parameters a fit is cheap enough to be made from two starts where a wrong minimum would matter.
_FITTED_TWICE = 150


def make_walls(likelihood: Likelihood) -> Walls:
    """Walls at rate 0 for the bins without counts, in units of each bin's initial rate."""
    scale = rates(likelihood, likelihood.init).bins
    scale = jnp.where(scale > 0, scale, 1.0)
    margin = 1e-9 if likelihood.dtype == np.float64 else 1e-5
    return Walls(jnp.zeros_like(scale), _STIFFNESS / (scale * scale), margin * scale)


def _tighten(likelihood: Likelihood, params: Array, data: Array, walls: Walls) -> tuple[Array, Array]:
    """Multipliers of the walls that are pushed against, and the largest distance from a wall in half margins."""
    nu = rates(likelihood, params).bins
    push = jnp.where(data[: nu.shape[0]] > 0, 0.0, walls.push(nu))
    distance = jnp.abs(push - walls.multipliers) / walls.stiffness
    # A rate between 0 and the margin is a valid point; one that no parameter moves would never come closer.
    distance = jnp.where((nu >= 0) & (nu <= walls.margin), 0.0, distance)
    return push, (2.0 * distance / walls.margin).max()


class FitResult(eqx.Module):
    """A maximum-likelihood fit.

    Attributes:
        params: Best-fit parameters, shape (n_params,), in the order of ``parameter_names``.
        covariance: Inverse Hessian of the NLL at the minimum, shape (n_params, n_params). Rows of fixed parameters are
            zero. A parameter on a bound is treated as if the bound were not there; should the Hessian then not be
            positive definite, parameters on bounds are held like fixed ones.
        nll: Negative log-likelihood at the minimum, scalar.
        gradient: Gradient of the NLL there, shape (n_params,).
        edm: Estimated vertical distance to the minimum before the last step, scalar.
        on_bound: Whether each parameter ended on a bound that it pushes against, shape (n_params,).
        fixed: Whether each parameter was held, shape (n_params,).
        status: Code of how the minimization ended; ``message`` is its sentence.
        n_iter: Number of iterations.
        start_moved: Whether the likelihood was not finite at the start, so that the start was moved.
        parameter_names: Names of the parameters.
        poi_index: Index of the parameter of interest, or -1.
    """

    params: Float[Array, " param"]
    covariance: Float[Array, "param param"]
    nll: Float[Array, ""]
    gradient: Float[Array, " param"]
    edm: Float[Array, ""]
    on_bound: Bool[Array, " param"]
    fixed: Bool[Array, " param"]
    status: Int[Array, ""]
    n_iter: Int[Array, ""]
    start_moved: Bool[Array, ""]
    parameter_names: tuple[str, ...] = eqx.field(static=True)
    poi_index: int = eqx.field(static=True)

    @property
    def mu(self) -> Float[Array, "*batch"]:
        """Best-fit parameter of interest; raises ``ModelError`` where the model has none."""
        return self.params[..., self._poi()]

    @property
    def mu_uncertainty(self) -> Float[Array, "*batch"]:
        """Uncertainty of the parameter of interest."""
        return self.uncertainties[..., self._poi()]

    @property
    def uncertainties(self) -> Float[Array, "*batch param"]:
        """Square roots of the covariance's diagonal, shape (n_params,); 0 for fixed parameters."""
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        positive = variance > 0
        # NaN (no positive definite Hessian) stays NaN; the inner where keeps the derivative at 0 finite.
        return jnp.where(
            positive | jnp.isnan(variance), jnp.sqrt(jnp.where(positive, variance, 1.0)) + 0 * variance, 0.0
        )

    @property
    def correlation(self) -> Float[Array, "*batch param param"]:
        """Correlation matrix, shape (n_params, n_params); 0 in rows of fixed parameters, their diagonal included."""
        width = self.uncertainties
        inverse = jnp.where(width > 0, 1.0 / jnp.where(width > 0, width, 1.0), 0.0)
        return self.covariance * inverse[..., :, None] * inverse[..., None, :]

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the minimum was found."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fit ended, and what to do about it. Needs concrete values, not traced ones."""
        text = _status.message(self.status)
        return text + "; the start was moved to where the likelihood is finite" if np.any(self.start_moved) else text

    @property
    def at_bound(self) -> tuple[str, ...]:
        """Names of the parameters that ended on a bound. Needs concrete values of one fit."""
        return tuple(name for name, flag in zip(self.parameter_names, np.asarray(self.on_bound), strict=True) if flag)

    def _poi(self) -> int:
        if self.poi_index < 0:
            raise ModelError("the measurement names no parameter of interest: use params[parameter_names.index(...)]")
        return self.poi_index

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe: values and uncertainties by name, NLL, EDM and status."""
        require_single(self.params, 1, "FitResult")
        rows = zip(self.parameter_names, self.params.tolist(), self.uncertainties.tolist(), strict=True)
        return {
            "parameters": {name: {"value": value, "uncertainty": width} for name, value, width in rows},
            "nll": float(self.nll),
            "edm": float(self.edm),
            "converged": bool(self.converged),
            "status": self.message,
            "n_iter": int(self.n_iter),
            "at_bound": list(self.at_bound),
        }

    def __repr__(self) -> str:
        if not concrete(self.params) or self.params.ndim != 1:
            return f"FitResult(params={self.params!r}, status={self.status!r})"
        numbers = f"nll {float(self.nll):.6f}, edm {float(self.edm):.1e}, {int(self.n_iter)} steps"
        head = f"FitResult: {self.message} ({numbers})"
        width = max(map(len, self.parameter_names))
        values, widths = np.asarray(self.params), np.asarray(self.uncertainties)
        rows = []
        for k, name in enumerate(self.parameter_names):
            note = "  fixed" if bool(self.fixed[k]) else "  at bound" if bool(self.on_bound[k]) else ""
            rows.append(f"  {name:<{width}}  {values[k]:>12.6g} +- {widths[k]:<11.5g}{note}")
        return "\n".join([head, *rows])


class Conditions(NamedTuple):
    """Start and held parameters of one fit: ``start`` (n_params,) holds the values of the held ones."""

    start: Array
    held: Array


def fit(
    model: HistFactoryModel,
    data: Any = None,
    init: Any = None,
    fixed: Any = None,
) -> FitResult:
    """Maximizes the likelihood.

    Differentiable in forward and reverse mode, to any order, with respect to ``model``, ``data`` and the values in
    ``fixed``; can be jitted and batched with ``vmap``.

    Args:
        model: The model.
        data: Main and auxiliary data, shape (n_data,), or main data alone, shape (n_bins,); the model's own by default.
        init: Starting point, shape (n_params,); the model's by default. The minimum does not depend on it.
        fixed: Values of parameters to hold, by name, inside their bounds or not. Parameters that the measurement fixes
            are held in any case.

    Returns:
        ``FitResult``. Numerical trouble is reported in ``status``, never raised.

    Raises:
        FitError: For unknown names in ``fixed``, NaN, or a start outside the bounds.
        ModelError: For wrong shapes.

    Example:
        >>> from nextstat_jax import from_pyhf
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> result = fit(model)
        >>> result.message, round(float(result.mu), 6), round(float(result.mu_uncertainty), 6)
        ('converged', 1.4, 0.8)

    References:
        EDM: F. James, M. Roos, Comput. Phys. Commun. 10 (1975) 343.
    """
    require_model(model)
    likelihood = model.likelihood
    data = as_data(model, data)
    conditions = fit_conditions(model, init, fixed)
    minimum = solve_fit(likelihood, data, conditions)
    parts = finish_fit(likelihood, data, minimum, conditions)
    return FitResult(*parts, parameter_names=model.names.parameters, poi_index=likelihood.structure.poi)


def fit_conditions(model: HistFactoryModel, init: Any, fixed: Any) -> Conditions:
    """Checks start and fixed values at the door and turns them into arrays."""
    likelihood = model.likelihood
    start = likelihood.init if init is None else as_vector(init, model.n_params, "init", likelihood.dtype)
    if init is not None and concrete(start):
        _check_start(model, np.asarray(start))
    held = likelihood.frozen > 0
    if fixed is not None and not isinstance(fixed, Mapping):
        raise FitError(f"fixed is a {type(fixed).__name__}: give a mapping from parameter names to values")
    for name, value in (fixed or {}).items():
        index = model.index(name)
        value = as_array(value, f"fixed[{name!r}]", likelihood.dtype)
        if value.ndim:
            raise FitError(f"fixed[{name!r}] has shape {value.shape}: give one number, or vmap over several")
        if concrete(value) and not np.isfinite(value):
            raise FitError(f"fixed[{name!r}] is {value}: give a finite number")
        start = start.at[index].set(value)
        held = held.at[index].set(True)
    return Conditions(start, held)


def _check_start(model: HistFactoryModel, start: np.ndarray) -> None:
    if not np.isfinite(start).all():
        name = model.names.parameters[int(np.argmin(np.isfinite(start)))]
        raise FitError(f"init is not finite for {name}: give a number inside its bounds")
    lower, upper = np.asarray(model.likelihood.lower), np.asarray(model.likelihood.upper)
    outside = ((start < lower) | (start > upper)) & ~(np.asarray(model.likelihood.frozen) > 0)
    if outside.any():
        k = int(np.argmax(outside))
        raise FitError(
            f"init of {model.names.parameters[k]} is {start[k]:g}, outside its bounds [{lower[k]:g}, {upper[k]:g}]"
        )


def _minimize(likelihood: Likelihood, data: Array, start: Array, held: Array, *, reuse: bool) -> Minimum:
    box = Box(likelihood.lower, likelihood.upper, held)
    walls = make_walls(likelihood)
    args = (likelihood, data, walls)
    return minimize(PROBLEM, start, args, box, walls.multipliers, fallback=likelihood.init, reuse=reuse)


@lru_cache
def _solver(treedef: Any) -> Any:
    """The minimizer as a function of flat arguments, with a way of its own for batches."""

    @custom_vmap
    def one(*leaves: Array) -> Minimum:
        return _minimize(*jax.tree.unflatten(treedef, leaves), reuse=True)

    @one.def_vmap
    def batch(axis_size: int, batched: Any, *leaves: Array) -> tuple[Minimum, Minimum]:
        def each(*leaves: Array) -> Minimum:
            return _minimize(*jax.tree.unflatten(treedef, leaves), reuse=False)

        axes = [0 if mapped else None for mapped in batched]
        minima = jax.vmap(each, in_axes=axes, axis_size=axis_size)(*leaves)
        return minima, jax.tree.map(lambda _: True, minima)

    return one


@jax.jit
def _solve(likelihood: Likelihood, data: Array, start: Array, held: Array) -> Minimum:
    leaves, treedef = jax.tree.flatten((likelihood, data, start, held))
    return _solver(treedef)(*leaves)


def solve_fit(likelihood: Likelihood, data: Array, conditions: Conditions) -> Minimum:
    """Runs the minimizer. Nothing of it is differentiated: derivatives are attached to its result afterwards."""
    stopped = lax.stop_gradient((likelihood, data, conditions.start))
    return _solve(*stopped, conditions.held)


def unconditional(likelihood: Likelihood) -> Conditions:
    """Nothing held but what the measurement fixes."""
    return Conditions(likelihood.init, likelihood.frozen > 0)


def hold(likelihood: Likelihood, indices: tuple[int, ...] | Array, values: Array) -> Conditions:
    """Some parameters held at values of shape (len(indices),)."""
    where = jnp.asarray(indices)
    return Conditions(likelihood.init.at[where].set(values), (likelihood.frozen > 0).at[where].set(True))


def at(likelihood: Likelihood, mu: Array) -> Conditions:
    """The parameter of interest held at ``mu``, a scalar."""
    return hold(likelihood, (likelihood.structure.poi,), mu[None])


def no_fit(likelihood: Likelihood) -> Minimum:
    """In place of a fit that has not been made."""
    high, zero = jnp.full((), jnp.inf, likelihood.dtype), jnp.array(0)
    bins = jnp.zeros((likelihood.structure.n_bins,), likelihood.dtype)
    return Minimum(likelihood.init, high, likelihood.init, bins, high, zero, zero, jnp.array(False))


def solve_best(likelihood: Likelihood, data: Array, conditions: Conditions) -> Minimum:
    """``solve_fit``, from the given start and from the initial parameters: the lower minimum of the two.

    A likelihood with large shape variations and few counts can have several minima, and a start next to the last fit
    stays in its valley. Models with many parameters, whose fits take long, are fitted once.
    """
    if likelihood.structure.n_params > _FITTED_TWICE:
        return solve_fit(likelihood, data, conditions)
    # From the initial parameters itself: the second try begins without a signal.
    same, poi = (conditions.start == likelihood.init).all(), likelihood.structure.poi
    other = likelihood.init.at[poi].set(jnp.where(same, 0.0, likelihood.init[poi])) if poi >= 0 else likelihood.init
    other = jnp.where(conditions.held, conditions.start, other)
    starts = lax.stop_gradient(jnp.stack([conditions.start, other]))
    # A scan rather than two calls, so that the minimizer is compiled once.
    _, both = lax.scan(lambda _, y: (None, solve_fit(likelihood, data, Conditions(y, conditions.held))), None, starts)
    # The first where they agree, so that rounding does not choose.
    first, second = (jax.tree.map(lambda x, k=k: x[k], both) for k in range(2))
    converged = second.status == _status.CONVERGED
    lower = converged & ((second.value < first.value - 1e-9) | (first.status != _status.CONVERGED))
    return jax.tree.map(lambda a, b: jnp.where(lower, a, b), second, first)


def pins_of(likelihood: Likelihood, minimum: Minimum, conditions: Conditions) -> Pins:
    """What holds each parameter at the minimum: its given value or the bound that it pushes against."""
    box = Box(likelihood.lower, likelihood.upper, conditions.held)
    mask = active(lax.stop_gradient(box), minimum.y, minimum.gradient)
    bound = jnp.where(minimum.y <= likelihood.lower, likelihood.lower, likelihood.upper)
    return Pins(mask, jnp.where(conditions.held, conditions.start, bound))


def args_of(likelihood: Likelihood, data: Array, minimum: Minimum) -> tuple[Likelihood, Array, Walls]:
    """Arguments of ``OBJECTIVE`` at a minimum: with the walls that hold it, made so stiff that they stand still."""
    walls = lax.stop_gradient(make_walls(likelihood))
    stiffness = jnp.where(minimum.multipliers > 0, _STIFFENING, 1.0) * walls.stiffness
    # At the minimum the push is the multiplier, whatever the stiffness, if the rate is taken to be at the margin
    # exactly.
    nu = lax.stop_gradient(rates(likelihood, minimum.y).bins)
    margin = jnp.where(minimum.multipliers > 0, nu, walls.margin)
    return likelihood, data, Walls(minimum.multipliers, stiffness, margin)


@jax.jit
def finish_fit(likelihood: Likelihood, data: Array, minimum: Minimum, conditions: Conditions) -> tuple[Array, ...]:
    """Everything of a fit that has derivatives, from the point where the minimizer ended."""
    args = args_of(likelihood, data, minimum)
    pins = pins_of(likelihood, minimum, conditions)
    params = attach(OBJECTIVE, minimum.y, args, pins)
    nll = value_at_minimum(OBJECTIVE, minimum.y, args, pins) + saturated(likelihood, data)
    hessian = _derivatives.hessian(likelihood, params, data, args[2])
    spread = covariance(hessian, conditions.held)
    ok = jnp.isfinite(lax.stop_gradient(spread)).all()
    spread = lax.cond(ok, lambda: spread, lambda: covariance(hessian, pins.mask))
    return (
        params,
        spread,
        nll,
        minimum.gradient,
        minimum.edm,
        pins.mask & ~conditions.held,
        conditions.held,
        minimum.status,
        minimum.num_steps,
        minimum.moved,
    )


def require_fit(model: HistFactoryModel, fit_result: Any) -> None:
    """``FitError`` for anything but one fit of this model."""
    if not isinstance(fit_result, FitResult):
        raise FitError(f"expected a fit as fit(model) returns it, found {type(fit_result).__name__}")
    if fit_result.parameter_names != model.names.parameters:
        raise FitError("the fit belongs to another model: its parameters have other names")
    if fit_result.params.ndim != 1:
        raise FitError(f"the fit is a batch of shape {fit_result.params.shape[:-1]}: use jax.vmap over it")


def margin(value: Array) -> Array:
    """By how much one NLL must lie below another to say more than rounding."""
    return jnp.maximum(1e-6, 100.0 * float(jnp.finfo(value.dtype).eps) * (1.0 + jnp.abs(value)))
