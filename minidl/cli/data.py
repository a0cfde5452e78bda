"""Data sets that are downloaded by name: list them, get them, verify the files that are here.

Files go to the folder that MINIDL_HOME names, or to the platform's cache folder. MINIDL_MIRROR is a base URL that is asked
first; MINIDL_OFFLINE=1 keeps minidl from using the network.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from minidl.data.cifar import CIFAR10, CIFAR100, UNPACKED10, UNPACKED100, unpacked
from minidl.data.download import Remote, Source, fetch, find, folder_of
from minidl.data.idx import FASHION_MNIST, MNIST, keras_mnist
from minidl.errors import ArgumentError

SETS = {
    "mnist": (MNIST, "60,000 + 10,000 handwritten digits, 28x28"),
    "fashion_mnist": (FASHION_MNIST, "60,000 + 10,000 pictures of clothes, 28x28"),
    "cifar10": (CIFAR10, "50,000 + 10,000 photographs in 10 classes, 32x32, colour"),
    "cifar100": (CIFAR100, "50,000 + 10,000 photographs in 100 classes, 32x32, colour"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which data sets, where."""
    parser.add_argument("action", choices=("list", "get", "verify"), help="what to do")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"data sets: {', '.join(SETS)}; all of them for list and verify"
    )
    parser.add_argument("--root", metavar="DIR", help="folder of the data sets, or one that torchvision filled")


def run(options: argparse.Namespace) -> int:
    """Print one line per data set or file; exit code 1 when verify finds a file damaged or missing."""
    for name in options.names:
        if name not in SETS:
            near = difflib.get_close_matches(name, SETS, 1)
            raise ArgumentError(
                f"expected the name of a data set, got {name!r}." + (f" Did you mean {near[0]}?" if near else "")
            )
    if options.action == "get" and not options.names:
        raise ArgumentError(f"get: expected the names of data sets, got none. There are {', '.join(SETS)}.")
    names = options.names or list(SETS)
    return {"list": _list, "get": _get, "verify": _verify}[options.action](names, options.root)


def _list(names: list[str], root: str | None) -> int:
    for name in names:
        source, text = SETS[name]
        paths = _found(source, root)
        size = sum(file.size for file in source.files) / 1e6
        place = f"in {paths[0].parent}" if paths else "not here"
        print(f"{name:<14} {text:<58} {size:4.0f} MB  {place}")
    return 0


def _get(names: list[str], root: str | None) -> int:
    for name in names:
        source = SETS[name][0]
        for path in _found(source, root) or [fetch(source, file, root) for file in source.files]:
            print(path)
    return 0


def _verify(names: list[str], root: str | None) -> int:
    bad = 0
    for name in names:
        source = SETS[name][0]
        whole = _found(source, root)  # of another library perhaps, in other files
        lines = [("ok", path) for path in whole] if whole else [_state(source, file, root) for file in source.files]
        for verdict, path in lines:
            print(f"{name:<14} {verdict:<8} {path}")
            bad += verdict != "ok"
    return 1 if bad else 0


def _state(source: Source, file: Remote, root: str | None) -> tuple[str, Path]:
    """What is to be said of one file, and where it is or should be."""
    found, wanted = find(source, file, root), folder_of(source, root) / file.name
    return ("ok", found) if found else ("damaged" if wanted.exists() else "missing", wanted)


def _found(source: Source, root: str | None) -> list[Path]:
    """The checked files of a data set on this machine; none where one of them is missing."""
    paths = [find(source, file, root) for file in source.files]
    if None not in paths:
        return [path for path in paths if path is not None]
    if source is MNIST and root is None:
        return keras_mnist()
    if source in (CIFAR10, CIFAR100):
        parts = UNPACKED10 if source is CIFAR10 else UNPACKED100
        return unpacked(source, {**parts["train"], **parts["test"]}, root)
    return []
