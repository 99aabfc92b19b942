"""d(Z0) / d(sizes of systematics) and d(Z0) / d(yields), against workspaces edited and read anew."""

from __future__ import annotations

import copy
import json

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax.interpret import importance
from tests.building import histosys, normfactor, normsys, sample, shapesys, staterror, workspace

mpl.use("Agg")


def spec():
    return workspace(
        {
            "SR": [
                sample("signal", [6.0, 9.0], normfactor("mu")),
                sample(
                    "bkg",
                    [50.0, 15.0],
                    staterror("mc", [3.0, 2.0]),
                    histosys("jes", [44.0, 14.0], [57.0, 17.0]),
                    normsys("xs", 0.9, 1.12),
                ),
            ],
            "CR": [sample("bkg", [50.0], shapesys("free", [5.0]), normsys("xs", 0.9, 1.12))],
        },
        {"SR": [60.0, 21.0], "CR": [52.0]},
    )


@pytest.fixture(scope="module")
def result():
    return importance(nextstat.from_pyhf(spec()))


def expected_z0(edited):
    model = nextstat.from_pyhf(edited)
    return float(nextstat.z0(model, data=model.asimov_data(mu=1.0)))


def slope(edit, step):
    ends = [expected_z0(edit(1.0 + k * step)) for k in (-2, -1, 1, 2)]
    return (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)


def resized(name, k, size):
    edited = copy.deepcopy(spec())
    for channel in edited["channels"]:
        for s in channel["samples"]:
            for m in s["modifiers"]:
                if m["name"] != name:
                    continue
                if m["type"] == "normsys":
                    m["data"] = {side: m["data"][side] ** size for side in ("hi", "lo")}
                elif m["type"] == "histosys":
                    for side in ("hi_data", "lo_data"):
                        m["data"][side] = [n + size * (x - n) for n, x in zip(s["data"], m["data"][side], strict=True)]
                else:
                    m["data"][k] *= size
    return edited


@pytest.mark.parametrize("parameter", ["xs", "jes", "mc[0]", "free[0]"])
def test_sizes(result, parameter):
    name, k = parameter.removesuffix("[0]"), 0
    ours = float(result.systematics[result.names.index(parameter)])
    assert ours == pytest.approx(slope(lambda size: resized(name, k, size), 1e-3), rel=1e-5, abs=1e-8)
    assert ours < 0


@pytest.mark.parametrize(("channel", "which", "k"), [("SR", "signal", 1), ("SR", "bkg", 1), ("CR", "bkg", 0)])
def test_yields(result, channel, which, k):
    def edit(size):
        edited = copy.deepcopy(spec())
        (one,) = (s for c in edited["channels"] if c["name"] == channel for s in c["samples"] if s["name"] == which)
        change = (size - 1.0) * one["data"][k]
        one["data"][k] += change
        for m in one["modifiers"]:
            if m["type"] == "histosys":  # shifts keep their size
                for side in ("hi_data", "lo_data"):
                    m["data"][side][k] += change
        return edited

    value = next(c for c in spec()["channels"] if c["name"] == channel)
    events = next(s["data"][k] for s in value["samples"] if s["name"] == which)
    assert float(result.of(which, channel)[k]) * events == pytest.approx(slope(edit, 1e-3), rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_table_and_batches(result):
    assert float(result.z0) == pytest.approx(expected_z0(spec()), rel=1e-9)
    assert set(result.names) == {"xs", "jes", "mc[0]", "mc[1]", "free[0]"}
    text = repr(result)
    assert "expected Z0" in text
    rows = result.to_dict()
    json.dumps(rows)
    sizes = [abs(row["dz0_dsize"]) for row in rows["systematics"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(rows["bins"]) == 5
    assert list(result.to_dataframe("bins")["sample"]) == [row["sample"] for row in rows["bins"]]
    model = nextstat.from_pyhf(spec())
    of_asimov = jax.vmap(lambda mu: importance(model, data=model.asimov_data(mu=mu)).systematics)
    batch = jax.jit(of_asimov)(np.array([1.0, 2.0]))
    assert batch.shape == (2, 5)
    # Data that are given do not follow the yields.
    observed = importance(model, data=None)
    assert observed.data == "given"
    assert float(observed.z0) == pytest.approx(float(nextstat.z0(model)), rel=1e-9)


def test_pictures(result):
    ax = nextstat.plot.importance(result, top_n=3)
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, [row["dz0_dsize"] for row in result.to_dict()["systematics"]][:3])
    bins = nextstat.plot.importance(result, sample="signal")
    assert "events" in bins.get_ylabel()
    plt.close("all")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: importance(m, data="toys"), "data='toys'"),
        (lambda m: importance(m, data=[1.0]), r"shape \(1,\)"),
        (lambda m: importance(m).of("sig"), "there is no sample 'sig': bkg, signal"),
        (lambda m: importance(m).to_dataframe("cells"), "of='cells'"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(nextstat.NextstatError, match=message):
        call(nextstat.from_pyhf(spec()))
