"""A small ``nn`` namespace for frameworks without PyTorch's vocabulary: layers over a table of primitive functions.

A peer writes the primitives (``conv2d``, ``max_pool2d``, ... in its own memory layout) and gets the layers that the
models of ``cases.py`` are built from, with PyTorch's names for parameters, so that first weights are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.cases import INFER, TRAIN, Case
from benchmarks.peers.base import MODEL_GRADIENT, STEPS_CHECKED

EPS = 1e-5  # of batch normalisation


class Module(ABC):
    """Holds values and other modules as attributes; ``shapes`` names the values."""

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = shapes

    def __call__(self, *inputs: Any) -> Any:
        return self.forward(*inputs)

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Every module writes its own."""

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and those below it with the prefix of their values' names."""
        yield prefix, self
        for name, child in vars(self).items():
            if isinstance(child, Module):
                yield from child.walk(f"{prefix}{name}.")

    def all_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all values by dotted name."""
        return {prefix + name: shape for prefix, module in self.walk() for name, shape in module.shapes.items()}

    def bind(self, values: Mapping[str, Any]) -> None:
        """Take the values to compute with: the framework's tensors, by dotted name."""
        for prefix, module in self.walk():
            for name in module.shapes:
                setattr(module, name, values[prefix + name])


class Identity(Module):
    def forward(self, x: Any) -> Any:
        return x


class Sequential(Module):
    def __init__(self, *modules: Module) -> None:
        super().__init__()
        self.count = len(modules)
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        for i in range(self.count):
            x = getattr(self, str(i))(x)
        return x


def namespace(ops: Any) -> SimpleNamespace:
    """The layers over a peer's primitives. ``training`` of the result says how batch normalisation computes.

    ``ops`` has conv2d(x, w, b, stride, padding), linear(x, w, b), max_pool2d(x, k), avg_pool2d(x, k), mean_pool(x) to
    1 x 1, batch_norm(x, w, b) with the batch's statistics, scale_shift(x, scale, shift) per channel, sqrt, relu, tanh
    and flatten, which gives PyTorch's order (channel, row, column). ``w`` comes as the peer converted it.
    """
    nn = SimpleNamespace(Module=Module, Identity=Identity, Sequential=Sequential, training=True)

    class Conv2d(Module):
        def __init__(self, c: int, o: int, k: int, stride: int = 1, padding: int = 0, bias: bool = True) -> None:
            super().__init__(weight=(o, c, k, k), **({"bias": (o,)} if bias else {}))
            self.stride, self.padding, self.bias = stride, padding, None

        def forward(self, x: Any) -> Any:
            return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    class Linear(Module):
        def __init__(self, c: int, o: int) -> None:
            super().__init__(weight=(o, c), bias=(o,))

        def forward(self, x: Any) -> Any:
            return ops.linear(x, self.weight, self.bias)

    class BatchNorm2d(Module):
        def __init__(self, c: int) -> None:
            super().__init__(weight=(c,), bias=(c,), running_mean=(c,), running_var=(c,))

        def forward(self, x: Any) -> Any:
            if nn.training:
                return ops.batch_norm(x, self.weight, self.bias)
            scale = self.weight / ops.sqrt(self.running_var + EPS)
            return ops.scale_shift(x, scale, self.bias - self.running_mean * scale)

    def simple(name: str, function: str, *parameters: str) -> type:
        """A layer without values that calls one primitive."""

        class Layer(Module):
            def __init__(self, *arguments: int) -> None:
                super().__init__()
                self.arguments = arguments[: len(parameters)]

            def forward(self, x: Any) -> Any:
                return getattr(ops, function)(x, *self.arguments)

        Layer.__name__ = name
        return Layer

    nn.Conv2d, nn.Linear, nn.BatchNorm2d = Conv2d, Linear, BatchNorm2d
    nn.ReLU, nn.Tanh, nn.Flatten = simple("ReLU", "relu"), simple("Tanh", "tanh"), simple("Flatten", "flatten")
    nn.MaxPool2d, nn.AvgPool2d = simple("MaxPool2d", "max_pool2d", "k"), simple("AvgPool2d", "avg_pool2d", "k")
    nn.AdaptiveAvgPool2d = simple("AdaptiveAvgPool2d", "mean_pool")
    return nn


class ModelsOnly:
    """What the peers over these layers have in common."""

    def refuses(self, case: Case) -> str:
        """Single operations are left to PyTorch."""
        return "models only" if case.kind == "operation" else ""


class TrainedTask(ABC):
    """Training and inference of a model; a peer writes the four methods that are abstract here."""

    def __init__(self, case: Case) -> None:
        self.measures = {name: {TRAIN: self.train, INFER: self.infer}[name] for name in case.targets}

    @abstractmethod
    def train(self) -> Any:
        """One step; the loss."""

    @abstractmethod
    def infer(self) -> Any:
        """The outputs."""

    @abstractmethod
    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the parameters, shaped as PyTorch's."""

    @abstractmethod
    def reset(self) -> None:
        """First weights, new optimizer state."""

    def check(self) -> dict[str, np.ndarray]:
        """As ``base.ModelTask.check``."""
        values = {"output": np.asarray(self.infer())}
        if TRAIN in self.measures:
            values |= {MODEL_GRADIENT + name: gradient for name, gradient in self.gradients().items()}
            values["losses"] = np.array([self.train() for _ in range(1 + STEPS_CHECKED)])
            self.reset()
        return values


def to_channels_last(array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) images as (N, H, W, C)."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def to_hwio(array: np.ndarray) -> np.ndarray:
    """(O, C, KH, KW) weights as (KH, KW, C, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def from_hwio(array: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) weights as (O, C, KH, KW)."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def is_parameter(name: str) -> bool:
    """Whether a value is trained: running statistics are not."""
    return not name.endswith(("running_mean", "running_var"))
