"""Grids of images, and the images a model gets most wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import integer, tensor
from minidl.viz import _style as style


def image_grid(images: Any, titles: Sequence[str] | None = None, columns: int | None = None, title: str = "") -> Figure:
    """Images in rows and columns, each with a title above it.

    Args:
        images: (N, C, H, W), C = 1 (grey) or 3 (red, green, blue). uint8 counts from 0 to 255. Floats from 0
            to 1 are shown as they are; all others are stretched from their lowest to their highest value.
        titles: one text per image; lines are split at newlines.
        columns: images per row; as square a grid as possible otherwise, or one row of up to 3.
        title: the title of the whole.

    Raises:
        ShapeError: images of another shape, none at all, or titles that are not N.

    >>> import minidl as md
    >>> figure = md.viz.image_grid(md.zeros(6, 1, 8, 8), titles=list("abcdef"), columns=3)
    >>> len(figure.axes[0].images)
    6
    """
    op = "image_grid"
    pictures = displayable(op, images)
    N = len(pictures)
    if N == 0:
        raise ShapeError.of(op, "at least one image", "none")
    captions = [""] * N if titles is None else [str(text) for text in titles]
    if len(captions) != N:
        raise ShapeError.of(op, f"{N} titles for {N} images", f"{len(captions)}")
    square = math.ceil(math.sqrt(N)) if N > 3 else N
    columns = min(N, square if columns is None else integer(op, "columns", columns, 1))
    inches = 1.35  # of one image
    lines = max(1 + text.count("\n") for text in captions) if any(captions) else 0
    caption_height = lines * style.SMALL * 1.25 / 72 / inches + 0.05
    tall = pictures.shape[1] / pictures.shape[2]
    width, height = style.tiles_size(N, columns, tall, caption_height)
    lines = title.count("\n") + 1 if title else 0
    size = max(style.title_width(title), width * inches + 0.2), height * inches + 0.2 + 0.25 * lines
    fig = style.figure(*size, title)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if pictures.ndim == 3 else {}
    style.tiles(fig.subplots(), pictures, captions, columns, caption_height, **grey)
    return fig


def worst_mistakes(
    images: Any, labels: Any, probabilities: Any, classes: Sequence[Any] | None = None, count: int = 25
) -> Figure:
    """The wrongly classified images that the model was surest of; without mistakes, the right ones it was least sure of.

    Args:
        images: (N, C, H, W), as ``image_grid`` takes them.
        labels: (N,) integers, the true classes.
        probabilities: (N, K), the model's answers after softmax.
        classes: names of the K classes; their numbers otherwise.
        count: how many images at most.

    Raises:
        ShapeError: images, labels, probabilities or classes whose numbers do not agree.
        DtypeError: labels that are not integers.
        ArgumentError: labels outside of 0 to K-1, or probabilities outside of 0 to 1 (logits?).

    >>> import minidl as md
    >>> figure = md.viz.worst_mistakes(md.zeros(2, 1, 8, 8), [1, 0], [[0.9, 0.1], [0.8, 0.2]])
    >>> figure.axes[0].texts[0].get_text()
    'true 1, said 0\\n90.0 % sure'
    """
    op = "worst_mistakes"
    x, y, p = (
        tensor(op, value, name).numpy()
        for value, name in ((images, "images"), (labels, "labels"), (probabilities, "probabilities"))
    )
    names = _check_answers(op, x, y, p, classes)
    count = integer(op, "count", count, 1)
    answers = p.argmax(axis=1)
    sure = p.max(axis=1)
    wrong = np.flatnonzero(answers != y)
    if wrong.size:
        chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
        title = f"{_mistakes(len(chosen), wrong.size)} in {len(y):,} image{'s' if len(y) > 1 else ''}"
    else:
        chosen = np.argsort(sure, kind="stable")[:count]
        title = f"No mistake in {len(y):,} images: the least certain right answers"
    captions = [_caption(names[y[i]], names[answers[i]], sure[i]) for i in chosen]
    return image_grid(x[chosen], captions, title=title)


def displayable(op: str, images: Any, name: str = "images") -> np.ndarray:
    """Images (N, C, H, W) as pictures (N, H, W) or (N, H, W, 3) with values from 0 to 1."""
    x = tensor(op, images, name).numpy()
    if x.ndim != 4 or x.shape[1] not in (1, 3) or (x.size == 0 and len(x) > 0):
        hint = "Add the channel axis with images[:, None]." if x.ndim == 3 else ""
        raise ShapeError.of(op, f"{name} of shape (N, C, H, W) with C = 1 or 3", f"shape {x.shape}", hint)
    if x.dtype == np.uint8:
        x = x / np.float32(255)
    elif x.dtype.kind != "f":
        x = x.astype(np.float32)
    finite = x[np.isfinite(x)]
    if finite.size and (finite.min() < 0 or finite.max() > 1):
        low, high = finite.min(), finite.max()
        x = (x - low) / (high - low) if high > low else np.full_like(x, 0.5)
    return x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)


def _check_answers(op: str, x: np.ndarray, y: np.ndarray, p: np.ndarray, classes: Sequence[Any] | None) -> list[str]:
    """The names of the classes, after images, labels and probabilities were found to fit together."""
    if p.ndim != 2 or p.shape[1] == 0:
        raise ShapeError.of(op, "probabilities of shape (N, K)", f"shape {p.shape}")
    N, K = p.shape
    if y.shape != (N,) or x.ndim == 0 or len(x) != N or N == 0:
        got = f"images {x.shape}, labels {y.shape}, probabilities {p.shape}"
        raise ShapeError.of(op, "as many images, labels and rows of probabilities, at least one", got)
    if y.dtype.kind not in "iu":
        raise DtypeError.of(op, "labels as integers", str(y.dtype))
    if y.min() < 0 or y.max() >= K:
        raise ArgumentError.of(op, f"labels from 0 to {K - 1}", f"{y.min()} to {y.max()}")
    if not ((p >= 0) & (p <= 1 + 1e-5)).all():
        raise ArgumentError.of(
            op, "probabilities from 0 to 1", f"{p.min():g} to {p.max():g}", "Are these logits? Apply softmax first."
        )
    return style.class_names(op, classes, K)


def _mistakes(shown: int, wrong: int) -> str:
    if shown < wrong:
        return f"The {shown} most confident of {wrong:,} mistakes"
    return f"All {wrong} mistakes, the most confident first," if wrong > 1 else "The only mistake"


def _caption(true: str, said: str, sure: float) -> str:
    """``true 4, said 9`` over ``99.8 % sure``; long names take a line each."""
    between = "\n" if len(true) + len(said) > 6 else " "
    return f"true {true},{between}said {said}\n{style.percent(sure)} sure"
