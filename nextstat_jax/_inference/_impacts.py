"""Impacts of nuisance parameters on the parameter of interest, each alone and in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._doors import concrete, no_type_check, on_device, one_of
from .._base._errors import FitError
from .._base._numerics import lightly, standard_deviation
from .._base._tables import plain
from .._likelihood._common import Common
from .._minimize import _status
from .._minimize._matrix import Spread
from .._model._base import Model, Subject, check_start, subject
from ._driver import ask
from ._fit import defined, several_minima
from ._points import blank_rows, index_array
from ._question import Alone, Ask, Course, Question, question
from ._result import Result, result, static
from ._rows import Facts, First, Rows, facts_of
from ._search import Found
from ._settle import Settled, settle_free, settle_hessian, settle_spread

METHODS = ("refit", "linear")


@result
class Impacts(Result):
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
        status: How the four fits of each parameter ended, shape (n, 4); that of the one fit for linear impacts.
        next_minimum: The least distance, in the NLL, of another minimum from one of the fits; +inf where all starts
            agree. Scalar.
        names: Names of the n nuisance parameters: all that can move.
        parameter: Name of the parameter of interest.
        method: ``"refit"`` or ``"linear"``.
    """

    _single: ClassVar[tuple[str, int]] = ("mu_hat", 0)

    pre_up: Float[Array, " nuisance"]
    pre_down: Float[Array, " nuisance"]
    post_up: Float[Array, " nuisance"]
    post_down: Float[Array, " nuisance"]
    pull: Float[Array, " nuisance"]
    constraint: Float[Array, " nuisance"]
    mu_hat: Float[Array, ""]
    mu_uncertainty: Float[Array, ""]
    status: Int[Array, "nuisance 4"]
    next_minimum: Float[Array, ""]
    names: tuple[str, ...] = static()
    parameter: str = static()
    method: str = static()

    @property
    def total(self) -> Float[Array, "*batch nuisance"]:
        """``|post_up| + |post_down|``."""
        return lightly(lambda xp, up, down: xp.abs(up) + xp.abs(down), self.post_up, self.post_down)

    @property
    def converged(self) -> Bool[Array, "*batch nuisance"]:
        """Whether all fits of a parameter found their minimum, boolean, shape (n,)."""
        return lightly(lambda xp, status: (status == _status.CONVERGED).all(-1), self.status)

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return super().message + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, Any]:
        order = np.argsort(-np.nan_to_num(np.asarray(self.total)), kind="stable")
        fields = ("post_up", "post_down", "pre_up", "pre_down", "pull", "constraint")
        columns: dict[str, Any] = {"name": [self.names[k] for k in order]}
        return columns | {name: np.asarray(getattr(self, name))[order] for name in fields}

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        columns = self._columns()
        rows = zip(*columns.values(), strict=True)
        return {
            "parameter": self.parameter,
            "method": self.method,
            "mu_hat": self.mu_hat,
            "mu_uncertainty": self.mu_uncertainty,
            "impacts": [plain(dict(zip(columns, row, strict=True))) for row in rows],
        }

    def _title(self) -> str:
        best = f"{self.parameter} = {float(self.mu_hat):.6g} +- {float(self.mu_uncertainty):.6g}"
        return f"Impacts on {best}: {self.message}"


@result
class GroupedImpacts(Result):
    """The uncertainty of the parameter of interest, by where it comes from.

    Attributes:
        impacts: For each group ``sqrt(total^2 - sigma^2)``, sigma being the uncertainty with the group held at its
            best fit, shape (n_groups,).
        statistical: Uncertainty with all nuisance parameters held: what the data's own fluctuations leave, scalar.
        total: Uncertainty of the parameter of interest, scalar.
        status: How the fit ended.
        groups: Names of the groups.
        parameter: Name of the parameter of interest.
    """

    impacts: Float[Array, " group"]
    statistical: Float[Array, ""]
    total: Float[Array, ""]
    status: Int[Array, ""]
    groups: tuple[str, ...] = static()
    parameter: str = static()

    def _columns(self) -> dict[str, Any]:
        names = ["total", "statistical", *self.groups]
        return {"group": names, "impact": np.array([self.total, self.statistical, *self.impacts], float)}

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        columns = self._columns()
        return dict(zip(columns["group"], columns["impact"].tolist(), strict=True))

    def _title(self) -> str:
        return f"Uncertainty of {self.parameter} by source: {self.message}"


@no_type_check
def impacts(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    method: str = "refit",
    parameters: Sequence[str] | None = None,
) -> Impacts:
    """Impacts of nuisance parameters on the parameter of interest.

    Each is held at its best fit plus and minus its post-fit uncertainty, and its pre-fit width, and everything else is
    fitted again: four fits a parameter, all in batches. A value beyond a bound is the bound.

    Args:
        model: A model with a parameter of interest; ``model.with_poi(name)`` ranks by another parameter.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Parameters to hold, as in ``fit``; they have no impact.
        method: ``"refit"``, or ``"linear"``: from the covariance, ``C_mu,k / sigma_k``, at no more cost than a fit and
            exact where the likelihood is Gaussian.
        parameters: Names of nuisance parameters, or patterns of such (``"jet_*"``): of many thousands of Monte Carlo
            parameters nobody wants the impacts of each. All that can move by default.

    Returns:
        ``Impacts``, differentiable with respect to model and data.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For an unknown method, or a name or pattern that no nuisance parameter has.
    """
    about = subject(model, data, fixed, free_poi=True)
    one_of(method, METHODS, "method")
    assert about.poi is not None
    nuisances = _movable(about)
    if parameters is not None:
        nuisances = tuple(_matching(about.names, nuisances, parameters, "parameters"))
    kind = Refitted if method == "refit" and nuisances else Linear
    asked = kind(about.place[None], index_array(*nuisances))
    told = ask(asked, facts_of(about), check_start(about, init))
    names = tuple(about.names[k] for k in nuisances)
    return Impacts(*told.answer, names=names, parameter=about.poi_name, method=method).explained(
        model, about, told.stuck
    )


def _movable(about: Subject) -> tuple[int, ...]:
    """Indices of all parameters but the one of interest that the measurement does not fix."""
    frozen = about.likelihood.frozen
    fixed = np.asarray(frozen) > 0 if concrete(frozen) else np.zeros(len(about.names), bool)
    return tuple(k for k in range(len(about.names)) if k != about.poi and not fixed[k])


class _Best(NamedTuple):
    """The unconditional fit, and by how much each nuisance parameter is moved from it, shape (n, 4)."""

    params: Array
    spread: Spread
    shifts: Array


@question
class _Ranking(Question):
    """What both kinds of impacts share.

    Attributes:
        where: Index of the parameter of interest, shape (1,).
        nuisances: Indices of the others, shape (n,).
    """

    where: Any
    nuisances: Any

    full: ClassVar[bool] = True
    flat: ClassVar[bool] = False

    def best(self, facts: Facts, params: Array, spread: Spread) -> _Best:
        """What is moved, and by how much: post-fit up and down, pre-fit up and down."""
        likelihood, mine = facts.likelihood, self.nuisances
        post = standard_deviation(spread.variances[mine])
        pre = likelihood.constraints(facts.data)[1][mine]
        wanted = jnp.stack([post, -post, pre, -pre], axis=1)
        here = params[mine][:, None]
        ends = (likelihood.lower[mine][:, None], likelihood.upper[mine][:, None])
        return _Best(params, spread, jnp.clip(here + wanted, *ends) - here)

    def rates(self, spread: Spread) -> Array:
        """How all parameters follow each that is moved, in the quadratic approximation, shape (n, n_params)."""
        mine = self.nuisances
        variance = spread.variances[mine][:, None]
        rate = spread.columns(mine) / jnp.where(variance > 0, variance, 1.0)
        return jnp.where((variance > 0) & jnp.isfinite(rate), rate, 0.0)

    def settled(self, facts: Facts, course: Course) -> _Best:
        """``best`` with all derivatives."""
        likelihood, data, minimum = facts.likelihood, facts.data, course.first.found.minimum
        params = settle_free(likelihood, data, minimum).params
        return self.best(facts, params, settle_spread(likelihood, data, minimum, course.spread))

    def table(self, facts: Facts, course: Course, best: _Best, moved: Array, status: Array) -> tuple[Array, ...]:
        """The arrays of ``Impacts``, in its order, from the shifts of the parameter of interest."""
        mine, poi = self.nuisances, self.where[0]
        # A parameter that is not moved moves nothing; its fit says so up to rounding only.
        moved = jnp.where(best.shifts == 0, 0.0, moved)
        measured, width = (x[mine] for x in facts.likelihood.constraints(facts.data))
        unit = jnp.where(width > 0, width, 1.0)
        pull = jnp.where(width > 0, (best.params[mine] - measured) / unit, jnp.nan)
        constraint = jnp.where(width > 0, standard_deviation(best.spread.variances[mine]) / unit, jnp.nan)
        post_up, post_down, pre_up, pre_down = moved.T
        mu = best.params[poi], defined(standard_deviation(best.spread.variances[poi]), facts.likelihood.frozen[poi] > 0)
        return pre_up, pre_down, post_up, post_down, pull, constraint, *mu, status, course.above

    def widened(self, common: Common) -> _Ranking:
        """As many nuisance parameters as there can be: those that are added cannot move."""
        still = np.flatnonzero(np.asarray(common.frozen) > 0)
        # Where nothing is held, that of which only some are wanted is asked for again.
        still = still if len(still) else np.asarray(self.nuisances)[:1]
        missing = common.level.params - 1 - len(self.nuisances)
        return replace(self, nuisances=index_array(*map(int, (*self.nuisances, *np.resize(still, missing)))))

    def narrowed(self, common: Common, answer: Any) -> Any:
        """Without what was added."""
        *columns, mu_hat, mu_uncertainty, status, above = answer
        mine = slice(len(self.nuisances))
        *columns, status = on_device([np.asarray(x)[mine] for x in (*columns, status)])
        return *columns, mu_hat, mu_uncertainty, status, above


@question
class Linear(_Ranking, Alone):
    """Impacts from the covariance."""

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``Impacts``, in its order."""
        best = self.settled(facts, course)
        slope = self.rates(best.spread)[:, self.where[0]]
        status = jnp.broadcast_to(course.first.found.minimum.status, best.shifts.shape)
        return self.table(facts, course, best, slope[:, None] * best.shifts, status)


class _Refits(NamedTuple):
    """State of the question: where fits start, what was found, and whether it was."""

    start: Array
    found: Found
    done: Array


@question
class Refitted(_Ranking):
    """Impacts from fits with each nuisance parameter held at each of its four places."""

    near: ClassVar[bool] = True

    def begin(self, facts: Facts, first: First) -> _Refits:
        """All others follow what is moved."""
        best = self.best(facts, first.found.minimum.y, first.spread)
        follow = jnp.repeat(self.rates(best.spread), best.shifts.shape[1], axis=0)
        rows = jnp.arange(best.shifts.size)
        start = best.params + follow * best.shifts.reshape(-1, 1)
        held = self._held()
        start = start.at[rows, held].set(best.params[held] + best.shifts.reshape(-1))
        return _Refits(start, blank_rows(facts.likelihood, facts.data, len(rows)), jnp.array(False))

    def _held(self) -> Array:
        """Index of what each fit holds, shape (4 n,)."""
        return jnp.repeat(jnp.asarray(self.nuisances), 4)

    def ask(self, facts: Facts, state: _Refits) -> Ask:
        """All of them at once."""
        held = jnp.arange(state.start.shape[1]) == self._held()[:, None]
        return Ask(Rows.of(state.start, held | (facts.likelihood.frozen > 0)), facts.data)

    def tell(self, facts: Facts, state: _Refits, first: First, found: Found) -> _Refits:
        """That is all."""
        return state._replace(found=found, done=jnp.array(True))

    def done(self, state: _Refits) -> Array:
        """After one pass."""
        return state.done

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``Impacts``, in its order."""
        likelihood, data, poi = facts.likelihood, facts.data, self.where[0]
        best, minima = self.settled(facts, course), course.state.found.minimum
        held = self._held()
        values = best.params[held] + best.shifts.reshape(-1)

        def one(minimum: Any, k: Array, value: Array) -> Array:
            mine = (likelihood.frozen > 0).at[k].set(True)
            return Settled(likelihood, data, minimum, likelihood.init.at[k].set(value), mine).params[poi]

        moved = jax.vmap(one)(minima, held, values).reshape(-1, 4) - best.params[poi]
        status = minima.status.reshape(-1, 4)
        status = jnp.where(status == _status.CONVERGED, course.first.found.minimum.status, status)
        return self.table(facts, course, best, moved, status)


@no_type_check
def grouped_impacts(
    model: Model,
    *,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> GroupedImpacts:
    """The uncertainty of the parameter of interest by groups of nuisance parameters.

    With a group held at its best fit the others' best fit does not move, only the curvature does: the uncertainty
    without the group follows from the covariance, ``C_mm - C_mG C_GG^-1 C_Gm``, without another fit.

    Args:
        model: A model with a parameter of interest.
        groups: Names of parameters by group, as lists of names or patterns (``"jet_*"``); a parameter may be in several
            groups. By default those of ``model.parameter_groups()``: MC statistics (the gammas), systematics (all
            others with a constraint) and free parameters.
        data: As in ``fit``.
        init: Where the fit starts, as in ``fit``.
        fixed: Parameters to hold, as in ``fit``; they are in no group.

    Returns:
        ``GroupedImpacts``, differentiable with respect to model and data. Correlated groups do not add in quadrature.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a name or a pattern that no nuisance parameter has.
    """
    about = subject(model, data, fixed, free_poi=True)
    nuisances = _movable(about)
    members = _members(model, about.names, nuisances, groups)
    masks = np.zeros((len(members) + 1, len(about.names)), bool)
    for k, group in enumerate([*members.values(), list(nuisances)]):
        masks[k, group] = True
    told = ask(Grouped(about.place[None], masks), facts_of(about), check_start(about, init))
    result = GroupedImpacts(*told.answer, groups=tuple(members), parameter=about.poi_name)
    return result.explained(model, about, told.stuck)


@question
class Grouped(Alone):
    """The variance of the parameter of interest that goes away when a group is held.

    Attributes:
        where: Index of the parameter of interest, shape (1,).
        masks: Members of each group, boolean, shape (groups, n_params); the last is of all nuisance parameters.
    """

    where: Any
    masks: Any

    flat: ClassVar[bool] = False

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``GroupedImpacts``, in its order."""
        likelihood, minimum, poi = facts.likelihood, course.first.found.minimum, self.where[0]
        hessian, held, pinned = settle_hessian(likelihood, facts.data, minimum)
        unit = (jnp.arange(len(held)) == poi).astype(minimum.y.dtype)

        def left(mask: Array) -> Array:
            """The variance with a group held; as in ``spread_of`` what is on a bound is held if need be."""
            first, second = (hessian.factorized(out | mask).solve(unit)[poi] for out in (held, held | pinned))
            return jnp.where(jnp.isfinite(first), first, second)

        none = jnp.zeros((1, len(held)), bool)
        total, *others = jax.vmap(left)(jnp.concatenate([none, jnp.asarray(self.masks)]))
        others = jnp.stack(others)
        impacts = standard_deviation(total - others[:-1])
        return impacts, standard_deviation(others[-1]), standard_deviation(total), minimum.status

    def widened(self, common: Common) -> Grouped:
        """What is added belongs to no group."""
        return replace(self, masks=common.params(self.masks))


def _members(model: Model, names: tuple[str, ...], nuisances: tuple[int, ...], groups: Any) -> dict[str, list[int]]:
    """Indices of the parameters of each group."""
    if groups is None:
        mine = {group: [names.index(name) for name in own] for group, own in model.parameter_groups().items()}
        moving = {group: [k for k in own if k in nuisances] for group, own in mine.items()}
        return {group: own for group, own in moving.items() if own}
    if not isinstance(groups, Mapping):
        raise FitError(f"groups is a {type(groups).__name__}: give a mapping from group names to parameter names")
    found: dict[str, list[int]] = {}
    for group, patterns in groups.items():
        found[group] = _matching(names, nuisances, patterns, f"group {group!r}")
    return found


def _matching(names: tuple[str, ...], nuisances: tuple[int, ...], patterns: Any, what: str) -> list[int]:
    """Indices of the nuisance parameters that names or patterns mean."""
    try:
        wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    except TypeError:
        wanted = (patterns,)
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise FitError(f"{what} is {patterns!r:.60}: give names or patterns of parameters")
    chosen: set[int] = set()
    for pattern in wanted:
        matching = {k for k in nuisances if names[k] == pattern or fnmatchcase(names[k], pattern)}
        if not matching:
            raise FitError(f"{what}: no nuisance parameter that can move is called {pattern!r}")
        chosen |= matching
    return sorted(chosen)
