"""What the demonstration prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._training import Evaluation

_MOST_ROWS = 40
_AXIS = 3.0
"""The drawing of a pull spans so many standard deviations on both sides."""


def fit_table(model: Any, fit: Any) -> str:
    """Best-fit parameters: free ones first, then those with a constraint, the largest pull on top.

    The pull is (best fit - nominal) / (uncertainty before the fit). The column beside it is the uncertainty after the
    fit in units of that before: below 1, the data constrain the parameter.
    """
    before = prior_widths(model)
    nominal, values, widths = (np.asarray(x) for x in (model.parameter_init(), fit.params, fit.uncertainties))
    aux = np.where(before > 0, nominal, np.nan)
    pulls = (values - aux) / np.where(before > 0, before, np.nan)
    free = [i for i in range(len(values)) if not before[i] > 0 and widths[i] > 0]
    constrained = [i for i in range(len(values)) if before[i] > 0]
    constrained.sort(key=lambda i: -abs(pulls[i]))
    shown = constrained[: max(0, _MOST_ROWS - len(free))]
    names = fit.parameter_names
    size = max([len(names[i]) for i in free + shown] + [9])
    ruler = f"{-_AXIS:+.0f}" + "0".center(2 * _CELLS - 3) + f"{_AXIS:+.0f}"
    lines = [f"{'parameter':<{size}}  {'best fit':>9}   {'uncertainty':<11} {'pull':>6} {'after/before':>12}   {ruler}"]
    for i in free:
        lines.append(f"{names[i]:<{size}}  {values[i]:>9.4g} ± {widths[i]:<11.3g} {'free':>6}")
    for i in shown:
        shrunk = widths[i] / before[i]
        numbers = f"{values[i]:>9.4g} ± {widths[i]:<11.3g} {pulls[i]:>+6.2f} {shrunk:>12.2f}"
        lines.append(f"{names[i]:<{size}}  {numbers}   {_draw_pull(pulls[i], shrunk)}")
    hidden = constrained[len(shown) :]
    if hidden:
        lines.append(f"and {len(hidden)} more with pulls below {abs(pulls[hidden[0]]):.2f}")
    return "\n".join(lines)


def yield_table(model: Any, fit: Any) -> str:
    """Events of each channel: observed, expected before the fit and after it."""
    observed = np.asarray(model.observed_data)[: model.n_bins]
    before = np.asarray(model.expected_data(model.parameter_init(), include_auxdata=False))
    after = np.asarray(model.expected_data(fit.params, include_auxdata=False))
    size = max([len(c) for c in model.channels] + [7])
    lines = [f"{'channel':<{size}}  {'bins':>4} {'observed':>10} {'before fit':>11} {'after fit':>10}"]
    start = 0
    for channel, n in zip(model.channels, model.names.channel_bins, strict=True):
        rows = slice(start, start + n)
        start += n
        lines.append(
            f"{channel:<{size}}  {n:>4} {observed[rows].sum():>10.0f} {before[rows].sum():>11.1f} "
            f"{after[rows].sum():>10.1f}"
        )
    return "\n".join(lines)


def comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Significance and precision of the networks, with and without systematics."""
    labels = {"cross_entropy": "cross-entropy", "significance": "-Z0, shift profiled"}
    lines = [f"{'network trained on':<22} {'Z0':>6} {'Z0, no syst.':>13}   {'mu':<13} {'mu, no syst.':<13}"]
    for name, label in labels.items():
        e = evaluations[name]
        mu, mu_fixed = (f"{float(f.mu):.2f} ± {float(f.mu_uncertainty):.2f}" for f in (e.fit, e.fit_fixed))
        lines.append(f"{label:<22} {e.z0:>6.2f} {e.z0_fixed:>13.2f}   {mu:<13} {mu_fixed:<13}")
    return "\n".join(lines)


def prior_widths(model: Any) -> np.ndarray:
    """Uncertainty of each parameter before the fit, shape (n_params,); 0 for free and fixed parameters."""
    likelihood = model.likelihood
    structure = likelihood.structure
    widths = np.zeros(model.n_params)
    widths[structure.normal_params] = np.asarray(likelihood.widths)
    widths[structure.poisson_params] = 1.0 / np.sqrt(np.asarray(likelihood.tau))
    return np.where(np.asarray(likelihood.frozen) > 0, 0.0, widths)


_CELLS = 12


def _draw_pull(pull: float, width: float) -> str:
    """A line like ``----o----`` for the uncertainty around the pull, on an axis from -3 to 3."""
    cells = np.full(2 * _CELLS + 1, " ")
    cells[_CELLS] = "|"
    low, middle, high = (round(_CELLS * (1 + x / _AXIS)) for x in (pull - width, pull, pull + width))
    for k in range(max(low, 0), min(high, 2 * _CELLS) + 1):
        cells[k] = "-"
    if 0 <= middle <= 2 * _CELLS:
        cells[middle] = "o"
    else:
        cells[0 if middle < 0 else -1] = "<" if middle < 0 else ">"
    return "".join(cells).rstrip()
