"""JSON patches and patch sets: what is accepted, digests, and what is said of a patch that does not fit."""

from __future__ import annotations

import copy
import json

import jsonpatch
import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._workspace._patches import Patch, PatchSet, digest, load_document, plain
from nextstat_jax._workspace._records import read_workspace
from tests.building import normfactor, normsys, one_channel, sample

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


def background():
    spec = one_channel([sample("bkg", [50.0, 60], normsys("jes", 0.9, 1.1))], [55, 65.5])
    spec["note"] = "η → ττ"  # digests are those of the UTF-8 text
    return spec


def signal(mass):
    value = sample("signal", [float(mass), 1.0], normfactor("mu"))
    return [{"op": "add", "path": "/channels/0/samples/-", "value": value}]


def grid(spec=None, **digests):
    """A patch set of three masses for a workspace."""
    return {
        "metadata": {
            "name": "grid",
            "references": {"hepdata": "ins1234567"},
            "description": "three masses",
            "digests": digests or {"sha256": pyhf.utils.digest(spec or background())},
            "labels": ["mass", "width"],
            "analysis": "extra keys are legal here",
        },
        "patches": [
            {"metadata": {"name": f"m{mass}", "values": [mass, "narrow"], "n": 1}, "patch": signal(mass)}
            for mass in (300, 400, 500)
        ],
        "version": "1.0.0",
    }


def yields(workspace):
    return {s.name: s.data for s in workspace.channels[0].samples}


EXPECTED = {"bkg": (50.0, 60.0), "signal": (400.0, 1.0)}


# -- patches ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_patch_gives_the_same(tmp_path):
    operations = signal(400)
    text = json.dumps(operations)
    path = tmp_path / "patch.json"
    path.write_text(text)
    theirs = pyhf.PatchSet(grid())
    for patch in (
        operations,
        tuple(operations),
        operations[0],
        text,
        text.encode(),
        " " + text,
        path,
        str(path),
        jsonpatch.JsonPatch(operations),
        theirs["m400"],
        PatchSet.read(grid())["m400"],
        Patch(operations=tuple(operations)),
        grid()["patches"][1],
        json.dumps(grid()["patches"][1]),
        [operations],
        [text],
    ):
        assert yields(read_workspace(background(), patch)) == EXPECTED
        assert yields(read_workspace(json.dumps(background()), patch)) == EXPECTED
    for patch in (None, [], (), "[]"):
        assert read_workspace(background(), patch) == read_workspace(background())


def test_several_patches_apply_in_turn():
    double = [{"op": "replace", "path": "/channels/0/samples/1/data/0", "value": 800}]
    entry = PatchSet.read(grid())["m400"]
    # The digests of the entry are those of the workspace before any patch.
    renamed = [{"op": "replace", "path": "/note", "value": ""}]
    for patch in (
        [renamed, entry, double],
        [renamed, entry, json.dumps(double)],
        [pyhf.PatchSet(grid())["m400"], double],
    ):
        assert yields(read_workspace(background(), patch)) == EXPECTED | {"signal": (800.0, 1.0)}


def test_numpy_values_in_operations():
    operations = [{"op": "replace", "path": "/channels/0/samples/0/data", "value": np.array([1.0, 2.0])}]
    assert yields(read_workspace(background(), operations)) == {"bkg": (1.0, 2.0)}


def test_nothing_that_was_given_is_changed():
    spec, operations = background(), signal(400)
    # The second operation writes into what the first one added.
    operations.append({"op": "replace", "path": "/channels/0/samples/1/data/0", "value": 7.0})
    before = copy.deepcopy((spec, operations))
    entry = Patch(operations=tuple(operations))
    for patch in (operations, jsonpatch.JsonPatch(operations), entry, entry):
        assert yields(read_workspace(spec, patch))["signal"] == (7.0, 1.0)
        assert (spec, operations) == before
    assert entry.operations[0]["value"]["data"] == [400.0, 1.0]


def test_the_patched_workspace_is_checked():
    with pytest.raises(WorkspaceError) as failure:
        read_workspace(background(), [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [1.0]}])
    assert failure.value.path == "$.observations[0].data"
    with pytest.raises(WorkspaceError, match="no key 'channels'"):
        read_workspace(background(), [{"op": "remove", "path": "/channels"}])
    with pytest.raises(WorkspaceError, match="the number 3"):
        read_workspace(background(), [{"op": "replace", "path": "", "value": 3}])


@pytest.mark.parametrize(
    ("operation", "found"),
    [
        ({"op": "add", "path": "/channels/0/samples/9", "value": {}}, "outside of list"),
        ({"op": "remove", "path": "/channels/0/nothing"}, "nothing"),
        ({"op": "replace", "path": "/channels/0/name/deeper/still", "value": 1}, "."),
        ({"op": "add", "path": "/version/x", "value": 1}, "."),
        ({"op": "add", "path": "/channels/x", "value": 1}, "x"),
        ({"op": "test", "path": "/version", "value": "2.0.0"}, "2.0.0"),
        ({"op": "move", "from": "/nowhere", "path": "/version"}, "nowhere"),
        ({"op": "copy", "from": "/channels/7", "path": "/version"}, "."),
        ({"op": "add", "path": "/version"}, "value"),
    ],
)
def test_operations_that_do_not_fit(operation, found):
    good = {"op": "test", "path": "/version", "value": "1.0.0"}
    document = grid()
    document["patches"][0]["patch"] = [good, operation]
    with pytest.raises(WorkspaceError, match=found) as failure:
        read_workspace(background(), PatchSet.read(document)["m300"])
    assert failure.value.path == "patch[1]"
    assert failure.value.names == f"patch 'm300', {operation['op']} {operation['path']}"


@pytest.mark.parametrize(
    ("patch", "found"),
    [
        (12, "the number 12"),
        ([12], "the number 12"),
        ("[12]", "the number 12"),
        ('["/etc/hostname"]', "the string '/etc/hostname'"),  # a path in a file is no path to read
        ("no-such-patch.json", "no-such-patch.json"),
        ('[{"op": "add"', "breaks off"),
        ([{"path": "/version"}], "op"),
        ([{"op": "add", "value": 1}], "path"),
        ([{"op": "add", "path": 3, "value": 1}], "."),
        ([{"op": "add", "path": "no slash", "value": 1}], "."),
        ([{"op": "shift", "path": "/version"}], "shift"),
        ([{"op": ["add"], "path": "/version"}], "."),
        ([{"op": "add", "path": "/version", "value": {1, 2}}], "a Python set"),
        ({"metadata": {"name": "x"}, "patch": []}, "no key 'values'"),
        (grid(), "a whole patch set"),
        (json.dumps(grid()), "a whole patch set"),
        (PatchSet.read(grid()), "a whole patch set"),
        (object(), "a Python object"),
    ],
)
def test_what_is_no_patch(patch, found):
    with pytest.raises(WorkspaceError, match=found):
        read_workspace(background(), patch)


def test_a_whole_patch_set_of_pyhf_is_no_patch():
    with pytest.raises(WorkspaceError, match="one of its entries"):
        read_workspace(background(), pyhf.PatchSet(grid()))


def test_operations_that_contain_themselves():
    value = {}
    value["self"] = value
    with pytest.raises(WorkspaceError, match="nested too deeply"):
        read_workspace(background(), [{"op": "add", "path": "/x", "value": value}])


def test_a_workspace_that_was_read_takes_no_patch():
    with pytest.raises(WorkspaceError, match="read before"):
        read_workspace(read_workspace(background()), signal(400))


# -- patch sets -------------------------------------------------------------------------------------------------------


def test_every_kind_of_patch_set_source_gives_the_same(tmp_path):
    document = grid()
    path = tmp_path / "patchset.json"
    path.write_text(json.dumps(document))
    expected = PatchSet.read(document)
    for source in (json.dumps(document), json.dumps(document).encode(), path, str(path), pyhf.PatchSet(document)):
        assert PatchSet.read(source) == expected


def test_what_a_patch_set_holds():
    patches = PatchSet.read(grid())
    assert patches.names == ("m300", "m400", "m500")
    assert len(patches) == 3
    assert [patch.values for patch in patches] == [(300, "narrow"), (400, "narrow"), (500, "narrow")]
    assert patches.labels == ("mass", "width")
    assert patches.description == "three masses"
    assert patches["m400"] is patches[400, "narrow"] is patches[[400.0, "narrow"]] is patches.patches[1]
    assert patches["m400"].operations == tuple(signal(400))
    assert "m400" in patches
    assert (400, "narrow") in patches
    assert patches.patches[0] in patches
    assert "m450" not in patches
    assert [] not in patches
    assert repr(patches) == "PatchSet(3 patches over mass, width)"


def test_one_label_is_found_by_its_number():
    document = grid()
    document["metadata"]["labels"] = ["mass"]
    for entry in document["patches"]:
        del entry["metadata"]["values"][1]
    patches = PatchSet.read(document)
    assert patches[400] is patches[(400,)] is patches["m400"]


@pytest.mark.parametrize("key", ["m450", (450, "narrow"), 400, (), None])
def test_a_patch_that_does_not_exist(key):
    with pytest.raises(WorkspaceError, match=r"one of 3, by name or values \(mass, width\): m300 \(300, 'narrow'\)"):
        PatchSet.read(grid())[key]


@pytest.mark.parametrize(
    ("path", "value", "where", "found"),
    [
        (("version",), "2.0.0", "$.version", "the string '2.0.0'"),
        (("patches",), [], "$.patches", "an empty array"),
        (("metadata", "labels"), [], "$.metadata.labels", "an empty array"),
        (("metadata", "digests"), {}, "$.metadata.digests", "an empty object"),
        (("metadata", "digests"), {"sha1": "00"}, "$.metadata.digests", "'sha1'"),
        (("metadata", "digests"), None, "$.metadata.digests", "null"),
        (("patches", 1, "metadata", "name"), "m300", "$.patches[1]", "'m300' a second time"),
        (("patches", 1, "metadata", "values"), [300, "narrow"], "$.patches[1]", "a second time"),
        (("patches", 1, "metadata", "values"), [300], "$.patches[1].metadata.values", "1 entry"),
        (("patches", 1, "metadata", "values"), [None, 1], "$.patches[1].metadata.values[0]", "null"),
        (("patches", 1, "patch"), None, "$.patches[1].patch", "null"),
        (("patches", 1, "patch"), [3], "$.patches[1].patch[0]", "the number 3"),
        (
            ("patches", 1, "patch"),
            [{"op": "add", "path": "/x"}, {"op": "shift", "path": "/x"}],
            "$.patches[1].patch[1]",
            "",
        ),
    ],
)
def test_faults_of_a_patch_set_are_named(path, value, where, found):
    document = grid()
    container = document
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = value
    for source in (document, json.dumps(document)):
        with pytest.raises(WorkspaceError) as failure:
            PatchSet.read(source)
        assert failure.value.path.startswith(where)
        assert found in failure.value.found
        assert ("patch 'm" in failure.value.names) == (len(path) > 2)


@pytest.mark.parametrize("key", ["patches", "metadata", "version"])
def test_missing_keys_of_a_patch_set(key):
    document = grid()
    del document[key]
    with pytest.raises(WorkspaceError, match=f"no key '{key}'"):
        PatchSet.read(document)


# -- digests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_digests_are_those_of_pyhf(algorithm):
    assert digest(background(), algorithm) == pyhf.utils.digest(background(), algorithm=algorithm)


def test_digests_agree_for_every_source(tmp_path):
    spec = background()
    path = tmp_path / "background.json"
    path.write_text(json.dumps(spec, indent=3, ensure_ascii=True), encoding="utf-8")
    patches = PatchSet.read(grid())
    reordered = dict(reversed(spec.items()))
    as_arrays = copy.deepcopy(spec)
    as_arrays["observations"][0]["data"] = (np.int64(55), np.float64(65.5))
    for source in (spec, json.dumps(spec), path, reordered, as_arrays, pyhf.Workspace(spec, validate=False)):
        patches.verify(source)
        assert yields(read_workspace(source, patches["m400"])) == EXPECTED
        assert patches.apply(source, "m400") == patches.apply(source, (400, "narrow"))
    assert patches.apply(spec, "m400") == pyhf.PatchSet(grid())["m400"].apply(spec)


def test_a_tampered_workspace_is_refused():
    spec = background()
    spec["channels"][0]["samples"][0]["data"][0] = 50.000001
    patches = PatchSet.read(grid())
    expected = grid()["metadata"]["digests"]["sha256"]
    for refuse in (
        lambda: read_workspace(spec, patches["m400"]),
        lambda: read_workspace(json.dumps(spec), [signal(300), patches["m400"]]),
        lambda: patches.apply(spec, "m400"),
        lambda: patches.verify(spec),
        lambda: patches["m400"].apply(spec),
    ):
        with pytest.raises(WorkspaceError, match="was made for") as failure:
            refuse()
        assert digest(spec, "sha256") in failure.value.found
        assert expected in failure.value.expected
    # Without digests there is nothing to verify.
    read_workspace(spec, Patch(operations=patches["m400"].operations))


def test_each_digest_is_verified():
    good = {name: digest(background(), name) for name in ("md5", "sha256")}
    PatchSet.read(grid(**good)).verify(background())
    PatchSet.read(grid(sha256=good["sha256"].upper())).verify(background())
    for name in good:
        with pytest.raises(WorkspaceError, match=f"the {name} digest"):
            PatchSet.read(grid(**good | {name: "0" * len(good[name])})).verify(background())


def test_a_name_that_has_no_utf8_has_no_agreeing_digest():
    text = json.dumps(background() | {"note": "?"}).replace('"?"', '"\\ud800"')
    with pytest.raises(WorkspaceError, match="digest"):
        PatchSet.read(grid()).verify(text)


def test_an_integer_too_long_to_print_has_no_digest():
    with pytest.raises(WorkspaceError, match="without digest"):
        PatchSet.read(grid()).verify({"a": 10**5000})


@pytest.mark.slow
def test_published_patch_set(published):
    spec = published("SUSY-2018-31A_background_only")
    document = published("SUSY-2018-31A_patchset")
    patches = PatchSet.read(document)
    assert len(patches) == 40
    patches.verify(spec)
    theirs = {patch.name: patch for patch in pyhf.PatchSet(document)}
    assert list(theirs) == list(patches.names)
    for patch in patches:
        workspace = read_workspace(spec, patch)
        assert workspace.measurement().poi == "mu_SIG"
        assert patch.name in {s.name for s in workspace.channels[0].samples}
        assert patch.values == theirs[patch.name].values
        assert patches[patch.values] is patch
    assert patches.apply(spec, "sbottom_300_60") == theirs["sbottom_300_60"].apply(spec)
    spec["observations"][0]["data"][0] += 1.0
    with pytest.raises(WorkspaceError, match="sha256"):
        read_workspace(spec, patches["sbottom_300_60"])


# -- documents --------------------------------------------------------------------------------------------------------


def test_plain_copies_into_json_values():
    inner = [1.0, 2.0]
    value = {
        "a": (1, True, None, "x"),
        "b": np.array([[1, 2]]),
        "c": inner,
        "d": np.bool_(True),
        np.str_("e"): np.str_("f"),
    }
    copied = plain(value)
    assert copied == {"a": [1, True, None, "x"], "b": [[1, 2]], "c": [1.0, 2.0], "d": True, "e": "f"}
    assert {type(key) for key in copied} == {str}
    assert copied["c"] is not inner
    assert [type(item) for item in (copied["d"], copied["e"], copied["b"][0][0])] == [bool, str, int]


def test_load_document_keeps_integers_apart_from_floats():
    assert (
        json.dumps(load_document('{"a": [1, 1.0, 100000000000000000000000]}'))
        == '{"a": [1, 1.0, 100000000000000000000000]}'
    )
