"""Activations compiled by Numba: one pass over memory, in the order the elements lie.

One body per direction holds all element-by-element activations and takes a ``kind``: the two drivers are
then compiled once for all of them. ReLU, which nearly every network needs, has its own short ones.
"""

from __future__ import annotations

import math

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.cpu._math import erf, exp, expm1, log1p_unit, row_max, tanh
from minidl.memory import dense, empty, empty_like, flat, in_order_of

__all__ = [
    "elu_backward",
    "elu_forward",
    "gelu_backward",
    "gelu_forward",
    "hardswish_backward",
    "hardswish_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "softplus_backward",
    "softplus_forward",
    "tanh_backward",
    "tanh_forward",
]


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
        gx[i] = zero if y[i] <= zero else gy[i]  # NaN <= 0 is false: NaN passes gy


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
    """gx = 0 where y <= 0, else gy."""
    y = dense(y)
    gy = in_order_of(gy, y)
    gx = empty_like(y)
    parts = threads(y.size)
    if parts == 1:
        _relu_grad(flat(gy), flat(y), flat(gx))
    else:
        _relu_grad_parallel(flat(gy), flat(y), flat(gx), parts)
    return gx


# ---------------------------------------------------------------- the other element-by-element activations

LEAKY_RELU, ELU, SIGMOID, TANH, SILU, HARDSWISH, SOFTPLUS, GELU, GELU_TANH = range(9)

ROOT_HALF = math.sqrt(1 / 2)
DENSITY_0 = 1 / math.sqrt(2 * math.pi)  # the normal density at 0
A, B = math.sqrt(2 / math.pi), 0.044715  # the tanh form of gelu


@serial
def _activate(kind, x, y, a, b):
    """y = f(x); a and b are the activation's own arguments."""
    c = x.dtype.type  # constants in the precision of x
    a, b, zero, half, one = c(a), c(b), c(0), c(0.5), c(1)
    if kind == LEAKY_RELU:
        for i in range(x.size):
            y[i] = x[i] if x[i] > zero else a * x[i]
    elif kind == ELU:
        for i in range(x.size):
            y[i] = x[i] if x[i] > zero else a * expm1(x[i])
    elif kind == SIGMOID:
        for i in range(x.size):
            y[i] = one / (one + exp(-x[i]))  # e^-x may be infinite: y is 0 then
    elif kind == TANH:
        for i in range(x.size):
            y[i] = tanh(x[i])
    elif kind == SILU:
        for i in range(x.size):
            y[i] = x[i] / (one + exp(-x[i]))
    elif kind == HARDSWISH:
        for i in range(x.size):
            t = x[i] + c(3)
            t = zero if t < zero else t
            t = c(6) if t > c(6) else t
            y[i] = x[i] * t * c(1 / 6)
    elif kind == SOFTPLUS:
        for i in range(x.size):
            z = a * x[i]
            s = ((zero if z < zero else z) + log1p_unit(exp(-abs(z)))) / a
            y[i] = x[i] if z > b else s
    elif kind == GELU:
        for i in range(x.size):
            y[i] = half * x[i] * (one + erf(x[i] * c(ROOT_HALF)))
    else:
        for i in range(x.size):
            y[i] = half * x[i] * (one + tanh(c(A) * (x[i] + c(B) * x[i] * x[i] * x[i])))


@serial
def _activate_grad(kind, gy, s, gx, a, b):
    """gx = gy * f'; s is y for elu, sigmoid, tanh, anything with the sign of x for leaky_relu, else x."""
    c = s.dtype.type
    a, b, zero, half, one = c(a), c(b), c(0), c(0.5), c(1)
    if kind == LEAKY_RELU:
        for i in range(s.size):
            gx[i] = gy[i] if s[i] > zero else a * gy[i]
    elif kind == ELU:
        for i in range(s.size):
            gx[i] = gy[i] if s[i] > zero else gy[i] * (s[i] + a)
    elif kind == SIGMOID:
        for i in range(s.size):
            gx[i] = gy[i] * s[i] * (one - s[i])
    elif kind == TANH:
        for i in range(s.size):
            gx[i] = gy[i] * (one - s[i] * s[i])
    elif kind == SILU:
        for i in range(s.size):
            t = one / (one + exp(-s[i]))
            gx[i] = gy[i] * t * (one + s[i] * (one - t))
    elif kind == HARDSWISH:
        for i in range(s.size):
            t = s[i] * c(1 / 3) + half
            t = zero if s[i] <= c(-3) else t
            gx[i] = gy[i] * (one if s[i] >= c(3) else t)
    elif kind == SOFTPLUS:
        for i in range(s.size):
            z = a * s[i]
            t = one / (one + exp(-z))
            gx[i] = gy[i] * (one if z > b else t)
    elif kind == GELU:
        for i in range(s.size):
            p = half * (one + erf(s[i] * c(ROOT_HALF)))
            gx[i] = gy[i] * (p + s[i] * c(DENSITY_0) * exp(-half * s[i] * s[i]))
    else:
        for i in range(s.size):
            q = s[i] * s[i]
            t = tanh(c(A) * (s[i] + c(B) * q * s[i]))
            gx[i] = gy[i] * half * (one + t + s[i] * (one - t * t) * c(A) * (one + c(3 * B) * q))


@parallel
def _activate_parallel(kind, x, y, a, b, parts):
    n = x.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _activate(kind, x[lo:hi], y[lo:hi], a, b)


@parallel
def _activate_grad_parallel(kind, gy, s, gx, a, b, parts):
    n = s.size
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _activate_grad(kind, gy[lo:hi], s[lo:hi], gx[lo:hi], a, b)


def _forward(kind: int, x: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    x = dense(x)
    y = empty_like(x)
    parts = threads(x.size)
    if parts == 1:
        _activate(kind, flat(x), flat(y), a, b)
    else:
        _activate_parallel(kind, flat(x), flat(y), a, b, parts)
    return y


def _backward(kind: int, gy: np.ndarray, s: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    s = dense(s)
    gy = in_order_of(gy, s)
    gx = empty_like(s)
    parts = threads(s.size)
    if parts == 1:
        _activate_grad(kind, flat(gy), flat(s), flat(gx), a, b)
    else:
        _activate_grad_parallel(kind, flat(gy), flat(s), flat(gx), a, b, parts)
    return gx


def leaky_relu_forward(x: np.ndarray, negative_slope: float) -> np.ndarray:
    """y = x where x > 0, else negative_slope * x."""
    return _forward(LEAKY_RELU, x, negative_slope)


def leaky_relu_backward(gy: np.ndarray, s: np.ndarray, negative_slope: float) -> np.ndarray:
    """gx = gy where s > 0, else negative_slope * gy; s is anything with the sign of x."""
    return _backward(LEAKY_RELU, gy, s, negative_slope)


def elu_forward(x: np.ndarray, alpha: float) -> np.ndarray:
    """y = x where x > 0, else alpha * (e^x - 1)."""
    return _forward(ELU, x, alpha)


def elu_backward(gy: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """gx = gy where y > 0, else gy * (y + alpha)."""
    return _backward(ELU, gy, y, alpha)


def sigmoid_forward(x: np.ndarray) -> np.ndarray:
    """y = 1 / (1 + e^-x)."""
    return _forward(SIGMOID, x)


def sigmoid_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = gy * y * (1 - y)."""
    return _backward(SIGMOID, gy, y)


def tanh_forward(x: np.ndarray) -> np.ndarray:
    """y = tanh(x)."""
    return _forward(TANH, x)


def tanh_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = gy * (1 - y^2)."""
    return _backward(TANH, gy, y)


def silu_forward(x: np.ndarray) -> np.ndarray:
    """y = x * sigmoid(x)."""
    return _forward(SILU, x)


def silu_backward(gy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """gx = gy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    return _backward(SILU, gy, x)


def hardswish_forward(x: np.ndarray) -> np.ndarray:
    """y = x * min(max(x + 3, 0), 6) / 6."""
    return _forward(HARDSWISH, x)


def hardswish_backward(gy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """gx = 0 for x <= -3, gy for x >= 3, gy * (x / 3 + 1/2) between."""
    return _backward(HARDSWISH, gy, x)


def softplus_forward(x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    """y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return _forward(SOFTPLUS, x, beta, threshold)


def softplus_backward(gy: np.ndarray, x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    """gx = gy * sigmoid(beta x), and gy where beta x > threshold."""
    return _backward(SOFTPLUS, gy, x, beta, threshold)


def gelu_forward(x: np.ndarray, tanh: bool) -> np.ndarray:
    """y = x/2 * (1 + erf(x / sqrt(2))), or with tanh(A (x + B x^3)) in place of the error function."""
    return _forward(GELU_TANH if tanh else GELU, x)


def gelu_backward(gy: np.ndarray, x: np.ndarray, tanh: bool) -> np.ndarray:
    """gx = gy * f'(x), f being the form of gelu that forward used."""
    return _backward(GELU_TANH if tanh else GELU, gy, x)


# ---------------------------------------------------------------- softmax and log-softmax, on rows


@serial
def _softmax(x, y, log):
    """Row by row: y = e^(x - m) / s, or with ``log`` y = (x - m) - log(s); m the largest x, s the sum of e^(x - m)."""
    for i in range(x.shape[0]):
        r, o = x[i], y[i]
        m = row_max(r)
        s = x.dtype.type(0)
        if log:
            for k in range(r.size):
                s += exp(r[k] - m)
            t = np.log(s)
            for k in range(r.size):
                o[k] = (r[k] - m) - t
        else:
            for k in range(r.size):
                e = exp(r[k] - m)
                o[k] = e
                s += e
            t = x.dtype.type(1) / s
            for k in range(r.size):
                o[k] *= t


@serial
def _softmax_grad(gy, y, gx, log):
    """Row by row: gx = y * (gy - sum of gy * y), or with ``log`` gx = gy - e^y * sum of gy."""
    for i in range(y.shape[0]):
        g, r, o = gy[i], y[i], gx[i]
        s = y.dtype.type(0)
        if log:
            for k in range(r.size):
                s += g[k]
            for k in range(r.size):
                o[k] = g[k] - exp(r[k]) * s
        else:
            for k in range(r.size):
                s += g[k] * r[k]
            for k in range(r.size):
                o[k] = r[k] * (g[k] - s)


@parallel
def _softmax_parallel(x, y, log, parts):
    n = x.shape[0]
    for t in prange(parts):
        _softmax(x[t * n // parts : (t + 1) * n // parts], y[t * n // parts : (t + 1) * n // parts], log)


@parallel
def _softmax_grad_parallel(gy, y, gx, log, parts):
    n = y.shape[0]
    for t in prange(parts):
        lo, hi = t * n // parts, (t + 1) * n // parts
        _softmax_grad(gy[lo:hi], y[lo:hi], gx[lo:hi], log)


def _rows(x: np.ndarray, axis: int) -> np.ndarray:
    """x with the axis last, C-contiguous: a view when the axis is the innermost in memory already, else one copy."""
    x = np.moveaxis(x, axis, -1)
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def _softmax_rows(x: np.ndarray, axis: int, log: bool) -> np.ndarray:
    x = _rows(x, axis)
    y = empty(x.shape, x.dtype)
    if x.size:
        shape = (-1, x.shape[-1])
        parts = threads(x.size)
        if parts == 1:
            _softmax(x.reshape(shape), y.reshape(shape), log)
        else:
            _softmax_parallel(x.reshape(shape), y.reshape(shape), log, parts)
    return np.moveaxis(y, -1, axis)


def _softmax_grad_rows(gy: np.ndarray, y: np.ndarray, axis: int, log: bool) -> np.ndarray:
    gy, y = _rows(gy, axis), _rows(y, axis)
    gx = empty(y.shape, y.dtype)
    if y.size:
        shape = (-1, y.shape[-1])
        parts = threads(y.size)
        if parts == 1:
            _softmax_grad(gy.reshape(shape), y.reshape(shape), gx.reshape(shape), log)
        else:
            _softmax_grad_parallel(gy.reshape(shape), y.reshape(shape), gx.reshape(shape), log, parts)
    return np.moveaxis(gx, -1, axis)


def softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """y = e^x / sum of e^x along the axis."""
    return _softmax_rows(x, axis, False)


def softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx = y * (gy - sum of gy * y along the axis)."""
    return _softmax_grad_rows(gy, y, axis, False)


def log_softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """y = x - log(sum of e^x along the axis)."""
    return _softmax_rows(x, axis, True)


def log_softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx = gy - e^y * sum of gy along the axis."""
    return _softmax_grad_rows(gy, y, axis, True)
