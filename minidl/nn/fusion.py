"""Layers in a row that one operation computes, without writing to memory what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.context import state
from minidl.errors import ShapeError
from minidl.nn.activation import ReLU
from minidl.nn.conv import Conv2d
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm1d, BatchNorm2d
from minidl.nn.pooling import MaxPool2d

__all__ = ["adds_residual", "fused", "in_a_row"]


_FIRST = {Conv2d, Linear, BatchNorm1d, BatchNorm2d}


def in_a_row(modules: Sequence[Module], x: Any, residual: Any = None) -> Any:
    """Run modules one after the other, joined where ``fused`` allows.

    The last one, a batch normalisation, adds a residual that is given, then applies ReLU: ask ``adds_residual`` before.
    """
    i = 0
    while i < len(modules):
        count, options = fused(modules, i)
        if residual is not None and i == len(modules) - 1:
            options["residual"] = residual
        try:
            x = modules[i](x, **options)
        except ShapeError:
            for module in modules[i : i + count] if count > 1 else ():  # for the name of the one that does not fit
                x = module(x)
            raise
        i += count
    return x


def fused(modules: Sequence[Module], i: int) -> tuple[int, dict[str, Any]]:
    """How many of ``modules`` from i on the call ``modules[i](x, **options)`` runs, and these options.

    A convolution takes along a batch normalisation, when that has nothing to learn or collect, then a ReLU, then a max
    pooling by 2; a fully connected layer and a batch normalisation take a ReLU. Nobody may ask for what lies between: no
    hook of these modules, and no watcher of operations (summaries, profiles). A subclass may mean something else and stays
    alone.
    """
    first, after = modules[i], i + 1
    options: dict[str, Any] = {}
    if type(first) not in _FIRST or first._hooks or state.watchers:
        return 1, options
    if type(first) is Conv2d:
        if _plain(modules, after, BatchNorm2d) and _fixed(modules[after], first):
            options["norm"] = modules[after]
            after += 1
        if _plain(modules, after, ReLU):
            options["relu"] = True
            after += 1
            if _plain(modules, after, MaxPool2d) and _halves(modules[after]):
                options["pool"] = 2
                after += 1
    elif _plain(modules, after, ReLU):
        options["relu"] = True
        after += 1
    return after - i, options


def adds_residual(modules: Sequence[Module]) -> bool:
    """Whether modules in a row end with a batch normalisation that can add a residual and apply ReLU.

    One that the convolution before it takes along cannot. Nobody may ask for the result before the sum.
    """
    last = len(modules) - 1
    if state.watchers or not any(_plain(modules, last, kind) for kind in (BatchNorm1d, BatchNorm2d)):
        return False
    return not (last > 0 and type(modules[last - 1]) is Conv2d and _fixed(modules[last], modules[last - 1]))


def _plain(modules: Sequence[Module], i: int, kind: type[Module]) -> bool:
    """Whether module i is there, of this very class, and has no hooks."""
    return i < len(modules) and type(modules[i]) is kind and not modules[i]._hooks and not modules[i]._pre_hooks


def _fixed(norm: Any, conv: Any) -> bool:
    """Whether a normalisation is a fixed linear map of the convolution's channels, of which no gradient is asked for."""
    collected = not norm.training and norm.running_mean is not None
    return collected and not state.grad_enabled and norm.num_features == conv.out_channels


def _halves(pool: Any) -> bool:
    """Whether a max pooling has 2x2 windows side by side and nothing else."""
    plain = not (pool.ceil_mode or pool.return_indices)
    return plain and (pool.kernel_size, pool.stride, pool.padding, pool.dilation) == ((2, 2), (2, 2), (0, 0), (1, 1))
