"""Names that modifiers share: legal where pyhf says so."""

from __future__ import annotations

import pytest

from nextstat_jax._modifiers import REGISTRY
from nextstat_jax._workspace._records import read_workspace
from tests.building import (
    normfactor,
    sample,
    shapefactor,
    staterror,
    workspace,
)
from tests.workspace.support import LUMI, everything, of_type, pyhf_accepts, refused

# pyhf's validation uses it.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")


def sharing(first, second, where):
    """Two modifiers of one name on one sample, on two samples of a channel, or in two channels."""
    samples = {
        "sample": {"A": [sample("x", [10.0], of_type(first), of_type(second))]},
        "channel": {"A": [sample("x", [10.0], of_type(first)), sample("y", [10.0], of_type(second))]},
        "workspace": {"A": [sample("x", [10.0], of_type(first))], "B": [sample("x", [10.0], of_type(second))]},
    }[where]
    uses_lumi = "lumi" in (first, second)
    return workspace(samples, {name: [10.0] for name in samples}, poi="", parameters=[LUMI] if uses_lumi else [])


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
    assert read_workspace(spec).declared["free"].size == 3
    # The order in the document does not matter: channels are sorted by name.
    assert read_workspace(spec | {"channels": spec["channels"][::-1]}).declared["free"].size == 3


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
    assert read_workspace(spec).declared["mc"].size == 3
    # pyhf stops with a bare AssertionError where the samples cover different channels.
    del spec["channels"][1]["samples"][1]["modifiers"][0]
    assert not pyhf_accepts(spec)
    error = refused(spec)
    assert "covers ['A'] for 'y' but ['A', 'B'] for 'x'" in error.found
    assert error.names == "channel 'A', sample 'y', staterror modifier 'mc'"
