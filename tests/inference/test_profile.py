"""Fits and profiled statistics against pyhf, closed forms, and their own definitions; wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._minimize import _status
from tests.building import normfactor, normsys, one_channel, sample, shapesys
from tests.conftest import OWN

MUS = (0.0, 0.5, 1.0, 2.5)


def counting(observed, background=50.0, poi_bounds=None):
    """s = 10 on a known background: everything has a closed form."""
    parameters = [{"name": "mu", "bounds": [list(poi_bounds)]}] if poi_bounds else []
    spec = one_channel(
        [sample("s", [10.0], normfactor("mu")), sample("b", [background])], [observed], parameters=parameters
    )
    return nextstat.from_pyhf(spec)


def closed_q(n, mu, background=50.0):
    best = max((n - background) / 10.0, 0.0)

    def nll(mu):
        rate = 10.0 * mu + background
        return rate - n * np.log(rate)

    return 2.0 * (nll(mu) - nll(best)), best


@pytest.mark.parametrize("observed", [30.0, 50.0, 64.0, 85.0])
def test_counting_experiment(observed):
    model = counting(observed)
    q, best = closed_q(observed, 0.0)
    assert float(nextstat.q0(model)) == pytest.approx(q if best > 0 else 0.0, abs=1e-10)
    assert float(nextstat.fit(model).mu) == pytest.approx(best, abs=1e-9)
    for mu in MUS:
        q, best = closed_q(observed, mu)
        assert float(nextstat.qmu_tilde(model, mu)) == pytest.approx(q if best <= mu else 0.0, abs=1e-10)


def test_qmu_and_qmu_tilde_differ_where_mu_may_be_negative():
    model = counting(40.0, poi_bounds=(-4.0, 10.0))
    rates = {mu: 10.0 * mu + 50.0 for mu in (-1.0, 0.0, 1.0)}

    def nll(mu):
        return rates[mu] - 40.0 * np.log(rates[mu])

    assert float(nextstat.qmu(model, 1.0)) == pytest.approx(2 * (nll(1.0) - nll(-1.0)), rel=1e-10)
    assert float(nextstat.qmu_tilde(model, 1.0)) == pytest.approx(2 * (nll(1.0) - nll(0.0)), rel=1e-10)
    assert float(nextstat.q0(model)) == 0.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["all_modifiers", "one_shapesys"])
def test_statistics_equal_pyhf(name):
    import pyhf

    spec = json.loads((OWN / f"{name}.json").read_text())
    oracle = pyhf.Workspace(spec).model()
    data = pyhf.Workspace(spec).data(oracle)
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-6))
    try:
        settings = (oracle.config.suggested_init(), oracle.config.suggested_bounds(), oracle.config.suggested_fixed())
        model = nextstat.from_pyhf(spec)
        # pyhf's minimizer leaves about 1e-5 in 2 * NLL.
        assert float(nextstat.q0(model)) == pytest.approx(
            float(pyhf.infer.test_statistics.q0(0.0, data, oracle, *settings)), abs=1e-4
        )
        for mu in (0.7, 2.0):
            assert float(nextstat.qmu_tilde(model, mu)) == pytest.approx(
                float(pyhf.infer.test_statistics.qmu_tilde(mu, data, oracle, *settings)), abs=1e-4
            )
    finally:
        pyhf.set_backend("numpy")


def test_statistics_report_their_fits():
    model = counting(64.0)
    test = nextstat.q0_test(model)
    assert bool(test.converged)
    assert float(test.mu_hat) == pytest.approx(1.4, abs=1e-8)
    assert float(test.value) == pytest.approx(2 * float(test.nll_fixed - test.nll_free), rel=1e-12)
    assert float(test.deficit) == 0.0
    assert float(nextstat.z0(model)) == pytest.approx(np.sqrt(float(nextstat.q0(model))), rel=1e-12)
    assert float(nextstat.zmu(model, 3.0)) == pytest.approx(np.sqrt(float(nextstat.qmu_tilde(model, 3.0))), rel=1e-12)


def test_gradients_are_finite_where_the_statistic_is_zero():
    for observed in (30.0, 50.0):
        model = counting(observed)
        data = model.observed_data
        for statistic in (nextstat.q0, nextstat.z0):
            assert np.isfinite(jax.grad(lambda d, f=statistic, m=model: f(m, data=d))(data)).all()


def test_profile_is_a_conditional_fit():
    spec = json.loads((OWN / "all_modifiers.json").read_text())
    model = nextstat.from_pyhf(spec)
    conditional = nextstat.profile(model, 1.7)
    assert bool(conditional.converged)
    assert conditional.message == "converged"
    fixed = nextstat.fit(model, fixed={model.poi: 1.7})
    np.testing.assert_allclose(conditional.params, fixed.params, atol=1e-9)
    assert float(conditional.params[model.poi_index]) == 1.7
    assert float(fixed.uncertainties[model.poi_index]) == 0.0
    assert bool(fixed.fixed[model.poi_index])


@pytest.mark.slow
def test_batches():
    model = nextstat.from_pyhf(OWN / "one_shapesys.json")
    toys = np.random.default_rng(2).poisson(np.asarray(model.observed_data), size=(6, model.n_data)).astype(float)
    toys[:, model.n_bins :] = np.asarray(model.observed_data)[model.n_bins :]
    toys = jnp.asarray(toys)
    fits = jax.vmap(lambda d: nextstat.fit(model, data=d))(toys)
    assert fits.params.shape == (6, model.n_params)
    assert bool(np.asarray(fits.converged).all())
    np.testing.assert_allclose(fits.mu[3], nextstat.fit(model, data=toys[3]).mu, atol=1e-8)
    scan = jax.vmap(lambda mu: nextstat.qmu_tilde(model, mu))(jnp.array(MUS))
    np.testing.assert_allclose(scan, [float(nextstat.qmu_tilde(model, mu)) for mu in MUS], atol=1e-9)
    chunks = nextstat.batched(lambda d: nextstat.q0(model, data=d), batch_size=4)(toys)
    np.testing.assert_allclose(chunks, [float(nextstat.q0(model, data=d)) for d in toys], atol=1e-9)


def test_result_reads_well_and_is_json_safe():
    model = nextstat.from_pyhf(OWN / "all_modifiers.json")
    fit = nextstat.fit(model)
    text = repr(fit)
    assert "converged" in text
    assert all(name in text for name in model.parameter_names())
    stored = json.loads(json.dumps(fit.to_dict()))
    assert stored["converged"] is True
    assert stored["parameters"][model.poi]["value"] == pytest.approx(float(fit.mu))
    diagonal = np.diag(np.asarray(fit.correlation))
    np.testing.assert_allclose(diagonal[~np.asarray(fit.fixed)], 1.0, rtol=1e-12)
    assert np.abs(np.asarray(fit.correlation)).max() <= 1 + 1e-12


def test_parameters_on_a_bound_are_named():
    fit = nextstat.fit(counting(30.0))
    assert fit.at_bound == ("mu",)
    assert "at bound" in repr(fit)
    # The bound is ignored for the uncertainty: curvature s^2 n / nu^2 at mu = 0.
    assert float(fit.mu_uncertainty) == pytest.approx(50.0 / (10.0 * np.sqrt(30.0)), rel=1e-9)


def test_starting_point_does_not_matter():
    model = nextstat.from_pyhf(OWN / "all_modifiers.json")
    best = nextstat.fit(model)
    bounds = np.asarray(model.parameter_bounds())
    rng = np.random.default_rng(8)
    for _ in range(5):
        start = rng.uniform(np.maximum(bounds[:, 0], -2), np.minimum(bounds[:, 1], 3))
        start = np.where(np.asarray(best.fixed), np.asarray(model.parameter_init()), start)
        again = nextstat.fit(model, init=start)
        assert float(again.nll) == pytest.approx(float(best.nll), abs=1e-9)


def test_start_outside_the_domain_is_moved_and_reported():
    spec = one_channel(
        [
            sample("s", [4.0], normfactor("mu")),
            sample("b", [-3.0], normfactor("k"), shapesys("u", [1.0])),
            sample("c", [9.0], normsys("a", 0.9, 1.1)),
        ],
        [8.0],
        parameters=[{"name": "k", "inits": [1.0]}],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = nextstat.from_pyhf(spec)
    start = np.asarray(model.parameter_init()).copy()
    start[model.index("k")] = 9.0
    start[model.index("mu")] = 0.0
    assert np.isposinf(float(model.nll(start)))
    fit = nextstat.fit(model, init=start)
    assert bool(fit.start_moved)
    assert "not finite at the start" in fit.message


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: nextstat.fit(m, fixed={"nu": 1.0}), nextstat.FitError, "there is no parameter 'nu'; did you mean"),
        (lambda m: nextstat.fit(m, fixed={"mu": [1.0, 2.0]}), nextstat.FitError, r"shape \(2,\)"),
        (lambda m: nextstat.fit(m, fixed={"mu": float("nan")}), nextstat.FitError, "finite"),
        (lambda m: nextstat.fit(m, init=[1.0]), nextstat.ModelError, r"init has shape \(1,\), expected"),
        (lambda m: nextstat.fit(m, init=[99.0, 1.0, 1.0, 1.0]), nextstat.FitError, "init of mu is 99, outside"),
        (lambda m: nextstat.fit(m, init=[float("nan"), 1.0, 1.0, 1.0]), nextstat.FitError, "init is not finite for mu"),
        (
            lambda m: nextstat.fit(m, data=[1.0]),
            nextstat.ModelError,
            r"data has shape \(1,\), expected \(6,\), or \(3,\)",
        ),
        (lambda m: nextstat.fit(m, data=[1.0, -1.0, 2.0]), nextstat.ModelError, r"data\[1\] is -1: counts"),
        (lambda m: nextstat.fit(m, data=[1.0, float("nan"), 2.0]), nextstat.ModelError, r"data\[1\] is not finite"),
        (lambda m: nextstat.fit(m, fixed=["mu"]), nextstat.FitError, "give a mapping"),
        (lambda m: nextstat.fit(m, fixed={"mu": "x"}), nextstat.FitError, r"fixed\['mu'\] is 'x': expected numbers"),
        (lambda m: nextstat.fit(m, data="observed"), nextstat.ModelError, "data is 'observed': expected numbers"),
        (lambda m: m.nll(None), nextstat.ModelError, "params is None: expected numbers"),
        (lambda m: nextstat.qmu(m, "a"), nextstat.FitError, "mu is 'a': expected numbers"),
        (lambda m: nextstat.fit(m, data=[1.0, 1.0, 2.0, 9.0, -2.0, 9.0]), nextstat.ModelError, r"data\[4\] is -2"),
        (lambda m: m.replace_bounds("mu", 5.0, 2.0), nextstat.FitError, "bounds of mu: 5 is not below 2"),
        (lambda m: m.with_templates({"s": "a"}), nextstat.ModelError, "template 's' is 'a'"),
        (
            lambda m: m.with_templates({("b", "u", "uncertainty"): [1.0, -1.0, 1.0]}),
            nextstat.ModelError,
            "cannot be negative",
        ),
        (lambda m: nextstat.profile(m, [0.0, 1.0]), nextstat.FitError, "give one number, or vmap"),
        (lambda m: nextstat.profile(m, float("inf")), nextstat.FitError, "give a finite number"),
        (lambda m: m.nll(np.zeros((4, m.n_params))), nextstat.ModelError, "use jax.vmap for a batch"),
        (lambda m: nextstat.batched(m.nll, 0), nextstat.ModelError, "batch_size=0"),
        (lambda m: nextstat.batched(m.nll)(1.0), nextstat.ModelError, "leading axis"),
    ],
)
def test_wrong_input_has_one_clear_line(call, error, message):
    model = nextstat.from_pyhf(
        one_channel(
            [sample("s", [1.0, 2.0, 1.0], normfactor("mu")), sample("b", [9.0, 8.0, 7.0], shapesys("u", [1, 2, 1]))],
            [10.0, 9.0, 8.0],
        )
    )
    with pytest.raises(error, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)


def test_a_batch_of_one_tells_its_failures():
    assert _status.message(np.array([[0, 2, 2]])).startswith("1 of 3: converged; 2 of 3: not converged")


def test_yields_by_sample_add_up():
    model = nextstat.from_pyhf(OWN / "all_modifiers.json")
    point = model.parameter_init() * 1.02 + 0.01
    main = np.asarray(model.expected_data(point, include_auxdata=False))
    yields = model.sample_yields(point)
    assert set(yields) == set(model.names.rows)
    for channel, bins in model.channel_slices.items():
        total = sum(np.asarray(y) for (c, _), y in yields.items() if c == channel)
        np.testing.assert_allclose(total, main[bins], rtol=1e-13)


def test_model_without_poi_fits_but_has_no_statistic():
    model = nextstat.from_pyhf(OWN / "no_poi.json")
    fit = nextstat.fit(model)
    assert bool(fit.converged)
    assert model.poi is None
    with pytest.raises(nextstat.ModelError, match="the fit has no parameter of interest: name a parameter, as in fit"):
        _ = fit.mu
    for call in (nextstat.q0, nextstat.z0, lambda m: nextstat.profile(m, 1.0), lambda m: m.asimov_data(mu=1.0)):
        with pytest.raises(nextstat.ModelError, match="needs a parameter of interest, and the model has none"):
            call(model)


PROGRAM = """
import json, sys, warnings
import jax
import jax.numpy as jnp
before = jax.config.jax_enable_x64
arrays = jnp.ones(2) if {arrays} else None
import nextstat_jax
assert jax.config.jax_enable_x64 == before == False
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = nextstat_jax.from_pyhf({path!r}, dtype={dtype!r})
fit = nextstat_jax.fit(model)
print(json.dumps(dict(
    x64=jax.config.jax_enable_x64, dtype=str(fit.params.dtype), mu=float(fit.mu), converged=bool(fit.converged),
    params=fit.params.tolist(), q0=float(nextstat_jax.q0(model)), warned=[str(w.message) for w in caught],
)))
"""


def run(**options):
    code = PROGRAM.format(**options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all_modifiers"])
def test_precision_switches(name):
    path = str(OWN / f"{name}.json")
    double = run(path=path, dtype=None, arrays=False)
    assert double["x64"] is True
    assert double["dtype"] == "float64"
    assert double["warned"] == []
    warned = run(path=path, dtype=None, arrays=True)
    assert len(warned["warned"]) == 1
    assert "jax_enable_x64" in warned["warned"][0]
    assert "float32" in warned["warned"][0]
    single = run(path=path, dtype="float32", arrays=True)
    assert single["x64"] is False
    assert single["dtype"] == "float32"
    assert single["converged"]
    widths = np.asarray(nextstat.fit(nextstat.from_pyhf(path)).uncertainties)
    difference = np.abs(np.array(single["params"]) - np.array(double["params"]))
    assert (difference <= 1e-2 * widths + 1e-6).all()
    assert single["q0"] == pytest.approx(double["q0"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simple", "complex", "tHu"])
def test_single_precision_on_published_workspaces(name, workspaces_dir):
    path = str(workspaces_dir / f"{name}.json")
    single, double = run(path=path, dtype="float32", arrays=True), run(path=path, dtype=None, arrays=False)
    assert single["x64"] is False
    assert single["converged"]
    widths = np.asarray(nextstat.fit(nextstat.from_pyhf(path)).uncertainties)
    difference = np.abs(np.array(single["params"]) - np.array(double["params"]))
    assert (difference <= 1e-2 * widths + 1e-6).all()
    assert single["q0"] == pytest.approx(double["q0"], abs=1e-3)


def test_clips_are_recorded():
    model = nextstat.from_pyhf(OWN / "one_shapesys.json", clip_bin_data=0.0)
    assert model.clips == {"clip_sample_data": None, "clip_bin_data": 0.0}
    assert model.interpolation == {"normsys": "code4", "histosys": "code4p"}


def test_float32_arguments_are_promoted_and_come_back():
    model = nextstat.from_pyhf(OWN / "one_shapesys.json")
    point = jnp.asarray(model.parameter_init(), jnp.float32)
    assert model.nll(point).dtype == jnp.float64
    assert jax.grad(model.nll)(point).dtype == jnp.float32
    single = nextstat.from_pyhf(OWN / "one_shapesys.json", dtype="float32")
    assert single.nll(single.parameter_init()).dtype == jnp.float32
    with pytest.raises(nextstat.ModelError, match="dtype='float16'"):
        nextstat.from_pyhf(OWN / "one_shapesys.json", dtype="float16")


def test_equal_structure_compiles_nothing_again():
    """Other yields, other names, other data: the compiled functions serve."""

    def spec(names, scale):
        return one_channel(
            [
                sample(names[0], [3.0 * scale, 5.0], normfactor("mu")),
                sample(names[1], [30.0, 20.0 * scale], normsys(names[2], 0.9, 1.1), shapesys(names[3], [3.0, 2.0])),
            ],
            [33.0, 27.0 * scale],
        )

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )

    def use(model):
        nextstat.fit(model)
        nextstat.q0(model)
        model.nll_and_grad(model.parameter_init())
        return nextstat.fit(model).parameter_names

    use(nextstat.from_pyhf(spec(("a", "b", "c", "d"), 1.0)))
    assert compiled, "the listener hears nothing"
    compiled.clear()
    names = use(nextstat.from_pyhf(spec(("p", "q", "r", "s"), 1.7)))
    assert compiled == []
    assert "r" in names


def test_with_fixed_holds_parameters_everywhere(own):
    model = nextstat.from_pyhf(own("all_modifiers"))
    name = next(p.name for p in model.parameters() if p.constraint == "normal")
    held = model.with_fixed({name: 0.3})
    ours, theirs = nextstat.fit(held), nextstat.fit(model, fixed={name: 0.3})
    np.testing.assert_allclose(ours.params, theirs.params, atol=1e-9)
    assert float(ours.params[model.index(name)]) == 0.3 and bool(ours.fixed[model.index(name)])
    for values, message in (
        ({"nothing": 1.0}, "no parameter 'nothing'"),
        ({name: float("nan")}, "is nan: give a finite"),
    ):
        with pytest.raises(nextstat.FitError, match=message):
            model.with_fixed(values)
