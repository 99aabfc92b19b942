"""pyhf behind a few functions that keep its traps and its warnings away from the tests."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyhf
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def pyhf_model(
    workspace: dict[str, Any],
    measurement: int = 0,
    *,
    normsys: str = "code4",
    histosys: str = "code4p",
    **clips: float | None,
) -> tuple[pyhf.Model, Vector]:
    """A pyhf model and its observed data (main, then auxiliary).

    Both interpolation codes are always passed: pyhf lets the type that goes unnamed fall back to another default.
    """
    pyhf.set_backend("numpy", precision="64b")
    settings = {"normsys": {"interpcode": normsys}, "histosys": {"interpcode": histosys}}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", "jsonschema.RefResolver", DeprecationWarning)  # pyhf's validation uses it
        opened = pyhf.Workspace(workspace)
        model = opened.model(measurement_index=measurement, modifier_settings=settings, **clips)
        return model, np.asarray(opened.data(model), dtype=np.float64)


def pyhf_logpdf(model: pyhf.Model, params: Vector, data: Vector) -> float:
    """pyhf's log-density; NaN and infinities come back without a warning."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.asarray(model.logpdf(np.asarray(params), data))[0])


def pyhf_expected(model: pyhf.Model, params: Vector) -> Vector:
    """pyhf's expected data, main and auxiliary."""
    with np.errstate(all="ignore"):
        return np.asarray(model.expected_data(np.asarray(params)), dtype=np.float64)
