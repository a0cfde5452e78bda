"""How a batch is made: of rows of arrays, or of the samples of a dataset one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import memory
from minidl.data.dataset import numbers
from minidl.data.transforms import Transform
from minidl.data.transforms._images import is_pillow, pillow_array
from minidl.data.transforms.convert import per_channel
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.random import use_generator

NEAR = 1 << 18  # bytes; what was just written is worked on while it is still in the cache

Empty = Callable[[tuple[int, ...], Any], np.ndarray]  # where the arrays of a batch come from, as memory.empty


@dataclass
class Task:
    """What to make a batch of. It says all there is to know, so whoever makes the batch makes the same one.

    Attributes:
        number: which batch of the epoch.
        rows: the indices of its examples, or a slice of them.
        repeats: how often each index came before in this epoch; None for never.
        key: the random numbers of this epoch; None when nothing is random.
        dtype: of the floats.
    """

    number: int
    rows: np.ndarray | slice
    repeats: np.ndarray | None
    key: int | None
    dtype: np.dtype


def stream(key: int, index: int, repeat: int = 0, of_batches: int = 0) -> np.random.Generator:
    """The random numbers of one sample or batch: they follow from the epoch's key and its index alone.

    Philox makes its numbers from (key, counter), so each counter is a stream of its own, without a state to hand on.
    """
    return np.random.Generator(np.random.Philox(key=key, counter=[0, of_batches, repeat, index]))


class Standard:
    """The mean and the deviation by which the first array of a batch is standardised."""

    def __init__(self, mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> None:
        self.mean = None if mean is None else numbers("DataLoader", np.atleast_1d(mean), "mean")
        self.std = None if std is None else numbers("DataLoader", np.atleast_1d(std), "std")
        if self.std is not None and not (self.std > 0).all():
            raise ArgumentError.of("DataLoader", "a positive std", repr(std))

    def check(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Refuse arrays that have no such channels, or no floats; (N, ...) as they come from the data."""
        channels = shape[1] if len(shape) > 1 else 1
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if not (dtype.kind == "f" or _are_images(shape, dtype)):
                expected = f"floats or uint8 images (N, C, H, W) for {name}"
                raise DtypeError.of("DataLoader", expected, f"{dtype} of shape {shape}")
            if values.shape not in ((1,), (channels,)):
                expected = f"{name} as a number or {channels} of them, one per channel"
                raise ShapeError.of("DataLoader", expected, f"shape {values.shape}")

    def apply(self, x: np.ndarray) -> None:
        """Standardise x in place."""
        for values, operation in ((self.mean, np.subtract), (self.std, np.divide)):
            if values is not None:
                if x.ndim == 4:
                    operation(x, per_channel(tuple(values.tolist()), x), out=x)
                else:
                    shape = (1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (-1,)
                    operation(x, values.astype(x.dtype).reshape(shape), out=x)


class Rows:
    """Batches of arrays that belong together row by row, all rows of a batch at once."""

    def __init__(self, arrays: tuple[np.ndarray, ...], single: bool, standard: Standard, batch_transform: Any) -> None:
        self.arrays, self.single, self.standard, self.batch_transform = arrays, single, standard, batch_transform
        self.random = batch_transform is not None
        standard.check(arrays[0].shape, arrays[0].dtype)

    def make(self, task: Task, empty: Empty = memory.empty) -> Any:
        """The batch."""
        batch = tuple(as_batch(array, task.rows, task.dtype) for array in self.arrays)
        self.standard.apply(batch[0])
        return _transformed(batch[0] if self.single else batch, self.batch_transform, task)


class Samples:
    """Batches of a dataset's samples: each is loaded, transformed and written to its place."""

    def __init__(self, dataset: Any, transform: Any, collate: Any, standard: Standard, batch_transform: Any) -> None:
        self.dataset, self.transform, self.collate = dataset, transform, collate
        self.standard, self.batch_transform = standard, batch_transform
        self.random = True  # as far as anyone knows: a dataset may draw as well

    def make(self, task: Task, empty: Empty = memory.empty) -> Any:
        """The batch; its arrays come from ``empty``, unless ``collate`` or ``batch_transform`` make others."""
        n = len(self.dataset)
        indices = np.arange(*task.rows.indices(n)) if isinstance(task.rows, slice) else task.rows
        repeats = np.zeros(len(indices), int) if task.repeats is None else task.repeats
        samples = (self._sample(int(i), int(r), task.key) for i, r in zip(indices, repeats))
        if self.collate is not None:
            batch = self.collate(list(samples))
        else:
            batch = stack(samples, len(indices), task.dtype, self.standard, empty)
        return _transformed(batch, self.batch_transform, task)

    def _sample(self, index: int, repeat: int, key: int | None) -> Any:
        assert key is not None
        rng = stream(key, index, repeat)
        try:
            with use_generator(rng):  # also for what the dataset itself draws
                sample = self.dataset[index]
                if self.transform is None:
                    return sample
                if isinstance(sample, (tuple, list)):
                    return self.transform(sample[0], rng), *sample[1:]
                return self.transform(sample, rng)
        except Exception as error:
            error.add_note(f"DataLoader met this in sample {index} of the dataset.")
            raise


def _transformed(batch: Any, transform: Transform | None, task: Task) -> Any:
    if transform is None:
        return batch
    assert task.key is not None
    return transform(batch, stream(task.key, task.number, of_batches=1))


def _are_images(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return len(shape) == 4 and dtype == np.uint8


def _form(shape: tuple[int, ...], dtype: np.dtype, floats: Any, empty: Empty) -> np.ndarray:
    """An uninitialised array of a batch in the form that ``DataLoader`` promises, for values of this shape and dtype."""
    if dtype.kind == "f" or _are_images(shape, dtype):
        if len(shape) == 4:
            N, C, H, W = shape
            return empty((N, H, W, C), floats).transpose(0, 3, 1, 2)
        return empty(shape, floats)
    return empty(shape, np.bool_ if dtype == np.bool_ else np.int64)


def as_batch(array: np.ndarray, rows: slice | np.ndarray, dtype: Any) -> np.ndarray:
    """Rows of an array as a new array in the form that ``DataLoader`` promises, floats in ``dtype``."""
    part = array[rows]
    out = _form(part.shape, part.dtype, dtype, memory.empty)
    out[...] = part
    if _are_images(part.shape, part.dtype):
        out /= 255
    return out


def stack(samples: Iterable[Any], n: int, dtype: Any, standard: Standard, empty: Empty = memory.empty) -> Any:
    """n samples as one batch in the form that ``DataLoader`` promises: an array, or a tuple of them for tuples."""
    out: list[np.ndarray] = []
    first: list[np.ndarray] = []
    single, done = False, 0
    for i, sample in enumerate(samples):
        if i == 0:
            single = not isinstance(sample, (tuple, list))
        elif single is isinstance(sample, (tuple, list)):
            raise ShapeError.of("DataLoader", "samples of one form", "a pair or tuple beside something else")
        fields = [_field(value, k) for k, value in enumerate((sample,) if single else sample)]
        if i == 0:
            first = fields
            standard.check((n, *fields[0].shape), fields[0].dtype)
            out = [_form((n, *field.shape), field.dtype, dtype, empty) for field in fields]
        elif len(fields) != len(first):
            raise ShapeError.of("DataLoader", f"samples of {len(first)} values", f"one of {len(fields)}")
        for k, field in enumerate(fields):
            if field.shape != first[k].shape:
                expected = f"samples of one shape {first[k].shape} in a batch"
                hint = "Resize or crop them with transform=, or join them yourself with collate=."
                raise ShapeError.of("DataLoader", expected, f"{field.shape} in its sample {i}", hint)
            if field.dtype.kind != first[k].dtype.kind or (field.dtype == np.uint8) != (first[k].dtype == np.uint8):
                raise DtypeError.of("DataLoader", f"samples of one dtype, {first[k].dtype}", f"{field.dtype} in sample {i}")
            out[k][i] = field
        if i + 1 == n or (i + 1 - done) * out[0][0].nbytes >= NEAR:
            for array, field in zip(out, first):
                if _are_images(array.shape, field.dtype):
                    array[done : i + 1] /= 255
            standard.apply(out[0][done : i + 1])
            done = i + 1
    return out[0] if single else tuple(out)


def _field(value: Any, k: int) -> np.ndarray:
    if is_pillow(value):
        return pillow_array(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DtypeError.of("DataLoader", f"value {k} of a sample as numbers", f"{type(value).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        hint = "Convert it in the dataset, or join the samples yourself with collate=."
        raise DtypeError.of("DataLoader", f"value {k} of a sample as numbers", type(value).__name__, hint)
    return array
