"""The minimizer on problems that are not physics, against closed forms and SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from nextstat_jax._minimize import _status
from nextstat_jax._minimize._box import Box
from nextstat_jax._minimize._dense import Dense
from nextstat_jax._minimize._newton import Problem, minimize


def problem_of(function):
    """A problem without constraints; the stand-in for the Hessian is the identity, which any function accepts."""

    def evaluate(y, args, z):
        return *jax.value_and_grad(function)(y, args), None, None

    def curvatures(y, args, z, found):
        return Dense(jax.hessian(function)(y, args)), Dense(jnp.eye(y.shape[0], dtype=y.dtype))

    def tighten(aux, args, z):
        return z, jnp.zeros((), z.dtype)

    return Problem(evaluate, curvatures, tighten, lambda aux, args: jnp.array(True), lambda x, aux, args, z: x)


def minimum_of(problem, *args, **options):
    return minimize(problem, *args, **options)[0]


def solve(function, start, lower=-jnp.inf, upper=jnp.inf, frozen=None, args=None, **options):
    start = jnp.asarray(start)
    n = start.shape[0]
    box = Box(
        jnp.broadcast_to(jnp.asarray(lower, start.dtype), (n,)),
        jnp.broadcast_to(jnp.asarray(upper, start.dtype), (n,)),
        jnp.zeros(n, bool) if frozen is None else jnp.asarray(frozen),
    )
    none = jnp.zeros(0, start.dtype)
    return jax.jit(lambda start, args: minimum_of(problem_of(function), start, args, box, none, **options))(start, args)


def rosenbrock(y, args):
    return (100.0 * (y[1:] - y[:-1] ** 2) ** 2 + (1.0 - y[:-1]) ** 2).sum()


def quadratic(y, args):
    matrix, center = args
    return 0.5 * (y - center) @ matrix @ (y - center)


def test_quadratic_needs_one_factorization():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(20, 20))
    center = rng.normal(size=20)
    found = solve(quadratic, np.zeros(20), args=(jnp.asarray(root @ root.T + np.eye(20)), jnp.asarray(center)))
    assert int(found.status) == _status.CONVERGED
    assert int(found.num_steps) <= 3
    np.testing.assert_allclose(found.y, center, atol=1e-10)  # condition number about 100


@pytest.mark.parametrize("n", [2, 10])
def test_curved_valley(n):
    found = solve(rosenbrock, np.full(n, -1.2))
    assert int(found.status) == _status.CONVERGED
    reference = optimize.minimize(
        lambda y: float(rosenbrock(jnp.asarray(y), None)), np.asarray(found.y), method="BFGS", tol=1e-12
    )
    assert float(found.value) <= reference.fun + 1e-12


def test_bounds_against_scipy():
    rng = np.random.default_rng(5)
    box = Box(jnp.full(8, -1.0), jnp.full(8, 0.5), jnp.zeros(8, bool))
    bounded = jax.jit(lambda args: minimum_of(problem_of(quadratic), jnp.zeros(8), args, box, jnp.zeros(0)))
    for _ in range(20):
        root = rng.normal(size=(8, 8))
        matrix, center = root @ root.T + 0.1 * np.eye(8), 2.0 * rng.normal(size=8)
        found = bounded((jnp.asarray(matrix), jnp.asarray(center)))
        reference = optimize.minimize(
            lambda y, m=matrix, c=center: 0.5 * (y - c) @ m @ (y - c),
            np.zeros(8),
            jac=lambda y, m=matrix, c=center: m @ (y - c),
            bounds=[(-1.0, 0.5)] * 8,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10000},
        )
        assert int(found.status) == _status.CONVERGED
        assert float(found.value) <= reference.fun + 1e-9  # L-BFGS-B stops at about this
        assert (np.asarray(found.y) >= -1.0).all()
        assert (np.asarray(found.y) <= 0.5).all()


def test_frozen_parameters_keep_their_value_even_outside_the_bounds():
    found = solve(rosenbrock, [3.0, 0.0, 0.0], -2.0, 2.0, frozen=[True, False, False])
    assert int(found.status) == _status.CONVERGED
    assert float(found.y[0]) == 3.0


def test_everything_frozen_converges_at_once():
    found = solve(rosenbrock, [0.3, 0.4], frozen=[True, True])
    assert int(found.status) == _status.CONVERGED
    np.testing.assert_array_equal(found.y, [0.3, 0.4])


def test_domain_is_never_left():
    # -log(x) + x has its minimum at 1 and does not exist at and below 0.
    def barrier(y, args):
        inside = y > 0
        return jnp.where(inside, y - jnp.log(jnp.where(inside, y, 1.0)), jnp.inf).sum()

    found = solve(barrier, np.full(3, 50.0))
    assert int(found.status) == _status.CONVERGED
    np.testing.assert_allclose(found.y, 1.0, atol=1e-8)


def test_saddle_is_left():
    # A maximum along y[0] at the start: the exact Hessian is indefinite there.
    found = solve(lambda y, _: y[0] ** 4 - y[0] ** 2 + y[1] ** 2, [1e-3, 0.5])
    assert int(found.status) == _status.CONVERGED
    np.testing.assert_allclose(found.y, [np.sqrt(0.5), 0.0], atol=1e-8)


def test_start_without_a_value_moves_towards_the_fallback():
    def half(y, args):
        return jnp.where(y[0] < 1, (y**2).sum(), jnp.nan)

    found = solve(half, [3.0, 1.0], fallback=jnp.array([0.5, 1.0]))
    assert int(found.status) == _status.CONVERGED
    assert bool(found.moved)
    np.testing.assert_allclose(found.y, 0.0, atol=1e-8)


def test_start_without_a_value_and_no_way_out_is_reported():
    found = solve(lambda y, _: jnp.nan * y.sum(), [0.0, 0.0])
    assert int(found.status) == _status.INVALID
    assert int(found.num_steps) == 0


def test_step_limit_is_reported():
    found = solve(rosenbrock, np.full(6, -1.2), max_steps=3)
    assert int(found.status) == _status.STEP_LIMIT
    assert "step limit" in _status.message(found.status)


def test_unbounded_descent_is_not_convergence():
    found = solve(lambda y, _: -(y[0] ** 3), [1.0], max_steps=60)
    assert int(found.status) != _status.CONVERGED


def test_inequality_constraint():
    # minimize (x - 2)^2 + y^2 subject to x <= 1: x = 1 with multiplier 2, by the augmented Lagrangian.
    stiffness = 10.0

    def push(y, z):
        return jnp.maximum(z[0] + stiffness * (y[0] - 1.0), 0.0)

    def value(y, z):
        return (y[0] - 2.0) ** 2 + y[1] ** 2 + (push(y, z) ** 2 - z[0] ** 2) / (2 * stiffness)

    problem = Problem(
        lambda y, args, z: (*jax.value_and_grad(value)(y, z), y, None),
        lambda y, args, z, found: (Dense(jax.hessian(value)(y, z)), Dense(2.0 * jnp.eye(2))),
        lambda y, args, z: (push(y, z)[None], jnp.abs(push(y, z) - z[0]) / stiffness / 1e-10),
        lambda y, args: y[0] <= 1.0,
        lambda x, y, args, z: x - (push(y, z) ** 2 - z[0] ** 2) / (2 * stiffness),
    )
    box = Box(jnp.full(2, -5.0), jnp.full(2, 5.0), jnp.zeros(2, bool))
    found = minimum_of(problem, jnp.array([3.0, 3.0]), None, box, jnp.zeros(1))
    assert int(found.status) == _status.CONVERGED
    np.testing.assert_allclose(found.y, [1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(found.multipliers, [2.0], atol=1e-8)
    # What is reported is the objective without what kept the minimization inside.
    assert float(found.value) == pytest.approx(1.0, abs=1e-8)


def test_vmap_equals_loop():
    starts = jnp.asarray(np.random.default_rng(1).uniform(-2, 2, size=(5, 3)))
    box = Box(jnp.full(3, -3.0), jnp.full(3, 3.0), jnp.zeros(3, bool))
    one = jax.jit(lambda start: minimum_of(problem_of(rosenbrock), start, None, box, jnp.zeros(0)))
    batch = jax.vmap(one)(starts)
    for k, start in enumerate(starts):
        np.testing.assert_allclose(batch.y[k], one(start).y, atol=1e-7)


def test_single_precision():
    found = solve(rosenbrock, np.full(4, -1.2, np.float32))
    assert found.y.dtype == jnp.float32
    assert int(found.status) == _status.CONVERGED
    np.testing.assert_allclose(found.y, 1.0, atol=1e-3)  # eps is 1e-7 and the valley is flat


def test_covariance_leaves_out_pinned_parameters():
    matrix = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 4.0]])
    got = Dense(matrix).inverse(jnp.array([False, True, False])).dense()
    np.testing.assert_allclose(got, [[0.5, 0, 0], [0, 0, 0], [0, 0, 0.25]], atol=1e-15)
    assert np.isnan(Dense(-matrix).inverse(jnp.zeros(3, bool)).variances).any()


def test_one_of_a_batch_ends_where_one_alone_does():
    start = np.full(4, -1.2)
    alone, batched = solve(rosenbrock, start), solve(rosenbrock, start, alone=False)
    assert int(alone.status) == int(batched.status) == _status.CONVERGED
    np.testing.assert_allclose(batched.y, alone.y, atol=1e-8)


@pytest.mark.parametrize("alone", [True, False])
def test_the_hessian_is_that_at_the_minimum(alone):
    box = Box(jnp.full(3, -3.0), jnp.full(3, 3.0), jnp.zeros(3, bool))
    problem, none = problem_of(rosenbrock), jnp.zeros(0)
    found, hessian = minimize(problem, jnp.full(3, -1.2), None, box, none, curved=True, alone=alone)
    np.testing.assert_allclose(hessian.dense(), jax.hessian(rosenbrock)(found.y, None), rtol=1e-10)


def test_what_is_not_wanted_takes_no_step():
    found = solve(rosenbrock, np.full(4, -1.2), wanted=False)
    assert int(found.num_steps) == 0
    assert int(found.status) != _status.CONVERGED
