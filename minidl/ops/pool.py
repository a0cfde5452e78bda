"""Pooling: each window of an image becomes one number, its largest value or its mean."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import Taps
from minidl.ops._arguments import integer, pair
from minidl.ops._images import Pair, batch, fits
from minidl.ops.resize import Resample
from minidl.ops.shape import squeeze
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "global_avg_pool2d", "global_max_pool2d", "max_pool2d"]


def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """OH (or OW). With ``ceil_mode`` a last window may reach over the edge, but not begin beyond it."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


@lru_cache(maxsize=256)
def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Taps:
    """For each window along one axis: the positions that it sees inside of the image."""
    start = np.arange(_pooled_size(size, kernel, stride, padding, dilation, ceil_mode)) * stride - padding
    return _inside(start[:, None] + np.arange(kernel) * dilation, size)


@lru_cache(maxsize=256)
def _adaptive_windows(size: int, out: int) -> Taps:
    """Windows of nearly equal length that cover the axis: window o reaches from floor(o size/out) to ceil((o+1) size/out)."""
    o = np.arange(out)
    start, stop = o * size // out, -(-(o + 1) * size // out)
    position = start[:, None] + np.arange((stop - start).max())
    return _inside(np.where(position < stop[:, None], position, size), size)


def _inside(position: np.ndarray, size: int) -> Taps:
    """The positions that lie inside of the image, moved to the front of their rows, with their numbers there."""
    outside = (position < 0) | (position >= size)
    order = np.argsort(outside, axis=1, kind="stable")
    index = np.ascontiguousarray(np.take_along_axis(np.where(outside, 0, position), order, 1))
    return Taps(index, np.tile(np.arange(index.shape[1]), (len(index), 1)), (~outside).sum(1), size)


def _mean(taps: Taps, divisor: np.ndarray) -> Taps:
    """The same windows, for the sum of what they see divided by ``divisor``."""
    return Taps(taps.index, np.ones(taps.index.shape) / divisor[:, None], taps.count, taps.size)


@lru_cache(maxsize=256)
def _mean_windows(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, divisor: str | int) -> Taps:
    taps = _windows(size, kernel, stride, padding, 1, ceil_mode)
    if divisor == "padded":  # positions in the padding count; those beyond it, which ceil_mode may reach, do not
        start = np.arange(len(taps.count)) * stride - padding
        return _mean(taps, np.minimum(start + kernel, size + padding) - start)
    return _mean(taps, np.maximum(taps.count, 1) if divisor == "inside" else np.full(len(taps.count), divisor))


@lru_cache(maxsize=256)
def _adaptive_mean_windows(size: int, out: int) -> Taps:
    taps = _adaptive_windows(size, out)
    return _mean(taps, taps.count)


def _padding(op: str, padding: Any, kernel: Pair) -> Pair:
    PH, PW = pair(op, "padding", padding, 0)
    if kernel[0] < 2 * PH or kernel[1] < 2 * PW:
        half = kernel[0] // 2, kernel[1] // 2
        raise ArgumentError.of(
            op, f"padding of at most half the kernel {half}", f"padding {(PH, PW)}", "Pad the image itself with pad()."
        )
    return PH, PW


def _fits(op: str, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> None:
    """Require at least one window; the first may reach over the edge too when ``ceil_mode`` says so."""
    size = x.shape[2:]
    for i in (0, 1):
        if _pooled_size(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) < 1:
            fits(op, size, kernel, tuple((p, p) for p in padding), dilation)


class Largest(Function):
    """The base of the max poolings; subclasses make the tables of windows."""

    @staticmethod
    def run(ctx: Any, x: Array, rows: Taps, columns: Taps, return_indices: bool) -> Any:
        """Forward with the windows of both axes."""
        y, winner = kernels_for(x).max_pool2d_forward(x, rows, columns)
        ctx.save(winner)
        ctx.taps = rows, columns
        return (y, _positions(winner, rows, columns)) if return_indices else y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (winner,) = ctx.saved
        return kernels_for(gy).max_pool2d_backward(gy, winner, *ctx.taps)


def _positions(winner: Array, rows: Taps, columns: Taps) -> Array:
    """From what won a window (k KW + m) to where it is in the image (h W + w)."""
    xp, (_, _, OH, OW), KW = xp_of(winner), winner.shape, columns.index.shape[1]
    winner = winner.astype(np.int64)
    h = xp.asarray(rows.index)[xp.arange(OH)[:, None], winner // KW]
    w = xp.asarray(columns.index)[xp.arange(OW), winner % KW]
    return h * columns.size + w


def _window_oracle(x, window, sizes, reduce):
    """Output by output: ``window(axis, o)`` lists the positions along an axis, of which those inside count."""
    images = x.reshape(-1, *x.shape[-3:])
    y = np.zeros((*images.shape[:2], *sizes), x.dtype)
    for n, c, i, j in np.ndindex(y.shape):
        rows = [h for h in window(0, i) if 0 <= h < x.shape[-2]]
        columns = [w for w in window(1, j) if 0 <= w < x.shape[-1]]
        y[n, c, i, j] = reduce([images[n, c, h, w] for h in rows for w in columns], i, j)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _pool_oracle(x, reduce, kernel_size, stride, padding, dilation, ceil_mode):
    kernel, padding, dilation = (np.broadcast_to(v, 2) for v in (kernel_size, padding, dilation))
    stride = kernel if stride is None else np.broadcast_to(stride, 2)
    sizes = []
    for size, k, s, p, d in zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True):
        starts, end = range(-p, size + p, s), size + p
        whole = [o for o in starts if o + d * (k - 1) < end]
        sizes.append(len(whole))
        if ceil_mode and whole[-1] + d * (k - 1) + 1 < end and whole[-1] + s < size:
            sizes[-1] += 1
    return _window_oracle(
        x, lambda a, o: [o * stride[a] - padding[a] + k * dilation[a] for k in range(kernel[a])], sizes, reduce
    )


def _max_pool2d_oracle(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    return _pool_oracle(x, lambda values, i, j: max(values), kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool2d_oracle(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    kernel, pads = np.broadcast_to(kernel_size, 2), np.broadcast_to(padding, 2)
    steps = kernel if stride is None else np.broadcast_to(stride, 2)

    def mean(values, i, j):
        if divisor_override is not None:
            return sum(values) / divisor_override
        if not count_include_pad:
            return sum(values) / len(values)
        ends = [min(o * steps[a] + kernel[a], x.shape[a - 2] + 2 * pads[a]) - o * steps[a] for a, o in ((0, i), (1, j))]
        return sum(values) / (ends[0] * ends[1])

    return _pool_oracle(x, mean, kernel_size, stride, padding, 1, ceil_mode)


def _adaptive_oracle(x, output_size, reduce):
    pairs = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    sizes = [n if out is None else out for n, out in zip(x.shape[-2:], pairs, strict=True)]

    def window(a, o):
        n = x.shape[a - 2]
        return range(int(np.floor(o * n / sizes[a])), int(np.ceil((o + 1) * n / sizes[a])))

    return _window_oracle(x, window, sizes, reduce)


def _window_samples(values: Any) -> list[Sample]:
    """Calls that max and average pooling have in common."""
    return [
        Sample(values(2, 3, 4, 6), 2),
        Sample(values(1, 2, 5, 6), (3, 2), 1, name="overlapping windows"),
        Sample(values(1, 2, 5, 7), (2, 3), (3, 2), (1, 1), name="stride, padding"),
        Sample(values(1, 2, 5, 6), 3, 2, 1, ceil_mode=True, name="ceil_mode"),
        Sample(values(1, 1, 6, 5), 2, 3, 1, ceil_mode=True, name="ceil_mode, last window would begin in the padding"),
        Sample(values(1, 2, 3, 2), (3, 2), name="one output pixel"),
        Sample(values(2, 4, 5), 2, name="one image without a batch axis, rows left over"),
        Sample(values(0, 2, 4, 4), 2, name="empty batch"),
    ]


def _window_errors(draw: Draw) -> list[ErrorSample]:
    x = draw.normal(1, 2, 4, 4)
    return [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\), got shape \(4, 4\)", x[0, 0], 2),
        ErrorSample(ShapeError, r"padded input \(4, 6\), got kernel \(5, 2\) .* at least \(1, 0\)", x, (5, 2), 1, (0, 1)),
        ErrorSample(ArgumentError, "expected kernel_size of at least 1, got 0", x, 0),
        ErrorSample(ArgumentError, "expected stride of at least 1, got 0", x, 2, 0),
        ErrorSample(ArgumentError, "expected padding of at least 0, got -1", x, 2, 2, -1),
        ErrorSample(ArgumentError, r"expected padding of at most half the kernel \(1, 1\), got padding \(2, 2\)", x, 3, 1, 2),
        ErrorSample(ArgumentError, "expected kernel_size as an integer or a pair", x, (2, 2, 2)),
        ErrorSample(DtypeError, "expected kernel_size as an integer, got 2.5", x, 2.5),
        ErrorSample(
            DtypeError, r"expected x of float32 or float64, got int64\. Convert with", np.arange(16).reshape(1, 1, 4, 4), 2
        ),
    ]


class MaxPool2d(Largest):
    """y = the largest value of each window."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        ceil_mode: bool,
        return_indices: bool,
    ) -> Any:
        rows, columns = (
            _windows(x.shape[2 + i], kernel_size[i], stride[i], padding[i], dilation[i], ceil_mode) for i in (0, 1)
        )
        return Largest.run(ctx, x, rows, columns, return_indices)


@op(
    samples=lambda draw: [
        *_window_samples(draw.distinct),
        Sample(draw.distinct(1, 2, 7, 6), 2, 1, 1, (3, 2), name="dilation"),
    ],
    oracle=_max_pool2d_oracle,
    flops=lambda y, x, kernel_size, **_: y.size * kernel_size[0] * kernel_size[1],
    errors=lambda draw: [
        *_window_errors(draw),
        ErrorSample(ArgumentError, "expected dilation of at least 1, got 0", draw.normal(1, 1, 4, 4), 2, dilation=0),
    ],
)
def max_pool2d(
    x: Any,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window.

    Formula:
        y[n, c, oh, ow] = max over kh, kw of x[n, c, oh SH + kh DH - PH, ow SW + kw DW - PW]
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C, OH, OW) with OH = (H + 2 PH - DH (KH - 1) - 1) // SH + 1, and OW
        likewise. ``stride`` is ``kernel_size`` unless given. With ``ceil_mode`` the division rounds up, except that
        no window begins beyond the image and its top (left) padding.
    Gradient:
        dL/dy goes to the pixel that won its window, and sums where a pixel won several.
    Notes:
        Padding is -infinity: it never wins. Of equal maxima the first (in reading order) wins and gets the whole
        gradient. A window with a NaN gives NaN, and its last NaN gets the gradient, as in PyTorch. A window that
        sees nothing but padding, which takes a dilation, gives -infinity.
        ``return_indices=True`` returns (y, where in the image each maximum is, as h W + w).
    Raises:
        ShapeError: a kernel larger than the padded input.
        ArgumentError: padding that is negative or more than half the kernel, a stride of 0.
        DtypeError: integer images.
    Source:
        Weng, Ahuja and Huang, "Cresceptron: A Self-Organizing Neural Network Which Grows Adaptively", 1992; compared
        with averages: Scherer, Müller and Behnke, "Evaluation of Pooling Operations in Convolutional Architectures
        for Object Recognition", 2010.

    >>> import minidl as md
    >>> x = md.tensor([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]]])
    >>> md.max_pool2d(x, 2)
    tensor([[[[5., 8.]]]])
    """
    x, single = batch("max_pool2d", x)
    kernel = pair("max_pool2d", "kernel_size", kernel_size)
    step = kernel if stride is None else pair("max_pool2d", "stride", stride)
    pads, dilation = _padding("max_pool2d", padding, kernel), pair("max_pool2d", "dilation", dilation)
    _fits("max_pool2d", x, kernel, step, pads, dilation, ceil_mode)
    result = MaxPool2d.apply(
        x,
        kernel_size=kernel,
        stride=step,
        padding=pads,
        dilation=dilation,
        ceil_mode=bool(ceil_mode),
        return_indices=bool(return_indices),
    )
    return _unbatch(result, single)


def _unbatch(result: Any, single: bool) -> Any:
    """Take the axis of a single image away again, from y or from (y, indices)."""
    if not single:
        return result
    return tuple(squeeze(t, 0) for t in result) if isinstance(result, tuple) else squeeze(result, 0)


class AvgPool2d(Resample):
    """y = the mean of each window."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        divisors: tuple[str | int, str | int] = ("padded", "padded") if count_include_pad else ("inside", "inside")
        if divisor_override is not None:
            divisors = divisor_override, 1
        rows, columns = (
            _mean_windows(x.shape[2 + i], kernel_size[i], stride[i], padding[i], ceil_mode, divisors[i]) for i in (0, 1)
        )
        return Resample.run(ctx, x, rows, columns)


@op(
    samples=lambda draw: [
        *_window_samples(draw.normal),
        Sample(draw.normal(1, 2, 5, 6), 3, 2, 1, False, False, name="count_include_pad=False"),
        Sample(draw.normal(1, 2, 5, 6), 3, 2, 1, True, False, name="ceil_mode, count_include_pad=False"),
        Sample(draw.normal(1, 2, 5, 6), 3, 2, 1, True, divisor_override=-4, name="divisor_override"),
    ],
    oracle=_avg_pool2d_oracle,
    flops=lambda y, x, kernel_size, **_: y.size * kernel_size[0] * kernel_size[1],
    errors=lambda draw: [
        *_window_errors(draw),
        ErrorSample(
            ArgumentError, "expected divisor_override other than 0, got 0", draw.normal(1, 1, 4, 4), 2, divisor_override=0
        ),
    ],
)
def avg_pool2d(
    x: Any,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window.

    Formula:
        y[n, c, oh, ow] = 1/D sum over kh, kw of x[n, c, oh SH + kh - PH, ow SW + kw - PW]
    Shape:
        as ``max_pool2d``; ``stride`` is ``kernel_size`` unless given.
    Gradient:
        dL/dx = dL/dy / D, summed over the windows that see a pixel.
    Notes:
        Padding is zero. By default it counts (``count_include_pad=True``): D = KH KW, at the border too. With
        ``count_include_pad=False``, D is the number of pixels of the image in the window. Positions beyond the
        padding, which ``ceil_mode`` may reach, never count. ``divisor_override`` is D itself.
    Raises:
        ShapeError: a kernel larger than the padded input.
        ArgumentError: padding that is negative or more than half the kernel, a stride of 0, a divisor of 0.
        DtypeError: integer images.

    >>> import minidl as md
    >>> x = md.tensor([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]]])
    >>> md.avg_pool2d(x, 2)
    tensor([[[[3.25, 4.25]]]])
    >>> md.avg_pool2d(md.ones((1, 1, 2, 2)), 2, padding=1)  # one pixel and three zeros
    tensor([[[[0.25, 0.25],
              [0.25, 0.25]]]])
    >>> md.avg_pool2d(md.ones((1, 1, 2, 2)), 2, padding=1, count_include_pad=False)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    x, single = batch("avg_pool2d", x)
    kernel = pair("avg_pool2d", "kernel_size", kernel_size)
    step = kernel if stride is None else pair("avg_pool2d", "stride", stride)
    pads = _padding("avg_pool2d", padding, kernel)
    _fits("avg_pool2d", x, kernel, step, pads, (1, 1), ceil_mode)
    if divisor_override is not None and integer("avg_pool2d", "divisor_override", divisor_override) == 0:
        raise ArgumentError.of("avg_pool2d", "divisor_override other than 0", "0")
    y = AvgPool2d.apply(
        x,
        kernel_size=kernel,
        stride=step,
        padding=pads,
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    return _unbatch(y, single)


def _output_size(op: str, x: Tensor, output_size: Any) -> Pair:
    """One integer or a pair, in which None keeps the size of the input."""
    if output_size is None:
        output_size = x.shape[2:]
    elif isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(n if out is None else out for n, out in zip(x.shape[2:], output_size, strict=True))
    return pair(op, "output_size", output_size)


def _adaptive_samples(values: Any) -> list[Sample]:
    return [
        Sample(values(2, 2, 5, 7), 3),
        Sample(values(1, 2, 4, 6), (2, 3), name="windows of equal length"),
        Sample(values(1, 1, 2, 3), (5, 3), name="more outputs than inputs"),
        Sample(values(1, 2, 5, 4), (None, 2), name="None keeps the size"),
        Sample(values(2, 3, 4), 2, name="one image without a batch axis"),
        Sample(values(0, 2, 3, 3), 2, name="empty batch"),
    ]


def _adaptive_errors(draw: Draw) -> list[ErrorSample]:
    return [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\)", draw.normal(4, 4), 2),
        ErrorSample(ShapeError, "expected x with no empty axis but the first", draw.normal(1, 2, 0, 4), 2),
        ErrorSample(ArgumentError, "expected output_size of at least 1, got 0", draw.normal(1, 1, 4, 4), (0, 2)),
        ErrorSample(ArgumentError, "expected output_size as an integer or a pair", draw.normal(1, 1, 4, 4), (1, 2, 3)),
        ErrorSample(DtypeError, "expected x of float32 or float64", np.ones((1, 1, 4, 4), int), 2),
    ]


class AdaptiveAvgPool2d(Resample):
    """y = the mean of each of the windows that divide the image."""

    @staticmethod
    def forward(ctx: Any, x: Array, output_size: Pair) -> Array:
        rows, columns = (_adaptive_mean_windows(x.shape[2 + i], output_size[i]) for i in (0, 1))
        return Resample.run(ctx, x, rows, columns)


@op(
    samples=lambda draw: _adaptive_samples(draw.normal),
    oracle=lambda x, output_size: _adaptive_oracle(x, output_size, lambda values, i, j: sum(values) / len(values)),
    flops=lambda y, x, output_size: _values_seen(x, output_size),
    errors=_adaptive_errors,
)
def adaptive_avg_pool2d(x: Any, output_size: int | tuple[int | None, int | None] | None) -> Tensor:
    """Means over as many windows as the output has pixels, whatever the size of the image.

    Formula:
        y[n, c, i, j] = mean of x[n, c, h, w] over floor(i H/OH) <= h < ceil((i+1) H/OH), and w likewise
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C, OH, OW) with (OH, OW) = ``output_size``, where None keeps H or W.
    Gradient:
        dL/dx = dL/dy over the size of the window, summed over the windows that see a pixel.
    Notes:
        Windows overlap by a pixel where OH does not divide H, and repeat where OH is larger than H.
    Raises:
        ShapeError: images of another number of axes, or without pixels.
        DtypeError: integer images.
        ArgumentError: an output_size below 1.

    >>> import minidl as md
    >>> md.adaptive_avg_pool2d(md.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]]), (1, 2))  # of 1, 2, 3 and of 3, 4, 5
    tensor([[[[2., 4.]]]])
    """
    x, single = batch("adaptive_avg_pool2d", x)
    y = AdaptiveAvgPool2d.apply(x, output_size=_output_size("adaptive_avg_pool2d", x, output_size))
    return _unbatch(y, single)


class AdaptiveMaxPool2d(Largest):
    """y = the largest value of each of the windows that divide the image."""

    @staticmethod
    def forward(ctx: Any, x: Array, output_size: Pair, return_indices: bool) -> Any:
        rows, columns = (_adaptive_windows(x.shape[2 + i], output_size[i]) for i in (0, 1))
        return Largest.run(ctx, x, rows, columns, return_indices)


@op(
    samples=lambda draw: _adaptive_samples(draw.distinct),
    oracle=lambda x, output_size: _adaptive_oracle(x, output_size, lambda values, i, j: max(values)),
    flops=lambda y, x, output_size, return_indices: _values_seen(x, output_size),
    errors=_adaptive_errors,
)
def adaptive_max_pool2d(x: Any, output_size: int | tuple[int | None, int | None] | None, return_indices: bool = False) -> Any:
    """Maxima over as many windows as the output has pixels, whatever the size of the image.

    Formula:
        y[n, c, i, j] = max of x[n, c, h, w] over floor(i H/OH) <= h < ceil((i+1) H/OH), and w likewise
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C, OH, OW) with (OH, OW) = ``output_size``, where None keeps H or W.
    Gradient:
        dL/dy goes to the pixel that won its window, and sums where a pixel won several.
    Notes:
        Ties, NaN and ``return_indices`` as in ``max_pool2d``.
    Raises:
        ShapeError: images of another number of axes, or without pixels.
        DtypeError: integer images.
        ArgumentError: an output_size below 1.

    >>> import minidl as md
    >>> md.adaptive_max_pool2d(md.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]]), (1, 2))  # of 1, 2, 3 and of 3, 4, 5
    tensor([[[[3., 5.]]]])
    """
    x, single = batch("adaptive_max_pool2d", x)
    size = _output_size("adaptive_max_pool2d", x, output_size)
    return _unbatch(AdaptiveMaxPool2d.apply(x, output_size=size, return_indices=bool(return_indices)), single)


def _values_seen(x: Any, output_size: Pair) -> int:
    """How many values all windows see together: the additions or comparisons of an adaptive pooling."""
    rows, columns = (_adaptive_windows(x.shape[2 + i], output_size[i]) for i in (0, 1))
    return x.shape[0] * x.shape[1] * int(rows.count.sum() * columns.count.sum())


def _global_samples(values: Any) -> list[Sample]:
    return [
        Sample(values(2, 3, 4, 5)),
        Sample(values(1, 2, 1, 1), name="one pixel"),
        Sample(values(2, 3, 4), name="one image without a batch axis"),
        Sample(values(0, 2, 3, 3), name="empty batch"),
    ]


def _global_errors(draw: Draw) -> list[ErrorSample]:
    return [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\)", draw.normal(4, 4)),
        ErrorSample(DtypeError, "expected x of float32 or float64", np.ones((1, 1, 4, 4), int)),
    ]


@op(
    samples=lambda draw: _global_samples(draw.normal),
    oracle=lambda x: x.mean((-2, -1), keepdims=True),
    flops=lambda y, x, **_: x.size,
    errors=_global_errors,
)
def global_avg_pool2d(x: Any) -> Tensor:
    """The mean of each channel.

    Formula:
        y[n, c, 0, 0] = 1/(H W) sum over h, w of x[n, c, h, w]
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C, 1, 1) or (C, 1, 1).
    Gradient:
        dL/dx = dL/dy / (H W) at every pixel.
    Raises:
        ShapeError: images of another number of axes, or without pixels.
        DtypeError: integer images.
    Source:
        Lin, Chen and Yan, "Network In Network", 2013.

    >>> import minidl as md
    >>> md.global_avg_pool2d(md.tensor([[[[1.0, 5.0], [3.0, 4.0]]]]))
    tensor([[[[3.25]]]])
    """
    x, single = batch("global_avg_pool2d", x)
    return _unbatch(AdaptiveAvgPool2d.apply(x, output_size=(1, 1)), single)


@op(
    samples=lambda draw: _global_samples(draw.distinct),
    oracle=lambda x: x.max((-2, -1), keepdims=True),
    flops=lambda y, x, **_: x.size,
    errors=_global_errors,
)
def global_max_pool2d(x: Any) -> Tensor:
    """The largest value of each channel.

    Formula:
        y[n, c, 0, 0] = max over h, w of x[n, c, h, w]
    Shape:
        x (N, C, H, W) or (C, H, W); y (N, C, 1, 1) or (C, 1, 1).
    Gradient:
        dL/dy goes to the pixel that won.
    Notes:
        Ties and NaN as in ``max_pool2d``.
    Raises:
        ShapeError: images of another number of axes, or without pixels.
        DtypeError: integer images.

    >>> import minidl as md
    >>> md.global_max_pool2d(md.tensor([[[[1.0, 5.0], [3.0, 4.0]]]]))
    tensor([[[[5.]]]])
    """
    x, single = batch("global_max_pool2d", x)
    return _unbatch(AdaptiveMaxPool2d.apply(x, output_size=(1, 1), return_indices=False), single)
