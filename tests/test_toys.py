"""Pseudo-experiments: how they are thrown, that nothing but the seed decides them, what becomes of failures."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax._batches import _chunks
from nextstat_jax._likelihood import _throw
from nextstat_jax._minimize import _status
from nextstat_jax._toys import _fits, _runs
from nextstat_jax._toys._toys import ToyFits, fit_toys, sample_toys, stream_toys
from tests.building import histosys, normfactor, normsys, one_channel, sample, shapesys, staterror
from tests.conftest import OWN, ROOT

N = 300
ALL = ("mu_uncertainty", "uncertainties", "params", "data")
# Chunks of up to 64 toys share a compiled program, if the same quantities are asked for.
SMALL = 64
EXACT = ("toy", "mu_hat", "nll", "status", "n_iter", "start", "mu_uncertainty", "params")


def spec():
    """One constraint of each kind."""
    return one_channel(
        [
            sample("s", [6.0, 9.0], normfactor("mu")),
            sample("b", [50.0, 42.0], normsys("a", 0.9, 1.12), shapesys("u", [5.0, 4.0])),
            sample(
                "c",
                [20.0, 10.0],
                histosys("h", [18.0, 10.5], [21.0, 9.0]),
                staterror("st", [2.0, 1.5]),
            ),
        ],
        [80.0, 60.0],
        parameters=[{"name": "mu", "bounds": [[-5.0, 10.0]]}],
    )


def counting(*modifiers, poi="mu", signal=(10.0,), dtype=None):
    """A model that compiles quickly."""
    background = [5.0 * value for value in signal]
    samples = [sample("s", signal, normfactor("mu")), sample("b", background, *modifiers)]
    return nextstat.from_pyhf(one_channel(samples, [1.2 * value for value in background], poi=poi), dtype=dtype)


def fit_small(model, n_toys, params=None, **options):
    return fit_toys(model, n_toys, params, **{"batch_size": SMALL, "quantities": ALL, "seed": 5, **options})


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec())


@pytest.fixture(scope="module")
def toys(model):
    return fit_small(model, N)


def assert_same(one, other, names=EXACT):
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# Throwing


def test_toys_fluctuate_as_expected(model):
    params = np.array(model.parameter_init())
    params[[model.index("mu"), model.index("a")]] = [1.5, 0.4]
    n = 20000
    data = np.asarray(sample_toys(model, n, params, seed=1))
    mean = np.asarray(model.expected_data(params))
    k, s = model.likelihood, model.likelihood.structure
    variance = mean.copy()
    variance[s.n_bins + s.normal_aux] = np.asarray(k.widths) ** 2
    np.testing.assert_array_less(np.abs(data.mean(0) - mean) / np.sqrt(variance / n), 4.5)
    # The variance of a sample variance is 2 sigma^4 / n, plus sigma^2 / n for Poisson counts.
    np.testing.assert_array_less(np.abs(data.var(0) / variance - 1) / np.sqrt((2 + 1 / variance) / n), 4.5)
    correlation = np.corrcoef(data.T) - np.eye(model.n_data)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)
    counts = np.concatenate([np.arange(s.n_bins), s.n_bins + s.poisson_aux])
    assert (data[:, counts] == np.round(data[:, counts])).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_toys_are_thrown_as_by_pyhf():
    import pyhf

    content = json.loads((OWN / "all_modifiers.json").read_text())
    model = nextstat.from_pyhf(content)
    oracle = pyhf.Workspace(content).model()
    params = np.array(model.parameter_init()) * 1.1 + 0.05
    np.random.seed(4)  # pyhf's NumPy backend draws from the global generator  # noqa: NPY002
    theirs = oracle.make_pdf(pyhf.tensorlib.astensor(params)).sample((4000,))
    mine = np.asarray(sample_toys(model, 4000, params, seed=4))
    pvalues = [stats.ks_2samp(a, b).pvalue for a, b in zip(mine.T, theirs.T, strict=True)]
    assert min(pvalues) > 1e-4


def test_a_toy_depends_on_model_seed_and_number_alone(model):
    params, throw = model.parameter_init(), jax.jit(_throw.throw)
    for seed in (0, 7, 2**40 + 3):
        ten = sample_toys(model, 10, params, seed=seed)
        np.testing.assert_array_equal(ten[7:9], sample_toys(model, 2, params, seed=seed, first_toy=7))
        key = jax.random.fold_in(jax.random.key(seed), 3)
        np.testing.assert_allclose(ten[3], throw(model.likelihood, params, key), rtol=1e-14)
    assert not np.array_equal(sample_toys(model, 10, params, seed=1), sample_toys(model, 10, params, seed=2))


def test_generating_point(model, toys):
    best, held = nextstat.fit(model), nextstat.profile(model, 0.3)
    np.testing.assert_allclose(toys.generated_at, best.params, atol=1e-12)
    np.testing.assert_array_equal(sample_toys(model, 4), sample_toys(model, 4, best.params))
    np.testing.assert_array_equal(sample_toys(model, 4, mu=0.3), sample_toys(model, 4, held.params))
    moved = best.params.at[model.poi_index].set(0.3)
    np.testing.assert_array_equal(sample_toys(model, 4, best.params, mu=0.3), sample_toys(model, 4, moved))
    data = jnp.array([90.0, 70.0])
    np.testing.assert_array_equal(
        sample_toys(model, 4, data=data), sample_toys(model, 4, nextstat.fit(model, data).params)
    )


# Fitting


def test_fits_are_those_of_fit(model, toys):
    data = sample_toys(model, 3, seed=5)
    for i in range(3):
        fit = nextstat.fit(model, data[i])
        np.testing.assert_allclose(toys.params[i], fit.params, atol=1e-7)
        assert float(toys.mu_hat[i]) == pytest.approx(float(fit.mu), abs=1e-7)
        assert float(toys.mu_uncertainty[i]) == pytest.approx(float(fit.mu_uncertainty), rel=1e-6)
        assert float(toys.nll[i]) == pytest.approx(float(fit.nll), abs=1e-11)
    assert bool(toys.converged.all())
    assert not toys.retried.any()


def test_every_quantity(model, toys):
    np.testing.assert_allclose(toys.data[:4], sample_toys(model, 4, seed=5), rtol=1e-14)
    np.testing.assert_allclose(toys.uncertainties[:, model.poi_index], toys.mu_uncertainty, rtol=1e-9)
    for i in range(4):
        widths = nextstat.fit(model, toys.data[i]).uncertainties
        np.testing.assert_allclose(toys.uncertainties[i], widths, rtol=1e-6)
    pull = (toys.mu_hat - toys.generated_at[model.poi_index]) / toys.mu_uncertainty
    np.testing.assert_allclose(toys.pull, pull)
    assert "u[0] uncertainty" in toys.to_dataframe()


@pytest.mark.parametrize(
    ("test_stat", "mu_test"), [pytest.param("qtilde", 0.8, marks=pytest.mark.slow), ("q", 0.8), ("q0", None)]
)
def test_statistics_are_those_of_single_fits(model, test_stat, mu_test):
    toys = fit_small(model, 12, mu=0.3, test_stat=test_stat, mu_test=mu_test, seed=2)
    single = {
        "qtilde": lambda data: nextstat.qmu_tilde_test(model, 0.8, data),
        "q": lambda data: nextstat.qmu_test(model, 0.8, data),
        "q0": lambda data: nextstat.q0_test(model, data),
    }[test_stat]
    some = 0
    for i, data in enumerate(toys.data):
        test = single(data)
        assert float(toys.statistic[i]) == pytest.approx(float(test.value), abs=1e-8)
        assert float(toys.mu_hat[i]) == pytest.approx(float(test.mu_hat), abs=1e-7)
        assert float(toys.nll_fixed[i]) == pytest.approx(float(test.nll_fixed), abs=1e-8)
        some += float(test.value) > 0
    assert 0 < some < 12
    assert bool(toys.converged.all())


def test_conditional_fits_alone(model):
    toys = fit_small(model, 3, mu_test=0.7)
    for i, data in enumerate(toys.data):
        held = nextstat.profile(model, 0.7, data)
        np.testing.assert_allclose(toys.params[i], held.params, atol=1e-7)
        assert float(toys.nll[i]) == pytest.approx(float(held.nll), abs=1e-10)
    np.testing.assert_array_equal(toys.mu_hat, 0.7)
    np.testing.assert_array_equal(toys.mu_uncertainty, 0.0)
    assert toys.statistic is None


def test_fixed_parameters_keep_the_value_of_the_model():
    content = spec()
    content["measurements"][0]["config"]["parameters"].append({"name": "a", "fixed": True})
    model = nextstat.from_pyhf(content)
    params = model.parameter_init().at[model.index("a")].set(1.0)
    toys = fit_small(model, 5, params)
    np.testing.assert_array_equal(toys.params[:, model.index("a")], 0.0)
    # The toys themselves are thrown where they were asked for.
    assert float(toys.generated_at[model.index("a")]) == 1.0


def test_a_model_without_a_parameter_of_interest():
    model = counting(poi="")
    toys = fit_small(model, 5, quantities=("mu_uncertainty", "params"))
    assert toys.mu_hat is None
    assert toys.mu_uncertainty is None
    assert toys.params.shape == (5, 1)
    assert "5 of 5: converged" in repr(toys)
    with pytest.raises(nextstat.ModelError, match="no parameter of interest"):
        fit_toys(model, 5, mu=1.0)
    with pytest.raises(nextstat.ModelError, match="no parameter of interest"):
        fit_toys(model, 5, test_stat="q0")


@pytest.mark.slow
def test_single_precision():
    single, double = (
        fit_toys(counting(normsys("a", 0.9, 1.1), dtype=dtype), 50, seed=5, batch_size=SMALL)
        for dtype in ("float32", "float64")
    )
    assert single.mu_hat.dtype == np.float32
    assert single.params.dtype == np.float32
    assert bool(single.converged.all())
    # Different random numbers, the same distribution.
    assert stats.ks_2samp(np.asarray(single.pull), np.asarray(double.pull)).pvalue > 1e-3


# Nothing but the seed decides


def test_batch_sizes_and_threads_change_nothing(model, toys):
    default = fit_toys(model, N, seed=5)  # another quantity less, and one chunk
    assert_same(default, toys)
    assert default.uncertainties is None
    assert default.data is None
    assert_same(fit_small(model, N, workers=1), toys)
    assert_same(fit_small(model, N, workers=3, batch_size=23), toys)


def test_chunks_are_computed_alone_and_joined(model, toys):
    chunks = list(stream_toys(model, N, seed=5, batch_size=50, quantities=ALL))
    assert [chunk.n_toys for chunk in chunks] == [50] * 6
    assert [chunk.n_toys for chunk in stream_toys(model, 70, seed=5, batch_size=50, quantities=ALL)] == [50, 20]
    assert_same(ToyFits.join(chunks), toys)
    alone = fit_small(model, 50, first_toy=100)
    assert_same(alone, chunks[2])
    assert_same(ToyFits.join([*chunks[:2], alone, *chunks[3:]]), toys)
    with pytest.raises(nextstat.FitError, match="same toys"):
        ToyFits.join([alone, chunks[2]])
    with pytest.raises(nextstat.FitError, match="differ in seed"):
        ToyFits.join([alone, fit_small(model, 2, seed=6)])
    with pytest.raises(nextstat.FitError, match="cannot be joined"):
        ToyFits.join([alone, fit_small(model, 2, test_stat="q0")])
    with pytest.raises(nextstat.FitError, match="nothing to join"):
        ToyFits.join([])


@pytest.mark.slow
def test_the_vectorized_schedule_gives_the_same_toys(model, toys, monkeypatch):
    """What a GPU does, on this machine."""
    monkeypatch.setattr(_runs, "together", lambda platform: True)
    assert _runs.chunk_size(model.likelihood) == 4096
    together = fit_toys(model, 40, seed=5, batch_size=32)
    np.testing.assert_array_equal(together.toy, np.arange(40))
    np.testing.assert_array_equal(together.status, toys.status[:40])
    np.testing.assert_allclose(together.mu_hat, toys.mu_hat[:40], atol=1e-8)
    np.testing.assert_allclose(together.nll, toys.nll[:40], rtol=1e-12)


def test_the_schedule_of_a_device():
    assert not _runs.together("cpu")
    assert _runs.together("gpu")
    assert _runs.together("tpu")


def test_a_stream_stops_when_its_reader_does(model):
    stream = stream_toys(model, 10**9, seed=5, batch_size=64, quantities=ALL)
    first = next(stream)
    assert first.n_toys == 64
    stream.close()


def test_progress_is_shown_on_request(model, capfd):
    fit_small(model, 3)
    assert capfd.readouterr().err == ""
    fit_small(model, 3, progress=True)
    assert "3/3" in capfd.readouterr().err


_ON_A_MESH = """
import json, sys
import numpy as np, jax
import nextstat_jax as nextstat
from jax.sharding import Mesh
from nextstat_jax._toys import fit_toys
model = nextstat.from_pyhf(json.loads(sys.stdin.read()))
devices = np.array(jax.devices())
n = int(sys.argv[1])
mesh = jax.make_mesh((2, 4), ("a", "b")) if n == 8 else Mesh(devices[:n], ("toy",))
toys = fit_toys(model, 301, seed=5, mesh=mesh, batch_size=30)
names = ("toy", "mu_hat", "nll", "params", "mu_uncertainty", "status")
print(json.dumps({name: np.asarray(getattr(toys, name)).tolist() for name in names}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 8])
def test_meshes_change_nothing(n, toys):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_MESH, str(n)],
        input=json.dumps(spec()),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["toy"] == list(range(N + 1))
    for name, values in result.items():
        wanted = np.asarray(getattr(toys, name))
        np.testing.assert_allclose(values[:N], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


# Executors


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_processes_change_nothing(model, toys, pool):
    assert_same(fit_small(model, N, executor=pool), toys)


@pytest.mark.slow
def test_a_killed_process_pool_is_named(model, pool):
    fit_small(model, 1, executor=pool)
    for process in pool._processes.values():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(nextstat.FitError, match=r"toys 0 to 63 was lost 4 times .*BrokenProcessPool.*first_toy"):
        fit_small(model, 256, executor=pool)


class Unreliable(Executor):
    """Loses tasks with their workers: those whose number of submission is listed."""

    def __init__(self, lost=(), error=BrokenProcessPool):
        self.lost, self.error, self.submitted, self.futures = set(lost), error, 0, []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.futures.append(future)
        self.submitted += 1
        if self.submitted in self.lost:
            future.set_exception(self.error("the worker is gone"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("error", [BrokenProcessPool, ConnectionResetError, type("KilledWorker", (Exception,), {})])
def test_a_lost_chunk_is_run_again(model, toys, error):
    executor = Unreliable(lost={1, 3}, error=error)
    assert_same(fit_small(model, N, executor=executor, workers=1), toys)
    assert executor.submitted == 7


def test_an_executor_that_loses_everything_is_given_up(model):
    executor = Unreliable(lost=range(100))
    with pytest.raises(nextstat.FitError, match="toys 0 to 63 was lost 4 times"):
        fit_small(model, N, executor=executor, workers=1)


def test_a_wrong_chunk_is_named_in_one_line(model):
    executor = Unreliable(lost={2}, error=lambda text: RuntimeError(f"{text}\nand more"))
    with pytest.raises(nextstat.FitError, match=r"toys 64 to 127 failed: RuntimeError: the worker is gone$"):
        fit_small(model, N, executor=executor)
    assert executor.submitted == 5


def test_chunks_are_submitted_a_few_ahead():
    executor = Unreliable()
    stream = _chunks.shipped(executor, lambda shared, task: shared + task, 100, iter(range(50)), 2)
    assert next(stream) == 100
    assert executor.submitted == 4
    assert next(stream) == 101
    assert executor.submitted == 5
    assert list(stream) == list(range(102, 150))


def test_threads_keep_the_order_and_stop_early():
    gate, started = threading.Event(), []

    def run(k):
        started.append(k)
        if k == 0:
            gate.wait(10)
        else:
            gate.set()
        return k

    assert list(_chunks.threaded(run, range(6), 2)) == list(range(6))
    started.clear()
    stream = _chunks.threaded(run, range(10**9), 2)
    assert next(stream) == 0
    stream.close()
    assert len(started) <= 6


def test_an_error_in_a_thread_is_the_error():
    def run(k):
        raise nextstat.FitError(f"no {k}")

    with pytest.raises(nextstat.FitError, match="no 0"):
        list(_chunks.threaded(run, range(4), 2))


@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing(model):
    distributed = pytest.importorskip("distributed")
    n = 10_000
    wanted = fit_toys(model, n, seed=5)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        stream = stream_toys(model, n, seed=5, batch_size=200, executor=client.get_executor(), workers=2)
        parts = [next(stream)]
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        parts.extend(stream)
    assert_same(ToyFits.join(parts), wanted)


# Failures


@pytest.fixture
def unbelieved(monkeypatch):
    """The quick method fails, so that the full minimizer has to do."""
    quick = _fits.quick_fit
    monkeypatch.setattr(_fits, "quick_fit", lambda *args: (quick(*args)[0], jnp.array(False)))


def closed_form(data, signal, mu):
    """Best fit and qmu where all bins have the same ratio of signal to background, as ``counting`` makes them."""
    total, scale = np.asarray(data).sum(1), np.sum(signal)
    best = np.maximum(total / scale - 5.0, 0.0)

    def nll(mu):
        return scale * (mu + 5.0) - total * np.log(mu + 5.0)

    return best, np.where(best <= mu, 2.0 * (nll(mu) - nll(best)), 0.0)


@pytest.mark.usefixtures("unbelieved")
def test_failed_fits_are_made_again_and_kept(monkeypatch):
    solve = _fits.solve_fit

    def picky(likelihood, data, conditions):
        """Converges from the initial parameters alone, and never where the first count is odd."""
        minimum = solve(likelihood, data, conditions)
        good = (conditions.start == likelihood.init).all() & (data[0] % 2 == 0)
        status = jnp.where(good, minimum.status, _status.STALLED)
        return minimum._replace(status=status, value=minimum.value + ~good)

    monkeypatch.setattr(_fits, "solve_fit", picky)
    # A structure of its own, so that no compiled function of another test serves.
    model = counting(signal=(10.0, 12.0))
    toys = fit_small(model, 12, mu=0.5, quantities=("data",))
    data = toys.data
    assert toys.params is None
    with pytest.raises(nextstat.FitError, match="quantities="):
        _ = toys.pull
    even = np.asarray(data[:, 0]) % 2 == 0
    assert 0 < even.sum() < 12
    np.testing.assert_array_equal(toys.toy, np.arange(12))
    np.testing.assert_array_equal(toys.status, np.where(even, _status.CONVERGED, _status.STALLED))
    np.testing.assert_array_equal(toys.start[even], 2)
    assert toys.starts[2] == "the initial parameters"
    assert bool(toys.retried[even].all())
    # All of them are at the minimum: only the status says that nobody vouches for it.
    np.testing.assert_allclose(toys.mu_hat, closed_form(data, (10.0, 12.0), 0.0)[0], atol=1e-7)
    text = repr(toys)
    assert f"{12 - even.sum()} of 12: not converged" in text
    assert "from another start" in text
    assert f"{12 - even.sum()} of 12: not converged" in toys.to_dict()["message"]


@pytest.mark.slow
@pytest.mark.usefixtures("unbelieved")
def test_an_unconditional_fit_that_missed_the_minimum_is_made_again(monkeypatch):
    """The first fit claims convergence far from the minimum; the conditional one gives it away."""
    solve = _fits.solve_fit

    def short_sighted(likelihood, data, conditions):
        minimum = solve(likelihood, data, conditions)
        poi = likelihood.structure.poi
        # Fits that start at mu = 3 alone find the minimum.
        lost = ~conditions.held[poi] & (jnp.abs(conditions.start[poi] - 3.0) > 1e-6)
        away = minimum._replace(y=minimum.y.at[poi].add(40.0), value=minimum.value + 50.0)
        return jax.tree.map(lambda a, b: jnp.where(lost, a, b), away, minimum)

    model = counting(signal=(10.0, 12.0, 14.0))
    monkeypatch.setattr(_fits, "solve_fit", short_sighted)
    toys = fit_small(model, 6, test_stat="q", mu_test=3.0, quantities=("data",))
    np.testing.assert_array_equal(toys.start, len(toys.starts) - 1)
    assert bool(toys.retried.all())
    assert bool(toys.converged.all())
    best, statistic = closed_form(toys.data, (10.0, 12.0, 14.0), 3.0)
    np.testing.assert_allclose(toys.mu_hat, best, atol=1e-7)
    np.testing.assert_allclose(toys.statistic, statistic, atol=1e-8)


# Results


def test_summary_and_exports(model, toys):
    text = repr(toys)
    assert text.startswith(f"ToyFits: {N} toys from number 0 with seed 5: {N} of {N}: converged")
    mu = np.asarray(toys.mu_hat)
    assert f"{mu.mean():.6g}" in text
    assert f"{mu.std(ddof=1):.6g}" in text
    assert f"{np.asarray(toys.pull).std(ddof=1):.6g}" in text
    stored = json.loads(json.dumps(toys.to_dict()))
    assert stored["mu_hat"] == pytest.approx(mu.tolist())
    assert stored["generated_at"]["mu"] == pytest.approx(float(toys.generated_at[model.poi_index]))
    assert len(stored["params"]) == N
    frame = toys.to_dataframe()
    assert len(frame) == N
    np.testing.assert_array_equal(frame["toy"], np.arange(N))
    np.testing.assert_array_equal(frame["mu"], toys.mu_hat)
    np.testing.assert_array_equal(frame["u[1]"], toys.params[:, model.index("u[1]")])


def test_results_are_pytrees(toys):
    doubled = jax.tree.map(lambda x: 2 * x, toys)
    np.testing.assert_array_equal(doubled.mu_hat, 2 * toys.mu_hat)
    assert doubled.parameter_names == toys.parameter_names


@pytest.fixture
def unchecked():
    """Users run without the checks of annotations, which would say the same in other words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_toys": 0}, nextstat.FitError, "n_toys=0: expected a positive integer"),
        ({"n_toys": 2.0}, nextstat.FitError, "n_toys=2.0: expected a positive integer"),
        ({"n_toys": True}, nextstat.FitError, "n_toys=True"),
        ({"n_toys": 2**31 + 1}, nextstat.FitError, r"below 2\*\*31"),
        ({"first_toy": -1}, nextstat.FitError, "first_toy=-1: expected an integer from 0 on"),
        ({"seed": -1}, nextstat.FitError, "seed=-1"),
        ({"seed": 2**63}, nextstat.FitError, r"below 2\*\*63"),
        ({"seed": "x"}, nextstat.FitError, "seed='x'"),
        ({"batch_size": 0}, nextstat.FitError, "batch_size=0"),
        ({"workers": 0}, nextstat.FitError, "workers=0"),
        ({"quantities": ("width",)}, nextstat.FitError, "there is no 'width'; expected some of 'mu_uncertainty'"),
        ({"test_stat": "qmu"}, nextstat.FitError, "test_stat='qmu': expected one of 'qtilde', 'q', 'q0', or None"),
        ({"test_stat": "q"}, nextstat.FitError, "needs the value to test: give mu_test"),
        ({"test_stat": "qtilde", "mu_test": -1.0}, nextstat.FitError, "cannot be negative: use test_stat='q'"),
        ({"test_stat": "q0", "mu_test": 1.0}, nextstat.FitError, "q0 tests mu = 0"),
        (
            {"test_stat": "q", "mu_test": -6.0},
            nextstat.FitError,
            r"mu_test=-6 lies outside the bounds \[-5, 10\]",
        ),
        ({"mu_test": float("nan")}, nextstat.FitError, "mu_test is nan: give one finite number"),
        ({"mu": [1.0, 2.0]}, nextstat.FitError, r"mu is \[1.0, 2.0\]: give one finite number"),
        ({"params": [1.0]}, nextstat.ModelError, r"params has shape \(1,\), expected \(7,\)"),
        ({"params": [float("nan")] * 7}, nextstat.FitError, "params is not finite for h"),
        ({"mu": -99.0}, nextstat.FitError, "the fit that toys are to be thrown from failed"),
        ({"params": [-99.0, 1, 1, 1, 1, 1, 1]}, nextstat.FitError, r"params predict -.* in bin 0 of channel bins"),
        ({"data": [1.0]}, nextstat.ModelError, "data has shape"),
        ({"mesh": 3}, nextstat.FitError, "mesh is a int: give a jax.sharding.Mesh"),
        ({"executor": 3}, nextstat.FitError, "executor is a int: give an executor"),
        ({"mesh": "one", "executor": "two"}, nextstat.FitError, "give one of them"),
    ],
)
def test_wrong_arguments_in_one_line(model, options, error, message):
    arguments = {"n_toys": 2, **options}
    for function in (fit_toys, stream_toys):
        with pytest.raises(error, match=message) as caught:
            function(model, **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_more_wrong_arguments(model):
    params = np.array(model.parameter_init())
    params[model.index("u[0]")] = -0.1
    with pytest.raises(nextstat.FitError, match="in auxiliary data of u"):
        sample_toys(model, 2, params)
    with pytest.raises(nextstat.ModelError, match="from_pyhf"):
        sample_toys(spec(), 2)
    with pytest.raises(nextstat.FitError, match="not inside jit"):
        jax.jit(lambda m: fit_toys(m, 2).mu_hat)(model)
