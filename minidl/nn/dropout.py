"""Dropout: in training, forget a random part of the signal."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.nn.init import Rng
from minidl.nn.module import Module
from minidl.ops._arguments import number
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = ["Dropout", "Dropout2d"]


class _Dropout(Module):
    """The rate and the generator."""

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        super().__init__()
        self.p = number(type(self).__name__, "p", p, 0, 1)
        self.rng: np.random.Generator | None = None if rng is None else generator(rng)

    def extra_repr(self) -> str:
        """The rate."""
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, sets each element to 0 with probability p and divides the others by 1-p; nothing in evaluation.

    Args:
        p: probability of 0.
        rng: generator or seed of its own; minidl's (``manual_seed``) when None.

    Shape:
        any; y has x's shape and dtype.
    Notes:
        Formula, gradient and source: ``minidl.dropout``.
    Raises:
        ArgumentError: p outside of [0, 1].

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Dropout(0.5).eval()(md.ones(3))
    tensor([1., 1., 1.])
    >>> nn.Dropout(0.5, rng=0)(md.ones(6))
    tensor([2., 2., 2., 0., 0., 0.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements."""
        return F.dropout(x, self.p, self.training, self.rng)


class Dropout2d(_Dropout):
    """In training, sets whole channels of each image to 0 with probability p and divides the others by 1-p.

    Neighbouring pixels carry nearly the same number, so dropping single ones would hide little.

    Args:
        p: probability of 0.
        rng: generator or seed of its own; minidl's (``manual_seed``) when None.

    Shape:
        x (N, C, H, W) or (N, C, L); y the same.
    Notes:
        Formula, gradient and source: ``minidl.dropout2d``.
    Raises:
        ArgumentError: p outside of [0, 1].

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Dropout2d(0.5, rng=0)(md.ones(1, 4, 8, 8)).mean(axis=(2, 3))
    tensor([[2., 2., 2., 0.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels."""
        return F.dropout2d(x, self.p, self.training, self.rng)
