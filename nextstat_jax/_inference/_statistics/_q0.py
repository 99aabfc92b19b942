"""q0: for discovery."""

from __future__ import annotations

from ._base import Statistic


class Q0(Statistic):
    """``-2 ln lambda(0)`` where mu-hat >= 0, else 0.

    References:
        arXiv:1007.1727, equation 12.
    """

    name = "q0"
    zero_above = False
    zero_below = True
    tested = 0.0
    alternative = 1.0
    sets_limits = False
    reports = "clsb"
