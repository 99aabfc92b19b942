"""JAX functions as functions of torch tensors.

A function of JAX arrays becomes one of tensors: inputs and outputs change hands through DLPack without a copy, and
torch's autograd calls the derivative that JAX computed. A scalar function returns its gradient together with its value,
any other its linearization, so that the backward pass finds all that it needs. Only where torch asks for a graph of the
backward pass (double backward, ``torch.func``) is the derivative itself bridged, as one more function, to any order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from .._base._errors import ModelError

# Elements up to which a copy on the CPU is cheaper than sharing memory.
_SMALL = 4096
_NUMPY_TYPES = (torch.float64, torch.float32, torch.int64, torch.int32)

Arrays = tuple[jax.Array, ...]
Tensors = tuple[torch.Tensor, ...]


def from_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """A JAX function as a function of torch tensors, for torch's autograd.

    Args:
        function: A pure function of arrays (in any pytrees) that ``jax.jit`` compiles. Keep one object: each new one
            (a lambda made in a loop) is compiled again.

    Returns:
        A function of the same arguments. Tensors among them may be of any dtype and layout, all on one device; other
        leaves (JAX and NumPy arrays, numbers) are constants, without a gradient; anything that JAX cannot trace
        (strings, functions) has to be hashable and is part of the program. The result has tensors in place of
        arrays, on the device of the tensors. It works under ``torch.no_grad``, ``torch.func.vmap`` (one vectorized
        call), ``torch.func.jvp``, and in double backward where JAX can differentiate the function twice. A gradient has
        the dtype of its tensor. Tensors that are changed in place between forward and backward raise, as elsewhere in
        torch.

    Raises:
        ModelError: (when called) Without any tensor, for tensors on several devices, or on one that JAX does not have.

    Example:
        >>> import jax.numpy as jnp, torch
        >>> from nextstat_jax.torch import from_jax
        >>> norm = from_jax(lambda x: jnp.sqrt((x**2).sum()))
        >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> norm(x).backward()
        >>> x.grad
        tensor([0.6000, 0.8000])
    """

    @wraps(function)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=_is_tensor)
        roles = tuple(map(_role, leaves))
        if "tensor" not in roles:
            raise ModelError("none of the arguments is a torch tensor: call the JAX function itself")
        static = tuple(leaf for leaf, role in zip(leaves, roles, strict=True) if role == "static")
        constants = tuple(leaf for leaf, role in zip(leaves, roles, strict=True) if role == "constant")
        tensors = tuple(leaf for leaf, role in zip(leaves, roles, strict=True) if role == "tensor")
        return apply(_Rebuild(function, treedef, roles, static), tensors, constants)

    return bridged


def apply(
    function: Callable[[Arrays, Any], Any],
    tensors: Sequence[torch.Tensor],
    constants: Any,
    check: Callable[[Tensors], None] | None = None,
    axes: tuple[tuple[int | None, ...], ...] = (),
) -> Any:
    """``function(arrays of the tensors, constants)`` with tensors in the result, differentiable by torch.

    Args:
        function: Hashable; equal functions share what was compiled.
        tensors: All on one device.
        constants: A pytree of arrays.
        check: Looks at the tensors' values, once they have some (those under ``torch.func`` have none before).
        axes: Levels of ``vmap``, from the inside out: for each tensor the axis of its batch, or None.
    """
    given = tuple(_readable(tensor) for tensor in tensors)
    _require_one_device(given)
    wanted = tuple(torch.is_grad_enabled() and t.requires_grad and t.is_floating_point() for t in given)
    call = _Call(Plan(function, wanted, axes), constants, check)
    flat = _Bridge.apply(call, *given)
    return call.rebuild(flat if isinstance(flat, tuple) else (flat,))


class _Rebuild(NamedTuple):
    """A user's function, with the places of its tensors, constants and static arguments."""

    function: Callable[..., Any]
    treedef: Any
    roles: tuple[str, ...]
    static: tuple[Any, ...]

    def __call__(self, tensors: Arrays, constants: tuple[Any, ...]) -> Any:
        sources = {"tensor": iter(tensors), "constant": iter(constants), "static": iter(self.static)}
        args, kwargs = jax.tree.unflatten(self.treedef, [next(sources[role]) for role in self.roles])
        return self.function(*args, **kwargs)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _role(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return "tensor"
    return "constant" if isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex) else "static"


@dataclass(frozen=True)
class Plan:
    """What is compiled: a function, the inputs to differentiate, and levels of ``vmap`` from the inside out."""

    function: Callable[[Arrays, Any], Any]
    wanted: tuple[bool, ...]
    axes: tuple[tuple[int | None, ...], ...] = ()

    def __call__(self, tensors: Arrays, constants: Any) -> Any:
        """The function under its levels of ``vmap``."""

        def one(*arrays: jax.Array) -> Any:
            return self.function(arrays, constants)

        mapped = one
        for axes in self.axes:
            mapped = jax.vmap(mapped, in_axes=axes)
        return mapped(*tensors)

    def chosen(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Those of the tensors that are differentiated."""
        return tuple(t for t, wanted in zip(tensors, self.wanted, strict=True) if wanted)

    def merged(self, chosen: Sequence[Any], tensors: Sequence[Any]) -> tuple[Any, ...]:
        """All tensors, with others in place of the chosen ones."""
        source = iter(chosen)
        return tuple(next(source) if wanted else t for t, wanted in zip(tensors, self.wanted, strict=True))


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Layout:
    """How a result is put together: its tree, and which of its leaves have derivatives."""

    treedef: Any
    smooth: tuple[bool, ...]


class _Split(NamedTuple):
    """A result in two: what torch may differentiate, and the rest (integers, booleans)."""

    smooth: tuple[jax.Array, ...]
    rest: tuple[jax.Array, ...]
    layout: _Layout


def _split(result: Any) -> _Split:
    leaves, treedef = jax.tree.flatten(result)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    smooth = tuple(jnp.issubdtype(a.dtype, jnp.inexact) for a in arrays)
    return _Split(
        tuple(a for a, s in zip(arrays, smooth, strict=True) if s),
        tuple(a for a, s in zip(arrays, smooth, strict=True) if not s),
        _Layout(treedef, smooth),
    )


@partial(jax.jit, static_argnums=0)
def _value(plan: Plan, tensors: Arrays, constants: Any) -> _Split:
    return _split(plan(tensors, constants))


class _Slopes(NamedTuple):
    """Gradients of a scalar with respect to the chosen tensors, one for each element of a batch; of either library."""

    arrays: Any


@partial(jax.jit, static_argnums=0)
def _linearize(plan: Plan, tensors: Arrays, constants: Any) -> tuple[_Split, Any]:
    """The result with what its derivative needs: gradients of a scalar, a linear map else."""
    if _is_scalar(plan, tensors, constants):
        return _with_slopes(plan, tensors, constants)

    def chosen(*arrays: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[Any, ...]]:
        split = _split(plan(plan.merged(arrays, tensors), constants))
        return split.smooth, (split.rest, split.layout)

    smooth, pull, (rest, layout) = jax.vjp(chosen, *plan.chosen(tensors), has_aux=True)
    return _Split(smooth, rest, layout), pull


def _is_scalar(plan: Plan, tensors: Arrays, constants: Any) -> bool:
    """Whether one call of the function, without its levels of ``vmap``, returns a single smooth number."""

    def shape(k: int, tensor: jax.Array) -> jax.ShapeDtypeStruct:
        depth = sum(axes[k] is not None for axes in plan.axes)
        return jax.ShapeDtypeStruct(tensor.shape[depth:], tensor.dtype)

    shapes = tuple(shape(k, tensor) for k, tensor in enumerate(tensors))
    result = jax.eval_shape(lambda arrays: _split(plan.function(arrays, constants)), shapes)
    return [leaf.shape for leaf in result.smooth] == [()]


def _with_slopes(plan: Plan, tensors: Arrays, constants: Any) -> tuple[_Split, _Slopes]:
    """Value and gradients in one pass, which leaves no residuals behind and is far cheaper to call than two."""

    def one(arrays: Arrays, constants: Any) -> tuple[_Split, _Slopes]:
        def value(*some: jax.Array) -> tuple[jax.Array, _Split]:
            split = _split(plan.function(plan.merged(some, arrays), constants))
            return split.smooth[0].real, split

        places = tuple(range(sum(plan.wanted)))
        (_, split), slopes = jax.value_and_grad(value, places, has_aux=True)(*plan.chosen(arrays))
        return split, _Slopes(slopes)

    return Plan(one, plan.wanted, plan.axes)(tensors, constants)


def _pull_back(plan: Plan, pull: Any, cotangents: Tensors) -> Tensors:
    """Cotangents of the chosen tensors, in torch for a scalar, in JAX else."""
    if not isinstance(pull, _Slopes):
        return _hand_over(_apply_map(pull, tuple(to_jax(c) for c in cotangents)), cotangents)
    (cotangent,) = cotangents
    gradients = []
    for k, slope in zip([k for k, wanted in enumerate(plan.wanted) if wanted], pull.arrays, strict=True):
        product = cotangent.reshape(cotangent.shape + (1,) * (slope.ndim - cotangent.ndim)).to(slope.dtype) * slope
        # A tensor shared by a batch collects from all of it. Levels run from the inside, axes from the outside.
        shared = [len(plan.axes) - 1 - level for level, axes in enumerate(plan.axes) if axes[k] is None]
        gradients.append(product.sum(dim=shared) if shared else product)
    return tuple(gradients)


@jax.jit
def _apply_map(pull: Any, cotangents: Arrays) -> Arrays:
    return pull(cotangents)


@dataclass(frozen=True)
class _Reverse:
    """Vector-Jacobian product of a plan, as a function of its tensors and cotangents."""

    plan: Plan

    def __call__(self, arrays: Arrays, constants: Any) -> Arrays:
        n = len(self.plan.wanted)
        tensors, cotangents = arrays[:n], arrays[n:]

        def chosen(*some: jax.Array) -> tuple[jax.Array, ...]:
            return _split(self.plan(self.plan.merged(some, tensors), constants)).smooth

        return jax.vjp(chosen, *self.plan.chosen(tensors))[1](cotangents)


@dataclass(frozen=True)
class _Forward:
    """Jacobian-vector product of a plan, as a function of its tensors and the tangents of some of them."""

    plan: Plan
    moving: tuple[bool, ...]

    def __call__(self, arrays: Arrays, constants: Any) -> Arrays:
        n = len(self.moving)
        along = Plan(self.plan, self.moving)
        tensors, tangents = arrays[:n], arrays[n:]

        def chosen(*some: jax.Array) -> tuple[jax.Array, ...]:
            return _split(self.plan(along.merged(some, tensors), constants)).smooth

        return jax.jvp(chosen, along.chosen(tensors), tangents)[1]


@dataclass
class _Call:
    """One call: its program, and what the forward pass leaves for the backward pass."""

    plan: Plan
    constants: Any
    check: Callable[[Tensors], None] | None = None
    layout: _Layout | None = None
    pull: Any = field(default=None, repr=False)

    def run(self, tensors: Tensors) -> Tensors:
        """Runs the program; smooth outputs first."""
        if self.check is not None:
            self.check(tensors)
        arrays = tuple(map(_argument, tensors))
        if any(self.plan.wanted):
            split, pull = _linearize(self.plan, arrays, self.constants)
            self.pull = _Slopes(_hand_over(pull.arrays, tensors)) if isinstance(pull, _Slopes) else pull
        else:
            split = _value(self.plan, arrays, self.constants)
        self.layout = split.layout
        return _hand_over((*split.smooth, *split.rest), tensors)

    def rebuild(self, flat: Sequence[torch.Tensor]) -> Any:
        """The result in the form in which the function returned it."""
        assert self.layout is not None
        n = sum(self.layout.smooth)
        smooth, rest = iter(flat[:n]), iter(flat[n:])
        return jax.tree.unflatten(self.layout.treedef, [next(smooth if s else rest) for s in self.layout.smooth])


class _Bridge(torch.autograd.Function):
    """The one autograd function; ``_Call`` knows what it computes."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Runs the call."""
        call, *tensors = inputs
        return call.run(tuple(tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keeps the call and its inputs."""
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        layout = ctx.call.layout
        ctx.mark_non_differentiable(*output[sum(layout.smooth) :])

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        """Applies the linear map of the forward pass, or bridges the derivative where torch records it."""
        call, tensors = ctx.call, ctx.saved_tensors
        plan = call.plan
        smooth = cotangents[: sum(call.layout.smooth)]
        if torch.is_grad_enabled() or call.pull is None:
            wanted = tuple(
                needed and t.is_floating_point() for needed, t in zip(ctx.needs_input_grad[1:], tensors, strict=True)
            )
            plan = Plan(plan.function, wanted, plan.axes)
            gradients = apply(_Reverse(plan), (*tensors, *smooth), call.constants)
        else:
            gradients = _pull_back(plan, call.pull, smooth)
        source = iter(gradients)
        return (None, *(next(source) if wanted else None for wanted in plan.wanted))

    @staticmethod
    def jvp(ctx: Any, *inputs: Any) -> Any:
        """Directional derivative, for torch's forward mode."""
        call, tangents = ctx.call, inputs[1:]
        moving = tuple(t is not None for t in tangents)
        given = [t for t in tangents if t is not None]
        smooth = apply(_Forward(call.plan, moving), (*ctx.saved_tensors, *given), call.constants)
        rest = len(call.layout.smooth) - sum(call.layout.smooth)
        return (*smooth, *([None] * rest))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """One vectorized call for a batch."""
        call, *tensors = inputs
        front = tuple(t if axis is None else t.movedim(axis, 0) for t, axis in zip(tensors, in_dims[1:], strict=True))
        axes = tuple(None if axis is None else 0 for axis in in_dims[1:])
        outer = _Call(Plan(call.plan.function, call.plan.wanted, (*call.plan.axes, axes)), call.constants, call.check)
        flat = _Bridge.apply(outer, *front)
        call.layout = outer.layout
        return flat, (0,) * len(flat)


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """A JAX array of a tensor's numbers: the same memory, unless the tensor is not contiguous."""
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def _argument(tensor: torch.Tensor) -> Any:
    """A tensor as a compiled function takes it fastest.

    JAX copies a small NumPy array when it calls a program, in a third of the time that it needs to take memory over and
    give it back. Without a copy where that counts.
    """
    small = tensor.device.type == "cpu" and tensor.numel() < _SMALL and tensor.dtype in _NUMPY_TYPES
    if small and jax.default_backend() == "cpu":
        return tensor.detach().numpy()
    return to_jax(tensor)


def _hand_over(arrays: Sequence[jax.Array], inputs: Sequence[torch.Tensor]) -> Tensors:
    """Tensors of arrays that JAX made, which torch may then write to."""
    if inputs[0].device.type == "cpu":
        # JAX may still be reading an input, or writing an output, when it returns.
        jax.block_until_ready(arrays)
    pointers = {t.data_ptr() for t in inputs}
    tensors = []
    for array in arrays:
        tensor = torch.from_dlpack(array)
        # JAX returns the buffer of an argument that it passes through, and returns one buffer twice; torch may change
        # what it gets in place.
        taken = tensor.data_ptr() in pointers
        pointers.add(tensor.data_ptr())
        tensors.append(tensor.clone() if taken else tensor)
    return tuple(tensors)


def _readable(tensor: Any) -> torch.Tensor:
    """The tensor in a type that JAX has, by a cast that torch differentiates."""
    if not isinstance(tensor, torch.Tensor):
        raise ModelError(f"expected a torch tensor, not {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise ModelError(f"expected a dense tensor, not one of layout {tensor.layout}: call .to_dense()")
    if tensor.dtype == torch.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return tensor.float()
    return tensor.resolve_conj().resolve_neg()


def _require_one_device(tensors: Sequence[torch.Tensor]) -> None:
    devices = {t.device for t in tensors}
    if len(devices) > 1:
        raise ModelError(
            f"the tensors are on several devices ({', '.join(sorted(map(str, devices)))}): move them to one"
        )
    require_device(next(iter(devices)))


@lru_cache
def require_device(device: torch.device) -> Any:
    """The device as JAX knows it; ``ModelError`` where JAX does not reach it."""
    platform = {"cpu": "cpu", "cuda": "cuda"}.get(device.type)
    try:
        if platform is None:
            raise RuntimeError
        # ROCm's devices are "cuda" to torch and "rocm" to JAX; "gpu" is either.
        found = jax.devices("gpu" if platform == "cuda" else platform)
        return found[device.index or 0]
    except (RuntimeError, IndexError):
        raise ModelError(
            f"the tensor is on {device}, which this installation of JAX (on {jax.default_backend()}) cannot read: "
            "call .cpu(), or install JAX for that device"
        ) from None


# torch binds the arguments of every call to this signature, which Python would derive anew each time.
_Bridge.forward.__signature__ = inspect.signature(_Bridge.forward)  # type: ignore[attr-defined]
