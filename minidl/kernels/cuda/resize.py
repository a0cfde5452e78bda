"""Resampling on the GPU: each output pixel sums what its taps name, 16 bytes of channels at a time.

Average pooling, adaptive and global averages and interpolation come here, and all their gradients, which are the
same with the tables transposed: what reads gathers, so that nothing is ever added to the same place by two threads.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from minidl.backend import Array, device_of, xp_of
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, MOST, THREADS, innermost, packed
from minidl.kernels.generic.resize import Taps

__all__ = ["resample"]

WIDE = 32  # taps of a pixel from which on several threads share them

source = Source(
    MAP
    + r"""
// y[n, i, j, c] = sum over m of b[j, m] * (sum over k of a[i, k] x[n, rows[i, k], columns[j, m], c]); x (N, H, W, C).
// The I taps of row i are at rows[i KH], ...; I is the type that counts: 32 bits where they suffice, divisions being slow.
template <int L, class I> __device__ void sum_taps(const T* __restrict__ x, T* __restrict__ y, I packs, I H, I W, I OH, I OW,
                                                   I C, const int* rows, const T* a, const int* row_count, I KH,
                                                   const int* columns, const T* b, const int* column_count, I KW) {
    for (I t = first_index(); t < packs; t += index_step()) {
        I c = t % (C / L), pixel = t / (C / L), j = pixel % OW, i = pixel / OW % OH, n = pixel / OW / OH;
        const Pack<L>* image = (const Pack<L>*)x + n * H * W * (C / L) + c;
        Pack<L> total = {};
        for (int m = 0; m < column_count[j]; m++) {
            I w = columns[j * KW + m];
            Pack<L> column = {};
            for (int k = 0; k < row_count[i]; k++) {
                Pack<L> v = image[(rows[i * KH + k] * W + w) * (C / L)];
                for (int l = 0; l < L; l++) column.v[l] += a[i * KH + k] * v.v[l];
            }
            for (int l = 0; l < L; l++) total.v[l] += b[j * KW + m] * column.v[l];
        }
        ((Pack<L>*)y)[t] = total;
    }
}

// The same with blockDim.y threads for each output, which share its taps: for the mean of a whole image.
template <int L> __device__ void sum_many_taps(const T* __restrict__ x, T* __restrict__ y, int H, int W, int OH, int OW, int C,
                                               const int* rows, const T* a, const int* row_count, int KH,
                                               const int* columns, const T* b, const int* column_count, int KW) {
    __shared__ T sums[L][256];
    int chunks = (C / L + blockDim.x - 1) / blockDim.x, c = blockIdx.x % chunks * blockDim.x + threadIdx.x;
    int pixel = blockIdx.x / chunks, j = pixel % OW, i = pixel / OW % OH;
    long long n = pixel / OW / OH;
    int down = row_count[i], thread = threadIdx.y * blockDim.x + threadIdx.x;
    Pack<L> total = {};
    if (c < C / L) {
        const Pack<L>* image = (const Pack<L>*)x + n * H * W * (C / L) + c;
        #pragma unroll 4
        for (int tap = threadIdx.y; tap < down * column_count[j]; tap += blockDim.y) {
            int k = tap % down, m = tap / down;
            Pack<L> v = image[((long long)rows[i * KH + k] * W + columns[j * KW + m]) * (C / L)];
            T weight = a[i * KH + k] * b[j * KW + m];
            for (int l = 0; l < L; l++) total.v[l] += weight * v.v[l];
        }
    }
    for (int l = 0; l < L; l++) sums[l][thread] = total.v[l];
    for (int count = blockDim.y; count > 1; count = (count + 1) / 2) {
        __syncthreads();
        int half = (count + 1) / 2;
        if (threadIdx.y + half < count) for (int l = 0; l < L; l++) sums[l][thread] += sums[l][thread + half * blockDim.x];
    }
    if (threadIdx.y == 0 && c < C / L) {
        for (int l = 0; l < L; l++) total.v[l] = sums[l][thread];
        ((Pack<L>*)y)[(long long)pixel * (C / L) + c] = total;
    }
}

extern "C" __global__ void resample(const T* x, T* y, long long N, long long H, long long W, long long OH, long long OW,
                                    long long C, long long lanes,
    const int* rows, const T* a, const int* row_count, long long KH,
    const int* columns, const T* b, const int* column_count, long long KW) {
    long long packs = N * OH * OW * (C / lanes);
    bool small = packs < 1ll << 30 && N * H * W * (C / lanes) < 1ll << 30;
    #define SUM(L, I) sum_taps<L, I>(x, y, packs, H, W, OH, OW, C, rows, a, row_count, KH, columns, b, column_count, KW)
    if (lanes == 1) small ? SUM(1, int) : SUM(1, long long);
    else small ? SUM(LANES, int) : SUM(LANES, long long);
}

extern "C" __global__ void resample_wide(const T* x, T* y, long long H, long long W, long long OH, long long OW, long long C,
                                         long long lanes,
    const int* rows, const T* a, const int* row_count, long long KH,
    const int* columns, const T* b, const int* column_count, long long KW) {
    if (lanes == 1) sum_many_taps<1>(x, y, H, W, OH, OW, C, rows, a, row_count, KH, columns, b, column_count, KW);
    else sum_many_taps<LANES>(x, y, H, W, OH, OW, C, rows, a, row_count, KH, columns, b, column_count, KW);
}
"""
)

_tables: WeakKeyDictionary[Taps, dict[tuple, tuple]] = WeakKeyDictionary()


def on_device(taps: Taps, like: Array, dtype: np.dtype | type) -> tuple[Array, Array, Array, int]:
    """Positions, values of ``dtype`` and counts on the device of ``like``, and K; copied there once."""
    copies = _tables.setdefault(taps, {})
    key = device_of(like), np.dtype(dtype)
    if key not in copies:
        xp = xp_of(like)
        K = taps.index.shape[1]
        arrays = taps.index.astype(np.int32), taps.value.astype(dtype), taps.count.astype(np.int32)
        copies[key] = (*(xp.ascontiguousarray(xp.asarray(table)) for table in arrays), K)
    return copies[key]


def resample(x: Array, rows: Taps, columns: Taps) -> Array:
    """y[n, c, i, j] = sum over k, m of rows.value[i, k] columns.value[j, m] x[n, c, rows.index[i, k], columns.index[j, m]]."""
    N, C, H, W = x.shape
    OH, OW = len(rows.count), len(columns.count)
    x = innermost(x)
    y = xp_of(x).empty((N, OH, OW, C), x.dtype)
    if y.size:
        lanes = packed(C, x, y)
        packs = y.size // lanes
        tables = *on_device(rows, x, x.dtype), *on_device(columns, x, x.dtype)
        if rows.index.shape[1] * columns.index.shape[1] >= WIDE and packs < 1 << 18:
            across = min(C // lanes, 32)
            grid = N * OH * OW * -(-(C // lanes) // across)
            source.launch("resample_wide", y.dtype, grid, (across, THREADS // across), (x, y, H, W, OH, OW, C, lanes, *tables))
        else:
            grid = min(grid_of(packs, THREADS), MOST)
            source.launch("resample", y.dtype, grid, THREADS, (x, y, N, H, W, OH, OW, C, lanes, *tables))
    return y.transpose(0, 3, 1, 2)
