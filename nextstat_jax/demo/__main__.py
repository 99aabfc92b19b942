"""``python -m nextstat_jax.demo``: the analysis of a whole workspace, two trainings, and pictures of both."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nextstat_jax as nextstat

from ._inference import analyze
from ._pictures import draw_templates, draw_training
from ._training import Evaluation, Settings, evaluate, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        arguments: Of the command line, those of the process by default.

    Returns:
        Exit status: 0, or 2 where input or output cannot be used, with one line on standard error that says why.
    """
    options = _parser().parse_args(arguments)
    try:
        nextstat.plot.style.require_matplotlib()
        options.out.mkdir(parents=True, exist_ok=True)
        _analyze_workspace(options.workspace or options.path, options.out)
        _train_networks(options)
    except (nextstat.NextstatError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nextstat_jax.demo", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="a pyhf workspace to fit instead of the embedded one")
    parser.add_argument("--workspace", type=Path, metavar="PATH", help="the same")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the pictures (default: out)")
    parser.add_argument("--steps", type=_positive, default=Settings.steps, help="steps of each training")
    parser.add_argument("--seed", type=int, default=0, help="of first weights and batches")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _analyze_workspace(path: Path | None, out: Path) -> None:
    model = _read(path)
    _headline("The embedded workspace" if path is None else f"The workspace {path.name}")
    print(f"channels: {len(model.channels)}, bins: {model.n_bins}, parameters: {model.n_params}", flush=True)
    analyze(model, out)


def _read(path: Path | None) -> Any:
    if path is None:
        return nextstat.from_pyhf(nextstat.example_workspace())
    try:
        return nextstat.from_pyhf(path)
    except nextstat.NextstatError as error:
        raise nextstat.NextstatError(f"{path}: {error}") from error


def _train_networks(options: argparse.Namespace) -> None:
    """Train on both objectives, evaluate, print, and draw."""
    settings = Settings(steps=options.steps)
    _headline("Three blobs: a network trained on the discovery significance")
    print(f"{settings.steps} steps with {settings.batch} new events of each blob, seed {options.seed}", flush=True)
    histories, evaluations = {}, {}
    for objective in ("cross_entropy", "significance"):
        start = time.perf_counter()
        params, histories[objective] = train(objective, settings, options.seed)
        evaluations[objective] = evaluate(params, settings, options.seed)
        label = objective.replace("_", "-")
        print(f"trained on {label} and evaluated in {time.perf_counter() - start:.1f} s", flush=True)
    print(f"\nOn {10 * settings.held_out} held-out events of each blob, hard bins, Asimov data of mu = 1:")
    print(_comparison_table(evaluations), end="\n\n")
    draw_training(options.out / "training.png", histories)
    draw_templates(options.out / "templates.png", evaluations, settings)


def _comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Significance and precision of the networks, with and without systematics."""
    labels = {"cross_entropy": "cross-entropy", "significance": "-Z0, shift profiled"}
    lines = [f"{'network trained on':<22} {'Z0':>6} {'Z0, no syst.':>13}   {'mu':<13} {'mu, no syst.':<13}"]
    for name, label in labels.items():
        e = evaluations[name]
        mu, mu_fixed = (f"{float(f.mu):.2f} ± {float(f.mu_uncertainty):.2f}" for f in (e.fit, e.fit_fixed))
        lines.append(f"{label:<22} {e.z0:>6.2f} {e.z0_fixed:>13.2f}   {mu:<13} {mu_fixed:<13}")
    return "\n".join(lines)


def _headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
