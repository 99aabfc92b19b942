"""Workspaces as typed records: reading them, and choosing a measurement.

The records mirror pyhf's JSON schema, version 1.0.0; those of the modifiers stand with their types. Each checks itself
when it is made, so that a record which exists is a valid one; `read_workspace` turns what a check found into one
`WorkspaceError` that names the place.

Keys that the schema does not know are ignored where they only describe: beside ``channels`` and the other keys of the
workspace, in channels, samples, observations and measurements. Programs leave comments, versions and plotting hints
there. They are refused in modifiers and their data, in the ``config`` of a measurement and in parameter configurations,
where a key such as a misspelt ``bounds`` was meant to change the likelihood.

Stricter than pyhf: numbers of bins have to agree with the observations as well, each channel has exactly one
observation, names are unique, counts and uncertainties are not negative, and a start value lies inside its bounds. More
lenient: the ``"data": null`` of a normfactor, shapefactor or lumi may be missing, and a null stands for a missing key
in a parameter configuration.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar

import msgspec

from .._base._errors import WorkspaceError
from .._base._rules import fail, require_finite, require_length, require_non_negative, require_unique
from .._modifiers import Declared, ParameterConfig, Use, record_types
from .._modifiers._base import NonEmptyFloats
from ._documents import convert_document, load_document, read_document
from ._explain import locate
from ._parameters import checked_configurations, declared_parameters
from ._patches import apply_patches


class AnyModifier(Protocol):
    """What every record of a modifier has."""

    name: str
    type: str

    def arrays(self) -> Iterable[tuple[str, Any]]:
        """Its numbers by key, those that come one for each bin."""
        ...


# The union of the modifiers' records, which is known when something is read: the registry may grow. For msgspec it has
# no bound.
if TYPE_CHECKING:
    M = TypeVar("M", bound=AnyModifier)
else:
    M = TypeVar("M")


class Sample(msgspec.Struct, Generic[M], frozen=True):
    """One process in one channel.

    Attributes:
        name: Its name; samples of one name in several channels are one process.
        data: The nominal yields, one for each bin; they may be negative.
        modifiers: What changes them.
    """

    name: str
    data: NonEmptyFloats
    modifiers: tuple[M, ...]

    def __post_init__(self) -> None:
        """Check that yields are finite, modifiers unique, and their arrays as long as the yields."""
        require_finite(self.data, "$.data")
        require_unique([(m.name, m.type) for m in self.modifiers], "$.modifiers", "the modifier")
        bins = len(self.data)
        for index, modifier in enumerate(self.modifiers):
            for key, values in modifier.arrays():
                require_length(values, bins, f"$.modifiers[{index}].{key}", "one for each bin of the sample")


class Channel(msgspec.Struct, Generic[M], frozen=True):
    """One region, with its samples.

    Attributes:
        name: Its name.
        samples: The samples; all have the same number of bins.
    """

    name: str
    samples: Annotated[tuple[Sample[M], ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check that samples have unique names and equally many bins."""
        require_unique([sample.name for sample in self.samples], "$.samples", "the sample name")
        first = self.samples[0]
        for index, sample in enumerate(self.samples):
            because = f"one for each bin of sample {first.name!r} in this channel"
            require_length(sample.data, len(first.data), f"$.samples[{index}].data", because)

    @property
    def bins(self) -> int:
        """The number of bins."""
        return len(self.samples[0].data)


class Observation(msgspec.Struct, frozen=True):
    """The observed counts of one channel.

    Attributes:
        name: The name of the channel.
        data: The counts, one for each bin; they need not be integers.
    """

    name: str
    data: NonEmptyFloats

    def __post_init__(self) -> None:
        """Check that no count is negative."""
        require_non_negative(self.data, "$.data", "a count")


class MeasurementConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` of a measurement.

    Attributes:
        poi: The name of the parameter of interest; empty for none.
        parameters: The parameter configurations.
    """

    poi: str
    parameters: tuple[ParameterConfig, ...]

    def __post_init__(self) -> None:
        """Check that each parameter is configured once."""
        require_unique([parameter.name for parameter in self.parameters], "$.parameters", "the parameter name")


class Measurement(msgspec.Struct, frozen=True):
    """A parameter of interest, and how parameters are configured.

    Attributes:
        name: Its name.
        config: Its ``config``, as it stands in the JSON.
    """

    name: str
    config: MeasurementConfig

    @property
    def poi(self) -> str:
        """The name of the parameter of interest; empty for none."""
        return self.config.poi

    @property
    def parameters(self) -> tuple[ParameterConfig, ...]:
        """The parameter configurations."""
        return self.config.parameters


class Workspace(msgspec.Struct, Generic[M], frozen=True, dict=True):
    """A whole workspace.

    Attributes:
        channels: The channels, in their order in the document (pyhf sorts them by name).
        measurements: The measurements.
        observations: The observed counts, one entry for each channel.
        version: The version of the schema.
    """

    channels: Annotated[tuple[Channel[M], ...], msgspec.Meta(min_length=1)]
    measurements: Annotated[tuple[Measurement, ...], msgspec.Meta(min_length=1)]
    observations: Annotated[tuple[Observation, ...], msgspec.Meta(min_length=1)]
    version: Literal["1.0.0"]

    def __post_init__(self) -> None:
        """Check that names are unique, observations fit the channels, and modifiers can share what they share."""
        for key in ("channels", "measurements", "observations"):
            require_unique([entry.name for entry in getattr(self, key)], f"$.{key}", "the name")
        self._require_observations()
        if not self.declared:
            fail("$.channels", "no modifier on any sample", "at least one: a model needs a parameter")

    def measurement(self, which: Any = None) -> Measurement:
        """Choose a measurement, and check it against the modifiers.

        Args:
            which: Its name (a string) or its index (an integer); None for the first one, as in pyhf.

        Returns:
            The measurement. The configuration of ``lumi`` is complete where a modifier uses it: missing ``inits`` are
            its ``auxdata``, missing ``bounds`` go from 0 to 10 times that.

        Raises:
            WorkspaceError: There is no such measurement; a parameter configuration does not fit its parameter; or lumi
                lacks its value or width.
        """
        index = self._index(which)
        try:
            return check_measurement(self, self.measurements[index])
        except WorkspaceError as error:
            raise locate(error, msgspec.to_builtins(self), f"$.measurements[{index}]") from None

    def declared_poi(self, which: Any = None) -> str | None:
        """The POI of a measurement, chosen as above; None where it names none, or one that no modifier declares.

        Raises:
            WorkspaceError: There is no such measurement, or its POI has several components.
        """
        index = self._index(which)
        poi, declared = self.measurements[index].poi, self.declared
        if poi in declared and declared[poi].size > 1:
            found = f"{poi!r}, a {declared[poi].kind} of {declared[poi].size} components"
            error = WorkspaceError("$.config.poi", found, "a parameter of one component; name another with poi=")
            raise locate(error, msgspec.to_builtins(self), f"$.measurements[{index}]")
        return poi if poi in declared else None

    def _index(self, which: Any) -> int:
        """Find the index of a measurement."""
        names = [measurement.name for measurement in self.measurements]
        if which is None:
            return 0
        if isinstance(which, str) and which in names:
            return names.index(which)
        try:
            index = None if isinstance(which, str | bool) else operator.index(which)
        except TypeError:
            index = None
        if index is None:
            fail("$.measurements", f"no measurement {which!r:.60}", f"one of {names}")
        if not -len(names) <= index < len(names):
            fail("$.measurements", f"no measurement of index {index!r:.60}", f"an index below {len(names)}, of {names}")
        return index % len(names)

    @cached_property
    def declared(self) -> dict[str, Declared]:
        """Return the parameters that modifiers declare, by name: type and number of components of each."""
        return declared_parameters(self._uses())

    def _uses(self) -> Iterator[Use]:
        """Go over all modifiers, channels sorted by name."""
        for c, channel in sorted(enumerate(self.channels), key=lambda item: item[1].name):
            bins = channel.bins
            for s, sample in enumerate(channel.samples):
                for m, item in enumerate(sample.modifiers):
                    path = f"$.channels[{c}].samples[{s}].modifiers[{m}]"
                    yield Use(channel.name, sample.name, item.name, item.type, bins, path)

    def _require_observations(self) -> None:
        """Refuse missing observations and those of another number of bins.

        An observation without channel is ignored, as in pyhf: patches that remove channels leave it behind.
        """
        channels = {channel.name: channel for channel in self.channels}
        observed = {observation.name for observation in self.observations}
        for index, channel in enumerate(self.channels):
            if channel.name not in observed:
                fail(f"$.channels[{index}]", "a channel without observation", "its counts in $.observations")
        for index, observation in enumerate(self.observations):
            path = f"$.observations[{index}]"
            if observation.name in channels:
                require_length(observation.data, channels[observation.name].bins, f"{path}.data", "one for each bin")


def check_measurement(workspace: Workspace, measurement: Measurement) -> Measurement:
    """Check a measurement against the modifiers of its workspace.

    Args:
        workspace: The workspace.
        measurement: One of its measurements.

    Returns:
        The measurement with the configuration of lumi completed, where a modifier uses it.

    Raises:
        WorkspaceError: What `Workspace.measurement` says. The path starts at the measurement.
    """
    completed = checked_configurations(measurement.parameters, workspace.declared)
    return msgspec.structs.replace(measurement, config=MeasurementConfig(measurement.poi, completed))


def sample_type() -> Any:
    """The record of a sample with the modifier types that there are."""
    return Sample[record_types()]


def workspace_type() -> Any:
    """The record of a workspace with the modifier types that there are."""
    return Workspace[record_types()]


def read_workspace(source: object, patch: Any = None) -> Workspace:
    """Read a workspace, and check all that does not depend on the choice of a measurement.

    Args:
        source: JSON text or bytes, a path (a string that does not start with ``{`` or ``[``, or an `os.PathLike`), a
            mapping such as a ``pyhf.Workspace``, or a `Workspace`. Never changed.
        patch: What to change first: JSON patch operations, their text or the path of a file with them, an entry of a
            patch set (ours or pyhf's), or a list of these. Digests of a `PatchSet` are verified against the source.

    Returns:
        The workspace. Whatever pyhf's schema and the rules above demand holds.

    Raises:
        WorkspaceError: What is wrong, and where: the first fault that is found.
    """
    if isinstance(source, Workspace):
        if patch is not None:
            fail("$", "a Workspace that was read before", "the document it came from, where a patch is to be applied")
        return source
    if patch is None:
        return read_document(source, workspace_type())
    return convert_document(apply_patches(load_document(source), patch), workspace_type())
