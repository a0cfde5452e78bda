"""How a case runs in a framework with PyTorch's vocabulary: an ``nn`` namespace, tensors, an optimizer.

A peer prepares a *task* from a case: callables to time, one per measure, and the values to compare before. minidl
and PyTorch share the tasks below; peers of another kind write their own in the same form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from benchmarks.cases import (
    BACKWARD,
    BOTH,
    FORWARD,
    INFER,
    OF_WEIGHTS,
    OF_X,
    TRAIN,
    UPDATE,
    Case,
    Cost,
    first_weights,
    gradient_like,
)

MODEL_GRADIENT = "dL/d "  # how the names of such values begin
STEPS_CHECKED = 2  # further steps whose losses, or movements, are compared
GPU_STEPS_CHECKED = 4  # the same on a GPU: two eager ones first, then a recording of the third, then a replay of it


class Task(Protocol):
    """A case made ready in one framework."""

    measures: dict[str, Callable[[], Any]]

    def check(self) -> dict[str, np.ndarray]:
        """Values that must agree with the other frameworks', by name."""

    def reset(self) -> None:
        """Go back to the first weights, so that training does not drift away over many timed steps."""


class Peer(ABC):
    """What the tasks below ask of a framework. ``nn`` and ``version`` are set by the subclass."""

    nn: Any
    version: str
    losses_checked = STEPS_CHECKED  # training steps after which losses must still agree

    def prepare(self, case: Case) -> Task:
        """Build everything that is not timed."""
        if case.build is None:
            return OptimizerTask(self, case)
        return OperationTask(self, case) if case.kind == "operation" else ModelTask(self, case)

    def refuses(self, case: Case) -> str:
        """Why this peer does not run a case; "" when it does."""
        return ""

    def costs(self, case: Case) -> dict[str, Cost]:
        """What a model's measures must do at the least; only minidl counts it."""
        return {}

    @abstractmethod
    def tensor(self, array: np.ndarray, grad: bool = False) -> Any:
        """A tensor in the framework's preferred memory layout."""

    @abstractmethod
    def array(self, tensor: Any) -> np.ndarray:
        """The values of a tensor."""

    def recorded(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """A training step as it is repeated: itself, or a recording of it."""
        return step

    @abstractmethod
    def wait(self) -> None:
        """Until the device has done what it was told."""

    def compiled(self, model: Any) -> Any:
        """What to call in the model's place."""
        return model

    @abstractmethod
    def no_grad(self) -> AbstractContextManager:
        """Nothing is recorded inside."""

    @abstractmethod
    def adam(self, parameters: list[Any]) -> Any:
        """The optimizer of all training steps."""

    @abstractmethod
    def parameter(self, array: np.ndarray) -> Any:
        """A leaf that an optimizer updates."""

    @abstractmethod
    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """The loss."""

    @abstractmethod
    def gradients(self, y: Any, leaves: list[Any], gy: Any) -> list[Any]:
        """dL/d(leaf) for each leaf, from gy = dL/dy (None for a scalar loss), keeping the graph."""

    @abstractmethod
    def load(self, module: Any, weights: dict[str, np.ndarray]) -> None:
        """Give a module its values by name."""

    def weights(self, module: Any) -> dict[str, np.ndarray]:
        """The first values of a module's parameters and buffers."""
        return first_weights({name: tuple(value.shape) for name, value in module.state_dict().items()})


class ModelTask:
    """Training and inference of a model."""

    def __init__(self, peer: Peer, case: Case) -> None:
        assert case.build is not None
        self.peer = peer
        self.model = case.build(peer.nn)
        self.run = peer.compiled(self.model)
        self.first = peer.weights(self.model)
        x, t = case.inputs()
        self.x, self.t = peer.tensor(x), peer.tensor(t)
        self.targets = list(case.targets)
        self.reset()

    def reset(self) -> None:
        """First weights, new optimizer."""
        self.peer.load(self.model, self.first)
        self.optimizer = self.peer.adam(list(self.model.parameters()))
        steps = {TRAIN: self.peer.recorded(self.train), INFER: self.infer}
        self.measures = {name: steps[name] for name in self.targets}

    def loss(self) -> Any:
        self.model.train()
        return self.peer.cross_entropy(self.run(self.x), self.t)

    def train(self) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss

    def infer(self) -> Any:
        self.model.eval()
        with self.peer.no_grad():
            return self.run(self.x)

    def check(self) -> dict[str, np.ndarray]:
        """The outputs, and where the model is trained the gradients and how the loss goes on."""
        values = {"output": self.peer.array(self.infer())}
        if TRAIN in self.measures:
            losses = [self.peer.array(self.train())]
            values |= {MODEL_GRADIENT + name: self.peer.array(p.grad) for name, p in self.model.named_parameters()}
            losses += [self.peer.array(self.measures[TRAIN]()) for _ in range(self.peer.losses_checked)]
            values["losses"] = np.array(losses)
            self.reset()
        return values


class OperationTask:
    """One layer: forward without a graph, and the gradients that each measure asks for."""

    def __init__(self, peer: Peer, case: Case) -> None:
        assert case.build is not None
        self.peer, self.case = peer, case
        self.inputs = [peer.tensor(array) for array in case.inputs()]
        self.module = self.layer(train=True)
        self.calls = {name: self.backward(name) for name in case.targets if name in (BACKWARD, OF_X, OF_WEIGHTS)}
        self.calls |= {FORWARD: self.forward, BOTH: self.both}
        self.measures = {name: self.calls[name] for name in case.targets}

    def layer(self, train: bool) -> Any:
        """The layer with its first weights; frozen when only the gradient of x is asked for."""
        assert self.case.build is not None
        module = self.case.build(self.peer.nn)
        self.peer.load(module, self.peer.weights(module))
        return module.requires_grad_(train)

    def forward(self) -> Any:
        with self.peer.no_grad():
            return self.module(*self.inputs)

    def backward(self, measure: str) -> Callable[[], list[Any]]:
        """A backward pass through a graph that is recorded once."""
        module = self.layer(measure != OF_X)
        x = self.peer.tensor(self.case.inputs()[0], grad=measure != OF_WEIGHTS)
        y = module(x, *self.inputs[1:])
        leaves = [*([x] if measure != OF_WEIGHTS else []), *(module.parameters() if measure != OF_X else [])]
        gy = self.peer.tensor(gradient_like(tuple(y.shape)))
        return lambda: self.peer.gradients(y, leaves, gy)

    def both(self) -> list[Any]:
        """A loss and its gradient."""
        x = self.leaf()
        return self.peer.gradients(self.module(x, *self.inputs[1:]), [x], None)

    def leaf(self) -> Any:
        if not hasattr(self, "_leaf"):
            self._leaf = self.peer.tensor(self.case.inputs()[0], grad=True)
        return self._leaf

    def check(self) -> dict[str, np.ndarray]:
        """The output and the gradients."""
        values = {}
        for name, call in self.measures.items():
            result = call()
            for i, tensor in enumerate(result if isinstance(result, list) else [result]):
                values[f"{name} {i}"] = self.peer.array(tensor)
        return values

    def reset(self) -> None:
        """Nothing changes."""


class OptimizerTask:
    """One update of many parameters."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self.peer = peer
        self.first = case.inputs()[0] * np.float32(0.01)  # of the size of weights, so that a step is not lost in rounding
        self.gradient = peer.tensor(gradient_like(case.shape))
        self.reset()
        self.measures = {UPDATE: self.update}

    def reset(self) -> None:
        """First values, new optimizer."""
        self.p = self.peer.parameter(self.first)
        self.p.grad = self.gradient
        self.optimizer = self.peer.adam([self.p])

    def update(self) -> None:
        self.optimizer.step()

    def check(self) -> dict[str, np.ndarray]:
        """How far the values have moved after some steps."""
        for _ in range(STEPS_CHECKED):
            self.update()
        values = {"movement": self.peer.array(self.p) - self.first}
        self.reset()
        return values
