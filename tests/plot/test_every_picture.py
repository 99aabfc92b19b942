"""What holds for every picture: free-standing figures, given axes, nothing global, wrong input named."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import nextstat_jax as nextstat
from nextstat_jax import plot
from tests.plot.support import DRAWINGS, axes_in, make_pulls, new_axes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_new_figure_is_free_standing(name):
    function, args, options, number = DRAWINGS[name]
    before = dict(mpl.rcParams)
    axes = axes_in(function(*args, **options))
    assert dict(mpl.rcParams) == before
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
    function, args, options, number = DRAWINGS[name]
    keyword = "axes" if "axes" in inspect.signature(function).parameters else "ax"
    given = new_axes(number) if keyword == "axes" else new_axes()[0]
    first = axes_in(function(*args, **options, **{keyword: given}))[0]
    assert first is (given[0] if keyword == "axes" else given)
    assert first.has_data()
    wrong = list(range(number)) if keyword == "axes" else "axes"
    with pytest.raises(nextstat.FitError, match="expected matplotlib axes"):
        function(*args, **options, **{keyword: wrong})


@pytest.mark.parametrize("name", DRAWINGS)
def test_another_kind_of_result_is_named(name):
    function, args, options, _ = DRAWINGS[name]
    with pytest.raises(nextstat.FitError, match="expected .* returns(?: it)?, found object"):
        function(object(), *args[1:], **options)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_batch_is_refused(name):
    function, args, options, _ = DRAWINGS[name]
    batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), args[0])
    with pytest.raises(nextstat.FitError, match="batch"):
        function(batch, *args[1:], **options)


@pytest.mark.parametrize("name", DRAWINGS)
def test_all_but_what_is_drawn_is_named(name):
    function, args, _, _ = DRAWINGS[name]
    kinds = [one.kind.name for one in inspect.signature(function).parameters.values()]
    assert kinds[: len(args)] == ["POSITIONAL_OR_KEYWORD"] * len(args)
    assert set(kinds[len(args) :]) == {"KEYWORD_ONLY"}


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
bands = np.ones((3, 5)) * [.5, .7, 1, 1.4, 1.9]
limit = SimpleNamespace(observed=np.ones(3), expected=bands, median=bands[:, 2], level=0.95, parameter="mu")
sys.modules["matplotlib"] = None
for draw in (lambda: plot.pulls(result), lambda: plot.limits(limit, np.arange(3.0))):
    try:
        draw()
    except MissingExtraError as error:
        print(error)
del sys.modules["matplotlib"]
plot.pulls(result)[0].figure.savefig(os.devnull, format="png")
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
        (ax,) = plot.pulls(make_pulls())
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
                function, args, options, _ = DRAWINGS[name]
                figure = axes_in(function(*args, **options))[0].figure
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
    function, args, options, _ = DRAWINGS[name]
    for ax in axes_in(function(*args, **options)):
        assert ax.xaxis.get_tick_params(which="major")["direction"] == "in"
        assert not ax.get_xlabel() or ax.xaxis.get_label().get_horizontalalignment() == "right"
