"""``python -m nextstat_jax.demo``: a fit of a whole workspace, two trainings and three pictures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nextstat_jax as nextstat

from .._errors import NextstatError
from ._pictures import draw_profile, draw_templates, draw_training, require_matplotlib
from ._report import comparison_table, fit_table, yield_table
from ._scan import interval, profile_curves
from ._training import Settings, evaluate, train
from ._workspace import demo_workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        arguments: Of the command line, those of the process by default.

    Returns:
        Exit status: 0, or 2 where input or output cannot be used, with one line on standard error that says why.
    """
    options = _parser().parse_args(arguments)
    try:
        require_matplotlib()
        options.out.mkdir(parents=True, exist_ok=True)
        _fit_workspace(options.workspace or options.path, options.out)
        _train_networks(options)
    except (NextstatError, OSError) as error:
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


def _fit_workspace(path: Path | None, out: Path) -> None:
    """Fit, print, and draw the profile likelihood."""
    model = _read(path)
    _headline("Fit of the embedded workspace" if path is None else f"Fit of {path.name}")
    print(f"channels: {len(model.channels)}, bins: {model.n_bins}, parameters: {model.n_params}", flush=True)
    start = time.perf_counter()
    fit = nextstat.fit(model)
    print(f"{fit.message} in {int(fit.n_iter)} steps, EDM {float(fit.edm):.1e}, NLL {float(fit.nll):.6f}")
    print(f"({time.perf_counter() - start:.1f} s, most of it to compile)\n")
    print(yield_table(model, fit), end="\n\n")
    print(fit_table(model, fit), end="\n\n")
    if not model.poi:
        print("The measurement names no parameter of interest: no significance, no profile likelihood.")
        return
    _profile(model, fit, out / "profile_likelihood.png", "Embedded workspace" if path is None else path.stem)


def _read(path: Path | None) -> Any:
    if path is None:
        return nextstat.from_pyhf(demo_workspace())
    try:
        return nextstat.from_pyhf(path)
    except NextstatError as error:
        raise NextstatError(f"{path}: {error}") from error


def _profile(model: Any, fit: Any, picture: Path, title: str) -> None:
    """Significance, interval and picture of the parameter of interest."""
    observed = float(nextstat.z0(model))
    expected = float(nextstat.z0(model, nextstat.asimov_data(model, mu=1.0)))
    curves = profile_curves(model, fit)
    ends = [
        f"{name} {end:.3f}"
        for name, end in zip(("above", "below"), interval(curves[0]), strict=True)
        if end is not None
    ]
    print(f"{model.poi} = {float(fit.mu):.3f}; at 68 % CL {' and '.join(ends) or 'not bounded by the data'}")
    print(f"Z0 = {observed:.2f} observed, {expected:.2f} expected for {model.poi} = 1")
    draw_profile(picture, curves, title, model.poi)
    print(f"wrote {picture}")


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
    print(comparison_table(evaluations), end="\n\n")
    for name, draw in (
        ("training.png", lambda path: draw_training(path, histories)),
        ("templates.png", lambda path: draw_templates(path, evaluations, settings)),
    ):
        draw(options.out / name)
        print(f"wrote {options.out / name}")


def _headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
