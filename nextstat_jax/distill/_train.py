"""Training of surrogates: what is learned, from which inputs, with which weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base._checked import a_real
from .._base._doors import flag, integer, no_type_check, one_of
from .._base._errors import DatasetError
from .._likelihood._binned import HistFactory
from .._likelihood._counts import poisson_deviance
from .._likelihood._histfactory import rates
from .._model._model import HistFactoryModel
from ._core import RECIPES, Core, constraints, features, log_baseline, main_expansion, network
from ._dataset import SurrogateDataset, check_dataset, check_model
from ._evaluate import device_of
from ._network import Options, init_network, layers_of, train
from ._reference import Reference, require_same_model
from ._surrogate import Surrogate

# Points that determine the linear part.
_LINEAR_POINTS = 20_000
# Rates are taken to be at least this part of those at the minimum, so that they have logarithms.
_LEAST_RATE = 1e-9
# How far above the minimum errors of the NLL matter for their size.
_NEAR, _NEAR_PER_PARAMETER = 10.0, 0.5
_GRAD_WEIGHT = {"plain": 0.1, "residual": 0.1, "rates": 0.0}
_BATCH = 256


class Prepared(NamedTuple):
    """A data set in the form in which it is learned.

    Attributes:
        core: The surrogate before training: its network yields nothing yet.
        columns: Arrays with one row for each point: ``x`` (standardized parameters), ``y`` (targets), ``w`` (their
            weights), and ``g`` (gradient of the target, or of the NLL's main term) with ``gw`` where it is learned.
        spread: What the outputs of the network are multiplied by, shape (n_outputs,).
        mean: Mean of the inputs, shape (n_inputs,).
        whiten: What standardizes them, shape (n_inputs, n_inputs).
    """

    core: Core
    columns: dict[str, np.ndarray]
    spread: np.ndarray
    mean: np.ndarray
    whiten: np.ndarray


@no_type_check
def train_mlp_surrogate(
    ds: SurrogateDataset,
    *,
    hidden_layers: Sequence[int] = (256, 256),
    epochs: int = 100,
    lr: float = 3e-3,
    batch_size: int = 512,
    val_fraction: float = 0.1,
    grad_weight: float | None = None,
    device: Any = None,
    seed: int = 0,
    progress: bool = True,
    recipe: str | None = None,
    patience: int = 30,
    ensemble: int = 1,
    model: HistFactoryModel | None = None,
) -> Surrogate:
    """Trains a multilayer perceptron on a data set.

    Args:
        ds: From ``generate_dataset``.
        hidden_layers: Widths of the hidden layers.
        epochs: Most epochs.
        lr: Highest learning rate, after a warm-up and before a cosine decay.
        batch_size: Points of a step; smaller where the data set would give fewer than 20 steps an epoch.
        val_fraction: Share of the points that are held out. The weights of the epoch with the least error there are
            kept.
        grad_weight: Weight of the squared error of the gradients beside that of the values (Sobolev training). By
            default 0 for ``"rates"``, whose targets say as much at a third of the time, and 0.1 for the others.
        device: Name of a JAX device, or the device.
        seed: Seed of weights and shuffling.
        progress: Whether to show a progress bar.
        recipe: ``"rates"``: the network learns the logarithms of the expected counts, and the Poisson and constraint
            terms are exact. ``"residual"``: constraint terms are exact; the network learns the logarithm of the rest
            relative to its quadratic expansion at the minimum. ``"plain"``: it learns the NLL. By default the first
            that the data set allows.
        patience: Epochs without a lower validation error that end the training.
        ensemble: Number of networks; with several, their mean is the prediction and ``Surrogate.error`` their spread.
        model: The model, to compute expected counts that the data set lacks.

    Returns:
        ``Surrogate``: float32 networks, also under JAX's x64 mode.

    Raises:
        DatasetError: For arguments that cannot be used, or a model that is not the data set's.

    References:
        Sobolev training: arXiv:1706.04859. Surrogates of likelihoods: arXiv:1911.03305.
    """
    check_dataset(ds)
    layers = _check_layers(hidden_layers)
    ds = _finite(ds if model is None else _with_rates(ds, model))
    recipe = _check_recipe(ds, recipe)
    weight = _GRAD_WEIGHT[recipe] if grad_weight is None else _number(grad_weight, "grad_weight", 0.0)
    cut = _held_out(ds, val_fraction)
    size = min(integer(batch_size, "batch_size", error=DatasetError), max(len(ds) // 20, 1))
    rate, where = _number(lr, "lr", 0.0), device_of(device)
    progress = flag(progress, "progress", DatasetError)
    most = integer(epochs, "epochs", error=DatasetError)
    patience = integer(patience, "patience", error=DatasetError)
    options = Options(most, rate, size, patience, integer(seed, "seed", 0, DatasetError))
    if weight and ds.gradient is None:
        if grad_weight is not None:
            raise DatasetError(f"grad_weight={grad_weight!r}: the data set holds no gradients")
        weight = 0.0
    order = np.random.default_rng(options.seed).permutation(len(ds))
    prepared = _prepare(ds, recipe, weight > 0)
    members, histories = [], []
    for k in range(integer(ensemble, "ensemble", error=DatasetError)):
        member = options._replace(seed=options.seed + k)
        core, history = _train_one(prepared, order, cut, layers, weight, member, where, progress)
        members.append(jax.device_put(core, where))
        histories.append(history)
    facts = {"recipe": recipe, "hidden_layers": list(layers), **options._asdict(), "grad_weight": weight}
    surrogate = Surrogate(
        tuple(members), _joined(histories), tuple(ds.parameter_names), json.dumps({**ds.metadata, "training": facts})
    )
    return _graded(surrogate, ds, order[:cut])


def _held_out(ds: SurrogateDataset, val_fraction: Any) -> int:
    """How many points are held out."""
    count = int(_number(val_fraction, "val_fraction", 0.0) * len(ds))
    if not 1 <= count <= len(ds) - 2:
        raise DatasetError(f"val_fraction={val_fraction!r} of {len(ds)} points: too few are left to train or validate")
    return count


def _check_layers(hidden_layers: Any) -> tuple[int, ...]:
    if not isinstance(hidden_layers, Sequence) or isinstance(hidden_layers, str | bytes) or not hidden_layers:
        raise DatasetError(f"hidden_layers={hidden_layers!r:.60}: expected widths, such as (256, 256)")
    return tuple(integer(width, "hidden_layers", error=DatasetError) for width in hidden_layers)


def _number(value: Any, name: str, least: float) -> float:
    try:
        real = a_real(value, name, DatasetError)
    except DatasetError:
        real = np.nan
    if not real >= least:
        raise DatasetError(f"{name}={value!r:.60}: expected a finite number from {least:g} on")
    return real


def _check_recipe(ds: SurrogateDataset, recipe: Any) -> str:
    if recipe is not None:
        one_of(recipe, RECIPES, "recipe", DatasetError)
    possible = [name for name, there in (("rates", ds.rates), ("residual", ds.reference)) if there is not None]
    if ds.reference is None:
        possible = []
    if recipe is None:
        return [*possible, "plain"][0]
    if recipe not in (*possible, "plain"):
        needs = "expected rates: make it with include_rates=True, or give model=" if ds.reference else "a reference"
        raise DatasetError(f"recipe={recipe!r} needs a data set with {needs}")
    return recipe


def _finite(ds: SurrogateDataset) -> SurrogateDataset:
    """The points that can be learned from."""
    good = np.isfinite(ds.nll)
    return ds if good.all() else ds[good]


def _with_rates(ds: SurrogateDataset, model: Any) -> SurrogateDataset:
    check_model(model)
    require_same_model(ds.metadata, model, "data set")
    return ds if ds.rates is not None else replace(ds, rates=np.asarray(_rates(model.likelihood, ds.parameters)))


@jax.jit
def _rates(likelihood: HistFactory, points: Any) -> Array:
    return lax.map(lambda x: rates(likelihood, x).bins, points, batch_size=_BATCH)


def _prepare(ds: SurrogateDataset, recipe: str, gradients: bool) -> Prepared:
    """Inputs, targets and weights."""
    x, r = ds.parameters, ds.reference
    core = _blank(ds, recipe)
    inputs = np.asarray(features(x, np.asarray(core.center), np.asarray(core.scale), core.logs))
    columns = {"x": np.asarray((x - core.center) / core.scale, np.float32)}
    slope = None if not gradients or ds.gradient is None else ds.gradient * np.asarray(core.scale)
    if recipe == "plain" or r is None:
        y, w = ds.nll[:, None], np.ones((len(ds), 1))
        gw = np.ones(len(ds))
    else:
        constraint, constraint_slope = map(np.asarray, _constraints(r, x))
        main = ds.nll - float(r.constant) - constraint
        slope = None if slope is None else slope - constraint_slope * np.asarray(core.scale)
        # Near the minimum an error matters for its size, far away for its share of the NLL above it.
        reach = max(_NEAR, _NEAR_PER_PARAMETER * float(r.free.sum()))
        gw = 1.0 / (1.0 + np.maximum(ds.nll - float(r.minimum_nll), 0.0) / reach) ** 2
        if recipe == "rates":
            assert ds.rates is not None
            rates = np.maximum(ds.rates, _LEAST_RATE * np.maximum(r.minimum_rates, 1e-9))
            y = np.log(rates)
            # The error of the NLL is the sum of (rate - count) times that of the logarithm of the rate.
            w = ((rates - r.observed) ** 2 + rates + 1.0) * gw[:, None]
        else:
            base, base_slope = map(np.asarray, _baselines(core, x))
            y, w = (np.log1p(main) - base)[:, None], np.ones((len(ds), 1))
            slope = None if slope is None else slope / (1.0 + main)[:, None] - base_slope * np.asarray(core.scale)
            gw = np.ones(len(ds))  # of logarithms
    core = _with_linear_part(core, inputs, y, w, linear=recipe == "rates")
    left = y - inputs @ np.asarray(core.skip) - np.asarray(core.offset)
    spread = np.sqrt((w * left**2).mean(0) / w.mean(0)) + 1e-9
    w = w * spread**2
    columns |= {"y": (left / spread).astype(np.float32), "w": (w / w.mean()).astype(np.float32)}
    if slope is not None:
        target = slope if recipe == "rates" else slope / spread
        columns |= {"g": target.astype(np.float32), "gw": gw.astype(np.float32)}
    mean, whiten = _standardized(inputs, ds, core)
    return Prepared(core, columns, spread, mean, whiten)


def _blank(ds: SurrogateDataset, recipe: str) -> Core:
    """A surrogate that knows where it is to be valid, and nothing else."""
    x, r = ds.parameters, ds.reference
    spread = x.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    center, logs = x.mean(0), ()
    if recipe == "rates" and r is not None:
        logs = tuple(np.flatnonzero(r.factors & (spread > 0)).tolist())
        center = np.where(r.factors & (r.minimum > 1e-3 * scale), r.minimum, center)
    origin, covariance = (center, np.diag(spread**2)) if r is None else (r.minimum, r.covariance)
    free = np.flatnonzero((spread > 0) & (np.diagonal(covariance) > 0))
    whiten = np.zeros((len(origin), len(free)))
    whiten[free] = np.linalg.inv(np.linalg.cholesky(covariance[np.ix_(free, free)])).T
    radius = max(
        np.sqrt((((part - origin) @ whiten) ** 2).sum(1)).max() for part in np.array_split(x, len(x) // 4096 + 1)
    )
    none = np.zeros((0,))
    core = Core(
        center, scale, none, (), none, r, ds.parameter_bounds[:, 0], ds.parameter_bounds[:, 1], origin, whiten,
        np.asarray(radius), (), recipe, logs,
    )  # fmt: skip
    if recipe == "residual" and r is not None:
        core = replace(core, expansion=tuple(map(np.asarray, main_expansion(r))))
    return core


def _with_linear_part(core: Core, x: np.ndarray, y: np.ndarray, w: np.ndarray, linear: bool) -> Core:
    """The part of the outputs that is linear in the inputs, by weighted least squares."""
    n_out = y.shape[1]
    if not linear:
        mean = (w * y).sum(0) / w.sum(0)
        return replace(core, skip=np.zeros((x.shape[1], n_out)), offset=mean)
    some = np.linspace(0, len(x) - 1, min(len(x), _LINEAR_POINTS)).astype(int)
    # One weight for all outputs, so that they share one factorization.
    root = np.sqrt((w[some] / w[some].mean(0)).mean(1, keepdims=True))
    matrix = np.concatenate([x[some], np.ones((len(some), 1))], axis=1)
    solution = np.linalg.lstsq(matrix * root, y[some] * root, rcond=1e-8)[0]
    return replace(core, skip=solution[:-1], offset=solution[-1])


def _standardized(inputs: np.ndarray, ds: SurrogateDataset, core: Core) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the inputs, and the matrix that gives what is left of them unit variance."""
    mean, spread = inputs.mean(0), inputs.std(0)
    whiten = np.diag(np.where(spread > 1e-9, 1.0 / np.where(spread > 1e-9, spread, 1.0), 0.0))
    if ds.metadata.get("method") == "gaussian":
        # Around the minimum: coordinates in which the fit's Hessian is the unit matrix.
        n, free = len(core.center), core.whiten.shape[1]
        block = np.asarray(core.scale)[:, None] * np.asarray(core.whiten)
        whiten[:n, :n] = 0.0
        whiten[:n, :free] = block / np.sqrt(((inputs[:, :n] - mean[:n]) @ block).var(0).mean())
    return mean, whiten


@jax.jit
def _constraints(r: Reference, points: Any) -> tuple[Array, Array]:
    """Constraint terms and their gradients, shapes (n,) and (n, n_params)."""
    return lax.map(jax.value_and_grad(lambda x: constraints(r, x)), points, batch_size=_BATCH)


@jax.jit
def _baselines(core: Core, points: Any) -> tuple[Array, Array]:
    return lax.map(jax.value_and_grad(lambda x: log_baseline(core, x)), points, batch_size=_BATCH)


def _train_one(
    prepared: Prepared, order: np.ndarray, cut: int, hidden: tuple[int, ...], weight: float, options: Options,
    device: Any, progress: bool,
) -> tuple[Core, dict[str, np.ndarray]]:  # fmt: skip
    """One network, folded into the surrogate."""
    n_inputs, n_outputs = prepared.whiten.shape[1], len(prepared.spread)
    weights = init_network(hidden, n_inputs, n_outputs, options.seed)
    data = {name: column[order[cut:]] for name, column in prepared.columns.items()}
    held_out = {name: column[order[:cut]] for name, column in prepared.columns.items()}
    fixed = _Fixed.of(prepared, device)
    if weight:
        # Relative to the error before training, as the targets are.
        start = float(_gradient_error(fixed, weights, {name: column[:_BATCH] for name, column in data.items()}))
        data["gw"], held_out["gw"] = data["gw"] / np.float32(start), held_out["gw"] / np.float32(start)
    loss = partial(_loss, fixed, weight)
    weights, history = train(loss, weights, data, held_out, options, device, progress)
    return _folded(prepared, layers_of(weights)), history


class _Fixed(NamedTuple):
    """What the loss reads beside weights and minibatch, in float32."""

    core: Core
    spread: Any
    mean: Any
    whiten: Any
    observed: Any

    @classmethod
    def of(cls, prepared: Prepared, device: Any) -> _Fixed:
        r = prepared.core.reference
        observed = np.zeros(0) if r is None else r.observed
        arrays = (prepared.core, prepared.spread, prepared.mean, prepared.whiten, observed)
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)
        return cls(*jax.device_put(single, device))


def _loss(fixed: _Fixed, weight: float, weights: Any, batch: Any) -> Array:
    """Weighted squared error of the targets and, in Sobolev training, of a gradient."""
    output = _output(fixed, weights, _inputs(fixed, batch["x"]))
    result = (batch["w"] * (output - batch["y"]) ** 2).mean()
    return result + weight * _gradient_error(fixed, weights, batch) if weight else result


def _inputs(fixed: _Fixed, x: Array) -> Array:
    """Inputs of the network from standardized parameters."""
    core = fixed.core
    return features(x * core.scale + core.center, core.center, core.scale, core.logs)


def _output(fixed: _Fixed, weights: Any, inputs: Array) -> Array:
    return network(layers_of(weights), (inputs - fixed.mean) @ fixed.whiten)


def _gradient_error(fixed: _Fixed, weights: Any, batch: Any) -> Array:
    """Weighted squared error of the gradient of the target, or of the NLL's main term."""
    core = fixed.core

    def value(x: Array) -> Array:
        inputs = _inputs(fixed, x)
        output = _output(fixed, weights, inputs)
        if core.recipe != "rates":
            return output[0]
        rates = jnp.exp(inputs @ core.skip + output * fixed.spread + core.offset)
        return poisson_deviance(fixed.observed, rates).sum()

    error = ((jax.vmap(jax.grad(value))(batch["x"]) - batch["g"]) ** 2).mean(1)
    return (batch["gw"] * error).mean()


def _folded(prepared: Prepared, layers: Any) -> Core:
    """The surrogate with standardization and scales folded into its first and last layer."""
    wide = [(np.asarray(kernel, np.float64), np.asarray(bias, np.float64)) for kernel, bias in layers]
    kernel, bias = wide[0]
    wide[0] = prepared.whiten @ kernel, bias - prepared.mean @ prepared.whiten @ kernel
    kernel, bias = wide[-1]
    wide[-1] = kernel * prepared.spread, bias * prepared.spread
    single = tuple((np.asarray(k, np.float32), np.asarray(b, np.float32)) for k, b in wide)
    core = prepared.core
    return replace(
        core,
        layers=single,
        skip=np.asarray(core.skip, np.float32),
        offset=np.asarray(core.offset, np.float32),
    )


def _joined(histories: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Histories of an ensemble, one after the other with a leading axis where there are several."""
    if len(histories) == 1:
        return histories[0]
    longest = max(len(h["train_loss"]) for h in histories)
    padded = [
        {k: v if v.ndim == 0 else np.pad(v, (0, longest - len(v)), mode="edge") for k, v in h.items()}
        for h in histories
    ]
    return {name: np.stack([h[name] for h in padded]) for name in padded[0]}


def _graded(surrogate: Surrogate, ds: SurrogateDataset, rows: np.ndarray) -> Surrogate:
    """The surrogate with its error on the held-out points, in units of the NLL."""
    error = np.asarray(surrogate.nll(ds.parameters[rows])) - ds.nll[rows]
    facts = {"validation_rmse": np.sqrt(np.mean(error**2)), "validation_max": np.abs(error).max()}
    return replace(surrogate, history={**surrogate.history, **facts})
