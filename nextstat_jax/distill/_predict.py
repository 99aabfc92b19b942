"""``predict_nll``: the surrogate where it was trained, the model itself elsewhere if asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from .._base._doors import concrete, no_type_check
from .._model._many import nlls
from .._model._model import HistFactoryModel
from ._dataset import check_model
from ._reference import require_same_model
from ._surrogate import Surrogate, check_surrogate


@no_type_check
def predict_nll(
    surrogate: Surrogate, params: ArrayLike, model: HistFactoryModel | None = None
) -> Float[jax.Array, "*points"]:
    """NLL that a surrogate predicts.

    Args:
        surrogate: From ``train_mlp_surrogate`` or ``load``.
        params: One point, shape (n_params,), or many, shape (n, n_params).
        model: Its model, to evaluate points outside the trained region exactly. Without it the surrogate extrapolates
            there; ``surrogate.in_domain`` tells which points they are.

    Returns:
        Scalar, or shape (n,).

    Raises:
        DatasetError: For what is no surrogate, or a surrogate of another model.
        ModelError: For another shape, or what is no model.
    """
    check_surrogate(surrogate)
    if model is None:
        return surrogate.nll(params)
    check_model(model)
    require_same_model(surrogate.metadata, model)
    predicted, inside = surrogate.nll(params), surrogate.in_domain(params)
    if not (concrete(inside) and concrete(predicted)):
        return _traced(surrogate, jnp.asarray(params), model)
    outside = ~np.asarray(inside)
    if not outside.any():
        return predicted
    points = np.asarray(params, np.float64).reshape(-1, surrogate.n_params)
    values = np.array(predicted, np.float64).reshape(-1)
    values[outside.reshape(-1)] = nlls(model.likelihood, points[outside.reshape(-1)])
    return jnp.asarray(values.reshape(np.shape(predicted)))


def _traced(surrogate: Surrogate, params: jax.Array, model: HistFactoryModel) -> jax.Array:
    """Both, where it is not known which points lie inside."""
    inside = surrogate.in_domain(params)
    # What is not selected must have finite derivatives all the same.
    safe = jnp.where(inside[..., None], params, surrogate.minimum)
    return jnp.where(inside, surrogate.nll(safe), nlls(model.likelihood, params))
