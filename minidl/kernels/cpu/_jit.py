"""Every Numba option in one place.

- ``serial``: a loop body on slices; vectorised, cached on disk.
- ``parallel``: a thin driver whose ``prange`` hands one part per thread to a serial body. Only one
  driver runs at a time: Numba's plainest threading layer ends the process when two threads enter it.

``fastmath`` leaves out the flags that assume there are no NaN and no infinities, and signed zeros stay:
kernels must give NumPy's answers for those. What remains lets LLVM reorder sums and fuse multiply-adds.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba import njit, prange

__all__ = ["PARALLEL_MIN", "parallel", "prange", "serial", "threads"]

FASTMATH = {"reassoc", "contract", "arcp", "afn"}

PARALLEL_MIN = 1 << 15  # elements below which handing work to a second thread costs more than it brings

_one_at_a_time = threading.RLock()


def serial(function: Callable) -> Callable:
    """Compile a loop body."""
    return njit(function, fastmath=FASTMATH, cache=True, nogil=True, error_model="numpy")


def parallel(function: Callable) -> Callable:
    """Compile a driver that splits its work with prange."""
    compiled = njit(function, fastmath=FASTMATH, cache=True, parallel=True, nogil=True, error_model="numpy")

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with _one_at_a_time:
            return compiled(*args)

    call.compiled = compiled  # type: ignore[attr-defined]
    return call


def threads(work: int) -> int:
    """How many parts to cut ``work`` elements into."""
    return 1 if work < PARALLEL_MIN else numba.get_num_threads()
