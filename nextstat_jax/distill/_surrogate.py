"""``Surrogate``: a trained network with the exact parts of the likelihood, and what users ask of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from .._base._doors import concrete
from .._base._errors import DatasetError
from ._core import Core, cast, inside, nll

# Points of one compiled call; fewer are filled up to a power of two, so that few shapes are compiled.
_CALL = 65536
# Points that are vectorized at once on a CPU: so few that they stay in its caches, which is three times as fast.
_CPU_BATCH = 1024


class Surrogate(eqx.Module):
    """A fast approximation of ``model.nll``, made by ``train_mlp_surrogate``.

    Attributes:
        members: The networks: one, or those of an ensemble.
        history: ``train_loss`` and ``validation_loss`` by epoch, ``best_epoch``, and the error on the held-out points
            in units of the NLL, ``validation_rmse`` and ``validation_max``.
        parameter_names: Names in the order of the parameters.
        facts: How data set and surrogate were made, as JSON; ``metadata`` is its content.
    """

    members: tuple[Core, ...]
    history: dict[str, Any]
    parameter_names: tuple[str, ...] = eqx.field(static=True)
    facts: str = eqx.field(static=True)

    @property
    def n_params(self) -> int:
        """Number of parameters, fixed ones included."""
        return len(self.parameter_names)

    @property
    def metadata(self) -> dict[str, Any]:
        """How data set and surrogate were made."""
        return json.loads(self.facts)

    @property
    def recipe(self) -> str:
        """What the network learned: ``"rates"``, ``"residual"`` or ``"plain"``."""
        return self.members[0].recipe

    @property
    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """The box in which it was trained, shape (n_params, 2)."""
        return jnp.stack([jnp.asarray(self.members[0].lower), jnp.asarray(self.members[0].upper)], axis=1)

    @property
    def minimum(self) -> Float[Array, " param"]:
        """The exact best fit, or the middle of the training set where that is not known, shape (n_params,)."""
        return jnp.asarray(self.members[0].origin)

    def nll(self, params: Any) -> Float[Array, "*points"]:
        """Predicted NLL.

        Args:
            params: One point, shape (n_params,), or many, shape (n, n_params).

        Returns:
            Scalar, or shape (n,). Differentiable, and works under ``jit`` and ``vmap``.

        Raises:
            DatasetError: For another shape.
        """
        return self._map(_mean, params)

    def grad_nll(self, params: Any) -> Float[Array, "*points param"]:
        """Gradient of the predicted NLL with respect to the parameters, in the shape of ``params``."""
        return self._map(_gradient, params)

    def error(self, params: Any) -> Float[Array, "*points"]:
        """Standard deviation of the members of an ensemble: an estimate of the error of one of them.

        Raises:
            DatasetError: If there is one network only.
        """
        if len(self.members) < 2:
            raise DatasetError("one network has no spread: train with ensemble=4")
        return self._map(_spread, params)

    def in_domain(self, params: Any) -> Bool[Array, "*points"]:
        """Whether points lie in the trained region: inside its box and not beyond its farthest point."""
        return self._map(_inside, params)

    def log_density(self, params: Any) -> Float[Array, ""]:
        """``-nll`` of one point, and -inf outside the trained region: for samplers."""
        return jnp.where(self.in_domain(params), -self.nll(params), -jnp.inf)

    def astype(self, dtype: Any) -> Surrogate:
        """The surrogate with its networks computing in another precision, ``"float64"`` for smooth minimization."""
        return replace(self, members=tuple(cast(core, dtype) for core in self.members))

    def to_dict(self) -> dict[str, Any]:
        """What it is and how well it does, JSON-safe."""
        from .._base._tables import plain

        numbers = {name: plain(value) for name, value in self.history.items()}
        return {"parameter_names": list(self.parameter_names), "metadata": self.metadata, "history": numbers}

    def _map(self, function: Any, params: Any) -> Any:
        x = as_points(params, self.n_params)
        if x.ndim == 1:
            return _one(function, self.members, x)
        if not concrete(x) or not all(map(concrete, jax.tree.leaves(self.members))):
            return jax.vmap(partial(function, self.members))(x)
        return _many(function, self.members, x)

    def __repr__(self) -> str:
        shape = "-".join(str(len(bias)) for _, bias in self.members[0].layers[:-1])
        head = f"Surrogate of {self.n_params} parameters: {self.recipe!r}, hidden layers {shape}"
        if len(self.members) > 1:
            head += f", ensemble of {len(self.members)}"
        if "validation_rmse" not in self.history:
            return head
        rmse, most = float(self.history["validation_rmse"]), float(self.history["validation_max"])
        epochs = np.asarray(self.history["train_loss"]).shape[-1]
        facts = self.metadata
        trained = f"trained on {facts.get('n_samples')} points ({facts.get('method')!r}), {epochs} epochs"
        return f"{head}\n  {trained}\n  held-out points: RMSE {rmse:.3g}, largest error {most:.3g} in NLL"


def check_surrogate(surrogate: Any) -> None:
    """Refuses what is no surrogate."""
    if not isinstance(surrogate, Surrogate):
        raise DatasetError(f"expected a surrogate, found {type(surrogate).__name__}")


def _mean(members: tuple[Core, ...], params: Any) -> Array:
    return sum((nll(core, params) for core in members[1:]), nll(members[0], params)) / len(members)


def _gradient(members: tuple[Core, ...], params: Any) -> Array:
    return jax.grad(_mean, argnums=1)(members, params)


def _spread(members: tuple[Core, ...], params: Any) -> Array:
    return jnp.stack([nll(core, params) for core in members]).std(ddof=1)


def _inside(members: tuple[Core, ...], params: Any) -> Array:
    return inside(members[0], params)


@partial(jax.jit, static_argnums=0)
def _one(function: Any, members: tuple[Core, ...], params: Any) -> Array:
    return function(members, params)


@partial(jax.jit, static_argnums=0)
def _batch(function: Any, members: tuple[Core, ...], params: Any) -> Array:
    return lax.map(partial(function, members), params, batch_size=together(params, _CPU_BATCH))


def together(points: Any, cpu: int) -> int:
    """How many points are vectorized at once: all on a GPU."""
    return min(cpu if jax.default_backend() == "cpu" else _CALL, max(len(points), 1))


def as_points(params: Any, n: int) -> Any:
    """Floating-point parameters of one point, shape (n,), or of many, shape (points, n); ``DatasetError`` otherwise."""
    x: Any
    try:
        x = params if isinstance(params, jax.Array) else np.asarray(params, np.float64)
    except (TypeError, ValueError):
        x = np.zeros(())
    if x.ndim not in (1, 2) or x.shape[-1] != n:
        raise DatasetError(f"params has shape {x.shape}: expected ({n},) or (n, {n})")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def _many(function: Any, members: tuple[Core, ...], params: Any) -> Array:
    return in_calls(lambda part: _batch(function, members, part), params)


def in_calls(function: Callable[[Any], Array], points: Any) -> Array:
    """A compiled function of points, shape (n, n_params), for any n through programs of few shapes."""
    n, parts = len(points), []
    for start in range(0, n, _CALL):
        part = points[start : start + _CALL]
        size = min(_CALL, 2 ** max(len(part) - 1, 0).bit_length())
        if len(part) < size:
            fill = np.broadcast_to(np.asarray(part[-1:]), (size - len(part), part.shape[1]))
            part = np.concatenate([np.asarray(part), fill])
        parts.append(function(part))
    if not parts:
        return function(points)
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return whole if len(whole) == n else jnp.asarray(np.asarray(whole)[:n])
