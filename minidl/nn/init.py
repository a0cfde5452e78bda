"""Initialisers: fill a parameter with its first values, in place.

How large the first weights are decides whether signals grow or die on their way through many layers.
Kaiming's and Xavier's rules choose the spread from the number of connections, so that the variance stays
about the same from layer to layer. Values are drawn on the host in logical order: one seed gives the same
weights whatever the memory layout and the device.
"""

from __future__ import annotations

import math

import numpy as np

from minidl.backend import FLOATS
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.ops._arguments import choice, describe, number
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

Rng = np.random.Generator | int | None

_GAINS = {
    "linear": 1.0,
    "conv2d": 1.0,
    "conv_transpose2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights before a non-linearity are widened to make up for what it takes away.

    Formula:
        linear, conv2d, conv_transpose2d, sigmoid: 1; tanh: 5/3; relu: sqrt(2);
        leaky_relu: sqrt(2 / (1 + slope^2)); selu: 3/4.

    Args:
        nonlinearity: one of the names above.
        param: the negative slope of leaky_relu, 0.01 when None; other functions have none.

    Raises:
        ArgumentError: another name.
    Source:
        relu and leaky_relu: He et al., 2015, as for ``kaiming_uniform_``. tanh and selu have PyTorch's values.

    >>> from minidl import nn
    >>> round(nn.init.calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else number("calculate_gain", "param", param)
        return math.sqrt(2.0 / (1.0 + slope**2))
    return _GAINS[choice("calculate_gain", "nonlinearity", nonlinearity, (*_GAINS, "leaky_relu"))]


def fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight: how many numbers enter and leave one output element.

    Formula:
        (out, in): in and out; (O, C, KH, KW): C*KH*KW and O*KH*KW.
    """
    if tensor.ndim < 2:
        raise ShapeError.of(op, "a weight of at least two axes", f"shape {tensor.shape}", "Use normal_ or zeros_ for a bias.")
    out, into, *kernel = tensor.shape
    return into * math.prod(kernel), out * math.prod(kernel)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with values drawn evenly from [a, b).

    Raises:
        ArgumentError: a above b.

    >>> import minidl as md
    >>> from minidl import nn
    >>> w = nn.init.uniform_(md.zeros(2, 3), -1.0, 1.0, rng=0)
    >>> bool((abs(w.numpy()) <= 1).all())
    True
    """
    a, b = number("uniform_", "a", a), number("uniform_", "b", b)
    if a > b:
        raise ArgumentError.of("uniform_", "a of at most b", f"a={a}, b={b}")
    return _fill("uniform_", tensor, generator(rng).uniform(a, b, _shape("uniform_", tensor)))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with values drawn from the normal distribution N(mean, std^2).

    Raises:
        ArgumentError: a negative std.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.init.normal_(md.zeros(2, 3), std=0.01, rng=0).shape
    (2, 3)
    """
    mean, std = number("normal_", "mean", mean), number("normal_", "std", std, low=0)
    return _fill("normal_", tensor, generator(rng).normal(mean, std, _shape("normal_", tensor)))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.init.constant_(md.zeros(2), 0.5)
    tensor([0.5, 0.5])
    """
    return _fill("constant_", tensor, np.full(_shape("constant_", tensor), number("constant_", "val", val)))


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.init.zeros_(md.ones(2))
    tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.init.ones_(md.zeros(2))
    tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Glorot's rule with a uniform distribution, for layers followed by tanh or sigmoid.

    Formula:
        U(-a, a) with a = gain * sqrt(6 / (fan_in + fan_out)), which has the variance of ``xavier_normal_``.
    Raises:
        ShapeError: a tensor of fewer than two axes.
    Source:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

    >>> import minidl as md
    >>> from minidl import nn
    >>> w = nn.init.xavier_uniform_(md.zeros(3, 5), rng=0)
    >>> bool(abs(w.numpy()).max() <= (6 / 8) ** 0.5)
    True
    """
    bound = number("xavier_uniform_", "gain", gain) * math.sqrt(6.0 / _positive(sum(fans("xavier_uniform_", tensor))))
    return uniform_(tensor, -abs(bound), abs(bound), rng)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Glorot's rule with a normal distribution.

    Formula:
        N(0, std^2) with std = gain * sqrt(2 / (fan_in + fan_out)).
    Raises:
        ShapeError: a tensor of fewer than two axes.
    Source:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

    >>> import minidl as md
    >>> from minidl import nn
    >>> w = nn.init.xavier_normal_(md.zeros(300, 500), rng=0)
    >>> round(w.std().item(), 3)  # sqrt(2 / 800)
    0.05
    """
    std = number("xavier_normal_", "gain", gain) * math.sqrt(2.0 / _positive(sum(fans("xavier_normal_", tensor))))
    return normal_(tensor, 0.0, abs(std), rng)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None
) -> Tensor:
    """He's rule with a uniform distribution, for layers followed by a ReLU.

    Formula:
        U(-b, b) with b = sqrt(3) * gain / sqrt(fan), which has the variance of ``kaiming_normal_``.

    Args:
        tensor: the weight to fill.
        a: negative slope of the leaky ReLU that follows.
        mode: "fan_in" keeps the variance of the signals forward, "fan_out" that of the gradients backward.
        nonlinearity: what follows, as in ``calculate_gain``.
        rng: generator or seed.

    Raises:
        ArgumentError: another mode or nonlinearity.
        ShapeError: a tensor of fewer than two axes.
    Source:
        He, Zhang, Ren and Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
        Classification", 2015.

    >>> import minidl as md
    >>> from minidl import nn
    >>> w = nn.init.kaiming_uniform_(md.zeros(8, 3, 5, 5), nonlinearity="relu", rng=0)
    >>> bool(abs(w.numpy()).max() <= (6 / 75) ** 0.5)
    True
    """
    bound = math.sqrt(3.0) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, rng)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None
) -> Tensor:
    """He's rule with a normal distribution.

    Formula:
        N(0, std^2) with std = gain / sqrt(fan); arguments as for ``kaiming_uniform_``.
    Raises:
        ArgumentError: another mode or nonlinearity.
        ShapeError: a tensor of fewer than two axes.
    Source:
        He, Zhang, Ren and Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
        Classification", 2015.

    >>> import minidl as md
    >>> from minidl import nn
    >>> w = nn.init.kaiming_normal_(md.zeros(400, 200), nonlinearity="relu", rng=0)
    >>> round(w.std().item(), 2)  # sqrt(2 / 200)
    0.1
    """
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), rng)


def _kaiming_std(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = fans(op, tensor)
    fan = fan_in if choice(op, "mode", mode, ("fan_in", "fan_out")) == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(_positive(fan))


def _positive(fan: int) -> int:
    """A weight with an empty axis has no connections; any spread will do for no values."""
    return max(fan, 1)


def _shape(op: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor that may be filled."""
    if not isinstance(tensor, Tensor):
        raise DtypeError.of(op, "a Tensor or Parameter", describe(tensor))
    if tensor.dtype not in FLOATS:
        raise DtypeError.of(op, "a tensor of float32 or float64", str(tensor.dtype))
    if not tensor.is_leaf:
        raise GraphError.of(op, "a parameter or another leaf", "the result of a recorded operation")
    return tensor.shape


def _fill(op: str, tensor: Tensor, values: np.ndarray) -> Tensor:
    tensor._replace(values.astype(tensor.dtype))
    return tensor
