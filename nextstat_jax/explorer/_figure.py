"""The picture of a plane, and what the page says of it."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import Any

import numpy as np

import nextstat_jax as nextstat

from ._landscape import Landscape, Plane, decimals, steps

style = nextstat.plot.style

LEVELS = {"68%": 0.6827, "95%": 0.95}
"""Confidence levels of the lines, by their names."""
_LINES: tuple[dict[str, Any], ...] = (
    {"color": style.DARK_BLUE, "linestyle": "-"},
    {"color": style.RED, "linestyle": "--"},
)
# Where the color of the filled contours ends: about four standard deviations of one parameter.
_HIGHEST = 8.0
_SIZE = (7.2, 5.0)
# Left, bottom, width and height, as parts of the figure.
_AXES = (0.125, 0.11, 0.755, 0.825)
_SCALE = (0.9, 0.11, 0.02, 0.825)
_DPI = 150


def threshold(level: float) -> float:
    """Height of the NLL above its minimum at a confidence level: half the quantile of chi-squared of two parameters.

    ``-log(1 - level)``, by Wilks' theorem.

    References:
        arXiv:1007.1727, section 3.1.

    >>> threshold(0.95)
    2.9957...
    """
    return -math.log1p(-level)


def draw(plane: Plane) -> Any:
    """A figure of matplotlib: filled contours, lines at the confidence levels, best fit, end of the trained region.

    Nothing is drawn outside of the trained region but hatches. Pyplot and its settings are neither used nor changed.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    # Fixed places: to lay them out anew would take as long as to draw, and the frame would move with the sliders.
    ax, scale = figure.add_axes(_AXES), figure.add_axes(_SCALE)
    delta = np.ma.masked_where(~(plane.inside & np.isfinite(plane.delta)), plane.delta)
    colors = LinearSegmentedColormap.from_list("depth", ["#5aa2df", "#cfe4f5", "#ffffff"])
    # The surrogate's own error may take single points below its minimum: they get the deepest color.
    filled = ax.contourf(
        plane.x, plane.y, np.maximum(delta, 0.0), levels=np.linspace(0.0, _HIGHEST, 33), cmap=colors, extend="max"
    )
    for (name, level), line in zip(LEVELS.items(), _LINES, strict=True):
        height = threshold(level)
        if delta.count() and delta.min() < height < delta.max():
            look = {"colors": [line["color"]], "linestyles": line["linestyle"], "linewidths": 1.8}
            ax.contour(plane.x, plane.y, delta, levels=[height], **look)
        ax.plot([], [], label=rf"$\Delta$NLL = {height:.3f} ({name})", linewidth=1.8, **line)
    ax.plot(*plane.best, "+", color="black", markersize=11, markeredgewidth=1.8, linestyle="none", label="Best fit")
    _hatch(ax, plane)
    _frame(ax, plane)
    _scale(figure, scale, filled)
    return figure


def _hatch(ax: Any, plane: Plane) -> None:
    """Hatches where nothing was trained, and an entry of the legend."""
    if plane.inside.all():
        return
    from matplotlib.collections import PolyCollection

    look: Any = {"facecolor": "0.96", "edgecolor": "0.7", "hatch": "////", "linewidth": 0.0}
    # One rectangle for each run of points in a row: contours of a mask would have slanted corners.
    dx, dy = (0.5 * (axis[1] - axis[0]) for axis in (plane.x, plane.y))
    runs = []
    for row, y in zip(~plane.inside, plane.y, strict=True):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for first, last in ends.reshape(-1, 2):
            left, right = plane.x[first] - dx, plane.x[last - 1] + dx
            runs.append([(left, y - dy), (right, y - dy), (right, y + dy), (left, y + dy)])
    ax.add_collection(PolyCollection(runs, zorder=1.5, **look))
    ax.fill_between([], [], [], label="Not trained", **look)


def _frame(ax: Any, plane: Plane) -> None:
    """Axes, names and legend."""
    ax.set_xlim(plane.x[0], plane.x[-1])
    ax.set_ylim(plane.y[0], plane.y[-1])
    style.dress(ax)
    x, y = plane.axes
    ax.set_xlabel(style.label_of(x), loc="right", fontsize=_font(x, _AXES[2] * _SIZE[0]))
    ax.set_ylabel(style.label_of(y), loc="top", fontsize=_font(y, _AXES[3] * _SIZE[1]))
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "ncols": 4}
    ax.legend(**place, frameon=False, fontsize=style.SMALL, columnspacing=1.2)


def _font(name: str, room: float) -> float:
    """Size of a name in points, so that it fits into a length in inches."""
    return min(12.0, 12.0 * room / style.width_of([name], 12.0))


def _scale(figure: Any, ax: Any, filled: Any) -> None:
    """The scale of the colors, with the lines in it."""
    bar = figure.colorbar(filled, cax=ax, ticks=np.arange(0.0, _HIGHEST + 1, 2))
    bar.set_label("NLL above its minimum over all parameters", loc="top", fontsize=style.SMALL)
    ax.tick_params(direction="in", labelsize=style.SMALL)
    for level, line in zip(LEVELS.values(), _LINES, strict=True):
        ax.axhline(threshold(level), linewidth=1.8, **line)


def data_url(figure: Any) -> str:
    """A figure as an address that holds all of its picture, the same for the same figure.

    A page that is drawn faster than it is shown then never asks for a file that is gone.
    """
    file = io.BytesIO()
    with nextstat.plot.lock:
        figure.savefig(file, format="png", dpi=_DPI, pil_kwargs={"compress_level": 1})
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def summary(plane: Plane) -> str:
    """What was computed, and the depth of the plane, as one line of Markdown."""
    done = f"**{plane.delta.size:,} points in {1e3 * plane.seconds:.1f} ms.**"
    known = plane.delta[plane.inside & np.isfinite(plane.delta)]
    if not len(known):
        return f"{done} All of them lie outside of the trained region: move the sliders back."
    lowest = max(float(known.min()), 0.0)
    text = f"{done} Lowest point: ΔNLL = {lowest:.2f}"
    highest = threshold(max(LEVELS.values()))
    return text + (", so that no line is crossed." if lowest >= highest else ".")


def reading(follow: bool) -> str:
    """How to read the lines, as Markdown."""
    if follow:
        return (
            "The other parameters follow the axes by the covariance of the fit, from where the sliders are: with all "
            "sliders at the best fit, the lines are those of the profile likelihood as far as it is Gaussian, and lie "
            "inside of them elsewhere."
        )
    return "The other parameters are held: the lines are slices of the joint region, not its profile."


def caution(land: Landscape) -> str:
    """That this is a surrogate, and how wrong it was on points it had not seen, as one line of Markdown."""
    s, facts = land.surrogate, land.surrogate.metadata
    head = f"Surrogate of {s.n_params} parameters"
    if facts.get("n_samples"):
        head += f", trained on {facts['n_samples']:,} points"
    error = "its error is not known"
    if "validation_rmse" in s.history and "validation_max" in s.history:
        rmse, most = float(s.history["validation_rmse"]), float(s.history["validation_max"])
        error = f"error on held-out points {_two(rmse)} (RMSE), {_two(most)} (largest) in units of the NLL"
    return f"{head}; {error}. Confirm what you find with the model itself."


def _two(error: float) -> str:
    """Two digits of a small number, all of a large one."""
    return f"{error:,.0f}" if error >= 10 else f"{error:.2g}"


def slider_text(land: Landscape, name: str) -> str:
    """A slider's name with the best fit and its uncertainty, as HTML."""
    width, best = land.width(name), steps(land, name)[1]
    digits = decimals(width)
    fitted = f"best fit {best:.{digits}f} ± {width:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    name = html.escape(name)
    return (
        '<div style="display: flex; justify-content: space-between; gap: 0.6rem; font-size: 0.85rem">'
        f'<b style="overflow: hidden; text-overflow: ellipsis" title="{name}">{name}</b>'
        f'<span style="white-space: nowrap; opacity: 0.7">{fitted}</span></div>'
    )
