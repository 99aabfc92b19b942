"""How pseudo-experiments are thrown, and from where."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._likelihood import _throw
from nextstat_jax._toys._toys import sample_toys
from tests.conftest import OWN


def test_toys_fluctuate_as_expected(model):
    params = np.array(model.parameter_init())
    params[[model.index("mu"), model.index("a")]] = [1.5, 0.4]
    n = 20000
    data = np.asarray(sample_toys(model, n, params=params, seed=1))
    mean = np.asarray(model.expected_data(params))
    k, s = model.likelihood, model.likelihood.structure
    variance = mean.copy()
    variance[s.n_bins + s.normal_aux] = np.asarray(k.widths) ** 2
    np.testing.assert_array_less(np.abs(data.mean(0) - mean) / np.sqrt(variance / n), 4.5)
    # The variance of a sample variance is 2 sigma^4 / n, plus sigma^2 / n for Poisson counts.
    np.testing.assert_array_less(np.abs(data.var(0) / variance - 1) / np.sqrt((2 + 1 / variance) / n), 4.5)
    correlation = np.corrcoef(data.T) - np.eye(model.n_data)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)
    counts = np.concatenate([np.arange(s.n_bins), s.n_bins + s.poisson_aux])
    assert (data[:, counts] == np.round(data[:, counts])).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_toys_are_thrown_as_by_pyhf():
    import pyhf

    content = json.loads((OWN / "all_modifiers.json").read_text())
    model = nextstat.from_pyhf(content)
    oracle = pyhf.Workspace(content).model()
    params = np.array(model.parameter_init()) * 1.1 + 0.05
    np.random.seed(4)  # pyhf's NumPy backend draws from the global generator  # noqa: NPY002
    theirs = oracle.make_pdf(pyhf.tensorlib.astensor(params)).sample((4000,))
    mine = np.asarray(sample_toys(model, 4000, params=params, seed=4))
    pvalues = [stats.ks_2samp(a, b).pvalue for a, b in zip(mine.T, theirs.T, strict=True)]
    assert min(pvalues) > 1e-4


def test_a_toy_depends_on_model_seed_and_number_alone(model):
    params, throw = model.parameter_init(), jax.jit(_throw.throw)
    for seed in (0, 7, 2**40 + 3):
        ten = sample_toys(model, 10, params=params, seed=seed)
        np.testing.assert_array_equal(ten[7:9], sample_toys(model, 2, params=params, seed=seed, first_toy=7))
        key = jax.random.fold_in(jax.random.key(seed), 3)
        np.testing.assert_allclose(ten[3], throw(model.likelihood, params, key), rtol=1e-14)
    assert not np.array_equal(
        sample_toys(model, 10, params=params, seed=1), sample_toys(model, 10, params=params, seed=2)
    )


def test_generating_point(model):
    best, held = nextstat.fit(model), nextstat.profile(model, 0.3)
    np.testing.assert_array_equal(sample_toys(model, 4), sample_toys(model, 4, params=best.params))
    np.testing.assert_array_equal(sample_toys(model, 4, mu=0.3), sample_toys(model, 4, params=held.params))
    moved = best.params.at[model.poi_index].set(0.3)
    np.testing.assert_array_equal(
        sample_toys(model, 4, params=best.params, mu=0.3), sample_toys(model, 4, params=moved)
    )
    data = jnp.array([90.0, 70.0])
    np.testing.assert_array_equal(
        sample_toys(model, 4, data=data), sample_toys(model, 4, params=nextstat.fit(model, data=data).params)
    )
    held = nextstat.fit(model, fixed={"a": 0.5})
    np.testing.assert_array_equal(sample_toys(model, 4, fixed={"a": 0.5}), sample_toys(model, 4, params=held.params))
