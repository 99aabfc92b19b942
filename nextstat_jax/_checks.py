"""The rules of a workspace that its types cannot express, and the errors that name what breaks them.

A rule looks at one record and raises a `WorkspaceError` whose path starts at that record (``$`` is the record itself).
Whoever read the document adds, with `explain` or `locate`, where the record stands in it and what the channel, sample
and modifier on the way are called. So the rules stay small, and every error still names the whole way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from ._errors import WorkspaceError

Floats = tuple[float, ...]
Bounds = tuple[tuple[float, float], ...]


class Kind(NamedTuple):
    """What a modifier type makes of its parameters, as pyhf 0.7 does.

    Attributes:
        scalar: Whether the parameter has one component, whatever the number of bins.
        init: The start value of a component; None where the measurement has to say it.
        bounds: The bounds of a component; None where the measurement has to say them.
        options: The keys that a parameter configuration may hold beside ``inits``, ``bounds`` and ``fixed``.
    """

    scalar: bool
    init: float | None
    bounds: tuple[float, float] | None
    options: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "normfactor": Kind(True, 1.0, (0.0, 10.0)),
    "shapefactor": Kind(False, 1.0, (0.0, 10.0)),
    "lumi": Kind(True, None, None, ("auxdata", "sigmas")),
    "normsys": Kind(True, 0.0, (-5.0, 5.0), ("auxdata",)),
    "histosys": Kind(True, 0.0, (-5.0, 5.0), ("auxdata",)),
    "shapesys": Kind(False, 1.0, (1e-10, 10.0), ("auxdata", "factors")),
    "staterror": Kind(False, 1.0, (1e-10, 10.0), ("auxdata", "sigmas")),
}

# The two types that may share one parameter: both interpolate with a unit Gaussian constraint on it.
_INTERPOLATED = frozenset(("normsys", "histosys"))


def fail(path: str, found: str, expected: str) -> NoReturn:
    """Raise a `WorkspaceError` whose names are still to be filled in."""
    raise WorkspaceError(path, found, expected)


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


# Rules for numbers and names


def require_finite(values: Sequence[float], path: str) -> None:
    """Refuse NaN and infinities."""
    # One sum settles the usual case in C; it may overflow for legal values, hence the second look.
    if math.isfinite(sum(values)):
        return
    for index, value in enumerate(values):
        if not math.isfinite(value):
            fail(f"{path}[{index}]", describe(value), "a finite number")


def require_non_negative(values: Sequence[float], path: str, what: str) -> None:
    """Refuse values below zero, and those that are not finite."""
    require_finite(values, path)
    if min(values, default=0.0) < 0.0:
        index = next(i for i, value in enumerate(values) if value < 0.0)
        fail(f"{path}[{index}]", describe(values[index]), f"{what} of zero or more")


def require_positive(values: Sequence[float], path: str, what: str) -> None:
    """Refuse values of zero and below."""
    for index, value in enumerate(values):
        if not value > 0.0:
            fail(f"{path}[{index}]", describe(value), f"a positive {what}")


def require_length(values: Sequence[object], length: int, path: str, because: str) -> None:
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


# Rules for parameters: which modifiers share one, and how a measurement may configure it


class Occurrence(NamedTuple):
    """One modifier on one sample of one channel.

    Attributes:
        channel: The name of the channel.
        sample: The name of the sample.
        name: The name of the modifier, hence of its parameter.
        kind: The type of the modifier, a key of `KINDS`.
        bins: The number of bins of the channel.
        path: Where the modifier stands in the workspace.
    """

    channel: str
    sample: str
    name: str
    kind: str
    bins: int
    path: str


class Declared(NamedTuple):
    """A parameter that at least one modifier declares.

    Attributes:
        kind: The type of its modifiers; normsys or histosys where it has both.
        size: The number of its components.
        path: Where it is declared first.
    """

    kind: str
    size: int
    path: str


def declared_parameters(occurrences: Iterable[Occurrence]) -> dict[str, Declared]:
    """Collect the parameters of a workspace, and refuse names that modifiers cannot share.

    Args:
        occurrences: All modifiers, their channels sorted by name: pyhf takes the number of components of a shapefactor
            from the first channel in that order.

    Returns:
        The parameters by name.

    Raises:
        WorkspaceError: Modifiers of incompatible types, or of incompatible numbers of bins, share a name.
    """
    table: dict[str, Declared] = {}
    staterrors: dict[str, dict[str, list[Occurrence]]] = {}
    for item in occurrences:
        known = table.get(item.name)
        if item.kind == "staterror":
            staterrors.setdefault(item.name, {}).setdefault(item.sample, []).append(item)
        if known is None:
            size = 1 if KINDS[item.kind].scalar else item.bins
            table[item.name] = Declared(item.kind, size, item.path)
        else:
            _require_shareable(item, known)
    for name, samples in staterrors.items():
        table[name] = table[name]._replace(size=_staterror_size(samples))
    return table


def _require_shareable(item: Occurrence, known: Declared) -> None:
    """Refuse a modifier that cannot share the parameter which another one declared."""
    if item.kind != known.kind and not {item.kind, known.kind} <= _INTERPOLATED:
        fail(
            item.path,
            f"a {item.kind} that shares its name with the {known.kind} at {known.path}",
            "another name: only normsys and histosys share a parameter across types",
        )
    if item.kind == "shapesys":
        fail(item.path, f"a shapesys name that {known.path} uses already", "a name of its own for each shapesys")
    if item.kind == "shapefactor" and item.bins > known.size:
        # pyhf scales the surplus bins by parameter 0 of the model, whatever that is.
        fail(
            item.path,
            f"a shapefactor over {item.bins} bins",
            f"at most {known.size}: the first channel by name ({known.path}) sets its number of components",
        )


def _staterror_size(samples: Mapping[str, Sequence[Occurrence]]) -> int:
    """Count the bins of all channels of a staterror, which has to cover the same ones for each of its samples."""
    reference, *others = samples.items()
    channels = {item.channel for item in reference[1]}
    for sample, items in others:
        covered = {item.channel for item in items}
        if covered != channels:
            fail(
                items[0].path,
                f"a staterror that covers {sorted(covered)} for {sample!r} but {sorted(channels)} for {reference[0]!r}",
                "the same channels for all samples that share it, or a name for each channel",
            )
    return sum(item.bins for item in reference[1])


class Configuration(NamedTuple):
    """What a measurement says of one parameter: the fields of a parameter configuration, None where not given."""

    inits: Floats | None = None
    bounds: Bounds | None = None
    auxdata: Floats | None = None
    sigmas: Floats | None = None
    factors: Floats | None = None


def require_configuration(given: Configuration, parameter: Declared, path: str) -> None:
    """Check the configuration of a parameter against the modifiers that declare it.

    Args:
        given: The configuration.
        parameter: What the modifiers declare under its name.
        path: Where the configuration stands.

    Raises:
        WorkspaceError: A key that the parameter has no use for, a wrong number of values, widths or factors that are
            not positive, bounds the wrong way round, or a start value outside its bounds.
    """
    kind = KINDS[parameter.kind]
    for key in ("auxdata", "sigmas", "factors"):
        if getattr(given, key) is not None and key not in kind.options:
            fail(f"{path}.{key}", f"{key} for a {parameter.kind}", f"no such key: a {parameter.kind} does not use it")
    for key, values in zip(given._fields, given, strict=True):
        if values is not None:
            require_length(values, parameter.size, f"{path}.{key}", f"one for each component of the {parameter.kind}")
    require_positive(given.sigmas or (), f"{path}.sigmas", "width")
    require_positive(given.factors or (), f"{path}.factors", "factor")
    if parameter.kind == "shapesys":
        require_non_negative(given.auxdata or (), f"{path}.auxdata", "auxiliary data of a Poisson constraint")
    _require_start_in_bounds(given, kind, parameter.size, path)


def _require_start_in_bounds(given: Configuration, kind: Kind, size: int, path: str) -> None:
    """Refuse lo > hi, and a given start value that the bounds exclude.

    A default start value outside given bounds is legal, as in pyhf; fits move it to the nearest bound.
    """
    inits, bounds = given.inits, given.bounds
    if bounds is None and kind.bounds is not None:
        bounds = (kind.bounds,) * size
    for index, (lo, hi) in enumerate(bounds or ()):
        if lo > hi:
            fail(f"{path}.bounds[{index}]", f"[{lo}, {hi}]", "a lower bound that is not above the upper one")
        if inits is not None and not lo <= inits[index] <= hi:
            found = f"the start value {inits[index]} outside [{lo}, {hi}]"
            fail(f"{path}.inits[{index}]", found, "a start value inside the bounds")


# From an error of msgspec or of a rule to one that names the whole way

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
    "type": f"one of {', '.join(sorted(KINDS))}",
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
    allowed = _ALLOWED.get(path.rpartition(".")[2], "another value")
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
