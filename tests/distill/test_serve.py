"""Surrogates as files and in other tools: equal everywhere, and damaged files refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError
from nextstat_jax.distill import export, generate_dataset, load, save, to_onnx, to_torch, train_mlp_surrogate
from nextstat_jax.distill._serve import artifact
from tests.distill.support import QUIET, SPEC

QUICK = {"hidden_layers": (8, 8), "epochs": 2, "batch_size": 64, "progress": False}
KINDS = ({}, {"recipe": "residual"}, {"recipe": "plain"}, {"ensemble": 2})


@pytest.fixture(scope="module")
def ds():
    return generate_dataset(nextstat.from_pyhf(SPEC), 300, method="profile", run=QUIET)


@pytest.fixture(scope="module")
def surrogates(ds):
    return [train_mlp_surrogate(ds, **QUICK, **options) for options in KINDS]


def test_saved_and_loaded(surrogates, ds, tmp_path):
    for surrogate in surrogates:
        save(surrogate, tmp_path / "a.npz")
        again = load(tmp_path / "a.npz")
        assert np.array_equal(again.nll(ds.parameters), surrogate.nll(ds.parameters))
        assert np.array_equal(again.in_domain(ds.parameters), surrogate.in_domain(ds.parameters))
        assert (again.metadata, again.names) == (surrogate.metadata, surrogate.names)
        assert repr(again) == repr(surrogate)
    assert os.listdir(tmp_path) == ["a.npz"]


def test_damaged_files_are_refused(surrogates, ds, tmp_path):
    path = tmp_path / "a.npz"
    save(surrogates[0], path)
    whole = path.read_bytes()
    middle = len(whole) // 3
    damaged = bytes([*whole[:middle], *(255 - x for x in whole[middle : middle + 64]), *whole[middle + 64 :]])
    for content in (whole[:-20], whole[: len(whole) // 2], b"", damaged):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.npz is damaged"):
            load(path)
    nextstat.distill.to_npz(ds, path)
    with pytest.raises(DatasetError, match=r"has the format 'nextstat_jax.distill.dataset/1', expected"):
        load(path)
    with pytest.raises(DatasetError, match="there is no file"):
        load(tmp_path / "nowhere.npz")
    with pytest.raises(DatasetError, match="expected a surrogate"):
        save(ds, path)


def test_arrays_that_do_not_fit_are_refused(surrogates, tmp_path):
    path = tmp_path / "a.npz"
    save(surrogates[0], path)
    with np.load(path) as file:
        arrays = dict(file)
    for change in ({"member_0_center": np.zeros(3)}, {"member_0_layer_1_kernel": np.zeros((3, 3))}):
        np.savez(path, **{**arrays, **change})
        with pytest.raises(DatasetError, match="do not fit together"):
            load(path)
    np.savez(path, **{**arrays, "member_0_layer_2_bias": arrays["member_0_layer_2_bias"] + 1.0})
    with pytest.raises(DatasetError, match="its predictions differ by"):
        load(path)
    del arrays["member_0_skip"]
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match="no surrogate of this package: KeyError 'skip'"):
        load(path)


def test_torch_module_is_equal(surrogates, ds):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(ds.parameters)
    for surrogate in surrogates:
        module = to_torch(surrogate)
        expected = np.asarray(surrogate.nll(ds.parameters))
        np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
        point = x[0].clone().requires_grad_(True)
        module(point).backward()
        np.testing.assert_allclose(point.grad.numpy(), surrogate.grad_nll(ds.parameters[0]), rtol=1e-4, atol=1e-4)
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        module(x.to(torch.float32))


def test_exported_artifact_runs_without_the_package(surrogates, ds, tmp_path):
    np.save(tmp_path / "points.npy", ds.parameters)
    code = (
        "import sys; sys.modules['nextstat_jax'] = None\n"
        "import jax, jax.export, numpy as np; jax.config.update('jax_enable_x64', True)\n"
        f"f = jax.export.deserialize(bytearray(open({str(tmp_path / 'a.jax')!r}, 'rb').read())).call\n"
        f"x = np.load({str(tmp_path / 'points.npy')!r})\n"
        "print(*np.asarray(f(x[:7])), *np.asarray(jax.grad(lambda y: f(y[None])[0])(x[0])))"
    )
    export(surrogates[0], tmp_path / "a.jax", platforms=("cpu", "cuda"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array(done.stdout.split(), float)
    np.testing.assert_allclose(found[:7], surrogates[0].nll(ds.parameters[:7]), rtol=1e-6)
    np.testing.assert_allclose(found[7:], surrogates[0].grad_nll(ds.parameters[0]), rtol=1e-5, atol=1e-5)


def test_artifacts_in_single_precision(surrogates, ds, tmp_path):
    export(surrogates[1], tmp_path / "a.jax", dtype="float32")
    function = artifact(tmp_path / "a.jax")
    x = ds.parameters[:20].astype(np.float32)
    assert function(x).dtype == np.float32
    np.testing.assert_allclose(function(x), surrogates[1].nll(ds.parameters[:20]), rtol=1e-4)
    (tmp_path / "a.jax").write_bytes(b"half")
    with pytest.raises(DatasetError, match="is damaged"):
        artifact(tmp_path / "a.jax")
    with pytest.raises(DatasetError, match="cannot be read"):
        artifact(tmp_path / "nowhere")


@pytest.mark.slow
def test_onnx_runtime_computes_the_same(surrogates, ds, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "a.onnx"
    for surrogate in surrogates:
        to_onnx(surrogate, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        # Another length than the exporter saw, and a single point.
        for x in (ds.parameters, ds.parameters[:1]):
            (found,) = session.run(["nll"], {"params": x})
            assert found.dtype == np.float64 and found.shape == (len(x),)
            np.testing.assert_allclose(found, surrogate.nll(x), rtol=1e-5, atol=1e-5)
    names = json.loads(session.get_modelmeta().custom_metadata_map["parameter_names"])
    assert names == surrogate.parameter_names()
    with pytest.raises(DatasetError, match="cannot be written"):
        to_onnx(surrogates[2], tmp_path / "nowhere" / "a.onnx")
    with pytest.raises(DatasetError, match="expected a surrogate"):
        to_onnx(ds, path)


def test_onnx_needs_its_packages(surrogates, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(nextstat.MissingExtraError, match=r"pip install 'nextstat-jax\[onnx\]'"):
        to_onnx(surrogates[0], tmp_path / "a.onnx")


def test_other_precisions_and_integers_in_torch(surrogates, ds):
    torch = pytest.importorskip("torch")
    double = surrogates[0].astype("float64")
    x = torch.from_numpy(ds.parameters[:5])
    np.testing.assert_allclose(to_torch(double)(x).detach(), double.nll(ds.parameters[:5]), rtol=1e-12)
    whole = torch.ones(surrogates[0].n_params, dtype=torch.int64)
    expected = float(surrogates[0].nll(np.ones(surrogates[0].n_params)))
    assert to_torch(surrogates[0])(whole).item() == pytest.approx(expected, rel=1e-5)


def test_a_fresh_process_computes_in_double_precision(surrogates, ds, tmp_path):
    save(surrogates[0], tmp_path / "a.npz")
    np.save(tmp_path / "points.npy", ds.parameters[:9])
    code = (
        "import numpy as np; from nextstat_jax import distill\n"
        f"s = distill.load({str(tmp_path / 'a.npz')!r}); x = np.load({str(tmp_path / 'points.npy')!r})\n"
        f"distill.export(s, {str(tmp_path / 'a.jax')!r})\n"
        "print(s.nll(x).dtype, *np.asarray(s.nll(x)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kind, *values = done.stdout.split()
    assert kind == "float64"
    np.testing.assert_allclose(np.array(values, float), surrogates[0].nll(ds.parameters[:9]), rtol=1e-7)
    assert artifact(tmp_path / "a.jax")(ds.parameters[:9]).dtype == np.float64


def test_refusals(surrogates, tmp_path):
    with pytest.raises(DatasetError, match="dtype='int32': expected 'float64' or 'float32'"):
        export(surrogates[0], tmp_path / "a.jax", dtype="int32")
    with pytest.raises(DatasetError, match="dtype='banana'"):
        export(surrogates[0], tmp_path / "a.jax", dtype="banana")
    with pytest.raises(DatasetError, match="platforms='cpu': expected several"):
        export(surrogates[0], tmp_path / "a.jax", platforms="cpu")
    (tmp_path / "a.npz").write_text("import this")
    with pytest.raises(DatasetError, match=r"it is no \.npz file"):
        load(tmp_path / "a.npz")
    bad = jax.tree.map(lambda x: x * np.nan if np.asarray(x).dtype == np.float32 else x, surrogates[0])
    with pytest.raises(DatasetError, match="not finite in the middle of its region"):
        save(bad, tmp_path / "b.npz")


def test_derivatives_are_finite_far_away(surrogates, ds):
    far = np.array(ds.reference.minimum)
    far[surrogates[0].index("mu")] = 1e3
    assert np.isfinite(surrogates[0].grad_nll(far)).all()


def test_a_surrogate_is_a_pytree(surrogates, ds):
    leaves, structure = jax.tree.flatten(surrogates[0])
    again = jax.tree.unflatten(structure, leaves)
    x = ds.parameters[0]
    np.testing.assert_allclose(jax.jit(lambda s, y: s.nll(y))(again, x), surrogates[0].nll(x), rtol=1e-6)
