"""Yields and their uncertainties against closed forms, pyhf, finite differences and random draws of parameters."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax._inference._fit import FitResult, require_fit
from nextstat_jax._inference._yields import with_uncertainty, yields
from nextstat_jax._likelihood._constraints import constraint_widths
from nextstat_jax._minimize._dense import DenseSpread
from tests.building import lumi, normfactor, normsys, one_channel, sample, shapesys, staterror, workspace
from tests.conftest import OWN

NAMES = ("all_modifiers", "one_shapesys", "shared", "unconstrained")


@pytest.fixture(scope="module")
def full():
    """A model with every modifier type, and a made-up fit with large correlations."""
    model = nextstat.from_pyhf(json.loads((OWN / "all_modifiers.json").read_text()))
    rng = np.random.default_rng(5)
    n = model.n_params
    params = model.parameter_init() + rng.uniform(0.05, 0.2, n)
    root = 0.1 * rng.normal(size=(n, n))
    none = jnp.zeros(n, bool)
    return model, FitResult(
        params=params,
        spread=DenseSpread(jnp.asarray(root @ root.T)),
        nll=jnp.asarray(0.0),
        gradient=jnp.zeros(n),
        edm=jnp.asarray(0.0),
        on_bound=none,
        fixed=none,
        status=jnp.asarray(0),
        n_iter=jnp.asarray(0),
        start_moved=jnp.asarray(False),
        next_minimum=jnp.asarray(jnp.inf),
        parameter_names=model.names.parameters,
        poi_index=model.poi_index,
    )


def one_bin(*modifiers, parameters=()):
    samples = [sample("s", [10.0], normfactor("mu")), sample("b", [50.0], *modifiers)]
    return nextstat.from_pyhf(one_channel(samples, [64.0], parameters=parameters), normsys="code1")


@pytest.fixture(scope="module")
def small():
    """A model with uncertainties so small that yields are nearly linear in the parameters, and its fit."""
    samples = [
        sample("s", [10.0, 40.0], normfactor("mu")),
        sample("b", [5000.0, 4000.0], normsys("rate", 0.99, 1.01), staterror("g", [40.0, 50.0])),
    ]
    model = nextstat.from_pyhf(one_channel(samples, [5010.0, 4040.0]))
    return model, nextstat.fit(model)


# Before a fit: closed forms.


def test_a_normsys_shifts_the_yield_by_its_derivative():
    # Code 1 is exp(alpha log(hi)) on both sides if lo = 1 / hi.
    result = yields(one_bin(normsys("rate", 1 / 1.2, 1.2)))
    assert float(result.total_uncertainties[0]) == pytest.approx(50.0 * np.log(1.2), rel=1e-12)
    assert float(result.total[0]) == 60.0


@pytest.mark.parametrize("kind", ["shapesys", "staterror"])
def test_a_gamma_gives_back_its_uncertainty(kind):
    modifier = shapesys("g", [7.0]) if kind == "shapesys" else staterror("g", [7.0])
    result = yields(one_bin(modifier))
    b = result.samples.index("b")
    assert float(result.uncertainties[b, 0]) == pytest.approx(7.0, rel=1e-12)
    assert float(result.channel_uncertainties[b, 0]) == pytest.approx(7.0, rel=1e-12)


def test_free_and_fixed_parameters_add_nothing_before_a_fit():
    settings = [{"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "fixed": True}]
    result = yields(one_bin(lumi(), normfactor("k"), parameters=settings))
    np.testing.assert_array_equal(result.uncertainties, 0.0)
    settings[0]["fixed"] = False
    moving = yields(one_bin(lumi(), normfactor("k"), parameters=settings))
    assert float(moving.total_uncertainties[0]) == pytest.approx(50.0 * 0.02, rel=1e-12)


def test_correlated_uncertainties_are_not_added_in_quadrature():
    same, other = normsys("rate", 1 / 1.1, 1.1), normsys("other", 1 / 1.1, 1.1)
    parts = [50.0 * np.log(1.1), 30.0 * np.log(1.1)]
    for second, expected in ((same, sum(parts)), (other, np.hypot(*parts))):
        spec = one_channel([sample("a", [50.0], normfactor("mu"), same), sample("b", [30.0], second)], [80.0])
        result = yields(nextstat.from_pyhf(spec, normsys="code1"))
        assert float(result.total_uncertainties[0]) == pytest.approx(expected, rel=1e-12)


def test_bins_of_a_channel_move_together():
    spec = one_channel([sample("a", [50.0, 20.0], normfactor("mu"), normsys("rate", 1 / 1.1, 1.1))], [50.0, 20.0])
    result = yields(nextstat.from_pyhf(spec, normsys="code1"))
    np.testing.assert_allclose(result.uncertainties[0], np.array([50.0, 20.0]) * np.log(1.1), rtol=1e-12)
    assert float(result.channel_uncertainties[0, 0]) == pytest.approx(70.0 * np.log(1.1), rel=1e-12)
    assert float(result.channel_total_uncertainties[0]) == pytest.approx(70.0 * np.log(1.1), rel=1e-12)


def test_a_bin_that_is_clipped_does_not_move():
    spec = one_channel([sample("a", [-5.0, 20.0], normfactor("mu"), normsys("rate", 0.9, 1.1))], [1.0, 20.0])
    model = nextstat.from_pyhf(spec, clip_bin_data=1.0)
    result = yields(model)
    np.testing.assert_allclose(result.total, [1.0, 20.0])
    assert float(result.total_uncertainties[0]) == 0.0
    assert float(result.channel_total[0]) == 21.0


# Against pyhf and its widths, and half the difference between variations (cabinetry's way).


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_yields_and_widths_equal_pyhf(name):
    import pyhf

    spec = json.loads((OWN / f"{name}.json").read_text())
    oracle = pyhf.Workspace(spec).model()
    model = nextstat.from_pyhf(spec)
    result = yields(model)
    expected = oracle.main_model.expected_data(oracle.config.suggested_init(), return_by_sample=True)
    assert list(result.samples) == oracle.config.samples
    # pyhf gives a sample that a channel lacks the factors of that channel applied to 0.
    np.testing.assert_allclose(result.values, expected, rtol=1e-12, atol=1e-12)

    sets = [oracle.config.param_set(one) for one in oracle.config.par_order]
    widths = np.concatenate([one.width() if one.constrained else np.zeros(one.n_parameters) for one in sets])
    fixed = np.array(oracle.config.suggested_fixed())
    np.testing.assert_allclose(np.where(fixed, 0.0, constraint_widths(model.likelihood)), np.where(fixed, 0.0, widths))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_uncertainties_before_a_fit_are_those_of_variations(full):
    import pyhf

    model, _ = full
    oracle = pyhf.Workspace(json.loads((OWN / "all_modifiers.json").read_text())).model()
    init = np.array(oracle.config.suggested_init())
    widths = np.asarray(constraint_widths(model.likelihood))

    def varied(size):
        """Half the difference between yields at + and - so many standard deviations, added in quadrature."""
        steps = [
            (oracle.main_model.expected_data(init + step) - oracle.main_model.expected_data(init - step)) / (2 * size)
            for step in size * np.diag(widths)
        ]
        return np.sqrt(np.square(steps).sum(axis=0))

    np.testing.assert_allclose(yields(model).total_uncertainties, varied(1e-4), rtol=1e-7)
    # Whole standard deviations differ by how far the interpolation is from a straight line.
    np.testing.assert_allclose(yields(model).total_uncertainties, varied(1.0), rtol=0.03)


# After a fit.


def test_after_a_fit_the_jacobian_meets_the_covariance(full):
    model, result = full
    after = yields(model, result)
    assert after.kind == "post-fit"
    params, covariance = np.asarray(result.params), np.asarray(result.covariance)
    step = 1e-5

    def jacobian(function):
        columns = [(function(params + d) - function(params - d)) / (2 * step) for d in step * np.eye(len(params))]
        return np.stack(columns, axis=-1)

    def spread(function):
        J = jacobian(function)
        return np.sqrt(np.einsum("...i,ij,...j->...", J, covariance, J))

    expected = model.expected_data
    np.testing.assert_allclose(after.total, expected(params, include_auxdata=False), rtol=1e-14)
    bins = spread(lambda p: np.asarray(expected(p, include_auxdata=False)))
    np.testing.assert_allclose(after.total_uncertainties, bins, rtol=1e-7)
    channels = list(after.channel_slices.values())
    sums = spread(lambda p: np.array([np.asarray(expected(p))[one].sum() for one in channels]))
    np.testing.assert_allclose(after.channel_total_uncertainties, sums, rtol=1e-7)
    for (channel, name), cells in model.sample_yields(params).items():
        bins, i, k = after.channel_slices[channel], after.samples.index(name), after.channels.index(channel)
        np.testing.assert_allclose(after.values[i, bins], cells, rtol=1e-14)
        mine = spread(lambda p, row=(channel, name): np.asarray(model.sample_yields(p)[row]))
        np.testing.assert_allclose(after.uncertainties[i, bins], mine, rtol=1e-6, atol=1e-9)
        total = spread(lambda p, row=(channel, name): np.asarray(model.sample_yields(p)[row]).sum())
        assert float(after.channel_uncertainties[i, k]) == pytest.approx(float(total), rel=1e-6)


def test_random_parameters_scatter_as_propagated(small):
    model, result = small
    rng = np.random.default_rng(20240811)
    draws = rng.multivariate_normal(np.asarray(result.params), np.asarray(result.covariance), size=20_000)
    seen = np.asarray(jax.jit(jax.vmap(lambda p: model.expected_data(p, False)))(draws))
    after = yields(model, result)
    # The relative error of a standard deviation from 20,000 draws is 0.5 %.
    np.testing.assert_allclose(after.total_uncertainties, seen.std(axis=0), rtol=0.02)
    assert float(after.channel_total_uncertainties[0]) == pytest.approx(seen.sum(axis=1).std(), rel=0.02)
    # The fit pulls the parameters against each other: the total is known better than its parts say.
    parts = np.asarray(after.uncertainties)
    assert (np.asarray(after.total_uncertainties) < 0.9 * np.sqrt((parts**2).sum(axis=0))).all()


def test_missing_covariance_stays_missing(full):
    model, result = full
    missing = replace(result, spread=DenseSpread(jnp.full_like(result.covariance, jnp.nan)))
    after = yields(model, missing)
    assert np.isnan(np.asarray(after.total_uncertainties)).all()
    np.testing.assert_array_equal(after.total, yields(model, result).total)


# Derivatives and batches.


@pytest.mark.slow
def test_derivatives_through_the_fit(small):
    model, _ = small
    top = model.template("b")
    direction = jnp.array([1.0, -0.5])

    def uncertainty(size):
        changed = model.with_templates({"b": top + size * direction})
        result = yields(changed, nextstat.fit(changed))
        return result.channel_total_uncertainties[0] + 3.0 * result.values[0, 1]

    step = 1e-3
    slope = (uncertainty(step) - uncertainty(-step)) / (2 * step)
    assert float(jax.grad(uncertainty)(0.0)) == pytest.approx(float(slope), rel=1e-5)


def test_derivatives_are_finite_where_an_uncertainty_is_zero():
    model = one_bin(normsys("rate", 0.9, 1.1))
    slope = jax.grad(lambda s: yields(model.with_templates({"s": s})).uncertainties.sum())(jnp.array([10.0]))
    np.testing.assert_array_equal(slope, 0.0)


def test_batches_equal_loops(small):
    model, _ = small
    data = jnp.stack([model.observed_data, model.asimov_data(mu=1.0)])
    fits = [nextstat.fit(model, data=one) for one in data]
    results = jax.tree_util.tree_map(lambda *x: jnp.stack(x), *fits)
    batch = jax.vmap(lambda r, d: yields(model, r, data=d))(results, data)
    assert batch.total.shape == (2, model.n_bins)
    one = yields(model, fits[1], data=data[1])
    for a, b in zip(jax.tree_util.tree_leaves(batch), jax.tree_util.tree_leaves(one), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-9, atol=1e-12)
    assert "total=" in repr(batch)
    with pytest.raises(nextstat.FitError, match=r"a batch of shape \(2,\): use jax.vmap"):
        yields(model, results)


def test_equal_structures_share_the_compiled_function(full):
    from nextstat_jax._inference._yields import _propagate

    model, _ = full
    yields(model)
    before = _propagate._cache_size()
    text = (OWN / "all_modifiers.json").read_text()
    yields(nextstat.from_pyhf(json.loads(text.replace('"fakes"', '"fake"').replace("310.0", "311.0"))))
    assert _propagate._cache_size() == before


def test_float32():
    spec = json.loads((OWN / "all_modifiers.json").read_text())
    single, double = (nextstat.from_pyhf(spec, dtype=kind) for kind in ("float32", "float64"))
    result = yields(single)
    assert result.total_uncertainties.dtype == np.float32
    np.testing.assert_allclose(result.total_uncertainties, yields(double).total_uncertainties, rtol=1e-4)


# Names, tables, wrong input.


def test_names_and_data(full):
    model, result = full
    after = yields(model, result)
    assert after.channels == model.channels == ("control_fakes", "control_top", "search")
    assert after.channel_slices == model.channel_slices
    assert after.signals == ("signal",)
    assert ("control_fakes", "signal") not in after.rows
    np.testing.assert_array_equal(after.values[after.samples.index("signal"), :2], 0.0)
    np.testing.assert_array_equal(after.observed, model.observed_data[: model.n_bins])
    other = np.arange(float(model.n_bins))
    np.testing.assert_array_equal(yields(model, result, data=other).observed, other)


def test_no_parameter_of_interest(own):
    assert yields(nextstat.from_pyhf(own("no_poi"))).signals == ()


def test_tables(full):
    model, result = full
    before, after = yields(model), yields(model, result)
    text = repr(before).splitlines()
    assert text[0] == "Yields, pre-fit, sums over the bins of each channel"
    assert text[1].split() == ["control_fakes", "control_top", "search"]
    rows = {line.split()[0]: line for line in text[2:]}
    assert list(rows) == ["fakes", "signal", "top", "total", "observed"]
    assert rows["observed"].split()[1:] == ["241", "622", "127"]
    value, error = rows["total"].split()[1::2][0], rows["total"].split()[3::3][0]
    assert value == with_uncertainty(*map(float, (before.channel_total[0], before.channel_total_uncertainties[0])))[0]
    assert error == with_uncertainty(*map(float, (before.channel_total[0], before.channel_total_uncertainties[0])))[1]
    # The sample that a channel lacks has an empty place.
    assert rows["signal"].count("+-") == 2

    stored = json.loads(json.dumps(after.to_dict(), allow_nan=False))
    top = stored["channels"]["search"]["samples"]["top"]
    assert top["yields"] == after.values[after.samples.index("top"), after.channel_slices["search"]].tolist()
    assert stored["channels"]["search"]["observed"] == [66.0, 40.0, 21.0]
    assert "signal" not in stored["channels"]["control_fakes"]["samples"]


def test_many_channels_wrap():
    channels = {f"a_long_name_of_channel_{k}": [sample("s", [5.0], normfactor("mu"))] for k in range(9)}
    spec = workspace(channels, {name: [5.0] for name in channels})
    text = repr(yields(nextstat.from_pyhf(spec)))
    assert max(map(len, text.splitlines())) <= 120
    assert all(name in text for name in channels)
    assert text.count("observed") > 1


def test_dataframe(full):
    pd = pytest.importorskip("pandas")
    model, result = full
    after = yields(model, result)
    frame = after.to_dataframe()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == sum(len(cells) for cells in model.sample_yields(result.params).values())
    row = frame[(frame["channel"] == "search") & (frame["sample"] == "fakes") & (frame["bin"] == 1)].iloc[0]
    i, bins = after.samples.index("fakes"), after.channel_slices["search"]
    assert row["yield"] == float(after.values[i, bins][1]) and row["uncertainty"] == float(
        after.uncertainties[i, bins][1]
    )
    assert row["total"] == float(after.total[bins][1]) and row["observed"] == 40.0
    # The samples of a bin add up to its total.
    sums = frame.groupby(["channel", "bin"])["yield"].sum()
    np.testing.assert_allclose(sums["search"], after.total[bins], rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "uncertainty", "expected"),
    [
        (1234.5678, 12.345, ("1235", "12")),
        (0.123456, 0.00123, ("0.1235", "0.0012")),
        (15.0, 0.0, ("15", "0")),
        (100.0, 140.0, ("100", "140")),
        (float("nan"), 1.0, ("nan", "1")),
        (2.5e9, 3.0e7, ("2.5e+09", "3e+07")),
        (3.0, 1e-12, ("3", "1e-12")),
    ],
)
def test_rounding(value, uncertainty, expected):
    assert with_uncertainty(value, uncertainty) == expected


def test_wrong_input(full):
    model, result = full
    other = nextstat.from_pyhf(json.loads((OWN / "one_shapesys.json").read_text()))
    with pytest.raises(nextstat.FitError, match="expected a fit as fit.model. returns it, found ArrayImpl"):
        require_fit(model, result.params)
    with pytest.raises(nextstat.FitError, match="the fit belongs to another model"):
        yields(other, result)
    with pytest.raises(nextstat.ModelError, match="data has shape"):
        yields(model, result, data=[1.0])
