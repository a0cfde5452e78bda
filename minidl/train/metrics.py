"""Figures that say how good predictions are. They take arrays or tensors and return plain numbers and NumPy arrays."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import describe, integer


def accuracy(outputs: Any, labels: Any, ignore_index: int = -100) -> float:
    """The share of labels that the highest output names.

    Args:
        outputs: scores of shape (N, C, ...): logits or probabilities, the class on axis 1.
        labels: integers of shape (N, ...).
        ignore_index: labels with this value do not count.

    Notes:
        Of equal scores the first class wins, as in ``argmax``; scores with a NaN among them name no class and
        count as wrong. NaN when no label counts.

    Raises:
        ShapeError: labels that are not of the outputs' shape without axis 1.
        DtypeError: labels that are no integers, outputs that are no floats.
        ArgumentError: a label that is no class.

    >>> import minidl as md
    >>> md.train.accuracy([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]], [1, 0, 0])  # doctest: +ELLIPSIS
    0.666...
    """
    return _share_within("accuracy", outputs, labels, 1, ignore_index)


def top_k_accuracy(outputs: Any, labels: Any, k: int = 5, ignore_index: int = -100) -> float:
    """The share of labels that are among the k highest outputs; all else as for ``accuracy``.

    Raises:
        ArgumentError: k below 1 or above the number of classes.

    >>> import minidl as md
    >>> md.train.top_k_accuracy([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]], [2, 2], k=2)
    0.5
    """
    return _share_within("top_k_accuracy", outputs, labels, k, ignore_index)


def confusion_matrix(labels: Any, predictions: Any, classes: int | Sized) -> np.ndarray:
    """How often class j was predicted where class i was right, at [i, j].

    Args:
        labels: the right classes, integers of any shape.
        predictions: the predicted classes, integers of the same shape: ``outputs.argmax(axis=1)``.
        classes: how many classes there are, or their names.

    Returns:
        int64 of shape (classes, classes). Rows add up to how often a class occurs, the diagonal is what was right.

    Raises:
        ShapeError: labels and predictions of different shapes.
        DtypeError: labels or predictions that are no integers.
        ArgumentError: a label or prediction that is no class.

    >>> import minidl as md
    >>> md.train.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    array([[1, 1],
           [0, 2]])
    """
    op = "confusion_matrix"
    truth = _integers(op, labels, "labels")
    guess = _integers(op, predictions, "predictions", "Pass outputs.argmax(axis=1).")
    if truth.shape != guess.shape:
        raise ShapeError.of(op, "labels and predictions of one shape", f"{truth.shape} and {guess.shape}")
    n = integer(op, "classes", len(classes) if isinstance(classes, Sized) else classes, minimum=1)
    _in_range(op, truth, n)
    _in_range(op, guess, n, "predictions")
    return np.bincount(n * truth.ravel() + guess.ravel(), minlength=n * n).reshape(n, n)


def hits(outputs: Array, labels: Array) -> tuple[int, int] | None:
    """How many labels the highest output names, and how many labels are classes at all; None where this has no meaning.

    It has one for integer labels of the outputs' shape without axis 1, and at least two classes. This is the accuracy
    of the training loop: a label that is no class is one that the loss was told to ignore, else it had refused it.
    """
    fits = outputs.ndim >= 2 and outputs.shape[1] >= 2 and outputs.shape[:1] + outputs.shape[2:] == labels.shape
    if not fits or labels.dtype.kind not in "iu":
        return None
    xp = xp_of(outputs)
    best = outputs.argmax(axis=1)
    known = ~xp.isnan(xp.take_along_axis(outputs, best[:, None], axis=1)[:, 0])  # argmax finds a NaN before any number
    valid = (labels >= 0) & (labels < outputs.shape[1])
    return int(((best == labels) & known).sum()), int(valid.sum())


def _share_within(op: str, outputs: Any, labels: Any, k: int, ignore_index: int) -> float:
    scores, labels = np.asarray(outputs), _integers(op, labels, "labels")
    if scores.dtype.kind != "f":
        raise DtypeError.of(op, "outputs as float scores, one per class", describe(scores))
    if scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != labels.shape:
        raise ShapeError.of(op, "outputs (N, C, ...) and labels (N, ...)", f"{scores.shape} and {labels.shape}")
    classes = scores.shape[1]
    if not 1 <= integer(op, "k", k) <= classes:
        raise ArgumentError.of(op, f"k from 1 to the {classes} classes", str(k))
    counts = labels != ignore_index
    _in_range(op, labels[counts], classes)
    if not counts.any():
        return float("nan")
    scores, labels = np.moveaxis(scores, 1, -1)[counts], labels[counts][:, None]
    own = np.take_along_axis(scores, labels, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(classes) < labels))  # classes ranked above the right one
    return float(np.mean((before.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)))


def _integers(op: str, value: Any, name: str, hint: str = "") -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and array.size:
        raise DtypeError.of(op, f"{name} as integers", describe(array), hint)
    return array.astype(np.int64)


def _in_range(op: str, labels: np.ndarray, classes: int, name: str = "labels") -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ArgumentError.of(op, f"{name} from 0 to {classes - 1}", f"{labels.min()} to {labels.max()}")
