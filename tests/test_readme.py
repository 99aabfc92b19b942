"""The README's code blocks, one after the other, as a reader would run them; with fewer points to save time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import pyhf
import pytest

import nextstat_jax as nextstat
from tests import building as b
from tests.conftest import ROOT

torch = pytest.importorskip("torch")

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
# What only takes time: as the README has it, and here.
SHORTER = {
    "10_000": "500", "n_samples=100_000": "n_samples=4_000", "epochs=100": "epochs=30", "n=2000": "n=200",
    "distill.sample(theory, exact)": "distill.sample(theory, exact, 50, n_chains=2, n_warmup=20)",
}  # fmt: skip


def workspace(*, signal: bool = True) -> dict[str, Any]:
    rest = [
        b.lumi(), b.histosys("jes", [17.0, 31.0, 14.0], [24.0, 28.0, 17.0]), b.normsys("jet_resolution", 0.95, 1.06),
        b.normsys("scale", 0.9, 1.08), b.normsys("pdf", 0.97, 1.03), b.staterror("mc", [1.0, 1.5, 1.0]),
    ]  # fmt: skip
    samples = [b.sample("background", [20.0, 30.0, 15.0], *rest)]
    if signal:
        samples.insert(0, b.sample("signal", [2.0, 6.0, 3.0], b.normfactor("mu"), b.lumi()))
    lumi = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}
    return b.one_channel(samples, [23.0, 37.0, 16.0], parameters=[lumi])


def patch(mass: int) -> dict[str, Any]:
    size = 3000.0 / mass
    signal = b.sample("signal", [2.0 * size, 6.0 * size, 3.0 * size], b.normfactor("mu"), b.lumi())
    operation = {"op": "add", "path": "/channels/0/samples/0", "value": signal}
    # No three points of a plane on one line: an exclusion contour needs triangles.
    values = [mass, 100 + mass * mass // 5000]
    return {"metadata": {"name": f"point_{mass}", "values": values}, "patch": [operation]}


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "workspace.json").write_text(json.dumps(workspace()))
    (folder / "background_only.json").write_text(json.dumps(workspace(signal=False)))
    patches = {
        "metadata": {
            "name": "points", "description": "signal points", "labels": ["mass", "other"],
            "references": {"hepdata": "x"}, "digests": {"sha256": pyhf.utils.digest(workspace(signal=False), "sha256")},
        },
        "patches": [patch(mass) for mass in (500, 700, 900)],
        "version": "1.0.0",
    }  # fmt: skip
    (folder / "patchset.json").write_text(json.dumps(patches))
    return folder


@pytest.fixture
def names() -> dict[str, Any]:
    """What the blocks leave to the reader: edges, events, a classifier."""
    rng = np.random.default_rng(1)
    events = torch.as_tensor(rng.normal(size=(200, 2)))
    network = torch.nn.Sequential(torch.nn.Linear(2, 1, dtype=torch.float64), torch.nn.Sigmoid(), torch.nn.Flatten(0))
    return {
        "np": np, "torch": torch, "edges": np.linspace(0.0, 1.0, 4), "signal_weights": np.full(100, 0.1),
        "background_weights": np.full(100, 0.6), "classifier": network, "batch": events,
        "weights": torch.full((200,), 0.05, dtype=torch.float64),
    }  # fmt: skip


def test_the_blocks_are_found():
    assert len(BLOCKS) == 8


def run_block(number: int, names: dict[str, Any]) -> None:
    text = BLOCKS[number]
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    # The histogram of the training in torch has as many bins as the model.
    text = text.replace("torch.linspace(0, 1, 11)", "torch.linspace(0, 1, 4)")
    exec(compile(text, f"README block {number}", "exec"), names)
    if "classifier" in text:
        assert all(parameter.grad is not None for parameter in names["classifier"].parameters())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "blocks",
    [
        # A first fit, and the training in JAX and in torch.
        pytest.param((0, 4, 5), id="short"),
        pytest.param(range(len(BLOCKS)), id="all", marks=pytest.mark.slow),
    ],
)
def test_blocks(blocks, there, names, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(there)
    for number in blocks:
        run_block(number, names)
        if number == 4:
            rng = np.random.default_rng(2)
            value = names["objective"](jax.nn.sigmoid, rng.normal(1.0, 1.0, 100), rng.normal(-1.0, 1.0, 100))
            assert np.isfinite(float(value))


@pytest.mark.slow
def test_what_the_readme_promises_of_results(there, monkeypatch):
    monkeypatch.chdir(there)
    model = nextstat.from_pyhf("workspace.json")
    assert float(nextstat.q0(model)) == pytest.approx(float(nextstat.discovery(model).q0), abs=1e-9)
    slope = jax.grad(lambda m: nextstat.upper_limit(m).median)(model)
    assert np.isfinite(slope.likelihood.nominal).all() and np.any(np.asarray(slope.likelihood.nominal) != 0)
    other = nextstat.from_pyhf("workspace.json", poi="jes")
    assert other.poi == "jes" and model.with_poi("jes").poi == "jes"
    with pytest.warns(UserWarning, match="which no modifier declares"):
        assert nextstat.from_pyhf("background_only.json").poi is None
