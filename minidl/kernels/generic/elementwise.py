"""Element-by-element arithmetic, and what it and indexing need on the way back: undo a repetition, undo a selection."""

from __future__ import annotations

from typing import Any

from minidl.backend import Array, xp_of

__all__ = ["add", "add_to", "multiply", "scatter_add", "sum_to"]


def add(a: Array, b: Array) -> Array:
    """a + b."""
    return a + b


def add_to(a: Array, b: Array) -> None:
    """a += b, for an array a."""
    a += b


def multiply(a: Array, b: Array) -> Array:
    """a * b."""
    return a * b


def sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of broadcasting: sum g over the axes along which an array of ``shape`` was repeated."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return g.sum(axes, keepdims=True).reshape(shape)


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """target[index] += values, in place, where an element that the index names several times gets every value.

    ``target`` is C-contiguous and ``values`` has the shape of ``target[index]``. The index is turned into
    flat positions first: ``add.at`` is several times faster on one axis.
    """
    xp = xp_of(target)
    positions = xp.arange(target.size).reshape(target.shape)[index]
    xp.add.at(target.reshape(-1), positions.reshape(-1), values.reshape(-1))
