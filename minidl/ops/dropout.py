"""Dropout: in training, switch off a random part of the network in every step."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import number, real_tensor
from minidl.random import generator
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["dropout", "dropout2d"]

Rng = np.random.Generator | int | None


class Dropout(Function):
    """y = x * mask / (1 - p), with one random bit per element."""

    @staticmethod
    def forward(ctx: Any, x: Array, p: float, rng: np.random.Generator, mask_axes: int) -> Array:
        kernels = kernels_for(x)
        shape = x.shape[:mask_axes] + (1,) * (x.ndim - mask_axes)
        mask = kernels.dropout_mask(x, shape, p, rng)
        ctx.scale = 0.0 if p == 1 else 1 / (1 - p)
        ctx.save(mask)
        return kernels.dropout_apply(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (mask,) = ctx.saved
        return kernels_for(gy).dropout_apply(gy, mask, ctx.scale)


class Dropout2d(Dropout):
    """The same with one random bit per channel."""


def _oracle(x: np.ndarray, p: float = 0.5, training: bool = True, rng: Any = None) -> np.ndarray:
    """What the same seed keeps, scaled."""
    if not training or p == 0:
        return x
    keep = np.random.default_rng(rng).random(x.shape, dtype=np.float32) >= p
    return np.where(keep, x, 0) / (1 - p if p < 1 else 1)


def _oracle_2d(x: np.ndarray, p: float = 0.5, training: bool = True, rng: Any = None) -> np.ndarray:
    ones = np.ones((*x.shape[:2], *(1,) * (x.ndim - 2)))
    return x * _oracle(ones, p, training, rng)


def _samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(4, 5, 2), rng=1),
        Sample(draw.normal(4, 5, 2), 0.2, True, 2, name="arguments"),
        Sample(draw.normal(2, 3, 4, 4), 0.7, rng=3, name="images"),
        Sample(draw.normal(3, 4, 2), p=1, rng=4, name="all"),
        Sample(draw.normal(3, 4, 2), p=0.0, grad=(), name="nothing"),
        Sample(draw.normal(3, 4, 2), training=False, grad=(), name="evaluation"),
        Sample(draw.normal(0, 3, 2), rng=5, name="empty"),
    ]


def _errors(draw: Draw) -> list[ErrorSample]:
    x = draw.normal(2, 3, 4)
    return [
        ErrorSample(ArgumentError, "p within 0 to 1, got 1.5", x, 1.5),
        ErrorSample(ArgumentError, "p within 0 to 1, got -0.1", x, -0.1),
        ErrorSample(DtypeError, "p as a number, got None", x, None),
        ErrorSample(DtypeError, "rng: expected a numpy.random.Generator", x, rng="seed"),
        ErrorSample(DtypeError, "x of float32 or float64, got int64", np.ones((2, 3, 4), int)),
    ]


@op(samples=_samples, oracle=_oracle, flops=lambda y, x, **params: 2 * y.size, errors=_errors)
def dropout(x: Any, p: float = 0.5, training: bool = True, rng: Rng = None) -> Tensor:
    """Set each element to zero with probability p; scale the others so that the expected value stays.

    Formula:
        y = x * m / (1 - p) with m = 0 with probability p, else 1; y = x when not training
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * m / (1 - p)
    Notes:
        ``rng`` is a generator, a seed, or None for minidl's own generator (``manual_seed``). p=1 gives zeros.
    Raises:
        ArgumentError: p outside of [0, 1].
        DtypeError: integer x, or an rng of another kind.
    Source:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.

    >>> import minidl as md
    >>> md.dropout(md.ones(6), 0.5, rng=0)
    tensor([2., 2., 2., 0., 0., 0.])
    >>> md.dropout(md.ones(3), 0.5, training=False)
    tensor([1., 1., 1.])
    """
    x, p, rng = real_tensor("dropout", x), number("dropout", "p", p, 0, 1), generator(rng)
    if not training or p == 0:
        return x
    return Dropout.apply(x, p=p, rng=rng, mask_axes=x.ndim)


@op(
    samples=_samples,
    oracle=_oracle_2d,
    flops=lambda y, x, **params: 2 * y.size,
    errors=lambda draw: [
        *_errors(draw),
        ErrorSample(ShapeError, r"x of shape \(N, C, H, W\) or \(N, C, L\)", draw.normal(2, 3)),
    ],
)
def dropout2d(x: Any, p: float = 0.5, training: bool = True, rng: Rng = None) -> Tensor:
    """Set whole channels to zero with probability p: neighbouring pixels are too alike to be dropped one by one.

    Formula:
        y = x * m / (1 - p) with one m per sample and channel, 0 with probability p, else 1; y = x when not training
    Shape:
        x (N, C, H, W) or (N, C, L); y the same.
    Gradient:
        dL/dx = dL/dy * m / (1 - p)
    Notes:
        ``rng`` is a generator, a seed, or None for minidl's own generator (``manual_seed``).
    Raises:
        ArgumentError: p outside of [0, 1].
        ShapeError: fewer than three or more than four axes.
        DtypeError: integer x, or an rng of another kind.
    Source:
        Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015.

    >>> import minidl as md
    >>> md.dropout2d(md.ones(1, 5, 2), 0.5, rng=0)
    tensor([[[2., 2.],
             [2., 2.],
             [2., 2.],
             [0., 0.],
             [0., 0.]]])
    """
    x, p, rng = real_tensor("dropout2d", x), number("dropout2d", "p", p, 0, 1), generator(rng)
    if x.ndim not in (3, 4):
        raise ShapeError.of("dropout2d", "x of shape (N, C, H, W) or (N, C, L)", f"shape {x.shape}")
    if not training or p == 0:
        return x
    return Dropout2d.apply(x, p=p, rng=rng, mask_axes=2)
