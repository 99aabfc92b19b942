"""The HistFactory likelihood of a workspace."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from .._base._doors import pytree
from ._common import Common, common_form
from ._methods import Binned
from ._structure import Structure


@pytree
@dataclass(frozen=True)
class HistFactory(Binned):
    """A binned likelihood with static index tables: they are part of the programs that are compiled for it.

    Attributes:
        structure: The index tables.
    """

    structure: Structure = field(metadata={"static": True})

    @property
    def common(self) -> Common | None:
        """See ``Likelihood``."""
        return self._common

    @cached_property
    def _common(self) -> Common | None:
        return common_form(self, self.structure)
