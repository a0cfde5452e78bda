"""Optimizer steps compiled by Numba: one pass over the parameter, its gradient and its running averages.

The rules are those of ``generic/optim.py``. Scalars are worked out in double precision and take the
dtype of the arrays once, inside the loop body; an array that a variant does not use is empty there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.memory import empty

__all__ = ["adagrad_update", "adam_update", "rmsprop_update", "sgd_update", "square_sum"]


def _flat(x: np.ndarray, order: list[int]) -> np.ndarray:
    """The elements of x as one row, axes in the given order; a view where they lie so, else a copy."""
    y = x.transpose(order)
    if not y.flags.c_contiguous:
        copy = empty(y.shape, y.dtype)
        copy[...] = y
        y = copy
    return y.reshape(-1)


def _run(
    one: Callable, many: Callable, p: np.ndarray, g: np.ndarray, averages: tuple[np.ndarray | None, ...], *scalars: Any
) -> None:
    """Hand all arrays to a body in the memory order of p; what had to be copied is written back."""
    order = sorted(range(p.ndim), key=lambda axis: -abs(p.strides[axis]))
    written = (p, *averages)
    rows = [empty((0,), p.dtype) if x is None else _flat(x, order) for x in written]
    arguments = (rows[0], _flat(g, order), *rows[1:], *scalars)
    parts = threads(p.size)
    with np.errstate(all="ignore"):
        if parts == 1:
            one(*arguments)
        else:
            many(*arguments, parts)
    for x, row in zip(written, rows):
        if x is not None and not np.may_share_memory(x, row):
            turned = x.transpose(order)
            turned[...] = row.reshape(turned.shape)


def _sign(maximize: bool) -> float:
    return -1.0 if maximize else 1.0


@serial
def _sgd(p, g, buffer, lr, momentum, fresh, weight_decay, nesterov, sign):
    real = p.dtype.type
    rate, keep, new, decay, s = real(lr), real(momentum), real(fresh), real(weight_decay), real(sign)
    for i in range(p.size):
        d = s * g[i]
        if decay != 0:
            d += decay * p[i]
        if buffer.size > 0:
            b = keep * buffer[i] + new * d
            buffer[i] = b
            d = d + keep * b if nesterov else b
        p[i] -= rate * d


@parallel
def _sgd_parallel(p, g, buffer, lr, momentum, fresh, weight_decay, nesterov, sign, parts):
    n = p.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _sgd(p[lo:hi], g[lo:hi], buffer[lo:hi], lr, momentum, fresh, weight_decay, nesterov, sign)


def sgd_update(
    p: np.ndarray,
    g: np.ndarray,
    buffer: np.ndarray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """b = momentum * b + (1 - dampening) * g; p -= lr * b, or lr * (g + momentum * b) with nesterov."""
    scalars = float(lr), float(momentum), 1.0 - dampening, float(weight_decay), bool(nesterov), _sign(maximize)
    _run(_sgd, _sgd_parallel, p, g, (buffer,), *scalars)


@serial
def _adam(p, g, m, v, v_max, rate, root, beta1, beta2, eps, keep, weight_decay, sign):
    real = p.dtype.type
    a, r, e, k, decay, s = real(rate), real(root), real(eps), real(keep), real(weight_decay), real(sign)
    b1, w1, b2, w2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    near = 1 - beta1 < 0.5
    for i in range(p.size):
        d = s * g[i]
        if decay != 0:
            d += decay * p[i]
        mi = m[i] + w1 * (d - m[i]) if near else d - b1 * (d - m[i])
        vi = b2 * v[i] + w2 * d * d
        m[i] = mi
        v[i] = vi
        if v_max.size > 0:
            vi = v_max[i] if vi <= v_max[i] else vi
            v_max[i] = vi
        p[i] = k * p[i] - a * mi / (np.sqrt(vi) / r + e)


@parallel
def _adam_parallel(p, g, m, v, v_max, rate, root, beta1, beta2, eps, keep, weight_decay, sign, parts):
    n = p.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _adam(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi], v_max[lo:hi], rate, root, beta1, beta2, eps, keep, weight_decay, sign)


def adam_update(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    v_max: np.ndarray | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps), with m and v averages of g and g^2."""
    rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    keep, decay = (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, float(weight_decay))
    scalars = float(rate), root, float(beta1), float(beta2), float(eps), keep, decay, _sign(maximize)
    _run(_adam, _adam_parallel, p, g, (m, v, v_max), *scalars)


@serial
def _rmsprop(p, g, square_average, average, buffer, lr, alpha, eps, weight_decay, momentum, sign):
    real = p.dtype.type
    rate, e, decay, keep, s = real(lr), real(eps), real(weight_decay), real(momentum), real(sign)
    a, w = real(alpha), real(1 - alpha)
    near = 1 - alpha < 0.5
    for i in range(p.size):
        d = s * g[i]
        if decay != 0:
            d += decay * p[i]
        q = a * square_average[i] + w * d * d
        square_average[i] = q
        if average.size > 0:
            c = average[i] + w * (d - average[i]) if near else d - a * (d - average[i])
            average[i] = c
            q -= c * c
        d /= np.sqrt(q) + e
        if buffer.size > 0:
            d += keep * buffer[i]
            buffer[i] = d
        p[i] -= rate * d


@parallel
def _rmsprop_parallel(p, g, square_average, average, buffer, lr, alpha, eps, weight_decay, momentum, sign, parts):
    n = p.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        q, c, b = square_average[lo:hi], average[lo:hi], buffer[lo:hi]
        _rmsprop(p[lo:hi], g[lo:hi], q, c, b, lr, alpha, eps, weight_decay, momentum, sign)


def rmsprop_update(
    p: np.ndarray,
    g: np.ndarray,
    square_average: np.ndarray,
    average: np.ndarray | None,
    buffer: np.ndarray | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
) -> None:
    """p -= lr * g / (sqrt(s) + eps), with s the running average of g^2, centred where ``average`` is given."""
    scalars = float(lr), float(alpha), float(eps), float(weight_decay), float(momentum), _sign(maximize)
    _run(_rmsprop, _rmsprop_parallel, p, g, (square_average, average, buffer), *scalars)


@serial
def _adagrad(p, g, total, lr, eps, weight_decay, sign):
    real = p.dtype.type
    rate, e, decay, s = real(lr), real(eps), real(weight_decay), real(sign)
    for i in range(p.size):
        d = s * g[i]
        if decay != 0:
            d += decay * p[i]
        q = total[i] + d * d
        total[i] = q
        p[i] -= rate * d / (np.sqrt(q) + e)


@parallel
def _adagrad_parallel(p, g, total, lr, eps, weight_decay, sign, parts):
    n = p.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _adagrad(p[lo:hi], g[lo:hi], total[lo:hi], lr, eps, weight_decay, sign)


def adagrad_update(
    p: np.ndarray, g: np.ndarray, total: np.ndarray, lr: float, eps: float, weight_decay: float, maximize: bool
) -> None:
    """total += g^2; p -= lr * g / (sqrt(total) + eps)."""
    _run(_adagrad, _adagrad_parallel, p, g, (total,), float(lr), float(eps), float(weight_decay), _sign(maximize))


@serial
def _square_sum(x):
    s = 0.0
    for i in range(x.size):
        s += np.float64(x[i]) * np.float64(x[i])
    return s


@parallel
def _square_sum_parallel(x, sums):
    n, parts = x.size, sums.size
    for t in prange(parts):
        sums[t] = _square_sum(x[t * n // parts : (t + 1) * n // parts])


def square_sum(x: np.ndarray) -> float:
    """The sum of x^2 in float64."""
    row = _flat(x, sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis])))
    sums = np.empty(threads(x.size))
    with np.errstate(all="ignore"):
        if sums.size == 1:
            return float(_square_sum(row))
        _square_sum_parallel(row, sums)
    return float(sums.sum())
