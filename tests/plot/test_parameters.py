"""Pictures of parameters: pulls, ranking, correlations."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

import nextstat_jax as nextstat
from nextstat_jax import plot
from nextstat_jax.plot import style
from tests.plot.support import (
    boxes_overlap,
    changed,
    make_fit,
    make_impacts,
    make_importance,
    make_pulls,
    new_axes,
    points,
)


def test_pulls_show_pulls_and_constraints():
    result = make_pulls(6, fixed=(2,))
    (ax,) = plot.pulls(result, labels={"alpha_0": r"$\alpha_0$"})
    kept = [0, 1, 3, 4, 5]
    places, bars = points(ax)
    np.testing.assert_allclose(places, np.stack([result.pull[jnp.array(kept)], np.arange(5.0)], axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.diff(bars[:, :, 0])[:, 0], 2.0 * np.asarray(result.constraint)[kept], rtol=1e-6)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [r"$\alpha_0$", "alpha_1", "alpha_3", "alpha_4", "alpha_5"]
    # The first is on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    bands = {to_hex(p.get_facecolor()): (p.get_x(), p.get_x() + p.get_width()) for p in ax.patches}
    assert bands == {style.GREEN: (-1.0, 1.0), style.YELLOW: (-2.0, 2.0)}


def test_pulls_chosen_and_in_columns():
    result = make_pulls(7)
    order = np.argsort(-np.abs(result.pull))
    (ax,) = plot.pulls(result, top_n=3)
    assert [text.get_text() for text in ax.get_yticklabels()] == [result.names[k] for k in order[:3]]
    left, right = plot.pulls(result, columns=2)
    names = [text.get_text() for one in (left, right) for text in one.get_yticklabels()]
    assert names == list(result.names)
    assert left.get_xlim() == right.get_xlim()
    (ax,) = plot.pulls(result, exclude=("*_[1-3]", "alpha_6"))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["alpha_0", "alpha_4", "alpha_5"]
    assert len(plot.pulls(result, exclude="*_0")[0].get_yticklabels()) == 6


@pytest.mark.parametrize("number", [1, 40, 200])
def test_names_of_many_parameters_do_not_overlap(number):
    assert not boxes_overlap(plot.pulls(make_pulls(number))[0])


def test_a_large_pull_stays_in_the_frame():
    result = changed(make_pulls(3), pull=jnp.asarray([0.0, -7.0, 1.0]))
    low, high = plot.pulls(result)[0].get_xlim()
    assert low < -7.0 - float(result.constraint[1]) and high == -low


def test_wrong_options_of_pulls():
    with pytest.raises(nextstat.FitError, match="no pulls to draw"):
        plot.pulls(make_pulls(2, fixed=(0, 1)))
    with pytest.raises(nextstat.FitError, match="top_n=0"):
        plot.pulls(make_pulls(), top_n=0)
    with pytest.raises(nextstat.FitError, match="columns=9: expected between 1 and 6"):
        plot.pulls(make_pulls(), columns=9)
    with pytest.raises(nextstat.FitError, match="1 axes given: .* 2 columns needs 2"):
        plot.pulls(make_pulls(), columns=2, axes=new_axes()[0])


def bars_by_color(ax):
    """Widths of bars from top to bottom, by (color, filled)."""
    found = {}
    for container in ax.containers:
        first = container[0]
        filled = first.get_facecolor()[3] > 0
        color = to_hex(first.get_facecolor() if filled else first.get_edgecolor())
        found[color, filled] = [patch.get_width() for patch in container]
    return found


def test_ranking_shows_impacts_in_order():
    result = make_impacts()
    bars, pulls = plot.ranking(result, top_n=4)
    order = [1, 3, 4, 0]
    assert [text.get_text() for text in bars.get_yticklabels()] == [f"alpha_{k}" for k in order]
    fields = {
        (style.BLUE, True): "post_up",
        (style.DARK_BLUE, False): "pre_up",
        (style.ORANGE, True): "post_down",
        (style.DARK_ORANGE, False): "pre_down",
    }
    drawn = bars_by_color(bars)
    assert set(drawn) == set(fields)
    for key, field in fields.items():
        np.testing.assert_allclose(drawn[key], np.asarray(getattr(result, field))[order], rtol=1e-6)
    # The last parameter has no constraint, hence no pull.
    places, lengths = points(pulls)
    np.testing.assert_allclose(places[:, 1], [0, 1, 3])
    np.testing.assert_allclose(places[:, 0], np.asarray(result.pull)[[1, 3, 0]], atol=1e-7)
    np.testing.assert_allclose(np.diff(lengths[:, :, 0])[:, 0], 2 * np.asarray(result.constraint)[[1, 3, 0]], rtol=1e-6)
    assert bars.xaxis.get_label_position() == "top" and pulls.xaxis.get_label_position() == "bottom"
    assert bars.get_xlabel() == r"$\Delta\,$$\mu$"
    assert not boxes_overlap(bars)


def test_the_legend_of_a_ranking_covers_no_bar():
    for number in (1, 5, 40):
        bars, pulls = plot.ranking(make_impacts(max(number, 2)), top_n=number)
        bars.figure.draw_without_rendering()
        legend = pulls.get_legend().get_window_extent()
        assert not any(patch.get_window_extent().overlaps(legend) for patch in bars.patches)


def test_ranking_of_dictionaries_keeps_their_order():
    rows = [
        {"name": "b", "delta_mu_up": 0.1, "delta_mu_down": -0.2, "pull": 0.5, "constraint": 0.9},
        {"name": "a", "delta_mu_up": 0.4, "delta_mu_down": -0.3, "pull": None, "constraint": None, "converged": False},
    ]
    bars, pulls = plot.ranking(rows, labels={"b": r"$\beta$"}, poi="XS")
    assert [text.get_text() for text in bars.get_yticklabels()] == [r"$\beta$", "a (not converged)"]
    drawn = bars_by_color(bars)
    np.testing.assert_allclose(drawn[style.BLUE, True], [0.1, 0.4])
    np.testing.assert_allclose(drawn[style.ORANGE, True], [-0.2, -0.3])
    np.testing.assert_allclose(points(pulls)[0], [[0.5, 0.0]])
    assert bars.get_xlabel() == r"$\Delta\,$XS"
    bars, _ = plot.ranking([{**row, "poi": "width"} for row in rows])
    assert bars.get_xlabel() == r"$\Delta\,$width"


def test_a_fit_that_failed_is_marked():
    bars, _ = plot.ranking(make_impacts(status=2))
    assert [text.get_text() for text in bars.get_yticklabels()].count("alpha_0 (not converged)") == 1


def test_wrong_rankings():
    with pytest.raises(nextstat.FitError, match="a row of the ranking lacks delta_mu_down"):
        plot.ranking([{"name": "a", "delta_mu_up": 0.1}])
    with pytest.raises(nextstat.FitError, match="no impacts to draw"):
        plot.ranking([])
    with pytest.raises(nextstat.FitError, match="top_n=-1"):
        plot.ranking(make_impacts(), top_n=-1)


def test_correlation_shows_strong_ones_only():
    ax = plot.correlation(make_fit())
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), [[1, -0.8, 0], [-0.8, 1, 0.25], [0, 0.25, 1]], atol=1e-7)
    assert [text.get_text() for text in ax.get_yticklabels()] == [r"$\mu$", r"alpha_\$5", "beta"]
    numbers = {text.get_position(): text.get_text() for text in ax.texts}
    assert numbers[0, 1] == "\N{MINUS SIGN}.80" and numbers[2, 1] == ".25" and numbers[2, 0] == "0"
    assert numbers[1, 1] == "1.00"
    assert plot.correlation(make_fit(), threshold=0.5).images[0].get_array().shape == (2, 2)
    assert plot.correlation(make_fit(), top_n=2).images[0].get_array().shape == (2, 2)
    assert plot.correlation(make_fit(), threshold=0.0).images[0].get_array().shape == (4, 4)
    with pytest.raises(nextstat.FitError, match="no correlation reaches 0.9"):
        plot.correlation(make_fit(), threshold=0.9)
    with pytest.raises(nextstat.FitError, match="threshold=-1"):
        plot.correlation(make_fit(), threshold=-1.0)


def test_importance_shows_systematics_in_order():
    ax = plot.importance(make_importance(), top_n=2, labels={"alpha_1": "b-tagging"})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b-tagging", "alpha_2"]
    assert bars_by_color(ax) == {(style.ORANGE, True): pytest.approx([-0.5, 0.2])}
    assert [to_hex(patch.get_facecolor()) for patch in ax.patches] == [style.ORANGE, style.BLUE]


def test_importance_of_a_sample():
    for channel, expected in ((None, [-0.02, -0.01, -0.03]), ("CR", [-0.03])):
        ax = plot.importance(make_importance(), sample="background", channel=channel)
        np.testing.assert_allclose(ax.patches[0].get_data().values, expected, rtol=1e-6)
    nothing = replace(make_importance(), systematics=jnp.zeros(0), names=())
    with pytest.raises(nextstat.FitError, match="no systematics to draw"):
        plot.importance(nothing)
