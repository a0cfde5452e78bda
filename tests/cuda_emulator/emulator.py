"""CUDA C as C++: compile a text with g++, run its kernels block by block (see cuda_emulator.cpp for what is checked)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from minidl.kernels.cuda._launch import TYPES, Kernel, Source

HERE = Path(__file__).parent
MISSING = None if sys.platform == "linux" and shutil.which("g++") else "no g++ on Linux to run CUDA kernels on the CPU with"
OPTIONS = ["-std=c++17", "-O1", "-g0", "-w", "-fPIC", "-shared", "-fno-gnu-unique", "-ffp-contract=on"]
CHECKS = [
    "-fvisibility=hidden",
    "-fsanitize=kernel-address",
    "--param=asan-instrumentation-with-call-threshold=0",
    "--param=asan-stack=0",
    "--param=asan-globals=1",
    "-fsanitize=alignment",
]

THREADS, GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)
STATIC_SHARED, SHARED = 48 << 10, 227 << 10  # bytes: without asking, and at most (compute capability 9.0)

_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_SHARED = re.compile(
    r"(?<!extern )__shared__\s+((?:(?:__align__|alignas)\s*\(\s*\w+\s*\)\s*)?(?:unsigned |long |const )*\w+)\s+([^;(=]+);"
)
_BOUNDS = re.compile(r"__launch_bounds__\s*\(\s*(\w+)[^)]*\)\s*(?:void\s+)?(\w+)\s*\(")
_lock = threading.Lock()  # one launch at a time


class KernelError(AssertionError):
    """A kernel did what would be wrong or undefined on a GPU."""


class _Array(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("size", ctypes.c_longlong), ("step", ctypes.c_int), ("name", ctypes.c_char_p)]


def folder() -> Path:
    """Where compiled texts lie, by the hash of all that they were compiled from; kept from run to run."""
    path = Path(tempfile.gettempdir()) / f"minidl-cuda-emulator-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else")
    return path


def _build(name: str, text: str, *options: str) -> Path:
    """The shared library of a C++ text."""
    native = ["-mfma"] if "fma" in _processor() else []
    command = ["g++", *OPTIONS, *native, *options]
    headers = (HERE / "cuda_emulator.h").read_text()
    digest = hashlib.sha256("\0".join([text, headers, *command]).encode()).hexdigest()[:24]
    library = folder() / f"{name}-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as place:
            source, result = Path(place, f"{name}.cpp"), Path(place, "result.so")
            source.write_text(text)
            done = subprocess.run([*command[:1], str(source), *command[1:], "-o", str(result)], capture_output=True, text=True)
            if done.returncode:
                raise KernelError(f"g++ does not take the text:\n{done.stderr[:4000]}")
            result.rename(library)
    return library


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return flags[1] if flags else ""


def _runtime() -> tuple[ctypes.CDLL, Path]:
    library = _build("runtime", (HERE / "cuda_emulator.cpp").read_text())
    runtime = ctypes.CDLL(str(library))
    runtime.emulator_launch.restype = ctypes.c_char_p
    return runtime, library


class Module:
    """A text compiled for one dtype (the type T stands for)."""

    def __init__(self, code: str, T: str) -> None:
        self.kernels = Source(code).kernels
        self.T = T
        self.bounds = {name: int(most) for most, name in _BOUNDS.findall(code) if most.isdigit()}
        self._runtime, runtime = _runtime()
        wrappers = "\n".join(self._wrapper(kernel) for kernel in self.kernels.values())
        text = _DYNAMIC.sub(r"\1* const \2 = (\1*)emulator_dynamic_shared();", code)
        text = _SHARED.sub(_declared, text)
        text = f'#include "cuda_emulator.h"\n#line 1 "kernels.cu"\n{text}\n{_MODULE}\n{wrappers}\n'
        link = ["-DEMULATED", f"-DT_NAME={T}", f"-I{HERE}", *CHECKS, str(runtime), f"-Wl,-rpath,{runtime.parent}"]
        self._library = ctypes.CDLL(str(_build("kernels", text, *link)))
        self._module = ctypes.c_char.in_dll(self._library, "emulator_module")

    def _wrapper(self, kernel: Kernel) -> str:
        values = [f"*({p.type}{'*' if p.pointer else ''}*)arguments[{i}]" for i, p in enumerate(kernel.parameters)]
        call = f"{kernel.name}({', '.join(values)});"
        return f'extern "C" __global__ UNCHECKED void emulate_{kernel.name}(void** arguments) {{ {call} }}'

    def run(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: list, shared: int = 0) -> None:
        """Run a kernel. ``args`` are C-contiguous NumPy arrays, NumPy scalars of the parameters' types, 0 for null."""
        kernel = self.kernels[name]
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        for what, size, most in (
            *(("grid", n, m) for n, m in zip(grid, GRID)),
            *(("block", n, m) for n, m in zip(block, THREADS)),
        ):
            if not 1 <= size <= most:
                raise KernelError(f"{kernel}: {what} {grid if what == 'grid' else block} is not within 1 to {most}")
        if np.prod(block) > min(1024, self.bounds.get(name, 1024)):
            raise KernelError(f"{kernel}: {block} threads, more than {min(1024, self.bounds.get(name, 1024))}")
        if len(args) != len(kernel.parameters):
            raise KernelError(f"{kernel}: {len(args)} arguments")
        values, arrays, seen = [], [], {}
        for value, parameter in zip(args, kernel.parameters):
            c_type = np.dtype(TYPES[self.T if parameter.type == "T" else parameter.type])
            if isinstance(value, np.ndarray):
                if not parameter.pointer or value.dtype != c_type or not value.flags.c_contiguous:
                    raise KernelError(f"{kernel}: {value.dtype} array with strides {value.strides} for {parameter.name}")
                values.append(ctypes.c_void_p(value.ctypes.data))
                if value.ctypes.data not in seen:
                    seen[value.ctypes.data] = True
                    arrays.append(_Array(value.ctypes.data, value.nbytes, min(value.itemsize, 4), parameter.name.encode()))
                if parameter.name == "table":
                    arrays += _of_table(value, np.dtype(TYPES[self.T]).itemsize)
            elif parameter.pointer:
                if value != 0:
                    raise KernelError(f"{kernel}: {value!r} for {parameter.name}")
                values.append(ctypes.c_void_p(None))
            else:
                if not isinstance(value, np.generic) or value.dtype != c_type:
                    raise KernelError(f"{kernel}: {type(value).__name__} for {parameter.name}")
                values.append((ctypes.c_char * value.itemsize).from_buffer_copy(value.tobytes()))
        pointers = (ctypes.c_void_p * max(len(values), 1))(*[ctypes.addressof(v) for v in values])
        function = getattr(self._library, f"emulate_{name}")
        with _lock:
            error = self._runtime.emulator_launch(
                function,
                pointers,
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*block),
                shared,
                (_Array * max(len(arrays), 1))(*arrays),
                len(arrays),
                ctypes.byref(self._module),
            )
        if error:
            raise KernelError(f"{kernel}: {error.decode()}")


def _of_table(table: np.ndarray, itemsize: int) -> list[_Array]:
    """The arrays whose addresses a kernel reads from its ``table``: N, how many rows, then N addresses and a size in each."""
    N, tensors = table[:2]
    rows = table[2 : 2 + tensors * (N + 1)].reshape(tensors, N + 1)
    return [_Array(int(a), int(row[N]) * itemsize, 4, b"an array of the table") for row in rows for a in row[:N] if a]


def _declared(match: re.Match) -> str:
    """``__shared__ T a[4], b;`` as static variables that are seen through references."""
    text = ""
    for variable in match[2].split(","):
        name, bracket, sizes = variable.strip().partition("[")
        name = name.strip()
        text += f"static {match[1]} {name}_in_shared{bracket}{sizes}; auto& {name} = emulator_place({name}_in_shared); "
    return text


_MODULE = """
extern "C" {
extern char __ehdr_start __attribute__((visibility("hidden")));
extern char __bss_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
__attribute__((visibility("default"))) char* emulator_module[3] = {&__ehdr_start, &__bss_start, &_end};
}
"""
