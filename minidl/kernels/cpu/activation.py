"""Activations compiled by Numba: one pass over memory, in the order the elements lie.

Each activation has its own two loops, so that only those of a network are compiled. ``s`` in backward is whatever
of x and y the derivative is written in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._math import erf, exp, expm1, log1p_unit, row_max, tanh, wide
from minidl.memory import dense, empty, in_order_of, shaped

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

LIGHT, HEAVY = 1, 2  # work per element: a few operations, or an exponential function too

ROOT_HALF = math.sqrt(1 / 2)
DENSITY_0 = 1 / math.sqrt(2 * math.pi)  # the normal density at 0
A, B = math.sqrt(2 / math.pi), 0.044715  # the tanh form of gelu


def _forward(kernel: Callable, work: int, x: np.ndarray, *constants: float) -> np.ndarray:
    x, elements = dense(x)
    y = empty(elements.shape, x.dtype)
    kernel(threads(work * x.size), elements, y, *map(float, constants))
    return shaped(y, like=x)


def _backward(kernel: Callable, work: int, gy: np.ndarray, s: np.ndarray, *constants: float) -> np.ndarray:
    s, elements = dense(s)
    gx = empty(elements.shape, s.dtype)
    kernel(threads(work * s.size), in_order_of(gy, s).ravel("K"), elements, gx, *map(float, constants))
    return shaped(gx, like=s)


@threaded
def _relu(x, y, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] < zero else x[i]  # NaN < 0 is false: NaN stays


@threaded
def _relu_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    zero = s.dtype.type(0)
    for i in range(s.size):
        gx[i] = zero if s[i] <= zero else gy[i]  # NaN <= 0 is false: NaN passes gy


def relu_forward(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0)."""
    return _forward(_relu, LIGHT, x)


def relu_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = 0 where y <= 0, else gy."""
    return _backward(_relu_grad, LIGHT, gy, y)


@threaded
def _leaky_relu(x, y, a, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    a, zero = x.dtype.type(a), x.dtype.type(0)
    for i in range(x.size):
        y[i] = x[i] if x[i] > zero else a * x[i]


@threaded
def _leaky_relu_grad(gy, s, gx, a, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    a, zero = s.dtype.type(a), s.dtype.type(0)
    for i in range(s.size):
        gx[i] = gy[i] if s[i] > zero else a * gy[i]


def leaky_relu_forward(x: np.ndarray, negative_slope: float) -> np.ndarray:
    """y = x where x > 0, else negative_slope * x."""
    return _forward(_leaky_relu, LIGHT, x, negative_slope)


def leaky_relu_backward(gy: np.ndarray, s: np.ndarray, negative_slope: float) -> np.ndarray:
    """gx = gy where s > 0, else negative_slope * gy; s is anything with the sign of x."""
    return _backward(_leaky_relu_grad, LIGHT, gy, s, negative_slope)


@threaded
def _elu(x, y, a, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    a, zero = x.dtype.type(a), x.dtype.type(0)
    for i in range(x.size):
        y[i] = x[i] if x[i] > zero else a * expm1(x[i])


@threaded
def _elu_grad(gy, s, gx, a, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    a, zero = s.dtype.type(a), s.dtype.type(0)
    for i in range(s.size):
        gx[i] = gy[i] if s[i] > zero else gy[i] * (s[i] + a)


def elu_forward(x: np.ndarray, alpha: float) -> np.ndarray:
    """y = x where x > 0, else alpha * (e^x - 1)."""
    return _forward(_elu, HEAVY, x, alpha)


def elu_backward(gy: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """gx = gy where y > 0, else gy * (y + alpha)."""
    return _backward(_elu_grad, LIGHT, gy, y, alpha)


@threaded
def _sigmoid(x, y, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    one = x.dtype.type(1)
    for i in range(x.size):
        y[i] = one / (one + exp(-x[i]))  # e^-x may be infinite: y is 0 then


@threaded
def _sigmoid_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    one = s.dtype.type(1)
    for i in range(s.size):
        gx[i] = gy[i] * s[i] * (one - s[i])


def sigmoid_forward(x: np.ndarray) -> np.ndarray:
    """y = 1 / (1 + e^-x)."""
    return _forward(_sigmoid, HEAVY, x)


def sigmoid_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = gy * y * (1 - y)."""
    return _backward(_sigmoid_grad, LIGHT, gy, y)


@threaded
def _tanh(x, y, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    for i in range(x.size):
        y[i] = tanh(x[i])


@threaded
def _tanh_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    one = s.dtype.type(1)
    for i in range(s.size):
        gx[i] = gy[i] * (one - s[i] * s[i])


def tanh_forward(x: np.ndarray) -> np.ndarray:
    """y = tanh(x)."""
    return _forward(_tanh, HEAVY, x)


def tanh_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gx = gy * (1 - y^2)."""
    return _backward(_tanh_grad, LIGHT, gy, y)


@threaded
def _silu(x, y, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    one = x.dtype.type(1)
    for i in range(x.size):
        y[i] = x[i] / (one + exp(-x[i]))


@threaded
def _silu_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    one = s.dtype.type(1)
    for i in range(s.size):
        t = one / (one + exp(-s[i]))
        gx[i] = gy[i] * t * (one + s[i] * (one - t))


def silu_forward(x: np.ndarray) -> np.ndarray:
    """y = x * sigmoid(x)."""
    return _forward(_silu, HEAVY, x)


def silu_backward(gy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """gx = gy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    return _backward(_silu_grad, HEAVY, gy, x)


@threaded
def _hardswish(x, y, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    c = x.dtype.type  # constants in the precision of x
    for i in range(x.size):
        t = x[i] + c(3)
        t = c(0) if t < c(0) else t
        t = c(6) if t > c(6) else t
        y[i] = x[i] * t * c(1 / 6)


@threaded
def _hardswish_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    c = s.dtype.type  # constants in the precision of s
    for i in range(s.size):
        t = s[i] * c(1 / 3) + c(0.5)
        t = c(0) if s[i] <= c(-3) else t
        gx[i] = gy[i] * (c(1) if s[i] >= c(3) else t)


def hardswish_forward(x: np.ndarray) -> np.ndarray:
    """y = x * min(max(x + 3, 0), 6) / 6."""
    return _forward(_hardswish, LIGHT, x)


def hardswish_backward(gy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """gx = 0 for x <= -3, gy for x >= 3, gy * (x / 3 + 1/2) between."""
    return _backward(_hardswish_grad, LIGHT, gy, x)


@threaded
def _softplus(x, y, a, b, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    a, b, zero = x.dtype.type(a), x.dtype.type(b), x.dtype.type(0)
    for i in range(x.size):
        z = a * x[i]
        t = ((zero if z < zero else z) + log1p_unit(exp(-abs(z)))) / a
        y[i] = x[i] if z > b else t


@threaded
def _softplus_grad(gy, s, gx, a, b, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    a, b, one = s.dtype.type(a), s.dtype.type(b), s.dtype.type(1)
    for i in range(s.size):
        z = a * s[i]
        t = one / (one + exp(-z))
        gx[i] = gy[i] * (one if z > b else t)


def softplus_forward(x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    """y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return _forward(_softplus, HEAVY, x, beta, threshold)


def softplus_backward(gy: np.ndarray, x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    """gx = gy * sigmoid(beta x), and gy where beta x > threshold."""
    return _backward(_softplus_grad, HEAVY, gy, x, beta, threshold)


@threaded
def _gelu(x, y, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    c = x.dtype.type  # constants in the precision of x
    for i in range(x.size):
        y[i] = c(0.5) * x[i] * (c(1) + erf(x[i] * c(ROOT_HALF)))


@threaded
def _gelu_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    c = s.dtype.type  # constants in the precision of s
    for i in range(s.size):
        p = c(0.5) * (c(1) + erf(s[i] * c(ROOT_HALF)))
        gx[i] = gy[i] * (p + s[i] * c(DENSITY_0) * exp(c(-0.5) * s[i] * s[i]))


@threaded
def _gelu_tanh(x, y, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(x.size, part, parts)
    x, y = x[lo:hi], y[lo:hi]
    c = x.dtype.type  # constants in the precision of x
    for i in range(x.size):
        y[i] = c(0.5) * x[i] * (c(1) + tanh(c(A) * (x[i] + c(B) * x[i] * x[i] * x[i])))


@threaded
def _gelu_tanh_grad(gy, s, gx, part, parts):
    if fork(part, parts):
        return
    wide()
    lo, hi = share(s.size, part, parts)
    gy, s, gx = gy[lo:hi], s[lo:hi], gx[lo:hi]
    c = s.dtype.type  # constants in the precision of s
    for i in range(s.size):
        q = s[i] * s[i]
        t = tanh(c(A) * (s[i] + c(B) * q * s[i]))
        gx[i] = gy[i] * c(0.5) * (c(1) + t + s[i] * (c(1) - t * t) * c(A) * (c(1) + c(3 * B) * q))


def gelu_forward(x: np.ndarray, tanh: bool) -> np.ndarray:
    """y = x/2 * (1 + erf(x / sqrt(2))), or with tanh(A (x + B x^3)) in place of the error function."""
    return _forward(_gelu_tanh if tanh else _gelu, HEAVY, x)


def gelu_backward(gy: np.ndarray, x: np.ndarray, tanh: bool) -> np.ndarray:
    """gx = gy * f'(x), f being the form of gelu that forward used."""
    return _backward(_gelu_tanh_grad if tanh else _gelu_grad, HEAVY, gy, x)


# ---------------------------------------------------------------- softmax and log-softmax, on rows


@threaded
def _softmax(x, y, part, parts):
    """Row by row: y = e^(x - m) / s; m the largest x, s the sum of e^(x - m)."""
    if fork(part, parts):
        return
    wide()
    first, last = share(x.shape[0], part, parts)
    for i in range(first, last):
        r, o = x[i], y[i]
        m, s = row_max(r), x.dtype.type(0)
        for k in range(r.size):
            e = exp(r[k] - m)
            o[k] = e
            s += e
        t = x.dtype.type(1) / s
        for k in range(r.size):
            o[k] *= t


@threaded
def _softmax_grad(gy, y, gx, part, parts):
    """Row by row: gx = y * (gy - sum of gy * y)."""
    if fork(part, parts):
        return
    first, last = share(y.shape[0], part, parts)
    for i in range(first, last):
        g, r, o = gy[i], y[i], gx[i]
        s = y.dtype.type(0)
        for k in range(r.size):
            s += g[k] * r[k]
        for k in range(r.size):
            o[k] = r[k] * (g[k] - s)


@threaded
def _log_softmax(x, y, part, parts):
    """Row by row: y = (x - m) - log(s), with m and s as in ``_softmax``."""
    if fork(part, parts):
        return
    wide()
    first, last = share(x.shape[0], part, parts)
    for i in range(first, last):
        r, o = x[i], y[i]
        m, s = row_max(r), x.dtype.type(0)
        for k in range(r.size):
            s += exp(r[k] - m)
        t = np.log(s)
        for k in range(r.size):
            o[k] = (r[k] - m) - t


@threaded
def _log_softmax_grad(gy, y, gx, part, parts):
    """Row by row: gx = gy - e^y * sum of gy."""
    if fork(part, parts):
        return
    wide()
    first, last = share(y.shape[0], part, parts)
    for i in range(first, last):
        g, r, o = gy[i], y[i], gx[i]
        s = y.dtype.type(0)
        for k in range(r.size):
            s += g[k]
        for k in range(r.size):
            o[k] = g[k] - exp(r[k]) * s


def _contiguous(x: np.ndarray) -> np.ndarray:
    """x itself, or one C-contiguous copy."""
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def _on_rows(kernel: Callable, axis: int, *inputs: np.ndarray) -> np.ndarray:
    """The result of a kernel on rows, which lie along the axis."""
    last = axis in (-1, inputs[0].ndim - 1)
    rows = [_contiguous(x if last else np.moveaxis(x, axis, -1)) for x in inputs]
    y = empty(rows[0].shape, rows[0].dtype)
    if y.size:
        shape = (-1, y.shape[-1])
        kernel(threads(HEAVY * y.size), *[x.reshape(shape) for x in rows], y.reshape(shape))
    return y if last else np.moveaxis(y, -1, axis)


def softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """y = e^x / sum of e^x along the axis."""
    return _on_rows(_softmax, axis, x)


def softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx = y * (gy - sum of gy * y along the axis)."""
    return _on_rows(_softmax_grad, axis, gy, y)


def log_softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """y = x - log(sum of e^x along the axis)."""
    return _on_rows(_log_softmax, axis, x)


def log_softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx = gy - e^y * sum of gy along the axis."""
    return _on_rows(_log_softmax_grad, axis, gy, y)
