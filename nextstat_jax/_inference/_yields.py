"""Expected yields before and after a fit, with uncertainties propagated through the covariance."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .._base._doors import concrete, no_type_check
from .._base._errors import ModelError
from .._base._numerics import standard_deviation
from .._base._tables import dataframe, text_table
from .._likelihood._binned import HistFactory
from .._likelihood._histfactory import rates
from .._likelihood._segments import scatter_sum
from .._minimize import _status
from .._minimize._arrow import ArrowSpread
from .._model._base import require_model
from .._model._model import HistFactoryModel
from ._fit import FitResult, require_fit
from ._result import Result, result, static

if TYPE_CHECKING:
    import pandas as pd

_LINE = 118


@result
class Yields(Result):
    """Expected yields of a model with their uncertainties, and the observed counts.

    Samples that a channel does not have are zero there; ``rows`` says which it has.

    Attributes:
        values: Yields of each sample in each bin, shape (n_samples, n_bins).
        uncertainties: Their uncertainties.
        total: Yields of all samples together, shape (n_bins,).
        total_uncertainties: Their uncertainties.
        channel_values: Yields of each sample summed over the bins of a channel, shape (n_samples, n_channels).
        channel_uncertainties: Their uncertainties; bins move together, so they are no sums in quadrature.
        channel_total: Yields of all samples in each channel, shape (n_channels,).
        channel_total_uncertainties: Their uncertainties.
        observed: Observed counts, shape (n_bins,).
        status: How the fit ended; converged for yields before one.
        kind: ``"pre-fit"`` or ``"post-fit"``.
        channels: Names of the channels, in the order of the bins.
        channel_bins: Number of bins of each channel.
        samples: Names of the samples.
        rows: (channel, sample) pairs that exist.
        signals: Samples that the parameter of interest multiplies.
    """

    _single: ClassVar[tuple[str, int]] = ("total", 1)

    values: Float[Array, "sample bin"]
    uncertainties: Float[Array, "sample bin"]
    total: Float[Array, " bin"]
    total_uncertainties: Float[Array, " bin"]
    channel_values: Float[Array, "sample channel"]
    channel_uncertainties: Float[Array, "sample channel"]
    channel_total: Float[Array, " channel"]
    channel_total_uncertainties: Float[Array, " channel"]
    observed: Float[Array, " bin"]
    status: Int[Array, ""]
    kind: str = static()
    channels: tuple[str, ...] = static()
    channel_bins: tuple[int, ...] = static()
    samples: tuple[str, ...] = static()
    rows: tuple[tuple[str, str], ...] = static()
    signals: tuple[str, ...] = static()

    @property
    def channel_slices(self) -> dict[str, slice]:
        """Bins of each channel."""
        ends = np.cumsum(self.channel_bins).tolist()
        return {name: slice(end - n, end) for name, n, end in zip(self.channels, self.channel_bins, ends, strict=True)}

    def _facts(self) -> dict[str, Any]:
        self._require_single()
        channels = {}
        for k, (channel, bins) in enumerate(self.channel_slices.items()):
            samples = {
                sample: {
                    "yields": self.values[i, bins],
                    "uncertainties": self.uncertainties[i, bins],
                    "sum": self.channel_values[i, k],
                    "sum_uncertainty": self.channel_uncertainties[i, k],
                }
                for i, sample in enumerate(self.samples)
                if (channel, sample) in self.rows
            }
            total = {
                "yields": self.total[bins],
                "uncertainties": self.total_uncertainties[bins],
                "sum": self.channel_total[k],
                "sum_uncertainty": self.channel_total_uncertainties[k],
            }
            channels[channel] = {"samples": samples, "total": total, "observed": self.observed[bins]}
        return {"kind": self.kind, "channels": channels}

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each channel, sample and bin (counted from 0 in its channel).

        Columns are channel, sample, bin, yield and uncertainty, and of the bin the total, its uncertainty and the
        observed count.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        self._require_single()
        number = {sample: i for i, sample in enumerate(self.samples)}
        slices = self.channel_slices
        cells = [(c, s, b) for c, s in self.rows for b in range(slices[c].stop - slices[c].start)]
        sample = np.array([number[s] for _, s, _ in cells])
        place = np.array([slices[c].start + b for c, _, b in cells])
        return dataframe(
            {
                "channel": [c for c, _, _ in cells],
                "sample": [s for _, s, _ in cells],
                "bin": [b for _, _, b in cells],
                "yield": np.asarray(self.values)[sample, place],
                "uncertainty": np.asarray(self.uncertainties)[sample, place],
                "total": np.asarray(self.total)[place],
                "total_uncertainty": np.asarray(self.total_uncertainties)[place],
                "observed": np.asarray(self.observed)[place],
            }
        )

    def __repr__(self) -> str:
        if not concrete(self.total) or self.total.ndim != 1:
            return super().__repr__()
        columns = _table_columns(self)
        names = ["", *self.samples, "total", "observed"]
        blocks: list[list[list[str]]] = [[names]]
        for column in columns:
            width = sum(2 + max(map(len, words)) for words in [*blocks[-1], column])
            if len(blocks[-1]) > 1 and width > _LINE:
                blocks.append([names])
            blocks[-1].append(column)
        tables = [text_table([c[0] for c in block], zip(*(c[1:] for c in block), strict=True)) for block in blocks]
        ended = "" if self.kind == "pre-fit" else f" ({self.message})"
        return f"Yields, {self.kind}{ended}, sums over the bins of each channel\n" + "\n\n".join(tables)


def _table_columns(result: Yields) -> list[list[str]]:
    """A column of words for each channel: its name, the samples, the total, the observed count."""
    sums = np.asarray(jnp.concatenate([result.channel_values, result.channel_total[None]]))
    widths = np.asarray(jnp.concatenate([result.channel_uncertainties, result.channel_total_uncertainties[None]]))
    observed = np.asarray(result.observed)
    columns = []
    for k, (channel, bins) in enumerate(result.channel_slices.items()):
        there = [(channel, sample) in result.rows for sample in result.samples] + [True]
        pairs = [
            with_uncertainty(x, dx) if ok else ("", "")
            for x, dx, ok in zip(sums[:, k], widths[:, k], there, strict=True)
        ]
        count = f"{observed[bins].sum():.10g}"
        left, right = max(len(count), *(len(x) for x, _ in pairs)), max(len(dx) for _, dx in pairs)
        words = [f"{x:>{left}} {'+-' if x else '  '} {dx:>{right}}" for x, dx in pairs]
        columns.append([channel, *words, f"{count:>{left}}"])
    return columns


def with_uncertainty(value: float, uncertainty: float) -> tuple[str, str]:
    """Both as text, rounded to two significant digits of the uncertainty."""
    if not (math.isfinite(value) and math.isfinite(uncertainty)) or abs(value) >= 1e7:
        return f"{value:.5g}", f"{uncertainty:.3g}"
    if uncertainty == 0:
        return f"{value:.6g}", "0"
    digits = 1 - math.floor(math.log10(uncertainty))
    if digits > 8:
        return f"{value:.6g}", f"{uncertainty:.2g}"
    return f"{value:.{max(digits, 0)}f}", f"{uncertainty:.{max(digits, 0)}f}"


@no_type_check
def yields(model: HistFactoryModel, fit_result: FitResult | None = None, *, data: ArrayLike | None = None) -> Yields:
    """Expected yields per channel, sample and bin with their uncertainties.

    ``covariance(nu) = J C J^T`` with the Jacobian ``J = d nu / d theta`` and the covariance C of the parameters, for
    bins and their sums alike, so that correlations are part of every uncertainty.

    Before a fit, theta are the initial parameters and C is diagonal: the squared widths of the constraints, 0 for
    parameters that are fixed or not constrained. (cabinetry uses the same widths, with half the difference between the
    yields at + and - one standard deviation in place of the derivative: equal where yields are linear in the
    parameters.) After a fit, theta and C are those of the fit.

    Args:
        model: The model.
        fit_result: A fit of it, as ``fit`` returns it; None for the yields before a fit.
        data: Data that the table shows as observed, shape (n_data,) or (n_bins,); the model's own by default.

    Returns:
        ``Yields``, differentiable with respect to model and fit. A batch of fits goes through ``jax.vmap``.

    Raises:
        FitError: For a fit of another model, or a batch of fits outside ``jax.vmap``.
        ModelError: For data of a wrong shape.

    Example:
        >>> import nextstat_jax as nextstat
        >>> rate = {"name": "rate", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}}
        >>> strength = {"name": "mu", "type": "normfactor", "data": None}
        >>> model = nextstat.from_pyhf({
        ...     "channels": [{"name": "SR", "samples": [
        ...         {"name": "signal", "data": [5.0, 10.0], "modifiers": [strength]},
        ...         {"name": "background", "data": [60.0, 40.0], "modifiers": [rate]},
        ...     ]}],
        ...     "observations": [{"name": "SR", "data": [64.0, 52.0]}],
        ...     "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...     "version": "1.0.0",
        ... })
        >>> nextstat.yields(model)
        Yields, pre-fit, sums over the bins of each channel
                      SR
          background  100 +- 10
          signal       15 +-  0
          total       115 +- 10
          observed    116
    """
    require_model(model)
    if not isinstance(model, HistFactoryModel):
        raise ModelError(f"yields need a model with channels and samples, and a {type(model).__name__} has none")
    likelihood, names = model.likelihood, model.names
    shown = model.data_vector(data)
    status = jnp.array(_status.CONVERGED)
    if fit_result is None:
        params = likelihood.init
        variances = jnp.where(likelihood.frozen > 0, 0.0, likelihood.constraints(shown)[1] ** 2)
        spread = likelihood.independent(variances)
    else:
        require_fit(model, fit_result)
        params, spread, status = fit_result.params, fit_result.spread, fit_result.status
    central, errors = _propagate(likelihood, names.channel_bins, params, spread)
    return Yields(
        values=_by_sample_and_bin(model, central.cells),
        uncertainties=_by_sample_and_bin(model, errors.cells),
        total=central.bins,
        total_uncertainties=errors.bins,
        channel_values=_by_sample_and_channel(model, central.rows),
        channel_uncertainties=_by_sample_and_channel(model, errors.rows),
        channel_total=central.channels,
        channel_total_uncertainties=errors.channels,
        observed=shown[: model.n_bins],
        status=status,
        kind="pre-fit" if fit_result is None else "post-fit",
        channels=names.channels,
        channel_bins=names.channel_bins,
        samples=names.samples,
        rows=names.rows,
        signals=_signals(model),
    )


class _Sums(NamedTuple):
    """Yields, or their uncertainties, per cell, row (sample in a channel), bin and channel."""

    cells: Array
    rows: Array
    bins: Array
    channels: Array


@partial(jax.jit, static_argnums=1)
def _propagate(likelihood: HistFactory, channel_bins: tuple[int, ...], params: Array, spread: Any) -> tuple[Any, Any]:
    """Yields and their uncertainties, from the covariance of the parameters."""
    s = likelihood.structure
    channel = np.repeat(np.arange(len(channel_bins)), channel_bins)

    def summed(params: Array) -> _Sums:
        cells, bins = rates(likelihood, params)
        rows = scatter_sum(cells, s.cell_rows, s.n_rows)
        return _Sums(cells, rows, bins, scatter_sum(bins, channel, len(channel_bins)))

    if isinstance(spread, ArrowSpread):
        variances = _of_arrow(s, channel, len(channel_bins), spread, lambda x: rates(likelihood, x), params)
    else:
        variances = jax.tree.map(lambda j: (spread.times(j.T).T * j).sum(-1), jax.jacfwd(summed)(params))
    return summed(params), jax.tree.map(standard_deviation, variances)


def _of_arrow(s: Any, channel: np.ndarray, n_channels: int, spread: ArrowSpread, of: Any, params: Array) -> _Sums:
    """Variances of yields where most parameters act on one bin.

    With the border's parameters given, those of different bins vary independently: what is left of a derivative by the
    border, once the bins' own parameters follow it, meets the border's covariance, and each bin adds its own.
    """
    moved = jax.vmap(lambda v: jax.jvp(of, (params,), (v,))[1])(spread.rows.directions(params.dtype))

    def parted(x: Array, place: np.ndarray) -> tuple[Array, Array]:
        """Derivatives by the border, shape (m, b), and the variance that the bins' own parameters add."""
        border, own = x[: len(spread.rows.border)], x[len(spread.rows.border) :]
        for k, slope in enumerate(own):
            border = border - spread.slope[:, place, k] * slope
        return border.T, jnp.einsum("km,mkl,lm->m", own, spread.inner[place], own)

    def variances(parts: tuple[Array, Array], groups: Any = None, n_groups: int = 0) -> Array:
        x, own = parts if groups is None else (scatter_sum(part, groups, n_groups) for part in parts)
        return ((spread.border @ x.T).T * x).sum(1) + own

    cells = parted(moved.cells, s.pieces.place_of_bin[s.cell_bins])
    bins = parted(moved.bins, s.pieces.place_of_bin)
    return _Sums(
        variances(cells), variances(cells, s.cell_rows, s.n_rows), variances(bins), variances(bins, channel, n_channels)
    )


def _by_sample_and_bin(model: HistFactoryModel, cells: Array) -> Array:
    s, names = model.likelihood.structure, model.names
    sample = np.array([names.samples.index(name) for _, name in names.rows])
    return jnp.zeros((len(names.samples), s.n_bins), cells.dtype).at[sample[s.cell_rows], s.cell_bins].set(cells)


def _by_sample_and_channel(model: HistFactoryModel, rows: Array) -> Array:
    names = model.names
    sample = np.array([names.samples.index(name) for _, name in names.rows])
    channel = np.array([names.channels.index(name) for name, _ in names.rows])
    return jnp.zeros((len(names.samples), len(names.channels)), rows.dtype).at[sample, channel].set(rows)


def _signals(model: HistFactoryModel) -> tuple[str, ...]:
    """Samples with a row that the parameter of interest multiplies."""
    s, poi = model.likelihood.structure, model.poi_index
    scaled = np.zeros(s.n_rows, bool) if poi is None else (s.row_factors == poi).any(0)
    mine = {name for (_, name), flag in zip(model.names.rows, scaled, strict=True) if flag}
    return tuple(name for name in model.samples if name in mine)
