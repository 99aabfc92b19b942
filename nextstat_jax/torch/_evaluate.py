"""A loss of JAX on tensors: what is a tensor, what is batched, and where the session lies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch
from jax.typing import ArrayLike

from .._base._doors import as_array, no_type_check
from .._base._errors import ModelError
from .._training._sessions import Session, SignificanceLoss, check_template, require_session
from ._bridge import Tensors, apply, require_device

Numbers = torch.Tensor | ArrayLike | Sequence[Any]
Histogram = Numbers | Mapping[Any, Numbers]
"""Yields of the session's sample, or templates by key as ``HistFactoryModel.with_templates`` takes them."""
Device = torch.device | str | int


@no_type_check
def as_tensor(x: Numbers, *, device: Device | None = None) -> torch.Tensor:
    """A tensor of numbers of any origin, without a copy where that can be.

    Args:
        x: A tensor (returned as it is), anything with ``__dlpack__`` (JAX, CuPy, NumPy arrays; memory is shared: JAX
            takes its arrays for immutable, so do not write to the tensor), lists, or numbers. Python numbers become
            float64, as the models have.
        device: Where it has to be; where it is by default.

    Raises:
        ModelError: For what has no numbers.
    """
    if isinstance(x, torch.Tensor):
        tensor = x
    elif isinstance(x, np.ndarray) and x.dtype.kind in "fiub" and not np.ma.is_masked(x):
        # A read-only array cannot be shared: torch may write to what it has.
        tensor = torch.from_numpy(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
    elif hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
        tensor = torch.from_dlpack(x)
    else:
        try:
            tensor = torch.as_tensor(as_array(x, "it", np.dtype(np.float64)))
        except ModelError:
            raise ModelError(f"{x!r:.60} is not made of numbers: give a tensor, an array or a list") from None
    return tensor if device is None else tensor.to(device_of(device))


def device_of(device: Any) -> torch.device:
    """A device of torch; ``ModelError`` for anything else."""
    try:
        if isinstance(device, torch.device | str | int) and not isinstance(device, bool):
            return torch.device(device)
    # Torch has several kinds of errors for what is none.
    except (RuntimeError, TypeError, ValueError, OverflowError):
        pass
    raise ModelError(f"device={device!r:.60}: expected a device of torch, such as 'cpu' or 'cuda:0'")


@dataclass(frozen=True)
class _Program:
    """A loss as the bridge wants it: a function of arrays, and of a session with further arguments.

    Attributes:
        loss: Takes templates, the session (or the loss of JAX), and further arguments.
        keys: Of the templates; None for a single histogram.
        extra: For each further argument whether it is a tensor.
        ndim: Axes of each array in one call; those before are batches.
    """

    loss: Callable[..., jax.Array]
    keys: tuple[Any, ...] | None
    extra: tuple[bool, ...]

    def __call__(self, arrays: tuple[jax.Array, ...], constants: Any) -> jax.Array:
        """The loss of one set of arrays."""
        session, fixed, given = constants
        source = iter(arrays)
        if self.keys is None:
            templates = next(source)
        else:
            templates = {key: given[k] if k in given else next(source) for k, key in enumerate(self.keys)}
        rest = iter(fixed)
        return self.loss(templates, session, *(next(source) if tensor else next(rest) for tensor in self.extra))


def evaluate(
    loss: Callable[..., jax.Array],
    histogram: Histogram,
    session: Any,
    extra: Sequence[Any] = (),
    ndim: int = 0,
) -> torch.Tensor:
    """A loss of templates, a session and further arguments, each of them batched or not.

    Args:
        loss: Of JAX.
        histogram: As the user gave it.
        session: A ``Session``, or a loss of JAX.
        extra: Further arguments.
        ndim: Axes of a further argument in one call.
    """
    require_session(session, SignificanceLoss)
    if isinstance(histogram, Mapping):
        if not histogram:
            raise ModelError("there are no templates: give a histogram, or templates by key")
        keys, values = tuple(histogram), tuple(histogram.values())
    else:
        keys, values = None, (as_tensor(histogram),)
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    given = {k: v for k, v in enumerate(values) if not isinstance(v, torch.Tensor)}
    names = [key for key, v in zip(keys or (_sample(session),), values, strict=True) if isinstance(v, torch.Tensor)]
    for key, tensor in zip(names, tensors, strict=True):
        if tensor.is_complex():
            raise ModelError(f"template {key!r} is of {tensor.dtype}: expected real numbers")
    is_tensor = tuple(isinstance(x, torch.Tensor) for x in extra)
    more = [x for x in extra if isinstance(x, torch.Tensor)]
    if not tensors and not more:
        raise ModelError("none of the templates is a torch tensor: use the loss of nextstat_jax itself")
    device = (tensors or more)[0].device
    constants = (_placed(session, device), tuple(x for x in extra if not isinstance(x, torch.Tensor)), given)
    axes = _batch_axes(tensors, more, ndim)

    def check(plain: Tensors) -> None:
        for key, tensor in zip(names, plain, strict=False):
            _check_values(key, tensor)

    return apply(_Program(loss, keys, is_tensor), (*tensors, *more), constants, check, axes)


def _batch_axes(
    templates: Sequence[torch.Tensor], more: Sequence[torch.Tensor], ndim: int
) -> tuple[tuple[int | None, ...], ...]:
    """Levels of ``vmap`` for tensors with axes of batches before their own."""
    depths = [max(t.ndim - 1, 0) for t in templates] + [max(t.ndim - ndim, 0) for t in more]
    levels = max(depths, default=0)
    if not levels:
        return ()
    shapes = {tuple(t.shape[:depth]) for t, depth in zip((*templates, *more), depths, strict=True) if depth == levels}
    if len(shapes) > 1:
        raise ModelError(f"the batches have different shapes: {', '.join(map(str, sorted(shapes)))}")
    # From the inside out; a tensor without that axis is shared by the batch.
    return tuple(tuple(0 if depth > level else None for depth in depths) for level in range(levels))


def _sample(session: Any) -> str:
    return session.sample if isinstance(session, Session) else session.session.sample


def _check_values(key: Any, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = torch.aminmax(tensor.detach())
    # NaN fails every comparison.
    if not (float(low) >= 0 and float(high) < float("inf")):
        check_template(key, tensor.detach().cpu().double().numpy())


# Copies of sessions on other devices than JAX's own choice, by identity, since a session holds arrays and has no hash.
_COPIES: dict[tuple[int, torch.device], Any] = {}


def _placed(session: Any, device: torch.device) -> Any:
    """The session on the device of the tensors, moved there once."""
    wanted = require_device(device)
    if device.type == "cpu" and jax.default_backend() == "cpu":
        return session
    leaf = jax.tree.leaves(session)[0]
    if leaf.devices() == {wanted}:
        return session
    key = (id(session), device)
    if key not in _COPIES:
        _COPIES[key] = jax.device_put(session, wanted)
        weakref.finalize(session, _COPIES.pop, key, None)
    return _COPIES[key]
