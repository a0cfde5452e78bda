"""Colors: brightness, contrast, saturation, hue, gray. Named and behaving as in torchvision.

Pillow images and uint8 arrays of three channels go through Pillow's own functions; floats, taken as values
between 0 and 1, through the formulas below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.transforms import _check, _images
from minidl.data.transforms.base import Transform
from minidl.errors import ArgumentError, ShapeError


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed at random, in random order.

    Formula:
        brightness: f x; contrast: f x + (1 - f) mean(gray(x)); saturation: f x + (1 - f) gray(x), all cut to the
        range of the image; hue: the angle on the color circle moves by f turns.
    Args:
        brightness: a number b for factors f from max(0, 1 - b) to 1 + b, or a pair.
        contrast: likewise.
        saturation: likewise; no effect on gray images.
        hue: a number h up to 0.5 for shifts from -h to h turns, or a pair; no effect on gray images.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> gray = np.full((3, 1, 1), 100, np.uint8)
    >>> transforms.ColorJitter(brightness=(1.5, 1.5))(gray).ravel()
    array([150, 150, 150], dtype=uint8)
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
    ) -> None:
        self.brightness = _factors("brightness", brightness)
        self.contrast = _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = _check.spread("ColorJitter", "hue", hue, -0.5, 0.5)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The recolored image."""
        _images.image_size("ColorJitter", x)
        steps = [
            (_brightness, self.brightness, 1.0),
            (_contrast, self.contrast, 1.0),
            (_saturation, self.saturation, 1.0),
            (_hue, self.hue, 0.0),
        ]
        active = [(step, limits) for step, limits, still in steps if limits != (still, still)]
        for k in rng.permutation(len(active)):
            step, limits = active[k]
            x = step(x, rng.uniform(*limits))
        return x


def _factors(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, (tuple, list)):
        return _check.interval("ColorJitter", name, value, 0)
    value = _check.number("ColorJitter", name, value, 0)
    return max(0.0, 1 - value), 1 + value


def _enhance(name: str, x: Any, factor: float) -> Any:
    from PIL import ImageEnhance

    return _images.through_pillow(x, lambda image, fill: getattr(ImageEnhance, name)(image).enhance(factor))


def _by_pillow(x: Any) -> bool:
    return _images.is_pillow(x) or (x.dtype == np.uint8 and len(x) in (1, 3, 4))


def _blend(x: np.ndarray, other: Any, factor: float) -> np.ndarray:
    """factor x + (1 - factor) other within the range of the image, in x's dtype."""
    top = 255 if x.dtype == np.uint8 else 1
    mixed = np.multiply(x, factor, dtype=np.float32 if x.dtype == np.uint8 else x.dtype)
    mixed += (1 - factor) * other
    return np.clip(mixed, 0, top, out=mixed).astype(x.dtype, copy=False)


def _brightness(x: Any, factor: float) -> Any:
    return _enhance("Brightness", x, factor) if _by_pillow(x) else _blend(x, 0.0, factor)


def _contrast(x: Any, factor: float) -> Any:
    return _enhance("Contrast", x, factor) if _by_pillow(x) else _blend(x, _luma(x).mean(), factor)


def _saturation(x: Any, factor: float) -> Any:
    if _by_pillow(x):
        return _enhance("Color", x, factor)
    return _blend(x, _luma(x), factor) if len(x) == 3 else x


def _hue(x: Any, shift: float) -> Any:
    if not _by_pillow(x):
        return _turn_hue(x, shift) if len(x) == 3 else x
    if (len(x.getbands()) if _images.is_pillow(x) else len(x)) < 3:
        return x

    def turn(image: Any, fill: Any) -> Any:
        from PIL import Image

        hue, saturation, value = image.convert("HSV").split()
        turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)  # 256 steps are one turn: overflow is meant
        return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert(image.mode)

    return _images.through_pillow(x, turn)


def _luma(x: np.ndarray) -> np.ndarray:
    """Gray as the eye weighs the colors (ITU-R 601-2), (H, W); arrays that are not RGB give their mean over channels."""
    if len(x) == 3:
        return 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    return x.mean(axis=0)


def _turn_hue(x: np.ndarray, shift: float) -> np.ndarray:
    """RGB floats to hue, saturation and value; the hue turned; and back."""
    high, low = x.max(axis=0), x.min(axis=0)
    chroma = high - low
    safe = np.where(chroma == 0, 1, chroma)
    red, green, blue = (high - x) / safe
    hue = np.where(high == x[0], blue - green, np.where(high == x[1], 2 + red - blue, 4 + green - red))
    hue = np.where(chroma == 0, 0, hue) / 6 + shift
    # In turns, each color is full in a third of the circle and falls off linearly over a sixth on both sides.
    centers = np.array([0, 1 / 3, 2 / 3], x.dtype).reshape(3, 1, 1)
    distance = np.abs((hue - centers + 0.5) % 1 - 0.5)
    return np.clip(high - chroma * np.clip(6 * distance - 1, 0, 1), 0, 1).astype(x.dtype, copy=False)


class Grayscale(Transform):
    """Gray values of a colored image (ITU-R 601-2 luma).

    Args:
        num_output_channels: 1, or 3 for three equal channels.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Grayscale()(np.full((3, 2, 2), 7, np.uint8)).shape
    (1, 2, 2)
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise ArgumentError.of("Grayscale", "num_output_channels of 1 or 3", repr(num_output_channels))
        self.num_output_channels = num_output_channels

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The gray image."""
        _images.image_size("Grayscale", x)
        return _gray(x, self.num_output_channels)


def _gray(x: Any, channels: int) -> Any:
    if _images.is_pillow(x):
        gray = x.convert("L")
        return gray.convert("RGB") if channels == 3 else gray
    if len(x) not in (1, 3):
        raise ShapeError.of("Grayscale", "an image of 1 or 3 channels", f"shape {x.shape}")
    if len(x) == 3 and x.dtype == np.uint8:
        x = _images.pillow_array(_images.to_pillow(x).convert("L"))
    elif len(x) == 3:
        x = _luma(x)[None].astype(x.dtype, copy=False)
    return np.repeat(x, 3, axis=0) if channels == 3 else x


class RandomGrayscale(Transform):
    """Gray with probability p; the number of channels stays.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.RandomGrayscale(p=1.0)(np.array([[[0]], [[255]], [[0]]], np.uint8)).ravel()
    array([150, 150, 150], dtype=uint8)
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = _check.number("RandomGrayscale", "p", p, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """Gray, or x as it is."""
        _images.image_size("RandomGrayscale", x)
        if rng.random() >= self.p:
            return x
        return _gray(x, len(x.getbands()) if _images.is_pillow(x) else len(x))
