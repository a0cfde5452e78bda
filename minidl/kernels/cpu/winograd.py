"""Winograd convolution F(4x4, 3x3): a 4x4 square of outputs for 36 multiplications instead of 144.

**The idea in one dimension.** A convolution multiplies polynomials: the coefficients of a product are sums of products of
coefficients. But a polynomial is also known by its values at enough points, and values are multiplied one by one. Four
outputs of a 3-tap filter see six inputs; six points turn 12 multiplications into 6:

    y = A^T [(G g) * (B^T d)]        d: 6 inputs,  g: 3 weights,  y: 4 outputs,  *: element by element

In two dimensions the same is done to the rows and then to the columns:  Y = A^T [(G g G^T) * (B^T d B)] A,  for tiles d of
6x6 inputs, four pixels apart. Summing over channels comes before A^T, and so for each of the 36 positions in a
tile the sum over channels of "weight times input" is a small matrix product, tiles x C times C x O.

**The points** are 0, 3/4, -3/4, 3/2, -3/2 and infinity (Cook-Toom; the tests derive the matrices again). The usual
0, +-1, +-2 give simpler numbers but four times the rounding error: powers of points near 1 stay small.

    B^T |  81/64   0       -45/16   0       1  0 |     G |   64/81     0      0    |     A^T | 1   1     1     1     1    0 |
        |   0    -27/16     -9/4    3/4     1  0 |       | -128/243 -32/81   -8/27 |         | 0   3/4  -3/4   3/2  -3/2  0 |
        |   0     27/16     -9/4   -3/4     1  0 |       | -128/243  32/81   -8/27 |         | 0   9/16  9/16  9/4   9/4  0 |
        |   0    -27/32     -9/16   3/2     1  0 |       |   32/243  16/81    8/27 |         | 0  27/64 -27/64 27/8 -27/8 1 |
        |   0     27/32     -9/16  -3/2     1  0 |       |   32/243 -16/81    8/27 |
        |   0     81/64      0    -45/16    0  1 |       |    0        0      1    |

**Gradients.** All of it is linear in d and linear in g, so the gradients are the transposed maps, and both start alike:

    gM = A gY A^T        gd = B [gM * (G g G^T)] B^T        gg = G^T [(B^T d B) * gM] G

Tiles of inputs overlap, so the gd are added up. The sums over channels (gd) and over tiles (gg) are matrix products again.

**Speed.** A block of some tiles is transformed, multiplied and transformed back while it lies in a core's cache; nothing is
ever stored for the whole batch. The 36 numbers of a tile go to 36 *slabs*, (tiles, channels) each. Slabs lie
a little more than a multiple of the row length apart: at a power of two they would compete for the same lines of the cache.

**Rounding.** Outputs of a tile share intermediate results: a NaN or infinity in the input makes the whole tile NaN, not
only the pixels whose windows see it, and a result that is exactly zero in theory may come out as a rounding error.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. Inside the kernels images are
(N, H, W * C), weights (3, 3, C, O), and positions count float32 numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.cpu._tile import VECTOR_BYTES, Shape, lanes, tile_add, tile_fma, tile_offsets, tile_start, tile_store
from minidl.kernels.cpu._vector import vectors_add, vectors_load, vectors_store
from minidl.kernels.generic.conv import Padding, Pair, conv_size
from minidl.memory import channels_last, empty

__all__ = ["winograd_backward", "winograd_forward", "winograd_pays"]

LANES = lanes(np.float32)
# Rows divide BLOCK and a vector, so that all tiles are whole; their sums fit in the registers (16 without AVX-512).
WIDE, NARROW = (Shape(8, 2), Shape(8, 1)) if VECTOR_BYTES == 64 else (Shape(4, 2), Shape(4, 1))
THREE, FOUR, SIX = Shape(3, 1), Shape(4, 1), Shape(6, 1)
ZEROS = np.zeros(2 * LANES, np.float32)
# Integers that are passed on to functions are np.intp, because Numba compiles a function again for each plain integer.
OUT, IN = np.intp(4), np.intp(6)  # outputs along a side of a tile, inputs along it
POSITIONS = 36  # numbers in a transformed tile
READ, WRITE, ADD = np.intp(0), np.intp(1), np.intp(2)  # what is done to a patch or to results
NEXT = np.intp(1)  # the step to a neighbour
READ_WEIGHTS, FORWARD, BACKWARD, WRITE_WEIGHTS = range(4)  # stages
SCRATCH = 2 * POSITIONS * LANES  # numbers, for half-transformed tiles
BLOCK = 32  # tiles worked on at a time
MACS_PER_ELEMENT = 32  # multiply-adds that take as long as one element of an elementwise kernel, for threads()

A, B = 3 / 4, 3 / 2  # the points are 0, A, -A, B, -B and infinity
AA, BB, AAA, BBB = A * A, B * B, A * A * A, B * B * B
SUM, PRODUCT = AA + BB, AA * BB
G0, GA, GB = 1 / PRODUCT, 1 / (2 * AA * (AA - BB)), 1 / (2 * BB * (BB - AA))  # 1 / product of distances to other points
GA1, GA2, GB1, GB2 = GA * A, GA * AA, GB * B, GB * BB


# ------------------------------------------------------------------ the three matrices and their transposes


@serial
def _input_matrix(d):
    """B^T d: six vectors to six."""
    d0, d1, d2, d3, d4, d5 = d
    even_a, odd_a = d4 - BB * d2, A * (d3 - BB * d1)
    even_b, odd_b = d4 - AA * d2, B * (d3 - AA * d1)
    first, last = PRODUCT * d0 - SUM * d2 + d4, PRODUCT * d1 - SUM * d3 + d5
    return first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, last


@serial
def _input_transposed(v):
    """B v: six vectors to six."""
    v0, va, wa, vb, wb, v5 = v
    even_a, odd_a, even_b, odd_b = va + wa, A * (va - wa), vb + wb, B * (vb - wb)
    d1 = PRODUCT * v5 - BB * odd_a - AA * odd_b
    d2 = -SUM * v0 - BB * even_a - AA * even_b
    return PRODUCT * v0, d1, d2, odd_a + odd_b - SUM * v5, v0 + (even_a + even_b), v5


@serial
def _output_matrix(m):
    """A^T m: six vectors to four."""
    m0, ma, na, mb, nb, m5 = m
    even_a, odd_a, even_b, odd_b = ma + na, ma - na, mb + nb, mb - nb
    return m0 + (even_a + even_b), A * odd_a + B * odd_b, AA * even_a + BB * even_b, AAA * odd_a + (BBB * odd_b + m5)


@serial
def _output_transposed(y):
    """A y: four vectors to six."""
    y0, y1, y2, y3 = y
    even_a, odd_a = y0 + AA * y2, A * (y1 + AA * y3)
    even_b, odd_b = y0 + BB * y2, B * (y1 + BB * y3)
    return y0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y3


@serial
def _weight_matrix(g):
    """G g: three vectors to six."""
    g0, g1, g2 = g
    even_a, odd_a = GA * g0 + GA2 * g2, GA1 * g1
    even_b, odd_b = GB * g0 + GB2 * g2, GB1 * g1
    return G0 * g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2


@serial
def _weight_transposed(u):
    """G^T u: six vectors to three."""
    u0, ua, wa, ub, wb, u5 = u
    even_a, odd_a, even_b, odd_b = ua + wa, ua - wa, ub + wb, ub - wb
    return G0 * u0 + GA * even_a + GB * even_b, GA1 * odd_a + GB1 * odd_b, GA2 * even_a + GB2 * even_b + u5


# ------------------------------------------------------------------ tiles of images, to slabs and back


@serial
def _corner(tile, geometry):
    """The image a tile belongs to, and the first row and column of its outputs."""
    rows, columns = geometry[0], geometry[1]
    n, rest = tile // (rows * columns), tile % (rows * columns)
    return n, rest // columns * OUT, rest % columns * OUT


@serial
def _move(image, C, row, column, patch, size, direction):
    """Read a size x size patch, with zeros where it reaches beyond the image (H, W * C), or write or add what is inside."""
    H, W = image.shape[0], image.shape[1] // C
    if direction == READ:
        patch[: size * size * C] = 0
    left, right = max(0, -column), min(size, W - column)
    if left >= right:
        return
    for i in range(max(0, -row), min(size, H - row)):
        pixels = image[row + i, (column + left) * C : (column + right) * C]
        inside = patch[(i * size + left) * C : (i * size + right) * C]
        if direction == READ:
            for k in range(inside.size):
                inside[k] = pixels[k]
        elif direction == WRITE:
            for k in range(inside.size):
                pixels[k] = inside[k]
        else:
            for k in range(inside.size):
                pixels[k] += inside[k]


@serial
def _read_inputs(x, C, first, last, geometry, V, row, slab, patch, scratch):
    """V = B^T d B of the tiles first to last."""
    H, W = x.shape[1], x.shape[2] // C
    images = x.reshape(-1)
    for tile in range(last - first):
        n, h, w = _corner(first + tile, geometry)
        h, w = h - geometry[2], w - geometry[3]
        if h >= 0 and w >= 0 and h + IN <= H and w + IN <= W:
            source, begin, line = images, ((n * H + h) * W + w) * C, W * C
        else:
            _move(x[n], C, h, w, patch, IN, READ)
            source, begin, line = patch, 0, IN * C
        for c in range(0, C, LANES):
            for i in range(IN):
                d = vectors_load(SIX, source, begin + i * line + c, C, C - c)
                vectors_store(scratch, i * IN * LANES, LANES, LANES, _input_matrix(d))
            for j in range(IN):
                d = vectors_load(SIX, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(V, j * slab + tile * row + c, IN * slab, LANES, _input_matrix(d))


@serial
def _write_outputs(M, row, slab, b, y, O, first, last, geometry, patch, scratch):
    """y = A^T M A + b of the tiles first to last."""
    H, W = y.shape[1], y.shape[2] // O
    images = y.reshape(-1)
    for tile in range(last - first):
        n, h, w = _corner(first + tile, geometry)
        inside = h + OUT <= H and w + OUT <= W
        if inside:
            target, begin, line = images, ((n * H + h) * W + w) * O, W * O
        else:
            target, begin, line = patch, 0, OUT * O
        for o in range(0, O, LANES):
            bias = vectors_load(FOUR, b, o, 0, O - o)
            for j in range(IN):
                m = vectors_load(SIX, M, j * slab + tile * row + o, IN * slab, LANES)
                vectors_store(scratch, j * LANES, IN * LANES, LANES, _output_matrix(m))
            for i in range(OUT):
                m = vectors_load(SIX, scratch, i * IN * LANES, LANES, LANES)
                y0, y1, y2, y3 = _output_matrix(m)
                results = (y0 + bias[0], y1 + bias[0], y2 + bias[0], y3 + bias[0])
                vectors_store(target, begin + i * line + o, O, O - o, results)
        if not inside:
            _move(y[n], O, h, w, patch, OUT, WRITE)


@serial
def _read_gradients(gy, O, first, last, geometry, M, row, slab, gb, patch, scratch):
    """gM = A gY A^T of the tiles first to last; their gY are added to gb (N, O)."""
    H, W = gy.shape[1], gy.shape[2] // O
    images, sums = gy.reshape(-1), gb.reshape(-1)
    for tile in range(last - first):
        n, h, w = _corner(first + tile, geometry)
        if h + OUT <= H and w + OUT <= W:
            source, begin, line = images, ((n * H + h) * W + w) * O, W * O
        else:
            _move(gy[n], O, h, w, patch, OUT, READ)
            source, begin, line = patch, 0, OUT * O
        for o in range(0, O, LANES):
            for i in range(OUT):
                g = vectors_load(FOUR, source, begin + i * line + o, O, O - o)
                vectors_store(scratch, i * IN * LANES, LANES, LANES, _output_transposed(g))
                if sums.size > 0:
                    vectors_add(sums, n * O + o, 0, O - o, ((g[0] + g[1]) + (g[2] + g[3]),))
            for j in range(IN):
                g = vectors_load(FOUR, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(M, j * slab + tile * row + o, IN * slab, LANES, _output_transposed(g))


@serial
def _add_inputs(V, row, slab, gx, C, first, last, geometry, patch, scratch):
    """gx += B gV B^T of the tiles first to last."""
    H, W = gx.shape[1], gx.shape[2] // C
    images = gx.reshape(-1)
    for tile in range(last - first):
        n, h, w = _corner(first + tile, geometry)
        h, w = h - geometry[2], w - geometry[3]
        inside = h >= 0 and w >= 0 and h + IN <= H and w + IN <= W
        if inside:
            target, begin, line = images, ((n * H + h) * W + w) * C, W * C
        else:
            patch[: POSITIONS * C] = 0
            target, begin, line = patch, 0, IN * C
        for c in range(0, C, LANES):
            for j in range(IN):
                v = vectors_load(SIX, V, j * slab + tile * row + c, IN * slab, LANES)
                vectors_store(scratch, j * LANES, IN * LANES, LANES, _input_transposed(v))
            for i in range(IN):
                v = vectors_load(SIX, scratch, i * IN * LANES, LANES, LANES)
                vectors_add(target, begin + i * line + c, C, C - c, _input_transposed(v))
        if not inside:
            _move(gx[n], C, h, w, patch, IN, ADD)


# ------------------------------------------------------------------ weights


@serial
def _read_weights(w, tap, panels, first, last, U, slab, scratch):
    """U = G g G^T for a part of the summed channels, in panels: (36 slabs, columns / width, sums, width), zeros at the end.

    Forward sums over C and the columns are O; for the gradient of the input it is the other way round. ``tap`` is the
    step from one of the 3x3 weights to the next.
    """
    sums, sum_step, columns, column_step, width = panels
    half = scratch[9 * LANES :]
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
                vectors_store(half, i * IN * LANES, LANES, LANES, _weight_matrix(g))
            panel = c // width * sums * width + k * width + c % width
            for j in range(IN):
                g = vectors_load(THREE, half, j * LANES, IN * LANES, LANES)
                vectors_store(U, j * slab + panel, IN * slab, LANES, _weight_matrix(g))


@serial
def _write_weight_gradients(gU, row, slab, gw, C, O, first, last, scratch):
    """gw = G^T gU G for a part of the C; gU (parts, 36 slabs of C rows) is first added up over the parts."""
    half = scratch[POSITIONS * LANES :]
    for c in range(first, last):
        for o in range(0, O, LANES):
            for i in range(POSITIONS):
                total = scratch[i * LANES : (i + 1) * LANES]
                total[:] = 0
                for part in range(gU.shape[0]):
                    share = gU[part, i * slab + c * row + o : i * slab + c * row + o + LANES]
                    for j in range(LANES):
                        total[j] += share[j]
            for j in range(IN):
                u = vectors_load(SIX, scratch, j * LANES, IN * LANES, LANES)
                vectors_store(half, j * LANES, IN * LANES, LANES, _weight_transposed(u))
            for i in range(3):
                u = vectors_load(SIX, half, i * IN * LANES, LANES, LANES)
                vectors_store(gw, (i * 3 * C + c) * O + o, C * O, O - o, _weight_transposed(u))


# ------------------------------------------------------------------ products


@serial
def _products_of(shape, x, w, y, sums, rows, columns, action):
    """For each of the 36 slabs  y[r, c] = sum over k of x[r, k] w[k, c],  written to y or added.

    x is (data, positions of the rows, of the next slab, of the next k), w (data, next slab, next panel, next k),
    y (data, positions of the rows, next slab). Tiles are always whole: there is room for a few rows more than ``rows``,
    and columns are a multiple of the tile's.
    """
    x_data, x_rows, x_slab, x_step = x
    w_data, w_slab, w_panel, w_step = w
    y_data, y_rows, y_slab = y
    width = shape.vectors * LANES
    for i in range(POSITIONS):
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
def _products(x, w, y, sums, rows, columns, action):
    """As above, with the tile that suits the number of columns."""
    if columns <= LANES:
        _products_of(NARROW, x, w, y, sums, rows, columns, action)
    else:
        _products_of(WIDE, x, w, y, sums, rows, columns, action)


# ------------------------------------------------------------------ forward and backward


@serial
def _workspace(work, c_slab, o_slab):
    """The parts of a thread's memory: inputs and outputs of a block, transformed; a patch; half-transformed tiles."""
    inputs, outputs = POSITIONS * c_slab, POSITIONS * (c_slab + o_slab)
    return work[:inputs], work[inputs:outputs], work[outputs : work.size - SCRATCH], work[work.size - SCRATCH :]


@serial
def _forward(x, C, U, b, y, O, geometry, sizes, tables, first, last, work):
    """The tiles first to last, a block at a time."""
    block, c_row, c_slab, _, o_row, o_slab, o_width, u_slab, _ = sizes
    V, M, patch, scratch = _workspace(work, c_slab, o_slab)
    weights = (U, u_slab, C * o_width, o_width)
    for begin in range(first, last, block):
        end = min(begin + block, last)
        _read_inputs(x, C, begin, end, geometry, V, c_row, c_slab, patch, scratch)
        _products((V, tables[0], c_slab, NEXT), weights, (M, tables[1], o_slab), C, end - begin, o_row, WRITE)
        _write_outputs(M, o_row, o_slab, b, y, O, begin, end, geometry, patch, scratch)


@serial
def _backward(gy, O, U, x, C, gx, gU, gb, geometry, sizes, tables, first, last, work):
    """The images first to last, a block of tiles at a time. gx, gU and gb are empty when they are not needed."""
    block, c_row, c_slab, c_width, o_row, o_slab, o_width, u_slab, g_slab = sizes
    V, M, patch, scratch = _workspace(work, c_slab, o_slab)
    gU[:] = 0
    gb[first * O : last * O] = 0
    tiles = geometry[0] * geometry[1]
    cleared = first  # the images of gx before this one have been set to zero; just before use, so that they lie in the cache
    for begin in range(first * tiles, last * tiles, block):
        end = min(begin + block, last * tiles)
        _read_gradients(gy, O, begin, end, geometry, M, o_row, o_slab, gb, patch, scratch)
        if gU.size > 0:
            _read_inputs(x, C, begin, end, geometry, V, c_row, c_slab, patch, scratch)
            inputs, gradients = (V, tables[2], c_slab, c_row), (M, o_slab, o_width, o_row)
            _products(inputs, gradients, (gU, tables[3], g_slab), end - begin, c_row, o_row, ADD)
        if gx.size > 0:
            weights = (U, u_slab, O * c_width, c_width)
            _products((M, tables[1], o_slab, NEXT), weights, (V, tables[0], c_slab), O, end - begin, c_row, WRITE)
            touched = (end - 1) // tiles + 1
            gx[cleared:touched] = 0
            cleared = touched
            _add_inputs(V, c_row, c_slab, gx, C, begin, end, geometry, patch, scratch)


@serial
def _part(stage, part, parts, w, U, x, C, y, O, b, gx, gU, panels, geometry, sizes, tables, work):
    """One thread's part of a stage. In BACKWARD y and b are gy and gb, in WRITE_WEIGHTS w is gw."""
    if stage == READ_WEIGHTS:
        first, last = part * panels[0] // parts, (part + 1) * panels[0] // parts
        _read_weights(w, C * O, panels, first, last, U, sizes[7], work[part])
    elif stage == FORWARD:
        tiles = x.shape[0] * geometry[0] * geometry[1]
        first, last = part * tiles // parts, (part + 1) * tiles // parts
        _forward(x, C, U, b, y, O, geometry, sizes, tables, first, last, work[part])
    elif stage == BACKWARD:
        first, last = part * y.shape[0] // parts, (part + 1) * y.shape[0] // parts
        _backward(y, O, U, x, C, gx, gU[part], b, geometry, sizes, tables, first, last, work[part])
    else:
        first, last = part * C // parts, (part + 1) * C // parts
        _write_weight_gradients(gU, sizes[4], sizes[8], w, C, O, first, last, work[part])


@parallel
def _all_parts(stage, parts, w, U, x, C, y, O, b, gx, gU, panels, geometry, sizes, tables, work):
    for part in prange(parts):
        _part(stage, np.intp(part), parts, w, U, x, C, y, O, b, gx, gU, panels, geometry, sizes, tables, work)


def _run(stage: int, parts: int, *args: Any) -> None:
    if parts == 1:
        _part(stage, 0, 1, *args)
    else:
        _all_parts(stage, parts, *args)


def _tiles(outputs: int) -> int:
    """How many tiles cover so many outputs."""
    return -(-outputs // int(OUT))


class _Plan:
    """The sizes of one convolution of N images of ``size`` with C channels to O channels, or of its gradients.

    A row of a slab is a whole number of tile widths long, so that all tiles are whole. ``panels`` says how weights
    are arranged: (sums, step, columns, step, width of a panel).
    """

    def __init__(self, N: int, C: int, O: int, size: Pair, padding: Padding, backward: bool):
        self.OH, self.OW = (conv_size(size[i], 3, 1, padding[i], 1) for i in (0, 1))
        TH, TW = _tiles(self.OH), _tiles(self.OW)
        self.geometry = TH, TW, padding[0][0], padding[1][0]
        c_width, o_width = (LANES if n <= LANES else 2 * LANES for n in (C, O))
        c_row, o_row = -(-C // c_width) * c_width, -(-O // o_width) * o_width
        c_slab, o_slab, g_slab = BLOCK * c_row + LANES, BLOCK * o_row + LANES, c_row * o_row + LANES
        self.panels = (O, 1, C, O, c_width) if backward else (C, O, O, 1, o_width)
        u_slab = (c_row * O if backward else o_row * C) + LANES
        self.sizes = BLOCK, c_row, c_slab, c_width, o_row, o_slab, o_width, u_slab, g_slab
        tiles, channels = np.arange(BLOCK), np.arange(c_row)
        self.tables = tiles * c_row, tiles * o_row, channels, channels * o_row
        self.work = POSITIONS * (c_slab + o_slab + max(C, O)) + SCRATCH
        parts = threads(N * TH * TW * POSITIONS * C * O // MACS_PER_ELEMENT)
        self.parts = max(1, min(parts, N if backward else N * TH * TW))


def winograd_pays(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int, dtype: Any
) -> bool:
    """Whether to take Winograd: float32, a plain 3x3 convolution, and less work than the direct one, as estimated.

    Work is counted in multiply-adds, and what else there is in multiply-adds of the same time (measured): transforming a
    tile takes about 500 for each of its channels, the weights 600 for each of C * O. With few channels, or few outputs in
    the tiles that cover them (a 5x5 result needs four tiles), or few tiles for the weights, the direct way is shorter.
    Padding that cuts rows off is left to it too. float64 is for checking gradients, which this rounding would disturb.
    """
    (N, C, H, W), (O, _, KH, KW) = x_shape, w_shape
    plain = (KH, KW, *stride, *dilation, groups) == (3, 3, 1, 1, 1, 1, 1) and min(*padding[0], *padding[1]) >= 0
    if not plain or np.dtype(dtype) != np.float32 or min(C, O) < 16:
        return False
    OH, OW = conv_size(H, 3, 1, padding[0], 1), conv_size(W, 3, 1, padding[1], 1)
    tiles = N * _tiles(OH) * _tiles(OW)
    return tiles * (POSITIONS * C * O + 500 * (C + O)) + 600 * C * O < N * OH * OW * 9 * C * O


def _spatial_first(w: np.ndarray) -> np.ndarray:
    """The numbers of (O, C, 3, 3) weights in the order (3, 3, C, O); a copy when they lie otherwise."""
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0)).reshape(-1)


def _rows(images: np.ndarray) -> np.ndarray:
    """The view (N, H, W * C) of (N, H, W, C) images."""
    N, H, W, C = images.shape
    return images.reshape(N, H, W * C)


@np.errstate(invalid="ignore", over="ignore")
def winograd_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, padding: Padding) -> np.ndarray:
    """y[n, o, oh, ow] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, c, oh + kh - top, ow + kw - left], float32."""
    x = channels_last(x)
    (N, H, W, C), O = x.shape, len(w)
    plan = _Plan(N, C, O, (H, W), padding, backward=False)
    y = empty((N, plan.OH, plan.OW, O), x.dtype)
    if y.size > 0:
        U = empty((POSITIONS * plan.sizes[7],), x.dtype)
        work = empty((plan.parts, plan.work), x.dtype)
        b = np.zeros(O, x.dtype) if b is None else np.ascontiguousarray(b)
        gx, gU = np.empty((0, 0, 0), x.dtype), np.empty((plan.parts, 0), x.dtype)
        args = (_spatial_first(w), U, _rows(x), C, _rows(y), O, b, gx, gU, plan.panels, plan.geometry, plan.sizes)
        for stage in (READ_WEIGHTS, FORWARD):
            _run(stage, plan.parts, *args, plan.tables, work)
    return y.transpose(0, 3, 1, 2)


@np.errstate(invalid="ignore", over="ignore")
def winograd_backward(
    gy: np.ndarray, x: np.ndarray | None, w: np.ndarray, size: Pair, padding: Padding, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw and gb of a convolution of (H, W) = ``size`` images, each None when not needed. x is read for gw only."""
    gy = channels_last(gy)
    N, C, O = len(gy), w.shape[1], w.shape[0]
    plan = _Plan(N, C, O, size, padding, backward=True)
    dtype, parts = gy.dtype, plan.parts
    # What is not needed has no elements; that is how the kernels know.
    gx = empty((N, *size, C) if needs[0] else (0, 0, 0, 0), dtype)
    gw = empty((3, 3, C, O) if needs[1] else (0, 0, 0, 0), dtype)
    gb = np.empty((N, O) if needs[2] else (0, 0), dtype)
    U = empty((POSITIONS * plan.sizes[7] if needs[0] else 0,), dtype)
    gU = empty((parts, POSITIONS * plan.sizes[8] if needs[1] else 0), dtype)
    work = empty((parts, plan.work), dtype)
    images = gx if x is None or not needs[1] else channels_last(x)
    args = (U, _rows(images), C, _rows(gy), O, gb.reshape(-1), _rows(gx), gU, plan.panels, plan.geometry, plan.sizes)
    weights = _spatial_first(w)
    if needs[0]:
        _run(READ_WEIGHTS, parts, weights, *args, plan.tables, work)
    _run(BACKWARD, parts, weights, *args, plan.tables, work)
    if needs[1]:
        _run(WRITE_WEIGHTS, parts, gw.reshape(-1), *args, plan.tables, work)
    return (
        gx.transpose(0, 3, 1, 2) if needs[0] else None,
        gw.transpose(3, 2, 0, 1) if needs[1] else None,
        gb.sum(0) if needs[2] else None,
    )
