"""Datasets that are drawn, not downloaded: to try things out, and to test with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidl.data.dataset import ArrayDataset
from minidl.errors import ArgumentError
from minidl.random import generator

CHUNK = 512  # images drawn at once; more would leave the processor's cache


def two_moons(n: int = 1000, noise: float = 0.1, rng: np.random.Generator | int | None = None) -> ArrayDataset:
    """Points of the plane on two half circles that reach into each other: no straight line divides them.

    Formula: class 0 is (cos t, sin t), class 1 is (1 - cos t, 1/2 - sin t), t evenly from 0 to pi; plus normal noise.

    Args:
        n: number of points; each class has half of them, in random order.
        noise: standard deviation of what is added to both coordinates.
        rng: a generator or a seed.

    Returns:
        An ``ArrayDataset`` of float32 of shape (n, 2).

    Raises:
        ArgumentError: n below 1, a negative noise.

    >>> import minidl as md
    >>> moons = md.data.two_moons(200, rng=0)
    >>> moons, moons.labels.sum()
    (ArrayDataset(200 examples of shape (2,), float32, 2 classes), np.int64(100))
    """
    _at_least("two_moons", "n", n, 1)
    _at_least("two_moons", "noise", noise, 0)
    rng = generator(rng)
    labels = np.arange(n) % 2
    t = np.empty(n)
    for label in (0, 1):
        t[labels == label] = np.linspace(0, np.pi, np.count_nonzero(labels == label))
    points = np.stack([np.cos(t), np.sin(t)], 1)
    points[labels == 1] = [1, 0.5] - points[labels == 1]
    points += rng.normal(0, noise, points.shape)
    order = rng.permutation(n)
    return ArrayDataset(points[order].astype(np.float32), labels[order], ("upper", "lower"))


def shapes(n: int = 1000, size: int = 32, rng: np.random.Generator | int | None = None) -> ArrayDataset:
    """Pictures of one shape each, for a first look at convolution: circles, squares, triangles, crosses and rings.

    Place, size, angle and both colours are random. In every channel the shape is brighter or darker than its ground by a
    quarter of the range at least; edges are smooth, and a little noise lies over everything. Each class has the same share,
    in random order.

    Args:
        n: number of pictures.
        size: height and width in pixels, 8 or more.
        rng: a generator or a seed.

    Returns:
        An ``ArrayDataset`` of uint8 of shape (n, 3, size, size).

    Raises:
        ArgumentError: n below 1, size below 8.

    >>> import minidl as md
    >>> pictures = md.data.shapes(100, size=24, rng=0)
    >>> pictures, pictures.classes
    (ArrayDataset(100 images of shape (3, 24, 24), uint8, 5 classes), ('circle', 'square', 'triangle', 'cross', 'ring'))
    """
    _at_least("shapes", "n", n, 1)
    _at_least("shapes", "size", size, 8)
    rng = generator(rng)
    labels = rng.permutation(np.arange(n) % len(DISTANCES))
    images = np.empty((n, 3, size, size), np.uint8)
    pixel = (np.arange(size) + 0.5) / size
    for start in range(0, n, CHUNK):
        part = labels[start : start + CHUNK]
        k = len(part)
        radius = rng.uniform(0.2, 0.35, k)
        middle = rng.uniform(radius, 1 - radius, (2, k))
        angle = rng.uniform(0, 2 * np.pi, k)
        dx, dy = (pixel[None, None, :] - middle[0][:, None, None]), (pixel[None, :, None] - middle[1][:, None, None])
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        x, y = (cos * dx + sin * dy) / radius[:, None, None], (cos * dy - sin * dx) / radius[:, None, None]
        distance = np.empty((k, size, size))
        for label, function in enumerate(DISTANCES.values()):
            here = part == label
            distance[here] = function(x[here], y[here])
        # A pixel is inside as far as the edge lies beyond it: one pixel wide, from 0 to 1.
        inside = np.clip(0.5 - distance * radius[:, None, None] * size, 0, 1)[:, None]
        ground = rng.uniform(0, 1, (k, 3))
        room = np.maximum(ground, 1 - ground)  # to the farther end of the range
        step = rng.uniform(0.25, room) * np.where(ground > 0.5, -1, 1)
        picture = ground[:, :, None, None] + inside * step[:, :, None, None]
        picture += rng.normal(0, 0.02, picture.shape)
        images[start : start + k] = np.clip(np.rint(picture * 255), 0, 255)
    return ArrayDataset(images, labels, tuple(DISTANCES))


def _box(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equilateral, with its corners on the circle of radius 1."""
    return np.maximum(-y, np.abs(x) * 3**0.5 / 2 + y / 2) - 0.5


# How far a point lies outside of each shape (negative: inside), for shapes of radius 1 around the origin.
DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.9,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": _triangle,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.9, 0.3), _box(x, y, 0.3, 0.9)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.2,
}


def _at_least(op: str, name: str, value: float, least: int) -> None:
    whole = least > 0  # a number of things
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
        raise ArgumentError.of(op, f"{name} as a {'whole ' if whole else ''}number of at least {least}", repr(value))
