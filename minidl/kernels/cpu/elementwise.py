"""Sums and products of large arrays compiled by Numba: on all threads, into memory of the pool.

NumPy is as fast on small arrays, and does the broadcasting.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import PARALLEL_MIN, fork, share, threaded, threads
from minidl.memory import empty_like, flat

__all__ = ["add", "add_to", "multiply"]


@threaded
def _combine(a, b, y, product, part, parts):
    """y = a + b, or a * b."""
    if fork(part, parts):
        return
    first, last = share(y.size, part, parts)
    a, b, y = a[first:last], b[first:last], y[first:last]
    if product:
        for i in range(y.size):
            y[i] = a[i] * b[i]
    else:
        for i in range(y.size):
            y[i] = a[i] + b[i]


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the two are large float arrays of one shape that lie the same way in memory, without gaps."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.size < PARALLEL_MIN or a.dtype != b.dtype:
        return False
    return a.shape == b.shape and a.strides == b.strides and a.dtype.char in "fd" and flat(a) is not None


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    if not _alike(a, b):
        return a + b
    y = empty_like(a)
    _combine(threads(a.size), flat(a), flat(b), flat(y), False)
    return y


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b."""
    if not _alike(a, b):
        return a * b
    y = empty_like(a)
    _combine(threads(a.size), flat(a), flat(b), flat(y), True)
    return y


def add_to(a: np.ndarray, b: np.ndarray) -> None:
    """a += b, for an array a."""
    if not _alike(a, b):
        a += b
    else:
        _combine(threads(a.size), flat(a), flat(b), flat(a), False)
