"""The profiled losses of ``nextstat_jax`` for torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import torch

from .._base._checked import a_real
from .._base._doors import no_type_check
from .._base._errors import ModelError
from .._model._base import Model
from .._model._model import HistFactoryModel
from .._training import _sessions as losses
from .._training._objectives import EPS
from .._training._sessions import Session
from ._bridge import require_device, to_jax
from ._evaluate import Device, Histogram, Numbers, as_tensor, device_of, evaluate


@no_type_check
def create_session(
    model: HistFactoryModel, sample: str = "signal", *, data: Numbers | str | None = None, device: Device = "auto"
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
    return _kept(losses.create_session(model, sample, data=_numbers(data)), device)


def _numbers(data: Any) -> Any:
    """Data as JAX takes them."""
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data


def _kept(tree: Any, device: Any) -> Any:
    """A session or a loss with its arrays on a device."""
    if isinstance(device, str) and device == "auto":
        return tree
    return jax.device_put(tree, require_device(device_of(device)))


@no_type_check
def create_profiled_session(
    model: HistFactoryModel, sample: str = "signal", *, data: Numbers | str | None = None, device: Device = "auto"
) -> Session:
    """A session for the profiled losses: as ``create_session``, for a model with a parameter of interest."""
    if isinstance(model, Model):
        model.require_poi()
    return create_session(model, sample, data=data, device=device)


@no_type_check
def nll_loss(signal_histogram: Histogram, session: Session, params: Numbers | None = None) -> torch.Tensor:
    """NLL at given parameters (the initial ones by default), with the histogram in place of the session's sample.

    Args:
        signal_histogram: Yields, a tensor of shape (session.n_bins,) or with axes of batches before that, or a mapping
            of templates as ``HistFactoryModel.with_templates`` takes it.
        session: From ``create_session``.
        params: Shape (n_params,), a tensor or numbers.

    Returns:
        Scalar tensor, or one for each histogram; differentiable in histogram and parameters.

    Raises:
        ModelError: For what is no session, a wrong number of bins, NaN, negative yields, or a device that JAX does not
            have. So for all losses here.
    """
    return evaluate(losses.nll_loss, signal_histogram, session, () if params is None else (params,), ndim=1)


@no_type_check
def profiled_q0_loss(signal_histogram: Histogram, session: Session) -> torch.Tensor:
    """``q0`` with the histogram in place of the session's sample and everything else profiled; see ``nll_loss``.

    References:
        arXiv:1007.1727, equation 12.
    """
    return evaluate(losses.profiled_q0_loss, signal_histogram, session)


@no_type_check
def profiled_z0_loss(signal_histogram: Histogram, session: Session, eps: float = EPS) -> torch.Tensor:
    """``sqrt(q0 + eps)``: the discovery significance, with a gradient that stays finite at q0 = 0."""
    return _root(profiled_q0_loss(signal_histogram, session), eps)


@no_type_check
def profiled_qmu_tilde_loss(signal_histogram: Histogram, session: Session, mu: Numbers = 1.0) -> torch.Tensor:
    """``qmu_tilde`` at ``mu`` (a number or a scalar tensor), for a signal that cannot be negative; see ``nll_loss``.

    References:
        arXiv:1007.1727, equation 16.
    """
    return evaluate(losses.profiled_qmu_tilde_loss, signal_histogram, session, (mu,))


@no_type_check
def profiled_zmu_tilde_loss(
    signal_histogram: Histogram, session: Session, mu: Numbers = 1.0, eps: float = EPS
) -> torch.Tensor:
    """``sqrt(qmu_tilde + eps)``: by how many standard deviations ``mu`` is excluded, for a signal not negative."""
    return _root(profiled_qmu_tilde_loss(signal_histogram, session, mu), eps)


@no_type_check
def profiled_qmu_loss(signal_histogram: Histogram, session: Session, mu: Numbers = 1.0) -> torch.Tensor:
    """The tilde statistic ``qmu_tilde`` at ``mu``, as ``profiled_qmu_tilde_loss``; not ``profiled_qmu_plain_loss``."""
    return profiled_qmu_tilde_loss(signal_histogram, session, mu)


@no_type_check
def profiled_zmu_loss(
    signal_histogram: Histogram, session: Session, mu: Numbers = 1.0, eps: float = EPS
) -> torch.Tensor:
    """The root of the tilde statistic, ``sqrt(qmu_tilde + eps)``, as ``profiled_zmu_tilde_loss``."""
    return profiled_zmu_tilde_loss(signal_histogram, session, mu, eps)


@no_type_check
def profiled_qmu_plain_loss(signal_histogram: Histogram, session: Session, mu: Numbers = 1.0) -> torch.Tensor:
    """The plain ``qmu`` at ``mu``, without the bound of ``qmu_tilde`` at 0; see ``nextstat_jax``'s loss of that name.

    References:
        arXiv:1007.1727, equation 14.
    """
    return evaluate(losses.profiled_qmu_plain_loss, signal_histogram, session, (mu,))


@no_type_check
def profiled_zmu_plain_loss(
    signal_histogram: Histogram, session: Session, mu: Numbers = 1.0, eps: float = EPS
) -> torch.Tensor:
    """``sqrt(qmu + eps)``, the root of the plain statistic: see ``profiled_qmu_plain_loss``."""
    return _root(profiled_qmu_plain_loss(signal_histogram, session, mu), eps)


def _small(eps: Any) -> float:
    if a_real(eps, "eps", ModelError) < 0:
        raise ModelError(f"eps={eps!r:.60}: expected a number that is not negative")
    return eps


def _root(q: torch.Tensor, eps: float) -> torch.Tensor:
    """``sqrt(q + eps)``, with derivative 0 where that is 0."""
    x = q + _small(eps)
    zero = x <= 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))


@no_type_check
def batch_profiled_q0_loss(signal_histograms: Numbers, session: Session) -> torch.Tensor:
    """``profiled_q0_loss`` of many histograms in one vectorized call.

    Args:
        signal_histograms: Shape (batch, n_bins), or a sequence of histograms.
        session: From ``create_profiled_session``.

    Returns:
        Shape (batch,).
    """
    return profiled_q0_loss(_stacked(signal_histograms, session), session)


@no_type_check
def batch_profiled_qmu_tilde_loss(signal_histogram: Numbers, session: Session, mu_values: Numbers) -> torch.Tensor:
    """``profiled_qmu_tilde_loss`` of one or many histograms and one or many values of mu, in one vectorized call.

    Args:
        signal_histogram: Shape (n_bins,), or (batch, n_bins), or a sequence of histograms.
        session: From ``create_profiled_session``.
        mu_values: Tested values, shape (batch,), or one number.

    Returns:
        Shape (batch,).
    """
    return _batch_of_tests(losses.profiled_qmu_tilde_loss, signal_histogram, session, mu_values)


@no_type_check
def batch_profiled_qmu_loss(signal_histogram: Numbers, session: Session, mu_values: Numbers) -> torch.Tensor:
    """The tilde statistic of one or many histograms and values of mu, as ``batch_profiled_qmu_tilde_loss``."""
    return batch_profiled_qmu_tilde_loss(signal_histogram, session, mu_values)


@no_type_check
def batch_profiled_qmu_plain_loss(signal_histogram: Numbers, session: Session, mu_values: Numbers) -> torch.Tensor:
    """``profiled_qmu_plain_loss`` of many; arguments as in ``batch_profiled_qmu_tilde_loss``."""
    return _batch_of_tests(losses.profiled_qmu_plain_loss, signal_histogram, session, mu_values)


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


def _batch_of_tests(loss: Callable[..., jax.Array], histogram: Any, session: Any, mu_values: Any) -> torch.Tensor:
    if not (isinstance(histogram, torch.Tensor) and histogram.ndim == 1):
        histogram = _stacked(histogram, session)
    mu = as_tensor(mu_values)
    if mu.ndim > 1 or (mu.ndim and histogram.ndim > 1 and len(mu) != len(histogram)):
        raise ModelError(
            f"mu_values have shape {tuple(mu.shape)}, the histograms {tuple(histogram.shape)}: one for each"
        )
    return evaluate(loss, histogram, session, (mu.to(histogram.device),))


@no_type_check
def signal_jacobian(signal_histogram: Numbers, session: Session) -> torch.Tensor:
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


@no_type_check
def signal_jacobian_numpy(signal_histogram: Numbers, session: Session) -> np.ndarray:
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
        device: As in ``create_session``.
        **options: ``objective``, ``negate``, ``eps``, ``mu`` and ``level`` of ``nextstat_jax.SignificanceLoss``, which
            has the same names and defaults.

    Raises:
        ModelError: For a sample that does not exist, or options out of range.

    Example:
        >>> import nextstat_jax, torch
        >>> from nextstat_jax import example_workspace
        >>> from nextstat_jax.torch import SignificanceLoss
        >>> loss = SignificanceLoss(nextstat_jax.from_pyhf(example_workspace()), "signal", data="asimov")
        >>> histogram = torch.full((loss.n_bins,), 3.0, dtype=torch.float64, requires_grad=True)
        >>> loss(histogram).backward()
        >>> histogram.grad.shape == (loss.n_bins,)
        True
    """

    @no_type_check
    def __init__(
        self,
        model: HistFactoryModel,
        sample: str = "signal",
        *,
        data: Numbers | str | None = None,
        device: Device = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self._loss = _kept(losses.SignificanceLoss(model, sample, data=_numbers(data), **options), device)

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

    @no_type_check
    def warm_start(self, signal_histogram: Histogram) -> None:
        """Lets the inner fits start where that of this histogram ends; see ``nextstat_jax.warm_start``.

        Call it every few steps: it costs one fit, and changes no loss and no gradient beyond rounding.
        """
        with torch.no_grad():
            start = evaluate(_start, signal_histogram, self._loss)
        self._loss = self._loss.with_session(replace(self._loss.session, start=to_jax(start)))

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        loss = self._loss
        return f"sample={loss.session.sample!r}, objective={loss.objective!r}, data={loss.session.data_kind!r}"

    @no_type_check
    def forward(self, signal_histogram: Histogram) -> torch.Tensor:
        """The loss: a scalar, or one for each histogram."""
        return evaluate(_loss, signal_histogram, self._loss)

    @no_type_check
    def metric(self, signal_histogram: Histogram) -> torch.Tensor:
        """The objective itself: Z0, q0, limit, CLs, ..."""
        return evaluate(_metric, signal_histogram, self._loss)

    @no_type_check
    def q0(self, signal_histogram: Histogram) -> torch.Tensor:
        """The discovery test statistic of the histogram."""
        return evaluate(_q0, signal_histogram, self._loss)

    @no_type_check
    def z0(self, signal_histogram: Histogram) -> torch.Tensor:
        """The discovery significance of the histogram."""
        return evaluate(_z0, signal_histogram, self._loss)


def _start(templates: Any, loss: losses.SignificanceLoss) -> jax.Array:
    start = losses.warm_start(loss.session, templates).start
    assert start is not None
    return start


def _loss(templates: Any, loss: losses.SignificanceLoss) -> jax.Array:
    return loss(templates)


def _metric(templates: Any, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.metric(templates)


def _q0(templates: Any, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.q0(templates)


def _z0(templates: Any, loss: losses.SignificanceLoss) -> jax.Array:
    return loss.z0(templates)
