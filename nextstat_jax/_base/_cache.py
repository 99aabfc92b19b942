"""Compiled programs that outlive the process.

The programs that all questions share are kept on disk under a name that follows from their arguments, and come back
without being traced, which takes as long as compiling them. JAX's own cache, which keeps what any program compiles to,
is the user's to set: where it is, this one stands back, since a program that came from one cannot go into another.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import sys
import tempfile
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

CHOICE = "NEXTSTAT_JAX_CACHE"
_MOST_BYTES = 1_000_000_000
_PACKAGE = __name__.partition(".")[0]


@cache
def folder_of_programs() -> Path | None:
    """Where programs are kept; None where they are not.

    In the user's cache directory, unless the user has set JAX's own cache, or ``NEXTSTAT_JAX_CACHE`` to a path or to
    ``off``. Nowhere if it cannot be written. It is bounded: the programs that were used the longest ago go.
    """
    chosen = os.environ.get(CHOICE, "").strip()
    if chosen.lower() in ("off", "0", "no", "false"):
        return None
    if _setting("jax_compilation_cache_dir") is not None or not _setting("jax_enable_compilation_cache"):
        return None
    folder = (Path(chosen).expanduser() if chosen else _home() / "nextstat_jax") / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return None
    with suppress(OSError):
        prune(folder.parent, _MOST_BYTES)
    return folder


class UnnamedError(Exception):
    """What a program is made of cannot be told by a name that means the same in another process."""


def describe(tree: Any) -> str:
    """The form of a tree of arrays in words: types of the package, what is static in them, shapes and dtypes.

    Raises:
        UnnamedError: For anything else: what a user's function does is not known by its name.
    """
    kind = type(tree)
    if isinstance(tree, (str, int, float, bool, type(None))):
        return repr(tree)
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(np.shape(tree))}"
    if kind in (tuple, list):
        return f"{kind.__name__}({', '.join(map(describe, tree))})"
    if not kind.__module__.startswith(_PACKAGE + "."):
        raise UnnamedError(kind)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(tree, tuple):
        return f"{name}({', '.join(map(describe, tree))})"
    digest = getattr(tree, "digest", None)
    if isinstance(digest, str):
        return f"{name}:{digest}"
    if not is_dataclass(tree):
        raise UnnamedError(kind)
    return f"{name}({', '.join(f'{f.name}={describe(getattr(tree, f.name))}' for f in fields(tree))})"


def file_of(function: Any, args: Any, options: Any) -> Path | None:
    """The file in which a program is kept, or None.

    Its name follows from the package's sources, the function and the form of its arguments. A method belongs to an
    object that follows from the arguments.
    """
    folder = folder_of_programs()
    if folder is None:
        return None
    try:
        form = describe(args)
    except UnnamedError:
        return None
    settings = (_setting("jax_enable_x64"), _setting("jax_default_matmul_precision"), os.environ.get("XLA_FLAGS"))
    device = jax.devices()[0]
    parts = (
        _sources(),
        function.__module__,
        function.__qualname__,
        form,
        repr((settings, device.device_kind, options)),
    )
    return folder / (hashlib.sha256("\n".join(parts).encode()).hexdigest() + ".program")


def load(path: Path, args: Any) -> Any:
    """A program that was kept, or None."""
    try:
        payload, places = pickle.loads(path.read_bytes())
        _initialize_lapack()
        in_tree, out_tree = jax.tree.structure((args, {})), jax.tree.structure(places)
        program = serialize_executable.deserialize_and_load(payload, in_tree, out_tree)
        os.utime(path)
    # A file that is not there, of another hand, or half of one.
    except Exception:
        return None
    return program


def keep(path: Path, program: Any) -> None:
    """Keeps a program; where that fails, nothing happens."""
    try:
        payload, _, out_tree = serialize_executable.serialize(program)
        places = jax.tree.unflatten(out_tree, list(range(out_tree.num_leaves)))
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            pickle.dump((payload, places), file)
        Path(file.name).replace(path)
    # Not every backend can; a disk may be full.
    except Exception:
        return


def forget(path: Path) -> None:
    """Removes a file; another process may have been faster."""
    with suppress(OSError):
        path.unlink()


def _setting(name: str) -> Any:
    """One of JAX's; its type stubs know none of them."""
    return getattr(jax.config, name)


@cache
def _initialize_lapack() -> None:
    """JAX looks up LAPACK's routines when it first lowers a program that calls one; a program from disk was not."""
    square = jax.ShapeDtypeStruct((2, 2), np.float32)
    jax.jit(lambda x: jax.lax.linalg.triangular_solve(jax.lax.linalg.cholesky(x), x)).lower(square)


@cache
def _sources() -> str:
    """What the package is, to the last line."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prune(folder: Path, most: int) -> None:
    """Removes files of a cache, those first that were used the longest ago, until it holds ``most`` bytes at most."""
    found = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    excess = sum(stat.st_size for stat, _ in found) - most
    for stat, path in sorted(found, key=lambda entry: max(entry[0].st_atime, entry[0].st_mtime)):
        if excess <= 0:
            return
        forget(path)
        excess -= stat.st_size


def _home() -> Path:
    """The user's cache directory."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _machine() -> str:
    """A name for all machines that can run each other's programs: of versions, and of what the processor can do.

    A home directory may be shared, and code compiled for one processor stops another.
    """
    flags = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (jax.__version__, version("jaxlib"), platform.machine(), platform.processor(), flags)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
