"""How many programs a session compiles: a new process, counted by JAX itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OWN, ROOT

QUESTIONS = ("fit", "test", "limits", "ranking", "interval", "scan")


def session(path: Path, *options: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cold", str(path), *options],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def own_session() -> dict:
    return session(OWN / "all_modifiers.json", "--intervals")


def test_six_questions_share_their_programs(own_session):
    programs = sum(own_session["questions"][name]["programs"] for name in QUESTIONS)
    assert programs <= 25, own_session


def test_a_loop_of_intervals_compiles_nothing(own_session):
    loop = {name: row for name, row in own_session["questions"].items() if name.startswith("interval of")}
    assert len(loop) > 3
    assert all(row["programs"] == 0 for row in loop.values()), loop


@pytest.mark.slow
def test_six_questions_to_the_published_workspace(workspaces_dir):
    path = workspaces_dir / "complex.json"
    if not path.is_file():
        pytest.skip(f"the published workspace {path} is missing")
    found = session(path)
    assert found["programs"] <= 25, found
