"""A likelihood, or its surrogate, as a function of other parameters: of Wilson coefficients, couplings, a mass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from .._base._doors import concrete
from .._base._errors import DatasetError
from .._likelihood import _derivatives
from .._likelihood._histfactory import Likelihood, saturated
from .._model._model import HistFactoryModel
from ._files import first_line
from ._reference import free_of
from ._surrogate import Surrogate, _mean, as_points, in_calls, together

# Points that are vectorized at once on a CPU, networks and models: so few that they stay in its caches.
_TOGETHER, _TOGETHER_EXACT = 1024, 64


class Substitution(eqx.Module):
    """Takes new and kept parameters to those of the source, shape (n,) to (n_params,).

    Attributes:
        arrays: The arrays of a function from the new parameters, shape (n_new,), to a mapping with values of those that
            they replace.
        rest: What else the function is made of.
        replaced: Indices of these in the source, by name.
        kept: Indices of the others.
    """

    arrays: Any
    rest: Any = eqx.field(static=True)
    replaced: tuple[tuple[str, int], ...] = eqx.field(static=True)
    kept: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: Any) -> Array:
        """Parameters of the source."""
        n_new = x.shape[0] - len(self.kept)
        values = eqx.combine(self.arrays, self.rest)(x[:n_new])
        params = jnp.zeros(len(self.kept) + len(self.replaced), x.dtype)
        for name, index in self.replaced:
            params = params.at[index].set(jnp.asarray(values[name], x.dtype))
        return params.at[jnp.array(self.kept, int)].set(x[n_new:])


class Substituted(eqx.Module):
    """The arrays of a likelihood or of a surrogate's networks, under a substitution."""

    source: Any
    substitution: Substitution


class Reparametrized(eqx.Module):
    """The NLL of a model or of its surrogate as a function of other parameters; made by ``reparametrize``.

    ``fit``, ``profile_scan``, ``log_density`` and ``sample`` take it as they take a surrogate or a model.

    Attributes:
        source: The model or the surrogate.
        substitution: Takes these parameters to those of the source.
        lower: Lower bounds, shape (n_params,).
        upper: Upper bounds.
        start: Where minimizations start.
        n_new: The first so many parameters are new, the others are kept from the source.
        parameter_names: Names of all.
    """

    source: Any
    substitution: Substitution
    lower: Any
    upper: Any
    start: Any
    n_new: int = eqx.field(static=True)
    parameter_names: tuple[str, ...] = eqx.field(static=True)

    @property
    def n_params(self) -> int:
        """Number of parameters, new and kept ones."""
        return len(self.parameter_names)

    @property
    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """Bounds, shape (n_params, 2)."""
        return jnp.stack([jnp.asarray(self.lower), jnp.asarray(self.upper)], axis=1)

    def params(self, x: Any) -> Array:
        """Parameters of the source, shape (..., n_source), from those here, shape (..., n_params)."""
        return _converted(self.substitution, self._checked(x))

    def nll(self, x: Any) -> Float[Array, "*points"]:
        """NLL of one point, shape (n_params,), or of many, shape (n, n_params); differentiable.

        Raises:
            DatasetError: For another shape.
        """
        x, inner = self._checked(x), inner_of(self)
        if x.ndim == 1:
            return _one(inner, x)
        if not concrete(x):
            return jax.vmap(partial(nll_of, inner))(x)
        return many_nlls(inner, x)

    def in_domain(self, x: Any) -> Bool[Array, "*points"]:
        """Whether the source's parameters lie in the region in which it was trained; true for a model's."""
        if isinstance(self.source, Surrogate):
            return self.source.in_domain(self.params(x))
        return jnp.ones(jnp.shape(self._checked(x))[:-1], bool)

    def _checked(self, x: Any) -> Any:
        return as_points(x, self.n_params)

    def __repr__(self) -> str:
        kind = "surrogate" if isinstance(self.source, Surrogate) else "model"
        names, kept = self.parameter_names[: self.n_new], len(self.substitution.kept)
        gone = len(self.substitution.replaced)
        return f"Reparametrized {kind}: {', '.join(names)} in place of {gone} parameters; {kept} kept"


def reparametrize(source: Any, parameters: Any, function: Any, *, surrogate: Any = None) -> Reparametrized:
    """The same likelihood as a function of other parameters, some of its own replaced by a function of new ones.

    In a global fit, for instance, ten Wilson coefficients take the place of the signal strengths of all processes and
    regions, each a quadratic function of them. The surrogate is trained once, in the signal strengths, and serves any
    theory that predicts these; the map is exact.

    Args:
        source: A surrogate, or a model.
        parameters: Names and bounds ``(lower, upper)`` of the new parameters, a mapping.
        function: Takes the new parameters, shape (n_new,), and returns a mapping from names of parameters of the
            source to the scalars that replace them. Written with ``jax.numpy``, and compiled once for each function:
            numbers that change belong into an ``equinox.Module``, since a plain function keeps those of its first call.
        surrogate: For a model: the surrogate whose bounds the kept parameters get, so that both have one domain.

    Returns:
        ``Reparametrized``, whose parameters are the new ones and then the kept ones of the source.

    Raises:
        DatasetError: For bounds, names or a function that do not fit the source.
    """
    names, box, free, start = _facts(source, surrogate)
    new = _check_new(parameters, names)
    if not callable(function):
        raise DatasetError(f"function is a {type(function).__name__}: give a function of the new parameters")
    middle = np.array([0.5 * (low + high) for low, high in new.values()])
    replaced = _check_function(function, middle, names, free)
    gone = {index for _, index in replaced}
    kept = tuple(k for k in range(len(names)) if k not in gone)
    ends = np.concatenate([np.array(list(new.values())), box[list(kept)].reshape(-1, 2)])
    return Reparametrized(
        source, Substitution(*_split(function), replaced, kept), ends[:, 0], ends[:, 1],
        np.concatenate([middle, start[list(kept)]]), len(new), (*new, *(names[k] for k in kept)),
    )  # fmt: skip


def _facts(source: Any, surrogate: Any) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Names, box, which parameters move, and a start."""
    if isinstance(source, HistFactoryModel):
        names = tuple(source.parameter_names())
        k = source.likelihood
        free, start = free_of(source), np.asarray(k.init, np.float64)
        box = np.asarray(source.parameter_bounds(), np.float64)
        if surrogate is None:
            return names, np.where(free[:, None], box, start[:, None]), free, start
        if not isinstance(surrogate, Surrogate) or surrogate.parameter_names != names:
            raise DatasetError("surrogate= is none of this model")
    elif isinstance(source, Surrogate):
        surrogate = source
    else:
        raise DatasetError(f"expected a surrogate or a model, found {type(source).__name__}")
    box = np.asarray(surrogate.parameter_bounds, np.float64)
    return surrogate.parameter_names, box, box[:, 1] > box[:, 0], np.clip(np.asarray(surrogate.minimum), *box.T)


def _check_new(parameters: Any, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    if not isinstance(parameters, Mapping) or not parameters:
        raise DatasetError("parameters: give a mapping from names to (lower, upper)")
    found = {}
    for name, ends in parameters.items():
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            raise DatasetError(f"parameters[{name!r}]={ends!r:.60}: expected (lower, upper)") from None
        if not isinstance(name, str):
            raise DatasetError(f"parameters: {name!r} is no name")
        if not -np.inf < low < high < np.inf:
            raise DatasetError(f"parameters[{name!r}]=({low:g}, {high:g}): expected finite bounds, the lower one first")
        if name in names:
            raise DatasetError(f"parameters: {name!r} is a parameter of the likelihood already")
        found[name] = (low, high)
    return found


def _check_function(
    function: Any, middle: np.ndarray, names: tuple[str, ...], free: np.ndarray
) -> tuple[tuple[str, int], ...]:
    """Names and indices of what the function replaces."""
    try:
        values = jax.eval_shape(function, jax.ShapeDtypeStruct(middle.shape, middle.dtype))
    except Exception as error:  # whatever the caller's function raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise DatasetError(f"function cannot be traced by JAX: {reason}") from error
    if not isinstance(values, Mapping) or not values:
        raise DatasetError("function returns no mapping from names of parameters to their values")
    for name, value in values.items():
        if name not in names:
            raise DatasetError(f"function returns {name!r}, which is no parameter of the likelihood")
        if not free[names.index(name)]:
            raise DatasetError(f"function returns {name!r}, which is fixed in the likelihood")
        real = getattr(value, "shape", None) == () and value.dtype.kind in "fiu"
        if not real:
            raise DatasetError(
                f"function returns {name!r} of shape {getattr(value, 'shape', None)}: expected a real scalar"
            )
    return tuple(sorted((name, names.index(name)) for name in values))


def _split(function: Any) -> tuple[Any, Any]:
    """A function as a pytree of its arrays, and the rest of it."""
    return eqx.partition(function, eqx.is_inexact_array)


def inner_of(source: Any) -> Any:
    """The arrays of a surrogate, a model or a reparametrized one, without names: what compiled functions take."""
    if isinstance(source, Reparametrized):
        return Substituted(inner_of(source.source), source.substitution)
    return source.members if isinstance(source, Surrogate) else source.likelihood


def nll_of(inner: Any, params: Any) -> Array:
    """NLL of one point, from what ``inner_of`` returned."""
    if isinstance(inner, Substituted):
        return nll_of(inner.source, inner.substitution(params))
    if isinstance(inner, Likelihood):
        data = inner.observed
        return _derivatives.fast_deviance(inner, params, data) + saturated(inner, data)
    return _mean(inner, params)


@jax.jit
def _one(inner: Any, x: Any) -> Array:
    return nll_of(inner, x)


@partial(jax.jit, static_argnums=2)
def _many(inner: Any, x: Any, on_cpu: int) -> Array:
    return jax.lax.map(partial(nll_of, inner), x, batch_size=together(x, on_cpu))


def many_nlls(inner: Any, x: Any) -> Array:
    """NLLs of any number of points, shape (n, n_params)."""
    source = inner.source if isinstance(inner, Substituted) else inner
    on_cpu = _TOGETHER_EXACT if isinstance(source, Likelihood) else _TOGETHER
    return in_calls(lambda part: _many(inner, part, on_cpu), x)


@jax.jit
def _converted(substitution: Substitution, x: Any) -> Array:
    return substitution(x) if x.ndim == 1 else jax.vmap(substitution)(x)
