"""PyTorch, eager and compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from benchmarks.cases import LEARNING_RATE, Case
from benchmarks.peers.base import GPU_STEPS_CHECKED, Peer


class Torch(Peer):
    """Eager PyTorch with its fused Adam, which is its fastest; images and kernels in NCHW or channels_last.

    On a GPU cuDNN may try its algorithms and keep the fastest (``benchmark``); TF32 is on only where a name says so.
    """

    nn = torch.nn

    def __init__(self, threads: int, channels_last: bool = False, device: str = "cpu", tf32: bool = False) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        if device == "cuda":
            torch.cuda.init()  # an error here says that there is no GPU
            self.losses_checked = GPU_STEPS_CHECKED
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        self.version = torch.__version__
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(self, array: np.ndarray, grad: bool = False) -> Any:
        """A tensor in the configuration's layout."""
        tensor = torch.from_numpy(array.copy()).to(self.device)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=self.layout)
        return tensor.requires_grad_(grad)

    def array(self, tensor: Any) -> np.ndarray:
        """The values, copied."""
        return np.array(tensor.detach().cpu().numpy(), order="C")

    def no_grad(self) -> AbstractContextManager:
        """inference_mode, which costs less than no_grad."""
        return torch.inference_mode()

    def adam(self, parameters: list[Any]) -> Any:
        """The fused one."""
        return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def parameter(self, array: np.ndarray) -> Any:
        """A Parameter."""
        return torch.nn.Parameter(torch.from_numpy(array.copy()).to(self.device))

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """The functional one."""
        return torch.nn.functional.cross_entropy(logits, labels)

    def gradients(self, y: Any, leaves: list[Any], gy: Any) -> list[Any]:
        """torch.autograd.grad."""
        return list(torch.autograd.grad(y, leaves, gy, retain_graph=True))

    def load(self, module: Any, weights: dict[str, np.ndarray]) -> None:
        """By state dict, into the configuration's layout."""
        module.to(self.device, memory_format=self.layout)
        module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})

    def wait(self) -> None:
        """torch.cuda.synchronize."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class TorchCompile(Torch):
    """torch.compile with its default backend, for whole models; on a GPU as CUDA graphs."""

    def __init__(self, threads: int, channels_last: bool = False, device: str = "cpu", graphs: bool = False) -> None:
        super().__init__(threads, channels_last, device)
        self.mode = "reduce-overhead" if graphs else None

    def refuses(self, case: Case) -> str:
        """There is nothing to compile around one operation."""
        return "single operations are not compiled" if case.kind == "operation" else ""

    def compiled(self, model: Any) -> Any:
        """Compiled for these very shapes."""
        return torch.compile(model, dynamic=False, mode=self.mode)
