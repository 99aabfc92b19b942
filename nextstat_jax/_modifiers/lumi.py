"""lumi: one parameter with a normal constraint multiplies the yields; the measurement gives its value and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from .._base._rules import fail
from ._base import Constraint, Declared, Effect, ModifierType, Occurrence, ParameterConfig, ParameterSet, PlainModifier

_NEEDS = "auxdata (the luminosity) and sigmas (its absolute uncertainty), because modifiers use it"
# The default upper bound in units of the luminosity.
_HIGHEST = 10.0


class LumiModifier(PlainModifier, frozen=True, tag="lumi"):
    """The luminosity; the measurement says its value and uncertainty.

    Attributes:
        name: ``"lumi"``.
    """

    name: Literal["lumi"]  # pyright: ignore[reportIncompatibleVariableOverride]


class Lumi(ModifierType):
    """One parameter, shared by all occurrences; initial value and bounds follow from the auxiliary measurement."""

    record = LumiModifier
    effect = Effect.ROW_FACTOR
    constraint = Constraint.NORMAL
    init = None
    bounds = None
    options = ("auxdata", "sigmas")

    def complete(self, config: ParameterConfig, path: str) -> ParameterConfig:
        """Demand value and width of the luminosity; derive start value and bounds where they are missing."""
        missing = [key for key in ("auxdata", "sigmas") if getattr(config, key) is None]
        if missing or config.auxdata is None:
            fail(path, f"a configuration of lumi without {' and '.join(missing)}", f"one with {_NEEDS}")
        ends = tuple((0.0, _HIGHEST * value) for value in config.auxdata)
        return msgspec.structs.replace(
            config,
            inits=config.auxdata if config.inits is None else config.inits,
            bounds=ends if config.bounds is None else config.bounds,
        )

    def require_configured(self, declared: Declared) -> None:
        """Refuse a measurement that says nothing of the luminosity."""
        fail("$.config.parameters", "no configuration of lumi", f"one with {_NEEDS} ({declared.path})")

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """One parameter, from the configuration that ``complete`` has completed."""
        del occurrences
        assert config.auxdata is not None
        value = config.auxdata[0]
        return self.build_set(name, 1, config, init=value, bounds=(0.0, _HIGHEST * value))
