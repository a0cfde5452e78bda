"""im2col and its transpose compiled by Numba: one plane (an image's channel) at a time, rows of pixels innermost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.generic.columns import Padding, Pair, conv_size
from minidl.memory import empty

__all__ = ["col2im", "im2col"]


@serial
def _seen(OW, kw, W, geometry):
    """Which of OW output pixels see a row of the image through tap kw: the first, one past the last, where the first looks."""
    SW, left, DW = geometry[1], geometry[3], geometry[5]
    start = kw * DW - left
    low = min(max((SW - 1 - start) // SW, 0), OW)
    high = max(min((W - start + SW - 1) // SW, OW), low)
    return low, high, start + low * SW


@threaded
def _to_columns(x, columns, geometry, part, parts):
    """Planes of x (planes, H, W) to columns (planes, KH, KW, OH, OW)."""
    if fork(part, parts):
        return
    SH, SW, top, _, DH, _ = geometry
    _, KH, KW, OH, _ = columns.shape
    planes, H, W = x.shape
    first, last = share(planes, part, parts)
    for plane in range(first, last):
        for kh in range(KH):
            for kw in range(KW):
                for oh in range(OH):
                    ih, line = oh * SH + kh * DH - top, columns[plane, kh, kw, oh]
                    low, high, start = _seen(columns.shape[4], kw, W, geometry)
                    if ih < 0 or ih >= H:
                        low = high = 0
                    line[:low] = 0
                    line[high:] = 0
                    inside = line[low:high]
                    if inside.size:
                        pixels = x[plane, ih, start::SW]
                        for i in range(inside.size):
                            inside[i] = pixels[i]


@threaded
def _from_columns(x, columns, geometry, part, parts):
    """The transpose: a row of x at a time is gathered from all the columns that hold it."""
    if fork(part, parts):
        return
    SH, SW, top, _, DH, _ = geometry
    _, KH, KW, OH, _ = columns.shape
    planes, H, W = x.shape
    first, last = share(planes * H, part, parts)
    for unit in range(first, last):
        plane, ih = unit // H, unit % H
        row = x[plane, ih]
        row[:] = 0
        for kh in range(KH):
            oh, rest = (ih + top - kh * DH) // SH, (ih + top - kh * DH) % SH
            if rest == 0 and 0 <= oh < OH:
                for kw in range(KW):
                    low, high, start = _seen(columns.shape[4], kw, W, geometry)
                    inside = columns[plane, kh, kw, oh, low:high]
                    if inside.size:
                        pixels = row[start::SW]
                        for i in range(inside.size):
                            pixels[i] += inside[i]


def _run(kernel: Callable, x: np.ndarray, columns: np.ndarray, stride: Pair, padding: Padding, dilation: Pair) -> None:
    (N, C, H, W), (_, _, KH, KW, OH, OW) = x.shape, columns.shape
    geometry = (*stride, padding[0][0], padding[1][0], *dilation)
    planes, flat = x.reshape(N * C, H, W), columns.reshape(N * C, KH, KW, OH, OW)
    kernel(min(threads(columns.size), max(N * C, 1)), planes, flat, geometry)


def im2col(x: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> np.ndarray:
    """(N, C, H, W) -> (N, C * KH * KW, OH * OW): column oh * OW + ow holds what the window at (oh, ow) sees."""
    (N, C, H, W), (KH, KW) = x.shape, kernel
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    columns = empty((N, C, KH, KW, OH, OW), x.dtype)
    _run(_to_columns, np.ascontiguousarray(x), columns, stride, padding, dilation)
    return columns.reshape(N, C * KH * KW, OH * OW)


def col2im(columns: np.ndarray, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> np.ndarray:
    """(N, C * KH * KW, OH * OW) -> (N, C, H, W): every pixel sums what the columns hold for it."""
    (H, W), (KH, KW) = size, kernel
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    N, C = len(columns), columns.shape[1] // (KH * KW)
    x = empty((N, C, H, W), columns.dtype)
    _run(_from_columns, x, np.ascontiguousarray(columns).reshape(N, C, KH, KW, OH, OW), stride, padding, dilation)
    return x
