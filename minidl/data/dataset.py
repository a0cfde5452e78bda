"""Examples with labels: as arrays, or as a view of some of a dataset's examples."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError, ShapeError


class ArrayDataset:
    """Images and their labels, held as two arrays.

    ``dataset[i]`` is one pair (image, label); a slice, a list of indices or a mask gives a smaller dataset.

    Args:
        images: array of shape (N, ...), most often (N, C, H, W); kept as it is, without a copy.
        labels: integers of shape (N,); kept as int64.
        classes: the names of the classes, in the order of their labels.

    Raises:
        ShapeError: images and labels of different lengths, or labels of more than one axis.
        DtypeError: images that are no numbers, or labels that are no integers.
        ArgumentError: a label without a name in ``classes``.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.zeros((6, 3, 8, 8), np.uint8), [0, 0, 1, 1, 1, 0], ["cat", "dog"])
    >>> len(pets), pets[2][1], pets.classes[pets[2][1]]
    (6, 1, 'dog')
    >>> pets[:4]
    ArrayDataset(4 images of shape (3, 8, 8), uint8, 2 classes)
    """

    def __init__(self, images: Any, labels: Any, classes: Sequence[str] | None = None) -> None:
        self.images = numbers("ArrayDataset", images, "images")
        labels = numbers("ArrayDataset", labels, "labels")
        if labels.size == 0:
            labels = labels.astype(np.int64)  # an empty list has no dtype of its own
        if labels.dtype.kind not in "iu":
            raise DtypeError.of("ArrayDataset", "labels as integers", str(labels.dtype))
        if labels.ndim != 1 or len(labels) != len(self.images):
            raise ShapeError.of("ArrayDataset", f"{len(self.images)} labels, one per image", f"shape {labels.shape}")
        self.labels = labels.astype(np.int64)
        self.classes = None if classes is None else tuple(classes)
        if self.classes is not None and len(labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            expected = f"labels from 0 to {len(self.classes) - 1} for {len(self.classes)} classes"
            raise ArgumentError.of("ArrayDataset", expected, f"{self.labels.min()} to {self.labels.max()}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice) and np.ndim(index) == 0:
            i = operator.index(index)
            return self.images[i], int(self.labels[i])
        index = list(index) if isinstance(index, tuple) else index
        return ArrayDataset(self.images[index], self.labels[index], self.classes)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes is not None else ""
        return f"ArrayDataset({describe(len(self), self.images)}{classes})"


class Subset:
    """Some examples of a dataset, in an order of their own: a view, which reads them when they are asked for.

    ``subset[i]`` is ``dataset[indices[i]]``; a slice, a list of indices or a mask gives a smaller view.

    Args:
        dataset: anything with ``len(dataset)`` and ``dataset[i]``; a Subset is looked through.
        indices: which examples, as whole numbers from 0 to ``len(dataset) - 1``.

    Raises:
        DtypeError: indices that are no whole numbers.
        ArgumentError: an index outside of the dataset.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.arange(6.0)[:, None], [0, 0, 1, 1, 1, 0], ["cat", "dog"])
    >>> dogs = md.data.Subset(pets, np.flatnonzero(pets.labels == 1))
    >>> len(dogs), dogs[0], dogs.labels
    (3, (array([2.]), 1), array([1, 1, 1]))
    """

    def __init__(self, dataset: Any, indices: Any) -> None:
        indices = np.asarray(indices)
        if indices.size == 0:
            indices = indices.astype(np.int64)  # an empty list has no dtype of its own
        if indices.dtype.kind not in "iu" or indices.ndim != 1:
            raise DtypeError.of("Subset", "indices as a list of whole numbers", f"{indices.dtype} of shape {indices.shape}")
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(dataset):
            expected = f"indices from 0 to {len(dataset) - 1}"
            raise ArgumentError.of("Subset", expected, f"{indices.min()} to {indices.max()}")
        indices = indices.astype(np.int64)
        self.dataset: Any = dataset.dataset if isinstance(dataset, Subset) else dataset
        self.indices: np.ndarray = dataset.indices[indices] if isinstance(dataset, Subset) else indices
        labels = getattr(dataset, "labels", None)
        self.labels: np.ndarray | None = None if labels is None else np.asarray(labels)[indices]
        self.classes: tuple[str, ...] | None = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice) and np.ndim(index) == 0:
            return self.dataset[int(self.indices[operator.index(index)])]
        index = index if isinstance(index, slice) else np.asarray(index, None if len(index) else np.int64)
        return Subset(self.dataset, self.indices[index])

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"


def in_memory(dataset: Any) -> ArrayDataset:
    """Read a whole dataset once, and keep it as two arrays: for small pictures the fastest to train on.

    Args:
        dataset: anything with ``len(dataset)`` and ``dataset[i]`` -> (array, label), all arrays of one shape and dtype.

    Raises:
        ShapeError: examples of different shapes, or no examples.

    >>> import numpy as np
    >>> import minidl as md
    >>> squares = [(np.full((1, 2, 2), i), i % 2) for i in range(4)]
    >>> md.data.in_memory(squares)
    ArrayDataset(4 images of shape (1, 2, 2), int64)
    """
    if not len(dataset):
        raise ShapeError.of("in_memory", "at least one example", "an empty dataset")
    first = np.asarray(dataset[0][0])
    images, labels = np.empty((len(dataset), *first.shape), first.dtype), np.empty(len(dataset), np.int64)
    for i in range(len(dataset)):
        x, y = dataset[i]
        x = np.asarray(x)
        if x.shape != first.shape or x.dtype != first.dtype:
            expected = f"example {i} like the first one, {first.dtype} of shape {first.shape}"
            raise ShapeError.of("in_memory", expected, f"{x.dtype} of shape {x.shape}")
        images[i], labels[i] = x, operator.index(y)
    return ArrayDataset(images, labels, getattr(dataset, "classes", None))


def data_hash(dataset: Any) -> str:
    """A fingerprint of what a dataset holds, to be written beside results: SHA-256 over every example in its order.

    The same examples give the same text, however they are stored: as arrays, as files or as a view of a larger dataset.
    Reads every example; a random transform makes the result random.

    Args:
        dataset: anything with ``len(dataset)`` and ``dataset[i]`` -> numbers and arrays of numbers.

    Returns:
        64 hexadecimal digits.

    Raises:
        DtypeError: examples that hold something else than numbers.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.arange(6.0)[:, None], [0, 0, 1, 1, 1, 0], ["cat", "dog"])
    >>> md.data.data_hash(pets)[:16], md.data.data_hash(pets[:5])[:16]
    ('29d74b523d926cac', 'c981b3927603b79b')
    """
    classes = getattr(dataset, "classes", None)
    digest = hashlib.sha256(repr(None if classes is None else list(map(str, classes))).encode())
    for i in range(len(dataset)):
        example = dataset[i]
        for value in example if isinstance(example, (tuple, list)) else (example,):
            array = np.asarray(value)
            if array.dtype.kind not in "fiub":
                raise DtypeError.of("data_hash", f"example {i} as numbers", f"{type(value).__name__} of {array.dtype}")
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)  # the same on every machine
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def describe(n: int, images: np.ndarray) -> str:
    """How many examples of which form."""
    return f"{n} {'images' if images.ndim > 2 else 'examples'} of shape {images.shape[1:]}, {images.dtype}"


def numbers(op: str, value: Any, name: str) -> np.ndarray:
    """``value`` as a NumPy array of numbers or booleans with at least one axis; no copy when it is one."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DtypeError.of(op, f"{name} as a NumPy array", f"{type(value).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DtypeError.of(op, f"{name} as numbers", f"{type(value).__name__} of {array.dtype}")
    if array.ndim == 0:
        raise ShapeError.of(op, f"{name} with one row per example", "a single number")
    return array
