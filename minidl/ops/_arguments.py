"""Checks and conversions of arguments that the operations share; every message names the operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend import FLOATS, default_dtype
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.tensor import Tensor


def tensor(op: str, value: Any, name: str = "x") -> Tensor:
    """``value`` as a tensor; arrays and numbers are copied into one."""
    if isinstance(value, Tensor):
        return value
    try:
        return Tensor(value)
    except DtypeError as error:
        raise DtypeError.of(op, f"{name} as a tensor, an array or numbers", describe(value)) from error


def float_tensor(op: str, value: Any, name: str = "x") -> Tensor:
    """``value`` as a float32 or float64 tensor; integers and booleans take the default dtype."""
    x = value if isinstance(value, Tensor) else tensor(op, value, name)
    if x._array.dtype in FLOATS:
        return x
    return Tensor.wrap(x._array.astype(default_dtype()))


def real_tensor(op: str, value: Any, name: str = "x", hint: str = "Convert with .astype('float32').") -> Tensor:
    """``value`` as a tensor that must be float32 or float64 already, as network operations ask."""
    x = value if isinstance(value, Tensor) else tensor(op, value, name)
    if x._array.dtype not in FLOATS:
        if x.dtype == np.uint8:  # an image as files hold it
            hint = f"Bring 0..255 into 0..1 with {name}.astype('float32') / 255."
        raise DtypeError.of(op, f"{name} of float32 or float64", str(x.dtype), hint)
    return x


def same_dtype(op: str, **tensors: Tensor | None) -> None:
    """Refuse float32 mixed with float64: convolution weights and images must agree."""
    first = None
    for name, t in tensors.items():
        if t is None:
            continue
        if first is None:
            first = t._array.dtype
        elif t._array.dtype != first:
            got = ", ".join(f"{which} {t.dtype}" for which, t in tensors.items() if t is not None)
            hint = f"Convert with {name}.astype('{first}')."
            if first == np.float64:
                x = next(iter(tensors))
                hint = f"NumPy makes float64 by itself: convert with {x}.astype('float32'), or the module with .to('float64')."
            raise DtypeError.of(op, "one dtype for all tensors", got, hint)


def ndim(op: str, x: Tensor, expected: int, letters: str, name: str = "x") -> None:
    """Require a number of axes; ``letters`` names them: ``"(N, C, H, W)"``."""
    if x.ndim != expected:
        hint = f"Add the batch axis with {name}[None]." if x.ndim == expected - 1 and letters.startswith("(N") else ""
        raise ShapeError.of(op, f"{name} of shape {letters}", f"shape {x.shape}", hint)


def integer(op: str, name: str, value: Any, minimum: int | None = None) -> int:
    """A Python or NumPy integer, at least ``minimum``."""
    if type(value) is not int and (isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer))):
        raise DtypeError.of(op, f"{name} as an integer", describe(value))
    if minimum is not None and value < minimum:
        raise ArgumentError.of(op, f"{name} of at least {minimum}", str(value))
    return int(value)


def number(op: str, name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """A Python or NumPy number within [low, high]."""
    if type(value) is not float and (
        isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating))
    ):
        raise DtypeError.of(op, f"{name} as a number", describe(value))
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
        raise ArgumentError.of(op, f"{name} within {bounds}", str(value))
    return float(value)


def pair(op: str, name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """One integer for both axes, or a (height, width) pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ArgumentError.of(op, f"{name} as an integer or a pair (height, width)", repr(value))
        height, width = value
        if type(height) is type(width) is int and height >= minimum and width >= minimum:
            return height, width
        return integer(op, name, height, minimum), integer(op, name, width, minimum)
    n = integer(op, name, value, minimum)
    return n, n


def axis_index(op: str, axis: Any, ndim: int, name: str = "axis") -> int:
    """An axis as a number from 0 to ndim-1; negative axes count from the end."""
    axis = integer(op, name, axis)
    if not -ndim <= axis < ndim:
        raise ArgumentError.of(op, f"{name} from {-ndim} to {ndim - 1} for {ndim} axes", str(axis))
    return axis % ndim


def axes_tuple(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """None (all axes), one axis or several, as a sorted tuple without repeats."""
    if axis is None:
        return tuple(range(ndim))
    axes = [axis_index(op, a, ndim) for a in (axis if isinstance(axis, Sequence) else (axis,))]
    if len(set(axes)) != len(axes):
        raise ArgumentError.of(op, "every axis once", str(axis))
    return tuple(sorted(axes))


def choice(op: str, name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in allowed:
        raise ArgumentError.of(op, f"{name} as one of {', '.join(map(repr, allowed))}", repr(value))
    return value


def describe(value: Any) -> str:
    """What a value is, for error messages: ``shape (2, 3)``, ``list of str``, ``'text'``, ..."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    if isinstance(value, (str, int, float)) or value is None:
        return repr(value)
    kind, package = type(value), type(value).__module__.partition(".")[0]
    return kind.__name__ if package in ("builtins", "minidl", "__main__") else f"{package}.{kind.__name__}"
