"""Activation functions: the non-linear step between layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import float_tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.errors import DtypeError
from minidl.tensor import Tensor

__all__ = ["relu"]


class Relu(Function):
    """y = max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = kernels_for(x).relu_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).relu_backward(gy, y)


@op(
    samples=lambda draw: [Sample(draw.away(3, 4)), Sample(draw.away(2, 3, 4, 5)), Sample(draw.away(0, 3), name="empty")],
    oracle=lambda x: (np.abs(x) + x) / 2,
    flops=lambda y, x: y.size,
    methods=("relu",),
    errors=lambda draw: [ErrorSample(DtypeError, "relu: expected .* got list of str", ["a"])],
)
def relu(x: Any) -> Tensor:
    """Rectified linear unit.

    Formula:
        y = max(x, 0)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy where x > 0, else 0. At x = 0 the derivative does not exist; 0 is the choice
        made here (and in PyTorch).
    Notes:
        NaN stays NaN.
    Source:
        Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010.

    >>> import minidl as md
    >>> md.relu(md.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    return Relu.apply(float_tensor("relu", x))
