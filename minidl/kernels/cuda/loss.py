"""Losses on the GPU: those of class scores row by row, the others element by element, each in one pass.

In backward g may be one number, or anything that broadcasts to the values.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import Array, xp_of
from minidl.kernels import generic
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, ROWS, THREADS, dense, empty_like, in_order_of, on_elements, on_rows

__all__ = [
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "binary_cross_entropy_with_logits_backward",
    "binary_cross_entropy_with_logits_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cross_entropy_probabilities_backward",
    "cross_entropy_probabilities_forward",
    "focal_loss_backward",
    "focal_loss_forward",
    "huber_loss_backward",
    "huber_loss_forward",
    "l1_loss_backward",
    "mse_loss_backward",
    "nll_loss_backward",
    "nll_loss_forward",
    "smooth_l1_loss_backward",
    "smooth_l1_loss_forward",
]

source = Source(
    ROWS
    + r"""
// The operations check labels; a CUDA graph is replayed with unchecked ones. Those out of range make their loss NaN.
__device__ bool is_label(long long t, long long columns) { return t >= 0 && t < columns; }

extern "C" __global__ void cross_entropy(long long rows, long long columns, const T* x, const long long* target,
                                         const T* weight, long long ignore_index, T smooth, T* loss, T* peak, T* log_sum) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T* r = x + row * columns;
        long long t = target[row];
        T m = row_largest(team, r, columns);
        T e = log(row_sum<T>(team, columns, [=](long long k) { return exp(r[k] - m); }));
        T l = t == ignore_index ? T(0) : is_label(t, columns) ? (T(1) - smooth) * weight[t] * (e - (r[t] - m)) : nan_value();
        if (smooth > 0 && t != ignore_index)
            l += smooth / T(columns) * row_sum<T>(team, columns, [=](long long k) { return weight[k] * (e - (r[k] - m)); });
        if (team.rank == 0) loss[row] = l, peak[row] = m, log_sum[row] = e;
    });
}

// gx[c] = a (p[c] - y[c]) + b (p[c] sum(w) - w[c]) with a = g (1 - s) w[t] and b = g s/C.
extern "C" __global__ void cross_entropy_grad(long long rows, long long columns, const T* g, const T* x, const T* peak,
                                              const T* log_sum, const long long* target, const T* weight,
                                              long long ignore_index, T smooth, T* gx) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T* r = x + row * columns;
        T* o = gx + row * columns;
        long long t = target[row];
        bool kept = t != ignore_index;
        T m = peak[row], e = log_sum[row], b = 0;
        T a = !kept ? T(0) : is_label(t, columns) ? g[row] * (T(1) - smooth) * weight[t] : nan_value(), p = a;
        if (smooth > 0 && kept) {
            b = g[row] * smooth / T(columns);
            p += b * row_sum<T>(team, columns, [=](long long k) { return weight[k]; });
        }
        fill_row(team, columns, o, [=](long long k) {
            T of_smoothing = smooth > 0 ? b * weight[k] : T(0), of_target = k == t ? a : T(0);
            return kept ? exp((r[k] - m) - e) * p - of_smoothing - of_target : T(0);
        });
    });
}

extern "C" __global__ void cross_entropy_probabilities(long long rows, long long columns, const T* x, const T* target,
                                                       const T* weight, T smooth, T* loss, T* log_p, T* q) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T *r = x + row * columns, *t = target + row * columns;
        T *lp = log_p + row * columns, *qs = q + row * columns;
        T m = row_largest(team, r, columns);
        T e = log(row_sum<T>(team, columns, [=](long long k) { return exp(r[k] - m); }));
        T l = row_sum<T>(team, columns, [=](long long k) {
            lp[k] = (r[k] - m) - e;
            qs[k] = weight[k] * ((T(1) - smooth) * t[k] + smooth / T(columns));
            return qs[k] * lp[k];
        });
        if (team.rank == 0) loss[row] = -l;
    });
}

extern "C" __global__ void cross_entropy_probabilities_grad(long long rows, long long columns, const T* g, const T* log_p,
                                                            const T* q, T* gx) {
    for_rows(rows, columns, [=](long long row, Team team) {
        const T *lp = log_p + row * columns, *qs = q + row * columns;
        T* o = gx + row * columns;
        T total = row_sum<T>(team, columns, [=](long long k) { return qs[k]; });
        fill_row(team, columns, o, [=](long long k) { return g[row] * (exp(lp[k]) * total - qs[k]); });
    });
}

extern "C" __global__ void nll(const T* x, const long long* target, const T* weight, T* loss, long long rows,
                               long long columns, long long ignore_index) {
    for (long long i = first_index(); i < rows; i += index_step()) {
        long long t = target[i];
        loss[i] = t == ignore_index ? T(0) : is_label(t, columns) ? -weight[t] * x[i * columns + t] : nan_value();
    }
}

extern "C" __global__ void nll_grad(long long rows, long long columns, const T* g, const long long* target, const T* weight,
                                    long long ignore_index, T* gx) {
    for_rows(rows, columns, [=](long long row, Team team) {
        long long t = target[row];
        for (long long k = team.rank; k < columns; k += team.size)
            gx[row * columns + k] = k == t && t != ignore_index ? -g[row] * weight[t] : T(0);
    });
}
"""
)

VALUES = """
extern "C" __global__ void NAME(long long size, T* y, const T* x, const T* t, T a, T b) {
    map(size, y, [=](T x, T t) -> T { return VALUE; }, x, t);
}
"""
SLOPES = """
extern "C" __global__ void NAME_one(long long size, T* gx, const T* of_all, const T* x, const T* t, T a, T b) {
    const T g = *of_all;
    map(size, gx, [=](T x, T t) -> T { return SLOPE; }, x, t);
}
extern "C" __global__ void NAME_many(long long size, T* gx, const T* g, const T* x, const T* t, T a, T b) {
    map(size, gx, [=](T g, T x, T t) -> T { return SLOPE; }, g, x, t);
}
"""

# The loss from x and t, and its slope times g, with up to two numbers a and b. Regression losses have no t: x is the
# difference, and t is x again.
OF_PAIRS = [
    ("smooth_l1", "fabs(x) < a ? x * x * (T(0.5) / a) : fabs(x) - T(0.5) * a"),
    ("huber", "fabs(x) <= a ? T(0.5) * x * x : a * (fabs(x) - T(0.5) * a)"),
    ("bce", "-(t * log_x(x) + (1 - t) * log_1_x(x))"),
    ("logits", "(1 - t) * x + (1 + (a - 1) * t) * softplus_of(-x)"),
    ("focal", "balance_of(t, a) * pow(wrong_of(sigmoid_of(x), t), b) * entropy_of(x, t)"),
]
OF_PAIRS_GRADIENTS = [
    ("mse", "2 * g * x"),
    ("l1", "g * sign_of(x)"),
    ("smooth_l1", "g * (fabs(x) < a ? x / a : sign_of(x))"),
    ("huber", "g * between(-a, x, a)"),
    ("bce_grad_x", "g * (x - t) / at_least(T(1e-12), x * (1 - x))"),
    ("bce_grad_t", "g * (log_1_x(x) - log_x(x))"),
    ("logits_grad_x", "g * ((a * t + 1 - t) * sigmoid_of(x) - a * t)"),
    ("logits_grad_t", "g * ((a - 1) * softplus_of(-x) - x)"),
    ("focal_grad_x", "g * focal_slope_x(x, t, a, b)"),
    ("focal_grad_t", "g * focal_slope_t(x, t, a, b)"),
]

elements = Source(
    MAP
    + r"""
__device__ T sigmoid_of(T x) { return T(1) / (T(1) + exp(-x)); }
__device__ T softplus_of(T x) { return (x < 0 ? T(0) : x) + log1p(exp(-fabs(x))); }  // log(1 + e^x)
__device__ T sign_of(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x; }  // NaN stays
__device__ T at_least(T low, T x) { return x < low ? low : x; }
__device__ T between(T low, T x, T high) { return x < low ? low : x > high ? high : x; }

__device__ T log_x(T x) { return at_least(-100, log(x)); }
__device__ T log_1_x(T x) { return at_least(-100, log1p(-x)); }

// Focal loss: balance * q^gamma * entropy, with a = alpha and b = gamma.
__device__ T balance_of(T t, T a) { return a >= 0 ? a * t + (1 - a) * (1 - t) : T(1); }
__device__ T entropy_of(T x, T t) { return (1 - t) * x + softplus_of(-x); }
__device__ T wrong_of(T s, T t) { return s * (1 - t) + (1 - s) * t; }
__device__ T slope_of(T q, T b) { return b > 0 ? b * pow(q, b - 1) : T(0); }
__device__ T focal_slope_x(T x, T t, T a, T b) {
    T s = sigmoid_of(x), q = wrong_of(s, t);
    return balance_of(t, a) * ((s - t) * pow(q, b) + entropy_of(x, t) * slope_of(q, b) * (1 - 2 * t) * s * (1 - s));
}
__device__ T focal_slope_t(T x, T t, T a, T b) {
    T s = sigmoid_of(x), q = wrong_of(s, t), e = entropy_of(x, t), p = pow(q, b);
    return balance_of(t, a) * (e * slope_of(q, b) * (1 - 2 * s) - x * p) + (a >= 0 ? (2 * a - 1) * p * e : T(0));
}
"""
    + "".join(VALUES.replace("NAME", name).replace("VALUE", value) for name, value in OF_PAIRS)
    + "".join(SLOPES.replace("NAME", name).replace("SLOPE", slope) for name, slope in OF_PAIRS_GRADIENTS)
)


# ---------------------------------------------------------------- rows of class scores


def cross_entropy_forward(
    x: Array, target: Array, weight: Array, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array, Array]:
    """Per row l = -log p[target] with p = softmax(x), and the row's largest x and log(sum of e^(x - largest))."""
    xp, (rows, columns) = xp_of(x), x.shape
    x, target, weight = xp.ascontiguousarray(x), _indices(target), xp.ascontiguousarray(weight)
    loss, peak, log_sum = (xp.empty(rows, x.dtype) for _ in range(3))
    scalars = ignore_index, label_smoothing
    on_rows(source, "cross_entropy", x.dtype, rows, columns, x, target, weight, *scalars, loss, peak, log_sum)
    return loss, peak, log_sum


def cross_entropy_backward(
    g: Array, x: Array, peak: Array, log_sum: Array, target: Array, weight: Array, ignore_index: int, label_smoothing: float
) -> Array:
    """gx = g * (p - y), y being 1 at the target and 0 elsewhere; g (M,)."""
    xp, (rows, columns) = xp_of(x), x.shape
    g, x, weight = (xp.ascontiguousarray(a) for a in (g, x, weight))
    gx, target, scalars = xp.empty(x.shape, x.dtype), _indices(target), (ignore_index, label_smoothing)
    on_rows(source, "cross_entropy_grad", x.dtype, rows, columns, g, x, peak, log_sum, target, weight, *scalars, gx)
    return gx


def cross_entropy_probabilities_forward(
    x: Array, target: Array, weight: Array, label_smoothing: float
) -> tuple[Array, Array, Array]:
    """Per row l = -sum over c of q[c] log p[c], with q = w ((1 - s) target + s/C); and log p and q."""
    xp, (rows, columns) = xp_of(x), x.shape
    x, target, weight = (xp.ascontiguousarray(a) for a in (x, target, weight))
    loss, log_p, q = xp.empty(rows, x.dtype), xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype)
    arrays = x, target, weight, label_smoothing, loss, log_p, q
    on_rows(source, "cross_entropy_probabilities", x.dtype, rows, columns, *arrays)
    return loss, log_p, q


def cross_entropy_probabilities_backward(g: Array, log_p: Array, q: Array) -> Array:
    """gx = g * (p * sum(q) - q); g (M,)."""
    xp, (rows, columns) = xp_of(g), q.shape
    gx = xp.empty(q.shape, q.dtype)
    arrays = (xp.ascontiguousarray(a) for a in (g, log_p, q))
    on_rows(source, "cross_entropy_probabilities_grad", q.dtype, rows, columns, *arrays, gx)
    return gx


def nll_loss_forward(x: Array, target: Array, weight: Array, ignore_index: int) -> Array:
    """Per row l = -w[t] x[t]; 0 where the target is ``ignore_index``."""
    xp, (rows, columns) = xp_of(x), x.shape
    loss = xp.empty(rows, x.dtype)
    args = xp.ascontiguousarray(x), _indices(target), xp.ascontiguousarray(weight), loss, rows, columns, ignore_index
    source.launch("nll", x.dtype, grid_of(rows, THREADS), THREADS, args)
    return loss


def nll_loss_backward(g: Array, target: Array, weight: Array, ignore_index: int) -> Array:
    """gx = -g w[t] at the target, 0 elsewhere; g (M,)."""
    xp, rows, columns = xp_of(g), len(target), len(weight)
    gx = xp.empty((rows, columns), g.dtype)
    arrays = xp.ascontiguousarray(g), _indices(target), xp.ascontiguousarray(weight)
    on_rows(source, "nll_grad", g.dtype, rows, columns, *arrays, ignore_index, gx)
    return gx


def _indices(target: Array) -> Array:
    return xp_of(target).ascontiguousarray(target, dtype=np.int64)


# ---------------------------------------------------------------- element by element


def _spread(a: Array, like: Array) -> Array:
    """a, which broadcasts to the shape of ``like``, in its memory order."""
    if a.shape != like.shape or a.dtype != like.dtype:
        y = empty_like(like)
        y[...] = a
        return y
    return in_order_of(a, like)


def _values(name: str, x: Array, t: Array | None, a: float = 0.0, b: float = 0.0) -> Array:
    x = dense(x)
    return on_elements(elements, name, empty_like(x), (x, x if t is None else _spread(t, x)), a, b)


def _slopes(name: str, g: Array, x: Array, t: Array | None, a: float = 0.0, b: float = 0.0) -> Array:
    """g times the slope of the loss, for g of one number or one for each value."""
    x = dense(x)
    pair = x, x if t is None else _spread(t, x)
    if g.size == 1 and g.dtype == x.dtype:
        return on_elements(elements, name + "_one", empty_like(x), (g, *pair), a, b)
    return on_elements(elements, name + "_many", empty_like(x), (_spread(g, x), *pair), a, b)


def mse_loss_backward(g: Array, d: Array) -> Array:
    """g * 2 d."""
    return _slopes("mse", g, d, None)


def l1_loss_backward(g: Array, d: Array) -> Array:
    """g * sign(d), with sign(0) = 0."""
    return _slopes("l1", g, d, None)


def smooth_l1_loss_forward(d: Array, beta: float) -> Array:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta/2."""
    return _values("smooth_l1", d, None, beta)


def smooth_l1_loss_backward(g: Array, d: Array, beta: float) -> Array:
    """g * d / beta where |d| < beta, else g * sign(d)."""
    return _slopes("smooth_l1", g, d, None, beta)


def huber_loss_forward(d: Array, delta: float) -> Array:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta/2)."""
    return _values("huber", d, None, delta)


def huber_loss_backward(g: Array, d: Array, delta: float) -> Array:
    """g * d where |d| <= delta, else g * delta * sign(d)."""
    return _slopes("huber", g, d, None, delta)


def _pair_slopes(
    name: str, g: Array, x: Array, t: Array, needs: tuple[bool, bool], *scalars: float
) -> tuple[Array | None, Array | None]:
    """The gradients of both arguments, each None when not needed."""
    gx = _slopes(name + "_grad_x", g, x, t, *scalars) if needs[0] else None
    return gx, _slopes(name + "_grad_t", g, x, t, *scalars) if needs[1] else None


def binary_cross_entropy_forward(x: Array, t: Array) -> Array:
    """-(t log x + (1 - t) log(1 - x)), each logarithm at least -100."""
    return _values("bce", x, t)


def binary_cross_entropy_backward(g: Array, x: Array, t: Array, needs: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """gx = g (x - t) / (x (1 - x)), the denominator at least 1e-12; gt = g (log(1 - x) - log x)."""
    return _pair_slopes("bce", g, x, t, needs)


def binary_cross_entropy_with_logits_forward(x: Array, t: Array, pos_weight: Array | float) -> Array:
    """-(pos_weight t log s + (1 - t) log(1 - s)) with s = sigmoid(x)."""
    if not isinstance(pos_weight, float):
        return generic.binary_cross_entropy_with_logits_forward(x, t, pos_weight)
    return _values("logits", x, t, pos_weight)


def binary_cross_entropy_with_logits_backward(
    g: Array, x: Array, t: Array, pos_weight: Array | float, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """gx = g ((pos_weight t + 1 - t) s - pos_weight t), and gt from log s."""
    if not isinstance(pos_weight, float):
        return generic.binary_cross_entropy_with_logits_backward(g, x, t, pos_weight, needs)
    return _pair_slopes("logits", g, x, t, needs, pos_weight)


def focal_loss_forward(x: Array, t: Array, alpha: float, gamma: float) -> Array:
    """balance * q^gamma * cross-entropy."""
    return _values("focal", x, t, alpha, gamma)


def focal_loss_backward(
    g: Array, x: Array, t: Array, alpha: float, gamma: float, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """The product rule over the three factors of forward."""
    return _pair_slopes("focal", g, x, t, needs, alpha, gamma)
