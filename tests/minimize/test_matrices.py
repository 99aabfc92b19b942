"""Matrices in the form of an arrow against the same matrices as dense arrays, and against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextstat_jax._minimize._arrow import Arrow, ArrowSpread, Rows
from nextstat_jax._minimize._dense import Dense

N = 14


def an_arrow(k, seed=0):
    """A positive definite arrow of 14 rows in no order, with blocks of up to ``k``, some of them not full."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(N)
    b = 4 if k else N
    count = -(-(N - b) // k) if k else 3
    local = np.full((count, k), N)
    local.reshape(-1)[: N - b] = order[b:]
    there = local < N
    half = rng.normal(size=(30, b))
    across = rng.normal(size=(b, count, k)) * there
    root = rng.normal(size=(count, k, k + 3))
    blocks = 4.0 * np.einsum("nij,nkj->nik", root, root) * (there[:, :, None] & there[:, None, :])
    border = half.T @ half * 5.0
    return Arrow(*map(jnp.asarray, (border, across, blocks)), Rows(N, np.sort(order[:b]), local))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_an_arrow_does_what_its_elements_do(k):
    arrow, rng = an_arrow(k), np.random.default_rng(1)
    whole = Dense(arrow.dense())
    np.testing.assert_array_equal(whole.array, whole.array.T)
    assert np.linalg.eigvalsh(whole.array).min() > 0
    x, columns = jnp.asarray(rng.normal(size=N)), jnp.asarray(rng.normal(size=(N, 3)))
    pinned, shift = jnp.asarray(rng.random(N) < 0.3), jnp.asarray(rng.random(N))
    np.testing.assert_allclose(arrow.times(x), whole.times(x), atol=1e-12)
    np.testing.assert_array_equal(arrow.diagonal, whole.diagonal)
    np.testing.assert_allclose(arrow.plus(x).dense(), whole.plus(x).array, atol=1e-14)
    np.testing.assert_allclose(arrow.unit_factor().solve(columns), columns)
    for rhs in (x, columns):
        expected = whole.factorized(pinned, shift).solve(rhs)
        np.testing.assert_allclose(arrow.factorized(pinned, shift).solve(rhs), expected, atol=1e-13)
    free = np.flatnonzero(~np.asarray(pinned))
    inverse = np.zeros((N, N))
    inverse[np.ix_(free, free)] = np.linalg.inv(np.asarray(whole.array)[np.ix_(free, free)])
    for spread in (arrow.inverse(pinned), whole.inverse(pinned)):
        np.testing.assert_allclose(spread.dense(), inverse, atol=1e-14)
        np.testing.assert_allclose(spread.variances, np.diagonal(inverse), atol=1e-14)
        np.testing.assert_allclose(spread.times(columns), inverse @ columns, atol=1e-13)
        np.testing.assert_allclose(
            spread.columns(jnp.array([2, N, 5])), [inverse[2], 0 * inverse[2], inverse[5]], atol=1e-13
        )


@pytest.mark.parametrize("k", [1, 3])
def test_what_is_not_positive_definite_has_no_factor(k):
    arrow = an_arrow(k)
    nothing = jnp.zeros(N, bool)
    negative = [
        arrow.plus(jnp.zeros(N).at[arrow.rows.border[1]].set(-1e3)),
        arrow.plus(jnp.zeros(N).at[arrow.rows.local[1, 0]].set(-1e3)),
        # Each block is positive, and the border: their Schur complement is not.
        Arrow(arrow.border, 100.0 * arrow.across, arrow.blocks, arrow.rows),
    ]
    for matrix in negative:
        assert np.linalg.eigvalsh(matrix.dense()).min() < 0
        assert np.isnan(matrix.factorized(nothing).solve(jnp.ones(N))).any()
        assert np.isnan(matrix.inverse(nothing).variances).any()


def test_a_row_without_effect_is_nobody_elses_trouble():
    arrow = an_arrow(1)
    idle = [int(arrow.rows.border[2]), int(arrow.rows.local[3, 0])]
    one = Arrow(
        arrow.border.at[2].set(0.0).at[:, 2].set(0.0),
        arrow.across.at[2].set(0.0).at[:, 3].set(0.0),
        arrow.blocks.at[3].set(0.0),
        arrow.rows,
    )
    spread = one.inverse(jnp.zeros(N, bool))
    assert np.asarray(spread.variances)[idle].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(spread.dense(), Dense(one.dense()).inverse(jnp.zeros(N, bool)).dense(), atol=1e-14)


@pytest.mark.parametrize("k", [1, 3])
def test_derivatives_of_an_inverse(k):
    arrow, weights = an_arrow(k), jnp.asarray(np.random.default_rng(2).normal(size=N))
    nothing = jnp.zeros(N, bool)

    def of(matrix):
        return weights @ matrix.inverse(nothing).variances + weights @ matrix.factorized(nothing).solve(weights)

    of = jax.jit(of)
    slope = jax.jit(jax.grad(of))(arrow)
    # Symmetric, as a Hessian's change is.
    other = an_arrow(k, seed=3)
    direction = Arrow(other.border, other.across, other.blocks, arrow.rows)
    direction = jax.tree.map(lambda x, y: jnp.where(y != 0, x, 0.0), direction, arrow)
    h = 1e-6
    ends = [of(jax.tree.map(lambda x, d, s=s: x + s * h * d, arrow, direction)) for s in (1, -1)]
    product = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(direction), strict=True))
    assert float(product) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_variances_without_correlations():
    rows = an_arrow(3).rows
    variances = jnp.arange(1.0, N + 1)
    np.testing.assert_allclose(ArrowSpread.of_variances(variances, rows).dense(), np.diag(variances))


def test_equal_tables_are_equal_rows():
    one, other, third = an_arrow(3).rows, an_arrow(3).rows, an_arrow(3, seed=5).rows
    assert one == other and hash(one) == hash(other) and one != third
