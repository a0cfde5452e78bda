"""Residual: what a block computes is added to what came in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import functional as F
from minidl.errors import DtypeError, ShapeError
from minidl.nn.container import Sequential
from minidl.nn.fusion import adds_residual, in_a_row
from minidl.nn.linear import Identity
from minidl.nn.module import Module

__all__ = ["Residual", "residual_sum"]


class Residual(Module):
    """The block of a residual network: y = max(main(x) + shortcut(x), 0).

    Args:
        main: what computes the change.
        shortcut: how x comes to the sum; the default hands it on as it is. A 1x1 convolution where the shape changes.

    Notes:
        The sum lets gradients pass the block unchanged, which is what makes networks of many layers learn. If ``main`` is a
        Sequential with a batch normalisation at its end, that one adds the shortcut and applies ReLU while it writes its
        result (``minidl.batch_norm_relu``), as long as no hook asks for what lies between.
    Raises:
        ShapeError: main(x) and shortcut(x) of different shapes.
        DtypeError: something that is no module.
    Source:
        He et al., "Deep Residual Learning for Image Recognition", 2015.

    >>> import minidl as md
    >>> from minidl import nn
    >>> block = nn.Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False, rng=0), nn.BatchNorm2d(8)))
    >>> block(md.ones(2, 8, 6, 6)).shape
    (2, 8, 6, 6)
    """

    def __init__(self, main: Module, shortcut: Module | None = None) -> None:
        super().__init__()
        for name, module in (("main", main), ("shortcut", shortcut)):
            if not isinstance(module, Module) and (name, module) != ("shortcut", None):
                hint = f"Make one: {module.__name__}(...)." if isinstance(module, type) else ""
                raise DtypeError.of("Residual", f"{name} as a Module", type(module).__name__, hint)
        self.main = main
        self.shortcut = Identity() if shortcut is None else shortcut

    def forward(self, x: Any) -> Any:
        """The sum and ReLU."""
        main = self.main
        joined = isinstance(main, Sequential) and not main._hooks and not main._pre_hooks
        return residual_sum(list(main) if joined else [main], x, self.shortcut(x))


def residual_sum(modules: Sequence[Module], x: Any, residual: Any) -> Any:
    """max(y + residual, 0), where y is what modules in a row make of x; joined where possible."""
    if adds_residual(modules):
        return in_a_row(modules, x, residual)
    y = in_a_row(modules, x)
    if y.shape != residual.shape:
        hint = "Pass a shortcut that changes the shape alike, such as a 1x1 convolution."
        raise ShapeError.of("Residual", f"shortcut(x) of main(x)'s shape {y.shape}", f"shape {residual.shape}", hint)
    return F.relu(y + residual)
