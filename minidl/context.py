"""Where we are: the state of the current thread that operations read.

Every operation asks three questions before it runs: must the graph be recorded, which module is
running, and is somebody watching? The answers live here, one set per thread, and are changed only
by context managers, so nothing a block changes outlives it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F")


class _State(threading.local):
    grad_enabled: bool = True
    path: str = ""  # dotted path of the running module, "" outside of modules
    names: dict[int, str] | None = None  # id(module) -> dotted path below the outermost running module
    kernels: str = "fast"  # "fast": the quickest package for the arrays at hand; "generic": the textbook
    tf32: bool = False  # whether products on a GPU may round float32 numbers to TF32
    recorder: Any = None  # what a CUDA graph that is being recorded has to be told before each replay (see capture.py)
    watchers: tuple[Callable[..., None], ...] = ()  # called with (node, inputs, params, output) after every op
    observer: Callable[..., Callable] | None = None  # told what is about to run, says what runs instead; see ``observe``


state = _State()


class _GradMode(ContextDecorator):
    enabled: bool

    def __new__(cls, function: Callable | None = None) -> Any:
        """``@no_grad`` means the same as ``@no_grad()``."""
        return super().__new__(cls) if function is None else cls()(function)

    def __init__(self, function: Callable | None = None) -> None:
        self._outer: list[bool] = []  # a stack, so that one instance may be entered more than once

    def __enter__(self) -> None:
        self._outer.append(state.grad_enabled)
        state.grad_enabled = self.enabled

    def __exit__(self, *exc: object) -> None:
        state.grad_enabled = self._outer.pop()

    def _recreate_cm(self) -> _GradMode:
        return type(self)()  # one for each call of a decorated function, which may run in several threads

    def __call__(self, function: F) -> F:  # type: ignore[override]
        """Decorate a function; a generator function runs in this mode from one ``yield`` to the next."""
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)  # type: ignore[type-var]

        @wraps(function)
        def generator(*args: Any, **options: Any) -> Any:
            steps, sent = function(*args, **options), None
            try:
                while True:
                    with type(self)():
                        item = steps.send(sent)
                    sent = yield item
            except StopIteration as end:
                return end.value
            finally:
                steps.close()

        return generator  # type: ignore[return-value]


class no_grad(_GradMode):
    """Run operations without recording them: nothing is saved and ``backward`` cannot pass.

    Works as a context manager and as a decorator.

    >>> import minidl as md
    >>> w = md.ones(2, requires_grad=True)
    >>> with md.no_grad():
    ...     y = w * 3
    >>> y.requires_grad
    False
    """

    enabled = False


class enable_grad(_GradMode):
    """Record operations again inside a ``no_grad`` block.

    >>> import minidl as md
    >>> w = md.ones(2, requires_grad=True)
    >>> with md.no_grad(), md.enable_grad():
    ...     y = w * 3
    >>> y.requires_grad
    True
    """

    enabled = True


def is_grad_enabled() -> bool:
    """True when operations record the graph in this thread.

    >>> import minidl as md
    >>> with md.no_grad():
    ...     md.is_grad_enabled()
    False
    """
    return state.grad_enabled


@contextmanager
def watch(watcher: Callable[[Any, tuple, dict, Any], None]) -> Iterator[None]:
    """Call ``watcher(node, inputs, params, output)`` after every operation of this thread.

    ``inputs`` and ``output`` are arrays, ``node.name`` is the operation and ``node.path`` the module
    that ran it. Summaries, profiles and anomaly reports are built on this; it costs nothing when unused.

    >>> import minidl as md
    >>> with md.watch(lambda node, inputs, params, output: print(node.name, output.shape)):
    ...     y = md.relu(md.ones(2, 3) - 1)
    subtract (2, 3)
    relu (2, 3)
    """
    outer = state.watchers
    state.watchers = (*outer, watcher)
    try:
        yield
    finally:
        state.watchers = outer


@contextmanager
def observe(observer: Callable[[Any, str, Callable], Callable]) -> Iterator[None]:
    """Run what ``observer(node, phase, function)`` returns in place of every forward and backward of this thread.

    ``function(node, *arrays, **params)`` is an operation's forward or backward, as ``phase`` says. Unlike with ``watch``,
    layers stay fused: what runs is what runs without it. Profiles and the search for bad numbers are built on this.

    >>> import minidl as md
    >>> from minidl.context import observe
    >>> def announce(node, phase, function):
    ...     print(node.name, phase)
    ...     return function
    >>> with observe(announce):
    ...     md.relu(md.ones(2, requires_grad=True)).sum().backward()
    relu forward
    sum forward
    sum backward
    relu backward
    """
    outer = state.observer

    def nested(node: Any, phase: str, function: Callable) -> Callable:
        return outer(node, phase, observer(node, phase, function))  # type: ignore[misc]

    state.observer = observer if outer is None else nested
    try:
        yield
    finally:
        state.observer = outer


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Let an NVIDIA GPU round the factors of float32 products to TF32, for its tensor cores: several times as fast, less exact.

    TF32 has 10 bits of fraction instead of 23, so that products are right to about 3 digits; sums stay float32. It holds for
    convolutions, linear layers and matrix products of this thread, forward and backward, so put it around whole training
    steps. Nothing changes on the CPU, for float64, and outside of the block.

    >>> import minidl as md
    >>> with md.allow_tf32():
    ...     y = md.linear(md.ones(2, 3), md.ones(1, 3))
    """
    outer, state.tf32 = state.tf32, True
    try:
        yield
    finally:
        state.tf32 = outer
