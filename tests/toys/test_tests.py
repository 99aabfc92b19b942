"""Tests with toys against closed forms, against pyhf's, and against the asymptotic formulae where those hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._batches._run import Run
from nextstat_jax._toys._hypotest import hypotest
from nextstat_jax._toys._toys import fit_toys, sample_toys
from tests.building import normfactor, normsys, one_channel, sample

SMALL = Run(batch_size=64)


def toy_test(model, mu=1.0, **options):
    return hypotest(model, mu, calculator="toys", **options)


def counting(observed, background=50.0):
    """s = 10 on a known background: statistics are functions of the count."""
    samples = [sample("s", [10.0], normfactor("mu")), sample("b", [background])]
    return nextstat.from_pyhf(one_channel(samples, [observed]))


@pytest.mark.slow
def test_limits_of_a_counting_experiment():
    """Every statistic is a function of the count, so that the p-values are sums of Poisson probabilities."""
    n = 4000
    test = toy_test(counting(54.0), 1.0, n_toys=n, seed=3, run=SMALL)
    assert float(test.clsb) == pytest.approx(stats.poisson.cdf(54, 60), abs=4 * float(test.clsb_error))
    assert float(test.clb) == pytest.approx(stats.poisson.cdf(54, 50), abs=4 * float(test.clb_error))
    exact = stats.poisson.cdf(54, 60) / stats.poisson.cdf(54, 50)
    assert float(test.cls) == pytest.approx(exact, abs=4 * float(test.cls_error))
    # Toy by toy, those at the observed count included: they are 4 % of all.
    counts = np.asarray(sample_toys(counting(54.0), n, mu=1.0, seed=3))[:, 0]
    assert float(test.clsb) == (counts <= 54).mean()
    assert test.distributions.blocks == ((3, 0, n),)
    assert test.message == "converged"
    assert test.test_stat == "qtilde"
    assert test.calculator == "toys"
    text = repr(test)
    assert "HypoTest of mu (qtilde, toys): converged" in text
    assert "+- CLs" in text
    stored = json.loads(json.dumps(test.to_dict()))
    assert stored["cls_error"] == pytest.approx(float(test.cls_error))
    assert stored["n_toys"] == n
    assert test.to_dataframe()["+- CLb"][0] == pytest.approx(float(test.clb_error))


@pytest.mark.slow
def test_discovery_in_a_counting_experiment():
    n = 4000
    test = toy_test(counting(61.0), 0.0, test_stat="q0", n_toys=n, seed=3, run=SMALL)
    assert float(test.clsb) == pytest.approx(stats.poisson.sf(60, 50), abs=4 * float(test.clsb_error))
    assert float(test.clb) == pytest.approx(stats.poisson.sf(60, 60), abs=4 * float(test.clb_error))
    counts = np.asarray(sample_toys(counting(61.0), n, mu=0.0, seed=3))[:, 0]
    assert float(test.clsb) == (counts >= 61).mean()
    assert float(test.p_value) == float(test.clsb)


@pytest.mark.slow
def test_several_values_and_extensions():
    """Values share their background toys; a set in two parts is the set."""
    model = counting(54.0)
    whole = toy_test(model, [0.5, 2.0], n_toys=300, seed=3, run=SMALL)
    assert whole.cls.shape == (2,)
    assert whole.cls_expected.shape == (2, 5)
    assert whole.distributions.signal.shape == (2, 300)
    parts = [toy_test(model, [0.5, 2.0], n_toys=150, seed=3, first_toy=k, run=SMALL) for k in (0, 150)]
    merged = parts[0].merge(parts[1])
    for name in ("cls", "clsb", "clb", "cls_expected", "cls_error", "statistic"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    single = toy_test(model, 2.0, n_toys=300, seed=3, run=SMALL)
    np.testing.assert_array_equal(single.distributions.background, whole.distributions.background[1])
    assert float(single.cls) == float(whole.cls[1])
    # The two hypotheses do not share random numbers.
    signal, background = (np.asarray(x)[1] for x in (whole.distributions.signal, whole.distributions.background))
    assert abs(np.corrcoef(signal, background)[0, 1]) < 4.5 / np.sqrt(300)


@pytest.mark.slow
def test_counts_where_none_are_expected():
    """q0 is infinite there, which is no failure."""
    samples = [sample("s", [5.0, 1.0], normfactor("mu")), sample("b", [50.0, 0.0])]
    model = nextstat.from_pyhf(one_channel(samples, [56.0, 0.0]))
    n = 500
    test = toy_test(model, 0.0, test_stat="q0", n_toys=n, seed=3, run=SMALL)
    infinite = np.isinf(np.asarray(test.distributions.background))
    assert infinite.mean() == pytest.approx(1 - np.exp(-1), abs=4.5 * np.sqrt(0.25 / n))
    assert int(test.distributions.n_failed) == 0
    assert float(test.clb) >= infinite.mean()
    assert bool(test.converged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_toys": 0}, "n_toys=0"),
        ({"test_stat": "qmu"}, "test_stat='qmu'"),
        ({"mu": -1.0}, "cannot be negative"),
        ({"mu": float("nan")}, "finite"),
        ({"seed": -3}, "seed=-3"),
        ({"run": 2}, "run is a int: give a Run"),
        ({"first_toy": -1}, "first_toy=-1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(nextstat.FitError, match=message):
        toy_test(counting(54.0), **options)


# pyhf 0.7.6: ToyCalculator on simple.json, NumPy backend, np.random.seed(1) before each; 10,000 toys of each hypothesis
# for qtilde at mu = 1 and 5,000 for q0. The uncertainties of the bands are bootstrapped, those of p-values binomial.
PYHF = {
    "qtilde": {
        "n_toys": 10_000,
        "mu": 1.0,
        "statistic": 0.29230005,
        "clsb": (0.2954, 0.0046),
        "clb": (0.7275, 0.0045),
        "expected": [(0.0464, 0.0102), (0.1130, 0.0082), (0.2481, 0.0069), (0.5395, 0.0101), (1.0, 0.0)],
    },
    "q0": {
        "n_toys": 5_000,
        "mu": 0.0,
        "statistic": 0.36538096,
        "clsb": (0.2760, 0.0063),
        "clb": (0.7134, 0.0064),
        "expected": [(0.0004, 0.0003), (0.0130, 0.0020), (0.1270, 0.0064), (0.4382, 0.0116), (1.0, 0.0)],
    },
}


@pytest.mark.parametrize("test_stat", list(PYHF))
def test_the_p_values_are_those_of_pyhf(test_stat, published):
    theirs = PYHF[test_stat]
    model = nextstat.from_pyhf(published("simple"))
    test = toy_test(model, theirs["mu"], test_stat=test_stat, n_toys=theirs["n_toys"], seed=1)
    assert float(test.statistic) == pytest.approx(theirs["statistic"], abs=1e-5)
    for name in ("clsb", "clb"):
        value, error = theirs[name]
        width = np.hypot(error, float(getattr(test, f"{name}_error")))
        assert abs(float(getattr(test, name)) - value) < 4 * width, name
    for mine, (value, error) in zip(test.p_value_expected, theirs["expected"], strict=True):
        # Both sets have the same size, hence the same uncertainty.
        assert abs(float(mine) - value) < 4 * np.sqrt(2) * error + 1e-6


# Asymptotic distributions


@pytest.fixture(scope="module")
def large():
    """20 bins of about a thousand counts; mu = 1 is 2.5 standard deviations."""
    x = np.linspace(-1, 1, 20)
    signal, background = 60 * np.exp(-8 * x**2), 1000 - 300 * x
    samples = [
        sample("s", signal, normfactor("mu"), normsys("a", 0.9, 1.1)),
        sample("b", background, normsys("b", 0.97, 1.03)),
    ]
    bounds = [{"name": "mu", "bounds": [[-10.0, 10.0]]}]
    return nextstat.from_pyhf(one_channel(samples, signal + background, parameters=bounds))


def largest_gap(x, cdf):
    """Kolmogorov's distance from a distribution that may have a spike at 0."""
    values, counts = np.unique(np.asarray(x), return_counts=True)
    above = np.cumsum(counts) / counts.sum()
    below = above - counts / counts.sum()
    expected = cdf(values)
    return max(np.abs(above - expected).max(), np.abs(below - expected)[values > 0].max())


def check_asymptotics(model, n):
    """Distances that a sample of n exceeds once in a thousand times, and the coverage of 68.27 % intervals."""
    critical, options = 1.95 / np.sqrt(n), {"seed": 11, "quantities": ("mu_uncertainty",)}
    background = fit_toys(model, n, mu=0.0, test_stat="q0", **options)
    assert bool(background.converged.all())
    assert background.params is None
    # Half of all toys are at 0, the others follow a chi-squared distribution: arXiv:1007.1727, equation 50.
    assert largest_gap(background.statistic, lambda q: stats.norm.cdf(np.sqrt(q))) < critical
    assert float((background.statistic == 0).mean()) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / n))

    signal = fit_toys(model, n, mu=1.0, test_stat="qtilde", mu_test=1.0, **options)
    assert bool(signal.converged.all())
    asimov = float(nextstat.qmu_tilde(model, 1.0, data=model.asimov_data(mu=0.0)))

    def half_chi2_then_normal(q):
        """arXiv:1007.1727, equation 66."""
        far = (q + asimov) / (2 * np.sqrt(asimov))
        return stats.norm.cdf(np.where(q > asimov, far, np.sqrt(q)))

    assert largest_gap(signal.statistic, half_chi2_then_normal) < critical

    both_ways = fit_toys(model, n, mu=1.0, test_stat="q", mu_test=1.0, **options)
    band = 4 * np.sqrt(0.6827 * 0.3173 / n)
    assert float((2 * (both_ways.nll_fixed - both_ways.nll) < 1).mean()) == pytest.approx(0.6827, abs=band)
    pulls = np.asarray(both_ways.pull)
    assert (np.abs(pulls) < 1).mean() == pytest.approx(0.6827, abs=band + 0.005)
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(2 * n) + 0.02)
    return both_ways


@pytest.mark.slow
def test_asymptotic_distributions_and_coverage(large):
    check_asymptotics(large, 3000)


@pytest.mark.slow
def test_asymptotic_distributions_and_coverage_of_many_toys(large):
    toys = check_asymptotics(large, 20_000)
    covered = float((2 * (toys.nll_fixed - toys.nll) < 1).mean())
    assert covered == pytest.approx(0.68, abs=0.01)
