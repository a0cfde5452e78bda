"""Element-by-element functions of one tensor: powers, exponentials, logarithms, sine and cosine."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.function import Function
from minidl.ops._arguments import float_tensor, tensor
from minidl.ops.elementwise import unary_errors, unary_samples
from minidl.registry import Draw, Sample, op
from minidl.tensor import Tensor

__all__ = ["cos", "exp", "log", "log1p", "reciprocal", "sin", "sqrt", "square"]


def _positive_samples(draw: Draw) -> list[Sample]:
    return [Sample(draw.positive(3, 4)), Sample(draw.positive(), name="0-d"), Sample(draw.positive(2, 0), name="empty")]


class Square(Function):
    """y = x^2."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return (gy + gy) * x


@op(samples=unary_samples, oracle=lambda x: x**2, flops=lambda y, x: y.size, methods=("square",), errors=unary_errors)
def square(x: Any) -> Tensor:
    """Square.

    Formula:
        y = x^2
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * 2 x

    >>> import minidl as md
    >>> md.square(md.tensor([-2.0, 3.0]))
    tensor([4., 9.])
    """
    return Square.apply(tensor("square", x))


class Reciprocal(Function):
    """y = 1 / x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = 1 / x
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return -gy * y * y


@op(
    samples=_positive_samples, oracle=lambda x: x**-1.0, flops=lambda y, x: y.size, methods=("reciprocal",), errors=unary_errors
)
def reciprocal(x: Any) -> Tensor:
    """One over x.

    Formula:
        y = 1 / x
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = -dL/dy * y^2
    Notes:
        x = 0 gives an infinity, without a warning.

    >>> import minidl as md
    >>> md.reciprocal(md.tensor([2.0, 4.0]))
    tensor([0.5 , 0.25])
    """
    return Reciprocal.apply(float_tensor("reciprocal", x))


class Sqrt(Function):
    """y = square root of x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = xp_of(x).sqrt(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return gy / (y + y)


@op(samples=_positive_samples, oracle=lambda x: x**0.5, flops=lambda y, x: y.size, methods=("sqrt",), errors=unary_errors)
def sqrt(x: Any) -> Tensor:
    """Square root.

    Formula:
        y = x^(1/2)
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = dL/dy / (2 y), which is infinite at x = 0.
    Notes:
        A negative x gives NaN, without a warning.

    >>> import minidl as md
    >>> md.sqrt(md.tensor([4.0, 9.0]))
    tensor([2., 3.])
    """
    return Sqrt.apply(float_tensor("sqrt", x))


class Exp(Function):
    """y = e^x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = xp_of(x).exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return gy * y


@op(samples=unary_samples, oracle=np.exp, flops=lambda y, x: y.size, methods=("exp",), errors=unary_errors)
def exp(x: Any) -> Tensor:
    """Exponential.

    Formula:
        y = e^x
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = dL/dy * y
    Notes:
        Overflow gives inf, without a warning.

    >>> import minidl as md
    >>> md.exp(md.tensor([0.0, 1.0]))
    tensor([1.    , 2.7183])
    """
    return Exp.apply(float_tensor("exp", x))


class Log(Function):
    """y = natural logarithm of x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return xp_of(x).log(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return gy / x


@op(
    samples=_positive_samples,
    oracle=lambda x: np.log2(x) * np.log(2),
    flops=lambda y, x: y.size,
    methods=("log",),
    errors=unary_errors,
)
def log(x: Any) -> Tensor:
    """Natural logarithm.

    Formula:
        y = ln(x)
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = dL/dy / x
    Notes:
        x = 0 gives -inf and a negative x NaN, without a warning.

    >>> import minidl as md
    >>> md.log(md.tensor([1.0, 10.0]))
    tensor([0.    , 2.3026])
    """
    return Log.apply(float_tensor("log", x))


class Log1p(Function):
    """y = ln(1 + x), exact for small x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return xp_of(x).log1p(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return gy / (1 + x)


@op(
    samples=_positive_samples,
    oracle=lambda x: np.log(1 + x),
    flops=lambda y, x: y.size,
    methods=("log1p",),
    errors=unary_errors,
)
def log1p(x: Any) -> Tensor:
    """Natural logarithm of 1 + x, without the rounding error that 1 + x would bring for small x.

    Formula:
        y = ln(1 + x)
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = dL/dy / (1 + x)
    Notes:
        x = -1 gives -inf and x below it NaN, without a warning.

    >>> import minidl as md
    >>> md.log1p(md.tensor([0.0, 1.0]))
    tensor([0.    , 0.6931])
    """
    return Log1p.apply(float_tensor("log1p", x))


class Sin(Function):
    """y = sin(x)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return xp_of(x).sin(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return gy * xp_of(x).cos(x)


@op(
    samples=unary_samples,
    oracle=lambda x: np.exp(1j * x).imag,
    flops=lambda y, x: y.size,
    methods=("sin",),
    errors=unary_errors,
)
def sin(x: Any) -> Tensor:
    """Sine of x in radians.

    Formula:
        y = sin(x)
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = dL/dy * cos(x)

    >>> import minidl as md
    >>> md.sin(md.tensor([0.0, 1.0]))
    tensor([0.    , 0.8415])
    """
    return Sin.apply(float_tensor("sin", x))


class Cos(Function):
    """y = cos(x)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return xp_of(x).cos(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return -gy * xp_of(x).sin(x)


@op(
    samples=unary_samples,
    oracle=lambda x: np.exp(1j * x).real,
    flops=lambda y, x: y.size,
    methods=("cos",),
    errors=unary_errors,
)
def cos(x: Any) -> Tensor:
    """Cosine of x in radians.

    Formula:
        y = cos(x)
    Shape:
        any; y has x's shape, integers become the default floating dtype.
    Gradient:
        dL/dx = -dL/dy * sin(x)

    >>> import minidl as md
    >>> md.cos(md.tensor([0.0, 1.0]))
    tensor([1.    , 0.5403])
    """
    return Cos.apply(float_tensor("cos", x))
