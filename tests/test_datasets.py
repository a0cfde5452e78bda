"""Data sets by name, from folders, tables and shards: found, downloaded from a server on this machine, checked, read."""

import gzip
import hashlib
import http.server
import importlib
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minidl import data
from minidl.cli import main
from minidl.data import ArrayDataset, ImageFolder, ShardDataset, Subset, cifar, download
from minidl.data.download import Remote, Source, fetch
from minidl.errors import ArgumentError, DtypeError, ShapeError

filelock, pooch = pytest.importorskip("filelock"), pytest.importorskip("pooch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("requests")  # its first import changes the list of warnings
idx = importlib.import_module("minidl.data.idx")
CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path_factory, monkeypatch):
    """Folders of its own, no mirror, no proxy; minidl's home folder."""
    home = tmp_path_factory.mktemp("home")
    for name in ("MINIDL_MIRROR", "MINIDL_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINIDL_HOME", str(home / "minidl"))
    monkeypatch.setenv("KERAS_HOME", str(home / "keras"))
    monkeypatch.chdir(home)
    return home / "minidl"


# ---------------------------------------------------------------- downloads, from a server in this process


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; how it misbehaves is set by path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.break_after = {}  # path -> the bytes after which each of the next responses ends
        self.without_ranges = set()
        self.without_length = set()
        self.headers = {}  # more of them
        self.slow = 0.0  # seconds before each response
        self.asked = []  # (path, Range header)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        time.sleep(server.slow)
        assert self.headers["Accept-Encoding"] == "identity"
        if self.path not in server.files:
            self.send_error(404)
            return
        content, start = server.files[self.path], 0
        if self.headers.get("Range") and self.path not in server.without_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"]).group(1))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.path not in server.without_length:
            self.send_header("Content-Length", str(len(content) - start))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        breaks = server.break_after.get(self.path)
        stop = start + breaks.pop(0) if breaks else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(name, content, packed=None):
    return Remote(name, len(content), hashlib.sha256(content).hexdigest(), packed)


def source(*mirrors):
    return Source("things", (remote("file.bin", CONTENT),), mirrors)


def get(*mirrors, root=None):
    things = source(*mirrors)
    return fetch(things, things.files[0], root)


def test_a_file_is_downloaded_once(server, nothing_of_this_machine):
    server.files["/file.bin"] = CONTENT
    path = get(server.url)
    assert path == nothing_of_this_machine / "things" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert get(server.url) == path
    assert server.asked == [("/file.bin", None)]
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["file.bin"]


def test_a_root_takes_the_place_of_minidls_folder(server, tmp_path, nothing_of_this_machine):
    server.files["/file.bin"] = CONTENT
    assert get(server.url, root=tmp_path / "here") == tmp_path / "here" / "things" / "file.bin"
    assert not nothing_of_this_machine.exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "404"),
        (CONTENT[:-1] + b"!", "does not match the known hash"),
        (CONTENT[:1000], "expected 300,000 bytes, got 1,000"),
        (CONTENT + b"more", "expected 300,000 bytes, got 300,004"),
        (b"<html>please log in</html>", "expected 300,000 bytes, got 26"),
    ],
)
def test_a_mirror_without_the_right_file_is_passed_over(server, wrong, said):
    if wrong is not None:
        server.files["/bad/file.bin"] = wrong
    with pytest.raises(ConnectionError, match=said) as caught:
        get(server.url + "bad/", server.url + "bad/")
    assert str(caught.value).count(server.url + "bad/file.bin: ") == 2
    assert "into the folder" in str(caught.value)
    server.files["/good/file.bin"] = CONTENT
    path = get(server.url + "bad/", server.url + "good/")
    assert path.read_bytes() == CONTENT
    assert not list(path.parent.glob("*.part"))


def test_nobody_answers():
    with pytest.raises(ConnectionError, match=r"expected a mirror that has it, got http://127\.0\.0\.1:9/file\.bin"):
        get("http://127.0.0.1:9/")


def test_a_broken_connection_is_continued(server):
    server.files["/file.bin"] = CONTENT
    server.break_after["/file.bin"] = [100_000, 90_000]
    assert get(server.url).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/file.bin"] * 3
    starts = [int(re.search(r"\d+", asked).group()) for _, asked in server.asked[1:]]
    assert 0 < starts[0] <= 100_000 < starts[1] <= 190_000


def test_the_next_call_continues_where_the_last_one_stopped(server, nothing_of_this_machine):
    server.files["/file.bin"] = CONTENT
    server.break_after["/file.bin"] = [100_000, 0]
    with pytest.raises(ConnectionError, match="the next attempt continues there"):
        get(server.url)
    (part,) = (nothing_of_this_machine / "things").glob("*.part")
    arrived = part.stat().st_size
    assert 0 < arrived <= 100_000
    assert get(server.url).read_bytes() == CONTENT
    assert server.asked[-1] == ("/file.bin", f"bytes={arrived}-")
    assert not part.exists()


@pytest.mark.parametrize("other", ["other mirror", "no ranges", "no length", "wrong bytes", "too long", "whole"])
def test_continuing_under_difficulties(server, nothing_of_this_machine, other):
    """Whatever lies in the .part file and whatever the server does with a range, the file comes out right."""
    file = source("").files[0]
    part = nothing_of_this_machine / "things" / f"file.bin.{file.sha256[:8]}.part"
    part.parent.mkdir(parents=True)
    starts = {"wrong bytes": b"x" * 5000, "too long": CONTENT + b"!", "whole": CONTENT}
    part.write_bytes(starts.get(other, CONTENT[:50_000]))
    server.files["/file.bin"] = CONTENT
    if other == "no ranges":
        server.without_ranges.add("/file.bin")
    if other == "no length":
        server.without_length.add("/file.bin")
        server.break_after["/file.bin"] = [100_000]
    mirrors = [server.url + "gone/", server.url] if other == "other mirror" else [server.url]
    assert get(*mirrors).read_bytes() == CONTENT
    ranges = [asked for path, asked in server.asked if path == "/file.bin"]
    expected = {
        "wrong bytes": ["bytes=5000-", None],
        "too long": [None],
        "whole": [],
        "no length": ["bytes=50000-", "bytes=150000-"],
    }
    assert ranges == expected.get(other, ["bytes=50000-"])
    assert not part.exists()


def test_a_gzip_file_is_not_unpacked_on_the_way(server, tmp_path):
    """Some servers call a .gz file the encoding of another one, which a client then decodes."""
    packed = gzip.compress(CONTENT)
    server.files["/file.gz"] = packed
    server.headers["Content-Encoding"] = "gzip"
    things = Source("things", (remote("file.gz", packed),), (server.url,))
    assert fetch(things, things.files[0], tmp_path).read_bytes() == packed


def test_a_damaged_file_is_replaced(server, nothing_of_this_machine):
    path = nothing_of_this_machine / "things" / "file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    server.files["/file.bin"] = CONTENT
    assert get(server.url) == path
    assert path.read_bytes() == CONTENT


def test_two_processes_at_once(server, nothing_of_this_machine):
    """One downloads; the other waits and uses what has come."""
    server.files["/file.bin"] = CONTENT
    server.slow = 1.0
    code = (
        "import sys, filelock, pooch, requests; from minidl.data.download import Remote, Source, fetch\n"
        f"file = Remote('file.bin', {len(CONTENT)}, {hashlib.sha256(CONTENT).hexdigest()!r})\n"
        f"things = Source('things', (file,), ({server.url!r},))\n"
        "print('ready', flush=True); sys.stdin.readline(); print(fetch(things, file))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    path = nothing_of_this_machine / "things" / "file.bin"
    assert [out.strip() for out, _ in results] == [str(path)] * 2
    assert {error for _, error in results} <= {"", "minidl: waiting for another process that downloads file.bin\n"}
    assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_waiting_is_said(server, nothing_of_this_machine, caplog):
    server.files["/file.bin"] = CONTENT
    folder = nothing_of_this_machine / "things"
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with filelock.FileLock(folder / ".file.bin.lock"):  # as another process would
            result = pool.submit(get, server.url)
            while not caplog.messages:
                assert not result.done()
                time.sleep(0.01)
            assert caplog.messages == ["minidl: waiting for another process that downloads file.bin"]
            (folder / "file.bin").write_bytes(CONTENT)
        assert result.result() == folder / "file.bin"
    assert server.asked == []


def test_threads_at_once(server):
    server.files["/file.bin"] = CONTENT
    server.slow = 0.1
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(server.url), range(4)))
    assert pooch.get_logger().level == 0
    assert len(set(paths)) == len(server.asked) == 1
    assert paths[0].read_bytes() == CONTENT


def test_an_interrupted_user_loses_nothing(server, monkeypatch, nothing_of_this_machine):
    server.files["/file.bin"] = CONTENT

    def interrupted(raw, limit):
        yield raw.read(70_000)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(server.url)
    kept = [path.name for path in (nothing_of_this_machine / "things").iterdir() if path.name != ".file.bin.lock"]
    assert kept == [f"file.bin.{hashlib.sha256(CONTENT).hexdigest()[:8]}.part"]
    assert get(server.url).read_bytes() == CONTENT
    assert server.asked[-1] == ("/file.bin", "bytes=70000-")


def test_progress_is_shown_on_a_terminal_only(server, monkeypatch, capsys):
    server.files["/file.bin"] = CONTENT
    get(server.url, root="one")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    get(server.url, root="two")
    assert re.search(r"file\.bin: +\d+%.*/300k", capsys.readouterr().err)


def test_offline(server, monkeypatch, nothing_of_this_machine):
    server.files["/file.bin"] = CONTENT
    monkeypatch.setenv("MINIDL_OFFLINE", "1")
    path = nothing_of_this_machine / "things" / "file.bin"
    with pytest.raises(FileNotFoundError, match=re.escape(f"file.bin in the folder {path.parent}, got none. Put it there")):
        get(server.url)
    assert not nothing_of_this_machine.exists()
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(FileNotFoundError, match=r"got none \(.*file\.bin is damaged"):
        get(server.url)
    path.write_bytes(CONTENT)
    assert get(server.url) == path
    assert server.asked == []
    monkeypatch.setenv("MINIDL_OFFLINE", "0")
    path.unlink()
    assert get(server.url) == path


def test_own_mirror_comes_first(server, monkeypatch):
    server.files |= {"/mine/things/file.bin": CONTENT, "/file.bin": CONTENT}
    monkeypatch.setenv("MINIDL_MIRROR", server.url + "mine")
    get(server.url)
    assert [path for path, _ in server.asked] == ["/mine/things/file.bin"]
    monkeypatch.setenv("MINIDL_MIRROR", "ftp://somewhere")
    with pytest.raises(ArgumentError, match=r"MINIDL_MIRROR: expected a URL .* got 'ftp://somewhere'"):
        get(server.url, root="elsewhere")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match=r"expected a folder to write to, got .*Set MINIDL_HOME"):
        get(server.url, root=tmp_path / "file")
    assert server.asked == []


def test_published_sources_are_well_formed():
    for entry in (idx.MNIST, idx.FASHION_MNIST, cifar.CIFAR10, cifar.CIFAR100):
        assert len(entry.mirrors) >= 3
        assert all(re.fullmatch(r"https?://[\w.~/-]+/", mirror) for mirror in entry.mirrors)
        for file in entry.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})", file.content or "md5:" + "0" * 32)
            assert file.size > 4000
    hashes = [sha for parts in (cifar.UNPACKED10, cifar.UNPACKED100) for part in parts.values() for sha in part.values()]
    assert len({sha for sha in hashes if re.fullmatch(r"[0-9a-f]{64}", sha)}) == 8
    assert (len(set(cifar.FINE)), len(set(cifar.COARSE))) == (100, 20)
    assert list(cifar.FINE) == sorted(cifar.FINE)


# ---------------------------------------------------------------- MNIST's files


def idx_bytes(array):
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def small_mnist(monkeypatch):
    """Four small files in place of MNIST's; the bytes of each, packed."""
    rng = np.random.default_rng(1)
    arrays = {}
    for part, n in (("train", 7), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n).astype(np.uint8)
    raw = {name: idx_bytes(array) for name, array in arrays.items()}
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in raw.items()}
    files = tuple(remote(name, content, "md5:" + hashlib.md5(raw[name[:-3]]).hexdigest()) for name, content in packed.items())
    monkeypatch.setattr(idx, "MNIST", Source("mnist", files, ("http://127.0.0.1:9/",), ("MNIST/raw",)))
    monkeypatch.setenv("MINIDL_OFFLINE", "1")
    return arrays, raw, packed


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def same_mnist(arrays, root=None):
    train, test = data.mnist("train", root), data.mnist("test", root)
    for part, dataset in (("train", train), ("t10k", test)):
        assert np.array_equal(dataset.images[:, 0], arrays[f"{part}-images-idx3-ubyte"])
        assert np.array_equal(dataset.labels, arrays[f"{part}-labels-idx1-ubyte"])
        assert dataset.classes == tuple("0123456789")
        assert dataset.images.dtype == np.uint8


@pytest.mark.parametrize("place", ["mnist", ".", "MNIST/raw"])
@pytest.mark.parametrize("form", ["published", "packed anew", "unpacked"])
def test_mnist_is_found(small_mnist, tmp_path, place, form):
    arrays, raw, packed = small_mnist
    with pytest.raises(FileNotFoundError, match=r"mnist: expected the file train-images-idx3-ubyte\.gz"):
        data.mnist(root=tmp_path)
    anew = {f"{name}.gz": gzip.compress(content, 1, mtime=5) for name, content in raw.items()}
    assert anew != packed
    write(tmp_path / place, {"published": packed, "packed anew": anew, "unpacked": raw}[form])
    same_mnist(arrays, tmp_path)


def test_mnist_of_other_libraries_is_used_after_a_check(small_mnist, monkeypatch, tmp_path):
    arrays, _, packed = small_mnist
    write(Path("data/MNIST/raw").absolute(), packed)  # where torchvision's examples put it
    same_mnist(arrays)
    changed = Path("data/MNIST/raw/t10k-images-idx3-ubyte.gz")
    changed.write_bytes(packed[changed.name][:-9] + b"!" + packed[changed.name][-8:])
    data.mnist("train")
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        data.mnist("test")
    keras = download.keras_folder() / "mnist.npz"
    keras.parent.mkdir(parents=True)
    parts = [(x, part, kind) for x, kind in (("x", "images-idx3"), ("y", "labels-idx1")) for part in ("train", "t10k")]
    content = {f"{x}_{'train' if part == 'train' else 'test'}": arrays[f"{part}-{kind}-ubyte"] for x, part, kind in parts}
    np.savez(keras, **content)
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        data.mnist("test")  # not the one that Keras published
    monkeypatch.setattr(idx, "KERAS_MNIST", hashlib.sha256(keras.read_bytes()).hexdigest())
    same_mnist(arrays)


def test_mnist_is_downloaded(small_mnist, server, monkeypatch, nothing_of_this_machine):
    arrays, _, packed = small_mnist
    monkeypatch.setenv("MINIDL_OFFLINE", "")
    monkeypatch.setenv("MINIDL_MIRROR", server.url)
    server.files |= {f"/mnist/{name}": content for name, content in packed.items()}
    same_mnist(arrays)
    assert len(server.asked) == 4
    assert {path.name for path in (nothing_of_this_machine / "mnist").glob("*.gz")} == packed.keys()
    same_mnist(arrays)
    assert len(server.asked) == 4


@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist, data.cifar10, data.cifar100])
def test_parts_have_two_names(load):
    with pytest.raises(ArgumentError, match=f"{load.__name__}: expected split as 'train' or 'test', got 'validation'"):
        load("validation")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (0, 4), (2, 1, 3, 2), ()])
def test_read_idx(tmp_path, dtype, shape):
    array = np.asarray(np.random.default_rng(0).random(shape) * 100).astype(dtype)
    for content in (idx_bytes(array), gzip.compress(idx_bytes(array))):
        (tmp_path / "file").write_bytes(content)
        read = data.read_idx(tmp_path / "file")
        assert read.dtype == array.dtype
        assert read.flags.writeable
        np.testing.assert_array_equal(read, array, strict=True)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(4, 6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an IDX file in .*file, got 0 bytes"),
        (GOOD[:3], "an IDX file in .*file, got 3 bytes"),
        (b"\x01" + GOOD[1:], "got 36 bytes that begin with 01 00 08 02"),
        (b"\0\0\x0a\x01" + GOOD[4:], "an IDX file"),
        (GOOD[:9], "an IDX file"),
        (GOOD[:-1], r"expected 24 bytes of values in .*file, for shape \(4, 6\), got 23. The file is cut short"),
        (GOOD + b"!", "got 25"),
        (b"\0\0\x0e\x03" + b"\xff" * 12, "got 0. The file is cut short"),
        (gzip.compress(GOOD)[:-9], "a whole gzip file in .*file, got Compressed file ended"),
        (gzip.compress(GOOD)[:-8] + b"\0" * 8, "a whole gzip file in .*file, got CRC check failed"),
        (gzip.compress(GOOD)[:12] + b"\xff" * 9, "a whole gzip file"),
    ],
    ids=range(11),
)
def test_read_idx_refuses_damaged_files(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArgumentError, match=message):
        data.read_idx(tmp_path / "file")


def test_read_idx_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "file")


# ---------------------------------------------------------------- CIFAR's files


def tar_gz(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def small_cifar(monkeypatch):
    """Two images per file in place of 10,000: rows of labels and pixels by set and part, and the files' contents."""
    rng = np.random.default_rng(2)
    rows, files = {}, {}
    monkeypatch.setenv("MINIDL_OFFLINE", "1")
    for name, label_bytes in (("CIFAR10", 1), ("CIFAR100", 2)):
        parts = getattr(cifar, "UNPACKED" + name[5:])
        hashes = {}
        for part, names in parts.items():
            pieces = [rng.integers(0, 256, (2, label_bytes + 3072), np.uint8) for _ in names]
            for piece in pieces:
                piece[:, 0] %= 10
                piece[:, label_bytes - 1] %= 10
            rows[name, part] = np.concatenate(pieces)
            for file, piece in zip(names, pieces):
                files[name, file] = piece.tobytes()
            hashes[part] = {file: hashlib.sha256(piece.tobytes()).hexdigest() for file, piece in zip(names, pieces)}
        monkeypatch.setattr(cifar, "UNPACKED" + name[5:], hashes)
        old = getattr(cifar, name)
        folder = old.folders[0]
        inside = {f"{folder}/{file}": content for (owner, file), content in files.items() if owner == name}
        archive = tar_gz({f"{folder}/readme.html": b"hello", **inside})
        entry = Source(old.name, (remote(old.files[0].name, archive),), old.mirrors, old.folders)
        monkeypatch.setattr(cifar, name, entry)
        files[name, "archive"] = archive
    return rows, files


@pytest.mark.parametrize("form", ["archive", "unpacked"])
def test_cifar(small_cifar, tmp_path, form):
    rows, files = small_cifar
    for name, load in (("CIFAR10", data.cifar10), ("CIFAR100", data.cifar100)):
        entry = getattr(cifar, name)
        with pytest.raises(FileNotFoundError, match=entry.files[0].name):
            load(root=tmp_path)
        if form == "archive":
            write(tmp_path / entry.name, {entry.files[0].name: files[name, "archive"]})
        else:
            write(tmp_path / entry.folders[0], {f: c for (owner, f), c in files.items() if (owner, f[-4:]) == (name, ".bin")})
    for part, n in (("train", 10), ("test", 2)):
        ten = data.cifar10(part, tmp_path)
        assert np.array_equal(ten.labels, rows["CIFAR10", part][:, 0])
        assert np.array_equal(ten.images.reshape(n, -1), rows["CIFAR10", part][:, 1:])
        assert (ten.images.shape, ten.classes[9]) == ((n, 3, 32, 32), "truck")
        fine, coarse = (data.cifar100(part, tmp_path, labels=labels) for labels in ("fine", "coarse"))
        assert np.array_equal(coarse.labels, rows["CIFAR100", part][:, 0])
        assert np.array_equal(fine.labels, rows["CIFAR100", part][:, 1])
        assert np.array_equal(fine.images.reshape(len(fine), -1), rows["CIFAR100", part][:, 2:])
        assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert {path.name for path in tmp_path.rglob("*.bin")} == (
        set()
        if form == "archive"
        else {name for parts in (cifar.UNPACKED10, cifar.UNPACKED100) for p in parts.values() for name in p}
    )


def test_cifar_takes_no_changed_file(small_cifar, tmp_path):
    _, files = small_cifar
    write(tmp_path / "cifar-10-batches-bin", {"test_batch.bin": files["CIFAR10", "test_batch.bin"][:-1] + b"!"})
    with pytest.raises(FileNotFoundError, match="cifar-10-binary"):
        data.cifar10("test", tmp_path)
    with pytest.raises(ArgumentError, match="labels as 'fine' or 'coarse', got 'all'"):
        data.cifar100(labels="all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], r"a whole \.tar\.gz archive in"),
        (lambda content: b"no archive", r"a whole \.tar\.gz archive in"),
        (lambda content: tar_gz({"other.bin": b""}), "the file folder/test.bin in .*, got an archive without it"),
    ],
)
def test_damaged_archives(tmp_path, change, message):
    (tmp_path / "a.tar.gz").write_bytes(change(tar_gz({"folder/test.bin": np.random.default_rng(0).bytes(9000)})))
    with pytest.raises(ArgumentError, match=message):
        cifar.read_members(tmp_path / "a.tar.gz", ["folder/test.bin"])


def test_members_that_are_no_files_are_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("folder/test.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(ArgumentError, match="an archive without it"):
        cifar.read_members(tmp_path / "a.tar.gz", ["folder/test.bin"])


@pytest.mark.parametrize("content", [b"", b"0" * 3072, b"0" * 3074])
def test_records_of_a_wrong_length(content):
    with pytest.raises(ArgumentError, match=f"3073 bytes per image in .*test.bin, got {len(content):,} bytes"):
        cifar.records(content, Path("test.bin"), 1)


# ---------------------------------------------------------------- ImageFolder


def picture(colour, size=(6, 4), mode="RGB", form="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, form)
    return out.getvalue()


PETS = {
    "dog/a.png": picture((10, 20, 30)),
    "cat/b.JPG": picture((200, 0, 0), form="JPEG"),
    "cat/more/a.png": picture((1, 2, 3), (5, 5)),
    "cat/readme.txt": b"no image",
    ".DS_Store": b"",
    "__MACOSX/cat/._a.png": b"no image",
}


def make_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def make_zip(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["folder", "zip", "deflated", "inner folder", "part of a zip"])
def pets(request, tmp_path):
    if request.param == "folder":
        return make_folder(tmp_path / "pets", PETS)
    if request.param == "part of a zip":
        names = {f"{part}/{name}": content for part in ("train", "test") for name, content in PETS.items()}
        return make_zip(tmp_path / "pets.zip", names) / "train"
    inner = "pets/" if request.param == "inner folder" else ""
    method = zipfile.ZIP_DEFLATED if request.param == "deflated" else zipfile.ZIP_STORED
    return make_zip(tmp_path / "pets.zip", {inner + name: content for name, content in PETS.items()}, compression=method)


def test_image_folder(pets):
    dataset = ImageFolder(pets)
    assert dataset.classes == ("cat", "dog")
    assert dataset.names == ["cat/b.JPG", "cat/more/a.png", "dog/a.png"]
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.labels.dtype == np.int64
    x, y = dataset[2]
    assert (x.shape, x.dtype, y, type(y)) == ((3, 4, 6), np.uint8, 1, int)
    assert np.array_equal(x, np.broadcast_to(np.array([10, 20, 30], np.uint8)[:, None, None], (3, 4, 6)))
    assert x.flags.writeable
    assert np.array_equal(dataset[-2][0][:, 4, 4], [1, 2, 3])
    assert len(list(dataset)) == 3  # an IndexError ends it
    with pytest.raises(IndexError):
        dataset[3]
    part = dataset[[2, 0]]
    assert isinstance(part, Subset)
    assert (part.labels.tolist(), part.classes, part[0][1]) == ([1, 0], ("cat", "dog"), 1)
    gray = ImageFolder(pets, mode="gray")[2][0]
    assert gray.shape == (1, 4, 6)
    assert gray[0, 0, 0] == round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)


def test_image_folder_in_other_processes_and_threads(pets):
    dataset = ImageFolder(pets)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 2000
    for i in range(3):
        assert np.array_equal(copy[i][0], dataset[i][0])
    with ThreadPoolExecutor(4) as pool:
        for i, (x, y) in enumerate(pool.map(dataset.__getitem__, [0, 1, 2] * 50)):
            assert np.array_equal(x, dataset[i % 3][0])
            assert y == dataset.labels[i % 3]


def test_workers_load_lazy_datasets(tmp_path):
    """What worker processes and threads read is what the dataset gives."""
    files = {f"{kind}/{i}.png": picture((i, 40 * j, 7), (5 + i, 6)) for j, kind in enumerate(("cat", "dog")) for i in range(4)}
    images = ImageFolder(make_zip(tmp_path / "pets.zip", files), transform=data.transforms.Resize((4, 4)))
    data.write_shards(images, tmp_path / "shards", size=3)
    x = np.stack([image for image, _ in images]).astype(np.float32) / np.float32(255)
    for dataset in (images, ShardDataset(tmp_path / "shards"), Subset(images, np.arange(8))):
        for kind in ("thread", "process") if isinstance(dataset, Subset) else ("thread",):
            with data.DataLoader(dataset, batch_size=3, workers=2, worker_type=kind) as loader:
                batches = list(loader)
            np.testing.assert_allclose(np.concatenate([images for images, _ in batches]), x, rtol=1e-6)
            assert np.concatenate([labels for _, labels in batches]).tolist() == [0] * 4 + [1] * 4


def test_image_folder_transforms_pictures(pets):
    seen = []

    def shrink(image):
        seen.append(image.mode)
        return image.resize((2, 3))

    assert ImageFolder(pets, shrink)[0][0].shape == (3, 3, 2)
    assert ImageFolder(pets, shrink, mode="gray")[0][0].shape == (1, 3, 2)
    assert seen == ["RGB", "L"]
    assert ImageFolder(pets, lambda image: np.float32(image.size))[2][0].tolist() == [6, 4]


def test_image_folder_of_every_kind_of_picture(tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    deep = (np.arange(24).reshape(4, 6) * 2000).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a16.png")
    Image.fromarray(deep.astype(np.int32)).save(folder / "b32.tif")
    Image.new("RGBA", (6, 4), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("P", (6, 4)).save(folder / "palette.gif", transparency=0)
    Image.new("1", (6, 4), 1).save(folder / "white.png")
    Image.new("CMYK", (6, 4)).save(folder / "zcmyk.jpg")
    dataset = ImageFolder(tmp_path)
    pixels = dict(zip(dataset.names, (x for x, _ in dataset)))
    assert {x.shape for x in pixels.values()} == {(3, 4, 6)}
    for name in ("all/a16.png", "all/b32.tif"):
        assert np.array_equal(pixels[name][0], deep >> 8)
    for name in ("all/clear.png", "all/palette.gif", "all/white.png"):
        assert (pixels[name] == 255).all()
    Image.fromarray(np.full((4, 6), 70_000, np.int32)).save(folder / "b32.tif")
    with pytest.raises(ArgumentError, match=r"b32\.tif, got values of 8 or 16 bits"):
        dataset[1]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_unreadable_image_is_named(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "JPEG")
    files = {"cat/a.jpg": b"no image", "cat/b.jpg": out.getvalue()[:900], "cat/c.png": b"", "dog/ok.png": PETS["dog/a.png"]}
    path = make_folder(tmp_path / "x", files) if kind == "folder" else make_zip(tmp_path / "x.zip", files)
    dataset = ImageFolder(path)
    assert dataset[3][1] == 1
    for i, name in enumerate(("a.jpg", "b.jpg", "c.png")):
        with pytest.raises(ArgumentError, match=f"ImageFolder: expected an image in .*{name}, got .* Repair or remove it"):
            dataset[i]


def test_a_damaged_zip_is_named(tmp_path):
    content = PETS["dog/a.png"]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = make_zip(tmp_path / "x.zip", {"dog/a.png": content}, compression=method)
        dataset = ImageFolder(path)
        whole = path.read_bytes()
        path.write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:70]) + whole[70:])
        with pytest.raises(ArgumentError, match=r"a whole file dog/a\.png in .*x\.zip"):
            dataset[0]
        path.write_bytes(whole[:50])
        with pytest.raises(ArgumentError, match=r"a whole file dog/a\.png"):
            dataset[0]
        with pytest.raises(ArgumentError, match="a folder or a zip archive"):
            ImageFolder(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "images in .*, got none"),
        ({"cat/readme.txt": b""}, "images in .*, got none"),
        ({"a.png": b"", "cat/b.png": b""}, "in the folder of its class, got a.png in none"),
        ({"a.png": b""}, "got a.png in none"),
        ({"cat/a.png": b"", "dog/a.txt": b""}, "an image in every folder of .*, got none in dog. Remove"),
        ({"pets/cat/a.png": b"", "pets/dog/a.txt": b"", "pets/emu/b.png": b""}, "got none in pets/dog"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folders_that_are_no_image_folder(tmp_path, files, message, kind):
    (tmp_path / "x").mkdir()
    if kind == "folder":
        path = make_folder(tmp_path / "x", files)
    else:
        folders = {f"{Path(name).parent.as_posix()}/": b"" for name in files if "/" in name}
        path = make_zip(tmp_path / "x.zip", folders | files)
    with pytest.raises(ArgumentError, match=message):
        ImageFolder(path)


def test_image_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder or a zip archive, got .*nowhere, which does not exist"):
        ImageFolder(tmp_path / "nowhere")
    path = make_zip(tmp_path / "x.zip", PETS)
    with pytest.raises(FileNotFoundError, match=r"the folder train in .*x\.zip, got none"):
        ImageFolder(path / "train")
    with pytest.raises(ArgumentError, match="mode as 'rgb' or 'gray', got 'RGBA'"):
        ImageFolder(path, mode="RGBA")
    with pytest.raises(DtypeError, match="a function as transform, got int"):
        ImageFolder(path, transform=3)
    other = make_zip(tmp_path / "y.zip", PETS, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(ArgumentError, match=r"stored or deflated, got method 12\. Unpack it"):
        ImageFolder(other)


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_in_a_circle_end(tmp_path):
    root = make_folder(tmp_path / "pets", {name: PETS[name] for name in ("cat/b.JPG", "dog/a.png")})
    (root / "cat" / "up").symlink_to(root)
    assert len(ImageFolder(root)) == 2


# ---------------------------------------------------------------- CSV


def test_csv(tmp_path):
    path = tmp_path / "pets.csv"
    path.write_bytes(b'\xef\xbb\xbfkind,"weight, kg",height\r\ndog,30,6e1\r\n\r\ncat, 4.5 ,25\r\n"dog",-1,0\r\n')
    pets = data.csv_dataset(path, label="kind")
    assert pets.images.dtype == np.float32
    assert pets.images.tolist() == [[30, 60], [4.5, 25], [-1, 0]]
    assert (pets.labels.tolist(), pets.classes) == ([1, 0, 1], ("cat", "dog"))
    one = data.csv_dataset(path, label=0, columns=["height"], classes=["dog", "emu", "cat"])
    assert one.images.tolist() == [[60], [25], [0]]
    assert (one.labels.tolist(), one.classes) == ([0, 2, 0], ("dog", "emu", "cat"))
    plain = tmp_path / "plain.txt"
    plain.write_text("1;2;0\n3;4;7\n")
    table = data.csv_dataset(plain, header=False, delimiter=";", columns=[1, 0])
    assert (table.images.tolist(), table.labels.tolist(), table.classes) == ([[2, 1], [4, 3]], [0, 7], None)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "at least one example in .*t.csv, got none"),
        ("a,b\n", {}, "at least one example in .*t.csv, got none"),
        ("a,b\n1,2\n\n1,2,3\n", {}, "2 values in line 4 of .*t.csv, got 3"),
        ("a,b\n1,2\n1\n", {}, "2 values in line 3 of .*t.csv, got 1"),
        ("a,b\n1,2\nx,2\n", {}, "a finite number in line 3, column 'a' of .*t.csv, got 'x'"),
        ("1,2\n,2\n", {"header": False}, "a finite number in line 2, column 0 of .*t.csv, got nothing"),
        ("a,b\nnan,2\n", {}, "line 2, column 'a' of .*, got 'nan'"),
        ("a,b\n1e99,2\n", {}, "line 2, column 'a' of .*, got '1e99'"),
        ("a,b\n1,2\n2,\n", {}, "a label in line 3 of .*t.csv, got nothing"),
        ("a,b\n1,2.5\n2,1\n", {}, "whole numbers or names as labels"),
        ("a,b\n1,2\n", {"label": "c"}, "one column of the name 'c' in .*t.csv, got a, b"),
        ("b,b\n1,2\n", {"label": "b"}, "one column of the name 'b' in .*t.csv, got b, b"),
        ("1,2\n", {"label": "b", "header": False}, "got no names, without a header"),
        ("a,b\n1,2\n", {"label": 2}, "a column from -2 to 1 in .*t.csv, got 2"),
        ("a,b\n1,2\n", {"columns": [0, 1]}, "columns of numbers beside the label's"),
        ("a;b\n1;2\n", {}, "columns of numbers beside the label's in .* Is ',' what stands between"),
        ("a,b\n1,cat\n1,emu\n", {"classes": ["cat", "dog"]}, "one of 2 classes in line 3 of .*t.csv, got 'emu'"),
    ],
)
def test_csv_errors(tmp_path, text, options, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        data.csv_dataset(tmp_path / "t.csv", **options)


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(ArgumentError, match="a CSV file in UTF-8"):
        data.csv_dataset(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError):
        data.csv_dataset(tmp_path / "u.csv")


# ---------------------------------------------------------------- shards


def numbered(n=23):
    images = np.arange(n * 12, dtype=np.int16).reshape(n, 3, 2, 2)
    return ArrayDataset(images, np.arange(n) % 3, ["a", "b", "c"])


def test_shards(tmp_path):
    whole = numbered()
    paths = data.write_shards(whole, tmp_path / "new", size=5)
    assert [path.name for path in paths] == [f"images_{i:04}.npy" for i in range(5)]
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.name.startswith(".")) == []
    shards = ShardDataset(tmp_path / "new")
    assert len(shards) == 23
    assert shards.classes == ("a", "b", "c")
    assert np.array_equal(shards.labels, whole.labels)
    for i in (0, 4, 5, 22, -1, np.int64(7)):
        x, y = shards[i]
        assert np.array_equal(x, whole.images[i])
        assert (y, type(y), type(x)) == (whole.labels[i], int, np.ndarray)
    for index in ([22, 0, 5, 5, 4], slice(3, 17, 2), whole.labels == 1, []):
        part = shards[index]
        assert isinstance(part, ArrayDataset)
        assert np.array_equal(part.images, whole.images[index])
        assert np.array_equal(part.labels, whole.labels[index])
    for i in (23, -24):
        with pytest.raises(IndexError):
            shards[i]
    assert data.data_hash(shards) == data.data_hash(whole)
    some = ShardDataset([paths[4], paths[0]], classes=["x", "y", "z"])
    assert len(some) == 8
    assert np.array_equal(some[3][0], whole.images[0])
    assert some.classes == ("x", "y", "z")


def test_shards_are_sent_without_their_content(tmp_path):
    data.write_shards(ArrayDataset(np.zeros((100, 1000)), np.zeros(100, int)), tmp_path, size=50)
    shards = ShardDataset(tmp_path)
    sent = pickle.dumps(shards)
    assert len(sent) < 3000
    assert pickle.loads(sent)[99][0].shape == (1000,)
    assert "in 2 files" in repr(pickle.loads(sent))


def test_shards_of_any_number_come_in_its_order(tmp_path):
    for i in (10, 9, 1):
        np.save(tmp_path / f"images_{i}.npy", np.full((1, 2), i))
        np.save(tmp_path / f"labels_{i}.npy", np.array([i]))
    assert ShardDataset(tmp_path).labels.tolist() == [1, 9, 10]


def test_shards_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder of images"):
        ShardDataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"files images_\*\.npy, got none"):
        ShardDataset(tmp_path)
    np.save(tmp_path / "images_0.npy", np.zeros((3, 2)))
    with pytest.raises(FileNotFoundError, match=r"the file .*labels_0\.npy, got none"):
        ShardDataset(tmp_path)
    for labels in (np.zeros(2, int), np.zeros(3), np.zeros((3, 1), int)):
        np.save(tmp_path / "labels_0.npy", labels)
        with pytest.raises(ShapeError, match=r"3 whole numbers in .*labels_0\.npy"):
            ShardDataset(tmp_path)
    np.save(tmp_path / "labels_0.npy", np.zeros(3, int))
    np.save(tmp_path / "labels_1.npy", np.zeros(3, int))
    for images in (np.zeros((3, 3)), np.zeros((3, 2), np.float32)):
        np.save(tmp_path / "images_1.npy", images)
        with pytest.raises(ShapeError, match=r"images_1\.npy as the first file, float64 of shape \('N', 2\)"):
            ShardDataset(tmp_path)
    whole = (tmp_path / "images_0.npy").read_bytes()
    for content in (whole[:-5], whole[:20], b"", pickle.dumps([1]), b"no array"):
        (tmp_path / "images_0.npy").write_bytes(content)
        with pytest.raises(ArgumentError, match=r"an array of numbers in .*images_0\.npy"):
            ShardDataset(tmp_path)
    np.save(tmp_path / "images_0.npy", np.array([{}, {}], object))
    with pytest.raises(ArgumentError, match="an array of numbers"):
        ShardDataset(tmp_path)


def test_write_shards_writes_all_or_nothing(tmp_path):
    uneven = [(np.zeros(2), 0)] * 5 + [(np.zeros(3), 0)]
    for size in (5, 6):
        with pytest.raises(ShapeError, match="example 5 like the first one, float64 of shape"):
            data.write_shards(uneven, tmp_path, size=size)
        assert list(tmp_path.iterdir()) == []
    for size in (0, 2.0, True):
        with pytest.raises(ArgumentError, match="size as a whole number of at least 1"):
            data.write_shards(numbered(), tmp_path, size=size)
    with pytest.raises(ShapeError, match="at least one example"):
        data.write_shards([], tmp_path)
    with pytest.raises(ArgumentError, match="one line"):
        data.write_shards(ArrayDataset(np.zeros((1, 2)), [0], ["a\nb"]), tmp_path)
    data.write_shards(numbered(), tmp_path)
    with pytest.raises(ArgumentError, match="a folder without shards"):
        data.write_shards(numbered(), tmp_path)


# ---------------------------------------------------------------- generated sets


def test_two_moons():
    moons = data.two_moons(501, noise=0, rng=0)
    x, y = moons.images.T
    assert moons.images.dtype == np.float32
    assert np.bincount(moons.labels).tolist() == [251, 250]
    upper = moons.labels == 0
    np.testing.assert_allclose(np.hypot(x, y)[upper], 1, rtol=1e-6)
    np.testing.assert_allclose(np.hypot(x - 1, y - 0.5)[~upper], 1, rtol=1e-6)
    assert y[upper].min() > -1e-6
    assert y[~upper].max() < 0.5 + 1e-6
    assert 0 < upper[:20].sum() < 20  # in random order
    noisy = data.two_moons(20_000, noise=0.2, rng=0)
    assert 0.18 < (np.hypot(*noisy.images.T) - 1)[noisy.labels == 0].std() < 0.22


def test_shapes_are_what_they_are_called():
    pictures = data.shapes(1000, 32, rng=1)
    assert (pictures.images.shape, pictures.images.dtype) == ((1000, 3, 32, 32), np.uint8)
    assert np.bincount(pictures.labels).tolist() == [200] * 5
    assert len(np.unique(pictures.labels[:30])) == 5
    fill, hollow = {}, {}
    for name, label in zip(pictures.classes, range(5)):
        images = pictures.images[pictures.labels == label].astype(float)
        ground = np.median(images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], axis=2)
        inside = (np.abs(images - ground[:, :, None, None]) > 32).mean(1) > 0.5
        assert (inside.sum((1, 2)) > 20).all()  # each is there to be seen
        fills, holes = [], []
        for mask in inside:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            fills.append(mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1))
            middle = mask[int(rows.mean() + 0.5), int(columns.mean() + 0.5)]
            holes.append(not middle)
        fill[name], hollow[name] = np.mean(fills), np.mean(holes)
    assert hollow["ring"] > 0.9
    assert max(hollow[name] for name in ("circle", "square", "cross")) < 0.1
    assert abs(fill["circle"] - np.pi / 4) < 0.05  # of the box around it
    assert fill["triangle"] < fill["square"]
    assert fill["cross"] < fill["circle"]


def test_generated_sets_follow_the_seed_and_refuse_nonsense():
    for make in (data.two_moons, data.shapes):
        first, again, other = (make(20, rng=seed).images for seed in (3, 3, 4))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        for n in (0, 2.0, True):
            with pytest.raises(ArgumentError, match="n as a whole number of at least 1"):
                make(n)
    with pytest.raises(ArgumentError, match="noise as a number of at least 0, got -1"):
        data.two_moons(noise=-1)
    with pytest.raises(ArgumentError, match="size as a whole number of at least 8, got 7"):
        data.shapes(size=7)
    assert data.shapes(1, 8, rng=0).images.shape == (1, 3, 8, 8)


# ---------------------------------------------------------------- views, division, fingerprint


class Lazy:
    """A dataset that counts what is read."""

    def __init__(self, n):
        self.labels = np.arange(n) % 4
        self.classes = tuple("abcd")
        self.read = 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        self.read += 1
        return np.full((1, 2, 2), i, np.uint8), int(self.labels[i])


def test_subset_is_a_view():
    lazy = Lazy(20)
    part = Subset(lazy, [3, 19, 4])
    assert (len(part), part.labels.tolist(), part.classes) == (3, [3, 3, 0], tuple("abcd"))
    assert lazy.read == 0
    assert part[1][0].max() == 19
    assert part[-1][1] == 0
    for index, expected in ((slice(1, None), [19, 4]), ([2, 0], [4, 3]), (np.array([True, False, True]), [3, 4]), ([], [])):
        again = part[index]
        assert again.dataset is lazy
        assert [int(x.max()) for x, _ in again] == expected
        assert again.labels.tolist() == [lazy.labels[i] for i in expected]
    with pytest.raises(IndexError):
        part[3]
    assert Subset([(1, 2)], [0]).labels is None
    for indices, error, message in (
        ([20], ArgumentError, "indices from 0 to 19, got 20 to 20"),
        ([-1], ArgumentError, "got -1 to -1"),
        ([0.5], DtypeError, "whole numbers, got float64"),
        ([True], DtypeError, "got bool"),
        ([[1]], DtypeError, r"int64 of shape \(1, 1\)"),
    ):
        with pytest.raises(error, match=message):
            Subset(lazy, indices)


def test_split_of_a_lazy_dataset():
    lazy = Lazy(80)
    parts = data.split(lazy, [0.6, 0.2, 0.2], rng=0)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[12] * 4, [4] * 4, [4] * 4]
    assert lazy.read == 0
    assert all(isinstance(part, Subset) for part in parts)
    assert sorted(int(x.max()) for part in parts for x, _ in part) == list(range(80))
    arrays = data.split(data.in_memory(lazy), [0.6, 0.2, 0.2], rng=0)
    for part, array in zip(parts, arrays):
        assert np.array_equal(part.labels, array.labels)
        assert np.array_equal(part[0][0], array.images[0])
    halves = data.split(parts[0], [24, 24], rng=1)  # a part of a part
    assert [np.bincount(half.labels).tolist() for half in halves] == [[6] * 4] * 2
    assert halves[0].dataset is lazy


@pytest.mark.parametrize("k", [2, 3, 7, 50])
def test_k_fold(k):
    labels = np.repeat([0, 1], [35, 15])
    dataset = ArrayDataset(np.arange(50.0)[:, None], labels)
    folds = list(data.k_fold(dataset, k, rng=0))
    assert len(folds) == k
    seen = []
    for train, validation in folds:
        assert isinstance(train, ArrayDataset)
        assert sorted([*train.images[:, 0], *validation.images[:, 0]]) == list(range(50))
        assert abs(len(validation) - 50 / k) < 1
        assert abs((validation.labels == 0).sum() - 35 / k) <= 1
        assert (labels[train.images[:, 0].astype(int)] == train.labels).all()
        seen += validation.images[:, 0].tolist()
    assert sorted(seen) == list(range(50))
    again = list(data.k_fold(dataset, k, rng=0))
    assert all(np.array_equal(a[0].images, b[0].images) for a, b in zip(folds, again))


def test_k_fold_of_lazy_datasets_and_errors():
    lazy = Lazy(20)
    assert [len(validation) for _, validation in data.k_fold(lazy, 4, rng=0)] == [5] * 4
    assert lazy.read == 0
    for k, error in ((1, ArgumentError), (21, ArgumentError), (2.0, DtypeError), (True, DtypeError)):
        with pytest.raises(error, match="k_fold: expected k"):  # at once, not with the first pair
            data.k_fold(lazy, k)
    for divide in (data.k_fold, lambda dataset: data.split(dataset, [0.5, 0.5])):
        with pytest.raises(DtypeError, match="or give your dataset labels"):
            divide([(1, 2), (3, 4)])
        lazy.labels = np.zeros(20)
        with pytest.raises(DtypeError, match="labels as 20 whole numbers, one per example, got float64"):
            divide(lazy)


def test_data_hash_is_of_the_content():
    whole = numbered()
    known = data.data_hash(whole)
    assert re.fullmatch(r"[0-9a-f]{64}", known)
    swapped = ArrayDataset(whole.images.astype(">i2"), whole.labels, whole.classes)
    strided = ArrayDataset(np.asfortranarray(whole.images), whole.labels.astype(np.uint8), list(whole.classes))
    for same in (swapped, strided, Subset(whole, np.arange(23)), whole[np.arange(23)]):
        assert data.data_hash(same) == known
    images = whole.images.copy()
    images[7, 0, 0, 0] += 1
    changed = [
        ArrayDataset(images, whole.labels, whole.classes),
        ArrayDataset(whole.images, (whole.labels + 1) % 3, whole.classes),
        ArrayDataset(whole.images, whole.labels, ["a", "b", "d"]),
        ArrayDataset(whole.images, whole.labels),
        ArrayDataset(whole.images.astype(np.int32), whole.labels, whole.classes),
        ArrayDataset(whole.images.reshape(23, 3, 4), whole.labels, whole.classes),
        whole[:22],
        whole[np.arange(23)[::-1]],
    ]
    assert len({known, *map(data.data_hash, changed)}) == 9
    with pytest.raises(DtypeError, match="example 0 as numbers, got str"):
        data.data_hash(["text"])


def test_in_memory(tmp_path):
    lazy = Lazy(6)
    loaded = data.in_memory(lazy)
    assert isinstance(loaded, ArrayDataset)
    assert (loaded.images[:, 0, 0, 0].tolist(), loaded.classes) == (list(range(6)), tuple("abcd"))
    assert loaded.images.dtype == np.uint8
    with pytest.raises(ShapeError, match=r"example 1 like the first one, uint8 of shape \(3, 4, 6\)"):
        data.in_memory(ImageFolder(make_folder(tmp_path, PETS)))
    with pytest.raises(ShapeError, match="at least one example"):
        data.in_memory([])


# ---------------------------------------------------------------- the command


def test_data_command(small_mnist, server, monkeypatch, capsys, nothing_of_this_machine):
    _, _, packed = small_mnist
    monkeypatch.setattr("minidl.cli.data.SETS", {"mnist": (idx.MNIST, "small")})
    monkeypatch.setenv("MINIDL_OFFLINE", "0")
    monkeypatch.setenv("MINIDL_MIRROR", server.url)
    server.files |= {f"/mnist/{name}": content for name, content in packed.items()}
    assert main(["data", "list"]) == 0
    assert re.fullmatch(r"mnist +small +0 MB  not here\n", capsys.readouterr().out)
    assert main(["data", "verify"]) == 1
    out = capsys.readouterr().out
    assert len(re.findall(r"^mnist +missing +.*\.gz$", out, re.M)) == 4
    folder = nothing_of_this_machine / "mnist"
    assert main(["data", "get", "mnist"]) == 0
    assert capsys.readouterr().out.split() == [str(folder / file.name) for file in idx.MNIST.files]
    assert main(["data", "list"]) == 0
    assert f"in {folder}" in capsys.readouterr().out
    assert main(["data", "verify", "mnist"]) == 0
    assert len(re.findall(r"^mnist +ok +.*\.gz$", capsys.readouterr().out, re.M)) == 4
    broken = folder / idx.MNIST.files[1].name
    broken.write_bytes(b"changed")
    assert main(["data", "verify", "--root", str(nothing_of_this_machine)]) == 1
    out = capsys.readouterr().out
    assert re.search(rf"^mnist +damaged +{broken}$", out, re.M)
    assert len(re.findall(r" ok ", out)) == 3


def test_data_command_knows_what_unpacked_files_are(small_cifar, monkeypatch, tmp_path, capsys):
    _, files = small_cifar
    for name in ("CIFAR10", "UNPACKED10", "CIFAR100", "UNPACKED100"):
        monkeypatch.setattr(f"minidl.cli.data.{name}", getattr(cifar, name))
    monkeypatch.setattr("minidl.cli.data.SETS", {"cifar10": (cifar.CIFAR10, "small")})
    write(
        tmp_path / "cifar-10-batches-bin", {f: c for (owner, f), c in files.items() if (owner, f[-4:]) == ("CIFAR10", ".bin")}
    )
    assert main(["data", "verify", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(" ok ") == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data"], "action"),
        (["data", "fly"], "fly"),
        (["data", "get"], "expected the names of data sets, got none. There are mnist, fashion_mnist, cifar10, cifar100"),
        (["data", "get", "cifar"], "got 'cifar'. Did you mean cifar10?"),
        (["data", "get", "mnist"], "mnist: expected the file train-images-idx3-ubyte.gz in the folder"),
    ],
)
def test_data_command_refuses(arguments, words, monkeypatch, capsys):
    monkeypatch.setenv("MINIDL_OFFLINE", "1")
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert words in captured.err
