"""Memory for results on the CPU: one pool of buffers by size, and the channels-last layout.

A fresh page costs more than the arithmetic done on it, so a training step that allocates every
result anew spends half its time in page faults. Large results therefore come from a pool. A buffer
is free again as soon as no array refers to it: every NumPy view keeps its owner alive through
``.base``, so the owner's reference count says exactly whether somebody still looks at the memory.
Whoever keeps an array keeps its buffer; nothing has to be given back by hand.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SMALL = 1 << 16  # bytes; below this the C allocator recycles memory itself, without page faults
SLACK = 1 << 26  # bytes the pool may hold beyond twice the peak in use
ALIGN = 64  # bytes; a cache line and an AVX-512 vector

_lock = threading.Lock()
_buffers: dict[int, list[np.ndarray]] = {}  # size class -> owners, in use and free
_peak = 0  # most bytes in use at once, as far as was seen when new memory was taken
_enabled = True


def _references(owners: list[np.ndarray], i: int) -> int:
    return sys.getrefcount(owners[i])


# The count of an owner that only the pool holds; measured, because interpreters count borrowed references differently.
_FREE = _references([np.empty(1)], 0)


def _size_class(nbytes: int) -> int:
    """Round up so that at most an eighth is wasted and nearby sizes share buffers."""
    step = 1 << (nbytes.bit_length() - 4)
    return -(-nbytes // step) * step


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array, from the pool when it is large (64 KiB or more).

    >>> from minidl import memory
    >>> memory.empty((512, 512), "float32").shape
    (512, 512)
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALL or not _enabled:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _take(_size_class(int(nbytes))))  # its base is the owner, which is thereby taken


def _take(size: int) -> np.ndarray:
    with _lock:
        owners = _buffers[size] = _buffers.pop(size, [])  # the dictionary's order: least recently used size first
        for i in range(len(owners)):
            if sys.getrefcount(owners[i]) == _FREE:
                return owners[i]
        _make_room(size)
        raw = np.empty(size + ALIGN, np.uint8)
        start = -raw.ctypes.data % ALIGN
        owner = np.frombuffer(raw.data[start : start + size], np.uint8)
        owners.append(owner)
        return owner


def _make_room(size: int) -> None:
    """Before new memory is taken: keep the pool below twice what was ever in use at once, plus some slack."""
    global _peak
    used, free = _count()
    _peak = max(_peak, used + size)
    excess = used + free + size - (2 * _peak + SLACK)
    for other, owners in _buffers.items():
        if excess <= 0:
            break
        held = len(owners)
        _drop_free(owners)
        excess -= (held - len(owners)) * other


def _drop_free(owners: list[np.ndarray]) -> None:
    owners[:] = [owners[i] for i in range(len(owners)) if sys.getrefcount(owners[i]) != _FREE]


def _count() -> tuple[int, int]:
    used = free = 0
    for size, owners in _buffers.items():
        idle = sum(sys.getrefcount(owners[i]) == _FREE for i in range(len(owners)))
        free += size * idle
        used += size * (len(owners) - idle)
    return used, free


def pool_bytes() -> tuple[int, int]:
    """(bytes in use, bytes free) in the pool.

    >>> from minidl import memory
    >>> memory.release_pool()
    >>> used = memory.pool_bytes()[0]
    >>> x = memory.empty((1024, 1024), "float32")
    >>> memory.pool_bytes()[0] - used
    4194304
    """
    with _lock:
        return _count()


def release_pool() -> None:
    """Give every free buffer back to the operating system, and forget how much was in use.

    >>> from minidl import memory
    >>> memory.release_pool()
    >>> memory.pool_bytes()[1]
    0
    """
    global _peak
    with _lock:
        _peak = 0
        for owners in _buffers.values():
            _drop_free(owners)


@contextmanager
def no_pool() -> Iterator[None]:
    """Allocate every result anew inside the block (for tests and for measuring what the pool brings).

    >>> import minidl as md
    >>> with md.no_pool():
    ...     y = md.ones(2) + 1
    >>> y
    tensor([2., 2.])
    """
    global _enabled
    outer, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = outer


def empty_like(x: np.ndarray) -> np.ndarray:
    """An uninitialised array of x's shape, dtype and memory order (axes sorted by stride, dense).

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.empty_like(np.zeros((2, 3), np.float32).T).strides
    (4, 12)
    """
    if x.flags.c_contiguous:
        return empty(x.shape, x.dtype)
    if x.nbytes < SMALL:
        return np.empty_like(x)
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    inverse = [0] * x.ndim
    for position, axis in enumerate(order):
        inverse[axis] = position
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(inverse)


def copy(x: np.ndarray) -> np.ndarray:
    """x again, in its memory order, from the pool when it is large: at the beginning of a cache line, as kernels like it.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.copy(np.arange(6.0).reshape(2, 3).T).strides
    (8, 24)
    """
    y = empty_like(x)
    y[...] = x
    return y


def empty_images(n: int, c: int, h: int, w: int, dtype: Any) -> np.ndarray:
    """An uninitialised (N, C, H, W) array that lies channels-last (N, H, W, C) in memory.

    >>> from minidl import memory
    >>> x = memory.empty_images(2, 3, 8, 8, "float32")
    >>> x.shape, x.strides  # bytes from one channel to the next: 4, from one column to the next: 3 * 4
    ((2, 3, 8, 8), (768, 4, 96, 12))
    """
    return empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def channels_last(x: np.ndarray) -> np.ndarray:
    """The (N, H, W, C) contiguous view of an (N, C, H, W) array; one copy when it lies otherwise.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.channels_last(np.zeros((2, 3, 8, 8))).shape
    (2, 8, 8, 3)
    """
    y = x.transpose(0, 2, 3, 1)
    if y.flags.c_contiguous:
        return y
    dense = empty(y.shape, y.dtype)
    dense[...] = y
    return dense


def spatial_first(w: np.ndarray) -> np.ndarray:
    """The (KH, KW, C, O) contiguous view of (O, C, KH, KW) weights of a convolution; one copy when they lie otherwise.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.spatial_first(np.zeros((16, 3, 5, 5))).shape
    (5, 5, 3, 16)
    """
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0))


def shaped(elements: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A view of 1-D elements with the shape and the memory order of ``like`` (as many elements of its dtype, dense).

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.shaped(np.arange(6), like=np.zeros((3, 2), int).T)
    array([[0, 2, 4],
           [1, 3, 5]])
    """
    return np.ndarray(like.shape, elements.dtype, elements, 0, like.strides)


def in_order_of(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """x in the memory order of ``like`` (same shape, dense); one copy when it lies otherwise.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.in_order_of(np.zeros((2, 3)), like=np.zeros((3, 2)).T).strides
    (8, 16)
    """
    if x.strides == like.strides:
        return x
    y = empty_like(like)
    y[...] = x
    return y


def flat(x: np.ndarray) -> np.ndarray | None:
    """The elements of x in memory order as a 1-D view, or None when they do not lie side by side.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.flat(np.arange(6).reshape(2, 3).T), memory.flat(np.arange(6)[::2])
    (array([0, 1, 2, 3, 4, 5]), None)
    """
    if x.flags.c_contiguous:
        return x.reshape(-1)
    last = 0  # where the last element begins
    for n, stride in zip(x.shape, x.strides):
        last += (n - 1) * stride
    if last != x.nbytes - x.itemsize:
        return None
    y = x.ravel("K")
    return y if y.base is not None else None  # without a base it is a copy


def dense(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x itself when its elements lie side by side in some order of the axes, else one C-contiguous copy; and these elements.

    >>> import numpy as np
    >>> from minidl import memory
    >>> memory.dense(np.arange(12).reshape(2, 6)[:, ::2])
    (array([[ 0,  2,  4],
           [ 6,  8, 10]]), array([ 0,  2,  4,  6,  8, 10]))
    """
    elements = flat(x)
    if elements is None:
        copy = empty(x.shape, x.dtype)
        copy[...] = x
        return copy, copy.reshape(-1)
    return x, elements
