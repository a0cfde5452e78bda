"""Reductions: sums, extremes and statistics along axes. Names are NumPy's and hide Python's own in this file."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.ops._arguments import axes_tuple, axis_index, float_tensor, integer, tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["all", "any", "argmax", "argmin", "cumsum", "logsumexp", "max", "mean", "min", "prod", "std", "sum", "var"]


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a reduction with keepdims."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many elements go into one result."""
    return math.prod(shape[axis] for axis in axes)


def _spread(g: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """g, one value per result, seen from every element that went into the result; a view."""
    g = g.reshape(_kept(shape, axes))
    return g if g.shape == shape else xp_of(g).broadcast_to(g, shape)


def _samples(draw: Draw) -> list[Sample]:
    """Every form of axis and keepdims, one element, no element."""
    x = draw.distinct(2, 3, 4)
    return [
        Sample(x),
        Sample(x, 1, name="axis"),
        Sample(x, axis=-1, keepdims=True, name="keepdims"),
        Sample(x, axis=(2, 0), name="axes"),
        Sample(x, axis=(0, 1, 2), keepdims=True, name="all axes"),
        Sample(draw.normal(), name="0-d"),
        Sample(draw.normal(0, 3), axis=1, name="no rows"),
    ]


def _samples_with_empty(draw: Draw) -> list[Sample]:
    return [*_samples(draw), Sample(draw.normal(0, 3), axis=0, name="empty")]


def _errors(draw: Draw) -> list[ErrorSample]:
    return [
        ErrorSample(ArgumentError, "expected axis from -2 to 1 for 2 axes, got 2", draw.normal(2, 3), 2),
        ErrorSample(ArgumentError, "expected every axis once", draw.normal(2, 3), (0, -2)),
        ErrorSample(DtypeError, "expected axis as an integer", draw.normal(2, 3), 0.5),
    ]


def _empty_errors(draw: Draw) -> list[ErrorSample]:
    hole = ErrorSample(
        ShapeError, r"expected at least one element along the axes, got shape \(0, 3\)", np.empty((0, 3)), axis=0
    )
    return [*_errors(draw), hole]


def _check_some(op: str, x: Tensor, axes: tuple[int, ...]) -> None:
    if _count(x.shape, axes) == 0:
        raise ShapeError.of(
            op, "at least one element along the axes", f"shape {x.shape}", "The extreme of nothing is not defined."
        )


# ---------------------------------------------------------------- sums and products


class Sum(Function):
    """y = sum of x over axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        ctx.shape, ctx.axes = x.shape, axes
        return x.sum(axes, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.int64)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return _spread(gy, ctx.shape, ctx.axes)


@op(
    samples=_samples_with_empty,
    oracle=lambda x, axis=None, keepdims=False: np.add.reduce(x, axis, keepdims=keepdims),
    flops=lambda y, x, axes, keepdims: x.size,
    methods=("sum",),
    errors=_errors,
)
def sum(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Sum over one axis, several, or all of them (None).

    Formula:
        y = sum_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy
    Notes:
        The sum of nothing is 0. Integers and booleans give int64.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.sum(md.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    x = tensor("sum", x)
    return Sum.apply(x, axes=axes_tuple("sum", axis, x.ndim), keepdims=keepdims)


class Mean(Function):
    """y = mean of x over axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        ctx.shape, ctx.axes = x.shape, axes
        return x.sum(axes, keepdims=keepdims) / _count(x.shape, axes)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return _spread(gy / _count(ctx.shape, ctx.axes), ctx.shape, ctx.axes)


@op(
    samples=_samples,
    oracle=lambda x, axis=None, keepdims=False: np.average(x, axis, keepdims=keepdims) if x.size else np.empty(0),
    flops=lambda y, x, axes, keepdims: x.size,
    methods=("mean",),
    errors=_errors,
)
def mean(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over one axis, several, or all of them (None).

    Formula:
        y = (1/n) sum_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy / n
    Notes:
        The mean of nothing is NaN, without a warning. Integers become the default floating dtype.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.mean(md.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([2., 3.])
    """
    x = float_tensor("mean", x)
    return Mean.apply(x, axes=axes_tuple("mean", axis, x.ndim), keepdims=keepdims)


class Prod(Function):
    """y = product of x over axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        ctx.axes = axes
        ctx.save(x)
        return x.prod(axes, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.int64)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        """The product of all others: those before times those after, so that zeros need no division."""
        (x,) = ctx.saved
        xp, axes = xp_of(x), ctx.axes
        order = (*(i for i in range(x.ndim) if i not in axes), *axes)
        rows = x.transpose(order).reshape(*(x.shape[i] for i in range(x.ndim) if i not in axes), _count(x.shape, axes))
        before, after = xp.ones_like(rows), xp.ones_like(rows)
        before[..., 1:] = xp.cumprod(rows[..., :-1], -1)
        after[..., :-1] = xp.cumprod(rows[..., :0:-1], -1)[..., ::-1]
        others = (before * after).reshape(tuple(x.shape[i] for i in order)).transpose(np.argsort(order).tolist())
        return others * _spread(gy, x.shape, axes)


@op(
    samples=lambda draw: [
        *_samples_with_empty(draw),
        Sample(np.array([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0], [1.0, -2.0, 5.0]]), 1, name="zeros"),
    ],
    oracle=lambda x, axis=None, keepdims=False: np.multiply.reduce(x, axis, keepdims=keepdims),
    flops=lambda y, x, axes, keepdims: x.size,
    methods=("prod",),
    errors=_errors,
)
def prod(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Product over one axis, several, or all of them (None).

    Formula:
        y = product_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy * product of all x_j with j != i, right also where some are 0.
    Notes:
        The product of nothing is 1. Integers and booleans give int64.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.prod(md.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([3., 8.])
    """
    x = tensor("prod", x)
    return Prod.apply(x, axes=axes_tuple("prod", axis, x.ndim), keepdims=keepdims)


class Cumsum(Function):
    """y_i = x_0 + ... + x_i."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        ctx.axis = axis
        return xp_of(x).cumsum(x, axis, dtype=None if x.dtype.kind == "f" else np.int64)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        xp = xp_of(gy)
        return xp.flip(xp.cumsum(xp.flip(gy, ctx.axis), ctx.axis), ctx.axis)


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 4), 1),
        Sample(draw.normal(2, 3, 2), axis=0),
        Sample(draw.normal(0, 3), axis=0, name="empty"),
    ],
    oracle=lambda x, axis: np.add.accumulate(x, axis),
    flops=lambda y, x, axis: x.size,
    methods=("cumsum",),
    errors=lambda draw: [ErrorSample(ArgumentError, "expected axis from -1 to 0", draw.normal(3), 1)],
)
def cumsum(x: Any, axis: int) -> Tensor:
    """Running sum along an axis.

    Formula:
        y_i = x_0 + x_1 + ... + x_i
    Shape:
        y has x's shape.
    Gradient:
        dL/dx_i = dL/dy_i + dL/dy_(i+1) + ... to the end.
    Notes:
        Integers and booleans give int64.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.cumsum(md.tensor([1.0, 2.0, 3.0]), axis=0)
    tensor([1., 3., 6.])
    """
    x = tensor("cumsum", x)
    return Cumsum.apply(x, axis=axis_index("cumsum", axis, x.ndim))


# ---------------------------------------------------------------- statistics


class Var(Function):
    """y = mean squared distance from the mean."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool, ddof: int) -> Array:
        n = _count(x.shape, axes)
        mean = x.sum(axes, keepdims=True) / n
        d = x - mean
        ctx.axes, ctx.dof = axes, builtins.max(n - ddof, 0)
        ctx.save(x, mean)
        return (d * d).sum(axes, keepdims=keepdims) / ctx.dof

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        x, mean = ctx.saved
        return (x - mean) * _spread(gy * gy.dtype.type(2) / ctx.dof, x.shape, ctx.axes)


def _spread_samples(draw: Draw) -> list[Sample]:
    return [*_samples(draw)[:5], Sample(draw.normal(3, 4), 0, ddof=1, name="ddof")]


def _spread_errors(draw: Draw) -> list[ErrorSample]:
    return [*_errors(draw), ErrorSample(DtypeError, "expected ddof as an integer, got 0.5", draw.normal(3), ddof=0.5)]


def _variance(x: np.ndarray, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> np.ndarray:
    """The mean of the squares minus the square of the mean."""
    n = x.size // np.add.reduce(x, axis).size
    moments = [np.sum(p, axis=axis, keepdims=keepdims) / n for p in (x, x * x)]
    return (moments[1] - moments[0] ** 2) * n / (n - ddof)


@op(samples=_spread_samples, oracle=_variance, flops=lambda y, x, **_: 4 * x.size, methods=("var",), errors=_spread_errors)
def var(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """Variance over one axis, several, or all of them (None).

    Formula:
        y = sum_i (x_i - mean)^2 / (n - ddof)
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy * 2 (x_i - mean) / (n - ddof)
    Notes:
        ``ddof=0`` divides by n, as NumPy and batch norm do; ``ddof=1`` by n - 1, as torch.var does.
        NaN when n <= ddof, without a warning. Integers become the default floating dtype.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.var(md.tensor([1.0, 3.0, 5.0]), ddof=1)
    tensor(4.)
    """
    x = float_tensor("var", x)
    return Var.apply(x, axes=axes_tuple("var", axis, x.ndim), keepdims=keepdims, ddof=integer("var", "ddof", ddof, 0))


class Std(Function):
    """y = square root of the variance."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool, ddof: int) -> Array:
        n = _count(x.shape, axes)
        mean = x.sum(axes, keepdims=True) / n
        d = x - mean
        ctx.axes, ctx.dof = axes, builtins.max(n - ddof, 0)
        y = xp_of(x).sqrt((d * d).sum(axes, keepdims=keepdims) / ctx.dof)
        ctx.save(x, mean, y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        x, mean, y = ctx.saved
        scale = xp_of(x).where(y == 0, gy.dtype.type(0), gy / (y * ctx.dof))
        return (x - mean) * _spread(scale, x.shape, ctx.axes)


@op(
    samples=_spread_samples,
    oracle=lambda *args, **kwargs: _variance(*args, **kwargs) ** 0.5,
    flops=lambda y, x, **_: 4 * x.size,
    methods=("std",),
    errors=_spread_errors,
)
def std(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """Standard deviation over one axis, several, or all of them (None).

    Formula:
        y = ( sum_i (x_i - mean)^2 / (n - ddof) )^(1/2)
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy * (x_i - mean) / ((n - ddof) y). Where all x_i are equal the derivative does not exist;
        0 is the choice made here (and in PyTorch).
    Notes:
        ``ddof=0`` divides by n, as NumPy does; ``ddof=1`` by n - 1, as torch.std does.
        NaN when n <= ddof, without a warning. Integers become the default floating dtype.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.std(md.tensor([1.0, 3.0, 5.0]), ddof=1)
    tensor(2.)
    """
    x = float_tensor("std", x)
    return Std.apply(x, axes=axes_tuple("std", axis, x.ndim), keepdims=keepdims, ddof=integer("std", "ddof", ddof, 0))


class Logsumexp(Function):
    """y = log of the sum of e^x."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        xp = xp_of(x)
        shift = x.max(axes, keepdims=True) if x.size else x.sum(axes, keepdims=True)
        shift = xp.where(xp.isfinite(shift), shift, x.dtype.type(0))
        y = xp.log(xp.exp(x - shift).sum(axes, keepdims=True)) + shift
        ctx.axes = axes
        ctx.save(x, y)
        return y if keepdims else y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        x, y = ctx.saved
        xp = xp_of(x)
        y = xp.where(y == -np.inf, x.dtype.type(0), y)  # -inf - (-inf) would be NaN
        return xp.exp(x - y) * _spread(gy, x.shape, ctx.axes)


@op(
    samples=lambda draw: [
        *_samples(draw),
        Sample(draw.normal(0, 3), axis=0, grad=(), name="empty"),
        Sample(draw.normal(2, 3) + 500.0, 1, name="large"),
    ],
    oracle=lambda x, axis=None, keepdims=False: np.logaddexp.reduce(x, axis, keepdims=keepdims),
    flops=lambda y, x, axes, keepdims: 3 * x.size,
    methods=("logsumexp",),
    errors=_errors,
)
def logsumexp(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials, without overflow.

    Formula:
        y = log sum_i e^(x_i) = m + log sum_i e^(x_i - m)    with m = max_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dx_i = dL/dy * e^(x_i - y), the softmax of x.
    Notes:
        Of nothing, or where every x_i is -inf: -inf, with gradient 0. Integers become the default floating dtype.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> round(md.logsumexp(md.tensor([1000.0, 1001.0])).item(), 2)
    1001.31
    """
    x = float_tensor("logsumexp", x)
    return Logsumexp.apply(x, axes=axes_tuple("logsumexp", axis, x.ndim), keepdims=keepdims)


# ---------------------------------------------------------------- extremes


def _to_extremes(ctx: Any, gy: Array) -> Array:
    """gy in equal parts to every element that equals the result."""
    x, y = ctx.saved
    tied = x == y.reshape(_kept(x.shape, ctx.axes))
    share = gy.reshape(_kept(x.shape, ctx.axes)) / tied.sum(ctx.axes, keepdims=True).astype(gy.dtype)
    return tied * share


class Max(Function):
    """y = largest of x over axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        y = x.max(axes, keepdims=keepdims)
        ctx.axes = axes
        ctx.save(x, y)
        return y

    backward = staticmethod(_to_extremes)


class Min(Function):
    """y = smallest of x over axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        y = x.min(axes, keepdims=keepdims)
        ctx.axes = axes
        ctx.save(x, y)
        return y

    backward = staticmethod(_to_extremes)


@op(
    samples=_samples,
    oracle=lambda x, axis=None, keepdims=False: np.maximum.reduce(x, axis, keepdims=keepdims),
    flops=lambda y, x, axes, keepdims: x.size,
    methods=("max",),
    errors=_empty_errors,
)
def max(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Largest value over one axis, several, or all of them (None). (``maximum`` compares two tensors.)

    Formula:
        y = max_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dy goes to the largest x_i; where k of them are equally large, each gets dL/dy / k (as in torch.amax).
    Notes:
        NaN if any x_i is NaN, in the gradient too.
    Raises:
        ArgumentError: an axis that x does not have.
        ShapeError: no elements along the axes.

    >>> import minidl as md
    >>> md.max(md.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([5., 4.])
    """
    x = tensor("max", x)
    axes = axes_tuple("max", axis, x.ndim)
    _check_some("max", x, axes)
    return Max.apply(x, axes=axes, keepdims=keepdims)


@op(
    samples=_samples,
    oracle=lambda x, axis=None, keepdims=False: np.minimum.reduce(x, axis, keepdims=keepdims),
    flops=lambda y, x, axes, keepdims: x.size,
    methods=("min",),
    errors=_empty_errors,
)
def min(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Smallest value over one axis, several, or all of them (None). (``minimum`` compares two tensors.)

    Formula:
        y = min_i x_i
    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Gradient:
        dL/dy goes to the smallest x_i; where k of them are equally small, each gets dL/dy / k (as in torch.amin).
    Notes:
        NaN if any x_i is NaN, in the gradient too.
    Raises:
        ArgumentError: an axis that x does not have.
        ShapeError: no elements along the axes.

    >>> import minidl as md
    >>> md.min(md.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([1., 3.])
    """
    x = tensor("min", x)
    axes = axes_tuple("min", axis, x.ndim)
    _check_some("min", x, axes)
    return Min.apply(x, axes=axes, keepdims=keepdims)


class Argmax(Function):
    """y = position of the largest x."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int | None, keepdims: bool) -> Array:
        return _position(xp_of(x).argmax(x, axis), x, axis, keepdims)


class Argmin(Function):
    """y = position of the smallest x."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int | None, keepdims: bool) -> Array:
        return _position(xp_of(x).argmin(x, axis), x, axis, keepdims)


def _position(y: Array, x: Array, axis: int | None, keepdims: bool) -> Array:
    y = y.astype(np.int64)
    axes = tuple(range(x.ndim)) if axis is None else (axis,)
    return y.reshape(_kept(x.shape, axes)) if keepdims else y


def _position_samples(draw: Draw) -> list[Sample]:
    x = draw.distinct(3, 4)
    ties = draw.labels(4, 5, classes=2)
    samples = [
        Sample(x),
        Sample(x, 0),
        Sample(x, axis=-1, keepdims=True),
        Sample(x, keepdims=True),
        Sample(ties, 1, name="ties"),
    ]
    return [*samples, Sample(np.array([[1.0, np.nan, 2.0, np.nan]]), 1, name="NaN")]


def _position_oracle(pick: Callable[[Any], Any]) -> Callable[..., np.ndarray]:
    """Row by row in Python."""

    def position(row: np.ndarray) -> int:
        nans = np.flatnonzero(row != row)
        return int(nans[0]) if nans.size else list(row).index(pick(row))

    def oracle(x: np.ndarray, axis: int | None = None, keepdims: bool = False) -> np.ndarray:
        y = np.array(position(x.reshape(-1))) if axis is None else np.apply_along_axis(position, axis, x)
        return y.reshape(_kept(x.shape, tuple(range(x.ndim)) if axis is None else (axis % x.ndim,))) if keepdims else y

    return oracle


def _searched(op: str, x: Any, axis: Any) -> tuple[Tensor, int | None]:
    x = tensor(op, x)
    axis = None if axis is None else axis_index(op, axis, x.ndim)
    _check_some(op, x, tuple(range(x.ndim)) if axis is None else (axis,))
    return x, axis


@op(
    samples=_position_samples,
    oracle=_position_oracle(builtins.max),
    methods=("argmax",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, "argmax: expected axis from -2 to 1", draw.normal(2, 3), 2),
        ErrorSample(ShapeError, "argmax: expected at least one element", np.empty((0, 3)), 0),
    ],
    differentiable=False,
)
def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position of the largest value along an axis (None: in the flattened tensor), as int64; no gradient.

    Shape:
        x's shape without the reduced axis; with keepdims it stays, of size 1.
    Notes:
        The first of several equal ones; the first NaN if there is one.
    Raises:
        ArgumentError: an axis that x does not have.
        ShapeError: no elements along the axis.

    >>> import minidl as md
    >>> md.argmax(md.tensor([[1.0, 5.0], [6.0, 4.0]]), axis=1)
    tensor([1, 0])
    """
    x, axis = _searched("argmax", x, axis)
    return Argmax.apply(x, axis=axis, keepdims=keepdims)


@op(
    samples=_position_samples,
    oracle=_position_oracle(builtins.min),
    methods=("argmin",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, "argmin: expected axis from -2 to 1", draw.normal(2, 3), 2),
        ErrorSample(ShapeError, "argmin: expected at least one element", np.empty((0, 3)), 0),
    ],
    differentiable=False,
)
def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position of the smallest value along an axis (None: in the flattened tensor), as int64; no gradient.

    Shape:
        x's shape without the reduced axis; with keepdims it stays, of size 1.
    Notes:
        The first of several equal ones; the first NaN if there is one.
    Raises:
        ArgumentError: an axis that x does not have.
        ShapeError: no elements along the axis.

    >>> import minidl as md
    >>> md.argmin(md.tensor([[1.0, 5.0], [6.0, 4.0]]), axis=1)
    tensor([0, 1])
    """
    x, axis = _searched("argmin", x, axis)
    return Argmin.apply(x, axis=axis, keepdims=keepdims)


# ---------------------------------------------------------------- logic


class AllTrue(Function):
    """y = whether every x is other than 0."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return x.all(axes, keepdims=keepdims)


class AnyTrue(Function):
    """y = whether one x or more is other than 0."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return x.any(axes, keepdims=keepdims)


def _truth_samples(draw: Draw) -> list[Sample]:
    x = draw.labels(3, 2, 2, classes=2)
    calls = [Sample(x), Sample(x == 1, 1), Sample(x, axis=(0, -1), keepdims=True)]
    return [*calls, Sample(np.empty((0, 2)), axis=0, name="empty"), Sample(np.array([np.nan, 1.0]), name="NaN")]


@op(
    samples=_truth_samples,
    oracle=lambda x, axis=None, keepdims=False: np.logical_and.reduce(x != 0, axis, keepdims=keepdims),
    methods=("all",),
    errors=_errors,
    differentiable=False,
)
def all(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Whether every element along the axes is other than 0; no gradient. True for no elements.

    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.all(md.tensor([[True, False], [True, True]]), axis=1)
    tensor([False,  True])
    """
    x = tensor("all", x)
    return AllTrue.apply(x, axes=axes_tuple("all", axis, x.ndim), keepdims=keepdims)


@op(
    samples=_truth_samples,
    oracle=lambda x, axis=None, keepdims=False: np.logical_or.reduce(x != 0, axis, keepdims=keepdims),
    methods=("any",),
    errors=_errors,
    differentiable=False,
)
def any(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Whether an element along the axes is other than 0; no gradient. False for no elements.

    Shape:
        x's shape without the reduced axes; with keepdims they stay, of size 1.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.any(md.tensor([[True, False], [False, False]]), axis=1)
    tensor([ True, False])
    """
    x = tensor("any", x)
    return AnyTrue.apply(x, axes=axes_tuple("any", axis, x.ndim), keepdims=keepdims)
