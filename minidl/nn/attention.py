"""Attention: every position of a sequence gathers from the others what it asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backend import default_dtype, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn import init
from minidl.nn.init import Rng
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.ops._arguments import integer, number
from minidl.random import generator
from minidl.tensor import Parameter, Tensor

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Several attentions side by side, each on its own projection of queries, keys and values.

    Args:
        embed_dim: E, the length of the vectors that come in and go out.
        num_heads: how many attentions; it divides embed_dim.
        dropout: probability with which an attention weight is dropped in training.
        bias: whether the projections add one.
        batch_first: whether the batch axis comes first; PyTorch's default is (length, batch, E).
        rng: generator or seed of the first values and of the dropout.

    Formula:
        per head: softmax(q @ k.T / sqrt(E/num_heads) + mask) @ v; the heads' results are joined and projected.
    Shape:
        query (L, N, E), key and value (S, N, E), result (L, N, E), weights (N, L, S);
        with batch_first (N, L, E), (N, S, E), (N, L, E). in_proj_weight (3E, E), in_proj_bias (3E,),
        out_proj.weight (E, E), out_proj.bias (E,), as in PyTorch.
    Notes:
        A query that may look nowhere gives NaN, and the bias of the output projection without ``need_weights``,
        as in PyTorch.
    Raises:
        ArgumentError: num_heads that does not divide embed_dim, dropout outside of [0, 1].
        ShapeError: sequences or masks of other shapes (when called).
    Source:
        Vaswani et al., "Attention Is All You Need", 2017.

    >>> import minidl as md
    >>> from minidl import nn
    >>> attention = nn.MultiheadAttention(8, 2, batch_first=True, rng=0)
    >>> x = md.ones(3, 5, 8)
    >>> y, weights = attention(x, x, x)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        batch_first: bool = False,
        rng: Rng = None,
    ) -> None:
        super().__init__()
        op = "MultiheadAttention"
        self.embed_dim = integer(op, "embed_dim", embed_dim, 1)
        self.num_heads = integer(op, "num_heads", num_heads, 1)
        if embed_dim % num_heads:
            raise ArgumentError.of(op, f"embed_dim divisible by num_heads={num_heads}", str(embed_dim))
        self.dropout = number(op, "dropout", dropout, 0, 1)
        self.batch_first = bool(batch_first)
        self.rng: np.random.Generator | None = None if rng is None else generator(rng)
        self.in_proj_weight = Parameter(np.zeros((3 * embed_dim, embed_dim), default_dtype()))
        self.register_parameter("in_proj_bias", Parameter(np.zeros(3 * embed_dim, default_dtype())) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, rng=self.rng)
        self.reset_parameters(self.rng)

    def reset_parameters(self, rng: Rng = None) -> None:
        """Draw new first values; biases 0."""
        rng = generator(rng)
        init.xavier_uniform_(self.in_proj_weight, rng=rng)
        self.out_proj.reset_parameters(rng)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query, key, value: the sequences.
            key_padding_mask: (N, S), true at keys to leave out, or numbers to add to their scores.
            need_weights: also return the attention weights, which costs their memory.
            attn_mask: (L, S) or (N*num_heads, L, S), true where a query must not look, or numbers to add.
            average_attn_weights: the weights as their mean over the heads, else one set for each head.
            is_causal: let no query look at later keys.

        Returns:
            The result, and the weights (N, L, S) or (N, num_heads, L, S), or None.
        """
        query, key, value = self._batch_first(query, key, value)
        N, L, E = query.shape
        S = key.shape[1]
        q, k, v = self._project(query, key, value)
        q, k, v = (t.reshape(N, -1, self.num_heads, E // self.num_heads).transpose(0, 2, 1, 3) for t in (q, k, v))
        mask = self._mask(key_padding_mask, attn_mask, is_causal, N, L, S, query)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(E // self.num_heads))) @ k.transpose(0, 1, 3, 2)
            weights = F.softmax(scores if mask is None else scores + mask, axis=-1)
            weights = F.dropout(weights, p, self.training, self.rng)
            y = weights @ v
            if average_attn_weights:
                weights = weights.mean(axis=1)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p, rng=self.rng)
        y = self.out_proj(y.transpose(0, 2, 1, 3).reshape(N, L, E))
        return (y if self.batch_first else y.transpose(1, 0, 2)), weights

    def _batch_first(self, *sequences: Tensor) -> list[Tensor]:
        """The three sequences as (N, length, E), checked."""
        letters = "(N, length, E)" if self.batch_first else "(length, N, E)"
        for name, x in zip(("query", "key", "value"), sequences):
            if x.ndim != 3 or x.shape[2] != self.embed_dim:
                raise ShapeError.of("multihead_attention", f"{name} of shape {letters} with E={self.embed_dim}", f"{x.shape}")
        turned = {id(x): x if self.batch_first else x.transpose(1, 0, 2) for x in sequences}  # one tensor stays one
        query, key, value = (turned[id(x)] for x in sequences)
        if key.shape != value.shape or key.shape[0] != query.shape[0]:
            got = f"query {sequences[0].shape}, key {sequences[1].shape}, value {sequences[2].shape}"
            raise ShapeError.of("multihead_attention", f"key and value alike, and one batch size in {letters}", got)
        return [query, key, value]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:  # one product instead of three
            return F.split(F.linear(query, weight, bias), 3, axis=2)
        weights = F.split(weight, 3, axis=0)
        biases = [None] * 3 if bias is None else F.split(bias, 3, axis=0)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]

    def _mask(self, padding: Any, attn: Any, is_causal: bool, N: int, L: int, S: int, like: Tensor) -> Tensor | None:
        """All masks as one array of numbers to add to the scores (N, heads, L, S): -inf where nobody may look."""
        parts = []
        if padding is not None:
            parts.append(_additive("key_padding_mask", padding, [(N, S)], like).reshape(N, 1, 1, S))
        if attn is not None:
            heads = self.num_heads
            given = _additive("attn_mask", attn, [(L, S), (N * heads, L, S)], like)
            parts.append(given if given.ndim == 2 else given.reshape(N, heads, L, S))
        if is_causal:
            seen = xp_of(like._array).tri(L, S, dtype=bool)
            parts.append(_additive("is_causal", Tensor.wrap(~seen), [(L, S)], like))
        if not parts:
            return None
        return Tensor.wrap(sum(parts[1:], parts[0]))


def _additive(name: str, mask: Any, shapes: list[tuple[int, ...]], like: Tensor) -> Any:
    """A mask as an array of numbers to add: true becomes -inf."""
    array = (mask if isinstance(mask, Tensor) else Tensor(mask, device=like.device))._array
    if array.shape not in shapes:
        raise ShapeError.of("multihead_attention", f"{name} of shape {' or '.join(map(str, shapes))}", f"{array.shape}")
    if array.dtype.kind == "b":
        xp = xp_of(array)
        return xp.where(array, like.dtype.type(-math.inf), like.dtype.type(0))
    if array.dtype.kind != "f":
        raise DtypeError.of("multihead_attention", f"{name} of booleans or floats", str(array.dtype))
    return array.astype(like.dtype)
