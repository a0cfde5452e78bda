"""Make minidl/data/mnist_mini.npz, the data set inside the package, from the four original MNIST files."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

SEED = 20
PER_CLASS = {"train": 500, "test": 100}

# MD5 of the original IDX files as they were published, after decompression (gzip itself stores a date and a name).
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

DESCRIPTION = """\
Make the data set that minidl carries inside: 5,000 images of MNIST's training set and 1,000 of its
test set, the same number of every digit, drawn with a fixed seed and shuffled. The four original
files must lie in FOLDER under their own names, with .gz behind them:
train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz.
"""


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped IDX file: two zero bytes, the type (8: uint8), the number of axes, sizes, values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a gzip file, got {error}") from error
    found, expected = hashlib.md5(data).hexdigest(), MD5[path.stem]
    if found != expected:
        raise ValueError(f"{path}: expected the original file with MD5 {expected} (decompressed), got {found}.")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def choose(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``per_class`` examples of every class, in random order."""
    classes = [np.flatnonzero(labels == digit) for digit in range(10)]
    return rng.permutation(np.concatenate([rng.choice(members, per_class, replace=False) for members in classes]))


def make(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the small data set: uint8 images (N, 28, 28) and labels (N,)."""
    rng = np.random.default_rng(SEED)
    arrays = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
        index = choose(labels, PER_CLASS[split], rng)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[index], labels[index]
    return arrays


def main() -> None:
    """Parse the command line, make the data set, write it."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the four original .gz files")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path(__file__).resolve().parent.parent / "minidl" / "data" / "mnist_mini.npz",
        help="where to write the result, a NumPy .npz file (default: %(default)s)",
    )
    arguments = parser.parse_args()
    missing = [f"{name}.gz" for name in MD5 if not (arguments.folder / f"{name}.gz").is_file()]
    if missing:
        parser.error(f"{arguments.folder}: expected the four original MNIST files, missing {', '.join(missing)}")
    if arguments.output.suffix != ".npz" or not arguments.output.parent.is_dir():
        parser.error(f"--output: expected a file name ending in .npz in an existing folder, got {arguments.output}")
    try:
        arrays = make(arguments.folder)
        np.savez_compressed(arguments.output, **arrays)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{arguments.output}: {len(arrays['train_labels'])} train and {len(arrays['test_labels'])} test images,", end=" ")
    print(f"{arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
