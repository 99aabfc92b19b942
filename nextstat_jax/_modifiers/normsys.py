"""normsys: a factor interpolated between its values at alpha = -1, 0 and +1 multiplies the yields."""

from __future__ import annotations

from collections.abc import Sequence

from .._workspace import ParameterConfig
from ._base import ALPHA_BOUNDS, Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "normsys"
EFFECT = Effect.INTERPOLATED_FACTOR
CONSTRAINT = Constraint.NORMAL


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One alpha with a unit normal constraint, shared with the histosys of the same name."""
    del occurrences
    return build_set(name, 1, CONSTRAINT, config, init=0.0, bounds=ALPHA_BOUNDS, auxdata=0.0, width=1.0)
