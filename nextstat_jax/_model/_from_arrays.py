"""A model from plain arrays: for likelihoods whose JSON would take gigabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from .._base._doors import no_type_check
from .._base._errors import ModelError, WorkspaceError
from .._modifiers import REGISTRY, ParameterConfig
from .._modifiers.histosys import HistoSysData
from .._modifiers.normsys import NormSysData
from .._workspace._records import (
    Channel,
    Measurement,
    MeasurementConfig,
    Observation,
    Sample,
    Workspace,
    check_measurement,
)
from ._model import HistFactoryModel
from ._reading import Options, dtype_of, model_of

Block = tuple[str, str]


@no_type_check
def from_arrays(
    nominal: Mapping[Block, Any],
    observed: Mapping[str, Any],
    *,
    poi: str | None = None,
    factors: Mapping[str, Any] | None = None,
    rates: Mapping[str, Mapping[Block, Any]] | None = None,
    shapes: Mapping[str, Mapping[Block, Any]] | None = None,
    staterror: Mapping[Block, Any] | None = None,
    shapesys: Mapping[str, Mapping[Block, Any]] | None = None,
    shapefactors: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    normsys: str = "code4",
    histosys: str = "code4p",
    dtype: Any = None,
    clip_sample_data: Any = None,
    clip_bin_data: Any = None,
) -> HistFactoryModel:
    """Builds a model from arrays, one block for each sample in a channel.

    The model is that of the workspace with the same numbers: a normfactor, normsys, histosys, staterror, shapesys or
    shapefactor modifier for each entry, with pyhf's names, defaults and order of parameters.

    Args:
        nominal: Yields by (channel, sample), each of shape (bins of the channel,).
        observed: Counts by channel, each of shape (bins of the channel,).
        poi: Name of the parameter of interest, or None.
        factors: For each free factor the blocks that it multiplies: (channel, sample) pairs, or names of samples.
        rates: For each systematic (factor at +1, factor at -1) by block: a normsys.
        shapes: For each systematic (yields at +1, yields at -1) by block, each of shape (bins of the channel,): a
            histosys. Only the blocks that it moves are given. A name may be among the rates as well.
        staterror: Absolute Monte Carlo uncertainties by block: one parameter for each bin, ``staterror_CHANNEL``.
        shapesys: For each name absolute uncertainties by block: one parameter for each bin, with a Poisson constraint.
        shapefactors: For each name the blocks that it multiplies: one free parameter for each bin.
        parameters: What a measurement may say of a parameter, by name: ``{"sys": {"fixed": True}}``, with the keys
            ``inits``, ``bounds``, ``fixed``, ``auxdata``, ``sigmas`` and ``factors`` of pyhf's configurations.
        normsys: As in ``from_pyhf``, like the other options.
        histosys: Likewise.
        dtype: Likewise.
        clip_sample_data: Likewise.
        clip_bin_data: Likewise.

    Returns:
        The model. ``save_model`` writes it to a file.

    Raises:
        ModelError: For a block that no yields are given for, arrays that are none, or unknown options.
        WorkspaceError: Where the same workspace could not be read: wrong lengths, negative uncertainties, NaN. The path
            counts channels, samples and modifiers in the order of ``nominal``.

    Example:
        >>> import nextstat_jax as nextstat
        >>> model = nextstat.from_arrays(
        ...     {("SR", "signal"): [5.0, 9.0], ("SR", "background"): [60.0, 40.0]},
        ...     {"SR": [64.0, 52.0]},
        ...     poi="mu",
        ...     factors={"mu": ["signal"]},
        ...     shapes={"tilt": {("SR", "background"): ([66.0, 38.0], [54.0, 42.0])}},
        ...     staterror={("SR", "background"): [2.0, 1.5]},
        ... )
        >>> model.parameter_names()
        ['tilt', 'mu', 'staterror_SR[0]', 'staterror_SR[1]']
    """
    blocks = {_block(key): _array(value, f"nominal[{key!r}]") for key, value in _mapping(nominal, "nominal").items()}
    if not blocks:
        raise ModelError("nominal is empty: give the yields of at least one (channel, sample)")
    if poi is not None and not isinstance(poi, str):
        raise ModelError(f"poi={poi!r:.60}: expected the name of a parameter, or None")
    found = _Modifiers(blocks)
    found.plain("normfactor", "factors", factors)
    found.plain("shapefactor", "shapefactors", shapefactors)
    found.numbers("normsys", "rates", rates, _rate)
    found.numbers("histosys", "shapes", shapes, _shape)
    found.numbers("shapesys", "shapesys", shapesys, _array)
    found.statistical(staterror)
    counts = {name: _array(value, f"observed[{name!r}]") for name, value in _mapping(observed, "observed").items()}
    measurement = Measurement("arrays", MeasurementConfig(poi or "", _configurations(parameters)))
    spec = _workspace(blocks, found, counts, measurement)
    options = Options(normsys, histosys, dtype_of(dtype), clip_sample_data, clip_bin_data)
    return model_of(spec, check_measurement(spec, measurement), poi, options)


class _Modifiers:
    """The modifiers of each block."""

    def __init__(self, blocks: Mapping[Block, np.ndarray]) -> None:
        self.by_block: dict[Block, list[Any]] = {block: [] for block in blocks}

    def add(self, block: Any, kind: str, name: Any, data: Any, where: str) -> None:
        """One modifier."""
        if _block(block) not in self.by_block:
            raise ModelError(f"{where} names the block {block!r}, for which nominal has no yields")
        if not isinstance(name, str):
            raise ModelError(f"{where} has the name {name!r:.60}: expected a text")
        with _located(f"{where}: "):
            record: Any = REGISTRY[kind].record
            self.by_block[block].append(record(name, data))

    def plain(self, kind: str, option: str, given: Any) -> None:
        """Those without numbers, from lists of blocks and of names of samples."""
        for name, mine in _mapping(given, option).items():
            where = f"{option}[{name!r}]"
            mine = [mine] if isinstance(mine, str) else mine
            if not isinstance(mine, list | tuple | set | frozenset):
                raise ModelError(f"{where} is {mine!r:.60}: expected a list of samples or of (channel, sample)")
            for one in mine:
                blocks = [block for block in self.by_block if block[1] == one] if isinstance(one, str) else [one]
                if not blocks:
                    raise ModelError(f"{where}: there is no sample {one!r:.60}")
                for block in blocks:
                    self.add(block, kind, name, None, where)

    def numbers(self, kind: str, option: str, given: Any, data: Callable[[Any, str], Any]) -> None:
        """Those with numbers, by name and block."""
        for name, mine in _mapping(given, option).items():
            for block, value in _mapping(mine, f"{option}[{name!r}]").items():
                where = f"{option}[{name!r}][{block!r}]"
                with _located(f"{where}: "):
                    numbers = data(value, where)
                self.add(block, kind, name, numbers, where)

    def statistical(self, given: Any) -> None:
        """One for each block, named after its channel."""
        for block, value in _mapping(given, "staterror").items():
            where = f"staterror[{block!r}]"
            self.add(block, "staterror", f"staterror_{_block(block)[0]}", _array(value, where), where)


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Says of what a check found where it is."""
    try:
        yield
    except WorkspaceError as error:
        raise WorkspaceError(where + error.path, error.found, error.expected) from None


def _workspace(
    blocks: Mapping[Block, Any], found: _Modifiers, counts: Mapping[str, Any], measurement: Measurement
) -> Any:
    """The records, whose checks are those of reading a workspace."""
    samples: dict[str, list[Any]] = {}
    for block, data in blocks.items():
        with _located(f"block {block!r}: "):
            samples.setdefault(block[0], []).append(Sample(block[1], data, tuple(found.by_block[block])))
    channels, observations = [], []
    for name, mine in samples.items():
        with _located(f"channel {name!r}: "):
            channels.append(Channel(name, tuple(mine)))
    for name, data in counts.items():
        with _located(f"observed[{name!r}]: "):
            observations.append(Observation(name, data))
    return Workspace(tuple(channels), (measurement,), tuple(observations), "1.0.0")


def _configurations(parameters: Any) -> tuple[ParameterConfig, ...]:
    """What a measurement says of its parameters."""
    result = []
    for name, given in _mapping(parameters, "parameters").items():
        config = _mapping(given, f"parameters[{name!r}]")
        try:
            result.append(msgspec.convert({"name": name, **config}, ParameterConfig))
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise ModelError(f"parameters[{name!r}]: {error}") from None
    return tuple(result)


def _mapping(value: Any, name: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ModelError(f"{name} is a {type(value).__name__}: expected a mapping")
    return value


def _block(key: Any) -> Block:
    if not (isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key)):
        raise ModelError(f"{key!r:.60} is no block: expected a pair (channel, sample)")
    return key


def _array(value: Any, where: str) -> Any:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError):
        raise ModelError(f"{where} is {value!r:.60}: expected numbers") from None
    if array.ndim != 1 or not array.size:
        raise ModelError(f"{where} has shape {array.shape}: expected (bins,)")
    return array.astype(np.float64)


def _pair(value: Any, where: str) -> tuple[Any, Any]:
    try:
        up, down = value
    except (TypeError, ValueError):
        raise ModelError(f"{where} is {value!r:.60}: expected a pair, (at +1, at -1)") from None
    return up, down


def _rate(value: Any, where: str) -> Any:
    try:
        up, down = (float(x) for x in _pair(value, where))
    except (TypeError, ValueError):
        raise ModelError(f"{where} is {value!r:.60}: expected a pair of numbers, (at +1, at -1)") from None
    return NormSysData(up, down)


def _shape(value: Any, where: str) -> Any:
    return HistoSysData(*(_array(x, where) for x in _pair(value, where)))
