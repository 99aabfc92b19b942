"""How long a fresh process takes to its first fit, with and without a compilation cache on disk.

Run as ``python -m benchmarks.latency ENGINE WORKSPACE STARTED`` it is the fresh process itself; `measure` starts such
processes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.client import ROOT, environment


def measure(engine: str, python: str, workspace: Path, cache: Path | None, timeout: float) -> dict:
    """Start a fresh process that fits `workspace` once and return its seconds, from before the start to the result.

    Args:
        engine: A name of `benchmarks.engines.ENGINES`.
        python: The interpreter to start.
        workspace: Path of a workspace.
        cache: Folder of the cache, ours or else JAX's, or None to have none.
        timeout: Seconds after which the process is given up.

    Returns:
        The stages in seconds and the objective, or the reason why there are none under "error".
    """
    env = environment()
    if cache is not None and engine == "nextstat_jax":
        env |= {"NEXTSTAT_JAX_CACHE": str(cache)}
    elif cache is not None:
        env |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            # By default only what took a second to compile is kept.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    command = [python, "-m", "benchmarks.latency", engine, str(workspace), repr(time.time())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=env, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def fit_once(engine: str, path: str, started: float) -> dict:
    """Import, read, build, fit, and say when each was done, in seconds since `started`."""
    stages = {"interpreter": time.time() - started}
    text = Path(path).read_text()
    fit = {"nextstat_jax": _ours, "pyhf-jax": _pyhf_jax, "pyhf-minuit": _pyhf_minuit, "nextstat": _nextstat}[engine]
    objective, details = fit(text, stages, started)
    return {"seconds": time.time() - started, "stages": stages, "objective": objective, **details}


def _ours(text: str, stages: dict, started: float) -> tuple[float, dict]:
    import nextstat_jax as nextstat

    stages["imported"] = time.time() - started
    model = nextstat.from_pyhf(text)
    stages["built"] = time.time() - started
    result = nextstat.fit(model)
    objective = float(result.nll)
    stages["fitted"] = time.time() - started
    compiled, seconds = _second_workspace(nextstat, text)
    return objective, {
        "converged": bool(result.converged),
        "status": str(result.message),
        "seconds": stages["fitted"],
        "second_workspace": {"programs_compiled": compiled, "seconds": seconds},
    }


def _second_workspace(nextstat, text: str) -> tuple[int, float]:
    """Fit a workspace of the same structure with other numbers, and count what XLA compiles for it."""
    import jax

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
    )
    spec = json.loads(text)
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            sample["data"] = [1.01 * value for value in sample["data"]]
    for observation in spec["observations"]:
        observation["data"] = [value + 1.0 for value in observation["data"]]
    start = time.perf_counter()
    float(nextstat.fit(nextstat.from_pyhf(spec)).nll)
    return len(compiled), time.perf_counter() - start


def _pyhf_jax(text: str, stages: dict, started: float) -> tuple[float, dict]:
    import pyhf

    pyhf.set_backend("jax", pyhf.optimize.scipy_optimizer(), precision="64b")
    return _pyhf(text, stages, started, {})


def _pyhf_minuit(text: str, stages: dict, started: float) -> tuple[float, dict]:
    import pyhf

    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer())
    return _pyhf(text, stages, started, {"return_uncertainties": True})


def _pyhf(text: str, stages: dict, started: float, options: dict) -> tuple[float, dict]:
    import pyhf

    from benchmarks.engines.pyhf_common import build

    stages["imported"] = time.time() - started
    model, data = build(text)
    stages["built"] = time.time() - started
    _, twice_nll = pyhf.infer.mle.fit(data, model, return_fitted_val=True, **options)
    stages["fitted"] = time.time() - started
    return float(twice_nll) / 2.0, {}


def _nextstat(text: str, stages: dict, started: float) -> tuple[float, dict]:
    import nextstat

    stages["imported"] = time.time() - started
    model = nextstat.from_pyhf(text)
    stages["built"] = time.time() - started
    result = nextstat.fit(model)
    stages["fitted"] = time.time() - started
    return float(result.nll), {"converged": bool(result.converged)}


if __name__ == "__main__":
    print(json.dumps(fit_once(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
