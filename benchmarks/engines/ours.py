"""This package."""

import json

import numpy as np

from benchmarks.engines import Case, Opened
from benchmarks.engines.common import BATCH, points_near, signal_sample, throw

NEEDS = "nextstat_jax"
VERSIONS = ("nextstat-jax", "jax", "jaxlib", "equinox", "jaxopt", "numpy")
# Larger chunks leave the processor's caches.
CHUNK = 32


def open_engine(text: str, seed: int) -> Opened:
    """Open a workspace with nextstat_jax."""
    import jax

    import nextstat_jax as nextstat

    model = nextstat.from_pyhf(text)
    init = np.asarray(model.parameter_init())
    point = jax.numpy.asarray(init)
    wait = jax.block_until_ready

    # As in a user's own jitted function. The model is an argument: one of the same structure reuses what is compiled.
    both = jax.jit(jax.value_and_grad(_nll, argnums=1))

    def compile_again():
        return jax.jit(jax.value_and_grad(lambda m, p: _nll(m, p), argnums=1)).lower(model, point).compile()

    cases = {
        "build": Case(lambda: wait(nextstat.from_pyhf(text))),
        "compile": Case(compile_again, setup=jax.clear_caches),
        "nll": Case(lambda: wait(model.nll(point)), _objective),
        "gradient": Case(lambda: wait(model.grad_nll(point))),
        "nll_gradient": Case(lambda: wait(model.nll_and_grad(point)), lambda r: _objective(r[0])),
        "nll_gradient_jit": Case(lambda: wait(both(model, point)), lambda r: _objective(r[0])),
        "hessian": Case(lambda: wait(model.hessian(point))),
        "fit": Case(lambda: wait(nextstat.fit(model)), _report_fit),
        "fit_minimum": "always computes the covariance",
        "q0_gradient": _q0_gradient(nextstat, model, json.loads(text), seed),
        **_batches(model, init, seed),
    }
    return Opened(int(model.n_params), int(model.n_bins), cases)


def _nll(model, params):
    return model.nll(params)


def _batches(model, init: np.ndarray, seed: int) -> dict[str, Case]:
    import jax

    points = jax.numpy.asarray(points_near(model.parameter_names(), init, BATCH, seed))
    at_once = jax.jit(jax.vmap(lambda m, p: m.nll_and_grad(p), in_axes=(None, 0)))
    in_chunks = jax.jit(lambda m, ps: jax.lax.map(m.nll_and_grad, ps, batch_size=CHUNK))

    def case(function) -> Case:
        def report(result) -> dict:
            return {"objective": float(result[0].sum()), "temporary_bytes": _memory(function, model, points)}

        return Case(lambda: jax.block_until_ready(function(model, points)), report, units=BATCH)

    return {"batch_vmap": case(at_once), "batch_map": case(in_chunks)}


def _memory(function, model, points) -> dict[str, int]:
    """Return XLA's temporary memory for batches of several sizes: flat is what it should be."""
    import jax

    sizes = {}
    for n_points in (BATCH // 4, BATCH, BATCH * 4):
        shape = jax.ShapeDtypeStruct((n_points, points.shape[1]), points.dtype)
        analysis = function.lower(model, shape).compile().memory_analysis()
        sizes[str(n_points)] = int(analysis.temp_size_in_bytes)
    return sizes


def _q0_gradient(nextstat, model, spec: dict, seed: int) -> Case | str:
    """Differentiate q0 with respect to the signal histogram, for toy data thrown at mu = 1."""
    import jax

    name, yields = signal_sample(spec)
    signal = jax.numpy.asarray(np.concatenate([yields[channel] for channel in model.channels if channel in yields]))
    toy = model.with_data(_toy(model, spec, seed))

    def q0(given, histogram):
        return nextstat.q0(given.with_templates({name: histogram}))

    function = jax.jit(jax.value_and_grad(q0, argnums=1))
    return Case(
        lambda: jax.block_until_ready(function(toy, signal)),
        lambda r: {"objective": float(r[0]), "note": f"signal of {len(yields)} channels"},
    )


def _toy(model, spec: dict, seed: int) -> np.ndarray:
    expected = np.array(model.expected_data(model.parameter_init()))
    sizes = {channel["name"]: len(channel["samples"][0]["data"]) for channel in spec["channels"]}
    start = 0
    for channel in model.channels:
        stop = start + sizes[channel]
        expected[start:stop] = throw(channel, expected[start:stop], seed)
        start = stop
    return expected


def _objective(value) -> dict:
    return {"objective": float(value)}


def _report_fit(result) -> dict:
    return {
        "objective": float(result.nll),
        "converged": bool(result.converged),
        "status": str(result.message),
        "n_iter": int(result.n_iter),
        "edm": float(result.edm),
    }
