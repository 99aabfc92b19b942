"""Where the fixtures of all tests come from: published workspaces, pyhf's stored numbers, workspaces of our own."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest

# The package turns x64 on by itself when the first float64 model is built, provided that no JAX array is alive. Tests
# make arrays in any order, hence the switch is set before the first of them; tests of the switch start processes.
jax.config.update("jax_enable_x64", True)

# Programs are kept for this run alone, and shared by its processes, which inherit the name of the folder.
if "NEXTSTAT_JAX_CACHE" not in os.environ:
    os.environ["NEXTSTAT_JAX_CACHE"] = tempfile.mkdtemp(prefix="nextstat_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["NEXTSTAT_JAX_CACHE"], ignore_errors=True)

# Programs in the making are millions of objects, most of which live on; to look through them takes a tenth of the time.
gc.set_threshold(200_000, 50, 100)

ROOT = Path(__file__).resolve().parent.parent
OWN = Path(__file__).resolve().parent / "fixtures"


def _workspaces_dir() -> Path:
    return Path(os.environ.get("NEXTSTAT_JAX_WORKSPACES", ROOT.parent / "shared" / "workspaces"))


@pytest.fixture(scope="session")
def workspaces_dir() -> Path:
    """The folder of published workspaces; the test is skipped where there is none."""
    folder = _workspaces_dir()
    if not folder.is_dir():
        pytest.skip(f"no published workspaces in {folder}; point NEXTSTAT_JAX_WORKSPACES at a folder of them")
    return folder


@pytest.fixture(scope="session")
def published(workspaces_dir: Path) -> Callable[[str], dict[str, Any]]:
    """A function from the name of a published workspace to its JSON."""

    def load(name: str) -> dict[str, Any]:
        path = workspaces_dir / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"the published workspace {path} is missing")
        return json.loads(path.read_text())

    return load


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """pyhf's stored numbers for the published workspaces."""
    path = _workspaces_dir().parent / "reference" / "pyhf.json"
    if not path.is_file():
        pytest.skip(f"no stored numbers of pyhf in {path}; NEXTSTAT_JAX_WORKSPACES names the folder beside theirs")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def own() -> Callable[[str], dict[str, Any]]:
    """A function from the name of a workspace in `tests/fixtures` to its JSON."""
    return lambda name: json.loads((OWN / f"{name}.json").read_text())


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Users run without the checks of annotations, which would say the same in other words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Each compiled function keeps some mappings of memory, of which Linux grants a process 65,530 by default; beyond them
# XLA crashes. The whole run needs more than that in one process.
MAX_MAPPINGS = 20_000


def _mappings() -> int:
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def _bounded_mappings() -> Iterator[None]:
    """Forgets compiled functions between files where a process holds too many; within a file they are shared."""
    yield
    if _mappings() > MAX_MAPPINGS:
        jax.clear_caches()
        gc.collect()
