"""What the transforms do to an image, whatever it is: a Pillow image, or an array (C, H, W) of uint8 or floats."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import DtypeError, ShapeError

Color = float | tuple[float, ...]


def is_pillow(x: Any) -> bool:
    """True for Pillow's images. Pillow is not imported: where it is not loaded, there is none of its images."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(x, module.Image)


def pillow_array(image: Any) -> np.ndarray:
    """The pixels of a Pillow image as (C, H, W), channels-last in memory; palettes and 1-bit images are resolved."""
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def image_size(op: str, x: Any) -> tuple[int, int]:
    """(H, W), after a check that x is an image."""
    if is_pillow(x):
        return x.height, x.width
    if not isinstance(x, np.ndarray):
        raise DtypeError.of(op, "a Pillow image or a NumPy array", type(x).__name__)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DtypeError.of(op, "an image of uint8 or floats", str(x.dtype))
    if x.ndim != 3:
        raise ShapeError.of(op, "an image of shape (C, H, W)", f"shape {x.shape}")
    return x.shape[1], x.shape[2]


def as_array(op: str, x: Any) -> np.ndarray:
    """An image as an array (C, H, W): itself, or the pixels of a Pillow image."""
    image_size(op, x)
    return pillow_array(x) if is_pillow(x) else x


def like(array: np.ndarray, x: Any) -> Any:
    """An array (C, H, W) as what x is: a Pillow image when x is one."""
    return to_pillow(array) if is_pillow(x) else array


def to_pillow(array: np.ndarray) -> Any:
    """A Pillow image with the values of an array (C, H, W) of uint8, or of one channel of floats."""
    from PIL import Image

    array = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32)))


def through_pillow(x: Any, function: Callable[[Any, Any], Any], fill: Color = 0) -> Any:
    """``function(image, fill)`` of Pillow, also for arrays: at once for uint8, channel by channel for floats (mode F).

    ``fill`` comes to the function in the form that Pillow asks for: one value per channel.
    """
    if is_pillow(x):
        return function(x, _fill(fill, len(x.getbands()), x.mode == "F"))
    channels = len(x)
    if x.dtype == np.uint8 and channels in (1, 3, 4):
        return pillow_array(function(to_pillow(x), _fill(fill, channels, False)))
    floats = x.dtype.kind == "f"
    fills = _fill(fill, channels, floats)
    fills = (fills,) if channels == 1 else fills
    planes = [function(to_pillow(x[k : k + 1]), fills[k]) for k in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes]).astype(x.dtype, copy=False)


def _fill(fill: Color, channels: int, floats: bool) -> Any:
    values = fill if isinstance(fill, tuple) else (fill,) * channels
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise ShapeError.of("fill", f"one value or {channels}, one per channel", f"{len(values)} values")
    values = tuple(float(v) if floats else int(v) for v in values)
    return values[0] if channels == 1 else values


def crop(x: Any, top: int, left: int, height: int, width: int, fill: Color = 0) -> Any:
    """A part of an image; what lies beyond its borders is ``fill``. Parts of arrays are views where that is possible."""
    if is_pillow(x):
        box = (left, top, left + width, top + height)
        inside = left >= 0 and top >= 0 and box[2] <= x.width and box[3] <= x.height
        if inside or not np.any(fill):
            return x.crop(box)  # beyond the borders Pillow gives zeros
        from PIL import Image

        wider = Image.new(x.mode, (width, height), _fill(fill, len(x.getbands()), x.mode == "F"))
        wider.paste(x, (-left, -top))
        return wider
    H, W = x.shape[1:]
    rows = slice(max(top, 0), min(top + height, H))
    columns = slice(max(left, 0), min(left + width, W))
    part = x[:, rows, columns]
    if part.shape[1:] == (height, width):
        return part
    out = np.empty((height, width, len(x)), x.dtype).transpose(2, 0, 1)
    values = _fill(fill, len(x), x.dtype.kind == "f")
    out[...] = np.reshape(values, (-1, 1, 1))
    if part.size:
        y, z = rows.start - top, columns.start - left
        out[:, y : y + part.shape[1], z : z + part.shape[2]] = part
    return out


def pad(x: Any, left: int, top: int, right: int, bottom: int, fill: Color, mode: str) -> Any:
    """An image with borders: of one color ("constant"), or of its own pixels as in ``numpy.pad``."""
    H, W = (x.height, x.width) if is_pillow(x) else x.shape[1:]
    if mode == "constant":
        return crop(x, -top, -left, H + top + bottom, W + left + right, fill)
    array = pillow_array(x) if is_pillow(x) else x
    return like(np.pad(array, ((0, 0), (top, bottom), (left, right)), mode), x)  # type: ignore[call-overload]


def flip(x: Any, axis: int) -> Any:
    """Mirrored along an axis of (C, H, W): 2 left to right, 1 upside down."""
    if is_pillow(x):
        return x.transpose(0 if axis == 2 else 1)  # Pillow's FLIP_LEFT_RIGHT and FLIP_TOP_BOTTOM
    if axis == 1:
        return x[:, ::-1]
    pixels = x.transpose(1, 2, 0)
    if len(x) == 1 or pixels.strides[2] != x.itemsize:
        return x[:, :, ::-1]
    # Channels-last: whole pixels change places at once; a view would make every later step go channel by channel.
    mirrored = np.ascontiguousarray(pixels.view(f"V{len(x) * x.itemsize}")[:, ::-1])
    return mirrored.view(x.dtype).transpose(2, 0, 1)
