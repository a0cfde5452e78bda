"""Normalisation layers: give activations mean 0 and variance 1, then let the layer choose its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backend import default_dtype, xp_of
from minidl.errors import ArgumentError, ShapeError
from minidl.nn import init
from minidl.nn.module import Module
from minidl.ops._arguments import integer, number
from minidl.tensor import Parameter, Tensor

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm"]


class _Affine(Module):
    """A weight that starts at 1 and a bias that starts at 0, or neither."""

    def _add_affine(self, shape: tuple[int, ...], weight: bool, bias: bool) -> None:
        self.register_parameter("weight", Parameter(np.ones(shape, default_dtype())) if weight else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, default_dtype())) if bias else None)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _Running(_Affine):
    """Batch and instance normalisation: statistics that training collects and evaluation uses."""

    axes: tuple[int, ...]  # how many axes an input may have
    letters: str

    def __init__(self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool) -> None:
        super().__init__()
        op = type(self).__name__
        self.num_features = integer(op, "num_features", num_features, 1)
        self.eps = number(op, "eps", eps, 0)
        self.momentum = None if momentum is None else number(op, "momentum", momentum)
        self.affine = bool(affine)
        self.track_running_stats = bool(track_running_stats)
        self._add_affine((num_features,), self.affine, self.affine)
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        self.register_buffer("num_batches_tracked", None)
        if track_running_stats:
            self.running_mean = Tensor(np.zeros(num_features, default_dtype()))
            self.running_var = Tensor(np.ones(num_features, default_dtype()))
            self.num_batches_tracked = Tensor(np.zeros((), np.int64))

    def reset_running_stats(self) -> None:
        """Forget the statistics: mean 0, variance 1, no batches."""
        if self.running_mean is not None:
            self.running_mean.data = np.zeros(self.num_features)
            self.running_var.data = np.ones(self.num_features)
            self.num_batches_tracked.data = np.zeros((), np.int64)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, statistics forgotten."""
        super().reset_parameters()
        self.reset_running_stats()

    def _check(self, x: Tensor) -> None:
        op = type(self).__name__
        if x.ndim not in self.axes:
            raise ShapeError.of(op, f"x of shape {self.letters}", f"shape {x.shape}")
        if x.shape[1] != self.num_features:
            raise ShapeError.of(op, f"{self.num_features} channels on axis 1", f"shape {x.shape}")

    def extra_repr(self) -> str:
        """Channels and arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Running):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, per channel."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor, relu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Normalise with the batch's statistics in training, with the running ones in evaluation.

        ReLU follows if asked for; so does, if there is a residual, the sum with it and ReLU.
        """
        self._check(x)
        collecting = self.training and self.running_mean is not None
        momentum = self.momentum
        if momentum is None:  # the plain average of all batches so far
            momentum = 1.0 / (self.num_batches_tracked.item() + 1) if collecting else 0.0
        of_batch = self.training or self.running_mean is None
        vectors = self.running_mean, self.running_var, self.weight, self.bias
        if relu or residual is not None:
            y = F.batch_norm_relu(x, *vectors, training=of_batch, momentum=momentum, eps=self.eps, residual=residual)
        else:
            y = F.batch_norm(x, *vectors, training=of_batch, momentum=momentum, eps=self.eps)
        if collecting:
            tracked = self.num_batches_tracked
            room = tracked._room()
            xp_of(room).add(tracked._array, 1, out=room)
            tracked._array = room
        return y

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight (O, ...) and bias (O,) of a linear map that does what the given one and this normalisation do in evaluation.

        (w x + b - mean) * s + bias = (s w) x + (b - mean) * s + bias, with s = weight / sqrt(var + eps).
        """
        scale = (self.running_var._array + self.eps) ** -0.5
        shift = -self.running_mean._array if bias is None else bias._array - self.running_mean._array
        if self.weight is not None:
            scale = scale * self.weight._array
        shift = shift * scale
        if self.bias is not None:
            shift = shift + self.bias._array
        return Tensor.wrap(weight._array * scale.reshape(-1, *[1] * (weight.ndim - 1))), Tensor.wrap(shift)


class BatchNorm1d(_BatchNorm):
    """Normalises each feature over the batch (and over positions, if there is such an axis).

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; None for their plain average.
        affine: whether there are a weight and a bias.
        track_running_stats: whether to collect statistics for evaluation; without, evaluation uses the batch's.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias; running = (1 - momentum) * running + momentum * batch,
        where the running variance takes the unbiased variance of the batch.
    Shape:
        x (N, C) or (N, C, L); y the same; weight, bias, running_mean, running_var (C,).
    Notes:
        Weight starts at 1 and bias at 0. Gradient and source: ``minidl.batch_norm``.
    Raises:
        ArgumentError: num_features below 1, a negative eps.
        ShapeError: x of another shape, or one value per channel in training (when called).

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.BatchNorm1d(2)(md.tensor([[0.0, 1.0], [2.0, 5.0]])).numpy().round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """

    axes, letters = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Normalises each channel over the batch and all pixels.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as in ``BatchNorm1d``.

    Shape:
        x (N, C, H, W); y the same; weight, bias, running_mean, running_var (C,).
    Notes:
        Formula as in ``BatchNorm1d``; gradient and source: ``minidl.batch_norm``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.BatchNorm2d(3)(md.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    axes, letters = (4,), "(N, C, H, W)"


class InstanceNorm2d(_Running):
    """Normalises each channel of each image over its pixels.

    Args:
        num_features, eps, momentum: as in ``BatchNorm1d``.
        affine: whether there are a weight and a bias; none by default.
        track_running_stats: whether evaluation uses running statistics; it uses the image's own by default.

    Formula:
        y = (x - mean) / sqrt(var + eps), times weight plus bias with affine; mean and var of each channel of each image
    Shape:
        x (N, C, H, W) or (C, H, W); y the same.
    Notes:
        Gradient and source: ``minidl.instance_norm``.
    Raises:
        ArgumentError: num_features below 1, a negative eps.
        ShapeError: x of another shape, or a single pixel per image (when called).

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.InstanceNorm2d(3)(md.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    axes, letters = (4,), "(N, C, H, W) or (C, H, W)"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        self._check(x)
        return F.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_input_stats=self.training or self.running_mean is None,
            momentum=0.0 if self.momentum is None else self.momentum,
            eps=self.eps,
        )


class LayerNorm(_Affine):
    """Normalises each example over its last axes.

    Args:
        normalized_shape: sizes of the axes to normalise over, or the size of the last one.
        eps: added to the variance.
        elementwise_affine: whether there is a weight.
        bias: whether there is a bias beside the weight.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the normalised axes of each example
    Shape:
        x (..., *normalized_shape); y the same; weight and bias normalized_shape.
    Notes:
        Gradient and source: ``minidl.layer_norm``.
    Raises:
        ArgumentError: a size below 1, a negative eps.
        ShapeError: x that does not end in normalized_shape (when called).

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.LayerNorm(2)(md.tensor([[0.0, 2.0], [1.0, 5.0]])).numpy().round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        sizes: Sequence[Any] = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.normalized_shape = tuple(integer("LayerNorm", "normalized_shape", size, 1) for size in sizes)
        if not self.normalized_shape:
            raise ArgumentError.of("LayerNorm", "normalized_shape of at least one axis", "()")
        self.eps = number("LayerNorm", "eps", eps, 0)
        self.elementwise_affine = bool(elementwise_affine)
        self._add_affine(self.normalized_shape, self.elementwise_affine, self.elementwise_affine and bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Sizes and arguments."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Affine):
    """Normalises groups of channels of each image.

    Args:
        num_groups: how many groups; it divides num_channels.
        num_channels: C.
        eps: added to the variance.
        affine: whether there are a weight and a bias.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the channels of a group and all positions
    Shape:
        x (N, C, ...); y the same; weight and bias (C,).
    Notes:
        Gradient and source: ``minidl.group_norm``.
    Raises:
        ArgumentError: num_groups that does not divide num_channels, a negative eps.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.GroupNorm(2, 6)(md.ones(2, 6, 4, 4)).shape
    (2, 6, 4, 4)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_groups = integer("GroupNorm", "num_groups", num_groups, 1)
        self.num_channels = integer("GroupNorm", "num_channels", num_channels, 1)
        if num_channels % num_groups:
            raise ArgumentError.of("GroupNorm", f"num_channels divisible by num_groups={num_groups}", str(num_channels))
        self.eps = number("GroupNorm", "eps", eps, 0)
        self.affine = bool(affine)
        self._add_affine((num_channels,), self.affine, self.affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Groups, channels and arguments."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
