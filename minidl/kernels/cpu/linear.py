"""The fully connected layer on the CPU.

Products large enough for several threads go through the register tile. Smaller ones, and those of a few rows, which are
bound by reading w and not by arithmetic, are left to BLAS on one thread: it is as fast there, and starts sooner.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._blas import one_blas_thread
from minidl.kernels.cpu._jit import threads
from minidl.kernels.cpu._product import product, work
from minidl.kernels.generic import linear

__all__ = ["linear_backward", "linear_forward"]

FEW_ROWS = 32

_forward_by_blas = one_blas_thread()(linear.linear_forward)
_backward_by_blas = one_blas_thread()(linear.linear_backward)


def _on_tiles(rows: np.ndarray, columns: int) -> bool:
    return len(rows) >= FEW_ROWS and threads(work(len(rows), rows.shape[1], columns)) > 1


def linear_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """y = x w^T + b."""
    if not _on_tiles(x, len(w)):
        return _forward_by_blas(x, w, b)
    return product(x, w.T, b)


@np.errstate(invalid="ignore", over="ignore")
def linear_backward(
    gy: np.ndarray, x: np.ndarray | None, w: np.ndarray | None, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx = gy w, gw = gy^T x, gb = the sum of gy over the rows; gw lies in memory as (out, in), like w."""
    read = [a for a, need in ((w, needs[0]), (x, needs[1])) if need and a is not None]
    if not read or not _on_tiles(gy, read[0].shape[1]):
        return _backward_by_blas(gy, x, w, needs)
    gx = product(gy, w) if needs[0] and w is not None else None
    gw = product(gy.T, x) if needs[1] and x is not None else None
    gb = gy.sum(0) if needs[2] else None
    return gx, gw, gb
