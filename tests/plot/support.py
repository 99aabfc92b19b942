"""Results with invented numbers, so that no fit is needed to draw them, and what pictures are asked."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import nextstat_jax as nextstat
from nextstat_jax import interpret, plot
from nextstat_jax._minimize._dense import DenseSpread

CONVERGED = jnp.array(0)
ALONE = jnp.array(jnp.inf)  # no other minimum


def make_pulls(n=6, fixed=()):
    rng = np.random.default_rng(n)
    pull, constraint = rng.normal(0, 0.8, n), rng.uniform(0.3, 1.0, n)
    ones = jnp.ones(n)
    return nextstat.Pulls(
        value=jnp.asarray(pull),
        uncertainty=jnp.asarray(constraint),
        center=0.0 * ones,
        width=ones,
        pull=jnp.asarray(pull),
        constraint=jnp.asarray(constraint),
        fixed=jnp.asarray([k in fixed for k in range(n)]),
        status=CONVERGED,
        names=tuple(f"alpha_{k}" for k in range(n)),
    )


def make_impacts(n=5, status=0):
    size = np.array([0.1, -0.3, 0.05, 0.2, -0.15, *np.linspace(0.04, 0.01, 40)])[:n]
    return interpret.Impacts(
        pre_up=jnp.asarray(1.2 * size),
        pre_down=jnp.asarray(-1.3 * size),
        post_up=jnp.asarray(size),
        post_down=jnp.asarray(-0.9 * size),
        pull=jnp.asarray(np.append(np.linspace(-1, 1, n - 1), np.nan)),
        constraint=jnp.asarray(np.append(np.linspace(0.5, 1, n - 1), np.nan)),
        mu_hat=jnp.asarray(1.0),
        mu_uncertainty=jnp.asarray(0.4),
        status=jnp.zeros((n, 4), int).at[0, 0].set(status),
        next_minimum=ALONE,
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
    return nextstat.FitResult(
        params=jnp.zeros(4),
        spread=DenseSpread(jnp.asarray(correlation * np.outer(width, width))),
        nll=jnp.asarray(0.0),
        gradient=jnp.zeros(4),
        edm=jnp.asarray(0.0),
        on_bound=none,
        fixed=none,
        status=CONVERGED,
        n_iter=jnp.array(3),
        start_moved=jnp.asarray(False),
        next_minimum=ALONE,
        parameter_names=("mu", "alpha_$5", "beta", "alone"),
        poi_index=None,
    )


def make_hypotest(test_stat="qtilde", mu=(2.0, 0.0, 1.0, 3.0), **toys):
    mu = jnp.asarray(mu)
    observed = jnp.exp(-1.3 * mu)
    bands = jnp.exp(-mu[..., None] * jnp.asarray([3.0, 2.0, 1.5, 1.0, 0.6]))
    zero = jnp.zeros(mu.shape)
    return nextstat.HypoTest(
        mu=mu,
        cls=observed,
        clsb=zero,
        clb=zero,
        cls_expected=bands,
        clsb_expected=bands,
        clb_expected=bands,
        statistic=zero + 4.0,
        statistic_asimov=zero,
        mu_hat=zero,
        status=jnp.zeros(mu.shape, int),
        next_minimum=ALONE,
        test_stat=test_stat,
        calculator="toys" if toys else "asymptotic",
        parameter="mu",
        **toys,
    )


def make_toys(test_stat="qtilde", mu=1.0):
    rng = np.random.default_rng(3)
    made = nextstat.ToyDistributions(
        mu=jnp.asarray(mu),
        signal=jnp.asarray(rng.chisquare(1, 800)),
        background=jnp.asarray(rng.chisquare(5, 800)).at[5].set(jnp.nan),
        signal_status=jnp.zeros(800, int).at[:3].set(2),
        background_status=jnp.zeros(800, int),
        blocks=((0, 0, 800),),
        test_stat=test_stat,
    )
    errors = dict.fromkeys(("cls_error", "clsb_error", "clb_error"), jnp.asarray(0.1))
    return make_hypotest(test_stat, mu, distributions=made, **errors)


def make_limit(shape=(), level=0.95):
    def one(size):
        return nextstat.UpperLimit(
            observed=1.1 * size,
            expected=size * jnp.asarray([0.5, 0.7, 1.0, 1.4, 1.9]),
            mu_hat=0.0 * size,
            status=jnp.zeros(6, int),
            n_fits=jnp.array(20),
            next_minimum=ALONE,
            level=level,
            parameter="mu",
            test_stat="qtilde",
        )

    return jax.vmap(one)(jnp.linspace(0.5, 2.5, *shape)) if shape else one(jnp.array(1.0))


def make_scan(two=False, parameters=("mu", "alpha")):
    x, y = jnp.asarray([2.0, -1.0, 0.0, 1.0, 3.0, 4.0]), jnp.linspace(-2.0, 2.0, 5)
    axes = (x, y) if two else (x,)
    nll = 0.5 * ((x[:, None] - 1.0) ** 2 + y[None] ** 2) if two else 0.5 * (x - 1.0) ** 2
    return nextstat.ScanResult(
        values=axes,
        nll=nll,
        params=jnp.zeros((*nll.shape, len(axes))),
        status=jnp.zeros(nll.shape, int),
        best=jnp.asarray([1.0, 0.0])[: len(axes)],
        nll_min=jnp.asarray(0.0),
        status_min=CONVERGED,
        next_minimum=ALONE,
        parameters=parameters[: len(axes)],
    )


def make_interval(level=0.6827):
    best, lower, upper = (jnp.asarray(x) for x in (1.0, 0.0, 2.0))
    return nextstat.Interval(best, lower, upper, CONVERGED, CONVERGED, ALONE, parameter="mu", level=level)


def make_contour():
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return nextstat.Contour(
        best=jnp.zeros(2),
        points=jnp.asarray(np.stack([1.5 * ring, 2.4 * ring])),
        status=jnp.zeros((2, 20), int),
        next_minimum=ALONE,
        parameters=("mu", "alpha"),
        levels=(0.6827, 0.95),
    )


def make_importance():
    return interpret.Importance(
        z0=jnp.array(2.0),
        systematics=jnp.asarray([-0.1, -0.5, 0.2]),
        cells=jnp.asarray([0.1, 0.2, -0.02, -0.01, -0.03]),
        yields=jnp.ones(5),
        status=CONVERGED,
        names=("alpha_0", "alpha_1", "alpha_2"),
        rows=(("SR", "signal", 2), ("SR", "background", 2), ("CR", "background", 1)),
        data="asimov",
    )


def make_yields(kind="post-fit", bins=(3, 2), observed=None, scale=1.0):
    n = sum(bins)
    rng = np.random.default_rng(7)
    values = scale * rng.uniform(5, 50, (3, n))
    values[2] = 2.0
    channels = tuple(f"SR{k}" for k in range(len(bins)))
    owner = np.repeat(np.arange(len(bins)), bins)
    sums = np.stack([values[:, owner == k].sum(axis=1) for k in range(len(bins))], axis=1)
    total = values.sum(axis=0)
    return nextstat.Yields(
        values=jnp.asarray(values),
        uncertainties=jnp.asarray(0.1 * values),
        total=jnp.asarray(total),
        total_uncertainties=jnp.asarray(0.1 * total),
        channel_values=jnp.asarray(sums),
        channel_uncertainties=jnp.asarray(0.1 * sums),
        channel_total=jnp.asarray(sums.sum(axis=0)),
        channel_total_uncertainties=jnp.asarray(0.1 * sums.sum(axis=0)),
        observed=jnp.asarray(np.round(1.1 * total) if observed is None else observed, float),
        status=CONVERGED,
        kind=kind,
        channels=channels,
        channel_bins=tuple(bins),
        samples=("background_1", "background_2", "signal"),
        rows=tuple((c, s) for c in channels for s in ("background_1", "background_2", "signal")),
        signals=("signal",),
    )


def changed(result, **fields):
    """A result with other numbers, a batch of results among them, whose shapes are not those of a single one."""
    return eqx.tree_at(lambda x: [getattr(x, name) for name in fields], result, list(fields.values()))


# Every function with what it draws, options, and the number of axes that it draws in.
DRAWINGS = {
    "pulls": (plot.pulls, (make_pulls(),), {}, 1),
    "ranking": (plot.ranking, (make_impacts(),), {}, 2),
    "correlation": (plot.correlation, (make_fit(),), {}, 1),
    "importance": (plot.importance, (make_importance(),), {}, 1),
    "brazil": (plot.brazil, (make_hypotest(),), {}, 1),
    "scan": (plot.scan, (make_scan(),), {}, 1),
    "contour": (plot.contour, (make_contour(),), {}, 1),
    "distributions": (plot.distributions, (make_yields(),), {"channels": "SR0"}, 2),
    "limits": (plot.limits, (make_limit((4,)), np.arange(4.0)), {}, 1),
    "exclusion": (plot.exclusion, (make_limit((4,)), np.array([0, 1, 0, 1.0]), np.array([0, 0, 1, 1.0])), {}, 1),
    "toys": (plot.toys, (make_toys(),), {}, 1),
}


def axes_in(found):
    """All axes that a function returned, in a flat list."""
    return [ax for part in found for ax in axes_in(part)] if isinstance(found, tuple) else [found]


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


def line_of(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.stack(line.get_data(), axis=1)
