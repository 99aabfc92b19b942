"""What the package says about a workspace: tests, limits, interval, ranking, and their pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import nextstat_jax as nextstat

from ._blobs import without_systematics
from ._pictures import save

_MOST_ROWS = 20
_MOST_PULLS = 40
_MOST_CHANNELS = 6
_MOST_REFITS = 1000
_LINEAR = 30.0
"""Yields of a channel that differ by a larger factor are drawn on a logarithmic axis."""
_REACH = 3.5
"""How far a scan goes on both sides, in units of the ends of the interval: a parabola reaches 12 there."""


def analyze(model: Any, out: Path) -> None:
    """Fit, test, print, and draw.

    Args:
        model: The model of a workspace; without a parameter of interest there is less to say.
        out: Folder of the pictures.
    """
    start = time.perf_counter()
    fit = nextstat.fit(model)
    print(_free_ones(model, fit))
    print(nextstat.goodness_of_fit(model), end="\n\n", flush=True)
    steps: dict[str, Callable[[Any, Any, Path], None]] = {
        "discovery": _discover,
        "profile likelihood": _profile,
        "limits": _exclude,
        "ranking": _rank,
    }
    if not model.poi:
        steps = {}
        print("The measurement names no parameter of interest: no tests, no interval, no limits, no ranking.")
    for what, step in {**steps, "pulls": _pulls, "correlations": _correlations, "distributions": _yields}.items():
        try:
            step(model, fit, out)
        except nextstat.FitError as error:
            print(f"{what}: skipped, {error}")
    print(f"({time.perf_counter() - start:.0f} s, most of it to compile)")


def _discover(model: Any, fit: Any, out: Path) -> None:
    del fit, out
    expected = np.clip(1.0, *np.asarray(model.parameter_bounds())[model.poi_index])
    print(nextstat.discovery(model, mu=expected), end="\n\n", flush=True)


def _profile(model: Any, fit: Any, out: Path) -> None:
    interval = nextstat.interval(model)
    print(interval, flush=True)
    points = _points(interval, np.asarray(model.parameter_bounds())[model.poi_index])
    # What to expect for a signal as predicted or for none, whichever the picture shows.
    mu = next((x for x in (1.0, 0.0) if points[0] <= x <= points[-1]), float(fit.mu))
    asimov = nextstat.asimov_data(model, params=fit.params, mu=mu)
    scans = {
        "Observed": nextstat.profile_scan(model, model.poi, points),
        "Systematics fixed": nextstat.profile_scan(without_systematics(model, fit.params), model.poi, points),
        f"Expected at {model.poi} = {mu:.3g}": nextstat.profile_scan(model, model.poi, points, data=asimov),
    }
    for label, scan in scans.items():
        if not scan.converged.all():
            print(f"{label.lower()}: {scan.message}")
    save(nextstat.plot.scan(scans, interval=interval), out / "profile_likelihood.png")


def _points(interval: Any, bounds: Float[np.ndarray, "2"]) -> Float[np.ndarray, " point"]:
    """Where to scan: around the best fit, inside the bounds."""
    best = float(interval.best)
    widths = [abs(float(x)) for x in (interval.error_minus, interval.error_plus)]
    known = [x for x in widths if np.isfinite(x)] or [max(0.3, 0.3 * abs(best))]
    minus, plus = (_REACH * (x if np.isfinite(x) else max(known)) for x in widths)
    return np.linspace(max(bounds[0], best - minus), min(bounds[1], best + plus), 41)


def _exclude(model: Any, fit: Any, out: Path) -> None:
    limit = nextstat.upper_limit(model)
    lower, upper = np.asarray(model.parameter_bounds())[model.poi_index]
    far = 1.1 * np.nanmax([*limit.expected.tolist(), float(limit.observed), abs(float(fit.mu)) + 1e-3])
    # Limits may lie beyond the bound.
    wide = model.replace_bounds(model.poi, upper=max(upper, far, 1.0))
    print(f"{nextstat.hypotest(wide, 1.0)}\n\n{limit}\n", flush=True)
    scan = nextstat.hypotest(wide, np.linspace(max(0.0, lower), far, 25))
    save(nextstat.plot.brazil(scan, limit=limit), out / "cls.png")


def _rank(model: Any, fit: Any, out: Path) -> None:
    why = ""
    if model.poi in fit.at_bound:
        why = "(from the covariance, as if there were no bound: a best fit on its bound hardly moves)"
    elif model.n_params > _MOST_REFITS:
        why = f"(from the covariance: four fits for each of {model.n_params} parameters would take long)"
    impacts = nextstat.interpret.impacts(model, method="linear" if why else "refit")
    print("\n".join(filter(None, [_first(repr(impacts), 12), why])))
    save(nextstat.plot.ranking(impacts), out / "ranking.png")
    first = nextstat.interpret.rank_impact(impacts, top_n=1)[0]["name"]
    save(nextstat.plot.contour(nextstat.contour(model, (model.poi, first))), out / "contour.png")


def _pulls(model: Any, fit: Any, out: Path) -> None:
    pulls = nextstat.pulls(model, fit)
    # Parameters with an index are the gammas, one for each bin, which say little each.
    others = [name for name in pulls.names if not name.endswith("]")]
    exclude = "*]" if len(pulls.names) > _MOST_PULLS and others else ()
    save(nextstat.plot.pulls(pulls, top_n=_MOST_PULLS, exclude=exclude), out / "pulls.png")


def _correlations(model: Any, fit: Any, out: Path) -> None:
    del model
    save(nextstat.plot.correlation(fit), out / "correlation.png")


def _yields(model: Any, fit: Any, out: Path) -> None:
    before, after = nextstat.yields(model), nextstat.yields(model, fit)
    channels = _channels(before)
    columns = 2 if len(channels) in (2, 4) else 3
    bins = [np.asarray(after.total)[after.channel_slices[name]] for name in channels]
    log = any(x.max() > _LINEAR * x.min() > 0 for x in bins)
    axes = nextstat.plot.distributions(after, channels=channels, prefit=before, columns=columns, log=log)
    save(axes, out / "distributions.png")


def _channels(yields: Any) -> list[str]:
    """Those where the signal is largest compared to the fluctuations of the whole, in the model's order."""
    signal = np.isin(yields.samples, yields.signals).astype(float) @ np.asarray(yields.channel_values)
    order = np.argsort(-signal / np.sqrt(np.maximum(yields.channel_total, 1e-9)), kind="stable")
    return [yields.channels[k] for k in sorted(order[:_MOST_CHANNELS])]


def _free_ones(model: Any, fit: Any) -> str:
    """The lines of a fit on parameters without a constraint; there are pictures of the others."""
    title, header, *lines = repr(fit).splitlines()
    free = [line for line, p in zip(lines, model.parameters(), strict=True) if p.constraint == "none" and not p.fixed]
    others = len(lines) - len(free)
    rest = [f"  and {others} with a constraint or fixed: see pulls.png"] if others else []
    return "\n".join([_first("\n".join([title, header, *free])), *rest])


def _first(text: str, most: int = _MOST_ROWS) -> str:
    """A table, cut where it gets long."""
    lines = text.splitlines()
    rest = [f"  and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *rest])
