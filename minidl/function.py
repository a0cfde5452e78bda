"""Function: one differentiable operation on arrays, and ``apply``, which runs it on tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backend import Array, run_on
from minidl.context import state
from minidl.errors import DeviceError
from minidl.node import Node
from minidl.tensor import Tensor


class Function:
    """The base of every operation.

    A subclass gives two static methods on raw arrays:

    - ``forward(ctx, *arrays, **params)`` returns the result and keeps, by ``ctx.save(...)``, the arrays
      that backward needs (nothing else: what is kept fills memory until backward has run);
    - ``backward(ctx, gy)`` receives gy = dL/d(output) and returns dL/d(input) for every positional input
      of forward, None where there is none. ``ctx.needs[i]`` tells whether input i's gradient is asked for.

    Rules: forward never writes to its inputs; backward never writes to gy or to saved arrays; a returned
    gradient is new, or gy or a view of it, never a saved array, and no two of them share memory unless
    they are views of gy. ``forward`` may return ``(y, *extras)``; extras become tensors without gradient.

    >>> import minidl as md
    >>> class Cube(md.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save(x)
    ...         return x**3
    ...     @staticmethod
    ...     def backward(ctx, gy):
    ...         (x,) = ctx.saved
    ...         return gy * 3 * x**2
    >>> x = md.tensor([2.0], requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor([12.])
    """

    name = "function"
    differentiable = True  # False: forward only (comparisons, arg-max); never recorded

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @staticmethod
    def forward(ctx: Any, *inputs: Any, **params: Any) -> Any:
        """Compute the result from arrays."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Any:
        """Compute the gradients of the inputs from the gradient of the output."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any, **params: Any) -> Any:
        """Run forward on the arrays of ``inputs`` and record a node when a gradient may be asked for.

        Inputs that are not tensors (None, Python numbers, arrays) pass as they are and get no gradient.
        """
        recording = state.grad_enabled and cls.differentiable
        arrays, count = list(inputs), len(inputs)
        edges: list[Node | Tensor | None] = [None] * count
        needs = [False] * count
        kind = None
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                arrays[i] = array = value._array
                if kind is not type(array):
                    if kind is not None:
                        raise _mixed_devices(cls.name, inputs)
                    kind = type(array)
                if recording and value._requires_grad:
                    edges[i] = value._node or value
                    needs[i] = True
        node = Node(cls, tuple(edges), tuple(needs))
        forward = cls.forward if state.observer is None else state.observer(node, "forward", cls.forward)
        try:
            if kind is not np.ndarray and kind is not None:
                result = _on_gpu(forward, node, inputs, arrays, params)
            elif state.names is None:
                result = _quietly(forward, node, arrays, params)
            else:  # in a module, whose call has told NumPy to be quiet
                result = forward(node, *arrays, **params)
        except Exception as error:
            if node.path:
                error.add_note(f"in {cls.name} [{node.path}]")
            raise
        if state.watchers:
            for watcher in state.watchers:
                watcher(node, tuple(arrays), params, result[0] if type(result) is tuple else result)
        maker = node if True in needs else None
        if type(result) is tuple:
            return (Tensor.wrap(result[0], maker), *map(Tensor.wrap, result[1:]))
        return Tensor.wrap(result, maker)


@np.errstate(all="ignore")  # infinities and NaN are results here, not warnings
def _quietly(forward: Callable, node: Node, arrays: list, params: dict) -> Any:
    return forward(node, *arrays, **params)


def _on_gpu(forward: Callable, node: Node, inputs: tuple, arrays: list, params: dict) -> Any:
    """CuPy works on the GPU that is current: make it that of the arrays."""
    gpus = [value._array for value in inputs if isinstance(value, Tensor)]
    if len(gpus) > 1 and len({array.device.id for array in gpus}) > 1:
        raise _mixed_devices(node.name, inputs)
    return run_on(gpus[0], forward, node, *arrays, **params)


def _mixed_devices(op: str, inputs: tuple) -> DeviceError:
    where = ", ".join(f"argument {i} on {value.device}" for i, value in enumerate(inputs) if isinstance(value, Tensor))
    return DeviceError.of(op, "all tensors on one device", where, "Move them with .to(device).")
