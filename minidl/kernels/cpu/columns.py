"""im2col and its transpose compiled by Numba: one plane (an image's channel) at a time, rows of pixels innermost."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.generic.columns import Padding, Pair, conv_size
from minidl.memory import empty

__all__ = ["col2im", "im2col"]


@serial
def _planes(x, columns, first, last, geometry, back):
    """Planes ``first`` to ``last`` of x (planes, H, W) to columns (planes, KH, KW, OH, OW), or, ``back``, summed into x.

    A plane belongs to one thread, so that no two threads add to the same pixel.
    """
    SH, SW, top, left, DH, DW = geometry
    KH, KW, OH, OW = columns.shape[1:]
    H, W = x.shape[1:]
    for plane in range(first, last):
        for kh in range(KH):
            for kw in range(KW):
                for oh in range(OH):
                    ih, start = oh * SH + kh * DH - top, kw * DW - left
                    line = columns[plane, kh, kw, oh]
                    # the output pixels low <= ow < high see the image, the others padding
                    low = min(max((SW - 1 - start) // SW, 0), OW)
                    high = max(min((W - start + SW - 1) // SW, OW), low)
                    if ih < 0 or ih >= H:
                        low = high = 0
                    if not back:
                        line[:low] = 0
                        line[high:] = 0
                    seen = line[low:high]
                    if seen.size:
                        pixels = x[plane, ih, start + low * SW :: SW]
                        if back:
                            for i in range(seen.size):
                                pixels[i] += seen[i]
                        else:
                            for i in range(seen.size):
                                seen[i] = pixels[i]


@parallel
def _planes_parallel(x, columns, parts, geometry, back):
    planes = x.shape[0]
    for t in prange(parts):
        _planes(x, columns, t * planes // parts, (t + 1) * planes // parts, geometry, back)


def _run(x: np.ndarray, columns: np.ndarray, stride: Pair, padding: Padding, dilation: Pair, back: bool) -> None:
    (N, C, H, W), (_, _, KH, KW, OH, OW) = x.shape, columns.shape
    geometry = (*stride, padding[0][0], padding[1][0], *dilation)
    planes, flat = x.reshape(N * C, H, W), columns.reshape(N * C, KH, KW, OH, OW)
    parts = min(threads(columns.size), max(N * C, 1))
    if parts == 1:
        _planes(planes, flat, 0, N * C, geometry, back)
    else:
        _planes_parallel(planes, flat, parts, geometry, back)


def im2col(x: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> np.ndarray:
    """(N, C, H, W) -> (N, C * KH * KW, OH * OW): column oh * OW + ow holds what the window at (oh, ow) sees."""
    (N, C, H, W), (KH, KW) = x.shape, kernel
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    columns = empty((N, C, KH, KW, OH, OW), x.dtype)
    _run(np.ascontiguousarray(x), columns, stride, padding, dilation, back=False)
    return columns.reshape(N, C * KH * KW, OH * OW)


def col2im(columns: np.ndarray, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> np.ndarray:
    """(N, C * KH * KW, OH * OW) -> (N, C, H, W): every pixel sums what the columns hold for it."""
    (H, W), (KH, KW) = size, kernel
    OH, OW = conv_size(H, KH, stride[0], padding[0], dilation[0]), conv_size(W, KW, stride[1], padding[1], dilation[1])
    N, C = len(columns), columns.shape[1] // (KH * KW)
    x = empty((N, C, H, W), columns.dtype)
    x[...] = 0
    _run(x, np.ascontiguousarray(columns).reshape(N, C, KH, KW, OH, OW), stride, padding, dilation, back=True)
    return x
