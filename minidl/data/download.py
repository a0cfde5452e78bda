"""Published data files: found where they lie already, or downloaded from the first mirror that has them, and always checked.

A file counts only when its SHA-256 (or that of what is packed in it) is the published one. Downloads go to a ``.part`` file
and continue there after an interruption; the file takes its own name when it is whole. Three environment variables:

- ``MINIDL_HOME``: the folder for what is downloaded, instead of the platform's own cache folder;
- ``MINIDL_MIRROR``: a base URL that is asked first, for ``<name of the data set>/<name of the file>``;
- ``MINIDL_OFFLINE=1``: never use the network.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from minidl.errors import ArgumentError

TRANSFERS = 5  # how often one mirror may break off and be asked for the rest
TIMEOUT = (10, 30)  # seconds to connect, and seconds without a byte

logger = logging.getLogger("minidl")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Remote:
    """One published file: its name, its bytes, their hash, and the hash of what a gzip file holds (or None)."""

    name: str
    size: int
    sha256: str
    content: str | None = None  # "sha256:..." or "md5:..."; gzip files differ by their date though they hold the same


@dataclass(frozen=True)
class Source:
    """A published data set: its files, who serves them, and the folders in which other libraries keep them.

    ``folders`` are below the root folder given to torchvision; ``keras`` is below Keras's own.
    """

    name: str
    files: tuple[Remote, ...]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...] = ()
    keras: str | None = None


def home() -> Path:
    """The folder for downloaded data sets: ``MINIDL_HOME``, or ``minidl`` in the platform's cache folder.

    >>> from minidl.data.download import home
    >>> home().is_absolute()
    True
    """
    given = os.environ.get("MINIDL_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import pooch

    return pooch.os_cache("minidl")


def folder_of(source: Source, root: Any = None) -> Path:
    """Where the files of a data set are put: in a folder of its name in ``root``, or in minidl's own folder."""
    return (home() if root is None else Path(root).expanduser().absolute()) / source.name


def keras_folder() -> Path:
    """Where Keras keeps what it downloads."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"


def matches(path: Path, sha256: str, content: str | None = None) -> bool:
    """Whether a file is there and has this SHA-256, or holds (as a gzip file or as it is) the content of this hash."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            return True
    if content is None:
        return False
    algorithm, expected = content.split(":")
    try:
        with open_packed(path) as unpacked:
            return hashlib.file_digest(unpacked, algorithm).hexdigest() == expected
    except (gzip.BadGzipFile, EOFError, zlib.error):  # cut short or damaged
        return False


def open_packed(path: Path) -> gzip.GzipFile | BufferedReader:
    """A file for reading, unpacked where it is a gzip file."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def find(source: Source, file: Remote, root: Any = None) -> Path | None:
    """A whole copy of a file on this machine: minidl's own, or one of torchvision or Keras; None where there is none."""
    own = folder_of(source, root)
    places = [own, own.parent, *(own.parent / folder for folder in source.folders)]
    if root is None:
        places += [Path("data", folder).absolute() for folder in source.folders]  # torchvision's examples: root="data"
        places += [keras_folder() / source.keras] if source.keras else []
    for place in places:
        for name in dict.fromkeys((file.name, file.name.removesuffix(".gz"))):
            if matches(place / name, file.sha256, file.content):
                return place / name
    return None


def fetch(source: Source, file: Remote, root: Any = None) -> Path:
    """The path of a whole copy of a published file: found on this machine, else downloaded.

    Args:
        source: the data set.
        file: one of its files.
        root: the folder that holds a folder for the data set, or torchvision's root; minidl's own where None.

    Returns:
        The path; the file's hash has been checked.

    Raises:
        FileNotFoundError: the file is not here, and ``MINIDL_OFFLINE`` is set.
        ConnectionError: no mirror had it.
        ArgumentError: ``MINIDL_MIRROR`` is no URL.
    """
    path = find(source, file, root)
    if path is not None:
        return path
    folder = folder_of(source, root)
    if os.environ.get("MINIDL_OFFLINE", "0") not in ("", "0"):
        damaged = f" ({folder / file.name} is damaged: its SHA-256 is another one)" if (folder / file.name).exists() else ""
        raise FileNotFoundError(
            f"{source.name}: expected the file {file.name} in the folder {folder}, got none{damaged}. "
            f"Put it there ({source.mirrors[0]}{file.name} has it), or unset MINIDL_OFFLINE to download it."
        )
    addresses = [f"{mirror}{file.name}" for mirror in source.mirrors]
    own = os.environ.get("MINIDL_MIRROR")
    if own:
        if not own.startswith(("http://", "https://")):
            raise ArgumentError.of("MINIDL_MIRROR", "a URL that begins with http:// or https://", repr(own))
        addresses.insert(0, f"{own.rstrip('/')}/{source.name}/{file.name}")
    return _download(addresses, file, folder)


def _download(addresses: list[str], file: Remote, folder: Path) -> Path:
    """Get a file from the first address that has it; other processes that want it too wait and then use it."""
    import filelock
    import pooch
    import requests
    import urllib3

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".{file.name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.warning("minidl: waiting for another process that downloads %s", file.name)
            held = lock.acquire()
    except OSError as error:
        message = f"{file.name}: expected a folder to write to, got {folder}: {error.strerror or error}. "
        raise PermissionError(message + "Set MINIDL_HOME to another one.") from error
    failures = []
    with held, _quiet_pooch():
        part = folder / f"{file.name}.{file.sha256[:8]}.part"
        for address in addresses:
            resumed = True
            while resumed:  # bytes from another time or place may be the wrong ones: then once more from the beginning
                resumed = part.exists()
                try:
                    # Nothing is downloaded where another process was faster: pooch looks at the file that is there.
                    pooch.retrieve(address, file.sha256, file.name, folder, downloader=_Resuming(part, file))
                    return folder / file.name
                except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                    failures.append(f"{address}: {error}")
                    break
                except ValueError as error:  # pooch's, for another hash; the bytes are gone
                    failures.append(f"{address}: {str(error).split('. ')[0]}")
    kept = " What has arrived is kept: the next attempt continues there." if part.exists() else ""
    raise ConnectionError(
        f"{file.name}: expected a mirror that has it, got {'; '.join(failures)}.{kept} "
        f"Or put the file into the folder {folder} yourself."
    )


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch from writing a line per file, which the progress bar shows; one thread at a time."""
    import pooch

    log = pooch.get_logger()
    with _one_at_a_time:
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


class _Resuming:
    """What pooch calls to download: it writes to a file that stays when the connection breaks, and goes on there."""

    def __init__(self, part: Path, file: Remote) -> None:
        self.part = part
        self.file = file

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        import requests
        import urllib3
        from tqdm import tqdm

        arrived = self._arrived()
        with tqdm(
            total=self.file.size,
            initial=arrived,
            desc=self.file.name,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar:
            for transfer in range(TRANSFERS):
                try:
                    self._transfer(url, bar.update)
                    break
                except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError):
                    before, arrived = arrived, self._arrived()
                    if arrived <= before or transfer == TRANSFERS - 1:
                        raise
        os.replace(self.part, output_file)

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _transfer(self, url: str, progress: Callable[[int], Any]) -> None:
        """Append what is missing, as far as it comes."""
        import requests

        start = self._arrived()
        if start >= self.file.size:
            if start == self.file.size:
                return  # whole; pooch checks it
            self.part.unlink()
            start = 0
        # identity: a server must not pack a second time what is a gzip file already, and bytes must count as in the file
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            if start and not (
                response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            ):
                progress(-start)
                start = 0  # this server sends the whole file again
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and start + int(length) != self.file.size:
                raise requests.RequestException(f"expected {self.file.size:,} bytes, got {start + int(length):,}")
            with self.part.open("ab" if start else "wb") as part:
                for block in _blocks(response.raw, self.file.size - start):
                    part.write(block)
                    progress(len(block))
            if self._arrived() < self.file.size:
                raise requests.ConnectionError(f"expected {self.file.size:,} bytes, got {self._arrived():,}")


def _blocks(raw: Any, limit: int) -> Iterator[bytes]:
    """The bytes of a response as they come over the line, and no more of them than were promised."""
    while limit > 0 and (block := raw.read(min(limit, 1 << 14), decode_content=False)):
        limit -= len(block)
        yield block
