"""``hypotest``: one door to tests with asymptotic distributions and with toys."""

from __future__ import annotations

from typing import Any

from .._base._errors import FitError
from .._inference._asymptotics import HypoTest, asymptotic_test
from .._model._model import HistFactoryModel
from ._tests import toy_hypotest

TOY_OPTIONS = ("n_toys", "seed", "first_toy", "batch_size", "workers", "mesh", "executor", "progress")


def hypotest(
    model: HistFactoryModel,
    mu: Any = 1.0,
    data: Any = None,
    *,
    test_stat: str = "qtilde",
    calculator: str = "asymptotic",
    **toy_options: Any,
) -> HypoTest:
    """Tests values of the parameter of interest: CLs, CLsb and CLb, observed and expected.

    Args:
        model: A model with a parameter of interest.
        mu: Tested values inside its bounds, a number or shape (n_mu,). Several share what fits they can.
        data: As in ``fit``.
        test_stat: ``"qtilde"`` for limits on signals that cannot be negative (a parameter of interest that may be
            negative is held at 0 or above), ``"q"`` for limits on signals that can, ``"q0"`` for discovery, with
            ``mu=0``: p0 is ``clsb`` then.
        calculator: ``"asymptotic"`` or ``"toys"``.
        **toy_options: For toys: ``n_toys`` of each hypothesis (2000 by default), ``seed``, ``first_toy``,
            ``batch_size``, ``workers``, ``mesh``, ``executor`` and ``progress``, as in ``fit_toys``.

    Returns:
        ``HypoTest``, differentiable with respect to model, data and ``mu``; for toys ``ToyHypoTest``, which is not
        differentiable, and holds uncertainties and distributions as well.

    Raises:
        ModelError: Without a parameter of interest, or for wrong shapes or data that are no counts.
        FitError: For values of ``mu`` that cannot be tested, unknown options, or options of toys without toys.

    Example:
        >>> from nextstat_jax import from_pyhf
        >>> signal = {"name": "s", "data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
        >>> model = from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [signal, {"name": "b", "data": [50.0], "modifiers": []}]}],
        ...     "observations": [{"name": "SR", "data": [52.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> test = hypotest(model, 1.5)
        >>> round(float(test.cls), 6), [round(x, 6) for x in test.cls_expected.tolist()]
        (0.078121, [0.001791, 0.010344, 0.052381, 0.206349, 0.536122])

    References:
        arXiv:1007.1727, equations 12, 14 and 16 and section 3; CLs: J. Phys. G 28 (2002) 2693.
    """
    if calculator not in ("asymptotic", "toys"):
        raise FitError(f"calculator={calculator!r}: expected 'asymptotic' or 'toys'")
    if unknown := [name for name in toy_options if name not in TOY_OPTIONS]:
        raise FitError(f"hypotest has no option {unknown[0]!r}; those of toys are {', '.join(TOY_OPTIONS)}")
    if calculator == "toys":
        return toy_hypotest(model, mu, data, test_stat=test_stat, **toy_options)
    if toy_options:
        raise FitError(f"{next(iter(toy_options))} is an option of toys: add calculator='toys'")
    return asymptotic_test(model, mu, data, test_stat=test_stat)
