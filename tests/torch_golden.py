"""PyTorch's answers for every operation's samples, kept in a file so that they are checked without PyTorch.

``python tests/torch_golden.py`` writes ``torch_golden.npz`` anew (PyTorch must be installed): per sample the
inputs, the outputs and the gradients of <v, y> for a fixed random v, all in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minidl.registry import OPS, Draw, OpSpec, Sample

FILE = Path(__file__).with_name("torch_golden.npz")
RENAMED = {"axis": "dim", "keepdims": "keepdim", "ddof": "correction"}
NAMES = {"negative": "neg", "clip": "clamp", "expand_dims": "unsqueeze", "broadcast_to": "broadcast_to", "greater": "gt"}
NO_COUNTERPART: dict[str, str] = {}  # operation -> why PyTorch has nothing to compare with


def entries() -> list[tuple[str, OpSpec, Sample]]:
    """(key, operation, sample) for every sample that PyTorch can answer."""
    return [
        (f"{name}/{i}", spec, sample)
        for name, spec in OPS.items()
        if name not in NO_COUNTERPART
        for i, sample in enumerate(spec.samples(Draw(seed=1)))
    ]


def arrays_of(sample: Sample) -> list[np.ndarray]:
    """The arrays among a sample's arguments, in order; lists are opened."""
    return [a for arg in sample.args for a in (arg if isinstance(arg, list) else [arg]) if isinstance(a, np.ndarray)]


def with_arrays(sample: Sample, arrays: list[Any]) -> list[Any]:
    """The sample's arguments with its arrays replaced."""
    rest = iter(arrays)

    def put(value: Any) -> Any:
        return next(rest) if isinstance(value, np.ndarray) else value

    return [[put(a) for a in arg] if isinstance(arg, list) else put(arg) for arg in sample.args]


def projection(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed random v that makes outputs scalar; from a formula, so that it never changes."""
    return np.sin(np.arange(1, int(np.prod(shape)) + 1) * 1.7).reshape(shape)
