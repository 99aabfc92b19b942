"""Programs that outlive their process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextstat_jax._base import _cache
from nextstat_jax._model._model import HistFactoryModel
from tests import building as b
from tests.selection import mostly_slow

SESSION = """
import json, sys, warnings
warnings.simplefilter("error")
import jax
before = jax.config.values.copy()
import nextstat_jax as nextstat
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)
model = nextstat.from_pyhf(json.load(open(sys.argv[1])))
fit, test = nextstat.fit(model), nextstat.hypotest(model, 1.0)
from nextstat_jax._base import _cache
changed = sorted(k for k, v in jax.config.values.items() if before.get(k) != v)
print(json.dumps([fit.nll.item(), test.cls.item(), len(compiled), str(_cache.folder_of_programs()), changed]))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A function that runs a session in a process of its own: NLL, CLs, compilations, folder, settings changed."""
    place = tmp_path_factory.mktemp("workspace") / "workspace.json"
    spec = b.one_channel(
        [b.sample("s", [5.0], b.normfactor("mu")), b.sample("b", [40.0], b.normsys("a", 0.9, 1.1))], [46.0]
    )
    place.write_text(json.dumps(spec))

    def run(home, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEXTSTAT_JAX", "JAX_COMPILATION"))}
        done = subprocess.run(
            [sys.executable, "-c", SESSION, str(place)], env={**kept, "XDG_CACHE_HOME": str(home), **environment},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is Linux's")
def test_a_second_process_compiles_nothing(session, tmp_path):
    nll, cls, first, folder, changed = session(tmp_path)
    assert Path(folder).parent == tmp_path / "nextstat_jax" and first > 0
    assert changed == ["jax_enable_x64"]
    programs = sorted(Path(folder).iterdir())
    # The fit, what takes its result apart, and the test.
    assert len(programs) == 3 and all(path.suffix == ".program" for path in programs)
    assert session(tmp_path)[:3] == [nll, cls, 0]
    # Half a file, and one that is no program.
    programs[0].write_bytes(programs[0].read_bytes()[:100])
    programs[1].write_bytes(b"something else")
    again = session(tmp_path)
    assert again[:2] == [nll, cls] and again[2] > 0
    assert session(tmp_path)[:3] == [nll, cls, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is Linux's")
@pytest.mark.parametrize("how", mostly_slow(["off", "JAX's own", "read-only", "path"], "read-only"))
def test_who_decides_about_the_cache(session, tmp_path, how):
    home = tmp_path / "home"
    if how == "off":
        *_, folder, _ = session(home, NEXTSTAT_JAX_CACHE="off")
        assert folder == "None" and not home.exists()
    elif how == "JAX's own":
        *_, folder, _ = session(home, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
        assert folder == "None" and not home.exists()
    elif how == "read-only":
        # A file where a folder should be cannot be written to by anybody, the superuser included.
        home.write_text("")
        assert session(home)[3] == "None"
    else:
        *_, folder, _ = session(home, NEXTSTAT_JAX_CACHE=str(tmp_path / "elsewhere"))
        assert Path(folder).parent == tmp_path / "elsewhere" and not home.exists()


def test_the_oldest_go_first(tmp_path):
    for k in range(5):
        path = tmp_path / "machine" / f"{k}.program"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 + k, 1e9 + k))
    _cache.prune(tmp_path, 250)
    assert sorted(path.name for path in (tmp_path / "machine").iterdir()) == ["3.program", "4.program"]


def test_what_a_user_wrote_has_no_name():
    def compute(x):
        return x

    assert _cache.describe((1, "a", None, (2.0, [True]))) == "tuple(1, 'a', None, tuple(2.0, list(True)))"
    with pytest.raises(_cache.UnnamedError):
        _cache.describe((1, compute))
    with pytest.raises(_cache.UnnamedError):
        _cache.describe(HistFactoryModel)
