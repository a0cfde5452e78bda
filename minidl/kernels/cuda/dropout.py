"""Dropout on the GPU: random numbers by counting, and one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.context import state
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, MOST, THREADS, dense, empty_like, flat, on_elements

__all__ = ["dropout_apply", "dropout_mask"]

source = Source(
    MAP
    + r"""
// Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011. Four random
// numbers from a counter and a key, without any state: what element i gets depends on i and on the seed alone.
__device__ void philox(unsigned long long counter, unsigned long long seed, unsigned out[4]) {
    unsigned c0 = counter, c1 = counter >> 32, c2 = 0, c3 = 0, k0 = seed, k1 = seed >> 32;
    for (int round = 0; round < 10; round++) {
        unsigned long long p = 0xD2511F53ull * c0, q = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(q >> 32) ^ c1 ^ k0, c1 = q, c2 = (unsigned)(p >> 32) ^ c3 ^ k1, c3 = p;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// mask[i] = a uniform number of 24 bits in [0, 1) is at least p. The seed lies in memory where a CUDA graph reads it.
extern "C" __global__ void draw(bool* mask, long long size, float p, long long seed, const long long* stored) {
    if (stored) seed = *stored;
    for (long long i = first_index(); 4 * i < size; i += index_step()) {
        unsigned bits[4];
        philox(i, seed, bits);
        for (int k = 0; k < 4 && 4 * i + k < size; k++) mask[4 * i + k] = (bits[k] >> 8) * (1.0f / 16777216) >= p;
    }
}

// y = x * mask * scale.
extern "C" __global__ void apply(long long size, T* y, const T* x, const bool* mask, T scale) {
    map(size, y, [=](T x, bool kept) { return x * T(kept) * scale; }, x, mask);
}

// The same with the bit of element i of x at mask[i / outer * inner + i % inner].
extern "C" __global__ void apply_to_channels(long long size, T* y, const T* x, const bool* mask, T scale, long long outer,
                                             long long inner) {
    for (long long i = first_index(); i < size; i += index_step())
        y[i] = x[i] * T(mask[i / outer * inner + i % inner]) * scale;
}
"""
)


def dropout_mask(like: Array, shape: tuple[int, ...], p: float, rng: Any) -> Array:
    """Booleans on the device of ``like``, in its memory order: False with probability p, drawn from a seed by ``rng``."""
    xp, seed, stored = xp_of(like), int(rng.integers(1 << 63)), None
    if state.recorder is not None:
        stored = state.recorder.seed(like, seed, rng)
    mask = empty_like(dense(like), np.bool_) if shape == like.shape else xp.empty(shape, np.bool_)
    source.launch(
        "draw", like.dtype, min(grid_of(mask.size, 4 * THREADS), MOST), THREADS, (flat(mask), mask.size, p, seed, stored)
    )
    return mask


def dropout_apply(x: Array, mask: Array, scale: float) -> Array:
    """x * mask * scale; the gradient is the same function of gy. mask is of x's shape, or (N, C, 1, ...)."""
    xp, x = xp_of(x), dense(x)
    if mask.shape == x.shape:
        if mask.strides != tuple(stride // x.itemsize for stride in x.strides):
            same_order = empty_like(x, np.bool_)
            same_order[...] = mask
            mask = same_order
        return on_elements(source, "apply", empty_like(x), (x, mask), scale)
    pixels = x.size // max(1, mask.size)
    if x.transpose(0, *range(2, x.ndim), 1).flags.c_contiguous:
        outer, inner = x.shape[1] * pixels, x.shape[1]
    else:
        x, outer, inner = xp.ascontiguousarray(x), pixels, 1
    y = empty_like(x)
    args = y.size, flat(y), flat(x), xp.ascontiguousarray(mask), scale, outer, inner
    source.launch("apply_to_channels", y.dtype, min(grid_of(y.size, 4 * THREADS), MOST), THREADS, args)
    return y
