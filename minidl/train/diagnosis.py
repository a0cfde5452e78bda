"""Where a loss that is not finite comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from minidl.backend import xp_of
from minidl.context import no_grad
from minidl.nn.module import Module
from minidl.tensor import Tensor
from minidl.train.checkpoint import random_state, set_random_state


class _Found(Exception):
    """Ends the forward pass at the first module with a bad output."""


def first_not_finite(model: Module, x: Tensor, y: Tensor) -> tuple[str, str]:
    """(what holds the first NaN or infinity, a hint): the input, the targets, a parameter or the output of a module.

    The batch goes through the model once more, in the mode in which it is, with a hook on every module; what the pass
    changes, running statistics and random generators, is put back.
    """
    if not _finite(x):
        return "the input", "Look for NaN and infinities in the data."
    if not _finite(y):
        return "the targets", "Look for NaN and infinities in the data."
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if not _finite(tensor):
                return f"{kind} {name!r}", "A step before made it so: try a smaller learning rate, or clip_grad_norm=1.0."
    found: list[str] = []

    def look(path: str) -> Any:
        def hook(module: Module, inputs: tuple, output: Any) -> None:
            if not all(_finite(tensor) for tensor in _tensors(output)):
                found.append(f"the output of {path!r} ({type(module).__name__})" if path else "the output of the model")
                raise _Found

        return hook

    buffers = [(buffer, buffer._array.copy(order="K")) for buffer in model.buffers()]
    generators = random_state(model)
    remove = [module.register_forward_hook(look(path)) for path, module in model.named_modules()]
    try:
        with suppress(_Found), no_grad():
            model(x)
    finally:
        for undo in remove:
            undo()
        for buffer, values in buffers:
            buffer._array = values
        set_random_state(model, generators)
    if found:
        return found[0], "Try a smaller learning rate, or look at how this module is initialised."
    return "the loss itself", "All outputs are finite: look for log(0) or a division by 0 in the loss."


def _finite(tensor: Tensor) -> bool:
    array = tensor._array
    return array.dtype.kind != "f" or bool(xp_of(array).isfinite(array).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
