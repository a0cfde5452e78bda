"""Depthwise convolution: every channel has its own kernel, so there is no sum over channels and nothing for a tile to share.

One loop over the channels of a pixel, which lie side by side, serves all three directions: of image, weights and output
the target gets the product of the other two.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.generic.conv import Padding, Pair

__all__ = ["INPUT", "OUTPUT", "WEIGHT", "depthwise"]

OUTPUT, INPUT, WEIGHT = 0, 1, 2  # what a pass adds to


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


def depthwise(x: np.ndarray, w: np.ndarray, y: np.ndarray, stride: Pair, padding: Padding, dilation: Pair, target: int) -> None:
    """Every channel with its own kernel: adds to y (OUTPUT), to x as gx (INPUT) or to w as gw per image (WEIGHT)."""
    w = w.reshape(-1, *w.shape[-4:-2], w.shape[-1])  # (1 or N, KH, KW, C)
    geometry = (*stride, padding[0][0], padding[1][0], *dilation)
    units = len(x) * (y.shape[1], x.shape[1], w.shape[1])[target]
    parts = threads(y.size * w.shape[1] * w.shape[2])
    if parts == 1:
        _depthwise_rows(x, w, y, 0, units, geometry, target)
    else:
        _depthwise_parallel(x, w, y, units, parts, geometry, target)
