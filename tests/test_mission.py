"""The pipelines that the package was made for, as an ML engineer would write them down."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nextstat_jax
from nextstat_jax import example_workspace

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'nextstat-jax[torch]'")


def ten_bins():
    """JSON of one channel with ten bins, a signal that peaks at high scores, and two systematics."""
    x = np.linspace(0.05, 0.95, 10)
    background = 400.0 * np.exp(-3.0 * x)
    modifiers = [
        {
            "name": "tilt",
            "type": "histosys",
            "data": {
                "hi_data": (background * (1 + 0.2 * (x - 0.5))).tolist(),
                "lo_data": (background * (1 - 0.2 * (x - 0.5))).tolist(),
            },
        },
        {"name": "rate", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
    ]
    signal = (20.0 * x**2).tolist()
    mu = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "signal", "data": signal, "modifiers": [mu]},
        {"name": "background", "data": background.tolist(), "modifiers": modifiers},
    ]
    return json.dumps(
        {
            "version": "1.0.0",
            "channels": [{"name": "scores", "samples": samples}],
            "observations": [{"name": "scores", "data": np.round(background + signal).tolist()}],
            "measurements": [{"name": "search", "config": {"poi": "mu", "parameters": []}}],
        }
    )


def test_the_pipeline_in_ten_lines():
    """Load a model, make a loss and a soft histogram, train: the loop of the mission, without a GPU too."""
    torch.manual_seed(0)
    workspace_json = ten_bins()
    features = torch.randn(512, 3) + 0.5
    # Weights bring the sum to the expected yield of the signal.
    weights = torch.full((512,), 60.0 / 512)
    dataloader = [(features[k : k + 256], 2.0 * weights[k : k + 256]) for k in (0, 256)] * 10
    classifier = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1), torch.nn.Sigmoid(), torch.nn.Flatten(0)
    )
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    losses = []

    import nextstat_jax as nextstat
    from nextstat_jax.torch import SignificanceLoss, SoftHistogram

    # 1. Load your statistical model (HistFactory JSON from pyhf)
    model = nextstat.from_pyhf(workspace_json)

    # 2. Create a differentiable loss
    loss_fn = SignificanceLoss(model, "signal", data="asimov")

    # 3. Differentiable binning: NN scores -> soft histogram
    soft_hist = SoftHistogram(bin_edges=torch.linspace(0, 1, 11))

    # 4. Training loop
    for batch_x, batch_w in dataloader:
        scores = classifier(batch_x)
        histogram = soft_hist(scores, batch_w)
        histogram = histogram.double()
        if torch.cuda.is_available():
            histogram = histogram.cuda()
        loss = loss_fn(histogram)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0] - 0.05
    assert histogram.sum().item() == pytest.approx(60.0, rel=1e-5)


def test_the_loss_in_its_default_form():
    """``SignificanceLoss(model, "signal")`` tests the model's own data, and ``loss.backward()`` reaches the scores."""
    from nextstat_jax.torch import SignificanceLoss, SoftHistogram

    loss_fn = SignificanceLoss(nextstat_jax.from_pyhf(ten_bins()), "signal")
    scores = torch.rand(200, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = loss_fn(SoftHistogram(bin_edges=torch.linspace(0, 1, 11))(scores, torch.full((200,), 0.3)).double())
    loss.backward()
    assert loss.item() < 0
    assert scores.grad.abs().sum() > 0
    assert scores.grad.dtype == torch.float32


@pytest.mark.slow
def test_each_word_of_the_vocabulary():
    """Physics on the left, the name of the interface on the right."""
    import nextstat_jax as nextstat

    model = nextstat.from_pyhf(example_workspace())
    assert len(model.parameters()) == model.n_params
    assert np.isfinite(float(nextstat.fit(model).mu))
    session = nextstat.create_profiled_session(model, "signal")
    histogram = torch.as_tensor(np.array(model.template("signal")), dtype=torch.float64)
    q0 = nextstat.torch.profiled_q0_loss(histogram, session)
    assert q0.item() == pytest.approx(float(nextstat.q0(model)), rel=1e-9)
    assert nextstat.torch.profiled_z0_loss(histogram, session).item() == pytest.approx(np.sqrt(q0.item()), rel=1e-6)
    assert nextstat.asimov_data(model).shape == model.observed_data.shape
    ranking = nextstat.interpret.rank_impact(model, top_n=3)
    assert [row["rank"] for row in ranking] == [1, 2, 3]
    assert nextstat.SoftHistogram(np.linspace(0, 1, 4))(np.array([0.1, 0.9])).sum() == pytest.approx(2.0)
    for door in ("torch", "gym", "mlops", "interpret", "plot"):
        assert getattr(nextstat, door).__doc__
        assert door in dir(nextstat)
    with pytest.raises(AttributeError, match="no attribute 'tensorflow'"):
        _ = nextstat.tensorflow
