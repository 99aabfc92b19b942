"""Rules for the numbers and names of a JSON record, and words for what was found in it.

A rule raises a `WorkspaceError` whose path starts at the record (``$`` is the record itself); whoever read the document
completes it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn

from ._errors import WorkspaceError

Floats = tuple[float, ...]
Bounds = tuple[tuple[float, float], ...]


def fail(path: str, found: str, expected: str) -> NoReturn:
    """Raise a `WorkspaceError` whose names are still to be filled in. It says all there is to say of its cause."""
    raise WorkspaceError(path, found, expected) from None


def describe(value: object) -> str:
    """Say in a few words what a JSON value is; long strings are cut."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the string {quote(value)}"
        case int() if abs(value) >= 10**20:
            return "an integer beyond the range of a float" if abs(value) > 1e308 else f"the number {float(value)}"
        case int() | float():
            return f"the number {value}"
        case Mapping():
            keys = ", ".join(quote(str(key)) for key in value)
            return f"an object with the keys {keys}" if keys else "an empty object"
        case list() | tuple():
            return f"an array of {len(value)}" if value else "an empty array"
        case _:
            return f"a Python {type(value).__name__}"


def quote(text: str, limit: int = 60) -> str:
    """Quote a string, cut to a length that leaves a message readable."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}... ({len(text)} characters)"


def require_finite(values: Any, path: str) -> None:
    """Refuse NaN and infinities."""
    # One sum settles the usual case in C; it may overflow for legal values, hence the second look.
    if math.isfinite(values.sum() if hasattr(values, "sum") else sum(values)):  # an array has one of its own
        return
    for index, value in enumerate(values):
        if not math.isfinite(value):
            fail(f"{path}[{index}]", describe(value), "a finite number")


def require_non_negative(values: Any, path: str, what: str) -> None:
    """Refuse values below zero, and those that are not finite."""
    require_finite(values, path)
    if (values.min(initial=0.0) if hasattr(values, "min") else min(values, default=0.0)) < 0.0:
        index = next(i for i, value in enumerate(values) if value < 0.0)
        fail(f"{path}[{index}]", describe(values[index]), f"{what} of zero or more")


def require_positive(values: Sequence[float], path: str, what: str) -> None:
    """Refuse values of zero and below."""
    for index, value in enumerate(values):
        if not value > 0.0:
            fail(f"{path}[{index}]", describe(value), f"a positive {what}")


def require_length(values: Any, length: int, path: str, because: str) -> None:
    """Refuse an array whose length differs from the number of bins or parameters it stands for."""
    if len(values) != length:
        fail(path, f"{len(values)} {'entry' if len(values) == 1 else 'entries'}", f"{length}, {because}")


def require_unique(keys: Sequence[Hashable], path: str, what: str) -> None:
    """Refuse a second entry of the same name; ``path`` is that of the array."""
    if len(set(keys)) == len(keys):
        return
    first: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        if first.setdefault(key, index) != index:
            fail(f"{path}[{index}]", f"{what} {key!r} a second time (entry {first[key]} has it)", "each name once")
