"""Operations that move elements and leave their values alone.

Several results are views of their input. That is safe because an array that anybody else can see is
never written to: see ``Tensor.writable``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import axes_tuple, axis_index, choice, describe, integer, number, tensor
from minidl.ops.elementwise import common_float
from minidl.registry import ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = [
    "broadcast_to",
    "concatenate",
    "expand_dims",
    "flatten",
    "flip",
    "moveaxis",
    "pad",
    "reshape",
    "squeeze",
    "stack",
    "swapaxes",
    "transpose",
]


def _sizes(op: str, sizes: tuple) -> tuple[int, ...]:
    """``reshape(x, 2, 3)`` and ``reshape(x, (2, 3))`` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return tuple([integer(op, "size", n) for n in sizes])


# ---------------------------------------------------------------- the same elements under another shape


class Reshape(Function):
    """y = the elements of x, in C order, under another shape."""

    @staticmethod
    def forward(ctx: Any, x: Array, shape: tuple[int, ...]) -> Array:
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return gy.reshape(ctx.shape)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 6), 3, 4),
        Sample(draw.normal(2, 6), (3, -1), name="-1"),
        Sample(draw.normal(1), (), name="to 0-d"),
        Sample(draw.normal(), 1, 1, name="from 0-d"),
        Sample(draw.normal(0, 3), (6, -1), name="empty"),
    ],
    oracle=lambda x, *shape: np.array(list(x.flat)).reshape(*shape),
    methods=("reshape",),
    errors=lambda draw: [
        ErrorSample(
            ShapeError, r"reshape: expected a shape of 6 elements, got \(4, 2\) for shape \(2, 3\)", draw.normal(2, 3), 4, 2
        ),
        ErrorSample(ShapeError, r"reshape: expected a shape of 6 elements, got \(4, -1\)", draw.normal(2, 3), (4, -1)),
        ErrorSample(ShapeError, r"reshape: expected a shape of 0 elements, got \(0, -1\)", np.empty((0, 3)), (0, -1)),
        ErrorSample(ArgumentError, "reshape: expected sizes of at least 0 and one -1 at most", draw.normal(2, 3), -1, -1),
        ErrorSample(DtypeError, "reshape: expected size as an integer, got 1.5", draw.normal(3), 1.5),
    ],
)
def reshape(x: Any, *shape: Any) -> Tensor:
    """The same elements under another shape; one size may be -1 and is worked out.

    Shape:
        ``shape`` is a tuple or several sizes; as many elements as x has.
    Gradient:
        dL/dx = dL/dy under x's shape.
    Notes:
        Elements are counted in C order (the last axis fastest), whatever their order in memory.
    Raises:
        ShapeError: another number of elements.
        ArgumentError: negative sizes, or more than one -1.

    >>> import minidl as md
    >>> md.reshape(md.arange(6), 2, -1)
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    x, wanted = tensor("reshape", x), _sizes("reshape", shape)
    if math.prod(wanted) != x.size or min(wanted, default=0) < 0:
        if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
            raise ArgumentError.of("reshape", "sizes of at least 0 and one -1 at most", str(wanted))
        rest = math.prod(n for n in wanted if n != -1)
        if -1 not in wanted or rest == 0 or x.size % rest != 0:
            raise ShapeError.of("reshape", f"a shape of {x.size} elements", f"{wanted} for shape {x.shape}")
    return Reshape.apply(x, shape=wanted)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3, 4)),
        Sample(draw.normal(2, 3, 4), 1, name="start_axis"),
        Sample(draw.normal(2, 3, 4, 2), start_axis=1, end_axis=2),
        Sample(draw.normal(), name="0-d"),
        Sample(draw.normal(0, 3, 4), 1, name="empty"),
    ],
    oracle=lambda x, start_axis=0, end_axis=-1: (
        np.array([list(row.flat) for row in x]).reshape(len(x), math.prod(x.shape[1:]))
        if start_axis == 1 and end_axis == -1
        else x.reshape(*x.shape[:start_axis], -1, *(x.shape[end_axis % x.ndim + 1 :] if x.ndim else ()))
    ),
    methods=("flatten",),
    errors=lambda draw: [ErrorSample(ArgumentError, "flatten: expected start_axis before end_axis", draw.normal(2, 3), 1, 0)],
)
def flatten(x: Any, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """The axes from start_axis to end_axis, both included, merged into one, in C order.

    Shape:
        (N, C, H, W) with start_axis=1 becomes (N, C*H*W). A 0-d tensor becomes (1,).
    Gradient:
        dL/dx = dL/dy under x's shape.
    Raises:
        ArgumentError: an axis that x does not have, or end_axis before start_axis.

    >>> import minidl as md
    >>> md.flatten(md.zeros(2, 3, 4), start_axis=1).shape
    (2, 12)
    """
    x = tensor("flatten", x)
    if x.ndim == 0:
        return Reshape.apply(x, shape=(1,))
    start, end = axis_index("flatten", start_axis, x.ndim, "start_axis"), axis_index("flatten", end_axis, x.ndim, "end_axis")
    if start > end:
        raise ArgumentError.of("flatten", "start_axis before end_axis", f"{start_axis} and {end_axis}")
    return Reshape.apply(x, shape=(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


@op(
    samples=lambda draw: [
        Sample(draw.normal(1, 3, 1)),
        Sample(draw.normal(1, 3, 1), -1),
        Sample(draw.normal(1, 3, 1), axis=(0, 2), name="axes"),
    ],
    oracle=lambda x, axis=None: x.flatten().reshape(
        tuple(np.delete(x.shape, [i for i, n in enumerate(x.shape) if n == 1] if axis is None else axis))
    ),
    methods=("squeeze",),
    errors=lambda draw: [
        ErrorSample(ShapeError, r"squeeze: expected size 1 along axis 1, got shape \(1, 3\)", draw.normal(1, 3), 1)
    ],
)
def squeeze(x: Any, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the axes of size 1: all of them (None), or those named.

    Shape:
        (1, 3, 1) becomes (3,), and (3, 1) with axis=0.
    Gradient:
        dL/dx = dL/dy under x's shape.
    Raises:
        ShapeError: a named axis of another size.
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.squeeze(md.zeros(1, 3, 1), axis=0).shape
    (3, 1)
    """
    x = tensor("squeeze", x)
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else axes_tuple("squeeze", axis, x.ndim)
    for i in axes:
        if x.shape[i] != 1:
            raise ShapeError.of("squeeze", f"size 1 along axis {i}", f"shape {x.shape}")
    return Reshape.apply(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3), 0),
        Sample(draw.normal(2, 3), -1),
        Sample(draw.normal(2, 3), (0, 2), name="axes"),
    ],
    oracle=lambda x, axis: x[{0: np.s_[None], -1: np.s_[..., None], (0, 2): np.s_[None, :, None]}[axis]],
    methods=("expand_dims",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, "expand_dims: expected axis from -3 to 2 for 3 axes, got 3", draw.normal(2, 3), 3)
    ],
)
def expand_dims(x: Any, axis: int | tuple[int, ...]) -> Tensor:
    """With axes of size 1 put in; ``axis`` counts in the result.

    Shape:
        (2, 3) becomes (1, 2, 3) with axis=0 and (2, 3, 1) with axis=-1.
    Gradient:
        dL/dx = dL/dy under x's shape.
    Raises:
        ArgumentError: an axis that the result does not have.

    >>> import minidl as md
    >>> md.expand_dims(md.zeros(2, 3), 1).shape
    (2, 1, 3)
    """
    x = tensor("expand_dims", x)
    ndim = x.ndim + (len(axis) if isinstance(axis, Sequence) else 1)
    axes = axes_tuple("expand_dims", axis if isinstance(axis, Sequence) else (axis,), ndim)
    sizes = iter(x.shape)
    return Reshape.apply(x, shape=tuple(1 if i in axes else next(sizes) for i in range(ndim)))


class BroadcastTo(Function):
    """y = x, repeated along axes of size 1 and new axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, shape: tuple[int, ...]) -> Array:
        ctx.shape = x.shape
        return x.reshape(shape) if math.prod(shape) == x.size else xp_of(x).broadcast_to(x, shape)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return sum_to(gy, ctx.shape)


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 1), (2, 3, 4)),
        Sample(draw.normal(3), (3,), name="as it is"),
        Sample(draw.normal(), (2, 2), name="0-d"),
        Sample(draw.normal(1, 3), (0, 3), name="to nothing"),
    ],
    oracle=lambda x, shape: x + np.zeros(shape),
    methods=("broadcast_to",),
    errors=lambda draw: [
        ErrorSample(
            ShapeError, r"broadcast_to: expected a shape that \(2, 3\) broadcasts to, got \(2, 4\)", draw.normal(2, 3), (2, 4)
        )
    ],
)
def broadcast_to(x: Any, shape: tuple[int, ...]) -> Tensor:
    """x repeated to a larger shape, by NumPy's rules, without a copy.

    Shape:
        aligned at the right, every axis of x has the size asked for, or 1; axes in front of them are new.
    Gradient:
        dL/dx = dL/dy summed over the repeated axes.
    Raises:
        ShapeError: a shape that x does not broadcast to.

    >>> import minidl as md
    >>> md.broadcast_to(md.tensor([1, 2]), (2, 2))
    tensor([[1, 2],
            [1, 2]])
    """
    x, shape = tensor("broadcast_to", x), _sizes("broadcast_to", (shape,))
    aligned = zip(reversed(x.shape), reversed(shape))
    if len(shape) < x.ndim or any(m not in (1, n) or n < 0 for m, n in aligned):
        raise ShapeError.of("broadcast_to", f"a shape that {x.shape} broadcasts to", f"{shape}")
    return BroadcastTo.apply(x, shape=shape)


# ---------------------------------------------------------------- axes in another order


class Transpose(Function):
    """y = x with its axes in another order."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...]) -> Array:
        ctx.axes = axes
        return x.transpose(axes)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return gy.transpose([ctx.axes.index(i) for i in range(gy.ndim)])


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3, 4)),
        Sample(draw.normal(2, 3, 4), 1, 2, 0, name="axes"),
        Sample(draw.normal(2, 3, 4), (0, -1, 1), name="tuple"),
        Sample(draw.normal(), name="0-d"),
    ],
    oracle=lambda x, *axes: np.einsum(x, range(x.ndim), [a % x.ndim for a in (np.ravel(axes).tolist() or range(x.ndim)[::-1])]),
    methods=("transpose",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, r"transpose: expected each of 3 axes once, got \(0, 1\)", draw.normal(2, 3, 4), 0, 1),
        ErrorSample(ArgumentError, r"transpose: expected each of 2 axes once, got \(0, 0\)", draw.normal(2, 3), (0, 0)),
    ],
)
def transpose(x: Any, *axes: Any) -> Tensor:
    """The axes in another order; all of them reversed when none are given, as in ``x.T``.

    Formula:
        axis i of y is axis axes[i] of x
    Shape:
        (2, 3, 4) becomes (4, 3, 2), and (2, 4, 3) with the axes 0, 2, 1.
    Gradient:
        dL/dx = dL/dy with its axes put back.
    Raises:
        ArgumentError: not every axis exactly once.

    >>> import minidl as md
    >>> md.transpose(md.zeros(2, 3, 4), 0, 2, 1).shape
    (2, 4, 3)
    """
    x = tensor("transpose", x)
    if not axes or axes == (None,):
        return Transpose.apply(x, axes=tuple(range(x.ndim))[::-1])
    wanted = _sizes("transpose", axes)
    order = tuple(axis_index("transpose", axis, x.ndim) for axis in wanted)
    if sorted(order) != list(range(x.ndim)):
        raise ArgumentError.of("transpose", f"each of {x.ndim} axes once", str(wanted))
    return Transpose.apply(x, axes=order)


@op(
    samples=lambda draw: [Sample(draw.normal(2, 3, 4), 0, -1), Sample(draw.normal(2, 3), 1, 1)],
    oracle=np.swapaxes,
    methods=("swapaxes",),
    errors=lambda draw: [ErrorSample(ArgumentError, "swapaxes: expected axis2 from -2 to 1", draw.normal(2, 3), 0, 2)],
)
def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged.

    Shape:
        (2, 3, 4) with axes 0 and -1 becomes (4, 3, 2).
    Gradient:
        dL/dx = dL/dy with the axes exchanged back.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.swapaxes(md.zeros(2, 3, 4), -1, -2).shape
    (2, 4, 3)
    """
    x = tensor("swapaxes", x)
    a, b = axis_index("swapaxes", axis1, x.ndim, "axis1"), axis_index("swapaxes", axis2, x.ndim, "axis2")
    axes = list(range(x.ndim))
    axes[a], axes[b] = b, a
    return Transpose.apply(x, axes=tuple(axes))


@op(
    samples=lambda draw: [Sample(draw.normal(2, 3, 4), 0, -1), Sample(draw.normal(2, 3, 4), 2, 0)],
    oracle=np.moveaxis,
    methods=("moveaxis",),
    errors=lambda draw: [ErrorSample(ArgumentError, "moveaxis: expected source from -2 to 1", draw.normal(2, 3), 2, 0)],
)
def moveaxis(x: Any, source: int, destination: int) -> Tensor:
    """One axis moved to another place, the others in their order.

    Shape:
        (2, 3, 4) with axis 0 moved to -1 becomes (3, 4, 2).
    Gradient:
        dL/dx = dL/dy with the axis moved back.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.moveaxis(md.zeros(2, 28, 28, 3), -1, 1).shape
    (2, 3, 28, 28)
    """
    x = tensor("moveaxis", x)
    axes = list(range(x.ndim))
    axis = axes.pop(axis_index("moveaxis", source, x.ndim, "source"))
    axes.insert(axis_index("moveaxis", destination, x.ndim, "destination"), axis)
    return Transpose.apply(x, axes=tuple(axes))


class Flip(Function):
    """y = x read backwards along axes."""

    @staticmethod
    def forward(ctx: Any, x: Array, axes: tuple[int, ...]) -> Array:
        ctx.axes = axes
        return xp_of(x).flip(x, axes)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return xp_of(gy).flip(gy, ctx.axes)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3)),
        Sample(draw.normal(2, 3), 1),
        Sample(draw.normal(2, 3, 2), axis=(0, -1), name="axes"),
    ],
    oracle=lambda x, axis=None: x[
        tuple(slice(None, None, -1 if axis is None or i in np.atleast_1d(axis) % x.ndim else None) for i in range(x.ndim))
    ],
    methods=("flip",),
    errors=lambda draw: [ErrorSample(ArgumentError, "flip: expected axis from -1 to 0", draw.normal(3), 1)],
)
def flip(x: Any, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The elements in reverse order along one axis, several, or all of them (None).

    Formula:
        y[i] = x[n - 1 - i] along an axis of size n
    Shape:
        y has x's shape.
    Gradient:
        dL/dx = dL/dy in reverse order along the same axes.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.flip(md.tensor([1, 2, 3]))
    tensor([3, 2, 1])
    """
    x = tensor("flip", x)
    return Flip.apply(x, axes=axes_tuple("flip", axis, x.ndim))


# ---------------------------------------------------------------- joining and cutting


def _joined(op: str, tensors: Any) -> tuple[Tensor, ...]:
    """The members of a list as tensors of one dtype."""
    if not isinstance(tensors, (list, tuple)) or not tensors:
        raise ArgumentError.of(op, "a list of one or more tensors", describe(tensors))
    return common_float(*(tensor(op, t, f"tensors[{i}]") for i, t in enumerate(tensors)))


class Concatenate(Function):
    """y = the arrays end to end along an axis."""

    @staticmethod
    def forward(ctx: Any, *arrays: Array, axis: int) -> Array:
        ctx.axis = axis
        ctx.ends = np.cumsum([a.shape[axis] for a in arrays]).tolist()
        return xp_of(arrays[0]).concatenate(arrays, axis)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        before = (slice(None),) * ctx.axis
        parts = zip([0, *ctx.ends], ctx.ends, ctx.needs)
        return tuple(gy[(*before, slice(start, end))] if needed else None for start, end, needed in parts)


@op(
    samples=lambda draw: [
        Sample([draw.normal(2, 3), draw.normal(1, 3), draw.normal(0, 3)]),
        Sample([draw.normal(2, 3), draw.normal(2, 1)], axis=-1),
        Sample([draw.normal(2, 3)], 1, name="one"),
    ],
    oracle=lambda tensors, axis=0: np.array([row for t in tensors for row in np.moveaxis(t, axis, 0)]).swapaxes(0, axis),
    methods=(),
    errors=lambda draw: [
        ErrorSample(
            ShapeError,
            r"concatenate: expected shapes equal but for axis 0, got \(2, 3\) and \(2, 4\)",
            [draw.normal(2, 3), draw.normal(2, 4)],
        ),
        ErrorSample(ShapeError, "concatenate: expected shapes equal but for axis 0", [draw.normal(2, 3), draw.normal(3)]),
        ErrorSample(ShapeError, "concatenate: expected at least one axis", [draw.normal()]),
        ErrorSample(ArgumentError, "concatenate: expected a list of one or more tensors, got list", []),
        ErrorSample(ArgumentError, "concatenate: expected axis from -1 to 0", [draw.normal(3)], 1),
    ],
)
def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors end to end along an axis they have.

    Shape:
        equal shapes but for ``axis``, whose sizes add up.
    Gradient:
        every tensor gets its part of dL/dy.
    Raises:
        ShapeError: shapes that differ elsewhere.
        ArgumentError: no tensors, or an axis that they do not have.

    >>> import minidl as md
    >>> md.concatenate([md.tensor([1, 2]), md.tensor([3])])
    tensor([1, 2, 3])
    """
    tensors = _joined("concatenate", tensors)
    first = tensors[0].shape
    if not first:
        raise ShapeError.of("concatenate", "at least one axis", "a 0-d tensor", "Use stack.")
    axis = axis_index("concatenate", axis, len(first))
    for t in tensors:
        if t.ndim != len(first) or any(m != n for i, (m, n) in enumerate(zip(t.shape, first)) if i != axis):
            images = t.ndim == len(first) == 4 and t.shape[2:] != first[2:]
            hint = f"Bring both to one size, for example with interpolate(x, size={first[2:]})." if images else ""
            raise ShapeError.of("concatenate", f"shapes equal but for axis {axis}", f"{first} and {t.shape}", hint)
    return Concatenate.apply(*tensors, axis=axis)


class Stack(Function):
    """y = the arrays side by side along a new axis."""

    @staticmethod
    def forward(ctx: Any, *arrays: Array, axis: int) -> Array:
        ctx.axis = axis
        return xp_of(arrays[0]).stack(arrays, axis)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        before = (slice(None),) * ctx.axis
        return tuple(gy[(*before, i, ...)] if needed else None for i, needed in enumerate(ctx.needs))


@op(
    samples=lambda draw: [
        Sample([draw.normal(2, 3), draw.normal(2, 3)]),
        Sample([draw.normal(2, 3), draw.normal(2, 3), draw.normal(2, 3)], axis=-1),
        Sample([draw.normal(), draw.normal()], 0, name="0-d"),
    ],
    oracle=lambda tensors, axis=0: np.moveaxis(np.array(tensors), 0, axis),
    methods=(),
    errors=lambda draw: [
        ErrorSample(ShapeError, r"stack: expected equal shapes, got \(2,\) and \(3,\)", [draw.normal(2), draw.normal(3)]),
        ErrorSample(ArgumentError, "stack: expected a list of one or more tensors", []),
    ],
)
def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis; ``axis`` counts in the result.

    Shape:
        k tensors (2, 3) become (k, 2, 3) with axis=0 and (2, 3, k) with axis=-1.
    Gradient:
        every tensor gets its part of dL/dy.
    Raises:
        ShapeError: shapes that differ.
        ArgumentError: no tensors, or an axis that the result does not have.

    >>> import minidl as md
    >>> md.stack([md.tensor([1, 2]), md.tensor([3, 4])])
    tensor([[1, 2],
            [3, 4]])
    """
    tensors = _joined("stack", tensors)
    for t in tensors:
        if t.shape != tensors[0].shape:
            raise ShapeError.of("stack", "equal shapes", f"{tensors[0].shape} and {t.shape}")
    return Stack.apply(*tensors, axis=axis_index("stack", axis, tensors[0].ndim + 1))


class Pad(Function):
    """y = x in a frame of one value."""

    @staticmethod
    def forward(ctx: Any, x: Array, widths: list[tuple[int, int]], value: float) -> Array:
        ctx.inner = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape))
        y = xp_of(x).full(tuple(n + sum(width) for n, width in zip(x.shape, widths)), value, x.dtype)
        y[ctx.inner] = x
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return gy[ctx.inner]


class PadRepeat(Function):
    """y = x and, around it, elements of x again."""

    @staticmethod
    def forward(ctx: Any, x: Array, widths: list[tuple[int, int]], mode: str) -> Array:
        ctx.shapes, ctx.sources = [], []
        for axis, width in enumerate(widths):
            source = np.pad(np.arange(x.shape[axis]), width, mode)  # type: ignore[call-overload]
            ctx.shapes.append(x.shape)
            ctx.sources.append(xp_of(x).asarray(source))
            x = xp_of(x).take(x, ctx.sources[-1], axis)
        return x

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        for axis in range(gy.ndim - 1, -1, -1):
            gx = xp_of(gy).zeros(ctx.shapes[axis], gy.dtype)
            kernels_for(gx).scatter_add(gx, (*(slice(None),) * axis, ctx.sources[axis]), gy)
            gy = gx
        return gy


def _pad_widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    """(before, after) per axis, from any of NumPy's forms."""
    given = np.asarray(pad_width)
    if given.dtype.kind not in "iu":
        raise DtypeError.of("pad", "pad_width of integers", describe(pad_width))
    try:
        widths = np.broadcast_to(given, (ndim, 2)).tolist()
    except ValueError:
        raise ArgumentError.of(
            "pad", f"pad_width as a number, a pair or {ndim} pairs (before, after)", str(pad_width)
        ) from None
    if given.size and given.min() < 0:
        raise ArgumentError.of("pad", "pad_width of at least 0", str(pad_width), "Cut with a slice instead.")
    return [(before, after) for before, after in widths]


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3), 1),
        Sample(draw.normal(2, 3), ((0, 1), (2, 0)), "constant", 1.5, name="constant"),
        Sample(draw.normal(2, 3), (1, 2), mode="edge", name="edge"),
        Sample(draw.normal(3, 4), ((2, 1), (0, 3)), mode="reflect", name="reflect"),
        Sample(draw.normal(2), 5, mode="reflect", name="reflect twice"),
        Sample(draw.normal(0, 2), 1, name="empty"),
    ],
    oracle=lambda x, width, mode="constant", constant_values=0.0: (
        np.pad(x, width, mode, constant_values=constant_values) if mode == "constant" else np.pad(x, width, mode)
    ),
    methods=("pad",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, "pad: expected pad_width of at least 0, got -1", draw.normal(2, 3), -1),
        ErrorSample(
            ArgumentError, "pad: expected pad_width as a number, a pair or 2 pairs", draw.normal(2, 3), ((1, 1), (1, 1), (1, 1))
        ),
        ErrorSample(
            ArgumentError, "pad: expected mode as one of 'constant', 'edge', 'reflect', got 'wrap'", draw.normal(3), 1, "wrap"
        ),
        ErrorSample(ShapeError, "pad: expected at least one element along axis 0 to repeat", np.empty((0, 2)), 1, "edge"),
        ErrorSample(DtypeError, "pad: expected pad_width of integers", draw.normal(3), 0.5),
    ],
)
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Tensor:
    """x with a border around it.

    Shape:
        ``pad_width`` is a number for all sides, a pair (before, after) for all axes, or one pair per axis.
    Gradient:
        dL/dx = dL/dy without the border; with "edge" and "reflect", an element also gets the gradients of
        its images in the border.
    Notes:
        "constant" fills with ``constant_values``; "edge" repeats the outermost elements; "reflect" mirrors
        at them without repeating them: 3 2 | 1 2 3 | 2 1.
    Raises:
        ArgumentError: negative widths, or a number of pairs that does not fit.
        ShapeError: "edge" or "reflect" along an axis without elements.
        DtypeError: widths that are no integers.

    >>> import minidl as md
    >>> md.pad(md.tensor([1, 2, 3]), 2, mode="reflect")
    tensor([3, 2, 1, 2, 3, 2, 1])
    """
    x = tensor("pad", x)
    choice("pad", "mode", mode, ("constant", "edge", "reflect"))
    widths = _pad_widths(pad_width, x.ndim)
    if mode == "constant":
        return Pad.apply(x, widths=widths, value=number("pad", "constant_values", constant_values))
    for axis, (n, width) in enumerate(zip(x.shape, widths)):
        if n == 0 and width != (0, 0):
            raise ShapeError.of("pad", f"at least one element along axis {axis} to repeat", f"shape {x.shape}")
    return PadRepeat.apply(x, widths=widths, mode=mode)
