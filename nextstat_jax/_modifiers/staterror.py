"""staterror: one parameter per bin with a normal constraint multiplies all samples that carry it.

This is the light form of Barlow and Beeston's method (Comput. Phys. Commun. 77 (1993) 219; arXiv:1103.0354): one
parameter per bin stands for the Monte Carlo statistics of the sum of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .._workspace import ParameterConfig
from ._base import GAMMA_BOUNDS, Constraint, Effect, Occurrence, ParameterSet, build_set

TYPE = "staterror"
EFFECT = Effect.CELL_FACTOR
CONSTRAINT = Constraint.NORMAL


def relative_width(total: Any, variance: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """sqrt(sum of squared uncertainties) / sum of yields per bin, and where that is not defined.

    A bin without yield or without uncertainty keeps its parameter, with width 1 and unable to move.
    """
    degenerate = (total <= 0) | (variance <= 0)
    width = xp.sqrt(xp.where(degenerate, 1.0, variance)) / xp.where(degenerate, 1.0, total)
    return xp.where(degenerate, 1.0, width), degenerate


def parameter_set(name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
    """One parameter per bin, channel after channel; a name used in two channels has the bins of both."""
    widths, degenerate = [], []
    for channel in dict.fromkeys(o.channel for o in occurrences):
        mine = [o for o in occurrences if o.channel == channel]
        total = np.sum([o.nominal for o in mine], axis=0)
        variance = np.sum([np.square(np.asarray(o.data, dtype=np.float64)) for o in mine], axis=0)
        width, bad = relative_width(total, variance)
        widths.append(width)
        degenerate.append(bad)
    width = np.concatenate(widths)
    return build_set(
        name,
        len(width),
        CONSTRAINT,
        config,
        init=1.0,
        bounds=GAMMA_BOUNDS,
        scalar=False,
        auxdata=1.0,
        width=width,
        degenerate=np.concatenate(degenerate),
    )
