"""Optimizer steps: p, and the running averages an optimizer keeps, are overwritten in place.

p is the parameter, g = dL/dp its gradient, which is only read. All arrays have one shape and one dtype;
the other arguments are Python numbers. ``weight_decay`` adds weight_decay * p to the gradient (the
derivative of an L2 penalty), ``maximize`` climbs instead of descending.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError

__all__ = ["adagrad_update", "adam_update", "rmsprop_update", "scaled", "sgd_update", "square_sums", "together"]


@contextmanager
def together(memory: dict[Any, Any], launch: bool = True) -> Iterator[None]:
    """Updates inside of the block may run at its end, as one; here each runs at once.

    ``memory``, which is the caller's, keeps what helps the next block. Without ``launch`` only the numbers of the
    updates change, for the replay of a CUDA graph, which there is none of here.

    Raises:
        ArgumentError: launch is False.
    """
    if not launch:
        raise ArgumentError.of(
            "advance", "parameters on a GPU, and its own kernels", "kernels that run at once", "Call step()."
        )
    yield


def _direction(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The gradient of what is to be minimised."""
    if maximize:
        g = -g
    return g + weight_decay * p if weight_decay != 0 else g


def _average(m: Array, g: Array, weight: float) -> None:
    """m = (1 - weight) * m + weight * g, reckoned from the end that lies nearer, so that weight 1 gives g itself."""
    if weight < 0.5:
        m += weight * (g - m)
    else:
        m[...] = g - (1 - weight) * (g - m)


@np.errstate(all="ignore")
def sgd_update(
    p: Array,
    g: Array,
    buffer: Array | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """b = momentum * b + (1 - dampening) * g; p -= lr * b, or lr * (g + momentum * b) with nesterov. No buffer: p -= lr * g."""
    g = _direction(p, g, weight_decay, maximize)
    if buffer is not None:
        buffer *= momentum
        buffer += (1 - dampening) * g
        g = g + momentum * buffer if nesterov else buffer
    p -= lr * g


@np.errstate(all="ignore")
def adam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    v_max: Array | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps), with m and v averages of g and g^2.

    ``v_max`` keeps the largest v so far and stands in for it (AMSGrad). ``decoupled`` shrinks p itself by
    lr * weight_decay instead of adding to the gradient (AdamW). ``step`` counts from 1.
    """
    xp = xp_of(p)
    g = _direction(p, g, 0.0 if decoupled else weight_decay, maximize)
    if decoupled:
        p *= 1 - lr * weight_decay
    _average(m, g, 1 - beta1)
    v *= beta2
    v += (1 - beta2) * g * g
    if v_max is not None:
        v_max[...] = v = xp.maximum(v_max, v)
    p -= lr / (1 - beta1**step) * m / (xp.sqrt(v) / math.sqrt(1 - beta2**step) + eps)


@np.errstate(all="ignore")
def rmsprop_update(
    p: Array,
    g: Array,
    square_average: Array,
    average: Array | None,
    buffer: Array | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
) -> None:
    """p -= lr * g / (sqrt(s) + eps), with s the running average of g^2; less the squared ``average`` of g, where one is given.

    With a buffer, b = momentum * b + g / (sqrt(s) + eps) and p -= lr * b.
    """
    xp = xp_of(p)
    g = _direction(p, g, weight_decay, maximize)
    square_average *= alpha
    square_average += (1 - alpha) * g * g
    s = square_average
    if average is not None:
        _average(average, g, 1 - alpha)
        s = s - average * average
    scaled = g / (xp.sqrt(s) + eps)
    if buffer is not None:
        buffer *= momentum
        buffer += scaled
        scaled = buffer
    p -= lr * scaled


@np.errstate(all="ignore")
def adagrad_update(p: Array, g: Array, total: Array, lr: float, eps: float, weight_decay: float, maximize: bool) -> None:
    """total += g^2; p -= lr * g / (sqrt(total) + eps)."""
    g = _direction(p, g, weight_decay, maximize)
    total += g * g
    p -= lr * g / (xp_of(p).sqrt(total) + eps)


@np.errstate(all="ignore")
def square_sums(arrays: list[Array]) -> Array:
    """The sum of x^2 over all elements of all arrays, of shape (); in float64, so that large float32 values do not overflow."""
    total = xp_of(arrays[0]).zeros(())
    for x in arrays:
        total += (x.astype(np.float64) ** 2).sum()
    return total


@np.errstate(all="ignore")
def scaled(arrays: list[Array], factor: Array) -> list[Array]:
    """x * factor for all arrays; factor is of shape ()."""
    return [x * factor.astype(x.dtype) for x in arrays]
