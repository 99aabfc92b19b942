"""Models and sets of toys that several files share."""

from __future__ import annotations

import numpy as np

import nextstat_jax as nextstat
from nextstat_jax._batches._run import Run
from nextstat_jax._toys._toys import fit_toys
from tests.building import histosys, normfactor, normsys, one_channel, sample, shapesys, staterror

N = 300
ALL = ("mu_uncertainty", "uncertainties", "params", "data")
# Chunks of up to 64 toys share a compiled program, if the same quantities are asked for.
SMALL = 64
EXACT = ("toy", "mu_hat", "nll", "status", "n_iter", "retried", "mu_uncertainty", "params")


def spec():
    """One constraint of each kind."""
    return one_channel(
        [
            sample("s", [6.0, 9.0], normfactor("mu")),
            sample("b", [50.0, 42.0], normsys("a", 0.9, 1.12), shapesys("u", [5.0, 4.0])),
            sample(
                "c",
                [20.0, 10.0],
                histosys("h", [18.0, 10.5], [21.0, 9.0]),
                staterror("st", [2.0, 1.5]),
            ),
        ],
        [80.0, 60.0],
        parameters=[{"name": "mu", "bounds": [[-5.0, 10.0]]}],
    )


def counting(*modifiers, poi="mu", signal=(10.0,), dtype=None):
    """A model that compiles quickly."""
    background = [5.0 * value for value in signal]
    samples = [sample("s", signal, normfactor("mu")), sample("b", background, *modifiers)]
    return nextstat.from_pyhf(one_channel(samples, [1.2 * value for value in background], poi=poi), dtype=dtype)


def fit_small(model, n_toys, *, batch_size=SMALL, workers=None, executor=None, progress=None, **options):
    run = Run(batch_size=batch_size, workers=workers, executor=executor, progress=progress)
    return fit_toys(model, n_toys, **{"quantities": ALL, "seed": 5, "run": run, **options})


def assert_same(one, other, names=EXACT):
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def closed_form(data, signal, mu):
    """Best fit and qmu where all bins have the same ratio of signal to background, as ``counting`` makes them."""
    total, scale = np.asarray(data).sum(1), np.sum(signal)
    best = np.maximum(total / scale - 5.0, 0.0)

    def nll(mu):
        return scale * (mu + 5.0) - total * np.log(mu + 5.0)

    return best, np.where(best <= mu, 2.0 * (nll(mu) - nll(best)), 0.0)
