"""Batches mixed with themselves: MixUp and CutMix. They take a batch (x, y) as one thing: ``mix((x, y), rng)``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import memory
from minidl.data.transforms import _check
from minidl.data.transforms.base import Transform
from minidl.errors import ArgumentError, DtypeError, ShapeError


class _Mix(Transform):
    """What both share: the checks, the draw of lambda, and the labels."""

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        op = type(self).__name__
        self.alpha = _check.number(op, "alpha", alpha, 0)
        if self.alpha == 0:
            raise ArgumentError.of(op, "alpha above 0", repr(alpha))
        self.num_classes = None if num_classes is None else _check.integer(op, "num_classes", num_classes, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The mixed batch (x, y), y as shares of the classes (N, C)."""
        op = type(self).__name__
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ArgumentError.of(op, "a batch as a pair (x, y)", type(x).__name__)
        images, labels = x
        if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
            got = f"array of {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
            raise DtypeError.of(op, "images as an array of floats", got)
        if images.ndim != 4:
            raise ShapeError.of(op, "images of shape (N, C, H, W)", f"shape {images.shape}")
        shares = self._shares(op, labels, images)
        lam = float(rng.beta(self.alpha, self.alpha))
        mixed, lam = self.mix(images, lam, rng)
        return mixed, lam * shares + (1 - lam) * np.roll(shares, 1, axis=0)

    def mix(self, x: np.ndarray, lam: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """New images, and the share of themselves that they kept."""
        raise NotImplementedError

    def _shares(self, op: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        if not isinstance(y, np.ndarray) or len(y) != len(x):
            raise ShapeError.of(op, f"{len(x)} labels, one per image", str(getattr(y, "shape", type(y).__name__)))
        if y.ndim == 2 and y.dtype.kind == "f":
            return y.astype(x.dtype, copy=False)
        if y.ndim != 1 or y.dtype.kind not in "iu":
            got = f"{y.dtype} of shape {y.shape}"
            raise DtypeError.of(op, "labels as integers (N,), or as floats (N, C) that are shares of the classes", got)
        if self.num_classes is None:
            raise ArgumentError.of(op, "num_classes for labels that are integers", "None")
        if len(y) and not 0 <= y.min() <= y.max() < self.num_classes:
            raise ArgumentError.of(op, f"labels from 0 to {self.num_classes - 1}", f"{y.min()} to {y.max()}")
        return np.eye(self.num_classes, dtype=x.dtype)[y]


class MixUp(_Mix):
    """Every example blended with the one before it in the batch, images and labels alike.

    Formula:
        x_i <- lam x_i + (1 - lam) x_(i-1), y likewise, with one lam from Beta(alpha, alpha) per batch
    Args:
        alpha: below 1 mostly one of the two, above 1 mostly halves.
        num_classes: the number of classes, for labels that are integers.

    The labels become shares of the classes (N, C), which ``cross_entropy`` takes. Batches must be shuffled, as the
    partner is the neighbour.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2017.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> x, y = transforms.MixUp(num_classes=2)((np.eye(2, dtype=np.float32).reshape(2, 1, 1, 2), np.array([0, 1])), rng=0)
    >>> bool((x.reshape(2, 2) == y).all()), y.sum(axis=1)
    (True, array([1., 1.], dtype=float32))
    """

    def mix(self, x: np.ndarray, lam: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """The blend."""
        out = np.multiply(x, lam, out=memory.empty_like(x))
        if len(x):
            out[1:] += (1 - lam) * x[:-1]
            out[0] += (1 - lam) * x[-1]
        return out, lam


class CutMix(_Mix):
    """A random rectangle of every image replaced by that of the one before it in the batch; labels by its share.

    Formula:
        a rectangle of share 1 - lam of the area, lam from Beta(alpha, alpha), around a random point and cut at the
        border; y_i <- s y_i + (1 - s) y_(i-1) with s the share that the image kept
    Args:
        alpha: below 1 mostly very large or very small rectangles.
        num_classes: the number of classes, for labels that are integers.

    The labels become shares of the classes (N, C), which ``cross_entropy`` takes. Batches must be shuffled, as the
    partner is the neighbour.

    Source: Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", 2019.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> x = np.stack([np.zeros((1, 8, 8)), np.ones((1, 8, 8))])
    >>> mixed, y = transforms.CutMix(num_classes=2)((x, np.array([0, 1])), rng=0)
    >>> bool(np.allclose(mixed.mean(axis=(1, 2, 3)), y[:, 1]))
    True
    """

    def mix(self, x: np.ndarray, lam: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """The patchwork."""
        H, W = x.shape[2:]
        top, left = int(rng.integers(H)), int(rng.integers(W))
        half = 0.5 * math.sqrt(1 - lam)
        dy, dx = int(half * H), int(half * W)
        rows, columns = slice(max(top - dy, 0), min(top + dy, H)), slice(max(left - dx, 0), min(left + dx, W))
        out = memory.empty_like(x)
        out[...] = x
        if len(x):
            out[1:, :, rows, columns] = x[:-1, :, rows, columns]
            out[0, :, rows, columns] = x[-1, :, rows, columns]
        return out, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (H * W)
