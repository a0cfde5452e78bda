"""ReLU, and ReLU with 2x2 max pooling, done to the results of a convolution before they leave the cache.

Every kernel of a convolution has a ``follows``: PLAIN (nothing), RELU, or POOL (ReLU, then the largest of each 2x2 window;
an odd last row or column is not seen). Backward begins with what these two kept: y of RELU, the winners of POOL
(see ``_vector.py``). ReLU alone needs y, and pooling needs neither its input nor its output.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads
from minidl.kernels.cpu._tile import Shape, lanes
from minidl.kernels.cpu._vector import vectors_load, vectors_pool, vectors_store, vectors_unpool
from minidl.kernels.cpu.activation import relu_backward, relu_forward
from minidl.memory import empty

__all__ = ["PLAIN", "POOL", "RELU", "follow", "pool_rows", "relu_row", "relu_row_gradient", "undo", "unpool_rows"]

PLAIN, RELU, POOL = range(3)
TWO = Shape(2, 1)


@serial
def relu_row(y):
    """y = max(y, 0), in place."""
    for i in range(y.size):
        y[i] = y.dtype.type(0) if y[i] <= 0 else y[i]


@serial
def relu_row_gradient(gy, y, g):
    """g = gy where y is not <= 0."""
    for i in range(g.size):
        g[i] = g.dtype.type(0) if y[i] <= 0 else gy[i]


@serial
def pool_rows(results, rows, columns, line, O, lanes, y, winner):
    """Pool rows of pixels, (rows, columns, O), both even, of results in which a row has ``line`` of them: y and winners."""
    for r in range(rows // 2):
        for c in range(columns // 2):
            for o in range(0, O, lanes):
                begin = (2 * r * line + 2 * c) * O + o
                top = vectors_load(TWO, results, begin, O, O - o)
                bottom = vectors_load(TWO, results, begin + line * O, O, O - o)
                vectors_pool(y, winner, (r * (columns // 2) + c) * O + o, O, O - o, 1, top, bottom)


@serial
def unpool_rows(gy, winner, rows, columns, line, O, lanes, g):
    """The transpose of ``pool_rows``: g, in which a row of pixels has ``line`` of them."""
    for r in range(rows // 2):
        for c in range(columns // 2):
            for o in range(0, O, lanes):
                begin = (2 * r * line + 2 * c) * O + o
                top, bottom = vectors_unpool(TWO, gy, winner, (r * (columns // 2) + c) * O + o, O, O - o, 1)
                vectors_store(g, begin, O, O - o, top)
                vectors_store(g, begin + line * O, O, O - o, bottom)


@threaded
def _pool_images(results, y, winner, lanes, part, parts):
    if fork(part, parts):
        return
    first, last = share(y.shape[0], part, parts)
    rows, columns, O = 2 * y.shape[1], 2 * y.shape[2], y.shape[3]
    for n in range(first, last):
        pool_rows(results[n].reshape(-1), rows, columns, results.shape[2], O, lanes, y[n].reshape(-1), winner[n].reshape(-1))


@threaded
def _unpool_images(gy, winner, g, lanes, part, parts):
    if fork(part, parts):
        return
    first, last = share(gy.shape[0], part, parts)
    rows, columns, O = 2 * gy.shape[1], 2 * gy.shape[2], gy.shape[3]
    odd = rows < g.shape[1] or columns < g.shape[2]
    for n in range(first, last):
        image = g[n].reshape(-1)
        if odd:
            image[:] = 0
        unpool_rows(gy[n].reshape(-1), winner[n].reshape(-1), rows, columns, g.shape[2], O, lanes, image)


def follow(results: np.ndarray, follows: int) -> tuple[np.ndarray, np.ndarray]:
    """What follows, done to all results (N, OH, OW, O) of a convolution at once: y, and what backward needs."""
    if follows == RELU:
        y = relu_forward(results)
        return y, y
    N, OH, OW, O = results.shape
    y, winner = empty((N, OH // 2, OW // 2, O), results.dtype), empty((N, OH // 2, OW // 2, O), np.uint8)
    _pool_images(threads(results.size), results, y, winner, lanes(y.dtype))
    return y, winner


def undo(gy: np.ndarray, kept: np.ndarray, size: tuple[int, int], follows: int) -> np.ndarray:
    """The gradient (N, OH, OW, O) of the results of a convolution, from that of what followed; ``size`` is (OH, OW)."""
    if follows == RELU:
        return relu_backward(gy, kept)
    g = empty((len(gy), *size, gy.shape[3]), gy.dtype)
    _unpool_images(threads(g.size), gy, kept, g, lanes(g.dtype))
    return g
