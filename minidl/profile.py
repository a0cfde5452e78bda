"""Profile: where the time of a block goes, operation by operation, against what the machine can do.

Each operation of the block is timed as it runs, forward and backward. What runs does not change: layers that are fused
stay fused. Time is then compared with two ceilings of the machine, a matrix product and a copy of memory. An operation
that reaches neither leaves room:

    time >= max(operations / ceiling of the product, bytes / ceiling of the copy)      the roofline

Source: Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model", 2009.
"""

from __future__ import annotations

import json
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minidl import backend
from minidl.backend import Array, is_array
from minidl.context import observe, state
from minidl.errors import ArgumentError, DtypeError
from minidl.kernels import kernels_for
from minidl.registry import OPS
from minidl.tensor import Tensor

__all__ = ["Call", "Ceilings", "Profile", "Row", "ceilings", "profile"]

SIDE = 1024  # of the square matrices whose product is timed
COPIED = 1 << 25  # bytes per thread: more than a core's caches hold
TRIES = 5
CONVOLUTIONS = ("conv2d", "conv2d_relu")  # whose kernels have several algorithms


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most.

    Attributes:
        gflops: billions of floating-point operations per second, of a float32 matrix product.
        gbs: billions of bytes per second, read and written together, of a copy.

    >>> from minidl.profile import Ceilings
    >>> Ceilings(gflops=100, gbs=20).seconds(flops=4e9, nbytes=1e9)
    0.05
    """

    gflops: float
    gbs: float

    def __post_init__(self) -> None:
        if not (self.gflops > 0 and self.gbs > 0):
            raise ArgumentError.of("Ceilings", "gflops and gbs above 0", f"{self.gflops} and {self.gbs}")

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least time in which so much can be computed and moved."""
        return max(flops / (self.gflops * 1e9), nbytes / (self.gbs * 1e9))


@dataclass
class Call:
    """One operation that ran.

    Attributes:
        op, path: the operation and the module that ran it.
        phase: "forward" or "backward".
        start, seconds: since the profile began; how long it took.
        flops: floating-point operations, by the formula of the operation; see ``profile`` for backward.
        nbytes: of the arrays that it read and wrote, each once; 0 for a result that shares its input's memory.
        saved: bytes that it keeps for backward and nothing else kept before.
        shapes: of the inputs and the result, as text.
        algorithm: which one computed it, where there are several.
        device: where it ran.
    """

    op: str
    path: str
    phase: str
    start: float
    seconds: float
    flops: int = 0
    nbytes: int = 0
    saved: int = 0
    shapes: str = ""
    algorithm: str = ""
    device: str = "cpu"


@dataclass
class Row:
    """Calls of one kind together: the sums of their numbers.

    Attributes:
        name: the operation, or the module's path.
        phase: "forward" or "backward".
        calls: how many there were.
        seconds, flops, nbytes, saved: as in ``Call``.
        bound: seconds that they would take at the machine's ceilings.
        algorithms: those that ran; in a row of a module, after the name of their operation.
    """

    name: str
    phase: str
    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    nbytes: int = 0
    saved: int = 0
    bound: float = 0.0
    algorithms: list[str] = field(default_factory=list)

    @property
    def gflops(self) -> float:
        """Billions of operations per second."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbs(self) -> float:
        """Billions of bytes per second, read and written."""
        return self.nbytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def reached(self) -> float:
        """The share of the machine's roofline: 1 cannot be beaten, except by doing fewer operations, as Winograd does."""
        return self.bound / self.seconds if self.seconds else 0.0


SORTS = ("seconds", "calls", "flops", "nbytes", "saved", "gflops", "gbs", "reached", "name", "order")


class Profile:
    """What ``profile`` saw: every call, tables of them, and a file for trace viewers.

    Attributes:
        calls: one ``Call`` per operation that ran, forward and backward, in order.
        seconds: of the whole block; what is not in ``calls`` is Python, the optimizer, loading of data, ...

    >>> import minidl as md
    >>> from minidl.profile import Ceilings, profile
    >>> x = md.ones(64, 64, requires_grad=True)
    >>> with profile(Ceilings(gflops=100, gbs=20)) as p:
    ...     md.relu(x @ x).sum().backward()
    >>> [(row.name, row.phase, row.calls, row.flops) for row in p.rows("op", sort="order")][:2]
    [('matmul', 'forward', 1, 524288), ('relu', 'forward', 1, 4096)]
    """

    def __init__(self, ceilings: Ceilings | None = None) -> None:
        self.calls: list[Call] = []
        self.seconds = 0.0
        self._ceilings = ceilings
        self._begin = time.perf_counter()
        self._kept: dict[int, weakref.ref] = {}  # id of what owns the memory of a saved array -> the node that saved it

    # ---------------------------------------------------------------- what it saw

    @property
    def ceilings(self) -> Ceilings:
        """The machine's, as given to ``profile`` or measured on first use, which takes about half a second."""
        if self._ceilings is None:
            self._ceilings = ceilings(next((call.device for call in self.calls if call.device != "cpu"), "cpu"))
        return self._ceilings

    def rows(self, by: str = "module", sort: str = "seconds", phase: str | None = None) -> list[Row]:
        """The calls summed up by what they have in common, forward and backward apart.

        Args:
            by: "module" (the path of the module that ran them) or "op".
            sort: "seconds", "calls", "flops", "nbytes", "saved", "gflops", "gbs" or "reached", largest first;
                "name", or "order" for that of their first calls.
            phase: only "forward" or only "backward".

        Raises:
            ArgumentError: another ``by``, ``sort`` or ``phase``.
        """
        for name, value, allowed in (
            ("by", by, ("module", "op")),
            ("sort", sort, SORTS),
            ("phase", phase, (None, "forward", "backward")),
        ):
            if value not in allowed:
                raise ArgumentError.of("Profile.rows", f"{name} as one of {', '.join(map(repr, allowed))}", repr(value))
        rows: dict[tuple[str, str], Row] = {}
        for call in self.calls:
            if phase not in (None, call.phase):
                continue
            name = (call.path or "(outside of modules)") if by == "module" else call.op
            row = rows.setdefault((name, call.phase), Row(name, call.phase))
            row.calls += 1
            row.seconds += call.seconds
            row.flops += call.flops
            row.nbytes += call.nbytes
            row.saved += call.saved
            row.bound += self.ceilings.seconds(call.flops, call.nbytes)
            label = call.algorithm if by == "op" else f"{call.op} {call.algorithm}".strip()
            if label and label not in row.algorithms:
                row.algorithms.append(label)
        found = list(rows.values())
        if sort == "name":
            found.sort(key=lambda row: row.name)
        elif sort != "order":
            found.sort(key=lambda row: getattr(row, sort), reverse=True)
        return found

    def table(self, by: str = "module", sort: str = "seconds", phase: str | None = None, limit: int | None = None) -> str:
        """The rows as text, below what the whole block took.

        Args:
            by, sort, phase: see ``rows``.
            limit: how many rows at most; the last line says how many more there are.

        Raises:
            ArgumentError: see ``rows``.
        """
        rows = self.rows(by, sort, phase)
        top, inside = self.ceilings, sum(call.seconds for call in self.calls)
        header = (by, "phase", "calls", "time", "share", "FLOPs", "GFLOP/s", "moved", "GB/s", "roofline", "saved", "ran")
        cells = [header]
        for row in rows[:limit]:
            cells.append(
                (
                    row.name,
                    row.phase,
                    f"{row.calls:,}",
                    _time(row.seconds),
                    f"{100 * row.seconds / inside if inside else 0:.1f} %",
                    _si(row.flops),
                    f"{row.gflops:.3g}" if row.flops else "",
                    _si(row.nbytes) + "B",
                    f"{row.gbs:.3g}" if row.nbytes else "",
                    f"{100 * row.reached:.0f} %" if row.bound else "",
                    _si(row.saved) + "B" if row.saved else "",
                    ", ".join(row.algorithms),
                )
            )
        left = {0, 1, len(header) - 1}
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = [
            "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
            for line in cells
        ]
        rule = "-" * max(map(len, lines))
        outside = max(0.0, self.seconds - inside)
        head = (
            f"profile: {_time(self.seconds)}, of which {_time(inside)} in {len(self.calls):,} operations and "
            f"{_time(outside)} between them (Python, optimizer, data, this profile)"
        )
        ceiling = f"ceilings: {top.gflops:.3g} GFLOP/s in a float32 matrix product, {top.gbs:.3g} GB/s in a copy"
        more = [f"... {len(rows) - limit} more"] if limit is not None and len(rows) > limit else []
        return "\n".join([head, ceiling, "", lines[0], rule, *lines[1:], *more])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Profile of {len(self.calls)} operations in {_time(self.seconds)}>"

    def to_chrome_trace(self, path: str | Path) -> None:
        """Write a file that chrome://tracing and ui.perfetto.dev show as a time line.

        Operations lie above the modules that ran them. The file is in Chrome's Trace Event Format, as JSON.

        Raises:
            OSError: a path that cannot be written.
        """
        process = os.getpid()

        def event(name: str, kind: str, start: float, seconds: float, args: dict[str, Any]) -> dict[str, Any]:
            times = {"ts": round(start * 1e6, 3), "dur": round(seconds * 1e6, 3)}  # microseconds
            return {"name": name, "cat": kind, "ph": "X", **times, "pid": process, "tid": 1, "args": args}

        names = (("process_name", {"name": "minidl"}), ("thread_name", {"name": "operations"}))
        events: list[dict[str, Any]] = [
            {"name": name, "ph": "M", "pid": process, "tid": 1, "args": args} for name, args in names
        ]
        for (path_, phase), calls in _runs(self.calls):
            if path_:
                end = calls[-1].start + calls[-1].seconds
                events.append(event(path_, f"module, {phase}", calls[0].start, end - calls[0].start, {}))
            for call in calls:
                args = {
                    "module": call.path,
                    "shapes": call.shapes,
                    "FLOPs": call.flops,
                    "bytes moved": call.nbytes,
                    "bytes saved": call.saved,
                    "algorithm": call.algorithm,
                    "device": call.device,
                }
                name = call.op if phase == "forward" else f"{call.op} backward"
                events.append(event(name, phase, call.start, call.seconds, {k: v for k, v in args.items() if v}))
        target = Path(path)
        draft = target.with_name(target.name + ".part")  # a file of before stays whole until this one is
        draft.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
        os.replace(draft, target)

    # ---------------------------------------------------------------- watching

    def _observe(self, node: Any, phase: str, function: Callable) -> Callable:
        """What runs in place of an operation's forward or backward: the same, between two looks at the clock."""

        def timed(ctx: Any, *arrays: Any, **params: Any) -> Any:
            self._finish(arrays)
            start = time.perf_counter()
            result = function(ctx, *arrays, **params)
            self._finish(arrays)
            end = time.perf_counter()
            call = Call(node.name, node.path, phase, start - self._begin, end - start)
            if phase == "forward":
                self._forward(call, node, arrays, params, result)
            else:
                self._backward(call, node, arrays[0], result)
            self.calls.append(call)
            return result

        return timed

    @staticmethod
    def _finish(arrays: Iterable[Any]) -> None:
        """Wait for a GPU, which works on while Python goes on: else the clock shows how long it takes to ask."""
        for array in arrays:
            if is_array(array) and not isinstance(array, np.ndarray):
                if state.recorder is None:  # a CUDA graph that is being recorded cannot be waited for
                    array.device.synchronize()
                return

    def _forward(self, call: Call, node: Any, arrays: tuple, params: dict, result: Any) -> None:
        results = result if type(result) is tuple else (result,)
        y = results[0]
        inputs = [array for array in arrays if is_array(array)]
        spec = OPS.get(node.name)
        if spec is not None and spec.flops is not None:
            call.flops = int(spec.flops(y, *arrays, **params))
        if not any(_same_memory(y, array) for array in inputs):
            call.nbytes = sum(_bytes(array) for array in (*inputs, *results))
        own = [_owner(edge._array) for edge in node.edges if isinstance(edge, Tensor)]
        call.saved = sum(self._newly_kept(node, array, own) for array in node.saved or () if is_array(array))
        call.shapes = f"{', '.join(_shape(array) for array in inputs)} -> {_shape(y)}"
        call.algorithm = node.__dict__["_algorithm"] = _algorithm(node.name, arrays, params)
        call.device = backend.device_of(y) if is_array(y) else "cpu"
        matrices = sum(need and is_array(a) and a.ndim > 1 for need, a in zip(node.needs, arrays))
        node.__dict__["_gradient_flops"] = call.flops * max(1, matrices)

    def _backward(self, call: Call, node: Any, gy: Array, result: Any) -> None:
        results = [g for g in (result if type(result) is tuple else (result,)) if is_array(g)]
        call.algorithm = node.__dict__.get("_algorithm", "")
        written = [g for g in results if not _same_memory(g, gy)]
        if written:  # else a view of gy, which costs nothing
            call.flops = node.__dict__.get("_gradient_flops", 0)  # none for operations from before the block
            call.nbytes = sum(_bytes(array) for array in (gy, *(a for a in node.saved or () if is_array(a)), *written))
        call.shapes = f"{_shape(gy)} -> {', '.join(map(_shape, results))}"
        call.device = backend.device_of(gy)

    def _newly_kept(self, node: Any, array: Array, own: list[Any]) -> int:
        """The bytes that stay alive for this operation's backward, and would not otherwise."""
        owner = _owner(array)
        if any(owner is other for other in own):  # a parameter lives anyway
            return 0
        seen = self._kept.get(id(owner))
        keeper = None if seen is None else seen()
        if keeper is not None and keeper is not node and keeper.saved:
            return 0
        self._kept[id(owner)] = weakref.ref(node)
        return _bytes(array)


@contextmanager
def profile(ceilings: Ceilings | None = None) -> Iterator[Profile]:
    """Time every operation of this thread in the block, forward and backward.

    Args:
        ceilings: the machine's, to compare with; measured when a table is first asked for, once per process.

    Returns:
        A ``Profile``. ``print(p)`` shows a table per module, ``p.table("op")`` one per operation,
        ``minidl.viz.roofline(p)`` a picture, and ``p.to_chrome_trace(path)`` writes a time line.

    Notes:
        Run a step before the block: the first call of a kernel compiles it. Outside of the block nothing is timed and
        nothing slows down. Profiles may lie within each other; then the inner one's work is part of the outer one's times.

        On a GPU each operation is waited for, so that its time is its own. That takes away what otherwise overlaps:
        the block as a whole takes longer than without a profile. A replayed CUDA graph is not seen.

        FLOPs follow the formula of each operation (a multiply-add counts as two) and tell what the definition needs, not
        what an algorithm saves: Winograd's convolution may exceed the ceiling. The backward of an operation counts as
        much as its forward for each array of two axes or more whose gradient is asked for. Bytes are those of the
        arrays themselves; a kernel that has to read them more than once moves more.

        The optimizer's step is no operation on tensors and counts as time between operations.

    Raises:
        DtypeError: ceilings of another type.

    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.profile import profile
    >>> model = nn.Sequential(nn.Linear(64, 32, rng=0), nn.ReLU(), nn.Linear(32, 10, rng=1))
    >>> with profile() as p:
    ...     model(md.ones(8, 64)).sum().backward()
    >>> [row.name for row in p.rows("module", sort="order", phase="forward")]
    ['0', '2', '(outside of modules)']
    >>> p.rows("op", phase="forward", sort="flops")[0].name  # a linear layer and its ReLU run as one
    'linear_relu'
    """
    if ceilings is not None and not isinstance(ceilings, Ceilings):
        raise DtypeError.of("profile", "ceilings as Ceilings(gflops=, gbs=)", type(ceilings).__name__)
    result = Profile(ceilings)
    with observe(result._observe):
        result._begin = time.perf_counter()
        try:
            yield result
        finally:
            result.seconds = time.perf_counter() - result._begin


# ---------------------------------------------------------------- the machine's ceilings


@lru_cache(maxsize=8)
def ceilings(device: str = "cpu") -> Ceilings:
    """Measure what the machine can do, in about half a second; once per process and device.

    Args:
        device: "cpu", which uses all cores that this process may use, or a GPU.

    Returns:
        The fastest of a few float32 matrix products, in minidl's kernels and in NumPy or CuPy, and of a few copies of
        arrays that are larger than caches.

    Raises:
        DeviceError: a GPU that is not there.

    >>> from minidl.profile import ceilings
    >>> measured = ceilings()
    >>> measured.gflops > 0 and measured.gbs > 0
    True
    """
    if device != "cpu":
        return _gpu_ceilings(device)
    a = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    y = np.empty_like(a)
    kernels = kernels_for(a)
    product = min(_fastest(lambda: np.matmul(a, a, out=y)), _fastest(lambda: kernels.linear_forward(a, a, None)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pairs = [(np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:  # NumPy lets other threads run while it copies
        copy = _fastest(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))
    return Ceilings(2 * SIDE**3 / product / 1e9, 2 * COPIED * cores / copy / 1e9)


def _gpu_ceilings(device: str) -> Ceilings:
    like = backend.to_device(np.zeros(1, np.float32), device)
    xp = backend.xp_of(like)
    with backend.on_device_of(like):
        a = xp.ones((4 * SIDE, 4 * SIDE), xp.float32)
        y, x = xp.empty_like(a), xp.zeros(8 * COPIED, xp.uint8)
        z = xp.empty_like(x)

        def repeated(step: Callable[[], object]) -> float:
            def finished() -> None:
                for _ in range(10):
                    step()
                like.device.synchronize()

            return _fastest(finished) / 10

        product = repeated(lambda: xp.matmul(a, a, out=y))
        copy = repeated(lambda: xp.copyto(z, x))
        return Ceilings(2 * a.shape[0] ** 3 / product / 1e9, 2 * x.nbytes / copy / 1e9)


def _fastest(step: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


# ---------------------------------------------------------------- small things


def _algorithm(op: str, arrays: tuple, params: dict) -> str:
    """Which algorithm of a convolution computes this; asked of the function that the kernels themselves ask."""
    if op not in CONVOLUTIONS:
        return ""
    if params.get("algorithm", "auto") != "auto":
        return params["algorithm"]
    x, w = arrays[:2]
    geometry = [params[name] for name in ("stride", "padding", "dilation", "groups")]
    follows = params["pool"] if op == "conv2d_relu" else 0  # kernels count: 0 nothing, 1 ReLU, 2 ReLU and pooling
    return kernels_for(x).conv2d_algorithms(x.shape, w.shape, *map(_hashable, geometry), x.dtype, follows)[0]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _runs(calls: list[Call]) -> Iterator[tuple[tuple[str, str], list[Call]]]:
    """Calls in a row of one module and phase."""
    run: list[Call] = []
    for call in calls:
        if run and (call.path, call.phase) != (run[0].path, run[0].phase):
            yield (run[0].path, run[0].phase), run
            run = []
        run.append(call)
    if run:
        yield (run[0].path, run[0].phase), run


def _owner(array: Any) -> Any:
    """The array that the memory belongs to."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


def _same_memory(a: Any, b: Any) -> bool:
    if not (is_array(a) and is_array(b)):
        return False
    return _owner(a) is _owner(b)


def _bytes(array: Any) -> int:
    """What has to be moved: an array that repeats its elements (a broadcast view) holds each once."""
    if not is_array(array):
        return 0
    distinct = [size for size, stride in zip(array.shape, array.strides) if stride != 0]
    return math.prod(distinct) * array.itemsize if array.size else 0


def _shape(array: Any) -> str:
    return "x".join(map(str, array.shape)) or "scalar" if is_array(array) else str(array)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _si(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "
