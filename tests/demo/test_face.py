"""The demonstration and the explorer show what users can do: they know the public names, and each itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nextstat_jax"
FILES = sorted(path for folder in ("demo", "explorer") for path in (PACKAGE / folder).glob("*.py"))


def strangers(text, folder):
    """What a file imports of the package beside its own folder, and private names that it takes from others."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            away = node.level > 1 or (node.level == 0 and module.split(".")[0] == "nextstat_jax")
            found += [module] if away and module != f"nextstat_jax.{folder}" else []
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("nextstat_jax.")]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found.append(node.attr)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_only_the_face_is_used(path):
    assert strangers(path.read_text(encoding="utf-8"), path.parent.name) == []


@pytest.mark.parametrize(
    "text",
    [
        "from ..plot import _style",
        "from nextstat_jax.demo import _workspace",
        "import nextstat_jax._base",
        "nextstat.plot._style.lock",
    ],
)
def test_the_last_test_can_fail(text):
    assert strangers(text, "explorer")
