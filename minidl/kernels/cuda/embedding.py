"""Embedding on the GPU: rows of a table, and their gradient with the same bits every time, unlike with atomic sums."""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MOST, THREADS
from minidl.kernels.cuda.elementwise import add_rows

__all__ = ["embedding_backward", "embedding_forward"]

source = Source(r"""
// Nobody has looked whether the indices are in range, which would mean to wait: those that are not give NaN.
extern "C" __global__ void rows_of(const long long* index, const T* w, T* y, long long size, long long rows,
                                   long long columns) {
    for (long long i = first_index(); i < size; i += index_step()) {
        long long row = index[i / columns];
        y[i] = row >= 0 && row < rows ? w[row * columns + i % columns] : nan_value();
    }
}
""")


def embedding_forward(index: Array, w: Array) -> Array:
    """y = w[index], and NaN where the index has no row."""
    xp, (rows, columns) = xp_of(w), w.shape
    y = xp.empty((*index.shape, columns), w.dtype)
    index, w = xp.ascontiguousarray(index, dtype=np.int64), xp.ascontiguousarray(w)
    source.launch("rows_of", w.dtype, min(grid_of(y.size, THREADS), MOST), THREADS, (index, w, y, y.size, rows, columns))
    return y


def embedding_backward(gy: Array, index: Array, rows: int, padding: int | None) -> Array:
    """gw[i] = the sum of gy wherever the index is i; 0 for the padding row."""
    xp, columns = xp_of(gy), gy.shape[-1]
    gw = xp.zeros((rows, columns), gy.dtype)
    add_rows(gw, xp.ascontiguousarray(index.reshape(-1), dtype=np.int64), xp.ascontiguousarray(gy).reshape(-1, columns))
    if padding is not None:
        gw[padding] = 0
    return gw
