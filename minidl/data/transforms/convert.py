"""From pixels to numbers: ToTensor and Normalize."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minidl.data.transforms import _check, _images
from minidl.data.transforms.base import Transform
from minidl.errors import ArgumentError, DtypeError, ShapeError


class ToTensor(Transform):
    """A picture as float32 array (C, H, W), uint8 values divided by 255; named as in torchvision, but an array it is.

    Takes Pillow images (palettes become RGB) and arrays: (H, W), (C, H, W), and (H, W, C) when the last axis is 1, 3
    or 4 long and the first is not. Floats and other integers keep their values; booleans become 0 and 1. What comes
    from Pillow or (H, W, C) lies channels-last in memory, as minidl's kernels read it.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> x = transforms.ToTensor()(np.full((8, 6, 3), 51, np.uint8))
    >>> x.shape, x.dtype, x[0, 0, 0]
    ((3, 8, 6), dtype('float32'), np.float32(0.2))
    """

    def apply(self, x: Any, rng: np.random.Generator) -> np.ndarray:
        """The array."""
        if _images.is_pillow(x):
            array = _images.pillow_array(x)
        elif isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
            if x.ndim not in (2, 3):
                raise ShapeError.of("ToTensor", "an image of shape (H, W), (C, H, W) or (H, W, C)", f"shape {x.shape}")
            array = x[None] if x.ndim == 2 else x
            if x.ndim == 3 and x.shape[2] in (1, 3, 4) and x.shape[0] not in (1, 3, 4):
                array = x.transpose(2, 0, 1)
        else:
            got = f"array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise DtypeError.of("ToTensor", "a Pillow image or an array of numbers", got)
        if array.dtype == np.uint8:
            return np.divide(array, np.float32(255))
        return array.astype(np.float32)


class Normalize(Transform):
    """Subtract a mean and divide by a standard deviation, channel by channel; floats only, so after ``ToTensor``.

    Formula:
        y = (x - mean_c) / std_c
    Args:
        mean: one number per channel, or one for all.
        std: likewise; not zero.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Normalize([0.5], [0.25])(np.ones((1, 1, 2), np.float32))
    array([[[2., 2.]]], dtype=float32)
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean = tuple(_check.number("Normalize", "mean", v) for v in np.atleast_1d(mean).tolist())
        self.std = tuple(_check.number("Normalize", "std", v) for v in np.atleast_1d(std).tolist())
        if not self.mean or len({len(self.mean), len(self.std), 1}) > 2:
            raise ArgumentError.of("Normalize", "as many means as stds", f"{len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0:
            raise ArgumentError.of("Normalize", "a positive std", repr(std))

    def apply(self, x: Any, rng: np.random.Generator) -> np.ndarray:
        """The normalised array; x is left as it is."""
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            got = f"array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise DtypeError.of("Normalize", "an array of floats", got, "Put ToTensor() before it.")
        channels = max(len(self.mean), len(self.std))
        if x.ndim != 3 or channels not in (1, len(x)):
            raise ShapeError.of("Normalize", f"an image of shape (C, H, W) with C = {channels}", f"shape {x.shape}")
        out = x - per_channel(self.mean, x)
        out /= per_channel(self.std, x)
        return out


def per_channel(values: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """One value per channel in a form that meets (..., C, H, W) along C quickly: for channels-last, a whole row of them.

    NumPy's inner loop would be C long otherwise, three steps for pictures.
    """
    return _per_channel(values, x.shape[-1] if x.strides[-3] == x.itemsize else 1, x.dtype)


@lru_cache(maxsize=256)
def _per_channel(values: tuple[float, ...], width: int, dtype: np.dtype) -> np.ndarray:
    array = np.tile(np.array(values, dtype), width).reshape(1, width, len(values)).transpose(2, 0, 1)
    array.flags.writeable = False  # it is handed out again
    return array
