"""The modifier types of HistFactory, each in one file: JSON record, rules, parameters, effect, constraint, warnings.

Adding a type means adding a file here and its line in the registry; readers, checks, the compile step and the
templates read the registry.

It must not know: how JSON is read, JAX (array functions come in as an argument), what is asked of a likelihood.
"""

from functools import reduce
from operator import or_
from typing import Any

from ._base import Constraint, Declared, Effect, Modifier, ModifierType, Occurrence, ParameterConfig, ParameterSet, Use
from .histosys import HistoSys
from .lumi import Lumi
from .normfactor import NormFactor
from .normsys import NormSys
from .shapefactor import ShapeFactor
from .shapesys import ShapeSys
from .staterror import StatError

_TYPES: tuple[ModifierType, ...] = (
    NormFactor(), NormSys(), HistoSys(), ShapeSys(), StatError(), ShapeFactor(), Lumi(),
)  # fmt: skip
REGISTRY: dict[str, ModifierType] = {modifier.name: modifier for modifier in _TYPES}


def record_types() -> Any:
    """The union of the JSON records of all types: what a modifier in a workspace may be."""
    return reduce(or_, (modifier.record for modifier in REGISTRY.values()))


__all__ = [
    "REGISTRY",
    "Constraint",
    "Declared",
    "Effect",
    "Modifier",
    "ModifierType",
    "Occurrence",
    "ParameterConfig",
    "ParameterSet",
    "Use",
    "record_types",
]
