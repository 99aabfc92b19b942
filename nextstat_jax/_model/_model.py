"""``HistFactoryModel``: a likelihood with its names, and what users ask of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .._base._doors import as_array, as_vector, concrete
from .._base._errors import FitError, ModelError
from .._base._threads import limit_lapack_threads
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood, add_saturated, expected, rates
from .._workspace._records import read_workspace
from ._compile import Names, compile_workspace
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class HistFactoryModel:
    """A binned likelihood in the HistFactory form: a pytree of arrays with pure methods.

    Make one with ``from_pyhf``. Parameters are in the order of ``parameter_names()``; a data vector holds the bins of
    all channels and then the auxiliary data, both in pyhf's order.

    Attributes:
        likelihood: The arrays and their static structure.
        names: What the arrays mean.
    """

    likelihood: Likelihood
    names: Names = field(metadata={"static": True})

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return self.likelihood.structure.n_params

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
        return self.names.poi or None

    @property
    def poi_index(self) -> int | None:
        """Index of the parameter of interest, or None."""
        poi = self.likelihood.structure.poi
        return None if poi < 0 else poi

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
    def dtype(self) -> np.dtype:
        """Floating-point type of the model."""
        return self.likelihood.dtype

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

    def parameter_init(self) -> Float[Array, " param"]:
        """Initial parameters, shape (n_params,)."""
        return self.likelihood.init

    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """Lower and upper bounds, shape (n_params, 2)."""
        return jnp.stack([self.likelihood.lower, self.likelihood.upper], axis=1)

    def index(self, name: str) -> int:
        """Index of a parameter; ``FitError`` with the closest names if there is none."""
        try:
            return self.names.parameters.index(name)
        except ValueError:
            import difflib

            close = difflib.get_close_matches(str(name), self.names.parameters, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise FitError(f"there is no parameter {name!r}{hint}") from None

    def require_poi(self) -> int:
        """Index of the parameter of interest; ``ModelError`` where the measurement names none."""
        if self.likelihood.structure.poi < 0:
            raise ModelError(f"measurement {self.names.measurement!r} names no parameter of interest, which this needs")
        return self.likelihood.structure.poi

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
        return _nll(self.likelihood, self._params(params), as_data(self, data))

    def logpdf(self, params: Any, data: Any = None) -> Float[Array, ""]:
        """Log-likelihood, ``-nll``; arguments as there."""
        return -self.nll(params, data)

    def grad_nll(self, params: Any, data: Any = None) -> Float[Array, " param"]:
        """Gradient of the NLL with respect to the parameters, shape (n_params,); finite even where the NLL is +inf."""
        return self.nll_and_grad(params, data)[1]

    def nll_and_grad(self, params: Any, data: Any = None) -> tuple[Float[Array, ""], Float[Array, " param"]]:
        """NLL and its gradient in one pass; arguments as in ``nll``."""
        return _nll_and_grad(self.likelihood, self._params(params), as_data(self, data))

    def hessian(self, params: Any, data: Any = None) -> Float[Array, "param param"]:
        """Second derivatives of the NLL, shape (n_params, n_params)."""
        return _hessian(self.likelihood, self._params(params), as_data(self, data))

    def expected_data(self, params: Any, include_auxdata: bool = True) -> Float[Array, " data"]:
        """Expected bin contents and, unless left out, expected auxiliary data: shape (n_data,) or (n_bins,)."""
        both = _expected(self.likelihood, self._params(params))
        return both if include_auxdata else both[: self.n_bins]

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
            params = params.at[self.require_poi()].set(mu)
        return _expected(self.likelihood, params)

    def with_data(self, data: Any) -> HistFactoryModel:
        """The model with other observed data, shape (n_data,), or (n_bins,) to keep the auxiliary data."""
        return replace(self, likelihood=replace(self.likelihood, observed=as_data(self, data)))

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
        ends = [old if new is None else new for old, new in ((k.lower[i], lower), (k.upper[i], upper))]
        if all(map(concrete, ends)) and not float(ends[0]) <= float(ends[1]):
            raise FitError(f"bounds of {name}: {float(ends[0]):g} is not below {float(ends[1]):g}")
        low = k.lower if lower is None else k.lower.at[i].set(lower)
        high = k.upper if upper is None else k.upper.at[i].set(upper)
        return replace(self, likelihood=replace(k, lower=low, upper=high))

    def with_fixed(self, values: Mapping[str, Any]) -> HistFactoryModel:
        """The model with parameters held, in every fit, at the given values by name; the structure stays the same."""
        if not isinstance(values, Mapping):
            raise FitError(f"values is a {type(values).__name__}: give a mapping from parameter names to values")
        k, where = self.likelihood, np.array([self.index(name) for name in values], dtype=int)
        numbers = [as_array(value, f"value of {name}", self.dtype) for name, value in values.items()]
        for name, number in zip(values, numbers, strict=True):
            if number.ndim or (concrete(number) and not np.isfinite(number)):
                raise FitError(f"value of {name} is {number}: give a finite number")
        init = k.init.at[where].set(jnp.stack(numbers)) if numbers else k.init
        return replace(self, likelihood=replace(k, init=init, frozen=k.frozen.at[where].set(1.0)))

    def _params(self, params: Any) -> Array:
        return as_vector(params, self.n_params, "params", self.dtype)

    def __repr__(self) -> str:
        return (
            f"HistFactoryModel({len(self.channels)} channels, {self.n_bins} bins, {len(self.samples)} samples, "
            f"{self.n_params} parameters, poi={self.poi!r}, {self.dtype})"
        )


@jax.jit
def _nll(likelihood: Likelihood, params: Array, data: Array) -> Array:
    return add_saturated(_derivatives.fast_deviance(likelihood, params, data), likelihood, data)


@jax.jit
def _nll_and_grad(likelihood: Likelihood, params: Array, data: Array) -> tuple[Array, Array]:
    value, gradient = _derivatives.value_and_gradient(likelihood, params, data)
    return add_saturated(value, likelihood, data), gradient


@jax.jit
def _hessian(likelihood: Likelihood, params: Array, data: Array) -> Array:
    return _derivatives.hessian(likelihood, params, data)


@jax.jit
def _expected(likelihood: Likelihood, params: Array) -> Array:
    return expected(likelihood, params)


@jax.jit
def _cells(likelihood: Likelihood, params: Array) -> Array:
    return rates(likelihood, params).cells


def require_model(model: Any) -> None:
    """``ModelError`` for anything but a model, a workspace that was not read for example."""
    if not isinstance(model, HistFactoryModel):
        raise ModelError(f"expected a model as from_pyhf returns it, found {type(model).__name__}")


def as_data(model: HistFactoryModel, data: Any) -> Array:
    """A full data vector from what a user gives: nothing, main data alone, or both."""
    likelihood = model.likelihood
    if data is None:
        return likelihood.observed
    n, n_bins = model.n_data, model.n_bins
    array = as_array(data, "data", likelihood.dtype)
    if array.shape == (n_bins,) and n != n_bins:
        array = jnp.concatenate([array, likelihood.observed[n_bins:]])
    if array.shape != (n,):
        hint = "; use jax.vmap for a batch" if array.ndim == 2 else ""
        raise ModelError(f"data has shape {array.shape}, expected ({n},), or ({n_bins},) without auxiliary data{hint}")
    if concrete(array):
        values = np.asarray(array)
        if not np.isfinite(values).all():
            raise ModelError(f"data[{int(np.argmin(np.isfinite(values)))}] is not finite")
        if (values[:n_bins] < 0).any():
            k = int(np.argmax(values[:n_bins] < 0))
            raise ModelError(f"data[{k}] is {values[k]:g}: counts cannot be negative")
        counts = n_bins + likelihood.structure.poisson_aux
        if (values[counts] < 0).any():
            k = int(counts[np.argmax(values[counts] < 0)])
            raise ModelError(f"data[{k}] is {values[k]:g}: the auxiliary data of a shapesys are counts, not negative")
    return array


def asimov_data(model: HistFactoryModel, params: Any = None, mu: Any = None) -> Float[Array, " data"]:
    """The Asimov data set of a model; see ``HistFactoryModel.asimov_data``."""
    return model.asimov_data(params, mu)


def from_pyhf(
    workspace: Any,
    measurement: str | int | None = None,
    patch: Any = None,
    *,
    normsys: str = "code4",
    histosys: str = "code4p",
    dtype: Any = None,
    clip_sample_data: Any = None,
    clip_bin_data: Any = None,
) -> HistFactoryModel:
    """Reads a HistFactory workspace in pyhf's JSON form.

    Args:
        workspace: JSON text, a path, a mapping, or a ``pyhf.Workspace``.
        measurement: Name or index; the first by default.
        patch: JSON patch operations, a path to them, an entry of a ``PatchSet``, or a list of such.
        normsys: Interpolation code, ``"code1"`` or ``"code4"``.
        histosys: Interpolation code, ``"code0"``, ``"code2"`` or ``"code4p"``. The two codes are independent.
        dtype: ``"float64"`` or ``"float32"``. By default float64, and JAX's x64 mode is turned on if it was off;
            float32 works with x64 on or off and never touches the switch.
        clip_sample_data: Least yield of a sample in a bin, as pyhf's option of that name. A sample that a channel lacks
            stays absent (pyhf lifts it too, which shows for positive values).
        clip_bin_data: Least yield of a bin.

    Returns:
        The model; parameters and data are ordered as in pyhf.

    Raises:
        WorkspaceError: If the workspace or a patch cannot be read: with the JSON path, what was found and what was
            expected.
        ModelError: For an unknown option.

    Example:
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> signal = {"name": "signal", "data": [10.0], "modifiers": [strength]}
        >>> background = {"name": "background", "data": [50.0], "modifiers": []}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, background]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> model
        HistFactoryModel(1 channels, 1 bins, 2 samples, 1 parameters, poi='mu', float64)
        >>> print(model.expected_data([1.4]))
        [64.]
    """
    kind = _dtype(dtype)
    spec = read_workspace(workspace, patch)
    compiled = compile_workspace(
        spec,
        spec.measurement(measurement),
        normsys=normsys,
        histosys=histosys,
        clip_sample_data=clip_sample_data,
        clip_bin_data=clip_bin_data,
        dtype=kind,
    )
    if kind == np.float64:
        require_x64()
    limit_lapack_threads()
    arrays = {name: jnp.asarray(value) for name, value in compiled.arrays.items()}
    return HistFactoryModel(Likelihood(**arrays, structure=compiled.structure), compiled.names)


def _dtype(dtype: Any) -> np.dtype:
    try:
        kind = np.dtype(np.float64 if dtype is None else dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise ModelError(f"dtype={dtype!r}: expected 'float64' or 'float32'")
    return kind


def require_x64() -> None:
    """Turns on JAX's x64 mode."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    if jax.live_arrays():
        warnings.warn(
            "a float64 model turns on JAX's x64 mode, and this process already holds arrays made without it: set "
            "jax.config.update('jax_enable_x64', True) at the start, or pass dtype='float32'",
            stacklevel=3,
        )
    jax.config.update("jax_enable_x64", True)


def require_free_poi(model: HistFactoryModel) -> int:
    """Index of a parameter of interest that can move."""
    poi = model.require_poi()
    frozen = model.likelihood.frozen
    if concrete(frozen) and np.asarray(frozen)[poi] > 0:
        raise FitError(
            f"{model.names.poi} is fixed by the measurement: a test needs a parameter of interest that can move"
        )
    return poi


def bound_below(model: HistFactoryModel) -> HistFactoryModel:
    """The model with its parameter of interest at 0 or above."""
    lower = model.likelihood.lower[model.require_poi()]
    return model.replace_bounds(model.names.poi, lower=jnp.maximum(lower, 0.0))


def scanned(model: HistFactoryModel, parameter: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and indices of one or two parameters that can move; ``FitError`` for anything else."""
    names = (parameter,) if isinstance(parameter, str) else parameter
    words = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    if not words or not 1 <= len(names) <= 2 or len(set(names)) != len(names):
        raise FitError(f"parameter={parameter!r:.60}: expected one name, or two different ones")
    indices = tuple(model.index(name) for name in names)
    frozen = model.likelihood.frozen
    for name, index in zip(names, indices, strict=True):
        if concrete(frozen) and np.asarray(frozen)[index] > 0:
            raise FitError(f"{name} is fixed by the measurement: there is nothing to scan")
    return tuple(names), indices
