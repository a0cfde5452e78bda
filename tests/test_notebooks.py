"""The notebooks run from top to bottom, show no warnings, and the solutions of their exercises pass the exercises' checks."""

import ast
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("numba")  # two notebooks are about its kernels
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```\n\n</details>", re.DOTALL)
COMPILING = "minidl: compiling kernels for this machine"  # said once, on stderr, when the cache is cold

OFFLINE = """
import socket
def refuse(*arguments, **options):
    raise OSError("a notebook wants to reach the network")
socket.getaddrinfo = socket.create_connection = refuse
"""

# An answer that is wrong in every number: a check that accepts it does not check.
WRONG = """
def wrong(answer):
    def spoiled(value):
        if isinstance(value, tuple):
            return type(value)(spoiled(v) for v in value)
        return Counted(spoiled(value.value)) if type(value).__name__ == "Counted" else value * 1.5 + 0.7
    return lambda *arguments, **options: spoiled(answer(*arguments, **options))
"""


def read(path):
    return nbformat.read(path, as_version=4)


def solutions(notebook):
    """The code of each solution, by the name of the function that solves the exercise."""
    found = {}
    for cell in notebook.cells:
        for code in SOLUTION.findall(cell.source) if cell.cell_type == "markdown" else ():
            (function,) = (node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
            found[function] = code
    return found


def streams(notebook, name):
    return [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == name
    ]


def test_all_ten_are_here():
    assert [path.name[:2] for path in PATHS] == [f"{i:02d}" for i in range(1, 11)]
    listed = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_kept_without_outputs(path):
    """What is in git is what was written: no outputs, no counts, no traces of a machine."""
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
        assert not cell.metadata
        assert not re.search(r"(^|[\s\"'(])(/(home|work|tmp|root|usr|Users)/|[A-Z]:\\)", cell.source), "an absolute path"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_have_solutions(path):
    notebook = read(path)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    checks = re.findall(r"^def check_(\w+)\(answer\)", code, re.MULTILINE)
    assert len(checks) >= 2
    assert list(solutions(notebook)) == checks


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    """As a reader would run it; then each solution against its check, and a spoiled one, which must fail."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("MINIDL_OFFLINE", "1")
    notebook = read(path)
    exercises = solutions(notebook)
    cell = nbformat.v4.new_code_cell
    notebook.cells.insert(0, cell(OFFLINE))
    notebook.cells.append(cell(WRONG))
    for name, code in exercises.items():
        notebook.cells.append(cell(f"{code}\nassert check_{name}({name}) is True"))
        refused = (
            f"try:\n    check_{name}(wrong({name}))\nexcept (AssertionError, IndexError, ValueError, TypeError):\n    pass\n"
        )
        notebook.cells.append(cell(f"{refused}else:\n    raise RuntimeError('check_{name} accepts a wrong answer')"))
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    assert "".join(streams(notebook, "stdout")).count("not solved yet") == len(exercises)
    assert [text for text in streams(notebook, "stderr") if COMPILING not in text] == []
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))
