"""Surrogates as files and in other tools: ``.npz`` files, PyTorch modules, JAX artifacts, ONNX."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._base._archive import atomic, read_npz, write_npz
from .._base._checked import a_path, checked, texts
from .._base._doors import no_type_check
from .._base._errors import DatasetError, MissingExtraError
from .._model._reading import require_x64
from ._core import MOST, RECIPES, Core
from ._reference import Reference
from ._surrogate import Surrogate, check_surrogate

FORMAT = "nextstat_jax.distill.surrogate/1"
_PROBES, _PROBE_ERROR = 4, 1e-3
_STATIC = ("recipe", "logs")
_NESTED = ("layers", "reference", "expansion")


@checked(DatasetError, path=a_path)
@no_type_check
def save(surrogate: Surrogate, path: str | Path) -> None:
    """Writes a surrogate as one ``.npz`` file with a JSON header, under a temporary name that is then renamed.

    A few points with their predictions are part of it: ``load`` checks that it predicts the same.

    Raises:
        DatasetError: If it cannot be written.
    """
    check_surrogate(surrogate)
    arrays: dict[str, np.ndarray] = {}
    for k, core in enumerate(surrogate.members):
        for name, value in _arrays_of(core).items():
            arrays[f"member_{k}_{name}"] = np.asarray(value)
    history = {f"history_{name}": np.asarray(value) for name, value in surrogate.history.items()}
    first = surrogate.members[0]
    header = {
        "format": FORMAT,
        "parameter_names": list(surrogate.names),
        "facts": surrogate.facts,
        "n_members": len(surrogate.members),
        "n_layers": len(first.layers),
        "recipe": first.recipe,
        "logs": list(first.logs),
    }
    points = _probes(first)
    probes = {"probe_params": points, "probe_nll": np.asarray(surrogate.nll(points))}
    if not np.isfinite(probes["probe_nll"][0]):
        raise DatasetError("the surrogate is not finite in the middle of its region: train it again")
    write_npz(path, {**arrays, **history, **probes}, json.dumps(header))


@checked(DatasetError, path=a_path)
@no_type_check
def load(path: str | Path) -> Surrogate:
    """Reads what ``save`` wrote. Nothing is unpickled. Turns on JAX's x64 mode, as ``from_pyhf`` does.

    Raises:
        DatasetError: If the file is missing, damaged or of another kind, or the surrogate predicts other values here
            than where it was saved.
    """
    header, arrays = read_npz(path, FORMAT)
    require_x64()
    try:
        members = tuple(_core_of(arrays, f"member_{k}_", header) for k in range(header["n_members"]))
        history = {k.removeprefix("history_"): v for k, v in arrays.items() if k.startswith("history_")}
        surrogate = Surrogate(members, history, tuple(header["parameter_names"]), header["facts"])
        good = all(_fits(core, surrogate.n_params) for core in members) and isinstance(surrogate.metadata, dict)
        good = good and arrays["probe_params"].shape == (len(arrays["probe_nll"]), surrogate.n_params)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no surrogate of this package: {type(error).__name__} {error}"[:200]) from None
    if not good:
        raise DatasetError(f"{path} is no surrogate of this package: its arrays do not fit together")
    found, expected = np.asarray(surrogate.nll(arrays["probe_params"])), arrays["probe_nll"]
    finite = np.isfinite(expected)
    worst = float(np.abs(found - expected)[finite].max(initial=0.0))
    # Single precision sums in another order on another device.
    close = worst <= _PROBE_ERROR * (1.0 + np.abs(expected[finite]).max(initial=0.0))
    if not (close and np.array_equal(found[~finite], expected[~finite])):
        raise DatasetError(f"{path}: its predictions differ by {worst:.3g} from those where it was saved")
    return surrogate


def _probes(core: Core) -> np.ndarray:
    """The middle of the trained region and points around it, shape (n, n_params)."""
    lower, upper = np.asarray(core.lower, np.float64), np.asarray(core.upper, np.float64)
    steps = np.random.default_rng(0).normal(size=(_PROBES, len(lower))) * (np.arange(_PROBES) > 0)[:, None]
    return np.clip(np.asarray(core.origin) + 0.02 * (upper - lower) * steps, lower, upper)


def _arrays_of(core: Core) -> dict[str, Any]:
    plain = {f.name: getattr(core, f.name) for f in fields(core) if f.name not in (*_STATIC, *_NESTED)}
    for k, (kernel, bias) in enumerate(core.layers):
        plain |= {f"layer_{k}_kernel": kernel, f"layer_{k}_bias": bias}
    plain |= {f"expansion_{k}": value for k, value in enumerate(core.expansion)}
    if core.reference is not None:
        plain |= {f"reference_{name}": value for name, value in core.reference.arrays().items()}
    return plain


def _core_of(arrays: dict[str, np.ndarray], prefix: str, header: dict[str, Any]) -> Core:
    mine = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    parts = {name.removeprefix("reference_"): v for name, v in mine.items() if name.startswith("reference_")}
    plain = {f.name: mine[f.name] for f in fields(Core) if f.name not in (*_STATIC, *_NESTED)}
    return Core(
        **plain,
        layers=tuple((mine[f"layer_{k}_kernel"], mine[f"layer_{k}_bias"]) for k in range(header["n_layers"])),
        reference=Reference.of_arrays(parts) if parts else None,
        expansion=tuple(mine[f"expansion_{k}"] for k in range(3)) if "expansion_0" in mine else (),
        recipe=header["recipe"],
        logs=tuple(header["logs"]),
    )


def _fits(core: Core, n: int) -> bool:
    """Whether the arrays of a file belong together."""
    widths = [n + len(core.logs)]
    for kernel, bias in core.layers:
        if kernel.ndim != 2 or kernel.shape != (widths[-1], len(bias)):
            return False
        widths.append(len(bias))
    needs = core.recipe == "plain" or core.reference is not None
    vectors = (core.center, core.scale, core.lower, core.upper, core.origin)
    same = all(x.shape == (n,) for x in vectors) and core.skip.shape == (widths[0], widths[-1])
    return bool(core.layers) and core.recipe in RECIPES and needs and same


@checked(DatasetError, path=a_path)
@no_type_check
def export(
    surrogate: Surrogate, path: str | Path, *, dtype: DTypeLike = "float64", platforms: Sequence[str] | None = None
) -> None:
    """Writes the NLL as a self-contained JAX artifact that runs without this package.

    Read it with ``jax.export.deserialize(bytearray(file.read()))`` and call it with an array of shape (n, n_params),
    for any n: it returns shape (n,). Its derivative can be taken by ``jax.grad``.

    Args:
        surrogate: The surrogate.
        path: The file.
        dtype: Type of the argument and of the result. ``"float64"`` needs JAX's x64 mode where it is called.
        platforms: Names of the platforms it is to run on, such as ``("cpu", "cuda")``; by default this one.

    Raises:
        DatasetError: If it cannot be written.
        MissingExtraError: If flatbuffers is not installed, the format that JAX writes.
    """
    check_surrogate(surrogate)
    try:
        kind = jnp.dtype(dtype) if isinstance(dtype, str | type | np.dtype) else np.dtype(object)
    except (TypeError, UnicodeError):
        kind = np.dtype(object)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise DatasetError(f"dtype={dtype!r:.60}: expected 'float64' or 'float32'")
    if platforms is not None:
        if not isinstance(platforms, list | tuple) or not platforms:
            raise DatasetError(f"platforms={platforms!r:.60}: expected several, such as ('cpu', 'cuda')")
        texts(platforms, "platforms", DatasetError)
    if kind == np.float64:
        require_x64()
    # In single precision nothing wider may be left in the artifact.
    frozen = jax.tree.map(np.asarray, surrogate.members)
    frozen = jax.tree.map(
        lambda x: x.astype(kind) if x.dtype.itemsize > kind.itemsize and x.dtype.kind == "f" else x, frozen
    )
    plain = Surrogate(frozen, {}, surrogate.names, surrogate.facts)
    shape = jax.export.symbolic_shape(f"n, {surrogate.n_params}")
    exported = jax.export.export(jax.jit(lambda x: plain.nll(x)), platforms=platforms)(
        jax.ShapeDtypeStruct(shape, kind)
    )
    try:
        serialized = exported.serialize(vjp_order=1)
    except ImportError:
        raise MissingExtraError("flatbuffers", "export") from None
    with atomic(path) as file:
        file.write(serialized)


@no_type_check
def to_torch(surrogate: Surrogate) -> Any:
    """An equal ``torch.nn.Module``: called with parameters of shape (..., n_params), it returns NLLs of shape (...).

    The network computes in its own precision (float32) and the rest in the type of the argument; weights are parameters
    of the module, everything else are buffers, so that ``.to("cuda")`` moves all of it.

    Raises:
        MissingExtraError: If torch is not installed.
    """
    check_surrogate(surrogate)
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    members = [_module(torch, core) for core in surrogate.members]
    if len(members) == 1:
        return members[0]

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(members)

        def forward(self, params: Any) -> Any:
            return torch.stack([member(params) for member in self.members]).mean(0)

    return Mean()


@checked(DatasetError, path=a_path)
@no_type_check
def to_onnx(surrogate: Surrogate, path: str | Path) -> None:
    """Writes the NLL as an ONNX file, for runtimes in any language and on any device.

    Its input is ``params``, float64 of shape (n, n_params) for any n, its output ``nll``, float64 of shape (n,).
    PyTorch's own exporter translates the module of ``to_torch``.

    Raises:
        DatasetError: If it cannot be written.
        MissingExtraError: If torch or onnxscript is not installed.
    """
    check_surrogate(surrogate)
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it
        import torch
    except ImportError:
        raise MissingExtraError("torch and onnxscript", "onnx") from None
    example = torch.from_numpy(np.tile(np.asarray(surrogate.minimum, np.float64), (2, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            to_torch(surrogate).eval(), (example,), dynamo=True, verbose=False,
            input_names=["params"], output_names=["nll"], dynamic_shapes=({0: torch.export.Dim("n")},),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    facts = {"parameter_names": json.dumps(list(surrogate.names)), "facts": surrogate.facts}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    with atomic(path) as file:
        file.write(model.SerializeToString())


def _module(torch: Any, core: Core) -> Any:
    """One member as a module."""
    linears = []
    for kernel, bias in core.layers:
        linear = torch.nn.Linear(*kernel.shape, dtype=torch.from_numpy(np.array(kernel)).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.array(kernel).T))
            linear.bias.copy_(torch.from_numpy(np.array(bias)))
        linears += [linear, torch.nn.SiLU()]

    class SurrogateModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Sequential(*linears[:-1])
            arrays = {name: x for name, x in _arrays_of(core).items() if not name.startswith("layer_")}
            for name, value in arrays.items():
                self.register_buffer(name, torch.from_numpy(np.array(value)))

        def forward(self, params: Any) -> Any:
            params = params if params.is_floating_point() else params.double()
            x = (params - self.center) / self.scale
            if core.logs:
                at = list(core.logs)
                ratio = torch.clamp(params[..., at] / self.center[at], min=1e-6)
                x = torch.cat([x, torch.log(ratio) * (self.center[at] / self.scale[at])], dim=-1)
            x = x.to(self.skip.dtype)
            y = (x @ self.skip + self.network(x) + self.offset).to(params.dtype)
            return y[..., 0] if core.recipe == "plain" else _torch_nll(torch, self, core.recipe, params, y)

    return SurrogateModule()


def _torch_nll(torch: Any, m: Any, recipe: str, params: Any, y: Any) -> Any:
    """The exact parts of the likelihood, in torch."""

    def deviance(n: Any, nu: Any) -> Any:
        safe = torch.where(n > 0, n, torch.ones_like(n))
        return torch.where(n > 0, nu - n + n * torch.log(safe / torch.clamp(nu, min=math.ulp(0.0) * 1e10)), nu)

    if recipe == "rates":
        main = deviance(m.reference_observed, torch.exp(torch.clamp(y, max=MOST))).sum(-1)
    else:
        step = params - m.origin
        q = 0.5 * ((step @ m.expansion_0) * step).sum(-1) + (step * m.expansion_1).sum(-1) + m.expansion_2
        # The positive part of q, smooth; written out, since ONNX runtimes have no softplus in double precision.
        soft = torch.clamp(q, min=0.0) + torch.log1p(torch.exp(-q.abs()))
        main = torch.expm1(torch.log1p(soft) + y[..., 0])
    pull = (params[..., m.reference_normal_params] - m.reference_normal_aux) / m.reference_normal_widths
    counts = deviance(m.reference_poisson_aux, m.reference_poisson_tau * params[..., m.reference_poisson_params])
    return m.reference_constant + main + 0.5 * (pull * pull).sum(-1) + counts.sum(-1)


def artifact(path: str | Path) -> Any:
    """The function in a file that ``export`` wrote, from points of shape (n, n_params) to NLLs of shape (n,).

    Raises:
        DatasetError: If the file is missing or damaged.
    """
    try:
        exported = jax.export.deserialize(bytearray(Path(path).read_bytes()))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # the format's own reader raises whatever it stumbles over
        raise DatasetError(f"{path} is damaged, or no exported surrogate: {type(error).__name__}") from None
    return exported.call
