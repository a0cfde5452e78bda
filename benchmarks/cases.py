"""What is measured: models and single operations, written once for every framework.

A case builds its model from an ``nn`` namespace with PyTorch's names. ``torch.nn`` and ``minidl.nn`` both are such
a namespace, so the same lines build both models; the other peers bring a small one of their own
(``peers/layers.py``). Inputs and first weights are drawn here, from seeds, and so are the same everywhere.
"""

from __future__ import annotations

import difflib
import fnmatch
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

TRAIN, INFER = "training step", "inference"
FORWARD, BACKWARD, BOTH = "forward", "backward", "forward and backward"
OF_X, OF_WEIGHTS = "gradient of x", "gradient of weights"
UPDATE = "update"

LEARNING_RATE = 1e-4  # small: the timed steps shall not end in the denormal numbers of a model without loss
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Cost:
    """The least that a measure has to do: floating-point operations, and bytes to and from memory."""

    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Case:
    """One model or operation with the shape of its input.

    Attributes:
        name: for the command line.
        title: for tables.
        kind: "model" and "operation"; "latency" and "growth" are models at other batch sizes.
        build: makes the module from an ``nn`` namespace; None for the optimizer.
        shape: of the input, with the batch axis.
        classes: number of labels; 0 where nothing is classified.
        targets: what is measured, and how many times faster than PyTorch it shall be (None: no target).
        costs: per measure; those of models are counted by ``minidl.summary`` (see ``peers/ours.py``).
        quick: whether ``--quick`` measures it.
        tolerance: largest difference of a model's gradients from another framework's. A rounding that turns a ReLU on or
            lets another pixel win its pool moves a whole gradient: PyTorch differs from itself in float64 as much.
    """

    name: str
    title: str
    kind: str
    build: Callable[[Any], Any] | None
    shape: tuple[int, ...]
    classes: int
    targets: Mapping[str, float | None]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    quick: bool = False
    tolerance: float = 1e-2

    @property
    def batch(self) -> int:
        """Images or rows in one step."""
        return self.shape[0]

    def at_batch(self, batch: int) -> Case:
        """The same case with another batch size."""
        return replace(self, shape=(batch, *self.shape[1:]))

    def inputs(self) -> tuple[np.ndarray, ...]:
        """x, and the labels where there are classes."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal(self.shape, np.float32)
        return (x, rng.integers(0, self.classes, self.batch)) if self.classes else (x,)


def gradient_like(y: np.ndarray | tuple[int, ...]) -> np.ndarray:
    """dL/dy to start a backward pass with, for an output of this shape."""
    return np.random.default_rng(1).standard_normal(y if isinstance(y, tuple) else y.shape, np.float32)


def first_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """First values of parameters and buffers by name and shape: the same in every framework, of sensible size."""
    return {name: _first_values(name, shape) for name, shape in shapes.items()}


def _first_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    around = 1 if name.endswith(("weight", "running_var")) else 0  # of a normalisation
    return (around + 0.1 * rng.uniform(-1, 1, shape)).astype(np.float32)


# ---------------------------------------------------------------- models


def _three_convolutions(nn: Any, channels: int, features: int) -> Any:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def mnist_cnn(nn: Any) -> Any:
    """28 x 28 x 1; conv 32-64-64, two max pools, linear 576-64-10."""
    return _three_convolutions(nn, 1, 576)


def cifar_cnn(nn: Any) -> Any:
    """32 x 32 x 3; conv 32-64-64, two max pools, linear 1024-64-10."""
    return _three_convolutions(nn, 3, 1024)


def image_cnn(nn: Any) -> Any:
    """224 x 224 x 3; conv 32-64-128, each with a max pool, linear 86,528-128-10."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(86528, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def lenet5(nn: Any) -> Any:
    """28 x 28 x 1; LeNet-5 with tanh and average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def mlp(nn: Any) -> Any:
    """784-256-128-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def residual(nn: Any, main: Any, shortcut: Any) -> Any:
    """max(main(x) + shortcut(x), 0): minidl's own module for it, and what one writes in the other frameworks."""
    if hasattr(nn, "Residual"):
        return nn.Residual(main, shortcut)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.shortcut, self.relu = main, shortcut, nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.main(x) + self.shortcut(x))

    return Block()


def resnet20(nn: Any) -> Any:
    """ResNet-20 for 32 x 32 x 3 (He et al., 2015, section 4.2), with 1x1 convolutions where a block changes the shape."""

    def block(c: int, o: int, stride: int) -> Any:
        main = nn.Sequential(
            nn.Conv2d(c, o, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1, bias=False),
            nn.BatchNorm2d(o),
        )
        if c == o and stride == 1:
            return residual(nn, main, nn.Identity())
        return residual(nn, main, nn.Sequential(nn.Conv2d(c, o, 1, stride=stride, bias=False), nn.BatchNorm2d(o)))

    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for c, o, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [block(c, o, stride), block(o, o, 1), block(o, o, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet50(nn: Any) -> Any:
    """ResNet-50 for 224 x 224 x 3 (He et al., 2015), with the stride in the 3x3 convolution."""

    def normal(c: int, o: int, k: int, stride: int = 1, padding: int = 0) -> list[Any]:
        return [nn.Conv2d(c, o, k, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(o)]

    def block(c: int, width: int, stride: int) -> Any:
        o = 4 * width
        main = nn.Sequential(
            *(*normal(c, width, 1), nn.ReLU(), *normal(width, width, 3, stride, 1), nn.ReLU()), *normal(width, o, 1)
        )
        return residual(nn, main, nn.Identity() if c == o and stride == 1 else nn.Sequential(*normal(c, o, 1, stride)))

    layers = [*normal(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    c = 64
    for i, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for k in range(count):
            layers.append(block(c, width, 2 if k == 0 and i > 0 else 1))
            c = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


def _models() -> Iterable[Case]:
    """Training and inference, then one image at a time, then other batch sizes."""
    entries = [  # name, title, build, input, (target in training, at inference), tolerance
        ("mnist_cnn", "MNIST CNN", mnist_cnn, (128, 1, 28, 28), (3.0, 2.0), 1e-2),
        ("cifar_cnn", "CIFAR CNN", cifar_cnn, (128, 3, 32, 32), (3.0, 2.0), 1e-2),
        ("image_cnn", "image CNN 224", image_cnn, (16, 3, 224, 224), (2.2, 1.8), 5e-2),
        ("resnet20", "ResNet-20", resnet20, (128, 3, 32, 32), (1.7, 1.5), 5e-2),
        ("lenet5", "LeNet-5", lenet5, (32, 1, 28, 28), (1.0, 1.0), 1e-2),
        ("mlp", "MLP", mlp, (128, 784), (1.0, 1.0), 1e-2),
    ]
    for name, title, build, shape, (train, infer), tolerance in entries:
        yield Case(name, title, "model", build, shape, 10, {TRAIN: train, INFER: infer}, quick=True, tolerance=tolerance)
    for name, title, build, shape, _, _ in entries:
        yield Case(f"{name}-1", title, "latency", build, (1, *shape[1:]), 10, {INFER: None}, quick=name in ("cifar_cnn", "mlp"))
    for batch in (16, 64, 256, 1024):
        yield Case(f"cifar_cnn-{batch}", "CIFAR CNN", "growth", cifar_cnn, (batch, 3, 32, 32), 10, {TRAIN: None, INFER: None})


# ---------------------------------------------------------------- single operations


def _convolution(N: int, C: int, H: int, O: int, K: int, S: int = 1, P: int = 0, groups: int = 1, quick: bool = False) -> Case:
    """One convolution with bias on square images: forward and both gradients."""
    OH = (H + 2 * P - K) // S + 1
    x, w, y = N * C * H * H, O * (C // groups) * K * K, N * O * OH * OH
    cost = Cost(2 * y * (C // groups) * K * K, FLOAT * (x + w + y))  # the same for all three directions
    depthwise = groups == C > 1
    winograd = K == 3 and S == 1 and groups == 1 and min(C, O) >= 16
    target = 1.5 if winograd else 1.0
    title = (
        f"conv {K}x{K}"
        + (f" stride {S}" if S > 1 else "")
        + (" depthwise" if depthwise else "")
        + f", {C}->{O} at {H}x{H}, N={N}"
    )
    name = f"conv{K}" + (f"s{S}" if S > 1 else "") + ("dw" if depthwise else "") + f"-{C}-{O}-{H}"
    return Case(
        name,
        title,
        "operation",
        lambda nn: nn.Conv2d(C, O, K, stride=S, padding=P, groups=groups),
        (N, C, H, H),
        0,
        {FORWARD: 0.9 if K == 1 or depthwise else target, OF_X: target, OF_WEIGHTS: target},
        dict.fromkeys((FORWARD, OF_X, OF_WEIGHTS), cost),
        quick,
    )


def _elementwise(name: str, build: Callable[[Any], Any], passes: tuple[float, float], quick: bool = True, N: int = 32) -> Case:
    """An operation on activations (N, 64, 56, 56); ``passes``: how often forward and backward move x's bytes."""
    shape = (N, 64, 56, 56)
    forward, backward = (Cost(bytes=int(FLOAT * n * np.prod(shape))) for n in passes)
    title = f"{name.replace('_', ' ')}, 64 at 56x56, N={N}"
    return Case(
        name, title, "operation", build, shape, 0, {FORWARD: 1.0, BACKWARD: 1.0}, {FORWARD: forward, BACKWARD: backward}, quick
    )


def _passes(N: int) -> Iterable[Case]:
    """Operations that are bound by memory.

    Least traffic, in arrays of x's size: a pool of 2x2 reads x and writes a quarter; sigmoid's gradient reads y and gy
    and writes gx; batch norm must have read all of x before it can read it again to normalise.
    """
    yield _elementwise("max_pool2", lambda nn: nn.MaxPool2d(2), (1.25, 1.25), N=N)
    yield _elementwise("max_pool3s2", lambda nn: nn.MaxPool2d(3, stride=2), (1.23, 1.23), quick=False, N=N)
    yield _elementwise("relu", lambda nn: nn.ReLU(), (2, 3), N=N)
    yield _elementwise("sigmoid", lambda nn: nn.Sigmoid(), (2, 3), quick=False, N=N)
    yield _elementwise("tanh", lambda nn: nn.Tanh(), (2, 3), N=N)
    yield _elementwise("batch_norm", lambda nn: nn.BatchNorm2d(64), (3, 5), N=N)


def _operations() -> Iterable[Case]:
    yield _convolution(128, 1, 28, 32, 3, quick=True)
    yield _convolution(128, 3, 32, 32, 3)
    yield _convolution(128, 32, 15, 64, 3, quick=True)
    yield _convolution(128, 64, 6, 64, 3)
    yield _convolution(32, 64, 56, 64, 3, 1, 1, quick=True)
    yield _convolution(32, 128, 28, 128, 3, 1, 1)
    yield _convolution(128, 16, 32, 16, 3, 1, 1)
    yield _convolution(128, 32, 16, 32, 3, 1, 1)
    yield _convolution(32, 256, 14, 256, 3, 1, 1)
    yield _convolution(16, 3, 224, 32, 3)
    yield _convolution(16, 32, 111, 64, 3)
    yield _convolution(16, 3, 224, 64, 7, 2, 3)
    yield _convolution(32, 64, 56, 256, 1)
    yield _convolution(32, 128, 28, 128, 3, 1, 1, groups=128, quick=True)
    yield from _passes(32)
    size = FLOAT * 4096 * 1000
    yield Case(
        "softmax_ce",
        "softmax cross-entropy, 4096 x 1000",
        "operation",
        lambda nn: nn.CrossEntropyLoss(),
        (4096, 1000),
        1000,
        {FORWARD: 1.0, BOTH: 1.0},
        {FORWARD: Cost(bytes=size), BOTH: Cost(bytes=2 * size)},
        quick=True,
    )
    size = FLOAT * 10_000_000
    yield Case(
        "adam",
        "Adam, 10M values",
        "operation",
        None,
        (10_000_000,),
        0,
        {UPDATE: 1.0},
        {UPDATE: Cost(bytes=7 * size)},
        quick=True,
    )


# ---------------------------------------------------------------- on a GPU


def _gpu_models() -> Iterable[Case]:
    """The models again; what is small enough is bound by launches, and wants a graph of them."""
    entries = [  # name, title, build, input, classes, target in training, tolerance
        ("mnist_cnn", "MNIST CNN", mnist_cnn, (128, 1, 28, 28), 10, 2.0, 1e-2),
        ("cifar_cnn", "CIFAR CNN", cifar_cnn, (128, 3, 32, 32), 10, 2.0, 1e-2),
        ("resnet20", "ResNet-20", resnet20, (128, 3, 32, 32), 10, None, 5e-2),
        ("resnet20-1024", "ResNet-20", resnet20, (1024, 3, 32, 32), 10, 1.0, 5e-2),
        ("resnet50", "ResNet-50", resnet50, (64, 3, 224, 224), 1000, 0.5, 1e-1),
    ]
    for name, title, build, shape, classes, target, tolerance in entries:
        targets = {TRAIN: target, INFER: None}
        yield Case(f"gpu-{name}", title, "model", build, shape, classes, targets, quick=True, tolerance=tolerance)


def _gpu_operations() -> Iterable[Case]:
    """Arrays of 200 MB, more than the caches of a GPU hold."""
    convolutions = [
        *(_convolution(256, 64, 56, 64, 3, 1, 1, quick=True), _convolution(256, 128, 28, 128, 3, 1, 1)),
        *(_convolution(256, 256, 14, 256, 3, 1, 1), _convolution(256, 64, 56, 256, 1, quick=True)),
        *(_convolution(128, 3, 224, 64, 7, 2, 3), _convolution(256, 128, 28, 128, 3, 1, 1, groups=128, quick=True)),
    ]
    for case in (*convolutions, *_passes(256)):
        yield replace(case, name=f"gpu-{case.name}", targets=dict.fromkeys(case.targets))


CASES: dict[str, Case] = {case.name: case for case in (*_models(), *_operations())}
GPU_CASES: dict[str, Case] = {case.name: case for case in (*_gpu_models(), *_gpu_operations())}


def find(name: str) -> Case:
    """A case of either table by its name."""
    return CASES.get(name) or GPU_CASES[name]


def choose(patterns: Iterable[str], quick: bool, table: Mapping[str, Case] = CASES) -> list[Case]:
    """The cases of a table whose names match any of the patterns; those of the mode when there are none.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    patterns = list(patterns)
    if not patterns:
        return [case for case in table.values() if case.quick or not quick]
    for pattern in patterns:
        if not fnmatch.filter(table, pattern):
            near = ", ".join(difflib.get_close_matches(pattern, table, 3, 0.4))
            raise ValueError(
                f"expected names of cases, got {pattern!r}." + (f" Did you mean {near}?" if near else " See --list.")
            )
    return [case for name, case in table.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
