"""Every public function against values that have no place in its arguments: an error of the package's own, or a result.

What is accepted must be what the function is for: nothing that changes or spoils a number passes in silence.
"""

from __future__ import annotations

import datetime
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nextstat_jax as nextstat
from tests import building as b

WRONG = {
    "a word": "x", "no word": "", "bytes": b"x", "half a character": "\ud800", "true": True, "huge": 10**400,
    "complex": 1j, "complex array": np.complex128(1j), "a date": np.datetime64("2020-01-01"),
    "a time": np.timedelta64(3, "s"), "a datetime": datetime.datetime(2020, 1, 1), "NaN": float("nan"),
    "ragged": [1, [2]], "a set": {1, 2}, "an object": object(), "a function": print, "a type": int,
    "words": np.array([["a"]]), "objects": np.array([None]), "dates": np.array([1, 2], "datetime64[s]"),
    "a cube": np.ones((2, 2, 2)), "NaN of JAX": jnp.array(jnp.nan), "an iterator": iter([1]), "masked": np.ma.masked,
}  # fmt: skip
MORE = {
    "nothing": None, "negative": -1, "zero": 0, "a half": 1.5, "minus huge": -(10**400), "infinite": float("inf"),
    "minus infinite": -float("inf"), "an empty list": [], "empty lists": [[]], "a tuple": (1, 2, 3),
    "an empty dict": {}, "a dict": {"a": 1}, "an empty array": np.array([]), "an array": np.array([1.0, 2.0]),
    "ones of JAX": jnp.ones(3), "a range": range(3),
}  # fmt: skip
# What is no mistake: in these arguments the value says something.
MEANT = {
    ("Run", "progress", "true"), ("expected_data", "include_auxdata", "true"), ("SignificanceLoss", "negate", "true"),
    ("soft_histogram", "scores", "a cube"),
}  # fmt: skip


def model_of():
    signal = b.sample("signal", [5.0, 8.0], b.normfactor("mu"))
    background = b.sample("background", [50.0, 40.0], b.normsys("a", 0.9, 1.1), b.shapesys("g", [3.0, 4.0]))
    return nextstat.from_pyhf(b.one_channel([signal, background], [55.0, 48.0]))


MODEL = model_of()
POINT = MODEL.parameter_init()
DOORS = {
    "fit": (nextstat.fit, {"model": MODEL}),
    "profile": (nextstat.profile, {"model": MODEL, "mu": 1.0}),
    "q0": (nextstat.q0, {"model": MODEL}),
    "zmu": (nextstat.zmu, {"model": MODEL, "mu": 1.0}),
    "hypotest": (nextstat.hypotest, {"model": MODEL, "mu": 1.0}),
    "discovery": (nextstat.discovery, {"model": MODEL}),
    "upper_limit": (nextstat.upper_limit, {"model": MODEL}),
    "profile_scan": (nextstat.profile_scan, {"model": MODEL, "parameter": "mu", "values": [0.0, 1.0]}),
    "interval": (nextstat.interval, {"model": MODEL}),
    "contour": (nextstat.contour, {"model": MODEL, "parameters": ("mu", "a"), "n_points": 6}),
    "impacts": (nextstat.interpret.impacts, {"model": MODEL}),
    "importance": (nextstat.interpret.importance, {"model": MODEL}),
    "yields": (nextstat.yields, {"model": MODEL}),
    "goodness_of_fit": (nextstat.goodness_of_fit, {"model": MODEL}),
    "asimov_data": (nextstat.asimov_data, {"model": MODEL}),
    "nll": (MODEL.nll, {"params": POINT}),
    "expected_data": (MODEL.expected_data, {"params": POINT}),
    "with_data": (MODEL.with_data, {"data": [1.0, 2.0]}),
    "with_poi": (MODEL.with_poi, {"name": "a"}),
    "with_fixed": (MODEL.with_fixed, {"values": {"a": 0.0}}),
    "replace_bounds": (MODEL.replace_bounds, {"name": "mu", "lower": 0.0, "upper": 5.0}),
    "template": (MODEL.template, {"sample": "signal"}),
    "with_templates": (MODEL.with_templates, {"templates": {"signal": [1.0, 2.0]}}),
    "from_pyhf": (nextstat.from_pyhf, {"workspace": b.one_channel([b.sample("s", [5.0], b.normfactor("mu"))], [5.0])}),
    "sample_toys": (nextstat.sample_toys, {"model": MODEL, "n_toys": 4}),
    "fit_toys": (nextstat.fit_toys, {"model": MODEL, "n_toys": 4}),
    "SignificanceLoss": (nextstat.SignificanceLoss, {"model": MODEL, "sample": "signal"}),
    "Run": (nextstat.Run, {}),
}
ARGUMENTS = [
    (door, name)
    for door, (function, _) in DOORS.items()
    for name, argument in inspect.signature(function).parameters.items()
    if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
]


REFUSED = object()


def came_of(function, usual, name, value):
    """The result, or ``REFUSED`` where the package said so, in a message of a size to read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jax.block_until_ready(function(**{**usual, name: value}))
    except nextstat.NextstatError as error:
        assert 0 < len(str(error)) < 1500
        return REFUSED


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("door", "name"), ARGUMENTS)
def test_what_has_no_place_is_refused(door, name):
    accepted = [
        what
        for what, value in WRONG.items()
        if (door, name, what) not in MEANT and came_of(*DOORS[door], name, value) is not REFUSED
    ]
    assert accepted == []


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("door", "name"), ARGUMENTS)
def test_what_may_have_a_place_ends_in_a_result_or_an_error_of_ours(door, name):
    for value in MORE.values():
        came_of(*DOORS[door], name, value)
