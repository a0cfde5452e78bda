"""Every Numba option in one place.

- ``serial``: a loop body on slices; vectorised, cached on disk.
- ``threaded``: a body that runs once for each part of its work, on as many threads.

``fastmath`` leaves out the flags that assume there are no NaN and no infinities, and signed zeros stay:
kernels must give NumPy's answers for those. What remains lets LLVM reorder sums and fuse multiply-adds.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.ufunc import parallel

from minidl.kernels.cpu._compiling import compiling

__all__ = ["PARALLEL_MIN", "fork", "serial", "share", "threaded", "threads"]


def _wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after they run out of work, unless the user has set how they wait.

    GNU OpenMP spins for milliseconds by default. While another program occupies a core, whoever spins keeps
    the thread it waits for from running, and a training step takes ten times as long. With spins of a tenth of that it
    takes three times as long, where twice is the least, and an idle machine is as fast. The library reads the
    setting when it is loaded, so it is loaded here; child processes do not inherit it.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["GOMP_SPINCOUNT"] = "30000"
    with suppress(OSError):  # no GNU OpenMP on this system: Numba takes another threading layer
        ctypes.CDLL("libgomp.so.1")
    del os.environ["GOMP_SPINCOUNT"]


_wait_briefly()


def _can_cache() -> bool:
    """Whether there is a folder for compiled kernels: beside the package, or in the user's home."""
    try:
        njit(lambda: None, cache=True)
    except RuntimeError:
        warnings.warn(
            "minidl: no folder to keep compiled kernels in, so every process compiles them anew. Set NUMBA_CACHE_DIR.",
            stacklevel=2,
        )
        return False
    return True


CACHE = compiling.cached = _can_cache()

FASTMATH = {"reassoc", "contract", "arcp", "afn"}

PARALLEL_MIN = 1 << 15  # elements below which handing work to a second thread costs more than it brings

_one_at_a_time = threading.RLock()


OPTIONS = {"fastmath": FASTMATH, "cache": CACHE, "nogil": True, "error_model": "numpy"}


def serial(function: Callable) -> Callable:
    """Compile a loop body, which becomes part of the functions that call it.

    Without ``forceinline`` LLVM keeps long ones apart, optimised once more in each caller, and the linker takes any of these
    copies: then the last digits depend on whether a process compiles its kernels or loads them.
    """
    return njit(function, forceinline=True, **OPTIONS)


def _write_fork(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple) -> ir.Value:
    """Compiled ``fork``: hands the arguments of the function that it stands in, unchanged but for ``part``, to all threads.

    Numba's threading layer calls back ``worker(&number, ., ., data)``, as it does for its own ``prange``, which would
    compile each function several times over to get here.
    """
    outer, (part, parts) = builder.function, args
    long, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
    frame = ir.LiteralStructType([value.type for value in outer.args])  # (result, error, arguments..., part, parts)
    callback = ir.FunctionType(ir.VoidType(), [pointer.as_pointer(), long.as_pointer(), long.as_pointer(), pointer])

    worker = ir.Function(builder.module, callback, outer.name + ".part")
    worker.linkage = "internal"
    inside = ir.IRBuilder(worker.append_basic_block())
    data = inside.bitcast(worker.args[3], frame.as_pointer())
    values = [inside.load(cgutils.gep_inbounds(inside, data, 0, i)) for i in range(len(outer.args))]
    for i in (0, 1):
        values[i] = cgutils.alloca_once(inside, frame.elements[i].pointee)
    for i in range(2, len(values) - 3):
        if frame.elements[i : i + 4] == (pointer, pointer, long, long):  # an array's (reference count, owner, size, ...)
            values[i] = pointer(None)  # nobody counts: the threads would wait for each other at every slice
    values[-2] = inside.ptrtoint(inside.load(worker.args[0]), long)
    inside.call(outer, values)
    inside.ret_void()

    many = builder.icmp_signed("<", part, long(0))
    with builder.if_then(many, likely=False):
        data = cgutils.alloca_once(builder, frame)
        for i, value in enumerate(outer.args):
            builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
        size, step = cgutils.alloca_once_value(builder, parts), cgutils.alloca_once_value(builder, long(1))
        number = cgutils.alloca_once_value(builder, pointer(None))  # counts the parts: 0, step, 2 step, ...
        type_ = ir.FunctionType(ir.VoidType(), [pointer] * 5 + [long] * 3)
        launch = cgutils.get_or_insert_function(builder.module, type_, "numba_parallel_for")
        addresses = [builder.bitcast(value, pointer) for value in (worker, number, size, step, data)]
        builder.call(launch, [*addresses, long(0), long(1), parts])
    return many


def fork(part: int, parts: int) -> bool:
    """True after running the enclosing function for each of the parts, if ``part`` is negative; else False at once.

    It is the first statement of a function compiled by ``threaded``, and ``part`` and ``parts`` are that one's last
    arguments. The threads are those of Numba.
    """
    assert part >= 0  # this is the meaning for plain Python, where ``threaded`` itself calls part by part
    return False


numba.get_num_threads()  # starts the threads, without which compiled code that forks cannot be loaded

if not config.DISABLE_JIT:

    @intrinsic
    def fork(typing: Any, part: Any, parts: Any) -> Any:
        return types.boolean(types.intp, types.intp), _write_fork


def threaded(function: Callable) -> Callable[..., None]:
    """Compile ``function(..., part, parts)``, which does one of several parts of some work and begins with ``fork``.

    What is returned is called as ``function(parts, ...)``, and does all parts, on as many threads. Only one of
    these runs at a time: Numba's plainest threading layer ends the process when two threads enter it.
    """
    compiled = njit(function, **OPTIONS)

    @functools.wraps(function)
    def call(parts: int, *args: Any) -> None:
        if parts == 1:
            compiled(*args, 0, 1)
        elif config.DISABLE_JIT:
            for part in range(parts):
                compiled(*args, part, parts)
        else:
            with _one_at_a_time:
                compiled(*args, -1, parts)

    call.compiled = compiled  # type: ignore[attr-defined]
    return call


@serial
def share(size: int, part: int, parts: int) -> tuple[int, int]:
    """Where one of several equal parts of so many things begins and ends."""
    return part * size // parts, (part + 1) * size // parts


def threads(work: int) -> int:
    """How many parts to cut ``work`` elements into."""
    return 1 if work < PARALLEL_MIN else parallel._get_num_threads()  # numba's own, without asking whether they have started
