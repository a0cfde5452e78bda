"""CIFAR-10 and CIFAR-100, read from the binary version of their archives."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset
from minidl.data.download import Remote, Source, fetch, find
from minidl.errors import ArgumentError

PIXELS = 3 * 32 * 32  # of one image: all red values, all green ones, all blue ones

# Sizes and SHA-256 as TensorFlow Datasets publishes them; those of the unpacked files as torchvision for Ruby does.
CIFAR10 = Source(
    "cifar10",
    (Remote("cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),),
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://cave.cs.toronto.edu/kriz/",
        "https://dataset.bj.bcebos.com/cifar/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
    folders=("cifar-10-batches-bin",),
)
CIFAR100 = Source(
    "cifar100",
    (Remote("cifar-100-binary.tar.gz", 168513733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),),
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://cave.cs.toronto.edu/kriz/",
        "https://dataset.bj.bcebos.com/cifar/",
    ),
    folders=("cifar-100-binary",),
)

# What the archives unpack to: the files of each part, with their SHA-256.
UNPACKED10 = {
    "train": {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    },
    "test": {"test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"},
}
UNPACKED100 = {
    "train": {"train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"},
    "test": {"test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"},
}

CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
_COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2"""
FINE, COARSE = tuple(_FINE.split()), tuple(_COARSE.split())


def cifar10(split: str = "train", root: Any = None) -> ArrayDataset:
    """Small photographs of ten kinds of things: 50,000 to train with or 10,000 to test with, uint8 of shape (3, 32, 32).

    The archive of the binary version is downloaded once (170 MB) to minidl's folder (``MINIDL_HOME``), checked, and read
    where it lies; the folder ``cifar-10-batches-bin`` that it unpacks to is used as well.

    Args:
        split: "train" or "test".
        root: a folder that holds a folder ``cifar10`` with the archive, or the archive or its unpacked folder itself; what is
            missing is put there. None: minidl's own folder.

    Raises:
        FileNotFoundError: the archive is not here, and ``MINIDL_OFFLINE`` is set.
        ConnectionError: no mirror had it.

    Source: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    >>> import minidl as md
    >>> train = md.data.cifar10("train")  # doctest: +SKIP
    >>> train.classes[train[0][1]]  # doctest: +SKIP
    'frog'
    """
    images, labels = _load(CIFAR10, UNPACKED10, split, root, 1)
    return ArrayDataset(images, labels[:, 0], CLASSES10)


def cifar100(split: str = "train", root: Any = None, labels: str = "fine") -> ArrayDataset:
    """Small photographs of 100 kinds of things: 50,000 to train with or 10,000 to test with, uint8 of shape (3, 32, 32).

    Downloaded once (169 MB), found and checked as ``cifar10`` is; unpacked, its folder is ``cifar-100-binary``.

    Args:
        split: "train" or "test".
        root: a folder that holds a folder ``cifar100`` with the archive, or the archive or its unpacked folder itself; what
            is missing is put there. None: minidl's own folder.
        labels: "fine" for the 100 classes, "coarse" for the 20 groups of five that they form.

    Raises:
        FileNotFoundError: the archive is not here, and ``MINIDL_OFFLINE`` is set.
        ConnectionError: no mirror had it.

    Source: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    >>> import minidl as md
    >>> train = md.data.cifar100("train", labels="coarse")  # doctest: +SKIP
    >>> len(train.classes)  # doctest: +SKIP
    20
    """
    if labels not in ("coarse", "fine"):
        raise ArgumentError.of("cifar100", "labels as 'fine' or 'coarse'", repr(labels))
    images, numbers = _load(CIFAR100, UNPACKED100, split, root, 2)
    return ArrayDataset(images, numbers[:, ("coarse", "fine").index(labels)], COARSE if labels == "coarse" else FINE)


def unpacked(source: Source, files: dict[str, str], root: Any = None) -> list[Path]:
    """The unpacked files of one part, or nothing where not all of them are here."""
    paths = [find(source, Remote(name, 0, sha256), root) for name, sha256 in files.items()]
    return [path for path in paths if path is not None] if None not in paths else []


def _load(
    source: Source, parts: dict[str, dict[str, str]], split: str, root: Any, label_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N, label_bytes) of one part, from the archive or from its unpacked files."""
    if split not in parts:
        raise ArgumentError.of(source.name, "split as 'train' or 'test'", repr(split))
    archive = find(source, source.files[0], root)
    paths = [] if archive is not None else unpacked(source, parts[split], root)
    if paths:
        contents = [path.read_bytes() for path in paths]
    else:
        archive = archive or fetch(source, source.files[0], root)
        contents = read_members(archive, [f"{source.folders[0]}/{name}" for name in parts[split]])
        paths = [archive / name for name in parts[split]]
    pieces = [records(content, path, label_bytes) for content, path in zip(contents, paths)]
    return np.concatenate([images for images, _ in pieces]), np.concatenate([labels for _, labels in pieces])


def read_members(archive: Path, names: list[str]) -> list[bytes]:
    """The contents of these files in a .tar.gz archive; nothing is unpacked to the disk.

    Raises:
        ArgumentError: an archive that is damaged, cut short or without one of the files.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name in names:
                    contents[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
                    if len(contents) == len(names):
                        break  # the rest need not be unpacked
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError.of("cifar", f"a whole .tar.gz archive in {archive}", str(error)) from error
    for name in names:
        if name not in contents:
            raise ArgumentError.of("cifar", f"the file {name} in {archive}", "an archive without it")
    return [contents[name] for name in names]


def records(content: bytes, path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N, label_bytes) of a file in CIFAR's binary format: labels, then pixels, per image.

    Raises:
        ArgumentError: a length that is no whole number of images.
    """
    each = label_bytes + PIXELS
    if not content or len(content) % each:
        expected = f"{each} bytes per image in {path}"
        raise ArgumentError.of("cifar", expected, f"{len(content):,} bytes", "The file is cut short or damaged.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, each)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, :label_bytes]
