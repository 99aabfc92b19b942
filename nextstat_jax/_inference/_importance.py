"""What the expected significance hangs on: each systematic's size and each bin's yields, by one gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .._base._doors import concrete, no_type_check
from .._base._errors import ModelError
from .._base._numerics import safe_sqrt
from .._base._tables import dataframe, plain
from .._likelihood._binned import HistFactory
from .._likelihood._interpolation import factor_coefficients
from .._model._base import require_free, require_model
from .._model._model import HistFactoryModel
from .._model._templates import first_cells
from ._profile import statistic_test
from ._result import Result, result, static

if TYPE_CHECKING:
    import pandas as pd


@result
class Importance(Result):
    """How the discovery significance changes with what went into it.

    Attributes:
        z0: The significance, in standard deviations.
        systematics: d(Z0) / d(size) for each parameter with a constraint, shape (n,): the change of Z0 if its
            uncertainty were twice as large, to first order. Negative where the systematic costs significance.
        cells: d(Z0) / d(yield) of each sample in each bin, in 1 / events, shape (n_cells,).
        yields: The nominal yields, shape (n_cells,).
        status: The worst status of the fits behind Z0.
        names: Names of the n parameters.
        rows: (channel, sample, number of bins) of the cells, in their order.
        data: ``"asimov"`` (expected at mu = 1), or ``"given"``.
    """

    z0: Float[Array, ""]
    systematics: Float[Array, " systematic"]
    cells: Float[Array, " cell"]
    yields: Float[Array, " cell"]
    status: Int[Array, ""]
    names: tuple[str, ...] = static()
    rows: tuple[tuple[str, str, int], ...] = static()
    data: str = static()

    def of(self, sample: str, channel: str | None = None) -> Float[Array, " bin"]:
        """d(Z0) / d(yield) of a sample, bin by bin, in all channels where it appears or in one.

        Raises:
            ModelError: Where there is no such sample.
        """
        ends = np.cumsum([n for *_, n in self.rows])
        parts = [
            self.cells[end - n : end]
            for (where, name, n), end in zip(self.rows, ends.tolist(), strict=True)
            if name == sample and channel in (None, where)
        ]
        if not parts:
            known = sorted({name for _, name, _ in self.rows})
            raise ModelError(
                f"there is no sample {sample!r}{f' in {channel!r}' if channel else ''}: {', '.join(known)}"
            )
        return jnp.concatenate(parts)

    def _columns(self) -> dict[str, Any]:
        values = np.asarray(self.systematics)
        order = np.argsort(-np.abs(values), kind="stable")
        return {"name": [self.names[k] for k in order], "dz0_dsize": values[order]}

    def _bins(self) -> dict[str, Any]:
        keys = [(channel, sample, k) for channel, sample, n in self.rows for k in range(n)]
        return {
            "channel": [channel for channel, _, _ in keys],
            "sample": [sample for _, sample, _ in keys],
            "bin": [k for _, _, k in keys],
            "yield": np.asarray(self.yields),
            "dz0_dyield": np.asarray(self.cells),
        }

    def _facts(self) -> dict[str, Any]:
        self._require_single()

        def rows(columns: dict[str, Any]) -> list[Any]:
            return [plain(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

        return {"z0": self.z0, "data": self.data, "systematics": rows(self._columns()), "bins": rows(self._bins())}

    def to_dataframe(self, of: str = "systematics") -> pd.DataFrame:
        """One row for each systematic, or with ``of="bins"`` for each sample in each bin, as a pandas data frame.

        Raises:
            ModelError: For another ``of``.
        """
        if of not in ("systematics", "bins"):
            raise ModelError(f"of={of!r}: expected 'systematics' or 'bins'")
        self._require_single()
        return dataframe(self._columns() if of == "systematics" else self._bins())

    def _title(self) -> str:
        kind = "expected" if self.data == "asimov" else "observed"
        head = f"Importance for the {kind} Z0 = {float(self.z0):.6g}: change per systematic of twice its size"
        return f"{head}: {self.message}"


@no_type_check
def importance(
    model: HistFactoryModel,
    *,
    data: str | ArrayLike | None = "asimov",
    fixed: Mapping[str, ArrayLike] | None = None,
) -> Importance:
    """What the discovery significance of an analysis hangs on.

    The counterpart of feature importance: one gradient of Z0, with everything profiled, with respect to the size of
    each systematic uncertainty and to the yield of each sample in each bin. The size of a histosys or normsys is the
    distance of its variations from the nominal (of a factor, in the logarithm); that of a staterror, a shapesys or a
    luminosity is its width.

    Args:
        model: A model with a parameter of interest.
        data: ``"asimov"``, what the templates themselves predict at mu = 1; or data as in ``fit`` (None: observed),
            which do not follow the yields.
        fixed: Parameters to hold, as in ``fit``.

    Returns:
        ``Importance``; can be jitted and batched.

    Raises:
        ModelError: Without a parameter of interest, or for data of a wrong shape.
    """
    require_model(model)
    if not isinstance(model, HistFactoryModel):
        raise ModelError(f"importance needs a model with channels and samples, and a {type(model).__name__} has none")
    poi = model.require_poi()
    model = model if fixed is None else model.with_fixed(fixed)
    require_free(model.likelihood, model.parameter_names(), poi)
    if isinstance(data, str) and data != "asimov":
        raise ModelError(f"data={data!r}: expected 'asimov' or an array")
    asimov = isinstance(data, str)
    given = None if asimov else model.data_vector(data)
    sized = _sized(model.likelihood, poi)
    names, ends = model.names, first_cells(model.names)

    def significance(nominal: Array, sizes: Array) -> tuple[Array, Array]:
        # By with_templates, so that what follows from the yields follows.
        rows = zip(names.rows, ends, ends[1:], strict=False)
        filled = model.with_templates({(sample, channel): nominal[a:b] for (channel, sample), a, b in rows})
        changed = replace(filled, likelihood=_resized(filled.likelihood, sizes))
        about = changed.asimov_data(mu=1.0) if asimov else given
        test = statistic_test(changed, 0.0, about, None, None, "q0", whole=False)
        return safe_sqrt(test.value), test.status

    start = (model.likelihood.nominal, jnp.ones_like(model.likelihood.init))
    (value, status), (cells, sizes) = jax.value_and_grad(significance, argnums=(0, 1), has_aux=True)(*start)
    bins = dict(zip(names.channels, names.channel_bins, strict=True))
    rows = tuple((channel, sample, bins[channel]) for channel, sample in names.rows)
    chosen = tuple(names.parameters[k] for k in sized)
    return Importance(
        value, sizes[np.array(sized, dtype=int)], cells, start[0], status,
        names=chosen, rows=rows, data="asimov" if asimov else "given",
    )  # fmt: skip


def _sized(likelihood: HistFactory, poi: int) -> list[int]:
    """Parameters whose uncertainty has a size: those with a constraint, and not fixed for want of one."""
    s = likelihood.structure
    constrained = {*s.normal_params.tolist(), *s.poisson_params.tolist()}
    frozen = np.asarray(likelihood.frozen) > 0 if concrete(likelihood.frozen) else np.zeros(s.n_params, dtype=bool)
    return [k for k in sorted(constrained) if not frozen[k] and k != poi]


def _resized(likelihood: HistFactory, sizes: Array) -> HistFactory:
    """The likelihood with the uncertainty of every parameter scaled by its size, shape (n_params,)."""
    s = likelihood.structure
    changed: dict[str, Array] = {}
    acting = np.zeros(s.n_params + 1, dtype=bool)
    if s.n_shifts:
        acting[s.shift_params] = True
        changed["shifts"] = s.shift_layout.by_shift(likelihood.shifts, sizes[s.shift_params])
    if s.n_entries:
        acting[s.entry_params] = True
        # The last two of the numbers behind a factor are the logarithms of its variations.
        size = jnp.append(sizes, 1.0)[s.entry_params]
        hi, lo = (jnp.exp(size * likelihood.factors[k]) for k in (6, 7))
        changed["factors"] = factor_coefficients(hi, lo, jnp)
    # A parameter that shifts or multiplies by variations has a width of 1 in units of them, which stays.
    width = jnp.where(acting[s.normal_params], 1.0, sizes[s.normal_params])
    counts = sizes[s.poisson_params] ** -2
    at = s.n_bins + s.poisson_aux
    changed["widths"] = likelihood.widths * width
    changed["tau"] = likelihood.tau * counts
    changed["observed"] = likelihood.observed.at[at].set(likelihood.observed[at] * counts)
    return replace(likelihood, **changed)
