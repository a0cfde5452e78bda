"""Moving tensors between the host's memory and a GPU's."""

from __future__ import annotations

from typing import Any

from minidl import backend
from minidl.backend import Array
from minidl.function import Function
from minidl.ops.elementwise import astype
from minidl.tensor import Tensor

__all__ = ["to"]


class ToDevice(Function):
    """The same values on another device; the gradient goes back to where the input came from."""

    @staticmethod
    def forward(ctx: Any, x: Array, device: str) -> Array:
        ctx.origin = backend.device_of(x)
        return backend.to_device(x, device)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        return backend.to_device(gy, ctx.origin)


def to(x: Tensor, target: Any) -> Tensor:
    """The tensor on a device (``"cuda"``) or in a dtype (``"float64"``); itself when it is there already.

    Gradient:
        dL/dx = dL/dy, on x's device and in x's dtype.
    Raises:
        DeviceError: a GPU that is not there, or CuPy missing.
        DtypeError: a dtype that tensors do not have.

    >>> import minidl as md
    >>> md.ones(2).to("float64").dtype
    dtype('float64')
    """
    if not (isinstance(target, str) and (target == "cpu" or target.startswith("cuda"))):
        return astype(x, target)
    index = backend.parse_device(target)
    if x.device == ("cpu" if index is None else f"cuda:{index}"):
        return x
    return ToDevice.apply(x, device=target)
