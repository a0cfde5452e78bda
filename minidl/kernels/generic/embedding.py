"""Embedding: rows of a table."""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.generic.elementwise import scatter_add

__all__ = ["embedding_backward", "embedding_forward"]


def embedding_forward(index: Array, w: Array) -> Array:
    """y = w[index]."""
    return w[index]


def embedding_backward(gy: Array, index: Array, rows: int, padding: int | None) -> Array:
    """gw[i] = the sum of gy wherever the index is i; 0 for the padding row."""
    gw = xp_of(gy).zeros((rows, gy.shape[-1]), gy.dtype)
    scatter_add(gw, index, gy)
    if padding is not None:
        gw[padding] = 0
    return gw
