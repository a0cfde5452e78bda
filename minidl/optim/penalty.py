"""Penalties on the size of parameters, to be added to a loss."""

from __future__ import annotations

from collections.abc import Iterable

from minidl import functional as F
from minidl.errors import ArgumentError, DtypeError
from minidl.ops._arguments import describe
from minidl.tensor import Tensor

__all__ = ["l1_penalty", "l2_penalty"]


def l1_penalty(parameters: Iterable[Tensor] | Tensor) -> Tensor:
    """The sum of the absolute values of all parameters; it drives small ones to zero.

    Formula:
        y = sum |w|
    Shape:
        y is one number, of the parameters' dtype.
    Gradient:
        dy/dw = sign(w), 0 at w = 0.
    Source:
        Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> loss = (w * w).sum() + 0.1 * md.optim.l1_penalty([w])
    >>> loss.item()
    5.3...
    """
    first, *others = _tensors("l1_penalty", parameters)
    total = F.absolute(first).sum()
    for w in others:
        total = total + F.absolute(w).sum()
    return total


def l2_penalty(parameters: Iterable[Tensor] | Tensor) -> Tensor:
    """Half the sum of the squares of all parameters; it pulls them towards zero.

    Formula:
        y = 1/2 * sum w^2
    Shape:
        y is one number, of the parameters' dtype.
    Gradient:
        dy/dw = w
    Notes:
        Adding ``k * l2_penalty(parameters)`` to the loss is the same as ``weight_decay=k`` in SGD, Adam,
        RMSprop and Adagrad, but not in AdamW.
    Source:
        Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", 1970.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> md.optim.l2_penalty([w]).item()
    2.5
    """
    first, *others = _tensors("l2_penalty", parameters)
    total = (first * first).sum()
    for w in others:
        total = total + (w * w).sum()
    return total * 0.5


def _tensors(op: str, parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DtypeError.of(op, "tensors", describe(tensor), "Call model.parameters().")
    if not tensors:
        raise ArgumentError.of(op, "at least one parameter", "none", "A generator can be used only once.")
    return tensors
