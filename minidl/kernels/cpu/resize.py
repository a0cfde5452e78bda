"""Resampling compiled by Numba: one pass, row by row, over channels-last images."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.generic.resize import Taps
from minidl.memory import channels_last, empty, empty_images

__all__ = ["resample"]


@serial
def _resample_row(x, y, line, row_index, row_weight, index, weight, count):
    """One output row y (OUT, C) from an image x (H, W, C), by way of ``line``: the weighted sum of its input rows."""
    C = x.shape[2]
    line[:] = 0
    for k in range(row_index.size):
        source, v = x[row_index[k]].reshape(-1), row_weight[k]
        for i in range(line.size):
            line[i] += v * source[i]
    for o in range(y.shape[0]):
        to = y[o]
        to[:] = 0
        for k in range(count[o]):
            source, v = line[index[o, k] * C : (index[o, k] + 1) * C], weight[o, k]
            for c in range(C):
                to[c] += v * source[c]


@threaded
def _resample(x, y, lines, rows, columns, part, parts):
    if fork(part, parts):
        return
    row_index, row_weight, row_count = rows
    index, weight, count = columns
    OH, line = y.shape[1], lines[part]
    first, last = share(y.shape[0] * OH, part, parts)
    for unit in range(first, last):
        n, i = unit // OH, unit % OH
        k = row_count[i]
        _resample_row(x[n], y[n, i], line, row_index[i, :k], row_weight[i, :k], index, weight, count)


def resample(x: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """y[n, c, i, j] = sum over k, m of rows.value[i, k] columns.value[j, m] x[n, c, rows.index[i, k], columns.index[j, m]]."""
    N, C, _, W = x.shape
    y = empty_images(N, C, len(rows.count), len(columns.count), x.dtype)
    images, out = channels_last(x), channels_last(y)
    lines = empty((threads(max(x.size, y.size)), W * C), x.dtype)
    tables = [(taps.index, taps.value.astype(x.dtype), taps.count) for taps in (rows, columns)]
    _resample(len(lines), images, out, lines, *tables)
    return y
