"""Losses on class labels: how surprised the network is by the right class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array, xp_of
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, integer, number, real_tensor, same_dtype, tensor
from minidl.ops._losses import constant, reduce, reduced, reduction_word, spread
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["cross_entropy", "nll_loss"]


def _rows(x: Array) -> Array:
    """(N, C, d1, ...) or (C,) as rows (M, C), a view when the classes are innermost in memory."""
    if x.ndim == 1:
        return x[None]
    return xp_of(x).moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _unrows(rows: Array, shape: tuple[int, ...]) -> Array:
    """Rows (M, C) as an array of ``shape``, (N, C, d1, ...) or (C,)."""
    if len(shape) == 1:
        return rows.reshape(shape)
    return xp_of(rows).moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def _scores(op: str, x: Any) -> tuple[Tensor, int, tuple[int, ...]]:
    """The class scores, the number of classes and the shape that labels must have."""
    x = real_tensor(op, x, "x", "Class scores are real numbers: convert with .astype('float32').")
    shape = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    classes = x.shape[1] if x.ndim > 1 else (x.size if x.ndim else 0)
    if classes == 0:
        raise ShapeError.of(op, "x of shape (N, C), (N, C, d1, ...) or (C,) with at least one class", f"shape {x.shape}")
    return x, classes, shape


def _labels(op: str, target: Tensor, classes: int, shape: tuple[int, ...], ignore_index: int) -> Tensor:
    """Class indices as int64, each within range; on a GPU, where to look at them would mean to wait, kernels check them."""
    if target.dtype.kind not in "iu":
        raise DtypeError.of(op, "target of integer class indices", describe(target), "Convert with .astype('int64').")
    if target.shape != shape:
        fits = target.size == math.prod(shape)
        hint = f"Use target.reshape({', '.join(map(str, shape))})." if fits and shape else ""
        if len(shape) == target.ndim == 1:
            hint = f"Scores of {shape[0]} examples meet labels of {target.size}: are both from one batch?"
        if len(shape) > 1 and target.shape == shape[:1]:
            hint = "For one label per image the scores must be (N, C): pool and flatten before the last layer."
        raise ShapeError.of(op, f"target of shape {shape}, one label per row of classes", f"shape {target.shape}", hint)
    t = target._array.astype(np.int64, copy=False)
    if isinstance(t, np.ndarray) and (bad := ((t < 0) | (t >= classes)) & (t != ignore_index)).any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        expected = f"labels from 0 to {classes - 1} (or ignore_index={ignore_index})"
        hint = f"The largest label is {int(t.max())}: give the last layer {int(t.max()) + 1} outputs, or count labels from 0."
        if classes == 1:
            hint = "For yes or no from one output use binary_cross_entropy_with_logits."
        elif t[where] < 0:
            hint = f"To leave such examples out, pass ignore_index={int(t[where])}."
        raise ArgumentError.of(op, expected, f"{int(t[where])} at index {where}", hint)
    return Tensor.wrap(t)


def _class_weight(op: str, weight: Any, x: Tensor, classes: int) -> Tensor | None:
    """One weight per class."""
    if weight is None:
        return None
    weight = constant(op, "weight", weight, x)
    if weight.shape != (classes,):
        raise ShapeError.of(op, f"weight of shape ({classes},), one per class", f"shape {weight.shape}")
    return weight


def _weight_or_ones(x: Array, weight: Array | None, classes: int) -> Array:
    return xp_of(x).ones(classes, x.dtype) if weight is None else weight


def _row_gradients(ctx: Any, gy: Array, rows: int) -> Array:
    """dL/d(value) for each row, (M,)."""
    g = spread(ctx, gy).reshape(-1)
    return g if len(g) == rows else xp_of(gy).full(rows, g[0], gy.dtype)


def _classification_samples(draw: Draw) -> list[Sample]:
    """Calls with class indices that cross_entropy and nll_loss have in common."""
    mixed = np.array([2, -100, 0, 1])
    return [
        Sample(draw.normal(4, 3), draw.labels(4, classes=3)),
        Sample(draw.normal(4, 3), draw.labels(4, classes=3), draw.positive(3), grad=(0,), reduction="sum", name="weight sum"),
        Sample(draw.normal(4, 3), mixed, weight=draw.positive(3), name="weight ignore"),
        Sample(draw.normal(4, 3), np.array([2, 1, 0, 1]), ignore_index=1, reduction="none", name="ignore none"),
        Sample(draw.normal(2, 3, 2, 4), draw.labels(2, 2, 4, classes=3), name="pixels"),
        Sample(draw.normal(2, 3, 4), draw.labels(2, 4, classes=3), weight=draw.positive(3), reduction="none", name="positions"),
        Sample(draw.normal(5), np.array(3), name="one sample"),
        Sample(draw.normal(0, 3), draw.labels(0, classes=3), reduction="sum", name="empty"),
        Sample(draw.normal(0, 3), draw.labels(0, classes=3), grad=(), name="empty mean"),
    ]


def _classification_errors(draw: Draw) -> list[ErrorSample]:
    x, t = draw.normal(4, 3), np.array([0, 2, 1, 0])
    return [
        ErrorSample(
            ArgumentError, r"labels from 0 to 2 \(or ignore_index=-100\), got 3 at index \(2,\)", x, np.array([0, 1, 3, 4])
        ),
        ErrorSample(ArgumentError, r"got -1 at index \(0,\)", x, np.array([-1, 1, 0, 0])),
        ErrorSample(ArgumentError, r"got -100 at index \(0,\)", x, np.array([-100, 1, 0, 0]), ignore_index=-1),
        ErrorSample(DtypeError, r"integer class indices.* got float64 of shape \(4,\).*astype\('int64'\)", x, t * 1.0),
        ErrorSample(DtypeError, "x of float32 or float64, got int64", np.ones((4, 3), int), t),
        ErrorSample(ShapeError, r"target of shape \(4,\), .* got shape \(5,\)", x, np.zeros(5, int)),
        ErrorSample(ShapeError, r"target of shape \(2, 5\)", draw.normal(2, 3, 5), np.zeros((2, 3), int)),
        ErrorSample(ShapeError, "at least one class", draw.normal(4, 0), t),
        ErrorSample(ShapeError, "at least one class", draw.normal(), t),
        ErrorSample(ShapeError, r"weight of shape \(3,\), one per class, got shape \(4,\)", x, t, np.ones(4)),
        ErrorSample(GraphError, r"weight as a constant, .* Pass weight.detach", x, t, Tensor(np.ones(3), requires_grad=True)),
        ErrorSample(ArgumentError, "reduction as one of 'none', 'mean', 'sum', got 'avg'", x, t, reduction="avg"),
        ErrorSample(DtypeError, "ignore_index as an integer, got 0.5", x, t, ignore_index=0.5),
        ErrorSample(DtypeError, "target as a tensor", x, "cat"),
    ]


def _nll_oracle(
    x: np.ndarray, target: np.ndarray, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> np.ndarray:
    """One label after the other."""
    x = x if x.ndim > 1 else x[None]
    values, weights = np.zeros(x.shape[:1] + x.shape[2:]), 0.0
    for place in np.ndindex(values.shape):
        label = target.reshape(values.shape)[place]
        if label != ignore_index:
            w = 1.0 if weight is None else weight[label]
            weights += w
            values[place] = -w * x[(place[0], label, *place[1:])]
    return reduced(values.reshape(target.shape), reduction, weights)


def _cross_entropy_oracle(
    x: np.ndarray,
    target: np.ndarray,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> np.ndarray:
    """-sum of q log p with the smoothed target distribution q; the mean over the weights of the labels or over the rows."""
    axis = 1 if x.ndim > 1 else 0
    classes = x.shape[axis]
    log_p = np.log(np.exp(x) / np.exp(x).sum(axis, keepdims=True))
    w = np.ones(classes) if weight is None else np.asarray(weight)
    if target.dtype.kind == "f":
        q, total = np.moveaxis(target, axis, -1), None
        kept = np.ones(q.shape[:-1])
    else:
        kept = target != ignore_index
        label = np.where(kept, target, 0)
        q, total = np.eye(classes)[label], np.sum(w[label] * kept)
        q = (1 - label_smoothing) * q * w[label][..., None] + label_smoothing / classes * w
        return reduced(-(q * np.moveaxis(log_p, axis, -1)).sum(-1) * kept, reduction, total)
    q = ((1 - label_smoothing) * q + label_smoothing / classes) * w
    return reduced(-(q * np.moveaxis(log_p, axis, -1)).sum(-1), reduction, total)


class CrossEntropy(Function):
    """Softmax and negative log-likelihood of class indices in one kernel."""

    @staticmethod
    def forward(
        ctx: Any, x: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float, reduction: str
    ) -> Array:
        rows, labels = _rows(x), target.reshape(-1)
        weight = _weight_or_ones(x, weight, rows.shape[1])
        values, peak, log_sum = kernels_for(x).cross_entropy_forward(rows, labels, weight, ignore_index, label_smoothing)
        ctx.shape, ctx.params = x.shape, (ignore_index, label_smoothing)
        ctx.save(rows, peak, log_sum, labels, weight)
        total = _label_weight(labels, weight, ignore_index) if reduction == "mean" else None
        return reduce(ctx, values.reshape(target.shape), reduction, total)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        rows, peak, log_sum, labels, weight = ctx.saved
        g = _row_gradients(ctx, gy, len(rows))
        gx = kernels_for(rows).cross_entropy_backward(g, rows, peak, log_sum, labels, weight, *ctx.params)
        return _unrows(gx, ctx.shape), None, None


def _label_weight(labels: Array, weight: Array, ignore_index: int) -> Array:
    """The sum of the weights of the labels that count: what the mean divides by."""
    xp, kept = xp_of(labels), labels != ignore_index
    return xp.where(kept, weight[xp.where(kept, labels, 0)], 0).sum()  # a selection by ``kept`` would wait for the GPU


class CrossEntropyProbabilities(Function):
    """Softmax and cross-entropy with a probability for every class."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, weight: Array | None, label_smoothing: float, reduction: str) -> Array:
        rows = _rows(x)
        weight = _weight_or_ones(x, weight, rows.shape[1])
        values, log_p, q = kernels_for(x).cross_entropy_probabilities_forward(rows, _rows(target), weight, label_smoothing)
        ctx.shape, ctx.label_smoothing = x.shape, label_smoothing
        ctx.save(log_p, q if ctx.needs[0] else None, weight if ctx.needs[1] else None)
        return reduce(ctx, values.reshape(x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()), reduction)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        log_p, q, weight = ctx.saved
        g = _row_gradients(ctx, gy, len(log_p))
        gx = gt = None
        if ctx.needs[0]:
            gx = _unrows(kernels_for(g).cross_entropy_probabilities_backward(g, log_p, q), ctx.shape)
        if ctx.needs[1]:
            gt = _unrows(g[:, None] * (ctx.label_smoothing - 1) * weight * log_p, ctx.shape)
        return gx, gt, None


CrossEntropyProbabilities.name = CrossEntropy.name  # one operation for profiles and messages, whatever the targets are


@op(
    samples=lambda draw: [
        *_classification_samples(draw),
        Sample(draw.normal(4, 3), draw.labels(4, classes=3), label_smoothing=0.2, name="smoothing"),
        Sample(
            draw.normal(2, 3, 4),
            np.array([[0, 2, -100, 1], [1, 1, 0, -100]]),
            weight=draw.positive(3),
            label_smoothing=0.1,
            name="weight smoothing ignore",
        ),
        Sample(draw.normal(3, 21), draw.labels(3, classes=21), reduction="none", name="longer rows"),
        Sample(draw.normal(4, 3), draw.probabilities(4, 3), name="probabilities"),
        Sample(
            draw.normal(2, 3, 4),
            draw.probabilities(2, 3, 4),
            weight=draw.positive(3),
            label_smoothing=0.3,
            reduction="sum",
            name="probabilities weight smoothing",
        ),
        Sample(draw.normal(2, 3, 2), draw.probabilities(2, 3, 2), reduction="none", name="probabilities none"),
        Sample(draw.normal(5), draw.probabilities(5, axis=0), name="one sample probabilities"),
    ],
    oracle=_cross_entropy_oracle,
    flops=lambda y, x, target, weight, **params: 4 * x.size,
    errors=lambda draw: [
        *_classification_errors(draw),
        ErrorSample(
            ArgumentError,
            "label_smoothing within 0.0 to 1.0, got 1.5",
            draw.normal(2, 3),
            np.zeros(2, int),
            label_smoothing=1.5,
        ),
        ErrorSample(
            ShapeError,
            r"integer labels of shape \(4,\) or probabilities of shape \(4, 3\)",
            draw.normal(4, 3),
            draw.normal(4, 2),
        ),
        ErrorSample(ShapeError, r"one-hot", draw.normal(4, 3), np.zeros((4, 3), int)),
    ],
)
def cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between class scores (logits) and labels: how surprised softmax(x) is by the target.

    Formula:
        l = -sum over c of y_c log p_c with p = softmax(x); for a class index t: l = -log p_t.
        Worked example: y = [1, 0], p = [0.8, 0.2] gives l = -(1 log 0.8 + 0 log 0.2) = 0.2231.
        Class weights: l = -sum of w_c y_c log p_c. Smoothing s puts (1 - s) y + s/C in the place of y.
    Shape:
        x (N, C), (N, C, d1, ...) or (C,); target either integer class indices (N,), (N, d1, ...) or (), or
        probabilities of x's shape; weight (C,). The loss is 0-d; with reduction="none" it has the shape of the indices.
    Gradient:
        dL/dx = (p - y) / n for the mean over n rows: what the network says minus what is true. With class weights,
        dL/dx = (p sum of w_c y_c - w y) / n, n being what the mean divides by. Probabilities get
        dL/dy = -(1 - s) w log p / n. weight is a constant.
    Notes:
        x are scores, not probabilities: softmax is part of this function. Rows labelled ``ignore_index`` give 0
        and no gradient. The mean over class indices divides by the sum of the weights of the labels that count
        (none: NaN); the mean over probabilities divides by the number of rows. NaN in a row makes its loss NaN.
        On a GPU, which is not waited for, so does a label out of range.
    Raises:
        ArgumentError: a label out of range, an unknown reduction, label_smoothing outside of [0, 1].
        DtypeError: integer scores; floating labels.
        ShapeError: labels, probabilities or weights of the wrong shape.
        GraphError: a weight that requires a gradient.
    Source:
        Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for
        Computer Vision", 2016.

    >>> import minidl as md
    >>> logits = md.tensor([[0.8, 0.2]]).log().detach().requires_grad_()
    >>> loss = md.cross_entropy(logits, md.tensor([0]))
    >>> loss.item()
    0.2231...
    >>> loss.backward()
    >>> logits.grad  # p - y
    tensor([[-0.2,  0.2]])
    >>> md.cross_entropy(logits.detach(), md.tensor([[1.0, 0.0]]))  # the same target as probabilities
    tensor(0.2231)
    """
    name = "cross_entropy"
    x, classes, shape = _scores(name, x)
    target = tensor(name, target, "target")
    weight = _class_weight(name, weight, x, classes)
    ignore_index = integer(name, "ignore_index", ignore_index)
    label_smoothing = number(name, "label_smoothing", label_smoothing, 0.0, 1.0)
    reduction = reduction_word(name, reduction)
    if x.ndim == 1 and target.shape == x.shape and target.dtype.kind in "iu":
        hint = "One score per example, (N,), is for binary_cross_entropy_with_logits; several classes need scores (N, C)."
        raise ShapeError.of(name, "x of shape (N, C) for labels of shape (N,)", f"x of shape {x.shape}", hint)
    if target.dtype in FLOATS and target.shape != shape:
        if target.shape != x.shape:
            hint = f"For one-hot rows give the last layer {target.shape[-1]} outputs." if target.ndim == x.ndim else ""
            raise ShapeError.of(
                name,
                f"integer labels of shape {shape} or probabilities of shape {x.shape}",
                f"{target.dtype} of shape {target.shape}",
                hint,
            )
        same_dtype(name, x=x, target=target)
        return CrossEntropyProbabilities.apply(x, target, weight, label_smoothing=label_smoothing, reduction=reduction)
    if target.dtype.kind in "iu" and target.shape == x.shape:
        raise ShapeError.of(
            name,
            f"integer labels of shape {shape}",
            f"shape {target.shape}",
            "If this is one-hot, make it probabilities with .astype('float32') or labels with .argmax(1).",
        )
    target = _labels(name, target, classes, shape, ignore_index)
    return CrossEntropy.apply(
        x, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )


class NllLoss(Function):
    """l = -w[t] x[t]."""

    @staticmethod
    def forward(ctx: Any, x: Array, target: Array, weight: Array | None, ignore_index: int, reduction: str) -> Array:
        rows, labels = _rows(x), target.reshape(-1)
        weight = _weight_or_ones(x, weight, rows.shape[1])
        values = kernels_for(x).nll_loss_forward(rows, labels, weight, ignore_index)
        ctx.shape, ctx.ignore_index = x.shape, ignore_index
        ctx.save(labels, weight)
        total = _label_weight(labels, weight, ignore_index) if reduction == "mean" else None
        return reduce(ctx, values.reshape(target.shape), reduction, total)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        labels, weight = ctx.saved
        g = _row_gradients(ctx, gy, len(labels))
        return _unrows(kernels_for(g).nll_loss_backward(g, labels, weight, ctx.ignore_index), ctx.shape), None, None


@op(
    samples=_classification_samples,
    oracle=_nll_oracle,
    flops=lambda y, x, target, weight, **params: 2 * target.size,
    errors=_classification_errors,
)
def nll_loss(x: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of class indices, for scores that are logarithms of probabilities already.

    Formula:
        l = -w_t x_t for the label t; ``nll_loss(log_softmax(x, 1), t)`` is ``cross_entropy(x, t)``.
    Shape:
        x (N, C), (N, C, d1, ...) or (C,); target integer class indices (N,), (N, d1, ...) or (); weight (C,).
        The loss is 0-d; with reduction="none" it has target's shape.
    Gradient:
        dL/dx = -w_t / (sum of the w_t) at the labels for the mean, 0 elsewhere. weight is a constant.
    Notes:
        Labels equal to ``ignore_index`` give 0 and no gradient; the mean divides by the sum of the weights of
        the labels that count (none: NaN).
    Raises:
        ArgumentError: a label out of range, an unknown reduction.
        DtypeError: integer scores; floating labels.
        ShapeError: labels or weights of the wrong shape.
        GraphError: a weight that requires a gradient.

    >>> import minidl as md
    >>> md.nll_loss(md.tensor([[-0.25, -1.5], [-2.0, -0.5]]), md.tensor([0, 1]))
    tensor(0.375)
    """
    name = "nll_loss"
    x, classes, shape = _scores(name, x)
    weight = _class_weight(name, weight, x, classes)
    ignore_index = integer(name, "ignore_index", ignore_index)
    reduction = reduction_word(name, reduction)
    target = _labels(name, tensor(name, target, "target"), classes, shape, ignore_index)
    return NllLoss.apply(x, target, weight, ignore_index=ignore_index, reduction=reduction)
