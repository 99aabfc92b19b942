"""Stacks of models against single models: order, groups, one compilation, derivatives, reading, and errors."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest

from nextstat_jax._base._errors import FitError, ModelError, WorkspaceError
from nextstat_jax._batches import _schedule
from nextstat_jax._batches._schedule import Schedule, map_rows, schedule
from nextstat_jax._inference._asymptotics import asymptotic_test, discovery
from nextstat_jax._inference._limits import upper_limit
from nextstat_jax._inference._stack import ModelStack, stack_models, stack_patches
from nextstat_jax._model._model import from_pyhf
from nextstat_jax._workspace._patches import PatchSet
from tests.building import histosys, normfactor, normsys, sample, staterror, workspace

MASSES = (300, 400, 500, 600, 700)


def background(**observed):
    jes = histosys("jes", [47.0, 29.0], [54.0, 31.0])
    samples = {
        "SR": [sample("bkg", [50.0, 30.0], jes, staterror("mc", [3.0, 2.0]))],
        "CR": [sample("bkg", [400.0], normsys("jes", 0.97, 1.04), normfactor("norm"))],
    }
    spec = workspace(samples, {"SR": [58.0, 33.0], "CR": [410.0], **observed})
    # pyhf refuses patches of a workspace without the POI, and takes its own without checking.
    spec["channels"][0]["samples"].append(sample("placeholder", [0.0, 0.0], normfactor("mu")))
    return spec


def signal(mass, *more):
    """A patch: one more sample, whose yields fall with the mass."""
    yields = [3000.0 / mass, 6000.0 / mass]
    value = sample(f"sig_{mass}", yields, normfactor("mu"), normsys("theory", 0.9, 1.1), *more)
    return [{"op": "add", "path": "/channels/0/samples/-", "value": value}]


def grid(patches=None):
    patches = patches or {f"m{mass}": ([mass, "narrow"], signal(mass)) for mass in MASSES}
    return {
        "metadata": {
            "name": "grid",
            "references": {"hepdata": "ins1234567"},
            "description": "five masses",
            "digests": {"sha256": pyhf.utils.digest(background())},
            "labels": ["mass", "width"],
        },
        "patches": [
            {"metadata": {"name": name, "values": values}, "patch": patch} for name, (values, patch) in patches.items()
        ],
        "version": "1.0.0",
    }


def point(mass, *more):
    return from_pyhf(background(), patch=signal(mass, *more))


@pytest.fixture(scope="module")
def singles():
    return [point(mass) for mass in MASSES]


@pytest.fixture(scope="module")
def stack():
    return stack_patches(background(), grid())


def nll(model, *args):
    return model.nll(model.likelihood.init, *args)


def assert_same_model(a, b):
    assert a.names == b.names
    assert a.likelihood.structure == b.likelihood.structure
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(a), jax.tree.leaves(b))


def assert_rows(batch, rows, rtol=1e-9):
    """A result with a leading axis equals single results."""
    for k, row in enumerate(rows):
        for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(row), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours[k], theirs, rtol=rtol, atol=1e-9)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_what_a_stack_of_patches_holds(stack, singles):
    assert len(stack) == 5
    assert stack.n_groups == 1
    assert stack.labels == ("m300", "m400", "m500", "m600", "m700")
    assert stack.values == tuple((mass, "narrow") for mass in MASSES)
    assert stack.coordinates == ("mass", "width")
    for k, (model, single) in enumerate(zip(stack, singles, strict=True)):
        assert_same_model(model, single)
        assert_same_model(stack[stack.labels[k]], single)
        assert_same_model(stack[k], single)
        assert_same_model(stack[k - 5], single)
    assert repr(stack) == (
        "ModelStack(5 models of one structure: functions are compiled once for all of them; poi='mu', float64)"
    )


def test_every_kind_of_patch_set_gives_the_same(stack, tmp_path):
    path = tmp_path / "patchset.json"
    path.write_text(json.dumps(grid()))
    for source in (path, json.dumps(grid()), PatchSet.read(grid()), pyhf.PatchSet(grid())):
        other = stack_patches(json.dumps(background()), source)
        assert (other.labels, other.values, other.coordinates) == (stack.labels, stack.values, stack.coordinates)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(other), jax.tree.leaves(stack))


@pytest.mark.parametrize("names", [["m600", "m300"], [(600, "narrow"), "m300"], iter(["m600", "m300"])])
def test_some_patches(names, singles):
    some = stack_patches(background(), grid(), names)
    assert some.labels == ("m600", "m300")
    assert some.values == ((600, "narrow"), (300, "narrow"))
    assert_same_model(some[0], singles[3])
    assert stack_patches(background(), grid(), "m300").labels == ("m300",)


def test_options_reach_every_model():
    some = stack_patches(background(), grid(), ["m300", "m400"], dtype="float32", normsys="code1")
    assert [(model.dtype, model.interpolation["normsys"]) for model in some] == [(np.float32, "code1")] * 2


def awkward_patches():
    """Patches that write into what they share with others, and into what they added themselves."""
    bkg = "/channels/0/samples/0"
    return {
        "deep": [{"op": "replace", "path": f"{bkg}/data/0", "value": 51.0}],
        "deeper": [{"op": "replace", "path": f"{bkg}/modifiers/0/data/hi_data/1", "value": 32.5}],
        "remove": [{"op": "remove", "path": f"{bkg}/modifiers/1"}],
        "inserted": [
            {"op": "add", "path": "/channels/0/samples/0", "value": sample("first", [1.0, 1.0], normfactor("mu"))},
            {"op": "replace", "path": "/channels/0/samples/1/data", "value": [52.0, 31.0]},
            {"op": "replace", "path": f"{bkg}/data/1", "value": 4.0},
        ],
        "copy": [
            {"op": "copy", "from": bkg, "path": "/channels/0/samples/-"},
            {"op": "replace", "path": "/channels/0/samples/2/name", "value": "twin"},
        ],
        "move": [
            {"op": "move", "from": "/channels/1/samples/0/modifiers/0", "path": f"{bkg}/modifiers/0"},
            {"op": "test", "path": f"{bkg}/modifiers/0/type", "value": "normsys"},
            {"op": "replace", "path": f"{bkg}/modifiers/0/name", "value": "moved"},
        ],
        "observation": [{"op": "replace", "path": "/observations/0/data/0", "value": 60.0}],
        "measurement": [{"op": "replace", "path": "/measurements/0/config/poi", "value": "norm"}],
        "nothing": [],
        "whole": [{"op": "replace", "path": "", "value": background(SR=[40.0, 40.0])}],
    }


def test_patches_do_not_meet():
    patches = awkward_patches()
    spec, document = background(), grid({name: ([k, ""], patch) for k, (name, patch) in enumerate(patches.items())})
    before = copy.deepcopy((spec, document))
    read = stack_patches(spec, document)
    assert (spec, document) == before
    assert read.labels == tuple(patches)
    for name, patch in patches.items():
        assert_same_model(read[name], from_pyhf(background(), patch=patch))


def test_a_patch_may_mend_a_workspace():
    spec = background()
    spec["channels"][0]["samples"][0]["data"] = [50.0]
    mend = [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [50.0, 30.0]}]
    document = grid({"mended": ([1, ""], mend + signal(300))})
    document["metadata"]["digests"]["sha256"] = pyhf.utils.digest(spec)
    assert_same_model(stack_patches(spec, document)[0], point(300))


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [1.0]}],
        [{"op": "replace", "path": "/channels/0/samples/0/data/1", "value": "x"}],
        [{"op": "add", "path": "/channels/0/samples/-", "value": {"name": "s"}}],
        [{"op": "remove", "path": "/channels"}],
        [{"op": "replace", "path": "/channels", "value": 3}],
        [{"op": "replace", "path": "/channels/0", "value": None}],
        [{"op": "replace", "path": "", "value": [1]}],
        [{"op": "remove", "path": "/nothing"}],
        [{"op": "copy", "from": "/channels/7", "path": "/x"}],
        [{"op": "move", "path": "/x"}],
        [{"op": "add", "path": "/version/0", "value": 1}],
    ],
)
def test_faults_are_those_of_single_reading(patch):
    document = grid({"good": ([1, ""], signal(300)), "bad": ([2, ""], patch)})
    with pytest.raises(WorkspaceError) as single:
        from_pyhf(background(), patch=PatchSet.read(document)["bad"])
    with pytest.raises(WorkspaceError) as together:
        stack_patches(background(), document)
    assert str(together.value) == str(single.value)


def test_a_tampered_workspace_is_refused():
    with pytest.raises(WorkspaceError, match="patch 'm300' was made for"):
        stack_patches(background(CR=[411.0]), grid())


# -- stacking ---------------------------------------------------------------------------------------------------------


def test_sequences_and_mappings(singles):
    by_label = stack_models({"a": singles[0], (400, 1.5): singles[1]})
    assert by_label.labels == ("a", (400, 1.5))
    assert_same_model(by_label[400, 1.5], singles[1])
    named = stack_models(singles[:2], [10, 0])
    # A label comes before a position.
    assert_same_model(named[0], singles[1])
    assert_same_model(named[10], singles[0])
    assert stack_models(iter(singles)).labels == (0, 1, 2, 3, 4)
    assert stack_models(singles).values == ()


def test_structures_are_grouped_and_results_keep_their_order(singles):
    shaped = [point(mass, histosys("shape", [9.0, 18.0], [11.0, 22.0])) for mass in (350, 450)]
    models = [singles[0], shaped[0], singles[1], singles[2], shaped[1]]
    stack = stack_models(models, list("abcde"))
    assert stack.n_groups == 2
    assert stack.message == "5 models in 2 groups of one structure (3, 2): functions are compiled once for each"
    assert "2 groups" in repr(stack)
    for label, model in zip("abcde", models, strict=True):
        assert_same_model(stack[label], model)
    offsets = np.arange(5.0)

    def both(model, offset):
        return {
            "nll": model.nll(model.likelihood.init) + offset,
            "bins": model.expected_data(model.likelihood.init)[:3],
        }

    rows = [both(model, offset) for model, offset in zip(models, offsets, strict=True)]
    assert_rows(stack.map(both, offsets, in_axes=0), rows)
    with pytest.raises(ModelError, match="results of 'a' and 'b' differ in shape"):
        stack.map(lambda model: model.likelihood.init)


def renamed(spec, **names):
    text = json.dumps(spec)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return from_pyhf(text)


def test_names_may_differ_like_those_of_signal_points():
    spec = background()
    theirs = renamed(spec, placeholder="other", mu="strength", norm="norm_2")
    stack = stack_models([from_pyhf(spec), theirs])
    assert stack.n_groups == 1
    # The groups of one model are called after the first; a model that is taken out has its own names again.
    assert stack.groups[0].poi == "mu"
    assert stack[1].poi == "strength"
    assert_same_model(stack[1], theirs)


def test_names_that_trade_places_are_kept_apart():
    spec = workspace(
        {
            "SR": [
                sample("s", [5.0], normfactor("mu")),
                sample("b", [9.0], normsys("x", 0.9, 1.1), normsys("y", 0.8, 1.2)),
            ]
        },
        {"SR": [12.0]},
    )
    other = copy.deepcopy(spec)
    # Sorted by name, so that the numbers of x and y trade places in the arrays as well.
    for modifier, name in zip(other["channels"][0]["samples"][1]["modifiers"], ("y", "z"), strict=True):
        modifier["name"] = name
    models = [from_pyhf(spec), from_pyhf(other)]
    assert models[0].likelihood.structure == models[1].likelihood.structure
    stack = stack_models(models)
    # In the first group y is the second normsys, in the other one it is the first.
    assert stack.n_groups == 2
    at_one = stack.map(lambda model: model.expected_data(model.likelihood.init.at[model.index("y")].set(1.0))[0])
    np.testing.assert_allclose(at_one, [5 + 9 * 1.2, 5 + 9 * 1.1])


def test_traced_models_are_stacked(singles):
    values = jax.jit(lambda models: stack_models(models).map(nll))(singles)
    np.testing.assert_allclose(values, [nll(model) for model in singles], rtol=1e-12)


# -- map --------------------------------------------------------------------------------------------------------------


def test_arguments_are_shared_or_mapped(stack, singles):
    scales, shift = np.linspace(0.5, 2.0, 5), {"a": jnp.array([1.0, 2.0])}

    def scaled(model, scale, shift, nothing):
        assert nothing is None
        return nll(model, model.observed_data[:3] * scale) + shift["a"].sum()

    rows = [scaled(model, scale, shift, None) for model, scale in zip(singles, scales, strict=True)]
    assert_rows(stack.map(scaled, scales, shift, None, in_axes=(0, None, None)), rows)
    rows = [scaled(model, 2.0, shift, None) for model in singles]
    assert_rows(stack.map(scaled, 2, shift, None), rows)


def test_nothing_is_compiled_twice(stack, singles):
    traces = []

    def counted(model, scale):
        traces.append(model)
        return nll(model) * scale

    first = stack.map(counted, 2.0)
    again = stack.map(counted, 3.0)
    order = [0, 3, 2, 1, 4]
    other = stack_models([singles[k] for k in order]).map(counted, 2.0)
    assert len(traces) == 1
    np.testing.assert_allclose(again, 1.5 * first, rtol=1e-12)
    np.testing.assert_allclose(other, first[np.array(order)], rtol=1e-12)
    stack.map(counted, jnp.ones(3))
    assert len(traces) == 2


def test_what_was_compiled_goes_with_its_function(stack):
    def forgotten(model):
        return nll(model)

    stack.map(forgotten)
    gc.collect()
    assert forgotten in _schedule._PROGRAMS
    known, reference = len(_schedule._PROGRAMS), weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert reference() is None
    assert len(_schedule._PROGRAMS) == known - 1


def test_functions_without_weak_references(stack, singles):
    class Callable:
        __slots__ = ("factor",)

        def __init__(self, factor):
            self.factor = factor

        def __call__(self, model):
            return self.factor * nll(model)

    np.testing.assert_allclose(stack.map(Callable(2.0)), [2.0 * nll(model) for model in singles], rtol=1e-12)
    # A bound method is a new object each time.
    np.testing.assert_allclose(stack.map(Callable(2.0).__call__), stack.map(Callable(2.0)), rtol=1e-12)


def test_derivatives_pass_through(stack, singles):
    def scaled(model, scale):
        return model.nll(model.likelihood.init * scale)

    def total(scale):
        return stack.map(scaled, scale).sum()

    def closed(scale):
        return stack.map(lambda model: scaled(model, scale)).sum()

    step = 1e-5
    slope = sum(float(scaled(m, 1.01 + step) - scaled(m, 1.01 - step)) for m in singles) / (2 * step)
    for function in (jax.jit(jax.grad(total)), jax.grad(closed)):
        assert float(function(1.01)) == pytest.approx(slope, rel=1e-7)
    np.testing.assert_allclose(jax.vmap(total)(jnp.array([1.0, 1.01])), [total(1.0), total(1.01)], rtol=1e-12)
    # With respect to the yields of all models at once.
    slopes = jax.grad(lambda stack: stack.map(nll).sum())(stack).groups[0].likelihood.nominal
    values = [nll(with_more(singles[3], more)) for more in (step, -step)]
    assert float(slopes[3].sum()) == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=1e-6)


def with_more(model, more):
    likelihood = replace(model.likelihood, nominal=model.likelihood.nominal + more)
    return replace(model, likelihood=likelihood)


# -- the schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "platform", "cores", "expected"),
    [
        (40, "cpu", 1, Schedule(None, 40, 1)),
        (40, "cpu", 2, Schedule(None, 5, 2)),
        (41, "cpu", 2, Schedule(None, 6, 2)),
        (3, "cpu", 16, Schedule(None, 1, 3)),
        (1, "cpu", 16, Schedule(None, 1, 1)),
        (40, "gpu", 16, Schedule(40, 40, 1)),
        (1000, "gpu", 16, Schedule(64, 1000, 1)),
    ],
)
def test_schedules(n, platform, cores, expected):
    assert schedule(n, platform, cores) == expected


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 25])
def test_rows_are_the_same_on_any_number_of_cores(monkeypatch, n, cores):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: cores)
    rows, keys = np.arange(3.0 * n).reshape(n, 3), jax.random.split(jax.random.key(0), n)
    total, kept, drawn = map_rows(_three, (rows, 2.0, keys), (0, None, 0))
    np.testing.assert_allclose(total, 2.0 * rows.sum(1))
    np.testing.assert_array_equal(kept, rows)
    np.testing.assert_array_equal(jax.random.key_data(drawn), jax.random.key_data(keys))


def _three(row, factor, key):
    return factor * row.sum(), row, key


def test_rows_in_batches(monkeypatch):
    # What a GPU gets, on a CPU.
    monkeypatch.setattr(_schedule, "_platform", lambda leaves: "gpu")
    monkeypatch.setattr(_schedule, "_GPU_BATCH", 4)
    rows = np.arange(30.0).reshape(10, 3)
    batches = []

    def row_sum(row, factor):
        batches.append(row)
        return factor * row.sum()

    np.testing.assert_allclose(map_rows(row_sum, (rows, 2.0), (0, None)), 2.0 * rows.sum(1))
    # Two full batches and the rest.
    assert len(batches) == 2


def test_settings_of_the_caller_hold_in_every_thread(monkeypatch):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: 2)
    rows = jnp.ones((8, 3))

    def promotes(row):
        return row[None, :] + row

    assert map_rows(promotes, (rows,), (0,)).shape == (8, 1, 3)
    # The setting is local to the caller's thread; a thread that traced anew would not know of it.
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        map_rows(lambda row: promotes(row), (rows,), (0,))


def test_errors_come_out_of_the_threads(monkeypatch):
    monkeypatch.setattr(_schedule, "cpu_count", lambda: 2)

    def refuse(x):
        raise FitError("not this one")

    def refusing(row):
        return jax.pure_callback(refuse, jax.ShapeDtypeStruct((), row.dtype), row.sum())

    with pytest.raises(Exception, match="not this one"):
        map_rows(refusing, (jnp.ones((4, 2)),), (0,))


# -- fits and tests ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fits_are_at_minima(stack, singles):
    rows = np.stack([np.asarray(model.observed_data[:3]) + k for k, model in enumerate(singles)])
    result = stack.fit(rows)
    assert result.parameter_names == tuple(singles[0].parameter_names())
    assert bool(result.converged.all())
    for k, model in enumerate(singles):
        # No parameter is on a bound: the gradient vanishes at the best fit to its own data.
        assert not np.asarray(result.on_bound[k]).any()
        np.testing.assert_allclose(model.grad_nll(result.params[k], rows[k]), 0.0, atol=1e-6)
        assert float(result.nll[k]) == pytest.approx(float(model.nll(result.params[k], rows[k])), rel=1e-10)


@pytest.mark.slow
def test_hypothesis_tests_equal_single_ones(stack, singles):
    mus, data = np.array([0.5, 1.0]), np.array([57.0, 35.0, 405.0])
    result = stack.hypotest(mus, data)
    assert result.cls.shape == (5, 2)
    assert result.cls_expected.shape == (5, 2, 5)
    assert bool(result.converged.all())
    for k in (0, 4):
        single = asymptotic_test(singles[k], mus, data)
        for name in ("mu", "cls", "clsb", "clb", "cls_expected", "statistic", "statistic_asimov"):
            np.testing.assert_allclose(getattr(result, name)[k], getattr(single, name), rtol=1e-7, atol=1e-9)
    assert (result.parameter, result.test_stat) == ("mu", "qtilde")
    frame = stack.to_dataframe(cls=result.cls[:, 1])
    assert list(frame.columns) == ["mass", "width", "cls"]
    assert list(frame.index) == list(stack.labels)
    assert frame["mass"].tolist() == list(MASSES)
    np.testing.assert_array_equal(frame["cls"], result.cls[:, 1])


@pytest.mark.slow
def test_limits_and_discoveries_equal_single_ones(stack, singles):
    limits, found = stack.upper_limit(level=0.1, test_stat="q"), stack.discovery()
    assert limits.expected.shape == (5, 5)
    assert (limits.level, limits.test_stat) == (0.1, "q")
    for k, model in enumerate(singles):
        single = upper_limit(model, level=0.1, test_stat="q")
        np.testing.assert_allclose(limits.observed[k], single.observed, rtol=1e-7)
        np.testing.assert_allclose(limits.expected[k], single.expected, rtol=1e-7)
        np.testing.assert_allclose(found.z0[k], discovery(model).z0, rtol=1e-7, atol=1e-9)


# -- errors -----------------------------------------------------------------------------------------------------------


def no_poi():
    spec = background()
    spec["measurements"][0]["config"]["poi"] = ""
    return from_pyhf(spec)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: stack_models([]), "there is no model to stack: give at least one"),
        (lambda m: stack_models({}), "there is no model to stack"),
        (lambda m: stack_models(m[0]), "expected a sequence of models or a mapping to models, found HistFactoryModel"),
        (lambda m: stack_models(3), "found int"),
        (lambda m: stack_models([m[0], "x"]), "model 1: expected a model as from_pyhf returns it, found str"),
        (lambda m: stack_models({"a": None}), "model 'a': expected a model"),
        (lambda m: stack_models(m, ["a"]), "1 labels for 5 models: give one for each"),
        (lambda m: stack_models(m[:2], ["a", "a"]), "the label 'a' is given twice: each model needs its own"),
        (lambda m: stack_models(m[:2], ["a", []]), "the label \\[\\] is a list: give a string, number or tuple"),
        (lambda m: stack_models({"a": m[0]}, ["a"]), "labels are given twice"),
        (lambda m: stack_models([m[0], stack_models(m).groups[0]]), "model 1 is a batch of models already"),
        (
            lambda m: stack_models([m[0], from_pyhf(background(), dtype="float32")]),
            "models of different precision cannot be stacked: 0 is float64 and 1 is float32",
        ),
        (lambda m: stack_patches(background(), grid(), ["m300", "m300"]), "the label 'm300' is given twice"),
        (lambda m: stack_patches(background(), grid(), []), "there is no model to stack"),
        (
            lambda m: stack_patches(background(), grid(), patch=[]),
            "patch: a stack takes its patches from the patch set",
        ),
        (lambda m: stack_patches(background(), grid(), normsys="code7"), "normsys='code7'"),
    ],
)
def test_what_cannot_be_stacked(singles, build, message):
    with pytest.raises(ModelError, match=message) as failure:
        build(singles)
    assert "\n" not in str(failure.value)


def test_unknown_patches(stack):
    with pytest.raises(WorkspaceError, match="no patch 'm350'"):
        stack_patches(background(), grid(), ["m300", "m350"])
    with pytest.raises(WorkspaceError, match="no key 'metadata'"):
        stack_patches(background(), {"patches": grid()["patches"], "version": "1.0.0"})
    with pytest.raises(ModelError, match="no model 'm350' in a stack of 5: 'm300', 'm400', 'm500'"):
        stack["m350"]
    for key in (5, -6, [1], 1.5):
        with pytest.raises(ModelError, match="no model"):
            stack[key]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.map(3), ModelError, "3 cannot be called: expected a function of a model"),
        (lambda s: s.map(nll, "text"), ModelError, "argument 0 of map is 'text': expected arrays"),
        (
            lambda s: s.map(nll, 1.0, in_axes=1),
            ModelError,
            "in_axes=1: expected None, 0, or one of these for each of 1",
        ),
        (lambda s: s.map(nll, 1.0, in_axes=(0, 0)), ModelError, "in_axes=\\(0, 0\\)"),
        (lambda s: s.map(nll, 1.0, in_axes="0"), ModelError, "in_axes='0'"),
        (
            lambda s: s.map(nll, np.ones(4), in_axes=0),
            ModelError,
            "argument 0 of map: its leading axis must be that of 5",
        ),
        (lambda s: s.map(nll, 1.0, in_axes=0), ModelError, "its leading axis must be that of 5 models"),
        (
            lambda s: s.fit(np.ones((2, 3))),
            ModelError,
            "data has shape \\(2, 3\\), expected one row for each of 5 models",
        ),
        (lambda s: s.fit(np.ones(4)), ModelError, "data has shape \\(4,\\)"),
        (lambda s: s.fit(-np.ones(3)), ModelError, "counts cannot be negative"),
        (lambda s: s.fit([[1.0, 2.0, np.nan]] * 5), ModelError, "data\\[2\\] is not finite"),
        (lambda s: s.fit("data"), ModelError, "data is 'data': expected numbers"),
        (lambda s: s.hypotest(-1.0), FitError, "qtilde tests signals that cannot be negative"),
        (lambda s: s.hypotest(11.0), FitError, "outside the bounds"),
        (lambda s: s.hypotest(np.nan), FitError, "give a finite number"),
        (lambda s: s.hypotest(1.0, test_stat="p"), FitError, "test_stat='p'"),
        (lambda s: s.hypotest(1.0, np.ones(8)), ModelError, "data has shape \\(8,\\)"),
        (lambda s: s.upper_limit(level=2.0), FitError, "level=2.0"),
        (lambda s: s.to_dataframe(cls=np.ones(3)), ModelError, "column 'cls' has shape \\(3,\\), expected \\(5,\\)"),
    ],
)
def test_what_a_stack_refuses(stack, call, error, message):
    with pytest.raises(error, match=message):
        call(stack)


def test_tests_need_a_parameter_of_interest(singles):
    stack = stack_models([singles[0], no_poi()])
    for call in (stack.hypotest, stack.discovery, stack.upper_limit):
        with pytest.raises(ModelError, match="names no parameter of interest"):
            call()


def test_bounds_of_every_model_count(singles):
    stack = stack_models([singles[0], singles[1].replace_bounds("mu", upper=2.0)])
    with pytest.raises(FitError, match="mu is 3, outside the bounds \\[0, 2\\] of mu"):
        stack.hypotest(3.0)


def test_a_stack_is_a_pytree(stack):
    leaves, structure = jax.tree.flatten(stack)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, ModelStack)
    assert again.labels == stack.labels
    assert {leaf.shape[0] for leaf in leaves} == {5}
