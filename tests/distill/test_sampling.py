"""Delayed acceptance with a surrogate samples the exact posterior, at a fraction of NUTS's exact evaluations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nextstat_jax as nextstat
from benchmarks.sampling import compare, delayed, effective, nuts, twenty_parameters, worst_rhat
from nextstat_jax.distill import _posterior, generate_dataset, log_density, train_mlp_surrogate
from tests.distill.support import QUIET

pytest.importorskip("blackjax")
pytest.importorskip("arviz")

DRAWS = 1500


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(twenty_parameters())


@pytest.fixture(scope="module")
def surrogate(model):
    ds = generate_dataset(model, 12_000, "gaussian", run=QUIET, include_gradient=False)
    return train_mlp_surrogate(ds, hidden_layers=(64, 64), epochs=50, lr=0.01, progress=False)


@pytest.fixture(scope="module")
def exact(model, surrogate):
    """NUTS on the exact likelihood, with a dense mass matrix: half the evaluations of its default."""
    run = nuts(log_density(model, surrogate), DRAWS)
    assert worst_rhat(run.params) < 1.01 and run.divergent == 0
    return run


def biased(surrogate, by):
    """The surrogate with all expected counts larger by a factor."""
    core = surrogate.members[0]
    assert surrogate.recipe == "rates"
    return replace(surrogate, members=(replace(core, offset=core.offset + np.float32(np.log(by))),))


def test_the_model_is_what_it_is_said_to_be(model):
    spec = twenty_parameters()
    kinds = {m["type"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}
    assert model.n_params == 20 and len(spec["channels"]) == 2 and model.n_bins == 7
    assert kinds == {"normfactor", "lumi", "normsys", "histosys", "staterror", "shapesys"}


@pytest.mark.slow
def test_the_posterior_is_exact_at_a_fifth_of_the_evaluations(model, surrogate, exact):
    run, chains = delayed(surrogate, model, DRAWS)
    assert chains.n_exact == run.evaluations + run.warmup_evaluations == 4 * (DRAWS + 200 + 1)
    assert worst_rhat(run.params) < 1.01
    pulls = compare(run.params, exact.params)
    assert pulls.agree, pulls
    # The posterior is no Gaussian around the best fit: mu is skewed.
    mu = run.params[..., model.poi_index]
    assert ((mu - mu.mean()) ** 3).mean() / mu.std() ** 3 > 0.5
    ours, other = (effective(r.params).min() for r in (run, exact))
    total, total_of_nuts = (r.evaluations + r.warmup_evaluations for r in (run, exact))
    assert total_of_nuts / other > 5.0 * total / ours
    # Warm-up apart, longer chains and more training points give 5.4 (benchmarks/results/sampling.json).
    assert exact.evaluations / other > 4.0 * run.evaluations / ours


@pytest.mark.slow
def test_a_poor_surrogate_costs_draws_and_nothing_else(model, surrogate, exact, monkeypatch):
    poor = biased(surrogate, 1.05)
    run, chains = delayed(poor, model, DRAWS)
    assert 0.3 < chains.acceptance < 0.85
    assert compare(run.params, exact.params).agree
    # Were its proposals not corrected, the comparison would say so.
    original = _posterior._chains
    monkeypatch.setattr(_posterior, "_chains", lambda _, approximate, *rest: original(approximate, approximate, *rest))
    run, chains = delayed(poor, model, DRAWS)
    pulls = compare(run.params, exact.params)
    assert chains.acceptance == 1.0 and worst_rhat(run.params) < 1.01
    assert pulls.worst > 2 * pulls.threshold, pulls
