"""Dropout: zero elements at random and scale up the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array, xp_of

__all__ = ["dropout_apply", "dropout_mask"]


def dropout_mask(like: Array, shape: tuple[int, ...], p: float, rng: Any) -> Array:
    """Booleans on the device of ``like``: False with probability p. A GPU draws its own numbers, seeded by ``rng``."""
    xp = xp_of(like)
    if xp is not np:
        rng = xp.random.default_rng(int(rng.integers(1 << 63)))
    return rng.random(shape, dtype=xp.float32) >= p


def dropout_apply(x: Array, mask: Array, scale: float) -> Array:
    """x * mask * scale; the gradient is the same function of gy. NaN stays NaN where the mask is 0, as in PyTorch."""
    y = x * mask
    y *= x.dtype.type(scale)
    return y
