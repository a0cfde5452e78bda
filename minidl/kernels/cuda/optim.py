"""Optimizer steps on the GPU: one launch for all parameters of a group, 16 bytes of each array at a time.

Where the arrays lie is written in a table in device memory, which is built again only when one of them has moved. The
numbers of a step (learning rate, what the step count makes of it, ...) are in device memory too, so that a CUDA graph that
holds the launch can be replayed with others: see ``together``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.backend import Array, xp_of
from minidl.context import state
from minidl.kernels import generic
from minidl.kernels.cuda._launch import Source, grid_of
from minidl.kernels.cuda._passes import MAP, THREADS, dense, empty_like, in_order_of, pointer

__all__ = ["adagrad_update", "adam_update", "rmsprop_update", "scaled", "sgd_update", "square_sums", "together"]

CHUNK = 8192  # elements of a parameter that a block updates
TABLES = 8  # kept for a group: the addresses of gradients take turns

source = Source(
    MAP
    + r"""
const int CHUNK = 8192;

// The table begins with N and the number of tensors; then it has N addresses and a size for each tensor, and
// tensor * 2^32 + chunk for each block. f changes the N values of one element; all arrays but the second one, the gradient,
// are written back. A missing array has address 0.
template <int N> struct Tensor {
    T* arrays[N];
    long long first, last;
    __device__ Tensor(const long long* table) {
        long long work = table[2 + table[1] * (N + 1) + blockIdx.x];
        const long long* row = table + 2 + (work >> 32) * (N + 1);
        for (int n = 0; n < N; n++) arrays[n] = (T*)row[n];
        first = (work & 0xffffffffll) * CHUNK;
        last = row[N] < first + CHUNK ? row[N] : first + CHUNK;
    }
    template <int L, class F> __device__ void update(long long from, long long to, F f) {
        for (long long i = from / L + threadIdx.x; i < to / L; i += blockDim.x) {
            Pack<L> packs[N] = {};
            #pragma unroll
            for (int n = 0; n < N; n++) if (arrays[n]) packs[n] = ((const Pack<L>*)arrays[n])[i];
            #pragma unroll
            for (int l = 0; l < L; l++) {
                T v[N];
                for (int n = 0; n < N; n++) v[n] = packs[n].v[l];
                f(v);
                for (int n = 0; n < N; n++) packs[n].v[l] = v[n];
            }
            #pragma unroll
            for (int n = 0; n < N; n++) if (n != 1 && arrays[n]) ((Pack<L>*)arrays[n])[i] = packs[n];
        }
    }
    template <class F> __device__ void update(F f) {
        bool together = true;
        for (int n = 0; n < N; n++) together = together && aligned(arrays[n]);
        if (!together) return update<1>(first, last, f);
        update<LANES>(first, last / LANES * LANES, f);
        update<1>(last / LANES * LANES, last, f);
    }
};

// (1 - w) m + w d, reckoned from the end that lies nearer.
__device__ T average(T m, T d, T w, T rest) { return w < T(0.5) ? m + w * (d - m) : d - rest * (d - m); }

// In all kernels d = sign * g + decay * p is the gradient of what is to be minimised.
extern "C" __global__ void sgd(const long long* table, const double* settings) {
    const T rate = T(settings[0]), keep = T(settings[1]), fresh = T(settings[2]), decay = T(settings[3]), sign = T(settings[4]);
    const bool nesterov = settings[5] != 0;
    Tensor<3> tensor(table);
    const bool plain = !tensor.arrays[2];
    tensor.update([=](T (&v)[3]) {
        T d = sign * v[1] + (decay != 0 ? decay * v[0] : T(0)), b = keep * v[2] + fresh * d;
        v[2] = b;
        v[0] -= rate * (plain ? d : nesterov ? d + keep * b : b);
    });
}

extern "C" __global__ void adam(const long long* table, const double* settings) {
    const T rate = T(settings[0]), root = T(settings[1]), beta1 = T(settings[2]), w1 = T(1 - settings[2]);
    const T beta2 = T(settings[3]), w2 = T(1 - settings[3]), eps = T(settings[4]), keep = T(settings[5]);
    const T decay = T(settings[6]), sign = T(settings[7]);
    Tensor<5> tensor(table);
    const bool largest = tensor.arrays[4];
    tensor.update([=](T (&v)[5]) {
        T d = sign * v[1] + (decay != 0 ? decay * v[0] : T(0));
        v[2] = average(v[2], d, w1, beta1);
        v[3] = beta2 * v[3] + w2 * d * d;
        T q = v[3];
        if (largest) q = v[4] = maximum(v[4], v[3]);
        v[0] = keep * v[0] - rate * v[2] / (sqrt(q) / root + eps);
    });
}

extern "C" __global__ void rmsprop(const long long* table, const double* settings) {
    const T rate = T(settings[0]), alpha = T(settings[1]), w = T(1 - settings[1]), eps = T(settings[2]), decay = T(settings[3]);
    const T keep = T(settings[4]), sign = T(settings[5]);
    Tensor<5> tensor(table);
    const bool centered = tensor.arrays[3], momentum = tensor.arrays[4];
    tensor.update([=](T (&v)[5]) {
        T d = sign * v[1] + (decay != 0 ? decay * v[0] : T(0)), s;
        s = v[2] = alpha * v[2] + w * d * d;
        if (centered) {
            v[3] = average(v[3], d, w, alpha);
            s -= v[3] * v[3];
        }
        T u = d / (sqrt(s) + eps);
        if (momentum) u = v[4] = keep * v[4] + u;
        v[0] -= rate * u;
    });
}

extern "C" __global__ void adagrad(const long long* table, const double* settings) {
    const T rate = T(settings[0]), eps = T(settings[1]), decay = T(settings[2]), sign = T(settings[3]);
    Tensor<3>(table).update([=](T (&v)[3]) {
        T d = sign * v[1] + (decay != 0 ? decay * v[0] : T(0));
        v[2] += d * d;
        v[0] -= rate * d / (sqrt(v[2]) + eps);
    });
}

extern "C" __global__ void scale(const long long* table, const double* factor) {
    const T f = T(*factor);
    Tensor<2>(table).update([=](T (&v)[2]) { v[0] = v[1] * f; });
}

// sums[block] = the sum of the squares of its chunk.
extern "C" __global__ void squares(const long long* table, double* sums) {
    Tensor<1> tensor(table);
    const T* x = tensor.arrays[0];
    double s = 0;
    #pragma unroll 4
    for (long long i = tensor.first + threadIdx.x; i < tensor.last; i += blockDim.x) s += double(x[i]) * double(x[i]);
    s = block_sum(s);
    if (threadIdx.x == 0) sums[blockIdx.x] = s;
}
"""
)

Arrays = tuple[Any, ...]  # p, g and what else there is, or None
Numbers = tuple[float, ...]


class _Pending(threading.local):
    updates: list[tuple[str, Arrays, Numbers]] | None = None


_pending = _Pending()


@contextmanager
def together(memory: dict[Any, Any], launch: bool = True) -> Iterator[None]:
    """Updates inside of the block run at its end, those of one kind with the same numbers as one kernel.

    Args:
        memory: what is kept from one step to the next, the caller's and empty at first.
        launch: False only hands the numbers to the kernels of an earlier block, for the next replay of a CUDA graph.
    """
    outer, _pending.updates = _pending.updates, []
    try:
        yield
        updates = _pending.updates
    finally:
        _pending.updates = outer
    alike: dict[tuple, list[Arrays]] = {}
    for name, arrays, numbers in updates:
        alike.setdefault((name, arrays[0].dtype, numbers), []).append(arrays)
    for i, ((name, dtype, numbers), tensors) in enumerate(alike.items()):
        settings = _settings(memory, (i, name, dtype), numbers, tensors[0][0])
        if launch:
            table, blocks = _table(memory.setdefault("tables", {}), tensors)
            source.launch(name, dtype, blocks, THREADS, (table, settings))


def _settings(memory: dict, place: tuple, numbers: Numbers, like: Array) -> Array:
    """The numbers in device memory, at the same place in every step; a CUDA graph gets a place of its own."""
    entry = memory.get(place)
    if entry is None or _capturing(like):
        memory[place] = entry = [numbers, _upload(np.array(numbers, np.float64), like)]
    elif entry[0] != numbers:
        entry[0], host = numbers, np.array(numbers, np.float64)
        if isinstance(entry[1], np.ndarray):
            entry[1][...] = host
        else:
            entry[1].set(host, stream=xp_of(like).cuda.get_current_stream())  # without a stream it would wait for the GPU
    return entry[1]


def _table(tables: dict, tensors: list[Arrays]) -> tuple[Array, int]:
    """The table for these arrays and how many blocks it is for."""
    rows = [(*(0 if x is None else pointer(x) for x in arrays), arrays[0].size) for arrays in tensors]
    key = tuple(rows)
    if key not in tables:
        work = [tensor << 32 | chunk for tensor, row in enumerate(rows) for chunk in range(grid_of(row[-1], CHUNK))]
        host = np.array([len(rows[0]) - 1, len(rows), *(value for row in rows for value in row), *work], np.uint64).view(
            np.int64
        )
        captured = _capturing(tensors[0][0])  # the graph will read it: it must not be dropped
        tables[key] = _upload(host, tensors[0][0]), len(work), captured
        spare = [other for other, entry in tables.items() if not entry[2]]
        for other in spare[: max(0, len(spare) - TABLES)]:
            del tables[other]
    return tables[key][:2]


def _capturing(like: Array) -> bool:
    """Whether what is launched now goes into a CUDA graph."""
    return not isinstance(like, np.ndarray) and xp_of(like).cuda.get_current_stream().is_capturing()


def _upload(host: np.ndarray, like: Array) -> Array:
    """A copy on the device of ``like``; while a graph is captured by way of another stream, to be there at once."""
    xp = xp_of(like)
    if not _capturing(like):
        return xp.array(host)
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        array = xp.array(host)
    stream.synchronize()
    return array


def _update(name: str, arrays: Arrays, numbers: Numbers) -> bool:
    """Run an update, now or at the end of ``together``; False when the arrays do not lie alike."""
    p, g = arrays[:2]
    if dense(p) is not p or any(x is not None and x.strides != p.strides for x in arrays[2:]):
        return False
    if not p.size:
        return True
    arrays = p, in_order_of(g, p), *arrays[2:]
    if _pending.updates is None:
        with together({}):
            return _update(name, arrays, numbers)
    _pending.updates.append((name, arrays, tuple(map(float, numbers))))
    return True


def sgd_update(
    p: Array,
    g: Array,
    buffer: Array | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """b = momentum * b + (1 - dampening) * g; p -= lr * b, or lr * (g + momentum * b) with nesterov."""
    numbers = lr, momentum, 1 - dampening, weight_decay, _sign(maximize), nesterov
    if not _update("sgd", (p, g, buffer), numbers):
        generic.sgd_update(p, g, buffer, lr, momentum, dampening, weight_decay, nesterov, maximize)


def adam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    v_max: Array | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps), with m and v averages of g and g^2."""
    rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    keep, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    if not _update("adam", (p, g, m, v, v_max), (rate, root, beta1, beta2, eps, keep, decay, _sign(maximize))):
        generic.adam_update(p, g, m, v, v_max, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)


def rmsprop_update(
    p: Array,
    g: Array,
    square_average: Array,
    average: Array | None,
    buffer: Array | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
) -> None:
    """p -= lr * g / (sqrt(s) + eps), with s the running average of g^2, centred where ``average`` is given."""
    arrays = p, g, square_average, average, buffer
    if not _update("rmsprop", arrays, (lr, alpha, eps, weight_decay, momentum, _sign(maximize))):
        generic.rmsprop_update(*arrays, lr, alpha, eps, weight_decay, momentum, maximize)


def adagrad_update(p: Array, g: Array, total: Array, lr: float, eps: float, weight_decay: float, maximize: bool) -> None:
    """total += g^2; p -= lr * g / (sqrt(total) + eps)."""
    if not _update("adagrad", (p, g, total), (lr, eps, weight_decay, _sign(maximize))):
        generic.adagrad_update(p, g, total, lr, eps, weight_decay, maximize)


def _sign(maximize: bool) -> float:
    return -1.0 if maximize else 1.0


def square_sums(arrays: list[Array]) -> Array:
    """The sum of x^2 over all elements of all arrays, of shape (), in float64."""
    total = xp_of(arrays[0]).zeros(())
    for dtype, tensors in _alike([(dense(x),) for x in arrays]).items():
        table, blocks = _kept_table(tensors)
        sums = xp_of(table).empty(blocks)
        source.launch("squares", dtype, blocks, THREADS, (table, sums))
        total += sums.sum()
    return total


def scaled(arrays: list[Array], factor: Array) -> list[Array]:
    """x * factor for all arrays; factor is of shape (), in float64."""
    pairs = [(empty_like(x), x) for x in map(dense, arrays)]
    for dtype, tensors in _alike(pairs).items():
        table, blocks = _kept_table(tensors)
        source.launch("scale", dtype, blocks, THREADS, (table, factor))
    return [y for y, _ in pairs]


def _alike(tensors: list[Arrays]) -> dict[np.dtype, list[Arrays]]:
    """Those that hold something, by dtype."""
    alike: dict[np.dtype, list[Arrays]] = {}
    for arrays in tensors:
        if arrays[0].size:
            alike.setdefault(arrays[0].dtype, []).append(arrays)
    return alike


def _kept_table(tensors: list[Arrays]) -> tuple[Array, int]:
    """A table for one launch; a recorded one is read again in every replay."""
    table, blocks = _table({}, tensors)
    if state.recorder is not None:
        state.recorder.keep(table)
    return table, blocks
