"""normfactor: one free parameter multiplies the yields of every sample that carries it."""

from __future__ import annotations

from ._base import Effect, ModifierType, PlainModifier


class NormFactorModifier(PlainModifier, frozen=True, tag="normfactor"):
    """A free factor on the yields of a sample."""


class NormFactor(ModifierType):
    """One parameter, shared by all occurrences."""

    record = NormFactorModifier
    effect = Effect.ROW_FACTOR
