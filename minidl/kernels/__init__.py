"""Kernels: arrays in, arrays out. Three packages with the same names and signatures.

- ``generic``: the textbook. Every kernel, written on NumPy's interface so that it runs on CuPy too.
- ``cpu``: the hot ones again, compiled by Numba.
- ``cuda``: the hot ones again, as CuPy kernels.

``kernels_for(x)`` picks the package by the arrays of the call, every call.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from minidl.backend import Array, is_array
from minidl.context import state
from minidl.errors import ArgumentError
from minidl.kernels import generic

_cpu: ModuleType | None = None
_cuda: ModuleType | None = None


def _load_cpu() -> ModuleType:
    """The Numba kernels, or the generic ones where Numba is not installed or the process is a fork."""
    global _cpu
    if _cpu is None:
        try:
            import numba
        except ImportError:
            warnings.warn("minidl: Numba is not installed; kernels run as plain NumPy, several times slower.", stacklevel=3)
            _cpu = generic
        else:
            from minidl.kernels import cpu

            _cpu = cpu
    return _cpu


def _load_cuda() -> ModuleType:
    """The CUDA kernels."""
    global _cuda
    if _cuda is None:
        from minidl.kernels import cuda

        _cuda = cuda
    return _cuda


def _after_fork() -> None:
    """OpenMP does not survive fork(): a child that enters a parallel region is killed, so it takes the generic kernels."""
    global _cpu
    if "minidl.kernels.cpu" in sys.modules:
        _cpu = generic


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernels_for(x: Array) -> ModuleType:
    """The kernel package for an array of float32 or float64: Numba's on the CPU, CUDA's on a GPU; else the generic one."""
    if type(x) is np.ndarray:
        if x.dtype.char in "fd" and state.kernels == "fast":
            return _cpu or _load_cpu()
    elif is_array(x) and not isinstance(x, np.ndarray) and x.dtype.char in "fd" and state.kernels == "fast":
        return _cuda or _load_cuda()
    return generic


@contextmanager
def use_kernels(package: str) -> Iterator[None]:
    """Force a kernel package in this thread: ``"generic"`` (the textbook) or ``"fast"`` (the default choice).

    Raises:
        ArgumentError: another name.

    >>> import minidl as md
    >>> with md.use_kernels("generic"):
    ...     md.relu(md.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if package not in ("generic", "fast"):
        raise ArgumentError.of("use_kernels", "'generic' or 'fast'", repr(package))
    outer, state.kernels = state.kernels, package
    try:
        yield
    finally:
        state.kernels = outer
