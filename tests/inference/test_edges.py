"""Fits at the edges of a likelihood's domain, across them, and on its kinks; the right values are scans or closed."""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import nextstat_jax as nextstat
from tests import building as b
from tests.selection import mostly_slow

# At mu = 2 and the initial parameters the second bin expects less than nothing.
FALLING = b.one_channel(
    [b.sample("s", [5.0, -2.5], b.normfactor("mu")), b.sample("b", [12.0, 4.0], b.shapesys("u", [2.5, 2.0]))],
    [14.0, 5.0],
)


def conditional_by_search(model, mu):
    """The least NLL at one mu, over the two gammas."""
    nll = jax.jit(model.nll)

    def of(gammas):
        return float(nll(jnp.array([*gammas, mu] if model.poi_index == 2 else [mu, *gammas])))

    ends = [optimize.minimize(of, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000})
            for start in ([1.0, 2.5], [1.5, 4.0])]  # fmt: skip
    return min(end.fun for end in ends)


@pytest.mark.parametrize("mu", [1.0, 2.0, 3.5])
def test_a_conditional_fit_may_begin_where_a_rate_is_negative(mu):
    model = nextstat.from_pyhf(FALLING)
    found = nextstat.profile(model, mu)
    assert found.converged
    assert float(found.nll) == pytest.approx(conditional_by_search(model, mu), abs=1e-7)
    alone, beside = nextstat.hypotest(model, mu), nextstat.hypotest(model, [0.5, mu])
    assert alone.converged and beside.converged.all()
    assert float(alone.cls) == pytest.approx(float(beside.cls[1]), rel=1e-7)
    assert float(alone.statistic) == pytest.approx(
        max(2 * (float(found.nll) - float(nextstat.fit(model).nll)), 0.0), abs=1e-6
    )


def test_scans_go_to_where_the_signal_eats_the_background():
    """One bin: at each mu the gamma follows from a quadratic equation."""
    background, width, count = 40.0, 6.0, 43.0
    model = nextstat.from_pyhf(
        b.one_channel(
            [b.sample("s", [4.0], b.normfactor("mu")), b.sample("b", [background], b.shapesys("u", [width]))],
            [count],
            parameters=[{"name": "mu", "bounds": [[-20.0, 20.0]]}],
        )
    )
    values = np.array([-14.0, -11.0, -9.9, -5.0, 3.0])
    scan = nextstat.profile_scan(model, "mu", values)
    assert np.asarray(scan.converged).all()
    tau = (background / width) ** 2

    def least(mu):
        low = max(0.0, -4.0 * mu / background) + 1e-12

        def of(gamma):
            rate, aux = 4.0 * mu + gamma * background, tau * gamma
            return (
                rate
                - count * math.log(rate)
                + math.lgamma(count + 1)
                + aux
                - tau * math.log(aux)
                + math.lgamma(tau + 1)
            )

        return optimize.minimize_scalar(of, bounds=(low, 10.0), method="bounded", options={"xatol": 1e-12}).fun

    np.testing.assert_allclose(scan.nll, [least(mu) for mu in values], atol=1e-7)
    held = nextstat.fit(
        model, fixed={"mu": -14.0}, init=np.where(np.array(model.parameter_names()) == "mu", -14.0, 1.0)
    )
    assert float(held.nll) == pytest.approx(least(-14.0), abs=1e-7)


@pytest.mark.parametrize(
    ("nominal", "lo", "hi"),
    [([0.0], [0.008], [-0.0003]), ([0.0], [2e4], [-900.0]), ([6.4], [4.3], [5.1])],
    ids=["nominal 0", "large", "to a bound"],
)
def test_without_counts_a_minimum_may_lie_where_a_rate_is_zero(nominal, lo, hi):
    model = nextstat.from_pyhf(
        b.workspace(
            {
                "SR": [b.sample("fakes", nominal, b.histosys("a", lo, hi)), b.sample("top", [0.0], b.normfactor("k"))],
                "CR": [b.sample("top", [160.0], b.normfactor("k"))],
            },
            {"SR": [0.0], "CR": [177.0]},
            poi="k",
        )
    )
    fit = nextstat.fit(model)
    place = model.index("a")
    grid = np.tile(np.asarray(fit.params), (40001, 1))
    grid[:, place] = np.linspace(-5.0, 5.0, 40001)
    values = np.asarray(nextstat.batched(model.nll)(grid))
    assert fit.converged, fit.message
    assert float(fit.nll) <= values.min() + 1e-6
    assert float(fit.nll) == pytest.approx(float(model.nll(fit.params)), abs=1e-8)
    assert fit.uncertainties[place] > 0.5 * min(1.0, 0.5 / max(abs(lo[0] - nominal[0]), 1e-9))


def test_on_a_wall_the_uncertainty_is_that_of_its_inner_side():
    """Without counts the NLL is 9 + 3 mu where it is anything: it rises by 1/2 within a sixth."""
    model = nextstat.from_pyhf(
        b.one_channel(
            [b.sample("s", [3.0], b.normfactor("mu")), b.sample("b", [9.0])],
            [0.0],
            parameters=[{"name": "mu", "bounds": [[-5.0, 5.0]]}],
        )
    )
    fit = nextstat.fit(model)
    assert fit.converged and fit["mu"] == pytest.approx(-3.0, abs=1e-6)
    assert float(fit.mu_uncertainty) == pytest.approx(1 / 6, rel=1e-5)


IMPOSSIBLE = [
    (b.one_channel([b.sample("s", [0.0, 3.0], b.normfactor("mu")), b.sample("b", [0.0, 5.0])], [2.0, 7.0]), "bin 0 of"),
    (
        b.one_channel([b.sample("s", [3.0, 1.0], b.normfactor("mu")), b.sample("b", [9.0, -0.5])], [9.0, 2.0]),
        "bin 1 of",
    ),
]


@pytest.mark.parametrize("spec", [0, 1])
def test_what_cannot_be_is_named_and_no_number_stands_beside(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = nextstat.from_pyhf(IMPOSSIBLE[spec][0])
    limit = nextstat.upper_limit(model)
    assert not np.asarray(limit.converged).any()
    assert np.isnan([limit.observed, *limit.expected]).all()
    assert IMPOSSIBLE[spec][1] in limit.message and "b" in limit.message.split("from")[-1]
    if spec == 0:
        test = nextstat.hypotest(model, 1.0)
        assert np.isnan([test.cls, test.clsb, test.statistic]).all() and "bin 0" in test.message
        assert "bin 0" in nextstat.fit(model).message and not nextstat.fit(model).converged
    else:
        # Only without a signal: data that the background cannot give exclude it.
        assert float(nextstat.z0(model)) == math.inf


def test_a_limit_that_does_not_exist_is_said_not_to():
    """A variation of the signal takes it to zero, at the price of one pull."""
    signal = b.sample("s", [4.0, 2.0], b.normfactor("mu"), b.histosys("x", [0.0, 0.0], [12.0, 5.0]))
    model = nextstat.from_pyhf(
        b.one_channel([signal, b.sample("b", [11.0, 9.0], b.shapesys("u", [3.0, 3.0]))], [11.0, 9.0])
    )
    wide = model.replace_bounds("mu", 0.0, 1e5)
    tests = nextstat.hypotest(wide, [10.0, 100.0, 1e4])
    assert tests.converged.all()
    # The statistic stays below that of one standard deviation, and CLs above what this makes of it.
    assert (np.asarray(tests.statistic) < 1.05).all() and (np.asarray(tests.cls) > 0.3).all()
    limit = nextstat.upper_limit(model)
    assert np.isnan([limit.observed, *limit.expected]).all() and not np.asarray(limit.converged).any()
    assert "there is none" in limit.message


@pytest.mark.parametrize("test_stat", mostly_slow(["qtilde", "q"], "qtilde"))
def test_a_limit_above_the_bound_can_be_tested(test_stat):
    signal, background = b.sample("s", [1.0], b.normfactor("mu")), b.sample("b", [100.0], b.normsys("a", 0.9, 1.1))
    model = nextstat.from_pyhf(b.one_channel([signal, background], [130.0]))
    limit = nextstat.upper_limit(model, test_stat=test_stat)
    assert limit.observed > model.parameter_bounds()[model.poi_index, 1]
    assert float(nextstat.hypotest(model, limit.observed, test_stat=test_stat).cls) == pytest.approx(0.05, rel=1e-6)
    inside = nextstat.hypotest(model, [1.0, limit.observed], test_stat=test_stat)
    assert inside.converged.all() and float(inside.cls[1]) == pytest.approx(0.05, rel=1e-6)
    wide = nextstat.hypotest(model.replace_bounds("mu", 0.0, 1e3), 1.0, test_stat=test_stat)
    assert float(inside.cls[0]) == pytest.approx(float(wide.cls), rel=1e-6)


# -- kinks ------------------------------------------------------------------------------------------------------------


def kinked(seed):
    """Linear and exponential interpolation, with variations whose two sides have little to do with each other."""
    rng = np.random.default_rng(seed)
    signal, background = rng.uniform(1, 8, 3), rng.uniform(5, 40, 3)

    def sides(x):
        return (x * rng.uniform(0.7, 1.4, 3)).tolist(), (x * rng.uniform(0.7, 1.4, 3)).tolist()

    return b.one_channel(
        [
            b.sample("signal", signal.tolist(), b.normfactor("mu"), b.histosys("a", *sides(signal))),
            b.sample(
                "b",
                background.tolist(),
                b.histosys("a", *sides(background)),
                b.normsys("k", *rng.uniform(0.7, 1.4, 2)),
            ),
        ],
        rng.poisson(background + signal).tolist(),
    )  # fmt: skip


@pytest.fixture(scope="module", params=mostly_slow(range(4), 0, 1))
def model_with_kinks(request):
    return nextstat.from_pyhf(kinked(request.param), histosys="code0", normsys="code1")


def least_of_all_sides(model, mu):
    """The least NLL at one mu: on each side of the kinks by itself."""
    both = jax.jit(jax.value_and_grad(model.nll))
    names = model.parameter_names()
    best = math.inf
    for a in ((0, 5), (-5, 0)):
        for k in ((0, 5), (-5, 0)):
            start = np.array([{"mu": mu, "a": 0.05 * sum(a), "k": 0.05 * sum(k)}[name] for name in names])
            bounds = [{"mu": (mu, mu), "a": a, "k": k}[name] for name in names]
            end = optimize.minimize(
                lambda x: [np.asarray(y) for y in both(x)], start, jac=True, method="L-BFGS-B", bounds=bounds,
                options={"ftol": 1e-15, "gtol": 1e-10},
            )  # fmt: skip
            best = min(best, end.fun)
    return best


@pytest.mark.parametrize("mu", [0.0, 1.3])
def test_minima_on_kinks_are_found(model_with_kinks, mu):
    found = nextstat.profile(model_with_kinks, mu)
    assert found.converged
    assert float(found.nll) <= least_of_all_sides(model_with_kinks, mu) + 1e-8


@pytest.mark.slow
def test_limits_with_kinks_have_derivatives(model_with_kinks):
    model = model_with_kinks
    signal = model.template("signal")
    limit = nextstat.upper_limit(model)
    assert np.asarray(limit.converged).all()

    def median(template, k=2):
        return nextstat.upper_limit(model.with_templates({"signal": template})).expected[k]

    slope = jax.grad(median)(signal)
    step = 1e-4
    # Data that are made from the model lie on its kinks: the two sides of a template may differ, and one is taken.
    sides = [[(median(signal.at[j].add(s)) - median(signal)) / s for s in (step, -step)] for j in range(3)]
    for mine, (above, below) in zip(slope, sides, strict=True):
        assert min(above, below) - 1e-3 <= mine <= max(above, below) + 1e-3


def test_on_a_kink_the_uncertainty_is_where_the_nll_rises_by_half():
    """|a| acts on the rate alone: NLL = 100 - 90 log(rate) and a^2 / 2, with rate = 100 + 30 |a|."""
    model = nextstat.from_pyhf(
        b.one_channel([b.sample("b", [100.0], b.histosys("a", [130.0], [130.0]))], [90.0], poi="a"), histosys="code0"
    )
    fit = nextstat.fit(model)
    assert fit.converged and fit["a"] == 0.0
    # Beside the rise there is the constraint; the rate, on average of both sides, does not move.
    assert float(fit.uncertainties[0]) == pytest.approx((1 + 4 * (30.0 * 0.1) ** 2) ** -0.5, rel=1e-6)
    assert float(nextstat.interval(model).upper) == pytest.approx(
        optimize.brentq(lambda a: 30 * a - 90 * math.log(1 + 0.3 * a) + 0.5 * a * a - 0.5, 0.01, 3), rel=1e-6
    )


def test_what_ends_on_a_bound_is_named():
    # The data want a background below the least that its normalization allows.
    channel = [b.sample("s", [1.0, 5.0], b.normfactor("mu")), b.sample("b", [50.0, 10.0], b.normfactor("k"))]
    low = [{"name": "k", "bounds": [[0.5, 5.0]]}]
    bound = nextstat.from_pyhf(b.one_channel(channel, [20.0, 9.0], parameters=low))
    free = nextstat.from_pyhf(b.one_channel(channel, [50.0, 12.0]))
    for question in (
        nextstat.discovery,
        nextstat.hypotest,
        nextstat.upper_limit,
        nextstat.interval,
        nextstat.interpret.impacts,
    ):
        assert "on a bound in a fit behind this, which hangs on that bound: k" in question(bound).message
        assert "hangs on" not in question(free).message
    scan = nextstat.profile_scan(bound, "mu", [0.0, 1.0])
    assert "hangs on that bound: k" in scan.message
