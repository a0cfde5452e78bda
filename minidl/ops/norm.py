"""Normalisation of each sample: groups of channels, single channels, or all of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import integer, number, real_tensor, same_dtype
from minidl.ops.batch_norm import (
    BatchNorm,
    batch_oracle,
    check_running,
    column,
    images,
    normalised,
    per_channel,
    update_running,
    vector,
)
from minidl.registry import ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["group_norm", "instance_norm", "layer_norm"]

# ---------------------------------------------------------------- group norm and instance norm


class GroupNorm(Function):
    """Normalise each sample over groups of channels."""

    @staticmethod
    def forward(ctx: Any, x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float) -> tuple:
        y, mean, var = kernels_for(x).group_norm_forward(x, groups, weight, bias, eps)
        ctx.eps = eps
        ctx.save(x, mean, var, weight)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, mean, var, weight = ctx.saved
        return kernels_for(x).group_norm_backward(gy, x, mean, var, weight, ctx.eps, ctx.needs)


def _group_oracle(x: np.ndarray, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> np.ndarray:
    y = np.empty_like(x)
    size = x.shape[1] // num_groups
    for n in range(len(x)):
        for c in range(0, x.shape[1], size):
            part = x[n, c : c + size]
            y[n, c : c + size] = normalised(part, part.mean(), part.var(), None, None, eps)
    return normalised(y, 0.0, 1.0, column(weight, x), column(bias, x), 0.0)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 4, 3, 2), 2, draw.positive(4), draw.normal(4), name="images"),
        Sample(draw.normal(3, 6, 5), 3, eps=0.1, name="no weight"),
        Sample(draw.normal(3, 6), 1, draw.positive(6), name="one group"),
        Sample(draw.normal(2, 4, 3), 4, None, draw.normal(4), name="bias only"),
        Sample(draw.normal(0, 4, 3), 2, draw.positive(4), draw.normal(4), name="empty"),
    ],
    oracle=_group_oracle,
    flops=lambda y, x, *vectors, groups, eps: 8 * x.size,
    errors=lambda draw: [
        ErrorSample(ArgumentError, "num_groups that divides the 6 channels, got 4", draw.normal(2, 6, 3), 4),
        ErrorSample(ArgumentError, "num_groups of at least 1, got 0", draw.normal(2, 6, 3), 0),
        ErrorSample(ShapeError, r"x of shape \(N, C, ...\), got shape \(6,\)", draw.normal(6), 2),
        ErrorSample(
            ShapeError, r"bias of shape \(6,\), one value per channel, got shape \(3,\)", draw.normal(2, 6), 2, None, np.ones(3)
        ),
        ErrorSample(ShapeError, r"more than one value per group, got shape \(1, 3\)", np.ones((1, 3)), 3),
        ErrorSample(ArgumentError, "eps within 0 to inf", draw.normal(2, 6), 2, eps=-1e-5),
        ErrorSample(DtypeError, "x of float32 or float64", np.ones((2, 6), int), 2),
    ],
)
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalise each sample over groups of neighbouring channels and all positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the C/num_groups channels of a group
        and all positions, var divided by their number n
    Shape:
        x (N, C, ...), C a multiple of num_groups; y the same; weight, bias (C,) or None.
    Gradient:
        As for ``batch_norm``, the means running over a group.
    Notes:
        The same in training and evaluation, whatever the batch size. NaN makes its whole group NaN.
    Raises:
        ArgumentError: num_groups does not divide C; negative eps.
        ShapeError: vectors of another length than C; a single value, which has no variance.
        DtypeError: integer x, or float32 mixed with float64.
    Source:
        Wu and He, "Group Normalization", 2018.

    >>> import minidl as md
    >>> md.group_norm(md.tensor([[0.0, 2.0, 10.0, 30.0]]), 2).numpy().round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    name = "group_norm"
    x = images(name, x, 2)
    groups = integer(name, "num_groups", num_groups, minimum=1)
    if x.shape[1] % groups:
        raise ArgumentError.of(name, f"num_groups that divides the {x.shape[1]} channels", str(groups))
    weight, bias = per_channel(name, x, weight=weight, bias=bias)
    eps = number(name, "eps", eps, low=0)
    if x.size == groups:
        raise ShapeError.of(name, "more than one value per group", f"shape {x.shape} in {groups} groups")
    return GroupNorm.apply(x, weight, bias, groups=groups, eps=eps)[0]


class InstanceNorm(GroupNorm):
    """Group norm with one channel per group."""


def _instance_oracle(
    x: np.ndarray,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    if not use_input_stats:
        return batch_oracle(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return _group_oracle(x, x.shape[1], weight, bias, eps)


@op(
    samples=lambda draw: [
        Sample(draw.normal(2, 3, 4, 2), None, None, draw.positive(3), draw.normal(3), name="images"),
        Sample(draw.normal(2, 3, 5), eps=0.1, name="no weight"),
        Sample(
            draw.normal(2, 3, 2),
            draw.normal(3),
            draw.positive(3),
            draw.positive(3),
            draw.normal(3),
            False,
            grad=(0, 3, 4),
            name="running",
        ),
        Sample(draw.normal(0, 3, 4), None, None, draw.positive(3), draw.normal(3), name="empty"),
    ],
    oracle=_instance_oracle,
    flops=lambda y, x, *vectors, **params: 8 * x.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"x of shape \(N, C, d1, ...\), got shape \(2, 3\)", draw.normal(2, 3)),
        ErrorSample(ShapeError, r"more than one position per channel, got shape \(2, 3, 1\)", draw.normal(2, 3, 1)),
        ErrorSample(ShapeError, r"weight of shape \(3,\)", draw.normal(2, 3, 4), None, None, np.ones(2)),
        ErrorSample(
            ArgumentError,
            "running_mean and running_var when use_input_stats=False",
            draw.normal(2, 3, 4),
            use_input_stats=False,
        ),
        ErrorSample(ArgumentError, "both running_mean and running_var", draw.normal(2, 3, 4), None, np.ones(3)),
        ErrorSample(DtypeError, "running_mean as a tensor", draw.normal(2, 3, 4), [0.0] * 3, [1.0] * 3),
        ErrorSample(ArgumentError, "eps within 0 to inf", draw.normal(2, 3, 4), eps=-1),
    ],
)
def instance_norm(
    x: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample over its positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the positions of one channel of one
        sample, var divided by their number n; with use_input_stats=False the running ones. With use_input_stats
        running = (1 - momentum) * running + momentum * (average over the samples), running_var taking the variances
        divided by n - 1.
    Shape:
        x (N, C, d1, ...); y the same; running_mean, running_var, weight, bias (C,) or None.
    Gradient:
        As for ``batch_norm``, the means running over the positions.
    Notes:
        The running statistics are overwritten in place, which is why they must be tensors.
    Raises:
        ShapeError: a single position, which has no variance; vectors of another length than C.
        ArgumentError: running statistics missing for use_input_stats=False; negative eps.
        DtypeError: integer x, mixed dtypes, or running statistics to update that are no tensors.
        GraphError: running statistics that require a gradient.
    Source:
        Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016.

    >>> import minidl as md
    >>> md.instance_norm(md.tensor([[[0.0, 2.0], [10.0, 30.0]]])).numpy().round(3)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    name = "instance_norm"
    x = images(name, x, 3)
    check_running(name, running_mean, running_var, use_input_stats)
    if not use_input_stats and running_mean is None:
        raise ArgumentError.of(name, "running_mean and running_var when use_input_stats=False", "None")
    mean, var, weight, bias = per_channel(name, x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    eps, momentum = number(name, "eps", eps, low=0), number(name, "momentum", momentum)
    if not use_input_stats:
        return BatchNorm.apply(x, mean, var, weight, bias, None, training=False, eps=eps)[0]
    n = math.prod(x.shape[2:])
    if n == 1:
        raise ShapeError.of(name, "more than one position per channel", f"shape {x.shape}")
    y, means, variances = InstanceNorm.apply(x, weight, bias, groups=x.shape[1], eps=eps)
    if x.size:
        update_running(running_mean, running_var, means._array.mean(0), variances._array.mean(0), momentum, n)
    return y


# ---------------------------------------------------------------- layer norm


class LayerNorm(Function):
    """Normalise each sample over its last axes: group norm of its flattened values in a single group."""

    @staticmethod
    def forward(ctx: Any, x: Array, weight: Array | None, bias: Array | None, axes: int, eps: float) -> Array:
        size = math.prod(x.shape[x.ndim - axes :])
        rows = x.reshape(math.prod(x.shape[: x.ndim - axes]), size)
        weight, bias = (None if p is None else p.reshape(size) for p in (weight, bias))
        y, mean, var = kernels_for(x).group_norm_forward(rows, 1, weight, bias, eps)
        ctx.shape, ctx.inner, ctx.eps = x.shape, x.shape[x.ndim - axes :], eps
        ctx.save(rows, mean, var, weight)
        return y.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        rows, mean, var, weight = ctx.saved
        gy = gy.reshape(rows.shape)
        gx, gw, gb = kernels_for(rows).group_norm_backward(gy, rows, mean, var, weight, ctx.eps, ctx.needs)
        shapes = ctx.shape, ctx.inner, ctx.inner
        return tuple(None if g is None else g.reshape(shape) for g, shape in zip((gx, gw, gb), shapes))


def _layer_oracle(x: np.ndarray, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> np.ndarray:
    axes = tuple(range(x.ndim - np.size(normalized_shape), x.ndim))
    return normalised(x, x.mean(axes, keepdims=True), x.var(axes, keepdims=True), weight, bias, eps)


@op(
    samples=lambda draw: [
        Sample(draw.normal(4, 5), 5, draw.positive(5), draw.normal(5)),
        Sample(draw.normal(2, 3, 7), (7,), draw.positive(7), eps=0.1, name="sequence"),
        Sample(draw.normal(2, 3, 4), (3, 4), draw.positive(3, 4), draw.normal(3, 4), name="two axes"),
        Sample(draw.normal(2, 2, 3, 2), [2, 3, 2], None, draw.normal(2, 3, 2), name="bias only"),
        Sample(draw.normal(6), 6, draw.positive(6), draw.normal(6), name="vector"),
        Sample(draw.normal(0, 5), 5, draw.positive(5), draw.normal(5), name="empty"),
    ],
    oracle=_layer_oracle,
    flops=lambda y, x, *vectors, axes, eps: 8 * x.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"x whose last axes are normalized_shape \(4,\), got shape \(2, 5\)", draw.normal(2, 5), 4),
        ErrorSample(ShapeError, r"normalized_shape \(2, 5, 1\), got shape \(2, 5\)", draw.normal(2, 5), (2, 5, 1)),
        ErrorSample(ArgumentError, "normalized_shape with at least one axis", draw.normal(2, 5), ()),
        ErrorSample(DtypeError, "normalized_shape as an integer, got '5'", draw.normal(2, 5), "5"),
        ErrorSample(
            ShapeError, r"weight of shape \(5,\), that of normalized_shape, got shape \(2,\)", draw.normal(2, 5), 5, np.ones(2)
        ),
        ErrorSample(ArgumentError, "eps within 0 to inf", draw.normal(2, 5), 5, eps=-1),
        ErrorSample(DtypeError, "x of float32 or float64", np.ones((2, 5), int), 5),
    ],
)
def layer_norm(
    x: Any, normalized_shape: int | tuple[int, ...], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each sample over its last axes.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the axes of normalized_shape, var divided
        by their number of values n
    Shape:
        x (..., *normalized_shape); y the same; weight, bias of shape normalized_shape or None.
    Gradient:
        As for ``batch_norm``, the means running over the normalised axes; dL/dweight and dL/dbias are summed over
        the other axes.
    Notes:
        The same in training and evaluation. NaN makes its whole sample NaN.
    Raises:
        ShapeError: x does not end in normalized_shape; weight or bias of another shape.
        ArgumentError: negative eps.
        DtypeError: integer x, or float32 mixed with float64.
    Source:
        Ba, Kiros and Hinton, "Layer Normalization", 2016.

    >>> import minidl as md
    >>> md.layer_norm(md.tensor([[0.0, 2.0], [10.0, 30.0]]), 2).numpy().round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    name = "layer_norm"
    x = real_tensor(name, x, "x")
    sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    shape = tuple(integer(name, "normalized_shape", size, minimum=1) for size in sizes)
    if not shape:
        raise ArgumentError.of(name, "normalized_shape with at least one axis", "none")
    if x.shape[max(0, x.ndim - len(shape)) :] != shape:
        raise ShapeError.of(name, f"x whose last axes are normalized_shape {shape}", f"shape {x.shape}")
    weight = vector(name, "weight", weight, shape, "that of normalized_shape")
    bias = vector(name, "bias", bias, shape, "that of normalized_shape")
    same_dtype(name, x=x, weight=weight, bias=bias)
    return LayerNorm.apply(x, weight, bias, axes=len(shape), eps=number(name, "eps", eps, low=0))
