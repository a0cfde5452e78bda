"""Normalisation compiled by Numba: one pair of kernels for batch, group and instance norm, one for layer norm.

Every case is x (B, M C), channels innermost: B pieces that are normalised on their own, M pixels of C channels each.
The channels fall into G groups of neighbours. Batch norm is B = 1 and G = C, instance norm B = N and G = C, group norm
B = N, layer norm M = 1 and G = 1.

Sums run down the pixels, channel by channel, and the channels of a group are joined afterwards. A few pixels are
treated as one *long row*, so that vectors are full however few channels there are: number k of such a row belongs to
channel k % C, and what the loops need per channel is repeated to the row's length L. Each number of a long row is
summed in the precision of x over ``RUN`` rows, then in float64.

Batch norm may apply ReLU too, by ``vectors_pass``: y passes where not y + off <= 0, and ``off`` is 0 or, without ReLU,
NaN, with which everything passes. Backward computes y again rather than read it, to see where gy passes; without ReLU
it gets a bias of NaN, to the same effect.

It may add a residual too, before ReLU: y = max(batch norm + r, 0). Then backward reads y, and writes gy where it passes,
which is the gradient of r, on its way to the sums. Without a residual r and y are empty.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.cpu._norm_rows import RUN, backward_rows, forward_rows
from minidl.kernels.cpu._tile import Shape, lanes
from minidl.kernels.cpu._vector import vectors_load, vectors_pass, vectors_store
from minidl.memory import empty, in_order_of

__all__ = ["batch_norm_backward", "batch_norm_forward", "group_norm_backward", "group_norm_forward"]

Needs = tuple[bool, bool, bool]  # whether the gradients of x, weight and bias are asked for
Grads = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

FOUR = Shape(4, 1)  # vectors that are summed side by side

WHOLE, SUMS, APPLY = 0, 1, 2  # a thread does some pieces from start to end; or its share of every piece, in two steps


@serial
def _coefficients(mean, var, weight, eps, center, scale):
    """Long rows of what to take off and what to multiply by."""
    C, K = weight.size, weight.size // mean.size
    for g in range(mean.size):
        istd = 1.0 / np.sqrt(np.float64(var[g]) + eps)
        for c in range(g * K, (g + 1) * K):
            center[c] = mean[g]
            scale[c] = istd * weight[c]
    for k in range(C, center.size):
        center[k], scale[k] = center[k - C], scale[k - C]


@serial
def _fold(sums, total):
    """total = the sums of every channel, from those of several long rows."""
    C = total.shape[1]
    for i in range(2):
        c = 0
        total[i] = 0
        for k in range(sums.shape[1]):
            total[i, c] += sums[i, k]
            c = c + 1 if c < C - 1 else 0
    return total


# ---------------------------------------------------------------- forward


@serial
def _typical(x, C, G, shift):
    """Long row of a value per group that is near the group's mean, however large that is: the average of four pixels."""
    K, step, quarter = C // G, x.size // C // 4 * C, x.dtype.type(0.25)
    for c in range(0, C, K):
        h = (x[c] + x[step + c] + x[2 * step + c] + x[3 * step + c]) * quarter
        h = h if abs(h) < np.inf else x.dtype.type(0)
        for k in range(c, c + K):
            shift[k] = h
    for k in range(C, shift.size):
        shift[k] = shift[k - C]


@serial
def _sums(x, shift, s, q, a, b, V):
    """s = sum of x - shift and q = sum of its squares, down the long rows of x; a and b are scratch.

    Without the shift q/M - (s/M)^2 would lose its digits when the mean is much larger than the standard deviation.
    """
    L = shift.size
    s[:] = 0
    q[:] = 0
    rows = x.size // L
    for first in range(0, rows, RUN):
        last = min(first + RUN, rows)
        for strip in range(0, L, 4 * V):
            c = min(strip, L - 4 * V)  # the last strip overlaps the one before
            h0, h1, h2, h3 = vectors_load(FOUR, shift, c, V, V)
            s0, s1, s2, s3 = q0, q1, q2, q3 = vectors_load(FOUR, x, 0, 0, 0)  # zeros
            for i in range(first, last):
                d0, d1, d2, d3 = vectors_load(FOUR, x, i * L + c, V, V)
                d0, d1, d2, d3 = d0 - h0, d1 - h1, d2 - h2, d3 - h3
                s0, s1, s2, s3 = s0 + d0, s1 + d1, s2 + d2, s3 + d3
                q0, q1, q2, q3 = q0 + d0 * d0, q1 + d1 * d1, q2 + d2 * d2, q3 + d3 * d3
            vectors_store(a, c, V, V, (s0, s1, s2, s3))
            vectors_store(b, c, V, V, (q0, q1, q2, q3))
        for k in range(L):
            s[k] += a[k]
            q[k] += b[k]
    rest = x[rows * L :]
    for k in range(rest.size):
        d = rest[k] - shift[k]
        s[k] += d
        q[k] += d * d


@serial
def _join(total, shift, M, mean, var):
    """Mean and variance of each group, from the sums of its channels."""
    K = total.shape[1] // mean.size
    share = 1.0 / (M * K)
    for g in range(mean.size):
        m = v = 0.0
        for c in range(g * K, (g + 1) * K):
            m += total[0, c]
            v += total[1, c]
        m *= share
        v = v * share - m * m
        mean[g] = shift[g * K] + m
        var[g] = 0.0 if v < 0.0 else v


@serial
def _apply(x, center, scale, bias, off, r, y, V):
    """y = (x - center) * scale + bias + r, and ReLU."""
    L = center.size
    rows = x.size // L
    for first in range((rows - 1) // RUN * RUN, -1, -RUN):  # backwards: what was summed last is still in the cache
        last = min(first + RUN, rows)
        for strip in range(0, L, 4 * V):
            c = min(strip, L - 4 * V)
            h0, h1, h2, h3 = vectors_load(FOUR, center, c, V, V)
            w0, w1, w2, w3 = vectors_load(FOUR, scale, c, V, V)
            b0, b1, b2, b3 = vectors_load(FOUR, bias, c, V, V)
            for i in range(first, last):
                x0, x1, x2, x3 = vectors_load(FOUR, x, i * L + c, V, V)
                x0, x1, x2, x3 = (x0 - h0) * w0 + b0, (x1 - h1) * w1 + b1, (x2 - h2) * w2 + b2, (x3 - h3) * w3 + b3
                if r.size > 0:
                    r0, r1, r2, r3 = vectors_load(FOUR, r, i * L + c, V, V)
                    x0, x1, x2, x3 = x0 + r0, x1 + r1, x2 + r2, x3 + r3
                passed = vectors_pass((x0, x1, x2, x3), (off + x0, off + x1, off + x2, off + x3))
                vectors_store(y, i * L + c, V, V, passed)
    zero = x.dtype.type(0)
    rest, add, o = x[rows * L :], r[rows * L :], y[rows * L :]
    for k in range(rest.size):
        v = (rest[k] - center[k]) * scale[k] + bias[k]
        if add.size > 0:
            v += add[k]
        o[k] = zero if v + off <= zero else v


@threaded
def _forward(x, r, weight, bias, eps, given, off, mean, var, y, sums, V, stage, part, parts):
    """Fill y, and mean and var (B, G) unless given; bias is a long row.

    ``sums`` holds s and q: of the piece that each thread is at (parts, 2, L), or of each thread's share (B, 2, parts L).
    """
    if fork(part, parts):
        return
    B, C, L = x.shape[0], weight.size, bias.size
    M = x.shape[1] // C
    first, last = share(B, part, parts) if stage == WHOLE else (0, B)
    low, high = (0, M) if stage == WHOLE else share(M, part, parts)
    begin, end = (part * L, (part + 1) * L) if stage == SUMS else (0, sums.shape[2])
    rows, own = np.empty((5, L), x.dtype), np.empty((2, mean.shape[1]), x.dtype)
    center, scale, shift, total = rows[0], rows[1], rows[2], np.empty((2, C))
    for i in range(first, last):
        xs, m, v = x[i, low * C : high * C], mean[i], var[i]
        if not given:
            j = part if stage == WHOLE else i
            s, q = sums[j, 0, begin:end], sums[j, 1, begin:end]
            _typical(x[i], C, m.size, shift)
            if stage != APPLY:
                _sums(xs, shift, s, q, rows[3], rows[4], V)
            if stage == SUMS:
                continue
            if stage == APPLY and part > 0:  # the first thread tells the caller
                m, v = own[0], own[1]
            _join(sums[j] if sums.shape[2] == C else _fold(sums[j], total), shift, M, m, v)
        _coefficients(m, v, weight, eps, center, scale)
        _apply(xs, center, scale, bias, off, r[i, low * C : high * C], y[i, low * C : high * C], V)


# ---------------------------------------------------------------- backward


@serial
def _grad_sums(gy, x, y, gr, center, scale, bias, s, q, a, b, V):
    """s = sum of gy and q = sum of gy * (x - center), where ReLU passes gy; a and b are scratch.

    With y, ReLU's result, the gy that pass are written to gr.
    """
    L = center.size
    s[:] = 0
    q[:] = 0
    rows = x.size // L
    for first in range(0, rows, RUN):
        last = min(first + RUN, rows)
        for strip in range(0, L, 4 * V):
            c = min(strip, L - 4 * V)
            h0, h1, h2, h3 = vectors_load(FOUR, center, c, V, V)
            w0, w1, w2, w3 = vectors_load(FOUR, scale, c, V, V)
            b0, b1, b2, b3 = vectors_load(FOUR, bias, c, V, V)
            s0, s1, s2, s3 = q0, q1, q2, q3 = vectors_load(FOUR, x, 0, 0, 0)  # zeros
            for i in range(first, last):
                d0, d1, d2, d3 = vectors_load(FOUR, x, i * L + c, V, V)
                d0, d1, d2, d3 = d0 - h0, d1 - h1, d2 - h2, d3 - h3
                g = vectors_load(FOUR, gy, i * L + c, V, V)
                if y.size > 0:
                    passed = vectors_pass(g, vectors_load(FOUR, y, i * L + c, V, V))
                    vectors_store(gr, i * L + c, V, V, passed)
                else:
                    passed = vectors_pass(g, (d0 * w0 + b0, d1 * w1 + b1, d2 * w2 + b2, d3 * w3 + b3))
                g0, g1, g2, g3 = passed
                s0, s1, s2, s3 = s0 + g0, s1 + g1, s2 + g2, s3 + g3
                q0, q1, q2, q3 = q0 + g0 * d0, q1 + g1 * d1, q2 + g2 * d2, q3 + g3 * d3
            vectors_store(a, c, V, V, (s0, s1, s2, s3))
            vectors_store(b, c, V, V, (q0, q1, q2, q3))
        for k in range(L):
            s[k] += a[k]
            q[k] += b[k]
    zero = x.dtype.type(0)
    rest, grad, results, passes = x[rows * L :], gy[rows * L :], y[rows * L :], gr[rows * L :]
    for k in range(rest.size):
        d = rest[k] - center[k]
        if results.size > 0:
            g = zero if results[k] <= zero else grad[k]
            passes[k] = g
        else:
            g = zero if d * scale[k] + bias[k] <= zero else grad[k]
        s[k] += g
        q[k] += g * d


@serial
def _grad_coefficients(total, M, var, weight, eps, slope, offset, gw, gb):
    """gw and gb grow; gx will be gy * scale + (x - center) * slope + offset."""
    C, K = weight.size, weight.size // var.size
    share = -1.0 / (M * K)
    for g in range(var.size):
        istd = 1.0 / np.sqrt(np.float64(var[g]) + eps)
        of_g = of_gx = 0.0  # means of gy * weight and of gy * weight * xhat, times -istd
        for c in range(g * K, (g + 1) * K):
            gb[c] += total[0, c]
            gw[c] += total[1, c] * istd
            of_g += total[0, c] * weight[c]
            of_gx += total[1, c] * weight[c]
        of_g *= istd * share
        of_gx *= istd * istd * istd * share
        for c in range(g * K, (g + 1) * K):
            offset[c], slope[c] = of_g, of_gx
    for k in range(C, slope.size):
        offset[k], slope[k] = offset[k - C], slope[k - C]


@serial
def _grad_apply(gy, x, center, scale, bias, given, slope, offset, gx, V):
    """gx = gy * scale + (x - center) * slope + offset, where ReLU passes gy; the last two terms only if not ``given``."""
    L = center.size
    zero = x.dtype.type(0)
    varies = zero if given else x.dtype.type(np.nan)  # for vectors_pass
    rows = x.size // L
    for first in range((rows - 1) // RUN * RUN, -1, -RUN):
        last = min(first + RUN, rows)
        for strip in range(0, L, 4 * V):
            c = min(strip, L - 4 * V)
            h0, h1, h2, h3 = vectors_load(FOUR, center, c, V, V)
            w0, w1, w2, w3 = vectors_load(FOUR, scale, c, V, V)
            b0, b1, b2, b3 = vectors_load(FOUR, bias, c, V, V)
            s0, s1, s2, s3 = vectors_load(FOUR, slope, c, V, V)
            o0, o1, o2, o3 = vectors_load(FOUR, offset, c, V, V)
            v0, v1, v2, v3 = vectors_load(FOUR, x, 0, 0, 0)  # zeros
            varying = varies + v0, varies + v1, varies + v2, varies + v3
            for i in range(first, last):
                d0, d1, d2, d3 = vectors_load(FOUR, x, i * L + c, V, V)
                d0, d1, d2, d3 = d0 - h0, d1 - h1, d2 - h2, d3 - h3
                g = vectors_load(FOUR, gy, i * L + c, V, V)
                g0, g1, g2, g3 = vectors_pass(g, (d0 * w0 + b0, d1 * w1 + b1, d2 * w2 + b2, d3 * w3 + b3))
                d0, d1, d2, d3 = vectors_pass((d0 * s0 + o0, d1 * s1 + o1, d2 * s2 + o2, d3 * s3 + o3), varying)
                vectors_store(gx, i * L + c, V, V, (g0 * w0 + d0, g1 * w1 + d1, g2 * w2 + d2, g3 * w3 + d3))
    rest, grad, o = x[rows * L :], gy[rows * L :], gx[rows * L :]
    for k in range(rest.size):
        d = rest[k] - center[k]
        g = zero if d * scale[k] + bias[k] <= zero else grad[k]
        o[k] = g * scale[k] + (zero if given else d * slope[k] + offset[k])


@threaded
def _backward(gy, x, y, gr, mean, var, weight, bias, eps, given, want_gx, gx, gw, gb, sums, V, stage, part, parts):
    """Fill gx, and gw[part] and gb[part] (float64) grow; ``sums`` is as in ``_forward``."""
    if fork(part, parts):
        return
    B, C, L = x.shape[0], weight.size, bias.size
    M = x.shape[1] // C
    first, last = share(B, part, parts) if stage == WHOLE else (0, B)
    low, high = (0, M) if stage == WHOLE else share(M, part, parts)
    begin, end = (part * L, (part + 1) * L) if stage == SUMS else (0, sums.shape[2])
    rows = np.empty((6, L), x.dtype)
    center, scale, slope, offset, total = rows[0], rows[1], rows[2], rows[3], np.empty((2, C))
    for i in range(first, last):
        j = part if stage == WHOLE else i
        gs, xs, s, q = gy[i, low * C : high * C], x[i, low * C : high * C], sums[j, 0, begin:end], sums[j, 1, begin:end]
        _coefficients(mean[i], var[i], weight, eps, center, scale)
        if stage != APPLY:
            ys, passes = y[i, low * C : high * C], gr[i, low * C : high * C]
            _grad_sums(gs, xs, ys, passes, center, scale, bias, s, q, rows[4], rows[5], V)
        if stage == SUMS:
            continue
        of_channels = sums[j] if sums.shape[2] == C else _fold(sums[j], total)
        _grad_coefficients(of_channels, M, var[i], weight, eps, slope, offset, gw[part], gb[part])
        if want_gx:
            if gr.size > 0:
                gs = gr[i, low * C : high * C]
            _grad_apply(gs, xs, center, scale, bias, given, slope, offset, gx[i, low * C : high * C], V)


# ---------------------------------------------------------------- from images to (B, M C) and back


def _channels_innermost(x: np.ndarray) -> np.ndarray:
    """(N, ..., C) contiguous: a view of channels-last memory, else one copy."""
    x = x.transpose(0, *range(2, x.ndim), 1)
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def _like(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A (N, ..., C) result as (N, C, ...), in x's memory order."""
    return in_order_of(y.transpose(0, -1, *range(1, x.ndim - 1)), x)


def _row(values: np.ndarray | None, missing: float, x: np.ndarray, pixels: int = 1) -> np.ndarray:
    """(C,) values, or as many times a missing one; repeated for some pixels."""
    if pixels == 1 and values is not None:
        return np.ascontiguousarray(values)
    row = np.empty((pixels, x.shape[1]), x.dtype)
    row[...] = missing if values is None else values
    return row.reshape(-1)


def _stages(B: int, parts: int, L: int) -> tuple[tuple[int, ...], np.ndarray]:
    """The launches that do B pieces in so many parts, and the array for their sums."""
    if parts <= B:
        return (WHOLE,), np.empty((parts, 2, L))
    return (SUMS, APPLY), np.empty((B, 2, parts * L))


def _pieces(x: np.ndarray | None, B: int, like: np.ndarray) -> np.ndarray:
    """An (N, C, ...) array as (B, M C) pieces; pieces without elements for None."""
    return np.empty((B, 0), like.dtype) if x is None else _channels_innermost(x).reshape(B, -1)


def _run_forward(
    x: np.ndarray, mean, var, weight, bias, eps: float, given: bool, relu: bool = False, residual: np.ndarray | None = None
) -> np.ndarray:
    """Fill mean and var (B, G) unless given, and return y."""
    rows = _channels_innermost(x)
    y = empty(rows.shape, x.dtype)
    if x.size:
        (B, G), C, parts, eps = mean.shape, x.shape[1], threads(x.size), float(eps)
        weight = _row(weight, 1, x)
        if x.size == B * C and G < C and not given:
            vectors = weight.reshape(G, -1), _row(bias, 0, x).reshape(G, -1)
            forward_rows(parts, rows.reshape(B, G, -1), *vectors, eps, mean, var, y.reshape(B, G, -1))
        else:
            V, off = lanes(x.dtype), x.dtype.type(0 if relu else np.nan)
            bias = _row(bias, 0, x, -(-4 * V // C))
            stages, sums = _stages(B, parts, bias.size)
            for stage in stages[-1:] if given else stages:
                images = rows.reshape(B, -1), _pieces(residual, B, x)
                _forward(parts, *images, weight, bias, eps, given, off, mean, var, y.reshape(B, -1), sums, V, stage)
    return _like(y, x)


def _run_backward(
    gy: np.ndarray,
    x: np.ndarray,
    mean,
    var,
    weight,
    bias,
    eps: float,
    given: bool,
    needs: Needs,
    relu: bool = False,
    y: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw, gb, and with y the gradient of the residual."""
    rows, grows = _channels_innermost(x), _channels_innermost(gy)
    (B, G), C, parts, eps = mean.shape, x.shape[1], threads(x.size), float(eps)
    gx = empty(rows.shape, x.dtype) if needs[0] else np.empty((B, G, 0), x.dtype)
    gr = None if y is None else empty(rows.shape, x.dtype)
    gw, gb = np.zeros((parts, C)), np.zeros((parts, C))
    if x.size:
        weight = _row(weight, 1, x)
        if x.size == B * C and G < C and not given:
            groups = grows.reshape(B, G, -1), rows.reshape(B, G, -1), mean, var, weight.reshape(G, -1)
            backward_rows(parts, *groups, eps, needs[0], gx.reshape(B, G, -1), gw, gb)
        else:
            V = lanes(x.dtype)
            recomputes = relu and y is None  # where ReLU passes gy; else that is read, or all of gy passes
            bias = _row(bias if recomputes else None, 0 if recomputes else np.nan, x, -(-4 * V // C))
            passes = np.empty((B, 0), x.dtype) if gr is None else gr.reshape(B, -1)
            stages, sums = _stages(B, parts, bias.size)
            for stage in stages:
                arrays = grows.reshape(B, -1), rows.reshape(B, -1), _pieces(y, B, x), passes, mean, var, weight
                _backward(parts, *arrays, bias, eps, given, needs[0], gx.reshape(B, -1), gw, gb, sums, V, stage)
            if stages[-1] == APPLY:
                gw, gb = gw[:1], gb[:1]  # every thread has had the sums of all
    return (
        _like(gx, x) if needs[0] else None,
        gw.sum(0).astype(x.dtype) if needs[1] else None,
        gb.sum(0).astype(x.dtype) if needs[2] else None,
        None if gr is None else _like(gr, x),
    )


def batch_norm_forward(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    mean: np.ndarray | None = None,
    var: np.ndarray | None = None,
    relu: bool = False,
    residual: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (C,): those of the batch unless they are given; then the residual is added, then ReLU."""
    C, given = x.shape[1], mean is not None and var is not None
    if mean is None or var is None:
        mean, var = np.zeros(C, x.dtype), np.zeros(C, x.dtype)
    mean, var = np.ascontiguousarray(mean), np.ascontiguousarray(var)
    y = _run_forward(x, mean.reshape(1, C), var.reshape(1, C), weight, bias, eps, given, relu, residual)
    return y, mean, var


def batch_norm_backward(
    gy: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray | None,
    eps: float,
    given: bool,
    needs: Needs,
    relu: bool = False,
    bias: np.ndarray | None = None,
    y: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw, gb and the residual's gradient; mean and variance are constants when they were ``given``.

    Where ``relu`` passes gy is seen from y, which must be there if there was a residual, or else from the bias.
    """
    C = x.shape[1]
    mean, var = np.ascontiguousarray(mean), np.ascontiguousarray(var)
    return _run_backward(gy, x, mean.reshape(1, C), var.reshape(1, C), weight, bias, eps, given, needs, relu, y)


def group_norm_forward(
    x: np.ndarray, groups: int, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (N, groups)."""
    mean, var = np.zeros((len(x), groups), x.dtype), np.zeros((len(x), groups), x.dtype)
    return _run_forward(x, mean, var, weight, bias, eps, False), mean, var


def group_norm_backward(
    gy: np.ndarray, x: np.ndarray, mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, eps: float, needs: Needs
) -> Grads:
    """gx, gw, gb."""
    return _run_backward(gy, x, mean, var, weight, None, eps, False, needs)[:3]
