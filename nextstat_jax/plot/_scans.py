"""Pictures of likelihood scans: one parameter, or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._checked import a_text, by_name, checked, levels, perhaps
from .._base._doors import no_type_check, number
from .._base._errors import FitError
from .._base._special import radius
from . import _checks, _style
from ._style import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .._inference._intervals import Contour, Interval
    from .._inference._scan import ScanResult

_LINES = ("-", "--", "-.", ":")


@checked(level=levels, label=perhaps(a_text), labels=perhaps(by_name(a_text)))
@no_type_check
def scan(
    result: ScanResult | Mapping[str, ScanResult],
    *,
    interval: Interval | Sequence[Interval] | None = None,
    level: float | Sequence[float] = (0.6827, 0.95),
    label: str | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Profile likelihood of one parameter: ``2 (NLL - NLL at the minimum)`` against its value.

    Args:
        result: ``ScanResult`` of one parameter, or a mapping from texts of the legend to several of the same one.
        interval: ``Interval``, or several, whose ends are marked.
        level: Confidence levels of the horizontal lines, one or several.
        label: Text of the legend for a single scan.
        labels: Text for names of parameters.
        ax: Axes to draw in; by default those of a new figure.

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
    levels = _levels(level)
    lines = [_threshold(one, 1) for one in levels]
    ax = _checks.axes_of(ax, (5.6, 4.2))
    colors = ("black", *_style.PALETTE)
    for k, (text, (x, y)) in enumerate(drawn.items()):
        ax.plot(x, y, color=colors[k % len(colors)], linestyle=_LINES[k % len(_LINES)], linewidth=1.8, label=text)
    start, stop = min(x[0] for x, _ in drawn.values()), max(x[-1] for x, _ in drawn.values())
    highest = max(np.max(y[np.isfinite(y)], initial=0.0) for _, y in drawn.values())
    ax.set_xlim(start, stop)
    ax.set_ylim(0.0, max(min(1.05 * highest, 3.0 * max(lines, default=highest)), 1e-12))
    for one, line in zip(levels, lines, strict=True):
        if line < ax.get_ylim()[1]:
            ax.axhline(line, color=_style.GRAY, linewidth=0.9, linestyle=":", zorder=1)
            place: dict[str, Any] = {"va": "center", "color": _style.GRAY, "fontsize": _style.SMALL}
            # Outside the frame, where no curve passes.
            ax.annotate(_percent(one), (stop, line), xytext=(4, 0), textcoords="offset points", **place)
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
    x, y = _checks.numbers(result.values[0], 1, "the scan"), _checks.numbers(result.delta, 1, "the scan")
    _checks.need_two(x, "the scan")
    order = np.argsort(x)
    return x[order], y[order]


def _require_scan(result: Any) -> None:
    _checks.require(result, ("parameters", "values", "delta", "best"), "profile_scan(model, ...)")


def _levels(level: Any) -> list[float]:
    """One or several confidence levels, checked."""
    several = list(level) if isinstance(level, list | tuple | np.ndarray) else [level]
    return [number(one, "level", 0.0, 1.0, hint=": a confidence level, such as 0.6827") for one in several]


def _threshold(level: float, ndof: int) -> float:
    """Quantile of the chi-squared distribution."""
    return radius(level, ndof) ** 2


def _percent(level: float) -> str:
    digits = 0 if level < 0.99 else 1
    return f"{100 * level:.{digits}f}% CL"


def _mark_intervals(ax: Any, interval: Any, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Dashed lines from the ends of the intervals up to the curve."""
    several = [] if interval is None else list(interval) if isinstance(interval, list | tuple) else [interval]
    for k, one in enumerate(several):
        _checks.require(one, ("best", "lower", "upper", "level"), "interval(model, ...)")
        best, lower, upper = (float(_checks.numbers(v, 0, "the interval")) for v in (one.best, one.lower, one.upper))
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


@checked(level=levels, labels=perhaps(by_name(a_text)))
@no_type_check
def contour(
    result: Contour | ScanResult,
    *,
    level: float | Sequence[float] = (0.6827, 0.95),
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Confidence regions of two parameters, and the best fit.

    Args:
        result: ``Contour``, or ``ScanResult`` of two parameters.
        level: Confidence levels that are read off a scan, one or several; a ``Contour`` has its own.
        labels: Text for names of parameters.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a scan of one parameter, or a batch.
        MissingExtraError: If matplotlib is not installed.
    """
    is_scan = hasattr(result, "delta")
    if not is_scan:
        _checks.require(result, ("parameters", "levels", "best", "points"), "contour(model, ...) or profile_scan(...)")
    if len(result.parameters) != 2:
        raise FitError(f"a scan of {len(result.parameters)} parameter: use plot.scan for one")
    best = _checks.numbers(result.best, 1, "the contour")
    ax = _checks.axes_of(ax, (5.2, 4.6))
    if is_scan:
        drawn = _draw_levels(ax, result, _levels(level))
    else:
        drawn = _draw_closed(ax, result)
    for k, one in enumerate(drawn):
        ax.plot([], [], label=_percent(one), **_line_style(k))
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


def _draw_levels(ax: Any, result: Any, levels: list[float]) -> list[float]:
    """Contours of a scan; those that its grid does not reach are left out."""
    x, y = (_checks.numbers(axis, 1, "the scan") for axis in result.values)
    delta = np.ma.masked_invalid(_checks.numbers(result.delta, 2, "the scan"))
    columns, rows = np.argsort(x), np.argsort(y)
    for k, level in enumerate(levels):
        height = _threshold(level, 2)
        if delta.min() < height < delta.max():
            style = _line_style(k)
            options = {"colors": [style["color"]], "linestyles": style["linestyle"], "linewidths": style["linewidth"]}
            ax.contour(x[columns], y[rows], delta[np.ix_(columns, rows)].T, levels=[height], **options)
    return levels


def _draw_closed(ax: Any, result: Any) -> list[float]:
    """Contours as closed curves through their points."""
    points = _checks.numbers(result.points, 3, "the contour")
    for k, curve in enumerate(points):
        ax.plot(*np.concatenate([curve, curve[:1]]).T, **_line_style(k))
    return [float(level) for level in result.levels]
