"""shapefactor: one free parameter per bin multiplies the yields."""

from __future__ import annotations

from collections.abc import Sequence

from .._workspace import ParameterConfig
from ._base import FREE_BOUNDS, Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "shapefactor"
EFFECT = Effect.CELL_FACTOR
CONSTRAINT = Constraint.NONE


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One parameter per bin, shared by all occurrences."""
    n = len(occurrences[0].nominal)
    return build_set(name, n, CONSTRAINT, config, init=1.0, bounds=FREE_BOUNDS, scalar=False)
