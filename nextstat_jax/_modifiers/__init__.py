"""The modifier types of HistFactory. Adding one means adding a module here and its line in the registry."""

from . import histosys, lumi, normfactor, normsys, shapefactor, shapesys, staterror
from ._base import Constraint, Effect, ModifierType, Occurrence, ParameterSet

_TYPES: tuple[ModifierType, ...] = (normfactor, normsys, histosys, shapesys, staterror, shapefactor, lumi)
REGISTRY: dict[str, ModifierType] = {modifier.TYPE: modifier for modifier in _TYPES}

__all__ = ["REGISTRY", "Constraint", "Effect", "ModifierType", "Occurrence", "ParameterSet"]
