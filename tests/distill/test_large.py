"""A million points on disk: flat memory, killed in the middle and resumed, read by other libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import nextstat_jax as nextstat
from nextstat_jax.distill import generate_parquet, iterate_parquet
from tests.distill.support import QUIET, SPEC, killed, parts_of

duckdb = pytest.importorskip("duckdb")
pl = pytest.importorskip("polars")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak memory")]

FEW, MANY, PART = 200_000, 1_000_000, 40_000
OPTIONS = {"method": "sobol", "seed": 6}
# What the peak may grow by from FEW to MANY points, in units of the data that come in addition (83 and 134 MB).
GROWTH = 0.1
# What the peak is above the memory in use after a first small run, whose compilation takes more than any number of
# points. ru_maxrss cannot be set back, and begins with what the process had that started this one.
CODE = """
import ctypes, json, re, sys
import nextstat_jax as ns
from nextstat_jax import Run
from nextstat_jax.distill import generate_dataset, generate_parquet


def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

function, workspace, options, folder = sys.argv[1:]
options, model = {**json.loads(options), "run": Run(progress=False)}, ns.from_pyhf(open(workspace).read())
generate_parquet(model, folder + "-first", **{**options, "n_samples": 10_000})
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
if function == "generate_parquet":
    generate_parquet(model, folder, **options)
else:
    del options["part_size"]
    kept = generate_dataset(model, **options)
print(memory("VmHWM") - before)
"""


class Case(NamedTuple):
    """A workspace, a command that writes ``MANY`` of its points, its folder, and bytes that it took at its peak."""

    spec: dict
    command: list
    folder: Path
    peak: int


def arguments(function, workspace, options, folder):
    return [sys.executable, "-c", CODE, function, str(workspace), json.dumps(options), str(folder)]


def peak_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module", params=["own", "complex"])
def case(request, tmp_path_factory):
    spec = SPEC if request.param == "own" else request.getfixturevalue("published")("complex")
    root = tmp_path_factory.mktemp(request.param)
    (root / "workspace.json").write_text(json.dumps(spec))
    options = {**OPTIONS, "n_samples": MANY, "part_size": PART}
    command = arguments("generate_parquet", root / "workspace.json", options, root / "whole")
    yield Case(spec, command, root / "whole", peak_of(command))
    shutil.rmtree(root)


@pytest.fixture
def scratch(tmp_path):
    """A folder that is emptied at once: pytest would keep gigabytes of several runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def changed(command, scratch, function="generate_parquet", **changes):
    """The command with other options, and another folder."""
    options = {**json.loads(command[5]), **changes}
    return arguments(function, command[4], options, scratch / f"parts-{len(list(scratch.iterdir()))}")


def test_memory_is_flat(case, scratch):
    columns = next(iterate_parquet(case.folder)).num_columns
    more = 8 * columns * (MANY - FEW)
    growth = case.peak - peak_of(changed(case.command, scratch, n_samples=FEW))
    assert growth < GROWTH * more, (growth, more, case.peak)
    assert case.peak < 40e6
    # What holds the points in memory would be found out.
    assert peak_of(changed(case.command, scratch, "generate_dataset")) > 8 * columns * MANY


def test_killed_and_resumed(case, scratch):
    command = changed(case.command, scratch)
    folder = Path(command[-1])
    done = len(killed(command, folder, 8))
    assert 8 <= done < MANY // PART - 4
    model = nextstat.from_pyhf(case.spec)
    assert generate_parquet(model, folder, MANY, part_size=PART, run=QUIET, **OPTIONS) == MANY // PART - done
    for one, two in zip(parts_of(folder), parts_of(case.folder), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_polars_duckdb_and_pyarrow_read_the_same(case):
    tables = list(iterate_parquet(case.folder))
    assert [table.num_rows for table in tables] == [PART] * (MANY // PART)
    whole = pa.concat_tables(tables)
    files = str(case.folder / "part-*.parquet")
    frame = pl.read_parquet(files)
    with duckdb.connect() as database:
        rows = database.sql(f"select * from read_parquet('{files}')").fetchnumpy()
        totals = ", ".join(f'fsum("{name}")' for name in whole.column_names)
        sums = database.sql(f"select {totals} from read_parquet('{files}')").fetchall()[0]
        least = database.sql(f"select min(nll), count(*) from '{files}' where mu < 1").fetchall()[0]
    lazy = pl.scan_parquet(files).sum().collect().row(0)
    assert frame.columns == list(rows) == whole.column_names and len(frame) == MANY
    for k, name in enumerate(whole.column_names):
        column = whole.column(name).to_numpy()
        assert column.dtype == np.float64 and np.isfinite(column).all()
        assert np.array_equal(frame[name].to_numpy(), column) and np.array_equal(rows[name], column), name
        scale = np.abs(column).sum()
        assert abs(sums[k] - column.sum()) <= 1e-12 * scale and abs(lazy[k] - column.sum()) <= 1e-12 * scale, name
    nll, low = whole.column("nll").to_numpy(), whole.column("mu").to_numpy() < 1
    assert least == (nll[low].min(), low.sum()) and 0 < low.sum() < MANY
    # Parts are no copies of each other.
    first = [table.column("nll")[0].as_py() for table in tables]
    assert len(set(first)) == len(tables)
