"""im2col and col2im: the windows of an image as the columns of a matrix, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import conv_size
from minidl.ops._arguments import pair
from minidl.ops._images import Pair, batch, fits, padded_oracle, windows_oracle
from minidl.ops.shape import squeeze
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["col2im", "im2col"]


def _im2col_oracle(x, kernel_size, stride=1, padding=0, dilation=1):
    """One window after the other, each flattened into a column."""
    kernel = tuple(np.broadcast_to(kernel_size, 2))
    batch = padded_oracle(x.reshape(-1, *x.shape[-3:]), padding, kernel, dilation)
    rows = x.shape[-3] * kernel[0] * kernel[1]
    windows = windows_oracle(batch, kernel, stride, dilation)
    columns = np.stack([batch[window].reshape(len(batch), rows) for _, _, window in windows], 2)
    return columns.reshape(*x.shape[:-3], *columns.shape[1:])


def _col2im_oracle(columns, output_size, kernel_size, stride=1, padding=0, dilation=1):
    """The transpose of im2col, found by asking im2col where every pixel went."""
    size, kernel = np.broadcast_to(output_size, 2), np.broadcast_to(kernel_size, 2)
    C = columns.shape[-2] // kernel.prod()
    names = np.arange(1, C * size.prod() + 1).reshape(C, *size)
    went = _im2col_oracle(names, kernel_size, stride, padding, dilation)  # the number of the pixel, 0 for padding
    sums = [np.bincount(went.ravel(), one.ravel(), names.size + 1)[1:] for one in columns.reshape(-1, *went.shape)]
    return np.array(sums).reshape(*columns.shape[:-2], C, *size)


def _im2col_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(2, 2, 4, 3), 2),
        Sample(draw.normal(1, 2, 5, 6), (3, 2), stride=(2, 3), padding=(1, 2), name="stride, padding"),
        Sample(draw.normal(1, 1, 5, 6), (2, 3), dilation=(3, 2), name="dilation"),
        Sample(draw.normal(2, 4, 3), (2, 3), name="one image without a batch axis"),
        Sample(draw.normal(0, 2, 4, 3), 2, name="empty batch"),
    ]


class Im2col(Function):
    """Windows to columns."""

    @staticmethod
    def forward(ctx: Any, x: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
        ctx.size = x.shape[2:]
        ctx.geometry = kernel_size, stride, tuple((p, p) for p in padding), dilation
        return kernels_for(x).im2col(x, *ctx.geometry)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return kernels_for(gy).col2im(gy, ctx.size, *ctx.geometry)


@op(
    samples=_im2col_samples,
    oracle=_im2col_oracle,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\), got shape \(4,\)", draw.normal(4), 2),
        ErrorSample(
            ShapeError,
            r"padded input \(4, 6\), got kernel \(5, 2\) .* at least \(1, 0\)",
            draw.normal(1, 1, 4, 4),
            (5, 2),
            padding=(0, 1),
        ),
        ErrorSample(ArgumentError, "expected kernel_size of at least 1, got 0", draw.normal(1, 1, 4, 4), 0),
        ErrorSample(ArgumentError, "expected padding of at least 0, got -1", draw.normal(1, 1, 4, 4), 2, padding=-1),
        ErrorSample(DtypeError, "expected x of float32 or float64, got int64", np.arange(16).reshape(1, 1, 4, 4), 2),
    ],
)
def im2col(
    x: Any, kernel_size: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1
) -> Tensor:
    """The windows that a convolution sees, as the columns of a matrix (PyTorch's ``unfold``).

    Formula:
        y[n, (c KH + kh) KW + kw, oh OW + ow] = x[n, c, oh SH + kh DH - PH, ow SW + kw DW - PW], 0 outside of the image.
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C KH KW, L) with one column for each of the L = OH OW windows, OH and OW
        as in ``conv2d``.
    Gradient:
        ``col2im`` of dL/dy: im2col is linear and copies a pixel into every window that sees it.
    Notes:
        ``conv2d(x, w)`` is ``w.reshape(O, -1) @ im2col(x, (KH, KW))`` reshaped to (N, O, OH, OW). minidl's own
        convolutions work on a few images at a time, because this matrix is KH KW times as large as x.
    Raises:
        ShapeError: a kernel larger than the padded input.
        ArgumentError: negative padding, a stride of 0.
        DtypeError: integer images.
    Source:
        Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006.

    >>> import minidl as md
    >>> md.im2col(md.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), 2)
    tensor([[[1., 2.],
             [2., 3.],
             [4., 5.],
             [5., 6.]]])
    """
    x, single = batch("im2col", x)
    kernel, stride, padding, dilation = _geometry("im2col", kernel_size, stride, padding, dilation)
    fits("im2col", x.shape[2:], kernel, tuple((p, p) for p in padding), dilation)
    y = Im2col.apply(x, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation)
    return squeeze(y, 0) if single else y


def _geometry(op: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair, Pair]:
    return (
        pair(op, "kernel_size", kernel_size),
        pair(op, "stride", stride),
        pair(op, "padding", padding, 0),
        pair(op, "dilation", dilation),
    )


class Col2im(Function):
    """Columns back to images, summing where windows overlap."""

    @staticmethod
    def forward(
        ctx: Any, columns: Array, output_size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
    ) -> Array:
        ctx.geometry = kernel_size, stride, tuple((p, p) for p in padding), dilation
        return kernels_for(columns).col2im(columns, output_size, *ctx.geometry)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return kernels_for(gy).im2col(gy, *ctx.geometry)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 8, 6), (4, 3), 2),
        Sample(draw.normal(1, 12, 9), (5, 6), (3, 2), stride=(2, 3), padding=(1, 1), name="stride, padding"),
        Sample(draw.normal(1, 6, 4), (5, 6), (2, 3), dilation=(3, 2), name="dilation, fewer windows", stride=(1, 1)),
        Sample(draw.normal(6, 3), (4, 3), (2, 3), name="one image without a batch axis"),
        Sample(draw.normal(0, 8, 6), (4, 3), 2, name="empty batch"),
    ],
    oracle=_col2im_oracle,
    flops=lambda y, columns, **geometry: columns.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"expected columns of shape \(N, C KH KW, L\) or \(C KH KW, L\)", draw.normal(8), 3, 2),
        ErrorSample(
            ShapeError,
            r"expected a multiple of KH KW = 4 values in a column, got shape \(1, 6, 4\)",
            draw.normal(1, 6, 4),
            3,
            2,
        ),
        ErrorSample(ShapeError, r"expected L = OH OW = 2 \* 2 columns, got shape \(1, 4, 5\)", draw.normal(1, 4, 5), 3, 2),
        ErrorSample(ShapeError, r"padded input \(3, 3\), got kernel \(4, 4\)", draw.normal(1, 16, 1), 3, 4),
        ErrorSample(ArgumentError, "expected output_size of at least 1, got 0", draw.normal(1, 4, 4), 0, 2),
    ],
)
def col2im(
    columns: Any,
    output_size: int | Pair,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """Columns put back where ``im2col`` took them from; where windows overlap, they add up (PyTorch's ``fold``).

    Formula:
        y[n, c, oh SH + kh DH - PH, ow SW + kw DW - PW] += columns[n, (c KH + kh) KW + kw, oh OW + ow], over all
        columns; what falls outside of the image is dropped.
    Shape:
        columns (N, C KH KW, L) or (C KH KW, L); y (N, C, H, W) with (H, W) = ``output_size`` and L = OH OW windows.
    Gradient:
        ``im2col`` of dL/dy. The two are each other's transpose: <im2col(x), c> = <x, col2im(c)>.
    Notes:
        It is not the inverse of im2col: a pixel that k windows see comes back k times as large.
    Raises:
        ShapeError: a number of columns or of values in a column that does not fit the sizes.
        ArgumentError: negative padding, a stride or output_size of 0.
        DtypeError: integer columns.

    >>> import minidl as md
    >>> x = md.ones((1, 1, 3, 3))
    >>> md.col2im(md.im2col(x, 2), 3, 2)  # how many windows see each pixel
    tensor([[[[1., 2., 1.],
              [2., 4., 2.],
              [1., 2., 1.]]]])
    """
    columns, single = batch("col2im", columns, "columns", "C KH KW, L")
    kernel, stride, padding, dilation = _geometry("col2im", kernel_size, stride, padding, dilation)
    size = pair("col2im", "output_size", output_size)
    sides = tuple((p, p) for p in padding)
    fits("col2im", size, kernel, sides, dilation)
    if columns.shape[1] % (kernel[0] * kernel[1]):
        raise ShapeError.of(
            "col2im", f"a multiple of KH KW = {kernel[0] * kernel[1]} values in a column", f"shape {columns.shape}"
        )
    OH, OW = (conv_size(size[i], kernel[i], stride[i], sides[i], dilation[i]) for i in (0, 1))
    if columns.shape[2] != OH * OW:
        raise ShapeError.of("col2im", f"L = OH OW = {OH} * {OW} columns", f"shape {columns.shape}")
    y = Col2im.apply(columns, output_size=size, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation)
    return squeeze(y, 0) if single else y
