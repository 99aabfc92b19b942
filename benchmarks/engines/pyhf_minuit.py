"""pyhf with NumPy and Minuit: numerical derivatives, and the uncertainties from Hesse."""

import numpy as np

from benchmarks.engines import Case, Opened
from benchmarks.engines.pyhf_common import build, n_bins, report_fit

NEEDS = "pyhf"
VERSIONS = ("pyhf", "iminuit", "numpy", "scipy")


def open_engine(text: str, seed: int) -> Opened:
    """Open a workspace with pyhf on its NumPy backend."""
    import pyhf

    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer())
    model, data = build(text)
    point = np.asarray(model.config.suggested_init(), dtype=float)
    no_derivatives = "the NumPy backend has no derivatives"

    def fit():
        _, value, details = pyhf.infer.mle.fit(
            data, model, return_uncertainties=True, return_fitted_val=True, return_result_obj=True
        )
        return None, value, details

    cases = {
        "build": Case(lambda: build(text)),
        "compile": "compiles nothing",
        "nll": Case(lambda: -model.logpdf(point, data)[0], lambda r: {"objective": float(r)}),
        "gradient": no_derivatives,
        "nll_gradient": no_derivatives,
        "nll_gradient_jit": no_derivatives,
        "hessian": no_derivatives,
        "fit": Case(fit, report_fit),
        "fit_minimum": "same call as fit",
        "q0_gradient": no_derivatives,
        "batch_vmap": no_derivatives,
        "batch_map": no_derivatives,
    }
    return Opened(model.config.npars, n_bins(model), cases)
