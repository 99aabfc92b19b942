"""Data sets made by four Dask workers, of which one is killed, and by clients that are killed."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import Executor

import pytest

from nextstat_jax._batches._run import Run
from nextstat_jax.distill import from_parquet, generate_dataset, generate_parquet
from tests.distill.support import assert_equal, killed, parts_of

pytestmark = pytest.mark.slow

N, CHUNK, PART = 300_000, 500, 5000
PARTS = N // PART
OPTIONS = {"method": "profile", "seed": 4}


def run(executor=None):
    return Run(progress=False, batch_size=CHUNK, executor=executor)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=4, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def here(model, tmp_path_factory):
    """The folder that this process makes alone."""
    folder = tmp_path_factory.mktemp("here") / "parts"
    assert generate_parquet(model, folder, N, part_size=PART, run=run(), **OPTIONS) == PARTS
    return folder


class Saboteur(Executor):
    """Hands tasks to a cluster, and kills one of its busy workers at the first task for which it is told to."""

    def __init__(self, client, when):
        self.client, self.when = client, when
        self.executor, self.submitted, self.victim, self.unfinished = client.get_executor(), 0, None, 0

    def submit(self, fn, /, *args, **kwargs):
        self.submitted += 1
        future = self.executor.submit(fn, *args, **kwargs)
        if self.victim is None and self.when(self.submitted):
            self._kill()
        return future

    def _kill(self):
        pids = self.client.run(os.getpid)
        assert len(pids) == 4
        busy = self.client.processing()
        address = max(pids, key=lambda name: len(busy.get(name, ())))
        self.unfinished, self.victim = len(busy.get(address, ())), pids[address]
        os.kill(self.victim, signal.SIGKILL)


def test_parts_with_a_killed_worker(model, client, here, tmp_path):
    folder, at_kill = tmp_path / "parts", []

    def some_parts_exist(_):
        count = len(parts_of(folder))
        if count >= 5:
            at_kill.append(count)
        return count >= 5

    executor = Saboteur(client, some_parts_exist)
    assert generate_parquet(model, folder, N, part_size=PART, run=run(executor), **OPTIONS) == PARTS
    assert 5 <= at_kill[0] < PARTS // 2 and executor.unfinished > 0
    assert executor.victim not in client.run(os.getpid).values()
    assert executor.submitted >= N // CHUNK
    assert_equal(from_parquet(folder), from_parquet(here))
    for one, two in zip(parts_of(folder), parts_of(here), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_a_data_set_with_a_killed_worker(model, client, here):
    executor = Saboteur(client, lambda submitted: submitted == N // CHUNK // 2)
    found = generate_dataset(model, N, run=run(executor), **OPTIONS)
    assert executor.victim not in client.run(os.getpid).values() and executor.unfinished > 0
    assert_equal(found, from_parquet(here))


def test_a_killed_client_is_resumed_on_the_cluster(model, client, here, tmp_path):
    folder = tmp_path / "parts"
    code = (
        "import distributed\nimport nextstat_jax as ns\nfrom nextstat_jax.distill import generate_parquet\n"
        "from tests.distill.support import SPEC\nfrom tests.distill.test_cluster import OPTIONS, run\n"
        f"with distributed.Client({client.scheduler.address!r}) as client:\n"
        f"    generate_parquet(ns.from_pyhf(SPEC), {str(folder)!r}, {N}, part_size={PART},\n"
        "                     run=run(client.get_executor()), **OPTIONS)\n"
    )
    left_behind = killed([sys.executable, "-c", code], folder, 5)
    done = {file: file.stat().st_mtime_ns for file in left_behind}
    assert 5 <= len(done) < PARTS
    left = generate_parquet(model, folder, N, part_size=PART, run=run(client.get_executor()), **OPTIONS)
    assert left == PARTS - len(done)
    assert all(file.stat().st_mtime_ns == when for file, when in done.items())
    for one, two in zip(parts_of(folder), parts_of(here), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
