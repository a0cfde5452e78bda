"""Who may import whom: lower layers and one's own folder, never up, never sideways."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minidl

ROOT = Path(minidl.__file__).parent
LAYERS = [  # lowest first; members of one line do not know each other
    {"context"},
    {"errors"},
    {"backend", "random"},
    {"memory"},
    {"kernels"},
    {"node"},
    {"tensor"},
    {"function"},
    {"registry"},
    {"ops"},
    {"functional", "gradcheck", "profile", "anomaly", "capture"},
    {"nn", "optim", "data"},
    {"models", "io"},
    {"train", "viz", "testing"},
    {"cli", "sklearn"},
    {"__main__"},
]
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imported(tree):
    """The minidl modules a file imports, also inside functions; imports for type checkers do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Import, ast.ImportFrom)):
                    inner.skip = True
    for node in ast.walk(tree):
        if getattr(node, "skip", False):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "minidl":
                yield from (f"minidl.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no place in the layers"
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "minidl" or (parts == ["minidl"] and own == "cli"):  # which asks the package for its version
            continue
        other = parts[1]
        assert other == own or LEVEL[other] < LEVEL[own], f"{own} must not import {name}"
        if own == "data":
            assert other in ("data", "backend", "errors", "memory", "random"), f"data works on arrays alone, but imports {name}"
        if own == "kernels":
            assert not {"cpu", "cuda"} <= {*path.parts, *parts}, "cpu and cuda kernels never meet"


@pytest.mark.parametrize(
    ("package", "places"), [("numba", ["kernels", "cli"]), ("cupy", ["backend.py", "kernels"]), ("matplotlib", ["viz"])]
)
def test_heavy_packages_stay_in_their_place(package, places):
    for path in FILES:
        if path.relative_to(ROOT).parts[0] not in places:
            assert package not in {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}, path


def test_import_is_light():
    heavy = {"numba", "cupy", "matplotlib", "tqdm", "safetensors", "PIL"}
    code = f"import sys, minidl; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_kernel_packages_agree_on_signatures():
    """Every compiled kernel has the name and the parameters of the textbook one."""
    import inspect

    from minidl.kernels import generic

    cpu = pytest.importorskip("minidl.kernels.cpu")
    names = [name for name in dir(generic) if name.endswith(("_forward", "_backward", "_update", "2im", "2col"))]
    assert names
    for name in names:
        ours, theirs = inspect.signature(getattr(generic, name)), inspect.signature(getattr(cpu, name))
        assert list(ours.parameters) == list(theirs.parameters), name
    extra = [name for name in dir(cpu) if name.endswith(("_forward", "_backward", "_update")) and not hasattr(generic, name)]
    assert extra == []


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path):
    """No file over 400 lines of code (blank lines, comments and docstrings not counted)."""
    tree = ast.parse(path.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.stmt, ast.expr))]
    lines = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            doc = node.body[0]
            lines -= set(range(doc.lineno, doc.end_lineno + 1))
    code = [
        line
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if i in lines and line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) <= 400, f"{len(code)} lines of code"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_public_for_type_checkers(path):
    """They take an imported name as the package's own only from a star, from ``import x as x`` and in ``__all__``."""
    if path.parent.name in ("kernels", "cpu", "generic", "cli", "ops"):
        return  # not for users
    tree = ast.parse(path.read_text())
    public = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = set(ast.literal_eval(node.value))
    if path.parent.name == "models":
        tree.body = [node for node in tree.body if getattr(node, "module", "").startswith("minidl.models")]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("minidl"):
            for alias in node.names:
                assert alias.name in ("*", alias.asname) or alias.name in public, f"{alias.name} is not re-exported"
