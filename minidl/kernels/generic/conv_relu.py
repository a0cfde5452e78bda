"""Convolution and what usually follows it, ReLU or ReLU and 2x2 max pooling, as one step."""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.generic.activation import relu_backward, relu_forward
from minidl.kernels.generic.columns import Padding, Pair
from minidl.kernels.generic.conv import conv2d_backward, conv2d_forward

__all__ = ["DEAD", "conv2d_relu_backward", "conv2d_relu_forward"]

DEAD = 4  # the "winner" of a window in which nothing is above zero


def conv2d_relu_forward(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Padding, dilation: Pair, groups: int, pool: int
) -> tuple[Array, Array]:
    """y = max(conv2d(x), 0), for ``pool`` = 2 the largest of each 2x2 window of that; and what backward needs to know.

    That is y itself without pooling. With it, it is each window's winner: 0, 1, 2 or 3, row by row, or DEAD.
    """
    y = relu_forward(conv2d_forward(x, w, b, stride, padding, dilation, groups))
    if pool == 1:
        return y, y
    xp, (N, O, OH, OW) = xp_of(x), y.shape
    OH, OW = OH // 2, OW // 2  # an odd last row or column is not seen
    windows = y[:, :, : 2 * OH, : 2 * OW].reshape(N, O, OH, 2, OW, 2).transpose(0, 1, 2, 4, 3, 5).reshape(N, O, OH, OW, 4)
    y = windows.max(-1)
    last_nan = 3 - xp.isnan(windows[..., ::-1]).argmax(-1)  # as in max_pool2d, the last NaN of a window wins
    winner = xp.where(y <= 0, DEAD, xp.where(xp.isnan(y), last_nan, windows.argmax(-1))).astype(np.uint8)
    return y, winner


def conv2d_relu_backward(
    gy: Array,
    kept: Array,
    x: Array | None,
    w: Array,
    size: Pair,
    out_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    pool: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:
    """gx, gw and gb, each None when not needed; ``kept`` as forward gave it, ``out_size`` (OH, OW) of the convolution itself.

    The gradient of a pooled value belongs to the window's winner, and what ReLU has made zero gets none.
    """
    if pool == 1:
        g = relu_backward(gy, kept)
    else:
        xp, (N, O, OH, OW) = xp_of(gy), gy.shape
        g = xp.zeros((N, O, *out_size), gy.dtype)
        for k in range(4):
            g[:, :, k // 2 : 2 * OH : 2, k % 2 : 2 * OW : 2] = xp.where(kept == k, gy, 0)
    return conv2d_backward(g, x, w, size, stride, padding, dilation, groups, needs)
