"""Profile-likelihood scans over one or two parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .._base._doors import as_array, concrete
from .._base._errors import FitError
from .._base._tables import dataframe, plain, text_table
from .._likelihood._histfactory import Likelihood, saturated
from .._minimize import _status
from .._minimize._implicit import attach, value_at_minimum
from .._minimize._newton import Minimum
from .._model._model import HistFactoryModel, as_data, require_model, scanned
from ._fit import OBJECTIVE, Conditions, args_of, hold, no_fit, pins_of, solve_best, unconditional


class ScanResult(eqx.Module):
    """The likelihood profiled over a grid of one or two parameters.

    Attributes:
        values: Values of each scanned parameter, one array of shape (n,), or two of shapes (n,) and (m,).
        nll: Negative log-likelihood, minimized over all other parameters, shape (n,) or (n, m).
        params: Conditional best fits, shape (n, n_params) or (n, m, n_params).
        status: How each conditional fit ended, shape (n,) or (n, m).
        best: Values of the scanned parameters in the unconditional fit, shape (1,) or (2,).
        nll_min: NLL of the unconditional fit, scalar.
        status_min: How that fit ended.
        parameters: Names of the scanned parameters.
    """

    values: tuple[Float[Array, " _"], ...]
    nll: Float[Array, "*grid"]
    params: Float[Array, "*grid param"]
    status: Int[Array, "*grid"]
    best: Float[Array, " scanned"]
    nll_min: Float[Array, ""]
    status_min: Int[Array, ""]
    parameters: tuple[str, ...] = eqx.field(static=True)

    @property
    def delta(self) -> Float[Array, "*grid"]:
        """``2 (nll - nll_min)``: ``-2 ln lambda`` of arXiv:1007.1727, equation 7."""
        extra = self.nll.ndim - self.nll_min.ndim
        return 2.0 * (self.nll - self.nll_min.reshape(self.nll_min.shape + (1,) * extra))

    @property
    def converged(self) -> Bool[Array, "*grid"]:
        """Whether each conditional fit found its minimum."""
        return self.status == _status.CONVERGED

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        return _status.message(np.append(np.asarray(self.status), np.asarray(self.status_min)))

    def _columns(self) -> dict[str, np.ndarray]:
        grid = np.meshgrid(*map(np.asarray, self.values), indexing="ij")
        columns = {name: axis.reshape(-1) for name, axis in zip(self.parameters, grid, strict=True)}
        columns |= {"nll": np.asarray(self.nll).reshape(-1), "delta": np.asarray(self.delta).reshape(-1)}
        return columns | {"converged": np.asarray(self.converged).reshape(-1)}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe (None where a number is not finite)."""
        return {
            "parameters": list(self.parameters),
            "values": [plain(axis) for axis in self.values],
            "nll": plain(self.nll),
            "delta": plain(self.delta),
            "converged": plain(self.converged),
            "best": plain(self.best),
            "nll_min": plain(self.nll_min),
            "status": self.message,
        }

    def to_dataframe(self) -> Any:
        """One row for each point of the grid, as a pandas data frame."""
        return dataframe(self._columns())

    def __repr__(self) -> str:
        if not concrete(self.nll) or self.nll.ndim != len(self.parameters):
            return f"ScanResult(parameters={self.parameters!r}, nll={self.nll!r})"
        best = ", ".join(f"{n} = {x:.6g}" for n, x in zip(self.parameters, np.asarray(self.best), strict=True))
        head = f"ScanResult: {self.message}; best fit {best}"
        if self.nll.ndim == 2:
            return f"{head}; {self.nll.shape[0]} x {self.nll.shape[1]} points"
        columns = self._columns()
        return text_table(list(columns), zip(*columns.values(), strict=True), head)


def profile_scan(model: HistFactoryModel, parameter: Any, values: Any, data: Any = None) -> ScanResult:
    """Profiles the likelihood over values of one parameter, or over a grid of two.

    Args:
        model: The model.
        parameter: Name of the parameter, the parameter of interest or any other; or two names.
        values: Values to hold it at, shape (n,), in any order, inside its bounds or not; for two parameters, two such
            arrays, whose grid is scanned.
        data: As in ``fit``.

    Returns:
        ``ScanResult``, differentiable with respect to model, data and values.

    Raises:
        FitError: For unknown names, the same name twice, or values that are not finite.
        ModelError: For wrong shapes.
    """
    require_model(model)
    names, indices = scanned(model, parameter)
    axes = _axes(model, names, parameter, values)
    data = as_data(model, data)
    minima, free = _solve_scan(*lax.stop_gradient((model.likelihood, data, axes)), indices)
    nll, params, best, lowest = _finish(model.likelihood, data, axes, minima, free, indices)
    return ScanResult(axes, nll, params, minima.status, best, lowest, free.status, names)


def _axes(model: HistFactoryModel, names: tuple[str, ...], parameter: Any, values: Any) -> tuple[Array, ...]:
    columns = (values,) if isinstance(parameter, str) else values
    several = isinstance(columns, list | tuple) or getattr(columns, "ndim", 0) > 0
    if not several or len(columns) != len(names):
        raise FitError(f"values for {len(names)} parameters: give a list of {len(names)} arrays")
    axes = tuple(
        as_array(column, f"values of {name}", model.likelihood.dtype)
        for name, column in zip(names, columns, strict=True)
    )
    for name, axis in zip(names, axes, strict=True):
        if axis.ndim != 1 or axis.size == 0:
            raise FitError(f"values of {name} have shape {axis.shape}: give a list of numbers")
        if concrete(axis) and not np.isfinite(np.asarray(axis)).all():
            raise FitError(f"values of {name} are not all finite")
    return axes


class _Carry(NamedTuple):
    """What one fit of a scan hands to the next: where it ended, and the lowest of all minima inside the bounds."""

    y: Array
    lowest: Minimum


@jax.jit(static_argnums=3)
def _solve_scan(
    likelihood: Likelihood, data: Array, axes: tuple[Array, ...], indices: tuple[int, ...]
) -> tuple[Minimum, Minimum]:
    """The conditional fits, with the leading axes of the grid, and the unconditional one."""
    where = np.array(indices)
    orders = [jnp.argsort(axis) for axis in axes]
    shape = tuple(len(axis) for axis in axes)
    path = _path(shape)
    points = jnp.stack([axis[order][row] for axis, order, row in zip(axes, orders, path, strict=True)], axis=1)
    first = no_fit(likelihood)

    def one(carry: _Carry, row: tuple[Array, Array]) -> tuple[_Carry, Minimum]:
        free, point = row
        # Each fit starts where its neighbor ended; the minimum is the same, the way shorter. The last one starts at
        # the lowest of all: had the first missed the minimum, this one would not.
        last = free & jnp.isfinite(carry.lowest.value)
        conditions = hold(likelihood, indices, point)
        start = jnp.where(last, carry.lowest.y, jnp.where(free, carry.y, carry.y.at[where].set(point)))
        held = conditions.held & (~free | (likelihood.frozen > 0))
        minimum = solve_best(likelihood, data, Conditions(start, held))
        y = minimum.y
        inside = ((y >= likelihood.lower) & (y <= likelihood.upper))[where].all()
        lower = inside & (minimum.value <= carry.lowest.value)
        lowest = jax.tree.map(lambda new, old: jnp.where(lower, new, old), minimum, carry.lowest)
        return _Carry(y, lowest), minimum

    padding = jnp.zeros((1, len(indices)), data.dtype)
    is_free = np.zeros(len(points) + 2, bool)
    is_free[[0, -1]] = True
    rows = (jnp.asarray(is_free), jnp.concatenate([padding, points, padding]))
    _, minima = lax.scan(one, _Carry(likelihood.init, first), rows)
    back = np.argsort(np.ravel_multi_index(path, shape))
    places = jnp.asarray(back).reshape(shape)[jnp.ix_(*(jnp.argsort(order) for order in orders))]
    return jax.tree.map(lambda x: x[1:-1][places], minima), jax.tree.map(lambda x: x[-1], minima)


def _path(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Indices along a path through a grid on which each point is next to the last: rows back and forth."""
    if len(shape) == 1:
        return (np.arange(shape[0]),)
    rows, columns = np.indices(shape)
    columns[1::2] = columns[1::2, ::-1]
    return rows.reshape(-1), columns.reshape(-1)


@jax.jit(static_argnums=5)
def _finish(
    likelihood: Likelihood,
    data: Array,
    axes: tuple[Array, ...],
    minima: Minimum,
    free: Minimum,
    indices: tuple[int, ...],
) -> tuple[Array, Array, Array, Array]:
    """Everything of a scan that has derivatives."""
    constant = saturated(likelihood, data)
    at_free = unconditional(likelihood)
    args, pins = args_of(likelihood, data, free), pins_of(likelihood, free, at_free)
    lowest = value_at_minimum(OBJECTIVE, free.y, args, pins)
    best = attach(OBJECTIVE, free.y, args, pins)[np.array(indices)]

    def one(minimum: Minimum, point: Array) -> tuple[Array, Array]:
        args = args_of(likelihood, data, minimum)
        pins = pins_of(likelihood, minimum, hold(likelihood, indices, point))
        value = value_at_minimum(OBJECTIVE, minimum.y, args, pins)
        return value, attach(OBJECTIVE, minimum.y, args, pins)

    shape = minima.value.shape
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(indices))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), minima)
    values, params = jax.vmap(one)(flat, points)
    return values.reshape(shape) + constant, params.reshape(*shape, -1), best, lowest + constant
