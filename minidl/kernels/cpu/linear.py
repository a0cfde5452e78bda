"""The fully connected layer on the CPU.

Products go through the register tile. A few rows, as in the prediction for one image, give a tile nothing to share: then w is
read once, from left to right, and that is all the time it takes.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._product import NOTHING, product
from minidl.memory import empty

__all__ = ["linear_backward", "linear_forward", "linear_relu_forward"]

FEW_ROWS = 4
MACS_PER_ELEMENT = 8  # multiply-adds outside of a tile that take as long as one element of an elementwise kernel
RUN = 2048  # of gx that stays in the first-level cache while all rows of w are added to it


@threaded
def _dots(x, w, b, y, relu, part, parts):
    """y = x w^T + b, or the larger of this and 0: row by row of w; b may be empty."""
    if fork(part, parts):
        return
    first, last = share(w.shape[0], part, parts)
    for n in range(first, last):
        row = w[n]
        for m in range(x.shape[0]):
            other, total = x[m], w.dtype.type(0)
            for k in range(row.size):
                total += other[k] * row[k]
            total = total + b[n] if b.size else total
            y[m, n] = w.dtype.type(0) if relu and total <= 0 else total


@threaded
def _combine(gy, w, gx, part, parts):
    """gx = gy w: a run of columns at a time."""
    if fork(part, parts):
        return
    first, last = share(w.shape[1], part, parts)
    for k in range(first, last, RUN):
        for m in range(gx.shape[0]):
            total = gx[m, k : min(k + RUN, last)]
            for i in range(total.size):
                total[i] = 0
            for n in range(w.shape[0]):
                factor, row = gy[m, n], w[n, k : k + total.size]
                for i in range(row.size):
                    total[i] += factor * row[i]


def linear_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """y = x w^T + b."""
    return _forward(x, w, b, False)


def linear_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """y = max(x w^T + b, 0)."""
    return _forward(x, w, b, True)


def _forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, relu: bool) -> np.ndarray:
    if len(x) > FEW_ROWS:
        return product(x, w.T, b, relu=relu)
    y = empty((len(x), len(w)), x.dtype)
    bias = NOTHING[x.dtype] if b is None else np.ascontiguousarray(b)
    _dots(threads(y.size * w.shape[1] // MACS_PER_ELEMENT), np.ascontiguousarray(x), np.ascontiguousarray(w), bias, y, relu)
    return y


def linear_backward(
    gy: np.ndarray, x: np.ndarray | None, w: np.ndarray | None, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx = gy w, gw = gy^T x, gb = the sum of gy over the rows; gw lies in memory as (out, in), like w."""
    gx = gw = gb = None
    if needs[0] and w is not None:
        if len(gy) > FEW_ROWS:
            gx = product(gy, w)
        else:
            gx = empty((len(gy), w.shape[1]), gy.dtype)
            work = gx.size * len(w) // MACS_PER_ELEMENT
            _combine(threads(work), np.ascontiguousarray(gy), np.ascontiguousarray(w), gx)
    if needs[1] and x is not None:
        gb = np.empty(gy.shape[1], gy.dtype) if needs[2] else None
        gw = product(gy.T, x, sums=gb)
    elif needs[2]:
        gb = gy.sum(0)
    return gx, gw, gb
