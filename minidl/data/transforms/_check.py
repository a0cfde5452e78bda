"""Checks of arguments that the transforms share; every message names the transform."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError

INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers


def integer(op: str, name: str, value: Any, minimum: int | None = None) -> int:
    """A Python or NumPy integer, at least ``minimum``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DtypeError.of(op, f"{name} as an integer", repr(value))
    if minimum is not None and value < minimum:
        raise ArgumentError.of(op, f"{name} of at least {minimum}", str(value))
    return int(value)


def number(op: str, name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """A finite Python or NumPy number within [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DtypeError.of(op, f"{name} as a number", repr(value))
    if not np.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        bounds = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
        raise ArgumentError.of(op, f"{name} within {bounds}", str(value))
    return float(value)


def interval(op: str, name: str, value: Any, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """A pair (smallest, largest)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentError.of(op, f"{name} as a pair (smallest, largest)", repr(value))
    a, b = (number(op, name, v, low, high) for v in value)
    if a > b:
        raise ArgumentError.of(op, f"{name} with the smaller number first", repr(value))
    return a, b


def spread(op: str, name: str, value: Any, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """A number d for (-d, d), or a pair (smallest, largest)."""
    if isinstance(value, (tuple, list)):
        return interval(op, name, value, low, high)
    value = number(op, name, value, 0, high)
    return -value, value


def pair(op: str, name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """One integer for both axes, or a (height, width) pair."""
    if isinstance(value, (tuple, list)):
        if len(value) == 1:
            value = (value[0], value[0])
        if len(value) != 2:
            raise ArgumentError.of(op, f"{name} as an integer or a pair (height, width)", repr(value))
        return integer(op, name, value[0], minimum), integer(op, name, value[1], minimum)
    n = integer(op, name, value, minimum)
    return n, n


def borders(op: str, value: Any) -> tuple[int, int, int, int]:
    """Padding as torchvision takes it: one number, (left and right, top and bottom) or (left, top, right, bottom)."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, 2, 4):
        raise ArgumentError.of(op, "padding of one, two or four integers", repr(value))
    left, top, right, bottom = (integer(op, "padding", v, 0) for v in values * (4 // len(values)))
    return left, top, right, bottom


def choice(op: str, name: str, value: Any, allowed: Any) -> str:
    """One of a few words; members of an enumeration count by their value."""
    value = getattr(value, "value", value)
    if value not in tuple(allowed):
        raise ArgumentError.of(op, f"{name} as one of {', '.join(map(repr, allowed))}", repr(value))
    return value


def color(op: str, name: str, value: Any) -> float | tuple[float, ...]:
    """One number for all channels, or one per channel."""
    if isinstance(value, (tuple, list)):
        if not value:
            raise ArgumentError.of(op, f"{name} as a number or one per channel", repr(value))
        return tuple(number(op, name, v) for v in value)
    return number(op, name, value)
