"""Sums and products on the GPU on flat memory, in whatever order it lies; and sums of what an index names several times.

CuPy does the rest: broadcasting, mixed dtypes and arrays with gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.context import state
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, MOST, THREADS, dense, empty_like, on_elements

__all__ = ["add", "add_to", "multiply", "scatter_add"]

source = Source(
    MAP
    + r"""
extern "C" __global__ void sum(long long size, T* y, const T* a, const T* b) {
    map(size, y, [](T a, T b) { return a + b; }, a, b);
}

extern "C" __global__ void product(long long size, T* y, const T* a, const T* b) {
    map(size, y, [](T a, T b) { return a * b; }, a, b);
}

// target[key] += the rows of values with that key, in the order in which they stand: keys (size,) are sorted, and
// order tells from where. The threads at the first of equal keys do it, one for every column. There is no row for some keys.
extern "C" __global__ void add_sorted(T* target, const long long* keys, const long long* order, const T* values,
                                      long long rows, long long size, long long columns) {
    for (long long i = blockIdx.x * (long long)blockDim.y + threadIdx.y; i < size; i += gridDim.x * (long long)blockDim.y) {
        long long key = keys[i];
        if (key < 0 || key >= rows || (i > 0 && keys[i - 1] == key)) continue;
        long long end = i + 1;
        while (end < size && keys[end] == key) end++;
        for (long long c = blockIdx.y * blockDim.x + threadIdx.x; c < columns; c += gridDim.y * blockDim.x) {
            T total = 0;
            #pragma unroll 4
            for (long long k = i; k < end; k++) total += values[order[k] * columns + c];
            target[key * columns + c] += total;
        }
    }
}

// The same from keys that are not sorted: a warp looks for those that equal key i, and leaves when one comes before it.
extern "C" __global__ void add_unsorted(T* target, const long long* keys, const T* values, long long rows, long long size,
                                        long long columns) {
    long long i = first_index() / WARP;
    if (i >= size) return;
    long long key = keys[i];
    if (key < 0 || key >= rows) return;
    for (long long from = 0; from < i; from += WARP) {
        long long k = from + lane_index();
        if (__ballot_sync(ALL_LANES, k < i && keys[k] == key)) return;
    }
    for (long long from = i; from < size; from += WARP) {
        long long k = from + lane_index();
        unsigned equal = __ballot_sync(ALL_LANES, k < size && keys[k] == key);  // a bit for each lane
        for (; equal; equal &= equal - 1) {
            const T* row = values + (from + __ffs(equal) - 1) * columns;
            for (long long c = lane_index(); c < columns; c += WARP) target[key * columns + c] += row[c];
        }
    }
}
"""
)

FEW = 1 << 14  # keys that are compared with each other sooner than they are sorted


def _alike(a: Array, b: Array) -> bool:
    """Whether the two are float arrays of one shape and dtype that lie the same way in memory, without gaps."""
    if type(a) is not type(b) or a.dtype != b.dtype or a.dtype.char not in "fd":
        return False
    return a.shape == b.shape and a.strides == b.strides and a.size > 0 and dense(a) is a


def add(a: Array, b: Array) -> Array:
    """a + b."""
    return on_elements(source, "sum", empty_like(a), (a, b)) if _alike(a, b) else a + b


def multiply(a: Array, b: Array) -> Array:
    """a * b."""
    return on_elements(source, "product", empty_like(a), (a, b)) if _alike(a, b) else a * b


def add_to(a: Array, b: Array) -> None:
    """a += b, for an array a."""
    if _alike(a, b):
        on_elements(source, "sum", a, (a, b))
    else:
        a += b


def add_rows(target: Array, index: Array, values: Array) -> None:
    """target[index[i]] += values[i] for target (rows, columns), index (M,) and values (M, columns), all C-contiguous.

    The rows that meet are added in order, and not as chance has it. For that the index is sorted, unless it is short, or a CUDA
    graph is recorded: CuPy waits for the GPU when it has sorted. An index without a row adds nothing.
    """
    if not values.size:
        return
    xp, (size, columns) = xp_of(target), values.shape
    if size <= FEW or state.recorder is not None:
        arguments = target, index, values, len(target), size, columns
        source.launch("add_unsorted", target.dtype, grid_of(size, THREADS // 32), THREADS, arguments)
        return
    order = xp.argsort(index, kind="stable")
    across = min(THREADS, -(-columns // 32) * 32) if columns > 1 else 1
    block = across, THREADS // across
    grid = min(grid_of(size, block[1]), MOST), min(grid_of(columns, across), 65535)
    source.launch("add_sorted", target.dtype, grid, block, (target, index[order], order, values, len(target), size, columns))


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """target[index] += values, in place, where an element that the index names several times gets every value.

    ``target`` is C-contiguous and ``values`` has the shape of ``target[index]``.
    """
    xp = xp_of(target)
    positions = xp.arange(target.size).reshape(target.shape)[index].reshape(-1)
    if target.dtype.char not in "fd":
        xp.add.at(target.reshape(-1), positions, values.reshape(-1))
        return
    values = xp.ascontiguousarray(values, dtype=target.dtype).reshape(-1, 1)
    add_rows(target.reshape(-1, 1), xp.ascontiguousarray(positions, dtype=np.int64), values)
