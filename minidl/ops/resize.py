"""Resizing images, and what it shares with average pooling: weighted sums along rows and columns."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import Taps
from minidl.ops._arguments import choice, ndim, number, pair, real_tensor
from minidl.ops._images import batch
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["interpolate"]


class Resample(Function):
    """The base of every operation that is a weighted sum along rows, then along columns; subclasses make the tables."""

    @staticmethod
    def run(ctx: Any, x: Array, rows: Taps, columns: Taps) -> Array:
        """Forward with the tables of both axes, which backward reads the other way around."""
        ctx.taps = rows, columns
        return kernels_for(x).resample(x, rows, columns)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        rows, columns = ctx.taps
        return kernels_for(gy).resample(gy, rows.transposed, columns.transposed)


@lru_cache(maxsize=256)
def _axis(mode: str, size: int, out: int, scale_factor: float | None, align_corners: bool) -> Taps:
    """For each of ``out`` positions: which of ``size`` positions it mixes, and in which shares."""
    position = np.arange(out)
    if out == size:
        return Taps(position[:, None], np.ones((out, 1)), np.ones(out, np.intp), size)
    step = size / out if scale_factor is None else 1 / scale_factor  # input pixels per output pixel
    if mode == "nearest":
        # PyTorch computes the position in float32 whatever the image's dtype; the rounding decides between neighbours.
        index = np.minimum((position * np.float32(step)).astype(np.float32).astype(np.intp), size - 1)
        if out == 2 * size:
            index = position // 2
        return Taps(index[:, None], np.ones((out, 1)), np.ones(out, np.intp), size)
    if align_corners:
        source = position * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        source = np.maximum((position + 0.5) * step - 0.5, 0)
    below = np.minimum(source.astype(np.intp), size - 1)
    share = np.minimum(source - below, 1)
    above = np.minimum(below + 1, size - 1)
    return Taps(np.stack([below, above], 1), np.stack([1 - share, share], 1), np.full(out, 2, np.intp), size)


class Interpolate(Resample):
    """y = x seen at other positions."""

    @staticmethod
    def forward(ctx: Any, x: Array, size: tuple[int, int], scale_factor: tuple, mode: str, align_corners: bool) -> Array:
        rows, columns = (_axis(mode, x.shape[2 + i], size[i], scale_factor[i], align_corners) for i in (0, 1))
        return Resample.run(ctx, x, rows, columns)


def _interpolate_oracle(x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    """Pixel by pixel: the four neighbours of the place it comes from, by the product of their distances."""
    N, C, H, W = x.shape
    scales = (None, None) if scale_factor is None else tuple(np.broadcast_to(scale_factor, 2))
    OH, OW = np.broadcast_to(size, 2) if size is not None else (int(H * scales[0]), int(W * scales[1]))

    def place(position, n, out, scale):
        if align_corners:
            return position * (n - 1) / max(out - 1, 1)
        step = 1 / scale if scale and out != n else n / out
        return position * step if mode == "nearest" else min(max((position + 0.5) * step - 0.5, 0), n - 1)

    y = np.zeros((N, C, OH, OW), x.dtype)
    for i in range(OH):
        for j in range(OW):
            h, w = place(i, H, OH, scales[0]), place(j, W, OW, scales[1])
            if mode == "nearest":
                y[:, :, i, j] = x[:, :, min(int(h), H - 1), min(int(w), W - 1)]
                continue
            for p in range(H):
                for q in range(W):
                    y[:, :, i, j] += max(0, 1 - abs(h - p)) * max(0, 1 - abs(w - q)) * x[:, :, p, q]
    return y


def _interpolate_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(2, 2, 3, 4), 6, name="nearest"),
        Sample(draw.normal(1, 2, 5, 4), (3, 7), name="nearest, down and up"),
        Sample(draw.normal(1, 1, 3, 4), scale_factor=(2, 1.6), name="nearest, scale_factor"),
        Sample(draw.normal(2, 2, 3, 4), (5, 7), mode="bilinear", name="bilinear"),
        Sample(draw.normal(1, 1, 6, 5), (3, 1), mode="bilinear", name="bilinear, down"),
        Sample(draw.normal(1, 2, 3, 4), scale_factor=1.7, mode="bilinear", name="bilinear, scale_factor"),
        Sample(draw.normal(1, 2, 3, 4), (5, 1), mode="bilinear", align_corners=True, name="align_corners"),
        Sample(draw.normal(1, 2, 4, 4), None, 2.0, "bilinear", True, name="align_corners, scale_factor"),
        Sample(draw.normal(1, 2, 3, 4), (3, 4), mode="bilinear", name="same size"),
        Sample(draw.normal(0, 2, 3, 4), 5, mode="bilinear", name="empty batch"),
    ]


def _interpolate_errors(draw: Draw) -> list[ErrorSample]:
    x = draw.normal(1, 2, 3, 4)
    return [
        ErrorSample(ArgumentError, "expected either size or scale_factor, got neither", x),
        ErrorSample(ArgumentError, "expected either size or scale_factor, got both", x, 2, 2.0),
        ErrorSample(ArgumentError, "expected mode as one of 'nearest', 'bilinear', got 'cubic'", x, 2, mode="cubic"),
        ErrorSample(ArgumentError, "expected align_corners=False with mode='nearest', got True", x, 2, align_corners=True),
        ErrorSample(ArgumentError, "expected size of at least 1, got 0", x, 0),
        ErrorSample(ArgumentError, "expected scale_factor above 0, got -1.0", x, scale_factor=-1.0),
        ErrorSample(ArgumentError, "expected scale_factor as a number or a pair", x, scale_factor=(1.0, 2.0, 3.0)),
        ErrorSample(ShapeError, "expected an output of at least 1 x 1, got 1 x 0", x, scale_factor=(0.5, 0.2)),
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\), got shape \(2, 3, 4\)", x[0], 2),
        ErrorSample(DtypeError, "expected x of float32 or float64, got int64", np.arange(4).reshape(1, 1, 2, 2), 2),
        ErrorSample(DtypeError, "expected scale_factor as a number, got 'two'", x, scale_factor="two"),
    ]


@op(
    samples=_interpolate_samples,
    oracle=_interpolate_oracle,
    flops=lambda y, x, mode, **_: (
        0 if mode == "nearest" else 2 * (y.shape[2] * x.shape[3] * 2 + y.shape[2] * y.shape[3] * 2) * y.shape[0] * y.shape[1]
    ),
    errors=_interpolate_errors,
)
def interpolate(
    x: Any,
    size: int | tuple[int, int] | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Images at another size.

    Formula:
        nearest:  y[n, c, i, j] = x[n, c, floor(i s), floor(j t)]
        bilinear: y[n, c, i, j] = the mean of the four pixels around (h, w), weighted by 1 - distance along each
        axis, with h = (i + 1/2) s - 1/2 (never below 0), or h = i (H - 1) / (OH - 1) with ``align_corners``.
        s = H / OH, t = W / OW; with ``scale_factor`` given, s and t are 1 / scale_factor.
    Shape:
        x (N, C, H, W); y (N, C, OH, OW) with (OH, OW) = ``size`` or the whole part of (H, W) * ``scale_factor``.
    Gradient:
        the transpose: dL/dx sums dL/dy over the output pixels that read a pixel, by the same weights.
    Notes:
        ``align_corners=False`` sees pixels as squares, so that their outer edges stay in place;
        ``align_corners=True`` sees them as points, so that the corner points stay in place. There is no
        anti-aliasing: making an image much smaller skips pixels (``adaptive_avg_pool2d`` does not).
    Raises:
        ArgumentError: neither or both of size and scale_factor, an unknown mode, align_corners with nearest.
        ShapeError: anything but (N, C, H, W), or a scale_factor that leaves no pixel.
        DtypeError: integer images.

    >>> import minidl as md
    >>> md.interpolate(md.tensor([[[[0.0, 1.0]]]]), (1, 4), mode="bilinear")
    tensor([[[[0.  , 0.25, 0.75, 1.  ]]]])
    """
    name = "interpolate"
    x = real_tensor(name, x)
    ndim(name, x, 4, "(N, C, H, W)")
    x, _ = batch(name, x)
    choice(name, "mode", mode, ("nearest", "bilinear"))
    if align_corners and mode == "nearest":
        raise ArgumentError.of(
            name, "align_corners=False with mode='nearest'", "True", "Corners can be aligned in mode='bilinear'."
        )
    if (size is None) == (scale_factor is None):
        raise ArgumentError.of(name, "either size or scale_factor", "neither" if size is None else "both")
    scale: tuple[float | None, float | None] = (None, None)
    if scale_factor is None:
        OH, OW = pair(name, "size", size)
    else:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
        if len(factors) != 2:
            raise ArgumentError.of(name, "scale_factor as a number or a pair", repr(scale_factor))
        sh, sw = (number(name, "scale_factor", factor) for factor in factors)
        if not (0 < sh < float("inf") and 0 < sw < float("inf")):
            raise ArgumentError.of(name, "scale_factor above 0", repr(scale_factor))
        scale = sh, sw
        OH, OW = int(x.shape[2] * sh), int(x.shape[3] * sw)
        if OH < 1 or OW < 1:
            raise ShapeError.of(
                name, "an output of at least 1 x 1", f"{OH} x {OW}", f"scale_factor {scale} is too small for {x.shape}."
            )
    return Interpolate.apply(x, size=(OH, OW), scale_factor=scale, mode=mode, align_corners=bool(align_corners))
