"""Sums in a fixed order, so that the same numbers give the same bits: parts of a sum, columns, and a bias with what follows."""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source

__all__ = ["add_bias", "add_parts", "column_sums"]

source = Source(r"""
// ReLU where it follows; a NaN stays one.
__device__ T follow(T value, int relu) { return relu && value <= 0 ? 0 : value; }

// y = the sum of the parts, one after the other, + b.
extern "C" __global__ void add_parts(const T* shares, T* y, const T* b, long long size, int parts, int columns, int relu)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size) return;
    T sum = shares[i];
    #pragma unroll 8
    for (int part = 1; part < parts; ++part) sum += shares[part * size + i];
    if (b) sum += b[i % columns];
    y[i] = follow(sum, relu);
}

// The same for many parts of few sums. A block takes 32 sums, side by side; each of its 32 warps adds every 32nd part, so that
// more of them are on their way at a time; and the first warp adds the 32 sums.
extern "C" __global__ void __launch_bounds__(1024) add_many_parts(
    const T* shares, T* y, const T* b, long long size, int parts, int columns, int relu)
{
    __shared__ T sums[32][32];
    long long i = blockIdx.x * 32ll + lane_index();
    T sum = 0;
    if (i < size) {
        #pragma unroll 8
        for (int part = warp_index(); part < parts; part += 32) sum += shares[part * size + i];
    }
    sums[warp_index()][lane_index()] = sum;
    __syncthreads();
    if (warp_index() > 0 || i >= size) return;
    for (int other = 1; other < 32; ++other) sum += sums[other][lane_index()];
    if (b) sum += b[i % columns];
    y[i] = follow(sum, relu);
}

// y += b, for y (rows, columns).
extern "C" __global__ void add_bias(T* y, const T* b, long long size, int columns, int relu)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < size) y[i] = follow(b ? y[i] + b[i % columns] : y[i], relu);
}

// Parts of the sums of all columns of a (rows, columns). A block takes 32 columns, side by side, and ``share`` of the rows;
// each of its eight warps takes every eighth of these, and the first warp adds the eight sums.
extern "C" __global__ void column_sums(const T* a, T* sums, long long rows, int columns, long long share)
{
    __shared__ T warps[8][32];
    int tiles = (columns + 31) / 32, lane = lane_index(), warp = warp_index();
    int column = blockIdx.x % tiles * 32 + lane, part = blockIdx.x / tiles;
    long long end = (part + 1) * share < rows ? (part + 1) * share : rows;
    T sum = 0;
    if (column < columns) {
        #pragma unroll 8
        for (long long row = part * share + warp; row < end; row += 8) sum += a[row * columns + column];
    }
    warps[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) {
        for (int other = 1; other < 8; ++other) sum += warps[other][lane];
        sums[(long long)part * columns + column] = sum;
    }
}
""")

THREADS = 256
MANY = 16  # parts, from which on a single thread would wait for one after the other too long
BLOCKS_WANTED = 1024  # of 256 threads: as many as the largest GPU holds at once, so that reads fill the memory's pipes
LEAST_ROWS = 64  # of a part


def add_parts(shares: Array, y: Array, b: Array | None = None, relu: bool = False) -> None:
    """y = the sum of shares (parts, *y.shape) over its first axis, + b along the last axis of y; and ReLU."""
    arguments = shares, y, b, y.size, len(shares), y.shape[-1], int(relu)
    if len(shares) < MANY:
        source.launch("add_parts", y.dtype, -(-y.size // THREADS), THREADS, arguments)
    else:
        source.launch("add_many_parts", y.dtype, -(-y.size // 32), 1024, arguments)


def add_bias(y: Array, b: Array | None, relu: bool = False) -> None:
    """y += b along the last axis of y, and ReLU, in place."""
    if y.size and (b is not None or relu):
        source.launch("add_bias", y.dtype, -(-y.size // THREADS), THREADS, (y, b, y.size, y.shape[-1], int(relu)))


def column_sums(a: Array) -> Array:
    """The sums over the rows of a (rows, columns), which is C-contiguous; with all blocks of a GPU, whatever its shape."""
    (rows, columns), xp = a.shape, xp_of(a)
    tiles = -(-columns // 32)
    share = max(-(-rows // max(1, BLOCKS_WANTED // tiles)), LEAST_ROWS)
    parts = max(1, -(-rows // share))
    sums = xp.empty((parts, columns), a.dtype)
    source.launch("column_sums", a.dtype, tiles * parts, THREADS, (a, sums, rows, columns, share))
    if parts == 1:
        return sums[0]
    total = xp.empty((columns,), a.dtype)
    add_parts(sums, total)
    return total
