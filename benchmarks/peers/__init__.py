"""Who is measured: one configuration per way of running a framework.

A worker process imports the class of its configuration and nothing of the others. What a configuration sets in the
environment is part of it: C libraries read it when they start.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# glibc's malloc gives large blocks back to the system at once, and every fresh page costs a fault. This keeps them.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}


@dataclass(frozen=True)
class Configuration:
    """One way of running one framework.

    Attributes:
        name: of the configuration, unique.
        peer: the framework; the best configuration of a peer stands for it.
        place: module and class in ``benchmarks.peers``.
        options: what its class takes.
        environment: variables of its process.
        threads: other than the run's own number; None for that.
        package: what ``import`` loads.
        cache: the variable that names the folder of its compiler's cache, "" where it has none.
    """

    name: str
    peer: str
    place: tuple[str, str]
    package: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    threads: int | None = None
    cache: str = ""

    def make(self, threads: int) -> Any:
        """Import the framework and make the peer."""
        module, name = self.place
        return getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(threads=threads, **self.options)


# The configuration named "minidl" is what everything else is compared with; on a GPU it replays training as a graph.
OURS = Configuration("minidl", "minidl", ("ours", "Minidl"), "minidl", cache="NUMBA_CACHE_DIR")
TORCH = ("pytorch", "Torch")

CONFIGURATIONS = [
    OURS,
    Configuration("torch", "torch", TORCH, "torch"),
    Configuration("torch channels_last", "torch", TORCH, "torch", {"channels_last": True}),
    Configuration("torch malloc", "torch", TORCH, "torch", {}, KEEP_MEMORY),
    Configuration("torch channels_last malloc", "torch", TORCH, "torch", {"channels_last": True}, KEEP_MEMORY),
    Configuration(
        "torch-compile",
        "torch-compile",
        ("pytorch", "TorchCompile"),
        "torch",
        {"channels_last": True},
        KEEP_MEMORY,
        cache="TORCHINDUCTOR_CACHE_DIR",
    ),
    Configuration(
        "tensorflow", "tensorflow", ("with_tensorflow", "TensorFlow"), "tensorflow", {}, {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ),
    Configuration("jax", "jax", ("with_jax", "Jax"), "jax", {}, {"JAX_PLATFORMS": "cpu"}),
    Configuration("onnxruntime", "onnxruntime", ("with_onnxruntime", "OnnxRuntime"), "onnxruntime"),
    Configuration("mygrad", "mygrad", ("with_mygrad", "MyGrad"), "mygrad"),
    Configuration(
        "tinygrad", "tinygrad", ("with_tinygrad", "TinyGrad"), "tinygrad", {}, {"DEV": "CPU"}, cache="XDG_CACHE_HOME"
    ),
    Configuration("minidl 1 thread", "minidl-1-thread", OURS.place, "minidl", threads=1),
]
CUDA = {"device": "cuda"}
GPU_CONFIGURATIONS = [
    Configuration("minidl", "minidl", OURS.place, "minidl", {**CUDA, "captured": True}, cache="CUPY_CACHE_DIR"),
    Configuration("minidl eager", "minidl-eager", OURS.place, "minidl", CUDA, cache="CUPY_CACHE_DIR"),
    Configuration("minidl tf32", "minidl-tf32", OURS.place, "minidl", {**CUDA, "captured": True, "tf32": True}),
    Configuration("torch", "torch", TORCH, "torch", CUDA),
    Configuration("torch channels_last", "torch", TORCH, "torch", {**CUDA, "channels_last": True}),
    Configuration("torch tf32", "torch-tf32", TORCH, "torch", {**CUDA, "tf32": True}),
    Configuration("torch channels_last tf32", "torch-tf32", TORCH, "torch", {**CUDA, "channels_last": True, "tf32": True}),
    Configuration("torch-compile", "torch-compile", ("pytorch", "TorchCompile"), "torch", {**CUDA, "graphs": True}),
]
PEERS = list(dict.fromkeys(c.peer for c in CONFIGURATIONS if c is not OURS))
GPU_PEERS = list(dict.fromkeys(c.peer for c in GPU_CONFIGURATIONS if c.peer != OURS.peer))
QUICK = ["torch", "torch channels_last malloc"]  # configurations
PLAIN, COMPILED = "torch", "torch-compile"  # PyTorch out of the box; PyTorch compiled
TITLES = {
    "torch": "PyTorch",
    "torch-compile": "PyTorch compiled",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "onnxruntime": "ONNX Runtime",
    "mygrad": "MyGrad",
    "tinygrad": "tinygrad",
    "minidl-1-thread": "minidl on one thread",
    "minidl-eager": "minidl eager",
    "minidl-tf32": "minidl TF32",
    "torch-tf32": "PyTorch TF32",
}


def choose(names: Iterable[str], quick: bool, gpu: bool = False) -> list[Configuration]:
    """minidl, and the configurations of the named peers; those of the mode when none is named.

    Raises:
        ValueError: a name that is no peer.
    """
    names = list(names)
    if gpu:
        unknown = [name for name in names if name not in GPU_PEERS]
        if unknown:
            raise ValueError(f"expected peers among {', '.join(GPU_PEERS)}, got {', '.join(map(repr, unknown))}.")
        return [c for c in GPU_CONFIGURATIONS if c.peer == OURS.peer or c.peer in (names or GPU_PEERS)]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(f"expected peers among {', '.join(PEERS)}, got {', '.join(map(repr, unknown))}.")
    if not names and quick:
        return [OURS, *(c for c in CONFIGURATIONS if c.name in QUICK)]
    return [OURS, *(c for c in CONFIGURATIONS if c is not OURS and c.peer in (names or PEERS))]


def environment(configuration: Configuration, threads: int) -> dict[str, str]:
    """The environment of a worker: the user's, the number of threads, and the configuration's own."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    threads = configuration.threads or threads
    return {**os.environ, **dict.fromkeys(variables, str(threads)), **configuration.environment}


def interpreters(pairs: Iterable[str]) -> dict[str, str]:
    """``--python jax=/path/to/python`` as a table: peers that live in another environment.

    Raises:
        ValueError: something that is not PEER=PATH.
    """
    table = dict.fromkeys((c.peer for c in (*CONFIGURATIONS, *GPU_CONFIGURATIONS)), sys.executable)
    for pair in pairs:
        peer, separator, path = pair.partition("=")
        if peer not in table or not separator or not os.access(path, os.X_OK):
            raise ValueError(f"--python: expected PEER=PATH with a peer among {', '.join(PEERS)}, got {pair!r}.")
        table[peer] = path
    return table
