"""Profile likelihood and the test statistics built on it.

Notation of arXiv:1007.1727: ``lambda(mu) = L(mu, theta-hat-hat(mu)) / L(mu-hat, theta-hat)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .._base._doors import as_vector, concrete, no_type_check, scalar
from .._base._numerics import safe_sqrt
from .._likelihood._common import Common
from .._minimize import _status
from .._model._base import Model, Subject, check_start, subject
from ._driver import ask
from ._fit import several_minima
from ._points import Points, constant_of
from ._question import Course, question
from ._result import Result, result, static
from ._rows import Facts, facts_of
from ._search import judged
from ._settle import known, settle_free
from ._statistics import STATISTICS, statistic_of


@result
class ProfileResult(Result):
    """A conditional fit at a fixed parameter of interest.

    Attributes:
        params: Conditional best fit theta-hat-hat(mu), shape (n_params,).
        nll: Negative log-likelihood there, scalar.
        status: Code of how the minimization ended; ``message`` is its sentence.
        n_iter: Number of iterations.
        edm: Estimated vertical distance to the minimum before the last step.
        next_minimum: As in ``FitResult``.
        parameter_names: Names of the parameters.
    """

    _single: ClassVar[tuple[str, int]] = ("params", 1)

    params: Float[Array, " param"]
    nll: Float[Array, ""]
    status: Int[Array, ""]
    n_iter: Int[Array, ""]
    edm: Float[Array, ""]
    next_minimum: Float[Array, ""]
    parameter_names: tuple[str, ...] = static()

    @property
    def message(self) -> str:
        """How the fit ended, and what to do about it."""
        return super().message + several_minima(np.min(np.asarray(self.next_minimum)))

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        parameters = dict(zip(self.parameter_names, np.asarray(self.params).tolist(), strict=True))
        return {"parameters": parameters, "nll": self.nll, "edm": self.edm, "n_iter": self.n_iter}

    def _columns(self) -> dict[str, Any]:
        return {"parameter": list(self.parameter_names), "value": np.asarray(self.params)}

    def _title(self) -> str:
        return f"ProfileResult: {self.message} (nll {float(self.nll):.6f})"


@result
class TestStatistic(Result):
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
        next_minimum: By how much of the NLL the next minimum lies above one of the two; +inf where all starts agree.
        test_stat: Name of the statistic.
        parameter: Name of the parameter of interest.
    """

    # pytest would collect the class for its name.
    __test__: ClassVar[bool] = False

    value: Float[Array, ""]
    mu_hat: Float[Array, ""]
    nll_free: Float[Array, ""]
    nll_fixed: Float[Array, ""]
    status_free: Int[Array, ""]
    status_fixed: Int[Array, ""]
    deficit: Float[Array, ""]
    next_minimum: Float[Array, ""]
    test_stat: str = static()
    parameter: str = static()

    @property
    def status(self) -> Int[Array, "*batch"]:
        """The worst status of the two, or that they contradict each other."""
        return judged(_status.worst(self.status_free, self.status_fixed), self.deficit)

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return super().message + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, Any]:
        names = ("value", "mu_hat", "nll_free", "nll_fixed", "deficit")
        return {"statistic": [self.test_stat], **{name: [float(getattr(self, name))] for name in names}}

    def _title(self) -> str:
        return f"TestStatistic of {self.parameter}: {self.message}"


@no_type_check
def profile(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> ProfileResult:
    """Fits all parameters but the parameter of interest, which is held at ``mu``.

    Args:
        model: A model with a parameter of interest.
        mu: Value of the parameter of interest, scalar. It may lie outside the parameter's bounds.
        data: As in ``fit``.
        init: Where the nuisance parameters start, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.

    Returns:
        ``ProfileResult``, differentiable with respect to model, data and ``mu``.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For a ``mu`` that is not a finite scalar.
    """
    about = subject(model, data, fixed, poi=True)
    tested = scalar(mu, "mu", about.likelihood.dtype)
    asked = Conditional(about.place[None], tested.reshape(1, 1))
    told = ask(asked, facts_of(about), check_start(about, init))
    return ProfileResult(*told.answer, parameter_names=about.names).explained(model, about, told.stuck)


@question
class Conditional(Points):
    """One conditional fit."""

    needs_free: ClassVar[bool] = False
    flat: ClassVar[bool] = True

    def columns(self, facts: Facts) -> tuple[Any, Any]:
        """None: the unconditional fit may be left out."""
        return -1, -1

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``ProfileResult``, in its order."""
        found = course.state.found
        row, minimum = self.settled(facts, found), found.minimum
        constant = known(constant_of, course.first.constant, facts.likelihood, facts.data)
        nll = row.value[0] + constant
        return row.params[0], nll, minimum.status[0], minimum.num_steps[0], minimum.edm[0], course.above

    def narrowed(self, common: Common, answer: Any) -> Any:
        """The best fit is one over parameters."""
        return common.narrowed(answer[0]), *answer[1:]


def statistic_test(
    model: Model, mu: Any, data: Any, init: Any, fixed: Any, name: str, *, whole: bool = True
) -> TestStatistic:
    """A test statistic with the fits behind it; arguments as in ``q0`` and ``qmu``.

    Unless ``whole``, derivatives are those of the statistic alone.
    """
    statistic = statistic_of(name)
    about = subject(model, data, fixed, free_poi=True, tilde=statistic.bounded)
    tested = scalar(mu, "mu", about.likelihood.dtype)
    asked = Pair(about.place[None], tested.reshape(1, 1), name, whole)
    told = ask(asked, facts_of(about), _warm_start(about, init))
    result = TestStatistic(*told.answer, test_stat=name, parameter=about.poi_name)
    return result.explained(model, about, told.stuck)


@question
class Pair(Points):
    """An unconditional and a conditional fit, compared."""

    statistic: str = static()
    # Whether the fits have derivatives too. To those of the statistic they add nothing (the envelope theorem), but all
    # that takes time: a Hessian, its factors and how the minimum moves.
    whole: bool = static()

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``TestStatistic``, in its order."""
        first, found = course.first, course.state.found
        free = settle_free(facts.likelihood, facts.data, first.found.minimum)
        gap = self.settled(facts, found).value[0] - free.value
        params, nll_free = first.found.minimum.y, first.nll
        if self.whole:
            params = free.params
            nll_free = free.value + known(constant_of, first.constant, facts.likelihood, facts.data)
        mu_hat = params[self.where[0]]
        value = STATISTICS[self.statistic].of(gap, mu_hat, self.values[0, 0])
        gap = gap if self.whole else lax.stop_gradient(gap)
        status = first.found.minimum.status, found.minimum.status[0]
        return value, mu_hat, nll_free, nll_free + gap, *status, jnp.maximum(-gap, 0.0), course.above


def _warm_start(about: Subject, init: Any) -> Any:
    """A start from another model or other bounds, as a warm start is, begins inside."""
    if init is None:
        return None
    k = about.likelihood
    init = as_vector(init, len(about.names), "init", k.dtype)
    if all(map(concrete, (init, k.lower, k.upper))):
        init = np.clip(np.asarray(init), np.asarray(k.lower), np.asarray(k.upper))
    else:
        init = jnp.clip(jnp.asarray(init), k.lower, k.upper)
    return check_start(about, init)


@no_type_check
def q0_test(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> TestStatistic:
    """``q0`` with the fits behind it; arguments as there."""
    return statistic_test(model, 0.0, data, init, fixed, "q0")


@no_type_check
def q0(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Discovery test statistic: ``-2 ln lambda(0)`` where mu-hat >= 0, else 0.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.

    Returns:
        Scalar; +inf, with derivatives that mean nothing, where a bin with counts expects none at mu = 0. Differentiable
        with respect to model and data: the first derivative costs one gradient (envelope theorem), second derivatives
        use implicit differentiation.

    References:
        arXiv:1007.1727, equation 12.
    """
    return statistic_test(model, 0.0, data, init, fixed, "q0", whole=False).value


@no_type_check
def z0(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Asymptotic discovery significance ``sqrt(q0)``, in standard deviations; its derivative at 0 is taken as 0.

    References:
        arXiv:1007.1727, equation 53.
    """
    return _root(q0(model, data=data, init=init, fixed=fixed))


@jax.jit
def _root(x: Array) -> Array:
    return safe_sqrt(x)


@no_type_check
def qmu_test(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> TestStatistic:
    """``qmu`` with the fits behind it; arguments as there."""
    return statistic_test(model, mu, data, init, fixed, "q")


@no_type_check
def qmu(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Upper-limit test statistic: ``-2 ln lambda(mu)`` where mu-hat <= mu, else 0.

    The parameter of interest keeps its bounds in the unconditional fit, as in pyhf; where they allow negative values
    this is the paper's statistic.

    Args:
        model: A model with a parameter of interest.
        mu: Tested value, scalar.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.

    References:
        arXiv:1007.1727, equation 14.
    """
    return statistic_test(model, mu, data, init, fixed, "q", whole=False).value


@no_type_check
def qmu_tilde_test(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> TestStatistic:
    """``qmu_tilde`` with the fits behind it; arguments as there."""
    return statistic_test(model, mu, data, init, fixed, "qtilde")


@no_type_check
def qmu_tilde(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Upper-limit test statistic for a signal that cannot be negative: as ``qmu``, with mu-hat held at 0 or above.

    Where mu-hat would be negative the reference is the conditional fit at mu = 0, which is what a lower bound of 0 on
    the parameter of interest gives; a model whose parameter of interest may be negative gets that bound here.

    References:
        arXiv:1007.1727, equation 16.
    """
    return statistic_test(model, mu, data, init, fixed, "qtilde", whole=False).value


@no_type_check
def zmu_plain(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """``sqrt(qmu)``: by how many standard deviations ``mu`` is excluded, for a signal that may be negative.

    References:
        arXiv:1007.1727, equation 57 (asymptotically).
    """
    return _root(qmu(model, mu, data=data, init=init, fixed=fixed))


@no_type_check
def zmu_tilde(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """``sqrt(qmu_tilde)``: by how many standard deviations ``mu`` is excluded, for a signal that cannot be negative.

    References:
        arXiv:1007.1727, equation 60 (asymptotically, for mu-hat >= 0).
    """
    return _root(qmu_tilde(model, mu, data=data, init=init, fixed=fixed))


@no_type_check
def zmu(
    model: Model,
    mu: ArrayLike,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """``sqrt(qmu_tilde)``, the same as ``zmu_tilde``; ``zmu_plain`` is the root of ``qmu``."""
    return zmu_tilde(model, mu, data=data, init=init, fixed=fixed)
