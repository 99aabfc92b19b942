"""Arguments that are looked at before a function of the public face runs, in one line each."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ._doors import as_array, number
from ._errors import FitError, NextstatError

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[Any, str, type[NextstatError]], Any]


def checked(error: type[NextstatError] = FitError, **checks: Check) -> Callable[[F], F]:
    """Makes a function look at its arguments: each check returns the argument, or raises ``error``."""

    def of(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            given = signature.bind(*args, **options)
            for name, check in checks.items():
                if name in given.arguments:
                    given.arguments[name] = check(given.arguments[name], name, error)
            return function(*given.args, **given.kwargs)

        return run  # type: ignore[return-value]

    return of


def a_text(value: Any, name: str, error: type[NextstatError]) -> str:
    """Text that can be written."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise error(f"{name}={value!r:.60}: expected text")


def texts(value: Any, name: str, error: type[NextstatError]) -> Any:
    """One text, or a list of some."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return a_text(value, name, error)
    return [a_text(one, f"{name}[{k}]", error) for k, one in enumerate(value)]


def a_path(value: Any, name: str, error: type[NextstatError]) -> Path:
    """The path of a file or of a folder."""
    path = str(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        raise error(f"{name}={value!r:.60} is no path")
    return Path(a_text(path, name, error))


def a_real(value: Any, name: str, error: type[NextstatError]) -> float:
    """One finite number."""
    return number(one_of_array(value), name, -np.inf, np.inf, error)


def a_number(value: Any, name: str, error: type[NextstatError]) -> float:
    """One number, NaN and infinite ones among them."""
    array = np.asarray(as_array(one_of_array(value), name, np.dtype(np.float64), error))
    if array.ndim:
        raise error(f"{name} has shape {array.shape}: expected one number")
    return float(array)


def one_of_array(value: Any) -> Any:
    """What is in an array without axes; anything else as it is."""
    if np.ma.is_masked(value):
        return None
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 and hasattr(value, "dtype") else value


def levels(value: Any, name: str, error: type[NextstatError]) -> Any:
    """One confidence level, or a list of some."""

    def one(x: Any, name: str) -> float:
        return number(one_of_array(x), name, 0.0, 1.0, error, ": a confidence level, such as 0.95")

    listed = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if listed and not len(value):
        raise error(f"{name} is empty: give a confidence level, such as 0.95")
    return [one(x, f"{name}[{k}]") for k, x in enumerate(value)] if listed else one(value, name)


def reals(value: Any, name: str, error: type[NextstatError]) -> Any:
    """An array of finite numbers, or one."""
    array = np.asarray(as_array(value, name, np.dtype(np.float64), error))
    if not np.isfinite(array).all():
        raise error(f"{name} holds {array.reshape(-1)[np.argmin(np.isfinite(array))]}: give finite numbers")
    return array


def a_mapping(value: Any, name: str, error: type[NextstatError]) -> Mapping[Any, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise error(f"{name} is a {type(value).__name__}: expected a mapping from names")
    return value


def by_name(check: Check) -> Check:
    """A mapping from names to what passes a check."""

    def of(value: Any, name: str, error: type[NextstatError]) -> dict[str, Any]:
        return {
            a_text(key, f"a key of {name}", error): check(entry, f"{name}[{key!r:.40}]", error)
            for key, entry in a_mapping(value, name, error).items()
        }

    return of


def perhaps(check: Check) -> Check:
    """None, or what passes a check."""

    def of(value: Any, name: str, error: type[NextstatError]) -> Any:
        return None if value is None else check(value, name, error)

    return of
