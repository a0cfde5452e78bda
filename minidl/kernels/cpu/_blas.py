"""BLAS on one thread while a kernel runs.

After a product on several threads, OpenBLAS's helpers keep spinning for milliseconds in wait of the next, and so
do Numba's: two pools of threads on the same cores cost far more than the second core brings to the product.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_inside = 0
_outer = 1


@cache
def _controls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to read and set the number of threads of NumPy's own OpenBLAS; None where NumPy came with another BLAS."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for file in folder.glob("*openblas*"):
            library = ctypes.CDLL(str(file))  # loaded already: this is a handle to it
            for name in ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads"):
                if hasattr(library, name.format("get")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


class one_blas_thread(ContextDecorator):
    """Run NumPy's products on the calling thread only, and give BLAS its threads back afterwards."""

    def __enter__(self) -> None:
        global _inside, _outer
        controls = _controls()
        if controls is None:
            return
        get, set_ = controls
        with _lock:  # the setting is the process's, and several Python threads may be inside
            _inside += 1
            if _inside == 1 and (_outer := get()) > 1:
                set_(1)

    def __exit__(self, *exc: object) -> None:
        global _inside
        controls = _controls()
        if controls is None:
            return
        with _lock:
            _inside -= 1
            if _inside == 0 and _outer > 1:
                controls[1](_outer)
