"""The same small network, trained on the significance or on cross-entropy, with the same batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jaxtyping import Array, Float, PRNGKeyArray

import nextstat_jax as nextstat

from ._blobs import (
    BACKGROUND,
    DOWN,
    OTHER,
    SIGNAL,
    UP,
    YIELDS,
    as_templates,
    blob_model,
    sample_events,
    without_systematics,
)

Objective = Literal["significance", "cross_entropy", "cross_entropy_augmented"]


@dataclass(frozen=True)
class Settings:
    """What both trainings share.

    Attributes:
        steps: Steps of the optimizer.
        batch: Events of each blob in a step, drawn anew each time.
        bins: Bins of the histogram of the score, equidistant between 0 and 1.
        bandwidth: Of the soft histogram, in units of the score.
        learning_rate: Of Adam at the start; it falls to 0 along a cosine.
        units: Width of the two hidden layers.
        checkpoints: How often the significance on held-out events is recorded.
        held_out: Events of each blob for the record; the final evaluation uses ten times as many others.
    """

    steps: int = 1000
    batch: int = 1000
    bins: int = 8
    bandwidth: float = 0.05
    learning_rate: float = 0.01
    units: int = 32
    checkpoints: int = 50
    held_out: int = 20_000

    @property
    def edges(self) -> Float[np.ndarray, " edge"]:
        """Edges of the bins."""
        return np.linspace(0.0, 1.0, self.bins + 1)


class History(NamedTuple):
    """How a training went.

    Attributes:
        loss: Loss of each batch, shape (steps,).
        steps: Steps done at each checkpoint, shape (checkpoints,).
        z0: Significance with systematics on held-out events and hard bins, shape (checkpoints,).
        z0_fixed: The same without systematics.
    """

    loss: np.ndarray
    steps: np.ndarray
    z0: np.ndarray
    z0_fixed: np.ndarray


class Evaluation(NamedTuple):
    """What a network is worth on events that it has never seen, with hard bins.

    Attributes:
        histograms: Expected events, shape (blobs, bins), without the floor.
        z0: Expected significance with systematics: the discovery test on the Asimov data of mu = 1.
        z0_fixed: The same with the background's place known.
        fit: Fit of the Asimov data, with systematics.
        fit_fixed: The same with the background's place known.
    """

    histograms: np.ndarray
    z0: float
    z0_fixed: float
    fit: Any
    fit_fixed: Any


class Classifier(linen.Module):
    """Two hidden layers; returns the logit of the score."""

    units: int

    @linen.compact
    def __call__(self, x: Float[Array, "*event 2"]) -> Float[Array, "*event"]:
        """Logits of events."""
        for _ in range(2):
            x = linen.relu(linen.Dense(self.units)(x))
        return linen.Dense(1)(x)[..., 0]


def train(objective: Objective, settings: Settings, seed: int) -> tuple[Any, History]:
    """Train a network.

    Args:
        objective: ``"significance"`` minimizes -Z0 of the Asimov data with the systematic uncertainty profiled;
            ``"cross_entropy"`` separates signal from the nominal backgrounds; ``"cross_entropy_augmented"`` from
            backgrounds of which the uncertain one is nominal, shifted up and shifted down in equal parts.
        settings: Shared by all objectives.
        seed: Fixes the first weights and all batches, alike for all objectives.

    Returns:
        The parameters of the network, and the history.
    """
    models = _models(settings.bins)
    params, losses, histograms = _train(models[0], jax.random.key(seed), objective, settings)
    recorded = np.flatnonzero(_is_recorded(np.arange(settings.steps), settings))
    z0, z0_fixed = (np.asarray(_significances(model, histograms[recorded])) for model in models)
    return params, History(np.asarray(losses), recorded, z0, z0_fixed)


def evaluate(params: Any, settings: Settings, seed: int, edges: Float[np.ndarray, " edge"] | None = None) -> Evaluation:
    """Fill hard histograms with new events, put them into the model, and fit it anew.

    Args:
        params: Parameters of a network.
        settings: As in the training.
        seed: Fixes the events; they differ from those of a training with any seed.
        edges: Of the bins, as many as in the settings; those of the settings by default.
    """
    events = sample_events(_evaluation_key(seed, 1), 10 * settings.held_out)
    chosen = jnp.asarray(settings.edges if edges is None else edges, jnp.float32)
    histograms = np.asarray(_hard_histograms(scores(params, events, settings), chosen))
    results = []
    for model in _models(settings.bins):
        filled = model.with_templates(as_templates(jnp.asarray(histograms)))
        data = nextstat.asimov_data(filled, mu=1.0)
        results.append((float(nextstat.z0(filled, data=data)), nextstat.fit(filled, data=data)))
    (z0, fit), (z0_fixed, fit_fixed) = results
    return Evaluation(histograms, z0, z0_fixed, fit, fit_fixed)


def scores(params: Any, events: Float[Array, "blob event 2"], settings: Settings) -> Float[Array, "blob event"]:
    """Scores between 0 and 1 that a network gives to events."""
    return jax.nn.sigmoid(jnp.asarray(Classifier(settings.units).apply(params, events)))


@partial(jax.jit, static_argnames=("objective", "settings"))
def _train(
    model: Any, key: PRNGKeyArray, objective: Objective, settings: Settings
) -> tuple[Any, Float[Array, " step"], Float[Array, "step blob bin"]]:
    """The whole training as one compiled loop: final parameters, losses, and held-out histograms where recorded."""
    init_key, batch_key = jax.random.split(key)
    network = Classifier(settings.units)
    params = network.init(init_key, jnp.zeros((1, 2), jnp.float32))
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    held_out = sample_events(_evaluation_key(0, 0), settings.held_out)
    edges = jnp.asarray(settings.edges, jnp.float32)
    loss = partial(_LOSSES[objective], model=model, settings=settings)

    def step(state: tuple[Any, Any], inputs: tuple[Array, Array]) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
        params, memory = state
        i, key = inputs
        record = jax.lax.cond(
            _is_recorded(i, settings),
            lambda p: _hard_histograms(scores(p, held_out, settings), edges),
            lambda p: jnp.zeros((len(YIELDS), settings.bins), jnp.float32),
            params,
        )
        events = sample_events(key, settings.batch)
        value, gradient = jax.value_and_grad(lambda p: loss(network.apply(p, events)))(params)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), memory), (value, record)

    inputs = (jnp.arange(settings.steps), jax.random.split(batch_key, settings.steps))
    (params, _), (losses, records) = jax.lax.scan(step, (params, optimizer.init(params)), inputs)
    return params, losses, records


def _significance(logits: Float[Array, "blob event"], model: Any, settings: Settings) -> Float[Array, ""]:
    """-Z0 of the Asimov data, every template of which comes from the network."""
    histogram = nextstat.SoftHistogram(settings.edges, bandwidth=settings.bandwidth)
    histograms = jnp.asarray(YIELDS[:, None]) * jax.vmap(histogram)(jax.nn.sigmoid(logits)) / logits.shape[1]
    return nextstat.SignificanceLoss(model, "signal", data="asimov")(as_templates(histograms))


def _cross_entropy(
    logits: Float[Array, "blob event"], model: Any, settings: Settings, *, augmented: bool = False
) -> Float[Array, ""]:
    """Mean cross-entropy of signal and background; each class weighs the same, backgrounds by their yields."""
    del model, settings
    as_background = jnp.mean(jax.nn.softplus(logits), axis=1)
    uncertain = jnp.mean(as_background[np.array([BACKGROUND, UP, DOWN])]) if augmented else as_background[BACKGROUND]
    yields = YIELDS[[BACKGROUND, OTHER]] / np.sum(YIELDS[[BACKGROUND, OTHER]])
    background = yields[0] * uncertain + yields[1] * as_background[OTHER]
    return 0.5 * (jnp.mean(jax.nn.softplus(-logits[SIGNAL])) + background)


_LOSSES: dict[Objective, Callable[..., Array]] = {
    "significance": _significance,
    "cross_entropy": _cross_entropy,
    "cross_entropy_augmented": partial(_cross_entropy, augmented=True),
}


@jax.jit
def _significances(model: Any, histograms: Float[Array, "record blob bin"]) -> Float[Array, " record"]:
    """Expected significance of each set of histograms."""

    def one(rows: Float[Array, "blob bin"]) -> Float[Array, ""]:
        filled = model.with_templates(as_templates(rows))
        return nextstat.z0(filled, data=filled.asimov_data(mu=1.0))

    return jax.lax.map(one, histograms)


def _is_recorded(step: Any, settings: Settings) -> Any:
    """Whether the significance is recorded before this step (an array of either kind)."""
    every = max(1, settings.steps // settings.checkpoints)
    return (step % every == 0) | (step == settings.steps - 1)


def _hard_histograms(scores: Float[Array, "blob event"], edges: Float[Array, " edge"]) -> Float[Array, "blob bin"]:
    """Expected events of each blob in bins of the score."""
    n = len(edges) - 1
    bins = jnp.clip(jnp.searchsorted(edges, scores, side="right") - 1, 0, n - 1)
    counts = jnp.sum(bins[..., None] == jnp.arange(n), axis=1)
    return jnp.asarray(YIELDS[:, None]) * counts / scores.shape[1]


def _evaluation_key(seed: int, use: int) -> PRNGKeyArray:
    """A key that no training uses: theirs are split from the seed itself."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x5EED), use)


@lru_cache
def _models(n_bins: int) -> tuple[Any, Any]:
    """The likelihood with and without systematics."""
    model = blob_model(n_bins)
    return model, without_systematics(model, model.parameter_init())
