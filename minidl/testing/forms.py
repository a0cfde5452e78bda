"""The same values in other clothes: dtypes and memory layouts an operation must treat alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.tensor import Tensor


def strided(a: np.ndarray) -> np.ndarray:
    """Every second element of a larger array along each axis."""
    big = np.full(tuple(2 * n + 1 for n in a.shape), np.nan if a.dtype.kind == "f" else 0, a.dtype)
    inner: tuple = (..., *(slice(1, 2 * n + 1, 2) for n in a.shape))  # the dots keep a 0-d array an array
    view = big[inner]
    view[...] = a
    return view


def reversed_axes(a: np.ndarray) -> np.ndarray:
    """Negative strides along each axis."""
    turn = (slice(None, None, -1),) * a.ndim
    return a[turn].copy()[turn]


def fortran(a: np.ndarray) -> np.ndarray:
    """The first axis innermost in memory."""
    return np.array(a, order="F")  # asfortranarray would give a 0-d array an axis


def channels_last(a: np.ndarray) -> np.ndarray:
    """Axis 1 innermost in memory."""
    if a.ndim < 3:
        return fortran(a)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray,
    "fortran": fortran,
    "channels_last": channels_last,
    "strided": strided,
    "reversed": reversed_axes,
}


def as_tensors(
    args: Sequence[Any],
    grad: Sequence[int] = (),
    dtype: Any = np.float64,
    form: Callable[[np.ndarray], np.ndarray] = np.array,
    device: str = "cpu",
) -> list[Any]:
    """The arguments of a sample with arrays as tensors: floats cast to ``dtype``, laid out by ``form``.

    Tensors at the positions in ``grad`` require a gradient. The arrays are not shared with the sample.
    """

    def convert(value: Any, wanted: bool) -> Any:
        if isinstance(value, list) and value and all(isinstance(v, np.ndarray) for v in value):
            return [convert(v, wanted) for v in value]
        if not isinstance(value, np.ndarray):
            return value
        array = value.astype(dtype) if value.dtype.kind == "f" else value.copy()
        tensor = Tensor.wrap(form(array))
        tensor = tensor.to(device)
        if wanted and value.dtype.kind == "f":
            tensor.requires_grad = True
        return tensor

    return [convert(value, i in grad) for i, value in enumerate(args)]
