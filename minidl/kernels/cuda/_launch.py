"""How a CUDA kernel is declared and launched.

Each file of this package holds one text, compiled once per dtype (T is float or double) when a kernel of it first runs:

>>> from minidl.kernels.cuda._launch import Source, grid_of
>>> source = Source(r'''
... extern "C" __global__ void scale(const T* x, T* y, long long size, T factor) {
...     for (long long i = first_index(); i < size; i += index_step()) y[i] = x[i] * factor;
... }''')
>>> source.kernels["scale"]
scale(const T* x, T* y, long long size, T factor)

and launches it with ``source.launch("scale", x.dtype, grid_of(x.size, 256), 256, (x, y, x.size, factor))``. Kernels are
written out as ``extern "C" __global__ void name(...)`` (not made by a macro), so that their signatures can be read from the
text; templates and macros inside of them are fine. Parameters are pointers (C-contiguous device arrays of that element type, or
None for a null pointer) and numbers (converted to the declared type); anything else is a TypeError that names kernel and
parameter. A grid of zero blocks launches nothing. What all texts share (indices, maximum, warp_sum, block_sum,
mma_tf32_16x8x8, copy_async, ...) is in ``_prelude.py``. Needs no CuPy before the first launch.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from minidl.backend import Array, cupy
from minidl.errors import DeviceError
from minidl.kernels.cuda._prelude import PRELUDE

__all__ = ["Source", "grid_of"]

NOTICEABLE = 0.3  # seconds of compiling in a process before it is worth a line
STATIC_SHARED = 48 << 10  # bytes of shared memory that a block gets without asking
T_NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
TYPES = {
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
    "char": np.int8,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "short": np.int16,
    "unsigned short": np.uint16,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
}
NULL = np.uint64(0)

logger = logging.getLogger("minidl")

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\([^)]*\)\s*)?(?:void\s+)?(\w+)\s*\(([^)]*)\)\s*\{'
)


def grid_of(size: int, block: int) -> int:
    """How many blocks of ``block`` threads give each of ``size`` elements its thread.

    >>> from minidl.kernels.cuda._launch import grid_of
    >>> grid_of(1000, 256), grid_of(0, 256)
    (4, 0)
    """
    return -(-size // block)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as its text declares it."""

    text: str
    name: str
    type: str
    pointer: bool

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Kernel:
    """A kernel's name and parameters."""

    name: str
    parameters: tuple[Parameter, ...]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.parameters))})"


def _parameter(text: str, kernel: str) -> Parameter:
    words = [word for word in re.findall(r"\w+|\*", text) if word not in ("const", "__restrict__", "volatile")]
    kind = " ".join(words[:-1]).removesuffix("*").strip()
    if len(words) < 2 or words.count("*") > 1 or (kind != "T" and kind not in TYPES):
        raise TypeError(f"{kernel}: expected parameters like 'const T* x' or 'long long size', got {text!r}.")
    return Parameter(re.sub(r"__restrict__\s*", "", text), words[-1], kind, "*" in words)


class Source:
    """A text of CUDA C with its kernels.

    Args:
        text: kernels and device functions, with T for the dtype; ``_prelude.py`` comes before it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._modules: dict[np.dtype, Any] = {}
        self._functions: dict[tuple[str, np.dtype], tuple[Any, tuple[Callable[[Any], Any], ...]]] = {}
        self._shared: dict[tuple[str, np.dtype, int], int] = {}  # bytes asked for so far, by device

    @cached_property
    def kernels(self) -> dict[str, Kernel]:
        """The kernels of the text by name."""
        found = {}
        for name, parameters in _KERNEL.findall(_COMMENT.sub("", self.text)):
            texts = [" ".join(part.split()) for part in parameters.split(",") if part.strip()]
            found[name] = Kernel(name, tuple(_parameter(text, name) for text in texts))
        return found

    @property
    def code(self) -> str:
        """What the compiler gets."""
        return PRELUDE + self.text

    @staticmethod
    def options(dtype: Any) -> tuple[str, ...]:
        """The compiler's options for a dtype."""
        return (f"-DT_NAME={T_NAMES[np.dtype(dtype)]}", "--std=c++17")

    def launch(
        self, name: str, dtype: Any, grid: int | tuple[int, ...], block: int | tuple[int, ...], args: tuple, shared: int = 0
    ) -> None:
        """Run a kernel on CuPy's current stream; the arrays lie on the current device.

        Args:
            name: of the kernel.
            dtype: what T is.
            grid: number of blocks, along up to three axes; nothing happens when one is 0.
            block: number of threads of a block, along up to three axes.
            args: arrays (None for a null pointer) and numbers, one for each parameter.
            shared: bytes of ``extern __shared__`` memory.

        Raises:
            TypeError: an argument that does not fit its parameter.
            DeviceError: an array that is not on the current device.
        """
        entry = self._functions.get((name, dtype))
        if entry is None:
            entry = self._functions[name, dtype] = self._prepare(name, np.dtype(dtype))
        function, converters = entry
        if len(args) != len(converters):
            raise TypeError(f"{self.kernels[name]}: expected {len(converters)} arguments, got {len(args)}.")
        values = tuple([convert(value) for convert, value in zip(converters, args)])
        grid = (grid,) if isinstance(grid, int) else grid
        if 0 in grid:
            return
        if shared > STATIC_SHARED:
            self._allow_shared(name, np.dtype(dtype), function, shared)
        function(grid, (block,) if isinstance(block, int) else block, values, shared_mem=shared)

    def _prepare(self, name: str, dtype: np.dtype) -> tuple[Any, tuple[Callable[[Any], Any], ...]]:
        """Compile the text for a dtype, if it is not, and find the kernel in it."""
        if (name, dtype) in self._functions:  # asked for as "float32"
            return self._functions[name, dtype]
        kernel, cp = self.kernels[name], cupy()
        module = self._modules.get(dtype)
        if module is None:
            module = self._modules[dtype] = cp.RawModule(code=self.code, options=self.options(dtype))
        with compiling:
            function = module.get_function(name)
            _ = function.num_regs  # compiles now, not in the first launch
        converters = tuple(_converter(kernel, parameter, dtype, cp) for parameter in kernel.parameters)
        entry = self._functions[name, dtype] = (function, converters)
        return entry

    def _allow_shared(self, name: str, dtype: np.dtype, function: Any, shared: int) -> None:
        """More shared memory than the default has to be asked for, once per kernel and device."""
        key = (name, dtype, cupy().cuda.runtime.getDevice())
        if self._shared.get(key, 0) < shared:
            function.max_dynamic_shared_size_bytes = shared
            self._shared[key] = shared


def _converter(kernel: Kernel, parameter: Parameter, dtype: np.dtype, cp: Any) -> Callable[[Any], Any]:
    """What checks an argument and makes of it what CuPy passes on."""
    c_type = dtype.type if parameter.type == "T" else TYPES[parameter.type]

    def wrong(expected: str, value: Any) -> TypeError:
        got = f"{value.dtype} array of shape {value.shape}" if isinstance(value, cp.ndarray) else type(value).__name__
        return TypeError(f"{kernel}: expected {expected} for {parameter.name}, got {got}.")

    if parameter.pointer:
        element, array_type, current = np.dtype(c_type), cp.ndarray, cp.cuda.runtime.getDevice

        def array(value: Array | None) -> Any:
            if value is None:
                return NULL
            if not isinstance(value, array_type) or value.dtype != element:
                raise wrong(f"a {element} device array", value)
            if not value.flags.c_contiguous:
                raise TypeError(f"{kernel}: expected a C-contiguous array for {parameter.name}, got strides {value.strides}.")
            if value.data.device_id != current():
                where = f"an array on cuda:{value.data.device_id}"
                raise DeviceError.of(kernel.name, f"{parameter.name} on the current device, cuda:{current()}", where)
            return value

        return array

    def number(value: Any) -> Any:
        try:
            if c_type is np.bool_:
                return c_type(value)
            return c_type(value if np.dtype(c_type).kind == "f" and isinstance(value, NUMBERS) else operator.index(value))
        except (TypeError, OverflowError) as error:
            raise TypeError(f"{kernel}: expected {parameter.type} for {parameter.name}, got {value!r}.") from error

    return number


NUMBERS = (int, float, np.integer, np.floating)


class _Compiling:
    """Seconds of compiling so far; says once why it takes a while."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.told = False

    def __enter__(self) -> None:
        self._since = perf_counter()
        if not self.told and self.seconds > NOTICEABLE:
            self.told = True
            logger.warning("minidl: compiling kernels for this GPU, once; CuPy keeps them on disk for the next process.")

    def __exit__(self, *error: object) -> None:
        self.seconds += perf_counter() - self._since


compiling = _Compiling()
