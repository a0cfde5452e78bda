"""tinygrad: loops generated from the graph of tensors and compiled by clang, the whole training step replayed by its jit."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from tinygrad import Tensor, TinyJit
from tinygrad.helpers import NUM_CPU_THREADS, Context
from tinygrad.nn.optim import Adam

from benchmarks.cases import LEARNING_RATE, Case, first_weights, image_cnn, resnet20
from benchmarks.peers import layers


class Ops:
    """Primitives on (N, C, H, W) images, the only layout that its convolution takes."""

    relu, tanh, sqrt = staticmethod(Tensor.relu), staticmethod(Tensor.tanh), staticmethod(Tensor.sqrt)

    @staticmethod
    def conv2d(x: Any, w: Any, b: Any, stride: int, padding: int) -> Any:
        return x.conv2d(w, b, stride=stride, padding=padding)

    @staticmethod
    def linear(x: Any, w: Any, b: Any) -> Any:
        return x.linear(w.T, b)

    @staticmethod
    def max_pool2d(x: Any, k: int) -> Any:
        return x.max_pool2d((k, k))

    @staticmethod
    def avg_pool2d(x: Any, k: int) -> Any:
        return x.avg_pool2d((k, k))

    @staticmethod
    def mean_pool(x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def batch_norm(x: Any, w: Any, b: Any) -> Any:
        axes = (0, 2, 3)
        return x.batchnorm(w, b, x.mean(axes), (x.var(axes, correction=0) + layers.EPS).rsqrt())

    @staticmethod
    def scale_shift(x: Any, scale: Any, shift: Any) -> Any:
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    @staticmethod
    def flatten(x: Any) -> Any:
        return x.flatten(1)


nn = layers.namespace(Ops)


class TinyGrad:
    """Whole models only."""

    def __init__(self, threads: int) -> None:
        self.version = version("tinygrad")
        NUM_CPU_THREADS.value = threads

    def refuses(self, case: Case) -> str:
        """It takes seconds for a step of the large ones."""
        large = case.build in (image_cnn, resnet20) and case.kind == "model"
        if case.kind in ("operation", "growth"):
            return "models at their usual batch size only"
        return "a training step takes it seconds" if large else ""

    def prepare(self, case: Case) -> TinyGradTask:
        """The functions, not compiled yet."""
        return TinyGradTask(case)


class TinyGradTask(layers.TrainedTask):
    """The jit replays kernels on the same buffers: ``reset`` writes into them."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.build is not None
        self.model = case.build(nn)
        self.first = first_weights(self.model.all_shapes())
        values = {name: Tensor(value).realize() for name, value in self.first.items()}
        self.model.bind(values)
        self.parameters = {name: value for name, value in values.items() if layers.is_parameter(name)}
        self.optimizer = Adam(list(self.parameters.values()), lr=LEARNING_RATE)
        x, t = case.inputs()
        self.x, self.t = Tensor(x).realize(), Tensor(t.astype(np.int32)).realize()
        self.step, self.forward = TinyJit(self.adam), TinyJit(self.outputs)
        self.reset()

    def reset(self) -> None:
        """First weights, moments of zero."""
        adam = self.optimizer
        news = [p.assign(Tensor(self.first[name])) for name, p in self.parameters.items()]
        news += [m.assign(Tensor(np.zeros(m.shape, np.float32))) for m in (*adam.m, *adam.v)]
        news += [power.assign(Tensor(np.ones(1, np.float32))) for power in (adam.b1_t, adam.b2_t)]
        Tensor.realize(*news)

    def backward(self) -> Any:
        """The loss; the gradients are left in the parameters."""
        nn.training = True
        loss = self.model(self.x).sparse_categorical_crossentropy(self.t)
        for p, gradient in zip(self.optimizer.params, loss.gradient(*self.optimizer.params), strict=True):
            p.grad = gradient
        return loss

    def adam(self) -> Any:
        with Context(TRAINING=1):
            loss = self.backward()
            return loss.realize(*self.optimizer.schedule_step())

    def outputs(self) -> Any:
        nn.training = False
        return self.model(self.x).realize()

    def train(self) -> np.ndarray:
        return self.step().numpy()  # waits for the whole step

    def infer(self) -> np.ndarray:
        return self.forward().numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        self.backward()
        gradients = {name: p.grad for name, p in self.parameters.items()}
        Tensor.realize(*gradients.values())
        return {name: gradient.numpy() for name, gradient in gradients.items()}
