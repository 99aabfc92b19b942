"""Random input for as long as wanted: ``make fuzz``, or ``python -m tests.fuzz --seconds 600 --seed 0``.

Rounds of each kind take turns until the time is up; the seed of a round makes it again. Not part of any test run.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import jax
import numpy as np
from hypothesis import HealthCheck, given, settings
from scipy import optimize

jax.config.update("jax_enable_x64", True)

import nextstat_jax as nextstat  # noqa: E402
from tests import test_doors as doors  # noqa: E402
from tests.building import normfactor, normsys, one_channel, sample  # noqa: E402
from tests.likelihood import test_random_workspaces as likelihoods  # noqa: E402
from tests.strategies import cases, workspaces  # noqa: E402
from tests.workspace.test_mutations import WRONG, nodes  # noqa: E402

_EXAMPLES = 5


def drawn(strategy: Any, check: Callable[[Any], None], seed: int) -> int:
    """Checks a few random examples; the number of them."""
    count = [0]

    @hypothesis.seed(seed)
    @settings(max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[
        hypothesis.Phase.generate])  # fmt: skip
    @given(strategy)
    def run(example: Any) -> None:
        count[0] += 1
        check(example)

    run()
    return count[0]


def check_fit(workspace: dict[str, Any]) -> None:
    """A fit that says "converged" is not above what SciPy finds, and reports the likelihood's own value."""
    model = likelihoods.open_quietly(workspace)
    fit = nextstat.fit(model)
    if not fit.converged:
        return
    value = float(fit.nll)
    assert math.isclose(value, float(model.nll(fit.params)), rel_tol=1e-9, abs_tol=1e-7), "the NLL is another one"
    bounds = np.array(model.parameter_bounds())
    fixed = np.array([p.fixed for p in model.parameters()])
    start = np.asarray(model.parameter_init())
    bounds[fixed] = start[fixed, None]
    both = jax.jit(jax.value_and_grad(model.nll))

    def of(x: Any) -> Any:
        nll, slope = both(x)
        return (float(nll), np.asarray(slope)) if np.isfinite(nll) else (1e30, np.zeros_like(x))

    rng = np.random.default_rng(len(start))
    for k in range(4):
        low, high = np.maximum(bounds[:, 0], -3.0), np.minimum(bounds[:, 1], 4.0)
        begin = start if k == 0 else np.clip(rng.uniform(low, np.maximum(high, low)), *bounds.T)
        end = optimize.minimize(of, begin, jac=True, method="L-BFGS-B", bounds=bounds)
        assert value <= end.fun + 1e-4 * (1 + abs(value) * 1e-3), f"SciPy finds {end.fun}, the fit {value}"


def check_file(workspace: dict[str, Any], rng: random.Random) -> None:
    """A damaged file is read, or refused in the package's own words."""
    text = json.dumps(workspace)
    if rng.random() < 0.5:
        spec = copy.deepcopy(workspace)
        path = rng.choice(list(nodes(spec)))
        target: Any = spec
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = rng.choice(WRONG)
        source: Any = spec
    else:
        place, length = rng.randrange(len(text)), rng.randrange(1, 20)
        source = text[:place] + rng.choice(['"', "{", "]", ",", "1e400", "\ud800", "null", ""]) + text[place + length :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nextstat.from_pyhf(source)
    except nextstat.NextstatError as error:
        assert len(str(error)) < 3000, "a message of that length is none"


def files(seed: int) -> int:
    """Damaged workspaces."""
    rng = random.Random(seed)
    return drawn(workspaces(), lambda workspace: [check_file(workspace, rng) for _ in range(40)] and None, seed) * 40


def calls(seed: int) -> int:
    """Public functions with values that have no place in their arguments."""
    rng, pool = random.Random(seed), {**doors.WRONG, **doors.MORE}
    for _ in range(100):
        door, name = rng.choice(doors.ARGUMENTS)
        what = rng.choice(list(pool))
        result = doors.came_of(*doors.DOORS[door], name, pool[what])
        if what in doors.WRONG and (door, name, what) not in doors.MEANT:
            assert result is doors.REFUSED, f"{door}({name}={what}) is taken in silence"
    return 100


_POINTS = 2048
# Writes programs to the cache, parts of a data set and a file of it, and says what came of it.
_WRITER = """
import json, sys
import nextstat_jax as nextstat
folder, n = sys.argv[1], int(sys.argv[2])
model = nextstat.from_pyhf(folder + "/workspace.json")
fit = nextstat.fit(model)
quiet = nextstat.Run(progress=False)
nextstat.distill.generate_parquet(model, folder + "/parts", n, part_size=256, run=quiet)
tables = list(nextstat.distill.iterate_parquet(folder + "/parts"))
data = nextstat.distill.generate_dataset(model, n, run=quiet)
nextstat.distill.to_npz(data, folder + "/data.npz")
rows = sum(len(table) for table in tables)
nll = sum(sum(table["nll"].to_pylist()) for table in tables)
print(json.dumps([float(fit.nll), rows, nll, float(nextstat.distill.from_npz(folder + "/data.npz").nll.sum())]))
"""


def kills(seed: int) -> int:
    """A process that writes is killed again and again; whoever comes next finds nothing broken."""
    rng = random.Random(seed)
    workspace = one_channel(
        [sample("s", [5.0, 8.0], normfactor("mu")), sample("b", [50.0, 40.0], normsys("k", 0.9, 1.1))],
        [rng.randrange(40, 70), rng.randrange(35, 60)],
    )
    model = nextstat.from_pyhf(workspace)
    wanted = nextstat.distill.generate_dataset(model, _POINTS, run=nextstat.Run(progress=False)).nll.sum()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "workspace.json").write_text(json.dumps(workspace))
        environment = {**os.environ, "NEXTSTAT_JAX_CACHE": str(Path(folder, "cache"))}
        command = [sys.executable, "-c", _WRITER, folder, str(_POINTS)]
        for _ in range(3):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(rng.uniform(2.0, 12.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        last = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert last.returncode == 0, last.stderr[-2000:]
        nll, rows, parts, file = json.loads(last.stdout.splitlines()[-1])
        assert rows == _POINTS, f"{rows} points of {_POINTS}"
        np.testing.assert_allclose([nll, parts, file], [float(nextstat.fit(model).nll), wanted, wanted], rtol=1e-9)
        left = [path.name for path in Path(folder, "parts").iterdir() if path.suffix not in (".json", ".parquet")]
        assert not left, f"left behind: {left}"
    return 4


KINDS: dict[str, Callable[[int], int]] = {
    "likelihood = pyhf": lambda seed: drawn(cases(), likelihoods.check_model_against_pyhf, seed),
    "gradient = differences": lambda seed: drawn(
        cases(number=2, clips=False), likelihoods.check_gradient_against_differences, seed
    ),
    "fit <= SciPy": lambda seed: drawn(workspaces(), check_fit, seed),
    "damaged files": files,
    "wrong calls": calls,
    "kills": kills,
}


def main() -> int:
    """Runs until the time is up; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS), default=None)
    arguments = parser.parse_args()
    rows = {kind: [0, 0, 0.0] for kind in KINDS if arguments.only in (None, kind)}
    end, seed = time.monotonic() + arguments.seconds, arguments.seed
    while time.monotonic() < end:
        for kind, row in rows.items():
            begin = time.monotonic()
            try:
                row[0] += KINDS[kind](seed)
            # Whatever it is, it is what is looked for.
            except Exception:
                row[1] += 1
                print(f"\n{kind}, seed {seed}:\n{traceback.format_exc(limit=-4)}", flush=True)
            row[2] += time.monotonic() - begin
        seed += 1
    print(f"\n{'kind':26s}{'cases':>8s}{'failed':>8s}{'seconds':>9s}")
    for kind, (count, failed, seconds) in rows.items():
        print(f"{kind:26s}{count:8d}{failed:8d}{seconds:9.0f}")
    return int(any(failed for _, failed, _ in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
