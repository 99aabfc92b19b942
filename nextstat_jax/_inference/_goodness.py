"""How well a fit describes the data: goodness of fit, pulls and correlations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaincc
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._doors import concrete, integer, no_type_check
from .._base._errors import FitError, ModelError
from .._model._base import Model, check_start, require_model, subject
from ._driver import ask
from ._fit import FitResult, require_fit, several_minima
from ._question import Alone, Course, question
from ._result import Result, result, static
from ._rows import Facts, facts_of
from ._settle import settle_free


@result
class GoodnessOfFit(Result):
    """A test of a fit against the model that predicts the data exactly.

    Attributes:
        statistic: ``2 (NLL at the minimum - NLL of the saturated model)``, scalar, not negative.
        ndof: Degrees of freedom, scalar: bins less free parameters without a constraint.
        p_value: Probability of a larger statistic if the model is right; NaN without a degree of freedom.
        status: Code of how the fit ended.
        next_minimum: As in ``FitResult``.
    """

    statistic: Float[Array, ""]
    ndof: Int[Array, ""]
    p_value: Float[Array, ""]
    status: Int[Array, ""]
    next_minimum: Float[Array, ""]

    @property
    def message(self) -> str:
        """How the fit ended, and why there is no p-value where there is none. Needs concrete values."""
        text = super().message + several_minima(np.min(np.asarray(self.next_minimum)))
        ndof = np.asarray(self.ndof)
        if (ndof > 0).all():
            return text
        return (
            f"{text}; no p-value: {int(ndof.min())} degrees of freedom, as many free parameters without a constraint "
            "as bins or more"
        )

    def _facts(self) -> dict[str, Any]:
        return {"statistic": self.statistic, "ndof": self.ndof, "p_value": self.p_value}

    def _columns(self) -> dict[str, Any]:
        return {"statistic": [float(self.statistic)], "ndof": [int(self.ndof)], "p_value": [float(self.p_value)]}


@no_type_check
def goodness_of_fit(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> GoodnessOfFit:
    """Likelihood-ratio test of the model against the saturated one, which predicts main and auxiliary data exactly.

    The statistic follows a chi-squared distribution where counts are large. Its degrees of freedom are the bins less
    the free parameters that have no constraint: each constrained parameter adds an auxiliary datum as well. (cabinetry
    counts in the same way.)

    Args:
        model: The model.
        data: As in ``fit``.
        init: Where the fit starts, as in ``fit``.
        fixed: As in ``fit``; parameters held here are not counted as free.

    Returns:
        ``GoodnessOfFit``, differentiable with respect to model, data and the values in ``fixed``.

    Raises:
        FitError: For wrong names or values in ``fixed``.
        ModelError: For wrong shapes.

    Example:
        >>> import nextstat_jax as nextstat
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [
        ...         {"name": "signal", "data": [50.0, 50.0], "modifiers": [strength]},
        ...     ]}],
        ...     "observations": [{"name": "SR", "data": [60.0, 40.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> nextstat.goodness_of_fit(model)
        GoodnessOfFit: converged
          statistic  ndof    p_value
             4.0271     1  0.0447748

    References:
        S. Baker, R. D. Cousins, Nucl. Instrum. Meth. 221 (1984) 437.
    """
    about = subject(model, data, fixed)
    if not about.data.size:
        raise ModelError("a goodness of fit compares with the data, and this model holds none: ask the exact model")
    told = ask(Saturated(), facts_of(about), check_start(about, init))
    return GoodnessOfFit(*told.answer).explained(model, about, told.stuck)


@question
class Saturated(Alone):
    """The fit against the model that predicts the data exactly."""

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """The arrays of ``GoodnessOfFit``, in its order."""
        likelihood, minimum = facts.likelihood, course.first.found.minimum
        statistic = 2.0 * settle_free(likelihood, facts.data, minimum).value
        measured = likelihood.constraints(facts.data)[1] > 0
        free = ~measured & ~(likelihood.frozen > 0)
        # The data are counts and one auxiliary datum for each constraint.
        ndof = likelihood.n_data(facts.data) - measured.sum() - free.sum()
        some = ndof > 0
        half = 0.5 * jnp.where(some, ndof, 1).astype(statistic.dtype)
        p_value = jnp.where(some, gammaincc(half, 0.5 * statistic), jnp.nan)
        return statistic, ndof, p_value, minimum.status, course.above


@result
class Pulls(Result):
    """Where a fit moved the constrained parameters, and how much better it knows them.

    Attributes:
        value: Best fit, shape (n,).
        uncertainty: After the fit.
        center: Value that the auxiliary measurement prefers.
        width: Uncertainty before the fit: that of the auxiliary measurement.
        pull: ``(value - center) / width``.
        constraint: ``uncertainty / width``.
        fixed: Whether the fit held the parameter; its pull and constraint mean nothing then.
        status: How the fit ended.
        names: Names of the parameters that have a constraint.
    """

    value: Float[Array, " constrained"]
    uncertainty: Float[Array, " constrained"]
    center: Float[Array, " constrained"]
    width: Float[Array, " constrained"]
    pull: Float[Array, " constrained"]
    constraint: Float[Array, " constrained"]
    fixed: Bool[Array, " constrained"]
    status: Int[Array, ""]
    names: tuple[str, ...] = static()

    def _columns(self) -> dict[str, Any]:
        fields = ("pull", "constraint", "value", "uncertainty", "center", "width", "fixed")
        return {"name": list(self.names), **{field: np.asarray(getattr(self, field)) for field in fields}}

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        columns = self._columns()
        names = columns.pop("name")
        return {"pulls": {name: {key: x[k] for key, x in columns.items()} for k, name in enumerate(names)}}

    def _title(self) -> str:
        return f"Pulls of {len(self.names)} constrained parameters: {self.message}"


@no_type_check
def pulls(model: Model, fit_result: FitResult, *, data: ArrayLike | None = None) -> Pulls:
    """Pulls of all parameters that an auxiliary measurement constrains.

    ``pull = (theta-hat - theta_0) / sigma_0`` and ``constraint = sigma / sigma_0``, where theta_0 and sigma_0 are what
    the auxiliary measurement alone says: its datum and the width of its normal constraint, or ``n / tau`` and
    ``1 / sqrt(tau)`` for a count n that is expected to be ``tau theta`` (1 and the relative uncertainty of the bin,
    unless the auxiliary data were changed).

    Args:
        model: The model.
        fit_result: A fit of it.
        data: The data of the fit, if its auxiliary part is not the model's own.

    Returns:
        ``Pulls``, differentiable. A batch of fits goes through ``jax.vmap``.

    Raises:
        FitError: For a fit of another model, or a batch of fits outside ``jax.vmap``.
        ModelError: For data of a wrong shape.
    """
    require_model(model)
    require_fit(model, fit_result)
    index = np.asarray(model.constrained(), int)
    center, width = (x[index] for x in model.likelihood.constraints(model.data_vector(data)))
    value, uncertainty = fit_result.params[index], fit_result.uncertainties[index]
    return Pulls(
        value, uncertainty, center, width, (value - center) / width, uncertainty / width, fit_result.fixed[index],
        fit_result.status, names=tuple(fit_result.parameter_names[k] for k in index),
    )  # fmt: skip


@result
class Correlations(Result):
    """The most strongly correlated pairs of parameters of a fit, the strongest first.

    Attributes:
        values: Correlation coefficients, shape (n,).
        status: How the fit ended.
        pairs: Names of the two parameters of each.
    """

    values: Float[Array, " pair"]
    status: Int[Array, ""]
    pairs: tuple[tuple[str, str], ...] = static()

    def _columns(self) -> dict[str, Any]:
        first, second = zip(*self.pairs, strict=True) if self.pairs else ((), ())
        return {"first": list(first), "second": list(second), "correlation": np.asarray(self.values)}

    def _facts(self) -> dict[str, Any]:
        rows = zip(self.pairs, np.asarray(self.values).tolist(), strict=True)
        return {"pairs": [{"parameters": list(pair), "correlation": value} for pair, value in rows]}

    def _title(self) -> str:
        return f"Correlations: {len(self.pairs)} pairs: {self.message}"


@no_type_check
def correlations(fit_result: FitResult, *, threshold: float = 0.2, top_n: int | None = None) -> Correlations:
    """Pairs of parameters whose correlation is large.

    Args:
        fit_result: One fit, with concrete values: which pairs are listed depends on them.
        threshold: Least absolute correlation of a listed pair.
        top_n: At most so many pairs.

    Raises:
        FitError: For a batch of fits, inside ``jit`` or ``vmap``, or for options outside their range.
    """
    matrix = correlation_matrix(fit_result)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise FitError(f"threshold={threshold!r}: expected a number between 0 and 1")
    most = None if top_n is None else integer(top_n, "top_n")
    names = fit_result.parameter_names
    first, second = np.triu_indices(len(names), k=1)
    values = matrix[first, second]
    order = np.argsort(-np.abs(values), kind="stable")
    order = order[np.abs(values[order]) >= threshold][:most]
    pairs = tuple((names[i], names[j]) for i, j in zip(first[order], second[order], strict=True))
    return Correlations(jax.device_put(values[order]), fit_result.status, pairs=pairs)


def correlation_matrix(fit_result: Any) -> np.ndarray:
    """The correlation matrix of one fit as NumPy array; ``FitError`` for anything else."""
    if not isinstance(fit_result, FitResult):
        raise FitError(f"expected a fit as fit(model) returns it, found {type(fit_result).__name__}")
    if not concrete(fit_result.params):
        raise FitError("which correlations are listed depends on their values: call this outside jit, grad and vmap")
    if fit_result.params.ndim != 1:
        raise FitError(f"the fit is a batch of shape {fit_result.params.shape[:-1]}: give one of its fits")
    return np.asarray(fit_result.correlation)
