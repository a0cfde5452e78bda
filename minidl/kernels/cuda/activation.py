"""Activations on the GPU: one pass over memory, in the order the elements lie, 16 bytes at a time.

``s`` in backward is whatever of x and y the derivative is written in.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source
from minidl.kernels.cuda._passes import MAP, ROWS, dense, empty_like, in_order_of, on_elements, on_rows

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

ELEMENT = """
extern "C" __global__ void NAME(long long size, T* y, const T* x, T a, T b) {
    map(size, y, [=](T x) -> T { return VALUE; }, x);
}
extern "C" __global__ void NAME_grad(long long size, T* gx, const T* gy, const T* s, T a, T b) {
    map(size, gx, [=](T g, T s) -> T { return SLOPE; }, gy, s);
}
"""

ACTIVATIONS = [  # y from x, and gx from g = gy and s, with up to two numbers a and b; no comparison with NaN holds
    ("relu", "x < 0 ? 0 : x", "s <= 0 ? 0 : g"),
    ("leaky_relu", "x > 0 ? x : x * a", "s > 0 ? g : g * a"),
    ("elu", "x > 0 ? x : a * expm1(x)", "s > 0 ? g : g * (s + a)"),
    ("sigmoid", "sigmoid_of(x)", "g * s * (1 - s)"),
    ("hyperbolic", "tanh(x)", "g * (1 - s * s)"),
    ("silu", "x * sigmoid_of(x)", "g * silu_slope(s, sigmoid_of(s))"),
    ("hardswish", "x * between(0, x + 3, 6) / 6", "s <= -3 ? 0 : s >= 3 ? g : g * (s / 3 + T(0.5))"),
    ("softplus", "x * a > b ? x : softplus_of(x * a) / a", "s * a > b ? g : g * sigmoid_of(s * a)"),
    ("gelu", "x * normal(x)", "g * (normal(s) + s * DENSITY_0 * exp(T(-0.5) * s * s))"),
    ("gelu_tanh", "T(0.5) * x * (1 + gelu_tanh_of(x))", "g * gelu_tanh_slope(s, gelu_tanh_of(s))"),
]

source = Source(
    MAP
    + ROWS
    + r"""
__device__ T sigmoid_of(T x) { return T(1) / (T(1) + exp(-x)); }  // e^-x may be infinite: 0 then
__device__ T softplus_of(T z) { return (z < 0 ? T(0) : z) + log1p(exp(-fabs(z))); }
__device__ T between(T low, T x, T high) { return x < low ? low : x > high ? high : x; }  // NaN stays
__device__ T silu_slope(T x, T t) { return t * (T(1) + x * (T(1) - t)); }

const T ROOT_HALF = T(0.70710678118654752), DENSITY_0 = T(0.39894228040143268);  // the normal density at 0
const T A = T(0.79788456080286536), B = T(0.044715);  // the tanh form of gelu
__device__ T normal(T x) { return T(0.5) * (T(1) + erf(x * ROOT_HALF)); }  // the probability of less than x
__device__ T gelu_tanh_of(T x) { return tanh(A * (x + B * x * x * x)); }
__device__ T gelu_tanh_slope(T x, T t) { return T(0.5) * (T(1) + t + x * (T(1) - t * t) * A * (T(1) + T(3) * B * x * x)); }
"""
    + "".join(
        ELEMENT.replace("NAME", name).replace("VALUE", value).replace("SLOPE", slope) for name, value, slope in ACTIVATIONS
    )
    + r"""
// Row by row: y = e^(x - m) / s; m the largest x, s the sum of e^(x - m).
extern "C" __global__ void softmax(long long rows, long long columns, const T* x, T* y) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T* r = x + row * columns;
        T* o = y + row * columns;
        T m = row_largest(team, r, columns);
        T scale = T(1) / row_sum<T>(team, columns, [=](long long k) { return exp(r[k] - m); });
        fill_row(team, columns, o, [=](long long k) { return exp(r[k] - m) * scale; });
    });
}

// gx = y * (gy - sum of gy * y).
extern "C" __global__ void softmax_grad(long long rows, long long columns, const T* gy, const T* y, T* gx) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T *g = gy + row * columns, *r = y + row * columns;
        T* o = gx + row * columns;
        T s = row_sum<T>(team, columns, [=](long long k) { return g[k] * r[k]; });
        fill_row(team, columns, o, [=](long long k) { return r[k] * (g[k] - s); });
    });
}

// y = (x - m) - log(s), with m and s as in softmax.
extern "C" __global__ void log_softmax(long long rows, long long columns, const T* x, T* y) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T* r = x + row * columns;
        T* o = y + row * columns;
        T m = row_largest(team, r, columns);
        T t = log(row_sum<T>(team, columns, [=](long long k) { return exp(r[k] - m); }));
        fill_row(team, columns, o, [=](long long k) { return (r[k] - m) - t; });
    });
}

// gx = gy - e^y * sum of gy.
extern "C" __global__ void log_softmax_grad(long long rows, long long columns, const T* gy, const T* y, T* gx) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T *g = gy + row * columns, *r = y + row * columns;
        T* o = gx + row * columns;
        T s = row_sum<T>(team, columns, [=](long long k) { return g[k]; });
        fill_row(team, columns, o, [=](long long k) { return g[k] - exp(r[k]) * s; });
    });
}
"""
)


def _forward(name: str, x: Array, a: float = 0.0, b: float = 0.0) -> Array:
    x = dense(x)
    return on_elements(source, name, empty_like(x), (x,), float(a), float(b))


def _backward(name: str, gy: Array, s: Array, a: float = 0.0, b: float = 0.0) -> Array:
    s = dense(s)
    return on_elements(source, name + "_grad", empty_like(s), (in_order_of(gy, s), s), float(a), float(b))


def relu_forward(x: Array) -> Array:
    """y = max(x, 0)."""
    return _forward("relu", x)


def relu_backward(gy: Array, y: Array) -> Array:
    """gx = 0 where y <= 0, else gy."""
    return _backward("relu", gy, y)


def leaky_relu_forward(x: Array, negative_slope: float) -> Array:
    """y = x where x > 0, else negative_slope * x."""
    return _forward("leaky_relu", x, negative_slope)


def leaky_relu_backward(gy: Array, s: Array, negative_slope: float) -> Array:
    """gx = gy where s > 0, else negative_slope * gy; s is anything with the sign of x."""
    return _backward("leaky_relu", gy, s, negative_slope)


def elu_forward(x: Array, alpha: float) -> Array:
    """y = x where x > 0, else alpha * (e^x - 1)."""
    return _forward("elu", x, alpha)


def elu_backward(gy: Array, y: Array, alpha: float) -> Array:
    """gx = gy where y > 0, else gy * (y + alpha)."""
    return _backward("elu", gy, y, alpha)


def sigmoid_forward(x: Array) -> Array:
    """y = 1 / (1 + e^-x)."""
    return _forward("sigmoid", x)


def sigmoid_backward(gy: Array, y: Array) -> Array:
    """gx = gy * y * (1 - y)."""
    return _backward("sigmoid", gy, y)


def tanh_forward(x: Array) -> Array:
    """y = tanh(x)."""
    return _forward("hyperbolic", x)


def tanh_backward(gy: Array, y: Array) -> Array:
    """gx = gy * (1 - y^2)."""
    return _backward("hyperbolic", gy, y)


def silu_forward(x: Array) -> Array:
    """y = x * sigmoid(x)."""
    return _forward("silu", x)


def silu_backward(gy: Array, x: Array) -> Array:
    """gx = gy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    return _backward("silu", gy, x)


def hardswish_forward(x: Array) -> Array:
    """y = x * min(max(x + 3, 0), 6) / 6."""
    return _forward("hardswish", x)


def hardswish_backward(gy: Array, x: Array) -> Array:
    """gx = 0 for x <= -3, gy for x >= 3, gy * (x / 3 + 1/2) between."""
    return _backward("hardswish", gy, x)


def softplus_forward(x: Array, beta: float, threshold: float) -> Array:
    """y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return _forward("softplus", x, beta, threshold)


def softplus_backward(gy: Array, x: Array, beta: float, threshold: float) -> Array:
    """gx = gy * sigmoid(beta x), and gy where beta x > threshold."""
    return _backward("softplus", gy, x, beta, threshold)


def gelu_forward(x: Array, tanh: bool) -> Array:
    """y = x/2 * (1 + erf(x / sqrt(2))), or with tanh(A (x + B x^3)) in place of the error function."""
    return _forward("gelu_tanh" if tanh else "gelu", x)


def gelu_backward(gy: Array, x: Array, tanh: bool) -> Array:
    """gx = gy * f'(x), f being the form of gelu that forward used."""
    return _backward("gelu_tanh" if tanh else "gelu", gy, x)


def _along(name: str, axis: int, *inputs: Array) -> Array:
    """The result of a kernel on rows, which lie along the axis."""
    xp, last = xp_of(inputs[0]), axis in (-1, inputs[0].ndim - 1)
    rows = [xp.ascontiguousarray(x if last else xp.moveaxis(x, axis, -1)) for x in inputs]
    y = xp.empty(rows[0].shape, rows[0].dtype)
    columns = y.shape[-1]
    on_rows(source, name, y.dtype, y.size // max(1, columns), columns, *rows, y)
    return y if last else xp.moveaxis(y, -1, axis)


def softmax_forward(x: Array, axis: int) -> Array:
    """y = e^x / sum of e^x along the axis."""
    return _along("softmax", axis, x)


def softmax_backward(gy: Array, y: Array, axis: int) -> Array:
    """gx = y * (gy - sum of gy * y along the axis)."""
    return _along("softmax_grad", axis, gy, y)


def log_softmax_forward(x: Array, axis: int) -> Array:
    """y = x - log(sum of e^x along the axis)."""
    return _along("log_softmax", axis, x)


def log_softmax_backward(gy: Array, y: Array, axis: int) -> Array:
    """gx = gy - e^y * sum of gy along the axis."""
    return _along("log_softmax_grad", axis, gy, y)
