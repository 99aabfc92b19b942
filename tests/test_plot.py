"""Pictures: the artists hold the right numbers, given axes are used, nothing global changes, wrong input is named."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from scipy import stats

import nextstat_jax as nextstat
from nextstat_jax import plot
from nextstat_jax._inference._asymptotics import HypoTest
from nextstat_jax._inference._fit import FitResult
from nextstat_jax._inference._goodness import Pulls
from nextstat_jax._inference._impacts import Impacts
from nextstat_jax._inference._intervals import Contour, Interval
from nextstat_jax._inference._limits import UpperLimit
from nextstat_jax._inference._scan import ScanResult
from nextstat_jax._inference._yields import Yields
from nextstat_jax._toys._tests import ToyDistributions, ToyHypoTest
from nextstat_jax.plot import _style

ROOT = Path(__file__).resolve().parent.parent
ZERO = jnp.asarray(0)


# Results with invented numbers, so that no fit is needed.


def make_pulls(n=6, fixed=()):
    rng = np.random.default_rng(n)
    pull, constraint = rng.normal(0, 0.8, n), rng.uniform(0.3, 1.0, n)
    ones = jnp.ones(n)
    return Pulls(
        value=jnp.asarray(pull),
        uncertainty=jnp.asarray(constraint),
        center=0.0 * ones,
        width=ones,
        pull=jnp.asarray(pull),
        constraint=jnp.asarray(constraint),
        fixed=jnp.asarray([k in fixed for k in range(n)]),
        names=tuple(f"alpha_{k}" for k in range(n)),
    )


def make_impacts(n=5, status=0):
    size = np.array([0.1, -0.3, 0.05, 0.2, -0.15, *np.linspace(0.04, 0.01, 40)])[:n]
    return Impacts(
        pre_up=jnp.asarray(1.2 * size),
        pre_down=jnp.asarray(-1.3 * size),
        post_up=jnp.asarray(size),
        post_down=jnp.asarray(-0.9 * size),
        pull=jnp.asarray(np.append(np.linspace(-1, 1, n - 1), np.nan)),
        constraint=jnp.asarray(np.append(np.linspace(0.5, 1, n - 1), np.nan)),
        mu_hat=jnp.asarray(1.0),
        mu_uncertainty=jnp.asarray(0.4),
        status=jnp.zeros((n, 4), int).at[0, 0].set(status),
        names=tuple(f"alpha_{k}" for k in range(n)),
        parameter="mu",
        method="refit",
    )


def make_fit():
    correlation = np.eye(4)
    correlation[0, 1] = correlation[1, 0] = -0.8
    correlation[1, 2] = correlation[2, 1] = 0.25
    width = np.array([1.0, 2.0, 0.5, 0.1])
    none = jnp.zeros(4, bool)
    return FitResult(
        params=jnp.zeros(4),
        covariance=jnp.asarray(correlation * np.outer(width, width)),
        nll=jnp.asarray(0.0),
        gradient=jnp.zeros(4),
        edm=jnp.asarray(0.0),
        on_bound=none,
        fixed=none,
        status=ZERO,
        n_iter=ZERO,
        start_moved=jnp.asarray(False),
        parameter_names=("mu", "alpha_$5", "beta", "alone"),
        poi_index=0,
    )


def make_hypotest():
    mu = jnp.asarray([2.0, 0.0, 1.0, 3.0])
    observed = jnp.exp(-1.3 * mu)
    bands = jnp.exp(-mu[:, None] * jnp.asarray([3.0, 2.0, 1.5, 1.0, 0.6]))
    zero = jnp.zeros(4)
    return HypoTest(
        mu, observed, zero, zero, bands, bands, bands, zero, zero, zero, jnp.zeros(4, int), "qtilde", "asymptotic", "mu"
    )


def make_limit(shape=()):
    bands = jnp.broadcast_to(jnp.asarray([0.5, 0.7, 1.0, 1.4, 1.9]), (*shape, 5))
    if shape:
        growing = jnp.linspace(0.5, 2.5, shape[0])
        one = UpperLimit(jnp.asarray(1.1), bands[0], ZERO * 1.0, jnp.zeros(6, int), ZERO, 0.05, "mu", "qtilde")
        return eqx.tree_at(lambda u: (u.observed, u.expected), one, (1.1 * growing, growing[:, None] * bands))
    return UpperLimit(jnp.asarray(1.1), bands, ZERO * 1.0, jnp.zeros(6, int), ZERO, 0.05, "mu", "qtilde")


def make_scan(two=False):
    x = jnp.asarray([2.0, -1.0, 0.0, 1.0, 3.0, 4.0])
    y = jnp.linspace(-2.0, 2.0, 5)
    if not two:
        nll = 0.5 * (x - 1.0) ** 2
        return ScanResult((x,), nll, jnp.zeros((6, 1)), jnp.zeros(6, int), jnp.ones(1), jnp.asarray(0.0), ZERO, ("mu",))
    nll = 0.5 * ((x[:, None] - 1.0) ** 2 + y[None] ** 2)
    best = jnp.asarray([1.0, 0.0])
    zeros = jnp.zeros((6, 5), int)
    return ScanResult((x, y), nll, jnp.zeros((6, 5, 2)), zeros, best, jnp.asarray(0.0), ZERO, ("mu", "alpha"))


def make_interval(level=0.6827):
    return Interval(*(jnp.asarray(x) for x in (1.0, 0.0, 2.0)), ZERO, ZERO, "mu", level)


def make_contour():
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = jnp.asarray(np.stack([1.5 * ring, 2.4 * ring]))
    return Contour(jnp.zeros(2), points, jnp.zeros((2, 20), int), ("mu", "alpha"), (0.6827, 0.95))


def make_yields(kind="post-fit", bins=(3, 2), observed=None, scale=1.0):
    n = sum(bins)
    rng = np.random.default_rng(7)
    values = scale * rng.uniform(5, 50, (3, n))
    values[2] = 2.0
    channels = tuple(f"SR{k}" for k in range(len(bins)))
    owner = np.repeat(np.arange(len(bins)), bins)
    sums = np.stack([values[:, owner == k].sum(axis=1) for k in range(len(bins))], axis=1)
    total = values.sum(axis=0)
    return Yields(
        values=jnp.asarray(values),
        uncertainties=jnp.asarray(0.1 * values),
        total=jnp.asarray(total),
        total_uncertainties=jnp.asarray(0.1 * total),
        channel_values=jnp.asarray(sums),
        channel_uncertainties=jnp.asarray(0.1 * sums),
        channel_total=jnp.asarray(sums.sum(axis=0)),
        channel_total_uncertainties=jnp.asarray(0.1 * sums.sum(axis=0)),
        observed=jnp.asarray(np.round(1.1 * total) if observed is None else observed, float),
        kind=kind,
        channels=channels,
        channel_bins=tuple(bins),
        samples=("background_1", "background_2", "signal"),
        rows=tuple((c, s) for c in channels for s in ("background_1", "background_2", "signal")),
        signals=("signal",),
    )


def make_toys(test_stat="qtilde", mu=1.0):
    rng = np.random.default_rng(3)
    status = jnp.zeros(800, int).at[:3].set(2)
    made = ToyDistributions(
        mu=jnp.asarray(mu),
        signal=jnp.asarray(rng.chisquare(1, 800)),
        background=jnp.asarray(rng.chisquare(5, 800)).at[5].set(jnp.nan),
        signal_status=status,
        background_status=jnp.zeros(800, int),
        blocks=((0, 0, 800),),
        test_stat=test_stat,
    )
    one, five, observed = jnp.asarray(0.5), jnp.full(5, 0.5), jnp.asarray(4.0)
    names = (test_stat, "toys", "mu")
    return ToyHypoTest(
        jnp.asarray(mu), *[one] * 3, *[five] * 3, observed, one, one, ZERO, *names, *[one] * 3, distributions=made
    )


# Every function with a result that it draws, and the number of axes that it draws in.
DRAWINGS = {
    "pulls": (plot.pulls, (make_pulls(),), 1),
    "ranking": (plot.ranking, (make_impacts(),), 2),
    "correlation": (plot.correlation, (make_fit(),), 1),
    "brazil": (plot.brazil, (make_hypotest(),), 1),
    "scan": (plot.scan, (make_scan(),), 1),
    "contour": (plot.contour, (make_contour(),), 1),
    "distributions": (plot.distributions, (make_yields(), "SR0"), 2),
    "limits": (plot.limits, (np.arange(4.0), make_limit((4,))), 1),
    "exclusion": (plot.exclusion, (np.array([0, 1, 0, 1.0]), np.array([0, 0, 1, 1.0]), make_limit((4,))), 1),
    "toys": (plot.toys, (make_toys(),), 1),
}


def new_axes(rows=1):
    return Figure(layout="constrained").subplots(rows, squeeze=False)[:, 0]


def points(ax):
    """Places of all black points with error bars, and the lengths of their bars on both sides: (n, 2), (n, 2, 2)."""
    places, bars = [], []
    for container in ax.containers:
        if isinstance(container, mpl.container.ErrorbarContainer):
            line, _, (segments,) = container
            places.append(np.stack(line.get_data(), axis=1))
            bars.append(np.array(segments.get_segments()))
    return np.concatenate(places), np.concatenate(bars)


def words(legend):
    return [text.get_text() for text in legend.get_texts()]


def boxes_overlap(ax):
    """Whether any two texts of an axis of names overlap once drawn."""
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_yticklabels() if text.get_text()]
    return any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1 :])


# What holds for all of them.


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_new_figure_is_free_standing(name):
    function, args, number = DRAWINGS[name]
    before = dict(mpl.rcParams)
    found = function(*args)
    assert dict(mpl.rcParams) == before
    axes = [found] if number == 1 else list(found)
    assert len(axes) == number
    figure = axes[0].figure
    assert all(ax.figure is figure for ax in axes)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    # It can be drawn, and nothing sticks out of it.
    FigureCanvasAgg(figure).draw()
    tight = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert tight.x0 >= -0.01 and tight.y0 >= -0.01 and tight.x1 <= width + 0.01 and tight.y1 <= height + 0.01


@pytest.mark.parametrize("name", DRAWINGS)
def test_given_axes_are_drawn_in(name):
    function, args, _ = DRAWINGS[name]
    keyword = "axes" if name == "distributions" else "ax"
    given = new_axes(2) if keyword == "axes" else new_axes()[0]
    found = function(*args, **{keyword: given})
    first = found[0] if isinstance(found, tuple) else found
    assert first is (given[0] if keyword == "axes" else given)
    assert first.has_data()
    wrong = [1, 2] if keyword == "axes" else "axes"
    with pytest.raises(nextstat.FitError, match="expected matplotlib axes"):
        function(*args, **{keyword: wrong})


@pytest.mark.parametrize("name", DRAWINGS)
def test_another_kind_of_result_is_named(name):
    function, args, _ = DRAWINGS[name]
    place = 1 if name == "limits" else 2 if name == "exclusion" else 0
    wrong = [*args[:place], object(), *args[place + 1 :]]
    with pytest.raises(nextstat.FitError, match="expected .* returns(?: it)?, found object"):
        function(*wrong)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_batch_is_refused(name):
    function, args, _ = DRAWINGS[name]
    place = 1 if name == "limits" else 2 if name == "exclusion" else 0
    batch = jax.tree_util.tree_map(lambda x: jnp.stack([jnp.asarray(x)] * 2), args[place])
    with pytest.raises(nextstat.FitError, match="batch"):
        function(*args[:place], batch, *args[place + 1 :])


def test_inside_jit_there_is_nothing_to_draw():
    with pytest.raises(nextstat.FitError, match="draw outside jit, grad and vmap"):
        jax.jit(lambda result: plot.pulls(result) and 0)(make_pulls())


def test_without_matplotlib_and_without_display():
    """In a process of its own: what is missing is named, and drawing neither imports pyplot nor needs a display."""
    code = """
import os, sys
for name in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"):
    os.environ.pop(name, None)
import numpy as np, jax.numpy as jnp
from types import SimpleNamespace
from nextstat_jax import plot, MissingExtraError
assert "matplotlib" not in sys.modules
result = SimpleNamespace(names=("a", "b"), pull=np.zeros(2), constraint=np.ones(2), fixed=np.zeros(2, bool))
limit = SimpleNamespace(observed=np.ones(3), expected=np.ones((3, 5)) * [.5, .7, 1, 1.4, 1.9])
sys.modules["matplotlib"] = None
for draw in (lambda: plot.pulls(result), lambda: plot.limits(np.arange(3.0), limit)):
    try:
        draw()
    except MissingExtraError as error:
        print(error)
del sys.modules["matplotlib"]
plot.pulls(result).figure.savefig(os.devnull, format="png")
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    message = "matplotlib is not installed: pip install 'nextstat-jax[plot]'"
    assert done.stdout.splitlines() == [message, message, "False"]


def test_pyplot_makes_the_figure_where_it_shows_it(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(mpl, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    try:
        ax = plot.pulls(make_pulls())
        assert [plt.figure(k) for k in plt.get_fignums()] == [ax.figure]
        # Elsewhere than in the main thread pyplot is left alone.
        thread = threading.Thread(target=lambda: plot.pulls(make_pulls()))
        thread.start()
        thread.join()
        assert len(plt.get_fignums()) == 1
    finally:
        plt.close("all")


def test_threads_may_draw_at_the_same_time():
    before, failures, pictures = dict(mpl.rcParams), [], []

    def work(k):
        try:
            for name in list(DRAWINGS)[k::3]:
                function, args, _ = DRAWINGS[name]
                found = function(*args)
                figure = (found[0] if isinstance(found, tuple) else found).figure
                with plot.lock:  # matplotlib's parser of formulas serves one thread at a time
                    FigureCanvasAgg(figure).draw()
                pictures.append(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and sorted(pictures) == sorted(DRAWINGS)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", [name for name in DRAWINGS if name not in ("correlation",)])
def test_axes_look_as_in_a_paper(name):
    function, args, _ = DRAWINGS[name]
    found = function(*args)
    for ax in found if isinstance(found, tuple) else (found,):
        assert ax.xaxis.get_tick_params(which="major")["direction"] == "in"
        assert not ax.get_xlabel() or ax.xaxis.get_label().get_horizontalalignment() == "right"


# Parameters.


def test_pulls_show_pulls_and_constraints():
    result = make_pulls(6, fixed=(2,))
    ax = plot.pulls(result, labels={"alpha_0": r"$\alpha_0$"})
    kept = [0, 1, 3, 4, 5]
    places, bars = points(ax)
    np.testing.assert_allclose(places, np.stack([result.pull[jnp.array(kept)], np.arange(5.0)], axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.diff(bars[:, :, 0])[:, 0], 2.0 * np.asarray(result.constraint)[kept], rtol=1e-6)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [r"$\alpha_0$", "alpha_1", "alpha_3", "alpha_4", "alpha_5"]
    # The first is on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    bands = {to_hex(p.get_facecolor()): (p.get_x(), p.get_x() + p.get_width()) for p in ax.patches}
    assert bands == {_style.GREEN: (-1.0, 1.0), _style.YELLOW: (-2.0, 2.0)}


def test_pulls_chosen_and_in_columns():
    result = make_pulls(7)
    order = np.argsort(-np.abs(result.pull))
    ax = plot.pulls(result, top_n=3)
    assert [text.get_text() for text in ax.get_yticklabels()] == [result.names[k] for k in order[:3]]
    left, right = plot.pulls(result, columns=2)
    names = [text.get_text() for one in (left, right) for text in one.get_yticklabels()]
    assert names == list(result.names)
    assert left.get_xlim() == right.get_xlim()
    ax = plot.pulls(result, exclude=("*_[1-3]", "alpha_6"))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["alpha_0", "alpha_4", "alpha_5"]
    assert len(plot.pulls(result, exclude="*_0").get_yticklabels()) == 6


@pytest.mark.parametrize("number", [1, 40, 200])
def test_names_of_many_parameters_do_not_overlap(number):
    assert not boxes_overlap(plot.pulls(make_pulls(number)))


def test_a_large_pull_stays_in_the_frame():
    result = eqx.tree_at(lambda p: p.pull, make_pulls(3), jnp.asarray([0.0, -7.0, 1.0]))
    low, high = plot.pulls(result).get_xlim()
    assert low < -7.0 - float(result.constraint[1]) and high == -low


def test_wrong_options_of_pulls():
    with pytest.raises(nextstat.FitError, match="no pulls to draw"):
        plot.pulls(make_pulls(2, fixed=(0, 1)))
    with pytest.raises(nextstat.FitError, match="top_n=0"):
        plot.pulls(make_pulls(), top_n=0)
    with pytest.raises(nextstat.FitError, match="columns=9: expected between 1 and 6"):
        plot.pulls(make_pulls(), columns=9)
    with pytest.raises(nextstat.FitError, match="1 axes given: .* 2 columns needs 2"):
        plot.pulls(make_pulls(), columns=2, ax=new_axes()[0])


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
        (_style.BLUE, True): "post_up",
        (_style.DARK_BLUE, False): "pre_up",
        (_style.ORANGE, True): "post_down",
        (_style.DARK_ORANGE, False): "pre_down",
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
    np.testing.assert_allclose(drawn[_style.BLUE, True], [0.1, 0.4])
    np.testing.assert_allclose(drawn[_style.ORANGE, True], [-0.2, -0.3])
    np.testing.assert_allclose(points(pulls)[0], [[0.5, 0.0]])
    assert bars.get_xlabel() == r"$\Delta\,$XS"


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


# Hypothesis tests.


def line_of(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.stack(line.get_data(), axis=1)


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
    ax = plot.brazil(result, limit=make_limit(), level=0.1)
    mu = np.sort(result.mu)
    np.testing.assert_allclose(
        line_of(ax, r"Observed $\mathrm{CL_s}$"), np.stack([mu, np.exp(-1.3 * mu)], 1), rtol=1e-6
    )
    np.testing.assert_allclose(
        line_of(ax, r"Expected $\mathrm{CL_s}$"), np.stack([mu, np.exp(-1.5 * mu)], 1), rtol=1e-6
    )
    for color, (fast, slow) in ((_style.GREEN, (2.0, 1.0)), (_style.YELLOW, (3.0, 0.6))):
        for x, ends in band_of(ax, color).items():
            np.testing.assert_allclose(ends, (np.exp(-fast * x), np.exp(-slow * x)), rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Observed limit 1.1")[:, 0], 1.1, rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Expected limit 1"), [[1.0, 0.0], [1.0, 0.1]], rtol=1e-6)
    assert any(np.allclose(line.get_ydata(), 0.1) for line in ax.lines)
    assert plot.brazil(result, log=True).get_yscale() == "log"
    assert plot.brazil(result, xlabel="strength").get_xlabel() == "strength"


def test_a_test_of_one_value_is_no_curve():
    one = jax.tree_util.tree_map(lambda x: x[0], make_hypotest())
    with pytest.raises(nextstat.FitError, match="a single value makes no picture"):
        plot.brazil(one)
    with pytest.raises(nextstat.FitError, match="1 point makes no curve"):
        plot.brazil(jax.tree_util.tree_map(lambda x: x[:1], make_hypotest()))


def test_limits_follow_the_masses():
    mass, limit = np.array([300.0, 100.0, 200.0, 400.0]), make_limit((4,))
    ax = plot.limits(mass, limit, xlabel="m")
    order = np.argsort(mass)
    np.testing.assert_allclose(line_of(ax, "Observed limit"), np.stack([mass, limit.observed], 1)[order], rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "Expected limit")[:, 1], np.asarray(limit.expected)[order, 2], rtol=1e-6)
    for color, (low, high) in ((_style.GREEN, (1, 3)), (_style.YELLOW, (0, 4))):
        band = band_of(ax, color)
        for x, row in zip(mass, np.asarray(limit.expected), strict=True):
            np.testing.assert_allclose(band[x], (row[low], row[high]), rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, r"$\mu$ = 1")[:, 1], 1.0)
    assert ax.get_xlabel() == "m" and ax.get_ylabel() == r"95% CL upper limit on $\mu$"


def test_limits_on_cross_sections():
    mass, limit = np.arange(4.0), make_limit((4,))
    ax = plot.limits(mass, limit, scale=mass + 1, reference=mass + 1, reference_label="NLO", log=True, observed=False)
    np.testing.assert_allclose(line_of(ax, "Expected limit")[:, 1], (mass + 1) * limit.expected[:, 2], rtol=1e-6)
    np.testing.assert_allclose(line_of(ax, "NLO")[:, 1], mass + 1)
    assert ax.get_yscale() == "log"
    assert words(ax.get_legend())[0] == "Expected limit"
    # Without the prediction there is nothing to compare cross-sections with.
    assert words(plot.limits(mass, limit, scale=2.0).get_legend())[-1] == r"Expected $\pm 2\sigma$"


def test_wrong_limits():
    with pytest.raises(nextstat.FitError, match=r"x has shape \(3,\), but there are 4 limits"):
        plot.limits(np.arange(3.0), make_limit((4,)))
    with pytest.raises(nextstat.FitError, match=r"reference has shape \(2,\)"):
        plot.limits(np.arange(4.0), make_limit((4,)), reference=[1.0, 2.0])
    with pytest.raises(nextstat.FitError, match="a single value makes no picture"):
        plot.limits([1.0], make_limit())
    none = eqx.tree_at(lambda u: u.expected, make_limit((4,)), jnp.full((4, 5), jnp.nan))
    with pytest.raises(nextstat.FitError, match="there is no finite limit to draw"):
        plot.limits(np.arange(4.0), none)


def test_a_limit_that_was_not_found_is_left_out():
    limit = make_limit((4,))
    limit = eqx.tree_at(lambda u: u.observed, limit, limit.observed.at[1].set(jnp.nan))
    for log in (False, True):
        ax = plot.limits(np.arange(4.0), limit, log=log)
        assert np.isnan(line_of(ax, "Observed limit")[:, 1]).tolist() == [False, True, False, False]
        assert np.isfinite(ax.get_ylim()).all()
    plot.exclusion(np.array([0, 1, 0, 1.0]), np.array([0, 0, 1, 1.0]), limit)


def test_a_legend_stands_where_less_is_drawn():
    # Limits rise with the mass here, CLs falls with mu.
    def place(ax):
        ax.figure.draw_without_rendering()
        box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
        return "left" if box.x1 < 0.6 else "right"

    assert place(plot.limits(np.arange(4.0), make_limit((4,)))) == "left"
    assert place(plot.limits(-np.arange(4.0), make_limit((4,)))) == "right"
    assert place(plot.brazil(make_hypotest())) == "right"


def test_the_edge_of_an_exclusion_is_a_limit_of_one():
    # log(limit) is linear in both masses, so that the interpolation on triangles is exact.
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 4, 5), np.linspace(0, 4, 5)))
    height = 0.7 * (x + 0.5 * y - 2.2)
    spread = np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
    fields = (jnp.asarray(np.exp(height + 0.1)), jnp.asarray(np.exp(height[:, None] + spread)))
    limit = eqx.tree_at(lambda u: (u.observed, u.expected), make_limit((4,)), fields)
    ax = plot.exclusion(x, y, limit, xlabel="m1", ylabel="m2")
    edges = {to_hex(c.get_edgecolor()[0]) + str(c.get_linewidth()[0]): c for c in ax.collections}
    for key, shift in ((_style.RED + "2.0", 0.1), ("#0000001.8", 0.0)):
        (path,) = edges[key].get_paths()
        at = path.vertices
        np.testing.assert_allclose(0.7 * (at[:, 0] + 0.5 * at[:, 1] - 2.2) + shift, 0.0, atol=1e-9)
    excluded = line_of(ax, "Excluded at 95% CL")
    assert len(excluded) == int((height + 0.1 < 0).sum())
    assert len(line_of(ax, "Not excluded")) == 25 - len(excluded)
    assert ax.texts[0].get_text() == f"{np.exp(height[0] + 0.1):.2g}"
    assert len(plot.exclusion(x, y, limit, numbers=False).texts) == 0


def test_exclusions_without_an_edge():
    # All excluded, and signals on a line: points only, and no warning.
    far = eqx.tree_at(lambda u: (u.observed, u.expected), make_limit((4,)), (jnp.full(4, 0.1), jnp.full((4, 5), 0.1)))
    x = np.arange(4.0)
    for ax in (plot.exclusion(x, x**2, far), plot.exclusion(x, 2 * x, make_limit((4,)))):
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
    several = jax.tree_util.tree_map(lambda x: jnp.stack([x, x]), make_toys())
    several = eqx.tree_at(lambda r: (r.mu, r.statistic), several, (jnp.asarray([0.5, 1.0]), jnp.asarray([2.0, 4.0])))
    assert words(plot.toys(several, mu=0.5).get_legend())[-1] == "Observed 2"
    with pytest.raises(nextstat.FitError, match="a test of 2 values, or a batch: say which one"):
        plot.toys(several)
    with pytest.raises(nextstat.FitError, match="mu=0.7 was not tested: 0.5, 1"):
        plot.toys(several, mu=0.7)


def test_no_toys():
    failed = eqx.tree_at(
        lambda r: (r.distributions.signal_status, r.distributions.background_status),
        make_toys(),
        (jnp.full(800, 2), jnp.full(800, 2)),
    )
    with pytest.raises(nextstat.FitError, match="all their fits failed"):
        plot.toys(failed)


# Scans.


def test_scan_shows_the_curve_and_levels():
    result = make_scan()
    ax = plot.scan(result, interval=[make_interval(), make_interval(0.95)], levels=(0.6827, 0.9))
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
    open_below = eqx.tree_at(lambda i: i.lower, make_interval(), jnp.asarray(jnp.nan))
    assert words(plot.scan(result, interval=open_below).get_legend())[1] == r"$\mu$ = $1.0^{+1.0}_{-?}$ (68% CL)"


def test_wrong_scans():
    with pytest.raises(nextstat.FitError, match="a scan of 2 parameters: use plot.contour"):
        plot.scan(make_scan(two=True))
    with pytest.raises(nextstat.FitError, match="a scan of 1 parameter: use plot.scan"):
        plot.contour(make_scan())
    other = make_scan()
    object.__setattr__(other, "parameters", ("nu",))
    with pytest.raises(nextstat.FitError, match="scans of different parameters in one picture: mu, nu"):
        plot.scan({"a": make_scan(), "b": other})
    with pytest.raises(nextstat.FitError, match="a level of 95"):
        plot.scan(make_scan(), levels=(95.0,))


def test_contours_close():
    result = make_contour()
    ax = plot.contour(result)
    curves = [np.stack(line.get_data(), axis=1) for line in ax.lines if len(line.get_xdata()) == 21]
    for (
        curve,
        points_,
    ) in zip(curves, np.asarray(result.points), strict=True):
        np.testing.assert_allclose(curve[:-1], points_, rtol=1e-6)
        np.testing.assert_array_equal(curve[0], curve[-1])
    np.testing.assert_allclose(line_of(ax, "Best fit"), [[0.0, 0.0]])
    assert words(ax.get_legend()) == ["68% CL", "95% CL", "Best fit"]


def test_contours_of_a_scan():
    ax = plot.contour(make_scan(two=True), levels=(0.4, 0.9999))
    assert ax.get_xlabel() == r"$\mu$" and ax.get_ylabel() == "alpha"
    # The grid does not reach the second level; the first is at -2 ln(1 - 0.4) in a paraboloid, up to its coarse grid.
    (drawn,) = ax.collections
    np.testing.assert_allclose(drawn.levels, [-2 * np.log(0.6)], rtol=1e-9)
    (path,) = drawn.get_paths()
    radius = np.hypot(path.vertices[:, 0] - 1.0, path.vertices[:, 1])
    np.testing.assert_allclose(radius, np.sqrt(-2 * np.log(0.6)), atol=0.15)
    np.testing.assert_allclose(line_of(ax, "Best fit"), [[1.0, 0.0]])


# Distributions.


def stack_of(ax):
    """(baseline, top) of each filled histogram, from the bottom up."""
    return [patch.get_data() for patch in ax.patches if patch.get_fill() and patch.get_linewidth() < 1]


def test_the_stack_adds_up():
    result = make_yields()
    main, ratio = plot.distributions(result, "SR0", prefit=make_yields("pre-fit", scale=0.8))
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
    assert [len(pair) for pair in plot.distributions(result, ["SR2", "SR0"], axes=new_axes(4))] == [2, 2]
    main, _ = plot.distributions(result, ["SR1"])
    assert len(stack_of(main)[0].values) == 2


def test_a_summary_holds_all_bins():
    result = make_yields(bins=(3, 1, 2))
    main, ratio = plot.distributions(result, summary=True, labels={"SR1": "middle"}, log=True)
    np.testing.assert_allclose(stack_of(main)[-1].values, result.total)
    borders = [line.get_xdata()[0] for line in main.lines if line.get_linestyle() == "--"]
    assert borders == [3.0, 4.0]
    assert [text.get_text() for text in ratio.get_xticklabels()] == ["SR0", "middle", "SR2"]
    np.testing.assert_allclose(ratio.get_xticks(), [1.5, 3.5, 5.0])
    assert main.get_yscale() == "log"
    part, _ = plot.distributions(result, ["SR2", "SR0"], summary=True)
    np.testing.assert_allclose(stack_of(part)[-1].values, np.concatenate([result.total[4:], result.total[:3]]))


def test_edges_and_labels():
    edges = {"SR0": [0.0, 10.0, 15.0, 40.0]}
    main, ratio = plot.distributions(
        make_yields(),
        "SR0",
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
    main, _ = plot.distributions(result, "SR0", order=order)
    assert words(main.get_legend())[1:4] == order[::-1]
    np.testing.assert_allclose(stack_of(main)[0].values, 2.0)
    main, _ = plot.distributions(result, "SR0", max_samples=2)
    assert words(main.get_legend())[1:3] == ["signal", "Other"]
    np.testing.assert_allclose(stack_of(main)[-1].values, result.total[:3])
    with_all, _ = plot.distributions(result, "SR1")
    color = {text.get_text(): patch.get_facecolor() for text, patch in legend_patches(with_all)}
    assert {text.get_text(): patch.get_facecolor() for text, patch in legend_patches(main)}["signal"] == color["signal"]
    assert len({to_hex(one) for one in color.values()}) == 3


def legend_patches(ax):
    legend = ax.get_legend()
    pairs = zip(legend.get_texts(), legend.legend_handles, strict=True)
    return [(text, handle) for text, handle in pairs if text.get_text() in ("signal", "background_1", "background_2")]


def test_no_data():
    main, ratio = plot.distributions(make_yields(), "SR0", data=False)
    assert "Data" not in words(main.get_legend()) and not main.containers
    assert ratio.get_ylabel() == "Ratio"


def test_a_fit_without_covariance_has_no_band():
    result = make_yields()
    missing = eqx.tree_at(lambda y: y.total_uncertainties, result, jnp.full(5, jnp.nan))
    main, ratio = plot.distributions(missing, "SR0")
    assert "Uncertainty" not in words(main.get_legend())
    assert not [one for ax in (main, ratio) for one in ax.collections if one.get_hatch()]
    unknown = eqx.tree_at(lambda p: p.constraint, make_pulls(3), jnp.full(3, jnp.nan))
    assert len(points(plot.pulls(unknown, top_n=3))[0]) == 3


def test_what_lies_outside_of_the_ratio_panel():
    result = make_yields(observed=[500.0, 0.0, 40.0, 40.0, 40.0])
    main, ratio = plot.distributions(result, "SR0")
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
    main, _ = plot.distributions(result, None if summary else "SR1", summary=summary, log=log)
    main.figure.draw_without_rendering()
    places, bars = points(main)
    ends = main.transData.transform(bars[:, 1])
    covers = [main.get_legend().get_window_extent(), main.texts[0].get_window_extent()]
    assert not any(box.contains(*end) for box in covers for end in ends)
    assert len(places) == (11 if summary else 5)


def test_wrong_distributions():
    result = make_yields()
    with pytest.raises(nextstat.FitError, match="there is no channel 'CR': SR0, SR1"):
        plot.distributions(result, "CR")
    with pytest.raises(nextstat.FitError, match="the list of channels is empty"):
        plot.distributions(result, [])
    with pytest.raises(nextstat.FitError, match="order leaves out signal"):
        plot.distributions(result, order=["background_1", "background_2"])
    with pytest.raises(nextstat.FitError, match="there is no sample 'top'"):
        plot.distributions(result, order=["top"])
    with pytest.raises(nextstat.FitError, match="edges of channel 'SR0': expected 4 increasing numbers"):
        plot.distributions(result, edges={"SR0": [0, 1]})
    with pytest.raises(nextstat.FitError, match="edges for 'SR1', which is not drawn"):
        plot.distributions(result, "SR0", edges={"SR1": [0, 1, 2]})
    with pytest.raises(nextstat.FitError, match="leave out edges"):
        plot.distributions(result, summary=True, edges={"SR1": [0, 1, 2]})
    with pytest.raises(nextstat.FitError, match="prefit belongs to another model"):
        plot.distributions(result, prefit=make_yields(bins=(3, 1, 1)))
    with pytest.raises(nextstat.FitError, match="max_samples=0"):
        plot.distributions(result, max_samples=0)
    with pytest.raises(nextstat.FitError, match="2 axes given: .* needs 4"):
        plot.distributions(result, axes=new_axes(2))


# Small parts.


def test_garwood_intervals_of_counts():
    counts = np.array([0.0, 1.0, 4.0, 100.0, 2.5])
    lower, upper = _style.poisson_interval(counts)
    tail = (1 - 0.6827) / 2
    for n, low, high in zip(counts[:4], lower[:4], upper[:4], strict=True):
        assert stats.poisson.cdf(n, high) == pytest.approx(tail, rel=1e-9)
        if n:
            assert stats.poisson.sf(n - 1, low) == pytest.approx(tail, rel=1e-9)
    assert lower[0] == 0.0 and lower[2] > lower[4] > lower[1]


def test_dollars_in_names_are_no_formula():
    assert _style.label_of("a$b$", None) == r"a\$b\$"
    assert _style.label_of("a$b$", {"a$b$": "$b$"}) == "$b$"
    assert to_rgba(_style.GREEN) and len(set(_style.PALETTE)) == 10
