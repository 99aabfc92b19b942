"""Random workspaces: the loop twin and the package against pyhf, gradients against differences of the twin.

The default run draws the same examples each time. The slow run draws more, from a seed that NEXTSTAT_JAX_SEED sets; a
failure prints the blob with which hypothesis draws the example again.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from numpy.typing import NDArray

import nextstat_jax as nextstat
from tests.reference.loop_twin import LoopTwin
from tests.reference.pyhf_oracle import pyhf_expected, pyhf_logpdf, pyhf_model
from tests.strategies import Case, cases

SEED = int(os.environ.get("NEXTSTAT_JAX_SEED", "20240611"))
# Compilation makes the first call of an example slow, and a workspace takes many draws: neither is a defect.
QUIET = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
}
DEFAULT = settings(max_examples=25, derandomize=True, **QUIET)
FEW = settings(max_examples=15, derandomize=True, **QUIET)
SLOW = settings(max_examples=300, **QUIET)


def open_quietly(workspace: dict[str, Any], **options: Any) -> Any:
    """from_pyhf without its warnings about fixed bins, of which random workspaces are full."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nextstat.from_pyhf(workspace, **options)


def data_of_points(observed: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """The observed data and, for every second point, data of which no entry is zero."""
    return np.array([observed + (i % 2) for i in range(number)])


def comparable(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    """Whether the sign of each rate is beyond rounding, so that both sides agree on which points are valid."""
    rounding = (np.minimum(np.abs(ours), np.abs(theirs)) < 1e-9) & ((ours != 0.0) | (theirs != 0.0))
    return not rounding.any()


def check_twin_against_pyhf(case: Case) -> None:
    twin = case.twin()
    model, observed = pyhf_model(case.workspace, **case.options)
    assert twin.names == model.config.par_names
    assert twin.inits.tolist() == model.config.suggested_init()
    assert twin.bounds.tolist() == [list(b) for b in model.config.suggested_bounds()]
    assert twin.fixed == model.config.suggested_fixed()
    np.testing.assert_allclose(twin.observed, observed, rtol=1e-13)
    for params, data in zip(case.points, data_of_points(observed, len(case.points)), strict=True):
        expected, theirs = twin.expected_data(params), pyhf_expected(model, params)
        np.testing.assert_allclose(expected, theirs, rtol=1e-10, atol=1e-10)
        main = expected[: twin.n_bins]
        if not comparable(main, theirs[: twin.n_bins]):
            continue
        if (main < 0.0).any():
            assert twin.nll(params, data) == math.inf
        else:
            assert twin.nll(params, data) == pytest.approx(-pyhf_logpdf(model, params, data), rel=1e-10, abs=1e-10)


@jax.jit
def expected_and_logpdf(model: Any, points: Any, data: Any) -> tuple[Any, Any]:
    return jax.vmap(model.expected_data)(points), jax.vmap(model.logpdf)(points, data)


def check_model_against_pyhf(case: Case) -> None:
    ours = open_quietly(case.workspace, **case.options)
    theirs, observed = pyhf_model(case.workspace, **case.options)
    parameters = ours.parameters()
    assert ours.parameter_names() == theirs.config.par_names
    assert [p.name for p in parameters] == theirs.config.par_names
    assert [p.fixed for p in parameters] == theirs.config.suggested_fixed()
    assert ours.poi == theirs.config.poi_name
    np.testing.assert_array_equal(ours.parameter_init(), theirs.config.suggested_init())
    np.testing.assert_array_equal(ours.parameter_bounds(), theirs.config.suggested_bounds())
    np.testing.assert_allclose(ours.observed_data, observed, rtol=1e-13)
    data = data_of_points(observed, len(case.points))
    expected, logpdf = expected_and_logpdf(ours, case.points, data)
    for i, params in enumerate(case.points):
        check_point(np.asarray(expected[i]), float(logpdf[i]), theirs, params, data[i])


def check_point(expected: Any, logpdf: float, pyhf_side: Any, params: Any, data: Any) -> None:
    theirs = pyhf_expected(pyhf_side, params)
    np.testing.assert_allclose(expected, theirs, rtol=1e-9, atol=1e-9)
    main = theirs[: pyhf_side.config.nmaindata]
    if not comparable(np.asarray(expected)[: len(main)], main):
        return
    if (main < 0.0).any():
        # pyhf's own value is NaN, or finite where nothing was observed: xlogy(0, negative) is 0.
        assert logpdf == -math.inf
    else:
        assert logpdf == pytest.approx(pyhf_logpdf(pyhf_side, params, data), rel=1e-9, abs=1e-9)


def away_from_kinks(twin: LoopTwin, params: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point moved off alpha = -1, 0, 1 and off the bounds, where one-sided derivatives differ or explode."""
    lo, hi = twin.bounds.T
    inner = np.clip(params, lo + 0.1, hi - 0.1)
    alphas = lo <= -3.0
    near = alphas & (np.abs(inner - np.round(inner)) < 0.02)
    return inner + 0.03 * near


def differences(nll: Callable[[NDArray[np.float64]], float], params: NDArray[np.float64], step: float) -> Any:
    """Central differences of fourth order."""
    gradient = np.zeros(len(params))
    for i in range(len(params)):
        unit = np.zeros(len(params))
        unit[i] = step
        near, far = nll(params + unit) - nll(params - unit), nll(params + 2 * unit) - nll(params - 2 * unit)
        gradient[i] = (8.0 * near - far) / (12.0 * step)
    return gradient


@jax.jit
def gradients(model: Any, points: Any) -> Any:
    return jax.vmap(model.grad_nll)(points)


def check_gradient_against_differences(case: Case) -> None:
    twin = case.twin()
    model = open_quietly(case.workspace, **case.options)
    points = np.array([away_from_kinks(twin, params) for params in case.points])
    ours = np.asarray(gradients(model, points))
    for params, gradient in zip(points, ours, strict=True):
        # Close to an empty bin the differences, not the gradient, lose their digits.
        if twin.expected_main(params).min() > 0.3:
            coarse, fine = (differences(twin.nll, params, step) for step in (1e-3, 5e-4))
            trusted = np.abs(coarse - fine) <= 1e-7 * (1.0 + np.abs(fine))
            scale = 1.0 + np.abs(fine)
            assert (np.abs(gradient - fine)[trusted] <= 1e-6 * scale[trusted]).all()


def reversed_everywhere(spec: dict[str, Any]) -> dict[str, Any]:
    """The same workspace with channels, samples, modifiers, observations and configurations listed backward."""
    channels = [
        {
            "name": channel["name"],
            "samples": [{**s, "modifiers": s["modifiers"][::-1]} for s in channel["samples"][::-1]],
        }
        for channel in spec["channels"][::-1]
    ]
    (measurement,) = spec["measurements"]
    config = {**measurement["config"], "parameters": measurement["config"]["parameters"][::-1]}
    return {
        **spec,
        "channels": channels,
        "observations": spec["observations"][::-1],
        "measurements": [{**measurement, "config": config}],
    }


def check_order_does_not_matter(case: Case) -> None:
    forward = open_quietly(case.workspace, **case.options)
    backward = open_quietly(reversed_everywhere(case.workspace), **case.options)
    assert forward.parameter_names() == backward.parameter_names()
    np.testing.assert_array_equal(forward.observed_data, backward.observed_data)
    data = data_of_points(np.asarray(forward.observed_data), len(case.points))
    for ours, theirs in zip(
        expected_and_logpdf(forward, case.points, data), expected_and_logpdf(backward, case.points, data), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@DEFAULT
@given(cases())
def test_twin_equals_pyhf(case):
    check_twin_against_pyhf(case)


@DEFAULT
@given(cases())
def test_model_equals_pyhf(case):
    check_model_against_pyhf(case)


@pytest.mark.slow
@FEW
@given(cases(number=3, clips=False))
def test_gradient_equals_differences_of_the_twin(case):
    check_gradient_against_differences(case)


@pytest.mark.slow
@FEW
@given(cases())
def test_order_in_the_workspace_does_not_matter(case):
    check_order_does_not_matter(case)


@pytest.mark.slow
@seed(SEED)
@SLOW
@given(cases())
def test_twin_equals_pyhf_on_many(case):
    check_twin_against_pyhf(case)


@pytest.mark.slow
@seed(SEED)
@SLOW
@given(cases())
def test_model_equals_pyhf_on_many(case):
    check_model_against_pyhf(case)


@pytest.mark.slow
@seed(SEED)
@settings(SLOW, max_examples=100)
@given(cases(number=3, clips=False))
def test_gradient_equals_differences_of_the_twin_on_many(case):
    check_gradient_against_differences(case)
