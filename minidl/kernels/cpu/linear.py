"""The fully connected layer on the CPU: the textbook products, on one BLAS thread (see _blas.py)."""

from __future__ import annotations

from minidl.kernels.cpu._blas import one_blas_thread
from minidl.kernels.generic import linear

__all__ = ["linear_backward", "linear_forward"]

linear_forward = one_blas_thread()(linear.linear_forward)
linear_backward = one_blas_thread()(linear.linear_backward)
