"""Activations: y = f(x) element by element, and gx = gy * f'(x).

Where f' can be written in terms of y, backward takes y, so that x need not be kept.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of

__all__ = ["relu_backward", "relu_forward"]


def relu_forward(x: Array) -> Array:
    """y = max(x, 0); NaN stays NaN."""
    return xp_of(x).maximum(x, x.dtype.type(0))


def relu_backward(gy: Array, y: Array) -> Array:
    """gx = gy where y > 0, else 0 (the derivative at 0 is chosen to be 0)."""
    xp = xp_of(y)
    return xp.where(y > 0, gy, gy.dtype.type(0))
