"""Arrays and devices: which array package an array belongs to, and how it moves.

NumPy arrays live on ``"cpu"``, CuPy arrays on ``"cuda:N"``. This is the only file that imports CuPy,
and only when a GPU is asked for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DeviceError, DtypeError

Array = Any  # numpy.ndarray or cupy.ndarray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class _Default(threading.local):
    dtype = np.dtype(np.float32)


_default = _Default()


def default_dtype() -> np.dtype:
    """The floating dtype of new tensors made from Python numbers, and of integers that enter float operations.

    >>> import minidl as md
    >>> md.default_dtype()
    dtype('float32')
    """
    return _default.dtype


@contextmanager
def use_dtype(dtype: Any) -> Iterator[None]:
    """Change the default floating dtype inside a ``with`` block of this thread.

    Raises:
        DtypeError: anything but float32 and float64.

    >>> import minidl as md
    >>> with md.use_dtype("float64"):
    ...     md.zeros(2).dtype
    dtype('float64')
    """
    dtype = np.dtype(dtype)
    if dtype not in FLOATS:
        raise DtypeError.of("use_dtype", "float32 or float64", str(dtype))
    outer, _default.dtype = _default.dtype, dtype
    try:
        yield
    finally:
        _default.dtype = outer


def cupy() -> ModuleType:
    """The cupy module with a usable GPU behind it, or a DeviceError that says what is missing.

    Raises:
        DeviceError: CuPy is not installed, or twice, or its libraries do not load; no driver; no GPU.
    """
    global _cupy
    if _cupy is not None and sys.modules.get("cupy") is _cupy:
        return _cupy
    wheels = _cupy_wheels()
    if len(wheels) > 1:
        remove = f"pip uninstall {' '.join(wheels)}, then install minidl[cuda12] or minidl[cuda13]."
        raise DeviceError.of(
            "device", "one CuPy package", f"{len(wheels)}: {', '.join(wheels)}", f"They overwrite each other: {remove}"
        )
    try:
        import cupy as cp
    except ImportError as error:
        cause = error.__cause__ or error  # CuPy puts a page of advice around it
        got = f"{type(cause).__name__}: {cause}".rstrip(".")
        raise DeviceError.of("device", "CuPy for device 'cuda'", got, "Install minidl[cuda12] or minidl[cuda13].") from error
    try:
        count = cp.cuda.runtime.getDeviceCount()
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError.of("device", "an NVIDIA GPU with its driver", str(error), "Use device='cpu'.") from error
    if count == 0:
        raise DeviceError.of("device", "an NVIDIA GPU", "none visible", "Check CUDA_VISIBLE_DEVICES or use device='cpu'.")
    _cupy = cp
    return cp


_cupy: ModuleType | None = None  # the one that has been looked at


def _cupy_wheels() -> list[str]:
    """The names of the installed packages that bring a ``cupy``."""
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in metadata.distributions()}
    return sorted(name for name in names if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm")))


def on_device_of(array: Array) -> AbstractContextManager:
    """A block in which CuPy works on the GPU of an array: new arrays lie there too. Does nothing for the CPU.

    >>> import numpy as np
    >>> from minidl import backend
    >>> with backend.on_device_of(np.zeros(2)):
    ...     pass
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return _HERE
    cp = sys.modules["cupy"]
    index = array.device.id
    return _HERE if index == cp.cuda.runtime.getDevice() else cp.cuda.Device(index)


_HERE = nullcontext()


def run_on(array: Array, function: Callable, *args: Any, **options: Any) -> Any:
    """``function(*args, **options)`` on the device of an array. When a GPU's memory is full the error says how much there is.

    >>> import numpy as np
    >>> from minidl import backend
    >>> backend.run_on(np.zeros(2), max, 1, 2)
    2
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return function(*args, **options)
    try:
        with on_device_of(array):
            return function(*args, **options)
    except MemoryError as error:
        _explain(error, sys.modules["cupy"])
        raise


def _explain(error: MemoryError, cp: ModuleType) -> None:
    """Add how much memory the GPU has, how much of it is free and how much CuPy's pool keeps."""
    if not isinstance(error, cp.cuda.memory.OutOfMemoryError) or hasattr(error, "__notes__"):
        return
    free, total = cp.cuda.runtime.memGetInfo()
    pool = cp.get_default_memory_pool()
    error.add_note(
        f"minidl: cuda:{cp.cuda.runtime.getDevice()} has {free / 2**30:.2f} of {total / 2**30:.2f} GiB free, CuPy's pool holds "
        f"{pool.total_bytes() / 2**30:.2f} GiB, {pool.used_bytes() / 2**30:.2f} of them in use. Smaller batches take less; "
        "under md.no_grad() nothing is kept for backward."
    )


def xp_of(array: Array) -> ModuleType:
    """The package that owns an array: numpy or cupy.

    >>> import numpy as np
    >>> from minidl import backend
    >>> backend.xp_of(np.zeros(2)).__name__
    'numpy'
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    return sys.modules["cupy"]  # a CuPy array exists, so cupy is loaded


def is_array(value: object) -> bool:
    """True for NumPy and CuPy arrays.

    >>> import numpy as np
    >>> from minidl import backend
    >>> backend.is_array(np.zeros(2)), backend.is_array([0.0, 0.0])
    (True, False)
    """
    if isinstance(value, np.ndarray):
        return True
    cp = sys.modules.get("cupy")
    return cp is not None and isinstance(value, getattr(cp, "ndarray", ()))


def device_of(array: Array) -> str:
    """Where an array lies: ``"cpu"`` or ``"cuda:N"``.

    >>> import numpy as np
    >>> from minidl import backend
    >>> backend.device_of(np.zeros(2))
    'cpu'
    """
    return "cpu" if isinstance(array, (np.ndarray, np.generic)) else f"cuda:{array.device.id}"


def parse_device(device: str) -> int | None:
    """None for ``"cpu"``, the GPU's number for ``"cuda"`` (0) and ``"cuda:N"``.

    Raises:
        ArgumentError: any other text.

    >>> from minidl import backend
    >>> backend.parse_device("cpu"), backend.parse_device("cuda"), backend.parse_device("cuda:2")
    (None, 0, 2)
    """
    if device == "cpu":
        return None
    kind, _, index = str(device).partition(":")
    if kind == "cuda" and (index.isdigit() or device == "cuda"):
        return int(index or 0)
    raise ArgumentError.of("device", "'cpu', 'cuda' or 'cuda:N'", repr(device))


def to_device(array: Array, device: str) -> Array:
    """The array on a device; the same object when it is there already. Memory order is kept.

    Raises:
        ArgumentError: text that names no device.
        DeviceError: a GPU that is not there, or CuPy missing.

    >>> import numpy as np
    >>> from minidl import backend
    >>> x = np.zeros(2)
    >>> backend.to_device(x, "cpu") is x
    True
    """
    index = parse_device(device)
    if index is None:
        return to_numpy(array)
    cp = cupy()
    if index >= cp.cuda.runtime.getDeviceCount():
        raise DeviceError.of("device", f"at most {cp.cuda.runtime.getDeviceCount()} GPU(s)", repr(device))
    if is_array(array) and device_of(array) == f"cuda:{index}":
        return array
    with cp.cuda.Device(index):
        try:
            return in_memory_order(array if is_array(array) else np.asarray(array), lambda source: cp.array(source, order="C"))
        except MemoryError as error:
            _explain(error, cp)
            raise


def in_memory_order(array: Array, copy: Callable[[Array], Array]) -> Array:
    """``copy(array)`` for a copy between host and GPU or two GPUs, which CuPy makes in C order, in the order of ``array``.

    >>> import numpy as np
    >>> from minidl import backend
    >>> x = np.zeros((2, 5, 5, 3)).transpose(0, 3, 1, 2)
    >>> backend.in_memory_order(x, lambda view: view.copy("C")).strides == x.strides
    True
    """
    if array.flags.c_contiguous:
        return copy(array)
    axes = slowest_first(array)
    return copy(array.transpose(axes)).transpose(np.argsort(axes).tolist())


def slowest_first(array: Array) -> list[int]:
    """The axes by how far apart in memory their elements are, the farthest first.

    >>> import numpy as np
    >>> from minidl import backend
    >>> backend.slowest_first(np.zeros((2, 5, 5, 3)).transpose(0, 3, 1, 2))
    [0, 2, 3, 1]
    """
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def overwrite(target: Array, values: np.ndarray) -> None:
    """Copy a NumPy array into a dense array on a GPU, of the same shape and dtype, in whatever order both lie.

    >>> import numpy as np
    >>> from minidl import backend
    >>> try:
    ...     x = backend.to_device(np.zeros((2, 3)).T, "cuda")
    ...     backend.overwrite(x, np.ones((3, 2)))
    ...     print(float(x.sum()))
    ... except backend.DeviceError:  # no GPU here
    ...     print(6.0)
    6.0
    """
    axes = slowest_first(target)
    target.transpose(axes).set(np.ascontiguousarray(values.transpose(axes)).reshape([target.shape[axis] for axis in axes]))


def to_numpy(array: Array) -> np.ndarray:
    """The array in host memory as NumPy; the same object when it is there already. Memory order is kept.

    >>> import numpy as np
    >>> from minidl import backend
    >>> x = np.zeros(2)
    >>> backend.to_numpy(x) is x
    True
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return np.asarray(array)
    return in_memory_order(array, lambda device_array: device_array.get())


def as_array(value: Any, dtype: Any = None, op: str = "tensor", copy: Callable[[np.ndarray], np.ndarray] = np.copy) -> Array:
    """An own copy of ``value`` as an array of numbers or booleans; ``copy`` makes those of NumPy's floats.

    Python floats take the default dtype; arrays keep theirs, except that half precision and extended
    floats, which no kernel handles, must be cast explicitly.

    Raises:
        DtypeError: text, objects, complex numbers or ragged lists.

    >>> from minidl import backend
    >>> backend.as_array([1.0, 2.0]).dtype, backend.as_array([1, 2]).dtype
    (dtype('float32'), dtype('int64'))
    """
    if hasattr(value, "__array__") and not is_array(value):  # another library's array: its dtype counts
        try:
            value = np.asarray(value)
        except TypeError as error:  # in a GPU's memory, or of a dtype that NumPy does not have
            raise DtypeError.of(op, "an array that NumPy can read", f"{type(value).__name__}: {error}") from error
    xp = xp_of(value) if is_array(value) else np
    if dtype is None and not is_array(value) and not isinstance(value, np.generic):
        try:
            array = np.array(value)
        except (ValueError, TypeError) as error:
            raise DtypeError.of(op, "numbers in a rectangular nesting", f"{type(value).__name__}: {error}") from error
        if array.dtype.kind == "f" and not _holds_numpy(value):
            array = array.astype(default_dtype())
    elif type(value) is np.ndarray and value.dtype in FLOATS and (dtype is None or value.dtype == dtype):
        array = copy(value)
    else:
        try:
            array = xp.array(value, dtype=dtype, order="K")
        except (ValueError, TypeError) as error:
            raise DtypeError.of(op, f"values that become {np.dtype(dtype) if dtype else 'an array'}", str(error)) from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and array.dtype not in FLOATS):
        raise DtypeError.of(
            op, "float32, float64, integers or booleans", f"dtype {array.dtype}", "Convert with .astype('float32') first."
        )
    return array


def _holds_numpy(value: Any) -> bool:
    """True when a nested list carries arrays or NumPy's scalars, whose dtype then counts."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return hasattr(value, "__array__")
