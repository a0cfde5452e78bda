"""Batch normalisation: each channel to mean 0 and variance 1 over the batch; and what all normalisations check alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, number, real_tensor, same_dtype, tensor
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["batch_norm", "batch_norm_relu"]


# ---------------------------------------------------------------- arguments


def images(op: str, x: Any, axes: int) -> Tensor:
    """x with at least ``axes`` axes, channels on axis 1."""
    x = real_tensor(op, x, "x")
    if x.ndim < axes:
        raise ShapeError.of(op, f"x of shape (N, C{', d1' if axes > 2 else ''}, ...)", f"shape {x.shape}")
    return x


def vector(op: str, name: str, value: Any, shape: tuple[int, ...], meaning: str) -> Tensor | None:
    """An optional tensor of the given shape."""
    if value is None:
        return None
    value = tensor(op, value, name)
    if value.shape != shape:
        raise ShapeError.of(op, f"{name} of shape {shape}, {meaning}", f"shape {value.shape}")
    return value


def per_channel(op: str, x: Tensor, **values: Any) -> list[Tensor | None]:
    """Weight, bias and running statistics: (C,) each, of x's dtype."""
    vectors = [vector(op, name, value, x.shape[1:2], "one value per channel") for name, value in values.items()]
    same_dtype(op, x=x, **dict(zip(values, vectors)))
    return vectors


def check_running(op: str, running_mean: Any, running_var: Any, written: bool) -> None:
    """Both statistics or none; those that will be written to must be tensors, or the update would be lost."""
    if (running_mean is None) != (running_var is None):
        raise ArgumentError.of(op, "both running_mean and running_var, or neither", "one of them")
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if written and value is not None and not isinstance(value, Tensor):
            raise DtypeError.of(op, f"{name} as a tensor, which is updated in place", describe(value))
        if isinstance(value, Tensor) and value.requires_grad:
            raise GraphError.of(op, f"{name} without a gradient", "a tensor that requires one", f"Pass {name}.detach().")


def update_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Array, var: Array, momentum: float, n: int
) -> None:
    """running = (1 - momentum) * running + momentum * batch, where the batch's variance is that divided by n - 1."""
    if running_mean is None or running_var is None:
        return
    rooms = running_mean._room(), running_var._room()
    old, correction = (running_mean._array, running_var._array), n / (n - 1)
    kernels_for(mean).update_moments(*old, mean, var, momentum, correction, *rooms)
    running_mean._array, running_var._array = rooms


def normalised(x: np.ndarray, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> np.ndarray:
    """The formula with everything broadcast by hand."""
    xhat = (x - mean) * (var + eps) ** -0.5
    return xhat * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def column(p: Any, x: np.ndarray) -> Any:
    """A (C,) array as (C, 1, ...)."""
    return None if p is None else np.asarray(p).reshape(-1, *(1,) * (x.ndim - 2))


# ---------------------------------------------------------------- batch norm


class BatchNorm(Function):
    """Normalise each channel over the batch, or with given statistics; then add a residual, then apply ReLU, if asked to."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        running_mean: Array | None,
        running_var: Array | None,
        weight: Array | None,
        bias: Array | None,
        residual: Array | None = None,
        training: bool = False,
        eps: float = 0.0,
        relu: bool = False,
    ) -> tuple:
        given = (None, None) if training else (running_mean, running_var)
        y, mean, var = kernels_for(x).batch_norm_forward(x, weight, bias, eps, *given, relu=relu, residual=residual)
        ctx.eps, ctx.given, ctx.relu = eps, not training, relu
        alone = residual is None  # then backward computes y again rather than keep it
        ctx.save(x, mean, var, weight, bias if relu and alone else None, None if alone else y)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, mean, var, weight, bias, y = ctx.saved
        needs = ctx.needs[0], ctx.needs[3], ctx.needs[4]
        gx, gw, gb, gr = kernels_for(x).batch_norm_backward(
            gy, x, mean, var, weight, ctx.eps, ctx.given, needs, relu=ctx.relu, bias=bias, y=y
        )
        return gx, None, None, gw, gb, gr if ctx.needs[5] else None


class BatchNormRelu(BatchNorm):
    """Batch norm with ``relu``, which costs nothing: it is applied to what is written anyway."""


def _batch_samples(draw: Draw) -> list[Sample]:
    stats = draw.normal(3), draw.positive(3)
    return [
        Sample(draw.normal(5, 3), None, None, draw.positive(3), draw.normal(3), True, name="features"),
        Sample(draw.normal(2, 3, 4, 3), None, None, draw.positive(3), draw.normal(3), training=True, name="images"),
        Sample(draw.normal(2, 3, 5), training=True, eps=0.1, name="no weight"),
        Sample(draw.normal(4, 3), None, None, None, draw.normal(3), training=True, name="bias only"),
        Sample(draw.normal(2, 3, 2, 2), *stats, draw.positive(3), draw.normal(3), grad=(0, 3, 4), name="running"),
        Sample(draw.normal(2, 3), *stats, draw.positive(3), None, False, 0.3, 1e-3, grad=(0, 3), name="running arguments"),
        Sample(draw.normal(1, 1), draw.normal(1), draw.positive(1), grad=(0,), name="running, one value"),
        Sample(draw.normal(0, 3, 2, 2), None, None, draw.positive(3), training=True, name="empty"),
    ]


def batch_oracle(
    x: np.ndarray,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    if not x.size:
        return x
    mean, var = (rows.mean(1), rows.var(1)) if training else (running_mean, running_var)
    mean, var, weight, bias = (column(p, x) for p in (mean, var, weight, bias))
    return normalised(x, mean, var, weight, bias, eps)


@op(
    samples=_batch_samples,
    oracle=batch_oracle,
    flops=lambda y, x, *vectors, training, eps: (8 if training else 3) * x.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"x of shape \(N, C, ...\), got shape \(3,\)", np.ones(3), training=True),
        ErrorSample(DtypeError, "x of float32 or float64, got int64", np.ones((3, 2), int), training=True),
        ErrorSample(
            ShapeError,
            r"weight of shape \(3,\), one value per channel, got shape \(4,\)",
            draw.normal(5, 3),
            None,
            None,
            np.ones(4),
            training=True,
        ),
        ErrorSample(ShapeError, r"running_mean of shape \(3,\)", draw.normal(5, 3), np.zeros(2), np.ones(3)),
        ErrorSample(ArgumentError, "both running_mean and running_var, or neither", draw.normal(5, 3), np.zeros(3)),
        ErrorSample(ArgumentError, "running_mean and running_var when not training, got None", draw.normal(5, 3)),
        ErrorSample(DtypeError, "running_mean as a tensor", draw.normal(5, 3), [0.0] * 3, [1.0] * 3, training=True),
        ErrorSample(
            GraphError, "running_var without a gradient", draw.normal(5, 3), np.zeros(3), Tensor(np.ones(3), requires_grad=True)
        ),
        ErrorSample(DtypeError, "one dtype", draw.normal(5, 3), None, None, Tensor(np.ones(3, np.float32)), training=True),
        ErrorSample(
            ShapeError, r"more than one value per channel in training, got shape \(1, 3\)", np.ones((1, 3)), training=True
        ),
        ErrorSample(ArgumentError, "eps within 0 to inf, got -1", draw.normal(5, 3), training=True, eps=-1),
        ErrorSample(DtypeError, "momentum as a number, got None", draw.normal(5, 3), training=True, momentum=None),
    ],
)
def batch_norm(
    x: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel over the batch and all positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias. In training mean and var are those of the batch, var
        divided by n; otherwise the running ones. In training running = (1 - momentum) * running + momentum * batch,
        where running_var takes the variance divided by n - 1.
    Shape:
        x (N, C, ...); y the same; running_mean, running_var, weight, bias (C,) or None.
    Gradient:
        With xhat = (y - bias) / weight and g = dL/dy * weight, means over the n values of a channel:
        dL/dx = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps), and g / sqrt(var + eps) with running
        statistics; dL/dweight = sum of dL/dy * xhat, dL/dbias = sum of dL/dy.
    Notes:
        In training the running statistics are overwritten in place, which is why they must be tensors. An empty
        batch gives an empty result and leaves them as they are. NaN makes its whole channel NaN in training.
    Raises:
        ShapeError: one value per channel in training, which has no variance; vectors of another length than C.
        ArgumentError: running statistics missing when not training; negative eps.
        DtypeError: integer x, mixed dtypes, or running statistics in training that are no tensors.
        GraphError: running statistics that require a gradient.
    Source:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
        Shift", 2015.

    >>> import minidl as md
    >>> md.batch_norm(md.tensor([[0.0, 10.0], [2.0, 30.0]]), training=True).numpy().round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """
    return _batch_norm("batch_norm", x, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm(
    name: str,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float,
    eps: float,
    residual: Any = None,
) -> Tensor:
    """``batch_norm`` or ``batch_norm_relu``."""
    x = images(name, x, 2)
    residual = vector(name, "residual", residual, x.shape, "that of x")
    same_dtype(name, x=x, residual=residual)
    check_running(name, running_mean, running_var, training)
    if not training and running_mean is None:
        raise ArgumentError.of(name, "running_mean and running_var when not training", "None")
    vectors = per_channel(name, x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    eps, momentum = number(name, "eps", eps, low=0), number(name, "momentum", momentum)
    n = math.prod(x.shape[:1] + x.shape[2:])
    if training and n == 1:
        raise ShapeError.of(name, "more than one value per channel in training", f"shape {x.shape}", "Use a larger batch.")
    if name == "batch_norm":
        y, mean, var = BatchNorm.apply(x, *vectors, None, training=bool(training), eps=eps)
    else:
        y, mean, var = BatchNormRelu.apply(x, *vectors, residual, training=bool(training), eps=eps, relu=True)
    if training and n > 1:
        update_running(running_mean, running_var, mean._array, var._array, momentum, n)
    return y


def _batch_relu_samples(draw: Draw) -> list[Sample]:
    """Every channel has mean 0 and a small bias, so that y is away from 0, where ReLU has its kink."""

    def images(*shape: int) -> np.ndarray:
        half = draw.away(*shape, gap=0.5)
        return np.concatenate([half, -half])

    def bias() -> np.ndarray:
        return draw.uniform(3, low=-0.05, high=0.05)

    def added(name: str, shape: tuple[int, ...], training: bool, *stats: Any) -> Sample:
        residual = 20 * draw.away(*shape, gap=0.5)  # decides the sign of y
        vectors = draw.positive(3), draw.normal(3)
        return Sample(draw.normal(*shape), *stats, *vectors, training, 0.1, 1e-5, residual, grad=(0, 3, 4, 8), name=name)

    stats = bias(), draw.positive(3)
    return [
        Sample(images(3, 3), None, None, draw.positive(3), bias(), True, name="features"),
        Sample(images(1, 3, 4, 3), None, None, draw.positive(3), bias(), training=True, name="images"),
        Sample(images(2, 3, 5), training=True, eps=0.1, name="no weight"),
        Sample(images(1, 3, 2, 2), *stats, -draw.positive(3), bias(), grad=(0, 3, 4), name="running"),
        Sample(images(2, 3), *stats, draw.positive(3), None, False, 0.3, 1e-3, grad=(0, 3), name="running arguments"),
        Sample(draw.normal(0, 3, 2, 2), None, None, draw.positive(3), training=True, name="empty"),
        added("residual", (6, 3), True, None, None),
        added("residual images", (2, 3, 3, 5), True, None, None),
        added("residual, running", (2, 3, 2, 2), False, *stats),
    ]


def _batch_relu_oracle(x: np.ndarray, *args: Any, residual: Any = 0.0, **kwargs: Any) -> np.ndarray:
    plain, (residual, *_) = args[:7], (*args[7:], residual)
    return np.maximum(batch_oracle(x, *plain, **kwargs) + residual, 0)


@op(
    samples=_batch_relu_samples,
    oracle=_batch_relu_oracle,
    flops=lambda y, x, *vectors, training, eps, relu: (9 if training else 4) * x.size,
    errors=lambda draw: [
        ErrorSample(ShapeError, r"batch_norm_relu: expected x of shape \(N, C, ...\)", np.ones(3), training=True),
        ErrorSample(ShapeError, r"bias of shape \(3,\)", draw.normal(5, 3), None, None, None, np.ones(4), training=True),
        ErrorSample(ArgumentError, "running_mean and running_var when not training, got None", draw.normal(5, 3)),
        ErrorSample(DtypeError, "running_mean as a tensor", draw.normal(5, 3), [0.0] * 3, [1.0] * 3, training=True),
        ErrorSample(ArgumentError, "eps within 0 to inf, got -1", draw.normal(5, 3), training=True, eps=-1),
        ErrorSample(
            ShapeError,
            r"residual of shape \(5, 3\), that of x, got shape \(3,\)",
            draw.normal(5, 3),
            training=True,
            residual=np.ones(3),
        ),
        ErrorSample(DtypeError, "one dtype", draw.normal(5, 3), training=True, residual=Tensor(np.ones((5, 3), np.float32))),
    ],
)
def batch_norm_relu(
    x: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Any = None,
) -> Tensor:
    """Batch norm, the sum with a residual if there is one, and ReLU, in one pass over memory.

    Formula:
        y = max(batch_norm(x) + residual, 0)
    Shape:
        as for ``batch_norm``; residual as x, or None.
    Gradient:
        That of ``batch_norm``, of g = dL/dy where y > 0, else 0; dL/dresidual = g. Without a residual, whether y is
        above 0 is computed again from x, so that nothing but x is kept.
    Notes:
        As for ``batch_norm`` and ``relu``.
    Raises:
        ShapeError: as for ``batch_norm``; a residual of another shape than x.
        ArgumentError: as for ``batch_norm``.
        DtypeError: as for ``batch_norm``.
        GraphError: as for ``batch_norm``.

    >>> import minidl as md
    >>> md.batch_norm_relu(md.tensor([[0.0, 10.0], [2.0, 30.0]]), training=True).numpy().round(3)
    array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
    return _batch_norm("batch_norm_relu", x, running_mean, running_var, weight, bias, training, momentum, eps, residual)
