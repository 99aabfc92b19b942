"""Models from arrays, and models as files, against the same models from JSON."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError, ModelError, WorkspaceError
from tests.building import histosys, normfactor, normsys, sample, shapefactor, shapesys, staterror, workspace

SIGNAL, TOP, OTHER = [5.0, 9.0, 2.0], [60.0, 40.0, 30.0], [20.0, 25.0]
TILT = ([66.0, 38.0, 33.0], [54.0, 42.0, 27.0])
PARAMETERS = [{"name": "rate", "fixed": True, "inits": [0.1]}, {"name": "mu", "bounds": [[-5.0, 20.0]]}]


def blocks():
    """The arguments of ``from_arrays``."""
    return {
        "nominal": {("SR", "signal"): SIGNAL, ("SR", "top"): np.array(TOP), ("CR", "top"): OTHER},
        "observed": {"SR": [64, 52, 30], "CR": np.array([21.0, 24.0])},
        "poi": "mu",
        "factors": {"mu": ["signal"], "norm": [("SR", "top"), ("CR", "top")]},
        "rates": {"rate": {("SR", "top"): (1.1, 0.9), ("CR", "top"): [0.95, 1.02]}},
        "shapes": {"tilt": {("SR", "top"): TILT}},
        "staterror": {("SR", "signal"): [0.5, 0.4, 0.3], ("SR", "top"): [2.0, 1.5, 1.2]},
        "shapesys": {"own": {("CR", "top"): [1.0, 2.0]}},
        "shapefactors": {"free": [("CR", "top")]},
        "parameters": {"rate": {"fixed": True, "inits": [0.1]}, "mu": {"bounds": [[-5.0, 20.0]]}},
    }


def document():
    """The same as JSON."""
    signal = sample("signal", SIGNAL, normfactor("mu"), staterror("staterror_SR", [0.5, 0.4, 0.3]))
    shape = histosys("tilt", TILT[1], TILT[0])
    mods = [normfactor("norm"), normsys("rate", 0.9, 1.1), shape, staterror("staterror_SR", [2.0, 1.5, 1.2])]
    control = [normfactor("norm"), normsys("rate", 1.02, 0.95), shapesys("own", [1.0, 2.0]), shapefactor("free")]
    return workspace(
        {"SR": [signal, sample("top", TOP, *mods)], "CR": [sample("top", OTHER, *control)]},
        {"SR": [64.0, 52.0, 30.0], "CR": [21.0, 24.0]},
        parameters=PARAMETERS,
    )


def require_same(a, b):
    assert a.likelihood.structure == b.likelihood.structure
    assert a.parameter_names() == b.parameter_names() and a.poi == b.poi
    for x, y in zip(jax.tree.leaves(a.likelihood), jax.tree.leaves(b.likelihood), strict=True):
        np.testing.assert_array_equal(x, y)


def test_arrays_make_the_model_of_the_json():
    require_same(nextstat.from_arrays(**blocks()), nextstat.from_pyhf(document()))


@pytest.mark.parametrize("form", ["dense", "arrow"])
def test_what_is_saved_is_loaded(tmp_path, monkeypatch, form):
    monkeypatch.setenv("NEXTSTAT_JAX_MATRIX", form)
    model = nextstat.from_pyhf(document(), clip_bin_data=0.5, histosys="code0")
    nextstat.save_model(model, tmp_path / "model.npz")
    loaded = nextstat.load_model(tmp_path / "model.npz")
    require_same(model, loaded)
    assert loaded.names == model.names
    template = 1.1 * np.asarray(model.template("top"))
    changed = [one.with_templates({"top": template}) for one in (model, loaded)]
    require_same(*changed)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(DatasetError, match="there is no file"):
        nextstat.load_model(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no model")
    with pytest.raises(DatasetError, match="damaged, or was not written"):
        nextstat.load_model(tmp_path / "text.npz")
    nextstat.save_model(nextstat.from_pyhf(document()), tmp_path / "model.npz")
    whole = (tmp_path / "model.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError):
        nextstat.load_model(tmp_path / "half.npz")
    header = {"format": "nextstat_jax.model/1", "structure": {}, "names": {}}
    np.savez(tmp_path / "empty.npz", header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(DatasetError, match="is damaged"):
        nextstat.load_model(tmp_path / "empty.npz")
    with pytest.raises(DatasetError, match="cannot be written"):
        nextstat.save_model(nextstat.from_pyhf(document()), tmp_path / "no" / "model.npz")
    with pytest.raises(ModelError):
        nextstat.save_model({"channels": []}, tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"nominal": {}}, ModelError, "nominal is empty"),
        ({"nominal": [1.0]}, ModelError, "expected a mapping"),
        ({"nominal": {"SR": SIGNAL}}, ModelError, "no block"),
        ({"nominal": {("SR", "signal"): "many"}}, ModelError, "expected numbers"),
        ({"nominal": {("SR", "signal"): [[1.0]]}}, ModelError, "shape"),
        ({"nominal": {("SR", "signal"): [1.0, np.nan, 2.0]}, "factors": {"mu": ["signal"]}}, WorkspaceError, "'SR'"),
        ({"observed": {"SR": [1.0, 2.0, 3.0]}}, WorkspaceError, "without observation"),
        ({"observed": {"SR": [1.0, -2.0, 3.0], "CR": [1.0, 1.0]}}, WorkspaceError, "observed"),
        ({"poi": 3}, ModelError, "poi"),
        ({"poi": "nobody"}, ModelError, "nobody"),
        ({"factors": {"mu": ["nobody"]}}, ModelError, "no sample 'nobody'"),
        ({"factors": {"mu": [("SR", "nobody")]}}, ModelError, "no yields"),
        ({"factors": {"mu": 3}}, ModelError, "expected a list"),
        ({"rates": {"rate": {("SR", "top"): 1.1}}}, ModelError, "pair"),
        ({"rates": {"rate": {("SR", "top"): ("a", "b")}}}, ModelError, "pair of numbers"),
        ({"rates": {"rate": {("SR", "top"): (-1.0, 1.0)}}}, WorkspaceError, "rates"),
        ({"shapes": {"tilt": {("SR", "top"): ([1.0], [1.0])}}}, WorkspaceError, "SR"),
        ({"staterror": {("SR", "top"): [-1.0, 1.0, 1.0]}}, WorkspaceError, "staterror"),
        ({"parameters": {"rate": {"fxied": True}}}, ModelError, "fxied"),
        ({"parameters": {"rate": 3}}, ModelError, "expected a mapping"),
        ({"normsys": "code9"}, ModelError, "code9"),
        ({"dtype": "int"}, ModelError, "dtype"),
    ],
)
def test_wrong_input(change, error, words):
    given = blocks()
    if "nominal" in change:
        given = {"observed": given["observed"], "nominal": given["nominal"]}
    with pytest.raises(error, match=words):
        nextstat.from_arrays(**given | change)
