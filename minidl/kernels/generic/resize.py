"""Resampling: every output position along an axis is a weighted sum of a few input positions.

Average pooling, adaptive and global averages, nearest and bilinear interpolation are all of this form, once
along the rows and once along the columns; only the tables of positions and weights differ. The gradient is the
same kernel with the transposed tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minidl.backend import Array, xp_of

__all__ = ["Taps", "resample"]


@dataclass(frozen=True, eq=False)
class Taps:
    """Which input positions each output position of one axis reads.

    Output position o reads ``index[o, k]`` with ``value[o, k]``, for k < ``count[o]``. The value is a weight where
    positions are summed, and the tap's own number where the largest is picked.
    """

    index: np.ndarray  # (OUT, K) integers
    value: np.ndarray  # (OUT, K)
    count: np.ndarray  # (OUT,) integers
    size: int  # input positions

    @cached_property
    def transposed(self) -> Taps:
        """The other direction: which output positions read each input position, with the same values."""
        output, k = np.nonzero(np.arange(self.index.shape[1]) < self.count[:, None])
        order = np.argsort(self.index[output, k], kind="stable")
        output, k = output[order], k[order]
        source = self.index[output, k]
        count = np.bincount(source, minlength=self.size)
        slot = np.arange(len(source)) - (np.cumsum(count) - count)[source]
        index = np.zeros((self.size, max(1, count.max())), np.intp)
        value = np.zeros(index.shape, self.value.dtype)
        index[source, slot] = output
        value[source, slot] = self.value[output, k]
        return Taps(index, value, count, len(self.count))

    def picks(self, xp, dtype=None):
        """For every k: positions, values and presence, as arrays of ``xp``."""
        present = np.arange(self.index.shape[1]) < self.count[:, None]
        for k in range(self.index.shape[1]):
            yield xp.asarray(self.index[:, k]), xp.asarray(self.value[:, k], dtype=dtype), xp.asarray(present[:, k])


@np.errstate(invalid="ignore", over="ignore")
def resample(x: Array, rows: Taps, columns: Taps) -> Array:
    """y[n, c, i, j] = sum over k, m of rows.value[i, k] columns.value[j, m] x[n, c, rows.index[i, k], columns.index[j, m]]."""
    xp = xp_of(x)
    y = x.transpose(0, 2, 3, 1)
    for axis, taps in ((1, rows), (2, columns)):
        total = xp.zeros((*y.shape[:axis], len(taps.count), *y.shape[axis + 1 :]), x.dtype)
        over = (slice(None),) + (None,) * (3 - axis)  # lines a vector up with this axis
        for index, weight, present in taps.picks(xp, x.dtype):
            total += xp.where(present[over], xp.take(y, index, axis), 0) * weight[over]
        y = total
    return y.transpose(0, 3, 1, 2)
