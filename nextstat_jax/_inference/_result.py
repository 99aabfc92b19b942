"""What questions return: frozen pytrees with one behavior, whatever was asked."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import jax
import numpy as np
from jax import Array

from .._base._doors import concrete, pytree
from .._base._errors import ModelError
from .._base._tables import dataframe, listed, plain, text_table
from .._minimize import _status
from .._model._base import Model, Subject

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T", bound=type)
R = TypeVar("R", bound="Result")


def static() -> Any:
    """A field of a result that is part of its structure: a name, not a number."""
    return field(metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def result(cls: T) -> T:
    """Makes a class a frozen pytree."""
    # A plain data class: a fit of a small model takes as long as building an equinox module.
    return pytree(dataclass(frozen=True, eq=False, repr=False)(cls))


class Result:
    """A result: a frozen pytree of arrays, with static names.

    Every result has ``status``, the code of how its fits ended; ``converged``, whether they found their minimum;
    ``message``, the sentence for people; ``to_dict``, plain Python numbers; ``to_dataframe``, its table; and prints as
    that table. A batch of results, from ``jax.vmap``, is a result whose arrays have leading axes: it prints as what it
    is, and its members can be taken with ``jax.tree.map(lambda x: x[0], result)``.
    """

    # The field that tells a single result from a batch, and its number of axes in a single one.
    _single: ClassVar[tuple[str, int]] = ("status", 0)

    if TYPE_CHECKING:
        status: Any

    @property
    def converged(self) -> Array:
        """Whether the fits found their minimum, boolean; in the shape of ``status``."""
        return _status.is_one(self.status, _status.CONVERGED)

    @property
    def message(self) -> str:
        """How the fits ended, and what to do about it. Needs concrete values, not traced ones."""
        return _status.message(self.status) + self._said()

    def _said(self) -> str:
        """What ``explained`` found, as the end of a sentence."""
        return getattr(self, "_why", "")

    def explained(self: R, model: Model, about: Subject, stuck: np.ndarray | None = None) -> R:
        """This result, whose message names the bins that make a fit impossible, and what ended on a bound.

        What it names is lost where the result passes through a transformation.

        Args:
            model: The model.
            about: What was asked about it.
            stuck: Which parameters ended on a bound in one of the fits behind the result, shape (n_params,).
        """
        why = ""
        if concrete(self.status) and (np.asarray(self.status) == _status.INVALID).any():
            why = model.why_invalid(about)
        if stuck is not None and stuck.any():
            names = [about.names[k] for k in np.flatnonzero(stuck)]
            why += f"; on a bound in a fit behind this, which hangs on that bound: {listed(names)}"
        if why:
            object.__setattr__(self, "_why", why)
        return self

    def _columns(self) -> dict[str, Any]:
        """The table, column by column. By default one row of all scalars."""
        names = [f.name for f in _fields(self) if not f.metadata.get("static", False)]
        values = {name: getattr(self, name) for name in names}
        return {
            name: [float(x)] for name, x in values.items() if name != "status" and x is not None and np.ndim(x) == 0
        }

    def _title(self) -> str:
        """The line above the table."""
        return f"{type(self).__name__}: {self.message}"

    def _shown(self) -> dict[str, Any]:
        """The columns that are printed; by default all."""
        return self._columns()

    def _facts(self) -> dict[str, Any]:
        """What ``to_dict`` says: by default all fields, by name."""
        return {f.name: getattr(self, f.name) for f in _fields(self) if f.name != "status"}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, JSON-safe: None where a number is not finite. Needs concrete values."""
        return plain({**self._facts(), "converged": self.converged, "status": self.message})

    def to_dataframe(self) -> pd.DataFrame:
        """The table as a pandas data frame; needs a single result, not a batch.

        Raises:
            ModelError: For a batch.
            MissingExtraError: If pandas is not installed.
        """
        self._require_single()
        return dataframe(self._columns())

    def _require_single(self) -> None:
        """``ModelError`` where a table of one result is asked of a batch of them."""
        batch = self._batch()
        if batch:
            raise ModelError(
                f"a batch of {type(self).__name__} of shape {batch} has no table of its own: take one, as with "
                "jax.tree.map(lambda x: x[0], result)"
            )

    def _batch(self) -> tuple[int, ...]:
        name, ndim = self._single
        array = getattr(self, name)
        return tuple(np.shape(array)[: np.ndim(array) - ndim])

    def __repr__(self) -> str:
        if not all(map(concrete, jax.tree.leaves(self))) or self._batch():
            arrays = {f.name: getattr(self, f.name) for f in _fields(self) if not f.metadata.get("static", False)}
            shapes = ", ".join(f"{name}={_shape(x)}" for name, x in arrays.items() if x is not None)
            return f"{type(self).__name__}({shapes})"
        columns = self._shown()
        return text_table(list(columns), zip(*columns.values(), strict=True), self._title())


def _fields(result: Any) -> tuple[Field[Any], ...]:
    """Of a result, which is a data class by its decorator."""
    return fields(result)


def _shape(x: Any) -> str:
    leaves = jax.tree.leaves(x)
    return f"{leaves[0].dtype}{list(leaves[0].shape)}" if leaves else "None"
