"""Attention: every query looks at all keys and takes the mean of their values, weighted by how well they match."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import number, real_tensor, same_dtype, tensor
from minidl.ops.activation import softmax
from minidl.ops.compare import where
from minidl.ops.dropout import Rng, dropout
from minidl.ops.elementwise import add, multiply
from minidl.ops.linalg import matmul
from minidl.ops.shape import swapaxes
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["scaled_dot_product_attention"]


def _oracle(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    rng: Any = None,
) -> np.ndarray:
    """One query after the other."""
    L, S = q.shape[-2], k.shape[-2]
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(a, batch + a.shape[-2:]) for a in (q, k, v))
    mask = np.zeros((*batch, L, S))
    if attn_mask is not None:
        mask = mask + (np.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype.kind == "b" else attn_mask)
    keep = 1.0
    if dropout_p:
        keep = (np.random.default_rng(rng).random(mask.shape, dtype=np.float32) >= dropout_p) / (1 - dropout_p)
    p = np.zeros(mask.shape)
    for place in np.ndindex(*batch, L):
        seen = np.flatnonzero(mask[place] > -np.inf)
        if is_causal:
            seen = seen[seen <= place[-1]]
        e = [math.exp(q[place] @ k[place[:-1]][j] * (scale or q.shape[-1] ** -0.5) + mask[place][j]) for j in seen]
        p[place][seen] = np.array(e) / sum(e) if e else 0.0
    return (p * keep) @ v


def _samples(draw: Draw) -> list[Sample]:
    def qkv(*lead: int) -> tuple[np.ndarray, ...]:
        return draw.normal(*lead, 3, 4), draw.normal(*lead, 5, 4), draw.normal(*lead, 5, 2)

    keep = np.array([[True, False, True, True, False], [True] * 5, [False, False, True, False, False]])
    nothing = np.array([[True] * 5, [False] * 5, [True, False, True, True, False]])
    return [
        Sample(*qkv()),
        Sample(*qkv(2, 2), name="batch"),
        Sample(draw.normal(2, 3, 4), draw.normal(1, 5, 4), draw.normal(5, 2), name="broadcast"),
        Sample(*qkv(2), keep, name="boolean mask"),
        Sample(*qkv(2), draw.normal(2, 3, 5), name="added mask"),
        Sample(*qkv(), np.where(nothing, 0.5, -np.inf), grad=(0, 1, 2), name="infinite mask"),
        Sample(*qkv(2), nothing, scale=0.3, name="query that sees nothing"),
        Sample(*qkv(), is_causal=True, name="causal"),
        Sample(*qkv(2), None, 0.4, rng=3, name="dropout"),
        Sample(draw.normal(0, 3, 4), draw.normal(0, 5, 4), draw.normal(0, 5, 2), name="empty"),
    ]


def _errors(draw: Draw) -> list[ErrorSample]:
    q, k, v = draw.normal(2, 3, 4), draw.normal(2, 5, 4), draw.normal(2, 5, 2)
    return [
        ErrorSample(ShapeError, r"q \(..., L, E\), k \(..., S, E\) and v \(..., S, Ev\), got \(4,\)", draw.normal(4), k, v),
        ErrorSample(ShapeError, r"k \(..., S, E\).* got \(2, 3, 4\), \(2, 5, 3\)", q, draw.normal(2, 5, 3), v),
        ErrorSample(ShapeError, r"v \(..., S, Ev\), got", q, k, draw.normal(2, 6, 2)),
        ErrorSample(ShapeError, "leading axes that broadcast", q, draw.normal(3, 5, 4), v),
        ErrorSample(ShapeError, r"attn_mask that broadcasts to \(2, 3, 5\), got shape \(5, 3\)", q, k, v, draw.normal(5, 3)),
        ErrorSample(DtypeError, "attn_mask of booleans or of q's dtype, got int64", q, k, v, np.ones((3, 5), int)),
        ErrorSample(ArgumentError, "attn_mask or is_causal, got both", q, k, v, np.ones((3, 5), bool), is_causal=True),
        ErrorSample(ArgumentError, "dropout_p within 0 to 1", q, k, v, dropout_p=1.1),
        ErrorSample(DtypeError, "scale as a number", q, k, v, scale="1"),
        ErrorSample(DtypeError, "q of float32 or float64", np.ones((2, 3, 4), int), k, v),
        ErrorSample(DtypeError, "one dtype", q, k, Tensor(v.astype(np.float32))),
    ]


@op(samples=_samples, oracle=_oracle, errors=_errors)
def scaled_dot_product_attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    rng: Rng = None,
) -> Tensor:
    """Attention of queries q to keys k with values v.

    Formula:
        y = softmax(scale * q k^T + mask) v, the softmax running over the keys; scale is 1/sqrt(E) by default
    Shape:
        q (..., L, E), k (..., S, E), v (..., S, Ev), y (..., L, Ev); the leading axes broadcast. attn_mask
        broadcasts to (..., L, S): booleans, True where a query may look, or numbers to add to the scores.
    Gradient:
        With p the softmax and g = dL/dy: dL/dv = p^T g, and with dp = g v^T the scores get
        ds = p * (dp - sum over the keys of p * dp); dL/dq = scale * ds k and dL/dk = scale * ds^T q, summed over
        repeated axes. An added mask gets ds.
    Notes:
        is_causal lets query i look at keys 0 to i only. A query that may look nowhere gives 0 and no gradient,
        as in PyTorch. dropout_p drops attention weights whenever it is not 0: pass 0 in evaluation.
    Raises:
        ShapeError: shapes that do not fit.
        DtypeError: integers, mixed dtypes, a mask of neither booleans nor q's dtype.
        ArgumentError: attn_mask together with is_causal; dropout_p outside of [0, 1].
    Source:
        Vaswani et al., "Attention Is All You Need", 2017.

    >>> import minidl as md
    >>> k = v = md.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> md.scaled_dot_product_attention(md.tensor([[2.0, 0.0]]), k, v)
    tensor([[0.8044, 0.1956]])
    """
    name = "scaled_dot_product_attention"
    q, k, v = real_tensor(name, q, "q"), real_tensor(name, k, "k"), real_tensor(name, v, "v")
    same_dtype(name, q=q, k=k, v=v)
    shape = _check_shapes(name, q, k, v)
    dropout_p = number(name, "dropout_p", dropout_p, 0, 1)
    scale = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else number(name, "scale", scale)
    if attn_mask is not None and is_causal:
        raise ArgumentError.of(name, "attn_mask or is_causal", "both", "Put the causal triangle into attn_mask.")
    mask = None if attn_mask is None else _check_mask(name, attn_mask, q, shape)
    scores = matmul(multiply(q, scale), swapaxes(k, -1, -2))
    if is_causal:
        scores = where(Tensor.wrap(xp_of(q._array).tri(*shape[-2:], dtype=bool)), scores, -math.inf)
    if mask is None:
        p = softmax(scores)
    else:
        p = _softmax_or_zero(where(mask, scores, -math.inf) if mask.dtype.kind == "b" else add(scores, mask))
    return matmul(dropout(p, dropout_p, rng=rng), v)


def _softmax_or_zero(scores: Tensor) -> Tensor:
    """The softmax over the last axis; where all scores are -inf, whose softmax would be NaN, 0."""
    blind = Tensor.wrap((scores._array == -math.inf).all(-1, keepdims=True))
    if isinstance(blind._array, np.ndarray) and not blind._array.any():  # on a GPU, to look would mean to wait
        return softmax(scores)
    return where(blind, 0.0, softmax(where(blind, 0.0, scores)))


def _check_shapes(name: str, q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    """The shape of the scores, (..., L, S)."""
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if not fits:
        got = f"{q.shape}, {k.shape}, {v.shape}"
        raise ShapeError.of(name, "q (..., L, E), k (..., S, E) and v (..., S, Ev)", got)
    try:
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        np.broadcast_shapes(lead, v.shape[:-2])
    except ValueError:
        raise ShapeError.of(name, "leading axes that broadcast", f"{q.shape}, {k.shape}, {v.shape}") from None
    return (*lead, q.shape[-2], k.shape[-2])


def _check_mask(name: str, attn_mask: Any, q: Tensor, shape: tuple[int, ...]) -> Tensor:
    mask = tensor(name, attn_mask, "attn_mask")
    if mask.dtype.kind != "b" and mask.dtype != q.dtype:
        hint = "Convert with .astype(bool), or with .astype(q.dtype) if it is to be added."
        raise DtypeError.of(name, "attn_mask of booleans or of q's dtype", str(mask.dtype), hint)
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError.of(name, f"attn_mask that broadcasts to {shape}", f"shape {mask.shape}")
    return mask
