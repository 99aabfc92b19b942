"""Models as files: their arrays, index tables and names, so that a large one is read without compiling it again."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from .._base._archive import UNREADABLE, first_line, read_npz, write_npz
from .._base._checked import a_path, checked
from .._base._doors import no_type_check
from .._base._errors import DatasetError, ModelError
from .._base._threads import limit_lapack_threads
from .._likelihood._binned import HistFactory
from .._likelihood._structure import Structure
from ._base import require_model
from ._compile import Names
from ._model import HistFactoryModel
from ._reading import require_x64

_FORMAT = "nextstat_jax.model/1"
_ARRAYS = tuple(f.name for f in fields(HistFactory) if f.name != "structure")
_TABLES = tuple(f.name for f in fields(Structure) if f.init)


@checked(DatasetError, path=a_path)
@no_type_check
def save_model(model: HistFactoryModel, path: Any) -> None:
    """Writes a model as one ``.npz`` file: what ``load_model`` reads is the same model, number for number.

    Args:
        model: A model with channels and samples, with known values.
        path: The file; its name is taken as it is. It appears when it is complete.

    Raises:
        ModelError: For anything but such a model.
        DatasetError: If the file cannot be written.

    Example:
        >>> import tempfile, nextstat_jax as nextstat
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [{"name": "s", "data": [9.0], "modifiers": [strength]}]}],
        ...     "observations": [{"name": "SR", "data": [9.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nextstat.save_model(model, f"{folder}/model.npz")
        ...     nextstat.load_model(f"{folder}/model.npz")
        HistFactoryModel(1 channels, 1 bins, 1 samples, 1 parameters, poi='mu', float64)
    """
    require_model(model)
    if not isinstance(model, HistFactoryModel):
        raise ModelError(f"expected a model with channels and samples, found a {type(model).__name__}")
    likelihood, s = model.likelihood, model.likelihood.structure
    tables = {name: getattr(s, name) for name in _TABLES}
    plain = {name: value for name, value in tables.items() if not isinstance(value, np.ndarray)}
    names = {f.name: getattr(model.names, f.name) for f in fields(Names)}
    arrays = {name: np.asarray(getattr(likelihood, name)) for name in _ARRAYS}
    arrays |= {f"table_{name}": value for name, value in tables.items() if name not in plain}
    write_npz(path, arrays, json.dumps({"format": _FORMAT, "structure": plain, "names": names}), compressed=False)


@checked(DatasetError, path=a_path)
@no_type_check
def load_model(path: Any) -> HistFactoryModel:
    """Reads what ``save_model`` wrote.

    Args:
        path: The file.

    Returns:
        The model. For float64, JAX's x64 mode is turned on if it was off, as by ``from_pyhf``.

    Raises:
        DatasetError: If the file is missing, damaged or of another kind.
    """
    header, arrays = read_npz(path, _FORMAT)
    try:
        tables: dict[str, Any] = {name: arrays[f"table_{name}"] for name in _TABLES if f"table_{name}" in arrays}
        structure = Structure(**header["structure"], **tables)
        names = Names(**{name: _tupled(value) for name, value in header["names"].items()})
        leaves: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    except UNREADABLE as error:
        raise DatasetError(f"{path} is damaged: {first_line(error)}") from None
    if leaves["nominal"].dtype == np.float64:
        require_x64()
    limit_lapack_threads()
    return HistFactoryModel(HistFactory(**jax.device_put(leaves), structure=structure), names)


def _tupled(value: Any) -> Any:
    """JSON's arrays as tuples."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
