"""A stand-in for CuPy on machines without a GPU: the parts that minidl uses, with NumPy and the emulator behind them.

It refuses what CuPy refuses: NumPy arrays among its own, implicit conversion to NumPy, functions and arguments that CuPy does
not have, arrays of another device, launches beyond the limits of a GPU. It counts what costs time on a GPU: kernel launches and
copies to the host (``counts``).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
import sys
import threading
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from cuda_emulator import emulator
from minidl.kernels.cuda._launch import Source

DEVICES = 2
MEMORY = 1 << 30  # bytes of each device

# What NumPy 2.4 has and CuPy 14 does not, as far as it could be called by mistake.
NOT_IN_CUPY = """
asmatrix block bmat einsum_path errstate frompyfunc geomspace getbufsize geterr histogram_bin_edges insert isnat matvec memmap
nanpercentile nanquantile ndenumerate nditer polydiv seterr spacing unstack vecdot vecmat random char strings ma testing rec
ctypeslib longdouble
"""
NOT_TAKEN = {"where", "initial", "like", "device", "subok", "stable", "ndmax"}  # parameters of NumPy's functions
KEEP_ORDER = {"array", "asfortranarray", "astype", "copy", "empty_like", "full_like", "ones_like", "zeros_like"}
CUBLAS = {"dot", "einsum", "inner", "matmul", "tensordot", "vdot"}
METHODS = """
all any argmax argmin argpartition argsort astype choose clip compress conj cumprod cumsum diagonal dot fill flatten max mean
min nonzero partition prod put ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take trace transpose var
view
"""
VIEWS = {"astype", "diagonal", "ravel", "reshape", "squeeze", "swapaxes", "transpose", "view"}
WAITS = {
    "nonzero",
    "argwhere",
    "flatnonzero",
    "unique",
    "array_equal_",
    "compress",
    "extract",
    "delete",
    "argsort",
    "sort",
}  # need a size from the GPU, or wait for it as CuPy does when it has sorted


@dataclass
class Counts:
    """What has happened since ``clear``."""

    launches: list[str] = field(default_factory=list)  # names of kernels
    downloads: int = 0  # times the host waited for a value
    uploads: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.launches.clear()
        self.downloads = self.uploads = 0


counts = Counts()
_current = threading.local()


def _device() -> int:
    return getattr(_current, "device", 0)


# ---------------------------------------------------------------- arrays


def _poison(host: np.ndarray) -> np.ndarray:
    """New memory holds NaN, -1 or True, so that reading it shows."""
    kind = host.dtype.kind
    host.fill(np.nan if kind in "fc" else True if kind == "b" else np.iinfo(host.dtype).max if kind == "u" else -1)
    return host


def _wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.base is None:
            default_pool.check(value.nbytes)
        return ndarray._of(value)
    if isinstance(value, np.generic):
        return ndarray._of(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_wrap, value)) if type(value) in (tuple, list) else tuple(map(_wrap, value))
    return value


def _unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        if value._index != _device():
            raise ValueError(
                f"Array device must be same as the current device: array device = {value._index} while current = {_device()}"
            )
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    if isinstance(value, ufunc):
        return value._numpy
    return value


def _captured() -> list | None:
    """The work of the graph that the current stream's work goes into."""
    return get_current_stream()._work


def _not_captured() -> None:
    """Here the host waits for the GPU."""
    if _captured() is not None:
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")


def _download() -> None:
    _not_captured()
    counts.downloads += 1


def _upload() -> None:
    _not_captured()
    counts.uploads += 1


def _do(function: Any, *args: Any, **options: Any) -> None:
    """Run what changes an array, now or when the graph is launched."""
    work = _captured()
    if work is None:
        function(*args, **options)
    else:
        work.append(lambda: function(*args, **options))


def _result(function: Any, args: tuple, options: dict[str, Any]) -> Any:
    """The value of a function; in a graph that is captured, memory which has it when the graph is launched."""
    result, work = _in_c_order(function, args, function(*args, **options)), _captured()
    if work is not None:
        for i, part in enumerate(result if isinstance(result, (tuple, list)) else [result]):
            if not isinstance(part, np.ndarray):
                raise NotImplementedError("the stand-in captures no numbers")
            if any(isinstance(a, np.ndarray) and np.may_share_memory(a, part) for a in args):
                continue  # a view, which sees what its array will hold

            def redo(part: np.ndarray = part, i: int = i) -> None:
                again = function(*args, **options)
                part[...] = again[i] if isinstance(again, (tuple, list)) else again

            work.append(redo)
            _poison(part)
    return result


def _in_c_order(function: Any, args: tuple, result: Any) -> Any:
    """New arrays lie in C order in CuPy, whatever the order of the arrays that they are computed from."""
    if function.__name__ in KEEP_ORDER or not isinstance(result, (np.ndarray, tuple, list)):
        return result
    if not isinstance(result, np.ndarray):
        return type(result)([_in_c_order(function, args, part) for part in result])
    if result.flags.c_contiguous or any(isinstance(a, np.ndarray) and np.may_share_memory(a, result) for a in args):
        return result
    return result.copy("C")


def _call(function: Any, args: tuple, options: dict[str, Any]) -> Any:
    refused = NOT_TAKEN.intersection(name for name, value in options.items() if value is not None)
    if refused:
        raise TypeError(f"{function.__name__}() got an unexpected keyword argument {sorted(refused)[0]!r}")
    own, others = tuple(map(_unwrap, args)), {name: _unwrap(value) for name, value in options.items()}
    with np.errstate(all="ignore"):
        if function.__name__ in CUBLAS and any(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in own):
            if _captured() is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            out = others.get("out")
            if function.__name__ == "dot" and out is not None and not out.flags.c_contiguous:
                raise ValueError("Output array must be C-contiguous")
        if isinstance(options.get("out"), ndarray):
            _do(function, *own, **others)
            return options["out"]
        if _captured() is not None:  # numbers, too, are arrays

            @functools.wraps(function)
            def recorded(*args: Any, **options: Any) -> Any:
                return _arrays(function(*args, **options))

            return _wrap(_result(recorded, own, others))
        return _wrap(_in_c_order(function, own, function(*own, **others)))


def _arrays(value: Any) -> Any:
    return type(value)(map(_arrays, value)) if type(value) in (tuple, list) else np.asarray(value)


def _key(key: Any, waits: bool = True) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(part, waits) for part in key)
    if isinstance(key, ndarray):
        if key.dtype == np.bool_ and waits:
            _download()  # how many are chosen
        return key._host
    if isinstance(key, (np.ndarray, list)):
        _upload()
    return key


class _Flags:
    def __init__(self, host: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous
        self.owndata = host.base is None
        self.fnc, self.forc = host.flags.fnc, host.flags.forc

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


class _Memory:
    """Where an array lies."""

    def __init__(self, array: ndarray) -> None:
        self._array, self.device_id = array, array._index

    @property
    def ptr(self) -> int:
        """The address."""
        return self._array._host.ctypes.data

    @property
    def device(self) -> Device:
        """The GPU."""
        return Device(self.device_id)


class ndarray:
    """An array of the stand-in's device memory. Not a NumPy array, and none is made of it but by ``get``."""

    __slots__ = ("__weakref__", "_host", "_index")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C") -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the stand-in makes arrays of new memory only")
        self._host, self._index = _allocate(shape, dtype, order), _device()

    @classmethod
    def _of(cls, host: np.ndarray) -> ndarray:
        new = object.__new__(cls)
        new._host, new._index = host, _device()
        return new

    # -- properties

    shape = property(lambda self: self._host.shape, lambda self, shape: setattr(self._host, "shape", shape))
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: _Flags(self._host))
    T = property(lambda self: self._view(self._host.T))
    mT = property(lambda self: self._view(self._host.mT))
    real = property(lambda self: self._view(self._host.real))
    device = property(lambda self: Device(self._index))
    data = property(lambda self: _Memory(self))

    def _view(self, host: np.ndarray) -> ndarray:
        new = ndarray._of(host)
        new._index = self._index
        return new

    @property
    def base(self) -> ndarray | None:
        """The array whose memory this one looks at."""
        return self._view(self._host.base) if isinstance(self._host.base, np.ndarray) else None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "version": 3}

    # -- to the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """A copy in host memory."""
        if order not in ("C", "F", "A"):
            raise ValueError(f"unsupported order: {order}")
        _download()
        if out is None:
            return self._host.copy("F" if order == "F" or (order == "A" and self._host.flags.f_contiguous) else "C")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        out[...] = self._host
        return out

    def item(self, *args: int) -> Any:
        """A Python number."""
        _download()
        return self._host.item(*args)

    def tolist(self) -> Any:
        """Nested lists."""
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """The elements as bytes."""
        return self.get().tobytes(order)

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """Copy a NumPy array of the same shape and dtype here."""
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        _upload()
        self._host[...] = array

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        _download()
        return bool(self._host)

    def __complex__(self) -> complex:
        return complex(self.item())

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, form: str) -> str:
        return format(self.get(), form)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> ndarray:
        return self.copy()

    def __reduce__(self) -> tuple:
        return array, (self.get(),)

    def __dlpack__(self, **options: Any) -> Any:
        raise NotImplementedError("the stand-in has no DLPack")

    # -- parts

    def __getitem__(self, key: Any) -> ndarray:
        own = _key(key)
        if _captured() is not None:
            return self._view(_result(lambda host: np.asarray(host[own]), (self._host,), {}))
        found = self._host[own]
        if isinstance(found, np.generic):  # one element: a view of no dimensions
            found = self._host[(*own, ...) if isinstance(own, tuple) else (own, ...)]
        return self._view(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        _do(operator.setitem, self._host, _key(key, waits=False), _unwrap(value))

    # -- NumPy's functions on it

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(not isinstance(a, (ndarray, np.ndarray, np.generic, int, float, complex)) for a in inputs):
            return NotImplemented
        own = getattr(sys.modules[__name__], function.__name__, None)
        if own is None:
            return NotImplemented
        if "out" in options:
            (options["out"],) = options["out"]
        return (own if method == "__call__" else getattr(own, method))(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: tuple, options: dict) -> Any:
        if any(t not in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        own = getattr(sys.modules[__name__], function.__name__, None)
        return NotImplemented if own is None else own(*args, **options)

    def copy(self, order: str = "C") -> ndarray:
        """Another array of the same values."""
        return self._view(_result(np.copy, (self._host, order), {}))


def _method(name: str) -> Any:
    def call(self: ndarray, *args: Any, **options: Any) -> Any:
        if name in WAITS:
            _download()
        if name in VIEWS and not any(isinstance(a, ndarray) for a in args):
            found = getattr(self._host, name)(*args, **options)
            if np.may_share_memory(found, self._host):  # nothing has been done to the elements, on whatever device they are
                return self._view(found)
        return _call(getattr(np.ndarray, name), (self, *args), options)

    call.__name__ = name
    return call


for _name in METHODS.split():
    setattr(ndarray, _name, _method(_name))


def _operator(name: str, swapped: bool = False, in_place: bool = False) -> Any:
    function = getattr(operator, name)

    def call(self: ndarray, other: Any = None) -> Any:
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        if other is not None and not isinstance(other, (ndarray, np.generic, int, float, complex)):
            return NotImplemented
        a, b = _unwrap(self), _unwrap(other)
        if in_place:
            with np.errstate(all="ignore"):
                _do(function, a, b)
            return self
        return _call(function, (self,) if other is None else (other, self) if swapped else (self, other), {})

    return call


for _name in ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"]:
    _plain = _name.strip("_")
    setattr(ndarray, f"__{_plain}__", _operator(_name))
    setattr(ndarray, f"__r{_plain}__", _operator(_name, swapped=True))
    if _name != "matmul":
        setattr(ndarray, f"__i{_plain}__", _operator("i" + _plain if _plain != _name else f"i{_name}", in_place=True))
for _name in ["lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"]:
    setattr(ndarray, f"__{_name}__", _operator(_name))


class ufunc:
    """An elementwise function."""

    def __init__(self, function: np.ufunc) -> None:
        self._numpy = function
        self.__name__ = self.name = function.__name__
        self.nin, self.nout, self.nargs, self.types = function.nin, function.nout, function.nargs, function.types

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _call(self._numpy, args, options)

    def _part(self, method: str, supported: str, args: tuple, options: dict) -> Any:
        if self.name not in supported.split():
            raise NotImplementedError(f"`{self.name}.{method}` is not supported yet")
        return _call(getattr(self._numpy, method), args, options)

    def reduce(self, *args: Any, **options: Any) -> Any:
        """The sum or product along an axis."""
        return self._part("reduce", "add multiply", args, options)

    def accumulate(self, *args: Any, **options: Any) -> Any:
        """The running sum or product along an axis."""
        return self._part("accumulate", "add multiply", args, options)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        """The function in place at indices, as often as they occur."""
        if self.name not in ["add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"]:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        _do(self._numpy.at, _unwrap(a), _key(indices, waits=False), _unwrap(b))

    def outer(self, *args: Any, **options: Any) -> Any:
        """The function of all pairs."""
        return _call(self._numpy.outer, args, options)


def _function(name: str) -> Any:
    function = getattr(np, name)

    def call(*args: Any, **options: Any) -> Any:
        if name in WAITS or (name == "where" and len(args) == 1):
            _download()
        return _call(function, args, options)

    call.__name__ = name
    return call


def __getattr__(name: str) -> Any:
    if name.startswith("__") or name in NOT_IN_CUPY.split() or not hasattr(np, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    found = getattr(np, name)
    if isinstance(found, np.ufunc):
        found = ufunc(found)
    elif not isinstance(found, type) and callable(found):
        found = _function(name)
    elif isinstance(found, ModuleType):
        raise AttributeError(f"the stand-in has no {name!r}")
    setattr(sys.modules[__name__], name, found)
    return found


# ---------------------------------------------------------------- making arrays


def _allocate(shape: Any, dtype: Any, order: str = "C") -> np.ndarray:
    host = np.empty(shape, dtype, order=order)  # type: ignore[call-overload]
    default_pool.check(host.nbytes)
    return _poison(host)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """New memory."""
    return ndarray._of(_allocate(shape, dtype, order))


def empty_like(prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """New memory in the order of another array."""
    return ndarray._of(_poison(np.empty_like(_unwrap(prototype), dtype, order, True, shape)))


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool | None = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    blocking: bool = False,
) -> ndarray:
    """A copy on the current device."""
    if isinstance(obj, ndarray):
        host, same = obj._host, obj._index == _device()
        if not same and order in ("K", "A") and obj.size and not host.flags.forc:
            raise NotImplementedError("CuPy cannot copy non-contiguous array between devices.")
    elif isinstance(obj, (list, tuple)) and any(isinstance(part, ndarray) for part in obj):
        host, same, order = np.array([part._host for part in obj]), False, "F" if order == "F" else "C"
    else:
        host, same = np.asarray(obj), False
        if order in ("K", "A"):  # of the host's memory order CuPy keeps no more than this
            order = "F" if host.flags.fnc else "C"
        _upload()
        default_pool.check(host.nbytes)
        if host.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {host.dtype}")
    options = {"dtype": dtype, "copy": None if same and not copy else True, "order": order, "ndmin": ndmin}
    result = _result(np.array, (host,), options)
    return obj if result is host and isinstance(obj, ndarray) else ndarray._of(result)


def asarray(a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False) -> ndarray:
    """The array on the current device; itself when it is there."""
    return array(a, dtype, copy=False, order=order or "K")


asanyarray = asarray


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """The array in C order; itself when it is."""
    return array(a, dtype, copy=False, order="C", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    """In host memory."""
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> ModuleType:
    """CuPy when there is one of its arrays."""
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """As NumPy's."""
    return np.broadcast_shapes(*shapes)


def may_share_memory(a: ndarray, b: ndarray, max_work: Any = None) -> bool:
    """Whether two arrays may look at the same bytes."""
    return np.may_share_memory(a._host, b._host)


shares_memory = may_share_memory


# ---------------------------------------------------------------- kernels


class RawKernel:
    """A kernel of a module."""

    def __init__(self, module: RawModule, name: str) -> None:
        self._module, self.name = module, name
        self._shared = emulator.STATIC_SHARED
        self.num_regs = 32

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes of shared memory that a launch may ask for."""
        return self._shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > emulator.SHARED:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._shared = size

    def __call__(self, grid: tuple, block: tuple, args: Any, *, shared_mem: int = 0) -> None:
        if shared_mem > self._shared:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        values = []
        for value in args:
            if isinstance(value, (bool, int, float)):
                value = (np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float64)(value)
            elif not isinstance(value, np.generic):
                if not isinstance(value, ndarray):
                    raise TypeError(f"Unsupported type {type(value)}")
                value = _unwrap(value)
            values.append(value)
        counts.launches.append(self.name)
        _do(self._module._emulated().run, self.name, grid, block, values, shared_mem)


class RawModule:
    """A text of CUDA C."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self.code, self.options = code, options
        self._module: emulator.Module | None = None

    def _emulated(self) -> emulator.Module:
        if self._module is None:
            (T,) = [option.partition("=")[2] for option in self.options if option.startswith("-DT_NAME=")]
            self._module = emulator.Module(self.code, T)
        return self._module

    def get_function(self, name: str) -> RawKernel:
        """A kernel by its name."""
        if name not in self._emulated().kernels:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(self, name)


# ---------------------------------------------------------------- cupy.cuda, cupy.random, cupy.linalg


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA run time."""


class CUDADriverError(RuntimeError):
    """An error of the driver."""


class OutOfMemoryError(MemoryError):
    """No device memory is left."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, limit set to: {limit:,} bytes)."
        )


class Device:
    """A GPU; as a context manager, the current one."""

    compute_capability = "90"

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = _device() if device is None else int(getattr(device, "id", device))
        self._outer: list[int] = []

    def __enter__(self) -> Device:
        self._outer.append(_device())
        self.use()
        return self

    def __exit__(self, *error: object) -> None:
        _current.device = self._outer.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __int__(self) -> int:
        return self.id

    def use(self) -> None:
        """Make it the current one."""
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _current.device = self.id

    def synchronize(self) -> None:
        """Wait for its work."""
        _download()

    @property
    def mem_info(self) -> tuple[int, int]:
        """(free, total) bytes."""
        return MEMORY, MEMORY

    @property
    def attributes(self) -> dict[str, int]:
        """What it can do."""
        return {
            "MultiProcessorCount": 132,
            "MaxSharedMemoryPerBlockOptin": emulator.SHARED,
            "WarpSize": 32,
            "MaxThreadsPerBlock": 1024,
        }


class MemoryPool:
    """Says how much may be allocated at once; keeps nothing."""

    def __init__(self) -> None:
        self.limit = 0

    def check(self, size: int) -> None:
        """Refuse what does not fit."""
        if size > (self.limit or MEMORY):
            raise OutOfMemoryError(size, 0, self.limit)

    def malloc(self, size: int) -> None:
        """What ``using_allocator`` takes; here NumPy has the memory."""

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Bytes that may be allocated; 0: all."""
        self.limit = int(fraction * MEMORY) if size is None and fraction else int(size or 0)

    def get_limit(self) -> int:
        """The same, as it is."""
        return self.limit

    def used_bytes(self) -> int:
        """Not counted."""
        return 0

    free_bytes = total_bytes = used_bytes

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is kept."""


default_pool = MemoryPool()


@contextlib.contextmanager
def using_allocator(allocator: Any) -> Any:
    """Another pool inside of the block; here nothing changes."""
    yield


def get_default_memory_pool() -> MemoryPool:
    """The pool that all arrays come from."""
    return default_pool


class Stream:
    """A queue of work; here everything is done at once."""

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None) -> None:
        self.ptr = 0 if null else id(self)
        self._outer: list[Stream] = []
        self._work: list | None = None

    def __enter__(self) -> Stream:
        self._outer.append(get_current_stream())
        return self.use()

    def __exit__(self, *error: object) -> None:
        _current.stream = self._outer.pop()

    def use(self) -> Stream:
        """Make it the current one."""
        _current.stream = self
        return self

    def synchronize(self) -> None:
        """Wait for its work."""
        if self._work is not None:
            _not_captured()
        counts.downloads += 1

    def begin_capture(self, mode: Any = None) -> None:
        """What comes now is kept for a graph, and not run."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._work = []

    def end_capture(self) -> Graph:
        """The graph."""
        if self._work is None:
            raise RuntimeError("the stream is not capturing")
        graph, self._work = Graph(self._work), None
        return graph

    def is_capturing(self) -> bool:
        """Whether work goes into a graph."""
        return self._work is not None

    def record(self, event: Any = None) -> Any:
        """Mark this place in the queue."""
        return event or Event()

    def wait_event(self, event: Any) -> None:
        """Let what follows wait for a place in another queue."""


Stream.null = Stream(null=True)  # type: ignore[attr-defined]


def get_current_stream(device_id: int | None = None) -> Stream:
    """The queue that work goes to."""
    return getattr(_current, "stream", Stream.null)  # type: ignore[attr-defined]


class Graph:
    """Work that is run again and again."""

    def __init__(self, work: list) -> None:
        self._work = work

    def launch(self, stream: Any = None) -> None:
        """Run it."""
        with np.errstate(all="ignore"):
            for step in self._work:
                step()

    def upload(self, stream: Any = None) -> None:
        """Get it ready."""


class Event:
    """A place in a queue."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.done = True

    def record(self, stream: Any = None) -> None:
        """Here."""

    def synchronize(self) -> None:
        """Wait for it."""
        _download()


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


class Generator:
    """Random numbers on the device."""

    def __init__(self, seed: Any) -> None:
        self._numpy = np.random.default_rng(seed)

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> ndarray:
        """Uniform in [0, 1)."""
        return ndarray._of(np.asarray(self._numpy.random(size, dtype)))

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> ndarray:
        """Standard normal."""
        return ndarray._of(np.asarray(self._numpy.standard_normal(size, dtype)))

    def integers(self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False) -> ndarray:
        """Whole numbers in [low, high)."""
        return ndarray._of(np.asarray(self._numpy.integers(low, high, size, dtype, endpoint)))


random = _module("cupy.random", default_rng=lambda seed=None: Generator(seed), Generator=Generator)
linalg = _module("cupy.linalg", norm=lambda *args, **options: _call(np.linalg.norm, args, options))
_tricks = _module(
    "cupy.lib.stride_tricks",
    as_strided=lambda x, shape=None, strides=None: x._view(np.lib.stride_tricks.as_strided(x._host, shape, strides)),
    sliding_window_view=lambda x, *args, **options: x._view(
        np.lib.stride_tricks.sliding_window_view(x._host, *args, **options)
    ),
)
lib = _module("cupy.lib", stride_tricks=_tricks)

runtime = _module(
    "cupy.cuda.runtime",
    CUDARuntimeError=CUDARuntimeError,
    getDevice=_device,
    setDevice=lambda index: Device(index).use(),
    getDeviceCount=lambda: DEVICES,
    getDeviceProperties=lambda index: {
        "name": b"Emulated GPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "totalGlobalMem": MEMORY,
    },
    memGetInfo=lambda: (MEMORY, MEMORY),
    deviceSynchronize=lambda: Device().synchronize(),
    driverGetVersion=lambda: 12090,
    runtimeGetVersion=lambda: 12090,
    is_hip=False,
)
cuda = _module(
    "cupy.cuda",
    Device=Device,
    Stream=Stream,
    Event=Event,
    using_allocator=using_allocator,
    Graph=Graph,
    MemoryPool=MemoryPool,
    runtime=runtime,
    driver=_module("cupy.cuda.driver", CUDADriverError=CUDADriverError),
    memory=_module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool),
    get_current_stream=get_current_stream,
    alloc_pinned_memory=bytearray,
    get_device_id=_device,
    is_available=lambda: True,
)
__version__ = "14.0.0"


def _has_gpu(module: Any) -> bool:
    """Whether it is CuPy with a GPU, which has kernels of its own."""
    if module is None or module is sys.modules[__name__]:
        return False
    try:
        return module.cuda.runtime.getDeviceCount() > 0
    except module.cuda.runtime.CUDARuntimeError:
        return False


def _forget_kernels() -> None:
    """Compiled by CuPy they are of no use to the stand-in, and the other way round."""
    for found in gc.get_objects():
        if issubclass(type(found), Source):  # isinstance would ask the object, and some of other libraries warn
            found._modules.clear()
            found._functions.clear()
            found._shared.clear()


@contextlib.contextmanager
def installed() -> Any:
    """``import cupy`` gives the stand-in inside the block."""
    names = {
        "cupy": sys.modules[__name__],
        "cupy.cuda": cuda,
        "cupy.cuda.runtime": runtime,
        "cupy.random": random,
        "cupy.linalg": linalg,
    }
    before = {name: sys.modules.get(name) for name in names}
    has_kernels = _has_gpu(before["cupy"])
    if has_kernels:
        _forget_kernels()
    sys.modules.update(names)
    counts.clear()
    try:
        yield sys.modules[__name__]
    finally:
        _current.__dict__.clear()
        default_pool.limit = 0
        if has_kernels:
            _forget_kernels()
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
