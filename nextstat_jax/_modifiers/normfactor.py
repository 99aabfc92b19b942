"""normfactor: one free parameter multiplies the yields of every sample that carries it."""

from __future__ import annotations

from collections.abc import Sequence

from .._workspace import ParameterConfig
from ._base import FREE_BOUNDS, Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "normfactor"
EFFECT = Effect.ROW_FACTOR
CONSTRAINT = Constraint.NONE


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One parameter, shared by all occurrences."""
    del occurrences
    return build_set(name, 1, CONSTRAINT, config, init=1.0, bounds=FREE_BOUNDS)
