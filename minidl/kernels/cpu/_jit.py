"""Every Numba option in one place.

- ``serial``: a loop body on slices; vectorised, cached on disk.
- ``parallel``: a thin driver whose ``prange`` hands one part per thread to a serial body. Only one
  driver runs at a time: Numba's plainest threading layer ends the process when two threads enter it.

``fastmath`` leaves out the flags that assume there are no NaN and no infinities, and signed zeros stay:
kernels must give NumPy's answers for those. What remains lets LLVM reorder sums and fuse multiply-adds.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba import njit, prange

__all__ = ["PARALLEL_MIN", "parallel", "prange", "serial", "threads"]


def _wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after they run out of work, unless the user has set how they wait.

    GNU OpenMP spins for milliseconds by default. While another program occupies a core, whoever spins keeps
    the thread it waits for from running, and a training step takes ten times as long. With short spins it
    takes as long as the machine allows, for a fifth of the speed of an idle machine. The library reads the
    setting when it is loaded, so it is loaded here; child processes do not inherit it.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    with suppress(OSError):  # no GNU OpenMP on this system: Numba takes another threading layer
        ctypes.CDLL("libgomp.so.1")
    del os.environ["GOMP_SPINCOUNT"]


_wait_briefly()


def _can_cache() -> bool:
    """Whether there is a folder for compiled kernels: beside the package, or in the user's home."""
    try:
        njit(lambda: None, cache=True)
    except RuntimeError:
        warnings.warn(
            "minidl: no folder to keep compiled kernels in, so every process compiles them anew. Set NUMBA_CACHE_DIR.",
            stacklevel=2,
        )
        return False
    return True


CACHE = _can_cache()

FASTMATH = {"reassoc", "contract", "arcp", "afn"}

PARALLEL_MIN = 1 << 15  # elements below which handing work to a second thread costs more than it brings

_one_at_a_time = threading.RLock()


def serial(function: Callable) -> Callable:
    """Compile a loop body."""
    return njit(function, fastmath=FASTMATH, cache=CACHE, nogil=True, error_model="numpy")


def parallel(function: Callable) -> Callable:
    """Compile a driver that splits its work with prange."""
    compiled = njit(function, fastmath=FASTMATH, cache=CACHE, parallel=True, nogil=True, error_model="numpy")

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with _one_at_a_time:
            return compiled(*args)

    call.compiled = compiled  # type: ignore[attr-defined]
    return call


def threads(work: int) -> int:
    """How many parts to cut ``work`` elements into."""
    return 1 if work < PARALLEL_MIN else numba.get_num_threads()
