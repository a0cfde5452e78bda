"""Batches on their way to a GPU while the one before is computed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minidl.backend import cupy, parse_device, to_device
from minidl.errors import ArgumentError, DtypeError


def to_gpu(batches: Iterable[Any], device: str = "cuda") -> Iterator[Any]:
    """The batches as CuPy arrays; the next one is copied while you work with the present one (double buffering).

    The arrays go through pinned (page-locked) memory and a stream of their own, so that the copy runs beside kernels.

    Args:
        batches: a ``DataLoader`` or any iterable of NumPy arrays, or of tuples of them.
        device: "cuda" or "cuda:N".

    Returns:
        An iterator of the same arrays on the GPU, in the same memory order. They belong to the stream that is current
        when the iterator advances, as if they had been made there.

    Raises:
        ArgumentError: a device that is no GPU.
        DtypeError: batches of something else than NumPy arrays.
        DeviceError: a GPU that is not there, or CuPy missing.

    >>> import numpy as np
    >>> import minidl as md
    >>> try:
    ...     for x, y in md.data.to_gpu([(np.zeros((2, 3)), np.arange(2))]):
    ...         print(type(x).__module__.split(".")[0], x.shape)
    ... except md.DeviceError:  # no GPU here
    ...     print("cupy (2, 3)")
    cupy (2, 3)
    """
    index = parse_device(device)
    if index is None:
        raise ArgumentError.of("to_gpu", "a GPU: 'cuda' or 'cuda:N'", repr(device))
    cp = cupy()
    to_device(np.empty(0), device)  # refuses a GPU that is not there
    return _double_buffered(cp, batches, index)


def _double_buffered(cp: Any, batches: Iterable[Any], index: int) -> Iterator[Any]:
    with cp.cuda.Device(index):
        copying = cp.cuda.Stream(non_blocking=True)
    before = None
    for batch in batches:
        with cp.cuda.Device(index):
            after = _send(cp, batch, copying)
        if before is not None:
            yield _receive(cp, index, *before)
        before = after
    if before is not None:
        yield _receive(cp, index, *before)


def _send(cp: Any, batch: Any, copying: Any) -> tuple[Any, Any, list[np.ndarray]]:
    """Start to copy a batch: (the arrays to be, the event when they are, the pinned memory they come from)."""
    pinned, targets, shown = [], [], []
    for array in batch if isinstance(batch, (tuple, list)) else (batch,):
        if not isinstance(array, np.ndarray):
            raise DtypeError.of("to_gpu", "batches of NumPy arrays, or of tuples of them", type(array).__name__)
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        source = array.transpose(order)
        block = cp.cuda.alloc_pinned_memory(max(source.nbytes, 1))  # from CuPy's pool of pinned blocks
        pinned.append(np.ndarray(source.shape, source.dtype, block))
        pinned[-1][...] = source
        targets.append(cp.empty(source.shape, source.dtype))  # of the current stream, where it is used and freed
        shown.append(targets[-1].transpose(np.argsort(order).tolist()))
    # Kernels queued before this point may still read what the memory held before.
    copying.wait_event(cp.cuda.get_current_stream().record())
    for target, stage in zip(targets, pinned):
        target.set(stage, stream=copying)
    return (tuple(shown) if isinstance(batch, (tuple, list)) else shown[0]), copying.record(), pinned


def _receive(cp: Any, index: int, batch: Any, done: Any, pinned: list[np.ndarray]) -> Any:
    """The batch, for the current stream; ``pinned`` goes back to its pool once the copy, which had a step's time, has run."""
    with cp.cuda.Device(index):
        cp.cuda.get_current_stream().wait_event(done)
    done.synchronize()
    return batch
