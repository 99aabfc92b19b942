"""The likelihood behind a model in other parameters: that of the source under a substitution."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base._doors import pytree
from .._likelihood._automatic import absolute, guarded
from .._likelihood._protocol import Attempts, Evaluation, Likelihood
from .._minimize._dense import Dense

# Starts of every fit where nothing is said: other parameters can make several minima of one.
_STARTS = 8


@pytree
@dataclass(frozen=True, eq=False)
class Substitution:
    """Takes new and kept parameters to those of the source, shape (n,) to (n_source,).

    Attributes:
        arrays: The arrays of a function from the new parameters, shape (n_new,), to a mapping with values of those that
            they replace.
        rest: What else the function is made of.
        replaced: Indices of these in the source, by name.
        kept: Indices of the others.
    """

    arrays: Any
    rest: Any = field(metadata={"static": True})
    replaced: tuple[tuple[str, int], ...] = field(metadata={"static": True})
    kept: tuple[int, ...] = field(metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """Parameters of the source."""
        n_new = x.shape[0] - len(self.kept)
        values = eqx.combine(self.arrays, self.rest)(x[:n_new])
        params = jnp.zeros(len(self.kept) + len(self.replaced), x.dtype)
        for name, index in self.replaced:
            params = params.at[index].set(jnp.asarray(values[name], x.dtype))
        return params.at[np.array(self.kept, int)].set(x[n_new:])


@pytree
@dataclass(frozen=True, eq=False)
class Substituted(Likelihood):
    """A likelihood under a substitution: its derivatives follow from those of the source by the chain rule.

    Walls, data and everything that is known of them are the source's.

    Attributes:
        source: The likelihood of the source.
        substitution: Takes parameters to those of the source.
        init: Initial parameters, shape (n_params,).
        lower: Lower bounds.
        upper: Upper bounds.
        frozen: 1 where a parameter cannot move, else 0.
    """

    source: Any
    substitution: Substitution
    init: Any
    lower: Any
    upper: Any
    frozen: Any

    @property
    def observed(self) -> Any:  # type: ignore[override]
        """The source's."""
        return self.source.observed

    @property
    def dtype(self) -> np.dtype:
        """That of the initial parameters."""
        return np.dtype(self.init.dtype)

    @property
    def large(self) -> bool:
        """Whether the source is."""
        return self.source.large

    @property
    def n_new(self) -> int:
        """The first so many parameters are new."""
        return len(self.init) - len(self.substitution.kept)

    def deviance(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """The source's; see ``Likelihood``, as for the other methods."""
        return self.source.deviance(self.substitution(params), data, barrier)

    def gradient(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """``J^T g``, with J the derivative of the substitution."""
        point, back = jax.vjp(self.substitution, params)
        return back(self.source.gradient(point, data, barrier))[0]

    def hessian(self, params: Array, data: Array, barrier: Any = None) -> Dense:
        """``J^T H J``, and what the substitution bends."""
        point = self.substitution(params)
        slopes = jax.jacfwd(self.substitution)(params)
        inner = self.source.hessian(point, data, barrier).dense()
        return Dense(slopes.T @ inner @ slopes + self._bend(params, self.source.gradient(point, data, barrier)))

    def _bend(self, params: Array, gradient: Array) -> Array:
        """Second derivatives of the substitution along the gradient of the source, shape (n_params, n_params)."""
        n, new = self.n_new, params[: self.n_new]
        block = jax.hessian(lambda x: self.substitution(params.at[:n].set(x)) @ gradient)(new)
        # Kept parameters are taken as they are.
        return jnp.zeros((len(params), len(params)), block.dtype).at[:n, :n].set(0.5 * (block + block.T))

    def evaluate(self, params: Array, data: Array, barrier: Any) -> Evaluation:
        """Where the substitution is not finite, neither is the value."""
        point, back = jax.vjp(self.substitution, params)
        value, gradient, aux, _ = self.source.evaluate(point, data, barrier)
        return guarded(value, back(gradient)[0], aux)

    def curvatures(self, params: Array, data: Array, barrier: Any) -> tuple[Dense, Dense]:
        """The stand-in is the source's, with what the substitution bends taken to bend upwards."""
        point = self.substitution(params)
        slopes = jax.jacfwd(self.substitution)(params)
        exact, positive = (x.dense() for x in self.source.curvatures(point, data, barrier))
        bend = self._bend(params, self.source.gradient(point, data, barrier))
        n = self.n_new
        upwards = bend.at[:n, :n].set(absolute(bend[:n, :n]))
        return Dense(slopes.T @ exact @ slopes + bend), Dense(slopes.T @ positive @ slopes + upwards)

    def barrier(self, multipliers: Any = None) -> Any:
        """The source's."""
        return self.source.barrier(multipliers)

    def settled(self, multipliers: Array) -> Any:
        """The source's."""
        return self.source.settled(multipliers)

    def softened(self, multipliers: Array) -> Any:
        """The source's."""
        return self.source.softened(multipliers)

    def tighten(self, barrier: Any, aux: Any, data: Array) -> tuple[Array, Array]:
        """The source's."""
        return self.source.tighten(barrier, aux, data)

    def inside(self, aux: Any, data: Array) -> Array:
        """The source's."""
        return self.source.inside(aux, data)

    def bare(self, value: Array, barrier: Any, aux: Any, data: Array) -> Array:
        """The source's."""
        return self.source.bare(value, barrier, aux, data)

    def constant(self, data: Array) -> Array:
        """The source's."""
        return self.source.constant(data)

    def attempts(self, data: Array, poi: Array) -> Attempts:
        """Those of the source as far as its parameters are kept, and new parameters spread over their bounds."""
        n, kept = self.n_new, np.array(self.substitution.kept, int)
        # With a place at the end for a parameter of interest that is new, or that there is not.
        places = jnp.append(jnp.asarray(kept), -1)
        theirs = self.source.attempts(data, places[jnp.where(poi >= n, poi - n, -1)])
        new = jnp.broadcast_to(self.init[:n], (len(theirs.points), n))
        points = jnp.concatenate([new, theirs.points[:, kept]], axis=1)
        # Their start has values for kept parameters that hold where nothing else is said.
        own = theirs.points[:, kept] == self.source.init[kept]
        points = points.at[:, n:].set(jnp.where(own, self.init[n:], points[:, n:]))
        first = jnp.concatenate([jnp.zeros(new.shape, bool), theirs.first[:, kept]], axis=1)
        lost = theirs.first.any(1) & ~first.any(1)
        unit = jnp.asarray(_spread(n), self.init.dtype)
        spread = jnp.broadcast_to(self.init, (len(unit), len(self.init)))
        spread = spread.at[:, :n].set(self.lower[:n] + unit * (self.upper[:n] - self.lower[:n]))
        return Attempts(
            jnp.concatenate([points, spread]),
            jnp.concatenate([first, jnp.zeros(spread.shape, bool)]),
            jnp.concatenate([jnp.where(lost, jnp.inf, theirs.worth), jnp.zeros(len(unit), theirs.worth.dtype)]),
        )

    def trust(self, params: Array) -> Array | None:
        """That of the source at its parameters."""
        return self.source.trust(self.substitution(params))

    def stranded(self, params: Array, stayed: Array, aux: Any, data: Array) -> Array:
        """That of the source at its parameters, none of which is free by itself."""
        del stayed
        params = self.substitution(params)
        return self.source.stranded(params, jnp.zeros(params.shape, bool), aux, data)

    def constraints(self, data: Array) -> tuple[Array, Array]:
        """Those of kept parameters; auxiliary measurements say nothing of new ones alone."""
        none = jnp.zeros_like(self.init[: self.n_new])
        kept = np.array(self.substitution.kept, int)
        value, width = (jnp.concatenate([none, x[kept]]) for x in self.source.constraints(data))
        return value, width

    def expected(self, params: Array) -> Array:
        """The source's at its parameters."""
        return self.source.expected(self.substitution(params))

    def expected_at(self, params: Array, aux: Any) -> Array:
        """Likewise."""
        return self.source.expected_at(self.substitution(params), aux)

    def throw(self, params: Array, key: Array) -> Array:
        """Likewise."""
        return self.source.throw(self.substitution(params), key)


@cache
def _spread(n: int) -> np.ndarray:
    """Further starts in the unit cube, shape (_STARTS - 1, n): quasi-random, always the same."""
    power = (_STARTS - 1).bit_length()
    from scipy.stats import qmc  # takes a second to import

    return qmc.Sobol(n, scramble=True, rng=0).random_base2(power)[: _STARTS - 1]
