"""How well a fit describes the data: goodness of fit, pulls and correlations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaincc
from jaxtyping import Bool, Float, Int

from .._base._doors import concrete
from .._base._errors import FitError
from .._base._tables import dataframe, plain, require_single, text_table
from .._likelihood._constraints import constraint_centers, constraint_widths
from .._likelihood._histfactory import Likelihood
from .._minimize import _status
from .._minimize._implicit import value_at_minimum
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, require_model
from ._fit import OBJECTIVE, Conditions, FitResult, args_of, fit_conditions, pins_of, require_fit, solve_fit

if TYPE_CHECKING:
    import pandas as pd


class GoodnessOfFit(eqx.Module):
    """A test of a fit against the model that predicts the data exactly.

    Attributes:
        statistic: ``2 (NLL at the minimum - NLL of the saturated model)``, scalar, not negative.
        ndof: Degrees of freedom, scalar: bins less free parameters without a constraint.
        p_value: Probability of a larger statistic if the model is right; NaN without a degree of freedom.
        status: Code of how the fit ended.
    """

    statistic: Float[Array, ""]
    ndof: Int[Array, ""]
    p_value: Float[Array, ""]
    status: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the fit found its minimum."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fit ended, and why there is no p-value where there is none. Needs concrete values."""
        text = _status.message(self.status)
        ndof = np.asarray(self.ndof)
        if (ndof > 0).all():
            return text
        return (
            f"{text}; no p-value: {int(ndof.min())} degrees of freedom, as many free parameters without a constraint "
            "as bins or more"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe."""
        numbers = {"statistic": self.statistic, "ndof": self.ndof, "p_value": self.p_value}
        return plain({**numbers, "converged": self.converged, "status": self.message})

    def __repr__(self) -> str:
        if not concrete(self.statistic) or self.statistic.ndim:
            return f"GoodnessOfFit(statistic={self.statistic!r}, p_value={self.p_value!r})"
        return (
            f"GoodnessOfFit: statistic {float(self.statistic):.6g} with {int(self.ndof)} degrees of freedom, "
            f"p-value {float(self.p_value):.4g} ({self.message})"
        )


def goodness_of_fit(model: HistFactoryModel, data: Any = None, fixed: Mapping[str, Any] | None = None) -> GoodnessOfFit:
    """Likelihood-ratio test of the model against the saturated one, which predicts main and auxiliary data exactly.

    The statistic follows a chi-squared distribution where counts are large. Its degrees of freedom are the bins less
    the free parameters that have no constraint: each constrained parameter adds an auxiliary datum as well. (cabinetry
    counts in the same way.)

    Args:
        model: The model.
        data: As in ``fit``.
        fixed: As in ``fit``; parameters held here are not counted as free.

    Returns:
        ``GoodnessOfFit``, differentiable with respect to model, data and the values in ``fixed``.

    Raises:
        FitError: For wrong names or values in ``fixed``.
        ModelError: For wrong shapes.

    Example:
        >>> from nextstat_jax import from_pyhf
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [
        ...         {"name": "signal", "data": [50.0, 50.0], "modifiers": [strength]},
        ...     ]}],
        ...     "observations": [{"name": "SR", "data": [60.0, 40.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> goodness_of_fit(model)
        GoodnessOfFit: statistic 4.0271 with 1 degrees of freedom, p-value 0.04477 (converged)

    References:
        S. Baker, R. D. Cousins, Nucl. Instrum. Meth. 221 (1984) 437.
    """
    require_model(model)
    likelihood, data = model.likelihood, as_data(model, data)
    conditions = fit_conditions(model, None, fixed)
    minimum = solve_fit(likelihood, data, conditions)
    statistic, ndof, p_value = _test(likelihood, data, minimum, conditions)
    return GoodnessOfFit(statistic, ndof, p_value, minimum.status)


@jax.jit
def _test(likelihood: Likelihood, data: Array, minimum: Minimum, conditions: Conditions) -> tuple[Array, Array, Array]:
    args, pins = args_of(likelihood, data, minimum), pins_of(likelihood, minimum, conditions)
    statistic = 2.0 * value_at_minimum(OBJECTIVE, minimum.y, args, pins)
    s = likelihood.structure
    free = np.ones(s.n_params, bool)
    free[s.normal_params] = free[s.poisson_params] = False
    ndof = s.n_bins - (free & ~conditions.held).sum()
    some = ndof > 0
    half = 0.5 * jnp.where(some, ndof, 1).astype(statistic.dtype)
    return statistic, ndof, jnp.where(some, gammaincc(half, 0.5 * statistic), jnp.nan)


class Pulls(eqx.Module):
    """Where a fit moved the constrained parameters, and how much better it knows them.

    Attributes:
        value: Best fit, shape (n,).
        uncertainty: After the fit.
        center: Value that the auxiliary measurement prefers.
        width: Uncertainty before the fit: that of the auxiliary measurement.
        pull: ``(value - center) / width``.
        constraint: ``uncertainty / width``.
        fixed: Whether the fit held the parameter; its pull and constraint mean nothing then.
        names: Names of the parameters that have a constraint.
    """

    value: Float[Array, " constrained"]
    uncertainty: Float[Array, " constrained"]
    center: Float[Array, " constrained"]
    width: Float[Array, " constrained"]
    pull: Float[Array, " constrained"]
    constraint: Float[Array, " constrained"]
    fixed: Bool[Array, " constrained"]
    names: tuple[str, ...] = eqx.field(static=True)

    def _columns(self) -> dict[str, Any]:
        require_single(self.pull, 1, "Pulls")
        fields = ("pull", "constraint", "value", "uncertainty", "center", "width", "fixed")
        return {"name": self.names, **{field: np.asarray(getattr(self, field)) for field in fields}}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe, by parameter."""
        columns = self._columns()
        names = columns.pop("name")
        return plain({name: {key: x[k] for key, x in columns.items()} for k, name in enumerate(names)})

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each constrained parameter.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.pull) or self.pull.ndim != 1:
            return f"Pulls({len(self.names)} parameters, pull={self.pull!r})"
        columns = self._columns()
        rows = zip(*columns.values(), strict=True)
        return text_table(list(columns), rows, f"Pulls of {len(self.names)} constrained parameters")


def pulls(model: HistFactoryModel, fit_result: FitResult, data: Any = None) -> Pulls:
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
    likelihood = model.likelihood
    s = likelihood.structure
    index = np.sort(np.concatenate([s.normal_params, s.poisson_params]))
    width = constraint_widths(likelihood)[index]
    center = constraint_centers(likelihood, as_data(model, data))[index]
    value, uncertainty = fit_result.params[index], fit_result.uncertainties[index]
    return Pulls(
        value=value,
        uncertainty=uncertainty,
        center=center,
        width=width,
        pull=(value - center) / width,
        constraint=uncertainty / width,
        fixed=fit_result.fixed[index],
        names=tuple(model.names.parameters[i] for i in index),
    )


class Correlations(eqx.Module):
    """The most strongly correlated pairs of parameters of a fit, the strongest first.

    Attributes:
        values: Correlation coefficients, shape (n,).
        pairs: Names of the two parameters of each.
    """

    values: Float[Array, " pair"]
    pairs: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def _columns(self) -> dict[str, Any]:
        first, second = zip(*self.pairs, strict=True) if self.pairs else ((), ())
        return {"first": first, "second": second, "correlation": np.asarray(self.values)}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, JSON-safe: a list of pairs."""
        rows = zip(self.pairs, self.values.tolist(), strict=True)
        return plain({"pairs": [{"parameters": pair, "correlation": value} for pair, value in rows]})

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.values) or not self.pairs:
            return f"Correlations({len(self.pairs)} pairs)"
        columns = self._columns()
        return text_table(list(columns), zip(*columns.values(), strict=True), f"Correlations: {len(self.pairs)} pairs")


def correlations(fit_result: FitResult, threshold: float = 0.2, top_n: int | None = None) -> Correlations:
    """Pairs of parameters whose correlation is large.

    Args:
        fit_result: One fit, with concrete values: which pairs are listed depends on them.
        threshold: Least absolute correlation of a listed pair.
        top_n: At most so many pairs.

    Raises:
        FitError: For a batch of fits, inside ``jit`` or ``vmap``, or for options outside their range.
    """
    matrix = correlation_matrix(fit_result)
    if not 0 <= threshold <= 1:
        raise FitError(f"threshold={threshold!r}: expected a number between 0 and 1")
    if top_n is not None and top_n < 1:
        raise FitError(f"top_n={top_n!r}: expected a positive integer or None")
    names = fit_result.parameter_names
    first, second = np.triu_indices(len(names), k=1)
    values = matrix[first, second]
    order = np.argsort(-np.abs(values), kind="stable")
    order = order[np.abs(values[order]) >= threshold][:top_n]
    pairs = tuple((names[i], names[j]) for i, j in zip(first[order], second[order], strict=True))
    return Correlations(jnp.asarray(values[order]), pairs)


def correlation_matrix(fit_result: Any) -> np.ndarray:
    """The correlation matrix of one fit as NumPy array; ``FitError`` for anything else."""
    if not isinstance(fit_result, FitResult):
        raise FitError(f"expected a fit as fit(model) returns it, found {type(fit_result).__name__}")
    if not concrete(fit_result.covariance):
        raise FitError("which correlations are listed depends on their values: call this outside jit, grad and vmap")
    if fit_result.params.ndim != 1:
        raise FitError(f"the fit is a batch of shape {fit_result.params.shape[:-1]}: give one of its fits")
    return np.asarray(fit_result.correlation)
