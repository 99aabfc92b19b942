"""Differentiable losses of a signal histogram: what a training loop calls.

A session is a model with the name of the sample that a histogram replaces. Everything else that follows from the
histogram (constraint widths, Asimov data) follows differentiably.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .._base._doors import concrete
from .._base._errors import ModelError
from .._base._numerics import safe_sqrt
from .._inference._asymptotics import asymptotic_test
from .._inference._fit import fit
from .._inference._limits import upper_limit
from .._inference._profile import q0, qmu_tilde
from .._model._model import HistFactoryModel, as_data, require_model

Histogram = Any
_EPS = 1e-12


class Session(eqx.Module):
    """A model and the sample whose yields a loss replaces.

    Attributes:
        model: The model.
        sample: Name of the sample.
        data: Data of the test, shape (n_data,), or None: then ``data_kind`` says which.
        data_kind: ``"observed"`` (the model's), ``"asimov"`` (expected at mu = 1 with the given histogram) or
            ``"given"``.
        start: Where the inner fits start, shape (n_params,), or None for the initial parameters; see ``warm_start``.
    """

    model: HistFactoryModel
    data: Array | None
    start: Array | None
    sample: str = eqx.field(static=True)
    data_kind: str = eqx.field(static=True)

    @property
    def n_bins(self) -> int:
        """Length of the histogram: bins of all channels where the sample appears."""
        return self.model.template(self.sample).shape[0]

    @property
    def n_params(self) -> int:
        """Number of parameters of the model."""
        return self.model.n_params

    def model_with(self, signal_histogram: Histogram) -> HistFactoryModel:
        """The model with the histogram in place of the sample, or with all templates of a mapping."""
        templates = signal_histogram
        if not isinstance(templates, Mapping):
            templates = {self.sample: templates}
        for key, value in templates.items():
            _check_yields(key, value)
        return self.model.with_templates(templates)

    def data_of(self, model: HistFactoryModel, mu: float = 1.0) -> Array | None:
        """The data of the test for a model that ``model_with`` made; Asimov data are those of ``mu``."""
        return model.asimov_data(mu=mu) if self.data_kind == "asimov" else self.data


def _check_yields(key: Any, value: Any) -> None:
    if not all(map(concrete, jax.tree.leaves(value))):
        return
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return  # refused, with its place, where it is put into the model
    check_template(key, numbers)


def check_template(key: Any, values: np.ndarray) -> None:
    """``ModelError`` where a template that a loss is asked of holds NaN, infinity or a negative number."""
    if values.dtype.kind not in "fiub" or (np.isfinite(values).all() and (values >= 0).all()):
        return
    flat = values.reshape(-1)
    first = int(np.argmax(~(np.isfinite(flat) & (flat >= 0))))
    where = f"template {key!r} is {flat[first]:g} in bin {first % values.shape[-1] if values.ndim else 0}"
    if not np.isfinite(flat[first]):
        raise ModelError(f"{where}: not finite")
    raise ModelError(f"{where}: yields of a loss cannot be negative; guard_empty_bins lifts them above 0")


def create_session(model: HistFactoryModel, sample: str = "signal", data: Any = None) -> Session:
    """A session for ``nll_loss`` and the profiled losses.

    Args:
        model: The model.
        sample: Name of the sample whose yields the losses replace.
        data: None or ``"observed"``: the model's data; ``"asimov"``: what the templates themselves predict at mu = 1,
            made anew for each histogram; or an array of shape (n_data,) or (n_bins,).

    Raises:
        ModelError: If there is no such sample, or data of a wrong shape.
    """
    require_model(model)
    model.template(sample)
    if data is None or isinstance(data, str):
        if data not in (None, "observed", "asimov"):
            raise ModelError(f"data={data!r}: expected 'observed', 'asimov' or an array")
        return Session(model, None, None, sample, data or "observed")
    return Session(model, as_data(model, data), None, sample, "given")


def create_profiled_session(model: HistFactoryModel, sample: str = "signal", data: Any = None) -> Session:
    """A session for the profiled losses: as ``create_session``, for a model with a parameter of interest."""
    require_model(model)
    model.require_poi()
    return create_session(model, sample, data)


def nll_loss(signal_histogram: Histogram, session: Session, params: Any = None) -> Float[Array, ""]:
    """NLL at given parameters, with the histogram in place of the session's sample.

    Args:
        signal_histogram: Yields, shape (session.n_bins,), or a mapping of templates as ``with_templates`` takes it.
        session: From ``create_session``.
        params: Shape (n_params,); the initial parameters by default.
    """
    model = session.model_with(signal_histogram)
    return model.nll(model.likelihood.init if params is None else params, session.data_of(model))


def profiled_q0_loss(signal_histogram: Histogram, session: Session) -> Float[Array, ""]:
    """``q0`` with the histogram in place of the session's sample and everything else profiled.

    Args:
        signal_histogram: As in ``nll_loss``.
        session: From ``create_profiled_session``.

    References:
        arXiv:1007.1727, equation 12.
    """
    model = session.model_with(signal_histogram)
    return q0(model, session.data_of(model), init=session.start)


def profiled_z0_loss(signal_histogram: Histogram, session: Session, eps: float = _EPS) -> Float[Array, ""]:
    """``sqrt(q0 + eps)``: the discovery significance, with a gradient that stays finite at q0 = 0."""
    return _root(profiled_q0_loss(signal_histogram, session), eps)


def profiled_qmu_loss(signal_histogram: Histogram, session: Session, mu: Any = 1.0) -> Float[Array, ""]:
    """``qmu_tilde`` at ``mu``; arguments as in ``profiled_q0_loss``.

    References:
        arXiv:1007.1727, equation 16.
    """
    model = session.model_with(signal_histogram)
    return qmu_tilde(model, mu, session.data_of(model), init=session.start)


def profiled_zmu_loss(
    signal_histogram: Histogram, session: Session, mu: Any = 1.0, eps: float = _EPS
) -> Float[Array, ""]:
    """``sqrt(qmu_tilde + eps)``: by how many standard deviations ``mu`` is excluded."""
    return _root(profiled_qmu_loss(signal_histogram, session, mu), eps)


def _root(q: Array, eps: float) -> Array:
    return safe_sqrt(q) if eps == 0 else jnp.sqrt(q + jnp.asarray(eps, q.dtype))


def warm_start(session: Session, signal_histogram: Histogram) -> Session:
    """A session whose inner fits start where that of this histogram ended.

    From one training step to the next the best fit hardly moves, so that a start there saves iterations. It is a start
    and nothing else: each fit still ends at the minimum, to the same tolerance, and the gradient does not pass through
    it, so that losses and gradients are those of the cold start to rounding. (Where a likelihood has several minima,
    a start keeps to its valley, as the initial parameters keep to theirs.) The objectives ``"limit"`` and ``"cls"``
    choose their starts themselves.

    Args:
        session: From ``create_session`` or ``create_profiled_session``.
        signal_histogram: As in ``nll_loss``; the one of the last step, say.

    Returns:
        The session with its ``start`` set; of the same structure each time, so that nothing is compiled anew. A fit
        that does not converge leaves the start as it was.
    """
    model = session.model_with(signal_histogram)
    before = model.likelihood.init if session.start is None else session.start
    found = fit(model, data=session.data_of(model), init=before)
    start = jnp.where(found.converged, found.params, before)
    return replace(session, start=jax.lax.stop_gradient(start))


OBJECTIVES = ("z0", "q0", "limit", "cls", "uncertainty")
"""What ``SignificanceLoss`` may train."""


class SignificanceLoss(eqx.Module):
    """A statistical test of a signal histogram as a loss, in place of cross-entropy: ``-Z0`` unless told otherwise.

    Called with a histogram of shape (n_bins,), or with a mapping of templates so that backgrounds and systematic
    variations may depend on the network as well. Works under ``jit``, ``grad`` and ``vmap``. All nuisance parameters
    are profiled, whatever the objective.
    Keep some background in every bin (``guard_empty_bins``): with counts where nothing but signal is expected, Z0 is
    infinite and has no gradient.

    Args:
        model: The model.
        sample: Name of the signal sample.
        data: As in ``create_session``; ``"asimov"`` trains what the templates of the network themselves predict: at
            mu = 1 for z0, q0 and uncertainty, without signal for limit and cls.
        objective: What is optimized: ``"z0"`` (discovery significance), ``"q0"`` (its square), ``"limit"`` (median
            expected upper limit on the parameter of interest), ``"cls"`` (median expected CLs at ``mu``),
            ``"uncertainty"`` (of mu-hat, from the inverse Hessian).
        negate: Whether to return what a training minimizes (-Z0, -q0, the limit, CLs, the uncertainty), or its
            negative, of which more is better.
        eps: Added to q0 inside the root of ``"z0"``, so that the gradient at q0 = 0 is finite.
        mu: Tested value for ``"cls"``.
        level: One minus the confidence level of ``"limit"``.

    Raises:
        ModelError: For a sample that does not exist, an unknown objective, or numbers out of range.

    Attributes:
        session: The session behind the loss.
    """

    session: Session
    negate: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    mu: float = eqx.field(static=True)
    level: float = eqx.field(static=True)

    def __init__(
        self,
        model: HistFactoryModel,
        sample: str = "signal",
        data: Any = None,
        *,
        objective: str = "z0",
        negate: bool = True,
        eps: float = _EPS,
        mu: float = 1.0,
        level: float = 0.05,
    ) -> None:
        if objective not in OBJECTIVES:
            raise ModelError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}")
        for name, value, low, high in (("eps", eps, 0.0, np.inf), ("mu", mu, 0.0, np.inf), ("level", level, 1e-9, 0.5)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
                raise ModelError(f"{name}={value!r}: expected a number from {low:g} to below {high:g}")
        self.session = create_profiled_session(model, sample, data)
        self.negate = negate
        self.eps = float(eps)
        self.objective = objective
        self.mu = float(mu)
        self.level = float(level)

    @property
    def n_bins(self) -> int:
        """Length of the histogram."""
        return self.session.n_bins

    @property
    def n_params(self) -> int:
        """Number of parameters of the model."""
        return self.session.n_params

    def __call__(self, signal_histogram: Histogram) -> Float[Array, ""]:
        """The loss, a scalar."""
        value = self.metric(signal_histogram)
        return -value if self.negate == (self.objective in ("z0", "q0")) else value

    def metric(self, signal_histogram: Histogram) -> Float[Array, ""]:
        """The objective itself: Z0, q0, limit, CLs or uncertainty."""
        if self.objective == "z0":
            return self.z0(signal_histogram)
        if self.objective == "q0":
            return self.q0(signal_histogram)
        model = self.session.model_with(signal_histogram)
        if self.objective == "uncertainty":
            return fit(model, data=self.session.data_of(model), init=self.session.start).mu_uncertainty
        data = self.session.data_of(model, mu=0.0)
        if self.objective == "limit":
            return upper_limit(model, data, level=self.level).expected[2]
        return asymptotic_test(model, self.mu, data).cls_expected[2]

    def warm_started(self, signal_histogram: Histogram) -> SignificanceLoss:
        """The same loss, whose inner fits start where that of this histogram ends; see ``warm_start``."""
        return self.with_session(warm_start(self.session, signal_histogram))

    def with_session(self, session: Session) -> SignificanceLoss:
        """The same loss of another session."""
        changed = copy(self)
        object.__setattr__(changed, "session", session)
        return changed

    def q0(self, signal_histogram: Histogram) -> Float[Array, ""]:
        """The discovery test statistic of the histogram."""
        return profiled_q0_loss(signal_histogram, self.session)

    def z0(self, signal_histogram: Histogram) -> Float[Array, ""]:
        """The discovery significance of the histogram."""
        return profiled_z0_loss(signal_histogram, self.session, self.eps)
