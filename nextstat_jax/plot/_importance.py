"""Pictures of what a significance hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._checked import a_text, by_name, checked, perhaps
from .._base._doors import no_type_check
from .._base._errors import FitError
from . import _checks, _style
from ._style import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .._inference._importance import Importance

_ROW = 0.26  # inches


@checked(sample=perhaps(a_text), channel=perhaps(a_text), labels=perhaps(by_name(a_text)))
@no_type_check
def importance(
    result: Importance,
    *,
    sample: str | None = None,
    channel: str | None = None,
    top_n: int | None = 20,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What the discovery significance hangs on: its systematics, or the bins of one sample.

    Args:
        result: ``Importance``, as ``interpret.importance(model)`` returns it.
        sample: Draw d(Z0) / d(yield) of this sample, bin by bin, in place of the systematics.
        channel: In this channel alone.
        top_n: Number of systematics, the largest on top; None for all.
        labels: Text for names.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a batch, or if there is nothing to draw.
        ModelError: For a sample that does not exist.
        MissingExtraError: If matplotlib is not installed.
    """
    _checks.require(result, ("z0", "systematics", "cells", "names", "rows"), "interpret.importance(model)")
    _checks.check_top_n(top_n)
    values = _checks.numbers(result.systematics, 1, "importance")
    if sample is not None:
        return _bins(np.asarray(result.of(sample, channel)), label_of(sample, labels), ax)
    if channel is not None:
        raise FitError(f"channel={channel!r:.60} says where a sample is: name the sample too")
    if not len(values):
        raise FitError("no systematics to draw: no parameter of the model has a constraint; name a sample instead")
    _style.require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    order = np.argsort(-np.abs(values), kind="stable")[:top_n]
    names = [label_of(result.names[k], labels) for k in order]
    ax = _checks.axes_of(ax, (3.4 + _style.width_of(names), 1.2 + _ROW * max(len(names), 3)))
    rows = np.arange(len(order))
    chosen = values[order]
    colors = [_style.ORANGE if x < 0 else _style.BLUE for x in chosen]
    ax.barh(rows, chosen, height=0.74, color=colors, linewidth=0)
    ax.axvline(0.0, color="black", linewidth=0.8)
    reach = float(np.max(np.abs(chosen[np.isfinite(chosen)]), initial=0.0)) or 1.0
    low = -1.12 * reach if (chosen < 0).any() else -0.08 * reach
    high = 1.12 * reach if (chosen > 0).any() else 0.08 * reach
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    _style.dress(ax, minor="x")
    _style.name_rows(ax, names)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel(r"$\mathrm{d}Z_0\,/\,\mathrm{d}$(relative size)", loc="right")
    return ax


def _bins(slopes: np.ndarray, name: str, ax: Any) -> Any:
    ax = _checks.axes_of(ax, (4.6, 3.2))
    edges = np.arange(len(slopes) + 1) + 0.5
    ax.stairs(slopes, edges, fill=True, color=_style.BLUE, alpha=0.85, label=name)
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set_xlim(edges[0], edges[-1])
    _style.dress(ax, minor="y")
    ax.set_xlabel("bin", loc="right")
    ax.set_ylabel(r"$\mathrm{d}Z_0\,/\,\mathrm{d}$(events)", loc="top")
    low, high = float(min(slopes.min(), 0.0)), float(max(slopes.max(), 0.0))
    room = 0.2 * ((high - low) or 1.0)
    ax.set_ylim(low - (room if low < 0 else 0.0), high + room)
    ax.legend(frameon=False)
    return ax
