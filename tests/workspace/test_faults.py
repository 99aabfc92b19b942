"""Each fault of a document is refused with a message that names it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._workspace._records import read_workspace
from tests.building import (
    normfactor,
    one_channel,
    sample,
)
from tests.workspace.support import BKG, CONFIG, SIG, appended, changed, everything, refused, small, without

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


FAULTS = {
    # One value of the wrong type or size.
    "string for a number": (
        changed((*SIG, "data", 1), "12"),
        "$.channels[0].samples[0].data[1]",
        "the string '12'",
        "number",
    ),
    "bool for a number": (changed((*SIG, "data", 1), True), "$.channels[0].samples[0].data[1]", "true", "a number"),
    "half of a character for a number": (
        changed((*SIG, "data", 1), "\ud800"),
        "$.channels[0].samples[0].data[1]",
        "half of a character",
        "text",
    ),
    "half of a character for an array": (
        changed((*SIG, "data"), {"a": "b\udfff"}),
        "$.channels[0].samples[0].data",
        "the keys 'a'",
        "an array",
    ),
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
        (changed((*CONFIG, "poi"), "mc"), "measurement 'measurement'"),
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


@pytest.mark.parametrize("text", ['{"channels": [1,]}', "[" * 100_000, "{", b"\xff\xfe{"])
def test_one_mistake_has_one_traceback(text):
    with pytest.raises(WorkspaceError) as caught:
        read_workspace(text)
    assert caught.value.__suppress_context__
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["x" * 100_000, "\N{GREEK SMALL LETTER MU}" * 100_000])
def test_no_message_is_as_long_as_what_it_quotes(name):
    with pytest.raises(WorkspaceError) as caught:
        read_workspace(one_channel([sample(name, [-math.inf], normfactor("mu"))], [1.0]))
    assert len(str(caught.value)) < 2100 and str(caught.value).startswith("$.channels[0].samples[0].data[0]")
    long = WorkspaceError("$", name, name)
    assert len(str(long)) < 2100
    # A program finds the whole of it.
    assert long.found == name and name in long.args[0]
