"""Convolution on the CPU: which algorithm computes what.

Images are (N, H, W, C) and weights (KH, KW, C/G, O) in memory.

    depthwise (G = C = O)                 plain loops over the channels                        _depthwise.py
    3x3, stride 1, float32, C and O >= 16 Winograd F(4x4, 3x3), where it saves work            winograd.py
    y, gw, gb                             sums on register tiles, from the images              _direct.py, correlate
    gx                                    the same sums, on gy with the kernel turned          _direct.py, correlate
    gx where that is wasteful             products of gy and weights, added window by window   _direct.py, scatter
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._depthwise import INPUT, OUTPUT, WEIGHT, depthwise
from minidl.kernels.cpu._direct import Axis, correlate, forward_axis, gradient_axes, padded, scatter, weight_gradient
from minidl.kernels.cpu._tile import lanes
from minidl.kernels.cpu.winograd import winograd_backward, winograd_forward, winograd_pays
from minidl.kernels.generic.conv import Padding, Pair
from minidl.memory import channels_last, empty

__all__ = ["conv2d_backward", "conv2d_forward"]

MOST_PHASES = 16  # of a strided gx; each is a convolution of its own


def _spatial_first(w: np.ndarray) -> np.ndarray:
    """The contiguous (KH, KW, C/G, O) array of (O, C/G, KH, KW) weights; a copy when they lie otherwise."""
    w = w.transpose(2, 3, 1, 0)
    return w if w.flags.c_contiguous else np.ascontiguousarray(w)


def conv2d_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh SH + kh DH - top, ow SW + kw DW - left]."""
    if winograd_pays(x.shape, w.shape, stride, padding, dilation, groups, x.dtype):
        return winograd_forward(x, w, b, padding)
    x, w = channels_last(x), _spatial_first(w)
    h, v = (forward_axis(x.shape[1 + i], w.shape[i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    y = empty((len(x), h.outputs, v.outputs, w.shape[3]), x.dtype)
    if groups == w.shape[3] and w.shape[2] == 1:
        y[...] = 0 if b is None else b
        depthwise(x, w, y, stride, padding, dilation, OUTPUT)
    else:
        correlate(x, w, b, y, h, v, groups)
    return y.transpose(0, 3, 1, 2)


@np.errstate(invalid="ignore", over="ignore")
def conv2d_backward(
    gy: np.ndarray,
    x: np.ndarray | None,
    w: np.ndarray,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only."""
    shape = (len(gy), w.shape[1] * groups, *size)
    if winograd_pays(shape, w.shape, stride, padding, dilation, groups, gy.dtype):
        return winograd_backward(gy, x, w, size, padding, needs)
    gy, w = channels_last(gy), _spatial_first(w)
    image = (*size, w.shape[2] * groups)
    gx = empty((len(gy), *image), gy.dtype) if needs[0] else None
    gw = empty(w.shape, gy.dtype) if needs[1] else None
    gb = empty((w.shape[3],), gy.dtype) if needs[2] else None
    images = channels_last(x) if needs[1] and x is not None else None
    h, v = (forward_axis(size[i], w.shape[i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    if groups == w.shape[3] and w.shape[2] == 1:
        if gx is not None:
            gx[...] = 0
            depthwise(gx, w, gy, stride, padding, dilation, INPUT)
        if gw is not None and images is not None:
            per_image = np.zeros((len(gy), *w.shape), gy.dtype)
            depthwise(images, per_image, gy, stride, padding, dilation, WEIGHT)
            per_image.sum(0, out=gw)
        if gb is not None:
            weight_gradient(gy, None, None, gb, image, h, v, groups)
    else:
        if gx is not None and _window_by_window(w, size, h, v, stride, groups):
            scatter(gy, w, gx, h, v, groups)
        elif gx is not None:
            phases = [gradient_axes(size[i], w.shape[i], stride[i], padding[i], dilation[i]) for i in (0, 1)]
            for rows in phases[0]:
                for columns in phases[1]:
                    correlate(gy, w, None, gx, rows, columns, groups, transposed=True)
        if gw is not None or gb is not None:
            weight_gradient(gy, images, gw, gb, image, h, v, groups)
    return (
        None if gx is None else gx.transpose(0, 3, 1, 2),
        None if gw is None else gw.transpose(3, 2, 0, 1),
        gb,
    )


def _window_by_window(w: np.ndarray, size: Pair, h: Axis, v: Axis, stride: Pair, groups: int) -> bool:
    """Whether gx costs less a window at a time. The factors are rough, from measurements.

    A window at a time, a tile's columns are (kh, kw, c) and not c alone, and nothing is computed for padding; but the
    windows have to be added up. The other form is slower with half a tile, and for the few taps that a stride leaves.
    """
    (KH, KW, CG, O), vector, phases = w.shape, lanes(w.dtype), stride[0] * stride[1]
    slower = 1.3 ** ((padded(CG, vector) == vector) + (phases > 1))
    turned = size[0] * size[1] / phases * KH * KW * padded(CG, vector) * slower
    windows = h.outputs * v.outputs * padded(KH * KW * CG, vector) * (1 + 12 * groups / O)
    return windows < turned or phases > MOST_PHASES
