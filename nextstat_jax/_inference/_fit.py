"""Maximum-likelihood fits and their uncertainties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._doors import no_type_check
from .._base._errors import FitError, ModelError
from .._base._numerics import lightly, standard_deviation
from .._base._tables import listed
from .._likelihood._protocol import Likelihood
from .._minimize._dense import DenseSpread
from .._minimize._matrix import Spread
from .._model._base import Model, check_start, subject
from ._driver import all_concrete, fit_once
from ._points import constant_of, index_array
from ._result import Result, result, static
from ._rows import First
from ._settle import Settled, known, settle_spread

# Bytes of the largest covariance that is computed as a whole.
_LARGEST = 8e9


@result
class FitResult(Result):
    """A maximum-likelihood fit. ``fit["mu"]`` is the best fit of a parameter.

    Attributes:
        params: Best-fit parameters, shape (n_params,), in the order of ``parameter_names``.
        spread: What ``covariance`` and ``uncertainties`` are made of, in the form that fits the likelihood.
        nll: Negative log-likelihood at the minimum, scalar.
        gradient: Gradient of the NLL there, shape (n_params,).
        edm: Estimated vertical distance to the minimum before the last step, scalar.
        on_bound: Whether each parameter ended on a bound that it pushes against, shape (n_params,).
        fixed: Whether each parameter was held, shape (n_params,).
        status: Code of how the minimization ended; ``message`` is its sentence.
        n_iter: Number of iterations.
        start_moved: Whether the likelihood was not finite at the start, so that the fit had to be led back.
        next_minimum: By how much of the NLL the next higher minimum that another start found lies above this one; +inf
            where all starts agree, or where one was enough.
        parameter_names: Names of the parameters.
        poi_index: Index of the parameter of interest, or None.
    """

    _single: ClassVar[tuple[str, int]] = ("params", 1)

    params: Float[Array, " param"]
    spread: Spread
    nll: Float[Array, ""]
    gradient: Float[Array, " param"]
    edm: Float[Array, ""]
    on_bound: Bool[Array, " param"]
    fixed: Bool[Array, " param"]
    status: Int[Array, ""]
    n_iter: Int[Array, ""]
    start_moved: Bool[Array, ""]
    next_minimum: Float[Array, ""]
    parameter_names: tuple[str, ...] = static()
    poi_index: int | None = static()

    def __getitem__(self, name: str) -> Float[Array, "*batch"]:
        """Best fit of a parameter, by name."""
        return self.params[..., self._place(name)]

    def _place(self, name: str) -> int:
        if name not in self.parameter_names:
            raise FitError(f"there is no parameter {name!r:.60} in this fit")
        return self.parameter_names.index(name)

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
        """Square roots of the covariance's diagonal, shape (n_params,); 0 for fixed parameters.

        NaN where the curvature says nothing: for a parameter without an effect on the likelihood, and for one on a
        bound where the likelihood does not curve (``interval`` has the end on the other side); for all parameters if
        the Hessian is not positive definite.
        """
        return defined(standard_deviation(self.spread.variances), self.fixed)

    @property
    def covariance(self) -> Float[Array, "*batch param param"]:
        """Inverse Hessian of the NLL at the minimum, shape (n_params, n_params).

        Rows of fixed parameters are zero, and of those without an effect on the likelihood. A parameter on a bound is
        treated as if the bound were not there; should the Hessian then not be positive definite, parameters on bounds
        are held like fixed ones. Of large likelihoods it is computed on request; ``covariance_of`` gives a part of it.

        Raises:
            FitError: Where it would not fit into memory.
        """
        if isinstance(self.spread, DenseSpread):
            return self.spread.array
        count, dtype = self.params.size * self.params.shape[-1], self.params.dtype
        if count * dtype.itemsize > _LARGEST:
            raise FitError(
                f"the covariance of {self.params.shape[-1]} parameters takes {count * dtype.itemsize / 1e9:.0f} GB: "
                "ask for a part of it with covariance_of(names), or for the uncertainties"
            )
        return _whole(self.spread, self.params.ndim - 1)

    def covariance_of(self, names: str | Sequence[str]) -> Float[Array, "*batch some some"]:
        """The covariance of some parameters, in their order, shape (m, m).

        Args:
            names: Their names; one name for one parameter.

        Raises:
            FitError: For an unknown name.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        places = [self._place(name) for name in names]
        if isinstance(self.spread, DenseSpread):
            return lightly(lambda xp, x: x[..., places, :][..., places], self.spread.array)
        return _part(self.spread, index_array(*places), self.params.ndim - 1)

    def correlation_of(self, names: str | Sequence[str]) -> Float[Array, "*batch some some"]:
        """The correlation matrix of some parameters; arguments and errors as for ``covariance_of``."""
        covariance = self.covariance_of(names)
        variances = lightly(lambda xp, x: xp.diagonal(x, axis1=-2, axis2=-1), covariance)
        return lightly(_correlation, covariance, standard_deviation(variances))

    @property
    def correlation(self) -> Float[Array, "*batch param param"]:
        """Correlation matrix, shape (n_params, n_params); 0 in rows of fixed parameters, their diagonal included."""
        return lightly(_correlation, self.covariance, self.uncertainties)

    @property
    def message(self) -> str:
        """How the fit ended, and what to do about it. Needs concrete values, not traced ones."""
        text = super().message
        if np.asarray(self.start_moved).any():
            text += "; the likelihood is not finite at the start, from where the fit was led back"
        if self._idle().any():
            names = [name for name, flag in zip(self.parameter_names, self._idle(), strict=True) if flag]
            text += f"; without effect on the likelihood and not moved: {listed(names)}"
        above = np.min(np.asarray(self.next_minimum))
        return text + several_minima(above)

    @property
    def at_bound(self) -> tuple[str, ...]:
        """Names of the parameters that ended on a bound. Needs concrete values of one fit."""
        return tuple(name for name, flag in zip(self.parameter_names, np.asarray(self.on_bound), strict=True) if flag)

    def _idle(self) -> np.ndarray:
        """Which parameters have no effect on the likelihood, in all fits of a batch."""
        still = ~np.asarray(self.fixed) & ~np.asarray(self.on_bound) & (np.asarray(self.spread.variances) == 0)
        return still.reshape(-1, still.shape[-1]).all(0)

    def _poi(self) -> int:
        if self.poi_index is None:
            raise ModelError("the fit has no parameter of interest: name a parameter, as in fit['mu']")
        return self.poi_index

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        rows = zip(self.parameter_names, self.params.tolist(), self.uncertainties.tolist(), strict=True)
        return {
            "parameters": {name: {"value": value, "uncertainty": width} for name, value, width in rows},
            "nll": self.nll,
            "edm": self.edm,
            "n_iter": self.n_iter,
            "at_bound": list(self.at_bound),
        }

    def _columns(self) -> dict[str, Any]:
        notes = [
            "fixed" if f else "at bound" if b else "no effect" if i else ""
            for f, b, i in zip(self.fixed.tolist(), self.on_bound.tolist(), self._idle().tolist(), strict=True)
        ]
        return {
            "parameter": list(self.parameter_names),
            "value": np.asarray(self.params),
            "uncertainty": np.asarray(self.uncertainties),
            "note": notes,
        }

    def _title(self) -> str:
        numbers = f"nll {float(self.nll):.6f}, edm {float(self.edm):.1e}, {int(self.n_iter)} steps"
        return f"FitResult: {self.message} ({numbers})"


@partial(jax.jit, static_argnums=1)
def _whole(spread: Any, axes: int) -> Array:
    return jax.vmap(lambda x: _whole(x, axes - 1))(spread) if axes else spread.dense()


@partial(jax.jit, static_argnums=2)
def _part(spread: Any, places: Any, axes: int) -> Array:
    """Some rows and columns; ``axes`` is how many lead to one fit of a batch."""
    if axes:
        return jax.vmap(lambda x: _part(x, places, axes - 1))(spread)
    return spread.columns(places)[:, places]


def defined(width: Array, fixed: Array) -> Array:
    """Uncertainties; NaN for those of 0 that belong to what is not fixed: the curvature says nothing there."""
    return lightly(_defined, width, fixed)


def _defined(xp: Any, width: Any, fixed: Any) -> Any:
    return xp.where((width == 0) & ~fixed, xp.full_like(width, np.nan), width)


def _correlation(xp: Any, covariance: Any, width: Any) -> Any:
    positive, one = width > 0, xp.ones_like(width)
    inverse = xp.where(positive, one / xp.where(positive, width, one), 0 * one)
    return covariance * inverse[..., :, None] * inverse[..., None, :]


def several_minima(above: Any) -> str:
    """What a message says of another minimum that lies so much of the NLL above; nothing for none."""
    if not np.isfinite(above):
        return ""
    return f"; there are several minima: the next one lies {float(above):.3g} higher in the NLL"


@no_type_check
def fit(
    model: Model,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> FitResult:
    """Maximizes the likelihood.

    Differentiable in forward and reverse mode, to any order, with respect to ``model``, ``data`` and the values in
    ``fixed``; can be jitted and batched with ``vmap``. Where the likelihood may have several minima, the fit starts
    from several points (``_likelihood/_starts.py`` states the rule), and the lowest minimum counts.

    Args:
        model: The model, a surrogate of it, or either in other parameters.
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
        >>> import nextstat_jax as nextstat
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> result = nextstat.fit(model)
        >>> result.message, round(float(result["mu"]), 6), round(float(result.mu_uncertainty), 6)
        ('converged', 1.4, 0.8)

    References:
        EDM: F. James, M. Roos, Comput. Phys. Commun. 10 (1975) 343.
    """
    about = subject(model, data, fixed)
    first = fit_once(about.likelihood, about.place, about.data, check_start(about, init), full=True)
    return fit_result(first, about.likelihood, about.data, about.names, about.poi).explained(model, about)


def fit_result(first: First, likelihood: Likelihood, data: Any, names: tuple[str, ...], poi: int | None) -> FitResult:
    """The result of the driver's unconditional fit, with its derivatives."""
    minimum, spread = first.found.minimum, first.spread
    params, nll = minimum.y, first.nll
    if not all_concrete((likelihood, data)):
        params, nll, spread = _settled(first, likelihood, data)
    return FitResult(
        params, spread, nll, minimum.gradient, minimum.edm, first.on_bound, first.held, minimum.status,
        minimum.num_steps, minimum.moved, first.found.above, parameter_names=names, poi_index=poi,
    )  # fmt: skip


@jax.jit
def _settled(first: First, likelihood: Likelihood, data: Array) -> tuple[Array, Array, Spread]:
    """Everything of a fit that has derivatives."""
    minimum = first.found.minimum
    fit = Settled(likelihood, data, minimum, likelihood.init, first.held)
    nll = fit.value + known(constant_of, first.constant, likelihood, data)
    return fit.params, nll, settle_spread(likelihood, data, minimum, first.spread)


def require_fit(model: Model, fit_result: Any) -> None:
    """``FitError`` for anything but one fit of this model."""
    if not isinstance(fit_result, FitResult):
        raise FitError(f"expected a fit as fit(model) returns it, found {type(fit_result).__name__}")
    if fit_result.parameter_names != tuple(model.parameter_names()):
        raise FitError("the fit belongs to another model: its parameters have other names")
    if fit_result.params.ndim != 1:
        raise FitError(f"the fit is a batch of shape {fit_result.params.shape[:-1]}: use jax.vmap over it")
