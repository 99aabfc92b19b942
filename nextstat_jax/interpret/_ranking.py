"""Rankings of nuisance parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plot
from .._base._doors import integer, no_type_check, one_of
from .._base._errors import FitError
from .._base._tables import dataframe
from .._inference._impacts import Impacts, impacts
from .._model._base import Model

if TYPE_CHECKING:
    import pandas as pd
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes

_SIZES = {"total": "total_impact", "up": "delta_mu_up", "down": "delta_mu_down"}
_KEYS = (*_SIZES, "pull", "constraint", "name")


@no_type_check
def rank_impact(
    model: Model | Impacts,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    method: str | None = None,
    parameters: Sequence[str] | None = None,
    sort_by: str = "total",
    top_n: int | None = None,
    ascending: bool = False,
) -> list[dict[str, Any]]:
    """Nuisance parameters ranked by their impact on the parameter of interest.

    Args:
        model: A model with a parameter of interest (``model.with_poi(name)`` ranks by another one), or its ``impacts``
            where they are known already: nothing is fitted then.
        data: As in ``fit``.
        init: Where the unconditional fit starts, as in ``fit``.
        fixed: Parameters to hold, as in ``fit``; they are not ranked.
        method: As in ``impacts``: ``"refit"``, the default, or ``"linear"``.
        parameters: Names or patterns of those to rank, as in ``impacts``; all by default.
        sort_by: ``"total"``, ``"up"``, ``"down"`` (sizes of the post-fit impacts), ``"pull"`` (its size),
            ``"constraint"`` or ``"name"``.
        top_n: How many to return; all by default.
        ascending: Whether the smallest comes first. Parameters without a pull or constraint come last in any case.

    Returns:
        One dictionary for each parameter: ``name``; ``delta_mu_up`` and ``delta_mu_down``, the shifts of the parameter
        of interest with this one at its best fit plus and minus its post-fit uncertainty; ``total_impact``, the sum of
        their sizes; the same for the pre-fit width as ``delta_mu_up_prefit`` and ``delta_mu_down_prefit``; ``pull``
        and ``constraint`` (NaN for parameters without a constraint); ``converged``; ``poi``, the name of the parameter
        of interest; ``rank``, from 1.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For an unknown key or method, a ``top_n`` that is not a positive integer, a batch of impacts, or
            options of a fit beside impacts that are known already.

    Example:
        >>> import nextstat_jax as nextstat
        >>> background = {"name": "b", "data": [50.0], "modifiers": [
        ...     {"name": "size", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
        ...     {"name": "tilt", "type": "normsys", "data": {"hi": 1.02, "lo": 0.98}},
        ... ]}
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, background]}],
        ...     "observations": [{"name": "SR", "data": [64.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> [(row["rank"], row["name"]) for row in nextstat.interpret.rank_impact(model)]
        [(1, 'size'), (2, 'tilt')]
    """
    one_of(sort_by, _KEYS, "sort_by")
    if top_n is not None:
        integer(top_n, "top_n")
    given = {"data": data, "init": init, "fixed": fixed, "method": method, "parameters": parameters}
    result = _impacts_of(model, given)
    columns = _columns(result)
    order = _order(columns, sort_by, ascending)[:top_n]
    rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
    return [
        {**dict(zip(columns, row, strict=True)), "poi": result.parameter, "rank": k} for k, row in enumerate(rows, 1)
    ]


def _impacts_of(model: Any, options: Mapping[str, Any]) -> Impacts:
    """Impacts that are known, or those of a model."""
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(model, Impacts):
        return impacts(model, **given)
    if np.ndim(model.mu_hat):
        raise FitError(f"these impacts are a batch of shape {np.shape(model.mu_hat)}: rank one of its members")
    if given:
        raise FitError(f"these impacts are known already, {next(iter(given))} cannot change them: give a model instead")
    return model


def _columns(result: Impacts) -> dict[str, np.ndarray]:
    return {
        "name": np.array(result.names, dtype=object),
        "delta_mu_up": np.asarray(result.post_up),
        "delta_mu_down": np.asarray(result.post_down),
        "total_impact": np.asarray(result.total),
        "delta_mu_up_prefit": np.asarray(result.pre_up),
        "delta_mu_down_prefit": np.asarray(result.pre_down),
        "pull": np.asarray(result.pull),
        "constraint": np.asarray(result.constraint),
        "converged": np.asarray(result.converged),
    }


def _order(columns: dict[str, np.ndarray], sort_by: str, ascending: bool) -> np.ndarray:
    if sort_by == "name":
        order = np.argsort(columns["name"].astype(str), kind="stable")
        return order if ascending else order[::-1]
    keys = np.abs(columns[_SIZES.get(sort_by, sort_by)])
    # NumPy sorts NaN to the end.
    return np.argsort(keys if ascending else -keys, kind="stable")


@no_type_check
def rank_impact_df(
    model: Model | Impacts,
    *,
    data: ArrayLike | None = None,
    init: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    method: str | None = None,
    parameters: Sequence[str] | None = None,
    sort_by: str = "total",
    top_n: int | None = None,
    ascending: bool = False,
) -> pd.DataFrame:
    """``rank_impact`` as a pandas data frame, one row for each parameter; arguments as there.

    Raises:
        ModelError: As ``rank_impact``.
        FitError: As ``rank_impact``.
        MissingExtraError: If pandas is not installed.
    """
    rows = rank_impact(
        model,
        data=data,
        init=init,
        fixed=fixed,
        method=method,
        parameters=parameters,
        sort_by=sort_by,
        top_n=top_n,
        ascending=ascending,
    )
    return dataframe({key: [row[key] for row in rows] for key in rows[0]} if rows else {})


@no_type_check
def plot_rank_impact(
    ranking: Model | Impacts | Sequence[Mapping[str, Any]], *, top_n: int | None = 20, ax: Axes | None = None
) -> tuple[Axes, Axes]:
    """The ranking plot: impacts as bars, pulls and constraints as points.

    Args:
        ranking: A model, its ``impacts``, or what ``rank_impact`` returned.
        top_n: How many parameters to show; None for all.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The axes of the bars and those of the points.

    Raises:
        ModelError: For a model without a parameter of interest.
        FitError: If there is no parameter to show, or for anything that is no ranking.
        MissingExtraError: If matplotlib is not installed.
    """
    result = impacts(ranking) if isinstance(ranking, Model) else ranking
    return plot.ranking(result, top_n=top_n, ax=ax)
