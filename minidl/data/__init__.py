"""Data: arrays of examples, and the loader that makes batches of them. Arrays in, arrays out; tensors come later."""

from minidl.data import transforms
from minidl.data.cifar import cifar10, cifar100
from minidl.data.dataset import ArrayDataset, Subset, data_hash, in_memory
from minidl.data.folder import ImageFolder
from minidl.data.generated import shapes, two_moons
from minidl.data.gpu import to_gpu
from minidl.data.idx import fashion_mnist, mnist, mnist_mini, read_idx
from minidl.data.loader import DataLoader
from minidl.data.samplers import (
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    balanced_weights,
)
from minidl.data.shards import ShardDataset, write_shards
from minidl.data.splits import k_fold, split
from minidl.data.table import csv_dataset
from minidl.data.workers import WorkerError

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "ImageFolder",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "ShardDataset",
    "Subset",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "WorkerError",
    "balanced_weights",
    "cifar10",
    "cifar100",
    "csv_dataset",
    "data_hash",
    "fashion_mnist",
    "in_memory",
    "k_fold",
    "mnist",
    "mnist_mini",
    "read_idx",
    "shapes",
    "split",
    "to_gpu",
    "transforms",
    "two_moons",
    "write_shards",
]
