"""Activations: y = f(x) element by element, and gx = gy * f'(x).

Where f' can be written in terms of y, backward takes y, so that x need not be kept.
"""

from __future__ import annotations

import math

from minidl.backend import Array, xp_of

__all__ = [
    "elu_backward",
    "elu_forward",
    "gelu_backward",
    "gelu_forward",
    "hardswish_backward",
    "hardswish_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "softplus_backward",
    "softplus_forward",
    "tanh_backward",
    "tanh_forward",
]


def relu_forward(x: Array) -> Array:
    """y = max(x, 0); NaN stays NaN."""
    return xp_of(x).maximum(x, x.dtype.type(0))


def relu_backward(gy: Array, y: Array) -> Array:
    """gx = 0 where y <= 0, else gy, also beside NaN (the derivative at 0 is chosen to be 0)."""
    xp = xp_of(y)
    return xp.where(y <= 0, gy.dtype.type(0), gy)


def leaky_relu_forward(x: Array, negative_slope: float) -> Array:
    """y = x where x > 0, else negative_slope * x."""
    return xp_of(x).where(x > 0, x, x * negative_slope)


def leaky_relu_backward(gy: Array, s: Array, negative_slope: float) -> Array:
    """gx = gy where s > 0, else negative_slope * gy; s is anything with the sign of x."""
    return xp_of(s).where(s > 0, gy, gy * negative_slope)


def elu_forward(x: Array, alpha: float) -> Array:
    """y = x where x > 0, else alpha * (e^x - 1)."""
    xp = xp_of(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


def elu_backward(gy: Array, y: Array, alpha: float) -> Array:
    """gx = gy where y > 0, else gy * alpha * e^x = gy * (y + alpha)."""
    return xp_of(y).where(y > 0, gy, gy * (y + alpha))


def sigmoid_forward(x: Array) -> Array:
    """y = 1 / (1 + e^-x), from e^-|x|, which cannot overflow."""
    xp = xp_of(x)
    e = xp.exp(-abs(x))
    return xp.where(x < 0, e, x.dtype.type(1)) / (1 + e)


def sigmoid_backward(gy: Array, y: Array) -> Array:
    """gx = gy * y * (1 - y)."""
    return gy * y * (1 - y)


def tanh_forward(x: Array) -> Array:
    """y = tanh(x)."""
    return xp_of(x).tanh(x)


def tanh_backward(gy: Array, y: Array) -> Array:
    """gx = gy * (1 - y^2)."""
    return gy * (1 - y * y)


def silu_forward(x: Array) -> Array:
    """y = x * sigmoid(x)."""
    return x * sigmoid_forward(x)


def silu_backward(gy: Array, x: Array) -> Array:
    """gx = gy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    s = sigmoid_forward(x)
    return gy * s * (1 + x * (1 - s))


def hardswish_forward(x: Array) -> Array:
    """y = x * min(max(x + 3, 0), 6) / 6."""
    return x * xp_of(x).clip(x + 3, 0, 6) / 6


def hardswish_backward(gy: Array, x: Array) -> Array:
    """gx = 0 for x <= -3, gy for x >= 3, gy * (x / 3 + 1/2) between."""
    xp = xp_of(x)
    between = xp.where(x >= 3, gy, gy * (x / 3 + 0.5))
    return xp.where(x <= -3, gy.dtype.type(0), between)


def softplus_forward(x: Array, beta: float, threshold: float) -> Array:
    """y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    xp = xp_of(x)
    z = x * beta
    return xp.where(z > threshold, x, (xp.maximum(z, 0) + xp.log1p(xp.exp(-abs(z)))) / beta)


def softplus_backward(gy: Array, x: Array, beta: float, threshold: float) -> Array:
    """gx = gy * sigmoid(beta x), and gy where beta x > threshold."""
    z = x * beta
    return xp_of(x).where(z > threshold, gy, gy * sigmoid_forward(z))


# gelu(x) = x * Phi(x), Phi(x) the probability that a standard normal variable is below x.
# The tanh form replaces Phi(x) by (1 + tanh(u)) / 2 with u = A * (x + B x^3).
A = math.sqrt(2 / math.pi)
B = 0.044715


def gelu_forward(x: Array, tanh: bool) -> Array:
    """y = x/2 * (1 + erf(x / sqrt(2))), or with tanh(A (x + B x^3)) in place of the error function."""
    if tanh:
        return 0.5 * x * (1 + xp_of(x).tanh(A * (x + B * x * x * x)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def gelu_backward(gy: Array, x: Array, tanh: bool) -> Array:
    """gx = gy * (Phi(x) + x * Phi'(x)), where Phi' is the normal density e^(-x^2/2) / sqrt(2 pi)."""
    xp = xp_of(x)
    if tanh:
        t = xp.tanh(A * (x + B * x * x * x))
        return gy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * A * (1 + 3 * B * x * x))
    return gy * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * xp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


# W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, 1969:
# erf(x) = x R(x^2) up to 0.46875; erfc(x) = e^(-x^2) R(x) up to 4; erfc(x) = e^(-x^2)/x (1/sqrt(pi) - R(1/x^2)/x^2) beyond.
# Numerators and denominators, highest power first.
SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
LARGE = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3),
)


def _ratio(table: tuple, t: Array) -> Array:
    """P(t) / Q(t) by Horner's rule."""
    p, q = (table[i][0] for i in (0, 1))
    for a, b in zip(table[0][1:], table[1][1:]):
        p, q = p * t + a, q * t + b
    return p / q


def erf(x: Array) -> Array:
    """The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x, to the precision of x's dtype."""
    xp = xp_of(x)
    t = xp.minimum(abs(x), 6)  # erf(6) = 1 - 2e-17
    small = t * _ratio(SMALL, t * t)
    e = xp.exp(-t * t)
    middle = 1 - e * _ratio(MIDDLE, t)
    r = 1 / xp.maximum(t, 1) ** 2
    large = 1 - e * xp.sqrt(r) * (1 / math.sqrt(math.pi) - r * _ratio(LARGE, r))
    return xp.copysign(xp.where(t <= 0.46875, small, xp.where(t <= 4, middle, large)), x)


def softmax_forward(x: Array, axis: int) -> Array:
    """y = e^x / sum of e^x along the axis; the largest x is taken off first, so that nothing overflows."""
    if x.size == 0:
        return x.copy()
    e = xp_of(x).exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_backward(gy: Array, y: Array, axis: int) -> Array:
    """gx = y * (gy - sum of gy * y along the axis)."""
    return y * (gy - (gy * y).sum(axis, keepdims=True))


def log_softmax_forward(x: Array, axis: int) -> Array:
    """y = x - log(sum of e^x along the axis), with the largest x taken off first."""
    if x.size == 0:
        return x.copy()
    xp = xp_of(x)
    shifted = x - x.max(axis, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))


def log_softmax_backward(gy: Array, y: Array, axis: int) -> Array:
    """gx = gy - softmax(x) * sum of gy along the axis, with softmax(x) = e^y."""
    return gy - xp_of(y).exp(y) * gy.sum(axis, keepdims=True)
