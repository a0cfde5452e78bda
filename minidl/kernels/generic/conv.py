"""Convolution by im2col: the windows of an image become the columns of a matrix, and one product does the rest.

``padding`` is ((top, bottom), (left, right)), as in columns.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.generic.columns import Padding, Pair, col2im, conv_size, im2col

__all__ = ["blocks", "conv2d_algorithms", "conv2d_backward", "conv2d_forward", "conv2d_loops", "images"]

BLOCK_BYTES = 1 << 22  # of columns made at a time; stays in a core's cache on the way from im2col into the product
BLOCK_BYTES_GPU = 1 << 28


def blocks(N: int, OH: int, row_bytes: int, limit: int = BLOCK_BYTES) -> Iterator[tuple[slice, slice]]:
    """Cut a batch of output images into (images, output rows) so that the columns of a piece take at most ``limit`` bytes.

    A piece is several whole images, or, when the columns of one image are too many, a band of its rows.
    ``row_bytes`` is what the columns of one output row take.
    """
    rows = max(1, limit // max(1, row_bytes))
    if rows >= OH:
        images = rows // max(1, OH)
        for n in range(0, N, images):
            yield slice(n, min(n + images, N)), slice(0, OH)
    else:
        for n in range(N):
            for row in range(0, OH, rows):
                yield slice(n, n + 1), slice(row, min(row + rows, OH))


def conv2d_algorithms(*geometry: Any) -> tuple[str, ...]:
    """The names of the algorithms that can compute a convolution; the first is the one that "auto" takes."""
    return "im2col", "loops"


def images(x: Array) -> Array:
    """x as the kernels of this package read it; here, as it is."""
    return x


def _products(
    x_shape: tuple, w_shape: tuple, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Which element of y each product of an element of x and one of w belongs to: all (index in y, in x, in w)."""
    (N, _, H, W), (O, CG, KH, KW) = x_shape, w_shape
    (SH, SW), (DH, DW), (PH, PW) = stride, dilation, (padding[0][0], padding[1][0])
    OH, OW = conv_size(H, KH, SH, padding[0], DH), conv_size(W, KW, SW, padding[1], DW)
    for n in range(N):
        for o in range(O):
            first = o // (O // groups) * CG  # channel of the group
            for oh in range(OH):
                for ow in range(OW):
                    for c in range(CG):
                        for kh in range(KH):
                            for kw in range(KW):
                                ih, iw = oh * SH + kh * DH - PH, ow * SW + kw * DW - PW
                                if 0 <= ih < H and 0 <= iw < W:  # outside lies the padding, which is zero
                                    yield (n, o, oh, ow), (n, first + c, ih, iw), (o, c, kh, kw)


def conv2d_loops(x: Array, w: Array, b: Array | None, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> Array:
    """Convolution as it is defined, one multiplication at a time: to be read and to test the others by, not to be used."""
    OH, OW = (conv_size(x.shape[2 + i], w.shape[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    y = xp_of(x).zeros((len(x), len(w), OH, OW), x.dtype)
    if b is not None:
        y += b[:, None, None]
    for i_y, i_x, i_w in _products(x.shape, w.shape, stride, padding, dilation, groups):
        y[i_y] += x[i_x] * w[i_w]
    return y


def conv2d_loops_backward(
    gy: Array,
    x: Array | None,
    w: Array,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of the same products: from y = x w follow gx = gy w and gw = gy x."""
    shape = (len(gy), w.shape[1] * groups, *size)
    xp = xp_of(gy)
    gx = xp.zeros(shape, gy.dtype) if needs[0] else None
    gw = xp.zeros(w.shape, gy.dtype) if needs[1] else None
    for i_y, i_x, i_w in _products(shape, w.shape, stride, padding, dilation, groups):
        if gx is not None:
            gx[i_x] += gy[i_y] * w[i_w]
        if gw is not None and x is not None:
            gw[i_w] += gy[i_y] * x[i_x]
    return gx, gw, gy.sum((0, 2, 3)) if needs[2] else None


def _pieces(
    x_shape: tuple, w_shape: tuple, stride: Pair, padding: Padding, dilation: Pair, xp: Any, itemsize: int
) -> Iterator[tuple]:
    """The blocks of a convolution: (images, output rows, the input rows these see, the padding that is left for them)."""
    (N, C, H, W), (_, _, KH, KW), SH, DH = x_shape, w_shape, stride[0], dilation[0]
    top = padding[0][0]
    OH, OW = conv_size(H, KH, SH, padding[0], DH), conv_size(W, KW, stride[1], padding[1], dilation[1])
    limit = BLOCK_BYTES if xp is np else BLOCK_BYTES_GPU
    for images, rows in blocks(N, OH, OW * C * KH * KW * itemsize, limit):
        begin, end = rows.start * SH - top, (rows.stop - 1) * SH - top + (KH - 1) * DH + 1
        first, last = min(max(begin, 0), H), min(max(end, 0), H)
        yield images, rows, slice(first, last), ((first - begin, end - last), padding[1])


@np.errstate(invalid="ignore", over="ignore")
def conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    algorithm: str = "auto",
) -> Array:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh SH + kh DH - top, ow SW + kw DW - left].

    As a matrix product: (O, C KH KW) weights times (C KH KW, pixels) columns, for each group of channels.
    """
    if algorithm == "loops":
        return conv2d_loops(x, w, b, stride, padding, dilation, groups)
    xp = xp_of(x)
    (N, _, H, W), (O, _, KH, KW), G = x.shape, w.shape, groups
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    weights = w.reshape(G, O // G, -1)
    y = xp.empty((N, OH, OW, O), x.dtype)
    for images, rows, seen, pad in _pieces(x.shape, w.shape, stride, padding, dilation, xp, x.dtype.itemsize):
        columns = im2col(x[images, :, seen], (KH, KW), stride, pad, dilation)
        n, _, P = columns.shape
        product = weights @ columns.reshape(n, G, -1, P)
        y[images, rows] = product.reshape(n, O, -1, OW).transpose(0, 2, 3, 1)
    if b is not None:
        y += b
    return y.transpose(0, 3, 1, 2)


@np.errstate(invalid="ignore", over="ignore")
def conv2d_backward(
    gy: Array,
    x: Array,
    w: Array,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
    algorithm: str = "auto",
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of a convolution of (H, W) = ``size`` images: gx, gw and gb, each None when ``needs`` says so.

    With y = weights @ columns:  gw = gy @ columns^T,  columns' gradient = weights^T @ gy,  and gx is its col2im.
    x is read for gw only, and may be None otherwise. The columns of forward are made again rather than kept.
    """
    if algorithm == "loops":
        return conv2d_loops_backward(gy, x, w, size, stride, padding, dilation, groups, needs)
    xp = xp_of(gy)
    (N, O, _, _), (_, CG, KH, KW), G = gy.shape, w.shape, groups
    shape = (N, CG * G, *size)
    weights = w.reshape(G, O // G, -1)
    gx = xp.zeros((N, *size, CG * G), gy.dtype).transpose(0, 3, 1, 2) if needs[0] else None
    gw = xp.zeros(weights.shape, gy.dtype) if needs[1] else None
    for images, rows, seen, pad in _pieces(shape, w.shape, stride, padding, dilation, xp, gy.dtype.itemsize):
        g = gy[images, :, rows]
        g = g.reshape(len(g), G, O // G, -1)
        if gx is not None:
            columns = weights.swapaxes(1, 2) @ g
            columns = columns.reshape(len(g), -1, g.shape[3])
            gx[images, :, seen] += col2im(columns, (seen.stop - seen.start, size[1]), (KH, KW), stride, pad, dilation)
        if gw is not None:
            columns = im2col(x[images, :, seen], (KH, KW), stride, pad, dilation)
            gw += (g @ columns.reshape(len(g), G, -1, g.shape[3]).swapaxes(2, 3)).sum(0)
    gb = gy.sum((2, 3)).sum(0) if needs[2] else None
    return gx, None if gw is None else gw.reshape(w.shape), gb
