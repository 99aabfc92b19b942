"""``HistFactoryModel``: a likelihood with its names, and what users ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .._base._doors import as_array, as_vector, concrete, flag, pytree, replaced, scalar
from .._base._errors import FitError, ModelError
from .._base._tables import listed
from .._likelihood import _derivatives
from .._likelihood._binned import HistFactory
from .._likelihood._histfactory import add_saturated, expected, rates
from ._base import Model, Subject, require_model, with_fixed
from ._compile import Names
from ._templates import Key, first_cells, sample_cells, with_templates


class Parameter(NamedTuple):
    """One parameter of a model.

    Attributes:
        name: As in pyhf's ``par_names``.
        init: Initial value.
        bounds: Lower and upper bound.
        constraint: ``"normal"``, ``"poisson"`` or ``"none"``.
        fixed: Whether fits hold it at its initial value.
    """

    name: str
    init: float
    bounds: tuple[float, float]
    constraint: str
    fixed: bool


@pytree
@dataclass(frozen=True, eq=False, repr=False)
class HistFactoryModel(Model):
    """A binned likelihood in the HistFactory form: a pytree of arrays with pure methods.

    Make one with ``from_pyhf``. Parameters are in the order of ``parameter_names()``; a data vector holds the bins of
    all channels and then the auxiliary data, both in pyhf's order.

    Attributes:
        likelihood: The arrays and their static structure.
        names: What the arrays mean.
    """

    likelihood: HistFactory
    names: Names = field(metadata={"static": True})

    @property
    def n_bins(self) -> int:
        """Number of bins of all channels."""
        return self.likelihood.structure.n_bins

    @property
    def n_data(self) -> int:
        """Length of a data vector: bins and auxiliary data."""
        return self.n_bins + self.likelihood.structure.n_aux

    @property
    def poi(self) -> str | None:
        """Name of the parameter of interest, or None."""
        return self.names.poi

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the bins."""
        return self.names.channels

    @property
    def samples(self) -> tuple[str, ...]:
        """Names of all samples."""
        return self.names.samples

    @property
    def channel_slices(self) -> dict[str, slice]:
        """Bins of each channel in a data vector."""
        ends = np.cumsum(self.names.channel_bins).tolist()
        starts = [0, *ends[:-1]]
        return {name: slice(a, b) for name, a, b in zip(self.names.channels, starts, ends, strict=True)}

    @property
    def observed_data(self) -> Float[Array, " data"]:
        """Observed main and auxiliary data, shape (n_data,)."""
        return self.likelihood.observed

    @property
    def interpolation(self) -> dict[str, str]:
        """Interpolation codes by modifier type."""
        s = self.likelihood.structure
        return {"normsys": s.normsys, "histosys": s.histosys}

    @property
    def clips(self) -> dict[str, float | None]:
        """Least yields of a sample in a bin and of a bin, by the names of ``from_pyhf``'s options."""
        s = self.likelihood.structure
        return {"clip_sample_data": s.clip_sample, "clip_bin_data": s.clip_bin}

    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters with their initial values, bounds and constraints."""
        k = self.likelihood
        columns = [np.asarray(x).tolist() for x in (k.init, k.lower, k.upper, k.frozen)]
        rows = zip(self.names.parameters, *columns, self.names.constraints, strict=True)
        return tuple(Parameter(name, i, (lo, up), kind, f > 0) for name, i, lo, up, f, kind in rows)

    def parameter_names(self) -> list[str]:
        """Parameter names in pyhf's order."""
        return list(self.names.parameters)

    def data_vector(self, data: Any = None) -> Any:
        """A full data vector from what a user gives: nothing, main data alone, or both.

        Raises:
            ModelError: For wrong shapes, or numbers that are no counts.
        """
        likelihood = self.likelihood
        if data is None:
            return likelihood.observed
        n, n_bins = self.n_data, self.n_bins
        array = as_array(data, "data", likelihood.dtype)
        if array.shape == (n_bins,) and n != n_bins:
            rest = (
                likelihood.observed[n_bins:]
                if not concrete(likelihood.observed)
                else np.asarray(likelihood.observed)[n_bins:]
            )
            both = (np.concatenate if concrete(array) and concrete(rest) else jnp.concatenate)([array, rest])
            array = jax.device_put(both) if concrete(both) else both
        if array.shape != (n,):
            hint = "; use jax.vmap for a batch" if array.ndim == 2 else ""
            raise ModelError(
                f"data has shape {array.shape}, expected ({n},), or ({n_bins},) without auxiliary data{hint}"
            )
        if concrete(array):
            self._check_counts(np.asarray(array))
        return array

    def _check_counts(self, values: np.ndarray) -> None:
        n_bins = self.n_bins
        if not np.isfinite(values).all():
            raise ModelError(f"data[{int(np.argmin(np.isfinite(values)))}] is not finite")
        if (values[:n_bins] < 0).any():
            k = int(np.argmax(values[:n_bins] < 0))
            raise ModelError(f"data[{k}] is {values[k]:g}: counts cannot be negative")
        counts = n_bins + self.likelihood.structure.poisson_aux
        if (values[counts] < 0).any():
            k = int(counts[np.argmax(values[counts] < 0)])
            raise ModelError(f"data[{k}] is {values[k]:g}: the auxiliary data of a shapesys are counts, not negative")

    def why_invalid(self, about: Subject) -> str:
        """The bins that cannot be, with what is expected there, at the initial parameters or without a signal."""
        likelihood, data = about.likelihood, about.data
        if not all(map(concrete, (data, *jax.tree.leaves(likelihood)))):
            return ""
        points: list[np.ndarray] = [np.asarray(likelihood.init)]
        if about.poi is not None:
            points.append(np.asarray(replaced(points[0], about.poi, 0.0)))
        counts = np.asarray(data)
        for params in points:
            expected = np.asarray(_expected(likelihood, params))[: self.n_bins]
            wrong = np.flatnonzero((expected < 0) | ((expected == 0) & (counts[: self.n_bins] > 0)))
            if len(wrong):
                return ". Impossible: " + listed([self._said_of(int(k), counts[k], expected[k]) for k in wrong], 3)
        return ""

    def _said_of(self, k: int, count: float, rate: float) -> str:
        """One bin in words."""
        channel, part = next((name, part) for name, part in self.channel_slices.items() if part.start <= k < part.stop)
        there = ", ".join(sample for name, sample in self.names.rows if name == channel)
        return f"bin {k - part.start} of {channel}, where {count:g} are observed and {rate:g} expected (from {there})"

    def _why_no_poi(self) -> str:
        return f" (measurement {self.names.measurement!r}): name one with with_poi, or with from_pyhf(..., poi=)"

    def constrained(self) -> list[int]:
        """Indices of the parameters that an auxiliary measurement constrains."""
        s = self.likelihood.structure
        return sorted([*s.normal_params.tolist(), *s.poisson_params.tolist()])

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of parameters by what they are: gammas (MC statistics), others with a constraint, free ones."""
        names = self.names
        gammas = {names.parameters[k] for k in self.likelihood.structure.derived.gammas.tolist()}
        constrained = [name for name, kind in zip(names.parameters, names.constraints, strict=True) if kind != "none"]
        return {
            "MC statistics": [name for name in constrained if name in gammas],
            "systematics": [name for name in constrained if name not in gammas],
            "free parameters": [name for name in names.parameters if name not in constrained],
        }

    def with_poi(self, name: str | None) -> HistFactoryModel:
        """The model with another parameter of interest, any of its parameters, or with none.

        Raises:
            FitError: For an unknown name.
        """
        if name is not None:
            self.index(name)
        return replace(self, names=replace(self.names, poi=name))

    def nll(self, params: Any, data: Any = None) -> Float[Array, ""]:
        """Negative log-likelihood, normalized as pyhf's ``-logpdf``.

        ``NLL = sum_b [nu_b - n_b log nu_b + log Gamma(n_b + 1)]`` plus the constraint terms.

        Args:
            params: Shape (n_params,).
            data: Main and auxiliary data, shape (n_data,), or main data alone, shape (n_bins,); the observed by
                default.

        Returns:
            Scalar; +inf where a bin's expected yield is negative, or zero with counts. Never NaN for finite parameters.

        Raises:
            ModelError: For wrong shapes.

        References:
            CERN-OPEN-2012-016, equation 6.
        """
        return _nll(self.likelihood, self._params(params), self.data_vector(data))

    def logpdf(self, params: Any, data: Any = None) -> Float[Array, ""]:
        """Log-likelihood, ``-nll``; arguments as there."""
        return -self.nll(params, data)

    def grad_nll(self, params: Any, data: Any = None) -> Float[Array, " param"]:
        """Gradient of the NLL with respect to the parameters, shape (n_params,); finite even where the NLL is +inf."""
        return self.nll_and_grad(params, data)[1]

    def nll_and_grad(self, params: Any, data: Any = None) -> tuple[Float[Array, ""], Float[Array, " param"]]:
        """NLL and its gradient in one pass; arguments as in ``nll``."""
        return _nll_and_grad(self.likelihood, self._params(params), self.data_vector(data))

    def hessian(self, params: Any, data: Any = None) -> Float[Array, "param param"]:
        """Second derivatives of the NLL, shape (n_params, n_params)."""
        return _hessian(self.likelihood, self._params(params), self.data_vector(data))

    def expected_data(self, params: Any, include_auxdata: bool = True) -> Float[Array, " data"]:
        """Expected bin contents and, unless left out, expected auxiliary data: shape (n_data,) or (n_bins,)."""
        both = _expected(self.likelihood, self._params(params))
        return both if flag(include_auxdata, "include_auxdata", ModelError) else both[: self.n_bins]

    def sample_yields(self, params: Any) -> dict[tuple[str, str], Float[Array, " bin"]]:
        """Expected yields by (channel, sample), each of shape (bins of the channel,)."""
        cells = _cells(self.likelihood, self._params(params))
        first = first_cells(self.names)
        return {row: cells[a:b] for row, a, b in zip(self.names.rows, first, first[1:], strict=False)}

    def asimov_data(self, params: Any = None, mu: Any = None) -> Float[Array, " data"]:
        """The data set that shows exactly what is expected, shape (n_data,).

        Args:
            params: Parameters, shape (n_params,); the initial ones by default.
            mu: Value of the parameter of interest that replaces the one in ``params``.

        References:
            arXiv:1007.1727, section 3.2.
        """
        params = self.likelihood.init if params is None else self._params(params)
        if mu is not None:
            params = jnp.asarray(params).at[self.require_poi()].set(scalar(mu, "mu", self.dtype))
        return _expected(self.likelihood, params)

    def with_data(self, data: Any) -> HistFactoryModel:
        """The model with other observed data, shape (n_data,), or (n_bins,) to keep the auxiliary data."""
        return replace(self, likelihood=replace(self.likelihood, observed=self.data_vector(data)))

    def with_templates(self, templates: Mapping[Key, Any], variations: str = "absolute") -> HistFactoryModel:
        """The model with other templates, differentiable with respect to them.

        Staterror widths, shapesys counts with their auxiliary data, and the bins where they are not defined follow the
        new numbers, as if the workspace had been edited. Uncertainties and normsys factors stay what they are unless
        given.

        Args:
            templates: Arrays by key. ``"signal"``: yields of that sample, concatenated over the channels where it
                appears, in the order of ``channels``. ``("signal", "SR")``: in one channel. ``("signal", "jes",
                "hi")`` or ``"lo"``: a histosys variation, over the channels where the sample carries it (for a
                normsys: its factor, a scalar). ``("signal", "stat")``: absolute uncertainties of the staterror.
                ``("signal", "name", "uncertainty")``: those of a named staterror or shapesys. The last three take a
                channel after the sample. A mapping that crosses ``jit`` or ``grad`` itself needs keys of one type,
                since JAX sorts them: write ``("signal",)`` then.
            variations: What happens to histosys variations that are not given when their nominal yields change: they
                keep their ``"absolute"`` or their ``"relative"`` size.

        Raises:
            ModelError: For an unknown key, naming what there is, or a wrong shape.
        """
        return replace(self, likelihood=with_templates(self.likelihood, self.names, templates, variations))

    def template(self, sample: str, channel: str | None = None) -> Float[Array, " cell"]:
        """Nominal yields of a sample, in the form in which ``with_templates`` takes them."""
        return self.likelihood.nominal[sample_cells(self.names, sample, channel)]

    def replace_bounds(self, name: str, lower: Any = None, upper: Any = None) -> HistFactoryModel:
        """The model with other bounds on one parameter; a bound that is None stays."""
        k, i = self.likelihood, self.index(name)
        ends = [
            k_end[i]
            if given is None
            else as_vector(as_array(given, what, self.dtype).reshape(-1), 1, what, self.dtype)[0]
            for k_end, given, what in ((k.lower, lower, "lower"), (k.upper, upper, "upper"))
        ]
        if all(map(concrete, ends)) and not float(ends[0]) <= float(ends[1]):
            raise FitError(f"bounds of {name}: {float(ends[0]):g} is not below {float(ends[1]):g}")
        low = k.lower if lower is None else replaced(k.lower, i, ends[0])
        high = k.upper if upper is None else replaced(k.upper, i, ends[1])
        return replace(self, likelihood=replace(k, lower=low, upper=high))

    def with_fixed(self, values: Mapping[str, Any]) -> HistFactoryModel:
        """The model with parameters held, in every fit, at the given values by name; the structure stays the same.

        Raises:
            FitError: For unknown names, or values that are not finite numbers.
        """
        return replace(self, likelihood=with_fixed(self, values))

    def _params(self, params: Any) -> Any:
        return as_vector(params, self.n_params, "params", self.dtype)

    def __repr__(self) -> str:
        return (
            f"HistFactoryModel({len(self.channels)} channels, {self.n_bins} bins, {len(self.samples)} samples, "
            f"{self.n_params} parameters, poi={self.poi!r}, {self.dtype})"
        )


@jax.jit
def _nll(likelihood: HistFactory, params: Array, data: Array) -> Array:
    return add_saturated(_derivatives.fast_deviance(likelihood, params, data), likelihood, data)


@jax.jit
def _nll_and_grad(likelihood: HistFactory, params: Array, data: Array) -> tuple[Array, Array]:
    value, gradient = _derivatives.value_and_gradient(likelihood, params, data)
    return add_saturated(value, likelihood, data), gradient


@jax.jit
def _hessian(likelihood: HistFactory, params: Array, data: Array) -> Array:
    return likelihood.hessian(params, data).dense()


@jax.jit
def _expected(likelihood: HistFactory, params: Array) -> Array:
    return expected(likelihood, params)


@jax.jit
def _cells(likelihood: HistFactory, params: Array) -> Array:
    return rates(likelihood, params).cells


def asimov_data(model: HistFactoryModel, params: Any = None, mu: Any = None) -> Float[Array, " data"]:
    """The Asimov data set of a model; see ``HistFactoryModel.asimov_data``."""
    require_model(model)
    return model.asimov_data(params, mu)
