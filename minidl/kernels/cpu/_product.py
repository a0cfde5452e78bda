"""Matrix products on register tiles.

    y = start + a b,   y[m, n] = start[n] + sum over k of a[m, k] b[k, n]

A block of a, some rows by some values of k, is copied to where it lies densely in the second-level cache; then panels of b,
as wide as a tile and as deep as the block, are copied into the first-level cache one after the other, and multiplied by
all rows of the block. Copying costs little, because each number is used many times, and it makes transposes free.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minidl.kernels.cpu._direct import MACS_PER_ELEMENT, aligned, pack, padded, panel, panel_width
from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.cpu._tile import WIDE, lanes
from minidl.memory import empty

__all__ = ["product", "work"]

ROWS, DEPTH = 252, 256  # of a block of a
LINE = DEPTH + 16  # elements from row to row of a block: at a power of two, all rows would share few cache lines


@serial
def _pack_rows(a, row_step, k_step, block, rows, depth):
    """A block of a: block[row * LINE + k]."""
    if k_step == 1:
        for r in range(rows):
            source, line = a[r * row_step :], block[r * LINE : r * LINE + depth]
            for k in range(line.size):
                line[k] = source[k]
    else:
        for k in range(depth):
            source, column = a[k * k_step :], block[k:]
            for r in range(rows):
                column[r * LINE] = source[r * row_step]


@serial
def _blocks(a, b, start, y, line, index, position, out, sizes, steps, block, packed, first, last):
    """Some units of y: a unit is up to ``rows`` rows by ``columns`` columns."""
    M, K, N, rows, columns, lanes = sizes
    a_row, a_k, b_k, b_column = steps
    across = (N + columns - 1) // columns
    zeros = start[start.size - WIDE.vectors * lanes :]
    for unit in range(first, last):
        m, left = unit // across * rows, unit % across * columns
        right, count = min(left + columns, N), min(rows, M - m)
        for k in range(0, K, DEPTH):
            depth = min(DEPTH, K - k)
            _pack_rows(a[m * a_row + k * a_k :], a_row, a_k, block, count, depth)
            for n in range(left, right, WIDE.vectors * lanes):
                width, used = panel_width(right - n, lanes), min(right - n, WIDE.vectors * lanes)
                pack(b[k * b_k + n * b_column :], position[:depth], b_column, used, packed, lanes)
                begin = start[n:] if k == 0 else zeros
                target = y[m * N + n :]
                panel(block, line[:count], index[:depth], packed, width, begin, target, out[:count], used, k > 0, lanes)


@parallel
def _blocks_parallel(a, b, start, y, line, index, position, out, sizes, steps, block, packed, units, parts):
    for t in prange(parts):
        first, last = t * units // parts, (t + 1) * units // parts
        _blocks(a, b, start, y, line, index, position, out, sizes, steps, block[t], packed[t], first, last)


def _flat(a: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The elements of a matrix in memory order, and the steps from row to row and from column to column."""
    if a.flags.c_contiguous:
        return a.reshape(-1), a.shape[1], 1
    if a.flags.f_contiguous:
        return a.T.reshape(-1), 1, a.shape[0]
    return _flat(np.ascontiguousarray(a))


@lru_cache(maxsize=256)
def _tables(b_k: int, N: int) -> tuple[np.ndarray, ...]:
    """Where rows of a block begin, values in a row, values of k in b, and rows of y."""
    rows, depth = np.arange(ROWS), np.arange(DEPTH)
    return rows * LINE, depth, depth * b_k, rows * N


def work(M: int, K: int, N: int) -> int:
    """The work of a product, in elements of an elementwise kernel, as ``threads`` counts it."""
    return M * K * N // MACS_PER_ELEMENT


def product(a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """start + a b, of matrices (M, K) and (K, N) and a row of N values (None: zeros)."""
    (M, K), N, dtype = a.shape, b.shape[1], a.dtype
    vector = lanes(dtype)
    width = WIDE.vectors * vector
    starts = np.zeros(padded(N, vector) + width, dtype)
    if start is not None:
        starts[:N] = start
    y = empty((M, N), dtype)
    if y.size == 0 or K == 0:
        y[...] = starts[:N]
        return y
    flat_a, a_row, a_k = _flat(a)
    flat_b, b_k, b_column = _flat(b)
    rows, columns = min(M, ROWS), -(-N // width) * width
    parts = threads(work(M, K, N))
    while parts > 1 and -(-M // rows) * -(-N // columns) < parts:  # make units smaller until there is one for each thread
        if columns > width:
            columns = -(-columns // (2 * width)) * width
        elif rows > WIDE.rows:
            rows = -(-rows // 2)
        else:
            break
    units = -(-M // rows) * -(-N // columns)
    parts = min(parts, units)
    block, packed = (aligned(parts * size, dtype).reshape(parts, size) for size in (rows * LINE, DEPTH * width))
    arguments = (flat_a, flat_b, starts, y.reshape(-1), *_tables(b_k, N))
    sizes, steps = (M, K, N, rows, columns, vector), (a_row, a_k, b_k, b_column)
    if parts == 1:
        _blocks(*arguments, sizes, steps, block[0], packed[0], 0, units)
    else:
        _blocks_parallel(*arguments, sizes, steps, block, packed, units, parts)
    return y
