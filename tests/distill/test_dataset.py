"""Points of parameter space and data sets of them: pyhf and statistics as the oracle."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import numpy as np
import pyhf
import pytest
from scipy.stats import kstest, qmc

import nextstat_jax as nextstat
from nextstat_jax import DatasetError, FitError, ModelError
from nextstat_jax._batches._run import Run
from nextstat_jax.distill import generate_dataset, to_numpy, to_torch_dataset
from nextstat_jax.distill._dataset import Asked, make_request
from nextstat_jax.distill._sampling import METHODS, Points, _permuted
from tests.distill.support import FIXED, NEGATIVE, QUIET, SPEC
from tests.selection import mostly_slow


def small(model, n=100, *, device=None, bounds=None, seed=0, method="sobol", nonfinite="resample", columns=(), **how):
    """A data set; what is left says how to run."""
    options = {"device": device, "bounds": bounds, "seed": seed, "method": method, "nonfinite": nonfinite}
    return generate_dataset(model, n, **options, **dict(columns), run=Run(progress=False, **how))


def points_of(model, method, n, seed=3):
    request = make_request(model, Asked(n, method, None, seed, True, None, "keep", None), QUIET)
    return Points(request.setup.plan), request


@pytest.mark.parametrize("method", mostly_slow(METHODS, "profile"))
def test_values_are_those_of_pyhf(model, method):
    ds = small(model, 40, method=method, seed=1)
    oracle = pyhf.Workspace(SPEC).model()
    data = pyhf.Workspace(SPEC).data(oracle)
    expected = [-float(oracle.logpdf(x, data)[0]) for x in ds.parameters]
    np.testing.assert_allclose(ds.nll, expected, rtol=1e-10)
    np.testing.assert_allclose(ds.rates, [oracle.expected_actualdata(x) for x in ds.parameters], rtol=1e-10)
    step = 1e-6 * np.eye(model.n_params)
    for x, gradient in zip(ds.parameters[:3], ds.gradient[:3], strict=True):
        found = [(float(model.nll(x + h)) - float(model.nll(x - h))) / 2e-6 for h in step]
        np.testing.assert_allclose(gradient, found, rtol=1e-4, atol=1e-4)


def test_what_a_dataset_says_of_itself(model):
    ds = small(model, 64, seed=5)
    assert (ds.n_samples, ds.n_params, len(ds)) == (64, model.n_params, 64)
    assert ds.parameter_names == model.parameter_names()
    assert all(x.dtype == np.float64 for x in (ds.parameters, ds.nll, ds.gradient, ds.rates, ds.parameter_bounds))
    assert "64 points of 5 parameters" in repr(ds) and "'sobol'" in repr(ds)
    assert ds.metadata["interpolation"] == {"normsys": "code4", "histosys": "code4p"}
    assert ds.metadata["seed"] == 5 and len(ds.metadata["model_digest"]) == 64
    assert len(ds[10:20]) == 10 and np.array_equal(ds[[3]].nll, ds.nll[3:4])
    other = nextstat.from_pyhf(SPEC).with_data([50.0, 48.0])
    assert small(other, 4).metadata["model_digest"] != ds.metadata["model_digest"]


def test_default_bounds(model):
    ds = small(model, 4)
    bounds = dict(zip(ds.parameter_names, ds.parameter_bounds.tolist(), strict=True))
    assert bounds["mu"] == [0.0, 10.0] and bounds["shape"] == [-5.0, 5.0]
    # A Poisson constraint of 5 +- 50 % has the width 5 / 50.
    assert bounds["stat[0]"] == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("method", METHODS)
def test_any_chunk_can_be_made_alone(model, method):
    maker, request = points_of(model, method, 1000)
    whole = maker.chunk(0, 1000)
    for start, count in ((700, 13), (0, 5), (250, 200), (999, 1)):
        again = [Points(request.setup.plan).chunk(start, count) for _ in range(2)]
        assert np.array_equal(*again)
        np.testing.assert_allclose(again[0], whole[start : start + count], rtol=1e-12, atol=1e-13)
    parts = [maker.chunk(k, 100) for k in range(0, 1000, 100)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12, atol=1e-13)
    assert not np.array_equal(points_of(model, method, 1000, seed=4)[0].chunk(0, 1000), whole)


@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_chunks(model, method):
    one, two = (small(model, 300, method=method, batch_size=size) for size in (None, 37))
    np.testing.assert_allclose(one.parameters, two.parameters, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(one.nll, two.nll, rtol=1e-12)
    np.testing.assert_allclose(one.gradient, two.gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000, 4097])
def test_permutations_are_one_to_one(n):
    keys = np.random.default_rng(n).integers(0, 2**62, 4, dtype=np.uint64)
    images = _permuted(np.arange(n, dtype=np.uint64), n, keys)
    assert np.array_equal(np.sort(images), np.arange(n))
    if n >= 64:
        assert abs(np.corrcoef(images, np.arange(n))[0, 1]) < 4 / np.sqrt(n)


def test_latin_hypercube_is_stratified(model):
    ds = small(model, 500, method="lhs")
    unit = (ds.parameters - ds.parameter_bounds[:, 0]) / np.diff(ds.parameter_bounds)[:, 0]
    strata = np.sort(np.floor(unit * 500), axis=0)
    assert np.array_equal(strata, np.repeat(np.arange(500.0)[:, None], model.n_params, axis=1))
    off_diagonal = np.corrcoef(unit.T) - np.eye(model.n_params)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(500)


def test_sobol_points_are_more_even_than_random_ones(model):
    def discrepancy(method):
        ds = small(model, 512, method=method)
        return qmc.discrepancy((ds.parameters - ds.parameter_bounds[:, 0]) / np.diff(ds.parameter_bounds)[:, 0])

    assert discrepancy("sobol") < 0.2 * discrepancy("uniform")


def test_gaussian_points_have_the_covariance_of_the_fit(model):
    # Far from all bounds, where nothing is mirrored.
    centered = model.replace_bounds("mu", lower=-10.0)
    fit = nextstat.fit(centered)
    ds = generate_dataset(centered, 40_000, method="gaussian", run=QUIET)
    pull = (ds.parameters - np.asarray(fit.params)) / np.asarray(fit.uncertainties)
    np.testing.assert_allclose(pull.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(ds.parameters.T), np.asarray(fit.correlation), atol=0.03)
    assert kstest(pull[:, 0], "norm").pvalue > 1e-4


def test_points_beyond_a_bound_are_mirrored(model):
    # The best fit of mu lies on its bound: half a normal distribution, nothing piled up.
    ds = small(model, 4000, method="gaussian")
    fit = nextstat.fit(model)
    assert "mu" in fit.at_bound
    mu = ds.parameters[:, model.poi_index]
    assert (mu > 0).all() and kstest(mu / float(fit.mu_uncertainty), "halfnorm").pvalue > 1e-4


def test_profile_points_follow_the_profile(model):
    wide = model.replace_bounds("mu", lower=-10.0)
    ds = generate_dataset(wide, 4096, method="profile", run=QUIET)
    assert (ds.parameters >= ds.parameter_bounds[:, 0]).all() and (ds.parameters <= ds.parameter_bounds[:, 1]).all()
    # Somewhere near every value of mu there is a point almost as low as the profile.
    values = np.linspace(-1.5, 1.0, 6)
    for value in values:
        near = np.abs(ds.parameters[:, wide.poi_index] - value) < 0.1
        exact = float(nextstat.profile(wide, value).nll)
        assert ds.nll[near].min() - exact < 0.5
    assert ((ds.nll - float(ds.reference.minimum_nll)) < 10).mean() > 0.5
    # A quarter of the points fills the box, all of it: beyond what surrounds the minimum, as evenly as chance has it.
    k = wide.index("shape")
    counts = np.histogram(ds.parameters[:, k], np.linspace(-5, 5, 11))[0]
    assert (np.abs(counts[[0, 1, 8, 9]] - 1024 / 10) < 40).all()


def test_fixed_parameters_are_constant():
    spec = {**SPEC, "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": FIXED}}]}
    fixed = nextstat.from_pyhf(spec)
    ds = small(fixed, 32, method="profile")
    k = fixed.index("norm")
    assert (ds.parameters[:, k] == 0.5).all() and ds.parameter_bounds[k].tolist() == [0.5, 0.5]
    assert ds.metadata["fixed"] == {"norm": 0.5}


def test_bounds_by_name_and_by_array(model):
    ds = small(model, 64, bounds={"mu": (1.0, 2.0)})
    mu = ds.parameters[:, model.poi_index]
    assert 1 <= mu.min() < 1.1 < 1.9 < mu.max() <= 2
    box = np.array(ds.parameter_bounds)
    assert np.array_equal(small(model, 64, bounds=box).parameters, ds.parameters)


@pytest.mark.slow
def test_points_without_a_finite_nll():
    bad = nextstat.from_pyhf(NEGATIVE)
    keep, drop, again = (small(bad, 256, nonfinite=policy) for policy in ("keep", "drop", "resample"))
    count = int((~np.isfinite(keep.nll)).sum())
    assert 30 < count < 100
    assert keep.metadata["n_nonfinite"] == drop.metadata["n_nonfinite"] == again.metadata["n_nonfinite"] == count
    assert not np.isnan(keep.nll).any() and np.isfinite(keep.gradient).all()
    assert drop.n_samples == drop.metadata["n_samples"] == 256 - count
    assert np.array_equal(drop.parameters, keep.parameters[np.isfinite(keep.nll)])
    assert again.n_samples == 256 and np.isfinite(again.nll).all()
    same = np.isfinite(keep.nll)
    assert np.array_equal(again.parameters[same], keep.parameters[same])
    assert np.array_equal(small(bad, 256, batch_size=19).parameters, again.parameters)
    with pytest.raises(DatasetError, match="no finite NLL: give narrower bounds"):
        small(bad, 8, bounds={"mu": (-10.0, -8.0), "k": (-0.1, 0.1)})


def test_mesh_and_device_compute_the_same(model):
    here = small(model, 50)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    for options in ({"mesh": mesh}, {"device": "cpu"}, {"device": jax.devices()[0]}):
        assert np.allclose(small(model, 50, **options).nll, here.nll, rtol=1e-13)


@pytest.mark.slow
def test_several_devices_compute_the_same():
    code = (
        "import jax, numpy as np; jax.config.update('jax_num_cpu_devices', 3)\n"
        "import nextstat_jax as ns; from nextstat_jax.distill import generate_dataset\n"
        "from nextstat_jax._batches._run import Run\n"
        "from tests.distill.support import SPEC\n"
        "m = ns.from_pyhf(SPEC); mesh = jax.make_mesh((3,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))\n"
        "one, all_ = (generate_dataset(m, 100, run=Run(progress=False, batch_size=16, mesh=x)) for x in (None, mesh))\n"
        "print(np.array_equal(one.parameters, all_.parameters), np.allclose(one.nll, all_.nll, rtol=1e-13),\n"
        "      np.allclose(one.gradient, all_.gradient, rtol=1e-11))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True"] * 3, done.stderr


@pytest.mark.slow
def test_executor_computes_the_same(model):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = small(model, 60, method="profile", batch_size=25, executor=pool)
    here = small(model, 60, method="profile", batch_size=25)
    assert np.array_equal(there.parameters, here.parameters) and np.array_equal(there.nll, here.nll)


def test_to_numpy_and_torch(model):
    torch = pytest.importorskip("torch")
    ds = small(model, 16)
    arrays = to_numpy(ds)
    assert set(arrays) == {"parameters", "nll", "gradient", "rates", "parameter_bounds", "parameter_names"}
    assert arrays["nll"] is ds.nll
    tensors = to_torch_dataset(ds)
    assert isinstance(tensors, torch.utils.data.TensorDataset) and len(tensors) == 16
    assert all(x.dtype == torch.float32 for x in tensors[0])
    np.testing.assert_allclose(tensors[3][2].numpy(), ds.gradient[3], rtol=1e-6)
    plain = small(model, 16, columns={"include_gradient": False, "include_rates": False})
    assert plain.gradient is None and plain.rates is None and len(to_torch_dataset(plain)[0]) == 2
    np.testing.assert_allclose(plain.nll, ds.nll, rtol=1e-13)


BAD = [
    ({"method": "grid"}, "method='grid': expected one of 'sobol', 'lhs'"),
    ({"n": 0}, "n_samples=0: expected a positive integer"),
    ({"n": 2.5}, "n_samples=2.5"),
    ({"seed": -1}, "seed=-1"),
    ({"nonfinite": "ignore"}, "nonfinite='ignore'"),
    ({"bounds": np.zeros((3, 2))}, r"bounds have shape \(3, 2\): expected \(5, 2\)"),
    ({"bounds": "wide"}, "bounds have shape"),
    ({"bounds": {"mu": (2, 1)}}, "bounds of mu: 2 is not below 1"),
    ({"bounds": {"mu": (1, np.nan)}}, "bounds of mu are"),
    ({"bounds": {"nu": (1, 2)}}, "no parameter 'nu'"),
    ({"bounds": np.full((5, 2), np.inf)}, "bounds of .* are not finite"),
    ({"device": "cuda"}, "device='cuda': JAX has no such device here; it has cpu"),
    ({"device": 3}, "device=3"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_arguments(model, options, message):
    n = options.get("n", 10)
    with pytest.raises(DatasetError, match=message) as caught:
        small(model, n, **{k: v for k, v in options.items() if k != "n"})
    assert "\n" not in str(caught.value)


def test_places_to_compute(model):
    with pytest.raises(FitError, match="batch_size=0"):
        small(model, 10, batch_size=0)
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(DatasetError, match="device and executor are different places"),
    ):
        small(model, 10, executor=pool, device="cpu")
    with pytest.raises(DatasetError, match="run is a dict"):
        generate_dataset(model, 10, run={})


def test_what_is_no_model_and_no_dataset(model, surrogate):
    with pytest.raises(ModelError, match="expected a model"):
        small({"a": 1})
    with pytest.raises(ModelError, match="found a Surrogate"):
        small(surrogate)
    with pytest.raises(DatasetError, match="expected a data set"):
        to_numpy(model)
    with pytest.raises(DatasetError, match="on the host"):
        jax.jit(lambda m: small(m, 4).nll)(model)
