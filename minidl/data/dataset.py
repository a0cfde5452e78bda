"""Images with labels, and their division into parts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.random import generator


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
        return f"ArrayDataset({len(self)} images of shape {self.images.shape[1:]}, {self.images.dtype}{classes})"


def split(dataset: ArrayDataset, sizes: Sequence[float], rng: np.random.Generator | int | None = None) -> list[ArrayDataset]:
    """Divide a dataset at random into parts in which every class has its share (stratified).

    Args:
        dataset: what to divide.
        sizes: one size per part: fractions that add up to 1, or numbers of examples that add up to ``len(dataset)``.
        rng: a generator or a seed; the same seed gives the same parts.

    Returns:
        The parts, each in random order. Every example is in exactly one of them.

    Raises:
        ArgumentError: sizes that do not add up, or negative ones.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.zeros((20, 1, 4, 4)), np.arange(20) % 2, ["cat", "dog"])
    >>> train, validation = md.data.split(pets, [0.8, 0.2], rng=0)
    >>> np.bincount(train.labels), np.bincount(validation.labels)
    (array([8, 8]), array([2, 2]))
    """
    if not isinstance(dataset, ArrayDataset):
        raise DtypeError.of("split", "an ArrayDataset", type(dataset).__name__, "Make one: ArrayDataset(images, labels).")
    n = len(dataset)
    given = np.asarray(sizes)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ArgumentError.of("split", "a list of sizes, such as [0.8, 0.2]", repr(sizes))
    fractions = given.dtype.kind == "f"
    whole = 1 if fractions else n
    if not (given >= 0).all() or abs(given.sum() - whole) > 1e-6:
        expected = f"sizes that add up to {'1 (fractions)' if fractions else f'the {n} examples'}"
        raise ArgumentError.of("split", expected, repr(list(sizes)))
    rng = generator(rng)
    order = rng.permutation(n)
    labels = dataset.labels[order]
    # Example r of a class with m members stands at (r + 1/2) / m. In the order of these places every
    # class runs evenly from the beginning to the end, so any cut leaves each class its share.
    place = np.empty(n)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = order[np.argsort(place, kind="stable")]
    cuts = np.rint(np.cumsum(given) * (n / whole if whole else 0)).astype(int)[:-1]
    return [dataset[rng.permutation(part)] for part in np.split(order, cuts)]


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
