"""Convolution and what usually follows it, ReLU or ReLU and 2x2 max pooling, in one kernel."""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._axes import channels_last, sizes_of, spatial_first
from minidl.kernels.cuda._implicit import PLAIN, POOL, RELU, forward
from minidl.kernels.cuda._launch import Source
from minidl.kernels.cuda.activation import relu_backward
from minidl.kernels.cuda.conv import Gradients, Needs, conv2d_algorithms, conv2d_backward, convolve
from minidl.kernels.generic.columns import Padding, Pair

__all__ = ["conv2d_relu_backward", "conv2d_relu_forward"]

THREADS = 256

source = Source(r"""
#define DEAD 4

// y[n, i, j, o] = the largest of 0 and of the four results of window (i, j), and which of them it is, or DEAD.
extern "C" __global__ void relu_pool(const T* results, T* y, unsigned char* winner, int N, int OH, int OW, int O)
{
    long long i = first_index(), rest = i;
    int o = rest % O; rest /= O;
    int column = rest % (OW / 2); rest /= OW / 2;
    int row = rest % (OH / 2);
    long long n = rest / (OH / 2);
    if (n >= N) return;
    const T* window = results + ((n * OH + 2 * row) * OW + 2 * column) * O + o;
    T best = window[0];
    int won = 0;
    for (int k = 1; k < 4; ++k) {  // the first of equals wins, and the last NaN
        T other = window[((long long)(k / 2) * OW + k % 2) * O];
        if (other > best || other != other) { best = other; won = k; }
    }
    y[i] = best <= 0 ? 0 : best;
    winner[i] = best <= 0 ? DEAD : won;
}

// The transpose: the gradient of every result, from that of its window. A thread for each window, and for what is left of one
// at odd edges, which nobody sees.
extern "C" __global__ void undo_relu_pool(const T* gy, const unsigned char* winner, T* g, int N, int OH, int OW, int O)
{
    int rows = (OH + 1) / 2, columns = (OW + 1) / 2;
    long long rest = first_index();
    int o = rest % O; rest /= O;
    int column = rest % columns; rest /= columns;
    int row = rest % rows;
    long long n = rest / rows;
    if (n >= N) return;
    bool whole = row < OH / 2 && column < OW / 2;
    long long window = ((n * (OH / 2) + row) * (OW / 2) + column) * O + o;
    T value = whole ? gy[window] : 0;
    int won = whole ? winner[window] : DEAD;
    T* to = g + ((n * OH + 2 * row) * OW + 2 * column) * O + o;
    for (int k = 0; k < 4; ++k)
        if (2 * row + k / 2 < OH && 2 * column + k % 2 < OW) to[((long long)(k / 2) * OW + k % 2) * O] = k == won ? value : 0;
}
""")


def conv2d_relu_forward(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    pool: int,
) -> tuple[Array, Array]:
    """y = max(conv2d(x), 0), for ``pool`` = 2 the largest of each 2x2 window; and y, or the windows' winners, for backward."""
    if pool == 1:
        y = convolve(x, w, b, stride, padding, dilation, groups, "auto", RELU)
        return y, y
    xp = xp_of(x)
    algorithm = conv2d_algorithms(x.shape, w.shape, stride, padding, dilation, groups, x.dtype, POOL)[0]
    sizes = sizes_of(len(x), x.shape[2:], w.shape, stride, padding, dilation, groups)
    shape = sizes.N, sizes.OH // 2, sizes.OW // 2, sizes.O
    y, winner = xp.empty(shape, x.dtype), xp.empty(shape, np.uint8)
    if algorithm == "implicit":
        forward(channels_last(x), spatial_first(w), b, y, sizes, POOL, winner)
    else:
        results = channels_last(convolve(x, w, b, stride, padding, dilation, groups, algorithm, PLAIN))
        source.launch("relu_pool", x.dtype, -(-y.size // THREADS), THREADS, (results, y, winner, *results.shape))
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


def conv2d_relu_backward(
    gy: Array,
    kept: Array,
    x: Array | None,
    w: Array,
    size: Pair,
    out_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    pool: int,
    needs: Needs,
) -> Gradients:
    """gx, gw and gb, each None when not needed; ``kept`` as forward gave it, ``out_size`` (OH, OW) before pooling.

    The gradient of the convolution's results is written out: the three products that follow read it several times each.
    """
    if pool == 1:
        g = relu_backward(channels_last(gy), channels_last(kept)).transpose(0, 3, 1, 2)
    else:
        N, O = gy.shape[:2]
        results = xp_of(gy).empty((N, *out_size, O), gy.dtype)
        windows = N * -(-out_size[0] // 2) * -(-out_size[1] // 2) * O
        arguments = channels_last(gy), channels_last(kept), results, *results.shape
        source.launch("undo_relu_pool", gy.dtype, -(-windows // THREADS), THREADS, arguments)
        g = results.transpose(0, 3, 1, 2)
    return conv2d_backward(g, x, w, size, stride, padding, dilation, groups, needs)
