"""Toys against closed forms, against pyhf's, and against the asymptotic formulae where those hold."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._likelihood._poisson import poisson
from nextstat_jax._minimize import _status
from nextstat_jax._toys._tests import ToyDistributions, _evaluate, toy_hypotest
from nextstat_jax._toys._toys import fit_toys, sample_toys
from tests.building import normfactor, normsys, one_channel, sample

SMALL = 64


def counting(observed, background=50.0):
    """s = 10 on a known background: statistics are functions of the count."""
    samples = [sample("s", [10.0], normfactor("mu")), sample("b", [background])]
    return nextstat.from_pyhf(one_channel(samples, [observed]))


# Poisson counts

RATES = (0.0, 1e-3, 0.4, 3.0, 9.99, 10.0, 17.0, 40.0, 1e3, 1e5, 1e7, 1e10)


@pytest.mark.parametrize(("dtype", "highest"), [(np.float64, 1e10), (np.float32, 1e7)])
def test_poisson_counts(dtype, highest):
    rates = np.array([rate for rate in RATES if rate <= highest])
    n = 50_000
    counts = jax.jit(poisson)(jax.random.key(8), jnp.tile(jnp.asarray(rates, dtype)[:, None], (1, n)))
    assert counts.dtype == dtype
    counts = np.asarray(counts, np.float64)
    assert (counts == np.round(counts)).all()
    assert (counts[0] == 0).all()
    for rate, x in zip(rates[1:], counts[1:], strict=True):
        edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 41)[1:-1], rate))
        expected = n * np.diff([0.0, *stats.poisson.cdf(edges, rate), 1.0])
        found = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(expected))
        keep = expected > 5
        if keep.sum() > 1:
            chi2 = ((found - expected) ** 2 / expected)[keep].sum()
            assert stats.chi2.sf(chi2, keep.sum() - 1) > 1e-4, rate
        assert abs(x.mean() - rate) < 4.5 * np.sqrt(rate / n)


def test_few_counts_have_the_right_tail():
    n = 1_000_000
    x = np.asarray(jax.jit(poisson)(jax.random.key(1), jnp.full(n, 2.0)))
    for k in (8, 10, 12):
        p = stats.poisson.sf(k - 1, 2.0)
        assert abs((x >= k).sum() - n * p) < 4.5 * np.sqrt(n * p) + 1


# p-values from given distributions


def distributions(signal, background, *, status=_status.CONVERGED, block=(0, 0, 4), test_stat="qtilde", mu=1.0):
    signal, background = jnp.asarray(signal, jnp.float64), jnp.asarray(background, jnp.float64)
    codes = jnp.full(signal.shape, status)
    return ToyDistributions(jnp.asarray(mu), signal, background, codes, jnp.zeros_like(codes), (block,), test_stat)


def evaluate(made, observed):
    return _evaluate(made, jnp.asarray(observed, jnp.float64), jnp.asarray(0.0), jnp.asarray(0), "mu")


def test_p_values_count_toys_that_reach_the_data():
    test = evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 2.0)
    assert float(test.clsb) == 0.5
    assert float(test.clb) == 0.5
    assert float(test.cls) == 1.0
    # Beta(3, 3): variance 1/28.
    assert float(test.clsb_error) == pytest.approx(np.sqrt(1 / 28))
    assert float(test.cls_error) == pytest.approx(2 * np.sqrt(2 / 28))
    # Rounding does not tell equal statistics apart, and all toys reach 0.
    assert float(evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 2.0 + 1e-9).clsb) == 0.5
    assert float(evaluate(distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0]), 1e-12).clsb) == 1.0


def test_expected_bands_are_quantiles_over_background_toys():
    """What pyhf's toy calculator does, in its own loops."""
    rng = np.random.default_rng(3)
    signal = np.where(rng.random(400) < 0.5, 0.0, rng.chisquare(1, 400))
    background = np.where(rng.random(400) < 0.1, 0.0, 2.0 + rng.chisquare(3, 400))
    test = evaluate(distributions(signal, background, block=(0, 0, 400)), 3.0)
    clsb = np.array([(signal >= q).mean() for q in background])
    clb = np.array([(background >= q).mean() for q in background])
    levels = 100 * stats.norm.cdf([-2, -1, 0, 1, 2])
    np.testing.assert_allclose(test.cls_expected, np.percentile(clsb / clb, levels), rtol=1e-12)
    np.testing.assert_allclose(test.clsb_expected, np.percentile(clsb, levels), rtol=1e-12)
    np.testing.assert_allclose(test.clb_expected, np.percentile(clb, levels), rtol=1e-12)


def test_no_background_toy_beyond_the_data_is_said():
    test = evaluate(distributions([0.0, 1.0, 2.0, 9.0], [0.0, 0.0, 2.0, 5.0]), 7.0)
    assert np.isnan(test.cls)
    assert not bool(test.defined)
    assert not bool(test.converged)
    assert float(test.clsb) == 0.25
    assert float(test.clb_error) > 0
    assert "CLs is not defined at mu = 1: none of 4 background-only toys" in test.message
    assert "CLs is not defined" in repr(test)
    assert test.to_dict()["cls"] is None
    assert test.to_dict()["defined"] is False


def test_failed_toys_are_left_out_and_said():
    made = distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0])
    status = jnp.array([0, 0, 0, _status.STALLED])
    test = evaluate(
        ToyDistributions(made.mu, made.signal, made.background, status, status * 0, made.blocks, "qtilde"), 2.0
    )
    assert float(test.clsb) == pytest.approx(1 / 3)
    assert int(test.distributions.n_failed) == 1
    assert int(test.status) == _status.STALLED
    assert "1 of 8 toys failed" in test.message
    # An infinite statistic has a conditional fit that cannot converge, and counts.
    signal = made.signal.at[3].set(jnp.inf)
    test = evaluate(ToyDistributions(made.mu, signal, made.background, status, status * 0, made.blocks, "qtilde"), 2.0)
    assert float(test.clsb) == 0.5
    assert bool(test.converged)
    nothing = evaluate(distributions([np.nan] * 4, [np.nan] * 4, status=_status.STALLED), 2.0)
    assert np.isnan(nothing.clsb)
    assert np.isnan(nothing.cls)


def test_merging():
    one = distributions([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 5.0])
    other = distributions([4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0], block=(0, 4, 4))
    both = evaluate(one, 2.0).merge(evaluate(other, 2.0))
    assert float(both.clsb) == 6 / 8
    assert both.distributions.n_toys == 8
    assert both.distributions.blocks == ((0, 0, 4), (0, 4, 4))
    with pytest.raises(nextstat.FitError, match="toys 2 to 3 of seed 0 are in both sets"):
        one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(0, 2, 2)))
    one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(9, 2, 2)))
    with pytest.raises(nextstat.FitError, match="different test statistics or tested values"):
        one.merge(distributions([1.0, 2.0], [1.0, 2.0], block=(9, 0, 2), mu=2.0))
    with pytest.raises(nextstat.FitError, match="only tests of the same data"):
        evaluate(one, 2.0).merge(evaluate(other, 2.5))


# Tests of models


def test_limits_of_a_counting_experiment():
    """Every statistic is a function of the count, so that the p-values are sums of Poisson probabilities."""
    n = 4000
    test = toy_hypotest(counting(54.0), 1.0, n_toys=n, seed=3, batch_size=SMALL)
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


def test_discovery_in_a_counting_experiment():
    n = 4000
    test = toy_hypotest(counting(61.0), 0.0, test_stat="q0", n_toys=n, seed=3, batch_size=SMALL)
    assert float(test.clsb) == pytest.approx(stats.poisson.sf(60, 50), abs=4 * float(test.clsb_error))
    assert float(test.clb) == pytest.approx(stats.poisson.sf(60, 60), abs=4 * float(test.clb_error))
    counts = np.asarray(sample_toys(counting(61.0), n, mu=0.0, seed=3))[:, 0]
    assert float(test.clsb) == (counts >= 61).mean()
    assert float(test.p_value) == float(test.clsb)


def test_several_values_and_extensions():
    """Values share their background toys; a set in two parts is the set."""
    model = counting(54.0)
    whole = toy_hypotest(model, [0.5, 2.0], n_toys=300, seed=3, batch_size=SMALL)
    assert whole.cls.shape == (2,)
    assert whole.cls_expected.shape == (2, 5)
    assert whole.distributions.signal.shape == (2, 300)
    parts = [toy_hypotest(model, [0.5, 2.0], n_toys=150, seed=3, first_toy=k, batch_size=SMALL) for k in (0, 150)]
    merged = parts[0].merge(parts[1])
    for name in ("cls", "clsb", "clb", "cls_expected", "cls_error", "statistic"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    single = toy_hypotest(model, 2.0, n_toys=300, seed=3, batch_size=SMALL)
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
    test = toy_hypotest(model, 0.0, test_stat="q0", n_toys=n, seed=3, batch_size=SMALL)
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
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(nextstat.FitError, match=message):
        toy_hypotest(counting(54.0), **options)


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
    test = toy_hypotest(model, theirs["mu"], test_stat=test_stat, n_toys=theirs["n_toys"], seed=1)
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
    asimov = float(nextstat.qmu_tilde(model, 1.0, model.asimov_data(mu=0.0)))

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
