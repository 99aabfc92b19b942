"""Stacks of models against single models: order, groups, one compilation, derivatives, fits and errors."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextstat_jax._base._errors import FitError, ModelError, WorkspaceError
from nextstat_jax._batches import _schedule
from nextstat_jax._inference._asymptotics import asymptotic_test, discovery
from nextstat_jax._inference._limits import upper_limit
from nextstat_jax._inference._stack import ModelStack, stack_models, stack_patches
from nextstat_jax._model._reading import from_pyhf
from tests.building import histosys, normfactor, normsys, sample, workspace
from tests.inference.stacks import MASSES, assert_rows, assert_same_model, background, grid, nll, point


@pytest.fixture(scope="module")
def singles():
    return [point(mass) for mass in MASSES]


@pytest.fixture(scope="module")
def stack():
    return stack_patches(background(), grid())


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


def test_other_parameters_of_interest_are_kept_apart(singles):
    """Members of a group have theirs in one place; what a function asks of it means the same for all of them."""
    stack = stack_models([singles[0], singles[1].with_poi("norm"), singles[2], singles[3].with_poi(None)])
    assert stack.n_groups == 3
    assert [model.poi for model in stack] == ["mu", "norm", "mu", None]


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


# -- fits and tests ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fits_are_at_minima(stack, singles):
    rows = np.stack([np.asarray(model.observed_data[:3]) + k for k, model in enumerate(singles)])
    result = stack.fit(data=rows)
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
    result = stack.hypotest(mus, data=data)
    assert result.cls.shape == (5, 2)
    assert result.cls_expected.shape == (5, 2, 5)
    assert bool(result.converged.all())
    for k in (0, 4):
        single = asymptotic_test(singles[k], mus, data=data)
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
    limits, found = stack.upper_limit(level=0.9, test_stat="q"), stack.discovery()
    assert limits.expected.shape == (5, 5)
    assert (limits.level, limits.test_stat) == (0.9, "q")
    for k, model in enumerate(singles):
        single = upper_limit(model, level=0.9, test_stat="q")
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
            lambda s: s.fit(data=np.ones((2, 3))),
            ModelError,
            "data has shape \\(2, 3\\), expected one row for each of 5 models",
        ),
        (lambda s: s.fit(data=np.ones(4)), ModelError, "data has shape \\(4,\\)"),
        (lambda s: s.fit(data=-np.ones(3)), ModelError, "counts cannot be negative"),
        (lambda s: s.fit(data=[[1.0, 2.0, np.nan]] * 5), ModelError, "data\\[2\\] is not finite"),
        (lambda s: s.fit(data="data"), ModelError, "data is 'data': expected numbers"),
        (lambda s: s.hypotest(-1.0), FitError, "qtilde tests signals that cannot be negative"),
        (lambda s: s.hypotest(11.0), FitError, "outside the bounds"),
        (lambda s: s.hypotest(np.nan), FitError, "give a finite number"),
        (lambda s: s.hypotest(1.0, test_stat="p"), FitError, "test_stat='p'"),
        (lambda s: s.hypotest(1.0, data=np.ones(8)), ModelError, "data has shape \\(8,\\)"),
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
        with pytest.raises(ModelError, match="needs a parameter of interest, and the model has none"):
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
