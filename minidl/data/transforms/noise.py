"""Spoiled on purpose: parts taken away and noise added. Pillow images and arrays alike; what comes is left as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.transforms import _check, _images
from minidl.data.transforms._images import Color
from minidl.data.transforms.base import Transform
from minidl.errors import ArgumentError, ShapeError


class RandomErasing(Transform):
    """A random rectangle erased, with probability p.

    Args:
        p: how often.
        scale: the smallest and largest share of the area.
        ratio: the smallest and largest height / width; drawn evenly in its logarithm.
        value: what comes instead, in the values of the image: a number, one per channel, or "random" for noise of
            mean 0 and deviation 1 (uint8 images: any value).

    Nothing is erased when ten draws give no rectangle smaller than the image.

    Source: Zhong, Zheng, Kang, Li and Yang, "Random Erasing Data Augmentation", 2017.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> erased = transforms.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1, 1))(np.ones((1, 8, 8), np.float32), rng=0)
    >>> 64 - erased.sum()
    np.float32(16.0)
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: Color | str = 0,
    ) -> None:
        self.p = _check.number("RandomErasing", "p", p, 0, 1)
        self.scale = _check.interval("RandomErasing", "scale", scale, 0, 1)
        self.ratio = _check.interval("RandomErasing", "ratio", ratio)
        if self.ratio[0] <= 0:
            raise ArgumentError.of("RandomErasing", "ratio above 0", repr(ratio))
        if isinstance(value, str) and value != "random":
            raise ArgumentError.of("RandomErasing", "value as numbers or 'random'", repr(value))
        self.value = value if isinstance(value, str) else _check.color("RandomErasing", "value", value)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """A copy with a hole, or x as it is."""
        H, W = _images.image_size("RandomErasing", x)
        if rng.random() >= self.p:
            return x
        low, high = (math.log(v) for v in self.ratio)
        for _ in range(10):
            area, ratio = H * W * rng.uniform(*self.scale), math.exp(rng.uniform(low, high))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < H and width < W:
                top, left = int(rng.integers(H - height + 1)), int(rng.integers(W - width + 1))
                return self._erase(x, (slice(None), slice(top, top + height), slice(left, left + width)), rng)
        return x

    def _erase(self, x: Any, where: tuple[slice, ...], rng: np.random.Generator) -> Any:
        array = _copy("RandomErasing", x)
        hole = array[where]
        if not isinstance(self.value, str):
            hole[...] = _column("RandomErasing", self.value, array)
        elif array.dtype == np.uint8:
            hole[...] = rng.integers(256, size=hole.shape)
        else:
            hole[...] = rng.standard_normal(hole.shape, np.float32)
        return _images.like(array, x)


def _copy(op: str, x: Any) -> np.ndarray:
    """The image as an array of its own, in the memory order it had."""
    return _images.as_array(op, x).copy(order="K")


def _column(op: str, value: Color, array: np.ndarray) -> np.ndarray:
    values = np.reshape(value, (-1, 1, 1))
    if len(values) not in (1, len(array)):
        raise ShapeError.of(op, f"one value or {len(array)}, one per channel", f"{len(values)} values")
    return values.astype(array.dtype)


class Cutout(Transform):
    """Squares around random points blanked; what lies beyond the border of the image is lost.

    Args:
        size: the side of a square, or (height, width).
        holes: how many.
        fill: what comes instead, in the values of the image; a number or one per channel.
        p: how often.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Cutout(4)(np.ones((1, 8, 8), np.float32), rng=1).sum()
    np.float32(52.0)
    """

    def __init__(self, size: int | Sequence[int], holes: int = 1, fill: Color = 0, p: float = 1.0) -> None:
        self.size = _check.pair("Cutout", "size", size)
        self.holes = _check.integer("Cutout", "holes", holes, 1)
        self.fill = _check.color("Cutout", "fill", fill)
        self.p = _check.number("Cutout", "p", p, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """A copy with holes, or x as it is."""
        H, W = _images.image_size("Cutout", x)
        if rng.random() >= self.p:
            return x
        array = _copy("Cutout", x)
        for _ in range(self.holes):
            top, left = int(rng.integers(H)) - self.size[0] // 2, int(rng.integers(W)) - self.size[1] // 2
            rows, columns = slice(max(top, 0), top + self.size[0]), slice(max(left, 0), left + self.size[1])
            array[:, rows, columns] = _column("Cutout", self.fill, array)
        return _images.like(array, x)


class GaussianNoise(Transform):
    """Normal noise added to every value.

    Args:
        mean: of the noise, where 1 is the whole range of an image: 255 for uint8.
        sigma: its standard deviation, likewise.
        clip: cut floats to [0, 1]. uint8 is always cut to its range.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> noisy = transforms.GaussianNoise(sigma=0.1)(np.full((1, 64, 64), 0.5, np.float32), rng=0)
    >>> round(float(noisy.std()), 2)
    0.1
    """

    def __init__(self, mean: float = 0.0, sigma: float = 0.1, clip: bool = True) -> None:
        self.mean = _check.number("GaussianNoise", "mean", mean)
        self.sigma = _check.number("GaussianNoise", "sigma", sigma, 0)
        self.clip = bool(clip)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The noisy image."""
        array = _images.as_array("GaussianNoise", x)
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        noisy = rng.standard_normal(array.shape, dtype)
        whole = 255 if array.dtype == np.uint8 else 1
        noisy *= dtype(self.sigma * whole)
        noisy += dtype(self.mean * whole)
        noisy += array
        if array.dtype == np.uint8:
            np.rint(noisy, out=noisy)
        if self.clip or array.dtype == np.uint8:
            np.clip(noisy, 0, whole, out=noisy)
        return _images.like(noisy.astype(array.dtype, copy=False), x)


class SaltAndPepper(Transform):
    """Some pixels all white, some all black.

    Args:
        amount: the share of pixels that are hit.
        salt: the share of white ones among them. White is 255 for uint8, 1 for floats.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> x = transforms.SaltAndPepper(amount=0.5, salt=0.5)(np.full((1, 100, 100), 7, np.uint8), rng=0)
    >>> [round(float((x == value).mean()), 1) for value in (0, 7, 255)]
    [0.2, 0.5, 0.3]
    """

    def __init__(self, amount: float = 0.05, salt: float = 0.5) -> None:
        self.amount = _check.number("SaltAndPepper", "amount", amount, 0, 1)
        self.salt = _check.number("SaltAndPepper", "salt", salt, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The spoiled image."""
        array = _copy("SaltAndPepper", x)
        draw = rng.random(array.shape[1:], np.float32)
        array[:, draw < self.amount] = 0
        array[:, draw < self.amount * self.salt] = 255 if array.dtype == np.uint8 else 1
        return _images.like(array, x)
