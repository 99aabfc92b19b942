"""Signal points over one background, as patches, as a patch set and as models."""

from __future__ import annotations

import jax
import numpy as np
import pyhf

from nextstat_jax._model._reading import from_pyhf
from tests.building import histosys, normfactor, normsys, sample, staterror, workspace

MASSES = (300, 400, 500, 600, 700)


def background(**observed):
    jes = histosys("jes", [47.0, 29.0], [54.0, 31.0])
    samples = {
        "SR": [sample("bkg", [50.0, 30.0], jes, staterror("mc", [3.0, 2.0]))],
        "CR": [sample("bkg", [400.0], normsys("jes", 0.97, 1.04), normfactor("norm"))],
    }
    spec = workspace(samples, {"SR": [58.0, 33.0], "CR": [410.0], **observed})
    # pyhf refuses patches of a workspace without the POI, and takes its own without checking.
    spec["channels"][0]["samples"].append(sample("placeholder", [0.0, 0.0], normfactor("mu")))
    return spec


def signal(mass, *more):
    """A patch: one more sample, whose yields fall with the mass."""
    yields = [3000.0 / mass, 6000.0 / mass]
    value = sample(f"sig_{mass}", yields, normfactor("mu"), normsys("theory", 0.9, 1.1), *more)
    return [{"op": "add", "path": "/channels/0/samples/-", "value": value}]


def grid(patches=None):
    patches = patches or {f"m{mass}": ([mass, "narrow"], signal(mass)) for mass in MASSES}
    return {
        "metadata": {
            "name": "grid",
            "references": {"hepdata": "ins1234567"},
            "description": "five masses",
            "digests": {"sha256": pyhf.utils.digest(background())},
            "labels": ["mass", "width"],
        },
        "patches": [
            {"metadata": {"name": name, "values": values}, "patch": patch} for name, (values, patch) in patches.items()
        ],
        "version": "1.0.0",
    }


def point(mass, *more):
    return from_pyhf(background(), patch=signal(mass, *more))


def nll(model, *args):
    return model.nll(model.likelihood.init, *args)


def assert_same_model(a, b):
    assert a.names == b.names
    assert a.likelihood.structure == b.likelihood.structure
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(a), jax.tree.leaves(b))


def assert_rows(batch, rows, rtol=1e-9):
    """A result with a leading axis equals single results."""
    for k, row in enumerate(rows):
        for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(row), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours[k], theirs, rtol=rtol, atol=1e-9)
