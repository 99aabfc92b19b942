"""The environments that Gymnasium knows; nothing here but its bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jax import Array

from .._base._doors import integer, no_type_check
from .._base._errors import ModelError
from .._base._tables import text_table
from ._core import EnvState, HistFactoryCore, Metrics, measure

RENDER_MODES = ("ansi",)


class HistFactoryEnv(gymnasium.Env):
    """A Gymnasium environment around ``HistFactoryCore``; ``make_histfactory_env`` makes one from a workspace.

    Observations are float32 of shape (n_bins,) between the clip bounds (divided by ``unit`` of the core), actions
    float32 of shape (n_bins,) in [-1, 1]; what lies outside is clipped. ``info`` holds the metrics as floats,
    ``yields`` in the model's precision, and ``accepted``.

    Args:
        core: What happens in the environment.
        render_mode: None or ``"ansi"``.

    Attributes:
        core: The same.
        state: Where the episode stands, or None before the first reset.

    Raises:
        ModelError: For a core that is none, or an unknown render mode; from ``step`` for an action of a wrong shape or
            one that holds NaN, and before the first reset.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012

    @no_type_check
    def __init__(self, core: HistFactoryCore, render_mode: str | None = None) -> None:
        self.core = _require_core(core)
        self.render_mode = _require_mode(render_mode)
        self.observation_space, self.action_space = _spaces(self.core)
        self.state: EnvState | None = None
        self._key: Array | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; the same seed gives the same episodes from here on. There are no options."""
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = jax.random.key(_draw(self.np_random))
        yields, self._key = _draw_start(self.core, self._key)
        observation, self.state, info = _begin(self.core, yields, *measure(self.core, yields))
        return np.array(observation), _plain(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; see ``HistFactoryCore``."""
        if self.state is None:
            raise ModelError("the episode has not begun: call reset() before step()")
        action = _as_action(action, (self.core.n_bins,), self.core.model.dtype)
        yields = _move(self.core, self.state, action)
        result = _conclude(self.core, self.state, yields, *measure(self.core, yields))
        observation, self.state, reward, terminated, truncated, info = result
        return np.array(observation), float(reward), bool(terminated), bool(truncated), _plain(info)

    def render(self) -> str | None:
        """With ``render_mode="ansi"``: the yields beside the workspace's, and the metrics, as text."""
        if self.render_mode is None or self.state is None:
            return None
        return _table(self.core, self.state)


class HistFactoryVectorEnv(VectorEnv):
    """Many environments of one core: a step of all of them, with the resets that are due, is one compiled call.

    (With autoreset in the same step a call in which episodes end is followed by a second one.)

    Seeds as in Gymnasium's own vector environments: environment i is seeded with ``seed + i`` or ``seed[i]`` and then
    equals a ``HistFactoryEnv`` with that seed, up to rounding.

    Args:
        core: What happens in each environment.
        num_envs: How many.
        autoreset_mode: As in ``make_histfactory_vector_env``.
        render_mode: None or ``"ansi"``.

    Attributes:
        core: The same.
        state: Where the episodes stand, arrays with a leading axis of num_envs, or None before the first reset.

    Raises:
        ModelError: For arguments that cannot be used; from ``step`` as in ``HistFactoryEnv``.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    @no_type_check
    def __init__(
        self,
        core: HistFactoryCore,
        num_envs: int,
        *,
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
    ) -> None:
        self.core = _require_core(core)
        self.num_envs = num_envs = integer(num_envs, "num_envs", 1, ModelError)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = _require_mode(render_mode)
        self.single_observation_space, self.single_action_space = _spaces(self.core)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state: EnvState | None = None
        self._keys: Array | None = None
        self._ended = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes.

        Args:
            seed: None, an integer, or a list of num_envs integers or None.
            options: ``{"reset_mask": mask}`` resets only where the boolean array of shape (num_envs,) is True; the
                observations of the others stay.

        Returns:
            Observations of shape (num_envs, n_bins), and infos.

        Raises:
            ModelError: For seeds or a mask of a wrong length, or a mask before all episodes have begun.
        """
        mask = self._mask(options)
        self._keys = self._fresh_keys(self._seeds(seed), mask)
        if self.state is None:
            self.state = _origins(self.core, self.num_envs)
        observations, info = self._renew(mask)
        self._ended = self._ended & ~mask
        return observations, _masked(info, mask)

    def _renew(self, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Array]]:
        """Resets where the mask says so; observations and infos of all."""
        nothing = np.zeros((self.num_envs, self.core.n_bins), self.core.model.dtype)
        what = np.where(mask, _RESET, _HOLD)
        observations, self.state, _, _, _, info, self._keys = _advance(self.core, self.state, nothing, self._keys, what)
        return np.array(observations), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all; what an end is followed by is the autoreset mode's."""
        if self.state is None or self._keys is None:
            raise ModelError("the episodes have not begun: call reset() before step()")
        mode, everywhere = self.autoreset_mode, np.ones(self.num_envs, bool)
        if mode == AutoresetMode.DISABLED and self._ended.any():
            where = np.flatnonzero(self._ended).tolist()
            raise ModelError(f"episodes {where} have ended: reset them with options={{'reset_mask': ...}}")
        actions = _as_action(actions, (self.num_envs, self.core.n_bins), self.core.model.dtype)
        what = np.where(self._ended, _RESET, _STEP)
        observations, self.state, rewards, terminated, truncated, info, self._keys = _advance(
            self.core, self.state, actions, self._keys, what
        )
        results = np.array(rewards, np.float64), np.array(terminated), np.array(truncated)
        ended = results[1] | results[2]
        if mode != AutoresetMode.SAME_STEP or not ended.any():
            self._ended = ended
            return np.array(observations), *results, _masked(info, everywhere)
        infos = {"final_obs": np.array(observations), "_final_obs": ended.copy()}
        infos |= {"final_info": _masked(info, ended), "_final_info": ended.copy()}
        fresh_observations, fresh_info = self._renew(ended)
        info = {name: np.where(_along(ended, info[name]), fresh_info[name], info[name]) for name in info}
        return fresh_observations, *results, infos | _masked(info, everywhere)

    def render(self) -> tuple[str, ...] | None:
        """With ``render_mode="ansi"``: the text of each environment."""
        if self.render_mode is None or self.state is None:
            return None
        states = jax.device_get(self.state)
        return tuple(_table(self.core, jax.tree.map(lambda x, k=k: x[k], states)) for k in range(self.num_envs))

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None or isinstance(seed, int):
            return [None if seed is None else seed + k for k in range(self.num_envs)]
        seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ModelError(f"seed has {len(seeds)} entries, expected one for each of {self.num_envs} environments")
        return seeds

    def _fresh_keys(self, seeds: list[int | None], mask: np.ndarray) -> Array:
        """Keys of all environments: drawn anew for those that are reset with a seed, or for the first time."""
        first = self._keys is None
        drawn = mask & [first or seed is not None for seed in seeds]
        numbers = [_draw(seeding.np_random(seed)[0]) if new else 0 for new, seed in zip(drawn, seeds, strict=True)]
        keys = jax.vmap(jax.random.key)(jnp.asarray(numbers))
        return keys if self._keys is None else jnp.where(drawn, keys, self._keys)

    def _mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ModelError(f"reset_mask is {mask!r:.60}: expected {self.num_envs} booleans, not all False")
        if self.state is None and not mask.all():
            raise ModelError("reset_mask leaves out episodes that have not begun: reset all of them first")
        return mask


@jax.jit
def _draw_start(core: HistFactoryCore, key: Array) -> tuple[Array, Array]:
    key, own = jax.random.split(key)
    return core.draw(own), key


@jax.jit
def _begin(core: HistFactoryCore, yields: Array, metrics: Metrics, fine: Array) -> Any:
    state = core.choose(yields, metrics, fine, core.origin(), 0)
    return core.observe(state), state, core.info(state)


@jax.jit
def _move(core: HistFactoryCore, state: EnvState, action: Array) -> Array:
    return core.move(state.yields, action)


@jax.jit
def _conclude(core: HistFactoryCore, state: EnvState, yields: Array, metrics: Metrics, fine: Array) -> Any:
    return core.outcome(state, core.choose(yields, metrics, fine, state, state.steps + 1), fine)


@partial(jax.jit, static_argnames="num_envs")
def _origins(core: HistFactoryCore, num_envs: int) -> EnvState:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), core.origin())


# What happens to one of many environments in one call.
_STEP, _RESET, _HOLD = range(3)


@jax.jit
def _advance(core: HistFactoryCore, states: EnvState, actions: Array, keys: Array, what: Array) -> Any:
    """Steps, resets or holds each environment: they differ in the yields that are evaluated, not in the work."""

    def one(state: EnvState, action: Array, key: Array, what: Array) -> Any:
        resets, steps = what == _RESET, what == _STEP
        next_key, own = jax.random.split(key)
        target = jnp.where(steps, core.move(state.yields, action), jnp.where(resets, core.draw(own), state.yields))
        metrics, fine = core.evaluate(target)
        other = jax.tree.map(lambda a, b: jnp.where(resets, a, b), core.origin(), state)
        after = core.choose(
            target, metrics, fine & (what != _HOLD), other, jnp.where(steps, state.steps + 1, other.steps)
        )
        observation, after, reward, terminated, truncated, info = core.outcome(state, after, fine | ~steps)
        ends = terminated & steps, truncated & steps
        return observation, after, jnp.where(steps, reward, 0.0), *ends, info, jnp.where(resets, next_key, key)

    return jax.vmap(one)(states, actions, keys, what)


def _require_core(core: Any) -> HistFactoryCore:
    if not isinstance(core, HistFactoryCore):
        raise ModelError(
            f"expected a HistFactoryCore, found {type(core).__name__}: make_histfactory_env takes workspaces"
        )
    return core


def _require_mode(render_mode: Any) -> str | None:
    if render_mode is not None and not (isinstance(render_mode, str) and render_mode in RENDER_MODES):
        raise ModelError(f"render_mode={render_mode!r}: expected None or 'ansi'")
    return render_mode


def _autoreset_mode(mode: Any) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}
    names["disabled"] = AutoresetMode.DISABLED
    if not isinstance(mode, str) or mode not in names:
        raise ModelError(f"autoreset_mode={mode!r}: expected one of {', '.join(map(repr, names))}")
    return names[mode]


def _spaces(core: HistFactoryCore) -> tuple[spaces.Box, spaces.Box]:
    """Spaces of observations and of actions."""
    unit = np.asarray(core.unit)
    low, high = ((np.asarray(end) / unit).astype(np.float32) for end in (core.low, core.high))
    return spaces.Box(low, high, dtype=np.float32), spaces.Box(-1.0, 1.0, (core.n_bins,), np.float32)


def _draw(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31 - 1))


def _as_action(action: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        array = np.asarray(action, dtype)
    except (TypeError, ValueError):
        raise ModelError(f"action is {action!r:.60}: expected numbers") from None
    if array.shape != shape:
        raise ModelError(f"action has shape {array.shape}, expected {shape}: one number for each bin")
    if not np.isfinite(array).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise ModelError(f"action{list(where)} is {array[where]}: expected finite numbers")
    return array


def _plain(info: dict[str, Array]) -> dict[str, Any]:
    """Scalars as Python values, arrays as NumPy arrays of the caller's own."""
    return {name: value.item() if value.ndim == 0 else np.array(value) for name, value in info.items()}


def _along(mask: np.ndarray, value: Array) -> np.ndarray:
    return mask.reshape(-1, *[1] * (value.ndim - 1))


def _masked(info: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Infos as vector environments give them: arrays, zero where an environment has none, and masks of who has one."""
    infos: dict[str, Any] = {}
    for name, value in info.items():
        array = np.array(value)
        array[~mask] = 0
        infos |= {name: array, f"_{name}": mask.copy()}
    return infos


def _table(core: HistFactoryCore, state: EnvState) -> str:
    now, start = np.asarray(state.yields), np.asarray(core.start)
    rows = [(str(k), float(a), float(b)) for k, (a, b) in enumerate(zip(start, now, strict=True))]
    numbers = ", ".join(f"{name} {float(value):.6g}" for name, value in state.metrics.items())
    title = f"{core.sample} in {core.channel} after {int(state.steps)} steps: {numbers}"
    return text_table(["bin", "workspace", "now"], rows, title)
