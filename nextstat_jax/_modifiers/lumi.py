"""lumi: one parameter with a normal constraint multiplies the yields; the measurement gives its value and width."""

from __future__ import annotations

from collections.abc import Sequence

from .._workspace import ParameterConfig
from ._base import Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "lumi"
EFFECT = Effect.ROW_FACTOR
CONSTRAINT = Constraint.NORMAL


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One parameter, shared by all occurrences; initial value and bounds follow from the auxiliary measurement."""
    del occurrences
    assert config.auxdata is not None and config.sigmas is not None  # the workspace checks demand both
    value = config.auxdata[0]
    return build_set(name, 1, CONSTRAINT, config, init=value, bounds=(0.0, 10.0 * value))
