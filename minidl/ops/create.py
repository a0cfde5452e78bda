"""New tensors: from data, from a rule, from random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import backend
from minidl.backend import Array, default_dtype
from minidl.errors import ArgumentError, DtypeError
from minidl.ops._arguments import describe, integer, number
from minidl.ops.elementwise import number_dtype
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = [
    "arange",
    "empty",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
    "zeros_like",
]


def _shape(op: str, sizes: tuple) -> tuple[int, ...]:
    """``zeros(2, 3)`` and ``zeros((2, 3))`` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return tuple(integer(op, "size", n, 0) for n in sizes)


def _dtype(op: str, dtype: Any) -> np.dtype:
    return default_dtype() if dtype is None else number_dtype(op, dtype)


def _finish(array: Array, requires_grad: bool, device: str | None) -> Tensor:
    x = Tensor.wrap(array if device is None else backend.to_device(array, device))
    if requires_grad:
        x.requires_grad = True
    return x


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor with a copy of ``data``: numbers, nested lists, an array or a tensor (whose graph is not kept).

    Args:
        data: the values.
        dtype: default: that of an array, the default floating dtype for Python floats, int64 for integers.
        requires_grad: whether ``backward`` shall leave a gradient in ``.grad``.
        device: "cpu", "cuda" or "cuda:N"; that of an array, the CPU for Python numbers.

    Raises:
        DtypeError: text, objects, complex or half-precision numbers, ragged lists; a gradient for integers.

    >>> import minidl as md
    >>> md.tensor([[1.0, 2.0], [3.0, 4.0]]).shape
    (2, 2)
    """
    return Tensor(data, dtype, requires_grad, device)


def zeros(*shape: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor full of 0.

    Args:
        shape: sizes, or one tuple of sizes.
        dtype: the default floating dtype when None.
        requires_grad: whether ``backward`` shall leave a gradient in ``.grad``.
        device: "cpu", "cuda" or "cuda:N"; the CPU when None.

    Raises:
        ArgumentError: a negative size.
        DtypeError: a dtype that tensors do not have.

    >>> import minidl as md
    >>> md.zeros(2, 3)
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    """
    return _finish(np.zeros(_shape("zeros", shape), _dtype("zeros", dtype)), requires_grad, device)


def ones(*shape: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor full of 1. Arguments as for ``zeros``.

    >>> import minidl as md
    >>> md.ones((2,), dtype="int64")
    tensor([1, 1])
    """
    return _finish(np.ones(_shape("ones", shape), _dtype("ones", dtype)), requires_grad, device)


def full(shape: Any, value: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor full of one number; its dtype follows the number's. Other arguments as for ``zeros``.

    Raises:
        ArgumentError: a value that is more than one number, or a negative size.

    >>> import minidl as md
    >>> md.full((2, 2), 7)
    tensor([[7, 7],
            [7, 7]])
    """
    shape = _shape("full", (shape,))
    array = backend.as_array(value, dtype, "full")
    if array.ndim:
        raise ArgumentError.of("full", "value as a number", describe(value))
    return _finish(np.full(shape, array, array.dtype), requires_grad, device)


def empty(*shape: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor whose values are whatever lay in memory, to be written before they are read.

    Arguments as for ``zeros``.

    >>> import minidl as md
    >>> md.empty(2, 3).shape
    (2, 3)
    """
    return _finish(np.empty(_shape("empty", shape), _dtype("empty", dtype)), requires_grad, device)


def arange(
    start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """Numbers from start up to, not including, stop; ``arange(n)`` counts from 0 to n-1.

    Integers give int64, floats the default floating dtype. Other arguments as for ``zeros``.

    Raises:
        ArgumentError: a step of 0.

    >>> import minidl as md
    >>> md.arange(2, 10, 3)
    tensor([2, 5, 8])
    """
    if stop is None:
        start, stop = 0, start
    for name, value in (("start", start), ("stop", stop), ("step", step)):
        number("arange", name, value)
    if step == 0:
        raise ArgumentError.of("arange", "step other than 0", "0")
    array = np.arange(start, stop, step)
    return _finish(
        array.astype(_dtype("arange", dtype if dtype is not None or array.dtype.kind == "f" else np.int64)),
        requires_grad,
        device,
    )


def linspace(
    start: float, stop: float, num: int = 50, dtype: Any = None, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """``num`` numbers from start to stop, both included, at equal distances. Other arguments as for ``zeros``.

    Raises:
        ArgumentError: a negative num.

    >>> import minidl as md
    >>> md.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    start, stop = number("linspace", "start", start), number("linspace", "stop", stop)
    array = np.linspace(start, stop, integer("linspace", "num", num, 0), dtype=_dtype("linspace", dtype))
    return _finish(array, requires_grad, device)


def eye(n: int, m: int | None = None, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """An (n, m) matrix with 1 on the diagonal and 0 elsewhere; m is n when not given.

    Other arguments as for ``zeros``.

    Raises:
        ArgumentError: a negative size.

    >>> import minidl as md
    >>> md.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows = integer("eye", "n", n, 0)
    return _finish(
        np.eye(rows, rows if m is None else integer("eye", "m", m, 0), dtype=_dtype("eye", dtype)), requires_grad, device
    )


def _like(op: str, x: Any, dtype: Any) -> tuple[Array, np.dtype]:
    array = x._array if isinstance(x, Tensor) else backend.as_array(x, op=op)
    return array, array.dtype if dtype is None else number_dtype(op, dtype)


def zeros_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of x's shape, dtype, device and memory order.

    >>> import minidl as md
    >>> md.zeros_like(md.tensor([1.0, 2.0]))
    tensor([0., 0.])
    """
    array, dtype = _like("zeros_like", x, dtype)
    return _finish(backend.xp_of(array).zeros_like(array, dtype=dtype), requires_grad, None)


def ones_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of x's shape, dtype, device and memory order.

    >>> import minidl as md
    >>> md.ones_like(md.tensor([1.0, 2.0]))
    tensor([1., 1.])
    """
    array, dtype = _like("ones_like", x, dtype)
    return _finish(backend.xp_of(array).ones_like(array, dtype=dtype), requires_grad, None)


def full_like(x: Any, value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One number everywhere, in x's shape, dtype, device and memory order.

    >>> import minidl as md
    >>> md.full_like(md.tensor([1.0, 2.0]), 0.5)
    tensor([0.5, 0.5])
    """
    array, dtype = _like("full_like", x, dtype)
    number("full_like", "value", value)
    return _finish(backend.xp_of(array).full_like(array, value, dtype=dtype), requires_grad, None)


def _random_dtype(op: str, dtype: Any) -> np.dtype:
    dtype = _dtype(op, dtype)
    if dtype.kind != "f":
        raise DtypeError.of(op, "float32 or float64", str(dtype), "For integers there is randint.")
    return dtype


def randn(
    *shape: Any,
    dtype: Any = None,
    rng: np.random.Generator | int | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Random numbers from the standard normal distribution.

    Args:
        shape: sizes, or one tuple of sizes.
        dtype: float32 or float64.
        rng: a generator or a seed; None takes minidl's own generator (``md.manual_seed``).
        requires_grad: whether ``backward`` shall leave a gradient in ``.grad``.
        device: where to put them; the numbers are the same on every device.

    Raises:
        DtypeError: an integer dtype, or an rng of another kind.

    >>> import minidl as md
    >>> bool((md.randn(3, rng=1) == md.randn(3, rng=1)).all())
    True
    """
    array = generator(rng).standard_normal(_shape("randn", shape), _random_dtype("randn", dtype))
    return _finish(np.asarray(array), requires_grad, device)


def rand(
    *shape: Any,
    dtype: Any = None,
    rng: np.random.Generator | int | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Random numbers spread evenly over [0, 1). Arguments and errors as for ``randn``.

    >>> import minidl as md
    >>> x = md.rand(1000, rng=0)
    >>> bool(x.min() >= 0) and bool(x.max() < 1)
    True
    """
    array = generator(rng).random(_shape("rand", shape), _random_dtype("rand", dtype))
    return _finish(np.asarray(array), requires_grad, device)


def randint(
    low: int,
    high: int,
    *shape: Any,
    dtype: Any = "int64",
    rng: np.random.Generator | int | None = None,
    device: str | None = None,
) -> Tensor:
    """Random integers from low up to, not including, high, all equally likely. Other arguments as for ``randn``.

    Raises:
        ArgumentError: low not below high.

    >>> import minidl as md
    >>> sorted(set(md.randint(3, 6, 100, rng=0).tolist()))
    [3, 4, 5]
    """
    low, high = integer("randint", "low", low), integer("randint", "high", high)
    if low >= high:
        raise ArgumentError.of("randint", "low < high", f"{low} and {high}")
    array = generator(rng).integers(low, high, _shape("randint", shape)).astype(number_dtype("randint", dtype))
    return _finish(array, False, device)


def randperm(n: int, rng: np.random.Generator | int | None = None, device: str | None = None) -> Tensor:
    """The integers 0 .. n-1 in random order, as int64. Other arguments as for ``randn``.

    Raises:
        ArgumentError: a negative n.

    >>> import minidl as md
    >>> sorted(md.randperm(4, rng=0).tolist())
    [0, 1, 2, 3]
    """
    return _finish(generator(rng).permutation(integer("randperm", "n", n, 0)), False, device)


def from_dlpack(source: Any, copy: bool = True) -> Tensor:
    """A tensor from another library's array, on the device where it lies, by the DLPack protocol.

    Args:
        source: anything with ``__dlpack__``: an array of PyTorch, JAX, CuPy, NumPy, ...
        copy: False shares the memory. Then nobody may write to ``source`` while a graph still needs the
            values: minidl cannot see it.

    Raises:
        DtypeError: no ``__dlpack__``, or a dtype that tensors do not have.

    >>> import minidl as md
    >>> import numpy as np
    >>> md.from_dlpack(np.arange(3.0))
    tensor([0., 1., 2.], dtype=float64)
    """
    if not hasattr(source, "__dlpack__"):
        raise DtypeError.of("from_dlpack", "an array with __dlpack__", describe(source))
    on_cpu = source.__dlpack_device__()[0] == 1  # kDLCPU
    array = (np if on_cpu else backend.cupy()).from_dlpack(source)
    number_dtype("from_dlpack", array.dtype)
    return Tensor.wrap(array.copy(order="K") if copy else array)
