"""Edges that learn, bandwidths that shrink, bins that stay filled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat


def test_edges_increase_whatever_the_numbers():
    rng = np.random.default_rng(0)
    for scale in (0.1, 3.0, 1000.0):
        edges = np.asarray(nextstat.monotone_edges(scale * rng.normal(size=7), low=-2.0, high=3.0))
        assert edges[0] == -2.0
        assert edges[-1] == 3.0
        assert (np.diff(edges) > 0).all()
        assert np.diff(edges).min() >= 5.0 * 1e-3 / 7 * (1 - 1e-9)


def test_raw_edges_are_the_inverse():
    edges = np.array([0.0, 0.1, 0.15, 0.6, 1.0])
    np.testing.assert_allclose(nextstat.monotone_edges(nextstat.raw_edges(edges)), edges, rtol=1e-12)
    moved = np.array([-1.0, 2.0, 2.5, 9.0])
    np.testing.assert_allclose(nextstat.monotone_edges(nextstat.raw_edges(moved), -1.0, 9.0), moved, rtol=1e-12)
    np.testing.assert_allclose(nextstat.monotone_edges(np.zeros(4)), np.linspace(0, 1, 5), rtol=1e-12)


def test_edges_learn():
    # Half of the events below 0.2: the median is where an edge has to go to make two equal bins.
    scores = jnp.asarray(np.random.default_rng(1).uniform(size=4000) ** 2.3219)

    def imbalance(raw):
        h = nextstat.soft_histogram(scores, nextstat.monotone_edges(raw), bandwidth=0.02)
        return (h[0] - h[1]) ** 2 / scores.size**2

    raw, slope = jnp.zeros(2), jax.jit(jax.grad(imbalance))
    for _ in range(200):
        raw = raw - 2.0 * slope(raw)
    assert float(nextstat.monotone_edges(raw)[1]) == pytest.approx(float(jnp.median(scores)), abs=0.01)


@pytest.mark.parametrize("kind", ["exponential", "linear", "cosine"])
def test_bandwidth_schedules(kind):
    bandwidth = nextstat.bandwidth_schedule(0.3, 0.02, 40, kind)
    values = [bandwidth(k) for k in range(60)]
    assert all(isinstance(v, float) for v in values)
    assert values[0] == pytest.approx(0.3)
    assert values[40:] == pytest.approx([0.02] * 20)
    assert (np.diff(values[:41]) < 0).all()
    middle = {"exponential": np.sqrt(0.3 * 0.02), "linear": 0.16, "cosine": 0.16}[kind]
    assert values[20] == pytest.approx(middle)
    np.testing.assert_allclose(jax.jit(jax.vmap(bandwidth))(jnp.arange(60)), values, rtol=1e-6)
    assert values[10] != pytest.approx(nextstat.bandwidth_schedule(0.3, 0.02, 40, "linear")(10)) or kind == "linear"


def test_a_guarded_bin_is_positive_and_can_fill_again():
    y = jnp.array([5.0, 0.1, 0.01, 0.0, -3.0])
    guarded = nextstat.guard_empty_bins(y, 0.1)
    np.testing.assert_allclose(guarded[:2], [5.0, 0.1])
    assert (np.asarray(guarded) > 0).all()
    slope = jax.vmap(jax.grad(lambda x: nextstat.guard_empty_bins(x, 0.1)))(y)
    np.testing.assert_allclose(slope, [1.0, 1.0, np.exp(-0.9), np.exp(-1.0), np.exp(-31.0)], rtol=1e-6)


def test_uncertainty_tends_to_that_of_hard_bins():
    rng = np.random.default_rng(2)
    scores, weights = rng.uniform(size=500), rng.normal(1.0, 0.5, size=500)
    edges = np.linspace(0, 1, 6)
    histogram = nextstat.SoftHistogram(bin_edges=edges, bandwidth=1e-6)
    expected = np.sqrt(np.histogram(scores, edges, weights=weights**2)[0])
    np.testing.assert_allclose(histogram.uncertainty(scores, weights), expected, rtol=1e-9)
    np.testing.assert_allclose(histogram.uncertainty(scores), np.sqrt(np.histogram(scores, edges)[0]), rtol=1e-9)
    wide = histogram(scores, weights, bandwidth=0.3)
    np.testing.assert_allclose(wide, nextstat.soft_histogram(scores, edges, weights, bandwidth=0.3), rtol=1e-12)
    assert np.abs(np.asarray(wide) - np.asarray(histogram(scores, weights))).max() > 1
    empty = jax.grad(lambda x: histogram.uncertainty(x).sum())(jnp.array([0.05, 0.06]))
    assert np.isfinite(empty).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nextstat.monotone_edges(np.zeros((2, 2))), r"shape \(2, 2\)"),
        (lambda: nextstat.monotone_edges(np.zeros(3), 1.0, 1.0), "range from 1.0 to 1.0 is empty"),
        (lambda: nextstat.raw_edges([0.0, 0.5, 0.4]), "increasing"),
        (lambda: nextstat.raw_edges([0.0, 1e-9, 1.0]), "bin 0 is narrower"),
        (lambda: nextstat.bandwidth_schedule(0.1, 0.01, 10, "sine"), "kind='sine'"),
        (lambda: nextstat.bandwidth_schedule(0.1, 0.0, 10), "positive and finite"),
        (lambda: nextstat.bandwidth_schedule(0.1, 0.01, 0), "steps=0"),
        (lambda: nextstat.guard_empty_bins(np.ones(3), 0.0), "minimum=0.0"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call()
    assert "\n" not in str(failure.value)
