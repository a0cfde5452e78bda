"""What the losses share: reductions and weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import GraphError
from minidl.ops._arguments import choice, tensor
from minidl.tensor import Tensor

REDUCTIONS = ("none", "mean", "sum")


def reduce(ctx: Any, values: Array, reduction: str, total: Any = None) -> Array:
    """The values as they are, their sum, or their sum over ``total`` (their number by default; 0/0 is NaN)."""
    ctx.total = None
    if reduction == "none":
        return values
    if reduction == "mean":
        ctx.total = values.size if total is None else total
        return values.sum() / ctx.total
    return values.sum()


def spread(ctx: Any, gy: Array) -> Array:
    """dL/d(value) from dL/d(reduced), of the values' shape or 0-d."""
    return gy if ctx.total is None else gy / ctx.total


def constant(op: str, name: str, value: Any, x: Tensor) -> Tensor:
    """A weight as a tensor of x's dtype; losses take no gradient with respect to weights, and say so."""
    given = tensor(op, value, name)
    if given.requires_grad:
        raise GraphError.of(op, f"{name} as a constant", "a tensor that requires a gradient", f"Pass {name}.detach().")
    if given.dtype != x.dtype:
        given = Tensor.wrap(given._array.astype(x.dtype))
    return given if isinstance(value, Tensor) else given.to(x.device)


def reduction_word(op: str, reduction: Any) -> str:
    """One of "none", "mean", "sum"."""
    return choice(op, "reduction", reduction, REDUCTIONS)


def reduced(values: Any, reduction: str, total: float | None = None) -> Any:
    """The reduction on plain NumPy, for the oracles."""
    if reduction == "none":
        return values
    if reduction == "sum" or not np.size(values):
        return np.sum(values) if reduction == "sum" else np.nan
    return np.sum(values) / (np.size(values) if total is None else total)
