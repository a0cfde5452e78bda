import gc
import os
import warnings

import numpy as np
import pytest

import minidl as md
from minidl import backend, context, kernels, memory

try:
    import cupy

    HAS_GPU = cupy.cuda.runtime.getDeviceCount() > 0
except Exception:  # CuPy raises its own errors for a missing driver
    HAS_GPU = False

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU with CuPy")]),
]


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def unchanged_global_state():
    """Fail any test that leaves a global setting changed."""

    def snapshot():
        state = context.state
        return {
            "grad mode": state.grad_enabled,
            "module path": state.path,
            "kernels": state.kernels,
            "watchers": state.watchers,
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
