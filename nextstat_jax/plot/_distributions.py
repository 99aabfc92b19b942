"""Pictures of distributions: stacked samples, data, uncertainty band, ratio panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._checked import a_text, by_name, checked, perhaps, reals, texts
from .._base._doors import flag, integer, no_type_check
from .._base._errors import FitError
from . import _checks, _style
from ._style import label_of

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes

    from .._inference._yields import Yields

_FIELDS = (
    "values",
    "total",
    "total_uncertainties",
    "observed",
    "channels",
    "channel_slices",
    "samples",
    "rows",
    "kind",
)
_MAKER = "yields(model) or yields(model, fit_result)"
_HATCH: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.3", "hatch": "/////", "linewidth": 0.0}
_REST, _REST_COLOR = "Other", "0.82"


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: some bins with their edges, and where channels begin and end."""

    title: str
    bins: np.ndarray
    edges: np.ndarray
    borders: tuple[float, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    counted: bool = True


@dataclass(frozen=True)
class _Stack:
    """What is drawn in all bins of the model, from the bottom to the top of the stack; None for what is not."""

    names: tuple[str, ...]
    values: np.ndarray
    colors: tuple[str, ...]
    total: np.ndarray
    error: np.ndarray | None
    observed: np.ndarray | None
    prefit: np.ndarray | None


@checked(
    channels=perhaps(texts),
    summary=flag,
    edges=perhaps(by_name(reals)),
    labels=perhaps(by_name(a_text)),
    order=perhaps(texts),
    xlabel=perhaps(a_text),
    log=flag,
    data=flag,
)
@no_type_check
def distributions(
    yields: Yields,
    *,
    channels: str | Sequence[str] | None = None,
    prefit: Yields | None = None,
    summary: bool = False,
    edges: Mapping[str, ArrayLike] | None = None,
    labels: Mapping[str, str] | None = None,
    order: Sequence[str] | None = None,
    max_samples: int = 10,
    xlabel: str | None = None,
    log: bool = False,
    data: bool = True,
    columns: int = 3,
    axes: Sequence[Axes] | None = None,
) -> tuple[tuple[Axes, Axes], ...]:
    """Stacked yields of the samples with their total uncertainty, and the data with central intervals of Garwood.

    The lower panel shows data and uncertainty divided by the total yield; points outside its range become triangles at
    its edge.

    Args:
        yields: ``Yields``, before or after a fit.
        channels: Name of a channel, or several; None for all.
        prefit: ``Yields`` before the fit, whose total is drawn as a dashed line.
        summary: Whether all bins of the channels stand side by side in a single panel.
        edges: Bin edges by channel; bins are numbered where there are none.
        labels: Text for names of samples and channels.
        order: Samples from the bottom to the top of the stack; by default the largest on top, signals above them.
        max_samples: If there are more, the smallest are drawn together.
        xlabel: Text for the axis of the bins.
        log: Whether yields are on a logarithmic axis.
        data: Whether to draw the data.
        columns: Panels in a row, for several channels.
        axes: For each panel the upper and the lower axes; by default those of a new figure.

    Returns:
        Upper and lower axes of each panel: of each channel, or of the one summary.

    Raises:
        FitError: For another kind of result, a batch, an unknown channel or sample, edges of a wrong length.
        MissingExtraError: If matplotlib is not installed.
    """
    names = _channels(yields, channels)
    if prefit is not None:
        _check(prefit)
        if prefit.samples != yields.samples or prefit.channels != yields.channels:
            raise FitError("prefit belongs to another model: its channels or samples have other names")
    _check_options(names, summary, edges, max_samples, columns)
    if summary:
        panels = [_joined(yields, names, labels)]
    else:
        panels = [_panel(yields, name, edges, labels) for name in names]
    bins = np.concatenate([panel.bins for panel in panels])
    stack = _stack(yields, prefit, bins, order, max_samples, data)
    pairs, own = _axes(axes, panels, columns)
    drawn = [_draw_main(main, panel, stack, labels, log) for panel, (main, _) in zip(panels, pairs, strict=True)]
    for panel, (main, ratio) in zip(panels, pairs, strict=True):
        _draw_ratio(ratio, panel, stack)
        main.tick_params(axis="x", which="both", labelbottom=False)
        # A blank keeps rows of panels apart.
        default = "Bin" if panel.counted and not panel.ticks and len(panel.bins) > 1 else " "
        ratio.set_xlabel(xlabel if xlabel is not None else default, loc="right")
    _legends(pairs, panels, drawn, yields.kind.capitalize(), own)
    return tuple(pairs)


def _check(yields: Any) -> None:
    _checks.require(yields, _FIELDS, _MAKER)
    _checks.numbers(yields.total, 1, "the yields")


def _channels(yields: Any, channels: str | Sequence[str] | None) -> list[str]:
    _check(yields)
    wanted = list(yields.channels) if channels is None else [channels] if isinstance(channels, str) else list(channels)
    unknown = [name for name in wanted if name not in yields.channels]
    if unknown or not wanted:
        there = ", ".join(yields.channels)
        raise FitError(f"there is no channel {unknown[0]!r}: {there}" if unknown else "the list of channels is empty")
    return wanted


def _check_options(
    channels: Sequence[str], summary: bool, edges: Mapping[str, Any] | None, max_samples: int, columns: int
) -> None:
    integer(max_samples, "max_samples")
    integer(columns, "columns")
    if edges and summary:
        raise FitError("a summary numbers the bins of all channels: leave out edges")
    unknown = [name for name in edges or () if name not in channels]
    if unknown:
        raise FitError(f"edges for {unknown[0]!r}, which is not drawn: {', '.join(channels)}")


def _panel(yields: Any, name: str, edges: Mapping[str, Any] | None, labels: Mapping[str, str] | None) -> _Panel:
    bins = np.arange(yields.total.shape[0])[yields.channel_slices[name]]
    title = label_of(name, labels)
    if edges is None or name not in edges:
        return _Panel(title, bins, np.arange(len(bins) + 1) + 0.5)
    given = np.asarray(edges[name], dtype=float)
    if given.shape != (len(bins) + 1,) or not (np.diff(given) > 0).all():
        raise FitError(f"edges of channel {name!r}: expected {len(bins) + 1} increasing numbers")
    return _Panel(title, bins, given, counted=False)


def _joined(yields: Any, channels: Sequence[str], labels: Mapping[str, str] | None) -> _Panel:
    """All bins of the channels side by side."""
    parts = [np.arange(yields.total.shape[0])[yields.channel_slices[name]] for name in channels]
    ends = np.cumsum([len(part) for part in parts])
    middle = ends - 0.5 * np.array([len(part) for part in parts])
    ticks = tuple((float(x), label_of(name, labels)) for x, name in zip(middle, channels, strict=True))
    return _Panel("", np.concatenate(parts), np.arange(ends[-1] + 1.0), tuple(map(float, ends[:-1])), ticks)


def _stack(
    yields: Any, prefit: Any, bins: np.ndarray, order: Sequence[str] | None, max_samples: int, data: bool
) -> _Stack:
    values = np.asarray(yields.values)
    signals = getattr(yields, "signals", ())
    importance = _importance(yields, values)
    drawn = [k for k in range(len(yields.samples)) if (values[k, bins] != 0).any()]
    if order is None:
        drawn.sort(key=lambda k: (yields.samples[k] in signals, values[k, bins].sum()))
    else:
        _check_order(yields.samples, order)
        drawn = [k for k in (yields.samples.index(name) for name in order) if k in drawn]
    ranked = sorted(drawn, key=lambda k: (yields.samples[k] not in signals, -importance[k]))
    rest = ranked[max_samples - 1 :] if len(drawn) > max_samples else []
    kept = [k for k in drawn if k not in rest]
    color = _colors(kept)
    names = [yields.samples[k] for k in kept]
    parts = [values[k] for k in kept]
    colors = [color[k] for k in kept]
    if rest:
        names.insert(0, _REST)
        parts.insert(0, values[rest].sum(axis=0))
        colors.insert(0, _REST_COLOR)
    error = np.asarray(yields.total_uncertainties)
    return _Stack(
        tuple(names),
        np.array(parts).reshape(len(parts), values.shape[1]),
        tuple(colors),
        np.asarray(yields.total),
        error if np.isfinite(error).all() else None,  # a fit may have no covariance
        np.asarray(yields.observed) if data else None,
        None if prefit is None else np.asarray(prefit.total),
    )


def _importance(yields: Any, values: np.ndarray) -> np.ndarray:
    """Sum over all channels of each sample's part in them: what a sample counts for in the whole model."""
    parts = np.zeros(len(values))
    for bins in yields.channel_slices.values():
        sums = np.abs(values[:, bins]).sum(axis=1)
        parts += sums / max(float(sums.sum()), 1e-300)
    return parts


def _colors(kept: Sequence[int]) -> dict[int, str]:
    """A color for each sample: the same in all pictures of a model, unless another one of the picture has it."""
    colors: dict[int, str] = {}
    for k in sorted(kept):
        start = k % len(_style.PALETTE)
        choices = [*_style.PALETTE[start:], *_style.PALETTE[:start]]
        colors[k] = next((one for one in choices if one not in colors.values()), choices[0])
    return colors


def _check_order(samples: Sequence[str], order: Sequence[str]) -> None:
    unknown = [name for name in order if name not in samples]
    if unknown:
        raise FitError(f"there is no sample {unknown[0]!r}: {', '.join(samples)}")
    missing = [name for name in samples if name not in order]
    if missing:
        raise FitError(f"order leaves out {', '.join(missing)}: the stack would not add up to the total")


def _axes(axes: Any, panels: Sequence[_Panel], columns: int) -> tuple[list[tuple[Any, Any]], bool]:
    """Pairs of upper and lower axes, and whether they are ours."""
    if axes is not None:
        flat = _checks.several_axes(axes, 2 * len(panels), "each panel an upper and a lower one: this picture")
        return list(zip(flat[::2], flat[1::2], strict=True)), False
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    bins = max(len(panel.bins) for panel in panels)
    width = max(5.6, 0.3 * bins + 1.5) if columns == 1 else 3.5 * columns
    height = 4.8 if rows == columns == 1 else 0.7 + 3.6 * rows
    figure = _style.new_figure((min(width, 16.0), height))
    # The layout counts gaps in parts of the figure's height, however the grids are nested.
    figure.get_layout_engine().set(h_pad=0.02)
    grid = figure.add_gridspec(rows, columns)
    pairs = []
    for k in range(len(panels)):
        inner = grid[k // columns, k % columns].subgridspec(2, 1, height_ratios=[2.8, 1], hspace=0.1 / height)
        main = figure.add_subplot(inner[0])
        pairs.append((main, figure.add_subplot(inner[1], sharex=main)))
    return pairs, True


def _draw_main(
    ax: Any, panel: _Panel, stack: _Stack, labels: Mapping[str, str] | None, log: bool
) -> tuple[list[tuple[Any, str]], np.ndarray]:
    """Draws the stack and the data; returns what the legend lists, and the upper end of what is in each bin."""
    bins, edges = panel.bins, panel.edges
    ground = np.zeros(len(bins))
    entries: list[tuple[Any, str]] = []
    for name, values, color in zip(stack.names, stack.values, stack.colors, strict=True):
        top = ground + values[bins]
        # A line in the same color closes the gaps that anti-aliasing leaves between neighbors.
        part = ax.stairs(top, edges, baseline=ground, fill=True, color=color, linewidth=0.4)
        entries.insert(0, (part, label_of(name, labels)))
        ground = top
    top = total = stack.total[bins]
    ax.stairs(total, edges, color="black", linewidth=1.0, baseline=None)
    if stack.error is not None:
        error = stack.error[bins]
        entries.append((_band(ax, edges, total - error, total + error), "Uncertainty"))
        top = total + error
    if stack.prefit is not None:
        entries.append((_line(ax, edges, stack.prefit[bins]), "Pre-fit"))
        top = np.maximum(top, stack.prefit[bins])
    if stack.observed is not None:
        points, upper = _points(ax, edges, stack.observed[bins], np.ones(len(bins)))
        entries.insert(0, (points, "Data"))
        top = np.maximum(top, upper)
    if log:
        ax.set_yscale("log")
        positive = total[total > 0]
        ax.set_ylim(0.3 * float(positive.min()) if len(positive) else 0.1, 2.0 * float(np.max(top, initial=0.1)))
    else:
        ax.set_ylim(min(0.0, float(ground.min())), 1.1 * float(top.max()) or 1.0)
    ax.set_xlim(edges[0], edges[-1])
    _mark_bins(ax, panel)
    ax.set_ylabel("Events / bin", loc="top")
    return entries, top


def _band(ax: Any, edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> Any:
    ends = (np.append(low, low[-1]), np.append(high, high[-1]))
    return ax.fill_between(edges, *ends, step="post", zorder=2, **_HATCH)


def _line(ax: Any, edges: np.ndarray, values: np.ndarray) -> Any:
    from matplotlib.patheffects import withStroke

    # On a white ground, because any color may lie below.
    effects = [withStroke(linewidth=2.8, foreground="white")]
    style = {"color": "black", "linewidth": 1.3, "linestyle": "--", "path_effects": effects}
    return ax.stairs(values, edges, baseline=None, zorder=3, **style)


def _points(ax: Any, edges: np.ndarray, counts: np.ndarray, unit: np.ndarray) -> tuple[Any, np.ndarray]:
    """Counts in some unit as points with their interval; returns them and the upper ends of the bars."""
    lower, upper = poisson_interval(counts)
    known = unit > 0
    safe = np.where(known, unit, 1.0)
    y, low, high = (np.where(known, x / safe, np.nan) for x in (counts, lower, upper))
    middle = 0.5 * (edges[1:] + edges[:-1])
    style: dict[str, Any] = {"fmt": "o", "color": "black", "markersize": 4, "elinewidth": 1.1, "zorder": 4}
    return ax.errorbar(middle, y, yerr=(y - low, high - y), **style), high


# Ranges of the ratio panel, about 1, with their ticks.
_RANGES = ((0.28, (0.8, 1.0, 1.2)), (0.62, (0.5, 1.0, 1.5)), (1.0, (0.5, 1.0, 1.5)))


def _draw_ratio(ax: Any, panel: _Panel, stack: _Stack) -> None:
    bins, edges = panel.bins, panel.edges
    total = stack.total[bins]
    known = total > 0
    safe = np.where(known, total, 1.0)
    ax.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    away: list[np.ndarray] = [np.zeros(0)]
    if stack.error is not None:
        away.append(np.where(known, stack.error[bins] / safe, 0.0))
        _band(ax, edges, 1.0 - away[-1], 1.0 + away[-1])
    if stack.prefit is not None:
        ratio = np.where(known, stack.prefit[bins] / safe, np.nan)
        _line(ax, edges, ratio)
        away.append(np.abs(ratio[known] - 1.0))
    if stack.observed is not None:
        _points(ax, edges, stack.observed[bins], np.where(known, total, 0.0))
        away.append(np.abs(stack.observed[bins] / safe - 1.0)[known])
    largest = float(np.max(np.concatenate(away), initial=0.0))
    reach, ticks = next(((r, marks) for r, marks in _RANGES if 1.1 * largest <= r), _RANGES[-1])
    ax.set_ylim(1.0 - reach, 1.0 + reach)
    ax.set_yticks(ticks)
    if stack.observed is not None:
        _outside(ax, edges, np.where(known, stack.observed[bins] / safe, 1.0), reach)
    ax.set_xlim(edges[0], edges[-1])
    _mark_bins(ax, panel)
    ax.set_ylabel("Data / model" if stack.observed is not None else "Ratio", loc="center", fontsize=_style.SMALL)


def _outside(ax: Any, edges: np.ndarray, ratio: np.ndarray, reach: float) -> None:
    """Triangles at the edge of the panel for ratios beyond it."""
    middle = 0.5 * (edges[1:] + edges[:-1])
    for sign, marker in ((1.0, "^"), (-1.0, "v")):
        beyond = sign * (ratio - 1.0) > reach
        place = np.full(int(beyond.sum()), 1.0 + 0.88 * sign * reach)
        ax.plot(middle[beyond], place, marker=marker, color=_style.RED, markersize=5, linestyle="none", zorder=5)


def _mark_bins(ax: Any, panel: _Panel) -> None:
    """Ticks of the axis of bins: numbers in the middle of bins, or names of channels."""
    _style.dress(ax, minor="y" if panel.counted else "both")
    for border in panel.borders:
        ax.axvline(border, color=_style.GRAY, linewidth=0.8, linestyle="--", zorder=1.5)
    number = len(panel.bins)
    if panel.ticks:
        places, names = zip(*panel.ticks, strict=True)
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(names) > 1 else {}
        ax.set_xticks(places, names, fontsize=_style.SMALL, **turned)
        ax.tick_params(axis="x", length=0)
    elif panel.counted:
        marks = np.arange(1, number + 1, max(1, -(-number // 20))) if number > 1 else []
        ax.set_xticks(marks, [str(k) for k in marks])


def _legends(
    pairs: Sequence[tuple[Any, Any]], panels: Sequence[_Panel], drawn: Sequence[Any], kind: str, own: bool
) -> None:
    """What is drawn where, inside the upper axes; above them for several panels of our own."""
    handles, words = zip(*drawn[0][0], strict=True)
    options: dict[str, Any] = {"handles": handles, "labels": words, "fontsize": _style.SMALL, "frameon": False}
    above = own and len(pairs) > 1
    if above:
        pairs[0][0].figure.legend(loc="outside upper center", ncols=min(6, len(words)), **options)
    for k, ((main, _), panel, (_, top)) in enumerate(zip(pairs, panels, drawn, strict=True)):
        text = "\n".join(filter(None, [panel.title, kind]))
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
        artists = [main.annotate(text, (0.0, 1.0), xytext=(10, -10), linespacing=1.4, zorder=6, **place)]
        if k == 0 and not above:
            if panel.borders:  # a ground hides the lines between channels
                options |= {"frameon": True, "edgecolor": "none", "framealpha": 0.95}
            columns = 5 if panel.borders else 2 if len(words) <= 10 else 3
            artists.append(main.legend(loc="upper right", ncols=columns, columnspacing=1.2, **options))
        _style.keep_clear(main, artists, panel.edges[:-1], panel.edges[1:], top)


def poisson_interval(counts: Any, level: float = 0.6827) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of a Poisson mean for each count: lower and upper end.

    Counts need not be integers, so that Asimov data can be drawn.

    References:
        F. Garwood, Biometrika 28 (1936) 437.
    """
    from scipy.special import gammaincinv

    n = np.asarray(counts, dtype=float)
    tail = 0.5 * (1.0 - level)
    lower = np.where(n > 0, gammaincinv(np.where(n > 0, n, 1.0), tail), 0.0)
    return lower, gammaincinv(n + 1.0, 1.0 - tail)
