"""pyhf with JAX and SciPy: gradients by automatic differentiation, SLSQP, no uncertainties."""

import numpy as np

from benchmarks.engines import Case, Opened
from benchmarks.engines.common import BATCH, points_near
from benchmarks.engines.pyhf_common import build, n_bins, report_fit

NEEDS = "pyhf"
VERSIONS = ("pyhf", "jax", "jaxlib", "numpy", "scipy")


def open_engine(text: str, seed: int) -> Opened:
    """Open a workspace with pyhf on its JAX backend in double precision."""
    import jax
    import jax.numpy as jnp
    import pyhf

    pyhf.set_backend("jax", pyhf.optimize.scipy_optimizer(), precision="64b")
    model, data = build(text)
    data = jnp.asarray(data)
    init = np.asarray(model.config.suggested_init(), dtype=float)
    point = jnp.asarray(init)
    points = jnp.asarray(points_near(model.config.par_names, init, BATCH, seed))

    def nll(params):
        return -model.logpdf(params, data)[0]

    value, gradient = jax.jit(nll), jax.jit(jax.grad(nll))
    both, hessian = jax.jit(jax.value_and_grad(nll)), jax.jit(jax.hessian(nll))
    batched = jax.jit(jax.vmap(jax.value_and_grad(nll)))
    wait = jax.block_until_ready

    def compile_again():
        return jax.jit(jax.value_and_grad(lambda p: nll(p))).lower(point).compile()

    def fit():
        return pyhf.infer.mle.fit(data, model, return_fitted_val=True, return_result_obj=True)

    cases = {
        "build": Case(lambda: build(text)),
        "compile": Case(compile_again, setup=jax.clear_caches),
        "nll": Case(lambda: wait(value(point)), _objective),
        "gradient": Case(lambda: wait(gradient(point))),
        "nll_gradient": Case(lambda: wait(both(point)), lambda r: _objective(r[0])),
        "nll_gradient_jit": "same call as nll_gradient",
        "hessian": Case(lambda: wait(hessian(point))),
        "fit": Case(fit, lambda r: {**report_fit(r), "note": "SciPy gives no uncertainties"}),
        "fit_minimum": "same call as fit",
        "q0_gradient": "cannot differentiate a profiled quantity",
        "batch_vmap": Case(lambda: wait(batched(points)), lambda r: _objective(r[0].sum()), units=BATCH),
        "batch_map": "has no chunked batches",
    }
    return Opened(model.config.npars, n_bins(model), cases)


def _objective(value) -> dict:
    return {"objective": float(value)}
