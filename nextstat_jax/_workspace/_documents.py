"""JSON documents, wherever they come from: text, files or mappings, read into plain values or into typed records."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from .._base._errors import WorkspaceError
from .._base._rules import describe, fail, quote
from ._explain import explain, locate

# What reading JSON may raise: for bad syntax, a bad encoding, deep nesting.
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)

_GZIP = b"\x1f\x8b"
_SCALARS = frozenset((float, int, str, bool, type(None)))


def read_document(source: object, record: Any) -> Any:
    """Read a record from JSON text, a path, or a mapping.

    Args:
        source: Bytes, and a string that starts with ``{`` or ``[`` after white space, are JSON text. Another string or
            an `os.PathLike` is the path of a file, compressed by gzip or not. A mapping is the document itself; its
            tuples, NumPy scalars and arrays count as lists and numbers. (A file whose name starts with a bracket needs
            a `pathlib.Path`.)
        record: The type to read: a msgspec Struct.

    Returns:
        The record. All its rules hold.

    Raises:
        WorkspaceError: The source cannot be read, or the document breaks a rule of the record.
    """
    if isinstance(source, Mapping):
        return convert_document(_plain_document(source), record)
    text = _text(source)
    try:
        return msgspec.json.decode(text, type=record)
    except msgspec.ValidationError as error:
        raise explain(error, _parse(text)) from None
    except _UNREADABLE:
        # The parser of the standard library says where the text breaks off, and reads the NaN and Infinity that
        # Python writes, so that the rules can say where they stand.
        return convert_document(_parse(text), record)


def load_document(source: object) -> Any:
    """Read plain Python values from any source that `read_document` takes; never the caller's own objects."""
    return _plain_document(source) if isinstance(source, Mapping) else _parse(_text(source))


def convert_document(document: Any, record: Any) -> Any:
    """Make a record from plain Python values, or say what is wrong with them."""
    try:
        return msgspec.convert(document, record)
    except msgspec.ValidationError as error:
        raise explain(error, document) from None
    except OverflowError:  # msgspec before 0.22 does not say where
        path, value = _first(document, lambda x: isinstance(x, int) and abs(x) > sys.float_info.max) or ("$", document)
        raise locate(WorkspaceError(path, describe(value), "a finite number"), document) from None
    except UnicodeError:
        path, value = _first(document, _is_broken) or ("$", document)
        found = f"{describe(value)}, which contains half of a character"
        raise locate(WorkspaceError(path, found, "text"), document) from None


def _is_broken(value: Any) -> bool:
    """Whether a string has half of a character, which JSON can write and no file can hold."""
    return isinstance(value, str) and any("\ud800" <= one <= "\udfff" for one in value)


def _first(value: Any, wrong: Callable[[Any], bool], path: str = "$") -> tuple[str, Any] | None:
    """The first key or value of a document that is wrong, with its place."""
    if wrong(value):
        return path, value
    if isinstance(value, dict):
        below = [(f"{path}.{quote(key) if _is_broken(key) else key}", key, item) for key, item in value.items()]
    else:
        below = [(f"{path}[{k}]", None, x) for k, x in enumerate(value)] if isinstance(value, list) else []
    found = ((place, key) if wrong(key) else _first(item, wrong, place) for place, key, item in below)
    return next(filter(None, found), None)


def _text(source: object) -> str | bytes:
    """Return the JSON text of a source: itself, or the content of the file that it names."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _unpacked(bytes(source), "the bytes")
    if isinstance(source, str):
        text = source.removeprefix("\ufeff")
        if text.lstrip()[:1] in ("{", "["):
            return text
    elif not isinstance(source, os.PathLike):
        fail("$", describe(source), "JSON text, a path or a mapping")
    try:
        content = Path(os.fsdecode(source)).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        found = f"{quote(os.fsdecode(source))}, which is no file that can be read ({reason})"
        raise WorkspaceError("$", found, "the path of a file, or JSON text, which starts with { or [") from None
    return _unpacked(content, quote(os.fsdecode(source)))


def _unpacked(content: bytes, what: str) -> bytes:
    """Content without its compression by gzip, if it has one, and without a byte-order mark."""
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            found = f"{what}, compressed by gzip and damaged ({error})"
            raise WorkspaceError("$", found, "a whole gzip file, or JSON text") from None
    return content.removeprefix(codecs.BOM_UTF8)


def _parse(text: str | bytes) -> Any:
    """Parse JSON text with the standard library, saying where it is broken."""
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno} (character {error.pos})"
        if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated"):
            fail("$", f"JSON text that breaks off {where}", "a complete JSON document")
        near = quote(error.doc[error.pos : error.pos + 20])
        fail("$", f"malformed JSON {where}: {error.msg}, near {near}", "a JSON document")
    except RecursionError:
        fail("$", "JSON text that is nested too deeply", "a JSON document")
    except ValueError as error:
        fail("$", f"text that is no JSON: {error}", "a JSON document in UTF-8")


def _plain_document(source: Mapping[Any, Any]) -> Any:
    """Copy a mapping into plain Python values, or say which part of it is no JSON."""
    try:
        return plain(source)
    except WorkspaceError as error:
        raise locate(error, source) from None
    except RecursionError:
        fail("$", "a mapping that is nested too deeply, or contains itself", "a JSON document")


def plain(value: Any, path: str = "$") -> Any:
    """Copy JSON-like Python values into plain dicts, lists, strings, numbers, bools and None.

    Args:
        value: Mappings, lists, tuples, scalars, and whatever has a method ``tolist``, as NumPy scalars and arrays do.
        path: Where the value stands, for the error.

    Returns:
        The copy. It shares nothing mutable with the value.

    Raises:
        WorkspaceError: Another type, or a key that is not a string.
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                fail(path, f"the key {key!r} of type {type(key).__name__}", "keys that are strings")
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        if _SCALARS.issuperset(map(type, value)):
            return list(value)
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), path)
    for base in (str, int, float):  # subclasses, such as the members of an enumeration
        if isinstance(value, base):
            return base(value)
    raise WorkspaceError(path, describe(value), "a JSON value")
