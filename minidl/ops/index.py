"""Indexing: elements picked by position, by mask, by index arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, as_array, default_dtype, is_array, to_device, xp_of
from minidl.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import axis_index, describe, integer, tensor
from minidl.ops.compare import where
from minidl.ops.elementwise import number_dtype
from minidl.ops.shape import broadcast_to, reshape
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["gather", "getitem", "one_hot", "split", "take", "take_along_axis", "tril", "triu"]


# ---------------------------------------------------------------- x[index]


class Getitem(Function):
    """y = x[index]."""

    @staticmethod
    def forward(ctx: Any, x: Array, index: tuple) -> Array:
        ctx.shape, ctx.index = x.shape, index
        ctx.save(*(part for part in index if is_array(part)))
        return x[index]

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        gx = xp_of(gy).zeros(ctx.shape, gy.dtype)
        if any(is_array(part) and part.dtype.kind in "iu" for part in ctx.index):
            kernels_for(gx).scatter_add(gx, ctx.index, gy)  # an index array may name an element several times
        else:
            gx[ctx.index] = gy
        return gx


def _index_part(x: Tensor, part: Any) -> Any:
    """One part of an index as NumPy takes it; arrays are copied, because backward needs them unchanged."""
    if part is None or part is Ellipsis or isinstance(part, (int, slice)):
        return part
    if isinstance(part, (np.integer, np.bool_)):
        return part.item()
    if isinstance(part, Tensor):
        if part.device != x.device:
            raise DeviceError.of("getitem", f"an index on {x.device}", part.device, "Move it with .to(device).")
        array = part._array
    elif is_array(part):
        array = to_device(part.copy(), x.device)
    elif isinstance(part, list):
        array = to_device(np.empty(0, np.int64) if part == [] else as_array(part, op="getitem"), x.device)
    else:
        raise DtypeError.of("getitem", "integers, slices, ..., None, or arrays of integers or booleans", describe(part))
    if array.dtype.kind not in "iub":
        raise DtypeError.of("getitem", "an index array of integers or booleans", str(array.dtype))
    return array


def _getitem_samples(draw: Draw) -> list[Sample]:
    x = draw.normal(3, 4, 5)
    rows, columns = np.array([[0, 2], [0, 1]]), np.array([3, 3])
    indices = {
        "integer": 1,
        "negative": (-1, 2),
        "full": (1, 2, 3),
        "slices": np.s_[1:, ::-2, :],
        "empty slice": np.s_[5:],
        "new axis": np.s_[:, None, ..., 0],
        "ellipsis": np.s_[..., 1:3],
        "mask": x > 0,
        "row mask": np.array([True, False, True]),
        "no rows": np.zeros(3, bool),
        "list": [0, 0, 2],
        "empty list": [],
        "repeated": rows,
        "two arrays": (rows, columns),
        "apart": np.s_[rows, :, columns],
        "mixed": (np.s_[1:], None, columns, np.array([True, False, True, False, False])),
        "integer and array": np.s_[1, :, columns],
    }
    return [Sample(x, index, grad=(0,), name=name) for name, index in indices.items()]


@op(
    samples=_getitem_samples,
    oracle=lambda x, index: np.array(x[index]),
    methods=("__getitem__",),
    errors=lambda draw: [
        ErrorSample(
            IndexError,
            r"getitem: expected an index that fits shape \(2, 3\), got index 2 is out of bounds",
            draw.normal(2, 3),
            2,
        ),
        ErrorSample(
            IndexError,
            r"getitem: expected an index that fits shape \(2, 3\), got too many indices",
            draw.normal(2, 3),
            (0, 0, 0),
        ),
        ErrorSample(IndexError, "getitem: expected an index that fits shape", draw.normal(2, 3), np.ones((3, 3), bool)),
        ErrorSample(
            DtypeError, "getitem: expected an index array of integers or booleans, got float64", draw.normal(3), draw.normal(2)
        ),
        ErrorSample(DtypeError, "getitem: expected integers, slices", draw.normal(3), 1.0),
        ErrorSample(DtypeError, "getitem: expected integers, slices", draw.normal(3), "name"),
    ],
)
def getitem(x: Any, index: Any) -> Tensor:
    """x[index], with NumPy's meaning: integers, slices, ``...``, None, masks, index arrays, and mixtures.

    Shape:
        An integer takes its axis away, a slice shortens it, None adds one of size 1. Index arrays broadcast against
        each other, and their shape takes the place of the axes they index; a mask counts as the positions where it is
        True.
    Gradient:
        dL/dx is dL/dy at the elements picked and 0 elsewhere; an element picked several times gets the sum.
    Notes:
        Integers and slices give a view, masks and index arrays a copy. On the GPU an index array that
        reaches past the end is not noticed (CuPy wraps it around).
    Raises:
        IndexError: an index that reaches past the end, or does not fit the shape.
        DtypeError: an index of another kind.

    >>> import minidl as md
    >>> x = md.tensor([[1, 2, 3], [4, 5, 6]])
    >>> md.getitem(x, (0, slice(1, None)))
    tensor([2, 3])
    >>> x[x > 2]
    tensor([3, 4, 5, 6])
    """
    x = tensor("getitem", x)
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple([_index_part(x, part) for part in parts])
    try:
        return Getitem.apply(x, index=parts)
    except IndexError as error:
        raise IndexError(f"getitem: expected an index that fits shape {x.shape}, got {error}") from None


@op(
    samples=lambda draw: [
        Sample(draw.normal(6, 2), 3),
        Sample(draw.normal(2, 5), [1, 3], axis=1, name="places"),
        Sample(draw.normal(3), (2, 5), name="past the end"),
    ],
    oracle=lambda x, at, axis=0: np.split(x, at, axis),
    methods=("split",),
    errors=lambda draw: [
        ErrorSample(ShapeError, "split: expected a size along axis 0 that divides by 4, got 6", draw.normal(6, 2), 4),
        ErrorSample(ArgumentError, "split: expected indices_or_sections of at least 1, got 0", draw.normal(6), 0),
    ],
)
def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut along an axis: into equal parts (an integer), or before the given places (a list), as numpy.split.

    Shape:
        (6, 2) in 3 parts gives three tensors (2, 2); before [1, 3] it gives (1, 2), (2, 2) and (3, 2).
    Gradient:
        dL/dx is dL/d(part) where the part was cut out.
    Raises:
        ShapeError: a size that the number of parts does not divide.
        ArgumentError: fewer than one part, or an axis that x does not have.
        DtypeError: places that are no integers.

    >>> import minidl as md
    >>> [part.tolist() for part in md.split(md.arange(5), [1, 3])]
    [[0], [1, 2], [3, 4]]
    """
    x = tensor("split", x)
    axis = axis_index("split", axis, x.ndim)
    size = x.shape[axis]
    if isinstance(indices_or_sections, (list, tuple)):
        places = [integer("split", "place", place) for place in indices_or_sections]
    else:
        parts = integer("split", "indices_or_sections", indices_or_sections, 1)
        if size % parts:
            raise ShapeError.of(
                "split", f"a size along axis {axis} that divides by {parts}", str(size), "Give places instead: [3, 5]."
            )
        places = [i * size // parts for i in range(1, parts)]
    before = (slice(None),) * axis
    return [getitem(x, (*before, slice(start, end))) for start, end in zip([0, *places], [*places, size])]


# ---------------------------------------------------------------- along an axis


def _positions(op: str, x: Tensor, value: Any, name: str) -> Array:
    """An index array of integers on x's device that nobody will write to."""
    if isinstance(value, Tensor):
        if value.device != x.device:
            raise DeviceError.of(op, f"{name} on {x.device}", value.device, "Move it with .to(device).")
        array = value._array
    else:
        array = to_device(np.empty(0, np.int64) if isinstance(value, list) and not value else as_array(value, op=op), x.device)
    if array.dtype.kind not in "iu":
        raise DtypeError.of(op, f"{name} of integers", describe(value))
    return array


def _check_range(op: str, index: Array, low: int, n: int, axis: int) -> None:
    """Refuse positions past the ends. Not on the GPU: to look at them would mean to wait for it."""
    if isinstance(index, np.ndarray) and index.size and not low <= index.min() <= index.max() < n:
        bad = index.min() if index.min() < low else index.max()
        raise ArgumentError.of(op, f"indices from {low} to {n - 1} for axis {axis}", str(bad))


class Take(Function):
    """y = x[..., index, ...] along one axis."""

    @staticmethod
    def forward(ctx: Any, x: Array, index: Array, axis: int) -> Array:
        ctx.shape, ctx.axis = x.shape, axis
        ctx.save(index)
        return xp_of(x).take(x, index, axis)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (index,) = ctx.saved
        gx = xp_of(gy).zeros(ctx.shape, gy.dtype)
        kernels_for(gx).scatter_add(gx, (*(slice(None),) * ctx.axis, index), gy)
        return gx


@op(
    samples=lambda draw: [
        Sample(draw.normal(4, 3), np.array([0, 3, 3]), 0, grad=(0,)),
        Sample(draw.normal(2, 4, 3), np.array([[1, -1], [0, 1]]), axis=1, grad=(0,), name="matrix of indices"),
        Sample(draw.normal(2, 3), np.array([5, 0]), grad=(0,), name="flat"),
        Sample(draw.normal(2, 3), 1, axis=-1, grad=(0,), name="integer"),
        Sample(draw.normal(2, 3), [], axis=0, grad=(0,), name="nothing"),
    ],
    oracle=lambda x, indices, axis=None: (
        x.reshape(-1)[indices]
        if axis is None
        else np.moveaxis(
            np.moveaxis(x, axis, 0)[indices], range(np.ndim(indices)), range(axis % x.ndim, axis % x.ndim + np.ndim(indices))
        )
        if np.size(indices)
        else np.empty((0, 3))
    ),
    methods=("take",),
    errors=lambda draw: [
        ErrorSample(
            ArgumentError, "take: expected indices from -3 to 2 for axis 1, got 3", draw.normal(2, 3), np.array([0, 3]), 1
        ),
        ErrorSample(DtypeError, "take: expected indices of integers", draw.normal(2, 3), np.array([0.0]), 1),
    ],
)
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The elements at positions along an axis; of the flattened tensor when axis is None.

    Shape:
        y has x's shape with the size along ``axis`` replaced by the shape of ``indices``; a single position takes the
        axis away.
    Gradient:
        dL/dx is dL/dy at the elements taken and 0 elsewhere; an element taken several times gets the sum.
    Notes:
        Negative positions count from the end. On the GPU, positions past the ends are not noticed.
    Raises:
        ArgumentError: positions past the ends.
        DtypeError: indices that are no integers.

    >>> import minidl as md
    >>> md.take(md.tensor([10, 20, 30]), [2, 0, 0], axis=0)
    tensor([30, 10, 10])
    """
    x = tensor("take", x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = axis_index("take", axis, x.ndim)
    index = _positions("take", x, indices, "indices")
    _check_range("take", index, -x.shape[axis], x.shape[axis], axis)
    return Take.apply(x, index=index, axis=axis)


class Gather(Function):
    """y[i, j, k] = x[i, index[i, j, k], k] for axis 1, and so on."""

    @staticmethod
    def forward(ctx: Any, x: Array, index: Array, axis: int) -> Array:
        ctx.shape, ctx.axis = x.shape, axis
        ctx.save(index)
        return x[_grid(index, axis)]

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (index,) = ctx.saved
        gx = xp_of(gy).zeros(ctx.shape, gy.dtype)
        kernels_for(gx).scatter_add(gx, _grid(index, ctx.axis), gy)
        return gx


def _grid(index: Array, axis: int) -> tuple[Array, ...]:
    """The index itself for ``axis``; for every other axis, the position within ``index``."""
    xp, ndim = xp_of(index), index.ndim
    positions = [xp.arange(n).reshape([-1 if j == i else 1 for j in range(ndim)]) for i, n in enumerate(index.shape)]
    return (*positions[:axis], index, *positions[axis + 1 :])


def _gather_oracle(x: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    y = np.empty(index.shape)
    for place in np.ndindex(index.shape):
        y[place] = x[(*place[:axis], index[place], *place[axis + 1 :])]
    return y


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 4), 1, np.array([[0, 3], [1, 1], [2, 0]]), grad=(0,)),
        Sample(draw.normal(3, 4, 2), 0, draw.labels(5, 2, 2, classes=3), grad=(0,), name="smaller index"),
        Sample(draw.normal(3), 0, np.array([], np.int64), grad=(0,), name="nothing"),
    ],
    oracle=_gather_oracle,
    methods=("gather",),
    errors=lambda draw: [
        ErrorSample(
            ArgumentError, "gather: expected indices from 0 to 3 for axis 1, got -1", draw.normal(3, 4), 1, np.array([[-1]])
        ),
        ErrorSample(
            ShapeError,
            r"gather: expected index with as many axes as x, got \(2,\) for \(3, 4\)",
            draw.normal(3, 4),
            1,
            np.array([0, 1]),
        ),
        ErrorSample(
            ShapeError, "gather: expected index no larger than x but along axis 1", draw.normal(1, 4), 1, np.array([[0], [0]])
        ),
    ],
)
def gather(x: Any, axis: int, index: Any) -> Tensor:
    """One element of x along ``axis`` for every element of ``index``, as torch.gather.

    Formula:
        y[i, j] = x[i, index[i, j]] for axis=1; y[i, j] = x[index[i, j], j] for axis=0
    Shape:
        y has the shape of ``index``, which has as many axes as x and is nowhere larger but along ``axis``.
    Gradient:
        dL/dx is dL/dy at the elements picked and 0 elsewhere; an element picked several times gets the sum.
    Notes:
        On the GPU, positions past the ends are not noticed.
    Raises:
        ArgumentError: positions below 0 or past the end.
        ShapeError: an index with another number of axes, or larger than x beside ``axis``.
        DtypeError: an index that is not of integers.

    >>> import minidl as md
    >>> scores = md.tensor([[0.1, 0.9], [0.6, 0.4]])
    >>> md.gather(scores, 1, [[1], [0]])
    tensor([[0.9],
            [0.6]])
    """
    x = tensor("gather", x)
    axis = axis_index("gather", axis, x.ndim)
    index = _positions("gather", x, index, "index")
    if index.ndim != x.ndim:
        raise ShapeError.of("gather", "index with as many axes as x", f"{index.shape} for {x.shape}")
    if any(m > n for i, (m, n) in enumerate(zip(index.shape, x.shape)) if i != axis):
        raise ShapeError.of("gather", f"index no larger than x but along axis {axis}", f"{index.shape} for {x.shape}")
    _check_range("gather", index, 0, x.shape[axis], axis)
    return Gather.apply(x, index=index, axis=axis)


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 4), np.array([[0, 3], [-1, 1], [2, 0]]), 1, grad=(0,)),
        Sample(draw.normal(3, 4), np.array([[0], [2]]), axis=0, grad=(0,), name="broadcast indices"),
        Sample(draw.normal(1, 4), draw.labels(3, 2, classes=4), grad=(0,), name="broadcast x"),
    ],
    oracle=lambda x, indices, axis=-1: np.take_along_axis(x, indices, axis),
    methods=("take_along_axis",),
    errors=lambda draw: [
        ErrorSample(
            ShapeError,
            "take_along_axis: expected shapes that broadcast but for axis 1",
            draw.normal(2, 4),
            np.zeros((3, 1), int),
            1,
        ),
        ErrorSample(
            ArgumentError,
            "take_along_axis: expected indices from -4 to 3 for axis 1, got 4",
            draw.normal(1, 4),
            np.array([[4]]),
            1,
        ),
    ],
)
def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """One element of x along ``axis`` for every element of ``indices``, as numpy.take_along_axis.

    It undoes argsort and arg-max: ``md.take_along_axis(x, x.argmax(1, keepdims=True), 1)`` is the maximum.

    Shape:
        x and indices have as many axes and broadcast against each other, ``axis`` aside.
    Gradient:
        dL/dx is dL/dy at the elements picked and 0 elsewhere; an element picked several times gets the sum.
    Notes:
        Negative positions count from the end. On the GPU, positions past the ends are not noticed.
    Raises:
        ArgumentError: positions past the ends.
        DtypeError: indices that are no integers.
        ShapeError: shapes that do not broadcast beside ``axis``.

    >>> import minidl as md
    >>> x = md.tensor([[1.0, 5.0], [7.0, 4.0]])
    >>> md.take_along_axis(x, x.argmax(1, keepdims=True), 1)
    tensor([[5.],
            [7.]])
    """
    x = tensor("take_along_axis", x)
    axis = axis_index("take_along_axis", axis, x.ndim)
    index = _positions("take_along_axis", x, indices, "indices")
    aligned = list(zip(x.shape, index.shape))
    if index.ndim != x.ndim or any(m != n and m != 1 and n != 1 for i, (m, n) in enumerate(aligned) if i != axis):
        raise ShapeError.of("take_along_axis", f"shapes that broadcast but for axis {axis}", f"{x.shape} and {index.shape}")
    _check_range("take_along_axis", index, -x.shape[axis], x.shape[axis], axis)
    common = [n if m == 1 else m for m, n in aligned]
    x = broadcast_to(x, (*common[:axis], x.shape[axis], *common[axis + 1 :]))
    index = xp_of(index).broadcast_to(index, (*common[:axis], index.shape[axis], *common[axis + 1 :]))
    return Gather.apply(x, index=index, axis=axis)


# ---------------------------------------------------------------- positions as values, triangles


class OneHot(Function):
    """y[..., c] = 1 where the label is c, else 0."""

    differentiable = False

    @staticmethod
    def forward(ctx: Any, labels: Array, num_classes: int, dtype: np.dtype) -> Array:
        return (labels[..., None] == xp_of(labels).arange(num_classes)).astype(dtype)


@op(
    samples=lambda draw: [Sample(draw.labels(4, classes=3), 3), Sample(np.array([[0, 2], [1, 1]]), name="classes counted")],
    oracle=lambda labels, num_classes=3: np.eye(num_classes)[labels],
    methods=("one_hot",),
    errors=lambda draw: [
        ErrorSample(ArgumentError, "one_hot: expected labels from 0 to 2, got 3", np.array([0, 3]), 3),
        ErrorSample(ArgumentError, "one_hot: expected labels from 0 to 2, got -1", np.array([0, -1]), 3),
        ErrorSample(DtypeError, "one_hot: expected labels of integers", draw.normal(3), 3),
        ErrorSample(ArgumentError, "one_hot: expected num_classes for no labels", np.array([], np.int64)),
    ],
    differentiable=False,
)
def one_hot(labels: Any, num_classes: int | None = None, dtype: Any = None) -> Tensor:
    """For every label, a row of zeros with a 1 at the label's place.

    Formula:
        y[..., c] = 1 where labels[...] = c, else 0
    Shape:
        (...) becomes (..., num_classes); num_classes is the largest label plus 1 when not given.
    Notes:
        No gradient. The default floating dtype, or ``dtype``. On the GPU, labels out of range give rows of zeros.
    Raises:
        ArgumentError: labels out of range.
        DtypeError: labels that are no integers.

    >>> import minidl as md
    >>> md.one_hot([0, 2], 3)
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    labels = tensor("one_hot", labels, "labels")
    if labels.dtype.kind not in "iu":
        raise DtypeError.of("one_hot", "labels of integers", describe(labels))
    if num_classes is None:
        if labels.size == 0:
            raise ArgumentError.of("one_hot", "num_classes for no labels", "None")
        num_classes = int(labels._array.max()) + 1
    num_classes = integer("one_hot", "num_classes", num_classes, 1)
    array = labels._array
    if isinstance(array, np.ndarray) and array.size and not 0 <= array.min() <= array.max() < num_classes:
        bad = array.min() if array.min() < 0 else array.max()
        raise ArgumentError.of("one_hot", f"labels from 0 to {num_classes - 1}", str(bad))
    return OneHot.apply(
        labels, num_classes=num_classes, dtype=default_dtype() if dtype is None else number_dtype("one_hot", dtype)
    )


def _triangle(op: str, x: Any, k: int, lower: bool) -> Tensor:
    x = tensor(op, x)
    if x.ndim < 2:
        raise ShapeError.of(op, "at least two axes", f"shape {x.shape}")
    mask = np.tri(x.shape[-2], x.shape[-1], integer(op, "k", k), dtype=bool)
    return where(Tensor.wrap(to_device(mask if lower else ~mask, x.device)), x, 0)


def _triangle_samples(draw: Draw) -> list[Sample]:
    return [Sample(draw.normal(3, 4)), Sample(draw.normal(2, 3, 3), 1), Sample(draw.normal(3, 3), k=-1)]


@op(
    samples=_triangle_samples,
    oracle=np.tril,
    methods=("tril",),
    errors=lambda draw: [ErrorSample(ShapeError, "tril: expected at least two axes", draw.normal(3))],
)
def tril(x: Any, k: int = 0) -> Tensor:
    """The lower triangle of the last two axes, and 0 above the k-th diagonal.

    Formula:
        y[..., i, j] = x[..., i, j] where j - i <= k, else 0
    Shape:
        x (..., n, m) with any n and m; y the same.
    Gradient:
        dL/dx = dL/dy in the triangle, 0 above.
    Raises:
        ShapeError: fewer than two axes.

    >>> import minidl as md
    >>> md.tril(md.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """
    return _triangle("tril", x, k, lower=True)


@op(
    samples=_triangle_samples,
    oracle=np.triu,
    methods=("triu",),
    errors=lambda draw: [ErrorSample(ShapeError, "triu: expected at least two axes", draw.normal(3))],
)
def triu(x: Any, k: int = 0) -> Tensor:
    """The upper triangle of the last two axes, and 0 below the k-th diagonal.

    Formula:
        y[..., i, j] = x[..., i, j] where j - i >= k, else 0
    Shape:
        x (..., n, m) with any n and m; y the same.
    Gradient:
        dL/dx = dL/dy in the triangle, 0 below.
    Raises:
        ShapeError: fewer than two axes.

    >>> import minidl as md
    >>> md.triu(md.ones(2, 2))
    tensor([[1., 1.],
            [0., 1.]])
    """
    return _triangle("triu", x, k - 1, lower=False)
