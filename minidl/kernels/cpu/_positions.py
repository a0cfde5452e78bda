"""Where a convolution reads and writes, as tables of positions; see the top of ``_direct``."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minidl.kernels.generic.conv import Pair, conv_size

__all__ = ["LINE", "Axis", "Tables", "forward_axis", "gradient_axes", "tables", "weight_positions"]

LINE = 16  # float32 numbers of a cache line
PIECE_BYTES = 1 << 18  # of the copy with zeros around that a piece may need


class Axis(NamedTuple):
    """Along one axis: output positions first, first + step, ..., as many as ``outputs``, and what they see.

    Output number i sees the inputs start + i * stride + offset, for each offset, with the weights taps[...] of the kernel.
    """

    outputs: int
    first: int
    step: int
    start: int
    stride: int
    offsets: tuple[int, ...]
    taps: tuple[int, ...]

    def reach(self, count: int) -> int:
        """How many inputs ``count`` neighbouring outputs span."""
        return (count - 1) * self.stride + self.offsets[-1] + 1 if self.offsets else 0

    def inside(self, size: int) -> bool:
        """Whether no output sees beyond an image of this size."""
        return not self.offsets or (self.start >= 0 and self.start + self.reach(self.outputs) <= size)


@lru_cache(maxsize=1024)
def forward_axis(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> Axis:
    """An axis of the convolution itself."""
    count = conv_size(size, kernel, stride, padding, dilation)
    return Axis(count, 0, 1, -padding[0], stride, tuple(dilation * k for k in range(kernel)), tuple(range(kernel)))


@lru_cache(maxsize=1024)
def gradient_axes(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> list[Axis]:
    """An axis of the gradient of the input, whose outputs are the pixels and whose inputs are gy; one for each phase.

    Output o of the convolution saw, through tap k, the pixel o * stride - padding + k * dilation. So pixel i gets a share
    from o = (i + padding - k * dilation) / stride, for the taps k with which this is a whole number: those of its phase.
    """
    axes = []
    for first in range(min(stride, size)):
        # From the last tap to the first, because gy is then read forward.
        taps = [k for k in reversed(range(kernel)) if (first + padding[0] - k * dilation) % stride == 0]
        seen = [(first + padding[0] - k * dilation) // stride for k in taps]
        start = seen[0] if seen else 0
        count = -(-(size - first) // stride)
        axes.append(Axis(count, first, stride, start, 1, tuple(o - start for o in seen), tuple(taps)))
    return axes


class Tables(NamedTuple):
    """The positions of one convolution of images (H, W, C); see the top of the file. Equal for all pieces and groups."""

    pixel: np.ndarray  # of the pixels of a piece, from where its input begins
    tap: np.ndarray  # of one group's values of a window
    out: np.ndarray  # of the pixels of a piece, from where its output begins
    numbers: tuple[int, ...]  # the integers that ``_where`` and ``_copy`` need
    copies: int  # elements of a copied piece, in whole cache lines; 0 when windows never reach beyond the image
    pieces: int  # in the batch


@lru_cache(maxsize=1024)
def tables(
    N: int,
    image: tuple[int, int, int],
    out_image: tuple[int, int, int],
    h: Axis,
    w: Axis,
    groups: int,
    itemsize: int,
    pixels: int,
    unit: int = 1,
) -> Tables:
    """Cut a batch into pieces of about ``pixels`` output pixels, whole units of so many rows, and note the positions."""
    (H, W, C), (OH, OW, O) = image, out_image
    copied = not (h.inside(H) and w.inside(W))
    columns = w.reach(w.outputs) if copied else W  # in a row of what is read
    rows = max(unit, min(h.outputs, pixels // w.outputs) // unit * unit)
    if copied:
        while rows > unit and h.reach(rows) * columns * C * itemsize > PIECE_BYTES:
            rows -= unit
    bands = -(-h.outputs // rows)
    rows = -(-h.outputs // (bands * unit)) * unit
    images = 1
    if bands == 1:
        images = max(1, pixels // (h.outputs * w.outputs))
        if copied:
            images = max(1, min(images, PIECE_BYTES // max(1, h.reach(rows) * columns * C * itemsize)))
        images = min(images, max(N, 1))
    lines = h.reach(rows) if copied else H
    n, i, j = (a.reshape(-1) for a in np.meshgrid(np.arange(images), np.arange(rows), np.arange(w.outputs), indexing="ij"))
    pixel = ((n * lines + i * h.stride) * columns + j * w.stride) * C
    out = ((n * OH + i * h.step) * OW + j * w.step) * O
    positions = np.add.outer(np.array(h.offsets, int) * columns, np.array(w.offsets, int)) * C
    tap = np.add.outer(positions.reshape(-1), np.arange(C // groups)).reshape(-1)
    copies = -(-images * lines * columns * C // LINE) * LINE if copied else 0
    numbers = (
        *(N, H, W, C, images, rows, bands, h.outputs, w.outputs),
        *(h.start, h.stride, w.start, lines, columns, int(copied)),
        *(OH * OW * O, (h.first * OW + w.first) * O, h.step * OW * O, copies),
    )
    return Tables(pixel, tap, out, numbers, copies, -(-N // images) * bands)


def weight_positions(w_shape: tuple[int, ...], h: Axis, w: Axis, transposed: int) -> np.ndarray:
    """Where in (KH, KW, C/G, O) weights the k-th value of a window has its first weight.

    The values of a window are its (kh, kw, c); or, for the gradient, the (kh, kw, o) of a window on gy, with as many
    channels o as a group has (``transposed``).
    """
    _, KW, CG, O = w_shape
    taps = np.add.outer(np.array(h.taps, int) * KW, np.array(w.taps, int)).reshape(-1) * (CG * O)
    return np.add.outer(taps, np.arange(transposed) if transposed else np.arange(CG) * O).reshape(-1)
