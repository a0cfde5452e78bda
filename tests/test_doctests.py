"""Every example in a docstring runs and prints what it says; every public function has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import minidl
from minidl.registry import OPS

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [m.name for m in pkgutil.walk_packages(minidl.__path__, "minidl.") if ".cuda" not in m.name and not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", ["minidl", *MODULES])
def test_examples_run(name):
    if ".cpu" in name:
        pytest.importorskip("numba")
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS.keys())
def test_operations_are_documented(spec):
    text = inspect.getdoc(spec.function)
    assert text, "no docstring"
    assert ">>> " in text, "no example"
    if spec.differentiable:
        assert "Gradient:" in text, "no Gradient: section"
        assert "Formula:" in text or "Shape:" in text, "neither a Formula: nor a Shape: section"
