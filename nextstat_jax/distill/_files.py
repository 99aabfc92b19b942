"""Data sets as files: ``.npz`` and Parquet. Nothing is pickled or unpickled; a file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .._base._archive import UNREADABLE as _UNREADABLE
from .._base._archive import atomic, first_line, read_npz, write_npz
from .._base._checked import a_path, checked
from .._base._doors import no_type_check
from .._base._errors import DatasetError
from .._base._tables import plain
from ._dataset import SurrogateDataset, check_dataset
from ._evaluate import Rows
from ._parts import part_files
from ._reference import Reference

FORMAT = "nextstat_jax.distill.dataset/1"
# Names of Parquet columns that are no parameters.
_NLL, _GRADIENT, _RATE = "nll", "grad_", "rate_"
_KEY = b"nextstat_jax"
_COLUMNS = ("parameters", "nll", "gradient", "rates")
# Where each part says how many of its points had no finite NLL.
NONFINITE = "nextstat_jax.n_nonfinite"
UNREADABLE = (*_UNREADABLE, pa.ArrowException)


@checked(DatasetError, path=a_path)
@no_type_check
def to_npz(ds: SurrogateDataset, path: Any) -> None:
    """Writes a data set as a compressed ``.npz`` file, under a temporary name that is then renamed.

    Args:
        ds: The data set.
        path: The file; its name is taken as it is.

    Raises:
        DatasetError: If it cannot be written.
    """
    check_dataset(ds)
    arrays = {name: x for name in _COLUMNS if (x := getattr(ds, name)) is not None}
    header = json.dumps(_header(ds.parameter_names, ds.metadata))
    reference = {} if ds.reference is None else {f"reference_{k}": v for k, v in ds.reference.arrays().items()}
    write_npz(path, {**arrays, "parameter_bounds": ds.parameter_bounds, **reference}, header)


@checked(DatasetError, path=a_path)
@no_type_check
def from_npz(path: str | Path) -> SurrogateDataset:
    """Reads what ``to_npz`` wrote.

    Raises:
        DatasetError: If the file is missing, damaged, of another kind, or holds pickled objects, which are not read.
    """
    header, arrays = read_npz(path, FORMAT)
    try:
        columns = {name: arrays.get(name) for name in _COLUMNS}
        parts = {k.removeprefix("reference_"): v for k, v in arrays.items() if k.startswith("reference_")}
        return _checked(columns, header, arrays["parameter_bounds"], parts)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise DatasetError(f"{path} is not a data set of this package: {first_line(error)}") from None


@checked(DatasetError, path=a_path)
@no_type_check
def to_parquet(ds: SurrogateDataset, path: Any) -> None:
    """Writes a data set as one Parquet file, compressed by zstd, under a temporary name that is then renamed.

    Each parameter is a column of its own name; ``nll`` holds the NLL, ``grad_<name>`` its derivatives, ``rate_<bin>``
    the expected counts. Bounds and metadata stand in the schema's metadata.

    Args:
        ds: The data set.
        path: The file.

    Raises:
        DatasetError: If it cannot be written, or a parameter is called like another column.
    """
    check_dataset(ds)
    rows = Rows(ds.parameters, ds.nll, ds.gradient, ds.rates, 0)
    header = schema_metadata(ds.parameter_names, ds.parameter_bounds, ds.metadata, ds.reference)
    with atomic(path) as file:
        pq.write_table(table_of(rows, ds.parameter_names, header), file, compression="zstd", write_page_checksum=True)


@checked(DatasetError, path=a_path)
@no_type_check
def from_parquet(path: str | Path) -> SurrogateDataset:
    """Reads what ``to_parquet`` wrote, or a whole folder of ``generate_parquet``.

    Raises:
        DatasetError: If the file is missing, damaged or of another kind.
    """
    files = [Path(path)]
    if Path(path).is_dir():
        files = part_files(Path(path))
    try:
        tables = [read_part(file) for file in files]
        header, bounds, reference = _of_schema(tables[0].schema.metadata or {})
        names = header["parameter_names"]
        columns = _columns_of(pa.concat_tables(tables), names)
        if Path(path).is_dir():
            count = sum(map(_nonfinite_of, files))
            header["metadata"] |= {"n_samples": sum(table.num_rows for table in tables), "n_nonfinite": count}
        return _checked(columns, header, bounds, reference)
    except FileNotFoundError:
        raise DatasetError(f"there is no file {path}") from None
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise DatasetError(f"{path} is damaged, or was not written by this package: {first_line(error)}") from None


def read_part(path: Any) -> pa.Table:
    """One Parquet file, its checksums compared."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def _nonfinite_of(path: Path) -> int:
    facts = pq.read_metadata(path).metadata or {}
    return int(facts.get(NONFINITE.encode(), 0))


def table_of(rows: Rows, names: list[str], metadata: dict[bytes, bytes]) -> pa.Table:
    """Rows as a table with one column for each number."""
    columns: dict[str, np.ndarray] = {}
    _add(columns, names, rows.parameters)
    _add(columns, [_NLL], rows.nll[:, None])
    if rows.gradient is not None:
        _add(columns, [_GRADIENT + name for name in names], rows.gradient)
    if rows.rates is not None:
        _add(columns, [f"{_RATE}{k}" for k in range(rows.rates.shape[1])], rows.rates)
    arrays = [pa.array(np.ascontiguousarray(column)) for column in columns.values()]
    return pa.table(arrays, names=list(columns)).replace_schema_metadata(metadata)


def _add(columns: dict[str, np.ndarray], names: list[str], values: np.ndarray) -> None:
    for name, column in zip(names, values.T, strict=True):
        if name in columns:
            raise DatasetError(f"a parameter is called {name!r}, as another column is: write an .npz file instead")
        columns[name] = column


def _columns_of(table: pa.Table, names: list[str]) -> dict[str, np.ndarray | None]:
    def some(wanted: list[str]) -> np.ndarray | None:
        if not wanted or wanted[0] not in table.column_names:
            return None
        result = np.empty((table.num_rows, len(wanted)))
        for k, name in enumerate(wanted):
            result[:, k] = table.column(name).to_numpy()
        return result

    others = set(table.column_names) - set(names)
    n_rates = sum(name.startswith(_RATE) and name[len(_RATE) :].isdigit() for name in others)
    return {
        "parameters": some(names),
        "nll": table.column(_NLL).to_numpy().copy(),
        "gradient": some([_GRADIENT + name for name in names]),
        "rates": some([f"{_RATE}{k}" for k in range(n_rates)]),
    }


def schema_metadata(
    names: list[str], bounds: np.ndarray, metadata: dict[str, Any], reference: Reference | None
) -> dict[bytes, bytes]:
    """What a Parquet file says of itself: JSON whose numbers are exact."""
    arrays = {} if reference is None else {k: v.tolist() for k, v in reference.arrays().items()}
    header = {**_header(names, metadata), "parameter_bounds": bounds.tolist(), "reference": arrays}
    return {_KEY: json.dumps(header).encode()}


def _of_schema(metadata: dict[bytes, bytes]) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    if _KEY not in metadata:
        raise DatasetError("the schema holds no metadata of this package")
    header = json.loads(metadata[_KEY])
    if header["format"] != FORMAT:
        raise DatasetError(f"the format is {header['format']!r:.60}, expected {FORMAT!r}")
    return header, np.asarray(header["parameter_bounds"], np.float64), header["reference"]


def _header(names: list[str], metadata: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "parameter_names": list(names), "metadata": plain(metadata)}


def _checked(
    columns: dict[str, Any], header: dict[str, Any], bounds: np.ndarray, reference: dict[str, Any]
) -> SurrogateDataset:
    """A data set whose parts fit together."""
    names = list(header["parameter_names"])
    n, nll = len(names), columns["nll"]
    shapes = {"parameters": (len(nll), n), "gradient": (len(nll), n)}
    for name, shape in shapes.items():
        if columns[name] is not None and columns[name].shape != shape:
            raise DatasetError(f"{name} has shape {columns[name].shape}, expected {shape}")
    if columns["parameters"] is None or bounds.shape != (n, 2) or nll.ndim != 1:
        raise DatasetError("its columns do not fit together")
    known = Reference.of_arrays(reference) if reference else None
    return SurrogateDataset(
        columns["parameters"], nll, columns["gradient"], names, bounds, header["metadata"], columns["rates"], known
    )
