"""Special functions of the host. SciPy adds a filter of warnings when they are imported, which is not ours to add."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    from scipy.special import chdtri, ndtr, ndtri

__all__ = ["chdtri", "ndtr", "ndtri"]
