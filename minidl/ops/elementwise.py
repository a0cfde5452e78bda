"""Element-by-element arithmetic with NumPy's broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array, default_dtype, is_array, xp_of
from minidl.errors import DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import describe, float_tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["add", "divide", "exp", "greater", "multiply", "negative", "subtract"]

_SCALARS = (int, float, bool)


def _operands(op: str, x: Any, y: Any, to_float: bool = False) -> tuple[Any, Any]:
    """Two operands ready for NumPy: tensors, or one tensor and one Python number, with one common dtype.

    Python numbers are weak: they take the tensor's dtype. An integer tensor beside a floating one takes
    the floating dtype (NumPy would make int64 with float32 a float64), and ``to_float`` makes integers the
    default floating dtype.
    """
    x, y = _operand(op, x, "x", y), _operand(op, y, "y", x)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        dx, dy = x._array.dtype, y._array.dtype
        if dx is not dy and dx != dy:
            if dx in FLOATS and dy not in FLOATS:
                y = Tensor.wrap(y._array.astype(dx))
            elif dy in FLOATS and dx not in FLOATS:
                x = Tensor.wrap(x._array.astype(dy))
        if x._array.shape != y._array.shape:
            try:
                np.broadcast_shapes(x.shape, y.shape)
            except ValueError:
                raise ShapeError.of(op, "shapes that broadcast", f"{x.shape} and {y.shape}", "Axes must be equal or 1, aligned at the right.") from None
    t, s = (x, y) if isinstance(x, Tensor) else (y, x)
    if t._array.dtype not in FLOATS and (to_float or isinstance(s, float)):
        if isinstance(x, Tensor) and x._array.dtype not in FLOATS:
            x = Tensor.wrap(x._array.astype(default_dtype()))
        if isinstance(y, Tensor) and y._array.dtype not in FLOATS:
            y = Tensor.wrap(y._array.astype(default_dtype()))
    return x, y


def _operand(op: str, value: Any, name: str, other: Any) -> Any:
    if isinstance(value, Tensor) or (type(value) in _SCALARS and isinstance(other, Tensor)):
        return value
    if type(value) in _SCALARS or is_array(value) or isinstance(value, (list, np.generic)):
        return Tensor(value)
    raise DtypeError.of(op, f"{name} as a tensor, an array or a number", describe(value))


def _shape(value: Any) -> tuple[int, ...] | None:
    return value.shape if is_array(value) else None


def _binary_samples(draw: Draw) -> list[Sample]:
    """Equal shapes, broadcasting on either side, a Python number, an empty array."""
    return [
        Sample(draw.positive(3, 4), draw.positive(3, 4)),
        Sample(draw.positive(2, 1, 4), draw.positive(3, 1), name="broadcast"),
        Sample(draw.positive(2, 3), 2.5, name="number"),
        Sample(1.5, draw.positive(2, 3), name="number first"),
        Sample(draw.positive(0, 3), draw.positive(3), name="empty"),
    ]


def _binary_errors(draw: Draw) -> list[ErrorSample]:
    return [
        ErrorSample(ShapeError, r"expected shapes that broadcast, got \(2, 3\) and \(2, 4\)", draw.normal(2, 3), draw.normal(2, 4)),
        ErrorSample(DtypeError, "expected y as a tensor, an array or a number", draw.normal(2), None),
    ]


def _unary_errors(draw: Draw) -> list[ErrorSample]:
    return [ErrorSample(DtypeError, "expected x as a tensor, an array or numbers", "text")]


class Add(Function):
    """z = x + y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = _shape(x), _shape(y)
        return x + y

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        sx, sy = ctx.shapes
        return (sum_to(gz, sx) if ctx.needs[0] else None, sum_to(gz, sy) if ctx.needs[1] else None)


@op(samples=_binary_samples, oracle=np.add, flops=lambda z, x, y: z.size, methods=("add", "__add__", "__radd__"), errors=_binary_errors)
def add(x: Any, y: Any) -> Tensor:
    """Sum, with broadcasting.

    Formula:
        z = x + y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz and dL/dy = dL/dz, summed over the axes along which x (or y) was repeated.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.add(md.tensor([1.0, 2.0]), 3)
    tensor([4., 5.])
    """
    return Add.apply(*_operands("add", x, y))


class Subtract(Function):
    """z = x - y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = _shape(x), _shape(y)
        return x - y

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        sx, sy = ctx.shapes
        return (sum_to(gz, sx) if ctx.needs[0] else None, sum_to(-gz, sy) if ctx.needs[1] else None)


@op(samples=_binary_samples, oracle=np.subtract, flops=lambda z, x, y: z.size, methods=("subtract", "__sub__"), errors=_binary_errors)
def subtract(x: Any, y: Any) -> Tensor:
    """Difference, with broadcasting.

    Formula:
        z = x - y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz and dL/dy = -dL/dz, summed over repeated axes.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.subtract(md.tensor([1.0, 2.0]), 3)
    tensor([-2., -1.])
    """
    return Subtract.apply(*_operands("subtract", x, y))


class Multiply(Function):
    """z = x * y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = _shape(x), _shape(y)
        ctx.save(x if ctx.needs[1] else None, y if ctx.needs[0] else None)
        return x * y

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y), (sx, sy) = ctx.saved, ctx.shapes
        return (sum_to(gz * y, sx) if ctx.needs[0] else None, sum_to(gz * x, sy) if ctx.needs[1] else None)


@op(samples=_binary_samples, oracle=np.multiply, flops=lambda z, x, y: z.size, methods=("multiply", "__mul__", "__rmul__"), errors=_binary_errors)
def multiply(x: Any, y: Any) -> Tensor:
    """Element-by-element product, with broadcasting.

    Formula:
        z = x * y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz * y and dL/dy = dL/dz * x, summed over repeated axes.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.multiply(md.tensor([1.0, 2.0]), 3)
    tensor([3., 6.])
    """
    return Multiply.apply(*_operands("multiply", x, y))


class Divide(Function):
    """z = x / y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = _shape(x), _shape(y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z = x / y
        ctx.save(z if ctx.needs[1] else None, y)
        return z

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (z, y), (sx, sy) = ctx.saved, ctx.shapes
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            gx = gz / y
            return (sum_to(gx, sx) if ctx.needs[0] else None, sum_to(-gx * z, sy) if ctx.needs[1] else None)


@op(samples=_binary_samples, oracle=np.divide, flops=lambda z, x, y: z.size, methods=("divide", "__truediv__"), errors=_binary_errors)
def divide(x: Any, y: Any) -> Tensor:
    """Quotient, with broadcasting; integers become the default floating dtype.

    Formula:
        z = x / y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz / y and dL/dy = -dL/dz * z / y, summed over repeated axes.
    Notes:
        Division by zero gives an infinity or NaN, without a warning.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.divide(md.tensor([1.0, 2.0]), 4)
    tensor([0.25, 0.5 ])
    """
    return Divide.apply(*_operands("divide", x, y, to_float=True))


class Negative(Function):
    """y = -x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return -x

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return -gy


@op(samples=lambda draw: [Sample(draw.normal(3, 4))], oracle=np.negative, flops=lambda y, x: y.size, methods=("negative", "__neg__"), errors=_unary_errors)
def negative(x: Any) -> Tensor:
    """Negative.

    Formula:
        y = -x
    Shape:
        any.
    Gradient:
        dL/dx = -dL/dy

    >>> import minidl as md
    >>> md.negative(md.tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """
    return Negative.apply(_operands("negative", x, 0)[0] if not isinstance(x, str) else float_tensor("negative", x))


class Exp(Function):
    """y = e^x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        with np.errstate(over="ignore"):
            y = xp_of(x).exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return gy * y


@op(samples=lambda draw: [Sample(draw.normal(3, 4))], oracle=np.exp, flops=lambda y, x: y.size, methods=("exp",), errors=_unary_errors)
def exp(x: Any) -> Tensor:
    """Exponential.

    Formula:
        y = e^x
    Shape:
        any.
    Gradient:
        dL/dx = dL/dy * y
    Notes:
        Overflow gives inf, without a warning.

    >>> import minidl as md
    >>> md.exp(md.tensor([0.0, 1.0]))
    tensor([1.    , 2.7183])
    """
    return Exp.apply(float_tensor("exp", x))


class Greater(Function):
    """z = x > y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x > y


@op(samples=_binary_samples, oracle=np.greater, methods=("greater", "__gt__"), errors=_binary_errors, differentiable=False)
def greater(x: Any, y: Any) -> Tensor:
    """Where x > y, as booleans, with broadcasting; no gradient.

    >>> import minidl as md
    >>> md.greater(md.tensor([1.0, 2.0]), 1.5)
    tensor([False,  True])
    """
    x, y = _operands("greater", x, y)
    return Greater.apply(x.detach() if isinstance(x, Tensor) else x, y.detach() if isinstance(y, Tensor) else y)
