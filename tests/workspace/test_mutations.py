"""Nothing half-built: records check themselves, and every mutation of a workspace is refused or legal."""

from __future__ import annotations

import copy
import json
import math

import hypothesis
import hypothesis.strategies as st
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._workspace._records import Sample, Workspace, read_workspace
from tests.workspace.support import at, changed, everything, small, without

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


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


@pytest.mark.slow
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
    read = read_workspace(spec)
    for index, measurement in enumerate(spec["measurements"]):
        if measurement["config"]["poi"] and read.declared_poi(index) is None:
            continue  # legal here, where a patch may bring it
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
