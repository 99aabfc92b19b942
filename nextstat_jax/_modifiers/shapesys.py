"""shapesys: one parameter per bin with a Poisson constraint multiplies the yields of one sample.

The auxiliary count is the number of unweighted events whose relative uncertainty is that of the bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .._workspace import ParameterConfig
from ._base import GAMMA_BOUNDS, Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "shapesys"
EFFECT = Effect.CELL_FACTOR
CONSTRAINT = Constraint.POISSON


def effective_counts(nominal: Any, uncertainty: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """(nominal / uncertainty)^2 per bin, and where that is not defined.

    A bin without yield or without uncertainty has no auxiliary measurement: its count is set to 1 and its parameter
    does not move.
    """
    degenerate = (nominal <= 0) | (uncertainty <= 0)
    ratio = xp.where(degenerate, 1.0, nominal) / xp.where(degenerate, 1.0, uncertainty)
    return ratio * ratio, degenerate


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One parameter per bin of the only occurrence."""
    (only,) = occurrences
    counts, degenerate = effective_counts(only.nominal, np.asarray(only.data, dtype=np.float64))
    return build_set(
        name,
        len(counts),
        CONSTRAINT,
        config,
        init=1.0,
        bounds=GAMMA_BOUNDS,
        scalar=False,
        auxdata=counts,
        factor=counts,
        degenerate=degenerate,
    )
