"""Normalisation of rows, as layer norm does to the features of a token: a single pixel, each group of channels by itself."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, share, threaded

__all__ = ["RUN", "backward_rows", "forward_rows"]

RUN = 32  # how many numbers are added up in the precision of x


@threaded
def forward_rows(x, weight, bias, eps, mean, var, y, part, parts):
    """x (B, G, C / G); fill y, and mean and var (B, G)."""
    if fork(part, parts):
        return
    first, last = share(x.shape[0], part, parts)
    x, mean, var, y = x[first:last], mean[first:last], var[first:last], y[first:last]
    (B, G, K), type_ = x.shape, x.dtype.type
    for i in range(B):
        for g in range(G):
            total = type_(0)
            for k in range(K):
                total += x[i, g, k] - x[i, g, 0]
            m = x[i, g, 0] + total / type_(K)
            total = type_(0)
            for k in range(K):
                total += (x[i, g, k] - m) * (x[i, g, k] - m)
            v = total / type_(K)
            istd = type_(1.0 / np.sqrt(v + eps))
            for k in range(K):
                y[i, g, k] = (x[i, g, k] - m) * istd * weight[g, k] + bias[g, k]
            mean[i, g], var[i, g] = m, v


@threaded
def backward_rows(gy, x, mean, var, weight, eps, want_gx, gx, gw, gb, part, parts):
    """Fill gx; gw[part] and gb[part] (float64) grow by the sums of RUN rows at a time."""
    if fork(part, parts):
        return
    first, last = share(x.shape[0], part, parts)
    gy, x, mean, var, gx = gy[first:last], x[first:last], mean[first:last], var[first:last], gx[first:last]
    (B, G, K), type_ = x.shape, x.dtype.type
    a, b = np.zeros((G, K), x.dtype), np.zeros((G, K), x.dtype)
    for i in range(B):
        for g in range(G):
            m, istd = mean[i, g], type_(1.0 / np.sqrt(np.float64(var[i, g]) + eps))
            of_g = of_gx = type_(0)  # means of gy * weight and of gy * weight * xhat
            for k in range(K):
                grad, xhat = gy[i, g, k], (x[i, g, k] - m) * istd
                a[g, k] += grad * xhat
                b[g, k] += grad
                of_g += grad * weight[g, k]
                of_gx += grad * weight[g, k] * xhat
            of_g, of_gx = of_g / type_(K), of_gx / type_(K)
            if want_gx:
                for k in range(K):
                    gx[i, g, k] = (gy[i, g, k] * weight[g, k] - of_g - (x[i, g, k] - m) * istd * of_gx) * istd
        if i % RUN == RUN - 1 or i == B - 1:
            for g in range(G):
                for k in range(K):
                    gw[part, g * K + k] += a[g, k]
                    gb[part, g * K + k] += b[g, k]
            a[:] = 0
            b[:] = 0
