"""Convolution on the CPU: im2col by Numba, products by BLAS, a cache-sized block at a time; depthwise directly.

Images are (N, H, W, C) and weights (KH, KW, C, O) in memory, so that the columns of a pixel, ordered (kh, kw, c),
are KH runs of KW * C values that lie side by side in the image too. A block of columns is (G, pixels, K) with
K = KH * KW * C / G, and for each group:  y = columns @ weights,  gw = columns^T @ gy,  columns' gradient = gy @ weights^T.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._blas import one_blas_thread
from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.generic.conv import BLOCK_BYTES, Padding, Pair, blocks, conv_size
from minidl.memory import channels_last, empty

__all__ = ["conv2d_backward", "conv2d_forward"]

IM2COL, COL2IM = 0, 1  # directions of a copy between image and columns
OUTPUT, INPUT, WEIGHT = 0, 1, 2  # what a depthwise pass adds to


@serial
def _walk_row(image, columns, begin, run, C, CG, channel, KW, SW, left, DW, direction):
    """One image row (W * C) and one kernel row of the columns (OW, K), which starts at position ``begin``.

    ``run`` pixels lie side by side on both sides. IM2COL copies them, with zeros outside of the image; COL2IM adds
    them to the image.
    """
    W = image.size // C
    for ow in range(columns.shape[0]):
        for kw in range(0, KW, run):
            iw = ow * SW - left + kw * DW
            low = min(max(-iw, 0), run)
            high = max(min(W - iw, run), low)
            at = begin + kw * CG
            inside = columns[ow, at + low * CG : at + high * CG]
            pixels = image[(iw + low) * C + channel : (iw + low) * C + channel + inside.size]
            if direction == IM2COL:
                columns[ow, at : at + low * CG] = 0
                columns[ow, at + high * CG : at + run * CG] = 0
                for i in range(inside.size):
                    inside[i] = pixels[i]
            else:
                for i in range(inside.size):
                    pixels[i] += inside[i]


@serial
def _walk(x, C, columns, image, row, rows, first, last, geometry, direction):
    """A part of a block: output rows ``first`` to ``last`` of the columns (IM2COL), or so many rows of the images (COL2IM).

    The block covers the images from ``image`` on, and of each the output rows ``row`` to ``row + rows``.
    """
    KH, KW, SH, SW, top, left, DH, DW = geometry
    G, H = columns.shape[0], x.shape[1]
    CG = C // G
    run = KW if G == 1 and DW == 1 else 1
    for unit in range(first, last):
        for kh in range(KH):
            begin = kh * KW * CG
            if direction == IM2COL:
                n, line = image + unit // rows, unit
                ih = (row + unit % rows) * SH - top + kh * DH
                if ih < 0 or ih >= H:
                    columns[:, line, :, begin : begin + KW * CG] = 0
                    continue
            else:  # seen from the image row, so that no two threads add to the same place
                n, ih = image + unit // H, unit % H
                oh = (ih + top - kh * DH) // SH
                if oh < row or oh >= row + rows or oh * SH != ih + top - kh * DH:
                    continue
                line = (n - image) * rows + oh - row
            for g in range(G):
                _walk_row(x[n, ih], columns[g, line], begin, run, C, CG, g * CG, KW, SW, left, DW, direction)


@parallel
def _walk_parallel(x, C, columns, image, row, rows, units, parts, geometry, direction):
    for t in prange(parts):
        _walk(x, C, columns, image, row, rows, t * units // parts, (t + 1) * units // parts, geometry, direction)


class _Columns:
    """The blocks of one convolution and the columns of one block at a time, in a buffer that all of them share."""

    def __init__(
        self, x_shape: tuple, w_shape: tuple, stride: Pair, padding: Padding, dilation: Pair, groups: int, dtype: np.dtype
    ):
        (N, H, W, C), (KH, KW, CG, _) = x_shape, w_shape
        OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
        self.C, self.groups = C, groups
        self.geometry = (KH, KW, *stride, padding[0][0], padding[1][0], *dilation)
        self.blocks = list(blocks(N, OH, OW * KH * KW * C * dtype.itemsize, BLOCK_BYTES))
        self.line = (OW, KH * KW * CG)
        # The columns of a 1x1 convolution are the image itself: nothing is copied.
        self.are_image = (KH, KW, *stride, *padding) == (1, 1, 1, 1, (0, 0), (0, 0))
        lines = 0 if self.are_image else max((self._lines(*block) for block in self.blocks), default=0)
        self.buffer = empty((groups * lines, *self.line), dtype)

    @staticmethod
    def _lines(images: slice, rows: slice) -> int:
        return (images.stop - images.start) * (rows.stop - rows.start)

    def room(self, x: np.ndarray, images: slice, rows: slice) -> np.ndarray:
        """(G, output rows, OW, K) to write the block's columns to; the memory of x itself where columns are the image."""
        if self.are_image:
            return _grouped(x[images, rows], self.groups)
        lines = self._lines(images, rows)
        return self.buffer[: self.groups * lines].reshape(self.groups, lines, *self.line)

    def read(self, x: np.ndarray, images: slice, rows: slice) -> np.ndarray:
        """im2col of the block: (G, pixels, K)."""
        columns = self.room(x, images, rows)
        if not self.are_image:
            self._walk(x, columns, images, rows, IM2COL)
        return columns.reshape(self.groups, -1, self.line[1])

    def add(self, g: np.ndarray, weights: np.ndarray, gx: np.ndarray, images: slice, rows: slice) -> None:
        """col2im of the block: the columns g @ weights, added to gx."""
        columns = self.room(gx, images, rows)
        np.matmul(g, weights, out=columns.reshape(self.groups, -1, self.line[1]))
        if not self.are_image:
            self._walk(gx, columns, images, rows, COL2IM)

    def _walk(self, x: np.ndarray, columns: np.ndarray, images: slice, rows: slice, direction: int) -> None:
        images_n, rows_n, H = images.stop - images.start, rows.stop - rows.start, x.shape[1]
        x = x.reshape(len(x), H, -1)
        block = (images.start, rows.start, rows_n)
        units = images_n * (rows_n if direction == IM2COL else H)
        parts = threads(columns.size)
        if parts == 1:
            _walk(x, self.C, columns, *block, 0, units, self.geometry, direction)
        else:
            _walk_parallel(x, self.C, columns, *block, units, parts, self.geometry, direction)


def _grouped(a: np.ndarray, groups: int) -> np.ndarray:
    """The view (G, everything else, D) of a contiguous (..., G * D) array."""
    return a.reshape(-1, groups, a.shape[-1] // groups).transpose(1, 0, 2)


def _spatial_first(w: np.ndarray) -> np.ndarray:
    """The contiguous (KH, KW, C/G, O) array of (O, C/G, KH, KW) weights; a copy when they lie otherwise."""
    w = w.transpose(2, 3, 1, 0)
    return w if w.flags.c_contiguous else np.ascontiguousarray(w)


@one_blas_thread()
@np.errstate(invalid="ignore", over="ignore")
def conv2d_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh SH + kh DH - top, ow SW + kw DW - left]."""
    x, w = channels_last(x), _spatial_first(w)
    (N, H, W, _), (KH, KW, CG, O) = x.shape, w.shape
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    y = empty((N, OH, OW, O), x.dtype)
    if groups == O and CG == 1:  # depthwise
        y[...] = 0 if b is None else b
        _depthwise(x, w, y, stride, padding, dilation, OUTPUT)
        return y.transpose(0, 3, 1, 2)
    columns = _Columns(x.shape, w.shape, stride, padding, dilation, groups, x.dtype)
    weights = _grouped(w, groups)
    for images, rows in columns.blocks:
        out = y[images, rows]
        np.matmul(columns.read(x, images, rows), weights, out=_grouped(out, groups))
        if b is not None:
            out += b
    return y.transpose(0, 3, 1, 2)


@one_blas_thread()
@np.errstate(invalid="ignore", over="ignore")
def conv2d_backward(
    gy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only."""
    gy, w = channels_last(gy), _spatial_first(w)
    (N, OH, OW, O), CG = gy.shape, w.shape[2]
    shape = (N, *size, CG * groups)
    gx = empty(shape, gy.dtype) if needs[0] else None
    gw = empty(w.shape, gy.dtype) if needs[1] else None
    # Summed per image first: one long running sum would lose digits.
    gb = np.matmul(np.ones((1, OH * OW), gy.dtype), gy.reshape(N, OH * OW, O)).sum((0, 1)) if needs[2] else None
    if groups == O and CG == 1:  # depthwise
        if gx is not None:
            gx[...] = 0
            _depthwise(gx, w, gy, stride, padding, dilation, INPUT)
        if gw is not None:
            per_image = np.zeros((N, *w.shape), gy.dtype)
            _depthwise(channels_last(x), per_image, gy, stride, padding, dilation, WEIGHT)
            per_image.sum(0, out=gw)
    else:
        columns = _Columns(shape, w.shape, stride, padding, dilation, groups, gy.dtype)
        weights = _grouped(w, groups).swapaxes(1, 2)
        if gx is not None and not columns.are_image:
            gx[...] = 0
        if gw is not None:
            x = channels_last(x)
            gw[...] = 0
            product = empty((groups, columns.line[1], O // groups), gy.dtype)
        for images, rows in columns.blocks:
            g = _grouped(gy[images, rows], groups)
            if gw is not None:
                total = _grouped(gw, groups)
                total += np.matmul(columns.read(x, images, rows).swapaxes(1, 2), g, out=product)
            if gx is not None:
                columns.add(g, weights, gx, images, rows)
    return (
        None if gx is None else gx.transpose(0, 3, 1, 2),
        None if gw is None else gw.transpose(3, 2, 0, 1),
        gb,
    )


@serial
def _depthwise_row(x, w, y, SW, left, DW, target):
    """One image row (W, C), one kernel row (KW, C), one output row (OW, C): the target gets the product of the other two."""
    for ow in range(y.shape[0]):
        for kw in range(w.shape[0]):
            iw = ow * SW - left + kw * DW
            if 0 <= iw < x.shape[0]:
                xs, ws, ys = x[iw], w[kw], y[ow]
                if target == OUTPUT:
                    for c in range(ys.size):
                        ys[c] += xs[c] * ws[c]
                elif target == INPUT:
                    for c in range(xs.size):
                        xs[c] += ys[c] * ws[c]
                else:
                    for c in range(ws.size):
                        ws[c] += ys[c] * xs[c]


@serial
def _depthwise_rows(x, w, y, first, last, geometry, target):
    """A part of the rows of the target: of y, of gx, or of each image's own share of gw (then w is (N, KH, KW, C))."""
    SH, SW, top, left, DH, DW = geometry
    H, OH, KH = x.shape[1], y.shape[1], w.shape[1]
    for unit in range(first, last):
        if target == OUTPUT:
            n, oh = unit // OH, unit % OH
            for kh in range(KH):
                ih = oh * SH - top + kh * DH
                if 0 <= ih < H:
                    _depthwise_row(x[n, ih], w[0, kh], y[n, oh], SW, left, DW, target)
        elif target == INPUT:
            n, ih = unit // H, unit % H
            for kh in range(KH):
                oh = (ih + top - kh * DH) // SH
                if 0 <= oh < OH and oh * SH == ih + top - kh * DH:
                    _depthwise_row(x[n, ih], w[0, kh], y[n, oh], SW, left, DW, target)
        else:
            n, kh = unit // KH, unit % KH
            for oh in range(OH):
                ih = oh * SH - top + kh * DH
                if 0 <= ih < H:
                    _depthwise_row(x[n, ih], w[n, kh], y[n, oh], SW, left, DW, target)


@parallel
def _depthwise_parallel(x, w, y, units, parts, geometry, target):
    for t in prange(parts):
        _depthwise_rows(x, w, y, t * units // parts, (t + 1) * units // parts, geometry, target)


def _depthwise(
    x: np.ndarray, w: np.ndarray, y: np.ndarray, stride: Pair, padding: Padding, dilation: Pair, target: int
) -> None:
    """Every channel with its own kernel: adds to y (OUTPUT), to x as gx (INPUT) or to w as gw per image (WEIGHT)."""
    w = w.reshape(-1, *w.shape[-4:-2], w.shape[-1])  # (1 or N, KH, KW, C)
    geometry = (*stride, padding[0][0], padding[1][0], *dilation)
    units = len(x) * (y.shape[1], x.shape[1], w.shape[1])[target]
    parts = threads(y.size * w.shape[1] * w.shape[2])
    if parts == 1:
        _depthwise_rows(x, w, y, 0, units, geometry, target)
    else:
        _depthwise_parallel(x, w, y, units, parts, geometry, target)
