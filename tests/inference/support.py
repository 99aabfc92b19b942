"""A small model with every kind of uncertainty, other yields for it, and differences of fourth order."""

from __future__ import annotations

import jax.numpy as jnp

from tests.building import histosys, normfactor, normsys, sample, shapesys, staterror, workspace


def small(poi_bounds=None):
    """Two channels, five nuisance parameters; fitted in a fraction of a millisecond."""
    parameters = [{"name": "mu", "bounds": [list(poi_bounds)]}] if poi_bounds else []
    signal = sample("signal", [6.0, 12.0, 5.0], normfactor("mu"), normsys("scale", 0.9, 1.15))
    shape = histosys("tilt", [58.0, 41.0, 24.0], [62.0, 39.0, 16.0])
    background = sample(
        "background", [60.0, 40.0, 20.0], shape, normsys("scale", 0.95, 1.04), staterror("mc", [3.0, 2.5, 2.0])
    )
    control = sample("background", [200.0], normsys("scale", 0.97, 1.06), shapesys("fake", [12.0]))
    channels = {"control": [control], "search": [signal, background]}
    return workspace(channels, {"control": [206.0], "search": [63.0, 49.0, 22.0]}, parameters=parameters)


def central(function, x, h):
    """Fourth-order differences in every component."""
    columns = []
    for k in range(len(x)):
        e = jnp.zeros_like(x).at[k].set(h)
        columns.append(
            (8 * (function(x + e) - function(x - e)) - (function(x + 2 * e) - function(x - 2 * e))) / (12 * h)
        )
    return jnp.stack(columns, -1)


def yields_of(model):
    """All yields of the search channel in one vector, and the model with other ones."""

    def change(x):
        return model.with_templates({"signal": x[:3], ("background", "search"): x[3:]})

    return jnp.concatenate([model.template("signal"), model.template("background", "search")]), change
