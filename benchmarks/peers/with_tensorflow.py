"""TensorFlow: the whole training step as one graph with Keras' Adam, images channels-last."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.cases import LEARNING_RATE, Case, first_weights
from benchmarks.peers import layers


class Ops:
    """Primitives on (N, H, W, C) images and (KH, KW, C, O) weights."""

    relu, tanh, sqrt = staticmethod(tf.nn.relu), staticmethod(tf.tanh), staticmethod(tf.sqrt)

    @staticmethod
    def conv2d(x: Any, w: Any, b: Any, stride: int, padding: int) -> Any:
        sides = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        y = tf.nn.conv2d(x, w, stride, sides if padding else "VALID")
        return y if b is None else tf.nn.bias_add(y, b)

    @staticmethod
    def linear(x: Any, w: Any, b: Any) -> Any:
        return tf.nn.bias_add(tf.matmul(x, w, transpose_b=True), b)

    @staticmethod
    def max_pool2d(x: Any, k: int) -> Any:
        return tf.nn.max_pool2d(x, k, k, "VALID")

    @staticmethod
    def avg_pool2d(x: Any, k: int) -> Any:
        return tf.nn.avg_pool2d(x, k, k, "VALID")

    @staticmethod
    def mean_pool(x: Any) -> Any:
        return tf.reduce_mean(x, (1, 2), keepdims=True)

    @staticmethod
    def batch_norm(x: Any, w: Any, b: Any) -> Any:
        return tf.compat.v1.nn.fused_batch_norm(x, w, b, epsilon=layers.EPS, is_training=True)[0]

    @staticmethod
    def scale_shift(x: Any, scale: Any, shift: Any) -> Any:
        return x * scale + shift

    @staticmethod
    def flatten(x: Any) -> Any:
        return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (x.shape[0], -1))


nn = layers.namespace(Ops)


class TensorFlow(layers.ModelsOnly):
    """Whole models only."""

    def __init__(self, threads: int) -> None:
        self.version = tf.__version__
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def prepare(self, case: Case) -> TensorFlowTask:
        """The graphs, not traced yet."""
        return TensorFlowTask(case)


class TensorFlowTask(layers.TrainedTask):
    """Variables bound to the layers once, and two graphs over them."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.build is not None
        self.model = case.build(nn)
        self.first = {name: layers.to_hwio(value) for name, value in first_weights(self.model.all_shapes()).items()}
        self.values = {k: tf.Variable(v, trainable=layers.is_parameter(k)) for k, v in self.first.items()}
        self.parameters = {k: v for k, v in self.values.items() if layers.is_parameter(k)}
        self.model.bind(self.values)
        x, t = case.inputs()
        self.x, self.t = tf.constant(layers.to_channels_last(x)), tf.constant(t)
        self.optimizer = tf.keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8)
        self.optimizer.build(list(self.parameters.values()))
        self.forward, self.loss_and_gradients, self.step = (
            tf.function(self._forward),
            tf.function(self._gradients),
            tf.function(self._step),
        )

    def _forward(self, x: Any) -> Any:
        nn.training = False
        return self.model(x)

    def _gradients(self, x: Any, t: Any) -> Any:
        nn.training = True
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=t, logits=self.model(x)))
        return loss, tape.gradient(loss, list(self.parameters.values()))

    def _step(self, x: Any, t: Any) -> Any:
        loss, gradients = self._gradients(x, t)
        self.optimizer.apply(gradients)
        return loss

    def reset(self) -> None:
        """First weights, optimizer state of zero."""
        for name, value in self.first.items():
            self.values[name].assign(value)
        for variable in self.optimizer.variables:
            if variable.path.endswith(("momentum", "velocity", "iteration")):
                variable.assign(np.zeros(variable.shape))

    def train(self) -> Any:
        return self.step(self.x, self.t).numpy()

    def infer(self) -> Any:
        return self.forward(self.x).numpy()

    def gradients(self) -> dict[str, np.ndarray]:
        _, gradients = self.loss_and_gradients(self.x, self.t)
        return {name: layers.from_hwio(g.numpy()) for name, g in zip(self.parameters, gradients)}
