"""Pictures of scans, intervals and contours."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax import plot
from tests.plot.support import changed, line_of, make_contour, make_interval, make_scan, words


def test_scan_shows_the_curve_and_levels():
    result = make_scan()
    ax = plot.scan(result, interval=[make_interval(), make_interval(0.95)], level=(0.6827, 0.9))
    x = np.sort(result.values[0])
    np.testing.assert_allclose(line_of(ax, "Profile likelihood"), np.stack([x, (x - 1) ** 2], axis=1), atol=1e-6)
    heights = [float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(heights, stats.chi2.ppf([0.6827, 0.9], 1), rtol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["68% CL", "90% CL"]
    assert words(ax.get_legend())[1] == r"$\mu$ = $1.0^{+1.0}_{-1.0}$ (68% CL)"
    # The ends of the interval reach up to the curve.
    ends = [line.get_data() for line in ax.lines if line.get_linestyle() == "--"]
    assert [float(end[0][0]) for end in ends] == [0.0, 2.0, 0.0, 2.0]
    np.testing.assert_allclose([float(end[1][1]) for end in ends], 1.0, rtol=1e-6)


def test_several_scans_and_open_intervals():
    result = make_scan()
    ax = plot.scan({"Observed": result, "Expected": result}, labels={"mu": "strength"})
    assert words(ax.get_legend()) == ["Observed", "Expected"] and ax.get_xlabel() == "strength"
    assert words(plot.scan(result, label="Data").get_legend()) == ["Data"]
    open_below = changed(make_interval(), lower=jnp.asarray(jnp.nan))
    assert words(plot.scan(result, interval=open_below).get_legend())[1] == r"$\mu$ = $1.0^{+1.0}_{-?}$ (68% CL)"


def test_wrong_scans():
    with pytest.raises(nextstat.FitError, match="a scan of 2 parameters: use plot.contour"):
        plot.scan(make_scan(two=True))
    with pytest.raises(nextstat.FitError, match="a scan of 1 parameter: use plot.scan"):
        plot.contour(make_scan())
    other = make_scan(parameters=("nu",))
    with pytest.raises(nextstat.FitError, match="scans of different parameters in one picture: mu, nu"):
        plot.scan({"a": make_scan(), "b": other})
    with pytest.raises(nextstat.FitError, match="level=95.0: expected a number between 0 and 1"):
        plot.scan(make_scan(), level=95.0)


def test_contours_close():
    result = make_contour()
    ax = plot.contour(result)
    curves = [np.stack(line.get_data(), axis=1) for line in ax.lines if len(line.get_xdata()) == 21]
    for curve, expected in zip(curves, np.asarray(result.points), strict=True):
        np.testing.assert_allclose(curve[:-1], expected, rtol=1e-6)
        np.testing.assert_array_equal(curve[0], curve[-1])
    np.testing.assert_allclose(line_of(ax, "Best fit"), [[0.0, 0.0]])
    assert words(ax.get_legend()) == ["68% CL", "95% CL", "Best fit"]


def test_contours_of_a_scan():
    ax = plot.contour(make_scan(two=True), level=(0.4, 0.9999))
    assert ax.get_xlabel() == r"$\mu$" and ax.get_ylabel() == "alpha"
    # The grid does not reach the second level; the first is at -2 ln(1 - 0.4) in a paraboloid, up to its coarse grid.
    (drawn,) = ax.collections
    np.testing.assert_allclose(drawn.levels, [-2 * np.log(0.6)], rtol=1e-9)
    (path,) = drawn.get_paths()
    radius = np.hypot(path.vertices[:, 0] - 1.0, path.vertices[:, 1])
    np.testing.assert_allclose(radius, np.sqrt(-2 * np.log(0.6)), atol=0.15)
    np.testing.assert_allclose(line_of(ax, "Best fit"), [[1.0, 0.0]])
