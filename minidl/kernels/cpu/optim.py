"""Optimizer steps compiled by Numba: one pass over the parameter, its gradient and its running averages.

The rules are those of ``generic/optim.py``. Scalars are worked out in double precision and take the
dtype of the arrays once, before the loops. An array that a variant does not use is empty, and every loop
uses all the arrays in it: LLVM tests that the arrays of a loop do not overlap before it takes
several elements at a time, and an empty one would be tested as if it were as long as the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._tile import _instruction
from minidl.memory import empty, in_order_of

__all__ = ["adagrad_update", "adam_update", "rmsprop_update", "sgd_update", "square_sums"]

LIGHT = 2  # so many elements are as much work as one elsewhere: below 65536 the waking of a second thread costs more
BLOCK = 4096  # elements that stay in a fast cache from one loop to the next


def _run(kernel: Callable, p: np.ndarray, g: np.ndarray, averages: tuple[np.ndarray | None, ...], *scalars: Any) -> None:
    """Hand all arrays to a kernel, each as one row, in the memory order of p."""
    strides = p.strides
    rows = [row := p.ravel("K"), in_order_of(g, p).ravel("K")]
    alike = row.base is not None  # a view: the elements lie side by side
    for x in averages:
        if x is None:
            rows.append(row[:0])
        elif x.strides == strides:
            rows.append(x.ravel("K"))
        else:
            alike = False
    if alike:
        kernel(threads(p.size // LIGHT), *rows, *scalars)
    else:
        _run_copies(kernel, p, g, averages, *scalars)


def _run_copies(kernel: Callable, p: np.ndarray, g: np.ndarray, averages: tuple[np.ndarray | None, ...], *scalars: Any) -> None:
    """``_run`` for arrays that lie differently: what has to be copied is written back."""
    order = sorted(range(p.ndim), key=lambda axis: -abs(p.strides[axis]))
    written = (p, *averages)
    rows = [empty((0,), p.dtype) if x is None else _row(x, order) for x in written]
    kernel(threads(p.size // LIGHT), rows[0], _row(g, order), *rows[1:], *scalars)
    for x, row in zip(written, rows):
        if x is not None and not np.may_share_memory(x, row):
            turned = x.transpose(order)
            turned[...] = row.reshape(turned.shape)


def _row(x: np.ndarray, order: list[int]) -> np.ndarray:
    """The elements of x as one row, axes in the given order; a view where they lie so, else a copy."""
    y = x.transpose(order)
    if not y.flags.c_contiguous:
        copy = empty(y.shape, y.dtype)
        copy[...] = y
        y = copy
    return y.reshape(-1)


def _sign(maximize: bool) -> float:
    return -1.0 if maximize else 1.0


def _multiply_add_code(typing, a, b, c):
    def write(context, builder, signature, args):
        real = args[0].type
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [real], ir.FunctionType(real, [real] * 3)), args)

    return c(a, b, c), write


@_instruction(_multiply_add_code)
def multiply_add(a, b, c):
    """a * b + c in one instruction, in which a product below the normal numbers, such as a tiny g^2, costs no time."""
    return a * b + c


@threaded
def _sgd(p, g, buffer, lr, momentum, fresh, weight_decay, nesterov, sign, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(p.size, part, parts)
    p, g, buffer = p[lo:hi], g[lo:hi], buffer[lo:hi]
    real = p.dtype.type
    rate, keep, new, decay, s, zero = real(lr), real(momentum), real(fresh), real(weight_decay), real(sign), real(0)
    if buffer.size == 0:
        for i in range(p.size):
            p[i] -= rate * (s * g[i] + (decay * p[i] if decay != 0 else zero))
    else:
        for i in range(p.size):
            d = s * g[i] + (decay * p[i] if decay != 0 else zero)
            b = keep * buffer[i] + new * d
            buffer[i] = b
            p[i] -= rate * (d + keep * b if nesterov else b)


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
    _run(_sgd, p, g, (buffer,), *scalars)


@threaded
def _adam(p, g, m, v, v_max, rate, root, beta1, beta2, eps, keep, weight_decay, sign, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(p.size, part, parts)
    p, g, m, v, v_max = p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi], v_max[lo:hi]
    real = p.dtype.type
    a, r, e, k, decay, s, zero = real(rate), real(root), real(eps), real(keep), real(weight_decay), real(sign), real(0)
    b1, w1, b2, w2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    near = 1 - beta1 < 0.5
    if v_max.size == 0:
        for i in range(p.size):
            d = s * g[i] + (decay * p[i] if decay != 0 else zero)
            mi = m[i] + w1 * (d - m[i]) if near else d - b1 * (d - m[i])
            vi = multiply_add(w2 * d, d, b2 * v[i])
            m[i] = mi
            v[i] = vi
            p[i] = k * p[i] - a * mi / (np.sqrt(vi) / r + e)
    else:
        for i in range(p.size):
            d = s * g[i] + (decay * p[i] if decay != 0 else zero)
            mi = m[i] + w1 * (d - m[i]) if near else d - b1 * (d - m[i])
            vi = multiply_add(w2 * d, d, b2 * v[i])
            m[i] = mi
            v[i] = vi
            vi = v_max[i] if vi <= v_max[i] else vi
            v_max[i] = vi
            p[i] = k * p[i] - a * mi / (np.sqrt(vi) / r + e)


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
    _run(_adam, p, g, (m, v, v_max), *scalars)


@threaded
def _rmsprop(p, g, square_average, average, buffer, lr, alpha, eps, weight_decay, momentum, sign, part, parts):
    if fork(part, parts):
        return
    first, last = share(p.size, part, parts)
    real = p.dtype.type
    rate, e, decay, keep, s, zero = real(lr), real(eps), real(weight_decay), real(momentum), real(sign), real(0)
    a, w = real(alpha), real(1 - alpha)
    near = 1 - alpha < 0.5
    steps = np.empty(BLOCK, p.dtype)
    for lo in range(first, last, BLOCK):
        hi = min(lo + BLOCK, last)
        x, d, q = p[lo:hi], g[lo:hi], square_average[lo:hi]
        if average.size == 0:
            for i in range(x.size):
                di = s * d[i] + (decay * x[i] if decay != 0 else zero)
                qi = multiply_add(w * di, di, a * q[i])
                q[i] = qi
                steps[i] = di / (np.sqrt(qi) + e)
        else:
            c = average[lo:hi]
            for i in range(x.size):
                di = s * d[i] + (decay * x[i] if decay != 0 else zero)
                qi = multiply_add(w * di, di, a * q[i])
                ci = c[i] + w * (di - c[i]) if near else di - a * (di - c[i])
                q[i] = qi
                c[i] = ci
                steps[i] = di / (np.sqrt(qi - ci * ci) + e)
        if buffer.size > 0:
            b = buffer[lo:hi]
            for i in range(x.size):
                b[i] = steps[i] + keep * b[i]
                steps[i] = b[i]
        for i in range(x.size):
            x[i] -= rate * steps[i]


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
    _run(_rmsprop, p, g, (square_average, average, buffer), *scalars)


@threaded
def _adagrad(p, g, total, lr, eps, weight_decay, sign, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(p.size, part, parts)
    p, g, total = p[lo:hi], g[lo:hi], total[lo:hi]
    real = p.dtype.type
    rate, e, decay, s, zero = real(lr), real(eps), real(weight_decay), real(sign), real(0)
    for i in range(p.size):
        d = s * g[i] + (decay * p[i] if decay != 0 else zero)
        q = total[i] + d * d
        total[i] = q
        p[i] -= rate * d / (np.sqrt(q) + e)


def adagrad_update(
    p: np.ndarray, g: np.ndarray, total: np.ndarray, lr: float, eps: float, weight_decay: float, maximize: bool
) -> None:
    """total += g^2; p -= lr * g / (sqrt(total) + eps)."""
    _run(_adagrad, p, g, (total,), float(lr), float(eps), float(weight_decay), _sign(maximize))


@threaded
def _square_sum(x, sums, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(x.size, part, parts)
    x = x[lo:hi]
    s = 0.0
    for i in range(x.size):
        s += np.float64(x[i]) * np.float64(x[i])
    sums[part] = s


def square_sums(arrays: list[np.ndarray]) -> np.ndarray:
    """The sum of x^2 over all elements of all arrays, of shape (), in float64."""
    total = np.zeros(())
    for x in arrays:
        parts = threads(x.size // LIGHT)
        sums = np.empty(parts)
        _square_sum(parts, x.ravel("K"), sums)
        total += sums.sum()
    return total
