"""Profile likelihood and the test statistics built on it.

Notation of arXiv:1007.1727: ``lambda(mu) = L(mu, theta-hat-hat(mu)) / L(mu-hat, theta-hat)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .._base._doors import as_array, as_vector, concrete
from .._base._errors import FitError
from .._base._numerics import safe_sqrt
from .._likelihood._histfactory import Likelihood, saturated
from .._minimize import _status
from .._minimize._implicit import attach, value_at_minimum
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, bound_below, require_model
from ._fit import OBJECTIVE, Conditions, args_of, fit_conditions, pins_of, solve_fit


class ProfileResult(eqx.Module):
    """A conditional fit at a fixed parameter of interest.

    Attributes:
        params: Conditional best fit theta-hat-hat(mu), shape (n_params,).
        nll: Negative log-likelihood there, scalar.
        status: Code of how the minimization ended; ``message`` is its sentence.
        n_iter: Number of iterations.
        edm: Estimated vertical distance to the minimum before the last step.
        parameter_names: Names of the parameters.
    """

    params: Float[Array, " param"]
    nll: Float[Array, ""]
    status: Int[Array, ""]
    n_iter: Int[Array, ""]
    edm: Float[Array, ""]
    parameter_names: tuple[str, ...] = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the conditional minimum was found."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fit ended, and what to do about it."""
        return _status.message(self.status)


class TestStatistic(eqx.Module):
    """A profiled test statistic with the fits behind it.

    Attributes:
        value: The statistic, scalar, not negative.
        mu_hat: Unconditional best fit of the parameter of interest.
        nll_free: NLL of the unconditional fit.
        nll_fixed: NLL of the conditional fit.
        status_free: How the unconditional fit ended.
        status_fixed: How the conditional fit ended.
        deficit: How far the difference of NLLs had to be raised to reach 0. More than 1e-3 says that a fit did not
            find its minimum, whatever its status.
    """

    # pytest would collect the class for its name.
    __test__ = False

    value: Float[Array, ""]
    mu_hat: Float[Array, ""]
    nll_free: Float[Array, ""]
    nll_fixed: Float[Array, ""]
    status_free: Int[Array, ""]
    status_fixed: Int[Array, ""]
    deficit: Float[Array, ""]

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether both fits found their minimum and agree about which is lower."""
        both = (self.status_free == _status.CONVERGED) & (self.status_fixed == _status.CONVERGED)
        return both & (self.deficit <= 1e-3)


class _Pair(NamedTuple):
    """An unconditional and a conditional fit; ``gap`` is NLL(conditional) - NLL(unconditional)."""

    gap: Array
    mu_hat: Array
    nll_free: Array
    free: Minimum
    fixed: Minimum


def profile(model: HistFactoryModel, mu: Any, data: Any = None) -> ProfileResult:
    """Fits all parameters but the parameter of interest, which is held at ``mu``.

    Args:
        model: A model with a parameter of interest.
        mu: Value of the parameter of interest, scalar. It may lie outside the parameter's bounds.
        data: As in ``fit``.

    Returns:
        ``ProfileResult``, differentiable with respect to model, data and ``mu``.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a ``mu`` that is not a finite scalar.
    """
    require_model(model)
    model.require_poi()
    likelihood, data = model.likelihood, as_data(model, data)
    conditions = _hold(model, mu)
    minimum = solve_fit(likelihood, data, conditions)
    params, nll = _profiled(likelihood, data, minimum, conditions)
    return ProfileResult(params, nll, minimum.status, minimum.num_steps, minimum.edm, model.names.parameters)


@jax.jit
def _profiled(likelihood: Likelihood, data: Array, minimum: Minimum, conditions: Conditions) -> tuple[Array, Array]:
    args, pins = args_of(likelihood, data, minimum), pins_of(likelihood, minimum, conditions)
    value = value_at_minimum(OBJECTIVE, minimum.y, args, pins)
    return attach(OBJECTIVE, minimum.y, args, pins), value + saturated(likelihood, data)


def _hold(model: HistFactoryModel, mu: Any) -> Conditions:
    mu = as_array(mu, "mu", model.likelihood.dtype)
    if mu.ndim:
        raise FitError(f"mu has shape {mu.shape}: give one number, or vmap over several")
    if concrete(mu) and not np.isfinite(mu):
        raise FitError(f"mu is {mu}: give a finite number")
    return fit_conditions(model, None, {model.names.poi: mu})


def _pair(model: HistFactoryModel, mu: Any, data: Any, init: Any) -> _Pair:
    require_model(model)
    model.require_poi()
    likelihood, data = model.likelihood, as_data(model, data)
    if init is not None:
        # A start from another model or other bounds, as a warm start is, begins inside.
        init = jnp.clip(as_vector(init, model.n_params, "init", likelihood.dtype), likelihood.lower, likelihood.upper)
    free, fixed = fit_conditions(model, init, None), _hold(model, mu)
    both = solve_pair(likelihood, data, free, fixed)
    return _compare(likelihood, data, *both, free, fixed)


@jax.jit
def _solve_pair(likelihood: Likelihood, data: Array, starts: Array, held: Array) -> Minimum:
    poi = likelihood.structure.poi

    def one(warm: Array, conditions: tuple[Array, Array]) -> tuple[Array, Minimum]:
        start, held = conditions
        # The second fit starts from the nuisance parameters of the first: the minimum is the same, the way shorter.
        minimum = solve_fit(likelihood, data, Conditions(warm.at[poi].set(start[poi]), held))
        return minimum.y, minimum

    # A scan rather than two calls, so that the minimizer is compiled once.
    return lax.scan(one, starts[0], (starts, held))[1]


def solve_pair(likelihood: Likelihood, data: Array, free: Conditions, fixed: Conditions) -> tuple[Minimum, Minimum]:
    """The unconditional and the conditional fit, in this order; not differentiated."""
    starts, held = jnp.stack([free.start, fixed.start]), jnp.stack([free.held, fixed.held])
    both = _solve_pair(*lax.stop_gradient((likelihood, data, starts)), held)
    return jax.tree.map(lambda x: x[0], both), jax.tree.map(lambda x: x[1], both)


@jax.jit
def _compare(
    likelihood: Likelihood, data: Array, free: Minimum, fixed: Minimum, at_free: Conditions, at_fixed: Conditions
) -> _Pair:
    free_args, fixed_args = args_of(likelihood, data, free), args_of(likelihood, data, fixed)
    free_pins, fixed_pins = pins_of(likelihood, free, at_free), pins_of(likelihood, fixed, at_fixed)
    free_value = value_at_minimum(OBJECTIVE, free.y, free_args, free_pins)
    fixed_value = value_at_minimum(OBJECTIVE, fixed.y, fixed_args, fixed_pins)
    mu_hat = attach(OBJECTIVE, free.y, free_args, free_pins)[likelihood.structure.poi]
    return _Pair(fixed_value - free_value, mu_hat, free_value + saturated(likelihood, data), free, fixed)


def _statistic(pair: _Pair, gap: Array, zero: Array) -> TestStatistic:
    # Rounding may put the gap below 0; deficit tells how far.
    value = jnp.where(zero | (gap <= 0), 0.0, 2.0 * gap)
    return TestStatistic(
        value,
        pair.mu_hat,
        pair.nll_free,
        pair.nll_free + pair.gap,
        pair.free.status,
        pair.fixed.status,
        jnp.maximum(-pair.gap, 0.0),
    )


def q0_test(model: HistFactoryModel, data: Any = None, *, init: Any = None) -> TestStatistic:
    """``q0`` with the fits behind it; arguments as there."""
    pair = _pair(model, 0.0, data, init)
    return _statistic(pair, pair.gap, pair.mu_hat <= 0)


def q0(model: HistFactoryModel, data: Any = None, *, init: Any = None) -> Float[Array, ""]:
    """Discovery test statistic: ``-2 ln lambda(0)`` where mu-hat >= 0, else 0.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.

    Returns:
        Scalar; +inf, with derivatives that mean nothing, where a bin with counts expects none at mu = 0. Differentiable
        with respect to model and data: the first derivative costs one gradient (envelope theorem), second derivatives
        use implicit differentiation.

    References:
        arXiv:1007.1727, equation 12.
    """
    return q0_test(model, data, init=init).value


def z0(model: HistFactoryModel, data: Any = None) -> Float[Array, ""]:
    """Asymptotic discovery significance ``sqrt(q0)``, in standard deviations; its derivative at 0 is taken as 0.

    References:
        arXiv:1007.1727, equation 53.
    """
    return safe_sqrt(q0(model, data))


def qmu_test(model: HistFactoryModel, mu: Any, data: Any = None, *, init: Any = None) -> TestStatistic:
    """``qmu`` with the fits behind it; arguments as there."""
    pair = _pair(model, mu, data, init)
    return _statistic(pair, pair.gap, pair.mu_hat >= jnp.asarray(mu, pair.mu_hat.dtype))


def qmu(model: HistFactoryModel, mu: Any, data: Any = None) -> Float[Array, ""]:
    """Upper-limit test statistic: ``-2 ln lambda(mu)`` where mu-hat <= mu, else 0.

    The parameter of interest keeps its bounds in the unconditional fit, as in pyhf; where they allow negative values
    this is the paper's statistic.

    Args:
        model: A model with a parameter of interest.
        mu: Tested value, scalar.
        data: As in ``fit``.

    References:
        arXiv:1007.1727, equation 14.
    """
    return qmu_test(model, mu, data).value


def qmu_tilde_test(model: HistFactoryModel, mu: Any, data: Any = None, *, init: Any = None) -> TestStatistic:
    """``qmu_tilde`` with the fits behind it; arguments as there."""
    require_model(model)
    return qmu_test(bound_below(model), mu, data, init=init)


def qmu_tilde(model: HistFactoryModel, mu: Any, data: Any = None, *, init: Any = None) -> Float[Array, ""]:
    """Upper-limit test statistic for a signal that cannot be negative: as ``qmu``, with mu-hat held at 0 or above.

    Where mu-hat would be negative the reference is the conditional fit at mu = 0, which is what a lower bound of 0 on
    the parameter of interest gives; a model whose parameter of interest may be negative gets that bound here.

    References:
        arXiv:1007.1727, equation 16.
    """
    return qmu_tilde_test(model, mu, data, init=init).value


def zmu(model: HistFactoryModel, mu: Any, data: Any = None) -> Float[Array, ""]:
    """``sqrt(qmu_tilde)``: by how many standard deviations ``mu`` is excluded.

    References:
        arXiv:1007.1727, equation 60 (asymptotically, for mu-hat >= 0).
    """
    return safe_sqrt(qmu_tilde(model, mu, data))
