"""Losses: how far the output is from what it should be, as layers with their arguments inside."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import choice, integer, number
from minidl.tensor import Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "SmoothL1Loss",
]


class _Loss(Module):
    """What becomes of the losses of single elements: their mean, their sum, or nothing ('none')."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = choice(type(self).__name__, "reduction", reduction, ("none", "mean", "sum"))

    def _add_weights(self, **weights: Any) -> None:
        """Buffers, so that they move with the module and stand in its state."""
        for name, values in weights.items():
            self.register_buffer(name, None if values is None else Tensor(values))

    def extra_repr(self) -> str:
        """The reduction, if it is not the mean."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """Minus the logarithm of the probability that the softmax of the logits gives the right class.

    Args:
        weight: one factor per class, shape (C,).
        ignore_index: a label that does not count.
        reduction: 'mean', 'sum' or 'none'.
        label_smoothing: share of the target that is spread evenly over all classes.

    Formula:
        l = -log p_t with p = softmax(logits) and the class t, or -sum over c of y_c log p_c with probabilities y.
        Gradient, weights and the mean: ``minidl.cross_entropy``.
    Shape:
        logits (N, C, ...) or (C,), target (N, ...) or () with class numbers, or of the logits' shape with
        probabilities; the loss is 0-d, with 'none' of the class numbers' shape.
    Raises:
        ArgumentError: another reduction, label_smoothing outside of [0, 1].

    >>> import minidl as md
    >>> from minidl import nn
    >>> logits = md.log(md.tensor([[0.8, 0.2]]))
    >>> nn.CrossEntropyLoss()(logits, md.tensor([0]))  # -log 0.8
    tensor(0.2231)
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction)
        self._add_weights(weight=weight)
        self.ignore_index = integer("CrossEntropyLoss", "ignore_index", ignore_index)
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of logits x."""
        return F.cross_entropy(
            x,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_Loss):
    """Minus the log-probability of the right class, for the output of ``LogSoftmax``.

    Args:
        weight: one factor per class, shape (C,).
        ignore_index: a label that does not count.
        reduction: 'mean' (weighted), 'sum' or 'none'.

    Formula:
        l = -w_t x_t for the class t. Gradient and the mean: ``minidl.nll_loss``.
    Shape:
        log-probabilities (N, C, ...) or (C,), target (N, ...) or () with class numbers; the loss is 0-d, with 'none'
        of target's shape.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.NLLLoss()(md.log(md.tensor([[0.8, 0.2], [0.5, 0.5]])), md.tensor([0, 0]))  # -(log 0.8 + log 0.5) / 2
    tensor(0.4581)
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self._add_weights(weight=weight)
        self.ignore_index = integer("NLLLoss", "ignore_index", ignore_index)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of log-probabilities x."""
        return F.nll_loss(x, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class MSELoss(_Loss):
    """(x - target)^2.

    Args:
        reduction: 'mean', 'sum' or 'none'.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Gradient: ``minidl.mse_loss``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.MSELoss()(md.tensor([1.0, 2.0]), md.tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss."""
        return F.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x - target|.

    Args:
        reduction: 'mean', 'sum' or 'none'.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Gradient: ``minidl.l1_loss``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.L1Loss()(md.tensor([1.0, 2.0]), md.tensor([1.0, 4.0])).item()
    1.0
    """

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss."""
        return F.l1_loss(x, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """d^2 / (2*beta) where d = |x - target| is below beta, else d - beta/2.

    Args:
        reduction: 'mean', 'sum' or 'none'.
        beta: where the parabola ends.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Gradient and source: ``minidl.smooth_l1_loss``.
    Raises:
        ArgumentError: a negative beta.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.SmoothL1Loss(reduction="none")(md.tensor([0.5, 3.0]), md.tensor([0.0, 0.0]))
    tensor([0.125, 2.5  ])
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = number("SmoothL1Loss", "beta", beta, 0)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss."""
        return F.smooth_l1_loss(x, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """d^2 / 2 where d = |x - target| is below delta, else delta * (d - delta/2).

    Args:
        reduction: 'mean', 'sum' or 'none'.
        delta: where the parabola ends.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Gradient and source: ``minidl.huber_loss``.
    Raises:
        ArgumentError: delta of 0 or below.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.HuberLoss(reduction="none", delta=2.0)(md.tensor([0.5, 3.0]), md.tensor([0.0, 0.0]))
    tensor([0.125, 4.   ])
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = number("HuberLoss", "delta", delta)
        if not self.delta > 0:
            raise ArgumentError.of("HuberLoss", "delta above 0", str(delta))

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss."""
        return F.huber_loss(x, target, reduction=self.reduction, delta=self.delta)


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities: -(t*log(p) + (1-t)*log(1-p)).

    Args:
        weight: a factor per element, of a shape that broadcasts to the output's.
        reduction: 'mean', 'sum' or 'none'.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Gradient and limits: ``minidl.binary_cross_entropy``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.BCELoss(reduction="none")(md.tensor([0.8, 0.5]), md.tensor([1.0, 0.0]))  # -log 0.8, -log 0.5
    tensor([0.2231, 0.6931])
    """

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self._add_weights(weight=weight)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of probabilities x."""
        return F.binary_cross_entropy(x, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of the sigmoid of logits, without the overflow of the two steps.

    Args:
        weight: a factor per element, of a shape that broadcasts to the output's.
        reduction: 'mean', 'sum' or 'none'.
        pos_weight: a factor for the positive targets, of a shape that broadcasts to the output's.

    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Notes:
        Formula and gradient: ``minidl.binary_cross_entropy_with_logits``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.BCEWithLogitsLoss()(md.tensor([0.0]), md.tensor([1.0]))  # -log(sigmoid(0)) = -log 0.5
    tensor(0.6931)
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self._add_weights(weight=weight, pos_weight=pos_weight)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of logits x."""
        return F.binary_cross_entropy_with_logits(
            x, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class FocalLoss(_Loss):
    """Binary cross-entropy of logits in which elements that are right already weigh little. Not in PyTorch.

    Args:
        alpha: weight of the positive targets, 1-alpha that of the negative ones; negative for no weights.
        gamma: how quickly the weight falls as the probability of the truth grows; 0 is plain cross-entropy.
        reduction: 'mean', 'sum' or 'none'.

    Formula:
        l = b q^gamma e: e the binary cross-entropy, q the probability of the wrong answer, b the weight. Gradient:
        ``minidl.focal_loss``.
    Shape:
        x and target of one shape; the loss is 0-d, with 'none' of that shape.
    Raises:
        ArgumentError: a negative gamma, alpha above 1.
    Source:
        Lin et al., "Focal Loss for Dense Object Detection", 2017.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.FocalLoss()(md.tensor([0.0]), md.tensor([1.0]))  # 0.25 * 0.5^2 * 0.6931
    tensor(0.0433)
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.alpha = number("FocalLoss", "alpha", alpha, high=1)
        self.gamma = number("FocalLoss", "gamma", gamma, 0)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of logits x."""
        return F.focal_loss(x, target, alpha=self.alpha, gamma=self.gamma, reduction=self.reduction)
