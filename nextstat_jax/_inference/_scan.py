"""Profile-likelihood scans over one or two parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .._base._doors import as_array, concrete, no_type_check
from .._base._errors import FitError
from .._base._numerics import lightly
from .._likelihood._common import Common
from .._minimize import _status
from .._model._base import Model, check_start, scanned, subject
from ._driver import ask
from ._fit import several_minima
from ._points import Points, SettledRows, constant_of, index_array
from ._question import Course, question
from ._result import Result, result, static
from ._rows import Facts, facts_of
from ._settle import known, settle_free


@result
class ScanResult(Result):
    """The likelihood profiled over a grid of one or two parameters.

    Attributes:
        values: Values of each scanned parameter, one array of shape (n,), or two of shapes (n,) and (m,).
        nll: Negative log-likelihood, minimized over all other parameters, shape (n,) or (n, m).
        params: Conditional best fits, shape (n, n_params) or (n, m, n_params).
        status: How each conditional fit ended, shape (n,) or (n, m).
        best: Values of the scanned parameters in the unconditional fit, shape (1,) or (2,).
        nll_min: NLL of the unconditional fit, scalar.
        status_min: How that fit ended.
        next_minimum: The least distance, in the NLL, of another minimum from one of the fits; +inf where all starts
            agree. Scalar.
        parameters: Names of the scanned parameters.
    """

    _single: ClassVar[tuple[str, int]] = ("nll_min", 0)

    values: tuple[Float[Array, " _"], ...]
    nll: Float[Array, "*grid"]
    params: Float[Array, "*grid param"]
    status: Int[Array, "*grid"]
    best: Float[Array, " scanned"]
    nll_min: Float[Array, ""]
    status_min: Int[Array, ""]
    next_minimum: Float[Array, ""]
    parameters: tuple[str, ...] = static()

    @property
    def delta(self) -> Float[Array, "*grid"]:
        """``2 (nll - nll_min)``: ``-2 ln lambda`` of arXiv:1007.1727, equation 7."""

        def difference(xp: Any, nll: Any, least: Any) -> Any:
            return 2.0 * (nll - least.reshape(least.shape + (1,) * (nll.ndim - least.ndim)))

        return lightly(difference, self.nll, self.nll_min)

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it."""
        text = _status.message(np.append(np.asarray(self.status), np.asarray(self.status_min)))
        return text + self._said() + several_minima(np.min(np.asarray(self.next_minimum)))

    def _columns(self) -> dict[str, np.ndarray]:
        grid = np.meshgrid(*map(np.asarray, self.values), indexing="ij")
        columns = {name: axis.reshape(-1) for name, axis in zip(self.parameters, grid, strict=True)}
        columns |= {"nll": np.asarray(self.nll).reshape(-1), "delta": np.asarray(self.delta).reshape(-1)}
        return columns | {"converged": np.asarray(self.converged).reshape(-1)}

    def _facts(self) -> dict[str, Any]:
        names = ("parameters", "values", "nll", "delta", "best", "nll_min")
        return {name: getattr(self, name) for name in names}

    def _title(self) -> str:
        best = ", ".join(f"{n} = {x:.6g}" for n, x in zip(self.parameters, np.asarray(self.best), strict=True))
        return f"ScanResult: {self.message}; best fit {best}"

    def _shown(self) -> dict[str, Any]:
        if len(self.parameters) == 1:
            return self._columns()
        # A grid as it lies: one row for each value of the first parameter, -2 ln lambda for each of the second.
        first, second = map(np.asarray, self.values)
        delta = np.asarray(self.delta)
        head = f"{self.parameters[0]} \\ {self.parameters[1]}"
        return {head: first, **{f"{x:.6g}": delta[:, k] for k, x in enumerate(second.tolist())}}


@no_type_check
def profile_scan(
    model: Model,
    parameter: str | Sequence[str],
    values: ArrayLike | Sequence[ArrayLike],
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
) -> ScanResult:
    """Profiles the likelihood over values of one parameter, or over a grid of two.

    Args:
        model: The model.
        parameter: Name of the parameter, the parameter of interest or any other; or two names.
        values: Values to hold it at, shape (n,), in any order, inside its bounds or not; for two parameters, two such
            arrays, whose grid is scanned.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.

    Returns:
        ``ScanResult``, differentiable with respect to model, data and values.

    Raises:
        FitError: For unknown names, the same name twice, or values that are not finite.
        ModelError: For wrong shapes.
    """
    about = subject(model, data, fixed)
    names, indices = scanned(about, model, parameter)
    axes = _axes(names, parameter, values, about.likelihood.dtype)
    asked = Scan(index_array(*indices), *_path(axes), axes)
    told = ask(asked, facts_of(about), check_start(about, init))
    return ScanResult(*told.answer, parameters=names).explained(model, about, told.stuck)


def _axes(names: tuple[str, ...], parameter: Any, values: Any, dtype: Any) -> tuple[Any, ...]:
    columns = (values,) if isinstance(parameter, str) else values
    several = isinstance(columns, list | tuple) or getattr(columns, "ndim", 0) > 0
    if not several or len(columns) != len(names):
        raise FitError(f"values for {len(names)} parameters: give a list of {len(names)} arrays")
    axes = tuple(
        as_array(column, f"values of {name}", dtype, FitError) for name, column in zip(names, columns, strict=True)
    )
    for name, axis in zip(names, axes, strict=True):
        if axis.ndim != 1 or axis.size == 0:
            raise FitError(f"values of {name} have shape {axis.shape}: give a list of numbers")
        if concrete(axis) and not np.isfinite(np.asarray(axis)).all():
            raise FitError(f"values of {name} are not all finite")
    return axes


def _path(axes: tuple[Any, ...]) -> tuple[Any, Any]:
    """All points of a grid, shape (points, axes), each next to the last; and where each point of the grid is on it.

    In a grid of two parameters the path goes through rows, back and forth.
    """
    numpy = np if all(map(concrete, axes)) else jnp
    axes = tuple(map(numpy.asarray, axes))
    places = np.indices([len(axis) for axis in axes])
    if len(axes) == 2:
        places[1][1::2] = places[1][1::2, ::-1]
    shape = places.shape[1:]
    orders = [numpy.argsort(axis) for axis in axes]
    points = [axis[order][place.reshape(-1)] for axis, order, place in zip(axes, orders, places, strict=True)]
    back = numpy.asarray(np.argsort(np.ravel_multi_index(tuple(places), shape), axis=None).reshape(shape))
    back = back[numpy.ix_(*(numpy.argsort(order) for order in orders))]
    return numpy.stack(points, axis=1), back.reshape(-1)


@question
class Scan(Points):
    """Conditional fits along a path on which each point lies next to the last.

    Attributes:
        places: Where each point of the grid is on the path, shape (points,).
        axes: Values of each parameter.
    """

    places: Any
    axes: tuple[Any, ...]

    chained: ClassVar[bool] = True

    def answer(self, facts: Facts, course: Course) -> tuple[Any, ...]:
        """The arrays of ``ScanResult``, in its order."""
        first, found = course.first, jax.tree.map(lambda x: x[self.places], course.state.found)
        constant = known(constant_of, first.constant, facts.likelihood, facts.data)
        free = settle_free(facts.likelihood, facts.data, first.found.minimum)
        rows = SettledRows(facts.likelihood, facts.data, found.minimum, self.where, self.values[self.places])
        best = free.params[self.where]
        lowest = free.value + constant, first.found.minimum.status
        shape = tuple(len(axis) for axis in self.axes)
        nll, status = (rows.value + constant).reshape(shape), found.minimum.status.reshape(shape)
        axes = tuple(map(jnp.asarray, self.axes))
        return axes, nll, rows.params.reshape((*shape, -1)), status, best, *lowest, course.above

    def narrowed(self, common: Common, answer: Any) -> Any:
        """The best fits are over parameters."""
        axes, nll, params, *others = answer
        return axes, nll, common.narrowed(params), *others
