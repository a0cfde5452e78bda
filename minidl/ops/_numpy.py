"""How tensors meet Python's operators and NumPy's functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backend import is_array
from minidl.ops.compare import equal, not_equal
from minidl.ops.create import full_like, ones_like, zeros_like
from minidl.ops.shape import transpose
from minidl.registry import OPS
from minidl.tensor import Tensor

_CREATE: dict[str, Callable[..., Tensor]] = {"zeros_like": zeros_like, "ones_like": ones_like, "full_like": full_like}
_PLAIN = {np.shape, np.ndim, np.size, np.array_equal, np.allclose}  # no gradient could be lost


def reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """The method for a tensor on the right: ``2 - x`` calls ``x.__rsub__(2)``."""

    def method(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    return method


def _comparable(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, list, tuple, np.generic)) or is_array(value)


def tensor_eq(self: Tensor, other: Any) -> Tensor:
    """x == y element by element; for things that are no numbers, such as None, Python compares identities."""
    return equal(self, other) if _comparable(other) else NotImplemented


def tensor_ne(self: Tensor, other: Any) -> Tensor:
    """x != y element by element."""
    return not_equal(self, other) if _comparable(other) else NotImplemented


def tensor_t(self: Tensor) -> Tensor:
    """The tensor with its axes reversed."""
    return transpose(self)


def array_ufunc(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Tensor:
    """``np.exp(x)`` and ``array + x`` run minidl's operation of that name, gradient included."""
    spec = OPS.get(ufunc.__name__)
    if spec is None or method != "__call__" or options:
        raise _not_here(f"numpy.{ufunc.__name__}" + (f".{method}" if method != "__call__" else ""), options)
    return spec.function(*inputs)


def array_function(self: Tensor, function: Callable[..., Any], types: Any, args: tuple, options: dict[str, Any]) -> Any:
    """``np.sum(x)`` and ``np.stack([x, y])`` run minidl's operation of that name, gradient included."""
    if function in _PLAIN:
        return function(*(a.numpy() if isinstance(a, Tensor) else a for a in args), **options)
    name = function.__name__
    ours = OPS[name].function if name in OPS else _CREATE.get(name)
    if ours is None or getattr(np, name, None) is not function or not set(options) <= set(inspect.signature(ours).parameters):
        raise _not_here(f"{function.__module__}.{name}", options)
    return ours(*args, **options)


def _not_here(call: str, options: dict[str, Any]) -> TypeError:
    given = f" with {', '.join(sorted(options))}" if options else ""
    return TypeError(f"{call}: expected an operation that minidl has, got {call}{given}. Use x.numpy() for NumPy itself.")
