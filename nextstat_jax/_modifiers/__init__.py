"""The modifier types of HistFactory. Adding one means adding a module here and its line in the registry."""

from . import histosys, lumi, normfactor, normsys, shapefactor, shapesys, staterror
from ._base import Constraint, Effect, ModifierType, Occurrence, ParameterSet

REGISTRY: dict[str, ModifierType] = {
    module.TYPE: module for module in (normfactor, normsys, histosys, shapesys, staterror, shapefactor, lumi)
}

__all__ = ["REGISTRY", "Constraint", "Effect", "ModifierType", "Occurrence", "ParameterSet"]
