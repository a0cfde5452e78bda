"""im2col and col2im: the windows of an image as the columns of a matrix, and the sum of the columns back into an image.

Inside the kernels ``padding`` is ((top, bottom), (left, right)), because 'same' may need one more row or column
at the end than at the beginning; where the last rows are not reached by any window, bottom may be negative.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of

__all__ = ["col2im", "conv_size", "im2col"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def conv_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> int:
    """OH (or OW): how many windows fit along an axis."""
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def im2col(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """(N, C, H, W) -> (N, C * KH * KW, OH * OW): column oh * OW + ow holds what the window at (oh, ow) sees."""
    xp = xp_of(x)
    (N, C, H, W), (KH, KW), (SH, SW), (DH, DW) = x.shape, kernel, stride, dilation
    (top, _), (left, _) = padding
    OH, OW = conv_size(H, KH, SH, padding[0], DH), conv_size(W, KW, SW, padding[1], DW)
    padded = xp.zeros((N, C, (OH - 1) * SH + (KH - 1) * DH + 1, (OW - 1) * SW + (KW - 1) * DW + 1), x.dtype)
    inside = padded[:, :, top : top + H, left : left + W]
    inside[...] = x[:, :, : inside.shape[2], : inside.shape[3]]
    columns = xp.empty((N, C, KH, KW, OH, OW), x.dtype)
    for kh in range(KH):
        for kw in range(KW):
            columns[:, :, kh, kw] = padded[:, :, kh * DH :: SH, kw * DW :: SW][:, :, :OH, :OW]
    return columns.reshape(N, C * KH * KW, OH * OW)


def col2im(columns: Array, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """(N, C * KH * KW, OH * OW) -> (N, C, H, W): every pixel sums what the columns hold for it.

    The transpose of ``im2col`` as a linear map, and therefore its gradient.
    """
    xp = xp_of(columns)
    (H, W), (KH, KW), (SH, SW), (DH, DW) = size, kernel, stride, dilation
    (top, _), (left, _) = padding
    OH, OW = conv_size(H, KH, SH, padding[0], DH), conv_size(W, KW, SW, padding[1], DW)
    N, C = len(columns), columns.shape[1] // (KH * KW)
    columns = columns.reshape(N, C, KH, KW, OH, OW)
    padded = xp.zeros((N, C, (OH - 1) * SH + (KH - 1) * DH + 1, (OW - 1) * SW + (KW - 1) * DW + 1), columns.dtype)
    for kh in range(KH):
        for kw in range(KW):
            padded[:, :, kh * DH :: SH, kw * DW :: SW][:, :, :OH, :OW] += columns[:, :, kh, kw]
    inside = padded[:, :, top : top + H, left : left + W]
    x = xp.zeros((N, C, H, W), columns.dtype)  # rows that no window reached stay zero
    x[:, :, : inside.shape[2], : inside.shape[3]] = inside
    return x
