"""Element-by-element arithmetic with NumPy's broadcasting, and changes of dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array, default_dtype, is_array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import describe, tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = [
    "abs",
    "absolute",
    "add",
    "astype",
    "copy",
    "divide",
    "floor_divide",
    "multiply",
    "negative",
    "power",
    "remainder",
    "subtract",
]

_NUMBERS = (int, float, bool)


def operands(op: str, x: Any, y: Any, to_float: bool = False) -> tuple[Any, Any]:
    """Two operands ready for NumPy: tensors of one dtype, or one tensor and one Python number.

    Python numbers are weak: they take the tensor's dtype. Integers beside floats take the floating dtype
    (NumPy would make int64 with float32 a float64), and ``to_float`` makes integers the default one.
    """
    if isinstance(x, Tensor):
        a = x._array
        if isinstance(y, Tensor):
            b = y._array
            if a.dtype is b.dtype and a.dtype in FLOATS:
                if a.shape != b.shape:
                    check_broadcast(op, a.shape, b.shape)
                return x, y
        elif type(y) in _NUMBERS and a.dtype in FLOATS:
            return x, y
    elif isinstance(y, Tensor) and type(x) in _NUMBERS and y._array.dtype in FLOATS:
        return x, y
    return _unify(op, x, y, to_float)


def _unify(op: str, x: Any, y: Any, to_float: bool) -> tuple[Any, Any]:
    """What ``operands`` promises, for the less common cases."""
    x, y = _operand(op, x, "x", y), _operand(op, y, "y", x)
    tensors = [value for value in (x, y) if isinstance(value, Tensor)]
    if len(tensors) == 2:
        check_broadcast(op, x.shape, y.shape)
    floats = [t.dtype for t in tensors if t.dtype in FLOATS]
    if floats:
        dtype = np.result_type(*floats)
    elif to_float or float in (type(x), type(y)):
        dtype = default_dtype()
    else:  # integers and booleans: NumPy's promotion
        for value in (x, y):
            if type(value) is int and tensors[0].dtype.kind in "iu":
                _check_fits(op, value, tensors[0].dtype)
        return x, y
    x = astype(x, dtype) if isinstance(x, Tensor) else x
    y = astype(y, dtype) if isinstance(y, Tensor) else y
    return x, y


def _operand(op: str, value: Any, name: str, other: Any) -> Any:
    if isinstance(value, Tensor) or (type(value) in _NUMBERS and isinstance(other, Tensor)):
        return value
    if is_array(value):
        return tensor(op, value, name)
    if isinstance(value, (*_NUMBERS, list, tuple, np.generic)):
        t = tensor(op, value, name)
        return t.to(other.device) if isinstance(other, Tensor) else t
    raise DtypeError.of(op, f"{name} as a tensor, an array or a number", describe(value))


def common_float(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the widest floating dtype among them; as they are when none is floating."""
    floats = [t.dtype for t in tensors if t.dtype in FLOATS]
    return tuple(astype(t, np.result_type(*floats)) for t in tensors) if floats else tensors


def check_broadcast(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Refuse shapes that do not broadcast."""
    for m, n in zip(reversed(a), reversed(b)):
        if m != n and m != 1 and n != 1:
            raise ShapeError.of(op, "shapes that broadcast", f"{a} and {b}", "Axes must be equal or 1, aligned at the right.")


def _check_fits(op: str, value: int, dtype: np.dtype) -> None:
    info = np.iinfo(dtype)
    if not info.min <= value <= info.max:
        raise ArgumentError.of(op, f"a number that {dtype} holds", str(value), "Convert the tensor with .astype first.")


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of an array, None for a Python number."""
    return getattr(value, "shape", None)


def binary_samples(draw: Draw) -> list[Sample]:
    """Equal shapes, broadcasting on either side, a Python number, scalars, an empty array."""
    return [
        Sample(draw.positive(3, 4), draw.positive(3, 4)),
        Sample(draw.positive(2, 1, 4), draw.positive(3, 1), name="broadcast"),
        Sample(draw.positive(2, 3), 2.5, name="number"),
        Sample(1.5, draw.positive(2, 3), name="number first"),
        Sample(draw.positive(), draw.positive(), name="0-d"),
        Sample(draw.positive(0, 3), draw.positive(3), name="empty"),
    ]


def binary_errors(draw: Draw) -> list[ErrorSample]:
    """Shapes that do not broadcast, something that is no number."""
    return [
        ErrorSample(
            ShapeError, r"expected shapes that broadcast, got \(2, 3\) and \(2, 4\)", draw.normal(2, 3), draw.normal(2, 4)
        ),
        ErrorSample(DtypeError, "expected y as a tensor, an array or a number", draw.normal(2), None),
    ]


def unary_errors(draw: Draw) -> list[ErrorSample]:
    """Something that is no number."""
    return [ErrorSample(DtypeError, "expected x as a tensor, an array or numbers", "text")]


def unary_samples(draw: Draw) -> list[Sample]:
    """Several axes, none, no elements."""
    return [Sample(draw.normal(3, 4)), Sample(draw.normal(), name="0-d"), Sample(draw.normal(2, 0), name="empty")]


class Add(Function):
    """z = x + y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        return kernels_for(x).add(x, y)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        sx, sy = ctx.shapes
        return (sum_to(gz, sx) if ctx.needs[0] else None, sum_to(gz, sy) if ctx.needs[1] else None)


@op(
    samples=binary_samples,
    oracle=np.add,
    flops=lambda z, x, y: z.size,
    methods=("add", "__add__", "__radd__"),
    errors=binary_errors,
)
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
    return Add.apply(*operands("add", x, y))


class Subtract(Function):
    """z = x - y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        return x - y

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        sx, sy = ctx.shapes
        return (sum_to(gz, sx) if ctx.needs[0] else None, sum_to(-gz, sy) if ctx.needs[1] else None)


@op(
    samples=binary_samples,
    oracle=np.subtract,
    flops=lambda z, x, y: z.size,
    methods=("subtract", "__sub__"),
    errors=binary_errors,
)
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
        DtypeError: two booleans, whose difference is not defined.

    >>> import minidl as md
    >>> md.subtract(md.tensor([1.0, 2.0]), 3)
    tensor([-2., -1.])
    """
    x, y = operands("subtract", x, y)
    try:
        return Subtract.apply(x, y)
    except TypeError as error:
        raise DtypeError.of("subtract", "numbers", "booleans", "Compare them with != or convert with .astype.") from error


class Multiply(Function):
    """z = x * y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        ctx.save(x if ctx.needs[1] else None, y if ctx.needs[0] else None)
        return kernels_for(x).multiply(x, y)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y), (sx, sy), multiply = ctx.saved, ctx.shapes, kernels_for(gz).multiply
        return (sum_to(multiply(gz, y), sx) if ctx.needs[0] else None, sum_to(multiply(gz, x), sy) if ctx.needs[1] else None)


@op(
    samples=binary_samples,
    oracle=np.multiply,
    flops=lambda z, x, y: z.size,
    methods=("multiply", "__mul__", "__rmul__"),
    errors=binary_errors,
)
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
    return Multiply.apply(*operands("multiply", x, y))


class Divide(Function):
    """z = x / y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        z = x / y
        ctx.save(z if ctx.needs[1] else None, y)
        return z

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (z, y), (sx, sy) = ctx.saved, ctx.shapes
        gx = gz / y
        return (sum_to(gx, sx) if ctx.needs[0] else None, sum_to(-gx * z, sy) if ctx.needs[1] else None)


@op(
    samples=binary_samples,
    oracle=np.divide,
    flops=lambda z, x, y: z.size,
    methods=("divide", "__truediv__"),
    errors=binary_errors,
)
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
    return Divide.apply(*operands("divide", x, y, to_float=True))


class Negative(Function):
    """y = -x."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return -x

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return -gy


@op(samples=unary_samples, oracle=np.negative, flops=lambda y, x: y.size, methods=("negative", "__neg__"), errors=unary_errors)
def negative(x: Any) -> Tensor:
    """Negative.

    Formula:
        y = -x
    Shape:
        any.
    Gradient:
        dL/dx = -dL/dy
    Raises:
        DtypeError: booleans, whose opposite is ``~x``.

    >>> import minidl as md
    >>> md.negative(md.tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """
    x = tensor("negative", x)
    if x.dtype.kind == "b":
        raise DtypeError.of("negative", "numbers", "booleans", "The opposite of a mask is ~mask.")
    return Negative.apply(x)


class Power(Function):
    """z = x^y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        z = x**y
        ctx.save(x, y, z if ctx.needs[1] else None)
        return z

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y, z), (sx, sy) = ctx.saved, ctx.shapes
        xp = xp_of(gz)
        gx = gy = None
        if ctx.needs[0]:
            gx = gz * (y * x ** (y - 1))
            if is_array(y):
                gx = xp.where(y == 0, gz.dtype.type(0), gx)
            elif y == 0:
                gx = xp.zeros_like(gz)
            gx = sum_to(gx, sx)
        if ctx.needs[1]:
            log_x = xp.log(xp.asarray(x, gz.dtype))
            gy = sum_to(xp.where(xp.equal(x, 0) & xp.greater_equal(y, 0), gz.dtype.type(0), gz * z * log_x), sy)
        return gx, gy


def _power_samples(draw: Draw) -> list[Sample]:
    numbers = [Sample(draw.away(3), exponent, name=f"number {exponent}") for exponent in (0, 1, 2, 3, -1, 2.0)]
    return [
        *binary_samples(draw),
        *numbers,
        Sample(draw.positive(3), -0.5, name="root"),
        Sample(draw.positive(2, 3), draw.normal(3)),
    ]


@op(
    samples=_power_samples,
    oracle=np.float_power,
    flops=lambda z, x, y: z.size,
    methods=("power", "__pow__"),
    errors=binary_errors,
)
def power(x: Any, y: Any) -> Tensor:
    """Power, with broadcasting.

    Formula:
        z = x^y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz * y * x^(y-1), and 0 where y = 0; dL/dy = dL/dz * z * log(x), and 0 where x = 0 <= y;
        summed over repeated axes.
    Notes:
        A negative x with a fractional y gives NaN. Integers stay integers, and take no negative y.
    Raises:
        ShapeError: shapes that do not broadcast.
        ArgumentError: integers with a negative y.

    >>> import minidl as md
    >>> md.power(md.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 4., 9.])
    """
    x, y = operands("power", x, y)
    try:
        return Power.apply(x, y)
    except ValueError as error:
        raise ArgumentError.of(
            "power", "exponents of at least 0 for integers", "a negative one", "Convert with .astype."
        ) from error


class FloorDivide(Function):
    """z = floor(x / y)."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x // y


def _remainder_samples(draw: Draw) -> list[Sample]:
    """x half-way between multiples of y, where the remainder does not jump."""
    y = draw.positive(3, 4)
    x = y * (draw.labels(3, 4, classes=5) - 2 + draw.uniform(3, 4, low=0.2, high=0.8))
    return [
        Sample(x, y),
        Sample(draw.uniform(2, 3, low=2.2, high=3.8), 2.0, name="number"),
        Sample(7.0, draw.uniform(3, low=1.8, high=2.2)),
    ]


def _divisor_errors(draw: Draw) -> list[ErrorSample]:
    return [
        *binary_errors(draw),
        ErrorSample(ArgumentError, "expected integer divisors other than 0", np.arange(3), np.arange(3)),
    ]


def _check_divisor(op: str, x: Any, y: Any) -> None:
    """Integers have no infinity to answer a division by zero with."""
    dtype = (x if isinstance(x, Tensor) else y).dtype
    if dtype not in FLOATS and not (y._array.all() if isinstance(y, Tensor) else y):
        raise ArgumentError.of(op, "integer divisors other than 0", "a zero")


@op(
    samples=_remainder_samples,
    oracle=lambda x, y: np.floor(np.divide(x, y)),
    flops=lambda z, x, y: z.size,
    methods=("floor_divide", "__floordiv__"),
    errors=_divisor_errors,
    differentiable=False,
)
def floor_divide(x: Any, y: Any) -> Tensor:
    """Quotient rounded towards minus infinity, with broadcasting; no gradient (it is 0 wherever it exists).

    Formula:
        z = floor(x / y)
    Shape:
        x and y broadcast against each other as in NumPy.
    Raises:
        ArgumentError: an integer division by zero.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.floor_divide(md.tensor([7, -7]), 2)
    tensor([ 3, -4])
    """
    x, y = operands("floor_divide", x, y)
    _check_divisor("floor_divide", x, y)
    return FloorDivide.apply(x, y)


class Remainder(Function):
    """z = x - floor(x / y) * y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        ctx.save(*((x, y) if ctx.needs[1] else (None, None)))
        return x % y

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y), (sx, sy) = ctx.saved, ctx.shapes
        return (sum_to(gz, sx) if ctx.needs[0] else None, sum_to(-gz * (x // y), sy) if ctx.needs[1] else None)


@op(
    samples=_remainder_samples,
    oracle=lambda x, y: x - np.floor(np.divide(x, y)) * y,
    flops=lambda z, x, y: z.size,
    methods=("remainder", "__mod__"),
    errors=_divisor_errors,
)
def remainder(x: Any, y: Any) -> Tensor:
    """What ``floor_divide`` leaves over, with the sign of y; with broadcasting.

    Formula:
        z = x - floor(x / y) * y
    Shape:
        x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dx = dL/dz; dL/dy = -dL/dz * floor(x / y), summed over repeated axes. It jumps where y divides x.
    Raises:
        ArgumentError: an integer division by zero.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.remainder(md.tensor([7, -7]), 3)
    tensor([1, 2])
    """
    x, y = operands("remainder", x, y)
    _check_divisor("remainder", x, y)
    return Remainder.apply(x, y)


class Absolute(Function):
    """y = |x|."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return xp_of(x).absolute(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return gy * xp_of(x).sign(x)


@op(
    samples=lambda draw: [Sample(draw.away(3, 4)), Sample(draw.away(), name="0-d"), Sample(draw.away(2, 0), name="empty")],
    oracle=lambda x: np.where(x < 0, -x, x),
    flops=lambda y, x: y.size,
    methods=("absolute", "abs", "__abs__"),
    errors=unary_errors,
)
def absolute(x: Any) -> Tensor:
    """Absolute value; ``md.abs`` is the same function.

    Formula:
        y = |x|
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * sign(x). At x = 0 the derivative does not exist; 0 is the choice made here (and in PyTorch).

    >>> import minidl as md
    >>> md.abs(md.tensor([-2.0, 3.0]))
    tensor([2., 3.])
    """
    return Absolute.apply(tensor("absolute", x))


abs = absolute


class Astype(Function):
    """y = x in another dtype."""

    @staticmethod
    def forward(ctx: Any, x: Array, dtype: np.dtype) -> Array:
        ctx.dtype = x.dtype
        return x.astype(dtype)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return gy.astype(ctx.dtype)


def number_dtype(op: str, dtype: Any) -> np.dtype:
    """A dtype that tensors have: float32, float64, integers or booleans."""
    try:
        result = np.dtype(dtype)
    except TypeError as error:
        raise DtypeError.of(op, "a dtype", repr(dtype)) from error
    if result not in FLOATS and result.kind not in "iub":
        raise DtypeError.of(op, "float32, float64, an integer dtype or bool", str(result))
    return result


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 4) * 9, "int64", grad=(), name="to integers"),
        Sample(draw.labels(3, classes=2), "bool", name="to booleans"),
    ],
    oracle=lambda x, dtype: np.trunc(x) if dtype == "int64" else np.array(x, dtype),
    methods=("astype",),
    errors=lambda draw: [
        ErrorSample(DtypeError, "expected float32, float64, an integer dtype or bool, got float16", draw.normal(2), "float16"),
        ErrorSample(DtypeError, "expected a dtype, got 'floaty'", draw.normal(2), "floaty"),
    ],
)
def astype(x: Any, dtype: Any) -> Tensor:
    """x in another dtype; x itself when it has it already.

    Formula:
        y = x; towards integers the fraction is cut off, towards bool everything but 0 becomes True
    Shape:
        any; y has x's shape.
    Gradient:
        dL/dx = dL/dy in x's dtype, between floating dtypes. Integers and booleans carry no gradient.
    Raises:
        DtypeError: a dtype that tensors do not have.

    >>> import minidl as md
    >>> md.astype(md.tensor([1.7, -1.7]), "int64")
    tensor([ 1, -1])
    """
    x, dtype = tensor("astype", x), number_dtype("astype", dtype)
    if x.dtype == dtype:
        return x
    return Astype.apply(x if dtype in FLOATS else x.detach(), dtype=dtype)


class Copy(Function):
    """y = x, in memory of its own."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return x.copy(order="K")

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return gy


@op(samples=unary_samples, oracle=lambda x: x + 0.0, methods=("copy", "clone"), errors=unary_errors)
def copy(x: Any) -> Tensor:
    """The same values in memory of their own; the gradient passes through (``detach().copy()`` stops it).

    Formula:
        y = x
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy

    >>> import minidl as md
    >>> w = md.tensor([1.0, 2.0], requires_grad=True)
    >>> w.copy().sum().backward()
    >>> w.grad
    tensor([1., 1.])
    """
    return Copy.apply(tensor("copy", x))
