"""JSON patches (RFC 6902) and pyhf's patch sets.

A patch set holds one patch for each point of a grid of signal hypotheses, together with digests of the background-only
workspace that it was made for. Everything here runs on the host and leaves its arguments as they are.

Example:
    >>> patches = PatchSet.read({
    ...     "metadata": {"labels": ["mass"], "digests": {"md5": "99914b932bd37a50b983c5e7c90ae93b"}},
    ...     "patches": [
    ...         {"metadata": {"name": "m300", "values": [300]}, "patch": [{"op": "add", "path": "/a", "value": 1}]}
    ...     ],
    ...     "version": "1.0.0",
    ... })
    >>> patches.names
    ('m300',)
    >>> patches.apply({}, "m300") == patches.apply({}, (300,)) == {"a": 1}
    True
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import jsonpatch
import msgspec

from .._base._errors import WorkspaceError
from .._base._rules import describe, fail, quote, require_length, require_unique
from ._documents import load_document, plain, read_document

# What applying an operation may raise; the built-in ones come from pointers into numbers, strings and null.
_INAPPLICABLE = (
    jsonpatch.JsonPatchException,
    jsonpatch.JsonPointerException,
    TypeError,
    LookupError,
    ValueError,
    AttributeError,
)


class Patch(msgspec.Struct, frozen=True):
    """One patch: an entry of a patch set, or a list of operations that stands alone.

    Attributes:
        name: The name of the entry; empty for a patch that stands alone.
        values: Its coordinates, one for each label of the patch set.
        operations: The JSON patch operations.
        digests: The digests of the workspace that the patch set was made for, by algorithm; `apply` verifies them.
    """

    name: str = ""
    values: tuple[int | float | str, ...] = ()
    operations: tuple[dict[str, Any], ...] = ()
    digests: dict[str, str] = {}

    def apply(self, workspace: object) -> Any:
        """Return the patched document of a workspace, once its digests are verified."""
        return apply_patches(load_document(workspace), self)


class _EntryMetadata(msgspec.Struct, frozen=True):
    name: str
    values: tuple[int | float | str, ...]


class _Entry(msgspec.Struct, frozen=True):
    metadata: _EntryMetadata
    patch: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        _require_operations(self.patch, "$.patch")


class _Metadata(msgspec.Struct, frozen=True):
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    digests: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    description: str = ""

    def __post_init__(self) -> None:
        for algorithm in self.digests:
            if algorithm not in ("md5", "sha256"):
                fail("$.digests", f"the algorithm {algorithm!r}", "md5 or sha256")


class _PatchSetDocument(msgspec.Struct, frozen=True):
    metadata: _Metadata
    patches: Annotated[tuple[_Entry, ...], msgspec.Meta(min_length=1)]
    version: Literal["1.0.0"]

    def __post_init__(self) -> None:
        metadata = [entry.metadata for entry in self.patches]
        require_unique([entry.name for entry in metadata], "$.patches", "the patch name")
        require_unique([entry.values for entry in metadata], "$.patches", "the values")
        for index, entry in enumerate(metadata):
            path = f"$.patches[{index}].metadata.values"
            require_length(entry.values, len(self.metadata.labels), path, "one for each label of the patch set")


@dataclass(frozen=True, repr=False)
class PatchSet:
    """The patches of a grid of signal hypotheses, as pyhf's patch sets hold them.

    Iteration and ``len`` go over the patches. ``patches["name"]``, ``patches[300, 60]`` (the values) and
    ``patches[(300, 60)]`` find one. Other metadata of the document are ignored.

    Attributes:
        patches: The patches, in their order in the document.
        labels: The names of the coordinates.
        digests: Digests of the workspace that the patches are for, by algorithm (md5, sha256).
        description: What the patches represent.
    """

    patches: tuple[Patch, ...]
    labels: tuple[str, ...]
    digests: Mapping[str, str]
    description: str = ""

    @classmethod
    def read(cls, source: object) -> PatchSet:
        """Read a patch set.

        Args:
            source: JSON text, bytes, a path, a mapping, or a ``pyhf.PatchSet``.

        Returns:
            The patch set.

        Raises:
            WorkspaceError: The source cannot be read, or breaks the schema: a missing key, another version than 1.0.0,
                an unknown digest algorithm, an invalid operation, a name or values used twice, or a number of values
                that differs from the number of labels.
        """
        if _is_foreign_set(source):
            source = _foreign_document(source)
        document = read_document(source, _PatchSetDocument)
        metadata = document.metadata
        patches = tuple(Patch(e.metadata.name, e.metadata.values, e.patch, metadata.digests) for e in document.patches)
        return cls(patches, metadata.labels, metadata.digests, metadata.description)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the patches."""
        return tuple(patch.name for patch in self.patches)

    @cached_property
    def _index(self) -> dict[Hashable, Patch]:
        return {key: patch for patch in self.patches for key in (patch.values, patch.name)}

    def __getitem__(self, key: Any) -> Patch:
        """Find a patch by its name, or by its values.

        Args:
            key: The name, or a tuple or list of the values; one number will do where there is one label.

        Returns:
            The patch.

        Raises:
            WorkspaceError: There is no such patch.
        """
        lookup = tuple(key) if isinstance(key, list | tuple) else key if isinstance(key, str) else (key,)
        if lookup in self._index:
            return self._index[lookup]
        labels = ", ".join(self.labels)
        known = ", ".join(f"{patch.name} {patch.values}" for patch in self.patches[:3])
        more = ", ..." if len(self) > 3 else ""
        expected = f"one of {len(self)}, by name or values ({labels}): {known}{more}"
        raise WorkspaceError("$.patches", f"no patch {key!r}", expected)

    def __len__(self) -> int:
        """Count the patches."""
        return len(self.patches)

    def __iter__(self) -> Iterator[Patch]:
        """Go over the patches."""
        return iter(self.patches)

    def __contains__(self, key: object) -> bool:
        """Say whether a patch, a name or a tuple of values is among them."""
        return key in self.patches if isinstance(key, Patch) else isinstance(key, Hashable) and key in self._index

    def __repr__(self) -> str:
        """Show the size and the labels."""
        return f"PatchSet({len(self)} patches over {', '.join(self.labels)})"

    def verify(self, workspace: object) -> None:
        """Check that a workspace is the one that the patches were made for.

        Args:
            workspace: The workspace: JSON text, bytes, a path or a mapping.

        Raises:
            WorkspaceError: A digest differs.
        """
        verify_digests(self.digests, load_document(workspace), "the patch set")

    def apply(self, workspace: object, name: Any) -> Any:
        """Apply one patch to a workspace whose digests agree.

        Args:
            workspace: The workspace: JSON text, bytes, a path or a mapping; it is not changed.
            name: The name of the patch, or its values.

        Returns:
            The document of the patched workspace.

        Raises:
            WorkspaceError: There is no such patch, a digest differs, or an operation fails.
        """
        return self[name].apply(workspace)


def _is_foreign_set(source: object) -> bool:
    """Recognize a ``pyhf.PatchSet`` without importing pyhf."""
    return all(hasattr(source, name) for name in ("patches", "metadata", "version"))


def _foreign_document(source: Any) -> dict[str, Any]:
    """Write a ``pyhf.PatchSet`` back as the document that it came from."""
    entries = [{"metadata": patch.metadata, "patch": patch.patch} for patch in source.patches]
    return {"metadata": source.metadata, "patches": entries, "version": source.version}


def digest(document: Any, algorithm: str) -> str:
    """Compute the digest (md5 or sha256) of a plain document as pyhf does: over its JSON with sorted keys."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    # A lone surrogate, legal in JSON, has no UTF-8: replaced, it gives a digest that cannot agree.
    return hashlib.new(algorithm, text.encode("utf-8", errors="replace"), usedforsecurity=False).hexdigest()


def verify_digests(digests: Mapping[str, str], document: Any, owner: str) -> None:
    """Refuse a document whose digests differ from the ones given."""
    for algorithm, expected in digests.items():
        try:
            found = digest(document, algorithm)
        except ValueError as error:  # an integer of more digits than Python prints
            fail("$", f"a workspace without digest: {error}", "a JSON document")
        if found != expected.lower():
            fail("$", f"a workspace with the {algorithm} digest {found}", f"{expected}, which {owner} was made for")


def apply_patches(document: Any, patch: object) -> Any:
    """Apply one or several patches to a document.

    Args:
        document: The workspace as plain Python values; never changed.
        patch: None, a list of operations, JSON text or the path of one, a `Patch`, a ``pyhf.Patch`` or another
            ``jsonpatch.JsonPatch``, or a list of several of them, which are applied in turn.

    Returns:
        The patched document. It shares with the first one what no operation changes.

    Raises:
        WorkspaceError: The patch cannot be read, its digests disagree with the document, or an operation fails. The
            path of the error is then ``patch[i]``, the operation.
    """
    patches = list(_patches(patch))
    # All digests are those of the workspace before any of the patches.
    for entry in patches:
        verify_digests(entry.digests, document, f"patch {quote(entry.name)}")
    for entry in patches:
        _require_operations(entry.operations, "patch", entry.name)
        for index, operation in enumerate(entry.operations):
            document = _apply_operation(document, operation, f"patch[{index}]", entry.name)
    return document


def _patches(patch: object) -> Iterator[Patch]:
    """Find the patches in whatever a caller may give as such."""
    if patch is None:
        return
    if isinstance(patch, Patch):
        yield patch
    elif isinstance(patch, PatchSet) or _is_foreign_set(patch):
        fail("patch", "a whole patch set", "one of its entries, such as patch_set['name']")
    elif isinstance(operations := getattr(patch, "patch", None), list):  # a jsonpatch.JsonPatch, perhaps pyhf's
        yield Patch(name=str(getattr(patch, "name", "")), operations=_plain_operations(operations))
    elif isinstance(patch, str | bytes | os.PathLike):
        yield from _patches(_load_patch(patch))
    elif isinstance(patch, Mapping):
        yield _patch_of_mapping(patch)
    elif isinstance(patch, list | tuple) and all(isinstance(item, Mapping) and "patch" not in item for item in patch):
        yield Patch(operations=_plain_operations(patch))
    elif isinstance(patch, list | tuple):
        for item in patch:
            yield from _patches(item)
    else:
        fail("patch", describe(patch), "JSON patch operations, or an entry of a patch set")


def _load_patch(source: str | bytes | os.PathLike[str]) -> Any:
    """Load a patch from text or a file, its errors marked as the patch's."""
    try:
        document = load_document(source)
    except WorkspaceError as error:
        raise WorkspaceError("patch", error.found, error.expected) from None
    for index, item in enumerate(document if isinstance(document, list) else ()):
        # Strings are paths where a caller gives them, never where a file does.
        if not isinstance(item, Mapping):
            fail(f"patch[{index}]", describe(item), "a JSON patch operation")
    return document


def _patch_of_mapping(patch: Mapping[Any, Any]) -> Patch:
    """Make a patch from a mapping: an entry as it stands in a patch set, or a single operation."""
    if "patches" in patch:
        fail("patch", "a whole patch set", "one of its entries: PatchSet.read(...)['name']")
    if "patch" in patch:
        entry = read_document(patch, _Entry)
        return Patch(entry.metadata.name, entry.metadata.values, entry.patch)
    return Patch(operations=_plain_operations([patch]))


def _plain_operations(operations: Sequence[Any]) -> tuple[Any, ...]:
    """Copy operations into plain values: a patch must not share its values with the documents it changes."""
    try:
        return tuple(plain(operation, f"patch[{index}]") for index, operation in enumerate(operations))
    except RecursionError:
        fail("patch", "operations that are nested too deeply", "JSON patch operations")


def _require_operations(operations: Sequence[Any], path: str, name: str = "") -> None:
    """Refuse operations that are malformed, before any of them is applied."""
    for index, operation in enumerate(operations):
        try:
            jsonpatch.JsonPatch([operation])
        except _INAPPLICABLE as error:
            names = f"patch {quote(name)}" if name else ""
            raise WorkspaceError(f"{path}[{index}]", str(error), "a JSON patch operation", names) from None


def _apply_operation(document: Any, operation: dict[str, Any], path: str, name: str) -> Any:
    """Apply one operation, or say which one failed and why."""
    what = f"{operation['op']} {operation['path']}"
    names = f"patch {quote(name)}, {what}" if name else what
    try:
        for pointer in (operation["path"], operation.get("from", "")):
            document = _unshared(document, pointer)
        return jsonpatch.JsonPatch([plain(operation)]).apply(document, in_place=True)
    except _INAPPLICABLE as error:
        raise WorkspaceError(path, str(error), "an operation that fits the workspace", names) from None


def _unshared(document: Any, pointer: str) -> Any:
    """Copy the containers on the way to what a pointer names, so that a change there shows in no other document."""
    result = copy.copy(document)
    inner: Any = result
    for part in jsonpatch.JsonPointer(pointer).parts:
        key: Any = int(part) if isinstance(inner, list) and part.isdecimal() else part
        if not (key in inner if isinstance(inner, dict) else isinstance(inner, list) and key in range(len(inner))):
            break  # the operation adds it, or fails and says why
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    return result
