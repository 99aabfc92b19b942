"""A likelihood as a function of other parameters: of Wilson coefficients, couplings, cross sections, a mass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from .._base._doors import concrete, no_type_check, pytree
from .._base._errors import ModelError
from ._base import Model, require_model
from ._many import as_points, nlls
from ._substituted import Substituted, Substitution


@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Reparametrized(Model):
    """A model whose likelihood is that of another one as a function of other parameters; made by ``reparametrize``.

    Attributes:
        source: The other model: read from a workspace, a surrogate, or reparametrized itself.
        substitution: Takes these parameters to those of the source.
        init: Initial parameters, shape (n_params,): the new ones, then those that are kept from the source.
        lower: Lower bounds.
        upper: Upper bounds.
        frozen: 1 where a parameter cannot move, else 0.
        names: Names of all.
        of_interest: Name of the parameter of interest, or None; ``poi`` is the same.
    """

    source: Any
    substitution: Substitution
    init: Any
    lower: Any
    upper: Any
    frozen: Any
    names: tuple[str, ...] = field(metadata={"static": True})
    of_interest: str | None = field(metadata={"static": True})

    @property
    def likelihood(self) -> Substituted:  # type: ignore[override]
        """The likelihood that fits minimize."""
        return self._substituted(self.source.likelihood)

    @property
    def quick_likelihood(self) -> Substituted:
        """The likelihood for values at many points."""
        return self._substituted(self.source.quick_likelihood)

    def _substituted(self, inner: Any) -> Substituted:
        return Substituted(inner, self.substitution, self.init, self.lower, self.upper, self.frozen)

    @property
    def poi(self) -> str | None:
        """Name of the parameter of interest, or None."""
        return self.of_interest

    @property
    def dtype(self) -> np.dtype:
        """That of the source."""
        return self.source.dtype

    @property
    def n_new(self) -> int:
        """The first so many parameters are new, the others are kept from the source."""
        return len(self.names) - len(self.substitution.kept)

    @property
    def observed_data(self) -> Float[Array, " data"]:
        """The source's observed data."""
        return jnp.asarray(self.source.data_vector(None))

    def parameter_names(self) -> list[str]:
        """Names of the new parameters, then of those that are kept."""
        return list(self.names)

    def parameter_init(self) -> Float[Array, " param"]:
        """Initial parameters, shape (n_params,): the middle of the bounds for new ones."""
        return self.init

    def parameter_bounds(self) -> Float[Array, "param 2"]:
        """Lower and upper bounds, shape (n_params, 2)."""
        return jnp.stack([self.lower, self.upper], axis=1)

    def data_vector(self, data: Any = None) -> Any:
        """Data of the source, checked."""
        return self.source.data_vector(data)

    def params(self, x: Any) -> Float[Array, "..."]:
        """Parameters of the source, shape (..., n_source), from those here, shape (..., n_params)."""
        return _converted(self.substitution, self._checked(x))

    def nll(self, x: Any, data: Any = None) -> Float[Array, "*points"]:
        """NLL of one point, shape (n_params,), or of many, shape (n, n_params); differentiable.

        Raises:
            ModelError: For another shape.
        """
        return nlls(self.quick_likelihood, self._checked(x), None if data is None else self.data_vector(data))

    def grad_nll(self, x: Any, data: Any = None) -> Float[Array, " param"]:
        """Gradient of the NLL at one point, shape (n_params,)."""
        likelihood = self.likelihood
        return _gradient(likelihood, jnp.asarray(x, likelihood.dtype), self.data_vector(data))

    def expected_data(self, x: Any) -> Float[Array, " data"]:
        """The data that the parameters of one point predict: main and auxiliary ones of the source."""
        likelihood = self.likelihood
        return likelihood.expected(jnp.asarray(x, likelihood.dtype))

    def in_domain(self, x: Any) -> Bool[Array, "*points"]:
        """Whether points can be trusted: for a surrogate, whether its parameters lie where it was trained."""
        x, likelihood = self._checked(x), self.likelihood
        trust = likelihood.trust(jnp.asarray(likelihood.init))
        if trust is None:
            return jnp.ones(x.shape[:-1], bool)
        return _trusted(likelihood, x)

    def with_data(self, data: Any) -> Reparametrized:
        """The model with other observed data of the source."""
        return replace(self, source=self.source.with_data(data))

    def with_poi(self, name: str | None) -> Reparametrized:
        """The model with another parameter of interest, new or kept, or with none; ``FitError`` for unknown names."""
        if name is not None:
            self.index(name)
        return replace(self, of_interest=name)

    def _checked(self, x: Any) -> Any:
        return as_points(x, self.n_params)

    def __repr__(self) -> str:
        names, gone = self.names[: self.n_new], len(self.substitution.replaced)
        kept, what = len(self.substitution.kept), type(self.source).__name__
        return f"Reparametrized {what}: {', '.join(names)} in place of {gone} parameters; {kept} kept"


@jax.jit
def _gradient(likelihood: Substituted, x: Any, data: Any) -> Array:
    return likelihood.gradient(x, data)


@jax.jit
def _converted(substitution: Substitution, x: Any) -> Array:
    return substitution(x) if x.ndim == 1 else jax.vmap(substitution)(x)


@jax.jit
def _trusted(likelihood: Substituted, x: Any) -> Array:
    def one(point: Array) -> Array:
        return jnp.asarray(likelihood.trust(point)) == 0

    return one(x) if x.ndim == 1 else jax.vmap(one)(x)


@no_type_check
def reparametrize(
    likelihood: Model,
    parameters: Mapping[str, Sequence[float]],
    function: Callable[[Array], Mapping[str, ArrayLike]],
    *,
    surrogate: Model | None = None,
) -> Reparametrized:
    """The same likelihood as a function of other parameters, some of its own replaced by a function of new ones.

    In a global fit, for instance, ten Wilson coefficients take the place of the signal strengths of all processes and
    regions, each a quadratic function of them. A surrogate is trained once, in the signal strengths, and serves any
    theory that predicts these; the map is exact. Every question can be asked of the result: fits, tests, limits, scans.

    Every fit is made from eight points spread over the bounds of the new parameters, since these can make several
    minima of one, and the lowest counts.

    Args:
        likelihood: A model, a surrogate, or what this function returned.
        parameters: Names and bounds ``(lower, upper)`` of the new parameters, a mapping.
        function: Takes the new parameters, shape (n_new,), and returns a mapping from names of parameters of the
            source to the scalars that replace them. Written with ``jax.numpy``, and compiled once for each function:
            numbers that change belong into an ``equinox.Module``, since a plain function keeps those of its first call.
        surrogate: A model with the same parameters, whose bounds and initial values the kept parameters get: with that
            of its surrogate, a model has the same domain.

    Returns:
        ``Reparametrized``, whose parameters are the new ones and then the kept ones of the source. Its parameter of
        interest is the source's where that is kept; ``with_poi`` names another.

    Raises:
        ModelError: For bounds, names or a function that do not fit the source.

    Example:
        >>> import nextstat_jax as nextstat
        >>> sample = lambda name, data, *modifiers: {"name": name, "data": data, "modifiers": list(modifiers)}
        >>> signal = sample("signal", [5.0, 4.0], {"name": "mu", "type": "normfactor", "data": None})
        >>> spec = {
        ...     "version": "1.0.0",
        ...     "channels": [{"name": "SR", "samples": [signal, sample("background", [50.0, 60.0])]}],
        ...     "observations": [{"name": "SR", "data": [56.0, 63.0]}],
        ...     "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        ... }
        >>> model = nextstat.from_pyhf(spec)
        >>> coupling = nextstat.reparametrize(model, {"kappa": (0.0, 3.0)}, lambda x: {"mu": x[0] ** 2})
        >>> best = nextstat.fit(coupling)
        >>> print(f"{float(best['kappa']) ** 2:.4f} {float(nextstat.fit(model)['mu']):.4f}")
        1.0402 1.0402
    """
    require_model(likelihood)
    names, facts = tuple(likelihood.parameter_names()), _facts(likelihood, surrogate)
    new = _check_new(parameters, names)
    if not callable(function):
        raise ModelError(f"function is a {type(function).__name__}: give a function of the new parameters")
    dtype = likelihood.dtype
    ends = np.array(list(new.values()), dtype)
    middle = ends.mean(1)
    replaced = _check_function(function, middle, names, facts.frozen)
    gone = {index for _, index in replaced}
    kept = np.array([k for k in range(len(names)) if k not in gone], int)
    # Every other object that says how a function computes is part of the program.
    arrays, rest = eqx.partition(function, eqx.is_inexact_array)
    substitution = Substitution(arrays, rest, replaced, tuple(kept.tolist()))

    def joined(mine: Any, theirs: Any) -> Array:
        return jnp.concatenate([jnp.asarray(mine, dtype), jnp.asarray(theirs)[kept].astype(dtype)])

    poi = likelihood.poi if likelihood.poi is not None and names.index(likelihood.poi) not in gone else None
    return Reparametrized(
        likelihood, substitution, joined(middle, facts.init), joined(ends[:, 0], facts.lower),
        joined(ends[:, 1], facts.upper), joined(np.zeros(len(new)), facts.frozen),
        (*new, *(names[k] for k in kept)), poi,
    )  # fmt: skip


class _Facts(NamedTuple):
    """What kept parameters keep, each of shape (n_source,)."""

    init: Any
    lower: Any
    upper: Any
    frozen: Any


def _facts(source: Model, surrogate: Any) -> _Facts:
    k = source.likelihood
    if surrogate is None:
        return _Facts(k.init, k.lower, k.upper, k.frozen)
    if not isinstance(surrogate, Model) or surrogate.parameter_names() != source.parameter_names():
        raise ModelError("surrogate= is none of this model: its parameters have other names")
    other = surrogate.likelihood
    return _Facts(other.init, other.lower, other.upper, jnp.maximum(jnp.asarray(k.frozen), other.frozen))


def _check_new(parameters: Any, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    if not isinstance(parameters, Mapping) or not parameters:
        raise ModelError("parameters: give a mapping from names to (lower, upper)")
    found = {}
    for name, ends in parameters.items():
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            raise ModelError(f"parameters[{name!r}]={ends!r:.60}: expected (lower, upper)") from None
        if not isinstance(name, str):
            raise ModelError(f"parameters: {name!r} is no name")
        if not -np.inf < low < high < np.inf:
            raise ModelError(f"parameters[{name!r}]=({low:g}, {high:g}): expected finite bounds, the lower one first")
        if name in names:
            raise ModelError(f"parameters: {name!r} is a parameter of the likelihood already")
        found[name] = (low, high)
    return found


def _check_function(
    function: Any, middle: np.ndarray, names: tuple[str, ...], frozen: Any
) -> tuple[tuple[str, int], ...]:
    """Names and indices of what the function replaces."""
    try:
        values = jax.eval_shape(function, jax.ShapeDtypeStruct(middle.shape, middle.dtype))
    except Exception as error:  # whatever the caller's function raises
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise ModelError(f"function cannot be traced by JAX: {type(error).__name__}: {line}") from error
    if not isinstance(values, Mapping) or not values:
        raise ModelError("function returns no mapping from names of parameters to their values")
    for name, value in values.items():
        if name not in names:
            raise ModelError(f"function returns {name!r}, which is no parameter of the likelihood")
        if concrete(frozen) and np.asarray(frozen)[names.index(name)] > 0:
            raise ModelError(f"function returns {name!r}, which is fixed in the likelihood")
        real = getattr(value, "shape", None) == () and value.dtype.kind in "fiu"
        if not real:
            raise ModelError(
                f"function returns {name!r} of shape {getattr(value, 'shape', None)}: expected a real scalar"
            )
    return tuple(sorted((name, names.index(name)) for name in values))
