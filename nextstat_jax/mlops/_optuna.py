"""Objectives for Optuna: what a search for a binning, a bandwidth or a training's settings maximizes or minimizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike

from .._base._checked import a_real, reals
from .._base._doors import no_type_check, number, one_of
from .._base._errors import MissingExtraError, ModelError
from .._minimize import _status
from .._model._base import require_model
from .._model._model import HistFactoryModel
from .._training._objectives import Options, data_kind, data_of, objective_of
from .._training._soft_histogram import soft_histogram

if TYPE_CHECKING:
    import optuna

Trial = Any
"""An Optuna trial, or anything else with its ``suggest_float``."""
Scores = ArrayLike | Sequence[float]


@no_type_check
def suggest_edges(
    trial: Trial, n_bins: int, low: float = 0.0, high: float = 1.0, *, name: str = "edges", spread: float = 2.0
) -> np.ndarray:
    """Bin edges that a trial chooses; any choice is a valid binning.

    ``edge_k = low + (high - low) * sum_{j < k} w_j`` with widths ``w = softmax(x)``: edges increase whatever the trial
    suggests, and no bin is wider than another by more than a factor of ``exp(2 * spread)``.

    Args:
        trial: An Optuna trial; ``NAME_0`` to ``NAME_{n_bins - 1}`` are suggested, each in [-spread, spread].
        n_bins: Number of bins. With 1 there is nothing to suggest.
        low: First edge.
        high: Last edge.
        name: Prefix of the suggested parameters.
        spread: Largest size of what is suggested.

    Returns:
        Edges, shape (n_bins + 1,), float64, strictly increasing from ``low`` to ``high``.

    Raises:
        ModelError: For numbers that make no binning.
    """
    if isinstance(n_bins, bool) or not isinstance(n_bins, int | np.integer) or n_bins < 1:
        raise ModelError(f"n_bins={n_bins!r}: expected a positive integer")
    if not (_real(low) and _real(high) and low < high):
        raise ModelError(f"low={low!r}, high={high!r}: expected finite numbers, the first below the second")
    if not (_positive(spread)):
        raise ModelError(f"spread={spread!r}: expected a finite number above 0")
    x = [trial.suggest_float(f"{name}_{k}", -spread, spread) for k in range(n_bins)] if n_bins > 1 else [0.0]
    widths = np.exp(np.asarray(x) - max(x))
    inner = np.cumsum(widths)[:-1] / widths.sum()
    edges = np.concatenate([[low], low + (high - low) * inner, [high]])
    if not (np.diff(edges) > 0).all():
        raise ModelError(f"{n_bins} bins between {low!r} and {high!r} are narrower than numbers can tell")
    return edges


@no_type_check
def suggest_bandwidth(trial: Trial, low: float = 1e-3, high: float = 0.5, *, name: str = "bandwidth") -> float:
    """A bandwidth for ``soft_histogram`` that a trial chooses, on a logarithmic scale.

    Args:
        trial: An Optuna trial.
        low: Smallest bandwidth, in the units of the scores, positive.
        high: Largest bandwidth.
        name: Name of the suggested parameter.

    Raises:
        ModelError: For a range that is none.
    """
    if not (_real(low) and _real(high) and 0 < low < high):
        raise ModelError(f"low={low!r}, high={high!r}: expected positive numbers, the first below the second")
    return trial.suggest_float(name, low, high, log=True)


class OptunaObjective:
    """An objective for ``study.optimize``: the expected significance, limit, ... of the models that trials build.

    ``build(trial)`` returns a model, or an iterator of models (a generator that yields one after each epoch of a
    training, for example). Of an iterator each value is reported to the trial as an intermediate one, and the trial is
    pruned where Optuna's pruner says so. A number in place of a model is taken as its value.

        def build(trial):
            rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
            for epoch in range(20):
                ...
                yield model.with_templates({"signal": histogram})

        objective = OptunaObjective(build, "z0")
        study = optuna.create_study(direction=objective.direction)
        study.optimize(objective, n_trials=50)

    A model whose fits do not converge or whose value is not finite (a bin without background makes Z0 infinite) is no
    result: its trial counts as pruned, and the trial's user attribute ``"reason"`` says why. In the middle of an
    iterator it is skipped, and nothing is reported for it.

    Args:
        build: Takes a trial.
        objective: An objective of ``SignificanceLoss``: ``"z0"``, ``"q0"``, ``"zmu"`` or ``"qmu"``, to maximize;
            ``"limit"`` (or ``"expected_limit"``), ``"cls"`` or ``"uncertainty"``, to minimize.
        data: ``"asimov"`` (by default): what the model itself expects, with the signal at mu = 1 or without it as in
            ``SignificanceLoss``; ``"observed"``: the model's data; or an array as ``fit`` takes it.
        choose: Which value of an iterator a trial ends with: the ``"last"`` or the ``"best"``.
        mu: Tested value for ``"cls"``, ``"zmu"`` and ``"qmu"``.
        level: Confidence level of ``"limit"``.

    Attributes:
        objective: Name of the objective.
        direction: ``"maximize"`` or ``"minimize"``, for ``optuna.create_study``.

    Raises:
        ModelError: For options that cannot be used; when called, for a study of another direction, or where ``build``
            returns neither models nor numbers.
        MissingExtraError: If optuna is not installed.
    """

    @no_type_check
    def __init__(
        self,
        build: Callable[[Trial], Any],
        objective: str = "z0",
        *,
        data: ArrayLike | Sequence[float] | str = "asimov",
        choose: str = "last",
        mu: float = 1.0,
        level: float = 0.95,
    ) -> None:
        if not callable(build):
            raise ModelError(f"build is a {type(build).__name__}: expected a function of a trial")
        self._objective = objective_of(objective)
        self._kind = data_kind(data)
        if self._kind == "given":
            given = reals(data, "data", ModelError)
            if given.ndim != 1:
                raise ModelError(f"data has shape {given.shape}: expected one vector")
            data = given
        one_of(choose, ("last", "best"), "choose", ModelError)
        mu = a_real(mu, "mu", ModelError)
        if mu < 0:
            raise ModelError(f"mu={mu:g}: expected a number that is not negative")
        level = number(level, "level", 0.5, 1.0, ModelError, ": a confidence level, such as 0.95")
        # Of a value that is looked at, not differentiated, the root needs no help.
        self._options = Options(float(mu), level, eps=0.0)
        self.build, self.data, self.choose = build, data, choose
        self.objective = self._objective.name
        self.direction = "maximize" if self._objective.larger else "minimize"

    @no_type_check
    def __call__(self, trial: optuna.Trial) -> float:
        """The value of a trial; raises ``optuna.TrialPruned`` for one that is pruned or has none."""
        optuna = _optuna()
        self._check(trial)
        built = self.build(trial)
        if not isinstance(built, Iterator):
            value, reason = self.value(built)
            if reason:
                trial.set_user_attr("reason", reason)
                raise optuna.TrialPruned(reason)
            return value
        values, reason = [], "build yielded no model"
        for step, one in enumerate(built):
            value, flaw = self.value(one)
            if flaw:
                reason = flaw
                continue
            values.append(value)
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"at step {step}")
        if not values:
            trial.set_user_attr("reason", reason)
            raise optuna.TrialPruned(reason)
        best = max if self.direction == "maximize" else min
        return values[-1] if self.choose == "last" else best(values)

    def value(self, model: Any) -> tuple[float, str]:
        """The objective of one model, and an empty string or what is wrong with it."""
        if not isinstance(model, HistFactoryModel):
            value = _as_number(model)
            return value, "" if math.isfinite(value) else f"{self.objective} is {value}"
        if not _finite(model):
            return math.nan, "the yields of the model are not finite"
        objective, given = self._objective, None if self._kind == "observed" else self.data
        data = data_of(model, self._kind, given, objective.expects)
        found = objective.ask(model, data, None, self._options)
        value, status = float(objective.value(found, self._options)), objective.status(found)
        if math.isinf(value):
            return value, f"{self.objective} is {value}"
        if int(status) != _status.CONVERGED:
            return value, f"no {self.objective}: {_status.message(status)}"
        return value, f"{self.objective} is {value}" if math.isnan(value) else ""

    def _check(self, trial: Any) -> None:
        """``ModelError`` where the study would go the wrong way."""
        study = getattr(trial, "study", None)
        names = [one.name.lower() for one in getattr(study, "directions", ())]
        if names and names != [self.direction]:
            raise ModelError(f"the study's direction is {', '.join(names)}: {self.objective} needs {self.direction!r}")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "mlops") from None
    return optuna


def _finite(model: HistFactoryModel) -> bool:
    """Whether everything in a model is a number, and expects finite counts: a training may have diverged."""
    known = not any(np.isnan(leaf).any() for leaf in map(np.asarray, jax.tree.leaves(model)) if leaf.dtype.kind == "f")
    return known and bool(np.isfinite(model.expected_data(model.parameter_init())).all())


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ModelError(f"build gave a {type(value).__name__}: expected a model, a number, or an iterator") from None


@no_type_check
def significance_objective(
    model: HistFactoryModel,
    events: Mapping[Any, Scores | tuple[Scores, Scores]],
    *,
    low: float = 0.0,
    high: float = 1.0,
    bandwidth: float | str | None = None,
    objective: str = "z0",
    data: ArrayLike | Sequence[float] | str = "asimov",
    spread: float = 2.0,
    mu: float = 1.0,
    level: float = 0.95,
) -> OptunaObjective:
    """An objective that finds the binning of a score, and the bandwidth of its soft histograms if wanted.

    Each trial chooses edges (``suggest_edges``), fills the histograms of all events anew, puts them in place of the
    model's templates and takes the objective, such as the expected significance. Everything else in the model stays as
    it is; give the variations and statistical uncertainties that depend on the binning as events, too.

    Args:
        model: The model; its number of bins is the binning's.
        events: What to histogram: scores, or a pair (scores, weights), by template key as ``with_templates`` takes it,
            ``"signal"`` or ``("background", "SR")`` for example. For a key that ends with ``"stat"`` the template is
            the statistical uncertainty of the histogram, ``sqrt(sum of squared weights)``. All histograms have the same
            bins.
        low: First edge; events below are dropped.
        high: Last edge; events above are dropped.
        bandwidth: None for hard histograms, a number for soft ones, or ``"suggest"`` to let each trial choose one
            between 1e-3 and half of the range from ``low`` to ``high``.
        objective: As in ``OptunaObjective``.
        data: As in ``OptunaObjective``.
        spread: As in ``suggest_edges``.
        mu: As in ``OptunaObjective``.
        level: As in ``OptunaObjective``.

    Returns:
        ``OptunaObjective``. ``objective.build(study.best_trial)`` is the best trial's model.

    Raises:
        ModelError: For events or keys that do not fit the model, or options that cannot be used.
    """
    require_model(model)
    model.require_poi()
    if not isinstance(events, Mapping) or not events:
        raise ModelError(f"events is {events!r:.60}: expected a mapping from template keys to scores")
    if not (bandwidth is None or _suggested(bandwidth) or _positive(bandwidth)):
        raise ModelError(f"bandwidth={bandwidth!r}: expected None, a positive number or 'suggest'")
    filled = {key: _scores(key, value) for key, value in events.items()}
    n_bins = _n_bins(model, next(iter(filled)))

    def build(trial: Trial) -> HistFactoryModel:
        edges = suggest_edges(trial, n_bins, low, high, spread=spread)
        width = bandwidth
        if _suggested(bandwidth):
            width = suggest_bandwidth(trial, 1e-3 * (high - low), 0.5 * (high - low))
        return model.with_templates({key: _fill(key, *pair, edges, width) for key, pair in filled.items()})

    # A trial would fail in the same way, but in the middle of a study.
    build(_Middle())
    return OptunaObjective(build, objective, data=data, mu=mu, level=level)


class _Middle:
    """A trial that suggests the middle of every range."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return math.sqrt(low * high) if log else 0.5 * (low + high)


def _suggested(bandwidth: Any) -> bool:
    return isinstance(bandwidth, str) and bandwidth == "suggest"


def _real(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _real(value) and value > 0


def _scores(key: Any, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores and weights of one template."""
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    try:
        scores = np.asarray(pair[0], float)
        weights = np.ones_like(scores) if pair[1] is None else np.asarray(pair[1], float)
    except (TypeError, ValueError):
        raise ModelError(f"events of {key!r} are {value!r:.60}: expected scores, or (scores, weights)") from None
    if scores.ndim != 1 or scores.shape != weights.shape:
        raise ModelError(f"events of {key!r}: scores of shape {scores.shape}, weights of shape {weights.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
        raise ModelError(f"events of {key!r} hold a number that is not finite")
    return scores, weights


def _n_bins(model: HistFactoryModel, key: Any) -> int:
    """Number of bins of a template: that of the channel in its key, or of all channels of the sample."""
    if not (isinstance(key, str | tuple) and key):
        raise ModelError(f"template key {key!r}: expected a sample, or a tuple as with_templates takes it")
    parts = [key] if isinstance(key, str) else list(key)
    channel = parts[1] if len(parts) > 1 and parts[1] in model.channels else None
    return model.template(parts[0], channel).shape[0]


def _fill(key: Any, scores: np.ndarray, weights: np.ndarray, edges: np.ndarray, bandwidth: Any) -> Any:
    statistical = not isinstance(key, str) and key[-1] == "stat"
    filled = weights * weights if statistical else weights
    if bandwidth is None:
        histogram = np.histogram(scores, edges, weights=filled)[0]
    else:
        histogram = np.asarray(soft_histogram(scores, edges, filled, bandwidth=bandwidth))
    return np.sqrt(histogram) if statistical else histogram
