"""Rankings of nuisance parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import plot
from .._base._errors import FitError
from .._base._tables import dataframe
from .._inference._impacts import Impacts, impacts
from .._model._model import HistFactoryModel

SORT_KEYS = ("total", "up", "down", "pull", "constraint", "name")


def rank_impact(
    model: HistFactoryModel,
    data: Any = None,
    *,
    sort_by: str = "total",
    top_n: int | None = None,
    ascending: bool = False,
    method: str = "refit",
) -> list[dict[str, Any]]:
    """Nuisance parameters ranked by their impact on the parameter of interest.

    Args:
        model: A model with a parameter of interest.
        data: As in ``fit``.
        sort_by: ``"total"``, ``"up"``, ``"down"`` (sizes of the post-fit impacts), ``"pull"`` (its size),
            ``"constraint"`` or ``"name"``.
        top_n: How many to return; all by default.
        ascending: Whether the smallest comes first. Parameters without a pull or constraint come last in any case.
        method: As in ``impacts``.

    Returns:
        One dictionary for each parameter: ``name``; ``delta_mu_up`` and ``delta_mu_down``, the shifts of mu-hat with
        the parameter at its best fit plus and minus its post-fit uncertainty; ``total_impact``, the sum of their sizes;
        the same for the pre-fit width as ``delta_mu_up_prefit`` and ``delta_mu_down_prefit``; ``pull`` and
        ``constraint`` (NaN for parameters without a constraint); ``rank``, from 1; ``converged``.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes.
        FitError: For an unknown key or method, or a ``top_n`` that is not a positive integer.
    """
    if sort_by not in SORT_KEYS:
        raise FitError(f"sort_by={sort_by!r}: expected one of {', '.join(map(repr, SORT_KEYS))}")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise FitError(f"top_n={top_n!r}: expected a positive integer, or None for all")
    return ranking_of(impacts(model, data, method=method), sort_by=sort_by, top_n=top_n, ascending=ascending)


def ranking_of(
    result: Impacts, *, sort_by: str = "total", top_n: int | None = None, ascending: bool = False
) -> list[dict[str, Any]]:
    """``rank_impact`` of impacts that are already known; arguments as there."""
    columns = {
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
    order = _order(columns, sort_by, ascending)[:top_n]
    rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
    return [{**dict(zip(columns, row, strict=True)), "rank": k} for k, row in enumerate(rows, start=1)]


def _order(columns: dict[str, np.ndarray], sort_by: str, ascending: bool) -> np.ndarray:
    if sort_by == "name":
        order = np.argsort(columns["name"].astype(str), kind="stable")
        return order if ascending else order[::-1]
    column = {"total": "total_impact", "up": "delta_mu_up", "down": "delta_mu_down"}.get(sort_by, sort_by)
    keys = np.abs(columns[column])
    # NumPy sorts NaN to the end.
    return np.argsort(keys if ascending else -keys, kind="stable")


def rank_impact_df(model: HistFactoryModel, data: Any = None, **options: Any) -> Any:
    """``rank_impact`` as a pandas data frame, one row for each parameter; arguments as there.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    rows = rank_impact(model, data, **options)
    return dataframe({key: [row[key] for row in rows] for key in rows[0]} if rows else {})


def plot_rank_impact(
    ranking: HistFactoryModel | Impacts | Sequence[Mapping[str, Any]], *, top_n: int = 20, ax: Any = None
) -> Any:
    """The ranking plot: impacts as bars, pulls and constraints as points.

    Args:
        ranking: A model, its ``impacts``, or what ``rank_impact`` returned.
        top_n: How many parameters to show.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The axes of the bars and those of the points.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    result = impacts(ranking) if isinstance(ranking, HistFactoryModel) else ranking
    return plot.ranking(result, top_n=top_n, ax=ax)
