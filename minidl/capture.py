"""capture: a training step on an NVIDIA GPU, recorded once as a CUDA graph and then replayed.

A small network on a large GPU is slow for a silly reason: every operation costs Python some microseconds, and the GPU is done
before the next one arrives. A CUDA graph is a list of kernels with all their arguments, which the GPU walks through by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import numpy as np

from minidl import backend
from minidl.backend import Array
from minidl.context import state
from minidl.errors import ArgumentError, DeviceError, GraphError
from minidl.tensor import Tensor

__all__ = ["Captured", "capture"]

R = TypeVar("R")
# Calls that run as they are, before one is recorded: they make the optimizer's state and compile the kernels, the last one also
# those that only recordings use, since nothing may be compiled while CUDA records.
EAGER = 2


class Captured(Generic[R]):
    """A step and, after a few calls, the recording of it: what ``capture`` returns.

    ``recorded`` tells whether calls replay; ``forget()`` lets the next calls run as they are, and records anew: after a
    change of what the step does, which a recording does not see (a layer frozen, evaluation mode, another loss).
    """

    def __init__(self, step: Callable[..., R]) -> None:
        self._step = step
        self.forget()

    @property
    def recorded(self) -> bool:
        """Whether there is a recording."""
        return self._graph is not None

    def forget(self) -> None:
        """Throw the recording away."""
        self._calls = 0
        self._graph: Any = None
        self._pool: Any = None
        self._inputs: list[Tensor] = []
        self._result: Any = None
        self._recorder = Recorder()

    def __call__(self, *inputs: Any) -> R:
        """Run the step, or replay it with these values."""
        if self._graph is not None:
            self._take(inputs)
            self._recorder.advance()
            self._graph.launch(self._cupy.cuda.get_current_stream())
            return self._result
        if self._calls == EAGER:
            return self._record(inputs)
        self._calls += 1
        with _recording(Recorder(rehearsal=True)) if self._calls == EAGER else nullcontext():
            return self._step(*inputs)

    def _record(self, inputs: tuple) -> R:
        """Run the step once without doing anything but noting the kernels; then replay it for the first time."""
        cp = self._cupy = backend.cupy()
        self._inputs = [_own(cp, value) for value in inputs]
        self._pool = cp.cuda.MemoryPool()  # what the graph writes to belongs to the graph, and to nobody else
        stream = cp.cuda.Stream(non_blocking=True)
        cp.cuda.Device().synchronize()
        with cp.cuda.using_allocator(self._pool.malloc), _recording(self._recorder), stream:
            stream.begin_capture()
            try:
                result = self._step(*self._inputs)
                self._result = _detached(result)
            except Exception as error:
                _abandon(stream)
                self.forget()
                if _forbidden(error):
                    raise _waits(error) from error
                raise
            graph = stream.end_capture()
        graph.upload(stream)
        stream.synchronize()
        self._graph = graph
        self._recorder.begin()
        self._graph.launch(cp.cuda.get_current_stream())
        return self._result

    def _take(self, inputs: tuple) -> None:
        """Put new values where the graph reads them."""
        if len(inputs) != len(self._inputs):
            raise ArgumentError.of("capture", f"{len(self._inputs)} inputs, as when it was recorded", str(len(inputs)))
        for i, (own, value) in enumerate(zip(self._inputs, inputs)):
            array = value._array if isinstance(value, Tensor) else value
            if not backend.is_array(array) or array.shape != own.shape or array.dtype != own.dtype:
                got = f"{array.dtype} of shape {array.shape}" if backend.is_array(array) else type(value).__name__
                hint = "Leave a smaller last batch out (DataLoader(..., drop_last=True)), or capture it apart."
                raise ArgumentError.of("capture", f"input {i} as recorded, {own.dtype} of shape {own.shape}", got, hint)
        for own, value in zip(self._inputs, inputs):
            array = value._array if isinstance(value, Tensor) else value
            if isinstance(array, np.ndarray):
                backend.overwrite(own._array, array)
            else:
                own._array[...] = array


def capture(step: Callable[..., R]) -> Captured[R]:
    """Make a training step on an NVIDIA GPU replayable: no Python and no launches between its kernels.

    The first two calls run the step as it is. The third records it as a CUDA graph, from then on calls replay the graph:
    they copy the inputs to where it reads them, tell it the optimizer's step and learning rate, and launch it. The results
    are those of the step itself.

    Args:
        step: does one step, with tensors or arrays as arguments, all of the same shapes in every call: forward, backward,
            optimizer.step(). It returns a tensor, a tuple or dictionary of tensors, or None.

    Returns:
        ``Captured``, to be called as ``step`` is. What it returns is overwritten by the next call: take ``loss.item()`` or a
        copy before it, if at all; every ``item()`` waits for the GPU.

    Notes:
        Python in the step runs only three times. So it must not depend on values (``if loss.item() > 1``), and nothing may
        wait for the GPU or copy to the host. Dropout draws new masks in every replay; running statistics of normalisations
        go on. A step that changes (frozen layers, ``eval()``, clipping switched on) is recorded anew after ``forget()``.
        Matrix products come from minidl's own kernels within a recording.
    Raises:
        ArgumentError: inputs of another shape, dtype or number than those that were recorded.
        GraphError: the step waits for the GPU, as ``item()`` and ``print`` do.
        DeviceError: inputs on the CPU, no GPU, no CuPy (when the recording is made).

    >>> import minidl as md
    >>> from minidl import nn, optim
    >>> model = nn.Linear(4, 2).to("cuda")  # doctest: +SKIP
    >>> optimizer = optim.Adam(model.parameters())  # doctest: +SKIP
    >>> @md.capture  # doctest: +SKIP
    ... def step(x, t):
    ...     optimizer.zero_grad()
    ...     loss = md.cross_entropy(model(x), t)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    """
    if not callable(step):
        raise ArgumentError.of("capture", "a function", repr(step))
    return Captured(step)


class Recorder:
    """What a recording has to be told before each replay: optimizers and random masks come to it while it is made."""

    def __init__(self, rehearsal: bool = False) -> None:
        self._rehearsal = rehearsal
        self._optimizers: list[tuple[Any, list[tuple[Tensor, Any]]]] = []
        self._seeds: list[tuple[Array, np.random.Generator, int]] = []
        self._kept: list[Array] = []

    def keep(self, array: Array) -> None:
        """What the graph reads, and nobody else holds."""
        self._kept.append(array)

    def optimizer(self, optimizer: Any) -> None:
        """An optimizer that has stepped."""
        gradients = [(p, p._grad) for group in optimizer.param_groups for p in group["params"]]
        self._optimizers.append((optimizer, gradients))

    def seed(self, like: Array, value: int, rng: np.random.Generator) -> Array:
        """A seed in device memory, of shape (1,): the drawn value in the first replay, in each of the others a new one."""
        xp = backend.xp_of(like)
        stored = xp.array([value]) if self._rehearsal else xp.empty(1, np.int64)
        self._seeds.append((stored, rng, value))
        return stored

    def advance(self) -> None:
        """Make the next replay the next step."""
        for optimizer, gradients in self._optimizers:
            for p, gradient in gradients:  # where the graph writes them, whatever zero_grad() has done since
                p._grad = gradient
            optimizer.advance()
        for stored, rng, _ in self._seeds:
            stored.set(rng.integers(1 << 63, size=1))

    def begin(self) -> None:
        """Make the first replay the step that was recorded."""
        for stored, _, value in self._seeds:
            stored.set(np.array([value]))


@contextmanager
def _recording(recorder: Recorder) -> Iterator[None]:
    if state.recorder is not None:
        raise GraphError.of("capture", "one recording at a time", "a captured step within another")
    state.recorder = recorder
    try:
        yield
    finally:
        state.recorder = None


def _own(cp: Any, value: Any) -> Tensor:
    """An input's own memory on the GPU, in its memory order."""
    array = value._array if isinstance(value, Tensor) else value
    if not backend.is_array(array):
        raise ArgumentError.of("capture", "tensors and arrays as inputs", type(value).__name__)
    if isinstance(value, Tensor) and isinstance(array, np.ndarray):
        raise DeviceError.of("capture", "a step on an NVIDIA GPU", "a tensor on the CPU", "Call it as it is, without capture.")
    if isinstance(array, np.ndarray):
        return Tensor.wrap(backend.to_device(array, f"cuda:{cp.cuda.runtime.getDevice()}"))
    return Tensor.wrap(cp.array(array, order="K"))


def _detached(result: Any) -> Any:
    """The results without their graph of operations, which has been walked."""
    if isinstance(result, Tensor):
        return result.detach()
    if isinstance(result, (tuple, list)):
        return type(result)(map(_detached, result))
    if isinstance(result, dict):
        return {name: _detached(value) for name, value in result.items()}
    if result is None:
        return None
    raise ArgumentError.of("capture", "tensors, or None, from the step", type(result).__name__)


def _abandon(stream: Any) -> None:
    """End a capture that has failed; CUDA reports the failure once more."""
    try:
        stream.end_capture()
    except (RuntimeError, NotImplementedError):
        return


def _forbidden(error: BaseException) -> bool:
    """Whether an error says that something cannot be recorded."""
    return "captur" in str(error).lower()


def _waits(error: BaseException) -> GraphError:
    if isinstance(error, NotImplementedError):  # CuPy's word for cuBLAS
        hint = "Write matrix products with minidl's operations (x @ y of tensors), which have kernels for it."
        return GraphError.of("capture", "a step of kernels that CuPy can record", str(error), hint)
    hint = "Take .item(), print(), numpy() and copies from the host out of the step; look at its result afterwards."
    return GraphError.of("capture", "a step that never waits for the GPU", str(error).splitlines()[0], hint)
