"""Sampling: log-densities of bounded parameters on an unbounded space, and Markov chains that stay exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .._base._doors import integer, no_type_check
from .._base._errors import DatasetError, MissingExtraError
from .._inference._fit import fit
from .._inference._result import Result, result, static
from .._likelihood._automatic import absolute
from .._minimize import _status
from .._model._base import Model, require_model
from .._model._model import HistFactoryModel
from .._model._reparametrized import Reparametrized
from ._core import covariance_root
from ._dataset import check_model
from ._reference import require_same_model
from ._surrogate import check_surrogate

# Where a chain starts if the best fit lies on a bound: this part of the box away from it.
_MARGIN = 0.02
_TARGET = 0.85
# Points at which two functions are compared.
_PROBES = 64
# Potential scale reductions above this say that chains have not mixed.
_MIXED = 1.05


class LogDensity(eqx.Module):
    """The logarithm of a posterior density as a function on an unbounded space: called with z of shape (n_free,).

    Each free parameter is ``lower + (upper - lower) sigmoid(z)``; fixed ones keep their values. The prior is flat
    inside the bounds (constraint terms are part of the likelihood), and the density includes the Jacobian of the map.
    BlackJAX takes the object itself as its log-density; NumPyro takes its ``potential``.

    Attributes:
        source: The likelihood.
        lower: Lower bounds, shape (n_params,).
        upper: Upper bounds.
        free: Indices of the free parameters.
        base: Values of the fixed ones, shape (n_params,).
        start: A good starting point, shape (n_free,).
        root: Matrix L whose ``L L^T`` is near the covariance of z, shape (n_free, n_free).
    """

    source: Any
    lower: Any
    upper: Any
    free: Any
    base: Any
    start: Any
    root: Any

    def __call__(self, z: Any) -> Any:
        """Log-density at z, scalar; -inf where the NLL is infinite."""
        return self.given(self.params(z), z)

    def given(self, params: Any, z: Any) -> Any:
        """The same, for parameters that are known already."""
        log_jacobian = (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)).sum()
        data = self.source.observed
        return log_jacobian - (self.source.deviance(params, data) + self.source.constant(data))

    def potential(self, z: Any) -> Any:
        """``-log_density(z)``: NumPyro's potential."""
        return -self(z)

    def params(self, z: Any) -> Any:
        """Parameters of shape (..., n_params) from z of shape (..., n_free)."""
        low, high = self.lower[self.free], self.upper[self.free]
        moved = low + (high - low) * jax.nn.sigmoid(z)
        base = jnp.broadcast_to(self.base, (*jnp.shape(z)[:-1], len(self.base)))
        return base.at[..., self.free].set(moved)

    def unbounded(self, params: Any) -> Any:
        """The inverse of ``params``; infinite on a bound."""
        low, high = self.lower[self.free], self.upper[self.free]
        unit = (jnp.asarray(params)[..., self.free] - low) / (high - low)
        return jnp.log(unit) - jnp.log1p(-unit)


@no_type_check
def log_density(source: Model, surrogate: Model | None = None) -> LogDensity:
    """The log-density of a surrogate, or of a model on the same space; either may be ``reparametrize``d.

    Args:
        source: A surrogate, or a model.
        surrogate: For a model: the surrogate whose bounds, fixed values and starting point it shares.

    Raises:
        DatasetError: For something else, or a surrogate of another model.
        ModelError: For what is no model.
    """
    require_model(source)
    given: Any = source
    if isinstance(_innermost(source), HistFactoryModel):
        _require_same(surrogate, source)
        given = surrogate
    elif surrogate is not None:
        raise DatasetError("surrogate= goes with a model: log_density(model, surrogate)")
    box = np.asarray(given.parameter_bounds(), np.float64)
    lower, upper = box.T
    if isinstance(given, Reparametrized):
        free = (upper > lower) & ~(np.asarray(given.frozen) > 0)
        best, axes = _around_minimum(given, box, free)
    else:
        check_surrogate(given)
        core, free = given.members[0], upper > lower
        best, axes = np.asarray(core.origin, np.float64), covariance_root(core).T
    width = (upper - lower)[free]
    unit = np.clip((best - lower)[free] / width, _MARGIN, 1.0 - _MARGIN)
    # The map's slope scales the axes of the parameters' covariance.
    root = axes / (width * unit * (1.0 - unit))[:, None]
    base = np.where(free, 0.0, np.asarray(given.parameter_init(), np.float64))
    start = np.log(unit / (1 - unit))
    return LogDensity(source.quick_likelihood, lower, upper, np.flatnonzero(free), base, start, root)


def _innermost(model: Any) -> Any:
    """What a model is a function of, however often it was reparametrized."""
    while isinstance(model, Reparametrized):
        model = model.source
    return model


def _around_minimum(source: Reparametrized, box: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best fit, and a root of the covariance of the free parameters."""
    best = np.asarray(fit(source).params)
    likelihood = source.likelihood
    hessian = likelihood.hessian(jnp.asarray(best), likelihood.observed).dense()
    precision = np.asarray(absolute(hessian))[np.ix_(free, free)]
    # Where the likelihood says little, the prior's own width.
    precision = precision + np.diag(12.0 / (box[free, 1] - box[free, 0]) ** 2)
    return best, np.linalg.inv(np.linalg.cholesky(precision)).T


def _require_same(surrogate: Any, exact: Any) -> None:
    """Refuses what is no surrogate of the exact likelihood, in the same parameters."""
    if isinstance(exact, Reparametrized):
        if not isinstance(surrogate, Reparametrized):
            raise DatasetError(f"expected a reparametrized surrogate, found {type(surrogate).__name__}")
        ours, theirs = (np.asarray(x.parameter_bounds()) for x in (surrogate, exact))
        if surrogate.names != exact.names or not np.array_equal(ours, theirs):
            raise DatasetError(
                "surrogate and model have other parameters or bounds: reparametrize both in the same way, "
                "the model with surrogate="
            )
        points = ours[:, 0] + np.random.default_rng(0).random((_PROBES, len(ours))) * (ours[:, 1] - ours[:, 0])
        if not np.allclose(surrogate.params(points), exact.params(points), rtol=1e-9, atol=1e-12, equal_nan=True):
            raise DatasetError("surrogate and model are reparametrized by different functions: give both the same one")
        return _require_same(surrogate.source, exact.source)
    check_surrogate(surrogate)
    check_model(exact)
    return require_same_model(surrogate.metadata, exact)


class _Place(NamedTuple):
    """Where a chain is, with the surrogate's log-density and its slope along the columns of ``root``."""

    z: Array
    approximate: Array
    slope: Array


class _State(NamedTuple):
    place: _Place
    exact: Array


@result
class Chains(Result):
    """Markov chains of ``sample``. NumPy arrays.

    Attributes:
        params: Shape (n_chains, n_samples, n_params).
        accepted: Whether the exact likelihood accepted each proposal, shape (n_chains, n_samples).
        inner_acceptance: Mean acceptance of the surrogate's own steps, scalar.
        n_exact: Exact evaluations of the NLL, warm-up included; no gradient of it was needed. Scalar.
        parameter_names: Names of the parameters.
    """

    _single: ClassVar[tuple[str, int]] = ("params", 3)

    params: Float[np.ndarray, "chain draw param"]
    accepted: Bool[np.ndarray, "chain draw"]
    inner_acceptance: Float[np.ndarray, ""]
    n_exact: Int[np.ndarray, ""]
    parameter_names: tuple[str, ...] = static()

    @property
    def acceptance(self) -> float:
        """Share of the proposals that the exact likelihood accepted: 1 for a perfect surrogate."""
        return float(np.mean(np.asarray(self.accepted)))

    @property
    def r_hat(self) -> Float[np.ndarray, " param"]:
        """Potential scale reduction of each parameter, each chain split in two; 1 for chains that have mixed.

        NaN where a parameter does not move, or for fewer than 4 draws.

        References:
            A. Gelman et al., Bayesian Data Analysis, third edition (2013), section 11.4.
        """
        x = np.asarray(self.params)
        half = x.shape[1] // 2
        if half < 2:
            return np.full(x.shape[2], np.nan)
        x = np.concatenate([x[:, :half], x[:, -half:]])
        within = x.var(axis=1, ddof=1).mean(0)
        between = x.mean(axis=1).var(axis=0, ddof=1)
        moves = within > 0
        ratio = between / np.where(moves, within, 1.0)
        return np.where(moves, np.sqrt((half - 1) / half + ratio), np.nan)

    @property
    def status(self) -> np.ndarray:
        """0 for chains that have mixed, else the code of something that is not finished."""
        return np.asarray(_status.CONVERGED if self._worst <= _MIXED else _status.RUNNING)

    @property
    def _worst(self) -> float:
        found = self.r_hat[np.isfinite(self.r_hat)]
        return float(found.max()) if len(found) else math.inf

    @property
    def message(self) -> str:
        """Whether the chains have mixed, and what to do about it."""
        if bool(self.converged):
            return f"the chains have mixed (largest R-hat {self._worst:.3f})"
        return f"the chains have not mixed: the largest R-hat is {self._worst:.3g}, above {_MIXED:g}; draw more"

    def to_arviz(self) -> Any:
        """An ArviZ ``InferenceData`` with one variable for each parameter.

        Raises:
            MissingExtraError: If ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError:
            raise MissingExtraError("arviz", "sampling") from None
        return arviz.from_dict({name: self.params[..., k] for k, name in enumerate(self.parameter_names)})

    def _columns(self) -> dict[str, Any]:
        x = np.asarray(self.params).reshape(-1, len(self.parameter_names))
        return {
            "parameter": list(self.parameter_names),
            "mean": x.mean(0),
            "std": x.std(0),
            **{f"{100 * q:.0f} %": np.quantile(x, q, axis=0) for q in (0.16, 0.5, 0.84)},
            "r_hat": self.r_hat,
        }

    def _facts(self) -> dict[str, Any]:
        names, *columns = self._columns().items()
        rows = {name: {key: column[k] for key, column in columns} for k, name in enumerate(names[1])}
        numbers = {name: getattr(self, name) for name in ("acceptance", "inner_acceptance", "n_exact")}
        return {"parameters": rows, **numbers}

    def _title(self) -> str:
        chains, draws, _ = np.shape(self.params)
        return (
            f"Chains: {self.message}; {chains} of {draws} draws, {int(self.n_exact)} exact evaluations; the exact "
            f"likelihood accepted {100 * self.acceptance:.1f} % of the surrogate's proposals"
        )


@no_type_check
def sample(
    surrogate: Model,
    model: Model,
    n_samples: int = 1000,
    *,
    n_chains: int = 4,
    n_warmup: int = 200,
    n_inner: int = 8,
    n_leapfrog: int = 3,
    seed: int = 0,
) -> Chains:
    """Samples the exact posterior, with proposals from the surrogate (delayed acceptance).

    Each proposal is the end of ``n_inner`` Hamiltonian transitions that leave the surrogate's posterior invariant. It
    is accepted with probability ``min(1, r)``, where r is the ratio of exact to surrogate density there over that
    here: the chain's stationary distribution is the exact posterior, whatever the surrogate, and a draw costs one exact
    NLL. How good the surrogate is decides how many proposals are accepted; one that is trained on ``"profile"`` or
    ``"gaussian"`` points is at its best where the chain is.

    Args:
        surrogate: The surrogate, reparametrized or not.
        model: Its model, reparametrized in the same way. The prior is flat inside the surrogate's box.
        n_samples: Draws of each chain.
        n_chains: Number of chains, advanced together.
        n_warmup: Draws that are thrown away, in which the step is adapted.
        n_inner: Transitions of the surrogate between two draws.
        n_leapfrog: Steps of each transition.
        seed: Seed.

    Returns:
        ``Chains``, whose ``converged`` says whether they have mixed.

    Raises:
        DatasetError: For a surrogate of another model, or arguments that cannot be used.

    References:
        J. S. Liu, Monte Carlo Strategies in Scientific Computing (2001), section 9.4.3; J. A. Christen, C. Fox,
        J. Comput. Graph. Stat. 14 (2005) 795.
    """
    _require_same(surrogate, model)
    approximate = log_density(surrogate)
    exact = replace(approximate, source=model.quick_likelihood)
    counts = {"n_samples": n_samples, "n_warmup": n_warmup, "n_inner": n_inner, "n_leapfrog": n_leapfrog}
    draws, warmup, inner, leapfrog = (
        integer(value, name, int(name != "n_warmup"), DatasetError) for name, value in counts.items()
    )
    chains = integer(n_chains, "n_chains", error=DatasetError)
    keys = jax.random.split(jax.random.key(integer(seed, "seed", 0, DatasetError)), chains)
    z, accepted, chances = _chains(exact, approximate, keys, draws, warmup, inner, leapfrog)
    params, total = np.asarray(exact.params(z)), chains * (draws + warmup + 1)
    return Chains(
        params, np.asarray(accepted), np.asarray(chances.mean()), np.asarray(total),
        parameter_names=tuple(surrogate.parameter_names()),
    )  # fmt: skip


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _chains(exact: Any, approximate: Any, keys: Any, draws: int, warmup: int, n_inner: int, leapfrog: int) -> Any:
    return jax.vmap(lambda key: _chain(exact, approximate, key, draws, warmup, n_inner, leapfrog))(keys)


def _chain(exact: Any, approximate: Any, key: Any, draws: int, warmup: int, n_inner: int, leapfrog: int) -> Any:
    """One chain: draws of z, whether each proposal was accepted, and the acceptance of the inner steps."""
    root = jnp.asarray(approximate.root)
    first, key = jax.random.split(key)
    slope_at: Callable[[Any, Any], Any] = jax.value_and_grad(lambda y, z: approximate(z + root @ y))
    start = approximate.start + 0.5 * root @ jax.random.normal(first, approximate.start.shape)

    def inner(carry: Any, key: Any) -> Any:
        place, log_step = carry
        place, chance = _transition(slope_at, root, place, jnp.exp(log_step), leapfrog, key)
        return (place, log_step), chance

    def outer(carry: Any, inputs: Any) -> Any:
        state, log_step = carry
        key, rate = inputs
        moves, last = jax.random.split(key)
        (place, _), chances = lax.scan(inner, (state.place, log_step), jax.random.split(moves, n_inner))
        proposal = _State(place, exact(place.z))
        log_ratio = (proposal.exact - state.exact) - (place.approximate - state.place.approximate)
        accept = jnp.log(jax.random.uniform(last)) < log_ratio
        state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), proposal, state)
        # Robbins and Monro's adaptation, during warm-up only.
        log_step = log_step + rate * (chances.mean() - _TARGET)
        return (state, log_step), (state.place.z, accept, chances.mean())

    rates = np.concatenate([2.0 / np.sqrt(np.arange(warmup) + 4.0), np.zeros(draws)])
    state = _State(_Place(start, *slope_at(jnp.zeros_like(start), start)), exact(start))
    carry = (state, jnp.asarray(math.log(0.8 / len(start) ** 0.25)))
    _, (path, accepted, chances) = lax.scan(outer, carry, (jax.random.split(key, warmup + draws), rates))
    return path[warmup:], accepted[warmup:], chances[warmup:]


def _transition(slope_at: Any, root: Any, place: _Place, step: Any, leapfrog: int, key: Any) -> tuple[_Place, Any]:
    """One Hamiltonian transition in the coordinates ``z = z0 + root @ y``, and its acceptance probability.

    References:
        R. M. Neal, MCMC using Hamiltonian dynamics, Handbook of Markov Chain Monte Carlo (2011), section 5.3.
    """
    kick, length, last = jax.random.split(key, 3)
    momentum = jax.random.normal(kick, place.z.shape)
    # A random step length keeps trajectories from closing on themselves.
    step = step * jax.random.uniform(length, (), minval=0.7, maxval=1.3)

    def move(carry: Any, _: None) -> Any:
        y, p, value, slope = carry
        p = p + 0.5 * step * slope
        y = y + step * p
        value, slope = slope_at(y, place.z)
        return (y, p + 0.5 * step * slope, value, slope), None

    begin = (jnp.zeros_like(place.z), momentum, place.approximate, place.slope)
    (y, p, value, slope), _ = lax.scan(move, begin, None, leapfrog)
    log_ratio = value - place.approximate + 0.5 * (momentum @ momentum - p @ p)
    chance = jnp.where(jnp.isfinite(log_ratio), jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
    accept = jax.random.uniform(last) < chance
    moved = _Place(place.z + root @ y, value, slope)
    return jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, place), chance
