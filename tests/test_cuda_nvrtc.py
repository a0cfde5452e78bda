"""Every CUDA text through NVIDIA's compiler, where it is installed (it needs no GPU): for the A100, the H100 and the H200."""

import importlib
import pkgutil
from itertools import product

import pytest
from cuda_emulator import nvrtc

import minidl.kernels.cuda as package
from minidl.kernels.cuda import _depthwise, _implicit
from minidl.kernels.cuda._launch import Source

pytestmark = pytest.mark.skipif(nvrtc.MISSING is not None, reason=str(nvrtc.MISSING))

SOURCES = {}
for module in pkgutil.iter_modules(package.__path__):
    found = getattr(importlib.import_module(f"minidl.kernels.cuda.{module.name}"), "source", None)
    if isinstance(found, Source):
        SOURCES[module.name] = found
SOURCES.update({f"depthwise by {VEC}": _depthwise.source(VEC) for VEC in (1, 2, 4)})


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SOURCES)
def test_compiles(name, dtype, architecture):
    """It is taken, the signatures are those that launches go by, and all values stay in registers."""
    usage = nvrtc.usage(SOURCES[name], dtype, architecture)
    assert set(usage) == set(SOURCES[name].kernels)
    assert {kernel: u for kernel, u in usage.items() if u.spilled or u.local} == {}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("direction", _implicit.KERNELS)
@pytest.mark.parametrize("tile", [*_implicit.TILES, *_implicit.TENSOR_CORE_TILES], ids=lambda tile: f"{tile.BM}x{tile.BN}")
def test_convolution_stays_in_registers(direction, tile, architecture):
    """The products of convolutions, for every tile and reading."""
    for VC, VO in product((4, 1), repeat=2):
        source = _implicit.source(direction, tile, VC, VO, tile in _implicit.TENSOR_CORE_TILES)
        usage = nvrtc.usage(source, "float32", architecture)[direction]
        assert (usage.local, usage.spilled) == (0, 0), (VC, VO)
        assert usage.registers * tile.threads * tile.BLOCKS <= 65536  # as many blocks as the tile counts on fit


@pytest.mark.parametrize("direction", _implicit.KERNELS)
@pytest.mark.parametrize("tile", _implicit.TILES, ids=lambda tile: f"{tile.BM}x{tile.BN}")
def test_convolution_of_doubles_stays_in_registers(direction, tile):
    """A block at a time."""
    usage = nvrtc.usage(_implicit.source(direction, tile, 4, 4, False), "float64")[direction]
    assert (usage.local, usage.spilled) == (0, 0)
    assert usage.registers * tile.threads <= 65536
