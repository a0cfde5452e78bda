"""Division of a dataset into parts in which every class has its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset, Subset
from minidl.errors import ArgumentError, DtypeError
from minidl.random import generator


def split(dataset: Any, sizes: Sequence[float], rng: np.random.Generator | int | None = None) -> list[Any]:
    """Divide a dataset at random into two or more parts in which every class has its share (stratified).

    Args:
        dataset: what to divide; it must have ``labels``.
        sizes: one size per part: fractions that add up to 1, or numbers of examples that add up to ``len(dataset)``.
        rng: a generator or a seed; the same seed gives the same parts.

    Returns:
        The parts, each in random order: ``ArrayDataset``s of an ``ArrayDataset``, and a ``Subset`` of anything that reads its
        examples when they are asked for. Every example is in exactly one of them.

    Raises:
        ArgumentError: sizes that do not add up, or negative ones.
        DtypeError: a dataset without labels.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.zeros((20, 1, 4, 4)), np.arange(20) % 2, ["cat", "dog"])
    >>> train, validation, test = md.data.split(pets, [0.6, 0.2, 0.2], rng=0)
    >>> [np.bincount(part.labels).tolist() for part in (train, validation, test)]
    [[6, 6], [2, 2], [2, 2]]
    """
    labels = _labels("split", dataset)
    n = len(labels)
    given = np.asarray(sizes)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ArgumentError.of("split", "a list of sizes, such as [0.8, 0.2]", repr(sizes))
    fractions = given.dtype.kind == "f"
    whole = 1 if fractions else n
    if not (given >= 0).all() or abs(given.sum() - whole) > 1e-6:
        expected = f"sizes that add up to {'1 (fractions)' if fractions else f'the {n} examples'}"
        raise ArgumentError.of("split", expected, repr(list(sizes)))
    rng = generator(rng)
    order = _spread(labels, rng)
    cuts = np.rint(np.cumsum(given) * (n / whole if whole else 0)).astype(int)[:-1]
    return [_part(dataset, rng.permutation(part)) for part in np.split(order, cuts)]


def k_fold(dataset: Any, k: int = 5, rng: np.random.Generator | int | None = None) -> Iterator[tuple[Any, Any]]:
    """Divide a dataset into k parts, and take each of them once to validate with and the others to train with.

    Every class has its share in every part (stratified).

    Args:
        dataset: what to divide; it must have ``labels``.
        k: number of parts, from 2 to ``len(dataset)``.
        rng: a generator or a seed; the same seed gives the same parts.

    Returns:
        k pairs (train, validation), each in random order and of the kind that ``split`` gives. Every example is in the
        validation part of exactly one pair.

    Raises:
        ArgumentError: k below 2 or above the number of examples.
        DtypeError: a dataset without labels.

    >>> import numpy as np
    >>> import minidl as md
    >>> pets = md.data.ArrayDataset(np.zeros((20, 1, 4, 4)), np.arange(20) % 2, ["cat", "dog"])
    >>> for train, validation in md.data.k_fold(pets, 4, rng=0):
    ...     print(len(train), np.bincount(validation.labels))
    15 [3 2]
    15 [2 3]
    15 [3 2]
    15 [2 3]
    """
    labels = _labels("k_fold", dataset)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise DtypeError.of("k_fold", "k as a whole number", repr(k))
    if not 2 <= k <= len(labels):
        raise ArgumentError.of("k_fold", f"k from 2 to the {len(labels)} examples", str(k))
    rng = generator(rng)
    parts = [rng.permutation(part) for part in np.array_split(_spread(labels, rng), k)]
    others = [rng.permutation(np.concatenate(parts[:i] + parts[i + 1 :])) for i in range(k)]
    return ((_part(dataset, rest), _part(dataset, part)) for rest, part in zip(others, parts))


def _labels(op: str, dataset: Any) -> np.ndarray:
    """One whole number per example."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        hint = (
            "Make one: ArrayDataset(images, labels); or give your dataset labels, an array with one whole number per example."
        )
        raise DtypeError.of(op, "an ArrayDataset", type(dataset).__name__, hint)
    labels = np.asarray(labels)
    if labels.shape != (len(dataset),) or (labels.dtype.kind not in "iu" and labels.size):
        expected = f"labels as {len(dataset)} whole numbers, one per example"
        raise DtypeError.of(op, expected, f"{labels.dtype} of shape {labels.shape}")
    return labels


def _spread(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All indices in an order that leaves every class its share in any piece of it."""
    order = rng.permutation(len(labels))
    labels = labels[order]
    # Example r of a class with m members stands at (r + 1/2) / m. In the order of these places every
    # class runs evenly from the beginning to the end, so any cut leaves each class its share.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]


def _part(dataset: Any, indices: np.ndarray) -> Any:
    return dataset[indices] if isinstance(dataset, ArrayDataset) else Subset(dataset, indices)
