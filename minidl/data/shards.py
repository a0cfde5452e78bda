"""Datasets larger than memory: .npy files of which only the examples asked for are read."""

from __future__ import annotations

import operator
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset, describe, in_memory
from minidl.errors import ArgumentError, ShapeError


class ShardDataset:
    """Images and labels in pairs of files ``images_*.npy`` and ``labels_*.npy``, mapped into memory and read when needed.

    ``dataset[i]`` is one pair (image, label); a slice, a list of indices or a mask is read at once, as an ``ArrayDataset``.
    ``write_shards`` makes such files. The labels are kept in memory; other processes open the files anew.

    Args:
        path: a folder, or a list of the ``images_*.npy`` files in the order they are to have. A folder's are sorted by number.
        classes: the names of the classes; None takes the lines of ``classes.txt`` beside the first file, if it exists.

    Raises:
        FileNotFoundError: no such files, or images without their labels.
        ArgumentError: a file that is no array, or cut short.
        ShapeError: files whose images or numbers of examples do not fit.

    >>> import tempfile
    >>> import numpy as np
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pets = md.data.ArrayDataset(np.arange(10)[:, None], np.arange(10) % 2, ["cat", "dog"])
    ...     _ = md.data.write_shards(pets, folder, size=4)
    ...     shards = md.data.ShardDataset(folder)
    ...     shards, shards[9], shards[[8, 1]].images.ravel()
    (ShardDataset(10 examples of shape (1,), int64, in 3 files, 2 classes), (array([9]), 1), array([8, 1]))
    """

    def __init__(self, path: Any, classes: Sequence[str] | None = None) -> None:
        if isinstance(path, (str, os.PathLike)):
            folder = Path(path).expanduser().absolute()
            if not folder.is_dir():
                raise FileNotFoundError(f"ShardDataset: expected a folder of images_*.npy, got {folder}, which is none.")
            self.paths = sorted(folder.glob("images_*.npy"), key=_by_number)
        else:
            self.paths = [Path(each).expanduser().absolute() for each in path]
        if not self.paths:
            raise FileNotFoundError(f"ShardDataset: expected files images_*.npy, got none in {path!s}.")
        self._maps: list[np.ndarray] | None = self._open()
        labels = [_map(_labels_of(path)) for path in self.paths]
        for path, images, numbers in zip(self.paths, self._maps, labels):
            if numbers.shape != (len(images),) or numbers.dtype.kind not in "iu":
                expected = f"{len(images)} whole numbers in {_labels_of(path)}"
                raise ShapeError.of("ShardDataset", expected, f"{numbers.dtype} of shape {numbers.shape}")
            first = self._maps[0]
            if images.shape[1:] != first.shape[1:] or images.dtype != first.dtype:
                expected = f"{path} as the first file, {first.dtype} of shape {('N', *first.shape[1:])}"
                raise ShapeError.of("ShardDataset", expected, f"{images.dtype} of shape {images.shape}")
        self.labels = np.concatenate(labels).astype(np.int64)
        self._ends = np.cumsum([len(images) for images in self._maps])
        names = self.paths[0].with_name("classes.txt")
        if classes is None and names.is_file():
            classes = names.read_text(encoding="utf-8").splitlines()
        self.classes = None if classes is None else tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice) and np.ndim(index) == 0:
            i = range(len(self))[operator.index(index)]
            return self._read(np.array([i]))[0], int(self.labels[i])
        index = index if isinstance(index, slice) else np.asarray(index, None if len(index) else np.int64)
        indices = np.arange(len(self))[index]
        return ArrayDataset(self._read(indices), self.labels[indices], self.classes)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes is not None else ""
        files = f"in {len(self.paths)} file{'s' * (len(self.paths) > 1)}"
        return f"ShardDataset({describe(len(self), self._arrays()[0])}, {files}{classes})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # a mapped array would be sent with all its content

    def _arrays(self) -> list[np.ndarray]:
        if self._maps is None:
            self._maps = self._open()
        return self._maps

    def _open(self) -> list[np.ndarray]:
        return [_map(path) for path in self.paths]

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """These examples, in this order, as a new array; each file is visited once."""
        maps = self._arrays()
        shard = np.searchsorted(self._ends, indices, side="right")
        starts = self._ends - [len(images) for images in maps]
        out = np.empty((len(indices), *maps[0].shape[1:]), maps[0].dtype)
        for s in np.unique(shard):
            here = np.flatnonzero(shard == s)
            out[here] = maps[s][indices[here] - starts[s]]
        return out


def write_shards(dataset: Any, folder: Any, size: int = 10_000) -> list[Path]:
    """Write a dataset as files ``images_*.npy`` and ``labels_*.npy``, which ``ShardDataset`` reads.

    Args:
        dataset: anything with ``len(dataset)`` and ``dataset[i]`` -> (array, label), all arrays of one shape and dtype.
        folder: where to; it is made if needed, and must not hold shards already.
        size: examples per file.

    Returns:
        The paths of the images' files. Either all files are written or none.

    Raises:
        ArgumentError: a size below 1; a folder with shards; classes whose names have more than one line.
        ShapeError: examples of different shapes, or none.

    >>> import tempfile
    >>> import numpy as np
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digits = md.data.ArrayDataset(np.zeros((5, 1, 8, 8), np.uint8), [3, 1, 4, 1, 5])
    ...     [path.name for path in md.data.write_shards(digits, folder, size=2)]
    ['images_0000.npy', 'images_0001.npy', 'images_0002.npy']
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ArgumentError.of("write_shards", "size as a whole number of at least 1", repr(size))
    target = Path(folder).expanduser().absolute()
    if any(target.glob("images_*.npy")):
        raise ArgumentError.of("write_shards", "a folder without shards", f"{target}, which has some", "Remove them first.")
    if not len(dataset):
        raise ShapeError.of("write_shards", "at least one example", "an empty dataset")
    classes = getattr(dataset, "classes", None)
    if classes is not None and any(len(str(name).splitlines()) != 1 for name in classes):
        raise ArgumentError.of("write_shards", "names of classes in one line each", repr(classes))
    target.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    first: np.ndarray | None = None
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target) as hidden:  # what is not whole never has its name
        for number, start in enumerate(range(0, len(dataset), size)):
            part = in_memory(_Range(dataset, start, min(start + size, len(dataset))))
            first = part.images[0] if first is None else first
            if part.images.shape[1:] != first.shape or part.images.dtype != first.dtype:
                expected = f"example {start} like the first one, {first.dtype} of shape {first.shape}"
                got = f"{part.images.dtype} of shape {part.images.shape[1:]}"
                raise ShapeError.of("write_shards", expected, got)
            paths.append(target / f"images_{number:04}.npy")
            np.save(Path(hidden, paths[-1].name), part.images)
            np.save(Path(hidden, _labels_of(paths[-1]).name), part.labels)
        if classes is not None:
            Path(hidden, "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        for path in sorted(Path(hidden).iterdir(), key=_is_image):  # images last: they are what is looked for
            path.replace(target / path.name)
    return paths


class _Range:
    """A run of examples."""

    def __init__(self, dataset: Any, start: int, stop: int) -> None:
        self.dataset, self.start, self.stop = dataset, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Any:
        return self.dataset[self.start + i]


def _by_number(path: Path) -> list[Any]:
    """images_10 after images_9."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", path.name)]


def _is_image(path: Path) -> bool:
    return path.name.startswith("images")


def _labels_of(path: Path) -> Path:
    return path.with_name("labels" + path.name.removeprefix("images"))


def _map(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"ShardDataset: expected the file {path}, got none.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArgumentError.of("ShardDataset", f"an array of numbers in {path}", str(error)) from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise ArgumentError.of("ShardDataset", f"an array with one row per example in {path}", type(array).__name__)
    return array
