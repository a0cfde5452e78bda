"""Convolution on the GPU: which algorithm computes what.

Images are (N, H, W, C) and weights (KH, KW, C/G, O) in memory.

    product     kernels of 1x1, stride 1: a plain matrix product, by cuBLAS                   linear.py
    depthwise   sums over the window, a thread for a few pixels: G = C = O                    _depthwise.py
    implicit    a matrix product that finds its columns in the images as it goes              _implicit.py
    im2col      the columns written out, a bounded piece at a time, and cuBLAS                 columns.py
    loops       the definition, on the CPU                                                    generic/conv.py

``conv2d_algorithms`` tells which of them can compute a convolution, and chooses. All of them add in an order that depends on
the sizes alone, so that the same call gives the same bits; none waits for the GPU, except loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from minidl.backend import Array, to_numpy, xp_of
from minidl.kernels.cuda._axes import Sizes, channels_last, sizes_of, spatial_first
from minidl.kernels.cuda._depthwise import depthwise, depthwise_weights
from minidl.kernels.cuda._implicit import PLAIN, RELU, forward, images_gradient, weights_gradient
from minidl.kernels.cuda._sums import add_bias, column_sums
from minidl.kernels.cuda.columns import add_from_rows, to_rows
from minidl.kernels.cuda.linear import product
from minidl.kernels.generic import conv as textbook
from minidl.kernels.generic.columns import Padding, Pair

__all__ = ["conv2d_algorithms", "conv2d_backward", "conv2d_forward", "images"]

Needs = tuple[bool, bool, bool]
Gradients = tuple[Array | None, Array | None, Array | None]

BLOCK_BYTES = 1 << 28  # of columns that im2col writes at a time; enough to fill the GPU, and little beside its memory


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

    Depthwise where it applies, because a matrix product would compute with one column of its tile. A 1x1 convolution is a
    product already, and cuBLAS has the faster kernels; but what follows would be one more pass over all results, which
    costs as much as some hundred multiplications for each of them, and implicit does it on the way. Otherwise implicit: im2col
    writes and reads KH KW times as much as the images hold, and is there to compare.
    """
    possible = ["implicit", "im2col", "loops"]
    if w_shape[2:] == (1, 1) == stride and groups == 1 and padding == ((0, 0), (0, 0)):
        possible.insert(0 if follows == PLAIN else 1, "product")
    if groups == x_shape[1] == w_shape[0]:
        possible.insert(0, "depthwise")
    return tuple(possible)


def images(x: Array) -> Array:
    """x as these kernels read it, channels last in memory, so that backward need not copy it again; shown as (N, C, H, W)."""
    return channels_last(x).transpose(0, 3, 1, 2)


def _pieces(sizes: Sizes, a: Array) -> Iterator[tuple[slice, Array]]:
    """Results (n, oh, ow), as many at a time as fit, and memory for what they see: (G, results, KH KW C/G)."""
    results, seen = sizes.N * sizes.OH * sizes.OW, sizes.KH * sizes.KW * sizes.C // sizes.groups
    count = min(max(1, BLOCK_BYTES // (sizes.groups * seen * a.itemsize)), results)
    memory = xp_of(a).empty(sizes.groups * count * seen, a.dtype)
    for begin in range(0, results, max(count, 1)):
        n = min(count, results - begin)
        yield slice(begin, begin + n), memory[: sizes.groups * n * seen].reshape(sizes.groups, n, seen)


# ---------------------------------------------------------------- forward


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
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh SH + kh DH - top, ow SW + kw DW - left]."""
    return convolve(x, w, b, stride, padding, dilation, groups, algorithm, PLAIN)


def convolve(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    algorithm: str,
    follows: int,
) -> Array:
    """The convolution, and ReLU where it follows."""
    if algorithm == "auto":
        algorithm = conv2d_algorithms(x.shape, w.shape, stride, padding, dilation, groups, x.dtype, follows)[0]
    xp = xp_of(x)
    if algorithm == "loops":
        y = textbook.conv2d_loops(to_numpy(x), to_numpy(w), _on_cpu(b), stride, padding, dilation, groups)
        return images(xp.asarray(y))
    sizes = sizes_of(len(x), x.shape[2:], w.shape, stride, padding, dilation, groups)
    x, w, relu = channels_last(x), spatial_first(w), follows == RELU
    y = xp.empty((sizes.N, sizes.OH, sizes.OW, sizes.O), x.dtype)
    if algorithm == "depthwise":
        depthwise(x, w, b, y, sizes, relu=relu)
    elif algorithm == "product":
        product(x.reshape(-1, sizes.C), w[0, 0], y.reshape(-1, sizes.O))
        add_bias(y, b, relu)
    elif algorithm == "im2col":
        _forward_im2col(x, w, y, sizes)
        add_bias(y, b, relu)
    else:
        forward(x, w, b, y, sizes, follows)
    return y.transpose(0, 3, 1, 2)


def _forward_im2col(x: Array, w: Array, y: Array, sizes: Sizes) -> None:
    """y = columns w, group by group."""
    weights, results, OG = w.reshape(-1, sizes.O), y.reshape(-1, sizes.O), sizes.O // sizes.groups
    for piece, rows in _pieces(sizes, x):
        to_rows(x, rows, sizes, piece.start)
        for g in range(sizes.groups):
            of_group = slice(g * OG, (g + 1) * OG)
            if sizes.groups == 1:
                product(rows[0], weights, results[piece])
            else:
                results[piece, of_group] = product(rows[g], weights[:, of_group])


# ---------------------------------------------------------------- backward


def conv2d_backward(
    gy: Array,
    x: Array | None,
    w: Array,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    needs: Needs,
    algorithm: str = "auto",
) -> Gradients:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only."""
    shape = len(gy), w.shape[1] * groups, *size
    if algorithm == "auto":
        algorithm = conv2d_algorithms(shape, w.shape, stride, padding, dilation, groups, gy.dtype)[0]
    if algorithm == "loops":
        given = to_numpy(gy), _on_cpu(x), to_numpy(w)
        gx, gw, gb = textbook.conv2d_loops_backward(*given, size, stride, padding, dilation, groups, needs)
        return tuple(None if g is None else xp_of(gy).asarray(g) for g in (gx, gw, gb))  # type: ignore[return-value]
    xp, sizes = xp_of(gy), sizes_of(len(gy), size, w.shape, stride, padding, dilation, groups)
    gy, w = channels_last(gy), spatial_first(w)
    x = channels_last(x) if needs[1] and x is not None else None
    gx = xp.empty((sizes.N, sizes.H, sizes.W, sizes.C), gy.dtype) if needs[0] else None
    gw = xp.empty(w.shape, gy.dtype) if needs[1] else None
    gb = column_sums(gy.reshape(-1, sizes.O)) if needs[2] else None
    if algorithm == "im2col":
        _backward_im2col(gy, x, w, gx, gw, sizes)
        return _shown(gx, gw, gb)
    if gx is not None and algorithm == "depthwise":
        depthwise(gy, w, None, gx, sizes, turned=True)
    elif gx is not None and algorithm == "product":
        product(gy.reshape(-1, sizes.O), w[0, 0].T, gx.reshape(-1, sizes.C))
    elif gx is not None:
        images_gradient(gy, w, gx, sizes)
    if gw is not None and x is not None:
        if algorithm == "depthwise":
            depthwise_weights(x, gy, gw, sizes)
        elif algorithm == "product":
            product(x.reshape(-1, sizes.C).T, gy.reshape(-1, sizes.O), gw[0, 0])
        else:
            weights_gradient(x, gy, gw, sizes)
    return _shown(gx, gw, gb)


def _shown(gx: Array | None, gw: Array | None, gb: Array | None) -> Gradients:
    return None if gx is None else gx.transpose(0, 3, 1, 2), None if gw is None else gw.transpose(3, 2, 0, 1), gb


def _on_cpu(a: Array | None) -> Array | None:
    return None if a is None else to_numpy(a)


def _backward_im2col(gy: Array, x: Array | None, w: Array, gx: Array | None, gw: Array | None, sizes: Sizes) -> None:
    """gw = columns^T gy, columns' gradient = gy w^T, and gx adds these; piece by piece, in order."""
    weights, results, OG = w.reshape(-1, sizes.O), gy.reshape(-1, sizes.O), sizes.O // sizes.groups
    for sum_of_pieces in (gx, gw):
        if sum_of_pieces is not None:
            sum_of_pieces.fill(0)
    for piece, rows in _pieces(sizes, gy):
        parts = [results[piece, g * OG : (g + 1) * OG] for g in range(sizes.groups)]
        if gw is not None and x is not None:
            to_rows(x, rows, sizes, piece.start)
            for g, part in enumerate(parts):
                gw.reshape(-1, sizes.O)[:, g * OG : (g + 1) * OG] += product(rows[g].T, part)
        if gx is not None:
            for g, part in enumerate(parts):
                product(part, weights[:, g * OG : (g + 1) * OG].T, rows[g])
            add_from_rows(rows, gx, sizes, piece.start)
