"""What a binned likelihood answers to the driver, wherever its index tables are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .._minimize._arrow import ArrowSpread
from .._minimize._dense import Dense, DenseSpread
from .._minimize._matrix import Spread, Symmetric
from . import _arrow, _derivatives, _throw
from ._constraints import constraint_centers, constraint_widths
from ._counts import Walls, bare, inside, make_walls, settled_walls, soft_walls, tighten
from ._histfactory import Arrays, expected, expected_aux, rates, saturated
from ._protocol import Attempts, Evaluation, Likelihood
from ._segments import pick, take
from ._starts import attempts


class Binned(Arrays, Likelihood):
    """A binned likelihood with its written-out derivatives."""

    @property
    def kinks(self) -> Any:
        """Of the linear histosys and the exponential normsys codes."""
        return self.structure.derived.kinks

    @property
    def large(self) -> bool:
        """Where it is laid out in pieces."""
        return self.structure.pairs is not None

    def poles(self, data: Array) -> Array | None:
        """Those of Poisson constraints."""
        s = self.structure
        if len(s.poisson_params) == 0:
            return None
        return take(pick(data[s.n_bins :], s.poisson_aux), s.derived.poisson_of_param, 0.0) > 0

    def deviance(self, params: Array, data: Array, barrier: Walls | None = None) -> Array:
        """See ``Likelihood``; the other methods likewise."""
        return _derivatives.fast_deviance(self, params, data, barrier)

    def gradient(self, params: Array, data: Array, barrier: Walls | None = None) -> Array:
        """Written out from the structure."""
        return _derivatives.gradient(self, params, data, barrier)

    def hessian(self, params: Array, data: Array, barrier: Walls | None = None) -> Symmetric:
        """Written out from the structure."""
        if self.large:
            return _arrow.hessian(self, params, data, barrier)
        return Dense(_derivatives.hessian(self, params, data, barrier))

    def evaluate(self, params: Array, data: Array, barrier: Walls) -> Evaluation:
        """The expected rates of the bins are what ``tighten`` needs."""
        return Evaluation(*_derivatives.evaluate(self, params, data, barrier))

    def curvatures(self, params: Array, data: Array, barrier: Walls) -> tuple[Symmetric, Symmetric]:
        """The stand-in is Gauss and Newton's matrix."""
        if self.large:
            return _arrow.curvatures(self, params, data, barrier)
        exact, positive = _derivatives.curvatures(self, params, data, barrier)
        return Dense(exact), Dense(positive)

    def independent(self, variances: Array) -> Spread:
        """A covariance without correlations, in the form of the Hessian's inverse."""
        if self.large:
            return ArrowSpread.of_variances(variances, _arrow.tables_of(self.structure).rows)
        return DenseSpread(jnp.diag(variances))

    def barrier(self, multipliers: Array | None = None) -> Walls:
        """Walls at rate 0 for the bins without counts, and floors for the others."""
        walls = make_walls(self.scale, self.structure.clip_bin)
        return walls if multipliers is None else walls._replace(multipliers=multipliers)

    def settled(self, multipliers: Array) -> Walls:
        """The walls at a minimum."""
        return settled_walls(self.scale, multipliers, self.structure.clip_bin)

    def softened(self, multipliers: Array) -> Walls:
        """The walls at a minimum, for its uncertainties."""
        return soft_walls(self.scale, multipliers, self.structure.clip_bin)

    def tighten(self, barrier: Walls, aux: Array, data: Array) -> tuple[Array, Array]:
        """From the expected rates."""
        return tighten(barrier, aux, data)

    def inside(self, aux: Array, data: Array) -> Array:
        """Where no rate is negative, or 0 with counts."""
        return inside(aux, data, self.structure.clip_bin)

    def bare(self, value: Array, barrier: Walls, aux: Array, data: Array) -> Array:
        """Without the walls."""
        return bare(barrier, value, aux, data)

    def constant(self, data: Array) -> Array:
        """NLL of a model that predicts the data exactly."""
        return saturated(self, data)

    def attempts(self, data: Array, poi: Array) -> Attempts:
        """By how far the variations bend."""
        return attempts(self, data, poi)

    def trust(self, params: Array) -> None:
        """Everywhere."""
        del params

    def stranded(self, params: Array, stayed: Array, aux: Array, data: Array) -> Array:
        """Where a bin with more counts is clipped, or all that a free factor multiplies."""
        s = self.structure
        if s.clip_sample is None and s.clip_bin is None:
            return jnp.array(False)
        plain = replace(self, structure=replace(s, clip_sample=None, clip_bin=None))

        def effect(likelihood: Any) -> Array:
            return jax.grad(lambda x: rates(likelihood, x).bins.sum())(params)

        flat = (stayed & (constraint_widths(self) == 0) & (effect(self) == 0) & (effect(plain) != 0)).any()
        return flat if s.clip_bin is None else flat | ((aux < s.clip_bin) & (data[: s.n_bins] > s.clip_bin)).any()

    def constraints(self, data: Array) -> tuple[Array, Array]:
        """Those of normal and of Poisson constraints."""
        return constraint_centers(self, data), constraint_widths(self)

    def expected(self, params: Array) -> Array:
        """Main and auxiliary data."""
        return expected(self, params)

    def expected_at(self, params: Array, aux: Array) -> Array:
        """Main data are the expected rates of the bins."""
        clip = self.structure.clip_bin
        bins = aux if clip is None else jnp.maximum(aux, clip)
        return jnp.concatenate([bins, expected_aux(self, params)])

    def throw(self, params: Array, key: Array) -> Array:
        """Main and auxiliary data fluctuate."""
        return _throw.throw(self, params, key)
