"""Depthwise convolution: every channel has its own kernel, so there is no sum over channels.

The channels of a pixel lie side by side. A register holds a few of them, and a tile those of several pixels. Each step
multiplies a tile by one register of weights, channel by channel:

    y:   tile[pixel] = b;  for each tap:    tile[pixel] += x[pixel + tap] * w[tap]
    gw:  tile[tap]   = 0;  for each pixel:  tile[tap]   += x[tap + pixel] * gy[pixel]

What is summed up stays in registers and is written once. gx is y of another convolution, of gy with the kernel turned, for
each phase of the stride (see ``gradient_axes`` of ``_positions``).

Images are read where they lie. At their edges a tile has pixels, or taps, that would see the padding: tables say which ones
see the image, a bit for each.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types

from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._positions import Axis
from minidl.kernels.cpu._prefetch import prefetch
from minidl.kernels.cpu._tile import (
    _I64,
    NARROW,
    Shape,
    _Code,
    _instruction,
    lanes,
    tile_add,
    tile_offsets,
    tile_start,
    tile_store,
)
from minidl.kernels.cpu._vector import vectors_add, vectors_load
from minidl.memory import empty

__all__ = ["depthwise", "depthwise_weights"]

PIXELS, TAPS = Shape(7, 1), NARROW  # tiles of y, whose rows have 7, 14, 28, ... pixels in many networks, and of gw
ONE = Shape(1, 1)
COLUMNS = 16  # of gy that are worked on at a time: pieces of rows of x and gy stay in the first-level cache
Axes = tuple[Axis, ...]
MACS_PER_ELEMENT = 8  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


# ---------------------------------------------------------------------------------------- instructions


def _multiply_code(typing, tile, x, rows, k, w, position):
    def write(context, builder, signature, args):
        code = _Code(tile, context, builder, signature, args)
        x_data, w_data = code.data(1), code.data(4)
        factor, sums = code.load(code.at(w_data, args[5])), code.unpack(args[0], tile.rows)
        for r, row in enumerate(code.unpack(args[2], tile.rows)):
            value = code.load(code.at(x_data, builder.add(row, args[3])))
            sums[r] = code.call("llvm.fmuladd.{}", code.vector, value, factor, sums[r])
        return code.new_tile(sums)

    return tile(tile, x, rows, types.intp, w, types.intp), write


@_instruction(_multiply_code)
def tile_multiply(tile, x, rows, k, w, position):
    """tile[r, c] + x[rows[r] + k + c] * w[position + c]: where ``tile_fma`` takes one number of x, this takes a vector."""
    c = np.arange(tile.shape[1])
    assert min(rows) + k >= 0
    return tile + x[np.array(rows)[:, None] + k + c] * w[position + c]


def _multiply_some_code(typing, tile, x, rows, k, w, position, count, seen):
    def write(context, builder, signature, args):
        code = _Code(tile, context, builder, signature, args)
        x_data, w_data, mask = code.data(1), code.data(4), code.first_lanes(args[6])
        load, zero = "llvm.masked.load.{}.p0", ir.Constant(code.vector, None)
        factor = code.call(load, code.vector, code.at(w_data, args[5]), code.size, mask, zero)
        sums = code.unpack(args[0], tile.rows)
        for r, row in enumerate(code.unpack(args[2], tile.rows)):
            before, on = builder.block, builder.icmp_signed("!=", builder.and_(args[7], _I64(1 << r)), _I64(0))
            with builder.if_then(on):
                address = code.at(x_data, builder.add(row, args[3]))
                value = code.call(load, code.vector, address, code.size, mask, zero)
                value = code.call("llvm.fmuladd.{}", code.vector, value, factor, sums[r])
                inside = builder.block
            either = builder.phi(code.vector)
            either.add_incoming(sums[r], before)
            either.add_incoming(value, inside)
            sums[r] = either
        return code.new_tile(sums)

    return tile(tile, x, rows, types.intp, w, types.intp, types.intp, types.intp), write


@_instruction(_multiply_some_code)
def tile_multiply_some(tile, x, rows, k, w, position, count, seen):
    """``tile_multiply`` for c < count and for the rows r whose bit in ``seen`` is set; the others stay as they are."""
    tile, count = tile.copy(), min(count, tile.shape[1])
    for r, row in enumerate(rows):
        if seen >> r & 1:
            assert row + k >= 0
            tile[r, :count] += x[row + k : row + k + count] * w[position : position + count]
    return tile


# ---------------------------------------------------------------------------------------- kernels
# ``tile_multiply`` takes half the time of ``tile_multiply_some``, and does for most of an image.


@threaded
def _depthwise(x, w, start, y, rows, columns, numbers, lanes, part, parts):
    """y = start + the sum over taps of x * w: some rows of y."""
    if fork(part, parts):
        return
    N, H, W, C, OH, OW, below = numbers
    line, shift, row_taps = rows
    pixel, out, used, column_taps, tap, weight, seen = columns
    every, end = (1 << PIXELS.rows) - 1, pixel.size - 1
    first, last = share(N * OH, part, parts)
    for unit in range(first, last):
        n, i = unit // OH, unit % OH
        source, factors, at = (n * H + line[i]) * W * C, shift[i], unit * OW * C
        for k in range(used.size):
            j, count = k * PIXELS.rows, row_taps[i] * column_taps[k]
            pixels, outs = tile_offsets(PIXELS, pixel, j, end), tile_offsets(PIXELS, out, j, end)
            for c in range(0, C, lanes):
                whole = c + lanes <= C
                prefetch(x, pixels, source + c + below)
                tile = tile_start(PIXELS, start[c:])
                for t in range(count):
                    position, factor = source + c + tap[k, t], factors + c + weight[k, t]
                    if whole and seen[k, t] == every:
                        tile = tile_multiply(tile, x, pixels, position, w, factor)
                    else:
                        tile = tile_multiply_some(tile, x, pixels, position, w, factor, C - c, seen[k, t])
                tile_store(tile, y[at + c :], outs, used[k], C - c)


@threaded
def _depthwise_weights(x, gy, zeros, sums, rows, columns, tap, out, numbers, lanes, part, parts):
    """sums[part, 0] = the sums of x * gy over pixels, for each tap, and last that of gy: those of some rows of gy.

    sums[part, 1] is for the sums of one image: a single long running sum would lose digits.
    """
    if fork(part, parts):
        return
    N, H, W, C, OH, OW, line, SH, column, SW, below = numbers
    total, image = sums[part, 0], sums[part, 1]
    total[:] = 0
    image[:] = 0
    every = (1 << TAPS.rows) - 1
    first, last = share(N * OH, part, parts)
    for unit in range(first, last):
        n, i = unit // OH, unit % OH
        source, at = ((n * H + line + i * SH) * W + column) * C, unit * OW * C
        for left in range(0, OW, COLUMNS):
            right = min(left + COLUMNS, OW)
            for c in range(0, C, lanes):
                whole = c + lanes <= C
                for t in range(0, tap.size, TAPS.rows):
                    taps, tile = tile_offsets(TAPS, tap, t, tap.size - 1), tile_start(TAPS, zeros)
                    seen_rows = rows[t // TAPS.rows, i]
                    for j in range(left, right):
                        seen = seen_rows & columns[t // TAPS.rows, j]
                        position, factor = source + j * SW * C + c, at + j * C + c
                        prefetch(x, (position,), below)
                        prefetch(gy, (factor,), OW * C)
                        if whole and seen == every:
                            tile = tile_multiply(tile, x, taps, position, gy, factor)
                        else:
                            tile = tile_multiply_some(tile, x, taps, position, gy, factor, C - c, seen)
                    tile_add(tile, image[c:], tile_offsets(TAPS, out, t, tap.size - 1), tap.size - t, C - c)
                (total_gy,) = vectors_load(ONE, zeros, 0, 0, lanes)
                for j in range(left, right):
                    (row,) = vectors_load(ONE, gy, at + j * C + c, 0, C - c)
                    total_gy = total_gy + row
                vectors_add(image, tap.size * C + c, 0, C - c, (total_gy,))
        if i == OH - 1 or unit == last - 1:
            for k in range(image.size):
                total[k] += image[k]
            image[:] = 0


# ---------------------------------------------------------------------------------------- calls


def _sees(axis: Axis, size: int) -> np.ndarray:
    """(outputs, taps): whether an output of the axis sees, through a tap, one of ``size`` inputs."""
    position = axis.start + np.arange(axis.outputs)[:, None] * axis.stride + np.array(axis.offsets, np.intp)
    return (position >= 0) & (position < size)


def _bits(flags: np.ndarray, rows: int) -> np.ndarray:
    """Flags (..., n) as integers (..., tiles), a bit for each row of a tile. A tile repeats its last row beyond the end."""
    tiles = -(-flags.shape[-1] // rows)
    room = np.pad(flags, [(0, 0)] * (flags.ndim - 1) + [(0, tiles * rows - flags.shape[-1])], "edge")
    return (room.reshape(*flags.shape[:-1], tiles, rows) << np.arange(rows)).sum(-1)


@lru_cache(maxsize=1024)
def _row_table(axes: Axes, H: int, OH: int, step: int) -> tuple[np.ndarray, ...]:
    """For each row of y: the first row of x that it sees, with which row of weights, and how many rows it sees."""
    line, shift, count = np.zeros((3, OH), np.intp)
    for axis in axes:
        if axis.taps:
            sees, here = _sees(axis, H), slice(axis.first, None, axis.step)
            first = sees.argmax(1)
            line[here] = axis.start + np.arange(axis.outputs) * axis.stride + np.array(axis.offsets)[first]
            shift[here], count[here] = np.array(axis.taps)[first] * step, sees.sum(1)
    return line, shift, count


@lru_cache(maxsize=1024)
def _column_table(axes: Axes, h: Axis, image: tuple[int, int, int], KW: int) -> tuple[np.ndarray, ...]:
    """For each tile of a row of y: where its pixels read, where they write, how many they are, how many columns each sees.

    Then for each of its taps, over rows and columns: where it reads, its weights, and the bits of the pixels that see the
    image. The pixels of a tile belong to one axis, so that they have the same taps; those of ``h`` are its rows.
    """
    _, W, C = image
    h_offset, h_tap = (np.array(a, np.intp) - a[:1] for a in (h.offsets, h.taps))
    columns = []
    for v in axes:
        tiles, taps = -(-v.outputs // PIXELS.rows), len(h_tap) * len(v.taps)
        j = np.minimum(np.arange(tiles * PIXELS.rows), v.outputs - 1)
        numbers = np.zeros((3, tiles, len(h_tap) * max(len(v.taps) for v in axes)), np.intp)
        numbers[0, :, :taps] = np.add.outer(h_offset * W, np.array(v.offsets, np.intp)).reshape(-1) * C
        numbers[1, :, :taps] = np.add.outer(h_tap * KW, np.array(v.taps, np.intp)).reshape(-1) * C
        numbers[2, :, :taps] = np.tile(_bits(_sees(v, W).T, PIXELS.rows).T, (1, len(h_tap)))
        pixel, out = (v.start + j * v.stride) * C, (v.first + j * v.step) * C
        used = np.minimum(v.outputs - np.arange(tiles) * PIXELS.rows, PIXELS.rows)
        columns.append((pixel, out, used, np.full(tiles, len(v.taps)), *numbers))
    return tuple(np.concatenate(arrays) for arrays in zip(*columns))


def depthwise(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray, hs: Axes, vs: Axes) -> None:
    """y = b + x correlated with w. x and y are (N, H, W, C), w is (KH, KW, 1, C), all contiguous.

    The axes are those of the convolution, or those of its gradient, one for each phase of the stride.
    """
    N, H, W, C = x.shape
    KW, vector = w.shape[1], lanes(x.dtype)
    start = np.zeros(-(-C // vector) * vector, x.dtype)
    if b is not None:
        start[:C] = b
    h = max(hs, key=lambda axis: len(axis.taps))  # rows of all phases that are seen are equally far apart
    rows, columns = _row_table(hs, H, y.shape[1], KW * C), _column_table(vs, h, x.shape[1:], KW)
    numbers = (*x.shape, *y.shape[1:3], h.reach(1) * W * C)
    arrays = x.reshape(-1), w.reshape(-1), start, y.reshape(-1)
    _depthwise(threads(_work(N * C, hs, vs)), *arrays, rows, columns, numbers, vector)


@lru_cache(maxsize=1024)
def _weight_tables(h: Axis, v: Axis, image: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """For each tile of taps: which ones see the image, from each row and from each column of gy. Then where taps are."""
    H, W, C = image
    KH, KW = len(h.taps), len(v.taps)
    rows = _bits(np.repeat(_sees(h, H), KW, 1), TAPS.rows).T
    columns = _bits(np.tile(_sees(v, W), (1, KH)), TAPS.rows).T
    tap = np.add.outer(np.array(h.offsets) * W, np.array(v.offsets)).reshape(-1) * C
    return np.ascontiguousarray(rows), np.ascontiguousarray(columns), tap, np.arange(KH * KW) * C


def depthwise_weights(x: np.ndarray, gy: np.ndarray, gw: np.ndarray, gb: np.ndarray | None, h: Axis, v: Axis) -> None:
    """Fill gw (KH, KW, 1, C), and gb if any; the axes are those of the convolution."""
    C, vector = x.shape[3], lanes(x.dtype)
    parts = threads(_work(len(x) * C, (h,), (v,)))
    sums = empty((parts, 2, gw.size + C), gw.dtype)
    numbers = (*x.shape, *gy.shape[1:3], h.start, h.stride, v.start, v.stride, h.reach(1) * x.shape[2] * C)
    arrays = x.reshape(-1), gy.reshape(-1), np.zeros(vector, gw.dtype), sums
    _depthwise_weights(parts, *arrays, *_weight_tables(h, v, x.shape[1:]), numbers, vector)
    sums[:, 0, : gw.size].sum(0, out=gw.reshape(-1))
    if gb is not None:
        sums[:, 0, gw.size :].sum(0, out=gb)


def _work(channels: int, hs: Axes, vs: Axes) -> int:
    """The work of a convolution of so many channels of images, for threads()."""
    taps = [sum(axis.outputs * len(axis.taps) for axis in axes) for axes in (hs, vs)]
    return channels * taps[0] * taps[1] // MACS_PER_ELEMENT
