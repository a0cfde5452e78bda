"""Losses on numbers: how far predictions are from targets, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import number, real_tensor, same_dtype, tensor
from minidl.ops._losses import constant, reduce, reduced, reduction_word, spread
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "focal_loss",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
]


def _elementwise_weight(op: str, name: str, value: Any, x: Tensor) -> Tensor | None:
    """A weight that broadcasts to x's shape."""
    if value is None:
        return None
    weight = constant(op, name, value, x)
    try:
        fits = np.broadcast_shapes(weight.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError.of(op, f"{name} of a shape that broadcasts to {x.shape}", f"shape {weight.shape}")
    return weight


def _pair(op: str, x: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Prediction and target of one floating dtype and one shape; integer and boolean targets take x's dtype."""
    x = real_tensor(op, x, "x")
    target = tensor(op, target, "target")
    if target.dtype not in FLOATS:
        target = Tensor.wrap(target._array.astype(x.dtype))
    same_dtype(op, x=x, target=target)
    if x.shape != target.shape:
        hint = "They would only broadcast, which a loss is hardly ever meant to."
        if x.size == target.size:
            hint = f"Use target.reshape({', '.join(map(str, x.shape))})."
        elif "binary" in op and x.ndim == 2 and target.shape == x.shape[:1]:
            hint = f"For {x.shape[1]} classes use cross_entropy, for yes or no one output per example."
        raise ShapeError.of(op, f"target of x's shape {x.shape}", f"shape {target.shape}", hint)
    return x, target


# ---------------------------------------------------------------- regression


def _difference_samples(draw: Draw, gap: float, points: tuple[float, ...], **params: Any) -> list[Sample]:
    """Predictions whose distance to the target stays ``gap`` away from ``points``, where the loss has kinks."""

    def two(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        target = draw.normal(*shape)
        return np.asarray(target + draw.away(*shape, points=points, gap=gap, scale=3.0)), np.asarray(target)

    return [
        Sample(*two(4, 3)),
        Sample(*two(4, 3), reduction="sum", **params, name="sum"),
        Sample(*two(2, 3, 4), reduction="none", **params, name="none"),
        Sample(*two(4), **params, name="vector"),
        Sample(*two(), **params, name="number"),
        Sample(*two(0, 3), reduction="sum", name="empty"),
        Sample(*two(0, 3), grad=(), name="empty mean"),
    ]


def _pair_errors(draw: Draw) -> list[ErrorSample]:
    return [
        ErrorSample(
            ShapeError,
            r"target of x's shape \(4, 1\), got shape \(4,\).*target.reshape\(4, 1\)",
            np.full((4, 1), 0.5),
            np.zeros(4),
        ),
        ErrorSample(ShapeError, r"x's shape \(4, 3\), got shape \(3,\)", np.full((4, 3), 0.5), np.zeros(3)),
        ErrorSample(DtypeError, "x of float32 or float64, got int64", np.ones(3, int), np.zeros(3)),
        ErrorSample(
            DtypeError, "one dtype for all tensors, got x float64, target float32", np.ones(3), Tensor(np.zeros(3, np.float32))
        ),
        ErrorSample(
            ArgumentError, "reduction as one of 'none', 'mean', 'sum', got 'max'", np.ones(3), np.zeros(3), reduction="max"
        ),
        ErrorSample(DtypeError, "target as a tensor", np.ones(3), None),
    ]


def _both(ctx: Any, g: Array) -> tuple[Array | None, Array | None]:
    """The gradients of x and target from that of their difference."""
    return (g if ctx.needs[0] else None, -g if ctx.needs[1] else None)


class MseLoss(Function):
    """d^2."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, reduction: str) -> Array:
        d = x - target
        ctx.save(d)
        return reduce(ctx, kernels_for(x).mse_loss_forward(d), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        (d,) = ctx.saved
        return _both(ctx, kernels_for(gy).mse_loss_backward(spread(ctx, gy), d))


@op(
    samples=lambda draw: _difference_samples(draw, 0.0, ()),
    oracle=lambda x, target, reduction="mean": reduced((x - target) ** 2, reduction),
    flops=lambda y, x, target, **params: 3 * x.size,
    errors=_pair_errors,
)
def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Mean squared error.

    Formula:
        l = (x - target)^2
    Shape:
        x and target of one shape; the loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = 2 (x - target) / n for the mean over n elements, dL/dtarget = -dL/dx.
    Notes:
        Shapes that would only broadcast are refused: (N, 1) against (N,) would compare everything with
        everything. The mean of nothing is NaN.
    Raises:
        ShapeError: target of another shape.
        DtypeError: integer x, or float32 mixed with float64.
        ArgumentError: an unknown reduction.

    >>> import minidl as md
    >>> md.mse_loss(md.tensor([1.0, 2.0]), md.tensor([1.0, 4.0]))
    tensor(2.)
    """
    return MseLoss.apply(*_pair("mse_loss", x, target), reduction=reduction_word("mse_loss", reduction))


class L1Loss(Function):
    """|d|."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, reduction: str) -> Array:
        d = x - target
        ctx.save(d)
        return reduce(ctx, kernels_for(x).l1_loss_forward(d), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        (d,) = ctx.saved
        return _both(ctx, kernels_for(gy).l1_loss_backward(spread(ctx, gy), d))


@op(
    samples=lambda draw: _difference_samples(draw, 0.1, (0.0,)),
    oracle=lambda x, target, reduction="mean": reduced(np.maximum(x, target) - np.minimum(x, target), reduction),
    flops=lambda y, x, target, **params: 3 * x.size,
    errors=_pair_errors,
)
def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Mean absolute error.

    Formula:
        l = |x - target|
    Shape:
        x and target of one shape; the loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = sign(x - target) / n for the mean over n elements, dL/dtarget = -dL/dx. Where x equals the
        target the derivative does not exist; 0 is the choice made here (and in PyTorch).
    Notes:
        Shapes that would only broadcast are refused, as for ``mse_loss``. The mean of nothing is NaN.
    Raises:
        ShapeError: target of another shape.
        DtypeError: integer x, or float32 mixed with float64.
        ArgumentError: an unknown reduction.

    >>> import minidl as md
    >>> md.l1_loss(md.tensor([1.0, 2.0]), md.tensor([1.0, 4.0]))
    tensor(1.)
    """
    return L1Loss.apply(*_pair("l1_loss", x, target), reduction=reduction_word("l1_loss", reduction))


class SmoothL1Loss(Function):
    """d^2 / (2 beta) near 0, |d| - beta/2 further out."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, beta: float, reduction: str) -> Array:
        d = x - target
        ctx.beta = beta
        ctx.save(d)
        return reduce(ctx, kernels_for(x).smooth_l1_loss_forward(d, beta), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        (d,) = ctx.saved
        return _both(ctx, kernels_for(gy).smooth_l1_loss_backward(spread(ctx, gy), d, ctx.beta))


def _smooth_l1_oracle(x: np.ndarray, target: np.ndarray, reduction: str = "mean", beta: float = 1.0) -> np.ndarray:
    a = np.abs(x - target)
    return reduced(np.array([v * v / (2 * beta) if v < beta else v - beta / 2 for v in a.flat]).reshape(a.shape), reduction)


@op(
    samples=lambda draw: [
        *_difference_samples(draw, 0.1, (-1.0, 1.0)),
        Sample(draw.away(4, 3, points=(-0.5, 0.5)), np.zeros((4, 3)), grad=(0,), beta=0.5, name="beta"),
        Sample(draw.away(4, 3), np.zeros((4, 3)), grad=(0,), beta=0, name="beta 0"),
    ],
    oracle=_smooth_l1_oracle,
    flops=lambda y, x, target, **params: 5 * x.size,
    errors=lambda draw: [
        *_pair_errors(draw),
        ErrorSample(ArgumentError, "beta within 0 to inf, got -1", np.ones(3), np.zeros(3), beta=-1),
    ],
)
def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Absolute error with a round bottom: squared for small differences, so that the gradient fades out.

    Formula:
        l = (x - target)^2 / (2 beta) where |x - target| < beta, else |x - target| - beta/2
    Shape:
        x and target of one shape; the loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = (x - target) / beta / n near the target, sign(x - target) / n further out, for the mean over
        n elements; dL/dtarget = -dL/dx.
    Notes:
        beta=0 is ``l1_loss``; this is ``huber_loss`` divided by delta. Shapes that would only broadcast are refused.
    Raises:
        ShapeError: target of another shape.
        ArgumentError: negative beta, an unknown reduction.
        DtypeError: integer x, or float32 mixed with float64.
    Source:
        Girshick, "Fast R-CNN", 2015 (with beta=1).

    >>> import minidl as md
    >>> md.smooth_l1_loss(md.tensor([0.5, 3.0]), md.tensor([0.0, 0.0]), reduction="none")
    tensor([0.125, 2.5  ])
    """
    x, target = _pair("smooth_l1_loss", x, target)
    beta = number("smooth_l1_loss", "beta", beta, low=0)
    return SmoothL1Loss.apply(x, target, beta=beta, reduction=reduction_word("smooth_l1_loss", reduction))


class HuberLoss(Function):
    """d^2 / 2 near 0, delta (|d| - delta/2) further out."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, delta: float, reduction: str) -> Array:
        d = x - target
        ctx.delta = delta
        ctx.save(d)
        return reduce(ctx, kernels_for(x).huber_loss_forward(d, delta), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        (d,) = ctx.saved
        return _both(ctx, kernels_for(gy).huber_loss_backward(spread(ctx, gy), d, ctx.delta))


def _huber_oracle(x: np.ndarray, target: np.ndarray, reduction: str = "mean", delta: float = 1.0) -> np.ndarray:
    return delta * _smooth_l1_oracle(x, target, reduction, delta)


@op(
    samples=lambda draw: [
        *_difference_samples(draw, 0.1, (-1.0, 1.0)),
        Sample(draw.away(4, 3, points=(-0.5, 0.5)), np.zeros((4, 3)), grad=(0,), delta=0.5, name="delta"),
    ],
    oracle=_huber_oracle,
    flops=lambda y, x, target, **params: 5 * x.size,
    errors=lambda draw: [
        *_pair_errors(draw),
        ErrorSample(ArgumentError, "delta above 0, got 0", np.ones(3), np.zeros(3), delta=0),
    ],
)
def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Squared error that grows only linearly beyond delta, so that outliers do not dominate.

    Formula:
        l = (x - target)^2 / 2 where |x - target| <= delta, else delta (|x - target| - delta/2)
    Shape:
        x and target of one shape; the loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = (x - target) / n, cut off at -delta/n and delta/n, for the mean over n elements;
        dL/dtarget = -dL/dx.
    Notes:
        Shapes that would only broadcast are refused, as for ``mse_loss``.
    Raises:
        ShapeError: target of another shape.
        ArgumentError: delta of 0 or below, an unknown reduction.
        DtypeError: integer x, or float32 mixed with float64.
    Source:
        Huber, "Robust Estimation of a Location Parameter", 1964.

    >>> import minidl as md
    >>> md.huber_loss(md.tensor([0.5, 3.0]), md.tensor([0.0, 0.0]), reduction="none", delta=2.0)
    tensor([0.125, 4.   ])
    """
    x, target = _pair("huber_loss", x, target)
    delta = number("huber_loss", "delta", delta)
    if not delta > 0:
        raise ArgumentError.of("huber_loss", "delta above 0", str(delta))
    return HuberLoss.apply(x, target, delta=delta, reduction=reduction_word("huber_loss", reduction))


# ---------------------------------------------------------------- yes or no, element by element


def _weighted(values: Array, weight: Array | None) -> Array:
    return values if weight is None else values * weight


class BinaryCrossEntropy(Function):
    """-(t log x + (1 - t) log(1 - x)), times a weight."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, weight: Array | None, reduction: str) -> Array:
        ctx.save(x, target, weight)
        return reduce(ctx, _weighted(kernels_for(x).binary_cross_entropy_forward(x, target), weight), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, target, weight = ctx.saved
        g = _weighted(spread(ctx, gy), weight)
        return (*kernels_for(x).binary_cross_entropy_backward(g, x, target, ctx.needs[:2]), None)


def _binary_samples(draw: Draw, x: Any) -> list[Sample]:
    """Calls of the losses on yes-or-no targets; ``x(*shape)`` draws the predictions."""
    return [
        Sample(x(4, 3), draw.uniform(4, 3)),
        Sample(x(4, 3), draw.labels(4, 3, classes=2), name="integer targets"),
        Sample(x(4, 3), draw.uniform(4, 3), draw.positive(3), grad=(0, 1), reduction="sum", name="weight"),
        Sample(x(2, 3, 4), draw.uniform(2, 3, 4), weight=draw.positive(2, 1, 4), reduction="none", name="weight none"),
        Sample(x(), draw.uniform(), name="number"),
        Sample(x(0, 3), draw.uniform(0, 3), reduction="sum", name="empty"),
        Sample(x(0, 3), draw.uniform(0, 3), grad=(), name="empty mean"),
    ]


def _weight_errors(draw: Draw) -> list[ErrorSample]:
    half = np.full((4, 3), 0.5)
    return [
        *_pair_errors(draw),
        ErrorSample(ShapeError, r"weight of a shape that broadcasts to \(4, 3\), got shape \(4,\)", half, half, np.ones(4)),
        ErrorSample(ShapeError, r"weight of a shape that broadcasts to \(3,\), got shape \(4, 3\)", half[0], half[0], half),
    ]


def _check_probabilities(op: str, name: str, p: Tensor, hint: str) -> None:
    """Refuse values outside of [0, 1]; NaN passes. Not on the GPU: to look at them would mean to wait for it."""
    if isinstance(p._array, np.ndarray) and (bad := (p._array < 0) | (p._array > 1)).any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ArgumentError.of(op, f"{name} of probabilities from 0 to 1", f"{float(p._array[where])} at index {where}", hint)


def _bce_oracle(x: np.ndarray, target: np.ndarray, weight: Any = None, reduction: str = "mean") -> np.ndarray:
    values = -np.log(x**target * (1 - x) ** (1 - target))
    return reduced(values * (1.0 if weight is None else weight), reduction)


@op(
    samples=lambda draw: _binary_samples(draw, lambda *shape: draw.uniform(*shape, low=0.05, high=0.95)),
    oracle=_bce_oracle,
    flops=lambda y, x, target, weight, **params: 8 * x.size,
    errors=lambda draw: [
        *_weight_errors(draw),
        ErrorSample(
            ArgumentError, r"probabilities from 0 to 1, got 1.5 at index \(1,\).*with_logits", np.array([0.5, 1.5]), np.ones(2)
        ),
        ErrorSample(
            ArgumentError, r"x of probabilities from 0 to 1, got -0.5 at index \(0,\)", np.array([-0.5, 0.5]), np.ones(2)
        ),
        ErrorSample(ArgumentError, r"target of probabilities from 0 to 1, got 2.0 at index \(0,\)", np.ones(1), np.array([2])),
    ],
)
def binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
    """Cross-entropy of probabilities of "yes", element by element.

    Formula:
        l = -w (target log x + (1 - target) log(1 - x)), each logarithm at least -100
    Shape:
        x and target of one shape; weight broadcasts to it. The loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = w (x - target) / (x (1 - x)) / n for the mean over n elements, the denominator at least 1e-12;
        dL/dtarget = w (log(1 - x) - log x) / n. weight is a constant.
    Notes:
        ``binary_cross_entropy_with_logits`` does sigmoid and loss in one, without the loss of precision near 0
        and 1. NaN propagates. The mean of nothing is NaN.
    Raises:
        ArgumentError: x or target outside of [0, 1], an unknown reduction.
        ShapeError: target or weight of another shape.
        DtypeError: integer x, or float32 mixed with float64.
        GraphError: a weight that requires a gradient.

    >>> import minidl as md
    >>> md.binary_cross_entropy(md.tensor([0.8, 0.5]), md.tensor([1.0, 0.0]), reduction="none")
    tensor([0.2231, 0.6931])
    """
    name = "binary_cross_entropy"
    x, target = _pair(name, x, target)
    _check_probabilities(name, "x", x, "Apply sigmoid first, or use binary_cross_entropy_with_logits.")
    _check_probabilities(name, "target", target, "Scale the targets, for example to 0 and 1.")
    weight = _elementwise_weight(name, "weight", weight, x)
    return BinaryCrossEntropy.apply(x, target, weight, reduction=reduction_word(name, reduction))


class BinaryCrossEntropyWithLogits(Function):
    """Sigmoid and binary cross-entropy in one."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, weight: Array | None, pos_weight: Array | None, reduction: str) -> Array:
        pos = 1.0 if pos_weight is None else pos_weight
        ctx.save(x, target, weight, pos_weight)
        values = kernels_for(x).binary_cross_entropy_with_logits_forward(x, target, pos)
        return reduce(ctx, _weighted(values, weight), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, target, weight, pos_weight = ctx.saved
        g = _weighted(spread(ctx, gy), weight)
        pos = 1.0 if pos_weight is None else pos_weight
        return (*kernels_for(x).binary_cross_entropy_with_logits_backward(g, x, target, pos, ctx.needs[:2]), None, None)


def _bce_logits_oracle(
    x: np.ndarray, target: np.ndarray, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> np.ndarray:
    s = 1 / (1 + np.exp(-x))
    values = -(target * (1.0 if pos_weight is None else pos_weight) * np.log(s) + (1 - target) * np.log(1 - s))
    return reduced(values * (1.0 if weight is None else weight), reduction)


@op(
    samples=lambda draw: [
        *_binary_samples(draw, draw.normal),
        Sample(draw.normal(4, 3), draw.uniform(4, 3), pos_weight=draw.positive(3), name="pos_weight"),
        Sample(draw.normal(4, 3), draw.uniform(4, 3), draw.positive(4, 1), "none", 2.5, grad=(0, 1), name="both weights"),
    ],
    oracle=_bce_logits_oracle,
    flops=lambda y, x, target, weight, pos_weight, **params: 9 * x.size,
    errors=lambda draw: [
        *_weight_errors(draw),
        ErrorSample(
            ShapeError, r"pos_weight of a shape that broadcasts to \(3,\)", np.ones(3), np.ones(3), pos_weight=np.ones(2)
        ),
    ],
)
def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Sigmoid and binary cross-entropy in one, exact for scores of any size.

    Formula:
        l = -w (pos_weight target log s + (1 - target) log(1 - s)) with s = sigmoid(x), computed as
        (1 - target) x + (1 + (pos_weight - 1) target) log(1 + e^-x)
    Shape:
        x and target of one shape; weight and pos_weight broadcast to it. The loss is 0-d, with
        reduction="none" of that shape.
    Gradient:
        dL/dx = w ((1 - target) s - pos_weight target (1 - s)) / n for the mean over n elements, which is
        (s - target) / n without weights; dL/dtarget = w ((pos_weight - 1) log(1 + e^-x) - x) / n. weight and pos_weight
        are constants.
    Notes:
        NaN propagates. The mean of nothing is NaN.
    Raises:
        ShapeError: target or a weight of another shape.
        DtypeError: integer x, or float32 mixed with float64.
        GraphError: a weight that requires a gradient.
        ArgumentError: an unknown reduction.

    >>> import minidl as md
    >>> md.binary_cross_entropy_with_logits(md.tensor([0.0, 1000.0]), md.tensor([1.0, 0.0]), reduction="none")
    tensor([6.9315e-01, 1.0000e+03])
    """
    name = "binary_cross_entropy_with_logits"
    x, target = _pair(name, x, target)
    weight = _elementwise_weight(name, "weight", weight, x)
    pos_weight = _elementwise_weight(name, "pos_weight", pos_weight, x)
    return BinaryCrossEntropyWithLogits.apply(x, target, weight, pos_weight, reduction=reduction_word(name, reduction))


class FocalLoss(Function):
    """Binary cross-entropy that fades out where the answer is right already."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, alpha: float, gamma: float, reduction: str) -> Array:
        ctx.alpha, ctx.gamma = alpha, gamma
        ctx.save(x, target)
        return reduce(ctx, kernels_for(x).focal_loss_forward(x, target, alpha, gamma), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, target = ctx.saved
        return kernels_for(x).focal_loss_backward(spread(ctx, gy), x, target, ctx.alpha, ctx.gamma, ctx.needs)


def _focal_oracle(
    x: np.ndarray, target: np.ndarray, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> np.ndarray:
    s = 1 / (1 + np.exp(-x))
    right = s * target + (1 - s) * (1 - target)
    balance = 1.0 if alpha < 0 else alpha * target + (1 - alpha) * (1 - target)
    return reduced(balance * (1 - right) ** gamma * _bce_oracle(s, target, reduction="none"), reduction)


@op(
    samples=lambda draw: [
        Sample(draw.normal(4, 3), draw.uniform(4, 3)),
        Sample(draw.normal(4, 3), draw.labels(4, 3, classes=2), 0.4, 1.5, "sum", name="arguments"),
        Sample(draw.normal(2, 3), draw.uniform(2, 3), alpha=-1, gamma=0.5, reduction="none", name="no balance"),
        Sample(draw.normal(2, 3), draw.uniform(2, 3), alpha=0.5, gamma=0, name="gamma 0"),
        Sample(draw.normal(0, 3), draw.uniform(0, 3), reduction="sum", name="empty"),
        Sample(draw.normal(0, 3), draw.uniform(0, 3), grad=(), name="empty mean"),
    ],
    oracle=_focal_oracle,
    flops=lambda y, x, target, **params: 16 * x.size,
    errors=lambda draw: [
        *_pair_errors(draw),
        ErrorSample(ArgumentError, "gamma within 0 to inf, got -1", np.ones(3), np.zeros(3), gamma=-1),
        ErrorSample(ArgumentError, "alpha within -inf to 1, got 2", np.ones(3), np.zeros(3), alpha=2),
    ],
)
def focal_loss(x: Any, target: Any, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """Sigmoid focal loss: binary cross-entropy that counts answers less the more they are right already.

    Formula:
        l = b q^gamma e, with s = sigmoid(x), e the binary cross-entropy of s, q = s (1 - target) + (1 - s) target
        the probability of the wrong answer, and b = alpha target + (1 - alpha) (1 - target), or 1 for negative alpha
    Shape:
        x and target of one shape; the loss is 0-d, with reduction="none" of that shape.
    Gradient:
        dL/dx = b (q^gamma (s - target) + gamma q^(gamma-1) (1 - 2 target) s (1 - s) e) / n for the mean over n elements;
        dL/dtarget = (b (gamma q^(gamma-1) (1 - 2 s) e - q^gamma x) + (2 alpha - 1) q^gamma e) / n, without the last
        summand for negative alpha.
    Notes:
        gamma=0 and alpha=-1 give ``binary_cross_entropy_with_logits``. The formula is that of
        torchvision.ops.sigmoid_focal_loss, whose default reduction is "none". The mean of nothing is NaN.
    Raises:
        ShapeError: target of another shape.
        ArgumentError: negative gamma, alpha above 1, an unknown reduction.
        DtypeError: integer x, or float32 mixed with float64.
    Source:
        Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", 2017.

    >>> import minidl as md
    >>> md.focal_loss(md.tensor([0.0, 4.0]), md.tensor([1.0, 1.0]), reduction="none")
    tensor([4.3322e-02, 1.4679e-06])
    """
    x, target = _pair("focal_loss", x, target)
    alpha = number("focal_loss", "alpha", alpha, high=1)
    gamma = number("focal_loss", "gamma", gamma, low=0)
    return FocalLoss.apply(x, target, alpha=alpha, gamma=gamma, reduction=reduction_word("focal_loss", reduction))
