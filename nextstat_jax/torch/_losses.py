"""The profiled losses of ``nextstat_jax`` for torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import torch

from .._base._errors import ModelError
from .._model._model import HistFactoryModel
from .._training import _sessions as losses
from .._training._sessions import Session, check_template
from ._bridge import Tensors, apply, require_device, to_jax

Histogram = Any


def as_tensor(x: Any, *, device: Any = None) -> torch.Tensor:
    """A tensor of numbers of any origin, without a copy where that can be.

    Args:
        x: A tensor (returned as it is), anything with ``__dlpack__`` (JAX, CuPy, NumPy arrays; memory is shared: JAX
            takes its arrays for immutable, so do not write to the tensor), lists, or numbers. Python numbers become
            float64, as the models have.
        device: Where it has to be; where it is by default.

    Raises:
        ModelError: For what has no numbers.
    """
    if isinstance(x, torch.Tensor):
        tensor = x
    elif isinstance(x, np.ndarray):
        # A read-only array cannot be shared: torch may write to what it has.
        tensor = torch.from_numpy(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
    elif hasattr(x, "__dlpack__"):
        tensor = torch.from_dlpack(x)
    else:
        try:
            tensor = torch.as_tensor(np.asarray(x, dtype=np.float64))
        except (TypeError, ValueError):
            raise ModelError(f"{x!r:.60} is not made of numbers: give a tensor, an array or a list") from None
    return tensor if device is None else tensor.to(device)


def create_session(
    model: HistFactoryModel, sample: str = "signal", data: Any = None, *, device: Any = "auto"
) -> Session:
    """A session for ``nll_loss`` and the profiled losses; see ``nextstat_jax.create_session``.

    Args:
        model: The model.
        sample: Name of the sample whose yields the losses replace.
        data: None or ``"observed"``, ``"asimov"``, or numbers (a tensor too).
        device: Where the model's arrays are kept: a torch device, or ``"auto"`` for that of the histograms.

    Raises:
        ModelError: If there is no such sample, for data of a wrong shape, or a device that JAX does not have.
    """
    return _kept(losses.create_session(model, sample, _numbers(data)), device)


def _numbers(data: Any) -> Any:
    """Data as JAX takes them."""
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data


def _kept(tree: Any, device: Any) -> Any:
    """A session or a loss with its arrays on a device."""
    return tree if device == "auto" else jax.device_put(tree, require_device(torch.device(device)))


def create_profiled_session(
    model: HistFactoryModel, sample: str = "signal", data: Any = None, *, device: Any = "auto"
) -> Session:
    """A session for the profiled losses: as ``create_session``, for a model with a parameter of interest."""
    if isinstance(model, HistFactoryModel):
        model.require_poi()
    return create_session(model, sample, data, device=device)


def nll_loss(signal_histogram: Histogram, session: Any, params: Any = None) -> torch.Tensor:
    """NLL at given parameters (the initial ones by default), with the histogram in place of the session's sample.

    Args:
        signal_histogram: Yields, a tensor of shape (session.n_bins,) or with axes of batches before that, or a mapping
            of templates as ``HistFactoryModel.with_templates`` takes it.
        session: From ``create_session``.
        params: Shape (n_params,), a tensor or numbers.

    Returns:
        Scalar tensor, or one for each histogram; differentiable in histogram and parameters.

    Raises:
        ModelError: For a wrong number of bins, NaN, negative yields, or a device that JAX does not have. So for all
            losses here.
    """
    return _evaluate(losses.nll_loss, signal_histogram, session, () if params is None else (params,), ndim=1)


def profiled_q0_loss(signal_histogram: Histogram, session: Any) -> torch.Tensor:
    """``q0`` with the histogram in place of the session's sample and everything else profiled; see ``nll_loss``.

    References:
        arXiv:1007.1727, equation 12.
    """
    return _evaluate(losses.profiled_q0_loss, signal_histogram, session)


def profiled_z0_loss(signal_histogram: Histogram, session: Any, eps: float = 1e-12) -> torch.Tensor:
    """``sqrt(q0 + eps)``: the discovery significance, with a gradient that stays finite at q0 = 0."""
    return torch.sqrt(profiled_q0_loss(signal_histogram, session) + eps)


def profiled_qmu_loss(signal_histogram: Histogram, session: Any, mu: Any = 1.0) -> torch.Tensor:
    """``qmu_tilde`` at ``mu`` (a number or a scalar tensor); otherwise as ``profiled_q0_loss``.

    References:
        arXiv:1007.1727, equation 16.
    """
    return _evaluate(losses.profiled_qmu_loss, signal_histogram, session, (mu,))


def profiled_zmu_loss(signal_histogram: Histogram, session: Any, mu: Any = 1.0, eps: float = 1e-12) -> torch.Tensor:
    """``sqrt(qmu_tilde + eps)``: by how many standard deviations ``mu`` is excluded."""
    return torch.sqrt(profiled_qmu_loss(signal_histogram, session, mu) + eps)


def batch_profiled_q0_loss(signal_histograms: Any, session: Any) -> torch.Tensor:
    """``profiled_q0_loss`` of many histograms in one vectorized call.

    Args:
        signal_histograms: Shape (batch, n_bins), or a sequence of histograms.
        session: From ``create_profiled_session``.

    Returns:
        Shape (batch,).
    """
    return profiled_q0_loss(_stacked(signal_histograms, session), session)


def batch_profiled_qmu_loss(signal_histogram: Any, session: Any, mu_values: Any) -> torch.Tensor:
    """``profiled_qmu_loss`` of one or many histograms and one or many values of mu, in one vectorized call.

    Args:
        signal_histogram: Shape (n_bins,), or (batch, n_bins), or a sequence of histograms.
        session: From ``create_profiled_session``.
        mu_values: Tested values, shape (batch,), or one number.

    Returns:
        Shape (batch,).
    """
    histogram = signal_histogram
    if not (isinstance(histogram, torch.Tensor) and histogram.ndim == 1):
        histogram = _stacked(histogram, session)
    mu = as_tensor(mu_values)
    if mu.ndim > 1 or (mu.ndim and histogram.ndim > 1 and len(mu) != len(histogram)):
        raise ModelError(
            f"mu_values have shape {tuple(mu.shape)}, the histograms {tuple(histogram.shape)}: one for each"
        )
    return _evaluate(losses.profiled_qmu_loss, histogram, session, (mu.to(histogram.device),))


def signal_jacobian(signal_histogram: Histogram, session: Any) -> torch.Tensor:
    """dq0 / d(yield) in each bin, without autograd.

    Args:
        signal_histogram: Shape (n_bins,), or (batch, n_bins).
        session: From ``create_profiled_session``.

    Returns:
        Shape of the histogram, detached.
    """
    histogram = as_tensor(signal_histogram).detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(profiled_q0_loss(histogram, session).sum(), histogram)[0]


def signal_jacobian_numpy(signal_histogram: Histogram, session: Any) -> np.ndarray:
    """``signal_jacobian`` as a NumPy array, for optimizers that know no tensors."""
    return signal_jacobian(signal_histogram, session).cpu().numpy()


class SignificanceLoss(torch.nn.Module):
    """A statistical test of a signal histogram as a loss, in place of cross-entropy: ``-Z0`` unless told otherwise.

    Called with a tensor of shape (n_bins,); with one of shape (batch, n_bins) for a loss of each; or with a mapping of
    templates, so that backgrounds and systematic variations may depend on the network as well. Any float type is
    accepted; the test is computed in the model's, and gradients come back in the tensor's own. Events of a batch of
    training data stand for all: scale the histogram to the expected yield.

    Args:
        model: The model.
        sample: Name of the signal sample.
        data: None or ``"observed"``: the model's data; ``"asimov"``: what the templates themselves predict; or numbers.
        objective: ``"z0"``, ``"q0"``, ``"limit"``, ``"cls"`` or ``"uncertainty"``: see the JAX loss.
        negate: Whether to return what a training minimizes, or its negative.
        eps: Added to q0 inside the root of ``"z0"``, so that the gradient at q0 = 0 is finite.
        mu: Tested value for ``"cls"``.
        level: One minus the confidence level of ``"limit"``.
        device: As in ``create_session``.

    Raises:
        ModelError: For a sample that does not exist, or options out of range.

    Example:
        >>> import nextstat_jax, torch
        >>> from nextstat_jax.demo._workspace import demo_workspace
        >>> from nextstat_jax.torch import SignificanceLoss
        >>> loss = SignificanceLoss(nextstat_jax.from_pyhf(demo_workspace()), "signal", data="asimov")
        >>> histogram = torch.full((loss.n_bins,), 3.0, dtype=torch.float64, requires_grad=True)
        >>> loss(histogram).backward()
        >>> histogram.grad.shape == (loss.n_bins,)
        True
    """

    def __init__(
        self,
        model: HistFactoryModel,
        sample: str = "signal",
        data: Any = None,
        *,
        device: Any = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self._loss = _kept(losses.SignificanceLoss(model, sample, _numbers(data), **options), device)

    @property
    def session(self) -> Session:
        """The session behind the loss."""
        return self._loss.session

    @property
    def n_bins(self) -> int:
        """Length of the histogram."""
        return self._loss.n_bins

    @property
    def n_params(self) -> int:
        """Number of parameters of the model."""
        return self._loss.n_params

    def warm_start(self, signal_histogram: Histogram) -> None:
        """Lets the inner fits start where that of this histogram ends; see ``nextstat_jax.warm_start``.

        Call it every few steps: it costs one fit, and changes no loss and no gradient beyond rounding.
        """
        with torch.no_grad():
            start = _evaluate(_start, signal_histogram, self._loss)
        self._loss = self._loss.with_session(replace(self._loss.session, start=to_jax(start)))

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        loss = self._loss
        return f"sample={loss.session.sample!r}, objective={loss.objective!r}, data={loss.session.data_kind!r}"

    def forward(self, signal_histogram: Histogram) -> torch.Tensor:
        """The loss: a scalar, or one for each histogram."""
        return _evaluate(_loss, signal_histogram, self._loss)

    def metric(self, signal_histogram: Histogram) -> torch.Tensor:
        """The objective itself: Z0, q0, limit, CLs or uncertainty."""
        return _evaluate(_metric, signal_histogram, self._loss)

    def q0(self, signal_histogram: Histogram) -> torch.Tensor:
        """The discovery test statistic of the histogram."""
        return _evaluate(_q0, signal_histogram, self._loss)

    def z0(self, signal_histogram: Histogram) -> torch.Tensor:
        """The discovery significance of the histogram."""
        return _evaluate(_z0, signal_histogram, self._loss)


def _start(templates: Histogram, loss: losses.SignificanceLoss) -> jax.Array:
    start = losses.warm_start(loss.session, templates).start
    assert start is not None
    return start


def _loss(templates: Histogram, loss: losses.SignificanceLoss) -> jax.Array:
    return loss(templates)


def _metric(templates: Histogram, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.metric(templates)


def _q0(templates: Histogram, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.q0(templates)


def _z0(templates: Histogram, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.z0(templates)


@dataclass(frozen=True)
class _Program:
    """A loss as the bridge wants it: a function of arrays, and of a session with further arguments.

    Attributes:
        loss: Takes templates, the session (or the loss of JAX), and further arguments.
        keys: Of the templates; None for a single histogram.
        extra: For each further argument whether it is a tensor.
        ndim: Axes of each array in one call; those before are batches.
    """

    loss: Callable[..., jax.Array]
    keys: tuple[Any, ...] | None
    extra: tuple[bool, ...]

    def __call__(self, arrays: tuple[jax.Array, ...], constants: Any) -> jax.Array:
        """The loss of one set of arrays."""
        session, fixed, given = constants
        source = iter(arrays)
        if self.keys is None:
            templates = next(source)
        else:
            templates = {key: given[k] if k in given else next(source) for k, key in enumerate(self.keys)}
        rest = iter(fixed)
        return self.loss(templates, session, *(next(source) if tensor else next(rest) for tensor in self.extra))


def _evaluate(
    loss: Callable[..., jax.Array],
    histogram: Histogram,
    session: Any,
    extra: Sequence[Any] = (),
    ndim: int = 0,
) -> torch.Tensor:
    """A loss of templates, a session and further arguments, each of them batched or not.

    Args:
        loss: Of JAX.
        histogram: As the user gave it.
        session: A ``Session``, or a loss of JAX.
        extra: Further arguments.
        ndim: Axes of a further argument in one call.
    """
    if not isinstance(session, Session | losses.SignificanceLoss):
        raise ModelError(f"expected a session from create_profiled_session, not {type(session).__name__}")
    if isinstance(histogram, Mapping):
        keys, values = tuple(histogram), tuple(histogram.values())
    else:
        keys, values = None, (as_tensor(histogram),)
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    given = {k: v for k, v in enumerate(values) if not isinstance(v, torch.Tensor)}
    names = [key for key, v in zip(keys or (_sample(session),), values, strict=True) if isinstance(v, torch.Tensor)]
    for key, tensor in zip(names, tensors, strict=True):
        if tensor.is_complex():
            raise ModelError(f"template {key!r} is of {tensor.dtype}: expected real numbers")
    is_tensor = tuple(isinstance(x, torch.Tensor) for x in extra)
    more = [x for x in extra if isinstance(x, torch.Tensor)]
    if not tensors and not more:
        raise ModelError("none of the templates is a torch tensor: use the loss of nextstat_jax itself")
    device = (tensors or more)[0].device
    constants = (_placed(session, device), tuple(x for x in extra if not isinstance(x, torch.Tensor)), given)
    axes = _batch_axes(tensors, more, ndim)

    def check(plain: Tensors) -> None:
        for key, tensor in zip(names, plain, strict=False):
            _check_values(key, tensor)

    return apply(_Program(loss, keys, is_tensor), (*tensors, *more), constants, check, axes)


def _batch_axes(
    templates: Sequence[torch.Tensor], more: Sequence[torch.Tensor], ndim: int
) -> tuple[tuple[int | None, ...], ...]:
    """Levels of ``vmap`` for tensors with axes of batches before their own."""
    depths = [max(t.ndim - 1, 0) for t in templates] + [max(t.ndim - ndim, 0) for t in more]
    levels = max(depths, default=0)
    if not levels:
        return ()
    shapes = {tuple(t.shape[:depth]) for t, depth in zip((*templates, *more), depths, strict=True) if depth == levels}
    if len(shapes) > 1:
        raise ModelError(f"the batches have different shapes: {', '.join(map(str, sorted(shapes)))}")
    # From the inside out; a tensor without that axis is shared by the batch.
    return tuple(tuple(0 if depth > level else None for depth in depths) for level in range(levels))


def _sample(session: Any) -> str:
    return session.sample if isinstance(session, Session) else session.session.sample


def _check_values(key: Any, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = torch.aminmax(tensor.detach())
    # NaN fails every comparison.
    if not (float(low) >= 0 and float(high) < float("inf")):
        check_template(key, tensor.detach().cpu().double().numpy())


def _stacked(histograms: Any, session: Any) -> torch.Tensor:
    if isinstance(histograms, list | tuple) and histograms and isinstance(histograms[0], torch.Tensor):
        shapes = {tuple(h.shape) for h in histograms}
        if len(shapes) > 1:
            raise ModelError(f"the histograms have different shapes: {', '.join(map(str, sorted(shapes)))}")
        histograms = torch.stack(list(histograms))
    stacked = as_tensor(histograms)
    if stacked.ndim != 2:
        expected = f"(batch, {session.n_bins})" if isinstance(session, Session) else "(batch, n_bins)"
        raise ModelError(f"the histograms have shape {tuple(stacked.shape)}, expected {expected}")
    return stacked


# Copies of sessions on other devices than JAX's own choice, by identity, since a session holds arrays and has no hash.
_COPIES: dict[tuple[int, torch.device], Any] = {}


def _placed(session: Any, device: torch.device) -> Any:
    """The session on the device of the tensors, moved there once."""
    wanted = require_device(device)
    if device.type == "cpu" and jax.default_backend() == "cpu":
        return session
    leaf = jax.tree.leaves(session)[0]
    if leaf.devices() == {wanted}:
        return session
    key = (id(session), device)
    if key not in _COPIES:
        _COPIES[key] = jax.device_put(session, wanted)
        weakref.finalize(session, _COPIES.pop, key, None)
    return _COPIES[key]
