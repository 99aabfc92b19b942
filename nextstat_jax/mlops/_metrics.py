"""Results as flat dictionaries of numbers, which is what every tracker of experiments takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from .._base._checked import a_mapping, a_number, a_text, checked, perhaps
from .._base._doors import flag, no_type_check, one_of
from .._base._errors import ModelError
from .._base._special import ndtr
from .._inference._asymptotics import Discovery
from .._inference._fit import FitResult
from .._inference._goodness import pulls
from .._inference._result import Result
from .._inference._statistics import BANDS
from .._model._base import Model

NONFINITE = ("drop", "keep")
_INDICES = re.compile(r"(/\d+)+$")


@checked(ModelError, parameters=flag, prefix=a_text, extra=perhaps(a_mapping))
@no_type_check
def metrics_dict(
    result: Result | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    prefix: str = "",
    *,
    parameters: bool = True,
    model: Model | None = None,
    nonfinite: str = "drop",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """A result as a flat dictionary from names to Python floats.

    A fit gives ``mu``, ``mu_uncertainty`` (where the model has a parameter of interest), ``nll``, ``edm``,
    ``converged`` (1 or 0), ``n_iter``, ``n_at_bound``, and by parameter ``value/NAME``, ``uncertainty/NAME`` and
    ``pull/NAME``. Every other result gives the numbers of its ``to_dict()``: parts of parts are joined with ``/``,
    truth values are 1 or 0, words are left out, rows with a name are called by it, and the five expected values are
    ``NAME_m2``, ``NAME_m1``, ``NAME``, ``NAME_p1`` and ``NAME_p2``: at -2 to +2 standard deviations. Items of lists are
    numbered, ``NAME/0`` and so on.

    Args:
        result: ``FitResult``, ``HypoTest``, ``Discovery``, ``UpperLimit``, ``Impacts`` or any other result with a
            ``to_dict()``; the list that ``rank_impact`` returns; or a mapping of numbers, nested or not.
        prefix: Put in front of every name, as it is: ``"train/"`` for example.
        parameters: Whether a fit gives its parameters one by one.
        model: The model of a fit: with it ``pull/NAME`` is given for the parameters that have a constraint.
        nonfinite: ``"drop"`` leaves out numbers that are not finite (and those that a result calls None), ``"keep"``
            keeps them, NaN for a None whose number is not known.
        extra: More numbers (with the prefix, too); they replace those of the same name.

    Returns:
        The dictionary.

    Raises:
        ModelError: For what is no result, a batch of results, values that are no numbers, or two numbers of one name.

    Example:
        >>> metrics_dict({"loss": np.float32(0.5), "val": {"z0": 2, "best": True}}, "run/")
        {'run/loss': 0.5, 'run/val/z0': 2.0, 'run/val/best': 1.0}
    """
    one_of(nonfinite, NONFINITE, "nonfinite", ModelError)
    if model is not None and not isinstance(result, FitResult):
        raise ModelError("model is for the pulls of a FitResult alone")
    flat: dict[str, float] = {}
    if isinstance(result, FitResult):
        _flatten(_fit(result, parameters, model), "", flat)
    else:
        _flatten(_plain(result), "", flat)
    if extra is not None:
        more: dict[str, float] = {}
        _flatten(extra, "", more)
        flat |= more
    return {prefix + name: x for name, x in flat.items() if nonfinite == "keep" or math.isfinite(x)}


def _fit(result: FitResult, parameters: bool, model: Any) -> dict[str, Any]:
    result._require_single()
    numbers: dict[str, Any] = {}
    if result.poi_index is not None:
        numbers |= {"mu": result.mu, "mu_uncertainty": result.mu_uncertainty}
    names = ("nll", "edm", "converged", "n_iter")
    numbers |= {name: getattr(result, name) for name in names}
    numbers["n_at_bound"] = len(result.at_bound)
    if parameters:
        for kind, values in {"value": result.params, "uncertainty": result.uncertainties}.items():
            numbers[kind] = dict(zip(result.parameter_names, np.asarray(values).tolist(), strict=True))
    if model is not None:
        pulled = pulls(model, result)
        numbers["pull"] = dict(zip(pulled.names, np.asarray(pulled.pull).tolist(), strict=True))
    return numbers


def _plain(result: Any) -> Any:
    """A mapping or a list of rows; where a result has an infinity or NaN, its ``to_dict`` has None."""
    if not hasattr(result, "to_dict") or isinstance(result, Mapping):
        if isinstance(result, Mapping) or _rows(result):
            return result
        raise ModelError(f"a {type(result).__name__} is no result: give a fit, a test, a limit or a mapping")
    plain = dict(result.to_dict())
    for name, value in plain.items():
        holes = value is None or (isinstance(value, list) and None in value)
        known = getattr(result, name, None)
        if holes and known is not None:
            plain[name] = np.asarray(known).tolist()
    return plain


def _rows(value: Any) -> bool:
    rows = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return rows and all(isinstance(row, Mapping) and isinstance(row.get("name"), str) for row in value)


def _flatten(value: Any, name: str, flat: dict[str, float]) -> None:
    if isinstance(value, str):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{name}/{key}" if name else str(key), flat)
    elif _rows(value):
        for row in value:
            _flatten({key: item for key, item in row.items() if key != "name"}, _under(name, row["name"]), flat)
    elif isinstance(value, list | tuple) or np.ndim(value) > 0:
        listed = list(value)
        # Lists of words, such as the names of parameters on bounds, have no numbers.
        for key, item in zip(_places(name, listed), listed, strict=True):
            _flatten(item, key, flat)
    else:
        if name in flat:
            raise ModelError(f"two numbers are called {name!r}: rename one")
        flat[name] = _number(name, value)


def _under(name: str, key: str) -> str:
    return f"{name}/{key}" if name else key


def _places(name: str, items: list[Any]) -> list[str]:
    """Names of the items of a list; expected values are called by their standard deviations."""
    base = _INDICES.sub("", name)
    if base.endswith("expected") and len(items) == len(BANDS) and not any(map(np.ndim, items)):
        marks = [f"_{'m' if k < 0 else 'p'}{abs(k)}" if k else "" for k in BANDS]
        return [base + mark + name[len(base) :] for mark in marks]
    return [f"{name}/{k}" for k in range(len(items))]


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ModelError(f"{name} is {value!r:.60}: expected a number") from None


@checked(
    ModelError,
    q0=perhaps(a_number),
    loss=perhaps(a_number),
    step_time_ms=perhaps(a_number),
    prefix=a_text,
    extra=perhaps(a_mapping),
)
@no_type_check
def significance_metrics(
    z0: ArrayLike | Discovery,
    q0: ArrayLike | None = None,
    *,
    loss: ArrayLike | None = None,
    step_time_ms: float | None = None,
    prefix: str = "",
    nonfinite: str = "drop",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """What one step of a training on the significance has to say, ready for logging.

    Args:
        z0: Discovery significance in standard deviations, a scalar (of Python, NumPy, JAX or another library that
            converts to ``float``); or a ``Discovery``, which also gives ``z0_expected``, ``q0_expected``,
            ``p0_expected`` and ``mu_hat``.
        q0: Test statistic; ``z0**2`` by default.
        loss: What was minimized; ``-z0`` by default.
        step_time_ms: Time of the step in milliseconds, left out if not given: ``StepTimer.last`` for example.
        prefix: Put in front of every name.
        nonfinite: As in ``metrics_dict``.
        extra: More numbers, ``StepTimer.metrics()`` for example; they replace those of the same name.

    Returns:
        ``z0``, ``q0``, ``p0`` (the p-value ``1 - Phi(z0)``), ``loss``, and what else was given.

    Raises:
        ModelError: For values that are no numbers.

    References:
        arXiv:1007.1727, equations 1 and 53.

    Example:
        >>> significance_metrics(2.0, step_time_ms=1.5, prefix="train/")
        {'train/z0': 2.0, 'train/q0': 4.0, 'train/p0': 0.02275, 'train/loss': -2.0, 'train/step_time_ms': 1.5}
    """
    numbers: dict[str, Any] = {}
    if isinstance(z0, Discovery):
        z0._require_single()
        names = ("z0_expected", "q0_expected", "p0_expected", "mu_hat")
        numbers = {name: getattr(z0, name) for name in names}
        q0 = z0.q0 if q0 is None else q0
        z0 = z0.z0
    z = a_number(z0, "z0", ModelError)
    q0, loss = z * z if q0 is None else q0, -z if loss is None else loss
    numbers = {"z0": z, "q0": q0, "p0": ndtr(-z), "loss": loss, **numbers}
    if step_time_ms is not None:
        numbers["step_time_ms"] = step_time_ms
    return metrics_dict(numbers, prefix, nonfinite=nonfinite, extra=extra)
