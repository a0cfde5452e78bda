"""Matrix products on register tiles.

    y = start + a b,   y[m, n] = start[n] + sum over k of a[m, k] b[k, n]

Panels of b, as wide as a tile and up to 256 values of k deep, are copied one after the other to where they lie densely in the
first-level cache, and multiplied by a block of rows of a that stays in the second-level cache. A tile reads a number
of a at a time, from as many rows as it has, each from left to right; so rows of a are used where they lie. What lies in memory
the other way round (y = x w^T reads w so, and gw = gy^T x reads gy) is turned on the way, a square of vectors at a time.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.cpu._relu_pool import relu_row
from minidl.kernels.cpu._tile import (
    _I32,
    _I64,
    VECTOR_BYTES,
    WIDE,
    Shape,
    Tile,
    _Code,
    _instruction,
    lanes,
    tile_add,
    tile_fma,
    tile_start,
    tile_store,
)
from minidl.kernels.cpu._vector import vectors_load, vectors_store
from minidl.memory import empty

__all__ = ["NOTHING", "product"]

TILE = Shape(8, 2) if VECTOR_BYTES == 64 else WIDE  # batches are multiples of 8 more often than of 9
SLIM = Shape(TILE.rows, 1)  # for what is left at the right, as ten classes are
ONE = Shape(1, 1)

ROWS, DEPTH = 256, 256  # of a block of a
GAP = 16  # elements from one row of a turned block to the next: at a power of two, all rows would share few cache lines
MACS_PER_ELEMENT = 32  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


def _rows_code(typing, shape, first, last, step):
    result = types.UniTuple(types.intp, shape.rows)

    def write(context, builder, signature, args):
        _, first, last, step = args
        values = []
        for r in range(shape.rows):
            row = builder.add(first, _I64(r))
            values.append(builder.mul(builder.select(builder.icmp_signed("<", row, last), row, last), step))
        return context.make_tuple(builder, result, values)

    return result(shape, types.intp, types.intp, types.intp), write


@_instruction(_rows_code)
def _rows(shape, first, last, step):
    """Where rows ``first``, ``first + 1``, ... begin, one for each row of a tile; and row ``last`` where that is the end."""
    return tuple(min(first + r, last) * step for r in range(shape.rows))


def _turned_code(typing, x, position, step, rows, count):
    vector = Tile(1, 1, x.dtype)
    result = types.UniTuple(vector, vector.lanes)

    def write(context, builder, signature, args):
        code, size = _Code(vector, context, builder, signature, args), vector.lanes
        data, mask, zero = code.data(0), code.first_lanes(args[4]), ir.Constant(code.vector, None)
        last, values = builder.sub(args[3], _I64(1)), []
        for i in range(size):
            row = builder.select(builder.icmp_signed("<", _I64(i), last), _I64(i), last)
            address = code.at(data, builder.add(args[1], builder.mul(row, args[2])))
            values.append(code.call("llvm.masked.load.{}.p0", code.vector, address, code.size, mask, zero))
        # Exchange the off-diagonal quarters of all 2x2 squares, then of the 4x4 squares (made of 2x2), and so on.
        half = 1
        while half < size:
            upper = [size + lane - half if lane & half else lane for lane in range(size)]
            lower = [size + lane if lane & half else lane + half for lane in range(size)]
            for i in (i for i in range(size) if not i & half):
                pair = values[i], values[i + half]
                for j, pick in ((i, upper), (i + half, lower)):
                    values[j] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_I32, size), pick))
            half *= 2
        return context.make_tuple(builder, result, [code.new_tile([value]) for value in values])

    return result(x, types.intp, types.intp, types.intp, types.intp), write


@_instruction(_turned_code)
def _turned(x, position, step, rows, count):
    """Vector i is x[position + i], x[position + step + i], ... : a square of numbers, turned.

    Of its columns ``count`` are there, and of its rows ``rows``; the last of these stands for those that are not.
    """
    size = lanes(x.dtype)
    values = np.zeros((size, size), x.dtype)
    for r in range(size):
        row = x[position + min(r, rows - 1) * step :][: min(count, size)]
        values[: row.size, r] = row
    return tuple(values)


@serial
def _turn(x, step, rows, columns, y, line, lanes):
    """y[c * line + r] = x[r * step + c]. Writes whole vectors and whole squares of them."""
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            vectors_store(y, c * line + r, line, lanes, _turned(x, r * step + c, step, rows - r, columns - c))


@serial
def _copy(x, step, rows, columns, y, line, lanes):
    """y[r * line + c] = x[r * step + c]. Writes whole vectors."""
    vectors = (columns + lanes - 1) // lanes
    for r in range(rows):
        for v in range(vectors):
            c = v * lanes
            vectors_store(y, r * line + c, 0, lanes, vectors_load(ONE, x, r * step + c, 0, columns - c))


@serial
def _tile_of(shape, a, step, panel, width, depth, start, add, y, y_row, m, rows, columns):
    """y[m:, :], as many rows and columns as a tile has, = start + a panel, ``width`` wide; or added to y."""
    places = _rows(shape, m, rows - 1, step)
    tile, at = tile_start(shape, start), 0
    for k in range(depth):
        tile = tile_fma(tile, a, places, k, panel, at)
        at += width
    if add:
        tile_add(tile, y, _rows(shape, m, rows - 1, y_row), rows - m, columns)
    else:
        tile_store(tile, y, _rows(shape, m, rows - 1, y_row), rows - m, columns)


@threaded
def _product(a, a_row, a_k, b, b_k, b_column, start, y, sums, relu, M, K, N, lanes, scratch, part, parts):
    """y = start + a b, or the larger of this and 0, and sums = the sums over the rows of a; start and sums may be empty.

    A part is some columns, or rows.
    """
    if fork(part, parts):
        return
    wide, y_row, share_sums = TILE.vectors * lanes, N, part == 0
    if parts * wide <= N:
        first, last = share((N + lanes - 1) // lanes, part, parts)
        first, N = first * lanes, min(last * lanes, N) - first * lanes
        b, y = b[first * b_column :], y[first:]
        start = start[first:]
    else:
        first, last = share((M + TILE.rows - 1) // TILE.rows, part, parts)
        first, M = first * TILE.rows, min(last * TILE.rows, M) - first * TILE.rows
        a, y, sums = a[first * a_row :], y[first * N :], sums[first:]
        share_sums = True

    depth = (K + (K + DEPTH - 1) // DEPTH - 1) // ((K + DEPTH - 1) // DEPTH)
    line = depth + GAP
    group = max(DEPTH // depth, 1) * wide
    begin, panels = scratch[part, :group], scratch[part, group : group + group * depth]
    block = scratch[part, group + group * depth + wide * lanes :]  # turned panels end with a whole square of vectors
    for m in range(0, M, ROWS):
        rows = min(ROWS, M - m)
        for k in range(0, K, depth):
            deep = min(depth, K - k)
            source, step = a[m * a_row + k * a_k :], a_row
            if a_k != 1:
                _turn(source, a_k, deep, rows, block, line, lanes)
                source, step = block, line
            if share_sums and sums.size:
                for r in range(rows):
                    total, row = sums.dtype.type(0), source[r * step :][:deep]
                    for i in range(row.size):
                        total += row[i]
                    sums[m + r] = total if k == 0 else sums[m + r] + total
            for n in range(0, N, group):
                columns = min(group, N - n)
                from_b, to_y = b[k * b_k + n * b_column :], y[m * y_row + n :]
                for c in range(0, columns, wide):
                    used = min(wide, columns - c)
                    if b_k == 1:
                        _turn(from_b[c * b_column :], b_column, used, deep, panels[c * deep :], wide, lanes)
                    else:
                        _copy(from_b[c:], b_k, deep, used, panels[c * deep :], wide, lanes)
                for c in range(columns):
                    begin[c] = start[n + c] if k == 0 and start.size else 0
                for r in range(0, rows, TILE.rows):
                    for c in range(0, columns, wide):
                        place = source, step, panels[c * deep :], wide, deep, begin[c:], k > 0, to_y[c:], y_row
                        if columns - c <= lanes:
                            _tile_of(SLIM, *place, r, rows, columns - c)
                        else:
                            _tile_of(TILE, *place, r, rows, columns - c)
        if relu:
            for r in range(m, m + rows):
                relu_row(y[r * y_row :][:N])


def _flat(a: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The elements of a matrix in memory order, and the steps from row to row and from column to column."""
    flags = a.flags
    if flags.c_contiguous:
        return a.reshape(-1), a.shape[1], 1
    if flags.f_contiguous:
        return a.ravel("K"), 1, a.shape[0]
    return np.ascontiguousarray(a).reshape(-1), a.shape[1], 1


NOTHING = {np.dtype(t): np.empty(0, t) for t in "fd"}  # in place of an array that is not there


def product(
    a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None, sums: np.ndarray | None = None, relu: bool = False
) -> np.ndarray:
    """start + a b, of matrices (M, K) and (K, N) and a row of N values (None: zeros); ``relu``: the larger of this and 0.

    ``sums`` gets the sums of a's rows.
    """
    (M, K), N, dtype = a.shape, b.shape[1], a.dtype
    y = empty((M, N), dtype)
    if y.size == 0 or K == 0:
        y[...] = 0 if start is None else np.maximum(start, 0) if relu else start
        if sums is not None:
            sums[...] = a.sum(1)
        return y
    vector = lanes(dtype)
    flat_a, a_row, a_k = _flat(a)
    flat_b, b_k, b_column = _flat(b)
    parts = threads(M * K * N // MACS_PER_ELEMENT)
    panels, block = (2 * DEPTH + vector) * TILE.vectors * vector, (min(M, ROWS) + vector) * (min(K, DEPTH) + GAP)
    scratch = empty((parts, panels + block + 64), dtype)
    start = NOTHING[dtype] if start is None else np.ascontiguousarray(start)
    sums = NOTHING[dtype] if sums is None else sums
    _product(parts, flat_a, a_row, a_k, flat_b, b_k, b_column, start, y.reshape(-1), sums, relu, M, K, N, vector, scratch)
    return y
