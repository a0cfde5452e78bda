"""Embedding: integers to vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, integer, real_tensor, tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["embedding"]


class Embedding(Function):
    """y = weight[index]."""

    @staticmethod
    def forward(ctx: Any, index: Array, weight: Array, padding: int | None) -> Array:
        ctx.rows, ctx.padding = len(weight), padding
        ctx.save(index)
        return kernels_for(weight).embedding_forward(index, weight)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        (index,) = ctx.saved
        return None, kernels_for(gy).embedding_backward(gy, index, ctx.rows, ctx.padding)


def _samples(draw: Draw) -> list[Sample]:
    repeated = np.array([[1, 4, 1], [0, 1, 4]])
    return [
        Sample(draw.labels(4, classes=5), draw.normal(5, 3)),
        Sample(repeated, draw.normal(5, 3), name="repeated"),
        Sample(repeated, draw.normal(5, 3), padding_idx=None, name="no padding"),
        Sample(np.array(2), draw.normal(5, 3), name="one"),
        Sample(draw.labels(0, 2, classes=5), draw.normal(5, 3), name="empty"),
    ]


def _errors(draw: Draw) -> list[ErrorSample]:
    w = draw.normal(5, 3)
    return [
        ErrorSample(ArgumentError, r"indices from 0 to 4, got 5 at position \(1, 0\)", np.array([[0, 1], [5, 7]]), w),
        ErrorSample(ArgumentError, r"indices from 0 to 4, got -1 at position \(1,\)", np.array([0, -1]), w),
        ErrorSample(DtypeError, r"integer indices, got float64 of shape \(2,\).*astype\('int64'\)", np.array([0.0, 1.0]), w),
        ErrorSample(ShapeError, r"weight of shape \(rows, size\), got shape \(5,\)", np.array([0]), draw.normal(5)),
        ErrorSample(DtypeError, "weight of float32 or float64, got int64", np.array([0]), np.ones((5, 3), int)),
        ErrorSample(ArgumentError, "padding_idx from -5 to 4, got 5", np.array([0]), w, 5),
        ErrorSample(DtypeError, "padding_idx as an integer", np.array([0]), w, 1.0),
    ]


@op(
    samples=_samples,
    oracle=lambda index, weight, padding_idx=None: (np.arange(len(weight)) == index[..., None]).astype(float) @ weight,
    flops=lambda y, *inputs, **params: 0,
    errors=_errors,
)
def embedding(index: Any, weight: Any, padding_idx: int | None = None) -> Tensor:
    """Look up rows of a table: row i is the vector that stands for word, item or class i.

    Formula:
        y = weight[index], which is a one-hot vector times weight
    Shape:
        index of any shape; weight (rows, size); y (*index.shape, size).
    Gradient:
        dL/dweight[i] = the sum of dL/dy over the places where index is i; 0 for i = padding_idx.
    Notes:
        padding_idx, counted from the end when negative, changes only the gradient. On a GPU, which is not waited for,
        an index out of range gives NaN.
    Raises:
        ArgumentError: an index or padding_idx out of range.
        DtypeError: indices that are not integers.
        ShapeError: a weight that is no table (rows, size).
    Source:
        Bengio, Ducharme, Vincent and Jauvin, "A Neural Probabilistic Language Model", 2003.

    >>> import minidl as md
    >>> md.embedding(md.tensor([2, 0]), md.tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]))
    tensor([[2. , 2.5],
            [0. , 0.5]])
    """
    index, weight = tensor("embedding", index, "index"), real_tensor("embedding", weight, "weight")
    if index.dtype.kind not in "iu":
        raise DtypeError.of("embedding", "integer indices", describe(index), "Convert with .astype('int64').")
    if weight.ndim != 2:
        raise ShapeError.of("embedding", "weight of shape (rows, size)", f"shape {weight.shape}")
    rows = weight.shape[0]
    i = index._array.astype(np.int64, copy=False)
    if isinstance(i, np.ndarray) and (bad := (i < 0) | (i >= rows)).any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ArgumentError.of("embedding", f"indices from 0 to {rows - 1}", f"{int(i[where])} at position {where}")
    if padding_idx is not None:
        padding_idx = integer("embedding", "padding_idx", padding_idx)
        if not -rows <= padding_idx < rows:
            raise ArgumentError.of("embedding", f"padding_idx from {-rows} to {rows - 1}", str(padding_idx))
    return Embedding.apply(Tensor.wrap(i), weight, padding=padding_idx)
