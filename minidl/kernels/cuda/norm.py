"""Normalisation on the GPU: one set of kernels for batch, group and instance norm, two for layer norm.

As on the CPU, every case is x (pieces, pixels, channels) with the channels innermost: pieces are normalised on their own,
and the channels fall into groups of neighbours. Batch norm is one piece with a group per channel. Forward sums
x - shift and its square, joins the sums of all blocks in order, and writes y in a second pass; backward does likewise.
What ReLU stops is read from y where there was a residual, else y is computed again. With one pixel, as in layer norm,
each group is a row, which has a thread, a warp or a block to itself.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._norm import NORM
from minidl.kernels.cuda._passes import COLUMNS, MAP, ROWS, column_blocks, in_order_of, innermost, on_rows, packed

__all__ = ["batch_norm_backward", "batch_norm_forward", "group_norm_backward", "group_norm_forward", "update_moments"]

Needs = tuple[bool, bool, bool]  # whether the gradients of x, weight and bias are asked for
Grads = tuple[Array | None, Array | None, Array | None]

ALL, COMPUTED, READ = 0, 1, 2  # where backward lets gy pass: everywhere, or where y, computed again or read, is above 0

source = Source(MAP + ROWS + COLUMNS + NORM)


class _Sizes:
    """x as (pieces, pixels, channels), K channels to a group, and the launch that fits it."""

    def __init__(self, x: Array, pieces: int, groups: int, *others: Array | None) -> None:
        self.pieces, self.channels, self.groups = pieces, x.shape[1], groups
        self.pixels = x.size // (pieces * self.channels)
        self.K = self.channels // groups
        self.lanes = packed(self.channels, x, *others)
        self.grid, self.block = column_blocks(pieces, self.pixels, self.channels, self.lanes)
        self.splits = self.grid[1]
        self.args = self.pixels, self.channels, self.K, self.lanes

    def partial(self, x: Array) -> Array:
        """Room for the sums."""
        return xp_of(x).empty((self.pieces, 2, self.channels, self.splits))


def _forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    mean: Array,
    var: Array,
    given: bool,
    relu: bool,
    residual: Array | None,
) -> Array:
    """Fill mean and var (pieces, groups) unless given, and return y."""
    xp, like = xp_of(x), x
    x, residual = innermost(x), None if residual is None else innermost(residual)
    y = xp.empty(x.shape, x.dtype)
    if x.size:
        sizes = _Sizes(like, *mean.shape, x, y, residual)
        if not given:
            partial = sizes.partial(x)
            source.launch("forward_sums", x.dtype, sizes.grid, sizes.block, (x, partial, *sizes.args))
            sums = x, partial, mean, var, sizes.pixels, sizes.channels, sizes.K, sizes.splits
            source.launch("join_moments", x.dtype, mean.size, _warps(sizes.K * sizes.splits, 8), sums)
        args = x, residual, y, mean, var, weight, bias, float(eps), *sizes.args, relu
        source.launch("forward_apply", x.dtype, sizes.grid, sizes.block, args)
    return _outside(y, like)


def _backward(
    gy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    given: bool,
    needs: Needs,
    relu: bool,
    y: Array | None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """gx, gw, gb, and with y the gradient of the residual."""
    xp, like, C = xp_of(x), x, x.shape[1]
    gr = gy if y is not None else None
    if not x.size:
        gw, gb = (xp.zeros(C, x.dtype) if need else None for need in needs[1:])
        return xp.empty_like(x) if needs[0] else None, gw, gb, gr
    passes = ALL if not relu else COMPUTED if y is None else READ
    x, gy = innermost(x), innermost(gy)
    y = innermost(y) if passes == READ else None
    kept = xp.empty(gy.shape, gy.dtype) if passes == READ else None
    gx = xp.empty(x.shape, x.dtype) if needs[0] else None
    sizes = _Sizes(like, *mean.shape, x, gy, y, kept, gx)
    vectors = mean, var, weight, bias, float(eps)
    slope = offset = gw = gb = None
    if passes == READ or needs[1] or needs[2] or not given:
        partial = sizes.partial(x)
        arrays = gy, x, y, kept, partial
        source.launch("backward_sums", x.dtype, sizes.grid, sizes.block, (*arrays, *vectors, *sizes.args, passes))
        gw, gb = xp.empty((sizes.pieces, C), x.dtype), xp.empty((sizes.pieces, C), x.dtype)
        slope, offset = xp.empty(mean.shape, x.dtype), xp.empty(mean.shape, x.dtype)
        results = gw, gb, slope, offset
        sums = partial, var, weight, float(eps), *results, sizes.pixels, C, sizes.K, sizes.splits
        source.launch("join_gradients", x.dtype, mean.size, _warps(32 * sizes.K, 16), sums)
    if passes == READ:  # the sums have written what passes
        gy, passes, gr = kept, ALL, _outside(kept, like)
    if gx is not None:
        tables = (None, None) if given else (slope, offset)
        args = gy, x, gx, mean, var, weight, bias, *tables, float(eps), *sizes.args, passes
        source.launch("backward_apply", x.dtype, sizes.grid, sizes.block, args)
        gx = _outside(gx, like)
    gw, gb = (_added(g) if need else None for g, need in zip((gw, gb), needs[1:]))
    return gx, gw, gb, gr


def _added(pieces: Array) -> Array:
    """(pieces, channels) summed over the pieces."""
    rows, columns = pieces.shape
    if rows == 1:
        return pieces[0]
    y = xp_of(pieces).empty(columns, pieces.dtype)
    source.launch("add_pieces", y.dtype, grid_of(columns, 8), 256, (pieces, y, rows, columns))
    return y


def _warps(threads: int, most: int) -> int:
    """So many threads as whole warps, at least one and at most ``most`` warps."""
    return 32 * max(1, min(most, -(-threads // 32)))


def _outside(y: Array, like: Array) -> Array:
    """(N, ..., C) as (N, C, ...), in the memory order of ``like``."""
    return in_order_of(y.transpose(0, -1, *range(1, y.ndim - 1)), like)


def _contiguous(*vectors: Array | None) -> list[Array | None]:
    return [None if v is None else xp_of(v).ascontiguousarray(v) for v in vectors]


def batch_norm_forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    mean: Array | None = None,
    var: Array | None = None,
    relu: bool = False,
    residual: Array | None = None,
) -> tuple[Array, Array, Array]:
    """y, and mean and variance (C,): those of the batch unless they are given; then the residual is added, then ReLU."""
    xp, C, given = xp_of(x), x.shape[1], mean is not None
    if mean is None or var is None:
        mean, var = (xp.empty if x.size else xp.zeros)(C, x.dtype), (xp.empty if x.size else xp.zeros)(C, x.dtype)
    mean, var = xp.ascontiguousarray(mean), xp.ascontiguousarray(var)
    weight, bias = _contiguous(weight, bias)
    y = _forward(x, weight, bias, eps, mean.reshape(1, C), var.reshape(1, C), given, relu, residual)
    return y, mean, var


def update_moments(
    mean: Array,
    var: Array,
    batch_mean: Array,
    batch_var: Array,
    momentum: float,
    correction: float,
    new_mean: Array,
    new_var: Array,
) -> None:
    """new = (1 - momentum) * old + momentum * batch; the batch's variance, divided by n, is times correction = n / (n - 1)."""
    arrays = mean, var, *_contiguous(batch_mean, batch_var), new_mean, new_var
    source.launch("update_moments", mean.dtype, grid_of(mean.size, 256), 256, (mean.size, momentum, correction, *arrays))


def batch_norm_backward(
    gy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    eps: float,
    given: bool,
    needs: Needs,
    relu: bool = False,
    bias: Array | None = None,
    y: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """gx, gw, gb and the residual's gradient; mean and variance are constants when they were ``given``.

    Where ``relu`` passes gy is seen from y, which must be there if there was a residual, or else from the bias.
    """
    C = x.shape[1]
    weight, bias, mean, var = _contiguous(weight, bias, mean, var)
    return _backward(gy, x, mean.reshape(1, C), var.reshape(1, C), weight, bias, eps, given, needs, relu, y)


def _on_rows(x: Array, groups: int) -> bool:
    """Whether every group is a row: one pixel, and more than one channel to a group."""
    return x.size == x.shape[0] * x.shape[1] and groups < x.shape[1]


def group_norm_forward(
    x: Array, groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """y, and mean and variance (N, groups)."""
    xp, (N, C) = xp_of(x), x.shape[:2]
    mean, var = xp.zeros((N, groups), x.dtype), xp.zeros((N, groups), x.dtype)
    weight, bias = _contiguous(weight, bias)
    if not x.size or not _on_rows(x, groups):
        return _forward(x, weight, bias, eps, mean, var, False, False, None), mean, var
    rows = innermost(x)
    y = xp.empty(rows.shape, x.dtype)
    args = rows, y, weight, bias, float(eps), groups, mean, var
    on_rows(source, "forward_rows", x.dtype, N * groups, C // groups, *args)
    return _outside(y, x), mean, var


def group_norm_backward(gy: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, needs: Needs) -> Grads:
    """gx, gw, gb."""
    xp, (N, C), groups = xp_of(x), x.shape[:2], mean.shape[1]
    weight, mean, var = _contiguous(weight, mean, var)
    if not x.size or not _on_rows(x, groups):
        return _backward(gy, x, mean, var, weight, None, eps, False, needs, False, None)[:3]
    rows, grows, K = innermost(x), innermost(gy), C // groups
    gx = xp.empty(rows.shape, x.dtype) if needs[0] else None
    if gx is not None:
        args = grows, rows, gx, mean, var, weight, float(eps), groups
        on_rows(source, "backward_rows", x.dtype, N * groups, K, *args)
        gx = _outside(gx, x)
    if not needs[1] and not needs[2]:
        return gx, None, None
    lanes = packed(C, rows, grows)
    grid, block = column_blocks(1, N, C, lanes)
    partial = xp.empty((1, 2, C, grid[1]))
    sums = grows, rows, partial, mean, var, float(eps), N, C, K, lanes
    source.launch("backward_row_sums", x.dtype, grid, block, sums)
    gw, gb = xp.empty(C, x.dtype), xp.empty(C, x.dtype)
    source.launch("join_rows", x.dtype, grid_of(C, 8), 256, (partial, gw, gb, C, grid[1]))
    return gx, gw if needs[1] else None, gb if needs[2] else None
