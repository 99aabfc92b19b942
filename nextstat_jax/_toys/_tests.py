"""Hypothesis tests whose distributions are made of pseudo-experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .._base._doors import no_type_check
from .._batches._run import Run, check_run
from .._inference._asymptotics import HypoTest, check_tested
from .._inference._driver import ask
from .._inference._points import Points
from .._inference._question import Course, question
from .._inference._result import static
from .._inference._rows import Facts, facts_of
from .._inference._search import judged
from .._inference._statistics import STATISTICS, statistic_of
from .._likelihood._common import Common
from .._minimize import _status
from .._model._base import Model, lifted, subject
from ._checks import check_model, check_point, check_seed, check_span
from ._distributions import ToyDistributions, evaluate
from ._fits import PAIR, ToyRecord
from ._runs import Task, make_plan, records
from ._source import Source, Span, fold, key_data, spans

# The key of the toys of the alternative: no toy has a number as high.
_ALTERNATIVE = 2**32 - 1


@question
class Hypotheses(Points):
    """The test of observed data, and the conditional fits that its toys are thrown from.

    The first point is the alternative, the others are the tested values.
    """

    statistic: str = static()

    def answer(self, facts: Facts, course: Course) -> tuple[Array, ...]:
        """Conditional best fits, shape (1 + n_mu, n_params); of each tested value statistic, mu-hat and status."""
        free, minima = course.first.found.minimum, course.state.found.minimum
        gap, mu_hat = minima.value[1:] - free.value, free.y[self.where[0]]
        statistic = STATISTICS[self.statistic].of(gap, mu_hat, jnp.asarray(self.values)[1:, 0])
        status = judged(_status.worst(minima.status[1:], free.status, minima.status[0]), -gap)
        return minima.y, statistic, jnp.broadcast_to(mu_hat, gap.shape), status, course.above

    def narrowed(self, common: Common, answer: Any) -> Any:
        """The best fits are over parameters."""
        return common.narrowed(answer[0]), *answer[1:]


@no_type_check
def toy_test(
    model: Model,
    mu: ArrayLike = 1.0,
    *,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    test_stat: str = "qtilde",
    n_toys: int = 2000,
    seed: int = 0,
    first_toy: int = 0,
    run: Run = Run(),
) -> HypoTest:
    """``hypotest`` with ``calculator="toys"``; arguments as there.

    The toys of the tested hypothesis are thrown from the conditional fit to the data at ``mu``, those of the
    alternative from the one at 0 (at 1 for ``"q0"``), as in pyhf. All tested values share the background-only data
    sets, so that a scan is smooth.

    References:
        ATL-PHYS-PUB-2011-11, section 3 (frequentist toys); CLs: J. Phys. G 28 (2002) 2693.
    """
    check_model(model)
    check_run(run)
    statistic = statistic_of(test_stat)
    about = subject(model, data, fixed, free_poi=True, tilde=statistic.bounded)
    mu = np.asarray(check_tested(model, about, mu, statistic, above=True))
    about = lifted(about, mu)
    span, seed = check_span(n_toys, first_toy), check_seed(seed)
    values = mu.reshape(-1)
    points = np.concatenate([np.asarray([statistic.alternative], values.dtype), values])
    asked = Hypotheses(np.atleast_1d(about.place), points[:, None], test_stat)
    points, *observed, above = ask(asked, facts_of(about)).answer
    generating = np.asarray(points)
    for point in generating:
        check_point(model, about.likelihood, point)
    plan, chunk = make_plan(about.likelihood, PAIR, run, statistic=test_stat)
    tasks = _tasks(_sources(values, generating, about.place, seed), span, chunk)
    found = [record for _, record in records(about.likelihood, plan, tasks, run, 2 * len(values) * span.size)]
    distributions = _collect(found, jnp.asarray(mu), (seed, span.first, span.size), test_stat)
    q, mu_hat, status = (x.reshape(mu.shape) for x in observed)
    return evaluate(distributions, q, mu_hat, status, above, about.poi_name)


def _sources(values: np.ndarray, points: np.ndarray, poi: Any, seed: int) -> list[Source]:
    """For each tested value the source of its hypothesis, then that of the alternative."""
    key = key_data(seed)
    other = fold(key, _ALTERNATIVE)
    pairs = (((point, key), (points[0], other)) for point in points[1:])
    return [Source(*where, poi, value) for value, pair in zip(values, pairs, strict=True) for where in pair]


def _tasks(sources: Sequence[Source], span: Span, size: int) -> Iterator[Task]:
    return (Task(source, part) for source in sources for part in spans(span, size))


def _collect(found: Sequence[ToyRecord], mu: Array, block: tuple[int, int, int], test_stat: str) -> ToyDistributions:
    shape = (*mu.shape, 2, block[2])
    statistics = np.concatenate([record.statistic for record in found]).reshape(shape)
    statuses = np.concatenate([record.status for record in found]).reshape(shape)
    parts = [jnp.asarray(x[..., k, :]) for x in (statistics, statuses) for k in (0, 1)]
    return ToyDistributions(mu, *parts, blocks=(block,), test_stat=test_stat)
