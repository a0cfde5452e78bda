"""Pooling layers: one number for each window of an image."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import integer, pair
from minidl.tensor import Tensor

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d"]

Size = int | tuple[int, int]


class _Pool(Module):
    """The window that maximum and average pooling share."""

    def __init__(self, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool) -> None:
        super().__init__()
        op = type(self).__name__
        self.kernel_size = pair(op, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair(op, "stride", stride)
        self.padding = pair(op, "padding", padding, 0)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size)):
            raise ArgumentError.of(op, f"padding of at most half the kernel {self.kernel_size}", f"{self.padding}")

    def extra_repr(self) -> str:
        """The window."""
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{text}, ceil_mode=True" if self.ceil_mode else text


class MaxPool2d(_Pool):
    """The maximum of each window.

    Args:
        kernel_size: of the window, one number or (height, width).
        stride: step from window to window; the kernel size when None, so that windows lie side by side.
        padding: rows and columns of -inf around the image, at most half the kernel.
        dilation: step between the elements of a window.
        return_indices: also return where in the image each maximum is.
        ceil_mode: keep windows that reach over the right and lower edge.

    Shape:
        x (N, C, H, W); y (N, C, OH, OW) with OH = floor((H + 2*PH - DH*(KH-1) - 1) / SH) + 1 (ceil with ceil_mode).
    Notes:
        Formula, gradient, ties and source: ``minidl.max_pool2d``.
    Raises:
        ArgumentError: padding that is negative or more than half the kernel, a kernel_size, stride or dilation of 0.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.MaxPool2d(2)(md.ones(1, 32, 26, 26)).shape
    (1, 32, 13, 13)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = pair("MaxPool2d", "dilation", dilation)
        self.return_indices = bool(return_indices)

    def forward(self, x: Tensor) -> Any:
        """Take the maxima."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        """The window and its dilation."""
        text = super().extra_repr()
        return text if self.dilation == (1, 1) else f"{text}, dilation={self.dilation}"


class AvgPool2d(_Pool):
    """The mean of each window.

    Args:
        kernel_size, stride, padding, ceil_mode: as in ``MaxPool2d``, the padding with zeros.
        count_include_pad: whether the zeros of the padding count in the divisor; they do by default.
        divisor_override: divide by this number instead of the window's size.

    Shape:
        x (N, C, H, W); y (N, C, OH, OW) with OH = floor((H + 2*PH - KH) / SH) + 1 (ceil with ceil_mode).
    Notes:
        Formula and gradient: ``minidl.avg_pool2d``.
    Raises:
        ArgumentError: padding that is negative or more than half the kernel, a kernel_size, stride or divisor of 0.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.AvgPool2d(2)(md.ones(1, 6, 28, 28)).shape
    (1, 6, 14, 14)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = divisor_override
        if divisor_override is not None and integer("AvgPool2d", "divisor_override", divisor_override) == 0:
            raise ArgumentError.of("AvgPool2d", "divisor_override other than 0", "0")

    def forward(self, x: Tensor) -> Tensor:
        """Take the means."""
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override
        )

    def extra_repr(self) -> str:
        """The window and what differs from the defaults."""
        text = super().extra_repr()
        if not self.count_include_pad:
            text += ", count_include_pad=False"
        return text if self.divisor_override is None else f"{text}, divisor_override={self.divisor_override}"


class _Adaptive(Module):
    """Pooling that is told the size of its result."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        op = type(self).__name__
        if len(sizes) != 2:
            raise ArgumentError.of(op, "output_size as an integer or a pair (height, width)", repr(output_size))
        height, width = (None if size is None else integer(op, "output_size", size, 1) for size in sizes)
        self.output_size = height, width

    def extra_repr(self) -> str:
        """The size of the result."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_Adaptive):
    """The mean of windows chosen so that the result has a given size, whatever the image's.

    Args:
        output_size: one number or (height, width); None keeps that size.

    Shape:
        x (N, C, H, W); y (N, C, OH, OW).
    Notes:
        Formula and gradient: ``minidl.adaptive_avg_pool2d``.
    Raises:
        ArgumentError: an output_size below 1, or of more than two numbers.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.AdaptiveAvgPool2d(7)(md.ones(1, 8, 30, 20)).shape
    (1, 8, 7, 7)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take the means."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive):
    """The maximum of windows chosen so that the result has a given size, whatever the image's.

    Args:
        output_size: one number or (height, width); None keeps that size.
        return_indices: also return where in the image each maximum is.

    Shape:
        x (N, C, H, W); y (N, C, OH, OW).
    Notes:
        Formula and gradient: ``minidl.adaptive_max_pool2d``.
    Raises:
        ArgumentError: an output_size below 1, or of more than two numbers.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.AdaptiveMaxPool2d((None, 5))(md.ones(1, 8, 30, 20)).shape
    (1, 8, 30, 5)
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = bool(return_indices)

    def forward(self, x: Tensor) -> Any:
        """Take the maxima."""
        return F.adaptive_max_pool2d(x, self.output_size, self.return_indices)


class GlobalAvgPool2d(Module):
    """The mean of each channel over the whole image. PyTorch writes ``AdaptiveAvgPool2d(1)``.

    Shape:
        x (N, C, H, W); y (N, C, 1, 1).
    Notes:
        Formula, gradient and source: ``minidl.global_avg_pool2d``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.GlobalAvgPool2d()(md.ones(1, 8, 7, 7)).shape
    (1, 8, 1, 1)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take the means."""
        return F.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The maximum of each channel over the whole image. PyTorch writes ``AdaptiveMaxPool2d(1)``.

    Shape:
        x (N, C, H, W); y (N, C, 1, 1).
    Notes:
        Formula and gradient: ``minidl.global_max_pool2d``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.GlobalMaxPool2d()(md.ones(1, 8, 7, 7)).shape
    (1, 8, 1, 1)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take the maxima."""
        return F.global_max_pool2d(x)
