"""Differentiable losses of a signal histogram: what a training loop calls.

A session is a model with the name of the sample that a histogram replaces. Everything else that follows from the
histogram (constraint widths, Asimov data) follows differentiably.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .._base._doors import concrete, flag, no_type_check, number, pytree
from .._base._errors import ModelError
from .._inference._fit import fit
from .._inference._profile import q0, qmu, qmu_tilde
from .._model._base import require_model
from .._model._model import HistFactoryModel
from ._objectives import EPS, OBJECTIVES, Options, data_kind, data_of, objective_of, root

Histogram = ArrayLike | Sequence[float] | Mapping[Any, ArrayLike]
"""Yields of the session's sample, or templates by key as ``with_templates`` takes them."""


# JAX builds pytrees of batches and of placeholders, which no annotation of a single one describes.
@no_type_check
@pytree
@dataclass(frozen=True, eq=False)
class Session:
    """A model and the sample whose yields a loss replaces: a frozen pytree.

    Attributes:
        model: The model.
        data: Data of the test, shape (n_data,), or None: then ``data_kind`` says which.
        start: Where the inner fits start, shape (n_params,), or None for the initial parameters; see ``warm_start``.
        sample: Name of the sample.
        data_kind: ``"observed"`` (the model's), ``"asimov"`` (expected with the given histogram) or ``"given"``.
    """

    model: HistFactoryModel
    data: Float[Array, " data"] | None
    start: Float[Array, " param"] | None
    sample: str = field(metadata={"static": True})
    data_kind: str = field(metadata={"static": True})

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
        return data_of(model, self.data_kind, self.data, mu)


def require_session(session: Any, *others: type) -> None:
    """``ModelError`` for anything but a session (or what else the caller takes)."""
    if not isinstance(session, (Session, *others)):
        raise ModelError(f"expected a session from create_profiled_session, not {type(session).__name__}")


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


@no_type_check
def create_session(
    model: HistFactoryModel, sample: str = "signal", *, data: ArrayLike | Sequence[float] | str | None = None
) -> Session:
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
    kind = data_kind(data)
    given = jnp.asarray(model.data_vector(data)) if kind == "given" else None
    return Session(model, given, None, sample, kind)


@no_type_check
def create_profiled_session(
    model: HistFactoryModel, sample: str = "signal", *, data: ArrayLike | Sequence[float] | str | None = None
) -> Session:
    """A session for the profiled losses: as ``create_session``, for a model with a parameter of interest."""
    require_model(model)
    model.require_poi()
    return create_session(model, sample, data=data)


@no_type_check
def nll_loss(signal_histogram: Histogram, session: Session, params: ArrayLike | None = None) -> Float[Array, ""]:
    """NLL at given parameters, with the histogram in place of the session's sample.

    Args:
        signal_histogram: Yields, shape (session.n_bins,), or a mapping of templates as ``with_templates`` takes it.
        session: From ``create_session``.
        params: Shape (n_params,); the initial parameters by default.

    Raises:
        ModelError: For what is no session, a wrong number of bins, negative yields, NaN or infinity. So for all losses.
    """
    model = _changed(signal_histogram, session)
    return model.nll(model.likelihood.init if params is None else params, session.data_of(model))


def _changed(signal_histogram: Any, session: Any) -> HistFactoryModel:
    require_session(session)
    return session.model_with(signal_histogram)


@no_type_check
def profiled_q0_loss(signal_histogram: Histogram, session: Session) -> Float[Array, ""]:
    """``q0`` with the histogram in place of the session's sample and everything else profiled.

    Args:
        signal_histogram: As in ``nll_loss``.
        session: From ``create_profiled_session``.

    References:
        arXiv:1007.1727, equation 12.
    """
    model = _changed(signal_histogram, session)
    return q0(model, data=session.data_of(model), init=session.start)


@no_type_check
def profiled_z0_loss(signal_histogram: Histogram, session: Session, eps: float = EPS) -> Float[Array, ""]:
    """``sqrt(q0 + eps)``: the discovery significance, with a gradient that stays finite at q0 = 0."""
    return root(profiled_q0_loss(signal_histogram, session), eps)


@no_type_check
def profiled_qmu_tilde_loss(signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0) -> Float[Array, ""]:
    """``qmu_tilde`` at ``mu``, for a signal that cannot be negative; arguments as in ``profiled_q0_loss``.

    References:
        arXiv:1007.1727, equation 16.
    """
    model = _changed(signal_histogram, session)
    return qmu_tilde(model, mu, data=session.data_of(model), init=session.start)


@no_type_check
def profiled_zmu_tilde_loss(
    signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0, eps: float = EPS
) -> Float[Array, ""]:
    """``sqrt(qmu_tilde + eps)``: by how many standard deviations ``mu`` is excluded, for a signal not negative."""
    return root(profiled_qmu_tilde_loss(signal_histogram, session, mu), eps)


@no_type_check
def profiled_qmu_loss(signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0) -> Float[Array, ""]:
    """The tilde statistic ``qmu_tilde`` at ``mu``, as ``profiled_qmu_tilde_loss``; not ``profiled_qmu_plain_loss``."""
    return profiled_qmu_tilde_loss(signal_histogram, session, mu)


@no_type_check
def profiled_zmu_loss(
    signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0, eps: float = EPS
) -> Float[Array, ""]:
    """The root of the tilde statistic, ``sqrt(qmu_tilde + eps)``, as ``profiled_zmu_tilde_loss``."""
    return profiled_zmu_tilde_loss(signal_histogram, session, mu, eps)


@no_type_check
def profiled_qmu_plain_loss(signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0) -> Float[Array, ""]:
    """The plain ``qmu`` at ``mu``, without the bound of ``qmu_tilde`` at 0; arguments as in ``profiled_q0_loss``.

    The parameter of interest keeps the bounds of the model. Where they hold it at 0 or above, both are the same.

    References:
        arXiv:1007.1727, equation 14.
    """
    model = _changed(signal_histogram, session)
    return qmu(model, mu, data=session.data_of(model), init=session.start)


@no_type_check
def profiled_zmu_plain_loss(
    signal_histogram: Histogram, session: Session, mu: ArrayLike = 1.0, eps: float = EPS
) -> Float[Array, ""]:
    """``sqrt(qmu + eps)``, the root of the plain statistic: see ``profiled_qmu_plain_loss``."""
    return root(profiled_qmu_plain_loss(signal_histogram, session, mu), eps)


@no_type_check
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
    model = _changed(signal_histogram, session)
    before = model.likelihood.init if session.start is None else session.start
    found = fit(model, data=session.data_of(model), init=before)
    start = jnp.where(found.converged, found.params, before)
    return replace(session, start=jax.lax.stop_gradient(start))


@no_type_check
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
            mu = 1 for z0, q0 and uncertainty, without signal for limit, cls, qmu and zmu.
        objective: What is optimized: ``"z0"`` (discovery significance), ``"q0"`` (its square), ``"limit"`` or
            ``"expected_limit"`` (median expected upper limit on the parameter of interest), ``"cls"`` (median expected
            CLs at ``mu``), ``"uncertainty"`` (of mu-hat, from the inverse Hessian), ``"zmu"`` (by how many standard
            deviations ``mu`` is excluded) or ``"qmu"`` (its square, ``qmu_tilde``).
        negate: Whether to return what a training minimizes (-Z0, -q0, the limit, CLs, the uncertainty), or its
            negative, of which more is better.
        eps: Added inside the root of ``"z0"`` and ``"zmu"``, so that the gradient at 0 is finite.
        mu: Tested value for ``"cls"``, ``"zmu"`` and ``"qmu"``.
        level: Confidence level of ``"limit"``.

    Raises:
        ModelError: For a sample that does not exist, an unknown objective, or numbers out of range.

    Attributes:
        session: The session behind the loss.
    """

    session: Session
    eps: float
    mu: float
    level: float = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    negate: bool = eqx.field(static=True)

    def __init__(
        self,
        model: HistFactoryModel,
        sample: str = "signal",
        *,
        data: ArrayLike | Sequence[float] | str | None = None,
        objective: str = "z0",
        negate: bool = True,
        eps: float = EPS,
        mu: float = 1.0,
        level: float = 0.95,
    ) -> None:
        self.objective = objective_of(objective).name
        self.eps, self.mu = (_not_negative(value, name) for name, value in (("eps", eps), ("mu", mu)))
        self.level = number(level, "level", 0.5, 1.0, ModelError, ": a confidence level, such as 0.95")
        self.session = create_profiled_session(model, sample, data=data)
        self.negate = flag(negate, "negate", ModelError)

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
        return -value if self.negate == OBJECTIVES[self.objective].larger else value

    def metric(self, signal_histogram: Histogram) -> Float[Array, ""]:
        """The objective itself: Z0, q0, limit, CLs, ..."""
        objective, session = OBJECTIVES[self.objective], self.session
        options = Options(self.mu, self.level, self.eps)
        model = session.model_with(signal_histogram)
        result = objective.ask(model, session.data_of(model, objective.expects), session.start, options)
        return objective.value(result, options)

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


def _not_negative(value: Any, name: str) -> float:
    least = float(np.nextafter(0.0, -1.0))
    return number(value, name, least, np.inf, ModelError, ": finite, and not negative")
