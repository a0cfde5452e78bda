"""Layers in a row that one operation computes, without writing to memory what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.context import state
from minidl.nn.activation import ReLU
from minidl.nn.conv import Conv2d
from minidl.nn.module import Module
from minidl.nn.pooling import MaxPool2d

__all__ = ["fused"]


def fused(modules: Sequence[Module], i: int) -> tuple[int, dict[str, Any]]:
    """How many of ``modules`` from i on the call ``modules[i](x, **options)`` runs, and these options.

    A convolution takes a ReLU, and after that a max pooling by 2, along. Nobody may ask for what lies between: no hook
    of these modules, and no watcher of operations (summaries, profiles). A subclass may mean something else and stays alone.
    """
    first = modules[i]
    if state.watchers or type(first) is not Conv2d or first._hooks or not _plain(modules, i + 1, ReLU):
        return 1, {}
    if _plain(modules, i + 2, MaxPool2d) and _halves(modules[i + 2]):
        return 3, {"relu": True, "pool": 2}
    return 2, {"relu": True}


def _plain(modules: Sequence[Module], i: int, kind: type[Module]) -> bool:
    """Whether module i is there, of this very class, and has no hooks."""
    return i < len(modules) and type(modules[i]) is kind and not modules[i]._hooks and not modules[i]._pre_hooks


def _halves(pool: Any) -> bool:
    """Whether a max pooling has 2x2 windows side by side and nothing else."""
    plain = not (pool.ceil_mode or pool.return_indices)
    return plain and (pool.kernel_size, pool.stride, pool.padding, pool.dilation) == ((2, 2), (2, 2), (0, 0), (1, 1))
