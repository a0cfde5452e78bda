"""ImageFolder: image files in a folder or a zip archive, one folder per class, decoded when they are asked for."""

from __future__ import annotations

import io
import operator
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import Subset
from minidl.errors import ArgumentError, DtypeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MODES = {"rgb": "RGB", "gray": "L"}


class ImageFolder:
    """Images in a folder or a zip archive that has one folder per class.

    ``dataset[i]`` decodes one file and gives (uint8 array of shape (C, H, W), label); a slice, a list of indices or a mask
    gives a ``Subset``. Nothing is kept in memory (``md.data.in_memory`` does that), nothing is unpacked to the disk. Threads
    may share one, and it is cheap to send to another process: no file stays open.

    Args:
        path: the folder or zip archive; ``pets.zip/train`` is the folder ``train`` in an archive. Where everything lies in one
            folder more, as in most archives, that folder is looked through.
        transform: called with the Pillow image; what it returns is the example, an array in place of a Pillow image. For what
            is the same every time, as a change of size; random transforms belong to the ``DataLoader``.
        mode: "rgb" for three channels or "gray" for one; every file is converted.

    ``names`` are the files, ``labels`` their classes as int64 and ``classes`` the names of the folders, sorted.

    Notes: transparent pictures are drawn on white paper; of 16 bits the upper 8 are used; the first frame of an animation; a
    photograph's orientation tag is not followed.

    Raises:
        FileNotFoundError: no such folder or archive.
        ArgumentError: no image; an image beside the folders; a folder without one; an archive that is damaged, or packed in
            another way than deflate; and later, for ``dataset[i]``, a file that Pillow cannot read.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         Image.new("RGB", (40, 30), "white").save(pathlib.Path(folder, name, "1.png"))
    ...     pets = md.data.ImageFolder(folder, transform=lambda picture: picture.resize((20, 20)))
    ...     image, label = pets[1]
    >>> pets.names, pets.classes, image.shape, label
    (['cat/1.png', 'dog/1.png'], ('cat', 'dog'), (3, 20, 20), 1)
    """

    def __init__(self, path: Any, transform: Callable[[Any], Any] | None = None, mode: str = "rgb") -> None:
        if mode not in MODES:
            raise ArgumentError.of("ImageFolder", "mode as 'rgb' or 'gray'", repr(mode))
        if transform is not None and not callable(transform):
            raise DtypeError.of("ImageFolder", "a function as transform", type(transform).__name__)
        self.path = Path(path).expanduser().absolute()
        self.transform = transform
        self.mode = mode
        self._files = _open(self.path)
        top, self.names = _below_top(self._files.names, self.path)
        folders = {name[len(top) :].split("/")[0] for name in self._files.folders if name.startswith(top)} - {""}
        of_image = [name.split("/")[0] for name in self.names]
        for name in sorted(folders - set(of_image)):
            hint = f"Remove the folder; files count as images when their names end in {', '.join(SUFFIXES)}."
            raise ArgumentError.of("ImageFolder", f"an image in every folder of {self.path}", f"none in {top}{name}", hint)
        self.classes = tuple(sorted(set(of_image)))
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([number[name] for name in of_image], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) or np.ndim(index) > 0:
            return Subset(self, np.arange(len(self)))[index]
        i = operator.index(index)
        x = self._decode(i)
        if self.transform is not None:
            x = self.transform(x)
        from PIL import Image

        return (_as_array(x) if isinstance(x, Image.Image) else x), int(self.labels[i])

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images of {len(self.classes)} classes in {self.path}, {self.mode})"

    def _decode(self, i: int) -> Any:
        """The picture of one file in this dataset's mode."""
        from PIL import Image, UnidentifiedImageError

        name, data = self.names[i], self._files.read(i)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return _plain(picture).convert(MODES[self.mode])
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
            got = "a file that Pillow cannot read" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ArgumentError.of("ImageFolder", f"an image in {self.path / name}", got, "Repair or remove it.") from error


def _plain(picture: Any) -> Any:
    """A picture of 8 bits without transparency."""
    from PIL import Image

    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture.convert("RGBA"))
    if picture.mode[0] in "IF":  # which convert() would cut off at 255
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"values of 8 or 16 bits are read, and these are of mode {picture.mode}")
        return Image.fromarray((values >> 8).astype(np.uint8))
    return picture


def _as_array(picture: Any) -> np.ndarray:
    """A picture as (C, H, W)."""
    pixels = np.array(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _below_top(names: list[str], path: Path) -> tuple[str, list[str]]:
    """The one folder in which all classes lie ("" where there is none), and the images without it."""
    if not names:
        raise ArgumentError.of("ImageFolder", f"images in {path}", "none", f"Their names end in {', '.join(SUFFIXES)}.")
    top = names[0].split("/")[0] + "/"
    if all(name.startswith(top) and name.count("/") > 1 for name in names):
        return top, [name[len(top) :] for name in names]
    for name in names:
        if "/" not in name:
            raise ArgumentError.of("ImageFolder", f"every image of {path} in the folder of its class", f"{name} in none")
    return "", names


def _open(path: Path) -> _Folder | _Zip:
    """What reads the files of a folder, of a zip archive, or of a folder in one."""
    if path.is_dir():
        return _Folder(path)
    for archive in (path, *path.parents):
        if archive.is_file():
            return _Zip(archive, path.relative_to(archive).as_posix())
    raise FileNotFoundError(f"ImageFolder: expected a folder or a zip archive, got {path}, which does not exist.")


def _images(names: Iterable[str]) -> list[str]:
    """Those with the ending of an image; hidden files and what macOS adds to archives are none."""
    return sorted(name for name in names if name.lower().endswith(SUFFIXES) and not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class _Folder:
    """The image files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found: list[str] = []
        self.folders: list[str] = []
        seen = set()
        for folder, below, files in os.walk(path, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()  # a link to a folder above would go on for ever
                continue
            seen.add(real)
            below[:] = [name for name in below if not _is_hidden(name)]
            start = Path(folder).relative_to(path)
            self.folders += [(start / name).as_posix() + "/" for name in below]
            found += [(start / name).as_posix() for name in files]
        self.names = _images(found)

    def read(self, i: int) -> bytes:
        return (self.path / self.names[i]).read_bytes()


class _Zip:
    """The image files in a zip archive: where each lies, so that no archive need stay open (threads, other processes)."""

    def __init__(self, path: Path, inside: str) -> None:
        self.path = path
        start = "" if inside == "." else inside + "/"
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
        except zipfile.BadZipFile as error:
            raise ArgumentError.of("ImageFolder", f"a folder or a zip archive, as {path}", str(error)) from error
        if start and not any(name.startswith(start) for name in entries):
            raise FileNotFoundError(f"ImageFolder: expected the folder {inside} in {path}, got none of this name.")
        below = {name[len(start) :]: entry for name, entry in entries.items() if name.startswith(start)}
        self.folders = [name for name in below if name.endswith("/") and not _is_hidden(name)]
        self.names = _images(below)
        chosen = [below[name] for name in self.names]
        for entry in chosen:
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                got = "encrypted" if entry.flag_bits & 1 else f"method {entry.compress_type}"
                hint = "Unpack it, and give the folder."
                raise ArgumentError.of("ImageFolder", f"{entry.filename} in {path} stored or deflated", got, hint)
        self.entries = np.array(
            [(e.header_offset, e.compress_size, e.file_size, e.CRC, e.compress_type) for e in chosen], np.int64
        ).reshape(-1, 5)

    def read(self, i: int) -> bytes:
        offset, packed, size, crc, method = self.entries[i].tolist()
        with self.path.open("rb") as file:
            file.seek(offset)
            header = file.read(30)  # the local header, then name and extra field, whose lengths it ends with
            if header[:4] == b"PK\x03\x04" and len(header) == 30:
                file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)
            data = file.read(packed)
        try:
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            if len(data) == size and zlib.crc32(data) == crc:
                return data
            problem = "another content than its table says"
        except zlib.error as error:
            problem = str(error)
        raise ArgumentError.of("ImageFolder", f"a whole file {self.names[i]} in {self.path}", problem)
