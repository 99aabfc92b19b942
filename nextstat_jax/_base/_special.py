"""Special functions of the host, from SciPy where the standard library has none of them."""

from __future__ import annotations

import math
import warnings
from functools import cache
from statistics import NormalDist
from typing import Any


@cache
def _scipy() -> Any:
    # A third of a second to import; and it adds a filter of warnings, which is not ours to add.
    with warnings.catch_warnings():
        import scipy.special
    return scipy.special


def ndtr(x: Any) -> Any:
    """Distribution function of the standard normal distribution, element by element."""
    return _scipy().ndtr(x)


def ndtri(p: Any) -> Any:
    """Its inverse."""
    return _scipy().ndtri(p)


def radius(level: float, dimensions: int) -> float:
    """How far from its center a standard normal distribution of one or two dimensions holds a probability."""
    outside = 1.0 - level
    return -NormalDist().inv_cdf(0.5 * outside) if dimensions == 1 else math.sqrt(-2.0 * math.log(outside))
