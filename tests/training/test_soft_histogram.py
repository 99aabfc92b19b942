"""Soft histograms: conservation of weight, the hard limit, derivatives, and behavior at the extremes."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy import stats

from nextstat_jax._training._soft_histogram import DEFAULT_BANDWIDTH, SoftHistogram, soft_histogram

MODES = ("kde", "sigmoid")
KERNELS = {"kde": stats.norm, "sigmoid": stats.logistic}
HALF = np.array([0.5])
UNEVEN = np.array([0.0, 0.1, 0.35, 0.4, 1.0])


def _sample(seed: int, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.2, 1.2, size), rng.normal(1.0, 0.5, size)


finite = st.floats(-10.0, 10.0, allow_subnormal=False)  # XLA flushes subnormal numbers to 0 on some devices
# Few different lengths, because each compiles anew.
edge_lists = st.sampled_from([2, 4, 9]).flatmap(
    lambda n: st.lists(st.integers(-5000, 5000), min_size=n, max_size=n, unique=True).map(
        lambda thousandths: [x / 1000 for x in sorted(thousandths)]
    )
)


@settings(deadline=None, max_examples=200)
@given(
    scores=hnp.arrays(np.float64, 20, elements=finite),
    weights=hnp.arrays(np.float64, 20, elements=finite),
    edges=edge_lists,
    log_bandwidth=st.floats(-12.0, 6.0),
    mode=st.sampled_from(MODES),
)
def test_weight_is_conserved(scores, weights, edges, log_bandwidth, mode) -> None:
    histogram = soft_histogram(scores, edges, weights, bandwidth=10.0**log_bandwidth, mode=mode)
    inside = (scores >= edges[0]) & (scores <= edges[-1])
    rounding = 1e-13 * np.sum(np.abs(weights)) + 1e-300  # of a sum of 20 terms of either sign
    np.testing.assert_allclose(np.sum(histogram), np.sum(weights[inside]), rtol=0, atol=rounding)
    clipped = soft_histogram(scores, edges, weights, bandwidth=10.0**log_bandwidth, mode=mode, outside="clip")
    np.testing.assert_allclose(np.sum(clipped), np.sum(weights), rtol=0, atol=rounding)


@settings(deadline=None, max_examples=200)
@given(
    scores=hnp.arrays(np.float64, 20, elements=finite),
    weights=hnp.arrays(np.float64, 20, elements=finite),
    edges=edge_lists,
    mode=st.sampled_from(MODES),
)
def test_hard_limit(scores, weights, edges, mode) -> None:
    # An event on an inner edge is shared evenly, by symmetry.
    on_inner_edge = np.any(np.abs(scores[:, None] - edges[1:-1]) < 1e-15, axis=1)
    scores = np.where(on_inner_edge, edges[-1], scores)
    hard = np.histogram(scores, edges, weights=weights)[0]
    soft = soft_histogram(scores, edges, weights, bandwidth=1e-20, mode=mode)
    np.testing.assert_allclose(soft, hard, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_hard_limit_is_approached_linearly(mode) -> None:
    scores, weights = _sample(1, 20_000)
    hard = np.histogram(scores, UNEVEN, weights=weights)[0]
    errors = [
        np.max(np.abs(soft_histogram(scores, UNEVEN, weights, bandwidth=h, mode=mode) - hard))
        for h in (1e-2, 1e-3, 1e-4, 1e-6)
    ]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 1.0  # of 20,000 events, few lie within 1e-6 of an edge


@pytest.mark.parametrize("mode", MODES)
def test_events_on_edges(mode) -> None:
    edges = [0.0, 1.0, 2.0]
    for score, expected in ((0.0, [1.0, 0.0]), (1.0, [0.5, 0.5]), (2.0, [0.0, 1.0])):
        np.testing.assert_allclose(soft_histogram([score], edges, bandwidth=1e-9, mode=mode), expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bandwidth", [0.01, 0.1, 1.0, 30.0])
def test_formula_against_scipy(mode, bandwidth) -> None:
    scores, weights = _sample(2)
    inside = (scores >= 0) & (scores <= 1)
    z = (UNEVEN - scores[inside, None]) / bandwidth
    # Differences of survival functions on the right side keep SciPy's numbers exact in both tails.
    kernel = KERNELS[mode]
    mass = np.where(z[:, :-1] > 0, -np.diff(kernel.sf(z), axis=1), np.diff(kernel.cdf(z), axis=1))
    expected = weights[inside] @ (mass / mass.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        soft_histogram(scores, UNEVEN, weights, bandwidth=bandwidth, mode=mode), expected, rtol=1e-10
    )


def test_leak_of_plain_kernel_histograms_is_undone() -> None:
    # A plain KDE histogram keeps 0.54 of this event.
    np.testing.assert_allclose(np.sum(soft_histogram([0.02], np.linspace(0, 1, 6), bandwidth=0.2)), 1.0, rtol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_wide_kernel_gives_widths_of_bins(mode) -> None:
    for bandwidth in (1e6, 1e12, 1e300):
        np.testing.assert_allclose(
            soft_histogram([0.7], UNEVEN, bandwidth=bandwidth, mode=mode), np.diff(UNEVEN), rtol=1e-9
        )


def test_modes_differ_and_default_bandwidth_is_documented() -> None:
    scores, _ = _sample(3)
    assert not np.allclose(soft_histogram(scores, UNEVEN), soft_histogram(scores, UNEVEN, mode="sigmoid"), rtol=1e-3)
    explicit = soft_histogram(scores, UNEVEN, bandwidth=DEFAULT_BANDWIDTH * np.min(np.diff(UNEVEN)))
    np.testing.assert_allclose(soft_histogram(scores, UNEVEN), explicit, rtol=1e-12)


def test_events_outside() -> None:
    scores, weights = jnp.array([-3.0, 0.5, 7.0, jnp.inf, -jnp.inf]), jnp.array([1.0, 2.0, 4.0, jnp.nan, 8.0])
    np.testing.assert_allclose(np.sum(soft_histogram(scores, [0.0, 1.0, 2.0], weights, bandwidth=0.1)), 2.0, rtol=1e-14)
    grads = jax.grad(lambda x, w: soft_histogram(x, UNEVEN, w, bandwidth=0.1)[0], argnums=(0, 1))(scores, weights)
    assert all(np.all(np.isfinite(g)) for g in grads)
    assert all(np.all(g[jnp.array([0, 2, 3, 4])] == 0) for g in grads)
    clipped = soft_histogram(scores[:3], [0.0, 1.0, 2.0], weights[:3], bandwidth=0.01, outside="clip")
    np.testing.assert_allclose(clipped, [3.0, 4.0], atol=1e-12)


def test_nan_score_shows() -> None:
    assert np.all(np.isnan(soft_histogram([0.5, np.nan], UNEVEN)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bandwidth", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("outside", ["drop", "clip"])
def test_gradients_against_finite_differences(mode, bandwidth, outside) -> None:
    scores, weights = _sample(4, 30)
    arguments = tuple(map(jnp.asarray, (scores, weights, UNEVEN, bandwidth)))
    direction = jnp.array([1.0, -2.0, 0.5, 3.0])

    def value(x, w, e, h):
        return direction @ soft_histogram(x, e, w, bandwidth=h, mode=mode, outside=outside)

    tangents = [jnp.asarray(np.random.default_rng(5).normal(size=a.shape)) for a in arguments]
    reverse = jax.grad(value, argnums=(0, 1, 2, 3))(*arguments)
    for i, (tangent, gradient) in enumerate(zip(tangents, reverse, strict=True)):
        only = [t if i == j else jnp.zeros_like(t) for j, t in enumerate(tangents)]
        forward = jax.jvp(value, arguments, tuple(only))[1]
        step = 1e-6 * bandwidth
        up = value(*(a + step * t for a, t in zip(arguments, only, strict=True)))
        down = value(*(a - step * t for a, t in zip(arguments, only, strict=True)))
        np.testing.assert_allclose(forward, np.sum(gradient * tangent), rtol=1e-10, atol=1e-12)
        # Central differences: rounding 1e-16 * 60 / step, truncation step**2 / bandwidth**3.
        np.testing.assert_allclose(forward, (up - down) / (2 * step), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outside", ["drop", "clip"])
def test_extremes_are_finite(mode, dtype, outside) -> None:
    big = float(np.finfo(dtype).max)
    scores = jnp.array([-big, -1e9, -1e-30, 0.0, 1e-30, 0.1, 0.35, 0.999999, 1.0, 1.1, 1e9, big], dtype)
    smallest = float(np.finfo(dtype).smallest_subnormal)

    def value(x, w, e, h):
        return jnp.sum(soft_histogram(x, e, w, bandwidth=h, mode=mode, outside=outside) ** 2)

    value_and_grad = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3)))
    for bandwidth in (smallest, 1e-35, 1e-20, 1e-8, 1e-3, 1.0, 1e3, 1e20, 1e37, big):
        results = value_and_grad(
            scores, jnp.ones_like(scores), jnp.asarray(UNEVEN, dtype), jnp.asarray(bandwidth, dtype)
        )
        assert all(np.all(np.isfinite(r)) for r in jax.tree.leaves(results)), (bandwidth, results)


@pytest.mark.parametrize("mode", MODES)
def test_jit_vmap_and_loop_agree(mode) -> None:
    batches = [_sample(seed, 40) for seed in range(3)]
    scores, weights = (jnp.stack([jnp.asarray(b[i]) for b in batches]) for i in (0, 1))
    histogram = SoftHistogram(UNEVEN, bandwidth=0.05, mode=mode)
    loop = np.stack([histogram(x, w) for x, w in zip(scores, weights, strict=True)])
    np.testing.assert_allclose(jax.vmap(histogram)(scores, weights), loop, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(histogram))(scores, weights), loop, rtol=1e-12)
    by_edges = jax.vmap(lambda e: soft_histogram(scores[0], e, mode=mode))(jnp.stack([UNEVEN, 2 * UNEVEN]))
    np.testing.assert_allclose(by_edges[1], soft_histogram(scores[0], 2 * UNEVEN, mode=mode), rtol=1e-12)


def test_module_compiles_once_for_all_numbers() -> None:
    traces = []

    @jax.jit
    def apply(histogram, scores):
        traces.append(1)
        return histogram(scores)

    scores = jnp.asarray(_sample(6)[0])
    first = apply(SoftHistogram(UNEVEN, bandwidth=0.1), scores)
    second = apply(SoftHistogram(2 * UNEVEN, bandwidth=0.3), scores)
    assert len(traces) == 1
    assert not np.allclose(first, second, rtol=1e-3)
    apply(SoftHistogram(UNEVEN, bandwidth=0.1, mode="sigmoid"), scores)
    assert len(traces) == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dtype_of_scores_is_kept(dtype) -> None:
    scores = jnp.asarray(_sample(7)[0], dtype)
    histogram = soft_histogram(scores, UNEVEN, np.ones(200), bandwidth=np.float64(0.1))
    assert histogram.dtype == dtype
    reference = soft_histogram(scores.astype(jnp.float64), UNEVEN, bandwidth=0.1)
    np.testing.assert_allclose(histogram.astype(jnp.float64), reference, rtol=8 * float(jnp.finfo(dtype).eps))
    gradient = jax.grad(lambda x: soft_histogram(x, UNEVEN)[0].astype(jnp.float32))(scores)
    assert gradient.dtype == dtype


def test_half_precision_sums_do_not_saturate() -> None:
    total = np.sum(soft_histogram(jnp.full(20_000, 0.5, jnp.bfloat16), [0.0, 1.0]).astype(jnp.float32))
    np.testing.assert_allclose(total, 20_000, rtol=0.005)  # one unit in the last place of bfloat16


def test_shapes_are_flattened_and_integers_become_floats() -> None:
    scores, weights = _sample(8, 60)
    square = soft_histogram(scores[:60].reshape(20, 3), UNEVEN, weights[:60].reshape(20, 3))
    np.testing.assert_allclose(square, soft_histogram(scores, UNEVEN, weights), rtol=1e-12)
    assert soft_histogram(np.array([0, 1, 2]), np.array([0, 1, 3])).dtype == jnp.float64
    assert soft_histogram(np.zeros(0), UNEVEN).shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (HALF, np.array([[0.0, 1.0]])),
            {},
            r"edges have to be a vector of at least 2 numbers, but have shape \(1, 2\)",
        ),
        ((HALF, [0.0]), {}, r"at least 2 numbers, but have shape \(1,\)"),
        ((HALF, [0.0, 2.0, 1.0]), {}, r"edge 2 \(1\) is not above edge 1 \(2\)"),
        ((HALF, [0.0, 1.0, 1.0]), {}, r"edges have to increase"),
        ((HALF, [0.0, np.nan, 1.0]), {}, r"edges have to be finite, but edge 1 is not"),
        ((np.float32([0.5]), [0.0, 1.0, 1.0 + 1e-12]), {}, r"in float32"),
        ((HALF, UNEVEN, [1.0, 2.0]), {}, r"weights have shape \(2,\), but the scores have shape \(1,\)"),
        (
            (np.array([[0.5], [0.6]]), UNEVEN, [1.0, 2.0]),
            {},
            r"weights have shape \(2,\), but the scores have shape \(2, 1\)",
        ),
        ((HALF, UNEVEN), {"bandwidth": 0.0}, r"bandwidth has to be positive and finite, not 0"),
        ((HALF, UNEVEN), {"bandwidth": -1.0}, r"not -1"),
        ((HALF, UNEVEN), {"bandwidth": np.nan}, r"not nan"),
        ((HALF, UNEVEN), {"bandwidth": np.array([0.1, 0.2])}, r"bandwidth has to be one number, but has shape \(2,\)"),
        ((HALF, UNEVEN), {"mode": "box"}, r"mode has to be 'kde' or 'sigmoid', not 'box'"),
        ((HALF, UNEVEN), {"outside": "keep"}, r"outside has to be 'drop' or 'clip', not 'keep'"),
        ((0.5j * HALF, UNEVEN), {}, r"real numbers, not complex"),
    ],
)
def test_errors(arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        soft_histogram(*arguments, **options)
    assert "\n" not in str(caught.value)
    if len(arguments) == 2 and np.isrealobj(arguments[0]) and "float32" not in message:
        with pytest.raises(ValueError, match=message):
            SoftHistogram(arguments[1], **options)
    with pytest.raises(ValueError, match=message):  # at trace time as well
        jax.jit(lambda x: soft_histogram(x, *arguments[1:], **options))(jnp.asarray(arguments[0]))


def test_traced_numbers_are_not_checked() -> None:
    value = jax.jit(lambda e, h: soft_histogram([0.5], e, bandwidth=h))(jnp.array([0.0, 1.0, 2.0]), -1.0)
    assert value.shape == (2,)
