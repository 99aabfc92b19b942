"""q: for upper limits on a signal that may be negative."""

from __future__ import annotations

from ._base import Statistic


class Q(Statistic):
    """``-2 ln lambda(mu)`` where mu-hat <= mu, else 0.

    References:
        arXiv:1007.1727, equation 14.
    """

    name = "q"
