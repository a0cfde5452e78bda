"""What pictures of models share: images as a batch, the model as it judges, and gradients that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backend import FLOATS, default_dtype
from minidl.context import enable_grad
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn import Conv2d, ConvTranspose2d, Module
from minidl.ops._arguments import describe, tensor
from minidl.tensor import Tensor

MOST = 12  # images in one picture


@contextmanager
def judging(op: str, model: Any) -> Iterator[None]:
    """The model in evaluation mode with its parameters frozen, so that gradients flow to the input alone; then as before."""
    if not isinstance(model, Module):
        raise DtypeError.of(op, "model as a Module", describe(model))
    modes = [(module, module.training) for module in model.modules()]
    learning = [p for p in model.parameters() if p.requires_grad]
    grads = [p.grad for p in learning]
    try:
        model.eval()
        for p in learning:
            p.requires_grad = False
        with enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for p, grad in zip(learning, grads):
            p.requires_grad = True
            p.grad = grad


def to_model(model: Module, x: np.ndarray) -> Tensor:
    """An array in the dtype and on the device of the model's parameters."""
    like = next((p for p in model.parameters() if p.dtype in FLOATS), None)
    return Tensor(x, default_dtype() if like is None else like.dtype, device="cpu" if like is None else like.device)


def batch(op: str, images: Any) -> np.ndarray:
    """Images (N, C, H, W) or one (C, H, W) as a floating batch; uint8 is scaled to 0..1."""
    x = tensor(op, images, "images").numpy()
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.size == 0 or len(x) > MOST:
        raise ShapeError.of(op, f"images of shape (C, H, W) or (N, C, H, W) with N up to {MOST}", f"shape {np.shape(images)}")
    if x.dtype.kind == "f":
        return x
    return x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)


def answers(op: str, model: Module, x: Tensor) -> Tensor:
    """The model's scores (N, K)."""
    y = model(x)
    if not isinstance(y, Tensor) or y.ndim != 2:
        raise ShapeError.of(op, "a model that gives scores of shape (N, K)", describe(y))
    return y


def targets(op: str, scores: np.ndarray, target: Any) -> np.ndarray:
    """The class to explain for each image: the given ones, or those with the highest scores."""
    N, K = scores.shape
    if target is None:
        return scores.argmax(axis=1)
    chosen = np.asarray(target.numpy() if isinstance(target, Tensor) else target)
    if chosen.dtype.kind not in "iu":
        raise DtypeError.of(op, "target as a class number, or one per image", describe(target))
    if chosen.shape not in ((), (N,)):
        raise ShapeError.of(op, f"one target, or one for each of {N} images", f"shape {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= K:
        raise ArgumentError.of(op, f"target from 0 to {K - 1}", f"{chosen.min()} to {chosen.max()}")
    return np.broadcast_to(chosen, (N,))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax of scores."""
    return F.softmax(Tensor(scores), axis=1).numpy()


def layer_of(op: str, model: Module, layer: str | None) -> tuple[str, Module]:
    """A layer by its path; the last convolution otherwise."""
    modules = dict(model.named_modules())
    if layer is None:
        paths = [path for path, module in modules.items() if isinstance(module, (Conv2d, ConvTranspose2d))]
        if not paths:
            raise ArgumentError.of(
                op, "a model with convolution layers", type(model).__name__, "Name another layer with layer=."
            )
        layer = paths[-1]
    if layer not in modules:
        raise ArgumentError.of(op, f"a layer of the model ({', '.join(filter(None, modules))})", repr(layer))
    return layer, modules[layer]


@contextmanager
def listening(module: Module, heard: list[Tensor]) -> Iterator[None]:
    """Collect what a layer returns."""
    remove = module.register_forward_hook(lambda module, inputs, output: heard.append(output))
    try:
        yield
    finally:
        remove()


def names(classes: Sequence[Any] | None, chosen: np.ndarray) -> list[str]:
    """The names of chosen classes; their numbers where none are given."""
    return [str(c) if classes is None else str(classes[c]) for c in chosen]
