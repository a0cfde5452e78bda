"""Depthwise convolution: every channel has its own kernel, so there is no sum over channels.

The channels of a pixel lie side by side. A register holds a few of one pixel, and a tile those of several pixels:

    forward      tile[pixel] = b;  for each tap:   tile[pixel] += x[pixel + tap] * w[tap]
    gradient     tile[tap]   = 0;  for each pixel: tile[tap]   += x[tap + pixel] * gy[pixel]
    of weights

Both are sums of products of vectors, where a sum over channels multiplies numbers by vectors (``tile_fma``). What is summed
up stays in registers and is written once. The gradient of the images is a forward pass over gy, once for each phase of the
stride (``gradient_axes`` of ``_direct``).

Windows that reach beyond the image: a table says which pixels of a tile meet the image at a tap, a bit for each.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types

from minidl.kernels.cpu._direct import Axis, aligned
from minidl.kernels.cpu._jit import fork, share, threaded, threads
from minidl.kernels.cpu._tile import (
    _I64,
    NARROW,
    _Code,
    _instruction,
    lanes,
    tile_add,
    tile_offsets,
    tile_start,
    tile_store,
)

__all__ = ["depthwise", "depthwise_weights"]

ROWS = NARROW.rows
MACS_PER_ELEMENT = 8  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


# ---------------------------------------------------------------------------------------- the instruction


def _multiply_code(typing, tile, x, rows, k, seen, w, position, count):
    def write(context, builder, signature, args):
        code = _Code(tile, context, builder, signature, args)
        x_data, w_data, mask = code.data(1), code.data(5), code.first_lanes(args[7])
        zero = ir.Constant(code.vector, None)
        sums, starts = code.unpack(args[0], tile.rows), code.unpack(args[2], tile.rows)
        addresses = [code.at(x_data, builder.add(row, args[3])) for row in starts]
        load = "llvm.masked.load.{}.p0"
        w_row = code.call(load, code.vector, code.at(w_data, args[6]), code.size, mask, zero)
        whole = builder.and_(
            builder.icmp_signed("==", args[4], _I64((1 << tile.rows) - 1)),
            builder.icmp_signed(">=", args[7], _I64(tile.lanes)),
        )
        before = builder.block
        results = []
        with builder.if_else(whole) as (inside, at_edge):
            with inside:
                new = [code.call("llvm.fmuladd.{}", code.vector, code.load(a), w_row, s) for a, s in zip(addresses, sums)]
                results.append((new, builder.block))
            with at_edge:
                new = []
                for r, (address, old) in enumerate(zip(addresses, sums)):
                    outside = builder.block
                    on = builder.icmp_signed("!=", builder.and_(args[4], _I64(1 << r)), _I64(0))
                    with builder.if_then(on):
                        value = code.call(load, code.vector, address, code.size, mask, zero)
                        value = code.call("llvm.fmuladd.{}", code.vector, value, w_row, old)
                        then = builder.block
                    phi = builder.phi(code.vector)
                    phi.add_incoming(old, outside)
                    phi.add_incoming(value, then)
                    new.append(phi)
                results.append((new, builder.block))
        final = []
        for r in range(tile.rows):
            phi = builder.phi(code.vector)
            for new, block in results:
                phi.add_incoming(new[r], block)
            final.append(phi)
        return code.new_tile(final)

    return tile(tile, x, rows, types.intp, types.intp, w, types.intp, types.intp), write


@_instruction(_multiply_code)
def tile_multiply(tile, x, rows, k, seen, w, position, count):
    """tile[r, c] + x[rows[r] + k + c] * w[position + c] for c < count, and for the rows r whose bit in ``seen`` is set."""
    tile, count = tile.copy(), min(count, tile.shape[1])
    factor = w[position : position + count]
    for r, row in enumerate(rows):
        if seen >> r & 1:
            assert row + k >= 0
            tile[r, :count] += x[row + k : row + k + count] * factor
    return tile


# ---------------------------------------------------------------------------------------- kernels


@threaded
def _depthwise(x, w, start, y, rows, columns, numbers, lanes, part, parts):
    """Rows of y. ``rows`` and ``columns`` say what the taps along an axis see, as ``_axis`` makes them."""
    if fork(part, parts):
        return
    N, H, W, C, height, width, line, stride, first_row, row_step, OH, OW, KW = numbers
    row_offset, row_tap = rows
    column_offset, column_tap, pixel, out, seen = columns
    first, last = share(N * height, part, parts)
    for unit in range(first, last):
        n, i = unit // height, unit % height
        top = line + i * stride
        at = (n * OH + first_row + i * row_step) * OW * C
        for j in range(0, width, ROWS):
            pixels = tile_offsets(NARROW, pixel, j, width - 1)
            outs = tile_offsets(NARROW, out, j, width - 1)
            for c in range(0, C, lanes):
                tile = tile_start(NARROW, start[c:])
                for kh in range(row_tap.size):
                    ih = top + row_offset[kh]
                    if 0 <= ih < H:
                        position, tap = (n * H + ih) * W * C + c, row_tap[kh] * KW * C + c
                        for kw in range(column_tap.size):
                            tile = tile_multiply(
                                *(tile, x, pixels, position + column_offset[kw], seen[j // ROWS, kw]),
                                *(w, tap + column_tap[kw], C - c),
                            )
                tile_store(tile, y[at + c :], outs, width - j, C - c)


@threaded
def _depthwise_weights(x, gy, totals, rows, columns, tap, taps_out, numbers, lanes, part, parts):
    """The gradient of the weights from some rows of gy, in totals[part, 0]; the sums of one image are totals[part, 1]."""
    if fork(part, parts):
        return
    N, H, W, C, OH, OW = numbers[:6]
    top, SH, left, SW = numbers[6:]
    total, image = totals[part, 0], totals[part, 1]
    zeros = totals[part, 2]
    total[:] = 0
    image[:] = 0
    zeros[:] = 0
    first, last = share(N * OH, part, parts)
    for unit in range(first, last):
        n, oh = unit // OH, unit % OH
        position = ((n * H + oh * SH - top) * W - left) * C
        at = unit * OW * C
        for c in range(0, C, lanes):
            for t in range(0, tap.size, ROWS):
                taps = tile_offsets(NARROW, tap, t, tap.size - 1)
                tile = tile_start(NARROW, zeros)
                row = rows[t // ROWS, oh]
                for ow in range(OW):
                    tile = tile_multiply(
                        *(tile, x, taps, position + ow * SW * C + c, row & columns[t // ROWS, ow]),
                        *(gy, at + ow * C + c, C - c),
                    )
                tile_add(tile, image[c:], tile_offsets(NARROW, taps_out, t, tap.size - 1), tap.size - t, C - c)
        if oh == OH - 1 or unit == last - 1:
            for i in range(image.size):
                total[i] += image[i]
            image[:] = 0


# ---------------------------------------------------------------------------------------- calls


@lru_cache(maxsize=1024)
def _row_table(axis: Axis):
    return np.array(axis.offsets, np.intp), np.array(axis.taps, np.intp)


@lru_cache(maxsize=1024)
def _column_table(axis: Axis, size: int, C: int):
    j = np.arange(axis.outputs)
    offsets, taps = np.array(axis.offsets, np.intp), np.array(axis.taps, np.intp)
    pixel, out = axis.start + j * axis.stride, axis.first + j * axis.step
    inside = (pixel + offsets[:, None] >= 0) & (pixel + offsets[:, None] < size)  # (KW, OW)
    return offsets * C, taps * C, pixel * C, out * C, np.ascontiguousarray(_bits(inside).T)


def _bits(flags: np.ndarray) -> np.ndarray:
    """Flags (..., n) as integers (..., ceil(n / ROWS)) of a bit each."""
    n = flags.shape[-1]
    tiles = -(-n // ROWS)
    room = np.zeros((*flags.shape[:-1], tiles * ROWS), np.intp)
    room[..., :n] = flags
    return (room.reshape(*flags.shape[:-1], tiles, ROWS) << np.arange(ROWS)).sum(-1)


def depthwise(x, w, b, y, h: Axis, v: Axis):
    C, vector = x.shape[3], lanes(x.dtype)
    start = np.zeros(-(-C // vector) * vector, x.dtype)
    if b is not None:
        start[:C] = b
    numbers = (*x.shape, h.outputs, v.outputs, h.start, h.stride, h.first, h.step, *y.shape[1:3], w.shape[1])
    work = len(x) * h.outputs * v.outputs * C * len(h.taps) * len(v.taps) // MACS_PER_ELEMENT
    _depthwise(
        threads(work),
        *(x.reshape(-1), w.reshape(-1), start, y.reshape(-1)),
        *(_row_table(h), _column_table(v, x.shape[2], C), numbers, vector),
    )


@lru_cache(maxsize=1024)
def _tap_table(shape, h, v, C):
    (H, W) = shape
    KH, KW = len(h.taps), len(v.taps)

    def flags(axis, size):
        o = axis.start + np.arange(axis.outputs) * axis.stride
        p = o[:, None] + np.array(axis.offsets)
        return (p >= 0) & (p < size)

    rows = np.repeat(flags(h, H), KW, 1)
    columns = np.tile(flags(v, W), (1, KH))
    tap = np.add.outer(np.array(h.offsets) * W, np.array(v.offsets)).reshape(-1) * C
    return np.ascontiguousarray(_bits(rows).T), np.ascontiguousarray(_bits(columns).T), tap, np.arange(KH * KW) * C


def depthwise_weights(x, gy, gw, h: Axis, v: Axis):
    C, vector = x.shape[3], lanes(x.dtype)
    numbers = (*x.shape, *gy.shape[1:3], -h.start, h.stride, -v.start, v.stride)
    parts = threads(gy.size * gw.size // C // MACS_PER_ELEMENT)
    size = max(gw.size, vector)
    totals = aligned(parts * 3 * (-(-size // vector) * vector), gw.dtype).reshape(parts, 3, -1)
    rows, columns, tap, out = _tap_table(x.shape[1:3], h, v, C)
    _depthwise_weights(parts, x.reshape(-1), gy.reshape(-1), totals, rows, columns, tap, out, numbers, vector)
    totals[:, 0, : gw.size].sum(0, out=gw.reshape(-1))
