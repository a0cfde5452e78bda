"""Depthwise convolution: every channel by itself, G = C = O. There is no product of matrices in it; reading takes the time."""

from __future__ import annotations

from functools import cache

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._axes import AXES, Sizes, lanes, tap_steps
from minidl.kernels.cuda._launch import Source
from minidl.kernels.cuda._sums import add_parts

__all__ = ["depthwise", "depthwise_weights"]

PIXELS, TAPS, THREADS = 4, 9, 256

TEXT = r"""
// Constants from Python: VEC channels are read at once, 4 or 1; a thread computes PIXELS results side by side, so that it reads
// weights once for all of them; TAPS of the kernel share a reading of gy.

struct alignas(VEC == 4 ? 16 : sizeof(T)) Channels { T v[VEC]; };

// y = a * w + b, or, turned, the gradient gx = y of the images from gy = a. Neighbouring threads have neighbouring channels.
extern "C" __global__ void depthwise(
    const T* a, const T* w, const T* b, T* y, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int step_h, int step_w, int turned, int relu)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    int c = i % (C / VEC) * VEC;
    i /= C / VEC;
    int in_h = H, in_w = W, out_h = OH, out_w = OW, rows = OH, columns = OW;
    if (turned) {
        in_h = OH; in_w = OW; out_h = H; out_w = W;
        rows = (H + SH - 1) / SH; columns = (W + SW - 1) / SW;  // of the first phase, which has most
    }
    int strips = (columns + PIXELS - 1) / PIXELS;
    int first = i % strips * PIXELS;
    i /= strips;
    int row = i % rows;
    i /= rows;
    int n = i % N, phase = i / N;
    if (phase >= (turned ? SH * SW : 1)) return;
    Axis h = turned ? gradient_axis(H, KH, SH, DH, top, step_h, phase / SW) : forward_axis(OH, KH, SH, DH, top);
    Axis v = turned ? gradient_axis(W, KW, SW, DW, left, step_w, phase % SW) : forward_axis(OW, KW, SW, DW, left);
    if (row >= h.results) return;

    T sum[PIXELS][VEC];
    for (int p = 0; p < PIXELS; ++p)
        for (int e = 0; e < VEC; ++e) sum[p][e] = b ? b[c + e] : 0;
    for (int j = 0; j < h.taps; ++j) {
        int at_h = row * h.stride + j * h.dilation + h.begin;
        if (at_h < 0 || at_h >= in_h) continue;
        const T* line = a + ((long long)n * in_h + at_h) * in_w * C + c;
        for (int k = 0; k < v.taps; ++k) {
            Channels weight = *(const Channels*)(w + ((h.first + j * h.step) * KW + v.first + k * v.step) * C + c);
            #pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                int at_w = (first + p) * v.stride + k * v.dilation + v.begin;
                if (at_w < 0 || at_w >= in_w) continue;
                Channels seen = *(const Channels*)(line + at_w * C);
                for (int e = 0; e < VEC; ++e) sum[p][e] += seen.v[e] * weight.v[e];
            }
        }
    }
    T* line = y + ((long long)n * out_h + h.phase + row * h.period) * out_w * C + c;
    #pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        if (first + p >= v.results) break;
        Channels result;
        for (int e = 0; e < VEC; ++e) result.v[e] = relu && sum[p][e] <= 0 ? 0 : sum[p][e];
        *(Channels*)(line + (v.phase + (first + p) * v.period) * C) = result;
    }
}

// Parts of gw[kh, kw, c] = sum over (n, oh, ow) of x[n, oh SH + kh DH - top, ow SW + kw DW - left, c] gy[n, oh, ow, c].
// A block takes 32 channels, TAPS taps and ``share`` of the results. Each of its warps takes every eighth result, one channel
// for each thread; then the eight sums of every tap are added.
extern "C" __global__ void depthwise_weights(
    const T* x, const T* gy, T* gw, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int share)
{
    __shared__ T warps[8][TAPS][32];
    int tiles = (C + 31) / 32, pieces = (KH * KW + TAPS - 1) / TAPS, id = blockIdx.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int c = id % tiles * 32 + lane, first = id / tiles % pieces * TAPS, part = id / tiles / pieces;
    int end = min((part + 1) * (long long)share, (long long)N * OH * OW);
    T sum[TAPS];
    int down[TAPS], across[TAPS];
    #pragma unroll
    for (int t = 0; t < TAPS; ++t) {
        sum[t] = 0;
        down[t] = first + t < KH * KW ? (first + t) / KW * DH - top : -(1 << 30);  // taps that are not there see nothing
        across[t] = (first + t) % KW * DW - left;
    }
    int m = part * share + warp, ow = m % OW, oh = m / OW % OH, n = m / OW / OH;
    if (c < C) {
        for (; m < end; m += 8) {
            T g = gy[(long long)m * C + c];
            const T* image = x + (long long)n * H * W * C + c;
            #pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                int ih = oh * SH + down[t], iw = ow * SW + across[t];
                if ((unsigned)ih < H && (unsigned)iw < W) sum[t] += g * image[(ih * W + iw) * C];
            }
            ow += 8;
            while (ow >= OW) {
                ow -= OW;
                if (++oh == OH) { oh = 0; ++n; }
            }
        }
    }
    #pragma unroll
    for (int t = 0; t < TAPS; ++t) warps[warp][t][lane] = sum[t];
    __syncthreads();
    for (int t = warp; t < TAPS && c < C && first + t < KH * KW; t += 8) {
        T total = warps[0][t][lane];
        for (int other = 1; other < 8; ++other) total += warps[other][t][lane];
        gw[((long long)part * KH * KW + first + t) * C + c] = total;
    }
}
"""

BLOCKS_WANTED = 1024
LEAST_RESULTS = 256  # of a part of gw
WORKSPACE = 1 << 25  # elements of parts


@cache
def source(VEC: int) -> Source:
    """The text for reading VEC channels at once."""
    return Source(f"#define VEC {VEC}\n#define PIXELS {PIXELS}\n#define TAPS {TAPS}\n" + AXES + TEXT)


def depthwise(a: Array, w: Array, b: Array | None, y: Array, sizes: Sizes, turned: bool = False, relu: bool = False) -> None:
    """y from images a, or, ``turned``, the gradient y of images from the gradient a; all (N, rows, columns, C) in memory."""
    N, H, W, C, _, OH, OW = sizes[:7]
    VEC, phases, rows, columns = lanes(C, a, w, y), 1, OH, OW
    if turned:
        phases, rows, columns = sizes.SH * sizes.SW, -(-H // sizes.SH), -(-W // sizes.SW)
    threads = phases * N * rows * -(-columns // PIXELS) * (C // VEC)
    arguments = a, w, b, y, *sizes, *tap_steps(sizes), int(turned), int(relu)
    source(VEC).launch("depthwise", y.dtype, -(-threads // THREADS), THREADS, arguments)


def depthwise_weights(x: Array, gy: Array, gw: Array, sizes: Sizes) -> None:
    """gw (KH, KW, 1, C) from x and gy."""
    tiles, results = -(-sizes.C // 32) * -(-sizes.KH * sizes.KW // TAPS), sizes.N * sizes.OH * sizes.OW
    most = max(1, min(BLOCKS_WANTED // tiles, WORKSPACE // gw.size))
    share = max(-(-results // most), LEAST_RESULTS)
    parts = max(1, -(-results // share))
    target = gw if parts == 1 else xp_of(gw).empty((parts, *gw.shape), gw.dtype)
    source(1).launch("depthwise_weights", gw.dtype, tiles * parts, THREADS, (x, gy, target, *sizes, share))
    if parts > 1:
        add_parts(target, gw)
