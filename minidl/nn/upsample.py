"""Resizing images."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import choice
from minidl.tensor import Tensor

__all__ = ["Upsample"]


class Upsample(Module):
    """Enlarges (or shrinks) images to a size or by a factor.

    Args:
        size: the new size, one number or (height, width); or
        scale_factor: what to multiply the size by, one number or a pair.
        mode: 'nearest' (repeat pixels) or 'bilinear' (interpolate).
        align_corners: for 'bilinear', whether the outer pixels' centres stay in the corners.

    Shape:
        x (N, C, H, W); y (N, C, OH, OW) with (OH, OW) = size, or the whole part of (H, W) * scale_factor.
    Notes:
        Formula and gradient: ``minidl.interpolate``.
    Raises:
        ArgumentError: both or neither of size and scale_factor, another mode, align_corners with 'nearest'.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Upsample(scale_factor=2)(md.ones(1, 3, 8, 8)).shape
    (1, 3, 16, 16)
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = False,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ArgumentError.of("Upsample", "either size or scale_factor", f"size={size}, scale_factor={scale_factor}")
        self.size: Any = size
        self.scale_factor: Any = scale_factor
        self.mode = choice("Upsample", "mode", mode, ("nearest", "bilinear"))
        if align_corners and mode == "nearest":
            raise ArgumentError.of("Upsample", "align_corners=False with mode='nearest'", "True")
        self.align_corners = bool(align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """Resize."""
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        """The size or the factor, and the mode."""
        target = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{target}, mode={self.mode!r}"
