"""Convolution layers, and the patches they are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backend import default_dtype
from minidl.errors import ArgumentError
from minidl.nn import init
from minidl.nn.init import Rng
from minidl.nn.module import Module
from minidl.ops._arguments import choice, integer, pair
from minidl.random import generator
from minidl.tensor import Parameter, Tensor

__all__ = ["Conv2d", "ConvTranspose2d", "Fold", "Unfold"]

Size = int | tuple[int, int]


class _Conv(Module):
    """Arguments, parameters and first values of both kinds of convolution."""

    padding: Any  # (PH, PW), 'same' or 'valid'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        rng: Rng,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        self.in_channels = integer(op, "in_channels", in_channels, 1)
        self.out_channels = integer(op, "out_channels", out_channels, 1)
        self.kernel_size = pair(op, "kernel_size", kernel_size)
        self.stride = pair(op, "stride", stride)
        self.padding = padding if isinstance(padding, str) else pair(op, "padding", padding, 0)
        self.dilation = pair(op, "dilation", dilation)
        self.groups = integer(op, "groups", groups, 1)
        if padding_mode != "zeros":
            raise ArgumentError.of(op, "padding_mode 'zeros'", repr(padding_mode), "Pad the input with md.pad first.")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                common = math.gcd(self.in_channels, self.out_channels)
                hint = f"Of both channel counts, {common} and its divisors are possible."
                raise ArgumentError.of(op, f"{name} divisible by groups={groups}", f"{name}={getattr(self, name)}", hint)
        self.weight = Parameter(self._empty_weight())
        self.register_parameter("bias", Parameter(np.zeros(out_channels, default_dtype())) if bias else None)
        self.reset_parameters(rng)

    def _empty_weight(self) -> np.ndarray:
        """Zeros of the weight's shape, (KH, KW, C, O) in memory, which is what the kernels read."""
        c, o = self.in_channels // self.groups, self.out_channels
        return np.zeros((*self.kernel_size, c, o), default_dtype()).transpose(3, 2, 0, 1)

    def reset_parameters(self, rng: Rng = None) -> None:
        """Draw new first values: weight and bias evenly within +-1/sqrt(fan_in)."""
        rng = generator(rng)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5), rng=rng)
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans("bias", self.weight)[0])
            init.uniform_(self.bias, -bound, bound, rng=rng)

    def extra_repr(self) -> str:
        """Channels, kernel, stride, and what differs from the defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        if self.padding != (0, 0):
            parts.append(f"padding={self.padding!r}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class Conv2d(_Conv):
    """Slides kernels over images: every output channel is a weighted sum of a window of all input channels.

    Like every deep-learning library it computes the cross-correlation: the kernel is not flipped.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: one number or (height, width).
        padding: one number, (height, width), 'same' or 'valid'; pads with zeros on all sides.
        groups: cuts the channels into groups that do not see each other; C of them is a depthwise convolution.
        bias: whether each output channel adds a number of its own.
        padding_mode: 'zeros'.
        rng: generator or seed of the first values.

    Shape:
        x (N, C, H, W); y (N, O, OH, OW) with OH = floor((H + 2*PH - DH*(KH-1) - 1) / SH) + 1;
        weight (O, C/groups, KH, KW), which lies (KH, KW, C/groups, O) in memory; bias (O,).
    Notes:
        Weight and bias start evenly spread within +-1/sqrt(fan_in), fan_in = C/groups*KH*KW. Formula, gradient and
        source: ``minidl.conv2d``.
    Raises:
        ArgumentError: groups that do not divide both numbers of channels, a stride or kernel_size of 0, negative padding,
            padding='same' with a stride.

    >>> import minidl as md
    >>> from minidl import nn
    >>> conv = nn.Conv2d(1, 32, 3, rng=0)
    >>> conv(md.ones(5, 1, 28, 28)).shape
    (5, 32, 26, 26)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rng: Rng = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, rng)
        if isinstance(padding, str):
            choice("Conv2d", "padding", padding, ("same", "valid"))
            if padding == "same" and self.stride != (1, 1):
                raise ArgumentError.of("Conv2d", "stride 1 with padding='same'", f"stride {self.stride}")

    def forward(self, x: Tensor, norm: Any = None, relu: bool = False, pool: int = 1) -> Tensor:
        """Convolve; and, when Sequential says so, do what the layers behind this one would do (see ``nn.fusion``)."""
        weight, bias = (self.weight, self.bias) if norm is None else norm.fold(self.weight, self.bias)
        geometry = self.stride, self.padding, self.dilation, self.groups
        if relu:
            return F.conv2d_relu(x, weight, bias, *geometry, pool=pool)
        return F.conv2d(x, weight, bias, *geometry)


class ConvTranspose2d(_Conv):
    """The transpose of a convolution: what backward of ``Conv2d`` does to a gradient, as a layer that enlarges.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: one number or (height, width).
        padding: rows and columns taken off each side of the result (the padding of the convolution it transposes).
        output_padding: rows and columns added to one side, where several sizes would fit the same convolution.
        groups, bias, padding_mode, rng: as in ``Conv2d``.

    Shape:
        x (N, C, H, W); y (N, O, OH, OW) with OH = (H-1)*SH - 2*PH + DH*(KH-1) + output_padding + 1;
        weight (C, O/groups, KH, KW), which lies (KH, KW, O/groups, C) in memory; bias (O,).
    Notes:
        Weight and bias start evenly spread within +-1/sqrt(O/groups*KH*KW), as in PyTorch. Formula, gradient and
        source: ``minidl.conv_transpose2d``.
    Raises:
        ArgumentError: groups that do not divide both numbers of channels, a stride or kernel_size of 0, negative padding,
            output_padding not below stride or dilation.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.ConvTranspose2d(8, 4, 2, stride=2, rng=0)(md.ones(1, 8, 7, 7)).shape
    (1, 4, 14, 14)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        rng: Rng = None,
    ) -> None:
        pair("ConvTranspose2d", "padding", padding, 0)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, rng)
        self.output_padding = pair("ConvTranspose2d", "output_padding", output_padding, 0)
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation):
            if extra >= max(s, d):
                raise ArgumentError.of("ConvTranspose2d", f"output_padding below {max(s, d)} (stride or dilation)", str(extra))

    def _empty_weight(self) -> np.ndarray:
        c, o = self.in_channels, self.out_channels // self.groups
        return np.zeros((*self.kernel_size, o, c), default_dtype()).transpose(3, 2, 0, 1)

    def forward(self, x: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Convolve backwards; ``output_size`` (height, width) chooses the output padding that gives this size.

        Raises:
            ArgumentError: a size that no output padding gives.
        """
        extra = self.output_padding if output_size is None else self._padding_for(x, output_size)
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _padding_for(self, x: Tensor, output_size: tuple[int, int]) -> tuple[int, int]:
        sizes = pair("ConvTranspose2d", "output_size", output_size)
        extra = []
        for i, size in enumerate(sizes):
            s, p, k, d = self.stride[i], self.padding[i], self.kernel_size[i], self.dilation[i]
            least = (x.shape[i - 2] - 1) * s - 2 * p + d * (k - 1) + 1
            if not least <= size < least + s:
                raise ArgumentError.of("ConvTranspose2d", f"output_size[{i}] from {least} to {least + s - 1}", str(size))
            extra.append(size - least)
        return extra[0], extra[1]

    def extra_repr(self) -> str:
        """As for Conv2d, with the output padding."""
        text = super().extra_repr()
        return f"{text}, output_padding={self.output_padding}" if self.output_padding != (0, 0) else text


class Unfold(Module):
    """Cuts images into the windows that a convolution sees, one column each (``im2col``).

    Args:
        kernel_size, dilation, padding, stride: of the windows, one number or (height, width).

    Shape:
        x (N, C, H, W); y (N, C*KH*KW, OH*OW).
    Notes:
        Formula, gradient and source: ``minidl.im2col``.
    Raises:
        ArgumentError: a kernel_size, dilation or stride of 0, negative padding.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Unfold(2)(md.ones(1, 3, 4, 4)).shape
    (1, 12, 9)
    """

    def __init__(self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = _window("Unfold", kernel_size, dilation, padding, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Cut."""
        return F.im2col(x, self.kernel_size, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Module):
    """Puts windows back where ``Unfold`` took them from, and adds where they overlap (``col2im``).

    Args:
        output_size: (H, W) of the image.
        kernel_size, dilation, padding, stride: of the windows, one number or (height, width).

    Shape:
        x (N, C*KH*KW, OH*OW); y (N, C, H, W).
    Notes:
        Formula and gradient: ``minidl.col2im``.
    Raises:
        ArgumentError: an output_size, kernel_size, dilation or stride of 0, negative padding.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Fold((4, 4), 2)(md.ones(1, 12, 9)).shape
    (1, 3, 4, 4)
    """

    def __init__(self, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        super().__init__()
        self.output_size = pair("Fold", "output_size", output_size)
        self.kernel_size, self.dilation, self.padding, self.stride = _window("Fold", kernel_size, dilation, padding, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Put back."""
        return F.col2im(x, self.output_size, self.kernel_size, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        """The image and the window."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


def _window(op: str, kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> tuple:
    """The four pairs of a window, checked."""
    return (
        pair(op, "kernel_size", kernel_size),
        pair(op, "dilation", dilation),
        pair(op, "padding", padding, 0),
        pair(op, "stride", stride),
    )
