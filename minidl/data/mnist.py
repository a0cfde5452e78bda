"""The data set that comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidl.data.dataset import ArrayDataset


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
    classes = tuple("0123456789")
    with np.load(Path(__file__).with_name("mnist_mini.npz"), allow_pickle=False) as stored:
        train, test = (
            ArrayDataset(stored[f"{part}_images"][:, None], stored[f"{part}_labels"], classes) for part in ("train", "test")
        )
    return train, test
