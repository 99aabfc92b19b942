"""Files that are whole or not there: arrays with a JSON header in ``.npz``. Nothing is pickled or unpickled."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np

from ._errors import DatasetError

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def write_npz(path: Any, arrays: dict[str, Any], header: str, *, compressed: bool = True) -> None:
    """Arrays and a JSON header in one file."""
    save = np.savez_compressed if compressed else np.savez
    with atomic(path) as file:
        save(file, allow_pickle=False, header=np.frombuffer(header.encode(), np.uint8), **arrays)


def read_npz(path: Any, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file that ``write_npz`` wrote, checked to be whole and of the given format."""
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise zipfile.BadZipFile("it is no .npz file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                # Reading a member to its end checks its checksum.
                arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        found = header["format"]
    except FileNotFoundError:
        raise DatasetError(f"there is no file {path}") from None
    except UNREADABLE as error:
        raise DatasetError(f"{path} is damaged, or was not written by this package: {first_line(error)}") from None
    if found != kind:
        raise DatasetError(f"{path} has the format {found!r:.60}, expected {kind!r}")
    return header, arrays


@contextmanager
def atomic(path: Any) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is complete and on disk; what fails leaves nothing behind.

    Raises:
        DatasetError: If the folder is missing or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {first_line(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
