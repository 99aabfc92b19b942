"""A workspace that uses everything, copies of it with one thing changed, and what its readers say."""

from __future__ import annotations

import copy
import json

import pyhf
import pytest

from nextstat_jax._base._errors import WorkspaceError
from nextstat_jax._workspace._records import read_workspace
from tests.building import (
    histosys,
    lumi,
    normfactor,
    normsys,
    sample,
    shapefactor,
    shapesys,
    staterror,
    workspace,
)

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
    """Read a workspace, each of its measurements and the parameter of interest of each."""
    read = read_workspace(source)
    measurements = [read.measurement(index) for index in range(len(read.measurements))]
    for index in range(len(measurements)):
        read.declared_poi(index)
    return read, measurements


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

DATA = {
    "normsys": {"lo": 0.9, "hi": 1.1},
    "histosys": {"lo_data": [9.0], "hi_data": [11.0]},
    "shapesys": [1.0],
    "staterror": [1.0],
}


def of_type(kind):
    return {"name": "lumi", "type": kind, "data": DATA.get(kind)}


def pyhf_accepts(spec):
    try:
        pyhf.Workspace(spec).model()
    except (pyhf.exceptions.InvalidNameReuse, pyhf.exceptions.InvalidModel, AssertionError):
        return False
    return True
