"""Activation functions: the non-linear step between layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import axis_index, choice, float_tensor, number
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = [
    "elu",
    "gelu",
    "hardswish",
    "leaky_relu",
    "log_softmax",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


def _samples(draw: Draw) -> list[Sample]:
    """A matrix, a batch of images, an empty array; nothing near 0 or +-3, where some activations have kinks."""
    return [
        Sample(draw.away(3, 4)),
        Sample(draw.away(2, 3, 4, 5, points=(-3.0, 0.0, 3.0), scale=6.0), name="images"),
        Sample(draw.away(0, 3), name="empty"),
    ]


def _text_error(draw: Draw) -> ErrorSample:
    return ErrorSample(DtypeError, "expected x as a tensor, an array or numbers, got list of str", ["a"])


def _errors(draw: Draw) -> list[ErrorSample]:
    return [_text_error(draw)]


class Relu(Function):
    """y = max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = kernels_for(x).relu_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).relu_backward(gy, y)


@op(samples=_samples, oracle=lambda x: (np.abs(x) + x) / 2, flops=lambda y, x: y.size, methods=("relu",), errors=_errors)
def relu(x: Any) -> Tensor:
    """Rectified linear unit.

    Formula:
        y = max(x, 0)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy where x > 0, else 0. At x = 0 the derivative does not exist; 0 is the choice
        made here (and in PyTorch).
    Notes:
        NaN stays NaN.
    Source:
        Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010.

    >>> import minidl as md
    >>> md.relu(md.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    return Relu.apply(float_tensor("relu", x))


class LeakyRelu(Function):
    """y = x where x > 0, else negative_slope * x."""

    @staticmethod
    def forward(ctx: Any, x: Array, negative_slope: float) -> Array:
        y = kernels_for(x).leaky_relu_forward(x, negative_slope)
        ctx.negative_slope = negative_slope
        ctx.save(y if negative_slope >= 0 else x)  # backward needs the sign of x, which a negative slope hides in y
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (s,) = ctx.saved
        return kernels_for(gy).leaky_relu_backward(gy, s, ctx.negative_slope)


@op(
    samples=lambda draw: [
        *_samples(draw),
        Sample(draw.away(3, 4), 0.2),
        Sample(draw.away(3, 4), negative_slope=-0.5, name="negative"),
    ],
    oracle=lambda x, negative_slope=0.01: np.array([v if v > 0 else v * negative_slope for v in x.flat]).reshape(x.shape),
    flops=lambda y, x, negative_slope: 2 * y.size,
    errors=lambda draw: [
        _text_error(draw),
        ErrorSample(DtypeError, "negative_slope as a number, got '0.1'", draw.normal(2), "0.1"),
    ],
)
def leaky_relu(x: Any, negative_slope: float = 0.01) -> Tensor:
    """ReLU with a small slope for negative values.

    Formula:
        y = x where x > 0, else negative_slope * x
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy where x > 0, else negative_slope * dL/dy; x = 0 counts as negative.
    Notes:
        NaN stays NaN.
    Source:
        Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.

    >>> import minidl as md
    >>> md.leaky_relu(md.tensor([-1.0, 0.0, 2.0]), 0.1)
    tensor([-0.1,  0. ,  2. ])
    """
    return LeakyRelu.apply(float_tensor("leaky_relu", x), negative_slope=number("leaky_relu", "negative_slope", negative_slope))


class Elu(Function):
    """y = x where x > 0, else alpha * (e^x - 1)."""

    @staticmethod
    def forward(ctx: Any, x: Array, alpha: float) -> Array:
        y = kernels_for(x).elu_forward(x, alpha)
        ctx.alpha = alpha
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).elu_backward(gy, y, ctx.alpha)


@op(
    samples=lambda draw: [*_samples(draw), Sample(draw.away(3, 4), 0.5), Sample(draw.away(3, 4), alpha=2.0, name="alpha")],
    oracle=lambda x, alpha=1.0: np.array([v if v > 0 else alpha * math.expm1(v) for v in x.flat]).reshape(x.shape),
    flops=lambda y, x, alpha: 3 * y.size,
    errors=lambda draw: [_text_error(draw), ErrorSample(ArgumentError, "alpha within 0 to inf, got -1", draw.normal(2), -1)],
)
def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: ReLU with a smooth negative part.

    Formula:
        y = x where x > 0, else alpha * (e^x - 1)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy where x > 0, else dL/dy * alpha * e^x = dL/dy * (y + alpha); x = 0 counts as negative.
    Notes:
        NaN stays NaN.
    Raises:
        ArgumentError: negative alpha, for which y would no longer tell the sign of x.
    Source:
        Clevert, Unterthiner and Hochreiter, "Fast and Accurate Deep Network Learning by Exponential Linear
        Units (ELUs)", 2015.

    >>> import minidl as md
    >>> md.elu(md.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.6321,  0.    ,  2.    ])
    """
    return Elu.apply(float_tensor("elu", x), alpha=number("elu", "alpha", alpha, low=0))


class Gelu(Function):
    """y = x * Phi(x)."""

    @staticmethod
    def forward(ctx: Any, x: Array, tanh: bool) -> Array:
        ctx.tanh = tanh
        ctx.save(x)
        return kernels_for(x).gelu_forward(x, tanh)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return kernels_for(gy).gelu_backward(gy, x, ctx.tanh)


def _gelu_oracle(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    if approximate == "tanh":  # (1 + tanh(u)) / 2 is the logistic function of 2u
        return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.flat]).reshape(x.shape)


@op(
    samples=lambda draw: [
        *_samples(draw),
        Sample(draw.normal(3, 4), "tanh"),
        Sample(draw.normal(3, 4), approximate="none", name="none"),
    ],
    oracle=_gelu_oracle,
    flops=lambda y, x, tanh: 8 * y.size,
    errors=lambda draw: [
        _text_error(draw),
        ErrorSample(ArgumentError, "approximate as one of 'none', 'tanh', got 'fast'", draw.normal(2), "fast"),
    ],
)
def gelu(x: Any, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit: x times the probability that a standard normal variable is below x.

    Formula:
        y = x * Phi(x) = x/2 * (1 + erf(x / sqrt(2)));
        with approximate="tanh" y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * (Phi(x) + x * e^(-x^2/2) / sqrt(2 pi)), or the derivative of the tanh form.
    Notes:
        NaN stays NaN.
    Raises:
        ArgumentError: ``approximate`` other than "none" and "tanh".
    Source:
        Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    >>> import minidl as md
    >>> md.gelu(md.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.1587,  0.    ,  1.9545])
    """
    return Gelu.apply(float_tensor("gelu", x), tanh=choice("gelu", "approximate", approximate, ("none", "tanh")) == "tanh")


class Silu(Function):
    """y = x * sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return kernels_for(x).silu_forward(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return kernels_for(gy).silu_backward(gy, x)


@op(samples=_samples, oracle=lambda x: x * (1 + np.tanh(x / 2)) / 2, flops=lambda y, x: 4 * y.size, errors=_errors)
def silu(x: Any) -> Tensor:
    """Sigmoid linear unit, also called Swish.

    Formula:
        y = x * sigmoid(x)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * s * (1 + x * (1 - s)) with s = sigmoid(x).
    Notes:
        NaN stays NaN, and -inf gives NaN, as in PyTorch.
    Source:
        Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
        Reinforcement Learning", 2017; as Swish: Ramachandran, Zoph and Le, "Searching for Activation
        Functions", 2017.

    >>> import minidl as md
    >>> md.silu(md.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.2689,  0.    ,  1.7616])
    """
    return Silu.apply(float_tensor("silu", x))


class Hardswish(Function):
    """y = x * min(max(x + 3, 0), 6) / 6."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        ctx.save(x)
        return kernels_for(x).hardswish_forward(x)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return kernels_for(gy).hardswish_backward(gy, x)


@op(
    samples=_samples,
    oracle=lambda x: np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6)),
    flops=lambda y, x: 5 * y.size,
    errors=_errors,
)
def hardswish(x: Any) -> Tensor:
    """SiLU with the sigmoid replaced by three straight pieces.

    Formula:
        y = x * min(max(x + 3, 0), 6) / 6
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = 0 for x <= -3, dL/dy for x >= 3, dL/dy * (x / 3 + 1/2) between. The derivative does not
        exist at -3 and 3; the values there are choices (PyTorch's).
    Notes:
        NaN stays NaN.
    Source:
        Howard et al., "Searching for MobileNetV3", 2019.

    >>> import minidl as md
    >>> md.hardswish(md.tensor([-4.0, -1.0, 0.0, 2.0, 4.0]))
    tensor([-0.    , -0.3333,  0.    ,  1.6667,  4.    ])
    """
    return Hardswish.apply(float_tensor("hardswish", x))


class Sigmoid(Function):
    """y = 1 / (1 + e^-x)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = kernels_for(x).sigmoid_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).sigmoid_backward(gy, y)


@op(
    samples=_samples,
    oracle=lambda x: (1 + np.tanh(x / 2)) / 2,
    flops=lambda y, x: 3 * y.size,
    methods=("sigmoid",),
    errors=_errors,
)
def sigmoid(x: Any) -> Tensor:
    """Logistic function: any number to a probability.

    Formula:
        y = 1 / (1 + e^-x)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * y * (1 - y)
    Notes:
        Large |x| give 0 or 1, never an overflow; NaN stays NaN.

    >>> import minidl as md
    >>> md.sigmoid(md.tensor([-1000.0, 0.0, 2.0]))
    tensor([0.    , 0.5   , 0.8808])
    """
    return Sigmoid.apply(float_tensor("sigmoid", x))


class Tanh(Function):
    """y = tanh(x)."""

    @staticmethod
    def forward(ctx: Any, x: Array) -> Array:
        y = kernels_for(x).tanh_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).tanh_backward(gy, y)


@op(
    samples=_samples,
    oracle=lambda x: 1 - 2 / (np.exp(2 * x) + 1),
    flops=lambda y, x: 4 * y.size,
    methods=("tanh",),
    errors=_errors,
)
def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent.

    Formula:
        y = (e^x - e^-x) / (e^x + e^-x)
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * (1 - y^2)
    Notes:
        Large |x| give -1 or 1, never an overflow; NaN stays NaN.

    >>> import minidl as md
    >>> md.tanh(md.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.7616,  0.    ,  0.964 ])
    """
    return Tanh.apply(float_tensor("tanh", x))


class Softplus(Function):
    """y = log(1 + e^(beta x)) / beta."""

    @staticmethod
    def forward(ctx: Any, x: Array, beta: float, threshold: float) -> Array:
        ctx.beta, ctx.threshold = beta, threshold
        ctx.save(x)
        return kernels_for(x).softplus_forward(x, beta, threshold)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (x,) = ctx.saved
        return kernels_for(gy).softplus_backward(gy, x, ctx.beta, ctx.threshold)


def _softplus_oracle(x: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    return np.array([v if v * beta > threshold else math.log1p(math.exp(v * beta)) / beta for v in x.flat]).reshape(x.shape)


@op(
    samples=lambda draw: [
        *_samples(draw),
        Sample(draw.normal(3, 4), 2.0, name="beta"),
        Sample(draw.away(3, 4, points=(0.5,)), beta=2.0, threshold=1.0, name="threshold"),
        Sample(draw.normal(3, 4), -0.5, name="negative beta"),
    ],
    oracle=_softplus_oracle,
    flops=lambda y, x, beta, threshold: 6 * y.size,
    errors=lambda draw: [
        _text_error(draw),
        ErrorSample(ArgumentError, "beta other than 0, got 0", draw.normal(2), 0),
        ErrorSample(DtypeError, "threshold as a number, got None", draw.normal(2), threshold=None),
    ],
)
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Smooth ReLU.

    Formula:
        y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx = dL/dy * sigmoid(beta x), and dL/dy where beta x > threshold.
    Notes:
        With the default threshold the two pieces agree to 2e-9. NaN stays NaN.
    Raises:
        ArgumentError: beta of 0.
    Source:
        Dugas, Bengio, Bélisle, Nadeau and Garcia, "Incorporating Second-Order Functional Knowledge for Better Option
        Pricing", 2000.

    >>> import minidl as md
    >>> md.softplus(md.tensor([-1.0, 0.0, 30.0]))
    tensor([ 0.3133,  0.6931, 30.    ])
    """
    beta, threshold = number("softplus", "beta", beta), number("softplus", "threshold", threshold)
    if beta == 0:
        raise ArgumentError.of("softplus", "beta other than 0", "0")
    return Softplus.apply(float_tensor("softplus", x), beta=beta, threshold=threshold)


def _softmax_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(3, 4)),
        Sample(draw.normal(3, 4), 0, name="first axis"),
        Sample(draw.normal(2, 3, 4, 2), axis=1, name="channels"),
        Sample(draw.normal(5), axis=0, name="vector"),
        Sample(draw.normal(2, 19), name="longer row"),
        Sample(draw.normal(0, 3), name="empty"),
        Sample(draw.normal(3, 0), name="empty row"),
    ]


def _softmax_errors(draw: Draw) -> list[ErrorSample]:
    return [
        _text_error(draw),
        ErrorSample(ArgumentError, "axis from -2 to 1 for 2 axes, got 2", draw.normal(2, 3), 2),
        ErrorSample(ArgumentError, "axis", draw.normal(), 0),
        ErrorSample(DtypeError, "axis as an integer, got None", draw.normal(2, 3), None),
    ]


class Softmax(Function):
    """y = e^x / sum of e^x."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        y = kernels_for(x).softmax_forward(x, axis)
        ctx.axis = axis
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).softmax_backward(gy, y, ctx.axis)


def _softmax_oracle(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """y_i = 1 / sum over j of e^(x_j - x_i)."""
    x = np.moveaxis(x, axis, -1)
    return np.moveaxis(1 / np.exp(x[..., None, :] - x[..., :, None]).sum(-1), -1, axis)


@op(
    samples=_softmax_samples,
    oracle=_softmax_oracle,
    flops=lambda y, x, axis: 5 * y.size,
    methods=("softmax",),
    errors=_softmax_errors,
)
def softmax(x: Any, axis: int = -1) -> Tensor:
    """Any numbers to probabilities that sum to 1 along an axis.

    Formula:
        y_i = e^(x_i) / sum over j of e^(x_j), the sum running along ``axis``
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx_i = y_i * (dL/dy_i - sum over j of y_j * dL/dy_j)
    Notes:
        The largest x of each sum is taken off first, so that nothing overflows. NaN or +inf anywhere in a
        sum, or -inf everywhere, makes all of its results NaN, as in PyTorch. ``cross_entropy`` expects
        the x of this function (the logits), not its y.
    Raises:
        ArgumentError: an axis that x does not have.
    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs, with Relationships to
        Statistical Pattern Recognition", 1990.

    >>> import minidl as md
    >>> md.softmax(md.tensor([0.0, 1.0, 2.0]))
    tensor([0.09  , 0.2447, 0.6652])
    """
    x = float_tensor("softmax", x)
    return Softmax.apply(x, axis=axis_index("softmax", axis, x.ndim))


class LogSoftmax(Function):
    """y = x - log(sum of e^x)."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        y = kernels_for(x).log_softmax_forward(x, axis)
        ctx.axis = axis
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Array) -> Array:
        (y,) = ctx.saved
        return kernels_for(gy).log_softmax_backward(gy, y, ctx.axis)


@op(
    samples=_softmax_samples,
    oracle=lambda x, axis=-1: np.log(_softmax_oracle(x, axis)),
    flops=lambda y, x, axis: 4 * y.size,
    methods=("log_softmax",),
    errors=_softmax_errors,
)
def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Logarithm of the softmax, without the rounding and the -inf that taking it in two steps brings.

    Formula:
        y_i = x_i - log(sum over j of e^(x_j)), the sum running along ``axis``
    Shape:
        any; y has x's shape and dtype.
    Gradient:
        dL/dx_i = dL/dy_i - e^(y_i) * sum over j of dL/dy_j
    Notes:
        The largest x of each sum is taken off first, so that nothing overflows. NaN as for ``softmax``.
    Raises:
        ArgumentError: an axis that x does not have.

    >>> import minidl as md
    >>> md.log_softmax(md.tensor([0.0, 1000.0]))
    tensor([-1000.,     0.])
    """
    x = float_tensor("log_softmax", x)
    return LogSoftmax.apply(x, axis=axis_index("log_softmax", axis, x.ndim))
