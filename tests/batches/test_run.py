"""How long jobs run, and functions over long batches."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextstat_jax._base._errors import DatasetError, FitError, ModelError
from nextstat_jax._batches._batched import batched
from nextstat_jax._batches._engine import results
from nextstat_jax._batches._run import Run, check_run


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0: expected a positive integer"),
        ({"workers": True}, "workers=True: expected a positive integer"),
        ({"batch_size": 2.0}, r"batch_size=2.0: expected a positive integer"),
        ({"mesh": 3}, "mesh is a int: give a jax.sharding.Mesh"),
        ({"executor": 3}, "executor is a int: give an executor"),
        ({"mesh": "one", "executor": "two"}, "mesh and executor are two places to compute: give one of them"),
        ({"mesh": jax.make_mesh((1,), ("a",)), "workers": 2}, "workers says how many .* give one of them"),
        ({"progress": "yes"}, "progress='yes': expected True, False or None"),
    ],
)
def test_what_no_job_can_run_with(options, message):
    with pytest.raises(FitError, match=message):
        Run(**options)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_that_forks_is_refused_with_the_remedy(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method))
    if method == "fork":
        with pytest.raises(FitError, match=r"starts its processes by a fork.*get_context\(.spawn.\)"):
            Run(executor=pool)
    else:
        assert Run(executor=pool).executor is pool
    pool.shutdown()


def test_a_run_is_a_frozen_record():
    run = Run(workers=2, batch_size=100)
    assert run == Run(workers=2, batch_size=100)
    assert pickle.loads(pickle.dumps(run)) == run
    with pytest.raises(AttributeError):
        run.workers = 3  # type: ignore[misc]
    assert [Run().shows(True), Run(progress=False).shows(True), Run(progress=True).shows(False)] == [True, False, True]
    with pytest.raises(DatasetError, match=r"run is a dict: give a Run, as in run=Run\(workers=2\)"):
        check_run({"workers": 2}, DatasetError)


def _scaled(shared, mesh):
    assert mesh is None or mesh.axis_names == ("row",)
    return lambda task: float(task * shared["x"].sum())


@pytest.mark.parametrize("place", ["threads", "executor", "mesh"])
def test_the_engine_gives_the_same_everywhere(place):
    shared = {"x": jnp.arange(3.0)}
    with ThreadPoolExecutor(2) as pool:
        run = {
            "threads": Run(workers=2),
            "executor": Run(executor=pool),
            "mesh": Run(mesh=jax.make_mesh((1, 1), ("a", "b"))),
        }[place]
        assert list(results(run, _scaled, shared, range(5))) == [0.0, 3.0, 6.0, 9.0, 12.0]


def test_no_length_of_a_batch_compiles_again():
    traced = []

    def function(x, y):
        traced.append(1)
        return {"sum": (x * y).sum(), "x": x}

    over = batched(function, 8)
    for n in (5, 8, 20):
        x = np.arange(3.0 * n).reshape(n, 3)
        result = over(jnp.asarray(x), x + 1)
        np.testing.assert_allclose(result["sum"], (x * (x + 1)).sum(1), rtol=1e-14)
        np.testing.assert_array_equal(result["x"], x)
    assert len(traced) == 1


def test_batches_inside_transformations_and_of_nothing():
    over = batched(lambda x: (x**2).sum(), 4)
    x = jnp.arange(18.0).reshape(6, 3)
    np.testing.assert_allclose(jax.jit(over)(x), (x**2).sum(1))
    np.testing.assert_allclose(jax.grad(lambda x: over(x).sum())(x), 2 * x)
    assert over(jnp.zeros((0, 3))).shape == (0,)
    keys = batched(jax.random.normal, 4)(jax.random.split(jax.random.key(0), 6))
    np.testing.assert_allclose(keys, jax.vmap(jax.random.normal)(jax.random.split(jax.random.key(0), 6)))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_batch():
    with pytest.raises(ModelError, match="batch_size=0: expected a positive integer"):
        batched(lambda x: x, 0)
    with pytest.raises(ModelError, match="must share one leading axis"):
        batched(lambda x, y: x)(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ModelError, match="must share one leading axis"):
        batched(lambda x: x)(1.0)
