"""shapefactor: one free parameter per bin multiplies the yields."""

from __future__ import annotations

from .._base._rules import fail
from ._base import Declared, Effect, ModifierType, PlainModifier, Use


class ShapeFactorModifier(PlainModifier, frozen=True, tag="shapefactor"):
    """A free factor in each bin."""


class ShapeFactor(ModifierType):
    """One parameter per bin, shared by all occurrences."""

    record = ShapeFactorModifier
    effect = Effect.CELL_FACTOR
    scalar = False

    def require_shareable(self, use: Use, known: Declared) -> None:
        """Refuse a channel with more bins than the first one that carries the name."""
        super().require_shareable(use, known)
        if use.bins > known.size:
            # pyhf scales the surplus bins by parameter 0 of the model, whatever that is.
            fail(
                use.path,
                f"a shapefactor over {use.bins} bins",
                f"at most {known.size}: the first channel by name ({known.path}) sets its number of components",
            )
