"""Reinforcement learning on a likelihood: environments for Gymnasium, and the pure functions behind them.

An agent changes the yields of one sample in one channel, bin by bin, and is rewarded with a metric of the changed
model: its likelihood, a significance, or the strength of an exclusion. The environments need Gymnasium:
``pip install 'nextstat-jax[rl]'``. ``HistFactoryCore`` does not: it is pure JAX and can be jitted and batched.

For ``gymnasium.make`` and ``gymnasium.make_vec``, register the two functions that make environments under a name of
your own: ``gymnasium.register("Analysis-v0", entry_point="nextstat_jax.gym:make_histfactory_env",
vector_entry_point="nextstat_jax.gym:make_histfactory_vector_env", kwargs={"workspace": ...})``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._base._doors import no_type_check
from .._base._errors import MissingExtraError
from ._core import ACTION_MODES as ACTION_MODES
from ._core import REWARD_METRICS as REWARD_METRICS
from ._core import EnvState as EnvState
from ._core import HistFactoryCore as HistFactoryCore

if TYPE_CHECKING:
    from gymnasium.vector import AutoresetMode

    from ._envs import HistFactoryEnv as HistFactoryEnv
    from ._envs import HistFactoryVectorEnv as HistFactoryVectorEnv

# They inherit from Gymnasium's classes, so they exist only once somebody asks for them.
_LAZY = ("HistFactoryEnv", "HistFactoryVectorEnv")


def _load_envs() -> Any:
    try:
        import gymnasium  # noqa: F401
    except ImportError:
        raise MissingExtraError("gymnasium", "rl") from None
    from . import _envs

    return _envs


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(_load_envs(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


@no_type_check
def make_histfactory_env(workspace: Any, *, render_mode: str | None = None, **options: Any) -> HistFactoryEnv:
    """A Gymnasium environment in which an agent shapes a sample's yields.

    Args:
        workspace: Anything ``from_pyhf`` takes, or a model that it returned.
        render_mode: None, or ``"ansi"``: ``render()`` returns a table of the yields as text.
        **options: ``channel``, ``sample``, ``reward_metric``, ``action_mode``, ``max_steps``, ``mu``, ``level`` and the
            other arguments of ``HistFactoryCore``.

    Returns:
        ``HistFactoryEnv``.

    Raises:
        MissingExtraError: If Gymnasium is not installed.
        ModelError: For options that cannot be used; also ``WorkspaceError`` and ``FitError``, as ``HistFactoryCore``.

    Example:
        >>> import numpy as np
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> signal = {"name": "signal", "data": [3.0, 5.0], "modifiers": [strength]}
        >>> background = {"name": "background", "data": [50.0, 20.0], "modifiers": []}
        >>> env = make_histfactory_env({
        ...     "channels": [{"name": "SR", "samples": [signal, background]}],
        ...     "observations": [{"name": "SR", "data": [53.0, 28.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... }, reward_metric="nll", action_scale=0.5)
        >>> observation, info = env.reset(seed=1)
        >>> print(observation, round(info["nll"], 3))
        [3. 5.] 5.667
        >>> observation, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0]))
        >>> print(observation.round(3), round(reward, 3))
        [3.    8.244] -5.495
    """
    envs = _load_envs()
    return envs.HistFactoryEnv(HistFactoryCore(workspace, **options), render_mode=render_mode)


@no_type_check
def make_histfactory_vector_env(
    workspace: Any,
    *,
    num_envs: int,
    autoreset_mode: str | AutoresetMode = "next_step",
    render_mode: str | None = None,
    **options: Any,
) -> HistFactoryVectorEnv:
    """Many environments at once, stepped by one compiled call.

    Args:
        workspace: Anything ``from_pyhf`` takes, or a model that it returned.
        num_envs: How many, at least 1.
        autoreset_mode: What follows the end of an episode, by Gymnasium's ``AutoresetMode`` or its name:
            ``"next_step"`` (the next step resets, whatever the action), ``"same_step"`` (the step itself does, and
            ``info["final_obs"]`` and ``info["final_info"]`` hold the end) or ``"disabled"`` (the caller resets, with
            ``options={"reset_mask": ...}``).
        render_mode: None or ``"ansi"``.
        **options: As in ``make_histfactory_env``.

    Returns:
        ``HistFactoryVectorEnv``, a ``gymnasium.vector.VectorEnv``.

    Raises:
        MissingExtraError: If Gymnasium is not installed.
        ModelError: For options that cannot be used.
    """
    envs = _load_envs()
    core = HistFactoryCore(workspace, **options)
    return envs.HistFactoryVectorEnv(core, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode)
