"""Stacks that are read from patch sets: the same models as from single reading, and the same faults."""

from __future__ import annotations

import copy
import json

import jax
import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._inference._stack import stack_patches
from nextstat_jax._model._reading import from_pyhf
from nextstat_jax._workspace._patches import PatchSet
from tests.building import normfactor, sample
from tests.inference.stacks import MASSES, assert_same_model, background, grid, point, signal


@pytest.fixture(scope="module")
def singles():
    return [point(mass) for mass in MASSES]


@pytest.fixture(scope="module")
def stack():
    return stack_patches(background(), grid())


def test_what_a_stack_of_patches_holds(stack, singles):
    assert len(stack) == 5
    assert stack.n_groups == 1
    assert stack.labels == ("m300", "m400", "m500", "m600", "m700")
    assert stack.values == tuple((mass, "narrow") for mass in MASSES)
    assert stack.coordinates == ("mass", "width")
    for k, (model, single) in enumerate(zip(stack, singles, strict=True)):
        assert_same_model(model, single)
        assert_same_model(stack[stack.labels[k]], single)
        assert_same_model(stack[k], single)
        assert_same_model(stack[k - 5], single)
    assert repr(stack) == (
        "ModelStack(5 models of one structure: functions are compiled once for all of them; poi='mu', float64)"
    )


def test_every_kind_of_patch_set_gives_the_same(stack, tmp_path):
    path = tmp_path / "patchset.json"
    path.write_text(json.dumps(grid()))
    for source in (path, json.dumps(grid()), PatchSet.read(grid()), pyhf.PatchSet(grid())):
        other = stack_patches(json.dumps(background()), source)
        assert (other.labels, other.values, other.coordinates) == (stack.labels, stack.values, stack.coordinates)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(other), jax.tree.leaves(stack))


@pytest.mark.parametrize("names", [["m600", "m300"], [(600, "narrow"), "m300"], iter(["m600", "m300"])])
def test_some_patches(names, singles):
    some = stack_patches(background(), grid(), names)
    assert some.labels == ("m600", "m300")
    assert some.values == ((600, "narrow"), (300, "narrow"))
    assert_same_model(some[0], singles[3])
    assert stack_patches(background(), grid(), "m300").labels == ("m300",)


def test_options_reach_every_model():
    some = stack_patches(background(), grid(), ["m300", "m400"], dtype="float32", normsys="code1")
    assert [(model.dtype, model.interpolation["normsys"]) for model in some] == [(np.float32, "code1")] * 2


def awkward_patches():
    """Patches that write into what they share with others, and into what they added themselves."""
    bkg = "/channels/0/samples/0"
    return {
        "deep": [{"op": "replace", "path": f"{bkg}/data/0", "value": 51.0}],
        "deeper": [{"op": "replace", "path": f"{bkg}/modifiers/0/data/hi_data/1", "value": 32.5}],
        "remove": [{"op": "remove", "path": f"{bkg}/modifiers/1"}],
        "inserted": [
            {"op": "add", "path": "/channels/0/samples/0", "value": sample("first", [1.0, 1.0], normfactor("mu"))},
            {"op": "replace", "path": "/channels/0/samples/1/data", "value": [52.0, 31.0]},
            {"op": "replace", "path": f"{bkg}/data/1", "value": 4.0},
        ],
        "copy": [
            {"op": "copy", "from": bkg, "path": "/channels/0/samples/-"},
            {"op": "replace", "path": "/channels/0/samples/2/name", "value": "twin"},
        ],
        "move": [
            {"op": "move", "from": "/channels/1/samples/0/modifiers/0", "path": f"{bkg}/modifiers/0"},
            {"op": "test", "path": f"{bkg}/modifiers/0/type", "value": "normsys"},
            {"op": "replace", "path": f"{bkg}/modifiers/0/name", "value": "moved"},
        ],
        "observation": [{"op": "replace", "path": "/observations/0/data/0", "value": 60.0}],
        "measurement": [{"op": "replace", "path": "/measurements/0/config/poi", "value": "norm"}],
        "nothing": [],
        "whole": [{"op": "replace", "path": "", "value": background(SR=[40.0, 40.0])}],
    }


def test_patches_do_not_meet():
    patches = awkward_patches()
    spec, document = background(), grid({name: ([k, ""], patch) for k, (name, patch) in enumerate(patches.items())})
    before = copy.deepcopy((spec, document))
    read = stack_patches(spec, document)
    assert (spec, document) == before
    assert read.labels == tuple(patches)
    for name, patch in patches.items():
        assert_same_model(read[name], from_pyhf(background(), patch=patch))


def test_a_patch_may_mend_a_workspace():
    spec = background()
    spec["channels"][0]["samples"][0]["data"] = [50.0]
    mend = [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [50.0, 30.0]}]
    document = grid({"mended": ([1, ""], mend + signal(300))})
    document["metadata"]["digests"]["sha256"] = pyhf.utils.digest(spec)
    assert_same_model(stack_patches(spec, document)[0], point(300))


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [1.0]}],
        [{"op": "replace", "path": "/channels/0/samples/0/data/1", "value": "x"}],
        [{"op": "add", "path": "/channels/0/samples/-", "value": {"name": "s"}}],
        [{"op": "remove", "path": "/channels"}],
        [{"op": "replace", "path": "/channels", "value": 3}],
        [{"op": "replace", "path": "/channels/0", "value": None}],
        [{"op": "replace", "path": "", "value": [1]}],
        [{"op": "remove", "path": "/nothing"}],
        [{"op": "copy", "from": "/channels/7", "path": "/x"}],
        [{"op": "move", "path": "/x"}],
        [{"op": "add", "path": "/version/0", "value": 1}],
    ],
)
def test_faults_are_those_of_single_reading(patch):
    document = grid({"good": ([1, ""], signal(300)), "bad": ([2, ""], patch)})
    with pytest.raises(WorkspaceError) as single:
        from_pyhf(background(), patch=PatchSet.read(document)["bad"])
    with pytest.raises(WorkspaceError) as together:
        stack_patches(background(), document)
    assert str(together.value) == str(single.value)


def test_a_tampered_workspace_is_refused():
    with pytest.raises(WorkspaceError, match="patch 'm300' was made for"):
        stack_patches(background(CR=[411.0]), grid())
