"""Sampling: delayed acceptance with a surrogate against NUTS on the exact likelihood.

    python -m benchmarks.sampling [--points 100000] [--epochs 100] [--draws 5000] [--chains 4]

Writes ``benchmarks/results/sampling.json``: for a model of 20 parameters, whether both posteriors are the same, how
many evaluations of the exact likelihood an effective draw costs, and times. Effective draws are those of the parameter
that has the fewest. An evaluation of NUTS is one with the gradient, and one of ours is without: both count as one. NUTS
starts around the best fit as well; it adapts a dense mass matrix, or a diagonal one, which is its default.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from benchmarks import machine
from benchmarks.patch_set import write

FOLDER = Path(__file__).resolve().parent / "results"
VERSIONS = ("jax", "jaxlib", "flax", "optax", "blackjax", "arviz", "numpy", "scipy")
# How often a comparison of equal posteriors may fail, all its parameters together.
FALSE_ALARM = 1e-3
# The defaults, and twice as many transitions of three steps each, which add up to trajectories of good length.
OURS = "ours"
# Whether the mass matrix is dense.
PEERS = {"nuts_dense": True, "nuts_diagonal": False}


def main(argv: Sequence[str] | None = None) -> int:
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000, help="points that the surrogate learns from")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of training (default: 100)")
    parser.add_argument("--draws", type=int, default=5000, help="draws of each chain (default: 5000)")
    parser.add_argument("--chains", type=int, default=4, help="chains (default: 4)")
    options = parser.parse_args(argv)
    result = {"machine": machine.describe(), "versions": machine.versions(*VERSIONS), **measure(options)}
    result["load_average_after"] = machine.describe()["load_average"]
    print(json.dumps(result, indent=1))
    write(FOLDER / "sampling.json", result)
    return 0


def twenty_parameters() -> dict[str, Any]:
    """A workspace of 20 parameters and 7 bins, some of low counts: its posterior is far from Gaussian.

    Signal strength, a free normalization, the luminosity, 6 normalizations, 4 shapes, 3 and 4 statistical factors.
    """

    def normsys(name: str, lo: float, hi: float) -> dict[str, Any]:
        return {"name": name, "type": "normsys", "data": {"lo": lo, "hi": hi}}

    def histosys(name: str, lo: list[float], hi: list[float]) -> dict[str, Any]:
        return {"name": name, "type": "histosys", "data": {"lo_data": lo, "hi_data": hi}}

    def free(name: str) -> dict[str, Any]:
        return {"name": name, "type": "normfactor", "data": None}

    def channel(name: str, samples: dict[str, tuple[list[float], list[Any]]]) -> dict[str, Any]:
        return {"name": name, "samples": [{"name": k, "data": x, "modifiers": m} for k, (x, m) in samples.items()]}

    lumi = {"name": "lumi", "type": "lumi", "data": None}
    scale, tune, tagging = normsys("scale", 0.85, 1.2), normsys("tune", 0.9, 1.15), normsys("tagging", 0.93, 1.05)
    search = {
        "signal": ([1.5, 2.5, 2.0], [
            free("mu"), lumi, tagging, normsys("theory", 0.8, 1.3),
            histosys("energy", [1.7, 2.4, 1.6], [1.3, 2.6, 2.5]),
        ]),
        "top": ([7.0, 3.0, 0.9], [
            free("k_top"), scale, tagging, histosys("energy", [7.6, 2.8, 0.7], [6.5, 3.3, 1.2]),
            histosys("resolution", [6.4, 3.1, 1.1], [7.5, 2.8, 0.8]),
            {"name": "mc_search", "type": "staterror", "data": [0.7, 0.5, 0.3]},
        ]),
        "other": ([2.0, 1.0, 0.4], [
            lumi, tune, normsys("rare", 0.6, 1.5), histosys("pileup", [1.8, 1.1, 0.5], [2.2, 0.9, 0.35]),
        ]),
    }  # fmt: skip
    control = {
        "top": ([60.0, 35.0, 15.0, 5.0], [
            free("k_top"), scale, tagging, tune, histosys("energy", [63.0, 34.0, 14.0, 4.2], [57.0, 36.0, 16.5, 6.0]),
            histosys("fragmentation", [56.0, 36.0, 16.0, 5.5], [63.0, 34.0, 14.0, 4.6]),
        ]),
        "other": ([12.0, 9.0, 6.0, 3.0], [
            lumi, normsys("misid", 0.7, 1.4), histosys("pileup", [11.0, 9.0, 6.5, 3.4], [13.0, 9.0, 5.6, 2.7]),
            {"name": "mc_control", "type": "shapesys", "data": [1.5, 1.5, 1.2, 0.9]},
        ]),
    }  # fmt: skip
    width = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.025], "inits": [1.0], "bounds": [[0.5, 1.5]]}
    return {
        "channels": [channel("search", search), channel("control", control)],
        "observations": [
            {"name": "search", "data": [11.0, 6.0, 3.0]},
            {"name": "control", "data": [77.0, 39.0, 23.0, 9.0]},
        ],
        "measurements": [{"name": "sampling", "config": {"poi": "mu", "parameters": [width]}}],
        "version": "1.0.0",
    }


class Run(NamedTuple):
    """Chains of one sampler.

    Attributes:
        params: Shape (n_chains, n_draws, n_params).
        warmup_evaluations: Exact evaluations before the draws that are kept.
        evaluations: Exact evaluations for these.
        divergent: Trajectories that diverged, for NUTS.
    """

    params: np.ndarray
    warmup_evaluations: int
    evaluations: int
    divergent: int = 0


@partial(jax.jit, static_argnums=(3, 4, 5))
def _nuts(density: Any, keys: Any, starts: Any, warmup: int, draws: int, dense: bool) -> Any:
    # Its annotations say less than it returns.
    blackjax: Any = import_module("blackjax")

    def one(key: Any, start: Any) -> Any:
        tuning, sampling = jax.random.split(key)
        adapt = blackjax.window_adaptation(
            blackjax.nuts,
            density,
            is_mass_matrix_diagonal=not dense,
            adaptation_info_fn=lambda _, info, __: info.num_integration_steps,
        )
        (state, tuned), spent = adapt.run(tuning, start, warmup)
        kernel = blackjax.nuts(density, **tuned)

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        _, (path, steps, divergent) = jax.lax.scan(step, state, jax.random.split(sampling, draws))
        return path, spent, steps, divergent

    return jax.vmap(one)(keys, starts)


def nuts(density: Any, draws: int, warmup: int = 1000, chains: int = 4, seed: int = 0, dense: bool = True) -> Run:
    """BlackJAX's NUTS with its window adaptation; each integration step is one evaluation with its gradient.

    The few evaluations of its search for a first step length are not counted.
    """
    key, spread = jax.random.split(jax.random.key(seed))
    starts = density.start + jax.random.normal(spread, (chains, len(density.start))) @ density.root.T
    path, spent, steps, divergent = _nuts(density, jax.random.split(key, chains), starts, warmup, draws, dense)
    return Run(np.asarray(density.params(path)), int(spent.sum()), int(steps.sum()), int(divergent.sum()))


def delayed(
    surrogate: Any, model: Any, draws: int, warmup: int = 200, chains: int = 4, **tuning: int
) -> tuple[Run, Any]:
    """``distill.sample``, and what it returned."""
    from nextstat_jax.distill import sample

    found = sample(surrogate, model, draws, n_chains=chains, n_warmup=warmup, **tuning)
    kept = chains * draws
    return Run(found.params, found.n_exact - kept, kept), found


def effective(params: np.ndarray, method: str = "bulk") -> np.ndarray:
    """Effective draws of each parameter, shape (n_params,), from draws of shape (n_chains, n_draws, n_params).

    ``"bulk"`` counts by ranks, as for means; ``"sd"`` for widths.
    """
    import arviz

    return np.array([float(arviz.ess(column, method=method)) for column in columns(params)])


def worst_rhat(params: np.ndarray) -> float:
    """The largest split R-hat of all parameters."""
    import arviz

    return max(float(arviz.rhat(column)) for column in columns(params))


def columns(params: np.ndarray) -> np.ndarray:
    """The draws by parameter, shape (n_params, n_chains, n_draws)."""
    return np.ascontiguousarray(np.moveaxis(params, -1, 0))


class Pulls(NamedTuple):
    """Differences of two samples in units of their Monte Carlo errors, each of shape (n_params,)."""

    means: np.ndarray
    widths: np.ndarray

    @property
    def worst(self) -> float:
        """The largest of all."""
        return float(np.abs([self.means, self.widths]).max())

    @property
    def threshold(self) -> float:
        """What the largest of so many normal deviates exceeds with the probability ``FALSE_ALARM``."""
        return float(norm.isf(FALSE_ALARM / (2 * (self.means.size + self.widths.size))))

    @property
    def agree(self) -> bool:
        """Whether the samples may be of one distribution."""
        return self.worst < self.threshold


def compare(one: np.ndarray, two: np.ndarray) -> Pulls:
    """Means and widths of two samples of shape (n_chains, n_draws, n_params)."""
    import arviz

    def pulls(kind: str, of: Callable[..., Any]) -> np.ndarray:
        first, second = ([float(arviz.mcse(column, method=kind)) for column in columns(x)] for x in (one, two))
        return (of(one, axis=(0, 1)) - of(two, axis=(0, 1))) / np.hypot(first, second)

    return Pulls(pulls("mean", np.mean), pulls("sd", np.std))


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the first call, compilation included, and of a warm one; the last result."""
    times, result = [], None
    for _ in range(3):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:]), result


def facts(run: Run, first: float, warm: float) -> dict[str, Any]:
    """What a sampler did, and what an effective draw cost."""
    least, total = float(effective(run.params).min()), run.warmup_evaluations + run.evaluations
    of_widths = float(effective(run.params, "sd").min())
    return {
        "chains": run.params.shape[0],
        "draws": run.params.shape[1],
        "rhat": worst_rhat(run.params),
        "divergent": run.divergent,
        "effective": least,
        "effective_for_widths": of_widths,
        "exact_evaluations": run.evaluations,
        "exact_evaluations_of_warmup": run.warmup_evaluations,
        "per_effective_draw": {
            "evaluations": run.evaluations / least,
            "evaluations_with_warmup": total / least,
            "evaluations_for_widths": run.evaluations / of_widths,
            "milliseconds": 1e3 * warm / least,
        },
        "seconds_of_first_call": first,
        "seconds": warm,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both samplers, warm, in this process."""
    import nextstat_jax as nextstat
    from nextstat_jax.distill import generate_dataset, log_density, train_mlp_surrogate

    model = nextstat.from_pyhf(twenty_parameters())
    first, warm, ds = timed(
        lambda: generate_dataset(
            model, options.points, "profile", include_gradient=False, run=nextstat.Run(progress=False)
        )
    )
    cost = {"points": options.points, "dataset_seconds_of_first_call": first, "dataset_seconds": warm}
    start = time.perf_counter()
    surrogate = train_mlp_surrogate(ds, hidden_layers=(64, 64), epochs=options.epochs, progress=False)
    cost["training_seconds"] = time.perf_counter() - start
    exact, draws, chains = log_density(model, surrogate), options.draws, options.chains
    first, warm, (run, found) = timed(lambda: delayed(surrogate, model, draws, chains=chains))
    kept = {OURS: run.params}
    runs = {OURS: {"acceptance": found.acceptance, **facts(run, first, warm)}}
    for name, dense in PEERS.items():
        first, warm, run = timed(lambda d=dense: nuts(exact, draws, chains=chains, dense=d))
        kept[name] = run.params
        runs[name] = facts(run, first, warm)
    return {
        "parameters": model.n_params,
        "bins": model.n_bins,
        "surrogate": cost,
        "microseconds_an_evaluation": speeds(exact, log_density(surrogate)),
        "runs": runs,
        "comparisons": {f"{OURS} and {b}": against(runs, kept, b, options.points) for b in PEERS},
    }


def against(runs: dict[str, Any], kept: dict[str, Any], other: str, points: int) -> dict[str, Any]:
    """Whether two samplers agree, and how much more one of them costs; above 1 is in favor of ours."""
    pulls = compare(kept[OURS], kept[other])
    one, two = runs[OURS]["per_effective_draw"], runs[other]["per_effective_draw"]
    return {
        "agree": pulls.agree,
        "threshold": pulls.threshold,
        "worst_pull_of_means": float(np.abs(pulls.means).max()),
        "worst_pull_of_widths": float(np.abs(pulls.widths).max()),
        "ratios": {name: two[name] / one[name] for name in one},
        # From here on the points that the surrogate learned from have paid for themselves.
        "break_even_effective_draws": points / (two["evaluations"] - one["evaluations"]),
    }


def speeds(exact: Any, approximate: Any, n: int = 50_000) -> dict[str, float]:
    """Microseconds of one evaluation, one after the other, as in a chain."""
    noise = np.random.default_rng(0).normal(size=(n, len(exact.start)))
    points = np.asarray(exact.start) + noise @ np.asarray(exact.root).T
    densities = {"exact": exact, "surrogate": approximate}
    programs = {"": _values, "_with_gradient": _slopes}
    return {
        name + kind: 1e6 / n * timed(lambda d=density, p=program: jax.block_until_ready(p(d, points)))[1]
        for name, density in densities.items()
        for kind, program in programs.items()
    }


@jax.jit
def _values(density: Any, points: Any) -> Any:
    return jax.lax.map(density, points)


@jax.jit
def _slopes(density: Any, points: Any) -> Any:
    return jax.lax.map(jax.value_and_grad(lambda z: density(z)), points)


if __name__ == "__main__":
    sys.exit(main())
