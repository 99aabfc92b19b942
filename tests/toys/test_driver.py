"""Toys that the quick method does not settle are answered as observed data are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._minimize import _status
from nextstat_jax._toys import _fits, _runs
from tests.building import histosys, normfactor, one_channel, sample
from tests.toys.support import closed_form, counting, fit_small


@pytest.fixture(autouse=True)
def _own_programs():
    """What is compiled while something is replaced serves nobody else."""
    _runs._program.cache_clear()
    yield
    _runs._program.cache_clear()


@pytest.fixture
def unbelieved(monkeypatch):
    """The quick method fails, so that the driver has to do."""
    quick = _fits.quick_fit
    monkeypatch.setattr(_fits, "quick_fit", lambda *args: (quick(*args)[0], jnp.array(False)))


@pytest.mark.slow
@pytest.mark.usefixtures("unbelieved")
def test_the_driver_answers_where_the_quick_method_fails():
    model = counting(signal=(10.0, 12.0))
    toys = fit_small(model, 8, mu=0.5, quantities=("data",))
    assert toys.params is None
    with pytest.raises(nextstat.FitError, match="quantities="):
        _ = toys.pull
    assert bool(toys.retried.all())
    assert bool(toys.converged.all())
    np.testing.assert_allclose(toys.mu_hat, closed_form(toys.data, (10.0, 12.0), 0.0)[0], atol=1e-7)
    assert "8 of 8: converged; 8 by the full minimizer" in repr(toys)


@pytest.mark.usefixtures("unbelieved")
@pytest.mark.slow
def test_a_fit_that_fails_is_kept(monkeypatch):
    once = _fits.fit_once

    def picky(likelihood, poi, data, start, *, full):
        """Never converges where the first count is odd."""
        first = once(likelihood, poi, data, start, full=full)
        status = jnp.where(data[0] % 2 == 0, first.found.minimum.status, _status.STALLED)
        return first._replace(found=first.found._replace(minimum=first.found.minimum._replace(status=status)))

    monkeypatch.setattr(_fits, "fit_once", picky)
    toys = fit_small(counting(signal=(10.0, 12.0)), 12, mu=0.5, quantities=("data",))
    even = np.asarray(toys.data[:, 0]) % 2 == 0
    assert 0 < even.sum() < 12
    np.testing.assert_array_equal(toys.toy, np.arange(12))
    np.testing.assert_array_equal(toys.status, np.where(even, _status.CONVERGED, _status.STALLED))
    # All of them are at the minimum: only the status says that nobody vouches for it.
    np.testing.assert_allclose(toys.mu_hat, closed_form(toys.data, (10.0, 12.0), 0.0)[0], atol=1e-7)
    assert f"{12 - even.sum()} of 12: not converged" in repr(toys)
    assert f"{12 - even.sum()} of 12: not converged" in toys.to_dict()["status"]


@pytest.mark.slow
def test_an_unconditional_fit_that_missed_the_minimum_is_made_again(monkeypatch):
    """The quick fit claims convergence far from the minimum; the conditional one gives it away."""
    quick = _fits.quick_fit

    def short_sighted(likelihood, center, lane, wanted):
        minimum, believed = quick(likelihood, center, lane, wanted)
        lost = lane.pin == len(lane.start)
        away = minimum._replace(y=minimum.y.at[center.poi].add(40.0), value=minimum.value + 50.0)
        return jax.tree.map(lambda a, b: jnp.where(lost, a, b), away, minimum), believed

    monkeypatch.setattr(_fits, "quick_fit", short_sighted)
    toys = fit_small(counting(signal=(10.0, 12.0)), 6, test_stat="q", mu_test=3.0, quantities=("data",))
    assert bool(toys.retried.all())
    assert bool(toys.converged.all())
    best, statistic = closed_form(toys.data, (10.0, 12.0), 3.0)
    np.testing.assert_allclose(toys.mu_hat, best, atol=1e-7)
    np.testing.assert_allclose(toys.statistic, statistic, atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("unbelieved")
def test_conditional_fits_by_the_driver():
    toys = fit_small(counting(signal=(10.0, 12.0)), 4, mu_test=0.7)
    assert bool(toys.retried.all())
    np.testing.assert_array_equal(toys.mu_hat, 0.7)


@pytest.fixture(scope="module")
def bent():
    """Both variations of h raise the first bin: several minima are possible."""
    samples = [
        sample("s", [5.0, 20.0], normfactor("mu")),
        sample("b", [100.0, 100.0], histosys("h", [130.0, 95.0], [125.0, 102.0])),
    ]
    return nextstat.from_pyhf(one_channel(samples, [112.0, 108.0]))


@pytest.mark.slow
def test_statistics_where_several_minima_are_possible_are_those_of_observed_data(bent):
    toys = fit_small(bent, 6, mu=0.0, test_stat="q0")
    assert bool(toys.retried.all())
    for i, data in enumerate(toys.data):
        test = nextstat.q0_test(bent, data=data)
        assert float(toys.statistic[i]) == pytest.approx(float(test.value), abs=1e-9)
        assert float(toys.mu_hat[i]) == pytest.approx(float(test.mu_hat), abs=1e-8)


@pytest.mark.slow
def test_only_what_is_not_settled_is_fitted_again_in_batches(monkeypatch):
    """What a GPU does, on this machine."""
    quick = _fits.quick_fit

    def picky(likelihood, center, lane, wanted):
        minimum, believed = quick(likelihood, center, lane, wanted)
        return minimum, believed & (lane.data[0] % 2 == 0)

    monkeypatch.setattr(_fits, "quick_fit", picky)
    monkeypatch.setattr(_runs, "together", lambda platform: True)
    toys = fit_small(counting(signal=(10.0, 12.0)), 200, mu=0.5, quantities=("data",), batch_size=256)
    np.testing.assert_array_equal(toys.retried, np.asarray(toys.data[:, 0]) % 2 == 1)
    assert int(toys.retried.sum()) > 64
    assert bool(toys.converged.all())
    np.testing.assert_allclose(toys.mu_hat, closed_form(toys.data, (10.0, 12.0), 0.0)[0], atol=1e-7)
