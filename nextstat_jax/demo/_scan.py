"""The profile likelihood as a curve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import nextstat_jax as nextstat

_POINTS = 61
_REACH = 3.6
"""Half the length of the scan in units of the uncertainty: a little more than a parabola needs to reach ``TOP``."""

TOP = 12.5
"""The scan ends where the observed curve reaches this height."""


class Curve(NamedTuple):
    """Twice the difference of NLLs along the parameter of interest.

    Attributes:
        label: What was profiled, for a legend.
        mu: Values of the parameter of interest, shape (points,).
        q: ``-2 ln lambda(mu)``, shape (points,).
    """

    label: str
    mu: Float[np.ndarray, " point"]
    q: Float[np.ndarray, " point"]


def profile_curves(model: Any, best: Any) -> tuple[Curve, Curve, Curve]:
    """Observed curve, observed curve without systematics, and expected curve.

    Args:
        model: A model with a parameter of interest.
        best: Its fit to the observed data.

    Returns:
        Curves on common points around the best fit. Without systematics means that parameters with a constraint are
        held at their best fit. Expected means for the Asimov data of mu = 1.
    """
    points = _points(model, best)
    held = without_systematics(model, best.params)
    asimov = nextstat.asimov_data(model, mu=1.0)
    return (
        _scan("Observed", model, points, model.observed_data),
        _scan("Observed, systematics fixed", held, points, model.observed_data),
        _scan(r"Expected for $\mu = 1$", model, points, asimov),
    )


def interval(curve: Curve) -> tuple[float | None, float | None]:
    """Ends of the 68 % interval, where the curve crosses 1; None where the scan ends before that."""
    lowest = int(np.argmin(curve.q))
    root = np.sqrt(np.maximum(curve.q, 0.0))  # nearly straight on both sides, so that few points are enough

    def crossing(side: slice) -> float | None:
        rising = np.maximum.accumulate(root[side])
        return float(np.interp(1.0, rising, curve.mu[side])) if rising[-1] >= 1.0 else None

    return crossing(slice(lowest, None, -1)), crossing(slice(lowest, None))


def without_systematics(model: Any, params: Array) -> Any:
    """The model with all constrained parameters fixed at the given values.

    Its structure, and so every compiled function, stays the same.
    """
    held = np.array([p.constraint != "none" and p.name != model.poi for p in model.parameters()])
    arrays = model.likelihood
    frozen = jnp.where(held, jnp.ones_like(arrays.frozen), arrays.frozen)
    return replace(model, likelihood=replace(arrays, init=jnp.where(held, params, arrays.init), frozen=frozen))


def _points(model: Any, best: Any) -> Float[np.ndarray, " point"]:
    """Where to scan: around the best fit, inside the bounds, as far as the observed curve stays below ``TOP``."""
    mu, width = float(best.mu), float(best.mu_uncertainty)
    if not width > 0:  # no positive definite Hessian
        width = 0.25 * max(1.0, abs(mu))
    lower, upper = np.asarray(model.parameter_bounds())[model.poi_index]
    start, stop = max(lower, mu - _REACH * width), min(upper, mu + _REACH * width)
    # On a bound or far from a parabola the uncertainty says little about the curve.
    first = _scan("", model, np.linspace(start, stop, _POINTS), model.observed_data)
    near = first.mu[first.q <= TOP]
    step = (stop - start) / (_POINTS - 1)
    return np.linspace(max(start, near[0] - step), min(stop, near[-1] + step), _POINTS) if len(near) else first.mu


def _scan(label: str, model: Any, points: Float[np.ndarray, " point"], data: Array) -> Curve:
    nll = np.asarray(_conditional(model, jnp.asarray(points), data))
    best = min(float(nextstat.fit(model, data).nll), np.min(nll))
    return Curve(label, points, 2.0 * (nll - best))


@jax.jit
def _conditional(model: Any, points: Array, data: Array) -> Float[Array, " point"]:
    """One fit after the other in one compiled loop, which is quicker than a batch on a CPU."""
    return jax.lax.map(lambda mu: nextstat.profile(model, mu, data).nll, points)
