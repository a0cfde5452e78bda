"""exp and its relatives for compiled loops, in the precision of their argument.

For float32 they are short polynomials without branches, so that LLVM computes sixteen at a time; the error
is one to three units in the last place. float64 takes the C library's functions, one at a time.

The polynomials were fitted for the smallest largest error: exp on |r| <= ln(2)/2 after taking out the power
of two, -log(erfc(x))/x on [0, 4], log1p(t)/t on [0, 1].

Numba's disk cache notices a change of the file that holds a loop, not of this one: after an edit here, touch the
kernels that use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

__all__ = ["erf", "exp", "expm1", "log1p_unit", "row_max", "tanh"]

f = np.float32


def _polynomial(function: Callable) -> Callable:
    """Compile with fused multiply-adds but without reordering, on which the range reduction relies."""
    return njit(function, fastmath={"contract"}, error_model="numpy")


@_polynomial
def _split(x):
    """p, a, b with exp(x) = (1 + p) * a * b, where a and b are powers of two (one alone would overflow); NaN counts as 0."""
    x = x if x > f(-104) else f(-104)
    x = x if x < f(89) else f(89)
    n = np.floor(x * f(1.4426950408889634) + f(0.5))
    r = x - n * f(0.693359375) - n * f(-2.12194440e-4)  # the first product is exact
    q = f(1.3926927e-3)
    q = q * r + f(8.363774e-3)
    q = q * r + f(4.1666549e-2)
    q = q * r + f(1.6666573e-1)
    q = q * r + f(0.5)
    i = np.int32(n)
    j = i >> np.int32(1)
    a = np.int32((j + np.int32(127)) << np.int32(23)).view(f)
    b = np.int32((i - j + np.int32(127)) << np.int32(23)).view(f)
    return q * (r * r) + r, a, b


@_polynomial
def _exp(x):
    p, a, b = _split(x)
    y = (f(1) + p) * a * b
    return y if x == x else x


@_polynomial
def _expm1(x):
    p, a, b = _split(x)
    y = p * a * b + (a * b - f(1))
    return y if x == x else x


@_polynomial
def _tanh(x):
    t = _expm1(f(-2) * abs(x))
    return np.copysign(-t / (t + f(2)), x)


@_polynomial
def _erf(x):
    t = abs(x)
    t = t if t < f(4) else f(4)  # erf(4) = 1 - 1.5e-8 is 1 in float32
    q = f(4.0707964e-5)
    q = q * t + f(-3.8100092e-4)
    q = q * t + f(1.2517475e-3)
    q = q * t + f(2.0571490e-4)
    q = q * t + f(-1.9321715e-2)
    q = q * t + f(1.0281441e-1)
    q = q * t + f(6.3661647e-1)
    q = q * t + f(1.1283792)
    y = np.copysign(-_expm1(-t * q), x)
    return y if x == x else x


@_polynomial
def _log1p_unit(t):
    q = f(-0.0032440235)
    q = q * t + f(0.019851457)
    q = q * t + f(-0.056959536)
    q = q * t + f(0.10603656)
    q = q * t + f(-0.15305594)
    q = q * t + f(0.1967594)
    q = q * t + f(-0.24954134)
    q = q * t + f(0.33329964)
    q = q * t + f(-0.49999902)
    q = q * t + f(1)
    return q * t


def _single(x: Any) -> bool:
    """Whether x is float32: of a value when run as plain Python, of a Numba type when compiled."""
    return isinstance(x, np.float32) or x == types.float32


def exp(x: Any) -> Any:
    """e^x."""
    return _exp(x) if _single(x) else np.exp(x)


def expm1(x: Any) -> Any:
    """e^x - 1, accurate near 0."""
    return _expm1(x) if _single(x) else np.expm1(x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return _tanh(x) if _single(x) else np.tanh(x)


def erf(x: Any) -> Any:
    """Error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return _erf(x) if _single(x) else math.erf(x)


def log1p_unit(t: Any) -> Any:
    """log(1 + t) for t in [0, 1]."""
    return _log1p_unit(t) if _single(t) else np.log1p(t)


# What a compiled loop calls instead of the functions above.


@overload(exp)
def _(x):
    return (lambda x: _exp(x)) if _single(x) else (lambda x: np.exp(x))


@overload(expm1)
def _(x):
    return (lambda x: _expm1(x)) if _single(x) else (lambda x: np.expm1(x))


@overload(tanh)
def _(x):
    return (lambda x: _tanh(x)) if _single(x) else (lambda x: np.tanh(x))


@overload(erf)
def _(x):
    return (lambda x: _erf(x)) if _single(x) else (lambda x: math.erf(x))


@overload(log1p_unit)
def _(t):
    return (lambda t: _log1p_unit(t)) if _single(t) else (lambda t: np.log1p(t))


@njit(error_model="numpy")
def row_max(r):
    """The largest element of a 1-D array, by four comparisons side by side: each alone would wait for the one before."""
    a = b = c = d = r[0]
    n = r.size // 4
    for k in range(n):
        q = r[4 * k : 4 * k + 4]
        a = q[0] if q[0] > a else a
        b = q[1] if q[1] > b else b
        c = q[2] if q[2] > c else c
        d = q[3] if q[3] > d else d
    q = r[4 * n :]
    for k in range(q.size):
        a = q[k] if q[k] > a else a
    a = b if b > a else a
    c = d if d > c else c
    return c if c > a else a
