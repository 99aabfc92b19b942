"""Many different small workspaces in one process: CPU seconds, memory and memory maps as their number grows.

    NEXTSTAT_JAX_CACHE=off python -m benchmarks.many_workspaces --count 300 --seed 0

Each workspace is fitted and tested (q0, CLs), and gets its upper limit and the interval of every parameter. Prints one
JSON object a line: after every ten workspaces, and in the end the mean CPU seconds of those after the first ten.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import nextstat_jax as nextstat


def random_workspace(rng: np.random.Generator, name: int) -> dict[str, Any]:
    """One to three channels of one to four bins, one signal and one to three backgrounds, modifiers of all types."""
    factors = [{"name": "mu", "type": "normfactor", "data": None}]
    backgrounds = [f"background {k} of {name}" for k in range(rng.integers(1, 4))]
    n_rates, n_shapes = rng.integers(0, 4), rng.integers(0, 3)
    channels, observations = [], []
    for channel in range(rng.integers(1, 4)):
        bins = rng.integers(1, 5)
        samples = [{"name": "signal", "data": rng.uniform(1.0, 8.0, bins).tolist(), "modifiers": list(factors)}]
        for sample in backgrounds:
            yields = rng.uniform(10.0, 60.0, bins)
            samples.append({"name": sample, "data": yields.tolist(), "modifiers": []})
        total = np.sum([sample["data"] for sample in samples[1:]], axis=0)
        _add_systematics(rng, samples, n_rates, n_shapes)
        _add_statistics(rng, samples, channel)
        channels.append({"name": f"channel {channel}", "samples": samples})
        observations.append({"name": f"channel {channel}", "data": rng.poisson(total + 2.0).astype(float).tolist()})
    return {
        "channels": channels,
        "observations": observations,
        "measurements": [{"name": "measurement", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def _add_systematics(rng: np.random.Generator, samples: list[dict], n_rates: int, n_shapes: int) -> None:
    for k in range(n_rates):
        for sample in samples:
            if rng.random() < 0.6:
                data = {"hi": 1.0 + rng.uniform(0.02, 0.2), "lo": 1.0 - rng.uniform(0.02, 0.2)}
                sample["modifiers"].append({"name": f"rate {k}", "type": "normsys", "data": data})
    for k in range(n_shapes):
        for sample in samples[1:]:
            yields = np.array(sample["data"])
            tilt = np.linspace(-1.0, 1.0, len(yields)) * rng.uniform(0.02, 0.15) + rng.uniform(-0.05, 0.05)
            data = {"hi_data": (yields * (1.0 + tilt)).tolist(), "lo_data": (yields * (1.0 - tilt)).tolist()}
            sample["modifiers"].append({"name": f"shape {k}", "type": "histosys", "data": data})


def _add_statistics(rng: np.random.Generator, samples: list[dict], channel: int) -> None:
    kind = rng.choice(["staterror", "shapesys", "nothing"])
    if kind == "nothing":
        return
    for sample in samples[1:] if kind == "staterror" else samples[-1:]:
        data = (np.array(sample["data"]) * rng.uniform(0.02, 0.15)).tolist()
        sample["modifiers"].append({"name": f"{kind} {channel}", "type": str(kind), "data": data})


def ask(workspace: dict[str, Any]) -> None:
    """What is asked of each."""
    model = nextstat.from_pyhf(workspace)
    nextstat.fit(model)
    nextstat.q0(model)
    nextstat.hypotest(model, 1.0)
    nextstat.upper_limit(model)
    for parameter in model.parameters():
        if not parameter.fixed:
            nextstat.interval(model, parameter.name)


def memory() -> dict[str, float]:
    """Memory maps and resident memory in GB, where the system tells."""
    try:
        maps = len(Path("/proc/self/maps").read_text().splitlines())
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"maps": maps, "resident_gb": round(kilobytes / 1e6, 2)}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(arguments.seed)
    spent = []
    for k in range(arguments.count):
        workspace = random_workspace(rng, k)
        before = time.process_time()
        ask(workspace)
        spent.append(time.process_time() - before)
        if k % 10 == 9:
            row = {"workspaces": k + 1, "cpu_s_each": round(float(np.mean(spent[-10:])), 2), **memory()}
            print(json.dumps(row), flush=True)
    if len(spent) > 10:
        after = np.array(spent[10:])
        print(
            json.dumps({"after_the_first_ten": {"mean": round(after.mean(), 2), "median": round(np.median(after), 2)}})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
