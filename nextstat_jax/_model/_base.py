"""What every model is, whatever its likelihood: arrays that answer, and names for people."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .._base._doors import as_vector, concrete, replaced, scalar
from .._base._errors import FitError, ModelError
from .._likelihood._protocol import Likelihood


class Model:
    """A likelihood with names: what every question takes as its first argument.

    ``HistFactoryModel`` is one, a surrogate of it another, and either as a function of other parameters.
    """

    likelihood: Any

    @property
    @abstractmethod
    def poi(self) -> str | None:
        """Name of the parameter of interest, or None."""

    @abstractmethod
    def parameter_names(self) -> list[str]:
        """Names of all parameters, in their order."""

    @abstractmethod
    def data_vector(self, data: Any = None) -> Any:
        """The data that a question is about, checked: the observed ones, or what a user gave."""

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return len(self.parameter_names())

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of the model."""
        return self.likelihood.dtype

    @property
    def poi_index(self) -> int | None:
        """Index of the parameter of interest, or None."""
        return None if self.poi is None else self.index(self.poi)

    @property
    def quick_likelihood(self) -> Likelihood:
        """The likelihood for values at many points; that of networks computes in their own precision."""
        return self.likelihood

    def parameter_init(self) -> Float[Array, " param"]:
        """Initial parameters, shape (n_params,)."""
        return self.likelihood.init

    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """Lower and upper bounds, shape (n_params, 2)."""
        return jnp.stack([jnp.asarray(self.likelihood.lower), jnp.asarray(self.likelihood.upper)], axis=1)

    def index(self, name: str) -> int:
        """Index of a parameter; ``FitError`` with the closest names if there is none."""
        names = self.parameter_names()
        try:
            return names.index(name if isinstance(name, str) else "")
        except ValueError:
            close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise FitError(f"there is no parameter {name!r:.60}{hint}") from None

    def require_poi(self) -> int:
        """Index of the parameter of interest; ``ModelError`` where there is none."""
        index = self.poi_index
        if index is None:
            raise ModelError(f"this needs a parameter of interest, and the model has none{self._why_no_poi()}")
        return index

    def constrained(self) -> list[int]:
        """Indices of the parameters that an auxiliary measurement constrains."""
        return []

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of parameters by what they are, for uncertainties by source."""
        return {"parameters": self.parameter_names()}

    def why_invalid(self, about: Subject) -> str:
        """What makes a likelihood 0 wherever a fit to these data goes, as the end of a sentence; empty if unknown."""
        del about
        return ""

    def _why_no_poi(self) -> str:
        return ": name one with with_poi"


class Subject(NamedTuple):
    """What a question is about, checked.

    Attributes:
        likelihood: The likelihood, with what is fixed.
        names: Names of the parameters.
        poi: Index of the parameter of interest, or None.
        data: The data.
    """

    likelihood: Any
    names: tuple[str, ...]
    poi: int | None
    data: Array

    @property
    def place(self) -> Any:
        """Index of the parameter of interest as an array, -1 for none."""
        return np.asarray(-1 if self.poi is None else self.poi, np.int32)

    @property
    def poi_name(self) -> str:
        """Name of the parameter of interest; empty for none."""
        return "" if self.poi is None else self.names[self.poi]


def subject(
    model: Any, data: Any = None, fixed: Any = None, *, poi: bool = False, free_poi: bool = False, tilde: bool = False
) -> Subject:
    """Checks what a question is about.

    Args:
        model: The model.
        data: Data as the user gave them, or None.
        fixed: Values of parameters to hold, by name, or None.
        poi: Whether there must be a parameter of interest.
        free_poi: Whether it must be free to move as well.
        tilde: Whether it is held at 0 or above.

    Raises:
        ModelError: For what is no model, data of a wrong shape, or a missing parameter of interest.
        FitError: For a parameter of interest that is held, or for unknown names and bad values in ``fixed``.
    """
    require_model(model)
    index = model.require_poi() if poi or free_poi else model.poi_index
    names = tuple(model.parameter_names())
    likelihood = with_fixed(model, fixed) if fixed is not None else model.likelihood
    if free_poi:
        require_free(likelihood, names, index)
    if tilde:
        likelihood = bounded_below(likelihood, index)
    return Subject(likelihood, names, index, model.data_vector(data))


def require_model(model: Any) -> None:
    """``ModelError`` for anything but a model, a workspace that was not read for example."""
    if not isinstance(model, Model):
        raise ModelError(f"expected a model as from_pyhf returns it, found {type(model).__name__}")


def require_free(likelihood: Likelihood, names: Sequence[str], index: int | None) -> None:
    """``FitError`` where the parameter of interest cannot move."""
    frozen = likelihood.frozen
    if index is not None and concrete(frozen) and np.asarray(frozen)[index] > 0:
        raise FitError(f"{names[index]} is fixed: a test needs a parameter of interest that can move")


def bounded_below(likelihood: Likelihood, index: int | None) -> Likelihood:
    """The likelihood with a parameter at 0 or above."""
    assert index is not None
    lower = likelihood.lower
    known = concrete(lower)
    # What is kept with a likelihood stays with it.
    if known and np.asarray(lower)[index] >= 0:
        return likelihood
    low = 0.0 if known else jnp.maximum(lower[index], 0.0)
    return replace(likelihood, lower=replaced(lower, index, low))  # type: ignore[type-var]


def lifted(about: Subject, values: Any = None) -> Subject:
    """What a question is about, without the upper bound of its parameter of interest.

    With ``values``: only where one of them, which are known, lies above it.
    """
    upper = about.likelihood.upper

    def above() -> bool:
        known = concrete(upper) and concrete(values)
        return known and bool(np.max(np.asarray(values)) > np.asarray(upper)[about.poi])

    if values is not None and not above():
        return about
    assert about.poi is not None
    return about._replace(likelihood=replace(about.likelihood, upper=replaced(upper, about.poi, np.inf)))


def with_fixed(model: Model, fixed: Any) -> Likelihood:
    """The likelihood of a model with parameters held at given values, by name, inside their bounds or not."""
    likelihood = model.likelihood
    if not isinstance(fixed, Mapping):
        raise FitError(f"fixed is a {type(fixed).__name__}: give a mapping from parameter names to values")
    if not fixed:
        return likelihood
    where = np.array([model.index(name) for name in fixed], dtype=int)
    numbers = [scalar(value, f"fixed[{name!r}]", model.dtype) for name, value in fixed.items()]
    if all(map(concrete, numbers)):
        values: Any = np.array([np.asarray(x) for x in numbers], model.dtype)
    else:
        values = jnp.stack(numbers)
    init, frozen = replaced(likelihood.init, where, values), replaced(likelihood.frozen, where, 1.0)
    return replace(likelihood, init=init, frozen=frozen)  # type: ignore[type-var]


def check_bounds(model: Model, about: Subject, values: list[float], what: str = "mu", *, above: bool = False) -> None:
    """``FitError`` for hypotheses outside the bounds of the parameter of interest; ``above`` allows what lies above."""
    k, name = model.likelihood, about.poi_name
    if not (concrete(k.lower) and concrete(k.upper)):
        return
    lower, upper = (float(np.asarray(end)[about.poi]) for end in (k.lower, k.upper))
    for value in values:
        if not (lower <= value and (above or value <= upper)):
            raise FitError(
                f"{what} is {value:g}, outside the bounds [{lower:g}, {upper:g}] of {name}: widen them with "
                f"model.replace_bounds({name!r}, ...)"
            )


def check_start(subject: Subject, init: Any) -> Any:
    """Where a fit starts: ``init`` with the values of what is held.

    Raises:
        ModelError: For a wrong shape.
        FitError: For what is not finite, or outside the bounds of a parameter that can move.
    """
    likelihood, names = subject.likelihood, subject.names
    if init is None:
        return likelihood.init
    start = as_vector(init, len(names), "init", likelihood.dtype)
    if not all(map(concrete, (start, *jax.tree.leaves(likelihood)))):
        return jnp.where(likelihood.frozen > 0, likelihood.init, start)
    values, held = np.asarray(start), np.asarray(likelihood.frozen) > 0
    if not np.isfinite(values).all():
        name = names[int(np.argmin(np.isfinite(values)))]
        raise FitError(f"init is not finite for {name}: give a number inside its bounds")
    lower, upper = np.asarray(likelihood.lower), np.asarray(likelihood.upper)
    outside = ((values < lower) | (values > upper)) & ~held
    if outside.any():
        k = int(np.argmax(outside))
        raise FitError(f"init of {names[k]} is {values[k]:g}, outside its bounds [{lower[k]:g}, {upper[k]:g}]")
    return np.where(held, np.asarray(likelihood.init), values)


def scanned(subject: Subject, model: Model, parameter: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and indices of one or two parameters that can move; ``FitError`` for anything else."""
    names = (parameter,) if isinstance(parameter, str) else parameter
    words = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    if not words or not 1 <= len(names) <= 2 or len(set(names)) != len(names):
        raise FitError(f"parameter={parameter!r:.60}: expected one name, or two different ones")
    indices = tuple(model.index(name) for name in names)
    frozen = subject.likelihood.frozen
    for name, index in zip(names, indices, strict=True):
        if concrete(frozen) and np.asarray(frozen)[index] > 0:
            raise FitError(f"{name} is fixed: there is nothing to scan")
    return tuple(names), indices
