"""Normalisation compiled by Numba: one pair of kernels for batch, layer, group and instance norm.

Every case is x (B, M, C), channels innermost: B parts that are normalised on their own, M rows each, whose C
channels fall into G groups of neighbours. Batch norm is B = 1 and G = C, instance norm B = N and G = C, group norm
B = N, layer norm M = 1 and G = 1. Sums run down the rows, channel by channel, so that the inner loop is always the
contiguous one; the channels of a group are joined afterwards.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.memory import empty, in_order_of

__all__ = ["batch_norm_backward", "batch_norm_forward", "group_norm_backward", "group_norm_forward"]

Needs = tuple[bool, bool, bool]  # whether the gradients of x, weight and bias are asked for


@serial
def _sums(x, shift, s, q):
    """s += sum of x - shift and q += sum of its squares, over the rows of x (M, C).

    The shift is one of the rows: then q/M - (s/M)^2 cannot lose more than a factor M of float64's precision,
    however large the mean is. Four rows are added before they enter the float64 sums.
    """
    M, C = x.shape
    for i in range(M // 4):
        r = x[4 * i : 4 * i + 4]
        for c in range(C):
            d0, d1, d2, d3 = r[0, c] - shift[c], r[1, c] - shift[c], r[2, c] - shift[c], r[3, c] - shift[c]
            s[c] += (d0 + d1) + (d2 + d3)
            q[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    r = x[M - M % 4 :]
    for i in range(M % 4):
        for c in range(C):
            d = np.float64(r[i, c] - shift[c])
            s[c] += d
            q[c] += d * d


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
def _coefficients(mean, var, weight, eps, center, scale):
    """Per channel: what to take off and what to multiply by."""
    K = center.size // mean.size
    for g in range(mean.size):
        istd = 1.0 / np.sqrt(np.float64(var[g]) + eps)
        for c in range(g * K, (g + 1) * K):
            center[c] = mean[g]
            scale[c] = istd * weight[c]


@serial
def _apply(x, center, scale, bias, y):
    """y = (x - center) * scale + bias, row by row."""
    for i in range(x.shape[0]):
        r, o = x[i], y[i]
        for c in range(r.size):
            o[c] = (r[c] - center[c]) * scale[c] + bias[c]


@serial
def _forward_row(x, weight, bias, eps, mean, var, y):
    """Layer norm of one row: mean, variance, result."""
    C = x.size
    total = 0.0
    for c in range(C):
        total += x[c]
    m = x.dtype.type(total / C)
    total = 0.0
    for c in range(C):
        total += (x[c] - m) * (x[c] - m)
    v = total / C
    istd = x.dtype.type(1.0 / np.sqrt(v + eps))
    for c in range(C):
        y[c] = (x[c] - m) * istd * weight[c] + bias[c]
    mean[0] = m
    var[0] = v


@serial
def _forward(x, weight, bias, eps, given, mean, var, y):
    """All parts, one after the other."""
    B, M, C = x.shape
    s, q = np.empty(C), np.empty(C)
    center, scale = np.empty(C, x.dtype), np.empty(C, x.dtype)
    if M == 1 and mean.shape[1] == 1 and not given:
        for b in range(B):
            _forward_row(x[b, 0], weight, bias, eps, mean[b], var[b], y[b, 0])
        return
    for b in range(B):
        if not given:
            s[:] = 0
            q[:] = 0
            _sums(x[b], x[b, 0], s, q)
            _join(s, q, x[b, 0], M, mean[b], var[b])
        _coefficients(mean[b], var[b], weight, eps, center, scale)
        _apply(x[b], center, scale, bias, y[b])


@parallel
def _forward_parts(x, weight, bias, eps, given, mean, var, y, parts):
    """Many parts: each thread takes some of them."""
    B = x.shape[0]
    for t in prange(parts):
        a, b = t * B // parts, (t + 1) * B // parts
        _forward(x[a:b], weight, bias, eps, given, mean[a:b], var[a:b], y[a:b])


@serial
def _add_threads(s, q):
    """The sums of all threads in s[0] and q[0]."""
    for t in range(1, s.shape[0]):
        for c in range(s.shape[1]):
            s[0, c] += s[t, c]
            q[0, c] += q[t, c]


@parallel
def _forward_rows(x, weight, bias, eps, given, mean, var, y, s, q, center, scale):
    """One part: each thread takes some of its rows and has its own sums s[t] and q[t]."""
    M = x.shape[0]
    parts = s.shape[0]
    if not given:
        for t in prange(parts):
            _sums(x[t * M // parts : (t + 1) * M // parts], x[0], s[t], q[t])
        _add_threads(s, q)
        _join(s[0], q[0], x[0], M, mean, var)
    _coefficients(mean, var, weight, eps, center, scale)
    for t in prange(parts):
        a, b = t * M // parts, (t + 1) * M // parts
        _apply(x[a:b], center, scale, bias, y[a:b])


@serial
def _grad_sums(gy, x, center, s, q):
    """s += sum of gy and q += sum of gy * (x - center), over the rows."""
    M, C = x.shape
    for i in range(M // 4):
        g, r = gy[4 * i : 4 * i + 4], x[4 * i : 4 * i + 4]
        for c in range(C):
            m = center[c]
            s[c] += (g[0, c] + g[1, c]) + (g[2, c] + g[3, c])
            q[c] += (g[0, c] * (r[0, c] - m) + g[1, c] * (r[1, c] - m)) + (g[2, c] * (r[2, c] - m) + g[3, c] * (r[3, c] - m))
    g, r = gy[M - M % 4 :], x[M - M % 4 :]
    for i in range(M % 4):
        for c in range(C):
            s[c] += g[i, c]
            q[c] += g[i, c] * (r[i, c] - center[c])


@serial
def _grad_coefficients(s, q, M, var, weight, eps, given, slope, offset, gw, gb):
    """gw and gb grow; gx will be gy * scale + (x - center) * slope + offset."""
    G = var.size
    K = s.size // G
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


@serial
def _grad_apply(gy, x, center, scale, slope, offset, gx):
    for i in range(x.shape[0]):
        g, r, o = gy[i], x[i], gx[i]
        for c in range(r.size):
            o[c] = g[c] * scale[c] + (r[c] - center[c]) * slope[c] + offset[c]


@serial
def _backward_row(gy, x, mean, var, weight, eps, want_gx, gx, gw, gb):
    """Layer norm of one row."""
    C = x.size
    m = mean[0]
    istd = x.dtype.type(1.0 / np.sqrt(np.float64(var[0]) + eps))
    of_g = of_gx = 0.0
    for c in range(C):
        xhat = (x[c] - m) * istd
        gb[c] += gy[c]
        gw[c] += gy[c] * xhat
        of_g += gy[c] * weight[c]
        of_gx += gy[c] * weight[c] * xhat
    a, b = x.dtype.type(of_g / C), x.dtype.type(of_gx / C)
    if want_gx:
        for c in range(C):
            gx[c] = (gy[c] * weight[c] - a - (x[c] - m) * istd * b) * istd


@serial
def _backward(gy, x, mean, var, weight, eps, given, want_gx, gx, gw, gb):
    """All parts, one after the other; gw and gb (float64) grow."""
    B, M, C = x.shape
    s, q = np.empty(C), np.empty(C)
    center, scale = np.empty(C, x.dtype), np.empty(C, x.dtype)
    slope, offset = np.empty(C, x.dtype), np.empty(C, x.dtype)
    if M == 1 and mean.shape[1] == 1 and not given:
        for b in range(B):
            _backward_row(gy[b, 0], x[b, 0], mean[b], var[b], weight, eps, want_gx, gx[b, 0], gw, gb)
        return
    for b in range(B):
        s[:] = 0
        q[:] = 0
        _coefficients(mean[b], var[b], weight, eps, center, scale)
        _grad_sums(gy[b], x[b], center, s, q)
        _grad_coefficients(s, q, M, var[b], weight, eps, given, slope, offset, gw, gb)
        if want_gx:
            _grad_apply(gy[b], x[b], center, scale, slope, offset, gx[b])


@parallel
def _backward_parts(gy, x, mean, var, weight, eps, given, want_gx, gx, gw, gb, parts):
    """Many parts: each thread takes some of them and has its own gw[t] and gb[t]."""
    B = x.shape[0]
    for t in prange(parts):
        a, b = t * B // parts, (t + 1) * B // parts
        _backward(gy[a:b], x[a:b], mean[a:b], var[a:b], weight, eps, given, want_gx, gx[a:b], gw[t], gb[t])


@parallel
def _backward_rows(gy, x, mean, var, weight, eps, given, want_gx, gx, gw, gb, s, q, center, scale, slope, offset):
    """One part: each thread takes some of its rows and has its own sums s[t] and q[t]."""
    M = x.shape[0]
    parts = s.shape[0]
    _coefficients(mean, var, weight, eps, center, scale)
    for t in prange(parts):
        a, b = t * M // parts, (t + 1) * M // parts
        _grad_sums(gy[a:b], x[a:b], center, s[t], q[t])
    _add_threads(s, q)
    _grad_coefficients(s[0], q[0], M, var, weight, eps, given, slope, offset, gw, gb)
    if want_gx:
        for t in prange(parts):
            a, b = t * M // parts, (t + 1) * M // parts
            _grad_apply(gy[a:b], x[a:b], center, scale, slope, offset, gx[a:b])


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


def _run_forward(
    x: np.ndarray, parts_shape: tuple[int, int], weight, bias, eps: float, given: bool, mean: np.ndarray, var: np.ndarray
) -> np.ndarray:
    """Fill mean and var (B, G) unless given, and return y; parts_shape is (B, M)."""
    C = x.shape[1]
    weight = np.ones(C, x.dtype) if weight is None else np.ascontiguousarray(weight)
    bias = np.zeros(C, x.dtype) if bias is None else np.ascontiguousarray(bias)
    rows = _channels_innermost(x)
    y = empty(rows.shape, x.dtype)
    if x.size:
        x3, y3 = rows.reshape(*parts_shape, C), y.reshape(*parts_shape, C)
        parts = threads(x.size)
        if parts == 1:
            _forward(x3, weight, bias, eps, given, mean, var, y3)
        elif parts_shape[0] >= parts:
            _forward_parts(x3, weight, bias, eps, given, mean, var, y3, parts)
        else:
            for b in range(parts_shape[0]):
                sums, scratch = np.zeros((2, parts, C)), np.empty((2, C), x.dtype)
                _forward_rows(x3[b], weight, bias, eps, given, mean[b], var[b], y3[b], *sums, *scratch)
    return _like(y, x)


def _run_backward(
    gy: np.ndarray,
    x: np.ndarray,
    parts_shape: tuple[int, int],
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray | None,
    eps: float,
    given: bool,
    needs: Needs,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    C = x.shape[1]
    weight = np.ones(C, x.dtype) if weight is None else np.ascontiguousarray(weight)
    rows, grows = _channels_innermost(x), _channels_innermost(gy)
    gx = empty(rows.shape if needs[0] else (*parts_shape, 0), x.dtype)
    parts = threads(x.size)
    gw, gb = np.zeros((parts, C)), np.zeros((parts, C))
    if x.size:
        shape = (*parts_shape, C)
        x3, gy3, gx3 = rows.reshape(shape), grows.reshape(shape), gx.reshape(*parts_shape, -1)
        if parts == 1:
            _backward(gy3, x3, mean, var, weight, eps, given, needs[0], gx3, gw[0], gb[0])
        elif parts_shape[0] >= parts:
            _backward_parts(gy3, x3, mean, var, weight, eps, given, needs[0], gx3, gw, gb, parts)
        else:
            for b in range(parts_shape[0]):
                sums, scratch = np.zeros((2, parts, C)), np.empty((4, C), x.dtype)
                arrays = gy3[b], x3[b], mean[b], var[b], weight
                _backward_rows(*arrays, eps, given, needs[0], gx3[b], gw[0], gb[0], *sums, *scratch)
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (C,): those of the batch unless they are given."""
    C = x.shape[1]
    given = True
    if mean is None or var is None:
        mean, var, given = np.zeros(C, x.dtype), np.zeros(C, x.dtype), False
    y = _run_forward(x, (1, x.size // max(1, C)), weight, bias, eps, given, mean.reshape(1, C), var.reshape(1, C))
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
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw, gb; mean and variance are constants when they were ``given``."""
    C = x.shape[1]
    return _run_backward(gy, x, (1, x.size // max(1, C)), mean.reshape(1, C), var.reshape(1, C), weight, eps, given, needs)


def group_norm_forward(
    x: np.ndarray, groups: int, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and mean and variance (N, groups)."""
    N, C = x.shape[:2]
    mean, var = np.zeros((N, groups), x.dtype), np.zeros((N, groups), x.dtype)
    y = _run_forward(x, (N, x.size // max(1, N * C)), weight, bias, eps, False, mean, var)
    return y, mean, var


def group_norm_backward(
    gy: np.ndarray, x: np.ndarray, mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, eps: float, needs: Needs
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """gx, gw, gb."""
    N, C = x.shape[:2]
    return _run_backward(gy, x, (N, x.size // max(1, N * C)), mean, var, weight, eps, False, needs)
