"""PyTorch's answers for the network operations' samples, kept in a file so that they are checked without PyTorch.

``python tests/torch_golden.py`` writes ``torch_golden.npz`` anew (PyTorch must be installed): per sample the
inputs, the outputs and the gradients of <v, y> for a fixed v, all in float64. Array operations are not in it:
their reference is NumPy, which is always there.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from minidl.registry import OPS, Draw, OpSpec, Sample

FILE = Path(__file__).with_name("torch_golden.npz")
FAMILIES = {"activation", "attention", "conv", "embedding", "linear", "loss", "norm", "pool", "resize"}
RENAMED = {"axis": "dim"}
NO_COUNTERPART = {"focal_loss": "torchvision's, not PyTorch's"}
REFUSED = {("group_norm", "bias only"), ("instance_norm", "empty")}  # samples whose backward fails inside PyTorch


def entries() -> list[tuple[str, OpSpec, Sample]]:
    """(key, operation, sample) for every sample that PyTorch can answer."""
    return [
        (f"{name}/{i}", spec, sample)
        for name, spec in OPS.items()
        if spec.family in FAMILIES and name not in NO_COUNTERPART
        for i, sample in enumerate(spec.samples(Draw(seed=1)))
        if "rng" not in sample.kwargs  # other random numbers
        and (name, sample.name) not in REFUSED
    ]


def arrays_of(sample: Sample) -> list[np.ndarray]:
    """The arrays among a sample's arguments, positional ones first."""
    return [a for a in (*sample.args, *sample.kwargs.values()) if isinstance(a, np.ndarray)]


def with_arrays(sample: Sample, arrays: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The sample's arguments with its arrays replaced."""
    rest = iter(arrays)

    def put(value: Any) -> Any:
        return next(rest) if isinstance(value, np.ndarray) else value

    return [put(a) for a in sample.args], {name: put(a) for name, a in sample.kwargs.items()}


def projection(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed v that makes outputs scalar; from a formula, so that it never changes."""
    return np.sin(np.arange(1, int(np.prod(shape)) + 1) * 1.7).reshape(shape)


def torch_function(name: str) -> Any:
    """The function of PyTorch that an operation is compared with, taking the operation's arguments."""
    import torch
    from torch.nn import functional as F

    special = {
        "global_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
        "global_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 1),
        "binary_cross_entropy": lambda x, target, *a, **k: F.binary_cross_entropy(x, target.to(x.dtype), *a, **k),
        "binary_cross_entropy_with_logits": lambda x, target, weight=None, reduction="mean", pos_weight=None: (
            F.binary_cross_entropy_with_logits(
                x,
                target.to(x.dtype),
                weight,
                reduction=reduction,
                pos_weight=None if pos_weight is None else torch.as_tensor(pos_weight, dtype=x.dtype),
            )
        ),
        "conv2d": lambda *a, algorithm="auto", **k: F.conv2d(*a[:7], **k),
        "conv2d_relu": lambda *a, pool=1, **k: F.max_pool2d(F.relu(F.conv2d(*a[:7], **k)), a[7] if len(a) > 7 else pool),
        "linear_relu": lambda *a, **k: F.relu(F.linear(*a, **k)),
        "softmax": lambda x, dim=-1: F.softmax(x, dim),  # PyTorch has no default axis
        "log_softmax": lambda x, dim=-1: F.log_softmax(x, dim),
        "batch_norm": lambda x, running_mean=None, running_var=None, *a, **k: F.batch_norm(
            x, running_mean, running_var, *a, **k
        ),
        "batch_norm_relu": lambda x, running_mean=None, running_var=None, *a, residual=0.0, **k: F.relu(
            F.batch_norm(x, running_mean, running_var, *a[:5], **k) + (a[5] if len(a) > 5 else residual)
        ),
        "layer_norm": lambda x, normalized_shape, *a, **k: F.layer_norm(x, np.atleast_1d(normalized_shape).tolist(), *a, **k),
        "im2col": F.unfold,
        "col2im": F.fold,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    return special.get(name) or getattr(F, name)


def torch_answer(spec: OpSpec, sample: Sample) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """PyTorch's outputs, and the gradients of the sample's arrays (None where there is none)."""
    import torch

    tensors = [torch.tensor(np.array(a, order="C")) for a in arrays_of(sample)]
    args, kwargs = with_arrays(sample, tensors)
    for position in sample.differentiable:
        args[position].requires_grad_(True)
    names = list(inspect.signature(spec.function).parameters)
    while len(args) > 1 and not isinstance(args[-1], torch.Tensor):  # plain values by name: their order differs here and there
        value = args.pop()
        kwargs[names[len(args)]] = value
    result = torch_function(spec.name)(*args, **{RENAMED.get(k, k): v for k, v in kwargs.items()})
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    loss = sum((y * torch.tensor(projection(tuple(y.shape)))).sum() for y in outputs if y.requires_grad)
    if isinstance(loss, torch.Tensor):
        loss.backward()
    return [y.detach().numpy() for y in outputs], [None if t.grad is None else t.grad.numpy() for t in tensors]


def write() -> None:
    """Write the file."""
    stored: dict[str, np.ndarray] = {}
    for key, spec, sample in entries():
        outputs, gradients = torch_answer(spec, sample)
        for i, a in enumerate(arrays_of(sample)):
            stored[f"{key}/in{i}"] = a
        for i, y in enumerate(outputs):
            stored[f"{key}/out{i}"] = y
        for i, g in enumerate(gradients):
            if g is not None:
                stored[f"{key}/grad{i}"] = g
    np.savez_compressed(FILE, **stored)
    print(f"{FILE}: {len(entries())} samples, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    write()
