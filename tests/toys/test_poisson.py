"""Poisson counts have the distribution of Poisson counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nextstat_jax._likelihood._poisson import poisson

RATES = (0.0, 1e-3, 0.4, 3.0, 9.99, 10.0, 17.0, 40.0, 1e3, 1e5, 1e7, 1e10)


@pytest.mark.parametrize(("dtype", "highest"), [(np.float64, 1e10), (np.float32, 1e7)])
def test_poisson_counts(dtype, highest):
    rates = np.array([rate for rate in RATES if rate <= highest])
    n = 50_000
    counts = jax.jit(poisson)(jax.random.key(8), jnp.tile(jnp.asarray(rates, dtype)[:, None], (1, n)))
    assert counts.dtype == dtype
    counts = np.asarray(counts, np.float64)
    assert (counts == np.round(counts)).all()
    assert (counts[0] == 0).all()
    for rate, x in zip(rates[1:], counts[1:], strict=True):
        edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 41)[1:-1], rate))
        expected = n * np.diff([0.0, *stats.poisson.cdf(edges, rate), 1.0])
        found = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(expected))
        keep = expected > 5
        if keep.sum() > 1:
            chi2 = ((found - expected) ** 2 / expected)[keep].sum()
            assert stats.chi2.sf(chi2, keep.sum() - 1) > 1e-4, rate
        assert abs(x.mean() - rate) < 4.5 * np.sqrt(rate / n)


def test_few_counts_have_the_right_tail():
    n = 1_000_000
    x = np.asarray(jax.jit(poisson)(jax.random.key(1), jnp.full(n, 2.0)))
    for k in (8, 10, 12):
        p = stats.poisson.sf(k - 1, 2.0)
        assert abs((x >= k).sum() - n * p) < 4.5 * np.sqrt(n * p) + 1
