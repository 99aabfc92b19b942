"""Reading workspaces: what is accepted, from any source, and faults of the text."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._modifiers import REGISTRY
from nextstat_jax._modifiers.histosys import HistoSysData
from nextstat_jax._modifiers.normsys import NormSysData
from nextstat_jax._workspace._records import read_workspace
from tests.building import (
    one_channel,
    sample,
)
from tests.workspace.support import BKG, CONFIG, SIG, appended, changed, everything, refused, small, without

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


PUBLISHED = ("simple", "complex", "tHu", "tttt", "SUSY-2018-04", "SUSY-2018-05", "SUSY-2018-31A")


def test_records_hold_what_the_json_says():
    read, (first, second) = everything(small())
    assert [channel.name for channel in read.channels] == ["SR", "CR"]
    assert [channel.bins for channel in read.channels] == [2, 1]
    sig, bkg = read.channels[0].samples
    assert sig.data == (5.0, 6.5)
    assert [(m.name, m.type, m.data) for m in sig.modifiers] == [
        ("mu", "normfactor", None),
        ("lumi", "lumi", None),
        ("jes", "normsys", NormSysData(hi=1.1, lo=0.9)),
    ]
    assert bkg.modifiers[0].data == HistoSysData(hi_data=(52.0, 62.0), lo_data=(48.0, 58.0))
    assert bkg.modifiers[1].data == (2.0, 3.0)
    assert [m.type for m in read.channels[1].samples[0].modifiers] == ["shapefactor", "shapesys"]
    assert [(o.name, o.data) for o in read.observations] == [("SR", (55.0, 64.0)), ("CR", (510.0,))]
    assert (first.name, first.poi, second.poi) == ("measurement", "mu", "")
    own, mc, mu = first.parameters[1:4]
    assert (own.factors, own.auxdata, mc.sigmas, mu.bounds) == ((600.0,), (610.0,), (0.1, 0.2), ((-1.0, 20.0),))
    assert (mu.inits, mu.fixed, first.parameters[0].fixed) == (None, None, False)
    assert read.version == "1.0.0"


def test_pyhf_reads_the_small_workspace_too():
    model = pyhf.Workspace(small()).model()
    declared = read_workspace(small()).declared
    assert {name: model.config.param_set(name).n_parameters for name in model.config.par_order} == {
        name: parameter.size for name, parameter in declared.items()
    }


def test_every_kind_of_source_gives_the_same(tmp_path):
    spec = small()
    text = json.dumps(spec, indent=1)
    path = tmp_path / "workspace.json"
    path.write_text(text)
    expected = read_workspace(spec)
    for source in (
        text,
        " \n\t" + text,
        "\ufeff" + text,
        text.encode(),
        b"\xef\xbb\xbf" + text.encode(),
        bytearray(text.encode()),
        memoryview(text.encode()),
        text.encode("utf-16"),
        path,
        str(path),
        types.MappingProxyType(spec),
        pyhf.Workspace(spec),
        expected,
    ):
        assert read_workspace(source) == expected
    bracket = tmp_path / "{odd}.json"
    bracket.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_workspace(bracket) == expected


def test_numpy_numbers_and_tuples_inside_a_mapping():
    spec = small()
    spec["channels"][0]["samples"][0]["data"] = np.array([5.0, 6.5])
    spec["channels"][0]["samples"][1]["data"] = (np.float32(50.0), np.int64(60))
    spec["channels"][0]["samples"][0]["modifiers"][2]["data"] = {"lo": np.float64(0.9), "hi": np.asarray(1.1)}
    spec["measurements"][0]["config"]["parameters"][3]["bounds"] = np.array([[-1, 20]])
    spec["channels"] = tuple(spec["channels"])
    assert read_workspace(spec) == read_workspace(small())


def test_a_mapping_is_not_changed():
    spec = small()
    before = copy.deepcopy(spec)
    everything(spec)
    read_workspace(spec, patch=[{"op": "replace", "path": "/channels/0/samples/0/data/0", "value": 7.0}])
    assert spec == before


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_workspaces(published, name):
    spec = published(name)
    read = read_workspace(spec)
    assert read == read_workspace(json.dumps(spec))
    measurement = read.measurement()
    model = pyhf.Workspace(spec).model()
    declared = read.declared
    assert sorted(declared) == sorted(model.config.par_order)
    assert all(declared[name].size == model.config.param_set(name).n_parameters for name in declared)
    assert measurement.poi == read.declared_poi() == model.config.poi_name


def test_a_background_only_workspace_is_read_but_has_no_poi(published):
    read = read_workspace(published("SUSY-2018-31A_background_only"))
    assert read.measurement().poi == "mu_SIG"
    assert read.declared_poi() is None


def test_defaults_are_those_of_pyhf():
    parameters = [{"name": "lumi", "inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [0.1]}]
    for kind, facts in REGISTRY.items():
        data = {
            "normsys": {"lo": 0.9, "hi": 1.1},
            "histosys": {"lo_data": [9.0, 9.0], "hi_data": [11.0, 11.0]},
            "shapesys": [1.0, 1.0],
            "staterror": [1.0, 1.0],
        }.get(kind)
        spec = one_channel(
            [sample("bkg", [10.0, 10.0], {"name": "lumi", "type": kind, "data": data})],
            [10.0, 10.0],
            poi="",
            parameters=parameters if kind == "lumi" else (),
        )
        theirs = pyhf.Workspace(spec).model().config.param_set("lumi")
        assert theirs.is_scalar == facts.scalar
        assert read_workspace(spec).declared["lumi"].size == theirs.n_parameters
        if kind != "lumi":
            assert theirs.suggested_init == [facts.init] * theirs.n_parameters
            assert [tuple(pair) for pair in theirs.suggested_bounds] == [facts.bounds] * theirs.n_parameters


def test_harmless_extra_keys_are_ignored():
    spec = small()
    spec["metadata"] = {"made by": "hand", "when": math.nan}
    spec["channels"][0]["title"] = "Signal region"
    spec["channels"][0]["samples"][0]["color"] = [1, 2, 3]
    spec["observations"][0]["unit"] = None
    spec["measurements"][0]["comment"] = ""
    assert read_workspace(spec) == read_workspace(json.dumps(spec)) == read_workspace(small())


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((*SIG, "modifiers", 0), "constraint"),
        ((*SIG, "modifiers", 2, "data"), "high"),
        ((*BKG, "modifiers", 0, "data"), "hi"),
        (CONFIG, "constraints"),
        ((*CONFIG, "parameters", 3), "bound"),
    ],
)
def test_extra_keys_that_would_change_the_likelihood_are_refused(path, key):
    error = refused(changed((*path, key), None))
    assert key in error.found


def test_null_data_may_be_missing():
    spec = without((*SIG, "modifiers", 0, "data"))
    assert read_workspace(spec) == read_workspace(small())


def test_legal_oddities():
    spec = small()
    spec["channels"][0]["samples"][0]["data"] = [-5.0, 0]
    spec["channels"][0]["samples"][1]["modifiers"][1]["data"] = [0, 0.0]
    spec["channels"][0]["samples"][0]["modifiers"][2]["data"] = {"lo": 0, "hi": 1e300}
    spec["channels"][0]["samples"][1]["data"] = [1e308, 1e308]  # their sum overflows, they do not
    spec["observations"][0]["data"] = [0, 0.5]
    everything(spec)
    everything(json.dumps(spec))


def test_importing_it_imports_no_jax():
    # The face of the package may import what it likes: a stand-in takes its place.
    code = (
        "import sys, types, pathlib;"
        "package = types.ModuleType('nextstat_jax');"
        "package.__path__ = [sys.argv[1]];"
        "sys.modules['nextstat_jax'] = package;"
        "import nextstat_jax._workspace._records;"
        "assert not {'jax', 'pyhf', 'scipy'} & set(sys.modules)"
    )
    package = Path(__file__).resolve().parents[2] / "nextstat_jax"
    subprocess.run([sys.executable, "-c", code, str(package)], check=True)


def test_an_observation_without_channel_is_ignored():
    # As in pyhf: a patch that removes a channel leaves its observation behind.
    spec = appended(("observations",), {"name": "VR", "data": [1.0]})
    assert {channel.name for channel in read_workspace(spec).channels} == {"SR", "CR"}


def test_a_default_start_outside_given_bounds_is_legal():
    # As in pyhf; fits move it to the nearest bound.
    spec = changed((*CONFIG, "parameters", 3, "bounds"), [[2, 20]])
    assert read_workspace(spec).measurement(None) is not None


# -- faults of the text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 40, 100, 333, -1, -30])
@pytest.mark.parametrize("encoded", [False, True])
def test_truncated_text(cut, encoded):
    text = json.dumps(small(), indent=2)[:cut]
    with pytest.raises(WorkspaceError, match="breaks off at line [0-9]+, column [0-9]+") as failure:
        read_workspace(text.encode() if encoded else text)
    assert failure.value.path == "$"


def test_malformed_text_says_where():
    text = json.dumps(small(), indent=2).replace('"SR",', '"SR"', 1)
    with pytest.raises(
        WorkspaceError, match=r"line 5, column 7 .*Expecting ',' delimiter, near '\"samples\""
    ) as failure:
        read_workspace(text)
    assert failure.value.expected == "a JSON document"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (b"\xff\xfe\xfa{", "malformed JSON"),  # the mark of UTF-16
        (b'{"channels": "\xe9"}', "no JSON"),
        (b"", "breaks off at line 1, column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[1, 2]", "an array of 2"),
        ('{"channels": [' + "1" * 5000 + "]}", "no JSON|integer|1111"),
        ("no-such-file.json", "'no-such-file.json', which is no file"),
        (Path("no-such-file.json"), "which is no file"),
        ("", "''"),
        ("null", "'null'"),
        ("a\0b", "no file"),
        ("x" * 100_000, r"\(100000 characters\)"),
        (os.curdir, "no file"),
        (None, "null"),
        (12, "the number 12"),
        ([small()], "an array of 1"),
        (object(), "a Python object"),
    ],
)
def test_sources_that_are_no_workspace(source, found):
    with pytest.raises(WorkspaceError, match=found) as failure:
        read_workspace(source)
    assert len(str(failure.value)) < 400


def test_a_mapping_that_contains_itself():
    spec = small()
    spec["self"] = spec
    with pytest.raises(WorkspaceError, match="contains itself"):
        read_workspace(spec)


@pytest.mark.parametrize("value", [{1.0, 2.0}, b"12", 1j, object(), {1: 2.0}, iter([1.0])])
def test_python_values_that_are_no_json(value):
    with pytest.raises(WorkspaceError) as failure:
        read_workspace(changed((*SIG, "data"), value))
    assert failure.value.path.startswith("$.channels[0].samples[0].data")
    assert failure.value.names == "channel 'SR', sample 'sig'"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite_in_text(text):
    with pytest.raises(WorkspaceError, match="expected a finite number") as failure:
        read_workspace(json.dumps(small()).replace("6.5", text))
    assert failure.value.path == "$.channels[0].samples[0].data[1]"
    assert failure.value.names == "channel 'SR', sample 'sig'"
