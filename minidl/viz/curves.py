"""Learning curves: how loss and accuracy went, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minidl.errors import ArgumentError, DtypeError
from minidl.ops._arguments import describe, number
from minidl.viz import _style as style

_LINES = (("", "training", style.BLUE, "o"), ("val_", "validation", style.ORANGE, "s"))


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy per epoch, for training and validation, with the best epoch of each ringed.

    Args:
        history: one row per epoch with the keys ``epoch``, ``loss``, ``accuracy`` (0 to 1), ``val_loss``,
            ``val_accuracy``; values that are absent or None are left out, other keys are ignored. Without
            ``epoch`` the rows count from 1.

    Notes:
        Best is the lowest loss and the highest accuracy, on the validation data where there are any. A
        value that is NaN or infinite leaves a gap, which the label of the axis counts.

    Raises:
        ArgumentError: no rows, no curve in them, or an accuracy outside of 0 to 1.
        DtypeError: rows that are not mappings, or values that are not numbers.

    >>> import minidl as md
    >>> figure = md.viz.learning_curves([{"loss": 0.9, "val_loss": 0.7}, {"loss": 0.4, "val_loss": 0.5}])
    >>> figure.axes[0].get_title(loc="left")
    'Loss: lowest on validation data in epoch 2 (0.5)'
    """
    rows = _rows(history)
    kinds = [kind for kind in ("loss", "accuracy") if any(_points(rows, prefix + kind) for prefix, *_ in _LINES)]
    if not kinds:
        raise ArgumentError.of("learning_curves", "loss, accuracy, val_loss or val_accuracy in the rows", "none of them")
    title = f"Learning curves over {len(rows)} epoch{'s' if len(rows) > 1 else ''}"
    fig = style.figure(9.6 if len(kinds) == 2 else 6.4, 4.2, title)
    drawn: dict[str, Any] = {}
    for kind, axes in zip(kinds, fig.subplots(1, len(kinds), squeeze=False)[0]):
        drawn |= _draw(axes, rows, kind)
    legend = fig.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=style.LABEL)
    for text in legend.get_texts():
        text.set_color(style.INK)
    return fig


def _rows(history: Any) -> list[dict[str, float]]:
    """The rows with an epoch each and without missing values, checked."""
    op = "learning_curves"
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise DtypeError.of(op, "history as a list of rows", describe(history))
    if not history:
        raise ArgumentError.of(op, "at least one row", "an empty history")
    rows = []
    for i, row in enumerate(history):
        if not isinstance(row, Mapping):
            raise DtypeError.of(op, "each row as a dictionary", describe(row))
        checked = {"epoch": float(i + 1)}
        for key in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy"):
            if row.get(key) is None:
                continue
            try:
                value = float(row[key])
            except (TypeError, ValueError) as error:
                raise DtypeError.of(op, f"{key} as a number", describe(row[key])) from error
            if key.endswith("accuracy") and math.isfinite(value):
                number(op, key, value, 0, 1)
            checked[key] = value
        rows.append(checked)
    return rows


def _points(rows: list[dict[str, float]], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if key in row]


def _draw(axes: Axes, rows: list[dict[str, float]], kind: str) -> dict[str, Any]:
    """One panel; the lines by their name."""
    style.panel(axes)
    drawn: dict[str, Any] = {}
    notes = []
    best = None
    for prefix, name, colour, marker in _LINES:
        points = _points(rows, prefix + kind)
        if not points:
            continue
        finite = [point for point in points if math.isfinite(point[1])]
        if lost := len(points) - len(finite):
            notes.append(f"{name} {kind} is not finite in {lost} epoch{'s' if lost > 1 else ''}")
        epochs = [epoch for epoch, _ in points]
        values = [value if math.isfinite(value) else math.nan for _, value in points]
        marks: dict[str, Any] = {"marker": marker if len(rows) <= 30 else "", "markersize": 4.5}
        (drawn[name],) = axes.plot(epochs, values, color=colour, linestyle="-", linewidth=1.8, **marks)
        if finite:  # validation comes last and has the word
            best = *(min if kind == "loss" else max)(finite, key=lambda point: point[1]), name, colour
    title = kind.capitalize()
    if best is not None:
        epoch, value, name, colour = best
        axes.axvline(epoch, color=colour, linewidth=1, linestyle=":")
        axes.plot([epoch], [value], "o", markersize=12, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6)
        word, text = ("lowest", f"{value:.3g}") if kind == "loss" else ("highest", style.percent(value))
        title += f": {word} on {name} data in epoch {epoch:g} ({text})"
    axes.set_title(title, fontsize=10, color=style.INK, loc="left")
    axes.set_xlabel("\n".join(["epoch", *notes]), fontsize=style.LABEL, color=style.INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if kind == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    return drawn
