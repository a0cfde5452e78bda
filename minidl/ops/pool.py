"""Pooling: each window of an image becomes one number, its largest value or its mean."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import Taps
from minidl.ops._arguments import integer, pair
from minidl.ops._images import batch, fits
from minidl.ops.resize import Resample
from minidl.ops.shape import squeeze
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "global_avg_pool2d", "global_max_pool2d", "max_pool2d"]

Pair = tuple[int, int]


def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """OH (or OW). With ``ceil_mode`` a last window may reach over the edge, but not begin beyond it."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


@lru_cache(maxsize=256)
def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Taps:
    """For each window of one axis: the positions of its taps that lie inside of the image, and their numbers."""
    start = np.arange(_pooled_size(size, kernel, stride, padding, dilation, ceil_mode)) * stride - padding
    position = start[:, None] + np.arange(kernel) * dilation
    return _inside(position, np.broadcast_to(np.arange(kernel), position.shape), size)


@lru_cache(maxsize=256)
def _adaptive_windows(size: int, out: int) -> Taps:
    """Windows of nearly equal length that cover the axis: window o reaches from floor(o size/out) to ceil((o+1) size/out)."""
    o = np.arange(out)
    start, stop = o * size // out, -(-(o + 1) * size // out)
    tap = np.broadcast_to(np.arange((stop - start).max()), (out, (stop - start).max()))
    position = start[:, None] + tap
    return _inside(np.where(position < stop[:, None], position, size), tap, size)


def _inside(position: np.ndarray, value: np.ndarray, size: int) -> Taps:
    """The taps that lie inside of the image, moved to the front of their rows."""
    outside = (position < 0) | (position >= size)
    order = np.argsort(outside, axis=1, kind="stable")
    count = (~outside).sum(1)
    index = np.take_along_axis(np.where(outside, 0, position), order, 1)
    return Taps(index, np.take_along_axis(value, order, 1), count, size)


def _mean(taps: Taps, divisor: np.ndarray) -> Taps:
    """The same windows, for the sum of their taps divided by ``divisor``."""
    return Taps(taps.index, np.broadcast_to(1 / divisor[:, None], taps.index.shape), taps.count, taps.size)


@lru_cache(maxsize=256)
def _mean_windows(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, divisor: str | int) -> Taps:
    taps = _windows(size, kernel, stride, padding, 1, ceil_mode)
    if divisor == "padded":  # positions within the padding count; those beyond it, which ceil_mode may add, do not
        start = np.arange(len(taps.count)) * stride - padding
        return _mean(taps, np.minimum(start + kernel, size + padding) - start)
    return _mean(taps, np.maximum(taps.count, 1) if divisor == "inside" else np.full(len(taps.count), divisor))


@lru_cache(maxsize=256)
def _adaptive_mean_windows(size: int, out: int) -> Taps:
    taps = _adaptive_windows(size, out)
    return _mean(taps, taps.count)


def _taps_read(y: Any, x: Any, rows: Taps, columns: Taps) -> int:
    """How many values all windows read together: the additions or comparisons of a pooling."""
    return x.shape[0] * x.shape[1] * int(rows.count.sum() * columns.count.sum())


class Pick(Function):
    """The base of the max poolings; subclasses make the tables of windows."""

    @staticmethod
    def run(ctx: Any, x: Array, rows: Taps, columns: Taps, return_indices: bool) -> Any:
        """Forward with the tables of both axes."""
        y, winner = kernels_for(x).max_pool2d_forward(x, rows, columns)
        ctx.save(winner)
        ctx.taps = rows, columns
        if return_indices:
            return y, _positions(winner, rows, columns)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (winner,) = ctx.saved
        return kernels_for(gy).max_pool2d_backward(gy, winner, *ctx.taps)


def _positions(winner: Array, rows: Taps, columns: Taps) -> Array:
    """From the numbers of the winning taps to h * W + w in the image."""
    xp, KW = xp_of(winner), columns.index.shape[1]
    h, w = (_place(xp, taps)[xp.arange(len(taps.count))] for taps in (rows, columns))
    number = winner.astype(np.int64)
    return number + h + w + KW
