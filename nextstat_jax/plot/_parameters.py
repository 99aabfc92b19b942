"""Pictures of parameters: pulls, ranking, correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._checked import a_real, a_text, by_name, checked, perhaps, texts
from .._base._doors import no_type_check
from .._base._errors import FitError
from .._inference._goodness import correlation_matrix
from . import _checks, _style
from ._style import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .._inference._fit import FitResult
    from .._inference._goodness import Pulls
    from .._inference._impacts import Impacts

_ROW = 0.21  # inches


@checked(exclude=texts, labels=perhaps(by_name(a_text)))
@no_type_check
def pulls(
    result: Pulls,
    *,
    top_n: int | None = None,
    exclude: str | Sequence[str] = (),
    columns: int = 1,
    labels: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Pulls of the constrained parameters with their uncertainties after the fit.

    Points at ``(theta-hat - theta_0) / sigma_0`` with error bars ``sigma / sigma_0``; the bands are one and two
    standard deviations. Parameters that the fit held are left out.

    Args:
        result: ``Pulls``, as ``pulls(model, fit_result)`` returns them.
        top_n: Show the parameters with the largest pulls only, the largest on top.
        exclude: Patterns of names to leave out, such as ``"staterror*"``.
        columns: Number of panels side by side that share the parameters, for long lists.
        labels: Text for names; formulas in dollars are set as such.
        axes: Axes to draw in, one for each column; by default those of a new figure whose height follows the number of
            parameters.

    Returns:
        The axes, one for each column.

    Raises:
        FitError: For another kind of result, a batch, or if no parameter is left.
        MissingExtraError: If matplotlib is not installed.
    """
    _checks.require(result, ("names", "pull", "constraint", "fixed"), "pulls(model, fit_result)")
    _checks.check_top_n(top_n)
    pull, constraint, fixed = (_checks.numbers(x, 1, "pulls") for x in (result.pull, result.constraint, result.fixed))
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    kept = [k for k, name in enumerate(result.names) if not fixed[k] and not _matches(name, patterns)]
    if not kept:
        raise FitError("no pulls to draw: every constrained parameter is fixed or excluded, or there is none")
    if top_n is not None:
        kept = sorted(kept, key=lambda k: -np.nan_to_num(abs(pull[k])))[:top_n]
    if columns < 1 or columns > len(kept):
        raise FitError(f"columns={columns!r}: expected between 1 and {len(kept)}, the number of parameters")
    rows = -(-len(kept) // columns)
    names = [label_of(result.names[k], labels) for k in kept]
    if axes is None:
        panel = 2.9 if columns == 1 else 2.0
        size = (columns * (panel + _style.width_of(names)), 0.9 + _ROW * max(rows, 4))
        panels = list(_style.new_figure(size).subplots(1, columns, squeeze=False)[0])
    else:
        panels = _checks.several_axes(axes, columns, f"a picture of pulls in {columns} columns")
    reach = max(2.6, 1.08 * float(np.nanmax(np.abs(pull[kept]) + np.nan_to_num(constraint[kept]), initial=0.0)))
    for k, panel in enumerate(panels):
        part = kept[k * rows : (k + 1) * rows]
        _draw_pulls(panel, pull[part], constraint[part], reach)
        _style.name_rows(panel, [label_of(result.names[i], labels) for i in part])
        panel.set_ylim(rows - 0.5, -0.5)
    return tuple(panels)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _draw_pulls(ax: Any, pull: np.ndarray, constraint: np.ndarray, reach: float) -> None:
    ax.axvspan(-2, 2, color=_style.YELLOW, linewidth=0, zorder=0)
    ax.axvspan(-1, 1, color=_style.GREEN, linewidth=0, zorder=0.1)
    ax.axvline(0, color="black", linewidth=0.8, linestyle=":", zorder=0.2)
    points(ax, pull, np.arange(len(pull)), constraint)
    ax.set_xlim(-reach, reach)
    _style.dress(ax, minor="x")
    ax.set_xlabel(r"$(\hat\theta - \theta_0)\,/\,\Delta\theta$", loc="right")


def points(ax: Any, x: np.ndarray, y: np.ndarray, error: np.ndarray, label: str | None = None) -> None:
    """Black points with horizontal error bars."""
    ax.errorbar(x, y, xerr=error, fmt="o", color="black", markersize=4, elinewidth=1.2, zorder=3, label=label)


@checked(labels=perhaps(by_name(a_text)), poi=perhaps(a_text))
@no_type_check
def ranking(
    impacts: Impacts | Sequence[Mapping[str, Any]],
    *,
    top_n: int | None = 20,
    labels: Mapping[str, str] | None = None,
    poi: str | None = None,
    ax: Axes | None = None,
) -> tuple[Axes, Axes]:
    """The parameters with the largest impact on the parameter of interest.

    Bars (upper axis): by how much the best-fit parameter of interest moves if a parameter is held one standard
    deviation above or below its best fit; filled with its uncertainty after the fit, open with that before. Points
    (lower axis): its pull, with its uncertainty after the fit in units of that before.

    Args:
        impacts: ``Impacts``, drawn in the order of their size, or the list of dictionaries that
            ``interpret.rank_impact(model)`` returns, drawn in its order.
        top_n: Number of parameters; None for all.
        labels: Text for names.
        poi: Text for the parameter of interest; by default its name.
        ax: Axes to draw in; by default those of a new figure whose height follows the number of parameters.

    Returns:
        The axes of the bars, and those of the points on top of them.

    Raises:
        FitError: For another kind of result, a batch, or if there is no parameter.
        MissingExtraError: If matplotlib is not installed.
    """
    _checks.check_top_n(top_n)
    table, name, order = _impact_columns(impacts)
    order = order[:top_n]
    if len(order) == 0:
        raise FitError("no impacts to draw: the model has no parameter besides the one of interest")
    table = {key: np.asarray(x)[order] for key, x in table.items()}
    names = [
        label_of(one, labels) + ("" if good else " (not converged)")
        for one, good in zip(table["names"], table["converged"], strict=True)
    ]
    ax = _checks.axes_of(ax, (3.8 + _style.width_of(names), 2.1 + 1.25 * _ROW * len(names)))
    over = ax.twiny()
    _draw_impacts(ax, table)
    _draw_ranked_pulls(over, table)
    _style.name_rows(ax, names)
    text = label_of(name, {name: poi} if poi else labels)
    ax.set_xlabel(f"$\\Delta\\,${text}", loc="right")
    _ranking_legend(ax, over)
    return ax, over


_FIELDS = ("post_up", "post_down", "pre_up", "pre_down", "pull", "constraint")
_KEYS = ("delta_mu_up", "delta_mu_down", "delta_mu_up_prefit", "delta_mu_down_prefit", "pull", "constraint")


def _impact_columns(impacts: Any) -> tuple[dict[str, Any], str, np.ndarray]:
    """Columns by name, the parameter of interest, and the order of rows, from either form of a ranking."""
    if isinstance(impacts, list | tuple):
        columns = _columns_of_rows(impacts)
        return columns, impacts[0].get("poi", "mu") if impacts else "mu", np.arange(len(impacts))
    makers = "interpret.impacts(model) or interpret.rank_impact(model)"
    _checks.require(impacts, ("names", "parameter", "converged", *_FIELDS), makers)
    columns = {field: _checks.numbers(getattr(impacts, field), 1, "the impacts").astype(float) for field in _FIELDS}
    total = np.nan_to_num(np.abs(columns["post_up"]) + np.abs(columns["post_down"]))
    columns["converged"] = np.asarray(impacts.converged)
    return {"names": np.array(impacts.names, object), **columns}, impacts.parameter, np.argsort(-total, kind="stable")


def _columns_of_rows(rows: Sequence[Any]) -> dict[str, Any]:
    for row in rows:
        missing = {"name", "delta_mu_up", "delta_mu_down"} - set(row if isinstance(row, Mapping) else ())
        if missing:
            raise FitError(f"a row of the ranking lacks {min(missing)}: give what interpret.rank_impact(model) returns")
    columns: dict[str, Any] = {
        field: np.array([row.get(key, np.nan) for row in rows], dtype=float)
        for field, key in zip(_FIELDS, _KEYS, strict=True)
    }
    columns["converged"] = np.array([row.get("converged", True) for row in rows], dtype=bool)
    return {"names": np.array([row["name"] for row in rows], dtype=object), **columns}


def _draw_impacts(ax: Any, table: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = np.arange(len(table["names"]))
    # Frames are darker, so that they show inside a bar as well.
    sides = (("up", "+", _style.BLUE, _style.DARK_BLUE), ("down", "-", _style.ORANGE, _style.DARK_ORANGE))
    for field, sign, color, dark in sides:
        post, pre = (np.where(x == 0, np.nan, x) for x in (table[f"post_{field}"], table[f"pre_{field}"]))
        ax.barh(rows, post, height=0.74, color=color, linewidth=0, label=f"${sign}1\\sigma$ post-fit")
        open_bars = {"facecolor": "none", "edgecolor": dark, "linewidth": 1.1}
        ax.barh(rows, pre, height=0.74, label=f"${sign}1\\sigma$ pre-fit", **open_bars)
    values = np.concatenate([table[field] for field in ("post_up", "post_down", "pre_up", "pre_down")])
    reach = float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0)) or 1.0
    ax.set_xlim(-1.15 * reach, 1.15 * reach)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _style.dress(ax, minor="x")
    ax.xaxis.set_label_position("top")
    ax.tick_params(axis="x", which="both", top=True, bottom=False, labeltop=True, labelbottom=False)


def _draw_ranked_pulls(ax: Any, table: dict[str, Any]) -> None:
    pull, constraint = table["pull"], table["constraint"]
    known = np.isfinite(pull) & np.isfinite(constraint)
    points(ax, pull[known], np.arange(len(pull))[known], constraint[known], label="Pull")
    for x in (-1.0, 0.0, 1.0):
        ax.vlines(x, -0.5, len(pull) - 0.5, color="black", linewidth=0.7, linestyle=":" if x else "-", zorder=1)
    reach = max(2.0, 1.08 * float(np.max(np.abs(pull[known]) + constraint[known], initial=0.0)))
    ax.set_xlim(-reach, reach)
    _style.dress(ax, minor="x")
    ax.xaxis.set_label_position("bottom")
    ax.tick_params(axis="x", which="both", top=False, bottom=True, labeltop=False, labelbottom=True)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    ax.set_xlabel(r"$(\hat\theta - \theta_0)\,/\,\Delta\theta$", loc="right")


def _ranking_legend(ax: Any, over: Any) -> None:
    """A legend in empty rows above the first one."""
    handles, words = (
        [*mine, *others]
        for mine, others in zip(ax.get_legend_handles_labels(), over.get_legend_handles_labels(), strict=True)
    )
    legend = over.legend(
        handles,
        words,
        loc="upper center",
        ncols=3,
        frameon=False,
        fontsize=_style.SMALL,
        columnspacing=1.2,
        handlelength=1.4,
    )
    _style.lay_out(ax)
    box = _style.extent(legend).transformed(ax.transAxes.inverted())
    rows = len(ax.get_yticks())
    covered = min(1.02 - box.y0, 0.7)
    ax.set_ylim(rows - 0.5, -0.5 - rows * covered / (1.0 - covered))


@checked(threshold=a_real, labels=perhaps(by_name(a_text)))
@no_type_check
def correlation(
    fit_result: FitResult,
    *,
    threshold: float = 0.2,
    top_n: int | None = 30,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Correlations of the parameters that are strongly correlated with any other.

    Args:
        fit_result: As ``fit(model)`` returns it.
        threshold: Least absolute correlation with another parameter of a parameter that is shown.
        top_n: At most so many parameters, those with the largest correlations; None for all.
        labels: Text for names.
        ax: Axes to draw in; by default those of a new figure whose size follows the number of parameters.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a batch, or if no correlation reaches the threshold.
        MissingExtraError: If matplotlib is not installed.
    """
    _checks.check_top_n(top_n)
    matrix = correlation_matrix(fit_result)
    if not 0 <= threshold <= 1:
        raise FitError(f"threshold={threshold!r}: expected a number between 0 and 1")
    strength = np.max(np.abs(matrix - np.diag(np.diag(matrix))), axis=0, initial=0.0)
    kept = np.argsort(-strength, kind="stable")
    kept = np.sort(kept[strength[kept] >= threshold][:top_n])
    moving = np.diag(matrix)[kept] > 0
    kept = kept[moving]
    if len(kept) == 0:
        raise FitError(f"no correlation reaches {threshold:g}: lower the threshold")
    names = [label_of(fit_result.parameter_names[k], labels) for k in kept]
    side = 0.36 * max(len(kept), 5)
    margin = _style.width_of(names)
    ax = _checks.axes_of(ax, (side + margin + 0.2, side + margin + 0.2))
    part = matrix[np.ix_(kept, kept)]
    ax.imshow(part, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    for i, j in np.ndindex(part.shape):
        color = "white" if abs(part[i, j]) > 0.65 else "black"
        ax.text(j, i, _two_digits(float(part[i, j])), ha="center", va="center", color=color, fontsize="x-small")
    ax.set_xticks(range(len(kept)), names, rotation=90, fontsize=_style.SMALL)
    ax.set_yticks(range(len(kept)), names, fontsize=_style.SMALL)
    ax.tick_params(length=0)
    return ax


def _two_digits(x: float) -> str:
    """A coefficient in hundredths without what all have in common; 0 for what rounds to it."""
    text = f"{x:.2f}".replace("0.", ".", 1)
    return "0" if text in (".00", "-.00") else text.replace("-", "\N{MINUS SIGN}")
