"""Measurements: choosing one, and what its configuration may say."""

from __future__ import annotations

import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._modifiers import REGISTRY
from nextstat_jax._workspace._records import check_measurement, read_workspace
from tests.building import (
    normfactor,
    one_channel,
    sample,
    shapefactor,
)
from tests.workspace.support import CONFIG, changed, everything, of_type, pyhf_accepts, refused, small

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


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
    read = read_workspace(changed(("measurements", 1, "config", "parameters"), [{"name": "mu", "inits": [99.0]}]))
    assert read.measurement(0).poi == "mu"
    with pytest.raises(WorkspaceError, match="second"):
        read.measurement("second")


def test_the_parameter_of_interest_of_a_measurement():
    """None where it names none, and where no modifier declares the one it names: a patch may bring it."""
    read = read_workspace(small())
    assert [read.declared_poi(which) for which in (None, "measurement", 0, 1)] == ["mu", "mu", "mu", None]
    unknown = read_workspace(changed((*CONFIG, "poi"), "nu"))
    assert unknown.measurement().poi == "nu" and unknown.declared_poi() is None
    with pytest.raises(WorkspaceError, match="no measurement 'third'"):
        read.declared_poi("third")


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
    foreign = read_workspace(changed((*CONFIG, "parameters", 3, "inits"), [21])).measurements[0]
    with pytest.raises(WorkspaceError) as failure:
        check_measurement(read, foreign)
    assert failure.value.path == "$.config.parameters[3].inits[0]"
