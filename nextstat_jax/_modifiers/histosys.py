"""histosys: a shift interpolated between the templates at alpha = -1, 0 and +1 is added to the yields."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from .._base._rules import require_finite
from ._base import Effect, Modifier, NonEmptyFloats
from .normsys import Interpolated


class HistoSysData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of a histosys: the yields at alpha = +1 and -1.

    Attributes:
        hi_data: The yields at alpha = +1, one for each bin.
        lo_data: The yields at alpha = -1, one for each bin.
    """

    hi_data: NonEmptyFloats
    lo_data: NonEmptyFloats

    def __post_init__(self) -> None:
        """Check that the yields are finite."""
        require_finite(self.hi_data, "$.hi_data")
        require_finite(self.lo_data, "$.lo_data")


class HistoSysModifier(Modifier, frozen=True, tag="histosys"):
    """A constrained systematic that changes the yields of a sample bin by bin.

    Attributes:
        data: The yields at alpha = +1 and -1.
    """

    data: HistoSysData

    def arrays(self) -> tuple[tuple[str, Any], ...]:
        """Return both variations."""
        return ("data.hi_data", self.data.hi_data), ("data.lo_data", self.data.lo_data)


class HistoSys(Interpolated):
    """An interpolated shift."""

    record = HistoSysModifier
    effect = Effect.SHIFT

    def variations(self, data: Any, nominal: np.ndarray) -> tuple[Any, Any]:
        """The yields as the JSON gives them."""
        del nominal
        return data.hi_data, data.lo_data
