"""What tests of surrogates share: small workspaces, comparisons of data sets, processes that are killed."""

from __future__ import annotations

import subprocess
import time

import numpy as np

from nextstat_jax._batches._run import Run
from tests import building as b

QUIET = Run(progress=False)
SPEC = b.one_channel(
    [
        b.sample("signal", [12.0, 11.0], b.normfactor("mu"), b.normsys("norm", 0.95, 1.05)),
        b.sample(
            "background", [50.0, 52.0], b.histosys("shape", [45.0, 47.0], [55.0, 57.0]), b.shapesys("stat", [5.0, 6.0])
        ),
    ],
    [51.0, 48.0],
)
FIXED = [{"name": "norm", "fixed": True, "inits": [0.5]}]
NEGATIVE = b.one_channel(
    [b.sample("signal", [10.0], b.normfactor("mu")), b.sample("background", [50.0], b.normsys("k", 0.9, 1.1))],
    [55.0],
    parameters=[{"name": "mu", "bounds": [[-10.0, 10.0]]}],
)


def assert_equal(one, two):
    """Two data sets are the same, bit for bit."""
    for name in ("parameters", "nll", "gradient", "rates", "parameter_bounds"):
        found, expected = getattr(one, name), getattr(two, name)
        assert (found is None) == (expected is None)
        assert found is None or (found.dtype == expected.dtype and np.array_equal(found, expected)), name
    assert list(one.parameter_names) == list(two.parameter_names)
    assert one.metadata["model_digest"] == two.metadata["model_digest"]
    for name, array in two.reference.arrays().items():
        assert np.array_equal(getattr(one.reference, name), array), name


def parts_of(folder):
    """The parts of a folder of ``generate_parquet``."""
    return sorted(folder.glob("part-*.parquet"))


def killed(command, folder, count):
    """The parts that a process leaves that is killed when it has written so many."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while len(parts_of(folder)) < count and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    return parts_of(folder)
