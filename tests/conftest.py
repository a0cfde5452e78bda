import gc
import os
import re
import warnings

import numpy as np
import pytest
from cuda_emulator import emulator, stand_in

import minidl as md
from minidl import backend, context, kernels, memory

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning is no reason to test without the GPU
        import cupy

    HAS_GPU = cupy.cuda.runtime.getDeviceCount() > 0
except Exception:  # CuPy raises its own errors for a missing driver
    HAS_GPU = False

NO_GPU = "no NVIDIA GPU with CuPy"
DEVICES = [  # without a GPU its kernels run on the CPU, where there is a compiler for them
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not HAS_GPU and emulator.MISSING is not None, reason=f"{NO_GPU}, {emulator.MISSING}"),
        ],
    ),
]


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


PACKAGES = {"PIL", "filelock", "matplotlib", "pooch", "requests", "safetensors", "scipy", "sklearn", "tensorboardX", "tqdm"}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A file that needs a package which is not there is skipped, not an error."""
    report = yield
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", str(report.longrepr))
    if report.outcome == "failed" and missing and missing[1] in PACKAGES:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Kernels are tested on GPU machines, too, on which not everything is installed."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in PACKAGES:
            pytest.skip(f"{error.name} is not installed")
        raise


@pytest.fixture
def emulated():
    """The stand-in for CuPy in place of it, with its counts."""
    if emulator.MISSING:
        pytest.skip(emulator.MISSING)
    with stand_in.installed() as module:
        yield module


@pytest.fixture
def on_gpu(request):
    """CuPy with a GPU, or else the stand-in."""
    return cupy if HAS_GPU else request.getfixturevalue("emulated")


@pytest.fixture(autouse=True)
def gpu(request):
    """What tests on device "cuda" run on: the GPU, or else the stand-in."""
    if not HAS_GPU and "cuda" in str(getattr(request.node, "callspec", None) and request.node.callspec.params.get("device")):
        request.getfixturevalue("emulated")


@pytest.fixture(autouse=True)
def unchanged_global_state():
    """Fail any test that leaves a global setting changed."""

    def snapshot():
        state = context.state
        return {
            "grad mode": state.grad_enabled,
            "module path": state.path,
            "kernels": state.kernels,
            "tf32": state.tf32,
            "watchers": state.watchers,
            "observer": state.observer,
            "default dtype": backend.default_dtype(),
            "pool": memory._enabled,
            "kernel package": kernels._cpu if kernels._cpu is kernels.generic else None,
            "numpy errors": np.geterr(),
            "folder": os.getcwd(),
            "warnings": len(warnings.filters),
            "gc": gc.isenabled(),
        }

    before = snapshot()
    yield
    assert snapshot() == before, "the test left a global setting changed"


@pytest.fixture(autouse=True)
def fixed_seed():
    md.manual_seed(0)
