"""One function over many rows: the schedule of each device, the same rows on any number of cores, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextstat_jax._base._errors import FitError
from nextstat_jax._batches import _schedule
from nextstat_jax._batches._schedule import Schedule, map_rows, schedule


@pytest.mark.parametrize(
    ("n", "platform", "cores", "expected"),
    [
        (40, "cpu", 1, Schedule(None, 40, 1)),
        (40, "cpu", 2, Schedule(None, 5, 2)),
        (41, "cpu", 2, Schedule(None, 6, 2)),
        (3, "cpu", 16, Schedule(None, 1, 3)),
        (1, "cpu", 16, Schedule(None, 1, 1)),
        (40, "gpu", 16, Schedule(40, 40, 1)),
        (1000, "gpu", 16, Schedule(64, 1000, 1)),
    ],
)
def test_schedules(n, platform, cores, expected):
    assert schedule(n, platform, cores) == expected


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 25])
def test_rows_are_the_same_on_any_number_of_cores(monkeypatch, n, cores):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: cores)
    rows, keys = np.arange(3.0 * n).reshape(n, 3), jax.random.split(jax.random.key(0), n)
    total, kept, drawn = map_rows(_three, (rows, 2.0, keys), (0, None, 0))
    np.testing.assert_allclose(total, 2.0 * rows.sum(1))
    np.testing.assert_array_equal(kept, rows)
    np.testing.assert_array_equal(jax.random.key_data(drawn), jax.random.key_data(keys))


def _three(row, factor, key):
    return factor * row.sum(), row, key


def test_rows_in_batches(monkeypatch):
    # What a GPU gets, on a CPU.
    monkeypatch.setattr(_schedule, "_platform", lambda leaves: "gpu")
    monkeypatch.setattr(_schedule, "_GPU_BATCH", 4)
    rows = np.arange(30.0).reshape(10, 3)
    batches = []

    def row_sum(row, factor):
        batches.append(row)
        return factor * row.sum()

    np.testing.assert_allclose(map_rows(row_sum, (rows, 2.0), (0, None)), 2.0 * rows.sum(1))
    # Two full batches and the rest.
    assert len(batches) == 2


def test_settings_of_the_caller_hold_in_every_thread(monkeypatch):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: 2)
    rows = jnp.ones((8, 3))

    def promotes(row):
        return row[None, :] + row

    assert map_rows(promotes, (rows,), (0,)).shape == (8, 1, 3)
    # The setting is local to the caller's thread; a thread that traced anew would not know of it.
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        map_rows(lambda row: promotes(row), (rows,), (0,))


def test_errors_come_out_of_the_threads(monkeypatch):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: 2)

    def refuse(x):
        raise FitError("not this one")

    def refusing(row):
        return jax.pure_callback(refuse, jax.ShapeDtypeStruct((), row.dtype), row.sum())

    with pytest.raises(Exception, match="not this one"):
        map_rows(refusing, (jnp.ones((4, 2)),), (0,))
