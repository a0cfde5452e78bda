"""Max pooling: the largest value of each window, and which tap of the window it was."""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.generic.resize import Taps

__all__ = ["max_pool2d_backward", "max_pool2d_forward", "winner_dtype"]


def winner_dtype(rows: Taps, columns: Taps) -> type:
    """The smallest type that can number the taps of a window."""
    return np.uint8 if rows.index.shape[1] * columns.index.shape[1] <= 256 else np.int32


def max_pool2d_forward(x: Array, rows: Taps, columns: Taps) -> tuple[Array, Array]:
    """y[n, c, i, j] = max over k, m of x[n, c, rows.index[i, k], columns.index[j, m]], and the winner k * KW + m.

    The first of equal maxima wins. A NaN beats every number, and the last NaN of a window wins (as in PyTorch).
    """
    xp = xp_of(x)
    N, C, _, _ = x.shape
    KW = columns.index.shape[1]
    images = x.transpose(0, 2, 3, 1)
    y = xp.full((N, len(rows.count), len(columns.count), C), -np.inf, x.dtype)
    winner = xp.zeros(y.shape, winner_dtype(rows, columns))
    for row, k, row_present in rows.picks(xp):
        band = xp.take(images, row, axis=1)
        for column, m, present in columns.picks(xp):
            value = xp.take(band, column, axis=2)
            better = ((value > y) | xp.isnan(value)) & (row_present[:, None] & present)[:, :, None]
            y = xp.where(better, value, y)
            winner = xp.where(better, (k[:, None] * KW + m)[:, :, None].astype(winner.dtype), winner)
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


@np.errstate(invalid="ignore", over="ignore")
def max_pool2d_backward(gy: Array, winner: Array, rows: Taps, columns: Taps) -> Array:
    """gx[n, c, h, w] = sum of gy over the windows that (h, w) won.

    Seen from the input, so that nothing is added to the same place twice at once: ``rows.transposed`` tells
    which windows read row h, and as which of their taps.
    """
    xp = xp_of(gy)
    N, C, _, _ = gy.shape
    KW = columns.index.shape[1]
    gy, winner = gy.transpose(0, 2, 3, 1), winner.transpose(0, 2, 3, 1)
    gx = xp.zeros((N, rows.size, columns.size, C), gy.dtype)
    for i, k, row_present in rows.transposed.picks(xp):
        g_band, winner_band = xp.take(gy, i, axis=1), xp.take(winner, i, axis=1)
        for j, m, present in columns.transposed.picks(xp):
            tap = xp.where(row_present[:, None] & present, k[:, None] * KW + m, -1)[:, :, None]
            gx += xp.where(xp.take(winner_band, j, axis=2) == tap, xp.take(g_band, j, axis=2), 0)
    return gx.transpose(0, 3, 1, 2)
