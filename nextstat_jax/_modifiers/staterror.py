"""staterror: one parameter per bin with a normal constraint multiplies all samples that carry it.

This is the light form of Barlow and Beeston's method (Comput. Phys. Commun. 77 (1993) 219; arXiv:1103.0354): one
parameter per bin stands for the Monte Carlo statistics of the sum of the samples.
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
    Effect,
    ModifierType,
    Occurrence,
    ParameterConfig,
    ParameterSet,
    UncertaintyModifier,
    Use,
    lost_bins,
)


class StatErrorModifier(UncertaintyModifier, frozen=True, tag="staterror"):
    """Statistical uncertainties of the bins of a channel, shared by its samples, with Gaussian constraints.

    Attributes:
        data: The absolute uncertainties of the yields of this sample.
    """


class StatError(ModifierType):
    """One parameter per bin, channel after channel; a name used in two channels has the bins of both."""

    record = StatErrorModifier
    effect = Effect.CELL_FACTOR
    constraint = Constraint.NORMAL
    bounds = GAMMA_BOUNDS
    scalar = False
    options = ("auxdata", "sigmas")
    per_channel = True
    by_name = True
    template_word = "stat"

    def size(self, uses: Sequence[Use]) -> int:
        """Count the bins of all channels, which have to be the same ones for each sample that shares the name."""
        samples: dict[str, list[Use]] = {}
        for use in uses:
            samples.setdefault(use.sample, []).append(use)
        reference, *others = samples.items()
        channels = {use.channel for use in reference[1]}
        for sample, mine in others:
            covered = {use.channel for use in mine}
            if covered != channels:
                fail(
                    mine[0].path,
                    f"a staterror that covers {sorted(covered)} for {sample!r} but {sorted(channels)} for "
                    f"{reference[0]!r}",
                    "the same channels for all samples that share it, or a name for each channel",
                )
        return sum(use.bins for use in reference[1])

    def uncertainties(self, data: Any) -> Any:
        """As the JSON gives them."""
        return data

    def constraint_from(self, total: Any, variance: Any, xp: ModuleType) -> tuple[Any, Any]:
        """sqrt(sum of squared uncertainties) / sum of yields per bin, and where that is not defined.

        A bin without yield or without uncertainty keeps its parameter, with width 1 and unable to move.
        """
        degenerate = (total <= 0) | (variance <= 0)
        width = xp.sqrt(xp.where(degenerate, 1.0, variance)) / xp.where(degenerate, 1.0, total)
        return xp.where(degenerate, 1.0, width), degenerate

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """The widths of all bins from the samples that carry the name."""
        widths, degenerate = [], []
        for channel in dict.fromkeys(o.channel for o in occurrences):
            mine = [o for o in occurrences if o.channel == channel]
            total = np.sum([o.nominal for o in mine], axis=0)
            variance = np.sum([np.square(np.asarray(o.data, dtype=np.float64)) for o in mine], axis=0)
            width, bad = self.constraint_from(total, variance, np)
            widths.append(width)
            degenerate.append(bad)
        width = np.concatenate(widths)
        return self.build_set(name, len(width), config, auxdata=1.0, width=width, degenerate=np.concatenate(degenerate))

    def warnings(self, name: str, occurrences: Sequence[Occurrence], parameters: ParameterSet) -> list[str]:
        """Bins that lost their uncertainty."""
        return lost_bins(self, name, occurrences, parameters)
