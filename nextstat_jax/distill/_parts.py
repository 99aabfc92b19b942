"""Folders of data sets in parts: what their files are called, and whether they are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._base._errors import DatasetError

# Readers of partitioned Parquet skip what begins with an underscore.
MANIFEST = "_manifest.json"
FORMAT = "nextstat_jax.distill.parts/1"


def part_files(folder: Path) -> list[Path]:
    """The parts of a complete data set, in order.

    Raises:
        DatasetError: If the folder is no data set, or a part is missing: it is never read as whole then.
    """
    manifest = read_manifest(folder)
    files = [folder / part_name(k) for k in range(-(-manifest["n_samples"] // manifest["part_size"]))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DatasetError(f"{len(absent)} of {len(files)} parts are missing: finish it with generate_parquet")
    return files


def part_name(number: int) -> str:
    """File name of a part."""
    return f"part-{number:05d}.parquet"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was asked for; ``DatasetError`` for a folder that says nothing of it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        good = manifest["format"] == FORMAT and manifest["part_size"] > 0 and isinstance(manifest["request"], dict)
    except FileNotFoundError:
        raise DatasetError(f"{folder} holds no {MANIFEST}: it is no data set of generate_parquet") from None
    except (OSError, ValueError, KeyError, TypeError):
        good, manifest = False, {}
    if not good:
        raise DatasetError(f"{folder / MANIFEST} is damaged, or was not written by this package")
    return manifest
