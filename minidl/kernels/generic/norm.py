"""Normalisation: xhat = (x - mean) / sqrt(var + eps), y = xhat * weight + bias.

``batch_norm`` takes mean and variance per channel over the whole batch, ``group_norm`` per sample over groups of
neighbouring channels; instance norm is group norm with one channel per group, layer norm is group norm with a
single group. x is (N, C, ...); weight and bias are (C,) or None; the variance is the biased one (divided by n).
Batch norm may add a residual to y, and apply ReLU to it.

Gradient, for n values that share a mean and a variance, with g = gy * weight:
gx = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps), gw = sum(gy * xhat), gb = sum(gy).
"""

from __future__ import annotations

import math

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.generic.activation import relu_backward, relu_forward

__all__ = ["batch_norm_backward", "batch_norm_forward", "group_norm_backward", "group_norm_forward", "update_moments"]

Needs = tuple[bool, bool, bool]  # whether the gradients of x, weight and bias are asked for


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance, in two passes and summed in float64, so that a large mean does no harm."""
    n = max(1, math.prod(x.shape[axis] for axis in axes))
    mean = (x.sum(axes, keepdims=True, dtype=np.float64) / n).astype(x.dtype)
    var = (((x - mean) ** 2).sum(axes, keepdims=True, dtype=np.float64) / n).astype(x.dtype)
    return mean, var


def _inverse_std(var: Array, eps: float) -> Array:
    return 1 / xp_of(var).sqrt(var + eps)


def _channels(p: Array, x: Array) -> Array:
    """A (C,) array as (1, C, 1, ...), to broadcast against x."""
    return p.reshape(1, -1, *(1,) * (x.ndim - 2))


def _affine(xhat: Array, weight: Array | None, bias: Array | None) -> Array:
    y = xhat if weight is None else xhat * _channels(weight, xhat)
    return y if bias is None else y + _channels(bias, y)


def _affine_grads(gy: Array, xhat: Array, needs: Needs) -> tuple[Array | None, Array | None]:
    """gw and gb."""
    axes = (0, *range(2, gy.ndim))
    return (gy * xhat).sum(axes) if needs[1] else None, gy.sum(axes) if needs[2] else None


def batch_norm_forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    mean: Array | None = None,
    var: Array | None = None,
    relu: bool = False,
    residual: Array | None = None,
) -> tuple[Array, Array, Array]:
    """y, and mean and variance (C,): those of the batch unless they are given; then the residual is added, then ReLU."""
    if mean is None:
        moments = _moments(x, (0, *range(2, x.ndim)))
        mean, var = (m.reshape(-1) for m in moments)
    xhat = (x - _channels(mean, x)) * _channels(_inverse_std(var, eps), x)
    y = _affine(xhat, weight, bias)
    if residual is not None:
        y = y + residual
    return relu_forward(y) if relu else y, mean, var


def update_moments(
    mean: Array,
    var: Array,
    batch_mean: Array,
    batch_var: Array,
    momentum: float,
    correction: float,
    new_mean: Array,
    new_var: Array,
) -> None:
    """new = (1 - momentum) * old + momentum * batch; the batch's variance, divided by n, is times correction = n / (n - 1)."""
    new_mean[...] = (1 - momentum) * mean + momentum * batch_mean
    new_var[...] = (1 - momentum) * var + momentum * (batch_var * correction)


def batch_norm_backward(
    gy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    eps: float,
    given: bool,
    needs: Needs,
    relu: bool = False,
    bias: Array | None = None,
    y: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """gx, gw, gb and the residual's gradient; mean and variance are constants when they were ``given``.

    Where ``relu`` passes gy is seen from y, which must be there if there was a residual, or else from the bias.
    """
    istd = _channels(_inverse_std(var, eps), x)
    xhat = (x - _channels(mean, x)) * istd
    if relu:
        gy = relu_backward(gy, _affine(xhat, weight, bias) if y is None else y)
    gx = None
    if needs[0]:
        g = gy if weight is None else gy * _channels(weight, x)
        if not given:
            axes = (0, *range(2, x.ndim))
            n = max(1, x.size // x.shape[1]) if x.size else 1
            g = g - g.sum(axes, keepdims=True) / n - xhat * ((g * xhat).sum(axes, keepdims=True) / n)
        gx = g * istd
    return gx, *_affine_grads(gy, xhat, needs), None if y is None else gy


def group_norm_forward(
    x: Array, groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """y, and mean and variance (N, groups)."""
    N, C = x.shape[:2]
    xg = x.reshape(N, groups, C // groups * math.prod(x.shape[2:]))
    mean, var = _moments(xg, (2,))
    xhat = ((xg - mean) * _inverse_std(var, eps)).reshape(x.shape)
    return _affine(xhat, weight, bias), mean[:, :, 0], var[:, :, 0]


def group_norm_backward(
    gy: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, needs: Needs
) -> tuple[Array | None, Array | None, Array | None]:
    """gx, gw, gb."""
    shape = (*mean.shape, x.size // max(1, mean.size))
    istd = _inverse_std(var, eps)[:, :, None]
    xhat = (x.reshape(shape) - mean[:, :, None]) * istd
    gx = None
    if needs[0]:
        n = max(1, shape[2])
        g = (gy if weight is None else gy * _channels(weight, x)).reshape(shape)
        g = g - g.sum(2, keepdims=True) / n - xhat * ((g * xhat).sum(2, keepdims=True) / n)
        gx = (g * istd).reshape(x.shape)
    return gx, *_affine_grads(gy, xhat.reshape(x.shape), needs)
