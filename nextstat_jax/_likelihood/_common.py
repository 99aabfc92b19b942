"""A few sizes for all small likelihoods, so that different workspaces share compiled programs.

The index tables of a likelihood become arrays like its yields, and all are padded to one of a few sizes: what a program
is compiled for is the size. What is added has no effect on any number but by rounding: parameters that are held, bins
without yields and counts, cells without yields, shifts and factors of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .._base._compiled import Layout, Packed
from .._base._doors import concrete, on_device, pytree
from ._methods import Binned
from ._pieces import ShiftRows
from ._segments import GroupSum
from ._structure import Structure
from ._tables import LEVELS, Level, Sizes, Tables, blank, filled, level_of, places_of, put

# Without its logarithm: a normal constraint of this width adds nothing to the NLL.
_NO_WIDTH = 1.0 / np.sqrt(2.0 * np.pi)


class CommonStructure:
    """A structure in which index tables are arrays; it stands for its own ``derived``."""

    clip_sample = clip_bin = pairs = None

    def __init__(self, sizes: Sizes, tables: Tables) -> None:
        level = LEVELS[sizes.level]
        self.normsys, self.histosys = sizes.normsys or "code4", sizes.histosys or "code4p"
        self.n_params, self.n_bins, self.n_aux = level.params, level.bins, level.params
        self.n_rows, self.n_cells = level.rows, level.cells
        self.n_shifts, self.n_entries = tables.shift_params.shape[0], tables.entry_params.size
        vars(self).update(tables._asdict())
        self.kinks = tables.kinks if sizes.kinked else None
        self.shift_layout = ShiftRows(self.n_shifts, level.cells, tables.cell_bins)
        self.bins = GroupSum(level.bins, tables.bin_cells)
        self.pair_cells = GroupSum(tables.pair_bins.shape[0], tables.pair_members)

    @property
    def derived(self) -> CommonStructure:
        """Itself."""
        return self


@pytree
@dataclass(frozen=True)
class InTables(Binned):
    """A binned likelihood in common form, as a compiled function sees it.

    Attributes:
        tables: The index tables.
        sizes: Their sizes.
    """

    tables: Tables
    sizes: Sizes = field(metadata={"static": True})

    @property
    def structure(self) -> CommonStructure:
        """The index tables."""
        return CommonStructure(self.sizes, self.tables)

    def n_data(self, data: Array) -> Array:
        """Without the padding."""
        del data
        return self.tables.n_data


@pytree
@dataclass(frozen=True)
class Parcel:
    """``InTables`` as two vectors: an argument of a compiled function takes its time.

    Attributes:
        floats: Floating-point numbers.
        integers: Index tables.
        sizes: What is in them.
    """

    floats: Array
    integers: Array
    sizes: Sizes = field(metadata={"static": True})

    def opened(self) -> InTables:
        """The likelihood."""
        return _layout(self.sizes).unpack(Packed(self.floats, self.integers))


@dataclass(frozen=True)
class Common:
    """A likelihood in common form, and how vectors cross to it and back; on the host.

    Attributes:
        parcel: The likelihood.
        init: Initial parameters in its form.
        frozen: 1 where a parameter cannot move, in its form.
        observed: The observed data in its form.
        n_params: Parameters of the likelihood itself.
        n_bins: Its bins.
    """

    parcel: Parcel
    init: np.ndarray
    frozen: np.ndarray
    observed: Array
    n_params: int
    n_bins: int

    @property
    def level(self) -> Level:
        """The sizes."""
        return LEVELS[self.parcel.sizes.level]

    def data(self, data: Any) -> Array:
        """Main and auxiliary data, shape (n_data,), in common form."""
        return on_device(_wide(np.asarray(data), self.n_bins, self.level))

    def params(self, params: Any) -> np.ndarray:
        """An array whose last axis is over parameters, in common form."""
        params = np.asarray(params)
        result = np.zeros((*params.shape[:-1], self.level.params), params.dtype)
        result[..., : self.n_params] = params
        return result

    def narrowed(self, array: Any) -> Array:
        """Of an array whose last axis is over parameters those of the likelihood."""
        return array if self.n_params == self.level.params else on_device(np.asarray(array)[..., : self.n_params])


def _wide(data: np.ndarray, n_bins: int, level: Level, fill: int = 0) -> np.ndarray:
    """Main and auxiliary data with what fills behind each."""
    result = np.full(level.bins + level.params, fill, data.dtype)
    put(result, data[:n_bins])
    put(result[level.bins :], data[n_bins:])
    return result


# The floating-point leaves that a likelihood in common form is made of, and what fills the places between them.
_LEAVES = (
    "nominal", "shifts", "factors", "widths", "tau", "observed", "init", "lower", "upper", "frozen", "scale",
)  # fmt: skip
_FILL = np.array([0.0, 1.0, _NO_WIDTH])


def common_form(arrays: Any, s: Structure) -> Common | None:
    """A likelihood in common form; None where it is too large, or unlike others, or not all of it is known."""
    found = _found(s)
    leaves = [getattr(arrays, name) for name in _LEAVES]
    if found is None or s.pairs is not None or np.ndim(arrays.nominal) != 1 or not all(map(concrete, leaves)):
        return None
    leaves = [np.ravel(np.asarray(leaf)) for leaf in leaves]
    dtype = leaves[0].dtype
    sizes = found.sizes if dtype == np.float64 else replace(found.sizes, dtype=dtype.name)
    floats = np.concatenate([*leaves, _FILL.astype(dtype)])[found.gather]
    floats.flags.writeable = False
    init, frozen, observed = (floats[part] for part in found.parts)
    integers, place = found.integers, _place(arrays.nominal)
    if place is not None:
        integers = on_device(integers, place)
    vector, observed = on_device((floats, observed), place)
    return Common(Parcel(vector, integers, sizes), init, frozen, observed, s.n_params, s.n_bins)


def _place(array: Any) -> Any:
    """Where the user has put an array, or None."""
    return array.sharding if isinstance(array, Array) and array.committed else None


class _Found(NamedTuple):
    """What depends on the structure alone.

    Attributes:
        sizes: The sizes, for float64.
        integers: The tables, packed.
        gather: Where each floating-point number of the common form comes from, among the leaves and what fills.
        parts: Where initial parameters, ``frozen`` and observed data are among these numbers.
    """

    sizes: Sizes
    integers: Array
    gather: np.ndarray
    parts: tuple[slice, slice, slice]


@lru_cache(maxsize=64)
def _found(s: Structure) -> _Found | None:
    """A structure in the smallest of the sizes, or None."""
    lines, chunks = np.nonzero(s.entry_params < s.n_params)
    entries, rows = (lines, chunks), s.chunk_rows[chunks]
    level = level_of(s, rows)
    if level is None:
        return None
    # The smallest are spared what they do not have. Others are more alike with it than without.
    no_normsys, no_histosys, no_gammas = (None, None, 0) if level == 0 else ("code4", "code4p", 1)
    sizes = Sizes(
        level,
        "float64",
        s.normsys if len(rows) else no_normsys,
        s.histosys if s.n_shifts else no_histosys,
        s.derived.kinks is not None,
        len(s.poisson_params) > 0,
        len(s.cell_factors) if len(s.derived.gammas) else no_gammas,
    )
    places = _places_of_floats(s, sizes, entries)
    tables = filled(s, sizes, s.entry_params[entries], rows)
    packed = _layout(sizes).packed(InTables(**places, tables=tables, sizes=sizes))
    gather = packed.floats.astype(np.int64)
    parts = []
    for name in ("init", "frozen", "observed"):
        first = int(np.argmax(gather == places[name][0]))
        parts.append(slice(first, first + len(places[name])))
    return _Found(sizes, on_device(packed.integers), gather, tuple(parts))


def _places_of_floats(s: Structure, sizes: Sizes, entries: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """For each leaf of the common form, where its numbers come from."""
    n_normal, n_poisson = len(s.normal_params), len(s.poisson_params)
    shapes = {
        "nominal": (s.n_cells,),
        "shifts": (2, s.n_shifts, s.n_cells),
        "factors": (8, *s.entry_params.shape),
        "widths": (n_normal,),
        "tau": (n_poisson,),
        "observed": (s.n_bins + s.n_aux,),
        "scale": (s.n_bins,),
    }
    mine, count = {}, 0
    for name in _LEAVES:
        shape = shapes.get(name, (s.n_params,))
        size = int(np.prod(shape))
        mine[name] = np.arange(count, count + size).reshape(shape)
        count += size
    zero, one, no_width = count, count + 1, count + 2
    mine["factors"] = mine["factors"][:, *entries][:, None]
    fill = dict.fromkeys(_LEAVES, zero) | {"widths": no_width, "frozen": one, "scale": one}
    empty = _layout(sizes).zeros()
    result: dict[str, Any] = {"uncertainties": np.zeros(0)}
    for name in _LEAVES:
        result[name] = np.full(getattr(empty, name).shape, fill[name])
        put(result[name], mine[name])
    return result | {"observed": _wide(mine["observed"], s.n_bins, LEVELS[sizes.level], zero)}


@cache
def _layout(sizes: Sizes) -> Layout:
    """How a likelihood in common form is packed."""
    level, dtype = LEVELS[sizes.level], np.dtype(sizes.dtype)
    places = places_of(sizes)

    def floats(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    per_param = floats(level.params)
    return Layout.of(
        InTables(
            nominal=floats(level.cells),
            shifts=floats(2, places.shifts, level.cells),
            factors=floats(8, 1, places.entries),
            widths=per_param,
            tau=floats(places.poisson),
            observed=floats(level.bins + level.params),
            uncertainties=floats(0),
            init=per_param,
            lower=per_param,
            upper=per_param,
            frozen=per_param,
            scale=floats(level.bins),
            tables=blank(sizes),
            sizes=sizes,
        )
    )
