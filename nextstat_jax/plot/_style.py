"""What all pictures share: the figures that they are drawn in, how axes look in a paper, colors, room for legends.

Nothing here touches matplotlib's global settings, which threads share: every artist gets its style when it is made.
Sizes are relative to the user's font size, and colors of text are the user's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .._base._errors import MissingExtraError

# Ten colors that people with any color vision can tell apart: M. A. Petroff, arXiv:2107.02270.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
BLUE, ORANGE, RED = PALETTE[:3]
DARK_BLUE, DARK_ORANGE = "#1d5a94", "#a86c00"
GREEN, YELLOW = "#00cc00", "#ffcc00"
GRAY = "0.45"
SMALL = "small"

lock = threading.RLock()
"""Held while text is laid out, because matplotlib's parser of formulas serves one thread at a time."""

# Backends that write files. Pyplot would keep their figures forever and show none.
_FILES = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


def require_matplotlib() -> ModuleType:
    """matplotlib, imported on use; ``MissingExtraError`` where it is not installed."""
    try:
        import matplotlib as mpl
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    return mpl


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure, size in inches.

    Pyplot makes it where it can show it (in a notebook, or on a screen once a program has imported pyplot); anywhere
    else the figure is free-standing, and goes when its last reference goes.
    """
    mpl = require_matplotlib()
    if _shows(mpl):
        import matplotlib.pyplot as plt

        return plt.figure(figsize=size, layout="constrained")
    return mpl.figure.Figure(figsize=size, layout="constrained")


def _shows(mpl: Any) -> bool:
    in_use = "matplotlib.pyplot" in sys.modules or "ipykernel" in sys.modules
    if not in_use or threading.current_thread() is not threading.main_thread():
        return False
    return mpl.get_backend().lower() not in _FILES


def dress(ax: Any, minor: str = "both") -> None:
    """Ticks inside on all four sides, as papers have them.

    Args:
        ax: Axes of matplotlib.
        minor: Which axes have minor ticks: ``"x"``, ``"y"``, ``"both"`` or ``"none"``.
    """
    from matplotlib.ticker import AutoMinorLocator, NullLocator

    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if minor not in (name, "both"):
            axis.set_minor_locator(NullLocator())
        elif axis.get_scale() == "linear":
            axis.set_minor_locator(AutoMinorLocator())
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.tick_params(which="major", length=6)
    ax.tick_params(which="minor", length=3)


def name_rows(ax: Any, names: Sequence[str]) -> None:
    """Names at the left, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.set_ylim(len(names) - 0.5, -0.5)


def label_of(name: str, labels: Mapping[str, str] | None = None) -> str:
    """The user's text for a name, or the name with its dollars escaped, so that none of it reads as a formula.

    Args:
        name: Name of a parameter, a sample or a channel.
        labels: Texts by name.
    """
    if labels is not None and name in labels:
        return labels[name]
    return r"$\mu$" if name == "mu" else name.replace("$", r"\$")


def width_of(texts: Sequence[str], size: float = 8.3) -> float:
    """About how wide the longest of some texts is, in inches, at a font size in points."""
    return max(map(len, texts), default=0) * 0.6 * size / 72.0


def legend_with_room(ax: Any, left: Any, right: Any, top: Any, **options: Any) -> Any:
    """A legend at the upper edge, on the side where less is drawn, and an upper limit so large that it covers nothing.

    Args:
        ax: The axes.
        left: Left end of each piece of what is drawn, in data coordinates.
        right: Right end of each.
        top: Its upper end.
        **options: For ``Axes.legend``.
    """
    side = _lower_side(ax, left, right, top)
    legend = ax.legend(**{"frameon": False, "loc": f"upper {side}", "fontsize": SMALL, **options})
    keep_clear(ax, [legend], left, right, top)
    return legend


def _lower_side(ax: Any, left: Any, right: Any, top: Any) -> str:
    """``"left"`` if what is drawn in the left half ends below what is drawn in the right half, else ``"right"``."""
    low, high = ax.get_xlim()
    middle = (0.5 * (np.asarray(left, dtype=float) + np.asarray(right, dtype=float)) - low) / (high - low)
    top = np.nan_to_num(np.asarray(top, dtype=float), nan=-np.inf)
    ends = [np.max(top[side], initial=-np.inf) for side in (middle < 0.5, middle > 0.5)]
    return "left" if ends[0] < ends[1] else "right"


def root_figure(ax: Any) -> Any:
    """The figure that the axes are in, however deep in subfigures."""
    try:
        return ax.figure.get_figure(root=True)
    except TypeError:  # before matplotlib 3.10
        return ax.figure.figure


def lay_out(ax: Any) -> None:
    """Puts everything in the figure of the axes into its place, so that extents can be asked for."""
    with lock:
        root_figure(ax).draw_without_rendering()


def extent(artist: Any) -> Any:
    """Where an artist that was laid out stands, in pixels."""
    with lock:
        return artist.get_window_extent()


def keep_clear(ax: Any, artists: Sequence[Any], left: Any, right: Any, top: Any) -> None:
    """Raises the upper limit until what is drawn stays below artists at the upper edge; arguments as above."""
    left, right, top = (np.asarray(x, dtype=float) for x in (left, right, top))
    lay_out(ax)
    for artist in artists:
        box = extent(artist).transformed(ax.transAxes.inverted())
        ends = ax.transData.inverted().transform(ax.transAxes.transform([(box.x0, 0.0), (box.x1, 0.0)]))[:, 0]
        below = (right > ends[0]) & (left < ends[1]) & np.isfinite(top)
        room = box.y0 - 0.04
        if not below.any() or room <= 0.2:
            continue
        # In the coordinates in which the axis is even, so that logarithmic axes work as well.
        even = ax.yaxis.get_transform()
        low, high = even.transform(np.asarray(ax.get_ylim(), dtype=float))
        highest = even.transform(np.array([top[below].max()]))[0]
        if (highest - low) / (high - low) > room:
            ax.set_ylim(top=float(even.inverted().transform(np.array([low + (highest - low) / room]))[0]))


def pieces(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curve as pieces between its points, for ``legend_with_room``."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return x[:-1], x[1:], np.fmax(y[:-1], y[1:])
