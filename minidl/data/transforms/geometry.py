"""Where the pixels go: resizing, cropping, flipping, turning. Named and behaving as in torchvision.

They take Pillow images and arrays (C, H, W) of uint8 or floats, and give back what they took. Interpolation is
Pillow's, for arrays too (floats channel by channel), so one picture gives the same numbers in either form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.transforms import _check, _images
from minidl.data.transforms._images import Color
from minidl.data.transforms.base import Transform
from minidl.errors import ArgumentError

PADDING_MODES = ("constant", "edge", "reflect", "symmetric")


class Resize(Transform):
    """Another size, with Pillow's antialiased interpolation.

    Args:
        size: (height, width), or one number for the shorter side; the longer one keeps the proportions, rounded down.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        max_size: with one number, the longer side is at most this; the shorter one then shrinks with it.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Resize(16)(np.zeros((3, 32, 48), np.uint8)).shape
    (3, 16, 24)
    """

    def __init__(self, size: int | Sequence[int], interpolation: str = "bilinear", max_size: int | None = None) -> None:
        one = not isinstance(size, (tuple, list)) or len(size) == 1
        self.size = _check.pair("Resize", "size", size)[: 1 if one else 2]
        self.interpolation = _check.choice("Resize", "interpolation", interpolation, _check.INTERPOLATIONS)
        self.max_size = None if max_size is None else _check.integer("Resize", "max_size", max_size)
        if self.max_size is not None and (not one or self.max_size <= self.size[0]):
            expected = f"max_size above {self.size[0]}" if one else "no max_size with a size of two numbers"
            raise ArgumentError.of("Resize", expected, str(max_size))

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The resized image."""
        H, W = _images.image_size("Resize", x)
        if len(self.size) == 2:
            height, width = self.size
        else:
            short, long = self.size[0], int(self.size[0] * max(H, W) / min(H, W))
            if self.max_size is not None and long > self.max_size:
                short, long = int(self.max_size * short / long), self.max_size
            height, width = (long, short) if W <= H else (short, long)
        return _resize(x, height, width, self.interpolation)


def _resize(x: Any, height: int, width: int, interpolation: str) -> Any:
    if _images.image_size("resize", x) == (height, width):
        return x
    method = _check.INTERPOLATIONS[interpolation]
    return _images.through_pillow(x, lambda image, fill: image.resize((width, height), method))


class CenterCrop(Transform):
    """The middle of an image, (height, width) or a square; smaller images get a black border first.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.CenterCrop(2)(np.arange(16, dtype=np.uint8).reshape(1, 4, 4))
    array([[[ 5,  6],
            [ 9, 10]]], dtype=uint8)
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _check.pair("CenterCrop", "size", size)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The middle."""
        # torchvision's rounding: a border of an odd width is the thinner one on the left and at the top
        top, left = (
            -((want - have) // 2) if want > have else round((have - want) / 2)
            for have, want in zip(_images.image_size("CenterCrop", x), self.size)
        )
        return _images.crop(x, top, left, *self.size)


class Pad(Transform):
    """Borders around an image.

    Args:
        padding: one number, (left and right, top and bottom) or (left, top, right, bottom).
        fill: the color of constant borders, in the values of the image; one number or one per channel.
        padding_mode: "constant", or the image's own pixels: "edge", "reflect" (without the edge), "symmetric" (with it).

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Pad((1, 0), padding_mode="edge")(np.array([[[1, 2]]], np.uint8))
    array([[[1, 1, 2, 2]]], dtype=uint8)
    """

    def __init__(self, padding: int | Sequence[int], fill: Color = 0, padding_mode: str = "constant") -> None:
        self.padding = _check.borders("Pad", padding)
        self.fill = _check.color("Pad", "fill", fill)
        self.padding_mode = _check.choice("Pad", "padding_mode", padding_mode, PADDING_MODES)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The larger image."""
        _images.image_size("Pad", x)
        return _images.pad(x, *self.padding, self.fill, self.padding_mode)


class RandomCrop(Transform):
    """A part of an image at a random place.

    Args:
        size: (height, width), or one number for a square.
        padding: borders to add first: one number, (left and right, top and bottom) or (left, top, right, bottom).
        pad_if_needed: widen smaller images on both sides; else they are an error.
        fill: the color of constant borders.
        padding_mode: what borders are made of; see ``Pad``.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomCrop(32, padding=4)(np.ones((3, 32, 32), np.uint8), rng=0).shape
    (3, 32, 32)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Color = 0,
        padding_mode: str = "constant",
    ) -> None:
        self.size = _check.pair("RandomCrop", "size", size)
        self.padding = (0, 0, 0, 0) if padding is None else _check.borders("RandomCrop", padding)
        self.pad_if_needed = bool(pad_if_needed)
        self.fill = _check.color("RandomCrop", "fill", fill)
        self.padding_mode = _check.choice("RandomCrop", "padding_mode", padding_mode, PADDING_MODES)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The part."""
        H, W = _images.image_size("RandomCrop", x)
        height, width = self.size
        left, top, right, bottom = self.padding
        if self.pad_if_needed:
            missing = max(height - (H + top + bottom), 0), max(width - (W + left + right), 0)
            left, top, right, bottom = left + missing[1], top + missing[0], right + missing[1], bottom + missing[0]
        free = H + top + bottom - height, W + left + right - width
        if min(free) < 0:
            size = (H + top + bottom, W + left + right)
            hint = "Set pad_if_needed=True, or put Resize before it."
            raise ArgumentError.of("RandomCrop", f"an image of at least {self.size}", f"{size} with its borders", hint)
        i, j = (int(rng.integers(n + 1)) for n in free)
        if self.padding_mode == "constant":  # borders need not be made: a crop beyond the image gives them
            return _images.crop(x, i - top, j - left, height, width, self.fill)
        if left or top or right or bottom:
            x = _images.pad(x, left, top, right, bottom, self.fill, self.padding_mode)
        return _images.crop(x, i, j, height, width)


class RandomResizedCrop(Transform):
    """A part of random area and proportions, resized: the usual augmentation for ImageNet.

    Args:
        size: (height, width) of the result, or one number for a square.
        scale: the smallest and largest share of the image's area.
        ratio: the smallest and largest width / height; drawn evenly in its logarithm.
        interpolation: as for ``Resize``.

    When ten draws do not fit, the middle of the image with the nearest allowed proportions is taken.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomResizedCrop(24)(np.zeros((3, 32, 48), np.uint8), rng=0).shape
    (3, 24, 24)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        self.size = _check.pair("RandomResizedCrop", "size", size)
        self.scale = _check.interval("RandomResizedCrop", "scale", scale, 0)
        self.ratio = _positive("RandomResizedCrop", "ratio", ratio)
        self.interpolation = _check.choice("RandomResizedCrop", "interpolation", interpolation, _check.INTERPOLATIONS)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The resized part."""
        top, left, height, width = self._box(*_images.image_size("RandomResizedCrop", x), rng)
        return _resize(_images.crop(x, top, left, height, width), *self.size, self.interpolation)

    def _box(self, H: int, W: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = self.ratio
        for _ in range(10):
            area = H * W * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= W and 0 < height <= H:
                return int(rng.integers(H - height + 1)), int(rng.integers(W - width + 1)), height, width
        height, width = H, W
        proportion = W / H
        if proportion < low:
            height = max(round(W / low), 1)
        elif proportion > high:
            width = max(round(H * high), 1)
        return (H - height) // 2, (W - width) // 2, height, width


class RandomHorizontalFlip(Transform):
    """Left and right exchanged with probability p. Arrays may come back as views.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomHorizontalFlip(p=1.0)(np.array([[[1, 2, 3]]], np.uint8))
    array([[[3, 2, 1]]], dtype=uint8)
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _check.number("RandomHorizontalFlip", "p", p, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """Mirrored, or x as it is."""
        _images.image_size("RandomHorizontalFlip", x)
        return _images.flip(x, 2) if rng.random() < self.p else x


class RandomVerticalFlip(Transform):
    """Top and bottom exchanged with probability p. Arrays may come back as views.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomVerticalFlip(p=1.0)(np.array([[[1], [2]]], np.uint8)).ravel()
    array([2, 1], dtype=uint8)
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _check.number("RandomVerticalFlip", "p", p, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """Mirrored, or x as it is."""
        _images.image_size("RandomVerticalFlip", x)
        return _images.flip(x, 1) if rng.random() < self.p else x


class RandomRotation(Transform):
    """Turned by a random angle.

    Args:
        degrees: a number d for angles from -d to d, or a pair; counter-clockwise.
        interpolation: "nearest", "bilinear" or "bicubic".
        expand: make the image large enough for all of the turned one.
        center: the point (x, y) to turn about, in pixels from the upper left corner; None: the middle.
        fill: the color of what lies outside, in the values of the image; one number or one per channel.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomRotation((90, 90))(np.array([[[1, 2], [3, 4]]], np.uint8))
    array([[[2, 4],
            [1, 3]]], dtype=uint8)
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: str = "nearest",
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Color = 0,
    ) -> None:
        self.degrees = _check.spread("RandomRotation", "degrees", degrees)
        self.interpolation = _check.choice("RandomRotation", "interpolation", interpolation, TURNING)
        self.expand = bool(expand)
        self.center = _point("RandomRotation", center)
        self.fill = _check.color("RandomRotation", "fill", fill)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The turned image."""
        _images.image_size("RandomRotation", x)
        angle, method = rng.uniform(*self.degrees), _check.INTERPOLATIONS[self.interpolation]

        def rotate(image: Any, fill: Any) -> Any:
            return image.rotate(angle, method, self.expand, self.center, fillcolor=fill)

        return _images.through_pillow(x, rotate, self.fill)


class RandomAffine(Transform):
    """Turned, moved, scaled and sheared at random, about the middle.

    Args:
        degrees: a number d for angles from -d to d, or a pair; clockwise, as torchvision has it here. 0: no turning.
        translate: the largest shifts (a, b) as shares of width and height, rounded to whole pixels.
        scale: the smallest and largest factor.
        shear: degrees: a number s for -s to s along x, a pair for x, or four numbers for x and y.
        interpolation: "nearest", "bilinear" or "bicubic".
        fill: the color of what lies outside, in the values of the image; one number or one per channel.
        center: the point (x, y) that stays, in pixels from the upper left corner; None: the middle.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1))(np.zeros((3, 32, 32), np.uint8), rng=0).shape
    (3, 32, 32)
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: str = "nearest",
        fill: Color = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        self.degrees = _check.spread("RandomAffine", "degrees", degrees)
        if translate is not None and (not isinstance(translate, (tuple, list)) or len(translate) != 2):
            raise ArgumentError.of("RandomAffine", "translate as a pair (along x, along y)", repr(translate))
        self.translate = tuple(_check.number("RandomAffine", "translate", v, 0, 1) for v in translate or (0, 0))
        self.scale = (1.0, 1.0) if scale is None else _positive("RandomAffine", "scale", scale)
        parts: Sequence[Any] = (0,) if shear is None else (shear,)
        if isinstance(shear, (tuple, list)) and len(shear) == 4:
            parts = (list(shear[:2]), list(shear[2:]))
        self.shear = tuple(_check.spread("RandomAffine", "shear", part, -89, 89) for part in parts)
        self.interpolation = _check.choice("RandomAffine", "interpolation", interpolation, TURNING)
        self.fill = _check.color("RandomAffine", "fill", fill)
        self.center = _point("RandomAffine", center)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The transformed image."""
        H, W = _images.image_size("RandomAffine", x)
        angle = rng.uniform(*self.degrees)
        tx, ty = (round(rng.uniform(-1, 1) * share * size) for share, size in zip(self.translate, (W, H)))
        scale = rng.uniform(*self.scale)
        shear = [rng.uniform(*limits) for limits in self.shear] + [0.0]
        cx, cy = self.center or (W / 2, H / 2)
        matrix = _inverse_affine(cx, cy, angle, tx, ty, scale, shear[0], shear[1])
        method = _check.INTERPOLATIONS[self.interpolation]

        def transform(image: Any, fill: Any) -> Any:
            return image.transform(image.size, 0, matrix, method, fillcolor=fill)  # 0: Pillow's AFFINE

        return _images.through_pillow(x, transform, self.fill)


TURNING = ("nearest", "bilinear", "bicubic")


def _inverse_affine(
    cx: float, cy: float, angle: float, tx: float, ty: float, scale: float, shear_x: float, shear_y: float
) -> tuple[float, ...]:
    """From a place (x, y) in the result to the one in the image it comes from: (a, b, c, d, e, f) for ax + by + c, dx + ey + f.

    Forwards a point p goes to R(angle) S(scale) Y(shear_y) X(shear_x) (p - center) + center + t, where X and Y are
    [[1, -tan s], [0, 1]] and [[1, 0], [-tan s, 1]].
    """
    turn, sx, sy = (math.radians(v) for v in (angle, shear_x, shear_y))
    a, c = math.cos(turn - sy) / math.cos(sy), math.sin(turn - sy) / math.cos(sy)
    b, d = -a * math.tan(sx) - math.sin(turn), -c * math.tan(sx) + math.cos(turn)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale  # the inverse: the determinant is scale squared
    x, y = -cx - tx, -cy - ty
    return a, b, a * x + b * y + cx, c, d, c * x + d * y + cy


def _positive(op: str, name: str, value: Any) -> tuple[float, float]:
    low, high = _check.interval(op, name, value)
    if low <= 0:
        raise ArgumentError.of(op, f"{name} above 0", repr(value))
    return low, high


def _point(op: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentError.of(op, "center as a pair (x, y)", repr(value))
    return _check.number(op, "center", value[0]), _check.number(op, "center", value[1])
