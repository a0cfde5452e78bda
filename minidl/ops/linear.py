"""The fully connected layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import real_tensor, same_dtype
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["linear"]


class Linear(Function):
    """y = x w^T + b, for the last axis of x."""

    @staticmethod
    def forward(ctx: Any, x: Array, w: Array, b: Array | None) -> Array:
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        ctx.shape = x.shape
        ctx.save(rows if ctx.needs[1] else None, w if ctx.needs[0] else None)
        return kernels_for(x).linear_forward(rows, w, b).reshape(*x.shape[:-1], len(w))

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        rows, w = ctx.saved
        gy = gy.reshape(math.prod(gy.shape[:-1]), gy.shape[-1])
        gx, gw, gb = kernels_for(gy).linear_backward(gy, rows, w, ctx.needs)
        return None if gx is None else gx.reshape(ctx.shape), gw, gb


def _samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(5, 3), draw.normal(4, 3), draw.normal(4)),
        Sample(draw.normal(5, 3), draw.normal(4, 3), name="no bias"),
        Sample(draw.normal(3), draw.normal(4, 3), draw.normal(4), name="vector"),
        Sample(draw.normal(2, 3, 2, 4), draw.normal(2, 4), draw.normal(2), name="many axes"),
        Sample(draw.normal(0, 3), draw.normal(4, 3), draw.normal(4), name="empty"),
    ]


def _errors(draw: Draw) -> list[ErrorSample]:
    x, w = draw.normal(5, 3), draw.normal(4, 3)
    return [
        ErrorSample(
            ShapeError, r"x with 6 features \(last axis\), got shape \(5, 3\). Use in_features=3.", x, draw.normal(4, 6)
        ),
        ErrorSample(ShapeError, r"x with 3 features \(last axis\), got shape \(\)", draw.normal(), w),
        ErrorSample(ShapeError, r"weight of shape \(out, in\), got shape \(3,\)", x, draw.normal(3)),
        ErrorSample(ShapeError, r"bias of shape \(4,\), got shape \(3,\)", x, w, draw.normal(3)),
        ErrorSample(DtypeError, "x of float32 or float64, got int64", np.ones((5, 3), int), w),
        ErrorSample(DtypeError, "one dtype", x, Tensor(np.ones((4, 3), np.float32))),
    ]


def _oracle(x: np.ndarray, weight: np.ndarray, bias: Any = None) -> np.ndarray:
    y = (x[..., None, :] * weight).sum(-1)
    return y if bias is None else y + bias


@op(
    samples=_samples,
    oracle=_oracle,
    flops=lambda y, x, w, b: 2 * y.size * w.shape[1] + (0 if b is None else y.size),
    errors=_errors,
)
def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """Fully connected layer: every output is a weighted sum of all inputs.

    Formula:
        y = x weight^T + bias
    Shape:
        x (..., in), weight (out, in), bias (out,) or None; y (..., out).
    Gradient:
        dL/dx = dL/dy weight, dL/dweight = dL/dy^T x and dL/dbias = dL/dy, both summed over the leading axes.
    Raises:
        ShapeError: the last axis of x is not weight's number of inputs; a bias of another length.
        DtypeError: integers, or float32 mixed with float64.

    >>> import minidl as md
    >>> md.linear(md.tensor([[1.0, 2.0]]), md.tensor([[3.0, 4.0], [5.0, 6.0]]), md.tensor([0.5, 0.0]))
    tensor([[11.5, 17. ]])
    """
    x, weight = real_tensor("linear", x, "x"), real_tensor("linear", weight, "weight")
    if weight.ndim != 2:
        raise ShapeError.of("linear", "weight of shape (out, in)", f"shape {weight.shape}")
    out_features, in_features = weight.shape
    if x.ndim == 0 or x.shape[-1] != in_features:
        hint = f"Use in_features={x.shape[-1]}." if x.ndim else ""
        raise ShapeError.of("linear", f"x with {in_features} features (last axis)", f"shape {x.shape}", hint)
    if bias is not None:
        bias = real_tensor("linear", bias, "bias")
        if bias.shape != (out_features,):
            raise ShapeError.of("linear", f"bias of shape ({out_features},)", f"shape {bias.shape}")
    same_dtype("linear", x=x, weight=weight, bias=bias)
    return Linear.apply(x, weight, bias)
