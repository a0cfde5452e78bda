"""Show what minidl runs on: versions, threads, libraries, kernel cache and GPU; or compile kernels ahead of time."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minidl import backend
from minidl.errors import ArgumentError, DeviceError
from minidl.kernels import kernels_for
from minidl.testing import warmup

PACKAGES = ("numpy", "numba", "llvmlite", "matplotlib", "tqdm", "safetensors", "pillow", "pooch")
GPU_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to compile, and for what."""
    parser.add_argument(
        "--warmup",
        nargs="*",
        metavar="NAME",
        help="compile now, and not in the first training step, the kernels of these models, layers, optimizers or operations; "
        "of all of them where none is named",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N: what --warmup compiles for")


def run(options: argparse.Namespace) -> int:
    """Print one line per fact; or warm up."""
    if options.warmup is not None:
        return _warm_up(options.warmup, options.device)
    facts = [*_versions(), *_processor(), *_numba(), *_gpu()]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"{name:<{width}}  {text}")
    return 0


def _warm_up(names: list[str], device: str) -> int:
    """Compile with a progress bar; say how long it took and where the kernels lie."""
    known = warmup.names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise ArgumentError(
                f"--warmup: expected the name of a model, a layer, an optimizer or an operation, got {name!r}."
                + (f" Did you mean {', '.join(near)}?" if near else "")
            )
    backend.to_device(np.empty(0), device)  # refuses a GPU that is not there
    if device != "cpu":
        return _warm_up_gpu(names, device)
    if not _has_compiler():
        print("nothing to compile: Numba is not installed, or NUMBA_DISABLE_JIT is set")
        return 0
    from minidl.kernels.cpu._compiling import compiling

    compiling.told = True  # the bar tells
    kernels, seconds = compiling.kernels, compiling.seconds
    _walk(names, device)
    kernels, seconds = compiling.kernels - kernels, compiling.seconds - seconds
    folder = _cache_folder()
    place = f"they lie in {folder}" if folder else "there is no folder to keep them in: set NUMBA_CACHE_DIR"
    print(f"{kernels} kernels compiled in {seconds:.1f} s; {place}")
    return 0


def _warm_up_gpu(names: list[str], device: str) -> int:
    """The same for a GPU; CuPy keeps its own kernels, too."""
    from minidl.kernels.cuda._launch import compiling

    compiling.told = True
    start = time.perf_counter()
    _walk(names, device)
    print(f"compiled in {time.perf_counter() - start:.1f} s; the kernels lie in {_gpu_cache_folder()}")
    return 0


def _walk(names: list[str], device: str) -> None:
    """Call every kernel once."""
    from tqdm import tqdm

    bar = tqdm(list(warmup.steps(names, device)), unit="step", leave=False, disable=not sys.stderr.isatty())
    with np.errstate(all="ignore"), bar:
        for name, call in bar:
            bar.set_description(name)
            call()


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
    yield "kernel cache", _cache_folder() or "none: no folder that can be written to; set NUMBA_CACHE_DIR"


def _has_compiler() -> bool:
    if _installed("numba") is None:
        return False
    import numba

    return not numba.config.DISABLE_JIT


def _cache_folder() -> str | None:
    """Where compiled kernels are kept."""
    from minidl.kernels.cpu._jit import share

    return share.stats.cache_path  # type: ignore[attr-defined]


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
    runtime = cp.cuda.runtime
    yield "cuda", f"driver {_cuda(runtime.driverGetVersion())}, libraries {_cuda(runtime.runtimeGetVersion())}"
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        yield (
            f"gpu {index}",
            f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, "
            f"{properties['multiProcessorCount']} multiprocessors, "
            f"compute capability {properties['major']}.{properties['minor']}, "
            f"{wheels[0] if wheels else 'CuPy'}",
        )
    yield "gpu kernel cache", _gpu_cache_folder()


def _cuda(number: int) -> str:
    """12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu_cache_folder() -> str:
    """Where CuPy keeps what it compiles."""
    return os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))
