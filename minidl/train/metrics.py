"""Figures that say how good predictions are. They take arrays or tensors and return plain numbers and NumPy arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import choice, describe, integer


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


def precision(matrix: Any, average: str | None = "macro", zero_division: Any = 0.0, positive: int = 1) -> Any:
    """Of the examples that were predicted to be of a class, the share that are.

    Formula (per class c, from the confusion matrix M):
        M[c, c] / (sum over i of M[i, c])

    Args:
        matrix: a confusion matrix, as ``confusion_matrix`` returns it: right classes in rows, predicted ones in columns.
        average: "macro", the mean over the classes; "weighted", by their number of examples; "micro", over all examples
            together; "binary", the value of ``positive`` alone; None, one value per class.
        zero_division: the value of a class that was never predicted: a number, NaN (such classes are then left out of
            averages), or "warn" for 0 with a warning, as in scikit-learn.
        positive: the class that "binary" looks at.

    Returns:
        A number; an array (classes,) with average=None.
    Raises:
        ArgumentError: something that is no confusion matrix, an unknown average, "binary" with more than two classes.
    Source:
        van Rijsbergen, "Information Retrieval", 1979; definitions as in scikit-learn.

    >>> import minidl as md
    >>> matrix = md.train.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> md.train.precision(matrix, average=None)
    array([1.        , 0.66666667])
    """
    hit, truth, guess = _counts("precision", matrix)
    return _averaged("precision", hit, guess, truth, average, zero_division, positive, micro=(hit.sum(), guess.sum()))


def recall(matrix: Any, average: str | None = "macro", zero_division: Any = 0.0, positive: int = 1) -> Any:
    """Of the examples of a class, the share that were predicted to be of it; arguments as for ``precision``.

    Formula (per class c, from the confusion matrix M):
        M[c, c] / (sum over j of M[c, j])

    >>> import minidl as md
    >>> matrix = md.train.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> md.train.recall(matrix, average=None)
    array([0.5, 1. ])
    """
    hit, truth, _ = _counts("recall", matrix)
    return _averaged("recall", hit, truth, truth, average, zero_division, positive, micro=(hit.sum(), truth.sum()))


def f1(matrix: Any, average: str | None = "macro", zero_division: Any = 0.0, positive: int = 1) -> Any:
    """The harmonic mean of precision and recall; arguments as for ``precision``.

    Formula (per class c, from the confusion matrix M):
        2 M[c, c] / (sum over j of M[c, j] + sum over i of M[i, c])

    >>> import minidl as md
    >>> matrix = md.train.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> md.train.f1(matrix, average="binary")
    0.8
    """
    hit, truth, guess = _counts("f1", matrix)
    both = truth + guess
    return _averaged("f1", 2 * hit, both, truth, average, zero_division, positive, micro=(2 * hit.sum(), both.sum()))


def classification_report(
    matrix: Any, names: Sequence[str] | None = None, digits: int = 2, zero_division: Any = 0.0, as_dict: bool = False
) -> Any:
    """Precision, recall, F1 and the number of examples of every class, and their averages, as a table.

    Args:
        matrix: a confusion matrix.
        names: of the classes; None for their numbers.
        digits: behind the point.
        zero_division: as for ``precision``.
        as_dict: return dictionaries instead of the text.

    Returns:
        The text, or ``{class: {"precision": ..., "recall": ..., "f1-score": ..., "support": ...}, ..., "accuracy": ...,
        "macro avg": {...}, "weighted avg": {...}}``; both as scikit-learn's.
    Raises:
        ArgumentError: no confusion matrix, or another number of names.

    >>> import minidl as md
    >>> matrix = md.train.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> print(md.train.classification_report(matrix, ["cat", "dog"]))
                  precision    recall  f1-score   support
    <BLANKLINE>
             cat       1.00      0.50      0.67         2
             dog       0.67      1.00      0.80         2
    <BLANKLINE>
        accuracy                           0.75         4
       macro avg       0.83      0.75      0.73         4
    weighted avg       0.83      0.75      0.73         4
    <BLANKLINE>
    """
    op = "classification_report"
    hit, truth, _ = _counts(op, matrix)
    digits = integer(op, "digits", digits, 0)
    names = [str(i) for i in range(len(hit))] if names is None else [str(name) for name in names]
    if len(names) != len(hit):
        raise ArgumentError.of(op, f"{len(hit)} names, one per class", str(len(names)))
    total = int(truth.sum())
    rows: dict[str, dict[str, float]] = {}
    for average in (None, "macro", "weighted"):
        columns = [f(matrix, average, zero_division) for f in (precision, recall, f1)]
        if average is None:
            for name, p, r, f, n in zip(names, *columns, truth):
                rows[name] = {"precision": float(p), "recall": float(r), "f1-score": float(f), "support": int(n)}
        else:
            p, r, f = columns
            rows[f"{average} avg"] = {"precision": p, "recall": r, "f1-score": f, "support": total}
    share = float(hit.sum() / total) if total else math.nan
    if as_dict:
        averages = {name: rows.pop(name) for name in ("macro avg", "weighted avg")}
        return {**rows, "accuracy": share, **averages}
    width = max(digits, len("weighted avg"), *map(len, names))
    lines = [
        "{:>{width}} ".format("", width=width) + "".join(f" {h:>9}" for h in ("precision", "recall", "f1-score", "support"))
    ]
    for name, row in rows.items():
        if name == "macro avg":
            lines += ["", f"{'accuracy':>{width}}  {'':>9} {'':>9} {share:>9.{digits}f} {total:>9}"]
        elif len(lines) == 1:
            lines.append("")
        figures = " ".join(f"{row[column]:>9.{digits}f}" for column in ("precision", "recall", "f1-score"))
        lines.append(f"{name:>{width}}  {figures} {row['support']:>9}")
    return "\n".join(lines) + "\n"


def roc_auc(labels: Any, scores: Any, average: str | None = "macro") -> Any:
    """The area under the ROC curve: how likely an example of a class has a higher score for it than another example.

    Formula (P examples of the class, N others, r their ranks among all scores from 1 up, ties sharing the mean):
        (sum of r over the class - P (P + 1) / 2) / (P N)

    Args:
        labels: classes, integers (N,).
        scores: (N,) or (N, 1), higher for class 1 of classes 0 and 1; or one column per class (N, C), each compared
            against all others (one versus rest). Any scale; softmax the logits of more than two classes first.
        average: of several classes: "macro", "weighted" by their number of examples, or None for one value per class.

    Returns:
        A number, or an array (C,) with average=None. NaN for a class that all examples have or none, and for averages
        over such a class.
    Raises:
        ShapeError: labels and scores of different lengths.
        DtypeError: labels that are no integers, scores that are no numbers.
        ArgumentError: a label that is no class, NaN among the scores, an unknown average.
    Source:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other",
        1947; Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982.

    >>> import minidl as md
    >>> md.train.roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    op = "roc_auc"
    truth, values = _integers(op, labels, "labels"), np.asarray(scores)
    if values.dtype.kind not in "fiub":
        raise DtypeError.of(op, "scores as numbers", describe(values))
    if average is not None:
        choice(op, "average", average, ("macro", "weighted"))
    if truth.ndim != 1 or values.ndim not in (1, 2) or len(values) != len(truth):
        raise ShapeError.of(op, "labels (N,) and scores (N,) or (N, C)", f"{truth.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ArgumentError.of(op, "scores without NaN", "NaN")
    single = values.ndim == 1 or values.shape[1] == 1
    values = values.reshape(len(values), -1)
    _in_range(op, truth, 2 if single else values.shape[1])
    if single or values.shape[1] == 2:  # the second class against the first
        return (
            _area(truth == 1, values[:, -1])
            if average is not None or single
            else np.array([_area(truth == c, values[:, c]) for c in (0, 1)])
        )
    areas = np.array([_area(truth == c, values[:, c]) for c in range(values.shape[1])])
    if average is None:
        return areas
    sizes = np.bincount(truth, minlength=len(areas)) if average == "weighted" else np.ones(len(areas))
    return float(np.average(areas, weights=sizes)) if sizes.sum() else math.nan


def class_weights(labels: Any, classes: int | Sized | None = None) -> np.ndarray:
    """Factors for a loss under which every class counts as much as any other, however rare it is.

    Formula (n_c examples of class c, N in all, C classes):
        N / (C n_c)

    Args:
        labels: classes, integers of any shape.
        classes: how many classes there are, or their names; None for the highest label + 1.

    Returns:
        float64 (C,); 0 for a class without examples.
    Raises:
        DtypeError: labels that are no integers.
        ArgumentError: a label that is no class.
    Source:
        King and Zeng, "Logistic Regression in Rare Events Data", 2001.

    >>> import minidl as md
    >>> from minidl import nn
    >>> weight = md.train.class_weights([0, 0, 0, 1])
    >>> weight
    array([0.66666667, 2.        ])
    >>> loss = nn.CrossEntropyLoss(weight=weight)  # for fit(model, batches, optimizer, loss)
    """
    op = "class_weights"
    truth = _integers(op, labels, "labels").ravel()
    highest = int(truth.max()) + 1 if truth.size else 1
    n = highest if classes is None else len(classes) if isinstance(classes, Sized) else classes
    n = integer(op, "classes", n, minimum=1)
    _in_range(op, truth, n)
    counts = np.bincount(truth, minlength=n)
    return np.divide(truth.size, n * counts, out=np.zeros(n), where=counts > 0)


def hits(outputs: Array, labels: Array) -> tuple[Array, Array] | None:
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
    return ((best == labels) & known).sum(), valid.sum()


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
    return float(np.mean(rank_within(np.moveaxis(scores, 1, -1)[counts], labels[counts]) < k))


def rank_within(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes have a higher score than the right one, per row of (N, C); C where one of them is NaN."""
    labels = labels[:, None]
    own = np.take_along_axis(scores, labels, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels))
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], before.sum(axis=1))


def _counts(op: str, matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class: how often it was right and predicted, right, predicted."""
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0 or counts.dtype.kind not in "iu":
        hint = "Make one: confusion_matrix(labels, predictions, classes)."
        raise ArgumentError.of(op, "a confusion matrix (classes, classes) of integers", describe(counts), hint)
    counts = counts.astype(np.int64)
    return np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)


def _averaged(
    op: str,
    above: np.ndarray,
    below: np.ndarray,
    sizes: np.ndarray,
    average: str | None,
    zero: Any,
    positive: int,
    micro: tuple,
) -> Any:
    """above / below per class, brought together; ``zero`` where below is 0."""
    if average is not None:
        choice(op, "average", average, ("macro", "micro", "weighted", "binary"))
    if average == "binary":
        if len(above) != 2:
            raise ArgumentError.of(
                op, "two classes for average='binary'", str(len(above)), "Choose 'macro', 'micro' or 'weighted'."
            )
        if integer(op, "positive", positive) not in (0, 1):
            raise ArgumentError.of(op, "positive as class 0 or 1", str(positive))
    if zero != "warn" and not (isinstance(zero, (int, float)) and (zero in (0, 1) or math.isnan(zero))):
        raise ArgumentError.of(op, "zero_division as 0, 1, NaN or 'warn'", repr(zero))
    if average == "micro":
        above, below = np.array([micro[0]]), np.array([micro[1]])
    elif average == "binary":
        above, below = above[[positive]], below[[positive]]
    if zero == "warn":
        zero = 0.0
        if (below == 0).any():
            warnings.warn(f"{op}: a class has no value and counts as 0; zero_division chooses another.", stacklevel=3)
    values = np.divide(above, below, out=np.full(len(above), float(zero)), where=below > 0)
    if average is None:
        return values
    weights = sizes if average == "weighted" else np.ones(len(values))
    known = ~np.isnan(values)
    if not weights[known].sum():
        return float(zero) if average == "weighted" and not weights.sum() else math.nan
    return float(np.average(values[known], weights=weights[known]))


def _area(mine: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve of one class; whole numbers until the last division, so that nothing is rounded."""
    inside = int(mine.sum())
    outside = len(mine) - inside
    if not inside or not outside:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    doubled = 2 * np.cumsum(counts) - counts + 1  # twice the mean rank of each value
    return (int(doubled[place.ravel()][mine].sum()) - inside * (inside + 1)) / (2 * inside * outside)


def _integers(op: str, value: Any, name: str, hint: str = "") -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and array.size:
        raise DtypeError.of(op, f"{name} as integers", describe(array), hint)
    return array.astype(np.int64)


def _in_range(op: str, labels: np.ndarray, classes: int, name: str = "labels") -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ArgumentError.of(op, f"{name} from 0 to {classes - 1}", f"{labels.min()} to {labels.max()}")
