"""Matrix products on the GPU, by cuBLAS where it may be called; the bias by a small kernel, its gradient by sums in order."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from minidl.backend import Array, xp_of
from minidl.context import state
from minidl.kernels.cuda._axes import Sizes, sizes_of
from minidl.kernels.cuda._implicit import PLAIN, forward, weights_gradient
from minidl.kernels.cuda._sums import add_bias, column_sums

__all__ = ["linear_backward", "linear_forward", "linear_relu_forward", "matmul"]

ONE, ZERO = ctypes.c_float(1), ctypes.c_float(0)


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """a b for matrices (M, K) and (K, N), into a C-contiguous ``out`` if given. On tensor cores inside of ``allow_tf32``."""
    xp = xp_of(a)
    if out is None:
        out = xp.empty((a.shape[0], b.shape[1]), a.dtype)
    if state.recorder is not None:
        _product_recorded(a, b, out)
    elif xp is not np and state.tf32 and a.dtype == np.float32 and a.shape[1] and out.size:
        _product_tf32(a, b, out)
    else:
        xp.dot(a, b, out=out)  # in CuPy a shorter way to cuBLAS than matmul
    return out


def _product_recorded(a: Array, b: Array, out: Array) -> None:
    """The same while a CUDA graph is recorded, where CuPy does not let cuBLAS in: as a convolution of one pixel.

    The rows of a are images of K channels and b is the kernel. Where a lies column by column, its columns are the images, and
    the product is the gradient of the kernel, so that nothing needs turning.
    """
    xp, (M, K), N = xp_of(a), a.shape, b.shape[1]
    b = xp.ascontiguousarray(b)
    if not out.size or not K:
        out.fill(0)
    elif a.flags.f_contiguous and not a.flags.c_contiguous:
        sizes = _one_pixel(K, M, N)
        weights_gradient(a.T.reshape(K, 1, 1, M), b.reshape(K, 1, 1, N), out.reshape(1, 1, M, N), sizes)
    else:
        sizes = _one_pixel(M, K, N)
        a = xp.ascontiguousarray(a)
        forward(a.reshape(M, 1, 1, K), b.reshape(1, 1, K, N), None, out.reshape(M, 1, 1, N), sizes, PLAIN)


def _one_pixel(images: int, C: int, O: int, groups: int = 1) -> Sizes:
    """C and O: channels of all groups."""
    return sizes_of(images, (1, 1), (O, C // groups, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), groups)


def matmul(x: Array, y: Array) -> Array:
    """z = x y over the last two axes; the others broadcast, and a vector is a row (x) or a column (y), as with ``@``."""
    if x.ndim == y.ndim == 2:
        return product(x, y)
    if state.recorder is None and not (state.tf32 and x.dtype == np.float32):
        return x @ y
    z = _batch(x[None] if x.ndim == 1 else x, y[:, None] if y.ndim == 1 else y)
    z = z[..., 0, :] if x.ndim == 1 else z
    return z[..., 0] if y.ndim == 1 else z


def _batch(x: Array, y: Array) -> Array:
    """Many products by one convolution of one pixel: x[g] and y[g] are what group g of the channels holds."""
    xp, lead, (M, K), N = xp_of(x), np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2:], y.shape[-1]
    G = math.prod(lead)
    if not (G and M and N and K):
        return xp.zeros((*lead, M, N), x.dtype)
    x, y = (xp.broadcast_to(a, (*lead, *a.shape[-2:])).reshape(G, *a.shape[-2:]).swapaxes(0, 1) for a in (x, y))
    z, sizes = xp.empty((M, G, N), x.dtype), _one_pixel(M, G * K, G * N, G)
    x, y = xp.ascontiguousarray(x).reshape(M, 1, 1, G * K), xp.ascontiguousarray(y).reshape(1, 1, K, G * N)
    forward(x, y, None, z.reshape(M, 1, 1, G * N), sizes, PLAIN)
    return z.swapaxes(0, 1).reshape(*lead, M, N)


def _product_tf32(a: Array, b: Array, out: Array) -> None:
    """The same by cuBLAS with numbers rounded to TF32. CuPy has no argument for it, only a switch for all threads at once."""
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    # To cuBLAS matrices lie column by column. What lies row by row is, in its eyes, the transpose: so out is (N, M), and it is
    # the product of b^T and a^T, which need no turning where b and a lie row by row, too.
    arguments = []
    for matrix in (b, a):
        if not (matrix.flags.c_contiguous or matrix.flags.f_contiguous):
            matrix = xp_of(matrix).ascontiguousarray(matrix)
        by_rows = matrix.flags.c_contiguous
        arguments.append((matrix, int(not by_rows), matrix.shape[1 if by_rows else 0]))
    (left, turn_left, step_left), (right, turn_right, step_right) = arguments
    (M, N), K, float32 = out.shape, a.shape[1], 0  # 0 is CUDA_R_32F
    cublas.gemmEx(
        device.get_cublas_handle(), turn_left, turn_right, N, M, K, ctypes.addressof(ONE), left.data.ptr, float32, step_left,
        right.data.ptr, float32, step_right, ctypes.addressof(ZERO), out.data.ptr, float32, N,
        cublas.CUBLAS_COMPUTE_32F_FAST_TF32, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip


def linear_forward(x: Array, w: Array, b: Array | None) -> Array:
    """y = x w^T + b."""
    y = product(x, w.T)
    add_bias(y, b)
    return y


def linear_relu_forward(x: Array, w: Array, b: Array | None) -> Array:
    """y = max(x w^T + b, 0)."""
    y = product(x, w.T)
    add_bias(y, b, relu=True)
    return y


def linear_backward(
    gy: Array, x: Array | None, w: Array | None, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """gx = gy w, gw = gy^T x, gb = the sum of gy over the rows; gw lies in memory as (out, in), like w."""
    gx = product(gy, w) if needs[0] else None
    gw = product(gy.T, x) if needs[1] else None
    gb = column_sums(xp_of(gy).ascontiguousarray(gy)) if needs[2] else None
    return gx, gw, gb
