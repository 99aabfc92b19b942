"""The documented workflow word for word, validation, and sampling."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError
from nextstat_jax.distill import Chains, generate_dataset, log_density, sample, train_mlp_surrogate, validate
from tests.distill.support import QUIET, SPEC

QUICK = {"hidden_layers": (32, 32), "epochs": 60, "batch_size": 256, "lr": 0.01, "progress": False}


@pytest.fixture(scope="module")
def poor(ds):
    return train_mlp_surrogate(ds, **{**QUICK, "epochs": 2, "recipe": "plain"})


@pytest.mark.slow
def test_the_documented_workflow(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    workspace_json = json.dumps(SPEC)
    # From here on the text of the documentation, with fewer points and without a GPU.
    from nextstat_jax.distill import generate_dataset, predict_nll, train_mlp_surrogate

    model = nextstat.from_pyhf(workspace_json)
    ds = generate_dataset(model, n_samples=2_000, method="sobol")
    print(f"{ds.n_samples} points, {ds.n_params} params")
    print(f"NLL range: [{ds.nll.min():.1f}, {ds.nll.max():.1f}]")
    surrogate = train_mlp_surrogate(ds, epochs=5, device="cpu")
    test_params = np.array(model.parameter_init())
    pred_nll = predict_nll(surrogate, test_params)
    print(f"Surrogate NLL: {pred_nll:.2f}")

    import torch.nn.functional as F  # noqa: N812

    from nextstat_jax.distill import to_torch_dataset

    train_ds = to_torch_dataset(ds)
    loader = torch.utils.data.DataLoader(train_ds, batch_size=128, shuffle=True)
    net = torch.nn.Sequential(
        torch.nn.Linear(ds.n_params, 32),
        torch.nn.SiLU(),
        torch.nn.Linear(32, 32),
        torch.nn.SiLU(),
        torch.nn.Linear(32, 1),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _epoch in range(5):
        for params_batch, nll_batch, grad_batch in loader:
            pred = net(params_batch).squeeze()
            loss = F.mse_loss(pred, nll_batch)
            params_batch.requires_grad_(True)
            pred_g = net(params_batch).squeeze()
            pred_grad = torch.autograd.grad(pred_g.sum(), params_batch, create_graph=True)[0]
            loss += 0.1 * F.mse_loss(pred_grad, grad_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-16:]) < np.mean(losses[:16])

    from nextstat_jax.distill import from_npz, to_npz, to_numpy, to_parquet

    to_npz(ds, "surrogate.npz")
    to_parquet(ds, "surrogate.parquet")
    assert np.array_equal(to_numpy(from_npz("surrogate.npz"))["nll"], ds.nll)

    test_params = np.random.default_rng(99).uniform(
        ds.parameter_bounds[:, 0], ds.parameter_bounds[:, 1], size=(100, ds.n_params)
    )
    pred = predict_nll(surrogate, test_params)
    exact = np.array([model.nll(p.tolist()) for p in test_params])
    rmse = np.sqrt(np.mean((pred - exact) ** 2))
    max_err = np.max(np.abs(pred - exact))
    print(f"RMSE: {rmse:.4f}, Max error: {max_err:.4f}")
    assert rmse < 0.05 * np.std(exact)
    assert "2000 points, 5 params" in capsys.readouterr().out


@pytest.mark.slow
def test_a_good_surrogate_passes_and_a_poor_one_fails(surrogate, poor, model):
    good = validate(surrogate, model, n=500)
    assert good.passed, good
    assert "within its tolerances" in repr(good) and good.parameter == "mu"
    assert good.scan["exact"].max() > 1.0 and good.n_near > 300
    bad = validate(poor, model, n=500)
    assert not bad.passed and not bad.verdicts["delta_nll_rmse"] and "NOT within" in repr(bad)
    assert bad.measures["profile_error"] > 10 * good.measures["profile_error"]
    assert bool(good.converged) and good.message == "surrogate is within its tolerances"
    assert list(good.to_dataframe().measure) == list(good.measures)
    found = json.loads(json.dumps(good.to_dict()))
    assert found["passed"] is True and set(found["verdicts"]) == set(good.tolerances) <= set(good.meanings)
    strict = validate(surrogate, model, n=500, tolerances={"nll_max": 1e-9})
    assert not strict.passed and strict.verdicts["nll_max"] is False
    pytest.importorskip("matplotlib")
    axes = good.plot()
    assert len(axes) == 2 and axes[1].get_xlabel() == "mu"


@pytest.mark.slow
def test_validation_of_other_parameters(surrogate, model):
    other = validate(surrogate, model, n=200, parameter="shape")
    exact = nextstat.interval(model, "shape")
    assert other.parameter == "shape"
    np.testing.assert_allclose(other.interval["exact"], [float(exact.lower), float(exact.upper)])
    np.testing.assert_allclose(other.interval["surrogate"], other.interval["exact"], atol=0.05)


def test_validation_refuses(surrogate, model, ds):
    with pytest.raises(DatasetError, match="made from another model"):
        validate(surrogate, model.with_data([50.0, 48.0]))
    with pytest.raises(DatasetError, match="expected a surrogate"):
        validate(ds, model)
    with pytest.raises(DatasetError, match="there is no 'rmse'"):
        validate(surrogate, model, tolerances={"rmse": 1.0})
    with pytest.raises(DatasetError, match="no point is within"):
        validate(surrogate, model, n=10, near=1e-9)


def test_densities_on_the_unbounded_space(surrogate, model):
    approximate, exact = log_density(surrogate), log_density(model, surrogate)
    z = jnp.array([0.3, -0.4, 0.1, 0.2, -0.1])
    params = exact.params(z)
    np.testing.assert_allclose(exact.unbounded(params), z, rtol=1e-9)
    jacobian = jnp.linalg.slogdet(jax.jacobian(exact.params)(z))[1]
    box = np.diff(np.asarray(surrogate.parameter_bounds()))[:, 0]
    expected = -float(model.nll(params)) + float(jacobian) - np.log(box).sum()
    assert float(exact(z)) == pytest.approx(expected, rel=1e-10)
    assert float(exact.potential(z)) == -float(exact(z))
    assert float(approximate(z)) == pytest.approx(float(exact(z)), abs=1.0)
    with pytest.raises(DatasetError, match="expected a surrogate"):
        log_density(model)


@pytest.mark.slow
def test_delayed_acceptance_samples_the_exact_posterior(surrogate, poor, model):
    # The poor surrogate tests the correction: without it, its posterior is another one.
    grid = generate_dataset(model, 2**17, method="sobol", seed=5, run=QUIET, include_gradient=False)
    weight = np.exp(float(grid.nll.min()) - grid.nll)
    weight /= weight.sum()
    mean = weight @ grid.parameters
    width = np.sqrt(weight @ (grid.parameters - mean) ** 2)
    size = 1.0 / (weight**2).sum()
    assert size > 100
    for one, acceptance in ((surrogate, 0.9), (poor, 0.02)):
        chains = sample(one, model, 1500, n_chains=4, n_warmup=300, seed=1)
        assert chains.acceptance > acceptance and chains.n_exact == 4 * 1801
        pull = (chains.params.mean((0, 1)) - mean) / width
        tolerance = 4.0 / np.sqrt(size) + 0.1
        assert np.abs(pull).max() < tolerance, pull
        ratio = chains.params.std((0, 1)) / width
        assert np.abs(ratio - 1).max() < tolerance + 0.05, ratio
    assert sample(surrogate, model, 5, n_warmup=2, seed=3).params.shape == (4, 5, 5)
    assert "% of the surrogate's proposals" in repr(chains)


def test_chains_in_arviz(surrogate, model):
    arviz = pytest.importorskip("arviz")
    chains = sample(surrogate, model, 300, n_warmup=100)
    found = arviz.rhat(chains.to_arviz(), method="split")
    np.testing.assert_allclose(chains.r_hat, [float(found[name]) for name in chains.parameter_names], rtol=1e-6)
    assert bool(chains.converged) and chains.r_hat.max() < 1.05


def test_chains_that_have_not_mixed_say_so():
    draws = np.random.default_rng(1).normal(size=(4, 200, 2))
    good = Chains(draws, np.ones((4, 200), bool), np.asarray(0.9), np.asarray(804), parameter_names=("a", "b"))
    assert bool(good.converged) and "have mixed" in good.message
    apart = replace(good, params=draws + np.arange(4.0)[:, None, None] * np.array([3.0, 0.0]))
    assert not bool(apart.converged) and apart.r_hat[0] > 2 > 1.05 > apart.r_hat[1]
    assert "draw more" in apart.message and "draw more" in repr(apart)
    assert not bool(replace(good, params=draws[:, :3]).converged)
    facts = json.loads(json.dumps(good.to_dict()))
    assert facts["converged"] is True and facts["acceptance"] == 1.0 and facts["n_exact"] == 804
    assert facts["parameters"]["b"]["mean"] == pytest.approx(draws[..., 1].mean())
    pytest.importorskip("pandas")
    frame = good.to_dataframe()
    assert list(frame.parameter) == ["a", "b"] and frame["50 %"][0] == pytest.approx(np.median(draws[..., 0]))


@pytest.mark.slow
def test_blackjax_and_numpyro_take_the_density(surrogate):
    arviz = pytest.importorskip("arviz")
    density = log_density(surrogate)
    mass = np.asarray(density.root @ density.root.T)
    blackjax = pytest.importorskip("blackjax")
    numpyro = pytest.importorskip("numpyro")
    kernel = blackjax.nuts(density, 0.4, mass)

    def step(state, key):
        state, _ = kernel.step(key, state)
        return state, state.position

    start = kernel.init(jnp.asarray(density.start))
    _, path = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(1), 1500)))(start)
    kernel = numpyro.infer.NUTS(potential_fn=density.potential, inverse_mass_matrix=mass, dense_mass=True)
    chain = numpyro.infer.MCMC(kernel, num_warmup=300, num_samples=1500, progress_bar=False)
    chain.run(jax.random.key(2), init_params=jnp.asarray(density.start))
    one, two = (np.asarray(density.params(z)) for z in (path[200:], chain.get_samples()))
    # The signal strength may pile up at its bound, where chains move slowly: their own errors are the measure.
    mean_errors = np.hypot(*([float(arviz.mcse(x[:, k])) for k in range(x.shape[1])] for x in (one, two)))
    width_errors = np.hypot(*([float(arviz.mcse(x[:, k], method="sd")) for k in range(x.shape[1])] for x in (one, two)))
    assert (mean_errors < 0.2 * two.std(0)).all()
    assert (np.abs(one.mean(0) - two.mean(0)) < 5 * mean_errors).all()
    assert (np.abs(one.std(0) - two.std(0)) < 5 * width_errors).all()


def test_sampling_refuses(surrogate, model):
    with pytest.raises(DatasetError, match="made from another model"):
        sample(surrogate, model.with_data([50.0, 48.0]))
    with pytest.raises(DatasetError, match="n_samples=0"):
        sample(surrogate, model, 0)
