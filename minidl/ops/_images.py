"""Checks of images, kernels and windows that convolution, pooling and resizing share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.errors import ShapeError
from minidl.ops._arguments import real_tensor
from minidl.ops.shape import expand_dims
from minidl.tensor import Tensor

Pair = tuple[int, int]


def batch(op: str, x: Any, name: str = "x", letters: str = "C, H, W") -> tuple[Tensor, bool]:
    """``x`` as a batch of images, and whether it was a single one, to which an axis of length 1 was added.

    Raises:
        DtypeError: integers and booleans.
        ShapeError: another number of axes, or an axis other than the first of length 0.
    """
    x = real_tensor(op, x, name)
    axes, shape = letters.count(",") + 2, x._array.shape
    if len(shape) not in (axes - 1, axes):
        raise ShapeError.of(op, f"{name} of shape (N, {letters}) or ({letters})", f"shape {shape}")
    if 0 in shape[-axes + 1 :]:
        raise ShapeError.of(op, f"{name} with no empty axis but the first", f"shape {shape}")
    return (expand_dims(x, 0), True) if len(shape) == axes - 1 else (x, False)


def fits(op: str, size: tuple[int, ...], kernel: tuple[int, int], padding: tuple, dilation: tuple[int, int]) -> None:
    """Require that at least one window fits into the padded image; ``padding`` is ((top, bottom), (left, right))."""
    (H, W), (KH, KW), (DH, DW), ((top, bottom), (left, right)) = size, kernel, dilation, padding
    span = DH * (KH - 1) + 1, DW * (KW - 1) + 1
    padded = H + top + bottom, W + left + right
    if span[0] > padded[0] or span[1] > padded[1]:
        needed = tuple(max(0, -(-(s - n) // 2)) for s, n in zip(span, size, strict=True))
        dilated = f" (with dilation {dilation} it spans {span})" if dilation != (1, 1) else ""
        raise ShapeError.of(
            op,
            f"a kernel no larger than the padded input {padded}",
            f"kernel {kernel}{dilated} for an input of {size}",
            f"Use a smaller kernel, or padding of at least {needed}.",
        )


def padded_oracle(x: np.ndarray, padding: Any, kernel: Pair, dilation: int | Pair) -> np.ndarray:
    """For the oracles of tests: x with its zeros around it."""
    if padding == "same":
        total = np.asarray(dilation) * (np.array(kernel) - 1)
        sides = np.stack([total // 2, total - total // 2], 1)
    else:
        sides = np.repeat(np.broadcast_to(0 if padding == "valid" else padding, 2), 2).reshape(2, 2)
    return np.pad(x, ((0, 0), (0, 0), *map(tuple, sides)))


def windows_oracle(x: np.ndarray, kernel: Pair, stride: Any, dilation: Any) -> Iterator[tuple]:
    """For the oracles of tests, for every output position: (oh, ow, the window's slices of x)."""
    (SH, SW), (DH, DW) = np.broadcast_to(stride, 2), np.broadcast_to(dilation, 2)
    spans = (kernel[0] - 1) * DH + 1, (kernel[1] - 1) * DW + 1
    for oh, h in enumerate(range(0, x.shape[2] - spans[0] + 1, SH)):
        for ow, w in enumerate(range(0, x.shape[3] - spans[1] + 1, SW)):
            yield oh, ow, (slice(None), slice(None), slice(h, h + spans[0], DH), slice(w, w + spans[1], DW))
