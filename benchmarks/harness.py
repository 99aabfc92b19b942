"""The one harness: every engine in its own process, interleaved sample by sample, one table and one JSON file.

Interleaving is what makes the ratios worth something: on a machine that others use too, a slow minute hits every
engine alike.
"""

import argparse
import datetime
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import latency, machine, synthetic, table, timing
from benchmarks.client import ROOT, Client, WorkerError
from benchmarks.engines import ENGINES

OURS = "nextstat_jax"
CASES = (
    "build", "compile", "nll", "gradient", "nll_gradient", "nll_gradient_jit", "hessian", "fit", "fit_minimum",
    "q0_gradient", "batch_vmap", "batch_map",
)  # fmt: skip
GROWTH_CASES = ("build", "nll_gradient", "fit")
GROWTH_SIZES = (10, 30, 100, 300, 1000)
# A first call that took this long and compiled nothing is the sample: once is enough for pyhf with Minuit.
LONG_SECONDS = 10.0
SAMPLES_SECONDS = 30.0
SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line asks for."""
    options = _parse(argv)
    clients = _start(options)
    if OURS in options.engines and OURS not in {client.name for client in clients}:
        print("nextstat_jax cannot be imported here: measuring the peers alone", file=sys.stderr)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result = {"name": options.name, "started": started, "machine": machine.describe(), "engines": options.found}
    rows: list[dict] = []
    try:
        for path in options.paths:
            rows += run_workspace(clients, path.stem, path, options.cases, options)
        if options.growth:
            rows += run_growth(clients, options)
        if options.latency and options.paths:
            rows += run_latency(clients, options)
    finally:
        for client in clients:
            client.close()
    result |= {"load_average_after": machine.describe()["load_average"], "rows": rows}
    print(table.render(rows, OURS))
    if options.name:
        print(f"\nwritten to {_write(result, options.name).relative_to(ROOT)}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workspaces", default="tHu", help="comma-separated names in $NEXTSTAT_JAX_WORKSPACES, or paths; '' for none")
    add("--cases", default=",".join(CASES), help="comma-separated, of: %(default)s")
    add("--engines", default=",".join(ENGINES), help="comma-separated, of: %(default)s")
    add("--peer-python", default=sys.executable, help="an interpreter in which NextStat can be imported")
    add("--rounds", type=int, default=9, help="samples of each engine and case (%(default)s)")
    add("--sizes", default=",".join(map(str, GROWTH_SIZES)), help="numbers of parameters for the growth (%(default)s)")
    add("--no-growth", dest="growth", action="store_false", help="leave the synthetic workspaces out")
    add("--no-latency", dest="latency", action="store_false", help="leave the fresh processes out")
    add(
        "--limit",
        type=float,
        default=60.0,
        help="drop an engine from larger sizes after this many seconds (%(default)s)",
    )
    add("--timeout", type=float, default=900.0, help="give up an answer after this many seconds (%(default)s)")
    add("--name", default="headline", help="write benchmarks/results/NAME.json; '' writes nothing (%(default)s)")
    options = parser.parse_args(argv)
    for field in ("workspaces", "cases", "engines", "sizes"):
        setattr(options, field, [item for item in getattr(options, field).split(",") if item])
    _refuse_unknown(parser, "case", options.cases, CASES)
    _refuse_unknown(parser, "engine", options.engines, ENGINES)
    options.paths = [path for path in map(_find, options.workspaces) if path]
    return options


def _refuse_unknown(
    parser: argparse.ArgumentParser, what: str, given: Sequence[str], known: Sequence[str] | dict
) -> None:
    for item in given:
        if item not in known:
            parser.error(f"unknown {what} {item!r}; choose from {', '.join(known)}")


def _find(name: str) -> Path | None:
    if name.endswith(".json"):
        return Path(name).resolve(strict=True)
    folder = Path(os.environ.get("NEXTSTAT_JAX_WORKSPACES", ROOT.parent / "shared" / "workspaces"))
    path = folder / f"{name}.json"
    if path.is_file():
        return path.resolve()
    print(
        f"skipping {name}: there is no {path}; point NEXTSTAT_JAX_WORKSPACES at a folder that has it", file=sys.stderr
    )
    return None


def _start(options: argparse.Namespace) -> list[Client]:
    """Start a worker for each engine that can be used, and note in the options what was found."""
    clients, options.found = [], {}
    for name in options.engines:
        client = Client(name, options.peer_python if name == "nextstat" else sys.executable)
        try:
            options.found[name] = client.ask("hello", timeout=120.0)
        except WorkerError as error:
            options.found[name] = {"available": False, "reason": str(error)}
        if options.found[name]["available"]:
            clients.append(client)
        else:
            print(f"skipping {name}: {options.found[name]['reason']}", file=sys.stderr)
            client.close()
    return clients


def run_workspace(
    clients: list[Client], name: str, path: Path, cases: Sequence[str], options: argparse.Namespace
) -> list[dict]:
    """Measure every case on one workspace."""
    rows, ready = [], []
    for client in clients:
        try:
            opened = client.ask("open", options.timeout, path=str(path), seed=SEED)
        except WorkerError as error:
            rows.append({"workspace": name, "case": "open", "engine": client.name, "error": str(error)})
        else:
            ready.append((client, opened))
    for case in cases:
        print(f"{name}: {case}", file=sys.stderr)
        rows += run_case(ready, name, case, options)
    return rows


def run_case(ready: list[tuple[Client, dict]], workspace: str, case: str, options: argparse.Namespace) -> list[dict]:
    """Measure one case with all engines, one sample of each in turn."""
    rows, active = [], []
    for client, opened in ready:
        row = {"workspace": workspace, **opened, "case": case, "engine": client.name}
        rows.append(row)
        try:
            row |= client.ask("prepare", options.timeout, case=case)
        except WorkerError as error:
            row["error"] = str(error)
            continue
        if "skipped" not in row:
            row |= {"samples": [], "calls": 1}
            active.append((client, row))
    for number in range(options.rounds):
        # The order turns, so that nobody always runs in the shadow of the same neighbor.
        shift = number % len(active) if active else 0
        for client, row in active[shift:] + active[:shift]:
            _sample(client, row, case, options.timeout)
    for _, row in active:
        _summarize(row)
    return rows


def _sample(client: Client, row: dict, case: str, timeout: float) -> None:
    if "error" in row or sum(row["samples"]) * row["calls"] > SAMPLES_SECONDS:
        return
    if row["first_call"] > LONG_SECONDS and client.name == "pyhf-minuit":
        row["samples"] = [row["first_call"]] if not row["samples"] else row["samples"]
        return
    try:
        answer = client.ask("time", timeout, case=case)
    except WorkerError as error:
        row["error"] = str(error)
        return
    row["calls"] = answer["calls"]
    row["samples"].append(answer["seconds"])


def _summarize(row: dict) -> None:
    """Add the statistics, in seconds a unit: one call, or one point of a batch."""
    if row["samples"]:
        row["samples"] = [seconds / row["units"] for seconds in row["samples"]]
        row |= {"median": timing.median(row["samples"]), "minimum": min(row["samples"])}


def run_growth(clients: list[Client], options: argparse.Namespace) -> list[dict]:
    """Measure synthetic workspaces of growing size, and drop whoever would become too slow."""
    rows, alive = [], list(clients)
    sizes = sorted(map(int, options.sizes))
    with tempfile.TemporaryDirectory() as folder:
        for size, larger in itertools.zip_longest(sizes, sizes[1:]):
            name = f"synthetic-{size}"
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(synthetic.generate(size, seed=SEED)))
            new = run_workspace(alive, name, path, GROWTH_CASES, options)
            rows += new
            for client in list(alive) if larger else []:
                reason = _too_slow([row for row in new if row["engine"] == client.name], size, larger, options.limit)
                if reason:
                    rows.append(
                        {"workspace": f"synthetic-{larger}", "case": "all", "engine": client.name, "skipped": reason}
                    )
                    alive.remove(client)
    return rows


def _too_slow(rows: list[dict], size: int, larger: int, limit: float) -> str:
    """Say why an engine should not be asked for the next size, or nothing; fits grow with the cube of the size."""
    if any("error" in row for row in rows):
        return f"left out: failed with {size} parameters"
    expected = max(row.get("median", 0.0) for row in rows) * (larger / size) ** 3
    return f"left out: would take about {expected:.0f} s" if expected > limit else ""


def run_latency(clients: list[Client], options: argparse.Namespace) -> list[dict]:
    """Measure fresh processes on the first workspace, those with JAX with and without a cache on disk."""
    path, rows = options.paths[0], []
    with tempfile.TemporaryDirectory() as folder:
        plans = []
        for client in clients:
            plans.append((client, "first_fit_fresh", None))
            if "jax" in client.name:
                plans.append((client, "first_fit_cached", Path(folder) / client.name))
        kept = {}
        for number in range(min(3, options.rounds)):
            for client, case, cache in plans:
                print(f"{path.stem}: {case} {client.name}", file=sys.stderr)
                if client.name == "pyhf-minuit" and number:
                    continue  # once is enough: see LONG_SECONDS
                if cache is not None and not cache.exists():
                    latency.measure(client.name, client.python, path, cache, options.timeout)  # fills the cache
                answer = latency.measure(client.name, client.python, path, cache, options.timeout)
                kept.setdefault((client.name, case), []).append(answer)
    for (engine, case), answers in kept.items():
        row = {"workspace": path.stem, "case": case, "engine": engine, **answers[-1]}
        good = [answer["seconds"] for answer in answers if "seconds" in answer]
        row |= {"samples": good, "median": timing.median(good), "minimum": min(good)} if good else {}
        rows.append(row)
    return rows


def _write(result: dict, name: str) -> Path:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
    return path
