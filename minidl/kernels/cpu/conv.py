"""Convolution on the CPU: which algorithm computes what.

Images are (N, H, W, C) and weights (KH, KW, C/G, O) in memory.

    winograd4   Winograd F(4x4, 3x3): 3x3, stride 1, float32, where it saves work           winograd.py
    winograd2   Winograd F(2x2, 3x3): less saved, and more exact than a direct sum          winograd.py
    depthwise   plain sums over the window, channels side by side: G = C = O                _depthwise.py
    direct      sums on register tiles, from the images:                                    _direct.py
                y, gw, gb; gx likewise, from gy with the kernel turned, or, where that is
                wasteful, as products of gy and weights that are added window by window; gw of
                1x1 kernels with many channels as a product of matrices                 _product.py
    im2col      the windows as columns of a matrix, and BLAS: the textbook                  generic/conv.py
    loops       the definition                                                              generic/conv.py

``conv2d_algorithms`` tells which of them can compute a convolution, and chooses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidl.kernels.cpu._depthwise import depthwise, depthwise_weights
from minidl.kernels.cpu._direct import correlate, padded, scatter, weight_gradient
from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._positions import Axis, forward_axis, gradient_axes
from minidl.kernels.cpu._product import product
from minidl.kernels.cpu._relu_pool import PLAIN, POOL, RELU, follow, undo
from minidl.kernels.cpu._tile import lanes
from minidl.kernels.cpu.winograd import winograd_backward, winograd_can, winograd_forward, winograd_pays
from minidl.kernels.generic import conv as textbook
from minidl.kernels.generic.conv import Padding, Pair
from minidl.memory import channels_last, empty, spatial_first

__all__ = [
    "conv2d_algorithms",
    "conv2d_backward",
    "conv2d_forward",
    "conv2d_relu_backward",
    "conv2d_relu_forward",
    "images",
]

Needs = tuple[bool, bool, bool]
Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

MANY_CHANNELS = 256  # of pixels from which gw of a 1x1 convolution is a product of matrices
MOST_PHASES = 16  # of a strided gx; each is a convolution of its own
WINOGRAD = {"winograd4": 4, "winograd2": 2}  # the side of a tile of outputs


@lru_cache(maxsize=1024)
def conv2d_algorithms(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    dtype: Any,
    follows: int = PLAIN,
) -> tuple[str, ...]:
    """The names of the algorithms that can compute a convolution; the first is the one that "auto" takes.

    Depthwise where it applies; Winograd F(4x4, 3x3) where it pays; else direct. float64 is for checking gradients, which
    the rounding of F(4x4, 3x3) would disturb. F(2x2, 3x3) is never the fastest of all.
    """
    geometry = x_shape, w_shape, stride, padding, dilation, groups, dtype
    possible = ["direct", "im2col", "loops"]
    if winograd_can(*geometry):
        possible[1:1] = ["winograd4", "winograd2"]
        if winograd_pays(*geometry, follows):
            possible.insert(0, possible.pop(1))
    if groups == x_shape[1] == w_shape[0]:
        possible.insert(0, "depthwise")
    return tuple(possible)


def _axes(size: Pair, w: np.ndarray, stride: Pair, padding: Padding, dilation: Pair) -> tuple[Axis, Axis]:
    """Both axes of a convolution of (H, W) images with (KH, KW, C/G, O) weights."""
    return (
        forward_axis(size[0], w.shape[0], stride[0], padding[0], dilation[0]),
        forward_axis(size[1], w.shape[1], stride[1], padding[1], dilation[1]),
    )


@threaded
def _interleave(x, y, part, parts):
    """y[n, p, c] = x[n, c, p], some pixels at a time, so that both lie in the cache."""
    if fork(part, parts):
        return
    N, C, P = x.shape
    first, last = share(N, part, parts)
    for n in range(first, last):
        for p in range(0, P, 256):
            for c in range(C):
                plane, pixels = x[n, c, p : p + 256], y[n, p : p + 256]
                for i in range(plane.size):
                    pixels[i, c] = plane[i]


def images(x: np.ndarray) -> np.ndarray:
    """x as these kernels read it, channels last in memory, so that backward need not copy it again; shown as (N, C, H, W)."""
    if not x.flags.c_contiguous or x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return channels_last(x).transpose(0, 3, 1, 2)
    N, C, H, W = x.shape
    y = empty((N, H, W, C), x.dtype)
    _interleave(threads(x.size), x.reshape(N, C, H * W), y.reshape(N, H * W, C))
    return y.transpose(0, 3, 1, 2)


# ---------------------------------------------------------------- forward


def conv2d_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    algorithm: str = "auto",
) -> np.ndarray:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh SH + kh DH - top, ow SW + kw DW - left]."""
    if algorithm in ("im2col", "loops"):
        return textbook.conv2d_forward(x, w, b, stride, padding, dilation, groups, algorithm)
    return _forward(x, w, b, stride, padding, dilation, groups, algorithm, PLAIN)[0]


def conv2d_relu_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    pool: int,
) -> tuple[np.ndarray, np.ndarray]:
    """y = max(conv2d(x), 0), for ``pool`` = 2 the largest of each 2x2 window; and y, or the windows' winners, for backward."""
    return _forward(x, w, b, stride, padding, dilation, groups, "auto", RELU if pool == 1 else POOL)


def _forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    algorithm: str,
    follows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What follows, done to the results of the convolution, and what it keeps."""
    if algorithm == "auto":
        algorithm = conv2d_algorithms(x.shape, w.shape, stride, padding, dilation, groups, x.dtype, follows)[0]
    if algorithm in WINOGRAD:
        return winograd_forward(x, w, b, padding, follows, WINOGRAD[algorithm])
    x, w = channels_last(x), spatial_first(w)
    h, v = _axes(x.shape[1:3], w, stride, padding, dilation)
    shape = len(x), h.outputs, v.outputs, w.shape[3]
    if algorithm == "depthwise":
        y = empty(shape, x.dtype)
        depthwise(x, w, b, y, (h,), (v,))
        y, kept = (y, y) if follows == PLAIN else follow(y, follows)
    elif follows == POOL:
        shape = len(x), h.outputs // 2, v.outputs // 2, w.shape[3]
        y, kept = empty(shape, x.dtype), empty(shape, np.uint8)
        correlate(x, w, b, y, h, v, groups, follows=POOL, winner=kept)
    else:
        kept = y = empty(shape, x.dtype)
        correlate(x, w, b, y, h, v, groups, follows=follows)
    return y.transpose(0, 3, 1, 2), kept.transpose(0, 3, 1, 2)


# ---------------------------------------------------------------- backward


def conv2d_backward(
    gy: np.ndarray,
    x: np.ndarray | None,
    w: np.ndarray,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: Needs,
    algorithm: str = "auto",
) -> Gradients:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only."""
    if algorithm in ("im2col", "loops"):
        return textbook.conv2d_backward(gy, x, w, size, stride, padding, dilation, groups, needs, algorithm)
    return _backward(gy, None, x, w, size, stride, padding, dilation, groups, needs, algorithm, PLAIN)


def conv2d_relu_backward(
    gy: np.ndarray,
    kept: np.ndarray,
    x: np.ndarray | None,
    w: np.ndarray,
    size: Pair,
    out_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    pool: int,
    needs: Needs,
) -> Gradients:
    """gx, gw and gb, each None when not needed; ``kept`` as forward gave it, ``out_size`` (OH, OW) before pooling."""
    follows = RELU if pool == 1 else POOL
    return _backward(gy, kept, x, w, size, stride, padding, dilation, groups, needs, "auto", follows)


@np.errstate(invalid="ignore", over="ignore")
def _backward(
    gy: np.ndarray,
    kept: np.ndarray | None,
    x: np.ndarray | None,
    w: np.ndarray,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: Needs,
    algorithm: str,
    follows: int,
) -> Gradients:
    if algorithm == "auto":
        shape = (len(gy), w.shape[1] * groups, *size)
        algorithm = conv2d_algorithms(shape, w.shape, stride, padding, dilation, groups, gy.dtype, follows)[0]
    if algorithm in WINOGRAD:
        return winograd_backward(gy, x, w, size, padding, needs, follows, kept, WINOGRAD[algorithm])
    gy, w = channels_last(gy), spatial_first(w)
    h, v = _axes(size, w, stride, padding, dilation)
    if kept is not None:
        kept = channels_last(kept)
        if needs[0] or algorithm == "depthwise":  # only the gradients of weights are made piece by piece
            gy, kept, follows = undo(gy, kept, (h.outputs, v.outputs), follows), None, PLAIN
    image = (*size, w.shape[2] * groups)
    gx = empty((len(gy), *image), gy.dtype) if needs[0] else None
    gw = empty(w.shape, gy.dtype) if needs[1] else None
    gb = empty((w.shape[3],), gy.dtype) if needs[2] else None
    images = channels_last(x) if needs[1] and x is not None else None
    if gx is not None and algorithm != "depthwise" and _window_by_window(w, size, h, v, stride, groups):
        scatter(gy, w, gx, h, v, groups)
    elif gx is not None:
        phases = [gradient_axes(size[i], w.shape[i], stride[i], padding[i], dilation[i]) for i in (0, 1)]
        if algorithm == "depthwise":
            depthwise(gy, w, None, gx, tuple(phases[0]), tuple(phases[1]))
        else:
            for rows in phases[0]:
                for columns in phases[1]:
                    correlate(gy, w, None, gx, rows, columns, groups, transposed=True)
    if algorithm == "depthwise" and gw is not None and images is not None:
        depthwise_weights(images, gy, gw, gb, h, v)
    elif gw is not None and images is not None and follows == PLAIN and groups == 1 and _by_product(w, stride, h, v, size):
        if not _weights_by_product(gy, images, gw, gb):
            weight_gradient(gy, None, None, gb, image, h, v, groups)
    elif gw is not None or gb is not None:
        weight_gradient(gy, images, gw, gb, image, h, v, groups, follows, kept)
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
    return (windows < turned and KH * KW * phases > 1) or phases > MOST_PHASES


def _by_product(w: np.ndarray, stride: Pair, h: Axis, v: Axis, size: Pair) -> bool:
    """Whether gw costs less as a product of matrices: windows of one pixel, and so many channels that pixels are far apart."""
    (KH, KW, CG, O), same = w.shape, (h.outputs, v.outputs) == size and (h.start, v.start) == (0, 0)
    return KH * KW == 1 and same and stride == (1, 1) and max(CG, O) >= MANY_CHANNELS


def _weights_by_product(gy: np.ndarray, x: np.ndarray, gw: np.ndarray, gb: np.ndarray | None) -> bool:
    """gw = x^T gy of the pixels, or gw^T = gy^T x: the product turns its left side, so that is the one of fewer channels.

    Returns whether gb, too, is filled.
    """
    C, O = gw.shape[2:]
    pixels, gradients = x.reshape(-1, C), gy.reshape(-1, O)
    if O > C:
        gw[0, 0] = product(pixels.T, gradients)
        return gb is None
    gw[0, 0] = product(gradients.T, pixels, sums=gb).T
    return True
