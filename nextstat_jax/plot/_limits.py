"""Pictures of hypothesis tests: CLs against the signal strength, limits against masses, distributions of toys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base._checked import a_real, a_text, checked, levels, perhaps, reals
from .._base._doors import flag, integer, no_type_check, number
from .._base._errors import FitError
from .._inference._statistics import STATISTICS
from .._minimize import _status
from . import _checks, _style

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes

    from .._inference._asymptotics import HypoTest
    from .._inference._limits import UpperLimit


@checked(level=perhaps(levels), log=flag, xlabel=perhaps(a_text))
@no_type_check
def brazil(
    result: HypoTest,
    *,
    level: float | None = None,
    limit: UpperLimit | None = None,
    log: bool = False,
    xlabel: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """CLs against the tested signal strength: observed, expected, and the bands of one and two standard deviations.

    Args:
        result: ``HypoTest`` of an array of mu, asymptotic or with toys.
        level: Confidence level: the horizontal line is at one minus it. By default that of ``limit``, or 0.95.
        limit: ``UpperLimit`` of the same test, whose observed and median values are marked.
        log: Whether CLs is drawn on a logarithmic axis.
        xlabel: Text for the axis of mu.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a test of a single mu, a batch, or a level outside (0, 1).
        MissingExtraError: If matplotlib is not installed.

    References:
        A. L. Read, J. Phys. G 28 (2002) 2693; arXiv:1007.1727, section 4.
    """
    _checks.require(result, ("mu", "cls", "cls_expected", "parameter"), "hypotest(model, mu) for an array of mu")
    mu = _checks.numbers(result.mu, 1, "mu of the hypothesis test")
    observed = _checks.numbers(result.cls, 1, "CLs")
    bands = _checks.numbers(result.cls_expected, 2, "the expected CLs")
    _checks.need_two(mu, "the hypothesis test")
    order = np.argsort(mu)
    mu, observed, bands = mu[order], observed[order], bands[order]
    height = 1.0 - _level(level, limit)
    ax = _checks.axes_of(ax, (5.6, 4.4))
    _draw_bands(ax, mu, observed, bands, r"$\mathrm{CL_s}$", marker="o" if len(mu) <= 30 else None)
    ax.axhline(height, color=_style.RED, linewidth=1.2, zorder=2.5)
    if log:
        ax.set_yscale("log")
    values = bands[np.isfinite(bands) & (bands > 0)]
    ax.set_ylim(max(0.3 * np.min(values, initial=height), 1e-5) if log else 0.0, 1.05)
    ax.set_xlim(mu[0], mu[-1])
    _style.dress(ax)
    ax.set_xlabel(xlabel or _style.label_of(result.parameter), loc="right")
    ax.set_ylabel(r"$\mathrm{CL_s}$", loc="top")
    if limit is not None:
        _mark_limit(ax, limit, height)
    _style.legend_with_room(ax, *_style.pieces(mu, np.fmax(bands.max(axis=1), observed)))
    note: dict[str, Any] = {"ha": "left", "va": "bottom", "color": _style.RED, "fontsize": _style.SMALL}
    ax.annotate(f"{height:g}", (mu[0], height), xytext=(4, 1.5), textcoords="offset points", **note)
    return ax


_LIMIT = ("observed", "expected", "median", "level", "parameter")


def _level(level: Any, limit: Any) -> float:
    """The level that is asked for, that of the limit, or 0.95."""
    if limit is not None:
        _checks.require(limit, _LIMIT, "upper_limit(model)")
    chosen = level if level is not None else 0.95 if limit is None else limit.level
    return number(chosen, "level", 0.0, 1.0, hint=": a confidence level, such as 0.95")


def _draw_bands(
    ax: Any, x: np.ndarray, observed: np.ndarray | None, bands: np.ndarray, what: str, marker: str | None
) -> None:
    """Observed and median curves with the bands between columns 0 and 4, and 1 and 3."""
    if observed is not None:
        ax.plot(
            x, observed, color="black", marker=marker, markersize=3.5, linewidth=1.6, label=f"Observed {what}", zorder=4
        )
    ax.plot(x, bands[:, 2], color="black", linestyle="--", linewidth=1.6, label=f"Expected {what}", zorder=3)
    wide, narrow = (np.sort(bands[:, [k, 4 - k]], axis=1).T for k in (0, 1))
    ax.fill_between(x, *narrow, color=_style.GREEN, linewidth=0, label=r"Expected $\pm 1\sigma$", zorder=1.1)
    ax.fill_between(x, *wide, color=_style.YELLOW, linewidth=0, label=r"Expected $\pm 2\sigma$", zorder=1)


def _mark_limit(ax: Any, limit: Any, height: float) -> None:
    observed, median = (float(_checks.numbers(x, 0, "the limit")) for x in (limit.observed, limit.median))
    bottom = ax.get_ylim()[0]
    for value, line, text in ((observed, "-", "Observed limit"), (median, "--", "Expected limit")):
        if np.isfinite(value):
            style = {"color": _style.RED, "linestyle": line, "linewidth": 1.2, "zorder": 2.5}
            ax.plot([value, value], [bottom, height], label=f"{text} {value:.3g}", **style)


@checked(
    x=reals,
    xlabel=a_text,
    ylabel=perhaps(a_text),
    scale=reals,
    reference=perhaps(reals),
    reference_label=perhaps(a_text),
    log=flag,
    observed=flag,
)
@no_type_check
def limits(
    upper_limit: UpperLimit,
    x: ArrayLike | Sequence[float],
    *,
    xlabel: str = "Mass",
    ylabel: str | None = None,
    scale: ArrayLike = 1.0,
    reference: ArrayLike | None = None,
    reference_label: str | None = None,
    log: bool = False,
    observed: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Upper limits against a mass or another parameter of the signal.

    Args:
        upper_limit: ``UpperLimit`` of several signals: a leading axis of length n.
        x: Mass of each signal, shape (n,), in any order.
        xlabel: Text for the axis of masses.
        ylabel: Text for the axis of limits; by default that of a limit on the signal strength.
        scale: What limits are multiplied with, scalar or shape (n,), for example cross-sections.
        reference: Predicted cross-sections, scalar or shape (n,), drawn as a line; 1 where there is no ``scale``.
        reference_label: Text for that line; by default, what it is.
        log: Whether the axis of limits is logarithmic.
        observed: Whether to draw the observed limits.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, or lengths that differ.
        MissingExtraError: If matplotlib is not installed.
    """
    places, found, bands = _limits_of(upper_limit, x=x)
    factor = _along(scale, "scale", places)
    line = _reference(reference, scale, places)
    name = _style.label_of(upper_limit.parameter)
    order = np.argsort(places)
    at, found, bands = places[order], (found * factor)[order], (bands * factor[:, None])[order]
    ax = _checks.axes_of(ax, (5.6, 4.4))
    _draw_bands(ax, at, found if observed else None, bands, "limit", marker="o" if len(at) <= 30 else None)
    top = np.fmax(bands.max(axis=1), found) if observed else bands.max(axis=1)
    if line is not None:
        line = line[order]
        text = reference_label or (f"{name} = 1" if reference is None else "Prediction")
        ax.plot(at, line, color=_style.RED, linewidth=1.4, label=text, zorder=3.5)
        top = np.fmax(top, line)
    if log:
        ax.set_yscale("log")
        lowest = np.nanmin(np.concatenate([bands.ravel(), *([] if line is None else [line])]))
        ax.set_ylim(0.5 * lowest, 1.5 * np.nanmax(top))
    else:
        ax.set_ylim(0.0, 1.08 * np.nanmax(top))
    ax.set_xlim(at[0], at[-1])
    _style.dress(ax)
    ax.set_xlabel(xlabel, loc="right")
    ax.set_ylabel(ylabel or f"{100 * upper_limit.level:g}% CL upper limit on {name}", loc="top")
    _style.legend_with_room(ax, *_style.pieces(at, top))
    return ax


def _limits_of(upper_limit: Any, **places: Any) -> tuple[np.ndarray, ...]:
    """Places and limits as arrays of one length."""
    _checks.require(upper_limit, _LIMIT, "upper_limit over a batch of models")
    found = _checks.numbers(upper_limit.observed, 1, "the observed limit").astype(float)
    bands = _checks.numbers(upper_limit.expected, 2, "the expected limits").astype(float)
    arrays = {name: np.asarray(place, dtype=float) for name, place in places.items()}
    for name, array in arrays.items():
        if array.shape != found.shape:
            raise FitError(f"{name} has shape {array.shape}, but there are {len(found)} limits")
    _checks.need_two(found, "the limits")
    if not np.isfinite(bands).any():
        raise FitError("there is no finite limit to draw: see the message of the limits")
    return *arrays.values(), found, bands


def _reference(reference: Any, scale: Any, x: np.ndarray) -> np.ndarray | None:
    if reference is None:
        # A limit of 1 on the strength excludes the signal itself; with a scale only the user knows the prediction.
        if not (np.ndim(scale) == 0 and float(scale) == 1.0):
            return None
        reference = 1.0
    return _along(reference, "reference", x)


def _along(values: Any, what: str, x: np.ndarray) -> np.ndarray:
    """One number for each limit."""
    try:
        return np.broadcast_to(np.asarray(values, dtype=float), x.shape)
    except ValueError:
        raise FitError(f"{what} has shape {np.shape(values)}, but there are {len(x)} limits") from None


@checked(x=reals, y=reals, xlabel=a_text, ylabel=a_text, numbers=flag)
@no_type_check
def exclusion(
    upper_limit: UpperLimit,
    x: ArrayLike | Sequence[float],
    y: ArrayLike | Sequence[float],
    *,
    xlabel: str = "Mass 1",
    ylabel: str = "Mass 2",
    numbers: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Excluded region of a plane of two masses.

    Curves where the interpolated limit on the signal strength is 1: signals on their side of smaller limits are
    excluded. The logarithm of the limit is interpolated linearly on triangles of neighboring signals.

    Args:
        upper_limit: ``UpperLimit`` of several signals: a leading axis of length n.
        x: First mass of each signal, shape (n,).
        y: Second mass.
        xlabel: Text for the first mass.
        ylabel: Text for the second mass.
        numbers: Whether the observed limit of each signal is written beside its point.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, or lengths that differ.
        MissingExtraError: If matplotlib is not installed.
    """
    first, second, found, bands = _limits_of(upper_limit, x=x, y=y)
    ax = _checks.axes_of(ax, (6.4, 5.0))
    excluded = found < 1.0
    dots = {"linestyle": "none", "marker": "o", "markersize": 4, "zorder": 3}
    text = f"Excluded at {100 * upper_limit.level:g}% CL"
    ax.plot(first[excluded], second[excluded], color="black", label=text, **dots)
    ax.plot(first[~excluded], second[~excluded], color="black", markerfacecolor="white", label="Not excluded", **dots)
    band = (np.min(bands[:, [1, 3]], axis=1), np.max(bands[:, [1, 3]], axis=1))
    expected = {"colors": "black", "linestyles": "--"}
    _edge(ax, first, second, bands[:, 2], "Expected limit", linewidths=1.8, **expected)
    thin: dict[str, Any] = {"colors": _style.BLUE, "linestyles": "--", "linewidths": 0.9}
    for one, text in zip(band, (r"Expected $\pm 1\sigma$", None), strict=True):
        _edge(ax, first, second, one, text, **thin)
    _edge(ax, first, second, found, "Observed limit", linewidths=2.0, colors=_style.RED, linestyles="-")
    if numbers:
        for point in zip(first, second, found, strict=True):
            place: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": "xx-small", "color": _style.GRAY}
            text = f"{point[2]:.2g}" if point[2] < 99.5 else f"{point[2]:.0f}"
            ax.annotate(text, point[:2], xytext=(0, 3), textcoords="offset points", **place)
    ax.set_xlim(*_wider(first))
    ax.set_ylim(*_wider(second))
    _style.dress(ax)
    ax.set_xlabel(xlabel, loc="right")
    ax.set_ylabel(ylabel, loc="top")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=_style.SMALL)
    return ax


def _wider(x: np.ndarray) -> tuple[float, float]:
    """A range with room for points and their texts at both ends."""
    room = 0.07 * (float(x.max() - x.min()) or 1.0)
    return float(x.min()) - room, float(x.max()) + room


def _edge(ax: Any, x: np.ndarray, y: np.ndarray, limit: np.ndarray, label: str | None, **style: Any) -> None:
    """The curve where a limit is 1, if the signals enclose a piece of it."""
    known = np.isfinite(limit) & (limit > 0)
    x, y, height = x[known], y[known], np.log(limit[known])
    if len(x) < 3 or not height.min() < 0.0 < height.max():
        return
    if np.linalg.matrix_rank(np.stack([x - x[0], y - y[0]])) < 2:
        return  # all on one line, where there are no triangles
    ax.tricontour(x, y, height, levels=[0.0], zorder=2, **style)
    line = {"color": style["colors"], "linestyle": style["linestyles"], "linewidth": style["linewidths"]}
    ax.plot([], [], label=label, **line)


_SYMBOLS = {"qtilde": r"$\tilde q_\mu$", "q": r"$q_\mu$", "q0": r"$q_0$"}


@checked(mu=perhaps(a_real), log=flag, label=perhaps(a_text))
@no_type_check
def toys(
    result: HypoTest,
    *,
    mu: float | None = None,
    bins: int | ArrayLike = 40,
    log: bool = True,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Distributions of a test statistic in pseudo-experiments of both hypotheses, with the observed value.

    Toys whose fits failed are left out, as they are from the p-values.

    Args:
        result: A hypothesis test that was made with toys.
        mu: Which of the tested values, for a test of several.
        bins: Number of bins, or their edges.
        log: Whether the axis of toys is logarithmic.
        label: Text for the axis of the statistic.
        ax: Axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a value that was not tested, a batch, or if there are no toys.
        MissingExtraError: If matplotlib is not installed.
    """
    tested, observed, samples = _toys_of(result, mu)
    if not any(len(sample) for sample in samples):
        raise FitError("there are no toys to draw, or all their fits failed: see the message of the test")
    ax = _checks.axes_of(ax, (5.6, 4.2))
    values = np.concatenate(samples)
    reach = max(float(values.max()), observed if np.isfinite(observed) else 0.0) * 1.05 or 1.0
    if not isinstance(bins, int | np.integer):
        edges = np.asarray(reals(bins, "bins", FitError))
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise FitError(f"bins={bins!r:.60}: expected their number, or increasing edges")
    else:
        edges = np.linspace(min(0.0, float(values.min())), reach, integer(bins, "bins") + 1)
    name = _style.label_of(result.parameter)
    alternative = STATISTICS[result.test_stat].alternative
    top = np.zeros(len(edges) - 1)
    for sample, at, color in zip(samples, (tested, alternative), (_style.RED, _style.BLUE), strict=True):
        part = np.histogram(sample, edges)[0] / max(len(sample), 1)
        top = np.maximum(top, part)
        ax.stairs(part, edges, color=color, linewidth=1.6, label=f"{name} = {at:g} ({len(sample):,} toys)")
        ax.stairs(part, edges, color=color, fill=True, alpha=0.18, linewidth=0)
    if log:
        ax.set_yscale("log")
        ax.set_ylim(0.5 / max(map(len, samples)), 2.0 * max(top.max(), 1e-9))
    else:
        ax.set_ylim(0.0, 1.1 * top.max() or 1.0)
    if np.isfinite(observed):
        ax.axvline(observed, color="black", linewidth=1.6, linestyle="--", label=f"Observed {observed:.3g}")
    ax.set_xlim(edges[0], edges[-1])
    _style.dress(ax)
    ax.set_xlabel(label or _SYMBOLS.get(result.test_stat, _style.label_of(result.test_stat)), loc="right")
    ax.set_ylabel("Fraction of toys / bin", loc="top")
    _style.legend_with_room(ax, edges[:-1], edges[1:], top)
    return ax


def _toys_of(result: Any, mu: float | None) -> tuple[float, float, list[np.ndarray]]:
    """Tested value, observed statistic, and the toys of the tested and of the other hypothesis."""
    _checks.require(result, ("mu", "statistic", "test_stat"), "hypotest(model, mu, calculator='toys')")
    made: Any = getattr(result, "distributions", None)
    if made is None:
        raise FitError("an asymptotic test has no toys to draw: make it with calculator='toys'")
    tested, *places = (np.asarray(x) for x in (result.mu, result.statistic, made.signal, made.background))
    places += [np.asarray(x) == _status.CONVERGED for x in (made.signal_status, made.background_status)]
    if mu is not None:
        index = np.flatnonzero(np.isclose(np.atleast_1d(tested), mu))
        if len(index) == 0:
            there = ", ".join(f"{value:g}" for value in np.atleast_1d(tested))
            raise FitError(f"mu={mu!r} was not tested: {there}")
        if tested.ndim == 1:
            tested, *places = (x[index[0]] for x in (tested, *places))
    if tested.ndim:
        raise FitError(f"a test of {tested.size} values, or a batch: say which one with mu=")
    observed, *both, one_ok, other_ok = places
    pairs = zip(both, (one_ok, other_ok), strict=True)
    return float(tested), float(observed), [sample[ok & np.isfinite(sample)] for sample, ok in pairs]
