"""DataLoader: batches of arrays, in the order and form in which training wants them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl import memory
from minidl.backend import default_dtype
from minidl.data.dataset import ArrayDataset, numbers
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.random import generator


class DataLoader:
    """Batches of a dataset, or of arrays that belong together row by row.

    What comes out are new NumPy arrays, which nobody else holds:

    - uint8 arrays of shape (N, C, H, W) are images: they become floats between 0 and 1 (divided by 255);
    - floats take the default dtype, float32 (``md.use_dtype`` changes it), whatever they were before;
    - other integers, such as labels, become int64; booleans stay;
    - floats of shape (N, C, H, W) lie channels-last in memory, as minidl's kernels read them.

    Args:
        data: an ``ArrayDataset``, a tuple or list of arrays of one length, or a single array.
        batch_size: examples per batch; the last batch may be smaller.
        shuffle: draw a new order for every epoch.
        drop_last: leave out a last batch that is not full.
        rng: a generator or a seed for the orders; the same seed gives the same batches. None: minidl's own.
        mean: subtracted from the first array, after the division by 255; a number or one per channel (axis 1).
        std: what the first array is then divided by; a number or one per channel.

    Each pass over the loader is one epoch and yields tuples of arrays, or arrays where ``data`` is a single one.
    ``len(loader)`` is the number of batches; data without rows gives no batches.

    Raises:
        ShapeError: arrays of different lengths.
        DtypeError: arrays that hold no numbers; ``mean`` or ``std`` for integers.
        ArgumentError: batch_size below 1, no array, a std that is not positive.

    >>> import numpy as np
    >>> import minidl as md
    >>> images = np.full((10, 1, 8, 8), 255, np.uint8)
    >>> loader = md.data.DataLoader((images, np.arange(10)), batch_size=4, shuffle=True, rng=0)
    >>> for x, y in loader:
    ...     print(x.shape, x.dtype, x.max(), y)
    (4, 1, 8, 8) float32 1.0 [4 6 2 7]
    (4, 1, 8, 8) float32 1.0 [3 5 9 0]
    (2, 1, 8, 8) float32 1.0 [8 1]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 32,
        shuffle: bool = False,
        drop_last: bool = False,
        rng: np.random.Generator | int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        self._single = not isinstance(data, (ArrayDataset, tuple, list))
        if isinstance(data, ArrayDataset):
            data = (data.images, data.labels)
        elif self._single:
            data = (data,)
        self.arrays = tuple(numbers("DataLoader", array, f"array {i}") for i, array in enumerate(data))
        lengths = [len(array) for array in self.arrays]
        if not lengths:
            raise ArgumentError.of("DataLoader", "at least one array", "none")
        if len(set(lengths)) > 1:
            raise ShapeError.of("DataLoader", "arrays of one length", " and ".join(map(str, lengths)))
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
            raise DtypeError.of("DataLoader", "batch_size as an integer", repr(batch_size))
        if batch_size < 1:
            raise ArgumentError.of("DataLoader", "batch_size of at least 1", str(batch_size))
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._rng = None if rng is None else generator(rng)  # None: whatever minidl's own is when an epoch begins
        self._mean = None if mean is None else self._per_channel("mean", mean)
        self._std = None if std is None else self._per_channel("std", std)
        if self._std is not None and not (self._std > 0).all():
            raise ArgumentError.of("DataLoader", "a positive std", repr(std))

    def __len__(self) -> int:
        full, rest = divmod(len(self.arrays[0]), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        n = len(self.arrays[0])
        order = generator(self._rng).permutation(n) if self.shuffle else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows: slice | np.ndarray = slice(start, start + self.batch_size)
            if order is not None:
                rows = order[rows]
            batch = tuple(as_batch(array, rows, default_dtype()) for array in self.arrays)
            if self._mean is not None:
                np.subtract(batch[0], self._mean.astype(batch[0].dtype), out=batch[0])
            if self._std is not None:
                np.divide(batch[0], self._std.astype(batch[0].dtype), out=batch[0])
            yield batch[0] if self._single else batch

    def _per_channel(self, name: str, value: Any) -> np.ndarray:
        """mean or std in a shape that meets the first array along axis 1."""
        first = self.arrays[0]
        if not (first.dtype.kind == "f" or _are_images(first)):
            raise DtypeError.of(
                "DataLoader", f"floats or uint8 images (N, C, H, W) for {name}", f"{first.dtype} of shape {first.shape}"
            )
        values = numbers("DataLoader", np.atleast_1d(value), name)
        channels = first.shape[1] if first.ndim > 1 else 1
        if values.shape not in ((1,), (channels,)):
            raise ShapeError.of(
                "DataLoader", f"{name} as a number or {channels} of them, one per channel", f"shape {values.shape}"
            )
        return values.reshape(1, -1, *[1] * (first.ndim - 2)) if first.ndim > 1 else values


def _are_images(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.dtype == np.uint8


def as_batch(array: np.ndarray, rows: slice | np.ndarray, dtype: Any) -> np.ndarray:
    """Rows of an array as a new array in the form that ``DataLoader`` promises, floats in ``dtype``."""
    part = array[rows]
    if not (part.dtype.kind == "f" or _are_images(part)):
        return part.astype(np.bool_ if part.dtype == np.bool_ else np.int64)
    if part.ndim == 4:
        n, c, h, w = part.shape
        out = memory.empty_images(n, c, h, w, dtype)
    else:
        out = memory.empty(part.shape, dtype)
    out[...] = part
    if _are_images(part):
        out /= 255
    return out
