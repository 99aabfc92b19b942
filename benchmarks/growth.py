"""How the cost of a likelihood grows with its bins and with its systematics, and where the others' ends.

Every size runs in a fresh process: reading, the first fit (which compiles), NLL with gradient, a fit with
uncertainties, the six limits, and the peak of memory; pyhf (JAX and SciPy) fits the same file until a fit would take
too long.

    python -m benchmarks.growth            # all sizes, a table, results/growth.json and results/growth.png
    python -m benchmarks.growth --largest 10000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks import machine, synthetic

RESULTS = Path(__file__).parent / "results"
BINS, SYSTEMATICS = (10, 100, 1_000, 10_000, 100_000), (10, 30, 100, 300, 1_000, 2_000)
# Systematics of the curve of bins, and bins of the curve of systematics.
FEW_SYSTEMATICS, FEW_BINS = 30, 120
ENGINES = ("nextstat_jax", "pyhf")
TIMEOUT = 600.0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=max(BINS), help="bins (%(default)s)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that the next fit of a peer may take")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        engine, path = options.one
        print(json.dumps({"nextstat_jax": _ours, "pyhf": _pyhf}[engine](path)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for curve, sizes in (("bins", [n for n in BINS if n <= options.largest]), ("systematics", SYSTEMATICS)):
            alive = dict.fromkeys(ENGINES, 0.0)
            for size, larger in zip(sizes, [*sizes[1:], sizes[-1]], strict=True):
                shape = (size, FEW_SYSTEMATICS) if curve == "bins" else (FEW_BINS, size)
                path = Path(folder) / f"{curve}_{size}.json"
                path.write_text(json.dumps(synthetic.binned(*shape)))
                for engine in list(alive):
                    row = {"curve": curve, "size": size, "engine": engine, **_measured(engine, path)}
                    print(json.dumps(row), flush=True)
                    rows.append(row)
                    # A peer's fit grows at least with the square of the number of its parameters.
                    if "error" in row or (
                        engine != "nextstat_jax" and row["fit"] * (larger / size) ** 2 > options.limit
                    ):
                        del alive[engine]
                path.unlink()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.json").write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")
    _draw(rows, RESULTS / "growth.png")
    return 0


def _measured(engine: str, path: Path) -> dict:
    """One size in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one", engine, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIMEOUT:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _timed(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _least(function, rounds: int = 5, enough: float = 10.0) -> float:
    """The least time of some calls; fewer where they take long."""
    times, begin = [], time.perf_counter()
    while len(times) < rounds and (not times or time.perf_counter() - begin < enough):
        times.append(_timed(function))
    return min(times)


def _peak() -> float:
    """Peak of memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _ours(path: str) -> dict:
    import jax

    import nextstat_jax as nextstat

    warnings.simplefilter("ignore")
    found = {}
    model = None

    def read():
        nonlocal model
        model = nextstat.from_pyhf(path)

    def fit():
        jax.block_until_ready(nextstat.fit(model).uncertainties)

    found["read"] = _timed(read)
    found["first_fit"] = _timed(fit)
    found["fit"] = _least(fit)
    value = jax.jit(jax.value_and_grad(lambda x, m: m.nll(x)))
    point = model.parameter_init()
    jax.block_until_ready(value(point, model))
    found["nll_gradient"] = _least(lambda: jax.block_until_ready(value(point, model)), rounds=20)

    def limits():
        jax.block_until_ready(nextstat.upper_limit(model).expected)

    limits()
    found["limits"] = _least(limits, rounds=3)
    return found | {"parameters": model.n_params, "nll": float(nextstat.fit(model).nll), "memory": _peak()}


def _pyhf(path: str) -> dict:
    import jax
    import pyhf

    jax.config.update("jax_enable_x64", True)
    pyhf.set_backend("jax", pyhf.optimize.scipy_optimizer())
    found, kept = {}, []

    def read():
        workspace = pyhf.Workspace(json.loads(Path(path).read_text()))
        model = workspace.model(
            modifier_settings={"histosys": {"interpcode": "code4p"}, "normsys": {"interpcode": "code4"}}
        )
        kept.extend([model, workspace.data(model)])

    found["read"] = _timed(read)
    model, data = kept
    found["first_fit"] = _timed(lambda: pyhf.infer.mle.fit(data, model))
    values = []
    found["fit"] = _least(lambda: values.append(pyhf.infer.mle.fit(data, model, return_fitted_val=True)), rounds=3)
    return found | {"parameters": model.config.npars, "nll": 0.5 * float(values[-1][1]), "memory": _peak()}


def _draw(rows: list[dict], path: Path) -> None:
    """The curves: times, and memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    lines = {
        "read": "reading the JSON", "first_fit": "first fit, with compiling", "limits": "six limits", "fit": "fit",
        "nll_gradient": "NLL + gradient",
    }  # fmt: skip
    titles = {
        "bins": f"bins, one MC parameter each, {FEW_SYSTEMATICS} systematics",
        "systematics": f"systematics, {FEW_BINS} bins",
    }
    for axis, (curve, title) in zip(axes, titles.items(), strict=True):
        mine = [row for row in rows if row["curve"] == curve and "error" not in row]
        for name, label in lines.items():
            points = [(row["size"], row[name]) for row in mine if row["engine"] == "nextstat_jax"]
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
        points = [(row["size"], row["fit"]) for row in mine if row["engine"] == "pyhf"]
        axis.plot(*zip(*points, strict=True), marker="s", color="black", ls="--", label="fit, pyhf (JAX, SciPy)")
        axis.set(xscale="log", yscale="log", xlabel=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
