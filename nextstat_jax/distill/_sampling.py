"""Points of parameter space: quasi-random, random, around the best fit, along profiles.

Point i depends on the request and i alone, so any chunk of points can be made by itself, anywhere. (Around the best fit
it goes through a matrix product, whose rounding depends on the length of the chunk.)
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from .._base._special import ndtri

METHODS = ("sobol", "lhs", "uniform", "gaussian", "profile")
AROUND = ("gaussian", "profile")

# A Sobol sequence of this many bits has a billion points.
_BITS = 30
# Up to so many free parameters a quarter of the points of "profile" fills the whole box; in more dimensions no such
# point comes near the minimum, at any number of points.
_BOX_UP_TO = 20
# Radii of "profile" in units of the fit's covariance, and the range of its trajectories in standard deviations.
_SPREAD = (0.25, 1.5)
_REACH = 3.0
# Streams of random numbers, told apart by these.
_POINTS, _JITTER, _AGAIN = range(3)
_ROUNDS = 4


class Plan(NamedTuple):
    """Everything that points depend on; NumPy arrays and plain numbers, so that it can be shipped.

    Attributes:
        method: One of ``METHODS``.
        seed: Seed.
        n_points: Points of the whole set (Latin hypercubes depend on it).
        lower: Lower bounds of the free parameters, shape (n_free,).
        upper: Upper bounds.
        free: Indices of the free parameters.
        base: Full parameter vector with the values of the fixed ones, shape (n_params,).
        center: Best fit of the free parameters; used by the methods in ``AROUND``, like all that follows.
        root: Matrix L with covariance ``L L^T``, shape (n_free, n_free).
        poi: Place of the parameter of interest among the free ones, or -1.
        path_values: Values of the parameter of interest along its profile, ascending, shape (n_path,).
        path: Conditional best fits there, shape (n_path, n_free).
    """

    method: str
    seed: int
    n_points: int
    lower: np.ndarray
    upper: np.ndarray
    free: np.ndarray
    base: np.ndarray
    center: np.ndarray
    root: np.ndarray
    poi: int
    path_values: np.ndarray
    path: np.ndarray

    @property
    def n_free(self) -> int:
        """Number of parameters that move."""
        return len(self.free)


class Points:
    """Makes chunks of points; fastest in ascending order, since the quasi-random sequence is then continued."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sobol: Any = None

    def chunk(self, start: int, count: int) -> np.ndarray:
        """Points ``start`` to ``start + count - 1``, shape (count, n_params)."""
        plan = self._plan
        return _full(plan, _shaped(plan, self._unit(start, count), start))

    def again(self, start: int, count: int, rows: np.ndarray, attempt: int) -> np.ndarray:
        """Other points of the same distribution for some rows of a chunk, shape (len(rows), n_params)."""
        plan = self._plan
        unit = _uniform(plan.seed, (_AGAIN, attempt), start, count, _dimensions(plan))[rows]
        return _full(plan, _shaped(plan, unit, start + rows))

    def _unit(self, start: int, count: int) -> np.ndarray:
        plan, dims = self._plan, _dimensions(self._plan)
        if plan.method in ("sobol", "profile"):
            return self._quasi(start, count, dims)
        if plan.method == "lhs":
            return _stratified(plan, start, count)
        return _uniform(plan.seed, (_POINTS,), start, count, dims)

    def _quasi(self, start: int, count: int, dims: int) -> np.ndarray:
        if self._sobol is None or self._sobol.num_generated > start:
            from scipy.stats import qmc  # takes a second to import

            self._sobol = qmc.Sobol(dims, scramble=True, bits=_BITS, rng=np.random.default_rng(self._plan.seed))
        if start > self._sobol.num_generated:
            self._sobol.fast_forward(start - self._sobol.num_generated)
        with warnings.catch_warnings():
            # Chunks are cut where it suits the computer; the balance of powers of two belongs to the whole.
            warnings.simplefilter("ignore", UserWarning)
            return self._sobol.random(count)


def most_points() -> int:
    """How many points a quasi-random sequence has."""
    return 2**_BITS


def fills_box(method: str, n_free: int) -> bool:
    """Whether some points of a method lie all over the box."""
    return method not in AROUND or (method == "profile" and n_free <= _BOX_UP_TO)


def _dimensions(plan: Plan) -> int:
    # Which kind of point it is, and for trajectories a position and a distance from it.
    return plan.n_free + (3 if plan.method == "profile" else 0)


def _full(plan: Plan, free: np.ndarray) -> np.ndarray:
    points = np.broadcast_to(plan.base, (len(free), len(plan.base))).copy()
    points[:, plan.free] = free
    return points


def _shaped(plan: Plan, unit: np.ndarray, start: Any) -> np.ndarray:
    """Points of the unit cube, turned into free parameters."""
    if plan.method not in AROUND:
        return _in_box(plan, unit)
    if plan.method == "gaussian":
        return _reflected(plan.center + _normal(unit) @ plan.root.T, plan)
    return _profiled(plan, unit, np.asarray(start) + (np.arange(len(unit)) if np.ndim(start) == 0 else 0))


def _in_box(plan: Plan, unit: np.ndarray) -> np.ndarray:
    return plan.lower + unit * (plan.upper - plan.lower)


def _normal(unit: np.ndarray) -> np.ndarray:
    """Standard normal quantiles; a quasi-random number may be 0, whose quantile is infinite."""
    half = 0.5 / 2**_BITS
    return ndtri(np.clip(unit, half, 1.0 - half))


def _reflected(x: np.ndarray, plan: Plan) -> np.ndarray:
    """Points beyond a bound, mirrored at it: a minimum on a bound has points all along it, and none is piled up."""
    width = plan.upper - plan.lower
    turn = np.mod(x - plan.lower, 2.0 * width)
    return plan.lower + np.where(turn > width, 2.0 * width - turn, turn)


def _profiled(plan: Plan, unit: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Quasi-random points through normal quantiles, a quarter of them strung along profile trajectories.

    A quarter fills the box (in few dimensions; else it is like the next), half surround the minimum with radii spread
    over ``_SPREAD``, a quarter follows trajectories: every other one that of the parameter of interest, from
    conditional fits, else those of all parameters in turn, from the covariance. A coordinate of its own decides, since
    every fourth point of a Sobol sequence lies in a quarter of each axis.
    """
    n = plan.n_free
    kind, z = np.floor(4.0 * unit[:, n + 2]), _normal(unit[:, :n])
    spread = _SPREAD[0] + unit[:, n, None] * (_SPREAD[1] - _SPREAD[0])
    x = plan.center + (spread * z) @ plan.root.T
    along = kind == 3
    if along.any():
        x[along] = _trajectories(plan, z[along], unit[along, n], unit[along, n + 1], index[along])
    x = _reflected(x, plan)
    if fills_box(plan.method, n):
        box = kind == 0
        x[box] = _in_box(plan, unit[box, :n])
    return x


def _trajectories(plan: Plan, z: np.ndarray, position: np.ndarray, away: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Points along profiles: t standard deviations up or down one parameter, the others near their conditional fit."""
    n = plan.n_free
    drawn = _mixed(np.asarray(turn, np.uint64) + np.uint64(plan.seed % 2**63))
    of_poi = (drawn % np.uint64(2) == 0) & (plan.poi >= 0)
    which = np.where(of_poi, plan.poi, ((drawn >> np.uint64(8)) % np.uint64(n)).astype(int))
    widths = np.sqrt((plan.root**2).sum(1))
    # The direction in which the conditional fit moves, in the coordinates in which the covariance is 1.
    along = plan.root[which] / widths[which, None]
    t = _REACH * (2.0 * position - 1.0)
    rest = z - (z * along).sum(1, keepdims=True) * along
    x = plan.center + (t[:, None] * along) @ plan.root.T
    if of_poi.any():
        values = plan.center[plan.poi] + t[of_poi] * widths[plan.poi]
        values = np.clip(values, plan.path_values[0], plan.path_values[-1])
        for k in range(n):
            x[of_poi, k] = np.interp(values, plan.path_values, plan.path[:, k])
    return x + (away[:, None] * rest) @ plan.root.T


def _uniform(seed: int, stream: tuple[int, ...], start: int, count: int, dims: int) -> np.ndarray:
    """Uniform random numbers of rows ``start`` on, shape (count, dims), from a counter: any part can be made alone."""
    key = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint64)
    bits = np.random.Philox(key=key)
    # Each step of the counter gives four numbers.
    bits.advance(start * dims // 4)
    skip = start * dims % 4
    return np.random.Generator(bits).random(count * dims + skip)[skip:].reshape(count, dims)


def _stratified(plan: Plan, start: int, count: int) -> np.ndarray:
    """Rows of a Latin hypercube: in each dimension, each of the ``n_points`` strata holds one point of the whole."""
    index = np.arange(start, start + count, dtype=np.uint64)
    jitter = _uniform(plan.seed, (_JITTER,), start, count, plan.n_free)
    keys = np.random.default_rng([plan.seed, _POINTS]).integers(
        0, 2**63, size=(plan.n_free, _ROUNDS), dtype=np.uint64, endpoint=True
    )
    for k in range(plan.n_free):
        jitter[:, k] += _permuted(index, plan.n_points, keys[k])
    return jitter / plan.n_points


def _permuted(index: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Images of indices under a pseudo-random permutation of 0 to n - 1, without the table of the others.

    A Feistel network permutes the next even power of two; what leaves the range walks on until it is back, which keeps
    the map one to one.

    References:
        J. Black, P. Rogaway, Ciphers with arbitrary finite domains (2002), section 3: cycle walking.
    """
    half = max((int(n - 1).bit_length() + 1) // 2, 1)
    result = _feistel(index, half, keys)
    outside = np.flatnonzero(result >= n)
    while len(outside):
        result[outside] = _feistel(result[outside], half, keys)
        outside = outside[result[outside] >= n]
    return result.astype(np.float64)


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask, bits = np.uint64(2**half - 1), np.uint64(half)
    left, right = x >> bits, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << bits) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit integers: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
