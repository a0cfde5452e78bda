"""Activations compiled by Numba: one pass over memory, in the order the elements lie."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.memory import dense, empty_like, flat, in_order_of

__all__ = ["relu_backward", "relu_forward"]


@serial
def _relu(x, y):
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] < zero else x[i]  # NaN < 0 is false: NaN stays


@parallel
def _relu_parallel(x, y, parts):
    n = x.size
    for t in prange(parts):
        _relu(x[t * n // parts : (t + 1) * n // parts], y[t * n // parts : (t + 1) * n // parts])


@serial
def _relu_grad(gy, y, gx):
    zero = gy.dtype.type(0)
    for i in range(y.size):
        gx[i] = gy[i] if y[i] > zero else zero


@parallel
def _relu_grad_parallel(gy, y, gx, parts):
    n = y.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _relu_grad(gy[lo:hi], y[lo:hi], gx[lo:hi])


def relu_forward(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0)."""
    x = dense(x)
    y = empty_like(x)
    parts = threads(x.size)
    if parts == 1:
        _relu(flat(x), flat(y))
    else:
        _relu_parallel(flat(x), flat(y), parts)
    return y


def relu_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = gy where y > 0, else 0."""
    y = dense(y)
    gy = in_order_of(gy, y)
    gx = empty_like(y)
    parts = threads(y.size)
    if parts == 1:
        _relu_grad(flat(gy), flat(y), flat(gx))
    else:
        _relu_grad_parallel(flat(gy), flat(y), flat(gx), parts)
    return gx
