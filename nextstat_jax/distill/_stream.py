"""Data sets larger than memory: a folder of Parquet files, written part by part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.typing import ArrayLike
from tqdm import tqdm

from .._base._archive import atomic, first_line
from .._base._checked import a_path, checked
from .._base._doors import integer, no_type_check
from .._base._errors import DatasetError
from .._base._tables import plain
from .._batches._run import Run
from .._model._model import HistFactoryModel
from ._dataset import Asked, Request, make_request
from ._evaluate import Rows, Span, rows_of
from ._files import NONFINITE, UNREADABLE, read_part, schema_metadata, table_of
from ._parts import FORMAT, MANIFEST, part_files, part_name, read_manifest

# A part of this many numbers is a file of about 100 MB, which readers like.
_NUMBERS = 12_000_000


@checked(DatasetError, folder=a_path)
@no_type_check
def generate_parquet(
    model: HistFactoryModel,
    folder: str | Path,
    n_samples: int,
    method: str = "sobol",
    *,
    bounds: ArrayLike | Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    include_gradient: bool = True,
    include_rates: bool | None = None,
    nonfinite: str = "resample",
    device: Any = None,
    part_size: int | None = None,
    run: Run = Run(),
) -> int:
    """``generate_dataset`` straight to a folder of Parquet files, at flat memory however many points there are.

    The folder holds ``_manifest.json``, which says what was asked for, and ``part-00000.parquet`` and so on, each with
    the columns of ``to_parquet``: pyarrow, pandas, Spark and Dask read the folder, Polars and DuckDB
    ``folder/*.parquet``. Every file is written under a temporary name and renamed. A run that was interrupted is
    continued by the same call: parts that are there stay, the others are computed, and the result is the same. One
    process at a time writes to a folder.

    Args:
        model: As in ``generate_dataset``, like all arguments that are not explained here.
        folder: Where to write; made if it does not exist.
        n_samples: Number of points.
        method: How points are chosen.
        bounds: The box.
        seed: Seed.
        include_gradient: Whether to compute gradients.
        include_rates: Whether to keep the expected counts.
        nonfinite: What to do with points whose NLL is infinite; they are counted in each part.
        device: A JAX device.
        part_size: Points of a part, by default so many that a file has about 100 MB.
        run: How to run. Parts are written here, in order, whoever computes them.

    Returns:
        How many parts this call computed: 0 if all were there.

    Raises:
        DatasetError: For arguments that cannot be used, or a folder that holds something else: another model's data
            set, another request's, or files without a manifest.
    """
    asked = Asked(n_samples, method, bounds, seed, include_gradient, include_rates, nonfinite, device)
    request = make_request(model, asked, run)
    size = _part_size(request, part_size)
    names, path = model.parameter_names(), Path(folder)
    n = request.setup.plan.n_points
    _claim(path, _manifest(request, names, size))
    missing = [k for k in range(-(-n // size)) if not (path / part_name(k)).is_file()]
    header = schema_metadata(names, request.bounds, {**request.metadata, "part_size": size}, request.reference)
    # A part is cut into the same chunks whoever computes it, and chunks follow each other across parts.
    cuts = [Span(start, min(size, n - start)) for start in (k * size for k in missing)]
    chunk = request.setup.wanted.chunk
    spans = [[Span(a, min(chunk, s.first + s.size - a)) for a in range(s.first, s.first + s.size, chunk)] for s in cuts]
    stream = rows_of(request.setup, (span for part in spans for span in part))
    done, hidden = n - sum(s.size for s in cuts), not run.shows(by_default=True)
    with tqdm(total=n, initial=done, unit="point", disable=hidden) as bar:
        for number, part in zip(missing, spans, strict=True):
            _write(path / part_name(number), stream, len(part), names, header)
            bar.update(sum(span.size for span in part))
    return len(missing)


@checked(DatasetError, folder=a_path)
@no_type_check
def iterate_parquet(folder: str | Path) -> Iterator[pa.Table]:
    """The parts of a folder of ``generate_parquet`` one after the other, as Arrow tables.

    Raises:
        DatasetError: If the folder is no complete data set, or a part is damaged.
    """
    for file in part_files(Path(folder)):
        try:
            table = read_part(file)
        except UNREADABLE as error:
            raise DatasetError(f"{file} is damaged: {first_line(error)}") from None
        yield table


def _part_size(request: Request, part_size: Any) -> int:
    wanted, plan = request.setup.wanted, request.setup.plan
    chunk = wanted.chunk
    if part_size is not None:
        return integer(part_size, "part_size", error=DatasetError)
    columns = len(plan.base) * (2 if wanted.gradient else 1) + (request.reference.observed.size if wanted.rates else 0)
    return max(1, _NUMBERS // (columns + 1) // chunk) * chunk


def _manifest(request: Request, names: list[str], size: int) -> dict[str, Any]:
    wanted = request.setup.wanted
    facts = {key: value for key, value in request.metadata.items() if key not in ("versions", "n_nonfinite")}
    return {
        "format": FORMAT,
        "n_samples": request.setup.plan.n_points,
        "part_size": size,
        "parameter_names": names,
        "parameter_bounds": request.bounds.tolist(),
        "include_gradient": wanted.gradient,
        "include_rates": wanted.rates,
        "request": plain(facts),
    }


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Makes the folder this request's, or checks that it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be used: {error.strerror}") from None
    if MANIFEST not in there:
        if [name for name in there if not name.endswith(".tmp")]:
            raise DatasetError(f"{folder} holds files and no {MANIFEST}: give an empty or a new folder")
        with atomic(folder / MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())
        return
    found = read_manifest(folder)
    if found["request"].get("model_digest") != manifest["request"]["model_digest"]:
        raise DatasetError(f"{folder} holds a data set of another model: give a new folder")
    # The size of a part follows from the rest, unless it was given: it is compared last.
    for key, value in sorted(manifest.items(), key=lambda item: item[0] == "part_size"):
        if key == "request":
            key, value = next(((k, v) for k, v in value.items() if found["request"].get(k) != v), ("", None))
            if key:
                raise DatasetError(
                    f"{folder} was begun with {key}={found['request'].get(key)!r:.60}, not {value!r:.60}"
                )
        elif key == "parameter_bounds":
            if not np.allclose(np.asarray(found.get(key, np.nan), float), value, rtol=1e-9):
                raise DatasetError(f"{folder} was begun with other bounds: give a new folder")
        elif found.get(key) != value:
            raise DatasetError(f"{folder} was begun with {key}={found.get(key)!r:.60}, not {value!r:.60}")


def _write(path: Path, stream: Iterator[Rows], count: int, names: list[str], header: dict[bytes, bytes]) -> None:
    """One part from the next ``count`` chunks, each a row group."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)  # of a run that was killed
    with atomic(path) as file:
        writer, nonfinite = None, 0
        try:
            for _ in range(count):
                rows = next(stream)
                nonfinite += rows.n_nonfinite
                table = table_of(rows, names, header)
                writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.add_key_value_metadata({NONFINITE: str(nonfinite)})
                writer.close()
