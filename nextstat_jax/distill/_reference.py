"""What a data set keeps of its model, so that it alone suffices to train: the exact parts of the likelihood."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from .._base._doors import pytree
from .._base._errors import DatasetError
from .._inference._fit import fit
from .._likelihood._histfactory import saturated
from .._likelihood._structure import Structure
from .._model._model import HistFactoryModel

# Widths of the default box, in those of the constraint or of the fit.
_BOX = 5.0


@pytree
@dataclass(frozen=True, eq=False)
class Reference:
    """The exact parts of a likelihood, and what is known of its minimum. NumPy arrays.

    ``NLL = constant + sum of Poisson deviances of the bins + constraint terms``, where only the expected rates of the
    bins take more than these arrays.

    Attributes:
        observed: Counts, shape (n_bins,).
        normal_params: Parameters with a normal constraint, shape (n_normal,).
        normal_aux: Their auxiliary data.
        normal_widths: Their widths.
        poisson_params: Parameters with a Poisson constraint, shape (n_poisson,).
        poisson_aux: Their auxiliary counts.
        poisson_tau: Their expected counts per unit of the parameter.
        constant: NLL of a model that predicts all data exactly, shape ().
        factors: Whether a parameter cannot be negative and multiplies the whole rate of every bin that it acts on, so
            that the logarithm of the rate is linear in its logarithm, shape (n_params,).
        free: Whether it moves.
        minimum: Best fit, shape (n_params,).
        minimum_nll: NLL there, shape ().
        minimum_rates: Expected counts there, shape (n_bins,).
        hessian: Second derivatives of the NLL there, shape (n_params, n_params).
        covariance: Covariance of the fit, zero for fixed parameters.
    """

    observed: Any
    normal_params: Any
    normal_aux: Any
    normal_widths: Any
    poisson_params: Any
    poisson_aux: Any
    poisson_tau: Any
    constant: Any
    factors: Any
    free: Any
    minimum: Any
    minimum_nll: Any
    minimum_rates: Any
    hessian: Any
    covariance: Any

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for files."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: dict[str, Any]) -> Reference:
        """The inverse of ``arrays``; ``DatasetError`` where one is missing."""
        missing = [f.name for f in fields(cls) if f.name not in arrays]
        if missing:
            raise DatasetError(f"the file lacks {missing[0]!r} of the likelihood's exact parts: write it again")
        kinds = {"normal_params": np.int64, "poisson_params": np.int64, "factors": bool, "free": bool}
        return cls(**{f.name: np.asarray(arrays[f.name], kinds.get(f.name, np.float64)) for f in fields(cls)})


def free_of(model: HistFactoryModel) -> np.ndarray:
    """Which parameters move: neither fixed nor confined to one value, shape (n_params,)."""
    k = model.likelihood
    return ~(np.asarray(k.frozen) > 0) & (np.asarray(k.upper) > np.asarray(k.lower))


def widths_of(model: HistFactoryModel) -> np.ndarray:
    """Widths of the constraints; infinite for parameters without one. Shape (n_params,)."""
    k, s = model.likelihood, model.likelihood.structure
    widths = np.full(model.n_params, np.inf)
    widths[s.normal_params] = np.asarray(k.widths)
    tau = np.asarray(k.tau)
    widths[s.poisson_params] = np.where(tau > 0, 1.0 / np.sqrt(np.where(tau > 0, tau, 1.0)), np.inf)
    return widths


def default_bounds(model: HistFactoryModel, around: Reference | None = None) -> np.ndarray:
    """Initial value +- 5 widths of the constraint, clipped to the parameter's bounds, which those without one keep.

    Args:
        model: The model.
        around: If given, its best fit +- 5 standard deviations instead, clipped likewise.

    Returns:
        Shape (n_params, 2); both ends of a fixed parameter are its value.
    """
    k = model.likelihood
    lower, upper, init = (np.asarray(x, np.float64) for x in (k.lower, k.upper, k.init))
    center, widths = init, widths_of(model)
    if around is not None:
        center, widths = around.minimum, np.sqrt(np.diagonal(around.covariance))
    reach = np.where(np.isfinite(widths) & (widths > 0), _BOX * widths, np.inf)
    bounds = np.stack([np.maximum(center - reach, lower), np.minimum(center + reach, upper)], axis=1)
    return np.where(free_of(model)[:, None], bounds, init[:, None])


def reference_of(model: HistFactoryModel, need_minimum: bool) -> Reference:
    """The exact parts of a model's likelihood, and a fit.

    Raises:
        DatasetError: If the minimum is needed and the fit does not converge.
    """
    k, s = model.likelihood, model.likelihood.structure
    best = fit(model)
    if need_minimum and not bool(best.converged):
        raise DatasetError(f"points around the best fit need one, which did not end well ({best.message})")
    covariance = np.asarray(best.covariance, np.float64)
    free = free_of(model)
    if not np.isfinite(covariance).all() or (np.diagonal(covariance)[free] <= 0).any():
        if need_minimum:
            raise DatasetError("points around the best fit need its covariance, which is not positive: use 'sobol'")
        ends = np.asarray(model.parameter_bounds(), np.float64)
        spread = np.minimum(widths_of(model), (ends[:, 1] - ends[:, 0]) / 4)
        covariance = np.diag(np.where(free, spread, 0.0) ** 2)
    aux = np.asarray(k.observed, np.float64)[s.n_bins :]
    factors = _common_factors(s) & (np.asarray(k.lower) >= 0) & free
    minimum = np.asarray(best.params, np.float64)
    return Reference(
        observed=np.asarray(k.observed, np.float64)[: s.n_bins],
        normal_params=np.asarray(s.normal_params, np.int64),
        normal_aux=aux[s.normal_aux],
        normal_widths=np.asarray(k.widths, np.float64),
        poisson_params=np.asarray(s.poisson_params, np.int64),
        poisson_aux=aux[s.poisson_aux],
        poisson_tau=np.asarray(k.tau, np.float64),
        constant=np.asarray(saturated(k, k.observed), np.float64),
        factors=factors,
        free=free,
        minimum=minimum,
        minimum_nll=np.asarray(best.nll, np.float64),
        minimum_rates=np.asarray(model.expected_data(minimum, include_auxdata=False), np.float64),
        hessian=np.asarray(model.hessian(minimum), np.float64),
        covariance=covariance,
    )


def _common_factors(s: Structure) -> np.ndarray:
    """Parameters that multiply all cells of a bin if they multiply one, shape (n_params,)."""
    n = s.n_params
    acts = np.zeros((n + 1, s.n_cells), dtype=int)
    cells = np.arange(s.n_cells)
    for table in (s.row_factors[:, s.cell_rows], s.cell_factors):
        for parameters in table:
            np.add.at(acts, (parameters, cells), 1)
    bins = np.asarray(s.cell_bins)
    most = np.full((n + 1, s.n_bins), 0)
    least = np.full((n + 1, s.n_bins), 99)
    for cell in cells:
        most[:, bins[cell]] = np.maximum(most[:, bins[cell]], acts[:, cell])
        least[:, bins[cell]] = np.minimum(least[:, bins[cell]], acts[:, cell])
    same = (most == least) | (least == 99)
    return (same.all(axis=1) & (acts.sum(axis=1) > 0))[:n]


def require_same_model(metadata: dict[str, Any], model: HistFactoryModel, what: str = "surrogate") -> None:
    """Refuses a data set or a surrogate of another model."""
    if metadata.get("model_digest") != digest_of(model):
        raise DatasetError(f"the {what} was made from another model (or other data) than the one given")


def digest_of(model: HistFactoryModel) -> str:
    """A hash of everything that the likelihood depends on: arrays, structure, names of parameters."""
    state = hashlib.sha256(model.likelihood.structure.digest.encode())
    for leaf in jax.tree.leaves(model.likelihood):
        array = np.asarray(leaf, np.float64)
        state.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    state.update("\0".join(model.names.parameters).encode())
    return state.hexdigest()
