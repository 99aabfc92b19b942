"""shapesys: one parameter per bin with a Poisson constraint multiplies the yields of one sample.

The auxiliary count is the number of unweighted events whose relative uncertainty is that of the bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .._base._rules import fail
from ._base import (
    GAMMA_BOUNDS,
    Constraint,
    Declared,
    Effect,
    ModifierType,
    Occurrence,
    ParameterConfig,
    ParameterSet,
    UncertaintyModifier,
    Use,
    lost_bins,
)


class ShapeSysModifier(UncertaintyModifier, frozen=True, tag="shapesys"):
    """Uncertainties of the bins of one sample, each with a Poisson constraint of its own; no other may have its name.

    Attributes:
        data: The absolute uncertainties of the yields.
    """


class ShapeSys(ModifierType):
    """One parameter per bin of the only occurrence."""

    record = ShapeSysModifier
    effect = Effect.CELL_FACTOR
    constraint = Constraint.POISSON
    bounds = GAMMA_BOUNDS
    scalar = False
    options = ("auxdata", "factors")

    def require_shareable(self, use: Use, known: Declared) -> None:
        """Refuse every second use of a name."""
        super().require_shareable(use, known)
        fail(use.path, f"a shapesys name that {known.path} uses already", "a name of its own for each shapesys")

    def uncertainties(self, data: Any) -> Any:
        """As the JSON gives them."""
        return data

    def constraint_from(self, total: Any, variance: Any, xp: ModuleType) -> tuple[Any, Any]:
        """(nominal / uncertainty)^2 per bin, and where that is not defined.

        A bin without yield or without uncertainty has no auxiliary measurement: its count is set to 1 and its parameter
        does not move.
        """
        degenerate = (total <= 0) | (variance <= 0)
        ratio = xp.where(degenerate, 1.0, total) / xp.sqrt(xp.where(degenerate, 1.0, variance))
        return ratio * ratio, degenerate

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """One parameter for each bin, whose auxiliary datum is its count."""
        (only,) = occurrences
        counts, bad = self.constraint_from(only.nominal, np.square(np.asarray(only.data, dtype=np.float64)), np)
        return self.build_set(name, len(counts), config, auxdata=counts, factor=counts, degenerate=bad)

    def warnings(self, name: str, occurrences: Sequence[Occurrence], parameters: ParameterSet) -> list[str]:
        """Bins that lost their uncertainty."""
        return lost_bins(self, name, occurrences, parameters)
