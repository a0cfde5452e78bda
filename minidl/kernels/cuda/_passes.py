"""What the kernels outside of convolution share: results made element by element, and sums along rows and down columns.

``MAP``, ``ROWS`` and ``COLUMNS`` are CUDA text that a file puts before its own kernels. All of them move 16 bytes at a
time where arrays allow it, which takes fewer instructions per byte and keeps more bytes on their way, and all of them add
in an order that depends on the shapes alone, so that the same call gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source, grid_of

__all__ = [
    "COLUMNS",
    "MAP",
    "MOST",
    "ROWS",
    "THREADS",
    "column_blocks",
    "dense",
    "empty_like",
    "flat",
    "in_order_of",
    "innermost",
    "on_elements",
    "on_rows",
    "packed",
    "pointer",
]

THREADS = 256  # of a block
BLOCKS = 1584  # that go down columns: whole rounds of 2, 3 or 4 for each of the 132 processors of an H100 or H200
MOST = (1 << 31) - 1  # blocks of a launch
SHORT, LONG = 32, 2048  # columns of a row up to which a thread, or a warp, has a row to itself

MAP = r"""
template <int L, class S = T> struct alignas(L * sizeof(S)) Pack { S v[L]; };
const int LANES = 16 / sizeof(T);

template <class... P> __device__ bool aligned(P... p) { return (((unsigned long long)p | ...) % 16) == 0; }

template <int L, class F, class... S> __device__ Pack<L> on_lanes(F f, Pack<L, S>... a) {
    Pack<L> y;
    #pragma unroll
    for (int k = 0; k < L; k++) y.v[k] = f(a.v[k]...);
    return y;
}

template <int L, class F, class... S> __device__ void map_packs(F f, long long size, T* y, const S*... x) {
    long long i = first_index(), step = index_step();
    Pack<L>* to = (Pack<L>*)y;
    for (; i + step < size / L; i += 2 * step) {  // both are on their way before either is used
        Pack<L> a = on_lanes<L>(f, ((const Pack<L, S>*)x)[i]...), b = on_lanes<L>(f, ((const Pack<L, S>*)x)[i + step]...);
        to[i] = a, to[i + step] = b;
    }
    if (i < size / L) to[i] = on_lanes<L>(f, ((const Pack<L, S>*)x)[i]...);
}

// y[i] = f(x[i]...) for all i < size; y may be one of the x.
template <class F, class... S> __device__ void map(long long size, T* y, F f, const S*... x) {
    if (!aligned(y, x...)) return map_packs<1>(f, size, y, x...);
    map_packs<LANES>(f, size, y, x...);
    long long i = size / LANES * LANES + threadIdx.x;
    if (blockIdx.x == 0 && i < size) y[i] = f(x[i]...);
}
"""

ROWS = r"""
// Who works on a row: a thread, a warp or a block, each rank of size; sums and maxima go to all of them.
struct Team {
    int rank, size;
    template <class S> __device__ S sum(S v) { return size == 1 ? v : size == WARP ? warp_sum(v) : block_sum(v); }
    __device__ T largest(T v) { return size == 1 ? v : size == WARP ? warp_max(v) : block_max(v); }
};
__device__ Team of_thread() { return {0, 1}; }
__device__ Team of_warp() { return {lane_index(), WARP}; }
__device__ Team of_block() { return {(int)threadIdx.x, (int)blockDim.x}; }

// f(row, team) for all rows: short ones have a thread each, longer ones a warp, very long ones a block.
template <class F> __device__ void for_rows(long long rows, long long columns, F f) {
    if (columns <= SHORT) for (long long row = first_index(); row < rows; row += index_step()) f(row, of_thread());
    else if (columns <= LONG)
        for (long long row = first_index() / WARP; row < rows; row += index_step() / WARP) f(row, of_warp());
    else for (long long row = blockIdx.x; row < rows; row += gridDim.x) f(row, of_block());
}

// The sum of f(k) over the columns of a row.
template <class S, class F> __device__ S row_sum(Team team, long long columns, F f) {
    S s = 0;
    #pragma unroll 4
    for (long long k = team.rank; k < columns; k += team.size) s += f(k);
    return team.sum(s);
}

// o[k] = f(k) for the columns of a row, four of them under way at a time.
template <class F> __device__ void fill_row(Team team, long long columns, T* o, F f) {
    long long k = team.rank, step = team.size;
    for (; k + 3 * step < columns; k += 4 * step) {
        T a = f(k), b = f(k + step), c = f(k + 2 * step), d = f(k + 3 * step);
        o[k] = a, o[k + step] = b, o[k + 2 * step] = c, o[k + 3 * step] = d;
    }
    for (; k < columns; k += step) o[k] = f(k);
}

__device__ T row_largest(Team team, const T* r, long long columns) {
    T m = r[0];
    #pragma unroll 4
    for (long long k = team.rank; k < columns; k += team.size) m = maximum(m, r[k]);
    return team.largest(m);
}
""".replace("SHORT", str(SHORT)).replace("LONG", str(LONG))

COLUMNS = r"""
// Where a thread is in arrays (pieces, pixels, channels): at L channels of every step-th pixel of a piece.
// A block has (channel packs, pixels) threads; blocks are (pieces * chunks of channels, splits of the pixels).
template <int L> struct Place {
    long long piece, channel, first, step, count;
    __device__ Place(long long pixels, long long channels) {
        long long chunks = (channels / L + blockDim.x - 1) / blockDim.x;
        piece = blockIdx.x / chunks;
        channel = (blockIdx.x % chunks * blockDim.x + threadIdx.x) * L;
        first = blockIdx.y * (long long)blockDim.y + threadIdx.y;
        step = gridDim.y * (long long)blockDim.y;
        count = channel < channels && first < pixels ? (pixels - first + step - 1) / step : 0;
        first += piece * pixels;
    }
};

// use(k, load(k)) for all k < count: four loads are under way before any result is written.
template <class Load, class Use> __device__ void in_batches(long long count, Load load, Use use) {
    long long k = 0;
    for (; k + 4 <= count; k += 4) {
        auto a = load(k), b = load(k + 1), c = load(k + 2), d = load(k + 3);
        use(k, a), use(k + 1, b), use(k + 2, c), use(k + 3, d);
    }
    for (; k < count; k++) use(k, load(k));
}

// One array for all variants of column_sums in a file: 2 numbers for each lane of each thread.
__device__ double (*scratch())[THREADS] {
    __shared__ double sums[2 * LANES][THREADS];
    return sums;
}

// partial (pieces, 2, channels, splits) = the sums of what add(pixel, load(pixel), s, q) adds to s[L] and q[L]:
// 32 numbers in the precision of T, then in double.
template <int L, class Load, class Add>
__device__ void column_sums(Place<L> at, long long channels, double* partial, Load load, Add add) {
    double (*sums)[THREADS] = scratch();
    double total[2 * L] = {};
    for (long long done = 0; done < at.count; done += 32) {
        T s[L] = {}, q[L] = {};
        long long run = at.count - done < 32 ? at.count - done : 32, pixel = at.first + done * at.step;
        in_batches(run, [&](long long k) { return load(pixel + k * at.step); },
                   [&](long long k, decltype(load(0)) v) { add(pixel + k * at.step, v, s, q); });
        for (int l = 0; l < L; l++) total[l] += s[l], total[L + l] += q[l];
    }
    int thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int l = 0; l < 2 * L; l++) sums[l][thread] = total[l];
    for (int rows = blockDim.y; rows > 1; rows = (rows + 1) / 2) {
        __syncthreads();
        int half = (rows + 1) / 2;
        if (threadIdx.y + half < rows) for (int l = 0; l < 2 * L; l++) sums[l][thread] += sums[l][thread + half * blockDim.x];
    }
    if (threadIdx.y == 0 && at.channel < channels)
        for (int l = 0; l < 2 * L; l++) {
            long long row = (at.piece * 2 + l / L) * channels + at.channel + l % L;
            partial[row * gridDim.y + blockIdx.y] = sums[l][thread];
        }
}
""".replace("THREADS", str(THREADS))


def packed(channels: int, *arrays: Array | None) -> int:
    """How many channels a thread can take at once: 16 bytes of them, or one."""
    lanes = 16 // next(x for x in arrays if x is not None).itemsize
    return 1 if channels % lanes or any(x is not None and pointer(x) % 16 for x in arrays) else lanes


def pointer(x: Array) -> int:
    """The address of the first element."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def column_blocks(pieces: int, pixels: int, channels: int, lanes: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The grid and the block for arrays (pieces, pixels, channels)."""
    packs = channels // lanes
    across = min(packs, THREADS)
    down = max(1, min(THREADS // across, pixels))
    columns = pieces * -(-packs // across)
    return (columns, max(1, min(-(-pixels // (4 * down)), BLOCKS // columns))), (across, down)


def innermost(x: Array) -> Array:
    """(N, C, ...) as (N, ..., C) contiguous: a view of channels-last memory, else one copy."""
    return xp_of(x).ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1))


def dense(x: Array) -> Array:
    """x itself when its elements lie side by side in some order of the axes, else one C-contiguous copy."""
    if x.flags.c_contiguous:
        return x
    step = x.itemsize
    for stride, n in sorted((stride, n) for stride, n in zip(x.strides, x.shape) if n > 1):
        if stride != step:
            return xp_of(x).ascontiguousarray(x)
        step *= n
    return x


def flat(x: Array) -> Array:
    """A dense array as a C-contiguous view: its axes in the order in which they lie in memory."""
    if x.flags.c_contiguous:
        return x
    return x.transpose(sorted(range(x.ndim), key=lambda axis: -x.strides[axis]))


def in_order_of(x: Array, like: Array) -> Array:
    """x in the memory order of ``like`` (same shape, dense); one copy when it lies otherwise."""
    if x.strides == like.strides:
        return x
    y = xp_of(x).empty_like(like)
    y[...] = x
    return y


def empty_like(x: Array, dtype: Any = None) -> Array:
    """An uninitialised array of x's shape and memory order."""
    return xp_of(x).empty_like(x, dtype=dtype)


def on_elements(source: Source, name: str, y: Array, inputs: tuple[Array, ...], *args: Any) -> Array:
    """Fill y, dense, element by element from arrays that lie as y does, with more arguments as they are; returns y."""
    blocks = min(grid_of(y.size, THREADS * (32 // y.itemsize)), MOST)  # two times 16 bytes for every thread
    source.launch(name, y.dtype, blocks, THREADS, (y.size, flat(y), *map(flat, inputs), *args))
    return y


def on_rows(source: Source, name: str, dtype: Any, rows: int, columns: int, *args: Any) -> None:
    """Run a kernel on so many rows of so many columns."""
    if rows and columns:
        at_once = THREADS if columns <= SHORT else THREADS // 32 if columns <= LONG else 1
        source.launch(name, dtype, min(grid_of(rows, at_once), MOST), THREADS, (rows, columns, *args))
