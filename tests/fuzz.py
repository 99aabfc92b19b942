"""Random input for as long as wanted: ``make fuzz``, or ``python -m tests.fuzz --seconds 600 --seed 0``.

Rounds of each kind take turns until the time is up; the seed of a round makes it again. Not part of any test run.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import numpy as np
from hypothesis import HealthCheck, given, settings
from scipy import optimize

jax.config.update("jax_enable_x64", True)

import nextstat_jax as nextstat  # noqa: E402
from tests import test_doors as doors  # noqa: E402
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


KINDS: dict[str, Callable[[int], int]] = {
    "likelihood = pyhf": lambda seed: drawn(cases(), likelihoods.check_model_against_pyhf, seed),
    "gradient = differences": lambda seed: drawn(
        cases(number=2, clips=False), likelihoods.check_gradient_against_differences, seed
    ),
    "fit <= SciPy": lambda seed: drawn(workspaces(), check_fit, seed),
    "damaged files": files,
    "wrong calls": calls,
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
