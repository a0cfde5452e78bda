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

__all__ = ["linear", "linear_relu"]


def _rows(x: Array) -> Array:
    """x as a matrix: its last axis, and all others as one."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class Linear(Function):
    """y = x w^T + b, for the last axis of x."""

    @staticmethod
    def forward(ctx: Any, x: Array, w: Array, b: Array | None) -> Array:
        rows = _rows(x)
        ctx.shape = x.shape
        ctx.save(rows if ctx.needs[1] else None, w if ctx.needs[0] else None)
        y = kernels_for(x).linear_forward(rows, w, b)
        return y if rows is x else y.reshape(*x.shape[:-1], len(w))

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        rows, w = ctx.saved
        gx, gw, gb = kernels_for(gy).linear_backward(_rows(gy), rows, w, ctx.needs)
        return None if gx is None else gx.reshape(ctx.shape), gw, gb


class LinearRelu(Function):
    """y = max(x w^T + b, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Array, w: Array, b: Array | None) -> Array:
        rows = _rows(x)
        ctx.shape = x.shape
        y = kernels_for(x).linear_relu_forward(rows, w, b)
        ctx.save(rows if ctx.needs[1] else None, w if ctx.needs[0] else None, y)
        return y if rows is x else y.reshape(*x.shape[:-1], len(w))

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        rows, w, y = ctx.saved
        kernels = kernels_for(gy)
        gx, gw, gb = kernels.linear_backward(kernels.relu_backward(_rows(gy), y), rows, w, ctx.needs)
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


def _relu_samples(draw: Draw) -> list[Sample]:
    """With sums away from the kink of ReLU: every row of x has the sign of one of the outputs' weights, or the other one."""
    x, w, b = draw.positive(5, 3), draw.positive(4, 3), draw.uniform(4, low=-0.2, high=0.2)
    sign = np.array([1.0, -1.0, 1.0, -1.0])
    return [
        Sample(x, w * sign[:, None], b),
        Sample(x * -1, w * sign[:, None], name="no bias"),
        Sample(x[0], w * sign[:, None], b, name="vector"),
        Sample(x.reshape(5, 1, 3), w * sign[:, None], b, name="many axes"),
        Sample(x[:0], w, b, name="empty"),
    ]


def _checked(op: str, x: Any, weight: Any, bias: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors, of shapes that fit and one dtype."""
    x, weight = real_tensor(op, x, "x"), real_tensor(op, weight, "weight")
    shape, weight_shape = x.shape, weight.shape
    if len(weight_shape) != 2:
        raise ShapeError.of(op, "weight of shape (out, in)", f"shape {weight_shape}")
    out_features, in_features = weight_shape
    if not shape or shape[-1] != in_features:
        hint = f"Use in_features={shape[-1]}." if shape else ""
        raise ShapeError.of(op, f"x with {in_features} features (last axis)", f"shape {shape}", hint)
    if bias is not None:
        bias = real_tensor(op, bias, "bias")
        if bias.shape != (out_features,):
            raise ShapeError.of(op, f"bias of shape ({out_features},)", f"shape {bias.shape}")
    same_dtype(op, x=x, weight=weight, bias=bias)
    return x, weight, bias


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
    return Linear.apply(*_checked("linear", x, weight, bias))


@op(
    samples=_relu_samples,
    oracle=lambda x, weight, bias=None: np.maximum(_oracle(x, weight, bias), 0),
    flops=lambda y, x, w, b: 2 * y.size * w.shape[1] + (1 if b is None else 2) * y.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"linear_relu: expected x with 6 features", draw.normal(5, 3), draw.normal(4, 6)),
    ],
)
def linear_relu(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """Fully connected layer and ReLU in one step. ``nn.Sequential`` uses it where these layers follow each other.

    Formula:
        y = max(x weight^T + bias, 0)
    Shape:
        x (..., in), weight (out, in), bias (out,) or None; y (..., out).
    Gradient:
        That of ``linear``, of dL/dy where y > 0 and 0 elsewhere.
    Raises:
        ShapeError: the last axis of x is not weight's number of inputs; a bias of another length.
        DtypeError: integers, or float32 mixed with float64.

    >>> import minidl as md
    >>> md.linear_relu(md.tensor([[1.0, 2.0]]), md.tensor([[3.0, 4.0], [5.0, -6.0]]), md.tensor([0.5, 0.0]))
    tensor([[11.5,  0. ]])
    """
    return LinearRelu.apply(*_checked("linear_relu", x, weight, bias))
