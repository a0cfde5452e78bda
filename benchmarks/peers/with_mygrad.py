"""MyGrad: NumPy with gradients."""

from __future__ import annotations

from typing import Any

import mygrad as mg
import numpy as np
from mygrad.nnet import layers as mg_layers

from benchmarks.cases import LEARNING_RATE, Case, first_weights, resnet20
from benchmarks.peers import layers


class Ops:
    """Primitives on (N, C, H, W) images."""

    relu, tanh, sqrt = staticmethod(mg.nnet.relu), staticmethod(mg.tanh), staticmethod(mg.sqrt)

    @staticmethod
    def conv2d(x: Any, w: Any, b: Any, stride: int, padding: int) -> Any:
        y = mg_layers.conv_nd(x, w, stride=stride, padding=padding)
        return y if b is None else y + b.reshape(1, -1, 1, 1)

    @staticmethod
    def linear(x: Any, w: Any, b: Any) -> Any:
        return mg.matmul(x, w.T) + b

    @staticmethod
    def max_pool2d(x: Any, k: int) -> Any:
        even = x[:, :, : x.shape[2] // k * k, : x.shape[3] // k * k]  # it refuses windows that do not fill the image
        return mg_layers.max_pool(even, (k, k), k)

    @staticmethod
    def avg_pool2d(x: Any, k: int) -> Any:
        n, c, h, w = x.shape
        return x.reshape(n, c, h // k, k, w // k, k).mean((3, 5))

    @staticmethod
    def mean_pool(x: Any) -> Any:
        return x.mean((2, 3), keepdims=True)

    @staticmethod
    def batch_norm(x: Any, w: Any, b: Any) -> Any:
        return mg_layers.batchnorm(x, gamma=w, beta=b, eps=layers.EPS)

    @staticmethod
    def scale_shift(x: Any, scale: Any, shift: Any) -> Any:
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    @staticmethod
    def flatten(x: Any) -> Any:
        return x.reshape(len(x), -1)


nn = layers.namespace(Ops)


class MyGrad:
    """Whole models only."""

    def __init__(self, threads: int) -> None:
        self.version = mg.__version__

    def refuses(self, case: Case) -> str:
        """It takes seconds for a step; and its strided convolution wants windows that fill the image."""
        if case.build is resnet20:
            return "its convolution does not take the strides"
        return "models at their usual batch size only" if case.kind in ("operation", "growth") else ""

    def prepare(self, case: Case) -> MyGradTask:
        """Tensors bound to the layers."""
        return MyGradTask(case)


class MyGradTask(layers.TrainedTask):
    """Adam is written out, as MyGrad has none."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.build is not None
        self.model = case.build(nn)
        self.first = first_weights(self.model.all_shapes())
        self.x, self.t = case.inputs()
        self.reset()

    def reset(self) -> None:
        """First weights, moments of zero."""
        values = {name: mg.tensor(value.copy(), constant=not layers.is_parameter(name)) for name, value in self.first.items()}
        self.parameters = {name: value for name, value in values.items() if layers.is_parameter(name)}
        self.moments = {name: (np.zeros_like(p.data), np.zeros_like(p.data)) for name, p in self.parameters.items()}
        self.count = 0
        self.model.bind(values)

    def backward(self) -> np.ndarray:
        nn.training = True
        loss = mg.nnet.softmax_crossentropy(self.model(mg.tensor(self.x, constant=True)), self.t)
        loss.backward()
        return loss.data

    def train(self) -> np.ndarray:
        loss = self.backward()
        self.count += 1
        rate, root = LEARNING_RATE / (1 - 0.9**self.count), np.sqrt(1 - 0.999**self.count)
        for name, p in self.parameters.items():
            m, v = self.moments[name]
            m += np.float32(0.1) * (p.grad - m)
            v += np.float32(0.001) * (p.grad * p.grad - v)
            p.data -= np.float32(rate) * m / (np.sqrt(v) / np.float32(root) + np.float32(1e-8))
        return loss

    def infer(self) -> np.ndarray:
        nn.training = False
        with mg.no_autodiff:
            return self.model(mg.tensor(self.x)).data

    def gradients(self) -> dict[str, np.ndarray]:
        self.backward()
        return {name: np.array(p.grad) for name, p in self.parameters.items()}
