"""Embedding: a table of vectors, one for each word, item or class."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.backend import default_dtype
from minidl.errors import ArgumentError
from minidl.nn import init
from minidl.nn.init import Rng
from minidl.nn.module import Module
from minidl.ops._arguments import integer
from minidl.tensor import Parameter, Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """Looks up the rows of a table.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: length of a row.
        padding_idx: a row that starts at zero and gets no gradient; negative numbers count from the end.
        rng: generator or seed of the first values.

    Shape:
        index of any shape, integers from 0 to num_embeddings-1; y (*index.shape, embedding_dim);
        weight (num_embeddings, embedding_dim).
    Notes:
        Rows start from the normal distribution N(0, 1). Gradient: ``minidl.embedding``.
    Raises:
        ArgumentError: a size below 1, a padding_idx outside of the table.

    >>> import minidl as md
    >>> from minidl import nn
    >>> nn.Embedding(10, 4, rng=0)(md.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, rng: Rng = None) -> None:
        super().__init__()
        self.num_embeddings = integer("Embedding", "num_embeddings", num_embeddings, 1)
        self.embedding_dim = integer("Embedding", "embedding_dim", embedding_dim, 1)
        if padding_idx is not None:
            row = integer("Embedding", "padding_idx", padding_idx)
            if not -num_embeddings <= row < num_embeddings:
                raise ArgumentError.of("Embedding", f"padding_idx from {-num_embeddings} to {num_embeddings - 1}", str(row))
            padding_idx = row % num_embeddings
        self.padding_idx = padding_idx
        self.weight = Parameter(np.zeros((num_embeddings, embedding_dim), default_dtype()))
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Rng = None) -> None:
        """Draw new first values."""
        init.normal_(self.weight, rng=rng)
        if self.padding_idx is not None:
            values = self.weight.numpy().copy()
            values[self.padding_idx] = 0
            self.weight.data = values

    def forward(self, index: Tensor) -> Tensor:
        """Look up."""
        return F.embedding(index, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """The size of the table."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
