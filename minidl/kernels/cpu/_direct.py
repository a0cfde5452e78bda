"""Convolution on register tiles, directly from the images: no columns are made.

Seen as one long row of numbers, channels last, a convolution is a sum with three tables of positions:

    y[out[p] + o] = b[o] + sum over k of x[pixel[p] + tap[k]] * w[k, o]

``pixel[p]`` is where the window of output pixel p begins, ``tap[k]`` how far from there the k-th value of a window lies, with
k over all (kh, kw, c), and ``out[p]`` where the pixel's results go. Kernel size, stride, dilation and groups are in the
tables; the loop (``_sums``) knows nothing of them. Padding is made by copying: a piece of the images with zeros around it.

The gradient of the weights is the same sum with two tables exchanged:

    gw[k, o] = sum over p of x[tap[k] + pixel[p]] * gy[out[p] + o]

and the gradient of the images is again a convolution, of gy, with the kernel turned by 180 degrees, padded so that it meets
all pixels. With a stride S, pixels whose positions differ by S meet the same taps, so each of the S x S interleaved
grids of pixels is one such convolution with its own few taps (see ``gradient_axes``).

Work is cut into pieces of a few hundred output pixels, whose inputs stay in a core's cache: a band of rows of one image, or
several small images. Weights are packed into panels as wide as a tile, so that the loop reads them in a row.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minidl.kernels.cpu._jit import parallel, prange, serial, threads
from minidl.kernels.cpu._tile import NARROW, WIDE, lanes, tile_add, tile_fma, tile_offsets, tile_start, tile_store
from minidl.kernels.generic.conv import Pair, Padding, conv_size
from minidl.memory import aligned_empty, empty

__all__ = ["correlate", "forward_axis", "gradient_axes", "pack", "weight_gradient"]

PIECE_PIXELS = 256  # output pixels worked on at a time
PIECE_BYTES = 1 << 18  # of the copy with zeros around that a piece may need
MACS_PER_ELEMENT = 32  # multiply-adds that take as long as one element of an elementwise kernel, for threads()


# ---------------------------------------------------------------------------------------- geometry


class Axis(NamedTuple):
    """Along one axis: output positions first, first + step, ... (``count`` of them), and what they see.

    Output number i sees the inputs start + i * stride + offset, for each offset, with the weights taps[...] of the kernel.
    """

    count: int
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
        return not self.offsets or (self.start >= 0 and self.start + self.reach(self.count) <= size)


def forward_axis(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> Axis:
    """An axis of the convolution itself."""
    count = conv_size(size, kernel, stride, padding, dilation)
    return Axis(count, 0, 1, -padding[0], stride, tuple(dilation * k for k in range(kernel)), tuple(range(kernel)))


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
    numbers: tuple[int, ...]  # the integers that ``_piece`` needs
    copies: int  # elements of a copied piece; 0 when windows never reach beyond the image
    pieces: int  # in the batch


@lru_cache(maxsize=1024)
def tables(
    N: int, image: tuple[int, int, int], out_image: tuple[int, int, int], h: Axis, w: Axis, groups: int, itemsize: int, pixels: int
) -> Tables:
    """Cut a batch into pieces of about ``pixels`` output pixels and note the positions."""
    (H, W, C), (OH, OW, O) = image, out_image
    copied = not (h.inside(H) and w.inside(W))
    columns = w.reach(w.count) if copied else W  # in a row of what is read
    rows = max(1, min(h.count, pixels // w.count))
    if copied:
        while rows > 1 and h.reach(rows) * columns * C * itemsize > PIECE_BYTES:
            rows -= 1
    bands = -(-h.count // rows)
    rows = -(-h.count // bands)
    images = 1
    if bands == 1:
        images = max(1, pixels // (h.count * w.count))
        if copied:
            images = max(1, min(images, PIECE_BYTES // max(1, h.reach(rows) * columns * C * itemsize)))
        images = min(images, max(N, 1))
    lines = h.reach(rows) if copied else H
    n, i, j = (a.reshape(-1) for a in np.meshgrid(np.arange(images), np.arange(rows), np.arange(w.count), indexing="ij"))
    pixel = ((n * lines + i * h.stride) * columns + j * w.stride) * C
    out = ((n * OH + i * h.step) * OW + j * w.step) * O
    positions = np.add.outer(np.array(h.offsets, int) * columns, np.array(w.offsets, int)) * C
    tap = np.add.outer(positions.reshape(-1), np.arange(C // groups)).reshape(-1)
    numbers = (
        *(N, H, W, C, images, rows, bands, h.count, w.count),
        *(h.start, h.stride, w.start, lines, columns, int(copied)),
        *(OH * OW * O, (h.first * OW + w.first) * O, h.step * OW * O),
    )
    read_only = [np.ascontiguousarray(a, np.intp) for a in (pixel, tap, out)]
    for a in read_only:
        a.flags.writeable = False
    return Tables(*read_only, numbers, images * lines * columns * C if copied else 0, -(-N // images) * bands)


def weight_positions(w_shape: tuple[int, ...], h: Axis, w: Axis, transposed: bool) -> np.ndarray:
    """Where in a group's (KH, KW, C/G, O) weights the k-th value of a window has its first weight.

    The values of a window are its (kh, kw, c); or, transposed, (kh, kw, o), of windows on gy.
    """
    _, KW, CG, O = w_shape
    taps = (np.add.outer(np.array(h.taps, int) * KW, np.array(w.taps, int)) * CG * O).reshape(-1)
    return taps, O if not transposed else 1


# ---------------------------------------------------------------------------------------- kernels
