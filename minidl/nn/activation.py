"""Activation layers: the non-linear step between the others."""

from __future__ import annotations

from minidl import functional as F
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import choice, integer, number
from minidl.tensor import Tensor

__all__ = [
    "ELU",
    "GELU",
    "Hardswish",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class ReLU(Module):
    """y = max(x, 0).

    Shape:
        any; y has x's shape and dtype.
    Notes:
        At x = 0 the derivative does not exist; backward takes 0, which is a choice. Gradient and source:
        ``minidl.relu``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.ReLU()(md.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.relu(x)


class LeakyReLU(Module):
    """y = x where x > 0, else negative_slope * x.

    Args:
        negative_slope: the slope left of 0.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.leaky_relu``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.LeakyReLU(0.1)(md.tensor([-1.0, 2.0]))
    tensor([-0.1,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = number("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """The slope."""
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """y = x where x > 0, else alpha * (e^x - 1).

    Args:
        alpha: minus the limit far left of 0.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.elu``.
    Raises:
        ArgumentError: a negative alpha.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.ELU()(md.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.    ])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = number("ELU", "alpha", alpha, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        """The limit."""
        return f"alpha={self.alpha}"


class GELU(Module):
    """y = x * P(Z <= x) for a standard normal Z.

    Args:
        approximate: 'none' for the exact function, 'tanh' for the formula with tanh.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.gelu``.
    Raises:
        ArgumentError: another word.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.GELU()(md.tensor([-1.0, 2.0]))
    tensor([-0.1587,  1.9545])
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = choice("GELU", "approximate", approximate, ("none", "tanh"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        """Which formula."""
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """y = x * sigmoid(x), also called swish.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.silu``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.SiLU()(md.tensor([-1.0, 2.0]))
    tensor([-0.2689,  1.7616])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.silu(x)


class Hardswish(Module):
    """y = x * min(max(x + 3, 0), 6) / 6: swish from straight pieces.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.hardswish``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Hardswish()(md.tensor([-1.0, 2.0]))
    tensor([-0.3333,  1.6667])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.hardswish(x)


class Sigmoid(Module):
    """y = 1 / (1 + e^-x).

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient: ``minidl.sigmoid``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Sigmoid()(md.tensor([-1.0, 0.0]))
    tensor([0.2689, 0.5   ])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.sigmoid(x)


class Tanh(Module):
    """y = tanh(x).

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient: ``minidl.tanh``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Tanh()(md.tensor([-1.0, 0.0]))
    tensor([-0.7616,  0.    ])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.tanh(x)


class Softplus(Module):
    """y = log(1 + e^(beta*x)) / beta, a smooth ReLU; x itself where beta*x is above the threshold.

    Args:
        beta: how sharp the bend is.
        threshold: from where on the function is taken as linear.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.softplus``.
    Raises:
        ArgumentError: beta of 0.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Softplus()(md.tensor([-1.0, 2.0]))
    tensor([0.3133, 2.1269])
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = number("Softplus", "beta", beta)
        if self.beta == 0:
            raise ArgumentError.of("Softplus", "beta other than 0", "0")
        self.threshold = number("Softplus", "threshold", threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """The bend."""
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongAxis(Module):
    """An activation that looks at all elements along one axis."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = integer(type(self).__name__, "axis", axis)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


class Softmax(_AlongAxis):
    """y = e^x / sum(e^x) along an axis: positive numbers that sum to 1.

    ``CrossEntropyLoss`` expects the logits x, not these probabilities.

    Args:
        axis: along which to normalise; the last one by default.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient and source: ``minidl.softmax``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Softmax(axis=1)(md.tensor([[0.0, 0.0]]))
    tensor([[0.5, 0.5]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return F.softmax(x, self.axis)


class LogSoftmax(_AlongAxis):
    """y = log(softmax(x)) along an axis, computed without the overflow and the rounding of the two steps.

    Args:
        axis: along which to normalise; the last one by default.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Gradient: ``minidl.log_softmax``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.LogSoftmax(axis=1)(md.tensor([[0.0, 0.0]]))
    tensor([[-0.6931, -0.6931]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return F.log_softmax(x, self.axis)
