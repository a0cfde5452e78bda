"""The two axes of a convolution, seen from its results: what forward and the gradient of the images have in common."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

from minidl.backend import Array, xp_of
from minidl.errors import ShapeError
from minidl.kernels.cuda._passes import pointer
from minidl.kernels.generic.columns import Padding, Pair, conv_size

__all__ = ["AXES", "Sizes", "channels_last", "lanes", "sizes_of", "spatial_first", "tap_steps"]

LARGEST = (1 << 31) - (1 << 16)  # leaves room for the tile in which the last one lies

AXES = r"""
// One axis of a convolution. Result i sees, through tap j, position  i stride + j dilation + begin  of what is read.
// In memory it is result  phase + i period,  and its tap is tap  first + j step  of the weights.
struct Axis { int results, stride, dilation, begin, taps, first, step, phase, period; };

// y from x: result oh sees, through tap kh, pixel oh SH + kh DH - top.
__device__ Axis forward_axis(int OH, int KH, int SH, int DH, int top)
{
    return Axis{OH, SH, DH, -top, KH, 0, 1, 0, 1};
}

// gx from gy: pixel ih was seen, through tap kh, by that oh with  oh SH + kh DH - top = ih,  if there is one. Which taps these
// are depends on ih mod SH alone: the pixels  ih = phase + i SH  of one phase share the taps first, first + step, ... with
// step = SH / gcd(SH, DH), and  oh = (ih + top - kh DH) / SH = i + (phase + top - first DH) / SH - j (step DH / SH).
// With stride 1 there is one phase, and this is the correlation with the kernel turned around.
__device__ Axis gradient_axis(int H, int KH, int SH, int DH, int top, int step, int phase)
{
    int first = 0;
    while (first < step && (phase + top - first * DH) % SH != 0) ++first;
    int taps = first < step && first < KH ? (KH - 1 - first) / step + 1 : 0;  // may be none: then this gradient is zero
    int begin = (phase + top - first * DH) / SH;
    return Axis{(H - phase + SH - 1) / SH, 1, -(step * DH / SH), begin, taps, first, step, phase, SH};
}
"""


class Sizes(NamedTuple):
    """All sizes of a convolution, in the order in which the kernels take them; ``top`` and ``left`` are the padding."""

    N: int
    H: int
    W: int
    C: int
    O: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    DH: int
    DW: int
    top: int
    left: int
    groups: int


@lru_cache(maxsize=1024)
def sizes_of(N: int, size: Pair, w_shape: tuple, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> Sizes:
    """The sizes of a convolution of N images of ``size`` (H, W) with (O, C/groups, KH, KW) weights.

    Raises:
        ShapeError: more than the kernels can count to, who number the elements of an image, the weights and all pixels with
            32 bits. (Not the elements of a batch.)
    """
    (O, CG, KH, KW), C = w_shape, w_shape[1] * groups
    OH, OW = (conv_size(size[i], w_shape[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    most = max(size[0] * size[1] * C, OH * OW * O, KH * KW * CG * O, N * size[0] * size[1], N * OH * OW)
    if most > LARGEST:
        raise ShapeError.of(
            "conv2d",
            f"at most {LARGEST} elements in an image and in weight, and pixels in a batch",
            str(most),
            "Split the batch.",
        )
    return Sizes(N, *size, C, O, OH, OW, KH, KW, *stride, *dilation, padding[0][0], padding[1][0], groups)


def tap_steps(sizes: Sizes) -> Pair:
    """From one tap that meets a pixel to the next one that does, on both axes; see ``gradient_axis``."""
    return sizes.SH // gcd(sizes.SH, sizes.DH), sizes.SW // gcd(sizes.SW, sizes.DW)


def lanes(channels: int, *arrays: Array | None) -> int:
    """How many channels can be read at once from arrays in which pixels have a multiple of ``channels``: 4 or 1."""
    aligned = all(a is None or a.itemsize == 1 or pointer(a) % 16 == 0 for a in arrays)
    return 4 if channels % 4 == 0 and aligned else 1


def channels_last(x: Array) -> Array:
    """The (N, H, W, C) contiguous view of an (N, C, H, W) array; one copy when it lies otherwise."""
    return xp_of(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def spatial_first(w: Array) -> Array:
    """The (KH, KW, C, O) contiguous view of (O, C, KH, KW) weights; one copy when they lie otherwise."""
    return xp_of(w).ascontiguousarray(w.transpose(2, 3, 1, 0))
