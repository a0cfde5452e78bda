"""MNIST, Fashion-MNIST and the small MNIST inside of the package; the IDX format of their files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset
from minidl.data.download import Remote, Source, fetch, find, keras_folder, matches, open_packed
from minidl.errors import ArgumentError

PARTS = {"train": "train", "test": "t10k"}
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Sizes and SHA-256 as TensorFlow Datasets publishes them; of the content computed from the files, or MD5 as published.
MNIST = Source(
    "mnist",
    (
        Remote(
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        Remote(
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        Remote(
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        Remote(
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    folders=("MNIST/raw",),
)
KERAS_MNIST = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # SHA-256 of Keras's mnist.npz

FASHION_MNIST = Source(
    "fashion_mnist",
    (
        Remote(
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
        ),
        Remote(
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "md5:9018921c3c673c538a1fc5bad174d6f9",
        ),
        Remote(
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "md5:8181f5470baa50b63fa0f6fddb340f0a",
        ),
        Remote(
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "md5:15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    folders=("FashionMNIST/raw",),
    keras="fashion-mnist",
)

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def mnist(split: str = "train", root: Any = None) -> ArrayDataset:
    """Handwritten digits: 60,000 images to train with or 10,000 to test with, uint8 of shape (1, 28, 28).

    The files are downloaded once (12 MB) to minidl's folder (``MINIDL_HOME``). What torchvision (in ``./data``) or Keras has
    downloaded is used as well. Every file's hash is checked.

    Args:
        split: "train" or "test".
        root: a folder that holds a folder ``mnist`` with the four files, or one that torchvision filled; what is missing is
            put there. None: minidl's own folder.

    Raises:
        FileNotFoundError: a file is not here, and ``MINIDL_OFFLINE`` is set.
        ConnectionError: no mirror had it.

    Source: Yann LeCun, Corinna Cortes and Christopher J. C. Burges, CC BY-SA 3.0.

    >>> import minidl as md
    >>> train, test = md.data.mnist("train"), md.data.mnist("test")  # doctest: +SKIP
    >>> test  # doctest: +SKIP
    ArrayDataset(10000 images of shape (1, 28, 28), uint8, 10 classes)
    """
    part = _part("mnist", split)
    files = [file for file in MNIST.files if file.name.startswith(part)]
    if root is None and any(find(MNIST, file) is None for file in files):
        for path in keras_mnist():
            with np.load(path, allow_pickle=False) as stored:
                return ArrayDataset(stored[f"x_{split}"][:, None], stored[f"y_{split}"], DIGITS)
    return _read(MNIST, files, root, DIGITS)


def fashion_mnist(split: str = "train", root: Any = None) -> ArrayDataset:
    """Pictures of ten kinds of clothes: 60,000 to train with or 10,000 to test with, uint8 of shape (1, 28, 28).

    Of the same form as ``mnist``, and harder. Downloaded once (31 MB), found and checked as ``mnist`` is.

    Args:
        split: "train" or "test".
        root: a folder that holds a folder ``fashion_mnist`` with the four files, or one that torchvision filled; what is
            missing is put there. None: minidl's own folder.

    Raises:
        FileNotFoundError: a file is not here, and ``MINIDL_OFFLINE`` is set.
        ConnectionError: no mirror had it.

    Source: Han Xiao, Kashif Rasul and Roland Vollgraf, "Fashion-MNIST", https://arxiv.org/abs/1708.07747, MIT licence.

    >>> import minidl as md
    >>> train = md.data.fashion_mnist("train")  # doctest: +SKIP
    >>> train.classes[train[0][1]]  # doctest: +SKIP
    'Ankle boot'
    """
    part = _part("fashion_mnist", split)
    files = [file for file in FASHION_MNIST.files if file.name.startswith(part)]
    return _read(FASHION_MNIST, files, root, CLOTHES)


def mnist_mini() -> tuple[ArrayDataset, ArrayDataset]:
    """6,000 handwritten digits from MNIST: 5,000 to train with and 1,000 to test with.

    Every digit appears 500 times in the first part and 100 times in the second, in random order. The
    images are uint8 of shape (N, 1, 28, 28), 0 for paper and 255 for ink; the labels are int64. They lie
    in the package: nothing is downloaded. ``DataLoader`` turns them into floats between 0 and 1.

    Source: MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, CC BY-SA 3.0 (see
    MNIST-LICENSE.txt beside this file).

    >>> import minidl as md
    >>> train, test = md.data.mnist_mini()
    >>> train
    ArrayDataset(5000 images of shape (1, 28, 28), uint8, 10 classes)
    >>> image, label = test[0]
    >>> image.shape, test.labels.shape
    ((1, 28, 28), (1000,))
    """
    with np.load(Path(__file__).with_name("mnist_mini.npz"), allow_pickle=False) as stored:
        train, test = (
            ArrayDataset(stored[f"{part}_images"][:, None], stored[f"{part}_labels"], DIGITS) for part in ("train", "test")
        )
    return train, test


def read_idx(path: Any) -> np.ndarray:
    """The array in a file of the IDX format, packed with gzip or not, in the machine's own byte order.

    The format: two zero bytes, the type, the number of axes, their sizes (4 bytes each, highest first), the values.

    Raises:
        ArgumentError: a file that is no IDX file, or is cut short, damaged or too long.

    Source: http://yann.lecun.com/exdb/mnist/

    >>> import pathlib, tempfile
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     md.data.read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    try:
        with open_packed(Path(path)) as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError.of("read_idx", f"a whole gzip file in {path}", str(error)) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES or len(data) < 4 + 4 * data[3]:
        raise ArgumentError.of("read_idx", f"an IDX file in {path}", f"{len(data)} bytes that begin with {data[:4].hex(' ')}")
    dtype, axes = np.dtype(TYPES[data[2]]), data[3]
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", axes, 4))
    count = int(np.prod(shape, dtype=object)) if shape else 1
    start = 4 + 4 * axes
    if len(data) - start != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize:,} bytes of values in {path}, for shape {shape}"
        raise ArgumentError.of("read_idx", expected, f"{len(data) - start:,}", "The file is cut short or damaged.")
    return np.frombuffer(data, dtype, count, start).reshape(shape).astype(dtype.newbyteorder("="))


def keras_mnist() -> list[Path]:
    """The one file in which Keras keeps MNIST, if it is here and whole."""
    path = keras_folder() / "mnist.npz"
    return [path] if matches(path, KERAS_MNIST) else []


def _part(op: str, split: str) -> str:
    if split not in PARTS:
        raise ArgumentError.of(op, "split as 'train' or 'test'", repr(split))
    return PARTS[split]


def _read(source: Source, files: list[Remote], root: Any, classes: tuple[str, ...]) -> ArrayDataset:
    images, labels = (read_idx(fetch(source, file, root)) for file in files)
    return ArrayDataset(images[:, None], labels, classes)
