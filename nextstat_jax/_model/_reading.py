"""From a workspace to a model."""

from __future__ import annotations

import difflib
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base._doors import no_type_check
from .._base._errors import ModelError
from .._base._threads import limit_lapack_threads
from .._likelihood._binned import HistFactory
from .._workspace._records import Measurement, Workspace, read_workspace
from ._compile import compile_workspace
from ._model import HistFactoryModel

AS_MEASURED = "as the measurement says"


@no_type_check
def from_pyhf(
    workspace: Any,
    measurement: str | int | None = None,
    patch: Any = None,
    *,
    poi: str | None = AS_MEASURED,
    normsys: str = "code4",
    histosys: str = "code4p",
    dtype: Any = None,
    clip_sample_data: Any = None,
    clip_bin_data: Any = None,
) -> HistFactoryModel:
    """Reads a HistFactory workspace in pyhf's JSON form.

    Args:
        workspace: JSON text, a path (of a gzipped file, too), a mapping, or a ``pyhf.Workspace``.
        measurement: Name or index; the first by default.
        patch: JSON patch operations, a path to them, an entry of a ``PatchSet``, or a list of such.
        poi: Name of the parameter of interest, any parameter of the model, or None for none; by default what the
            measurement names. Where no modifier declares that (a background-only likelihood whose signal comes with a
            patch), the model is read without one, and a warning says so.
        normsys: Interpolation code, ``"code1"`` or ``"code4"``.
        histosys: Interpolation code, ``"code0"``, ``"code2"`` or ``"code4p"``. The two codes are independent.
        dtype: ``"float64"`` or ``"float32"``. By default float64, and JAX's x64 mode is turned on if it was off;
            float32 works with x64 on or off and never touches the switch.
        clip_sample_data: Least yield of a sample in a bin, as pyhf's option of that name. A sample that a channel lacks
            stays absent (pyhf lifts it too, which shows for positive values).
        clip_bin_data: Least yield of a bin.

    Returns:
        The model; parameters and data are ordered as in pyhf.

    Raises:
        WorkspaceError: If the workspace or a patch cannot be read: with the JSON path, what was found and what was
            expected.
        ModelError: For an unknown option.

    Example:
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> signal = {"name": "signal", "data": [10.0], "modifiers": [strength]}
        >>> background = {"name": "background", "data": [50.0], "modifiers": []}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, background]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> model
        HistFactoryModel(1 channels, 1 bins, 2 samples, 1 parameters, poi='mu', float64)
        >>> print(model.expected_data([1.4]))
        [64.]
    """
    options = Options(normsys, histosys, dtype_of(dtype), clip_sample_data, clip_bin_data)
    spec = read_workspace(workspace, patch)
    return model_of(spec, spec.measurement(measurement), _poi(spec, measurement, poi), options)


class Options(NamedTuple):
    """How a workspace becomes a model; as in ``from_pyhf``, and the type as ``dtype_of`` gives it."""

    normsys: str
    histosys: str
    dtype: np.dtype
    clip_sample_data: Any
    clip_bin_data: Any


def model_of(spec: Workspace, measurement: Measurement, poi: str | None, options: Options) -> HistFactoryModel:
    """The model of a workspace and one of its measurements, checked."""
    compiled = compile_workspace(spec, measurement, poi=poi, **options._asdict())
    names = compiled.names
    if names.poi is not None and names.poi not in names.parameters:
        close = difflib.get_close_matches(str(names.poi), names.parameters, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ModelError(f"poi={poi!r:.60}: there is no such parameter{hint}")
    if options.dtype == np.float64:
        require_x64()
    limit_lapack_threads()
    arrays = jax.device_put(compiled.arrays)
    return HistFactoryModel(HistFactory(**arrays, structure=compiled.structure), compiled.names)


def dtype_of(dtype: Any) -> np.dtype:
    """The floating-point type that an option means; ``ModelError`` for another."""
    try:
        # Of an array, or whatever has a dtype, NumPy would take that.
        named = isinstance(dtype, str | type | np.dtype)
        kind = np.dtype(np.float64 if dtype is None else dtype if named else object)
    except (TypeError, ValueError):
        kind = np.dtype(object)
    if kind not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise ModelError(f"dtype={dtype!r}: expected 'float64' or 'float32'")
    return kind


def require_x64() -> None:
    """Turns on JAX's x64 mode."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    if jax.live_arrays():
        warnings.warn(
            "a float64 model turns on JAX's x64 mode, and this process already holds arrays made without it: set "
            "jax.config.update('jax_enable_x64', True) at the start, or pass dtype='float32'",
            stacklevel=3,
        )
    jax.config.update("jax_enable_x64", True)


def _poi(workspace: Workspace, which: Any, poi: Any) -> str | None:
    """The parameter of interest that is asked for, or None."""
    if poi is not None and not isinstance(poi, str):
        raise ModelError(f"poi={poi!r:.60}: expected the name of a parameter, or None")
    if poi != AS_MEASURED:
        return poi
    found = workspace.declared_poi(which)
    measurement = workspace.measurement(which)
    if measurement.poi and found is None:
        warnings.warn(
            f"measurement {measurement.name!r} names the parameter of interest {measurement.poi!r}, which no modifier "
            "declares: the model is read without one. A patch with the signal may bring it; poi=None is for reading on "
            "without, poi='name' for another parameter",
            stacklevel=3,
        )
    return found
