"""Fully connected layers."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.backend import default_dtype
from minidl.nn import init
from minidl.nn.init import Rng
from minidl.nn.module import Module
from minidl.ops._arguments import integer
from minidl.random import generator
from minidl.tensor import Parameter, Tensor

__all__ = ["Identity", "Linear"]


class Identity(Module):
    """Returns its input; holds a place in a model. Arguments are accepted and ignored, as in PyTorch.

    Shape:
        any; y is x itself.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Identity()(md.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return x itself."""
        return x


class Linear(Module):
    """y = x @ weight.T + bias.

    Args:
        in_features, out_features: sizes of the last axis of x and y.
        bias: whether to add one.
        rng: generator or seed of the first values.

    Shape:
        x (..., in_features), y (..., out_features), weight (out_features, in_features), bias (out_features,).
    Notes:
        Weight and bias start evenly spread within +-1/sqrt(in_features). Gradient: ``minidl.linear``.
    Raises:
        ArgumentError: a size below 1.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Linear(4, 2, rng=0)(md.ones(3, 4)).shape
    (3, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rng: Rng = None) -> None:
        super().__init__()
        self.in_features = integer("Linear", "in_features", in_features, 1)
        self.out_features = integer("Linear", "out_features", out_features, 1)
        self.weight = Parameter(np.zeros((out_features, in_features), default_dtype()))
        self.register_parameter("bias", Parameter(np.zeros(out_features, default_dtype())) if bias else None)
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Rng = None) -> None:
        """Draw new first values."""
        rng = generator(rng)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5), rng=rng)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound, rng=rng)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Multiply and add; and, when Sequential says so, do what the ReLU behind this layer would do (see ``nn.fusion``)."""
        return (F.linear_relu if relu else F.linear)(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes and whether there is a bias."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
