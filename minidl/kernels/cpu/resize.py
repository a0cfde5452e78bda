"""Resampling compiled by Numba: one pass over channels-last images, whose channels are summed up in registers."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._tile import Shape, lanes, tile_start, tile_store
from minidl.kernels.cpu._vector import vectors_load, vectors_store
from minidl.kernels.generic.resize import Taps
from minidl.memory import channels_last, empty

__all__ = ["resample"]

ONE, FOUR = Shape(1, 1), Shape(1, 4)


@threaded
def _resample(x, y, rows, columns, zeros, lanes, part, parts):
    """A row of y after the other: some channels at a time, the weighted sum of the pixels that it sees.

    Four vectors of channels are there at once where there are as many, because each sum waits for its last addition.
    """
    if fork(part, parts):
        return
    row_index, row_weight, row_count = rows
    index, weight, count = columns
    (_, H, W, C), (N, OH, OW, _) = x.shape, y.shape
    first, last = share(N * OH, part, parts)
    images, out, number = x.reshape(-1), y.reshape(-1), x.dtype.type
    for unit in range(first, last):
        n, i = unit // OH, unit % OH
        for j in range(OW):
            c, place = 0, (unit * OW + j) * C
            while C - c >= 4 * lanes:
                four = tile_start(FOUR, zeros)
                for k in range(row_count[i]):
                    line = (n * H + row_index[i, k]) * W
                    for m in range(count[j]):
                        pixels = tile_start(FOUR, images[(line + index[j, m]) * C + c :])
                        four = four + number(row_weight[i, k]) * number(weight[j, m]) * pixels
                tile_store(four, out, (place + c,), 1, 4 * lanes)
                c += 4 * lanes
            while c < C:
                (total,) = vectors_load(ONE, images, 0, 0, 0)
                for k in range(row_count[i]):
                    line = (n * H + row_index[i, k]) * W
                    for m in range(count[j]):
                        (pixel,) = vectors_load(ONE, images, (line + index[j, m]) * C + c, 0, C - c)
                        total = total + number(row_weight[i, k]) * number(weight[j, m]) * pixel
                vectors_store(out, place + c, 0, C - c, (total,))
                c += lanes


def resample(x: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """y[n, c, i, j] = sum over k, m of rows.value[i, k] columns.value[j, m] x[n, c, rows.index[i, k], columns.index[j, m]]."""
    x = channels_last(x)
    y = empty((len(x), len(rows.count), len(columns.count), x.shape[3]), x.dtype)
    tables = (rows.index, rows.value, rows.count), (columns.index, columns.value, columns.count)
    vector = lanes(x.dtype)
    _resample(threads(max(x.size, y.size)), x, y, *tables, np.zeros(4 * vector, x.dtype), vector)
    return y.transpose(0, 3, 1, 2)
