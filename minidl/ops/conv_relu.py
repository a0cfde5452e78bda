"""Convolution, ReLU and 2x2 max pooling in one step: what a network spends most of its time on."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import conv_size
from minidl.ops._arguments import integer
from minidl.ops._images import Pair, fits
from minidl.ops.conv import checked
from minidl.ops.shape import squeeze
from minidl.registry import OPS, Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["conv2d_relu"]


class Conv2dRelu(Function):
    """y = max(conv2d(x, w, b), 0), for pool = 2 the largest of each 2x2 window of that."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        w: Array,
        b: Array | None,
        stride: Pair,
        padding: tuple[Pair, Pair],
        dilation: Pair,
        groups: int,
        pool: int,
    ) -> Array:
        ctx.geometry = stride, padding, dilation, groups, pool
        kernels = kernels_for(x)
        x = kernels.images(x)
        y, kept = kernels.conv2d_relu_forward(x, w, b, *ctx.geometry)
        ctx.save(x if ctx.needs[1] else None, w, kept)
        ctx.size = x.shape[2:]
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, w, kept = ctx.saved
        size = _out_size(ctx.size, w.shape[2:], *ctx.geometry[:3])
        return kernels_for(gy).conv2d_relu_backward(gy, kept, x, w, ctx.size, size, *ctx.geometry, ctx.needs)


def _out_size(size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: tuple[Pair, Pair], dilation: Pair) -> Pair:
    """(OH, OW) before pooling."""
    return (
        conv_size(size[0], kernel[0], stride[0], padding[0], dilation[0]),
        conv_size(size[1], kernel[1], stride[1], padding[1], dilation[1]),
    )


def _oracle(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, pool=1):
    y = np.maximum(OPS["conv2d"].oracle(x, weight, bias, stride, padding, dilation, groups), 0)
    if pool == 2:
        pixels = [y[..., i : y.shape[-2] // 2 * 2 : 2, j : y.shape[-1] // 2 * 2 : 2] for i in (0, 1) for j in (0, 1)]
        y = np.max(pixels, 0)
    return y


def _samples(draw: Draw) -> list[Sample]:
    # Near 0, ReLU has a kink: what an input of the sample adds to y is far larger than the steps of the check.
    return [
        Sample(draw.normal(2, 3, 5, 4), draw.normal(4, 3, 3, 2), draw.normal(4)),
        Sample(draw.normal(2, 3, 5, 6), draw.normal(4, 3, 2, 3), draw.normal(4), pool=2, name="pool"),
        Sample(draw.normal(1, 2, 7, 7), draw.normal(3, 2, 3, 3), None, 1, 1, pool=2, name="pool, padding, odd size, no bias"),
        Sample(draw.normal(1, 2, 9, 8), draw.normal(3, 2, 3, 2), draw.normal(3), (2, 1), 1, (1, 2), pool=2, name="stride"),
        Sample(draw.normal(2, 4, 4, 4), draw.normal(6, 2, 3, 3), draw.normal(6), 1, 1, 1, 2, 2, name="pool, groups"),
        Sample(draw.normal(1, 3, 5, 5), draw.normal(3, 1, 3, 3), draw.normal(3), 1, 1, 1, 3, 2, name="pool, depthwise"),
        Sample(draw.normal(1, 3, 5, 5), draw.normal(3, 1, 3, 3), draw.normal(3), 2, 1, 1, 3, name="depthwise"),
        Sample(draw.normal(1, 2, 4, 5), draw.normal(2, 2, 2, 4), None, padding="same", name="same"),
        Sample(draw.normal(2, 4, 4), draw.normal(3, 2, 1, 1), draw.normal(3), pool=2, name="one image without a batch axis"),
        Sample(draw.normal(0, 2, 4, 4), draw.normal(3, 2, 2, 2), draw.normal(3), pool=2, name="empty batch"),
    ]


def _errors(draw: Draw) -> list[ErrorSample]:
    x, w = draw.normal(2, 3, 8, 8), draw.normal(8, 3, 3, 3)
    return [
        ErrorSample(ShapeError, r"conv2d_relu: expected x with C = 4 channels", x, draw.normal(8, 4, 3, 3)),
        ErrorSample(ArgumentError, "expected pool of 1 or 2, got 3", x, w, pool=3),
        ErrorSample(ArgumentError, "expected padding of at least 0, got -1", x, w, padding=-1),
        ErrorSample(
            ShapeError, r"conv2d_relu: expected a kernel no larger than the padded input \(1, 1\), got kernel \(2, 2\)",
            *(x, draw.normal(8, 3, 8, 8)), pool=2,
        ),
    ]  # fmt: skip


@op(
    samples=_samples,
    oracle=_oracle,
    flops=lambda y, x, w, b, pool, **geometry: pool * pool * y.size * (2 * w[0].size + (1 if b is None else 2)),
    errors=_errors,
)
def conv2d_relu(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    pool: int = 1,
) -> Tensor:
    """Convolution, ReLU and, if asked for, 2x2 max pooling, without writing to memory what lies between.

    ``nn.Sequential`` uses it where these layers follow each other.

    Formula:
        y = relu(conv2d(x, weight, bias)) for pool=1, max_pool2d(relu(conv2d(x, weight, bias)), 2) for pool=2.
    Shape:
        x (N, C, H, W) or (C, H, W), weight (O, C/groups, KH, KW), bias (O,); y (N, O, OH, OW) with OH and OW of ``conv2d``,
        halved (rounded down) by pooling.
    Gradient:
        Those of the three steps. Pooling gives the gradient to the largest value of a window, and ReLU takes it away
        again where that is not above 0; so it is enough to keep one small number per window, and neither the results of the
        convolution nor those of ReLU.
    Notes:
        A quarter of the memory, and none of the time that it takes to write and read what lies between: on a
        CPU about as much as the convolution itself.
    Raises:
        ArgumentError: pool other than 1 and 2; and what ``conv2d`` refuses.
        ShapeError: see ``conv2d``; and, with pool=2, results of the convolution below 2x2.
        DtypeError: integer images, or float32 mixed with float64.

    >>> import minidl as md
    >>> x = md.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]]])
    >>> difference = md.tensor([[[[-1.0, 1.0]]]])  # right pixel minus left pixel
    >>> md.conv2d_relu(x, difference)
    tensor([[[[1., 1.],
              [1., 4.]]]])
    >>> md.conv2d_relu(x, difference, pool=2)
    tensor([[[[4.]]]])
    """
    x, w, b, geometry, single = checked("conv2d_relu", x, weight, bias, stride, padding, dilation, groups)
    pool = integer("conv2d_relu", "pool", pool)
    if pool not in (1, 2):
        raise ArgumentError.of("conv2d_relu", "pool of 1 or 2", str(pool))
    if pool == 2:
        size = _out_size(x.shape[2:], w.shape[2:], geometry["stride"], geometry["padding"], geometry["dilation"])
        fits("conv2d_relu", size, (2, 2), ((0, 0), (0, 0)), (1, 1))
    y = Conv2dRelu.apply(x, w, b, **geometry, pool=pool)
    return squeeze(y, 0) if single else y
