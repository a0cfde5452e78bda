"""Max pooling on the GPU: a thread per result forward and per pixel backward, 16 bytes of channels at a time.

Backward gathers: every pixel looks which of the windows that read it it has won.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, MOST, THREADS, innermost, packed
from minidl.kernels.cuda.resize import on_device
from minidl.kernels.generic.pool import winner_dtype
from minidl.kernels.generic.resize import Taps

__all__ = ["max_pool2d_backward", "max_pool2d_forward"]

KERNELS = r"""
extern "C" __global__ void largest_NAME(
    const T* x, T* y, WINNER* winner, long long N, long long H, long long W, long long OH, long long OW, long long C,
    long long lanes, bool two, const int* rows, const int* row_tap, const int* row_count, long long KH,
    const int* columns, const int* column_tap, const int* column_count, long long KW) {
    long long packs = N * OH * OW * (C / lanes);
    bool small = N * H * W * (C / lanes) < 1ll << 30 && packs < 1ll << 30;
    #define LARGEST(L, I) largest<L, WINNER, I>(x, y, winner, packs, H, W, OH, OW, C, two, \
                                                rows, row_count, KH, columns, column_count, KW)
    if (lanes == 1) small ? LARGEST(1, int) : LARGEST(1, long long);
    else small ? LARGEST(LANES, int) : LARGEST(LANES, long long);
    #undef LARGEST
}
extern "C" __global__ void give_back_NAME(
    const T* gy, const WINNER* winner, T* gx, long long N, long long H, long long W, long long OH, long long OW, long long C,
    long long lanes, bool two, long long taps, const int* rows, const int* row_tap, const int* row_count, long long KH,
    const int* columns, const int* column_tap, const int* column_count, long long KW) {
    long long packs = N * H * W * (C / lanes);
    bool small = packs < 1ll << 30 && N * OH * OW * (C / lanes) < 1ll << 30;
    #define GIVE_BACK(L, I) give_back<L, WINNER, I>(gy, winner, gx, packs, H, W, OH, OW, C, two, taps, \
                                                    rows, row_tap, row_count, KH, columns, column_tap, column_count, KW)
    if (lanes == 1) small ? GIVE_BACK(1, int) : GIVE_BACK(1, long long);
    else small ? GIVE_BACK(LANES, int) : GIVE_BACK(LANES, long long);
    #undef GIVE_BACK
}
"""

source = Source(
    MAP
    + r"""
// A value beats the best so far when it is larger, or NaN: the last NaN of a window wins.
template <int L, class Winner> __device__ void compare(Pack<L> value, int tap, Pack<L>& best, Pack<L, Winner>& winner) {
    #pragma unroll
    for (int l = 0; l < L; l++) {
        bool better = value.v[l] > best.v[l] || value.v[l] != value.v[l];
        best.v[l] = better ? value.v[l] : best.v[l];
        winner.v[l] = better ? (Winner)tap : winner.v[l];
    }
}

// x (N, H, W, C); y and winner (N, OH, OW, C); tap (k, m) of a window has the number k KW + m.
template <int L, class Winner, class I>
__device__ void largest(const T* __restrict__ x, T* __restrict__ y, Winner* __restrict__ winner, I packs, I H, I W, I OH, I OW,
                        I C, bool two, const int* rows, const int* row_count, I KH,
                        const int* columns, const int* column_count, I KW) {
    for (I t = first_index(); t < packs; t += index_step()) {
        I c = t % (C / L), pixel = t / (C / L), j = pixel % OW, i = pixel / OW % OH, n = pixel / OW / OH;
        const Pack<L>* image = (const Pack<L>*)x + n * H * W * (C / L) + c;
        Pack<L> best;
        Pack<L, Winner> won = {};
        for (int l = 0; l < L; l++) best.v[l] = -infinity();
        if (two) {
            const Pack<L>* top = image + (2 * i * W + 2 * j) * (C / L);
            Pack<L> v[4] = {top[0], top[C / L], top[W * (C / L)], top[(W + 1) * (C / L)]};
            for (int k = 0; k < 4; k++) compare<L>(v[k], k, best, won);
        } else {
            for (int k = 0; k < row_count[i]; k++)
                for (int m = 0; m < column_count[j]; m++)
                    compare<L>(image[(rows[i * KH + k] * W + columns[j * KW + m]) * (C / L)], k * KW + m, best, won);
        }
        ((Pack<L>*)y)[t] = best;
        ((Pack<L, Winner>*)winner)[t] = won;
    }
}

// gx[n, h, w, c] = the sum of gy over the windows that read (h, w), as their taps (k, m), and that it won.
template <int L, class Winner, class I>
__device__ void give_back(const T* __restrict__ gy, const Winner* __restrict__ winner, T* __restrict__ gx, I packs, I H, I W,
                          I OH, I OW, I C, bool two, I taps, const int* rows, const int* row_tap, const int* row_count, I KH,
                          const int* columns, const int* column_tap, const int* column_count, I KW) {
    for (I t = first_index(); t < packs; t += index_step()) {
        I c = t % (C / L), pixel = t / (C / L), w = pixel % W, h = pixel / W % H, n = pixel / W / H;
        I image = n * OH * OW * (C / L) + c;
        Pack<L> total = {};
        if (two) {
            if (h / 2 < OH && w / 2 < OW) {
                I at = image + (h / 2 * OW + w / 2) * (C / L);
                Pack<L> g = ((const Pack<L>*)gy)[at];
                Pack<L, Winner> won = ((const Pack<L, Winner>*)winner)[at];
                for (int l = 0; l < L; l++) total.v[l] = won.v[l] == h % 2 * 2 + w % 2 ? g.v[l] : T(0);
            }
        } else {
            for (int k = 0; k < row_count[h]; k++)
                for (int m = 0; m < column_count[w]; m++) {
                    I at = image + (rows[h * KH + k] * OW + columns[w * KW + m]) * (C / L);
                    int tap = row_tap[h * KH + k] * taps + column_tap[w * KW + m];
                    Pack<L> g = ((const Pack<L>*)gy)[at];
                    Pack<L, Winner> won = ((const Pack<L, Winner>*)winner)[at];
                    for (int l = 0; l < L; l++) total.v[l] += won.v[l] == (Winner)tap ? g.v[l] : T(0);
                }
        }
        ((Pack<L>*)gx)[t] = total;
    }
}

"""
    + KERNELS.replace("WINNER", "unsigned char").replace("NAME", "small")
    + KERNELS.replace("WINNER", "int").replace("NAME", "large")
)


def _two_by_two(rows: Taps, columns: Taps) -> bool:
    """Whether the windows are those of 2x2 pooling without padding, which needs no tables."""
    return _halves(rows) and _halves(columns)


@lru_cache(maxsize=256)
def _halves(taps: Taps) -> bool:
    out = len(taps.count)
    if taps.index.shape[1] != 2 or taps.size // 2 != out or (taps.count != 2).any():
        return False
    return bool((taps.index == np.arange(2 * out).reshape(out, 2)).all())


def _name(name: str, winner: Array) -> str:
    return name + ("_small" if winner.dtype == np.uint8 else "_large")


def max_pool2d_forward(x: Array, rows: Taps, columns: Taps) -> tuple[Array, Array]:
    """y = the largest value of each window, and the number k * KW + m of the tap it came from."""
    xp, (N, C, H, W), (OH, OW) = xp_of(x), x.shape, (len(rows.count), len(columns.count))
    x = innermost(x)
    y = xp.empty((N, OH, OW, C), x.dtype)
    winner = xp.empty(y.shape, winner_dtype(rows, columns))
    if y.size:
        lanes = packed(C, x, y)
        tables = *on_device(rows, x, np.int32), *on_device(columns, x, np.int32)
        sizes = N, H, W, OH, OW, C, lanes, _two_by_two(rows, columns)
        grid = min(grid_of(y.size // lanes, THREADS), MOST)
        source.launch(_name("largest", winner), y.dtype, grid, THREADS, (x, y, winner, *sizes, *tables))
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


def max_pool2d_backward(gy: Array, winner: Array, rows: Taps, columns: Taps) -> Array:
    """gx = the sum of gy over the windows that a pixel won."""
    N, C, OH, OW = gy.shape
    H, W = rows.size, columns.size
    gy, winner = innermost(gy), innermost(winner)
    gx = xp_of(gy).empty((N, H, W, C), gy.dtype)
    if gx.size:
        lanes = packed(C, gy, gx)
        tables = *on_device(rows.transposed, gy, np.int32), *on_device(columns.transposed, gy, np.int32)
        sizes = N, H, W, OH, OW, C, lanes, _two_by_two(rows, columns), columns.index.shape[1]
        grid = min(grid_of(gx.size // lanes, THREADS), MOST)
        source.launch(_name("give_back", winner), gx.dtype, grid, THREADS, (gy, winner, gx, *sizes, *tables))
    return gx.transpose(0, 3, 1, 2)
