"""Weights in files, in the safetensors format.

A safetensors file is a JSON header (names, dtypes, shapes, offsets) and the numbers; reading one cannot run
code, which is why pickle is not used. Files are written beside their destination and renamed when they are
complete, so that a crash leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minidl.backend import is_array, to_numpy
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn import Module
from minidl.tensor import Tensor

__all__ = ["load", "load_metadata", "load_weights", "save"]

CHECKPOINT, MODEL = "checkpoint", "model/"  # the metadata that marks a training checkpoint, and where its model lies
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, file larger than allowed
_KINDS = (  # how files of other kinds begin
    (re.compile(rb"PK\x03\x04"), "a zip archive, as NumPy's .npz and PyTorch's .pt files are"),
    (re.compile(rb"\x80[\x02-\x05][^\x00]"), "a pickle, which is not read because reading one can run code"),
    (re.compile(rb"\x93NUMPY"), "a NumPy .npy file"),
    (re.compile(rb"\x89HDF"), "an HDF5 file"),
)


def save(model: Module | Mapping[str, Any], path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers, or a dictionary of arrays, to a ``.safetensors`` file.

    Args:
        model: a module, of which ``state_dict()`` is written, or arrays or tensors by name.
        path: the file; one that exists is replaced.
        metadata: texts to keep with the weights, such as the model's name.

    Raises:
        ArgumentError: a folder in the file's place, or names or metadata that are no text.
        DtypeError: values that are no numbers.
        FileNotFoundError: a folder that does not exist.

    >>> import minidl as md, tempfile, os
    >>> from minidl import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     md.save(nn.Linear(4, 2), path, metadata={"classes": "2"})
    ...     sorted(md.load(path))
    ['bias', 'weight']
    """
    from safetensors.numpy import save as to_bytes

    values = model.state_dict() if isinstance(model, Module) else model
    if not isinstance(values, Mapping):
        raise DtypeError.of("save", "a Module or a dictionary of arrays", type(model).__name__)
    arrays = {_text("save", "names", name): _plain(name, value) for name, value in values.items()}
    texts = {_text("save", "metadata keys", k): _text("save", f"metadata[{k!r}]", v) for k, v in (metadata or {}).items()}
    if "__metadata__" in arrays:
        raise ArgumentError.of("save", "a name other than '__metadata__', which the format reserves", "'__metadata__'")
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"save: expected an existing folder, got {str(file.parent)!r} (to write {file.name!r}).")
    write_file(file, to_bytes(arrays, metadata=texts or None))


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of a ``.safetensors`` file.

    Raises:
        FileNotFoundError: no such file.
        ArgumentError: a file that is damaged, hostile or of another kind.

    >>> import minidl as md, numpy as np, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "two.safetensors")
    ...     md.save({"a": np.zeros((2, 3)), "b": np.arange(4)}, path)
    ...     {name: array.shape for name, array in md.load(path).items()}
    {'a': (2, 3), 'b': (4,)}
    """
    return read_file("load", path)[0]


def load_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Read the texts that ``save`` was given as ``metadata``; empty when there were none.

    Raises:
        FileNotFoundError: no such file.
        ArgumentError: a file that is damaged, hostile or of another kind.

    >>> import minidl as md, numpy as np, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "two.safetensors")
    ...     md.save({"a": np.zeros((2, 3)), "b": np.arange(4)}, path, metadata={"epoch": "3"})
    ...     md.io.load_metadata(path)
    {'epoch': '3'}
    """
    return read_file("load_metadata", path)[1]


def load_weights(model: Module, path: str | os.PathLike, strict: bool = True) -> tuple[list[str], list[str]]:
    """Read a ``.safetensors`` file into a model, which stays as it was when anything does not fit.

    Args:
        model: takes the values, in its own dtypes and on its own devices.
        path: a file that ``save`` wrote, or any with the keys of ``model.state_dict()``; of a training checkpoint
            the model's part is taken.
        strict: refuse missing and unexpected keys.

    Returns:
        The missing and the unexpected keys.

    Raises:
        FileNotFoundError: no such file.
        ArgumentError: a file that is damaged or of another kind; missing or unexpected keys (strict).
        ShapeError: an array of another shape than the model's.
        DtypeError: an array that holds no numbers, or floats for an integer buffer.

    >>> import minidl as md, os, tempfile
    >>> from minidl import nn
    >>> model, copy = nn.Linear(4, 2, rng=0), nn.Linear(4, 2, rng=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     md.save(model, path)
    ...     md.load_weights(copy, path)
    ([], [])
    >>> bool((copy.weight == model.weight).all())
    True
    """
    if not isinstance(model, Module):
        raise DtypeError.of("load_weights", "a Module", type(model).__name__)
    values, texts = read_file("load_weights", path)
    if CHECKPOINT in texts:
        values = {name.removeprefix(MODEL): array for name, array in values.items() if name.startswith(MODEL)}
    try:
        return model.load_state_dict(values, strict)
    except (ArgumentError, ShapeError, DtypeError) as error:
        raise type(error)(f"{error} File: {str(path)!r}.") from None


def _text(op: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentError.of(op, f"{name} as text", f"{type(value).__name__} {value!r}")
    return value


def _plain(name: str, value: Any) -> np.ndarray:
    """A C-contiguous array in the machine's byte order, as the format's writer takes it."""
    if isinstance(value, Tensor):
        value = value._array
    array = to_numpy(value) if is_array(value) else np.asarray(value)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise DtypeError.of("save", f"numbers of at most 64 bits as {name!r}", f"dtype {array.dtype}")
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def write_file(file: Path, data: bytes) -> None:
    """Write to a new file in the same folder, wait until it is on the disk, and put it in place.

    A crash or a power cut at any moment leaves the old file or the new one whole; an error leaves the old one.
    """
    if file.exists() and not file.is_file():
        kind = "the folder" if file.is_dir() else "the device"
        raise ArgumentError.of("save", "the path of a file", f"{kind} {str(file)!r}")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}.draft")
    try:
        with open(draft, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.remove(draft)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            size = f"{len(data):,} bytes in {str(file.parent)!r} for {file.name!r}"
            text = f"save: expected room for {size}, got: {error.strerror}. What the file held before is unchanged."
            raise OSError(error.errno, text) from error
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Wait until the new name is on the disk too; systems whose folders cannot be opened do this by themselves."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(op: str, path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a file, or an error that says what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{op}: expected a .safetensors file, got {str(file)!r}, which does not exist.")
    if not file.is_file():
        raise ArgumentError.of(op, "a .safetensors file", f"{str(file)!r}, which is a folder or a device")
    with open(file, "rb") as stream:
        start = stream.read(8)
    if int.from_bytes(start, "little") > file.stat().st_size:  # a .safetensors file begins with the length of its header
        for mark, kind in _KINDS:
            if mark.match(start):
                raise ArgumentError.of(op, "a .safetensors file", f"{str(file)!r}, which is {kind}")
    try:
        with safe_open(file, framework="np") as reader:
            arrays = {name: _array(op, file, reader, name) for name in reader.keys()}  # noqa: SIM118
            return arrays, dict(reader.metadata() or {})
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ArgumentError.of(op, "a complete .safetensors file", f"{str(file)!r}, in which: {reason}") from None


def _array(op: str, file: Path, reader: Any, name: str) -> np.ndarray:
    try:
        return reader.get_tensor(name)
    except (TypeError, AttributeError, ValueError) as error:  # bfloat16, float8, sizes beyond memory
        kind = reader.get_slice(name).get_dtype()
        raise ArgumentError.of(
            op, "arrays that NumPy can hold", f"{name!r} of dtype {kind} in {str(file)!r} ({error})"
        ) from None
