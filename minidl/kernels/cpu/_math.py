"""exp and its relatives for compiled loops, in the precision of their argument.

For float32 they are short polynomials without branches, so that LLVM computes sixteen at a time; the error
is one to three units in the last place. float64 takes the C library's functions, one at a time.

The polynomials were fitted for the smallest largest error: exp on |r| <= ln(2)/2 or ln(2) after taking out a power
of two or an even one, -log(erfc(x))/x on [0, 4], log1p(t)/t on [0, 1].

Numba's disk cache notices a change of the file that holds a loop, not of this one: after an edit here, touch the
kernels that use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload

__all__ = ["erf", "exp", "expm1", "log1p_unit", "row_max", "tanh", "wide"]

f = np.float32

# Float32 numbers this large are all whole, or all even, so that x plus one of these is x rounded to a whole, or an even
# number n. The lowest bits of that sum are 127 plus n or n/2: shifted to where the exponent lies, they are 2^n or 2^(n/2).
_WHOLE = f(1.5 * 2**23 + 127)
_EVEN = f(1.5 * 2**24 + 2 * 127)


def _polynomial(function: Callable) -> Callable:
    """Compile with fused multiply-adds but without reordering, on which the range reduction relies."""
    return njit(function, fastmath={"contract"}, error_model="numpy", forceinline=True)


@_polynomial
def _split(x):
    """p, s with exp(x) = (1 + p) * s * s, where s is a power of two; x from -104 to 89 or NaN, which stays NaN."""
    t = x * f(1.4426950408889634) + _EVEN
    n = t - _EVEN  # the even number nearest to x / ln(2)
    r = x - n * f(0.693359375) - n * f(-2.12194440e-4)  # the first product is exact
    q = f(1.9629205e-4)
    q = q * r + f(1.4104676e-3)
    q = q * r + f(8.335937e-3)
    q = q * r + f(4.1661233e-2)
    q = q * r + f(1.6666618e-1)
    q = q * r + f(5.0000036e-1)
    return q * (r * r) + r, np.int32(f(t).view(np.int32) << np.int32(23)).view(f)


@_polynomial
def _exp(x):
    x = f(-104) if x < f(-104) else x
    x = f(89) if x > f(89) else x
    p, s = _split(x)
    return (f(1) + p) * s * s


@_polynomial
def _expm1(x):
    x = f(-104) if x < f(-104) else x
    x = f(89) if x > f(89) else x
    p, s = _split(x)
    s = s * s
    return p * s + (s - f(1))


@_polynomial
def _tanh(x):
    """-e / (e + 1) with e = (exp(-2 t) - 1) / 2, t = |x|; the steps of ``_split``, shorter for this range."""
    t = abs(x)
    t = f(10) if t > f(10) else t
    m = t * f(-2 * 1.4426950408889634) + _WHOLE
    n = m - _WHOLE  # the whole number nearest to -2 t / ln(2)
    h = -t - n * f(0.34657359)
    q = f(4.4228699e-2)
    q = q * h + f(1.338986e-1)
    q = q * h + f(3.3334604e-1)
    q = q * h + f(6.6666084e-1)
    q = q * h + f(9.9999988e-1)
    s = np.int32(f(m).view(np.int32) << np.int32(23)).view(f)
    e = (q * (h * h) + h) * s + (s * f(0.5) - f(0.5))
    return np.copysign(e / (e + f(1)), x)


@_polynomial
def _erf(x):
    t = abs(x)
    t = f(4) if t > f(4) else t  # erf(4) = 1 - 1.5e-8 is 1 in float32
    q = f(4.0707964e-5)
    q = q * t + f(-3.8100092e-4)
    q = q * t + f(1.2517475e-3)
    q = q * t + f(2.0571490e-4)
    q = q * t + f(-1.9321715e-2)
    q = q * t + f(1.0281441e-1)
    q = q * t + f(6.3661647e-1)
    q = q * t + f(1.1283792)
    p, s = _split(-t * q)
    s = s * s
    return np.copysign(p * s + (s - f(1)), x)


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


# ---------------------------------------------------------------- instructions that Numba has no name for


def _maximum_code(typing: Any, a: Any, b: Any) -> Any:
    def write(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple) -> ir.Value:
        type_ = args[0].type
        name = f"llvm.maximum.f{signature.return_type.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, [type_, type_]), name), args)

    return a(a, a), write


def maximum(a: Any, b: Any) -> Any:
    """The larger of two floats, NaN if either is NaN. (Of ``a if a > b else b``, LLVM makes no vectors, for fear of NaN.)"""
    return np.maximum(a, b)


def _wide_code(typing: Any) -> Any:
    def write(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple) -> ir.Value:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own add knows few attributes
        return context.get_dummy_value()

    return types.none(), write


def wide() -> None:
    """Vectors of 512 bits in the function that calls this, where the processor has them; LLVM takes 256 by itself."""


if not config.DISABLE_JIT:
    maximum, wide = intrinsic(_maximum_code), intrinsic(_wide_code)


@njit(fastmath={"nsz"}, error_model="numpy", forceinline=True)
def row_max(r):
    """The largest element of a 1-D array, NaN if one is NaN."""
    m = r[0]
    for k in range(r.size):
        m = maximum(m, r[k])
    return m
