"""Histograms with soft bin edges, differentiable in everything that enters them.

A hard histogram is flat in the scores almost everywhere, so no gradient reaches the network that made them. Here each
event is smeared with a kernel of width ``bandwidth`` before it is counted. The kernel is cut off at the outer edges and
renormalized event by event, so that nothing leaks out: a histogram always holds the whole weight of its events.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._base._errors import ModelError

Mode = Literal["kde", "sigmoid"]
Outside = Literal["drop", "clip"]

DEFAULT_BANDWIDTH = 0.25
"""Bandwidth where none is given, in units of the narrowest bin."""

# Both cumulative distributions are exactly 0 or 1 in float64 this many bandwidths away, and exp(-z**2) does not
# overflow. Farther edges are moved here, because infinity times zero in a derivative is NaN.
FAR = 800.0


def soft_histogram(
    scores: ArrayLike | Sequence[float],
    edges: ArrayLike | Sequence[float],
    weights: ArrayLike | Sequence[float] | None = None,
    *,
    bandwidth: ArrayLike | None = None,
    mode: Mode | str = "kde",
    outside: Outside | str = "drop",
) -> Float[Array, " bin"]:
    """Histogram of scores in which each event is shared among the bins by a smooth kernel.

    An event with score x and weight w adds ``w p_b(x) / sum_b' p_b'(x)`` to bin b, where
    ``p_b(x) = F((e_{b+1} - x) / h) - F((e_b - x) / h)`` with edges e, bandwidth h and the cumulative distribution F of
    the kernel. The denominator undoes the leak at the ends: each event in range counts with exactly its weight.

    As h goes to 0 this tends to ``numpy.histogram``, with the last edge included, except that an event exactly on an
    inner edge stays shared evenly between the two bins beside it. As h grows the histogram tends to one in
    proportion to the widths of the bins. Bandwidths so small or so large that one or the other limit is reached to
    rounding are computed at that limit, where the derivative with respect to h is 0.

    The sum of squared weights per bin, which the statistical uncertainty of a simulated template needs, is
    ``soft_histogram(scores, edges, weights**2)``; it tends to the usual one as h goes to 0.

    Args:
        scores: Any shape, flattened as in ``numpy.histogram``; use ``jax.vmap`` for a batch of histograms. The
            result has the dtype of the scores (the default float type for integers), the other arguments are cast
            to it. A score that is NaN makes the whole histogram NaN, so that a diverged network is noticed.
        edges: Shape (bins + 1,), finite and strictly increasing, not necessarily equidistant.
        weights: Shape of the scores; 1 for each event if not given. Negative weights are legal.
        bandwidth: Width h of the kernel in the units of the scores, a positive scalar: the standard deviation of the
            Gaussian, the scale of the logistic distribution (its standard deviation is 1.81 h). By default a
            quarter of the narrowest bin.
        mode: ``"kde"`` for a Gaussian kernel (F is the normal distribution), ``"sigmoid"`` for a logistic one (F is the
            sigmoid function), which is cheaper and has longer tails.
        outside: What becomes of events outside the edges: ``"drop"`` ignores them, their weight and their gradient,
            as ``numpy.histogram`` does; ``"clip"`` moves them onto the nearest outer edge, so that their weight goes
            to the outer bin (and, within the bandwidth, to its neighbors).

    Returns:
        Sums of weights, shape (bins,).

    Raises:
        ValueError: for shapes and options that cannot be meant, and for edges and bandwidths that are out of range.
            The values of traced arrays are not checked.

    Example:
        >>> import numpy as np
        >>> from nextstat_jax import soft_histogram
        >>> scores = np.array([0.1, 0.2, 0.7, 1.5])
        >>> [round(float(n), 3) for n in soft_histogram(scores, [0.0, 0.5, 1.0], bandwidth=0.01)]
        [2.0, 1.0]
        >>> [round(float(n), 3) for n in soft_histogram(scores, [0.0, 0.5, 1.0], bandwidth=0.2, outside="clip")]
        [2.07, 1.93]

    References:
        arXiv:2203.05570, section 3.1 (kernel density histograms); the renormalization is ours.
    """
    check_options(mode, outside)
    _check_bandwidth(bandwidth)
    x, w, dtype = _flatten(scores, weights)
    _check_edges(edges, x.dtype)
    e = jnp.asarray(edges).astype(x.dtype)
    h = DEFAULT_BANDWIDTH * jnp.min(jnp.diff(e)) if bandwidth is None else jnp.asarray(bandwidth).astype(x.dtype)
    return _histogram(x, e, w, h, mode, outside).astype(dtype)


class SoftHistogram(eqx.Module):
    """``soft_histogram`` with its edges and options filled in, to be called with scores and weights.

    The edges and the bandwidth are leaves of the pytree: they can be differentiated, and changing them compiles
    nothing. The kernel and the policy for outliers are part of the structure.

    Example:
        >>> import jax.numpy as jnp
        >>> from nextstat_jax import SoftHistogram
        >>> histogram = SoftHistogram(bin_edges=jnp.linspace(0, 1, 5))
        >>> histogram(jnp.array([0.1, 0.4, 0.6])).shape
        (4,)

    Attributes:
        bin_edges: Edges of the bins, shape (bins + 1,).
        bandwidth: Width of the kernel, or None for the default of ``soft_histogram``.
        mode: ``"kde"`` or ``"sigmoid"``.
        outside: ``"drop"`` or ``"clip"``.
    """

    bin_edges: Float[Array, " edge"]
    bandwidth: Float[Array, ""] | None
    mode: str = eqx.field(static=True)
    outside: str = eqx.field(static=True)

    def __init__(
        self,
        bin_edges: ArrayLike | Sequence[float],
        bandwidth: ArrayLike | None = None,
        mode: Mode | str = "kde",
        outside: Outside | str = "drop",
    ) -> None:
        """Check and keep the arguments, which are those of ``soft_histogram``."""
        check_options(mode, outside)
        _check_bandwidth(bandwidth)
        self.bin_edges = _as_float(bin_edges)
        _check_edges(bin_edges, self.bin_edges.dtype)
        self.bandwidth = None if bandwidth is None else _as_float(bandwidth)
        self.mode = mode
        self.outside = outside

    def __call__(
        self,
        scores: ArrayLike | Sequence[float],
        weights: ArrayLike | Sequence[float] | None = None,
        *,
        bandwidth: ArrayLike | None = None,
    ) -> Float[Array, " bin"]:
        """Soft histogram of scores with weights; a bandwidth given here overrules. See ``soft_histogram``."""
        width = self.bandwidth if bandwidth is None else bandwidth
        return soft_histogram(scores, self.bin_edges, weights, bandwidth=width, mode=self.mode, outside=self.outside)

    def uncertainty(
        self,
        scores: ArrayLike | Sequence[float],
        weights: ArrayLike | Sequence[float] | None = None,
        *,
        bandwidth: ArrayLike | None = None,
    ) -> Float[Array, " bin"]:
        """Statistical uncertainty of a simulated histogram: the root of the sum of squared weights in each bin.

        It is what ``with_templates`` takes for ``(sample, "stat")``. Shares of an event count as in ``soft_histogram``,
        so that it tends to the uncertainty of the hard histogram as the bandwidth goes to 0. The derivative in a bin
        without events is 0. Arguments as in a call.
        """
        squared = jnp.ones_like(_as_float(scores)) if weights is None else jnp.asarray(weights) ** 2
        variance = self(scores, squared, bandwidth=bandwidth)
        filled = variance > 0
        return jnp.where(filled, jnp.sqrt(jnp.where(filled, variance, 1.0)), 0.0)


@partial(jax.jit, static_argnames=("mode", "outside"))
def _histogram(
    x: Float[Array, " event"],
    e: Float[Array, " edge"],
    w: Float[Array, " event"],
    h: Float[Array, ""],
    mode: str,
    outside: str,
) -> Float[Array, " bin"]:
    """Sums of the weights w times the shares of their events."""
    inside = ~((x < e[0]) | (x > e[-1]))  # true for NaN, which has to show
    if outside == "drop":
        # Dropped events are moved into the range before the kernel sees them: its derivative there would be 0 / 0.
        x, w = jnp.where(inside, x, e[0]), jnp.where(inside, w, 0)
    else:
        x = jnp.where(x < e[0], e[0], jnp.where(x > e[-1], e[-1], x))
    shares = _shares(x, e, _in_reach(h, e), mode)
    # Not in the short float formats that accelerators prefer for products.
    return jnp.einsum("n,nb->b", w, shares, precision=jax.lax.Precision.HIGHEST)


def _shares(
    x: Float[Array, " event"], e: Float[Array, " edge"], h: Float[Array, ""], mode: str
) -> Float[Array, "event bin"]:
    """Share of each event that falls into each bin; the rows sum to 1."""
    gap = e - x[:, None]
    far = jnp.abs(gap) > FAR * h
    # The inner where keeps gap / h**2, which may overflow, out of the derivative.
    z = jnp.where(far, jnp.sign(gap) * FAR, jnp.where(far, 0, gap) / h)
    mass = _gaussian_mass(z) if mode == "kde" else _logistic_mass(z, jnp.diff(e) / h)
    return mass / jnp.sum(mass, axis=1, keepdims=True)


def _gaussian_mass(z: Float[Array, "event edge"]) -> Float[Array, "event bin"]:
    """Normal probability between neighboring edges without cancellation, in the tails and near 0 alike."""
    central = 0.5 * jax.lax.erf(z * np.sqrt(0.5).astype(z.dtype))
    tail = 0.5 * jax.lax.erfc(jnp.abs(z) * np.sqrt(0.5).astype(z.dtype))
    left, right = z[:, :-1], z[:, 1:]
    in_tail = (left > 1) | (right < -1)
    return jnp.where(in_tail, jnp.abs(jnp.diff(tail, axis=1)), jnp.diff(central, axis=1))


def _logistic_mass(z: Float[Array, "event edge"], widths: Float[Array, " bin"]) -> Float[Array, "event bin"]:
    """Logistic probability between neighboring edges, as s(b) - s(a) = s(b) s(-a) (1 - exp(a - b))."""
    return jax.nn.sigmoid(z[:, 1:]) * jax.nn.sigmoid(-z[:, :-1]) * -jnp.expm1(-jnp.minimum(widths, FAR))


def _in_reach(h: Float[Array, ""], e: Float[Array, " edge"]) -> Float[Array, ""]:
    """The bandwidth, kept where neither it nor its inverse can overflow in a derivative."""
    eps = jnp.finfo(e.dtype).eps
    return jnp.clip(h, eps * jnp.min(jnp.diff(e)), (e[-1] - e[0]) / eps)


def _flatten(
    scores: ArrayLike | Sequence[float], weights: ArrayLike | Sequence[float] | None
) -> tuple[Float[Array, " event"], Float[Array, " event"], jnp.dtype]:
    """Scores and weights as vectors of the type to compute in, and the type of the result."""
    x = _as_float(scores)
    w = jnp.ones_like(x) if weights is None else jnp.asarray(weights)
    if w.shape != x.shape:
        raise ModelError(f"weights have shape {w.shape}, but the scores have shape {x.shape}")
    # Sums in half precision would stop growing after a few thousand events.
    compute = jnp.promote_types(x.dtype, jnp.float32)
    return x.reshape(-1).astype(compute), w.reshape(-1).astype(compute), x.dtype


def _as_float(values: ArrayLike | Sequence[float]) -> Array:
    """An array of floats; integers become the default float type."""
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ModelError(f"a histogram needs real numbers, not {array.dtype}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def check_options(mode: str, outside: str) -> None:
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise ModelError(f"mode has to be 'kde' or 'sigmoid', not {mode!r}")
    if not isinstance(outside, str) or outside not in get_args(Outside):
        raise ModelError(f"outside has to be 'drop' or 'clip', not {outside!r}")


def _check_edges(edges: ArrayLike | Sequence[float], dtype: jnp.dtype) -> None:
    shape = np.shape(edges)
    if len(shape) != 1 or shape[0] < 2:
        raise ModelError(f"edges have to be a vector of at least 2 numbers, but have shape {shape}")
    values = _concrete(edges)
    if values is None:
        return
    if not np.all(np.isfinite(values)):
        raise ModelError(f"edges have to be finite, but edge {int(np.argmin(np.isfinite(values)))} is not")
    steps = np.diff(values.astype(dtype))  # edges may differ in float64 and coincide in float32
    if not np.all(steps > 0):
        first = int(np.argmin(steps > 0))
        raise ModelError(
            f"edges have to increase, but edge {first + 1} ({values[first + 1]:g}) is not above edge {first} "
            f"({values[first]:g}) in {jnp.dtype(dtype).name}"
        )


def _check_bandwidth(bandwidth: ArrayLike | None) -> None:
    if bandwidth is None:
        return
    if np.shape(bandwidth) != ():
        raise ModelError(f"bandwidth has to be one number, but has shape {np.shape(bandwidth)}")
    value = _concrete(bandwidth)
    if value is not None and not (value > 0 and np.isfinite(value)):
        raise ModelError(f"bandwidth has to be positive and finite, not {value:g}")


def _concrete(values: ArrayLike | Sequence[float]) -> npt.NDArray[np.float64] | None:
    """The numbers, or None where they are not known before the function runs."""
    try:
        return np.asarray(values, dtype=np.float64)
    except jax.errors.TracerArrayConversionError:
        return None
