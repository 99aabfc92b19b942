"""Pictures of likelihood scans: one parameter, or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._base._errors import FitError
from . import _style
from ._style import label_of

_LINES = ("-", "--", "-.", ":")


def scan(
    result: Any,
    ax: Any = None,
    interval: Any = None,
    *,
    levels: Sequence[float] = (0.6827, 0.95),
    label: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Profile likelihood of one parameter: ``2 (NLL - NLL at the minimum)`` against its value.

    Args:
        result: ``ScanResult`` of one parameter, or a mapping from texts of the legend to several of the same one.
        ax: Axes to draw in; by default those of a new figure.
        interval: ``Interval``, or several, whose ends are marked; the first is written in the legend.
        levels: Confidence levels of the horizontal lines.
        label: Text of the legend for a single scan.
        labels: Text for names of parameters.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a scan of two parameters, or a batch.
        MissingExtraError: If matplotlib is not installed.

    References:
        Levels: Wilks' theorem, arXiv:1007.1727, section 3.1.
    """
    curves = dict(result) if isinstance(result, Mapping) else {label or "Profile likelihood": result}
    drawn = {text: _curve(one) for text, one in curves.items()}
    names = {one.parameters[0] for one in curves.values()}
    if len(names) != 1:
        raise FitError(f"scans of different parameters in one picture: {', '.join(sorted(names))}")
    name = label_of(names.pop(), labels)
    lines = [_threshold(level, 1) for level in levels]
    ax = _style.axes_of(ax, (5.6, 4.2))
    colors = ("black", *_style.PALETTE)
    for k, (text, (x, y)) in enumerate(drawn.items()):
        ax.plot(x, y, color=colors[k % len(colors)], linestyle=_LINES[k % len(_LINES)], linewidth=1.8, label=text)
    start, stop = min(x[0] for x, _ in drawn.values()), max(x[-1] for x, _ in drawn.values())
    highest = max(np.max(y[np.isfinite(y)], initial=0.0) for _, y in drawn.values())
    ax.set_xlim(start, stop)
    ax.set_ylim(0.0, max(min(1.05 * highest, 3.0 * max(lines, default=highest)), 1e-12))
    for level, line in zip(levels, lines, strict=True):
        if line < ax.get_ylim()[1]:
            ax.axhline(line, color=_style.GRAY, linewidth=0.9, linestyle=":", zorder=1)
            place: dict[str, Any] = {"va": "center", "color": _style.GRAY, "fontsize": _style.SMALL}
            # Outside the frame, where no curve passes.
            ax.annotate(_percent(level), (stop, line), xytext=(4, 0), textcoords="offset points", **place)
    _mark_intervals(ax, interval, name, *next(iter(drawn.values())))
    _style.dress(ax)
    ax.set_xlabel(name, loc="right")
    ax.set_ylabel(r"$-2\,\Delta\,\ln\,L$", loc="top")
    _legend_above(ax)
    return ax


def _legend_above(ax: Any) -> None:
    """A legend above the frame, because curves may be anywhere in it, in as many columns as the frame is wide."""
    for columns in (3, 2, 1):
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": columns}
        legend = ax.legend(**place, frameon=False, fontsize=_style.SMALL)
        # Drawn first, because a layout makes room for a legend that is too wide by squeezing the frame.
        _style.lay_out(ax)
        if _style.extent(legend).width <= 1.05 * _style.extent(ax).width:
            break


def _curve(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Grid and curve of a scan of one parameter, in ascending order."""
    _require_scan(result)
    if len(result.parameters) != 1:
        raise FitError(f"a scan of {len(result.parameters)} parameters: use plot.contour for two")
    x, y = _style.numbers(result.values[0], 1, "the scan"), _style.numbers(result.delta, 1, "the scan")
    _style.need_two(x, "the scan")
    order = np.argsort(x)
    return x[order], y[order]


def _require_scan(result: Any) -> None:
    _style.require(result, ("parameters", "values", "delta", "best"), "profile_scan(model, ...)")


def _threshold(level: float, ndof: int) -> float:
    """Quantile of the chi-squared distribution."""
    from scipy.special import chdtri

    if not 0 < level < 1:
        raise FitError(f"a level of {level!r}: expected a number between 0 and 1")
    return float(chdtri(ndof, 1.0 - level))


def _percent(level: float) -> str:
    digits = 0 if level < 0.99 else 1
    return f"{100 * level:.{digits}f}% CL"


def _mark_intervals(ax: Any, interval: Any, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Dashed lines from the ends of the intervals up to the curve."""
    several = [] if interval is None else list(interval) if isinstance(interval, list | tuple) else [interval]
    for k, one in enumerate(several):
        _style.require(one, ("best", "lower", "upper", "level"), "interval(model, ...)")
        best, lower, upper = (float(_style.numbers(v, 0, "the interval")) for v in (one.best, one.lower, one.upper))
        text = f"{name} = ${_asymmetric(best, lower, upper)}$ ({_percent(one.level)})"
        style = {"color": (_style.RED, _style.BLUE, _style.ORANGE)[k % 3], "linestyle": "--", "linewidth": 1.2}
        for place, end in enumerate((lower, upper)):
            inside = x[0] <= end <= x[-1]
            height = float(np.interp(end, x, y)) if inside else _threshold(one.level, 1)
            ax.plot([end, end], [0.0, height], label=None if place else text, zorder=1.5, **style)


def _asymmetric(best: float, lower: float, upper: float) -> str:
    """A value with its two errors, rounded to two significant digits of the smaller one."""
    errors = [x for x in (upper - best, best - lower) if np.isfinite(x) and x > 0]
    digits = max(0, 1 - int(np.floor(np.log10(min(errors))))) if errors else 2
    up, down = (f"{x:.{digits}f}" if np.isfinite(x) else "?" for x in (upper - best, best - lower))
    return f"{best:.{digits}f}^{{+{up}}}_{{-{down}}}"


def contour(
    result: Any,
    ax: Any = None,
    *,
    levels: Sequence[float] = (0.6827, 0.95),
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Confidence regions of two parameters, and the best fit.

    Args:
        result: ``Contour``, or ``ScanResult`` of two parameters.
        ax: Axes to draw in; by default those of a new figure.
        levels: Confidence levels that are read off a scan; a ``Contour`` has its own.
        labels: Text for names of parameters.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a scan of one parameter, or a batch.
        MissingExtraError: If matplotlib is not installed.
    """
    is_scan = hasattr(result, "delta")
    if not is_scan:
        _style.require(result, ("parameters", "levels", "best", "points"), "contour(model, ...) or profile_scan(...)")
    if len(result.parameters) != 2:
        raise FitError(f"a scan of {len(result.parameters)} parameter: use plot.scan for one")
    best = _style.numbers(result.best, 1, "the contour")
    ax = _style.axes_of(ax, (5.2, 4.6))
    if is_scan:
        drawn = _draw_levels(ax, result, levels)
    else:
        drawn = _draw_closed(ax, result)
    for k, level in enumerate(drawn):
        ax.plot([], [], label=_percent(level), **_line_style(k))
    ax.plot(*best, marker="+", color="black", markersize=9, markeredgewidth=1.8, linestyle="none", label="Best fit")
    if not is_scan:
        ax.margins(0.08)
    _style.dress(ax)
    ax.set_xlabel(label_of(result.parameters[0], labels), loc="right")
    ax.set_ylabel(label_of(result.parameters[1], labels), loc="top")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, fontsize=_style.SMALL)
    return ax


def _line_style(k: int) -> dict[str, Any]:
    return {
        "color": (_style.BLUE, _style.RED, *_style.PALETTE[3:])[k % 9],
        "linestyle": _LINES[k % 4],
        "linewidth": 1.8,
    }


def _draw_levels(ax: Any, result: Any, levels: Sequence[float]) -> list[float]:
    """Contours of a scan; those that its grid does not reach are left out."""
    x, y = (_style.numbers(axis, 1, "the scan") for axis in result.values)
    delta = np.ma.masked_invalid(_style.numbers(result.delta, 2, "the scan"))
    columns, rows = np.argsort(x), np.argsort(y)
    for k, level in enumerate(levels):
        height = _threshold(level, 2)
        if delta.min() < height < delta.max():
            style = _line_style(k)
            options = {"colors": [style["color"]], "linestyles": style["linestyle"], "linewidths": style["linewidth"]}
            ax.contour(x[columns], y[rows], delta[np.ix_(columns, rows)].T, levels=[height], **options)
    return list(levels)


def _draw_closed(ax: Any, result: Any) -> list[float]:
    """Contours as closed curves through their points."""
    points = _style.numbers(result.points, 3, "the contour")
    for k, curve in enumerate(points):
        ax.plot(*np.concatenate([curve, curve[:1]]).T, **_line_style(k))
    return [float(level) for level in result.levels]
