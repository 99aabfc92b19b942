"""From a workspace to a model: the parameter of interest that is asked for, and compressed files."""

from __future__ import annotations

import gzip
import json
import warnings

import numpy as np
import pytest

import nextstat_jax as nextstat
from tests.building import normfactor, normsys, sample, staterror, workspace


def spec_of(poi="mu", signal=True):
    """A signal and two normalizations; without the signal no modifier declares mu."""
    rest = [sample("bkg", [50.0, 30.0], normsys("scale", 0.9, 1.1), normfactor("norm"), staterror("mc", [3.0, 2.0]))]
    mine = [sample("signal", [5.0, 9.0], normfactor("mu"))] if signal else []
    control = [sample("bkg", [200.0], normfactor("norm"))]
    return workspace({"SR": [*mine, *rest], "CR": control}, {"SR": [57.0, 41.0], "CR": [204.0]}, poi=poi)


PATCH = [{"op": "add", "path": "/channels/0/samples/-", "value": sample("signal", [5.0, 9.0], normfactor("mu"))}]


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec_of())


def test_the_measurement_says_by_default(model):
    assert (model.poi, model.poi_index) == ("mu", model.parameter_names().index("mu"))


@pytest.mark.parametrize("spec", [spec_of(), spec_of(poi="")])
def test_a_model_without_a_parameter_of_interest(spec):
    model = nextstat.from_pyhf(spec, poi=None)
    assert model.poi is None and model.poi_index is None
    assert "poi=None" in repr(model)
    with pytest.raises(nextstat.ModelError, match="the model has none .*name one with with_poi, or with from_pyhf"):
        nextstat.q0(model)


@pytest.mark.parametrize("name", ["norm", "scale", "mc[1]"])
def test_any_parameter_can_be_the_one_of_interest(model, name):
    other = nextstat.from_pyhf(spec_of(), poi=name)
    assert other.poi == name and other.poi_index == model.index(name)
    renamed = model.with_poi(name)
    assert renamed.names == other.names
    # The likelihood is the same: only what is asked about changes.
    assert float(renamed.nll(renamed.parameter_init())) == float(model.nll(model.parameter_init()))
    conditional = nextstat.profile(renamed, 1.1)
    assert float(conditional.nll) == pytest.approx(float(nextstat.fit(model, fixed={name: 1.1}).nll), abs=1e-9)


def test_with_poi_and_back(model):
    assert model.with_poi(None).poi_index is None
    assert model.with_poi(None).with_poi("mu").names == model.names
    with pytest.raises(nextstat.FitError, match="there is no parameter 'nrm'; did you mean 'norm'"):
        model.with_poi("nrm")


@pytest.mark.parametrize(
    ("poi", "message"),
    [
        ("scal", "poi='scal': there is no such parameter; did you mean 'scale'"),
        ("mc", "poi='mc': there is no such parameter; did you mean 'mc."),
        (3, "poi=3: expected the name of a parameter, or None"),
    ],
)
def test_unknown_parameters_of_interest(poi, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        nextstat.from_pyhf(spec_of(), poi=poi)
    assert "\n" not in str(failure.value)


def test_one_that_nothing_declares_is_announced():
    """As a background-only likelihood whose signal comes with a patch: read, without the parameter of interest."""
    spec = spec_of(signal=False)
    with pytest.warns(UserWarning, match="'measurement' names the parameter of interest 'mu', which no modifier"):
        model = nextstat.from_pyhf(spec)
    assert model.poi is None
    assert bool(nextstat.fit(model).converged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nextstat.from_pyhf(spec, poi=None).poi is None
        assert nextstat.from_pyhf(spec, poi="norm").poi == "norm"
        assert nextstat.from_pyhf(spec, patch=PATCH).poi == "mu"


def test_one_of_several_components_needs_a_name():
    with pytest.raises(nextstat.WorkspaceError, match="'mc', a staterror of 2 components") as failure:
        nextstat.from_pyhf(spec_of(poi="mc"))
    assert failure.value.path == "$.measurements[0].config.poi"
    assert nextstat.from_pyhf(spec_of(poi="mc"), poi="mc[0]").poi == "mc[0]"


def test_compressed_files(model, tmp_path):
    text = json.dumps(spec_of()).encode()
    path, patch = tmp_path / "workspace.json.gz", tmp_path / "patch.json.gz"
    path.write_bytes(gzip.compress(text))
    patch.write_bytes(gzip.compress(json.dumps(PATCH).encode()))
    point = model.parameter_init()
    for source in (path, gzip.compress(text)):
        read = nextstat.from_pyhf(source)
        assert read.names == model.names
        assert float(read.nll(point)) == float(model.nll(point))
    background = tmp_path / "background.json.gz"
    background.write_bytes(gzip.compress(json.dumps(spec_of(signal=False)).encode()))
    patched = nextstat.from_pyhf(str(background), patch=patch)
    np.testing.assert_array_equal(patched.template("signal"), model.template("signal"))


@pytest.mark.parametrize(
    "content", [gzip.compress(b'{"channels": []}' * 50)[:-20], b"\x1f\x8bnothing"], ids=["cut", "no gzip"]
)
def test_broken_compressed_files(content, tmp_path):
    path = tmp_path / "workspace.json.gz"
    path.write_bytes(content)
    with pytest.raises(nextstat.WorkspaceError, match="gzip"):
        nextstat.from_pyhf(path)
