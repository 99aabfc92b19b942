"""What one bin contributes to a likelihood, and how a fit treats it near the edge of its domain.

Of a bin with counts the deviance rises without bound as its rate falls to 0; of a bin without counts it is the rate
itself and ends in a wall. A fit may cross either edge on its way and is led back: below a floor the first is continued
by its tangent parabola, and the wall is an augmented Lagrangian's. Where a minimum lies beyond a floor, or does not
come to rest on its wall, the continuation is made steeper and the minimum is looked for again.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def poisson_deviance(n: Array, nu: Array) -> Array:
    """``nu - n + n log(n / nu)`` with its limits, +inf outside the domain, and finite derivatives everywhere.

    Near the data it is written as ``n (x - log(1 + x))`` with ``x = (nu - n) / n``: its rounding error is that of
    ``nu - n``, so that two nearby points can be compared even in single precision, where ``-log Pois(n | nu)`` cancels.
    """
    both = (nu > 0) & (n > 0)
    safe_n, safe_nu = jnp.where(both, n, 1.0), jnp.where(both, nu, 1.0)
    x = jnp.where(both, nu - n, 0.0) / safe_n
    near = jnp.abs(x) < 0.5
    # Far below the data 1 + x would lose the rate; a quotient of the two could underflow.
    log_ratio = jnp.where(near, jnp.log1p(jnp.where(near, x, 0.0)), jnp.log(safe_nu) - jnp.log(safe_n))
    value = jnp.where(both, safe_n * (x - log_ratio), nu)
    return jnp.where(both | ((nu >= 0) & (n <= 0)), value, jnp.inf)


def stirling(n: Array) -> Array:
    """``log Gamma(n + 1)`` less ``n log(n) - n + log(2 pi n) / 2``: 1e-12 from n = 10 on, less beyond."""
    inverse = 1.0 / n
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


class Walls(NamedTuple):
    """How a fit treats the edges of the domain.

    The arrays but the first and the last two have shape (n_bins,).

    A bin without counts contributes ``nu``, which falls as the rate falls and ends in a wall at ``nu = 0``: the minimum
    may lie on it. A fit walks through the wall and is led back by an augmented Lagrangian,
    ``nu + (t^2 - z^2) / (2 c)`` with ``t = max(z - c (nu - margin), 0)``, which equals ``nu`` away from the wall and
    at the constrained minimum once the multiplier z has converged.

    A bin with counts contributes its deviance above a floor, and below the parabola that touches it there, so that a
    fit can begin, and pass, where a rate is negative.

    Attributes:
        multipliers: z, and by how much the wall is stiffer than at first or the floor lower, shape (2 * n_bins,).
        stiffness: c at first.
        margin: How far from 0 the rate is kept, so that the minimum is a valid point.
        floor: The floor at first.
        least: Where the bins are clipped, so that no floor lies lower; scalar, None without clips.
        still: Whether the push is the multiplier, whatever the rate: at a minimum that has been found the walls stand
            still, and it lies above all floors. 1 or 0, so that all leaves are floating point; scalar.
    """

    multipliers: Array
    stiffness: Array
    margin: Array
    floor: Array
    least: Array | None
    still: Array

    @property
    def pushes(self) -> Array:
        """z."""
        return self.multipliers[: self.margin.shape[0]]

    @property
    def reach(self) -> Array:
        """By how much walls are stiffer than at first, and floors lower."""
        return self.multipliers[self.margin.shape[0] :]

    def push(self, nu: Array) -> Array:
        """t: by how much the wall lowers the slope of the bin."""
        z = self.pushes
        # With a margin that is the rate itself the push is the multiplier and keeps its derivative.
        margin = jnp.where((self.still > 0) & (z > 0), lax.stop_gradient(nu), self.margin)
        return jnp.maximum(z - self.stiffness * self.reach * (nu - margin), 0.0)

    def lift(self, nu: Array) -> Array:
        """What the wall adds to a bin without counts."""
        push, z = self.push(nu), self.pushes
        return (push * push - z * z) / (2.0 * self.stiffness * self.reach)

    def below(self, n: Array, nu: Array) -> tuple[Array, Array]:
        """Which bins with counts lie below their floor, and where each is above it, or on it."""
        floor = self.floor * self.reach
        floor = jnp.where(self.still > 0, 0.0, floor if self.least is None else jnp.maximum(floor, self.least))
        low = (n > 0) & (floor > 0) & (nu < floor)
        return low, jnp.where(low, floor, nu)


# Stiffness of the wall at rate 0 in units of the bin's scale: stiff enough that few updates of the multiplier do, soft
# enough that factorizations keep their accuracy. Derivatives are taken with a much stiffer one.
_STIFFNESS = 1e3
_STIFFENING = 1e6
_FLOOR = 1e-3
# An update that changes a multiplier by more than this, the first apart, gains little: the wall is too soft.
_SLOW = 0.1
_STIFFER = 10.0


def make_walls(scale: Array, clip: float | None = None) -> Walls:
    """Walls and floors before anything is known, in units of each bin's scale; ``clip`` is where bins are clipped."""
    margin = 1e-9 if scale.dtype == np.float64 else 1e-5
    first = jnp.concatenate([jnp.zeros_like(scale), jnp.ones_like(scale)])
    least = None if clip is None else jnp.asarray(clip, scale.dtype)
    zero = jnp.zeros((), scale.dtype)
    return Walls(first, _STIFFNESS / (scale * scale), margin * scale, _FLOOR * scale, least, zero)


def settled_walls(scale: Array, multipliers: Array, clip: float | None = None) -> Walls:
    """The walls that hold a minimum, so stiff that they stand still when it moves; not differentiated."""
    walls = lax.stop_gradient(make_walls(scale, clip))._replace(multipliers=multipliers)
    stiffness = jnp.where(walls.pushes > 0, _STIFFENING, 1.0) * walls.stiffness
    return walls._replace(stiffness=stiffness, still=jnp.ones((), scale.dtype))


def soft_walls(scale: Array, multipliers: Array, clip: float | None = None) -> Walls:
    """The walls that hold a minimum, as soft as they are for its uncertainties; not differentiated.

    Away from a wall the deviance rises with the slope z, by 1/2 at a distance of 1 / (2 z): that distance is taken for
    the standard deviation of the rate, so that the curvature is 4 z^2.
    """
    walls = settled_walls(scale, multipliers, clip)
    z = walls.pushes
    return walls._replace(stiffness=jnp.where(z > 0, 4.0 * z * z, walls.stiffness) / walls.reach)


def tighten(walls: Walls, nu: Array, data: Array) -> tuple[Array, Array]:
    """What a minimum says of walls and floors.

    Returns:
        New multipliers; and how badly one of them is missed: the largest distance from a wall in half margins, or 2
        where a rate lies below its floor.
    """
    n = data[: nu.shape[0]]
    z, reach = walls.pushes, walls.reach
    push = jnp.where(n > 0, 0.0, walls.push(nu))
    distance = jnp.abs(push - z) / (walls.stiffness * reach)
    # A rate between 0 and the margin is a valid point; one that no parameter moves would never come closer.
    distance = jnp.where((nu >= 0) & (nu <= walls.margin), 0.0, distance)
    missed = 2.0 * distance / walls.margin
    slow = (missed > 1) & (z > 0) & (jnp.abs(push - z) > _SLOW * push)
    # The next floor lies so much lower than the last that five of them go as far as numbers do.
    low, _ = walls.below(n, nu)
    low = low & (reach > (1e-60 if nu.dtype == np.float64 else 1e-6))
    low = low if walls.least is None else low & (walls.floor * reach > walls.least)
    reach = jnp.where(n > 0, jnp.where(low, _FLOOR * reach * reach, reach), jnp.where(slow, _STIFFER * reach, reach))
    return jnp.concatenate([push, reach]), jnp.where(low, 2.0, missed).max()


def inside(nu: Array, data: Array, clip: float | None) -> Array:
    """Whether no rate is negative, or 0 with counts."""
    nu = nu if clip is None else jnp.maximum(nu, clip)
    return jnp.where(data[: nu.shape[0]] > 0, nu > 0, nu >= 0).all()


def bare(walls: Walls, value: Array, nu: Array, data: Array) -> Array:
    """The deviance itself, from its value with walls and floors."""
    n = data[: nu.shape[0]]
    low, _ = walls.below(n, nu)
    real = nu if walls.least is None else jnp.maximum(nu, walls.least)
    outside = ~inside(real, data, None)
    continued = main_deviance(n, nu, walls) - poisson_deviance(n, real)
    added = jnp.where(n > 0, jnp.where(low, continued, 0.0), walls.lift(nu))
    # What walls add may be more than what is left, by rounding.
    return jnp.where(outside, jnp.inf, jnp.maximum(value - jnp.where(outside, 0.0, added).sum(), 0.0))


def clipped(nu: Array, clip: float, data: Array | None) -> tuple[Array, Array]:
    """Rates no lower than ``clip``, and which of them move; with the data as a fit sees them.

    Where there are more counts, it looks through the clip: it would rest wherever there is no slope.
    """
    moves = nu >= clip
    if data is not None:
        moves = moves | (data[: nu.shape[0]] > clip)
    return jnp.where(moves, nu, clip), moves


def main_deviance(n: Array, nu: Array, walls: Walls | None) -> Array:
    """Deviance of each bin, shape (n_bins,)."""
    if walls is None:
        return poisson_deviance(n, nu)
    low, at = walls.below(n, nu)
    value = poisson_deviance(n, at)
    safe = jnp.where(low, at, 1.0)
    down = jnp.where(low, nu - at, 0.0)
    continued = value + down * ((at - n) + 0.5 * n * down / safe) / safe
    return jnp.where(n > 0, jnp.where(low, continued, value), nu + walls.lift(nu))


def slope_and_curvature(n: Array, nu: Array, walls: Walls | None) -> tuple[Array, Array]:
    """First and second derivative of each bin's deviance with respect to its rate, each of shape (n_bins,)."""
    low, at = (False, nu) if walls is None else walls.below(n, nu)
    some = (n > 0) & (at > 0)
    safe = jnp.where(some, at, 1.0)
    slope = jnp.where(some, at - n, 1.0) / safe
    curvature = jnp.where(some, n, 0.0) / (safe * safe)
    if walls is None:
        return slope, curvature
    slope = slope + jnp.where(low, curvature * (nu - at), 0.0)
    push = walls.push(nu)
    stiffness = jnp.where(push > 0, walls.stiffness * walls.reach, 0.0)
    return jnp.where(n > 0, slope, 1.0 - push), jnp.where(n > 0, curvature, stiffness)
