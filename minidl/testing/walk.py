"""A slow walk through the graph that checks, node by node, the rules every Function must keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import is_array, to_numpy
from minidl.node import Node
from minidl.tensor import Tensor


def checked_backward(y: Tensor, gy: np.ndarray) -> dict[Tensor, np.ndarray]:
    """The gradients of the leaves under ``y``, with every node's backward held to the rules.

    A gradient is given exactly where ``needs`` asks for one; it is never a saved array; two gradients of
    one node share memory only where both are views of the incoming one; the incoming gradient and the
    saved arrays are left as they were.

    Raises:
        AssertionError: a rule is broken; the message names the operation and the input.
    """
    grads: dict[Any, np.ndarray] = {y.grad_fn: gy}
    leaves: dict[Tensor, np.ndarray] = {}
    while grads:
        node = max(grads, key=lambda n: n.sequence)
        g = grads.pop(node)
        saved = [a for a in node.saved if is_array(a)]
        before = [np.array(to_numpy(a)) for a in [g, *saved]]
        given = node.function.backward(node, g)
        given = given if type(given) is tuple else (given,)
        for a, b in zip([g, *saved], before, strict=True):
            assert np.array_equal(to_numpy(a), b, equal_nan=b.dtype.kind == "f"), (
                f"{node.name}: backward wrote to gy or to a saved array"
            )
        assert len(given) == len(node.edges), f"{node.name}: {len(given)} gradients for {len(node.edges)} inputs"
        for i, (edge, gx) in enumerate(zip(node.edges, given, strict=True)):
            if edge is None:
                assert gx is None, f"{node.name}: the gradient of input {i}, which nobody needs, was computed"
                continue
            assert gx is not None, f"{node.name}: no gradient for input {i}"
            for a in saved:
                assert not np.may_share_memory(gx, a) or not np.shares_memory(gx, a), (
                    f"{node.name}: gradient {i} is a saved array"
                )
            for j in range(i):
                if given[j] is not None and np.shares_memory(gx, given[j]):
                    assert np.shares_memory(gx, g), f"{node.name}: gradients {j} and {i} share memory"
            store: dict[Any, np.ndarray] = grads if isinstance(edge, Node) else leaves  # type: ignore[assignment]
            store[edge] = store[edge] + gx if edge in store else gx
    return leaves
