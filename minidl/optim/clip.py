"""Gradient clipping: bound the gradients between backward and the optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minidl.backend import Array, device_of, xp_of
from minidl.errors import ArgumentError, DeviceError, DtypeError
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, number
from minidl.tensor import Tensor

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(
    parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients together so that their common norm is at most ``max_norm``.

    Formula:
        n = (sum |g|^norm_type)^(1/norm_type) over the elements of all gradients
        g = g * min(max_norm / (n + 1e-6), 1)

    Args:
        parameters: whose ``.grad`` is clipped; those without one are passed over.
        max_norm: the largest norm allowed.
        norm_type: which norm; ``math.inf`` is the largest absolute value.
        error_if_nonfinite: refuse a norm that is infinite or NaN; otherwise the gradients become 0 or NaN.

    Returns:
        n, the norm before clipping: a tensor of one float64. On a GPU, which is not waited for, it is still to come.
    Raises:
        ArgumentError: a negative max_norm, a norm_type that is not positive, a non-finite norm when asked for.
        DeviceError: gradients on several devices.
    Source:
        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013.

    >>> import minidl as md
    >>> w = md.Parameter([3.0, 4.0])
    >>> (w * w).sum().backward()
    >>> md.optim.clip_grad_norm([w], max_norm=1.0).item()
    10.0
    >>> w.grad
    tensor([0.6, 0.8])
    """
    op = "clip_grad_norm"
    max_norm = number(op, "max_norm", max_norm, 0.0)
    order = number(op, "norm_type", norm_type)
    if not order > 0:
        raise ArgumentError.of(op, "norm_type above 0", str(norm_type))
    owners = _with_gradient(op, parameters)
    gradients = [p._grad._array for p in owners]  # type: ignore[union-attr]
    places = sorted({device_of(g) for g in gradients})
    if len(places) > 1:
        raise DeviceError.of(op, "gradients on one device", " and ".join(places), "Clip those of each device by themselves.")
    total = _total(gradients, order)
    if error_if_nonfinite and not math.isfinite(norm := float(total)):
        raise ArgumentError.of(op, "a finite norm", str(norm), "Lower the learning rate, or look for NaN in the data.")
    with np.errstate(all="ignore"):
        factor = xp_of(total).minimum(max_norm / (total + 1e-6), 1.0)
    if gradients and (not isinstance(total, np.ndarray) or not factor >= 1):  # on a GPU, to look would mean to wait
        for p, g in zip(owners, kernels_for(gradients[0]).scaled(gradients, factor)):
            p._grad = Tensor.wrap(g)
    return Tensor.wrap(total)


def clip_grad_value(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]; NaN stays NaN.

    Formula:
        g = min(max(g, -clip_value), clip_value)

    Args:
        parameters: whose ``.grad`` is clipped; those without one are passed over.
        clip_value: the largest absolute value allowed.

    Raises:
        ArgumentError: a negative clip_value.

    >>> import minidl as md
    >>> w = md.Parameter([0.1, -2.0])
    >>> (w * w).sum().backward()
    >>> md.optim.clip_grad_value([w], 1.0)
    >>> w.grad
    tensor([ 0.2, -1. ])
    """
    limit = number("clip_grad_value", "clip_value", clip_value, 0.0)
    for p in _with_gradient("clip_grad_value", parameters):
        g = p._grad._array  # type: ignore[union-attr]
        p._grad = Tensor.wrap(xp_of(g).clip(g, -limit, limit))


def _with_gradient(op: str, parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DtypeError.of(op, "tensors", describe(tensor), "Call model.parameters().")
    return [tensor for tensor in tensors if tensor._grad is not None]


def _total(gradients: list[Array], order: float) -> Array:
    """The norm of all gradients as one vector, of shape ()."""
    gradients = [g for g in gradients if g.size]
    if not gradients:
        return np.zeros(())
    xp = xp_of(gradients[0])
    if order == 2:
        return xp.asarray(xp.sqrt(kernels_for(gradients[0]).square_sums(gradients)))
    with np.errstate(all="ignore"):
        sizes = [xp.abs(g).astype(np.float64) for g in gradients]
        if order == math.inf:
            return xp.asarray(xp.stack([a.max() for a in sizes]).max())
        return xp.asarray(xp.stack([(a**order).sum() for a in sizes]).sum() ** (1 / order))
