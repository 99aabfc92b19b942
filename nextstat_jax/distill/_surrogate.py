"""``Surrogate``: a trained network with the exact parts of the likelihood, and what users ask of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from .._base._doors import concrete, pytree
from .._base._errors import DatasetError, ModelError
from .._base._tables import plain
from .._model._base import Model
from .._model._many import CPU_BATCH, as_points, in_calls, together
from ._core import Core, cast, covariance_root, inside, nll
from ._networks import Networks


@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Surrogate(Model):
    """A fast approximation of ``model.nll``, made by ``train_mlp_surrogate``: a model itself, for every question.

    Its bounds are the box in which it was trained. Minima outside the trained region count only if there is no other.

    Attributes:
        members: The networks: one, or those of an ensemble.
        history: ``train_loss`` and ``validation_loss`` by epoch, ``best_epoch``, and the error on the held-out points
            in units of the NLL, ``validation_rmse`` and ``validation_max``.
        names: Names in the order of the parameters.
        facts: How data set and surrogate were made, as JSON; ``metadata`` is its content.
    """

    members: tuple[Core, ...]
    history: dict[str, Any]
    names: tuple[str, ...] = field(metadata={"static": True})
    facts: str = field(metadata={"static": True})

    @property
    def likelihood(self) -> Networks:  # type: ignore[override]
        """The likelihood that fits minimize: networks in double precision, a smooth function for the minimizer."""
        return Networks.of(tuple(cast(core, "float64") for core in self.members))

    @property
    def quick_likelihood(self) -> Networks:
        """The likelihood for values at many points: networks in their own precision."""
        return Networks.of(self.members)

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of the parameters."""
        return np.dtype(self.members[0].lower.dtype)

    @property
    def n_params(self) -> int:
        """Number of parameters, fixed ones included."""
        return len(self.names)

    @property
    def metadata(self) -> dict[str, Any]:
        """How data set and surrogate were made."""
        return json.loads(self.facts)

    @property
    def recipe(self) -> str:
        """What the network learned: ``"rates"``, ``"residual"`` or ``"plain"``."""
        return self.members[0].recipe

    @property
    def poi(self) -> str | None:
        """Name of the parameter of interest, or None: the data set's model's, unless ``with_poi`` chose another."""
        name = self.metadata.get("poi")
        return name if name in self.names else None

    @property
    def minimum(self) -> Float[Array, " param"]:
        """The exact best fit, or the middle of the training set where that is not known, shape (n_params,)."""
        return jnp.asarray(self.members[0].origin)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance in which the trained region is round: the exact fit's where that is known; 0 for fixed parameters.

        Shape (n_params, n_params).
        """
        core, root = self.members[0], covariance_root(self.members[0])
        free = np.flatnonzero(np.asarray(core.upper) > np.asarray(core.lower))
        covariance = np.zeros((self.n_params, self.n_params))
        covariance[np.ix_(free, free)] = root.T @ root
        return covariance

    def parameter_names(self) -> list[str]:
        """Names of all parameters, in their order."""
        return list(self.names)

    def parameter_init(self) -> Float[Array, " param"]:
        """``minimum``, inside the trained box, shape (n_params,)."""
        return jnp.clip(self.minimum, *self.parameter_bounds().T)

    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """The box in which it was trained, shape (n_params, 2)."""
        return jnp.stack([jnp.asarray(self.members[0].lower), jnp.asarray(self.members[0].upper)], axis=1)

    def data_vector(self, data: Any = None) -> Array:
        """The data of the training; ``ModelError`` for others, which a surrogate has not learned."""
        if data is not None:
            raise ModelError("a surrogate has one data set, that of its training: train another one for other data")
        return self.quick_likelihood.observed

    def with_poi(self, name: str | None) -> Surrogate:
        """The surrogate with another parameter of interest, or with none; ``FitError`` for an unknown name."""
        if name is not None:
            self.index(name)
        return replace(self, facts=json.dumps({**self.metadata, "poi": name}))

    def nll(self, params: Any, data: None = None) -> Float[Array, "*points"]:
        """Predicted NLL.

        Args:
            params: One point, shape (n_params,), or many, shape (n, n_params).
            data: None: a surrogate has the data of its training.

        Returns:
            Scalar, or shape (n,). Differentiable, and works under ``jit`` and ``vmap``.

        Raises:
            ModelError: For another shape, or data.
        """
        if data is not None:
            self.data_vector(data)
        return self._map(_mean, params)

    def grad_nll(self, params: Any) -> Float[Array, "*points param"]:
        """Gradient of the predicted NLL with respect to the parameters, in the shape of ``params``."""
        return self._map(_gradient, params)

    def error(self, params: Any) -> Float[Array, "*points"]:
        """Standard deviation of the members of an ensemble: an estimate of the error of one of them.

        Raises:
            ModelError: If there is one network only.
        """
        if len(self.members) < 2:
            raise ModelError("one network has no spread: train with ensemble=4")
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
        numbers = {name: plain(value) for name, value in self.history.items()}
        return {"parameter_names": list(self.names), "metadata": self.metadata, "history": numbers}

    def _map(self, function: Any, params: Any) -> Any:
        x = as_points(params, self.n_params)
        if x.ndim == 1:
            return _one(function, self.members, x)
        if not concrete(x) or not all(map(concrete, jax.tree.leaves(self.members))):
            return jax.vmap(partial(function, self.members))(x)
        return in_calls(lambda part: _batch(function, self.members, part), x)

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
    return lax.map(partial(function, members), params, batch_size=together(params, CPU_BATCH))
