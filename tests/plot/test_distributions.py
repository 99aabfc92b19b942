"""Pictures of distributions, and the small parts that all pictures share."""

from __future__ import annotations

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax import plot
from nextstat_jax.plot import style
from nextstat_jax.plot._distributions import poisson_interval
from tests.plot.support import changed, make_pulls, make_yields, new_axes, points, words


def stack_of(ax):
    """(baseline, top) of each filled histogram, from the bottom up."""
    return [patch.get_data() for patch in ax.patches if patch.get_fill() and patch.get_linewidth() < 1]


def test_the_stack_adds_up():
    result = make_yields()
    ((main, ratio),) = plot.distributions(result, channels="SR0", prefit=make_yields("pre-fit", scale=0.8))
    parts = stack_of(main)
    total = np.asarray(result.total)[:3]
    np.testing.assert_allclose(parts[-1].values, total)
    np.testing.assert_allclose(parts[0].baseline, 0.0)
    for below, above in pairwise(parts):
        np.testing.assert_allclose(above.baseline, below.values)
    # Signal on top; the others with the largest above.
    heights = [np.sum(part.values - part.baseline) for part in parts]
    assert heights[2] == pytest.approx(6.0) and heights[0] < heights[1]

    places, bars = points(main)
    observed = np.asarray(result.observed)[:3]
    np.testing.assert_allclose(places, np.stack([[1.0, 2.0, 3.0], observed], axis=1))
    # Garwood: the ends have the observed count or more, or less, with probability 15.9 %.
    tail = (1 - 0.6827) / 2
    np.testing.assert_allclose(bars[:, 0, 1], stats.gamma.ppf(tail, observed), rtol=1e-9)
    np.testing.assert_allclose(bars[:, 1, 1], stats.gamma.ppf(1 - tail, observed + 1), rtol=1e-9)
    np.testing.assert_allclose(points(ratio)[0][:, 1], observed / total)
    np.testing.assert_allclose(points(ratio)[1][:, 1, 1], bars[:, 1, 1] / total)

    for ax, middle, error in ((main, total, 0.1 * total), (ratio, np.ones(3), np.full(3, 0.1))):
        (band,) = [one for one in ax.collections if one.get_hatch()]
        inside = band.get_paths()[0].vertices
        for k in range(3):
            ys = inside[np.isclose(inside[:, 0], k + 0.5) | np.isclose(inside[:, 0], k + 1.5)][:, 1]
            assert any(np.isclose(ys, middle[k] + error[k])) and any(np.isclose(ys, middle[k] - error[k]))
    words_ = words(main.get_legend())
    assert words_[0] == "Data" and words_[1] == "signal" and words_[-2:] == ["Uncertainty", "Pre-fit"]
    dashed = [patch for patch in main.patches if patch.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_data().values, make_yields(scale=0.8).total[:3])


def test_all_channels_and_one():
    result = make_yields(bins=(3, 2, 4))
    pairs = plot.distributions(result)
    assert [len(stack_of(main)[0].values) for main, _ in pairs] == [3, 2, 4]
    assert [main.texts[0].get_text() for main, _ in pairs] == ["SR0\nPost-fit", "SR1\nPost-fit", "SR2\nPost-fit"]
    assert [int(stack_of(main)[-1].values.sum()) for main, _ in pairs] == [
        int(result.total[bins].sum()) for bins in result.channel_slices.values()
    ]
    assert [len(pair) for pair in plot.distributions(result, channels=["SR2", "SR0"], axes=new_axes(4))] == [2, 2]
    ((main, _),) = plot.distributions(result, channels=["SR1"])
    assert len(stack_of(main)[0].values) == 2


def test_a_summary_holds_all_bins():
    result = make_yields(bins=(3, 1, 2))
    ((main, ratio),) = plot.distributions(result, summary=True, labels={"SR1": "middle"}, log=True)
    np.testing.assert_allclose(stack_of(main)[-1].values, result.total)
    borders = [line.get_xdata()[0] for line in main.lines if line.get_linestyle() == "--"]
    assert borders == [3.0, 4.0]
    assert [text.get_text() for text in ratio.get_xticklabels()] == ["SR0", "middle", "SR2"]
    np.testing.assert_allclose(ratio.get_xticks(), [1.5, 3.5, 5.0])
    assert main.get_yscale() == "log"
    ((part, _),) = plot.distributions(result, channels=["SR2", "SR0"], summary=True)
    np.testing.assert_allclose(stack_of(part)[-1].values, np.concatenate([result.total[4:], result.total[:3]]))


def test_edges_and_labels():
    edges = {"SR0": [0.0, 10.0, 15.0, 40.0]}
    ((main, ratio),) = plot.distributions(
        make_yields(),
        channels="SR0",
        axes=new_axes(2),
        edges=edges,
        labels={"signal": "$S$", "SR0": "Signal region"},
        xlabel="$m$ [GeV]",
    )
    np.testing.assert_array_equal(stack_of(main)[0].edges, edges["SR0"])
    np.testing.assert_allclose(points(main)[0][:, 0], [5.0, 12.5, 27.5])
    assert ratio.get_xlabel() == "$m$ [GeV]" and ratio.get_xlim() == (0.0, 40.0)
    assert "$S$" in words(main.get_legend()) and main.texts[0].get_text().startswith("Signal region")


def test_order_and_merging():
    result = make_yields()
    order = ["signal", "background_2", "background_1"]
    ((main, _),) = plot.distributions(result, channels="SR0", order=order)
    assert words(main.get_legend())[1:4] == order[::-1]
    np.testing.assert_allclose(stack_of(main)[0].values, 2.0)
    ((main, _),) = plot.distributions(result, channels="SR0", max_samples=2)
    assert words(main.get_legend())[1:3] == ["signal", "Other"]
    np.testing.assert_allclose(stack_of(main)[-1].values, result.total[:3])
    ((with_all, _),) = plot.distributions(result, channels="SR1")
    color = {text.get_text(): patch.get_facecolor() for text, patch in legend_patches(with_all)}
    assert {text.get_text(): patch.get_facecolor() for text, patch in legend_patches(main)}["signal"] == color["signal"]
    assert len({to_hex(one) for one in color.values()}) == 3


def legend_patches(ax):
    legend = ax.get_legend()
    pairs = zip(legend.get_texts(), legend.legend_handles, strict=True)
    return [(text, handle) for text, handle in pairs if text.get_text() in ("signal", "background_1", "background_2")]


def test_no_data():
    ((main, ratio),) = plot.distributions(make_yields(), channels="SR0", data=False)
    assert "Data" not in words(main.get_legend()) and not main.containers
    assert ratio.get_ylabel() == "Ratio"


def test_a_fit_without_covariance_has_no_band():
    result = make_yields()
    missing = changed(result, total_uncertainties=jnp.full(5, jnp.nan))
    ((main, ratio),) = plot.distributions(missing, channels="SR0")
    assert "Uncertainty" not in words(main.get_legend())
    assert not [one for ax in (main, ratio) for one in ax.collections if one.get_hatch()]
    unknown = changed(make_pulls(3), constraint=jnp.full(3, jnp.nan))
    assert len(points(plot.pulls(unknown, top_n=3)[0])[0]) == 3


def test_what_lies_outside_of_the_ratio_panel():
    result = make_yields(observed=[500.0, 0.0, 40.0, 40.0, 40.0])
    ((main, ratio),) = plot.distributions(result, channels="SR0")
    up, down = (np.stack(line.get_data(), 1) for line in ratio.lines if line.get_marker() in ("^", "v"))
    low, high = ratio.get_ylim()
    assert up[:, 0].tolist() == [1.0] and low < up[0, 1] < high and len(down) == 0
    # A bin without counts has an upper end of 1.84.
    assert points(main)[1][1, 1, 1] == pytest.approx(1.841, abs=1e-3)
    assert points(main)[1][1, 0, 1] == 0.0


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("summary", [False, True])
def test_the_legend_covers_no_data(log, summary):
    result = make_yields(bins=(6, 5), observed=np.linspace(20.0, 300.0, 11))
    ((main, _),) = plot.distributions(result, channels=None if summary else "SR1", summary=summary, log=log)
    main.figure.draw_without_rendering()
    places, bars = points(main)
    ends = main.transData.transform(bars[:, 1])
    covers = [main.get_legend().get_window_extent(), main.texts[0].get_window_extent()]
    assert not any(box.contains(*end) for box in covers for end in ends)
    assert len(places) == (11 if summary else 5)


def test_wrong_distributions():
    result = make_yields()
    with pytest.raises(nextstat.FitError, match="there is no channel 'CR': SR0, SR1"):
        plot.distributions(result, channels="CR")
    with pytest.raises(nextstat.FitError, match="the list of channels is empty"):
        plot.distributions(result, channels=[])
    with pytest.raises(nextstat.FitError, match="order leaves out signal"):
        plot.distributions(result, order=["background_1", "background_2"])
    with pytest.raises(nextstat.FitError, match="there is no sample 'top'"):
        plot.distributions(result, order=["top"])
    with pytest.raises(nextstat.FitError, match="edges of channel 'SR0': expected 4 increasing numbers"):
        plot.distributions(result, edges={"SR0": [0, 1]})
    with pytest.raises(nextstat.FitError, match="edges for 'SR1', which is not drawn"):
        plot.distributions(result, channels="SR0", edges={"SR1": [0, 1, 2]})
    with pytest.raises(nextstat.FitError, match="leave out edges"):
        plot.distributions(result, summary=True, edges={"SR1": [0, 1, 2]})
    with pytest.raises(nextstat.FitError, match="prefit belongs to another model"):
        plot.distributions(result, prefit=make_yields(bins=(3, 1, 1)))
    with pytest.raises(nextstat.FitError, match="max_samples=0"):
        plot.distributions(result, max_samples=0)
    with pytest.raises(nextstat.FitError, match="2 axes given: .* needs 4"):
        plot.distributions(result, axes=new_axes(2))


def test_garwood_intervals_of_counts():
    counts = np.array([0.0, 1.0, 4.0, 100.0, 2.5])
    lower, upper = poisson_interval(counts)
    tail = (1 - 0.6827) / 2
    for n, low, high in zip(counts[:4], lower[:4], upper[:4], strict=True):
        assert stats.poisson.cdf(n, high) == pytest.approx(tail, rel=1e-9)
        if n:
            assert stats.poisson.sf(n - 1, low) == pytest.approx(tail, rel=1e-9)
    assert lower[0] == 0.0 and lower[2] > lower[4] > lower[1]


def test_dollars_in_names_are_no_formula():
    assert style.label_of("a$b$", None) == r"a\$b\$"
    assert style.label_of("a$b$", {"a$b$": "$b$"}) == "$b$"
    assert to_rgba(style.GREEN) and len(set(style.PALETTE)) == 10
