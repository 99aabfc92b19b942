"""Many models at once: all signal points of a patch set, tested in one compiled call.

Models of one structure share every compiled function, whatever their yields. A stack holds them with a leading axis on
all arrays, one group for each structure, and goes over them by the schedule that suits the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .._base._doors import as_array, concrete, no_type_check
from .._base._errors import ModelError
from .._base._tables import dataframe
from .._batches._schedule import join, map_rows
from .._model._base import require_model, subject
from .._model._compile import Names
from .._model._model import HistFactoryModel
from .._model._reading import from_pyhf
from .._workspace._patched import read_patched
from .._workspace._patches import Patch, PatchSet
from ._asymptotics import Discovery, HypoTest, asymptotic_test, check_tested, discovery
from ._fit import FitResult, fit
from ._limits import UpperLimit, upper_limit
from ._result import result, static
from ._statistics import statistic_of


@result
class ModelStack:
    """Several models, to be tested or fitted together.

    Make one with ``stack_models`` or ``stack_patches``. ``len`` counts the models, iteration goes over them, and
    ``stack[label]`` or ``stack[position]`` is one of them.

    Attributes:
        groups: One model for each structure, its arrays with a leading axis over the members of the group.
        labels: What each model is called, in the given order.
        values: Coordinates of each model in a grid of signal hypotheses (masses), or empty.
        coordinates: What these values are called.
    """

    groups: tuple[HistFactoryModel, ...]
    labels: tuple[Hashable, ...] = static()
    values: tuple[tuple[int | float | str, ...], ...] = static()
    coordinates: tuple[str, ...] = static()
    _names: tuple[Names, ...] = static()
    _members: tuple[tuple[int, ...], ...] = static()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[HistFactoryModel]:
        return (self._model(position) for position in range(len(self)))

    def __getitem__(self, key: Any) -> HistFactoryModel:
        """One model, by its label, or by its position if no label is that number."""
        if isinstance(key, Hashable) and key in self.labels:
            return self._model(self.labels.index(key))
        if isinstance(key, int | np.integer) and -len(self) <= key < len(self):
            return self._model(int(key) % len(self))
        known = ", ".join(map(repr, self.labels[:3])) + (", ..." if len(self) > 3 else "")
        raise ModelError(f"no model {key!r} in a stack of {len(self)}: {known}")

    def _model(self, position: int) -> HistFactoryModel:
        for group, members in zip(self.groups, self._members, strict=True):
            if position in members:
                likelihood = _take(group.likelihood, members.index(position))
                return HistFactoryModel(likelihood, self._names[position])
        raise AssertionError(position)

    @property
    def n_groups(self) -> int:
        """Number of groups, hence of compilations for each function."""
        return len(self.groups)

    @property
    def message(self) -> str:
        """How many groups there are, and what this means."""
        if self.n_groups == 1:
            return f"{len(self)} models of one structure: functions are compiled once for all of them"
        sizes = ", ".join(str(len(members)) for members in self._members)
        found = f"{len(self)} models in {self.n_groups} groups of one structure ({sizes})"
        return f"{found}: functions are compiled once for each"

    def map(self, function: Any, *args: Any, in_axes: Any = None) -> Any:
        """Applies ``function(model, *args)`` to every model.

        One compiled call for each structure; a second call with the same function object compiles nothing, so define
        the function once rather than as a new lambda in each call. On a CPU the models are spread over the cores.
        Differentiable like the function itself.

        Args:
            function: Takes a model and returns a pytree of arrays, of equal shapes for all models. The model has the
                names of the first one of its group, also where others differ (the signal sample's, for example).
            *args: Pytrees of arrays.
            in_axes: As in ``jax.vmap``, for the arguments after the model: None hands the whole argument to every
                model, 0 one entry of its leading axis to each; or a sequence with one of these for each argument.

        Returns:
            The results with a leading axis over the models, in their order. Static fields are the first model's.

        Raises:
            ModelError: For arguments that are no arrays, a leading axis that does not fit, or results of groups whose
                shapes differ.
        """
        if not callable(function):
            raise ModelError(f"{function!r:.60} cannot be called: expected a function of a model")
        axes = _axes(in_axes, len(args))
        arrays = tuple(_arrays(arg, k, axis, len(self)) for k, (arg, axis) in enumerate(zip(args, axes, strict=True)))
        if self.n_groups == 1:
            return map_rows(function, (self.groups[0], *arrays), (0, *axes))
        parts = []
        for group, members in zip(self.groups, self._members, strict=True):
            rows = np.array(members)
            mine = [_take(arg, rows) if axis == 0 else arg for arg, axis in zip(arrays, axes, strict=True)]
            parts.append(map_rows(function, (group, *mine), (0, *axes)))
        return self._together(parts)

    def _together(self, parts: Sequence[Any]) -> Any:
        """Results of the groups in the order of the models."""
        order = np.argsort([position for members in self._members for position in members])
        leaves = [jax.tree.leaves(part) for part in parts]
        shapes = [[leaf.shape[1:] for leaf in part] for part in leaves]
        for k, other in enumerate(shapes):
            if other != shapes[0]:
                what = self.labels[self._members[k][0]]
                raise ModelError(
                    f"the results of {self.labels[self._members[0][0]]!r} and {what!r} differ in shape, like their "
                    "models: map a function that returns what all have, such as lambda model: fit(model).mu"
                )
        return jax.tree.unflatten(jax.tree.structure(parts[0]), [join(xs, order) for xs in zip(*leaves, strict=True)])

    @no_type_check
    def fit(self, *, data: ArrayLike | None = None) -> FitResult:
        """``fit`` of every model, with a leading axis.

        Args:
            data: None for the data of each model; a data vector for all of them; or one for each, shape (n_models,
                n_data). The names of parameters in the result are the first model's.
        """
        return self.map(_fit, *self._data(data), in_axes=self._data_axis(data))

    @no_type_check
    def hypotest(self, mu: ArrayLike = 1.0, *, data: ArrayLike | None = None, test_stat: str = "qtilde") -> HypoTest:
        """``hypotest`` of every model with asymptotic distributions, with a leading axis.

        Args:
            mu: Tested value of the parameter of interest, or values, shape (n_mu,); the same for all models.
            data: As in ``fit``.
            test_stat: ``"qtilde"``, ``"q"`` or ``"q0"`` (with ``mu=0``).
        """
        self._require_poi()
        statistic = statistic_of(test_stat)
        for group in self._tightest():
            about = subject(group, free_poi=True, tilde=statistic.bounded)
            mu = check_tested(group, about, mu, statistic)
        axes = (None, self._data_axis(data)) if data is not None else (None,)
        return self.map(_hypotest(test_stat), mu, *self._data(data), in_axes=axes)

    @no_type_check
    def discovery(self, *, data: ArrayLike | None = None) -> Discovery:
        """``discovery`` of every model, with a leading axis; ``data`` as in ``fit``."""
        self._require_poi()
        return self.map(_discovery, *self._data(data), in_axes=self._data_axis(data))

    @no_type_check
    def upper_limit(
        self, *, data: ArrayLike | None = None, level: float = 0.95, test_stat: str = "qtilde"
    ) -> UpperLimit:
        """``upper_limit`` of every model, with a leading axis; ``data`` as in ``fit``, the rest as there."""
        self._require_poi()
        return self.map(_upper_limit(level, test_stat), *self._data(data), in_axes=self._data_axis(data))

    def to_dataframe(self, **columns: Any) -> Any:
        """A pandas data frame with one row for each model: its label as index, its coordinates, and given columns.

        Args:
            **columns: Arrays of shape (n_models,), such as ``cls=stack.hypotest().cls``.

        Raises:
            ModelError: For a column of another shape.
            MissingExtraError: If pandas is not installed.
        """
        for name, column in columns.items():
            if np.shape(column) != (len(self),):
                raise ModelError(f"column {name!r} has shape {np.shape(column)}, expected ({len(self)},)")
        grid = dict(zip(self.coordinates, zip(*self.values, strict=True), strict=True))
        return dataframe({**grid, **columns}, index=list(self.labels))

    def _data(self, data: Any) -> tuple[Any, ...]:
        """Data as an argument of ``map``, checked at the door: none, or one."""
        if data is None:
            return ()
        array = as_array(data, "data", self.groups[0].dtype)
        if array.ndim == 2 and len(array) != len(self):
            raise ModelError(f"data has shape {array.shape}, expected one row for each of {len(self)} models")
        rows = array if array.ndim == 2 else array[None]
        for group, members in zip(self.groups, self._members, strict=True):
            head = HistFactoryModel(_take(group.likelihood, 0), group.names)
            for row in rows[np.array(members)] if array.ndim == 2 else rows:
                head.data_vector(row)
        return (array,)

    def _data_axis(self, data: Any) -> int | None:
        return 0 if np.ndim(data) == 2 else None

    def _require_poi(self) -> None:
        # Before anything is compiled for the groups that have one.
        for group in self.groups:
            group.require_poi()

    def _tightest(self) -> Iterator[HistFactoryModel]:
        """For each group a model with bounds that are inside those of all its members."""
        for group in self.groups:
            k = group.likelihood
            inside = replace(_take(k, 0), lower=k.lower.max(0), upper=k.upper.min(0))
            yield HistFactoryModel(inside, group.names)

    def __repr__(self) -> str:
        first = self.groups[0]
        return f"ModelStack({self.message}; poi={first.poi!r}, {first.dtype})"


def stack_models(models: Any, labels: Any = None) -> ModelStack:
    """Puts models together, to test or fit them in one compiled call.

    Models share a group if their structures are equal and their names differ at most like those of signal points: a
    name that two models share stands in the same place in both. Yields, uncertainties, data, bounds and start values
    are free to differ.

    Args:
        models: Models, or a mapping from labels to models.
        labels: Names of the models in a sequence, unique; their positions by default.

    Returns:
        ``ModelStack``, in the given order. Its ``message`` says how many groups there are.

    Raises:
        ModelError: For no model at all, something that is no model, labels that are not unique or not as many as
            models, or models of different precision.

    Example:
        >>> def spec(signal):
        ...     strength = {"name": "mu", "type": "normfactor", "data": None}
        ...     samples = [
        ...         {"name": "signal", "data": [signal], "modifiers": [strength]},
        ...         {"name": "background", "data": [50.0], "modifiers": []},
        ...     ]
        ...     return {
        ...         "channels": [{"name": "SR", "samples": samples}],
        ...         "observations": [{"name": "SR", "data": [64.0]}],
        ...         "measurements": [{"name": "test", "config": {"poi": "mu", "parameters": []}}],
        ...         "version": "1.0.0",
        ...     }
        >>> stack = stack_models({mass: from_pyhf(spec(1e4 / mass)) for mass in (500, 1000)})
        >>> stack
        ModelStack(2 models of one structure: functions are compiled once for all of them; poi='mu', float64)
        >>> print(stack.fit().mu)
        [0.7 1.4]
    """
    if isinstance(models, Mapping):
        if labels is not None:
            raise ModelError("labels are given twice: as the keys of a mapping and as labels")
        labels, models = tuple(models), tuple(models.values())
    if isinstance(models, HistFactoryModel | str) or not isinstance(models, Iterable):
        raise ModelError(f"expected a sequence of models or a mapping to models, found {type(models).__name__}")
    models = tuple(models)
    labels = tuple(range(len(models)) if labels is None else labels)
    _check(models, labels)
    members = _groups(models)
    groups = tuple(_stacked([models[position] for position in group]) for group in members)
    return ModelStack(groups, labels, (), (), tuple(model.names for model in models), members)


def stack_patches(workspace: Any, patch_set: Any, names: Iterable[Any] | None = None, **options: Any) -> ModelStack:
    """Reads a workspace with every patch of a patch set: one model for each signal point.

    The workspace is read and its digests are verified once, which makes this several times faster than ``from_pyhf``
    for each patch.

    Args:
        workspace: The background-only workspace, as in ``from_pyhf``.
        patch_set: A ``PatchSet``, or what ``PatchSet.read`` takes: a path, JSON text, a mapping, a ``pyhf.PatchSet``.
        names: Which patches, by name or values; all by default.
        **options: ``measurement``, ``normsys``, ``histosys``, ``dtype``, ``clip_sample_data`` and ``clip_bin_data`` of
            ``from_pyhf``.

    Returns:
        ``ModelStack`` with the names of the patches as ``labels``, and their ``values``.

    Raises:
        WorkspaceError: If the workspace, the patch set or a patch cannot be read, or there is no patch of a name.
        ModelError: For an unknown option, or the same patch twice.
    """
    if "patch" in options:
        raise ModelError("patch: a stack takes its patches from the patch set; patch the workspace first")
    patches = patch_set if isinstance(patch_set, PatchSet) else PatchSet.read(patch_set)
    chosen: Sequence[Patch] = patches.patches
    if names is not None:
        chosen = [patches[name] for name in ([names] if isinstance(names, str) else names)]
    _check_labels([patch.name for patch in chosen])
    models = {
        patch.name: from_pyhf(spec, **options)
        for patch, spec in zip(chosen, read_patched(workspace, chosen), strict=True)
    }
    stack = stack_models(models)
    values = tuple(patch.values for patch in chosen)
    return ModelStack(stack.groups, stack.labels, values, patches.labels, stack._names, stack._members)


def _check(models: Sequence[Any], labels: Sequence[Any]) -> None:
    """Refuses what cannot be stacked."""
    if not models:
        raise ModelError("there is no model to stack: give at least one")
    if len(labels) != len(models):
        raise ModelError(f"{len(labels)} labels for {len(models)} models: give one for each")
    _check_labels(labels)
    for label, model in zip(labels, models, strict=True):
        try:
            require_model(model)
        except ModelError as error:
            raise ModelError(f"model {label!r}: {error}") from None
        if model.likelihood.nominal.ndim != 1:
            raise ModelError(f"model {label!r} is a batch of models already: give them one by one")
    kinds = {model.dtype: label for label, model in zip(labels, models, strict=True)}
    if len(kinds) > 1:
        found = " and ".join(f"{label!r} is {kind}" for kind, label in kinds.items())
        raise ModelError(f"models of different precision cannot be stacked: {found}; read them with one dtype")


def _check_labels(labels: Sequence[Any]) -> None:
    seen = set()
    for label in labels:
        if not isinstance(label, Hashable):
            raise ModelError(f"the label {label!r:.60} is a {type(label).__name__}: give a string, number or tuple")
        if label in seen:
            raise ModelError(f"the label {label!r} is given twice: each model needs its own")
        seen.add(label)


def _groups(models: Sequence[HistFactoryModel]) -> tuple[tuple[int, ...], ...]:
    """Positions of the models that share a group."""
    groups: dict[Any, list[list[int]]] = {}
    for position, model in enumerate(models):
        alike = groups.setdefault(model.likelihood.structure, [])
        for members in alike:
            if _stands_for(models[members[0]].names, model.names):
                members.append(position)
                break
        else:
            alike.append([position])
    return tuple(sorted(tuple(members) for alike in groups.values() for members in alike))


def _stands_for(first: Names, other: Names) -> bool:
    """Whether the names of one model can stand for those of another of the same structure."""
    if first == other:
        return True
    pairs = [
        ([name for name, *_ in first.sets], [name for name, *_ in other.sets]),
        (first.shifts, other.shifts),
        (first.channels, other.channels),
        *zip(zip(*first.rows, strict=True), zip(*other.rows, strict=True), strict=True),
    ]
    same_bins = first.channel_bins == other.channel_bins and first.constraints == other.constraints
    if not same_bins or _place(first) != _place(other) or not all(_same_places(a, b) for a, b in pairs):
        return False
    renamed = dict(zip(*pairs[0], strict=True))
    return {(renamed.get(name, name), key) for name, key in first.configured} == set(other.configured)


def _place(names: Names) -> int | None:
    """Index of the parameter of interest, which all members of a group have in one place."""
    return None if names.poi is None else names.parameters.index(names.poi)


def _same_places(a: Iterable[str], b: Iterable[str]) -> bool:
    """Whether names differ one to one, and those that both have stand in the same places."""
    a, b = tuple(a), tuple(b)
    pairs = set(zip(a, b, strict=False))
    both = set(a) & set(b)
    return (
        len(a) == len(b)
        and len(pairs) == len(set(a)) == len(set(b))
        and all(x == y or {x, y}.isdisjoint(both) for x, y in pairs)
    )


def _stacked(models: Sequence[HistFactoryModel]) -> HistFactoryModel:
    def stack(*xs: Any) -> Array:
        if all(map(concrete, xs)):
            return jax.device_put(np.stack([np.asarray(x) for x in xs]))
        return jnp.stack(xs)

    return HistFactoryModel(jax.tree.map(stack, *(model.likelihood for model in models)), models[0].names)


def _take(tree: Any, rows: int | np.ndarray) -> Any:
    """Entries of a leading axis; of numbers that are known without compiling a slice for each shape."""

    def take(x: Any) -> Any:
        known = concrete(x) and isinstance(x.dtype, np.dtype)
        return jax.device_put(np.asarray(x)[rows]) if known else x[rows]

    return jax.tree.map(take, tree)


def _axes(in_axes: Any, n: int) -> tuple[int | None, ...]:
    axes = (in_axes,) * n if in_axes is None or isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != n or any(axis is not None and axis != 0 for axis in axes):
        raise ModelError(f"in_axes={in_axes!r}: expected None, 0, or one of these for each of {n} arguments")
    return axes


def _arrays(arg: Any, position: int, axis: int | None, n: int) -> Any:
    """An argument with arrays as leaves, and a leading axis over the models if it is mapped."""
    try:
        arrays = jax.tree.map(jnp.asarray, arg)
    except (TypeError, ValueError):
        raise ModelError(
            f"argument {position} of map is {arg!r:.60}: expected arrays; bind options with a def"
        ) from None
    shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(arrays)}
    if axis == 0 and shapes != {(n,)}:
        raise ModelError(
            f"argument {position} of map: its leading axis must be that of {n} models, not {sorted(shapes)}"
        )
    return arrays


# One function object for each set of options, so that what was compiled is found again.


def _fit(model: HistFactoryModel, data: Any = None) -> FitResult:
    return fit(model, data=data)


def _discovery(model: HistFactoryModel, data: Any = None) -> Discovery:
    return discovery(model, data=data)


@cache
def _hypotest(test_stat: str) -> Any:
    return lambda model, mu, data=None: asymptotic_test(model, mu, data=data, test_stat=test_stat)


@cache
def _upper_limit(level: float, test_stat: str) -> Any:
    return lambda model, data=None: upper_limit(model, data=data, level=level, test_stat=test_stat)
