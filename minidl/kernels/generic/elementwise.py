"""What element-by-element arithmetic with broadcasting needs on the way back."""

from __future__ import annotations

from minidl.backend import Array

__all__ = ["sum_to"]


def sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of broadcasting: sum g over the axes along which an array of ``shape`` was repeated."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return g.sum(axes, keepdims=True).reshape(shape)
