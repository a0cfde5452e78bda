"""JAX: the whole training step compiled by XLA, images channels-last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.cases import LEARNING_RATE, Case, first_weights
from benchmarks.peers import layers


class Ops:
    """Primitives on (N, H, W, C) images and (KH, KW, C, O) weights."""

    relu, tanh, sqrt = staticmethod(jax.nn.relu), staticmethod(jnp.tanh), staticmethod(jnp.sqrt)

    @staticmethod
    def conv2d(x: Any, w: Any, b: Any, stride: int, padding: int) -> Any:
        sides = [(padding, padding)] * 2
        y = lax.conv_general_dilated(x, w, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y if b is None else y + b

    @staticmethod
    def linear(x: Any, w: Any, b: Any) -> Any:
        return x @ w.T + b

    @staticmethod
    def max_pool2d(x: Any, k: int) -> Any:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, k, k, 1), "VALID")

    @staticmethod
    def avg_pool2d(x: Any, k: int) -> Any:
        return lax.reduce_window(x, 0.0, lax.add, (1, k, k, 1), (1, k, k, 1), "VALID") / k**2

    @staticmethod
    def mean_pool(x: Any) -> Any:
        return x.mean((1, 2), keepdims=True)

    @staticmethod
    def batch_norm(x: Any, w: Any, b: Any) -> Any:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * (w * lax.rsqrt(var + layers.EPS)) + b

    @staticmethod
    def scale_shift(x: Any, scale: Any, shift: Any) -> Any:
        return x * scale + shift

    @staticmethod
    def flatten(x: Any) -> Any:
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


nn = layers.namespace(Ops)


class Jax(layers.ModelsOnly):
    """Whole models only."""

    def __init__(self, threads: int) -> None:
        self.version = jax.__version__

    def prepare(self, case: Case) -> JaxTask:
        """The functions, not compiled yet."""
        return JaxTask(case)


class JaxTask(layers.TrainedTask):
    """Pure functions of the parameters; Adam is written out, as JAX has none."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.build is not None
        self.model = case.build(nn)
        values = {k: jnp.asarray(layers.to_hwio(v)) for k, v in first_weights(self.model.all_shapes()).items()}
        self.first = {k: v for k, v in values.items() if layers.is_parameter(k)}
        self.buffers = {k: v for k, v in values.items() if k not in self.first}
        x, t = case.inputs()
        self.x, self.t = jnp.asarray(layers.to_channels_last(x)), jnp.asarray(t)
        self.forward = jax.jit(lambda p, x: self.call(p, x, training=False))
        self.loss_and_gradients = jax.jit(jax.value_and_grad(self.loss))
        self.step = jax.jit(self.adam, donate_argnums=(0, 1, 2))
        self.reset()

    def reset(self) -> None:
        """First weights, moments of zero."""
        self.p = jax.tree.map(jnp.array, self.first)
        self.m, self.v = jax.tree.map(jnp.zeros_like, self.p), jax.tree.map(jnp.zeros_like, self.p)
        self.count = 0

    def call(self, p: dict[str, Any], x: Any, training: bool) -> Any:
        nn.training = training
        self.model.bind({**p, **self.buffers})
        return self.model(x)

    def loss(self, p: dict[str, Any], x: Any, t: Any) -> Any:
        log_p = jax.nn.log_softmax(self.call(p, x, training=True))
        return -jnp.take_along_axis(log_p, t[:, None], 1).mean()

    def adam(self, p: Any, m: Any, v: Any, count: Any, x: Any, t: Any) -> Any:
        loss, g = jax.value_and_grad(self.loss)(p, x, t)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate, root = LEARNING_RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        p = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), p, m, v)
        return p, m, v, loss

    def train(self) -> Any:
        self.count += 1
        self.p, self.m, self.v, loss = self.step(self.p, self.m, self.v, float(self.count), self.x, self.t)
        return jax.block_until_ready(loss)

    def infer(self) -> Any:
        return jax.block_until_ready(self.forward(self.p, self.x))

    def gradients(self) -> dict[str, np.ndarray]:
        _, gradients = self.loss_and_gradients(self.p, self.x, self.t)
        return {name: layers.from_hwio(np.asarray(g)) for name, g in gradients.items()}
