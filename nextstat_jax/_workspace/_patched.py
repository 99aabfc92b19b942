"""One workspace with many patches in turn, read at the cost of what each of them changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ._documents import convert_document, load_document
from ._patches import Patch, apply_patches, verify_digests
from ._records import Sample, Workspace, sample_type, workspace_type


def read_patched(source: object, patches: Iterable[Patch]) -> Iterator[Workspace]:
    """Read a workspace once for each of many patches, each applied to the workspace as it was given.

    The document is parsed once, its digests are verified once, and samples that a patch leaves alone are records that
    were made once.

    Args:
        source: As in ``read_workspace``.
        patches: Entries of a patch set.

    Yields:
        What ``read_workspace(source, patch)`` returns for each patch.

    Raises:
        WorkspaceError: As ``read_workspace`` does, for the first patch that does not fit.
    """
    document = load_document(source)
    verified: list[Mapping[str, str]] = []
    # By identity: a patched document shares with the first one what no operation changes, and that one stays alive.
    records = {id(sample): record for sample in _samples(document) if (record := _record(sample)) is not None}
    for patch in patches:
        if patch.digests not in verified:
            verify_digests(patch.digests, document, f"patch {patch.name!r}")
            verified.append(patch.digests)
        patched = apply_patches(document, msgspec.structs.replace(patch, digests={}))
        try:
            yield msgspec.convert(_with_records(patched, records), workspace_type())
        except (msgspec.ValidationError, OverflowError):
            # Once more without the records, for a message that quotes the document.
            yield convert_document(patched, workspace_type())


def _channels(document: Any) -> list[dict[str, Any]]:
    """The channels of a document that may break any rule: those that have a list of samples."""
    channels = document.get("channels") if isinstance(document, dict) else None
    whole = channels if isinstance(channels, list) else []
    return [entry for entry in whole if isinstance(entry, dict) and isinstance(entry.get("samples"), list)]


def _samples(document: Any) -> Iterator[Any]:
    for channel in _channels(document):
        yield from channel["samples"]


def _record(sample: Any) -> Sample | None:
    """The record of a sample; None for one that breaks a rule, which a patch may mend."""
    try:
        return msgspec.convert(sample, sample_type())
    except (msgspec.ValidationError, OverflowError):
        return None


def _with_records(document: Any, records: Mapping[int, Sample]) -> Any:
    """The document with records in place of the samples that have one."""
    channels = _channels(document)
    if not channels or len(channels) != len(document["channels"]):
        return document
    replaced = [{**c, "samples": [records.get(id(sample), sample) for sample in c["samples"]]} for c in channels]
    return {**document, "channels": replaced}
