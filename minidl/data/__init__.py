"""Data: arrays of examples, and the loader that makes batches of them. Arrays in, arrays out; tensors come later."""

from minidl.data.dataset import ArrayDataset, split
from minidl.data.loader import DataLoader
from minidl.data.mnist import mnist_mini

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "mnist_mini",
    "split",
]
