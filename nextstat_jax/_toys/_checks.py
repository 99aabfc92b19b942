"""What can be thrown, tested and returned: checks at the door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .._base._doors import as_vector, concrete, integer, scalar
from .._base._errors import FitError
from .._inference._asymptotics import check_tested
from .._inference._fit import fit
from .._inference._profile import profile
from .._inference._statistics import STATISTICS, Statistic
from .._likelihood._protocol import Likelihood
from .._model._base import Model, Subject, require_model
from .._model._model import HistFactoryModel
from ._results import QUANTITIES
from ._source import MAX_TOYS, Span


def check_model(model: Any) -> None:
    """Refuses what is no model, and a model inside ``jit`` or ``vmap``."""
    require_model(model)
    if not all(map(concrete, jax.tree.leaves(model.likelihood))):
        raise FitError("toys are run from the host, not inside jit, grad or vmap: call this with a concrete model")


def check_span(n_toys: Any, first_toy: Any) -> Span:
    """Numbers of the toys; ``FitError`` for what are none."""
    span = Span(integer(first_toy, "first_toy", 0), integer(n_toys, "n_toys"))
    if span.first + span.size > MAX_TOYS:
        raise FitError(f"toys are numbered below 2**31: for more than {MAX_TOYS - span.first} take another seed")
    return span


def check_seed(seed: Any) -> int:
    """A seed; ``FitError`` for what is none."""
    seed = integer(seed, "seed", 0)
    if seed >= 2**63:
        raise FitError(f"seed={seed}: expected an integer below 2**63")
    return seed


def check_quantities(quantities: Any) -> tuple[str, ...]:
    """Names of optional quantities, in a fixed order."""
    words = isinstance(quantities, Sequence) and all(isinstance(name, str) for name in quantities)
    if not words:
        raise FitError(f"quantities={quantities!r:.60}: expected some of {', '.join(map(repr, QUANTITIES))}")
    asked = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    for name in asked:
        if name not in QUANTITIES:
            raise FitError(f"quantities: there is no {name!r}; expected some of {', '.join(map(repr, QUANTITIES))}")
    return tuple(name for name in QUANTITIES if name in asked)


def check_mu_test(model: Model, about: Subject, statistic: Statistic | None, mu_test: Any) -> float | None:
    """The value at which conditional fits hold the parameter of interest, or None."""
    if statistic is None:
        return None if mu_test is None else float(scalar(mu_test, "mu_test", about.likelihood.dtype))
    if mu_test is None and statistic.tested is None:
        raise FitError(f"test_stat={statistic.name!r} needs the value to test: give mu_test")
    value = scalar(statistic.tested if mu_test is None else mu_test, "mu_test", about.likelihood.dtype)
    return float(check_tested(model, about, value, statistic, "mu_test"))


def check_statistic(name: Any) -> Statistic | None:
    """A test statistic by name, or None."""
    if name is not None and (not isinstance(name, str) or name not in STATISTICS):
        raise FitError(f"test_stat={name!r:.60}: expected one of {', '.join(map(repr, STATISTICS))}, or None")
    return None if name is None else STATISTICS[name]


def generating_point(model: Model, about: Subject, params: Any, mu: Any, data: Any, fixed: Any) -> np.ndarray:
    """The parameters that toys are thrown from, shape (n_params,).

    Raises:
        FitError: If they are not finite, predict a negative yield, or are to be fitted and the fit fails.
    """
    if mu is not None:
        model.require_poi()
        mu = float(scalar(mu, "mu", model.dtype))
    if params is not None:
        point = np.array(as_vector(params, model.n_params, "params", model.dtype))
        if mu is not None:
            point[model.require_poi()] = mu
    else:
        made = fit(model, data=data, fixed=fixed) if mu is None else profile(model, mu, data=data, fixed=fixed)
        if not made.converged:
            raise FitError(f"the fit that toys are to be thrown from failed ({made.message}): give params")
        point = np.array(made.params)
    check_point(model, about.likelihood, point)
    return point


def check_point(model: Model, likelihood: Likelihood, point: np.ndarray) -> None:
    """Refuses parameters that no counts can be thrown from."""
    names = model.parameter_names()
    if not np.isfinite(point).all():
        name = names[int(np.argmin(np.isfinite(point)))]
        raise FitError(f"params is not finite for {name}: give finite numbers to throw toys from")
    rates = np.asarray(_expected(likelihood, point))
    counts = _counts_of(model)
    bad = ~np.isfinite(rates)
    bad[counts] |= rates[counts] < 0
    if bad.any():
        k = int(np.argmax(bad))
        raise FitError(
            f"params predict {rates[k]:g} in {_place(model, k)}: toys need expected counts that are not negative"
        )


@jax.jit
def _expected(likelihood: Likelihood, point: Any) -> Any:
    return likelihood.expected(point)


def _counts_of(model: Model) -> np.ndarray:
    """Which entries of a data vector are known to be counts, as indices."""
    if not isinstance(model, HistFactoryModel):
        return np.zeros(0, int)
    s = model.likelihood.structure
    return np.concatenate([np.arange(s.n_bins), s.n_bins + s.poisson_aux])


def _place(model: Model, k: int) -> str:
    """An entry of a data vector in words."""
    if not isinstance(model, HistFactoryModel):
        return f"entry {k} of the data"
    s = model.likelihood.structure
    if k < s.n_bins:
        channel, place = next((c, k - b.start) for c, b in model.channel_slices.items() if b.start <= k < b.stop)
        return f"bin {place} of channel {channel}"
    which = [*s.poisson_aux, *s.normal_aux].index(k - s.n_bins)
    return f"auxiliary data of {model.names.parameters[[*s.poisson_params, *s.normal_params][which]]}"
