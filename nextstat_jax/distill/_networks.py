"""The likelihood of a surrogate as the driver sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from .._base._doors import pytree
from .._base._errors import ModelError
from .._likelihood._automatic import Automatic
from .._likelihood._poisson import poisson
from ._core import Core, Data, capped_exp, data_of, deviance, outputs, places, trust


@pytree
@dataclass(frozen=True, eq=False)
class Networks(Automatic):
    """The mean of one or several networks, with the exact parts of the likelihood that they stand for.

    A network that learned expected rates knows the likelihood of any data; others know it for the data of their
    training alone. Data are the counts of the bins, then auxiliary data of normal and of Poisson constraints.

    Attributes:
        members: The networks.
        init: Initial parameters, shape (n_params,).
        lower: Lower bounds: those of the trained box.
        upper: Upper bounds.
        frozen: 1 where a parameter cannot move, else 0.
        observed: The data, shape (n_data,); empty where the networks know no other.
    """

    # Trees of shapes, not only of arrays, are made of it.
    members: tuple[Core, ...]
    init: Any
    lower: Any
    upper: Any
    frozen: Any
    observed: Any

    @classmethod
    def of(cls, members: tuple[Core, ...]) -> Networks:
        """The likelihood of networks, in their own precision."""
        members = jax.tree.map(_floating, members)
        core = members[0]
        lower, upper, init = (jnp.asarray(x) for x in (core.lower, core.upper, core.origin))
        parts = [np.zeros(0)] if core.recipe != "rates" else data_of(_reference(core))
        observed = jnp.concatenate([jnp.asarray(part, init.dtype) for part in parts])
        return cls(members, jnp.clip(init, lower, upper), lower, upper, (lower == upper).astype(init.dtype), observed)

    @property
    def _any_data(self) -> bool:
        return self.members[0].recipe == "rates"

    def deviance(self, params: Array, data: Array, barrier: Any = None) -> Array:
        """The mean of those of the members."""
        del barrier
        parts = _split(self.members[0], data) if self._any_data else None
        values = [deviance(core, params, parts) for core in self.members]
        return sum(values[1:], values[0]) / len(values)

    def constant(self, data: Array) -> Array:
        """The reference's, with the difference that other data make."""
        core = self.members[0]
        if core.reference is None:
            return super().constant(data)
        constant = jnp.asarray(core.reference.constant, self.init.dtype)
        if not self._any_data:
            return constant
        mine, known = _split(core, data), data_of(core.reference)
        pairs = (mine.main, known.main), (mine.poisson, known.poisson)
        return constant + sum(_saturated(one) - _saturated(other) for one, other in pairs)

    def trust(self, params: Array) -> Array:
        """0 in the trained region, 1 next to it, 2 beyond."""
        return trust(self.members[0], params)

    def constraints(self, data: Array) -> tuple[Array, Array]:
        """Those of the reference."""
        core = self.members[0]
        if core.reference is None:
            return super().constraints(data)
        r = core.reference
        known = _split(core, data) if self._any_data else data_of(r)
        value, width = jnp.zeros_like(self.init), jnp.zeros_like(self.init)
        normal, counts = places(r.normal_params), places(r.poisson_params)
        value = value.at[normal].set(known.normal).at[counts].set(known.poisson / r.poisson_tau)
        return value, width.at[normal].set(r.normal_widths).at[counts].set(1.0 / jnp.sqrt(r.poisson_tau))

    def expected(self, params: Array) -> Array:
        """Expected rates, the mean over members, and auxiliary data; ``ModelError`` where the networks know none."""
        if not self._any_data:
            return super().expected(params)
        r = _reference(self.members[0])
        rates = [capped_exp(outputs(core, params).astype(params.dtype)) for core in self.members]
        main = sum(rates[1:], rates[0]) / len(rates)
        counts = params[places(r.poisson_params)] * r.poisson_tau
        return jnp.concatenate([main, params[places(r.normal_params)], counts])

    def throw(self, params: Array, key: Array) -> Array:
        """Bins and auxiliary counts fluctuate as Poisson counts, all other auxiliary data normally."""
        if not self._any_data:
            return super().throw(params, key)
        r = _reference(self.members[0])
        mean = _split(self.members[0], self.expected(params))
        counts, normal = jax.random.split(key)
        drawn = poisson(counts, jnp.concatenate([mean.main, mean.poisson]))
        noise = r.normal_widths * jax.random.normal(normal, mean.normal.shape, params.dtype)
        n = len(mean.main)
        return jnp.concatenate([drawn[:n], mean.normal + noise, drawn[n:]])

    def _what(self) -> str:
        return f"a surrogate that learned {self.members[0].recipe!r} (see train_mlp_surrogate: 'rates' does)"


def _floating(x: Any) -> Any:
    """All leaves of a likelihood are floating-point numbers, so that gradients have the same form."""
    return x if x.dtype.kind == "f" else x.astype(float)


def _reference(core: Core) -> Any:
    if core.reference is None:
        raise ModelError("the surrogate has lost the exact parts of its likelihood: train it again")
    return core.reference


def _split(core: Core, data: Array) -> Data:
    """The parts of a data vector."""
    r = _reference(core)
    n, normal = r.observed.shape[0], r.normal_aux.shape[0]
    return Data(data[:n], data[n : n + normal], data[n + normal :])


def _saturated(counts: Any) -> Array:
    """NLL of Poisson counts that are predicted exactly."""
    counts = jnp.asarray(counts)
    safe = jnp.where(counts > 0, counts, 1.0)
    return (jnp.where(counts > 0, safe - safe * jnp.log(safe), 0.0) + gammaln(counts + 1.0)).sum()
