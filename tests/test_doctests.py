"""Every public name is documented; every example in a docstring runs as a reader would copy it and prints what it says."""

import doctest
import importlib.util
import inspect
import pkgutil
import types

import pytest

import minidl as md
from minidl.errors import DtypeError
from minidl.registry import OPS, Draw

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [
    m.name for m in pkgutil.walk_packages(md.__path__, "minidl.") if ".cuda" not in m.name and not m.name.endswith("__main__")
]
try:
    importlib.import_module("minidl.sklearn")  # here, because scikit-learn sets filters for warnings when it is imported
except ImportError:
    MODULES.remove("minidl.sklearn")


@pytest.mark.parametrize("name", ["minidl", *MODULES])
def test_examples_run(name):
    if ".cpu" in name:
        pytest.importorskip("numba")
    module = importlib.import_module(name)
    result = doctest.testmod(module, globs={}, optionflags=FLAGS)  # no globals: an example imports what it uses
    assert result.failed == 0


# ---------------------------------------------------------------- what users can reach

SPACES = {
    "md": md,
    "md.nn": md.nn,
    "md.nn.init": md.nn.init,
    "md.optim": md.optim,
    "md.data": md.data,
    "md.data.transforms": md.data.transforms,
    "md.train": md.train,
    "md.models": md.models,
    "md.io": md.io,
}
if importlib.util.find_spec("matplotlib"):
    SPACES["md.viz"] = md.viz


def exported(module):
    """The functions and classes that a module offers: its ``__all__``, or all of minidl's that it holds."""
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    found = {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if (inspect.isroutine(value) or inspect.isclass(value)) and value.__module__.startswith("minidl")
    }


PUBLIC = {f"{space}.{name}": value for space, module in SPACES.items() for name, value in exported(module).items()}
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]


def own_text(value):
    """The docstring of a function, or a class's own one: an inherited one says nothing about it."""
    return (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""


def test_the_surface_is_found():
    assert {"md.relu", "md.Tensor", "md.nn.Conv2d", "md.nn.init.zeros_", "md.optim.Adam", "md.data.split"} <= PUBLIC.keys()
    assert {"md.train.fit", "md.models.create", "md.io.load", "md.ShapeError"} <= PUBLIC.keys()
    assert "md.viz" not in SPACES or "md.viz.filters" in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_functions_and_classes_have_an_example(name):
    text = own_text(PUBLIC[name])
    assert text.strip(), "no docstring"
    assert ">>> " in text, "no example"


@pytest.mark.parametrize("name", CLASSES)
def test_methods_are_documented(name):
    plain = (types.FunctionType, property, staticmethod, classmethod)
    cls = PUBLIC[name]
    for method, value in vars(cls).items():
        if not method.startswith("_") and isinstance(value, plain):
            assert inspect.getdoc(getattr(cls, method)), f"{method} has no docstring"


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS.keys())
def test_operations_are_documented(spec):
    text = spec.function.__doc__ or ""
    assert ">>> " in text, "no example"
    if spec.differentiable:
        assert "Gradient:" in text, "no Gradient: section"
        assert "Formula:" in text or "Shape:" in text, "neither a Formula: nor a Shape: section"


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS.keys())
def test_declared_errors_are_documented(spec):
    raises = spec.function.__doc__.partition("Raises:")[2]
    for error in {sample.error for sample in spec.errors(Draw())} - {DtypeError}:  # what is no number, every operation refuses
        assert f"{error.__name__}:" in raises, f"{error.__name__} not under Raises:"


ORDER = ["Args", "Formula", "Shape", "Gradient", "Returns", "Notes", "Raises", "Source"]


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS.keys())
def test_operations_have_their_sections_in_order(spec):
    lines = inspect.cleandoc(spec.function.__doc__).splitlines()
    sections = [line[:-1] for line in lines if line.endswith(":") and line[:-1] in ORDER]
    assert sections == [name for name in ORDER if name in sections], "each section once, in this order"
