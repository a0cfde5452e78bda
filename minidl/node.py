"""Node: what remains of an operation, so that gradients find their way back through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minidl.backend import Array
from minidl.context import state

if TYPE_CHECKING:
    from minidl.function import Function
    from minidl.tensor import Tensor

_sequence = itertools.count()


class Node:
    """One operation that ran: how to go back through it, and where it ran.

    ``Function.forward(ctx, ...)`` and ``backward(ctx, ...)`` receive it as ``ctx`` and may hang small
    facts on it (``ctx.axis = axis``). It never refers to its own output, so that graphs hold no
    reference cycles and memory falls as soon as the last tensor goes.

    Attributes:
        function: the Function subclass.
        edges: per input, the node that made it, the leaf tensor itself, or None where no gradient is needed.
        needs: per input, whether its gradient is asked for.
        saved: the arrays that ``save`` kept for backward; None once they have been released.
        path: dotted path of the module that ran the operation.
        sequence: creation order; every node has a higher number than the nodes it depends on.
    """

    __slots__ = ("__dict__", "__weakref__", "edges", "function", "needs", "path", "saved", "sequence")

    edges: tuple[Node | Tensor | None, ...]
    needs: tuple[bool, ...]
    saved: tuple[Array, ...] | None
    hooks: list[Callable] | None = None
    retain: Any = None

    def __init__(self, function: type[Function], edges: tuple, needs: tuple[bool, ...]) -> None:
        self.function = function
        self.edges = edges
        self.needs = needs
        self.saved = ()
        self.path = state.path
        self.sequence = next(_sequence)

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.function.name

    def save(self, *arrays: Array | None) -> None:
        """Keep arrays for backward; forgotten at once when nobody will ask for a gradient."""
        if True in self.needs:
            self.saved = arrays

    def __repr__(self) -> str:
        return f"<{self.name}{f' in {self.path}' if self.path else ''}>"
