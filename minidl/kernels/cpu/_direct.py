"""Convolution on register tiles, directly from the images: no columns are made.

Seen as one long row of numbers, channels last, a convolution is a sum with three tables of positions:

    y[out[p] + o] = b[o] + sum over k of x[pixel[p] + tap[k]] * w[k, o]

``pixel[p]`` is where the window of output pixel p begins, ``tap[k]`` how far from there the k-th value of a window lies, with
k over all (kh, kw, c), and ``out[p]`` where the pixel's results go. Kernel size, stride, dilation and groups are in the
tables; the loop (``_sums``) knows nothing of them. Padding is made by copying: a piece of the images with zeros around it.

The gradient of the weights is the same sum with two tables exchanged:

    gw[k, o] = sum over p of x[tap[k] + pixel[p]] * gy[out[p] + o]

and the gradient of the images is again a convolution, of gy, with the kernel turned by 180 degrees, padded so that it meets
all pixels. With a stride S, pixels whose positions differ by S meet the same taps, so each of the S x S interleaved
grids of pixels is one such convolution with its own few taps (see ``gradient_axes`` of ``_positions``).

Work is cut into pieces of a few hundred output pixels, whose inputs stay in a core's cache: a band of rows of one image, or
several small images. Weights are packed into panels as wide as a tile, so that the loop reads them in a row; or read where
they lie, if they meet few pixels. All that follows from shapes alone is worked out once (``_Plan``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.cpu._positions import LINE, Axis, tables, weight_positions
from minidl.kernels.cpu._prefetch import prefetch
from minidl.kernels.cpu._relu_pool import PLAIN, POOL, RELU, pool_rows, relu_row, relu_row_gradient, unpool_rows
from minidl.kernels.cpu._tile import NARROW, WIDE, Shape, lanes, tile_add, tile_fma, tile_offsets, tile_start, tile_store
from minidl.memory import empty

__all__ = ["correlate", "scatter", "weight_gradient"]

WIDE_ROW, NARROW_ROW = Shape(1, WIDE.vectors), Shape(1, NARROW.vectors)  # to copy with

PIECE_PIXELS = 256  # output pixels worked on at a time
FEW_PIXELS = 1024  # to which weights are applied where they lie: too few to be worth packing them
FAR_BYTES = 1 << 23  # of images that are not in a cache any more
MACS_PER_ELEMENT = 32  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


# ---------------------------------------------------------------------------------------- kernels


@serial
def _sums(shape, x, pixel, tap, w, step, start, y, out, columns, add, ahead):
    """y[out[p] + c] = start[c] + sum over k of x[pixel[p] + tap[k]] * w[k * step + c], for c < columns; or added to y.

    ``ahead``, if not zero, is how far from a tile's pixels those of the next begin, which are then asked for in time.
    """
    last = pixel.size - 1
    for p in range(0, pixel.size, shape.rows):
        rows = tile_offsets(shape, pixel, p, last)
        tile = tile_start(shape, start)
        at = 0
        if ahead:
            for first in range(0, tap.size, LINE):
                prefetch(x, rows, tap[first] + ahead)
                for k in range(first, min(first + LINE, tap.size)):
                    tile = tile_fma(tile, x, rows, tap[k], w, at)
                    at += step
        else:
            for k in range(tap.size):
                tile = tile_fma(tile, x, rows, tap[k], w, at)
                at += step
        if add:
            tile_add(tile, y, tile_offsets(shape, out, p, last), pixel.size - p, columns)
        else:
            tile_store(tile, y, tile_offsets(shape, out, p, last), pixel.size - p, columns)


@serial
def panel(x, pixel, tap, w, step, start, y, out, columns, add, ahead, lanes):
    """``_sums`` by the tile that fits."""
    if columns > lanes:
        _sums(WIDE, x, pixel, tap, w, step, start, y, out, columns, add, ahead)
    else:
        _sums(NARROW, x, pixel, tap, w, step, start, y, out, columns, add, ahead)


@serial
def panel_width(columns, lanes):
    """How wide the next panel is, when so many columns are left."""
    return WIDE.vectors * lanes if columns > lanes else lanes


@serial
def pack(w, position, step, columns, packed, lanes):
    """Panels of the weights w[position[k] + c * step]: packed[panel][k][c], with zeros after the last column."""
    depth = position.size
    for first in range(0, columns, WIDE.vectors * lanes):
        width = panel_width(columns - first, lanes)
        used = min(width, columns - first)
        block = packed[first * depth : (first + width) * depth]
        if step == 1 and used == width:
            for k in range(depth):
                source, here = w[position[k] + first :], block[k * width :]
                if width > lanes:
                    tile_store(tile_start(WIDE_ROW, source), here, (0,), 1, width)
                else:
                    tile_store(tile_start(NARROW_ROW, source), here, (0,), 1, width)
            continue
        if used < width:
            block[:] = 0
        for c in range(used):
            source = w[(first + c) * step :]
            for k in range(depth):
                block[k * width + c] = source[position[k]]


@serial
def _where(numbers, piece):
    """The first image of a piece, its number of images, the first row it reads, its pixels, and where its output begins."""
    N, _, _, _, images, rows, bands, height, width, line, stride = numbers[:11]
    n, row = piece // bands * images, piece % bands * rows
    images, rows = min(images, N - n), min(rows, height - row)
    return n, images, line + row * stride, images * rows * width, n * numbers[15] + numbers[16] + row * numbers[17]


@serial
def _copy(x, copy, numbers, n, images, line, back):
    """Copy what a piece reads, with zeros around the images; or, ``back``, add the copy to the images."""
    H, W, C = numbers[1:4]
    column, lines, columns = numbers[11:14]
    left = min(max(-column, 0), columns)
    right = max(min(W - column, columns), left)
    for i in range(images * lines):
        row = copy[i * columns * C : (i + 1) * columns * C]
        inside = row[left * C : right * C]
        h = line + i % lines
        if h < 0 or h >= H:
            if not back:
                row[:] = 0
            continue
        there = x[(((n + i // lines) * H + h) * W + column + left) * C :][: inside.size]
        if back:
            for k in range(inside.size):
                there[k] += inside[k]
        else:
            row[: left * C] = 0
            row[right * C :] = 0
            for k in range(inside.size):
                inside[k] = there[k]


@serial
def _read(x, copy, numbers, n, images, line):
    """What the tables of a piece count from: a place in x itself, or in its copy."""
    _, H, W, C = numbers[:4]
    if numbers[14]:
        _copy(x, copy, numbers, n, images, line, False)
        return copy
    return x[((n * H + line) * W + numbers[11]) * C :]


@threaded
def _correlate(
    x, w, w_row, start, y, winner, follows, pixel, tap, out, numbers, groups, OG, ahead, lanes, scratch, pieces, part, parts
):
    """A convolution and what follows.

    w and start are packed panels, for each group of OG columns; or w, where ``w_row`` is not zero, is a matrix with rows of so
    many numbers. A thread's ``scratch`` is for copies of images, and from numbers[18] on for results before pooling.
    """
    if fork(part, parts):
        return
    first, last = share(pieces, part, parts)
    O, CG, padded, columns = groups * OG, numbers[3] // groups, start.size // groups, numbers[8]
    copy, unpooled = scratch[part], scratch[part, numbers[18] :]
    for piece in range(first, last):
        n, images, line, pixels, at = _where(numbers, piece)
        source = _read(x, copy, numbers, n, images, line)
        target = unpooled if follows == POOL else y[at:]
        for g in range(groups):
            for o in range(0, OG, WIDE.vectors * lanes):
                width, used = panel_width(OG - o, lanes), min(OG - o, WIDE.vectors * lanes)
                place = g * padded + o
                weights, step = (w[o:], w_row) if w_row else (w[place * tap.size :], width)
                group = target[g * OG + o :]
                far = ahead if o == 0 else 0  # later panels of weights find the pixels in the cache
                panel(
                    *(source[g * CG :], pixel[:pixels], tap, weights, step),
                    *(start[place:], group, out[:pixels], used, False, far, lanes),
                )
        if follows == RELU:
            relu_row(target[: pixels * O])
        elif follows == POOL:
            pool_rows(unpooled, pixels // columns, columns, columns, O, lanes, y[at // 4 :], winner[at // 4 :])


@serial
def _add_columns(rows, O, total, part):
    """total += the sum of rows of O numbers; ``part`` is summed first, because one long running sum would lose digits."""
    part[:] = 0
    count = rows.size // O
    for r in range(count // 4):
        four = rows[4 * r * O : 4 * (r + 1) * O]
        first, second, third, fourth = four[:O], four[O : 2 * O], four[2 * O : 3 * O], four[3 * O :]
        for o in range(O):
            part[o] += (first[o] + second[o]) + (third[o] + fourth[o])
    for r in range(count - count % 4, count):
        row = rows[r * O : (r + 1) * O]
        for o in range(O):
            part[o] += row[o]
    for o in range(O):
        total[o] += part[o]


@threaded
def _weight_gradient(
    x, gy, y, winner, follows, gws, gbs, tables, numbers, groups, O, lanes, copies, undone, panels, pieces, part, parts
):
    """The gradients, in gws[part] and gbs[part, 0] where these are not empty."""
    if fork(part, parts):
        return
    first, last = share(pieces, part, parts)
    pixel, tap, out, w_out = tables
    CG, OG, gw, gb, copy = numbers[3] // groups, O // groups, gws[part], gbs[part], copies[part]
    zeros, packing = panels[part, : WIDE.vectors * lanes], panels[part, WIDE.vectors * lanes :]
    gw[:], gb[:], zeros[:] = 0, 0, 0
    one, add, near = np.int64(1), np.bool_(True), np.int64(0)  # literals would make Numba compile the callees once more
    for piece in range(first, last):
        n, images, line, pixels, at = _where(numbers, piece)
        gradients = undone[part, : pixels * O]
        if follows == POOL:
            columns = numbers[8]
            unpool_rows(gy[at // 4 :], winner[at // 4 :], pixels // columns, columns, columns, O, lanes, gradients)
        elif follows == RELU:
            relu_row_gradient(gy[at:], y[at:], gradients)
        else:
            gradients = gy[at : at + pixels * O]
        if gw.size:
            source = _read(x, copy, numbers, n, images, line)
            for g in range(groups):
                for o in range(0, OG, WIDE.vectors * lanes):
                    width, used = panel_width(OG - o, lanes), min(OG - o, WIDE.vectors * lanes)
                    packed = gradients
                    if groups > 1 or width != O:
                        packed = packing
                        pack(gradients[g * OG + o :], out[:pixels], one, used, packed, lanes)
                    results = gw[g * OG + o :]
                    panel(
                        *(source[g * CG :], tap, pixel[:pixels], packed, width),
                        *(zeros, results, w_out, used, add, near, lanes),
                    )
        if gb.size:
            _add_columns(gradients, O, gb[0], gb[1])


@threaded
def _scatter(
    gy, w, zeros, gx, pixel, tap, out, channel, line_start, numbers, groups, run, lanes, copies, lines, units, part, parts
):
    """gx of some images: what each pixel of gy gives to its window (a line of ``lines``) is added there.

    ``run`` values of a window lie side by side.
    """
    if fork(part, parts):
        return
    first, last = share(units, part, parts)
    copy, windows = copies[part], lines[part]
    N, H, W, C, images = numbers[:5]
    bands, depth, OG, CG = numbers[6], tap.size, channel.size, numbers[3] // groups
    gx[first * images * H * W * C : min(last * images, N) * H * W * C] = 0
    padded, near = w.size // (groups * OG), np.int64(0)
    for piece in range(first * bands, last * bands):
        n, count, line, pixels, at = _where(numbers, piece)
        target = copy
        if numbers[14]:
            copy[:] = 0
        else:
            target = gx[((n * H + line) * W + numbers[11]) * C :]
        for g in range(groups):
            for k in range(0, depth, WIDE.vectors * lanes):
                width, columns = panel_width(depth - k, lanes), min(depth - k, WIDE.vectors * lanes)
                panel(
                    *(gy[at + g * OG :], out[:pixels], channel, w[(g * padded + k) * OG :], width),
                    *(zeros, windows[k:], line_start[:pixels], columns, False, near, lanes),
                )
            for p in range(pixels):
                for k in range(0, depth, run):
                    give = windows[p * depth + k : p * depth + k + run]
                    take = target[pixel[p] + tap[k] + g * CG :]
                    for c in range(give.size):
                        take[c] += give[c]
        if numbers[14]:
            _copy(gx, copy, numbers, n, count, line, True)


# ---------------------------------------------------------------------------------------- calls


def aligned(count: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that begins with a cache line, so that no vector of a panel lies across two."""
    raw = empty((count + 64 // dtype.itemsize,), dtype)
    begin = -raw.__array_interface__["data"][0] % 64 // dtype.itemsize
    return raw[begin : begin + count]


def padded(columns: int, lanes: int) -> int:
    """The columns of all panels together."""
    width = WIDE.vectors * lanes
    full = columns // width * width
    return full if full == columns else full + (width if columns - full > lanes else lanes)


def _room(parts: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Scratch for each thread, in cache lines of its own."""
    count = -(-count // 16) * 16
    return aligned(parts * count, dtype).reshape(parts, count)


def _cropped(axis: Axis, follows: int) -> Axis:
    """An axis of the outputs that are seen by what follows."""
    return axis._replace(outputs=axis.outputs - axis.outputs % 2) if follows == POOL else axis


_NO_BYTES = np.empty(0, np.uint8)


def _flat(a: np.ndarray | None, dtype: Any) -> np.ndarray:
    return np.empty(0, dtype) if a is None else a.reshape(-1)


class _Plan:
    """What ``correlate`` of arrays of these shapes needs to know; see there."""

    def __init__(
        self,
        x_shape: tuple[int, int, int, int],
        w_shape: tuple[int, int, int, int],
        y_shape: tuple[int, int, int, int],
        dtype: np.dtype,
        h: Axis,
        v: Axis,
        groups: int,
        transposed: bool,
        follows: int,
        piece_pixels: int,
    ) -> None:
        (N, *image, C), O = x_shape, y_shape[3]
        h, v = _cropped(h, follows), _cropped(v, follows)
        out_image, unit = ((h.outputs, v.outputs, O), 2) if follows == POOL else (y_shape[1:], 1)
        t = tables(N, (*image, C), out_image, h, v, groups, dtype.itemsize, _pixels(N, h, v, piece_pixels), unit)
        self.pixel, self.tap, self.out, self.numbers, self.pieces = t.pixel, t.tap, t.out, t.numbers, t.pieces
        self.vector, self.OG = lanes(dtype), O // groups
        self.columns = padded(self.OG, self.vector)
        self.zeros = np.zeros(groups * self.columns, dtype)
        # Where a group's weights begin, those of its k-th value of a window, and the next column's.
        self.group_step, self.step = (C // groups, w_shape[3]) if transposed else (self.OG, 1)
        self.position = weight_positions(w_shape, h, v, C // groups if transposed else 0)
        depth = self.position.size
        # Weights that are a matrix of whole panels can be read as they lie; else, with a row of 0, they are packed.
        matrix = groups == 1 and not transposed and self.columns == O and np.array_equal(self.position, np.arange(depth) * O)
        self.w_row = O if matrix and N * h.outputs * v.outputs <= FEW_PIXELS else 0
        self.packed = groups * self.columns * depth
        self.room = t.numbers[18] + (t.pixel.size * O if follows == POOL else 0)
        self.work, self.most_parts = _work(N, h, v, depth * O), max(t.pieces, 1)
        # Windows of several pixels overlap, and have mostly been read; and a short sum is no time to wait for memory.
        self.ahead = 0 if t.copies or depth > C // groups or depth <= LINE else WIDE.rows * v.stride * C


_plan = lru_cache(maxsize=1024)(_Plan)


def correlate(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    y: np.ndarray,
    h: Axis,
    v: Axis,
    groups: int,
    transposed: bool = False,
    follows: int = PLAIN,
    winner: np.ndarray | None = None,
) -> None:
    """y at the outputs of the axes = b + x correlated with w. x and y are (N, H, W, C), w is (KH, KW, C/G, O), all contiguous.

    ``transposed``: the sum is over w's last axis, as the gradient of the input needs it. What ``follows`` is done to y,
    which is then smaller for POOL, and so is ``winner``.
    """
    dtype = x.dtype
    plan = _plan(x.shape, w.shape, y.shape, dtype, h, v, groups, transposed, follows, PIECE_PIXELS)
    start, w = plan.zeros, w.reshape(-1)
    if b is not None and start.size == b.size:
        start = np.ascontiguousarray(b)
    elif b is not None:
        start = start.copy()
        start.reshape(groups, -1)[:, : plan.OG] = b.reshape(groups, -1)
    if not plan.w_row:
        packed, size = aligned(plan.packed, dtype), plan.packed // groups
        for g in range(groups):
            pack(w[g * plan.group_step :], plan.position, plan.step, plan.OG, packed[g * size :], plan.vector)
        w = packed
    parts = min(threads(plan.work), plan.most_parts)
    ahead = plan.ahead if x.nbytes >= FAR_BYTES else 0  # small images are in a cache
    _correlate(
        *(parts, x.reshape(-1), w, plan.w_row, start, y.reshape(-1), _NO_BYTES if winner is None else winner.reshape(-1)),
        *(follows, plan.pixel, plan.tap, plan.out, plan.numbers, groups, plan.OG, ahead, plan.vector),
        *(_room(parts, plan.room, dtype), plan.pieces),
    )


def weight_gradient(
    gy: np.ndarray,
    x: np.ndarray | None,
    gw: np.ndarray | None,
    gb: np.ndarray | None,
    image: tuple,
    h: Axis,
    v: Axis,
    groups: int,
    follows: int = PLAIN,
    kept: np.ndarray | None = None,
) -> None:
    """Fill gw and gb, those that are not None, of a convolution of images (H, W, C); x is read for gw only.

    gy is the gradient of what ``follows`` gave, and ``kept`` what that needs: y of RELU, winners of POOL.
    """
    vector, dtype, O, N = lanes(gy.dtype), gy.dtype, gy.shape[3], len(gy)
    h, v = _cropped(h, follows), _cropped(v, follows)
    out_image = (h.outputs, v.outputs, O)
    t = tables(N, image, out_image, h, v, groups, dtype.itemsize, _pixels(N, h, v, PIECE_PIXELS), 1 + (follows == POOL))
    parts = min(threads(_work(N, h, v, (1 if gw is None else t.tap.size) * O)), max(t.pieces, 1))
    size = 0 if gw is None else gw.size
    gws = empty((parts, size), dtype) if gw is None or parts > 1 else gw.reshape(1, size)
    gbs = np.empty((parts, 2, 0 if gb is None else O), dtype)
    undone = _room(parts, t.pixel.size * O if follows != PLAIN else 0, dtype)
    panels = _room(parts, WIDE.vectors * vector * (t.pixel.size + 1), dtype)
    y, winner = _flat(kept if follows == RELU else None, dtype), _flat(kept if follows == POOL else None, np.uint8)
    _weight_gradient(
        *(parts, _flat(x, dtype), gy.reshape(-1), y, winner, follows, gws, gbs),
        *((t.pixel, t.tap, t.out, np.arange(0, t.tap.size * O, O)), t.numbers, groups, O, vector),
        *(_room(parts, t.copies, dtype), undone, panels, t.pieces),
    )
    if gw is not None and parts > 1:
        gws.sum(0, out=gw.reshape(-1))
    if gb is not None:
        gbs[:, 0].sum(0, out=gb)


def scatter(gy: np.ndarray, w: np.ndarray, gx: np.ndarray, h: Axis, v: Axis, groups: int) -> None:
    """Fill gx, (N, H, W, C), by windows that are computed whole and then added up: col2im, a piece at a time.

    The axes are those of the convolution. The better form when images have few channels, because here the values of a
    window stand in the tile's columns and not the channels; and when a large stride makes many phases.
    """
    vector, dtype, O = lanes(gy.dtype), gy.dtype, gy.shape[3]
    OG, depth = O // groups, w[..., 0].size
    t = tables(len(gy), gx.shape[1:], gy.shape[1:], h, v, groups, dtype.itemsize, _pixels(len(gy), h, v, PIECE_PIXELS))
    channel, size = np.arange(OG), padded(depth, vector) * OG
    packed = aligned(groups * size, dtype)
    for g in range(groups):
        pack(w.reshape(-1)[g * OG :], channel, O, depth, packed[g * size :], vector)
    run = w.shape[1] * w.shape[2] if groups == 1 and v.offsets == v.taps else w.shape[2]
    units = t.pieces // t.numbers[6]  # several images, or the bands of one: no two threads add to the same place
    parts = min(threads(_work(len(gy), h, v, depth * O)), max(units, 1))
    copies, lines = _room(parts, t.copies, dtype), _room(parts, t.pixel.size * depth, dtype)
    line_start = np.arange(0, t.pixel.size * depth, depth)
    zeros = np.zeros(WIDE.vectors * vector, dtype)
    _scatter(
        *(parts, gy.reshape(-1), packed, zeros, gx.reshape(-1), t.pixel, t.tap, t.out, channel, line_start, t.numbers),
        *(groups, run, vector, copies, lines, units),
    )


def _work(N: int, h: Axis, v: Axis, macs: int) -> int:
    """The work of a convolution with so many multiply-adds for each pixel, for threads()."""
    return N * h.outputs * v.outputs * macs // MACS_PER_ELEMENT


def _pixels(N: int, h: Axis, v: Axis, most: int) -> int:
    """The size of a piece: smaller when the batch would not give each thread several."""
    return min(most, max(16, N * h.outputs * v.outputs // 8))
