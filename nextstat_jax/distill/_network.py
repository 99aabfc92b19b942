"""Training of a multilayer perceptron: whole epochs in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from tqdm import trange

# Share of the steps in which the learning rate rises.
_WARMUP = 0.05
_CLIP = 1.0
# Of the weights: with hundreds of parameters a network can learn a training set by heart.
_DECAY = 0.1
# Epochs between two looks at the validation error that may end the training.
_LEAST_EPOCHS = 10


class MLP(nn.Module):
    """A multilayer perceptron with SiLU between its layers, in float32 whatever JAX's x64 mode is."""

    hidden_layers: Sequence[int]
    n_outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden_layers:
            x = nn.silu(nn.Dense(width, dtype=jnp.float32, param_dtype=jnp.float32)(x))
        zeros = nn.initializers.variance_scaling(1e-2, "fan_in", "truncated_normal")
        return nn.Dense(self.n_outputs, dtype=jnp.float32, param_dtype=jnp.float32, kernel_init=zeros)(x)


class Options(NamedTuple):
    """How to train; hashable, since it enters compiled functions."""

    epochs: int
    lr: float
    batch_size: int
    patience: int
    seed: int


class State(NamedTuple):
    """What an epoch changes."""

    weights: Any
    optimizer: Any
    key: Array


Loss = Callable[[Any, Any], Array]


def layers_of(weights: Any) -> tuple[tuple[Array, Array], ...]:
    """Kernels and biases in order, from flax's variables."""
    dense = weights["params"]
    return tuple((dense[f"Dense_{k}"]["kernel"], dense[f"Dense_{k}"]["bias"]) for k in range(len(dense)))


def init_network(hidden_layers: Sequence[int], n_inputs: int, n_outputs: int, seed: int) -> Any:
    """Weights before training."""
    net = MLP(tuple(hidden_layers), n_outputs)
    return net.init(jax.random.key(seed), jnp.zeros((1, n_inputs), jnp.float32))


def train(
    loss: Loss, weights: Any, data: Any, held_out: Any, options: Options, device: Any, progress: bool
) -> tuple[Any, dict[str, np.ndarray]]:
    """Minimizes a loss by AdamW with a warm-up and a cosine decay of the learning rate.

    Args:
        loss: Mean loss of a minibatch, from the weights and a minibatch.
        weights: Where to start.
        data: Pytree of arrays with equal leading axes: the training set.
        held_out: The validation set.
        options: How.
        device: Where.
        progress: Whether to show a progress bar.

    Returns:
        The weights of the best epoch by validation loss, and the history.
    """
    n = len(jax.tree.leaves(data)[0])
    batch = min(options.batch_size, n)
    steps = n // batch
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.lr, max(1, int(_WARMUP * steps * options.epochs)), steps * options.epochs, 1e-3 * options.lr
    )
    optimizer = optax.chain(optax.clip_by_global_norm(_CLIP), optax.adamw(schedule, weight_decay=_DECAY))
    state = State(weights, optimizer.init(weights), jax.random.key(options.seed))
    state, data, held_out = jax.device_put((state, data, held_out), device)
    epoch = jax.jit(partial(_epoch, loss, optimizer, batch), donate_argnums=0)
    check = jax.jit(partial(_validate, loss, options.batch_size))
    best, best_loss, best_epoch = jax.tree.map(jnp.copy, state.weights), np.inf, 0
    history: dict[str, list[float]] = {"train_loss": [], "validation_loss": []}
    with trange(options.epochs, unit="epoch", disable=not progress) as bar:
        for k in bar:
            state, mean = epoch(state, data)
            error = float(check(state.weights, held_out))
            history["train_loss"].append(float(mean))
            history["validation_loss"].append(error)
            bar.set_postfix(validation=f"{error:.3g}", refresh=False)
            if error < best_loss:
                best, best_loss, best_epoch = jax.tree.map(jnp.copy, state.weights), error, k
            elif k + 1 >= _LEAST_EPOCHS and k - best_epoch >= options.patience:
                break
    arrays = {name: np.asarray(values) for name, values in history.items()}
    return best, {**arrays, "best_epoch": np.asarray(best_epoch)}


def _epoch(loss: Loss, optimizer: Any, batch: int, state: State, data: Any) -> tuple[State, Array]:
    key, shuffle = jax.random.split(state.key)
    n = len(jax.tree.leaves(data)[0])
    order = jax.random.permutation(shuffle, n)[: n // batch * batch].reshape(-1, batch)

    def step(carry: tuple[Any, Any], rows: Array) -> tuple[tuple[Any, Any], Array]:
        weights, memory = carry
        value, slope = jax.value_and_grad(loss)(weights, jax.tree.map(lambda x: x[rows], data))
        change, memory = optimizer.update(slope, memory, weights)
        return (optax.apply_updates(weights, change), memory), value

    (weights, memory), losses = lax.scan(step, (state.weights, state.optimizer), order)
    return State(weights, memory, key), losses.mean()


def _validate(loss: Loss, batch: int, weights: Any, data: Any) -> Array:
    n = len(jax.tree.leaves(data)[0])
    batch = min(batch, n)
    parts = jax.tree.map(lambda x: x[: n // batch * batch].reshape(-1, batch, *x.shape[1:]), data)
    return lax.map(lambda part: loss(weights, part), parts).mean()
