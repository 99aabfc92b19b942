"""What all pictures check: the axes that they are given, and what they are asked to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._doors import integer, no_type_check
from .._base._errors import FitError
from ._style import new_figure, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@no_type_check
def axes_of(ax: Any, size: tuple[float, float]) -> Axes:
    """The axes to draw in: the given ones, or those of a new figure of that size."""
    require_matplotlib()
    return new_figure(size).add_subplot() if ax is None else check_axes(ax, "ax")


@no_type_check
def several_axes(axes: Any, number: int, what: str) -> list[Axes]:
    """Given axes in a flat list; ``FitError`` unless there are as many as needed."""
    require_matplotlib()
    flat = list(np.asarray(axes, dtype=object).ravel())
    if len(flat) != number:
        raise FitError(f"{len(flat)} axes given: {what} needs {number}")
    return [check_axes(one, "axes") for one in flat]


@no_type_check
def check_axes(ax: Any, what: str) -> Axes:
    """``ax`` itself; ``FitError`` for anything but axes of matplotlib."""
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise FitError(f"{what} is a {type(ax).__name__}: expected matplotlib axes")
    return ax


def require(result: Any, fields: Sequence[str], maker: str) -> None:
    """``FitError`` unless a result has what a picture needs."""
    if not all(hasattr(result, field) for field in fields):
        raise FitError(f"expected what {maker} returns, found {type(result).__name__}")


def numbers(x: Any, ndim: int, what: str) -> np.ndarray:
    """NumPy array of a field; ``FitError`` for a batch or a single value where there should be ``ndim`` axes."""
    try:
        array = np.asarray(x)
    except Exception:
        raise FitError(f"{what}: there are no values yet; draw outside jit, grad and vmap") from None
    if array.ndim > ndim:
        raise FitError(f"{what}: an array of shape {array.shape} is a batch; draw one of its members")
    if array.ndim < ndim:
        raise FitError(f"{what}: a single value makes no picture; give an array")
    return array


def need_two(x: np.ndarray, what: str) -> None:
    """``FitError`` where there are too few points for a curve."""
    if len(x) < 2:
        raise FitError(f"{what}: {len(x)} point makes no curve; give at least two")


def check_top_n(top_n: int | None) -> None:
    """``FitError`` unless a number of rows is positive or None."""
    if top_n is not None:
        integer(top_n, "top_n")
