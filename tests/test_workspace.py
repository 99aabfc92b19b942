"""Reading workspaces: what is accepted, and that each fault is refused with a message that names it."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._modifiers import REGISTRY
from nextstat_jax._modifiers.histosys import HistoSysData
from nextstat_jax._modifiers.normsys import NormSysData
from nextstat_jax._workspace._records import Sample, Workspace, check_measurement, read_workspace
from tests.building import (
    histosys,
    lumi,
    normfactor,
    normsys,
    one_channel,
    sample,
    shapefactor,
    shapesys,
    staterror,
    workspace,
)

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")

PUBLISHED = ("simple", "complex", "tHu", "tttt", "SUSY-2018-04", "SUSY-2018-05", "SUSY-2018-31A")
LUMI = {"name": "lumi", "inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [0.02], "fixed": False}


def small():
    """A valid workspace that uses each modifier type, every key, and integers among its numbers."""
    spec = workspace(
        {
            "SR": [
                sample("sig", [5, 6.5], normfactor("mu"), lumi(), normsys("jes", 0.9, 1.1)),
                sample("bkg", [50.0, 60.0], histosys("jes", [48.0, 58.0], [52.0, 62.0]), staterror("mc", [2.0, 3.0])),
            ],
            "CR": [sample("bkg", [500.0], shapefactor("free"), shapesys("own", [20.0]))],
        },
        {"SR": [55, 64], "CR": [510.0]},
        parameters=[
            LUMI,
            {"name": "own", "factors": [600.0], "auxdata": [610.0]},
            {"name": "mc", "sigmas": [0.1, 0.2]},
            {"name": "mu", "bounds": [[-1, 20]]},
            {"name": "nobody", "inits": [1.0, 2.0]},
        ],
    )
    spec["measurements"].append({"name": "second", "config": {"poi": "", "parameters": [LUMI]}})
    return copy.deepcopy(spec)


def everything(source):
    """Read a workspace and each of its measurements."""
    read = read_workspace(source)
    return read, [read.measurement(index) for index in range(len(read.measurements))]


def refused(spec):
    """The one error of a bad workspace, the same for a mapping and for its text."""
    with pytest.raises(WorkspaceError) as failure:
        everything(spec)
    with pytest.raises(WorkspaceError) as again:
        everything(json.dumps(spec))
    assert str(again.value) == str(failure.value)
    return failure.value


def at(spec, path):
    """The container and last key of a path given as a tuple."""
    for key in path[:-1]:
        spec = spec[key]
    return spec, path[-1]


def changed(path, value):
    spec = small()
    container, key = at(spec, path)
    container[key] = value
    return spec


def without(path):
    spec = small()
    container, key = at(spec, path)
    del container[key]
    return spec


def appended(path, value):
    spec = small()
    container, key = at(spec, path)
    container[key].append(value)
    return spec


SIG = ("channels", 0, "samples", 0)
BKG = ("channels", 0, "samples", 1)
CONFIG = ("measurements", 0, "config")


# -- what is read -----------------------------------------------------------------------------------------------------


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
    declared = read_workspace(small()).declared()
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
    declared = read.declared()
    assert sorted(declared) == sorted(model.config.par_order)
    assert all(declared[name].size == model.config.param_set(name).n_parameters for name in declared)
    assert measurement.poi == model.config.poi_name


def test_a_background_only_workspace_is_read_but_has_no_poi(published):
    read = read_workspace(published("SUSY-2018-31A_background_only"))
    with pytest.raises(WorkspaceError, match="mu_SIG") as failure:
        read.measurement()
    assert failure.value.path == "$.measurements[0].config.poi"


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
        assert read_workspace(spec).declared()["lumi"].size == theirs.n_parameters
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


# -- faults of the document -------------------------------------------------------------------------------------------

FAULTS = {
    # One value of the wrong type or size.
    "string for a number": (
        changed((*SIG, "data", 1), "12"),
        "$.channels[0].samples[0].data[1]",
        "the string '12'",
        "number",
    ),
    "bool for a number": (changed((*SIG, "data", 1), True), "$.channels[0].samples[0].data[1]", "true", "a number"),
    "null for a number": (changed((*SIG, "data", 1), None), "$.channels[0].samples[0].data[1]", "null", "a number"),
    "null for an array": (changed((*SIG, "data"), None), "$.channels[0].samples[0].data", "null", "an array"),
    "object for an array": (
        changed((*SIG, "data"), {"a": 1}),
        "$.channels[0].samples[0].data",
        "the keys 'a'",
        "an array",
    ),
    "nested array": (
        changed((*SIG, "data"), [[1.0, 2.0]]),
        "$.channels[0].samples[0].data[0]",
        "an array of 2",
        "a number",
    ),
    "number for a name": (changed((*SIG, "name"), 3), "$.channels[0].samples[0].name", "the number 3", "a string"),
    "array for the whole": ([small()], "$", "an array of 1", "mapping"),
    "null for a POI": (changed((*CONFIG, "poi"), None), "$.measurements[0].config.poi", "null", "a string"),
    "fixed as a number": (
        changed((*CONFIG, "parameters", 0, "fixed"), 1),
        "$.measurements[0].config.parameters[0].fixed",
        "the number 1",
        "true or false",
    ),
    "bounds of three": (
        changed((*CONFIG, "parameters", 3, "bounds"), [[0, 1, 2]]),
        "$.measurements[0].config.parameters[3].bounds[0]",
        "an array of 3",
        "an array of 2",
    ),
    "flat bounds": (
        changed((*CONFIG, "parameters", 3, "bounds"), [0, 1]),
        "$.measurements[0].config.parameters[3].bounds[0]",
        "the number 0",
        "an array",
    ),
    # Things that are missing.
    "no sample data": (without((*SIG, "data")), "$.channels[0].samples[0]", "no key 'data'", "the key 'data'"),
    "no modifiers": (without((*SIG, "modifiers")), "$.channels[0].samples[0]", "no key 'modifiers'", "the key"),
    "no modifier type": (
        without((*SIG, "modifiers", 0, "type")),
        "$.channels[0].samples[0].modifiers[0]",
        "no key 'type'",
        "",
    ),
    "no normsys hi": (
        without((*SIG, "modifiers", 2, "data", "hi")),
        "$.channels[0].samples[0].modifiers[2].data",
        "'hi'",
        "",
    ),
    "no POI key": (without((*CONFIG, "poi")), "$.measurements[0].config", "no key 'poi'", "the key 'poi'"),
    "no channels": (changed(("channels",), []), "$.channels", "an empty array", "at least one entry"),
    "no channels key": (without(("channels",)), "$", "no key 'channels'", "the key 'channels'"),
    "no measurements": (changed(("measurements",), []), "$.measurements", "an empty array", "at least one entry"),
    "no observations": (changed(("observations",), []), "$.observations", "an empty array", "at least one entry"),
    "no samples": (
        changed(("channels", 0, "samples"), []),
        "$.channels[0].samples",
        "an empty array",
        "at least one entry",
    ),
    "no bins": (changed((*SIG, "data"), []), "$.channels[0].samples[0].data", "an empty array", "at least one entry"),
    "no inits": (
        changed((*CONFIG, "parameters", 3, "inits"), []),
        "$.measurements[0].config.parameters[3].inits",
        "an empty array",
        "at least one entry",
    ),
    # Values that the schema does not know.
    "version 2": (changed(("version",), "2.0.0"), "$.version", "the string '2.0.0'", "'1.0.0'"),
    "version as a number": (changed(("version",), 1), "$.version", "the number 1", "a string"),
    "unknown modifier": (
        changed((*SIG, "modifiers", 2, "type"), "overallsys"),
        "$.channels[0].samples[0].modifiers[2].type",
        "the string 'overallsys'",
        "one of histosys, lumi, normfactor, normsys, shapefactor, shapesys, staterror",
    ),
    "type as null": (
        changed((*SIG, "modifiers", 2, "type"), None),
        "$.channels[0].samples[0].modifiers[2].type",
        "null",
        "",
    ),
    "array for a normfactor": (
        changed((*SIG, "modifiers", 0, "data"), [1.0]),
        "$.channels[0].samples[0].modifiers[0].data",
        "an array of 1",
        "null",
    ),
    "null for a staterror": (
        changed((*BKG, "modifiers", 1, "data"), None),
        "$.channels[0].samples[1].modifiers[1].data",
        "null",
        "an array",
    ),
    "lumi of another name": (
        changed((*SIG, "modifiers", 1, "name"), "Lumi"),
        "$.channels[0].samples[0].modifiers[1].name",
        "the string 'Lumi'",
        "the string 'lumi'",
    ),
    # Signs.
    "negative staterror": (
        changed((*BKG, "modifiers", 1, "data", 1), -1),
        "$.channels[0].samples[1].modifiers[1].data[1]",
        "the number -1.0",
        "an uncertainty of zero or more",
    ),
    "negative shapesys": (
        changed(("channels", 1, "samples", 0, "modifiers", 1, "data", 0), -1e-9),
        "$.channels[1].samples[0].modifiers[1].data[0]",
        "the number -1e-09",
        "an uncertainty of zero or more",
    ),
    "negative counts": (
        changed(("observations", 0, "data", 1), -2),
        "$.observations[0].data[1]",
        "-2.0",
        "a count of zero",
    ),
    "negative normsys": (
        changed((*SIG, "modifiers", 2, "data", "lo"), -0.1),
        "$.channels[0].samples[0].modifiers[2].data.lo",
        "the number -0.1",
        "a finite factor of zero or more",
    ),
    # Numbers of bins.
    "yields": (
        changed((*BKG, "data"), [1.0]),
        "$.channels[0].samples[1].modifiers[0].data.hi_data",
        "2 entries",
        "1, one for",
    ),
    "samples": (
        appended(("channels", 0, "samples"), sample("more", [1.0])),
        "$.channels[0].samples[2].data",
        "1 entry",
        "2, one for each bin of sample 'sig'",
    ),
    "staterror": (
        changed((*BKG, "modifiers", 1, "data"), [1.0, 2.0, 3.0]),
        "$.channels[0].samples[1].modifiers[1].data",
        "3 entries",
        "2, one for each bin",
    ),
    "histosys lo": (
        changed((*BKG, "modifiers", 0, "data", "lo_data"), [1.0]),
        "$.channels[0].samples[1].modifiers[0].data.lo_data",
        "1 entry",
        "2, one for each bin",
    ),
    "observation": (
        changed(("observations", 1, "data"), [1.0, 2.0]),
        "$.observations[1].data",
        "2 entries",
        "1, one for each",
    ),
    # Names.
    "missing observation": (without(("observations", 1)), "$.channels[1]", "without observation", "its counts"),
    "observation twice": (
        appended(("observations",), {"name": "SR", "data": [1.0, 2.0]}),
        "$.observations[2]",
        "'SR' a second time (entry 0 has it)",
        "each name once",
    ),
    "channel twice": (
        appended(("channels",), {"name": "SR", "samples": [sample("sig", [1.0, 1.0])]}),
        "$.channels[2]",
        "'SR' a second time",
        "each name once",
    ),
    "sample twice": (
        appended(("channels", 0, "samples"), sample("sig", [1.0, 1.0])),
        "$.channels[0].samples[2]",
        "'sig' a second time",
        "each name once",
    ),
    "modifier twice": (
        appended((*SIG, "modifiers"), normfactor("mu")),
        "$.channels[0].samples[0].modifiers[3]",
        "('mu', 'normfactor') a second time",
        "each name once",
    ),
    "measurement twice": (
        changed(("measurements", 1, "name"), "measurement"),
        "$.measurements[1]",
        "'measurement' a second time",
        "each name once",
    ),
    "parameter twice": (
        appended((*CONFIG, "parameters"), {"name": "mu"}),
        "$.measurements[0].config.parameters[5]",
        "'mu' a second time (entry 3 has it)",
        "each name once",
    ),
    # The measurement against the modifiers.
    "unknown POI": (
        changed((*CONFIG, "poi"), "nu"),
        "$.measurements[0].config.poi",
        "'nu'",
        "that a modifier declares",
    ),
    "POI of two components": (
        changed((*CONFIG, "poi"), "mc"),
        "$.measurements[0].config.poi",
        "'mc', a staterror of 2 components",
        "one component",
    ),
    "two inits for a scalar": (
        changed((*CONFIG, "parameters", 3, "inits"), [1.0, 2.0]),
        "$.measurements[0].config.parameters[3].inits",
        "2 entries",
        "1, one for each component of the normfactor",
    ),
    "one sigma for two bins": (
        changed((*CONFIG, "parameters", 2, "sigmas"), [0.1]),
        "$.measurements[0].config.parameters[2].sigmas",
        "1 entry",
        "2, one for each component of the staterror",
    ),
    "two bounds for lumi": (
        changed((*CONFIG, "parameters", 0, "bounds"), [[0.5, 1.5]] * 2),
        "$.measurements[0].config.parameters[0].bounds",
        "2 entries",
        "1, one for each component of the lumi",
    ),
    "sigmas for a normfactor": (
        changed((*CONFIG, "parameters", 3, "sigmas"), [0.1]),
        "$.measurements[0].config.parameters[3].sigmas",
        "sigmas for a normfactor",
        "does not use it",
    ),
    "width of zero": (
        changed((*CONFIG, "parameters", 2, "sigmas"), [0.1, 0.0]),
        "$.measurements[0].config.parameters[2].sigmas[1]",
        "the number 0.0",
        "a positive width",
    ),
    "factor of zero": (
        changed((*CONFIG, "parameters", 1, "factors"), [0]),
        "$.measurements[0].config.parameters[1].factors[0]",
        "the number 0.0",
        "a positive factor",
    ),
    "negative Poisson auxdata": (
        changed((*CONFIG, "parameters", 1, "auxdata"), [-1]),
        "$.measurements[0].config.parameters[1].auxdata[0]",
        "the number -1.0",
        "auxiliary data of a Poisson constraint",
    ),
    "start outside its bounds": (
        changed((*CONFIG, "parameters", 3, "inits"), [21]),
        "$.measurements[0].config.parameters[3].inits[0]",
        "the start value 21.0 outside [-1.0, 20.0]",
        "inside the bounds",
    ),
    "bounds the wrong way round": (
        changed((*CONFIG, "parameters", 3, "bounds"), [[2, 1]]),
        "$.measurements[0].config.parameters[3].bounds[0]",
        "[2.0, 1.0]",
        "a lower bound that is not above the upper one",
    ),
    "lumi not configured": (
        without((*CONFIG, "parameters", 0)),
        "$.measurements[0].config.parameters",
        "no configuration of lumi",
        "auxdata (the luminosity) and sigmas (its absolute uncertainty)",
    ),
    "lumi without sigmas": (
        without((*CONFIG, "parameters", 0, "sigmas")),
        "$.measurements[0].config.parameters[0]",
        "without sigmas",
        "auxdata (the luminosity) and sigmas (its absolute uncertainty)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault):
    spec, path, found, expected = FAULTS[fault]
    with pytest.raises(WorkspaceError) as failure:
        everything(spec)
    error = failure.value
    assert error.path == path
    assert found in error.found
    assert expected in error.expected
    assert str(error).startswith(path)
    if not isinstance(spec, list):
        assert str(refused(spec)) == str(error)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (changed((*SIG, "data", 1), "12"), "channel 'SR', sample 'sig'"),
        (changed((*SIG, "modifiers", 2, "data", "lo"), -1), "channel 'SR', sample 'sig', normsys modifier 'jes'"),
        (
            changed((*BKG, "modifiers", 0, "data", "lo_data"), [1.0]),
            "channel 'SR', sample 'bkg', histosys modifier 'jes'",
        ),
        (changed((*SIG, "modifiers", 2, "type"), "x"), "channel 'SR', sample 'sig', x modifier 'jes'"),
        (without((*SIG, "modifiers", 2, "type")), "channel 'SR', sample 'sig', modifier 'jes'"),
        (changed(("observations", 1, "data", 0), -1), "observation 'CR'"),
        (changed((*CONFIG, "parameters", 3, "inits"), [99]), "measurement 'measurement', parameter 'mu'"),
        (changed((*CONFIG, "poi"), "nu"), "measurement 'measurement'"),
        (changed(("version",), "2"), ""),
    ],
)
def test_names_along_the_way(spec, names):
    error = refused(spec)
    assert error.names == names
    assert f"({names}): found" in str(error) or not names


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.array(np.inf), 10**400])
@pytest.mark.parametrize(
    "path",
    [
        (*SIG, "data", 0),
        (*BKG, "modifiers", 0, "data", "hi_data", 1),
        (*BKG, "modifiers", 0, "data", "lo_data", 0),
        (*BKG, "modifiers", 1, "data", 0),
        (*SIG, "modifiers", 2, "data", "hi"),
        ("observations", 0, "data", 0),
        (*CONFIG, "parameters", 0, "auxdata", 0),
        (*CONFIG, "parameters", 3, "bounds", 0, 1),
        (*CONFIG, "parameters", 4, "inits", 1),
    ],
)
def test_numbers_that_are_not_finite(path, value):
    with pytest.raises(WorkspaceError, match="expected a finite") as failure:
        read_workspace(changed(path, value))
    written = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    assert failure.value.path == f"${written}"


def test_a_workspace_without_any_modifier():
    with pytest.raises(WorkspaceError, match="no modifier on any sample"):
        read_workspace(one_channel([sample("bkg", [1.0])], [1.0], poi=""))


# -- names that modifiers share ---------------------------------------------------------------------------------------

DATA = {
    "normsys": {"lo": 0.9, "hi": 1.1},
    "histosys": {"lo_data": [9.0], "hi_data": [11.0]},
    "shapesys": [1.0],
    "staterror": [1.0],
}


def of_type(kind):
    return {"name": "lumi", "type": kind, "data": DATA.get(kind)}


def sharing(first, second, where):
    """Two modifiers of one name on one sample, on two samples of a channel, or in two channels."""
    samples = {
        "sample": {"A": [sample("x", [10.0], of_type(first), of_type(second))]},
        "channel": {"A": [sample("x", [10.0], of_type(first)), sample("y", [10.0], of_type(second))]},
        "workspace": {"A": [sample("x", [10.0], of_type(first))], "B": [sample("x", [10.0], of_type(second))]},
    }[where]
    uses_lumi = "lumi" in (first, second)
    return workspace(samples, {name: [10.0] for name in samples}, poi="", parameters=[LUMI] if uses_lumi else [])


def pyhf_accepts(spec):
    try:
        pyhf.Workspace(spec).model()
    except (pyhf.exceptions.InvalidNameReuse, pyhf.exceptions.InvalidModel, AssertionError):
        return False
    return True


@pytest.mark.parametrize("where", ["sample", "channel", "workspace"])
@pytest.mark.parametrize("second", REGISTRY)
@pytest.mark.parametrize("first", REGISTRY)
def test_sharing_a_name_is_legal_where_pyhf_says_so(first, second, where):
    if first == second and where == "sample":
        return  # a duplicate: pyhf keeps the last one in silence, here it is an error
    spec = sharing(first, second, where)
    if pyhf_accepts(spec):
        everything(spec)
        return
    error = refused(spec)
    assert first in error.found or first in error.expected
    assert error.path.startswith("$.channels[")
    assert f"{second} modifier 'lumi'" in error.names


def test_shapefactor_over_fewer_bins_of_a_later_channel():
    samples = {
        "A": [sample("x", [1.0, 2.0, 3.0], shapefactor("free"))],
        "B": [sample("x", [1.0, 2.0], shapefactor("free"))],
    }
    spec = workspace(samples, {"A": [1, 2, 3], "B": [1, 2]}, poi="")
    assert read_workspace(spec).declared()["free"].size == 3
    # The order in the document does not matter: channels are sorted by name.
    assert read_workspace(spec | {"channels": spec["channels"][::-1]}).declared()["free"].size == 3


def test_shapefactor_over_more_bins_of_a_later_channel_is_refused():
    # pyhf scales the third bin of B by parameter 0 of the model, here another modifier's.
    samples = {
        "B": [sample("x", [1.0, 2.0, 3.0], normfactor("another"), shapefactor("free"))],
        "A": [sample("x", [1.0, 2.0], shapefactor("free"))],
    }
    error = refused(workspace(samples, {"A": [1, 2], "B": [1, 2, 3]}, poi=""))
    assert error.path == "$.channels[0].samples[0].modifiers[1]"
    assert "over 3 bins" in error.found
    assert "at most 2" in error.expected


def test_staterror_in_two_channels_has_the_bins_of_both():
    samples = {
        "A": [sample("x", [1.0, 2.0], staterror("mc", [1, 1])), sample("y", [1.0, 2.0], staterror("mc", [1, 1]))],
        "B": [sample("x", [1.0], staterror("mc", [1])), sample("y", [1.0], staterror("mc", [1]))],
    }
    spec = workspace(samples, {"A": [1, 2], "B": [1]}, poi="")
    assert read_workspace(spec).declared()["mc"].size == 3
    # pyhf stops with a bare AssertionError where the samples cover different channels.
    del spec["channels"][1]["samples"][1]["modifiers"][0]
    assert not pyhf_accepts(spec)
    error = refused(spec)
    assert "covers ['A'] for 'y' but ['A', 'B'] for 'x'" in error.found
    assert error.names == "channel 'A', sample 'y', staterror modifier 'mc'"


# -- measurements -----------------------------------------------------------------------------------------------------


def test_choice_of_the_measurement():
    read = read_workspace(small())
    assert read.measurement().name == "measurement"
    for which in ("second", 1, -1, np.int64(1)):
        assert read.measurement(which).name == "second"


@pytest.mark.parametrize("which", ["third", 2, -3, True, 1.0, [0]])
def test_a_measurement_that_does_not_exist(which):
    with pytest.raises(WorkspaceError, match="no measurement .*'measurement', 'second'") as failure:
        read_workspace(small()).measurement(which)
    assert failure.value.path == "$.measurements"


def test_a_fault_of_another_measurement_does_not_matter():
    read = read_workspace(changed(("measurements", 1, "config", "poi"), "nu"))
    assert read.measurement(0).poi == "mu"
    with pytest.raises(WorkspaceError, match="second"):
        read.measurement("second")


def test_lumi_is_completed():
    config = {"name": "lumi", "auxdata": [1.1], "sigmas": [0.02]}
    read = read_workspace(changed((*CONFIG, "parameters", 0), config))
    completed = read.measurement().parameters[0]
    assert completed.inits == (1.1,)
    assert completed.bounds == ((0.0, 11.0),)
    assert read.measurements[0].parameters[0].inits is None
    # What the measurement says stays.
    given = read_workspace(small())
    assert given.measurement().parameters == given.measurements[0].parameters


def test_lumi_of_zero_has_no_bounds_of_its_own():
    config = {"name": "lumi", "auxdata": [-1.0], "sigmas": [0.02]}
    error = refused(changed((*CONFIG, "parameters", 0), config))
    assert error.found == "[0.0, -10.0]"


def test_a_normfactor_called_lumi_needs_no_configuration():
    spec = one_channel([sample("x", [1.0], normfactor("lumi"))], [1.0], poi="lumi")
    assert read_workspace(spec).measurement().poi == "lumi"


def test_a_shapefactor_of_one_bin_can_be_the_poi():
    spec = one_channel([sample("x", [1.0], shapefactor("free"))], [1.0], poi="free")
    assert pyhf.Workspace(spec).model().config.poi_index == 0
    assert read_workspace(spec).measurement().poi == "free"


@pytest.mark.parametrize("kind", REGISTRY)
@pytest.mark.parametrize("key", ["inits", "auxdata", "sigmas", "factors"])
def test_keys_of_a_configuration_are_legal_where_pyhf_says_so(kind, key):
    base = {"name": "lumi", "inits": [1.0], "bounds": [[0.5, 2.5]], "auxdata": [1.0], "sigmas": [0.1]}
    config = (base if kind == "lumi" else {"name": "lumi"}) | {key: [1.5]}
    spec = one_channel([sample("x", [10.0], of_type(kind))], [10.0], poi="", parameters=[config])
    if pyhf_accepts(spec):
        everything(spec)
    else:
        assert key in refused(spec).path


def test_check_measurement_stands_alone():
    read = read_workspace(small())
    foreign = read_workspace(changed((*CONFIG, "poi"), "nu")).measurements[0]
    with pytest.raises(WorkspaceError) as failure:
        check_measurement(read, foreign)
    assert failure.value.path == "$.config.poi"


# -- nothing half-built -----------------------------------------------------------------------------------------------


def test_records_check_themselves():
    with pytest.raises(WorkspaceError, match=r"\$\.data\[1\]: found the number nan"):
        Sample("x", (1.0, math.nan), ())
    read = read_workspace(small())
    with pytest.raises(WorkspaceError, match="without observation"):
        Workspace(read.channels, read.measurements, read.observations[:1], "1.0.0")
    with pytest.raises(AttributeError):
        read.version = "2.0.0"


def nodes(value, path=()):
    """The paths of all values in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nodes(item, (*path, key))


WRONG = (
    None,
    True,
    -1.5,
    10**400,
    math.nan,
    "",
    "lumi",
    "shapesys",
    [],
    {},
    [1.0, -2.0],
    [[0.0, 1.0]],
    [None],
    {"name": "mu"},
)


def outcome(source):
    """The error of a workspace, or None; any other exception fails the test."""
    try:
        everything(source)
    except WorkspaceError as error:
        assert error.path.startswith("$")
        assert error.found
        assert error.expected
        return error
    return None


def refused_both(spec):
    """Whether a mapping is refused, which has to hold for its text as well."""
    before = repr(spec)  # repr, because NaN differs from itself
    error, of_text = outcome(spec), outcome(json.dumps(spec))
    assert repr(spec) == before
    assert (error is None) == (of_text is None)
    return error is not None


def test_every_single_mutation_is_refused_or_legal():
    results = []
    for path in nodes(small()):
        results.append(refused_both(without(path)))
        results.extend(refused_both(changed(path, copy.deepcopy(value))) for value in WRONG)
    assert 100 < sum(results) < len(results) - 100  # so the test sees both outcomes


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_several_mutations_are_refused_or_legal_and_pyhf_builds_what_is_legal(data):
    spec = small()
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(list(nodes(spec))))
        container, key = at(spec, path)
        if data.draw(st.booleans()):
            del container[key]
        else:
            drawn = data.draw(st.sampled_from(WRONG) | st.floats() | st.just(container[key]))
            # A list among the wrong values would be changed by the next mutation, for all examples that follow.
            container[key] = copy.deepcopy(drawn)
    if refused_both(spec) or not pyhf_schema_holds(spec):
        return
    for index, measurement in enumerate(spec["measurements"]):
        lumi_config = [p for p in measurement["config"]["parameters"] if p["name"] == "lumi"]
        if all({"inits", "bounds"} <= set(config) for config in lumi_config):  # pyhf does not derive them
            pyhf.Workspace(spec).model(measurement_index=index)


def pyhf_schema_holds(spec):
    """Leave out what only we accept: a missing null, and null in a parameter configuration."""
    try:
        pyhf.schema.validate(spec, "workspace.json")
    except pyhf.exceptions.InvalidSpecification:
        return False
    return True


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
    package = Path(__file__).resolve().parent.parent / "nextstat_jax"
    subprocess.run([sys.executable, "-c", code, str(package)], check=True)


def test_an_observation_without_channel_is_ignored():
    # As in pyhf: a patch that removes a channel leaves its observation behind.
    spec = appended(("observations",), {"name": "VR", "data": [1.0]})
    assert {channel.name for channel in read_workspace(spec).channels} == {"SR", "CR"}


def test_a_default_start_outside_given_bounds_is_legal():
    # As in pyhf; fits move it to the nearest bound.
    spec = changed((*CONFIG, "parameters", 3, "bounds"), [[2, 20]])
    assert read_workspace(spec).measurement(None) is not None
