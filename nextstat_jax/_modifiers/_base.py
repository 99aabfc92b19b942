"""What every modifier type declares, and the records they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np

from .._workspace import ParameterConfig

ALPHA_BOUNDS = (-5.0, 5.0)
FREE_BOUNDS = (0.0, 10.0)
GAMMA_BOUNDS = (1e-10, 10.0)


class Effect(Enum):
    """How a modifier acts on the yields of one sample in one channel."""

    ROW_FACTOR = "one parameter multiplies all bins"
    CELL_FACTOR = "one parameter per bin multiplies that bin"
    INTERPOLATED_FACTOR = "a function of one parameter multiplies all bins"
    SHIFT = "a function of one parameter is added, bin by bin"


class Constraint(Enum):
    """The auxiliary measurement behind a parameter."""

    NONE = "none"
    NORMAL = "normal"
    POISSON = "poisson"


@dataclass(frozen=True)
class Occurrence:
    """One modifier on one sample in one channel.

    Attributes:
        channel: Index of the channel.
        row: Index of the (channel, sample) pair.
        nominal: Yields of the sample, shape (channel bins,).
        data: What the JSON holds for the modifier.
    """

    channel: int
    row: int
    nominal: np.ndarray
    data: Any


@dataclass(frozen=True)
class ParameterSet:
    """The parameters behind one name, in the order of the parameter vector; every array has shape (n,).

    ``width`` is the standard deviation of a normal constraint, ``factor`` the expected auxiliary count of a Poisson
    constraint per unit of the parameter. ``frozen`` marks parameters that cannot move; ``degenerate`` those
    whose auxiliary measurement is not defined.
    """

    name: str
    scalar: bool
    constraint: Constraint
    init: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    frozen: np.ndarray
    auxdata: np.ndarray | None = None
    width: np.ndarray | None = None
    factor: np.ndarray | None = None
    degenerate: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of parameters."""
        return len(self.init)


class ModifierType(Protocol):
    """A modifier type: one module of this package."""

    @property
    def TYPE(self) -> str:  # noqa: N802
        ...

    @property
    def EFFECT(self) -> Effect:  # noqa: N802
        ...

    @property
    def CONSTRAINT(self) -> Constraint:  # noqa: N802
        ...

    def parameter_set(self, name: str, occurrences: Sequence[Occurrence], config: ParameterConfig) -> ParameterSet:
        """The parameters that all occurrences of one name share."""
        ...


def build_set(
    name: str,
    n: int,
    constraint: Constraint,
    config: ParameterConfig,
    *,
    init: float,
    bounds: tuple[float, float],
    scalar: bool = True,
    auxdata: Any = None,
    width: Any = None,
    factor: Any = None,
    degenerate: Any = None,
) -> ParameterSet:
    """A parameter set from the defaults of its type, overridden by the measurement's configuration."""

    def filled(configured: Any, default: Any) -> np.ndarray | None:
        value = default if configured is None else configured
        return None if value is None else np.broadcast_to(np.asarray(value, dtype=np.float64), (n,)).copy()

    limits = np.broadcast_to(np.asarray(bounds if config.bounds is None else config.bounds, dtype=np.float64), (n, 2))
    never = np.zeros(n, dtype=bool) if degenerate is None else np.asarray(degenerate)
    # A configured "fixed" replaces the default of the type, degenerate bins included, as in pyhf.
    frozen = never if config.fixed is None else np.full(n, config.fixed)
    start = filled(config.inits, init)
    assert start is not None
    return ParameterSet(
        name=name,
        scalar=scalar,
        constraint=constraint,
        init=start,
        lower=limits[:, 0].copy(),
        upper=limits[:, 1].copy(),
        frozen=frozen,
        auxdata=filled(config.auxdata, auxdata),
        width=filled(config.sigmas, width),
        factor=filled(config.factors, factor),
        degenerate=never,
    )
