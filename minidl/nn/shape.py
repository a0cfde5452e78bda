"""Layers that change the shape and keep the values."""

from __future__ import annotations

from minidl import functional as F
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import integer
from minidl.tensor import Tensor

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Joins the axes from ``start_axis`` to ``end_axis`` into one, in PyTorch's order (channel, row, column).

    Args:
        start_axis, end_axis: the first and the last axis to join; the batch axis stays by default.

    Shape:
        x (N, C, H, W); y (N, C*H*W) by default.
    Raises:
        ArgumentError: axes that x does not have, or in the wrong order (when called).

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Flatten()(md.ones(5, 64, 3, 3)).shape
    (5, 576)
    """

    def __init__(self, start_axis: int = 1, end_axis: int = -1) -> None:
        super().__init__()
        self.start_axis = integer("Flatten", "start_axis", start_axis)
        self.end_axis = integer("Flatten", "end_axis", end_axis)

    def forward(self, x: Tensor) -> Tensor:
        """Join the axes."""
        return F.flatten(x, self.start_axis, self.end_axis)

    def extra_repr(self) -> str:
        """The axes."""
        return f"start_axis={self.start_axis}, end_axis={self.end_axis}"


class Unflatten(Module):
    """Splits one axis into several: the opposite of ``Flatten``.

    Args:
        axis: the axis to split.
        sizes: what it becomes; one of them may be -1.

    Shape:
        x (N, C*H*W); y (N, C, H, W) with axis=1 and sizes (C, H, W).
    Raises:
        ArgumentError: more than one -1, an axis that x does not have.
        ShapeError: sizes whose product is not that of the axis.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Unflatten(1, (64, 3, 3))(md.ones(5, 576)).shape
    (5, 64, 3, 3)
    """

    def __init__(self, axis: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.axis = integer("Unflatten", "axis", axis)
        self.sizes = tuple(integer("Unflatten", "sizes", size, -1) for size in sizes)
        if not self.sizes or self.sizes.count(-1) > 1:
            raise ArgumentError.of("Unflatten", "sizes with at most one -1", f"{self.sizes}")

    def forward(self, x: Tensor) -> Tensor:
        """Split the axis."""
        if not -x.ndim <= self.axis < x.ndim:
            raise ArgumentError.of("unflatten", f"axis from {-x.ndim} to {x.ndim - 1} for {x.ndim} axes", str(self.axis))
        axis = self.axis % x.ndim
        return x.reshape((*x.shape[:axis], *self.sizes, *x.shape[axis + 1 :]))

    def extra_repr(self) -> str:
        """The axis and what it becomes."""
        return f"axis={self.axis}, sizes={self.sizes}"
