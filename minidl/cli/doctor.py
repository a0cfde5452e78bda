"""Show what minidl runs on: versions, threads, libraries, kernel cache and GPU."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minidl import backend
from minidl.errors import DeviceError
from minidl.kernels import kernels_for

PACKAGES = ("numpy", "numba", "llvmlite", "matplotlib", "tqdm", "safetensors", "pillow")
GPU_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print one line per fact."""
    facts = [*_versions(), *_processor(), *_numba(), *_gpu()]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"{name:<{width}}  {text}")
    return 0


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    yield "minidl", f"{_installed('minidl')} in {Path(__file__).resolve().parents[1]}"
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}) on {platform.platform()}"
    for package in PACKAGES:
        yield package, _installed(package) or "not installed"


def _processor() -> Iterator[tuple[str, str]]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", f"{platform.machine()}, {usable} of {os.cpu_count()} cores usable"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index, call-overload]
    yield "blas", f"{blas.get('name')} {blas.get('version')}"
    limits = {
        name: os.environ[name] for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ
    }
    yield "blas threads", ", ".join(f"{name}={value}" for name, value in limits.items()) or "as many as cores (no limit set)"


def _numba() -> Iterator[tuple[str, str]]:
    if _installed("numba") is None:
        yield "kernels", "generic: Numba is not installed, so kernels run as plain NumPy"
        return
    import numba

    kernels = kernels_for(np.zeros(1, np.float32))
    yield "kernels", kernels.__name__
    yield "cpu features", f"{numba.config.CPU_NAME or _host_cpu()}"
    if numba.config.DISABLE_JIT:
        yield "numba", "compiler switched off by NUMBA_DISABLE_JIT"
        return
    kernels.relu_forward(np.zeros(1 << 16, np.float32))  # the threading layer is chosen at the first parallel call
    yield "numba threads", f"{numba.get_num_threads()}, layer {numba.threading_layer()}"
    from minidl.kernels.cpu.activation import _relu

    path = _relu.stats.cache_path  # type: ignore[attr-defined]
    yield "kernel cache", path or "none: no folder that can be written to; set NUMBA_CACHE_DIR"


def _host_cpu() -> str:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    wide = next(
        (name for name in ("avx512f", "avx2", "avx", "sse4.2", "neon") if features.get(name)), "no vector extension known"
    )
    return f"{llvm.get_host_cpu_name()} ({wide})"


def _gpu() -> Iterator[tuple[str, str]]:
    wheels = [f"{name} {_installed(name)}" for name in GPU_PACKAGES if _installed(name)]
    if len(wheels) > 1:
        yield "gpu", f"more than one CuPy installed ({', '.join(wheels)}): uninstall all but one"
        return
    try:
        cp = backend.cupy()
    except DeviceError as error:
        yield "gpu", f"none: {error}"
        return
    for index in range(cp.cuda.runtime.getDeviceCount()):
        properties = cp.cuda.runtime.getDeviceProperties(index)
        yield (
            f"gpu {index}",
            f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, {wheels[0] if wheels else 'CuPy'}",
        )
