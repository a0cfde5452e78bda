"""The embedded data set, datasets and their division, the loader."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import data, memory
from minidl.data import ArrayDataset, DataLoader, split
from minidl.errors import ArgumentError, DtypeError, ShapeError

PACKAGE = Path(data.__file__).parent
SCRIPT = Path(__file__).parent.parent / "scripts" / "make_mnist_mini.py"


# ---------------------------------------------------------------- mnist_mini


def test_mnist_mini_is_stratified():
    train, test = data.mnist_mini()
    assert np.array_equal(np.bincount(train.labels), [500] * 10)
    assert np.array_equal(np.bincount(test.labels), [100] * 10)
    assert (train.images.shape, train.images.dtype, train.labels.dtype) == ((5000, 1, 28, 28), np.uint8, np.int64)
    assert (test.images.shape, len(train), len(test)) == ((1000, 1, 28, 28), 5000, 1000)
    assert train.classes == test.classes == tuple("0123456789")


def test_mnist_mini_is_shuffled_and_has_no_repeats():
    train, test = data.mnist_mini()
    assert all(len(np.unique(train.labels[i : i + 100])) == 10 for i in range(0, 5000, 100))
    images = {image.tobytes() for part in (train, test) for image in part.images}
    assert len(images) == 6000


def test_mnist_mini_looks_like_digits():
    train, _ = data.mnist_mini()
    assert train.images.min() == 0
    assert train.images.max() == 255
    assert (train.images[:, :, [0, -1], [0, -1]] == 0).all()  # the corners are paper
    assert 0.12 < train.images.mean() / 255 < 0.14  # MNIST's mean is 0.1307


def test_mnist_mini_gives_new_arrays_each_time():
    first, second = data.mnist_mini()[0], data.mnist_mini()[0]
    first.images[:] = 0
    assert second.images.any()


def test_mnist_mini_is_small_and_carries_its_licence():
    assert sum(path.stat().st_size for path in PACKAGE.glob("mnist*")) < 2_000_000
    text = (PACKAGE / "MNIST-LICENSE.txt").read_text()
    for words in ("CC BY-SA 3.0", "Yann LeCun", "Corinna Cortes", "Christopher J. C. Burges", "What was changed"):
        assert words in text


def test_mnist_mini_is_the_committed_file():
    digest = hashlib.sha256(b"".join(part.images.tobytes() + part.labels.tobytes() for part in data.mnist_mini())).hexdigest()
    assert digest == "6aa1a92677b2e3759b258f4344dcbd0ebd928ec00ea1960f8c7c3b6f5d873d9c"


def _script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not SCRIPT.exists(), reason="runs in the repository only")
def test_script_says_what_is_wrong(tmp_path):
    absent = _script(tmp_path)
    assert absent.returncode == 2
    assert "missing train-images-idx3-ubyte.gz" in absent.stderr
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"no gzip")
    broken = _script(tmp_path, "--output", tmp_path / "out.npz")
    assert broken.returncode == 2
    assert "train-images-idx3-ubyte.gz: expected a gzip file" in broken.stderr
    assert not (tmp_path / "out.npz").exists()
    assert "FOLDER" in _script("--help").stdout


# ---------------------------------------------------------------- ArrayDataset


def pets(n=10):
    return ArrayDataset(np.arange(n * 3 * 4 * 4).reshape(n, 3, 4, 4) % 256, np.arange(n) % 2, ["cat", "dog"])


def test_dataset_items_and_subsets():
    dataset = pets()
    image, label = dataset[-1]
    assert np.array_equal(image, dataset.images[9])
    assert label == 1
    assert isinstance(label, int)
    assert len(list(dataset)) == 10
    for index in (slice(2, 5), [2, 3, 4], np.arange(10) // 3 == 1):
        part = dataset[index]
        assert isinstance(part, ArrayDataset)
        assert part.classes == ("cat", "dog")
    assert np.array_equal(dataset[[7, 2]].labels, dataset.labels[[7, 2]])
    assert len(dataset[[]]) == 0
    with pytest.raises(IndexError):
        dataset[10]


def test_dataset_labels_become_int64_and_images_stay():
    images = np.zeros((2, 4), np.float32)
    dataset = ArrayDataset(images, np.array([3, 1], np.uint8))
    assert dataset.images is images
    assert dataset.labels.dtype == np.int64
    assert dataset.classes is None
    assert len(ArrayDataset(np.empty((0, 1, 4, 4), np.uint8), [])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "classes", "error", "message"),
    [
        (np.zeros((3, 2)), [0, 1], None, ShapeError, r"ArrayDataset: expected 3 labels, one per image, got shape \(2,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2), int), None, ShapeError, "one per image"),
        (np.zeros((3, 2)), [0.0, 1.0, 2.0], None, DtypeError, "labels as integers, got float64"),
        (np.zeros((2, 2)), [0, 2], ["a", "b"], ArgumentError, "labels from 0 to 1 for 2 classes, got 0 to 2"),
        (np.zeros((2, 2)), [-1, 1], ["a", "b"], ArgumentError, "got -1 to 1"),
        (np.array(["a", "b"]), [0, 1], None, DtypeError, "images as numbers"),
        ([[1, 2], [3]], [0, 1], None, DtypeError, "images as a NumPy array"),
        (np.float32(3), [0], None, ShapeError, "one row per example"),
    ],
)
def test_dataset_errors(images, labels, classes, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(images, labels, classes)


# ---------------------------------------------------------------- split


def test_split_gives_every_class_its_share():
    train, _ = data.mnist_mini()
    parts = split(train, [0.8, 0.15, 0.05], rng=3)
    assert [len(part) for part in parts] == [4000, 750, 250]
    for part, share in zip(parts, (400, 75, 25)):
        assert np.array_equal(np.bincount(part.labels), [share] * 10)
        assert len(np.unique(part.labels[:60])) == 10  # in random order


def test_split_of_uneven_classes():
    labels = np.repeat([0, 1, 2], [70, 25, 5])
    dataset = ArrayDataset(np.arange(100.0)[:, None], labels)
    first, second = split(dataset, [60, 40], rng=0)
    assert [len(first), len(second)] == [60, 40]
    assert np.abs(np.bincount(first.labels) - [42, 15, 3]).max() <= 1
    assert sorted([*first.images[:, 0], *second.images[:, 0]]) == list(range(100))
    assert (labels[first.images[:, 0].astype(int)] == first.labels).all()


def test_split_follows_the_seed():
    orders = [split(pets(50), [0.5, 0.5], rng=seed)[0].images[:, 0, 0, 0].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("sizes", [[0.5, 0.4], [3, 4], [1.5, -0.5], 0.5, ["a"], []])
def test_split_errors(sizes):
    with pytest.raises(ArgumentError, match="split: expected"):
        split(pets(), sizes)


def test_split_takes_a_dataset():
    with pytest.raises(DtypeError, match=r"split: expected an ArrayDataset, got tuple\. Make one"):
        split((np.zeros((4, 2)), np.zeros(4, int)), [0.5, 0.5])


def test_split_into_empty_parts():
    assert [len(part) for part in split(pets(), [10, 0])] == [10, 0]
    assert [len(part) for part in split(pets(10)[[]], [0.5, 0.5])] == [0, 0]


# ---------------------------------------------------------------- DataLoader


def test_uint8_images_become_float32_between_0_and_1():
    images = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    (x,) = DataLoader(images, batch_size=4)
    assert x.dtype == np.float32
    assert np.array_equal(x, images.astype(np.float32) / np.float32(255))
    assert (x.min(), x.max()) == (0, 1)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_images_come_channels_last_in_memory(dtype, shuffle):
    images = (np.random.default_rng(0).random((5, 3, 4, 6)) * 200).astype(dtype)
    for stored in (images, memory.channels_last(images).transpose(0, 3, 1, 2), images[:, ::-1]):
        for x, rows in DataLoader((stored, np.arange(5)), batch_size=2, shuffle=shuffle, rng=0):
            assert x.dtype == np.float32
            assert x.shape[1:] == (3, 4, 6)
            assert x.transpose(0, 2, 3, 1).flags.c_contiguous
            scale = 255 if dtype is np.uint8 else 1
            assert np.array_equal(x, stored[rows].astype(np.float32) / np.float32(scale))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.uint8, np.int64),
        (np.int32, np.int64),
        (np.int64, np.int64),
        (np.bool_, np.bool_),
    ],
)
def test_dtypes_of_other_arrays(given, expected):
    for shape in ((6,), (6, 2), (6, 4, 4)):
        array = np.arange(np.prod(shape)).reshape(shape).astype(given)
        x = next(iter(DataLoader(array, batch_size=6)))
        assert x.dtype == expected
        assert np.array_equal(x, array.astype(expected))


def test_floats_take_the_default_dtype():
    with md.use_dtype("float64"):
        x, y = next(iter(DataLoader((np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.float32)))))
    assert (x.dtype, y.dtype) == (np.float64, np.float64)


def test_batches_are_new_arrays():
    x, y = np.ones((4, 3), np.float32), np.ones(4, np.int64)
    for bx, by in DataLoader((x, y), batch_size=2):
        bx[:] = 0
        by[:] = 0
    assert x.all()
    assert y.all()


@pytest.mark.parametrize(
    ("n", "size", "drop", "sizes"),
    [(7, 3, False, [3, 3, 1]), (7, 3, True, [3, 3]), (6, 3, False, [3, 3]), (2, 5, True, []), (0, 4, False, [])],
)
def test_number_and_sizes_of_batches(n, size, drop, sizes):
    for shuffle in (False, True):
        loader = DataLoader((np.arange(n), np.arange(n)), batch_size=size, drop_last=drop, shuffle=shuffle)
        assert len(loader) == len(sizes)
        assert [len(x) for x, _ in loader] == sizes


def test_order_without_shuffle_and_rows_belong_together():
    loader = DataLoader((np.arange(10), np.arange(10) * 2.0, np.arange(10) % 2 == 0), batch_size=4)
    assert np.concatenate([a for a, _, _ in loader]).tolist() == list(range(10))
    for a, b, c in DataLoader(loader.arrays, batch_size=4, shuffle=True, rng=1):
        assert (b == 2 * a).all()
        assert (c == (a % 2 == 0)).all()


def _orders(loader, epochs=3):
    return [np.concatenate(list(loader)).tolist() for _ in range(epochs)]


def test_same_seed_same_batches_and_a_new_order_each_epoch():
    array = np.arange(50)
    one, two, other = (_orders(DataLoader(array, batch_size=8, shuffle=True, rng=seed)) for seed in (5, 5, 6))
    assert one == two
    assert one != other
    assert len({tuple(order) for order in one}) == 3
    assert all(sorted(order) == list(range(50)) for order in one)


def test_generator_and_global_seed():
    array = np.arange(50)
    rng = np.random.default_rng(5)
    assert _orders(DataLoader(array, shuffle=True, rng=rng)) == _orders(DataLoader(array, shuffle=True, rng=5))
    loader = DataLoader(array, shuffle=True)  # made before the seed is set: counts all the same
    md.manual_seed(7)
    first = _orders(loader)
    md.manual_seed(7)
    assert _orders(loader) == first


def test_standardisation():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    scaled = images / 255
    mean, std = scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))
    x, y = next(iter(DataLoader((images, np.arange(50)), batch_size=50, mean=mean, std=std)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, (scaled - mean[:, None, None]) / std[:, None, None], atol=1e-5)
    assert y.tolist() == list(range(50))
    x = next(iter(DataLoader(images, batch_size=50, mean=0.5)))
    np.testing.assert_allclose(x, scaled - 0.5, atol=1e-6)
    table = np.random.default_rng(0).normal(3, 2, (40, 2))
    x = next(iter(DataLoader(table, batch_size=40, mean=table.mean(0), std=table.std(0))))
    np.testing.assert_allclose([x.mean(0), x.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    x = next(iter(DataLoader(table[:, 0], batch_size=40, std=2)))
    np.testing.assert_allclose(x, table[:, 0] / 2, rtol=1e-6)


def test_takes_datasets_lists_and_tensors():
    dataset = pets()
    x, y = next(iter(DataLoader(dataset, batch_size=3)))
    assert x.dtype == y.dtype == np.int64  # whole numbers that are not uint8 are no images
    assert y.tolist() == [0, 1, 0]
    assert next(iter(DataLoader([[[1.0, 2.0], [3.0, 4.0]], [5, 6]])))[1].tolist() == [5, 6]
    assert isinstance(next(iter(DataLoader(md.Tensor([[1.0], [2.0]])))), np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros(3), np.zeros(4)), {}, ShapeError, "DataLoader: expected arrays of one length, got 3 and 4"),
        ((), {}, ArgumentError, "at least one array, got none"),
        ((np.zeros(3),), {"batch_size": 0}, ArgumentError, "batch_size of at least 1, got 0"),
        ((np.zeros(3),), {"batch_size": 2.0}, DtypeError, "batch_size as an integer"),
        ((np.zeros(3),), {"batch_size": True}, DtypeError, "batch_size as an integer"),
        ((np.array(["a"]),), {}, DtypeError, "array 0 as numbers"),
        ((np.zeros(1), np.array([object()])), {}, DtypeError, "array 1 as numbers"),
        ((np.zeros(1, complex),), {}, DtypeError, "complex128"),
        (np.float32(1), {}, ShapeError, "one row per example"),
        (np.zeros((3, 2), int), {"mean": 1}, DtypeError, "floats or uint8 images"),
        (np.zeros((3, 2)), {"mean": [1, 2, 3]}, ShapeError, "mean as a number or 2 of them"),
        (np.zeros((3, 2)), {"std": 0}, ArgumentError, "positive std"),
        (np.zeros((3, 2)), {"std": float("nan")}, ArgumentError, "positive std"),
        (np.zeros(3), {"rng": "seed"}, DtypeError, "rng: expected"),
    ],
)
def test_loader_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(arguments, **options)


def test_data_works_on_arrays_only():
    allowed = {"minidl", "minidl.errors", "minidl.random", "minidl.backend"}
    for path in PACKAGE.glob("*.py"):
        for package, names in re.findall(r"^from (minidl[\w.]*) import (.+)$", path.read_text(), re.M):
            assert package in allowed or package.startswith("minidl.data"), f"{path.name} imports {package}"
            assert package != "minidl" or names == "memory", f"{path.name} imports {names}"
