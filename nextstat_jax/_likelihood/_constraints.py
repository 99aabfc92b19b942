"""What the auxiliary measurements alone say of the parameters."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from ._histfactory import Arrays
from ._segments import pick


def constraint_widths(likelihood: Arrays) -> Array:
    """Uncertainty of each parameter before a fit, shape (n_params,); 0 for those without a constraint.

    The width of a normal constraint; ``1 / sqrt(tau)``, the relative uncertainty of the auxiliary count, for a Poisson
    constraint. Parameters that the measurement fixes have their constraint's width all the same.
    """
    s = likelihood.structure
    widths = jnp.zeros_like(likelihood.init).at[s.normal_params].set(likelihood.widths)
    return widths.at[s.poisson_params].set(1.0 / jnp.sqrt(likelihood.tau))


def constraint_centers(likelihood: Arrays, data: Array) -> Array:
    """Value of each parameter that its auxiliary datum prefers, shape (n_params,); 0 for those without a constraint."""
    s = likelihood.structure
    aux = data[s.n_bins :]
    centers = jnp.zeros_like(likelihood.init).at[s.normal_params].set(pick(aux, s.normal_aux))
    return centers.at[s.poisson_params].set(pick(aux, s.poisson_aux) / likelihood.tau)
