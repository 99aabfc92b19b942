"""Nothing but model, seed and number decides a toy."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._batches._run import Run
from nextstat_jax._toys import _runs
from nextstat_jax._toys._toys import ToyFits, fit_toys, stream_toys
from tests.batches.support import Unreliable
from tests.conftest import ROOT
from tests.toys.support import ALL, N, assert_same, fit_small, spec

# Chunks that share a compiled program with those of ``fit_small``.
FIFTY = Run(batch_size=50)


@pytest.mark.slow
def test_batch_sizes_and_threads_change_nothing(model, toys):
    default = fit_toys(model, N, seed=5)  # another quantity less, and one chunk
    assert_same(default, toys)
    assert default.uncertainties is None
    assert default.data is None
    assert_same(fit_small(model, N, workers=1), toys)
    assert_same(fit_small(model, N, workers=3, batch_size=23), toys)


@pytest.mark.slow
def test_chunks_are_computed_alone_and_joined(model, toys):
    chunks = list(stream_toys(model, N, seed=5, quantities=ALL, run=FIFTY))
    assert [chunk.n_toys for chunk in chunks] == [50] * 6
    assert [chunk.n_toys for chunk in stream_toys(model, 70, seed=5, quantities=ALL, run=FIFTY)] == [50, 20]
    assert_same(ToyFits.join(chunks), toys)
    alone = fit_small(model, 50, first_toy=100)
    assert_same(alone, chunks[2])
    assert_same(ToyFits.join([*chunks[:2], alone, *chunks[3:]]), toys)
    with pytest.raises(nextstat.FitError, match="same toys"):
        ToyFits.join([alone, chunks[2]])
    with pytest.raises(nextstat.FitError, match="differ in seed"):
        ToyFits.join([alone, fit_small(model, 2, seed=6)])
    with pytest.raises(nextstat.FitError, match="cannot be joined"):
        ToyFits.join([alone, fit_small(model, 2, test_stat="q0")])
    with pytest.raises(nextstat.FitError, match="nothing to join"):
        ToyFits.join([])


@pytest.mark.slow
def test_the_vectorized_schedule_gives_the_same_toys(model, toys, monkeypatch):
    """What a GPU does, on this machine."""
    monkeypatch.setattr(_runs, "together", lambda platform: True)
    assert _runs.chunk_size(model.likelihood) == 4096
    together = fit_toys(model, 40, seed=5, run=Run(batch_size=32))
    np.testing.assert_array_equal(together.toy, np.arange(40))
    np.testing.assert_array_equal(together.status, toys.status[:40])
    np.testing.assert_allclose(together.mu_hat, toys.mu_hat[:40], atol=1e-8)
    np.testing.assert_allclose(together.nll, toys.nll[:40], rtol=1e-12)


def test_the_schedule_of_a_device():
    assert not _runs.together("cpu")
    assert _runs.together("gpu")
    assert _runs.together("tpu")


def test_a_stream_stops_when_its_reader_does(model):
    stream = stream_toys(model, 10**9, seed=5, quantities=ALL, run=Run(batch_size=64))
    first = next(stream)
    assert first.n_toys == 64
    stream.close()


def test_progress_is_shown_on_request(model, capfd):
    fit_small(model, 3)
    assert capfd.readouterr().err == ""
    fit_small(model, 3, progress=True)
    assert "3/3" in capfd.readouterr().err


_ON_A_MESH = """
import json, sys
import numpy as np, jax
import nextstat_jax as nextstat
from jax.sharding import Mesh
from nextstat_jax._batches._run import Run
from nextstat_jax._toys._toys import fit_toys
model = nextstat.from_pyhf(json.loads(sys.stdin.read()))
devices = np.array(jax.devices())
n = int(sys.argv[1])
mesh = jax.make_mesh((2, 4), ("a", "b")) if n == 8 else Mesh(devices[:n], ("toy",))
toys = fit_toys(model, 301, seed=5, run=Run(mesh=mesh, batch_size=30))
names = ("toy", "mu_hat", "nll", "params", "mu_uncertainty", "status")
print(json.dumps({name: np.asarray(getattr(toys, name)).tolist() for name in names}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 8])
def test_meshes_change_nothing(n, toys):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_MESH, str(n)],
        input=json.dumps(spec()),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["toy"] == list(range(N + 1))
    for name, values in result.items():
        wanted = np.asarray(getattr(toys, name))
        np.testing.assert_allclose(values[:N], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


# Executors


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.slow
def test_processes_change_nothing(model, toys, pool):
    assert_same(fit_small(model, N, executor=pool), toys)


@pytest.mark.slow
def test_a_killed_process_pool_is_named(model, pool):
    fit_small(model, 1, executor=pool)
    for process in pool._processes.values():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(nextstat.FitError, match=r"toys 0 to 63 was lost 4 times .*BrokenProcessPool.*first_toy"):
        fit_small(model, 256, executor=pool)


@pytest.mark.parametrize("error", [BrokenProcessPool, ConnectionResetError, type("KilledWorker", (Exception,), {})])
def test_a_lost_chunk_is_run_again(model, toys, error):
    executor = Unreliable(lost={1, 3}, error=error)
    assert_same(fit_small(model, N, executor=executor, workers=1), toys)
    assert executor.submitted == 7


def test_an_executor_that_loses_everything_is_given_up(model):
    executor = Unreliable(lost=range(100))
    with pytest.raises(nextstat.FitError, match="toys 0 to 63 was lost 4 times"):
        fit_small(model, N, executor=executor, workers=1)


def test_a_wrong_chunk_is_named_in_one_line(model):
    executor = Unreliable(lost={2}, error=lambda text: RuntimeError(f"{text}\nand more"))
    with pytest.raises(nextstat.FitError, match=r"toys 64 to 127 failed: RuntimeError: the worker is gone$"):
        fit_small(model, N, executor=executor)
    assert executor.submitted == 5


@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing(model):
    distributed = pytest.importorskip("distributed")
    n = 10_000
    wanted = fit_toys(model, n, seed=5)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        stream = stream_toys(model, n, seed=5, run=Run(batch_size=200, executor=client.get_executor(), workers=2))
        parts = [next(stream)]
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        parts.extend(stream)
    assert_same(ToyFits.join(parts), wanted)
