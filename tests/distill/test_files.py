"""Data sets as files: what is written comes back; what is damaged is refused."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError
from nextstat_jax._batches._run import Run
from nextstat_jax.distill import (
    from_npz,
    from_parquet,
    generate_dataset,
    generate_parquet,
    iterate_parquet,
    to_npz,
    to_parquet,
)
from tests import building as b
from tests.distill.support import NEGATIVE, QUIET, assert_equal, killed

duckdb = pytest.importorskip("duckdb")
pl = pytest.importorskip("polars")


@pytest.fixture(scope="module")
def ds(model):
    return generate_dataset(model, 200, method="profile", seed=2, run=QUIET)


@pytest.mark.parametrize(("write", "read"), [(to_npz, from_npz), (to_parquet, from_parquet)])
def test_what_is_written_comes_back(ds, model, tmp_path, write, read):
    write(ds, tmp_path / "a.file")
    again = read(tmp_path / "a.file")
    assert_equal(again, ds)
    assert again.metadata == ds.metadata
    write(ds[:5], tmp_path / "a.file")  # replaces it
    assert len(read(str(tmp_path / "a.file"))) == 5
    bare = generate_dataset(model, 8, run=QUIET, include_gradient=False, include_rates=False)
    write(bare, tmp_path / "bare")
    assert_equal(read(tmp_path / "bare"), bare)
    assert sorted(os.listdir(tmp_path)) == ["a.file", "bare"]  # nothing temporary is left


@pytest.mark.parametrize(("write", "read"), [(to_npz, from_npz), (to_parquet, from_parquet)])
def test_damaged_files_are_refused(ds, tmp_path, write, read):
    path = tmp_path / "a.file"
    write(ds, path)
    whole = path.read_bytes()
    middle = len(whole) // 3
    damaged = bytes([*whole[:middle], *(255 - x for x in whole[middle : middle + 64]), *whole[middle + 64 :]])
    for content in (whole[:-20], whole[: len(whole) // 2], whole[:3], b"", b"no such format", damaged):
        path.write_bytes(content)
        with pytest.raises(DatasetError) as caught:
            read(path)
        assert "\n" not in str(caught.value) and "a.file" in str(caught.value)
    with pytest.raises(DatasetError, match="there is no file"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot be written"):
        write(ds, tmp_path / "nowhere" / "a.file")


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickled_objects_are_not_read(ds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", header=np.array([_Trap()], dtype=object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(_Trap()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(DatasetError, match="damaged, or was not written by this package"):
            from_npz(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


def test_other_files_of_the_same_kind_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    pl.DataFrame({"nll": [1.0]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="was not written by this package"):
        from_npz(tmp_path / "a.npz")
    with pytest.raises(DatasetError, match="no metadata of this package"):
        from_parquet(tmp_path / "a.parquet")


def test_a_failed_write_leaves_the_old_file(ds, tmp_path, monkeypatch):
    to_npz(ds, tmp_path / "a.npz")
    old = (tmp_path / "a.npz").read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DatasetError, match="cannot be written: no space left"):
        to_npz(ds, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == old and os.listdir(tmp_path) == ["a.npz"]


def test_a_parameter_called_nll(tmp_path):
    spec = b.one_channel([b.sample("s", [5.0], b.normfactor("nll")), b.sample("b", [9.0])], [11.0], poi="nll")
    odd = generate_dataset(nextstat.from_pyhf(spec), 8, run=QUIET)
    with pytest.raises(DatasetError, match="a parameter is called 'nll'"):
        to_parquet(odd, tmp_path / "a.parquet")
    to_npz(odd, tmp_path / "a.npz")
    assert_equal(from_npz(tmp_path / "a.npz"), odd)


def test_readers_of_others(ds, tmp_path):
    path = tmp_path / "a.parquet"
    to_parquet(ds, path)
    frame = pl.read_parquet(path)
    gradients = [f"grad_{name}" for name in ds.parameter_names]
    assert frame.columns == [*ds.parameter_names, "nll", *gradients, "rate_0", "rate_1"]
    assert np.array_equal(frame.select(ds.parameter_names).to_numpy(), ds.parameters)
    assert np.array_equal(frame["nll"].to_numpy(), ds.nll)
    assert np.array_equal(frame.select(gradients).to_numpy(), ds.gradient)
    lowest = duckdb.sql(f"select min(nll), max(mu), count(*) from '{path}'").fetchall()[0]
    assert lowest == (ds.nll.min(), ds.parameters[:, ds.parameter_names.index("mu")].max(), 200)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_parts(model, tmp_path):
    folder = tmp_path / "parts"
    options = {"method": "lhs", "seed": 7, "run": Run(progress=False, batch_size=50)}
    assert generate_parquet(model, folder, 330, part_size=100, **options) == 4
    whole = generate_dataset(model, 330, **options)
    assert_equal(from_parquet(folder), whole)
    # Interrupted between two parts, or in the middle of one.
    (folder / "part-00001.parquet").unlink()
    (folder / ".part-00001.parquet.12345678.tmp").write_bytes(b"half")
    with pytest.raises(DatasetError, match="1 of 4 parts are missing"):
        from_parquet(folder)
    assert generate_parquet(model, folder, 330, part_size=100, **options) == 1
    assert not list(folder.glob("*.tmp")), "what a killed run has left is removed"
    assert generate_parquet(model, folder, 330, part_size=100, **options) == 0
    assert_equal(from_parquet(folder), whole)
    assert [table.num_rows for table in iterate_parquet(folder)] == [100, 100, 100, 30]
    assert pq.read_table(folder)["nll"].to_pylist() == whole.nll.tolist(), "a folder as others read it"
    total = duckdb.sql(f"select sum(nll) from '{folder}/*.parquet'").fetchall()[0][0]
    assert total == pytest.approx(whole.nll.sum(), rel=1e-12)
    assert np.array_equal(pl.read_parquet(folder / "*.parquet")["nll"].sort().to_numpy(), np.sort(whole.nll))


def test_points_without_a_finite_nll_are_counted(tmp_path):
    model = nextstat.from_pyhf(NEGATIVE)
    options = {"method": "uniform", "nonfinite": "drop", "run": QUIET}
    whole = generate_dataset(model, 300, **options)
    assert 0 < whole.n_samples < 300
    generate_parquet(model, tmp_path / "parts", 300, part_size=100, **options)
    found = from_parquet(tmp_path / "parts").metadata
    assert (found["n_samples"], found["n_nonfinite"]) == (whole.n_samples, whole.metadata["n_nonfinite"])
    assert whole[:12].metadata["n_samples"] == 12


def test_a_damaged_part_is_named(model, tmp_path):
    generate_parquet(model, tmp_path / "parts", 20, run=QUIET)
    (tmp_path / "parts" / "part-00000.parquet").write_bytes(b"PAR1half")
    with pytest.raises(DatasetError, match=r"part-00000\.parquet is damaged"):
        list(iterate_parquet(tmp_path / "parts"))


def test_a_folder_belongs_to_one_request(model, tmp_path):
    folder = tmp_path / "parts"
    generate_parquet(model, folder, 20, run=QUIET)
    other = model.with_data([50.0, 48.0])
    refused = [
        (other, 20, {}, "another model"),
        (model, 21, {}, "n_samples=20, not 21"),
        (model, 20, {"seed": 1}, "seed=0, not 1"),
        (model, 20, {"method": "lhs"}, "method='sobol', not 'lhs'"),
        (model, 20, {"bounds": {"mu": (1, 2)}}, "other bounds"),
        (model, 20, {"include_gradient": False}, "include_gradient=True"),
    ]
    for asked, n, options, message in refused:
        with pytest.raises(DatasetError, match=message):
            generate_parquet(asked, folder, n, run=QUIET, **options)
    (folder / "_manifest.json").write_text('{"format"')
    with pytest.raises(DatasetError, match="damaged"):
        generate_parquet(model, folder, 20, run=QUIET)
    with pytest.raises(DatasetError, match="damaged"):
        from_parquet(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(DatasetError, match="holds files and no _manifest"):
        generate_parquet(model, tmp_path / "full", 20, run=QUIET)
    with pytest.raises(DatasetError, match="no data set of generate_parquet"):
        from_parquet(tmp_path / "full")


@pytest.mark.slow
def test_killed_and_resumed(model, tmp_path):
    options = {"part_size": 500, "seed": 3, "nonfinite": "keep"}
    folder, run = tmp_path / "parts", Run(progress=False, batch_size=500)
    code = (
        "import nextstat_jax as ns; from nextstat_jax.distill import generate_parquet\n"
        "from nextstat_jax._batches._run import Run\n"
        "from tests.distill.support import SPEC\n"
        f"generate_parquet(ns.from_pyhf(SPEC), {str(folder)!r}, 20_000, run={run!r}, **{options!r})"
    )
    done = len(killed([sys.executable, "-c", code], folder, 4))
    assert 4 <= done < 40
    assert generate_parquet(model, folder, 20_000, run=run, **options) == 40 - done
    del options["part_size"]
    assert_equal(from_parquet(folder), generate_dataset(model, 20_000, run=run, **options))
