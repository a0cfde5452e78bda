"""The README's code runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_ten_line_loop(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    accuracy = float(re.search(r"'accuracy': ([\d.]+)", capsys.readouterr().out).group(1))
    assert accuracy > 0.9


def test_seeing_inside(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(BLOCKS[0].replace("range(3)", "range(1)"), "README.md", "exec"), names)
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    assert "conv2d" in capsys.readouterr().out
    assert (tmp_path / "where-it-looks.png").stat().st_size > 1000


def test_own_images(capsys):
    import minidl as md

    names = {"md": md}
    exec(compile(BLOCKS[2], "README.md", "exec"), names)
    assert len(names["history"]) == 3
    assert names["history"][-1]["loss"] < names["history"][0]["loss"]
    assert "val_f1" in names["history"].columns


def test_adding_an_operation():
    from minidl.gradcheck import gradcheck
    from minidl.registry import OPS, Draw

    names = {}
    try:
        exec(compile(BLOCKS[3], "README.md", "exec"), names)
        (sample,) = OPS["sinh"].samples(Draw())
        assert gradcheck(names["sinh"], sample.args)
    finally:
        OPS.pop("sinh", None)


@pytest.mark.parametrize("path", re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8")))
def test_pictures_exist(path):
    assert (README.parent / path).stat().st_size > 1000
