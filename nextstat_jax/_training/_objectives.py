"""What an analysis can be trained or searched for: the one registry of objectives.

Losses, environments and studies read it, so that a new objective is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from .._base._errors import ModelError
from .._base._numerics import safe_sqrt
from .._inference._asymptotics import asymptotic_test
from .._inference._fit import fit
from .._inference._limits import upper_limit
from .._inference._profile import statistic_test
from .._inference._statistics import BANDS
from .._model._model import HistFactoryModel

DATA_KINDS = ("observed", "asimov")
EPS = 1e-12
_MEDIAN = BANDS.index(0)


class Options(NamedTuple):
    """Numbers that objectives may depend on.

    Attributes:
        mu: Tested value of the parameter of interest.
        level: Confidence level, a Python number.
        eps: Added inside a root, so that its gradient at 0 is finite.
    """

    mu: Any = 1.0
    level: float = 0.95
    eps: Any = EPS


@dataclass(frozen=True)
class Objective:
    """A number that says how good an analysis is, with all nuisance parameters profiled.

    Attributes:
        name: What it is called.
        summary: What it is, in one line.
        larger: Whether larger is better.
        expects: Parameter of interest behind Asimov data: 1 where a signal is to be found, 0 where it is excluded.
        ask: The result that has the number, from a model, data (None for the observed ones), a start of the
            unconditional fit (or None; those that choose their starts themselves leave it), and options. Objectives
            with the same function share its fits.
        value: The number in that result, a scalar.
        status: How the fits behind the number ended, a code.
        mu_hat: Best fit of the parameter of interest in that result.
        aliases: Other names.
        uses: The options that it depends on.
    """

    name: str
    summary: str
    larger: bool
    expects: float
    ask: Callable[[HistFactoryModel, Any, Any, Options], Any]
    value: Callable[[Any, Options], Array]
    status: Callable[[Any], Array] = lambda result: result.status
    mu_hat: Callable[[Any], Array] = lambda result: result.mu_hat
    aliases: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


def root(q: Array, eps: Any) -> Array:
    """``sqrt(q + eps)``, with derivative 0 where that is 0; NaN stays NaN."""
    return safe_sqrt(q + jnp.asarray(eps, q.dtype))


def _discovery(model: HistFactoryModel, data: Any, start: Any, options: Options) -> Any:
    del options
    return statistic_test(model, 0.0, data, start, None, "q0", whole=False)


def _exclusion(model: HistFactoryModel, data: Any, start: Any, options: Options) -> Any:
    return statistic_test(model, options.mu, data, start, None, "qtilde", whole=False)


def _test(model: HistFactoryModel, data: Any, start: Any, options: Options) -> Any:
    del start
    return asymptotic_test(model, options.mu, data=data)


def _limit(model: HistFactoryModel, data: Any, start: Any, options: Options) -> Any:
    del start
    return upper_limit(model, data=data, level=options.level)


def _fit(model: HistFactoryModel, data: Any, start: Any, options: Options) -> Any:
    del options
    return fit(model, data=data, init=start)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            "z0", "discovery significance", larger=True, expects=1.0, uses=("eps",),
            ask=_discovery, value=lambda test, options: root(test.value, options.eps),
        ),
        Objective(
            "q0", "discovery test statistic", larger=True, expects=1.0,
            ask=_discovery, value=lambda test, options: test.value,
        ),
        Objective(
            "limit", "median expected upper limit on the parameter of interest", larger=False, expects=0.0,
            aliases=("expected_limit",), uses=("level",),
            ask=_limit, value=lambda limit, options: limit.median,
            # The observed limit comes first.
            status=lambda limit: limit.status[..., 1 + _MEDIAN],
        ),
        Objective(
            "cls", "median expected CLs", larger=False, expects=0.0, uses=("mu",),
            ask=_test, value=lambda test, options: test.cls_expected[..., _MEDIAN],
        ),
        Objective(
            "uncertainty", "uncertainty of the fitted parameter of interest, from the inverse Hessian",
            larger=False, expects=1.0,
            ask=_fit, value=lambda fitted, options: fitted.mu_uncertainty, mu_hat=lambda fitted: fitted.mu,
        ),
        Objective(
            "zmu", "significance of an exclusion, the root of qmu_tilde", larger=True, expects=0.0, uses=("mu", "eps"),
            ask=_exclusion, value=lambda test, options: root(test.value, options.eps),
        ),
        Objective(
            "qmu", "test statistic of an exclusion, qmu_tilde", larger=True, expects=0.0, uses=("mu",),
            ask=_exclusion, value=lambda test, options: test.value,
        ),
    )
}  # fmt: skip
"""All objectives by name. References: arXiv:1007.1727, equations 12, 16 and 53; CLs: J. Phys. G 28 (2002) 2693."""


def objective_of(name: Any, what: str = "objective", others: tuple[str, ...] = ()) -> Objective:
    """An objective by its name or an alias.

    Args:
        name: The name.
        what: Name of the argument, for the error.
        others: Further names that the caller knows, for the error.

    Raises:
        ModelError: For an unknown one, naming all.
    """
    known = {alias: objective for objective in OBJECTIVES.values() for alias in (objective.name, *objective.aliases)}
    if not isinstance(name, str) or name not in known:
        raise ModelError(f"{what}={name!r:.60}: expected one of {', '.join((*others, *OBJECTIVES))}")
    return known[name]


def data_kind(data: Any) -> str:
    """``"observed"`` (also for None), ``"asimov"``, or ``"given"`` for numbers; ``ModelError`` for another word."""
    if data is None:
        return "observed"
    if not isinstance(data, str):
        return "given"
    if data not in DATA_KINDS:
        raise ModelError(f"data={data!r:.60}: expected 'observed', 'asimov' or an array")
    return data


def data_of(model: HistFactoryModel, kind: str, given: Any, mu: float) -> Any:
    """The data of a test: Asimov data of ``mu``, or what was given, None for the observed ones."""
    return model.asimov_data(mu=mu) if kind == "asimov" else given
