"""histosys: a shift interpolated between the templates at alpha = -1, 0 and +1 is added to the yields."""

from __future__ import annotations

from . import normsys
from ._base import Constraint, Effect

TYPE = "histosys"
EFFECT = Effect.SHIFT
CONSTRAINT = Constraint.NORMAL

# The same alpha as a normsys of that name: one nuisance parameter, one constraint.
parameter_set = normsys.parameter_set
