"""Surrogates: how fast data sets are made, how accurate and how fast the surrogates are.

    python -m benchmarks.distill [--peer-python PATH] [--points 100000] [--cases speed,complex,tHu]

Writes ``benchmarks/results/distill.json``. The peer's loop over its own gradient is timed on fewer points and scaled;
the result says how many. All times are taken warm; what the first call costs (compilation, the fit) stands beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.client import ROOT, environment
from benchmarks.inference import path_of
from benchmarks.patch_set import write

FOLDER = Path(__file__).resolve().parent / "results"
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
CASES = ("speed", "memory", "complex", "tHu")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter that has NextStat; without it only ours is timed")
    parser.add_argument("--points", type=int, default=100_000, help="points of a data set (default: 100000)")
    parser.add_argument("--peer-points", type=int, default=1000, help="points that the peer is timed on")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of training (default: 100)")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated, of: %(default)s")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child process runs
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options)))
        return 0
    asked = options.cases.split(",")
    if unknown := set(asked) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    file = FOLDER / "distill.json"
    kept = json.loads(file.read_text()).get("cases", {}) if file.is_file() else {}
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions(*VERSIONS), "cases": kept}
    for case in asked:
        found = child(options, case, sys.executable)
        if case == "speed" and options.peer_python:
            peer_found = child(options, "peer", options.peer_python)
            again = child(options, case, sys.executable)
            found = {"ours": found, "ours_again": again, "nextstat": peer_found}
            if "microseconds_a_point" in peer_found:
                mine = [found[name]["microseconds_a_point"] for name in ("ours", "ours_again")]
                theirs = min(peer_found["microseconds_a_point"], peer_found["with_nll"])
                # The machine may be busy with other work: the fastest of each, and the least favorable pair.
                found["ratio_of_minima"], found["ratio_at_worst"] = theirs / min(mine), theirs / max(mine)
        result["cases"][case] = {**found, "load_average_after": machine.describe()["load_average"]}
        print(json.dumps({case: found}, indent=1))
        write(file, result)
    return 0


def child(options: argparse.Namespace, measure: str, python: str) -> dict:
    """What a fresh process measures."""
    command = [python, "-m", "benchmarks.distill", "--measure", measure, "--points", str(options.points)]
    command += ["--peer-points", str(options.peer_points), "--epochs", str(options.epochs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["died"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(run: Callable[[], Any], rounds: int = 3) -> tuple[float, float, Any]:
    """The first call, the fastest warm one, and the last result."""
    times, result = [], None
    for _ in range(rounds + 1):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:]), result


def speed(options: argparse.Namespace) -> dict:
    """A data set of tHu with gradients."""
    import nextstat_jax as nextstat
    from nextstat_jax.distill import generate_dataset

    model = nextstat.from_pyhf(path_of("tHu"))
    found = {}
    for method in ("gaussian", "uniform"):
        quiet = {"nonfinite": "keep", "run": nextstat.Run(progress=False)}
        first, warm, _ = seconds_of(partial(generate_dataset, model, options.points, method, **quiet), 2)
        found[method] = {"first_call": first, "seconds": warm}
    best = found["gaussian"]["seconds"]
    return {"points": options.points, **found, "microseconds_a_point": 1e6 * best / options.points}


def memory(options: argparse.Namespace) -> dict:
    """Peak memory of a data set, over what the process and its programs take, in units of the result."""
    import nextstat_jax as nextstat
    from nextstat_jax.distill import generate_dataset

    model = nextstat.from_pyhf(path_of("tHu"))
    generate_dataset(model, 10_000, "gaussian", run=nextstat.Run(progress=False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ds = generate_dataset(model, options.points, "gaussian", run=nextstat.Run(progress=False))
    assert ds.gradient is not None and ds.rates is not None
    size = ds.parameters.nbytes + ds.nll.nbytes + ds.gradient.nbytes + ds.rates.nbytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"points": options.points, "result_bytes": size, "peak_over_result": peak / size}


def peer(options: argparse.Namespace) -> dict:
    """A loop over NextStat's own gradient, through its documented Python interface."""
    import random

    import nextstat

    model = nextstat.from_pyhf(path_of("tHu").read_text())
    init = [float(x) for x in model.suggested_init()]
    draw = random.Random(1)
    points = [[x + 0.1 * draw.gauss(0, 1) for x in init] for _ in range(options.peer_points)]
    model.grad_nll(points[0])
    start = time.perf_counter()
    for point in points:
        model.nll(point)
        model.grad_nll(point)
    both = time.perf_counter() - start
    start = time.perf_counter()
    for point in points:
        model.grad_nll(point)
    alone = time.perf_counter() - start
    # The gradient alone is what is compared: a data set needs the NLL as well, which is left out in the peer's favor.
    scale = 1e6 / options.peer_points
    return {"points_timed": len(points), "microseconds_a_point": alone * scale, "with_nll": both * scale}


def small(options: argparse.Namespace) -> dict:
    """complex.json: the default recipe, the plain one in the same time and more, tests on new points."""
    import numpy as np

    import nextstat_jax as nextstat
    from nextstat_jax.distill import generate_dataset, train_mlp_surrogate, validate

    model = nextstat.from_pyhf(path_of("complex"))
    ds = generate_dataset(model, options.points, "profile", run=nextstat.Run(progress=False))
    box = generate_dataset(model, options.points, "sobol", run=nextstat.Run(progress=False))
    uniform = generate_dataset(model, 20_000, "uniform", seed=99, run=nextstat.Run(progress=False))
    found: dict[str, Any] = {"nll_spread": float(uniform.nll.std())}
    recipes = {
        "default": (ds, {"hidden_layers": (64, 64)}),
        "plain": (box, {"recipe": "plain", "batch_size": 4096, "lr": 1e-3}),
    }
    for name, (data, choices) in recipes.items():
        start = time.perf_counter()
        surrogate = train_mlp_surrogate(data, epochs=options.epochs, progress=False, **choices)
        seconds = time.perf_counter() - start
        error = np.asarray(surrogate.nll(uniform.parameters)) - uniform.nll
        found[name] = {"seconds": seconds, "rmse_uniform": float(np.sqrt(np.mean(error**2)))}
        if name == "default":
            checked = validate(surrogate, model, n=5000, near=10.0)
            found[name] |= {"measures": checked.measures, "passed": checked.passed, "near": checked.n_near}
            found[name]["serving"] = serving(surrogate, model, ds.parameters)
    found["ratio_of_rmse"] = found["plain"]["rmse_uniform"] / found["default"]["rmse_uniform"]
    return found


def large(options: argparse.Namespace) -> dict:
    """tHu.json around the fit."""
    import nextstat_jax as nextstat
    from nextstat_jax.distill import generate_dataset, train_mlp_surrogate, validate

    model = nextstat.from_pyhf(path_of("tHu"))
    ds = generate_dataset(model, options.points, "gaussian", run=nextstat.Run(progress=False))
    start = time.perf_counter()
    surrogate = train_mlp_surrogate(ds, hidden_layers=(256,), epochs=min(options.epochs, 30), progress=False)
    seconds = time.perf_counter() - start
    checked = validate(surrogate, model, n=5000, near=100.0)
    found = {"seconds": seconds, "measures": checked.measures, "near": checked.n_near, "passed": checked.passed}
    return {**found, "serving": serving(surrogate, model, ds.parameters)}


def serving(surrogate: Any, model: Any, points: Any) -> dict:
    """Nanoseconds a point: predictions, the network alone in float32, and the exact likelihood."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import nextstat_jax as nextstat
    from nextstat_jax.distill._core import network

    n = 1_000_000 if points.shape[1] < 50 else 200_000
    batch = jnp.asarray(points[np.arange(n) % len(points)])
    core = surrogate.members[0]
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(n, core.skip.shape[0])), jnp.float32)
    alone = jax.jit(lambda layers, x: jax.lax.map(lambda part: network(layers, part), x))
    chunks = inputs.reshape(-1, 2000, inputs.shape[1])
    exact = nextstat.batched(model.nll)
    runs = {
        "predict_nll": lambda: surrogate.nll(batch),
        "network": lambda: alone(core.layers, chunks),
        "exact": lambda: exact(batch),
    }
    times = {
        name: seconds_of(lambda run=run: jax.block_until_ready(run()), 2)[1] / n * 1e9 for name, run in runs.items()
    }
    return {"points": n, "device": jax.devices()[0].platform, "nanoseconds_a_point": times}


MEASURES: dict[str, Callable[[argparse.Namespace], dict]] = {
    "speed": speed,
    "memory": memory,
    "peer": peer,
    "complex": small,
    "tHu": large,
}

if __name__ == "__main__":
    sys.exit(main())
