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

    Shape:
        logits (N, C, ...), target (N, ...) with class numbers or (N, C, ...) with probabilities; scalar.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.CrossEntropyLoss()(md.tensor([[0.0, 0.0]]), md.tensor([1])).item()  # doctest: +ELLIPSIS
    0.6931...
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

    Shape:
        log-probabilities (N, C, ...), target (N, ...) with class numbers; scalar.
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
        pos_weight: a factor for the positive targets of each class.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.BCEWithLogitsLoss()(md.tensor([0.0]), md.tensor([1.0])).item()  # doctest: +ELLIPSIS
    0.6931...
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

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.alpha = number("FocalLoss", "alpha", alpha, high=1)
        self.gamma = number("FocalLoss", "gamma", gamma, 0)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        """The loss of logits x."""
        return F.focal_loss(x, target, alpha=self.alpha, gamma=self.gamma, reduction=self.reduction)
