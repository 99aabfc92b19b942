"""Soft histograms and their helpers in plain torch, since batches of events change their shape from step to step."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from jax.typing import ArrayLike

from .._base._checked import a_real
from .._base._doors import integer, no_type_check
from .._base._errors import ModelError
from .._training._shaping import MIN_FRACTION, check_minimum, check_range
from .._training._soft_histogram import DEFAULT_BANDWIDTH, FAR, check_options
from ._evaluate import as_tensor


class SoftHistogram(torch.nn.Module):
    """Histogram of scores in which each event is shared among the bins by a smooth kernel.

    The same function as ``nextstat_jax.soft_histogram``, whose documentation has the formula, in operations of torch:
    nothing is compiled anew when the number of events changes.

    Args:
        bin_edges: Shape (bins + 1,), finite and increasing; or a module that returns them, such as ``MonotoneEdges``.
        bandwidth: Width of the kernel in the units of the scores; a quarter of the narrowest bin by default.
        mode: ``"kde"`` (Gaussian kernel) or ``"sigmoid"`` (logistic kernel).
        outside: ``"drop"`` ignores events outside the edges, ``"clip"`` moves them onto the nearest edge.

    Raises:
        ModelError: For shapes, numbers or options that cannot be meant.

    Example:
        >>> import torch
        >>> histogram = SoftHistogram(bin_edges=torch.linspace(0, 1, 5))
        >>> histogram(torch.tensor([0.1, 0.4, 0.6])).sum()
        tensor(3.)
    """

    bin_edges: Any

    @no_type_check
    def __init__(
        self,
        bin_edges: torch.Tensor | ArrayLike | Sequence[float] | torch.nn.Module,
        bandwidth: torch.Tensor | float | None = None,
        mode: str = "kde",
        outside: str = "drop",
    ) -> None:
        super().__init__()
        check_options(mode, outside)
        if not isinstance(bin_edges, torch.nn.Module):
            edges = as_tensor(bin_edges)
            edges = edges.detach() if edges.is_floating_point() else edges.to(torch.get_default_dtype())
            _check_edges(edges)
            self.register_buffer("bin_edges", edges.clone())
        else:
            self.bin_edges = bin_edges
        if bandwidth is not None:
            _check_bandwidth(bandwidth)
        self.bandwidth = bandwidth
        self.mode = mode
        self.outside = outside

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        bins = "learnable edges" if isinstance(self.bin_edges, torch.nn.Module) else f"bins={len(self.bin_edges) - 1}"
        return f"{bins}, bandwidth={self.bandwidth}, mode={self.mode!r}, outside={self.outside!r}"

    @no_type_check
    def forward(
        self,
        scores: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        bandwidth: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """Sums of weights in each bin.

        Args:
            scores: Any shape and float type, on the device of the edges.
            weights: Shape of the scores; 1 for each event if not given.
            bandwidth: Overrules that of the module, for a schedule.

        Returns:
            Shape (bins,), in the type of the scores.
        """
        x, w, dtype = _flatten(scores, weights)
        e = self.edges(x)
        h = self._width(e, bandwidth)
        inside = ~((x < e[0]) | (x > e[-1]))  # true for NaN, which has to show
        if self.outside == "drop":
            x, w = torch.where(inside, x, e[0]), torch.where(inside, w, torch.zeros_like(w))
        else:
            x = torch.where(x < e[0], e[0], torch.where(x > e[-1], e[-1], x))
        return (w @ _shares(x, e, h, self.mode)).to(dtype)

    @no_type_check
    def uncertainty(
        self,
        scores: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        bandwidth: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """Root of the sum of squared weights in each bin, as a staterror's template ``(sample, "stat")`` needs it.

        The derivative in a bin without events is 0. Arguments as in ``forward``.
        """
        squared = torch.ones_like(scores) if weights is None else weights**2
        variance = self(scores, squared, bandwidth=bandwidth)
        filled = variance > 0
        return torch.where(filled, torch.sqrt(torch.where(filled, variance, torch.ones_like(variance))), 0.0)

    def edges(self, like: torch.Tensor) -> torch.Tensor:
        """The edges in the type of a tensor."""
        edges = self.bin_edges() if isinstance(self.bin_edges, torch.nn.Module) else self.bin_edges
        if edges.device != like.device:
            raise ModelError(
                f"the scores are on {like.device} and the edges on {edges.device}: move the module with .to()"
            )
        return edges.to(like.dtype)

    def _width(self, e: torch.Tensor, bandwidth: Any) -> torch.Tensor:
        given = self.bandwidth if bandwidth is None else bandwidth
        if bandwidth is not None:
            _check_bandwidth(bandwidth)
        widths = torch.diff(e)
        h = (
            DEFAULT_BANDWIDTH * widths.min()
            if given is None
            else torch.as_tensor(given, dtype=e.dtype, device=e.device)
        )
        eps = torch.finfo(e.dtype).eps
        return torch.minimum(torch.maximum(h, eps * widths.min()), (e[-1] - e[0]) / eps)


def _flatten(scores: Any, weights: Any) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    if not isinstance(scores, torch.Tensor) or not scores.is_floating_point():
        kind = scores.dtype if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ModelError(f"the scores have to be a tensor of floats, not {kind}")
    w = torch.ones_like(scores) if weights is None else torch.as_tensor(weights, device=scores.device)
    if w.shape != scores.shape:
        raise ModelError(f"weights have shape {tuple(w.shape)}, but the scores have shape {tuple(scores.shape)}")
    # Sums in half precision would stop growing after a few thousand events.
    compute = torch.promote_types(scores.dtype, torch.float32)
    return scores.reshape(-1).to(compute), w.reshape(-1).to(compute), scores.dtype


def _shares(x: torch.Tensor, e: torch.Tensor, h: torch.Tensor, mode: str) -> torch.Tensor:
    gap = e - x[:, None]
    far = gap.abs() > FAR * h
    # The inner where keeps gap / h**2, which may overflow, out of the derivative.
    z = torch.where(far, torch.sign(gap) * FAR, torch.where(far, torch.zeros_like(gap), gap) / h)
    mass = _gaussian_mass(z) if mode == "kde" else _logistic_mass(z, torch.diff(e) / h)
    return mass / mass.sum(dim=1, keepdim=True)


def _gaussian_mass(z: torch.Tensor) -> torch.Tensor:
    central = 0.5 * torch.erf(z * math.sqrt(0.5))
    tail = 0.5 * torch.erfc(z.abs() * math.sqrt(0.5))
    left, right = z[:, :-1], z[:, 1:]
    in_tail = (left > 1) | (right < -1)
    return torch.where(in_tail, torch.diff(tail, dim=1).abs(), torch.diff(central, dim=1))


def _logistic_mass(z: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(z[:, 1:]) * torch.sigmoid(-z[:, :-1]) * -torch.expm1(-torch.clamp(widths, max=FAR))


def _check_edges(edges: torch.Tensor) -> None:
    if edges.ndim != 1 or edges.shape[0] < 2:
        raise ModelError(f"edges have to be a vector of at least 2 numbers, but have shape {tuple(edges.shape)}")
    if not bool(torch.isfinite(edges).all()) or not bool((torch.diff(edges) > 0).all()):
        raise ModelError(f"edges have to be finite and increase: {[round(float(e), 6) for e in edges[:12]]}")


def _check_bandwidth(bandwidth: Any) -> None:
    if not isinstance(bandwidth, torch.Tensor | int | float) or isinstance(bandwidth, bool):
        raise ModelError(f"bandwidth has to be a number or a tensor of one, not {type(bandwidth).__name__}")
    if isinstance(bandwidth, torch.Tensor):
        if bandwidth.ndim:
            raise ModelError(f"bandwidth has to be one number, but has shape {tuple(bandwidth.shape)}")
        # Reading the value would make a GPU wait.
        return
    if not 0 < bandwidth <= sys.float_info.max:
        raise ModelError(f"bandwidth has to be positive and finite, not {bandwidth!r:.60}")


class MonotoneEdges(torch.nn.Module):
    """Learnable edges that stay in order: ``nextstat_jax.monotone_edges`` of a parameter.

    Args:
        n_bins: Number of bins; they start with equal widths.
        low: The first edge, which stays.
        high: The last edge, which stays.

    Raises:
        ModelError: For no bins, or an empty range.

    Example:
        >>> MonotoneEdges(4)()
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], grad_fn=<CatBackward0>)
    """

    @no_type_check
    def __init__(self, n_bins: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        check_range(a_real(low, "low", ModelError), a_real(high, "high", ModelError))
        integer(n_bins, "n_bins", 1, ModelError)
        self.raw = torch.nn.Parameter(torch.zeros(n_bins))
        self.low = float(low)
        self.high = float(high)

    def forward(self) -> torch.Tensor:
        """The edges, shape (n_bins + 1,)."""
        n = self.raw.shape[0]
        widths = (1.0 - MIN_FRACTION) * torch.softmax(self.raw, 0) + MIN_FRACTION / n
        inner = self.low + (self.high - self.low) * torch.cumsum(widths, 0)[:-1]
        ends = self.raw.new_tensor([self.low, self.high])
        return torch.cat([ends[:1], inner, ends[1:]])


@no_type_check
def guard_empty_bins(histogram: torch.Tensor, minimum: float) -> torch.Tensor:
    """``nextstat_jax.guard_empty_bins`` in torch: bins stay above 0, with a gradient that lets them fill again."""
    check_minimum(minimum)
    low = torch.where(histogram > minimum, torch.zeros_like(histogram), histogram)
    return torch.where(histogram > minimum, histogram, minimum * torch.exp(low / minimum - 1.0))
