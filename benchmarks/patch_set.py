"""A patch set of 40 signal points: CLs at mu = 1, observed and expected, and limits, for all of them.

    python -m benchmarks.patch_set [--points 3] [--rounds 5]

Compares a stack of models with a loop over single calls and with loops over pyhf. Every way runs in a process of its
own and starts from the files. Of the slow ones a few points, spread over the grid, are timed and scaled to all: the
result says which. Writes ``benchmarks/results/patch_set.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.client import ROOT, environment

RESULT = Path(__file__).resolve().parent / "results" / "patch_set.json"
PARTS = ("SUSY-2018-31A_background_only", "SUSY-2018-31A_patchset")
VERSIONS = ("jax", "jaxlib", "equinox", "numpy", "scipy", "pyhf", "iminuit")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patch_set", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=3, help="points that slow ways are timed on (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="warm repetitions of our own (default: 5)")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated, of: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULT, help="where to write the result")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child process runs
    options = parser.parse_args(argv)
    if options.points < 1 or options.rounds < 1:
        parser.error("--points and --rounds have to be positive")
    if options.measure:
        print(json.dumps(WAYS[options.measure](options)))
        return 0
    if unknown := set(options.ways.split(",")) - set(WAYS):
        parser.error(f"unknown ways: {', '.join(sorted(unknown))}; choose from {', '.join(WAYS)}")
    if missing := [path for path in paths() if not path.is_file()]:
        parser.error(f"there is no {missing[0]}; point NEXTSTAT_JAX_WORKSPACES at a folder that has it")
    before = machine.describe()
    ways = {way: measure(way, options) for way in options.ways.split(",")}
    result = {
        "machine": before,
        "versions": machine.versions(*VERSIONS),
        "load_average_after": machine.describe()["load_average"],
        "ways": ways,
        "comparison": comparison(ways),
        "largest_difference_of_cls": differences(ways),
    }
    print(table(result["comparison"]))
    write(options.output, result)
    return 0


def measure(way: str, options: argparse.Namespace) -> dict:
    """What a way reports, from a fresh process."""
    print(f"{way} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.patch_set", "--measure", way]
    command += ["--points", str(options.points), "--rounds", str(options.rounds)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["died"])[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": time.perf_counter() - started}


def paths() -> tuple[Path, Path]:
    """The background-only workspace and the patch set."""
    folder = Path(os.environ.get("NEXTSTAT_JAX_WORKSPACES", ROOT.parent / "shared" / "workspaces"))
    background, patches = (folder / f"{part}.json" for part in PARTS)
    return background, patches


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def spread(n: int, points: int) -> list[int]:
    """Positions of some points, evenly spread over the grid."""
    return sorted({round((k + 0.5) * n / points - 0.5) for k in range(min(points, n))})


# Ways to get the numbers of all points; each runs in a fresh process.


def by_stack(options: argparse.Namespace) -> dict:
    """Ours: one stack for all points."""
    start = time.perf_counter()
    import jax

    from nextstat_jax import stack_patches

    imported = time.perf_counter() - start
    read, stack = timed(lambda: stack_patches(*paths()))
    runs = {}
    for name, run in (("hypotest", lambda: stack.hypotest(1.0)), ("upper_limit", stack.upper_limit)):
        cold, result = timed(lambda run=run: jax.block_until_ready(run()))
        warm = [timed(lambda run=run: jax.block_until_ready(run()))[0] for _ in range(options.rounds)]
        runs[name] = {
            "cold_seconds": cold,
            "warm_seconds": warm,
            "warm_median": statistics.median(warm),
            "converged": bool(result.converged.all()),
        }
    return {
        "n_points": len(stack),
        "n_groups": stack.n_groups,
        "import_seconds": imported,
        "read_seconds": read,
        **runs,
        "cls": stack.hypotest(1.0).cls.tolist(),
    }


def by_single_calls(options: argparse.Namespace) -> dict:
    """Ours: a model and a test for each point, the first of them in a fresh process."""
    start = time.perf_counter()
    import jax

    import nextstat_jax as nextstat
    from nextstat_jax import hypotest

    imported = time.perf_counter() - start
    background, patches = paths()

    def point(patch: Any) -> Any:
        return jax.block_until_ready(hypotest(nextstat.from_pyhf(background, patch=patch), 1.0))

    reading, grid = timed(lambda: nextstat.PatchSet.read(patches))
    cold, _ = timed(lambda: point(grid.patches[0]))
    warm_reading, models = timed(lambda: [nextstat.from_pyhf(background, patch=patch) for patch in grid])
    warm, results = timed(lambda: [jax.block_until_ready(hypotest(model, 1.0)) for model in models])
    return {
        "n_points": len(grid),
        "import_seconds": imported,
        "first_point_seconds": reading + cold,
        "fresh_process_each_seconds": len(grid) * (imported + reading + cold),
        "warm_reading_seconds": warm_reading,
        "warm_tests_seconds": warm,
        "cls": [float(result.cls) for result in results],
    }


def by_reading_alone(options: argparse.Namespace) -> dict:
    """Ours, reading only: the patch set as a whole, and with ``from_pyhf`` for each point."""
    import nextstat_jax as nextstat
    from nextstat_jax import stack_patches

    background, patches = paths()
    grid = nextstat.PatchSet.read(patches)
    nextstat.from_pyhf(background, patch=grid.patches[0])
    together = [timed(lambda: stack_patches(background, patches))[0] for _ in range(options.rounds)]
    singly = [
        timed(lambda: [nextstat.from_pyhf(background, patch=patch) for patch in grid])[0] for _ in range(options.rounds)
    ]
    return {"n_points": len(grid), "stack_seconds": together, "single_seconds": singly}


def by_pyhf(options: argparse.Namespace, backend: str) -> dict:
    """Pyhf: a model and a test for each point; some points are timed."""
    import pyhf

    from benchmarks.engines.pyhf_common import CODES

    optimizer = pyhf.optimize.minuit_optimizer() if backend == "numpy" else pyhf.optimize.scipy_optimizer()
    pyhf.set_backend(backend, optimizer, precision="64b")
    background, patches = (json.loads(path.read_text()) for path in paths())
    workspace, grid = pyhf.Workspace(background), pyhf.PatchSet(patches)
    every = list(grid)
    seconds, cls = {}, {}
    for k in spread(len(every), options.points):

        def point(patch: Any = every[k]) -> float:
            model = workspace.model(patches=[patch], modifier_settings=CODES)
            return float(pyhf.infer.hypotest(1.0, workspace.data(model), model, return_expected_set=True)[0])

        seconds[k], cls[k] = timed(point)
    return {
        "n_points": len(every),
        "timed_points": [every[k].name for k in seconds],
        "timed_seconds": list(seconds.values()),
        "scaled_seconds": len(every) * statistics.mean(seconds.values()),
        "cls": {str(k): value for k, value in cls.items()},
    }


WAYS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "stack": by_stack,
    "single": by_single_calls,
    "reading": by_reading_alone,
    "pyhf-minuit": lambda options: by_pyhf(options, "numpy"),
    "pyhf-jax": lambda options: by_pyhf(options, "jax"),
}


def comparison(ways: dict[str, dict]) -> list[dict]:
    """Seconds of each way for all points, and how often the stack, cold and warm, fits into them."""
    stack = ways.get("stack", {})
    if "error" in stack or not stack:
        return []
    warm = stack["hypotest"]["warm_median"]
    cold = stack["import_seconds"] + stack["read_seconds"] + stack["hypotest"]["cold_seconds"]
    rows = [("stack, warm", warm, False), ("stack: import, read, compile, run", cold, False)]
    if "warm_tests_seconds" in (single := ways.get("single", {})):
        rows += [
            ("single calls, warm loop", single["warm_tests_seconds"], False),
            (
                "single calls, warm loop with reading",
                single["warm_reading_seconds"] + single["warm_tests_seconds"],
                False,
            ),
            ("single calls, a fresh process each", single["fresh_process_each_seconds"], True),
        ]
    for name in ("pyhf-minuit", "pyhf-jax"):
        if "scaled_seconds" in ways.get(name, {}):
            rows.append((f"{name}, a loop", ways[name]["scaled_seconds"], True))
    return [
        {
            "way": way,
            "seconds": seconds,
            "scaled": scaled,
            "over_warm_stack": seconds / warm,
            "over_cold": seconds / cold,
        }
        for way, seconds, scaled in rows
    ]


def differences(ways: dict[str, dict]) -> dict[str, float]:
    """Largest difference of observed CLs between the stack and each other way."""
    ours = ways.get("stack", {}).get("cls", [])
    found = {}
    for way, answer in ways.items():
        theirs = answer.get("cls", {})
        pairs = theirs.items() if isinstance(theirs, dict) else enumerate(theirs)
        gaps = [abs(ours[int(k)] - value) for k, value in pairs] if ours and way != "stack" else []
        if gaps:
            found[way] = max(gaps)
    return found


def table(rows: Sequence[dict]) -> str:
    lines = [f"{'CLs of all points at mu = 1':<40} {'seconds':>10} {'/ warm':>9} {'/ cold':>9}"]
    for row in rows:
        mark = " (scaled)" if row["scaled"] else ""
        ratios = f"{row['over_warm_stack']:>9.1f} {row['over_cold']:>9.2f}"
        lines.append(f"{row['way']:<40} {row['seconds']:>10.3f} {ratios}{mark}")
    return "\n".join(lines)


def write(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
