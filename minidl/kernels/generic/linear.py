"""Matrix products, and those of the fully connected layer: x (M, in), w (out, in), b (out,) or None."""

from __future__ import annotations

from minidl.backend import Array
from minidl.kernels.generic.activation import relu_forward

__all__ = ["linear_backward", "linear_forward", "linear_relu_forward", "matmul"]


def matmul(x: Array, y: Array) -> Array:
    """z = x y over the last two axes; the others broadcast, and a vector is a row (x) or a column (y), as with ``@``."""
    return x @ y


def linear_forward(x: Array, w: Array, b: Array | None) -> Array:
    """y = x w^T + b."""
    y = x @ w.T
    if b is not None:
        y += b
    return y


def linear_relu_forward(x: Array, w: Array, b: Array | None) -> Array:
    """y = max(x w^T + b, 0)."""
    return relu_forward(linear_forward(x, w, b))


def linear_backward(
    gy: Array, x: Array | None, w: Array | None, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """gx = gy w, gw = gy^T x, gb = the sum of gy over the rows; gw lies in memory as (out, in), like w."""
    gx = gy @ w if needs[0] else None
    gw = gy.T @ x if needs[1] else None
    gb = gy.sum(0) if needs[2] else None
    return gx, gw, gb
