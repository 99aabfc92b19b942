"""The profile likelihood as a curve."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import nextstat_jax as nextstat

_POINTS = 61
_REACH = 3.6
"""Half the length of the scan in units of the uncertainty: a little more than the curve needs to reach q = 12."""


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
    mu, width = float(best.mu), float(best.mu_uncertainty)
    if not width > 0:
        width = 0.25 * max(1.0, abs(mu))
    lower, upper = np.asarray(model.parameter_bounds())[model.poi_index]
    points = np.linspace(max(lower, mu - _REACH * width), min(upper, mu + _REACH * width), _POINTS)
    held = {
        p.name: best.params[i]
        for i, p in enumerate(model.parameters())
        if p.constraint != "none" and p.name != model.poi
    }
    observed = model.observed_data
    asimov = nextstat.asimov_data(model, mu=1.0)

    def curve(label: str, data: Array, fixed: dict[str, Array]) -> Curve:
        return Curve(label, points, np.asarray(_curve(model, jnp.asarray(points), data, fixed)))

    return (
        curve("Observed", observed, {}),
        curve("Observed, systematics held at best fit", observed, held),
        curve(r"Expected for $\mu = 1$", asimov, {}),
    )


def interval(curve: Curve) -> tuple[float, float]:
    """Where the curve crosses 1 on both sides of its minimum: the ends of the 68 % interval, or NaN."""
    lowest = int(np.argmin(curve.q))
    below, above = slice(lowest, None, -1), slice(lowest, None)
    ends = []
    for side in (below, above):
        mu, q = curve.mu[side], np.maximum.accumulate(curve.q[side])
        ends.append(float(np.interp(1.0, q, mu)) if q[-1] >= 1.0 else float("nan"))
    return ends[0], ends[1]


@jax.jit
def _curve(model: Any, points: Array, data: Array, held: dict[str, Array]) -> Float[Array, " point"]:
    """One conditional fit after the other in one compiled loop; quicker than a batch on a CPU."""
    best = nextstat.fit(model, data, fixed=held).nll
    conditional = jax.lax.map(partial(_nll_at, model, data, held), points)
    return 2.0 * jnp.maximum(conditional - best, 0.0)


def _nll_at(model: Any, data: Array, held: dict[str, Array], mu: Array) -> Float[Array, ""]:
    return nextstat.fit(model, data, fixed={**held, model.poi: mu}).nll
