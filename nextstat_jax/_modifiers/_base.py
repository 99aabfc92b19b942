"""What every modifier type declares, and the records they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from .._base._rules import (
    Bounds,
    Floats,
    fail,
    require_finite,
    require_length,
    require_non_negative,
    require_positive,
)

ALPHA_BOUNDS = (-5.0, 5.0)
FREE_BOUNDS = (0.0, 10.0)
GAMMA_BOUNDS = (1e-10, 10.0)

NonEmptyFloats = Annotated[Floats, msgspec.Meta(min_length=1)]
NonEmptyBounds = Annotated[Bounds, msgspec.Meta(min_length=1)]


@cache
def _tag(record: type[msgspec.Struct]) -> str:
    return str(record.__struct_config__.tag)


class Modifier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The JSON record of a modifier; each type has a subclass whose tag is the type's name.

    Attributes:
        name: The name of its parameter.
    """

    name: str

    @property
    def type(self) -> str:
        """The name of its type."""
        return _tag(self.__class__)

    def arrays(self) -> tuple[tuple[str, Any], ...]:
        """Return the arrays over bins that this modifier holds, each with its key."""
        return ()


class PlainModifier(Modifier, frozen=True):
    """A modifier without data.

    Attributes:
        data: None.
    """

    data: None = None


class UncertaintyModifier(Modifier, frozen=True):
    """A modifier that holds an absolute uncertainty of each bin.

    Attributes:
        data: The uncertainties.
    """

    data: NonEmptyFloats

    def __post_init__(self) -> None:
        """Check that no uncertainty is negative."""
        require_non_negative(self.data, "$.data", "an uncertainty")

    def arrays(self) -> tuple[tuple[str, Any], ...]:
        """Return the uncertainties."""
        return (("data", self.data),)


class ParameterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a measurement says of one parameter; None where it leaves pyhf's default.

    Attributes:
        name: The name of the parameter. One that no modifier declares is ignored, as in pyhf.
        inits: The start value of each component.
        bounds: The bounds of each component.
        fixed: Whether all its components are held fixed. False also frees the ones that are fixed by default.
        auxdata: The auxiliary data of each component.
        sigmas: The widths of the Gaussian constraints (lumi, staterror).
        factors: The factors of the Poisson constraints (shapesys).
    """

    name: str
    inits: NonEmptyFloats | None = None
    bounds: NonEmptyBounds | None = None
    fixed: bool | None = None
    auxdata: NonEmptyFloats | None = None
    sigmas: NonEmptyFloats | None = None
    factors: NonEmptyFloats | None = None

    def __post_init__(self) -> None:
        """Check that all numbers are finite."""
        for key in ("inits", "auxdata", "sigmas", "factors"):
            require_finite(getattr(self, key) or (), f"$.{key}")
        for index, pair in enumerate(self.bounds or ()):
            require_finite(pair, f"$.bounds[{index}]")


class Use(NamedTuple):
    """One modifier on one sample of one channel, as the reader sees it.

    Attributes:
        channel: The name of the channel.
        sample: The name of the sample.
        name: The name of the modifier, hence of its parameter.
        kind: The name of its type.
        bins: The number of bins of the channel.
        path: Where the modifier stands in the workspace.
    """

    channel: str
    sample: str
    name: str
    kind: str
    bins: int
    path: str


class Declared(NamedTuple):
    """A parameter that at least one modifier declares.

    Attributes:
        kind: The type of the modifier that declares it first.
        size: The number of its components.
        path: Where it is declared first.
    """

    kind: str
    size: int
    path: str


class Effect(Enum):
    """How a modifier acts on the yields of one sample in one channel."""

    ROW_FACTOR = "one parameter multiplies all bins"
    CELL_FACTOR = "one parameter per bin multiplies that bin"
    INTERPOLATED_FACTOR = "a function of one parameter multiplies all bins"
    SHIFT = "a function of one parameter is added, bin by bin"


class Constraint(Enum):
    """The auxiliary measurement behind a parameter."""

    NONE = "none"
    NORMAL = "normal"
    POISSON = "poisson"


@dataclass(frozen=True)
class Occurrence:
    """One modifier on one sample in one channel, as the compile step sees it.

    Attributes:
        channel: Name of the channel.
        sample: Name of the sample.
        row: Index of the (channel, sample) pair.
        nominal: Yields of the sample, shape (channel bins,).
        data: What the JSON holds for the modifier.
    """

    channel: str
    sample: str
    row: int
    nominal: np.ndarray
    data: Any


@dataclass(frozen=True)
class ParameterSet:
    """The parameters behind one name, in the order of the parameter vector; every array has shape (n,).

    ``width`` is the standard deviation of a normal constraint, ``factor`` the expected auxiliary count of a Poisson
    constraint per unit of the parameter. ``frozen`` marks parameters that cannot move; ``degenerate`` those
    whose auxiliary measurement is not defined.
    """

    name: str
    scalar: bool
    constraint: Constraint
    init: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    frozen: np.ndarray
    auxdata: np.ndarray | None = None
    width: np.ndarray | None = None
    factor: np.ndarray | None = None
    degenerate: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of parameters."""
        return len(self.init)


class ModifierType:
    """A modifier type: one subclass in one file, and one instance in the registry.

    The readers, the checks, the compile step and the templates ask it everything they need to know. What is declared
    here are the rules of most types.

    Attributes:
        record: The JSON record; its tag is the name of the type.
        effect: How it acts on the yields. Types whose effect has variations or uncertainties say what these are.
        constraint: The auxiliary measurement of its parameters.
        init: Start value of a component; None where the measurement has to say it.
        bounds: Bounds of a component; None where the measurement has to say them.
        scalar: Whether a name has one component, whatever the number of bins.
        options: Keys that a parameter configuration may hold beside ``inits``, ``bounds`` and ``fixed``.
        shares_with: Names of other types that may share a parameter with this one.
        per_channel: Whether a name in several channels has components for the bins of each, one channel after the
            other, rather than sharing them.
        by_name: Whether its parameters are sorted by name in the parameter vector, as pyhf sorts some.
        template_word: What stands for its uncertainties in a template key, ``(sample, word)``, beside its name.
    """

    record: ClassVar[type[Modifier]]
    effect: ClassVar[Effect]
    constraint: ClassVar[Constraint] = Constraint.NONE
    init: ClassVar[float | None] = 1.0
    bounds: ClassVar[tuple[float, float] | None] = FREE_BOUNDS
    scalar: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    shares_with: ClassVar[frozenset[str]] = frozenset()
    per_channel: ClassVar[bool] = False
    by_name: ClassVar[bool] = False
    template_word: ClassVar[str | None] = None

    @property
    def name(self) -> str:
        """The name of the type, as workspaces write it."""
        return str(self.record.__struct_config__.tag)

    # What the reader asks.

    def require_shareable(self, use: Use, known: Declared) -> None:
        """Refuse a modifier that cannot share the parameter which another one declared."""
        if use.kind != known.kind and known.kind not in self.shares_with:
            fail(
                use.path,
                f"a {use.kind} that shares its name with the {known.kind} at {known.path}",
                "another name: only normsys and histosys share a parameter across types",
            )

    def size(self, uses: Sequence[Use]) -> int:
        """Count the components of a parameter from all modifiers that use it."""
        return 1 if self.scalar else uses[0].bins

    def complete(self, config: ParameterConfig, path: str) -> ParameterConfig:
        """Fill in what follows from the rest of a configuration, and refuse one that lacks what the type needs."""
        del path
        return config

    def require_configured(self, declared: Declared) -> None:
        """Refuse a measurement that does not configure the parameter, where the type needs it to."""

    def check_configuration(self, config: ParameterConfig, parameter: Declared, path: str) -> None:
        """Check the configuration of a parameter.

        Raises:
            WorkspaceError: A key that the parameter has no use for, a wrong number of values, widths or factors that
                are not positive, bounds the wrong way round, or a start value outside its bounds.
        """
        for key in ("auxdata", "sigmas", "factors"):
            if getattr(config, key) is not None and key not in self.options:
                fail(f"{path}.{key}", f"{key} for a {self.name}", f"no such key: a {self.name} does not use it")
        for key in ("inits", "bounds", "auxdata", "sigmas", "factors"):
            if (values := getattr(config, key)) is not None:
                require_length(values, parameter.size, f"{path}.{key}", f"one for each component of the {self.name}")
        require_positive(config.sigmas or (), f"{path}.sigmas", "width")
        require_positive(config.factors or (), f"{path}.factors", "factor")
        if self.constraint is Constraint.POISSON:
            require_non_negative(config.auxdata or (), f"{path}.auxdata", "auxiliary data of a Poisson constraint")
        self._require_start_in_bounds(config, parameter.size, path)

    def _require_start_in_bounds(self, config: ParameterConfig, size: int, path: str) -> None:
        """Refuse lo > hi, and a given start value that the bounds exclude.

        A default start value outside given bounds is legal, as in pyhf; fits move it to the nearest bound.
        """
        inits, bounds = config.inits, config.bounds
        if bounds is None and self.bounds is not None:
            bounds = (self.bounds,) * size
        for index, (lo, hi) in enumerate(bounds or ()):
            if lo > hi:
                fail(f"{path}.bounds[{index}]", f"[{lo}, {hi}]", "a lower bound that is not above the upper one")
            if inits is not None and not lo <= inits[index] <= hi:
                found = f"the start value {inits[index]} outside [{lo}, {hi}]"
                fail(f"{path}.inits[{index}]", found, "a start value inside the bounds")

    # What the compile step and the templates ask.

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """The parameters that all occurrences of one name share."""
        n = 1 if self.scalar else len(occurrences[0].nominal)
        return self.build_set(name, n, config)

    def variations(self, data: Any, nominal: np.ndarray) -> tuple[Any, Any]:
        """Factors, or yields, at alpha = +1 and -1 from the data of a modifier with an interpolated effect."""
        raise TypeError(f"a {self.name} has no variations")

    def uncertainties(self, data: Any) -> Any:
        """Absolute uncertainties of the bins, where the constraints of the parameters follow from such."""
        del data
        return None

    def constraint_from(self, total: Any, variance: Any, xp: ModuleType) -> tuple[Any, Any]:
        """What uncertainties make of a constraint, bin by bin, and where it is not defined.

        Args:
            total: Yields of all samples that carry the modifier.
            variance: Sum of their squared uncertainties.
            xp: ``numpy`` or ``jax.numpy``.

        Returns:
            The width of a normal constraint or the count of a Poisson constraint, and a boolean array.
        """
        raise TypeError(f"the constraints of a {self.name} follow from no uncertainties")

    def warnings(self, name: str, occurrences: Sequence[Occurrence], parameters: ParameterSet) -> list[str]:
        """What a user should know of the modifiers of one name: pyhf is silent about it."""
        del name, occurrences, parameters
        return []

    def build_set(
        self,
        name: str,
        n: int,
        config: ParameterConfig,
        *,
        init: float | None = None,
        bounds: tuple[float, float] | None = None,
        auxdata: Any = None,
        width: Any = None,
        factor: Any = None,
        degenerate: Any = None,
    ) -> ParameterSet:
        """A parameter set from the defaults of the type, overridden by the measurement's configuration."""
        init, bounds = self.init if init is None else init, self.bounds if bounds is None else bounds

        def filled(configured: Any, default: Any) -> np.ndarray | None:
            value = default if configured is None else configured
            return None if value is None else np.broadcast_to(np.asarray(value, dtype=np.float64), (n,)).copy()

        ends = np.asarray(bounds if config.bounds is None else config.bounds, dtype=np.float64)
        limits = np.broadcast_to(ends, (n, 2))
        never = np.zeros(n, dtype=bool) if degenerate is None else np.asarray(degenerate)
        # A configured "fixed" replaces the default of the type, degenerate bins included, as in pyhf.
        frozen = never if config.fixed is None else np.full(n, config.fixed)
        start = filled(config.inits, init)
        assert start is not None
        return ParameterSet(
            name=name,
            scalar=self.scalar,
            constraint=self.constraint,
            init=start,
            lower=limits[:, 0].copy(),
            upper=limits[:, 1].copy(),
            frozen=frozen,
            auxdata=filled(config.auxdata, auxdata),
            width=filled(config.sigmas, width),
            factor=filled(config.factors, factor),
            degenerate=never,
        )


def lost_bins(type_: ModifierType, name: str, occurrences: Sequence[Occurrence], parameters: ParameterSet) -> list[str]:
    """A warning that names the bins in which a constraint is not defined."""
    bins = {occurrence.channel: len(occurrence.nominal) for occurrence in occurrences}
    labels = [f"{channel}, bin {i}" for channel, n in bins.items() for i in range(n)]
    bad = parameters.degenerate
    named = [label for label, flag in zip(labels, bad if bad is not None else (), strict=False) if flag]
    if not named:
        return []
    where = "; ".join(named)
    return [f"{type_.name} {name!r}: no yield or no uncertainty in {where}: its parameter is fixed there"]
