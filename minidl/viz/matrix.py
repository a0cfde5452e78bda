"""The confusion matrix: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from minidl.errors import ArgumentError, ShapeError
from minidl.ops._arguments import tensor
from minidl.viz import _style as style

_WRITTEN = 30  # with more classes the cells are too small for numbers
_NAMED = 100  # with more the names no longer fit


def confusion_matrix(matrix: Any, classes: Sequence[Any] | None = None, normalize: bool = False) -> Figure:
    """A confusion matrix with a number in each cell; row: true class, column: predicted class.

    Colours show shares of the true class: right answers blue, mistakes orange. Mistakes have a square-root
    scale of their own, which ends at 10 % or at the worst mistake, so that a single one can be seen
    beside hundreds.

    Args:
        matrix: (K, K) counts, not negative.
        classes: names of the K classes; their numbers otherwise.
        normalize: show percent of the true class in place of counts.

    Raises:
        ShapeError: a matrix that is not square, or classes that are not K.
        ArgumentError: negative or non-finite entries.

    >>> import minidl as md
    >>> figure = md.viz.confusion_matrix([[8, 2], [1, 9]], classes=["cat", "dog"])
    >>> figure.get_suptitle()
    'Confusion matrix: 17 of 20 right (85.0 %)'
    """
    counts, names = _checked(matrix, classes)
    K = len(counts)
    totals = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        shares = counts / totals[:, None]  # NaN in the rows of classes that never came
    total, right = counts.sum(), np.trace(counts)
    if total:
        title = f"Confusion matrix: {right:,.10g} of {total:,.10g} right ({style.percent(right / total)})"
    else:
        title = "Confusion matrix: no samples"
    values = 100 * shares if normalize else counts

    written = K <= _WRITTEN
    cell = 0.52 if K <= 12 else 0.42 if written else max(0.13, 8 / K) if K <= _NAMED else 12 / K
    longest = max(map(len, names)) if K <= _NAMED else 4
    turned = not written or longest * 0.085 > cell  # whether the names under the columns stand upright
    width = cell * K + 0.085 * longest + (1.4 if written else 1.9)
    fig = style.figure(max(5.0, width), max(3.0, cell * K + 1.1 + (0.085 * longest if turned else 0)), title)
    axes = fig.subplots()
    diagonal = np.eye(K, dtype=bool)
    mistakes = np.ma.masked_where(diagonal | ~(counts > 0), shares)
    right_answers = np.ma.masked_where(~diagonal | np.isnan(shares), shares)
    worst = max(0.1, mistakes.max()) if mistakes.count() else 0.1
    good = axes.imshow(right_answers, cmap=style.part_of("Blues", 0.15, 0.9), norm=Normalize(0, 1))
    wrong = axes.imshow(mistakes, cmap=style.part_of("Oranges", 0.15, 0.9), norm=PowerNorm(0.5, vmin=0, vmax=worst))
    _label(axes, names, turned, "true class (a row adds up to 100 %)" if normalize else "true class")
    if not written:
        style.colour_bar(fig, axes, wrong, "share of the true class taken for another", PercentFormatter(1.0, symbol=" %"))
        return fig
    for t in range(K):
        for p in range(K):
            empty = np.isnan(shares[t, p]) or (t != p and counts[t, p] == 0)
            colour = style.FAINT if empty else style.ink_on((good if t == p else wrong).to_rgba(shares[t, p]))
            axes.text(p, t, _text(values[t, p], normalize), ha="center", va="center", fontsize=style.LABEL, color=colour)
        if totals[t]:
            found = style.percent(shares[t, t])
            axes.text(K - 0.4, t, found, ha="left", va="center", fontsize=style.SMALL, color=style.BLUE)
    axes.text(K - 0.4, -0.6, "right", ha="left", va="bottom", fontsize=style.SMALL, color=style.BLUE)
    return fig


def _checked(matrix: Any, classes: Sequence[Any] | None) -> tuple[np.ndarray, list[str]]:
    op = "confusion_matrix"
    counts = tensor(op, matrix, "matrix").numpy().astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ShapeError.of(op, "matrix of shape (K, K), one row and column per class", f"shape {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ArgumentError.of(op, "counts of 0 or more", f"a value of {counts[~(counts >= 0) | ~np.isfinite(counts)][0]:g}")
    return counts, style.class_names(op, classes, len(counts))


def _label(axes: Axes, names: list[str], turned: bool, rows: str) -> None:
    K = len(names)
    axes.set_facecolor("white")
    axes.set_xlabel("predicted class", fontsize=10, color=style.INK)
    axes.set_ylabel(rows, fontsize=10, color=style.INK)
    axes.tick_params(colors=style.INK, labelsize=style.LABEL if K <= _WRITTEN else 6.5, length=0)
    if K <= _NAMED:
        axes.set_xticks(range(K), names, rotation=90 if turned else 0)
        axes.set_yticks(range(K), names)
    for edge in axes.spines.values():
        edge.set_color(style.LINE)
    if K <= _WRITTEN:
        axes.set_xticks(np.arange(K + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(K + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color=style.LINE, linewidth=0.5)
        axes.tick_params(which="minor", length=0)


def _text(value: float, normalize: bool) -> str:
    if np.isnan(value):
        return "–"
    if not normalize:
        return f"{value:,.6g}"
    return "0" if value == 0 else "< 0.1" if value < 0.05 else f"{value:.1f}"
