"""Tables of numbers in CSV files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset
from minidl.errors import ArgumentError


def csv_dataset(
    path: Any,
    label: str | int = -1,
    columns: Sequence[str | int] | None = None,
    header: bool = True,
    delimiter: str = ",",
    classes: Sequence[str] | None = None,
) -> ArrayDataset:
    """Read a CSV file with one example per line: numbers, and a label.

    Labels that are whole numbers are kept; any other texts are names of classes, numbered in the order of the alphabet or,
    where ``classes`` is given (a test set must have the training set's), in its order.

    Args:
        path: the file, in UTF-8. Empty lines are left out.
        label: the column of the labels: its name in the header, or its position (-1 is the last one).
        columns: names or positions of the columns of numbers, in the order wanted; None: all but the label's.
        header: whether the first line holds the names of the columns.
        delimiter: what stands between two values.
        classes: the names of the classes.

    Returns:
        An ``ArrayDataset`` whose ``images`` are float32 of shape (N, number of columns).

    Raises:
        FileNotFoundError: no such file.
        ArgumentError: a line with too many or too few values, or with something that is no finite number (named with its line
            and column); an unknown column or class; no example.

    >>> import pathlib, tempfile
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "pets.csv")
    ...     _ = path.write_text("weight,height,kind\\n4.5,25,cat\\n30,60,dog\\n")
    ...     pets = md.data.csv_dataset(path, label="kind")
    >>> pets.images, pets.labels, pets.classes
    (array([[ 4.5, 25. ],
           [30. , 60. ]], dtype=float32), array([0, 1]), ('cat', 'dog'))
    """
    rows: list[np.ndarray] = []
    texts: list[str] = []
    lines: list[int] = []
    names: list[str] | None = None
    chosen: list[int] = []
    place = width = -1
    with Path(path).open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a mark in front
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if width < 0:  # the first line
                    width = len(cells)
                    names = [cell.strip() for cell in cells] if header else None
                    place = _column(path, label, names, width)
                    given = range(width) if columns is None else [_column(path, column, names, width) for column in columns]
                    chosen = [column for column in given if columns is not None or column != place]
                    if not chosen or place in chosen:
                        expected = f"columns of numbers beside the label's in {path}"
                        hint = f"Is {delimiter!r} what stands between the values?" if width == 1 else ""
                        raise ArgumentError.of("csv_dataset", expected, f"a label in column {place} of {width}", hint)
                    if header:
                        continue
                if len(cells) != width:
                    expected = f"{width} values in line {reader.line_num} of {path}"
                    raise ArgumentError.of("csv_dataset", expected, f"{len(cells)}")
                rows.append(_numbers(path, reader.line_num, cells, chosen, names))
                texts.append(cells[place].strip())
                lines.append(reader.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ArgumentError.of("csv_dataset", f"a CSV file in UTF-8 in {path}", str(error)) from error
    if not rows:
        raise ArgumentError.of("csv_dataset", f"at least one example in {path}", "none")
    labels, found = _labels(path, texts, lines, classes)
    return ArrayDataset(np.stack(rows), labels, found)


def _column(path: Any, column: str | int, names: list[str] | None, width: int) -> int:
    """The position of a column given by name or position."""
    if isinstance(column, str):
        if names is None or names.count(column) != 1:
            known = "no names, without a header" if names is None else ", ".join(names)
            raise ArgumentError.of("csv_dataset", f"one column of the name {column!r} in {path}", known)
        return names.index(column)
    if not -width <= column < width:
        raise ArgumentError.of("csv_dataset", f"a column from {-width} to {width - 1} in {path}", str(column))
    return column % width


def _numbers(path: Any, line: int, cells: list[str], chosen: list[int], names: list[str] | None) -> np.ndarray:
    """The values of one line."""
    texts = [cells[column] for column in chosen]
    values = _finite(texts)
    if values is not None:
        return values
    column, text = next((column, text) for column, text in zip(chosen, texts) if _finite([text]) is None)
    name = f"column {names[column]!r}" if names else f"column {column}"
    got = repr(text) if text.strip() else "nothing"
    raise ArgumentError.of("csv_dataset", f"a finite number in line {line}, {name} of {path}", got)


def _finite(texts: list[str]) -> np.ndarray | None:
    """The texts as float32, or None where one of them is no finite number."""
    try:
        with np.errstate(over="ignore"):
            values = np.array(texts, np.float32)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _labels(
    path: Any, texts: list[str], lines: list[int], classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The labels as whole numbers, and the names of their classes where they were names."""
    for text, line in zip(texts, lines):
        if not text:
            raise ArgumentError.of("csv_dataset", f"a label in line {line} of {path}", "nothing")
    if classes is None:
        try:
            return np.array([int(text) for text in texts], np.int64), None
        except ValueError:
            pass  # names, then
        if all(_is_number(text) for text in texts):
            hint = "Labels are the numbers or names of classes."
            raise ArgumentError.of("csv_dataset", f"whole numbers or names as labels in {path}", repr(texts[0]), hint)
        classes = sorted(set(texts))
    number = {str(name): i for i, name in enumerate(classes)}
    for text, line in zip(texts, lines):
        if text not in number:
            raise ArgumentError.of("csv_dataset", f"one of {len(number)} classes in line {line} of {path}", repr(text))
    return np.array([number[text] for text in texts], np.int64), tuple(map(str, classes))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
