"""Products of vectors, matrices and tensors."""

from __future__ import annotations

import math
import string
from collections import Counter
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import axes_tuple, describe, float_tensor, tensor
from minidl.ops.elementwise import common_float
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["einsum", "matmul", "norm", "outer"]


# ---------------------------------------------------------------- matmul


def _rows(x: Array) -> Array:
    """The vectors along the last axis as the rows of one matrix."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product(x: Array, y: Array) -> Array:
    """x @ y; as one large product where y is a single matrix."""
    if x.ndim > 2 and y.ndim == 2:
        return (_rows(x) @ y).reshape(*x.shape[:-1], y.shape[-1])
    return x @ y


class Matmul(Function):
    """z = x @ y."""

    @staticmethod
    def forward(ctx: Any, x: Array, y: Array) -> Array:
        ctx.save(x, y)
        return _product(x, y)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        """gx = gz @ y^T and gy = x^T @ gz, with a vector as a matrix of one row (x) or one column (y)."""
        x, y = ctx.saved
        xp = xp_of(gz)
        if y.ndim == 1:
            gz = xp.expand_dims(gz, -1)
        if x.ndim == 1:
            gz = xp.expand_dims(gz, -2)
        if 0 in gz.strides:  # a broadcast view, which BLAS cannot read
            gz = xp.ascontiguousarray(gz)
        x2, y2 = x[None] if x.ndim == 1 else x, y[:, None] if y.ndim == 1 else y
        gx = gy = None
        if ctx.needs[0]:
            gx = sum_to(_product(gz, y2.swapaxes(-1, -2)), x2.shape).reshape(x.shape)
        if ctx.needs[1]:
            if x2.ndim > 2 and y2.ndim == 2:
                gy = _rows(x2).T @ _rows(gz)
            else:
                gy = sum_to(x2.swapaxes(-1, -2) @ gz, y2.shape)
            gy = gy.reshape(y.shape)
        return gx, gy


def _matmul_oracle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All products, then their sums."""
    x2, y2 = x[None] if x.ndim == 1 else x, y[:, None] if y.ndim == 1 else y
    z = (x2[..., :, :, None] * y2[..., None, :, :]).sum(-2)
    return z.squeeze(tuple(axis for axis, operand in ((-2, x), (-1, y)) if operand.ndim == 1))


@op(
    samples=lambda draw: [
        Sample(draw.normal(3, 4), draw.normal(4, 2)),
        Sample(draw.normal(2, 3, 4), draw.normal(2, 4, 2), name="batch"),
        Sample(draw.normal(2, 1, 3, 4), draw.normal(5, 4, 2), name="broadcast batch"),
        Sample(draw.normal(2, 2, 3, 4), draw.normal(4, 2), name="one right matrix"),
        Sample(draw.normal(3, 4), draw.normal(2, 4, 2), name="one left matrix"),
        Sample(draw.normal(4), draw.normal(4), name="vectors"),
        Sample(draw.normal(4), draw.normal(2, 4, 3), name="vector first"),
        Sample(draw.normal(2, 3, 4), draw.normal(4), name="vector last"),
        Sample(draw.normal(3, 0), draw.normal(0, 2), name="nothing to sum"),
        Sample(draw.normal(0, 3, 4), draw.normal(4, 2), name="empty batch"),
    ],
    oracle=_matmul_oracle,
    flops=lambda z, x, y: 2 * z.size * x.shape[-1],
    methods=("matmul", "__matmul__"),
    errors=lambda draw: [
        ErrorSample(ShapeError, r"matmul: expected x's last size to equal y's last but one, got \(2, 3\) and \(4, 2\)", draw.normal(2, 3), draw.normal(4, 2)),
        ErrorSample(ShapeError, r"matmul: expected batch axes that broadcast, got \(2, 3, 4\) and \(3, 4, 2\)", draw.normal(2, 3, 4), draw.normal(3, 4, 2)),
        ErrorSample(ShapeError, "matmul: expected at least one axis each", draw.normal(2, 3), 2.0),
    ],
)
def matmul(x: Any, y: Any) -> Tensor:
    """Matrix product over the last two axes, with broadcasting over the others; the operator ``@``.

    Formula:
        z[i, j] = sum_k x[i, k] y[k, j]
    Shape:
        x (..., n, k) and y (..., k, m) give (..., n, m). A vector x counts as one row, a vector y as one
        column, and that axis is missing in z.
    Gradient:
        dL/dx = dL/dz @ y^T and dL/dy = x^T @ dL/dz, summed over repeated axes.
    Raises:
        ShapeError: sizes that do not fit.

    >>> import minidl as md
    >>> md.matmul(md.tensor([[1.0, 2.0], [3.0, 4.0]]), md.tensor([10.0, 1.0]))
    tensor([12., 34.])
    """
    x, y = common_float(tensor("matmul", x, "x"), tensor("matmul", y, "y"))
    a, b = x.shape, y.shape
    if not a or not b:
        raise ShapeError.of("matmul", "at least one axis each", f"{a} and {b}", "Multiply by a number with *.")
    if a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ShapeError.of("matmul", "x's last size to equal y's last but one", f"{a} and {b}")
    if any(m != n and m != 1 and n != 1 for m, n in zip(reversed(a[:-2]), reversed(b[:-2]))):
        raise ShapeError.of("matmul", "batch axes that broadcast", f"{a} and {b}")
    return Matmul.apply(x, y)


# ---------------------------------------------------------------- einsum

Labels = str  # one letter per axis


def _sum_out(x: Array, labels: Labels, keep: Labels) -> tuple[Array, Labels]:
    """x summed over the axes whose labels nobody needs any more."""
    axes = tuple(i for i, c in enumerate(labels) if c not in keep)
    return (x.sum(axes), "".join(c for c in labels if c in keep)) if axes else (x, labels)


def _contract_pair(x: Array, a: Labels, y: Array, b: Labels, keep: Labels) -> tuple[Array, Labels]:
    """The product of two arrays, summed over the labels not in ``keep``: one batched matrix product."""
    alone = {c for c in a if c in b and x.shape[a.index(c)] != y.shape[b.index(c)]}  # of size 1 in one of them
    x, a = _sum_out(x, a, "".join(c for c in a if c not in alone or x.shape[a.index(c)] != 1))
    y, b = _sum_out(y, b, "".join(c for c in b if c not in alone or y.shape[b.index(c)] != 1))
    x, a = _sum_out(x, a, b + keep)
    y, b = _sum_out(y, b, a + keep)
    both = [c for c in a if c in b]
    batch, summed = [c for c in both if c in keep], [c for c in both if c not in keep]
    left, right = [c for c in a if c not in b], [c for c in b if c not in a]
    size = dict(zip(a + b, x.shape + y.shape))

    def arranged(z: Array, labels: Labels, *groups: list[str]) -> Array:
        order = [labels.index(c) for group in groups for c in group]
        return z.transpose(order).reshape([math.prod(size[c] for c in group) for group in groups])

    if summed and (left or right):
        z = arranged(x, a, batch, left, summed) @ arranged(y, b, batch, summed, right)
    elif summed:
        z = (arranged(x, a, batch, summed) * arranged(y, b, batch, summed)).sum(1)
    else:
        z = arranged(x, a, batch, left, []) * arranged(y, b, batch, [], right)
    labels = [*batch, *left, *right]
    return z.reshape([size[c] for c in labels]), "".join(labels)


def _contract(arrays: list[Array], inputs: list[Labels], output: Labels) -> Array:
    """The arrays multiplied from left to right, each label summed as soon as nobody needs it."""
    x, labels = arrays[0], inputs[0]
    for i in range(1, len(arrays)):
        x, labels = _contract_pair(x, labels, arrays[i], inputs[i], "".join(inputs[i + 1 :]) + output)
    x, labels = _sum_out(x, labels, output)
    return x.transpose([labels.index(c) for c in output])


def _unique(labels: Labels) -> Labels:
    return "".join(dict.fromkeys(labels))


def _diagonal(x: Array, labels: Labels) -> Any:
    """The index that picks the elements of x whose positions along equally labelled axes agree."""
    unique = _unique(labels)
    return tuple(
        xp_of(x).arange(n).reshape([-1 if c == label else 1 for c in unique]) for n, label in zip(x.shape, labels)
    )


class Einsum(Function):
    """z = sum of products, by labels."""

    @staticmethod
    def forward(ctx: Any, *arrays: Array, inputs: list[Labels], output: Labels) -> Array:
        ctx.inputs, ctx.output, ctx.shapes = inputs, output, [x.shape for x in arrays]
        ctx.save(*(arrays if len(arrays) > 1 else (None,)))  # None: z may be a view, see ops/shape.py
        arrays = tuple(x if len(set(a)) == len(a) else x[_diagonal(x, a)] for x, a in zip(arrays, inputs))
        return _contract(list(arrays), [_unique(a) for a in inputs], output)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        """gx is gz times all other operands, summed over the labels that x does not have."""
        xp, grads = xp_of(gz), []
        arrays = [x if x is None or len(set(a)) == len(a) else x[_diagonal(x, a)] for x, a in zip(ctx.saved, ctx.inputs)]
        for i, (labels, shape) in enumerate(zip(ctx.inputs, ctx.shapes)):
            if not ctx.needs[i]:
                grads.append(None)
                continue
            unique = _unique(labels)
            sizes = [shape[labels.index(c)] for c in unique]
            others = [ctx.output, *(_unique(a) for j, a in enumerate(ctx.inputs) if j != i)]
            found = "".join(c for c in unique if any(c in a for a in others))
            g = _contract([gz, *(x for j, x in enumerate(arrays) if j != i)], others, found)
            g = g.reshape([g.shape[found.index(c)] if c in found else 1 for c in unique])
            g = xp.broadcast_to(sum_to(g, tuple(1 if n == 1 else m for n, m in zip(sizes, g.shape))), sizes)
            if unique != labels:
                diagonal, g = g, xp.zeros(shape, gz.dtype)
                g[tuple(xp.arange(n).reshape([-1 if c == label else 1 for c in unique]) for n, label in zip(shape, labels))] = diagonal
            grads.append(g)
        return tuple(grads)


def _parse(subscripts: Any, shapes: list[tuple[int, ...]]) -> tuple[list[Labels], Labels]:
    """One letter per axis of every operand and of the result."""
    if not isinstance(subscripts, str):
        raise DtypeError.of("einsum", "subscripts as text such as 'ij,jk->ik'", describe(subscripts))
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ArgumentError.of("einsum", f"one term per operand in {subscripts!r}", f"{len(terms)} terms for {len(shapes)} operands")
    letters = "".join(terms).replace("...", "")
    free = [c for c in string.ascii_letters if c not in letters]
    dots = ""  # the letters that stand for "..."
    inputs = []
    for term, shape in zip(terms, shapes):
        before, ellipsis, after = term.partition("...")
        extra = len(shape) - len(before + after)
        if not all(c in string.ascii_letters for c in before + after):
            raise ArgumentError.of("einsum", "letters, commas, '...' and one '->'", repr(subscripts))
        if extra < 0 or (extra and not ellipsis):
            raise ShapeError.of("einsum", f"{len(before + after)} axes for {term!r}", f"shape {shape}")
        dots = max(dots, "".join(reversed(free[:extra])), key=len)
        inputs.append(before + "".join(reversed(free[:extra])) + after)
    if arrow:
        output = output.replace("...", dots, 1)
    else:
        once = sorted(c for c, n in Counter(letters).items() if n == 1)
        output = dots + "".join(once)
    known = "".join(inputs)
    if len(set(output)) != len(output) or not all(c in known for c in output):
        raise ArgumentError.of("einsum", "every letter of the result once, and in an operand", repr(subscripts))
    sizes: dict[str, int] = {}
    for labels, shape in zip(inputs, shapes):
        within: dict[str, int] = {}
        for c, n in zip(labels, shape):
            if sizes.get(c, 1) not in (1, n) and n != 1 or within.setdefault(c, n) != n:
                raise ShapeError.of("einsum", f"one size for {c!r} in {subscripts!r}", ", ".join(map(str, shapes)))
            sizes[c] = max(n, sizes.get(c, 1)) if n else 0
    return inputs, output
