"""Impacts of nuisance parameters on the parameter of interest, each alone and in groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from .._base._doors import concrete
from .._base._errors import FitError
from .._base._numerics import standard_deviation
from .._base._tables import dataframe, plain, require_single, text_table
from .._likelihood._constraints import constraint_centers, constraint_widths
from .._likelihood._histfactory import Likelihood
from .._minimize import _status
from .._minimize._implicit import attach
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, require_free_poi, require_model
from ._fit import OBJECTIVE, args_of, finish_fit, hold, pins_of, solve_fit, unconditional
from ._refit import Lanes, make_center, refit, response

METHODS = ("refit", "linear")


class Impacts(eqx.Module):
    """How the best fit of the parameter of interest moves with each nuisance parameter.

    Attributes:
        pre_up: Shift of mu-hat where the parameter is held at its best fit plus its pre-fit width, shape (n,); 0 for
            parameters without a constraint, which have no such width.
        pre_down: The same, minus.
        post_up: Shift of mu-hat where the parameter is held at its best fit plus its post-fit uncertainty.
        post_down: The same, minus.
        pull: ``(best fit - measured) / pre-fit width``; NaN without a constraint.
        constraint: ``post-fit uncertainty / pre-fit width``; NaN without a constraint.
        mu_hat: Best fit of the parameter of interest, scalar.
        mu_uncertainty: Its uncertainty.
        status: How the four fits of each parameter ended, shape (n, 4); zero for linear impacts.
        names: Names of the n nuisance parameters: all that can move.
        parameter: Name of the parameter of interest.
        method: ``"refit"`` or ``"linear"``.
    """

    pre_up: Float[Array, " nuisance"]
    pre_down: Float[Array, " nuisance"]
    post_up: Float[Array, " nuisance"]
    post_down: Float[Array, " nuisance"]
    pull: Float[Array, " nuisance"]
    constraint: Float[Array, " nuisance"]
    mu_hat: Float[Array, ""]
    mu_uncertainty: Float[Array, ""]
    status: Int[Array, "nuisance 4"]
    names: tuple[str, ...] = eqx.field(static=True)
    parameter: str = eqx.field(static=True)
    method: str = eqx.field(static=True)

    @property
    def total(self) -> Float[Array, "*batch nuisance"]:
        """``|post_up| + |post_down|``."""
        return jnp.abs(self.post_up) + jnp.abs(self.post_down)

    @property
    def converged(self) -> Any:
        """Whether all fits of a parameter found their minimum, boolean, shape (n,)."""
        return (self.status == _status.CONVERGED).all(-1)

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return _status.message(self.status)

    def _columns(self) -> dict[str, Any]:
        require_single(self.post_up, 1, "Impacts")
        order = np.argsort(-np.nan_to_num(np.asarray(self.total)), kind="stable")
        fields = ("post_up", "post_down", "pre_up", "pre_down", "pull", "constraint")
        columns: dict[str, Any] = {"name": [self.names[k] for k in order]}
        return columns | {name: np.asarray(getattr(self, name))[order] for name in fields}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe: one entry for each parameter, the largest impact first."""
        columns = self._columns()
        rows = zip(*columns.values(), strict=True)
        return {
            "parameter": self.parameter,
            "method": self.method,
            "mu_hat": plain(self.mu_hat),
            "mu_uncertainty": plain(self.mu_uncertainty),
            "impacts": [plain(dict(zip(columns, row, strict=True))) for row in rows],
            "status": self.message,
        }

    def to_dataframe(self) -> Any:
        """One row for each parameter, the largest impact first, as a pandas data frame."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.post_up) or self.post_up.ndim != 1:
            return f"Impacts(post_up={self.post_up!r}, post_down={self.post_down!r})"
        columns = self._columns()
        best = f"{self.parameter} = {float(self.mu_hat):.6g} +- {float(self.mu_uncertainty):.6g}"
        return text_table(list(columns), zip(*columns.values(), strict=True), f"Impacts on {best}: {self.message}")


class GroupedImpacts(eqx.Module):
    """The uncertainty of the parameter of interest, by where it comes from.

    Attributes:
        impacts: For each group ``sqrt(total^2 - sigma^2)``, sigma being the uncertainty with the group held at its
            best fit, shape (n_groups,).
        statistical: Uncertainty with all nuisance parameters held: what the data's own fluctuations leave, scalar.
        total: Uncertainty of the parameter of interest, scalar.
        groups: Names of the groups.
        parameter: Name of the parameter of interest.
    """

    impacts: Float[Array, " group"]
    statistical: Float[Array, ""]
    total: Float[Array, ""]
    groups: tuple[str, ...] = eqx.field(static=True)
    parameter: str = eqx.field(static=True)

    def _columns(self) -> dict[str, Any]:
        require_single(self.total, 0, "GroupedImpacts")
        names = ["total", "statistical", *self.groups]
        return {"group": names, "impact": np.array([self.total, self.statistical, *self.impacts], float)}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by group, JSON-safe."""
        columns = self._columns()
        return plain(dict(zip(columns["group"], columns["impact"], strict=True)))

    def to_dataframe(self) -> Any:
        """One row for each group, as a pandas data frame."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.total) or self.total.ndim:
            return f"GroupedImpacts(groups={self.groups!r}, impacts={self.impacts!r})"
        columns = self._columns()
        title = f"Uncertainty of {self.parameter} by source"
        return text_table(list(columns), zip(*columns.values(), strict=True), title)


class _Nuisance(NamedTuple):
    """What is known of each nuisance parameter before any fit, each of shape (n,); the indices are static."""

    indices: tuple[int, ...]
    measured: Array
    width: Array


def impacts(model: HistFactoryModel, data: Any = None, *, method: str = "refit") -> Impacts:
    """Impacts of all nuisance parameters on the parameter of interest.

    Each is held at its best fit plus and minus its post-fit uncertainty, and its pre-fit width, and everything else is
    fitted again: four fits a parameter, all in batches. A value beyond a bound is the bound.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        method: ``"refit"``, or ``"linear"``: from the covariance, ``C_mu,k / sigma_k``, at no more cost than a fit and
            exact where the likelihood is Gaussian.

    Returns:
        ``Impacts``, differentiable with respect to model and data.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For an unknown method.
    """
    require_model(model)
    poi = require_free_poi(model)
    if method not in METHODS:
        raise FitError(f"method={method!r}: expected {' or '.join(map(repr, METHODS))}")
    likelihood, data = model.likelihood, as_data(model, data)
    nuisance = _nuisances(model, data)
    names = tuple(model.names.parameters[k] for k in nuisance.indices)
    minimum = solve_fit(likelihood, data, unconditional(likelihood))
    params, spread = finish_fit(likelihood, data, minimum, unconditional(likelihood))[:2]
    shifts = _shifts(likelihood, params, spread, nuisance)
    if method == "linear":
        moved = _linear(spread, shifts, np.array(nuisance.indices, dtype=int), poi)
        status = jnp.zeros(shifts.shape, int)
    else:
        moved, status = _refitted(likelihood, data, minimum, params, shifts, nuisance.indices)
    # A parameter that is not moved moves nothing; its fit says so up to rounding only.
    moved = jnp.where(shifts == 0, 0.0, moved)
    where = np.array(nuisance.indices, dtype=int)
    constrained = jnp.isfinite(nuisance.width)
    width = jnp.where(constrained, nuisance.width, 1.0)
    pull = jnp.where(constrained, (params[where] - nuisance.measured) / width, jnp.nan)
    constraint = jnp.where(constrained, standard_deviation(jnp.diagonal(spread)[where]) / width, jnp.nan)
    post_up, post_down, pre_up, pre_down = moved.T
    status = jnp.where(status == _status.CONVERGED, minimum.status, status)
    mu = params[poi], standard_deviation(spread[poi, poi])
    return Impacts(pre_up, pre_down, post_up, post_down, pull, constraint, *mu, status, names, model.names.poi, method)


def _nuisances(model: HistFactoryModel, data: Array) -> _Nuisance:
    """The nuisance parameters that can move; a width is NaN without a constraint."""
    likelihood, indices = model.likelihood, _movable(model)
    where = np.array(indices, dtype=int)
    width = constraint_widths(likelihood)[where]
    return _Nuisance(indices, constraint_centers(likelihood, data)[where], jnp.where(width > 0, width, jnp.nan))


def _movable(model: HistFactoryModel) -> tuple[int, ...]:
    """Indices of all parameters but the one of interest that the measurement does not fix."""
    s, frozen = model.likelihood.structure, model.likelihood.frozen
    fixed = np.asarray(frozen) > 0 if concrete(frozen) else np.zeros(s.n_params, bool)
    return tuple(k for k in range(s.n_params) if k != s.poi and not fixed[k])


def _shifts(likelihood: Likelihood, params: Array, spread: Array, nuisance: _Nuisance) -> Array:
    """By how much each parameter is moved: post-fit up and down, pre-fit up and down, shape (n, 4)."""
    where = np.array(nuisance.indices, dtype=int)
    post = standard_deviation(jnp.diagonal(spread)[where])
    pre = jnp.where(jnp.isfinite(nuisance.width), nuisance.width, 0.0)
    wanted = jnp.stack([post, -post, pre, -pre], axis=1)
    here = params[where][:, None]
    ends = (likelihood.lower[where][:, None], likelihood.upper[where][:, None])
    return jnp.clip(here + wanted, *ends) - here


def _linear(spread: Array, shifts: Array, where: np.ndarray, poi: int) -> Array:
    variance = jnp.diagonal(spread)[where]
    slope = jnp.where(variance > 0, spread[poi, where] / jnp.where(variance > 0, variance, 1.0), 0.0)
    return slope[:, None] * shifts


def _refitted(
    likelihood: Likelihood, data: Array, minimum: Minimum, params: Array, shifts: Array, indices: tuple[int, ...]
) -> tuple[Array, Array]:
    """Shifts of the parameter of interest, and the statuses, shape (n, 4)."""
    if not indices:
        return jnp.zeros((0, 4), data.dtype), jnp.zeros((0, 4), int)
    stopped = lax.stop_gradient((likelihood, data, minimum, params, shifts))
    minima = _solve_refits(*stopped, indices)
    return _finish(likelihood, data, params, shifts, minima, indices), minima.status.reshape(-1, 4)


@jax.jit(static_argnums=5)
def _solve_refits(
    likelihood: Likelihood, data: Array, minimum: Minimum, params: Array, shifts: Array, indices: tuple[int, ...]
) -> Minimum:
    center = make_center(likelihood, data, minimum, unconditional(likelihood))
    pins = np.repeat(np.array(indices), 4)

    def moved(k: Array, shift: Array) -> Array:
        return (params + response(center, k) * shift).at[k].set(params[k] + shift)

    start = jax.vmap(moved)(jnp.asarray(pins), shifts.reshape(-1))
    return refit(likelihood, center, Lanes(start, jnp.asarray(pins), data))


@jax.jit(static_argnums=5)
def _finish(
    likelihood: Likelihood, data: Array, params: Array, shifts: Array, minima: Minimum, indices: tuple[int, ...]
) -> Array:
    """The shifts with their derivatives."""
    poi = likelihood.structure.poi
    values = params[np.array(indices)][:, None] + shifts
    held = jnp.repeat(jnp.array(indices), 4)

    def one(minimum: Minimum, k: Array, value: Array) -> Array:
        args = args_of(likelihood, data, minimum)
        pins = pins_of(likelihood, minimum, hold(likelihood, k[None], value[None]))
        return attach(OBJECTIVE, minimum.y, args, pins)[poi]

    return jax.vmap(one)(minima, held, values.reshape(-1)).reshape(-1, 4) - params[poi]


def grouped_impacts(
    model: HistFactoryModel, groups: Mapping[str, Any] | None = None, data: Any = None
) -> GroupedImpacts:
    """The uncertainty of the parameter of interest by groups of nuisance parameters.

    With a group held at its best fit the others' best fit does not move, only the curvature does: the uncertainty
    without the group follows from the covariance, ``C_mm - C_mG C_GG^-1 C_Gm``, without another fit.

    Args:
        model: A model with a parameter of interest.
        groups: Names of parameters by group, as lists of names or patterns (``"jet_*"``); a parameter may be in several
            groups. By default: MC statistics (the gammas), systematics (all others with a constraint) and free
            parameters.
        data: As in ``fit``.

    Returns:
        ``GroupedImpacts``, differentiable with respect to model and data. Correlated groups do not add in quadrature.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a name or a pattern that no nuisance parameter has.
    """
    require_model(model)
    poi = require_free_poi(model)
    likelihood, data = model.likelihood, as_data(model, data)
    members = _members(model, groups)
    minimum = solve_fit(likelihood, data, unconditional(likelihood))
    spread = finish_fit(likelihood, data, minimum, unconditional(likelihood))[1]
    total = spread[poi, poi]
    explained = [_explained(spread, poi, group) for group in members.values()]
    everything = _explained(spread, poi, list(_movable(model)))
    by_group = jnp.stack([standard_deviation(x) for x in explained]) if explained else jnp.zeros((0,), data.dtype)
    return GroupedImpacts(
        by_group, standard_deviation(total - everything), standard_deviation(total), tuple(members), model.names.poi
    )


def _explained(spread: Array, poi: int, group: Sequence[int]) -> Array:
    """The variance of the parameter of interest that goes away when a group is held."""
    where = np.array(group, dtype=int)
    if not len(where):
        return jnp.zeros((), spread.dtype)
    block, column = spread[where][:, where], spread[where, poi]
    # Parameters that cannot move have zero rows; they explain nothing.
    still = jnp.diagonal(block) <= 0
    block = block + jnp.diag(jnp.where(still, 1.0, 0.0))
    scale = jnp.sqrt(jnp.diagonal(block))
    column = column / scale
    return column @ jnp.linalg.solve(block / (scale[:, None] * scale[None, :]), column)


def _members(model: HistFactoryModel, groups: Mapping[str, Any] | None) -> dict[str, list[int]]:
    s = model.likelihood.structure
    all_ = _movable(model)
    if groups is None:
        gammas = set(s.derived.gammas.tolist())
        constrained = {k for k in all_ if model.names.constraints[k] != "none"}
        default = {
            "MC statistics": [k for k in all_ if k in gammas and k in constrained],
            "systematics": [k for k in all_ if k in constrained and k not in gammas],
            "free parameters": [k for k in all_ if k not in constrained],
        }
        return {name: group for name, group in default.items() if group}
    if not isinstance(groups, Mapping):
        raise FitError(f"groups is a {type(groups).__name__}: give a mapping from group names to parameter names")
    names = model.names.parameters
    found: dict[str, list[int]] = {}
    for group, patterns in groups.items():
        patterns = (patterns,) if isinstance(patterns, str) else patterns
        if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
            raise FitError(f"group {group!r} is {patterns!r:.60}: give names or patterns of parameters")
        chosen: set[int] = set()
        for pattern in patterns:
            matching = {k for k in all_ if names[k] == pattern or fnmatchcase(names[k], pattern)}
            if not matching:
                raise FitError(f"group {group!r}: no nuisance parameter that can move is called {pattern!r}")
            chosen |= matching
        found[group] = sorted(chosen)
    return found
