"""Products of vectors, matrices and tensors."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.kernels.generic import sum_to
from minidl.ops._arguments import describe, tensor
from minidl.ops.elementwise import common_float
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["einsum", "matmul", "outer"]


# ---------------------------------------------------------------- matmul


def _rows(x: Array) -> Array:
    """The vectors along the last axis as the rows of one matrix."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product(x: Array, y: Array) -> Array:
    """x @ y; as one large product where y is a single matrix."""
    if x.ndim > 2 and y.ndim == 2:
        return kernels_for(x).matmul(_rows(x), y).reshape(*x.shape[:-1], y.shape[-1])
    return kernels_for(x).matmul(x, y)


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
                gy = _product(_rows(x2).T, _rows(gz))
            else:
                gy = sum_to(_product(x2.swapaxes(-1, -2), gz), y2.shape)
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
        ErrorSample(
            ShapeError,
            r"matmul: expected x's last size to equal y's last but one, got \(2, 3\) and \(4, 2\)",
            draw.normal(2, 3),
            draw.normal(4, 2),
        ),
        ErrorSample(
            ShapeError,
            r"matmul: expected batch axes that broadcast, got \(2, 3, 4\) and \(3, 4, 2\)",
            draw.normal(2, 3, 4),
            draw.normal(3, 4, 2),
        ),
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
        hint = "Transpose the second: x @ y.T." if len(b) == 2 and a[-1] == b[-1] else ""
        raise ShapeError.of("matmul", "x's last size to equal y's last but one", f"{a} and {b}", hint)
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
        z = _product(arranged(x, a, batch, left, summed), arranged(y, b, batch, summed, right))
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


def _diagonal(xp: ModuleType, shape: tuple[int, ...], labels: Labels) -> tuple[Array, ...]:
    """The index that picks the elements whose positions along equally labelled axes agree."""
    unique = _unique(labels)
    return tuple(xp.arange(n).reshape([-1 if c == label else 1 for c in unique]) for n, label in zip(shape, labels))


def _diagonals(arrays: Sequence[Array | None], inputs: list[Labels]) -> list[Array | None]:
    """The arrays with every label once: of an axis pair with one label, the diagonal."""
    return [
        x if x is None or _unique(labels) == labels else x[_diagonal(xp_of(x), x.shape, labels)]
        for x, labels in zip(arrays, inputs)
    ]


class Einsum(Function):
    """z = sum of products, by labels."""

    @staticmethod
    def forward(ctx: Any, *arrays: Array, inputs: list[Labels], output: Labels) -> Array:
        ctx.inputs, ctx.output, ctx.shapes = inputs, output, [x.shape for x in arrays]
        if len(arrays) > 1:
            ctx.save(*arrays)
        return _contract(_diagonals(arrays, inputs), list(map(_unique, inputs)), output)

    @staticmethod
    def backward(ctx: Any, gz: Array) -> tuple:
        arrays = _diagonals(ctx.saved, ctx.inputs)
        return tuple(_operand_gradient(ctx, gz, arrays, i) if needed else None for i, needed in enumerate(ctx.needs))


def _operand_gradient(ctx: Any, gz: Array, arrays: list[Array | None], i: int) -> Array:
    """gz times all other operands, summed over the labels that operand i does not have."""
    xp, shape, labels = xp_of(gz), ctx.shapes[i], ctx.inputs[i]
    unique = _unique(labels)
    sizes = tuple(shape[labels.index(c)] for c in unique)
    terms = [ctx.output, *(_unique(a) for j, a in enumerate(ctx.inputs) if j != i)]
    found = "".join(c for c in unique if any(c in term for term in terms))
    g = _contract([gz, *(x for j, x in enumerate(arrays) if j != i)], terms, found)
    g = g.reshape([g.shape[found.index(c)] if c in found else 1 for c in unique])
    g = sum_to(g, tuple(1 if n == 1 else m for n, m in zip(sizes, g.shape)))
    if g.shape != sizes:  # a label of operand i alone was summed: every element along it gets the same
        g = xp.broadcast_to(g, sizes)
    if unique == labels:
        return g
    gx = xp.zeros(shape, gz.dtype)
    gx[_diagonal(xp, shape, labels)] = g
    return gx


def _parse(subscripts: str, shapes: list[tuple[int, ...]]) -> tuple[list[Labels], Labels]:
    """One letter per axis of every operand and of the result."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ArgumentError.of(
            "einsum", f"one term per operand in {subscripts!r}", f"{len(terms)} terms for {len(shapes)} operands"
        )
    letters = "".join(terms).replace("...", "")
    free = [c for c in string.ascii_letters if c not in letters + output]
    inputs, dots = [], ""  # dots: the letters that stand for "...", the last axis' letter first chosen
    for term, shape in zip(terms, shapes):
        before, ellipsis, after = term.partition("...")
        named = before + after
        if not all(c in string.ascii_letters for c in named):
            raise ArgumentError.of("einsum", "letters, commas, '...' and one '->'", repr(subscripts))
        extra = len(shape) - len(named)
        if extra < 0 or (extra and not ellipsis):
            raise ShapeError.of("einsum", f"{len(named)} axes for {term!r}", f"shape {shape}")
        own = "".join(reversed(free[:extra]))
        dots = max(dots, own, key=len)
        inputs.append(before + own + after)
    if arrow:
        output = output.replace("...", dots, 1)
    else:
        output = dots + "".join(sorted(c for c, n in Counter(letters).items() if n == 1))
    if len(set(output)) != len(output) or not all(any(c in labels for labels in inputs) for c in output):
        raise ArgumentError.of("einsum", "every letter of the result once, and in an operand", repr(subscripts))
    _check_sizes(subscripts, inputs, shapes)
    return inputs, output


def _check_sizes(subscripts: str, inputs: list[Labels], shapes: list[tuple[int, ...]]) -> None:
    sizes: dict[str, int] = {}
    for labels, shape in zip(inputs, shapes):
        for c, n in zip(labels, shape):
            repeated = labels.count(c) > 1 and shape[labels.index(c)] != n
            if repeated or (n != 1 and sizes.setdefault(c, n) != n):
                raise ShapeError.of("einsum", f"one size for {c!r} in {subscripts!r}", " and ".join(map(str, shapes)))


def _einsum_samples(draw: Draw) -> list[Sample]:
    a, b, c, d = draw.normal(2, 3), draw.normal(3, 4), draw.normal(2, 3, 4), draw.normal(3, 3)
    calls: list[tuple] = [
        ("ij,jk->ik", a, b),
        ("ij,jk", a, b),
        ("ijk,ij->ik", c, a),
        ("ij,ij->", a, draw.normal(2, 3)),
        ("bij,bjk->bik", c, draw.normal(2, 4, 2)),
        ("i,j->ij", draw.normal(2), draw.normal(3)),
        ("ij->ji", a),
        ("ijk->j", c),
        ("ij,kl->ik", a, b),
        ("ii->i", d),
        ("ii", d),
        ("iji,ij->j", draw.normal(3, 2, 3), draw.normal(3, 2)),
        ("ij,jk,kl->il", a, b, draw.normal(4, 2)),
        ("a...b,b->...a", c, draw.normal(4)),
        ("...ij,...jk", draw.normal(2, 1, 2, 3), draw.normal(5, 3, 2)),
        ("ij,ij->ij", a, draw.normal(1, 3)),
        ("ij,ij->i", draw.normal(2, 1), a),
        ("ij,j->i", draw.normal(0, 3), draw.normal(3)),
    ]
    return [Sample(*call, name=f"{i} {call[0]}") for i, call in enumerate(calls)]


def _einsum_flops(z: Array, *arrays: Array, inputs: list[Labels], output: Labels) -> int:
    sizes = {c: n for labels, x in zip(inputs, arrays) for c, n in zip(labels, x.shape)}
    return len(arrays) * math.prod(sizes.values())


@op(
    samples=_einsum_samples,
    oracle=np.einsum,
    flops=_einsum_flops,
    methods=(),
    errors=lambda draw: [
        ErrorSample(
            ShapeError,
            r"einsum: expected one size for 'j' in 'ij,jk->ik', got \(2, 3\) and \(4, 2\)",
            "ij,jk->ik",
            draw.normal(2, 3),
            draw.normal(4, 2),
        ),
        ErrorSample(ShapeError, "einsum: expected one size for 'i'", "ii->i", draw.normal(1, 3)),
        ErrorSample(ShapeError, r"einsum: expected 3 axes for 'ijk', got shape \(2, 3\)", "ijk->i", draw.normal(2, 3)),
        ErrorSample(
            ArgumentError,
            "einsum: expected one term per operand in 'ij,jk', got 2 terms for 1 operands",
            "ij,jk",
            draw.normal(2, 3),
        ),
        ErrorSample(ArgumentError, "einsum: expected every letter of the result once", "ij->iij", draw.normal(2, 3)),
        ErrorSample(ArgumentError, "einsum: expected every letter of the result once", "...->a", draw.normal(2)),
        ErrorSample(ArgumentError, "einsum: expected letters, commas", "i1->i", draw.normal(2, 3)),
        ErrorSample(DtypeError, "einsum: expected subscripts as text", draw.normal(2, 3), "ij"),
    ],
)
def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Sum of products in Einstein's notation: one letter per axis, equal letters run together.

    Formula:
        "ij,jk->ik": z[i, k] = sum_j x[i, j] y[j, k]
    Shape:
        Letters behind ``->`` are the axes of z, all others are summed. Without ``->``, z has the letters
        that occur once, in alphabetical order. ``...`` stands for any further axes, which broadcast. A letter
        twice in one operand means its diagonal.
    Gradient:
        dL/dx = einsum of dL/dz and all other operands, with the letters of x as result.
    Notes:
        Operands are multiplied from left to right, each pair as one batched matrix product.
    Raises:
        ArgumentError: subscripts that cannot be read.
        ShapeError: a letter with two sizes.
        DtypeError: subscripts that are no text.

    >>> import minidl as md
    >>> md.einsum("ij,j->i", md.tensor([[1.0, 2.0], [3.0, 4.0]]), md.tensor([10.0, 1.0]))
    tensor([12., 34.])
    """
    if not isinstance(subscripts, str):
        raise DtypeError.of("einsum", "subscripts as text such as 'ij,jk->ik'", describe(subscripts))
    tensors = common_float(*(tensor("einsum", x, f"operands[{i}]") for i, x in enumerate(operands)))
    inputs, output = _parse(subscripts, [t.shape for t in tensors])
    return Einsum.apply(*tensors, inputs=inputs, output=output)


@op(
    samples=lambda draw: [Sample(draw.normal(2), draw.normal(3))],
    oracle=np.outer,
    flops=lambda z, x, y: z.size,
    methods=("outer",),
    errors=lambda draw: [
        ErrorSample(ShapeError, r"outer: expected two vectors, got \(2, 3\) and \(3,\)", draw.normal(2, 3), draw.normal(3))
    ],
)
def outer(x: Any, y: Any) -> Tensor:
    """All products of the elements of two vectors.

    Formula:
        z[i, j] = x[i] y[j]
    Shape:
        x (n,) and y (m,) give z (n, m).
    Gradient:
        dL/dx = dL/dz @ y and dL/dy = x @ dL/dz
    Raises:
        ShapeError: anything but two vectors.

    >>> import minidl as md
    >>> md.outer(md.tensor([1.0, 2.0]), md.tensor([3.0, 4.0]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    x, y = tensor("outer", x), tensor("outer", y, "y")
    if x.ndim != 1 or y.ndim != 1:
        raise ShapeError.of("outer", "two vectors", f"{x.shape} and {y.shape}")
    return einsum("i,j->ij", x, y)
