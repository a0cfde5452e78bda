"""Batches in memory that two processes share: one writes them, the other copies them out."""

from __future__ import annotations

import io
import math
import os
import pickle
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from minidl import memory

ALIGN = 64  # bytes; where arrays begin


class _Pickler(pickle.Pickler):
    """Pickles all of a batch but its arrays, which it puts aside."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not np.ndarray or value.dtype.kind not in "fiubcmMSU":
            return None  # objects and records are pickled with the rest
        self.arrays.append(value)
        return len(self.arrays) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: list[np.ndarray]) -> None:
        super().__init__(file)
        self.arrays = arrays

    def persistent_load(self, number: int) -> np.ndarray:
        return self.arrays[number]


class Writer:
    """A slot of the ring as the worker sees it: room for one batch, which grows to the largest that came.

    The batch is made in place where that is possible: ``empty`` hands out arrays in the slot. What was made elsewhere,
    or did not fit, is copied in by ``pack``. The names of segments follow from the slot's name and a number, so that
    the other side can remove them even when this process is killed between making one and telling about it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._generation = 0
        self._memory: SharedMemory | None = None
        self._owner = np.empty(0, np.uint8)
        self._used = 0  # bytes asked for, whether they fitted or not
        self._elsewhere: list[np.ndarray] = []  # arrays that should have been in the slot
        self._outgrown: list[SharedMemory] = []

    def clear(self) -> None:
        """Begin a new batch; nobody looks at the one before any more."""
        self._used = 0
        self._elsewhere.clear()
        self._outgrown = [segment for segment in self._outgrown if not _closed(segment)]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array in the slot; elsewhere when there is no room."""
        dtype = np.dtype(dtype)
        start, self._used = self._used, self._used + _aligned(math.prod(shape) * dtype.itemsize)
        if self._used > len(self._owner):
            self._elsewhere.append(np.empty(shape, dtype))
            return self._elsewhere[-1]
        return np.ndarray(shape, dtype, self._owner, start)

    def pack(self, batch: Any) -> tuple[int, int, int]:
        """Put a batch into the slot: (generation of the segment, where its description begins, how long that is)."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(batch)
        arrays, rest = pickler.arrays, file.getvalue()
        placed = [self._offset(array) for array in arrays]
        # The description holds a place per array, which is a few numbers, and is not known before they are placed.
        room = len(rest) + 1024 + sum(256 + 64 * array.ndim for array in arrays)
        outside = [array for array, offset in zip(arrays, placed) if offset is None]
        if self._used + sum(_aligned(array.nbytes) for array in outside) + room > len(self._owner):
            # As much as the next such batch takes: those elsewhere will be in the slot, where they are counted already.
            asked = {id(array) for array in self._elsewhere}
            self._grow(self._used + sum(_aligned(a.nbytes) for a in outside if id(_root(a)) not in asked) + room)
            placed = [None] * len(arrays)
        places = []
        for array, offset in zip(arrays, placed):
            strides = array.strides
            if offset is None:
                copy = self._like(array)
                copy[...] = array
                offset, strides = self._offset(copy), copy.strides
                del copy
            places.append((offset, array.shape, strides, array.dtype.str))
        description = pickle.dumps((places, rest), protocol=5)
        start = self._used
        self._owner[start : start + len(description)] = np.frombuffer(description, np.uint8)
        return self._generation, start, len(description)

    def _like(self, array: np.ndarray) -> np.ndarray:
        """An array in the slot with the shape, dtype and memory order of another."""
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        return self.empty(tuple(array.shape[axis] for axis in order), array.dtype).transpose(np.argsort(order))

    def _offset(self, array: np.ndarray) -> int | None:
        """Where in the slot an array begins; None for those elsewhere."""
        return array.ctypes.data - self._owner.ctypes.data if _root(array) is self._owner else None

    def _grow(self, size: int) -> None:
        size = -(-(size + size // 8) // 65536) * 65536  # an eighth more, so that batches of varying size settle soon
        self._generation += 1
        if self._memory is not None:
            self._outgrown.append(self._memory)
        self._memory = create(f"{self.name}-{self._generation}", size)
        assert self._memory.buf is not None
        self._owner, self._used = np.frombuffer(self._memory.buf, np.uint8), 0

    def close(self) -> None:
        """Unmap the memory; the other side removes it."""
        self._owner = np.empty(0, np.uint8)
        self.clear()
        if self._memory is not None:
            _closed(self._memory)


class Reader:
    """A slot of the ring as the process sees it that copies the batches out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._generation = 0
        self._memory: SharedMemory | None = None

    def unpack(self, generation: int, start: int, length: int) -> Any:
        """The batch, in memory of its own and in the same memory order; the slot is free afterwards."""
        if generation != self._generation:
            self._remove()
            self._memory = SharedMemory(f"{self.name}-{generation}")
            self._generation = generation
        assert self._memory is not None
        assert self._memory.buf is not None
        places, rest = pickle.loads(self._memory.buf[start : start + length])
        arrays = []
        for offset, shape, strides, dtype in places:
            shared: np.ndarray = np.ndarray(shape, dtype, self._memory.buf, offset, strides)
            array = memory.empty_like(shared)
            array[...] = shared
            arrays.append(array)
            del shared
        return _Unpickler(io.BytesIO(rest), arrays).load()

    def close(self) -> None:
        """Remove the slot's memory, also when the worker had just made a larger one without telling."""
        self._remove()
        with suppress(FileNotFoundError):
            self._memory = SharedMemory(f"{self.name}-{self._generation + 1}")
            self._remove()

    def _remove(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None


def create(name: str, size: int) -> SharedMemory:
    """A segment whose pages are there: where shared memory is full, this fails, and not the first write by a signal."""
    segment = SharedMemory(name, create=True, size=size)
    path = Path("/dev/shm") / name
    if hasattr(os, "posix_fallocate") and path.exists():
        file = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            segment.close()
            segment.unlink()
            hint = "Give /dev/shm more room (docker run --shm-size), or use fewer workers or smaller batches"
            raise MemoryError(f"no room for {size} bytes of shared memory: {error}. {hint}, or threads.") from error
        finally:
            os.close(file)
    return segment


def _root(array: np.ndarray) -> np.ndarray:
    """The array that an array is a view of in the end; itself when it is none."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _closed(segment: SharedMemory) -> bool:
    """Unmap a segment; False when an array still looks at it, because user code kept one."""
    try:
        segment.close()
    except BufferError:
        return False
    return True
