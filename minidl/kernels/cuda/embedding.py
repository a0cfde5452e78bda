"""The gradient of an embedding on the GPU: the same bits every time, unlike with atomic sums."""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels.cuda.elementwise import add_rows

__all__ = ["embedding_backward"]


def embedding_backward(gy: Array, index: Array, rows: int, padding: int | None) -> Array:
    """gw[i] = the sum of gy wherever the index is i; 0 for the padding row."""
    xp, columns = xp_of(gy), gy.shape[-1]
    gw = xp.zeros((rows, columns), gy.dtype)
    add_rows(gw, index.reshape(-1).astype(np.int64, copy=False), xp.ascontiguousarray(gy).reshape(-1, columns))
    if padding is not None:
        gw[padding] = 0
    return gw
