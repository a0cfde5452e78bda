"""Winograd convolution on the CPU, 3x3 with stride 1: blocks of tiles are transformed, multiplied, and transformed back.

``_transform.py`` explains the transforms. For each position in a transformed tile (36 of them for F(4x4, 3x3), 16 for
F(2x2, 3x3)) the sum over channels of "weight times input" is a small matrix product, tiles x C times C x O.

**Gradients.** All of it is linear in d and linear in g, so the gradients are the transposed maps, and both start alike:

    gM = A gY A^T        gd = B [gM * (G g G^T)] B^T        gg = G^T [(B^T d B) * gM] G

Tiles of inputs overlap, so the gd are added up. The sums over channels (gd) and over tiles (gg) are matrix products again.

**Speed.** A block of some tiles is transformed, multiplied and transformed back while it lies in a core's cache; nothing is
ever stored for the whole batch. The numbers of a tile go to as many *slabs*, (tiles, channels) each. Slabs lie
a little more than a multiple of the row length apart: at a power of two they would compete for the same lines of the cache.

**What follows.** ReLU, or ReLU and 2x2 max pooling, are done to a tile of outputs before it is written, and undone when a tile
of gradients is read: see ``_vector.py``. Outputs that no pooling window sees are not computed.

**Rounding.** Outputs of a tile share intermediate results: a NaN or infinity in the input makes the whole tile NaN, not
only the pixels whose windows see it, and a result that is exactly zero in theory may come out as a rounding error.

Inside the kernels all arrays are rows of numbers: images (N, H, W, C), weights (3, 3, C, O), and positions count float32
numbers. ``geometry`` is (rows of tiles, tiles in a row, top and left padding, OH, OW, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.cpu._relu_pool import PLAIN, POOL, RELU
from minidl.kernels.cpu._tile import VECTOR_BYTES, Shape, lanes, tile_add, tile_fma, tile_offsets, tile_start, tile_store
from minidl.kernels.cpu._transform import (
    input_matrix,
    input_transposed,
    output_matrix,
    output_transposed,
    weight_matrix,
    weight_transposed,
)
from minidl.kernels.cpu._vector import (
    vectors_add,
    vectors_add_inside,
    vectors_load,
    vectors_load_inside,
    vectors_pass,
    vectors_plus,
    vectors_pool,
    vectors_relu,
    vectors_store,
    vectors_store_inside,
    vectors_sum,
    vectors_unpool,
)
from minidl.kernels.generic.conv import Padding, Pair, conv_size
from minidl.memory import channels_last, empty, spatial_first

__all__ = ["winograd_backward", "winograd_can", "winograd_forward", "winograd_pays"]

LANES = lanes(np.float32)
# Rows divide BLOCK and a vector, so that all tiles are whole; their sums fit in the registers (16 without AVX-512).
WIDE, NARROW = (Shape(8, 2), Shape(8, 1)) if VECTOR_BYTES == 64 else (Shape(4, 2), Shape(4, 1))
ONE, TWO, THREE, FOUR, SIX = Shape(1, 1), Shape(2, 1), Shape(3, 1), Shape(4, 1), Shape(6, 1)
ZEROS = np.zeros(2 * LANES, np.float32)
# Integers that are passed on to functions are np.intp, because Numba compiles a function again for each plain integer.
WRITE, ADD = np.intp(0), np.intp(1)  # what is done with products
NEXT = np.intp(1)  # the step to a neighbour
READ_WEIGHTS, FORWARD, BACKWARD, WRITE_WEIGHTS = range(4)  # stages
BLOCK = 32  # tiles worked on at a time
MACS_PER_ELEMENT = 32  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


# ------------------------------------------------------------------ tiles of images, to slabs and back
#
# ``inputs`` and ``outputs`` are Shape constants: a row of a tile's inputs (six vectors, or four), and of its outputs.


@serial
def _corner(tile, side, geometry):
    """The image a tile belongs to, and the first row and column of its outputs."""
    rows, columns = geometry[0], geometry[1]
    n, rest = tile // (rows * columns), tile % (rows * columns)
    return n, rest // columns * side, rest % columns * side


@serial
def _read_inputs(inputs, x, C, first, last, geometry, V, row, slab, scratch):
    """V = B^T d B of the tiles first to last."""
    IN, H, W = inputs.rows, geometry[6], geometry[7]
    for tile in range(last - first):
        n, h, w = _corner(first + tile, IN - 2, geometry)
        h, w = h - geometry[2], w - geometry[3]
        inside = h >= 0 and w >= 0 and h + IN <= H and w + IN <= W
        begin = ((n * H + h) * W + w) * C
        for c in range(0, C, LANES):
            for i in range(IN):
                at = begin + i * W * C + c
                if inside:
                    d = vectors_load(inputs, x, at, C, C - c)
                else:
                    d = vectors_load_inside(inputs, x, at, C, C - c, -w, W - w if 0 <= h + i < H else 0)
                vectors_store(scratch, i * IN * LANES, LANES, LANES, input_matrix(inputs, d))
            for j in range(IN):
                d = vectors_load(inputs, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(V, j * slab + tile * row + c, IN * slab, LANES, input_matrix(inputs, d))


@serial
def _pooled(tile_row, column, n, O, o, geometry):
    """Where the first of a row of pooled outputs lies, and how many there are from there on."""
    rows, columns = geometry[4] // 2, geometry[5] // 2
    there = columns - column // 2 if tile_row // 2 < rows else 0
    return ((n * rows + tile_row // 2) * columns + column // 2) * O + o, there


@serial
def _unpooled(row, column, n, O, o, geometry):
    """Where the first of a row of outputs lies, and how many there are from there on."""
    rows, columns = geometry[4], geometry[5]
    return ((n * rows + row) * columns + column) * O + o, columns - column if row < rows else 0


@serial
def _write_outputs(inputs, outputs, M, row, slab, b, y, winner, follows, O, first, last, geometry, scratch):
    """y = A^T M A + b of the tiles first to last, and what follows."""
    IN = inputs.rows
    for tile in range(last - first):
        n, h, w = _corner(first + tile, outputs.rows, geometry)
        for o in range(0, O, LANES):
            bias = vectors_load(ONE, b, o, 0, O - o)
            for j in range(IN):
                m = vectors_load(inputs, M, j * slab + tile * row + o, IN * slab, LANES)
                vectors_store(scratch, j * LANES, IN * LANES, LANES, output_matrix(inputs, m))
            for i in range(0, outputs.rows, 2):
                m = vectors_load(inputs, scratch, i * IN * LANES, LANES, LANES)
                top = vectors_plus(output_matrix(inputs, m), bias)
                m = vectors_load(inputs, scratch, (i + 1) * IN * LANES, LANES, LANES)
                bottom = vectors_plus(output_matrix(inputs, m), bias)
                if follows == POOL:
                    at, there = _pooled(h + i, w, n, O, o, geometry)
                    vectors_pool(y, winner, at, O, O - o, there, top, bottom)
                else:
                    if follows == RELU:
                        top, bottom = vectors_relu(top), vectors_relu(bottom)
                    at, there = _unpooled(h + i, w, n, O, o, geometry)
                    vectors_store_inside(y, at, O, O - o, 0, there, top)
                    at, there = _unpooled(h + i + 1, w, n, O, o, geometry)
                    vectors_store_inside(y, at, O, O - o, 0, there, bottom)


@serial
def _read_gradients(inputs, outputs, gy, y, winner, follows, O, first, last, geometry, M, row, slab, gb, scratch):
    """gM = A gY A^T of the tiles first to last, after what follows; their gY are added to gb (N, O)."""
    IN = inputs.rows
    for tile in range(last - first):
        n, h, w = _corner(first + tile, outputs.rows, geometry)
        for o in range(0, O, LANES):
            for i in range(0, outputs.rows, 2):
                if follows == POOL:
                    at, there = _pooled(h + i, w, n, O, o, geometry)
                    top, bottom = vectors_unpool(outputs, gy, winner, at, O, O - o, there)
                else:
                    at, there = _unpooled(h + i, w, n, O, o, geometry)
                    below, there_below = _unpooled(h + i + 1, w, n, O, o, geometry)
                    top = vectors_load_inside(outputs, gy, at, O, O - o, 0, there)
                    bottom = vectors_load_inside(outputs, gy, below, O, O - o, 0, there_below)
                    if follows == RELU:
                        top = vectors_pass(top, vectors_load_inside(outputs, y, at, O, O - o, 0, there))
                        bottom = vectors_pass(bottom, vectors_load_inside(outputs, y, below, O, O - o, 0, there_below))
                if gb.size > 0:
                    vectors_add(gb, n * O + o, 0, O - o, vectors_sum(top + bottom))
                vectors_store(scratch, i * IN * LANES, LANES, LANES, output_transposed(inputs, top))
                vectors_store(scratch, (i + 1) * IN * LANES, LANES, LANES, output_transposed(inputs, bottom))
            for j in range(IN):
                g = vectors_load(outputs, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(M, j * slab + tile * row + o, IN * slab, LANES, output_transposed(inputs, g))


@serial
def _add_inputs(inputs, V, row, slab, gx, C, first, last, geometry, scratch):
    """gx += B gV B^T of the tiles first to last."""
    IN, H, W = inputs.rows, geometry[6], geometry[7]
    for tile in range(last - first):
        n, h, w = _corner(first + tile, IN - 2, geometry)
        h, w = h - geometry[2], w - geometry[3]
        inside = h >= 0 and w >= 0 and h + IN <= H and w + IN <= W
        begin = ((n * H + h) * W + w) * C
        for c in range(0, C, LANES):
            for j in range(IN):
                v = vectors_load(inputs, V, j * slab + tile * row + c, IN * slab, LANES)
                vectors_store(scratch, j * LANES, IN * LANES, LANES, input_transposed(inputs, v))
            for i in range(IN):
                v = input_transposed(inputs, vectors_load(inputs, scratch, i * IN * LANES, LANES, LANES))
                at = begin + i * W * C + c
                if inside:
                    vectors_add(gx, at, C, C - c, v)
                else:
                    vectors_add_inside(gx, at, C, C - c, -w, W - w if 0 <= h + i < H else 0, v)


# ------------------------------------------------------------------ weights


@serial
def _read_weights(inputs, w, tap, panels, first, last, U, slab, scratch):
    """U = G g G^T for a part of the summed channels, in panels: (slabs, columns / width, sums, width), zeros at the end.

    Forward sums over C and the columns are O; for the gradient of the input it is the other way round. ``tap`` is the
    step from one of the 3x3 weights to the next.
    """
    sums, sum_step, columns, column_step, width = panels
    IN, half = inputs.rows, scratch[9 * LANES :]
    for k in range(first, last):
        for c in range(0, (columns + width - 1) // width * width, LANES):
            count = max(0, min(LANES, columns - c))
            for i in range(9):
                weights = w[i * tap + k * sum_step + min(c, columns) * column_step :]
                for j in range(count):
                    scratch[i * LANES + j] = weights[j * column_step]
                for j in range(count, LANES):
                    scratch[i * LANES + j] = 0
            for i in range(3):
                g = vectors_load(THREE, scratch, i * 3 * LANES, LANES, LANES)
                vectors_store(half, i * IN * LANES, LANES, LANES, weight_matrix(inputs, g))
            panel = c // width * sums * width + k * width + c % width
            for j in range(IN):
                g = vectors_load(THREE, half, j * LANES, IN * LANES, LANES)
                vectors_store(U, j * slab + panel, IN * slab, LANES, weight_matrix(inputs, g))


@serial
def _write_weight_gradients(inputs, gU, row, slab, gw, C, O, first, last, scratch):
    """gw = G^T gU G for a part of the C; gU (parts, slabs of C rows) is first added up over the parts."""
    IN = inputs.rows
    half = scratch[IN * IN * LANES :]
    for c in range(first, last):
        for o in range(0, O, LANES):
            for i in range(IN * IN):
                total = scratch[i * LANES : (i + 1) * LANES]
                total[:] = 0
                for part in range(gU.shape[0]):
                    term = gU[part, i * slab + c * row + o : i * slab + c * row + o + LANES]
                    for j in range(LANES):
                        total[j] += term[j]
            for j in range(IN):
                u = vectors_load(inputs, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(half, j * LANES, IN * LANES, LANES, weight_transposed(inputs, u))
            for i in range(3):
                u = vectors_load(inputs, half, i * IN * LANES, LANES, LANES)
                vectors_store(gw, (i * 3 * C + c) * O + o, C * O, O - o, weight_transposed(inputs, u))


# ------------------------------------------------------------------ products


@serial
def _products_of(shape, slabs, x, w, y, sums, rows, columns, action):
    """For each of the slabs  y[r, c] = sum over k of x[r, k] w[k, c],  written to y or added.

    x is (data, positions of the rows, of the next slab, of the next k), w (data, next slab, next panel, next k),
    y (data, positions of the rows, next slab). Tiles are always whole: there is room for a few rows more than ``rows``,
    and columns are a multiple of the tile's.
    """
    x_data, x_rows, x_slab, x_step = x
    w_data, w_slab, w_panel, w_step = w
    y_data, y_rows, y_slab = y
    width = shape.vectors * LANES
    for i in range(slabs):
        x_part = x_data[i * x_slab :]
        for c in range(0, columns, width):
            y_part = y_data[i * y_slab + c :]
            for r in range(0, rows, shape.rows):
                offsets = tile_offsets(shape, x_rows, r, x_rows.size - 1)
                tile = tile_start(shape, ZEROS)
                x_at, w_at = 0, i * w_slab + c // width * w_panel
                for _ in range(sums):
                    tile = tile_fma(tile, x_part, offsets, x_at, w_data, w_at)
                    x_at += x_step
                    w_at += w_step
                offsets = tile_offsets(shape, y_rows, r, y_rows.size - 1)
                if action == ADD:
                    tile_add(tile, y_part, offsets, shape.rows, width)
                else:
                    tile_store(tile, y_part, offsets, shape.rows, width)


@serial
def _products(slabs, x, w, y, sums, rows, columns, action):
    """As above, with the tile that suits the number of columns."""
    if columns <= LANES:
        _products_of(NARROW, slabs, x, w, y, sums, rows, columns, action)
    else:
        _products_of(WIDE, slabs, x, w, y, sums, rows, columns, action)


# ------------------------------------------------------------------ forward and backward


@serial
def _workspace(work, slabs, c_slab, o_slab):
    """The parts of a thread's memory: inputs and outputs of a block, transformed; half-transformed tiles."""
    inputs, outputs = slabs * c_slab, slabs * (c_slab + o_slab)
    return work[:inputs], work[inputs:outputs], work[outputs:]


@serial
def _forward(inputs, outputs, x, C, U, b, y, winner, follows, O, geometry, sizes, tables, first, last, work):
    """The tiles first to last, a block at a time."""
    block, c_row, c_slab, _, o_row, o_slab, o_width, u_slab, _ = sizes
    slabs = inputs.rows * inputs.rows
    V, M, scratch = _workspace(work, slabs, c_slab, o_slab)
    weights = (U, u_slab, C * o_width, o_width)
    for begin in range(first, last, block):
        end = min(begin + block, last)
        _read_inputs(inputs, x, C, begin, end, geometry, V, c_row, c_slab, scratch)
        _products(slabs, (V, tables[0], c_slab, NEXT), weights, (M, tables[1], o_slab), C, end - begin, o_row, WRITE)
        _write_outputs(inputs, outputs, M, o_row, o_slab, b, y, winner, follows, O, begin, end, geometry, scratch)


@serial
def _backward(inputs, outputs, gy, y, winner, follows, O, U, x, C, gx, gU, gb, geometry, sizes, tables, first, last, work):
    """The images first to last, a block of tiles at a time. gx, gU and gb are empty when they are not needed."""
    block, c_row, c_slab, c_width, o_row, o_slab, o_width, u_slab, g_slab = sizes
    slabs = inputs.rows * inputs.rows
    V, M, scratch = _workspace(work, slabs, c_slab, o_slab)
    gU[:] = 0
    gb[first * O : last * O] = 0
    tiles = geometry[0] * geometry[1]
    size = geometry[6] * geometry[7] * C
    cleared = first  # the images of gx before this one have been set to zero; just before use, so that they lie in the cache
    for begin in range(first * tiles, last * tiles, block):
        end = min(begin + block, last * tiles)
        results = gy, y, winner, follows, O
        _read_gradients(inputs, outputs, *results, begin, end, geometry, M, o_row, o_slab, gb, scratch)
        if gU.size > 0:
            _read_inputs(inputs, x, C, begin, end, geometry, V, c_row, c_slab, scratch)
            tiles_in, tiles_out = (V, tables[2], c_slab, c_row), (M, o_slab, o_width, o_row)
            _products(slabs, tiles_in, tiles_out, (gU, tables[3], g_slab), end - begin, c_row, o_row, ADD)
        if gx.size > 0:
            weights = (U, u_slab, O * c_width, c_width)
            _products(slabs, (M, tables[1], o_slab, NEXT), weights, (V, tables[0], c_slab), O, end - begin, c_row, WRITE)
            touched = (end - 1) // tiles + 1
            gx[cleared * size : touched * size] = 0
            cleared = touched
            _add_inputs(inputs, V, c_row, c_slab, gx, C, begin, end, geometry, scratch)


def _stages(inputs: Shape, outputs: Shape) -> Callable[..., None]:
    """All stages of one of the two algorithms, compiled when it is first used."""

    @threaded
    def stages(stage, N, C, O, w, U, x, gy, y, winner, follows, b, gx, gU, panels, geometry, sizes, tables, work, part, parts):
        """One thread's part of a stage. In FORWARD y and winner are results; in BACKWARD b is gb; in WRITE_WEIGHTS w is gw."""
        if fork(part, parts):
            return
        if stage == READ_WEIGHTS:
            first, last = share(panels[0], part, parts)
            _read_weights(inputs, w, C * O, panels, first, last, U, sizes[7], work[part])
        elif stage == FORWARD:
            first, last = share(N * geometry[0] * geometry[1], part, parts)
            _forward(*(inputs, outputs, x, C, U, b, y, winner, follows, O, geometry, sizes, tables, first, last, work[part]))
        elif stage == BACKWARD:
            first, last = share(N, part, parts)
            _backward(
                *(inputs, outputs, gy, y, winner, follows, O, U, x, C, gx, gU[part], b),
                *(geometry, sizes, tables, first, last, work[part]),
            )
        else:
            first, last = share(C, part, parts)
            _write_weight_gradients(inputs, gU, sizes[4], sizes[8], w, C, O, first, last, work[part])

    return stages


_STAGES = {4: _stages(SIX, FOUR), 2: _stages(FOUR, TWO)}  # by the side of a tile of outputs


def _tiles(outputs: int, side: int) -> int:
    """How many tiles cover so many outputs."""
    return -(-outputs // side)


def _seen(outputs: int, follows: int) -> int:
    """How many of so many outputs are seen by what follows."""
    return outputs - outputs % 2 if follows == POOL else outputs


class _Plan:
    """The sizes of one convolution of N images of ``size`` with C channels to O channels, or of its gradients.

    A row of a slab is a whole number of tile widths long, so that all tiles are whole. ``panels`` says how weights
    are arranged: (sums, step, columns, step, width of a panel).
    """

    def __init__(self, N: int, C: int, O: int, size: Pair, padding: Padding, side: int, follows: int, backward: bool):
        self.OH, self.OW = (conv_size(size[i], 3, 1, padding[i], 1) for i in (0, 1))
        TH, TW = (_tiles(_seen(n, follows), side) for n in (self.OH, self.OW))
        self.slabs = (side + 2) ** 2
        self.geometry = TH, TW, padding[0][0], padding[1][0], self.OH, self.OW, *size
        c_width, o_width = (LANES if n <= LANES else 2 * LANES for n in (C, O))
        c_row, o_row = -(-C // c_width) * c_width, -(-O // o_width) * o_width
        c_slab, o_slab, g_slab = BLOCK * c_row + LANES, BLOCK * o_row + LANES, c_row * o_row + LANES
        self.panels = (O, 1, C, O, c_width) if backward else (C, O, O, 1, o_width)
        u_slab = (c_row * O if backward else o_row * C) + LANES
        self.sizes = BLOCK, c_row, c_slab, c_width, o_row, o_slab, o_width, u_slab, g_slab
        tiles, channels = np.arange(BLOCK), np.arange(c_row)
        self.tables = tiles * c_row, tiles * o_row, channels, channels * o_row
        self.work = self.slabs * (c_slab + o_slab + 2 * LANES)
        self.cost = N * TH * TW * self.slabs * C * O // MACS_PER_ELEMENT
        self.most_parts = max(1, N if backward else N * TH * TW)

    @property
    def parts(self) -> int:
        """How many threads share the work."""
        return min(threads(self.cost), self.most_parts)


_plan = lru_cache(maxsize=256)(_Plan)


def winograd_can(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int, dtype: Any
) -> bool:
    """Whether Winograd computes this convolution: float32, a plain 3x3, and no padding that cuts rows off."""
    plain = (*w_shape[2:], *stride, *dilation, groups) == (3, 3, 1, 1, 1, 1, 1)
    return plain and min(*padding[0], *padding[1]) >= 0 and np.dtype(dtype) == np.float32


def winograd_pays(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    dtype: Any,
    follows: int = PLAIN,
) -> bool:
    """Whether F(4x4, 3x3) is less work than a direct convolution, as estimated, where Winograd can compute it.

    Work is counted in multiply-adds, and what else there is in multiply-adds of the same time (measured): transforming a
    tile takes about 500 for each of its channels, the weights 3000 for each of C * O (600 on one thread, but two threads have
    to give each other the transformed weights, and the parts of their gradients). With few channels, or few outputs in the
    tiles that cover them (a 5x5 result needs four tiles), or few tiles for the weights, the direct way is shorter.
    """
    (N, C, H, W), O = x_shape, w_shape[0]
    if min(C, O) < 16:
        return False
    OH, OW = (_seen(conv_size(size, 3, 1, sides, 1), follows) for size, sides in zip((H, W), padding, strict=True))
    tiles = N * _tiles(OH, 4) * _tiles(OW, 4)
    return tiles * (36 * C * O + 500 * (C + O)) + 3000 * C * O < N * OH * OW * 9 * C * O


_NO_BYTES, _NOTHING = np.empty(0, np.uint8), np.empty(0, np.float32)


@np.errstate(invalid="ignore", over="ignore")
def winograd_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, padding: Padding, follows: int = PLAIN, side: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh + kh - top, ow + kw - left], float32.

    With what follows; and what that keeps for backward, y or the winners of the pooling windows.
    """
    x = channels_last(x)
    (N, H, W, C), O = x.shape, len(w)
    plan = _plan(N, C, O, (H, W), padding, side, follows, backward=False)
    shape = (N, plan.OH // 2, plan.OW // 2, O) if follows == POOL else (N, plan.OH, plan.OW, O)
    y, winner = empty(shape, x.dtype), empty(shape, np.uint8) if follows == POOL else _NO_BYTES
    if y.size > 0:
        U = empty((plan.slabs * plan.sizes[7],), x.dtype)
        parts = plan.parts
        work, gU = empty((parts, plan.work), x.dtype), np.empty((parts, 0), x.dtype)
        b = np.zeros(O, x.dtype) if b is None else np.ascontiguousarray(b)
        arrays = spatial_first(w).reshape(-1), U, x.reshape(-1), _NOTHING, y.reshape(-1), winner.reshape(-1)
        arguments = (N, C, O, *arrays, follows, b, _NOTHING, gU, plan.panels, plan.geometry, plan.sizes, plan.tables, work)
        for stage in (READ_WEIGHTS, FORWARD):
            _STAGES[side](parts, stage, *arguments)
    y = y.transpose(0, 3, 1, 2)
    return y, winner.transpose(0, 3, 1, 2) if follows == POOL else y


@np.errstate(invalid="ignore", over="ignore")
def winograd_backward(
    gy: np.ndarray,
    x: np.ndarray | None,
    w: np.ndarray,
    size: Pair,
    padding: Padding,
    needs: tuple[bool, bool, bool],
    follows: int = PLAIN,
    kept: np.ndarray | None = None,
    side: int = 4,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only.

    ``kept`` is what the steps that follow need for their gradients: y for RELU, the winners for POOL.
    """
    gy = channels_last(gy)
    N, C, O = len(gy), w.shape[1], w.shape[0]
    plan = _plan(N, C, O, size, padding, side, follows, backward=True)
    dtype, parts = gy.dtype, plan.parts
    # What is not needed has no elements; that is how the kernels know.
    gx = empty((N, *size, C) if needs[0] else (0, 0, 0, 0), dtype)
    gw = empty((3, 3, C, O) if needs[1] else (0, 0, 0, 0), dtype)
    gb = np.empty((N, O) if needs[2] else (0, 0), dtype)
    U = empty((plan.slabs * plan.sizes[7] if needs[0] else 0,), dtype)
    gU = empty((parts, plan.slabs * plan.sizes[8] if needs[1] else 0), dtype)
    work = empty((parts, plan.work), dtype)
    images = gx if x is None or not needs[1] else channels_last(x)
    kept = None if kept is None else channels_last(kept).reshape(-1)
    y, winner = _NOTHING if follows != RELU else kept, _NO_BYTES if follows != POOL else kept
    results = gy.reshape(-1), y, winner, follows, gb.reshape(-1), gx.reshape(-1), gU
    arguments = (U, images.reshape(-1), *results, plan.panels, plan.geometry, plan.sizes, plan.tables, work)
    weights, stages = spatial_first(w).reshape(-1), _STAGES[side]
    if needs[0]:
        stages(parts, READ_WEIGHTS, N, C, O, weights, *arguments)
    stages(parts, BACKWARD, N, C, O, weights, *arguments)
    if needs[1]:
        stages(parts, WRITE_WEIGHTS, N, C, O, gw.reshape(-1), *arguments)
    return (
        gx.transpose(0, 3, 1, 2) if needs[0] else None,
        gw.transpose(3, 2, 0, 1) if needs[1] else None,
        gb.sum(0) if needs[2] else None,
    )
