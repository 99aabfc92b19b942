"""Pictures of hypothesis tests: CLs against the signal strength, limits against masses, distributions of toys."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._base._errors import FitError
from .._minimize import _status
from . import _style


def brazil(
    hypotest_scan: Any,
    level: float = 0.05,
    ax: Any = None,
    limit: Any = None,
    *,
    log: bool = False,
    xlabel: str | None = None,
) -> Any:
    """CLs against the tested signal strength: observed, expected, and the bands of one and two standard deviations.

    Args:
        hypotest_scan: ``HypoTest`` of an array of mu.
        level: Where the horizontal line is drawn.
        ax: Axes to draw in; by default those of a new figure.
        limit: ``UpperLimit`` of the same test, whose observed and median values are marked.
        log: Whether CLs is drawn on a logarithmic axis.
        xlabel: Text for the axis of mu.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a test of a single mu, or a batch.
        MissingExtraError: If matplotlib is not installed.

    References:
        A. L. Read, J. Phys. G 28 (2002) 2693; arXiv:1007.1727, section 4.
    """
    _style.require(hypotest_scan, ("mu", "cls", "cls_expected"), "hypotest(model, mu) for an array of mu")
    mu = _style.numbers(hypotest_scan.mu, 1, "mu of the hypothesis test")
    observed = _style.numbers(hypotest_scan.cls, 1, "CLs")
    bands = _style.numbers(hypotest_scan.cls_expected, 2, "the expected CLs")
    _style.need_two(mu, "the hypothesis test")
    order = np.argsort(mu)
    mu, observed, bands = mu[order], observed[order], bands[order]
    ax = _style.axes_of(ax, (5.6, 4.4))
    _draw_bands(ax, mu, observed, bands, r"$\mathrm{CL_s}$", marker="o" if len(mu) <= 30 else None)
    ax.axhline(level, color=_style.RED, linewidth=1.2, zorder=2.5)
    if log:
        ax.set_yscale("log")
    values = bands[np.isfinite(bands) & (bands > 0)]
    ax.set_ylim(max(0.3 * np.min(values, initial=level), 1e-5) if log else 0.0, 1.05)
    ax.set_xlim(mu[0], mu[-1])
    _style.dress(ax)
    name = getattr(hypotest_scan, "parameter", "mu")
    ax.set_xlabel(_style.label_of(name, {name: xlabel} if xlabel else None), loc="right")
    ax.set_ylabel(r"$\mathrm{CL_s}$", loc="top")
    if limit is not None:
        _mark_limit(ax, limit, level)
    _style.legend_with_room(ax, *_style.pieces(mu, np.fmax(bands.max(axis=1), observed)))
    note = {"ha": "left", "va": "bottom", "color": _style.RED, "fontsize": _style.SMALL}
    ax.annotate(f"{level:g}", (mu[0], level), xytext=(4, 1.5), textcoords="offset points", **note)
    return ax


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


def _mark_limit(ax: Any, limit: Any, level: float) -> None:
    _style.require(limit, ("observed", "expected"), "upper_limit(model)")
    observed = float(_style.numbers(limit.observed, 0, "the limit"))
    median = float(_style.numbers(limit.expected, 1, "the expected limits")[2])
    bottom = ax.get_ylim()[0]
    for value, line, text in ((observed, "-", "Observed limit"), (median, "--", "Expected limit")):
        if np.isfinite(value):
            style = {"color": _style.RED, "linestyle": line, "linewidth": 1.2, "zorder": 2.5}
            ax.plot([value, value], [bottom, level], label=f"{text} {value:.3g}", **style)


def limits(
    x: Any,
    upper_limit: Any,
    ax: Any = None,
    *,
    xlabel: str = "Mass",
    ylabel: str | None = None,
    scale: Any = 1.0,
    reference: Any = None,
    reference_label: str | None = None,
    log: bool = False,
    observed: bool = True,
) -> Any:
    """Upper limits against a mass or another parameter of the signal.

    Args:
        x: Mass of each signal, shape (n,), in any order.
        upper_limit: ``UpperLimit`` with a leading axis of the same length.
        ax: Axes to draw in; by default those of a new figure.
        xlabel: Text for the axis of masses.
        ylabel: Text for the axis of limits; by default that of a limit on the signal strength.
        scale: What limits are multiplied with, scalar or shape (n,), for example cross-sections.
        reference: Predicted cross-sections, scalar or shape (n,), drawn as a line; 1 where there is no ``scale``.
        reference_label: Text for that line; by default, what it is.
        log: Whether the axis of limits is logarithmic.
        observed: Whether to draw the observed limits.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, or lengths that differ.
        MissingExtraError: If matplotlib is not installed.
    """
    x, found, bands = _limits_of(upper_limit, x=x)
    factor = np.broadcast_to(np.asarray(scale, dtype=float), x.shape)
    line = _reference(reference, scale, x)
    name = _style.label_of(getattr(upper_limit, "parameter", "mu"), None)
    order = np.argsort(x)
    x, found, bands = x[order], (found * factor)[order], (bands * factor[:, None])[order]
    ax = _style.axes_of(ax, (5.6, 4.4))
    _draw_bands(ax, x, found if observed else None, bands, "limit", marker="o" if len(x) <= 30 else None)
    top = np.fmax(bands.max(axis=1), found) if observed else bands.max(axis=1)
    if line is not None:
        line = line[order]
        ax.plot(
            x,
            line,
            color=_style.RED,
            linewidth=1.4,
            label=reference_label or (f"{name} = 1" if reference is None else "Prediction"),
            zorder=3.5,
        )
        top = np.fmax(top, line)
    if log:
        ax.set_yscale("log")
        lowest = np.nanmin(np.concatenate([bands.ravel(), *([] if line is None else [line])]))
        ax.set_ylim(0.5 * lowest, 1.5 * np.nanmax(top))
    else:
        ax.set_ylim(0.0, 1.08 * np.nanmax(top))
    ax.set_xlim(x[0], x[-1])
    _style.dress(ax)
    level = 100 * (1 - float(getattr(upper_limit, "level", 0.05)))
    ax.set_xlabel(xlabel, loc="right")
    ax.set_ylabel(ylabel or f"{level:g}% CL upper limit on {name}", loc="top")
    _style.legend_with_room(ax, *_style.pieces(x, top))
    return ax


def _limits_of(upper_limit: Any, **places: Any) -> tuple[np.ndarray, ...]:
    """Places and limits as arrays of one length."""
    _style.require(upper_limit, ("observed", "expected"), "upper_limit over a batch of models")
    found = _style.numbers(upper_limit.observed, 1, "the observed limit").astype(float)
    bands = _style.numbers(upper_limit.expected, 2, "the expected limits").astype(float)
    arrays = {name: np.asarray(place, dtype=float) for name, place in places.items()}
    for name, array in arrays.items():
        if array.shape != found.shape:
            raise FitError(f"{name} has shape {array.shape}, but there are {len(found)} limits")
    _style.need_two(found, "the limits")
    if not np.isfinite(bands).any():
        raise FitError("there is no finite limit to draw: see the message of the limits")
    return *arrays.values(), found, bands


def _reference(reference: Any, scale: Any, x: np.ndarray) -> np.ndarray | None:
    if reference is None:
        # A limit of 1 on the strength excludes the signal itself; with a scale only the user knows the prediction.
        if not (np.ndim(scale) == 0 and float(scale) == 1.0):
            return None
        reference = 1.0
    try:
        return np.broadcast_to(np.asarray(reference, dtype=float), x.shape).copy()
    except ValueError:
        raise FitError(f"reference has shape {np.shape(reference)}, but there are {len(x)} limits") from None


def exclusion(
    x: Any,
    y: Any,
    upper_limit: Any,
    ax: Any = None,
    *,
    xlabel: str = "Mass 1",
    ylabel: str = "Mass 2",
    numbers: bool = True,
) -> Any:
    """Excluded region of a plane of two masses.

    Curves where the interpolated limit on the signal strength is 1: signals on their side of smaller limits are
    excluded. The logarithm of the limit is interpolated linearly on triangles of neighboring signals.

    Args:
        x: First mass of each signal, shape (n,).
        y: Second mass.
        upper_limit: ``UpperLimit`` with a leading axis of the same length.
        ax: Axes to draw in; by default those of a new figure.
        xlabel: Text for the first mass.
        ylabel: Text for the second mass.
        numbers: Whether the observed limit of each signal is written beside its point.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, or lengths that differ.
        MissingExtraError: If matplotlib is not installed.
    """
    x, y, found, bands = _limits_of(upper_limit, x=x, y=y)
    ax = _style.axes_of(ax, (6.4, 5.0))
    level = 100 * (1 - float(getattr(upper_limit, "level", 0.05)))
    excluded = found < 1.0
    dots = {"linestyle": "none", "marker": "o", "markersize": 4, "zorder": 3}
    ax.plot(x[excluded], y[excluded], color="black", label=f"Excluded at {level:g}% CL", **dots)
    ax.plot(x[~excluded], y[~excluded], color="black", markerfacecolor="white", label="Not excluded", **dots)
    band = (np.min(bands[:, [1, 3]], axis=1), np.max(bands[:, [1, 3]], axis=1))
    expected = {"colors": "black", "linestyles": "--"}
    _edge(ax, x, y, bands[:, 2], "Expected limit", linewidths=1.8, **expected)
    for k, one in enumerate(band):
        _edge(
            ax,
            x,
            y,
            one,
            None if k else r"Expected $\pm 1\sigma$",
            linewidths=0.9,
            **{**expected, "colors": _style.BLUE},
        )
    _edge(ax, x, y, found, "Observed limit", linewidths=2.0, colors=_style.RED, linestyles="-")
    if numbers:
        for point in zip(x, y, found, strict=True):
            place = {"ha": "center", "va": "bottom", "fontsize": "xx-small", "color": _style.GRAY}
            text = f"{point[2]:.2g}" if point[2] < 99.5 else f"{point[2]:.0f}"
            ax.annotate(text, point[:2], xytext=(0, 3), textcoords="offset points", **place)
    ax.set_xlim(*_wider(x))
    ax.set_ylim(*_wider(y))
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


_STATISTICS = {"qtilde": r"$\tilde q_\mu$", "q": r"$q_\mu$", "q0": r"$q_0$"}


def toys(
    result: Any,
    ax: Any = None,
    *,
    mu: float | None = None,
    bins: Any = 40,
    log: bool = True,
    label: str | None = None,
) -> Any:
    """Distributions of a test statistic in pseudo-experiments of both hypotheses, with the observed value.

    Toys whose fits failed are left out, as they are from the p-values.

    Args:
        result: A hypothesis test that was made with toys.
        ax: Axes to draw in; by default those of a new figure.
        mu: Which of the tested values, for a test of several.
        bins: Number of bins, or their edges.
        log: Whether the axis of toys is logarithmic.
        label: Text for the axis of the statistic.

    Returns:
        The axes.

    Raises:
        FitError: For another kind of result, a value that was not tested, a batch, or if there are no toys.
        MissingExtraError: If matplotlib is not installed.
    """
    tested, observed, samples = _toys_of(result, mu)
    if not any(len(sample) for sample in samples):
        raise FitError("there are no toys to draw, or all their fits failed: see the message of the test")
    ax = _style.axes_of(ax, (5.6, 4.2))
    values = np.concatenate(samples)
    reach = max(float(values.max()), observed if np.isfinite(observed) else 0.0) * 1.05 or 1.0
    edges = np.asarray(bins, float) if np.ndim(bins) else np.linspace(min(0.0, float(values.min())), reach, bins + 1)
    name = _style.label_of(result.parameter, None)
    alternative = 1.0 if result.test_stat == "q0" else 0.0
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
    ax.set_xlabel(label or _STATISTICS[result.test_stat], loc="right")
    ax.set_ylabel("Fraction of toys / bin", loc="top")
    _style.legend_with_room(ax, edges[:-1], edges[1:], top)
    return ax


def _toys_of(result: Any, mu: float | None) -> tuple[float, float, list[np.ndarray]]:
    """Tested value, observed statistic, and the toys of the tested and of the other hypothesis."""
    _style.require(result, ("statistic", "distributions", "test_stat"), "hypotest(model, mu, calculator='toys')")
    made = result.distributions
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
