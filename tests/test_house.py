"""The rules of the house: who imports whom, what an import may cost, how long things may be, what files may hold."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nextstat_jax"
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 80

# From the ground up. A folder imports only from folders before it, and inside each there is no circle.
ORDER = (
    "_base",
    "_batches",
    "_modifiers",
    "_workspace",
    "_minimize",
    "_likelihood",
    "_model",
    "_inference",
    "_toys",
    "_training",
    "plot",
    "interpret",
    "distill",
    "torch",
    "gym",
    "mlops",
    "cli",
    # The demo and the explorer use the package as its users do, through the face.
    "__init__",
    "demo",
    "explorer",
)
PLACE = {folder: place for place, folder in enumerate(ORDER)}

# These would tie a clone to one computer or to one way of installing. Written in pieces, so that this file passes.
FORBIDDEN = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w.~$}*/-])/(?:home|root|work|tmp|Users|opt|mnt|usr/local)/\w",
        r"[A-Z]:\\\\?Users",
        "pypi" + r"\.org",
        "python" + r"hosted\.org",
        r"--(?:extra-)?index" + "-url",
        r"--find" + "-links",
        "arti" + "factory",
    )
)


def sources(*folders: str) -> list[Path]:
    """All Python files of the folders, in a stable order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> tuple[str, ...]:
    """A file as a module below the package: ("_inference", "_fit"); a folder's own file is ("_inference",)."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, anywhere in it, even inside functions."""
    inside = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("nextstat_jax", *inside)[: len(inside) + 2 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        for name in names:
            if name[0] == "nextstat_jax":
                found.add(known_module(name[1:]))
    return found - {dotted(path)}


def known_module(name: tuple[str, ...]) -> tuple[str, ...]:
    """The module that a dotted name belongs to; what the face has in public belongs to the face."""
    while name and name not in MODULES:
        name = name[:-1]
    return name or ("__init__",)


MODULES = {dotted(path) for path in sources("nextstat_jax")}


@pytest.mark.parametrize("path", sources("nextstat_jax"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    folder = dotted(path)[0]
    assert folder in PLACE, f"{folder} has no place yet: enter it in ORDER in tests/test_house.py"
    for other in {name[0] for name in imports_of(path)} - {folder}:
        assert PLACE[other] < PLACE[folder], f"{folder} imports {other}, which does not stand before it"


def test_no_circle_inside_any_folder() -> None:
    arrows = {dotted(path): imports_of(path) for path in sources("nextstat_jax")}
    assert not (found := circle(arrows)), " -> ".join(".".join(name) for name in found)
    # The test can fail.
    assert circle({("a",): {("b",)}, ("b",): {("a",)}})


def circle(arrows: dict[tuple[str, ...], set[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """A way that leads back to where it began, or nothing."""
    done: set[tuple[str, ...]] = set()

    def walk(node: tuple[str, ...], way: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(arrows.get(node, ())):
            if found := walk(other, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(arrows) if (found := walk(node, []))), [])


def test_every_private_folder_says_what_it_must_not_know() -> None:
    for folder in (name for name in ORDER if name.startswith("_") and name != "__init__"):
        text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "must not know" in text, folder


def test_a_modifier_type_knows_no_other() -> None:
    folder = PACKAGE / "_modifiers"
    types = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    for name in types:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        others = {other for other in types - {name} if re.search(rf"_modifiers(?:\.| import ){other}\b", text)}
        assert not others, f"_modifiers/{name}.py imports {others}: each type lives in one place"


def run_python(code: str) -> str:
    """Run code in a fresh process and return what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_needs_no_optional_dependency() -> None:
    oracles = ("pyhf", "iminuit")
    optional = (
        "torch",
        "matplotlib",
        "marimo",
        "onnxscript",
        "gymnasium",
        "wandb",
        "mlflow",
        "optuna",
        "tensorboard",
        "distributed",
        "pandas",
        *oracles,
    )
    installed = [name for name in optional if importlib.util.find_spec(name)]
    assert "pyhf" in installed  # or the test would say nothing
    code = f"import sys, nextstat_jax; print([name for name in {installed!r} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_import_changes_nothing_of_jax() -> None:
    code = (
        "import jax, warnings\n"
        "before, filters = dict(jax.config.values), list(warnings.filters)\n"
        "import nextstat_jax\n"
        "after = dict(jax.config.values)\n"
        # Other packages may register options of their own; none that was there may change.
        "print([name for name in before if before[name] != after[name]], list(warnings.filters) == filters)"
    )
    assert run_python(code) == "[] True"


def test_import_starts_no_device() -> None:
    code = "import jax, nextstat_jax\nfrom jax._src import xla_bridge\nprint(xla_bridge.backends_are_initialized())"
    assert run_python(code) == "False"


@pytest.mark.parametrize("path", sources("nextstat_jax", "benchmarks"), ids=lambda path: str(path.relative_to(ROOT)))
def test_lengths(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES, "split the module along its topics"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def declared(tree: ast.Module) -> list[str] | None:
    """The names in __all__, or None where a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    return None


@pytest.mark.parametrize("path", sources("nextstat_jax"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_all_is_sorted(path: Path) -> None:
    names = declared(ast.parse(path.read_text(encoding="utf-8")))
    if names is not None:
        assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def face() -> list[str]:
    """The public names: what the face imports under its own name again, which is how a re-export is declared."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
    aliases = [alias for node in imports for alias in node.names]
    undeclared = {alias.name for alias in aliases if alias.asname != alias.name} - set(declared(tree) or ())
    assert not undeclared, f"imported but not declared public: {sorted(undeclared)}"
    return [alias.asname or alias.name for alias in aliases]


def test_the_face_declares_what_it_imports() -> None:
    import nextstat_jax

    names = face()
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]
    public = {name for name, value in vars(nextstat_jax).items() if not name.startswith("_")}
    extra = {name for name in public - set(names) if not isinstance(getattr(nextstat_jax, name), ModuleType)}
    assert not extra, f"public by accident: {sorted(extra)}"
    bare = [name for name in names if not (getattr(nextstat_jax, name).__doc__ or "").strip()]
    assert not bare, f"public without a docstring: {bare}"


def test_the_face_defines_nothing() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    # Module-level __getattr__ and __dir__ are how a namespace loads on use.
    assert defined <= {"__getattr__", "__dir__"}


def test_one_version() -> None:
    import nextstat_jax

    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert nextstat_jax.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["dev"], *extras["torch"]]
    names = {re.split(r"[\[<>=!~ ]", item)[0].lower() for item in wanted} - {project["name"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line and not line.startswith("#")}
    assert names <= pinned, f"not in constraints.txt: {sorted(names - pinned)}"


def published_files() -> list[Path]:
    """The files that a clone has, as git lists them: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are published is not known")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in published_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and the like
        hits = {match.group() for pattern in FORBIDDEN for match in pattern.finditer(text)}
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in sorted(hits)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["see /" + "home/someone/x", "'/" + "tmp/x.json'", "https://pypi" + ".org/simple"])
def test_the_last_test_can_fail(text: str) -> None:
    assert any(pattern.search(text) for pattern in FORBIDDEN)
