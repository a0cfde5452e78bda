"""Normalisation compiled by Numba: one pair of kernels for batch, group and instance norm, one for layer norm.

Every case is x (B, n), channels innermost: B parts that are normalised on their own, M pixels of C channels each.
The channels fall into G groups of neighbours. Batch norm is B = 1 and G = C, instance norm B = N and G = C, group norm
B = N, layer norm M = 1 and G = 1.

Sums run down the pixels, channel by channel, and the channels of a group are joined afterwards. Several pixels are
treated as one *long row*, so that the innermost loop is long however few channels there are: number c of such a row
belongs to channel c % C, and whatever is kept per channel is repeated to the row's length. Each number of a long row
adds up in the precision of x for ``RUN`` rows, then in float64.

Batch norm may apply ReLU too: y below ``floor`` becomes ``floor``, and no gradient passes where y <= ``floor``. The
floor is 0 or, without ReLU, NaN, below which there is nothing. Backward computes y again rather than read it.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.memory import empty, in_order_of

__all__ = ["batch_norm_backward", "batch_norm_forward", "group_norm_backward", "group_norm_forward"]

Needs = tuple[bool, bool, bool]  # whether the gradients of x, weight and bias are asked for
Grads = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

LONG = 1024  # values of a long row, if there are many
RUN = 32  # numbers that are added up in the precision of x
ROW = 4096  # longer rows of layer norm are treated as parts of a single pixel

WHOLE, SUMS, APPLY = 0, 1, 2  # each thread does some parts from start to end; or its piece of every part, in two steps


# ---------------------------------------------------------------- per channel


@serial
def _long_row(n, C):
    """How many of n values make a long row: those of whole pixels, and few enough that there are many rows."""
    return max(1, min(LONG, n // 64) // C) * C


@serial
def _repeat(values, v):
    """v = values, values, ... (which may be the beginning of v)."""
    C = values.size
    for k in range(0, v.size, C):
        for c in range(C):
            v[k + c] = values[c]


@serial
def _fold(v, total):
    """The sum of v per channel."""
    C = total.size
    total[:] = 0
    for k in range(0, v.size, C):
        for c in range(C):
            total[c] += v[k + c]


@serial
def _coefficients(mean, var, weight, eps, center, scale):
    """Long rows of what to take off and what to multiply by."""
    C = weight.size
    K = C // mean.size
    for g in range(mean.size):
        istd = 1.0 / np.sqrt(np.float64(var[g]) + eps)
        for c in range(g * K, (g + 1) * K):
            center[c] = mean[g]
            scale[c] = istd * weight[c]
    _repeat(center[:C], center)
    _repeat(scale[:C], scale)


# ---------------------------------------------------------------- forward


@serial
def _typical(x, h):
    """h = the mean of some pixels from everywhere in x: near the mean of all, however large that is."""
    C = h.size
    M = x.size // C
    count = min(16, 1 + M // 8)
    h[:C] = 0
    for i in range(count):
        p = i * M // count * C
        r = x[p : p + C]
        for c in range(C):
            h[c] += r[c]
    for c in range(C):
        h[c] /= x.dtype.type(count)


@serial
def _sums(x, shift, s, q, a, b):
    """s = sum of x - shift and q = sum of its squares, down the long rows of x; a and b are scratch.

    Without the shift q/M - (s/M)^2 would lose its digits when the mean is much larger than the standard deviation.
    """
    L = shift.size
    s[:] = 0
    q[:] = 0
    for start in range(0, x.size, RUN * L):
        run = x[start : start + RUN * L]
        a[:] = 0
        b[:] = 0
        fours = run.size // (4 * L)
        for i in range(fours):
            r = run[4 * i * L : 4 * (i + 1) * L]
            r0, r1, r2, r3 = r[:L], r[L : 2 * L], r[2 * L : 3 * L], r[3 * L :]
            for c in range(L):
                h = shift[c]
                d0, d1, d2, d3 = r0[c] - h, r1[c] - h, r2[c] - h, r3[c] - h
                a[c] += (d0 + d1) + (d2 + d3)
                b[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        for i in range(4 * fours * L, run.size, L):
            r = run[i : i + L]
            for c in range(r.size):
                d = r[c] - shift[c]
                a[c] += d
                b[c] += d * d
        for c in range(L):
            s[c] += a[c]
            q[c] += b[c]


@serial
def _join(s, q, shift, M, mean, var):
    """Mean and variance of each group from the sums of its channels, which are overwritten."""
    G = mean.size
    K = s.size // G
    for g in range(G):
        m, v = s[g * K : (g + 1) * K], q[g * K : (g + 1) * K]
        h = shift[g * K : (g + 1) * K]
        total = 0.0
        for k in range(K):
            d = m[k] / M
            v[k] = v[k] / M - d * d
            m[k] = d + h[k]  # the mean of this channel
            total += m[k]
        center = total / K
        total = 0.0
        for k in range(K):
            total += (0.0 if v[k] < 0.0 else v[k]) + (m[k] - center) * (m[k] - center)
        mean[g] = center
        var[g] = total / K


@serial
def _apply(x, center, scale, bias, floor, y):
    """y = (x - center) * scale + bias, and ReLU."""
    L = center.size
    for i in range(0, x.size, L):
        r, o = x[i : i + L], y[i : i + L]
        for c in range(r.size):
            v = (r[c] - center[c]) * scale[c] + bias[c]
            o[c] = floor if v < floor else v


@serial
def _piece(B, M, stage, part, parts):
    """Which parts (first, last) and which of their pixels (low, high) a thread takes."""
    first, last = share(B, part, parts)
    low, high = share(M, part, parts)
    return (first, last, 0, M) if stage == WHOLE else (0, B, low, high)


@threaded
def _forward(x, weight, bias, eps, given, floor, mean, var, y, sums, stage, part, parts):
    """Fill y, and mean and var (B, G) unless given; through ``sums`` (B, 2, parts C) threads tell each other theirs."""
    if fork(part, parts):
        return
    (B, n), C = x.shape, weight.size
    M, L = n // C, _long_row(n, C)
    first, last, low, high = _piece(B, M, stage, part, parts)
    rows, s, q = np.empty((6, L), x.dtype), np.empty(L), np.empty(L)
    center, scale, offset, shift = rows[0], rows[1], rows[2], rows[3]
    h, own = np.empty(C, x.dtype), np.empty((2, mean.shape[1]), x.dtype)
    of_x, of_square = np.empty(C), np.empty(C)
    _repeat(bias, offset)
    for i in range(first, last):
        xs = x[i, low * C : high * C]
        m, v = mean[i], var[i]
        if not given:
            _typical(x[i], h)
            if stage == APPLY:
                _fold(sums[i, 0], of_x)
                _fold(sums[i, 1], of_square)
            else:
                _repeat(h, shift)
                _sums(xs, shift, s, q, rows[4], rows[5])
                if stage == SUMS:
                    _fold(s, sums[i, 0, part * C : (part + 1) * C])
                    _fold(q, sums[i, 1, part * C : (part + 1) * C])
                    continue
                _fold(s, of_x)
                _fold(q, of_square)
            if part > 0 and stage == APPLY:  # the first thread tells the caller
                m, v = own[0], own[1]
            _join(of_x, of_square, h, M, m, v)
        _coefficients(m, v, weight, eps, center, scale)
        _apply(xs, center, scale, offset, floor, y[i, low * C : high * C])


# ---------------------------------------------------------------- backward


@serial
def _grad_sums(gy, x, center, scale, bias, floor, s, q, a, b):
    """s = sum of gy and q = sum of gy * (x - center), where ReLU passes gy; a and b are scratch."""
    L = center.size
    zero = x.dtype.type(0)
    s[:] = 0
    q[:] = 0
    for start in range(0, x.size, RUN * L):
        xs, gs = x[start : start + RUN * L], gy[start : start + RUN * L]
        a[:] = 0
        b[:] = 0
        for i in range(0, xs.size, L):
            r, g = xs[i : i + L], gs[i : i + L]
            for c in range(r.size):
                d = r[c] - center[c]
                e = zero if d * scale[c] + bias[c] <= floor else g[c]
                a[c] += e
                b[c] += e * d
        for c in range(L):
            s[c] += a[c]
            q[c] += b[c]


@serial
def _grad_coefficients(s, q, M, var, weight, eps, given, slope, offset, gw, gb):
    """gw and gb grow; gx will be gy * scale + (x - center) * slope + offset."""
    G, C = var.size, weight.size
    K = C // G
    for g in range(G):
        istd = 1.0 / np.sqrt(np.float64(var[g]) + eps)
        of_g = of_gx = 0.0  # means of gy * weight and of gy * weight * xhat
        for c in range(g * K, (g + 1) * K):
            gb[c] += s[c]
            gw[c] += q[c] * istd
            of_g += s[c] * weight[c]
            of_gx += q[c] * istd * weight[c]
        n = M * K
        for c in range(g * K, (g + 1) * K):
            offset[c] = 0.0 if given else -istd * of_g / n
            slope[c] = 0.0 if given else -istd * istd * of_gx / n
    _repeat(slope[:C], slope)
    _repeat(offset[:C], offset)


@serial
def _grad_apply(gy, x, center, scale, bias, floor, slope, offset, gx):
    L = center.size
    zero = x.dtype.type(0)
    for i in range(0, x.size, L):
        r, g, o = x[i : i + L], gy[i : i + L], gx[i : i + L]
        for c in range(r.size):
            d = r[c] - center[c]
            e = zero if d * scale[c] + bias[c] <= floor else g[c]
            o[c] = e * scale[c] + d * slope[c] + offset[c]


@threaded
def _backward(gy, x, mean, var, weight, bias, eps, given, floor, want_gx, gx, gw, gb, sums, stage, part, parts):
    """Fill gx, and gw[part] and gb[part] (float64) grow; ``sums`` is as in ``_forward``."""
    if fork(part, parts):
        return
    (B, n), C = x.shape, weight.size
    M, L = n // C, _long_row(n, C)
    first, last, low, high = _piece(B, M, stage, part, parts)
    rows, s, q, of_g, of_gx = np.empty((7, L), x.dtype), np.empty(L), np.empty(L), np.empty(C), np.empty(C)
    center, scale, offset, slope, gx_offset = rows[0], rows[1], rows[2], rows[3], rows[4]
    _repeat(bias, offset)
    for i in range(first, last):
        gs, xs = gy[i, low * C : high * C], x[i, low * C : high * C]
        _coefficients(mean[i], var[i], weight, eps, center, scale)
        if stage == APPLY:
            _fold(sums[i, 0], of_g)
            _fold(sums[i, 1], of_gx)
        else:
            _grad_sums(gs, xs, center, scale, offset, floor, s, q, rows[5], rows[6])
            if stage == SUMS:
                _fold(s, sums[i, 0, part * C : (part + 1) * C])
                _fold(q, sums[i, 1, part * C : (part + 1) * C])
                continue
            _fold(s, of_g)
            _fold(q, of_gx)
        _grad_coefficients(of_g, of_gx, M, var[i], weight, eps, given, slope, gx_offset, gw[part], gb[part])
        if want_gx:
            _grad_apply(gs, xs, center, scale, offset, floor, slope, gx_offset, gx[i, low * C : high * C])


# ---------------------------------------------------------------- layer norm


@threaded
def _forward_rows(x, weight, bias, eps, mean, var, y, part, parts):
    if fork(part, parts):
        return
    first, last = share(x.shape[0], part, parts)
    x, mean, var, y = x[first:last], mean[first:last], var[first:last], y[first:last]
    (N, C), type_ = x.shape, x.dtype.type
    for i in range(N):
        total = type_(0)
        for c in range(C):
            total += x[i, c] - x[i, 0]
        m = x[i, 0] + total / type_(C)
        total = type_(0)
        for c in range(C):
            total += (x[i, c] - m) * (x[i, c] - m)
        v = total / type_(C)
        istd = type_(1.0 / np.sqrt(v + eps))
        for c in range(C):
            y[i, c] = (x[i, c] - m) * istd * weight[c] + bias[c]
        mean[i, 0], var[i, 0] = m, v


@threaded
def _backward_rows(gy, x, mean, var, weight, eps, want_gx, gx, gw, gb, part, parts):
    """Fill gx; gw[part] and gb[part] (float64) grow by the sums of RUN rows at a time."""
    if fork(part, parts):
        return
    first, last = share(x.shape[0], part, parts)
    gy, x, mean, var, gx, gw, gb = gy[first:last], x[first:last], mean[first:last], var[first:last], gx[first:last], gw[part], gb[part]
    (N, C), type_ = x.shape, x.dtype.type
    a, b = np.zeros(C, x.dtype), np.zeros(C, x.dtype)
    for i in range(N):
        m, istd = mean[i, 0], type_(1.0 / np.sqrt(np.float64(var[i, 0]) + eps))
        of_g = of_gx = type_(0)
        for c in range(C):
            g, xhat = gy[i, c], (x[i, c] - m) * istd
            a[c] += g * xhat
            b[c] += g
            of_g += g * weight[c]
            of_gx += g * weight[c] * xhat
        of_g, of_gx = of_g / type_(C), of_gx / type_(C)
        if want_gx:
            for c in range(C):
                gx[i, c] = (gy[i, c] * weight[c] - of_g - (x[i, c] - m) * istd * of_gx) * istd
        if i % RUN == RUN - 1 or i == N - 1:
            for c in range(C):
                gw[c] += a[c]
                gb[c] += b[c]
            a[:] = 0
            b[:] = 0


# ---------------------------------------------------------------- from images to (B, n) and back


def _channels_innermost(x: np.ndarray) -> np.ndarray:
    """(N, ..., C) contiguous: a view of channels-last memory, else one copy."""
    x = np.moveaxis(x, 1, -1)
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def _like(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A (N, ..., C) result as (N, C, ...), in x's memory order."""
    return in_order_of(np.moveaxis(y, -1, 1), x)


def _vector(v: np.ndarray | None, x: np.ndarray, missing: float) -> np.ndarray:
    return np.full(x.shape[1], missing, x.dtype) if v is None else np.ascontiguousarray(v)


def _run_forward(x: np.ndarray, mean, var, weight, bias, eps: float, given: bool, relu: bool) -> np.ndarray:
    """Fill mean and var (B, G) unless given, and return y."""
    weight, bias = _vector(weight, x, 1), _vector(bias, x, 0)
    rows = _channels_innermost(x)
    y = empty(rows.shape, x.dtype)
    if x.size:
        B, C, parts = len(mean), x.shape[1], threads(x.size)
        x2, y2 = rows.reshape(B, -1), y.reshape(B, -1)
        floor = x.dtype.type(0 if relu else np.nan)
        if mean.shape[1] == 1 and x.size == B * C and C <= ROW and not given:
            _forward_rows(parts, x2, weight, bias, eps, mean, var, y2)
        else:
            stages = (WHOLE,) if B >= parts else (SUMS, APPLY)[given:]
            sums = np.empty((B, 2, parts * C))
            for stage in stages:
                _forward(parts, x2, weight, bias, eps, given, floor, mean, var, y2, sums, stage)
    return _like(y, x)


def _run_backward(
    gy: np.ndarray, x: np.ndarray, mean, var, weight, bias, eps: float, given: bool, needs: Needs, relu: bool
) -> Grads:
    weight, bias = _vector(weight, x, 1), _vector(bias, x, 0)
    rows, grows = _channels_innermost(x), _channels_innermost(gy)
    B, C, parts = len(mean), x.shape[1], threads(x.size)
    gx = empty(rows.shape, x.dtype) if needs[0] else np.empty((B, 0), x.dtype)
    gw, gb = np.zeros((parts, C)), np.zeros((parts, C))
    if x.size:
        gy2, x2, gx2 = grows.reshape(B, -1), rows.reshape(B, -1), gx.reshape(B, -1)
        floor = x.dtype.type(0 if relu else np.nan)
        if mean.shape[1] == 1 and x.size == B * C and C <= ROW and not given:
            _backward_rows(parts, gy2, x2, mean, var, weight, eps, needs[0], gx2, gw, gb)
        else:
            stages = (WHOLE,) if B >= parts else (SUMS, APPLY)
            sums = np.empty((B, 2, parts * C))
            for stage in stages:
                arrays = gy2, x2, mean, var, weight, bias
                _backward(parts, *arrays, eps, given, floor, needs[0], gx2, gw, gb, sums, stage)
            if stages[-1] == APPLY:
                gw, gb = gw[:1], gb[:1]  # every thread has had the sums of all
    return (
        _like(gx, x) if needs[0] else None,
        gw.sum(0).astype(x.dtype) if needs[1] else None,
        gb.sum(0).astype(x.dtype) if needs[2] else None,
    )


def batch_norm_forward(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    mean: np.ndarray | None = None,
    var: np.ndarray | None = None,
    relu: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (C,): those of the batch unless they are given; relu: y below 0 becomes 0."""
    C, given = x.shape[1], mean is not None and var is not None
    if mean is None or var is None:
        mean, var = np.zeros(C, x.dtype), np.zeros(C, x.dtype)
    y = _run_forward(x, mean.reshape(1, C), var.reshape(1, C), weight, bias, eps, given, relu)
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
) -> Grads:
    """gx, gw, gb; mean and variance are constants when they were ``given``; the bias tells where ``relu`` passes gy."""
    C = x.shape[1]
    return _run_backward(gy, x, mean.reshape(1, C), var.reshape(1, C), weight, bias, eps, given, needs, relu)


def group_norm_forward(
    x: np.ndarray, groups: int, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (N, groups)."""
    mean, var = np.zeros((len(x), groups), x.dtype), np.zeros((len(x), groups), x.dtype)
    return _run_forward(x, mean, var, weight, bias, eps, False, False), mean, var


def group_norm_backward(
    gy: np.ndarray, x: np.ndarray, mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, eps: float, needs: Needs
) -> Grads:
    """gx, gw, gb."""
    return _run_backward(gy, x, mean, var, weight, None, eps, False, needs, False)
