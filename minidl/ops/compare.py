"""Comparison, logic and choice between values, with NumPy's broadcasting."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from minidl.backend import Array, is_array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import describe, tensor
from minidl.ops.elementwise import binary_errors, binary_samples, check_broadcast, operands, shape_of, unary_errors
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = [
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "clip",
    "equal",
    "greater",
    "greater_equal",
    "invert",
    "isfinite",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "maximum",
    "minimum",
    "not_equal",
    "where",
]


def _xp(x: Any, y: Any) -> ModuleType:
    return xp_of(x if is_array(x) else y)


# ---------------------------------------------------------------- comparisons


class Greater(Function):
    """z = x > y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x > y


class GreaterEqual(Function):
    """z = x >= y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x >= y


class Less(Function):
    """z = x < y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x < y


class LessEqual(Function):
    """z = x <= y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x <= y


class Equal(Function):
    """z = x == y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x == y


class NotEqual(Function):
    """z = x != y."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x != y


def _tied_samples(draw: Draw) -> list[Sample]:
    """The arithmetic samples, and small integers, many of them equal."""
    return [*binary_samples(draw), Sample(draw.labels(4, 5, classes=3), draw.labels(5, classes=3), name="ties")]


_comparison: dict[str, Any] = {"samples": _tied_samples, "errors": binary_errors, "differentiable": False}


@op(oracle=np.greater, methods=("greater", "__gt__"), **_comparison)
def greater(x: Any, y: Any) -> Tensor:
    """Where x > y, as booleans, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.greater(md.tensor([1.0, 2.0]), 1.5)
    tensor([False,  True])
    """
    return Greater.apply(*operands("greater", x, y))


@op(oracle=np.greater_equal, methods=("greater_equal", "__ge__"), **_comparison)
def greater_equal(x: Any, y: Any) -> Tensor:
    """Where x >= y, as booleans, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.greater_equal(md.tensor([1.0, 2.0]), 2)
    tensor([False,  True])
    """
    return GreaterEqual.apply(*operands("greater_equal", x, y))


@op(oracle=np.less, methods=("less", "__lt__"), **_comparison)
def less(x: Any, y: Any) -> Tensor:
    """Where x < y, as booleans, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.less(md.tensor([1.0, 2.0]), 1.5)
    tensor([ True, False])
    """
    return Less.apply(*operands("less", x, y))


@op(oracle=np.less_equal, methods=("less_equal", "__le__"), **_comparison)
def less_equal(x: Any, y: Any) -> Tensor:
    """Where x <= y, as booleans, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.less_equal(md.tensor([1.0, 2.0]), 1)
    tensor([ True, False])
    """
    return LessEqual.apply(*operands("less_equal", x, y))


@op(oracle=np.equal, methods=("equal",), **_comparison)
def equal(x: Any, y: Any) -> Tensor:
    """Where x == y, as booleans, with broadcasting; no gradient. NaN equals nothing.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.equal(md.tensor([1, 2, 3]), 2)
    tensor([False,  True, False])
    """
    return Equal.apply(*operands("equal", x, y))


@op(oracle=np.not_equal, methods=("not_equal",), **_comparison)
def not_equal(x: Any, y: Any) -> Tensor:
    """Where x != y, as booleans, with broadcasting; no gradient. NaN differs from everything.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.not_equal(md.tensor([1, 2, 3]), 2)
    tensor([ True, False,  True])
    """
    return NotEqual.apply(*operands("not_equal", x, y))


# ---------------------------------------------------------------- logic


class LogicalAnd(Function):
    """z = x and y, where everything but 0 counts as true."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return _xp(x, y).logical_and(x, y)


class LogicalOr(Function):
    """z = x or y, where everything but 0 counts as true."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return _xp(x, y).logical_or(x, y)


class LogicalNot(Function):
    """y = not x, where everything but 0 counts as true."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return xp_of(x).logical_not(x)


class BitwiseAnd(Function):
    """z = x & y, bit by bit."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x & y


class BitwiseOr(Function):
    """z = x | y, bit by bit."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x | y


class BitwiseXor(Function):
    """z = x ^ y, bit by bit."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        return x ^ y


class Invert(Function):
    """y = ~x, bit by bit."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return ~x


def _logical_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.labels(4, 5, classes=2) == 1, draw.labels(5, classes=2) == 1),
        Sample(draw.labels(4, 5, classes=4), draw.labels(4, 1, classes=4), name="integers"),
        Sample(draw.labels(4, classes=2) == 1, True, name="number"),
    ]


def _bitwise_errors(draw: Draw) -> list[ErrorSample]:
    return [
        *binary_errors(draw),
        ErrorSample(DtypeError, "expected integers or booleans, got float64", draw.normal(2), draw.normal(2)),
    ]


_logical: dict[str, Any] = {"samples": _logical_samples, "errors": binary_errors, "differentiable": False}
_bitwise: dict[str, Any] = {"samples": _logical_samples, "errors": _bitwise_errors, "differentiable": False}


@op(oracle=np.logical_and, methods=("logical_and",), **_logical)
def logical_and(x: Any, y: Any) -> Tensor:
    """Where x and y are both other than 0, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.logical_and(md.tensor([0, 1, 2]), md.tensor([1, 1, 0]))
    tensor([False,  True, False])
    """
    return LogicalAnd.apply(*operands("logical_and", x, y))


@op(oracle=np.logical_or, methods=("logical_or",), **_logical)
def logical_or(x: Any, y: Any) -> Tensor:
    """Where x or y is other than 0, with broadcasting; no gradient.

    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.logical_or(md.tensor([0, 1, 2]), md.tensor([0, 1, 0]))
    tensor([False,  True,  True])
    """
    return LogicalOr.apply(*operands("logical_or", x, y))


@op(
    samples=lambda draw: [Sample(draw.labels(3, 4, classes=2))],
    oracle=lambda x: x == 0,
    methods=("logical_not",),
    errors=unary_errors,
    differentiable=False,
)
def logical_not(x: Any) -> Tensor:
    """Where x is 0 or False; no gradient.

    >>> import minidl as md
    >>> md.logical_not(md.tensor([True, False]))
    tensor([False,  True])
    """
    return LogicalNot.apply(tensor("logical_not", x))


def _bits(op: str, *values: Any) -> tuple:
    """Refuse floats, which have no bits to combine."""
    for value in values:
        if (isinstance(value, Tensor) and value.dtype.kind == "f") or type(value) is float:
            raise DtypeError.of(op, "integers or booleans", describe(value), "Compare first: (x > 0) & (y > 0).")
    return values


@op(oracle=np.bitwise_and, methods=("bitwise_and", "__and__", "__rand__"), **_bitwise)
def bitwise_and(x: Any, y: Any) -> Tensor:
    """x & y: logical and of booleans, bit by bit for integers; no gradient.

    Raises:
        DtypeError: floats, which have no bits to combine.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> x = md.tensor([0.5, 1.5, 2.5])
    >>> (x > 1) & (x < 2)
    tensor([False,  True, False])
    """
    return BitwiseAnd.apply(*_bits("bitwise_and", *operands("bitwise_and", x, y)))


@op(oracle=np.bitwise_or, methods=("bitwise_or", "__or__", "__ror__"), **_bitwise)
def bitwise_or(x: Any, y: Any) -> Tensor:
    """x | y: logical or of booleans, bit by bit for integers; no gradient.

    Raises:
        DtypeError: floats, which have no bits to combine.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> x = md.tensor([0.5, 1.5, 2.5])
    >>> (x < 1) | (x > 2)
    tensor([ True, False,  True])
    """
    return BitwiseOr.apply(*_bits("bitwise_or", *operands("bitwise_or", x, y)))


@op(oracle=np.bitwise_xor, methods=("bitwise_xor", "__xor__", "__rxor__"), **_bitwise)
def bitwise_xor(x: Any, y: Any) -> Tensor:
    """x ^ y: exclusive or of booleans, bit by bit for integers; no gradient.

    Raises:
        DtypeError: floats.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> x = md.tensor([0.5, 1.5, 2.5])
    >>> (x > 1) ^ (x > 2)
    tensor([False,  True, False])
    """
    return BitwiseXor.apply(*_bits("bitwise_xor", *operands("bitwise_xor", x, y)))


@op(
    samples=lambda draw: [Sample(draw.labels(3, 4, classes=2) == 1), Sample(draw.labels(3, classes=9), name="integers")],
    oracle=lambda x: x ^ np.array(-1 if x.dtype.kind == "i" else True),
    methods=("invert", "__invert__"),
    errors=lambda draw: [ErrorSample(DtypeError, "expected integers or booleans, got float64", draw.normal(2))],
    differentiable=False,
)
def invert(x: Any) -> Tensor:
    """~x: logical not of booleans, bit by bit for integers; no gradient.

    Raises:
        DtypeError: floats, which have no bits to combine.

    >>> import minidl as md
    >>> ~(md.tensor([0.5, 1.5]) > 1)
    tensor([ True, False])
    """
    return Invert.apply(*_bits("invert", tensor("invert", x)))


class Isnan(Function):
    """y = whether x is NaN."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return xp_of(x).isnan(x)


class Isfinite(Function):
    """y = whether x is neither NaN nor infinite."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        return xp_of(x).isfinite(x)


def _special(draw: Draw) -> list[Sample]:
    return [Sample(np.array([[1.0, np.nan, np.inf], [-np.inf, 0.0, -2.0]])), Sample(draw.labels(3, classes=2), name="integers")]


@op(samples=_special, oracle=lambda x: x != x, methods=("isnan",), errors=unary_errors, differentiable=False)
def isnan(x: Any) -> Tensor:
    """Where x is NaN; no gradient.

    >>> import minidl as md
    >>> md.isnan(md.tensor([1.0, float("nan")]))
    tensor([False,  True])
    """
    return Isnan.apply(tensor("isnan", x))


@op(samples=_special, oracle=lambda x: np.abs(x) < np.inf, methods=("isfinite",), errors=unary_errors, differentiable=False)
def isfinite(x: Any) -> Tensor:
    """Where x is neither NaN nor infinite; no gradient.

    >>> import minidl as md
    >>> md.isfinite(md.tensor([1.0, float("nan"), float("inf")]))
    tensor([ True, False, False])
    """
    return Isfinite.apply(tensor("isfinite", x))


# ---------------------------------------------------------------- choice


def _to_winner(gz: Array, lost: Array, tied: Array) -> Array:
    """Nothing where the operand lost, half where both are equal, else (also beside a NaN) everything."""
    xp = xp_of(gz)
    return xp.where(tied, gz * gz.dtype.type(0.5), xp.where(lost, gz.dtype.type(0), gz))


class Maximum(Function):
    """z = the larger of x and y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        ctx.save(x, y)
        return _xp(x, y).maximum(x, y)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y), (sx, sy) = ctx.saved, ctx.shapes
        gx = sum_to(_to_winner(gz, x < y, x == y), sx) if ctx.needs[0] else None
        gy = sum_to(_to_winner(gz, y < x, x == y), sy) if ctx.needs[1] else None
        return gx, gy


class Minimum(Function):
    """z = the smaller of x and y."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        ctx.save(x, y)
        return _xp(x, y).minimum(x, y)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        (x, y), (sx, sy) = ctx.saved, ctx.shapes
        gx = sum_to(_to_winner(gz, x > y, x == y), sx) if ctx.needs[0] else None
        gy = sum_to(_to_winner(gz, y > x, x == y), sy) if ctx.needs[1] else None
        return gx, gy


def _distinct_samples(draw: Draw) -> list[Sample]:
    a = draw.distinct(4, 6)
    return [
        Sample(a[:2], a[2:]),
        Sample(a[:2, None], a[2:3, :1], name="broadcast"),
        Sample(draw.away(3, 4), 0.0, name="number"),
        Sample(0.0, draw.away(3, 4), name="number first"),
        Sample(draw.normal(0, 3), draw.normal(3), name="empty"),
    ]


@op(
    samples=_distinct_samples,
    oracle=lambda x, y: np.where(np.greater(x, y), x, y),
    flops=lambda z, x, y: z.size,
    methods=("maximum",),
    errors=binary_errors,
)
def maximum(x: Any, y: Any) -> Tensor:
    """The larger of two, element by element, with broadcasting. (``max`` is the largest of one tensor.)

    Formula:
        z = max(x, y)
    Gradient:
        dL/dz goes to the larger; where both are equal, half goes to each.
    Notes:
        NaN if either is NaN.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.maximum(md.tensor([1.0, 5.0]), 3)
    tensor([3., 5.])
    """
    return Maximum.apply(*operands("maximum", x, y))


@op(
    samples=_distinct_samples,
    oracle=lambda x, y: np.where(np.less(x, y), x, y),
    flops=lambda z, x, y: z.size,
    methods=("minimum",),
    errors=binary_errors,
)
def minimum(x: Any, y: Any) -> Tensor:
    """The smaller of two, element by element, with broadcasting. (``min`` is the smallest of one tensor.)

    Formula:
        z = min(x, y)
    Gradient:
        dL/dz goes to the smaller; where both are equal, half goes to each.
    Notes:
        NaN if either is NaN.
    Raises:
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> md.minimum(md.tensor([1.0, 5.0]), 3)
    tensor([1., 3.])
    """
    return Minimum.apply(*operands("minimum", x, y))


class Clip(Function):
    """y = x, but low where x is lower and high where x is higher."""

    @staticmethod
    def forward(ctx: Any, x: Array, low: Any, high: Any) -> Array:
        ctx.shapes = x.shape, shape_of(low), shape_of(high)
        ctx.save(x, low, high)
        return xp_of(x).clip(x, low, high)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, low, high = ctx.saved
        xp, zero = xp_of(x), gy.dtype.type(0)
        low, high = -np.inf if low is None else low, np.inf if high is None else high
        sources = ((x >= low) & (x <= high), (x < low) & (low < high), (x > high) | (high < low))
        return tuple(
            sum_to(xp.where(source, gy, zero), shape) if needed else None
            for source, shape, needed in zip(sources, ctx.shapes, ctx.needs)
        )


def _clip_samples(draw: Draw) -> list[Sample]:
    x = draw.away(3, 4, points=(-1.0, 1.0))
    return [
        Sample(x, -1.0, 1.0),
        Sample(x, min=-1.0, name="low only"),
        Sample(x, max=1, name="high only"),
        Sample(x, 1.0, -1.0, name="crossed"),
        Sample(x, draw.uniform(4, low=-1.05, high=-0.95), draw.uniform(3, 1, low=0.95, high=1.05), name="tensor bounds"),
        Sample(x, np.full((4,), 1.05), np.full((3, 1), -0.95), name="crossed tensors"),
    ]


@op(
    samples=_clip_samples,
    oracle=lambda x, min=-np.inf, max=np.inf: np.minimum(np.maximum(x, min), max),
    flops=lambda y, x, low, high: 2 * y.size,
    methods=("clip",),
    errors=lambda draw: [
        ErrorSample(DtypeError, "clip: expected x as a tensor", "text", 0.0),
        ErrorSample(ArgumentError, "clip: expected min or max", draw.normal(3)),
        ErrorSample(ShapeError, "clip: expected shapes that broadcast", draw.normal(3), draw.normal(2)),
    ],
)
def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """x, held between min and max.

    Formula:
        y = min(max(x, low), high)
    Shape:
        The bounds are numbers or tensors that broadcast with x; None leaves a side open.
    Gradient:
        dL/dx = dL/dy where low <= x <= high, else 0; where x is outside, dL/dy goes to the bound that holds it.
    Notes:
        NaN stays NaN and passes no gradient. Where low > high, y = high.
    Raises:
        ArgumentError: neither bound given.
        ShapeError: bounds that do not broadcast with x.

    >>> import minidl as md
    >>> md.clip(md.tensor([-2.0, 0.5, 7.0]), 0, 6)
    tensor([0. , 0.5, 6. ])
    """
    if min is None and max is None:
        raise ArgumentError.of("clip", "min or max", "neither")
    x = tensor("clip", x)
    if min is not None:
        x, min = operands("clip", x, min if type(min) in (int, float) else tensor("clip", min, "min"))
    if max is not None:
        x, max = operands("clip", x, max if type(max) in (int, float) else tensor("clip", max, "max"))
    if isinstance(min, Tensor) and isinstance(max, Tensor):
        min, max = operands("clip", min, max)
    return Clip.apply(x, min, max)


class Where(Function):
    """z = x where condition holds, else y."""

    @staticmethod
    def forward(ctx: Any, condition: Array, x: Any, y: Any) -> Array:
        ctx.shapes = shape_of(x), shape_of(y)
        ctx.save(condition)
        dtype = (x if is_array(x) else y).dtype.type
        return xp_of(condition).where(condition, x if is_array(x) else dtype(x), y if is_array(y) else dtype(y))

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        ((condition,), (sx, sy)), zero = (ctx.saved, ctx.shapes), gz.dtype.type(0)
        where = xp_of(gz).where
        gx = sum_to(where(condition, gz, zero), sx) if ctx.needs[1] else None
        gy = sum_to(where(condition, zero, gz), sy) if ctx.needs[2] else None
        return None, gx, gy


def _where_samples(draw: Draw) -> list[Sample]:
    mask = draw.normal(3, 4) > 0
    return [
        Sample(mask, draw.normal(3, 4), draw.normal(3, 4)),
        Sample(mask[:1], draw.normal(2, 1, 4), draw.normal(3, 1), name="broadcast"),
        Sample(mask, draw.normal(4), 0.0, name="number"),
        Sample(mask, -1, draw.normal(4), name="number first"),
        Sample(mask, draw.labels(4, classes=3), draw.labels(4, classes=3), name="integers"),
    ]


@op(
    samples=_where_samples,
    oracle=lambda condition, x, y: condition * np.asarray(x) + ~condition * np.asarray(y),
    methods=(),
    errors=lambda draw: [
        ErrorSample(DtypeError, "where: expected condition of booleans, got float64", draw.normal(2), draw.normal(2), 0.0),
        ErrorSample(
            ShapeError, r"where: expected shapes that broadcast, got \(2,\) and \(3,\)", draw.normal(2) > 0, draw.normal(3), 0.0
        ),
    ],
)
def where(condition: Any, x: Any, y: Any) -> Tensor:
    """x where a condition holds, else y, with broadcasting.

    Formula:
        z = x where condition, else y
    Shape:
        condition, x and y broadcast against each other as in NumPy.
    Gradient:
        dL/dz goes to x where the condition holds and to y where it does not.
    Notes:
        The value not chosen does not matter, not even NaN, but its own derivative may: where x = 0,
        ``md.where(x > 0, x.sqrt(), 0)`` has the gradient 0 * inf = NaN; make x harmless first.
    Raises:
        DtypeError: a condition that is not boolean.
        ShapeError: shapes that do not broadcast.

    >>> import minidl as md
    >>> x = md.tensor([-1.0, 2.0])
    >>> md.where(x > 0, x, 0.1 * x)
    tensor([-0.1,  2. ])
    """
    condition = tensor("where", condition, "condition")
    if condition.dtype.kind != "b":
        raise DtypeError.of("where", "condition of booleans", describe(condition), "Compare first, for example with x > 0.")
    x, y = operands("where", x, y)
    for value in (x, y):
        if isinstance(value, Tensor):
            check_broadcast("where", condition.shape, value.shape)
    return Where.apply(condition, x, y)
