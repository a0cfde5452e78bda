"""Softmax cross-entropy compiled by Numba: forward reads x and writes one value per row, backward is one pass."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._math import exp, row_max
from minidl.memory import empty

__all__ = ["cross_entropy_backward", "cross_entropy_forward"]

HEAVY = 2  # work per element: an exponential function


@threaded
def _cross_entropy(x, target, weight, ignore_index, smoothing, loss, peak, log_sum, part, parts):
    if fork(part, parts):
        return
    one = x.dtype.type(1)
    s = x.dtype.type(smoothing)
    first, last = share(x.shape[0], part, parts)
    for i in range(first, last):
        r, t = x[i], target[i]
        m, total = row_max(r), x.dtype.type(0)
        for k in range(r.size):
            total += exp(r[k] - m)
        e = np.log(total)
        peak[i], log_sum[i] = m, e
        if t == ignore_index:
            loss[i] = 0
        else:
            loss[i] = (one - s) * weight[t] * (e - (r[t] - m))
            if smoothing > 0:
                total = x.dtype.type(0)
                for k in range(r.size):
                    total += weight[k] * (e - (r[k] - m))
                loss[i] += s / x.dtype.type(r.size) * total


@threaded
def _cross_entropy_grad(g, x, peak, log_sum, target, weight, ignore_index, smoothing, gx, part, parts):
    if fork(part, parts):
        return
    one = x.dtype.type(1)
    s = x.dtype.type(smoothing)
    weights = x.dtype.type(0)
    for k in range(weight.size):
        weights += weight[k]
    first, last = share(x.shape[0], part, parts)
    for i in range(first, last):
        r, o, t = x[i], gx[i], target[i]
        if t == ignore_index:
            o[:] = 0
        else:
            m, e = peak[i], log_sum[i]
            a = g[i] * (one - s) * weight[t]
            b = g[i] * s / x.dtype.type(r.size)
            p = a + b * weights
            for k in range(r.size):
                o[k] = exp((r[k] - m) - e) * p - b * weight[k]
            o[t] -= a


def cross_entropy_forward(
    x: np.ndarray, target: np.ndarray, weight: np.ndarray, ignore_index: int, label_smoothing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per row l = -log p[target] with p = softmax(x), and the row's largest x and log(sum of e^(x - largest))."""
    x, target, weight = np.ascontiguousarray(x), np.ascontiguousarray(target), np.ascontiguousarray(weight)
    loss, peak, log_sum = (np.empty(len(x), x.dtype) for _ in range(3))
    _cross_entropy(threads(HEAVY * x.size), x, target, weight, ignore_index, float(label_smoothing), loss, peak, log_sum)
    return loss, peak, log_sum


def cross_entropy_backward(
    g: np.ndarray,
    x: np.ndarray,
    peak: np.ndarray,
    log_sum: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    ignore_index: int,
    label_smoothing: float,
) -> np.ndarray:
    """gx = g * (p - y), y being 1 at the target and 0 elsewhere; g (M,)."""
    g, x, target, weight = (np.ascontiguousarray(a) for a in (g, x, target, weight))
    gx = empty(x.shape, x.dtype)
    _cross_entropy_grad(threads(HEAVY * x.size), g, x, peak, log_sum, target, weight, ignore_index, float(label_smoothing), gx)
    return gx
