"""In which order an epoch goes through a dataset, and what of it."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError, ShapeError


class Sampler:
    """An order of indices, drawn anew for every epoch.

    To write one, define ``__len__``, the number of indices in an epoch, and ``order(rng)``. What is random about it
    must come from ``rng``: then the loader's seed repeats it, and its state resumes it.

    >>> import numpy as np
    >>> from minidl import data
    >>> class Backwards(data.Sampler):
    ...     def __len__(self):
    ...         return 4
    ...     def order(self, rng):
    ...         return np.arange(4)[::-1]
    >>> next(iter(data.DataLoader(np.arange(4), sampler=Backwards())))
    array([3, 2, 1, 0])
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of one epoch, (len(self),) integers."""
        raise NotImplementedError(f"{type(self).__name__} defines no order(rng)")


class SequentialSampler(Sampler):
    """First to last. ``data`` is anything with a length.

    >>> import numpy as np
    >>> from minidl import data
    >>> data.SequentialSampler("abc").order(np.random.default_rng(0))
    array([0, 1, 2])
    """

    def __init__(self, data: Sized) -> None:
        self.n = _length("SequentialSampler", data)

    def __len__(self) -> int:
        return self.n

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """0, 1, 2, ..."""
        return np.arange(self.n)


class RandomSampler(Sampler):
    """In random order, or drawn with replacement.

    Args:
        data: anything with a length.
        replacement: draw each index from all of them, so that some come several times and some not at all.
        num_samples: how many per epoch; None for the length of the data.

    >>> import numpy as np
    >>> from minidl import data
    >>> data.RandomSampler("abcdef", num_samples=3).order(np.random.default_rng(0))
    array([3, 2, 5])
    """

    def __init__(self, data: Sized, replacement: bool = False, num_samples: int | None = None) -> None:
        self.n = _length("RandomSampler", data)
        self.replacement = bool(replacement)
        self.num_samples = self.n if num_samples is None else _count("RandomSampler", num_samples)
        if self.num_samples > self.n and not (self.replacement and self.n):
            expected = f"num_samples of at most {self.n} without replacement"
            raise ArgumentError.of("RandomSampler", expected, str(self.num_samples))

    def __len__(self) -> int:
        return self.num_samples

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """A draw."""
        if self.replacement:
            return rng.integers(self.n, size=self.num_samples)
        return rng.permutation(self.n)[: self.num_samples]


class SubsetRandomSampler(Sampler):
    """Some examples only, in random order.

    >>> import numpy as np
    >>> from minidl import data
    >>> data.SubsetRandomSampler([10, 20, 30]).order(np.random.default_rng(0))
    array([30, 10, 20])
    """

    def __init__(self, indices: Any) -> None:
        self.indices = as_indices("SubsetRandomSampler", indices)

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The indices, shuffled."""
        return rng.permutation(self.indices)


class WeightedRandomSampler(Sampler):
    """Drawn by weight: for classes of unequal size, with the weights of ``balanced_weights``.

    Args:
        weights: (N,), one per example, not negative; they need not add up to 1.
        num_samples: how many to draw per epoch; None for N.
        replacement: without it no index comes twice, so num_samples is at most the number of positive weights.

    >>> import numpy as np
    >>> from minidl import data
    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> sampler = data.WeightedRandomSampler(data.balanced_weights(labels), num_samples=1000)
    >>> np.bincount(labels[sampler.order(np.random.default_rng(0))])
    array([473, 527])
    """

    def __init__(self, weights: Any, num_samples: int | None = None, replacement: bool = True) -> None:
        try:
            self.weights = np.array(weights, np.float64)
        except (TypeError, ValueError) as error:
            raise DtypeError.of("WeightedRandomSampler", "weights as numbers", type(weights).__name__) from error
        if self.weights.ndim != 1:
            raise ShapeError.of("WeightedRandomSampler", "one weight per example", f"shape {self.weights.shape}")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise ArgumentError.of("WeightedRandomSampler", "finite weights of at least 0, not all zero", "others")
        self.num_samples = len(self.weights) if num_samples is None else _count("WeightedRandomSampler", num_samples)
        self.replacement = bool(replacement)
        possible = np.count_nonzero(self.weights)
        if not self.replacement and self.num_samples > possible:
            expected = f"num_samples of at most {possible}, the number of positive weights, without replacement"
            raise ArgumentError.of("WeightedRandomSampler", expected, str(self.num_samples))

    def __len__(self) -> int:
        return self.num_samples

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """A draw."""
        n, p = len(self.weights), self.weights / self.weights.sum()
        return rng.choice(n, self.num_samples, replace=self.replacement, p=p)


def balanced_weights(labels: Any) -> np.ndarray:
    """One weight per example so that all classes weigh the same: 1 / (size of the example's class).

    Args:
        labels: (N,) integers.

    >>> from minidl import data
    >>> data.balanced_weights([0, 0, 0, 0, 1])
    array([0.25, 0.25, 0.25, 0.25, 1.  ])
    """
    labels = as_indices("balanced_weights", labels)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / counts[classes]


def as_indices(op: str, value: Any) -> np.ndarray:
    """Integers (N,) as an int64 array."""
    array = np.asarray(value if isinstance(value, (np.ndarray, list, tuple, range)) else list(value))
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DtypeError.of(op, "integers of shape (N,)", f"{array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def draw(sampler: Any, rng: np.random.Generator, n: int) -> np.ndarray:
    """The indices that a sampler, or any iterable of integers, gives for an epoch over n examples."""
    order = as_indices("sampler", sampler.order(rng) if isinstance(sampler, Sampler) else sampler)
    if len(order) != len(sampler):
        raise ShapeError.of("sampler", f"{len(sampler)} indices, its length", str(len(order)))
    if len(order) and not 0 <= order.min() <= order.max() < n:
        raise ArgumentError.of("sampler", f"indices from 0 to {n - 1}", f"{order.min()} to {order.max()}")
    return order


def check_sampler(sampler: Any) -> None:
    """Refuse what has no length or cannot be walked."""
    if not isinstance(sampler, Sampler) and not (isinstance(sampler, Iterable) and isinstance(sampler, Sized)):
        hint = "Pass a Sampler, or a list of indices."
        raise DtypeError.of("DataLoader", "a sampler with a length", type(sampler).__name__, hint)


def repeats(order: np.ndarray) -> np.ndarray:
    """How often each index has come before in the order: 0 at its first place, then 1, 2, ...

    >>> import numpy as np
    >>> from minidl.data import samplers
    >>> samplers.repeats(np.array([7, 3, 7, 7, 3]))
    array([0, 0, 1, 2, 1])
    """
    by_index = np.argsort(order, kind="stable")
    ordered = order[by_index]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[begins, len(order)])
    counts = np.empty(len(order), np.int64)
    counts[by_index] = np.arange(len(order)) - np.repeat(begins, lengths)
    return counts


def _length(op: str, data: Any) -> int:
    if not isinstance(data, Sized):
        raise DtypeError.of(op, "data with a length", type(data).__name__)
    return len(data)


def _count(op: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError.of(op, "num_samples as an integer", repr(value))
    if value < 1:
        raise ArgumentError.of(op, "num_samples of at least 1", str(value))
    return int(value)
