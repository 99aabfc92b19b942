"""From an error of msgspec or of a rule to one that names the whole way: the path, the channel, sample and modifier."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .._base._errors import WorkspaceError
from .._base._rules import describe, quote
from .._modifiers import REGISTRY

_AT = re.compile(r"(.*) - at (?:`key` in )?`([^`]*)`", re.DOTALL)
_TOKEN = re.compile(r"\.(\w+)|\[(\d+)\]")
_PHRASES = {
    "float": "a number",
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_ALLOWED = {
    "version": "the string '1.0.0', the only version there is",
    "name": "the string 'lumi', the only name that a modifier of type lumi may have",
}
_LABELS = {
    "channels": "channel",
    "samples": "sample",
    "observations": "observation",
    "measurements": "measurement",
    "parameters": "parameter",
    "patches": "patch",
}


def explain(error: msgspec.ValidationError, document: Any) -> WorkspaceError:
    """Turn an error of msgspec into one that says where, what was found and what was expected.

    Args:
        error: What decoding or converting raised, be it a wrong type or a rule of a record.
        document: The document that was read, as plain Python values.

    Returns:
        The error to raise.
    """
    match = _AT.fullmatch(str(error))
    message, path = match.groups() if match else (str(error), "$")
    if isinstance(error.__cause__, WorkspaceError):
        return locate(error.__cause__, document, path)
    found, expected = _in_words(message, path, value_at(document, path))
    return WorkspaceError(path, found, expected, names_along(document, path))


def locate(error: WorkspaceError, document: Any, base: str = "$") -> WorkspaceError:
    """Complete the error of a rule: its whole path, and the names along it."""
    path = base + error.path.removeprefix("$")
    return WorkspaceError(path, error.found, error.expected, error.names or names_along(document, path))


def _in_words(message: str, path: str, value: object) -> tuple[str, str]:
    """Say what was found and what was expected, from a message of msgspec and the value it is about."""
    what = describe(value)
    key = path.rpartition(".")[2]
    allowed = f"one of {', '.join(sorted(REGISTRY))}" if key == "type" else _ALLOWED.get(key, "another value")
    patterns: tuple[tuple[str, Callable[[str], tuple[str, str]]], ...] = (
        (r"Object missing required field `(.*)`", lambda key: (f"no key {key!r}", f"the key {key!r}")),
        (r"Object contains unknown field `(.*)`", lambda key: (f"the unknown key {key!r}", "only keys of the schema")),
        (r"Expected `array` of length >= 1()", lambda _: (what, "at least one entry")),
        (r"Expected `array` of length (\d+)", lambda length: (what, f"an array of {length}")),
        (r"Expected `object` of length >= 1()", lambda _: (what, "at least one key")),
        (r"Expected `([^`]*)`", lambda types: (what, _phrase(types))),
        (r"Number out of range()", lambda _: (what, "a finite number")),
        (r"Invalid (?:enum )?value .*()", lambda _: (what, allowed)),
    )
    for pattern, words in patterns:
        if match := re.match(pattern, message, re.DOTALL):
            return words(match[1])
    return message, "a document that follows the schema"


def _phrase(types: str) -> str:
    """Put the types that msgspec expected into words; null goes without saying beside another one."""
    wanted = [name for name in types.split(" | ") if name != "null"] or ["null"]
    return " or ".join(_PHRASES.get(name, name) for name in wanted)


def _steps(document: Any, path: str) -> list[tuple[str, Any]]:
    """Walk a path through a document as far as it goes: pairs of key and value, the root first."""
    steps: list[tuple[str, Any]] = [("$", document)]
    for key, index in _TOKEN.findall(path):
        value = steps[-1][1]
        if key and isinstance(value, Mapping) and key in value:
            steps.append((key, value[key]))
        elif index and isinstance(value, list | tuple) and int(index) < len(value):
            steps.append((steps[-1][0], value[int(index)]))
        else:
            break
    return steps


def value_at(document: Any, path: str) -> Any:
    """Return what stands at a path, or the last thing on the way that exists."""
    return _steps(document, path)[-1][1]


def names_along(document: Any, path: str) -> str:
    """Name the channel, sample, modifier, measurement or parameter that a path leads through."""
    names: list[str] = []
    for key, value in _steps(document, path):
        if not isinstance(value, Mapping):
            continue
        label = _LABELS.get(key)
        if key == "modifiers":
            label = f"{value['type']} modifier" if isinstance(value.get("type"), str) else "modifier"
        name = value.get("name")
        if key == "patches" and isinstance(value.get("metadata"), Mapping):
            name = value["metadata"].get("name")
        if label and isinstance(name, str):
            names.append(f"{label} {quote(name)}")
    return ", ".join(names)
