"""The test statistics, each in one file.

Adding one means adding a file and its line in the registry: tests, limits and toys read the registry.

It must not know: how fits are made, models, results.
"""

from ..._base._doors import one_of
from ._base import Statistic, one_sided
from ._q import Q
from ._q0 import Q0
from ._qtilde import QTilde

STATISTICS: dict[str, Statistic] = {statistic.name: statistic for statistic in (QTilde(), Q(), Q0())}
# How many standard deviations the alternative fluctuates in the five expected results: the first excludes most.
BANDS = (-2, -1, 0, 1, 2)


def statistic_of(name: object) -> Statistic:
    """A test statistic by name; ``FitError`` for an unknown one."""
    return STATISTICS[one_of(name, tuple(STATISTICS), "test_stat")]


__all__ = ["BANDS", "STATISTICS", "Statistic", "one_sided", "statistic_of"]
