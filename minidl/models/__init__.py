"""Complete models, and a table of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minidl.errors import ArgumentError
from minidl.models.cnn import CifarCNN, ImageCNN, MnistCNN, SmallCNN
from minidl.models.lenet import LeNet5
from minidl.models.resnet import ResNet, resnet18, resnet20, resnet34, resnet50
from minidl.nn import Module

__all__ = [
    "MODELS",
    "CifarCNN",
    "ImageCNN",
    "LeNet5",
    "MnistCNN",
    "ModelEntry",
    "ResNet",
    "SmallCNN",
    "create",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
]


@dataclass(frozen=True)
class ModelEntry:
    """A model's class, or the function that makes it, and the (C, H, W) of the images it is made for.

    >>> from minidl import models
    >>> models.MODELS["lenet5"].input_shape
    (1, 28, 28)
    """

    build: Callable[..., Module]
    input_shape: tuple[int, int, int]


MODELS: dict[str, ModelEntry] = {
    "lenet5": ModelEntry(LeNet5, (1, 28, 28)),
    "small_cnn": ModelEntry(SmallCNN, (1, 28, 28)),
    "mnist_cnn": ModelEntry(MnistCNN, (1, 28, 28)),
    "cifar_cnn": ModelEntry(CifarCNN, (3, 32, 32)),
    "image_cnn": ModelEntry(ImageCNN, (3, 224, 224)),
    "resnet20": ModelEntry(resnet20, (3, 32, 32)),
    "resnet18": ModelEntry(resnet18, (3, 224, 224)),
    "resnet34": ModelEntry(resnet34, (3, 224, 224)),
    "resnet50": ModelEntry(resnet50, (3, 224, 224)),
}


def create(name: str, **options: Any) -> Module:
    """Make a model by its name in ``MODELS``.

    Args:
        name: such as "lenet5".
        options: what its class takes: num_classes, in_channels, rng.

    Raises:
        ArgumentError: a name or an option that does not exist.

    >>> from minidl import models
    >>> type(models.create("lenet5", num_classes=47, rng=0)).__name__
    'LeNet5'
    """
    if name not in MODELS:
        raise ArgumentError.of("models.create", f"one of {', '.join(MODELS)}", repr(name))
    build = MODELS[name].build
    known = list(inspect.signature(build).parameters)
    for option in options:
        if option not in known:
            raise ArgumentError.of("models.create", f"options of {name} among {', '.join(known)}", repr(option))
    return build(**options)
