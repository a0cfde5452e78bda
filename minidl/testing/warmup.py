"""Every kernel called once, so that it is compiled and lies in the disk cache when it is needed.

A compiled kernel is for one dtype and one number of axes, whatever the sizes. So the small inputs on which operations
and layers are checked will do, but where large ones go to other kernels: to those they go here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np

from minidl import functional, nn, optim
from minidl.backend import to_device
from minidl.context import no_grad
from minidl.kernels import kernels_for
from minidl.models import MODELS, create
from minidl.registry import OPS, Draw, OpSpec, Sample
from minidl.tensor import Tensor
from minidl.testing.forms import as_tensors
from minidl.testing.layers import LAYERS, LayerCase

__all__ = ["names", "steps"]

Step = tuple[str, Callable[[], object]]

PIXELS = 1 << 16  # of the images that a model is trained on
DTYPES = np.float32, np.float64  # float64 is what gradients are checked in

OPTIMIZERS: dict[str, list[Callable[[list[nn.Parameter]], optim.Optimizer]]] = {
    "SGD": [optim.SGD, partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-4)],
    "Adam": [optim.Adam, partial(optim.Adam, amsgrad=True, weight_decay=1e-4)],
    "AdamW": [optim.AdamW],
    "RMSprop": [optim.RMSprop, partial(optim.RMSprop, momentum=0.9, centered=True)],
    "Adagrad": [optim.Adagrad],
}

# Of operations that leave small arrays to NumPy or to another kernel: arguments large enough for several threads.
LARGE: dict[str, Callable[[], Sample]] = {
    "add": lambda: Sample(np.ones((256, 256)), np.ones((256, 256))),
    "multiply": lambda: Sample(np.ones((256, 256)), np.ones((256, 256))),
    "linear": lambda: Sample(np.ones((256, 256)), np.ones((256, 256)), np.ones(256)),
    "interpolate": lambda: Sample(np.ones((2, 16, 64, 64)), scale_factor=2, mode="bilinear"),
    "im2col": lambda: Sample(np.ones((2, 16, 64, 64)), 3),
    "conv2d_relu": lambda: Sample(np.ones((2, 16, 34, 34)), np.ones((16, 16, 3, 3)), np.ones(16), pool=2),
}


def names() -> list[str]:
    """What ``steps`` can be asked for: models, layers, optimizers and operations."""
    return list(dict.fromkeys([*MODELS, *(_layer(case) for case in LAYERS), *OPTIMIZERS, *OPS]))


def steps(wanted: Collection[str] = (), device: str = "cpu") -> Iterator[Step]:
    """(name, call) for all there is, or for what is wanted, on a device; what is used most comes first."""
    for name in wanted or names():
        if name in MODELS:
            yield name, partial(_train_model, name, device)
        for make in OPTIMIZERS.get(name, []):
            for dtype in DTYPES:
                yield name, partial(_update, make, dtype, device)
        for case in LAYERS:
            if _layer(case) == name:
                for dtype in DTYPES:
                    yield case.name, partial(_run_layer, case, dtype, device)
        if name in OPS:
            for sample in [*OPS[name].samples(Draw()), *([LARGE[name]()] if name in LARGE else [])]:
                for dtype in DTYPES:
                    yield name, partial(_run_sample, OPS[name], sample, dtype, device)
        if name == "conv2d":
            for dtype in DTYPES:
                yield name, partial(_every_algorithm, dtype, device)


def _layer(case: LayerCase) -> str:
    return case.name.partition(",")[0]


def _backward(result: Any) -> None:
    """Backward through what an operation or layer returned, where it has gradients."""
    for y in result if isinstance(result, (list, tuple)) else [result]:
        if isinstance(y, Tensor) and y.requires_grad:
            y.backward(np.ones(y.shape, y.dtype), retain_graph=True)


def _run_sample(spec: OpSpec, sample: Sample, dtype: Any, device: str) -> None:
    with no_grad():
        spec.function(*as_tensors(sample.args, (), dtype, device=device), **sample.kwargs)
    _backward(spec.function(*as_tensors(sample.args, sample.differentiable, dtype, device=device), **sample.kwargs))


def _run_layer(case: LayerCase, dtype: Any, device: str) -> None:
    layer, arguments = case.make().to(dtype).to(device), case.inputs(Draw())
    _backward(layer(*as_tensors(arguments, range(len(arguments)), dtype, device=device)))
    with no_grad():
        layer.eval()(*as_tensors(arguments, (), dtype, device=device))


def _every_algorithm(dtype: Any, device: str) -> None:
    """A convolution of each kind by each algorithm that can compute it, though small images go to one of them."""
    for C, O, K, groups in ((16, 16, 3, 1), (8, 8, 3, 8)):
        x, w, b = (np.ones(shape) for shape in ((1, C, 14, 14), (O, C // groups, K, K), (O,)))
        algorithms = kernels_for(to_device(x, device)).conv2d_algorithms(
            x.shape, w.shape, (1, 1), ((0, 0), (0, 0)), (1, 1), groups, np.dtype(dtype)
        )
        for algorithm in algorithms:
            image, weight, bias = as_tensors((x, w, b), range(3), dtype, device=device)
            _backward(functional.conv2d(image, weight, bias, groups=groups, algorithm=algorithm))


def _update(make: Callable[[list[nn.Parameter]], optim.Optimizer], dtype: Any, device: str) -> None:
    p = nn.Parameter(Tensor(np.ones(3, dtype), device=device))
    optimizer = make([p])
    for _ in range(2):  # the first step of some is a special one
        optimizer.zero_grad()
        (p * p).sum().backward()
        optim.clip_grad_norm([p], 1.0)
        optimizer.step()


def _train_model(name: str, device: str) -> None:
    """A training step and an inference, on so many images that convolutions take the algorithms for full batches."""
    model, (C, H, W) = create(name, rng=0).to(device), MODELS[name].input_shape
    N = max(2, PIXELS // (H * W))
    images = Tensor(np.zeros((N, C, H, W), np.float32), device=device)
    labels = Tensor(np.zeros(N, np.int64), device=device)
    optimizer = optim.Adam(model.parameters())
    nn.CrossEntropyLoss()(model(images), labels).backward()
    optimizer.step()
    with no_grad():
        model.eval()(images)
