"""Losses: one value per row or element before the reduction, and the gradient for a given dL/d(value).

The classification losses work on rows: x (M, C), one row of C class scores per sample or pixel. The regression
losses work on the difference d = x - target, whose gradient is that of x and minus that of the target. In
backward, ``g`` is dL/d(value), of the values' shape or 0-d.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.generic.activation import log_softmax_forward, sigmoid_forward

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
    "l1_loss_forward",
    "mse_loss_backward",
    "mse_loss_forward",
    "nll_loss_backward",
    "nll_loss_forward",
    "smooth_l1_loss_backward",
    "smooth_l1_loss_forward",
]


def _one_hot(target: Array, classes: int) -> Array:
    """(M, C) booleans: True at each row's label; rows labelled otherwise (ignore_index) are False."""
    return target[:, None] == xp_of(target).arange(classes)


def cross_entropy_forward(
    x: Array, target: Array, weight: Array, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array, Array]:
    """Softmax and negative log-likelihood in one: per row l = -log p[target], p = softmax(x).

    With smoothing s and class weights w, l = -(1 - s) w[t] log p[t] - s/C sum over c of w[c] log p[c]. Rows
    whose target is ``ignore_index`` give 0.

    Returns:
        l, and what backward needs to find p again: the largest x of each row and log(sum of e^(x - largest)).
    """
    xp = xp_of(x)
    kept = target != ignore_index
    label = xp.where(kept, target, 0)
    peak = x.max(1)
    shifted = x - peak[:, None]
    log_sum = xp.log(xp.exp(shifted).sum(1))
    surprise = log_sum[:, None] - shifted  # -log p
    loss = (1 - label_smoothing) * weight[label] * xp.take_along_axis(surprise, label[:, None], 1)[:, 0]
    if label_smoothing > 0:
        loss = loss + label_smoothing / x.shape[1] * (weight * surprise).sum(1)
    return xp.where(kept, loss, x.dtype.type(0)), peak, log_sum


def cross_entropy_backward(
    g: Array, x: Array, peak: Array, log_sum: Array, target: Array, weight: Array, ignore_index: int, label_smoothing: float
) -> Array:
    """gx = g * (p - y) without weights and smoothing, y being 1 at the target and 0 elsewhere; g (M,).

    In general gx[c] = a (p[c] - y[c]) + b (p[c] sum(w) - w[c]) with a = g (1 - s) w[t] and b = g s/C.
    """
    xp = xp_of(x)
    kept = target != ignore_index
    p = xp.exp(x - peak[:, None] - log_sum[:, None])
    a = (g * (1 - label_smoothing) * weight[xp.where(kept, target, 0)])[:, None]
    b = (g * (label_smoothing / x.shape[1]))[:, None]
    gx = a * (p - _one_hot(target, x.shape[1])) + b * (p * weight.sum() - weight)
    return xp.where(kept[:, None], gx, x.dtype.type(0))


def cross_entropy_probabilities_forward(
    x: Array, target: Array, weight: Array, label_smoothing: float
) -> tuple[Array, Array, Array]:
    """Per row l = -sum over c of q[c] log p[c], with q = w ((1 - s) target + s/C) and target (M, C) probabilities.

    Returns:
        l, and log p and q for backward.
    """
    log_p = log_softmax_forward(x, 1)
    q = weight * ((1 - label_smoothing) * target + label_smoothing / x.shape[1])
    return -(q * log_p).sum(1), log_p, q


def cross_entropy_probabilities_backward(g: Array, log_p: Array, q: Array) -> Array:
    """gx = g * (p * sum(q) - q); g (M,)."""
    return g[:, None] * (xp_of(q).exp(log_p) * q.sum(1, keepdims=True) - q)


def nll_loss_forward(x: Array, target: Array, weight: Array, ignore_index: int) -> Array:
    """Per row l = -w[t] x[t]; 0 where the target is ``ignore_index``."""
    xp = xp_of(x)
    kept = target != ignore_index
    label = xp.where(kept, target, 0)
    loss = -weight[label] * xp.take_along_axis(x, label[:, None], 1)[:, 0]
    return xp.where(kept, loss, x.dtype.type(0))


def nll_loss_backward(g: Array, target: Array, weight: Array, ignore_index: int) -> Array:
    """gx = -g w[t] at the target, 0 elsewhere; g (M,)."""
    xp = xp_of(g)
    kept = target != ignore_index
    a = g * weight[xp.where(kept, target, 0)]
    return xp.where(_one_hot(target, len(weight)) & kept[:, None], -a[:, None], g.dtype.type(0))


def mse_loss_forward(d: Array) -> Array:
    """d^2."""
    return d * d


def mse_loss_backward(g: Array, d: Array) -> Array:
    """g * 2 d."""
    return 2 * g * d


def l1_loss_forward(d: Array) -> Array:
    """|d|."""
    return abs(d)


def l1_loss_backward(g: Array, d: Array) -> Array:
    """g * sign(d), with sign(0) = 0."""
    return g * xp_of(d).sign(d)


def smooth_l1_loss_forward(d: Array, beta: float) -> Array:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta/2."""
    a = abs(d)
    return xp_of(d).where(a < beta, d * d * (0.5 / beta if beta > 0 else 0.0), a - 0.5 * beta)


def smooth_l1_loss_backward(g: Array, d: Array, beta: float) -> Array:
    """g * d / beta where |d| < beta, else g * sign(d)."""
    xp = xp_of(d)
    return g * xp.where(abs(d) < beta, d * (1 / beta if beta > 0 else 0.0), xp.sign(d))


def huber_loss_forward(d: Array, delta: float) -> Array:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta/2)."""
    a = abs(d)
    return xp_of(d).where(a <= delta, 0.5 * d * d, delta * (a - 0.5 * delta))


def huber_loss_backward(g: Array, d: Array, delta: float) -> Array:
    """g * d where |d| <= delta, else g * delta * sign(d): d cut off at -delta and delta."""
    return g * xp_of(d).clip(d, -delta, delta)


def binary_cross_entropy_forward(x: Array, t: Array) -> Array:
    """-(t log x + (1 - t) log(1 - x)), each logarithm at least -100."""
    xp = xp_of(x)
    return -(t * xp.maximum(xp.log(x), -100) + (1 - t) * xp.maximum(xp.log1p(-x), -100))


def binary_cross_entropy_backward(g: Array, x: Array, t: Array, needs: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """gx = g (x - t) / (x (1 - x)), the denominator at least 1e-12; gt = g (log(1 - x) - log x)."""
    xp = xp_of(x)
    gx = g * (x - t) / xp.maximum(x * (1 - x), 1e-12) if needs[0] else None
    gt = g * (xp.maximum(xp.log1p(-x), -100) - xp.maximum(xp.log(x), -100)) if needs[1] else None
    return gx, gt


def _softplus(x: Array) -> Array:
    """log(1 + e^x), without overflow."""
    xp = xp_of(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))


def binary_cross_entropy_with_logits_forward(x: Array, t: Array, pos_weight: Array | float) -> Array:
    """-(pos_weight t log s + (1 - t) log(1 - s)) with s = sigmoid(x), from log s = -softplus(-x)."""
    return (1 - t) * x + (1 + (pos_weight - 1) * t) * _softplus(-x)


def binary_cross_entropy_with_logits_backward(
    g: Array, x: Array, t: Array, pos_weight: Array | float, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """gx = g ((pos_weight t + 1 - t) s - pos_weight t), which is g (s - t) for pos_weight 1; gt follows from log s."""
    gx = g * ((pos_weight * t + 1 - t) * sigmoid_forward(x) - pos_weight * t) if needs[0] else None
    gt = g * ((pos_weight - 1) * _softplus(-x) - x) if needs[1] else None
    return gx, gt


def _focal_parts(x: Array, t: Array, alpha: float) -> tuple[Array, Array, Array, Array | float]:
    """s = sigmoid(x), the cross-entropy, q = the probability of the wrong answer, and the balance factor."""
    s = sigmoid_forward(x)
    balance = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1.0
    return s, (1 - t) * x + _softplus(-x), s * (1 - t) + (1 - s) * t, balance


def focal_loss_forward(x: Array, t: Array, alpha: float, gamma: float) -> Array:
    """balance * q^gamma * cross-entropy."""
    _, entropy, q, balance = _focal_parts(x, t, alpha)
    return balance * q**gamma * entropy


def focal_loss_backward(
    g: Array, x: Array, t: Array, alpha: float, gamma: float, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """The product rule over the three factors of forward."""
    s, entropy, q, balance = _focal_parts(x, t, alpha)
    power = q**gamma
    slope = gamma * q ** (gamma - 1) if gamma > 0 else 0.0  # d(q^gamma)/dq
    gx = g * balance * ((s - t) * power + entropy * slope * (1 - 2 * t) * s * (1 - s)) if needs[0] else None
    if not needs[1]:
        return gx, None
    gt = balance * (entropy * slope * (1 - 2 * s) - x * power)
    if alpha >= 0:
        gt = gt + (2 * alpha - 1) * power * entropy
    return gx, g * gt
