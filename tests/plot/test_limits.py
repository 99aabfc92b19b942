"""Pictures of hypothesis tests: CLs, limits, exclusions, toys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

import nextstat_jax as nextstat
from nextstat_jax import plot
from nextstat_jax.plot import style
from tests.plot.support import changed, line_of, make_hypotest, make_limit, make_toys, words


def band_of(ax, color):
    """Lower and upper edge of a filled band at its points."""
    (band,) = [band for band in ax.collections if to_hex(band.get_facecolor()[0]) == color]
    (path,) = band.get_paths()
    ends: dict[float, list[float]] = {}
    for x, y in path.vertices:
        ends.setdefault(float(x), []).append(float(y))
    return {x: (min(y), max(y)) for x, y in ends.items()}


def test_brazil_shows_cls_and_bands():
    result = make_hypotest()
    ax = plot.brazil(result, limit=make_limit(), level=0.9)
    mu = np.sort(result.mu)
    np.testing.assert_allclose(
        line_of(ax, r"Observed $\mathrm{CL_s}$"), np.stack([mu, np.exp(-1.3 * mu)], 1), rtol=1e-6
    )
    np.testing.assert_allclose(
        line_of(ax, r"Expected $\mathrm{CL_s}$"), np.stack([mu, np.exp(-1.5 * mu)], 1), rtol=1e-6
    )
    for color, (fast, slow) in ((style.GREEN, (2.0, 1.0)), (style.YELLOW, (3.0, 0.6))):
        for x, ends in band_of(ax, color).items():
            np.testing.assert_allclose(ends, (np.exp(-fast * x), np.exp(-slow * x)), rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Observed limit 1.1")[:, 0], 1.1, rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Expected limit 1"), [[1.0, 0.0], [1.0, 0.1]], rtol=1e-6)
    assert any(np.allclose(line.get_ydata(), 0.1) for line in ax.lines)
    assert plot.brazil(result, log=True).get_yscale() == "log"
    assert plot.brazil(result, xlabel="strength").get_xlabel() == "strength"


def test_a_test_of_one_value_is_no_curve():
    with pytest.raises(nextstat.FitError, match="a single value makes no picture"):
        plot.brazil(make_hypotest(mu=1.0))
    with pytest.raises(nextstat.FitError, match="1 point makes no curve"):
        plot.brazil(make_hypotest(mu=[1.0]))


def test_limits_follow_the_masses():
    mass, limit = np.array([300.0, 100.0, 200.0, 400.0]), make_limit((4,))
    ax = plot.limits(limit, mass, xlabel="m")
    order = np.argsort(mass)
    np.testing.assert_allclose(line_of(ax, "Observed limit"), np.stack([mass, limit.observed], 1)[order], rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Expected limit")[:, 1], np.asarray(limit.expected)[order, 2], rtol=1e-6)
    for color, (low, high) in ((style.GREEN, (1, 3)), (style.YELLOW, (0, 4))):
        band = band_of(ax, color)
        for x, row in zip(mass, np.asarray(limit.expected), strict=True):
            np.testing.assert_allclose(band[x], (row[low], row[high]), rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, r"$\mu$ = 1")[:, 1], 1.0)
    assert ax.get_xlabel() == "m" and ax.get_ylabel() == r"95% CL upper limit on $\mu$"


def test_limits_on_cross_sections():
    mass, limit = np.arange(4.0), make_limit((4,))
    ax = plot.limits(limit, mass, scale=mass + 1, reference=mass + 1, reference_label="NLO", log=True, observed=False)
    np.testing.assert_allclose(line_of(ax, "Expected limit")[:, 1], (mass + 1) * limit.expected[:, 2], rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "NLO")[:, 1], mass + 1)
    assert ax.get_yscale() == "log"
    assert words(ax.get_legend())[0] == "Expected limit"
    # Without the prediction there is nothing to compare cross-sections with.
    assert words(plot.limits(limit, mass, scale=2.0).get_legend())[-1] == r"Expected $\pm 2\sigma$"


def test_wrong_limits():
    with pytest.raises(nextstat.FitError, match=r"x has shape \(3,\), but there are 4 limits"):
        plot.limits(make_limit((4,)), np.arange(3.0))
    with pytest.raises(nextstat.FitError, match=r"reference has shape \(2,\)"):
        plot.limits(make_limit((4,)), np.arange(4.0), reference=[1.0, 2.0])
    with pytest.raises(nextstat.FitError, match="a single value makes no picture"):
        plot.limits(make_limit(), [1.0])
    none = changed(make_limit((4,)), expected=jnp.full((4, 5), jnp.nan))
    with pytest.raises(nextstat.FitError, match="there is no finite limit to draw"):
        plot.limits(none, np.arange(4.0))


def test_a_limit_that_was_not_found_is_left_out():
    limit = make_limit((4,))
    limit = changed(limit, observed=limit.observed.at[1].set(jnp.nan))
    for log in (False, True):
        ax = plot.limits(limit, np.arange(4.0), log=log)
        assert np.isnan(line_of(ax, "Observed limit")[:, 1]).tolist() == [False, True, False, False]
        assert np.isfinite(ax.get_ylim()).all()
    plot.exclusion(limit, np.array([0, 1, 0, 1.0]), np.array([0, 0, 1, 1.0]))


def test_a_legend_stands_where_less_is_drawn():
    # Limits rise with the mass here, CLs falls with mu.
    def place(ax):
        ax.figure.draw_without_rendering()
        box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
        return "left" if box.x1 < 0.6 else "right"

    assert place(plot.limits(make_limit((4,)), np.arange(4.0))) == "left"
    assert place(plot.limits(make_limit((4,)), -np.arange(4.0))) == "right"
    assert place(plot.brazil(make_hypotest())) == "right"


def test_the_edge_of_an_exclusion_is_a_limit_of_one():
    # log(limit) is linear in both masses, so that the interpolation on triangles is exact.
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 4, 5), np.linspace(0, 4, 5)))
    height = 0.7 * (x + 0.5 * y - 2.2)
    spread = np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
    observed, expected = jnp.asarray(np.exp(height + 0.1)), jnp.asarray(np.exp(height[:, None] + spread))
    limit = changed(make_limit((4,)), observed=observed, expected=expected)
    ax = plot.exclusion(limit, x, y, xlabel="m1", ylabel="m2")
    edges = {to_hex(c.get_edgecolor()[0]) + str(c.get_linewidth()[0]): c for c in ax.collections}
    for key, shift in ((style.RED + "2.0", 0.1), ("#0000001.8", 0.0)):
        (path,) = edges[key].get_paths()
        at = path.vertices
        np.testing.assert_allclose(0.7 * (at[:, 0] + 0.5 * at[:, 1] - 2.2) + shift, 0.0, atol=1e-9)
    excluded = line_of(ax, "Excluded at 95% CL")
    assert len(excluded) == int((height + 0.1 < 0).sum())
    assert len(line_of(ax, "Not excluded")) == 25 - len(excluded)
    assert ax.texts[0].get_text() == f"{np.exp(height[0] + 0.1):.2g}"
    assert len(plot.exclusion(limit, x, y, numbers=False).texts) == 0


def test_exclusions_without_an_edge():
    # All excluded, and signals on a line: points only, and no warning.
    far = changed(make_limit((4,)), observed=jnp.full(4, 0.1), expected=jnp.full((4, 5), 0.1))
    x = np.arange(4.0)
    for ax in (plot.exclusion(far, x, x**2), plot.exclusion(make_limit((4,)), x, 2 * x)):
        assert "Observed limit" not in words(ax.get_legend())


@pytest.mark.parametrize("log", [True, False])
def test_toys_are_histograms(log):
    result = make_toys()
    edges = np.linspace(0, 20, 11)
    ax = plot.toys(result, bins=edges, log=log, label="$q$")
    drawn = {patch.get_label(): patch.get_data() for patch in ax.patches if not patch.get_label().startswith("_")}
    signal, background = np.asarray(result.distributions.signal)[3:], np.asarray(result.distributions.background)
    for label, values in (
        (r"$\mu$ = 1 (797 toys)", signal),
        (r"$\mu$ = 0 (799 toys)", background[np.isfinite(background)]),
    ):
        np.testing.assert_allclose(drawn[label].values, np.histogram(values, edges)[0] / len(values))
        np.testing.assert_array_equal(drawn[label].edges, edges)
    np.testing.assert_allclose(line_of(ax, "Observed 4")[:, 0], 4.0)
    assert ax.get_yscale() == ("log" if log else "linear") and ax.get_xlabel() == "$q$"
    assert plot.toys(result, bins=7).patches[0].get_data().values.shape == (7,)


def test_the_hypotheses_of_a_discovery():
    ax = plot.toys(make_toys("q0", 0.0))
    assert [word.split(" (")[0] for word in words(ax.get_legend())] == [r"$\mu$ = 0", r"$\mu$ = 1", "Observed 4"]
    assert ax.get_xlabel() == "$q_0$"


def test_toys_of_several_values():
    several = jax.tree.map(lambda x: jnp.stack([x, x]), make_toys())
    several = changed(several, mu=jnp.asarray([0.5, 1.0]), statistic=jnp.asarray([2.0, 4.0]))
    assert words(plot.toys(several, mu=0.5).get_legend())[-1] == "Observed 2"
    with pytest.raises(nextstat.FitError, match="a test of 2 values, or a batch: say which one"):
        plot.toys(several)
    with pytest.raises(nextstat.FitError, match="mu=0.7 was not tested: 0.5, 1"):
        plot.toys(several, mu=0.7)


def test_a_limit_brings_its_level():
    ax = plot.brazil(make_hypotest(), limit=make_limit(level=0.8))
    np.testing.assert_allclose(line_of(ax, "Expected limit 1"), [[1.0, 0.0], [1.0, 0.2]], rtol=1e-6)
    assert [text.get_text() for text in ax.texts] == ["0.2"]
    assert [text.get_text() for text in plot.brazil(make_hypotest()).texts] == ["0.05"]
    with pytest.raises(nextstat.FitError, match="level=95: expected a number between 0 and 1"):
        plot.brazil(make_hypotest(), level=95)


def test_the_level_of_limits_is_named():
    limit = make_limit((4,), level=0.9)
    assert plot.limits(limit, np.arange(4.0)).get_ylabel() == r"90% CL upper limit on $\mu$"
    ax = plot.exclusion(limit, np.arange(4.0), np.arange(4.0))
    assert words(ax.get_legend())[0] == "Excluded at 90% CL"


def test_a_scale_for_each_limit():
    with pytest.raises(nextstat.FitError, match=r"scale has shape \(2,\), but there are 4 limits"):
        plot.limits(make_limit((4,)), np.arange(4.0), scale=[1.0, 2.0])


def test_no_toys():
    with pytest.raises(nextstat.FitError, match="make it with calculator='toys'"):
        plot.toys(make_hypotest())
    test, none = make_toys(), jnp.full(800, 2)
    made = changed(test.distributions, signal_status=none, background_status=none)
    with pytest.raises(nextstat.FitError, match="all their fits failed"):
        plot.toys(changed(test, distributions=made))
