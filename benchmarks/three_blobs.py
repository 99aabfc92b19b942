"""Three blobs: the significance of networks trained on it and on cross-entropy, over several seeds.

    python -m benchmarks.three_blobs [--seeds 5] [--steps 1000]

Prints mean, spread and error of the mean, and writes ``benchmarks/results/three_blobs.json``. All networks of a seed
start from the same weights and see the same batches; they are judged on the same held-out events with hard bins and a
full refit. Cross-entropy gets two stronger variants as well: augmented, with the shifted backgrounds among the nominal
one, and with bins of equal signal in place of equidistant ones, since it knows nothing of bins.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from benchmarks import machine
from nextstat_jax.demo._blobs import SIGNAL, sample_events
from nextstat_jax.demo._training import Evaluation, Objective, Settings, evaluate, scores, train

OBJECTIVES: tuple[Objective, ...] = ("significance", "cross_entropy", "cross_entropy_augmented")
RESULT = Path(__file__).resolve().parent / "results" / "three_blobs.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.three_blobs", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... to use (default: 5)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help=f"steps (default: {Settings.steps})")
    parser.add_argument("--output", type=Path, default=RESULT, help="where to write the result")
    options = parser.parse_args(argv)
    if options.seeds < 1 or options.steps < 1:
        parser.error("--seeds and --steps have to be positive")
    settings = Settings(steps=options.steps)
    runs = [r for seed in range(options.seeds) for objective in OBJECTIVES for r in run(objective, settings, seed)]
    names = list(dict.fromkeys(r["name"] for r in runs))
    summary = {name: summarize([r for r in runs if r["name"] == name]) for name in names}
    print(table(summary))
    for name in names[1:]:
        wins = sum(_z0(runs, names[0], seed) > _z0(runs, name, seed) for seed in range(options.seeds))
        print(f"{names[0]} has the higher Z0 with systematics than {name} in {wins} of {options.seeds} seeds")
    write(options.output, {"settings": asdict(settings), "summary": summary, "runs": runs})
    return 0


def run(objective: Objective, settings: Settings, seed: int) -> list[dict]:
    start = time.perf_counter()
    params, _ = train(objective, settings, seed)
    elapsed = time.perf_counter() - start
    results = [judge(objective, evaluate(params, settings, seed), seed, elapsed)]
    if objective != "significance":
        edges = equal_signal_edges(params, settings)
        evaluation = evaluate(params, settings, seed, edges)
        results.append(judge(f"{objective}, equal-signal bins", evaluation, seed, elapsed))
    return results


def judge(name: str, evaluation: Evaluation, seed: int, elapsed: float) -> dict:
    fit = evaluation.fit
    print(
        f"seed {seed}  {name:<43} Z0 {evaluation.z0:.3f}, without systematics {evaluation.z0_fixed:.3f}  "
        f"({elapsed:.1f} s to train)",
        flush=True,
    )
    return {
        "name": name,
        "seed": seed,
        "z0": evaluation.z0,
        "z0_no_systematics": evaluation.z0_fixed,
        "mu_uncertainty": float(fit.mu_uncertainty),
        "shift_uncertainty": float(fit.uncertainties[fit.parameter_names.index("shift")]),
        "fit_status": fit.message,
        "histograms": np.round(evaluation.histograms, 4).tolist(),
        "training_seconds": elapsed,
    }


def equal_signal_edges(params: object, settings: Settings) -> np.ndarray:
    """Edges between which the signal is the same, from events that no evaluation uses."""
    events = sample_events(jax.random.key(2**31), settings.held_out)
    signal = np.asarray(scores(params, events, settings))[SIGNAL]
    inner = np.quantile(signal, np.linspace(0, 1, settings.bins + 1)[1:-1])
    return np.array([0.0, *inner, 1.0])


def summarize(runs: Sequence[dict]) -> dict:
    return {key: _moments([r[key] for r in runs]) for key in ("z0", "z0_no_systematics", "mu_uncertainty")}


def _moments(values: Sequence[float]) -> dict[str, float | None]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    error = spread / len(values) ** 0.5 if spread is not None else None
    return {"mean": float(np.mean(values)), "spread": spread, "error_of_mean": error}


def table(summary: dict) -> str:
    head = f"{'mean':>8} {'spread':>7} {'error':>7}"
    lines = [f"\n{'Z0':<43}  {'with systematics':^24}   {'without':^24}", f"{'trained on':<43}  {head}   {head}"]
    for name, row in summary.items():
        cells = [row[key][moment] for key in ("z0", "z0_no_systematics") for moment in row[key]]
        texts = ["-" if x is None else f"{x:.3f}" for x in cells]
        lines.append(
            f"{name:<43}  {texts[0]:>8} {texts[1]:>7} {texts[2]:>7}   {texts[3]:>8} {texts[4]:>7} {texts[5]:>7}"
        )
    return "\n".join(lines)


def write(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(
        json.dumps(
            {"machine": machine.describe(), "versions": machine.versions("jax", "flax", "optax"), **result}, indent=1
        )
        + "\n"
    )
    os.replace(temporary, path)
    print(f"wrote {path}")


def _z0(runs: Sequence[dict], name: str, seed: int) -> float:
    return next(r["z0"] for r in runs if r["name"] == name and r["seed"] == seed)


if __name__ == "__main__":
    sys.exit(main())
