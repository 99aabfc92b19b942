"""The environment as pure functions: what an action does, what it is worth, and nothing of Gymnasium."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .._base._checked import a_text, checked, perhaps
from .._base._doors import as_vector, flag, integer, no_type_check, number, pytree
from .._base._errors import ModelError
from .._minimize import _status
from .._model._base import require_free
from .._model._model import HistFactoryModel
from .._model._reading import from_pyhf
from .._training._objectives import OBJECTIVES, Objective, Options, objective_of
from .._training._sessions import Session, create_profiled_session, create_session

REWARD_METRICS = ("nll", *OBJECTIVES)
ACTION_MODES = ("logmul", "add")

# Upper ends of the yields in units of the sample's largest one, where the caller names none.
_HEADROOM = 1000.0

Metrics = dict[str, Array]


# JAX builds pytrees of batches and of placeholders, which no annotation of a single one describes.
@no_type_check
@pytree
@dataclass(frozen=True, eq=False)
class EnvState:
    """Where an episode stands: a frozen pytree.

    Attributes:
        yields: Yields of the sample in the channel, shape (n_bins,), in the model's dtype.
        metrics: The metric there and what came with it, scalars: ``nll``; or ``q0``, ``z0`` and ``mu_hat``, or ``qmu``,
            ``zmu`` and ``mu_hat``; or ``limit``, ``cls`` or ``uncertainty``, each with ``mu_hat``.
        steps: Number of steps taken.
    """

    yields: Float[Array, " bin"]
    metrics: Metrics
    steps: Int[Array, ""]


@no_type_check
class HistFactoryCore(eqx.Module):
    """A Markov decision process on the yields of one sample in one channel: pure functions of a frozen pytree.

    ``reset(key)`` and ``step(state, action)`` can be jitted and batched; the core is their parameter where they are
    written as ``HistFactoryCore.reset(core, key)`` and ``HistFactoryCore.step(core, state, action)``.

    An action has one number for each bin, clipped to [-1, 1]. ``"logmul"`` multiplies the yields by
    ``exp(action_scale * action)`` (an empty bin stays empty), ``"add"`` adds ``action_scale * action``; either way they
    stay between ``clip_min`` and ``clip_max``. Everything else in the model stays as it is, or follows as in
    ``with_templates``: statistical uncertainties and histosys shifts keep their absolute size.

    The reward is the metric of the changed model, with the sign that makes larger better: ``-NLL`` at fixed parameters
    (``"nll"``), or an objective of ``SignificanceLoss``: the discovery statistic (``"q0"``) or its root (``"z0"``), the
    statistic of an upper limit at ``mu`` (``"qmu"``, which is ``qmu_tilde``) or its root (``"zmu"``), ``"limit"``,
    ``"cls"`` or ``"uncertainty"``. A step to yields where the metric is infinite (nothing but signal
    expected in a bin with counts, for example) or where a fit does not converge is not taken: the yields stay, and
    ``info["accepted"]`` is False. So rewards are always finite, and no agent can profit from a failed fit. Episodes
    are never terminated; they are truncated after ``max_steps``.

    Args:
        workspace: Anything ``from_pyhf`` takes, or a model that it returned.
        channel: Name of the channel; may be left out where the sample appears in one only.
        sample: Name of the sample.
        reward_metric: ``"nll"``, ``"q0"``, ``"z0"``, ``"qmu"``, ``"zmu"``, ``"limit"``, ``"cls"`` or ``"uncertainty"``.
        action_mode: ``"logmul"`` or ``"add"``.
        max_steps: Length of an episode.
        mu: Tested signal strength of ``"qmu"``, ``"zmu"`` and ``"cls"``, 1 by default.
        level: Confidence level of ``"limit"``, 0.95 by default.
        params: Parameters at which ``"nll"`` is taken, shape (n_params,); the initial ones by default.
        data: As in ``create_session``: ``"observed"``, ``"asimov"`` (what the changed model itself expects, with or
            without signal as in ``SignificanceLoss``) or an array.
        action_scale: Size of the largest step: in the logarithm of the yields for ``"logmul"`` (0.1 by default), in
            events for ``"add"`` (by default a tenth of the sample's largest yield in the channel).
        init_noise: Each episode starts from the workspace's yields times ``exp(init_noise * normal)``.
        clip_min: Least yield of a bin, not negative.
        clip_max: Largest yield of a bin; by default a thousand times the largest one in the workspace.
        improvement: Whether the reward is the change of the metric in the step instead of the metric after it.
        normalize: Whether observations are divided by the workspace's yields.

    Attributes:
        session: The model, the sample and the data.
        start: Yields of the workspace, shape (n_bins,).
        start_metrics: The metrics there.
        low: ``clip_min``.
        high: ``clip_max``.
        unit: What observations are divided by, shape (n_bins,): 1, or if normalized the workspace's yields (the largest
            of them in empty bins).
        statistic: What is computed: ``"nll"``, or the first of the objectives that share their fits. All other options
            but ``level`` are numbers, so that cores that differ in nothing else share their compiled functions.

    Raises:
        ModelError: For a sample that the channel lacks, unknown options, numbers out of range, or a metric that is not
            finite for the workspace's own yields.
        WorkspaceError: If the workspace cannot be read.
        FitError: Where a test is asked for and the parameter of interest is fixed.
    """

    session: Session
    start: Float[Array, " bin"]
    start_metrics: Metrics
    low: Float[Array, ""]
    high: Float[Array, ""]
    action_scale: Float[Array, ""]
    init_noise: Float[Array, ""]
    mu: Float[Array, ""]
    params: Float[Array, " param"]
    max_steps: Int[Array, ""]
    unit: Float[Array, " bin"]
    multiply: Bool[Array, ""]
    which: Int[Array, ""]
    improvement: Bool[Array, ""]
    channel: str = eqx.field(static=True)
    statistic: str = eqx.field(static=True)
    level: float = eqx.field(static=True)

    @checked(ModelError, channel=perhaps(a_text), sample=a_text, reward_metric=a_text, improvement=flag, normalize=flag)
    @no_type_check
    def __init__(
        self,
        workspace: Any,
        channel: str | None = None,
        sample: str = "signal",
        *,
        reward_metric: str = "nll",
        action_mode: str = "logmul",
        max_steps: int = 128,
        mu: float | None = None,
        level: float | None = None,
        params: ArrayLike | Sequence[float] | None = None,
        data: ArrayLike | Sequence[float] | str | None = None,
        action_scale: float | None = None,
        init_noise: float = 0.0,
        clip_min: float = 0.0,
        clip_max: float | None = None,
        improvement: bool = False,
        normalize: bool = False,
    ) -> None:
        model = workspace if isinstance(workspace, HistFactoryModel) else from_pyhf(workspace)
        objective = None if reward_metric == "nll" else objective_of(reward_metric, "reward_metric", ("nll",))
        family = [] if objective is None else _family(objective)
        self.statistic = family[0].name if family else "nll"
        self.which = jnp.asarray(family.index(objective) if objective else 0, jnp.int32)
        self.multiply = jnp.asarray(_one_of(action_mode, ACTION_MODES, "action_mode") == "logmul")
        self.improvement = jnp.asarray(improvement)
        if integer(max_steps, "max_steps", 1, ModelError) >= 2**31:
            raise ModelError(f"max_steps={max_steps!r}: expected a positive integer below 2**31")
        self.channel = _channel(model, channel, sample)
        self.session = self._session(model, sample, data)
        dtype = model.dtype
        self.start = model.template(sample, self.channel)
        largest = max(float(self.start.max()), 0.0) or 1.0
        low = _number(clip_min, "clip_min", least=0.0)
        high = _number(_HEADROOM * max(largest, low) if clip_max is None else clip_max, "clip_max", least=low)
        if not low < high:
            raise ModelError(f"clip_max={clip_max!r}: expected a number above clip_min={low:g}")
        self.low, self.high = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
        self.start = jnp.clip(self.start, self.low, self.high)
        if action_mode == "logmul" and not (np.asarray(self.start) > 0).any():
            raise ModelError(f"{sample!r} has no positive yield to multiply in {self.channel!r}: use action_mode='add'")
        self.unit = jnp.where(self.start > 0, self.start, largest) if normalize else jnp.ones_like(self.start)
        if action_scale is None:
            action_scale = 0.1 if action_mode == "logmul" else 0.1 * largest
        self.action_scale = jnp.asarray(_number(action_scale, "action_scale", above=0.0), dtype)
        self.init_noise = jnp.asarray(_number(init_noise, "init_noise", least=0.0), dtype)
        self.mu = jnp.asarray(_number(_option("mu", mu, 1.0, objective), "mu", above=0.0), dtype)
        level = _option("level", level, 0.95, objective)
        self.level = number(level, "level", 0.5, 1.0, ModelError, ": a confidence level, such as 0.95")
        self.params = self._at(model, params)
        self.max_steps = jnp.asarray(max_steps, jnp.int32)
        # `evaluate` needs a complete pytree, and makes what completes it.
        self.start_metrics = {}
        self.start_metrics, fine = measure(self, self.start)
        if not fine:
            raise ModelError(f"{reward_metric} of the workspace's own yields is not finite, or its fit fails")

    def _session(self, model: HistFactoryModel, sample: str, data: Any) -> Session:
        if self.statistic == "nll":
            return create_session(model, sample, data=data)
        require_free(model.likelihood, model.parameter_names(), model.require_poi())
        return create_profiled_session(model, sample, data=data)

    def _at(self, model: HistFactoryModel, params: Any) -> Array:
        if params is None:
            return model.parameter_init()
        if self.statistic != "nll":
            raise ModelError("params is for reward_metric='nll' alone: the tests fit all parameters")
        return as_vector(params, model.n_params, "params", model.dtype)

    @property
    def sample(self) -> str:
        """Name of the sample."""
        return self.session.sample

    @property
    def model(self) -> HistFactoryModel:
        """The model with the workspace's own yields."""
        return self.session.model

    @property
    def n_bins(self) -> int:
        """Number of bins of the channel: the length of actions and observations."""
        return self.start.shape[0]

    def model_with(self, yields: Float[Array, " bin"]) -> HistFactoryModel:
        """The model with other yields, shape (n_bins,), in place of the sample's."""
        return self.session.model_with({(self.sample, self.channel): yields})

    def evaluate(self, yields: Float[Array, " bin"]) -> tuple[Metrics, Bool[Array, ""]]:
        """Metrics of the changed model, and whether they can be trusted: finite, from fits that converged.

        Args:
            yields: Shape (n_bins,).
        """
        model = self.model_with(yields)
        if self.statistic == "nll":
            nll = model.nll(self.params, self.session.data_of(model))
            return {"nll": nll}, jnp.isfinite(nll)
        first, options = OBJECTIVES[self.statistic], Options(self.mu, self.level, eps=0.0)
        found = first.ask(model, self.session.data_of(model, first.expects), None, options)
        metrics = {objective.name: objective.value(found, options) for objective in _family(first)}
        fine = jnp.isfinite(metrics[first.name]) & (first.status(found) == _status.CONVERGED)
        return metrics | {"mu_hat": first.mu_hat(found)}, fine

    def worth(self, metrics: Metrics) -> Float[Array, ""]:
        """What metrics are worth as a reward: larger is better."""
        if self.statistic == "nll":
            return -metrics["nll"]
        signed = [(1 if o.larger else -1) * metrics[o.name] for o in _family(OBJECTIVES[self.statistic])]
        return jnp.stack(signed)[self.which]

    def observe(self, state: EnvState) -> Float[Array, " bin"]:
        """The observation, float32: the yields, divided by ``unit``."""
        return (state.yields / self.unit).astype(jnp.float32)

    def info(self, state: EnvState, accepted: Any = True) -> dict[str, Array]:
        """The metrics, the yields in full precision, and whether the last step was taken."""
        return {**state.metrics, "yields": state.yields, "accepted": jnp.asarray(accepted)}

    def draw(self, key: Array) -> Float[Array, " bin"]:
        """Yields that an episode starts from, before they are found to be fit for it."""
        noise = self.init_noise * jax.random.normal(key, self.start.shape, self.start.dtype)
        return jnp.clip(self.start * jnp.exp(noise), self.low, self.high)

    def move(self, yields: Float[Array, " bin"], action: Any) -> Float[Array, " bin"]:
        """Yields after an action, before they are found to be fit for it."""
        change = self.action_scale * jnp.clip(jnp.asarray(action, yields.dtype), -1.0, 1.0)
        moved = jnp.where(self.multiply, yields * jnp.exp(change), yields + change)
        return jnp.clip(moved, self.low, self.high)

    def choose(
        self, yields: Float[Array, " bin"], metrics: Metrics, fine: Bool[Array, ""], other: EnvState, steps: Any
    ) -> EnvState:
        """The state at ``yields`` where their metrics can be trusted, else the other one, after so many steps."""
        # An infinity or NaN that is not chosen has no effect here: nothing is differentiated.
        pick = lambda new, old: jnp.where(fine, new, old)  # noqa: E731
        chosen = jax.tree.map(pick, (yields, metrics), (other.yields, other.metrics))
        return EnvState(*chosen, steps=jnp.asarray(steps, jnp.int32))

    def origin(self) -> EnvState:
        """The state at the workspace's own yields."""
        return EnvState(self.start, self.start_metrics, jnp.zeros((), jnp.int32))

    def reset(self, key: Array) -> tuple[Float[Array, " bin"], EnvState]:
        """A new episode.

        Args:
            key: JAX random key, which matters where ``init_noise`` is not 0.

        Returns:
            The observation, float32 of shape (n_bins,), and the state.
        """
        yields = self.draw(key)
        state = self.choose(yields, *self.evaluate(yields), self.origin(), 0)
        return self.observe(state), state

    def step(
        self, state: EnvState, action: Any
    ) -> tuple[Float[Array, " bin"], EnvState, Float[Array, ""], Bool[Array, ""], Bool[Array, ""], dict[str, Array]]:
        """One step of an episode.

        Args:
            state: From ``reset`` or ``step``.
            action: Shape (n_bins,), clipped to [-1, 1]. One that holds NaN is not taken.

        Returns:
            Observation, state, reward, terminated (always False), truncated, info.
        """
        yields = self.move(state.yields, action)
        metrics, accepted = self.evaluate(yields)
        return self.outcome(state, self.choose(yields, metrics, accepted, state, state.steps + 1), accepted)

    def outcome(self, before: EnvState, after: EnvState, accepted: Array) -> Any:
        """What ``step`` returns for a step between two states."""
        reward = self.worth(after.metrics)
        reward = reward - jnp.where(self.improvement, self.worth(before.metrics), 0.0)
        truncated = after.steps >= self.max_steps
        info = self.info(after, accepted)
        return self.observe(after), after, reward, jnp.zeros_like(truncated), truncated, info


@jax.jit
def measure(core: HistFactoryCore, yields: Array) -> tuple[Metrics, Array]:
    """``core.evaluate(yields)``, compiled: the expensive part, which single environments share with each other."""
    return core.evaluate(yields)


def _family(objective: Objective) -> list[Objective]:
    """The objectives that share its fits, itself among them."""
    return [other for other in OBJECTIVES.values() if other.ask == objective.ask]


def _option(name: str, given: Any, default: float, objective: Objective | None) -> Any:
    """An option of the reward; ``ModelError`` where it is given and the reward does not depend on it."""
    if given is None or (objective is not None and name in objective.uses):
        return default if given is None else given
    users = [repr(other.name) for other in OBJECTIVES.values() if name in other.uses]
    raise ModelError(f"{name}={given!r:.60}: only reward_metric={' or '.join(users)} depends on it")


def _one_of(value: Any, known: tuple[str, ...], what: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ModelError(f"{what}={value!r}: expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
    return value


def _number(value: Any, what: str, least: float = -math.inf, above: float = -math.inf) -> float:
    number = math.nan
    if not isinstance(value, bool | str | complex | np.complexfloating):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not (math.isfinite(number) and number >= least and number > above):
        limit = f" above {above:g}" if above > -math.inf else f" not below {least:g}" if least > -math.inf else ""
        raise ModelError(f"{what}={value!r:.60}: expected a finite number{limit}")
    return number


def _channel(model: HistFactoryModel, channel: Any, sample: Any) -> str:
    """The channel to act in; ``ModelError`` for names that do not exist, naming those that do."""
    rows = model.names.rows
    if sample not in model.samples:
        raise ModelError(f"there is no sample {sample!r}; samples: {', '.join(model.samples)}")
    homes = [name for name, mine in rows if mine == sample]
    if channel is None:
        if len(homes) > 1:
            raise ModelError(f"sample {sample!r} appears in several channels: channel= one of {', '.join(homes)}")
        return homes[0]
    if channel not in model.channels:
        raise ModelError(f"there is no channel {channel!r}; channels: {', '.join(model.channels)}")
    if channel not in homes:
        there = ", ".join(mine for name, mine in rows if name == channel)
        raise ModelError(f"channel {channel!r} has no sample {sample!r}; its samples: {there}")
    return channel
