"""minidl."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import minidl as md
from benchmarks.cases import FLOAT, INFER, LEARNING_RATE, TRAIN, Case, Cost
from benchmarks.peers.base import GPU_STEPS_CHECKED, Peer
from minidl import backend, nn
from minidl.memory import channels_last


class Minidl(Peer):
    """minidl as it is; on a GPU eagerly or with ``capture``, and with TF32 only where asked for."""

    nn = nn

    def __init__(self, threads: int, device: str = "cpu", captured: bool = False, tf32: bool = False) -> None:
        self.device, self.captured = device, captured
        if tf32:
            self.tf32 = md.allow_tf32()
            self.tf32.__enter__()  # for the rest of this process
        if device != "cpu":
            self.losses_checked = GPU_STEPS_CHECKED
        try:
            self.version = version("minidl")
        except PackageNotFoundError:  # a checkout that is not installed
            self.version = "checkout"

    def costs(self, case: Case) -> dict[str, Cost]:
        """FLOPs of the convolutions and products, forward once and backward twice, but for the gradient of the input.

        Inference must read the parameters once; a training step must pass seven arrays of their size through memory
        in Adam (it reads p, g, m, v and writes p, m, v).
        """
        if case.build is None or case.kind == "operation":
            return {}
        table = md.summary(case.build(nn), (1, *case.shape[1:]))
        layers = [layer.flops * case.batch for layer in table.layers if layer.type in ("Conv2d", "Linear")]
        forward, parameters = sum(layers), FLOAT * table.parameters
        return {TRAIN: Cost(3 * forward - layers[0], 7 * parameters), INFER: Cost(forward, parameters)}

    def tensor(self, array: np.ndarray, grad: bool = False) -> Any:
        """A tensor; images lie channels-last."""
        if array.ndim == 4:
            array = channels_last(array).transpose(0, 3, 1, 2)
        return md.Tensor(array, requires_grad=grad, device=self.device)

    def array(self, tensor: Any) -> np.ndarray:
        """The values, copied: later steps reuse the memory."""
        return np.array(tensor.to("cpu").numpy(), order="C")

    def no_grad(self) -> AbstractContextManager:
        """minidl.no_grad."""
        return md.no_grad()

    def adam(self, parameters: list[Any]) -> Any:
        """minidl's only one."""
        return md.optim.Adam(parameters, lr=LEARNING_RATE)

    def parameter(self, array: np.ndarray) -> Any:
        """A Parameter."""
        return md.Parameter(md.Tensor(array, device=self.device))

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """minidl.cross_entropy."""
        return md.cross_entropy(logits, labels)

    def gradients(self, y: Any, leaves: list[Any], gy: Any) -> list[Any]:
        """Tensor.backward into emptied leaves."""
        for leaf in leaves:
            leaf.grad = None
        y.backward(gy, retain_graph=True)
        return [leaf.grad for leaf in leaves]

    def load(self, module: Any, weights: dict[str, np.ndarray]) -> None:
        """By state dict."""
        module.to(self.device).load_state_dict(weights)

    def recorded(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """A CUDA graph of it, where asked for."""
        return md.capture(step) if self.captured else step

    def wait(self) -> None:
        """Until the GPU has finished."""
        if self.device != "cpu":
            backend.cupy().cuda.Device().synchronize()
