"""normsys: a factor interpolated between its values at alpha = -1, 0 and +1 multiplies the yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from .._base._rules import describe, fail
from ._base import ALPHA_BOUNDS, Constraint, Effect, Modifier, ModifierType, Occurrence, ParameterConfig, ParameterSet


class NormSysData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of a normsys: the factors of the yields at alpha = +1 and -1.

    Attributes:
        hi: The factor at alpha = +1.
        lo: The factor at alpha = -1.
    """

    hi: float
    lo: float

    def __post_init__(self) -> None:
        """Check that no factor is negative; zero is legal, and guarded where the factors are interpolated."""
        for key in ("hi", "lo"):
            # Reported without an index: each is a single number.
            value = getattr(self, key)
            if not 0.0 <= value < float("inf"):
                fail(f"$.{key}", describe(value), "a finite factor of zero or more")


class NormSysModifier(Modifier, frozen=True, tag="normsys"):
    """A constrained systematic that scales a sample.

    Attributes:
        data: The factors at alpha = +1 and -1.
    """

    data: NormSysData


class Interpolated(ModifierType):
    """One alpha with a unit normal constraint: what normsys and histosys of one name share."""

    constraint = Constraint.NORMAL
    init = 0.0
    bounds = ALPHA_BOUNDS
    options = ("auxdata",)
    shares_with = frozenset(("normsys", "histosys"))

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """One nuisance parameter, one constraint."""
        del occurrences
        return self.build_set(name, 1, config, auxdata=0.0, width=1.0)


class NormSys(Interpolated):
    """An interpolated factor."""

    record = NormSysModifier
    effect = Effect.INTERPOLATED_FACTOR

    def variations(self, data: Any, nominal: np.ndarray) -> tuple[float, float]:
        """The factors as the JSON gives them."""
        del nominal
        return data.hi, data.lo

    def warnings(self, name: str, occurrences: Sequence[Occurrence], parameters: ParameterSet) -> list[str]:
        """Factors that vanish."""
        del parameters
        return [
            f"normsys {name!r} of sample {o.sample!r} in channel {o.channel!r}: a factor of 0 has no logarithm; its "
            "limit is used"
            for o in occurrences
            if o.data.hi <= 0 or o.data.lo <= 0
        ]
