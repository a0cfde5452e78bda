"""Convolution as a matrix product that finds its columns in the images as it goes: implicit GEMM.

The text explains itself from the top. Below it stand the choice of a tile, and the three products.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from minidl.backend import Array, xp_of
from minidl.context import state
from minidl.kernels.cuda._axes import AXES, Sizes, lanes, tap_steps
from minidl.kernels.cuda._launch import Source
from minidl.kernels.cuda._loaders import LOADERS
from minidl.kernels.cuda._sums import add_parts

__all__ = ["PLAIN", "POOL", "RELU", "forward", "images_gradient", "weights_gradient"]

PLAIN, RELU, POOL = range(3)  # what follows a convolution, as on the CPU

TEXT = r"""
// Convolution as a matrix product. With  m = (n, oh, ow)  and  k = (kh, kw, c),
//
//     y[m, o] = sum over k of columns[m, k] w[k, o],     columns[m, k] = x[n, oh SH + kh DH - top, ow SW + kw DW - left, c]
//
// w lies in memory as that matrix already, and so does y. The matrix of columns, KH KW times as large as x, is never written:
// a block of threads computes a BM x BN tile of y, BK steps of the sum at a time, and when it needs the BM x BK piece of the
// columns, it finds the elements in x. The other two products of a convolution are of the same kind:
//
//                          rows of the result    columns    summed over     left            right
//     forward              (n, oh, ow)           o          (kh, kw, c)     pixels of x     w
//     images_gradient      (n, ih, iw)           c          (kh, kw, o)     pixels of gy    w turned
//     weights_gradient     (kh, kw, c)           o          (n, oh, ow)     windows of x    gy
//
// so that one main loop, sum_of_products, does all of them, with loaders that know where elements lie.
//
// Why tiles: a multiprocessor multiplies far more numbers than it can read. For a step of a 128 x 128 tile a block reads 256
// numbers from memory, and does 16384 multiplications with them; for these a thread, which has 8 x 8 results in its registers,
// reads 16 numbers from shared memory and does 64.
//
// Constants that Python puts in front of this text:
//     BM, BN, BK   the tile, and the steps of the sum that are in shared memory at a time
//     TM, TN       each thread computes TM x TN results, in groups of four rows and four columns
//     VC, VO       channels that are read at once: 4 where a group's channels of x (VC) or y (VO) are a multiple of four, or 1
//     TENSOR_CORES 1: products on tensor cores, of numbers rounded to TF32

#define PAD (TENSOR_CORES ? 8 : 4)  // so that threads which read or write shared memory at once do it in different banks
#define THREADS ((BM / TM) * (BN / TN))
const int RESIDENT = sizeof(T) == 8 ? 1 : BLOCKS;  // blocks that share the registers of a multiprocessor
#define PLAIN 0
#define RELU 1
#define POOL 2
#define DEAD 4

struct alignas(16) Four { T v[4]; };

__device__ void read(const T* from, T (&to)[4])
{
    Four four = *(const Four*)from;
    for (int i = 0; i < 4; ++i) to[i] = four.v[i];
}
__device__ void read(const T* from, T (&to)[1]) { to[0] = *from; }

"""

PRODUCT = r"""
// ---------------------------------------------------------------- the product

#if TENSOR_CORES
// A warp multiplies 64 rows by 32 columns, 8 steps of the sum at a time, as 4 x 4 products of (16, 8) by (8, 8). In these,
// with q = lane / 4 and t = lane % 4, a thread holds of the left matrix rows q and q + 8 at k = t and t + 4; of the right one
// column q at k = t and t + 4; and of the result rows q and q + 8 at columns 2t and 2t + 1. Which rows of the tile make up a
// product is ours to choose: row q + 8 s of product p is row 4q + 2 (p % 2) + s of half p / 2, and column q of product p is
// column 4q + p. So a thread's rows and columns come in groups of four, as they do without tensor cores.
#define WARPS_ACROSS (BN / 32)

__device__ int row_of(int group) { return warp_index() / WARPS_ACROSS * 64 + group * 32 + lane_index() / 4 * 4; }
__device__ int column_of(int group) { return warp_index() % WARPS_ACROSS * 32 + lane_index() % 4 * 8 + group * 4; }

__device__ void multiply(const T (*a)[BM + PAD], const T (*b)[BN + PAD], T (&sum)[TM][TN])
{
    #pragma unroll
    for (int k = 0; k < BK; k += 8) {
        T left[2][2][4], right[2][4];  // [k = t or t + 4][half][row], [k = t or t + 4][product]
        #pragma unroll
        for (int later = 0; later < 2; ++later) {
            int step = k + lane_index() % 4 + 4 * later;
            read(&a[step][row_of(0)], left[later][0]);
            read(&a[step][row_of(1)], left[later][1]);
            read(&b[step][warp_index() % WARPS_ACROSS * 32 + lane_index() / 4 * 4], right[later]);
        }
        #pragma unroll
        for (int p = 0; p < 4; ++p) {
            int half = p / 2, row = p % 2 * 2, i = 2 * p;
            unsigned rows[4] = {__float_as_uint(left[0][half][row]), __float_as_uint(left[0][half][row + 1]),
                                __float_as_uint(left[1][half][row]), __float_as_uint(left[1][half][row + 1])};
            #pragma unroll
            for (int j = 0; j < 4; ++j) {
                unsigned columns[2] = {__float_as_uint(right[0][j]), __float_as_uint(right[1][j])};
                T square[4] = {sum[i][j], sum[i][4 + j], sum[i + 1][j], sum[i + 1][4 + j]};
                mma_tf32_16x8x8(square, rows, columns);
                sum[i][j] = square[0];
                sum[i][4 + j] = square[1];
                sum[i + 1][j] = square[2];
                sum[i + 1][4 + j] = square[3];
            }
        }
    }
}
#else

// A warp computes 4 x 8 threads' results. What a thread's four rows and four columns need, it reads at once, and the threads
// of a warp read neighbouring groups, so that no two of them meet in a bank of shared memory.
#define WARPS_ACROSS (BN / (8 * TN))

__device__ int row_of(int group) { return warp_index() / WARPS_ACROSS * 4 * TM + group * 16 + lane_index() / 8 * 4; }
__device__ int column_of(int group) { return warp_index() % WARPS_ACROSS * 8 * TN + group * 32 + lane_index() % 8 * 4; }

__device__ void multiply(const T (*a)[BM + PAD], const T (*b)[BN + PAD], T (&sum)[TM][TN])
{
    #pragma unroll
    for (int k = 0; k < BK; ++k) {
        T left[TM / 4][4], right[TN / 4][4];
        #pragma unroll
        for (int i = 0; i < TM / 4; ++i) read(&a[k][row_of(i)], left[i]);
        #pragma unroll
        for (int j = 0; j < TN / 4; ++j) read(&b[k][column_of(j)], right[j]);
        #pragma unroll
        for (int i = 0; i < TM; ++i)
            #pragma unroll
            for (int j = 0; j < TN; ++j) sum[i][j] += left[i / 4][i % 4] * right[j / 4][j % 4];
    }
}
#endif

// The main loop. While a piece is multiplied, the next one is on its way from memory to registers; and because shared memory
// holds two pieces in turn, one barrier a step is enough: who passes it has finished with the piece before the last.
template <class Left, class Right>
__device__ void sum_of_products(Left& left, Right& right, int steps, T (&sum)[TM][TN])
{
    alignas(16) __shared__ T a[2][BK][BM + PAD];
    alignas(16) __shared__ T b[2][BK][BN + PAD];
    for (int i = 0; i < TM; ++i)
        for (int j = 0; j < TN; ++j) sum[i][j] = 0;
    if (steps) { right.fetch(); left.fetch(); }  // in this order: Turned reads where the walk of Pixels stands
    for (; steps; --steps) {
        left.store(a[steps & 1]);
        right.store(b[steps & 1]);
        __syncthreads();
        if (steps > 1) { right.fetch(); left.fetch(); }
        multiply(a[steps & 1], b[steps & 1], sum);
    }
}

// ---------------------------------------------------------------- which block does what, and where its results go

// Blocks with neighbouring numbers are tiles side by side, which read the same pixels. This lies in shared memory: the main
// loop has no registers to spare for what is needed after it.
struct Block {
    int rows, columns, channels;  // of the result; and of what is read, in a group
    int row, column;  // of the result, where the tile begins
    int part, unit;  // which of the ``parts`` blocks that share a sum; and which of the matrices, by group and phase
    int begin, steps;  // of the sum: k = begin, in ``steps`` times BK

    __device__ void find(int rows, int columns, int channels, int parts)
    {
        int across = (columns + BN - 1) / BN, down = (rows + BM - 1) / BM, id = blockIdx.x;
        this->rows = rows;
        this->columns = columns;
        this->channels = channels;
        column = id % across * BN;
        id /= across;
        row = id % down * BM;
        id /= down;
        part = id % parts;
        unit = id / parts;
    }
    __device__ void share(int depth, int parts)
    {
        int all = (depth + BK - 1) / BK, most = (all + parts - 1) / parts, first = part * most;
        begin = first * BK;
        steps = first < all ? min(most, all - first) : 0;
    }
};

// Four results to neighbouring columns, of which ``left`` are left.
template <int VEC> __device__ void write(T* to, const T* values, int left)
{
    if (VEC == 4) {
        Four four;
        for (int j = 0; j < 4; ++j) four.v[j] = values[j];
        *(Four*)to = four;
    } else {
        for (int j = 0; j < 4; ++j)
            if (j < left) to[j] = values[j];
    }
}

__device__ T follow(T value, const T* b, int column, int follows)
{
    if (b) value += b[column];
    return follows != PLAIN && value <= 0 ? 0 : value;
}

"""

FORWARD = r"""
// y = x * w + b, and what follows: nothing, ReLU, or ReLU and the largest of each 2x2 window. A pooling window's four results
// are rows of the tile that follow each other, and so in the hands of one thread.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) forward(
    const T* x, const T* w, const T* b, T* y, unsigned char* winner, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int follows, int parts)
{
    int depth = KH * KW * (C / groups);
    __shared__ Block block;
    if (threadIdx.x == 0) {
        block.find(follows == POOL ? N * (OH / 2) * (OW / 2) * 4 : N * OH * OW, O / groups, C / groups, parts);
        block.share(depth, parts);
    }
    __syncthreads();
    Axis h = forward_axis(OH, KH, SH, DH, top), v = forward_axis(OW, KW, SW, DW, left);
    Walk walk(block.begin, VC, block.channels, v);
    Pixels<VC> pixels(x, H, W, C, h, v, block.unit * block.channels, block.row, block.rows, follows == POOL, walk);
    Matrix<VO> weights(w + block.unit * block.columns, depth, O, block.columns, block.column, block.begin);
    T sum[TM][TN];
    sum_of_products(pixels, weights, block.steps, sum);

    int rows = block.rows, OG = block.columns;
    y += (long long)block.part * rows * O;  // parts, if there are some, lie one behind the other
    #pragma unroll
    for (int j = 0; j < TN; j += 4) {
        int column = block.column + column_of(j / 4), o = block.unit * OG + column;
        if (column >= OG) continue;
        #pragma unroll
        for (int i = 0; i < TM; i += 4) {
            int row = block.row + row_of(i / 4);
            if (row >= rows) continue;
            #pragma unroll
            for (int r = 0; r < 4; ++r)
                #pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (e < OG - column) sum[i + r][j + e] = follow(sum[i + r][j + e], b, o + e, follows);
            if (follows == POOL) {
                long long place = (long long)(row / 4) * O + o;
                T best[4];
                #pragma unroll
                for (int e = 0; e < 4; ++e) {
                    int won = 0;
                    best[e] = sum[i][j + e];
                    #pragma unroll
                    for (int r = 1; r < 4; ++r) {  // the first of equals wins, and the last NaN
                        T other = sum[i + r][j + e];
                        if (other > best[e] || other != other) { best[e] = other; won = r; }
                    }
                    if (e < OG - column) winner[place + e] = best[e] <= 0 ? DEAD : won;
                }
                write<VO>(y + place, best, OG - column);
            } else {
                #pragma unroll
                for (int r = 0; r < 4; ++r)
                    if (row + r < rows) write<VO>(y + (long long)(row + r) * O + o, sum[i + r] + j, OG - column);
            }
        }
    }
}

"""

IMAGES_GRADIENT = r"""
// gx, a phase (see gradient_axis) and a group of channels at a time.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) images_gradient(
    const T* gy, const T* w, T* gx, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int step_h, int step_w, int parts)
{
    __shared__ Block block;
    __shared__ Axis h, v;
    if (threadIdx.x == 0) {
        block.find(N * ((H + SH - 1) / SH) * ((W + SW - 1) / SW), C / groups, O / groups, parts);
        int phase = block.unit / groups;
        h = gradient_axis(H, KH, SH, DH, top, step_h, phase / SW);
        v = gradient_axis(W, KW, SW, DW, left, step_w, phase % SW);
        block.rows = N * max(h.results, 0) * max(v.results, 0);  // of this phase; later ones may have fewer pixels
        block.share(h.taps * v.taps * block.channels, parts);
    }
    __syncthreads();
    if (block.row >= block.rows) return;
    int o = block.unit % groups * block.channels;
    Walk walk(block.begin, VO, block.channels, v);
    Pixels<VO> pixels(gy, OH, OW, O, h, v, o, block.row, block.rows, false, walk);
    Turned<VO> weights(w, h, v, KW, block.columns, O, block.column, o, walk);
    T sum[TM][TN];
    sum_of_products(pixels, weights, block.steps, sum);

    int rows = block.rows, CG = block.columns;
    gx += (long long)block.part * N * H * W * C + block.unit % groups * CG;
    #pragma unroll
    for (int i = 0; i < TM; ++i) {
        int m = block.row + row_of(i / 4) + i % 4;
        if (m >= rows) continue;
        int iw = v.phase + m % v.results * v.period, ih = h.phase + m / v.results % h.results * h.period;
        long long pixel = ((long long)(m / v.results / h.results) * H + ih) * W + iw;
        #pragma unroll
        for (int j = 0; j < TN; j += 4) {
            int c = block.column + column_of(j / 4);
            if (c < CG) write<VC>(gx + pixel * C + c, sum[i] + j, CG - c);
        }
    }
}

"""

WEIGHTS_GRADIENT = r"""
// gw. The sum over all results is long and its matrix small: many blocks share it.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) weights_gradient(
    const T* x, const T* gy, T* gw, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int parts)
{
    int depth = N * OH * OW;
    __shared__ Block block;
    if (threadIdx.x == 0) {
        block.find(KH * KW * (C / groups), O / groups, C / groups, parts);
        block.share(depth, parts);
    }
    __syncthreads();
    Axis h = forward_axis(OH, KH, SH, DH, top), v = forward_axis(OW, KW, SW, DW, left);
    Windows<VC> windows(x, N, H, W, C, h, v, block.unit, block.channels, block.row, block.begin);
    Matrix<VO> gradients(gy + block.unit * block.columns, depth, O, block.columns, block.column, block.begin);
    T sum[TM][TN];
    sum_of_products(windows, gradients, block.steps, sum);

    int rows = block.rows, OG = block.columns;
    gw += (long long)block.part * rows * O + block.unit * OG;
    #pragma unroll
    for (int i = 0; i < TM; ++i) {
        int row = block.row + row_of(i / 4) + i % 4;
        if (row >= rows) continue;
        #pragma unroll
        for (int j = 0; j < TN; j += 4) {
            int o = block.column + column_of(j / 4);
            if (o < OG) write<VO>(gw + (long long)row * O + o, sum[i] + j, OG - o);
        }
    }
}
"""


class Tile(NamedTuple):
    """What a block of threads computes: see the top of the text."""

    BM: int
    BN: int
    BK: int
    TM: int
    TN: int
    BLOCKS: int  # that a multiprocessor shall hold at a time: it has 65536 registers for their threads
    speed: float  # relative; a larger tile reads less for each product. Estimates

    @property
    def threads(self) -> int:
        return self.BM // self.TM * (self.BN // self.TN)


TILES = (
    Tile(128, 128, 8, 8, 8, 2, 1.0),
    Tile(128, 64, 8, 8, 8, 3, 0.9),
    Tile(128, 32, 16, 8, 4, 3, 0.7),
    Tile(64, 32, 16, 4, 4, 6, 0.5),
)
TENSOR_CORE_TILES = (Tile(128, 128, 16, 8, 8, 2, 1.0), Tile(128, 64, 16, 8, 8, 3, 0.8))  # a warp computes 64 x 32

MULTIPROCESSORS = 132  # of the largest GPU; what fills it fills smaller ones, too
LEAST_DEPTH = 128  # steps of a sum that are worth a block of their own
WORKSPACE = 1 << 25  # elements of parts that are added afterwards

KERNELS = {"forward": FORWARD, "images_gradient": IMAGES_GRADIENT, "weights_gradient": WEIGHTS_GRADIENT}


def _divided(a: int, b: int) -> int:
    return -(-a // b)


@lru_cache(maxsize=1024)
def plan(
    units: int, rows: int, columns: int, depth: int, size: int, tensor_cores: bool, share: bool = True
) -> tuple[Tile, int]:
    """The tile for ``units`` matrices of (rows, columns), sums of ``depth`` products; and how many blocks ``share`` a sum.

    The estimated time of a tile is the area of all tiles, with what hangs over the edges, by its speed; and longer by as much
    as blocks are too few for the GPU. Then sums are shared, as long as the parts, each as large as the ``size`` elements of
    all results, stay within the workspace. Only the order of the sum depends on it, and that is the same in every run.
    """

    def blocks(tile: Tile) -> int:
        return max(1, units * _divided(rows, tile.BM) * _divided(columns, tile.BN))

    def parts(tile: Tile) -> int:
        most = tile.BLOCKS * MULTIPROCESSORS // blocks(tile) if share else 1
        return max(1, min(most, depth // LEAST_DEPTH, WORKSPACE // max(size, 1)))

    def time(tile: Tile) -> float:
        return tile.BM * tile.BN / tile.speed * max(blocks(tile), tile.BLOCKS * MULTIPROCESSORS / parts(tile))

    tile = min(TENSOR_CORE_TILES if tensor_cores else TILES, key=time)
    return tile, parts(tile)


@cache
def source(direction: str, tile: Tile, VC: int, VO: int, tensor_cores: bool) -> Source:
    """The text for one direction, tile and reading; compiled when it is first needed, in about a second."""
    constants = {
        **{name: getattr(tile, name) for name in ("BM", "BN", "BK", "TM", "TN", "BLOCKS")},
        "VC": VC,
        "VO": VO,
        "TENSOR_CORES": int(tensor_cores),
    }
    return Source(
        "".join(f"#define {name} {value}\n" for name, value in constants.items())
        + AXES
        + TEXT
        + LOADERS
        + PRODUCT
        + KERNELS[direction]
    )


def _launch(
    direction: str, sizes: Sizes, tile: Tile, parts: int, matrices: tuple[int, int, int], arrays: tuple, numbers: tuple
) -> None:
    """One kernel of the text, with ``parts`` blocks for each tile of ``matrices`` = (units, rows, columns)."""
    units, rows, columns = matrices
    VC, VO = (lanes(channels // sizes.groups, *arrays) for channels in (sizes.C, sizes.O))
    module = source(direction, tile, VC, VO, tile in TENSOR_CORE_TILES)
    blocks, threads = units * parts * _divided(rows, tile.BM) * _divided(columns, tile.BN), tile.threads
    module.launch(direction, arrays[0].dtype, blocks, threads, (*arrays, *sizes, *numbers, parts))


def _tensor_cores(dtype: np.dtype) -> bool:
    return state.tf32 and dtype == np.float32


def _parts(result: Array, parts: int) -> Array:
    """Where ``parts`` blocks write what they have of the result."""
    return result if parts == 1 else xp_of(result).empty((parts, *result.shape), result.dtype)


def forward(x: Array, w: Array, b: Array | None, y: Array, sizes: Sizes, follows: int, winner: Array | None = None) -> None:
    """y (N, OH, OW, O), or pooled, from x (N, H, W, C) and w (KH, KW, C/G, O); and for POOL the winners of the windows."""
    G, rows = sizes.groups, y.size // sizes.O * (4 if follows == POOL else 1)
    depth, columns = sizes.KH * sizes.KW * sizes.C // G, sizes.O // G
    tile, parts = plan(G, rows, columns, depth, y.size, _tensor_cores(y.dtype), follows != POOL)
    target, last = _parts(y, parts), parts == 1
    arrays, numbers = (x, w, b if last else None, target, winner), (follows if last else PLAIN,)
    _launch("forward", sizes, tile, parts, (G, rows, columns), arrays, numbers)
    if not last:
        add_parts(target, y, b, follows == RELU)


def images_gradient(gy: Array, w: Array, gx: Array, sizes: Sizes) -> None:
    """gx (N, H, W, C) from gy (N, OH, OW, O) and w."""
    G, columns, (SH, SW), steps = sizes.groups, sizes.C // sizes.groups, (sizes.SH, sizes.SW), tap_steps(sizes)
    rows = sizes.N * _divided(sizes.H, SH) * _divided(sizes.W, SW)  # of a phase
    depth = _divided(sizes.KH, steps[0]) * _divided(sizes.KW, steps[1]) * sizes.O // G
    units = G * SH * SW
    tile, parts = plan(units, rows, columns, depth, gx.size, _tensor_cores(gx.dtype))
    target = _parts(gx, parts)
    _launch("images_gradient", sizes, tile, parts, (units, rows, columns), (gy, w, target), steps)
    if parts > 1:
        add_parts(target, gx)


def weights_gradient(x: Array, gy: Array, gw: Array, sizes: Sizes) -> None:
    """gw (KH, KW, C/G, O) from x and gy."""
    G, columns, rows = sizes.groups, sizes.O // sizes.groups, sizes.KH * sizes.KW * sizes.C // sizes.groups
    tile, parts = plan(G, rows, columns, gy.size // sizes.O, gw.size, _tensor_cores(gw.dtype))
    target = _parts(gw, parts)
    _launch("weights_gradient", sizes, tile, parts, (G, rows, columns), (x, gy, target), ())
    if parts > 1:
        add_parts(target, gw)
