"""Metrics that take in one batch after the other and tell their figure over all of them at the end.

Such a metric has ``update(outputs, labels)``, ``compute()``, ``state_dict()`` and ``load_state_dict()``; ``fit`` and
``evaluate`` take any object that has them. Functions of the confusion matrix (``f1``, ``recall``, ...) need no class of
their own: the loops keep one matrix for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.backend import to_numpy
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import choice, describe, integer, number
from minidl.tensor import Tensor
from minidl.train.metrics import rank_within, roc_auc


class ConfusionMatrix:
    """How often class j was predicted where class i was right, over many batches.

    Args:
        threshold: for models with a single output (N,) or (N, 1) and labels 0 or 1: class 1 is predicted above it. 0 is
            right for logits, 0.5 for probabilities.

    Notes:
        Outputs (N, C, ...) name the class with the highest score; labels that are no class, such as -100, do not count.
    Raises:
        ShapeError: labels that do not match the outputs; outputs with another number of classes than before.
        ArgumentError: labels of a single output that are neither 0 nor 1.

    >>> import numpy as np
    >>> import minidl as md
    >>> matrix = md.train.ConfusionMatrix()
    >>> for labels in ([0, 1], [1, 1]):
    ...     matrix.update(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array(labels))
    >>> matrix.compute()
    array([[1, 0],
           [1, 2]])
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = number("ConfusionMatrix", "threshold", threshold)
        self.matrix: np.ndarray | None = None

    def update(self, outputs: Any, labels: Any) -> None:
        """Count a batch."""
        scores, truth = _pair("ConfusionMatrix", outputs, labels)
        if scores.ndim == truth.ndim:
            guess, n = (scores > self.threshold).astype(np.int64), 2
        else:
            guess, n = scores.argmax(axis=1), scores.shape[1]
        if self.matrix is None:
            self.matrix = np.zeros((n, n), np.int64)
        if len(self.matrix) != n:
            raise ShapeError.of("ConfusionMatrix", f"outputs for {len(self.matrix)} classes, as before", f"{n}")
        counts = (truth >= 0) & (truth < n)
        self.matrix += np.bincount(n * truth[counts] + guess[counts], minlength=n * n).reshape(n, n)

    def compute(self) -> np.ndarray:
        """The matrix, int64 (classes, classes).

        Raises:
            ArgumentError: no batch so far.
        """
        if self.matrix is None:
            raise ArgumentError.of("ConfusionMatrix.compute", "at least one batch", "none")
        return self.matrix.copy()

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"matrix": self.matrix}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from saved counts."""
        self.matrix = None if saved["matrix"] is None else np.array(saved["matrix"], np.int64)


class TopK:
    """The share of labels among the k highest outputs, as ``top_k_accuracy``, over many batches.

    Raises:
        ArgumentError: k below 1 or above the number of classes.

    >>> import numpy as np
    >>> import minidl as md
    >>> top2 = md.train.TopK(2)
    >>> top2.update(np.array([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]]), np.array([2, 2]))
    >>> top2.name, top2.compute()
    ('top2', 0.5)
    """

    def __init__(self, k: int = 5) -> None:
        self.k = integer("TopK", "k", k, 1)
        self.name = f"top{self.k}"
        self.right = self.labels = 0

    def update(self, outputs: Any, labels: Any) -> None:
        """Count a batch."""
        scores, truth = _pair("TopK", outputs, labels)
        if scores.ndim == truth.ndim or self.k > scores.shape[1]:
            raise ArgumentError.of("TopK", f"outputs of at least k={self.k} classes", f"shape {scores.shape}")
        counts = (truth >= 0) & (truth < scores.shape[1])
        self.right += int((rank_within(np.moveaxis(scores, 1, -1)[counts], truth[counts]) < self.k).sum())
        self.labels += int(counts.sum())

    def compute(self) -> float:
        """The share; NaN without labels."""
        return self.right / self.labels if self.labels else math.nan

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"right": self.right, "labels": self.labels}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from saved counts."""
        self.right, self.labels = saved["right"], saved["labels"]


class ROCAUC:
    """The area under the ROC curve, as ``roc_auc``, over many batches; it keeps all scores.

    Args:
        average: of several classes: "macro" or "weighted" by their number of examples.
        logits: whether the outputs are logits, from which the probabilities of several classes have to be made first.

    Raises:
        ArgumentError: another average.

    >>> import numpy as np
    >>> import minidl as md
    >>> area = md.train.ROCAUC()
    >>> area.update(np.array([[2.0, 1.0], [1.0, 1.5]]), np.array([0, 1]))
    >>> area.update(np.array([[1.0, 1.2], [0.0, 3.0]]), np.array([0, 1]))
    >>> area.compute()
    1.0
    """

    name = "roc_auc"

    def __init__(self, average: str = "macro", logits: bool = True) -> None:
        self.average = choice("ROCAUC", "average", average, ("macro", "weighted"))
        self.logits = logits
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def update(self, outputs: Any, labels: Any) -> None:
        """Keep a batch."""
        scores, truth = _pair("ROCAUC", outputs, labels)
        if scores.ndim > truth.ndim:
            n = scores.shape[1]
            scores = np.moveaxis(scores, 1, -1).reshape(-1, n)
            truth = truth.ravel()
            counts = (truth >= 0) & (truth < n)
            scores, truth = scores[counts], truth[counts]
            if self.logits:
                scores = _binary_or_softmax(scores.astype(np.float64))
        self._scores.append(scores.reshape(len(scores), -1) if scores.ndim > 1 else scores)
        self._labels.append(truth)

    def compute(self) -> float:
        """The area; NaN without batches, and where a class is in all examples or in none."""
        if not self._scores:
            return math.nan
        return float(roc_auc(np.concatenate(self._labels), np.concatenate(self._scores), self.average))

    def state_dict(self) -> dict[str, Any]:
        """All scores and labels."""
        if not self._scores:
            return {}
        return {"scores": np.concatenate(self._scores), "labels": np.concatenate(self._labels)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from saved scores."""
        self._scores, self._labels = ([np.array(saved[name])] if saved else [] for name in ("scores", "labels"))


def _binary_or_softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities per class; of two classes the logit of the second, which ranks the same and never saturates."""
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _pair(op: str, outputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scores, integer labels): scores (N, C, ...) of labels (N, ...), or of their own shape for a single output."""
    scores, truth = (to_numpy(v._array) if isinstance(v, Tensor) else np.asarray(v) for v in (outputs, labels))
    if scores.dtype.kind != "f":
        raise DtypeError.of(op, "outputs as float scores", describe(scores))
    single = scores.shape == truth.shape or (scores.ndim == truth.ndim + 1 and scores.shape == (*truth.shape, 1))
    if single:
        scores, truth = scores.reshape(-1), truth.reshape(-1)
        if not np.isin(truth, (0, 1)).all():
            raise ArgumentError.of(op, "labels 0 and 1 for a single output", f"{truth.min()} to {truth.max()}")
    elif scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != truth.shape:
        raise ShapeError.of(op, "outputs (N, C, ...) and labels (N, ...)", f"{scores.shape} and {truth.shape}")
    elif truth.dtype.kind not in "iu":
        raise DtypeError.of(op, "labels as integers", describe(truth))
    return scores, truth.astype(np.int64)
