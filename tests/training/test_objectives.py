"""The registry of objectives: one contract for all, numbers of edited workspaces, and a new one in one entry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import mlops
from nextstat_jax._inference._profile import q0_test
from nextstat_jax._training._objectives import OBJECTIVES, Objective, objective_of
from nextstat_jax.gym import HistFactoryCore
from tests.building import normfactor, normsys, one_channel, sample
from tests.selection import mostly_slow
from tests.training.support import spec_of

# Searches take long to compile, more so in batches; q0 and qmu are compiled as parts of their roots.
SLOW = dict.fromkeys(("limit", "cls", "q0", "qmu"), pytest.mark.slow)
NAMES = [pytest.param(name, marks=SLOW.get(name, ())) for name in OBJECTIVES]
OPTIONS = {"data": "asimov", "mu": 2.0, "level": 0.9}
HISTOGRAM = np.array([1.2, 3.0, 6.5])  # CR before SR


def small(dtype: str) -> nextstat.HistFactoryModel:
    samples = [sample("signal", [3.0, 6.0], normfactor("mu")), sample("bkg", [30.0, 20.0], normsys("xs", 0.9, 1.1))]
    return nextstat.from_pyhf(one_channel(samples, [35.0, 28.0]), dtype=dtype)


@pytest.mark.parametrize("name", mostly_slow(OBJECTIVES, "z0"))
def test_contract(name: str) -> None:
    """Batches equal loops and jit equals eager, for values and gradients; these equal differences."""
    loss = nextstat.SignificanceLoss(small("float64"), "signal", objective=name, **OPTIONS)
    histograms = jnp.array([[3.0, 6.0], [4.0, 2.0]])
    derivative = jax.value_and_grad(loss)
    values, slopes = jax.jit(jax.vmap(derivative))(histograms)
    for histogram, *batched in zip(histograms, values, slopes, strict=True):
        value, slope = derivative(histogram)
        np.testing.assert_allclose(batched[0], value, rtol=1e-8)
        np.testing.assert_allclose(batched[1], slope, rtol=1e-6, atol=1e-9)
        step = 1e-3
        for bin_, along in enumerate(np.eye(2)):
            ends = [float(loss(histogram + k * step * along)) for k in (-2, -1, 1, 2)]
            difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
            assert float(slope[bin_]) == pytest.approx(difference, rel=1e-6, abs=1e-8)
    # More signal is a better analysis, whatever the measure, and a loss falls when an analysis improves.
    assert (np.asarray(slopes) < 0).all()
    metric = float(loss.metric(histograms[0]))
    assert metric > 0
    assert float(values[0]) == pytest.approx(-metric if OBJECTIVES[name].larger else metric, rel=1e-8)
    single = jax.grad(lambda h: loss(h).astype(jnp.float32))(histograms[0].astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, slopes[0], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32(name: str) -> None:
    exact, single = (
        nextstat.SignificanceLoss(small(dtype), "signal", objective=name, **OPTIONS)(np.array([3.0, 6.0]))
        for dtype in ("float64", "float32")
    )
    assert single.dtype == jnp.float32
    assert float(single) == pytest.approx(float(exact), rel=2e-3)


ORACLES = {
    "z0": lambda m: -nextstat.z0(m, data=m.asimov_data(mu=1.0)),
    "q0": lambda m: -nextstat.q0(m, data=m.asimov_data(mu=1.0)),
    "uncertainty": lambda m: nextstat.fit(m, data=m.asimov_data(mu=1.0)).mu_uncertainty,
    "limit": lambda m: nextstat.upper_limit(m, data=m.asimov_data(mu=0.0), level=0.9).median,
    "cls": lambda m: nextstat.hypotest(m, 2.0, data=m.asimov_data(mu=0.0)).cls_expected[2],
    "qmu": lambda m: -nextstat.qmu_tilde(m, 2.0, data=m.asimov_data(mu=0.0)),
    "zmu": lambda m: -nextstat.zmu(m, 2.0, data=m.asimov_data(mu=0.0)),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES])
def test_objectives_equal_edited_workspaces(name: str) -> None:
    loss = nextstat.SignificanceLoss(nextstat.from_pyhf(spec_of()), "signal", objective=name, **OPTIONS)
    value, slope = jax.value_and_grad(loss)(jnp.asarray(HISTOGRAM))

    def refit(histogram: np.ndarray) -> float:
        h = [float(x) for x in histogram]
        return float(ORACLES[name](nextstat.from_pyhf(spec_of(signal=(h[1:], h[:1])))))

    assert float(value) == pytest.approx(refit(HISTOGRAM), rel=1e-7)
    along, step = np.array([1.0, -2.0, 0.5]), 1e-3
    ends = [refit(HISTOGRAM + k * step * along) for k in (-2, -1, 1, 2)]
    expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
    assert float(slope @ along) == pytest.approx(expected, rel=1e-5)


def test_a_loss_may_be_maximized() -> None:
    for name in ("z0", "uncertainty"):
        pair = [
            float(nextstat.SignificanceLoss(small("float64"), objective=name, negate=negate)(np.array([3.0, 6.0])))
            for negate in (True, False)
        ]
        assert pair[0] == -pair[1]
        assert (pair[0] < 0) == (name == "z0")


def test_names_and_aliases() -> None:
    assert objective_of("expected_limit") is OBJECTIVES["limit"]
    for name, objective in OBJECTIVES.items():
        assert objective.name == name
        assert objective.summary
        assert name in (nextstat.SignificanceLoss.__doc__ or "")
    spoken = [alias for objective in OBJECTIVES.values() for alias in (objective.name, *objective.aliases)]
    assert len(spoken) == len(set(spoken))


def test_a_new_objective_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of both kinds, environments and studies take what the registry holds."""
    toy = Objective(
        "toy", "twice q0, the less the better", larger=False, expects=1.0, aliases=("doll",),
        ask=lambda model, data, start, options: q0_test(model, data=data, init=start),
        value=lambda test, options: 2.0 * test.value,
    )  # fmt: skip
    monkeypatch.setitem(OBJECTIVES, "toy", toy)
    model, histogram = small("float64"), np.array([3.0, 6.0])
    expected = 2.0 * float(nextstat.q0(model, data=model.asimov_data(mu=1.0)))
    loss = nextstat.SignificanceLoss(model, data="asimov", objective="doll")
    assert float(loss(histogram)) == pytest.approx(expected)
    bridge = pytest.importorskip("nextstat_jax.torch", reason="torch is not installed")
    assert bridge.SignificanceLoss(model, data="asimov", objective="toy")(histogram).item() == pytest.approx(expected)
    study = mlops.OptunaObjective(lambda _: model, "toy")
    assert study.direction == "minimize"
    assert study.value(model) == (pytest.approx(expected), "")
    core = HistFactoryCore(model, reward_metric="toy", data="asimov")
    assert float(core.worth(core.start_metrics)) == pytest.approx(-expected)
    assert set(core.start_metrics) == {"toy", "mu_hat"}
