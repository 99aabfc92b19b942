"""What training a binned analysis needs beside a soft histogram: edges, bandwidths, and bins that stay filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._base._errors import ModelError

Schedule = Literal["exponential", "linear", "cosine"]

MIN_FRACTION = 1e-3
"""Least width of a bin of learnable edges, in units of the mean width."""


def monotone_edges(raw: ArrayLike, low: float = 0.0, high: float = 1.0) -> Float[Array, " edge"]:
    """Increasing edges from numbers without constraints, so that an optimizer may move them.

    Bin b gets the fraction ``(1 - f) softmax(raw)_b + f / n`` of the range, with n bins and f = 0.001: edges cannot
    cross, and no bin vanishes.

    Args:
        raw: Shape (bins,), any real numbers; zeros give equidistant edges.
        low: The first edge, which stays.
        high: The last edge, which stays.

    Returns:
        Edges, shape (bins + 1,).

    Raises:
        ModelError: For another shape, or a range that is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(e), 3) for e in monotone_edges(jnp.array([0.0, 0.0, 1.0]))]
        [0.0, 0.212, 0.424, 1.0]
    """
    check_range(low, high)
    if np.ndim(raw) != 1 or np.shape(raw)[0] < 1:
        raise ModelError(f"raw edges have shape {np.shape(raw)}: expected one number for each bin")
    values = jnp.asarray(raw)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.result_type(float))
    n = values.shape[0]
    widths = (1.0 - MIN_FRACTION) * jax.nn.softmax(values) + MIN_FRACTION / n
    inner = low + (high - low) * jnp.cumsum(widths)[:-1]
    ends = jnp.asarray([low, high], values.dtype)
    return jnp.concatenate([ends[:1], inner, ends[1:]])


def raw_edges(edges: ArrayLike | Sequence[float]) -> Float[np.ndarray, " bin"]:
    """Numbers from which ``monotone_edges`` makes these edges; the place to start from.

    Args:
        edges: Increasing, shape (bins + 1,).

    Raises:
        ModelError: For edges that do not increase, or with a bin narrower than ``monotone_edges`` can make.
    """
    values = np.asarray(edges, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or not (np.diff(values) > 0).all():
        raise ModelError("edges have to be a vector of at least 2 increasing, finite numbers")
    n = values.size - 1
    widths = np.diff(values) / (values[-1] - values[0])
    fractions = (widths - MIN_FRACTION / n) / (1.0 - MIN_FRACTION)
    if (fractions <= 0).any():
        raise ModelError(f"bin {int(np.argmin(fractions))} is narrower than {MIN_FRACTION:g} of the mean width")
    logs = np.log(fractions)
    return logs - logs.mean()


def check_range(low: Any, high: Any) -> None:
    """``ModelError`` unless low and high are finite numbers in this order."""
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ModelError(f"the range from {low} to {high} is empty: give finite numbers, low < high")


def bandwidth_schedule(start: float, stop: float, steps: int, kind: Schedule | str = "exponential") -> Callable:
    """Bandwidth of a soft histogram as a function of the training step.

    A wide kernel lets every event feel every edge at the start; a narrow one makes the histogram of the end the one
    that hard bins will give.

    Args:
        start: Bandwidth at step 0, positive, in the units of the scores.
        stop: Bandwidth at step ``steps`` and after.
        steps: Length of the schedule, positive.
        kind: ``"exponential"`` (equal factors), ``"linear"``, or ``"cosine"`` (slow at both ends).

    Returns:
        A function of the step (an integer or a traced array), usable inside ``jax.jit``; for a Python number it returns
        a Python float, which torch takes as well.

    Raises:
        ModelError: For arguments out of range.

    Example:
        >>> bandwidth = bandwidth_schedule(0.2, 0.05, steps=100)
        >>> [round(bandwidth(step), 3) for step in (0, 50, 100, 1000)]
        [0.2, 0.1, 0.05, 0.05]
    """
    if kind not in get_args(Schedule):
        raise ModelError(f"kind={kind!r}: expected one of {', '.join(get_args(Schedule))}")
    if not (0 < start < float("inf") and 0 < stop < float("inf")):
        raise ModelError(f"bandwidths have to be positive and finite, not {start} and {stop}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ModelError(f"steps={steps!r}: expected a positive integer")

    def bandwidth(step: Any) -> Any:
        xp = np if isinstance(step, int | float | np.number) else jnp
        t = xp.clip(step / steps, 0.0, 1.0)
        if kind == "cosine":
            t = 0.5 * (1.0 - xp.cos(np.pi * t))
        value = start * (stop / start) ** t if kind == "exponential" else start + (stop - start) * t
        return float(value) if xp is np else value

    return bandwidth


def guard_empty_bins(histogram: ArrayLike, minimum: float) -> Float[Array, "*bins"]:
    """A histogram whose bins stay above 0, with a gradient that lets them fill again.

    Bins above ``minimum`` m are left alone; below, a yield y becomes ``m exp(y / m - 1)``, which continues it with its
    slope. An expectation of exactly 0 in a bin with counts has no likelihood; a maximum with a constant, no gradient.

    Args:
        histogram: Yields of any shape; negative ones (from negative weights) are lifted above 0 as well.
        minimum: Positive, in events. Small against the uncertainty of a bin's yield.

    Raises:
        ModelError: For a ``minimum`` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(y), 4) for y in guard_empty_bins(jnp.array([3.0, 0.01, 0.0]), 0.01)]
        [3.0, 0.01, 0.0037]
    """
    check_minimum(minimum)
    y = jnp.asarray(histogram)
    low = jnp.where(y > minimum, 0.0, y)  # keeps the exponential in range where it is not used
    return jnp.where(y > minimum, y, minimum * jnp.exp(low / minimum - 1.0))


def check_minimum(minimum: Any) -> None:
    """``ModelError`` unless the smallest yield is a positive number."""
    if not (isinstance(minimum, int | float) and 0 < minimum < float("inf")):
        raise ModelError(f"minimum={minimum!r}: expected a positive number of events")
