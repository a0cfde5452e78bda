"""Max pooling compiled by Numba: each output (or, on the way back, input) row is written once, channels innermost."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.generic.pool import winner_dtype
from minidl.kernels.generic.resize import Taps
from minidl.memory import channels_last, empty

__all__ = ["max_pool2d_backward", "max_pool2d_forward"]


@threaded
def _max(x, y, winner, rows, columns, part, parts):
    if fork(part, parts):
        return
    row_index, row_count = rows
    index, count = columns
    OH, OW, KW = y.shape[1], y.shape[2], index.shape[1]
    first, last = share(y.shape[0] * OH, part, parts)
    for unit in range(first, last):
        n, i = unit // OH, unit % OH
        for j in range(OW):
            best, tap = y[n, i, j], winner[n, i, j]
            best[:] = -np.inf
            tap[:] = 0
            for k in range(row_count[i]):
                for m in range(count[j]):
                    value = x[n, row_index[i, k], index[j, m]]
                    number = tap.dtype.type(k * KW + m)
                    for c in range(best.size):
                        better = (value[c] > best[c]) | (value[c] != value[c])  # NaN is not equal to itself
                        best[c] = value[c] if better else best[c]
                        tap[c] = number if better else tap[c]


def max_pool2d_forward(x: np.ndarray, rows: Taps, columns: Taps) -> tuple[np.ndarray, np.ndarray]:
    """y = the largest value of each window, and the number k * KW + m of the tap it came from."""
    x = channels_last(x)
    N, _, _, C = x.shape
    shape = (N, len(rows.count), len(columns.count), C)
    y, winner = empty(shape, x.dtype), empty(shape, winner_dtype(rows, columns))
    tables = (rows.index, rows.count), (columns.index, columns.count)
    _max(threads(x.size), x, y, winner, *tables)
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


@threaded
def _max_grad(gy, winner, gx, KW, rows, columns, part, parts):
    """Rows of gx; the tables are the transposed ones: the windows that read a pixel, and as which of their taps."""
    if fork(part, parts):
        return
    row_index, row_tap, row_count = rows
    index, tap, count = columns
    H, W = gx.shape[1], gx.shape[2]
    first, last = share(gx.shape[0] * H, part, parts)
    for unit in range(first, last):
        n, h = unit // H, unit % H
        for w in range(W):
            total = gx[n, h, w]
            total[:] = 0
            for k in range(row_count[h]):
                for m in range(count[w]):
                    i, j = row_index[h, k], index[w, m]
                    g, won = gy[n, i, j], winner[n, i, j]
                    number = won.dtype.type(row_tap[h, k] * KW + tap[w, m])
                    for c in range(total.size):
                        total[c] += g[c] if won[c] == number else 0


def max_pool2d_backward(gy: np.ndarray, winner: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """gx = the sum of gy over the windows that a pixel won."""
    gy, winner = channels_last(gy), channels_last(winner)
    N, _, _, C = gy.shape
    gx = empty((N, rows.size, columns.size, C), gy.dtype)
    tables = [(taps.index, taps.value, taps.count) for taps in (rows.transposed, columns.transposed)]
    _max_grad(threads(gx.size), gy, winner, gx, columns.index.shape[1], *tables)
    return gx.transpose(0, 3, 1, 2)
