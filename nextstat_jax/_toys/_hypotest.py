"""``hypotest``: one door to tests with asymptotic distributions and with toys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike

from .._base._doors import no_type_check, one_of
from .._base._errors import FitError
from .._batches._run import Run, check_run
from .._inference._asymptotics import HypoTest, asymptotic_test
from .._model._base import Model
from ._tests import toy_test


@no_type_check
def hypotest(
    model: Model,
    mu: ArrayLike = 1.0,
    *,
    data: ArrayLike | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    test_stat: str = "qtilde",
    calculator: str = "asymptotic",
    n_toys: int | None = None,
    seed: int | None = None,
    first_toy: int | None = None,
    run: Run = Run(),
) -> HypoTest:
    """Tests values of the parameter of interest: CLs, CLsb and CLb, observed and expected.

    With toys the p-values are fractions of toys whose statistic is at least the observed one, and expected values are
    quantiles over the toys of the alternative. CLs has no value where none of these reaches the observed statistic
    (CLb = 0): it is NaN then, ``defined`` is False, and ``message`` says so.

    Args:
        model: A model with a parameter of interest.
        mu: Tested values, a number or shape (n_mu,), not below its lower bound. Several share what fits they can. Where
            one lies above its upper bound, as an upper limit may, that bound does not hold for any of the fits.
        data: As in ``fit``.
        fixed: Other parameters to hold, as in ``fit``.
        test_stat: ``"qtilde"`` for limits on signals that cannot be negative (a parameter of interest that may be
            negative is held at 0 or above), ``"q"`` for limits on signals that can, ``"q0"`` for discovery, with
            ``mu=0``: p0 is ``clsb`` then.
        calculator: ``"asymptotic"`` or ``"toys"``.
        n_toys: For toys, as what follows: how many of each hypothesis, for each tested value; 2000 by default.
        seed: As in ``fit_toys``; 0 by default.
        first_toy: Number of the first toy, 0 by default: a test can be extended with ``HypoTest.merge``.
        run: How the job runs.

    Returns:
        ``HypoTest``. With asymptotic distributions it is differentiable with respect to model, data and ``mu``; with
        toys it is not, and holds uncertainties and distributions as well.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes or data that are no counts.
        FitError: For values of ``mu`` that cannot be tested, unknown words, or options of toys without toys.

    Example:
        >>> import nextstat_jax as nextstat
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [52.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> test = nextstat.hypotest(model, 1.5)
        >>> round(float(test.cls), 6), [round(x, 6) for x in test.cls_expected.tolist()]
        (0.078121, [0.001791, 0.010344, 0.052381, 0.206349, 0.536122])

    References:
        arXiv:1007.1727, equations 12, 14 and 16 and section 3; CLs: J. Phys. G 28 (2002) 2693.
    """
    about: dict[str, Any] = {"data": data, "fixed": fixed, "test_stat": test_stat}
    toys: dict[str, Any] = {"n_toys": n_toys, "seed": seed, "first_toy": first_toy}
    given = {name: value for name, value in toys.items() if value is not None}
    given |= {} if check_run(run) == Run() else {"run": run}
    if one_of(calculator, ("asymptotic", "toys"), "calculator") == "toys":
        return toy_test(model, mu, **about, **given)
    if given:
        raise FitError(f"{next(iter(given))} is an option of toys: add calculator='toys'")
    return asymptotic_test(model, mu, **about)
